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

    examples (Sequence[Example]): The examples.
    device (torch.device): Where the tensors are to be.
    RETURNS (Batch): The tensors.
    """
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


def parts_of(examples: Sized[Example], budget: int) -> list[list[Example]]:
    """Divide a batch so that each part fits into memory, and not much of it is padding.

    examples (Sequence[Example]): The batch.
    budget (int): The most pieces in a part, padding included; one example is always a part. None
        is less than half as long as another.
    RETURNS (list[list[Example]]): The parts.
    """
    parts: list[list[Example]] = []
    longest = 0
    for example in sorted(examples, key=lambda example: -len(example.ids)):
        length = len(example.ids)
        if not parts or 2 * length < longest or longest * (len(parts[-1]) + 1) > budget:
            parts.append([])
            longest = length
        parts[-1].append(example)
    return parts
