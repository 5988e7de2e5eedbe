"""Metrics: what they count, that they hurt nobody, and that Ray really exports them."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from typing import ClassVar

import pyarrow as pa
import pytest
import ray.util.metrics
from hypothesis import given
from hypothesis import strategies as st
from tables import texts, write

from spacy_albert_jobs.metrics import GAUGES, counters, gauges


class Recorded:
    """Stands for a metric of Ray, and is as strict."""

    values: ClassVar = Counter()
    seen: ClassVar = []

    def __init__(self, name, description, tag_keys=(), boundaries=(1,)):
        assert description
        assert all(boundary > 0 for boundary in boundaries)
        self.name, self.keys = name, tag_keys

    def set_default_tags(self, tags):
        assert set(tags) == set(self.keys)
        self.tags = tags
        return self

    def inc(self, value):
        if value <= 0:
            raise ValueError("a counter never goes back")
        self.values[self.name] += value

    def set(self, value):
        self.values[self.name] = value

    def observe(self, value):
        self.seen.append(value)


class Failing:
    def __init__(self, *args, **options):
        raise RuntimeError("no metrics today")


class FailingLater(Recorded):
    def inc(self, value):
        raise RuntimeError("no metrics any more")

    set = observe = inc


def metrics_are(patch: pytest.MonkeyPatch, kind: type) -> None:
    for name in ("Counter", "Gauge", "Histogram"):
        patch.setattr(ray.util.metrics, name, kind)


attempts = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20)


@given(attempts)
def test_counters_never_go_back(attempts):
    """Whatever shards a worker begins, leaves and begins again, all that it reads counts."""
    with pytest.MonkeyPatch.context() as patch:
        metrics_are(patch, Recorded)
        patch.setattr(Recorded, "values", Counter())
        times = iter(range(10_000))
        patch.setattr(Recorded, "seen", [])
        count = counters({"fingerprint": "f"}, lambda: next(times))
        total = batches = 0
        for number, size in attempts:
            done = 0
            for batch in range(size):
                done += 1 + batch % (2 + number)  # a shard has the same batches whenever it is read
                count(f"part-{number}", done, 10 * done, 0)
                batches += 1
            total += done
        names = ("spacy_albert_rows", "spacy_albert_words", "spacy_albert_errors")
        assert [Recorded.values[name] for name in names] == [total, 10 * total, 0]
        assert Recorded.seen == [1] * max(batches - 1, 0)


def test_gauges(monkeypatch):
    metrics_are(monkeypatch, Recorded)
    monkeypatch.setattr(Recorded, "values", Counter())
    tell = gauges({"fingerprint": "f", "pipeline": "p"})
    tell(shards_done=3, shards_left=4)
    tell(shards_done=4, shards_left=3, workers=2, workers_busy=1)
    assert list(Recorded.values.values()) == [4, 3, 2, 1]
    assert set(Recorded.values) == {f"spacy_albert_{name}" for name in GAUGES}


@pytest.mark.parametrize("kind", [Failing, FailingLater])
def test_metrics_that_fail_hurt_nobody(monkeypatch, kind):
    metrics_are(monkeypatch, kind)
    count, tell = counters({"fingerprint": "f"}), gauges({"fingerprint": "f"})
    for rows in (1, 2, 1):
        count("part-0", rows, rows, rows)
        tell(workers=rows, unknown=1)


def test_a_ray_without_metrics(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.util.metrics", None)
    counters({})("part-0", 1, 1, 1)
    gauges({})(workers=1)


JOB = """
import sys, time, urllib.request
import ray
from spacy_albert_jobs import annotate
from spacy_albert_jobs.metrics import gauges

port, pipeline, given, out, folder = sys.argv[1:]
ray.init(
    address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
    _metrics_export_port=int(port), _temp_dir=folder, object_store_memory=128 << 20,
    _system_config={"metrics_report_interval_ms": 1000},
)
summary = annotate(pipeline, given, out, workers=2, shard_bytes=1000, quiet=True)
tell, end, page = gauges({"fingerprint": "from a driver"}), time.monotonic() + 60, ""
while time.monotonic() < end and not ("from a driver" in page and "_words_total{" in page):
    tell(shards_done=7, shards_left=0, workers=2, workers_busy=1)
    time.sleep(3)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        page = answer.read().decode()
print(summary.words, page, sep="\\n")
"""


@pytest.mark.slow
def test_ray_exports_them(pipeline, tmp_path):
    for module in ("aiohttp", "opentelemetry", "prometheus_client"):
        if not importlib.util.find_spec(module):
            pytest.skip(f"Ray exports metrics with ray[default], and there is no {module}")
    given = write(tmp_path / "in.parquet", pa.table({"text": [*texts(0, 400), None]}), 40)
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-c", JOB, str(free_port()), pipeline, given, tmp_path / "out"]
        environment = {**os.environ, "RAY_AUTH_TOKEN": "0" * 64}
        done = subprocess.run(
            [*map(str, command), folder], capture_output=True, text=True, env=environment
        )
    assert done.returncode == 0, done.stderr
    values: Counter = Counter()
    for name, value in re.findall(r"(?m)^ray_spacy_albert_(\w+){.*} (\S+)$", done.stdout):
        values[name] += float(value)
    assert values["rows_total"] == 401
    assert values["words_total"] == int(done.stdout.split()[0]) > 4000
    assert values["errors_total"] == 1
    assert 1 <= values["batch_seconds_count"] < 401
    for name in GAUGES:
        assert re.search(
            rf'ray_spacy_albert_{name}{{.*fingerprint="from a driver".*}} ', done.stdout
        )


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
