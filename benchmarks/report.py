"""One table for a terminal. All figures, and more, are in the JSON file."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from . import claims
from .claims import LOOP, OURS, RANDOM, Claim, check, row_of, times

EDGES = (16, 32, 64, 128, 256, 512)


def histogram(lengths: Iterable[int]) -> dict[str, int]:
    """Count lengths by powers of two.

    lengths (Iterable[int]): Lengths.
    RETURNS (dict[str, int]): How many in each range.
    """
    names = [f"<{EDGES[0]}", *(f"{a}-{b - 1}" for a, b in pairwise(EDGES)), f">={EDGES[-1]}"]
    counts = dict.fromkeys(names, 0)
    for length in lengths:
        counts[names[sum(length >= edge for edge in EDGES)]] += 1
    return counts


def render(results: dict[str, Any]) -> str:
    """Write a run down for a terminal.

    results (dict): What `python -m benchmarks` writes.
    RETURNS (str): Lines.
    """
    parts = [_run(results)]
    parts += [block(results) for name, block in BLOCKS.items() if results.get(name)]
    parts += [[f"{name} failed: {error}"] for name, error in results["errors"].items()]
    parts.append(_claims(check(results)))
    return "\n\n".join("\n".join(part) for part in parts)


def quality(results: dict[str, Any]) -> str:
    """Write a run of `python -m benchmarks quality` down for a terminal.

    results (dict): What it writes.
    RETURNS (str): Lines.
    """
    rows: list[Sequence[Any]] = [
        ("learned", "metric", "steps", LOOP, OURS, RANDOM, "padding", "pieces/s", "loop's", "×")
    ]
    for name, task in results["tasks"].items():
        spreads = (_spread(task["sides"][side]) for side in (LOOP, OURS, RANDOM))
        padding = _percent(task["padding"])
        rows.append((name, task["metric"], task["steps"], *spreads, padding, *_race(task)))
    parts = [
        [
            *_machine(results),
            "from an ALBERT of {num_hidden_layers} layers of {hidden_size}".format(
                **results["encoder"]
            ),
        ],
        [
            *table(rows),
            "means ± standard deviations over the seeds; padding: in the loop's batches; pieces/s: "
            "medians; ×: how many times as fast as the loop, in the median of the turns",
        ],
    ]
    if pretraining := results["pretraining"]:
        rows = [("pre-training", "layers", "width", "batch", "length", "pieces/s", "loop's", "×")]
        for precision, row in pretraining.items():
            shape = row["shape"]["num_hidden_layers"], row["shape"]["hidden_size"]
            rows.append((precision, *shape, row["batch"], row["length"], *_race(row)))
        parts.append(list(table(rows)))
    parts += [[f"{name} failed: {error}"] for name, error in results["errors"].items()]
    parts.append(_claims(claims.quality(results)))
    return "\n\n".join("\n".join(part) for part in parts)


def table(rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Align columns, numbers to the right.

    rows (Sequence[Sequence]): Cells; the first row is the head.
    YIELDS (str): Lines.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for number, row in enumerate(cells):
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        yield "  ".join(padded).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)


def _machine(results: dict[str, Any]) -> list[str]:
    machine, threads = results["machine"], results["settings"]["threads"]
    return [
        f"{machine['cpu']}, {threads} of {machine['cores']} cores, {machine['memory_gb']} GB",
        ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
    ]


def _run(results: dict[str, Any]) -> list[str]:
    settings, texts = results["settings"], results["texts"]
    lengths = ", ".join(f"{name}: {n}" for name, n in texts["histogram"].items() if n)
    return [
        *_machine(results),
        f"ALBERT {settings['shape']}, random weights; {texts['source']} text: {texts['texts']} "
        f"paragraphs, {texts['words']} words, {texts['pieces']} pieces",
        f"lengths in pieces: {lengths}",
    ]


def _contenders(results: dict[str, Any]) -> list[str]:
    peer = row_of(results, "spacy-transformers", "float32")
    head = (
        "reads with",
        "precision",
        "words/s",
        "rounds",
        "× s-t",
        "ceiling",
        "peak MB",
        "setting",
    )
    rows: list[Sequence[Any]] = [head]
    for row in results["contenders"]:
        if "error" in row:
            rows.append((row["name"], row["precision"], row["error"], *[None] * 5))
            continue
        speeds = [results["texts"]["words"] / seconds for seconds in row["seconds"]]
        setting = ", ".join(f"{name} {value}" for name, value in row["setting"].items())
        rows.append(
            (
                row["name"],
                row["precision"],
                f"{row['words_per_second']:.0f}",
                f"{min(speeds):.0f}-{max(speeds):.0f}",
                _times(times(row, peer)),
                _percent(row["share_of_ceiling"]),
                f"{row['peak_mb']:.0f}",
                setting or row.get("executor"),
            )
        )
    rounds = results["settings"]["rounds"]
    return [
        *table(rows),
        f"words/s: median of {rounds} rounds in turns; × s-t: in speeds of spacy-transformers, in "
        "the median round; ceiling: share of it",
    ]


def _ceilings(results: dict[str, Any]) -> list[str]:
    libraries = ("torch", "openvino")
    rows: list[Sequence[Any]] = [("matrix products, GFLOP/s", *libraries, "ceiling")]
    for precision, best in results["ceilings"].items():
        fastest = [
            max((t.get("gflops", 0.0) for t in best["tries"] if t["library"] == library), default=0)
            for library in libraries
        ]
        rows.append((precision, *(f"{value:.0f}" for value in (*fastest, max(fastest)))))
    return [*table(rows), f"The texts take {results['texts']['flops'] / 1e9:.0f} GFLOP."]


def _stages(results: dict[str, Any]) -> list[str]:
    stages = results["stages"]
    rows = [("all but the layers, one core", "µs/word")]
    rows += [(name, f"{value:.2f}") for name, value in stages["stages"].items()]
    rows += [
        ("sum of the stages", f"{stages['sum']:.2f}"),
        ("total, measured from outside", f"{stages['total']:.2f}"),
        ("difference", f"{stages['total'] - stages['sum']:+.2f}"),
    ]
    padding = ", ".join(
        f"{kind} {_percent(share['rows'], 1)} of rows in products, "
        f"{_percent(share['places'], 1)} of places in attention"
        for kind, share in stages["padding"].items()
    )
    return [*table(rows), f"padding in a look ahead of 1,000: {padding}"]


def _memory(results: dict[str, Any]) -> list[str]:
    m = results["memory"]
    return [
        f"{m['texts']} short texts: {m['first_mb']:.0f} MB after {m['first']}, "
        f"{m['last_mb']:.0f} MB at the end ({m['grown_mb']:+.0f}; spaCy's vocabulary learned "
        f"{m['new_strings']} strings)",
    ]


def _long_text(results: dict[str, Any]) -> list[str]:
    return [
        f"{m['chars']} characters in one document, {name}: {m['us_a_char']:.2f} µs each, "
        f"{m['times_windows']:.2f} times texts of one window, {m['times_paragraphs']:.2f} times "
        f"paragraphs; {m['read_mb']:.0f} MB on top ({m['made_mb']:.0f} to make spaCy's document)"
        for name, m in results["long_text"].items()
    ]


def _startup(results: dict[str, Any]) -> list[str]:
    rows = [("start", "seconds")]
    rows += [(name, f"{seconds:.2f}") for name, seconds in results["startup"].items()]
    return list(table(rows))


def _agreement(results: dict[str, Any]) -> list[str]:
    agreement = results["agreement"]
    names = list(agreement["precisions"].get("float32", {}).get("f1", {}))
    head = ("answers", "same tags", *(f"F1 {n}" for n in names), "alone = in a batch", "scores off")
    rows: list[Sequence[Any]] = [head]
    for precision, row in agreement["precisions"].items():
        if "error" in row:
            rows.append((precision, row["error"], *[None] * (len(names) + 2)))
            continue
        company = row["company"]
        rows.append(
            (
                precision,
                f"{100 * row['same_tags']:.3f}%",
                *(f"{row['f1'][name]:.2f}" for name in names),
                f"{100 * company['same_tags']:.3f}%",
                f"{company['score_difference']:.1e}",
            )
        )
    return [*table(rows), f"{agreement['documents']} documents, {agreement['tokens']} tokens"]


def _job(results: dict[str, Any]) -> list[str]:
    m = results["job"]
    one, two = m["1 worker"], m["2 workers"]
    return [
        f"bare nlp.pipe on one thread: {m['bare']['words_per_second']:.0f} words/s; the job with "
        f"one worker: {one['words_per_second']:.0f} ({_percent(m['kept'], 1)}); with two: "
        f"{two['words_per_second']:.0f} ({m['times']:.2f} times)",
        f"the first worker could begin after {one['start_seconds']:.1f} s",
    ]


def _claims(claims: list[Claim]) -> list[str]:
    rows: list[Sequence[Any]] = [("claim", "bound", "seen", "holds")]
    for claim in claims:
        bound = f"{'≥' if claim.at_least else '≤'} {claim.bound:g}"
        holds = {True: "yes", False: "NO", None: ""}[claim.holds]
        seen = "not measured" if claim.seen is None else f"{claim.seen:.5g}"
        rows.append((claim.text, bound, seen, holds))
    return list(table(rows))


def _spread(side: dict[str, Any]) -> str:
    deviation = side["deviation"]
    return f"{side['mean']:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def _race(row: dict[str, Any]) -> tuple[str | None, ...]:
    loop, ours = (
        f"{statistics.median(row['sides'][side]['pieces_per_second']):.0f}" for side in (LOOP, OURS)
    )
    return ours, loop, _times(row["times_loop"])


def _times(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _percent(value: float | None, digits: int = 0) -> str | None:
    return None if value is None else f"{100 * value:.{digits}f}%"


BLOCKS = {
    "contenders": _contenders,
    "ceilings": _ceilings,
    "stages": _stages,
    "memory": _memory,
    "long_text": _long_text,
    "startup": _startup,
    "agreement": _agreement,
    "job": _job,
}
