"""Entities as tags: schemes, the best valid tagging, and the probability of each entity.

A token classifier scores every tag of every token on its own, so its best tags may contradict each
other ("O I-PER"). Decoding looks only at taggings that the scheme allows: it takes the most
probable one (Viterbi), and scores an entity with its share of the probability of all of them
(forward-backward; Rabiner, "A Tutorial on Hidden Markov Models", 1989). So a score says how likely
exactly this span with this label is, and long entities are not worth less than short ones.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .batching import batches

ROLES = {"B": "B", "I": "I", "L": "L", "E": "L", "U": "U", "S": "U"}
PREFIXES = {"BILOU": "BILU", "BIO": "BI", "IO": "I"}
MISSING = -100  # as torch's ignore_index
FLOOR = -100.0  # logits further below the best count as this far; e^-100 is 0 in float32


class Entities(NamedTuple):
    """The entities of one document."""

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
        """Write the scheme down as two matrices over (previous tag, next tag)."""
        begins = np.isin(self.roles, ["B", "U"])
        goes_on = np.isin(self.roles, ["I", "L"])
        same = (self.label_of[:, None] == self.label_of[None, :]) & (self.label_of >= 0)
        if self.scheme == "IO":
            self.continues = same
            self.allowed = np.ones_like(same)
            return
        # A label without an "L" tag ends as in BIO; "B" alone is left to "U" where there is one
        is_open = np.isin(self.roles, ["B", "I"])
        ends = np.isin(self.label_of, self.label_of[self.roles == "L"])
        singles = np.isin(self.label_of, self.label_of[self.roles == "U"])
        must_go_on = is_open & (ends | (singles & (self.roles == "B")))
        self.continues = same & is_open[:, None] & goes_on[None, :]
        free = (self.roles == "O") | begins
        self.allowed = self.continues | (free[None, :] & ~must_go_on[:, None])

    def decode(
        self, logits: Sequence[np.ndarray], blocked: Sequence[np.ndarray] | None = None
    ) -> list[Entities]:
        """Find the entities of the most probable valid tagging of each document.

        logits (Sequence[np.ndarray]): Scores of the tags, (T, K) for each document.
        blocked (Sequence[np.ndarray] | None): Tokens that must stay outside, (T,) bool each.
        RETURNS (list[Entities]): One for each document.
        """
        results = [no_entities()] * len(logits)
        lengths = np.array([len(doc) for doc in logits], dtype=np.int64)
        budget = min(32_768, 2**25 // len(self.tags) ** 2)  # decoding looks at pairs of tags
        for batch in batches(np.maximum(lengths, 1), budget):
            batch = batch[lengths[batch] > 0]
            if len(batch) == 0:
                continue
            log_probs = self._log_probs(
                [logits[i] for i in batch], [blocked[i] for i in batch] if blocked else None
            )
            for i, entities in zip(batch, self._decode_padded(log_probs, lengths[batch])):
                results[i] = entities
        return results

    def _log_probs(self, logits: list[np.ndarray], blocked: list[np.ndarray] | None) -> np.ndarray:
        """Lay documents out as (D, T, K); padding and blocked tokens are certainly outside."""
        outside = np.full(len(self.tags), -np.inf)
        outside[self.outside] = 0.0
        padded = np.tile(outside, (len(logits), max(map(len, logits)), 1))
        for row, doc in enumerate(logits):
            scores = doc.astype(np.float64)
            scores = np.maximum(scores - scores.max(axis=1, keepdims=True), FLOOR)
            padded[row, : len(doc)] = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
            if blocked is not None:
                padded[row, : len(doc)][blocked[row]] = outside
        return padded

    def _decode_padded(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[Entities]:
        """(D, T, K) log probabilities -> the entities of each document."""
        tags = log_probs.argmax(axis=2)  # (D, T)
        wrong = ~self._is_valid(tags)
        if wrong.any():
            tags[wrong] = self._viterbi(log_probs[wrong])
        starts, ends = self._borders(tags)
        found = starts.any(axis=1)
        results = [no_entities()] * len(tags)
        if not found.any():
            return results
        rows, first = starts[found].nonzero()
        _, last = ends[found].nonzero()
        labels = self.label_of[tags[found][rows, first]]
        scores = self._probabilities(log_probs[found], tags[found], rows, first, last)
        cuts = np.searchsorted(rows, np.arange(1, found.sum()))
        columns = (np.split(column, cuts) for column in (first, last + 1, labels, scores))
        for row, entities in zip(found.nonzero()[0], zip(*columns)):
            results[row] = Entities(*entities)
        return results

    def _neighbours(self, tags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(D, T) tags -> each tag's predecessor and successor; text begins and ends outside."""
        border = np.full((len(tags), 1), self.outside)
        return np.hstack([border, tags[:, :-1]]), np.hstack([tags[:, 1:], border])

    def _is_valid(self, tags: np.ndarray) -> np.ndarray:
        before, after = self._neighbours(tags)
        return (self.allowed[before, tags] & self.allowed[tags, after]).all(axis=1)

    def _borders(self, tags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(D, T) tags -> where entities start, where they have their last token."""
        before, after = self._neighbours(tags)
        inside = self.label_of[tags] >= 0
        return inside & ~self.continues[before, tags], inside & ~self.continues[tags, after]

    def _viterbi(self, log_probs: np.ndarray) -> np.ndarray:
        """(D, T, K) -> (D, T) tags of the most probable valid tagging."""
        n_tokens = log_probs.shape[1]
        into = np.where(self.allowed.T, 0.0, -np.inf)  # (K, K), next tag first: contiguous below
        best = log_probs[:, 0] + into[:, self.outside]  # (D, K)
        came_from = np.zeros(log_probs.shape, dtype=np.int32)
        for t in range(1, n_tokens):
            through = best[:, None, :] + into  # (D, K, K)
            came_from[:, t] = through.argmax(axis=2)
            best = np.take_along_axis(through, came_from[:, t, :, None], axis=2)[:, :, 0]
            best += log_probs[:, t]
        tags = np.empty(log_probs.shape[:2], dtype=np.int64)
        tags[:, -1] = (best + into[self.outside]).argmax(axis=1)
        for t in range(n_tokens - 1, 0, -1):
            tags[:, t - 1] = np.take_along_axis(came_from[:, t], tags[:, t, None], 1)[:, 0]
        return tags

    def _probabilities(
        self,
        log_probs: np.ndarray,
        tags: np.ndarray,
        rows: np.ndarray,
        first: np.ndarray,
        last: np.ndarray,
    ) -> np.ndarray:
        """Sum the valid taggings with exactly this entity, as a share of all valid ones.

        log_probs (np.ndarray): (D, T, K).
        tags (np.ndarray): (D, T), the best tagging.
        rows, first, last (np.ndarray): (E,) document, first and last token of each entity.
        RETURNS (np.ndarray): (E,) probabilities.
        """
        n_docs, n_tokens, n_tags = log_probs.shape
        probs = np.exp(log_probs.swapaxes(0, 1), order="C")  # (T, D, K), for speed
        allowed = self.allowed.astype(np.float64)
        fresh = (self.allowed & ~self.continues).astype(np.float64)
        forward = np.zeros((n_tokens + 1, n_docs, n_tags))  # forward[t]: before token t
        backward = np.zeros((n_tokens + 1, n_docs, n_tags))  # backward[t]: of token t and after
        scale = np.empty((n_tokens, n_docs))
        forward[0, :, self.outside] = 1.0
        for t in range(n_tokens):
            reached = (forward[t] @ allowed) * probs[t]
            scale[t] = reached.sum(axis=1)
            forward[t + 1] = reached / scale[t, :, None]
        # Taggings that end within an entity are not valid, and are no part of the whole
        backward[n_tokens, :, self.outside] = 1 / (forward[n_tokens] @ allowed[:, self.outside])
        for t in range(n_tokens - 1, -1, -1):
            backward[t] = (backward[t + 1] @ allowed.T) * probs[t] / scale[t, :, None]
        along = np.take_along_axis(log_probs, tags[:, :, None], axis=2)[:, :, 0] - np.log(scale.T)
        total = np.cumsum(along, axis=1)
        within = total[rows, last] - total[rows, first] + along[rows, first]
        enters = np.einsum("ek,ke->e", forward[first, rows], fresh[:, tags[rows, first]])
        leaves = np.einsum("ek,ek->e", backward[last + 1, rows], fresh[tags[rows, last]])
        return np.clip(enters * np.exp(within) * leaves, 0.0, 1.0)

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
