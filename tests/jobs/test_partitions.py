"""Folders that are named by the values of columns: of the input, and of the output."""

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tables import read, texts, write

from spacy_albert_jobs import JobError, annotate, annotator, worker
from spacy_albert_jobs.inputs import folder_values
from spacy_albert_jobs.storage import Folder

pytestmark = pytest.mark.usefixtures("in_process")

#: Values that mean something in paths, in URIs or to Hive, and a null.
LANGUAGES = [
    "en", None, "a/b", "a b", "x=y", "lang=en", "%41", "100%", ".", "..", "_x", "ü ß", "日本語",
    "", "'", '"', "#?&+", "\\", "\n", "null", "None", "1", "0x1F", "*", "[a]", "s3://b/c",
    "a" * 200,
]  # fmt: skip
YEARS = [2001, None, -3, 0, 2**63 - 1]


def table(rows: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + rows)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "text": pa.array(texts(first, rows + first), pa.string()),
            "lang": pa.array([LANGUAGES[i % len(LANGUAGES)] for i in numbers], pa.string()),
            "year": pa.array([YEARS[i // 7 % len(YEARS)] for i in numbers], pa.int64()),
        }
    )


def all_files(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.parquet")}


# Input


def test_folders_of_the_input_are_columns(pipeline, tmp_path):
    """pyarrow writes them, and DuckDB says what the values are."""
    given = table(200)
    hive = ds.partitioning(pa.schema([("lang", pa.string()), ("year", pa.int64())]), flavor="hive")
    for start in (0, 100):
        ds.write_dataset(
            given.slice(start, 100),
            tmp_path / "in",
            format="parquet",
            partitioning=hive,
            basename_template=f"{start}-{{i}}.parquet",
            existing_data_behavior="overwrite_or_ignore",
        )
    annotate(pipeline, tmp_path / "in", tmp_path / "out", shard_bytes=1000)
    out = read(tmp_path / "out")
    assert out.schema.names == ["id", "text", "lang", "year", "ents", "n_tokens", "error"]
    assert out.select(given.schema.names).sort_by("id").equals(given)
    query = (
        f"from read_parquet('{tmp_path}/in/**/*.parquet', hive_partitioning=true, "
        "hive_types={'lang': varchar, 'year': bigint}) select id, lang, year order by id"
    )
    assert duckdb.sql(query).fetchall() == list(
        zip(*(given[name].to_pylist() for name in ("id", "lang", "year")))
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "20", "-3", "0"], pa.int64()),
        (["1", "__HIVE_DEFAULT_PARTITION__"], pa.int64()),
        (["1", "x"], pa.string()),
        (["01", "2"], pa.string()),
        (["-0"], pa.string()),
        (["+1"], pa.string()),
        (["1.0"], pa.string()),
        (["9223372036854775807", "-9223372036854775808"], pa.int64()),
        (["9223372036854775808"], pa.string()),
        (["1" * 20], pa.string()),
        (["1٢"], pa.string()),
        (["1%32"], pa.int64()),
        ([""], pa.string()),
        (["__HIVE_DEFAULT_PARTITION__"], pa.string()),
    ],
)
def test_types_of_folders(pipeline, tmp_path, values, kind):
    for value in values:
        write(tmp_path / "in" / f"v={value}" / "x.parquet", pa.table({"text": ["Obama"]}))
    annotate(pipeline, tmp_path / "in", tmp_path / "out")
    out = read(tmp_path / "out")
    assert out.schema.field("v").type == kind
    found = [folder_values(f"v={value}/x")["v"] for value in sorted(values)]
    assert out["v"].cast(pa.string()).to_pylist() == found


def test_quoted_names(pipeline, tmp_path):
    folder = tmp_path / "in" / "no values" / "the%20name=a%3Db" / "empty="
    write(folder / "x=1.parquet", pa.table({"text": ["Obama"]}))
    annotate(pipeline, tmp_path / "in", tmp_path / "out")
    (row,) = read(tmp_path / "out").select(["text", "the name", "empty"]).to_pylist()
    assert row == {"text": "Obama", "the name": "a=b", "empty": ""}


def test_a_column_of_the_file_wins(pipeline, tmp_path):
    write(tmp_path / "in" / "n=1" / "x.parquet", pa.table({"text": ["a"], "n": ["mine"]}))
    annotate(pipeline, tmp_path / "in", tmp_path / "out")
    assert read(tmp_path / "out").select(["text", "n"]).to_pylist() == [{"text": "a", "n": "mine"}]


def test_a_column_that_some_files_have(pipeline, tmp_path):
    mine = pa.table({"text": ["a"], "n": pa.array([7], pa.int32())})
    write(tmp_path / "in" / "n=1" / "x.parquet", mine)
    write(tmp_path / "in" / "n=2" / "x.parquet", pa.table({"text": ["b"]}))
    write(tmp_path / "in" / "x.parquet", pa.table({"text": ["c"]}))
    annotate(pipeline, tmp_path / "in", tmp_path / "out")
    out = read(tmp_path / "out")
    assert out.schema.field("n").type == pa.int64()
    assert out["n"].to_pylist() == [7, 2, None]
    write(tmp_path / "in" / "n=two" / "x.parquet", pa.table({"text": ["d"]}))
    with pytest.raises(JobError, match=r"'n'.*int32 in n=1/x\.parquet; string in the names"):
        annotate(pipeline, tmp_path / "in", tmp_path / "other")


def test_keeping_folders(pipeline, tmp_path):
    write(tmp_path / "in" / "a=1" / "b=x" / "x.parquet", pa.table({"text": ["Obama"]}))
    annotate(pipeline, tmp_path / "in", tmp_path / "out", keep=["b"])
    assert read(tmp_path / "out").schema.names == ["b", "ents", "n_tokens", "error"]
    with pytest.raises(JobError, match=r"column 'c'\. The columns are text, a, b"):
        annotate(pipeline, tmp_path / "in", tmp_path / "other", keep=["c"])


@pytest.mark.parametrize(
    ("glob", "columns"),
    [
        ("lang=*/year=*/*.parquet", ["lang", "year"]),
        ("**/*.parquet", ["lang", "year"]),
        ("lang=en/year=*/*.parquet", ["year"]),
        ("lang=en", ["year"]),
    ],
)
def test_folders_above_the_collection_are_no_columns(pipeline, tmp_path, glob, columns):
    file = tmp_path / "in" / "lang=en" / "year=2001" / "x.parquet"
    write(file, pa.table({"text": ["Obama"]}))
    annotate(pipeline, tmp_path / "in" / glob, tmp_path / "out")
    assert read(tmp_path / "out").schema.names[1:-3] == columns


# Output


@pytest.fixture
def source(tmp_path):
    write(tmp_path / "in" / "a.parquet", table(150), 40)
    write(tmp_path / "in" / "b.parquet", table(100, first=150), 200)
    return tmp_path / "in"


def divide(pipeline, source, out, **options):
    return annotate(
        pipeline, source, out, partition_by=["lang", "year"], shard_bytes=4000, **options
    )


def test_every_row_is_in_its_folder_once_and_in_order(pipeline, source, tmp_path):
    summary = divide(pipeline, source, tmp_path / "out")
    assert summary.rows == 250
    folders: dict[tuple, list[int]] = {}
    for path in sorted(all_files(tmp_path / "out")):
        found = folder_values(path)
        assert list(found) == ["lang", "year"]
        with pq.ParquetFile(tmp_path / "out" / path) as file:
            assert file.schema_arrow.names == ["id", "text", "ents", "n_tokens", "error"]
            folders.setdefault(tuple(found.values()), []).extend(file.read()["id"].to_pylist())
    expected: dict[tuple, list[int]] = {}
    for row in table(250).to_pylist():
        year = None if row["year"] is None else str(row["year"])
        expected.setdefault((row["lang"], year), []).append(row["id"])
    assert folders == expected


def test_other_readers_find_the_columns(pipeline, source, tmp_path):
    out = tmp_path / "out"
    divide(pipeline, source, out)
    given = table(250).select(["id", "lang", "year"])
    query = (
        f"from read_parquet('{out}/**/*.parquet', hive_partitioning=true, "
        "hive_types={'lang': varchar, 'year': bigint}) select id, lang, year order by id"
    )
    assert duckdb.sql(query).to_arrow_table().equals(given)
    hive = ds.partitioning(pa.schema([("lang", pa.string()), ("year", pa.int64())]), flavor="hive")
    found = ds.dataset(out, partitioning=hive).to_table(columns=["id", "lang", "year"])
    assert found.sort_by("id").equals(given)
    english = ds.dataset(out, partitioning=hive).to_table(filter=pc.field("lang") == "en")
    assert english.num_rows == given["lang"].to_pylist().count("en")
    annotate(pipeline, out, tmp_path / "again", keep=["id", "lang", "year"])
    again = read(tmp_path / "again").select(["id", "lang", "year"])
    assert again.sort_by("id").equals(given)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, None, 3, 1], pa.uint8()),
        pa.array(["x", "y", None, "x"]).dictionary_encode(),
        pa.array(["x", "y", None, "x"], pa.large_string()),
        pa.array(["x", "y", None, "x"], pa.string_view()),
        pa.array([True, False, None, True]),
        pa.array([0, 20_000, None, -1], pa.date32()),
    ],
    ids=lambda values: str(values.type),
)
def test_types_to_divide_by(pipeline, tmp_path, values):
    given = pa.table({"id": range(4), "text": texts(0, 4), "v": values})
    write(tmp_path / "in.parquet", given)
    annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out", partition_by=["v"])
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    kind = pa.string() if kind == pa.string_view() else kind
    hive = ds.partitioning(pa.schema([("v", kind)]), flavor="hive")
    found = ds.dataset(tmp_path / "out", partitioning=hive).to_table(columns=["id", "v"])
    assert found.sort_by("id")["v"].to_pylist() == values.to_pylist()


def test_columns_that_cannot_be_read_from_folders(pipeline, tmp_path):
    write(
        tmp_path / "in.parquet",
        pa.table({"text": ["a"], "real": [0.5], "list": [[1]], "_hidden": ["x"], ".too": ["y"]}),
    )
    for name, message in (
        ("real", "by 'real' of type double"),
        ("list", "by 'list' of type list"),
        ("absent", "by 'absent', which is no kept column"),
    ):
        with pytest.raises(JobError, match=message):
            annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out", partition_by=[name])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["_hidden", ".too"])
def test_folders_that_readers_pass_over(pipeline, tmp_path, name):
    write(tmp_path / "in.parquet", pa.table({"text": ["a"], name: ["x"]}))
    with pytest.raises(JobError, match=f"by '{name}'.*pass over"):
        annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out", partition_by=[name])


def test_the_word_for_null(pipeline, tmp_path):
    values = pa.table({"text": ["a", "b"], "v": [None, "__HIVE_DEFAULT_PARTITION__"]})
    write(tmp_path / "in.parquet", values)
    with pytest.raises(JobError, match="'__HIVE_DEFAULT_PARTITION__', which stands for null"):
        annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out", partition_by=["v"])


def test_too_many_values_in_a_shard(pipeline, source, tmp_path, monkeypatch, in_process):
    out = tmp_path / "out"
    monkeypatch.setattr(worker, "PARTS", 3)
    with pytest.raises(JobError, match=r"--partition-by id would make more than 3 files of one sh"):
        annotate(pipeline, source, out, partition_by=["id"], shard_bytes=4000)
    assert not all_files(out)
    assert not list((out / "_tmp").iterdir())


def test_a_run_that_was_broken_off_goes_on(pipeline, source, tmp_path, monkeypatch, in_process):
    out = tmp_path / "out"
    moved = []
    create = Folder._create

    def fill_up(folder, name):
        moved.extend([name] if "=" in name else [])
        if len(moved) > room:
            raise OSError(28, "No space left on device")
        create(folder, name)

    divide(pipeline, source, tmp_path / "whole")
    whole = all_files(tmp_path / "whole")
    shards = list(dict.fromkeys(in_process))
    for room in (1, 40, 41):
        moved.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "_create", fill_up)
            with pytest.raises(JobError, match="No space left"):
                divide(pipeline, source, out)
        assert not (out / "_SUCCESS").exists()
        assert len(all_files(out)) >= room
    in_process.clear()
    divide(pipeline, source, out)
    assert 0 < len(in_process) < len(shards)
    assert all_files(out) == whole


def test_a_shard_that_lacks_a_file_is_done_again(pipeline, source, tmp_path, in_process):
    out = tmp_path / "out"
    divide(pipeline, source, out)
    whole = all_files(out)
    for change in (lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1")):
        path = sorted(whole)[len(whole) // 2]
        in_process.clear()
        change(out / path)
        divide(pipeline, source, out)
        assert in_process == [path.rpartition("/")[2]]
        assert all_files(out) == whole


def test_a_shard_without_rows(pipeline, source, tmp_path, in_process):
    write(source / "empty.parquet", table(0))
    assert divide(pipeline, source, tmp_path / "out").rows == 250
    in_process.clear()
    assert divide(pipeline, source, tmp_path / "out").rows == 250
    assert not in_process


def test_only_shards_without_rows(pipeline, tmp_path, in_process):
    write(tmp_path / "in" / "empty.parquet", table(0))
    assert divide(pipeline, tmp_path / "in", tmp_path / "out").rows == 0
    assert divide(pipeline, tmp_path / "in", tmp_path / "out").rows == 0


def test_a_text_that_fails_in_one_run(pipeline, tmp_path, monkeypatch, in_process):
    """Only rows with errors are read again, and only files of their shards change."""
    rows = table(3000)
    lang = pa.array([["en", "de", None][i % 3] for i in range(3000)])
    rows = rows.set_column(2, "lang", lang)
    write(tmp_path / "in" / "a.parquet", rows.slice(0, 2500), 2500)
    write(tmp_path / "in" / "b.parquet", rows.slice(2500), 500)
    out = tmp_path / "out"
    bad = {"day 5.", "day 6.", "day 2400."}
    decode, tried = annotator.decode, []

    def fail(value, max_chars):
        tried.append(value.decode())
        if any(text in tried[-1] for text in bad):
            return None, "bad luck: today"
        return decode(value, max_chars)

    monkeypatch.setattr(annotator, "decode", fail)
    summary = annotate(pipeline, tmp_path / "in", out, partition_by=["lang"])
    assert summary.errors["bad luck"]["rows"] == 3
    before = {path: (out / path).stat() for path in all_files(out)}
    in_process.clear()
    annotate(pipeline, tmp_path / "in", out, partition_by=["lang"])
    assert not in_process

    tried.clear()
    bad.remove("day 2400.")
    summary = annotate(pipeline, tmp_path / "in", out, partition_by=["lang"], retry_errors=True)
    assert [text.partition(",")[2].partition(".")[0] for text in tried] == [
        " day 5", " day 6", " day 2400",
    ]  # fmt: skip
    assert summary.errors["bad luck"] == {"rows": 2, "file": "a.parquet", "row": 5}
    assert len(in_process) == 1
    after = {path: (out / path).stat() for path in all_files(out)}
    changed = {path.rpartition("/")[2] for path in after if after[path] != before[path]}
    assert changed == set(in_process)

    bad.clear()
    annotate(pipeline, tmp_path / "in", out, partition_by=["lang"], retry_errors=True)
    annotate(pipeline, tmp_path / "in", tmp_path / "clean", partition_by=["lang"])
    assert all_files(out) == all_files(tmp_path / "clean")
    assert not (out / "_errors.jsonl").exists()
