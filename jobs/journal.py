"""The figures of a pre-training run: a worker writes them down, the command shows them as they
come, and draws them in the end.
"""

import contextlib
import json
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from spacy_albert.pretraining.settings import Settings
from spacy_albert.pretraining.trainer import Figures

from .progress import LAST_LINE_SECONDS, LINE_SECONDS, LINE_SHARE, Terminal, clock

POLL_SECONDS = 0.5
#: Steps over which figures are averaged where they are shown and drawn.
LATELY = 50

Entry = dict[str, Any]


class Journal:
    """A file with a line of JSON for each step.

    path (Path): The file. Lines of steps that are going to be taken again are removed.
    step (int): The last step that was taken.
    """

    def __init__(self, path: Path, step: int) -> None:
        before = [entry for entry in read(path) if entry["step"] <= step]
        path.write_text("".join(json.dumps(entry) + "\n" for entry in before))
        self.path = path
        self.earlier = before[-1]["seconds"] if before else 0.0
        self.began = time.monotonic()

    def write(
        self, step: int, rate: float, figures: Figures, held_out: Figures | None = None
    ) -> None:
        """Write down what came out of a step.

        step (int): The step.
        rate (float): The learning rate.
        figures (Figures): What came out of its batch.
        held_out (Figures | None): What came out of the documents held out, if they were looked at.
        """
        entry = {"step": step, "rate": rate, **asdict(figures)}
        if held_out:
            entry["held_out"] = asdict(held_out)
        self._append(entry)

    def fail(self, step: int, why: str) -> None:
        """Write down why there is no going on.

        step (int): The step.
        why (str): The reason.
        """
        self._append({"step": step, "failure": why})

    def _append(self, entry: Entry) -> None:
        entry["seconds"] = round(self.earlier + time.monotonic() - self.began, 2)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def read(path: Path) -> list[Entry]:
    """Read a journal.

    path (Path): The file.
    RETURNS (list[dict]): Its lines; one that was broken off in writing is no line.
    """
    if not path.exists():
        return []
    entries = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


class Watch:
    """Show a journal as it grows, on standard error: a live view on a terminal, else a line now and
    then.

    path (Path): The file.
    settings (Settings): The settings of the run.
    console (Terminal): Where to show it.
    """

    def __init__(self, path: Path, settings: Settings, console: Terminal) -> None:
        self.path, self.settings, self.console = path, settings, console
        self.lately: deque[Entry] = deque(maxlen=LATELY + 1)
        self.held_out: Entry | None = None
        self.place = 0
        self.began = self.next_line = time.monotonic()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()

    def _loop(self) -> None:
        with contextlib.ExitStack() as stack:
            live = None
            if self.console.is_terminal and not self.console.quiet:
                live = Live(console=self.console, auto_refresh=False, transient=True)
                stack.enter_context(live)
            while True:
                ended = self.ended.wait(POLL_SECONDS)
                with contextlib.suppress(Exception):  # no error in showing it stops the run
                    self._look()
                    if live:
                        live.update(self.drawing(), refresh=True)
                    else:
                        self._say(ended)
                if ended:
                    return

    def _look(self) -> None:
        """Read what has been added. After a worker has died, lines may be gone again."""
        if not self.path.exists():
            return
        if self.path.stat().st_size < self.place:
            self.place = 0
            self.lately.clear()
        with self.path.open() as file:
            file.seek(self.place)
            added = file.read()
        whole, _, _ = added.rpartition("\n")
        self.place += len(whole.encode()) + bool(whole)
        for line in whole.splitlines():
            entry = json.loads(line)
            if "failure" not in entry:
                self.lately.append(entry)
                self.held_out = entry.get("held_out") or self.held_out

    def _say(self, ended: bool) -> None:
        now = time.monotonic()
        if now >= self.next_line or ended:
            self.console.print(" · ".join(self.fields()))
            pause = min(max(LINE_SECONDS, LINE_SHARE * (now - self.began)), LAST_LINE_SECONDS)
            self.next_line = now + pause

    def fields(self) -> list[str]:
        """Say how far the run is, in a few words each."""
        elapsed = f"{clock(time.monotonic() - self.began)} elapsed"
        if not self.lately:
            return ["starting the workers", elapsed]
        first, last = self.lately[0], self.lately[-1]
        found = [
            f"step {last['step']:,} of {self.settings.steps:,}",
            f"loss {mean(self.lately, 'mlm_loss'):.3f} + {mean(self.lately, 'sop_loss'):.3f}",
            f"pieces {mean(self.lately, 'mlm_accuracy'):.1%} right",
            f"order {mean(self.lately, 'sop_accuracy'):.1%} right",
        ]
        if self.held_out:
            found.append(
                f"held out {self.held_out['mlm_accuracy'] or 0:.1%} and "
                f"{self.held_out['sop_accuracy'] or 0:.1%}"
            )
        seconds = last["seconds"] - first["seconds"]
        if len(self.lately) > 1 and seconds > 0:
            pieces = sum(entry["pieces"] for entry in list(self.lately)[1:])
            per_step = seconds / (len(self.lately) - 1)
            left = per_step * (self.settings.steps - last["step"])
            found += [f"{pieces / seconds:,.0f} pieces/s", f"{clock(left)} left"]
        return [*found, elapsed]

    def drawing(self) -> Table:
        """Draw how far the run is."""
        from rich.progress_bar import ProgressBar

        step = self.lately[-1]["step"] if self.lately else 0
        table = Table.grid(expand=True)
        table.add_row(ProgressBar(self.settings.steps, step))
        table.add_row(Text(" · ".join(self.fields()), overflow="fold"))
        return table


def mean(entries: Sequence[Entry] | deque[Entry], name: str) -> float:
    """The mean of a figure over some steps, of those that have it."""
    values = [entry[name] for entry in entries if entry.get(name) is not None]
    return sum(values) / len(values) if values else math.nan


def plot(entries: Sequence[Entry], path: Path) -> None:
    """Draw losses and accuracies.

    entries (Sequence[dict]): A journal.
    path (Path): The picture, a PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = [entry["step"] for entry in entries]
    looks = [entry for entry in entries if entry.get("held_out")]
    figure, (losses, rights) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = {"mlm": ("hidden pieces", "#1f6fb4"), "sop": ("order of segments", "#d1603d")}
    for axes, what in ((losses, "loss"), (rights, "accuracy")):
        for key, (name, colour) in names.items():
            values = smooth([entry.get(f"{key}_{what}") for entry in entries])
            axes.plot(steps, values, color=colour, label=name, linewidth=1.2)
            points = [entry["held_out"][f"{key}_{what}"] for entry in looks]
            axes.plot(
                [entry["step"] for entry in looks],
                points,
                "o",
                color=colour,
                markersize=3.5,
                label=f"{name}, held out",
            )
        axes.set_xlabel("step")
        axes.set_title(what)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    rights.set_ylim(0, 1)
    rights.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def smooth(values: Sequence[float | None]) -> list[float]:
    """Average each value with those before it."""
    lately: deque[float] = deque(maxlen=LATELY)
    means = []
    for value in values:
        if value is not None:
            lately.append(value)
        means.append(sum(lately) / len(lately) if lately else math.nan)
    return means
