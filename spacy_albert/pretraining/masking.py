"""Which pieces are hidden from ALBERT, and what it sees in their place.

As in the paper, section 4.1, n-grams of up to three whole words are masked, with p(n) in the
proportion of 1/n. Of the pieces in them 80 % become [MASK], 10 % stay, and 10 % become any piece of
the vocabulary.

create_pretraining_data.py draws n-grams until 15 % of a sequence are reached, and passes over those
that meet an earlier one or are too long for the rest, so long ones are rarer than p(n) says. It
also stops at 20 pieces unless told otherwise, which is 4 % of 512. Here each segment is parted into
n-grams with lengths of p(n), and each of these is chosen with a probability of 15 %: so none meet,
none cross a segment border, and lengths and share are as the paper has them.
"""

import string
from collections.abc import Iterable

import numpy as np

from ..tokenization import SPECIAL_PIECES

#: The share of n-grams to predict, and the longest in words.
MASKED, LONGEST = 0.15, 3
#: The shares of chosen pieces that are hidden, and that are hidden or stay.
HIDDEN, HIDDEN_OR_KEPT = 0.8, 0.9
_LENGTHS = 1 / np.arange(1, LONGEST + 1)
_EDGES = np.cumsum(_LENGTHS / _LENGTHS.sum())[:-1]


def begins_word(vocabulary: Iterable[str]) -> np.ndarray:
    """Tell with which pieces a word begins, as `_is_start_piece_sp` of create_pretraining_data.py
    does: what follows a blank, a punctuation mark, or anything else than letters from a to z; in
    a vocabulary that keeps them, also from A to Z.

    vocabulary (Iterable[str]): The pieces, in the order of their ids.
    RETURNS (np.ndarray): (V,) bool.
    """
    joins = set(string.ascii_letters + string.punctuation)
    special = set(SPECIAL_PIECES.values())
    return np.array(
        [
            piece.startswith(("▁", "<"))
            or piece in special
            or (len(piece) == 1 and piece in string.punctuation)
            or not joins.issuperset(piece)
            for piece in vocabulary
        ]
    )


def ngrams(starts_word: np.ndarray, border: int, rng: np.random.Generator) -> np.ndarray:
    """Part a sequence into n-grams of words.

    starts_word (np.ndarray): With which pieces of the sequence a word begins, (P,) bool.
    border (int): Where its second segment begins, and so an n-gram; 0 if it has one segment.
    rng (np.random.Generator): Decides.
    RETURNS (np.ndarray): The number of the n-gram that each piece is in, (P,).
    """
    starts_word = starts_word.copy()
    starts_word[[0, border]] = True
    words = np.flatnonzero(starts_word)
    lengths = 1 + np.searchsorted(_EDGES, rng.random(len(words)), side="right")
    firsts = np.append(0, np.cumsum(lengths))
    starts = np.zeros(len(starts_word), dtype=bool)
    starts[words[firsts[firsts < len(words)]]] = True
    starts[border] = True
    return np.cumsum(starts) - 1


def mask(
    ids: np.ndarray, border: int, starts_word: np.ndarray, mask_id: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mask a sequence.

    ids (np.ndarray): The pieces of both segments, without [CLS] and [SEP], (P,).
    border (int): Where its second segment begins; 0 if it has one segment.
    starts_word (np.ndarray): With which pieces of the vocabulary a word begins, (V,) bool.
    mask_id (int): The id of [MASK].
    rng (np.random.Generator): Decides.
    RETURNS (tuple[np.ndarray, np.ndarray]): The places of the pieces to predict, ascending, and
        what is to be seen there.
    """
    ngram = ngrams(starts_word[ids], border, rng)
    chosen = rng.random(ngram[-1] + 1) < MASKED
    places = np.flatnonzero(chosen[ngram])
    fate = rng.random(len(places))
    anything = rng.integers(0, len(starts_word), len(places))
    seen = np.where(fate < HIDDEN_OR_KEPT, ids[places], anything)
    return places, np.where(fate < HIDDEN, mask_id, seen)
