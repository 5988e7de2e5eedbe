"""Which spans may answer a question: against slow loops, and the heads of `transformers`."""

import itertools
import math

import numpy as np
import pytest
import spacy
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import XLNetConfig
from transformers.models.xlnet.modeling_xlnet import (
    XLNetPoolerAnswerClass,
    XLNetPoolerEndLogits,
    XLNetPoolerStartLogits,
)

from spacy_albert.reader import Whole
from spacy_albert.reading import prepare_questions
from spacy_albert.spans import BEAM, ConditionalSpanHead, Heard, SpanHead
from spacy_albert.texts import texts_of
from spacy_albert.tokenization import SentencePieceTokenizer

HIDDEN = 8
texts = st.text("ab cd é½…'\u0301\u200b\n🙂,1", max_size=60)


@pytest.fixture(scope="module")
def tokenizer(tiny_spm) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(tiny_spm)


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("en")


def hear(nlp, tokenizer, text: str, head, window: int = 24, overlap: int = 6) -> Heard:
    """Read a text in windows, without an encoder."""
    head.inputs = lambda doc: {"q": "who"}
    doc = nlp.make_doc(text)
    pieces = {"who": tokenizer(["who"]).ids}
    reading = prepare_questions(
        texts_of([doc]), tokenizer, window, overlap, [head.inputs(doc)], pieces
    )
    rows = torch.arange(int(reading.lengths.sum()))[:, None]
    (asked,) = head.split(rows, reading)
    assert asked.n_tokens == len(doc)
    assert head.fits(asked, doc)
    return asked.heard[0]


def owner(heard: Heard, first: int, last: int) -> int | None:
    """The window that shows most of what is around some pieces."""
    context = {
        w: min(first - start, stop - 1 - last)
        for w, (start, stop) in enumerate(zip(heard.starts, heard.stops))
        if start <= first and last < stop
    }
    return max(context, key=context.__getitem__) if context else None


def slow_spans(heard: Heard, logits: np.ndarray, max_length: int) -> dict[tuple[int, int], float]:
    """Every span of tokens with its score."""
    begins = np.cumsum(heard.lengths) - heard.lengths
    owned = {p for f, e in zip(heard.firsts, heard.lasts) for p in range(f, e + 1)}
    found = {}
    n = len(heard.tokens)
    for i, j in itertools.combinations_with_replacement(range(n), 2):
        if heard.tokens[j] - heard.tokens[i] >= max_length:
            continue
        w = owner(heard, heard.firsts[i], heard.lasts[j])
        if w is None:
            continue
        starts, ends = [-math.inf], [-math.inf]
        for p in range(heard.starts[w], heard.stops[w]):
            row = logits[begins[w] + heard.text_start + p - heard.starts[w]]
            after = [k for k in range(n) if heard.firsts[k] > p]
            before = [k for k in range(n) if heard.lasts[k] < p]
            if heard.firsts[i] <= p <= heard.lasts[i] or (p not in owned and after[:1] == [i]):
                starts.append(row[0])
            if heard.firsts[j] <= p <= heard.lasts[j] or (p not in owned and before[-1:] == [j]):
                ends.append(row[1])
        found[heard.tokens[i], heard.tokens[j] + 1] = float(max(starts) + max(ends))
    return found


@given(
    text=texts, max_length=st.integers(1, 12), n_best=st.integers(1, 30), seed=st.integers(0, 99)
)
@example(text="…\u0301…", max_length=3, n_best=3, seed=0)  # tokens with the same pieces
def test_the_best_spans_are_those_of_a_slow_loop(nlp, tokenizer, text, max_length, n_best, seed):
    head = SpanHead(HIDDEN, 2, 6)
    heard = hear(nlp, tokenizer, text, head)
    logits = np.random.default_rng(seed).normal(size=(len(heard.rows), 2)).astype(np.float32)
    found = head.spans(heard._replace(rows=torch.from_numpy(logits)), n_best, max_length)
    expected = slow_spans(heard, logits, max_length)
    ranking = sorted(expected.items(), key=lambda item: -item[1])[:n_best]
    spans = list(zip(found.starts.tolist(), found.ends.tolist()))
    assert spans == [span for span, _ in ranking]
    assert found.scores.tolist() == pytest.approx([score for _, score in ranking], abs=1e-5)
    begins = np.cumsum(heard.lengths) - heard.lengths
    null = min(logits[begin].sum() for begin in begins)
    if ranking:
        assert found.null_score == pytest.approx(null - ranking[0][1], abs=1e-5)
        mass = [math.exp(score) for _, score in ranking]
        shares = [each / (sum(mass) + math.exp(null)) for each in mass]
        assert found.probabilities.tolist() == pytest.approx(shares, abs=1e-6)
    else:
        assert found.null_score == math.inf


@given(text=texts, seed=st.integers(0, 99))
def test_more_windows_change_no_span_that_lies_well_inside_one(nlp, tokenizer, text, seed):
    """Where a piece has the same logits in every window, so has every span that one can show."""
    head, overlap = SpanHead(HIDDEN, 2, 6), 6
    scores = []
    for window in (24, 40, 400):
        heard = hear(nlp, tokenizer, text, head, window, overlap)
        of_piece = np.random.default_rng(seed).normal(size=(1000, 2)).astype(np.float32)
        shown = [
            np.concatenate([np.zeros((heard.text_start, 2)), of_piece[a:b], np.zeros((1, 2))])
            for a, b in zip(heard.starts, heard.stops)
        ]
        rows = torch.from_numpy(np.concatenate(shown).astype(np.float32))
        found = head.spans(heard._replace(rows=rows), 10_000, 6)
        of_span = dict(zip(zip(found.starts.tolist(), found.ends.tolist()), found.scores.tolist()))
        pieces = dict(zip(heard.tokens.tolist(), zip(heard.firsts, heard.lasts)))
        scores.append(
            {
                span: score
                for span, score in of_span.items()
                if pieces[span[1] - 1][1] - pieces[span[0]][0] < overlap
            }
        )
    assert scores[0] == scores[1] == scores[2]
    assert len(scores[0]) >= len(heard.tokens) - (heard.lasts - heard.firsts >= overlap).sum()


def test_a_window_without_the_whole_answer_points_at_cls(nlp, tokenizer):
    head = SpanHead(HIDDEN, 2, 6)
    heard = hear(nlp, tokenizer, "the river, the city; the match " * 12, head)
    assert len(heard.starts) > 3
    logits = torch.randn(len(heard.rows), 2)
    answer = int(heard.starts[2]) + 2, int(heard.starts[2]) + 4
    losses = head.losses(heard._replace(rows=logits), answer)
    for window, start, stop, loss in zip(
        logits.split(heard.lengths.tolist()), heard.starts, heard.stops, losses
    ):
        shows = start <= answer[0] and answer[1] < stop
        target = [p - start + heard.text_start if shows else 0 for p in answer]
        log_start, log_end = window.log_softmax(0).T
        expected = -(log_start[target[0]] + log_end[target[1]]) / 2
        torch.testing.assert_close(loss, expected)
    assert head.losses(heard._replace(rows=logits), None)[0] == pytest.approx(
        float(-logits[: heard.lengths[0]].log_softmax(0)[0].mean())
    )


# ALBERT's own head, against the parts of XLNet that it was made of


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    config = XLNetConfig(d_model=HIDDEN, n_head=2, layer_norm_eps=1e-12)
    made = XLNetPoolerStartLogits(config), XLNetPoolerEndLogits(config)
    return *made, XLNetPoolerAnswerClass(config)


@pytest.fixture(scope="module")
def squad2(parts) -> ConditionalSpanHead:
    names = ("start_logits", "end_logits", "answer_class")
    weights = {
        f"{name}.{key}": weight
        for name, part in zip(names, parts)
        for key, weight in part.state_dict().items()
    }
    head = ConditionalSpanHead(HIDDEN, 2, 6)
    head.load_state_dict(weights)
    assert head.sizes(weights) == (HIDDEN, 2)
    return head.eval()


WHOLE = Whole(torch.randn(40, HIDDEN), np.array([17, 6, 5, 12]), np.array([4, 3, 4, 4]))


def windows_alone():
    for window, text_start in zip(WHOLE.states.split(WHOLE.lengths.tolist()), WHOLE.text_starts):
        mask = torch.ones(len(window))
        mask[0] = 0
        mask[int(text_start) : -1] = 0
        yield window[None], mask[None], int(text_start)


def test_beams_are_those_of_xlnet(parts, squad2):
    start_logits, end_logits, answer_class = parts
    with torch.no_grad():
        rows = squad2(WHOLE)
        for row, (window, mask, text_start) in zip(rows, windows_alone()):
            log_starts = start_logits(window, p_mask=mask).log_softmax(1)
            feature = torch.einsum("bsh,bs->bh", window, log_starts.exp())
            is_none = answer_class(window, feature[:, None][:, 0], cls_index=torch.tensor([0]))
            torch.testing.assert_close(row[0], is_none[0], atol=1e-5, rtol=1e-5)
            text = range(text_start, window.shape[1] - 1)
            expected = {}
            for start in sorted(text, key=lambda p: -log_starts[0, p])[:BEAM]:
                ends = end_logits(window, start_positions=torch.tensor([start]), p_mask=mask)
                log_ends = ends.log_softmax(1)[0]
                places = [p for p in text if p >= start]
                for end in sorted(places, key=lambda p: -log_ends[p])[:BEAM]:
                    place = start - text_start, end - text_start
                    expected[place] = float(log_starts[0, start] + log_ends[end])
            beams = row[1:].view(-1, 3)
            beams = beams[beams[:, 2].isfinite()]
            found = {(int(a), int(b)): float(score) for a, b, score in beams}
            assert found == pytest.approx(expected, abs=1e-5)
            assert len(beams) == len(expected)


@pytest.mark.parametrize("answer", [(3, 4), None])
def test_the_loss_is_that_of_run_squad_v2(parts, squad2, answer):
    start_logits, end_logits, answer_class = parts
    window, mask, text_start = next(windows_alone())
    heard = Heard(
        window[0], WHOLE.lengths[:1], text_start, np.array([0]), np.array([12]), *[None] * 3
    )
    start, end = (p + text_start for p in answer) if answer else (0, 0)
    with torch.no_grad():
        logits = start_logits(window, p_mask=mask)
        of_start = F.cross_entropy(logits, torch.tensor([start]))
        ends = end_logits(window, start_positions=torch.tensor([start]), p_mask=mask)
        of_end = F.cross_entropy(ends, torch.tensor([end]))
        feature = torch.einsum("bsh,bs->bh", window, logits.softmax(1))
        is_none = answer_class(window, feature, cls_index=torch.tensor([0]))
        lacking = F.binary_cross_entropy_with_logits(is_none, torch.tensor([float(answer is None)]))
        (loss,) = squad2.losses(heard, answer)
    torch.testing.assert_close(loss, (of_start + of_end) / 2 + 0.5 * lacking)


@given(text=texts, max_length=st.integers(1, 12), seed=st.integers(0, 99))
def test_spans_of_beams_are_whole_tokens_in_the_right_window(
    nlp, tokenizer, squad2, text, max_length, seed
):
    heard = hear(nlp, tokenizer, text, squad2)
    torch.manual_seed(seed)
    n = int(heard.lengths.sum())
    text_starts = np.full(len(heard.lengths), heard.text_start)
    with torch.no_grad():
        rows = squad2(Whole(torch.randn(n, HIDDEN), heard.lengths, text_starts))
    found = squad2.spans(heard._replace(rows=rows), 20, max_length)
    assert found.null_score == pytest.approx(float(rows[:, 0].min()))
    expected: dict[tuple[int, int], float] = {}
    for w, beams in enumerate(rows[:, 1:].view(len(rows), -1, 3).tolist()):
        for a, b, score in beams:
            if score == -math.inf:
                continue
            p, q = int(a) + heard.starts[w], int(b) + heard.starts[w]
            firsts = [k for k in range(len(heard.tokens)) if heard.lasts[k] >= p][:1]
            lasts = [k for k in range(len(heard.tokens)) if heard.firsts[k] <= q][-1:]
            if not firsts or not lasts or firsts[0] > lasts[0]:
                continue
            i, j = firsts[0], lasts[0]
            span = heard.tokens[i], heard.tokens[j] + 1
            is_here = owner(heard, heard.firsts[i], heard.lasts[j]) == w
            if is_here and span[1] - span[0] <= max_length:
                expected[span] = max(score, expected.get(span, -math.inf))
    best = dict(sorted(expected.items(), key=lambda item: -item[1])[:20])
    spans = zip(found.starts.tolist(), found.ends.tolist())
    assert dict(zip(spans, found.scores.tolist())) == pytest.approx(best)
    assert (found.probabilities >= 0).all()
    assert found.probabilities.sum() <= 1 + 1e-9
