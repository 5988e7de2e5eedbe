"""Who takes part, with which settings, and how each is timed in its process."""

import importlib
import time
from pathlib import Path
from typing import Any, NamedTuple

from . import machine


class Contender(NamedTuple):
    """One way to read texts.

    name (str): Its name in the table; with the precision, unique.
    precision (str): "float32", "bfloat16" or "int8".
    maker (str): "module:function" in this package; see peers.py.
    packages (tuple[str, ...]): What must be installed for it.
    settings (tuple[dict, ...]): Tried on a sample; the fastest is measured.
    """

    name: str
    precision: str
    maker: str
    packages: tuple[str, ...]
    settings: tuple[dict[str, Any], ...] = ({},)

    @property
    def title(self) -> str:
        """RETURNS (str): Name and precision."""
        return f"{self.name} {self.precision}"


BUDGETS = ({"budget": 1024}, {"budget": 2048}, {"budget": 4096})
CONTENDERS = (
    *(
        Contender("spacy-albert", precision, "ours:entities_and_classes", ("spacy_albert",))
        for precision in ("float32", "bfloat16", "int8")
    ),
    Contender("spacy-albert, entities only", "float32", "ours:entities", ("spacy_albert",)),
    Contender(
        "spacy-transformers",
        "float32",
        "peers:spacy_transformers",
        ("spacy_transformers",),
        (
            {"batch_size": 1000, "max_batch_items": 4096},
            {"batch_size": 128, "max_batch_items": 4096},
            {"batch_size": 128, "max_batch_items": 1024},
        ),
    ),
    Contender(
        "transformers pipeline",
        "float32",
        "peers:transformers_pipeline",
        ("transformers",),
        ({"batch_size": 8}, {"batch_size": 1}),
    ),
    Contender("loop by hand", "float32", "peers:loop", ("transformers",), BUDGETS),
    Contender("loop by hand", "bfloat16", "peers:loop", ("transformers",), BUDGETS),
    *(
        Contender(
            "OpenVINO, whole graph",
            precision,
            "peers:openvino_graph",
            ("openvino", "transformers"),
            BUDGETS,
        )
        for precision in ("float32", "bfloat16")
    ),
    Contender(
        "ONNX Runtime, whole graph",
        "float32",
        "peers:onnxruntime_graph",
        ("onnxruntime", "onnx", "transformers"),
        BUDGETS,
    ),
)
BY_TITLE = {contender.title: contender for contender in CONTENDERS}


class Runner:
    """A contender in its process."""

    def __init__(self, title: str, checkpoint: str, texts: list[str]):
        """Load a contender.

        title (str): Its key in BY_TITLE.
        checkpoint (str): The directory from `checkpoint.make`.
        texts (list[str]): What it is going to read.
        RAISES (ModuleNotFoundError): If one of its packages is not installed.
        """
        contender = BY_TITLE[title]
        for package in contender.packages:
            importlib.import_module(package)
        module, _, function = contender.maker.partition(":")
        maker = getattr(importlib.import_module(f"{__package__}.{module}"), function)
        before = time.perf_counter()
        self.prepare = maker(Path(checkpoint), contender.precision)
        self.load_seconds = time.perf_counter() - before
        self.texts = texts

    def about(self) -> dict[str, Any]:
        """RETURNS (dict): The seconds it took to load, and what else it tells of itself."""
        about: dict[str, Any] = {"load_seconds": self.load_seconds}
        if hasattr(self.prepare, "about"):
            about |= self.prepare.about(self.texts)
        return about

    def run(self, setting: dict[str, Any], n_texts: int) -> dict[str, float]:
        """Read texts once.

        setting (dict): One of its settings.
        n_texts (int): How many of the texts.
        RETURNS (dict): Seconds, how many entities (or tagged pieces) were found, and the peak of
            memory so far.
        """
        run = self.prepare(self.texts[:n_texts], **setting)
        before = time.perf_counter()
        found = run()
        seconds = time.perf_counter() - before
        return {"seconds": seconds, "found": found, "peak_mb": machine.peak_mb()}
