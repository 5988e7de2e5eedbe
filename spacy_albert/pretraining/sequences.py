"""A corpus -> the sequences that ALBERT is shown, in an order that only the seed decides.

As in create_pretraining_data.py, a document is divided into runs of as many sentences as fit; in
one document of ten, of fewer. A run is parted into two segments at one of its sentence borders, and
half of them change places. Three things differ:

- A run ends before the sentence that no longer fits, and the next one begins with it. Google's runs
  end after it, and what is too long is cut off: a part of the text is never read.
- A run of one sentence has no order: it is one segment, and has no part in that loss. Google gives
  it a second segment from any other document and calls that "swapped", which can be told by the
  topic alone. The same goes for the parts of a sentence that is longer than a sequence: where a
  segment begins or ends within a sentence, that would tell the order.
- Each epoch divides documents anew.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .corpus import Corpus, Shard

#: [CLS] and two [SEP].
SPECIALS = 3
#: Sequences that are shuffled together, at least.
POOL = 1 << 20
#: What random numbers are for: each has a stream of its own.
DIVIDE, SHUFFLE, MASK = range(3)
#: The epoch of what is held out: none that will ever come.
HELD_OUT = 1 << 32


class Sequence(NamedTuple):
    """A run of pieces of one document.

    epoch (int): Which time the corpus is read.
    shard, number (int): The shard, and how manieth of it in this epoch.
    start, end (int): Its pieces in the shard.
    border (int): Where its second segment begins; -1 if it has one segment.
    is_swapped (int): 1 if the second segment comes first, else 0.
    """

    epoch: int
    shard: int
    number: int
    start: int
    end: int
    border: int
    is_swapped: int


def divide(
    shard: Shard,
    documents: np.ndarray,
    starts_word: np.ndarray,
    length: int,
    short: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Divide documents into sequences.

    shard (Shard): A part of the corpus.
    documents (np.ndarray): The numbers of the documents wanted, (d,).
    starts_word (np.ndarray): For each piece of the vocabulary whether a word begins with it, (V,).
    length (int): The most pieces of a sequence, with [CLS] and [SEP].
    short (float): The share of documents whose sequences are shorter, by a length of their own.
    rng (np.random.Generator): Decides.
    RETURNS (np.ndarray): Start, end, border (or -1) and whether it is swapped, of each, (N, 4).
    """
    pieces, sentences = shard.pieces, shard.sentences
    ends = np.append(sentences[1:], len(pieces))  # where sentences end
    room = length - SPECIALS
    sequences: list[tuple[int, int, int, bool]] = []
    for document in documents.tolist():
        start, last = shard.documents[document : document + 2].tolist()
        wanted = int(rng.integers(2, room, endpoint=True)) if rng.random() < short else room
        # The first run of a long document is shorter, so that the others are not those of before
        target = int(rng.integers(1, wanted, endpoint=True)) if last - start > wanted else wanted
        number = bisect_left(sentences, start)  # the sentence we are in
        while start < last:
            if ends[number] > start + room:  # a sentence that does not fit
                words = np.flatnonzero(starts_word[pieces[start + 1 : start + room + 1]])
                end = start + 1 + int(words[-1]) if len(words) else start + room
                sequences.append((start, end, -1, False))
            elif start > sentences[number]:  # the rest of one
                end = int(ends[number])
                sequences.append((start, end, -1, False))
                number += 1
            else:
                first = number
                number = max(first + 1, bisect_right(ends, min(start + target, last)))
                end = int(ends[number - 1])
                border, is_swapped = -1, False
                if number - first > 1:
                    border, is_swapped = (
                        sentences[rng.integers(first + 1, number)],
                        rng.random() < 0.5,
                    )
                sequences.append((start, end, border, is_swapped))
            start, target = end, wanted
    return np.array(sequences, dtype=np.int64).reshape(-1, 4)


@dataclass
class Position:
    """How far a run has come in a corpus.

    epoch (int): Which time it is read.
    first (int): Of the shards, in the order of the epoch, the first whose sequences are shuffled
        together now.
    taken (int): How many of these sequences have been taken.
    """

    epoch: int = 0
    first: int = 0
    taken: int = 0


class Sequences:
    """All sequences of a corpus, again and again, shuffled.

    corpus (Corpus): The corpus.
    starts_word (np.ndarray): For each piece of the vocabulary whether a word begins with it, (V,).
    length (int): The most pieces of a sequence, with [CLS] and [SEP].
    short (float): The share of documents with shorter ones.
    held_out (int): Every so manieth document is not among them; 0 leaves none out.
    seed (int): Decides the order and all else that is random.
    position (Position): Where to begin.
    """

    def __init__(
        self,
        corpus: Corpus,
        starts_word: np.ndarray,
        length: int,
        short: float,
        held_out: int,
        seed: int,
        position: Position | None = None,
    ) -> None:
        self.corpus, self.starts_word = corpus, starts_word
        self.length, self.short, self.held_out, self.seed = length, short, held_out, seed
        self.position = position or Position()
        self._pool: np.ndarray | None = None
        self._last = 0  # of the shards in the order of the epoch, one past the last of the pool

    def rng(self, *what: int) -> np.random.Generator:
        """Make the random numbers for one thing, the same whoever asks.

        what (int): The thing: DIVIDE, SHUFFLE or MASK, and which.
        RETURNS (np.random.Generator): A stream of its own.
        """
        return np.random.default_rng([self.seed, *what])

    def documents(self, number: int, held_out: bool) -> np.ndarray:
        """Choose documents of a shard.

        number (int): The shard.
        held_out (bool): Whether those are wanted that are held out, or those for training.
        RETURNS (np.ndarray): Their numbers.
        """
        documents = np.arange(len(self.corpus.shard(number).documents) - 1)
        if not self.held_out:
            return documents[:0] if held_out else documents
        # in each shard another one, as there may be few
        is_out = (documents + number) % self.held_out == self.held_out - 1
        return documents[is_out == held_out]

    def of_shard(self, number: int, epoch: int) -> np.ndarray:
        """Divide a shard into sequences.

        number (int): The shard.
        epoch (int): The epoch; HELD_OUT for the documents that are not for training.
        RETURNS (np.ndarray): Its sequences, the fields of `Sequence` in columns, (N, 7).
        """
        shard = self.corpus.shard(number)
        documents = self.documents(number, held_out=epoch == HELD_OUT)
        rng = self.rng(DIVIDE, epoch, number)
        found = divide(shard, documents, self.starts_word, self.length, self.short, rng)
        which = np.broadcast_to([epoch, number], (len(found), 2))
        return np.concatenate([which, np.arange(len(found))[:, None], found], axis=1)

    def take(self, count: int) -> list[Sequence]:
        """Take the sequences that come next.

        count (int): How many.
        RETURNS (list[Sequence]): They.
        RAISES (ValueError): If the corpus has none.
        """
        taken: list[Sequence] = []
        empty = 0
        while len(taken) < count:
            if self._pool is None:
                self._pool = self._shuffled()
            at = self.position
            rows = self._pool[at.taken : at.taken + count - len(taken)]
            taken += map(Sequence._make, rows.tolist())
            at.taken += len(rows)
            if at.taken < len(self._pool):
                continue
            empty = 0 if len(self._pool) else empty + 1
            if empty > len(self.corpus):
                raise ValueError("The corpus has no document to train on that is not held out.")
            is_over = self._last == len(self.corpus)
            self._pool = None
            self.position = Position(at.epoch + is_over, 0 if is_over else self._last)
        return taken

    def _shuffled(self) -> np.ndarray:
        """Divide as many shards as make a pool, and shuffle their sequences."""
        epoch, first = self.position.epoch, self.position.first
        order = self.rng(SHUFFLE, epoch).permutation(len(self.corpus))
        found, size, self._last = [], 0, first
        while self._last < len(order) and size < POOL:
            found.append(self.of_shard(int(order[self._last]), epoch))
            size += len(found[-1])
            self._last += 1
        return self.rng(SHUFFLE, epoch, 1 + first).permutation(np.concatenate(found))

    def held_out_sequences(self, most: int) -> list[Sequence]:
        """Divide the documents that are held out, always in the same way.

        most (int): How many sequences are enough.
        RETURNS (list[Sequence]): They; none if nothing is held out.
        """
        found: list[Sequence] = []
        for number in range(len(self.corpus) if self.held_out else 0):
            found += map(Sequence._make, self.of_shard(number, HELD_OUT).tolist())
            if len(found) >= most:
                break
        return found[:most]
