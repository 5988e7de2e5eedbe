"""Two texts read together: against `transformers`, and every part of one with every part of the
other.
"""

from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from spacy_albert.checkpoints import build_albert, load_checkpoint
from spacy_albert.heads import ClsStates, PositionStates, States
from spacy_albert.reader import Reader
from spacy_albert.reading import Reading, first_entries, prepare
from spacy_albert.texts import texts_of
from spacy_albert.tokenization import SentencePieceTokenizer, Tokenizer

FIRSTS = ["who was in London?", "what is the river (in Paris)", "cannot", ""]
SECONDS = ["Michael Jane was in London, and Obama in Paris.", "the 9,000 books", "café ½", " "]
LONG = "The river, the city; the 2nd match of summer 1999! " * 9


@pytest.fixture(scope="module")
def checkpoint(tiny_spm, tmp_path_factory) -> Path:
    """A random model of transformers, whose segments differ."""
    folder = tmp_path_factory.mktemp("albert")
    config = transformers.AlbertConfig(
        vocab_size=1000,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    transformers.AlbertModel(config).save_pretrained(folder)
    (folder / "spiece.model").write_bytes(tiny_spm)
    return folder


@pytest.fixture(scope="module")
def make_reader(checkpoint, tiny_spm):
    def make(**settings) -> Reader:
        model = build_albert(load_checkpoint(checkpoint))
        settings = {"overlap": 8, "device": "cpu", "precision": "float32", **settings}
        return Reader(model, SentencePieceTokenizer(tiny_spm), **settings)

    return make


@pytest.fixture(scope="module")
def reader(make_reader) -> Reader:
    return make_reader()


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("en")


def read(reader: Reader, reading: Reading, *readouts) -> list[torch.Tensor]:
    with torch.inference_mode():
        return reader.read(reading, readouts)


def by_name(texts: list[str]) -> dict[str, str]:
    return {str(number): text for number, text in enumerate(texts)}


# States are those of transformers


@pytest.mark.parametrize("precision", ["torch", "openvino"])
def test_states_of_two_texts_are_those_of_transformers(checkpoint, make_reader, precision):
    if precision == "openvino":
        pytest.importorskip("openvino")
    reader = make_reader(batch_pieces=64)  # several batches
    if precision == "torch":
        reader.engine.choice = reader.engine.choice._replace(executor="torch")
    tokenizer = transformers.AlbertTokenizer.from_pretrained(checkpoint)
    model = transformers.AlbertModel.from_pretrained(checkpoint).eval()
    pairs = [(first, second) for first in FIRSTS for second in SECONDS]
    reading = reader.prepare_pairs(*zip(*pairs))
    cls, positions = read(reader, reading, ClsStates(), PositionStates())
    positions = positions.split(reading.lengths.tolist())
    for number, pair in enumerate(pairs):
        encoded = tokenizer(*pair, return_tensors="pt")
        with torch.no_grad():
            expected = model(**encoded).last_hidden_state[0]
            one_segment = model(encoded["input_ids"]).last_hidden_state[0]
        torch.testing.assert_close(positions[number], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cls[number], expected[0], atol=1e-5, rtol=1e-5)
        assert (one_segment - expected).abs().max() > 0.01


def test_states_of_questions_over_windows_are_those_of_transformers(checkpoint, reader, nlp):
    docs = [nlp.make_doc(text) for text in (SECONDS[0], LONG, "")]
    questions = [by_name(FIRSTS[:2]), by_name(FIRSTS[:1]), by_name(FIRSTS[1:3])]
    reading = reader.prepare_questions(texts_of(docs), questions, overlap=12)
    pieces, positions = read(reader, reading, States(), PositionStates())
    positions = positions.split(reading.lengths.tolist())
    assert reading.windows_per_doc.tolist()[:2] == [1, 1]
    assert reading.windows_per_doc[2] > 3
    model = transformers.AlbertModel.from_pretrained(checkpoint).eval()
    cls, sep = reader.tokenizer.cls_id, reader.tokenizer.sep_id
    asked = [question for of_doc in questions for question in of_doc.values()]
    entries = np.repeat(np.arange(len(asked)), reading.windows_per_doc)
    owned = []
    for w, entry in enumerate(entries):
        question = reader.tokenizer([asked[entry]]).ids.tolist()
        text = reading.ids[reading.window_starts[w] : reading.window_stops[w]].tolist()
        ids = torch.tensor([[cls, *question, sep, *text, sep]])
        assert ids.shape[1] <= reader.window
        segments = torch.zeros_like(ids)
        segments[0, len(question) + 2 :] = 1
        with torch.no_grad():
            expected = model(ids, token_type_ids=segments).last_hidden_state[0]
        torch.testing.assert_close(positions[w], expected, atol=1e-5, rtol=1e-5)
        text_states = expected[len(question) + 2 : -1]
        first, last = reading.window_edges[w : w + 2] - reading.window_starts[w]
        owned.append(text_states[first:last])
    torch.testing.assert_close(pieces, torch.cat(owned), atol=1e-5, rtol=1e-5)


# Every question has the document as if it were read alone

texts = st.text("ab é½…'\u0301\u200b\n🙂,1", max_size=40)


@given(
    asked=st.lists(st.tuples(texts, st.lists(st.sampled_from(FIRSTS[:3]), max_size=3)), max_size=4),
    overlap=st.integers(0, 40),
)
def test_a_document_is_there_once_for_each_question(nlp, reader, asked, overlap):
    docs = [nlp.make_doc(text) for text, _ in asked]
    questions = [by_name(of_doc) for _, of_doc in asked]
    reading = reader.prepare_questions(texts_of(docs), questions, overlap)
    entries = [(doc, q) for doc, (_, of_doc) in zip(docs, asked) for q in of_doc]
    begin = 0
    windows = np.append(0, np.cumsum(reading.windows_per_doc))
    tokens = np.append(0, np.cumsum(reading.tokens_per_doc))
    owners = np.append(0, np.cumsum(reading.token_counts))
    assert len(entries) == len(reading.windows_per_doc)
    for number, (doc, question) in enumerate(entries):
        n_question = len(reader.tokenizer([question]).ids)
        size = reader.window - 3 - n_question
        alone = prepare(texts_of([doc]), reader.tokenizer, size, min(overlap, size // 3))
        here = slice(*windows[number : number + 2])
        assert (reading.window_starts[here] - begin).tolist() == alone.window_starts.tolist()
        assert (reading.window_stops[here] - begin).tolist() == alone.window_stops.tolist()
        edges = reading.window_edges[here.start : here.stop + 1] - begin
        assert edges.tolist() == alone.window_edges.tolist()
        assert (reading.text_starts[here] == n_question + 2).all()
        mine = slice(*tokens[number : number + 2])
        assert reading.token_counts[mine].tolist() == alone.token_counts.tolist()
        pieces = reading.token_pieces[owners[mine.start] : owners[mine.stop]] - begin
        assert pieces.tolist() == alone.token_pieces.tolist()
        assert reading.ids[begin : begin + len(alone.ids)].tolist() == alone.ids.tolist()
        begin += len(alone.ids)
    assert begin == len(reading.ids)


def test_windows_part_between_tokens(nlp, reader):
    doc = nlp.make_doc(LONG)
    reading = reader.prepare_questions(texts_of([doc]), [by_name(FIRSTS[:2])], 18)
    firsts = reading.token_pieces[first_entries(reading.token_counts)]
    assert set(reading.window_edges[:-1]) <= set(firsts)


def test_a_question_is_divided_once(nlp, make_reader, monkeypatch):
    reader = make_reader()
    divided: list[str] = []
    run = SentencePieceTokenizer.__call__

    def counted(self: Tokenizer, texts):
        divided.extend(texts)
        return run(self, texts)

    monkeypatch.setattr(SentencePieceTokenizer, "__call__", counted)
    docs = [nlp.make_doc(text) for text in SECONDS]
    for _ in range(3):
        reader.prepare_questions(texts_of(docs), [by_name(FIRSTS[:2])] * 4, 8)
    assert [text for text in divided if text in FIRSTS] == FIRSTS[:2]
    assert len(divided) == 2 + 3 * len(SECONDS)  # a document once, whatever is asked of it


@pytest.mark.parametrize("question", ["the river " * 40, "", " \n", "\u0301"])
def test_a_question_that_does_not_fit_is_named(nlp, reader, question):
    with pytest.raises(ValueError, match=r"pieces\. It may have 1 to 30, half of a window"):
        reader.prepare_questions(texts_of([nlp.make_doc("a")]), [{"": question}], 8)


# Of two texts every part meets every part


@given(
    pairs=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=4),
    overlap=st.integers(0, 20),
)
def test_windows_of_two_texts_own_all_of_one_times_all_of_the_other(reader, pairs, overlap):
    word = "river "
    reader.overlap = overlap
    reading = reader.prepare_pairs([word * a for a, _ in pairs], [word * b for _, b in pairs])
    assert (reading.lengths <= reader.window).all()
    counts_a = [len(reader.tokenizer([word * a]).ids) for a, _ in pairs]
    counts_b = [len(reader.tokenizer([word * b]).ids) for _, b in pairs]
    first_window = 0
    for number, (a, b) in enumerate(zip(counts_a, counts_b)):
        n_windows = reading.windows_per_doc[number]
        area = 0
        for w in range(first_window, first_window + n_windows):
            start, stop = reading.window_edges[w : w + 2]
            assert reading.window_starts[w] <= start <= stop <= reading.window_stops[w]
            area += reading.firsts.owned[w] * (stop - start)
            shown = reading.firsts.stops[w] - reading.firsts.starts[w]
            assert reading.firsts.owned[w] <= shown
        assert area == a * b
        # a text that is not long stands in each window whole
        if a <= 30 or a + b <= reader.window - 3:
            part = slice(first_window, first_window + n_windows)
            assert (reading.text_starts[part] == a + 2).all()
        assert (n_windows == 1) == (a + b <= reader.window - 3)
        first_window += n_windows
    assert first_window == len(reading.window_starts)
