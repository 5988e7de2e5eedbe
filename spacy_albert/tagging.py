"""Entities as tags: schemes, the best valid tagging, and the probability of each entity.

A token classifier scores every tag of every token on its own, so its best tags may contradict each
other ("O I-PER"). Decoding looks only at taggings that the scheme allows: it takes the most
probable one (Viterbi), and scores an entity with its share of the probability of all of them
(forward-backward; Rabiner, "A Tutorial on Hidden Markov Models", 1989). So a score says how likely
exactly this span with this label is, and long entities are not worth less than short ones.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import isqrt
from typing import Any, NamedTuple

import numpy as np

ROLES = {"B": "B", "I": "I", "L": "L", "E": "L", "U": "U", "S": "U"}
PREFIXES = {"BILOU": "BILU", "BIO": "BI", "IO": "I"}
MISSING = -100  # as torch's ignore_index
FLOOR = -100.0  # logits further below the best count as this far; e^-100 is 0 in float32
BATCH = 2**19  # logits decoded at once; a document that has more is a batch by itself
SLICE = 2**16  # logits turned into weights at once, within the processor's cache
ROW = 16  # tokens in a row of a chain, at least: as a rule so many tell what the next starts with
SAME = 1e-12  # relative difference of what counts as equal at the borders of rows


class Entities(NamedTuple):
    """Entities in the order of their tokens."""

    starts: np.ndarray  # (E,) first token
    ends: np.ndarray  # (E,) one past the last token
    labels: np.ndarray  # (E,) numbers in Tagset.labels
    scores: np.ndarray  # (E,) probabilities


class Tagset:
    """The tags of a classifier, in the order of its outputs, and what the scheme says of them."""

    def __init__(self, tags: Sequence[str]):
        """Recognise the scheme of some tags.

        tags (Sequence[str]): "O" and the others, in BIO ("B-PER", "I-PER"), BILOU, BIOES or IO
            ("I-PER", or just "PER").
        RAISES (ValueError): If the tags follow none of these schemes.
        """
        self.tags = list(tags)
        if "O" not in self.tags or len(set(self.tags)) != len(self.tags) or len(self.tags) < 2:
            raise ValueError(self._no_scheme("there must be one tag 'O' and others, each once"))
        if "" in self.tags:
            raise ValueError(self._no_scheme("one is empty"))
        self.outside = self.tags.index("O")
        marked = [tag for tag in self.tags if tag != "O"]
        plain = not any(tag[0] in ROLES and tag[1:2] in ("-", "_") for tag in marked)
        roles, labels = [], []
        for tag in self.tags:
            if tag == "O":
                role, label = "O", ""
            elif plain:
                role, label = "I", tag
            elif tag[0] in ROLES and tag[1:2] in ("-", "_") and len(tag) > 2:
                role, label = ROLES[tag[0]], tag[2:]
            else:
                raise ValueError(self._no_scheme(f"{tag!r} has no prefix and others have"))
            roles.append(role)
            labels.append(label)
        self.roles = np.array(roles)
        self.labels = list(dict.fromkeys(label for label in labels if label))
        self.label_of = np.array([self.labels.index(label) if label else -1 for label in labels])
        found = set(roles)
        self.scheme = "BILOU" if found & {"L", "U"} else "BIO" if "B" in found else "IO"
        self._prefixes = [""] if plain else self._spelled(marked)
        self._number = {pair: i for i, pair in enumerate(zip(roles, labels))}
        self._constrain()

    @classmethod
    def from_labels(cls, labels: Iterable[str]) -> "Tagset":
        """Make the BILOU tags of some entity labels.

        labels (Iterable[str]): Entity labels.
        RETURNS (Tagset): "O" and four tags for each label.
        """
        return cls(["O"] + [f"{role}-{label}" for label in labels for role in PREFIXES["BILOU"]])

    def with_label(self, label: str) -> "Tagset":
        """Add the tags of one more label after the present ones.

        label (str): The entity label.
        RETURNS (Tagset): A new tagset.
        """
        return Tagset(self.tags + [prefix + label for prefix in self._prefixes])

    def _spelled(self, marked: list[str]) -> list[str]:
        """Write the prefixes of the scheme as these tags do: "L-", or "E-", or "L_"."""
        letters = {role: role for role in PREFIXES[self.scheme]}
        letters |= {ROLES[tag[0]]: tag[0] for tag in marked}
        if letters.get("L") == "E" or letters.get("U") == "S":
            letters |= {"L": "E", "U": "S"}
        return [letters[role] + marked[0][1] for role in PREFIXES[self.scheme]]

    def _no_scheme(self, why: str) -> str:
        shown = ", ".join(self.tags[:8]) + (", ..." if len(self.tags) > 8 else "")
        return (
            f"These labels follow no tag scheme for entities: {shown} ({why}). Known schemes: "
            "BIO (B-PER, I-PER, O), BILOU (also spelled BIOES), IO (I-PER, O)."
        )

    def _constrain(self) -> None:
        """Write the scheme down: which tags may be neighbours, and what can be between two of them.

        Between two tokens is a state: 0, where the next tag starts afresh, or 1 + l, where it goes
        on with an entity of label l. A tag comes from one state; it may leave a choice of two.
        """
        begins = np.isin(self.roles, ["B", "U"])
        goes_on = np.isin(self.roles, ["I", "L"])
        is_open = np.isin(self.roles, ["B", "I"])
        same = (self.label_of[:, None] == self.label_of[None, :]) & (self.label_of >= 0)
        if self.scheme == "IO":
            self.continues = same
            self.allowed = np.ones_like(same)
            goes_on = is_open = must_go_on = np.zeros(len(self.tags), dtype=bool)
        else:
            # A label without an "L" tag ends as in BIO; "B" alone is left to "U" where there is one
            ends = np.isin(self.label_of, self.label_of[self.roles == "L"])
            singles = np.isin(self.label_of, self.label_of[self.roles == "U"])
            must_go_on = is_open & (ends | (singles & (self.roles == "B")))
            self.continues = same & is_open[:, None] & goes_on[None, :]
            free = (self.roles == "O") | begins
            self.allowed = self.continues | (free[None, :] & ~must_go_on[:, None])
        states = np.arange(1 + len(self.labels))[:, None]
        self.comes_from = np.where(goes_on, self.label_of + 1, 0) == states  # (1 + L, K)
        self.leads_to = np.where(is_open, self.label_of + 1, 0) == states  # (1 + L, K)
        self.leads_to[0] = ~must_go_on
        afresh, within, over, on = *np.split(self.comes_from, [1]), *np.split(self.leads_to, [1])
        within = within & (afresh & on).any(axis=1, keepdims=True)  # of what can begin at all
        arcs = afresh & over, afresh & on, within & on, within & over
        self.arcs = [as_table(tags) for tags in arcs]

    def decode(
        self, logits: np.ndarray, lengths: np.ndarray, blocked: np.ndarray | None = None
    ) -> Entities:
        """Find the entities of the most probable valid tagging of each document. Of several that
        are equally probable, it may be any.

        logits (np.ndarray): Scores of the tags, (T, K), one document after the other.
        lengths (np.ndarray): Tokens of each document, (D,).
        blocked (np.ndarray | None): Tokens that must stay outside, (T,) bool.
        RETURNS (Entities): Those of all documents, their tokens numbered as in `logits`.
        """
        if blocked is None:
            blocked = np.zeros(len(logits), dtype=bool)
        edges = np.concatenate([[0], np.cumsum(lengths[lengths > 0])])
        batch_of = edges[:-1] // max(1, BATCH // len(self.tags))  # (D,)
        cuts = np.flatnonzero(np.diff(batch_of, prepend=-1, append=-1))
        found = [no_entities()]
        for cut, next_cut in pairwise(cuts):
            batch = slice(edges[cut], edges[next_cut])
            starts, ends, *rest = self._decode(
                logits[batch], edges[cut : next_cut + 1] - batch.start, blocked[batch]
            )
            found.append(Entities(starts + batch.start, ends + batch.start, *rest))
        return Entities(*map(np.concatenate, zip(*found)))

    def _decode(self, logits: np.ndarray, edges: np.ndarray, blocked: np.ndarray) -> Entities:
        """Decode a batch of documents, none of them empty, of which the edges are given."""
        firsts, is_last = edges[:-1], np.zeros(len(logits), dtype=bool)
        is_last[edges[1:] - 1] = True

        def with_previous(tags: np.ndarray, matrix: np.ndarray) -> np.ndarray:
            before = np.concatenate([[self.outside], tags[:-1]])
            before[firsts] = self.outside  # texts begin and end outside
            return matrix[before, tags]

        def tokens_of(docs: np.ndarray) -> np.ndarray:
            return np.flatnonzero(np.repeat(docs, np.diff(edges)))

        def chain(tokens: np.ndarray, plus: np.ufunc) -> Chain:
            return Chain(self, logits[tokens], blocked[tokens], is_last[tokens], plus)

        tags = logits.argmax(axis=1)  # (T,)
        tags[blocked] = self.outside
        fits = with_previous(tags, self.allowed) & (self.allowed[tags, self.outside] | ~is_last)
        valid = np.logical_and.reduceat(fits, firsts)  # (D,)
        if not valid.all():
            tokens = tokens_of(~valid)
            tags[tokens] = chain(tokens, np.maximum).best(tags[tokens])
        inside, goes_on = self.label_of[tags] >= 0, with_previous(tags, self.continues)
        starts = inside & ~goes_on
        if not starts.any():
            return no_entities()
        first = np.flatnonzero(starts)
        last = np.flatnonzero(inside & ~np.append(goes_on[1:], False))
        tokens = tokens_of(np.logical_or.reduceat(starts, firsts))
        within = np.searchsorted(tokens, [first, last])
        scores = chain(tokens, np.add).shares(tags[tokens], *within)
        return Entities(first, last + 1, self.label_of[tags[first]], scores)

    def encode(self, tags: Sequence[str | None], readable: np.ndarray) -> np.ndarray:
        """Turn gold BILUO tags of all tokens into class numbers of the readable ones.

        Tokens without pieces are passed over: an entity that starts with one starts, for the
        classifier, with the next token it can see.

        tags (Sequence[str | None]): spaCy's tags ("B-PER", "O", ...), None or "-" where unknown.
        readable (np.ndarray): Numbers of the tokens that have pieces.
        RETURNS (np.ndarray): (readable,) class numbers, MISSING where unknown.
        RAISES (ValueError): If an entity's label is not in this tagset.
        """
        owner, labels = [], []
        for tag in tags:
            if tag is None or tag == "-":
                owner.append(-1)
            elif tag == "O":
                owner.append(0)
            else:
                if tag[0] in "BU":
                    labels.append(tag[2:])
                owner.append(len(labels))
        unknown = sorted(set(labels) - set(self.labels))
        if unknown:
            raise ValueError(
                f"The training data has entities labelled {', '.join(unknown)}, and the component "
                f"knows {', '.join(self.labels)}. Add them with add_label, or leave `labels` out "
                "of its [initialize] block so that they are read from the data."
            )
        seen = np.array(owner, dtype=np.int64)[readable]
        numbers = np.where(seen == 0, self.outside, MISSING)
        for entity, start, length in zip(*np.unique(seen, return_index=True, return_counts=True)):
            if entity > 0:
                label = labels[entity - 1]
                numbers[start : start + length] = [
                    self._number.get((role, label), MISSING) for role in self._spell(length)
                ]
        return numbers

    def _spell(self, length: int) -> str:
        """Write the roles of an entity of some tokens: BIL, BII, III ..."""
        if self.scheme == "IO":
            return "I" * length
        if self.scheme == "BIO":
            return "B" + "I" * (length - 1)
        return "U" if length == 1 else "B" + "I" * (length - 2) + "L"


def no_entities() -> Entities:
    """Make the answer for a document without entities."""
    whole = np.empty(0, dtype=np.int64)
    return Entities(whole, whole, whole, np.empty(0))


class Chain:
    """The valid taggings of some tokens: ways through a chain of states, as Tagset has them.

    A token leads from state 0 to 0 with the weight `closed`, from 0 to 1 + l with `into[l]`, from
    1 + l back to it with `stay[l]` and to 0 with `out[l]`, whatever the scheme. What ways to a
    state weigh together is kept as a ratio to state 0, which can always be reached: so nothing
    under- or overflows, however long the text.

    The tokens are cut into R rows of N, and a step in Python takes all rows one token further.
    """

    def __init__(
        self,
        tagset: Tagset,
        logits: np.ndarray,
        blocked: np.ndarray,
        is_last: np.ndarray,
        plus: np.ufunc,
    ):
        """Weigh the tags of each token.

        tagset (Tagset): The tags.
        logits (np.ndarray): Their scores, (T, K).
        blocked (np.ndarray): Tokens that must stay outside, (T,) bool.
        is_last (np.ndarray): Tokens that end a document, (T,) bool.
        plus (np.ufunc): What two ways weigh together: np.add, or np.maximum for the better one.
        """
        self.tagset, self.logits, self.is_last = tagset, logits, is_last
        self.blocked, self.plus = blocked, plus
        n_tokens, n_tags = logits.shape
        self.length = min(n_tokens, max(ROW, isqrt(n_tokens) // 2))  # N
        n_rows = -(-n_tokens // self.length)
        token = np.arange(n_rows * self.length).reshape(n_rows, self.length).T  # (N, R)
        padding, token = token >= n_tokens, np.minimum(token, n_tokens - 1)

        arcs = [np.empty((self.length, tags.shape[1], n_rows)) for tags in tagset.arcs]
        self.closed, self.into, self.stay, self.out = arcs  # (N, 1, R), and (N, L, R) each
        height = max(1, SLICE // (n_tags * n_rows))
        for top in range(0, self.length, height):
            some = slice(top, top + height)
            scores = floored(logits[token[some]].swapaxes(1, 2))  # (n, K, R)
            # One tag more, without weight, stands for those that a label lacks
            weights = np.zeros((len(scores), n_tags + 1, n_rows))
            np.exp(scores, out=weights[:, :-1])
            at, row = np.nonzero(padding[some] | blocked[token[some]])
            weights[at, :, row] = np.arange(n_tags + 1) == tagset.outside
            for arc, tags in zip(arcs, tagset.arcs):
                plus.reduce(weights.take(tags, axis=1), axis=1, out=arc[some])
        at, row = np.nonzero(is_last[token])
        self.into[at, :, row] = self.stay[at, :, row] = 0.0

    def best(self, tags: np.ndarray) -> np.ndarray:
        """Follow the best way back from the end (Viterbi). Calls for `plus` to be np.maximum.

        tags (np.ndarray): The most probable tag of each token, (T,).
        RETURNS (np.ndarray): The most probable valid tagging, (T,).
        """
        before, _ = self._ratios(self.into, self.out, 1)
        into_0 = np.concatenate([self.closed, self.out * before[:-1]], axis=1)  # (N, 1 + L, R)
        label = np.arange(1, 1 + before.shape[1], dtype=np.int32)[:, None]
        into_label = np.where(self.stay * before[:-1] > self.into, label, 0)  # (N, L, R)
        into_0 = into_0.argmax(axis=1, keepdims=True).astype(label.dtype)
        sources = np.concatenate([into_0, into_label], axis=1)
        states = np.zeros((self.length + 1, 1, before.shape[2]), dtype=np.int64)

        def run(rows: Any, n_last: int) -> None:
            state = states[-1 - n_last, 0, rows]
            columns = np.arange(len(state))
            for source, found in zip(sources[n_last - 1 :: -1, :, rows], states[-n_last:, 0]):
                found[rows] = state = source[state, columns]

        settle(run, states, -1)
        borders = states[::-1, 0]  # (N + 1, R)
        source, target = (ends.T.ravel()[: len(tags)] for ends in (borders[:-1], borders[1:]))
        fits = self.tagset.comes_from[source] & self.tagset.leads_to[target]  # (T, K)
        odd = np.flatnonzero(~fits[np.arange(len(tags)), tags])
        valid = tags.copy()
        valid[odd] = np.where(fits[odd], floored(self.logits[odd]), -np.inf).argmax(axis=1)
        return valid

    def shares(self, tags: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Sum the taggings with exactly this entity, as a share of all valid ones
        (forward-backward). Calls for `plus` to be np.add.

        tags (np.ndarray): The best tagging, (T,).
        first, last (np.ndarray): First and last token of each of its entities, (E,).
        RETURNS (np.ndarray): Probabilities, (E,).
        """
        before, _ = self._ratios(self.into, self.out, 1)
        after, growth = self._ratios(self.out, self.into, -1)
        # Against all ways through state 0 before the entity: all ways whatever weigh `whole`, and
        # those that then spell it weigh what its tags do, relative to all that its tokens may do
        row, at = np.divmod(first, self.length)
        whole = 1 + (before[at, :, row] * after[at, :, row]).sum(axis=1)  # (E,)
        inside = np.flatnonzero(self.tagset.label_of[tags] >= 0)
        row, at = np.divmod(inside, self.length)
        chosen = np.take_along_axis(floored(self.logits[inside]), tags[inside, None], 1)[:, 0]
        steps = chosen - np.log(growth[at, 0, row])
        shares = np.exp(np.add.reduceat(steps, np.searchsorted(inside, first))) / whole
        if self.tagset.scheme == "IO":  # an entity is longer if a neighbour has its label
            same = self.tagset.continues[tags[first]]  # (E, K)
            sides = (first - 1, self.is_last[first - 1]), (last + 1, self.is_last[last])
            for neighbour, is_border in sides:  # left of the first token, index -1 is a last one
                at = np.where(is_border, first, neighbour)
                weights = np.exp(floored(self.logits[at]))
                longer = (weights * same).sum(axis=1) / weights.sum(axis=1)
                shares *= np.where(is_border | self.blocked[at], 1.0, 1.0 - longer)
        return np.clip(shares, 0.0, 1.0)

    def _ratios(
        self, into: np.ndarray, out: np.ndarray, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weigh the ways to every state from one end of the text.

        into, out (np.ndarray): Weights from state 0 and back, seen from that end; (N, L, R).
        step (int): 1 to come from the left, -1 from the right.
        RETURNS (tuple[np.ndarray, np.ndarray]): Weights at the borders of tokens as ratios to state
            0, (N + 1, L, R), and the factor by which each token multiplies that of state 0,
            (N, 1, R).
        """
        arcs = [arc[::step] for arc in (self.closed, into, self.stay, out)]
        ratios = np.zeros((len(into) + 1, *into.shape[1:]))
        growth = np.empty_like(self.closed)

        def run(rows: Any, n_last: int) -> None:
            state = ratios[-1 - n_last][:, rows]
            weights = (arc[-n_last:, :, rows] for arc in arcs)
            results = growth[-n_last:], ratios[-n_last:]
            for closed, into, stay, out, factor, ratio in zip(*weights, *results):
                total = self.plus(closed, self.plus.reduce(out * state, axis=0))  # (1, R)
                state = self.plus(into, stay * state) / total  # (L, R)
                factor[:, rows], ratio[:, rows] = total, state

        settle(run, ratios, step)
        return ratios[::step], growth[::step]


def settle(run: Callable[[Any, int], None], states: np.ndarray, step: int) -> None:
    """Run the rows of a chain until each of them starts as its neighbour ends.

    A text soon forgets: almost always the last tokens of a row alone tell what the next one starts
    with. Rows that have started otherwise run again. That ends, as the first row is right and its
    neighbour right after it; and it is exact, as what is off by some factor at the start of a row
    is off by no more at its end (Birkhoff, "Extensions of Jentzsch's theorem", 1957).

    run (Callable): Takes some rows through their last so many tokens.
    states (np.ndarray): What it fills: states at the borders of the tokens, (N + 1, S, R). The
        first are what the rows start with.
    step (int): 1 if the neighbour is the row before, -1 if it is the row after.
    """
    starts, ends = states[0], states[-1]  # (S, R)
    followers = np.arange(starts.shape[1])[max(step, 0) : min(step, 0) or None]
    if len(followers):
        run(slice(None), ROW)
        starts[:, followers] = ends[:, followers - step]
    rows: Any = slice(None)
    while True:
        run(rows, len(states) - 1)
        before, here = ends[:, followers - step], starts[:, followers]
        rows = followers[(np.abs(before - here) > SAME * np.abs(here)).any(axis=0)]
        if len(rows) == 0:
            return
        starts[:, rows] = ends[:, rows - step]


def floored(logits: np.ndarray) -> np.ndarray:
    """(T, K) or (T, K, R) logits -> how far they are below the best of K, FLOOR at most."""
    scores = np.array(logits, dtype=np.float64, order="C")
    scores -= scores.max(axis=1, keepdims=True)
    return np.maximum(scores, FLOOR, out=scores)


def as_table(sets: np.ndarray) -> np.ndarray:
    """Write (A, K) sets of tags as (most, A) numbers of tags, with K where a set has fewer."""
    most = max(1, sets.sum(axis=1).max())
    members = np.argsort(~sets, axis=1, kind="stable")[:, :most]
    return np.where(np.take_along_axis(sets, members, axis=1), members, sets.shape[1]).T
