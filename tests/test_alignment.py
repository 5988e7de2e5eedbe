"""Alignment against a slow, obvious implementation, on real paragraphs and on any Unicode."""

import csv
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import spacy
from hypothesis import example, given
from hypothesis import strategies as st
from spacy.tokens import Doc

from spacy_albert.alignment import align, expand
from spacy_albert.texts import texts_of
from spacy_albert.tokenization import Pieces, SentencePieceTokenizer


def slow_align(doc: Doc, pieces: Pieces) -> list[list[int]]:
    """For each token, the pieces that hold one of its non-space characters."""
    holders: list[list[int]] = [[] for _ in doc.text]
    for piece, (start, end) in enumerate(zip(pieces.starts.tolist(), pieces.ends.tolist())):
        for place in range(start, end):
            holders[place].append(piece)
    found = []
    for token in doc:
        mine: dict[int, None] = {}  # in order, without repeats
        for place, character in enumerate(token.text, token.idx):
            if not character.isspace():
                mine.update(dict.fromkeys(holders[place]))
        found.append(list(mine))
    return found


def fast_align(doc: Doc, pieces: Pieces) -> list[list[int]]:
    _, starts, ends, _ = texts_of([doc])
    found, counts = align(starts, ends, pieces.starts, pieces.ends)
    assert counts.sum() == len(found)
    return [mine.tolist() for mine in np.split(found, np.cumsum(counts)[:-1])] if len(doc) else []


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("en")


@pytest.fixture(scope="module")
def tiny(tiny_spm) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(tiny_spm)


@pytest.fixture(scope="module")
def released(shared_data) -> SentencePieceTokenizer:
    return SentencePieceTokenizer((shared_data / "albert_vocabulary/spiece.model").read_bytes())


def jsonl_paragraphs(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf8") as lines:
        for line in lines:
            yield from json.loads(line)["paragraphs"]


def comments(path: Path) -> Iterator[str]:
    with path.open(encoding="utf8", newline="") as rows:
        for text, *_ in csv.reader(rows, delimiter="\t"):
            yield text


def tweets(path: Path) -> Iterator[str]:
    words: list[str] = []
    for line in path.read_text(encoding="utf8").split("\n"):
        if line.strip():
            words.append(line.split("\t")[0])
        elif words:
            yield " ".join(words)
            words = []


def sample(texts: Iterator[str], count: int) -> list[str]:
    return random.Random(0).sample(list(texts), count)


def paragraphs(data: Path, n_squad: int | None, n_others: int) -> list[str]:
    squad = list(jsonl_paragraphs(data / "text_wiki_squad/wiki_squad.jsonl.gz"))
    return [
        *(squad if n_squad is None else sample(iter(squad), n_squad)),
        *sample(jsonl_paragraphs(data / "text_eltec/eltec_eng.jsonl.gz"), n_others),
        *sample(jsonl_paragraphs(data / "text_openstax/openstax.jsonl.gz"), n_others),
        *sample(comments(data / "goemotions/train.tsv"), n_others),
        *sample(tweets(data / "wnut17/emerging.test.annotated"), n_others),
    ]


@pytest.mark.parametrize(
    ("n_squad", "n_others"), [(500, 250), pytest.param(None, 1000, marks=pytest.mark.slow)]
)
def test_real_paragraphs_align_as_the_slow_way_says(shared_data, released, nlp, n_squad, n_others):
    texts = paragraphs(shared_data, n_squad, n_others)
    assert len(texts) >= (1500 if n_squad else 20_000)
    for text in texts:
        doc, pieces = nlp.make_doc(text), released([text])
        assert fast_align(doc, pieces) == slow_align(doc, pieces), text


@given(text=st.text(max_size=60), merges=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4))))
@example(text=" \u0301a", merges=[])
@example(text="a\u00b4b \ufdfa.", merges=[])
@example(text="½\u0301 ½", merges=[(0, 2)])
def test_any_text_aligns_as_the_slow_way_says(nlp, tiny, text, merges):
    doc = nlp.make_doc(text)
    with doc.retokenize() as retokenizer:
        taken = 0
        for start, length in sorted(merges):
            if taken <= start and start + length <= len(doc):
                retokenizer.merge(doc[start : start + length])
                taken = start + length
    pieces = tiny([text])
    assert fast_align(doc, pieces) == slow_align(doc, pieces)


@given(
    text=st.text(alphabet="aé½…ﬁ'’\u0301\u200b\ufe0f\u00a0\ufdfa\n🙂nt", max_size=30),
    seed=st.randoms(),
)
def test_tokens_may_begin_and_end_anywhere(nlp, tiny, text, seed):
    """Not where spaCy's tokenizer would put them: inside a cluster, a number, a contraction."""
    words = []
    for part in text.split(" "):
        while part:
            cut = seed.randint(1, len(part))
            words.append(part[:cut])
            part = part[cut:]
    doc = Doc(nlp.vocab, words=words, spaces=[False] * len(words))
    pieces = tiny([doc.text])
    assert fast_align(doc, pieces) == slow_align(doc, pieces)


def by_token(doc: Doc, tokenizer: SentencePieceTokenizer) -> list[tuple[str, list[str]]]:
    """Each token with its pieces in writing."""
    pieces = tokenizer([doc.text])
    write = tokenizer._processor.IdToPiece
    return [
        (token.text, [write(int(pieces.ids[piece])) for piece in mine])
        for token, mine in zip(doc, fast_align(doc, pieces))
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Barack Obama visited the U.S.",
            "Barack ▁barack|Obama ▁obama|visited ▁visited|the ▁the|U.S. ▁u . s .",
        ),
        ("I don't.", "I ▁i|do ▁don|n't ▁don ' t|. ."),  # "▁don" crosses a border of tokens
        ("You cannot go", "You ▁you|can ▁cannot|not ▁cannot|go ▁go"),
        ("½ cup…", "½ ▁1 <unk> 2|cup ▁cup|… . . ."),  # one character, several pieces
        ("ﬁne e\u0301te\u0301", "ﬁne ▁fine|e\u0301te\u0301 ete"),  # a bare "▁" before "ete"
        ("b\u200bc d\ufe0f", "b\u200bc ▁b ▁c|d\ufe0f d <unk>"),
        ("1,000, and", "1,000 ▁1,000|, ,|and ▁and"),
    ],
)
def test_tokens_have_their_pieces_and_no_others(nlp, released, text, expected):
    doc = nlp.make_doc(text)
    assert "|".join(" ".join([token, *mine]) for token, mine in by_token(doc, released)) == expected


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("a \n\n b", [1, 0, 1]),
        ("a \u200b b", [1, 0, 1]),  # SentencePiece makes white space of it
        ("\u0301", [0]),  # an accent alone leaves no trace
        ("   ", [0]),
        ("", []),
    ],
)
def test_what_albert_does_not_read_has_no_pieces(nlp, released, text, readable):
    doc = nlp.make_doc(text)
    _, starts, ends, _ = texts_of([doc])
    pieces = released([text])
    assert align(starts, ends, pieces.starts, pieces.ends).counts.tolist() == readable


def test_merged_tokens_have_the_pieces_of_their_parts(nlp, released):
    doc = nlp.make_doc("in New  York City now")
    before = fast_align(doc, released([doc.text]))
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[1:5])  # the second blank is a token of its own
    assert [token.text for token in doc] == ["in", "New  York City", "now"]
    after = fast_align(doc, released([doc.text]))
    assert after == [before[0], [piece for mine in before[1:5] for piece in mine], before[5]]


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 5))))
def test_expand_concatenates_ranges(ranges):
    starts, counts = np.array(ranges, dtype=int).reshape(-1, 2).T
    assert expand(starts, counts).tolist() == [s + i for s, n in ranges for i in range(n)]
