"""Ray: a pool of workers, each with a pipeline of its own, and how far they are."""

import contextlib
import json
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import JobError, missing_extra
from .plan import Shard

if TYPE_CHECKING:
    from .worker import Job

#: How long the first workers may take to start and load the pipeline.
START_SECONDS = 600
POLL_SECONDS = 0.5


class Resources(NamedTuple):
    """What a job runs on.

    address (str | None): A Ray cluster; None for one of the job's own, unless RAY_ADDRESS is set.
    workers (int | None): How many pipelines work at once; None for as many as fit.
    cpus (int): The CPUs, and so the threads, of a worker.
    gpus (float): The share of a GPU that a worker has.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0


class Counts:
    """An actor that knows how far the workers are."""

    def __init__(self) -> None:
        self.shards: dict[str, tuple[int, ...]] = {}
        self.total: tuple[int, ...] = (0, 0, 0)
        self.began: float | None = None

    def begin(self) -> None:
        """Start the clock, when the first worker has loaded its pipeline."""
        self.began = self.began or time.monotonic()

    def set(self, shard: str, *counts: int) -> None:
        """Take the rows, words and errors of a shard so far. A shard that is begun again, after
        its worker died, counts once."""
        before = self.shards.get(shard, (0, 0, 0))
        self.total = tuple(t + c - b for t, c, b in zip(self.total, counts, before))
        self.shards[shard] = counts

    def get(self) -> tuple[float, ...]:
        """Tell the rows, words, errors and seconds so far."""
        return (*self.total, time.monotonic() - self.began if self.began else 0.0)


class Worker:
    """An actor of the pool: an annotator that says of each shard what went wrong, if anything.

    threads (int): The threads that it may use.
    counts (Any): The handle of the `Counts` actor.
    job (Job): The job.
    """

    def __init__(self, threads: int, counts: Any, job: "Job") -> None:
        with contextlib.suppress(ImportError):
            import torch

            torch.set_num_threads(threads)
        from .worker import Annotator

        self.annotator = Annotator(job, report=counts.set.remote)
        counts.begin.remote()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"answer": [self.answer(Shard.from_json(json.loads(s))) for s in batch["shard"]]}

    def answer(self, shard: Shard) -> str:
        error = None
        try:
            self.annotator.annotate(shard)
        except Exception as failure:  # the other shards go on
            error = f"{type(failure).__name__}: {failure}"
        return json.dumps([shard.name, error])


@contextlib.contextmanager
def connected(resources: Resources) -> Iterator[None]:
    """Use the Ray of this process, a cluster, or a Ray of our own that ends with the block.

    resources (Resources): What the job runs on.
    RAISES (JobError): If the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise missing_extra(error) from error
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = resources.address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise JobError(f"Cannot reach a Ray cluster at {address}: {error}") from error
        try:
            yield
        finally:
            ray.shutdown()
        return
    # native code reports every actor that may be restarted as an error; real ones are exceptions
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # sockets have long names and names of sockets have a limit, so the folder is near the root
    folder = tempfile.mkdtemp(prefix="albert-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
    token = Path(folder, "token")
    token.write_text(secrets.token_hex())
    # or else Ray writes one for everybody to read into the home, which may not even be writable
    os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(token))
    try:
        with without_stderr():
            # plain init() would join whatever cluster was last started on this machine
            ray.init(
                address="local",
                num_cpus=max((resources.workers or 0) * resources.cpus, cpu_count()),
                include_dashboard=False,
                object_store_memory=128 << 20,
                _temp_dir=folder,
                **quiet,
            )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        if os.environ["RAY_AUTH_TOKEN_PATH"] == str(token):
            del os.environ["RAY_AUTH_TOKEN_PATH"]


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
    """Keep native code from writing to standard error: it announces its log level there."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def cpu_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pool_size(available: dict[str, float], resources: Resources) -> int:
    """Decide how many workers to start.

    available (dict[str, float]): The resources of the cluster.
    resources (Resources): What is wished for.
    RETURNS (int): The number of workers.
    RAISES (JobError): If not even one fits: Ray would wait for it without end.
    """
    cpus, gpus = available.get("CPU", 0), available.get("GPU", 0)
    fitting = int(cpus // resources.cpus)
    if resources.gpus:
        fitting = min(fitting, int(gpus / resources.gpus + 1e-9))
    if not fitting:
        raise JobError(
            f"A worker needs {resources.cpus} CPUs and {resources.gpus:g} GPUs; Ray has {cpus:g} "
            f"CPUs and {gpus:g} GPUs. Lower --cpus-per-worker or --gpus-per-worker."
        )
    if resources.workers and resources.workers > fitting:
        raise JobError(
            f"{resources.workers} workers do not fit: Ray has {cpus:g} CPUs and {gpus:g} GPUs, "
            f"enough for {fitting}. Lower --workers."
        )
    return resources.workers or fitting


def run_shards(
    shards: Sequence[Shard],
    job: "Job",
    resources: Resources,
    show: Callable[[int, int, int, float], None],
) -> Generator[tuple[str, str | None], None, None]:
    """Have shards annotated.

    shards (Sequence[Shard]): The shards. The largest are begun first, so that no long one is last.
    job (Job): What the workers must know.
    resources (Resources): What the job runs on.
    show (Callable[[int, int, int, float], None]): Told now and then the rows, words and errors so
        far, and the seconds since the first worker was ready.
    YIELDS (tuple[str, str | None]): The name of a shard, and what went wrong with it, if anything.
    RAISES (JobError): If no worker fits, or none can be started.
    """
    if not shards:
        return
    with connected(resources):
        import ray
        from ray.data import ActorPoolStrategy, DataContext
        from ray.exceptions import RayError

        # its errors come as exceptions
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.wait_for_min_actors_s = START_SECONDS
        # a shard may take as long as it takes
        context.execution_no_progress_timeout_s = -1

        size = min(pool_size(ray.cluster_resources(), resources), len(shards))
        counts: Any = ray.remote(num_cpus=0)(Counts)
        counts = counts.remote()
        largest_first = sorted(shards, key=lambda shard: -shard.size)
        with DataContext.current(context), polling(lambda: show(*ray.get(counts.get.remote()))):
            answers = ray.data.from_items(
                [{"shard": json.dumps(shard)} for shard in largest_first],
                override_num_blocks=len(shards),
            ).map_batches(
                Worker,
                batch_size=1,
                # one shard at a time: a queue before one worker is work that another could do
                compute=ActorPoolStrategy(
                    min_size=1, max_size=size, initial_size=size, max_tasks_in_flight_per_actor=1
                ),
                fn_constructor_args=(resources.cpus, counts, job),
                num_cpus=resources.cpus,
                num_gpus=resources.gpus or None,
            )
            try:
                for answer in answers.iter_rows():
                    name, error = json.loads(answer["answer"])
                    yield name, error
            except RayError as error:
                raise JobError(f"The workers could not go on: {root_cause(error)}") from error


def root_cause(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def polling(look: Callable[[], None]) -> Iterator[None]:
    """Call a function again and again while the block runs, and once at its end.

    look (Callable[[], None]): The function.
    """
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(POLL_SECONDS):
            # the counts are for the eye; the job can do without
            with contextlib.suppress(Exception):
                look()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
        with contextlib.suppress(Exception):
            look()
    finally:
        ended.set()
        thread.join()
