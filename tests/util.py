"""A tiny pipeline and ten annotated sentences, for the tests of the components."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import spacy
import torch
from spacy.language import Language
from spacy.training import Example
from thinc.api import Optimizer

TINY = {
    "hidden_size": 32,
    "embedding_size": 16,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "max_position_embeddings": 200,
    "initializer_range": 0.1,  # so wide that heads learn something even from a frozen encoder
}

FACTORIES = {
    "ner": "albert_ner",
    "textcat": "albert_textcat",
    "topics": "albert_textcat_multilabel",
}
LABELS = {"textcat": ["bad", "good"], "topics": ["book", "city", "people"]}

# What the sentence says, its one sentiment, its topics
SENTENCES = [
    ("[Michael Jane|PER] was in [London|LOC] .", "bad", "people city"),
    ("the bank of [Paris|LOC] was very good", "good", "city"),
    ("[Google|ORG] made a good match for [Jane Austen|PER]", "good", "people"),
    ("they said that the book was not new", "bad", "book"),
    ("[Obama|PER] said a good book is long", "good", "people book"),
    ("the [United Nations|ORG] were in [Paris|LOC] and [London|LOC]", "bad", "city"),
    ("what a good story from [Austen|PER] !", "good", "book people"),
    ("no market in the street , no music", "bad", ""),
    ("[Michael|PER] must see the river , so good", "good", "people"),
    ("the school is down in the winter", "bad", ""),
]


def parse(marked: str) -> tuple[str, list[tuple[int, int, str]]]:
    """Read "[Michael Jane|PER] was here" as a text and its entities in characters."""
    text, entities = "", []
    for plain, inside, label in re.findall(r"([^\[]+)|\[([^|]+)\|(\w+)\]", marked):
        if label:
            entities.append((len(text), len(text) + len(inside), label))
        text += plain or inside
    return text, entities


TEXTS = [parse(marked)[0] for marked, _, _ in SENTENCES]


def examples(nlp: Language, heads: Iterable[str] = FACTORIES) -> list[Example]:
    """The ten sentences, annotated for some of the heads."""
    made = []
    for marked, sentiment, topics in SENTENCES:
        text, entities = parse(marked)
        cats = {}
        if "textcat" in heads:
            cats |= {label: float(label == sentiment) for label in LABELS["textcat"]}
        if "topics" in heads:
            cats |= {label: float(label in topics.split()) for label in LABELS["topics"]}
        annotation: dict[str, Any] = {"cats": cats}
        if "ner" in heads:
            annotation["entities"] = entities
        made.append(Example.from_dict(nlp.make_doc(text), annotation))
    return made


def blank(
    vocabulary: Path,
    heads: Sequence[str] = tuple(FACTORIES),
    own: Sequence[str] = (),
    encoder: dict[str, Any] | None = None,
    **config: Any,
) -> Language:
    """A pipeline that is ready for `nlp.initialize`, and in float32 says the same everywhere.

    vocabulary (Path): A spiece.model.
    heads (Sequence[str]): Heads that listen to one encoder.
    own (Sequence[str]): Heads with an encoder of their own.
    encoder (dict[str, Any] | None): Settings of the encoder's model.
    **config: Changes to the configuration of ALBERT.
    """
    nlp = spacy.blank("en")
    start = {
        "@misc": "spacy-albert.Scratch.v1",
        "vocabulary": str(vocabulary),
        "config": {**TINY, **config},
    }
    settings = nlp.config["initialize"]["components"]
    if heads:
        nlp.add_pipe("albert", config={"model": {"precision": "float32", **(encoder or {})}})
        settings["albert"] = {"encoder": start}
    for name in (*heads, *own):
        mine = {"@architectures": "spacy-albert.Albert.v1", "precision": "float32"}
        model = {"tok2vec": {**mine, **(encoder or {})}}
        nlp.add_pipe(FACTORIES[name], name=name, config={"model": model} if name in own else {})
        settings[name] = {"encoder": start} if name in own else {}
        if name in LABELS:
            settings[name]["labels"] = LABELS[name]
    return nlp


def initialized(vocabulary: Path, *args: Any, **kwargs: Any) -> Language:
    """A pipeline with random weights, the same ones every time."""
    nlp = blank(vocabulary, *args, **kwargs)
    torch.manual_seed(0)
    nlp.initialize(lambda: examples(nlp))
    return nlp


def train(
    nlp: Language, data: list[Example], steps: int = 80, *, loop: bool = True, **kwargs: Any
) -> dict[str, float]:
    """Fit a pipeline to some examples.

    loop (bool): Update as spaCy's training loop does: collect the gradients of sub-batches, then
        take a step. Otherwise pass the optimizer to `nlp.update`.
    **kwargs: Arguments of `nlp.update`.
    RETURNS (dict[str, float]): The losses of the last step.
    """
    optimizer = Optimizer(0.01, use_averages=False)
    losses: dict[str, float] = {}
    for _ in range(steps):
        losses = {}
        if loop:
            half = len(data) // 2
            for batch in (data[:half], data[half:]):
                nlp.update(batch, sgd=False, losses=losses, **kwargs)
            finish(nlp, optimizer, kwargs.get("exclude", ()))
        else:
            nlp.update(data, sgd=optimizer, losses=losses, **kwargs)
    return losses


def finish(nlp: Language, optimizer: Optimizer, exclude: Iterable[str] = ()) -> None:
    """Step as spacy.training.loop does after its sub-batches."""
    for name, component in nlp.pipeline:
        if name not in exclude and getattr(component, "is_trainable", False):
            component.finish_update(optimizer)
    optimizer.step_schedules()


def weights(nlp: Language, name: str) -> dict[str, torch.Tensor]:
    """A copy of all weights of a component."""
    shims = [shim for node in nlp.get_pipe(name).model.walk() for shim in node.shims]
    return {
        f"{shim.folder}.{key}": tensor.detach().clone()
        for shim in shims
        for key, tensor in shim.module.state_dict().items()
    }


def equal(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are the same, bit for bit."""
    return before.keys() == after.keys() and all(map(torch.equal, before.values(), after.values()))


def found(nlp: Language, text: str) -> dict[str, Any]:
    """What a pipeline says about a text, without the scores."""
    doc = nlp(text)
    cats = doc.cats
    said: dict[str, Any] = {}
    if "ner" in nlp.pipe_names:
        said["ner"] = [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]
    if "textcat" in nlp.pipe_names:
        said["textcat"] = max(LABELS["textcat"], key=cats.__getitem__)
    if "topics" in nlp.pipe_names:
        said["topics"] = {label for label in LABELS["topics"] if cats[label] > 0.5}
    return said


def gold(nlp: Language, row: int) -> dict[str, Any]:
    """What a pipeline should say about one of the sentences."""
    marked, sentiment, topics = SENTENCES[row]
    said = {"ner": parse(marked)[1], "textcat": sentiment, "topics": set(topics.split())}
    return {head: answer for head, answer in said.items() if head in nlp.pipe_names}
