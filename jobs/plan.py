"""The plan of a job: its shards, and what another run must have in common to resume it."""

import base64
import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa
from pyarrow.fs import FileType

from .errors import JobError
from .inputs import HIVE_NULL, BadFile, InputFile, folder_values
from .outputs import Outputs
from .storage import Folder

PLAN, MANIFEST, SUMMARY, SUCCESS = "_plan.json", "_manifest.json", "_summary.json", "_SUCCESS"
ERRORS, REPORT, LOCK = "_errors.jsonl", "_report.html", "_running.json"
LETTERS = "_errors"  # a folder with the errors of each shard that has any
OURS = (PLAN, MANIFEST, SUMMARY, SUCCESS, ERRORS, REPORT, LOCK)
FORMAT = "spacy-albert annotate 2"
MEBIBYTE = 1 << 20


class Shard(NamedTuple):
    """A range of rows of one input file: the unit of work, of output and of loss.

    name (str): The output file. In the order of these names, rows are in the order of the input.
    source (str): The input file, relative to the collection.
    groups (tuple[int, int]): The first row group that it has rows of and the one after the last.
    start (int): The number of its first row in the input file.
    rows (int): How many rows it has.
    size (int): The bytes of its texts.
    """

    name: str
    source: str
    groups: tuple[int, int]
    start: int
    rows: int
    size: int

    @classmethod
    def from_json(cls, values: list[Any]) -> "Shard":
        name, source, groups, *numbers = values
        return cls(name, source, tuple(groups), *numbers)


class Piece(NamedTuple):
    """Rows of one row group, or of several: what shards are joined of."""

    groups: tuple[int, int]
    start: int
    rows: int
    size: int


def pieces(file: InputFile, target: int) -> Iterator[Piece]:
    """Divide a file into ranges of rows. Small row groups are joined up to a size, and large ones
    divided by rows: many programs write files of a single row group.

    file (InputFile): The file.
    target (int): The bytes of text of a piece, if rows are not longer than that.
    YIELDS (Piece): The pieces, in order; one without rows if the file has none.
    """
    held = Piece((0, 0), 0, 0, 0)
    for number, group in enumerate(file.row_groups):
        parts = min(-(-group.text_bytes // target), group.rows) or 1
        for part in range(parts):
            first, last = (group.rows * n // parts for n in (part, part + 1))
            size = group.text_bytes * (last - first) // max(group.rows, 1)
            if held.rows and held.size + size > target:
                yield held
                held = Piece((number, number), held.start + held.rows, 0, 0)
            groups = (held.groups[0] if held.rows else number, number + 1)
            held = Piece(groups, held.start, held.rows + last - first, held.size + size)
    yield held


def cut(
    files: Iterable[InputFile], target: int, limit: int | None = None, first: int = 0
) -> list[Shard]:
    """Cut files into shards.

    files (Iterable[InputFile]): The files, in order.
    target (int): The bytes of text that a shard of several rows has at most.
    limit (int | None): The number of rows after which to stop.
    first (int): The number of the first shard.
    RETURNS (list[Shard]): The shards, at least one for each file until the limit is reached.
    """
    files = list(files)
    left = sum(file.rows for file in files) if limit is None else limit
    cuts = [(file, piece) for file in files for piece in pieces(file, target)]
    shards: list[Shard] = []
    width = max(5, len(str(first + len(cuts) - 1)))
    for number, (file, piece) in enumerate(cuts, first):
        if shards and limit is not None and left == 0:
            break
        rows = min(left, piece.rows)
        identity = json.dumps([file.path, file.digest, piece.start, rows])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        name = f"part-{number:0{width}}-{digest}.parquet"
        shards.append(Shard(name, file.path, piece.groups, piece.start, rows, piece.size))
        left -= rows
    return shards


def default_shard_size(files: Iterable[InputFile]) -> int:
    """About a thousand shards, so that little is lost with one and the last ones keep all workers
    busy, but neither files too small to be worth opening nor shards that take hours.

    files (Iterable[InputFile]): The files.
    RETURNS (int): Bytes of text.
    """
    total = sum(group.text_bytes for file in files for group in file.row_groups)
    return min(max(total // 1000, MEBIBYTE), 64 * MEBIBYTE)


def identify(
    pipeline: Path, code: Path | None, options: dict[str, Any], files: Iterable[InputFile]
) -> dict[str, Any]:
    """Gather what decides the result of a job: a resumed run must have all of it in common.

    pipeline (Path): The folder of the pipeline. Its contents count, not its name or its dates.
    code (Path | None): A Python file with components of the user's own.
    options (dict[str, Any]): The options that change the result.
    files (Iterable[InputFile]): The input files.
    RETURNS (dict[str, Any]): The identity, which can be written as JSON.
    """
    return {
        "pipeline": hash_folder(pipeline),
        "code": hashlib.sha256(code.read_bytes()).hexdigest() if code else None,
        "versions": {name: installed(name) for name in ("spacy", "spacy-albert")},
        "options": options,
        "input": {file.path: [file.digest, file.changed] for file in files},
    }


def hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str]]:
    """Say in what two identities differ.

    old (dict[str, Any]): The identity of the earlier run.
    new (dict[str, Any]): The identity of this run.
    RETURNS (list[tuple[str, str]]): For each difference one of KINDS, or "" if it is of a kind that
        cannot be allowed, and a line that says it.
    """
    found = []
    if old["pipeline"] != new["pipeline"]:
        found.append(("pipeline", "the pipeline is another one, or its contents have changed"))
    if old["code"] != new["code"]:
        found.append(("code", "the code file has changed"))
    for group in ("versions", "options"):
        for name, value in new[group].items():
            if old[group].get(name) != value:
                kind = "options" if name in ("max_chars", "shard_bytes") else ""
                kind = "versions" if group == "versions" else kind
                found.append((kind, f"{name} was {old[group].get(name)!r} and is {value!r}"))
    before, after = old["input"], new["input"]
    both = before.keys() & after.keys()
    for kind, names in (
        ("new-files", after.keys() - before.keys()),
        ("gone-files", before.keys() - after.keys()),
        ("changed-files", {name for name in both if before[name][0] != after[name][0]}),
        (
            "touched-files",
            {n for n in both if before[n] != after[n] and before[n][0] == after[n][0]},
        ),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            what = kind.partition("-")[0]
            found.append((kind, f"input files are {what}: {', '.join(sorted(names)[:3])}{more}"))
    return found


@dataclass(frozen=True)
class Plan:
    """What a job does, written down before it is done.

    identity (dict[str, Any]): What decides the result, see `identify`.
    kept (pa.Schema): The input columns to write.
    outputs (Outputs): The annotations to write.
    shards (list[Shard]): The work.
    left_out (list[BadFile]): The input files that cannot be annotated.
    earlier (tuple[str, ...]): Fingerprints of earlier runs whose work stays, the first one first.
    asked (dict[str, str]): The pipeline and the input as they were named, for a person.
    """

    identity: dict[str, Any]
    kept: pa.Schema
    outputs: Outputs
    shards: list[Shard]
    left_out: list[BadFile]
    earlier: tuple[str, ...] = ()
    asked: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Those of the runs whose shards belong to the result."""
        return tuple(dict.fromkeys([*self.earlier, self.fingerprint]))

    @property
    def job(self) -> str:
        """The fingerprint of the first run, which names the job for good."""
        return self.fingerprints[0]

    @property
    def partition_by(self) -> list[str]:
        return self.identity["options"]["partition_by"]

    @property
    def schema(self) -> pa.Schema:
        """All columns of the result."""
        return pa.schema([*self.kept, *self.outputs.fields()])

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def sort(self, files: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
        """Sort what is in the output folder by what it belongs to.

        files (Iterable[str]): The paths of all files.
        RETURNS (tuple): The files of each shard by its name, and those that do not belong there.
        """
        parts: dict[str, list[str]] = {shard.name: [] for shard in self.shards}
        others = {*OURS, *map(letters_of, parts)}
        strays = []
        for path in files:
            name, values = path.rpartition("/")[2], folder_values(path)
            folders = [values.get(column) for column in self.partition_by]
            if name in parts and part_path(self.partition_by, folders, name) == path:
                parts[name].append(path)
            elif path not in others:
                strays.append(path)
        return parts, strays

    def to_json(self) -> bytes:
        content = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "earlier": self.earlier,
            "asked": self.asked,
            "identity": self.identity,
            "kept": base64.b64encode(self.kept.serialize()).decode(),
            "outputs": asdict(self.outputs),
            "left_out": self.left_out,
            "shards": self.shards,
        }
        return json.dumps(content).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Plan":
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        return cls(
            identity=content["identity"],
            kept=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(content["kept"]))),
            outputs=Outputs.from_json(content["outputs"]),
            shards=[Shard.from_json(shard) for shard in content["shards"]],
            left_out=[BadFile(*file) for file in content["left_out"]],
            earlier=tuple(content["earlier"]),
            asked=content["asked"],
        )

    @classmethod
    def of(cls, output: Folder) -> "Plan":
        """Read the plan of an output folder.

        output (Folder): The output folder.
        RETURNS (Plan): The plan.
        RAISES (JobError): If there is none, or one that cannot be read.
        """
        if not output.holds(PLAN):
            raise JobError(f"{output.path} has not been written by annotate: it has no {PLAN}.")
        try:
            return cls.from_json(output.read(PLAN))
        except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise JobError(
                f"The plan {output.join(PLAN)} cannot be read ({error}): it is damaged, or was "
                "written by another version. Begin anew in another folder."
            ) from error


def letters_of(shard: str) -> str:
    """The file that lists the errors of a shard, if it has any."""
    return f"{LETTERS}/{shard.removesuffix('.parquet')}.jsonl"


def part_path(columns: Sequence[str], values: Sequence[Any], shard: str) -> str:
    """Name a file of a shard by the values of its partition, as Hive does.

    columns (Sequence[str]): The columns of the partition.
    values (Sequence[Any]): Their values.
    shard (str): The name of the shard.
    RETURNS (str): The path, such as "lang=en/part-00000-0123.parquet".
    """
    folders = [
        f"{quote(column, safe='')}={HIVE_NULL if value is None else quote(str(value), safe='')}"
        for column, value in zip(columns, values)
    ]
    return "/".join([*folders, shard])


def take_up(output: Folder, identity: dict[str, Any], overwrite: bool) -> Plan | None:
    """Find the plan of an earlier run in an output folder.

    output (Folder): The output folder.
    identity (dict[str, Any]): What decides the result of this run.
    overwrite (bool): Whether to begin again even if an earlier job has written there.
    RETURNS (Plan | None): The plan to resume, or None if a new one is to be made.
    RAISES (JobError): If the folder holds anything that the job did not write.
    """
    kind = output.info().type
    if kind == FileType.File:
        raise JobError(f"The output {output.path} is a file; a folder is meant.")
    files = output.files()
    if PLAN not in files:
        if files:
            raise JobError(
                f"The output folder {output.path} holds something else: "
                f"{', '.join(list(files)[:3])}{' ...' if len(files) > 3 else ''}. "
                "Name an empty or a new folder."
            )
        return None
    plan = Plan.of(output)
    others = [path for path in plan.sort(files)[1] if path.endswith(".parquet")]
    if others:
        raise JobError(
            f"The output folder {output.path} also holds {', '.join(others[:3])}, which the job "
            "did not write. Move it away: whoever reads the folder would read it too."
        )
    return None if overwrite else plan


def refuse_differences(
    output: Folder, plan: Plan, identity: dict[str, Any], allow: Sequence[str]
) -> set[str]:
    """See to it that a run may take up an earlier one.

    output (Folder): The output folder.
    plan (Plan): The plan of the earlier run.
    identity (dict[str, Any]): What decides the result of this run.
    allow (Sequence[str]): The KINDS of differences that do not matter.
    RETURNS (set[str]): The kinds in which they differ.
    RAISES (JobError): If they differ in anything else.
    """
    found = differences(plan.identity, identity)
    refused = [(kind, line) for kind, line in found if kind not in allow]
    if refused:
        flags = [f"--allow {kind}" for kind, _ in refused if kind]
        go_on = (
            f"Go on all the same with {' '.join(flags)}, b" if all(k for k, _ in refused) else "B"
        )
        raise JobError(
            f"The output folder {output.path} was begun with something else: "
            f"{'; '.join(line for _, line in refused)}. {go_on}egin again with --overwrite, or "
            "name another folder."
        )
    return {kind for kind, _ in found}


def extend(
    plan: Plan,
    identity: dict[str, Any],
    files: Sequence[InputFile],
    left_out: list[BadFile],
    done: Container[str],
    target: int,
) -> Plan:
    """Go on with a plan although something has changed.

    plan (Plan): The plan of the earlier run.
    identity (dict[str, Any]): What decides the result of this run.
    files (Sequence[InputFile]): The input files as they are now.
    left_out (list[BadFile]): Those of them that cannot be annotated.
    done (Container[str]): The names of the shards that are done.
    target (int): The bytes of text in new shards.
    RETURNS (Plan): A plan with the shards of files that are as they were, those of files that are
        gone as far as they are done, and new ones.
    """
    before, after = plan.identity["input"], identity["input"]
    same = {name for name in before.keys() & after.keys() if before[name][0] == after[name][0]}
    shards = [
        shard
        for shard in plan.shards
        if shard.source in same or (shard.source not in after and shard.name in done)
    ]
    last = max((int(shard.name.split("-")[1]) for shard in plan.shards), default=-1)
    shards += cut([file for file in files if file.path not in same], target, first=last + 1)
    return replace(
        plan, identity=identity, shards=shards, left_out=left_out, earlier=plan.fingerprints
    )


def begin(output: Folder, plan: Plan) -> None:
    """Remove what an earlier job wrote to the output folder, nothing else, and write down the plan.

    output (Folder): The output folder, as `take_up` left it.
    plan (Plan): The new plan.
    """
    files = output.files()
    if PLAN in files:
        strays = set(Plan.of(output).sort(files)[1])
        # the plan goes last: until then it knows what else is to be removed
        output.delete([*(f for f in files if f not in strays and f not in (PLAN, LOCK)), PLAN])
    output.write(PLAN, plan.to_json())
