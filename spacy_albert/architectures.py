"""The building blocks that training configs name.

Like the factories, this module imports nothing heavy until a function is called. Architectures are
made on every `spacy.load`, without weights: those come from the saved pipeline, or, in training,
from the [initialize] block.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Optional, Union

from spacy.tokens import Doc
from thinc.api import Model
from thinc.types import Floats2d, Ragged


def albert(
    window: Optional[int] = None,
    overlap: int = 32,
    batch_pieces: Optional[int] = None,
    device: str = "auto",
    precision: str = "auto",
    training_precision: str = "float32",
    learn_rate_factor: float = 1.0,
) -> Model:
    """Make an ALBERT encoder (spacy-albert.Albert.v1).

    window (int | None): The most pieces it sees at once, [CLS] and [SEP] included. Longer texts are
        read in overlapping windows. None: as many as the checkpoint has positions.
    overlap (int): Pieces that neighbouring windows share.
    batch_pieces (int | None): The most pieces in a batch, padding included. None: as many as the
        device is best at, and has memory for.
    device (str): "auto" (a GPU if torch sees one), "cpu", "cuda", "cuda:N" or "mps".
    precision (str): What annotation computes in: "float32", "bfloat16", "int8" (on a CPU, with
        OpenVINO), or "auto", which is bfloat16 where the hardware multiplies it, else float32.
    training_precision (str): What the matrix products of training compute in: "float32",
        "bfloat16", or "auto", as above. Weights and sums are in float32 all the same.
    learn_rate_factor (float): The encoder learns at so many times the rate of [training.optimizer],
        its heads at that rate.
    RETURNS (Model[List[Doc], Activations]): The encoder.
    """
    from .layers import albert_layer

    if learn_rate_factor <= 0:
        raise ValueError(
            f"learn_rate_factor is {learn_rate_factor}; it must be above 0. An encoder that is not "
            "to learn belongs in [training] frozen_components."
        )
    return albert_layer(
        window=window,
        overlap=overlap,
        batch_pieces=batch_pieces,
        device=device,
        precision=precision,
        training_precision=training_precision,
        learn_rate_factor=learn_rate_factor,
    )


def albert_listener(upstream: str = "*") -> Model:
    """Listen to an encoder further up the pipeline (spacy-albert.AlbertListener.v1).

    upstream (str): The name of the encoder component, or "*" for whichever there is.
    RETURNS (Model[List[Doc], Activations]): The listener.
    """
    from .layers import AlbertListener

    return AlbertListener(upstream)


def token_classifier(tok2vec: Model, pooling: str = "mean") -> Model:
    """Score the tags of each token (spacy-albert.TokenClassifier.v1).

    The dropout before the linear layer is spaCy's own [training.dropout].

    tok2vec (Model): An encoder or a listener.
    pooling (str): "mean" over the pieces of a token, or "first" as Hugging Face's checkpoints.
    RETURNS (Model[List[Doc], List[Tensor]]): Logits, (T, K) each.
    """
    from .layers import head_layer

    if pooling not in ("mean", "first"):
        raise ValueError(f"pooling is {pooling!r}; it must be 'mean' or 'first'.")
    return head_layer(tok2vec, "tokens", pooling=pooling)


def text_classifier(tok2vec: Model) -> Model:
    """Score the classes of each document (spacy-albert.TextClassifier.v1).

    tok2vec (Model): An encoder or a listener.
    RETURNS (Model[List[Doc], List[Tensor]]): Logits, (K,) each.
    """
    from .layers import head_layer

    return head_layer(tok2vec, "text")


def question_answering(tok2vec: Model, head: str = "linear", overlap: int = 128) -> Model:
    """Say where in a document the answer to a question begins and ends
    (spacy-albert.QuestionAnswering.v1).

    tok2vec (Model): An encoder or a listener.
    head (str): "linear", one layer as Hugging Face's checkpoints have, where [CLS] is what a
        question points at that has no answer; or "squad2", ALBERT's own head for SQuAD 2.
    overlap (int): Pieces of a long document that neighbouring windows share, if that is no more
        than a third of the room beside the question. A longer answer may fit into no window.
    RETURNS (Model[List[Doc], List[Asked]]): What was heard of each document.
    """
    from .layers import head_layer

    kinds = {"linear": "spans", "squad2": "conditional_spans"}
    if head not in kinds:
        raise ValueError(f"head is {head!r}; it must be 'linear' or 'squad2'.")
    if overlap < 0:
        raise ValueError(f"overlap is {overlap}; it must be 0 at least.")
    return head_layer(tok2vec, kinds[head], overlap=overlap)


def pair_classifier(tok2vec: Model) -> Model:
    """Score the classes of each document together with a second text
    (spacy-albert.PairClassifier.v1).

    tok2vec (Model): An encoder or a listener.
    RETURNS (Model[List[Doc], List[Tensor]]): Logits, (K,) each.
    """
    from .layers import head_layer

    return head_layer(tok2vec, "pair")


def vectors(tok2vec: Model, pooling: str = "mean", tokens: bool = False) -> Model:
    """Read the vectors of documents, and of tokens, from the encoder's last layer
    (spacy-albert.Vectors.v1).

    tok2vec (Model): An encoder or a listener.
    pooling (str): What a document's vector is the mean of: "mean", its pieces, each as it is in the
        window that shows most of its context; "cls", the [CLS] of its windows (not the pooled one,
        which knows of the order of sentences), weighted by the pieces that each owns.
    tokens (bool): Whether tokens have vectors, too: the means over their pieces.
    RETURNS (Model[List[Doc], List[Tensor]]): (1, H) or (1 + T, H) each, the document's own first.
    """
    from .layers import vectors_layer

    if pooling not in ("mean", "cls"):
        raise ValueError(f"pooling is {pooling!r}; it must be 'mean' or 'cls'.")
    return vectors_layer(tok2vec, pooling, tokens)


def sentence_order(tok2vec: Model) -> Model:
    """Tell whether neighbouring sentences are in order, with the head that a checkpoint was
    pre-trained with (spacy-albert.SentenceOrder.v1).

    tok2vec (Model): An encoder or a listener.
    RETURNS (Model[List[Doc], List[Orders]]): The logits of each border between two sentences.
    """
    from .layers import order_layer

    return order_layer(tok2vec)


def albert_transformer(
    encoder: Model, pooling: Model[Ragged, Floats2d], grad_factor: float = 1.0
) -> Model[list[Doc], list[Floats2d]]:
    """Give one of spaCy's own components an ALBERT encoder of its own
    (spacy-albert.AlbertTransformer.v1). `nlp.replace_listeners` puts it in the place of a
    spacy-transformers.TransformerListener.v1.

    encoder (Model): From spacy-albert.Albert.v1.
    pooling (Model): As in TransformerListener.v1; every token has one row to pool.
    grad_factor (float): Factor on the gradients sent to the encoder.
    RETURNS (Model[List[Doc], List[Floats2d]]): Token vectors.
    """
    from spacy_transformers.layers import trfs2arrays
    from thinc.api import chain

    from .components.transformer import transformer_layer

    return chain(transformer_layer(encoder), trfs2arrays(pooling, grad_factor))


def checkpoint(path: Union[str, Path], dropout: Optional[float] = None) -> Callable:
    """Start an encoder, or a sentence-order head, from trained weights
    (spacy-albert.Checkpoint.v1).

    path (str): A Hugging Face directory, a spaCy pipeline with an ALBERT encoder (a directory or an
        installed package), or the name of an embedded pipeline.
    dropout (float | None): The dropout inside the encoder while it is trained: on embeddings, on
        attention, and on the output of each block. It is saved with the pipeline. None: what the
        checkpoint says.
    RETURNS (Callable): Loads the weights into an encoder or a head.
    RAISES (ValueError): If `dropout` is no probability below 1.
    """
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(
            f"dropout of spacy-albert.Checkpoint.v1 is {dropout}; it must be a probability below "
            "1. Leave it out to keep what the checkpoint says."
        )

    def load(encoder: Any) -> None:
        from .locate import find_encoder

        encoder.load(find_encoder(path), dropout)

    return load


def scratch(
    vocabulary: Union[str, Path] = "en_albert_sm",
    size: str = "albert-base-v2",
    config: Optional[dict[str, Any]] = None,
) -> Callable:
    """Start an encoder from random weights (spacy-albert.Scratch.v1).

    vocabulary (str): Where the tokenizer comes from: a spiece.model file, or whatever
        spacy-albert.Checkpoint.v1 takes.
    size (str): A published configuration to start from, albert-{base,large,xlarge,xxlarge}-v{1,2}.
    config (dict): Values to change in it, for instance {"hidden_size": 128}.
    RETURNS (Callable): Makes the weights of an encoder.
    """

    def make(encoder: Any) -> None:
        from .locate import find_encoder
        from .modeling import CONFIGS, Albert, AlbertConfig
        from .tokenization import SentencePieceTokenizer, load_tokenizer

        if size not in CONFIGS:
            raise ValueError(f"There is no configuration {size!r}. Known: {', '.join(CONFIGS)}.")
        if Path(vocabulary).is_file():
            tokenizer: Any = SentencePieceTokenizer(Path(vocabulary).read_bytes())
        else:
            tokenizer = load_tokenizer(find_encoder(vocabulary))
        known = {field.name for field in fields(AlbertConfig)}
        unknown = sorted(set(config or {}) - known)
        if unknown:
            raise ValueError(
                f"An ALBERT has no {', '.join(unknown)}. It has: {', '.join(sorted(known))}."
            )
        shape = replace(CONFIGS[size], **{"vocab_size": tokenizer.size, **(config or {})})
        encoder.set(Albert(shape), tokenizer)

    return make
