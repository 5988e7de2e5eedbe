"""The loop: what it computes, that workers agree, and that a broken off run goes on."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings

from spacy_albert.checkpoints import load_checkpoint
from spacy_albert.modeling import AlbertConfig, Embeddings, initialize
from spacy_albert.pretraining import checkpoints
from spacy_albert.pretraining.batches import (
    NOT_ASKED,
    Batch,
    Example,
    collate,
    fillers,
    parts_of,
)
from spacy_albert.pretraining.cooccurrence import neighbour_vectors
from spacy_albert.pretraining.corpus import Corpus, write_shard
from spacy_albert.pretraining.objectives import PreTraining, begin_as_sinusoids
from spacy_albert.pretraining.settings import Settings
from spacy_albert.pretraining.trainer import Trainer

SHAPE = AlbertConfig(
    vocab_size=1000,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
    hidden_dropout_prob=0.1,
)
SETTINGS = Settings(
    length=48,
    held_out=10,
    steps=8,
    batch=6,
    warm_up=2,
    rate=0.01,
    precision="float32",
    part=100,
)


def trainer_of(corpus, tokenizer, settings=SETTINGS, shape=SHAPE, **workers) -> Trainer:
    torch.manual_seed(0)
    return Trainer(PreTraining(shape), tokenizer, corpus, settings, **workers)


@pytest.fixture
def examples(corpus, tokenizer) -> list:
    trainer = trainer_of(corpus, tokenizer)
    return [trainer.examples.example(sequence) for sequence in trainer.sequences.take(24)]


def peer_of(model: PreTraining, tmp_path, tokenizer, corpus):
    """transformers' model with the same weights."""
    trainer = trainer_of(corpus, tokenizer, shape=model.albert.config)
    trainer.model = model
    path = checkpoints.save(tmp_path / "peer", trainer, tokenizer, 1)
    return transformers.AlbertForPreTraining.from_pretrained(path, attn_implementation="sdpa")


def test_loss_and_gradients_equal_transformers(examples, corpus, tokenizer, tmp_path):
    torch.manual_seed(1)
    model = PreTraining(replace(SHAPE, hidden_dropout_prob=0.0, classifier_dropout_prob=0.0))
    peer = peer_of(model, tmp_path, tokenizer, corpus).train()
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    segments, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        n = len(example.ids)
        ids[row, :n] = torch.from_numpy(example.ids.astype(np.int64))
        mask[row, :n] = 1
        segments[row, example.border : n] = 1
        labels[row, torch.from_numpy(example.places)] = torch.from_numpy(
            example.answers.astype(np.int64)
        )
    orders = torch.tensor([example.order for example in examples])
    wanted = peer(
        input_ids=ids,
        attention_mask=mask,
        token_type_ids=segments,
        labels=labels,
        sentence_order_label=orders,
    ).loss
    wanted.backward()

    found = model(collate(examples, torch.device("cpu")))
    loss = found[0] / (labels != -100).sum() + found[1] / (orders != NOT_ASKED).sum()
    loss.backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    theirs = dict(peer.named_parameters())
    ours = dict(model.named_parameters())
    pairs = {
        "albert.embeddings.words.weight": "albert.embeddings.word_embeddings.weight",
        "albert.embeddings.segments.weight": "albert.embeddings.token_type_embeddings.weight",
        "albert.pooler.weight": "albert.pooler.weight",
        "predictions.dense.weight": "predictions.dense.weight",
        "predictions.bias": "predictions.bias",
        "sop_classifier.classifier.weight": "sop_classifier.classifier.weight",
        "albert.groups.0.0.ffn_out.weight": (
            "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight"
        ),
    }
    for our_name, their_name in pairs.items():
        torch.testing.assert_close(
            ours[our_name].grad, theirs[their_name].grad, rtol=1e-4, atol=1e-5
        )
    layer = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention."
    fused = torch.cat([theirs[f"{layer}{n}.weight"].grad for n in ("query", "key", "value")])
    torch.testing.assert_close(
        ours["albert.groups.0.0.qkv.weight"].grad, fused, rtol=1e-4, atol=1e-5
    )


def test_what_is_shown_is_what_was_there_but_for_the_masks(corpus, tokenizer):
    trainer = trainer_of(corpus, tokenizer)
    for sequence in trainer.sequences.take(300):
        example = trainer.examples.example(sequence)
        ids = example.ids.copy()
        ids[example.places] = example.answers
        pieces = corpus.shard(sequence.shard).pieces
        run = pieces[sequence.start : sequence.end].tolist()
        cls, sep = [tokenizer.cls_id], [tokenizer.sep_id]
        if sequence.border < 0:
            assert example.order == NOT_ASKED
            assert ids.tolist() == cls + run + sep
            assert example.border == len(ids)
            continue
        cut = sequence.border - sequence.start
        first, second = run[:cut], run[cut:]
        if sequence.is_swapped:
            first, second = second, first
        assert ids.tolist() == cls + first + sep + second + sep
        assert example.border == len(first) + 2
        assert example.order == sequence.is_swapped
        assert not {0, len(first) + 1, len(ids) - 1} & set(example.places.tolist())


def test_parts_hold_every_example_once_within_the_budget(examples):
    for budget in (1, 60, 100, 10_000):
        parts = parts_of(examples, budget)
        assert sorted(id(e) for part in parts for e in part) == sorted(map(id, examples))
        for part in parts:
            lengths = [len(example.ids) for example in part]
            assert len(part) == 1 or len(part) * max(lengths) <= budget
            *all_but_last, shortest = sorted(lengths, reverse=True)
            is_small = max(lengths) * len(all_but_last) < budget // 4
            assert is_small or 2 * shortest >= max(lengths)


@given(
    lengths=st.lists(st.integers(3, 40), min_size=1, max_size=40),
    n_places=st.integers(0, 3),
)
def test_fillers_make_round_numbers_and_ask_nothing(lengths, n_places):
    examples = [
        Example(np.full(n, 7), n, np.arange(n_places), np.full(n_places, 7), 0) for n in lengths
    ]
    extra = fillers(examples)
    every = [*examples, *extra]
    assert len(every) % 16 == 0
    assert sum(len(example.ids) for example in every) % 256 == 0
    assert sum(len(example.places) for example in every) % 64 == 0
    assert all(0 < len(example.ids) <= max(lengths) for example in extra)
    assert {a for example in extra for a in [example.order, *example.answers]} <= {NOT_ASKED}


def test_fillers_change_nothing(examples):
    torch.manual_seed(1)
    model = PreTraining(replace(SHAPE, hidden_dropout_prob=0.0, classifier_dropout_prob=0.0))
    filled = collate(examples, torch.device("cpu"))
    assert len(filled.firsts) > len(examples)
    n_pieces, n_places = (
        sum(len(getattr(example, name)) for example in examples) for name in ("ids", "places")
    )
    bare = Batch(
        *(tensor[:n_pieces] for tensor in filled[:3]),
        filled.firsts[: len(examples)],
        *(tensor[:n_places] for tensor in filled[4:6]),
        filled.order[: len(examples)],
        filled.lengths[: len(examples)],
    )
    torch.testing.assert_close(model(filled), model(bare))


def test_the_size_of_parts_changes_nothing(corpus, tokenizer):
    shape = replace(SHAPE, hidden_dropout_prob=0.0, classifier_dropout_prob=0.0)
    losses = [
        [f.loss for f in trainer_of(corpus, tokenizer, replace(SETTINGS, part=p), shape).steps()]
        for p in (60, 10_000)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_workers_share_what_one_would_do(corpus, tokenizer):
    def batch(rank: int, workers: int) -> list:
        examples, _ = trainer_of(corpus, tokenizer, rank=rank, workers=workers)._next()
        return [example.ids.tolist() for example in examples]

    whole = batch(0, 1)
    assert [batch(0, 2), batch(1, 2)] == [whole[::2], whole[1::2]]
    assert [batch(n, 3) for n in range(3)] == [whole[n::3] for n in range(3)]


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
def test_a_run_that_was_broken_off_goes_on_as_it_would_have(corpus, tokenizer, tmp_path, optimizer):
    settings = replace(SETTINGS, optimizer=optimizer)
    whole = list(trainer_of(corpus, tokenizer, settings).steps())
    first = trainer_of(corpus, tokenizer, settings)
    begun = []
    for figures in first.steps():
        begun.append(figures)
        if first.step == 3:
            checkpoints.save(tmp_path / "run", first, tokenizer, 3)
        if first.step == 5:  # and two steps that will be taken again
            break
    second = trainer_of(corpus, tokenizer, settings)
    checkpoints.restore(second, checkpoints.found(tmp_path / "run")[-1])
    assert second.step == 3
    went_on = list(second.steps())
    assert [asdict(f) for f in begun[:3] + went_on] == [asdict(f) for f in whole]


def test_a_checkpoint_is_a_model_that_transformers_loads(corpus, tokenizer, tmp_path):
    trainer = trainer_of(corpus, tokenizer)
    list(trainer.steps())
    path = checkpoints.save(tmp_path / "run", trainer, tokenizer, 3)
    peer = transformers.AlbertForPreTraining.from_pretrained(path).eval()
    ids = torch.randint(5, 1000, (2, 20))
    trainer.model.eval()
    with torch.no_grad():
        states = trainer.model.albert(ids)
        wanted = peer(ids)
        torch.testing.assert_close(
            trainer.model.predictions(states), wanted.prediction_logits, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            trainer.model.sop_classifier(trainer.model.albert.pool(states)),
            wanted.sop_logits,
            rtol=1e-4,
            atol=1e-5,
        )
    assert json.loads((path / checkpoints.STATE).read_text())["step"] == 8


def test_only_so_many_checkpoints_are_kept(corpus, tokenizer, tmp_path):
    trainer = trainer_of(corpus, tokenizer)
    for _ in trainer.steps():
        checkpoints.save(tmp_path / "run", trainer, tokenizer, 2)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["step-000000007", "step-000000008"]


@pytest.mark.parametrize("when", ["optimizer", "rename"])
def test_a_full_disk_leaves_the_last_checkpoint(corpus, tokenizer, tmp_path, monkeypatch, when):
    trainer = trainer_of(corpus, tokenizer)
    next(iter(trainer.steps()))
    checkpoints.save(tmp_path / "run", trainer, tokenizer, 1)
    trainer.step += 1

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if when == "optimizer":
        monkeypatch.setattr(checkpoints.safetensors.torch, "save", full)
    else:
        monkeypatch.setattr(checkpoints.Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(tmp_path / "run", trainer, tokenizer, 1)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-000000001"]
    again = trainer_of(corpus, tokenizer)
    checkpoints.restore(again, tmp_path / "run" / "step-000000001")
    assert again.step == 1


def test_what_a_killed_process_leaves_is_no_checkpoint(corpus, tokenizer, tmp_path):
    trainer = trainer_of(corpus, tokenizer)
    next(iter(trainer.steps()))
    path = checkpoints.save(tmp_path / "run", trainer, tokenizer, 1)
    shutil.copytree(path, tmp_path / "run" / ".step-000000002")
    assert checkpoints.found(tmp_path / "run") == [path]
    trainer.step = 2
    checkpoints.save(tmp_path / "run", trainer, tokenizer, 5)
    assert [found.name for found in checkpoints.found(tmp_path / "run")] == [
        "step-000000001",
        "step-000000002",
    ]


def test_going_on_with_a_model_that_lacks_heads(corpus, tokenizer, tmp_path):
    trainer = trainer_of(corpus, tokenizer)
    path = checkpoints.save(tmp_path / "run", trainer, tokenizer, 1)
    encoder = transformers.AlbertModel.from_pretrained(path)
    encoder.save_pretrained(tmp_path / "encoder")
    model = PreTraining(SHAPE)
    fresh = model.predictions.dense.weight.detach().clone()
    missing = checkpoints.load_weights(model, load_checkpoint(tmp_path / "encoder"))
    assert missing == ["predictions", "sop_classifier"]
    assert torch.equal(model.predictions.dense.weight, fresh)
    assert torch.equal(
        model.albert.embeddings.words.weight, trainer.model.albert.embeddings.words.weight
    )
    assert checkpoints.load_weights(model, load_checkpoint(path)) == []
    assert torch.equal(model.predictions.dense.weight, trainer.model.predictions.dense.weight)


@pytest.mark.parametrize("positions", [20, 200])
def test_going_on_with_fewer_positions_or_more(corpus, tokenizer, tmp_path, positions):
    trainer = trainer_of(corpus, tokenizer)
    path = checkpoints.save(tmp_path / "run", trainer, tokenizer, 1)
    model = PreTraining(replace(SHAPE, max_position_embeddings=positions))
    fresh = model.albert.embeddings.positions.weight.detach().clone()
    known = trainer.model.albert.embeddings.positions.weight
    assert checkpoints.load_weights(model, load_checkpoint(path)) == []
    found, n = model.albert.embeddings.positions.weight, min(positions, len(known))
    assert len(found) == positions
    assert torch.equal(found[:n], known[:n])
    assert torch.equal(found[n:], fresh[n:])


def test_held_out_figures_are_the_same_each_time(corpus, tokenizer):
    trainer = trainer_of(corpus, tokenizer)
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first == second
    assert first is not None
    assert first.pieces > 0
    assert trainer_of(corpus, tokenizer, replace(SETTINGS, held_out=0)).evaluate() is None


def test_embeddings_may_begin_as_sinusoids():
    torch.manual_seed(0)
    drawn, waves = Embeddings(SHAPE), Embeddings(SHAPE)
    initialize(drawn, SHAPE.initializer_range)
    waves.load_state_dict(drawn.state_dict())
    begin_as_sinusoids(waves)
    factor = (768 / SHAPE.embedding_size) ** 0.5
    torch.testing.assert_close(waves.words.weight, drawn.words.weight * factor)
    theirs = torch.empty(SHAPE.max_position_embeddings, SHAPE.embedding_size)
    create_sinusoidal_embeddings(*theirs.shape, out=theirs)
    size = drawn.positions.weight.std() * factor
    torch.testing.assert_close(waves.positions.weight.data, theirs * 2**0.5 * size)
    assert all(weight.requires_grad for weight in waves.parameters())


def test_words_may_begin_as_what_is_known_of_their_neighbours(corpus, tokenizer):
    trainer = trainer_of(corpus, tokenizer)
    words = trainer.model.albert.embeddings.words.weight
    before = words.detach().clone()
    trainer.begin_as_neighbours()
    vectors = neighbour_vectors(trainer.sequences, *words.shape)
    is_known = vectors.any(1)
    assert 0 < is_known.sum() < len(words)  # special pieces have no neighbours
    torch.testing.assert_close(words[~is_known], before[~is_known])
    torch.testing.assert_close(words[is_known], vectors[is_known] * before.std())
    assert trainer.model.predictions.decoder.weight is words


def test_it_learns(tmp_path, tokenizer):
    """Documents of ten kinds, each with four sentences of one piece, in order: what is hidden, and
    what comes first, can be told from the rest."""
    kinds = np.random.default_rng(0).integers(10, size=600).tolist()
    documents = [[np.full(8, 10 + 4 * kind + n) for n in range(4)] for kind in kinds]
    write_shard(tmp_path / "a.arrow", documents, {})
    settings = replace(
        SETTINGS,
        optimizer="adamw",
        steps=400,
        batch=32,
        rate=0.003,
        warm_up=40,
        part=4000,
        short=0.0,
    )
    shape = replace(SHAPE, hidden_dropout_prob=0.0, num_hidden_layers=2, initializer_range=0.1)
    trainer = trainer_of(Corpus([tmp_path / "a.arrow"]), tokenizer, settings, shape)
    before = trainer.evaluate()
    for _ in trainer.steps():
        pass
    after = trainer.evaluate()
    assert before.mlm_accuracy < 0.1
    assert after.mlm_accuracy > 0.3
    assert after.sop_accuracy > 0.8


def test_bfloat16_is_close_to_float32(examples):
    torch.manual_seed(0)
    shape = replace(SHAPE, hidden_dropout_prob=0.0, classifier_dropout_prob=0.0)
    exact = PreTraining(shape)
    narrow = PreTraining(shape, torch.bfloat16)
    narrow.load_state_dict(exact.state_dict())
    batch = collate(examples, torch.device("cpu"))
    found = []
    for model in (exact, narrow):
        model(batch)[:2].sum().backward()
        found.append(torch.cat([w.grad.flatten() for w in model.parameters()]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.999


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("length", 4, "length is 4, but must be a whole number, at least 8"),
        ("batch", 0, "batch is 0"),
        ("steps", 1.5, r"steps is 1\.5, but must be a whole number"),
        ("short", 1.5, "short is 1.5, but must be a share"),
        ("optimizer", "sgd", "optimizer is 'sgd', but must be one of lamb, adamw"),
        ("rate", -1.0, "rate is -1.0"),
    ],
)
def test_settings_that_make_no_sense(setting, value, wanted):
    with pytest.raises(ValueError, match=wanted):
        Settings(**{setting: value})


def test_the_rate_rises_and_falls_as_in_the_paper():
    settings = Settings(steps=100, warm_up=10, rate=2.0)
    assert [settings.rate_at(step) for step in (1, 5, 10)] == [0.2, 1.0, 2.0]
    assert settings.rate_at(55) == pytest.approx(0.9)  # of the whole run, as optimization.py has it
    assert settings.rate_at(100) == 0.0
