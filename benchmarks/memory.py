"""Does memory stay flat: over many short texts, and over one very long one?"""

import gc
import time
from pathlib import Path
from typing import Any

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


WINDOW = 1800  # characters that fit into one window of 512 pieces


def long_text(path: str, n_chars: int) -> dict[str, Any]:
    """Read one long document, the same text in texts of one window, and in paragraphs.

    path (str): A trained pipeline.
    n_chars (int): Characters of the document.
    RETURNS (dict): Microseconds a character of each, how many times the long document costs texts
        of one window, and by how many MB the peak of memory lay over what was resident before.
    """
    nlp = ours.load(Path(path), "auto")
    nlp.max_length = n_chars + 1
    text = texts.long_text(n_chars)
    paragraphs = text.split("\n\n")
    windows = [""]
    for paragraph in paragraphs:
        if len(windows[-1]) + len(paragraph) > WINDOW:
            windows.append("")
        windows[-1] += paragraph + "\n\n"
    kinds = {"paragraphs": paragraphs, "windows": windows, "long": [text]}
    for some in (
        paragraphs[: len(paragraphs) // 10],
        windows[: len(windows) // 10],
        [text[:200_000]],
    ):
        list(nlp.pipe(some))  # each has shapes of its own to prepare for
    result: dict[str, Any] = {
        "chars": n_chars,
        "texts": {k: len(some) for k, some in kinds.items()},
    }
    for name, some in kinds.items():
        gc.collect()
        machine.reset_peak()
        resident = machine.resident_mb()
        before = time.perf_counter()
        for _ in nlp.pipe(some):
            pass
        seconds = time.perf_counter() - before
        result[f"{name}_us_a_char"] = 1e6 * seconds / sum(map(len, some))
        result[f"{name}_mb"] = machine.peak_mb() - resident
    result["ratio"] = result["long_us_a_char"] / result["windows_us_a_char"]
    return result
