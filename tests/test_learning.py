"""The components learn from real data, from random weights, on a CPU."""

import importlib.util
from pathlib import Path

import pytest
import spacy
from spacy.cli.evaluate import evaluate
from spacy.cli.train import train
from spacy.tokens import DocBin

from spacy_albert.configs import training_config

BUILD = Path(__file__).parents[1] / "pipelines" / "en_albert_sm"


@pytest.fixture(scope="module")
def corpora(shared_data):
    """The readers of the data sets, from the script that builds the embedded pipeline."""
    spec = importlib.util.spec_from_file_location("corpora", BUILD / "corpora.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def learn(read, data, heads, steps, folder) -> dict:
    """Train with the config that init-config writes, and score on the test split."""
    for split, docs in read(data, spacy.blank("en")).items():
        DocBin(docs=docs).to_disk(folder / f"{split}.spacy")
    training_config(heads, scratch=True).to_disk(folder / "config.cfg")
    overrides = {
        "paths.train": str(folder / "train.spacy"),
        "paths.dev": str(folder / "dev.spacy"),
        "training.max_steps": steps,
    }
    train(folder / "config.cfg", folder / "out", overrides=overrides)
    return evaluate(str(folder / "out" / "model-best"), folder / "test.spacy", silent=True)


@pytest.mark.slow
def test_entities_of_wikigold(corpora, shared_data, tmp_path):
    scores = learn(corpora.wikigold, shared_data, ["ner"], 2000, tmp_path)
    # "no entity anywhere", which most tokens are, scores 0
    assert scores["ents_f"] > 0.2


@pytest.mark.slow
def test_sentiment_of_sentences(corpora, shared_data, tmp_path):
    scores = learn(corpora.sentence_polarity, shared_data, ["textcat"], 1500, tmp_path)
    # half of the sentences are positive, so either class alone has a macro F of 0.33
    assert scores["cats_macro_f"] > 0.6
