"""The way from texts to states and answers, against `transformers` and slow, obvious loops."""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from spacy_albert.checkpoints import build_albert, load_checkpoint
from spacy_albert.engine import choose_device
from spacy_albert.heads import ClsStates, States, TextHead, TokenHead, Vectors, widen
from spacy_albert.modeling import Albert, AlbertConfig
from spacy_albert.reader import Reader
from spacy_albert.reading import Reading, Texts
from spacy_albert.tokenization import SentencePieceTokenizer

CONFIG = AlbertConfig(
    vocab_size=1000,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
)
SENTENCES = (
    "Barack Obama visited London and Paris, where he met the council.\n",
    "It cost £1,234.50 (or so) — “a good price”…\t",
    "The river, the city; the 2nd match of summer 1999!  ",
    "Jané didn't say what ½ of them could've cannot ",
)


class Span(NamedTuple):
    """A text and the offsets of its tokens."""

    text: str
    starts: np.ndarray
    ends: np.ndarray


def batch(docs: list[Span]) -> Texts:
    texts, starts, ends = zip(*docs) if docs else ((), (), ())
    empty = np.empty(0, dtype=int)
    return Texts(
        texts,
        np.concatenate([empty, *starts]),
        np.concatenate([empty, *ends]),
        np.array([len(tokens) for tokens in starts], dtype=int),
    )


def span(text: str) -> Span:
    """A text with its words as tokens, and its white space as others."""
    edges = [0, *(i for i in range(1, len(text)) if text[i].isspace() != text[i - 1].isspace())]
    return Span(text, np.array(edges), np.array([*edges[1:], len(text)])) if text else no_tokens()


def no_tokens() -> Span:
    return Span("", np.empty(0, dtype=int), np.empty(0, dtype=int))


SHORT = [span(text) for text in (*SENTENCES, "Obama", " ", "\u0301", "")]
LONG = [span("".join(SENTENCES) * n) for n in (3, 7, 1)]
DOCS = [*SHORT, *LONG]


@pytest.fixture(scope="module")
def theirs() -> transformers.AlbertModel:
    torch.manual_seed(0)
    model = transformers.AlbertModel(
        transformers.AlbertConfig(**CONFIG.to_dict(), attn_implementation="eager")
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory) -> Albert:
    directory = tmp_path_factory.mktemp("albert")
    theirs.save_pretrained(directory)
    return build_albert(load_checkpoint(directory)).eval()


@pytest.fixture(scope="module")
def make_reader(ours, tiny_spm):
    def make(model: Albert = ours, **settings) -> Reader:
        settings = {
            "overlap": 12,
            "batch_pieces": 200,
            "device": "cpu",
            "precision": "float32",
            **settings,
        }
        return Reader(model, SentencePieceTokenizer(tiny_spm), **settings)

    return make


def states_of(reader: Reader, docs: list[Span]) -> tuple[Reading, Tensor, Tensor]:
    reading = reader.prepare(batch(docs))
    with torch.no_grad():
        pieces, windows = reader.read(reading, [States(), ClsStates()])
    return reading, pieces, windows


def tokens_of(reader: Reader, docs: list[Span]) -> list[Tensor]:
    reading, pieces, _ = states_of(reader, docs)
    return pooled(States(), pieces, reading)


def window_ids(reader: Reader, reading: Reading, window: int) -> Tensor:
    shown = reading.ids[reading.window_starts[window] : reading.window_stops[window]]
    return torch.tensor([[reader.tokenizer.cls_id, *shown, reader.tokenizer.sep_id]])


def slow_states(model, reader: Reader, reading: Reading) -> tuple[Tensor, Tensor]:
    """Each window alone through a model: the states of the pieces it owns, and of [CLS]."""
    pieces, windows = [], []
    for w in range(len(reading.window_starts)):
        states = model(window_ids(reader, reading, w))
        states = states if isinstance(states, Tensor) else states.last_hidden_state
        windows.append(states[0, 0])
        for piece in range(reading.window_edges[w], reading.window_edges[w + 1]):
            pieces.append(states[0, 1 + piece - reading.window_starts[w]])
    return torch.stack(pieces), torch.stack(windows)


def pooled(readout, rows: Tensor, reading: Reading) -> list[Tensor]:
    return readout.split(readout.pool(rows, reading), reading)


def slow_pool(rows: Tensor, reading: Reading, how: str) -> list[Tensor | None]:
    """One row a token, None where it has no pieces."""
    tokens: list[Tensor | None] = []
    entry = 0
    for count in reading.token_counts:
        mine = [rows[reading.token_pieces[entry + i]] for i in range(count)]
        entry += count
        tokens.append(None if not mine else mine[0] if how == "first" else sum(mine) / len(mine))
    return tokens


def assert_equal(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


# States


def test_short_documents_have_the_states_of_transformers(make_reader, theirs):
    reader = make_reader()
    reading, pieces, windows = states_of(reader, SHORT)
    assert reading.windows_per_doc.tolist() == [1] * len(SHORT)
    for doc, text in enumerate(SHORT):
        alone = reader.tokenizer([text.text])
        start, stop = reading.window_starts[doc], reading.window_stops[doc]
        assert reading.ids[start:stop].tolist() == alone.ids.tolist()
        with torch.no_grad():
            states = theirs(window_ids(reader, reading, doc)).last_hidden_state[0]
        assert_equal(pieces[start:stop], states[1:-1])
        assert_equal(windows[doc], states[0])


def test_long_documents_have_the_states_of_their_windows(make_reader, theirs):
    reader = make_reader()
    reading, pieces, windows = states_of(reader, DOCS)
    assert reading.windows_per_doc.max() > 5
    with torch.no_grad():
        expected_pieces, expected_windows = slow_states(theirs, reader, reading)
    assert_equal(pieces, expected_pieces)
    assert_equal(windows, expected_windows)


def test_no_piece_and_no_token_is_lost_between_documents(make_reader):
    reader = make_reader()
    together = reader.prepare(batch(DOCS))
    piece = token = entry = window = 0
    for i, doc in enumerate(DOCS):
        alone = reader.prepare(batch([doc]))
        n_pieces, n_tokens, n_windows = len(alone.ids), len(alone.token_counts), len(alone[1])
        entries = together.token_pieces[entry : entry + len(alone.token_pieces)] - piece
        assert together.ids[piece : piece + n_pieces].tolist() == alone.ids.tolist()
        counts = together.token_counts[token : token + n_tokens]
        assert counts.tolist() == alone.token_counts.tolist()
        assert entries.tolist() == alone.token_pieces.tolist()
        edges = together.window_edges[window : window + n_windows + 1] - piece
        assert edges.tolist() == alone.window_edges.tolist()
        assert (together.windows_per_doc[i], together.tokens_per_doc[i]) == (n_windows, n_tokens)
        piece, token, window = piece + n_pieces, token + n_tokens, window + n_windows
        entry += len(alone.token_pieces)
    assert (piece, token) == (len(together.ids), len(together.token_counts))


def test_a_document_does_not_feel_its_batch_or_its_place(make_reader):
    reader = make_reader()
    together = tokens_of(reader, DOCS)
    for doc, states in zip(DOCS, together):
        assert_equal(tokens_of(reader, [doc])[0], states)
    order = np.random.default_rng(0).permutation(len(DOCS))
    for place, states in zip(order, tokens_of(reader, [DOCS[i] for i in order])):
        assert_equal(states, together[place])


@pytest.mark.parametrize("batch_pieces", [64, 1000, 100_000])
def test_the_size_of_batches_does_not_matter(make_reader, batch_pieces):
    for states, expected in zip(
        tokens_of(make_reader(batch_pieces=batch_pieces), DOCS), tokens_of(make_reader(), DOCS)
    ):
        assert_equal(states, expected)


def test_the_size_of_windows_does_not_matter_where_a_document_fits(make_reader):
    narrow, wide = make_reader(window=46), make_reader(overlap=0)
    assert narrow.prepare(batch(SHORT)).windows_per_doc.tolist() == [1] * len(SHORT)
    for states, expected in zip(tokens_of(narrow, SHORT), tokens_of(wide, SHORT)):
        assert_equal(states, expected)


def test_a_token_lies_in_one_window(make_reader):
    reading = make_reader().prepare(batch(LONG))
    owner = np.repeat(np.arange(len(reading.window_starts)), np.diff(reading.window_edges))
    tokens = np.split(reading.token_pieces, np.cumsum(reading.token_counts)[:-1])
    assert max(map(len, tokens)) > 5
    assert all(len(set(owner[pieces])) <= 1 for pieces in tokens)


def test_a_token_of_5000_pieces(make_reader, theirs):
    text = "x9" * 2500
    doc = Span(f"the {text} end", np.array([0, 4, 5005]), np.array([3, 5004, 5008]))
    reader = make_reader()
    reading, pieces, _ = states_of(reader, [doc])
    assert reading.token_counts[1] >= 5000
    assert reading.windows_per_doc[0] >= 100
    with torch.no_grad():
        expected, _ = slow_states(theirs, reader, reading)
    assert_equal(pieces, expected)
    (tokens,) = pooled(States(), pieces, reading)
    before, mine, _ = reading.token_counts
    assert_equal(tokens[1], expected[reading.token_pieces[before : before + mine]].mean(0))


def test_a_text_of_200_000_characters_is_read_to_its_end(make_reader):
    text = "".join(SENTENCES) * (200_000 // len("".join(SENTENCES)) + 1)
    assert len(text) >= 200_000
    reader = make_reader(batch_pieces=4096)
    doc = span(text)
    (states,) = tokens_of(reader, [doc])
    assert states.isfinite().all()
    # The last window, read alone, says the same of the last words
    reading = reader.prepare(batch([doc]))
    last = window_ids(reader, reading, len(reading.window_starts) - 1)
    with torch.no_grad():
        expected = reader.model(last)[0, 1:-1]
    readable = np.flatnonzero(reading.token_counts)[-1]
    mine = reading.token_counts[readable]
    assert_equal(states[readable], expected[len(expected) - mine :].mean(0))


def test_nothing_to_read(make_reader):
    reader = make_reader()
    (states,) = tokens_of(reader, [no_tokens()])
    assert states.shape == (0, CONFIG.hidden_size)
    _, pieces, windows = states_of(reader, [no_tokens()])
    assert (len(pieces), len(windows)) == (0, 1)
    reading = reader.prepare(batch([]))
    assert [len(column) for column in reading[:8]] == [0, 0, 0, 1, 0, 0, 0, 0]


# Heads


@pytest.mark.parametrize("how", ["first", "mean"])
def test_token_scores_equal_slow_loops(make_reader, how):
    reader = make_reader()
    torch.manual_seed(0)
    head = TokenHead(CONFIG.hidden_size, 5, pooling=how).eval()
    reading, pieces, _ = states_of(reader, DOCS)
    with torch.no_grad():
        (rows,) = reader.read(reading, [head])
        scores = pooled(head, rows, reading)
    assert [len(doc) for doc in scores] == [len(doc.starts) for doc in DOCS]
    # Linear in the states: the score of the pooled state is the pooled score
    for row, state in zip(torch.cat(scores), slow_pool(pieces, reading, how)):
        if state is None:
            assert row.isnan().all()
        else:
            assert_equal(row, head.classifier(state).detach())


def test_token_states_equal_slow_loops(make_reader):
    reading, pieces, _ = states_of(make_reader(), DOCS)
    for row, state in zip(
        torch.cat(pooled(States(), pieces, reading)), slow_pool(pieces, reading, "mean")
    ):
        assert_equal(row, torch.zeros(CONFIG.hidden_size) if state is None else state)


def test_document_scores_are_means_over_windows_weighted_by_owned_pieces(make_reader):
    reader = make_reader()
    torch.manual_seed(0)
    head = TextHead(CONFIG.hidden_size, 3).eval()
    reading, _, cls = states_of(reader, DOCS)
    with torch.no_grad():
        (rows,) = reader.read(reading, [head])
        scores = pooled(head, rows, reading)
        logits = head.classifier(torch.tanh(head.pooler(cls)))
    window = 0
    for n_windows, score in zip(reading.windows_per_doc, scores):
        owned = np.diff(reading.window_edges)[window : window + n_windows].tolist()
        mine = logits[window : window + n_windows]
        window += n_windows
        if sum(owned):
            total = sum(weight * row for weight, row in zip(owned, mine))
            assert_equal(score, total / sum(owned))
        else:  # a text without pieces has one window, which counts
            assert_equal(score, mine[0])


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_equal_slow_loops(make_reader, theirs, pooling, tokens):
    reader, readout = make_reader(), Vectors(pooling, tokens)
    reading = reader.prepare(batch(DOCS))
    with torch.no_grad():
        (rows,) = reader.read(reading, [readout])
        pieces, cls = slow_states(theirs, reader, reading)
    # What is kept between the batches: without tokens, no state of a piece
    kept = {"means": len(cls), "windows": len(cls), "pieces": len(pieces)}
    assert len(rows) == kept.get(readout.unit, len(cls) + len(pieces))
    assert (len(rows) == len(cls)) is not tokens
    of_tokens = iter(slow_pool(pieces, reading, "mean"))
    window = 0
    for doc, n_windows, found in zip(DOCS, reading.windows_per_doc, pooled(readout, rows, reading)):
        edges = reading.window_edges[window : window + n_windows + 1]
        mine = pieces[edges[0] : edges[-1]]
        if pooling == "mean":
            expected = mine.mean(0) if len(mine) else torch.zeros(CONFIG.hidden_size)
        else:
            owned = np.diff(edges).tolist() if len(mine) else [1]
            states = cls[window : window + n_windows]
            expected = sum(weight * row for weight, row in zip(owned, states)) / sum(owned)
        assert_equal(found[0], expected)
        assert len(found) == (1 + len(doc.starts) if tokens else 1)
        for row in found[1:]:
            state = next(of_tokens)
            assert_equal(row, torch.zeros(CONFIG.hidden_size) if state is None else state)
        window += n_windows


def test_one_reading_serves_several_heads(make_reader):
    reader = make_reader()
    heads = [TokenHead(32, 4, "mean").eval(), TextHead(32, 3).eval(), TokenHead(32, 2, "first")]
    reading = reader.prepare(batch(DOCS))
    calls = []
    hook = reader.model.embeddings.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        together = reader.read(reading, heads)
        n_batches = len(calls)
        for head, rows in zip(heads, together):
            assert_equal(reader.read(reading, [head])[0], rows)
    hook.remove()
    assert len(calls) == 4 * n_batches


def test_gradients_equal_those_of_a_plain_graph(ours, make_reader):
    """In float64, so that only the order of additions may differ."""
    torch.manual_seed(0)
    reader = make_reader(copy.deepcopy(ours).double())
    heads = {how: TokenHead(32, 4, how).double() for how in ("first", "mean")}
    text = TextHead(32, 3).double()
    reading = reader.prepare(batch(DOCS))
    wanted = torch.randn(len(reading.token_counts), 4, dtype=torch.float64)
    wanted_text = torch.randn(len(DOCS), 3, dtype=torch.float64)
    weights = [*reader.model.parameters(), *text.parameters()]
    weights += [weight for head in heads.values() for weight in head.parameters()]

    def gradients(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found)]

    *rows, text_rows = reader.read(reading, [*heads.values(), text])
    loss = (torch.stack(pooled(text, text_rows, reading)) * wanted_text).sum()
    for found, head in zip(rows, heads.values()):
        loss = loss + (torch.cat(pooled(head, found, reading)).nan_to_num() * wanted).sum()

    pieces, cls = slow_states(reader.model, reader, reading)
    plain = torch.zeros((), dtype=torch.float64)
    for how, head in heads.items():
        for state, target in zip(slow_pool(pieces, reading, how), wanted):
            if state is not None:
                plain = plain + (head.classifier(state) * target).sum()
    logits = text.classifier(torch.tanh(text.pooler(cls)))
    owned = torch.from_numpy(np.diff(reading.window_edges)).clamp(min=1)[:, None]
    docs = zip(
        logits.split(list(reading.windows_per_doc)), owned.split(list(reading.windows_per_doc))
    )
    for (mine, weight), target in zip(docs, wanted_text):
        plain = plain + ((mine * weight).sum(0) / weight.sum() * target).sum()

    assert_equal(loss, plain, 1e-9)
    moving = 0
    for found, expected in zip(gradients(loss), gradients(plain)):
        assert_equal(found, expected, 1e-9)
        moving += bool(expected.abs().max() > 1e-4)
    assert moving >= len(weights) - 2  # all but the encoder's own pooler


def test_a_wider_head_scores_its_old_classes_as_before():
    torch.manual_seed(0)
    layer, states = nn.Linear(8, 3), torch.randn(5, 8)
    wider = widen(layer, 7)
    assert_equal(wider(states)[:, :3], layer(states), 1e-6)  # it may add up in another order
    assert wider(states)[:, 3:].abs().max() > 0
    assert wider.weight is not layer.weight


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 65}, "window = 65 does not fit this model: it takes 5 to 64 pieces"),
        ({"window": 4, "overlap": 0}, "window = 4 does not fit"),
        ({"overlap": 21}, "overlap = 21 does not fit windows of 64 pieces: it may be 0 to 20"),
        ({"overlap": -1}, "overlap = -1 does not fit"),
        ({"batch_pieces": 63}, "batch_pieces = 63 is less than one window of 64 pieces"),
        ({"device": "tpu"}, "There is no device 'tpu' here. Available: 'auto', 'cpu'"),
        ({"device": "cuda:99"}, "There is no device 'cuda:99' here"),
    ],
)
def test_settings_that_do_not_fit_are_named(make_reader, settings, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make_reader(**settings)


def test_settings_at_their_limits_fit(make_reader, theirs):
    for settings in (
        {"window": 5, "overlap": 1},
        {"window": 64, "overlap": 20, "batch_pieces": 64},
    ):
        reader = make_reader(**settings)
        reading, pieces, _ = states_of(reader, DOCS[:6])
        with torch.no_grad():
            expected, _ = slow_states(theirs, reader, reading)
        assert_equal(pieces, expected)


def test_a_vocabulary_of_another_model_is_refused(make_reader):
    small = Albert(AlbertConfig.from_dict({**CONFIG.to_dict(), "vocab_size": 999}))
    with pytest.raises(ValueError, match="1000 pieces and the model embeds only 999"):
        make_reader(small)


@pytest.mark.parametrize(("n_gpus", "automatic"), [(0, "cpu"), (2, "cuda")])
def test_choose_device(monkeypatch, n_gpus, automatic):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    assert choose_device("auto") == torch.device(automatic)
    assert choose_device("cpu") == torch.device("cpu")
    for device in ("cuda", "cuda:0", "cuda:1", "cuda:2"):
        if n_gpus and device != "cuda:2":
            assert choose_device(device) == torch.device(device)
        else:
            with pytest.raises(ValueError, match=f"There is no device '{device}' here"):
                choose_device(device)
