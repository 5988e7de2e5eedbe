"""A worker: one pipeline that turns shards into files. Nothing here knows of Ray."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import spacy
from spacy.language import Language
from spacy.tokens import Doc

from .inputs import first_line
from .outputs import Outputs
from .plan import Shard
from .storage import TEMPORARY, Folder

#: A batch of rows in memory, and a row group of the output, are bounded by both.
BATCH_ROWS, BATCH_BYTES = 256, 16 << 20
ROW_GROUP_BYTES = 32 << 20
#: How often a shard may take its worker down with it.
ATTEMPTS = 3
ERROR_CHARACTERS = 500
RECEIPT = b"spacy-albert annotate"


@dataclass
class Receipt:
    """What is in a committed file. The file carries it in its footer.

    shard (str): The name of the file.
    fingerprint (str): The fingerprint of the plan.
    rows (int): Its rows.
    words (int): Its tokens, as spaCy counts words.
    ents (dict[str, int]): Entities by label.
    cats (dict[str, int]): Documents by class: the best one if classes exclude each other, else
        those with a score of at least 0.5.
    errors (dict[str, int]): Rows with an error, by kind of error.
    examples (dict[str, int]): The number, in the input file, of the first row of each kind.
    """

    shard: str
    fingerprint: str
    rows: int = 0
    words: int = 0
    ents: dict[str, int] = field(default_factory=Counter)
    cats: dict[str, int] = field(default_factory=Counter)
    errors: dict[str, int] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)

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
            classes = [label for label, score in scores if score is not None and score >= 0.5]
        for label in classes:
            self.cats[label] += 1

    def to_json(self) -> str:
        return json.dumps(vars(self), sort_keys=True)


def committed(output: Folder, shard: Shard, fingerprint: str) -> Receipt | None:
    """Look whether a shard is in place, whole, and of this plan.

    output (Folder): The output folder.
    shard (Shard): The shard.
    fingerprint (str): The fingerprint of the plan.
    RETURNS (Receipt | None): Its receipt, or None if the shard is still to be done.
    """
    try:
        with pq.ParquetFile(output.open(shard.name)) as file:
            rows, notes = file.metadata.num_rows, file.metadata.metadata or {}
        receipt = Receipt(**json.loads(notes[RECEIPT]))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return None
    expected = (shard.name, fingerprint, shard.rows, shard.rows)
    found = (receipt.shard, receipt.fingerprint, receipt.rows, rows)
    return receipt if found == expected else None


@dataclass(frozen=True)
class Job:
    """What a worker must know.

    pipeline (str): What to load: a folder or the name of a package.
    code (str | None): A Python file to import first.
    text_column (str): The input column that holds the texts.
    max_chars (int): The characters that a text may have.
    kept (pa.Schema): The input columns to write.
    outputs (Outputs): The annotations to write.
    fingerprint (str): The fingerprint of the plan.
    source (Folder): The root of the input.
    output (Folder): The output folder.
    """

    pipeline: str
    code: str | None
    text_column: str
    max_chars: int
    kept: pa.Schema
    outputs: Outputs
    fingerprint: str
    source: Folder
    output: Folder


class Annotator:
    """Annotate shards with one pipeline.

    job (Job): The job.
    report (Callable[[str, int, int, int], Any]): Told, after each batch, the name of the shard and
        its rows, words and errors so far.
    """

    def __init__(
        self, job: Job, report: Callable[[str, int, int, int], Any] = lambda *counts: None
    ) -> None:
        self.job, self.report = job, report
        self.source, self.output = job.source, job.output
        self.kept, self.outputs = job.kept, job.outputs
        self.schema = pa.schema([*job.kept, *job.outputs.fields()])
        self.nlp = load_pipeline(job.pipeline, job.code)
        # rows have a limit of their own, which is an error of the row and not of the batch
        self.nlp.max_length = 2**31
        self.warm = False

    def annotate(self, shard: Shard) -> Receipt:
        """Annotate a shard and put its file in place, unless that has been done.

        shard (Shard): The shard.
        RETURNS (Receipt): What the file holds.
        RAISES (OSError): If the rows cannot be read or the file cannot be written.
        RAISES (RuntimeError): If the shard has killed every worker that tried it.
        """
        if done := committed(self.output, shard, self.job.fingerprint):
            return done
        temporary = self.attempt(shard)
        receipt = Receipt(shard.name, self.job.fingerprint)
        try:
            with (
                self.output.filesystem.open_output_stream(self.output.join(temporary)) as stream,
                pq.ParquetWriter(stream, self.schema, write_page_checksum=True) as writer,
            ):
                for group in gather(self.batches(shard, receipt), ROW_GROUP_BYTES):
                    writer.write_table(group)
                writer.add_key_value_metadata({RECEIPT: receipt.to_json()})
        except Exception:
            # only an attempt that dies leaves its file behind
            self.output.delete([temporary])
            raise
        self.output.commit(temporary, shard.name)
        return receipt

    def attempt(self, shard: Shard) -> str:
        """Choose the temporary file of this attempt. One that is there already is that of an
        attempt whose worker died, for the next worker to see.

        shard (Shard): The shard.
        RETURNS (str): The name of the file.
        RAISES (RuntimeError): If the shard has killed every worker that tried it.
        """
        self.output.create(TEMPORARY)
        for number in range(ATTEMPTS):
            name = f"{TEMPORARY}/{shard.name}.{number}"
            if not self.output.holds(name):
                return name
        raise RuntimeError(
            f"its worker died {ATTEMPTS} times: out of memory, or a crash in native code"
        )

    def batches(self, shard: Shard, receipt: Receipt) -> Iterator[pa.RecordBatch]:
        """Read a shard and annotate it, a batch at a time.

        shard (Shard): The shard.
        receipt (Receipt): Counts what goes by.
        YIELDS (pa.RecordBatch): Output rows.
        """
        for batch in read(self.source, shard, [self.job.text_column, *self.kept.names]):
            rows = self.annotate_rows(batch.column(self.job.text_column))
            for row in rows:
                receipt.count(row, shard.start + receipt.rows, bool(self.outputs.exclusive))
            columns = [conform(batch, column) for column in self.kept]
            columns += [
                pa.array([row.get(column.name) for row in rows], column.type)
                for column in self.outputs.fields()
            ]
            self.report(shard.name, receipt.rows, receipt.words, sum(receipt.errors.values()))
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def annotate_rows(self, column: pa.Array) -> list[dict[str, Any]]:
        """Annotate the texts of a column: a row for each, in order.

        column (pa.Array): The texts.
        RETURNS (list[dict[str, Any]]): The rows, either with annotations or with an error.
        """
        rows: dict[int, dict[str, Any]] = {}
        texts: dict[int, str] = {}
        for number, value in enumerate(as_bytes(column)):
            text, error = decode(value, self.job.max_chars)
            if text is None:
                rows[number] = {"error": error}
            else:
                texts[number] = text
        # what spaCy caches it does not cache inside a zone, so the first batch goes without one
        zone = self.nlp.memory_zone() if self.warm else contextlib.nullcontext()
        with zone:
            self.pipe(texts, rows)
            for number in sorted(texts.keys() - rows.keys()):
                rows[number] = self.single(texts[number])
        self.warm = True
        return [rows[number] for number in range(len(column))]

    def pipe(self, texts: dict[int, str], rows: dict[int, dict[str, Any]]) -> None:
        """Annotate texts together. Those that fail, and those that go down with them, are missing
        afterwards: many components drop a whole batch for one document.

        texts (dict[int, str]): The texts by number.
        rows (dict[int, dict[str, Any]]): Receives the rows by number.
        """
        suspects: set[int] = set()

        def suspect(name: str, component: Any, docs: Sequence[Doc], error: Exception) -> None:
            # some components pass on what they failed on
            suspects.update(doc._context for doc in docs if doc is not None)

        self.nlp.set_error_handler(suspect)  # type: ignore[arg-type]
        numbered = ((text, number) for number, text in texts.items())
        try:
            for doc, number in self.nlp.pipe(numbered, as_tuples=True):
                # a component that returns a new Doc loses the number
                if number in texts and number not in suspects:
                    rows[number] = self.outputs.row(doc, texts[number])
        except Exception:
            # out of the handler's reach, as in a tokenizer: single() finds out which text it is
            return

    def single(self, text: str) -> dict[str, Any]:
        """Annotate one text by itself.

        text (str): The text.
        RETURNS (dict[str, Any]): Its row, with annotations or with the error that it raised.
        """
        failed = ["the pipeline"]

        def stop(name: str, component: Any, docs: Sequence[Doc], error: Exception) -> None:
            failed[0] = f"'{name}'"
            raise error

        self.nlp.set_error_handler(stop)  # type: ignore[arg-type]
        try:
            return self.outputs.row(self.nlp(text), text)
        except Exception as error:
            message = f"{type(error).__name__} in {failed[0]}: {error}"
            return {"error": message[:ERROR_CHARACTERS]}


def load_pipeline(pipeline: str, code: str | None) -> Language:
    """Load a pipeline.

    pipeline (str): Its folder, or the name of its package.
    code (str | None): A Python file that registers components of the user's own.
    RETURNS (Language): The pipeline.
    """
    if code:
        import_code(code)
    return spacy.load(pipeline)


@cache  # spaCy takes a class that is registered anew for another one
def import_code(path: str) -> None:
    spacy.util.import_file("python_code", path)


def decode(value: bytes | None, max_chars: int) -> tuple[str | None, str | None]:
    """Make a text of what is in the text column, or say why there is none.

    value (bytes | None): The value.
    max_chars (int): The characters that a text may have.
    RETURNS (tuple[str | None, str | None]): The text or the error.
    """
    if value is None:
        return None, "no text: the value is null"
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        return None, f"not UTF-8: {error.reason} at byte {error.start}"
    if len(text) > max_chars:
        return None, f"too long: {len(text):,} characters, and --max-chars is {max_chars:,}"
    return text, None


def as_bytes(column: pa.Array) -> list[bytes | None]:
    """The values of a text column, undecoded: one that is not UTF-8 must not spoil the others."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_binary()).to_pylist()


def conform(batch: pa.RecordBatch, column: pa.Field) -> pa.Array:
    """Take a column from a batch in the type that all files share.

    batch (pa.RecordBatch): Rows of one file.
    column (pa.Field): The column.
    RETURNS (pa.Array): Its values; nulls if the file has no such column.
    """
    if column.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, column.type)
    values = batch.column(column.name)
    if values.type == column.type:
        return values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(column.type)


def read(source: Folder, shard: Shard, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a shard.

    source (Folder): The root of the input.
    shard (Shard): The shard.
    columns (Sequence[str]): The columns wanted; those that the file lacks are left out.
    YIELDS (pa.RecordBatch): Its rows, in batches of bounded size.
    RAISES (OSError): If the file is not as planned, or its rows cannot be read.
    """
    left = shard.rows
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
        details = [footer.row_group(group) for group in groups]
        total = sum(group.num_rows for group in details)
        if total < shard.rows:
            raise OSError(f"{shard.source} has changed since the job was planned")
        average = sum(group.total_byte_size for group in details) // max(total, 1) + 1
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // average))
        wanted = [name for name in dict.fromkeys(columns) if name in file.schema_arrow.names]
        try:
            for batch in file.iter_batches(size, row_groups=list(groups), columns=wanted):
                batch = batch.slice(0, left)
                left -= batch.num_rows
                if batch.num_rows:
                    yield batch
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


def gather(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Join batches into tables of at least a size, but for the last one.

    batches (Iterator[pa.RecordBatch]): The batches.
    size (int): The size in bytes.
    YIELDS (pa.Table): The tables.
    """
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(batch.nbytes for batch in held) >= size:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)
