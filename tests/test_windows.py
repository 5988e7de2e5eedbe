"""Windows and batches: what they promise, for any text that hypothesis thinks of."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_albert.batching import batches
from spacy_albert.windows import Windows, cut_windows


@st.composite
def texts(draw):
    """Size and overlap of windows, and tokens as ranges of pieces, a bare "▁" before some."""
    size = draw(st.integers(3, 40))
    overlap = draw(st.integers(0, size // 3))
    tokens, n_pieces = [], 0
    for length, gap in draw(
        st.lists(st.tuples(st.integers(1, 2 * size), st.integers(0, 1)), max_size=40)
    ):
        tokens.append((n_pieces + gap, n_pieces + gap + length))
        n_pieces += gap + length
    return size, overlap, tokens, n_pieces + draw(st.integers(0, 1))


def cut(size, overlap, tokens, n_pieces) -> Windows:
    breaks = np.array([start for start, _ in tokens], dtype=int)
    return cut_windows(np.array([n_pieces]), size, overlap, breaks)


def owners(windows: Windows) -> np.ndarray:
    """The window that owns each piece."""
    return np.repeat(np.arange(len(windows.starts)), np.diff(windows.edges))


@given(texts())
def test_every_piece_is_shown_and_owned_once(text):
    size, _, _, n_pieces = text
    starts, stops, edges, _ = windows = cut(*text)
    assert edges[0] == 0
    assert edges[-1] == n_pieces
    assert (np.diff(edges) >= 0).all()
    assert len(owners(windows)) == n_pieces
    assert (starts <= edges[:-1]).all()
    assert (edges[1:] <= stops).all()
    assert (stops - starts <= size).all()


@given(texts())
def test_windows_are_equal_and_share_the_overlap(text):
    _, overlap, _, n_pieces = text
    starts, stops, _, _ = cut(*text)
    assert starts[0] == 0
    assert stops[-1] == n_pieces
    assert len(set(stops - starts)) == 1
    assert (np.diff(starts) > 0).all()
    assert (stops[:-1] - starts[1:] >= overlap).all()


@given(texts())
def test_one_window_less_could_not_reach_the_end(text):
    size, overlap, _, n_pieces = text
    fewer = len(cut(*text).starts) - 1
    assert fewer == 0 or size + (fewer - 1) * (size - overlap) < n_pieces


@given(texts())
def test_a_piece_is_owned_where_it_has_most_context(text):
    size, overlap, _, n_pieces = text
    starts, stops, _, _ = windows = cut(size, overlap, [], n_pieces)
    for piece, owner in enumerate(owners(windows)):
        context = np.minimum(piece - starts, stops - 1 - piece)
        assert context[owner] == context.max()


@given(texts())
def test_borders_move_to_the_nearest_break_that_both_windows_see(text):
    starts, stops, edges, _ = cut(*text)
    for first, last, edge in zip(starts[1:], stops[:-1], edges[1:-1]):
        middle = (first + last) // 2
        shared = [abs(start - middle) for start, _ in text[2] if first <= start <= last]
        if shared:
            assert edge in {start for start, _ in text[2]}
        assert abs(edge - middle) == min(shared, default=0)


@given(texts())
def test_a_token_is_divided_only_if_it_is_longer_than_the_overlap(text):
    _, overlap, tokens, _ = text
    owner = owners(cut(*text))
    for start, stop in tokens:
        assert stop - start > overlap or owner[start] == owner[stop - 1]


@given(st.lists(texts(), min_size=1, max_size=6))
def test_texts_in_a_batch_have_the_windows_they_have_alone(batch):
    size, overlap, _, _ = batch[0]
    counts = np.array([n_pieces for _, _, _, n_pieces in batch])
    begins = np.cumsum(counts) - counts
    breaks = [start + b for (_, _, tokens, _), b in zip(batch, begins) for start, _ in tokens]
    starts, stops, edges, per_text = cut_windows(counts, size, overlap, np.array(breaks, dtype=int))
    alone = [cut(size, overlap, tokens, n_pieces) for _, _, tokens, n_pieces in batch]
    assert per_text.tolist() == [len(windows.starts) for windows in alone]
    assert starts.tolist() == [s + b for windows, b in zip(alone, begins) for s in windows.starts]
    assert stops.tolist() == [s + b for windows, b in zip(alone, begins) for s in windows.stops]
    borders = [e + b for windows, b in zip(alone, begins) for e in windows.edges[1:]]
    assert edges.tolist() == [0, *borders]


def test_no_texts_have_no_windows():
    none = np.empty(0, dtype=int)
    assert [len(array) for array in cut_windows(none, 510, 64, none)] == [0, 0, 1, 0]


@pytest.mark.parametrize("n_pieces", [0, 1, 509, 510])
def test_a_text_that_fits_is_one_window(n_pieces):
    starts, stops, edges, _ = cut_windows(np.array([n_pieces]), 510, 64, np.arange(n_pieces))
    assert (starts.tolist(), stops.tolist(), edges.tolist()) == ([0], [n_pieces], [0, n_pieces])


def test_one_piece_too_many_makes_two_equal_windows():
    starts, stops, edges, _ = cut_windows(np.array([511]), 510, 64, np.arange(511))
    assert starts.tolist() == [0, 223]
    assert stops.tolist() == [288, 511]
    assert edges.tolist() == [0, 255, 511]


def test_an_endless_token_is_divided_in_the_middle_of_what_windows_share():
    starts, stops, edges, _ = cut_windows(np.array([5000]), 510, 64, np.array([0]))
    assert len(starts) == 12
    assert edges[1:-1].tolist() == ((starts[1:] + stops[:-1]) // 2).tolist()


lengths_of_windows = st.lists(st.integers(2, 512), max_size=200).map(np.array)


@given(lengths_of_windows, st.integers(2, 5000), st.integers(1, 4))
def test_batches_hold_every_window_once_within_the_budget(lengths, budget, lanes):
    found = batches(lengths, budget, lanes)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
    laid_out = [lengths[i] for batch in found for i in batch]
    assert laid_out == sorted(laid_out, reverse=True)


def test_lanes_have_as_many_batches_each():
    lengths = np.random.default_rng(0).integers(32, 386, 64)
    assert len(batches(lengths, 768)) == 23
    assert len(batches(lengths, 768, lanes=2)) == 24
    # but not at any price
    assert len(batches(np.array([512] * 7), 768, lanes=4)) == 7


@given(lengths_of_windows, st.integers(2, 5000), st.randoms())
def test_the_order_of_windows_does_not_change_the_batches(lengths, budget, random):
    def shapes(lengths):
        return Counter(tuple(lengths[batch]) for batch in batches(lengths, budget))

    shuffled = lengths.tolist()
    random.shuffle(shuffled)
    assert shapes(np.array(shuffled)) == shapes(lengths)
