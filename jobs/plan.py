"""The plan of a job: its shards, and what another run must have in common to resume it."""

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow.fs import FileType

from .errors import JobError
from .inputs import BadFile, InputFile
from .outputs import Outputs
from .storage import TEMPORARY, Folder

PLAN, MANIFEST, SUMMARY, SUCCESS = "_plan.json", "_manifest.json", "_summary.json", "_SUCCESS"
FORMAT = "spacy-albert annotate 1"
MEBIBYTE = 1 << 20


class Shard(NamedTuple):
    """A range of row groups of one input file: the unit of work, of output and of loss.

    name (str): The output file. In the order of these names, rows are in the order of the input.
    source (str): The input file, relative to the collection.
    groups (tuple[int, int]): The first row group and the one after the last.
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


def cut(files: Iterable[InputFile], target: int, limit: int | None = None) -> list[Shard]:
    """Cut files into shards. Row groups are joined up to a size, and never split.

    files (Iterable[InputFile]): The files, in order.
    target (int): The bytes of text that a shard of several row groups has at most.
    limit (int | None): The number of rows after which to stop.
    RETURNS (list[Shard]): The shards, at least one for each file until the limit is reached.
    """
    files = list(files)
    left = sum(file.rows for file in files) if limit is None else limit
    pieces: list[tuple[InputFile, int, int]] = []
    for file in files:
        first, size = 0, 0
        for number, group in enumerate(file.row_groups):
            if number > first and size + group.text_bytes > target:
                pieces.append((file, first, number))
                first, size = number, 0
            size += group.text_bytes
        pieces.append((file, first, len(file.row_groups)))
    shards: list[Shard] = []
    width = max(5, len(str(len(pieces) - 1)))
    start = 0
    for number, (file, first, end) in enumerate(pieces):
        if shards and limit is not None and left == 0:
            break
        start = start if first else 0
        groups = file.row_groups[first:end]
        size, rows = sum(group.text_bytes for group in groups), sum(group.rows for group in groups)
        taken = min(left, rows)
        identity = json.dumps([file.path, file.digest, first, end, taken])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        name = f"part-{number:0{width}}-{digest}.parquet"
        shards.append(Shard(name, file.path, (first, end), start, taken, size))
        start, left = start + rows, left - taken
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
        "input": {file.path: file.digest for file in files},
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


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Say in what two identities differ.

    old (dict[str, Any]): The identity of the earlier run.
    new (dict[str, Any]): The identity of this run.
    RETURNS (list[str]): One line for each difference.
    """
    found = []
    if old["pipeline"] != new["pipeline"]:
        found.append("the pipeline is another one, or its contents have changed")
    if old["code"] != new["code"]:
        found.append("the code file has changed")
    for kind in ("versions", "options"):
        found += [
            f"{name} was {old[kind].get(name)!r} and is {value!r}"
            for name, value in new[kind].items()
            if old[kind].get(name) != value
        ]
    before, after = old["input"], new["input"]
    for names, what in (
        (sorted(after.keys() - before.keys()), "new"),
        (sorted(before.keys() - after.keys()), "gone"),
        (sorted(n for n in before.keys() & after.keys() if before[n] != after[n]), "changed"),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            found.append(f"input files are {what}: {', '.join(names[:3])}{more}")
    return found


@dataclass(frozen=True)
class Plan:
    """What a job does, written down before it is done.

    identity (dict[str, Any]): What decides the result, see `identify`.
    kept (pa.Schema): The input columns to write.
    outputs (Outputs): The annotations to write.
    shards (list[Shard]): The work.
    left_out (list[BadFile]): The input files that cannot be annotated.
    """

    identity: dict[str, Any]
    kept: pa.Schema
    outputs: Outputs
    shards: list[Shard]
    left_out: list[BadFile]

    @property
    def fingerprint(self) -> str:
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def to_json(self) -> bytes:
        content = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
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
        )


def take_up(output: Folder, identity: dict[str, Any], overwrite: bool) -> Plan | None:
    """Find the plan of an earlier run in an output folder.

    output (Folder): The output folder.
    identity (dict[str, Any]): What decides the result of this run.
    overwrite (bool): Whether to begin again even if an earlier job has written there.
    RETURNS (Plan | None): The plan to resume, or None if a new one is to be made.
    RAISES (JobError): If the folder holds anything that the job did not write, or the earlier run
        would have given another result.
    """
    kind = output.info().type
    if kind == FileType.File:
        raise JobError(f"The output {output.path} is a file; a folder is meant.")
    names = set(output.names())
    if PLAN not in names:
        if others := sorted(names - {TEMPORARY}):
            raise JobError(
                f"The output folder {output.path} holds something else: {', '.join(others[:3])}"
                f"{' ...' if len(others) > 3 else ''}. Name an empty or a new folder."
            )
        return None
    try:
        plan = Plan.from_json(output.read(PLAN))
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise JobError(
            f"The plan {output.join(PLAN)} cannot be taken up ({error}). Name another folder."
        ) from error
    ours = [shard.name for shard in plan.shards]
    others = sorted(name for name in names - set(ours) if name.endswith(".parquet"))
    if others:
        raise JobError(
            f"The output folder {output.path} also holds {', '.join(others[:3])}, which the job "
            "did not write. Move it away: whoever reads the folder would read it too."
        )
    if overwrite:
        return None
    if found := differences(plan.identity, identity):
        raise JobError(
            f"The output folder {output.path} was begun with something else: {'; '.join(found)}. "
            "Begin again with --overwrite, or name another folder."
        )
    return plan


def begin(output: Folder, plan: Plan) -> None:
    """Remove what an earlier job wrote to the output folder, nothing else, and write down the plan.

    output (Folder): The output folder, as `take_up` left it.
    plan (Plan): The new plan.
    """
    if output.holds(PLAN):
        earlier = Plan.from_json(output.read(PLAN))
        files = [SUCCESS, SUMMARY, MANIFEST, *(shard.name for shard in earlier.shards)]
        # the plan goes last: until then it knows what else is to be removed
        output.delete([*files, PLAN])
    output.write(PLAN, plan.to_json())
