"""The training configs: complete, the same as those that ship, and they train."""

import csv
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.cli.debug_config import debug_config
from spacy.cli.train import train
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from thinc.api import Config
from typer.testing import CliRunner

import spacy_albert_pipelines
from spacy_albert.checkpoints import load_checkpoint, save_checkpoint
from spacy_albert.cli import albert_cli
from spacy_albert.configs import training_config
from spacy_albert.corpora import TableCorpus
from spacy_albert.modeling import Albert, AlbertConfig

SHIPPED = {
    "ner": ["ner"],
    "textcat": ["textcat"],
    "textcat_multilabel": ["textcat_multilabel"],
    "ner_textcat": ["ner", "textcat"],
    "pair": ["pair"],
    "qa": ["qa"],
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_are_what_the_command_writes(name):
    shipped = Config().from_disk(spacy_albert_pipelines.resolve(f"{name}.cfg"), interpolate=False)
    assert shipped == training_config(SHIPPED[name])


#: Hyper-parameters of albert-base-v2: for texts the ALBERT paper's for SST-2; for entities those
#: reported for CoNLL-2003 (3 epochs in batches of 8 sentences).
ALBERT_BASE = {
    "textcat": {"rate": 1e-5, "warmup": 1256, "steps": 20_935, "size": 32},
    "ner": {"rate": 2e-5, "warmup": 320, "steps": 5_265, "size": 8},
}


#: The paper's, for what reads two texts; and what else differs from what `init-config` writes.
OF_TWO_TEXTS = {
    "squad1": {"head": "qa", "rate": 5e-5, "warmup": 365, "steps": 3649, "size": 48},
    "squad2": {"head": "qa", "rate": 3e-5, "warmup": 814, "steps": 8144, "size": 48},
    "mnli": {"head": "pair", "rate": 3e-5, "warmup": 1000, "steps": 10_000, "size": 128},
}


def published_config(head: str, published: dict[str, Any]) -> Config:
    expected = training_config([head])
    expected["paths"]["encoder"] = "./albert-base-v2"
    del expected["initialize"]["components"]["albert"]["encoder"]["dropout"]
    training = expected["training"]
    training["patience"] = 0
    training["max_steps"] = published["steps"]
    training["eval_frequency"] = 500
    training["batcher"] = {
        "@batchers": "spacy.batch_by_sequence.v1", "size": published["size"], "get_length": None
    }  # fmt: skip
    training["optimizer"]["eps"] = 1e-6
    training["optimizer"]["learn_rate"] |= {
        "warmup_steps": published["warmup"],
        "initial_rate": published["rate"],
    }
    return expected


@pytest.mark.parametrize("head", ALBERT_BASE)
def test_configs_for_albert_base_have_the_published_settings(head, corpus, tmp_path):
    path = spacy_albert_pipelines.resolve(f"albert_base_{head}.cfg")
    expected = published_config(head, ALBERT_BASE[head])
    assert Config().from_disk(path, interpolate=False) == expected
    overrides = {"paths.train": str(corpus), "paths.dev": str(corpus)}
    overrides |= {"paths.encoder": "en_albert_sm", "training.max_steps": 2}
    overrides |= {"initialize.components.albert.encoder.dropout": 0.2}
    debug_config(path, overrides=overrides)
    train(path, tmp_path / "out", overrides=overrides)
    nlp = spacy.load(tmp_path / "out" / "model-last")
    assert nlp.get_pipe(head).labels
    assert encoder_config(nlp).hidden_dropout_prob == 0.2


def encoder_config(nlp: Language) -> AlbertConfig:
    return nlp.get_pipe("albert").model.shims[0].module.config


@pytest.mark.parametrize(
    ("width", "rate", "dropout"), [(764, 2e-4, 0.1), (768, 5e-5, None), (1024, 5e-5, None)]
)
def test_rate_and_dropout_fit_the_width(width, rate, dropout, tmp_path):
    shape = AlbertConfig(
        vocab_size=10, embedding_size=4, hidden_size=width, num_attention_heads=4,
        intermediate_size=8,
    )  # fmt: skip
    save_checkpoint(tmp_path, shape, Albert(shape).state_dict())
    config = training_config(["ner"], encoder=str(tmp_path))
    start = config["initialize"]["components"]["albert"]["encoder"]
    assert start.get("dropout") == dropout
    assert config["training"]["optimizer"]["learn_rate"]["initial_rate"] == rate


def test_the_sentiment_recipe_is_a_textcat_that_reads_tables(tmp_path):
    path = spacy_albert_pipelines.resolve("sentiment.cfg")
    expected = training_config(["textcat"])
    for split in ("train", "dev"):
        expected["corpora"][split] = {
            "@readers": "spacy-albert.TableCorpus.v1",
            "path": f"${{paths.{split}}}",
            **dict.fromkeys(["labels", "separator", "label_names", "delimiter"]),
            "text": "text",
            "label": "label",
            "quotes": True,
            "limit": 0,
        }
    training = expected["training"]
    training |= {"accumulate_gradient": 2, "patience": 1000}
    training |= {"max_steps": 2500, "eval_frequency": 250}
    training["batcher"] = {
        "@batchers": "spacy.batch_by_sequence.v1", "size": 16, "get_length": None
    }  # fmt: skip
    training["optimizer"]["learn_rate"]["warmup_steps"] = 250
    assert Config().from_disk(path, interpolate=False) == expected
    # a pattern of tables, with a review of several windows
    for name, praise in (("sentences", "good"), ("reviews", "A good film, she said. " * 120)):
        rows = [("text", "label"), (praise, "POS"), (praise.replace("good", "bad"), "NEG")]
        with (tmp_path / f"{name}_train.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    table = str(tmp_path / "*_train.csv")
    short = {"training.max_steps": 2, "training.eval_frequency": 1}
    short |= {"paths.train": table, "paths.dev": table}
    train(path, tmp_path / "out", overrides=short)
    doc = spacy.load(tmp_path / "out" / "model-last")(praise)
    assert set(doc.cats) == {"POS", "NEG"}
    assert doc._.n_windows > 1


def test_the_tables_of_the_recipe_are_those_of_the_embedded_pipeline(shared_data, tmp_path):
    """No sentence that the embedded encoder has learned from is in a test split."""
    for name in ("sentence_polarity", "movie_reviews"):
        (tmp_path / f"{name}.zip").symlink_to(shared_data / name / f"{name}.zip")
    page = Path(__file__).parents[1] / "docs" / "training.md"
    (script,) = re.findall(r"^```python\n(import csv.*?)^```$", page.read_text(), re.M | re.S)
    (tmp_path / "script.py").write_text(script)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True)
    nlp = spacy.blank("en")
    corpora = runpy.run_path(str(page.parents[1] / "pipelines" / "en_albert_sm" / "corpora.py"))
    for split, docs in corpora["sentence_polarity"](shared_data, nlp).items():
        found = TableCorpus(tmp_path / "corpora" / f"sentences_{split}.csv").docs(nlp)
        assert [(doc.text, doc.cats) for doc in found] == [(d.text, d.cats) for d in docs]
    counts = {"train": 1600, "dev": 200, "test": 200}
    for split, number in counts.items():
        docs = list(TableCorpus(tmp_path / "corpora" / f"reviews_{split}.csv").docs(nlp))
        assert len(docs) == number
        assert sum(doc.cats["POSITIVE"] for doc in docs) == number / 2


@pytest.mark.parametrize("name", OF_TWO_TEXTS)
def test_configs_of_two_texts_have_the_published_settings(name, tmp_path):
    path = spacy_albert_pipelines.resolve(f"albert_base_{name}.cfg")
    head = OF_TWO_TEXTS[name]["head"]
    expected = published_config(head, OF_TWO_TEXTS[name])
    config = Config().from_disk(path, interpolate=False)
    model = expected["components"][head]["model"]
    corpora = config["corpora"]
    if name == "mnli":
        data = tmp_path / "data.tsv"
        rows = [f"{i}\tit is {w}\tit is {w}\t{label}" for i, (w, label) in enumerate(MNLI * 4)]
        data.write_text("\n".join(["index\tsentence1\tsentence2\tgold_label", *rows]))
        assert {corpus["@readers"] for corpus in corpora.values()} == {
            "spacy-albert.TableCorpus.v1"
        }
    else:
        data = tmp_path / "data.json"
        answers = [{"text": "Paris", "answer_start": 0}]
        asked = [{"id": "a", "question": "Where?", "answers": answers}]
        asked.append({"id": "b", "question": "Who?", "answers": [], "is_impossible": True})
        paragraphs = [{"context": "Paris is old.", "qas": asked}] * 4
        data.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
        assert {corpus["@readers"] for corpus in corpora.values()} == {
            "spacy-albert.SquadCorpus.v1"
        }
        assert corpora["train"]["n_questions"] == 1  # batches are counted in questions
        if name == "squad1":
            expected["components"]["albert"]["model"]["window"] = 384
            expected["components"]["qa"]["null_threshold"] = None
        else:
            model["head"] = "squad2"
    expected["corpora"] = corpora
    assert config == expected
    overrides = {"paths.train": str(data), "paths.dev": str(data), "training.max_steps": 2}
    overrides |= {"paths.encoder": "en_albert_sm", "components.albert.model.window": None}
    train(path, tmp_path / "out", overrides=overrides)
    nlp = spacy.load(tmp_path / "out" / "model-last")
    doc = nlp.make_doc("Paris is old.")
    doc._.pair, doc._.questions = "It is new.", ["Where?"]
    doc = nlp(doc)
    assert set(doc.cats) == ({label for _, label in MNLI[:3]} if head == "pair" else set())
    assert (doc._.answers == {}) == (head == "pair")


MNLI = [("a", "entailment"), ("b", "neutral"), ("c", "contradiction"), ("d", "-")]


@pytest.fixture
def corpus(tmp_path) -> Path:
    nlp = spacy.blank("en")
    nlp.add_pipe("albert")  # documents have doc._.pair from now on
    docs = []
    for place, word, label in [("London", "good", "POS"), ("Paris", "bad", "NEG")] * 20:
        doc = nlp.make_doc(f"{place} was a {word} city.")
        doc.set_ents([Span(doc, 0, 1, "LOC")])
        doc.cats = {"POS": float(label == "POS"), "NEG": float(label == "NEG")}
        doc._.pair, doc._.questions = "It is.", {"where": "Where?"}
        doc._.gold_answers = {"where": [[0, len(place)]]}
        docs.append(doc)
    docs.append(Doc(nlp.vocab, words=["unannotated"]))
    docs[-1]._.pair = "It is."
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "corpus.spacy")
    return tmp_path / "corpus.spacy"


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("name", SHIPPED)
def test_configs_train_as_they_are(name, scratch, corpus, tmp_path):
    config = training_config(SHIPPED[name], scratch=scratch)
    config.to_disk(tmp_path / "config.cfg")
    short = {"training.max_steps": 2, "training.eval_frequency": 1}
    paths = {"paths.train": str(corpus), "paths.dev": str(corpus)}
    train(tmp_path / "config.cfg", tmp_path / "out", overrides={**paths, **short})
    nlp = spacy.load(tmp_path / "out" / "model-last")
    encoder = encoder_config(nlp)
    assert encoder.hidden_dropout_prob == encoder.attention_probs_dropout_prob == 0.1
    doc = nlp.make_doc("London was a good city.")
    doc._.pair, doc._.questions = "It is.", ["Where?"]
    doc = nlp(doc)
    assert not doc.cats or set(doc.cats) == {"POS", "NEG"}
    assert ("textcat" in name or name == "pair") == bool(doc.cats)
    assert (name == "qa") == bool(doc._.answers)


def test_a_frozen_encoder_keeps_the_weights_that_the_config_names(corpus, tmp_path):
    config = training_config(["ner"])
    config["training"] |= {"frozen_components": ["albert"], "max_steps": 2, "eval_frequency": 1}
    config["training"]["optimizer"]["learn_rate"]["warmup_steps"] = 1
    config.to_disk(tmp_path / "config.cfg")
    paths = {"paths.train": str(corpus), "paths.dev": str(corpus)}
    train(tmp_path / "config.cfg", tmp_path / "out", overrides=paths)
    folders = (spacy_albert_pipelines.resolve("en_albert_sm"), tmp_path / "out" / "model-last")
    start, end = (load_checkpoint(folder / "albert" / "encoder").encoder for folder in folders)
    assert start.keys() == end.keys()
    assert all(torch.equal(start[name], end[name]) for name in start)


def test_command(tmp_path):
    run = CliRunner().invoke
    out = tmp_path / "config.cfg"
    assert run(albert_cli, ["init-config", str(out), "-p", "ner,textcat"]).exit_code == 0
    config = Config().from_disk(out, interpolate=False)
    assert config["nlp"]["pipeline"] == ["albert", "ner", "textcat"]
    assert run(albert_cli, ["init-config", str(out)]).exit_code == 1
    printed = run(albert_cli, ["init-config", "-", "-p", "textcat"])
    assert Config().from_str(printed.output, interpolate=False) == training_config(["textcat"])
    for arguments, why in [
        (["-p", "tagger"], "'tagger'"),
        (["-p", ""], "Choose from"),
        (["-p", "textcat,textcat_multilabel"], "both learn"),
        (["-p", "textcat,pair"], "both learn"),
        (["-e", "nowhere"], "'nowhere'"),
    ]:
        result = run(albert_cli, ["init-config", "-", *arguments])
        assert result.exit_code == 1
        assert why in result.output
