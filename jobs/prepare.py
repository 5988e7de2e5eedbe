"""Parquet -> a corpus of pieces, on Ray Data: sentences are found and divided once, not in every
epoch. What is there already is not made again.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from spacy.language import Language

from spacy_albert.pretraining.corpus import Corpus, read_counts, write_shard
from spacy_albert.tokenization import Tokenizer, load_tokenizer

from .annotator import as_bytes
from .errors import JobError
from .inputs import InputFile, Selection
from .plan import MEBIBYTE, Shard, cut
from .storage import Folder
from .worker import read

#: The text in a shard.
SHARD_BYTES = 8 * MEBIBYTE
CORPUS = "corpus.json"


def prepare(
    selection: Selection,
    files: list[InputFile],
    folder: Path,
    tokenizer: Path,
    text_column: str,
    lang: str,
    workers: int,
    show: Callable[[int, int], Any],
) -> tuple[Corpus, dict[str, int]]:
    """Make a corpus of a collection, or find it made.

    selection (Selection): The collection.
    files (list[InputFile]): Its files.
    folder (Path): Where the corpus goes.
    tokenizer (Path): A directory with the tokenizer.
    text_column (str): The column of the texts.
    lang (str): Their language, whose tokenizer and punctuation tell sentences.
    workers (int): How many processes divide texts at a time.
    show (Callable): Told how many shards are there, of how many.
    RETURNS (tuple[Corpus, dict[str, int]]): The corpus, and what is in it: "documents",
        "sentences" and "pieces", and the rows that were passed over, by reason.
    RAISES (JobError): If the folder has a corpus of something else.
    """
    import ray

    shards = cut(files, SHARD_BYTES)
    identity = {
        "tokenizer": hashlib.sha256(load_tokenizer(tokenizer).to_bytes()).hexdigest(),
        "text_column": text_column,
        "lang": lang,
        "shards": [shard.name for shard in shards],
    }
    note = folder / CORPUS
    if note.exists() and json.loads(note.read_text()) != identity:
        raise JobError(
            f"{folder} has the corpus of another input or vocabulary. Name another output folder, "
            "or begin again with --overwrite."
        )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(identity))
    paths = {shard.name: folder / Path(shard.name).with_suffix(".arrow") for shard in shards}
    there = {name: read_counts(path) for name, path in paths.items()}
    missing = [shard for shard in shards if there[shard.name] is None]
    done = len(shards) - len(missing)
    show(done, len(shards))
    if missing:
        hush()
        made = ray.data.from_items([{"shard": json.dumps(shard)} for shard in missing]).map_batches(
            Encoder,
            fn_constructor_args=(selection.root, folder, tokenizer, text_column, lang),
            batch_size=1,
            concurrency=min(workers, len(missing)),
        )
        for _ in made.iter_rows():
            done += 1
            show(done, len(shards))
    total: Counter[str] = Counter()
    for path in paths.values():
        counts = read_counts(path)
        if counts is None:
            raise JobError(f"{path} is not there. Run the same command again.")
        total.update(counts)
    return Corpus(list(paths.values())), dict(total)


def hush() -> None:
    """Keep Ray Data from writing a page of progress every few seconds."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


class Encoder:
    """Makes shards of the corpus; a stage of Ray Data.

    source (Folder): The root of the input.
    folder (Path): Where the corpus goes.
    tokenizer (Path): A directory with the tokenizer.
    text_column (str): The column of the texts.
    lang (str): Their language.
    """

    def __init__(
        self, source: Folder, folder: Path, tokenizer: Path, text_column: str, lang: str
    ) -> None:
        self.source, self.folder, self.text_column = source, folder, text_column
        self.tokenizer = load_tokenizer(tokenizer)
        self.nlp = sentencizer(lang)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Make shards.

        batch (dict): Shards, in JSON.
        RETURNS (dict): Their names.
        """
        shards = [Shard.from_json(json.loads(values)) for values in batch["shard"]]
        for shard in shards:
            with self.nlp.memory_zone():  # words stay known for so long
                self.encode(shard)
        return {"name": [shard.name for shard in shards]}

    def encode(self, shard: Shard) -> None:
        """Make a shard.

        shard (Shard): The rows of the input.
        """
        counts: Counter[str] = Counter(documents=0, sentences=0, pieces=0)
        documents = []
        for _, rows in read(self.source, shard, [self.text_column]):
            for raw in as_bytes(rows.column(self.text_column)):
                try:
                    text = (raw or b"").decode()
                except UnicodeDecodeError:
                    counts["not UTF-8"] += 1
                    continue
                sentences = list(divide(text, self.nlp, self.tokenizer))
                if not sentences:
                    counts["without a piece"] += 1
                    continue
                documents.append(sentences)
                counts["documents"] += 1
                counts["sentences"] += len(sentences)
                counts["pieces"] += sum(map(len, sentences))
                counts["of one sentence"] += len(sentences) == 1
        path = self.folder / Path(shard.name).with_suffix(".arrow")
        write_shard(path, documents, counts)


def sentencizer(lang: str) -> Language:
    """Make a pipeline that finds sentences by punctuation.

    lang (str): The language.
    RETURNS (Language): The pipeline.
    """
    nlp = spacy.blank(lang)
    nlp.add_pipe("sentencizer")
    nlp.max_length = 1 << 31  # nothing here needs memory by the square
    return nlp


def divide(text: str, nlp: Language, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Divide a document into sentences, and these into pieces. A line is never part of a sentence
    of another one.

    text (str): The document.
    nlp (Language): Finds sentences.
    tokenizer (Tokenizer): Divides them into pieces.
    YIELDS (np.ndarray): The ids of each sentence that has pieces.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    found = [sentence.text for doc in nlp.pipe(lines) for sentence in doc.sents]
    if found:
        pieces = tokenizer(found)
        for ids in np.split(pieces.ids, np.cumsum(pieces.counts)[:-1]):
            if len(ids):
                yield ids
