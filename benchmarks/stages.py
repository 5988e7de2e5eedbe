"""Where the time goes beside the forward pass: microseconds a word on one core, stage by stage.

The trained pipeline reads real text, once with its layers, which are recorded, and then with the
recording in their place. So every stage sees real answers and the layers cost nothing. The stages
are timed from inside, in one copy of the pipeline; the total from outside, in another that nobody
times inside. What the stages leave unexplained is the difference. All of it is processor time,
which a busy machine changes less.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import ours, texts


class Clock:
    """Add up the processor time of functions, each without those it calls that are timed, too."""

    def __init__(self) -> None:
        self._watched: list[tuple[Any, str, Callable]] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside: list[float] = []  # for each timed call under way, the time of those inside

    def watch(self, stage: str, owner: Any, name: str) -> None:
        """Time a function until `stop`.

        stage (str): What its time is added to.
        owner (Any): A module, a class or an object.
        name (str): The function's name there.
        """
        function: Callable = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            before = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.process_time() - before
                self.seconds[stage] += took - self._inside.pop()
                if self._inside:
                    self._inside[-1] += took

        self._watched.append((owner, name, function))
        setattr(owner, name, timed)

    def stop(self) -> None:
        """Leave the functions alone again."""
        for owner, name, function in self._watched:
            setattr(owner, name, function)
        self._watched.clear()


def measure(path: str, n_texts: int, rounds: int) -> dict[str, Any]:
    """Measure every stage, and the total.

    path (str): A trained pipeline with entities and text classification.
    n_texts (int): Paragraphs in a round; every round has its own, as caches would help otherwise.
    rounds (int): How many rounds; the median counts.
    RETURNS (dict): Microseconds a word: "stages" by name, their "sum", the "total", and what of it
        is "beside" the forward pass. And "padding", by kind of text.
    """
    torch.set_num_threads(1)
    sets = [texts.paragraphs(n_texts, skip=n_texts * i) for i in range(rounds + 1)]
    words = [texts.count_words(some) for some in sets[1:]]
    outside, inside, other = (ours.load(Path(path), "float32") for _ in range(3))
    # As much text as `nlp.pipe` looks ahead
    kinds = {
        "paragraphs": texts.paragraphs(1000, skip=n_texts * len(sets)),
        "short texts": texts.short_texts(1000),
    }
    padding = {kind: ours.padding(other, some) for kind, some in kinds.items()}
    for text in kinds["paragraphs"]:  # spaCy's tokenizer remembers words: let it know frequent ones
        outside.make_doc(text)
        inside.make_doc(text)
    recordings = []
    for some in sets:
        recordings.append(ours.Recording(ours.load(Path(path), "float32")))
        for _ in recordings[-1].nlp.pipe(some):
            pass

    totals, stages = [], []
    for some, recording in zip(sets, recordings):
        recording.put_into(outside)
        totals.append(_seconds(outside, some))
        clock = Clock()
        for stage, owner, name in ours.stages(inside):
            clock.watch(stage, owner, name)
        recording.put_into(inside)
        _seconds(inside, some)
        clock.stop()
        stages.append(clock.seconds)

    # The first set has warmed everything up
    found = {
        stage: statistics.median(1e6 * s[stage] / n for s, n in zip(stages[1:], words))
        for stage in stages[0]
    }
    total = statistics.median(1e6 * t / n for t, n in zip(totals[1:], words))
    return {
        "words": sum(words),
        "stages": found,
        "sum": sum(found.values()),
        "total": total,
        "beside": total - found["embedding"],
        "padding": padding,
    }


def _seconds(nlp: Any, some: list[str]) -> float:
    before = time.process_time()
    for _ in nlp.pipe(some):
        pass
    return time.process_time() - before
