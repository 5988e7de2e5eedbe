"""The commands of `python -m spacy albert` that read collections: `annotate`, `show`, `verify`,
`report`, `vocab` and `pretrain`.
"""

from pathlib import Path
from typing import NoReturn, Optional

import typer

from spacy_albert.cli import albert_cli

from .errors import KINDS


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
    partition_by: str = typer.Option(
        "",
        "--partition-by",
        "-p",
        help="Kept columns by whose values the output is divided into folders: lang=en/, lang=fr/.",
    ),
    limit: Optional[int] = typer.Option(
        None, "--limit", "-n", help="Annotate only the first so many rows."
    ),
    max_chars: int = typer.Option(
        10_000_000, "--max-chars", help="Texts with more characters become errors of their rows."
    ),
    embedding: Optional[str] = typer.Option(
        None,
        "--embedding",
        metavar="mean|cls",
        help="Write a vector of each document, too, from the encoder of the pipeline: the mean "
        "over its pieces, or over the [CLS] of its windows. Default: none, unless the pipeline has "
        "an albert_vectors.",
    ),
    embedding_type: Optional[str] = typer.Option(
        None,
        "--embedding-type",
        metavar="float32|float16",
        help="What these vectors are written as. Default: float32.",
    ),
    overwrite: bool = typer.Option(
        False, "--overwrite", "-F", help="Remove what an earlier job wrote to OUTPUT, begin again."
    ),
    allow: list[str] = typer.Option(
        [],
        "--allow",
        metavar="KIND",
        help="Go on with an earlier job although something differs (may be given several times): "
        + "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
        + ".",
    ),
    retry_errors: bool = typer.Option(
        False, "--retry-errors", help="Try rows with errors again; replace just their files."
    ),
    skip_bad_files: bool = typer.Option(
        False, "--skip-bad-files", help="Leave out files that cannot be read or have no texts."
    ),
    excerpts: bool = typer.Option(
        True,
        "--excerpts/--no-excerpts",
        help="Write the beginning of each text with an error to _errors.jsonl.",
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
        None,
        "--workers",
        "-w",
        help="Pipelines that work at once, at most: on a cluster that grows, more than fit at "
        "first. Default: as many as fit.",
    ),
    min_workers: int = typer.Option(
        1, "--min-workers", help="Workers that are enough, as long as there is work for them."
    ),
    wait_minutes: float = typer.Option(
        10.0,
        "--wait-minutes",
        help="For how long the job goes on with fewer than --min-workers, as when machines come "
        "late or go away, before it ends.",
    ),
    cpus_per_worker: int = typer.Option(
        1, "--cpus-per-worker", help="CPUs, and so threads, of each worker."
    ),
    gpus_per_worker: Optional[float] = typer.Option(
        None,
        "--gpus-per-worker",
        help="Share of a GPU that each worker has; 0 for none. Default: what suits the GPUs.",
    ),
    stall_minutes: float = typer.Option(
        60.0,
        "--stall-minutes",
        help="A worker that finishes no batch of rows for so long is ended, as if it had died.",
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
            partition_by=[name for name in partition_by.split(",") if name],
            max_chars=max_chars,
            embedding=embedding,
            embedding_type=embedding_type,
            limit=limit,
            overwrite=overwrite,
            allow=allow,
            retry_errors=retry_errors,
            skip_bad_files=skip_bad_files,
            excerpts=excerpts,
            code=code,
            shard_bytes=shard_bytes,
            workers=workers,
            min_workers=min_workers,
            wait_minutes=wait_minutes,
            cpus_per_worker=cpus_per_worker,
            gpus_per_worker=gpus_per_worker,
            stall_minutes=stall_minutes,
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


@albert_cli.command("verify")
def verify_cli(
    output: str = typer.Argument(..., help="Folder that annotate has written."),
    input: Optional[str] = typer.Argument(
        None, help="What it was made from: then rows are compared with those of the input, too."
    ),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but findings."),
) -> None:
    """
    Check an output folder: that every row is there once, in order, as it was written.

    Ends with 1 if anything is missing, damaged, foreign or edited, and names it.
    """
    from .errors import JobError

    try:
        from . import verify
        from .progress import counting

        with counting("shards", quiet) as show:
            findings = verify(output, input, show=show)
    except JobError as error:
        fail(str(error))
    for finding in findings:
        typer.secho(f"✘ {finding}", fg="red")
    if findings:
        raise typer.Exit(1)
    if not quiet:
        typer.secho(f"✔ {output} is what annotate has written", fg="green")


@albert_cli.command("report")
def report_cli(
    output: str = typer.Argument(..., help="Folder that annotate has written."),
    to: Optional[Path] = typer.Option(
        None, "--to", "-o", help="Where to write the page. Default: _report.html in the folder."
    ),
    samples: int = typer.Option(12, "--samples", "-n", help="Documents to show."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but errors."),
) -> None:
    """
    Write one HTML page about an output folder: what was found, how sure, what went wrong.
    """
    from .errors import JobError

    try:
        from . import report
        from .progress import counting

        with counting("rows", quiet) as show:
            page = report(output, to=to, samples=samples, show=show)
    except JobError as error:
        fail(str(error))
    if not quiet:
        typer.echo(page)


@albert_cli.command("vocab")
def vocab_cli(
    input: str = typer.Argument(
        ...,
        help="Parquet or text: a file, a folder or a glob. In a text file, empty lines part "
        "documents.",
    ),
    output: Path = typer.Argument(..., metavar="OUT", help="The directory to write."),
    size: int = typer.Option(..., "--size", "-s", help="Pieces in the vocabulary, such as 30000."),
    text_column: str = typer.Option("text", "--text-column", "-t", help="Column of the texts."),
    cased: bool = typer.Option(
        False,
        "--cased",
        help="Keep capitals, which tell names, in training and whenever the vocabulary is used. "
        "ALBERT's released one is of lower case.",
    ),
    ascii_punctuation: bool = typer.Option(
        False,
        "--ascii-punctuation",
        help="Make typographic quotes and dashes plain before anything else, in training and "
        "whenever the vocabulary is used. ALBERT's released vocabulary knows none of them.",
    ),
    sentences: int = typer.Option(
        10_000_000, "--sentences", help="Parts of texts to learn from; of more, so many at random."
    ),
    force: bool = typer.Option(False, "--force", "-F", help="Write over OUT if it exists."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but errors."),
) -> None:
    """
    Make a vocabulary: SentencePiece with ALBERT's settings and special pieces.

    OUT is what `pretrain --vocabulary` takes, and transformers' AlbertTokenizer.
    """
    from .errors import JobError, missing_extra

    try:
        from .vocab import vocab
    except ImportError as error:
        fail(str(missing_extra(error)))
    try:
        from spacy_albert.cli import check_free

        from .progress import counting

        check_free(output, force)
        with counting("documents", quiet) as show:
            said = vocab(
                input,
                output,
                size,
                text_column=text_column,
                lower_case=not cased,
                ascii_punctuation=ascii_punctuation,
                sentences=sentences,
                show=show,
            )
    except (JobError, ValueError, OSError) as error:
        fail(str(error))
    if not quiet:
        typer.secho(f"✔ {said}", fg="green")


@albert_cli.command(
    "pretrain", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def pretrain_cli(
    context: typer.Context,
    input: str = typer.Argument(
        ..., help="Parquet: a file, a folder or a glob, with a document in each row."
    ),
    output: Path = typer.Argument(
        ..., metavar="OUT", help="The folder of the run, which all machines see under this path."
    ),
    config: Path = typer.Option(
        ...,
        "--config",
        "-c",
        help="A config with [model], [data] and [training], or the name of one that ships: "
        "pretrain_small.cfg, pretrain_base.cfg, pretrain_large.cfg, pretrain_xlarge.cfg, "
        "pretrain_xxlarge.cfg. Settings may be given as --training.steps 1000.",
    ),
    vocabulary: Optional[Path] = typer.Option(
        None, "--vocabulary", "-v", help="What `vocab` has made, or a spiece.model file."
    ),
    init_from: Optional[str] = typer.Option(
        None,
        "--init-from",
        "-i",
        help="Begin with a checkpoint, and its shape and vocabulary, instead of random weights: "
        "a Hugging Face directory, a pipeline or an embedded one.",
    ),
    corpus: Optional[Path] = typer.Option(
        None,
        "--corpus",
        help="The folder for the texts divided into pieces. Runs over the same texts with the same "
        "vocabulary can share it. Default: OUT/corpus.",
    ),
    workers: int = typer.Option(1, "--workers", "-w", help="Processes that train together."),
    cpus_per_worker: Optional[int] = typer.Option(
        None,
        "--cpus-per-worker",
        help="CPUs, and so threads, of each. Default: a share of this machine.",
    ),
    gpus: Optional[bool] = typer.Option(
        None, "--gpus/--no-gpus", help="Give each worker a GPU. Default: if there are any."
    ),
    address: Optional[str] = typer.Option(
        None,
        "--address",
        help="Ray cluster. Without it and RAY_ADDRESS, the job starts a Ray of its own.",
    ),
    overwrite: bool = typer.Option(
        False, "--overwrite", "-F", help="Remove what an earlier run has left in OUT, begin again."
    ),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but errors."),
) -> None:
    """
    Pre-train an ALBERT with its own objectives, on Ray Train.

    A run that was broken off goes on with the same command where its last checkpoint is. In the end
    OUT/model is an ALBERT for training heads on (`init-config --encoder OUT/model`), OUT/losses.png
    the curve, and OUT/metrics.jsonl the figures of every step.

    Examples:

      python -m spacy albert vocab texts/ vocabulary --size 30000

      python -m spacy albert pretrain texts/ run --config pretrain_base.cfg --vocabulary vocabulary

      python -m spacy albert pretrain texts/ run -c pretrain_base.cfg --init-from ./albert-base-v2
    """
    from spacy.cli._util import parse_config_overrides

    from .errors import JobError, missing_extra

    try:
        from .pretrain import load_config, pretrain
    except ImportError as error:
        fail(str(missing_extra(error)))
    try:
        pretrain(
            input,
            output,
            load_config(config, parse_config_overrides(context.args)),
            vocabulary=vocabulary,
            init_from=init_from,
            corpus=corpus,
            workers=workers,
            cpus_per_worker=cpus_per_worker,
            gpus=gpus,
            address=address,
            overwrite=overwrite,
            quiet=quiet,
        )
    except JobError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("Stopped. The same command goes on where the last checkpoint is.", 130)


def fail(message: str, code: int = 1) -> NoReturn:
    typer.secho(f"✘ {message}", fg="red", err=True)
    raise typer.Exit(code)
