"""What is in a file of the output: read whole, counted again and compared with what it says."""

import json
from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .checksums import Checksums
from .inputs import first_line, is_text
from .plan import Plan, Shard
from .storage import Folder
from .worker import BATCH_BYTES, BATCH_ROWS, RECEIPT, Receipt, readable

MAGIC = b"PAR1"
BUFFER = 1 << 20
#: What reading a damaged file raises.
UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)
#: Columns of annotations that may be null although a row has no error.
OPTIONAL = ("cat", "n_windows")
#: Those that are counted.
COUNTED = ("ents", "cats", "cat", "n_tokens")


def examine(
    folder: Folder, path: str, size: int, shard: Shard, plan: Plan, schema: pa.Schema
) -> tuple[Receipt | None, list[str]]:
    """Read a file and check it against what it says of itself.

    folder (Folder): The output folder.
    path (str): The path of the file.
    size (int): Its size in bytes.
    shard (Shard): The shard whose name it has.
    plan (Plan): The plan.
    schema (pa.Schema): The columns it should have.
    RETURNS (tuple[Receipt | None, list[str]]): What is in it, if that can be read and is of the
        shard; and what is wrong.
    """

    def read_all() -> tuple[Receipt | None, list[str]]:
        with opened(folder, path) as file:
            said = receipt_in(file)
            if isinstance(said, str):
                return None, [said]
            problem = stranger(said, shard, plan) or other_columns(file.schema_arrow, schema)
            if problem:
                return None, [problem]
            found, problems = recount(file, said, plan)
            return found, [*unlike(said, found), *problems]

    try:
        return folder.patiently(read_all)
    except UNREADABLE as error:
        return None, [damage(folder, path, size, error)]


def damage(folder: Folder, path: str, size: int, error: BaseException) -> str:
    """Say what is wrong with a file that cannot be read.

    folder (Folder): The output folder.
    path (str): The path of the file.
    size (int): Its size in bytes.
    error (BaseException): What reading it raised.
    RETURNS (str): What is wrong.
    """
    if size == 0:
        return "is empty (0 bytes)"
    bad: list[str] = []
    try:
        with folder.open(path) as raw:
            begins = raw.read(len(MAGIC)) == MAGIC
            raw.seek(max(size - len(MAGIC), 0))
            ends = raw.read() == MAGIC
        if not begins:
            return "is no Parquet file"
        if not ends:
            return "is truncated: its end is missing"
        with opened(folder, path) as file:
            names, groups = file.schema_arrow.names, range(file.metadata.num_row_groups)
            bad = [str(group) for group in groups if not readable(file, group, names)]
    except UNREADABLE:
        pass
    where = f"row group {', '.join(bad)}" if bad else "it"
    return f"is damaged: {where} cannot be read ({first_line(error)})"


def opened(folder: Folder, path: str, buffer: int = BUFFER) -> pq.ParquetFile:
    """Open a file to be read page by page, with the checksums of its pages.

    folder (Folder): The folder.
    path (str): The path of the file.
    buffer (int): The bytes that are read ahead of each column.
    RETURNS (pq.ParquetFile): The file.
    """
    return pq.ParquetFile(
        folder.open(path), buffer_size=buffer, pre_buffer=False, page_checksum_verification=True
    )


def batches(file: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Stream a file in batches of bounded size.

    file (pq.ParquetFile): The file.
    columns (list[str] | None): The columns wanted; None for all.
    RETURNS (Iterator[pa.RecordBatch]): Its rows.
    """
    footer = file.metadata
    weight = sum(footer.row_group(n).total_byte_size for n in range(footer.num_row_groups))
    size = max(1, min(BATCH_ROWS, BATCH_BYTES // (weight // max(footer.num_rows, 1) + 1)))
    return file.iter_batches(size, columns=columns, use_threads=False)


def receipt_in(file: pq.ParquetFile) -> Receipt | str:
    """Read what a file says is in it.

    file (pq.ParquetFile): The file.
    RETURNS (Receipt | str): Its receipt, or why there is none.
    """
    notes = file.metadata.metadata or {}
    if RECEIPT not in notes:
        return "was not written by the job: it carries no receipt"
    try:
        receipt = Receipt(**json.loads(notes[RECEIPT]))
        for name, example in vars(Receipt("", "", "", "", 0)).items():
            if not isinstance(getattr(receipt, name), dict if example == {} else type(example)):
                raise ValueError(f"{name} is {getattr(receipt, name)!r}")
    except (ValueError, TypeError) as error:
        return f"carries a receipt that cannot be read: {first_line(error)}"
    return receipt


def stranger(receipt: Receipt, shard: Shard, plan: Plan) -> str | None:
    """Say why a file is not of a shard.

    receipt (Receipt): What it says of itself.
    shard (Shard): The shard whose name it has.
    plan (Plan): The plan.
    RETURNS (str | None): Why, or None if it is of the shard.
    """
    if receipt.job != plan.job:
        return f"belongs to another job, {receipt.job}; this one is {plan.job}"
    if receipt.shard != shard.name:
        return f"has the rows of {receipt.shard} under this name"
    if receipt.fingerprint not in plan.fingerprints:
        return (
            f"was written by a run with the fingerprint {receipt.fingerprint}, and those of the "
            f"job are {', '.join(plan.fingerprints)}"
        )
    if (receipt.source, receipt.start) != (shard.source, shard.start):
        return (
            f"says that it begins with row {receipt.start} of {receipt.source}; the plan says row "
            f"{shard.start} of {shard.source}"
        )
    return None


def other_columns(schema: pa.Schema, wanted: pa.Schema) -> str | None:
    """Say in what the columns of a file differ from those that it should have.

    schema (pa.Schema): The columns that it has.
    wanted (pa.Schema): Those that it should have.
    RETURNS (str | None): The differences, or None if there are none.
    """
    here, there = (dict(zip(columns.names, columns.types)) for columns in (schema, wanted))
    found = [f"{name!r} is missing" for name in there if name not in here]
    found += [f"{name!r} does not belong there" for name in here if name not in there]
    found += [
        f"{name!r} is {here[name]} and not {there[name]}"
        for name in there
        if name in here and here[name] != there[name]
    ]
    if not found and schema.names != wanted.names:
        found = [f"their order is {', '.join(schema.names)}, not {', '.join(wanted.names)}"]
    return f"has other columns than the plan: {'; '.join(found)}" if found else None


def recount(file: pq.ParquetFile, said: Receipt, plan: Plan) -> tuple[Receipt, list[str]]:
    """Count what is in a file, and check what is true of all rows that the job writes.

    file (pq.ParquetFile): The file.
    said (Receipt): What it says of itself.
    plan (Plan): The plan.
    RETURNS (tuple[Receipt, list[str]]): What it should say, and what is wrong with its rows.
    """
    found = Receipt(said.shard, said.job, said.fingerprint, said.source, said.start, said.files)
    sums = Checksums(file.schema_arrow)
    problems: dict[str, str] = {}
    for batch in batches(file):
        sums.update(batch)
        for rule, place in broken_rules(batch, plan).items():
            row = found.rows + place
            where = "" if plan.partition_by else f" (row {said.start + row} of {said.source})"
            problems.setdefault(rule, f"{rule}: its row {row}{where}")
        count(found, batch, bool(plan.outputs.exclusive))
    found.checksums = sums.digests()
    if plan.partition_by:  # the file does not know which rows of the input it has
        found.examples = said.examples
    return found, list(problems.values())


def count(receipt: Receipt, rows: pa.RecordBatch, exclusive: bool) -> None:
    """Count rows, as `Receipt.count` does.

    receipt (Receipt): The counts.
    rows (pa.RecordBatch): The rows that come next.
    exclusive (bool): Whether there is one class for each document.
    """
    first = receipt.start + receipt.rows
    receipt.rows += rows.num_rows
    errors = rows.column("error")
    rows = rows.select([name for name in COUNTED if name in rows.schema.names])
    if errors.null_count < len(errors):
        for place in np.flatnonzero(errors.is_valid().to_numpy(zero_copy_only=False)).tolist():
            kind = errors[place].as_py().partition(":")[0]
            receipt.errors[kind] += 1
            receipt.examples.setdefault(kind, first + place)
        rows = rows.filter(errors.is_null())
    receipt.words += pc.sum(rows.column("n_tokens")).as_py() or 0
    if "ents" in rows.schema.names:
        tally(receipt.ents, rows.column("ents").flatten().field("label"))
    if exclusive:
        tally(receipt.cats, rows.column("cat").drop_null())
    elif "cats" in rows.schema.names:
        for label, scores in zip(rows.schema.field("cats").type, rows.column("cats").flatten()):
            likely = pc.sum(pc.greater_equal(scores, 0.5)).as_py()
            if likely:
                receipt.cats[label.name] += likely


def tally(counts: dict[str, int], values: pa.Array) -> None:
    for pair in values.value_counts().to_pylist():
        counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]


def broken_rules(rows: pa.RecordBatch, plan: Plan) -> dict[str, int]:
    """Check what is true of every row: either it has annotations or an error, and its entities are
    where they say.

    rows (pa.RecordBatch): Rows of the output.
    plan (Plan): The plan.
    RETURNS (dict[str, int]): For each rule that is broken, the place of the first such row.
    """
    failed = rows.column("error").is_valid()
    names = [column.name for column in plan.outputs.fields() if column.name != "error"]
    there = {name: rows.column(name).is_valid() for name in names}
    needed = [valid for name, valid in there.items() if name not in OPTIONAL]
    both = pc.and_(failed, reduce(pc.or_, there.values()))
    neither = pc.invert(pc.or_(failed, reduce(pc.and_, needed)))
    broken = {
        "has a row with both annotations and an error": first_true(both),
        "has a row with neither all annotations nor an error": first_true(neither),
    }
    text_column = plan.identity["options"]["text_column"]
    if plan.outputs.ents and text_column in rows.schema.names:
        texts, ents = rows.column(text_column), rows.column("ents")
        if is_text(texts.type):
            broken["has an entity whose offsets do not give its text"] = misplaced(texts, ents)
    return {rule: place for rule, place in broken.items() if place >= 0}


def first_true(values: pa.BooleanArray) -> int:
    """The place of the first true value, or -1."""
    return pc.index(values, True).as_py()


def misplaced(texts: pa.Array, ents: pa.ListArray) -> int:
    """Find the first row with an entity whose offsets do not give its text.

    texts (pa.Array): The texts.
    ents (pa.ListArray): The entities of each.
    RETURNS (int): The place of the row, or -1 if there is none.
    """
    rows = pc.list_parent_indices(ents).to_numpy()
    entities = ents.flatten()
    if not len(entities):
        return -1
    start, end = (
        entities.field(name).fill_null(-1).to_numpy().astype(np.int64) for name in ("start", "end")
    )
    edges, data = utf8(texts)
    said_edges, said = utf8(entities.field("text"))
    # where each character begins, and the end
    begins = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))
    before = np.searchsorted(begins, edges)
    length = np.diff(before)[rows]
    right = (start >= 0) & (start < end) & (end <= length)
    which = np.flatnonzero(right)
    row, first, last = rows[which], start[which], end[which]
    here = begins[before[row] + first]
    # not where the next character begins: if the next text is not UTF-8, that is not where it does
    there = np.where(last == length[which], edges[row + 1], begins[before[row] + last])
    sizes = np.diff(said_edges)[which]
    right[which] = there - here == sizes
    whole = right[which]
    which, here, sizes = which[whole], here[whole], sizes[whole]
    # now that the lengths are the same, compare byte by byte
    steps = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    same = data[np.repeat(here, sizes) + steps] == said[np.repeat(said_edges[which], sizes) + steps]
    right[np.repeat(which, sizes)[~same]] = False
    wrong = np.flatnonzero(~right)
    return int(rows[wrong[0]]) if len(wrong) else -1


def utf8(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of texts, one after the other, and where in them each begins, and the end.

    texts (pa.Array): The texts.
    RETURNS (tuple[np.ndarray, np.ndarray]): Beginnings and bytes.
    """
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    texts = texts.cast(pa.large_binary())
    _, offsets, data = texts.buffers()
    edges = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    whole = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return edges - edges[0], whole[edges[0] : edges[-1]]


def unlike(said: Receipt, found: Receipt) -> list[str]:
    """Say in what a file is not what it says.

    said (Receipt): What it says.
    found (Receipt): What it should say.
    RETURNS (list[str]): The differences.
    """
    problems = []
    if said.rows != found.rows:
        problems.append(f"has {found.rows} rows; its receipt says {said.rows}")
    names = [n for n, digest in found.checksums.items() if said.checksums.get(n) != digest]
    if names:
        problems.append(f"does not have the values that were written: {names_of(names)}")
    lines = [] if said.words == found.words else [f"{found.words} words, not {said.words}"]
    for what in ("ents", "cats", "errors", "examples"):
        before, now = getattr(said, what), getattr(found, what)
        lines += [
            f"{what} {key!r} {now.get(key, 'none')}, not {before.get(key, 'none')}"
            for key in dict.fromkeys([*before, *now])
            if before.get(key) != now.get(key)
        ]
    if lines:
        problems.append(f"is not what its receipt says: {'; '.join(lines)}")
    return problems


def names_of(columns: Sequence[str]) -> str:
    kind = "column" if len(columns) == 1 else "columns"
    return f"{kind} {', '.join(columns)}"


def digests(rows: pa.RecordBatch) -> dict[str, str]:
    sums = Checksums(rows.schema)
    sums.update(rows)
    return sums.digests()


def first_different(one: pa.RecordBatch, other: pa.RecordBatch) -> int | None:
    """Find the first row in which two batches of one length differ.

    one (pa.RecordBatch): Rows.
    other (pa.RecordBatch): Other rows, of the same columns.
    RETURNS (int | None): Its place, or None if all values are the same.
    """
    if digests(one) == digests(other):
        return None
    start, end = 0, one.num_rows
    while end - start > 1:
        middle = (start + end) // 2
        halves = (digests(rows.slice(start, middle - start)) for rows in (one, other))
        if next(halves) == next(halves):
            start = middle
        else:
            end = middle
    return start


def in_step(
    ones: Iterator[pa.RecordBatch], others: Iterator[pa.RecordBatch]
) -> Iterator[tuple[pa.RecordBatch | None, pa.RecordBatch | None]]:
    """Pair the rows of two streams whose batches end in different places.

    ones (Iterator[pa.RecordBatch]): One stream.
    others (Iterator[pa.RecordBatch]): The other.
    YIELDS (tuple[pa.RecordBatch | None, pa.RecordBatch | None]): As many rows of one as of the
        other; at last, if one of them has come to its end before the other, None and what is next.
    """
    one, other = next(ones, None), next(others, None)
    while one is not None and other is not None:
        rows = min(one.num_rows, other.num_rows)
        if rows:
            yield one.slice(0, rows), other.slice(0, rows)
        one, other = one.slice(rows), other.slice(rows)
        while one is not None and not one.num_rows:
            one = next(ones, None)
        while other is not None and not other.num_rows:
            other = next(others, None)
    if one is not None or other is not None:
        yield one, other
