"""Executors give what the model gives, whatever is in a batch; the engine makes do with what is
there.
"""

import copy
import importlib.util
import itertools
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spacy_albert import engine as engine_module
from spacy_albert.engine import Engine, choose, is_out_of_memory
from spacy_albert.executors import flat
from spacy_albert.executors.base import Executor, row_in_grid
from spacy_albert.executors.flat import FlatExecutor, padded_attention, varlen_attention
from spacy_albert.executors.openvino import OpenVinoExecutor
from spacy_albert.heads import ClsStates, States
from spacy_albert.modeling import ACTIVATIONS, Albert, AlbertConfig
from spacy_albert.reader import Reader
from spacy_albert.reading import Reading
from spacy_albert.tokenization import SentencePieceTokenizer

openvino = pytest.importorskip("openvino")
THREADS = torch.get_num_threads()

SHAPE = {
    "vocab_size": 100,
    "embedding_size": 16,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 40,
}
SHAPES = {
    "one layer": {},
    "two groups": {"num_hidden_groups": 2},
    "two layers in a group": {"inner_group_num": 2},
    **{act: {"hidden_act": act} for act in ACTIVATIONS},
}
#: Where OpenVINO was seen to give the same bits in any company; elsewhere it has other kernels.
FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
TO_THE_BIT = "avx512_bf16" in FLAGS and "amx_bf16" not in FLAGS
LENGTHS = np.array([40, 31, 31, 7, 3, 2])


def make_model(**shape) -> Albert:
    torch.manual_seed(0)
    model = Albert(AlbertConfig(**SHAPE | shape)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def flat_batch(lengths: np.ndarray) -> tuple[Tensor, Tensor]:
    """Random ids, and positions."""
    ids = np.random.default_rng(0).integers(5, SHAPE["vocab_size"], lengths.sum())
    positions = np.concatenate([np.arange(length) for length in lengths])
    return torch.from_numpy(ids), torch.from_numpy(positions)


def run(executor: Executor, lengths: np.ndarray = LENGTHS) -> Tensor:
    with torch.inference_mode():
        return executor(executor.embed(*flat_batch(lengths)), lengths).float()


def one_by_one(model: Albert, lengths: np.ndarray = LENGTHS) -> Tensor:
    """Each window by itself, through the model's own forward."""
    ids, _ = flat_batch(lengths)
    with torch.inference_mode():
        return torch.cat([model(window[None])[0] for window in ids.split(lengths.tolist())])


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


EXECUTORS = {
    "torch float32": FlatExecutor,
    "torch bfloat16": lambda model: FlatExecutor(model, torch.bfloat16),
    "openvino float32": lambda model: OpenVinoExecutor(model, "float32", THREADS),
    "openvino bfloat16": lambda model: OpenVinoExecutor(model, "bfloat16", THREADS),
    "openvino int8": lambda model: OpenVinoExecutor(model, "int8", THREADS),
}
TOLERANCE = {"float32": 1e-6, "bfloat16": 0.02, "int8": 0.04}


# Executors


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", EXECUTORS)
def test_executors_give_what_the_model_gives(name, shape):
    model = make_model(**shape)
    error = relative_error(run(EXECUTORS[name](model)), one_by_one(model))
    precision = name.split()[1]
    assert error < TOLERANCE[precision]
    # ... and less exact where it is meant to be
    assert (error < 1e-5) == (precision == "float32")


@pytest.mark.parametrize("name", ["torch float32", "openvino float32"])
def test_float32_equals_transformers_at_base_shape(name):
    torch.manual_seed(0)
    config = {"vocab_size": 100, "hidden_size": 768, "num_attention_heads": 12}
    config |= {"intermediate_size": 3072, "hidden_act": "gelu_new"}
    theirs = transformers.AlbertModel(
        transformers.AlbertConfig(**config, attn_implementation="eager")
    ).eval()
    ours = Albert(AlbertConfig(**config)).eval()
    names = {"query": 0, "key": 1, "value": 2}
    layer = theirs.encoder.albert_layer_groups[0].albert_layers[0]
    mine = ours.groups[0][0]
    with torch.no_grad():
        for part, number in names.items():
            source = getattr(layer.attention, part)
            mine.qkv.weight.view(3, 768, 768)[number] = source.weight
            mine.qkv.bias.view(3, 768)[number] = source.bias
    for to, source in (
        (mine.attention_out, layer.attention.dense),
        (mine.attention_norm, layer.attention.LayerNorm),
        (mine.ffn_in, layer.ffn),
        (mine.ffn_out, layer.ffn_output),
        (mine.ffn_norm, layer.full_layer_layer_norm),
        (ours.embeddings.words, theirs.embeddings.word_embeddings),
        (ours.embeddings.positions, theirs.embeddings.position_embeddings),
        (ours.embeddings.segments, theirs.embeddings.token_type_embeddings),
        (ours.embeddings.norm, theirs.embeddings.LayerNorm),
        (ours.embeddings.project, theirs.encoder.embedding_hidden_mapping_in),
    ):
        to.load_state_dict(source.state_dict())
    ids, _ = flat_batch(LENGTHS)
    with torch.inference_mode():
        expected = [theirs(x[None]).last_hidden_state[0] for x in ids.split(LENGTHS.tolist())]
    torch.testing.assert_close(
        run(EXECUTORS[name](ours)), torch.cat(expected), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("name", EXECUTORS)
@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=12))
@settings(max_examples=15)
def test_a_window_does_not_see_what_is_beside_it(name, lengths):
    executor = EXECUTORS[name](make_model())
    together = run(executor, np.array(lengths))
    ids, positions = flat_batch(np.array(lengths))
    start = 0
    for length in lengths:
        stop = start + length
        with torch.inference_mode():
            hidden = executor.embed(ids[start:stop], positions[start:stop])
            alone = executor(hidden, np.array([length])).float()
        error = relative_error(together[start:stop], alone)
        assert error == 0 if "openvino" in name and TO_THE_BIT else error < 0.01
        start = stop


def test_int8_rounds_weights_by_row_and_pieces_by_piece():
    """Against the same rounding, written with torch, of one layer. Where a CPU has AMX, OpenVINO
    rounds weights alone, and leaves pieces in bfloat16."""
    model = make_model(num_hidden_layers=1)
    layer = model.groups[0][0]

    def rounded(x: Tensor, width: int) -> Tensor:
        groups = x.reshape(*x.shape[:-1], -1, width)
        scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        return ((groups / scale).round() * scale).reshape(x.shape)

    H = SHAPE["hidden_size"]
    weights_alone, both = copy.deepcopy(model), copy.deepcopy(model)
    for imitation in (weights_alone, both):
        for name in ("qkv", "attention_out", "ffn_in", "ffn_out"):
            part = getattr(imitation.groups[0][0], name)
            with torch.no_grad():
                part.weight.copy_(rounded(part.weight, part.in_features))
            if imitation is both:
                part.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0], H),))
    found = run(OpenVinoExecutor(model, "int8", THREADS))
    exact = one_by_one(model)
    off = [relative_error(found, one_by_one(imitation)) for imitation in (weights_alone, both)]
    # OpenVINO may round to odd steps; its error is that of this rounding, not another
    assert min(off) < relative_error(found, exact)
    assert relative_error(found, exact) < 2 * relative_error(one_by_one(imitation), exact)
    assert layer.qkv.weight.dtype == torch.float32


def test_varlen_attention_equals_padded_attention(monkeypatch):
    """What the CUDA kernel is given, with a kernel written as a loop."""

    def kernel(query, key, value, query_borders, key_borders, longest_query, longest_key):
        assert query_borders.dtype == torch.int32
        assert torch.equal(query_borders, key_borders)
        borders = query_borders.tolist()
        assert longest_query == longest_key == max(np.diff(borders))
        mixed = []
        for start, stop in itertools.pairwise(borders):
            q, k, v = (x[start:stop].transpose(0, 1) for x in (query, key, value))
            mixed.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1))
        return torch.cat(mixed)

    class Kernels:
        varlen_attn = staticmethod(kernel)

    monkeypatch.setattr(flat, "varlen", Kernels)
    model = make_model()
    layer = model.groups[0][0]
    qkv = torch.randn(LENGTHS.sum(), 3 * SHAPE["hidden_size"])
    device = torch.device("cpu")
    with torch.inference_mode():
        torch.testing.assert_close(
            varlen_attention(LENGTHS, device)(layer, qkv),
            padded_attention(LENGTHS, device)(layer, qkv),
        )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 3))
def test_rows_in_the_padded_grid(lengths, extra):
    longest = max(lengths) + extra
    rows = row_in_grid(np.array(lengths), longest).tolist()
    assert rows == [b * longest + s for b, length in enumerate(lengths) for s in range(length)]


def test_openvino_uses_the_threads_it_is_given():
    for threads in (1, 2):
        executor = OpenVinoExecutor(make_model(), "float32", threads)
        (request,) = executor._free.get().values()
        compiled = request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert not compiled.get_property("ENABLE_CPU_PINNING")


# The choice


def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name)
    )


def with_gpus(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


def cpu_that_can(monkeypatch: pytest.MonkeyPatch, *abilities: str) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *names: list(abilities))


def test_auto_on_a_cpu(monkeypatch):
    cpu_that_can(monkeypatch, "FP32", "BF16", "INT8")
    assert str(choose()) == "bfloat16 on cpu with OpenVINO"
    cpu_that_can(monkeypatch, "FP32", "INT8")
    assert str(choose("cpu")) == "float32 on cpu with OpenVINO"
    without_openvino(monkeypatch)
    assert str(choose()) == "float32 on cpu with torch"
    assert "spacy-albert[cpu]" in choose().why
    assert str(choose("cpu", "bfloat16")) == "bfloat16 on cpu with torch"


def test_auto_on_a_gpu(monkeypatch):
    with_gpus(monkeypatch)
    assert str(choose()) == "bfloat16 on cuda with torch"
    assert str(choose("cuda:1", "float32")) == "float32 on cuda:1 with torch"
    assert choose("cpu").executor == "openvino"
    with_gpus(monkeypatch, capability=(7, 5))
    assert str(choose()) == "float32 on cuda with torch"


def test_what_cannot_be_had_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"no precision 'fp16'.*'float32', 'bfloat16', 'int8'"):
        choose("cpu", "fp16")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in ("cuda", "cuda:0", "gpu", ""):
        with pytest.raises(ValueError, match=f"no device '{device}' here.*'cpu'"):
            choose(device)
    with_gpus(monkeypatch)
    with pytest.raises(ValueError, match="'cpu', 'cuda:0', 'cuda:1'"):
        choose("cuda:2")
    with pytest.raises(ValueError, match="int8 runs on a CPU only"):
        choose("cuda:1", "int8")
    without_openvino(monkeypatch)
    with pytest.raises(ValueError, match=r"int8 needs OpenVINO.*pip install"):
        choose("cpu", "int8")


def test_the_choice_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="spacy"):
        Engine(make_model(), "cpu", "int8")
    assert caplog.messages == ["ALBERT runs in int8 on cpu with OpenVINO: as set."]


# The engine


@pytest.mark.parametrize("precision", engine_module.PRECISIONS)
def test_weights_that_change_are_seen(precision):
    model = make_model()
    engine = Engine(model, "cpu", precision)
    ids, _ = flat_batch(LENGTHS)
    with torch.inference_mode():
        before = engine(ids.numpy(), LENGTHS)
        assert engine._current() is engine._current()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    with torch.inference_mode():
        after = engine(ids.numpy(), LENGTHS)
    assert relative_error(before.float(), one_by_one(model)) > 0.1
    assert relative_error(after.float(), one_by_one(model)) < TOLERANCE[precision]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_annotation_drops_nothing_though_it_begins_in_training(precision, monkeypatch):
    """As where the memory of a GPU is measured for the first batch of a training."""
    without_openvino(monkeypatch)
    model = make_model(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    engine = Engine(model.train(), "cpu", precision)
    ids, _ = flat_batch(LENGTHS)
    with torch.inference_mode():
        engine(ids.numpy(), LENGTHS)
        model.eval()
        found = engine(ids.numpy(), LENGTHS)
    assert relative_error(found.float(), one_by_one(model)) < TOLERANCE[precision]


@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_training_drops_as_the_model_does(name):
    """Windows of one length are drawn for in the same order, whether they lie flat or not."""
    model = make_model(**{name: 0.5}).train()
    lengths = np.array([31, 31, 31])
    ids, _ = flat_batch(lengths)
    engine = Engine(model, "cpu", "int8")
    torch.manual_seed(1)
    expected = model(ids.view(3, 31)).view(93, -1)
    torch.manual_seed(1)
    torch.testing.assert_close(engine(ids.numpy(), lengths), expected)
    assert relative_error(engine(ids.numpy(), lengths), expected) > 0.01


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_training_drops_in_windows_of_all_lengths(name, precision):
    model = make_model(**{name: 0.5}).train()
    engine = Engine(model, "cpu", "int8", training_precision=precision)
    ids, _ = flat_batch(LENGTHS)
    once, again = (engine(ids.numpy(), LENGTHS) for _ in range(2))
    start = 0
    for length in LENGTHS:  # the shortest, too
        window = slice(start, start + length)
        assert relative_error(once[window], again[window]) > 0.01
        start += length


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_computes_in_a_precision_of_its_own(precision):
    model = make_model()
    ids, _ = flat_batch(LENGTHS)
    states = Engine(model, "cpu", "int8", training_precision=precision)(ids.numpy(), LENGTHS)
    assert states.dtype == torch.float32
    assert relative_error(states, one_by_one(model)) < TOLERANCE[precision]
    states.sum().backward()
    for name, weight in model.named_parameters():
        assert "pooler" in name or weight.grad.dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_in_bfloat16_are_close_to_those_in_float32(shape):
    ids, _ = flat_batch(LENGTHS)
    gradients = []
    for precision in ("float32", "bfloat16"):
        model = make_model(**shape)
        states = Engine(model, "cpu", training_precision=precision)(ids.numpy(), LENGTHS)
        torch.manual_seed(1)
        states.backward(torch.randn_like(states))
        weights = [p for name, p in model.named_parameters() if "pooler" not in name]
        gradients.append([weight.grad for weight in weights])
    for exact, rounded in zip(*gradients, strict=True):
        assert relative_error(rounded, exact) < 0.1
    flat = (torch.cat([grad.flatten() for grad in of]) for of in reversed(gradients))
    assert 1e-4 < relative_error(*flat) < 0.05


def test_auto_trains_in_what_annotation_takes_by_itself(monkeypatch):
    chosen = engine_module.Choice(torch.device("cpu"), "bfloat16", "openvino", "for the test")
    monkeypatch.setattr(engine_module, "choose", lambda *_: chosen)
    engine = Engine(make_model(), training_precision="auto")
    assert engine._trainer.dtype == torch.bfloat16
    assert Engine(make_model())._trainer.dtype == torch.float32
    with pytest.raises(ValueError, match="no training precision 'int8'"):
        Engine(make_model(), training_precision="int8")


def test_an_engine_goes_to_another_process():
    engine = Engine(make_model(), "cpu", "bfloat16")
    ids, _ = flat_batch(LENGTHS)
    with torch.inference_mode():
        here = engine(ids.numpy(), LENGTHS)
        there = pickle.loads(pickle.dumps(engine))(ids.numpy(), LENGTHS)
    assert torch.equal(here, there)


def test_openvino_has_the_cores_to_itself(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine = Engine(make_model(), "cpu", "float32")
        with torch.inference_mode(), engine.one_torch_thread():
            assert torch.get_num_threads() == 1
            (request,) = engine._current()._free.get().values()  # type: ignore[attr-defined]
            assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 2
        assert torch.get_num_threads() == 2
        with engine.one_torch_thread():  # in training torch computes
            assert torch.get_num_threads() == 2
        without_openvino(monkeypatch)
        alone = Engine(make_model(), "cpu", "float32")
        with torch.inference_mode(), alone.one_torch_thread():
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# Memory


@pytest.fixture(scope="module")
def reader(tiny_spm) -> Reader:
    model = make_model(vocab_size=1000)
    tokenizer = SentencePieceTokenizer(tiny_spm)
    return Reader(model, tokenizer, overlap=8, device="cpu", precision="float32")


def a_reading(n_windows: int, n_pieces: int) -> Reading:
    """Documents of one window each, and of one token a piece."""
    edges = np.arange(n_windows + 1) * n_pieces
    n = n_windows * n_pieces
    return Reading(
        ids=np.random.default_rng(0).integers(5, 1000, n).astype(np.int32),
        window_starts=edges[:-1],
        window_stops=edges[1:],
        window_edges=edges,
        token_pieces=np.arange(n),
        token_counts=np.ones(n, dtype=np.int64),
        windows_per_doc=np.ones(n_windows, dtype=np.int64),
        tokens_per_doc=np.full(n_windows, n_pieces),
    )


@pytest.mark.parametrize("precision", engine_module.PRECISIONS)
def test_lanes_change_nothing(reader, monkeypatch, precision):
    """Batches side by side, each on a core of its own, give the same bits."""
    monkeypatch.setattr(engine_module, "LANE_BATCH", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    engine = Engine(reader.model, "cpu", precision)
    monkeypatch.setattr(reader, "engine", engine)
    reading = a_reading(100, 30)
    with torch.inference_mode():
        assert engine.lanes(3 * 4 * 100) == 3
        assert engine.lanes(3 * 4 * 100 - 1) == 1
        beside = reader.read(reading, [States(), ClsStates()])
        assert list(engine._annotators) == [3]
        monkeypatch.setattr(Engine, "lanes", lambda self, n_pieces: 1)
        after_another = reader.read(reading, [States(), ClsStates()])
    for ours, theirs in zip(beside, after_another):
        error = relative_error(ours, theirs)
        assert error == 0 if TO_THE_BIT else error < 0.01


def test_training_and_torch_have_one_lane(reader, monkeypatch):
    assert Engine(reader.model, "cpu", "float32").lanes(10**9) == 1  # gradients are enabled
    without_openvino(monkeypatch)
    with torch.inference_mode():
        assert Engine(reader.model, "cpu", "float32").lanes(10**9) == 1


class Crowded:
    """An executor with memory for so many pieces."""

    def __init__(self, executor: Executor, room: int, error: Exception):
        self.executor, self.room, self.error = executor, room, error
        self.sizes: list[int] = []

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.executor.embed(ids, positions)

    def __call__(self, hidden: Tensor, lengths: np.ndarray) -> Tensor:
        self.sizes.append(len(hidden))
        if len(hidden) > self.room:
            raise self.error
        return self.executor(hidden, lengths)


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_batches_that_do_not_fit_are_halved(reader, monkeypatch, caplog, error):
    reading = a_reading(100, 30)
    readouts = [States(), ClsStates()]
    with torch.inference_mode():
        expected = reader.read(reading, readouts)
    engine = Engine(reader.model, "cpu", "float32", batch_pieces=1600)
    crowded = Crowded(engine._trainer, 450, error)
    monkeypatch.setattr(engine, "_current", lambda lanes: crowded)
    monkeypatch.setattr(reader, "engine", engine)
    with torch.inference_mode():
        found = reader.read(reading, readouts)
    for theirs, ours in zip(expected, found):
        torch.testing.assert_close(ours, theirs)
    assert crowded.sizes[:3] == [1600, 800, 384]  # windows of 32 pieces
    assert max(crowded.sizes[3:]) == 384
    assert "at most 400 pieces" in caplog.messages[-1]
    with torch.inference_mode():
        reader.read(reading, readouts)
    assert crowded.sizes.count(1600) == 1  # what was learned is kept


def test_a_window_that_does_not_fit_is_an_error(reader, monkeypatch):
    engine = Engine(reader.model, "cpu", "float32")
    crowded = Crowded(engine._trainer, 31, OUT_OF_MEMORY[0])
    monkeypatch.setattr(engine, "_current", lambda lanes: crowded)
    monkeypatch.setattr(reader, "engine", engine)
    with (
        torch.inference_mode(),
        pytest.raises(MemoryError, match=r"single window of 32 pieces.*smaller window"),
    ):
        reader.read(a_reading(3, 30), [States()])


def test_other_errors_are_not_taken_for_a_lack_of_memory(reader, monkeypatch):
    engine = Engine(reader.model, "cpu", "float32")
    crowded = Crowded(engine._trainer, 31, RuntimeError("device-side assert triggered"))
    monkeypatch.setattr(engine, "_current", lambda lanes: crowded)
    monkeypatch.setattr(reader, "engine", engine)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="device-side"):
        reader.read(a_reading(3, 30), [States()])
    assert len(crowded.sizes) == 1
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_the_budget_of_a_gpu_is_measured(reader, monkeypatch):
    engine = Engine(reader.model, "cpu", "float32")
    engine.device = torch.device("cuda", 0)
    monkeypatch.setattr(Engine, "__call__", lambda self, ids, lengths: None)
    for name, value in {
        "reset_peak_memory_stats": None,
        "memory_allocated": 1_000,
        "max_memory_allocated": 1_000 + 40 * 2_000,  # 2,000 bytes a piece
        "memory_reserved": 201_000,
        "mem_get_info": (800_000, 10**9),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert engine.budget(40) == 400  # 0.8 of a million bytes
    assert engine.budget(500) == 500  # never less than a window
    engine.halve_budget(40)
    assert engine.budget(40) == 200
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**12, 10**12))
    engine._budget = None
    assert engine.budget(40) == engine_module.GPU_BATCH
