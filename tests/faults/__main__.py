"""A campaign of faults against the annotate job, on several Ray nodes of this machine.

Every round annotates a collection of its own while something goes wrong, runs the same command
again until the job is finished, and compares what is there with what a bare spaCy pipeline says of
each row: not one lost, repeated or changed, and nothing done again that had been committed.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import spacy

ROOT = Path(__file__).parents[2]
CODE = ROOT / "tests" / "jobs" / "stumbling.py"
SHARD_BYTES = 1500
STALL_MINUTES = 0.2
PATIENCE = 240  # seconds for one run
RUNS = 6  # of one job, at most


@dataclass
class Round:
    """What happened in a round."""

    number: int
    fault: str
    rows: int = 0
    shards: int = 0
    runs: int = 0
    committed_before: int = 0  # shards that were there when the last run began
    redone: int = 0  # of these
    lost: int = 0
    repeated: int = 0
    changed: int = 0
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)  # the last words of each run

    @property
    def good(self) -> bool:
        return not (self.lost or self.repeated or self.changed or self.redone or self.findings)


class Campaign:
    """A cluster of this machine, and jobs on it that are disturbed."""

    def __init__(self, folder: Path, seed: int) -> None:
        from ray.cluster_utils import Cluster

        self.folder, self.seed = folder, seed
        os.environ["PYTHONPATH"] = str(ROOT)
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.pipeline = folder / "pipeline"
        self.nlp = stumbler()
        self.nlp.to_disk(self.pipeline)

    def close(self) -> None:
        self.cluster.shutdown()

    def round(self, number: int, fault: str) -> Round:
        """Run a job in which something goes wrong, and look at what is there in the end."""
        rng = random.Random(f"{self.seed}/{number}")
        here = self.folder / f"round-{number}"
        state = Round(number, fault)
        rows = collection(here / "in", rng, fault)
        expected = [self.expect(row) for row in rows]
        state.rows = len(rows)
        began = time.monotonic()
        disturb = getattr(self, f"_{fault}")
        with contextlib.ExitStack() as stack:
            output = str(here / "out")
            if fault == "full_disk":
                stack.enter_context(small_disk(here / "out"))
            if fault == "storage_errors":
                output = f"flaky://{output}"
            command = [sys.executable, "-m", "tests.faults.driver", "albert", "annotate"]
            command += [str(self.pipeline), str(here / "in"), output, "--code", str(CODE)]
            command += ["--shard-bytes", str(SHARD_BYTES), "--address", self.cluster.address]
            command += ["--stall-minutes", str(STALL_MINUTES), "--workers", "2"]
            before: dict[str, tuple[int, int]] = {}
            while not (here / "out" / "_SUCCESS").exists() and state.runs < RUNS:
                before = committed(here / "out")
                driver = subprocess.Popen(
                    command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
                )
                state.runs += 1
                disturb(rng, driver, here, state)
                try:
                    _, said = driver.communicate(timeout=PATIENCE)
                except subprocess.TimeoutExpired:
                    driver.kill()
                    _, said = driver.communicate()
                    state.findings.append("the job hangs")
                    break
                finally:
                    state.said.append(said.strip()[-300:])
                after = committed(here / "out")
                state.redone += sum(after.get(name) != was for name, was in before.items())
            state.committed_before = len(before)
            self.check(state, here, expected)
        state.seconds = round(time.monotonic() - began, 1)
        if state.good:
            state.said = state.said[:-1]
            shutil.rmtree(here, ignore_errors=True)
        return state

    def expect(self, row: dict[str, Any]) -> dict[str, Any]:
        """What must come out for a row."""
        text = row["text"]
        if text is None:
            return {**row, "ents": None, "error": "no text"}
        if "DIE" in text or "HANG" in text:
            return {**row, "ents": None, "error": "killed its worker"}
        if "STUMBLE" in text:
            return {**row, "ents": None, "error": "ValueError in 'stumble'"}
        doc = self.nlp.get_pipe("entity_ruler")(self.nlp.make_doc(text))
        ents = [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]
        return {**row, "ents": ents, "error": None}

    def check(self, state: Round, here: Path, expected: list[dict[str, Any]]) -> None:
        """Compare what is there with what must be."""
        from spacy_albert_jobs.verification import verify

        out = here / "out"
        if not (out / "_SUCCESS").exists():
            state.findings.append(f"not finished after {state.runs} runs")
            return
        files = sorted(out.glob("part-*.parquet"))
        state.shards = len(files)
        found = [row for path in files for row in pq.read_table(path).to_pylist()]
        for row in found:
            row["ents"] = row["ents"] and [(e["start"], e["end"], e["label"]) for e in row["ents"]]
            row["ents"] = [] if row["ents"] == [] else row["ents"]
            row["error"] = row["error"] and row["error"].partition(":")[0]
            del row["n_tokens"]
        ids, wanted = Counter(r["id"] for r in found), Counter(r["id"] for r in expected)
        state.lost, state.repeated = (wanted - ids).total(), (ids - wanted).total()
        if not state.lost and not state.repeated:
            state.changed = sum(a != b for a, b in zip(found, expected))
        state.findings += [str(finding) for finding in verify(str(out), str(here / "in"))]

    # What goes wrong

    def _nothing(self, rng: random.Random, driver: Any, here: Path, state: Round) -> None:
        pass

    _poison = _hang = _storage_errors = _nothing

    def _kill_worker(self, rng: random.Random, driver: Any, here: Path, state: Round) -> None:
        if state.runs > 1:
            return
        for _ in range(rng.randint(1, 3)):
            if wait_for(lambda: workers() or driver.poll() is not None):
                time.sleep(rng.uniform(0.0, 3.0))
                for process in rng.sample(workers(), min(1, len(workers()))):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()

    def _kill_driver(self, rng: random.Random, driver: Any, here: Path, state: Round) -> None:
        if state.runs > 2:
            return
        some = rng.randint(1, 12)
        wait_for(lambda: len(committed(here / "out")) >= some or driver.poll() is not None)
        time.sleep(rng.uniform(0.0, 0.5))
        with contextlib.suppress(ProcessLookupError):
            driver.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))

    def _kill_node(self, rng: random.Random, driver: Any, here: Path, state: Round) -> None:
        if state.runs > 1:
            return
        wait_for(lambda: committed(here / "out") or driver.poll() is not None)
        time.sleep(rng.uniform(0.0, 2.0))
        lost = self.nodes.pop(rng.randrange(len(self.nodes)))
        self.cluster.remove_node(lost, allow_graceful=False)

        time.sleep(rng.uniform(0.0, 4.0))
        self.nodes.append(self.cluster.add_node(num_cpus=1))

    def _corrupt_file(self, rng: random.Random, driver: Any, here: Path, state: Round) -> None:
        files = sorted((here / "in").glob("*.parquet"))
        victim = files[rng.randrange(len(files))]
        backup = here / "backup"
        if state.runs == 1:
            stat = victim.stat()
            shutil.copy2(victim, backup)
            data = bytearray(victim.read_bytes())
            data[4:40] = bytes(36)  # the head of the first page
            # in place and with its old date, as a disk does it
            with victim.open("r+b") as file:
                file.write(data)
            os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            (here / "victim").write_text(str(victim))
            driver.wait(PATIENCE)
            victim = Path((here / "victim").read_text())
            shutil.copy2(backup, victim)

    def _full_disk(self, rng: random.Random, driver: Any, here: Path, state: Round) -> None:
        if state.runs == 1:
            driver.wait(PATIENCE)
            subprocess.run(["mount", "-o", "remount,size=64m", str(here / "out")], check=True)


FAULTS = (
    "kill_worker",
    "kill_driver",
    "kill_node",
    "poison",
    "hang",
    "corrupt_file",
    "full_disk",
    "storage_errors",
)


def stumbler() -> spacy.Language:
    from spacy_albert_jobs.annotator import import_code

    import_code(str(CODE))
    nlp = spacy.blank("en")
    nlp.add_pipe("stumble")
    patterns = [("PERSON", "Obama"), ("GPE", "Paris"), ("GPE", "Zürich"), ("ORG", "東京大学")]
    nlp.add_pipe("entity_ruler").add_patterns(
        [{"label": label, "pattern": pattern} for label, pattern in patterns]
    )
    return nlp


def collection(folder: Path, rng: random.Random, fault: str) -> list[dict[str, Any]]:
    """Write a collection, and give its rows in order."""
    rows: list[dict[str, Any]] = []
    words = ["Obama", "Paris", "Zürich", "東京大学", "went", "to", "the", "🏛", "—", "naïve", ","]
    folder.mkdir(parents=True)
    for number in range(rng.randint(2, 5)):
        part = []
        for _ in range(rng.choice([0, 1, 30, 60, 90])):
            text = " ".join(rng.choices(words, k=rng.randint(0, 40)))
            kind = rng.random()
            text = None if kind < 0.02 else "STUMBLE " + text if kind < 0.05 else text  # type: ignore[assignment]
            if text is not None and rng.random() < 0.6:
                text += " SLOW"
            part.append({"id": len(rows) + len(part), "text": text})
        rows += part
        table = pa.Table.from_pylist(
            part, schema=pa.schema([("id", pa.int64()), ("text", pa.string())])
        )
        pq.write_table(
            table,
            folder / f"{number}.parquet",
            row_group_size=rng.choice([7, 25, 1000]),
            write_page_checksum=True,
        )
    if len(rows) < 40:
        shutil.rmtree(folder)
        return collection(folder, rng, fault)
    word = {"poison": "DIE", "hang": "HANG"}.get(fault)
    if word:
        poisoned = rng.sample(range(len(rows)), 1 if fault == "hang" else rng.randint(1, 3))
        for path in sorted(folder.glob("*.parquet")):
            file = pq.ParquetFile(path)
            size = max(
                (file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)), default=1
            )
            table = file.read().to_pylist()
            for row in table:
                if row["id"] in poisoned:
                    row["text"] = rows[row["id"]]["text"] = f"{word} Obama"
            again = pa.Table.from_pylist(table, schema=file.schema_arrow)
            pq.write_table(again, path, row_group_size=max(size, 1), write_page_checksum=True)
    return rows


def committed(output: Path) -> dict[str, tuple[int, int]]:
    stats = {path.name: path.stat() for path in output.glob("part-*.parquet")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def workers() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "ray::RayWorker" in " ".join(process.cmdline()[:1]):
                found.append(process)
    return found


def wait_for(what: Callable[[], Any], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own that is soon full."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    try:
        with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder, "x")):
            return True
    except (subprocess.CalledProcessError, OSError):
        return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=FAULTS, metavar="FAULT",
                        help=f"some of: {', '.join(FAULTS)}")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write a summary")
    args = parser.parse_args()
    faults = list(args.only)
    if "full_disk" in faults and not can_mount():
        print("full_disk is left out: it takes the right to mount a small file system")
        faults.remove("full_disk")
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp") as folder:
        campaign = Campaign(Path(folder), args.seed)
        try:
            for number in range(args.rounds):
                state = campaign.round(number, faults[number % len(faults)])
                rounds.append(state)
                print(
                    f"{number + 1:3} {'good' if state.good else 'BAD '}  {state.fault:15} "
                    f"{state.rows:4} rows  {state.runs} runs  {state.committed_before:3} shards "
                    f"before the last  {state.redone} redone  {state.seconds:5.1f} s",
                    flush=True,
                )
                if not state.good:
                    print(json.dumps(asdict(state), indent=1, ensure_ascii=False), flush=True)
        finally:
            campaign.close()
    summary = {
        "rounds": len(rounds),
        "by fault": dict(Counter(state.fault for state in rounds)),
        "rows": sum(state.rows for state in rounds),
        "shards": sum(state.shards for state in rounds),
        "runs": sum(state.runs for state in rounds),
        **{
            what: sum(getattr(state, what) for state in rounds)
            for what in ("lost", "repeated", "changed", "redone")
        },
        "good": sum(state.good for state in rounds),
        "minutes": round(sum(state.seconds for state in rounds) / 60, 1),
        "seed": args.seed,
    }
    print(json.dumps(summary, indent=1))
    if args.output:
        summary["each"] = [asdict(state) for state in rounds]
        args.output.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf8")
    return 0 if summary["good"] == len(rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
