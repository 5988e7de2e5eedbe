"""Windows to hidden states, on the hardware that is there: device, precision, executor, memory."""

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .executors.base import Executor
from .executors.flat import FlatExecutor
from .modeling import Albert
from .transfer import to_device

logger = logging.getLogger("spacy.albert")  # speaks where spaCy speaks

PRECISIONS = ("float32", "bfloat16", "int8")
#: Pieces in a batch on a CPU: what a layer makes of more does not stay in its cache.
CPU_BATCH = 1536
#: Pieces in a batch in a lane, which has one core, and how many batches a lane must have to begin:
#: with few, some cores would wait for others in the end.
LANE_BATCH, LANE_BATCHES = 768, 4
#: Pieces in a batch on a GPU that has room for more: it is busy with that many.
GPU_BATCH = 65_536


class Choice(NamedTuple):
    """What an encoder runs on."""

    device: torch.device
    precision: str  # one of PRECISIONS
    executor: str  # "torch" or "openvino"
    why: str

    def __str__(self) -> str:
        runtime = "OpenVINO" if self.executor == "openvino" else "torch"
        return f"{self.precision} on {self.device} with {runtime}"


def choose(device: str = "auto", precision: str = "auto") -> Choice:
    """Choose what to run on.

    device (str): "auto" (a GPU if torch sees one), "cpu", "cuda", "cuda:N" or "mps".
    precision (str): "auto", "float32", "bfloat16" or "int8". "auto" is bfloat16 where the hardware
        multiplies it, else float32.
    RETURNS (Choice): The device, the precision, the executor and the reason.
    RAISES (ValueError): If that cannot be had here.
    """
    where = choose_device(device)
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(
            f"There is no precision {precision!r}. Choose from: "
            f"{', '.join(map(repr, ('auto', *PRECISIONS)))}."
        )
    if where.type == "cpu":
        return choose_on_cpu(where, precision)
    if precision == "int8":
        raise ValueError(
            f"int8 runs on a CPU only, and the device is {str(where)!r}. Set precision to "
            "'auto', 'float32' or 'bfloat16', or device to 'cpu'."
        )
    if precision == "auto":
        if where.type == "cuda" and torch.cuda.get_device_capability(where) >= (8, 0):
            return Choice(where, "bfloat16", "torch", "the GPU multiplies bfloat16")
        return Choice(where, "float32", "torch", f"{where} does not multiply bfloat16 natively")
    return Choice(where, precision, "torch", "as set")


def choose_on_cpu(device: torch.device, precision: str) -> Choice:
    """Choose the executor and, for "auto", the precision on a CPU."""
    if importlib.util.find_spec("openvino") is None:
        install = "OpenVINO is not installed: pip install 'spacy-albert[cpu]'"
        if precision == "int8":
            raise ValueError(f"int8 needs OpenVINO, which is not installed. {install}.")
        return Choice(device, "float32" if precision == "auto" else precision, "torch", install)
    if precision == "auto":
        import openvino

        able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if able:
            return Choice(device, "bfloat16", "openvino", "the CPU multiplies bfloat16")
        return Choice(device, "float32", "openvino", "the CPU does not multiply bfloat16")
    return Choice(device, precision, "openvino", "as set")


def choose_for_training(device: str, precision: str) -> torch.dtype:
    """Choose what the matrix products of training compute in.

    device (str): As for `choose`.
    precision (str): "auto" (what annotation takes by itself there), "float32" or "bfloat16".
    RETURNS (torch.dtype): torch.float32 or torch.bfloat16.
    RAISES (ValueError): If there is no such precision.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(
            f"There is no training precision {precision!r}. Choose from: 'auto', 'float32', "
            "'bfloat16'."
        )
    if precision == "auto":
        precision = choose(device).precision
    return getattr(torch, precision)


def choose_device(device: str) -> torch.device:
    """Turn a device setting into a torch device.

    device (str): "auto" (a GPU if torch sees one), "cpu", "cuda", "cuda:N" or "mps".
    RETURNS (torch.device): The device.
    RAISES (ValueError): If there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        available.append("mps")
    if (f"{device}:0" if device == "cuda" else device) not in available:
        raise ValueError(
            f"There is no device {device!r} here. Available: 'auto', "
            f"{', '.join(map(repr, available))}."
        )
    return torch.device(device)


class Engine:
    """Run ALBERT over windows.

    Annotation takes the executor that was chosen, made of the weights as they are by then.
    Training, where gradients are enabled, runs with torch on the model itself, whose weights stay
    in float32.
    """

    def __init__(
        self,
        model: Albert,
        device: str = "auto",
        precision: str = "auto",
        batch_pieces: int | None = None,
        training_precision: str = "float32",
    ):
        """Place a model on its device.

        model (Albert): The encoder; it is moved, not copied.
        device (str): "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision (str): "auto", "float32", "bfloat16" or "int8".
        batch_pieces (int | None): The most pieces in a batch; None: as many as the device is best
            at, and has memory for.
        training_precision (str): "auto", "float32" or "bfloat16".
        RAISES (ValueError): If that cannot be had here.
        """
        self.choice = choose(device, precision)
        self.device = self.choice.device
        self.model = model.to(self.device)
        self._trainer = FlatExecutor(
            self.model, choose_for_training(device, training_precision), is_trained=True
        )
        self._annotators: dict[int, Executor] = {}  # by number of lanes
        self._made_of: list[tuple[int, int]] = []
        self._budget = batch_pieces
        logger.info("ALBERT runs in %s: %s.", self.choice, self.choice.why)

    def __call__(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        lanes: int = 1,
        segments: np.ndarray | None = None,
    ) -> Tensor:
        """Compute the last hidden state of every piece.

        ids (np.ndarray): Piece ids, window after window, (P,).
        lengths (np.ndarray): Pieces in each window, (B,); they sum to P.
        lanes (int): How many calls there may be at a time, in Python threads of their own.
        segments (np.ndarray | None): Segment of each piece, (P,); None puts all in segment 0.
        RETURNS (Tensor): Hidden states, (P, H), on the device.
        """
        executor = self._trainer if torch.is_grad_enabled() else self._current(lanes)
        starts = np.cumsum(lengths) - lengths
        positions = np.arange(len(ids)) - np.repeat(starts, lengths)
        numbers = [ids, positions] if segments is None else [ids, positions, segments]
        sent = to_device(np.stack(numbers).astype(np.int32), self.device)  # (2 or 3, P)
        return executor(executor.embed(*sent), lengths)

    def __getstate__(self) -> dict:
        # what OpenVINO compiled stays in its process
        return {**self.__dict__, "_annotators": {}}

    def _current(self, lanes: int = 1) -> Executor:
        """Make the executor for annotation, or make it anew when the weights have changed."""
        weights = [
            # what was loaded in inference mode has no version, and cannot change in place
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for weight in self.model.parameters()
        ]
        if weights != self._made_of:
            self._annotators, self._made_of = {}, weights
        if lanes not in self._annotators:
            self._annotators[lanes] = self._make(lanes)
        return self._annotators[lanes]

    def _make(self, lanes: int) -> Executor:
        precision = self.choice.precision
        if self.choice.executor == "openvino":
            from .executors.openvino import OpenVinoExecutor

            return OpenVinoExecutor(self.model, precision, torch.get_num_threads(), lanes)
        return FlatExecutor(self.model, getattr(torch, precision))

    def lanes(self, n_pieces: int) -> int:
        """Decide how many batches to compute side by side. On a CPU, cores that each have a batch
        wait for nobody, but one alone takes longer.

        n_pieces (int): Pieces to read in all.
        RETURNS (int): As many as there are threads, or 1.
        """
        if self.choice.executor != "openvino" or torch.is_grad_enabled():
            return 1
        threads = torch.get_num_threads()
        return threads if n_pieces >= threads * LANE_BATCHES * LANE_BATCH else 1

    @contextlib.contextmanager
    def one_torch_thread(self, lanes: int = 1) -> Iterator[None]:
        """Leave the cores to OpenVINO, if that computes: torch's threads would go on spinning for
        a while after each of the small things that torch does between two batches.

        lanes (int): How many batches are going to be computed side by side.
        """
        threads = torch.get_num_threads()
        if self.choice.executor != "openvino" or torch.is_grad_enabled() or threads == 1:
            yield
            return
        self._current(lanes)  # made with all the threads there are
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def budget(self, window: int, lanes: int = 1) -> int:
        """Tell how many pieces a batch may have.

        window (int): The longest window, in pieces.
        lanes (int): How many batches are computed side by side.
        RETURNS (int): Pieces, no fewer than one window's.
        """
        if self._budget is None:
            if self.device.type != "cuda":
                return max(CPU_BATCH if lanes == 1 else LANE_BATCH, window)
            self._budget = min(GPU_BATCH, self._room(window))
        return max(self._budget, window)

    def _room(self, window: int) -> int:
        """Measure how many pieces fit into the memory of the GPU, from what one window takes."""
        ids, lengths = np.zeros(window, dtype=np.int64), np.array([window])
        with torch.inference_mode():
            self(ids, lengths)  # whatever the first call sets up stays out of the measure
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self(ids, lengths)
        taken = torch.cuda.max_memory_allocated(self.device) - before
        reserved = torch.cuda.memory_reserved(self.device) - before
        free = torch.cuda.mem_get_info(self.device)[0] + reserved
        return int(0.8 * free / taken * window)

    def halve_budget(self, window: int) -> None:
        """Put up with less memory from now on.

        window (int): The longest window, in pieces.
        """
        self._budget = max(self.budget(window) // 2, window)
        logger.warning(
            "Out of memory on %s: batches have at most %d pieces from now on.",
            self.device,
            self._budget,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory did not suffice.

    error (BaseException): The error.
    RETURNS (bool): Whether a smaller batch may do.
    """
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        # torch's allocator on a CPU has no class of its own for it
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
