from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..modeling import Albert, Layer
from .base import Executor, row_in_grid

#: How OpenVINO calls the forms of GELU.
GELU = {"gelu": "erf", "gelu_new": "tanh"}


class OpenVinoExecutor(Executor):
    """Run the layer with OpenVINO on a CPU.

    The graph of one layer is built from its weights, compiled in hundredths of a second, and run
    again and again; batch and length are free. Sums and LayerNorm stay in float32 whatever the
    precision. In int8 the weights are rounded once, row by row, and what they are multiplied with
    is rounded on the way, for each piece anew; so there is nothing to calibrate.
    """

    def __init__(self, model: Albert, precision: str, threads: int):
        """Compile the layers of a model.

        model (Albert): The encoder, in float32 on the CPU.
        precision (str): "float32", "bfloat16" or "int8".
        threads (int): How many threads to use.
        """
        import openvino

        self.model = model
        self._tensor = openvino.Tensor
        core = openvino.Core()
        # Workers share a machine: pinned to cores, all would be on the same ones
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
        }
        if precision == "int8":
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(model.config.hidden_size)
        self._requests = {
            layer: core.compile_model(
                layer_graph(layer, model.config.hidden_act, precision == "int8"), "CPU", settings
            ).create_infer_request()
            for layer in dict.fromkeys(model.layers_by_depth())
        }

    def __call__(self, hidden: Tensor, lengths: np.ndarray) -> Tensor:
        B, S, H = len(lengths), int(lengths.max()), hidden.shape[1]
        rows = torch.from_numpy(row_in_grid(lengths))  # (P,)
        padded = torch.zeros(B * S, H).index_copy_(0, rows, hidden)  # (B * S, H)
        grids = [padded.view(B, S, H).numpy(), np.empty((B, S, H), dtype=np.float32)]
        now, then = (self._tensor(grid, shared_memory=True) for grid in grids)
        unseen = np.arange(S) >= lengths[:, None]  # (B, S)
        mask = np.where(unseen, np.float32(-1e9), np.float32(0))[:, None, None]  # (B, 1, 1, S)
        for request in self._requests.values():
            request.set_input_tensor(1, self._tensor(mask, shared_memory=False))
        for layer in self.model.layers_by_depth():
            request = self._requests[layer]
            request.set_input_tensor(0, now)
            request.set_output_tensor(0, then)
            request.infer()
            now, then = then, now
        return torch.from_numpy(now.data).view(B * S, H).index_select(0, rows)  # (P, H)


def layer_graph(layer: Layer, hidden_act: str, int8: bool) -> Any:
    """Write `Layer.forward` down as an OpenVINO graph.

    layer (Layer): The layer; its weights become constants.
    hidden_act (str): The activation function, as in AlbertConfig.
    int8 (bool): Round the weights of the matrix products to eight bits.
    RETURNS (openvino.Model): Hidden states (B, S, H) and what to add to the attention scores,
        (B, 1, 1, S) -> hidden states (B, S, H).
    """
    import openvino
    import openvino.opset13 as ops

    A, H = layer.num_heads, layer.qkv.in_features

    def shape(*sizes: int) -> Any:
        return ops.constant(np.array(sizes, dtype=np.int64))

    def linear(x: Any, part: nn.Linear) -> Any:
        weight = numpy(part.weight)  # (out, in)
        if int8:
            scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-12) / 127  # (out, 1)
            whole = ops.constant(np.round(weight / scale).astype(np.int8))
            product = ops.multiply(ops.convert(whole, np.float32), ops.constant(scale))
        else:
            product = ops.constant(weight)
        return ops.add(ops.matmul(x, product, False, True), ops.constant(numpy(part.bias)))

    def norm(x: Any, part: nn.LayerNorm) -> Any:
        x = ops.mvn(x, shape(-1), True, part.eps, "inside_sqrt")
        return ops.add(
            ops.multiply(x, ops.constant(numpy(part.weight))), ops.constant(numpy(part.bias))
        )

    hidden = ops.parameter(openvino.PartialShape([-1, -1, H]), np.float32, name="hidden")
    mask = ops.parameter(openvino.PartialShape([-1, 1, 1, -1]), np.float32, name="mask")

    qkv = linear(hidden, layer.qkv)  # (B, S, 3H)
    qkv = ops.reshape(qkv, shape(0, 0, 3 * A, H // A), True)  # (B, S, 3A, H/A)
    qkv = ops.transpose(qkv, shape(0, 2, 1, 3))  # (B, 3A, S, H/A)
    query, key, value = ops.split(qkv, ops.constant(1), 3).outputs()  # 3 x (B, A, S, H/A)
    mixed = ops.scaled_dot_product_attention(query, key, value, mask)  # (B, A, S, H/A)
    mixed = ops.transpose(mixed, shape(0, 2, 1, 3))  # (B, S, A, H/A)
    mixed = ops.reshape(mixed, shape(0, 0, H), True)  # (B, S, H)

    mixed = linear(mixed, layer.attention_out)  # (B, S, H)
    between = norm(ops.add(hidden, mixed), layer.attention_norm)  # (B, S, H)
    inner = linear(between, layer.ffn_in)  # (B, S, F)
    inner = ops.relu(inner) if hidden_act == "relu" else ops.gelu(inner, GELU[hidden_act])
    inner = linear(inner, layer.ffn_out)  # (B, S, H)
    return openvino.Model([norm(ops.add(between, inner), layer.ffn_norm)], [hidden, mask])


def numpy(weight: Tensor) -> np.ndarray:
    return weight.detach().numpy()
