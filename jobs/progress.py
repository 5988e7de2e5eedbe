"""How far a job is: a bar on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

LINE_SECONDS = 10


class Progress:
    """Show the progress of a job on standard error.

    total (int): The rows of the job.
    done (int): The rows that earlier runs have done.
    quiet (bool): Show nothing.
    """

    def __init__(self, total: int, done: int, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.total, self.done = total, done
        self.seconds = 0.0
        self.next_line = time.monotonic()
        self.bar = Bar(
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            console=self.console,
            expand=True,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("starting the workers", total=total, completed=done)

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def show(self, rows: int, words: int, errors: int, seconds: float) -> None:
        """Show how far this run is.

        rows (int): The rows it has done.
        words (int): Their words.
        errors (int): Those of them with an error.
        seconds (float): The time since the first worker was ready.
        """
        self.seconds = seconds
        if not rows:
            return
        rate = rows / seconds
        left = clock((self.total - self.done - rows) / rate)
        line = f"{self.done + rows:,} of {self.total:,} rows · {rate:,.0f} rows/s · "
        line += f"{words / seconds:,.0f} words/s · {errors:,} errors · {left} left"
        self.bar.update(self.task, completed=self.done + rows, description=line)
        if not self.console.is_terminal and time.monotonic() >= self.next_line:
            self.console.print(line, soft_wrap=True, highlight=False)
            self.next_line = time.monotonic() + LINE_SECONDS


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
