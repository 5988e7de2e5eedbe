"""What is wrong with an output folder is found, and named."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import texts, write

from spacy_albert_jobs import JobError, annotate, annotator, run
from spacy_albert_jobs import worker as workers
from spacy_albert_jobs.checksums import Checksums
from spacy_albert_jobs.contents import count, misplaced
from spacy_albert_jobs.outputs import ENTITY
from spacy_albert_jobs.plan import Plan
from spacy_albert_jobs.storage import Folder
from spacy_albert_jobs.summary import Summary, manifest
from spacy_albert_jobs.verification import verify
from spacy_albert_jobs.worker import RECEIPT, Receipt, read_receipts

OPTIONS = {
    "plain": {},
    "partitioned": {"partition_by": ["lang"]},
    "resumed": {},
    "without texts": {"keep": ["id"]},
    "annotations only": {"keep": []},
    "limited": {"limit": 50},
}
LANGUAGES = ["en", "fr", None, "en", "x/=y"]
MADE: dict[str, Path] = {}


class Made(NamedTuple):
    """An input, what was made of it, and how to make it again."""

    given: Path
    out: Path
    again: Callable[[], Summary]

    def shard(self, number: int = 1) -> str:
        return Plan.of(Folder.at(self.out)).shards[number].name

    def parts(self, number: int = 1) -> list[Path]:
        return sorted(self.out.rglob(f"*{self.shard(number)}"))

    def lines(self, name: str) -> list[bytes]:
        return (self.out / name).read_bytes().splitlines(keepends=True)


def write_input(folder: Path) -> Path:
    first = 0
    for name, rows, group in (("a.parquet", 40, 7), ("b/c.parquet", 45, 45), ("d.parquet", 9, 1)):
        values: list[str | None] = list(texts(first, first + rows))
        values[2:5] = [None, "Obama " * 20, "😀 é 𝒳 Obama"]
        table = pa.table(
            {
                "id": pa.array(range(first, first + rows), pa.int64()),
                "text": pa.array(values, pa.string()),
                "lang": pa.array([LANGUAGES[n % 5] for n in range(rows)], pa.string()),
                "tags": pa.array([[{"n": n, "s": None}] * (n % 3) for n in range(rows)]),
                "score": pa.array([[0.0, -0.0, float("nan"), None][n % 4] for n in range(rows)]),
            }
        )
        write(folder / name, table, group)
        first += rows
    return folder


@pytest.fixture
def make(classifier, in_process, tmp_path, tmp_path_factory, monkeypatch) -> Callable[[str], Made]:
    """Copies of an input and of what was made of it, which a test may damage."""
    monkeypatch.setattr(annotator, "load_pipeline", load_once)
    monkeypatch.setattr(run, "load_pipeline", load_once)

    def make(kind: str = "plain") -> Made:
        options = {"shard_bytes": 600, "max_chars": 100, "quiet": True, **OPTIONS[kind]}
        if kind not in MADE:
            folder = tmp_path_factory.mktemp("made")
            write_input(folder / "in")
            if kind == "resumed":
                with monkeypatch.context() as patch:
                    break_off(patch, after=3)
                    with pytest.raises(KeyboardInterrupt):
                        annotate(classifier, folder / "in", folder / "out", **options)
            annotate(classifier, folder / "in", folder / "out", **options)
            MADE[kind] = folder
        copy = shutil.copytree(MADE[kind], tmp_path / "made")
        again = lambda: annotate(classifier, copy / "in", copy / "out", **options)  # noqa: E731
        return Made(copy / "in", copy / "out", again)

    return make


@cache
def load_once(pipeline, code=None, device=None):
    return LOAD(pipeline, code, device)


LOAD = annotator.load_pipeline


def break_off(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    whole = run.run_shards

    def run_shards(work, *rest):
        for number, answer in enumerate(whole(work, *rest), 1):
            yield answer
            if number == after:
                raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_shards", run_shards)


@pytest.mark.parametrize("kind", OPTIONS)
def test_nothing_is_wrong_with_a_finished_job(make, kind):
    made = make(kind)
    assert (made.out / "_errors.jsonl").exists()  # some rows have errors
    assert len(Plan.of(Folder.at(made.out)).shards) > 5
    shown: list[tuple[int, int]] = []
    assert verify(made.out, made.given, show=lambda *counts: shown.append(counts)) == []
    shards = len(Plan.of(Folder.at(made.out)).shards)
    assert shown == [(done, shards) for done in range(1, shards + 1)]
    shutil.rmtree(made.given)
    assert verify(made.out) == []


def test_the_output_may_be_moved_and_reported_on(make, tmp_path):
    made = make()
    (made.out / "_report.html").write_text("a page")
    assert verify(str(made.out.rename(tmp_path / "elsewhere")), str(made.given)) == []


def test_retried_errors(make, monkeypatch, classifier):
    made = make("partitioned")
    options = {"shard_bytes": 600, "max_chars": 100, "partition_by": ["lang"], "quiet": True}
    annotate(classifier, made.given, made.out, retry_errors=True, **options)
    assert verify(made.out, made.given) == []


@pytest.mark.parametrize(
    "kind", [pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_texts_of_other_types(pipeline, in_process, tmp_path, kind):
    values = ["Obama", None, "Paris", "Paris " * 9]
    column = (
        pa.array(values).dictionary_encode() if kind != pa.string_view() else pa.array(values, kind)
    )
    write(tmp_path / "in.parquet", pa.table({"text": column, "id": range(4)}))
    given, out = tmp_path / "in.parquet", tmp_path / "out"
    annotate(pipeline, given, out, max_chars=10, quiet=True)
    assert verify(out, given) == []
    (path,) = out.glob("*.parquet")
    forge(Made(given, out, None), path, rows_of(path).set_column(1, "id", pa.array([0, 1, 9, 3])))
    (finding,) = verify(out, given)
    assert "in its row 2 not what row 2 of in.parquet has: column id" in finding.problem


# Damage: each function does some, and says which files are wrong and how that is put.

DAMAGE = []


def damage(kind: str = "plain", with_input: bool = False, mended: bool = True) -> Callable:
    """Register damage.

    kind (str): The output to be damaged.
    with_input (bool): Whether the input is needed to find it.
    mended (bool): Whether all is well after what is advised has been done.
    """

    def register(function: Callable[[Made], dict[str, str]]) -> Callable:
        DAMAGE.append(pytest.param(function, kind, with_input, mended, id=function.__name__))
        return function

    return register


@pytest.mark.parametrize(("function", "kind", "with_input", "mended"), DAMAGE)
def test_damage_is_found(make, function, kind, with_input, mended):
    made = make(kind)
    expected = function(made)
    if with_input:
        assert verify(made.out) == []
    findings = verify(made.out, made.given if with_input else None)
    assert {finding.file for finding in findings} == expected.keys()
    for file, pattern in expected.items():
        lines = [str(finding) for finding in findings if finding.file == file]
        assert any(search(pattern, line) for line in lines), lines
    assert all("\n" not in str(finding) for finding in findings)
    assert verify(made.out, made.given)
    if mended:
        for finding in findings:
            heed(finding.advice, made.out / finding.file)
        made.again()
        assert verify(made.out, made.given) == []


def search(pattern: str, line: str) -> bool:
    return re.search(pattern, line) is not None


def heed(advice: str, file: Path) -> None:
    """Do what a finding says is to be done before annotate is run again."""
    verb, what, *_ = advice.split()
    if what == "it":
        file.unlink(missing_ok=True)
    elif verb == "Delete":
        out = next(parent for parent in file.parents if (parent / "_plan.json").exists())
        for path in out.rglob(what):
            path.unlink()
    else:
        assert verb in ("Run", "If"), advice


def receipt_of(path: Path) -> dict:
    return json.loads(pq.read_metadata(path).metadata[RECEIPT])


def rows_of(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read().replace_schema_metadata(None)


def rewrite(path: Path, table: pa.Table | None = None, **changes) -> None:
    """Write a file of the output again, with other rows or another receipt."""
    receipt = {**receipt_of(path), **changes}
    table = rows_of(path) if table is None else table
    with pq.ParquetWriter(path, table.schema, write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({RECEIPT: json.dumps(receipt)})


def forge(made: Made, path: Path, rows: pa.Table, everywhere: bool = True) -> None:
    """Write other rows, with the receipt, the manifest and the summary that are true of them."""
    told = receipt_of(path)
    keys = ("shard", "job", "fingerprint", "source", "start", "files")
    receipt = Receipt(**{key: told[key] for key in keys})
    sums = Checksums(rows.schema)
    sums.update(rows)
    for number, row in enumerate(rows.to_pylist(), receipt.start):
        receipt.count(row, number, exclusive="cat" in rows.column_names)
    receipt.checksums = sums.digests()
    rewrite(path, rows, **vars(receipt))
    if everywhere:
        plan = Plan.of(Folder.at(made.out))
        receipts = read_receipts(Folder.at(made.out), plan)
        in_order = [receipts[shard.name] for shard in plan.shards]
        (made.out / "_manifest.json").write_bytes(manifest(plan, in_order))
        summary = Summary.of("", plan, in_order, in_order, 0, 0)
        (made.out / "_summary.json").write_bytes(summary.to_json())


def edited(rows: pa.Table, column: str, number: int, value) -> pa.Table:
    values = rows[column].to_pylist()
    assert values[number] != value
    values[number] = value
    place = rows.schema.get_field_index(column)
    kind = rows.schema.field(column)
    return rows.set_column(place, kind, pa.array(values, kind.type))


def swapped(rows: pa.Table, one: int = 5, other: int = 6) -> pa.Table:
    order = list(range(rows.num_rows))
    order[one], order[other] = other, one
    return rows.take(order)


@damage()
def missing_file(made):
    (made.out / made.shard()).unlink()
    return {made.shard(): r"is missing: \d+ rows of a.parquet from row \d+. Run the same"}


@damage()
def truncated_file(made):
    path = made.out / made.shard()
    path.write_bytes(path.read_bytes()[:-100])
    return {path.name: "is truncated: its end is missing. Delete it and run the same"}


@damage()
def empty_file(made):
    (made.out / made.shard()).write_bytes(b"")
    return {made.shard(): r"is empty \(0 bytes\)"}


@damage()
def no_parquet(made):
    (made.out / made.shard()).write_text("Dear Sir or Madam")
    return {made.shard(): "is no Parquet file"}


@damage()
def damaged_footer(made):
    path = made.out / made.shard()
    data = bytearray(path.read_bytes())
    data[-400:-100] = bytes(300)
    path.write_bytes(data)
    return {path.name: "is damaged: it cannot be read"}


@damage()
def damaged_page(made):
    path = made.out / made.shard()
    chunk = pq.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    return {path.name: "is damaged: (row group 0|it) cannot be read"}


@damage()
def swapped_rows(made):
    path = made.out / made.shard()
    rewrite(path, swapped(rows_of(path)))
    return {path.name: "not have the values that were written: columns id, text"}


@damage(with_input=True)
def swapped_rows_in_forged_file(made):
    path = made.out / made.shard()
    forge(made, path, swapped(rows_of(path)))
    start = receipt_of(path)["start"]
    return {path.name: rf"in its row 5 not what row {start + 5} of a.parquet has: columns id, text"}


@damage()
def duplicate_under_another_name(made):
    shutil.copy(made.out / made.shard(), made.out / "part-99999-0123456789ab.parquet")
    return {"part-99999-0123456789ab.parquet": f"has the rows of {made.shard()}, but is not where"}


@damage()
def duplicate_in_a_folder(made):
    (made.out / "copy").mkdir()
    shutil.copy(made.out / made.shard(), made.out / "copy" / made.shard())
    return {f"copy/{made.shard()}": f"has the rows of {made.shard()}, but is not where"}


@damage()
def duplicate_of_another_shard(made):
    shutil.copy(made.out / made.shard(0), made.out / made.shard(1))
    return {made.shard(1): f"has the rows of {made.shard(0)} under this name"}


@damage()
def duplicate_of_another_shard_in_disguise(made):
    path = made.out / made.shard(1)
    true = receipt_of(path)
    shutil.copy(made.out / made.shard(2), path)
    rewrite(path, shard=true["shard"], start=true["start"])
    forge(made, path, rows_of(path), everywhere=False)
    return {"_manifest.json": f"says something else about {path.name} than the file: .*checksums"}


@damage()
def foreign_shard(made):
    rewrite(made.out / made.shard(), job="0123456789abcdef", fingerprint="0123456789abcdef")
    return {made.shard(): "belongs to another job, 0123456789abcdef"}


@damage()
def foreign_file(made):
    path = made.out / "part-00001-0123456789ab.parquet"
    shutil.copy(made.out / made.shard(), path)
    rewrite(path, job="0123456789abcdef", shard=path.name)
    return {path.name: "belongs to another job, 0123456789abcdef.*Move it away: whoever reads"}


@damage()
def shard_of_an_earlier_plan(made):
    path = made.out / "part-00001-0123456789ab.parquet"
    shutil.copy(made.out / made.shard(), path)
    rewrite(path, shard=path.name)
    return {path.name: "is of a shard that the job no longer has"}


@damage()
def other_fingerprint(made):
    rewrite(made.out / made.shard(), fingerprint="0123456789abcdef")
    return {made.shard(): "was written by a run with the fingerprint 0123456789abcdef"}


@damage()
def other_place(made):
    rewrite(made.out / made.shard(), start=1)
    return {made.shard(): r"begins with row 1 of a\.parquet; the plan says row \d+ of a\.parquet"}


@damage()
def no_receipt(made):
    write(made.out / made.shard(), rows_of(made.out / made.shard()))
    return {made.shard(): "was not written by the job: it carries no receipt"}


@damage()
def odd_receipt(made):
    rewrite(made.out / made.shard(0), rows="many")
    rewrite(made.out / made.shard(1), more=1)
    pattern = "carries a receipt that cannot be read"
    return {made.shard(0): pattern, made.shard(1): pattern}


@damage()
def extra_files(made):
    write(made.out / "z.parquet", pa.table({"text": ["x"]}))
    (made.out / "thesis.tex").write_text("years of work")
    (made.out / "_errors" / "x.jsonl").write_text("{}")
    pattern = "was not written by the job. Move it away"
    return {"z.parquet": pattern, "thesis.tex": pattern, "_errors/x.jsonl": pattern}


@damage()
def edited_value(made):
    path = made.out / made.shard()
    rewrite(path, edited(rows_of(path), "id", 3, 77))
    return {path.name: "does not have the values that were written: column id"}


@damage()
def edited_value_with_receipt(made):
    path = made.out / made.shard()
    forge(made, path, edited(rows_of(path), "id", 3, 77), everywhere=False)
    return {"_manifest.json": f"says something else about {path.name} than the file: checksums"}


@damage(with_input=True)
def edited_value_in_forged_file(made):
    path = made.out / made.shard()
    forge(made, path, edited(rows_of(path), "tags", 3, [{"n": 3, "s": None}]))
    row = receipt_of(path)["start"] + 3
    return {path.name: rf"in its row 3 not what row {row} of a\.parquet has: column tags\. Delete"}


@damage(with_input=True)
def sign_of_a_zero(made):
    path = made.out / made.shard(0)
    values = rows_of(path)["score"].to_pylist()
    forge(made, path, edited(rows_of(path), "score", 0, None))
    assert values[0] == 0.0
    return {path.name: r"in its row 0 not what row 0 of a\.parquet has: column score"}


@damage()
def edited_label(made):
    path = made.out / made.shard()
    ents = rows_of(path)["ents"].to_pylist()
    ents[0][0]["label"] = "ORG"
    rewrite(path, edited(rows_of(path), "ents", 0, ents[0]))
    return {path.name: "is not what its receipt says: ents 'PERSON' .*ents 'ORG' 1, not none"}


@damage()
def edited_score(made):
    path = made.out / made.shard()
    rewrite(path, edited(rows_of(path), "cats", 0, {"GOOD": 0.125, "BAD": 0.875}))
    return {path.name: "does not have the values that were written: column cats"}


@damage()
def offsets_beside_the_entity(made):
    path = made.out / made.shard(0)
    (row,) = [n for n, text in enumerate(rows_of(path)["text"].to_pylist()) if "😀" in (text or "")]
    ent = dict(rows_of(path)["ents"].to_pylist()[row][0])
    ent.update(start=ent["start"] + 1, end=ent["end"] + 1)
    forge(made, path, edited(rows_of(path), "ents", row, [ent]))
    where = rf"its row {row} \(row {row} of a\.parquet\)"
    return {path.name: f"has an entity whose offsets do not give its text: {where}"}


@damage()
def neither_annotations_nor_an_error(made):
    path = made.out / made.shard(0)
    rows = edited(rows_of(path), "error", 2, None)
    forge_counts = receipt_of(path)["errors"]
    assert forge_counts
    rewrite(path, rows)
    return {path.name: "has a row with neither all annotations nor an error: its row 2"}


@damage()
def annotations_and_an_error(made):
    path = made.out / made.shard()
    rewrite(path, edited(rows_of(path), "error", 3, "ValueError in 'x': no"))
    return {path.name: "has a row with both annotations and an error: its row 3"}


@damage()
def lost_row(made):
    path = made.out / made.shard()
    rewrite(path, rows_of(path).slice(1))
    return {path.name: r"has \d+ rows; its receipt says \d+"}


@damage()
def lost_row_with_receipt(made):
    path = made.out / made.shard()
    forge(made, path, rows_of(path).slice(1), everywhere=False)
    return {path.name: r"has \d+ rows; the plan has \d+"}


@damage()
def added_row(made):
    path = made.out / made.shard()
    rows = rows_of(path)
    forge(made, path, pa.concat_tables([rows, rows.slice(0, 1)]), everywhere=False)
    return {path.name: r"has \d+ rows; the plan has \d+"}


@damage()
def missing_column(made):
    path = made.out / made.shard()
    rewrite(path, rows_of(path).drop_columns(["n_tokens"]))
    return {path.name: "has other columns than the plan: 'n_tokens' is missing"}


@damage()
def added_column(made):
    path = made.out / made.shard()
    rows = rows_of(path)
    rewrite(path, rows.append_column("extra", pa.nulls(rows.num_rows)))
    return {path.name: "'extra' does not belong there"}


@damage()
def other_type(made):
    path = made.out / made.shard()
    rows = rows_of(path)
    rewrite(path, rows.cast(rows.schema.set(0, pa.field("id", pa.int32()))))
    return {path.name: "'id' is int32 and not int64"}


@damage()
def other_order(made):
    path = made.out / made.shard()
    rows = rows_of(path)
    rewrite(path, rows.select(["text", "id", *rows.column_names[2:]]))
    return {path.name: "their order is text, id, .*, not id, text"}


@damage()
def wrong_counts(made):
    patterns = {}
    for number, (name, value, pattern) in enumerate(
        [
            ("words", 1, r"\d+ words, not 1"),
            ("rows", 1, r"has \d+ rows; its receipt says 1"),
            ("ents", {"GPE": 1}, r"ents 'GPE' \d+, not 1; ents 'PERSON' \d+, not none"),
            ("cats", {}, r"cats '(GOOD|BAD)' \d+, not none"),
            ("errors", {"x": 1}, "errors 'x' none, not 1"),
            ("examples", {"x": 1}, "examples 'x' none, not 1"),
        ]
    ):
        rewrite(made.out / made.shard(number), **{name: value})
        patterns[made.shard(number)] = pattern
    return patterns


@damage()
def broken_off(made):
    (made.out / made.shard()).unlink()
    (made.out / "_SUCCESS").unlink()
    return {
        "_SUCCESS": rf"not finished: 1 of \d+ shards are missing, the first of them {made.shard()}"
    }


@damage("partitioned")
def broken_off_between_the_parts_of_a_shard(made):
    made.parts()[0].unlink()
    (made.out / "_SUCCESS").unlink()
    return {
        "_SUCCESS": rf"not finished: 1 of \d+ shards are missing, the first of them {made.shard()}"
    }


@damage()
def not_declared_finished(made):
    (made.out / "_SUCCESS").unlink()
    (made.out / "_errors.jsonl").write_text("from another time")
    return {"_SUCCESS": "not finished: all shards are there"}


@damage()
def manifest_that_disagrees(made):
    path = made.out / "_manifest.json"
    content = json.loads(path.read_bytes())
    content["files"][2]["words"] += 1
    content["files"].append(content["files"][0])
    content["fingerprint"] = "0123456789abcdef"
    path.write_text(json.dumps(content))
    return {"_manifest.json": rf"says something else about {made.shard(2)} than the file: words"}


@damage()
def missing_records(made):
    for name in ("_manifest.json", "_summary.json", "_errors.jsonl"):
        (made.out / name).unlink()
    pattern = "is missing.*Delete _SUCCESS and run the same"
    return {"_manifest.json": pattern, "_summary.json": pattern, "_errors.jsonl": pattern}


@damage()
def unreadable_records(made):
    for name in ("_manifest.json", "_summary.json", "_errors.jsonl"):
        (made.out / name).write_text("{\n")
    return {
        "_manifest.json": "cannot be read",
        "_summary.json": "cannot be read",
        "_errors.jsonl": "line 1 is not about a row",
    }


@damage()
def wrong_sums(made):
    path = made.out / "_summary.json"
    content = json.loads(path.read_bytes())
    content["words"] += 1
    path.write_text(json.dumps(content))
    return {"_summary.json": "does not have the sums of the shards: words"}


@damage()
def unlisted_error(made):
    lines = made.lines("_errors.jsonl")
    (made.out / "_errors.jsonl").write_bytes(b"".join(lines[1:]))
    return {"_errors.jsonl": rf"does not list row 2 of a\.parquet \(in {made.shard(0)}\)"}


@damage()
def unlisted_shard(made):
    last = json.loads(made.lines("_errors.jsonl")[-1])["output"]
    lines = [line for line in made.lines("_errors.jsonl") if last.encode() not in line]
    (made.out / "_errors.jsonl").write_bytes(b"".join(lines))
    return {"_errors.jsonl": f"does not list the errors of {last}"}


@damage()
def error_that_is_none(made):
    lines = made.lines("_errors.jsonl")
    extra = json.dumps({**json.loads(lines[0]), "row": 0}).encode() + b"\n"
    (made.out / "_errors.jsonl").write_bytes(b"".join([extra, *lines]))
    return {"_errors.jsonl": r"lists row 0 of a\.parquet .*, which has no error"}


@damage()
def another_error(made):
    path = made.out / "_errors.jsonl"
    path.write_bytes(path.read_bytes().replace(b"too long", b"too odd", 1))
    return {"_errors.jsonl": r"says something else about row 3 of a\.parquet"}


@damage()
def errors_in_another_order(made):
    path = made.out / "_errors.jsonl"
    path.write_bytes(b"".join(made.lines(path.name)[2:] + made.lines(path.name)[:2]))
    return {"_errors.jsonl": "does not list the shards in their order"}


@damage()
def errors_of_a_shard_without_any(made):
    path = made.out / "_errors" / made.shard().replace(".parquet", ".jsonl")
    path.write_bytes(made.lines("_errors.jsonl")[0])
    return {f"_errors/{path.name}": f"lists errors of {made.shard()}, which has none"}


@damage()
def letters_of_a_shard(made):
    path = next((made.out / "_errors").iterdir())
    path.unlink()
    return {f"_errors/{path.name}": f"is missing: .* Delete {path.stem}.parquet and run"}


@damage(mended=False)
def edited_plan(made):
    path = made.out / "_plan.json"
    content = json.loads(path.read_bytes())
    content["fingerprint"] = "0123456789abcdef"
    path.write_text(json.dumps(content))
    return {"_plan.json": "has been edited: its fingerprint is 0123456789abcdef"}


@damage(with_input=True, mended=False)
def rows_without_a_shard(made):
    name = made.shard()
    content = json.loads((made.out / "_plan.json").read_bytes())
    (start, rows) = next(shard[3:5] for shard in content["shards"] if shard[0] == name)
    content["shards"] = [shard for shard in content["shards"] if shard[0] != name]
    (made.out / "_plan.json").write_text(json.dumps(content))
    (made.out / name).unlink()
    kept = json.loads((made.out / "_manifest.json").read_bytes())
    kept["files"] = [entry for entry in kept["files"] if entry["file"] != name]
    kept["rows"] -= rows
    (made.out / "_manifest.json").write_text(json.dumps(kept))
    plan = Plan.of(Folder.at(made.out))
    in_order = list(read_receipts(Folder.at(made.out), plan).values())
    summary = Summary.of("", plan, in_order, in_order, 0, 0)
    (made.out / "_summary.json").write_bytes(summary.to_json())
    return {"_plan.json": rf"no shard for the rows {start} to {start + rows - 1} of a\.parquet"}


@damage(with_input=True, mended=False)
def input_that_is_gone(made):
    (made.given / "d.parquet").unlink()
    return {str(made.given / "d.parquet"): "is gone. Put it back, or .* --allow gone-files"}


@damage(with_input=True, mended=False)
def input_that_has_changed(made):
    write(made.given / "d.parquet", pq.read_table(made.given / "d.parquet").slice(1))
    path = str(made.given / "d.parquet")
    return {path: "has changed since it was annotated: it has 8 rows now.*--allow changed-files"}


@damage(with_input=True, mended=False)
def input_that_cannot_be_read(made):
    (made.given / "d.parquet").write_bytes(b"PAR1")
    return {str(made.given / "d.parquet"): "cannot be read as Parquet.* when it was annotated"}


@damage(with_input=True, mended=False)
def input_that_is_new(made):
    write(made.given / "e.parquet", pa.table({"text": ["x"]}))
    return {str(made.given / "e.parquet"): "is new: .*--allow new-files"}


@damage(with_input=True, mended=False)
def input_edited_in_place(made):
    path = made.given / "d.parquet"
    before = path.stat().st_size
    rows = pq.read_table(path)
    write(path, edited(rows, "id", 4, rows["id"].to_pylist()[4] + 1), 1)
    assert path.stat().st_size == before  # and so it counts as the same file
    findings = verify(made.out, made.given)
    pattern = r"not what row 4 of d\.parquet has: column id. Put back .*--allow touched-files"
    return {finding.file: pattern for finding in findings}


@damage("partitioned")
def missing_part(made):
    first, *_ = made.parts()
    files = len(made.parts())
    first.unlink()
    return {
        made.shard(): f"has {files - 1} files and should have {files}. Delete .* in all folders"
    }


@damage("partitioned", with_input=True)
def part_in_another_folder(made):
    (part,) = [path for path in made.parts() if path.parent.name == "lang=en"]
    (made.out / "lang=de").mkdir()
    part.rename(made.out / "lang=de" / part.name)
    return {
        f"lang=de/{part.name}": r"should not be there: no row of a\.parquet belongs there",
        f"lang=en/{part.name}": r"is missing: \d+ rows of a\.parquet belong there",
    }


@damage("partitioned")
def part_in_no_folder(made):
    part = made.parts()[0]
    part.rename(made.out / part.name)
    return {
        part.name: f"has the rows of {part.name}, but is not where they belong",
        made.shard(): "has .* files and should have",
    }


@damage("partitioned", with_input=True)
def swapped_rows_in_forged_part(made):
    (part,) = [path for path in made.parts() if path.parent.name == "lang=en"]
    forge(made, part, swapped(rows_of(part), 1, 2))
    path = str(part.relative_to(made.out))
    return {path: r"has in its row 1 not what row \d+ of a\.parquet has: columns id, text"}


@damage("partitioned")
def edited_part(made):
    part = made.parts()[-1]
    rewrite(part, edited(rows_of(part), "id", 0, 7777))
    return {str(part.relative_to(made.out)): "not have the values that were written: column id"}


@damage("partitioned")
def unlisted_error_of_a_part(made):
    lines = made.lines("_errors.jsonl")
    (made.out / "_errors.jsonl").write_bytes(b"".join(lines[1:]))
    return {"_errors.jsonl": r"lists 1 rows with errors of a\.parquet .*, and there are 2"}


@damage("partitioned")
def another_error_of_a_part(made):
    path = made.out / "_errors.jsonl"
    path.write_bytes(path.read_bytes().replace(b"too long", b"too odd", 1))
    return {"_errors.jsonl": r"lists other errors than there are in rows of a\.parquet"}


@damage("partitioned", with_input=True)
def wrong_row_of_an_error_of_a_part(made):
    path = made.out / "_errors.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"row": 2', b'"row": 1', 1))
    return {"_errors.jsonl": r"lists row 1 of a\.parquet .*, which has no error"}


def test_all_damage_is_found_at_once(make):
    """A file that cannot be read does not hide what is wrong with others."""
    made = make()
    expected = {
        **truncated_file(made),
        made.shard(0): "missing",
        made.shard(2): "no Parquet file",
        made.shard(3): "column id",
        **input_that_is_gone(made),
        "z.parquet": "not written by the job",
    }
    (made.out / made.shard(0)).unlink()
    (made.out / made.shard(2)).write_text("no")
    path = made.out / made.shard(3)
    forge(made, path, edited(rows_of(path), "id", 0, 7777), everywhere=False)
    (made.out / "z.parquet").touch()
    findings = verify(made.out, made.given)
    for file, pattern in expected.items():
        assert any(f.file == file and search(pattern, str(f)) for f in findings), file
    assert {finding.file for finding in findings} == expected.keys()


def test_any_damaged_byte_is_found_or_does_no_harm(make):
    made = make()
    path = made.out / made.shard()
    whole, rows, receipt = path.read_bytes(), rows_of(path), receipt_of(path)
    for place in range(0, len(whole), len(whole) // 80):
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        path.write_bytes(data)
        findings = verify(made.out)
        if not findings:
            assert digests(rows_of(path)) == digests(rows)
            assert receipt_of(path) == receipt


def digests(rows: pa.Table) -> dict[str, str]:
    sums = Checksums(rows.schema)
    sums.update(rows)
    return sums.digests()


def test_the_wrong_input(make, tmp_path):
    made = make()
    write(tmp_path / "other" / "x.parquet", pa.table({"text": ["x"]}))
    with pytest.raises(JobError, match=r"is not what the output was made from: a\.parquet"):
        verify(made.out, tmp_path / "other")
    with pytest.raises(JobError, match="There is nothing at"):
        verify(made.out, tmp_path / "nowhere")


def test_a_folder_that_annotate_has_not_written(tmp_path):
    with pytest.raises(JobError, match="has not been written by annotate"):
        verify(tmp_path)


def test_a_run_that_is_at_work(make):
    made = make()
    (made.out / "_SUCCESS").unlink()
    (made.out / "_running.json").write_text("{}")
    (finding,) = verify(made.out, made.given)
    assert finding.advice.startswith("If no run is at work, run the same annotate command again")


def test_gone_files_whose_rows_stay(make, classifier):
    made = make()
    (made.given / "d.parquet").unlink()
    write(made.given / "e.parquet", pq.read_table(made.given / "a.parquet"), 11)
    options = {"shard_bytes": 600, "max_chars": 100, "quiet": True}
    annotate(classifier, made.given, made.out, allow=["gone-files", "new-files"], **options)
    assert verify(made.out, made.given) == []


def test_memory_does_not_grow_with_the_file(make, monkeypatch, tmp_path, classifier):
    write(tmp_path / "in.parquet", pa.table({"text": [f"{n:07} " * 250 for n in range(10_000)]}))
    monkeypatch.setattr(workers, "ROW_GROUP_BYTES", 64 << 20)
    options = {"max_chars": 10, "shard_bytes": 1 << 30, "quiet": True}
    annotate(classifier, tmp_path / "in.parquet", tmp_path / "out", **options)
    (path,) = (tmp_path / "out").glob("*.parquet")
    assert pq.read_metadata(path).row_group(0).total_byte_size > 15 << 20
    peak, before, update = 0, pa.total_allocated_bytes(), Checksums.update

    def watched(self, batch) -> None:
        nonlocal peak
        peak = max(peak, pa.total_allocated_bytes() - before)
        update(self, batch)

    monkeypatch.setattr(Checksums, "update", watched)
    assert verify(tmp_path / "out", tmp_path / "in.parquet") == []
    assert 0 < peak < 12 << 20


ROWS = st.lists(
    st.one_of(
        st.builds(lambda kind: {"error": kind}, st.sampled_from(["a: 1", "a: 2", "b"])),
        st.builds(
            lambda words, labels, scores: {
                "error": None,
                "n_tokens": words,
                "ents": [{"label": label} for label in labels],
                "cats": dict(zip("XY", scores)),
                "cat": labels[0] if labels else None,
            },
            st.integers(0, 9),
            st.lists(st.sampled_from("PQ"), max_size=3),
            st.tuples(*[st.none() | st.sampled_from([0.0, 0.5, 0.75])] * 2),
        ),
    ),
    max_size=20,
)


@given(ROWS, st.booleans(), st.integers(1, 7))
def test_counts_are_those_of_the_worker(rows, exclusive, size):
    wanted, found = (Receipt("s", "j", "f", "a.parquet", 7) for _ in range(2))
    for number, row in enumerate(rows, 7):
        wanted.count(row, number, exclusive)
    schema = pa.schema(
        [
            ("ents", pa.list_(ENTITY)),
            ("cats", pa.struct([("X", pa.float32()), ("Y", pa.float32())])),
            ("cat", pa.string()),
            ("n_tokens", pa.int32()),
            ("error", pa.string()),
        ]
    )
    for batch in pa.Table.from_pylist(rows, schema).to_batches(max_chunksize=size):
        count(found, batch, exclusive)
    assert found == wanted


TEXT = st.text(st.sampled_from("aé€😀 "), max_size=8)
OFFSETS = st.integers(-1, 9)


@st.composite
def annotated(draw) -> tuple[str, list[tuple[int, int, str]]]:
    """A text, and entities of which some are where they say."""
    text = draw(TEXT)
    places = draw(st.lists(st.tuples(OFFSETS, OFFSETS), max_size=3))
    return text, [(a, b, draw(st.just(text[max(a, 0) : b]) | TEXT)) for a, b in places]


def is_there(text: str, entity: tuple[int, int, str]) -> bool:
    start, end, said = entity
    return 0 <= start < end <= len(text) and text[start:end] == said


@given(
    st.lists(st.none() | annotated(), max_size=6),
    st.integers(0, 3),
    st.sampled_from([pa.string(), pa.large_string(), pa.binary(), pa.string_view()]),
    st.booleans(),
)
def test_entities_are_where_python_finds_them(rows, skip, kind, encode):
    wrong = [
        number
        for number, row in enumerate(rows[skip:])
        if row and not all(is_there(row[0], entity) for entity in row[1])
    ]
    # what is not UTF-8 has no entities, and must not move those of its neighbours
    values = [b"\x80a\xff" if row is None else row[0].encode() for row in rows]
    offsets = [0, *itertools.accumulate(map(len, values))]
    buffers = [None, pa.array(offsets, pa.int32()).buffers()[1], pa.py_buffer(b"".join(values))]
    column = pa.Array.from_buffers(pa.string(), len(values), buffers)
    column = column.dictionary_encode() if encode else column.cast(kind)
    names = ("start", "end", "text")
    ents = [row and [dict(zip(names, entity)) for entity in row[1]] for row in rows]
    found = misplaced(column.slice(skip), pa.array(ents, pa.list_(ENTITY)).slice(skip))
    assert found == (wrong[0] if wrong else -1)
