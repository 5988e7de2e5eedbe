"""The quality benchmark: its scores, its batches, and that both sides are asked the same."""

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import spacy
import torch
from spacy.tokens import Doc
from thinc.api import Config
from util import FACTORIES, TINY, examples

from benchmarks import (
    claims,
    quality,
    quality_ours,
    quality_plain,
    quality_pretraining,
    report,
    texts,
)
from benchmarks.quality_ours import Ours
from benchmarks.quality_plain import Plain, padded
from benchmarks.quality_tasks import BY_NAME, THRESHOLD, Task, padding, plan, rows
from spacy_albert.checkpoints import save_checkpoint
from spacy_albert.modeling import Albert, AlbertConfig
from spacy_albert.tokenization import SentencePieceTokenizer, load_tokenizer

ROOT = Path(__file__).parents[1]
ENCODER = texts.EMBEDDED / "albert" / "encoder"
NER, TEXTCAT, TOPICS = BY_NAME["wikigold"], BY_NAME["Banking77"], BY_NAME["GoEmotions"]
VOCAB = spacy.blank("en").vocab

# Scores


def with_cats(*annotated: dict[str, float]) -> list[Doc]:
    docs = [Doc(VOCAB, words=["x"]) for _ in annotated]
    for doc, cats in zip(docs, annotated):
        doc.cats = cats
    return docs


def test_span_f1_by_hand() -> None:
    tags = ["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "I-PER", "B-LOC", "I-LOC"], ["O"] * 4
    right, border, nothing = (Doc(VOCAB, words=list("abcd"), ents=list(ents)) for ents in tags)
    assert NER.labels([right, nothing]) == ["LOC", "PER"]
    assert NER.score([right, nothing], [right, nothing]) == 100
    assert NER.score([right, nothing], [border, border]) == pytest.approx(100 * 2 / (2 + 4))


def test_accuracy_by_hand() -> None:
    gold = with_cats(*({"a": 1.0, "b": 0.0, "c": 0.0} for _ in range(3)))
    found = with_cats(*({"a": a, "b": 0.3, "c": 0.1} for a in (0.6, 0.2, 0.31)))
    assert TEXTCAT.labels(gold) == ["a", "b", "c"]
    assert TEXTCAT.score(gold, found) == pytest.approx(100 * 2 / 3)


def test_macro_f1_by_hand() -> None:
    labels = "joy", "fear", "grief"
    told = [{"joy"}, {"joy", "fear"}, {"fear"}, {"grief"}], [{"joy"}, {"joy"}, {"joy", "fear"}, ()]
    gold, found = (
        with_cats(*({c: yes if c in true else no for c in labels} for true in truth))
        for truth, yes, no in zip(told, (1.0, THRESHOLD), (0.0, THRESHOLD - 0.01))
    )
    joy = 2 * (2 / 3) * 1 / (2 / 3 + 1)  # precision 2/3, recall 1
    fear = 2 * 1 * (1 / 2) / (1 + 1 / 2)
    assert TOPICS.score(gold, found) == pytest.approx(100 * (joy + fear + 0) / 3)


# Batches


def test_a_plan_reads_everything_in_every_epoch_but_what_is_left_over() -> None:
    lengths = list(range(10, 17))
    batches = plan(lengths, batch=3, steps=5, seed=1)
    assert [len(batch) for batch in batches] == [3] * 5
    for first in (0, 2):
        assert max(Counter(i for batch in batches[first : first + 2] for i in batch).values()) == 1
    assert batches == plan(lengths, batch=3, steps=5, seed=1)
    assert batches[:4] == plan(lengths, batch=3, steps=4, seed=1)
    assert batches != plan(lengths, batch=3, steps=5, seed=2)


def test_a_plan_puts_like_lengths_together() -> None:
    lengths = [1 + i % 50 for i in range(1000)]
    batches = plan(lengths, batch=10, steps=100, seed=0)
    assert sorted(i for batch in batches for i in batch) == list(range(1000))
    assert padding(lengths, batches) < 0.1
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_padding_by_hand() -> None:
    assert padding([4, 2, 6, 6], [[0, 1], [2, 3]]) == pytest.approx(1 - 18 / 20)
    found = padded([[2, 7, 3], [2, 3]])
    assert found["input_ids"].tolist() == [[2, 7, 3], [2, 3, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_rows_know_where_tokens_begin() -> None:
    words = ["Michael", "ﬁnds", "\u200b", "café-bar", "🦜", "in", "London", "."]
    doc = Doc(VOCAB, words=words, spaces=[True] * 6 + [False] * 2)
    (row,) = rows([doc], ENCODER)
    pieces = SentencePieceTokenizer((ENCODER / "spiece.model").read_bytes()).pieces()
    spelled = [pieces[i] for i in row.ids]
    assert spelled[0] == "[CLS]"
    assert spelled[-1] == "[SEP]"
    firsts = dict(zip(words, row.firsts))
    assert firsts["\u200b"] == -1
    assert firsts["🦜"] > 0
    begins = {word: spelled[i].lstrip("▁").lower() for word, i in firsts.items() if i >= 0}
    assert "michael".startswith(begins["Michael"])
    assert "finds".startswith(begins["ﬁnds"])
    assert "cafe".startswith(begins["café-bar"])
    assert "london".startswith(begins["London"])
    assert begins["."] == "."
    assert row.firsts[-1] == len(row.ids) - 2


# Data


@pytest.mark.parametrize(
    ("name", "train", "test", "labels"),
    [
        ("WNUT-17", 3394, 1287, 6),
        ("Banking77", 10003, 3080, 77),
        pytest.param("GoEmotions", 43410, 5427, 28, marks=pytest.mark.slow),
    ],
)
def test_data_sets_are_whole(shared_data, name, train, test, labels) -> None:
    task = BY_NAME[name]
    docs = task.read(spacy.blank("en"))
    assert (len(docs["train"]), len(docs["test"])) == (train, test)
    assert len(task.labels(docs["train"])) == len(task.labels(docs["test"])) == labels
    assert all(map(len, [*docs["train"], *docs["test"]]))
    if name == "WNUT-17":
        assert sum(len(doc.ents) for doc in docs["test"]) == 1079


# Both sides


@pytest.mark.parametrize("head", ["textcat", "topics"])
def test_both_sides_learn_the_same(head, tiny_spm, tmp_path, monkeypatch) -> None:
    """Without what is random, and without clipping, the same steps lead to the same answers."""
    torch.manual_seed(0)
    tokenizer = SentencePieceTokenizer(tiny_spm)
    shape = AlbertConfig.from_dict({**TINY, "vocab_size": tokenizer.size})
    save_checkpoint(tmp_path, shape, Albert(shape).state_dict())
    tokenizer.save(tmp_path)

    def read(nlp):
        docs = [example.reference for example in examples(nlp, [head])]
        return {"train": docs[:6], "test": docs[6:]}

    kind = FACTORIES[head].removeprefix("albert_")
    monkeypatch.setitem(BY_NAME, "tiny", Task("tiny", kind, read, batch=2, epochs=3))
    for side in (quality_ours, quality_plain):
        monkeypatch.setattr(side, "DROPOUT", 0.0)
        monkeypatch.setattr(side, "CLIP", 1e9)
    ours, plain = Ours("tiny", str(tmp_path), None), Plain("tiny", str(tmp_path), None)
    ours.learn(seed=0, steps=9, rate=0.0, warm_up=1)
    start = answers(ours)
    classifier = ours.nlp.get_pipe(kind).head.module.classifier.state_dict()
    make = plain._model

    def begin_alike():
        model = make()
        model.classifier.load_state_dict(classifier)
        return model

    monkeypatch.setattr(plain, "_model", begin_alike)
    settings = {"seed": 0, "steps": 9, "rate": 0.01, "warm_up": 3}
    found, wanted = ours.learn(**settings), plain.learn(**settings)
    assert found["pieces"] == wanted["pieces"] > 0
    assert found["score"] == wanted["score"]
    learned = answers(ours)
    torch.testing.assert_close(learned, answers(plain), atol=1e-5, rtol=0)
    assert (learned - start).abs().max() > 1e-3


def answers(side: Ours | Plain) -> torch.Tensor:
    if isinstance(side, Ours):
        docs = list(side.nlp.pipe(map(quality_ours.bare, side.test)))
    else:
        docs = side._answers()
    return torch.tensor([[doc.cats[label] for label in sorted(doc.cats)] for doc in docs])


def test_both_sides_pre_train_the_same(shared_data, tmp_path, monkeypatch) -> None:
    model = {**TINY, "classifier_dropout_prob": 0.0, "max_position_embeddings": 64}
    training = {"length": 64, "batch": 8, "optimizer": "adamw", "rate": 0.01}
    config = Config({"model": model, "training": training})
    monkeypatch.setattr(quality_pretraining, "load_config", lambda name: config)
    about = quality_pretraining.prepare(str(ENCODER), str(tmp_path), articles=2)
    assert about["precisions"][0] == "float32"
    assert about["pieces"] > 10_000
    ours, plain = (
        side(str(tmp_path), "float32").learn(steps=6)
        for side in (quality_pretraining.Ours, quality_pretraining.Plain)
    )
    assert ours["pieces"] == plain["pieces"] > 5 * 8 * 30
    assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    before = math.log(2 * load_tokenizer(ENCODER).size)  # any piece and any order as probable
    assert ours["loss"] == pytest.approx(before, abs=1)


# What is said of it


def results(ours: list[float], loop: list[float], random: list[float]) -> dict:
    runs = {
        claims.OURS: [{"score": s, "seconds": 2.0, "pieces": 100} for s in ours],
        claims.LOOP: [{"score": s, "seconds": 3.0, "pieces": 100} for s in loop],
        claims.RANDOM: [{"score": s, "seconds": 2.0, "pieces": 100} for s in random],
    }
    sides = {side: quality.scores(found) | quality.speeds(found) for side, found in runs.items()}
    race = {"sides": sides, "times_loop": quality.faster(runs)}
    shape = {"num_hidden_layers": 4, "hidden_size": 256}
    return {
        "machine": {"cpu": "abacus", "cores": 2, "memory_gb": 1},
        "versions": {"python": "3"},
        "settings": {"threads": 2},
        "encoder": shape,
        "tasks": {"wikigold": {"metric": "span F1", "steps": 9, "padding": 0.25, **race}},
        "pretraining": {"float32": {"shape": shape, "batch": 48, "length": 128, **race}},
        "errors": {"WNUT-17": "died"},
    }


def test_claims_compare_with_the_loop_and_with_random_weights() -> None:
    found = claims.quality(results([50.0, 51.0, 52.0], [50.0, 52.0, 54.0], [30.0, 40.0, 49.5]))
    below, gap, speed, pretraining = found
    assert below.seen == pytest.approx(1 / 2)
    assert below.holds is True
    assert gap.seen == pytest.approx(0.5)
    assert gap.holds is False
    assert speed.seen == pretraining.seen == pytest.approx(1.5)
    assert speed.holds is pretraining.holds is True
    assert pretraining.bound == 1.3
    below, *_ = claims.quality(results([50.0], [52.0], [30.0]))
    assert below.holds is None


def test_report_shows_scores_and_failures() -> None:
    lines = report.quality(results([50.0, 51.0, 52.0], [50.0, 52.0, 54.0], [30.0, 40.0, 50.0]))
    (row,) = [line for line in lines.splitlines() if line.startswith("wikigold ")]
    shown = " ".join(row.split()[1:])
    assert shown == "span F1 9 52.0 ± 2.0 51.0 ± 1.0 40.0 ± 10.0 25% 50 33 1.50"
    (row,) = [line for line in lines.splitlines() if line.startswith("float32 ")]
    assert row.split() == ["float32", "4", "256", "48", "128", "50", "33", "1.50"]
    assert "WNUT-17 failed: died" in lines


def test_parts_are_added_to_the_same_run_only(tmp_path) -> None:
    output = tmp_path / "quality.json"
    asked = ["--output", str(output), "--threads", "1", "--only", "wikigold"]
    begun = quality.begin(quality.parse(asked))
    assert begun["tasks"] == begun["pretraining"] == begun["errors"] == {}
    assert str(Path.home()) not in json.dumps(begun)
    begun["tasks"]["WNUT-17"] = {"metric": "span F1"}
    output.write_text(json.dumps(begun))
    assert quality.begin(quality.parse(asked)) == begun
    assert quality.begin(quality.parse(asked[:-2]))["tasks"] == {}
    with pytest.raises(SystemExit, match=r"another run: it differs in settings\."):
        quality.begin(quality.parse([*asked, "--quick"]))


@pytest.mark.slow
def test_the_whole_run(shared_data, tmp_path) -> None:
    output = tmp_path / "quality.json"
    command = [sys.executable, "-m", "benchmarks", "quality", "--quick", "--threads", "1"]
    command += ["--output", str(output), "--only"]
    for part in ("wikigold", "pre-training"):
        done = subprocess.run([*command, part], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text("utf8"))
    assert found["errors"] == {}
    assert "claim" in done.stdout
    for row in (*found["tasks"].values(), *found["pretraining"].values()):
        assert row["times_loop"] > 0
    for side in found["tasks"]["wikigold"]["sides"].values():
        assert side["pieces_per_second"][0] > 0
        assert 0 <= side["scores"][0] <= 100
