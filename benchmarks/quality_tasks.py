"""What `python -m benchmarks quality` fine-tunes on: five tasks, their scores, their batches."""

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from spacy.language import Language
from spacy.scorer import Scorer
from spacy.tokens import Doc
from spacy.training import Example

from spacy_albert.checkpoints import load_checkpoint
from spacy_albert.corpora import ConllCorpus, TableCorpus
from spacy_albert.reading import first_entries, prepare
from spacy_albert.texts import texts_of
from spacy_albert.tokenization import load_tokenizer
from spacy_albert_pipelines.en_albert_sm import corpora

from . import texts

DROPOUT, DECAY, CLIP = 0.1, 0.01, 1.0  # before the classifier; of weights; of gradients
THRESHOLD = 0.3  # of a class among several, as in monologg/GoEmotions-pytorch
POOL = 50  # batches that are sorted by length together, as in the sampler of transformers

METRICS = {"ner": "span F1", "textcat": "accuracy", "textcat_multilabel": "macro F1"}


class Task(NamedTuple):
    """One task.

    name (str): Its name in the table.
    head (str): "ner", "textcat" or "textcat_multilabel".
    read (Callable): Reads its documents: the splits train and test.
    batch (int): Documents in a step.
    epochs (float): How often the training documents are read.
    """

    name: str
    head: str
    read: Callable[[Language], dict[str, list[Doc]]]
    batch: int
    epochs: float

    def documents(self, nlp: Language, encoder: Path) -> dict[str, list[Doc]]:
        """Read the documents that fit into a window: the plain loop has no others.

        nlp (Language): For its tokenizer.
        encoder (Path): The directory of the encoder.
        RETURNS (dict[str, list[Doc]]): The splits train and test.
        """
        tokenizer = load_tokenizer(encoder)
        room = load_checkpoint(encoder).config.max_position_embeddings - 2  # [CLS] and [SEP]
        return {
            split: [doc for doc in docs if len(tokenizer([doc.text]).ids) <= room]
            for split, docs in self.read(nlp).items()
        }

    def labels(self, docs: Iterable[Doc]) -> list[str]:
        """RETURNS (list[str]): The labels that some documents are annotated with, or about."""
        if self.head == "ner":
            return sorted({ent.label_ for doc in docs for ent in doc.ents})
        return sorted({label for doc in docs for label in doc.cats})

    def score(self, gold: Sequence[Doc], found: Sequence[Doc]) -> float:
        """Score with spaCy's scorer.

        gold (Sequence[Doc]): Annotated documents.
        found (Sequence[Doc]): The same with what was said of them.
        RETURNS (float): The metric, in points of a hundred.
        """
        examples = [Example(b, a) for a, b in zip(gold, found, strict=True)]
        if self.head == "ner":
            scores = Scorer.score_spans(examples, "ents", getter=lambda doc, _: doc.ents)
            return 100 * scores["ents_f"]
        is_multi = self.head == "textcat_multilabel"
        scores = Scorer.score_cats(
            examples,
            "cats",
            labels=self.labels(gold),
            multi_label=is_multi,
            threshold=THRESHOLD if is_multi else None,
        )
        # of classes one by one, micro F1 is accuracy where each text has one and gets one
        return 100 * scores["cats_macro_f" if is_multi else "cats_micro_f"]


# Batches


class Row(NamedTuple):
    """A document as ALBERT reads it.

    ids (list[int]): [CLS], the pieces, [SEP].
    firsts (list[int]): For each token where its first piece is in `ids`; -1 if it has none.
    """

    ids: list[int]
    firsts: list[int]


def rows(docs: Sequence[Doc], encoder: Path) -> list[Row]:
    """Tokenise documents, for both sides alike.

    docs (Sequence[Doc]): Documents.
    encoder (Path): The directory with the tokenizer.
    RETURNS (list[Row]): One a document.
    """
    tokenizer = load_tokenizer(encoder)
    room = load_checkpoint(encoder).config.max_position_embeddings - 2
    made = []
    for doc in docs:
        reading = prepare(texts_of([doc]), tokenizer, room, 0)
        firsts = reading.token_counts - 1  # -1 where there is no piece
        firsts[firsts >= 0] = 1 + reading.token_pieces[first_entries(reading.token_counts)]
        ids = [tokenizer.cls_id, *reading.ids.tolist(), tokenizer.sep_id]
        made.append(Row(ids, firsts.tolist()))
    return made


def plan(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[list[int]]:
    """Say which documents are in which step. Both sides follow it.

    Documents of like lengths are together, so that little is padded. Of what is left over in an
    epoch there is no batch.

    lengths (Sequence[int]): Pieces of each document.
    batch (int): Documents in a step.
    steps (int): Steps.
    seed (int): Each seed shuffles differently, and anew for each epoch.
    RETURNS (list[list[int]]): The numbers of the documents.
    """
    rng = random.Random(seed)
    planned: list[list[int]] = []
    while len(planned) < steps:
        order = rng.sample(range(len(lengths)), len(lengths))
        epoch = []
        for start in range(0, len(order), POOL * batch):
            pool = sorted(order[start : start + POOL * batch], key=lambda i: -lengths[i])
            edges = range(0, len(pool) - batch + 1, batch)
            epoch += [pool[edge : edge + batch] for edge in edges]
        planned += rng.sample(epoch, len(epoch))
    return planned[:steps]


def padding(lengths: Sequence[int], batches: Iterable[Sequence[int]]) -> float:
    """RETURNS (float): The share of places without a piece, if batches are padded."""
    padded = pieces = 0
    for batch in batches:
        padded += max(lengths[i] for i in batch) * len(batch)
        pieces += sum(lengths[i] for i in batch)
    return 1 - pieces / padded


# Data sets


def wnut17(nlp: Language) -> dict[str, list[Doc]]:
    """Read WNUT-17 with its six labels."""
    files = {"train": "wnut17train.conll", "test": "emerging.test.annotated"}
    return {
        split: list(ConllCorpus(texts.DATA / "wnut17" / name, guess_spaces=True).docs(nlp))
        for split, name in files.items()
    }


def wikigold(nlp: Language) -> dict[str, list[Doc]]:
    """Read wikigold by sentence, split by document as for the embedded pipeline."""
    return corpora.wikigold(texts.DATA, nlp, n_sents=1)


def banking77(nlp: Language) -> dict[str, list[Doc]]:
    """Read Banking77."""
    folder = texts.DATA / "banking77"
    corpus = partial(TableCorpus, label="category", label_names=folder / "categories.json")
    return {split: list(corpus(folder / f"{split}.csv").docs(nlp)) for split in ("train", "test")}


def goemotions(nlp: Language) -> dict[str, list[Doc]]:
    """Read GoEmotions with its 28 labels."""
    folder = texts.DATA / "goemotions"
    names = folder / "labels.txt"
    corpus = partial(TableCorpus, text=0, label=1, separator=",", label_names=names)
    return {split: list(corpus(folder / f"{split}.tsv").docs(nlp)) for split in ("train", "test")}


TASKS = (
    Task("WNUT-17", "ner", wnut17, batch=16, epochs=6),
    Task("wikigold", "ner", wikigold, batch=16, epochs=12),
    Task("Banking77", "textcat", banking77, batch=32, epochs=6),
    Task(
        "sentence polarity",
        "textcat",
        partial(corpora.sentence_polarity, texts.DATA),
        batch=32,
        epochs=3,
    ),
    Task("GoEmotions", "textcat_multilabel", goemotions, batch=32, epochs=1),
)
BY_NAME = {task.name: task for task in TASKS}
