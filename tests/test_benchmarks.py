"""The benchmarks themselves: what they count, how they measure, what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ceilings, checkpoint, claims, contenders, race, report, texts
from benchmarks.processes import Process, ProcessError, once
from benchmarks.stages import Clock
from spacy_albert.heads import TextHead, TokenHead
from spacy_albert.modeling import Albert, AlbertConfig
from spacy_albert.tokenization import load_tokenizer

ROOT = Path(__file__).parents[1]
TINY = AlbertConfig(
    vocab_size=50,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
)


@pytest.fixture
def made_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine without the data sets."""
    monkeypatch.setattr(texts, "DATA", tmp_path)
    monkeypatch.setattr(texts, "VOCABULARY", tmp_path / "spiece.model")


# Texts


def test_made_text_has_natural_lengths(made_text: None) -> None:
    assert texts.source() == "made"
    paragraphs = texts.paragraphs(200)
    lengths = sorted(len(text.split()) for text in paragraphs)
    assert 90 < lengths[100] < 130
    assert lengths[0] < 60
    assert lengths[-1] > 200
    assert paragraphs == texts.paragraphs(200)
    assert not set(paragraphs) & set(texts.paragraphs(200, skip=200))
    short = sorted(len(text.split()) for text in texts.short_texts(200))
    assert 7 < short[100] < 13
    assert len(texts.long_text(123_456)) == 123_456


def test_made_text_is_of_words_in_the_vocabulary(made_text: None) -> None:
    read = texts.paragraphs(20)
    pieces = load_tokenizer(texts.vocabulary().parent)(read)
    assert 1 <= len(pieces.ids) / texts.count_words(read) < 1.3


def test_real_texts_are_real_and_not_repeated(shared_data: Path) -> None:
    assert texts.source() == "real"
    first, others = texts.paragraphs(50), texts.paragraphs(50, skip=50)
    assert len({*first, *others}) == 100
    short = texts.short_texts(20_000)
    assert len(set(short)) == 20_000


# What is computed


@pytest.mark.parametrize("lengths", [[7], [20, 20, 20], [512, 3]])
def test_flops_are_those_that_torch_counts(lengths: list[int]) -> None:
    model, tagger, classifier = Albert(TINY).eval(), TokenHead(32, 5, "mean"), TextHead(32, 2)
    counter = FlopCounterMode(display=False)
    # To the counter, neither oneDNN's products are any, nor those in fused kernels for attention
    kernels = torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH)
    with torch.inference_mode(), kernels[0], kernels[1], counter:
        for length in lengths:
            states = model(torch.ones(1, length, dtype=torch.int64))[0]  # (S, H)
            tagger(states)
            classifier(states[:1])
    ours = ceilings.flops(TINY.to_dict(), lengths, n_tags=5, n_classes=2)
    assert ours == counter.get_total_flops()


def test_windows_show_every_piece_once() -> None:
    assert ceilings.windows([0, 10, 510, 511, 1025], 512) == [2, 12, 512, 512, 3, 512, 512, 7]


def test_ceilings_of_both_libraries() -> None:
    pytest.importorskip("openvino")
    measured = ceilings.measure(TINY.to_dict(), seconds=0.0)
    assert set(measured) == {"float32", "bfloat16", "int8"}
    for best in measured.values():
        speeds = [attempt["gflops"] for attempt in best["tries"] if "gflops" in attempt]
        assert best["gflops"] == max(speeds) > 0
    assert {attempt["library"] for attempt in measured["float32"]["tries"]} == {"torch", "openvino"}


def test_a_ceiling_is_the_fastest_way_as_it_typically_is() -> None:
    rounds = [
        {"float32": {"tries": [{"library": "a", "gflops": a}, {"library": "b", "gflops": b}]}}
        for a, b in ((1.0, 4.0), (9.0, 5.0), (2.0, 6.0))
    ]
    ceiling = ceilings.typical(rounds)["float32"]
    assert (ceiling["library"], ceiling["gflops"]) == ("b", 5.0)


def test_checkpoint_tags_as_much_as_it_should(tmp_path: Path) -> None:
    read = ["Jane Austen lived in Bath, and Michael in Paris. " * 9] * 4
    vocabulary = texts.EMBEDDED / "albert" / "encoder" / "spiece.model"
    made = checkpoint.make(str(tmp_path), "tiny", str(vocabulary), read)
    assert made["shape"]["hidden_size"] == 64
    assert made["lengths"] == load_tokenizer(tmp_path)(read).counts.tolist()

    transformers = pytest.importorskip("transformers")
    model = transformers.AlbertForTokenClassification.from_pretrained(tmp_path).eval()
    checkpoint.add_fast_tokenizer(str(tmp_path))
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path)
    slow = transformers.AlbertTokenizer.from_pretrained(tmp_path)
    ids = fast(read)["input_ids"]
    assert fast.is_fast
    assert ids == slow(read)["input_ids"]
    with torch.inference_mode():
        tags = model(torch.tensor(ids)).logits.argmax(2).flatten()
    names = {model.config.id2label[int(tag)][0] for tag in tags}
    assert names == {"O", "U"}
    assert 0.01 < float((tags > 0).float().mean()) < 0.15


# How it is measured


def test_a_process_answers_and_says_what_goes_wrong(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert once("machine:peak_mb", threads=1, log=log) > 1
    with pytest.raises(ProcessError, match=r"missing: benchmarks\.nothing"):
        once("nothing:at_all", threads=1, log=log)
    with pytest.raises(ProcessError, match="KeyError: 'nobody'"):
        once("contenders:Runner", threads=1, log=log, title="nobody", checkpoint="", texts=[])
    process = Process("stages:Clock", threads=1, log=log)
    with pytest.raises(ProcessError, match="AttributeError"):
        process.call("nothing")
    process._process.kill()
    with pytest.raises(ProcessError, match="died"):
        process.call("watch")
    process.close()


class Runner:
    """Stands for a process: answers at once, or fails at some call."""

    asked: list[str] = []  # noqa: RUF012

    def __init__(self, target: str, *, title: str, **kwargs: object):
        if title == "ONNX Runtime, whole graph float32":
            raise ProcessError("missing: onnxruntime")
        self.title, self.runs = title, 0

    def call(self, method: str, **kwargs: object) -> dict:
        if method == "about":
            return {"load_seconds": 1.0}
        self.asked.append(self.title)
        self.runs += 1
        if self.title == "loop by hand float32" and kwargs["n_texts"] == 8:
            raise ProcessError("MemoryError: too much")
        budget = kwargs["setting"].get("budget", 0)  # type: ignore[attr-defined]
        return {"seconds": abs(budget - 2048) + self.runs, "found": 3, "peak_mb": 9.0}

    def close(self) -> None:
        self.asked.append("")


def test_contenders_take_turns_and_fail_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(race, "Process", Runner)
    monkeypatch.setattr(Runner, "asked", [])
    titles = ("spacy-albert float32", "loop by hand float32", "ONNX Runtime, whole graph float32")
    titles += ("loop by hand bfloat16",)
    rows = race.race(
        [contenders.BY_TITLE[title] for title in titles],
        tmp_path,
        ["text"] * 8,
        sample=2,
        rounds=3,
        threads=1,
        logs=tmp_path,
        say=lambda line: None,
    )
    ours, failed, missing, other = rows
    assert missing["error"] == "missing: onnxruntime"
    assert failed["error"] == "MemoryError: too much"
    assert "seconds" not in failed
    assert other["setting"] == {"budget": 2048}
    assert len(other["tried"]) == 3
    assert len(ours["seconds"]) == len(other["seconds"]) == 3
    in_turns = [titles[0], titles[1], titles[3], "", titles[0], titles[3], titles[0], titles[3]]
    assert [asked for asked in Runner.asked if asked][-7:] == [t for t in in_turns if t]

    race.compare(rows, words=1000, flops=5e9, ceilings={"float32": {"gflops": 10.0}})
    median = ours["seconds"][1]
    assert ours["words_per_second"] == 1000 / median
    assert ours["share_of_ceiling"] == pytest.approx(5 / median / 10)
    assert other["share_of_ceiling"] is None
    assert "words_per_second" not in failed


def test_clock_gives_each_function_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Work:
        def outer(self) -> str:
            nonlocal now
            now += 1
            self.inner()
            self.inner()
            return "done"

        def inner(self) -> None:
            nonlocal now
            now += 10

    monkeypatch.setattr("time.process_time", lambda: now)
    clock = Clock()
    clock.watch("outside", Work, "outer")
    clock.watch("inside", Work, "inner")
    assert Work().outer() == "done"
    assert dict(clock.seconds) == {"outside": 1, "inside": 20}
    clock.stop()
    Work().outer()
    assert dict(clock.seconds) == {"outside": 1, "inside": 20}


def test_every_stage_exists() -> None:
    spacy = pytest.importorskip("spacy")
    from benchmarks import ours

    for _, owner, name in ours.stages(spacy.load(texts.EMBEDDED)):
        assert callable(getattr(owner, name))


# What is said of it


def results(**sections: object) -> dict:
    return {
        "machine": {"cpu": "abacus", "cores": 2, "memory_gb": 1},
        "versions": {"python": "3"},
        "settings": {"threads": 2, "rounds": 1, "shape": "base"},
        "texts": {"source": "made", "texts": 2, "words": 1000, "pieces": 1200, "flops": 2e9}
        | {"histogram": report.histogram([3, 16, 31, 600])},
        "errors": {},
        **sections,
    }


def row(name: str, precision: str, seconds: float) -> dict:
    found = {"peak_mb": 100.0, "setting": {"budget": 8}}
    return {"name": name, "precision": precision, "seconds": [seconds], **found}


def test_histogram() -> None:
    counted = report.histogram([0, 15, 16, 31, 32, 511, 512, 9000])
    assert list(counted) == ["<16", "16-31", "32-63", "64-127", "128-255", "256-511", ">=512"]
    assert list(counted.values()) == [2, 2, 1, 0, 0, 1, 2]


def test_claims_are_ratios_of_what_was_measured() -> None:
    rows = [
        row("spacy-albert", "float32", 1.0),
        row("spacy-albert", "bfloat16", 0.5),
        row("spacy-albert, entities only", "float32", 0.98),
        row("spacy-transformers", "float32", 2.6),
        {"name": "loop by hand", "precision": "float32", "error": "missing: transformers"},
        row("loop by hand", "bfloat16", 0.7),
    ]
    race.compare(rows, words=1000, flops=2e9, ceilings={"float32": {"gflops": 2.5}})
    found = {c.text: c for c in claims.check(results(contenders=rows, stages=None))}
    times = "times the speed of spacy-transformers"
    assert found[f"float32: {times}"].seen == pytest.approx(2.6)
    assert found[f"float32: {times}"].holds is True
    assert found[f"bfloat16: {times}"].seen == pytest.approx(5.2)
    assert found[f"int8: {times}"].holds is None
    assert found["float32: times the speed of a loop by hand"].holds is None
    assert found["bfloat16: times the speed of a loop by hand"].seen == pytest.approx(1.4)
    assert found["bfloat16: times the speed of a loop by hand"].holds is False
    assert found["float32: share of the measured ceiling"].seen == pytest.approx(0.8)
    added = found["float32: what a second head adds to the time"]
    assert added.seen == pytest.approx(1 / 0.98 - 1)
    assert added.holds is True
    assert found["paragraphs: share of padding in matrix products"].holds is None


def test_claims_about_stages_leave_the_embedding_to_the_forward_pass() -> None:
    stages = {"total": 7.0, "sum": 6.5, "beside": 5.9, "padding": {"paragraphs": {"rows": 0.01}}}
    found = {c.text: c for c in claims.check(results(stages=stages))}
    assert found["beside the forward pass: µs a word on one core"].holds is True
    assert found["stages: how far their sum is from the total"].seen == pytest.approx(0.5 / 7)
    assert found["paragraphs: share of padding in matrix products"].holds is True
    assert found["short texts: share of padding in matrix products"].holds is None


def test_report_shows_results_gaps_and_failures() -> None:
    rows = [row("spacy-albert", "float32", 1.0), row("spacy-transformers", "float32", 2.5)]
    rows.append({"name": "loop by hand", "precision": "float32", "error": "missing: transformers"})
    race.compare(rows, words=1000, flops=2e9, ceilings={})
    lines = report.render(results(contenders=rows, errors={"memory": "died"})).splitlines()
    ours = next(line for line in lines if line.startswith("spacy-albert"))
    assert ours.split()[1:5] == ["float32", "1000", "1000-1000", "2.50"]
    assert any("missing: transformers" in line for line in lines)
    assert "memory failed: died" in lines
    assert any("not measured" in line for line in lines)


@pytest.mark.slow
def test_the_whole_run(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--shape", "tiny", "--threads", "1"]
    done = subprocess.run(
        [*command, "--output", str(output)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text("utf8"))
    assert found["errors"] == {}
    assert {"avx2", "asimd"} & set(found["machine"]["flags"])
    for contender in found["contenders"]:
        error = contender.get("error", "")
        assert not error or error.startswith("missing: "), contender
        assert error or contender["words_per_second"] > 0
    assert len(found["contenders"]) == len(contenders.CONTENDERS)
    tagged = [
        c["found"] for c in found["contenders"] if "graph" in c["name"] or "hand" in c["name"]
    ]
    assert max(tagged) == pytest.approx(min(tagged), rel=0.1)  # all run the same model
    agreement = found["agreement"]["precisions"]
    assert agreement["float32"]["same_tags"] == 1
    assert agreement["float32"]["company"]["score_difference"] < 1e-4
    assert min(found["startup"].values()) >= 0
    assert found["memory"]["texts"] == 5_000
    assert min(found["stages"]["stages"].values()) > 0
    assert found["stages"]["beside"] < found["stages"]["total"]
    assert "claim" in done.stdout


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_on_a_cpu(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks", "gpu", "--device", "cpu", "--quick"]
    command += ["--shape", "tiny", "--workers", "1", "2", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text("utf8"))
    assert found["answers"]["float32: same best tags"] == 1
    assert found["answers"]["alone = in a batch: same tags"] == 1
    assert found["engine"]["bfloat16, 4096"]["pieces/s"] > 0
    assert found["pipe"]["bfloat16: words/s"] > 0
    assert set(found["workers"]) == {"1", "2"}
