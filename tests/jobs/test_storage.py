"""Files that appear whole or not at all, on disks and in object stores that fail now and then."""

import http.client
import os
import pickle
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.fs import FileSystem
from tables import read, state, texts, write

from spacy_albert_jobs import JobError, annotate, run, storage
from spacy_albert_jobs.checksums import Checksums
from spacy_albert_jobs.plan import Plan
from spacy_albert_jobs.storage import TEMPORARY, Folder, shown
from spacy_albert_jobs.worker import read_receipts

#: The size of a file that pyarrow sends in two parts.
LARGE = 11 << 20
SLOW_DOWN = "<Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>"
INTERNAL = "<Error><Code>InternalError</Code><Message>We encountered an error.</Message></Error>"
DENIED = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
ANSWERS = {"slow down": (503, SLOW_DOWN), "internal": (500, INTERNAL), "denied": (403, DENIED)}
#: What an object store does now and then: it has too much to do; it does not answer; it does what
#: it is asked and then does not say so; it, or the client, is cut off in the middle; it takes long.
FAULTS = ("slow down", "internal", "drop", "lost", "cut off", "slow")

pytestmark = pytest.mark.usefixtures("in_process")


class Request(BaseHTTPRequestHandler):
    """Passes a request on to the server behind, unless something goes wrong."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def pass_on(self) -> None:
        fault = self.server.fault(self)
        if fault == "drop":
            return self.hang_up()
        body = self.body()
        if fault in ANSWERS:
            status, text = ANSWERS[fault]
            return self.answer(status, [("Content-Type", "application/xml")], text.encode())
        if fault == "slow":
            time.sleep(0.05)
        if fault == "cut off" and body:
            return self.hang_up()
        connection = http.client.HTTPConnection(*self.server.behind)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "expect"):
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if fault == "lost":
            return self.hang_up()
        left_out = ["date", "server", "connection", "transfer-encoding"]
        left_out += [] if self.command == "HEAD" else ["content-length"]
        headers = [pair for pair in response.getheaders() if pair[0].lower() not in left_out]
        return self.answer(response.status, headers, data, cut_off=fault == "cut off")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, status: int, headers: list, data: bytes, cut_off: bool = False) -> None:
        self.send_response(status)
        for header in headers:
            self.send_header(*header)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut_off else data)
        if cut_off:
            self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, *message) -> None:
        pass


class Proxy(ThreadingHTTPServer):
    """Stands between the client and a server. Rules say what goes wrong: functions of a request
    that give one of FAULTS, or "denied", or None.
    """

    daemon_threads = True

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.behind, self.rules, self.lock = behind, [], threading.Lock()
        self.happened: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def fault(self, request: Request) -> str | None:
        with self.lock:
            fault = next(filter(None, (rule(request) for rule in self.rules)), None)
            self.happened[fault or "none"] += 1
            return fault

    def fail(self, method: str, pattern: str, fault: str, times: float = float("inf")) -> None:
        """Have requests go wrong whose method and path match, a number of times."""
        left = [times]

        def rule(request: Request) -> str | None:
            if request.command != method or not re.search(pattern, request.path) or not left[0]:
                return None
            left[0] -= 1
            return fault

        self.rules.append(rule)

    def fail_at_random(self, seed: int, rate: float) -> None:
        dice = random.Random(seed)
        self.rules.append(lambda request: dice.choice(FAULTS) if dice.random() < rate else None)


class Store:
    """An object store with an empty bucket."""

    def __init__(self, proxy: Proxy, bucket: str) -> None:
        self.proxy, self.bucket = proxy, bucket

    def uri(self, path: str, **options) -> str:
        query = {"endpoint_override": f"127.0.0.1:{self.proxy.server_port}", "scheme": "http"}
        pairs = "&".join(f"{name}={value}" for name, value in {**query, **options}.items())
        return f"s3://{self.bucket}/{path}?{pairs}"

    def folder(self, path: str) -> Folder:
        return Folder.at(self.uri(path))

    def fill(self, folder: Path, path: str) -> None:
        """Put the files of a folder here."""
        target = self.folder(path)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                target.write(file.relative_to(folder).as_posix(), file.read_bytes())

    def take(self, path: str, folder: Path) -> Path:
        """Fetch the files from here to a folder."""
        source = self.folder(path)
        for name in source.files():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(source.read(name))
        return folder


@pytest.fixture(scope="module")
def proxy():
    moto = pytest.importorskip("moto.server", reason="the S3 server of the tests is not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        server.start()
        proxy = Proxy(server.get_host_and_port())
        yield proxy
        proxy.shutdown()
        proxy.server_close()
        server.stop()


@pytest.fixture
def store(proxy, request):
    name = f"bucket-{random.Random(request.node.name).randrange(10**12)}"
    proxy.rules.clear()
    proxy.happened.clear()
    store = Store(proxy, name)
    FileSystem.from_uri(store.uri("", allow_bucket_creation="true"))[0].create_dir(name)
    yield store
    proxy.rules.clear()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0.001)


def visible(folder: Folder) -> dict[str, bytes]:
    """All files and what is in them, those being written as well."""
    start = len(folder.path) + 1
    return {
        info.path[start:]: folder.read(info.path[start:])
        for info in folder.entries()
        if info.is_file
    }


# Files


@pytest.fixture(params=["disk", "s3", "memory"])
def anywhere(request, tmp_path):
    if request.param == "disk":
        return Folder.at(tmp_path / "out")
    if request.param == "s3":
        return request.getfixturevalue("store").folder("some/out")
    return Folder.at(f"memory://{tmp_path}/out")


def test_a_file_appears_when_it_is_whole(anywhere):
    for content in (b"first", b"second, in place of it"):
        before = visible(anywhere)
        with anywhere.writing("lang=a%20b/é.txt") as file:
            file.write(content[:3])
            file.flush()
            assert anywhere.files() == {name: len(data) for name, data in before.items()}
            file.write(content[3:])
        assert visible(anywhere) == {"lang=a%20b/é.txt": content}
    assert anywhere.holds("lang=a%20b/é.txt")
    assert not anywhere.holds("lang=a%20b")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_exception_there_is_nothing(anywhere, error):
    anywhere.write("kept", b"as it was")
    for name in ("new", "kept"):
        with pytest.raises(error), anywhere.writing(name) as file:  # noqa: PT012
            file.write(b"half")
            raise error
    assert visible(anywhere) == {"kept": b"as it was"}


def test_files_are_listed_read_and_deleted(anywhere):
    assert anywhere.files() == {}
    contents = {"b": b"", "a/x": b"12", "a/y/z.parquet": b"12345"}
    for name, content in contents.items():
        anywhere.write(name, content)
    assert list(anywhere.files().items()) == [("a/x", 2), ("a/y/z.parquet", 5), ("b", 0)]
    assert visible(anywhere) == contents
    with anywhere.open("a/y/z.parquet") as file:
        file.seek(2)
        assert (file.read(2), file.tell(), file.read()) == (b"34", 4, b"5")
    with pytest.raises(FileNotFoundError):
        anywhere.read("absent")
    anywhere.delete(["a/x", "absent", "b"])
    assert anywhere.files() == {"a/y/z.parquet": 5}


def test_temporary_files_are_no_files_and_can_be_cleared(anywhere):
    anywhere.clear_temporaries()
    anywhere.write(f"{TEMPORARY}/of a run that was killed", b"half")
    anywhere.write("a", b"whole")
    assert anywhere.files() == {"a": 5}
    anywhere.clear_temporaries()
    assert visible(anywhere) == {"a": b"whole"}


def test_a_check_for_writing_leaves_nothing(anywhere):
    anywhere.refuse_unwritable()
    assert visible(anywhere) == {}


def test_folders_pickle(anywhere):
    anywhere.write("a", b"1")
    if "memory" in anywhere.filesystem.type_name:
        assert pickle.loads(pickle.dumps(anywhere)) == anywhere
    assert pickle.loads(pickle.dumps(anywhere)).read("a") == b"1"


# Object stores that fail


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"slow"}))
def test_a_put_is_tried_again(store, fault):
    folder = store.folder("out")
    content = random.Random(0).randbytes(LARGE)
    for method, pattern in (
        ("POST", r"big\?uploads"),
        ("PUT", "partNumber=2"),
        ("POST", r"big\?uploadId"),
    ):
        store.proxy.fail(method, pattern, fault, times=2)
    folder.write("big", content)
    assert store.proxy.happened[fault] >= 4
    assert visible(folder) == {"big": content}


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("POST", r"big\?uploads"),
        ("PUT", "partNumber=1&"),
        ("PUT", "partNumber=2&"),
        ("POST", r"big\?uploadId"),
    ],
)
def test_a_put_that_fails_for_good_changes_nothing(store, method, pattern, old):
    folder = store.folder("out")
    if old:
        folder.write("big", old)
    store.proxy.fail(method, pattern, "denied")
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        folder.write("big", bytes(LARGE))
    store.proxy.rules.clear()
    assert visible(folder) == ({"big": old} if old else {})


def test_memory_does_not_grow_with_what_is_sent(store, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK", 10 << 20)
    before, seen = pa.total_allocated_bytes(), []

    def look(request: Request) -> str | None:
        seen.append(pa.total_allocated_bytes() - before)
        return "slow"

    store.proxy.rules.append(look)
    store.folder("out").write("big", bytes(60 << 20))
    assert len(seen) == 8
    assert max(seen) < 25 << 20


def test_an_interrupted_put_is_whole(store):
    """To close a file of pyarrow, or only to forget it, completes it with what was written."""
    folder = store.folder("out")
    folder.write("plan", b"the old one")

    def interrupt(request: Request) -> None:
        if request.command == "POST" and "?uploads" in request.path:
            store.proxy.rules.clear()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    store.proxy.rules.append(interrupt)
    # a shell that runs us in the background has it ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            folder.write("plan", b"the new one, which is longer")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not store.proxy.rules
    for thread in threading.enumerate():  # the interrupt may come before it can wait for this one
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(10)
    assert visible(folder) == {"plan": b"the new one, which is longer"}


@pytest.mark.parametrize("fault", ["internal", "drop", "cut off"])
def test_what_a_worker_reads_is_tried_again(store, fault, monkeypatch):
    """A filesystem that was sent to a worker asks three times, and that may not do."""
    folder = pickle.loads(pickle.dumps(store.folder("in")))
    content = random.Random(0).randbytes(3 << 20)
    folder.write("file", content)
    store.proxy.fail("GET", "in/file", fault, times=4)
    with folder.open("file") as file:
        file.seek(1 << 20)
        assert file.read(1 << 20) == content[1 << 20 : 2 << 20]
    assert store.proxy.happened[fault] == 4


def test_a_store_is_not_asked_for_ever(store, monkeypatch):
    monkeypatch.setattr(storage, "TRIES", 2)
    folder = pickle.loads(pickle.dumps(store.folder("in")))
    store.proxy.fail("HEAD", "in/file", "internal")
    with pytest.raises(OSError, match="HTTP status 500"):
        folder.info("file")
    assert store.proxy.happened["internal"] == 6


@pytest.mark.parametrize("fault", ["internal", "lost"])
def test_deleting_is_tried_again(store, fault):
    folder = store.folder("out")
    folder.write("a", b"1")
    store.proxy.fail("DELETE", "out/a", fault, times=2)
    folder.delete(["a"])
    assert folder.files() == {}
    assert store.proxy.happened[fault]


class FlakyFileSystem(MemoryFileSystem):
    """In memory; fails now and then. Others see a file as soon as it is opened."""

    protocol = "flaky"
    store, pseudo_dirs = {}, [""]
    dice, rate, failures = random.Random(), 0.1, 0
    written: ClassVar[set[str]] = set()

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("flaky://"))

    def stumble(self) -> None:
        if self.dice.random() < self.rate:
            FlakyFileSystem.failures += 1
            raise OSError("the network stumbled")

    def _open(self, path, mode="rb", **kwargs):
        self.stumble()
        if "w" in mode:
            self.written.add(path)
        return super()._open(path, mode, **kwargs)

    def info(self, path, **kwargs):
        self.stumble()
        return super().info(path, **kwargs)

    def ls(self, path, detail=True, **kwargs):
        self.stumble()
        return super().ls(path, detail, **kwargs)

    def _rm(self, path):
        self.stumble()
        super()._rm(path)

    def cp_file(self, path1, path2, **kwargs):
        self.stumble()
        super().cp_file(path1, path2, **kwargs)


@pytest.fixture
def flaky():
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    FlakyFileSystem.store.clear()
    FlakyFileSystem.written.clear()
    FlakyFileSystem.dice.seed(0)
    FlakyFileSystem.failures = 0
    return Folder.at("flaky://out")


def test_a_filesystem_that_does_not_answer_is_not_empty(flaky, monkeypatch):
    flaky.write("a", b"1")
    monkeypatch.setattr(FlakyFileSystem, "rate", 1)
    for ask in (
        flaky.info,
        flaky.files,
        flaky.refuse_unwritable,
        lambda: flaky.holds("a"),
        lambda: flaky.read("a"),
        lambda: flaky.open("absent"),
        lambda: flaky.delete(["a"]),
    ):
        with pytest.raises((OSError, JobError), match="the network stumbled"):
            ask()
    monkeypatch.setattr(FlakyFileSystem, "rate", 0)
    assert visible(flaky) == {"a": b"1"}


# Whole jobs


@pytest.fixture
def on_disk(pipeline, collection, tmp_path, in_process):
    """What a job makes of the collection on a disk."""
    annotate(pipeline, collection, tmp_path / "on_disk", shard_bytes=4000)
    in_process.clear()
    return tmp_path / "on_disk"


def refuse_difference(here: Path, there: Path) -> None:
    """The same files, rows and values; what the rows came from has another date."""
    assert state(here).keys() == state(there).keys()
    assert read(here).equals(read(there))
    names = {path.name for folder in (here, there) for path in folder.iterdir()}
    notes = {"_plan.json", "_manifest.json", "_summary.json", "_SUCCESS"}
    assert names - state(here).keys() == notes


def refuse_damage(output: Folder) -> None:
    """Every file is what its receipt says, and every shard is there."""
    plan = Plan.of(output)
    receipts = read_receipts(output, plan)
    assert receipts.keys() == {shard.name for shard in plan.shards}
    for name, receipt in receipts.items():
        with pq.ParquetFile(output.open(name)) as file:
            table = file.read()
        checksums = Checksums(table.schema)
        checksums.update(table)
        assert (table.num_rows, checksums.digests()) == (receipt.rows, receipt.checksums)


@pytest.mark.parametrize("seed", range(3))
def test_a_job_on_s3_is_a_job_on_a_disk(pipeline, collection, on_disk, store, tmp_path, seed):
    store.fill(collection, "in")
    store.proxy.fail_at_random(seed, rate=0.1)
    summary = annotate(pipeline, store.uri("in"), store.uri("out"), shard_bytes=4000)
    assert store.proxy.happened.total() > store.proxy.happened["none"] + 5
    store.proxy.rules.clear()
    assert summary.rows == 431
    refuse_damage(store.folder("out"))
    refuse_difference(on_disk, store.take("out", tmp_path / "fetched"))
    assert not [name for name in visible(store.folder("out")) if name.startswith(TEMPORARY)]


def test_a_job_on_a_filesystem_of_fsspec_is_one_on_a_disk(
    pipeline, collection, on_disk, flaky, tmp_path
):
    source = Folder.at("flaky://in")
    for path in collection.rglob("*.parquet"):
        source.write(path.relative_to(collection).as_posix(), path.read_bytes())
    annotate(pipeline, "flaky://in", "flaky://out", shard_bytes=4000)
    assert FlakyFileSystem.failures > 10
    assert all(f"/{TEMPORARY}/" in path for path in FlakyFileSystem.written)
    refuse_damage(flaky)
    for name in flaky.files():
        (tmp_path / "fetched").mkdir(exist_ok=True)
        (tmp_path / "fetched" / name).write_bytes(flaky.read(name))
    refuse_difference(on_disk, tmp_path / "fetched")
    assert not [name for name in visible(flaky) if name.startswith(TEMPORARY)]


def test_a_run_on_s3_that_was_broken_off_goes_on(
    pipeline, collection, on_disk, store, tmp_path, in_process, monkeypatch
):
    store.fill(collection, "in")
    output = store.folder("out")
    whole = run.run_shards

    def run_shards(*arguments):
        for number, answer in enumerate(whole(*arguments), 1):
            yield answer
            if number == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "run_shards", run_shards)
        with pytest.raises(KeyboardInterrupt, match=r"3 of .* shards are ready"):
            annotate(pipeline, store.uri("in"), store.uri("out"), shard_bytes=4000)
    first = list(in_process)
    ready = {name: data for name, data in visible(output).items() if name.endswith(".parquet")}
    assert sorted(ready) == sorted(first)
    assert not output.holds("_SUCCESS")
    annotate(pipeline, store.uri("in"), store.uri("out"), shard_bytes=4000)
    assert len(in_process) == len(set(in_process)) == len(state(on_disk))
    assert ready.items() <= visible(output).items()
    refuse_damage(output)
    refuse_difference(on_disk, store.take("out", tmp_path / "fetched"))


@pytest.mark.parametrize("damage", ["truncated", "empty", "absent"])
def test_half_an_object_is_not_done(
    pipeline, collection, on_disk, store, tmp_path, in_process, damage
):
    """Were half a file ever to be put in place, it would lack the receipt, which comes last."""
    store.fill(collection, "in")
    annotate(pipeline, store.uri("in"), store.uri("out"), shard_bytes=4000)
    output = store.folder("out")
    name = in_process[1]
    content = output.read(name)
    output.write(name, {"truncated": content[: len(content) // 2]}.get(damage, b""))
    if damage == "absent":
        output.delete([name])
    in_process.clear()
    annotate(pipeline, store.uri("in"), store.uri("out"), shard_bytes=4000)
    assert in_process == [name]
    assert output.read(name) == content
    refuse_difference(on_disk, store.take("out", tmp_path / "fetched"))


def test_a_store_that_refuses_in_the_middle(pipeline, collection, store, in_process):
    store.fill(collection, "in")
    names = []

    def deny(request: Request) -> str | None:
        if request.command == "POST" and (
            found := re.search("out/(part-0000[24].*)[?]", request.path)
        ):
            names.append(found[1])
            return "denied"
        return None

    store.proxy.rules.append(deny)
    with pytest.raises(JobError, match=r"(?s)2 of .* shards could not be done.*ACCESS_DENIED"):
        annotate(pipeline, store.uri("in"), store.uri("out"), shard_bytes=4000)
    assert len(set(names)) == 2
    assert not store.folder("out").files().keys() & {"_SUCCESS", *names}
    store.proxy.rules.clear()
    in_process.clear()
    assert annotate(pipeline, store.uri("in"), store.uri("out"), shard_bytes=4000).rows == 431
    assert set(in_process) == set(names)
    refuse_damage(store.folder("out"))


def test_overwrite_on_s3_removes_what_is_ours(pipeline, collection, store):
    store.fill(collection, "in")
    annotate(pipeline, store.uri("in"), store.uri("out"), shard_bytes=4000)
    output = store.folder("out")
    assert len([name for name in output.files() if name.endswith(".parquet")]) > 5
    output.write("README", b"mine")
    store.folder("outer").write("part-00000.parquet", b"next door")
    annotate(pipeline, store.uri("in"), store.uri("out"), keep=["id"], overwrite=True)
    files = output.files()
    assert output.read("README") == b"mine"
    assert store.folder("outer").files() == {"part-00000.parquet": 9}
    assert len([name for name in files if name.endswith(".parquet")]) == 5
    refuse_damage(output)


@pytest.mark.parametrize(
    ("glob", "rows"),
    [
        ("", 431),
        ("/", 431),
        ("/*.parquet", 131),
        ("/**/*.parquet", 431),
        ("/c/d.parquet", 300),
        ("/[ab].parquet", 41),
        ("/**", 431),
    ],
)
def test_what_s3_uris_name(pipeline, collection, store, glob, rows, in_process):
    store.fill(collection, "in")
    store.folder("in").write("_hidden/x.parquet", b"no Parquet")
    store.folder("in").write("notes.txt", b"no Parquet")
    assert annotate(pipeline, store.uri("in" + glob), store.uri("out")).rows == rows


def test_a_path_need_not_be_quoted(store):
    store.folder("mine and yours/é=1").write("x y", b"1")
    assert store.folder("mine%20and%20yours/%C3%A9=1").files() == {"x y": 1}
    assert store.folder("").files() == {"mine and yours/é=1/x y": 1}


def test_hive_folders_on_s3(pipeline, store, tmp_path, in_process):
    for number, place in enumerate(["lang=en/year=2001", "lang=a%2Fb/year=2002"]):
        write(tmp_path / "in" / place / "x.parquet", pa.table({"text": texts(number, number + 1)}))
    store.fill(tmp_path / "in", "in")
    for glob in ("in", "in/lang=*/**"):
        annotate(pipeline, store.uri(glob), store.uri("out"), partition_by=["lang"], overwrite=True)
        files = {name.rpartition("/")[0] for name in store.folder("out").files()} - {""}
        assert files == {"lang=en", "lang=a%2Fb"}
        fetched = store.take("out", tmp_path / f"fetched{len(glob)}")
        (path,) = fetched.glob("lang=en/*.parquet")
        assert pq.ParquetFile(path).read(["text", "year"]).to_pylist() == [
            {"text": texts(0, 1)[0], "year": 2001}
        ]


# What is refused before any work


def nothing_was_done(store: Store) -> bool:
    return not store.folder("out").files()


def test_a_bucket_that_is_not_there(pipeline, collection, store, in_process):
    store.fill(collection, "in")
    elsewhere = Store(store.proxy, "no-such-bucket")
    with pytest.raises(JobError, match="There is nothing at s3://no-such-bucket/in"):
        annotate(pipeline, elsewhere.uri("in"), store.uri("out"))
    with pytest.raises(JobError, match=r"no-such-bucket/out: .*NO_SUCH_BUCKET.*Make the bucket"):
        elsewhere.folder("out").refuse_unwritable()
    with pytest.raises(JobError, match=r"no-such-bucket.*NO_SUCH_BUCKET"):
        annotate(pipeline, store.uri("in"), elsewhere.uri("out"))
    assert not in_process
    assert nothing_was_done(store)


def test_missing_credentials(pipeline, collection, store, monkeypatch, in_process):
    store.fill(collection, "in")
    store.proxy.rules.append(lambda r: None if r.headers.get("Authorization") else "denied")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    began = store.proxy.happened.total()
    with pytest.raises(JobError, match=r"Cannot read s3://.*/in: .*ACCESS_DENIED.*AWS_ACCESS"):
        annotate(pipeline, store.uri("in"), store.uri("out"))
    assert store.proxy.happened.total() - began < 5  # to ask again would not help
    assert not in_process


def test_no_permission_to_write_to_s3(pipeline, collection, store, in_process):
    store.fill(collection, "in")
    store.proxy.fail("POST", "/out/", "denied")
    with pytest.raises(JobError, match=r"Cannot write to .*/out: .*ACCESS_DENIED.*Give cred"):
        store.folder("out").refuse_unwritable()
    with pytest.raises(JobError, match=r"out.*ACCESS_DENIED"):
        annotate(pipeline, store.uri("in"), store.uri("out"))
    assert not in_process
    assert nothing_was_done(store)


def test_no_permission_to_delete_on_s3(store):
    store.proxy.fail("DELETE", "/out/", "denied")
    with pytest.raises(JobError, match=r"Cannot write to .*/out: .*ACCESS_DENIED"):
        store.folder("out").refuse_unwritable()


def test_no_permission_to_write_to_a_disk(pipeline, collection, tmp_path, in_process):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with pytest.raises(JobError, match=r"Cannot write to .*closed/out: .*Errno 13.*Let this user"):
        Folder.at(closed / "out").refuse_unwritable()
    with pytest.raises(JobError, match="closed"):
        annotate(pipeline, collection, closed / "out")
    assert not in_process


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        JobError, match=r"Cannot write to .*file/out: .*Not a directory.*A file is in the way"
    ):
        Folder.at(tmp_path / "file" / "out").refuse_unwritable()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("foo://bucket/x", "foo://bucket/x: Protocol not known: foo.*Give a local path"),
        ("dropbox://x", r"dropbox://x: .*dropboxdrivefs.*Install the package"),
        ("s3://bucket/x?colour=red", "Unexpected query parameter in S3 URI: 'colour'"),
        ("file://host/x", "file://host/x: Unsupported hostname"),
        ("hdfs://nowhere:1/x", r"Cannot open hdfs://nowhere:1/x: "),
    ],
)
def test_uris_that_cannot_be_opened(uri, message):
    with pytest.raises(JobError, match=message) as caught:
        Folder.at(uri)
    assert "\n" not in str(caught.value)


def test_fsspec_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(JobError, match=r"memory://x: .*fsspec.*Install the package"):
        Folder.at("memory://x")


def test_secrets_are_not_shown():
    assert "secret" not in shown("s3://key:secret%2F+@bucket/x")
    with pytest.raises(JobError) as caught:
        Folder.at("s3://key:secret@bucket/x?colour=red")
    assert "secret" not in str(caught.value)
    assert shown("s3://bucket/a@b:c/x") == "s3://bucket/a@b:c/x"


@pytest.mark.parametrize("output", ["in", "in/", "in/out", "in/c"])
def test_an_output_on_s3_that_overlaps_the_input(pipeline, collection, store, output, in_process):
    store.fill(collection, "in")
    with pytest.raises(JobError, match="overlaps the input"):
        annotate(pipeline, store.uri("in"), store.uri(output))
    assert not in_process


def test_what_shares_a_filesystem(store, tmp_path):
    here = store.folder("in")
    assert here.shares_with(Folder.at(store.uri("out", region="eu-north-1")))
    assert Folder.at(tmp_path).shares_with(Folder.at("file:///else"))
    assert Folder.at("memory://a").shares_with(Folder.at("memory://b"))
    assert not here.shares_with(Folder.at(tmp_path))
    assert not here.shares_with(Folder.at("memory://a"))


def test_the_same_folder_by_another_name(pipeline, collection, tmp_path, in_process):
    (tmp_path / "link").symlink_to(collection)
    for output in (tmp_path / "link" / "out", (tmp_path / "link").as_uri() + "/out"):
        with pytest.raises(JobError, match="overlaps the input"):
            annotate(pipeline, collection, output)


def test_the_same_path_on_another_filesystem(pipeline, collection, in_process):
    source = Folder.at(f"memory://{collection}")
    source.write("a.parquet", (collection / "a.parquet").read_bytes())
    assert annotate(pipeline, f"memory://{collection}", collection / "out").rows == 40
