"""How fast this machine multiplies matrices of ALBERT's shapes: what no executor can beat.

The ceiling of a precision is what the better of torch and OpenVINO reaches on the four products of
one layer, alone and with everything in cache that fits, in the median of many tries. A contender's
share of it is

    useful FLOPs of the texts / seconds / ceiling

where useful means: of real pieces, no padding, no window read twice. What else a layer does
(softmax, GELU, LayerNorm, attention's own small products) lowers the share, as it should.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

ROWS = (512, 1024, 2048)  # pieces in a batch
PRECISIONS = ("float32", "bfloat16", "int8")


def flops(
    shape: dict[str, int], lengths: Iterable[int], n_tags: int = 0, n_classes: int = 0
) -> int:
    """Count what ALBERT multiplies and adds to read some windows; one of each are two.

    shape (dict): The fields of AlbertConfig.
    lengths (Iterable[int]): Pieces in each window, [CLS] and [SEP] included.
    n_tags (int): Outputs of a tagger.
    n_classes (int): Outputs of a text classifier, behind a pooler.
    RETURNS (int): Floating-point operations, of matrix products only.
    """
    E, H, F = shape["embedding_size"], shape["hidden_size"], shape["intermediate_size"]
    layers = shape["num_hidden_layers"] * shape["inner_group_num"]
    dense = 3 * H * H + H * H + 2 * H * F  # queries, keys and values; output; feed-forward
    classes = H * H + H * n_classes if n_classes else 0
    products = 0
    for S in lengths:
        attention = 2 * S * H  # scores, and the mixture of values
        products += S * (E * H + layers * (dense + attention) + H * n_tags) + classes
    return 2 * products


def windows(lengths: Iterable[int], longest: int) -> list[int]:
    """Cut texts into the fewest windows that show each piece once.

    lengths (Iterable[int]): Pieces in each text.
    longest (int): The most pieces in a window, [CLS] and [SEP] included.
    RETURNS (list[int]): Pieces in each window, [CLS] and [SEP] included.
    """
    found = []
    for length in lengths:
        full, rest = divmod(length, longest - 2)
        found += [longest] * full + [rest + 2] * (rest > 0 or not full)
    return found


def measure(shape: dict[str, int], seconds: float) -> dict[str, dict[str, Any]]:
    """Measure the ceilings.

    shape (dict): The fields of AlbertConfig.
    seconds (float): How long to try each product in each way.
    RETURNS (dict): For each precision: "gflops", "library", "rows", and what every try gave.
    """
    H, F = shape["hidden_size"], shape["intermediate_size"]
    products = ((H, 3 * H), (H, H), (H, F), (F, H))  # in, out
    ceilings: dict[str, dict[str, Any]] = {}
    for precision in PRECISIONS:
        tries: list[dict[str, Any]] = []
        for library, make in MAKERS.items():
            for rows in ROWS:
                attempt: dict[str, Any] = {"library": library, "rows": rows}
                try:
                    times = [_typical(make(precision, rows, *sizes), seconds) for sizes in products]
                    work = sum(2 * rows * inner * outer for inner, outer in products)
                    attempt["gflops"] = work / sum(times) / 1e9
                except (ImportError, RuntimeError, NotImplementedError) as error:
                    attempt["error"] = (
                        f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
                    )
                tries.append(attempt)
        ceilings[precision] = _best(tries)
    return ceilings


def typical(measurements: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Join measurements, one in each round of the race: each way of multiplying has its median, as
    each contender has, and the fastest way is the ceiling.

    measurements (Sequence[dict]): From `measure`.
    RETURNS (dict): Of the same form.
    """
    joined = {}
    for precision in measurements[0]:
        tries = []
        for same in zip(*(measurement[precision]["tries"] for measurement in measurements)):
            seen = [attempt["gflops"] for attempt in same if "gflops" in attempt]
            tries.append(same[0] | ({"gflops": statistics.median(seen)} if seen else {}))
        joined[precision] = _best(tries)
    return joined


def _best(tries: list[dict[str, Any]]) -> dict[str, Any]:
    best = max(tries, key=lambda attempt: attempt.get("gflops", 0.0))
    return best | {"tries": tries}


def _typical(multiply: Callable[[], Any], seconds: float) -> float:
    multiply()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        before = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def _torch(precision: str, rows: int, inner: int, outer: int) -> Callable[[], Any]:
    import torch

    if precision == "int8":
        a = torch.ones(rows, inner, dtype=torch.int8)
        b = torch.ones(inner, outer, dtype=torch.int8)
        return lambda: torch._int_mm(a, b)
    dtype = getattr(torch, precision)
    x, weight = torch.randn(rows, inner, dtype=dtype), torch.randn(outer, inner, dtype=dtype)

    def multiply() -> None:
        with torch.inference_mode():
            torch.nn.functional.linear(x, weight)

    return multiply


def _openvino(precision: str, rows: int, inner: int, outer: int) -> Callable[[], Any]:
    import openvino
    import openvino.opset13 as ops
    import torch

    rng = np.random.default_rng(0)
    x = ops.parameter([rows, inner], np.float32)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
    }
    if precision == "int8":  # weights of eight bits; what they multiply is rounded row by row
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(inner)
        whole = ops.constant(rng.integers(-127, 128, (outer, inner), dtype=np.int8))
        scale = ops.constant(np.full((outer, 1), 0.01, dtype=np.float32))
        weight = ops.multiply(ops.convert(whole, np.float32), scale)
    else:
        weight = ops.constant(rng.standard_normal((outer, inner), dtype=np.float32))
    model = openvino.Model([ops.matmul(x, weight, False, True)], [x])
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(rng.standard_normal((rows, inner), dtype=np.float32)))
    return request.infer


MAKERS = {"torch": _torch, "openvino": _openvino}
