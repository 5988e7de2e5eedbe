"""What README and docs tell people to do works, and prints what they say."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from spacy_albert_jobs.cli import albert_cli

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "annotate",
    "calibrate",
    "convert",
    "corpus",
    "evaluate",
    "find-threshold",
    "init-config",
    "pretrain",
    "report",
    "show",
    "shrink",
    "verify",
    "vocab",
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf8"), re.M | re.S)


def test_the_first_example_prints_what_it_says(capsys):
    (_, example), (_, printed) = blocks(ROOT / "README.md")[:2]
    exec(example, {})
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python(page):
    for language, text in blocks(page):
        if language == "python":
            compile(text, page.name, "exec")


def test_commands_take_the_options_that_are_shown():
    group = typer.main.get_command(albert_cli)
    seen = set()
    for page in PAGES:
        for line in page.read_text(encoding="utf8").splitlines():
            words = shlex.split(line, comments=True) if "spacy albert " in line[:30] else []
            if words[:4] == ["python", "-m", "spacy", "albert"] and "[PIPELINE]" not in words:
                command = group.commands[words[4]]
                with command.make_context(words[4], words[5:]):
                    seen.add(words[4])
    assert seen == COMMANDS


def test_every_option_is_explained():
    group = typer.main.get_command(albert_cli)
    assert set(group.commands) == COMMANDS
    for name, command in group.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), (name, parameter.name)
