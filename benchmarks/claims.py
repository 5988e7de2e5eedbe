"""What spacy-albert claims, and what a run has shown of it."""

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

OURS = "spacy-albert"
LOOP = "loop by hand"
RANDOM = "spacy-albert, random weights"


class Claim(NamedTuple):
    """A number that should not be below, or not above, a bound."""

    text: str
    bound: float
    at_least: bool
    seen: float | None  # None: not measured in this run

    @property
    def holds(self) -> bool | None:
        """RETURNS (bool | None): Whether it holds; None if it was not measured."""
        if self.seen is None:
            return None
        return self.seen >= self.bound if self.at_least else self.seen <= self.bound


def check(results: dict[str, Any]) -> list[Claim]:
    """Compare the results of a run with every claim.

    results (dict): What `python -m benchmarks` writes.
    RETURNS (list[Claim]): The claims.
    """
    return [
        *_speed(results),
        *_stages(results),
        *_memory(results),
        *_answers(results),
        *_job(results),
    ]


def quality(results: dict[str, Any]) -> list[Claim]:
    """Compare the results of `python -m benchmarks quality` with every claim.

    results (dict): What it writes.
    RETURNS (list[Claim]): The claims.
    """
    claims = []
    for name, task in results["tasks"].items():
        plain, ours, random = (task["sides"][side] for side in (LOOP, OURS, RANDOM))
        below = ratio(plain["mean"] - ours["mean"], plain["deviation"])
        text = f"{name}: how far below the loop's mean, in its standard deviations"
        claims.append(Claim(text, 1.0, False, below))
        gap = min(ours["scores"]) - max(random["scores"])
        text = f"{name}: points from the best of random weights to the worst of pre-trained"
        claims.append(Claim(text, 1.0, True, gap))
        claims.append(Claim(f"{name}: times the speed of the loop", 1.0, True, task["times_loop"]))
    for precision, row in results["pretraining"].items():
        text = f"pre-training in {precision}: times the speed of the loop"
        claims.append(Claim(text, 1.3, True, row["times_loop"]))
    return claims


def row_of(results: dict[str, Any], name: str, precision: str) -> dict[str, Any]:
    """RETURNS (dict): What is known of a contender; nothing if it took no part."""
    rows = results.get("contenders") or []
    return next((r for r in rows if (r["name"], r["precision"]) == (name, precision)), {})


def times(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    """Compare two contenders by their turns in each round, as machines are faster in some minutes
    than in others.

    one, other (dict): Rows of the contenders.
    RETURNS (float | None): How many times as fast one is as the other, in the median round; None if
        either has no result.
    """
    rounds = list(zip(one.get("seconds", ()), other.get("seconds", ())))
    return statistics.median(theirs / ours for ours, theirs in rounds) if rounds else None


def ratio(a: float | None, b: float | None) -> float | None:
    """RETURNS (float | None): a / b; None if either is not there."""
    return a / b if a is not None and b is not None else None


def _speed(results: dict[str, Any]) -> Iterator[Claim]:
    peer = row_of(results, "spacy-transformers", "float32")
    for precision, bound in (("float32", 2.5), ("bfloat16", 5.0), ("int8", 8.0)):
        seen = times(row_of(results, OURS, precision), peer)
        yield Claim(f"{precision}: times the speed of spacy-transformers", bound, True, seen)
    for precision, bound in (("float32", 1.2), ("bfloat16", 1.5)):
        seen = times(row_of(results, OURS, precision), row_of(results, LOOP, precision))
        yield Claim(f"{precision}: times the speed of a loop by hand", bound, True, seen)
    for precision, share in (("float32", 0.85), ("bfloat16", 0.80)):
        seen = row_of(results, OURS, precision).get("share_of_ceiling")
        yield Claim(f"{precision}: share of the measured ceiling", share, True, seen)
    one = row_of(results, f"{OURS}, entities only", "float32")
    dearer = times(one, row_of(results, OURS, "float32"))
    more = None if dearer is None else dearer - 1
    yield Claim("float32: what a second head adds to the time", 0.03, False, more)


def _stages(results: dict[str, Any]) -> Iterator[Claim]:
    stages = _ran(results, "stages")
    for kind in ("paragraphs", "short texts"):
        padding = stages.get("padding", {}).get(kind, {}).get("rows")
        yield Claim(f"{kind}: share of padding in matrix products", 0.03, False, padding)
    beside = stages.get("beside")
    yield Claim("beside the forward pass: µs a word on one core", 6.0, False, beside)
    gap = ratio(stages.get("sum"), stages.get("total"))
    gap = None if gap is None else abs(gap - 1)
    yield Claim("stages: how far their sum is from the total", 0.10, False, gap)


def _memory(results: dict[str, Any]) -> Iterator[Claim]:
    grown = _ran(results, "memory").get("grown_mb")
    yield Claim("many short texts: MB that memory grows, once settled", 50.0, False, grown)
    seen = _ran(results, "long_text").get("base shape", {}).get("times_windows")
    text = "one long document: cost of a character, in those of texts of one window"
    yield Claim(text, 1.1, False, seen)


def _answers(results: dict[str, Any]) -> Iterator[Claim]:
    rows = _ran(results, "agreement").get("precisions", {})
    exact = rows.get("float32", {}).get("f1", {})
    for precision, share in (("bfloat16", 0.999), ("int8", 0.995)):
        row = rows.get(precision, {})
        yield Claim(f"{precision}: same tags as float32", share, True, row.get("same_tags"))
        off = [abs(points - exact[name]) for name, points in row.get("f1", {}).items()]
        far = max(off, default=None)
        yield Claim(f"{precision}: points of F1 away from float32", 0.2, False, far)
    for precision in ("float32", "bfloat16", "int8"):
        company = rows.get(precision, {}).get("company", {})
        same, far = company.get("same_tags"), company.get("score_difference")
        yield Claim(f"{precision}: same tags alone and in any company", 1.0, True, same)
        yield Claim(f"{precision}: difference of scores in any company", 1e-3, False, far)


def _job(results: dict[str, Any]) -> Iterator[Claim]:
    job = _ran(results, "job")
    text = "job with one worker: what it keeps of the speed of a bare nlp.pipe"
    yield Claim(text, 0.97, True, job.get("kept"))
    yield Claim("job with two workers: times the speed of one", 1.85, True, job.get("times"))
    seconds = job.get("1 worker", {}).get("start_seconds")
    yield Claim("job: seconds until the first worker can begin", 15.0, False, seconds)


def _ran(results: dict[str, Any], section: str) -> dict[str, Any]:
    """RETURNS (dict): The results of a section; nothing if it was not run or failed."""
    return results.get(section) or {}
