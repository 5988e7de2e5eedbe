"""What a job has done, for a person and as JSON."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .plan import ERRORS, Plan, Shard
from .progress import clock, digits, share
from .worker import Receipt

#: How many labels, kinds of errors or files are printed of each.
PRINTED = 12


@dataclass
class Summary:
    """What a job has done.

    output (str): The output folder.
    rows (int): Its rows.
    words (int): The tokens of their texts, as spaCy counts words.
    shards (int): Its files.
    ents (dict[str, int]): Entities by label.
    cats (dict[str, int]): Documents by class: the best one if classes exclude each other, else
        those with a score of at least 0.5.
    errors (dict[str, dict]): For each kind of error the number of its rows, and the file and the
        number in it (from 0) of the first one.
    left_out (list[dict]): The input files that were not annotated, and why.
    run (dict): What the run that finished the job did itself: its rows, words and seconds; the
        seconds between the moment the first worker was ready and the end, and the rates and the
        timeline then, of points in seconds, rows and words.
    text_column (str | None): The column that holds the texts; None if it has not been kept.
    """

    output: str
    rows: int
    words: int
    shards: int
    ents: dict[str, int]
    cats: dict[str, int]
    errors: dict[str, dict[str, Any]]
    left_out: list[dict[str, str]]
    run: dict[str, Any]
    text_column: str | None = None

    @classmethod
    def of(
        cls,
        output: str,
        plan: Plan,
        receipts: Sequence[Receipt],
        of_this_run: Sequence[Receipt],
        working: float,
        seconds: float,
        timeline: Sequence[Sequence[float]] = (),
    ) -> "Summary":
        """Add up the receipts of a job.

        output (str): The output folder.
        plan (Plan): The plan.
        receipts (Sequence[Receipt]): A receipt for each of its shards, in order.
        of_this_run (Sequence[Receipt]): Those of the shards that this run has done.
        working (float): The seconds since the first worker of this run was ready.
        seconds (float): The seconds of all of this run.
        timeline (Sequence): How far this run was when, see `Progress`.
        RETURNS (Summary): The sums.
        """
        ents, cats = Counter[str](), Counter[str]()
        errors: dict[str, dict[str, Any]] = {}
        for shard, receipt in zip(plan.shards, receipts):
            ents.update(receipt.ents)
            cats.update(receipt.cats)
            for kind, number in receipt.errors.items():
                first = {"rows": 0, "file": shard.source, "row": receipt.examples[kind]}
                errors.setdefault(kind, first)["rows"] += number
        run: dict[str, Any] = {
            "rows": sum(receipt.rows for receipt in of_this_run),
            "words": sum(receipt.words for receipt in of_this_run),
            "seconds": seconds,
        }
        if working:
            run["rows_per_second"] = run["rows"] / working
            run["words_per_second"] = run["words"] / working
            run["working_seconds"] = working
        run["timeline"] = [list(point) for point in timeline]
        text_column = plan.identity["options"]["text_column"]
        return cls(
            output=output,
            rows=sum(receipt.rows for receipt in receipts),
            words=sum(receipt.words for receipt in receipts),
            shards=len(receipts),
            ents=dict(ents.most_common()),
            cats=dict(cats.most_common()),
            errors=errors,
            left_out=[file._asdict() for file in plan.left_out],
            run=run,
            text_column=text_column if text_column in plan.kept.names else None,
        )

    def to_json(self) -> bytes:
        text = json.dumps(asdict(self), indent=2)
        # a point of the timeline on one line; within strings there are no line breaks
        point = r"\[\n\s*([\d.]+),\n\s*(\d+),\n\s*(\d+)\n\s*\]"
        return re.sub(point, r"[\1, \2, \3]", text).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Summary":
        return cls(**json.loads(data))

    def print(self, console: Console) -> None:
        """Print the summary.

        console (Console): Where to.
        """
        table = Table.grid(padding=(0, 3, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(justify="right", no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        table.add_row("rows", f"{self.rows:,}", "", self._rate("rows"))
        table.add_row("words", f"{self.words:,}", "", self._rate("words"))
        found = sum(self.ents.values())
        annotated = self.rows - sum(error["rows"] for error in self.errors.values())
        if self.ents:
            of_each = found / max(annotated, 1)
            each = f"{of_each:,.{1 if of_each >= 1 else 2}f} a row"
            table.add_row("entities", f"{found:,}", "", each)
        add_counts(table, "", self.ents, found)
        add_counts(table, "classes", self.cats, annotated)
        self._add_errors(table)
        for number, file in enumerate(self.left_out[:PRINTED]):
            title = Text("" if number else "left out", "red")
            table.add_row(title, "", "", Text(f"{file['path']} {file['reason']}"))
        add_rest(table, len(self.left_out))
        if self.run.get("rows", self.rows) < self.rows:
            rows = self.run["rows"]
            others = "of the rows; others were done before"
            table.add_row("this run", f"{rows:,}", share(rows, self.rows), others)
        working = self.run.get("working_seconds", 0)
        start = clock(self.run["seconds"] - working)
        start = f"{start} of it before the first worker was ready" if working else ""
        table.add_row("time", clock(self.run["seconds"]), "", start)
        shards = "shard" if self.shards == 1 else "shards"
        table.add_row("output", f"{self.shards:,}", "", Text(f"{shards} in {self.output}"))
        console.print(table)
        if commands := self._commands():
            console.print()
        width = max(len(command) for command, _ in [*commands, ("", "")])
        for command, what in commands:
            line = Text.assemble(command.ljust(width), (f"  # {what}", "dim"))
            console.print(line, soft_wrap=True)

    def _rate(self, what: str) -> str:
        rate = self.run.get(f"{what}_per_second")
        return f"{rate:,.{digits(rate)}f} a second" if rate else ""

    def _add_errors(self, table: Table) -> None:
        """Add a line for each kind of error, the most frequent first, below their sum."""
        kinds = sorted(self.errors.items(), key=lambda kind: -kind[1]["rows"])
        total = sum(error["rows"] for _, error in kinds)
        if kinds:
            advice = f"see {ERRORS}; --retry-errors tries them again"
            table.add_row(Text("errors", "red"), f"{total:,}", share(total, self.rows), advice)
        for kind, error in kinds[:PRINTED]:
            first = f" (first: row {error['row']:,} of {error['file']})"
            where = Text.assemble(kind, (first, "dim"))
            table.add_row("", f"{error['rows']:,}", share(error["rows"], self.rows), where)
        add_rest(table, len(kinds))

    def _commands(self) -> list[tuple[str, str]]:
        """What can be done next, if it is worth it."""
        output, commands = shlex.quote(self.output), []
        if self.ents or self.cats:
            if self.text_column:
                column = f" --text-column {shlex.quote(self.text_column)}"
                column = "" if self.text_column == "text" else column
                commands.append((f"show {output}{column}", "some of the documents"))
            commands.append((f"report {output}", "a page about what was found"))
        if self.shards > 1:
            commands.append((f"verify {output}", "each file against the plan"))
        return [(f"python -m spacy albert {command}", what) for command, what in commands]


def add_counts(table: Table, title: str, counts: dict[str, int], whole: int) -> None:
    """Add a line for each label, the most frequent first."""
    for number, (label, count) in enumerate(list(counts.items())[:PRINTED]):
        title = "" if number else title
        table.add_row(title, f"{count:,}", share(count, whole), Text(label))
    add_rest(table, len(counts))


def add_rest(table: Table, number: int) -> None:
    if number > PRINTED:
        table.add_row("", "", "", Text(f"... and {number - PRINTED:,} more", "dim"))


def manifest(plan: Plan, receipts: Sequence[Receipt]) -> bytes:
    """List what is in each file of a finished job.

    plan (Plan): The plan.
    receipts (Sequence[Receipt]): A receipt for each of its shards, in order.
    RETURNS (bytes): The list as JSON.
    """

    def entry(shard: Shard, receipt: Receipt) -> dict[str, Any]:
        of_input = {"source": shard.source, "row_groups": shard.groups, "first_row": shard.start}
        counts = dict(vars(receipt))
        return {"file": counts.pop("shard"), **of_input, **counts}

    content = {
        "fingerprint": plan.fingerprint,
        "columns": {field.name: str(field.type) for field in [*plan.kept, *plan.outputs.fields()]},
        "rows": plan.rows,
        "left_out": [file._asdict() for file in plan.left_out],
        "files": [entry(shard, receipt) for shard, receipt in zip(plan.shards, receipts)],
    }
    return json.dumps(content, indent=1).encode()
