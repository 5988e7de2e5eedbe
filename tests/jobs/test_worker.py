"""A worker by itself: one shard, one pipeline, no Ray."""

import json
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

from spacy_albert_jobs import annotator as annotators
from spacy_albert_jobs import worker
from spacy_albert_jobs.annotator import Annotator, import_code
from spacy_albert_jobs.inputs import read_footers, select
from spacy_albert_jobs.outputs import Outputs
from spacy_albert_jobs.plan import Plan, Shard, cut
from spacy_albert_jobs.storage import Folder
from spacy_albert_jobs.worker import Attempt, Job, Worker, read_receipt, read_receipts


@pytest.fixture
def job(pipeline, tmp_path) -> Job:
    return Job(
        pipeline=str(pipeline),
        code=str(CODE),
        text_column="text",
        max_chars=1000,
        kept=pa.schema([("text", pa.string())]),
        outputs=Outputs(ents=True, classes=(), exclusive=(), windows=False),
        partition_by=[],
        excerpt=20,
        job="f",
        fingerprint="f",
        source=Folder.at(tmp_path),
        output=Folder.at(tmp_path / "out"),
    )


def whole(path: Path) -> Shard:
    rows = pq.read_metadata(path)
    return Shard("part.parquet", path.name, (0, rows.num_row_groups), 0, rows.num_rows, 0)


def annotate(annotator: Annotator, texts: list) -> list[dict]:
    return annotator.annotate(pa.array(texts))


@pytest.fixture
def annotator(pipeline) -> Annotator:
    return Annotator(pipeline, code=CODE)


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


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=rows_of_any_kind)
def test_any_rows(stumbler, reference, texts):
    annotator = any_rows_annotator(stumbler)
    rows = annotator.annotate(pa.array(texts, pa.string()))
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
        kept[pipeline] = Annotator(pipeline, max_chars=1000, code=CODE)
    return kept[pipeline]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_files_and_shards(pipeline, reference, tmp_path_factory, monkeypatch, data):
    """However rows are spread over files, row groups and shards, they come out once, in order."""
    monkeypatch.setattr(annotators, "load_pipeline", lambda *args: reference)
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
    plan = Plan({"options": {"partition_by": []}, "input": {}}, kept, outputs, shards, [])
    names = plan.job, plan.fingerprint
    worked = Worker(
        Job(str(pipeline), None, "text", 10**6, kept, outputs, [], 0, *names, source, output)
    )
    for shard in reversed(shards):
        worked.annotate(shard)
    tables = [pq.read_table(folder / "out" / shard.name) for shard in shards]
    assert [table.num_rows for table in tables] == [shard.rows for shard in shards]
    assert pa.concat_tables(tables)["text"].to_pylist() == given_rows[:limit]
    assert list(read_receipts(output, plan)) == [shard.name for shard in shards]


def test_neighbours_of_a_document_that_takes_its_batch_down(pipeline, tmp_path):
    import_code(str(CODE))
    nlp = spacy.load(pipeline)
    nlp.add_pipe("stumble_together", first=True)
    nlp.to_disk(tmp_path / "together")
    annotator = Annotator(tmp_path / "together", code=CODE)
    rows = annotate(annotator, ["Obama", "STUMBLE", "Paris", "Obama"])
    assert found(rows) == [["Obama"], None, ["Paris"], ["Obama"]]
    assert rows[1]["error"] == "ValueError in 'stumble_together': cannot read STUMBLE"


def test_a_component_that_passes_on_what_it_failed_on(annotator):
    import_code(str(CODE))
    annotator.nlp.add_pipe("stumble_on", first=True)
    rows = annotate(annotator, ["Obama", "STUMBLE Obama", "Paris"])
    assert found(rows) == [["Obama"], None, ["Paris"]]
    assert rows[1]["error"] == "ValueError in 'stumble_on': cannot read STUMBLE"


def test_a_tokenizer_that_raises(annotator):
    tokenize = annotator.nlp.tokenizer

    def tokenizer(text: str) -> Doc:
        if "STUMBLE" in text:
            raise KeyError("no such word")
        return tokenize(text)

    annotator.nlp.tokenizer = tokenizer
    rows = annotate(annotator, ["Obama", "STUMBLE", "Paris"])
    assert found(rows) == [["Obama"], None, ["Paris"]]
    assert rows[1]["error"] == "KeyError in the pipeline: 'no such word'"


def test_a_tokenizer_that_changes_the_text(annotator):
    nlp = annotator.nlp
    nlp.tokenizer = lambda text: Doc(nlp.vocab, words=text.split())
    rows = annotate(annotator, ["in Paris", "in  Paris"])
    assert found(rows) == [["Paris"], None]
    assert rows[1]["error"].startswith("ValueError in the pipeline: the tokenizer made 'Paris' of")


def test_a_component_that_returns_another_doc(annotator):

    @Language.component("another")
    def another(doc: Doc) -> Doc:
        return annotator.nlp.make_doc(doc.text)

    annotator.nlp.add_pipe("another", first=True)
    assert found(annotate(annotator, ["Obama", "Paris", "Obama"])) == [
        ["Obama"],
        ["Paris"],
        ["Obama"],
    ]


def test_entities_and_classes_of_albert(tmp_path, tiny_spm):
    (tmp_path / "tiny.model").write_bytes(tiny_spm)
    nlp = initialized(tmp_path / "tiny.model")
    nlp.to_disk(tmp_path / "albert")
    outputs = Outputs.of(nlp)
    assert [field.name for field in outputs.fields()] == [
        "ents", "cats", "cat", "n_tokens", "n_windows", "error",
    ]  # fmt: skip
    annotator = Annotator(tmp_path / "albert", max_chars=10_000)
    assert annotator.outputs == outputs
    long = "Obama said a good book is long . " * 200
    for _ in range(2):  # the second time in a memory zone
        rows = annotate(annotator, ["Obama was in Paris", None, "", long])
        assert [row.get("n_windows") for row in rows[:2]] == [1, None]
        assert rows[3]["n_windows"] > 1
        assert all(0 < e["score"] <= 1 for row in rows if row.get("ents") for e in row["ents"])
        assert sum(len(row["ents"]) for row in rows if "ents" in row) > 0
        assert rows[0]["cat"] in ("bad", "good")
        assert rows[0]["cats"].keys() == {"bad", "good", "book", "city", "people"}


def test_a_document_too_large_for_the_gpu_is_read_without_it(annotator, monkeypatch):
    @Language.component("greedy")
    def greedy(doc: Doc) -> Doc:
        if "BIG" in doc.text:
            raise MemoryError("CUDA out of memory")
        return doc

    annotator.nlp.add_pipe("greedy")  # only there; what is loaded anew has none
    texts = ["Obama", "BIG Paris"]
    rows = annotate(annotator, texts)
    assert found(rows) == [["Obama"], None]
    assert rows[1]["error"] == "MemoryError in 'greedy': CUDA out of memory"
    monkeypatch.setattr(annotators, "uses_gpu", lambda nlp: True)
    assert found(annotate(annotator, texts)) == [["Obama"], ["Paris"]]


def test_a_class_without_a_column(annotator):
    annotator.outputs = replace(annotator.outputs, classes=("GOOD",))

    @Language.component("classes")
    def classes(doc: Doc) -> Doc:
        doc.cats = {"GOOD": 0.5, **({"ODD": 1.0} if "odd" in doc.text else {})}
        return doc

    annotator.nlp.add_pipe("classes")
    good, odd = annotate(annotator, ["a", "odd"])
    assert good["cats"] == {"GOOD": 0.5}
    assert "classes that no component names as labels: ['ODD']" in odd["error"]


def test_scores_of_entities(annotator):
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


def test_texts_longer_than_spacy_likes(pipeline):
    (row,) = annotate(Annotator(pipeline), ["a " * 600_000 + "Obama"])
    assert row["ents"][0]["start"] == 1_200_000


def test_what_is_known_to_kill_is_not_tried(job, tmp_path):
    shard = whole(write(tmp_path / "in.parquet", pa.table({"text": ["Obama", "DIE", "Paris"]})))
    marks = []
    worker = Worker(replace(job), mark=lambda *rows: marks.append(rows))
    worker.annotate(shard, Attempt(((1, "killed its worker: a crash"),), careful=True))
    table = pq.read_table(tmp_path / "out" / "part.parquet")
    assert table["error"].to_pylist() == [None, "killed its worker: a crash", None]
    assert marks == [("part.parquet", 0, 3)]
    receipt = read_receipt(job.output, "part.parquet")
    assert receipt.errors == {"killed its worker": 1}
    assert receipt.examples == {"killed its worker": 1}
    letters = (tmp_path / "out" / "_errors" / "part.jsonl").read_text().splitlines()
    assert [json.loads(letter) for letter in letters] == [
        {
            "file": "in.parquet",
            "row": 1,
            "error": "killed its worker: a crash",
            "output": "part.parquet",
            "text": "DIE",
        }
    ]


def test_rows_are_marked_one_by_one_where_that_is_asked_for(job, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "BATCH_ROWS", 4)
    shard = whole(write(tmp_path / "in.parquet", pa.table({"text": ["Obama"] * 12})))
    marks = []
    careful = Worker(job, mark=lambda name, *rows: marks.append(rows))
    careful.annotate(shard, Attempt(careful=True, singly=((4, 8),)))
    assert marks == [(0, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 12)]
    marks.clear()
    (tmp_path / "out" / "part.parquet").unlink()
    careful.annotate(shard, Attempt(careful=True, probe=(4, 8)))
    assert marks == [(4, 5), (5, 6), (6, 7), (7, 8)]
    assert not (tmp_path / "out" / "part.parquet").exists()


def test_a_file_that_has_changed_since_the_plan(job, tmp_path):
    path = write(tmp_path / "in.parquet", pa.table({"text": ["Obama"] * 10}), 2)
    shard = whole(path)
    write(path, pa.table({"text": ["Obama"] * 9}), 2)
    with pytest.raises(OSError, match="has changed since the job was planned"):
        Worker(job).annotate(shard)
    assert not list((tmp_path / "out").rglob("*.*"))


def test_progress_is_reported(job, tmp_path, monkeypatch):
    texts = ["Obama went", None] * 300
    path = write(tmp_path / "in.parquet", pa.table({"text": texts}))
    reports = []
    monkeypatch.setattr(worker, "BATCH_ROWS", 256)
    Worker(job, report=lambda *counts: reports.append(counts)).annotate(whole(path))
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
