"""The bridge to spacy-transformers: spaCy's own components train on our encoder.

Their `TransformerListener` reads a `TransformerData` with one row a piece and an alignment of rows
to tokens. We give it one row a token, pooled exactly, and the identity as alignment.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from ..heads import States
from ..layers import Activations, albert_forward, answers_of

#: What listeners read: one row a token.
STATES = States()


def is_listener(node: Model) -> bool:
    """Tell a layer of spacy-transformers that listens.

    node (Model): Any layer.
    RETURNS (bool): Whether it is a TransformerListener.
    """
    # There can be none before its module is imported, and importing it takes seconds
    module = sys.modules.get("spacy_transformers.layers.listener")
    return module is not None and isinstance(node, module.TransformerListener)


def make_room() -> None:
    """Give documents the attribute in which a TransformerListener looks for states."""
    from spacy_transformers.pipeline_component import install_extensions

    install_extensions()


def to_transformer_data(states: Tensor, ops: Any = None) -> Any:
    """Dress up the states of a document's tokens.

    states (Tensor): (T, H).
    ops (Ops | None): Whose arrays to make; numpy's by default.
    RETURNS (TransformerData): What a TransformerListener expects.
    """
    from spacy_transformers.data_classes import TransformerData, WordpieceBatch
    from thinc.api import Ragged
    from transformers.file_utils import ModelOutput

    n_tokens = len(states)
    array = states.detach().cpu().numpy()[None]
    return TransformerData(
        wordpieces=WordpieceBatch.zeros([n_tokens]),
        model_output=ModelOutput(last_hidden_state=ops.asarray(array) if ops else array),
        align=Ragged(np.arange(n_tokens), np.ones(n_tokens, dtype="i")),  # type: ignore[arg-type]
    )


def annotate(doc: Doc, states: Tensor) -> None:
    """Leave states where a TransformerListener looks for them when it predicts.

    doc (Doc): The document.
    states (Tensor): (T, H).
    """
    doc._.trf_data = to_transformer_data(states)


def send(listeners: Sequence[Any], activations: Activations) -> None:
    """Give listeners the states of a training batch.

    listeners (Sequence[TransformerListener]): Who gets them.
    activations (Activations): The batch.
    """
    for listener in listeners:
        tokens = activations.apply(STATES)
        listener.receive(
            listener.get_batch_id(activations.docs),
            [to_transformer_data(states, listener.ops) for states in tokens],
            backprop_into(tokens),
        )


def backprop_into(tokens: list[Tensor]) -> Any:
    """Make the callback that takes a TransformerListener's gradients.

    tokens (list[Tensor]): What it was given, in the graph.
    RETURNS (Callable): Takes one TransformerData with gradients a document.
    """

    def backprop(gradients: list[Any]) -> list[Doc]:
        ways = [
            (token, torch.as_tensor(d.model_output["last_hidden_state"])[0].to(token))
            for token, d in zip(tokens, gradients)
            if len(token)
        ]
        if ways:
            states, grads = zip(*ways)
            torch.autograd.backward(states, grads)
        return []

    return backprop


def transformer_layer(encoder: Model) -> Model:
    """Let an encoder of a component's own speak to spacy-transformers' layers.

    encoder (Model): From `albert_layer`.
    RETURNS (Model[list[Doc], list[TransformerData]]): What stands in for a TransformerListener.
    """
    return Model("albert-transformer", transformer_forward, layers=[encoder])


def transformer_forward(model: Model, docs: list[Doc], is_train: bool) -> tuple[list[Any], Any]:
    """Documents -> TransformerData."""
    encoder = model.layers[0]
    if not is_train:
        states = answers_of(encoder, docs, STATES)
        return [to_transformer_data(of_doc, model.ops) for of_doc in states], lambda _: docs
    activations, backprop_encoder = albert_forward(encoder, docs, is_train)
    tokens = activations.apply(STATES)
    backprop_tokens = backprop_into(tokens)

    def backprop(gradients: list[Any]) -> list[Doc]:
        backprop_tokens(gradients)
        return list(backprop_encoder(activations))

    return [to_transformer_data(of_doc, model.ops) for of_doc in tokens], backprop


def replace_listener(encoder: Model, listener: Model, _: Any) -> Model:
    """Make what `nlp.replace_listeners` puts in a listener's place.

    encoder (Model): A copy of the encoder.
    listener (Model): The listener.
    RETURNS (Model): The encoder, dressed up if spacy-transformers listens.
    """
    return transformer_layer(encoder) if is_listener(listener) else encoder


def replace_listener_cfg(encoder: dict[str, Any], listener: dict[str, Any]) -> dict[str, Any]:
    """Make the config of what `nlp.replace_listeners` puts in a listener's place.

    encoder (dict): Config of the encoder's model.
    listener (dict): Config of the listener.
    RETURNS (dict): Config of the replacement.
    """
    if not listener["@architectures"].startswith("spacy-transformers."):
        return encoder
    return {
        "@architectures": "spacy-albert.AlbertTransformer.v1",
        "encoder": encoder,
        "pooling": listener["pooling"],
        "grad_factor": listener["grad_factor"],
    }
