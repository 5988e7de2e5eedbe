"""Ray: workers on one machine or on many, and a board that knows what each of them does."""

import contextlib
import errno
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import JobError, missing_extra
from .plan import Shard
from .schedule import Event, Schedule

if TYPE_CHECKING:
    from .worker import Attempt, Job

POLL_SECONDS = 0.5
#: For how long what the board said is believed.
STALE_SECONDS = 10
#: How long a cluster may take to answer.
ANSWER_SECONDS = 10
#: Workers that share a GPU, at most, and the memory that each of them needs of it.
PER_GPU, GPU_BYTES = 8, 6 << 30
#: What a machine says that has no room on its disk, or does not let anybody write there.
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Resources(NamedTuple):
    """What a job runs on.

    address (str | None): A Ray cluster; None for one of the job's own, unless RAY_ADDRESS is set.
    workers (int | None): How many pipelines work at once, at most; None for as many as fit.
    min_workers (int): How many are enough.
    wait_seconds (float): For how long the job goes on with fewer.
    cpus (int): The CPUs, and so the threads, of a worker.
    gpus (float | None): The share of a GPU that a worker has; None for what suits the GPUs of the
        cluster, if there are any.
    stall_seconds (float): A worker of which nothing is heard for so long is taken to hang.
    """

    address: str | None = None
    workers: int | None = None
    min_workers: int = 1
    wait_seconds: float = 600
    cpus: int = 1
    gpus: float | None = None
    stall_seconds: float = 3600


class WorkerState(NamedTuple):
    """What a worker does: its machine, the shard it has and how many rows of it are done."""

    where: str
    shard: str
    rows: int


class View(NamedTuple):
    """How far a run is: rows, words and errors so far, the seconds since the first worker was
    ready, and what the workers do."""

    rows: int = 0
    words: int = 0
    errors: int = 0
    seconds: float = 0.0
    workers: tuple[WorkerState, ...] = ()


class Board:
    """An actor that workers tell what they do."""

    def __init__(self) -> None:
        self.shards: dict[str, tuple[int, int, int]] = {}
        self.total = (0, 0, 0)
        self.marks: dict[str, tuple[int, int]] = {}
        self.heard: dict[str, float] = {}
        self.doing: dict[int, tuple[str, str]] = {}
        self.began: float | None = None

    def begin(self, worker: int, where: str) -> None:
        """Know a worker, which has loaded its pipeline. The first one starts the clock."""
        self.began = self.began or time.monotonic()
        self.doing[worker] = where, ""

    def take(self, worker: int, shard: str) -> None:
        """Know that a worker begins with a shard, or with none. What others did of it does not
        count.
        """
        self.doing[worker] = self.doing[worker][0], shard
        if shard:
            self.marks.pop(shard, None)
            self.set(shard, 0, 0, 0)

    def set(self, shard: str, rows: int, words: int, errors: int) -> None:
        """Know how many rows, words and errors of a shard are done."""
        counts, before = (rows, words, errors), self.shards.get(shard, (0, 0, 0))
        first, second, third = (t + c - b for t, c, b in zip(self.total, counts, before))
        self.total = first, second, third
        self.shards[shard] = counts
        self.heard[shard] = time.monotonic()

    def mark(self, shard: str, first: int, last: int) -> None:
        """Know which rows are going to be read."""
        self.marks[shard] = first, last
        self.heard[shard] = time.monotonic()

    def gone(self, worker: int) -> None:
        """Forget a worker."""
        self.doing.pop(worker, None)

    def marked(self, shard: str) -> tuple[int, int] | None:
        """Tell which rows were going to be read last."""
        return self.marks.get(shard)

    def get(self) -> tuple[View, dict[str, float]]:
        """Tell how far the run is, and how many seconds ago each shard at work was heard of."""
        now = time.monotonic()
        seconds = now - self.began if self.began else 0.0
        states = tuple(
            WorkerState(where, shard, self.shards.get(shard, (0,))[0])
            for where, shard in self.doing.values()
        )
        ages = {s: now - self.heard[s] for _, s in self.doing.values() if s in self.heard}
        return View(*self.total, seconds, states), ages


class RayWorker:
    """An actor of the pool: a worker that says of each shard what went wrong, if anything.

    number (int): Its number.
    threads (int): The threads that it may use.
    board (Any): The handle of the `Board` actor.
    job (Job): The job.
    """

    def __init__(self, number: int, threads: int, board: Any, job: "Job") -> None:
        import ray

        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        if not gpus:  # what the machine has belongs to others
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        with contextlib.suppress(ImportError):
            import torch

            torch.set_num_threads(threads)
        from .metrics import counters
        from .worker import Worker

        count = counters(labels(job))

        def report(shard: str, rows: int, words: int, errors: int) -> None:
            board.set.remote(shard, rows, words, errors)
            count(shard, rows, words, errors)

        def mark(shard: str, first: int, last: int) -> None:
            ray.get(board.mark.remote(shard, first, last))  # known, before it may be too late

        self.number, self.board = number, board
        self.worker = Worker(job, report, mark)
        where = f"{ray.util.get_node_ip_address()}:{os.getpid()}"
        board.begin.remote(number, where + (f" GPU {gpus[0]}" if gpus else ""))

    def ready(self) -> None:
        """Answer when the pipeline has been loaded."""

    def annotate(self, shard: Shard, attempt: "Attempt") -> tuple[str, bool] | None:
        """Annotate a shard.

        shard (Shard): The shard.
        attempt (Attempt): How.
        RETURNS (tuple[str, bool] | None): What went wrong, if anything, and whether it would go
            wrong for everybody else, too.
        """
        self.board.take.remote(self.number, shard.name)
        try:
            self.worker.annotate(shard, attempt)
        except Exception as failure:  # the other shards go on
            lasting = isinstance(failure, OSError) and failure.errno in LASTING
            return f"{type(failure).__name__}: {failure}", lasting
        finally:
            self.board.take.remote(self.number, "")
        return None


class RayPool:
    """Workers as Ray actors."""

    def __init__(self, job: "Job", cpus: int, gpus: float) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.ray = ray
        self.job, self.cpus, self.gpus = ray.put(job), cpus, gpus
        self.board: Any = (
            ray.remote(num_cpus=0)(Board)
            .options(
                # with this process, so that it does not go away with a machine of workers
                scheduling_strategy=NodeAffinitySchedulingStrategy(
                    ray.get_runtime_context().get_node_id(), soft=False
                )
            )
            .remote()
        )
        self.actors: dict[int, Any] = {}
        self.awaited: dict[Any, tuple[int, str]] = {}  # by what Ray will answer with
        self.number = 0
        self.ages: dict[str, tuple[float, float]] = {}
        self.looked = self.clock()

    def start(self) -> int:
        self.number += 1
        actor: Any = self.ray.remote(RayWorker)
        self.actors[self.number] = actor = actor.options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        ).remote(self.number, self.cpus, self.board, self.job)
        self.awaited[actor.ready.remote()] = self.number, "ready"
        return self.number

    def give(self, worker: int, shard: Shard, attempt: "Attempt") -> None:
        self.ages.pop(shard.name, None)
        answer = self.actors[worker].annotate.remote(shard, attempt)
        self.awaited[answer] = worker, "done"

    def stop(self, worker: int) -> None:
        self.ray.kill(self.actors.pop(worker))
        self.awaited = {ref: what for ref, what in self.awaited.items() if what[0] != worker}
        self.board.gone.remote(worker)

    def events(self, seconds: float) -> list[Event]:
        if not self.awaited:
            time.sleep(seconds)
            return []
        first, _ = self.ray.wait(list(self.awaited), timeout=seconds)
        if not first:
            return []
        answered, _ = self.ray.wait(list(self.awaited), num_returns=len(self.awaited), timeout=0)
        return [self._event(answer) for answer in answered]

    def _event(self, answer: Any) -> Event:
        worker, kind = self.awaited.pop(answer)
        try:
            failure = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            self.stop(worker)
            return Event(worker, *cause_of_death(error))
        return Event(worker, "failed", *failure) if failure else Event(worker, kind)

    def marked(self, shard: str) -> tuple[int, int] | None:
        return self.ray.get(self.board.marked.remote(shard))

    def heard(self, shard: str) -> float:
        if self.clock() - self.looked > STALE_SECONDS:  # the view does not ask, held up by Ctrl-S
            self.look()
        age, when = self.ages.get(shard, (0.0, self.clock()))
        return when - age

    def clock(self) -> float:
        return time.monotonic()

    def look(self) -> View:
        """Ask the board how far the run is."""
        view, ages = self.ray.get(self.board.get.remote())
        self.looked = self.clock()
        self.ages = {shard: (age, self.looked) for shard, age in ages.items()}
        return view


def cause_of_death(error: BaseException) -> tuple[str, str]:
    """Tell why a worker is no more.

    error (BaseException): What Ray raised.
    RETURNS (tuple[str, str]): "stopped" if its machine is gone or out of reach, else "died"; and
        why.
    """
    import ray.exceptions

    text = str(error)
    lost = isinstance(error, ray.exceptions.ActorUnavailableError | ray.exceptions.NodeDiedError)
    if lost or getattr(error, "preempted", False) or "node has died" in text:
        return "stopped", "its machine is gone"
    if getattr(error, "actor_init_failed", False):
        return "died", last_line(text)
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "low on memory" in text:
        return "died", "out of memory"
    return "died", "out of memory, or a crash in native code"


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else text


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
    address = address_of(resources)
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise JobError(f"Cannot reach a Ray cluster at {address}: {error}") from error
        try:
            with without_deaths():
                yield
        finally:
            ray.shutdown()
        return
    # native code reports every actor that may be restarted as an error; real ones are exceptions
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # sockets have long names and names of sockets have a limit, so the folder is near the root
    folder = tempfile.mkdtemp(prefix="albert-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
    token = Path(folder, "token")
    token.write_text(password())
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
        with without_deaths():
            yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        if os.environ["RAY_AUTH_TOKEN_PATH"] == str(token):
            del os.environ["RAY_AUTH_TOKEN_PATH"]


@cache  # Ray remembers the first one of a process
def password() -> str:
    return secrets.token_hex()


@contextlib.contextmanager
def without_deaths() -> Iterator[None]:
    """Keep Ray from printing ten lines to standard output for each worker that dies, as it does
    even when logs are not wanted: the schedule says in one line what follows from it.
    """
    from ray._private import worker

    before = getattr(worker, "_worker_logs_enabled", True)
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = before


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


def address_of(resources: Resources) -> str | None:
    """The address of the cluster to use, if there is one."""
    address = resources.address or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address


def refuse_silence(resources: Resources) -> None:
    """See to it that somebody answers at the address of a cluster: Ray would ask for minutes.

    resources (Resources): What the job runs on.
    RAISES (JobError): If nobody does.
    """
    address = address_of(resources) or ""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # no cluster, or "auto", or something only Ray understands
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        raise JobError(
            f"Nobody answers at {address} ({error}). Is the cluster up, and is this the address "
            "that `ray status` shows? For one of the job's own, leave out --address."
        ) from error


class Share(NamedTuple):
    """How a cluster is shared out: the workers, and the CPUs and the part of a GPU of each."""

    workers: int
    cpus: int
    gpus: float


def share_out(
    nodes: Sequence[dict[str, float]], wish: Resources, gpu_bytes: int | None, grows: bool
) -> Share:
    """Decide how many workers there are and what each of them has.

    Where there are GPUs, they do the work, and each is shared by as many workers as the CPUs beside
    it can feed and its memory can hold. Machines without a GPU have no part in it then, unless
    `gpus` is 0.

    nodes (Sequence[dict[str, float]]): The resources of each machine, as Ray names them.
    wish (Resources): What is wished for.
    gpu_bytes (int | None): The memory of a GPU, if known.
    grows (bool): Whether there may be more machines later, and so more workers than fit now.
    RETURNS (Share): The decision.
    RAISES (JobError): If not even one worker fits.
    """
    with_gpus = [node for node in nodes if node.get("GPU", 0) > 0]
    gpus = wish.gpus
    if gpus is None:
        gpus = 0.0
        if with_gpus:
            fed = min(node.get("CPU", 0) / wish.cpus / node["GPU"] for node in with_gpus)
            held = gpu_bytes // GPU_BYTES if gpu_bytes else PER_GPU
            gpus = 1 / max(1, min(int(fed), held, PER_GPU))

    def fitting(node: dict[str, float]) -> int:
        cpus = int(node.get("CPU", 0) // wish.cpus)
        if not gpus:
            return cpus
        whole = int(node.get("GPU", 0) + 1e-9)
        per_gpu = int(1 / gpus + 1e-9)  # a worker never has parts of two GPUs
        return min(cpus, whole * per_gpu if gpus < 1 else int(whole / gpus))

    size = sum(map(fitting, nodes))
    if not size and not (grows and wish.workers):
        most = {kind: max((n.get(kind, 0) for n in nodes), default=0) for kind in ("CPU", "GPU")}
        raise JobError(
            f"A worker needs {wish.cpus} CPUs and {gpus:g} GPUs on one machine; no machine of this "
            f"Ray has more than {most['CPU']:g} CPUs and {most['GPU']:g} GPUs. Lower "
            "--cpus-per-worker or --gpus-per-worker."
        )
    wanted = wish.workers or wish.min_workers
    if wanted > size and not grows:
        raise JobError(
            f"{wanted} workers of {wish.cpus} CPUs and {gpus:g} GPUs do not fit: this Ray has room "
            f"for {size}. Lower {'--workers' if wish.workers else '--min-workers'}."
        )
    return Share(wish.workers or max(size, wanted), wish.cpus, gpus)


def labels(job: "Job") -> dict[str, str]:
    """What tells a job from others in Prometheus."""
    return {"fingerprint": job.job, "pipeline": Path(job.pipeline).name}


def gpu_memory() -> int | None:
    """The memory of the GPU of a worker, in bytes, if there really is one."""
    import torch

    return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None


def run_shards(
    work: Sequence[tuple[Shard, "Attempt"]],
    job: "Job",
    resources: Resources,
    show: Callable[[View], None],
    tell: Callable[[str], None],
) -> Generator[tuple[str, str | None], None, None]:
    """Have shards annotated.

    work (Sequence[tuple[Shard, Attempt]]): The shards, and how to begin with each.
    job (Job): What the workers must know.
    resources (Resources): What the job runs on.
    show (Callable[[View], None]): Told now and then how far the run is.
    tell (Callable[[str], None]): Told what goes wrong on the way.
    YIELDS (tuple[str, str | None]): The name of a shard, and what went wrong with it, if anything.
    RAISES (JobError): If no worker fits, or too few can be started, or none can go on.
    """
    if not work:
        return
    with connected(resources):
        import ray

        from .metrics import gauges

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        memory = None
        if resources.gpus is None and any(node.get("GPU") for node in nodes):
            memory = ray.get(ray.remote(num_gpus=0.01)(gpu_memory).remote())
        share = share_out(nodes, resources, memory, grows=bool(address_of(resources)))
        pool = RayPool(job, share.cpus, share.gpus)
        schedule = Schedule(
            pool,
            share.workers,
            resources.stall_seconds,
            resources.min_workers,
            resources.wait_seconds,
            tell,
        )
        measure = gauges(labels(job))

        def look() -> None:
            view = pool.look()
            left = len(schedule.waiting) + len(schedule.busy)
            busy = sum(bool(worker.shard) for worker in view.workers)
            measure(
                shards_done=len(work) - left,
                shards_left=left,
                workers=len(view.workers),
                workers_busy=busy,
            )
            show(view)

        with interruptible(), polling(look):
            yield from schedule.run(work)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM, by which clusters end a job, do what Ctrl-C does. Ray has a handler of its own,
    which ends the process with a trace.
    """

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
