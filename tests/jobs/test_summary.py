"""What is said at the end of a job."""

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from spacy_albert_jobs import annotate
from spacy_albert_jobs.summary import Summary

LABELS = {f"LABEL_{n}": 10_000 // (n + 1) for n in range(50)}
LONG = Summary(
    output="/data/my output",
    rows=1_234_567,
    words=345_678_901,
    shards=1000,
    ents=LABELS,
    cats={"GOOD": 1_000_000, "BAD": 234_555},
    errors={
        "not UTF-8": {"rows": 2, "file": "a[b].parquet", "row": 7},
        "too long": {"rows": 10, "file": "wiki/en.parquet", "row": 123_456},
    },
    left_out=[{"path": f"{n}.parquet", "reason": "is empty (0 bytes)"} for n in range(14)],
    run={
        "rows": 400_000,
        "words": 112_345_678,
        "seconds": 3723.0,
        "working_seconds": 3711.0,
        "rows_per_second": 107.8,
        "words_per_second": 30_273.7,
        "timeline": [[0.0, 0, 0], [0.5, 1000, 280_000]],
    },
    text_column="body",
)


def printed(summary: Summary, width: int = 92) -> list[str]:
    console = Console(file=io.StringIO(), width=width, _environ={})
    summary.print(console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_all_that_can_be_said():
    said = printed(LONG)
    assert said[:4] == [
        "rows         1,234,567            108 a second",
        "words      345,678,901            30,274 a second",
        "entities        44,976            0.04 a row",
        "                10,000   22.2 %   LABEL_0",
    ]
    assert said[15:19] == [
        "                                  ... and 38 more",
        "classes      1,000,000   81.0 %   GOOD",
        "               234,555   19.0 %   BAD",
        "errors              12   <0.1 %   see _errors.jsonl; --retry-errors tries them again",
    ]
    assert said[19:21] == [
        "                    10   <0.1 %   too long (first: row 123,456 of wiki/en.parquet)",
        "                     2   <0.1 %   not UTF-8 (first: row 7 of a[b].parquet)",
    ]
    assert said[21] == "left out                          0.parquet is empty (0 bytes)"
    assert said[33:36] == [
        "                                  ... and 2 more",
        "this run       400,000   32.4 %   of the rows; others were done before",
        "time           1:02:03            0:12 of it before the first worker was ready",
    ]
    assert said[36:] == [
        "output           1,000            shards in /data/my output",
        "",
        "python -m spacy albert show '/data/my output' --text-column body  # some of the documents",
        "python -m spacy albert report '/data/my output'"
        + 19 * " "
        + "# a page about what was found",
        "python -m spacy albert verify '/data/my output'"
        + 19 * " "
        + "# each file against the plan",
    ]


def test_only_what_is_worth_it():
    nothing = Summary("out", 0, 0, 1, {}, {}, {}, [], {"seconds": 0.4})
    assert printed(nothing) == [
        "rows        0",
        "words       0",
        "time     0:00",
        "output      1      shard in out",
    ]
    said = "\n".join(printed(replace(LONG, text_column=None, errors={}, left_out=[], shards=1)))
    assert "show" not in said
    assert "verify" not in said
    assert "errors" not in said
    assert "left out" not in said
    assert "report" in said
    assert "show out    #" in "\n".join(printed(replace(LONG, output="out", text_column="text")))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 160])
def test_narrow_terminals(width):
    table = printed(LONG, width)
    table = table[: table.index("")]
    assert max(map(len, table)) <= width
    assert f"{LONG.words:,}" in "".join(table) or width < 40


counts = st.dictionaries(st.text(), st.integers(0, 10**12))


@given(counts, counts, st.lists(st.tuples(st.floats(0, 1e6), *[st.integers(0, 10**12)] * 2)))
def test_round_trip(ents, errors, timeline):
    errors = {
        kind: {"rows": n, "file": f"[\n {kind},\n 1,\n 2\n]", "row": 0}
        for kind, n in errors.items()
    }
    run = {"seconds": 1.0, "timeline": [list(point) for point in timeline]}
    summary = Summary("out", 1, 2, 3, ents, {}, errors, [], run, "text")
    assert Summary.from_json(summary.to_json()) == summary
    printed(summary)


def test_points_of_a_timeline_are_lines():
    lines = LONG.to_json().decode().splitlines()
    assert "      [0.5, 1000, 280000]" in lines
    assert json.loads(LONG.to_json())["run"]["timeline"] == LONG.run["timeline"]


def test_what_a_job_says(classifier, collection, tmp_path, in_process):
    summary = annotate(classifier, collection, tmp_path / "out")
    assert summary == Summary.from_json((tmp_path / "out/_summary.json").read_bytes())
    assert summary.text_column == "text"
    assert annotate(classifier, collection, tmp_path / "ids", keep=["id"]).text_column is None
