"""A corpus that is made up."""

from pathlib import Path

import numpy as np

from spacy_albert.pretraining.corpus import Corpus, write_shard


def made_up(folder: Path, vocab_size: int, shards: int = 3, documents: int = 40) -> Corpus:
    """Shards of documents of one to twelve sentences, of any pieces but the special ones."""
    rng = np.random.default_rng(0)
    paths = [folder / f"part-{number:05}.arrow" for number in range(shards)]
    for path in paths:
        made = [
            [rng.integers(5, vocab_size, rng.integers(1, 30)) for _ in range(rng.integers(1, 13))]
            for _ in range(documents)
        ]
        write_shard(path, made, {"documents": documents})
    return Corpus(paths)
