"""How long one waits before the first document: imports and `spacy.load`, in fresh processes."""

import statistics
import subprocess
import sys

from . import texts

#: What is timed, after what came before it.
STATEMENTS = {
    "import spacy": ("pass", "import spacy"),
    "import spacy_albert": ("pass", "import spacy_albert"),
    "import spacy_albert, after spacy": ("import spacy", "import spacy_albert"),
    "spacy.blank, after spacy": ("import spacy", "spacy.blank('en')"),
    "spacy.load(en_albert_sm), after spacy": (
        "import spacy",
        f"spacy.load({str(texts.EMBEDDED)!r})",
    ),
    "first document, after spacy.load": (
        f"import spacy; nlp = spacy.load({str(texts.EMBEDDED)!r})",
        "nlp('Jane Austen lived in Bath.')",
    ),
}
TIMED = """
import time
{before}
start = time.perf_counter()
{statement}
print(time.perf_counter() - start)
"""


def measure(rounds: int) -> dict[str, float]:
    """Time each statement in processes of its own.

    rounds (int): How many processes; the median counts.
    RETURNS (dict[str, float]): Seconds for each.
    """
    found: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, (before, statement) in STATEMENTS.items():
            code = TIMED.format(before=before, statement=statement)
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            found[name].append(float(done.stdout.split()[-1]))
    return {name: statistics.median(seconds) for name, seconds in found.items()}
