"""Measure all contenders in one run, in turns."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .contenders import Contender
from .processes import Process, ProcessError


def race(
    contenders: Sequence[Contender],
    checkpoint: Path,
    texts: list[str],
    *,
    sample: int,
    rounds: int,
    threads: int,
    logs: Path,
    say: Any = print,
    after_round: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """Find each contender's best setting on a sample, then let all read the texts, round by round.

    contenders (Sequence[Contender]): Who takes part.
    checkpoint (Path): The directory from `checkpoint.make`.
    texts (list[str]): What all of them read.
    sample (int): How many of the texts the settings are tried on; this also warms them up.
    rounds (int): How many times each reads the texts: A B C A B C ...
    threads (int): Threads for each.
    logs (Path): The directory for the messages of the processes.
    say (Callable): Told what happens.
    after_round (Callable): What else is to be measured in every round.
    RETURNS (list[dict]): One row a contender. "seconds" has its rounds, or "error" what went wrong.
    """
    rows: list[dict[str, Any]] = []
    running: list[tuple[dict[str, Any], Process]] = []
    for number, contender in enumerate(contenders):
        row: dict[str, Any] = {"name": contender.name, "precision": contender.precision}
        rows.append(row)
        try:
            process = Process(
                "contenders:Runner",
                threads=threads,
                log=logs / f"{number}-{contender.maker.partition(':')[2]}.log",
                title=contender.title,
                checkpoint=str(checkpoint),
                texts=texts,
            )
        except ProcessError as failure:
            row["error"] = str(failure)
            say(f"{contender.title}: {failure}")
            continue
        running.append((row, process))
        try:
            _warm_up(process, row, contender, sample)
            say(f"{contender.title}: ready, {row['setting'] or 'default settings'}")
        except ProcessError as failure:
            _drop(running, row, process, failure, say)

    for turn in range(rounds):
        for row, process in list(running):
            try:
                result = process.call("run", setting=row["setting"], n_texts=len(texts))
            except ProcessError as failure:
                _drop(running, row, process, failure, say)
                continue
            row.setdefault("seconds", []).append(result["seconds"])
            row |= {"found": result["found"], "peak_mb": result["peak_mb"]}
        after_round()
        say(f"round {turn + 1} of {rounds} done")
    for _, process in running:
        process.close()
    return rows


def _warm_up(process: Process, row: dict[str, Any], contender: Contender, sample: int) -> None:
    """Try the settings, and keep the fastest."""
    row |= process.call("about")
    row["tried"] = []
    for setting in contender.settings:
        process.call("run", setting=setting, n_texts=max(1, sample // 4))
        seconds = process.call("run", setting=setting, n_texts=sample)["seconds"]
        row["tried"].append({"setting": setting, "seconds": seconds})
    row["setting"] = min(row["tried"], key=lambda tried: tried["seconds"])["setting"]


def _drop(
    running: list, row: dict[str, Any], process: Process, failure: ProcessError, say: Any
) -> None:
    row["error"] = str(failure)
    row.pop("seconds", None)
    running.remove((row, process))
    process.close()
    say(f"{row['name']} {row['precision']}: {failure}")


def compare(rows: list[dict[str, Any]], words: int, flops: float, ceilings: dict[str, Any]) -> None:
    """Add what follows from the seconds: words a second, and the share of the ceiling.

    rows (list[dict]): From `race`; changed in place.
    words (int): Tokens in the texts, by spaCy's tokenizer, for every contender.
    flops (float): What ALBERT has to compute for them, without any padding.
    ceilings (dict): For each precision the measured ceiling; may be empty.
    """
    for row in rows:
        if "seconds" not in row:
            continue
        seconds = statistics.median(row["seconds"])
        row["words_per_second"] = words / seconds
        row["gflops"] = flops / seconds / 1e9
        ceiling = ceilings.get(row["precision"], {}).get("gflops")
        row["share_of_ceiling"] = row["gflops"] / ceiling if ceiling else None
