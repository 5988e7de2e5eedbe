"""From spaCy's documents to what ALBERT is shown: a batch against its documents one by one."""

import gzip
import json
import random
from itertools import islice

import numpy as np
import pytest
import spacy
from hypothesis import example, given
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.vocab import Vocab

from spacy_albert.reading import first_entries, prepare
from spacy_albert.texts import texts_of
from spacy_albert.tokenization import SentencePieceTokenizer

unicode_texts = st.one_of(
    st.text(max_size=60),
    st.text("ab é½…ﬁ'`’\u0301\u200b\u00a0\ufdfa▁\n🙂,1", max_size=60),
)


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("en")


@pytest.fixture(scope="module")
def tiny(tiny_spm) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(tiny_spm)


# Documents to texts


def assert_spelled(docs: list[Doc]) -> None:
    texts, starts, ends, tokens_per_doc = texts_of(docs)
    assert texts == [doc.text for doc in docs]
    assert tokens_per_doc.tolist() == [len(doc) for doc in docs]
    assert starts.tolist() == [token.idx for doc in docs for token in doc]
    assert ends.tolist() == [token.idx + len(token) for doc in docs for token in doc]


@given(texts=st.lists(unicode_texts, max_size=5), merges=st.lists(st.integers(0, 10), max_size=3))
@example(texts=["", " ", "a  b\n", "ORTH NOUN 0"], merges=[])  # spaCy's symbols are words too
def test_documents_of_any_text(nlp, texts, merges):
    docs = [nlp.make_doc(text) for text in texts]
    for doc in docs:
        for start in merges:
            if start + 2 <= len(doc):
                with doc.retokenize() as retokenizer:
                    retokenizer.merge(doc[start : start + 2])
    assert_spelled(docs)
    assert_spelled([doc[len(doc) // 3 :].as_doc() for doc in docs])


@given(
    docs=st.lists(
        st.lists(st.tuples(st.text(min_size=1, max_size=5), st.booleans()), max_size=8), max_size=4
    )
)
def test_documents_of_given_words_and_several_vocabularies(docs):
    made = []
    for doc in docs:
        words, spaces = zip(*doc) if doc else ((), ())
        made.append(Doc(Vocab(), words=list(words), spaces=list(spaces)))
    assert_spelled(made)


def test_documents_in_a_memory_zone(nlp):
    with nlp.memory_zone():
        assert_spelled(list(nlp.pipe(["zonal words", "", "more zonal  words"])))


# Texts to readings


def assert_as_alone(docs: list[Doc], tokenizer: SentencePieceTokenizer, size: int, overlap: int):
    together = prepare(texts_of(docs), tokenizer, size, overlap)
    alone = [prepare(texts_of([doc]), tokenizer, size, overlap) for doc in docs]

    def joined(name: str) -> list[int]:
        return [i for reading in alone for i in getattr(reading, name).tolist()]

    def shifted(name: str) -> list[int]:
        begins = np.cumsum([0, *(len(reading.ids) for reading in alone)]).tolist()
        return [i + b for reading, b in zip(alone, begins) for i in getattr(reading, name).tolist()]

    assert together.ids.tolist() == joined("ids")
    assert together.token_counts.tolist() == joined("token_counts")
    assert together.windows_per_doc.tolist() == joined("windows_per_doc")
    assert together.tokens_per_doc.tolist() == joined("tokens_per_doc")
    assert together.token_pieces.tolist() == shifted("token_pieces")
    assert together.window_starts.tolist() == shifted("window_starts")
    assert together.window_stops.tolist() == shifted("window_stops")
    owned = [i for reading in alone for i in np.diff(reading.window_edges).tolist()]
    assert np.diff(together.window_edges).tolist() == owned
    assert together.window_edges[0] == 0


@given(texts=st.lists(unicode_texts, max_size=5), size=st.integers(3, 12))
@example(texts=["\u0301", " ", "a", "▁", "½", ""], size=3)
def test_a_batch_is_read_as_its_documents_alone(nlp, tiny, texts, size):
    assert_as_alone([nlp.make_doc(text) for text in texts], tiny, size, size // 3)


@pytest.mark.parametrize("name", ["text_wiki_squad/wiki_squad", "text_eltec/eltec_eng"])
def test_real_paragraphs_are_read_as_alone(shared_data, nlp, name):
    vocabulary = (shared_data / "albert_vocabulary/spiece.model").read_bytes()
    with gzip.open(shared_data / f"{name}.jsonl.gz", "rt", encoding="utf8") as lines:
        some = map(json.loads, islice(lines, 100))
        paragraphs = [paragraph for entry in some for paragraph in entry["paragraphs"]]
    docs = [nlp.make_doc(text) for text in random.Random(0).sample(paragraphs, 200)]
    assert_as_alone(docs, SentencePieceTokenizer(vocabulary), 126, 32)


@pytest.mark.parametrize(
    ("texts", "n_windows", "n_tokens"),
    [([], [], []), ([""], [1], [0]), (["", " ", "\n\u3000"], [1, 1, 1], [0, 1, 1])],
)
def test_nothing_to_read(nlp, tiny, texts, n_windows, n_tokens):
    reading = prepare(texts_of([nlp.make_doc(text) for text in texts]), tiny, 510, 64)
    assert reading.windows_per_doc.tolist() == n_windows
    assert reading.tokens_per_doc.tolist() == n_tokens
    assert reading.token_counts.tolist() == [0] * sum(n_tokens)
    assert reading.window_edges.tolist() == [0] * (len(texts) + 1)
    assert len(reading.ids) == len(reading.token_pieces) == 0
    assert all(array.dtype.kind == "i" for array in reading if array is not None)


def test_a_long_document_between_short_ones_is_parted_between_tokens(nlp, tiny):
    docs = [nlp.make_doc(text) for text in ("the", "one xylophone, bubbling. " * 300, "", "market")]
    reading = prepare(texts_of(docs), tiny, 100, 20)
    assert reading.windows_per_doc.tolist()[::2] == [1, 1]
    assert reading.windows_per_doc[1] > 15
    first_pieces = reading.token_pieces[first_entries(reading.token_counts)]
    assert len(reading.ids) > len(first_pieces) * 1.3
    assert set(reading.window_edges[:-1]) <= set(first_pieces)
    assert_as_alone(docs, tiny, 100, 20)
