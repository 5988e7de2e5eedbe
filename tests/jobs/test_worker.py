"""A worker by itself: one shard, one pipeline, no Ray."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spacy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, Span
from tables import CODE, write
from util import initialized

from spacy_albert_jobs import worker
from spacy_albert_jobs.inputs import read_footers, select
from spacy_albert_jobs.outputs import Outputs
from spacy_albert_jobs.plan import Shard, cut
from spacy_albert_jobs.storage import TEMPORARY, Folder
from spacy_albert_jobs.worker import Annotator, Job, committed


@pytest.fixture
def job(pipeline, tmp_path) -> Job:
    return Job(
        pipeline=str(pipeline),
        code=str(CODE),
        text_column="text",
        max_chars=1000,
        kept=pa.schema([("text", pa.string())]),
        outputs=Outputs(ents=True, classes=(), exclusive=(), windows=False),
        fingerprint="f",
        source=Folder.at(tmp_path),
        output=Folder.at(tmp_path / "out"),
    )


def whole(path: Path) -> Shard:
    rows = pq.read_metadata(path)
    return Shard("part.parquet", path.name, (0, rows.num_row_groups), 0, rows.num_rows, 0)


def annotate(annotator: Annotator, texts: list) -> list[dict]:
    return annotator.annotate_rows(pa.array(texts))


def found(rows: list[dict]) -> list[list[str] | None]:
    return [None if row["error"] else [e["text"] for e in row["ents"]] for row in rows]


@pytest.fixture(scope="module")
def reference(pipeline) -> Language:
    return spacy.load(pipeline)


rows_of_any_kind = st.lists(
    st.none()
    | st.text(max_size=40)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10).map(lambda t: f"{t} Obama {t}")
    | st.just("STUMBLE")
)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(texts=rows_of_any_kind)
def test_any_rows(stumbler, reference, texts):
    annotator = any_rows_annotator(stumbler)
    rows = annotator.annotate_rows(pa.array(texts, pa.string()))
    assert len(rows) == len(texts)
    for text, row in zip(texts, rows):
        if text is None or "STUMBLE" in text:
            assert row.keys() == {"error"}
            continue
        doc = reference(text)
        assert row["error"] is None
        assert row["n_tokens"] == len(doc)
        assert [(e["start"], e["end"]) for e in row["ents"]] == [
            (span.start_char, span.end_char) for span in doc.ents
        ]
        assert all(text[e["start"] : e["end"]] == e["text"] for e in row["ents"])


def any_rows_annotator(pipeline: Path, kept: dict = {}) -> Annotator:  # noqa: B006
    if pipeline not in kept:
        nowhere = Folder.at("/nowhere")
        outputs = Outputs(ents=True, classes=(), exclusive=(), windows=False)
        kept[pipeline] = Annotator(
            Job(
                str(pipeline),
                str(CODE),
                "text",
                1000,
                pa.schema([]),
                outputs,
                "f",
                nowhere,
                nowhere,
            )
        )
    return kept[pipeline]


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_any_files_and_shards(pipeline, reference, tmp_path_factory, monkeypatch, data):
    """However rows are spread over files, row groups and shards, they come out once, in order."""
    monkeypatch.setattr(worker, "load_pipeline", lambda *args: reference)
    monkeypatch.setattr(worker, "BATCH_ROWS", data.draw(st.integers(1, 9)))
    monkeypatch.setattr(worker, "ROW_GROUP_BYTES", data.draw(st.integers(1, 2000)))
    folder = tmp_path_factory.mktemp("any")
    given_rows = []
    for number in range(data.draw(st.integers(1, 4))):
        texts = data.draw(st.lists(st.none() | st.text(max_size=30), max_size=20))
        given_rows += texts
        table = pa.table({"text": pa.array(texts, pa.string())})
        write(folder / "in" / f"{number}.parquet", table, data.draw(st.integers(1, 10)))
    files, bad = read_footers(select(folder / "in"), "text")
    assert not bad
    limit = data.draw(st.none() | st.integers(1, 50))
    shards = cut(files, data.draw(st.integers(1, 500)), limit)
    assert [shard.name for shard in shards] == sorted(shard.name for shard in shards)
    outputs = Outputs(ents=True, classes=(), exclusive=(), windows=False)
    kept = pa.schema([("text", pa.string())])
    source, output = Folder.at(folder / "in"), Folder.at(folder / "out")
    annotator = Annotator(Job("", None, "text", 10**6, kept, outputs, "f", source, output))
    receipts = [annotator.annotate(shard) for shard in reversed(shards)][::-1]
    tables = [pq.read_table(folder / "out" / shard.name) for shard in shards]
    assert [table.num_rows for table in tables] == [shard.rows for shard in shards]
    assert pa.concat_tables(tables)["text"].to_pylist() == given_rows[:limit]
    assert receipts == [committed(output, shard, "f") for shard in shards]


def test_neighbours_of_a_document_that_takes_its_batch_down(job, tmp_path):
    worker.import_code(str(CODE))
    nlp = spacy.load(job.pipeline)
    nlp.add_pipe("stumble_together", first=True)
    nlp.to_disk(tmp_path / "together")
    annotator = Annotator(replace(job, pipeline=str(tmp_path / "together")))
    rows = annotate(annotator, ["Obama", "STUMBLE", "Paris", "Obama"])
    assert found(rows) == [["Obama"], None, ["Paris"], ["Obama"]]
    assert rows[1]["error"] == "ValueError in 'stumble_together': cannot read STUMBLE"


def test_a_component_that_passes_on_what_it_failed_on(job):
    worker.import_code(str(CODE))
    annotator = Annotator(job)
    annotator.nlp.add_pipe("stumble_on", first=True)
    rows = annotate(annotator, ["Obama", "STUMBLE Obama", "Paris"])
    assert found(rows) == [["Obama"], None, ["Paris"]]
    assert rows[1]["error"] == "ValueError in 'stumble_on': cannot read STUMBLE"


def test_a_tokenizer_that_raises(job):
    annotator = Annotator(job)
    tokenize = annotator.nlp.tokenizer

    def tokenizer(text: str) -> Doc:
        if "STUMBLE" in text:
            raise KeyError("no such word")
        return tokenize(text)

    annotator.nlp.tokenizer = tokenizer
    rows = annotate(annotator, ["Obama", "STUMBLE", "Paris"])
    assert found(rows) == [["Obama"], None, ["Paris"]]
    assert rows[1]["error"] == "KeyError in the pipeline: 'no such word'"


def test_a_tokenizer_that_changes_the_text(job):
    annotator = Annotator(job)
    nlp = annotator.nlp
    nlp.tokenizer = lambda text: Doc(nlp.vocab, words=text.split())
    rows = annotate(annotator, ["in Paris", "in  Paris"])
    assert found(rows) == [["Paris"], None]
    assert rows[1]["error"].startswith("ValueError in the pipeline: the tokenizer made 'Paris' of")


def test_a_component_that_returns_another_doc(job):
    annotator = Annotator(job)

    @Language.component("another")
    def another(doc: Doc) -> Doc:
        return annotator.nlp.make_doc(doc.text)

    annotator.nlp.add_pipe("another", first=True)
    assert found(annotate(annotator, ["Obama", "Paris", "Obama"])) == [
        ["Obama"],
        ["Paris"],
        ["Obama"],
    ]


def test_entities_and_classes_of_albert(job, tmp_path, tiny_spm):
    (tmp_path / "tiny.model").write_bytes(tiny_spm)
    nlp = initialized(tmp_path / "tiny.model")
    nlp.to_disk(tmp_path / "albert")
    outputs = Outputs.of(nlp)
    assert [field.name for field in outputs.fields()] == [
        "ents", "cats", "cat", "n_tokens", "n_windows", "error",
    ]  # fmt: skip
    annotator = Annotator(
        replace(job, pipeline=str(tmp_path / "albert"), outputs=outputs, max_chars=10_000)
    )
    long = "Obama said a good book is long . " * 200
    for _ in range(2):  # the second time in a memory zone
        rows = annotate(annotator, ["Obama was in Paris", None, "", long])
        assert [row.get("n_windows") for row in rows[:2]] == [1, None]
        assert rows[3]["n_windows"] > 1
        assert all(0 < e["score"] <= 1 for row in rows if row.get("ents") for e in row["ents"])
        assert sum(len(row["ents"]) for row in rows if "ents" in row) > 0
        assert rows[0]["cat"] in ("bad", "good")
        assert rows[0]["cats"].keys() == {"bad", "good", "book", "city", "people"}


def test_a_class_without_a_column(job):
    annotator = Annotator(replace(job, outputs=replace(job.outputs, classes=("GOOD",))))

    @Language.component("classes")
    def classes(doc: Doc) -> Doc:
        doc.cats = {"GOOD": 0.5, **({"ODD": 1.0} if "odd" in doc.text else {})}
        return doc

    annotator.nlp.add_pipe("classes")
    good, odd = annotate(annotator, ["a", "odd"])
    assert good["cats"] == {"GOOD": 0.5}
    assert "classes that no component names as labels: ['ODD']" in odd["error"]


def test_scores_of_entities(job):
    annotator = Annotator(job)
    before = Span.get_extension("score") if Span.has_extension("score") else None
    try:
        Span.set_extension("score", getter=lambda span: 0.25, force=True)
        (row,) = annotate(annotator, ["Obama"])
        assert row["ents"][0]["score"] == 0.25
    finally:
        Span.remove_extension("score")
        if before:
            default, method, getter, setter = before
            Span.set_extension(
                "score", default=default, method=method, getter=getter, setter=setter
            )


def test_texts_longer_than_spacy_likes(job):
    annotator = Annotator(replace(job, max_chars=2_000_000))
    (row,) = annotate(annotator, ["a " * 600_000 + "Obama"])
    assert row["ents"][0]["start"] == 1_200_000


def test_a_shard_that_kills_its_workers_is_given_up(job, tmp_path):
    shard = whole(write(tmp_path / "in.parquet", pa.table({"text": ["Obama"]})))
    annotator = Annotator(job)
    (tmp_path / "out" / TEMPORARY).mkdir(parents=True)
    for number in range(3):
        assert annotator.attempt(shard) == f"_tmp/part.parquet.{number}"
        (tmp_path / "out" / TEMPORARY / f"part.parquet.{number}").touch()
    with pytest.raises(RuntimeError, match="its worker died 3 times"):
        annotator.annotate(shard)


def test_a_committed_shard_is_not_done_again(job, tmp_path):
    shard = whole(write(tmp_path / "in.parquet", pa.table({"text": ["Obama"]})))
    annotator = Annotator(job)
    receipt = annotator.annotate(shard)
    before = (tmp_path / "out" / "part.parquet").stat()
    assert annotator.annotate(shard) == receipt
    assert (tmp_path / "out" / "part.parquet").stat() == before
    assert (receipt.rows, receipt.words, receipt.ents) == (1, 1, {"PERSON": 1})


def test_a_file_that_has_changed_since_the_plan(job, tmp_path):
    path = write(tmp_path / "in.parquet", pa.table({"text": ["Obama"] * 10}), 2)
    shard = whole(path)
    write(path, pa.table({"text": ["Obama"] * 9}), 2)
    with pytest.raises(OSError, match="has changed since the job was planned"):
        Annotator(job).annotate(shard)
    assert not list((tmp_path / "out" / TEMPORARY).iterdir())


def test_progress_is_reported(job, tmp_path):
    texts = ["Obama went", None] * 300
    path = write(tmp_path / "in.parquet", pa.table({"text": texts}))
    reports = []
    Annotator(job, report=lambda *counts: reports.append(counts)).annotate(whole(path))
    assert reports == [
        ("part.parquet", 256, 256, 128),
        ("part.parquet", 512, 512, 256),
        ("part.parquet", 600, 600, 300),
    ]


def test_memory_does_not_grow_with_the_row_group(tmp_path):
    texts = [f"{i:07} " * 250 for i in range(30_000)]
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": texts}), path, use_dictionary=False, compression="none")
    assert path.stat().st_size > 50 << 20
    del texts
    before, peak = pa.total_allocated_bytes(), 0
    for _ in worker.read(Folder.at(tmp_path), whole(path), ["text"]):
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert 0 < peak < 10 << 20
