"""The annotator by itself, as a stage for the Ray Data pipelines of others."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import CODE, read, texts, write

from spacy_albert_jobs import Annotator, JobError, annotate
from spacy_albert_jobs.pool import Resources, connected

VALUES = ["Obama in Paris", None, "", "STUMBLE Obama", "Paris " * 300, "é Obama \U0001f600"]


@pytest.fixture(scope="module")
def annotator(stumbler) -> Annotator:
    return Annotator(stumbler, code=CODE, max_chars=1000)


@pytest.fixture
def expected(stumbler, tmp_path, in_process) -> pa.Table:
    """What a job writes about the texts."""
    table = pa.table({"id": range(len(VALUES)), "text": VALUES})
    write(tmp_path / "in.parquet", table, 2)
    options = {"code": CODE, "max_chars": 1000, "quiet": True}
    annotate(stumbler, tmp_path / "in.parquet", tmp_path / "out", **options)
    return read(tmp_path / "out")


def test_a_table_gets_the_rows_that_a_job_writes(annotator, expected):
    given = expected.select(["id", "text"])
    assert annotator(given) == expected
    assert annotator(given.slice(2, 3)) == expected.slice(2, 3)
    assert expected["error"].to_pylist() == [
        None,
        "no text: the value is null",
        None,
        "ValueError in 'stumble': cannot read STUMBLE",
        "too long: 1,800 characters, and --max-chars is 1,000",
        None,
    ]


KINDS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.large_string()),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_texts_of_all_kinds_in_chunks(annotator, expected, kind):
    halves = [of_kind(VALUES[:2], kind), of_kind(VALUES[2:], kind), of_kind([], kind)]
    table = annotator(pa.table({"text": pa.chunked_array(halves, kind)}))
    assert table.drop_columns("text") == expected.drop_columns(["id", "text"])
    assert table.schema.field("text").type == kind
    empty = annotator(pa.table({"text": pa.chunked_array([], kind)}))
    assert (empty.num_rows, empty.schema) == (0, table.schema)


def of_kind(values: list[str | None], kind: pa.DataType) -> pa.Array:
    if "binary" in str(kind):
        values = [value and value.encode() for value in values]
    return pa.array(values, kind)


def test_texts_that_are_all_null(annotator):
    table = annotator(pa.table({"text": pa.nulls(3)}))
    assert table["error"].to_pylist() == ["no text: the value is null"] * 3
    assert table["ents"].null_count == 3


def test_memory_that_cannot_be_written_to(annotator, expected):
    """Ray gives batches that lie in its store, which nobody may change."""
    with pa.BufferOutputStream() as stream:
        with pa.ipc.new_stream(stream, expected.select(["id", "text"]).schema) as writer:
            writer.write_table(expected.select(["id", "text"]))
        content = np.frombuffer(stream.getvalue(), np.uint8)
    content.flags.writeable = False
    table = pa.ipc.open_stream(pa.py_buffer(content)).read_all()
    before = content.tobytes()
    assert annotator(table) == expected
    assert content.tobytes() == before


def test_tables_that_cannot_be_annotated(annotator, expected):
    with pytest.raises(JobError, match=r"has no column 'text'; its columns are id"):
        annotator(expected.select(["id"]))
    with pytest.raises(JobError, match=r"'text' of type int64, which is not text"):
        annotator(pa.table({"text": [1, 2]}))
    with pytest.raises(JobError, match=r"has columns of the names of annotations: error, ents"):
        annotator(expected.select(["text", "error", "ents"]))
    with pytest.raises(JobError, match=r'batch_format="pyarrow"'):
        annotator({"text": np.array(["Obama"])})


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with connected(Resources(workers=2)):
        yield


def test_ray_data(ray, stumbler, tmp_path, in_process):
    import ray.data

    values = texts(0, 500)
    values[7], values[401] = None, "STUMBLE"
    for number in range(4):
        rows = range(125 * number, 125 * number + 125)
        columns = {"id": rows, "body": values[rows.start : rows.stop]}
        write(tmp_path / "in" / f"{number}.parquet", pa.table(columns), 50)
    options = {"text_column": "body", "code": CODE, "quiet": True}
    annotate(stumbler, tmp_path / "in", tmp_path / "out", **options)
    dataset = ray.data.read_parquet(str(tmp_path / "in")).map_batches(
        Annotator,
        fn_constructor_kwargs={"pipeline": stumbler, "text_column": "body", "code": CODE},
        batch_format="pyarrow",
        batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    (tmp_path / "stage").mkdir()
    dataset.write_parquet(str(tmp_path / "stage"))
    stage = pa.concat_tables(map(pq.read_table, (tmp_path / "stage").glob("*.parquet")))
    expected = read(tmp_path / "out")
    assert stage.sort_by("id").cast(expected.schema) == expected
    assert expected["error"].null_count == 498
