"""Does memory stay flat: over many short texts, and over one very long one?"""

import gc
import time
from pathlib import Path
from typing import Any

from spacy.language import Language

from . import machine, ours, texts


def short_texts(path: str, n_texts: int, n_first: int) -> dict[str, Any]:
    """Read many short texts in one `nlp.pipe`, and keep none of the documents.

    path (str): A trained pipeline.
    n_texts (int): How many texts.
    n_first (int): After how many memory counts as settled.
    RETURNS (dict): Resident MB then, at the end and the growth, and the strings spaCy's vocabulary
        learned in between, which it keeps (unless one uses `nlp.memory_zone`).
    """
    nlp = ours.load(Path(path), "auto")
    first_mb, first_strings = 0.0, 0
    for i, _ in enumerate(nlp.pipe(texts.short_texts(n_texts)), start=1):
        if i == n_first:
            gc.collect()
            first_mb, first_strings = machine.resident_mb(), len(nlp.vocab.strings)
    gc.collect()
    last_mb = machine.resident_mb()
    return {
        "texts": n_texts,
        "first": n_first,
        "first_mb": first_mb,
        "last_mb": last_mb,
        "grown_mb": last_mb - first_mb,
        "new_strings": len(nlp.vocab.strings) - first_strings,
        "peak_mb": machine.peak_mb(),
    }


def long_text(path: str, checkpoint: str, n_chars: int) -> dict[str, Any]:
    """Read one long document with the trained pipeline, and with one of the base shape.

    path (str): The trained pipeline.
    checkpoint (str): The checkpoint of the contenders.
    n_chars (int): Characters of the document.
    RETURNS (dict): By name of the pipeline, what `one_long_text` returns.
    """
    return {
        "trained pipeline": one_long_text(ours.load(Path(path), "auto"), n_chars),
        "base shape": one_long_text(
            ours.pipeline(Path(checkpoint), "auto", ["ner", "textcat"]), n_chars
        ),
    }


def one_long_text(nlp: Language, n_chars: int) -> dict[str, Any]:
    """Compare a long document with parts of it, as texts that fill a window, and as paragraphs.

    nlp (Language): The pipeline.
    n_chars (int): Characters of the document.
    RETURNS (dict): Microseconds a character of each; how many times the long document costs the
        others; its windows; and by how many MB the peak of memory lay over what was resident
        before, when the document was made and when it was read.
    """
    nlp.max_length = n_chars + 1
    text = texts.long_text(n_chars)
    part = text[: n_chars // 10]
    short = {"paragraphs": part.split("\n\n"), "windows": ours.texts_of_one_window(nlp, part)}
    for some in short.values():
        _us_a_char(nlp, some)  # each has shapes of its own to prepare for
    # Once before and once after the long one: a machine is not always equally fast
    before = {name: _us_a_char(nlp, some) for name, some in short.items()}
    gc.collect()
    machine.reset_peak()
    resident, started = machine.resident_mb(), time.perf_counter()
    doc = nlp.make_doc(text)
    made_mb = machine.peak_mb() - resident
    for _ in nlp.pipe([doc]):
        pass
    long_us = 1e6 * (time.perf_counter() - started) / n_chars
    result = {
        "chars": n_chars,
        "windows": doc._.n_windows,
        "us_a_char": long_us,
        "made_mb": made_mb,
        "read_mb": machine.peak_mb() - resident,
    }
    for name, some in short.items():
        result[f"{name}_us_a_char"] = (before[name] + _us_a_char(nlp, some)) / 2
        result[f"times_{name}"] = long_us / result[f"{name}_us_a_char"]
    return result


def _us_a_char(nlp: Language, some: list[str]) -> float:
    before = time.perf_counter()
    for _ in nlp.pipe(some):
        pass
    return 1e6 * (time.perf_counter() - before) / sum(map(len, some))
