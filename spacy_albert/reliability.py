"""Reliability diagrams: what scores say, and what is so (DeGroot and Fienberg, "The Comparison and
Evaluation of Forecasters", 1983).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .calibration import N_BINS, Finding, Outcomes, bins, calibration_error, error_by_chance

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("A plot needs matplotlib: pip install 'spacy-albert[plot]'") from error

BLUE, GREY = "#3465a4", "#888888"


def draw(findings: Sequence[Finding], corpora: Sequence[str], path: Path) -> None:
    """Draw a row for each finding: before on the left, after on the right.

    findings (Sequence[Finding]): The findings.
    corpora (Sequence[str]): The names of the corpora.
    path (Path): The picture to write; its ending says the format.
    """
    figure = Figure(figsize=(8, 4 * len(findings)), layout="constrained")
    panels = figure.subplots(len(findings), 2, squeeze=False)
    for finding, row in zip(findings, panels):
        states = zip(row, finding.settings, finding.outcomes, strict=True)
        for panel, settings, outcomes in states:
            draw_diagram(panel, outcomes)
            said = ", ".join(f"{name} {value:.2f}" for name, value in settings.items())
            where = f"{finding.component}, {corpora[finding.corpus]}"
            panel.set_title(f"{where}\n{said}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_diagram(panel: Axes, outcomes: Outcomes) -> None:
    """Draw one diagram: a point for each bin, the larger the more answers it has, and behind it
    the range in which 95 % of the points are if scores are right; below, the scores' histogram.

    panel (Axes): Where to draw.
    outcomes (Outcomes): What was said with which score, and whether it is so.
    """
    scores, true, _ = outcomes
    of = bins(scores)
    counts = np.bincount(of, minlength=N_BINS)
    filled = counts > 0
    n = counts[filled]
    said, so, variance = (
        np.bincount(of, values, N_BINS)[filled] / n
        for values in (scores, true, scores * (1 - scores))
    )
    by_chance = 1.96 * np.sqrt(variance / n)
    low, high = (said - by_chance).clip(0, 1), (said + by_chance).clip(0, 1)
    left = np.arange(N_BINS) / N_BINS
    panel.bar(left, counts / counts.sum(), 1 / N_BINS, align="edge", color=BLUE, alpha=0.2)
    panel.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    panel.vlines(said, low, high, color=GREY, alpha=0.35, linewidth=7)
    panel.scatter(said, so, 15 + 300 * n / counts.sum(), color=BLUE, clip_on=False, zorder=3)
    error, chance = calibration_error(outcomes), error_by_chance(outcomes)
    facts = f"ECE {error:.3f}\nby chance {chance:.3f}\nn = {len(scores):,}"
    panel.text(0.04, 0.96, facts, va="top", transform=panel.transAxes)
    panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="score", ylabel="share that is so")
