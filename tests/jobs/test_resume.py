"""Running a job again: what is done stays done, and what differs is refused."""

import shutil

import pyarrow.parquet as pq
import pytest
from tables import contents, notes, read, state, write

from spacy_albert_jobs import JobError, annotate, run


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def done(pipeline, collection, out, in_process):
    annotate(pipeline, collection, out, shard_bytes=1000)
    in_process.clear()
    return state(out)


def test_a_second_run_does_nothing(pipeline, collection, out, in_process, done):
    before = (out / "_summary.json").read_bytes()
    summary = annotate(pipeline, collection, out, shard_bytes=1000)
    assert not in_process
    assert state(out) == done
    assert summary.to_json() == before == (out / "_summary.json").read_bytes()


def test_what_is_beside_the_data(collection, out, done):
    manifest, summary = notes(out, "_manifest.json"), notes(out, "_summary.json")
    assert {entry["file"] for entry in manifest["files"]} == done.keys()
    assert sum(entry["rows"] for entry in manifest["files"]) == manifest["rows"] == summary["rows"]
    for entry in manifest["files"]:
        assert pq.read_metadata(out / entry["file"]).num_rows == entry["rows"]
        first = pq.read_table(out / entry["file"])["text"].to_pylist()[:1]
        source = pq.read_table(collection / entry["source"])["text"].to_pylist()
        assert source[entry["first_row"] :][:1] == first
    assert not (out / "_tmp").exists()
    assert (out / "_SUCCESS").read_bytes() == b""


def break_off(monkeypatch, after: int) -> None:
    """Stop the next run as Ctrl-C does, after some shards."""
    whole = run.run_shards

    def run_shards(work, *rest):
        for number, answer in enumerate(whole(work, *rest), 1):
            yield answer
            if number == after:
                raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_shards", run_shards)


def test_a_broken_off_run_goes_on(pipeline, collection, out, in_process, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        break_off(patch, after=3)
        with pytest.raises(KeyboardInterrupt, match=r"Stopped. 3 of \d+.*same command again"):
            annotate(pipeline, collection, out, shard_bytes=1000)
    assert not (out / "_SUCCESS").exists()
    ready = state(out)
    assert len(ready) == 3
    (out / "_tmp").mkdir(exist_ok=True)
    (out / "_tmp" / "left behind").write_text("by a run that was killed")
    first = list(in_process)
    annotate(pipeline, collection, out, shard_bytes=1000)
    assert len(in_process) == len(set(in_process)) == len(state(out))
    assert first == in_process[:3]
    assert ready.items() <= state(out).items()
    assert not (out / "_tmp").exists()
    annotate(pipeline, collection, tmp_path / "whole", shard_bytes=1000)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "foreign", "other plan"])
def test_a_file_that_is_not_what_was_planned_is_done_again(
    pipeline, collection, out, in_process, done, damage, tmp_path
):
    before = contents(out)
    first, second, *_ = sorted(done)
    if damage == "missing":
        (out / first).unlink()
    elif damage == "truncated":
        (out / first).write_bytes(before[first][:-10])
    elif damage == "empty":
        (out / first).write_bytes(b"")
    elif damage == "foreign":
        (out / first).write_bytes(before[second])
    else:
        annotate(pipeline, collection, tmp_path / "b", shard_bytes=1000, max_chars=10**6)
        in_process.clear()
        shutil.copy(tmp_path / "b" / first, out / first)
    annotate(pipeline, collection, out, shard_bytes=1000)
    assert in_process == [first]
    assert contents(out) == before
    assert (out / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"max_chars": 10}, "max_chars was 10000000 and is 10"),
        ({"keep": ["id"]}, r"keep was None and is \['id'\]"),
        ({"limit": 5}, "limit was None and is 5"),
        ({"shard_bytes": 9}, "shard_bytes was 1000 and is 9"),
    ],
)
def test_other_options_are_refused(pipeline, collection, out, done, options, difference):
    with pytest.raises(JobError, match=f"{difference}.*--overwrite"):
        annotate(pipeline, collection, out, **{"shard_bytes": 1000, **options})
    assert state(out) == done


def test_another_pipeline_is_refused(pipeline, collection, out, done, tmp_path):
    copy = shutil.copytree(pipeline, tmp_path / "copy")
    annotate(copy, collection, out, shard_bytes=1000)
    with (copy / "vocab" / "strings.json").open("a") as file:
        file.write(" ")
    with pytest.raises(JobError, match="pipeline is another one, or its contents have changed"):
        annotate(copy, collection, out, shard_bytes=1000)
    assert state(out) == done


def test_another_version_is_refused(pipeline, collection, out, done, monkeypatch):
    monkeypatch.setattr("spacy_albert_jobs.plan.installed", lambda package: "9.9")
    with pytest.raises(JobError, match=r"spacy was '3.*' and is '9\.9'"):
        annotate(pipeline, collection, out, shard_bytes=1000)


def test_another_input_is_refused(pipeline, collection, out, done):
    rows = pq.read_table(collection / "a.parquet")
    write(collection / "a.parquet", rows.slice(1))
    write(collection / "new.parquet", rows)
    (collection / "b.parquet").unlink()
    match = r"new: new\.parquet.*gone: b\.parquet.*changed: a\.parquet"
    with pytest.raises(JobError, match=match):
        annotate(pipeline, collection, out, shard_bytes=1000)
    assert state(out) == done


def test_a_moved_input_is_the_same(pipeline, collection, out, done, in_process):
    moved = collection.rename(collection.with_name("moved"))
    annotate(pipeline, moved, out, shard_bytes=1000)
    assert not in_process


def test_overwrite(pipeline, collection, out, done):
    (out / "README").write_text("mine")
    annotate(pipeline, collection, out, keep=["id"], overwrite=True)
    assert (out / "README").read_text() == "mine"
    assert read(out).num_rows == 431
    assert read(out).schema.names[0:2] == ["id", "ents"]
    assert len(state(out)) == 5


def test_overwrite_removes_nothing_before_all_is_checked(pipeline, collection, out, done):
    with pytest.raises(JobError, match="There is no pipeline"):
        annotate("nowhere", collection, out, overwrite=True)
    with pytest.raises(JobError, match="No input file has a column 'x'"):
        annotate(pipeline, collection, out, overwrite=True, keep=["x"])
    assert state(out) == done


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_something_else_is_refused(pipeline, collection, out, overwrite, in_process):
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(JobError, match=r"holds something else: thesis\.tex"):
        annotate(pipeline, collection, out, overwrite=overwrite)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_parquet_file_that_is_not_ours_is_refused(pipeline, collection, out, done, overwrite):
    shutil.copy(collection / "a.parquet", out / "z.parquet")
    with pytest.raises(JobError, match=r"also holds z\.parquet"):
        annotate(pipeline, collection, out, shard_bytes=1000, overwrite=overwrite)
    assert done.items() <= state(out).items()


@pytest.mark.parametrize("plan", ["{", "{}", '{"format": "spacy-albert annotate 9"}'])
def test_a_plan_that_is_not_understood(pipeline, collection, out, in_process, plan):
    out.mkdir()
    (out / "_plan.json").write_text(plan)
    with pytest.raises(JobError, match="cannot be read"):
        annotate(pipeline, collection, out, overwrite=True)


def test_the_output_is_a_file(pipeline, collection, out, in_process):
    out.write_text("")
    with pytest.raises(JobError, match="is a file"):
        annotate(pipeline, collection, out)
