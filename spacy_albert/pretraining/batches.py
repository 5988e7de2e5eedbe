"""Sequences -> tensors. What is shown and asked depends on the seed and the epoch alone, so it is
the same for any number of workers.
"""

from collections.abc import Sequence as Sized
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..transfer import to_device
from .masking import mask
from .sequences import MASK, Sequence, Sequences

#: In place of the answer where there is no question.
NOT_ASKED = -100
#: On a CPU a batch is filled up until its examples, pieces and places are multiples of these.
EXAMPLES, PIECES, PLACES = 16, 256, 64


class Example(NamedTuple):
    """What ALBERT is shown of a sequence, and asked.

    ids (np.ndarray): [CLS] A [SEP] B [SEP], with masks, (S,).
    border (int): Where the second segment begins in it; S if it has one segment.
    places (np.ndarray): The places asked for, (M,).
    answers (np.ndarray): The pieces that are there, (M,).
    order (int): 0 if the segments are in order, 1 if swapped, NOT_ASKED if there is one.
    """

    ids: np.ndarray
    border: int
    places: np.ndarray
    answers: np.ndarray
    order: int


class Batch(NamedTuple):
    """Examples one after the other, without padding.

    ids (Tensor): Pieces, (P,) int64.
    positions (Tensor): The place of each in its example, (P,) int64.
    segments (Tensor): 0 in the first segment and 1 in the second, (P,) int64.
    firsts (Tensor): Where each example begins, (B,) int64.
    places (Tensor): The places asked for, (M,) int64.
    answers (Tensor): The pieces that are there, (M,) int64.
    order (Tensor): 0 in order, 1 swapped, NOT_ASKED for one segment, (B,) int64.
    lengths (np.ndarray): The pieces of each example, (B,).
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor
    firsts: Tensor
    places: Tensor
    answers: Tensor
    order: Tensor
    lengths: np.ndarray


class Examples:
    """Makes examples.

    sequences (Sequences): Where they come from.
    cls_id, sep_id, mask_id (int): Special pieces.
    """

    def __init__(self, sequences: Sequences, cls_id: int, sep_id: int, mask_id: int) -> None:
        self.sequences = sequences
        self.cls_id, self.sep_id, self.mask_id = cls_id, sep_id, mask_id

    def example(self, sequence: Sequence) -> Example:
        """Show a sequence and ask about it, in each epoch otherwise.

        sequence (Sequence): The sequence.
        RETURNS (Example): What is shown and asked.
        """
        epoch, shard, number, start, end, border, is_swapped = sequence
        pieces = self.sequences.corpus.shard(shard).pieces
        if border < 0:
            ids, split = pieces[start:end], 0
        elif is_swapped:
            ids, split = np.append(pieces[border:end], pieces[start:border]), end - border
        else:
            ids, split = pieces[start:end], border - start
        rng = self.sequences.rng(MASK, epoch, shard, number)
        places, seen = mask(ids, split, self.sequences.starts_word, self.mask_id, rng)
        answers, ids = ids[places], ids.copy()
        ids[places] = seen
        if not split:
            shown = np.concatenate([[self.cls_id], ids, [self.sep_id]])
            return Example(shown, len(shown), 1 + places, answers, NOT_ASKED)
        separator = [self.sep_id]
        shown = np.concatenate([[self.cls_id], ids[:split], separator, ids[split:], separator])
        places = 1 + places + (places >= split)
        return Example(shown, split + 2, places, answers, is_swapped)


def collate(examples: Sized[Example], device: torch.device) -> Batch:
    """Put examples one after the other.

    On a CPU some follow of which nothing is asked: oneDNN compiles its products for every shape
    that it has not met, which takes longer than to compute them.

    examples (Sequence[Example]): The examples.
    device (torch.device): Where the tensors are to be.
    RETURNS (Batch): The tensors.
    """
    if device.type == "cpu":
        examples = [*examples, *fillers(examples)]
    lengths = np.array([len(example.ids) for example in examples])
    firsts = np.cumsum(lengths) - lengths
    borders = np.array([example.border for example in examples])
    positions = np.arange(lengths.sum()) - firsts.repeat(lengths)
    arrays = (
        np.concatenate([example.ids for example in examples]),
        positions,
        positions >= borders.repeat(lengths),
        firsts,
        np.concatenate([first + example.places for first, example in zip(firsts, examples)]),
        np.concatenate([example.answers for example in examples]),
        np.array([example.order for example in examples]),
    )
    tensors = [to_device(array.astype(np.int64), device) for array in arrays]
    return Batch._make([*tensors, lengths])


def fillers(examples: Sized[Example]) -> list[Example]:
    """Make what is missing to round numbers of examples, pieces and places.

    examples (Sequence[Example]): The examples of a batch.
    RETURNS (list[Example]): Examples of which nothing is asked, none longer than those.
    """
    lengths = [len(example.ids) for example in examples]
    count, size = -len(lengths) % EXAMPLES, -sum(lengths) % PIECES
    n_places = -sum(len(example.places) for example in examples) % PLACES
    while not count <= size <= count * max(lengths) or (n_places and not count):
        if size < count:
            size += PIECES
        else:
            count += EXAMPLES
    made = []
    for number in range(count):
        length = size // count + (number < size % count)
        places = np.zeros(n_places if number == 0 else 0, np.int64)
        ids, answers = np.zeros(length, np.int64), np.full(len(places), NOT_ASKED)
        made.append(Example(ids, length, places, answers, NOT_ASKED))
    return made


def parts_of(examples: Sized[Example], budget: int) -> list[list[Example]]:
    """Divide a batch so that each part fits into memory, and not much of it is padding.

    examples (Sequence[Example]): The batch.
    budget (int): The most pieces in a part, padding included; one example is always a part. To a
        part that has a quarter of that, none is added that is less than half as long as another.
    RETURNS (list[list[Example]]): The parts.
    """
    parts: list[list[Example]] = []
    longest = 0
    for example in sorted(examples, key=lambda example: -len(example.ids)):
        length = len(example.ids)
        places = longest * len(parts[-1]) if parts else 0
        is_enough = 2 * length < longest and places >= budget // 4
        if not parts or is_enough or places + longest > budget:
            parts.append([])
            longest = length
        parts[-1].append(example)
    return parts
