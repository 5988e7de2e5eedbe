"""What is read out of ALBERT's states: scores a token, scores a document, or the states themselves.

A head works in two steps. `forward` looks at rows of states one by one, inside the batch that the
encoder is computing. `pool` then makes tokens of pieces, or documents of windows.
"""

import torch
from torch import Tensor, nn

from .modeling import ClassifierHead
from .reading import Reading, first_entries, split


class TokenHead(nn.Module):
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

    def pool(self, rows: Tensor, reading: Reading) -> list[Tensor]:
        """(P, K) logits of pieces -> (T, K) logits of tokens, NaN for tokens without pieces."""
        tokens = pool_tokens(rows, reading, self.pooling)
        unread = torch.from_numpy(reading.token_counts == 0).to(rows.device)[:, None]
        return split(tokens.masked_fill(unread, torch.nan), reading.tokens_per_doc)


class TextHead(nn.Module):
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

    def pool(self, rows: Tensor, reading: Reading) -> list[Tensor]:
        """(W, K) logits of windows -> (K,) logits of each document."""
        owned = reading.window_edges[1:] - reading.window_edges[:-1]
        weights = torch.from_numpy(owned).clamp(min=1).to(rows)[:, None]  # (W, 1)
        docs = torch.repeat_interleave(torch.from_numpy(reading.windows_per_doc)).to(rows.device)
        n_docs = len(reading.windows_per_doc)
        total = rows.new_zeros(n_docs, rows.shape[1]).index_add(0, docs, rows * weights)
        return list(total / rows.new_zeros(n_docs, 1).index_add(0, docs, weights))


class States(nn.Module):
    """The states themselves, one row a token: what spaCy's own components train on."""

    unit = "pieces"

    def forward(self, states: Tensor) -> Tensor:
        """(N, H) -> (N, H)."""
        return states

    def pool(self, rows: Tensor, reading: Reading) -> list[Tensor]:
        """(P, H) states of pieces -> (T, H) states of tokens, one tensor a document."""
        return split(pool_tokens(rows, reading, "mean"), reading.tokens_per_doc)


class ClsStates(nn.Module):
    """The state of [CLS] in every window."""

    unit = "windows"

    def forward(self, states: Tensor) -> Tensor:
        """(W, H) -> (W, H)."""
        return states

    def pool(self, rows: Tensor, reading: Reading) -> list[Tensor]:
        """(W, H) -> the windows of each document."""
        return split(rows, reading.windows_per_doc)


def pool_tokens(rows: Tensor, reading: Reading, how: str) -> Tensor:
    """Make one row a token of one row a piece.

    rows (Tensor): (P, K), one row a piece.
    reading (Reading): Says which pieces a token has.
    how (str): "first" or "mean".
    RETURNS (Tensor): (T, K), one row a token; zeros for a token without pieces.
    """
    counts = torch.from_numpy(reading.token_counts).to(rows.device)  # (T,)
    pieces = torch.from_numpy(reading.token_pieces).to(rows.device)  # (A,)
    tokens = rows.new_zeros(len(counts), rows.shape[1])
    if how == "first":
        firsts = torch.from_numpy(first_entries(reading.token_counts)).to(rows.device)
        return tokens.index_copy(0, counts.nonzero()[:, 0], rows[pieces[firsts]])
    owners = torch.repeat_interleave(counts)  # (A,)
    return tokens.index_add(0, owners, rows[pieces]) / counts.clamp(min=1)[:, None]


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
