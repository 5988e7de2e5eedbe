"""Checkpoints of Hugging Face and Google as spaCy pipelines, and back."""

from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language

from .checkpoints import (
    SQUAD2_HEAD,
    Checkpoint,
    build_albert,
    load_checkpoint,
    save_checkpoint,
)
from .components.encoder import AlbertEncoder
from .components.ner import AlbertNER
from .components.pair import AlbertPair
from .components.pipe import AlbertHead
from .components.qa import AlbertQA
from .components.textcat import AlbertTextcat
from .layers import encoder_of
from .shims import cpu_tensors
from .tf_checkpoints import is_tf_checkpoint, load_tf_checkpoint
from .tokenization import Tokenizer, load_tokenizer

#: What a checkpoint can become: the factory, the name, and what the model needs beside defaults.
TASKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ner": ("albert_ner", "ner", {"pooling": "first"}),
    "textcat": ("albert_textcat", "textcat", {}),
    "textcat_multilabel": ("albert_textcat_multilabel", "textcat", {}),
    "pair": ("albert_pair", "pair", {}),
    "qa": ("albert_qa", "qa", {}),
}


def from_checkpoint(directory: Path, *, lang: str = "en", task: str = "auto") -> Language:
    """Make a spaCy pipeline of an ALBERT from Hugging Face or from Google.

    directory (Path): A directory with config.json, weights and tokenizer; or one with
        albert_config.json, a TensorFlow checkpoint and a SentencePiece model.
    lang (str): The language whose tokenizer rules to use.
    task (str): "encoder", "coherence", one of TASKS, or "auto": what its config says. It does not
        say that a sequence classifier is one of "pair"s, and of a pre-trained one it takes the
        encoder.
    RETURNS (Language): A pipeline with the encoder and, if the checkpoint has one, a head.
    RAISES (ValueError): If the checkpoint is not an ALBERT, or its head cannot be used.
    RAISES (ImportError): If it is Google's, and TensorFlow is not installed.
    """
    directory = Path(directory)
    tokenizer: Tokenizer
    if is_tf_checkpoint(directory):
        checkpoint, tokenizer = load_tf_checkpoint(directory)
    else:
        checkpoint, tokenizer = load_checkpoint(directory), load_tokenizer(directory)
    task = task_of(checkpoint, directory) if task == "auto" else task
    wanted = "qa_outputs" if task == "qa" else "classifier"
    is_squad2 = task == "qa" and has_squad2_head(checkpoint)
    if task in TASKS and not is_squad2 and f"{wanted}.weight" not in checkpoint.heads:
        raise ValueError(f"{directory} has no {wanted}, so it cannot become a {task!r} pipeline.")
    nlp = spacy.blank(lang)
    encoder: Any = nlp.add_pipe("albert")
    encoder.initialize(list, encoder=lambda shim: shim.set(build_albert(checkpoint), tokenizer))
    nlp.meta["name"] = directory.resolve().name
    if task == "coherence":
        nlp.add_pipe("sentencizer", first=True)
        coherence: Any = nlp.add_pipe("albert_coherence")
        coherence.head.take(checkpoint, directory)
    elif task != "encoder":
        factory, name, model = TASKS[task]
        config: dict[str, Any] = {"model": model}
        if is_squad2:
            config["model"] = {"head": "squad2"}
        if task == "pair":
            config["regression"] = len(checkpoint.heads["classifier.weight"]) == 1
        add_head(nlp.add_pipe(factory, name=name, config=config), checkpoint)
    return nlp


def has_squad2_head(checkpoint: Checkpoint) -> bool:
    """RETURNS (bool): Whether a checkpoint has ALBERT's own head for SQuAD 2."""
    return {name.split(".")[0] for name in checkpoint.heads} >= SQUAD2_HEAD


def task_of(checkpoint: Checkpoint, directory: Path) -> str:
    """Read from a checkpoint's config what it was trained to do.

    checkpoint (Checkpoint): The checkpoint.
    directory (Path): Where it comes from, for messages.
    RETURNS (str): "encoder" or one of TASKS.
    RAISES (ValueError): If it has a head that the config does not explain, or a regression.
    """
    settings = checkpoint.settings
    architecture = (settings.get("architectures") or [""])[0]
    answers = "qa_outputs.weight" in checkpoint.heads or has_squad2_head(checkpoint)
    if architecture.endswith("ForQuestionAnswering") or (answers and not architecture):
        return "qa"
    if architecture.endswith("ForTokenClassification"):
        return "ner"
    if architecture.endswith("ForSequenceClassification"):
        problem = settings.get("problem_type")
        if problem == "regression" or len(checkpoint.heads["classifier.weight"]) == 1:
            raise ValueError(
                f"{directory} was trained for regression, not classification. If it takes two "
                "texts, convert it with --task pair; else the encoder alone, with --task encoder."
            )
        is_multilabel = problem == "multi_label_classification"
        return "textcat_multilabel" if is_multilabel else "textcat"
    if "classifier.weight" in checkpoint.heads and not architecture:
        raise ValueError(
            f"{directory} has a classifier, and its config does not say for what (it lacks "
            f"`architectures`). Say it with --task: {', '.join(TASKS)}, or encoder."
        )
    return "encoder"


def add_head(component: Any, checkpoint: Checkpoint) -> None:
    """Give a component the head of a checkpoint, and its labels.

    component (AlbertHead | AlbertQA): A component without labels.
    checkpoint (Checkpoint): The checkpoint.
    """
    if isinstance(component, AlbertQA):
        add_qa_head(component, checkpoint)
        return
    weights = {k: v for k, v in checkpoint.heads.items() if k.startswith("classifier.")}
    n_classes, hidden_size = weights["classifier.weight"].shape
    names = checkpoint.settings.get("id2label") or {i: f"LABEL_{i}" for i in range(n_classes)}
    labels = [label for _, label in sorted((int(i), label) for i, label in names.items())]
    if isinstance(component, AlbertNER):
        component.set_tags(labels)
    else:
        for label in labels:
            component.add_label(label)
        for part in ("weight", "bias"):
            weights[f"pooler.{part}"] = checkpoint.encoder[f"pooler.{part}"]
    component.head.make(hidden_size, n_classes).load_state_dict(weights)


def add_qa_head(component: AlbertQA, checkpoint: Checkpoint) -> None:
    """Give a component the head of a checkpoint that answers questions.

    component (AlbertQA): A component without weights.
    checkpoint (Checkpoint): The checkpoint.
    """
    if component.head.kind == "spans":
        weights = {
            name.replace("qa_outputs.", "classifier."): tensor
            for name, tensor in checkpoint.heads.items()
            if name.startswith("qa_outputs.")
        }
    else:
        weights = {k: v for k, v in checkpoint.heads.items() if k.split(".")[0] in SQUAD2_HEAD}
    component.head.make(checkpoint.config.hidden_size, 2).load_state_dict(weights)


def to_hugging_face(nlp: Language, output: Path, *, component: str | None = None) -> str:
    """Write a pipeline's encoder and one of its heads as a Hugging Face directory.

    nlp (Language): The pipeline.
    output (Path): The directory to write.
    component (str | None): The head, or the encoder component to write that alone. May be left out
        if there is one head, or none.
    RETURNS (str): The class of `transformers` that loads the directory.
    RAISES (ValueError): If there is nothing to write, or a choice to make.
    """
    pipes = dict(nlp.components)
    head_classes = AlbertHead | AlbertQA
    ours = [n for n, pipe in pipes.items() if isinstance(pipe, AlbertEncoder | head_classes)]
    heads = [name for name in ours if isinstance(pipes[name], head_classes)]
    if component is None and len(heads) > 1:
        raise ValueError(
            f"A checkpoint holds one head and this pipeline has {', '.join(heads)}. Choose one "
            f"with --component, or the encoder alone: one of {', '.join(ours)}."
        )
    component = component or next(iter(heads or ours), None)
    if component not in ours:
        raise ValueError(
            f"The pipeline has no ALBERT component {component!r}."
            if component
            else "The pipeline has no ALBERT component."
        ) from None
    pipe: Any = pipes[component]
    is_head = isinstance(pipe, head_classes)
    reader = encoder_of(pipe.model.layers[0] if is_head else pipe.model).reader
    encoder = cpu_tensors(reader.model)
    weights: dict[str, Any] = {}
    settings: dict[str, Any] = {"architectures": ["AlbertModel"]}
    if isinstance(pipe, AlbertQA):
        if pipe.head.kind != "spans":
            raise ValueError(
                f"Component {component!r} has ALBERT's own head for SQuAD 2, which transformers "
                "has no class for. Write the encoder alone: choose it with --component."
            )
        settings["architectures"] = ["AlbertForQuestionAnswering"]
        weights = {
            name.replace("classifier.", "qa_outputs."): tensor
            for name, tensor in cpu_tensors(pipe.head.module).items()
        }
    elif is_head:
        weights = cpu_tensors(pipe.head.module)
        names = pipe.tagset.tags if isinstance(pipe, AlbertNER) else pipe.labels
        settings = {"id2label": {str(i): name for i, name in enumerate(names)}}
        kind = "Sequence" if isinstance(pipe, AlbertTextcat) else "Token"
        settings["architectures"] = [f"AlbertFor{kind}Classification"]
        if isinstance(pipe, AlbertTextcat):
            problem = "single_label" if pipe.exclusive else "multi_label"
            is_number = isinstance(pipe, AlbertPair) and pipe.regression
            settings["problem_type"] = "regression" if is_number else f"{problem}_classification"
            for part in ("weight", "bias"):
                encoder[f"pooler.{part}"] = weights.pop(f"pooler.{part}")
    save_checkpoint(output, reader.model.config, encoder, weights, settings)
    reader.tokenizer.save(output)
    return settings["architectures"][0]
