"""The commands: what they say, and what they can do without."""

import io
import subprocess
import sys

import pyarrow as pa
import pytest
from rich.console import Console
from tables import read, write
from typer.main import get_command
from typer.testing import CliRunner

from spacy_albert_jobs import JobError, annotate, cli, run
from spacy_albert_jobs.show import show
from spacy_albert_jobs.summary import Summary

runner = CliRunner()


def spacy_albert(*args) -> tuple[int, str]:
    result = runner.invoke(cli.albert_cli, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("name", ["annotate", "show"])
def test_help_is_complete(name):
    command = get_command(cli.albert_cli).commands[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{parameter.name} has no help"
    assert spacy_albert(name, "--help")[0] == 0


def test_annotate_and_show(classifier, collection, tmp_path, in_process):
    out = tmp_path / "out"
    code, said = spacy_albert("annotate", classifier, collection, out, "--keep", "text", "-n", 50)
    assert code == 0
    assert read(out).num_rows == 50
    assert "PERSON" in said
    assert all(label in said for label in read(out)["cat"].to_pylist())
    code, said = spacy_albert("show", out, "-n", 2)
    assert code == 0
    assert said.count("Obama") == 2
    assert "PERSON" in said
    code, said = spacy_albert("annotate", classifier, collection, out, "--keep", "id")
    assert code == 1
    assert "--overwrite" in said


def test_keeping_no_columns(pipeline, collection, tmp_path, in_process):
    spacy_albert("annotate", pipeline, collection, tmp_path / "out", "--keep", "", "--quiet")
    assert read(tmp_path / "out").schema.names == ["ents", "n_tokens", "error"]
    code, said = spacy_albert("show", tmp_path / "out")
    assert code == 1
    assert "no column 'text'" in said


def test_two_paths_mean_the_embedded_pipeline(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(run, "annotate", lambda *paths, **options: given.append(paths) or nothing())
    assert spacy_albert("annotate", "in", "out")[0] == 0
    assert spacy_albert("annotate", "pipeline", "in", "out")[0] == 0
    assert given == [(None, "in", "out"), ("pipeline", "in", "out")]
    assert spacy_albert("annotate", "in")[0] == 2


def nothing() -> Summary:
    return Summary("out", 0, 0, 0, {}, {}, {}, [], {"seconds": 0.0})


def test_show_marks_entities_of_long_texts(pipeline, tmp_path, in_process):
    text = "[bold] Obama [/bold] " + "and " * 1000 + "Paris"
    write(tmp_path / "in.parquet", pa.table({"text": [None, text]}))
    annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out")
    console = Console(width=80, record=True, file=io.StringIO())
    show(tmp_path / "out", 5, console=console)
    said = console.export_text()
    assert "[bold] Obama PERSON  [/bold] and" in said
    assert "Paris" not in said
    assert "..." in said
    with pytest.raises(JobError, match="has not been written by annotate"):
        show(tmp_path, 1)
    with pytest.raises(JobError, match="no annotated documents"):
        show(tmp_path / "absent", 1)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_entry_point_imports_nothing_heavy():
    heavy = python(
        "import sys, spacy; before = set(sys.modules); import spacy_albert_jobs.cli;"
        "print({name.split('.')[0] for name in set(sys.modules) - before})"
    )
    assert not {"ray", "pyarrow", "transformers", "sentencepiece"} & eval(heavy)


@pytest.mark.parametrize("missing", ["pyarrow", "rich"])
def test_without_the_extra(missing):
    said = python(
        f"import sys; sys.modules['{missing}'] = None\n"
        "import spacy_albert_jobs\n"
        "try: spacy_albert_jobs.annotate\n"
        "except spacy_albert_jobs.JobError as error: print(error)"
    )
    assert missing in said
    assert "pip install 'spacy-albert[jobs]'" in said
