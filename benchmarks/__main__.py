"""Measure everything: `python -m benchmarks`. See README.md beside this file."""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import ceilings, claims, contenders, gpu, machine, quality, report, texts
from .processes import ProcessError, once
from .race import compare, race

SECTIONS = (
    "contenders",
    "ceilings",
    "stages",
    "memory",
    "long_text",
    "startup",
    "agreement",
    "job",
)


@dataclass
class Size:
    """How much is measured."""

    texts: int  # paragraphs for the contenders
    sample: int  # of these, to try settings on
    rounds: int
    ceiling_seconds: float  # for each matrix product
    stage_texts: int
    short_texts: int
    long_chars: int
    documents: int  # of each data set
    alone: int
    job_texts: int


FULL = Size(64, 32, 7, 0.05, 250, 100_000, 2_000_000, 2_500, 400, 8_000)
QUICK = Size(8, 2, 1, 0.02, 60, 5_000, 100_000, 150, 30, 400)


def main() -> int:
    """Run the benchmarks that were asked for."""
    if sys.argv[1:2] == ["gpu"]:
        return gpu.main(sys.argv[2:])
    if sys.argv[1:2] == ["quality"]:
        return quality.main(sys.argv[2:])
    args = parse(sys.argv[1:])
    size = QUICK if args.quick else FULL
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(args, size, Path(folder))
    results["settings"]["minutes"] = round((time.time() - started) / 60, 1)
    args.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", "utf8")
    print(f"\n{report.render(results)}\n\nEverything is in {args.output}.")
    return 1 if results["errors"] else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line.

    arguments (list[str]): Without the name of the program.
    RETURNS (Namespace): Its values.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="Training: python -m benchmarks quality --help. For a GPU: python -m benchmarks gpu "
        "--help",
    )
    parser.add_argument("--quick", action="store_true", help="a glance, in about 3 minutes")
    names = (*SECTIONS, *contenders.BY_TITLE)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        default=list(SECTIONS),
        metavar="NAME",
        help=f"sections or contenders: {', '.join(names)}",
    )
    parser.add_argument("--output", type=Path, default=Path("results.json"), metavar="FILE")
    parser.add_argument("--threads", type=int, default=machine.cores(), metavar="N")
    parser.add_argument(
        "--pipeline",
        default=str(texts.EMBEDDED),
        metavar="PATH",
        help="a trained pipeline for stages, memory and agreement (default: the embedded one)",
    )
    parser.add_argument("--shape", default="base", choices=("base", "tiny"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace, size: Size, folder: Path) -> dict[str, Any]:
    """Measure what was asked for, each thing in a process of its own.

    args (Namespace): From `parse`.
    size (Size): How much to measure.
    folder (Path): For the checkpoint and the messages of the processes.
    RETURNS (dict): All results.
    """
    started = time.perf_counter()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    def call(target: str, **kwargs: Any) -> Any:
        log = folder / f"{target.replace(':', '-')}.log"
        return once(target, threads=args.threads, log=log, **kwargs)

    read = texts.paragraphs(size.texts)
    checkpoint, vocabulary = folder / "checkpoint", str(texts.vocabulary())
    made = call(
        "checkpoint:make",
        directory=str(checkpoint),
        shape=args.shape,
        vocabulary=vocabulary,
        texts=read,
    )
    shape = made["shape"]
    errors: dict[str, str] = {}
    # where things lie on this machine is nobody's affair
    meta = json.loads(Path(args.pipeline, "meta.json").read_text("utf8"))
    pipeline = "{lang}_{name} {version}".format(**meta)
    asked = {**vars(args), "output": args.output.name, "pipeline": pipeline}
    results: dict[str, Any] = {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "settings": {**asked, **asdict(size)},
        "texts": describe(read, made["lengths"], shape),
        "errors": errors,
    }
    sections = plan(args, size, checkpoint, shape)

    def run(name: str) -> None:
        if name not in args.only:
            return
        target, kwargs = sections[name]
        try:
            found = call(target, **kwargs)
        except ProcessError as error:
            errors[name] = str(error)
        else:
            results[name] = found
        say(f"{name}: {errors.get(name, 'done')}")

    chosen = [c for c in contenders.CONTENDERS if {c.title, "contenders"} & set(args.only)]
    if chosen:
        measured: list[dict[str, Any]] = []

        def ceiling() -> None:
            run("ceilings")
            if "ceilings" in results:
                measured.append(results.pop("ceilings"))

        try:
            call("checkpoint:add_fast_tokenizer", directory=str(checkpoint))
        except ProcessError as error:
            say(f"no tokenizer.json for the peers: {error}")
        results["contenders"] = race(
            chosen,
            checkpoint,
            read,
            sample=size.sample,
            rounds=size.rounds,
            threads=args.threads,
            logs=folder,
            say=say,
            after_round=ceiling,
        )
        if measured:
            results["ceilings"] = ceilings.typical(measured)
    for name in sections:
        if name not in results:
            run(name)
    compare(
        results.get("contenders", []),
        results["texts"]["words"],
        results["texts"]["flops"],
        results.get("ceilings", {}),
    )
    results["claims"] = [
        claim._asdict() | {"holds": claim.holds} for claim in claims.check(results)
    ]
    return results


def describe(read: list[str], lengths: list[int], shape: dict[str, int]) -> dict[str, Any]:
    """Describe the texts that the contenders read.

    read (list[str]): The texts.
    lengths (list[int]): Their lengths in pieces.
    shape (dict): The fields of AlbertConfig.
    RETURNS (dict): Source, numbers, histogram of lengths, and what ALBERT has to compute for them.
    """
    windows = ceilings.windows(lengths, shape["max_position_embeddings"])
    return {
        "source": texts.source(),
        "texts": len(read),
        "words": texts.count_words(read),
        "pieces": sum(lengths),
        "longest": max(lengths),
        "histogram": report.histogram(lengths),
        "flops": ceilings.flops(shape, windows, n_tags=17, n_classes=2),
    }


def plan(
    args: argparse.Namespace, size: Size, checkpoint: Path, shape: dict[str, int]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Say how each section but the contenders is measured.

    args (Namespace): From `parse`.
    size (Size): How much to measure.
    checkpoint (Path): From `checkpoint.make`.
    shape (dict): The fields of AlbertConfig.
    RETURNS (dict): For each section a function of this package and its arguments.
    """
    path, n_short = args.pipeline, size.short_texts
    return {
        "ceilings": ("ceilings:measure", {"shape": shape, "seconds": size.ceiling_seconds}),
        "stages": (
            "stages:measure",
            {"path": path, "n_texts": size.stage_texts, "rounds": size.rounds},
        ),
        "memory": (
            "memory:short_texts",
            {"path": path, "n_texts": n_short, "n_first": n_short // 10},
        ),
        "long_text": (
            "memory:long_text",
            {"path": path, "checkpoint": str(checkpoint), "n_chars": size.long_chars},
        ),
        "startup": ("startup:measure", {"rounds": size.rounds}),
        "agreement": (
            "agreement:measure",
            {"path": path, "n_docs": size.documents, "n_alone": size.alone},
        ),
        "job": (
            "job:measure",
            {"path": path, "n_texts": size.job_texts, "rounds": min(size.rounds, 3)},
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
