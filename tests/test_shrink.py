"""Pipelines in half precision: half as large, and they say the same."""

import json

import pytest
import spacy
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner
from util import TEXTS, examples, initialized, train

from spacy_albert.cli import albert_cli


@pytest.fixture(scope="module")
def trained(tiny_spm, tmp_path_factory):
    vocabulary = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    vocabulary.write_bytes(tiny_spm)
    nlp = initialized(vocabulary)
    train(nlp, examples(nlp))
    path = tmp_path_factory.mktemp("trained") / "model"
    nlp.to_disk(path)
    return path


def shrink(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(albert_cli, ["shrink", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


def test_it_says_the_same_in_half_the_space(trained, tmp_path):
    code, said = shrink(trained, tmp_path / "small")
    assert code == 0, said
    large, small = spacy.load(trained), spacy.load(tmp_path / "small")
    found = 0
    for before, after in zip(large.pipe(TEXTS), small.pipe(TEXTS)):
        assert [(e.start, e.end, e.label_) for e in before.ents] == [
            (e.start, e.end, e.label_) for e in after.ents
        ]
        assert after.cats == pytest.approx(before.cats, abs=0.01)
        found += len(after.ents)
    assert found
    for path in trained.rglob("*"):
        other = tmp_path / "small" / path.relative_to(trained)
        if path.suffix == ".safetensors":
            assert other.stat().st_size < 0.6 * path.stat().st_size
        elif path.is_file() and path.parent.name != "encoder":
            assert other.read_bytes() == path.read_bytes()
    encoder = tmp_path / "small" / "albert" / "encoder"
    assert json.loads((encoder / "config.json").read_text())["torch_dtype"] == "float16"
    transformers.AlbertModel.from_pretrained(encoder)


def test_what_cannot_be_halved(trained, tmp_path):
    assert "is the pipeline itself" in shrink(trained, trained)[1]
    assert "There is no pipeline nothing" in shrink("nothing", tmp_path / "small")[1]
    copy = tmp_path / "copy"
    spacy.load(trained).to_disk(copy)
    path = copy / "ner" / "head" / "model.safetensors"
    weights = load_file(path)
    weights["classifier.bias"][0] = 1e6
    save_file(weights, path)
    code, said = shrink(copy, tmp_path / "small")
    assert code == 1
    assert "classifier.bias has weights beyond half precision" in said
    assert not (tmp_path / "small").exists()
    blank = tmp_path / "blank"
    spacy.blank("en").to_disk(blank)
    assert "no weights" in shrink(blank, tmp_path / "small")[1]
