from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modeling import Albert, Layer
from .base import Executor, row_in_grid

#: How OpenVINO calls the forms of GELU.
GELU = {"gelu": "erf", "gelu_new": "tanh"}


class OpenVinoExecutor(Executor):
    """Run the layer with OpenVINO on a CPU.

    The graph of one layer is built from its weights, compiled in hundredths of a second, and run
    again and again; sizes are free. As in torch, rows lie flat but in attention, and sums and
    LayerNorm stay in float32 whatever the precision. In int8 the weights are rounded once, row by
    row, and what they are multiplied with is rounded on the way, for each piece anew; so there is
    nothing to calibrate.
    """

    #: Lengths of padded windows are multiples of this, too. Products then sum in one order whatever
    #: is in a batch, so a document has the same states, to the bit, in any company; and there are
    #: fewer shapes to prepare for.
    aligned = 16

    def __init__(self, model: Albert, precision: str, threads: int, lanes: int = 1):
        """Compile the layers of a model.

        model (Albert): The encoder, in float32 on the CPU.
        precision (str): "float32", "bfloat16" or "int8".
        threads (int): How many threads to use.
        lanes (int): How many batches may be computed at a time, in Python threads of their own;
            they share the threads.
        """
        import openvino

        self.model = model
        self._tensor = openvino.Tensor
        core = openvino.Core()
        # Workers share a machine: pinned to cores, all would be on the same ones
        settings: dict[str, Any] = {
            "NUM_STREAMS": lanes,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
        }
        if precision == "int8":
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(model.config.hidden_size)
        compiled = {
            layer: core.compile_model(
                layer_graph(layer, model.config.hidden_act, precision == "int8"), "CPU", settings
            )
            for layer in dict.fromkeys(model.layers_by_depth())
        }
        #: For each lane that is free, what runs each layer.
        self._free: SimpleQueue[dict[Layer, Any]] = SimpleQueue()
        for _ in range(lanes):
            self._free.put({layer: made.create_infer_request() for layer, made in compiled.items()})

    def embed(self, ids: Tensor, positions: Tensor, segments: Tensor | None = None) -> Tensor:
        n_more = -len(ids) % self.aligned
        ids, positions = (F.pad(numbers, (0, n_more)) for numbers in (ids, positions))  # (N,)
        if segments is not None:
            segments = F.pad(segments, (0, n_more))  # (N,)
        return super().embed(ids, positions, segments)  # (N, H)

    def __call__(self, hidden: Tensor, lengths: np.ndarray) -> Tensor:
        P, (N, H) = int(lengths.sum()), hidden.shape
        B, S = len(lengths), -(-int(lengths.max()) // self.aligned) * self.aligned
        places = row_in_grid(lengths, S)  # (P,)
        rows = np.zeros(N, dtype=np.int32)
        rows[:P] = places
        grid = np.zeros(B * S, dtype=np.int32)
        grid[places] = np.arange(P)
        unseen = np.arange(S) >= lengths[:, None]  # (B, S)
        mask = np.where(unseen, np.float32(-1e9), np.float32(0))[:, None, None]  # (B, 1, 1, S)
        now, then = hidden.numpy(), np.empty((N, H), dtype=np.float32)
        requests = self._free.get()
        try:
            for request in requests.values():
                for number, array in enumerate((mask, grid.reshape(B, S), rows), start=1):
                    request.set_input_tensor(number, self._tensor(array))
            for layer in self.model.layers_by_depth():
                request = requests[layer]
                request.set_input_tensor(0, self._tensor(now, shared_memory=True))
                request.set_output_tensor(0, self._tensor(then, shared_memory=True))
                request.infer()
                now, then = then, now
        finally:
            self._free.put(requests)
        return torch.from_numpy(now[:P])  # (P, H)


def layer_graph(layer: Layer, hidden_act: str, int8: bool) -> Any:
    """Write a layer down as an OpenVINO graph. Rows are flat but in attention, which pads windows.

    layer (Layer): The layer; its weights become constants.
    hidden_act (str): The activation function, as in AlbertConfig.
    int8 (bool): Round the weights of the matrix products to eight bits.
    RETURNS (openvino.Model): Hidden states (N, H); what to add to the attention scores,
        (B, 1, 1, S); for each place in the padded grid its row, (B, S), and for each row its place,
        (N,) -> hidden states (N, H).
    """
    import openvino
    import openvino.opset13 as ops

    A, H = layer.num_heads, layer.qkv.in_features

    def shape(*sizes: int) -> Any:
        return ops.constant(np.array(sizes, dtype=np.int64))

    def linear(x: Any, weight: Tensor, bias: Tensor) -> Any:
        factor = weight.detach().numpy()  # (out, in)
        if int8:
            scale = np.maximum(np.abs(factor).max(axis=1, keepdims=True), 1e-12) / 127  # (out, 1)
            whole = ops.constant(np.round(factor / scale).astype(np.int8))
            product = ops.multiply(ops.convert(whole, np.float32), ops.constant(scale))
        else:
            product = ops.constant(factor)
        return ops.add(ops.matmul(x, product, False, True), ops.constant(bias.detach().numpy()))

    def norm(x: Any, part: nn.LayerNorm) -> Any:
        x = ops.mvn(x, shape(-1), True, part.eps, "inside_sqrt")
        return ops.add(
            ops.multiply(x, ops.constant(part.weight.detach().numpy())),
            ops.constant(part.bias.detach().numpy()),
        )

    hidden = ops.parameter(openvino.PartialShape([-1, H]), np.float32)
    mask = ops.parameter(openvino.PartialShape([-1, 1, 1, -1]), np.float32)
    grid = ops.parameter(openvino.PartialShape([-1, -1]), np.int32)
    rows = ops.parameter(openvino.PartialShape([-1]), np.int32)

    def heads(number: int) -> Any:
        """Queries (0), keys (1) or values (2) of all heads: three products leave less to copy
        than one that is cut up afterwards.
        """
        part = slice(number * H, (number + 1) * H)
        x = linear(hidden, layer.qkv.weight[part], layer.qkv.bias[part])  # (N, H)
        x = ops.reshape(ops.gather(x, grid, shape(0)), shape(0, 0, A, H // A), True)
        return ops.transpose(x, shape(0, 2, 1, 3))  # (B, A, S, H/A)

    query = ops.multiply(heads(0), ops.constant(np.float32((H // A) ** -0.5)))
    scores = ops.matmul(query, heads(1), False, True)  # (B, A, S, S)
    mixed = ops.matmul(ops.softmax(ops.add(scores, mask), -1), heads(2), False, False)
    mixed = ops.transpose(mixed, shape(0, 2, 1, 3))  # (B, S, A, H/A)
    mixed = ops.reshape(mixed, shape(-1, H), False)  # (B * S, H)
    mixed = ops.gather(mixed, rows, shape(0))  # (N, H)

    mixed = linear(mixed, layer.attention_out.weight, layer.attention_out.bias)  # (N, H)
    between = norm(ops.add(hidden, mixed), layer.attention_norm)  # (N, H)
    inner = linear(between, layer.ffn_in.weight, layer.ffn_in.bias)  # (N, F)
    inner = ops.relu(inner) if hidden_act == "relu" else ops.gelu(inner, GELU[hidden_act])
    inner = linear(inner, layer.ffn_out.weight, layer.ffn_out.bias)  # (N, H)
    hidden_next = norm(ops.add(between, inner), layer.ffn_norm)  # (N, H)
    return openvino.Model([hidden_next], [hidden, mask, grid, rows])
