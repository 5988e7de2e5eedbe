"""Whether an output folder is what its plan and its input say. Nothing is changed.

Every file carries a receipt with checksums of its columns, so damage shows without the input. A
file that was changed together with its receipt is not what the manifest says, and one that was
changed together with both does not have the rows of the input.
"""

import io
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .checksums import Checksums
from .contents import (
    UNREADABLE,
    batches,
    digests,
    examine,
    first_different,
    in_step,
    names_of,
    opened,
)
from .errors import JobError
from .inputs import READERS, first_line, is_text, plain, read_footers, select
from .plan import (
    ERRORS,
    LOCK,
    MANIFEST,
    PLAN,
    SUCCESS,
    SUMMARY,
    Plan,
    Shard,
    letters_of,
)
from .storage import Folder
from .summary import Summary, manifest
from .worker import BATCH_ROWS, Receipt, conform, part_path, places_by_value, read, read_receipt

#: The bytes that are read ahead of a column of which there is little in each of many files.
SMALL_BUFFER = 1 << 16

REDO = "run the same annotate command again: it does just what is missing"
ANEW = f"Delete it and {REDO}"
WRITE_AGAIN = f"Delete {SUCCESS} and run the same annotate command again: it writes the file anew"
AWAY = "Move it away"
AWAY_FROM_READERS = "Move it away: whoever reads the folder reads it too"
PLAN_AGAIN = "Put back the file as it was, or begin again with --overwrite"


class Finding(NamedTuple):
    """Something that is wrong.

    file (str): Where: a path in the output folder, or the whole path of an input file.
    problem (str): What.
    advice (str): What to do.
    """

    file: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}. {self.advice}."


def verify(
    output: str | Path,
    input: str | Path | None = None,
    *,
    show: Callable[[int, int], Any] | None = None,
) -> list[Finding]:
    """Check an output folder against its plan and, if it is given, against the input.

    All files are read whole, some of them at a time, and a few batches of rows of each are in
    memory. The input is not touched unless it is given. Annotations are checked against what was
    written, not computed anew.

    output (str | Path): The folder that `annotate` has written; a local path or a URI.
    input (str | Path | None): What it was made from, as it was given to `annotate`.
    show (Callable | None): Told, after each shard, how many are done and how many there are.
    RETURNS (list[Finding]): What is wrong. Nothing, if the list is empty.
    RAISES (JobError): If the folder has no plan that can be read, or the input is another one.
    """
    folder = Folder.at(output)
    plan = Plan.of(folder)
    files = folder.files()
    findings = check_plan(folder, plan)
    origin = None
    if input is not None:
        origin, found = check_input(plan, input)
        findings += found
    parts, strays = plan.sort(files)
    findings += [stray(folder, plan, path) for path in strays]
    checker = Checker(folder, plan, files, parts, origin)
    receipts: dict[str, Receipt] = {}
    missing = []
    with ThreadPoolExecutor(min(READERS, (os.cpu_count() or 1) + 4)) as threads:
        checked = zip(plan.shards, threads.map(checker.check, plan.shards))
        for done, (shard, (receipt, found)) in enumerate(checked, 1):
            findings += found
            if receipt:
                receipts[shard.name] = receipt
            elif not found and checker.least_files(shard):
                missing.append(shard.name)
            if show:
                show(done, len(plan.shards))
    if not checker.finished:
        return [*findings, unfinished(plan, missing, LOCK in files)]
    findings += check_manifest(folder, plan, receipts)
    findings += check_summary(folder, plan, receipts)
    findings += checker.check_letters(receipts)
    return findings


def check_plan(folder: Folder, plan: Plan) -> list[Finding]:
    """Check that the plan is what was written down.

    folder (Folder): The output folder.
    plan (Plan): Its plan.
    RETURNS (list[Finding]): What is wrong.
    """
    said = json.loads(folder.read(PLAN)).get("fingerprint")
    if said == plan.fingerprint:
        return []
    problem = f"has been edited: its fingerprint is {said}, that of its contents {plan.fingerprint}"
    return [Finding(PLAN, problem, PLAN_AGAIN)]


class Origin(NamedTuple):
    """The input.

    root (Folder): Its root.
    files (frozenset[str]): Those of its files that are as they were planned.
    touched (frozenset[str]): Those of them that have another date.
    """

    root: Folder
    files: frozenset[str]
    touched: frozenset[str]


def check_input(plan: Plan, input: str | Path) -> tuple[Origin, list[Finding]]:
    """Check that the input is what was planned, and that the shards have all of its rows once.

    plan (Plan): The plan.
    input (str | Path): The input.
    RETURNS (tuple[Origin, list[Finding]]): Where to read it, and what is wrong.
    RAISES (JobError): If there is none, or it is altogether another one.
    """
    options = plan.identity["options"]
    planned: dict[str, list[Any]] = plan.identity["input"]
    selection = select(input)
    files, bad = read_footers(selection, options["text_column"])
    now, bad_now = {file.path: file for file in files}, {file.path: file.reason for file in bad}
    if planned and not planned.keys() & (now.keys() | bad_now.keys()):
        raise JobError(
            f"{input} is not what the output was made from: {next(iter(planned))}, for example, is "
            "not there. Name the input as in the annotate command."
        )
    rows: dict[str, list[Shard]] = {}
    for shard in plan.shards:
        rows.setdefault(shard.source, []).append(shard)
    findings, same, touched = [], set(), set()
    for path, (digest, changed) in planned.items():
        where = selection.root.join(path)
        if path in bad_now:
            problem = f"{bad_now[path]}, and could be read when it was annotated"
            findings.append(Finding(where, problem, "Put back the file as it was"))
        elif path not in now:
            advice = "Put it back, or run annotate again with --allow gone-files"
            findings.append(Finding(where, "is gone", advice))
        elif now[path].digest != digest:
            problem = f"has changed since it was annotated: it has {now[path].rows:,} rows now"
            advice = "Put it back, or run annotate again with --allow changed-files"
            findings.append(Finding(where, problem, advice))
        else:
            same.add(path)
            if now[path].changed != changed:
                touched.add(path)
            limit = None if options["limit"] else now[path].rows
            if gap := uncovered(path, rows.get(path, []), limit):
                findings.append(Finding(PLAN, gap, PLAN_AGAIN))
    for path in sorted(now.keys() - planned.keys()):
        problem = "is new: the output has none of its rows"
        advice = "Run annotate again with --allow new-files"
        findings.append(Finding(selection.root.join(path), problem, advice))
    if options["limit"] and same == planned.keys():
        wanted = min(options["limit"], sum(now[path].rows for path in same))
        if plan.rows != wanted:
            problem = f"has {plan.rows:,} rows in its shards, where --limit gives {wanted:,}"
            findings.append(Finding(PLAN, problem, PLAN_AGAIN))
    return Origin(selection.root, frozenset(same), frozenset(touched)), findings


def uncovered(path: str, shards: Iterable[Shard], rows: int | None) -> str | None:
    """Check that shards have every row of an input file once.

    path (str): The input file.
    shards (Iterable[Shard]): Its shards.
    rows (int | None): Its rows; None if some at its end may be left out.
    RETURNS (str | None): What is wrong.
    """
    end = 0
    for shard in sorted(shards, key=lambda shard: (shard.start, shard.rows)):
        if shard.start > end:
            return f"has no shard for the rows {end} to {shard.start - 1} of {path}"
        if shard.start < end:
            return f"has the rows {shard.start} to {end - 1} of {path} in two shards"
        end += shard.rows
    if rows is not None and end < rows:
        return f"has no shard for the rows {end} to {rows - 1} of {path}"
    if rows is not None and end > rows:
        return f"has shards for {end} rows of {path}, which has {rows}"
    return None


def everywhere(plan: Plan, shard: str) -> str:
    """All files of a shard, for a person."""
    return f"{shard} in all folders" if plan.partition_by else shard


def stray(folder: Folder, plan: Plan, path: str) -> Finding:
    """Say what a file is that does not belong to the output.

    folder (Folder): The output folder.
    plan (Plan): Its plan.
    path (str): The path of the file.
    RETURNS (Finding): What it is.
    """
    if not path.endswith(".parquet"):
        return Finding(path, "was not written by the job", AWAY)
    receipt = read_receipt(folder, path)
    if receipt is None:
        problem = "was not written by the job"
    elif receipt.job != plan.job:
        problem = f"belongs to another job, {receipt.job}; this one is {plan.job}"
    elif any(shard.name == receipt.shard for shard in plan.shards):
        problem = f"has the rows of {receipt.shard}, but is not where they belong"
    else:
        problem = "is of a shard that the job no longer has"
    return Finding(path, problem, AWAY_FROM_READERS)


def unfinished(plan: Plan, missing: Sequence[str], claimed: bool) -> Finding:
    """Say how far a job is.

    plan (Plan): The plan.
    missing (Sequence[str]): The shards that are not there.
    claimed (bool): Whether a run says that it is at work.
    RETURNS (Finding): That the job is not finished.
    """
    problem = "the job is not finished: "
    if missing:
        problem += (
            f"{len(missing):,} of {len(plan.shards):,} shards are missing, the first of them "
            f"{missing[0]}"
        )
    else:
        problem += "all shards are there, but it ended before it said so"
    advice = f"If no run is at work, {REDO}" if claimed else REDO.capitalize()
    return Finding(SUCCESS, problem, advice)


@dataclass(frozen=True)
class Checker:
    """Checks shards, several at a time.

    folder (Folder): The output folder.
    plan (Plan): Its plan.
    files (dict[str, int]): The sizes of all files.
    parts (dict[str, list[str]]): The files of each shard.
    origin (Origin | None): The input.
    """

    folder: Folder
    plan: Plan
    files: dict[str, int]
    parts: dict[str, list[str]]
    origin: Origin | None
    # a partitioned shard has many files, all open while its errors are put in order
    one_shard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def finished(self) -> bool:
        return SUCCESS in self.files

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the files, as they are read back."""
        names = [name for name in self.plan.schema.names if name not in self.plan.partition_by]
        memory = pa.BufferOutputStream()
        pq.write_table(pa.schema([self.plan.schema.field(n) for n in names]).empty_table(), memory)
        return pq.read_schema(pa.BufferReader(memory.getvalue()))

    @cached_property
    def copied(self) -> list[str]:
        """The columns of the files that are from the input."""
        return [name for name in self.plan.kept.names if name not in self.plan.partition_by]

    def is_comparable(self, shard: Shard) -> bool:
        """Whether its rows can be compared with those of the input."""
        there = self.origin is not None and shard.source in self.origin.files
        return there and len(self.plan.kept) > 0

    def check(self, shard: Shard) -> tuple[Receipt | None, list[Finding]]:
        """Check all files of a shard.

        shard (Shard): The shard.
        RETURNS (tuple[Receipt | None, list[Finding]]): What is in it, if nothing is wrong; and what
            is wrong.
        """
        paths = self.parts[shard.name]
        findings: list[Finding] = []
        found: dict[str, Receipt] = {}
        for path in paths:
            receipt, problems = examine(
                self.folder, path, self.files[path], shard, self.plan, self.schema
            )
            findings += [Finding(path, problem, ANEW) for problem in problems]
            if receipt:
                found[path] = receipt
        if not findings:
            files = max((part.files for part in found.values()), default=self.least_files(shard))
            if len(paths) < files and not self.finished:
                return None, []
            findings += self.whole(shard, files, list(found.values()))
        if self.is_comparable(shard) and paths:
            findings += self.compare(shard, found)
        if not findings:
            findings += self.check_letters_of(shard, any(part.errors for part in found.values()))
        if findings or not found:
            return None, findings
        receipt, *others = found.values()
        for other in others:
            receipt.add(other)
        return receipt, []

    def least_files(self, shard: Shard) -> int:
        """How many files a shard has at least: without rows it is in no partition."""
        return 1 if shard.rows or not self.plan.partition_by else 0

    def whole(self, shard: Shard, files: int, parts: Sequence[Receipt]) -> list[Finding]:
        """Check that a shard has all its files and rows.

        shard (Shard): The shard.
        files (int): The files that it should have.
        parts (Sequence[Receipt]): What is in those that it has.
        RETURNS (list[Finding]): What is wrong.
        """
        rows, advice = sum(part.rows for part in parts), REDO.capitalize()
        if files and not parts:
            problem = f"is missing: {shard.rows:,} rows of {shard.source} from row {shard.start}"
            return [Finding(shard.name, problem, advice)]
        advice = f"Delete {everywhere(self.plan, shard.name)} and {REDO}"
        if any(part.files != len(parts) for part in parts):
            problem = f"has {len(parts)} files and should have {files}"
            return [Finding(shard.name, problem, advice)]
        if rows != shard.rows:
            problem = f"has {rows:,} rows; the plan has {shard.rows:,}"
            return [Finding(shard.name, problem, advice)]
        return []

    def rows_of(self, shard: Shard) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Stream the kept columns of the rows that a shard has in the input.

        shard (Shard): The shard.
        YIELDS (tuple[int, pa.RecordBatch]): The number of the first row in the input file, and
            rows.
        """
        assert self.origin
        columns = [self.plan.identity["options"]["text_column"], *self.plan.kept.names]
        for first, batch in read(self.origin.root, shard, columns):
            kept = [conform(batch, column, shard.source) for column in self.plan.kept]
            # rows cannot be taken from views, and their values are the same without
            kept = [
                column.cast(plain(column.type)) if is_text(column.type) else column
                for column in kept
            ]
            yield first, pa.RecordBatch.from_arrays(kept, names=self.plan.kept.names)

    def places(self, shard: Shard, rows: pa.RecordBatch) -> dict[str, Sequence[int]]:
        """Tell to which file of a shard each row belongs.

        shard (Shard): The shard.
        rows (pa.RecordBatch): Rows of the input.
        RETURNS (dict[str, Sequence[int]]): The places of the rows of each file, by its path.
        """
        by = self.plan.partition_by
        if not by:
            return {shard.name: range(rows.num_rows)}
        places = places_by_value(rows, by)
        return {part_path(by, values, shard.name): places[values] for values in places}

    def compare(self, shard: Shard, found: dict[str, Receipt]) -> list[Finding]:
        """Check that the files of a shard have the rows that it has in the input, in order.

        shard (Shard): The shard.
        found (dict[str, Receipt]): What is in those of its files that can be read.
        RETURNS (list[Finding]): What is wrong.
        """
        assert self.origin

        def given() -> dict[str, tuple[int, Checksums]]:
            files: dict[str, tuple[int, Checksums]] = {}
            for _, rows in self.rows_of(shard):
                for path, places in self.places(shard, rows).items():
                    part = rows if len(places) == rows.num_rows else rows.take(pa.array(places))
                    part = part.select(self.copied)
                    number, sums = files.get(path) or (0, Checksums(part.schema))
                    sums.update(part)
                    files[path] = (number + len(places), sums)
            return files

        advice = ANEW
        if shard.source in self.origin.touched:
            advice = (
                f"Put back {shard.source} as it was, or delete this file and run annotate again "
                "with --allow touched-files"
            )
        findings = []
        try:
            files = self.origin.root.patiently(given)
            for path, (rows, sums) in sorted(files.items()):
                if path not in self.parts[shard.name]:
                    problem = f"is missing: {rows:,} rows of {shard.source} belong there"
                    findings.append(Finding(path, problem, REDO.capitalize()))
                elif path in found:
                    there = {name: found[path].checksums[name] for name in self.copied}
                    if (rows, sums.digests()) != (found[path].rows, there):
                        problem = self.first_difference(shard, path)
                        findings.append(Finding(path, problem, advice))
            for path in sorted(found.keys() - files.keys()):
                if found[path].rows:
                    problem = f"should not be there: no row of {shard.source} belongs there"
                    findings.append(Finding(path, problem, advice))
        except UNREADABLE as error:
            problem = f"cannot be read as it was when it was annotated: {first_line(error)}"
            where = self.origin.root.join(shard.source)
            findings.append(Finding(where, problem, "Put back the file as it was"))
        return findings

    def first_difference(self, shard: Shard, path: str) -> str:
        """Find the first row of a file that is not that of the input.

        shard (Shard): The shard.
        path (str): The path of the file.
        RETURNS (str): Which it is, and what differs.
        """

        def given() -> Iterator[pa.RecordBatch]:
            for first, rows in self.rows_of(shard):
                places = pa.array(self.places(shard, rows).get(path, ()), pa.int64())
                columns = [rows.column(name).take(places) for name in self.copied]
                names = [*self.copied, "its number"]
                yield pa.RecordBatch.from_arrays([*columns, pc.add(places, first)], names=names)

        done = 0
        with opened(self.folder, path) as file:
            for wanted, there in in_step(given(), batches(file, self.copied)):
                if wanted is None:
                    return f"has more rows than belong there: its rows from {done} on"
                row = wanted.columns[-1]
                if there is None:
                    return f"ends before row {row[0]} of {shard.source}, which belongs there"
                wanted = wanted.select(range(len(self.copied)))
                place = first_different(wanted, there)
                if place is not None:
                    one, other = (digests(rows.slice(place, 1)) for rows in (wanted, there))
                    columns = [name for name in self.copied if one[name] != other[name]]
                    return (
                        f"has in its row {done + place} not what row {row[place]} of "
                        f"{shard.source} has: {names_of(columns)}"
                    )
                done += wanted.num_rows
        return f"does not have the rows of {shard.source}"

    def numbered_errors(self, shard: Shard) -> Iterator[tuple[int, str]]:
        """Stream the errors of a shard in the order of the input.

        shard (Shard): The shard, of which nothing is missing.
        YIELDS (tuple[int, str]): The number of a row in the input, and its error.
        """
        errors = {path: self.errors(path) for path in self.parts[shard.name]}
        if not self.plan.partition_by:
            for number, error in enumerate(errors[shard.name], shard.start):
                if error is not None:
                    yield number, error
            return
        with self.one_shard:
            for first, rows in self.rows_of(shard):
                found: dict[int, str | None] = {}
                for path, places in self.places(shard, rows).items():
                    found.update(zip(places, errors[path]))
                for place, error in sorted(found.items()):
                    if error is not None:
                        yield first + place, error

    def errors(self, path: str) -> Iterator[str | None]:
        """Stream the errors of the rows of a file."""
        with opened(self.folder, path, SMALL_BUFFER) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=["error"], use_threads=False):
                yield from batch.column(0).to_pylist()

    def check_letters_of(self, shard: Shard, any_errors: bool) -> list[Finding]:
        """Check the file that lists the errors of a shard.

        shard (Shard): The shard, of which nothing is missing.
        any_errors (bool): Whether it has any.
        RETURNS (list[Finding]): What is wrong.
        """
        path = letters_of(shard.name)
        advice = f"Delete {everywhere(self.plan, shard.name)} and {REDO}"
        if not any_errors:
            if path not in self.files or not self.finished:
                return []
            return [Finding(path, f"lists errors of {shard.name}, which has none", AWAY)]
        if path not in self.files:
            return [Finding(path, f"is missing: it lists the errors of {shard.name}", advice)]
        problem = self.compare_letters(shard, letters_in(self.folder, path))
        return [Finding(path, problem, advice)] if problem else []

    def compare_letters(self, shard: Shard, letters: Iterable["Letter"]) -> str | None:
        """Check that lines list the errors of a shard.

        shard (Shard): The shard, of which nothing is missing.
        letters (Iterable[Letter]): What the lines say.
        RETURNS (str | None): What is wrong.
        """
        try:
            if not self.plan.partition_by or self.is_comparable(shard):
                return wrong_letters(shard, letters, self.numbered_errors(shard))
            files = (self.errors(path) for path in self.parts[shard.name])
            errors = (error for errors in files for error in errors if error is not None)
            return wrong_sum(shard, letters, errors)
        except UNREADABLE as error:
            return f"cannot be compared with {shard.name}: {first_line(error)}"

    def check_letters(self, receipts: dict[str, Receipt]) -> list[Finding]:
        """Check the file that lists the errors of all shards.

        receipts (dict[str, Receipt]): What is in the shards with which nothing is wrong.
        RETURNS (list[Finding]): What is wrong.
        """
        wanted = [name for name, receipt in receipts.items() if receipt.errors]
        if ERRORS not in self.files:
            if not wanted:
                return []
            number = sum(sum(receipts[name].errors.values()) for name in wanted)
            problem = f"is missing: it lists the {number:,} rows with errors"
            return [Finding(ERRORS, problem, WRITE_AGAIN)]
        shards = {shard.name: shard for shard in self.plan.shards}
        problems, seen = [], []
        letters = groupby(letters_in(self.folder, ERRORS), key=lambda letter: letter.output)
        try:
            for name, of_shard in letters:
                if name not in shards:
                    problems.append(f"has a line about {name}, which is no shard")
                elif name in seen:
                    problems.append(f"lists the errors of {name} in two places")
                elif name in wanted:
                    if wrong := self.compare_letters(shards[name], of_shard):
                        problems.append(wrong)
                elif name in receipts:
                    problems.append(f"lists errors of {name}, which has none")
                seen.append(name)
        except UNREADABLE as error:
            return [Finding(ERRORS, f"cannot be read: {first_line(error)}", WRITE_AGAIN)]
        problems += [f"does not list the errors of {name}" for name in wanted if name not in seen]
        if not problems and [name for name in seen if name in wanted] != wanted:
            problems.append("does not list the shards in their order")
        return [Finding(ERRORS, problem, WRITE_AGAIN) for problem in dict.fromkeys(problems)]


class Letter(NamedTuple):
    """A line about a row with an error."""

    file: str
    row: int
    error: str
    output: str


def letters_in(folder: Folder, path: str) -> Iterator[Letter]:
    """Stream a file that lists errors.

    folder (Folder): The output folder.
    path (str): The path of the file.
    YIELDS (Letter): What each line says.
    RAISES (ValueError): If one says something else.
    """
    with folder.open(path) as file:
        for number, line in enumerate(io.BufferedReader(file), 1):  # type: ignore[type-var]
            try:
                values = json.loads(line)
                letter = Letter(*(values[name] for name in Letter._fields))
            except (ValueError, KeyError, TypeError):
                letter = None
            if letter is None or not isinstance(letter.row, int):
                raise ValueError(f"line {number} is not about a row")
            yield letter


def wrong_letters(
    shard: Shard, letters: Iterable[Letter], errors: Iterable[tuple[int, str]]
) -> str | None:
    """Check that lines are about exactly the rows of a shard that have errors, in order.

    shard (Shard): The shard.
    letters (Iterable[Letter]): What the lines say.
    errors (Iterable[tuple[int, str]]): The numbers of the rows, and their errors.
    RETURNS (str | None): What is wrong.
    """
    where = f"of {shard.source} (in {shard.name})"
    for said, known in zip_longest(letters, errors):
        if known is not None and (said is None or said.row > known[0]):
            return f"does not list row {known[0]} {where}, which has an error"
        if known is None or said.row < known[0]:
            return f"lists row {said.row} {where}, which has no error"
        if said != Letter(shard.source, known[0], known[1], shard.name):
            return f"says something else about row {said.row} {where} than the file"
    return None


def wrong_sum(shard: Shard, letters: Iterable[Letter], errors: Iterable[str]) -> str | None:
    """Check that lines are about as many rows of a shard, with the same errors, if it is not known
    which rows have them.

    shard (Shard): The shard.
    letters (Iterable[Letter]): What the lines say.
    errors (Iterable[str]): The errors, in any order.
    RETURNS (str | None): What is wrong.
    """
    where = f"of {shard.source} (in {shard.name})"
    last, end = shard.start - 1, shard.start + shard.rows
    number = balance = 0
    for said in letters:
        if (said.file, said.output) != (shard.source, shard.name) or not last < said.row < end:
            return f"has a line about row {said.row} of {said.file} among those about rows {where}"
        last = said.row
        number, balance = number + 1, balance + hash(said.error)
    listed = number
    for error in errors:
        number, balance = number - 1, balance - hash(error)
    if number:
        return f"lists {listed} rows with errors {where}, and there are {listed - number}"
    return f"lists other errors than there are in rows {where}" if balance else None


def check_manifest(folder: Folder, plan: Plan, receipts: dict[str, Receipt]) -> list[Finding]:
    """Check that the manifest says what is there.

    folder (Folder): The output folder.
    plan (Plan): Its plan.
    receipts (dict[str, Receipt]): What is in the shards with which nothing is wrong.
    RETURNS (list[Finding]): What is wrong.
    """
    said = read_json(folder, MANIFEST)
    if isinstance(said, Finding):
        return [said]
    good = [shard for shard in plan.shards if shard.name in receipts]
    in_order = [receipts[shard.name] for shard in good]
    true = json.loads(manifest(replace(plan, shards=good), in_order))
    true["rows"] = plan.rows
    findings = [
        Finding(MANIFEST, f"has another {key!r} than the plan", WRITE_AGAIN)
        for key in true
        if key != "files" and said.get(key) != true[key]
    ]
    try:
        entries = {entry["file"]: entry for entry in said["files"]}
        if list(entries) != [shard.name for shard in plan.shards] or len(said["files"]) > len(
            entries
        ):
            problem = "does not list the shards of the plan, in their order"
            findings.append(Finding(MANIFEST, problem, WRITE_AGAIN))
    except (KeyError, TypeError):
        return [Finding(MANIFEST, "has no list of files", WRITE_AGAIN)]
    for entry in true["files"]:
        name = entry["file"]
        told = entries.get(name, entry)
        if different := [key for key in entry if told.get(key) != entry[key]]:
            # one of them has been changed; to make the shard anew is right in both cases
            problem = f"says something else about {name} than the file: {', '.join(different)}"
            advice = f"Delete {everywhere(plan, name)} and {REDO}"
            findings.append(Finding(MANIFEST, problem, advice))
    return findings


def check_summary(folder: Folder, plan: Plan, receipts: dict[str, Receipt]) -> list[Finding]:
    """Check that the summary says what is there.

    folder (Folder): The output folder.
    plan (Plan): Its plan.
    receipts (dict[str, Receipt]): What is in the shards with which nothing is wrong.
    RETURNS (list[Finding]): What is wrong.
    """
    said = read_json(folder, SUMMARY)
    if isinstance(said, Finding):
        return [said]
    if any(shard.name not in receipts and shard.rows for shard in plan.shards):
        return []  # then the sums are unknown
    shards = [shard for shard in plan.shards if shard.name in receipts]
    in_order = [receipts[shard.name] for shard in shards]
    true = vars(Summary.of("", replace(plan, shards=shards), in_order, [], 0, 0))
    told = {key: said.get(key) for key in ("rows", "words", "ents", "cats", "errors")}
    different = [key for key in told if told[key] != true[key]]
    problem = f"does not have the sums of the shards: {', '.join(different)}"
    return [Finding(SUMMARY, problem, WRITE_AGAIN)] if different else []


def read_json(folder: Folder, name: str) -> dict[str, Any] | Finding:
    """Read a file of the output folder.

    folder (Folder): The output folder.
    name (str): The name of the file.
    RETURNS (dict[str, Any] | Finding): What it says, or why that cannot be read.
    """
    try:
        content = json.loads(folder.read(name))
        return content if isinstance(content, dict) else Finding(name, "is no record", WRITE_AGAIN)
    except FileNotFoundError:
        return Finding(name, f"is missing, although there is {SUCCESS}", WRITE_AGAIN)
    except (OSError, ValueError) as error:
        return Finding(name, f"cannot be read: {first_line(error)}", WRITE_AGAIN)
