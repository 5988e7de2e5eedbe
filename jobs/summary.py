"""What a job has done, for a person and as JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .plan import Plan, Shard
from .progress import clock
from .worker import Receipt


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
    run (dict): What the run that finished the job did itself: its rows, words and seconds, and the
        rates between the moment the first worker was ready and the end.
    """

    output: str
    rows: int
    words: int
    shards: int
    ents: dict[str, int]
    cats: dict[str, int]
    errors: dict[str, dict[str, Any]]
    left_out: list[dict[str, str]]
    run: dict[str, float]

    @classmethod
    def of(
        cls,
        output: str,
        plan: Plan,
        receipts: Sequence[Receipt],
        of_this_run: Sequence[Receipt],
        working: float,
        seconds: float,
    ) -> "Summary":
        """Add up the receipts of a job.

        output (str): The output folder.
        plan (Plan): The plan.
        receipts (Sequence[Receipt]): A receipt for each of its shards, in order.
        of_this_run (Sequence[Receipt]): Those of the shards that this run has done.
        working (float): The seconds since the first worker of this run was ready.
        seconds (float): The seconds of all of this run.
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
        run: dict[str, float] = {
            "rows": sum(receipt.rows for receipt in of_this_run),
            "words": sum(receipt.words for receipt in of_this_run),
            "seconds": seconds,
        }
        if working:
            run["rows_per_second"] = run["rows"] / working
            run["words_per_second"] = run["words"] / working
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
        )

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Summary":
        return cls(**json.loads(data))

    def print(self, console: Console) -> None:
        """Print the summary.

        console (Console): Where to.
        """
        table = Table(show_header=False, box=None, padding=(0, 3, 0, 0))
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column()
        table.add_row("rows", f"{self.rows:,}", self.rate("rows"))
        table.add_row("words", f"{self.words:,}", self.rate("words"))
        for title, counts in (("entities", self.ents), ("classes", self.cats)):
            for number, (label, count) in enumerate(counts.items()):
                table.add_row("" if number else title, f"{count:,}", escape(label))
        for number, (kind, error) in enumerate(self.errors.items()):
            first = f"(first: row {error['row']:,} of {error['file']})"
            where = f"{escape(kind)} [dim]{escape(first)}[/dim]"
            table.add_row("" if number else "[red]errors[/red]", f"{error['rows']:,}", where)
        for number, file in enumerate(self.left_out):
            why = escape(f"{file['path']} {file['reason']}")
            table.add_row("" if number else "[red]left out[/red]", "", why)
        table.add_row("time", clock(self.run["seconds"]), "with all starting up")
        table.add_row("output", f"{self.shards:,}", escape(f"files in {self.output}"))
        console.print(table)

    def rate(self, what: str) -> str:
        rate = self.run.get(f"{what}_per_second")
        return f"{rate:,.0f} a second" if rate else ""


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
