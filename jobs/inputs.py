"""A collection of Parquet files: which they are, what their footers say, what columns they share.

Footers are read here and not by Ray Data, which leaves out empty files without a word and takes
the columns of the first sixteen files for those of all.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileType

from .errors import JobError
from .storage import Folder, refusal, shown

#: How Hive spells a null in the name of a folder.
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
SUFFIXES = (".parquet", ".parq", ".pq")
READERS = 16


class RowGroup(NamedTuple):
    """What a footer says of a row group."""

    rows: int
    text_bytes: int
    all_bytes: int


@dataclass(frozen=True)
class InputFile:
    """A Parquet file that can be annotated."""

    path: str
    size: int
    row_groups: tuple[RowGroup, ...]
    schema: pa.Schema
    changed: int | None = None  # nanoseconds, where the filesystem knows

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.row_groups)

    @cached_property
    def digest(self) -> str:
        """Tells this file from another of its name. Copying or moving it does not change it."""
        shape = json.dumps([self.size, self.row_groups])
        return hashlib.sha256(shape.encode()).hexdigest()[:16]


class BadFile(NamedTuple):
    """A file that cannot be annotated, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """The files that a path, a folder or a glob names."""

    root: Folder
    pattern: tuple[str, ...]
    files: list[FileInfo]

    def relative(self, path: str) -> str:
        return path[len(self.root.path) + 1 :]

    def takes(self, path: str) -> bool:
        """Whether a file of this path would belong to the selection."""
        if not path.startswith(self.root.path + "/"):
            return False
        parts = self.relative(path).split("/")
        if self.pattern[-1] == "**" and not parts[-1].lower().endswith(SUFFIXES):
            return False
        return not any(part.startswith((".", "_")) for part in parts) and matches(
            parts, self.pattern
        )


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Match path components against a glob, in which ** stands for any number of components.

    parts (Sequence[str]): The components of a path.
    pattern (Sequence[str]): The components of the glob.
    RETURNS (bool): Whether they match.
    """
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return matches(parts, pattern[1:]) or (bool(parts) and matches(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def select(where: str | Path) -> Selection:
    """Find the files that a path, a folder or a glob names, in the order of their paths.

    A folder stands for every Parquet file below it. In folders and globs, names that begin with
    "." or "_" are passed over, and so is all that is below folders of such names.

    where (str | Path): A local path or a URI; its last components may be a glob.
    RETURNS (Selection): The files.
    RAISES (JobError): If nothing is found.
    """
    path, query = str(where), ""
    if "://" in path:
        path, mark, query = path.partition("?")
        query = mark + query
    pattern: tuple[str, ...] = ("**",)
    glob = re.search(r"[*?\[]", path)
    if glob and not os.path.exists(path):
        stem = path.rfind("/", 0, glob.start()) + 1
        pattern = tuple(path[stem:].split("/"))
        path = path[:stem] or "."
    root = Folder.at(path + query)
    try:
        info = root.info()
        if info.type == FileType.File:
            parent, _, name = root.path.rpartition("/")
            return Selection(Folder(root.filesystem, parent), (name,), [info])
        if info.type != FileType.Directory:
            raise JobError(f"There is nothing at {shown(path)}.")
        listing = root.entries(recursive=len(pattern) > 1 or pattern == ("**",))
    except OSError as error:
        raise refusal(f"Cannot read {shown(path)}", error) from error
    found = Selection(root, pattern, [])
    files = [info for info in listing if info.type == FileType.File and found.takes(info.path)]
    if not files:
        raise JobError(
            f"There are no Parquet files at {shown(str(where))}: name a file, a folder or a glob."
        )
    return replace(found, files=sorted(files, key=lambda info: info.path.split("/")))


def read_footers(selection: Selection, text_column: str) -> tuple[list[InputFile], list[BadFile]]:
    """Read the footers of all files and check that each file can be annotated.

    selection (Selection): The files.
    text_column (str): The column that holds the texts.
    RETURNS (tuple[list[InputFile], list[BadFile]]): Files that can be annotated, and the others.
    """

    def read(info: FileInfo) -> InputFile | BadFile:
        path = selection.relative(info.path)
        if info.size == 0:
            return BadFile(path, "is empty (0 bytes)")
        try:
            with pq.ParquetFile(selection.root.open(path)) as file:
                schema, footer = file.schema_arrow.remove_metadata(), file.metadata
        except (pa.ArrowException, OSError) as error:
            return BadFile(path, f"cannot be read as Parquet: {first_line(error)}")
        if reason := unfit(schema, text_column):
            return BadFile(path, reason)
        leaf = [footer.schema.column(i).path for i in range(footer.num_columns)].index(text_column)
        groups = []
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            texts = group.column(leaf).total_uncompressed_size
            groups.append(RowGroup(group.num_rows, texts, group.total_byte_size))
        return InputFile(path, info.size, tuple(groups), schema, info.mtime_ns)

    with ThreadPoolExecutor(READERS) as threads:
        footers = list(threads.map(read, selection.files))
    return (
        [footer for footer in footers if isinstance(footer, InputFile)],
        [footer for footer in footers if isinstance(footer, BadFile)],
    )


def unfit(schema: pa.Schema, text_column: str) -> str | None:
    """Say why a file of this schema cannot be annotated.

    schema (pa.Schema): The columns of the file.
    text_column (str): The column that holds the texts.
    RETURNS (str | None): The reason, or None if it can.
    """
    if text_column not in schema.names:
        return f"has no column {text_column!r}; its columns are {', '.join(schema.names)}"
    twice = {name for name in schema.names if schema.names.count(name) > 1}
    if twice:
        return f"has several columns named {', '.join(sorted(twice))}"
    kind = schema.field(text_column).type
    if not is_text(kind):
        return f"has a column {text_column!r} of type {kind}, which is not text"
    return None


def is_text(kind: pa.DataType) -> bool:
    """Whether texts can be read from a column: strings, binary that should be UTF-8, or a
    dictionary of either.

    kind (pa.DataType): The type of the column.
    RETURNS (bool): Whether they can.
    """
    kind = plain(kind)
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def plain(kind: pa.DataType) -> pa.DataType:
    """The same values without a dictionary or views."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


def kept_columns(files: Sequence[InputFile], keep: Sequence[str] | None) -> list[pa.Field]:
    """Find one type for every column to keep. A column that a file lacks is null there.

    files (Sequence[InputFile]): The files.
    keep (Sequence[str] | None): The names of the columns, or None for all columns of all files.
    RETURNS (list[pa.Field]): The columns as they are written.
    RAISES (JobError): If a column is in no file, or is of types that have no common type which
        holds all their values.
    """
    examples: dict[pa.Schema, str] = {}
    for file in files:
        examples.setdefault(file.schema, file.path)
    found: dict[str, dict[pa.DataType, str]] = {}
    for schema, path in examples.items():
        for field in schema:
            found.setdefault(field.name, {}).setdefault(field.type, path)
    for name, kind in folder_columns(files).items():
        found.setdefault(name, {}).setdefault(kind, "the names of folders")
    names = list(found) if keep is None else list(keep)
    if missing := [name for name in names if name not in found]:
        raise JobError(
            f"No input file has a column {', '.join(map(repr, missing))}. "
            f"The columns are {', '.join(found)}."
        )
    return [pa.field(name, common_type(name, found[name])) for name in names]


def folder_values(path: str) -> dict[str, str | None]:
    """Read the values that are in the names of folders, as Hive has them: "lang=en/a.parquet".

    path (str): The path of a file, relative to the collection.
    RETURNS (dict[str, str | None]): The values by name.
    """
    pairs = [folder.split("=", 1) for folder in path.split("/")[:-1] if "=" in folder]
    return {unquote(name): None if value == HIVE_NULL else unquote(value) for name, value in pairs}


def folder_columns(files: Sequence[InputFile]) -> dict[str, pa.DataType]:
    """Find the columns that the names of folders make for files that do not have them themselves.

    files (Sequence[InputFile]): The files.
    RETURNS (dict[str, pa.DataType]): Their types by name: integers if all values are.
    """
    values: dict[str, set[str]] = {}
    for file in files:
        for name, value in folder_values(file.path).items():
            if file.schema.get_field_index(name) < 0:
                values.setdefault(name, set()).update([] if value is None else [value])
    return {
        name: pa.int64() if found and all(map(is_integer, found)) else pa.string()
        for name, found in values.items()
    }


def is_integer(value: str) -> bool:
    """Whether a text is how an integer of 64 bits is written."""
    written = re.fullmatch("0|-?[1-9][0-9]{0,18}", value)
    return bool(written) and -(2**63) <= int(value) < 2**63


def common_type(name: str, types: dict[pa.DataType, str]) -> pa.DataType:
    """Find the type that holds all values of a column whose files disagree.

    name (str): The column.
    types (dict[pa.DataType, str]): The types it has, each with a file where it has it.
    RETURNS (pa.DataType): The type.
    RAISES (JobError): If there is none.
    """
    if len(types) == 1:
        return next(iter(types))
    try:
        schemas = [pa.schema([(name, plain(kind))]) for kind in types]
        common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        if all(holds(common, plain(kind)) for kind in types):
            return common
    except pa.ArrowException:
        pass
    listed = "; ".join(f"{kind} in {path}" for kind, path in types.items())
    raise JobError(
        f"Column {name!r} has types that do not go together: {listed}. "
        "Leave it out with --keep, or convert these files."
    )


def holds(common: pa.DataType, kind: pa.DataType) -> bool:
    """Whether every value of one type can be stored as another without loss.

    common (pa.DataType): The wider type.
    kind (pa.DataType): The narrower type.
    RETURNS (bool): Whether it can.
    """
    if common == kind or pa.types.is_null(kind):
        return True
    if pa.types.is_nested(common) or pa.types.is_nested(kind):
        return False
    if pa.types.is_integer(kind) and pa.types.is_floating(common):
        return kind.bit_width <= (32 if common.bit_width == 64 else 16)
    if pa.types.is_uint64(kind):
        return not pa.types.is_integer(common)
    return True


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
