"""Annotated documents in the terminal."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from .errors import JobError
from .storage import Folder

COLOURS = ("green", "blue", "magenta", "yellow", "cyan", "red")
#: Of longer documents only the beginning is shown.
CHARACTERS = 1200


def show(
    output: str | Path, number: int, text_column: str = "text", console: Console | None = None
) -> None:
    """Print the first annotated documents of an output folder.

    output (str | Path): The folder.
    number (int): How many.
    text_column (str): The column that holds the texts.
    console (Console | None): Where to; None for standard output.
    RAISES (JobError): If the folder holds no annotated texts.
    """
    console = console or Console()
    colours: dict[str, str] = {}
    for row in islice(read_rows(Folder.at(output), text_column), number):
        body = highlight(row[text_column], row.get("ents") or [], colours)
        console.print(Panel(body, title=heading(row), title_align="left", border_style="dim"))


def read_rows(folder: Folder, text_column: str) -> Iterator[dict[str, Any]]:
    """Read the rows of an output folder that were annotated.

    folder (Folder): The folder.
    text_column (str): The column that holds the texts.
    YIELDS (dict[str, Any]): The rows, in order.
    RAISES (JobError): If the folder holds no annotated texts.
    """
    names = [name for name in folder.files() if name.endswith(".parquet")]
    if not names:
        raise JobError(f"There are no annotated documents in {folder.path}.")
    for name in names:
        with pq.ParquetFile(folder.open(name)) as file:
            columns = file.schema_arrow.names
            if "error" not in columns:
                raise JobError(f"{folder.join(name)} has not been written by annotate.")
            if text_column not in columns:
                raise JobError(
                    f"{folder.path} has no column {text_column!r}: annotate with it in --keep, or "
                    f"name another. The columns are {', '.join(columns)}."
                )
            wanted = [c for c in (text_column, "ents", "cats", "cat", "error") if c in columns]
            for batch in file.iter_batches(64, columns=wanted):
                yield from (row for row in batch.to_pylist() if row["error"] is None)


def heading(row: dict[str, Any]) -> Text:
    """The classes of a document: the best one if they exclude each other, else the likely ones."""
    scores = {label: score for label, score in (row.get("cats") or {}).items() if score is not None}
    labels = sorted((label for label in scores if scores[label] >= 0.5), key=lambda c: -scores[c])
    if row.get("cat") is not None:
        labels = [row["cat"]]
    return Text("  ").join(
        Text.assemble((label, "bold"), f" {scores[label]:.2f}") for label in labels
    )


def highlight(text: str, ents: list[dict[str, Any]], colours: dict[str, str]) -> Text:
    """Mark the entities of a text.

    text (str): The text.
    ents (list[dict[str, Any]]): Its entities, as in the output.
    colours (dict[str, str]): The colour of each label; new labels get the next one.
    RETURNS (Text): The text with colours, and with the label and score after each entity.
    """
    marked, end = Text(), 0
    for ent in ents:
        if ent["end"] > CHARACTERS:
            break
        colour = colours.setdefault(ent["label"], COLOURS[len(colours) % len(COLOURS)])
        score = "" if ent["score"] is None else f" {ent['score']:.2f}"
        marked.append(text[end : ent["start"]])
        marked.append(text[ent["start"] : ent["end"]], style=f"bold {colour}")
        marked.append(f" {ent['label']}{score} ", style=f"reverse {colour}")
        end = ent["end"]
    marked.append(text[end:CHARACTERS])
    if len(text) > CHARACTERS:
        marked.append(" ...")
    return marked
