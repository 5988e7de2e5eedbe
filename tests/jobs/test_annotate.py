"""Whole jobs, without Ray: what goes in and what comes out."""

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import spacy
from tables import CODE, contents, notes, read, state, texts, write

from spacy_albert_jobs import JobError, annotate

ENTS = pa.list_(
    pa.struct(
        [
            ("start", pa.int32()),
            ("end", pa.int32()),
            ("label", pa.string()),
            ("text", pa.string()),
            ("score", pa.float32()),
        ]
    )
)

pytestmark = pytest.mark.usefixtures("in_process")


def table(values, **columns) -> pa.Table:
    return pa.table({"id": pa.array(range(len(values)), pa.int64()), "text": values, **columns})


def test_rows_come_out_once_and_in_order(pipeline, collection, tmp_path):
    summary = annotate(pipeline, collection, tmp_path / "out", shard_bytes=1000)
    out = read(tmp_path / "out")
    given = pa.concat_tables(
        pq.read_table(collection / name) for name in ("a.parquet", "b.parquet", "c/d.parquet")
    )
    given = pa.concat_tables([given, pq.read_table(collection / "f.parquet")])
    assert out.select(["id", "text"]).equals(given)
    assert summary.rows == out.num_rows == 431
    nlp = spacy.load(pipeline)
    for text, ents, words in zip(*(out[name].to_pylist() for name in ("text", "ents", "n_tokens"))):
        doc = nlp(text)
        assert words == len(doc)
        assert [(e["start"], e["end"], e["label"], e["text"]) for e in ents] == [
            (span.start_char, span.end_char, span.label_, span.text) for span in doc.ents
        ]
    assert summary.words == sum(out["n_tokens"].to_pylist())
    assert summary.ents == {"PERSON": 431, "GPE": 431}


def test_schema(classifier, collection, tmp_path):
    annotate(classifier, collection, tmp_path / "out")
    expected = pa.schema(
        [
            ("id", pa.int64()),
            ("text", pa.string()),
            ("ents", ENTS),
            ("cats", pa.struct([("GOOD", pa.float32()), ("BAD", pa.float32())])),
            ("cat", pa.string()),
            ("n_tokens", pa.int32()),
            ("error", pa.string()),
        ]
    )
    for path in (tmp_path / "out").glob("*.parquet"):
        assert pq.read_schema(path).remove_metadata() == expected
    assert ds.dataset(tmp_path / "out").to_table().num_rows == 431
    best = [max(row["cats"], key=row["cats"].get) for row in read(tmp_path / "out").to_pylist()]
    assert read(tmp_path / "out")["cat"].to_pylist() == best


def test_other_readers(classifier, collection, tmp_path):
    annotate(classifier, collection, tmp_path / "out")
    files = str(tmp_path / "out" / "*.parquet")
    types = {name: kind for name, kind, *_ in duckdb.sql(f"describe from '{files}'").fetchall()}
    entity = 'STRUCT(start INTEGER, "end" INTEGER, "label" VARCHAR, "text" VARCHAR, score FLOAT)[]'
    assert types["ents"].replace('"', "") == entity.replace('"', "")
    assert types["cats"].replace('"', "") == "STRUCT(GOOD FLOAT, BAD FLOAT)"
    counted = duckdb.sql(
        f"select e.label, count(*) from '{files}', unnest(ents) as u(e) group by all"
    ).fetchall()
    assert dict(counted) == {"PERSON": 431, "GPE": 431}
    frame = pl.read_parquet(files)
    assert frame.schema["n_tokens"] == pl.Int32
    assert frame.schema["cats"] == pl.Struct({"GOOD": pl.Float32, "BAD": pl.Float32})
    assert frame["ents"].explode().struct.field("label").value_counts().height == 2
    assert set(pd.read_parquet(tmp_path / "out")["cat"]) <= {"GOOD", "BAD"}


def test_offsets_count_code_points(pipeline, tmp_path):
    write(tmp_path / "in.parquet", table(["😀 é e\u0301 \x00 𝒳 Obama"]))
    annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out")
    (row,) = read(tmp_path / "out").to_pylist()
    (entity,) = row["ents"]
    assert row["text"][entity["start"] : entity["end"]] == entity["text"] == "Obama"


def test_bad_rows_carry_errors_and_their_neighbours_none(stumbler, tmp_path):
    rows = ["Obama", None, "STUMBLE Obama", "", "Paris" * 40, "Paris"]
    rows = [None if row is None else row.encode() for row in rows] + [b"Obama \xff", b"Obama"]
    write(tmp_path / "in.parquet", table(pa.array(rows, pa.binary())))
    out = tmp_path / "out"
    summary = annotate(stumbler, tmp_path / "in.parquet", out, max_chars=100, code=CODE)
    result = read(out).to_pylist()
    assert [row["error"] for row in result] == [
        None,
        "no text: the value is null",
        "ValueError in 'stumble': cannot read STUMBLE",
        None,
        "too long: 200 characters, and --max-chars is 100",
        None,
        "not UTF-8: invalid start byte at byte 6",
        None,
    ]
    found = [row["ents"] and [entity["text"] for entity in row["ents"]] for row in result]
    assert found == [["Obama"], None, None, [], None, ["Paris"], None, ["Obama"]]
    assert [row["text"] for row in result] == rows
    assert summary.errors["ValueError in 'stumble'"] == {"rows": 1, "file": "in.parquet", "row": 2}
    assert sum(kind["rows"] for kind in summary.errors.values()) == 4


def test_bytes_that_are_not_utf8_in_a_string_column(pipeline, tmp_path):
    buffers = [None, pa.py_buffer(b"\0\0\0\0\5\0\0\0\7\0\0\0"), pa.py_buffer(b"Obama\xff\xfe")]
    write(tmp_path / "in.parquet", table(pa.Array.from_buffers(pa.string(), 2, buffers)))
    annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out")
    result = read(tmp_path / "out").select(["ents", "error"]).to_pylist()
    assert [entity["text"] for entity in result[0]["ents"]] == ["Obama"]
    assert result[1]["ents"] is None
    assert result[1]["error"].startswith("not UTF-8")


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_text_types(pipeline, tmp_path, kind):
    values = ["Obama", None, "Paris", "Obama"]
    column = pa.array(values).dictionary_encode() if pa.types.is_dictionary(kind) else None
    if column is None:
        column = pa.array([v and v.encode() for v in values], pa.binary()).cast(kind)
    write(tmp_path / "in.parquet", table(column))
    annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out")
    out = read(tmp_path / "out")
    assert out.schema.field("text").type == kind
    assert out["text"].combine_chunks().to_pylist() == column.to_pylist()
    found = [None if row is None else [e["text"] for e in row] for row in out["ents"].to_pylist()]
    assert found == [["Obama"], None, ["Paris"], ["Obama"]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), r"bad.parquet is empty \(0 bytes\)"),
        (lambda path: path.write_bytes(b"PAR1 no"), "bad.parquet cannot be read as Parquet"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "bad.parquet cannot be read"),
        (
            lambda path: write(path, pa.table({"body": ["x"]})),
            "no column 'text'; its columns are body",
        ),
        (
            lambda path: write(path, pa.table({"text": [1]})),
            "'text' of type int64, which is not text",
        ),
    ],
)
def test_bad_files_are_refused_or_left_out(pipeline, collection, tmp_path, damage, message):
    bad = write(collection / "bad.parquet", table(["x"]))
    damage(bad)
    with pytest.raises(JobError, match=message):
        annotate(pipeline, collection, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    summary = annotate(pipeline, collection, tmp_path / "out", skip_bad_files=True)
    assert summary.rows == 431
    assert [file["path"] for file in summary.left_out] == ["bad.parquet"]
    assert notes(tmp_path / "out", "_manifest.json")["left_out"] == summary.left_out


def test_all_bad_files_are_named(pipeline, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.parquet").touch()
    with pytest.raises(JobError, match=r"(?s)a\.parquet is empty.*b\.parquet is empty"):
        annotate(pipeline, tmp_path, tmp_path / "_out", skip_bad_files=True)


def test_only_files_without_rows(pipeline, tmp_path):
    write(tmp_path / "in.parquet", table(pa.array([], pa.string())))
    assert annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out").rows == 0
    assert ds.dataset(tmp_path / "out").to_table().schema.names == [
        "id", "text", "ents", "n_tokens", "error",
    ]  # fmt: skip


def test_damaged_pages_fail_their_shard_and_no_other(pipeline, in_process, tmp_path):
    pages = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    good = write(tmp_path / "in" / "a.parquet", table(texts(0, 50)), 10)
    bad = tmp_path / "in" / "b.parquet"
    pq.write_table(table(texts(0, 50)), bad, row_group_size=10, **pages)
    whole = bad.read_bytes()
    bad.write_bytes(whole.replace(b"day 33", b"day 99", 1))
    out = tmp_path / "out"
    with pytest.raises(JobError, match=r"(?s)1 of 10 shards.*b\.parquet, row group 3.*9 are ready"):
        annotate(pipeline, tmp_path / "in", out, shard_bytes=1000)
    assert not (out / "_SUCCESS").exists()
    assert not list((out / "_tmp").iterdir())
    ready = state(out)
    assert len(ready) == 9
    bad.write_bytes(whole)
    in_process.clear()
    with pytest.raises(JobError, match=r"touched: b\.parquet\. Go on .* --allow touched-files"):
        annotate(pipeline, tmp_path / "in", out, shard_bytes=1000)
    annotate(pipeline, tmp_path / "in", out, shard_bytes=1000, allow=["touched-files"])
    assert len(in_process) == 1
    assert ready.items() <= state(out).items()
    assert read(out)["text"].to_pylist() == pq.read_table(good)["text"].to_pylist() * 2


def test_files_whose_columns_differ(pipeline, tmp_path):
    write(tmp_path / "a.parquet", table(["Obama"], n=pa.array([1], pa.int32()), only=["x"]))
    large = pa.array(["Paris"], pa.large_string())
    write(tmp_path / "b.parquet", table(large, n=pa.array([2**40], pa.int64())))
    coded = pa.array(["Paris"]).dictionary_encode()
    write(tmp_path / "c.parquet", table(coded, n=pa.nulls(1)))
    annotate(pipeline, tmp_path, tmp_path / "_out")
    out = read(tmp_path / "_out")
    assert out.schema.field("n").type == pa.int64()
    assert out["n"].to_pylist() == [1, 2**40, None]
    assert out["only"].to_pylist() == ["x", None, None]
    assert out["text"].to_pylist() == ["Obama", "Paris", "Paris"]


@pytest.mark.parametrize("other", [pa.array([0.5]), pa.array(["x"]), pa.array([1], pa.uint64())])
def test_columns_without_a_common_type_are_refused(pipeline, tmp_path, other):
    write(tmp_path / "a.parquet", table(["Obama"], n=pa.array([1], pa.int64())))
    write(tmp_path / "b.parquet", table(["Paris"], n=other))
    with pytest.raises(
        JobError, match=rf"'n'.*int64 in a.parquet; {other.type} in b.parquet.*--keep"
    ):
        annotate(pipeline, tmp_path, tmp_path / "_out")
    annotate(pipeline, tmp_path, tmp_path / "_out", keep=["id"])


def test_keep(pipeline, collection, tmp_path):
    annotate(pipeline, collection, tmp_path / "ids", keep=["id"])
    assert read(tmp_path / "ids").schema.names == ["id", "ents", "n_tokens", "error"]
    annotate(pipeline, collection, tmp_path / "none", keep=[])
    assert read(tmp_path / "none").schema.names == ["ents", "n_tokens", "error"]
    assert read(tmp_path / "none")["ents"].equals(read(tmp_path / "ids")["ents"])
    with pytest.raises(JobError, match=r"'title'\. The columns are id, text"):
        annotate(pipeline, collection, tmp_path / "out", keep=["id", "title"])


def test_names_of_annotations_are_taken(pipeline, tmp_path):
    write(tmp_path / "in.parquet", table(["Obama"], ents=["mine"], error=["mine"]))
    with pytest.raises(JobError, match=r"ents, error.*--keep 'id,text'"):
        annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out")
    annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out", keep=["id", "text"])


@pytest.mark.parametrize("limit", [1, 39, 40, 41, 300, 431, 1000])
def test_limit(pipeline, collection, tmp_path, limit):
    summary = annotate(pipeline, collection, tmp_path / "out", limit=limit, shard_bytes=500)
    assert read(tmp_path / "out")["id"].to_pylist() == list(range(min(limit, 431)))
    assert summary.rows == min(limit, 431)


@pytest.mark.parametrize(
    ("glob", "rows"),
    [
        ("*.parquet", 131),
        ("**/*.parquet", 431),
        ("?/d.parquet", 300),
        ("[ab].parquet", 41),
        ("**", 431),
    ],
)
def test_globs(pipeline, collection, tmp_path, glob, rows):
    assert annotate(pipeline, collection / glob, tmp_path / "out").rows == rows


def test_what_is_passed_over(pipeline, collection, tmp_path):
    for name in (".hidden.parquet", "_part.parquet", "_tmp/x.parquet", "notes.txt"):
        (collection / name).parent.mkdir(exist_ok=True)
        (collection / name).write_text("no Parquet")
    assert annotate(pipeline, collection, tmp_path / "out").rows == 431


def test_a_uri(pipeline, collection, tmp_path):
    out = tmp_path / "out"
    assert annotate(pipeline, collection.as_uri(), out.as_uri()).rows == 431
    assert annotate(pipeline, collection, tmp_path / "two").rows == 431
    assert contents(out) == contents(tmp_path / "two")


def test_nothing_there(pipeline, tmp_path):
    with pytest.raises(JobError, match="There is nothing at"):
        annotate(pipeline, tmp_path / "absent", tmp_path / "out")
    with pytest.raises(JobError, match="There are no Parquet files at"):
        annotate(pipeline, tmp_path, tmp_path / "out")
    with pytest.raises(JobError, match="foo"):
        annotate(pipeline, "foo://bar/x", tmp_path / "out")


def test_pipelines_that_do_not_serve(pipeline, collection, tmp_path):
    with pytest.raises(JobError, match="There is no pipeline nowhere"):
        annotate("nowhere", collection, tmp_path / "out")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(JobError, match=r"no annotations to write.*assigns=\[\"doc.ents\"\]"):
        annotate(tmp_path / "blank", collection, tmp_path / "out")
    damaged = tmp_path / "damaged"
    spacy.load(pipeline).to_disk(damaged)
    config = (damaged / "config.cfg").read_text()
    (damaged / "config.cfg").write_text(config.replace('"entity_ruler"', '"nobody_knows"'))
    with pytest.raises(JobError, match=r"(?s)nobody_knows.*--code"):
        annotate(damaged, collection, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["input", "input/out", "input/c"])
def test_the_output_may_not_overlap_the_input(pipeline, collection, tmp_path, out):
    with pytest.raises(JobError, match="overlaps the input"):
        annotate(pipeline, collection, tmp_path / out)


def test_an_output_folder_beside_a_single_input_file(pipeline, collection):
    annotate(pipeline, collection / "a.parquet", collection / "out")


def test_an_output_folder_that_cannot_be_made(pipeline, collection, tmp_path):
    with pytest.raises(JobError, match=r"Cannot write to .*out"):
        annotate(pipeline, collection / "a.parquet", collection / "b.parquet" / "out")


@pytest.mark.parametrize(
    "option", ["limit", "max_chars", "shard_bytes", "workers", "cpus_per_worker"]
)
def test_numbers_below_one(pipeline, collection, tmp_path, option):
    with pytest.raises(JobError, match=f"{option} must be at least 1"):
        annotate(pipeline, collection, tmp_path / "out", **{option: 0})
