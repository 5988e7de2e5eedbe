"""Numbers as HTML: tables with bars, and columns over an axis, drawn as SVG that needs no script.

Colours are classes, `k0` and so on, which the style of the page defines; a bar has the colour of
what it is in.
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .tally import BINS, Spread

#: The colours that the style has.
COLOURS = 12
#: The size of a chart, and the margins around its columns, in units of its own.
WIDTH, HEIGHT, LEFT, RIGHT, ABOVE, BELOW = 320, 160, 36, 8, 24, 34
#: The columns of a chart over time, the labels of an axis, and the seconds that either is apart.
COLUMNS, TICKS = 60, 6
STEPS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 604800)


class Bar(NamedTuple):
    """A row of a table with a bar.

    name (str): What it is about.
    number (int): How long the bar is.
    colour (str): The colour of the bar and of a dot beside the name; "" for the colour around it.
    """

    name: str
    number: int
    colour: str = ""


def bars(caption: str, head: str, unit: str, rows: Sequence[Bar], total: int = 0) -> str:
    """Draw a table with a bar in each row.

    caption (str): What it shows.
    head (str): What the rows are.
    unit (str): What is counted.
    rows (Sequence[Bar]): The rows.
    total (int): The whole that the numbers are shares of; 0 for none.
    RETURNS (str): The table.
    """
    most = max((row.number for row in rows), default=0) or 1
    columns = [f'<th scope="col">{head}</th><td></td><th scope="col">{unit}</th>']
    if total:
        columns.append('<th scope="col">Share</th>')
    lines = []
    for row in rows:
        bar = f'<rect width="{100 * row.number / most:.2f}" height="10"/>'
        cells = [
            f'<th scope="row">{dot() if row.colour else ""}{name_of(row.name)}</th>',
            '<td class="bar"><svg viewBox="0 0 100 10" preserveAspectRatio="none" '
            f'aria-hidden="true">{bar}</svg></td>',
            f'<td class="number">{row.number:,}</td>',
        ]
        if total:
            cells.append(f'<td class="number">{percent(row.number, total)}</td>')
        lines.append(f'<tr class="{row.colour}">{"".join(cells)}</tr>')
    return (
        f'<table class="bars"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{''.join(columns)}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


class Column(NamedTuple):
    """A column of a chart.

    height (float): How high it is.
    span (str): What part of the axis it stands for.
    """

    height: float
    span: str


def histogram(
    title: str,
    columns: Sequence[Column],
    ticks: Mapping[int, str],
    across: str,
    up: str,
    said: str,
) -> str:
    """Draw columns over an axis.

    title (str): What they show.
    columns (Sequence[Column]): The columns.
    ticks (Mapping[int, str]): The labels of the axis, by the number of the column after them.
    across (str): What the axis across counts.
    up (str): What the axis up counts.
    said (str): A line below.
    RETURNS (str): The figure.
    """
    steps = ticks_to(max((column.height for column in columns), default=0))
    top, floor = steps[-1], HEIGHT - BELOW
    wide, high = (WIDTH - LEFT - RIGHT) / max(len(columns), 1), floor - ABOVE
    parts = [f'<text x="0" y="11">{escape(up)}</text>']
    for step in steps:
        y = floor - high * step / top
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="up" x="{LEFT - 6}" y="{y + 3.5:.1f}">{compact(step)}</text>')
    for number, column in enumerate(columns):
        if column.height:
            tall = max(high * column.height / top, 1)
            parts.append(
                f'<rect x="{LEFT + wide * (number + 0.05):.2f}" y="{floor - tall:.2f}" '
                f'width="{0.9 * wide:.2f}" height="{tall:.2f}">'
                f"<title>{escape(column.span)}: {figure(column.height)}</title></rect>"
            )
    parts.append(f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    for number, label in ticks.items():
        x = LEFT + wide * number
        parts.append(f'<text class="across" x="{x:.1f}" y="{floor + 14}">{escape(label)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="across" x="{middle:g}" y="{HEIGHT - 5}">{escape(across)}</text>')
    return (
        f'<figure><svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg><figcaption>{said}</figcaption></figure>'
    )


def score_chart(title: str, counts: np.ndarray, what: str) -> str:
    """Draw how scores are spread from 0 to 1.

    title (str): What is shown.
    counts (np.ndarray): How many scores are in each bin.
    what (str): What has the scores.
    RETURNS (str): The figure.
    """
    spans = (f"{n / BINS:.2f} to {(n + 1) / BINS:.2f}" for n in range(BINS))
    ticks = {n: f"{n / BINS:g}" for n in range(0, BINS + 1, BINS // 4)}
    sure = percent(int(counts[-BINS // 10 :].sum()), int(counts.sum()))
    columns = [Column(*column) for column in zip(counts.tolist(), spans)]
    return histogram(title, columns, ticks, "score", what, f"{sure} have 0.9 or more.")


def spread_chart(title: str, spread: Spread, unit: str) -> str:
    """Draw how lengths are spread, in columns that double.

    title (str): What is shown.
    spread (Spread): The lengths.
    unit (str): What they count.
    RETURNS (str): The figure.
    """
    there = np.flatnonzero(spread.bins)
    first, last = int(there[0]), int(there[-1])
    edges = [1 << n >> 1 for n in range(first, last + 2)]
    spans = (str(a) if b - a < 2 else f"{a:,} to {b - 1:,}" for a, b in pairwise(edges))
    columns = [Column(*column) for column in zip(spread.bins[first:].tolist(), spans)]
    every = -(-len(columns) // TICKS)
    ticks = {n: f"{edge:,}" for n, edge in enumerate(edges) if n % every == 0}
    said = f"{spread.total / spread.count:,.1f} on average, {spread.most:,} at most."
    return histogram(title, columns, ticks, unit, "documents", said)


def rate_chart(title: str, seconds: np.ndarray, sums: np.ndarray, what: str) -> str:
    """Draw a rate over time.

    title (str): What is shown.
    seconds (np.ndarray): Times, from 0.
    sums (np.ndarray): What had been done by then.
    what (str): What that is.
    RETURNS (str): The figure.
    """
    step, wide = (step_to(seconds[-1], number) for number in (COLUMNS, TICKS))
    edges, heights = rates(seconds, sums, step)
    spans = (f"{duration(a)} to {duration(b)}" for a, b in pairwise(edges))
    columns = [Column(*column) for column in zip(heights.tolist(), spans)]
    labelled = range(0, len(edges), wide // step)
    ticks = {n: duration(n * step) for n in labelled if n * step <= seconds[-1]}
    said = f"{figure(sums[-1] / seconds[-1])} on average."
    return histogram(title, columns, ticks, "time", f"{what} a second", said)


def rates(seconds: np.ndarray, sums: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Find how much was done in a second, one span of time after the other.

    seconds (np.ndarray): Times, from 0.
    sums (np.ndarray): What had been done by then.
    step (int): The seconds of a span; the last one may be half as long, or longer by half.
    RETURNS (tuple[np.ndarray, np.ndarray]): Where the spans begin and end, and their rates.
    """
    end = seconds[-1]
    edges = np.append(np.arange(0, max(end - step / 2, step / 2), step), end)
    return edges, np.diff(np.interp(edges, seconds, sums)) / np.diff(edges)


def step_to(seconds: float, number: int) -> int:
    """Choose a span of time that does not go into a time more often than a number."""
    return next((step for step in STEPS if seconds / step <= number), STEPS[-1])


def ticks_to(most: float) -> list[int]:
    """Choose at most five round numbers, from 0 to at least a number that is more than 0."""
    step = 1
    while most / step > 4:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return [step * n for n in range(max(int(np.ceil(most / step)), 1) + 1)]


def colour(number: int) -> str:
    return f"k{number % COLOURS}"


def dot() -> str:
    return '<i class="dot"></i>'


def name_of(label: str) -> str:
    # a name may be written from right to left, and must not turn around what is beside it
    return f"<bdi>{escape(label)}</bdi>" if label.strip() else "<em>none</em>"


def percent(part: int, whole: int) -> str:
    if not whole:
        return "none"
    return "< 0.1%" if 0 < part / whole < 0.001 else f"{part / whole:.1%}"


def figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def compact(number: int) -> str:
    """Write a number in the few characters that an axis has room for."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)


def duration(seconds: float) -> str:
    """Write a time as a person would say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2]) or "0 s"
