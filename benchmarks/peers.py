"""Other ways to read texts with the same ALBERT, each set up as its users or its makers would.

Every function here takes the checkpoint and a precision, loads what it needs, and returns
`prepare(texts, **setting)`; that returns `run()`, which alone is timed and says how much it found.
What `prepare` does is free, and the bare models get it all: texts as ids, sorted and in batches.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import LABELS

Run = Callable[[], int]
Prepare = Callable[..., Run]


def spacy_transformers(checkpoint: Path, precision: str) -> Prepare:
    """spacy-transformers with spaCy's `ner` and `textcat`, as `spacy init config --gpu` writes it.

    The encoder has the checkpoint's weights; `ner` and `textcat` are spaCy's own and untrained.
    """
    from spacy import util
    from spacy.cli.init_config import init_config
    from spacy.training import Example

    config = init_config(lang="en", pipeline=["ner", "textcat"], optimize="efficiency", gpu=True)
    config["components"]["transformer"]["model"]["name"] = str(checkpoint)
    nlp = util.load_model_from_config(config, auto_fill=True)
    words = [*LABELS, "no", "name"]
    example = {
        "words": words,
        "entities": [f"U-{label}" for label in LABELS] + ["O", "O"],
        "cats": {"POSITIVE": 1.0, "NEGATIVE": 0.0},
    }
    nlp.initialize(lambda: [Example.from_dict(nlp.make_doc(" ".join(words)), example)])
    transformer: Any = nlp.get_pipe("transformer")

    def prepare(texts: list[str], batch_size: int, max_batch_items: int) -> Run:
        transformer.cfg["max_batch_items"] = max_batch_items
        return lambda: sum(len(doc.ents) for doc in nlp.pipe(texts, batch_size=batch_size))

    return prepare


def transformers_pipeline(checkpoint: Path, precision: str) -> Prepare:
    """`pipeline("token-classification")` of transformers: it takes texts as they come and cuts off
    what is longer than 512 pieces. Entities only.
    """
    from transformers import pipeline

    tagger = pipeline(
        "token-classification", model=str(checkpoint), aggregation_strategy="simple", device="cpu"
    )

    def prepare(texts: list[str], batch_size: int) -> Run:
        return lambda: sum(map(len, tagger(texts, batch_size=batch_size)))

    return prepare


def loop(checkpoint: Path, precision: str) -> Prepare:
    """A good loop by hand over AlbertForTokenClassification: sorted windows, batches under a
    budget, SDPA, inference mode. Entities only, and of them only the tag of each piece.
    """
    import torch

    model = _model(checkpoint).to(getattr(torch, precision))

    def prepare(texts: list[str], budget: int) -> Run:
        batches = [
            (torch.from_numpy(ids), torch.from_numpy(mask))
            for ids, mask in _batches(checkpoint, texts, budget)
        ]

        def run() -> int:
            found = 0
            with torch.inference_mode():
                for ids, mask in batches:
                    tags = model(input_ids=ids, attention_mask=mask).logits.argmax(2)  # (B, S)
                    found += int(((tags > 0) & mask.bool()).sum())
            return found

        return run

    return prepare


def openvino_graph(checkpoint: Path, precision: str) -> Prepare:
    """OpenVINO on the whole graph of AlbertForTokenClassification, batches as in the loop."""
    import openvino
    import torch

    ids = torch.ones(2, 16, dtype=torch.int64)
    graph = openvino.convert_model(
        _model(checkpoint), example_input={"input_ids": ids, "attention_mask": ids}
    )
    hints = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",  # one request at a time, with every thread
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(graph, "CPU", hints)
    return _graph(checkpoint, lambda feed: compiled(feed)[0])


def onnxruntime_graph(checkpoint: Path, precision: str) -> Prepare:
    """ONNX Runtime on the whole graph of AlbertForTokenClassification, batches as in the loop."""
    import onnxruntime
    import torch

    ids = torch.ones(2, 16, dtype=torch.int64)
    path = checkpoint / "model.onnx"
    torch.onnx.export(
        _model(checkpoint),
        (ids, ids),
        path,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={name: {0: "B", 1: "S"} for name in ("input_ids", "attention_mask")},
        dynamo=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _graph(checkpoint, lambda feed: session.run(["logits"], feed)[0])


def _graph(checkpoint: Path, infer: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Prepare:
    def prepare(texts: list[str], budget: int) -> Run:
        batches = list(_batches(checkpoint, texts, budget))

        def run() -> int:
            found = 0
            for ids, mask in batches:
                tags = infer({"input_ids": ids, "attention_mask": mask}).argmax(2)  # (B, S)
                found += int(((tags > 0) & (mask > 0)).sum())
            return found

        return run

    return prepare


def _model(checkpoint: Path) -> Any:
    from transformers import AlbertForTokenClassification

    return AlbertForTokenClassification.from_pretrained(
        checkpoint, attn_implementation="sdpa", torch_dtype="float32"
    ).eval()


def _batches(
    checkpoint: Path, texts: list[str], budget: int, longest: int = 510
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut texts into windows without overlap, sort them, and pad batches of at most `budget`.

    YIELDS (tuple): Ids and mask, (B, S) int64.
    """
    from transformers import AlbertTokenizer

    tokenizer = AlbertTokenizer.from_pretrained(checkpoint)
    rows = [
        [tokenizer.cls_token_id, *ids[start : start + longest], tokenizer.sep_token_id]
        for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]
        for start in range(0, max(len(ids), 1), longest)
    ]
    rows.sort(key=len, reverse=True)
    start = 0
    while start < len(rows):
        batch = rows[start : start + max(1, budget // len(rows[start]))]
        ids = np.full((len(batch), len(batch[0])), tokenizer.pad_token_id)
        mask = np.zeros_like(ids)
        for row, pieces in enumerate(batch):
            ids[row, : len(pieces)] = pieces
            mask[row, : len(pieces)] = 1
        yield ids, mask
        start += len(batch)
