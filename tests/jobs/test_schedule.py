"""Who annotates which shard: with workers that die, hang, never start, and take their time."""

import heapq
import random
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_albert_jobs.errors import JobError
from spacy_albert_jobs.inputs import InputFile, RowGroup
from spacy_albert_jobs.plan import Shard, cut, default_shard_size
from spacy_albert_jobs.schedule import DEATHS, Event, Schedule
from spacy_albert_jobs.worker import Attempt

BATCH = 4  # rows
FOREVER = 10.0**9


class MadeUpPool:
    """Workers that exist on paper, and a clock that runs as fast as one likes.

    seconds (Callable): How long a worker takes for a shard.
    poison (dict[str, set[int]]): Rows of shards that kill whoever reads them.
    hangs (dict[str, set[int]]): Rows at which a worker hangs.
    trouble (list[Event]): What else happens, each to the next worker that is given a shard.
    """

    def __init__(
        self,
        seconds: Callable[[int, Shard], float] = lambda worker, shard: 1.0,
        poison: dict[str, set[int]] | None = None,
        hangs: dict[str, set[int]] | None = None,
        trouble: list[tuple[str, str, bool]] | None = None,
        start_seconds: float = 1.0,
        starts: bool = True,
    ) -> None:
        self.seconds, self.poison, self.hangs = seconds, poison or {}, hangs or {}
        self.trouble, self.start_seconds, self.starts = trouble or [], start_seconds, starts
        self.time, self.numbers, self.queue = 0.0, count(), []
        self.alive: set[int] = set()
        self.marks: dict[str, tuple[int, int]] = {}
        self.deaths, self.given = 0, 0
        self.began: dict[int, float] = {}
        self.worked: dict[int, float] = {}
        self.attempts: list[tuple[str, Attempt]] = []

    def start(self) -> int:
        number = next(self.numbers)
        self.alive.add(number)
        self.began[number], self.worked[number] = self.time + self.start_seconds, 0.0
        kind = "ready" if self.starts else "died"
        self.happen(self.start_seconds, Event(number, kind, "no such package"))
        return number

    def happen(self, seconds: float, event: Event) -> None:
        heapq.heappush(self.queue, (self.time + seconds, next(self.numbers), event))

    def give(self, worker: int, shard: Shard, attempt: Attempt) -> None:
        assert worker in self.alive
        self.given += 1
        self.attempts.append((shard.name, attempt))
        self.marks.pop(shard.name, None)
        if self.trouble:
            kind, why, lasting = self.trouble.pop()
            self.happen(0.5, Event(worker, kind, why, lasting))
            return
        whole = self.seconds(worker, shard)
        first, last = attempt.probe or (shard.start, shard.start + shard.rows)
        for row in range(first, last):
            batch = row - (row - shard.start) % BATCH
            rows = (batch, min(batch + BATCH, shard.start + shard.rows))
            alone = attempt.probe or any(a <= row < b for a, b in attempt.singly)
            if attempt.careful:
                self.marks[shard.name] = (row, row + 1) if alone else rows
            if row in dict(attempt.known):
                continue
            if row in self.poison.get(shard.name, ()):
                self.happen(whole / 2, Event(worker, "died", "a crash"))
                return
            if row in self.hangs.get(shard.name, ()):
                return
        self.worked[worker] += whole
        self.happen(whole, Event(worker, "done"))

    def stop(self, worker: int) -> None:
        self.alive.remove(worker)
        self.queue = [entry for entry in self.queue if entry[2].worker != worker]
        heapq.heapify(self.queue)

    def events(self, seconds: float) -> list[Event]:
        if not self.queue or self.queue[0][0] > self.time + 100:
            self.time += 100
            return []
        self.time, _, event = heapq.heappop(self.queue)
        if event.kind in ("died", "stopped"):
            self.alive.discard(event.worker)
            self.deaths += 1
        return [event]

    def marked(self, shard: str) -> tuple[int, int] | None:
        return self.marks.get(shard)

    def heard(self, shard: str) -> float:
        return 0.0

    def clock(self) -> float:
        return self.time


def shards_of(sizes: list[int], rows: int = 10) -> list[Shard]:
    return [Shard(f"part-{n}", "in", (0, 1), n * rows, rows, size) for n, size in enumerate(sizes)]


def run(
    pool: MadeUpPool,
    shards: list[Shard],
    workers: int = 2,
    least: int = 1,
    tell: Callable[[str], None] = str,
) -> dict[str, str | None]:
    schedule = Schedule(pool, workers, 3600, least, 600, tell)
    answers = list(schedule.run([(shard, Attempt()) for shard in shards]))
    assert len(answers) == len(dict(answers)) == len(shards)
    assert not schedule.busy
    assert not schedule.waiting
    return dict(answers)


def test_each_shard_is_done_once_and_the_largest_first():
    pool, shards = MadeUpPool(), shards_of([1, 5, 3, 4, 2])
    assert run(pool, shards) == dict.fromkeys(shard.name for shard in shards)
    assert [name for name, _ in pool.attempts] == ["part-1", "part-3", "part-2", "part-4", "part-0"]
    assert not pool.alive  # nobody is kept when there is nothing to do


def test_no_more_workers_than_shards():
    pool = MadeUpPool()
    run(pool, shards_of([1, 1]), workers=50)
    assert len(pool.began) == 2


@given(
    st.integers(1, 4),
    st.lists(st.sets(st.integers(0, 9), max_size=3), min_size=1, max_size=6),
    st.booleans(),
)
def test_rows_that_kill_are_found_and_the_others_come_out(workers, poison, hang):
    shards = shards_of([1] * len(poison))
    rows = {s.name: {s.start + row for row in some} for s, some in zip(shards, poison)}
    pool = MadeUpPool(hangs=rows) if hang else MadeUpPool(poison=rows)
    assert run(pool, shards, workers) == dict.fromkeys(shard.name for shard in shards)
    for shard in shards:
        last = [attempt for name, attempt in pool.attempts if name == shard.name][-1]
        assert dict(last.known).keys() == rows[shard.name]
        assert last.probe is None
        why = "read nothing more for 3600 seconds" if hang else "killed its worker: a crash"
        assert all(why in said for _, said in last.known)
        # one death tells that there is something, one in which batch, and one for each row
        tries = [attempt for name, attempt in pool.attempts if name == shard.name]
        assert len(tries) <= 1 + 4 * len(rows[shard.name])


def test_a_lost_machine_is_nobodys_fault():
    pool = MadeUpPool(trouble=[("stopped", "its machine is gone", False)] * 20)
    shards = shards_of([1, 1])
    assert run(pool, shards) == dict.fromkeys(shard.name for shard in shards)
    assert all(attempt == Attempt() for _, attempt in pool.attempts)


def test_a_worker_that_dies_elsewhere_than_in_a_text():
    pool = MadeUpPool(trouble=[("died", "out of memory", False)] * (1 + DEATHS))
    (why,) = run(pool, shards_of([1])).values()
    assert why == "out of memory"


def test_a_shard_that_fails_is_tried_once_more():
    pool = MadeUpPool(trouble=[("failed", "OSError: try again", False)])
    assert run(pool, shards_of([1])) == {"part-0": None}
    pool = MadeUpPool(trouble=[("failed", "OSError: in.parquet, row group 3", False)] * 2)
    assert run(pool, shards_of([1])) == {"part-0": "OSError: in.parquet, row group 3"}


def test_a_full_disk_stops_the_job():
    pool = MadeUpPool(trouble=[("failed", "OSError: No space left on device", True)])
    with pytest.raises(JobError, match="could not go on: OSError: No space left"):
        run(pool, shards_of([1] * 10))
    assert pool.given == 2


def test_a_job_in_which_nothing_succeeds_stops():
    pool = MadeUpPool(trouble=[("failed", "OSError: no such bucket", False)] * 1000)
    with pytest.raises(JobError, match="no such bucket"):
        run(pool, shards_of([1] * 100))
    assert pool.given < 30


def test_workers_that_cannot_start():
    pool = MadeUpPool(starts=False)
    with pytest.raises(JobError, match="cannot start: no such package"):
        run(pool, shards_of([1] * 10))


def test_workers_for_which_there_is_no_room():
    pool = MadeUpPool(start_seconds=FOREVER)
    with pytest.raises(JobError, match=r"No worker was ready for 10 minutes: .*--wait-minutes"):
        run(pool, shards_of([1] * 10))


def test_fewer_workers_than_are_enough():
    pool = MadeUpPool(lambda worker, shard: 50.0)
    start = pool.start

    def one_and_no_more() -> int:
        pool.start_seconds = FOREVER if pool.began else 1.0
        return start()

    pool.start = one_and_no_more  # type: ignore[method-assign]
    with pytest.raises(JobError, match="Only 1 of at least 3 workers were ready for 10 minutes"):
        run(pool, shards_of([1] * 40), workers=4, least=3)
    assert 600 < pool.time < 800
    assert not pool.alive
    # with as little left as one worker does, one is enough
    pool = MadeUpPool(lambda worker, shard: 1000.0)
    assert run(pool, shards_of([1, 1]), workers=4, least=3) == {"part-0": None, "part-1": None}


def test_workers_that_go_away_and_do_not_come_back():
    pool = MadeUpPool(trouble=[("stopped", "its machine is gone", False)])
    start = pool.start

    def once() -> int:
        pool.start_seconds = FOREVER if pool.given else 1.0
        return start()

    pool.start = once  # type: ignore[method-assign]
    with pytest.raises(JobError, match="No worker was ready for 10 minutes"):
        run(pool, shards_of([1]))


def test_a_person_is_told_what_goes_wrong_in_a_line_each():
    said: list[str] = []
    run(MadeUpPool(poison={"part-0": {1, 6}}), shards_of([1]), tell=said.append)
    assert said == [
        "A worker died at part-0 (a crash): another one looks for the reason.",
        "Row 1 of in killed its worker: a crash. It becomes an error.",
        "Row 6 of in killed its worker: a crash. It becomes an error.",
    ]
    said.clear()
    trouble = [("failed", "OSError: again", False), ("stopped", "its machine is gone", False)]
    run(MadeUpPool(trouble=trouble), shards_of([1]), tell=said.append)
    assert said == [
        "A worker left part-0, as its machine is gone: another one begins it again.",
        "part-0 failed and is tried once more: OSError: again",
    ]


def test_workers_that_come_late_take_part():
    late = MadeUpPool(lambda worker, shard: 10.0)
    start = late.start

    def one_then_more() -> int:
        late.start_seconds = 1.0 if not late.began else 50.0
        return start()

    late.start = one_then_more  # type: ignore[method-assign]
    run(late, shards_of([1] * 40), workers=4)
    assert late.time < 150


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]
)
@pytest.mark.parametrize("workers", [2, 16, 64])
def test_hardly_anybody_is_idle_at_the_end(seed, workers):
    """Over files, row groups and documents of very different sizes, on machines of different
    speed: of all the time from the start to the end, workers have nothing to do for under 5 %."""
    rng = random.Random(seed)
    files = []
    for number in range(300):
        groups = []
        for _ in range(rng.choice([1, 1, 2, 20])):
            rows = int(rng.lognormvariate(7, 1.5)) + 1
            size = int(rows * rng.lognormvariate(7, 0.7))
            groups.append(RowGroup(rows, size, size))
        files.append(InputFile(f"{number}.parquet", 0, tuple(groups), None))  # type: ignore[arg-type]
    shards = cut(files, default_shard_size(files))
    largest = max(group.text_bytes for file in files for group in file.row_groups)
    assert largest > 10 * default_shard_size(files)  # or else it would be easy
    speed = [rng.uniform(0.8, 1.2) for _ in range(1000)]
    noise = random.Random(seed)

    def seconds(worker: int, shard: Shard) -> float:
        return (shard.size / 10_000) * noise.uniform(0.8, 1.25) / speed[worker % 1000] + 0.05

    pool = MadeUpPool(seconds)
    run(pool, shards, workers)
    available = sum(pool.time - began for began in pool.began.values())
    assert 1 - sum(pool.worked.values()) / available < 0.05
