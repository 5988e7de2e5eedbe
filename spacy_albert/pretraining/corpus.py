"""A corpus as pieces on disk, mapped into memory: no more of it is read than is looked at."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

#: Shards of which the places of documents and sentences are kept.
OPEN_SHARDS = 64
COUNTS = b"spacy-albert corpus"


class Shard(NamedTuple):
    """A part of a corpus.

    pieces (np.ndarray): The ids of all documents, one after the other, (P,).
    documents (np.ndarray): Where each document begins, and the end, (D + 1,).
    sentences (np.ndarray): Where each sentence begins, (S,).
    """

    pieces: np.ndarray
    documents: np.ndarray
    sentences: np.ndarray


def write_shard(
    path: Path, documents: Sequence[Sequence[np.ndarray]], counts: Mapping[str, int]
) -> None:
    """Write a shard. It appears whole or not at all.

    path (Path): The file.
    documents (Sequence[Sequence[np.ndarray]]): For each document the ids of its sentences, none of
        them empty.
    counts (Mapping[str, int]): What else to know of it: how many rows were passed over, and why.
    """
    sentences = [sentence for document in documents for sentence in document]
    sizes = np.array([len(sentence) for sentence in sentences], dtype=np.int32)
    n_sentences = [len(document) for document in documents]
    pieces = np.concatenate([*sentences, np.zeros(0, np.int32)]).astype(np.int32)
    edges = np.append(0, np.cumsum(n_sentences, dtype=np.int32)).astype(np.int32)
    ends = np.append(0, np.cumsum(sizes, dtype=np.int32)).astype(np.int32)
    batch = pa.record_batch(
        {
            "pieces": pa.ListArray.from_arrays(pa.array(ends[edges]), pa.array(pieces)),
            "sentences": pa.ListArray.from_arrays(pa.array(edges), pa.array(sizes)),
        }
    )
    batch = batch.replace_schema_metadata({COUNTS: json.dumps(dict(counts))})
    temporary = path.with_name(f".{path.name}.tmp")
    with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write(batch)
    temporary.replace(path)


def read_shard(path: Path) -> Shard:
    """Map a shard into memory.

    path (Path): The file.
    RETURNS (Shard): Its contents.
    RAISES (ValueError): If the file is not whole, or none of ours.
    """
    try:
        with pa.memory_map(str(path)) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
        pieces, sizes = batch.column("pieces"), batch.column("sentences").flatten().to_numpy()
        return Shard(
            pieces.values.to_numpy(),
            pieces.offsets.to_numpy().astype(np.int64),
            np.cumsum(sizes, dtype=np.int64) - sizes,
        )
    except (pa.ArrowException, KeyError, IndexError) as error:
        raise ValueError(f"{path} is no shard of a corpus, or damaged: {error}") from error


def read_counts(path: Path) -> dict[str, int] | None:
    """Read what else there is to know of a shard.

    path (Path): The file.
    RETURNS (dict[str, int] | None): What `write_shard` was given; None if there is no such shard.
    """
    try:
        with pa.memory_map(str(path)) as file:
            return json.loads((pa.ipc.open_file(file).schema.metadata or {})[COUNTS])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


class Corpus:
    """Shards, in order.

    paths (Sequence[Path]): Their files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.shard = lru_cache(OPEN_SHARDS)(self._shard)

    def __len__(self) -> int:
        return len(self.paths)

    def _shard(self, number: int) -> Shard:
        return read_shard(self.paths[number])
