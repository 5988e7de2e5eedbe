"""The annotate job, from what was asked for to what has been done."""

import time
from collections.abc import Container, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from .annotator import find_pipeline, load_pipeline
from .claim import Claim
from .embeddings import add_embedding, refuse_embedding
from .errors import KINDS, JobError
from .inputs import BadFile, InputFile, Selection, kept_columns, plain, read_footers, select
from .outputs import Outputs
from .plan import (
    ERRORS,
    LETTERS,
    MANIFEST,
    PLAN,
    SUCCESS,
    SUMMARY,
    Plan,
    begin,
    cut,
    default_shard_size,
    extend,
    identify,
    letters_of,
    refuse_differences,
    take_up,
)
from .pool import Resources, refuse_silence, run_shards
from .progress import Progress, Terminal
from .storage import Folder
from .summary import Summary, manifest
from .worker import Attempt, Job, Receipt, read_receipts

#: How many bad files or failed shards an error message names.
NAMED = 10
#: The characters of a text that are written down with its error.
EXCERPT = 200


def annotate(
    pipeline: str | Path | None,
    input: str | Path,
    output: str | Path,
    *,
    text_column: str = "text",
    keep: Sequence[str] | None = None,
    partition_by: Sequence[str] = (),
    max_chars: int = 10_000_000,
    embedding: str | None = None,
    embedding_type: str | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    allow: Sequence[str] = (),
    retry_errors: bool = False,
    skip_bad_files: bool = False,
    excerpts: bool = True,
    code: str | Path | None = None,
    shard_bytes: int | None = None,
    workers: int | None = None,
    min_workers: int = 1,
    wait_minutes: float = 10,
    cpus_per_worker: int = 1,
    gpus_per_worker: float | None = None,
    stall_minutes: float = 60,
    address: str | None = None,
    quiet: bool = False,
) -> Summary:
    """Annotate a collection of Parquet files with a spaCy pipeline.

    Every input row comes out once and in order, with its kept columns, its annotations and, if it
    could not be annotated, its error. A run that was broken off is taken up where it was by calling
    this again with the same arguments.

    pipeline (str | Path | None): A folder, the name of an embedded pipeline or of an installed
        package; None for the embedded default.
    input (str | Path): A file, a folder or a glob; a local path or a URI that pyarrow or fsspec
        knows.
    output (str | Path): A folder, which is made if need be.
    text_column (str): The column that holds the texts.
    keep (Sequence[str] | None): The input columns to write; None for all.
    partition_by (Sequence[str]): Kept columns by whose values the output is divided into folders.
    max_chars (int): A longer text is an error of its row.
    embedding (str | None): "mean" or "cls": write vectors of the documents, too, from the encoder
        that the pipeline has. None writes them if it has an albert_vectors.
    embedding_type (str | None): "float32", which is the default, or "float16".
    limit (int | None): Annotate only the first so many rows.
    overwrite (bool): Remove what an earlier job wrote to the output folder and begin again.
    allow (Sequence[str]): In what this run may differ from the one it takes up: some of plan.KINDS.
    retry_errors (bool): Try rows again that had errors, and replace the files they are in.
    skip_bad_files (bool): Leave out files that cannot be read or have no texts; otherwise the job
        does not begin.
    excerpts (bool): Write the beginnings of texts that have errors to the file of the errors.
    code (str | Path | None): A Python file with registered functions, as for `spacy train --code`.
    shard_bytes (int | None): The text in a shard; None for about a thousandth of all, but 1 to 64
        MiB.
    workers (int | None): How many pipelines work at once, at most; None for as many as fit.
    min_workers (int): How many are enough, as long as there is work for them.
    wait_minutes (float): For how long the job goes on with fewer, before it ends.
    cpus_per_worker (int): The CPUs, and so the threads, of each.
    gpus_per_worker (float | None): The share of a GPU that each has; None for what suits the GPUs
        there are, if any.
    stall_minutes (float): A worker that finishes no batch of rows for so long is ended.
    address (str | None): A Ray cluster. Without it and RAY_ADDRESS the job starts its own Ray.
    quiet (bool): Show no progress.
    RETURNS (Summary): What has been done.
    RAISES (JobError): If something is wrong with what was asked for, or shards could not be done.
    """
    started = time.monotonic()
    refuse_embedding(embedding, embedding_type)
    options = {
        "text_column": text_column,
        "keep": None if keep is None else list(dict.fromkeys(keep)),
        "partition_by": list(dict.fromkeys(partition_by)),
        "max_chars": max_chars,
        "limit": limit,
        "shard_bytes": shard_bytes,
        "embedding": embedding,
        "embedding_type": embedding_type or (embedding and "float32"),
    }
    sizes = {
        "workers": workers,
        "min_workers": min_workers,
        "cpus_per_worker": cpus_per_worker,
    }
    for name, value in {**options, **sizes}.items():
        if isinstance(value, int) and value < 1:
            raise JobError(f"{name} must be at least 1, not {value}.")
    for name, minutes in {"wait_minutes": wait_minutes, "stall_minutes": stall_minutes}.items():
        if minutes <= 0:
            raise JobError(f"{name} must be more than 0, not {minutes:g}.")
    if workers and min_workers > workers:
        raise JobError(f"min_workers, {min_workers}, is more than workers, {workers}.")
    if unknown := [kind for kind in allow if kind not in KINDS]:
        raise JobError(f"There is no --allow {unknown[0]}. Choose from: {', '.join(KINDS)}.")
    console = Terminal(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    resources = Resources(
        address=address,
        workers=workers,
        min_workers=min_workers,
        wait_seconds=60 * wait_minutes,
        cpus=cpus_per_worker,
        gpus=gpus_per_worker,
        stall_seconds=60 * stall_minutes,
    )
    refuse_silence(resources)
    with Claim(Folder.at(output), console.print) as claim:
        try:
            plan, job = prepare(
                pipeline, code, input, output, options, overwrite, allow, skip_bad_files, claim
            )
        except OSError as error:
            raise JobError(f"The job cannot begin: {error}") from error
        job = replace(job, excerpt=EXCERPT if excerpts else 0)
        named = str(output) if "://" in str(output) else job.output.path
        return carry_out(plan, job, resources, retry_errors, named, console, started)


def carry_out(
    plan: Plan,
    job: Job,
    resources: Resources,
    retry_errors: bool,
    named: str,
    console: Terminal,
    started: float,
) -> Summary:
    """Do what is planned and not yet done.

    plan (Plan): The plan.
    job (Job): What the workers must know.
    resources (Resources): What they run on.
    retry_errors (bool): Whether to try rows again that had errors.
    named (str): The output folder, as a person names it.
    console (Terminal): Where to say how it goes.
    started (float): When the run began.
    RETURNS (Summary): What has been done.
    RAISES (JobError): If shards could not be done.
    """
    receipts = read_receipts(job.output, plan)
    work = [(shard, Attempt()) for shard in plan.shards if shard.name not in receipts]
    if retry_errors:
        with_errors = [s for s in plan.shards if s.name in receipts and receipts[s.name].errors]
        work += [(shard, Attempt(errors_only=True)) for shard in with_errors]
    if not work and job.output.holds(SUCCESS):
        job.output.clear_temporaries()
        console.print(f"Nothing to do: {named} is finished.")
        return Summary.from_json(job.output.read(SUMMARY))
    job.output.delete([SUCCESS])
    job.output.clear_temporaries()
    todo = {shard.name for shard, _ in work}
    earlier = sum(receipt.rows for name, receipt in receipts.items() if name not in todo)
    count = "1 shard" if len(plan.shards) == 1 else f"{len(plan.shards):,} shards"
    ready = len(plan.shards) - len(todo)
    before = f", {ready:,} of them done before" if ready else ""
    console.print(f"{plan.rows:,} rows in {count}{before}")
    with Progress(plan, len(todo), earlier, console.quiet) as progress:
        try:
            shards = run_shards(work, job, resources, progress.show, progress.say)
            with closing(shards) as answers:
                failures: dict[str, str] = {}
                for name, failure in answers:
                    progress.done(name)
                    if failure:
                        failures[name] = failure
        except (KeyboardInterrupt, JobError) as error:
            ready = len(read_receipts(job.output, plan))
            raise type(error)(
                f"{str(error) or 'Stopped.'} {ready:,} of {len(plan.shards):,} shards are ready in "
                f"{job.output.path}. Run the same command again to go on."
            ) from error.__cause__

    # what counts is what is there, not what the workers said
    receipts = read_receipts(job.output, plan)
    retried = {shard.name for shard, attempt in work if attempt.errors_only}
    refuse_gaps(plan, receipts.keys() - (retried & failures.keys()), failures)
    in_order = [receipts[shard.name] for shard in plan.shards]
    of_this_run = [receipts[name] for name in todo]
    seconds = time.monotonic() - started
    summary = Summary.of(
        named,
        plan,
        in_order,
        of_this_run,
        progress.seconds,
        seconds,
        progress.timeline,
    )
    gather_letters(job.output, in_order)
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
    allow: Sequence[str],
    skip_bad_files: bool,
    claim: Claim,
) -> tuple[Plan, Job]:
    """Check all that was asked for, and write down the plan or find that of an earlier run.

    pipeline (str | Path | None): The pipeline, see `annotate`.
    code (str | Path | None): The code file.
    input (str | Path): The collection.
    output (str | Path): The output folder.
    options (dict[str, Any]): The options that change the result.
    overwrite (bool): Whether to remove what an earlier job wrote.
    allow (Sequence[str]): In what the run may differ from an earlier one.
    skip_bad_files (bool): Whether to leave out files that cannot be annotated.
    claim (Claim): Is taken when all has been checked.
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
    target = options["shard_bytes"] or default_shard_size(files)
    earlier = take_up(destination, identity, overwrite)
    different = refuse_differences(destination, earlier, identity, allow) if earlier else set()
    plan = earlier
    if plan is None or different:
        kept = pa.schema(kept_columns(files, options["keep"]))
        outputs = read_outputs(to_load, code, options["embedding"], options["embedding_type"])
        refuse_collisions(kept, outputs)
        refuse_partitions(kept, options["partition_by"])
        claim.take()
        if earlier is None:
            shards = cut(files, target, options["limit"])
            asked = {"pipeline": str(pipeline or to_load), "input": str(input)}
            plan = Plan(identity, kept, outputs, shards, bad, asked=asked)
            begin(destination, plan)
        else:
            plan = go_on(destination, earlier, identity, kept, outputs, files, bad, target)
    else:
        claim.take()
    job = Job(
        pipeline=to_load,
        code=str(code) if code else None,
        text_column=options["text_column"],
        max_chars=options["max_chars"],
        kept=plan.kept,
        outputs=plan.outputs,
        partition_by=plan.partition_by,
        excerpt=EXCERPT,
        job=plan.job,
        fingerprint=plan.fingerprint,
        source=selection.root,
        output=destination,
    )
    return plan, job


def go_on(
    output: Folder,
    earlier: Plan,
    identity: dict[str, Any],
    kept: pa.Schema,
    outputs: Outputs,
    files: Sequence[InputFile],
    bad: list[BadFile],
    target: int,
) -> Plan:
    """Take up an earlier run that differs from this one, as has been allowed.

    output (Folder): The output folder.
    earlier (Plan): The plan of the earlier run.
    identity (dict[str, Any]): What decides the result of this run.
    kept (pa.Schema): The columns that this run would write.
    outputs (Outputs): The annotations that this run would write.
    files (Sequence[InputFile]): The input files as they are now.
    bad (list[BadFile]): Those of them that cannot be annotated.
    target (int): The bytes of text in new shards.
    RETURNS (Plan): The new plan, which has been written down.
    RAISES (JobError): If the result would not be of one schema, or a limit leaves files out.
    """
    if earlier.identity["options"]["limit"]:
        raise JobError("A job with --limit cannot be taken up when something has changed.")
    if (kept, outputs) != (earlier.kept, earlier.outputs):
        old = {field.name: str(field.type) for field in earlier.schema}
        new = {field.name: str(field.type) for field in [*kept, *outputs.fields()]}
        changed = sorted(n for n in old.keys() | new.keys() if old.get(n) != new.get(n))
        raise JobError(
            f"The output folder {output.path} cannot be taken up: its columns would no longer be "
            f"those of all files ({', '.join(changed)}). Name another folder."
        )
    done = read_receipts(output, earlier)
    plan = extend(earlier, identity, files, bad, done, target)
    stay = {shard.name for shard in plan.shards}
    parts, _ = earlier.sort(output.files())
    output.delete(path for name, paths in parts.items() if name not in stay for path in paths)
    output.write(PLAN, plan.to_json())
    return plan


def read_outputs(
    pipeline: str, code: Path | None, embedding: str | None, embedding_type: str | None
) -> Outputs:
    """Load a pipeline to see that it loads and what it writes.

    pipeline (str): What `spacy.load` takes.
    code (Path | None): The code file.
    embedding (str | None): What vectors are to be the means of, if it is to make some.
    embedding_type (str | None): What they are to be written as.
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
    add_embedding(nlp, embedding)
    return Outputs.of(nlp, embedding_type)


def refuse_partitions(kept: pa.Schema, columns: Sequence[str]) -> None:
    """See to it that the output can be divided by some columns.

    kept (pa.Schema): The input columns to write.
    columns (Sequence[str]): The columns.
    RAISES (JobError): If it cannot.
    """
    for name in columns:
        if name not in kept.names:
            raise JobError(
                f"The output cannot be partitioned by {name!r}, which is no kept column. The kept "
                f"columns are {', '.join(kept.names) or 'none'}."
            )
        if name[:1] in ("_", "."):
            raise JobError(
                f"The output cannot be partitioned by {name!r}: readers pass over folders of names "
                "that begin so. Rename the column."
            )
        kind = plain(kept.field(name).type)
        if not any(
            test(kind)
            for test in (
                pa.types.is_integer,
                pa.types.is_string,
                pa.types.is_large_string,
                pa.types.is_boolean,
                pa.types.is_date,
            )
        ):
            raise JobError(
                f"The output cannot be partitioned by {name!r} of type {kind}: take a column of "
                "strings, integers, truth values or dates."
            )


def gather_letters(output: Folder, receipts: Sequence[Receipt]) -> None:
    """Join the errors of all shards to one file, and remove those that are no longer true.

    output (Folder): The output folder.
    receipts (Sequence[Receipt]): The receipts of all shards, in order.
    """
    wanted = [letters_of(receipt.shard) for receipt in receipts if receipt.errors]
    there = [path for path in output.files() if path.startswith(f"{LETTERS}/")]
    output.delete(sorted(set(there) - set(wanted)))
    if not wanted:
        output.delete([ERRORS])
        return
    with output.writing(ERRORS) as file:
        for path in wanted:
            file.write(output.read(path))


def refuse_overlap(selection: Selection, output: Folder) -> None:
    """See to it that the output is no input, of this run or the next.

    selection (Selection): The input.
    output (Folder): The output folder.
    RAISES (JobError): If it is.
    """
    if not selection.root.shares_with(output):
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


def refuse_gaps(plan: Plan, done: Container[str], failures: dict[str, str]) -> None:
    """See to it that all has been done.

    plan (Plan): The plan.
    done (Container[str]): The names of the shards that are done.
    failures (dict[str, str]): What went wrong with others, by name.
    RAISES (JobError): If any are missing.
    """
    missing = [shard for shard in plan.shards if shard.name not in done]
    if missing:
        reasons = (
            f"{shard.name} ({shard.rows:,} rows of {shard.source}, from row {shard.start:,}): "
            + failures.get(shard.name, "is not there")
            for shard in missing
        )
        raise JobError(
            f"{len(missing):,} of {len(plan.shards):,} shards could not be done:\n"
            + listed(reasons)
            + f"\n{len(plan.shards) - len(missing):,} are ready. The same command tries only the "
            "others again."
        )


def listed(lines: Iterable[str]) -> str:
    lines = list(lines)
    more = [f"... and {len(lines) - NAMED:,} more"] if len(lines) > NAMED else []
    return "\n".join(f"  {line}" for line in lines[:NAMED] + more)
