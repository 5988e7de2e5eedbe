"""A vocabulary of Parquet or text, by the command."""

import pyarrow as pa
import pytest
from tables import write
from typer.testing import CliRunner

from spacy_albert.tokenization import load_tokenizer
from spacy_albert_jobs.cli import albert_cli
from spacy_albert_jobs.vocab import texts_in

WORDS = "the river was long and they said so in the market of paris".split()  # noqa: SIM905
TEXTS = [" ".join(WORDS[n % 7 :] + [str(n)]) for n in range(200)]


def run(*arguments: object):
    return CliRunner().invoke(albert_cli, ["vocab", *map(str, arguments)])


@pytest.fixture
def parquet(tmp_path):
    write(tmp_path / "in" / "a.parquet", pa.table({"body": TEXTS[:90]}))
    write(tmp_path / "in" / "b" / "c.parquet", pa.table({"body": [*TEXTS[90:], None]}))
    return tmp_path / "in"


@pytest.fixture
def text(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("\n\n\n".join(TEXTS[:90]) + "\n")
    (tmp_path / "in" / "b.txt").write_text("\n" + "\n \n".join(TEXTS[90:]))
    return tmp_path / "in"


@pytest.mark.parametrize("kind", ["parquet", "text"])
def test_from_a_collection(kind, request, tmp_path):
    source = request.getfixturevalue(kind)
    done = run(source, tmp_path / "out", "--size", 60, "-t", "body", "--ascii-punctuation")
    assert done.exit_code == 0, done.output
    rows = 201 if kind == "parquet" else 200
    assert f"60 pieces from {rows} documents" in done.output
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.size == 60
    assert tokenizer.unk_id not in tokenizer(["the “river” of paris"]).ids[:2]


def test_documents_of_text_files(text):
    found, _ = texts_in(text, "text")
    assert [document.strip() for document in found] == TEXTS


def test_what_goes_wrong_is_said(parquet, tmp_path):
    assert "no more than" in run(parquet, tmp_path / "o", "--size", 9000, "-t", "body").output
    assert "'text'" in run(parquet, tmp_path / "o", "--size", 60).output
    assert not (tmp_path / "o").exists()
    run(parquet, tmp_path / "o", "--size", 60, "-t", "body")
    assert "--force" in run(parquet, tmp_path / "o", "--size", 60, "-t", "body").output
