"""Jobs on Ray: workers and drivers that die, and a second run that finishes what they began."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import CODE, contents, notes, read, state, texts, write

from spacy_albert_jobs import JobError, annotate, pool
from spacy_albert_jobs.pool import Board, Resources, connected

COMMAND = [sys.executable, "-m", "spacy", "albert", "annotate"]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with connected(Resources(workers=2)):
        yield


@pytest.fixture
def temporary_ray_folder() -> Iterator[None]:
    """A killed driver cannot clean up behind itself."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        yield


def test_ray_changes_nothing(ray, classifier, collection, tmp_path, monkeypatch, in_process):
    annotate(classifier, collection, tmp_path / "without", shard_bytes=1000)
    monkeypatch.undo()
    summary = annotate(classifier, collection, tmp_path / "with", shard_bytes=1000)
    assert contents(tmp_path / "with") == contents(tmp_path / "without")
    assert notes(tmp_path / "with", "_manifest.json") == notes(
        tmp_path / "without", "_manifest.json"
    )
    assert summary.run["rows_per_second"] > 0


@pytest.mark.slow
def test_documents_that_kill_their_workers_become_errors(ray, stumbler, tmp_path):
    import ray as running

    values = texts(0, 60)
    values[25] = values[28] = "DIE"
    write(tmp_path / "in.parquet", pa.table({"text": values}), 10)
    out = tmp_path / "out"
    summary = annotate(
        stumbler, tmp_path / "in.parquet", out, code=CODE, shard_bytes=700, workers=2
    )
    table = read(out)
    assert table["text"].to_pylist() == values
    errors = {n: error for n, error in enumerate(table["error"].to_pylist()) if error}
    why = "killed its worker: out of memory, or a crash in native code"
    assert errors == {25: why, 28: why}
    first = {"rows": 2, "file": "in.parquet", "row": 25}
    assert summary.errors == {"killed its worker": first}
    assert running.is_initialized()


@pytest.mark.slow
def test_a_worker_that_dies_is_one_line_of_what_the_command_says(stumbler, tmp_path):
    values = texts(0, 20)
    values[7] = "DIE"
    write(tmp_path / "in.parquet", pa.table({"text": values}), 10)
    command = ["-m", "spacy", "albert", "annotate", str(stumbler), "in.parquet", "out"]
    ended = subprocess.run(
        [sys.executable, *command, "--code", str(CODE), "--workers", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    why = "killed its worker: out of memory, or a crash in native code"
    assert ended.stderr.count(f"Row 7 of in.parquet {why}. It becomes an error.\n") == 1
    assert ended.stderr.count("A worker died at part-") == 1
    assert "raylet" not in ended.stdout + ended.stderr


@pytest.mark.slow
def test_a_document_that_hangs_becomes_an_error(ray, stumbler, tmp_path):
    values = texts(0, 20)
    values[7] = "HANG"
    write(tmp_path / "in.parquet", pa.table({"text": values}), 10)
    options = {"code": CODE, "shard_bytes": 700, "workers": 1, "stall_minutes": 0.05}
    annotate(stumbler, tmp_path / "in.parquet", tmp_path / "out", **options)
    errors = read(tmp_path / "out")["error"].to_pylist()
    assert errors[7] == "killed its worker: it read nothing more for 3 seconds"
    assert errors.count(None) == 19


def test_workers_that_do_not_fit(ray, pipeline, collection, tmp_path):
    with pytest.raises(JobError, match=r"99 workers of 1 CPUs.*do not fit.*Lower --workers"):
        annotate(pipeline, collection, tmp_path / "out", workers=99)
    with pytest.raises(JobError, match=r"1 CPUs and 0.5 GPUs.*no machine.*and 0 GPUs"):
        annotate(pipeline, collection, tmp_path / "out", gpus_per_worker=0.5)


def test_the_board():
    board = Board()
    board.begin(1, "here:1")
    board.begin(2, "there:2 GPU 0")
    board.take(1, "a")
    board.set("a", 10, 100, 1)
    board.take(2, "b")
    board.mark("b", 5, 9)
    view, ages = board.get()
    assert (view.rows, view.words, view.errors) == (10, 100, 1)
    assert [(w.where, w.shard, w.rows) for w in view.workers] == [
        ("here:1", "a", 10),
        ("there:2 GPU 0", "b", 0),
    ]
    assert ages.keys() == {"a", "b"}
    assert board.marked("b") == (5, 9)
    board.gone(2)
    board.take(1, "b")  # begun again, after its worker died
    view, ages = board.get()
    assert (view.rows, len(view.workers)) == (10, 1)
    assert board.marked("b") is None
    board.set("b", 4, 40, 0)
    board.take(1, "")
    assert board.get()[0][:3] == (14, 140, 1)


def test_a_cluster_that_is_not_there(pipeline, collection, tmp_path, monkeypatch):
    import ray

    def unreachable(**options):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(JobError, match=r"Nobody answers at 127\.0\.0\.1:1 "):
        annotate(pipeline, collection, tmp_path / "out", address="127.0.0.1:1")
    monkeypatch.setattr(ray, "init", unreachable)
    monkeypatch.setattr(pool, "refuse_silence", lambda address: None)
    with pytest.raises(
        JobError, match=r"Cannot reach a Ray cluster at 10\.0\.0\.1:6379: nobody answers"
    ):
        annotate(pipeline, collection, tmp_path / "out", address="10.0.0.1:6379")


def run_until(command: list[str], out: Path, files: int, end: int) -> tuple[int, str]:
    """Start a job, and send it a signal when it has committed some files."""
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while len(state(out)) < files:
            assert driver.poll() is None, driver.stderr.read()
            time.sleep(0.05)
        driver.send_signal(end)
        code = driver.wait(timeout=60)
        # workers notice that their driver is gone, and may finish what they hold
        time.sleep(4 if end == signal.SIGKILL else 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
    return code, driver.stderr.read()


def slow_collection(folder: Path) -> Path:
    for number in range(6):
        table = pa.table({"id": range(number * 20, number * 20 + 20), "text": ["SLOW Obama"] * 20})
        write(folder / f"{number}.parquet", table, 10)
    return folder


def test_a_driver_that_is_killed(
    ray, stumbler, tmp_path, temporary_ray_folder, in_process, monkeypatch
):
    given = slow_collection(tmp_path / "in")
    options = {"code": CODE, "shard_bytes": 100, "workers": 2}
    annotate(stumbler, given, tmp_path / "whole", **options)
    monkeypatch.undo()
    out = tmp_path / "out"
    command = [*COMMAND, str(stumbler), str(given), str(out)]
    command += ["--code", str(CODE), "--shard-bytes", "100", "--workers", "2"]
    code, _ = run_until(command, out, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL
    ready = state(out)
    assert 3 <= len(ready) < 12
    assert not (out / "_SUCCESS").exists()
    annotate(stumbler, given, out, **options)
    assert ready.items() <= state(out).items()
    assert contents(out) == contents(tmp_path / "whole")
    assert not (out / "_tmp").exists()


@pytest.mark.slow
def test_ctrl_c(stumbler, tmp_path, temporary_ray_folder):
    out = tmp_path / "out"
    command = [*COMMAND, str(stumbler), str(slow_collection(tmp_path / "in")), str(out)]
    command += ["--code", str(CODE), "--shard-bytes", "100", "--workers", "1"]
    code, said = run_until(command, out, 2, signal.SIGINT)
    assert code == 130, said
    assert "of 12 shards are ready" in said
    assert "Traceback" not in said
    assert not os.listdir(os.environ["RAY_TMPDIR"])


@pytest.mark.slow
def test_real_texts_and_a_driver_that_is_killed(
    ray, pipeline, shared_data, tmp_path, temporary_ray_folder
):
    """Five million words in more than twenty files with row groups of many sizes."""
    rows, words, number = [], 0, 0
    given = tmp_path / "in"
    for name in ("text_eltec/eltec_eng", "text_wiki_squad/wiki_squad", "text_openstax/openstax"):
        with gzip.open(shared_data / f"{name}.jsonl.gz", "rt", encoding="utf8") as lines:
            for line in lines:
                document = json.loads(line)
                for place, paragraph in enumerate(document["paragraphs"]):
                    rows.append({"id": f"{document['id']}/{place}", "text": paragraph})
                    words += paragraph.count(" ") + 1
                if len(rows) > 3000 + 500 * (number % 7):
                    write(
                        given / f"{number:03}.parquet",
                        pa.Table.from_pylist(rows),
                        100 + 97 * number,
                    )
                    rows, number = [], number + 1
        if words > 6_000_000:
            break
    write(given / "last.parquet", pa.Table.from_pylist(rows), 999)
    assert words > 5_000_000
    assert number > 20
    options = {"shard_bytes": 1 << 20, "workers": 2}
    annotate(pipeline, given, tmp_path / "whole", **options)
    out = tmp_path / "out"
    command = [*COMMAND, str(pipeline), str(given), str(out), "--shard-bytes", str(1 << 20)]
    half = len(state(tmp_path / "whole")) // 2
    run_until([*command, "--workers", "2"], out, half, signal.SIGKILL)
    ready = state(out)
    annotate(pipeline, given, out, **options)
    assert ready.items() <= state(out).items()
    done = state(out)
    annotate(pipeline, given, out, **options)
    assert state(out) == done
    assert contents(out) == contents(tmp_path / "whole")
    expected = pa.concat_tables(pq.read_table(path) for path in sorted(given.glob("*.parquet")))
    assert read(out).select(["id", "text"]).equals(expected)


def test_native_errors_stay_visible_outside_init(capfd):
    with pool.without_stderr():
        os.write(2, b"hidden")
    os.write(2, b"shown")
    assert capfd.readouterr().err == "shown"
