"""Complete training configs for chosen heads."""

from collections.abc import Sequence
from typing import Any

import spacy
from spacy.util import CONFIG_SECTION_ORDER
from thinc.api import Config

from .checkpoints import load_checkpoint
from .locate import find_encoder

#: What can be trained, by the name the component gets.
HEADS = {
    "ner": "albert_ner",
    "textcat": "albert_textcat",
    "textcat_multilabel": "albert_textcat_multilabel",
    "pair": "albert_pair",
    "qa": "albert_qa",
}

#: Those that learn from doc.cats.
CLASSIFIERS = ("textcat", "textcat_multilabel", "pair")

#: A shape that trains from nothing on a CPU, for small data.
SMALL = {
    "embedding_size": 64,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


def training_config(
    heads: Sequence[str],
    *,
    lang: str = "en",
    encoder: str = "en_albert_sm",
    scratch: bool = False,
) -> Config:
    """Write a training config: one shared encoder, and the heads that listen to it.

    heads (Sequence[str]): Keys of HEADS.
    lang (str): The language of the pipeline.
    encoder (str): Where weights (or, with `scratch`, the vocabulary) come from: a Hugging Face
        directory, a pipeline, or the name of an embedded one.
    scratch (bool): Start from random weights in a small shape.
    RETURNS (Config): A config that `spacy train` takes as it is.
    RAISES (ValueError): If a head is unknown, or there is no such encoder.
    """
    unknown = [head for head in heads if head not in HEADS]
    if unknown or not heads:
        raise ValueError(
            f"There is no head {', '.join(map(repr, unknown)) or 'chosen'}. "
            f"Choose from: {', '.join(HEADS)}."
        )
    classifiers = [head for head in heads if head in CLASSIFIERS]
    if len(classifiers) > 1:
        raise ValueError(
            f"{' and '.join(classifiers)} both learn from doc.cats. Choose one of them."
        )
    where = find_encoder(encoder)
    nlp = spacy.blank(lang)
    nlp.add_pipe("albert")
    for head in heads:
        nlp.add_pipe(HEADS[head], name=head)
    config = nlp.config
    config["paths"]["encoder"] = encoder
    start: dict[str, Any] = {"@misc": "spacy-albert.Checkpoint.v1", "path": "${paths.encoder}"}
    rate = 5e-5
    if scratch:
        start = {
            "@misc": "spacy-albert.Scratch.v1",
            "vocabulary": "${paths.encoder}",
            "size": "albert-base-v2",
            "config": SMALL,
        }
        rate = 1e-3
    elif load_checkpoint(where).config.hidden_size < 768:
        rate = 2e-4  # a narrow encoder takes, and needs, larger steps
        start["dropout"] = 0.1  # fine-tuning reads the same few texts again and again
    config["initialize"]["components"]["albert"] = {"encoder": start}
    for corpus in ("train", "dev"):
        if {"pair", "qa"} & set(heads):  # they read more than the text
            config["corpora"][corpus] = {
                "@readers": "spacy-albert.DocCorpus.v1",
                "path": f"${{paths.{corpus}}}",
                "limit": 0,
            }
        else:
            config["corpora"][corpus]["max_length"] = 0  # long documents are read in windows
    training = config["training"]
    training["accumulate_gradient"] = 1
    training["patience"] = 1600
    training["max_steps"] = 8000
    training["eval_frequency"] = 200
    training["batcher"] = {
        "@batchers": "spacy.batch_by_words.v1",
        "discard_oversize": False,
        "size": 1000,
        "tolerance": 0.2,
        "get_length": None,
    }
    training["optimizer"]["learn_rate"] = {
        "@schedules": "warmup_linear.v1",
        "warmup_steps": 400,
        "total_steps": "${training.max_steps}",
        "initial_rate": rate,
    }
    return config


def config_text(config: Config) -> str:
    """Write a config down with every section next to what it belongs to.

    config (Config): The config.
    RETURNS (str): The contents of a config file.
    """
    sections = config.to_str(interpolate=False).split("\n\n")

    def place(section: str) -> tuple[int, list[str]]:
        path = section.partition("]")[0].lstrip("[").split(".")
        return CONFIG_SECTION_ORDER.index(path[0]), path

    return "\n\n".join(sorted(sections, key=place)) + "\n"
