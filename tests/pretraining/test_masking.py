"""Masks against the recipe: n-grams of whole words, p(n) as 1/n, 15 % of pieces, 80/10/10."""

import string
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_albert.pretraining.masking import begins_word, mask, ngrams
from spacy_albert.tokenization import SentencePieceTokenizer

V, MASK = 50, 4
STARTS = np.random.default_rng(0).random(V) < 0.6


def is_start_piece(piece: str) -> bool:
    """`_is_start_piece_sp` of create_pretraining_data.py, in words of our own."""
    special = set('!"#$%&"()*+,-./:;?@[\\]^_`{|}~') | {"<", ">", "=", "'"}
    letters = set(string.ascii_lowercase) | special
    return piece[0] in "▁<" or piece in special or any(c not in letters for c in piece)


def test_where_words_begin():
    pieces = ["▁the", "s", "ing", "<unk>", "▁", ".", "9", "1st", "é", "don't", "-", "(", "▁(a"]
    assert begins_word(pieces).tolist() == [is_start_piece(piece) for piece in pieces]
    capitals = ["▁Lon", "DON", "Ts", "[MASK]"]
    assert begins_word(capitals).tolist() == [True, False, False, True]


def test_where_words_begin_in_the_released_vocabulary(shared_data):
    path = shared_data / "albert_vocabulary" / "spiece.model"
    pieces = SentencePieceTokenizer(path.read_bytes()).pieces()
    assert begins_word(pieces).tolist() == [is_start_piece(piece) for piece in pieces]


def words_of(ids: np.ndarray, border: int) -> list[int]:
    """The word that each piece is in."""
    starts = STARTS[ids].copy()
    starts[[0, border]] = True
    return np.cumsum(starts).tolist()


sequences = st.lists(st.integers(5, V - 1), min_size=1, max_size=60).flatmap(
    lambda ids: st.tuples(st.just(np.array(ids)), st.integers(0, len(ids) - 1))
)


@given(sequences, st.integers(0, 2**32))
def test_words_are_masked_whole_and_no_ngram_crosses_the_border(sequence, seed):
    ids, border = sequence
    words = words_of(ids, border)
    parts = ngrams(STARTS[ids], border, np.random.default_rng(seed)).tolist()
    assert parts == sorted(parts)
    for _, inside in groupby(range(len(ids)), key=parts.__getitem__):
        places = list(inside)
        assert 1 <= len({words[place] for place in places}) <= 3
        assert not places[0] < border <= places[-1]
    for word in set(words):
        assert len({parts[i] for i in range(len(ids)) if words[i] == word}) == 1
    places, seen = mask(ids, border, STARTS, MASK, np.random.default_rng(seed))
    assert len(places) == len(seen)
    assert (np.diff(places) > 0).all()
    chosen = set(places.tolist())
    for word in set(words):
        inside = {i for i in range(len(ids)) if words[i] == word}
        assert inside <= chosen or not inside & chosen
    again, seen_again = mask(ids, border, STARTS, MASK, np.random.default_rng(seed))
    assert again.tolist() == places.tolist()
    assert seen_again.tolist() == seen.tolist()


def test_shares_over_a_million_pieces():
    """Each share is within four standard errors of what the recipe says."""
    rng = np.random.default_rng(1)
    pieces, masked, kept, hidden, lengths = 0, 0, 0, 0, Counter()
    while pieces < 1_200_000:
        ids = rng.integers(5, V, 509)
        border = int(rng.integers(1, 509))
        places, seen = mask(ids, border, STARTS, MASK, rng)
        pieces += len(ids)
        masked += len(places)
        hidden += (seen == MASK).sum()
        kept += (seen == ids[places]).sum()
        # lengths in words, of n-grams that begin where the end of a segment cannot cut them
        parts, words = ngrams(STARTS[ids], border, rng), words_of(ids, border)
        firsts = {part: words[i] for i, part in reversed(list(enumerate(parts.tolist())))}
        lasts = dict(zip(parts.tolist(), words))
        ends = words[border - 1], words[-1]
        for part, first in firsts.items():
            if min(end - first for end in ends if end >= first) >= 2:
                lengths[lasts[part] - first + 1] += 1
    # an n-gram is chosen or not, so pieces come in clusters: three pieces a draw, about
    assert masked / pieces == pytest.approx(0.15, abs=4 * (0.15 * 0.85 * 3.5 / pieces) ** 0.5)
    error = 4 * (0.25 / masked) ** 0.5
    assert hidden / masked == pytest.approx(0.8 + 0.1 / V, abs=error)
    assert kept / masked == pytest.approx(0.1 + 0.1 / V, abs=error)
    total = sum(lengths.values())
    for n, share in ((1, 6 / 11), (2, 3 / 11), (3, 2 / 11)):
        assert lengths[n] / total == pytest.approx(share, abs=4 * (0.25 / total) ** 0.5)
