"""spaCy finds the plugin, at little cost, and its own commands work with it."""

import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import spacy
import srsly
from spacy import registry
from spacy.cli._util import app
from spacy.tokens import DocBin
from spacy.util import load_config
from typer.testing import CliRunner
from util import SENTENCES, TEXTS, blank, equal, examples, found, gold, weights

# Entry points


def entry_points():
    return [
        point
        for point in distribution("spacy-albert").entry_points
        if point.group.startswith("spacy_")
    ]


def test_everything_that_is_registered_is_there():
    groups = {point.group for point in entry_points()}
    assert groups == {
        "spacy_factories", "spacy_architectures", "spacy_misc", "spacy_readers", "spacy_scorers",
        "spacy_cli",
    }  # fmt: skip
    for point in entry_points():
        assert callable(point.load())
    for group in ("architectures", "misc", "readers"):
        for point in distribution("spacy-albert").entry_points.select(group=f"spacy_{group}"):
            assert registry.get(group, point.name) is point.load()
    for name in ("albert", "albert_ner", "albert_textcat", "albert_textcat_multilabel"):
        meta = spacy.blank("en").get_factory_meta(name)
        assert set(meta.default_score_weights) <= {
            "ents_f", "ents_p", "ents_r", "ents_per_type",
            *(key for key in meta.default_score_weights if key.startswith("cats_")),
        }  # fmt: skip


def test_our_entry_points_import_nothing_heavy():
    """In a process that has spaCy, they add our own modules and none that costs time."""
    modules = sorted({point.module for point in entry_points()})
    code = f"""
import importlib, sys
import spacy, spacy.cli
before = set(sys.modules)
for name in {modules!r}:
    importlib.import_module(name)
print(*sorted(set(sys.modules) - before))
"""
    added = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert set(modules) <= set(added)
    heavy = [
        "torch",
        "transformers",
        "spacy_transformers",
        "tokenizers",
        "sentencepiece",
        "safetensors",
        "ray",
        "pyarrow",
        "openvino",
        "pandas",
        "rich",
        "spacy_albert.components",
        "spacy_albert.modeling",
    ]
    for name in heavy:
        loaded = [module for module in added if module == name or module.startswith(name + ".")]
        assert not loaded, f"{name} came with our entry points: {loaded[:3]}"


# Commands


def command(*args: object) -> str:
    """Run `python -m spacy ...` in this process."""
    registry.cli.get_all()
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def vocabulary(tiny_spm: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    path.write_bytes(tiny_spm)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ten sentences as spaCy's binary corpus."""
    path = tmp_path_factory.mktemp("corpus") / "train.spacy"
    docs = [eg.reference for eg in examples(spacy.blank("en"), ["ner", "topics"])]
    DocBin(docs=docs, store_user_data=True).to_disk(path)
    return path


@pytest.fixture(scope="module")
def config(vocabulary: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training config for two heads on one encoder."""
    settings = blank(vocabulary, ["ner", "topics"]).config
    settings["paths"] |= {"train": str(corpus), "dev": str(corpus)}
    settings["training"] |= {
        "max_steps": 120,
        "eval_frequency": 60,
        "accumulate_gradient": 2,
        "annotating_components": ["albert", "ner"],
        "optimizer": {"@optimizers": "Adam.v1", "learn_rate": 0.01, "use_averages": True},
    }
    path = tmp_path_factory.mktemp("config") / "train.cfg"
    settings.to_disk(path)
    return path


@pytest.fixture(scope="module")
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `spacy train` makes of it."""
    path = tmp_path_factory.mktemp("trained")
    output = command("train", config, "--output", path)
    assert "LOSS ALBERT" in output
    assert "LOSS NER" in output
    assert "LOSS TOPICS" in output
    return path / "model-last"


def test_training_makes_a_pipeline_that_knows_its_corpus(trained):
    nlp = spacy.load(trained)
    assert [found(nlp, text) for text in TEXTS] == [gold(nlp, row) for row in range(len(SENTENCES))]
    assert nlp.meta["performance"]["ents_f"] == nlp.meta["performance"]["cats_score"] == 1.0
    assert nlp.config["initialize"]["components"]  # it says where the weights came from ...
    assert spacy.load(trained)(TEXTS[0]).ents  # ... and does not go there again


def test_a_clean_process_loads_it(trained, tmp_path):
    code = """
import json, sys, spacy
doc = spacy.load(sys.argv[1])(sys.argv[2])
print(json.dumps([[[ent.text, ent.label_] for ent in doc.ents], doc.cats]))
"""
    answer = subprocess.run(
        [sys.executable, "-c", code, str(trained), TEXTS[0]],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    ents, cats = json.loads(answer)
    assert ents == [["Michael Jane", "PER"], ["London", "LOC"]]
    assert cats == pytest.approx(spacy.load(trained)(TEXTS[0]).cats, abs=1e-5)


def test_train_from_the_shell(config, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "spacy", "train", config, "--output", tmp_path / "out"],
        check=True,
        cwd=tmp_path,
    )
    assert spacy.load(tmp_path / "out" / "model-best")(TEXTS[0]).ents


def test_a_frozen_sourced_pipeline_trains_another_head(trained, config, vocabulary, tmp_path):
    """Take encoder and recognizer as they are, train a classifier on top."""
    settings = load_config(config)
    settings["components"]["albert"] = {"source": str(trained)}
    settings["components"]["ner"] = {"source": str(trained)}
    settings["training"] |= {
        "frozen_components": ["albert", "ner"],
        "annotating_components": [],
        "max_steps": 20,
    }
    settings["initialize"]["components"] = {}
    settings.to_disk(tmp_path / "frozen.cfg")
    command("train", tmp_path / "frozen.cfg", "--output", tmp_path)
    old, new = spacy.load(trained), spacy.load(tmp_path / "model-last")
    for name in ("albert", "ner"):
        assert equal(weights(old, name), weights(new, name))
    assert not equal(weights(old, "topics"), weights(new, "topics"))
    assert [doc.ents[0].text for doc in new.pipe(TEXTS[:3])] == ["Michael Jane", "Paris", "Google"]


def test_evaluate(trained, corpus, tmp_path):
    command("evaluate", trained, corpus, "--output", tmp_path / "scores.json")
    scores = srsly.read_json(tmp_path / "scores.json")
    assert scores["ents_f"] == scores["cats_score"] == 1.0
    assert set(scores["ents_per_type"]) == {"LOC", "ORG", "PER"}
    assert set(scores["cats_f_per_type"]) == {"book", "city", "people"}
    assert scores["speed"] > 0


def test_package(trained, tmp_path):
    command("package", trained, tmp_path, "--build", "none", "--name", "tiny")
    (folder,) = tmp_path.iterdir()
    meta = srsly.read_json(folder / "meta.json")
    assert any(line.startswith("spacy-albert>=") for line in meta["requirements"])
    data = folder / "en_tiny" / folder.name
    assert (data / "albert" / "encoder" / "model.safetensors").exists()
    assert spacy.load(data)(TEXTS[0]).ents


def test_fill_config(tmp_path):
    (tmp_path / "base.cfg").write_text("""
[nlp]
lang = "en"
pipeline = ["albert", "ner", "textcat", "topics"]
[components]
[components.albert]
factory = "albert"
[components.ner]
factory = "albert_ner"
[components.textcat]
factory = "albert_textcat"
[components.topics]
factory = "albert_textcat_multilabel"
[components.topics.model]
@architectures = "spacy-albert.TextClassifier.v1"
[components.topics.model.tok2vec]
@architectures = "spacy-albert.Albert.v1"
window = 100
overlap = 0
[initialize]
[initialize.components]
[initialize.components.albert]
[initialize.components.albert.encoder]
@misc = "spacy-albert.Scratch.v1"
""")
    command("init", "fill-config", tmp_path / "base.cfg", tmp_path / "full.cfg")
    full = load_config(tmp_path / "full.cfg")
    assert full["components"]["albert"]["model"]["precision"] == "auto"
    assert full["components"]["ner"]["model"]["pooling"] == "mean"
    assert full["components"]["ner"]["threshold"] == 0.0
    assert full["components"]["topics"]["threshold"] == 0.5
    assert full["components"]["topics"]["model"]["tok2vec"]["window"] == 100
    assert full["initialize"]["components"]["albert"]["encoder"]["size"] == "albert-base-v2"
    weighed = {key: value for key, value in full["training"]["score_weights"].items() if value}
    assert weighed == {"ents_f": 0.5, "cats_score": 0.5}
    assert spacy.util.load_model_from_config(full, auto_fill=False).pipe_names == [
        "albert", "ner", "textcat", "topics",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "score"), [("topics", "cats_macro_f"), ("ner", "ents_f"), ("ner", "ents_r")]
)
def test_find_threshold(trained, corpus, name, score):
    from spacy.cli.find_threshold import find_threshold

    best, best_score, scores = find_threshold(trained, corpus, name, "threshold", score, n_trials=3)
    assert best_score == 1.0
    assert best < 1
    assert scores[0.5] == 1.0
    assert scores[1.0] < 1.0


def test_benchmark_speed(trained, corpus):
    output = command("benchmark", "speed", trained, corpus, "--batch-size", 10)
    assert "words/s" in output


def test_init_labels(config, tmp_path):
    command("init", "labels", config, tmp_path)
    assert srsly.read_json(tmp_path / "ner.json") == ["LOC", "ORG", "PER"]
    assert srsly.read_json(tmp_path / "topics.json") == ["book", "city", "people"]


def test_debug_config(config):
    assert "Config is valid" in command("debug", "config", config)


def test_debug_data(config, corpus, tmp_path):
    docs = list(DocBin().from_disk(corpus).get_docs(spacy.blank("en").vocab))
    DocBin(docs=docs * 11).to_disk(tmp_path / "train.spacy")  # below 100 it complains
    output = command("debug", "data", config, "--paths.train", tmp_path / "train.spacy")
    assert "Pipeline can be initialized with data" in output
    assert "110 training docs" in output


def test_labels_from_a_file(config, tmp_path):
    """What `init labels` writes, `[initialize]` reads: in its order, without reading the corpus."""
    srsly.write_json(tmp_path / "ner.json", ["PER", "ORG", "LOC", "MISC"])
    settings = load_config(config)
    settings["initialize"]["components"]["ner"] = {
        "labels": {"@readers": "spacy.read_labels.v1", "path": str(tmp_path / "ner.json")}
    }
    nlp = spacy.util.load_model_from_config(settings, auto_fill=True)
    nlp.initialize()
    assert nlp.get_pipe("ner").labels == ("PER", "ORG", "LOC", "MISC")
