"""Input and output files, and a pipeline small enough for any number of tests."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import spacy

CODE = Path(__file__).with_name("stumbling.py")
PATTERNS = [{"label": "PERSON", "pattern": "Obama"}, {"label": "GPE", "pattern": "Paris"}]


def ruler() -> spacy.Language:
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns(PATTERNS)
    return nlp


def texts(first: int, number: int) -> list[str]:
    return [f"Obama went to Paris, day {i}. " + "And on. " * (i % 7) for i in range(first, number)]


def write(path: Path, table: pa.Table, row_group_size: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def read(output: Path) -> pa.Table:
    """The output in the order of its files."""
    return pa.concat_tables(pq.read_table(path) for path in sorted(output.glob("*.parquet")))


def state(output: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again."""
    stats = {path.name: path.stat() for path in output.glob("*.parquet")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("*.parquet"))}


def notes(output: Path, name: str) -> dict:
    return json.loads((output / name).read_bytes())
