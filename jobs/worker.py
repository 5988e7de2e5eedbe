"""A worker: shards of input files to files of the output. Nothing here knows of Ray."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .annotator import Annotator, as_bytes
from .checksums import Checksums
from .inputs import HIVE_NULL, READERS, first_line, folder_values, plain
from .outputs import Outputs
from .plan import Plan, Shard, letters_of, part_path
from .storage import Folder

#: A batch of rows in memory, and a row group of the output, are bounded by both.
BATCH_ROWS, BATCH_BYTES = 1024, 8 << 20
ROW_GROUP_BYTES = 32 << 20
#: How often a worker says how far it is.
REPORT_SECONDS, REPORT_ROWS = 1.0, 32
#: Files that one shard may be divided into by the columns of a partition.
PARTS = 256
RECEIPT = b"spacy-albert annotate"


@dataclass
class Receipt:
    """What is in a file of the output, which carries it in its footer; or in all files of a shard.

    shard (str): The name of the shard.
    job (str): The fingerprint that the job began with.
    fingerprint (str): The fingerprint of the run that has written the file.
    source (str): The input file.
    start (int): The number, in the input file, of the first row of the shard.
    files (int): How many files the shard has: one for each value that a partition has in it.
    rows (int): The rows of the file.
    words (int): Its tokens, as spaCy counts words.
    ents (dict[str, int]): Entities by label.
    cats (dict[str, int]): Documents by class: the best one if classes exclude each other, else
        those with a score of at least 0.5.
    errors (dict[str, int]): Rows with an error, by kind of error.
    examples (dict[str, int]): The number, in the input file, of the first row of each kind.
    checksums (dict[str, str]): For each column of the file a checksum of its values, in order.
    """

    shard: str
    job: str
    fingerprint: str
    source: str
    start: int
    files: int = 1
    rows: int = 0
    words: int = 0
    ents: dict[str, int] = field(default_factory=Counter)
    cats: dict[str, int] = field(default_factory=Counter)
    errors: dict[str, int] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)

    def count(self, row: dict[str, Any], number: int, exclusive: bool) -> None:
        """Count an output row.

        row (dict[str, Any]): The row.
        number (int): Its number in the input file.
        exclusive (bool): Whether there is one class for each document.
        """
        self.rows += 1
        if row["error"] is not None:
            kind = row["error"].partition(":")[0]
            self.errors[kind] += 1
            self.examples.setdefault(kind, number)
            return
        self.words += row["n_tokens"]
        for entity in row.get("ents", ()):
            self.ents[entity["label"]] += 1
        if exclusive:
            classes = [row["cat"]] if row["cat"] is not None else []
        else:
            scores = row.get("cats", {}).items()
            # as the file will have them
            classes = [c for c, score in scores if score is not None and np.float32(score) >= 0.5]
        for label in classes:
            self.cats[label] += 1

    def add(self, other: "Receipt") -> None:
        """Add what another file of the same shard has.

        other (Receipt): The receipt of that file.
        """
        self.rows += other.rows
        self.words += other.words
        for counts, more in (
            (self.ents, other.ents),
            (self.cats, other.cats),
            (self.errors, other.errors),
        ):
            for key, number in more.items():
                counts[key] = counts.get(key, 0) + number
        for kind, row in other.examples.items():
            self.examples[kind] = min(row, self.examples.get(kind, row))
        self.checksums = {}  # each file has its own

    def to_json(self) -> str:
        return json.dumps(vars(self), sort_keys=True)


def read_receipt(output: Folder, path: str) -> Receipt | None:
    """Read what a file of the output says is in it.

    output (Folder): The output folder.
    path (str): The path of the file.
    RETURNS (Receipt | None): Its receipt, or None if the file is not whole, or none of ours.
    """
    try:
        with pq.ParquetFile(output.open(path)) as file:
            rows, notes = file.metadata.num_rows, file.metadata.metadata or {}
        receipt = Receipt(**json.loads(notes[RECEIPT]))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return None
    return receipt if receipt.rows == rows else None


def read_receipts(output: Folder, plan: Plan) -> dict[str, Receipt]:
    """Find the shards that are done: those of which all files are there and have all rows.

    output (Folder): The output folder.
    plan (Plan): The plan.
    RETURNS (dict[str, Receipt]): Receipts of whole shards, by name, in the order of the plan.
    """
    paths, _ = plan.sort(output.files())

    def whole(shard: Shard) -> Receipt | None:
        if plan.partition_by and not shard.rows:  # no rows, no values, no files
            return Receipt(shard.name, plan.job, plan.fingerprint, shard.source, shard.start, 0)
        found = [read_receipt(output, path) for path in paths[shard.name]]
        parts = [r for r in found if r and r.shard == shard.name]
        parts = [r for r in parts if r.job == plan.job and r.fingerprint in plan.fingerprints]
        if not parts or len(parts) != len(found) or {r.files for r in parts} != {len(parts)}:
            return None
        for part in parts[1:]:
            parts[0].add(part)
        return parts[0] if parts[0].rows == shard.rows else None

    with ThreadPoolExecutor(READERS) as threads:
        return {r.shard: r for r in threads.map(whole, plan.shards) if r}


@dataclass(frozen=True)
class Job:
    """What a worker must know.

    pipeline (str): What to load: a folder or the name of a package.
    code (str | None): A Python file to import first.
    text_column (str): The input column that holds the texts.
    max_chars (int): The characters that a text may have.
    kept (pa.Schema): The input columns to write.
    outputs (Outputs): The annotations to write.
    partition_by (Sequence[str]): Columns whose values are written as names of folders.
    excerpt (int): The characters of a text that are written down with its error.
    job (str): The fingerprint that the job began with.
    fingerprint (str): The fingerprint of this run.
    source (Folder): The root of the input.
    output (Folder): The output folder.
    """

    pipeline: str
    code: str | None
    text_column: str
    max_chars: int
    kept: pa.Schema
    outputs: Outputs
    partition_by: Sequence[str]
    excerpt: int
    job: str
    fingerprint: str
    source: Folder
    output: Folder


class Attempt(NamedTuple):
    """How a shard is annotated. Numbers of rows are those in the input file.

    known (tuple): Rows that are not to be tried again, each with what is known to happen.
    careful (bool): Say which rows are going to be read, and wait until that has been heard.
    singly (tuple): Ranges of rows to be read one by one.
    probe (tuple | None): Only read this range of rows, one by one, and write nothing.
    errors_only (bool): Take all rows but those with errors from the file that is there.
    """

    known: tuple[tuple[int, str], ...] = ()
    careful: bool = False
    singly: tuple[tuple[int, int], ...] = ()
    probe: tuple[int, int] | None = None
    errors_only: bool = False


FIRST = Attempt()


class Worker:
    """Annotate shards with one pipeline.

    job (Job): The job.
    report (Callable): Told, after each batch, the name of the shard and its rows, words and errors
        so far.
    mark (Callable): Told the name of the shard and the range of rows that is going to be read, in
        careful attempts; returns when it is known.
    """

    def __init__(
        self,
        job: Job,
        report: Callable[[str, int, int, int], Any] = lambda *counts: None,
        mark: Callable[[str, int, int], Any] = lambda *rows: None,
    ) -> None:
        self.job, self.report, self.mark = job, report, mark
        self.schema = pa.schema([*job.kept, *job.outputs.fields()])
        self.counts, self.said = [0, 0, 0], time.monotonic()
        vectors = job.outputs.embedding
        self.annotator = Annotator(
            job.pipeline,
            text_column=job.text_column,
            max_chars=job.max_chars,
            code=job.code,
            embedding=vectors.pooling if vectors else None,
            embedding_type=vectors.type if vectors else None,
        )

    def annotate(self, shard: Shard, attempt: Attempt = FIRST) -> None:
        """Annotate a shard and put its files in place.

        shard (Shard): The shard.
        attempt (Attempt): How.
        RAISES (OSError): If the rows cannot be read or a file cannot be written.
        """
        if attempt.probe:
            for _ in self.batches(shard, attempt):
                pass
            return
        self.counts, self.said = [0, 0, 0], time.monotonic()
        rows = words = errors = 0
        with (
            ShardWriter(self.job, self.schema, shard) as writer,
            DeadLetters(self.job, shard) as letters,
        ):
            for first, batch, texts, found in self.batches(shard, attempt):
                writer.write(first, batch, found)
                letters.write(first, texts, found)
                rows += len(found)
                words += sum(row.get("n_tokens") or 0 for row in found)
                errors += sum(row["error"] is not None for row in found)
                self.say(shard, rows, words, errors)

    def batches(
        self, shard: Shard, attempt: Attempt
    ) -> Iterator[tuple[int, pa.RecordBatch, pa.Array, list[dict[str, Any]]]]:
        """Read a shard and annotate it, a batch at a time.

        shard (Shard): The shard.
        attempt (Attempt): How.
        YIELDS (tuple): The number of the first row, output rows, their texts and annotations.
        """
        columns = [self.job.text_column, *self.job.kept.names]
        earlier = Earlier(self.job, shard) if attempt.errors_only else None
        for first, batch in read(self.job.source, shard, columns):
            last = first + batch.num_rows
            if attempt.probe and (last <= attempt.probe[0] or first >= attempt.probe[1]):
                continue
            texts = batch.column(self.job.text_column)
            kept = [conform(batch, column, shard.source) for column in self.job.kept]
            rows: list[dict[str, Any]]
            if earlier:
                rows = earlier.rows(kept, batch.num_rows)
                wrong = [n for n, row in enumerate(rows) if row["error"] is not None]
                again = self.read_texts(shard, attempt, first, taken(texts, wrong), wrong)
                for number, row in zip(wrong, again):
                    rows[number] = row
            else:
                rows = self.read_texts(shard, attempt, first, texts, range(batch.num_rows))
            made = [
                pa.array([row.get(column.name) for row in rows], column.type)
                for column in self.job.outputs.fields()
            ]
            output = pa.RecordBatch.from_arrays([*kept, *made], schema=self.schema)
            yield first, output, texts, rows

    def read_texts(
        self,
        shard: Shard,
        attempt: Attempt,
        first: int,
        texts: pa.Array,
        places: Sequence[int],
    ) -> list[dict[str, Any]]:
        """Annotate texts of a batch as carefully as the attempt says.

        shard (Shard): The shard.
        attempt (Attempt): How.
        first (int): The number of the first row of the batch.
        texts (pa.Array): The texts.
        places (Sequence[int]): Their places in the batch, ascending.
        RETURNS (list[dict[str, Any]]): Their rows.
        """
        if not places:
            return []
        start, end = first + places[0], first + places[-1] + 1
        places_of = {first + place: number for number, place in enumerate(places)}
        known = {places_of[row]: why for row, why in attempt.known if row in places_of}
        ranges = [attempt.probe] if attempt.probe else attempt.singly
        if any(a < end and start < b for a, b in ranges):
            return self.annotator.annotate(
                texts,
                known=known,
                one_by_one=lambda n: self.mark(
                    shard.name, first + places[n], first + places[n] + 1
                ),
            )
        if attempt.careful:
            self.mark(shard.name, start, end)
        return self.annotator.annotate(
            texts, known=known, tick=lambda row: self.tick(shard, row.get("n_tokens") or 0)
        )

    def tick(self, shard: Shard, words: int) -> None:
        """Count a row, and say so now and then: a batch of long texts takes its time."""
        rows, all_words, errors = self.counts
        self.counts = [rows + 1, all_words + words, errors]
        # The first of those that were read together comes alone, so one row says nothing
        if self.counts[0] % REPORT_ROWS == 0 and time.monotonic() - self.said > REPORT_SECONDS:
            self.say(shard, *self.counts)

    def say(self, shard: Shard, *counts: int) -> None:
        self.counts, self.said = list(counts), time.monotonic()
        self.report(shard.name, *self.counts)


class DeadLetters:
    """Writes the rows of a shard that could not be annotated to a file of their own, a line each,
    which is in place before the shard is.
    """

    def __init__(self, job: Job, shard: Shard) -> None:
        self.job, self.shard = job, shard
        self.path = letters_of(shard.name)
        self.stack = ExitStack()
        self.file: BinaryIO | None = None

    def __enter__(self) -> "DeadLetters":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.stack.__exit__(kind, error, traceback)

    def write(self, first: int, texts: pa.Array, rows: Sequence[dict[str, Any]]) -> None:
        """Write down those rows of a batch that have errors.

        first (int): The number of the first row.
        texts (pa.Array): The texts.
        rows (Sequence[dict]): The annotations.
        """
        for number, row in enumerate(rows):
            if row["error"] is None:
                continue
            if self.file is None:
                self.file = self.stack.enter_context(self.job.output.writing(self.path))
            letter = {
                "file": self.shard.source,
                "row": first + number,
                "error": row["error"],
                "output": self.shard.name,
            }
            if self.job.excerpt:
                (value,) = as_bytes(texts.slice(number, 1))
                text = (
                    None
                    if value is None
                    else value[: 4 * self.job.excerpt].decode(errors="replace")
                )
                letter["text"] = text and text[: self.job.excerpt]
            self.file.write(json.dumps(letter, ensure_ascii=False).encode() + b"\n")


class ShardWriter:
    """Writes the files of a shard, which appear together at the end of the block."""

    def __init__(self, job: Job, schema: pa.Schema, shard: Shard) -> None:
        self.job, self.shard = job, shard
        self.schema = pa.schema([field for field in schema if field.name not in job.partition_by])
        self.files: dict[tuple, PartWriter] = {}
        self.stack = ExitStack()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        with self.stack:
            if error is None:
                if not self.job.partition_by:
                    self.part(())  # a shard without rows has a file, too
                for part in self.files.values():
                    part.finish(len(self.files))
            else:
                for part in self.files.values():
                    part.give_up()
                self.stack.__exit__(kind, error, traceback)

    def write(self, first: int, batch: pa.RecordBatch, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows to the files they belong to.

        first (int): The number of the first row.
        batch (pa.RecordBatch): The rows.
        rows (Sequence[dict]): Their annotations.
        """
        if not self.job.partition_by:
            self.part(()).write(batch, rows, range(first, first + len(rows)))
            return
        for key, places in places_by_value(batch, self.job.partition_by).items():
            part = take(batch.select(self.schema.names), places)
            self.part(key).write(part, [rows[n] for n in places], [first + n for n in places])

    def part(self, key: tuple) -> "PartWriter":
        if key not in self.files:
            if len(self.files) == PARTS:
                raise ValueError(
                    f"--partition-by {','.join(self.job.partition_by)} would make more than "
                    f"{PARTS} files of one shard: choose a column with fewer values"
                )
            if HIVE_NULL in key:
                raise ValueError(
                    f"a column of --partition-by has the value {HIVE_NULL!r}, which stands for null"
                )
            path = part_path(self.job.partition_by, key, self.shard.name)
            stream = self.stack.enter_context(self.job.output.writing(path))
            self.files[key] = PartWriter(stream, self.schema, self.job, self.shard)
        return self.files[key]


class PartWriter:
    """Writes one file of a shard."""

    def __init__(self, stream: BinaryIO, schema: pa.Schema, job: Job, shard: Shard) -> None:
        self.schema, self.exclusive = schema, bool(job.outputs.exclusive)
        self.receipt = Receipt(
            shard.name, job.job, job.fingerprint, source=shard.source, start=shard.start
        )
        self.checksums = Checksums(schema)
        self.writer = pq.ParquetWriter(stream, schema, write_page_checksum=True)
        self.held: list[pa.RecordBatch] = []

    def write(
        self, batch: pa.RecordBatch, rows: Sequence[dict[str, Any]], numbers: Iterable[int]
    ) -> None:
        for number, row in zip(numbers, rows):
            self.receipt.count(row, number, self.exclusive)
        self.checksums.update(batch)
        self.held.append(batch)
        if sum(batch.nbytes for batch in self.held) >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        self.writer.write_table(pa.Table.from_batches(self.held, schema=self.schema))
        self.held.clear()

    def give_up(self) -> None:
        with suppress(Exception):
            self.writer.close()

    def finish(self, files: int) -> None:
        if self.held:
            self.flush()
        self.receipt.files = files
        self.receipt.checksums = self.checksums.digests()
        self.writer.add_key_value_metadata({RECEIPT: self.receipt.to_json()})
        self.writer.close()


class Earlier:
    """The rows of a shard that is there, in the order of its input, for those that stay."""

    def __init__(self, job: Job, shard: Shard) -> None:
        self.job = job
        names = [field.name for field in job.outputs.fields()]
        self.rows_of: dict[str, Iterator[dict[str, Any]]] = {}
        self.open = lambda path: read_rows(job.output, path, names)
        self.shard = shard

    def rows(self, kept: Sequence[pa.Array], number: int) -> list[dict[str, Any]]:
        """Read the next rows.

        kept (Sequence[pa.Array]): Their kept columns, which say in which files they are.
        number (int): How many.
        RETURNS (list[dict[str, Any]]): Their annotations.
        """
        columns = [kept[self.job.kept.names.index(name)] for name in self.job.partition_by]
        batch = pa.RecordBatch.from_arrays(columns, names=list(self.job.partition_by))
        places = places_by_value(batch, self.job.partition_by) if columns else {(): range(number)}
        rows: dict[int, dict[str, Any]] = {}
        for key, numbers in places.items():
            path = part_path(self.job.partition_by, key, self.shard.name)
            found = self.rows_of.setdefault(path, self.open(path))
            rows.update(zip(numbers, found))
        return [rows[n] for n in range(number)]


def read_rows(output: Folder, path: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Stream rows of an output file."""
    with pq.ParquetFile(output.open(path), page_checksum_verification=True) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()


def places_by_value(batch: pa.RecordBatch, columns: Sequence[str]) -> dict[tuple, list[int]]:
    """Group rows by the values of some columns, in the order of the rows."""
    values = zip(*(batch.column(name).to_pylist() for name in columns))
    places: dict[tuple, list[int]] = {}
    for number, key in enumerate(values):
        places.setdefault(key, []).append(number)
    return places


def take(batch: pa.RecordBatch, places: Sequence[int]) -> pa.RecordBatch:
    """Take some rows of a batch."""
    columns = [taken(column, places) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def taken(array: pa.Array, places: Sequence[int]) -> pa.Array:
    """Take some values of an array, also of views, for which Arrow cannot do it."""
    wanted, kind = pa.array(places, pa.int64()), plain(array.type)
    if pa.types.is_dictionary(array.type) or kind == array.type:
        return array.take(wanted)
    return array.cast(kind).take(wanted).cast(array.type)


def conform(batch: pa.RecordBatch, column: pa.Field, path: str) -> pa.Array:
    """Take a column from a batch in the type that all files share.

    batch (pa.RecordBatch): Rows of one file.
    column (pa.Field): The column.
    path (str): The path of the file, relative to the collection.
    RETURNS (pa.Array): Its values; if the file has no such column, what the names of its folders
        say, or else nulls.
    """
    if column.name not in batch.schema.names:
        value = folder_values(path).get(column.name)
        if value is None:
            return pa.nulls(batch.num_rows, column.type)
        return pa.repeat(pa.scalar(value).cast(column.type), batch.num_rows)
    values = batch.column(column.name)
    if values.type == column.type:
        return values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(column.type)


def read(
    source: Folder, shard: Shard, columns: Sequence[str]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Stream the rows of a shard.

    source (Folder): The root of the input.
    shard (Shard): The shard.
    columns (Sequence[str]): The columns wanted; those that the file lacks are left out.
    YIELDS (tuple[int, pa.RecordBatch]): Rows, in batches of bounded size, each with the number of
        the first one in the file.
    RAISES (OSError): If the file is not as planned, or its rows cannot be read.
    """
    done, left = 0, shard.rows
    # with a buffer and without pre-buffering, pages are read as they are needed; otherwise pyarrow
    # reads whole column chunks, and some files have but one
    with pq.ParquetFile(
        source.open(shard.source),
        buffer_size=1 << 20,
        pre_buffer=False,
        page_checksum_verification=True,
    ) as file:
        groups = range(*shard.groups)
        footer = file.metadata
        if footer.num_row_groups < shard.groups[1]:
            raise OSError(f"{shard.source} has changed since the job was planned")
        rows = [footer.row_group(group).num_rows for group in range(shard.groups[1])]
        skip = shard.start - sum(rows[: shard.groups[0]])
        rows = rows[shard.groups[0] :]
        if skip < 0 or sum(rows) < skip + shard.rows:
            raise OSError(f"{shard.source} has changed since the job was planned")
        weight = sum(footer.row_group(group).total_byte_size for group in groups)
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // (weight // max(sum(rows), 1) + 1)))
        wanted = [name for name in dict.fromkeys(columns) if name in file.schema_arrow.names]
        try:
            for batch in file.iter_batches(size, row_groups=list(groups), columns=wanted):
                before = min(skip, batch.num_rows)
                skip -= before
                batch = batch.slice(before, left)
                if batch.num_rows:
                    yield shard.start + done, batch
                done, left = done + batch.num_rows, left - batch.num_rows
                if not left:
                    return
        except (pa.ArrowException, OSError) as error:
            bad = [str(group) for group in groups if not readable(file, group, wanted)]
            where = f"row group {', '.join(bad)}" if bad else "its rows"
            raise OSError(f"{shard.source}, {where}: {first_line(error)}") from error
    if left:
        raise OSError(f"{shard.source} ended {left} rows before its footer says")


def readable(file: pq.ParquetFile, group: int, columns: list[str]) -> bool:
    try:
        for _ in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
            pass
    except (pa.ArrowException, OSError):
        return False
    return True
