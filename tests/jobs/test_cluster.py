"""Jobs on several Ray nodes of this machine, some of them with GPUs that exist on paper."""

import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from tables import CODE, read, write

from spacy_albert_jobs import annotate, progress
from spacy_albert_jobs.errors import JobError
from spacy_albert_jobs.pool import PER_GPU, RayPool, Resources, View, share_out

GPU_NODE, CPU_NODE = {"CPU": 4.0, "GPU": 1.0}, {"CPU": 16.0}
GIB = 1 << 30


@pytest.mark.parametrize(
    ("nodes", "wish", "memory", "workers", "gpus"),
    [
        ([CPU_NODE], {}, None, 16, 0.0),
        ([CPU_NODE, CPU_NODE], {"cpus": 5}, None, 6, 0.0),
        ([CPU_NODE], {"workers": 3}, None, 3, 0.0),
        ([GPU_NODE], {}, None, 4, 0.25),
        ([GPU_NODE], {}, 13 * GIB, 2, 0.5),
        ([GPU_NODE], {}, 4 * GIB, 1, 1.0),
        ([GPU_NODE], {"cpus": 2}, 80 * GIB, 2, 0.5),
        ([{"CPU": 64.0, "GPU": 2.0}], {}, 80 * GIB, 16, 1 / PER_GPU),
        ([GPU_NODE, GPU_NODE, CPU_NODE], {}, None, 8, 0.25),
        ([GPU_NODE, CPU_NODE], {"gpus": 0}, None, 20, 0.0),
        ([GPU_NODE, CPU_NODE], {"gpus": 0.3}, None, 3, 0.3),
        ([{"CPU": 8.0, "GPU": 4.0}], {"gpus": 2}, None, 2, 2),
    ],
)
def test_how_a_cluster_is_shared_out(nodes, wish, memory, workers, gpus):
    share = share_out(nodes, Resources(**wish), memory, grows=False)
    assert (share.workers, share.gpus) == (workers, pytest.approx(gpus))


def test_a_worker_that_fits_on_no_machine():
    with pytest.raises(JobError, match="needs 5 CPUs and 1 GPUs on one machine; no machine"):
        share_out([GPU_NODE, CPU_NODE], Resources(cpus=5, gpus=1), None, grows=False)


def test_a_cluster_may_grow():
    empty = [{"CPU": 0.0}]
    assert share_out(empty, Resources(workers=50), None, grows=True).workers == 50
    with pytest.raises(JobError, match="1 CPUs"):
        share_out(empty, Resources(workers=50), None, grows=False)
    with pytest.raises(JobError, match="1 CPUs"):
        share_out(empty, Resources(), None, grows=True)
    assert share_out([CPU_NODE], Resources(min_workers=50), None, grows=True).workers == 50
    with pytest.raises(JobError, match=r"50 workers .* do not fit.* Lower --min-workers"):
        share_out([CPU_NODE], Resources(min_workers=50), None, grows=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for workers, and two nodes, each with two CPUs and a GPU on paper."""
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=2, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_the_board_is_where_the_driver_is(cluster):
    """Or else it would go away with any machine, and the job with it."""
    import ray

    def where(board: Any = None) -> str:
        return ray.get_runtime_context().get_node_id()

    boards = [RayPool(None, 1, 0.0).board for _ in range(6)]  # type: ignore[arg-type]
    found = ray.get([board.__ray_call__.remote(where) for board in boards])
    assert found == [where()] * 6


@pytest.mark.slow
def test_workers_share_gpus_and_survive_the_loss_of_a_node(
    cluster, stumbler, tmp_path, monkeypatch
):
    for number in range(8):
        table = pa.table(
            {"id": range(number * 250, number * 250 + 250), "text": ["SLOW Obama"] * 250}
        )
        write(tmp_path / "in" / f"{number}.parquet", table, 50)
    seen: list[View] = []
    show = progress.Progress.show

    def look(self: progress.Progress, view: View) -> None:
        seen.append(view)
        show(self, view)

    monkeypatch.setattr(progress.Progress, "show", look)
    ended = threading.Event()
    lost: list[Any] = []

    def lose() -> None:
        while not (seen and len(seen[-1].workers) == 4 and any(w.rows for w in seen[-1].workers)):
            if ended.wait(0.1):
                return
        lost.append(next(n for n in cluster.list_all_nodes() if n != cluster.head_node))
        cluster.remove_node(lost[0], allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        annotate(stumbler, tmp_path / "in", tmp_path / "out", code=CODE, shard_bytes=100)
    finally:
        ended.set()
        thread.join()
    assert lost
    # Two on each GPU, as there are two CPUs beside it; after the loss, those of one are left
    assert max(len(view.workers) for view in seen) == 4
    assert all(" GPU " in worker.where for view in seen for worker in view.workers)
    found = read(tmp_path / "out")
    assert found["id"].to_pylist() == list(range(2000))
    assert found["error"].null_count == 2000
    assert [[e["text"] for e in ents] for ents in found["ents"].to_pylist()] == [["Obama"]] * 2000
