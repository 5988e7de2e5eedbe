"""Who annotates which shard, and what follows when a worker dies. Nothing here knows of Ray.

A document may kill the process that reads it. When a worker dies, its shard is tried again with
care: the next worker says which rows it is going to read. If it dies too, those rows are probed
one by one, so the next death names the row, which becomes an error; and the shard goes on.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from .errors import JobError
from .plan import Shard
from .worker import Attempt

#: How often a shard is tried that fails with an error, and one whose workers die elsewhere than in
#: reading a text.
FAILURES, DEATHS = 2, 3
#: How many workers in a row may fail to start, and shards in a row, before the job stops.
STARTS, SHARDS = 3, 5
POLL_SECONDS = 0.2


class Event(NamedTuple):
    """What happened to a worker.

    worker (int): Its number.
    kind (str): "ready" to take a shard for the first time, "done" with one, "failed" at one,
        "died", or "stopped" because its machine is gone.
    why (str): What went wrong.
    lasting (bool): Whether nobody else can do better: the disk is full.
    """

    worker: int
    kind: str
    why: str = ""
    lasting: bool = False


class Pool(Protocol):
    """Workers, which come and go."""

    def start(self) -> int:
        """Ask for one more worker, and give its number. It is "ready" when there is room."""

    def give(self, worker: int, shard: Shard, attempt: Attempt) -> None:
        """Have a worker try a shard."""

    def stop(self, worker: int) -> None:
        """End a worker, whatever it does."""

    def events(self, seconds: float) -> list[Event]:
        """Wait until something happens, but not for long."""

    def marked(self, shard: str) -> tuple[int, int] | None:
        """Tell which rows the last careful attempt at a shard was going to read."""

    def heard(self, shard: str) -> float:
        """Tell when something was last heard of a shard, in seconds of `clock`."""

    def clock(self) -> float:
        """Tell the time in seconds."""


@dataclass
class Work:
    """A shard that is not done."""

    shard: Shard
    attempt: Attempt
    failures: int = 0
    deaths: int = 0
    given: float = 0.0

    def died(self, marked: tuple[int, int] | None, why: str) -> str | None:
        """Draw conclusions from the death of a worker.

        marked (tuple | None): The rows that it was reading, if it said so.
        why (str): How it died.
        RETURNS (str | None): What a person should know of it.
        """
        attempt = self.attempt
        if not attempt.careful:
            self.attempt = attempt._replace(careful=True)
            return f"A worker died at {self.shard.name} ({why}): another one looks for the reason."
        if marked is None:
            self.deaths += 1
        elif marked[1] - marked[0] > 1:
            self.attempt = attempt._replace(probe=marked, singly=(*attempt.singly, marked))
        else:
            said = f"killed its worker: {why}"
            self.attempt = attempt._replace(known=(*attempt.known, (marked[0], said)))
            return f"Row {marked[0]:,} of {self.shard.source} {said}. It becomes an error."
        return None


@dataclass
class Schedule:
    """Have shards annotated by a pool of workers.

    pool (Pool): The workers.
    size (int): How many there may be at a time.
    stall_seconds (float): A worker of which nothing is heard for so long hangs, and is ended.
    least (int): How many workers are enough, as long as there is work for them.
    wait_seconds (float): For how long the job goes on with fewer.
    tell (Callable[[str], None]): Told what a person should know.
    """

    pool: Pool
    size: int
    stall_seconds: float
    least: int
    wait_seconds: float
    tell: Callable[[str], None]
    waiting: deque[Work] = field(default_factory=deque)
    busy: dict[int, Work] = field(default_factory=dict)
    idle: list[int] = field(default_factory=list)
    starting: set[int] = field(default_factory=set)

    def run(
        self, work: Sequence[tuple[Shard, Attempt]]
    ) -> Generator[tuple[str, str | None], None, None]:
        """Have shards annotated, the largest first, so that no long one is last.

        work (Sequence[tuple[Shard, Attempt]]): The shards, and how to begin with each.
        YIELDS (tuple[str, str | None]): The name of a shard that is done with, and what went wrong
            with it, if anything.
        RAISES (JobError): If no worker can be started, or there are too few of them for too long,
            or nothing succeeds any more.
        """
        largest_first = sorted(work, key=lambda pair: -pair[0].size)
        self.waiting.extend(Work(shard, attempt) for shard, attempt in largest_first)
        try:
            yield from self._until_done()
        finally:
            for worker in [*self.idle, *self.starting, *self.busy]:
                self.pool.stop(worker)

    def _until_done(self) -> Generator[tuple[str, str | None], None, None]:
        unlucky_starts, unlucky_shards, when_enough = 0, 0, self.pool.clock()
        while self.waiting or self.busy:
            self._staff()
            events = self.pool.events(POLL_SECONDS) + self._hanging()
            for event in events:
                tried = self.busy.pop(event.worker, None)
                if event.kind == "ready":
                    self.starting.discard(event.worker)
                    self.idle.append(event.worker)
                    unlucky_starts = 0
                elif event.kind in ("died", "stopped"):
                    if event.worker in self.idle:
                        self.idle.remove(event.worker)
                    if event.worker in self.starting:
                        self.starting.remove(event.worker)
                        unlucky_starts += event.kind == "died"
                    if unlucky_starts == STARTS:
                        raise JobError(f"The workers cannot start: {event.why}")
                else:
                    self.idle.append(event.worker)
                if tried is None:
                    continue
                if event.kind == "done" and tried.attempt.probe is None:
                    unlucky_shards = 0
                    yield tried.shard.name, None
                elif self._try_again(tried, event):
                    self.waiting.appendleft(tried)
                else:
                    unlucky_shards += 1
                    yield tried.shard.name, event.why
                if event.lasting or unlucky_shards == SHARDS + self.size:
                    raise JobError(f"The job stopped, as it could not go on: {event.why}")
            ready, left = len(self.idle) + len(self.busy), len(self.busy) + len(self.waiting)
            if ready >= min(self.least, left):
                when_enough = self.pool.clock()
            elif self.pool.clock() - when_enough > self.wait_seconds:
                few = f"Only {ready} of at least {self.least} workers were ready"
                raise JobError(
                    f"{few if ready else 'No worker was ready'} for {self.wait_seconds / 60:g} "
                    "minutes: the cluster has no room for more, or the pipeline takes longer to "
                    "load. Wait longer with --wait-minutes."
                )

    def _staff(self) -> None:
        """Give shards to workers, ask for as many workers as can be used, and let others go."""
        while self.waiting and self.idle:
            work, worker = self.waiting.popleft(), self.idle.pop()
            work.given = self.pool.clock()
            self.busy[worker] = work
            self.pool.give(worker, work.shard, work.attempt)
        while self.idle:  # nothing is left for them
            self.pool.stop(self.idle.pop())
        wanted = min(self.size - len(self.busy), len(self.waiting))
        while len(self.starting) < wanted:
            self.starting.add(self.pool.start())

    def _hanging(self) -> list[Event]:
        """End workers of which nothing has been heard for too long."""
        hanging = []
        for worker, work in self.busy.items():
            heard = max(work.given, self.pool.heard(work.shard.name))
            if self.pool.clock() - heard > self.stall_seconds:
                self.pool.stop(worker)
                why = f"it read nothing more for {self.stall_seconds:.0f} seconds"
                hanging.append(Event(worker, "died", why))
        return hanging

    def _try_again(self, work: Work, event: Event) -> bool:
        """Decide whether a shard is tried once more, and how.

        work (Work): The shard.
        event (Event): What happened.
        RETURNS (bool): Whether it is.
        """
        shard = work.shard.name
        if event.kind == "stopped":
            self.tell(f"A worker left {shard}, as {event.why}: another one begins it again.")
            return True
        if event.kind == "done":  # nothing happened to the rows one by one
            work.attempt = work.attempt._replace(probe=None)
            return True
        if event.kind == "failed":
            work.failures += 1
            again = not event.lasting and work.failures < FAILURES
            if again:
                self.tell(f"{shard} failed and is tried once more: {event.why}")
            return again
        if known := work.died(self.pool.marked(shard), event.why):
            self.tell(known)
        return work.deaths < DEATHS
