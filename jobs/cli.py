"""The commands `annotate` and `show` of `python -m spacy albert`."""

from pathlib import Path
from typing import NoReturn, Optional

import typer

from spacy_albert.cli import albert_cli


@albert_cli.command("annotate")
def annotate_cli(
    paths: list[str] = typer.Argument(
        ...,
        metavar="[PIPELINE] INPUT OUTPUT",
        help="PIPELINE: a folder, or the name of an embedded pipeline or an installed package; if "
        "left out, the embedded default. INPUT: a Parquet file, a folder or a glob. OUTPUT: a "
        "folder. Input and output may be URIs that pyarrow knows (s3, gs, hdfs).",
        show_default=False,
    ),
    text_column: str = typer.Option("text", "--text-column", "-t", help="Column of the texts."),
    keep: Optional[str] = typer.Option(
        None, "--keep", "-k", help="Columns to keep, such as id,title; '' for none. Default: all."
    ),
    limit: Optional[int] = typer.Option(
        None, "--limit", "-n", help="Annotate only the first so many rows."
    ),
    max_chars: int = typer.Option(
        10_000_000, "--max-chars", help="Texts with more characters become errors of their rows."
    ),
    overwrite: bool = typer.Option(
        False, "--overwrite", "-F", help="Remove what an earlier job wrote to OUTPUT, begin again."
    ),
    skip_bad_files: bool = typer.Option(
        False, "--skip-bad-files", help="Leave out files that cannot be read or have no texts."
    ),
    code: Optional[Path] = typer.Option(
        None, "--code", "-c", help="Python file that registers components of your own."
    ),
    shard_bytes: Optional[int] = typer.Option(
        None,
        "--shard-bytes",
        help="Text in a shard, the unit of work and of output. Default: a thousandth of all text, "
        "but 1 to 64 MiB.",
    ),
    workers: Optional[int] = typer.Option(
        None, "--workers", "-w", help="Pipelines that work at once. Default: as many as fit."
    ),
    cpus_per_worker: int = typer.Option(
        1, "--cpus-per-worker", help="CPUs, and so threads, of each worker."
    ),
    gpus_per_worker: float = typer.Option(
        0.0, "--gpus-per-worker", help="Share of a GPU that each worker has."
    ),
    address: Optional[str] = typer.Option(
        None,
        "--address",
        help="Ray cluster. Without it and RAY_ADDRESS, the job starts a Ray of its own.",
    ),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but errors."),
) -> None:
    """
    Annotate a Parquet collection with a spaCy pipeline, on Ray.

    Every input row comes out once, in order, with its kept columns, its annotations and, if it
    could not be annotated, its error. A job that was broken off goes on with the same command.
    """
    if len(paths) not in (2, 3):
        raise typer.BadParameter("give [PIPELINE] INPUT OUTPUT: two paths, or three")
    pipeline = paths[0] if len(paths) == 3 else None
    source, output = paths[-2:]
    from .errors import JobError

    try:
        from . import annotate

        summary = annotate(
            pipeline,
            source,
            output,
            text_column=text_column,
            keep=None if keep is None else [name for name in keep.split(",") if name],
            max_chars=max_chars,
            limit=limit,
            overwrite=overwrite,
            skip_bad_files=skip_bad_files,
            code=code,
            shard_bytes=shard_bytes,
            workers=workers,
            cpus_per_worker=cpus_per_worker,
            gpus_per_worker=gpus_per_worker,
            address=address,
            quiet=quiet,
        )
    except JobError as error:
        fail(str(error))
    except KeyboardInterrupt as interrupt:
        fail(str(interrupt) or "Stopped before the job began.", 130)
    if not quiet:
        from rich.console import Console

        summary.print(Console())


@albert_cli.command("show")
def show_cli(
    output: str = typer.Argument(..., help="Folder that annotate has written."),
    number: int = typer.Option(3, "--number", "-n", help="Documents to show."),
    text_column: str = typer.Option("text", "--text-column", "-t", help="Column of the texts."),
) -> None:
    """
    Show annotated documents in the terminal.
    """
    from .errors import JobError, missing_extra

    try:
        from .show import show
    except ImportError as error:
        fail(str(missing_extra(error)))
    try:
        show(output, number, text_column)
    except JobError as error:
        fail(str(error))


def fail(message: str, code: int = 1) -> NoReturn:
    typer.secho(f"✘ {message}", fg="red", err=True)
    raise typer.Exit(code)
