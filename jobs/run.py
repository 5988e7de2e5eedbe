"""The annotate job, from what was asked for to what has been done."""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from spacy.util import get_package_path, is_package

from .errors import JobError
from .inputs import READERS, Selection, kept_columns, read_footers, select
from .outputs import Outputs
from .plan import (
    MANIFEST,
    SUCCESS,
    SUMMARY,
    Plan,
    begin,
    cut,
    default_shard_size,
    identify,
    take_up,
)
from .pool import Resources, run_shards
from .progress import Progress
from .storage import Folder
from .summary import Summary, manifest
from .worker import Job, Receipt, committed, load_pipeline

#: How many bad files or failed shards an error message names.
NAMED = 10


def annotate(
    pipeline: str | Path | None,
    input: str | Path,
    output: str | Path,
    *,
    text_column: str = "text",
    keep: Sequence[str] | None = None,
    max_chars: int = 10_000_000,
    limit: int | None = None,
    overwrite: bool = False,
    skip_bad_files: bool = False,
    code: str | Path | None = None,
    shard_bytes: int | None = None,
    workers: int | None = None,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0,
    address: str | None = None,
    quiet: bool = False,
) -> Summary:
    """Annotate a collection of Parquet files with a spaCy pipeline.

    Every input row comes out once and in order, with its kept columns, its annotations and, if it
    could not be annotated, its error. A run that was broken off is taken up where it was by calling
    this again with the same arguments.

    pipeline (str | Path | None): A folder, the name of an embedded pipeline or of an installed
        package; None for the embedded default.
    input (str | Path): A file, a folder or a glob; a local path or a URI that pyarrow knows.
    output (str | Path): A folder, which is made if need be.
    text_column (str): The column that holds the texts.
    keep (Sequence[str] | None): The input columns to write; None for all.
    max_chars (int): A longer text is an error of its row.
    limit (int | None): Annotate only the first so many rows.
    overwrite (bool): Remove what an earlier job wrote to the output folder and begin again.
    skip_bad_files (bool): Leave out files that cannot be read or have no texts; otherwise the job
        does not begin.
    code (str | Path | None): A Python file with registered functions, as for `spacy train --code`.
    shard_bytes (int | None): The text in a shard; None for about a thousandth of all, but 1 to 64
        MiB.
    workers (int | None): How many pipelines work at once; None for as many as fit.
    cpus_per_worker (int): The CPUs, and so the threads, of each.
    gpus_per_worker (float): The share of a GPU that each has.
    address (str | None): A Ray cluster. Without it and RAY_ADDRESS the job starts its own Ray.
    quiet (bool): Show no progress.
    RETURNS (Summary): What has been done.
    RAISES (JobError): If something is wrong with what was asked for, or shards could not be done.
    """
    started = time.monotonic()
    options = {
        "text_column": text_column,
        "keep": None if keep is None else list(dict.fromkeys(keep)),
        "max_chars": max_chars,
        "limit": limit,
        "shard_bytes": shard_bytes,
    }
    sizes = {"workers": workers, "cpus_per_worker": cpus_per_worker}
    for name, value in {**options, **sizes}.items():
        if isinstance(value, int) and value < 1:
            raise JobError(f"{name} must be at least 1, not {value}.")
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    try:
        plan, job = prepare(pipeline, code, input, output, options, overwrite, skip_bad_files)
    except OSError as error:
        raise JobError(f"The job cannot begin: {error}") from error

    receipts = read_receipts(job.output, plan)
    todo = [shard for shard in plan.shards if shard.name not in receipts]
    if not todo and job.output.holds(SUCCESS):
        console.print(f"Nothing to do: {job.output.path} is finished.")
        return Summary.from_json(job.output.read(SUMMARY))
    job.output.delete([SUCCESS])
    job.output.clear_temporaries()
    ready, earlier = len(receipts), sum(receipt.rows for receipt in receipts.values())
    shards = "1 shard" if len(plan.shards) == 1 else f"{len(plan.shards):,} shards"
    before = f", {ready:,} of them done before" if ready else ""
    console.print(f"{plan.rows:,} rows in {shards}{before}")
    resources = Resources(address, workers, cpus_per_worker, gpus_per_worker)
    with Progress(plan.rows, earlier, quiet) as progress:
        try:
            with closing(run_shards(todo, job, resources, progress.show)) as answers:
                failures = {name: failure for name, failure in answers if failure}
        except KeyboardInterrupt:
            ready = len(read_receipts(job.output, plan))
            raise KeyboardInterrupt(
                f"Stopped with {ready:,} of {len(plan.shards):,} shards ready in "
                f"{job.output.path}. Run the same command again to go on."
            ) from None

    # what counts is what is there, not what the workers said
    receipts = read_receipts(job.output, plan)
    refuse_gaps(plan, receipts, failures)
    in_order = [receipts[shard.name] for shard in plan.shards]
    of_this_run = [receipts[shard.name] for shard in todo]
    seconds = time.monotonic() - started
    summary = Summary.of(job.output.path, plan, in_order, of_this_run, progress.seconds, seconds)
    job.output.write(MANIFEST, manifest(plan, in_order))
    job.output.write(SUMMARY, summary.to_json())
    job.output.write(SUCCESS, b"")
    job.output.clear_temporaries()
    return summary


def prepare(
    pipeline: str | Path | None,
    code: str | Path | None,
    input: str | Path,
    output: str | Path,
    options: dict[str, Any],
    overwrite: bool,
    skip_bad_files: bool,
) -> tuple[Plan, Job]:
    """Check all that was asked for, and write down the plan or find that of an earlier run.

    pipeline (str | Path | None): The pipeline, see `annotate`.
    code (str | Path | None): The code file.
    input (str | Path): The collection.
    output (str | Path): The output folder.
    options (dict[str, Any]): The options that change the result.
    overwrite (bool): Whether to remove what an earlier job wrote.
    skip_bad_files (bool): Whether to leave out files that cannot be annotated.
    RETURNS (tuple[Plan, Job]): The plan, and what the workers must know.
    RAISES (JobError): If anything is wrong; nothing has been done then.
    """
    to_load, contents = find_pipeline(pipeline)
    if code is not None:
        code = Path(code).resolve()
        if not code.is_file():
            raise JobError(f"There is no code file {code}.")
    selection, destination = select(input), Folder.at(output)
    refuse_overlap(selection, destination)
    files, bad = read_footers(selection, options["text_column"])
    if not files or (bad and not skip_bad_files):
        raise JobError(
            f"{len(bad)} of {len(selection.files)} files cannot be annotated:\n"
            + listed(f"{file.path} {file.reason}" for file in bad)
            + "\nRepair or remove them, or leave them out with --skip-bad-files."
        )
    identity = identify(contents, code, options, files)
    plan = take_up(destination, identity, overwrite)
    if plan is None:
        kept = pa.schema(kept_columns(files, options["keep"]))
        outputs = read_outputs(to_load, code)
        refuse_collisions(kept, outputs)
        shards = cut(files, options["shard_bytes"] or default_shard_size(files), options["limit"])
        plan = Plan(identity, kept, outputs, shards, bad)
        begin(destination, plan)
    job = Job(
        pipeline=to_load,
        code=str(code) if code else None,
        text_column=options["text_column"],
        max_chars=options["max_chars"],
        kept=plan.kept,
        outputs=plan.outputs,
        fingerprint=plan.fingerprint,
        source=selection.root,
        output=destination,
    )
    return plan, job


def find_pipeline(pipeline: str | Path | None) -> tuple[str, Path]:
    """Find a pipeline: a folder, an embedded pipeline, or an installed package.

    pipeline (str | Path | None): Its path or name; None for the embedded default.
    RETURNS (tuple[str, Path]): What `spacy.load` takes, and the folder of its contents.
    RAISES (JobError): If there is none of that name.
    """
    from spacy_albert_pipelines import DEFAULT, resolve

    name = str(pipeline or DEFAULT)
    for folder in (Path(name).expanduser(), resolve(name)):
        if folder and (folder / "config.cfg").is_file():
            return str(folder.resolve()), folder
    if is_package(name):
        return name, get_package_path(name)
    raise JobError(
        f"There is no pipeline {name}: neither a folder with a config.cfg, nor an embedded "
        "pipeline, nor an installed package."
    )


def read_outputs(pipeline: str, code: Path | None) -> Outputs:
    """Load a pipeline to see that it loads and what it writes.

    pipeline (str): What `spacy.load` takes.
    code (Path | None): The code file.
    RETURNS (Outputs): Its annotations.
    RAISES (JobError): If it does not load, or writes no annotations.
    """
    try:
        nlp = load_pipeline(pipeline, str(code) if code else None)
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise JobError(
            f"The pipeline {pipeline} cannot be loaded: {error}\n"
            "If it has components of your own, give the file that registers them with --code."
        ) from error
    return Outputs.of(nlp)


def refuse_overlap(selection: Selection, output: Folder) -> None:
    """See to it that the output is no input, of this run or the next.

    selection (Selection): The input.
    output (Folder): The output folder.
    RAISES (JobError): If it is.
    """
    if selection.root.filesystem != output.filesystem:
        return
    if (
        output.path == selection.root.path
        or selection.takes(output.join("part.parquet"))
        or any(file.path.startswith(f"{output.path}/") for file in selection.files)
    ):
        raise JobError(f"The output folder {output.path} overlaps the input: name another folder.")


def refuse_collisions(kept: pa.Schema, outputs: Outputs) -> None:
    """See to it that no two output columns have the same name.

    kept (pa.Schema): The input columns to write.
    outputs (Outputs): The annotations to write.
    RAISES (JobError): If they have.
    """
    taken = [field.name for field in outputs.fields() if field.name in kept.names]
    if taken:
        others = ",".join(name for name in kept.names if name not in taken)
        raise JobError(
            f"The input has columns of the names of annotations: {', '.join(taken)}. "
            f"Leave them out, with --keep {others!r}, or rename them."
        )


def refuse_gaps(plan: Plan, receipts: dict[str, Receipt], failures: dict[str, str]) -> None:
    """See to it that all rows of the plan are there.

    plan (Plan): The plan.
    receipts (dict[str, Receipt]): The receipts of the shards that are there, by name.
    failures (dict[str, str]): What went wrong with others, by name.
    RAISES (JobError): If any are missing.
    """
    missing = [shard for shard in plan.shards if shard.name not in receipts]
    if missing:
        reasons = (
            f"{shard.name} ({shard.rows:,} rows of {shard.source}, from row {shard.start:,}): "
            + failures.get(shard.name, "is not there")
            for shard in missing
        )
        raise JobError(
            f"{len(missing):,} of {len(plan.shards):,} shards could not be done:\n"
            + listed(reasons)
            + f"\n{len(receipts):,} are ready. The same command tries only the others again."
        )


def read_receipts(output: Folder, plan: Plan) -> dict[str, Receipt]:
    """Find the shards that are done.

    output (Folder): The output folder.
    plan (Plan): The plan.
    RETURNS (dict[str, Receipt]): The receipts of those that are, by name.
    """
    there = set(output.names())
    shards = [shard for shard in plan.shards if shard.name in there]
    with ThreadPoolExecutor(READERS) as threads:
        receipts = threads.map(lambda shard: committed(output, shard, plan.fingerprint), shards)
        return {receipt.shard: receipt for receipt in receipts if receipt}


def listed(lines: Iterable[str]) -> str:
    lines = list(lines)
    more = [f"... and {len(lines) - NAMED:,} more"] if len(lines) > NAMED else []
    return "\n".join(f"  {line}" for line in lines[:NAMED] + more)
