"""The column of embeddings: what the encoder says, in types that others read."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc
from tables import CODE, read, ruler, write
from util import TEXTS, TINY, initialized

from spacy_albert_jobs import Annotator, JobError, annotate, read_docs, report, verify
from spacy_albert_jobs.annotator import import_code
from spacy_albert_jobs.embeddings import Embedding, add_embedding
from spacy_albert_jobs.outputs import Outputs
from spacy_albert_jobs.plan import PLAN, Plan, differences
from spacy_albert_jobs.show import show
from spacy_albert_jobs.storage import Folder
from spacy_albert_jobs.worker import RECEIPT

WIDTH = TINY["hidden_size"]
VALUES = [*TEXTS, "", None, " ".join(TEXTS * 5), "x" * 2000]
GOOD = [text for text in VALUES if text is not None and len(text) < 2000]
OPTIONS = {"max_chars": 1900, "shard_bytes": 200, "quiet": True}


@pytest.fixture(scope="module")
def albert(tiny_spm: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("albert")
    (folder / "spiece.model").write_bytes(tiny_spm)
    initialized(folder / "spiece.model", ["ner", "textcat"]).to_disk(folder / "model")
    return folder / "model"


@pytest.fixture
def given(tmp_path: Path) -> Path:
    rows = {"id": range(len(VALUES)), "text": VALUES}
    write(tmp_path / "in" / "a.parquet", pa.table(rows), 2)
    return tmp_path / "in"


def vectors(albert: Path, pooling: str) -> list[np.ndarray]:
    nlp = spacy.load(albert)
    nlp.add_pipe("albert_vectors", config={"model": {"pooling": pooling}})
    return [nlp(text).vector for text in GOOD]


def close(array: Any, kind: str = "float32") -> object:
    return pytest.approx(array, abs=1e-5) if kind == "float32" else pytest.approx(array, rel=2e-3)


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embeddings_are_the_vectors_of_the_pipeline(
    albert, given, tmp_path, in_process, pooling, kind
):
    out, plain = tmp_path / "out", tmp_path / "plain"
    annotate(albert, given, out, embedding=pooling, embedding_type=kind, **OPTIONS)
    assert len(in_process) > 2
    table = read(out)
    numbers = {"float32": pa.float32(), "float16": pa.float16()}[kind]
    assert table.schema.field("embedding").type == pa.list_(numbers, WIDTH)
    assert table.column_names[-2:] == ["embedding", "error"]
    found = [row for row in table["embedding"].to_pylist() if row is not None]
    for row, expected in zip(found, vectors(albert, pooling), strict=True):
        assert row == close(expected.astype(kind), kind)
    assert (table["embedding"].is_valid().to_pylist()) == table["error"].is_null().to_pylist()
    # everything else is as without them
    annotate(albert, given, plain, **OPTIONS)
    assert table.drop_columns(["embedding", "cats", "ents"]) == read(plain).drop_columns(
        ["cats", "ents"]
    )
    assert verify(out, given) == []


def test_others_read_them(albert, given, tmp_path, in_process):
    for kind in ("float32", "float16"):
        out = tmp_path / kind
        annotate(albert, given, out, embedding="mean", embedding_type=kind, **OPTIONS)
        expected = read(out)["embedding"].to_pylist()
        files = f"{out}/*.parquet"
        query = duckdb.sql(f"select embedding from '{files}' order by filename, file_row_number")
        assert [row and list(row) for (row,) in query.fetchall()] == expected
        column = polars.read_parquet(files)["embedding"]
        assert column.dtype == polars.Array(
            {"float32": polars.Float32, "float16": polars.Float16}[kind], WIDTH
        )
        assert [row and list(row) for row in column.to_list()] == expected
        frame = pandas.read_parquet(out)["embedding"]
        assert [row if row is None else row.tolist() for row in frame] == expected
    # the example of the docs
    rows = f"(from '{tmp_path}/float32/*.parquet' where error is null and n_tokens > 0)"
    found = duckdb.sql(
        f"select b.id from {rows} a, {rows} b where a.id = 3 "
        f"order by array_cosine_similarity(a.embedding::float[{WIDTH}], "
        f"b.embedding::float[{WIDTH}]) desc limit 1"
    )
    assert found.fetchall() == [(3,)]


def test_the_rest_of_the_commands_go_with_them(albert, given, tmp_path, in_process, capsys):
    out = tmp_path / "out"
    annotate(albert, given, out, embedding="cls", embedding_type="float16", **OPTIONS)
    page = Path(report(out)).read_text()
    assert f"entities, 2 classes and vectors of {WIDTH} numbers" in page
    assert f"cls, {WIDTH} numbers, float16" in page
    show(out, 2)
    assert "London" in capsys.readouterr().out
    docs = list(read_docs(out, spacy.load(albert)))
    for doc, expected in zip(docs, vectors(albert, "cls"), strict=True):
        assert doc.vector == close(expected, "float16")
        assert doc.vector.dtype == np.float32
        assert doc.similarity(doc) == pytest.approx(1, abs=1e-5)


def test_an_edited_vector_is_found(albert, given, tmp_path, in_process):
    annotate(albert, given, tmp_path / "out", embedding="mean", **OPTIONS)
    path = min((tmp_path / "out").glob("*.parquet"))
    table, receipt = pq.read_table(path), pq.read_metadata(path).metadata[RECEIPT]
    rows = table["embedding"].to_pylist()
    rows[0][5] += 1e-3
    place, kind = table.column_names.index("embedding"), table.schema.field("embedding").type
    table = table.set_column(place, "embedding", pa.array(rows, kind))
    with pq.ParquetWriter(path, table.schema, write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({RECEIPT: receipt})
    (finding,) = verify(tmp_path / "out")
    assert "does not have the values that were written: column embedding" in finding


def test_a_resume_must_ask_for_the_same(albert, given, tmp_path, in_process):
    out = tmp_path / "out"
    annotate(albert, given, out, embedding="mean", **OPTIONS)
    done = len(in_process)
    annotate(albert, given, out, embedding="mean", embedding_type="float32", **OPTIONS)
    assert len(in_process) == done
    for asked, said in (
        ({"embedding": "cls"}, "embedding was 'mean' and is 'cls'"),
        ({"embedding": "mean", "embedding_type": "float16"}, "'float32' and is 'float16'"),
        ({}, "embedding was 'mean' and is None"),
    ):
        with pytest.raises(JobError, match=said):
            annotate(albert, given, out, **asked, **OPTIONS)


def test_rows_without_errors_keep_their_vectors_in_a_retry(albert, tmp_path, in_process):
    import_code(str(CODE))
    nlp = spacy.load(albert)
    nlp.add_pipe("stumble", first=True)
    nlp.to_disk(tmp_path / "stumbling")
    write(tmp_path / "in.parquet", pa.table({"text": ["STUMBLE", *TEXTS]}))
    options = {"code": CODE, "embedding": "mean", "embedding_type": "float16", "quiet": True}
    asked = (tmp_path / "stumbling", tmp_path / "in.parquet", tmp_path / "out")
    annotate(*asked, **options)
    before = read(tmp_path / "out")
    assert before["embedding"].null_count == 1
    annotate(*asked, retry_errors=True, **options)
    assert len(in_process) == 2
    assert read(tmp_path / "out") == before
    assert verify(tmp_path / "out") == []


def test_a_component_of_the_pipeline_writes_its_own(albert, given, tmp_path, in_process):
    nlp = spacy.load(albert, exclude=["ner", "textcat"])
    nlp.add_pipe("albert_vectors", name="places", config={"model": {"pooling": "cls"}})
    nlp.to_disk(tmp_path / "model")
    annotate(tmp_path / "model", given, tmp_path / "out", **OPTIONS)
    names = ["id", "text", "n_tokens", "n_windows", "embedding", "error"]
    assert read(tmp_path / "out").column_names == names
    assert verify(tmp_path / "out") == []
    assert "annotated with vectors of" in Path(report(tmp_path / "out")).read_text()
    assert Outputs.of(nlp, "float16").embedding == Embedding("cls", WIDTH, "float16")
    add_embedding(nlp, "cls")
    assert nlp.pipe_names == ["albert", "places"]
    with pytest.raises(JobError, match="has a component 'places' whose pooling is 'cls'"):
        annotate(tmp_path / "model", given, tmp_path / "other", embedding="mean", **OPTIONS)


def test_an_encoder_alone_is_enough(albert, given, tmp_path, in_process):
    nlp = spacy.load(albert, exclude=["ner", "textcat"])
    nlp.to_disk(tmp_path / "model")
    with pytest.raises(JobError, match="--embedding mean has vectors written"):
        annotate(tmp_path / "model", given, tmp_path / "out", **OPTIONS)
    annotator = Annotator(tmp_path / "model", embedding="mean", embedding_type="float16")
    table = annotator(pa.table({"text": GOOD}))
    assert table.column_names == ["text", "n_tokens", "n_windows", "embedding", "error"]
    for row, expected in zip(table["embedding"].to_pylist(), vectors(albert, "mean"), strict=True):
        assert row == close(expected.astype("float16"), "float16")


def test_what_cannot_be_asked_for(albert, pipeline, given, tmp_path):
    def ask(nlp: Path, **options: str) -> None:
        annotate(nlp, given, tmp_path / "out", **options, **OPTIONS)

    with pytest.raises(JobError, match=r"no --embedding max\. Choose: mean, cls"):
        ask(albert, embedding="max")
    with pytest.raises(JobError, match=r"no --embedding-type int8\. Choose: float32, float16"):
        ask(albert, embedding="mean", embedding_type="int8")
    with pytest.raises(JobError, match="the pipeline makes none: say which with --embedding mean"):
        ask(albert, embedding_type="float16")
    with pytest.raises(JobError, match="has no component `albert` "):
        ask(pipeline, embedding="mean")
    with pytest.raises(JobError, match="no --embedding max"):
        Annotator(albert, embedding="max")
    assert not (tmp_path / "out").exists()


def test_a_column_of_that_name_is_in_the_way_only_where_there_are_embeddings(
    albert, pipeline, tmp_path, in_process
):
    rows = {"text": TEXTS, "embedding": range(len(TEXTS))}
    write(tmp_path / "in.parquet", pa.table(rows))
    with pytest.raises(JobError, match="names of annotations: embedding"):
        annotate(albert, tmp_path / "in.parquet", tmp_path / "a", embedding="mean", quiet=True)
    annotate(pipeline, tmp_path / "in.parquet", tmp_path / "b", quiet=True)
    pairs = list(read_docs(tmp_path / "b", ruler(), as_tuples=True))
    assert [row["embedding"] for _, row in pairs] == list(range(len(TEXTS)))
    assert not pairs[0][0].has_vector


def test_a_lost_vector_is_an_error_of_its_row(albert):
    annotator = Annotator(albert, embedding="mean")

    @Language.component("test_anew")
    def anew(doc: Doc) -> Doc:
        return annotator.nlp.make_doc(doc.text)

    annotator.nlp.add_pipe("test_anew")
    (row,) = annotator.annotate(pa.array(["the book"]))
    assert row["error"].startswith("ValueError in the pipeline: the document lost its vector")


def test_a_job_of_an_earlier_version_is_taken_up(albert, given, tmp_path, in_process):
    annotate(albert, given, tmp_path / "out", **OPTIONS)
    path = tmp_path / "out" / PLAN
    now, plan = Plan.of(Folder.at(tmp_path / "out")), json.loads(path.read_text())
    # as it was written when there were no embeddings
    for where, name in (
        (plan["outputs"], "embedding"),
        (plan["identity"]["options"], "embedding"),
        (plan["identity"]["options"], "embedding_type"),
    ):
        assert where.pop(name, 0) is None
    path.write_text(json.dumps(plan))
    earlier = Plan.of(Folder.at(tmp_path / "out"))
    assert earlier.outputs == now.outputs == Outputs.of(spacy.load(albert))
    assert differences(earlier.identity, now.identity) == []
