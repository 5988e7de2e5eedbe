"""What the job costs over a bare `nlp.pipe`, and what a second worker brings."""

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from . import ours, texts

FILES = 8


def write(folder: Path, n_texts: int) -> Path:
    """Write a collection.

    folder (Path): Where to.
    n_texts (int): How many paragraphs.
    RETURNS (Path): The folder with its files.
    """
    read = texts.paragraphs(n_texts)
    source = folder / "input"
    source.mkdir()
    for number in range(FILES):
        part = read[number::FILES]
        table = pa.table({"id": range(number, n_texts, FILES), "text": part})
        pq.write_table(table, source / f"{number}.parquet", row_group_size=500)
    return source


def bare(path: str, n_texts: int) -> dict[str, float]:
    """Read the rows of a collection with a bare `nlp.pipe` on one thread.

    path (str): A trained pipeline.
    n_texts (int): How many paragraphs.
    RETURNS (dict[str, float]): Words, and words a second after loading.
    """
    torch.set_num_threads(1)
    nlp = ours.load(Path(path), "auto")
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder), n_texts)
        before = time.perf_counter()
        rows = itertools.chain.from_iterable(
            pq.read_table(file)["text"].to_pylist() for file in sorted(source.iterdir())
        )
        words = sum(len(doc) for doc in nlp.pipe(rows))
        return {"words": words, "words_per_second": words / (time.perf_counter() - before)}


def job(path: str, n_texts: int, workers: int) -> dict[str, float]:
    """Annotate a collection, on a Ray of its own.

    path (str): A trained pipeline.
    n_texts (int): How many paragraphs.
    workers (int): How many workers, of one thread each.
    RETURNS (dict[str, float]): Words, words a second from the first worker on, seconds of all, and
        seconds until the first worker could begin.
    """
    from spacy_albert_jobs import annotate

    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder), n_texts)
        summary = annotate(path, source, Path(folder) / "output", workers=workers, quiet=True)
    run = summary.run
    working = run["words"] / run["words_per_second"]
    return {
        "words": summary.words,
        "words_per_second": run["words_per_second"],
        "seconds": run["seconds"],
        "start_seconds": run["seconds"] - working,
    }


def measure(path: str, n_texts: int, rounds: int) -> dict[str, Any]:
    """Compare jobs of one and of two workers with a bare `nlp.pipe`, in turns.

    path (str): A trained pipeline.
    n_texts (int): How many paragraphs.
    rounds (int): How many times; the medians count.
    RETURNS (dict): The medians of what `bare` and `job` return; what the job keeps of the speed of
        the first, and how many times faster two workers are than one.
    """
    ways = {
        "bare": lambda: bare(path, n_texts),
        "1 worker": lambda: job(path, n_texts, 1),
        "2 workers": lambda: job(path, n_texts, 2),
    }
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            seen[name].append(run())
    result: dict[str, Any] = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        for name, turns in seen.items()
    }
    speed = {name: result[name]["words_per_second"] for name in ways}
    result["kept"] = speed["1 worker"] / speed["bare"]
    result["times"] = speed["2 workers"] / speed["1 worker"]
    return result
