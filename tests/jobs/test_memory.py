"""Memory does not grow with the collection, nor with the shard; driver and worker in a process."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from tables import write

CHILD = """
import json, sys
from spacy_albert_jobs import annotate, run, worker as workers
from spacy_albert_jobs.worker import Worker

workers.ROW_GROUP_BYTES = 1 << 20  # which the smaller of both fills, too

def run_shards(work, job, resources, show, tell):
    worker = Worker(job)
    for shard, attempt in work:
        worker.annotate(shard, attempt)
        yield shard.name, None

run.run_shards = run_shards
annotate(*sys.argv[1:4], shard_bytes=int(sys.argv[4]), quiet=True)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps(int(status["VmHWM"].split()[0]) / 1024))
"""


def peak_mb(pipeline: Path, source: Path, output: Path, shard_bytes: int) -> float:
    command = [sys.executable, "-c", CHILD, *map(str, (pipeline, source, output, shard_bytes))]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
@pytest.mark.parametrize("shard_bytes", [1 << 20, 1 << 30], ids=["many shards", "one large shard"])
def test_ten_times_the_rows_take_no_more_memory(pipeline, tmp_path, shard_bytes):
    peaks = []
    for times in (1, 10):
        folder = tmp_path / str(times)
        rows = 8_000 * times
        # every row has words of its own, which spaCy would keep if it were let
        values = [f"Obama met a{i} b{i} c{i} in Paris. " * 4 for i in range(rows)]
        write(folder / "in.parquet", pa.table({"id": range(rows), "text": values}), rows)
        del values
        peaks.append(peak_mb(pipeline, folder / "in.parquet", folder / "out", shard_bytes))
    assert peaks[1] < 1.05 * peaks[0]
