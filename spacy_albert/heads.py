"""What is read out of ALBERT's states: scores a token, scores a document, or the states themselves.

A head works in three steps. `forward` looks at rows of states one by one, inside the batch that the
encoder is computing. `pool` makes rows of tokens, or of documents, once all batches are through.
`split` hands each document its own. Indices are made with numpy, which on a GPU costs no waiting.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from spacy.tokens import Doc
from torch import Tensor, nn

from .modeling import ClassifierHead
from .reading import Reading, first_entries
from .texts import texts_of
from .transfer import to_device


class Head(nn.Module):
    """What heads have in common: they read documents alone, and learn from what they answer."""

    unit: str
    classifier: ClassifierHead
    #: Whether documents are read together with something else, and what that is, for one of them.
    reads_alone = False
    inputs: Callable[[Doc], Any]

    def prepare(self, reader: Any, docs: Sequence[Doc]) -> Reading:
        """Say how documents are to be read.

        reader (Reader): The reader.
        docs (Sequence[Doc]): The documents.
        RETURNS (Reading): Everything needed to read them.
        """
        return reader.prepare(texts_of(docs))

    def pool(self, rows: Tensor, reading: Reading) -> Tensor:
        """One row a unit -> the same."""
        return rows

    def split(self, rows: Tensor, reading: Reading) -> list[Any]:
        """What `pool` gave -> one tensor a document."""
        raise NotImplementedError

    def fits(self, answer: Any, doc: Doc) -> bool:
        """RETURNS (bool): Whether an answer is still about the document; merged or split tokens
        need another look, where they matter.
        """
        return True

    @property
    def learns_from(self) -> str:
        """RETURNS (str): The unit whose states `learn` takes."""
        return self.unit

    def learn(self, states: Tensor, reading: Reading) -> list[Any]:
        """Answer in training.

        states (Tensor): The states of all units, (U, H).
        reading (Reading): How the documents were read.
        RETURNS (list): What `split` gives, with the graph.
        """
        return self.split(self.pool(self(states), reading), reading)

    def set_dropout(self, rate: float) -> None:
        """Set the dropout before the last layer, in training.

        rate (float): The share of what is dropped.
        """
        self.classifier.dropout = rate

    @staticmethod
    def sizes(weights: Mapping[str, Tensor]) -> tuple[int, int]:
        """RETURNS (tuple[int, int]): The width of the states and the number of classes."""
        n_classes, hidden_size = weights["classifier.weight"].shape
        return hidden_size, n_classes


class TokenHead(Head):
    """Class scores for every token.

    As `AlbertForTokenClassification`: dropout and one linear layer on each state. The layer is
    linear, so the mean of the scores of a token's pieces is the score of the mean of their states.
    """

    unit = "pieces"

    def __init__(self, hidden_size: int, n_classes: int, pooling: str):
        """Make a head with small random weights.

        hidden_size (int): Width of the states, H.
        n_classes (int): Number of classes, K.
        pooling (str): "first" or "mean": which of a token's pieces speak for it.
        """
        super().__init__()
        self.classifier = ClassifierHead(hidden_size, n_classes)
        self.pooling = pooling

    def forward(self, states: Tensor) -> Tensor:
        """(N, H) states -> (N, K) logits."""
        return self.classifier(states)

    def pool(self, rows: Tensor, reading: Reading) -> Tensor:
        """(P, K) logits of pieces -> (T, K) logits of tokens, NaN for tokens without pieces."""
        tokens = pool_tokens(rows, reading, self.pooling)
        unread = to_device(reading.token_counts == 0, rows.device)[:, None]  # (T, 1)
        return tokens.masked_fill_(unread, torch.nan)

    def split(self, rows: Tensor, reading: Reading) -> list[Tensor]:
        """(T, K) -> (T, K) for each document."""
        return list(rows.split(reading.tokens_per_doc.tolist()))

    def fits(self, answer: Tensor, doc: Doc) -> bool:
        """RETURNS (bool): Whether there is a row for each token."""
        return len(answer) == len(doc)


class TextHead(Head):
    """Class scores for a document.

    As `AlbertForSequenceClassification`: the pooler (a linear layer and tanh on the [CLS] state),
    dropout, and a linear layer. The logits of a long document are the mean over its windows,
    weighted by the pieces each owns.
    """

    unit = "windows"

    def __init__(self, hidden_size: int, n_classes: int):
        """Make a head with small random weights.

        hidden_size (int): Width of the states, H.
        n_classes (int): Number of classes, K.
        """
        super().__init__()
        self.pooler = nn.Linear(hidden_size, hidden_size)
        self.classifier = ClassifierHead(hidden_size, n_classes)

    def forward(self, states: Tensor) -> Tensor:
        """(W, H) [CLS] states -> (W, K) logits."""
        pooled = torch.tanh(self.pooler(states))  # (W, H)
        return self.classifier(pooled)

    def pool(self, rows: Tensor, reading: Reading) -> Tensor:
        """(W, K) logits of windows -> (D, K) logits of documents."""
        return pool_windows(rows, reading)

    def split(self, rows: Tensor, reading: Reading) -> list[Tensor]:
        """(D, K) -> (K,) for each document."""
        return list(rows)


class States(Head):
    """The states themselves, one row a token: what spaCy's own components train on."""

    unit = "pieces"

    def forward(self, states: Tensor) -> Tensor:
        """(N, H) -> (N, H)."""
        return states

    def pool(self, rows: Tensor, reading: Reading) -> Tensor:
        """(P, H) states of pieces -> (T, H) states of tokens."""
        return pool_tokens(rows, reading, "mean")

    def split(self, rows: Tensor, reading: Reading) -> list[Tensor]:
        """(T, H) -> (T, H) for each document."""
        return list(rows.split(reading.tokens_per_doc.tolist()))

    def fits(self, answer: Tensor, doc: Doc) -> bool:
        """RETURNS (bool): Whether there is a row for each token."""
        return len(answer) == len(doc)


class ClsStates(Head):
    """The state of [CLS] in every window."""

    unit = "windows"

    def forward(self, states: Tensor) -> Tensor:
        """(W, H) -> (W, H)."""
        return states

    def split(self, rows: Tensor, reading: Reading) -> list[Tensor]:
        """(W, H) -> the windows of each document."""
        return list(rows.split(reading.windows_per_doc.tolist()))


class PositionStates(Head):
    """The state of every position in every window, [CLS] and [SEP] included."""

    unit = "positions"

    def forward(self, states: Tensor) -> Tensor:
        """(R, H) -> (R, H)."""
        return states


class PairHead(TextHead):
    """Class scores, or one number, for a document and the text that belongs to it.

    As `AlbertForSequenceClassification`. The first segment is the document, `inputs` gives the
    second. Of texts that are read in windows, the logits are weighted as in TextHead.
    """

    reads_alone = True

    def prepare(self, reader: Any, docs: Sequence[Doc]) -> Reading:
        """Say how documents are to be read, each with its second text."""
        return reader.prepare_pairs([doc.text for doc in docs], list(map(self.inputs, docs)))


class Vectors(Head):
    """One vector a document, and on request one a token.

    A document's is the mean over its pieces, each as it is in the window that shows most of its
    context; or the mean over the [CLS] of its windows, weighted by the pieces that each owns. For
    vectors of documents alone, a window leaves one row behind, and the states of its pieces are
    gone with its batch.
    """

    def __init__(self, pooling: str, tokens: bool):
        """Decide what to read out.

        pooling (str): "mean" or "cls".
        tokens (bool): Whether the tokens have vectors, too.
        """
        super().__init__()
        self.pooling, self.tokens = pooling, tokens
        of_docs = {"mean": "means", "cls": "windows"}[pooling]
        self.unit = of_docs if not tokens else "pieces" if pooling == "mean" else "all"

    def forward(self, states: Tensor) -> Tensor:
        """(N, H) -> (N, H)."""
        return states

    def pool(self, rows: Tensor, reading: Reading) -> Tensor:
        """One row a unit -> (D, H) vectors of documents, and below them (T, H) of tokens."""
        if not self.tokens:
            return pool_windows(rows, reading)
        pieces, windows = rows[: len(reading.ids)], rows[len(reading.ids) :]
        if self.pooling == "mean":
            owned = np.diff(reading.window_edges)
            windows = means(torch.arange(len(pieces), device=rows.device), pieces, owned)
        return torch.cat([pool_windows(windows, reading), pool_tokens(pieces, reading, "mean")])

    def split(self, rows: Tensor, reading: Reading) -> list[Tensor]:
        """What `pool` gave -> (1, H) or (1 + T, H) for each document, its own vector first."""
        n_docs = len(reading.windows_per_doc)
        docs = rows[:n_docs].split(1)
        if not self.tokens:
            return list(docs)
        tokens = rows[n_docs:].split(reading.tokens_per_doc.tolist())
        return [torch.cat(both) for both in zip(docs, tokens)]

    def fits(self, answer: Tensor, doc: Doc) -> bool:
        """RETURNS (bool): Whether there is a row for each token that is to have one."""
        return len(answer) == 1 + len(doc) * self.tokens


def pool_windows(rows: Tensor, reading: Reading) -> Tensor:
    """Make one row a document of one row a window.

    rows (Tensor): (W, K), one row a window.
    reading (Reading): Says which windows a document has.
    RETURNS (Tensor): (D, K), the means, weighted by the pieces that each window owns, of both texts
        if there are two.
    """
    n_docs = len(reading.windows_per_doc)
    docs = np.repeat(np.arange(n_docs), reading.windows_per_doc)  # (W,)
    owned = np.maximum(np.diff(reading.window_edges), 1)  # (W,)
    if reading.firsts is not None:
        owned = owned * np.maximum(reading.firsts.owned, 1)
    weights = owned / np.bincount(docs, owned, n_docs)[docs]  # (W,)
    if rows.dtype != torch.float64:
        weights = weights.astype(np.float32)
    weighted = rows * to_device(weights, rows.device)[:, None]  # (W, K)
    return rows.new_zeros(n_docs, rows.shape[1]).index_add(
        0, to_device(docs, rows.device), weighted
    )


def pool_tokens(rows: Tensor, reading: Reading, how: str) -> Tensor:
    """Make one row a token of one row a piece.

    rows (Tensor): (P, K), one row a piece.
    reading (Reading): Says which pieces a token has.
    how (str): "first" or "mean".
    RETURNS (Tensor): (T, K), one row a token; zeros for a token without pieces.
    """
    pieces, counts = reading.token_pieces, reading.token_counts
    if how == "first":
        pieces, counts = pieces[first_entries(counts)], np.minimum(counts, 1)
    return means(to_device(pieces, rows.device), rows, counts)


def means(numbers: Tensor, rows: Tensor, counts: np.ndarray) -> Tensor:
    """Average some rows at a time, each time on their own whatever else is there.

    numbers (Tensor): The numbers of the rows, those of each mean after those of the one before.
    rows (Tensor): (N, K).
    counts (np.ndarray): How many rows each mean is of, (M,).
    RETURNS (Tensor): (M, K); zeros where there is nothing to average.
    """
    bags = to_device(np.cumsum(counts) - counts, rows.device)  # (M,) where each begins
    return F.embedding_bag(numbers, rows, bags, mode="mean")


def widen(layer: ClassifierHead, n_classes: int) -> ClassifierHead:
    """Add classes to a classifier and keep the ones it has.

    layer (ClassifierHead): The classifier; unchanged.
    n_classes (int): Classes of the new one, no fewer than it has.
    RETURNS (ClassifierHead): A new classifier.
    """
    wider = ClassifierHead(layer.in_features, n_classes).to(layer.weight.device)
    with torch.no_grad():
        wider.weight[: layer.out_features] = layer.weight
        wider.bias[: layer.out_features] = layer.bias
    return wider
