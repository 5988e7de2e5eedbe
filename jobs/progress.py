"""How far a job is: a live view on a terminal, a line now and then elsewhere."""

import contextlib
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .plan import Plan
from .pool import View, WorkerState

#: The time between two lines: at first, in a long job, and the share of its time between.
LINE_SECONDS, LAST_LINE_SECONDS, LINE_SHARE = 10, 60, 0.1
#: What "lately" means: so long, and so many reports.
PACE_SECONDS, PACE_REPORTS = 60, 4
#: Points of a timeline, at most.
POINTS = 200
#: Workers that are shown, and for how long nothing is heard of one before that is shown, and how.
WORKERS, SILENT_SECONDS, FOR_BATCH = 12, 60, " for this batch"
#: Below these widths of a terminal a worker has no bar, and no file.
FOR_BARS, FOR_FILES = 90, 45


class Terminal(Console):
    """A console that falls silent when nobody listens any more, where one of rich would end the
    program; and that writes for one thread at a time, from the first escape code to the last, as
    each moves the cursor to where the view was that it knew.
    """

    def __init__(self, **options: Any) -> None:
        self.turn = threading.RLock()
        super().__init__(**options)

    def __enter__(self) -> "Terminal":
        self.turn.acquire()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self.turn.release()

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Pace:
    """How much is done in a second, lately.

    A worker reports whole batches, and one may take it minutes. So "lately" is also a number of
    reports, and the pace does not slacken before the next report is late.
    """

    def __init__(self) -> None:
        self.last = self.work = (0.0, 0.0, 0.0)
        self.reports = deque([(0.0, self.work)])

    def add(self, seconds: float, rows: float, words: float, size: float) -> None:
        """Know how much is done by now. When that is less than before, because a shard is begun
        again, what has been lost was work all the same.

        seconds (float): The time.
        rows (float): The rows that are done.
        words (float): Their words.
        size (float): The bytes of their texts.
        """
        now, done = (rows, words, size), zip(self.work, (rows, words, size), self.last)
        first, second, third = (work + max(new - old, 0) for work, new, old in done)
        self.work, self.last = (first, second, third), now
        if self.work != self.reports[-1][1]:
            self.reports.append((seconds, self.work))
        while len(self.reports) > PACE_REPORTS + 1 and self.reports[1][0] < seconds - PACE_SECONDS:
            self.reports.popleft()

    def at(self, seconds: float) -> tuple[float, float, float] | None:
        """Tell how fast it goes.

        seconds (float): The time.
        RETURNS (tuple[float, float, float] | None): Rows, words and bytes a second; None while
            nothing is known.
        """
        (start, before), (end, after) = self.reports[0], self.reports[-1]
        if end <= start:
            return None
        due = end + (end - start) / (len(self.reports) - 1)
        rows, words, size = (
            (a - b) / (end - start + max(seconds - due, 0)) for a, b in zip(after, before)
        )
        return rows, words, size


class Timeline:
    """How far a run was when. However long it is, there are about as many points."""

    def __init__(self) -> None:
        self.points: list[list[float]] = [[0.0, 0, 0]]
        self.step = 0.5

    def add(self, seconds: float, rows: int, words: int) -> None:
        """Know how far the run is. The last point is always what was said last.

        seconds (float): The time.
        rows (int): The rows that are done. A shard that is begun again takes none away.
        words (int): Their words.
        """
        _, before, words_before = self.points[-1]
        point = [round(seconds, 1), max(rows, before), max(words, words_before)]
        if len(self.points) > 1 and self.points[-1][0] - self.points[-2][0] < self.step:
            self.points[-1] = point
        else:
            self.points.append(point)
        if len(self.points) > POINTS:
            del self.points[1:-1:2]
            self.step *= 2


class Progress:
    """Show the progress of a job on standard error, while the block runs. No error in showing it
    stops the job.

    plan (Plan): The plan of the job.
    todo (int): How many of its shards this run is to do.
    earlier_rows (int): The rows that earlier runs have done.
    quiet (bool): Show nothing.
    console (Terminal | None): Where to show it instead.
    clock (Callable[[], float]): Tells the time in seconds.
    """

    def __init__(
        self,
        plan: Plan,
        todo: int,
        earlier_rows: int,
        quiet: bool,
        console: Terminal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Terminal(stderr=True, quiet=quiet)
        self.clock = clock
        self.rows, self.earlier_rows = plan.rows, earlier_rows
        self.earlier_shards = len(plan.shards) - todo
        self.shards = {shard.name: shard for shard in plan.shards}
        # rows of one file may be a hundred times as long as those of another; the largest shards
        # are done first, so the smallest are what earlier runs have left
        self.size = sum(sorted(shard.size for shard in plan.shards)[:todo])
        self.size_done = 0
        self.finished: set[str] = set()
        self.at_work: dict[str, tuple[int, float]] = {}  # their rows, and when that was news
        self.view, self.pace, self.line = View(), Pace(), Timeline()
        self.began = self.next_line = clock()
        self.lock = threading.Lock()
        self.stack = contextlib.ExitStack()
        self.live: Live | None = None
        if self.console.is_terminal and not (quiet or self.console.is_dumb_terminal):
            # drawn by `show` alone: a thread of its own would draw the same again
            self.live = Live(
                console=self.console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            )

    @property
    def seconds(self) -> float:
        """The time since the first worker was ready."""
        return self.view.seconds

    @property
    def timeline(self) -> list[list[float]]:
        """Seconds, rows and words of this run, from its first worker to its end."""
        return self.line.points

    def __enter__(self) -> "Progress":
        self.began = self.next_line = self.clock()
        if self.live:
            streams = sys.stdout, sys.stderr
            with contextlib.suppress(Exception), self.console:
                self.stack.enter_context(self.live)
                self.stack.enter_context(logs_moved(streams, (sys.stdout, sys.stderr)))
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(Exception), self.console:
            self.stack.close()

    def show(self, view: View) -> None:
        """Show how far the run is.

        view (View): How far it is.
        """
        with self.lock:
            self.view = view
            for worker in view.workers:
                if not worker.shard or worker.shard in self.finished:
                    continue  # the view may be older than what `done` was told
                if self.at_work.get(worker.shard, (-1,))[0] != worker.rows:
                    self.at_work[worker.shard] = worker.rows, view.seconds
            partly = sum(
                self.shards[name].size * rows // max(self.shards[name].rows, 1)
                for name, (rows, _) in self.at_work.items()
            )
            self.pace.add(view.seconds, view.rows, view.words, self.size_done + partly)
            self.line.add(view.seconds, view.rows, view.words)
        self._draw()

    def say(self, what: str) -> None:
        """Write something that stays, above the live view.

        what (str): A sentence.
        """
        with contextlib.suppress(Exception):
            self.console.print(what, soft_wrap=True, highlight=False, markup=False)

    def done(self, name: str) -> None:
        """Know that a shard is done with.

        name (str): Its name.
        """
        with self.lock:
            self.finished.add(name)
            self.size_done += self.shards[name].size
            self.at_work.pop(name, None)

    def _draw(self) -> None:
        with contextlib.suppress(Exception):
            if self.live:
                # outside of the lock: a terminal that somebody has stopped must not stop the job
                drawing = self.drawing()
                with self.console:  # before the lock of the view, as all others take them
                    self.live.update(drawing, refresh=True)
                return
            now = self.clock()
            if now >= self.next_line:
                line = " · ".join(field for fields in self.fields() for field in fields)
                self.console.print(line, soft_wrap=True, highlight=False, markup=False)
                pause = min(max(LINE_SECONDS, LINE_SHARE * (now - self.began)), LAST_LINE_SECONDS)
                self.next_line = now + pause

    def fields(self) -> tuple[list[str], list[str]]:
        """Say how far the job is, and how fast it goes, in a few words each."""
        with self.lock:
            view, pace = self.view, self.pace.at(self.view.seconds)
            ready = self.earlier_shards + len(self.finished)
            done = min(self.earlier_rows + view.rows, self.rows)
            unread = max(self.size - self.pace.last[2], 0)
        elapsed = f"{clock(self.clock() - self.began)} elapsed"
        if not view.workers and not view.rows:
            return ["starting the workers", elapsed], []
        how_far = [
            share(done, self.rows),
            f"{done:,} of {self.rows:,} rows",
            f"{ready:,} of {len(self.shards):,} shards",
            "1 error" if view.errors == 1 else f"{view.errors:,} errors",
        ]
        how_fast = []
        if pace:
            how_fast += [f"{pace[0]:,.{digits(pace[0])}f} rows/s", f"{pace[1]:,.0f} words/s"]
        how_fast.append(elapsed)
        if pace and pace[2]:
            how_fast.append(f"{clock(unread / pace[2])} left")
        return how_far, how_fast

    def drawing(self) -> RenderableType:
        """Draw how far the job is, no wider and no higher than the terminal."""
        width, height = self.console.size
        lines = [line for fields in self.fields() for line in packed(fields, width)]
        head = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
        head.highlight_regex(r"[1-9][\d,]* errors?", "red")
        done = min(self.earlier_rows + self.view.rows, self.rows)
        bar = Table.grid(expand=True)
        bar.add_row(ProgressBar(max(self.rows, 1), done if self.rows else 1))
        workers = self.view.workers
        room = min(WORKERS, height - len(lines) - 3)
        if room < min(len(workers), 2) or not workers:
            return Group(bar, head)
        shown = workers if len(workers) <= room else workers[: room - 1]
        parts: list[RenderableType] = [bar, head, "", self._table(shown, width)]
        others = workers[len(shown) :]
        if others:
            busy = sum(bool(worker.shard) for worker in others)
            more = f"... and {len(others):,} more workers, {busy:,} of them at work"
            parts.append(Text(more, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _table(self, workers: Sequence[WorkerState], width: int) -> Table:
        """Draw what workers do: where each is, how far it is with a shard, and what that is of.

        workers (Sequence[WorkerState]): The workers.
        width (int): The width of the terminal.
        RETURNS (Table): The drawing.
        """
        shards = [self.shards.get(worker.shard) for worker in workers]
        counts = [
            f"{worker.rows:,} of {shard.rows:,}" if shard else "waiting"
            for worker, shard in zip(workers, shards)
        ]
        # the widest that a count can become, so that columns stay where they are
        wide = max(2 * len(f"{shard.rows:,}") + 4 if shard else 0 for shard in shards)
        wide = max(wide, len("waiting"))
        where = max(len(worker.where) for worker in workers)
        bar = min(width // 8, 20) if width >= FOR_BARS else 0
        room = width - where - wide - bar - (3 if bar else 2) * 2
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, width=min(where, width), overflow="ellipsis")
        if bar:
            table.add_column(width=bar)
        table.add_column(no_wrap=True, width=wide, justify="right", overflow="ellipsis")
        if room > 0 and width >= FOR_FILES:
            table.add_column(no_wrap=True, width=room, overflow="ellipsis")
        for worker, shard, count in zip(workers, shards, counts):
            cells: list[RenderableType] = [Text(worker.where), Text(count)]
            if bar:
                mini = ProgressBar(max(shard.rows, 1), worker.rows, width=bar) if shard else ""
                cells.insert(1, mini)
            if room > 0 and width >= FOR_FILES:
                cells.append(self._source(worker, room))
            table.add_row(*cells, style="" if shard else "dim")
        return table

    def _source(self, worker: WorkerState, room: int) -> Text:
        """Say what a worker reads, and for how long nothing has been heard of it if that is long.

        worker (WorkerState): The worker.
        room (int): How long the text may be.
        RETURNS (Text): The text.
        """
        shard = self.shards.get(worker.shard)
        if not shard:
            return Text()
        _, since = self.at_work.get(worker.shard, (0, self.view.seconds))
        silence = self.view.seconds - since
        silent = f"  {clock(silence)}" if silence >= SILENT_SECONDS else ""
        if silent and room >= len(silent) + 2 * len(FOR_BATCH):
            silent += FOR_BATCH
        start = f" from row {shard.start:,}" if shard.start else ""
        room -= len(silent)
        if len(shard.source) + len(start) > room:
            start = ""
        return Text.assemble(ending(shard.source, room), (start, "dim"), (silent, "yellow"))


@contextlib.contextmanager
def logs_moved(before: Sequence[object], after: Sequence[object]) -> Iterator[None]:
    """Have loggers that have already been set up write above the live view, not into it.

    before (Sequence[object]): The streams that they write to.
    after (Sequence[object]): Those that they are to write to while the block runs.
    """
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    moved = []
    for handler in handlers:
        if not isinstance(handler, logging.StreamHandler):
            continue
        for old, new in zip(before, after):
            if handler.stream is old and old is not new:
                handler.setStream(new)
                moved.append((handler, old))
                break
    try:
        yield
    finally:
        for handler, old in moved:
            handler.setStream(old)


def packed(fields: Sequence[str], width: int) -> list[str]:
    """Join fields to lines, as many in each as fit."""
    lines: list[str] = []
    for field in fields:
        if lines and len(lines[-1]) + 3 + len(field) <= width:
            lines[-1] += f" · {field}"
        else:
            lines.append(field)
    return lines


def ending(path: str, room: int) -> str:
    """Shorten a path to its end, which tells more than its beginning."""
    return path if len(path) <= room else "…" + path[len(path) - max(room - 1, 0) :]


def digits(rate: float) -> int:
    """How many decimals are worth writing."""
    return 0 if rate >= 10 else 1


def share(part: float, whole: float) -> str:
    """Say what part of a whole something is; all is only said of all, and none of nothing."""
    if not whole:
        return "100 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<0.1 %"
    return f"{min(percent, 99.9):.1f} %" if part < whole else "100 %"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24:,} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextlib.contextmanager
def counting(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Show on standard error, on a terminal, how much of something is done.

    what (str): What is counted, such as "rows".
    quiet (bool): Show nothing.
    YIELDS (Callable): To be told how many are done, of how many.
    """
    console = Terminal(stderr=True, quiet=quiet)
    with Bar(
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.description}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=1)
        yield lambda done, total: bar.update(task, completed=done, total=total)
