"""The pre-training job: what it refuses, and what becomes of runs that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import spacy
import transformers
from tables import write

from spacy_albert.modeling import AlbertConfig
from spacy_albert.tokenization import SentencePieceTokenizer
from spacy_albert_jobs import JobError
from spacy_albert_jobs.pretrain import load_config, pretrain

pytest.importorskip("matplotlib")

CONFIGS = ["small", "base", "large", "xlarge", "xxlarge"]
TINY = {
    "model.hidden_size": 32,
    "model.embedding_size": 16,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 4,
    "model.intermediate_size": 64,
    "training.length": 32,
    "training.held_out": 10,
    "training.steps": 12,
    "training.batch": 8,
    "training.warm_up": 2,
    "training.evaluate_every": 4,
    "training.evaluate_on": 20,
    "training.save_every": 4,
    "training.precision": "float32",
}


@pytest.fixture(scope="module")
def vocabulary(tiny_spm, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    path.write_bytes(tiny_spm)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    values = [
        " ".join(f"The river {n} was long. They said {k} of the market!" for k in range(n % 9 + 1))
        for n in range(300)
    ]
    write(folder / "a.parquet", pa.table({"text": values[:200]}), 50)
    write(folder / "b.parquet", pa.table({"text": values[200:]}))
    return folder


def config(**changes):
    return load_config("pretrain_small.cfg", {**TINY, **changes})


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_ship_are_whole(name):
    from spacy_albert.modeling import CONFIGS as SHAPES
    from spacy_albert.pretraining.settings import read_shape
    from spacy_albert_jobs.pretrain import read_config

    model, data, settings = read_config(load_config(f"pretrain_{name}.cfg"))
    shape = read_shape(model, 30_000)
    assert data == {"text_column": "text", "lang": "en"}
    if name != "small":
        assert shape == SHAPES[f"albert-{name}-v2"]
        paper = (settings.batch, settings.steps, settings.warm_up, settings.rate)
        assert paper == (4096, 125_000, 3125, 0.00176)


@pytest.mark.parametrize(
    ("changes", "options", "wanted"),
    [
        ({}, {}, "A new model needs a vocabulary"),
        ({"training.epochs": 3}, {"vocabulary": 1}, r"\[training\] has no epochs"),
        ({"training.batch": 0}, {"vocabulary": 1}, "batch is 0, but must be"),
        ({"model.size": "albert-huge"}, {"vocabulary": 1}, "no size 'albert-huge'"),
        ({"model.width": 3}, {"vocabulary": 1}, "an ALBERT has no width"),
        ({"model.num_attention_heads": 5}, {"vocabulary": 1}, "must divide hidden_size"),
        ({"data.column": "x"}, {"vocabulary": 1}, r"\[data\] has no column"),
        ({"data.text_column": "body"}, {"vocabulary": 1}, r"a\.parquet .*'body'"),
        ({"training.batch": 2}, {"vocabulary": 1, "workers": 3}, "batch of 2 .* 3 workers"),
        ({"training.length": 1000}, {"vocabulary": 1}, "length is 1000, .* 512 positions"),
        ({}, {"vocabulary": 1, "init_from": "en_albert_sm"}, "leave out --vocabulary"),
        ({}, {"init_from": "en_albert_sm"}, r"\[model\] says \w+ = \d+, and en_albert_sm has"),
        ({}, {"vocabulary": 1, "workers": 0}, "at least one worker"),
    ],
)
def test_what_cannot_be_is_refused_before_ray_starts(
    texts, vocabulary, tmp_path, changes, options, wanted, monkeypatch
):
    def never(*args):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("spacy_albert_jobs.pretrain.connected", never)
    if "vocabulary" in options:
        options = {**options, "vocabulary": vocabulary}
    with pytest.raises(JobError, match=wanted):
        pretrain(texts, tmp_path / "run", config(**changes), quiet=True, **options)


def test_a_uri_is_no_folder_for_a_run(texts, vocabulary):
    with pytest.raises(JobError, match="s3://bucket/run is no folder"):
        pretrain(texts, "s3://bucket/run", config(), vocabulary=vocabulary)


def test_a_config_that_is_not_there():
    with pytest.raises(JobError, match=r"no config nothing\.cfg.*pretrain_small\.cfg"):
        load_config("nothing.cfg")


COMMAND = [sys.executable, "-m", "spacy", "albert", "pretrain"]


def command(texts: Path, vocabulary: Path, run: Path, **changes) -> list[str]:
    settings = {**TINY, **changes}
    options = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    where = ["-c", "pretrain_small.cfg", "-v", str(vocabulary), "--no-gpus"]
    return [*COMMAND, str(texts), str(run), *where, *options]


def losses(run: Path) -> list[tuple]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [(e["step"], e["mlm_loss"], e["sop_loss"], e["pieces"]) for e in entries]


def test_from_texts_to_a_model(texts, vocabulary, tmp_path):
    run = tmp_path / "run"
    # in a process of its own: Ray is started once in a process, and other tests have theirs
    done = subprocess.run(
        command(texts, vocabulary, run), check=True, capture_output=True, text=True
    )
    assert "step 12 of 12" in done.stderr
    model = run / "model"
    shape = AlbertConfig.from_dict(json.loads((model / "config.json").read_text()))
    assert (shape.hidden_size, shape.vocab_size) == (
        32,
        SentencePieceTokenizer(vocabulary.read_bytes()).size,
    )
    transformers.AlbertForPreTraining.from_pretrained(model)
    assert [step for step, *_ in losses(run)] == list(range(1, 13))
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "held_out" in e] == [4, 8, 12]
    assert (run / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step-000000008",
        "step-000000012",
    ]
    # the same again has nothing to do, not even to start Ray, and something else is refused
    before = (run / "metrics.jsonl").read_bytes()
    assert pretrain(texts, run, config(), vocabulary=vocabulary, quiet=True) == model
    assert (run / "metrics.jsonl").read_bytes() == before
    with pytest.raises(JobError, match=r"settings\.rate: 0\.001 there, 0\.5 here"):
        pretrain(texts, run, config(**{"training.rate": 0.5}), vocabulary=vocabulary)
    # and heads train on it
    nlp = spacy.blank("en")
    nlp.add_pipe("albert")
    start = {"@misc": "spacy-albert.Checkpoint.v1", "path": str(model)}
    nlp.config["initialize"]["components"]["albert"] = {"encoder": start}
    nlp.initialize()


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_as_it_would_have(texts, vocabulary, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = {"training.steps": 60, "training.save_every": 5}
    subprocess.run(command(texts, vocabulary, whole, **more), check=True, capture_output=True)
    kills = 0
    for after in (7, 23):
        with subprocess.Popen(
            command(texts, vocabulary, killed, **more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as running:
            while running.poll() is None:
                if (killed / "metrics.jsonl").exists() and len(losses(killed)) >= after:
                    os.killpg(running.pid, signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.01)
    subprocess.run(command(texts, vocabulary, killed, **more), check=True, capture_output=True)
    assert kills
    assert losses(killed) == losses(whole)
    for name in ("model.safetensors", "spiece.model"):
        assert (killed / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()


@pytest.mark.slow
def test_two_workers_do_what_one_does(texts, vocabulary, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    more = {"model.classifier_dropout_prob": 0.0}  # each worker draws its own
    shared = ["--corpus", tmp_path / "corpus"]
    for run, workers in ((alone, "1"), (together, "2")):
        order = [*command(texts, vocabulary, run, **more), *shared, "--workers", workers]
        subprocess.run(order, check=True, capture_output=True)
        assert not (run / "corpus").exists()
    for one, two in zip(losses(alone), losses(together), strict=True):
        assert one[0] == two[0]
        assert one[3] == two[3]  # as many pieces: the same sequences
        assert one[1:3] == pytest.approx(two[1:3], abs=1e-5)
