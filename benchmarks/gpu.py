"""Measure a GPU: `python -m benchmarks gpu`.

It needs torch, spaCy, sentencepiece and pyarrow, and neither Ray nor transformers. First it checks
that the GPU says what the CPU says; then it measures the engine alone, `nlp.pipe`, and worker
processes that share the GPU and go from Parquet to Parquet. Each part stands by itself: if one
fails, its error is in the results and the others go on.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spacy_albert import layers
from spacy_albert.batching import batches
from spacy_albert.checkpoints import build_albert, load_checkpoint
from spacy_albert.engine import Engine
from spacy_albert.heads import TokenHead

from . import ceilings, checkpoint, machine, ours, texts

BUDGETS = (4_096, 16_384, 65_536, 262_144)  # pieces in a batch
WORKERS = (1, 4, 8, 12, 16)


def main(arguments: list[str]) -> int:
    """Run all parts, and print and write what they find.

    arguments (list[str]): The command line after "gpu".
    RETURNS (int): 0 if every part has run.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="the device to measure (default: cuda)")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), metavar="FILE")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="one text a line, to read those")
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS), metavar="N")
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--shape", default="base", choices=tuple(checkpoint.SHAPES))
    args = parser.parse_args(arguments)
    n_texts = 64 if args.quick else 20_000
    read = lines(args.texts, n_texts) if args.texts else texts.paragraphs(n_texts)
    results: dict[str, Any] = {"machine": machine.describe(), "versions": machine.versions()}
    if args.device.startswith("cuda"):
        results["gpu"] = torch.cuda.get_device_name(args.device)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        vocabulary = str(texts.vocabulary())
        made = checkpoint.make(str(place / "checkpoint"), args.shape, vocabulary, read[:2000])
        parts: dict[str, Callable[[], Any]] = {
            "answers": lambda: answers(place / "checkpoint", args.device, read[:500]),
            "ceiling": lambda: ceiling(args.device, made["shape"], args.quick),
            "engine": lambda: engine(
                place / "checkpoint", args.device, made, results["ceiling"], args.quick
            ),
            "pipe": lambda: pipe(place / "checkpoint", args.device, read[: n_texts // 4]),
            "workers": lambda: workers(place, args.device, read, args.workers),
        }
        for name, part in parts.items():
            started = time.perf_counter()
            try:
                results[name] = part()
            except Exception as error:
                traceback.print_exc()
                results[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
            print(f"{name} ({time.perf_counter() - started:.0f} s):", flush=True)
            print(json.dumps(results[name], indent=2), flush=True)
            args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf8")
    return int(any("error" in results[name] for name in parts))


def lines(path: Path, n: int) -> list[str]:
    """RETURNS (list[str]): The first texts of a file, one a line."""
    return [line for line in path.read_text(encoding="utf8").splitlines() if line.strip()][:n]


# Does the GPU say what the CPU says?


def answers(directory: Path, device: str, read: list[str]) -> dict[str, Any]:
    """Compare with float32 on the CPU: logits of tokens, tags of a trained pipeline, and what
    comes out when memory is short.

    directory (Path): From `checkpoint.make`.
    device (str): The device.
    read (list[str]): Some texts.
    RETURNS (dict): The differences.
    """
    found: dict[str, Any] = {}
    exact = _logits(directory, "cpu", "float32", read[:50])
    for precision in ("float32", "bfloat16"):
        logits = _logits(directory, device, precision, read[:50])
        found[f"{precision}: largest difference of a logit"] = float(np.abs(logits - exact).max())
        found[f"{precision}: same best tags"] = _same(logits.argmax(1), exact.argmax(1))
    tags = {
        (where, precision): _tags(where, precision, read)
        for where, precision in (("cpu", "float32"), (device, "float32"), (device, "bfloat16"))
    }
    for where, precision in list(tags)[1:]:
        key = f"trained pipeline, {where} {precision}: same tags as cpu float32"
        found[key] = _same(tags[where, precision], tags["cpu", "float32"])
    alone = _tags(device, "bfloat16", read[:100], batch_size=1)
    found["alone = in a batch: same tags"] = _same(alone, tags[device, "bfloat16"][: len(alone)])
    if device.startswith("cuda"):
        found["short of memory: same tags"] = _same(
            _tags(device, "bfloat16", read, short_of_memory=True), tags[device, "bfloat16"]
        )
    return found


def _same(some: np.ndarray, others: np.ndarray) -> float:
    return float(np.mean(np.asarray(some) == np.asarray(others)))


def _logits(directory: Path, device: str, precision: str, read: list[str]) -> np.ndarray:
    nlp = _pipeline(directory, device, precision)
    head: TokenHead = nlp.get_pipe("ner").head.module
    docs = [nlp.make_doc(text) for text in read]
    (rows,) = layers.read(nlp.get_pipe("albert").model, docs, [head])
    return torch.cat(rows).nan_to_num().numpy()


def _tags(
    device: str,
    precision: str,
    read: list[str],
    *,
    batch_size: int = 1000,
    short_of_memory: bool = False,
) -> np.ndarray:
    """The entity tags that the embedded pipeline gives to all tokens."""
    nlp = ours.load(texts.EMBEDDED, precision, device)
    if short_of_memory:  # batches far too large for a hundredth of the memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.01)
        ours.reader(nlp).engine._budget = 50_000_000
    try:
        docs = nlp.pipe(read, batch_size=batch_size)
        return np.array([t.ent_iob_ + t.ent_type_ for doc in docs for t in doc])
    finally:
        if short_of_memory:
            torch.cuda.set_per_process_memory_fraction(1.0)


def _pipeline(directory: Path, device: str, precision: str) -> Any:
    return ours.pipeline(directory, precision, ["ner", "textcat"], device)


# How fast is it?


def ceiling(device: str, shape: dict[str, int], quick: bool) -> dict[str, float]:
    """Measure the fastest bfloat16 matrix products: large square ones, and those of a layer.

    device (str): The device.
    shape (dict): The fields of AlbertConfig.
    quick (bool): Whether to use small matrices.
    RETURNS (dict): TFLOP/s of each, and the best of them.
    """
    H, F = shape["hidden_size"], shape["intermediate_size"]
    side, rows = (512, 1024) if quick else (8192, 65_536)
    sizes = {"square": (side, side, side)}
    sizes |= {
        f"{rows}x{inner}x{outer}": (rows, inner, outer)
        for inner, outer in ((H, 3 * H), (H, H), (H, F), (F, H))
    }
    found = {}
    for name, (m, k, n) in sizes.items():
        a = torch.randn(m, k, device=device, dtype=torch.bfloat16)
        b = torch.randn(n, k, device=device, dtype=torch.bfloat16)
        seconds = _fastest(partial(torch.nn.functional.linear, a, b), device)
        found[name] = 2 * m * k * n / seconds / 1e12
    return found | {"best": max(found.values())}


def _fastest(call: Callable[[], Any], device: str, times: int = 10) -> float:
    """The fastest of some calls, in seconds, waiting for the device each time."""

    def once() -> float:
        _wait(device)
        before = time.perf_counter()
        call()
        _wait(device)
        return time.perf_counter() - before

    for _ in range(3):
        once()
    return min(once() for _ in range(times))


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def engine(
    directory: Path, device: str, made: dict[str, Any], best: dict[str, float], quick: bool
) -> dict[str, Any]:
    """Run the engine alone, on windows with the lengths that texts have.

    directory (Path): From `checkpoint.make`.
    device (str): The device.
    made (dict): Its shape, and the lengths of the texts in pieces.
    best (dict): From `ceiling`.
    quick (bool): Whether to try one size of batch only.
    RETURNS (dict): For each precision and size of batch: pieces a second, TFLOP/s, and the share of
        the ceiling. And where the time of the best goes.
    """
    shape = made["shape"]
    windows = np.array(ceilings.windows(made["lengths"], shape["max_position_embeddings"]))
    work = ceilings.flops(shape, windows.tolist())
    pieces = int(windows.sum())
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {"windows": len(windows), "pieces": pieces}
    for precision in ("float32", "bfloat16", "bfloat16, compiled"):
        model = build_albert(load_checkpoint(directory)).eval()
        run = Engine(model, device, precision.partition(",")[0])
        if "compiled" in precision:
            _compile(run)
        for budget in BUDGETS[:1] if quick else BUDGETS:
            name = f"{precision}, {budget}"
            groups = [windows[group] for group in batches(windows, budget)]
            ids = [rng.integers(5, 8000, group.sum()) for group in groups]

            def read_all(run=run, ids=ids, groups=groups) -> None:
                with torch.inference_mode():
                    for some, lengths in zip(ids, groups):
                        run(some, lengths)

            try:
                seconds = _fastest(read_all, device, times=3)
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
                break
            speed = work / seconds / 1e12
            found[name] = {
                "pieces/s": pieces / seconds,
                "TFLOP/s": speed,
                "share": speed / best["best"],
            }
            print(name, found[name], flush=True)
    if device.startswith("cuda"):
        found["profile"] = list(_profile(directory, device, windows))
    return found


def _compile(run: Engine) -> None:
    """Let torch.compile fuse what a layer does outside attention: does it pay?"""
    with torch.inference_mode():
        executor = run._current()
    for layer in dict.fromkeys(executor.model.layers_by_depth()):
        layer.transform = torch.compile(layer.transform, dynamic=True)  # type: ignore[method-assign]


def _profile(directory: Path, device: str, windows: np.ndarray) -> Iterator[str]:
    """YIELDS (str): The kernels that take longest, with their share of the time."""
    run = Engine(build_albert(load_checkpoint(directory)).eval(), device, "bfloat16")
    lengths = windows[batches(windows, 65_536)[0]]
    ids = np.full(lengths.sum(), 5)
    with torch.inference_mode():
        run(ids, lengths)
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            run(ids, lengths)
            torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda e: -e.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) or 1
    for event in events[:15]:
        share = event.self_device_time_total / total
        yield f"{share:6.1%}  {event.count:4} x  {event.key[:100]}"


def pipe(directory: Path, device: str, read: list[str]) -> dict[str, float]:
    """Run `nlp.pipe` in one process, with entities and text classification.

    directory (Path): From `checkpoint.make`.
    device (str): The device.
    read (list[str]): The texts.
    RETURNS (dict): Words a second in each precision.
    """
    words = texts.count_words(read)
    found: dict[str, float] = {"words": words}
    for precision in ("float32", "bfloat16"):
        nlp = _pipeline(directory, device, precision)
        for _ in nlp.pipe(read[: len(read) // 4]):
            pass
        seconds = []
        for _ in range(3):
            before = time.perf_counter()
            for _ in nlp.pipe(read):
                pass
            seconds.append(time.perf_counter() - before)
        found[f"{precision}: words/s"] = words / statistics.median(seconds)
    return found


def workers(place: Path, device: str, read: list[str], numbers: list[int]) -> dict[str, Any]:
    """Let some processes share the GPU, each with a pipeline, from Parquet to Parquet.

    place (Path): An empty folder, but for "checkpoint".
    device (str): The device.
    read (list[str]): The texts; each worker gets as many of them.
    numbers (list[int]): How many workers to try.
    RETURNS (dict): For each number, words a second of all together.
    """
    _pipeline(place / "checkpoint", device, "bfloat16").to_disk(place / "pipeline")
    from spacy_albert_jobs.run import prepare

    words = texts.count_words(read)
    spawn = multiprocessing.get_context("spawn")
    options = {"text_column": "text", "keep": None, "max_chars": 10**7, "limit": None}
    found: dict[str, Any] = {}
    for n in numbers:
        source, output = place / f"in-{n}", place / f"out-{n}"
        _write(source, read, n)
        plan, job = prepare(
            place / "pipeline", None, source, output, options | {"shard_bytes": 1}, False, False
        )
        ready, ended = spawn.Barrier(n + 1), spawn.Queue()
        processes = [
            spawn.Process(target=_work, args=(job, plan.shards[rank::n], ready, ended))
            for rank in range(n)
        ]
        for process in processes:
            process.start()
        ready.wait(timeout=300)
        before = time.perf_counter()
        rows = sum(ended.get(timeout=600) for _ in processes)
        seconds = time.perf_counter() - before
        for process in processes:
            process.join()
        if rows != n * len(read):
            raise RuntimeError(f"{n} workers wrote {rows} rows of {n * len(read)}")
        found[str(n)] = {"words/s": n * words / seconds, "seconds": seconds}
        print(f"{n} workers: {n * words / seconds:,.0f} words/s", flush=True)
    return found


def _write(folder: Path, read: list[str], n: int) -> None:
    """Write one Parquet file for each worker, with row groups of a thousand rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    for rank in range(n):
        pq.write_table(pa.table({"text": read}), folder / f"{rank:02}.parquet", row_group_size=1000)


def _work(job: Any, shards: list[Any], ready: Any, ended: Any) -> None:
    """Be one of the workers: what an actor of the annotate job does, without Ray."""
    torch.set_num_threads(1)
    from spacy_albert_jobs.worker import Annotator

    annotator = Annotator(job)
    for _ in annotator.nlp.pipe(texts.paragraphs(200)):
        pass
    ready.wait(timeout=300)
    ended.put(sum(annotator.annotate(shard).rows for shard in shards))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
