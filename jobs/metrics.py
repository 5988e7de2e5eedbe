"""What Ray exports to Prometheus about a job: `ray_spacy_albert_rows_total` and so on. Ray does so
where `ray[default]` is installed, at the port that `ray start --metrics-export-port` names.

Whatever goes wrong here, the job goes on.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

COUNTERS = {
    "rows": "Rows that have been read; those of a shard that is begun again once more",
    "words": "Words that have been read",
    "errors": "Rows that could not be annotated",
}
GAUGES = {
    "shards_done": "Shards that this run has done",
    "shards_left": "Shards that this run has not done yet",
    "workers": "Workers that are ready",
    "workers_busy": "Workers that have a shard",
}
BATCH_SECONDS = [step * unit for unit in (0.1, 1, 10, 100) for step in (1, 2, 5)] + [1000]


def counters(
    tags: dict[str, str], clock: Callable[[], float] = time.monotonic
) -> Callable[[str, int, int, int], None]:
    """Make the counters of a worker: rows, words, errors and how long batches take.

    tags (dict[str, str]): Labels by which jobs can be told apart.
    clock (Callable[[], float]): Tells the time in seconds.
    RETURNS (Callable): To be told, after each batch, the name of a shard and its rows, words and
        errors so far.
    """
    made: list[Any] = []
    with contextlib.suppress(Exception):
        from ray.util.metrics import Counter, Histogram

        made = [tagged(Counter, name, what, tags) for name, what in COUNTERS.items()]
        what = "Seconds from one batch of a worker to its next"
        seconds = tagged(Histogram, "batch_seconds", what, tags, boundaries=BATCH_SECONDS)
    shard = ""
    last: tuple[int, ...] = 0, 0, 0
    when: float | None = None

    def count(name: str, *counts: int) -> None:
        nonlocal shard, last, when
        # one that is begun again begins at 0: what is done twice counts twice, and nothing less
        before = last if name == shard and counts[0] > last[0] else (0, 0, 0)
        since, shard, last, when = when, name, counts, clock()
        with contextlib.suppress(Exception):
            for counter, new, old in zip(made, counts, before):
                if new > old:
                    counter.inc(new - old)
            if since is not None:
                seconds.observe(when - since)

    return count


def gauges(tags: dict[str, str]) -> Callable[..., None]:
    """Make the gauges of a run.

    tags (dict[str, str]): Labels by which jobs can be told apart.
    RETURNS (Callable): To be told now and then how things stand, by names of GAUGES.
    """
    made: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        from ray.util.metrics import Gauge

        made = {name: tagged(Gauge, name, what, tags) for name, what in GAUGES.items()}

    def tell(**values: int) -> None:
        with contextlib.suppress(Exception):
            for name, value in values.items():
                made[name].set(value)

    return tell


def tagged(kind: Any, name: str, what: str, tags: dict[str, str], **options: Any) -> Any:
    metric = kind(f"spacy_albert_{name}", what, tag_keys=tuple(tags), **options)
    return metric.set_default_tags(tags)
