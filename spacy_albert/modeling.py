"""ALBERT in one file: config, embeddings, the shared layer, encoder, heads.

ALBERT ("A Lite BERT for Self-supervised Learning of Language Representations", Lan et al. 2020,
https://arxiv.org/abs/1909.11942) is BERT with three changes, all in section 3.1 of the paper:

1. Factorised embeddings. A vocabulary of V pieces costs V x E + E x H weights, not V x H: pieces
   are looked up in a small space (E = 128) and projected once to the width of the encoder (H).
2. Shared layers. One transformer layer is applied again and again, so depth costs time but no
   memory. `Albert.layers_by_depth` is that sentence as code.
3. Sentence order prediction. Pre-training asks whether two segments are in order or swapped,
   where BERT asked whether they belong together.

Shapes: B sequences, S pieces each; V vocabulary, E embedding, H hidden, F feed-forward; A heads.

In float32, outputs and gradients equal those of `transformers.Albert*` to 1e-5. Where that library
and Google's reference (https://github.com/google-research/albert, modeling.py) part, a comment says
which is followed.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Hugging Face's names. Google's config files say "gelu" and mean the tanh form, "gelu_new" here.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}

#: The most pieces of a sequence whose weights of attention are kept in training.
FEW = 256


@dataclass(frozen=True)
class AlbertConfig:
    """Describe the shape of an ALBERT, in the field names of Hugging Face's config.json.

    The defaults are albert-base-v2. Values are checked on construction.

    vocab_size (int): Pieces in the vocabulary (V).
    embedding_size (int): Width of the embeddings (E).
    hidden_size (int): Width of the encoder (H).
    num_hidden_layers (int): Depth: how many times layers are applied.
    num_hidden_groups (int): Groups of layers with weights of their own; ALBERT has one.
    num_attention_heads (int): Attention heads (A), each of width H / A.
    intermediate_size (int): Width inside the feed-forward block (F).
    inner_group_num (int): Different layers inside a group, applied in turn at each step of depth.
    hidden_act (str): "gelu_new" (tanh form), "gelu" (erf form) or "relu".
    hidden_dropout_prob (float): Dropout on embeddings and on the output of each block.
    attention_probs_dropout_prob (float): Dropout on the attention weights.
    max_position_embeddings (int): The longest sequence, in pieces.
    type_vocab_size (int): Segments that can be told apart.
    initializer_range (float): Standard deviation of the initial weights.
    layer_norm_eps (float): Epsilon of every LayerNorm.
    classifier_dropout_prob (float): Dropout before the classification heads.
    pad_token_id (int): Id of `<pad>`.
    bos_token_id (int): Id of `[CLS]`.
    eos_token_id (int): Id of `[SEP]`.
    RAISES (ValueError): A value that no ALBERT can have; the message names the field.
    """

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_hidden_groups: int = 1
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    inner_group_num: int = 1
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout_prob: float = 0.1
    pad_token_id: int = 0
    bos_token_id: int = 2
    eos_token_id: int = 3

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if name.endswith("_token_id"):
                wanted = f"an id below vocab_size ({self.vocab_size})"
                good = isinstance(value, int) and 0 <= value < self.vocab_size
            elif field.type is int:
                wanted, good = "a positive whole number", isinstance(value, int) and value > 0
            elif name.endswith("_prob"):
                wanted, good = "a probability below 1", number and 0 <= value < 1
            elif field.type is float:
                wanted, good = "a positive number", number and value > 0
            else:
                wanted, good = f"one of {', '.join(ACTIVATIONS)}", value in ACTIVATIONS
            if not good:
                raise ValueError(f"ALBERT config: {name} is {value!r}, but must be {wanted}.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"ALBERT config: num_attention_heads ({self.num_attention_heads}) must divide "
                f"hidden_size ({self.hidden_size})."
            )
        if self.num_hidden_groups > self.num_hidden_layers:
            raise ValueError(
                f"ALBERT config: num_hidden_groups ({self.num_hidden_groups}) must not exceed "
                f"num_hidden_layers ({self.num_hidden_layers}), or groups would never be used."
            )

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> "AlbertConfig":
        """Make a config from the contents of a config.json.

        Keys that do not describe the encoder are ignored. What is absent or null takes the default
        (a null classifier dropout the hidden dropout, as in `transformers`), but for the sizes that
        `transformers` takes from xxlarge: those must be there.

        settings (dict[str, Any]): The parsed file.
        RETURNS (AlbertConfig): The config.
        RAISES (ValueError): A missing size, a value that no ALBERT can have, or position embeddings
            that are not absolute.
        """
        if settings.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError(
                "ALBERT config: position_embedding_type is "
                f"{settings['position_embedding_type']!r}, but only 'absolute' is supported, "
                "which is what every published ALBERT has."
            )
        for name in ("hidden_size", "num_attention_heads", "intermediate_size"):
            if settings.get(name) is None:
                raise ValueError(f"ALBERT config: {name} is missing. Add it to config.json.")
        given = {
            field.name: settings[field.name]
            for field in fields(cls)
            if settings.get(field.name) is not None
        }
        config = cls(**given)
        if settings.get("classifier_dropout_prob", 0) is None:
            config = replace(config, classifier_dropout_prob=config.hidden_dropout_prob)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary, ready for a config.json.

        RETURNS (dict[str, Any]): Field names and values.
        """
        return asdict(self)


# Version 1 was trained with dropout (but for xxlarge) and is published with the erf GELU; version 2
# without dropout, on more data and for longer. The feed-forward block is always four times as wide.
CONFIGS: dict[str, AlbertConfig] = {
    f"albert-{size}-{version}": AlbertConfig(
        hidden_size=H,
        num_hidden_layers=layers,
        num_attention_heads=A,
        intermediate_size=4 * H,
        hidden_act={"v1": "gelu", "v2": "gelu_new"}[version],
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    for size, version, H, layers, A, dropout in (
        ("base", "v1", 768, 12, 12, 0.1),
        ("large", "v1", 1024, 24, 16, 0.1),
        ("xlarge", "v1", 2048, 24, 16, 0.1),
        ("xxlarge", "v1", 4096, 12, 64, 0.0),
        ("base", "v2", 768, 12, 12, 0.0),
        ("large", "v2", 1024, 24, 16, 0.0),
        ("xlarge", "v2", 2048, 24, 16, 0.0),
        ("xxlarge", "v2", 4096, 12, 64, 0.0),
    )
}


def initialize(module: nn.Module, std: float) -> None:
    """Give every submodule the weights that pre-training starts from.

    Weights come from a normal distribution cut at two standard deviations, as in Google's
    `create_initializer` (Hugging Face does not cut). The row of `<pad>` and every bias are zero,
    a LayerNorm is the identity.

    module (nn.Module): The module, changed in place.
    std (float): Standard deviation, `AlbertConfig.initializer_range`.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            with torch.no_grad():
                part.weight[part.padding_idx].zero_()
        if isinstance(part, nn.LayerNorm):
            part.reset_parameters()


class Linear(nn.Linear):
    """Multiply with a matrix. torch leaves that to MKL, which on AMD's CPUs takes twice as long as
    oneDNN; so in float32 on a CPU it is oneDNN's here.
    """

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        is_onednns = (
            states.device.type == "cpu"
            and states.dtype == self.weight.dtype == torch.float32
            and states.numel() > 0
            and torch.backends.mkldnn.is_available()
            and torch.backends.mkldnn.enabled
            and not torch.is_autocast_enabled("cpu")
        )
        if not is_onednns:
            return super().forward(states)
        return F.linear(states.to_mkldnn(), self.weight, self.bias).to_dense()


class Embeddings(nn.Module):
    """Look pieces up in the small space E and project them to the encoder's width H.

    Source: paper, section 3.1, "Factorized embedding parameterization".

    config (AlbertConfig): The shape.
    """

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        E, H = config.embedding_size, config.hidden_size
        self.words = nn.Embedding(config.vocab_size, E, padding_idx=config.pad_token_id)
        self.positions = nn.Embedding(config.max_position_embeddings, E)
        self.segments = nn.Embedding(config.type_vocab_size, E)
        self.norm = nn.LayerNorm(E, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        # Google leaves the projection out where E == H; Hugging Face, followed here, never does.
        self.project = nn.Linear(E, H)

    def forward(
        self, ids: Tensor, segments: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        if segments is None:
            segments = torch.zeros_like(ids)  # (B, S)
        if positions is None:
            S, longest = ids.shape[1], self.positions.num_embeddings
            if longest < S:
                raise ValueError(
                    f"A sequence of {S} pieces is longer than the {longest} positions of this "
                    "ALBERT (max_position_embeddings): split it into windows."
                )
            positions = torch.arange(S, device=ids.device)  # (S,)
        hidden = self.words(ids) + self.segments(segments)  # (B, S, E)
        hidden = hidden + self.positions(positions)  # (B, S, E) + (S, E)
        hidden = self.dropout(self.norm(hidden))  # (B, S, E)
        return self.project(hidden)  # (B, S, H)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """Mix values by how well queries and keys agree: softmax(Q K^T / sqrt(d)) V.

    That is one kernel of torch. On a CPU it is slow to learn through, as it computes all weights
    once more to go backward; where they are few, they are kept here instead.

    query, key, value (Tensor): One for each piece and head, (B, A, S, d).
    mask (Tensor | None): True at real pieces, (B, S) bool; None if all are real.
    dropout (float): The share of weights that is left out.
    RETURNS (Tensor): The mixtures, (B, A, S, d).
    """
    if mask is not None:
        mask = mask[:, None, None, :]  # (B, 1, 1, S)
    is_kept = query.requires_grad and not query.is_cuda and query.shape[2] <= FEW
    if not is_kept:
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    scores = query * query.shape[3] ** -0.5 @ key.transpose(2, 3)  # (B, A, S, S)
    if mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf)
    return F.dropout(scores.softmax(3), dropout) @ value


class Layer(nn.Module):
    """Mix information between pieces (attention), then within each (feed-forward).

    Each block adds to what came in and normalises the sum ("post-norm", as in BERT).

    config (AlbertConfig): The shape.
    """

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        H, F_ = config.hidden_size, config.intermediate_size
        self.num_heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.activation = ACTIVATIONS[config.hidden_act]
        # One product instead of three: the rows are all queries, then all keys, then all values.
        self.qkv = Linear(H, 3 * H)
        self.attention_out = Linear(H, H)
        self.attention_norm = nn.LayerNorm(H, eps=config.layer_norm_eps)
        self.ffn_in = Linear(H, F_)
        self.ffn_out = Linear(F_, H)
        self.ffn_norm = nn.LayerNorm(H, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the layer once.

        hidden (Tensor): What the layer below returned, (B, S, H).
        mask (Tensor | None): True at real pieces, (B, S) bool; None if all are real.
        RETURNS (Tensor): The new hidden states, (B, S, H).
        """
        mixed = self.attend(self.qkv(hidden), mask)  # (B, S, 3H) -> (B, S, H)
        return self.transform(hidden, mixed)  # (B, S, H)

    def attend(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the values of each sequence, by how well queries and keys agree.

        qkv (Tensor): Queries, keys and values of all heads, (B, S, 3H).
        mask (Tensor | None): True at real pieces, (B, S) bool; None if all are real.
        RETURNS (Tensor): A mixture of values for each piece, (B, S, H).
        """
        B, S, _ = qkv.shape
        qkv = qkv.view(B, S, 3, self.num_heads, -1)  # (B, S, 3, A, H/A)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, A, S, H/A)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = attend(query, key, value, mask, dropout)  # (B, A, S, H/A)
        return mixed.transpose(1, 2).reshape(B, S, -1)  # (B, S, H)

    def transform(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """Do the rest of the layer, which looks at each piece on its own.

        hidden (Tensor): What the layer below returned, (..., H).
        mixed (Tensor): What attention made of it, (..., H).
        RETURNS (Tensor): The new hidden states, (..., H).
        """
        mixed = self.dropout(self.attention_out(mixed))  # (..., H)
        hidden = self.attention_norm(hidden + mixed)  # (..., H)

        inner = self.activation(self.ffn_in(hidden))  # (..., F)
        # Google drops out here; Hugging Face has a dropout for this place and never applies it.
        inner = self.dropout(self.ffn_out(inner))  # (..., H)
        return self.ffn_norm(hidden + inner)  # (..., H)


class Albert(nn.Module):
    """Read pieces with ALBERT: embed them, then apply the shared layer again and again.

    The weights are fresh; `checkpoints.build_albert` loads trained ones.

    config (AlbertConfig): The shape.
    """

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.groups = nn.ModuleList(
            nn.ModuleList(Layer(config) for _ in range(config.inner_group_num))
            for _ in range(config.num_hidden_groups)
        )
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        initialize(self, config.initializer_range)

    def layers_by_depth(self) -> Iterator[Layer]:
        """Yield the layers in the order in which they apply.

        In every published ALBERT that is one and the same layer, `num_hidden_layers` times.
        Source: paper, section 3.1, "Cross-layer parameter sharing".

        YIELDS (Layer): The layer for each step.
        """
        layers_per_group = self.config.num_hidden_layers / self.config.num_hidden_groups
        for depth in range(self.config.num_hidden_layers):
            yield from self.groups[int(depth / layers_per_group)]  # type: ignore[misc]

    def embed(
        self, ids: Tensor, segments: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Turn ids into what the first layer reads.

        ids (Tensor): Piece ids, (B, S) int64; or (P,), sequences one after the other, with their
            positions.
        segments (Tensor | None): Segment of each piece, shaped as ids; None puts all in segment 0.
        positions (Tensor | None): Position of each piece in its sequence, shaped as ids; None
            counts along S.
        RETURNS (Tensor): Hidden states, (B, S, H) or (P, H).
        RAISES (ValueError): Sequences longer than `max_position_embeddings`.
        """
        return self.embeddings(ids, segments, positions)

    def forward(
        self, ids: Tensor, mask: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """Read a batch of sequences.

        ids (Tensor): Piece ids, padded at the end, (B, S) int64.
        mask (Tensor | None): True at real pieces, False at padding, (B, S) bool, with a real piece
            in every row; None if all are real. States at padding mean nothing.
        segments (Tensor | None): Segment of each piece, (B, S) int64; None puts all in segment 0.
        RETURNS (Tensor): The last hidden states, one row a piece, (B, S, H).
        RAISES (ValueError): A mask that is not bool, or sequences longer than
            `max_position_embeddings`.
        """
        if mask is not None and mask.dtype != torch.bool:
            raise ValueError(f"The mask is {mask.dtype}, but must be bool, True at real pieces.")
        hidden = self.embed(ids, segments)  # (B, S, H)
        for layer in self.layers_by_depth():
            hidden = layer(hidden, mask)  # (B, S, H)
        return hidden

    def pool(self, states: Tensor) -> Tensor:
        """Sum a sequence up in one vector: its [CLS] state, through a layer trained for that.

        states (Tensor): What `forward` returned, (B, S, H).
        RETURNS (Tensor): One row a sequence, (B, H).
        """
        return torch.tanh(self.pooler(states[:, 0]))  # (B, H)


class MaskedLanguageModelHead(nn.Module):
    """Guess masked pieces, with the word embeddings read backwards as the output weights.

    Parameters here and in the heads below are spelled as in Hugging Face's files, which therefore
    load as they are.

    config (AlbertConfig): The shape.
    word_embeddings (nn.Embedding): The encoder's `embeddings.words`, shared and not copied.
    """

    def __init__(self, config: AlbertConfig, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        initialize(self, config.initializer_range)
        self.decoder = word_embeddings

    def forward(self, states: Tensor) -> Tensor:
        """Score every piece of the vocabulary at each state given, say the masked ones.

        states (Tensor): Encoder states, (..., H).
        RETURNS (Tensor): Logits, (..., V).
        """
        hidden = self.activation(self.dense(states))  # (..., E)
        hidden = self.LayerNorm(hidden)  # (..., E)
        return F.linear(hidden, self.decoder.weight, self.bias)  # (..., V)


class ClassifierHead(nn.Linear):
    """Score labels from states: one linear layer after dropout.

    It serves tokens (on states), sequences and choices (on pooled states), and question answering
    (on states: two labels, start and end, and no dropout).

    hidden_size (int): Width of the encoder, H.
    num_labels (int): How many scores to give.
    dropout (float): Dropout on the input, in training.
    std (float): Standard deviation of the initial weights.
    """

    def __init__(
        self, hidden_size: int, num_labels: int, dropout: float = 0.0, std: float = 0.02
    ) -> None:
        super().__init__(hidden_size, num_labels)
        self.dropout = dropout
        initialize(self, std)

    def forward(self, states: Tensor) -> Tensor:
        """Score the labels.

        states (Tensor): States or pooled states, (..., H).
        RETURNS (Tensor): Logits, (..., num_labels).
        """
        return super().forward(F.dropout(states, self.dropout, self.training))  # (..., num_labels)


class SentenceOrderHead(nn.Module):
    """Tell segments in order (0) from swapped ones (1).

    Dropout comes before the linear layer, as in Hugging Face; Google has none.
    Source: paper, section 3.1, "Inter-sentence coherence loss".

    config (AlbertConfig): The shape.
    """

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.classifier = ClassifierHead(
            config.hidden_size, 2, config.classifier_dropout_prob, config.initializer_range
        )

    def forward(self, pooled: Tensor) -> Tensor:
        """Score both orders.

        pooled (Tensor): Pooled states, (B, H).
        RETURNS (Tensor): Logits, (B, 2).
        """
        return self.classifier(pooled)  # (B, 2)
