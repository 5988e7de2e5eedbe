"""What is shown while a job runs, on terminals of all sizes and elsewhere."""

import io
import logging
import re
import sys
import threading
from collections.abc import Iterable
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from spacy_albert_jobs.outputs import Outputs
from spacy_albert_jobs.plan import Plan, Shard
from spacy_albert_jobs.pool import View, WorkerState
from spacy_albert_jobs.progress import (
    POINTS,
    Pace,
    Progress,
    Terminal,
    Timeline,
    clock,
    ending,
    packed,
    share,
)


def plan(shards: Iterable[tuple[int, int]]) -> Plan:
    """A plan of shards of so many rows and bytes."""
    made = [
        Shard(f"part-{n:05}.parquet", f"wiki/enwiki-{n:05}.parquet", (0, 1), 1000 * n, rows, size)
        for n, (rows, size) in enumerate(shards)
    ]
    return Plan({}, pa.schema([]), Outputs(True, (), (), True), made, [])


def terminal(width: int = 100, height: int = 30) -> Terminal:
    file = io.StringIO()
    return Terminal(
        file=file,
        force_terminal=True,
        width=width,
        height=height,
        legacy_windows=False,
        _environ={},
    )


def told(console: Terminal) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Screen:
    """The few things of a terminal that a live view uses."""

    def __init__(self, output: str) -> None:
        self.lines, row, column = [""], 0, 0
        for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|.|\n", output):
            if token == "\n":
                row, column = row + 1, 0
                self.lines += [""] * (row + 1 - len(self.lines))
            elif token == "\r":
                column = 0
            elif not token.startswith("\x1b"):
                line = self.lines[row].ljust(column)
                self.lines[row] = line[:column] + token + line[column + 1 :]
                column += 1
            elif token.endswith("A"):
                row -= int(token[2:-1])
                assert row >= 0, "above what was drawn"
            elif token == "\x1b[2K":
                self.lines[row] = ""
            else:
                assert token[-1] in "mhl", token

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).strip("\n")


def workers(number: int, rows: int = 500) -> tuple[WorkerState, ...]:
    return tuple(
        WorkerState(f"10.0.0.{n}:4{n:03}", f"part-{n:05}.parquet", rows) for n in range(number)
    )


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_live_view_and_nothing_of_it_at_the_end():
    console, time = terminal(), Time()
    job = plan([(1000, 50_000)] * 100)
    console.print("before")
    with Progress(job, 90, 10_000, False, console, time) as progress:
        assert "starting the workers" in Screen(told(console)).text()
        time.now += 5
        progress.show(View(0, 0, 0, 0.5, workers(3, 0)))
        said = Screen(told(console)).text()
        assert (
            "10.0 % · 10,000 of 100,000 rows · 10 of 100 shards · 0 errors\n0:05 elapsed\n" in said
        )
        assert "left" not in said
        assert "rows/s" not in said
        time.now += 10
        progress.show(View(1500, 30_000, 1, 10, workers(3)))
        progress.done("part-00002.parquet")
        time.now += 10
        last = [*workers(2, 1000), WorkerState("10.0.0.2:4002", "", 0)]
        progress.show(View(3000, 60_000, 1, 20, tuple(last)))
        said = Screen(told(console)).text()
    assert said.startswith("before\n━")
    assert "\n13.0 % · 13,000 of 100,000 rows · 11 of 100 shards · 1 error\n" in said
    assert "\n150 rows/s · 3,000 words/s · 0:25 elapsed · 9:40 left\n" in said
    assert re.search(r"10\.0\.0\.1:4001 +━+ +1,000 of 1,000 +wiki/enwiki-00001\.parquet from", said)
    assert re.search(r"10\.0\.0\.2:4002 +waiting\n?", said)
    assert Screen(told(console)).text() == "before"
    assert progress.seconds == 20
    assert progress.timeline == [[0, 0, 0], [0.5, 0, 0], [10, 1500, 30_000], [20, 3000, 60_000]]


@pytest.mark.parametrize(
    ("number", "height", "rows"), [(64, 30, 12), (64, 12, 7), (64, 6, 1), (12, 30, 12)]
)
def test_many_workers(number, height, rows):
    console = terminal(100, height)
    with Progress(plan([(1000, 9)] * number), number, 0, False, console) as progress:
        progress.show(View(0, 0, 0, 1, workers(number)))
        said = Screen(told(console)).text()
    assert len(said.splitlines()) < height
    assert said.count("10.0.0.") == rows - (number > rows)
    if number > rows > 1:
        assert said.endswith(
            f"... and {number - rows + 1} more workers, {number - rows + 1} of them at work"
        )


names = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=60)
states = st.lists(st.tuples(names, st.integers(-1, 9), st.integers(0, 10**9)), max_size=30)


@given(states, st.integers(1, 200), st.integers(1, 60), st.integers(0, 10**12))
def test_no_drawing_is_wider_or_higher_than_the_terminal(states, width, height, rows):
    console = terminal(width, height)
    job = plan([(10**9, 10**12)] * 10)
    progress = Progress(job, 10, 0, False, console)
    doing = [
        WorkerState(where, f"part-{shard:05}.parquet" if shard >= 0 else "", done)
        for where, shard, done in states
    ]
    progress.show(View(rows, 20 * rows, rows // 7, 100.0, tuple(doing)))
    progress.show(View(rows + 99, 20 * rows, rows // 7, 7000.0, tuple(doing)))
    lines = console.render_lines(progress.drawing(), pad=False)
    assert max(sum(cell_len(part.text) for part in line) for line in lines) <= width
    said = [line for fields in progress.fields() for line in packed(fields, width)]
    assert len(lines) < height or len(lines) == 1 + len(said)


def test_logs_stand_above_the_view(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console = terminal()
    logger = logging.Logger("set up before")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    monkeypatch.setitem(logging.getLogger().manager.loggerDict, "set up before", logger)
    before, streams = handler.stream, (sys.stdout, sys.stderr)

    def talk(name: str) -> None:
        for number in range(50):
            logger.warning(f"{name} says {number}")

    with Progress(plan([(1000, 9)] * 8), 8, 0, False, console) as progress:
        threads = [threading.Thread(target=talk, args=[name]) for name in "abcd"]
        for thread in threads:
            thread.start()
        for rows in range(0, 1000, 10):
            progress.show(View(8 * rows, rows, 0, 1 + rows, workers(8, rows)))
        for thread in threads:
            thread.join()
        assert Screen(told(console)).text().count("10.0.0.") == 8
    said = Screen(told(console)).text().splitlines()
    assert sorted(said) == sorted(f"{name} says {n}" for name in "abcd" for n in range(50))
    assert handler.stream is before
    assert (sys.stdout, sys.stderr) == streams
    assert before.getvalue() == ""


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError("nobody reads this")


@pytest.mark.parametrize("terminal", [True, False])
def test_no_error_in_drawing_stops_a_job(terminal):
    console = Terminal(file=Broken(), force_terminal=terminal, _environ={})
    streams = sys.stdout, sys.stderr
    with Progress(plan([(10, 9)]), 1, 0, False, console) as progress:
        progress.show(View(5, 50, 0, 2, workers(1, 5)))
        progress.done("part-00000.parquet")
        progress.show(View(10, 100, 0, 4, ()))
    assert progress.seconds == 4
    assert progress.timeline[-1] == [4, 10, 100]
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}])
def test_lines_where_there_is_no_terminal(environment):
    file, time = io.StringIO(), Time()
    console = Terminal(file=file, force_terminal=bool(environment), _environ=environment, width=60)
    job = plan([(1000, 1000)] * 100)
    with Progress(job, 100, 0, False, console, time) as progress:
        for second in range(3600):
            time.now = 1000.0 + second
            if second >= 4:
                done, rows = divmod(10 * (second - 3), 1000)
                if done and not rows:
                    progress.done(job.shards[done - 1].name)
                state = WorkerState("here", job.shards[done].name, rows)
                progress.show(View(1000 * done + rows, 20 * rows, 2, second - 3, (state,)))
    lines = file.getvalue().splitlines()
    assert lines[0] == "starting the workers · 0:00 elapsed"
    assert lines[2] == (
        "0.2 % · 170 of 100,000 rows · 0 of 100 shards · 2 errors · 10 rows/s · 200 words/s · "
        "0:20 elapsed · 2:46:23 left"
    )
    times = [line.split(" elapsed")[0].split(" · ")[-1] for line in lines]
    assert times[:10] == ["0:00", *(f"{n // 6}:{n % 6}0" for n in range(1, 10))]
    assert times[-2:] == ["58:30", "59:30"]
    assert len(times) < 90


@pytest.mark.parametrize("force", [True, False])
def test_quiet(force, capsys):
    file = io.StringIO()
    console = Terminal(file=file, force_terminal=force, quiet=True, _environ={})
    with Progress(plan([(10, 9)]), 1, 0, True, console) as progress:
        progress.show(View(5, 50, 0, 2, workers(1, 5)))
        print("others still speak")
    assert file.getvalue() == ""
    assert capsys.readouterr().out == "others still speak\n"
    assert progress.seconds == 2


def test_the_pace_is_that_of_the_last_minute():
    pace = Pace()
    assert pace.at(5) is None
    for half in range(2, 2000):
        done = 100 * half / 2 if half < 1000 else 50_000 + 10 * (half - 1000) / 2
        pace.add(half / 2, done, 20 * done, 0)
        if half in (2, 999):
            assert pace.at(half / 2) == pytest.approx((100, 2000, 0))
    assert pace.at(999.5) == pytest.approx((10, 200, 0))
    assert len(pace.reports) < 130


def test_the_pace_of_slow_reports():
    """A worker that reports every three minutes is not at rest between."""
    pace = Pace()
    for half in range(1, 4000):
        pace.add(half / 2, 1000 * (half // 360), 0, 0)
        rates = pace.at(half / 2)
        if half < 360:
            assert rates is None
        else:
            assert rates[0] == pytest.approx(1000 / 180)
    for second in range(2000, 20_000, 10):
        pace.add(second, 11_000, 0, 0)
    assert pace.at(20_000)[0] < 1


def test_a_shard_that_is_begun_again_is_work():
    pace = Pace()
    for second in range(1, 41):
        pace.add(second, 100 * (second if second <= 20 else second - 20), 0, 0)
    assert pace.at(40)[0] == pytest.approx(100 * 39 / 40, rel=0.03)


def test_time_left_goes_by_bytes():
    """Half of the text is in very few rows, which are done first."""
    time, console = Time(), Terminal(file=io.StringIO(), _environ={})
    job = plan([(10, 100_000)] * 5 + [(10_000, 100_000)] * 5)
    with Progress(job, 10, 0, False, console, time) as progress:
        rows = 0
        for second in range(1, 101):
            number, part = divmod(second - 1, 10)
            done = job.shards[number].rows * (part + 1) // 10
            state = WorkerState("here", job.shards[number].name, done)
            progress.show(View(rows + done, 0, 0, second, (state,)))
            left = progress.fields()[1][-1].removesuffix(" left")
            assert left == clock(100 - second), second
            if part == 9:
                rows += job.shards[number].rows
                progress.done(job.shards[number].name)
                # the view may be from before
                progress.show(View(rows, 0, 0, second, (state,)))
                assert progress.pace.last[2] == 100_000 * (number + 1)
    assert rows == job.rows


def test_an_earlier_run_has_left_the_smallest():
    console = Terminal(file=io.StringIO(), _environ={})
    job = plan([(10, 900_000), (10, 100), (10, 100)])
    progress = Progress(job, 2, 10, False, console)
    progress.show(View(10, 9, 0, 10, (WorkerState("here", "part-00001.parquet", 10),)))
    how_far, how_fast = progress.fields()
    assert how_far[0] == "66.7 %"
    assert how_fast[-1] == "0:10 left"


def test_a_worker_of_which_nothing_is_heard():
    console = terminal(120)
    with Progress(plan([(1000, 9)] * 2), 2, 0, False, console) as progress:
        progress.show(View(600, 0, 0, 10, workers(2, 300)))
        progress.show(View(700, 0, 0, 100, (*workers(1, 400), *workers(2, 300)[1:])))
        said = Screen(told(console)).text()
    assert said.count("for this batch") == 1
    assert "enwiki-00001.parquet from row 1,000  1:30 for this batch" in said


@given(st.lists(st.tuples(st.floats(0.1, 100), st.integers(-50, 1000)), max_size=2000))
def test_timelines_are_short(steps):
    line, seconds, rows = Timeline(), 0.0, 0
    for pause, more in steps:
        seconds, rows = seconds + pause, max(rows + more, 0)
        line.add(seconds, rows, 20 * rows)
        assert line.points[-1][0] == round(seconds, 1)
        assert line.points[-1][1] >= rows
    assert line.points[0] == [0, 0, 0]
    assert len(line.points) <= POINTS
    for before, after in pairwise(line.points):
        assert all(b <= a for b, a in zip(before, after))


def test_timelines_are_even():
    line = Timeline()
    for half in range(1, 2 * 24 * 3600):
        line.add(half / 2, half, half)
    gaps = [after[0] - before[0] for before, after in pairwise(line.points)]
    assert POINTS / 2 <= len(line.points) <= POINTS
    assert max(gaps) < 3 * min(gaps[:-1])


def test_shares():
    assert [share(n, 1000) for n in (0, 1, 430, 999, 1000)] == [
        "0.0 %", "0.1 %", "43.0 %", "99.9 %", "100 %",
    ]  # fmt: skip
    assert share(1, 10**9) == "<0.1 %"
    assert share(10**9 - 1, 10**9) == "99.9 %"
    assert share(0, 0) == "100 %"


def test_clocks():
    assert [clock(n) for n in (0.4, 61, 3600, 359_999, 360_000, 10**9)] == [
        "0:00", "1:01", "1:00:00", "99:59:59", "4 d 4 h", "11,574 d 1 h",
    ]  # fmt: skip


def test_endings():
    assert ending("a/b.parquet", 11) == "a/b.parquet"
    assert ending("a/b.parquet", 8) == "…parquet"
    assert ending("a/b.parquet", 1) == ending("a/b.parquet", -5) == "…"
