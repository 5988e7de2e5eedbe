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
from spacy_albert_jobs.pool import Counts, Resources, connected, pool_size

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
def test_a_document_that_kills_its_worker_costs_its_shard_only(ray, stumbler, tmp_path):
    import ray as running

    values = texts(0, 60)
    values[25] = "DIE"
    write(tmp_path / "in.parquet", pa.table({"text": values}), 10)
    out = tmp_path / "out"
    with pytest.raises(
        JobError, match=r"(?s)1 of 6 shards.*row 20.*its worker died 3 times.*5 are r"
    ):
        annotate(stumbler, tmp_path / "in.parquet", out, code=CODE, shard_bytes=1, workers=2)
    assert len(state(out)) == 5
    assert not (out / "_SUCCESS").exists()
    assert running.is_initialized()


def test_workers_that_do_not_fit(ray, pipeline, collection, tmp_path):
    with pytest.raises(JobError, match=r"99 workers do not fit.*Lower --workers"):
        annotate(pipeline, collection, tmp_path / "out", workers=99)
    with pytest.raises(JobError, match=r"1 CPUs and 0.5 GPUs; Ray has \d+ CPUs and 0 GPUs"):
        annotate(pipeline, collection, tmp_path / "out", gpus_per_worker=0.5)


def test_pool_size():
    available = {"CPU": 16.0, "GPU": 2.0}
    assert pool_size(available, Resources()) == 16
    assert pool_size(available, Resources(cpus=4)) == 4
    assert pool_size(available, Resources(gpus=0.1)) == 16
    assert pool_size(available, Resources(gpus=0.25)) == 8
    assert pool_size(available, Resources(gpus=1)) == 2
    assert pool_size(available, Resources(workers=3)) == 3


def test_counts_of_a_shard_that_is_begun_again():
    counts = Counts()
    counts.begin()
    counts.set("a", 10, 100, 1)
    counts.set("b", 5, 50, 0)
    counts.set("a", 4, 40, 0)
    rows, words, errors, seconds = counts.get()
    assert (rows, words, errors) == (9, 90, 0)
    assert seconds >= 0


def test_a_cluster_that_is_not_there(pipeline, collection, tmp_path, monkeypatch):
    import ray

    def unreachable(**options):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", unreachable)
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
    options = {"code": CODE, "shard_bytes": 1, "workers": 2}
    annotate(stumbler, given, tmp_path / "whole", **options)
    monkeypatch.undo()
    out = tmp_path / "out"
    command = [*COMMAND, str(stumbler), str(given), str(out)]
    command += ["--code", str(CODE), "--shard-bytes", "1", "--workers", "2"]
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
    command += ["--code", str(CODE), "--shard-bytes", "1", "--workers", "1"]
    code, said = run_until(command, out, 2, signal.SIGINT)
    assert code == 130, said
    assert "of 12 shards ready" in said
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
