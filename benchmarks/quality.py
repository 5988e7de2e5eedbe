"""Compare training with plain loops over `transformers`: `python -m benchmarks quality`.

Five tasks are learned from the same weights, on the same batches, with the same settings and
seeds: in a plain loop, through `spacy train`, and through `spacy train` from random weights. Then
pre-training is timed. All take turns. What is done is in the results file at once.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import claims, machine, report, texts
from .claims import LOOP, OURS, RANDOM
from .processes import Process, ProcessError, once
from .quality_tasks import BY_NAME, METRICS, Task

PRETRAINING = "pre-training"
WARM_UP = 0.1  # share of the steps of a task
SEEDS, ARTICLES, TURNS, TURN_STEPS = 3, 60, 5, 8
QUICK_SEEDS, QUICK_STEPS, QUICK_TEST, QUICK_TURNS, QUICK_TURN_STEPS = 1, 12, 200, 1, 3


def main(arguments: list[str]) -> int:
    """Run the parts that were asked for, and print and write what was found.

    arguments (list[str]): The command line after "quality".
    RETURNS (int): 0 if nothing failed.
    """
    args = parse(arguments)
    if texts.source() == "made":
        sys.exit(f"The tasks need the data sets, and there are none in {texts.DATA}.")
    results = begin(args)
    started = time.perf_counter()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for name in args.only or [*BY_NAME, PRETRAINING]:
            begun = time.perf_counter()
            results["errors"].pop(name, None)
            try:
                if name == PRETRAINING:
                    results["pretraining"] = pretrain(args, Path(folder), say)
                else:
                    results["tasks"][name] = learn(BY_NAME[name], args, Path(folder), say)
            except ProcessError as error:
                results["errors"][name] = str(error)
                say(f"{name}: {error}")
            results["minutes"][name] = round((time.perf_counter() - begun) / 60, 1)
            results["claims"] = [
                claim._asdict() | {"holds": claim.holds} for claim in claims.quality(results)
            ]
            args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf8")
    print(f"\n{report.quality(results)}\n\nEverything is in {args.output}.")
    return 1 if results["errors"] else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line.

    arguments (list[str]): What comes after "quality".
    RETURNS (Namespace): Its values.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a glance: does everything run?")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=(*BY_NAME, PRETRAINING),
        metavar="PART",
        help=f"{', '.join(BY_NAME)}, {PRETRAINING}; the other parts stay as the output file has "
        "them, if that is of the same run",
    )
    parser.add_argument(
        "--encoder",
        type=Path,
        default=texts.EMBEDDED / "albert" / "encoder",
        metavar="PATH",
        help="the Hugging Face directory to start from (default: the embedded pipeline's encoder)",
    )
    parser.add_argument("--output", type=Path, default=Path("quality.json"), metavar="FILE")
    parser.add_argument("--threads", type=int, default=machine.cores(), metavar="N")
    args = parser.parse_args(arguments)
    if not (args.encoder / "model.safetensors").exists():
        parser.error(f"{args.encoder} is no Hugging Face directory with a model.safetensors.")
    return args


def begin(args: argparse.Namespace) -> dict[str, Any]:
    """Begin with what the output file has of this run, or with nothing.

    args (Namespace): From `parse`.
    RETURNS (dict): The results so far.
    """
    weights = (args.encoder / "model.safetensors").read_bytes()
    shape = json.loads((args.encoder / "config.json").read_text(encoding="utf8"))
    run = {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "settings": {"quick": args.quick, "threads": args.threads},
        "encoder": {**shape, "sha256": hashlib.sha256(weights).hexdigest()},
    }
    if args.only and args.output.exists():
        results = json.loads(args.output.read_text(encoding="utf8"))
        if different := [part for part in run if results[part] != run[part]]:
            sys.exit(
                f"{args.output} is of another run: it differs in {', '.join(different)}. Name "
                "another file as --output, or run everything anew without --only."
            )
        return results
    return {**run, "tasks": {}, "pretraining": {}, "errors": {}, "minutes": {}}


def learn(
    task: Task, args: argparse.Namespace, folder: Path, say: Callable[[str], Any]
) -> dict[str, Any]:
    """Let all sides learn a task, seed by seed, in turns.

    task (Task): The task.
    args (Namespace): From `parse`.
    folder (Path): For the messages of the processes.
    say (Callable): Told what happens.
    RETURNS (dict): What was learned, with which settings, and for each side its runs.
    RAISES (ProcessError): If any of them fails.
    """
    told = {
        "threads": args.threads,
        "task": task.name,
        "encoder": str(args.encoder.resolve()),
        "n_test": QUICK_TEST if args.quick else None,
    }
    processes: list[Process] = []
    try:
        for target in ("quality_plain:Plain", "quality_ours:Ours"):
            log = folder / f"{target.partition(':')[2]}.log"
            processes.append(Process(target, log=log, **told))
        plain, ours = processes
        about = ours.call("about")
        steps = round(task.epochs * (about["train"] // task.batch))
        steps = QUICK_STEPS if args.quick else steps
        settings = {"steps": steps, "warm_up": round(WARM_UP * steps), "rate": about.pop("rate")}
        runs: dict[str, list[dict[str, float]]] = {LOOP: [], OURS: [], RANDOM: []}
        for seed in range(QUICK_SEEDS if args.quick else SEEDS):
            runs[LOOP].append(plain.call("learn", seed=seed, **settings))
            runs[OURS].append(ours.call("learn", seed=seed, **settings))
            runs[RANDOM].append(ours.call("learn", seed=seed, scratch=True, **settings))
            last = {side: found[-1]["score"] for side, found in runs.items()}
            shown = ", ".join(f"{side} {score:.2f}" for side, score in last.items())
            say(f"{task.name}, seed {seed}: {shown}; {faster(runs):.2f} times the loop's speed")
    finally:
        for process in processes:
            process.close()
    return {
        "metric": METRICS[task.head],
        **about,
        **settings,
        "batch": task.batch,
        "epochs": task.epochs,
        "sides": {side: speeds(found) | scores(found) for side, found in runs.items()},
        "times_loop": faster(runs),
    }


def pretrain(
    args: argparse.Namespace, folder: Path, say: Callable[[str], Any]
) -> dict[str, dict[str, Any]]:
    """Let both sides pre-train for a while, in turns.

    args (Namespace): From `parse`.
    folder (Path): For the corpus, and the messages of the processes.
    say (Callable): Told what happens.
    RETURNS (dict): For each precision the settings, and for each side its turns.
    RAISES (ProcessError): If any of them fails.
    """
    module, place = "quality_pretraining", folder / "pretraining"
    place.mkdir()
    about = once(
        f"{module}:prepare",
        threads=args.threads,
        log=folder / "prepare.log",
        encoder=str(args.encoder.resolve()),
        folder=str(place),
        articles=ARTICLES,
    )
    turns, steps = (QUICK_TURNS, QUICK_TURN_STEPS) if args.quick else (TURNS, TURN_STEPS)
    found: dict[str, dict[str, Any]] = {}
    for precision in about.pop("precisions"):
        processes: dict[str, Process] = {}
        told = {"threads": args.threads, "folder": str(place), "precision": precision}
        runs: dict[str, list[dict[str, float]]] = {LOOP: [], OURS: []}
        try:
            for side, target in ((LOOP, "Plain"), (OURS, "Ours")):
                log = folder / f"{target} {precision}.log"
                processes[side] = Process(f"{module}:{target}", log=log, **told)
            for _ in range(turns):
                for side, process in processes.items():
                    runs[side].append(process.call("learn", steps=steps))
                say(f"{PRETRAINING}, {precision}: {faster(runs):.2f} times the loop's speed")
        finally:
            for process in processes.values():
                process.close()
        sides = {
            side: speeds(done) | {"losses": [run["loss"] for run in done]}
            for side, done in runs.items()
        }
        found[precision] = {**about, "steps": steps, "sides": sides, "times_loop": faster(runs)}
    return found


def scores(runs: list[dict[str, float]]) -> dict[str, Any]:
    """RETURNS (dict): The score of each run, their mean, and their standard deviation if there are
    several.
    """
    found = [run["score"] for run in runs]
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return {"scores": found, "mean": statistics.mean(found), "deviation": deviation}


def speeds(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    """RETURNS (dict): How long each run took, and how fast it was."""
    return {
        "seconds": [run["seconds"] for run in runs],
        "pieces_per_second": [run["pieces"] / run["seconds"] for run in runs],
    }


def faster(runs: dict[str, list[dict[str, float]]]) -> float:
    """RETURNS (float): How many times as fast as the loop we are, in the median of the turns."""
    turns = zip(runs[OURS], runs[LOOP])
    return statistics.median(loop["seconds"] / ours["seconds"] for ours, loop in turns)
