"""Texts of a collection as sentences of pieces: all of them, in order, and what is passed over."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tables import write

from spacy_albert.pretraining.corpus import Corpus, read_counts, read_shard
from spacy_albert.tokenization import SentencePieceTokenizer
from spacy_albert_jobs.inputs import read_footers, select
from spacy_albert_jobs.plan import cut
from spacy_albert_jobs.prepare import Encoder, divide, sentencizer


@pytest.fixture(scope="module")
def vocabulary(tiny_spm, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    SentencePieceTokenizer(tiny_spm).save(folder)
    return folder


def encode(folder: Path, vocabulary: Path, values: pa.Array, row_group_size: int = 1000) -> Corpus:
    write(folder / "in" / "a.parquet", pa.table({"body": values}), row_group_size)
    selection = select(folder / "in")
    files, _ = read_footers(selection, "body")
    shards = cut(files, 300)
    encoder = Encoder(selection.root, folder, vocabulary, "body", "en")
    encoder({"shard": np.array([json.dumps(shard) for shard in shards])})
    return Corpus([folder / Path(shard.name).with_suffix(".arrow") for shard in shards])


def test_sentences_and_lines_end_where_they_do(tiny_spm):
    text = "The river was long. Was it?\nNo! A heading without an end\n\n  \nAnd the last one"
    tokenizer = SentencePieceTokenizer(tiny_spm)
    found = list(divide(text, sentencizer("en"), tokenizer))
    sentences = [
        "The river was long.",
        "Was it?",
        "No!",
        "A heading without an end",
        "And the last one",
    ]
    assert [ids.tolist() for ids in found] == [tokenizer([s]).ids.tolist() for s in sentences]


def test_rows_come_in_order_and_what_is_no_text_is_counted(vocabulary, tmp_path, tiny_spm):
    values = [
        b"One sentence only",
        None,
        b"",
        b" \n \t",
        b"\xff\xfe not UTF-8",
        b"Two of them. Here they are.",
        *(f"Row {n} of the river. It is long.".encode() for n in range(40)),
    ]
    corpus = encode(tmp_path, vocabulary, pa.array(values, pa.binary()), row_group_size=7)
    assert len(corpus) > 3
    tokenizer = SentencePieceTokenizer(tiny_spm)
    wanted = [tokenizer([text]).ids for text in ("One sentence only", "Two of them.")]
    shards = [read_shard(path) for path in corpus.paths]
    pieces = np.concatenate([shard.pieces for shard in shards])
    assert pieces[: sum(map(len, wanted))].tolist() == np.concatenate(wanted).tolist()
    total: dict[str, int] = {}
    for path in corpus.paths:
        for what, number in (read_counts(path) or {}).items():
            total[what] = total.get(what, 0) + number
    assert total == {
        "documents": 42,
        "sentences": 1 + 2 + 2 * 40,
        "pieces": len(pieces),
        "of one sentence": 1,
        "without a piece": 3,
        "not UTF-8": 1,
    }
    assert sum(len(shard.documents) - 1 for shard in shards) == 42
    assert sum(len(shard.sentences) for shard in shards) == 83


def test_a_very_long_line_is_no_trouble(vocabulary, tmp_path):
    long = " ".join(itertools.repeat("the river was long.", 60_000))  # over spaCy's own limit
    corpus = encode(tmp_path, vocabulary, pa.array([long]))
    (shard,) = [corpus.shard(number) for number in range(len(corpus))]
    assert len(shard.sentences) == 60_000
