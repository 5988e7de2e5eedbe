"""What is planned: files, shards, columns and what a pipeline writes."""

import glob
from pathlib import Path

import pyarrow as pa
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from tables import ruler

from spacy_albert_jobs.errors import JobError
from spacy_albert_jobs.inputs import InputFile, RowGroup, common_type, select
from spacy_albert_jobs.outputs import Outputs
from spacy_albert_jobs.plan import Plan, cut, default_shard_size, hash_folder

SCHEMA = pa.schema([("text", pa.string())])


def input_files(shapes: list[list[tuple[int, int]]]) -> list[InputFile]:
    return [
        InputFile(f"{n}.parquet", 0, tuple(RowGroup(r, b, b) for r, b in groups), SCHEMA)
        for n, groups in enumerate(shapes)
    ]


shapes = st.lists(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1000)), max_size=8), min_size=1
)


@given(shapes, st.integers(1, 3000), st.none() | st.integers(1, 500))
def test_shards_cover_every_row_once(shapes, target, limit):
    files = input_files(shapes)
    shards = cut(files, target, limit)
    rows = [(file.path, row) for file in files for row in range(file.rows)]
    covered = [(s.source, row) for s in shards for row in range(s.start, s.start + s.rows)]
    assert covered == rows[:limit]
    for shard in shards:
        groups = files[int(shard.source.split(".")[0])].row_groups
        before = sum(group.rows for group in groups[: shard.groups[0]])
        within = sum(group.rows for group in groups[slice(*shard.groups)])
        assert before <= shard.start <= shard.start + shard.rows <= before + within
        longest = max((-(-g.text_bytes // g.rows) for g in groups if g.rows), default=0)
        assert shard.size <= target + longest
    assert len({shard.name for shard in shards}) == len(shards)
    assert [shard.name for shard in shards] == sorted(shard.name for shard in shards)
    if limit is None:
        assert {shard.source for shard in shards} == {file.path for file in files}


def test_names_sort_beyond_five_digits():
    shards = cut(input_files([[(1, 10)] * 100_001]), 1)
    assert len(shards) == 100_001
    assert [shard.name for shard in shards] == sorted(shard.name for shard in shards)


@pytest.mark.parametrize(("total", "size"), [(0, 1), (1 << 20, 1), (10 << 30, 10), (1 << 40, 64)])
def test_default_shard_size(total, size):
    files = input_files([[(1, total)]])
    assert round(default_shard_size(files) / (1 << 20)) == size


def test_a_plan_survives_being_written():
    kept = pa.schema([("id", pa.int64()), ("tags", pa.list_(pa.string()))])
    outputs = Outputs(ents=True, classes=("A", "B"), exclusive=("A",), windows=True)
    shards = cut(input_files([[(3, 4)] * 3]), 5)
    plan = Plan({"options": {}, "input": {}}, kept, outputs, shards, [], ("earlier",))
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "pattern",
    [
        "*.parquet",
        "**/*.parquet",
        "a/*.parquet",
        "a/**/*.parquet",
        "*/x[12].parquet",
        "?/?/*",
        "**/x?.*",
    ],
)
def test_globs_mean_what_they_mean_to_python(tmp_path, pattern):
    for name in ("x1", "y", "a/x1", "a/x3", "a/b/x2", "a/b/c/x1", "b/x2"):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    expected = {Path(p) for p in glob.glob(str(tmp_path / pattern), recursive=True)}
    found = [Path(info.path) for info in select(tmp_path / pattern).files]
    assert set(found) == {path for path in expected if path.is_file()}
    assert found == sorted(found)


def test_a_file_whose_name_is_a_glob(tmp_path):
    for name in ("[ab].parquet", "a.parquet"):
        (tmp_path / name).touch()
    assert [info.base_name for info in select(tmp_path / "[ab].parquet").files] == ["[ab].parquet"]


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([pa.int8(), pa.int64()], pa.int64()),
        ([pa.int32(), pa.float64()], pa.float64()),
        ([pa.int64(), pa.float64()], None),
        ([pa.uint64(), pa.int64()], None),
        ([pa.float32(), pa.float64()], pa.float64()),
        ([pa.string(), pa.large_string()], pa.large_string()),
        ([pa.string(), pa.string_view()], pa.string()),
        ([pa.string(), pa.dictionary(pa.int8(), pa.string())], pa.string()),
        ([pa.string(), pa.int64()], None),
        ([pa.null(), pa.date32()], pa.date32()),
        ([pa.timestamp("s"), pa.timestamp("us")], pa.timestamp("us")),
        ([pa.timestamp("us"), pa.timestamp("us", "UTC")], None),
        ([pa.list_(pa.int32()), pa.list_(pa.float64())], None),
    ],
)
def test_common_types(types, expected):
    listed = {kind: f"{n}.parquet" for n, kind in enumerate(types)}
    if expected is None:
        with pytest.raises(JobError, match="types that do not go together"):
            common_type("n", listed)
    else:
        assert common_type("n", listed) == expected


def test_what_pipelines_write():
    nlp = ruler()
    assert Outputs.of(nlp) == Outputs(True, (), (), False)
    nlp.add_pipe("textcat").add_label("A")
    nlp.get_pipe("textcat").add_label("B")
    assert Outputs.of(nlp) == Outputs(True, ("A", "B"), ("A", "B"), False)
    many = nlp.add_pipe("textcat_multilabel")
    many.add_label("B")
    many.add_label("C")
    assert Outputs.of(nlp) == Outputs(True, ("A", "B", "C"), ("A", "B"), False)
    nlp.disable_pipe("entity_ruler")
    nlp.disable_pipe("textcat")
    assert Outputs.of(nlp) == Outputs(False, ("B", "C"), (), False)
    assert [field.name for field in Outputs.of(nlp).fields()] == ["cats", "n_tokens", "error"]


def test_components_of_ones_own():
    Language.component("finds", assigns=["doc.ents"], func=lambda doc: doc)
    Language.component("silent", func=lambda doc: doc)
    nlp = spacy.blank("en")
    nlp.add_pipe("silent")
    with pytest.raises(JobError, match="silent"):
        Outputs.of(nlp)
    nlp.add_pipe("finds")
    assert Outputs.of(nlp).ents


def test_the_hash_of_a_pipeline_is_of_its_contents(pipeline, tmp_path):
    ruler().to_disk(tmp_path / "again")
    assert hash_folder(tmp_path / "again") == hash_folder(pipeline)
    (tmp_path / "again" / "__pycache__").mkdir()
    (tmp_path / "again" / "__pycache__" / "x.pyc").touch()
    assert hash_folder(tmp_path / "again") == hash_folder(pipeline)
    (tmp_path / "again" / "meta.json").rename(tmp_path / "again" / "mata.json")
    assert hash_folder(tmp_path / "again") != hash_folder(pipeline)
