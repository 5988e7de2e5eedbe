"""The loop: batches in, steps out, on one worker or on several that do the same steps together."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..tokenization import Tokenizer
from .batches import NOT_ASKED, Example, Examples, collate, parts_of
from .cooccurrence import neighbour_vectors
from .corpus import Corpus
from .lamb import Lamb, parameter_groups
from .masking import begins_word
from .objectives import PreTraining
from .sequences import Position, Sequences
from .settings import Settings


@dataclass
class Figures:
    """What came out of some examples.

    mlm_loss, sop_loss (float | None): Mean loss of a piece asked for, and of an order of segments;
        None if none was asked for.
    mlm_accuracy, sop_accuracy (float | None): The share of right answers.
    pieces (int): Pieces read.
    """

    mlm_loss: float | None
    sop_loss: float | None
    mlm_accuracy: float | None
    sop_accuracy: float | None
    pieces: int

    @property
    def loss(self) -> float:
        return (self.mlm_loss or 0.0) + (self.sop_loss or 0.0)


class Trainer:
    """Trains an ALBERT.

    All workers take the same sequences in the same order, and each reads its share of a batch.
    ALBERT's weights are few: their gradients go around in one piece.

    model (PreTraining): The model, on its device.
    tokenizer (Tokenizer): Its vocabulary.
    corpus (Corpus): What to read.
    settings (Settings): How.
    rank, workers (int): Which worker this is, and of how many.
    """

    def __init__(
        self,
        model: PreTraining,
        tokenizer: Tokenizer,
        corpus: Corpus,
        settings: Settings,
        rank: int = 0,
        workers: int = 1,
    ) -> None:
        self.model, self.settings = model, settings
        self.rank, self.workers = rank, workers
        self.device = next(model.parameters()).device
        self.sequences = Sequences(
            corpus,
            begins_word(tokenizer.pieces()),
            settings.length,
            settings.short,
            settings.held_out,
            settings.seed,
        )
        self.examples = Examples(
            self.sequences, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id
        )
        groups = parameter_groups(model)
        decay = settings.weight_decay
        self.optimizer: torch.optim.Optimizer = (
            Lamb(groups, weight_decay=decay)
            if settings.optimizer == "lamb"
            else torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, weight_decay=decay)
        )
        self.step = 0
        self.position = Position()
        self.held_out: list[Example] | None = None

    def begin_as_neighbours(self) -> None:
        """Let the embeddings of words begin as what the corpus tells of their neighbours. One
        worker counts for all.
        """
        words = self.model.albert.embeddings.words.weight.data
        vectors = torch.zeros_like(words)
        if self.rank == 0:
            vectors.copy_(neighbour_vectors(self.sequences, *words.shape))
        if self.workers > 1:
            dist.broadcast(vectors, 0)
        is_known = vectors.any(1)  # (V,)
        words[is_known] = vectors[is_known] * words.std()

    def steps(self) -> Iterator[Figures]:
        """Take the steps that are left. The batch of the next one is made while one is computed.

        YIELDS (Figures): What came out of each, over all workers.
        """
        self.sequences.position = copy(self.position)
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self._next)
            while self.step < self.settings.steps:
                examples, after = coming.result()
                if self.step + 1 < self.settings.steps:
                    coming = thread.submit(self._next)
                figures = self._take(examples)
                self.position, self.step = after, self.step + 1
                yield figures

    def _next(self) -> tuple[list[Example], Position]:
        """Make the part of the next batch that is this worker's."""
        sequences = self.sequences.take(self.settings.batch)
        after = copy(self.sequences.position)
        return [self.examples.example(s) for s in sequences[self.rank :: self.workers]], after

    def _take(self, examples: list[Example]) -> Figures:
        """Take a step."""
        self.model.train()
        # for dropout: a run that was broken off goes on as it would have
        torch.manual_seed((self.settings.seed << 32) + self.step * self.workers + self.rank)
        asked = self._asked(examples)
        self._sum(asked)
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for part in parts_of(examples, self.settings.part):
            found = self.model(collate(part, self.device))
            loss = (found[:2] / asked[:2].clamp(min=1).float()).sum()
            loss.backward()
            sums += found.detach()
        self._sum(sums)
        grads = [w.grad for w in self.model.parameters() if w.grad is not None]
        if self.workers > 1:
            flat = torch.cat([grad.flatten() for grad in grads])
            self._sum(flat)
            for grad, whole in zip(grads, flat.split([grad.numel() for grad in grads])):
                grad.copy_(whole.view_as(grad))
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate_at(self.step + 1)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return figures_of(sums, asked)

    def evaluate(self) -> Figures | None:
        """Measure with the documents held out, always in the same way.

        RETURNS (Figures | None): What came out, over all workers; None if nothing is held out.
        """
        if self.held_out is None:
            found = self.sequences.held_out_sequences(self.settings.evaluate_on)
            self.held_out = [self.examples.example(sequence) for sequence in found]
        if not self.held_out:
            return None
        self.model.eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            for part in parts_of(self.held_out[self.rank :: self.workers], self.settings.part):
                sums += self.model(collate(part, self.device))
        self._sum(sums)
        return figures_of(sums, self._asked(self.held_out))

    def _asked(self, examples: list[Example]) -> Tensor:
        """Count the pieces and the orders that are asked for, and the pieces to read, (3,)."""
        counts = (
            sum(len(example.places) for example in examples),
            sum(example.order != NOT_ASKED for example in examples),
            sum(len(example.ids) for example in examples),
        )
        return torch.tensor(counts, dtype=torch.float64, device=self.device)

    def _sum(self, tensor: Tensor) -> None:
        """Add up what all workers have."""
        if self.workers > 1:
            dist.all_reduce(tensor)


def figures_of(sums: Tensor, asked: Tensor) -> Figures:
    """Make means of sums.

    sums (Tensor): What `PreTraining` returns, (4,).
    asked (Tensor): The pieces and the orders asked for, and the pieces read, (3,).
    RETURNS (Figures): The means.
    """
    masked, pairs, pieces = asked.tolist()
    mlm_loss, sop_loss, mlm_right, sop_right = sums.tolist()
    return Figures(
        mlm_loss=mlm_loss / masked if masked else None,
        sop_loss=sop_loss / pairs if pairs else None,
        mlm_accuracy=mlm_right / masked if masked else None,
        sop_accuracy=sop_right / pairs if pairs else None,
        pieces=int(pieces),
    )
