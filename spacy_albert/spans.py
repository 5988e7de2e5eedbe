"""Where in a document the answer to a question is: two heads, and the spans that they point at.

The document is read once for each question, in windows that overlap. A span counts in the window
that shows most of its context, and only there, so every span has one score, and the best ones of
all windows are the best ones of the document.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from spacy.tokens import Doc
from torch import Tensor, nn

from .heads import Head
from .modeling import ClassifierHead, initialize
from .reader import Whole
from .reading import Reading
from .texts import texts_of

#: Starts, and ends of each, that google-research/albert (run_squad_v2.py) looks at in a window.
BEAM = 5


class Heard(NamedTuple):
    """How a question was read over a document, and what a head says of it. Pieces and tokens are
    counted from the document's first.
    """

    rows: Tensor  # one a position of the windows, or one a window, as the head gives them
    lengths: np.ndarray  # (W,) positions in each window
    text_start: int  # positions in each window before its text
    starts: np.ndarray  # (W,) first piece shown
    stops: np.ndarray  # (W,) one past the last piece shown
    tokens: np.ndarray  # (T,) the tokens that have pieces
    firsts: np.ndarray  # (T,) first piece of each of them
    lasts: np.ndarray  # (T,) last piece of each of them


class Asked(NamedTuple):
    """What was heard of a document."""

    questions: Mapping[str, str]  # by name
    heard: list[Heard]  # of each question
    n_tokens: int


class Spans(NamedTuple):
    """Spans of a document that may be the answer, the best one first."""

    starts: np.ndarray  # (N,) first token
    ends: np.ndarray  # (N,) one past the last token
    scores: np.ndarray  # (N,)
    null_score: float  # how much speaks for there being no answer
    probabilities: np.ndarray  # (N,) that of each, if it is one of them or none


class QuestionHead(Head):
    """What both heads have in common."""

    reads_alone = True

    def __init__(self, hidden_size: int, n_classes: int, overlap: int):
        """Make a head with small random weights.

        hidden_size (int): Width of the states, H.
        n_classes (int): Two: start and end.
        overlap (int): Pieces that neighbouring windows share, at most: an answer may be as long.
        """
        super().__init__()
        self.overlap = overlap

    def prepare(self, reader: Any, docs: Sequence[Doc]) -> Reading:
        """Say how documents are to be read, once for each of their questions."""
        return reader.prepare_questions(texts_of(docs), list(map(self.inputs, docs)), self.overlap)

    @property
    def learns_from(self) -> str:
        """RETURNS (str): "positions": a loss is over all of a window."""
        return "positions"

    def split(self, rows: Tensor, reading: Reading) -> list[Asked]:
        """One row a position, or one a window -> what was heard of each document."""
        assert reading.questions is not None
        lengths, text_starts = reading.lengths, reading.text_starts
        of_positions = len(rows) == lengths.sum() and len(rows) > 0
        n_rows = lengths if of_positions else np.ones_like(lengths)
        windows = np.append(0, np.cumsum(reading.windows_per_doc))
        tokens = np.append(0, np.cumsum(reading.tokens_per_doc))
        counts = reading.token_counts
        stops = np.cumsum(counts)
        row_edges = np.append(0, np.cumsum(n_rows)).tolist()
        asked, entry = [], 0
        for questions in reading.questions:
            heard = []
            for _ in questions:
                begin, end = windows[entry : entry + 2].tolist()
                mine = slice(*tokens[entry : entry + 2])
                seen = np.flatnonzero(counts[mine])
                last = stops[mine][seen]
                first = last - counts[mine][seen]
                origin = reading.window_starts[begin]
                heard.append(
                    Heard(
                        rows[row_edges[begin] : row_edges[end]],
                        lengths[begin:end],
                        int(text_starts[begin]),
                        reading.window_starts[begin:end] - origin,
                        reading.window_stops[begin:end] - origin,
                        seen,
                        reading.token_pieces[first] - origin,
                        reading.token_pieces[last - 1] - origin,
                    )
                )
                entry += 1
            n_tokens = int(reading.tokens_per_doc[entry - 1]) if questions else 0
            asked.append(Asked(questions, heard, n_tokens))
        return asked

    def fits(self, answer: Asked, doc: Doc) -> bool:
        """RETURNS (bool): Whether the same questions were asked, of the same tokens."""
        same = list(answer.questions.items()) == list(self.inputs(doc).items())
        return same and (not answer.heard or answer.n_tokens == len(doc))

    def spans(self, heard: Heard, n_best: int, max_length: int) -> Spans:
        """Find the best spans.

        heard (Heard): What was heard.
        n_best (int): How many spans to give, at most.
        max_length (int): The most tokens in a span.
        RETURNS (Spans): The spans; none if the document has nothing to read.
        """
        raise NotImplementedError

    def losses(self, heard: Heard, answer: tuple[int, int] | None) -> Tensor:
        """Compare with the annotation: in windows that do not show the answer there is none.

        heard (Heard): What was heard in training.
        answer (tuple[int, int] | None): The first piece of the answer and its last; None if there
            is none.
        RETURNS (Tensor): A loss for each window, (W,).
        """
        raise NotImplementedError


class SpanHead(QuestionHead):
    """A score for each piece to be the start of the answer, and one to be its end.

    As `AlbertForQuestionAnswering`: a linear layer on each state. That there is no answer is said
    by [CLS] being start and end.
    """

    unit = "positions"

    def __init__(self, hidden_size: int, n_classes: int, overlap: int):
        super().__init__(hidden_size, n_classes, overlap)
        self.classifier = ClassifierHead(hidden_size, n_classes)

    def forward(self, states: Tensor) -> Tensor:
        """(R, H) states -> (R, 2) logits."""
        return self.classifier(states)

    def spans(self, heard: Heard, n_best: int, max_length: int) -> Spans:
        """Find the best spans. A token begins an answer as well as the best of its pieces does, and
        ends one likewise.
        """
        logits = heard.rows.numpy()  # (R, 2)
        begins = np.cumsum(heard.lengths) - heard.lengths
        null = logits[begins].sum(axis=1).min()
        # Pieces between two tokens stand for white space: they begin with the next one, and end
        # with the one before
        reach = np.minimum(heard.firsts, np.append(0, heard.lasts[:-1] + 1))
        rests = np.maximum(heard.lasts, np.append(heard.firsts[1:] - 1, heard.stops[-1] - 1))
        found = []
        for w, begin in enumerate(begins.tolist()):
            start, stop = heard.starts[w], heard.stops[w]
            shown = slice(heard.firsts.searchsorted(start), heard.lasts.searchsorted(stop))
            tokens = heard.tokens[shown]
            if not len(tokens):
                continue
            text = logits[begin + heard.text_start :][: stop - start]
            firsts, lasts = heard.firsts[shown], heard.lasts[shown]
            as_start = best_of(text[:, 0], np.maximum(reach[shown], start) - start, lasts - start)
            as_end = best_of(text[:, 1], firsts - start, np.minimum(rests[shown], stop - 1) - start)
            i = np.arange(len(tokens))[:, None]
            j = np.minimum(i + np.arange(max_length), len(tokens) - 1)  # (T, L)
            fits = (i + np.arange(max_length) == j) & (tokens[j] - tokens[i] < max_length)
            fits &= counts_here(heard, w, firsts[i] + lasts[j])
            scores = np.where(fits, as_start[i] + as_end[j], -np.inf)
            for place in best(scores.ravel(), n_best):
                first, last = divmod(int(place), max_length)
                found.append((tokens[first], tokens[first + last] + 1, scores[first, last]))
        spans = ranked(found, n_best)
        best_score = spans.scores[0] if len(spans.scores) else -np.inf
        mass = np.exp(np.append(spans.scores, null) - max(best_score, null))
        shares = mass[:-1] / mass.sum()
        return spans._replace(null_score=float(null - best_score), probabilities=shares)

    def losses(self, heard: Heard, answer: tuple[int, int] | None) -> Tensor:
        """The mean cross-entropy of start and end, as run_squad_v1.py has it, for each window."""
        targets = torch.from_numpy(targets_of(heard, answer)).to(heard.rows.device)  # (W, 2)
        windows = heard.rows.split(heard.lengths.tolist())
        return torch.stack([F.cross_entropy(row.T, gold) for row, gold in zip(windows, targets)])


class ConditionalSpanHead(QuestionHead):
    """ALBERT's own head for SQuAD 2: ends depend on the start, and whether there is an answer is a
    question of its own.

    As in squad_utils.py of google-research/albert, whose names the parameters have. In annotation
    the five best starts are followed, with the five best ends of each.
    """

    unit = "whole"

    def __init__(self, hidden_size: int, n_classes: int, overlap: int):
        super().__init__(hidden_size, n_classes, overlap)
        self.start_logits = nn.ModuleDict({"dense": nn.Linear(hidden_size, 1)})
        self.end_logits = nn.ModuleDict(
            {
                "dense_0": nn.Linear(2 * hidden_size, hidden_size),
                "LayerNorm": nn.LayerNorm(hidden_size, eps=1e-12),
                "dense_1": nn.Linear(hidden_size, 1),
            }
        )
        self.answer_class = nn.ModuleDict(
            {
                "dense_0": nn.Linear(2 * hidden_size, hidden_size),
                "dense_1": nn.Linear(hidden_size, 1, bias=False),
            }
        )
        self.dropout = 0.0
        initialize(self, 0.02)

    def forward(self, windows: Whole) -> Tensor:
        """Whole windows -> (B, 1 + 3 * 25): that there is no answer; first piece, last piece and
        log probability of each span.
        """
        states, valid, text_starts = in_grid(windows)  # (B, S, H), (B, S), (B,)
        is_text = valid.clone()
        is_text[:, 0] = False
        S = valid.shape[1]
        starts = self.starts(states, valid)  # (B, S)
        no_answer = self.no_answer(states, starts)  # (B,)
        n = min(BEAM, S)
        start_scores, start_places = masked(starts, is_text).topk(n, dim=1)  # (B, n)
        rows = [no_answer[:, None]]
        places = torch.arange(S, device=states.device)
        for k in range(n):  # one at a time, as each has all states once more
            place = start_places[:, k : k + 1]  # (B, 1)
            ends = self.ends(states, valid, place)  # (B, S)
            end_scores, end_places = masked(ends, is_text & (places >= place)).topk(n, dim=1)
            scores = start_scores[:, k : k + 1] + end_scores
            first = (place - text_starts[:, None]).expand_as(end_places)
            last = end_places - text_starts[:, None]
            rows.append(torch.stack([first.to(scores), last.to(scores), scores], 2).flatten(1))
        found = torch.cat(rows, dim=1)
        return F.pad(found, (0, 1 + 3 * BEAM**2 - found.shape[1]), value=-torch.inf)

    def starts(self, states: Tensor, valid: Tensor) -> Tensor:
        """(B, S, H) -> (B, S) log probabilities of the start; -inf where there can be none."""
        logits = self.start_logits["dense"](states).squeeze(-1)
        return masked(logits, valid).log_softmax(dim=1)

    def ends(self, states: Tensor, valid: Tensor, starts: Tensor) -> Tensor:
        """(B, S, H), (B, 1) places of the start -> (B, S) log probabilities of the end."""
        dense = cast(nn.Linear, self.end_logits["dense_0"])
        of_start = states.gather(1, starts[:, :, None].expand(-1, -1, states.shape[2]))
        # the product with both, one below the other, is the sum of two products
        by_all, by_start = dense.weight.chunk(2, dim=1)  # 2 x (H, H)
        hidden = F.linear(states, by_all, dense.bias) + F.linear(of_start, by_start)
        hidden = self.end_logits["LayerNorm"](hidden.tanh())
        logits = self.end_logits["dense_1"](hidden).squeeze(-1)
        return masked(logits, valid).log_softmax(dim=1)

    def no_answer(self, states: Tensor, starts: Tensor) -> Tensor:
        """(B, S, H), (B, S) -> (B,) log odds that there is no answer."""
        of_start = torch.einsum("bsh,bs->bh", states, starts.exp())
        hidden = self.answer_class["dense_0"](torch.cat([of_start, states[:, 0]], dim=1)).tanh()
        hidden = F.dropout(hidden, self.dropout, self.training)
        return self.answer_class["dense_1"](hidden).squeeze(-1)

    def learn(self, states: Tensor, reading: Reading) -> list[Asked]:
        """(R, H) -> the states of each document, as the ends depend on the annotated start."""
        return self.split(states, reading)

    def losses(self, heard: Heard, answer: tuple[int, int] | None) -> Tensor:
        """Cross-entropy of start and end, the end given the start, and of there being an answer:
        half of the sum, as run_squad_v2.py has it, for each window.
        """
        device = heard.rows.device
        text_starts = np.full(len(heard.lengths), heard.text_start)
        states, valid, _ = in_grid(Whole(heard.rows, heard.lengths, text_starts))
        starts, ends = torch.from_numpy(targets_of(heard, answer)).to(device).T  # 2 x (W,)
        log_starts = self.starts(states, valid)
        log_ends = self.ends(states, valid, starts[:, None])
        is_none = (starts == 0).to(states)
        found = -log_starts.gather(1, starts[:, None]) - log_ends.gather(1, ends[:, None])  # (W, 1)
        lacking = F.binary_cross_entropy_with_logits(
            self.no_answer(states, log_starts), is_none, reduction="none"
        )
        return (found[:, 0] + lacking) / 2

    def spans(self, heard: Heard, n_best: int, max_length: int) -> Spans:
        """Find the best spans among those that the beam has found. Of pieces that are no token's
        own, the answer begins with the next token, and ends with the one before.
        """
        rows = heard.rows.numpy()  # (W, 76)
        found: dict[tuple[int, int], float] = {}
        for w, beam in enumerate(rows[:, 1:].reshape(len(rows), -1, 3)):
            beam = beam[np.isfinite(beam[:, 2])]
            pieces = beam[:, :2].astype(np.int64) + heard.starts[w]
            first = heard.lasts.searchsorted(pieces[:, 0])
            last = heard.firsts.searchsorted(pieces[:, 1], side="right") - 1
            for i, j, score in zip(first.tolist(), last.tolist(), beam[:, 2].tolist()):
                if not 0 <= i <= j < len(heard.tokens):
                    continue
                start, end = heard.tokens[i], heard.tokens[j] + 1
                whole = heard.starts[w] <= heard.firsts[i] and heard.lasts[j] < heard.stops[w]
                here = counts_here(heard, w, heard.firsts[i] + heard.lasts[j])
                if whole and here and end - start <= max_length:
                    found[start, end] = max(score, found.get((start, end), -np.inf))
        spans = ranked([(*span, score) for span, score in found.items()], n_best)
        null = float(rows[:, 0].min())
        mass = np.exp(spans.scores - spans.scores[:1])
        shares = mass / max(mass.sum(), 1.0) / (1 + np.exp(np.clip(null, -700, 700)))
        return spans._replace(null_score=null, probabilities=shares)

    def set_dropout(self, rate: float) -> None:
        """Set the dropout before the layer that says whether there is an answer."""
        self.dropout = rate

    @staticmethod
    def sizes(weights: Mapping[str, Tensor]) -> tuple[int, int]:
        """RETURNS (tuple[int, int]): The width of the states, and 2."""
        return weights["start_logits.dense.weight"].shape[1], 2


def best_of(values: np.ndarray, firsts: np.ndarray, lasts: np.ndarray) -> np.ndarray:
    """Take the greatest value of each range.

    values (np.ndarray): The values.
    firsts, lasts (np.ndarray): The ranges, (T,), which may overlap; lasts are inside.
    RETURNS (np.ndarray): (T,).
    """
    edges = np.stack([firsts, lasts + 1], axis=1).ravel()
    return np.maximum.reduceat(np.append(values, -np.inf), edges)[::2]


def best(scores: np.ndarray, n: int) -> np.ndarray:
    """Find the greatest scores.

    scores (np.ndarray): The scores.
    n (int): How many.
    RETURNS (np.ndarray): Their places, without those of -inf. They are more than n if several are
        equal to the last one.
    """
    least = np.partition(scores, -n)[-n] if len(scores) > n else -np.inf
    return np.flatnonzero((scores >= least) & (scores > -np.inf))


def ranked(found: Sequence[tuple[Any, ...]], n_best: int) -> Spans:
    """Put spans in order.

    found (Sequence[tuple]): First token, one past the last, and score of each.
    n_best (int): How many to keep.
    RETURNS (Spans): The best ones; of equal scores the first in the text, and the shorter one.
    """
    ordered = sorted(found, key=lambda span: (-span[2], span[0], span[1]))[:n_best]
    starts, ends, scores = np.array(ordered, dtype=np.float64).reshape(-1, 3).T
    return Spans(starts.astype(np.int64), ends.astype(np.int64), scores, np.inf, scores)


def counts_here(heard: Heard, window: int, sums: np.ndarray) -> np.ndarray:
    """Tell which spans a window shows with more context than its neighbours, on the side where
    there is less. Of two that show as much, it is the first.

    heard (Heard): The windows.
    window (int): One of them.
    sums (np.ndarray): Of the numbers of each span's first and last piece.
    RETURNS (np.ndarray): Whether they count here.
    """
    starts, stops = heard.starts, heard.stops
    low = starts[window] + stops[window - 1] - 1 if window else -1
    here = sums > low
    if window + 1 < len(starts):
        here &= sums <= starts[window + 1] + stops[window] - 1
    return here


def targets_of(heard: Heard, answer: tuple[int, int] | None) -> np.ndarray:
    """Say where the answer is in each window.

    heard (Heard): The windows.
    answer (tuple[int, int] | None): Its first piece and its last, if there is an answer.
    RETURNS (np.ndarray): Positions of its start and end, (W, 2); [CLS] where it is not whole.
    """
    targets = np.zeros((len(heard.lengths), 2), dtype=np.int64)
    if answer is not None:
        whole = (heard.starts <= answer[0]) & (answer[1] < heard.stops)
        offsets = heard.text_start - heard.starts[whole, None]
        targets[whole] = np.array(answer) + offsets
    return targets


def in_grid(windows: Whole) -> tuple[Tensor, Tensor, Tensor]:
    """Pad windows to the longest.

    windows (Whole): The windows.
    RETURNS (tuple[Tensor, Tensor, Tensor]): States, (B, S, H); where an answer can be, or [CLS]
        which says that there is none, (B, S); and where the text begins, (B,).
    """
    states = nn.utils.rnn.pad_sequence(
        list(windows.states.split(windows.lengths.tolist())), batch_first=True
    )
    device = states.device
    starts = torch.from_numpy(windows.text_starts).to(device)
    stops = torch.from_numpy(windows.lengths - 1).to(device)  # [SEP]
    places = torch.arange(states.shape[1], device=device)
    valid = (places >= starts[:, None]) & (places < stops[:, None])
    valid[:, 0] = True
    return states, valid, starts


def masked(scores: Tensor, where: Tensor) -> Tensor:
    """RETURNS (Tensor): The scores, -inf elsewhere."""
    return scores.masked_fill(~where, -torch.inf)
