"""The page about an output: its numbers are those of the tables, and it is safe to open."""

import base64
import hashlib
import http.server
import json
import random
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_albert_jobs import JobError, annotate, charts, tally
from spacy_albert_jobs.outputs import Outputs
from spacy_albert_jobs.page import report
from spacy_albert_jobs.plan import MANIFEST, REPORT, SUCCESS, SUMMARY, BadFile, Plan, Shard, begin
from spacy_albert_jobs.run import gather_letters
from spacy_albert_jobs.storage import Folder
from spacy_albert_jobs.summary import Summary, manifest
from spacy_albert_jobs.tally import EXCERPT, WHOLE, Names, Spread, excerpt, score_bins
from spacy_albert_jobs.worker import DeadLetters, Job, ShardWriter, read_receipts

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
STRING = pa.string()
#: One class of each document, and others that it may have besides.
BEST, OTHERS = ("GOOD", "BAD"), ("SPORT", "NEWS")
OUTPUTS = Outputs(ents=True, classes=BEST + OTHERS, exclusive=BEST, windows=True)
NAMES = ["Obama", "Paris", "São Paulo", "日本", "A & B", "O'Hara", "x" * 200, "two\nlines"]
NASTY = "<script>alert(1)</script> \"'& </section> <!-- http://example.com/x.js"


def rows(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Documents as a pipeline annotates them."""
    rng, made = random.Random(seed), []
    for n in range(number):
        lang = rng.choice(["en", "fr", None])
        if rng.random() < 0.05:
            error = rng.choice(["ValueError in 'ner': no", "too long: 12 characters"])
            made.append({"id": n, "lang": lang, "text": f"bad {n}", "error": error})
            continue
        text, ents = f"{n} ", []
        for _ in range(int(rng.expovariate(0.5))):
            name, score = rng.choice(NAMES), np.float32(rng.choice([0, 1, rng.random()]))
            label = rng.choice(["PERSON", "PERSON", "GPE", "ORG"])
            ent = {"start": len(text), "end": len(text) + len(name), "label": label, "text": name}
            ents.append({**ent, "score": None if label == "ORG" else float(score)})
            text += f"{name} and {'so ' * rng.randint(0, 9)}"
        good = float(np.float32(rng.random()))
        cats = {
            "GOOD": good,
            "BAD": 1 - good,
            "SPORT": rng.random(),
            "NEWS": rng.choice([None, 0.5]),
        }
        counts = {"n_tokens": len(text.split()), "n_windows": 1 + len(text) // 100}
        best = max(BEST, key=cats.__getitem__)
        row = {"id": n, "lang": lang, "text": text, "ents": ents, "cats": cats, "cat": best}
        made.append({**row, **counts, "error": None})
    return made


def output(
    folder: Path,
    files: dict[str, list[dict[str, Any]]],
    outputs: Outputs = OUTPUTS,
    kept: Sequence[str] = ("id", "lang", "text"),
    partition_by: Sequence[str] = (),
    left_out: Sequence[BadFile] = (),
    text_type: pa.DataType = STRING,
    done: int | None = None,
    timeline: Sequence[Sequence[float]] = (),
) -> Path:
    """Write what a job writes that annotates these files, or some of them."""
    types = {"id": pa.int64(), "lang": pa.string(), "text": text_type}
    columns = pa.schema([(name, types[name]) for name in kept])
    options = {"text_column": "text", "partition_by": list(partition_by)}
    options |= {"limit": None, "max_chars": 1000}
    identity = {"pipeline": "0123456789abcdef" * 4, "code": None, "versions": {"spacy": "3.8"}}
    identity |= {"options": options, "input": {name: ["digest", 0] for name in files}}
    shards = [
        Shard(f"part-{n:05}-{n:012x}.parquet", name, (0, 1), 0, len(found), 1)
        for n, (name, found) in enumerate(files.items())
    ]
    plan, where = Plan(identity, columns, outputs, shards, list(left_out)), Folder.at(folder)
    begin(where, plan)
    job = Job("pipeline", None, "text", 1000, columns, outputs, partition_by, 200, plan.job,
              plan.fingerprint, where, where)  # fmt: skip
    for shard in shards[:done]:
        with ShardWriter(job, plan.schema, shard) as writer, DeadLetters(job, shard) as letters:
            found = files[shard.source]
            batch = pa.RecordBatch.from_pylist(found, plan.schema) if found else None
            for first in range(0, len(found), 100):
                part, some = batch.slice(first, 100), found[first : first + 100]
                writer.write(first, part, some)
                texts = pa.array([row.get("text") for row in some], text_type)
                letters.write(first, texts, some)
    if done is None:
        receipts = list(read_receipts(where, plan).values())
        summary = Summary.of(str(folder), plan, receipts, receipts, 10.0, 12.0, timeline)
        gather_letters(where, receipts)
        where.write(MANIFEST, manifest(plan, receipts))
        where.write(SUMMARY, summary.to_json())
        where.write(SUCCESS, b"")
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """Three input files, annotated."""
    folder = tmp_path_factory.mktemp("job") / "out"
    files = {"a.parquet": rows(700, 1), "b/c.parquet": rows(300, 2), "d.parquet": rows(1, 3)}
    return output(folder, files, timeline=[[2.5, 250, 5000], [10, 1001, 9000]])


class Drawn(NamedTuple):
    """A document on the page."""

    text: str
    marks: list[tuple[str, str]]
    footer: str


class Page(HTMLParser):
    """A page as a browser would take it apart."""

    VOID = ("meta", "link", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.open = html, [("", {})]
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.pieces: list[tuple[list[str], str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.charts: dict[str, dict[str, str]] = {}
        self.tiles: dict[str, list[str]] = {}
        self.facts: dict[str, str] = {}
        self.documents: list[Drawn] = []
        self.caption = self.term = self.chart = ""
        self.feed(html)
        assert len(self.open) == 1, self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr" and self.within("tbody"):
            self.tables[self.caption].append([])
        elif tag in ("th", "td") and self.within("tbody"):
            self.tables[self.caption][-1].append("")
        elif tag == "svg" and attributes.get("role") == "img":
            self.chart = attributes["aria-label"]
            self.charts[self.chart] = {}
        elif tag == "article":
            self.documents.append(Drawn("", [], ""))
        elif tag == "mark":
            self.documents[-1].marks.append(("", ""))
        if tag not in self.VOID:
            self.open.append((tag, attributes))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, (tag, self.open)
        self.open.pop()

    def within(self, tag: str) -> bool:
        return any(name == tag for name, _ in self.open)

    def handle_data(self, data):
        self.pieces.append(([tag for tag, _ in self.open], data))
        if self.within("caption"):
            self.caption = data
            self.tables[data] = []
        elif self.within("tbody"):
            self.tables[self.caption][-1][-1] += data
        elif self.within("rect"):
            span, _, number = data.rpartition(": ")
            self.charts[self.chart][span] = number
        elif self.within("dt"):
            self.term = data
        elif self.within("dd") and any(a.get("class") == "totals" for _, a in self.open):
            self.tiles.setdefault(self.term, []).append(data)
        elif self.within("dd"):
            self.facts[self.term] = self.facts.get(self.term, "") + data
        elif self.within("article"):
            self.document(data)

    def document(self, data: str) -> None:
        drawn = self.documents[-1]
        if self.within("mark"):
            text, label = drawn.marks[-1]
            label, text = (label + data, text) if self.within("b") else (label, text + data)
            drawn.marks[-1] = (text, label)
        if self.within("footer"):
            self.documents[-1] = drawn._replace(footer=drawn.footer + data)
        elif not self.within("b"):
            self.documents[-1] = drawn._replace(text=drawn.text + data)

    @property
    def text(self) -> str:
        return "".join(data for tags, data in self.pieces if "style" not in tags)

    def table(self, caption: str) -> dict[str, str]:
        """The numbers of a table with bars, by name."""
        return {row[0]: row[2] for row in self.tables[caption]}


def page(folder: Path, **options) -> Page:
    return Page(Path(report(folder, **options)).read_text("utf-8"))


@pytest.fixture(scope="module")
def shown(job) -> Page:
    return page(job)


@pytest.fixture(scope="module")
def sql(job):
    """Asks DuckDB about the output."""
    db = duckdb.connect()
    db.execute(f"create view docs as from '{job}/part-*.parquet'")
    db.execute("create view ents as select unnest(ents, recursive := true) from docs")
    return lambda query: db.execute(query).fetchall()


def commas(pairs) -> dict[str, str]:
    return {str(name): f"{number:,}" for name, number in pairs}


def test_totals(shown, sql):
    (found,) = sql(
        "select count(*), sum(n_tokens), sum(len(ents)), sum(n_windows), count(error), "
        "count(*) - count(error) from docs"
    )
    numbers, annotated = found[:5], found[5]
    names = ["Documents", "Words", "Entities", "Windows", "Errors"]
    assert {name: shown.tiles[name][0] for name in names} == commas(zip(names, numbers))
    assert shown.tiles["Documents"][1] == "from 3 files"
    assert shown.tiles["Words"][1] == f"{numbers[1] / annotated:,.1f} a document"
    assert shown.tiles["Errors"][1] == f"{numbers[4] / numbers[0]:.1%} of documents"
    assert shown.tiles["Words a second"] == [f"{numbers[1] / 10:,.0f}", "in 12 s"]


def test_entities(shown, sql):
    assert shown.table("Entities by label") == commas(
        sql("select label, count(*) from ents group by 1")
    )
    (some, all_) = sql("select count(*) filter (len(ents) > 0), count(ents) from docs")[0]
    assert f"{some / all_:.1%} of the documents have at least one" in shown.text
    total = sql("select count(*) from ents")[0][0]
    for label, _, number, share in shown.tables["Entities by label"]:
        assert share == f"{int(number.replace(',', '')) / total:.1%}", label


@pytest.mark.parametrize("label", ["PERSON", "GPE", "ORG"])
def test_names(shown, sql, label):
    counts = sql(
        f"select text, count(*) from ents where label = '{label}' group by 1 order by 2 desc"
    )
    longest = "x" * tally.NAME_CHARACTERS + " …"
    expected = {longest if name == "x" * 200 else name: number for name, number in counts}
    assert shown.table(f"Most frequent names of {label}") == commas(expected.items())
    shown_counts = [int(row[2]) for row in shown.tables[f"Most frequent names of {label}"]]
    assert shown_counts == sorted(shown_counts, reverse=True)


def bins(sql, score: str, table: str) -> dict[str, str]:
    found = sql(
        f"select least(floor({score}::double * 20), 19)::int, count(*) from {table} "
        f"where {score} is not null group by 1"
    )
    return {f"{n / 20:.2f} to {(n + 1) / 20:.2f}": f"{number:,}" for n, number in found}


def test_scores(shown, sql):
    for label in ("PERSON", "GPE"):
        found = bins(sql, "score", f"(from ents where label = '{label}')")
        assert shown.charts[f"Scores of {label}"] == found
        sure = sql(f"select avg((score >= 0.9)::int) from ents where label = '{label}'")[0][0]
        assert f"{sure:.1%} have 0.9 or more" in shown.text
    assert "Scores of ORG" not in shown.charts
    for name in BEST + OTHERS:
        assert shown.charts[f"Scores of {name}"] == bins(sql, f"cats.{name}", "docs")


def test_classes(shown, sql):
    best = sql("select cat, count(*) from docs where cat is not null group by 1")
    assert shown.table("The best class of each document") == commas(best)
    others = [(c, sql(f"select count(*) from docs where cats.{c} >= 0.5")[0][0]) for c in OTHERS]
    assert shown.table("Documents with a score of at least 0.5") == commas(others)


@pytest.mark.parametrize(
    ("title", "length"),
    [("words", "n_tokens"), ("characters", "length(text)"), ("windows", "n_windows")],
)
def test_lengths(shown, sql, title, length):
    found: Counter[str] = Counter()
    for value, number in sql(f"select {length}, count(*) from docs where error is null group by 1"):
        least = 1 << value.bit_length() >> 1
        found[str(least) if least < 2 else f"{least:,} to {2 * least - 1:,}"] += number
    assert shown.charts[f"Texts by {title}"] == commas(found.items())
    mean, most = sql(f"select avg({length}), max({length}) from docs where error is null")[0]
    assert f"{mean:,.1f} on average, {most:,} at most." in shown.text


def test_errors(shown, sql, job):
    found = sql(
        "select split_part(error, ':', 1), count(*) from docs where error is not null group by 1"
    )
    table = shown.tables["Errors by kind"]
    assert {row[0]: row[1] for row in table} == commas(found)
    letters = [json.loads(line) for line in (job / "_errors.jsonl").read_text().splitlines()]
    for kind, _, said in table:
        first = next(letter for letter in letters if letter["error"].startswith(kind))
        assert said == f"{first['error']}{first['text']}row {first['row']:,} of {first['file']}"
    assert "_errors.jsonl" in shown.text


def test_documents(job):
    shown = page(job, samples=2000)
    given = {"a.parquet": rows(700, 1), "b/c.parquet": rows(300, 2), "d.parquet": rows(1, 3)}
    good = sum(row["error"] is None for file in given.values() for row in file)
    assert len(shown.documents) == good
    for drawn in shown.documents:
        row, file = re.search(r"row ([\d,]+) of (\S+)", drawn.footer).groups()
        found = given[file][int(row.replace(",", ""))]
        assert drawn.footer.startswith(f"{found['cat']} {found['cats'][found['cat']]:.2f}")
        for other in OTHERS:
            assert (other in drawn.footer) == ((found["cats"][other] or 0) >= 0.5)
        text = drawn.text.replace("…", "")
        if len(found["text"]) <= WHOLE:
            assert text == found["text"].replace("\n", "") or "\n" in text
            assert drawn.marks == [(ent["text"], ent["label"]) for ent in found["ents"]]
        else:
            assert "…" in drawn.text
            assert "characters" in drawn.footer


def test_the_sample_is_drawn_from_the_whole_output(job, monkeypatch):
    shown = page(job, samples=100)
    files = Counter(re.search(r"of (\S+)", drawn.footer)[1] for drawn in shown.documents)
    assert sum(files.values()) == 100
    assert 55 <= files["a.parquet"] <= 85
    assert page(job, samples=100).documents == shown.documents
    few = page(job, samples=10).documents
    assert few == shown.documents[:10]
    monkeypatch.setattr(tally, "BATCH_ROWS", 7)
    assert page(job, samples=100).documents == shown.documents
    assert page(job, samples=0).documents == []


def test_speed(shown, sql):
    words = {"0 s to 1 s": "2,000", "1 s to 2 s": "2,000", "9 s to 10 s": "533"}
    assert words.items() <= shown.charts["words a second"].items()
    assert len(shown.charts["words a second"]) == 10
    assert shown.charts["documents a second"]["0 s to 1 s"] == "100"


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30), st.floats(0.1, 10**7))
def test_rates_add_up_to_what_was_done(steps, seconds):
    times = np.linspace(0, seconds, len(steps) + 1)
    sums = np.concatenate([[0], np.cumsum(steps)]).astype(float)
    edges, rates = charts.rates(times, sums, charts.step_to(seconds, charts.COLUMNS))
    assert (edges[0], edges[-1]) == (0, times[-1])
    assert len(edges) - 1 == len(rates) <= charts.COLUMNS + 1
    assert (np.diff(edges) * rates).sum() == pytest.approx(sums[-1])
    drawn = Page(charts.rate_chart("rates", times, sums, "words")).charts["rates"]
    assert len(drawn) <= len(rates)


def test_what_was_asked_for(shown, job):
    assert shown.facts["Input"] == "3 files: a.parquet, b/c.parquet, d.parquet"
    assert shown.facts["Pipeline"] == "SHA-256 of its files 0123456789abcdef"
    assert shown.facts["Kept columns"] == "id, lang, text"
    assert shown.facts["Output"] == str(job)
    assert "Finished" in shown.facts
    assert "1,001 documents in 3 files, annotated with entities and 4 classes." in shown.text


def test_nothing_is_taken_for_markup(tmp_path):
    name = f"{NASTY}\0\x08"
    ents = [{"start": 4, "end": 4 + len(NASTY), "label": NASTY, "text": NASTY, "score": 0.5}]
    row = {"text": f"see {NASTY} {{text}} $body", "ents": ents, "cats": {NASTY: 0.9}, "cat": NASTY}
    files = {name: [{**row, "n_tokens": 5, "error": None}, {"text": NASTY, "error": NASTY}]}
    outputs = Outputs(ents=True, classes=(NASTY,), exclusive=(NASTY,), windows=False)
    out = output(tmp_path / "<b>&amp;", files, outputs, ["text"], left_out=[BadFile(NASTY, NASTY)])
    shown = page(out)
    plain = output(tmp_path / "plain", {"a": rows(99)}, left_out=[BadFile("b", "is empty")])
    assert shown.tags <= page(plain).tags
    assert "script" not in shown.tags
    cleaned = f"{NASTY}\ufffd\ufffd"
    (drawn,) = shown.documents
    assert drawn.text == f"see {NASTY} {{text}} $body"
    assert drawn.marks == [(NASTY, NASTY)]
    assert drawn.footer == f"{NASTY} 0.90row 0 of {cleaned}"
    assert shown.table("Entities by label") == {NASTY: "1"}
    assert shown.table(f"Most frequent names of {NASTY}") == {NASTY: "1"}
    assert shown.table("The best class of each document") == {NASTY: "1"}
    kind = NASTY.partition(":")[0]
    assert shown.tables["Errors by kind"] == [[kind, "1", f"{NASTY}{NASTY}row 1 of {cleaned}"]]
    assert f"{NASTY} {NASTY}" in shown.text
    assert "<b>&amp;" in shown.text
    safe(shown)


def safe(shown: Page) -> None:
    """See to it that a page takes nothing from elsewhere, and that its policy fits it."""
    (policy,) = (
        value for _, name, value in shown.attributes if name == "content" and "src" in value
    )
    style = "".join(data for tags, data in shown.pieces if "style" in tags)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy
    assert "url(" not in style
    assert "@import" not in style
    for tag, name, value in shown.attributes:
        assert name not in ("src", "srcset", "style", "action", "data", "xlink:href")
        assert not name.startswith("on"), name
        if name == "href":
            assert value.startswith("#") or (tag, value) == ("link", "data:,")
        elif name not in ("title", "aria-label"):
            assert "://" not in value
    ids = [value for _, name, value in shown.attributes if name == "id"]
    anchors = [value[1:] for tag, name, value in shown.attributes if (tag, name) == ("a", "href")]
    assert sorted(ids) == sorted(set(ids)) == sorted(anchors)


def test_the_page_is_safe(shown):
    safe(shown)


def test_only_entities(tmp_path):
    only = Outputs(ents=True, classes=(), exclusive=(), windows=False)
    shown = page(output(tmp_path / "out", {"a": rows(50)}, only))
    assert "Windows" not in shown.tiles
    assert not {"classes", "windows"} & {
        value for _, name, value in shown.attributes if name == "id"
    }
    assert shown.tables["Entities by label"]
    assert shown.documents


def test_only_classes(tmp_path):
    only = Outputs(ents=False, classes=OTHERS, exclusive=(), windows=False)
    made = [
        {**row, "cats": row.get("cats") and {c: row["cats"][c] for c in OTHERS}} for row in rows(50)
    ]
    shown = page(output(tmp_path / "out", {"a": made}, only))
    assert "Entities" not in shown.tiles
    assert set(shown.tables) == {"Documents with a score of at least 0.5", "Errors by kind"}
    assert shown.documents
    assert "mark" not in shown.tags


def test_no_entities_found(tmp_path):
    made = [{**row, "ents": []} for row in rows(20) if row["error"] is None]
    shown = page(output(tmp_path / "out", {"a": made}))
    assert shown.tiles["Entities"] == ["0", "0.0 a document"]
    assert shown.tiles["Errors"][0] == "0"
    assert "There are none." in shown.text


def test_texts_that_were_not_kept(tmp_path):
    shown = page(output(tmp_path / "out", {"a": rows(50)}, kept=["id"]))
    assert not shown.documents
    assert "Texts by characters" not in shown.charts
    assert "Texts by words" in shown.charts
    assert shown.tables["Entities by label"]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_texts_of_any_type(tmp_path, kind):
    made = rows(60)
    if pa.types.is_binary(kind):
        made = [{**row, "text": row["text"].encode()} for row in made]
        made.append({"id": 60, "text": b"\xff", "error": "not UTF-8: invalid start byte"})
    shown = page(output(tmp_path / "out", {"a": made}, text_type=kind))
    plain = page(output(tmp_path / "plain", {"a": rows(60)}))
    assert shown.documents == plain.documents
    assert shown.charts["Texts by characters"] == plain.charts["Texts by characters"]


def test_only_errors(tmp_path):
    made = [{"id": n, "text": "x", "error": f"ValueError in 'ner': {n}"} for n in range(20)]
    shown = page(output(tmp_path / "out", {"a": made}))
    assert shown.tiles["Documents"][0] == "20"
    assert shown.tiles["Errors"] == ["20", "100.0% of documents"]
    assert list(shown.tables) == ["Errors by kind"]
    assert shown.tables["Errors by kind"] == [
        ["ValueError in 'ner'", "20", "ValueError in 'ner': 0xrow 0 of a"]
    ]
    assert not shown.charts
    safe(shown)


def test_an_empty_collection(tmp_path):
    shown = page(output(tmp_path / "out", {"a": [], "b": []}))
    assert shown.tiles["Documents"] == ["0", "from 2 files"]
    assert "0 documents in 2 files" in shown.text
    assert not shown.tables
    assert not shown.charts
    safe(shown)


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_job_that_has_not_finished(tmp_path, done):
    files = {"a": rows(50), "b": rows(70)}
    shown = page(output(tmp_path / "out", files, done=done))
    documents = [0, 50, 120][done]
    assert "has not finished" in shown.text
    assert f"{done} of 2 shards, with {documents} of 120 documents" in shown.text
    assert shown.tiles["Documents"][0] == str(documents)
    assert "Words a second" not in shown.tiles
    assert "Finished" not in shown.text
    safe(shown)


def test_a_job_that_is_taken_up_again(tmp_path):
    out = output(tmp_path / "out", {"a": rows(50)}, timeline=[[2, 50, 100]])
    (out / SUCCESS).unlink()
    shown = page(out)
    assert "has not finished" in shown.text
    assert "Words a second" not in shown.tiles
    assert not {title for title in shown.charts if "a second" in title}


def test_a_finished_job_that_lacks_a_file(tmp_path):
    out = output(tmp_path / "out", {"a": rows(50), "b": rows(70)})
    next(out.glob("part-00001*")).unlink()
    shown = page(out)
    assert "missing or damaged: see verify" in shown.text
    assert shown.tiles["Documents"][0] == "50"


def test_a_partitioned_output_has_the_same_numbers(tmp_path):
    files = {"a": rows(400, 1), "b": rows(100, 2)}
    whole = page(output(tmp_path / "whole", files), samples=500)
    parts = output(tmp_path / "parts", files, partition_by=["lang"])
    shown = page(parts, samples=500)
    assert len(list(parts.glob("lang=*/part-*.parquet"))) == 6
    assert (shown.tiles, shown.tables, shown.charts) == (whole.tiles, whole.tables, whole.charts)
    assert sorted(drawn.text for drawn in shown.documents) == sorted(
        d.text for d in whole.documents
    )
    db = duckdb.connect()
    for drawn in shown.documents[:20]:
        row, path = re.search(r"row ([\d,]+) of (.*\.parquet)", drawn.footer).groups()
        found = db.execute(f"select text from '{parts / path}' limit 1 offset {row}").fetchone()
        assert found[0].startswith(drawn.text.split(" ")[0] + " ")


def test_from_a_job(classifier, collection, tmp_path, in_process):
    out = tmp_path / "out"
    summary = annotate(classifier, collection, out, shard_bytes=1000)
    seen: list[tuple[int, int]] = []
    path = report(out, show=lambda *rows: seen.append(rows))
    assert Path(path) == out / REPORT
    shown = Page(Path(path).read_text("utf-8"))
    assert seen[-1] == (431, 431)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert shown.tiles["Documents"][0] == "431"
    assert shown.tiles["Words"][0] == f"{summary.words:,}"
    assert shown.table("Entities by label") == commas(summary.ents.items())
    assert (
        shown.table("The best class of each document").items()
        >= commas(summary.cats.items()).items()
    )
    for drawn in shown.documents:
        row = int(re.search(r"row ([\d,]+)", drawn.footer)[1])
        assert [label for _, label in drawn.marks] == ["PERSON", "GPE"]
        assert drawn.text.startswith("Obama went to Paris, day ")
        assert row < 300
    worked = len(in_process)
    annotate(classifier, collection, out, shard_bytes=1000)
    assert len(in_process) == worked, "the page is no part of the result"
    annotate(classifier, collection, out, overwrite=True)
    assert not (out / REPORT).exists()


def test_another_place(job, tmp_path):
    assert report(job, to=tmp_path / "page.html", samples=1) == str(tmp_path / "page.html")
    assert len(Page((tmp_path / "page.html").read_text("utf-8")).documents) == 1
    with pytest.raises(JobError, match=r"Cannot write .*nowhere"):
        report(job, to=tmp_path / "nowhere" / "page.html")


def test_what_is_no_output(job, tmp_path):
    with pytest.raises(JobError, match="has not been written by annotate"):
        report(tmp_path)
    with pytest.raises(JobError, match="samples must be at least 0"):
        report(job, samples=-1)


def test_a_file_that_cannot_be_read(tmp_path):
    out = output(tmp_path / "out", {"a": rows(300)})
    (part,) = out.glob("part-*.parquet")
    data = bytearray(part.read_bytes())
    data[len(data) // 4 : len(data) // 4 + 64] = bytes(64)
    part.write_bytes(data)
    with pytest.raises(JobError, match=r"part-00000.*cannot be read.*verify"):
        report(out)


@given(
    st.lists(st.dictionaries(st.integers(0, 60), st.integers(1, 9)), max_size=30),
    st.integers(1, 20),
)
def test_counts_of_too_many_names(batches, bound):
    names, true = Names(bound), Counter[str]()
    for batch in batches:
        counts = {str(name): number for name, number in batch.items()}
        true.update(counts)
        names.add(counts)
    assert len(names.counts) <= 2 * bound
    assert names.missed * (bound + 1) <= true.total()
    for name, number in true.items():
        assert names.counts.get(name, 0) <= number <= names.counts.get(name, 0) + names.missed
    if len(true) <= 2 * bound:
        assert names.counts == true
    ranked = sorted(names.counts.items(), key=lambda item: (-item[1], item[0]))
    assert names.most_common(5) == ranked[:5]


def test_the_page_says_how_wrong_the_counts_of_names_are(tmp_path, monkeypatch):
    monkeypatch.setattr(tally, "BATCH_ROWS", 50)
    monkeypatch.setattr(tally.Names.__init__, "__defaults__", (3,))
    out = output(tmp_path / "out", {"a": rows(400)})
    shown = page(out)
    db = duckdb.connect()
    db.execute(f"create view ents as select unnest(ents, recursive := true) from '{out}/*.parquet'")
    size = tally.NAME_CHARACTERS
    true = db.execute(
        f"select text[:{size}], count(*) from ents where label = 'PERSON' group by 1"
    ).fetchall()
    missed = int(re.search(r"10 of more than 3 names.*?up to (\d+) times? more", shown.text)[1])
    found = shown.table("Most frequent names of PERSON")
    for name, number in true:
        name = f"{name} …" if len(name) == tally.NAME_CHARACTERS else name
        assert int(found.get(name, "0")) <= number <= int(found.get(name, "0")) + missed


@given(st.lists(st.integers(0, 2**40) | st.none(), max_size=50))
def test_spreads(numbers):
    spread = Spread()
    spread.add(pa.array(numbers, pa.int64()))
    there = [number for number in numbers if number is not None]
    counts = Counter(number.bit_length() for number in there)
    assert {n: int(c) for n, c in enumerate(spread.bins) if c} == counts
    assert (spread.count, spread.total, spread.most) == (
        len(there),
        sum(there),
        max(there, default=0),
    )


EDGES = np.arange(21, dtype=np.float32) / np.float32(20)
BESIDE = [*EDGES, *np.nextafter(EDGES[1:], np.float32(0)), *np.nextafter(EDGES[:-1], np.float32(1))]


@given(st.lists(st.floats(0, 1, width=32) | st.sampled_from([float(edge) for edge in BESIDE])))
def test_scores_never_end_up_on_the_wrong_side(scores):
    expected = [min(int(Fraction(score) * 20), 19) for score in scores]
    assert score_bins(np.array(scores, np.float32)).tolist() == expected


def test_scores_outside_of_0_to_1():
    assert score_bins(np.array([-3, 1.5, np.inf, -np.inf], np.float32)).tolist() == [0, 19, 19, 0]


@st.composite
def marked_texts(draw) -> tuple[str, list[dict[str, int]]]:
    text, ents = "", []
    for filler, entity in draw(
        st.lists(st.tuples(st.integers(0, 900), st.integers(1, 300)), max_size=12)
    ):
        text += draw(st.sampled_from(["ab ", "abcdefghij", "é日\n"])) * (filler // 3)
        ents.append({"start": len(text), "end": len(text) + entity})
        text += "E" * entity
    return text + "and so on " * draw(st.integers(0, 90)), ents


@given(marked_texts())
def test_excerpts(marked):
    text, ents = marked
    start, end, inner = excerpt(text, ents)
    assert 0 <= start <= end <= len(text)
    assert end - start <= (WHOLE if len(text) <= WHOLE else EXCERPT)
    moved = [{"start": ent["start"] + start, "end": ent["end"] + start} for ent in inner]
    assert all(ent in ents for ent in moved)
    if len(text) <= WHOLE:
        assert (start, end, moved) == (0, len(text), ents)
    for ent in ents:
        assert not ent["start"] < start < ent["end"], "an entity is cut"
        assert not ent["start"] < end < ent["end"], "an entity is cut"
    assert bool(inner) == bool(ents), "there is none in it"


@pytest.mark.parametrize("most", [0, 0.3, 1, 4, 5, 7, 99, 100, 101, 999, 12345, 10**9 + 1])
def test_ticks_are_round(most):
    ticks = charts.ticks_to(most)
    assert 2 <= len(ticks) <= 5
    assert ticks[0] == 0
    assert ticks[-1] >= most
    assert ticks[1] <= max(most, 1), "most of the chart is empty"
    assert {str(tick)[0] for tick in ticks[1:2]} <= {"1", "2", "5"}
    assert len({charts.compact(tick) for tick in ticks}) == len(ticks)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h")],
)
def test_durations(seconds, said):
    assert charts.duration(seconds) == said


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[str, list[str]]]:
    """A server of a folder on this machine, and what it has been asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, message, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def browse(address: str, profile: Path) -> subprocess.CompletedProcess[str]:
    """Open a page. What the browser has to say of it is on standard error."""
    if not BROWSER:
        pytest.skip("needs a browser: apt-get install chromium")
    options = [
        "headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-sync",
        "disable-background-networking", "disable-component-update", "enable-logging=stderr",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"user-data-dir={profile}",
        "dump-dom",
    ]  # fmt: skip
    command = [BROWSER, *(f"--{option}" for option in options), address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_in_a_browser(tmp_path, served):
    address, asked = served
    text = f"{NASTY} in Paris"
    start = text.index("Paris")
    ents = [{"start": start, "end": start + 5, "label": "GPE", "text": "Paris", "score": 0.9}]
    nasty = {**next(row for row in rows(9) if row["error"] is None), "text": text, "ents": ents}
    out = output(
        tmp_path / "out", {NASTY: [*rows(60), nasty]}, timeline=[[1, 30, 300], [2, 61, 700]]
    )
    (tmp_path / "served").mkdir()
    report(out, to=tmp_path / "served" / "page.html", samples=100)
    done = browse(f"{address}/page.html", tmp_path / "profile")
    assert "CONSOLE" not in done.stderr, done.stderr
    assert asked == ["/page.html"]
    assert "Paris</bdi><b><bdi>GPE</bdi></b></mark>" in done.stdout
    assert "<script" not in done.stdout


def test_a_browser_would_tell(tmp_path, served):
    address, _ = served
    html = Path(report(output(tmp_path / "out", {"a": rows(5)}))).read_text("utf-8")
    (tmp_path / "served").mkdir()
    image = '<main><img src="/x.png" style="color: red">'
    (tmp_path / "served" / "page.html").write_text(html.replace("<main>", image))
    assert "CONSOLE" in browse(f"{address}/page.html", tmp_path / "profile").stderr
