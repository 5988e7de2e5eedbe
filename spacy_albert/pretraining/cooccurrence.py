"""Vectors of pieces from counts of their neighbours: where word embeddings can begin.

What stands near a piece tells much of what it means. To count that takes a minute; a network needs
hours to learn it. Sources: Levy and Goldberg, "Neural word embedding as implicit matrix
factorization", 2014; Levy, Goldberg and Dagan, "Improving distributional similarity with lessons
learned from word embeddings", 2015, whose settings are taken.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .sequences import Sequences

#: Pieces to either side that are neighbours.
WINDOW = 5
#: Of the pieces, so many of the most frequent count as neighbours.
CONTEXTS = 4096
#: What the frequencies of neighbours are raised to, lest rare ones count for too much.
SMOOTHING = 0.75
#: What the sizes of directions are raised to.
WEIGHTING = 0.5
#: Directions beyond those wanted, and rounds, with which the leading ones are found.
SPARE, ROUNDS = 32, 6


def neighbour_vectors(sequences: Sequences, vocab_size: int, width: int) -> Tensor:
    """Make vectors of pieces from the documents of a corpus that are for training.

    sequences (Sequences): The corpus, and which documents are held out.
    vocab_size (int): Pieces in the vocabulary, V.
    width (int): Width of the vectors, E.
    RETURNS (Tensor): A vector for each piece, with a mean square of 1, (V, E) float32; zeros for
        pieces that have no neighbours.
    """
    counts = count_neighbours(sequences, vocab_size)
    return leading_directions(mutual_information(counts), width)


def count_neighbours(sequences: Sequences, vocab_size: int) -> Tensor:
    """Count how often pieces stand near each other in a document.

    sequences (Sequences): The corpus, and which documents are held out.
    vocab_size (int): Pieces in the vocabulary, V.
    RETURNS (Tensor): How often each piece stands near each of the most frequent ones, (V, C)
        float32.
    """
    frequency = np.zeros(vocab_size, np.int64)
    for pieces, _ in trained_on(sequences):
        frequency += np.bincount(pieces, minlength=vocab_size)
    contexts = np.argsort(-frequency, kind="stable")[:CONTEXTS]
    column = np.full(vocab_size, -1)
    column[contexts] = np.arange(len(contexts))
    counts = np.zeros((vocab_size, len(contexts)), np.float32)
    for pieces, ends in trained_on(sequences):
        for distance in range(1, WINDOW + 1):
            (left,) = np.nonzero(np.arange(distance, len(pieces)) < ends[:-distance])
            right = left + distance
            for here, there in ((left, right), (right, left)):
                columns = column[pieces[there]]
                cells = (pieces[here] * len(contexts) + columns)[columns >= 0]
                counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
    return torch.from_numpy(counts)


def trained_on(sequences: Sequences) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the documents that are for training.

    sequences (Sequences): The corpus, and which documents are held out.
    YIELDS (tuple[np.ndarray, np.ndarray]): The pieces of the documents of a shard, (P,) int64, and
        for each piece where its document ends among them, (P,).
    """
    for number in range(len(sequences.corpus)):
        shard = sequences.corpus.shard(number)
        sizes = np.diff(shard.documents)
        is_read = np.zeros(len(sizes), dtype=bool)
        is_read[sequences.documents(number, held_out=False)] = True
        pieces = shard.pieces[is_read.repeat(sizes)].astype(np.int64)
        yield pieces, np.cumsum(sizes[is_read]).repeat(sizes[is_read])


def mutual_information(counts: Tensor) -> Tensor:
    """Weigh counts by how much oftener they are than chance: positive pointwise mutual information.

    counts (Tensor): How often pieces stand near others, (V, C).
    RETURNS (Tensor): log of the ratio, and 0 where it is below, (V, C).
    """
    of_piece = counts.sum(1, keepdim=True)  # (V, 1)
    of_neighbour = counts.sum(0) ** SMOOTHING  # (C,)
    ratio = counts * of_neighbour.sum() / (of_piece * of_neighbour)  # NaN for what never occurs
    return ratio.nan_to_num(0.0).clamp(min=1.0).log()


def leading_directions(matrix: Tensor, width: int) -> Tensor:
    """Tell rows apart by few numbers.

    What all rows have in common is taken off, and what is left made equally long: a LayerNorm
    follows, and positions are added that are as long for all pieces.

    matrix (Tensor): The rows, (V, C).
    width (int): How many numbers, E.
    RETURNS (Tensor): The rows in the E directions in which they differ most, with a mean square of
        1, (V, E); rows of zeros stay so.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        most = min(width + SPARE, *matrix.shape)
        left, sizes, _ = torch.svd_lowrank(matrix, q=most, niter=ROUNDS)
    vectors = torch.zeros(len(matrix), width)
    vectors[:, :most] = (left * sizes**WEIGHTING)[:, :width]
    is_there = matrix.any(1)
    vectors[is_there] -= vectors[is_there].mean(0)
    lengths = vectors.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return torch.where(is_there[:, None], vectors * width**0.5 / lengths, 0.0)
