"""Our ALBERT against `transformers`, and the promises of its docstrings."""

import itertools
import random

import pytest
import torch
import transformers
from torch import Tensor, nn

from spacy_albert.checkpoints import build_albert, hugging_face_names, load_checkpoint
from spacy_albert.modeling import (
    CONFIGS,
    Albert,
    AlbertConfig,
    ClassifierHead,
    Layer,
    Linear,
    MaskedLanguageModelHead,
    SentenceOrderHead,
    attend,
)

TINY = AlbertConfig(
    vocab_size=60,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=56,
    max_position_embeddings=24,
)


def tiny(**changes) -> AlbertConfig:
    return AlbertConfig.from_dict({**TINY.to_dict(), **changes})


# transformers cannot run more inner layers than it has layers to a group (an IndexError).
SHAPES = random.Random(0).sample(
    [
        tiny(
            hidden_size=hidden,
            embedding_size=hidden if square else 16,
            num_hidden_layers=layers,
            num_hidden_groups=groups,
            inner_group_num=inner,
            hidden_act=activation,
        )
        for hidden, square, layers, groups, inner, activation in itertools.product(
            (32, 48), (True, False), (1, 2, 3, 4), (1, 2), (1, 2), ("gelu", "gelu_new", "relu")
        )
        if groups * inner <= layers
    ],
    40,
)


def describe(config: AlbertConfig) -> str:
    return (
        f"E{config.embedding_size}-H{config.hidden_size}-L{config.num_hidden_layers}"
        f"-G{config.num_hidden_groups}-I{config.inner_group_num}-{config.hidden_act}"
    )


def reference(config: AlbertConfig, architecture: str = "AlbertModel", **settings):
    """A model of `transformers` whose LayerNorms and biases differ from each other too."""
    torch.manual_seed(1)
    model = getattr(transformers, architecture)(
        transformers.AlbertConfig(**config.to_dict(), **settings, attn_implementation="eager")
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def moved(model, directory):
    """Our encoder with the weights of a model of `transformers`, and the weights of its heads."""
    model.save_pretrained(directory)
    checkpoint = load_checkpoint(directory)
    return build_albert(checkpoint), checkpoint.heads


def load_head(head: nn.Module, heads: dict[str, Tensor], name: str) -> nn.Module:
    head.load_state_dict(
        {k.removeprefix(f"{name}."): t for k, t in heads.items() if k.startswith(f"{name}.")}
    )
    return head.eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and segments of sequences of different lengths."""
    torch.manual_seed(2)
    lengths = torch.tensor([13, 7, 1, 10])
    mask = torch.arange(13)[None, :] < lengths[:, None]
    ids = torch.randint(5, 60, (4, 13)).where(mask, 0)
    return ids, mask, torch.randint(0, 2, (4, 13))


def hugging_face_inputs(batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    ids, mask, segments = batch
    return {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": segments}


def assert_equal(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("config", SHAPES, ids=describe)
def test_states_equal_transformers(config, batch, tmp_path):
    theirs = reference(config)
    albert, _ = moved(theirs, tmp_path)
    ids, mask, segments = batch
    with torch.no_grad():
        for segmented in (segments, None):
            wanted = theirs(ids, mask.long(), segmented)
            states = albert(ids, mask, segmented)
            assert_equal(states[mask], wanted.last_hidden_state[mask])
            assert_equal(albert.pool(states), wanted.pooler_output)
        assert_equal(albert(ids[:1]), theirs(ids[:1]).last_hidden_state)


@pytest.mark.parametrize("config", SHAPES[:12], ids=describe)
def test_gradients_equal_transformers(config, batch, tmp_path):
    theirs = reference(config)
    albert, _ = moved(theirs, tmp_path)
    ids, mask, segments = batch
    rows = torch.randn(int(mask.sum()), config.hidden_size)
    pooled_rows = torch.randn(len(ids), config.hidden_size)

    wanted = theirs(**hugging_face_inputs(batch))
    (
        (wanted.last_hidden_state[mask] * rows).mean() + (wanted.pooler_output * pooled_rows).mean()
    ).backward()
    states = albert(ids, mask, segments)
    ((states[mask] * rows).mean() + (albert.pool(states) * pooled_rows).mean()).backward()

    expected = {name: weight.grad for name, weight in theirs.named_parameters()}
    for name, weight in albert.named_parameters():
        parts = hugging_face_names(name)
        assert_equal(weight.grad, torch.cat([expected.pop(part) for part in parts]))
        assert weight.grad.abs().max() > 1e-4, name
    assert not expected


def test_base_shape_equals_transformers(tmp_path):
    config = CONFIGS["albert-base-v2"]
    torch.manual_seed(0)
    theirs = transformers.AlbertModel(transformers.AlbertConfig(**config.to_dict())).eval()
    albert, _ = moved(theirs, tmp_path)
    mask = torch.arange(40)[None, :] < torch.tensor([40, 11])[:, None]
    ids = torch.randint(5, 30000, (2, 40)).where(mask, 0)
    with torch.no_grad():
        wanted = theirs(ids, mask.long())
        states = albert(ids, mask)
    assert_equal(states[mask], wanted.last_hidden_state[mask])
    assert_equal(albert.pool(states), wanted.pooler_output)


@pytest.mark.parametrize("config", SHAPES[:6], ids=describe)
def test_pretraining_heads_equal_transformers(config, batch, tmp_path):
    theirs = reference(config, "AlbertForPreTraining")
    albert, heads = moved(theirs, tmp_path)
    words = load_head(
        MaskedLanguageModelHead(config, albert.embeddings.words), heads, "predictions"
    )
    order = load_head(SentenceOrderHead(config), heads, "sop_classifier")
    ids, mask, segments = batch
    wanted = theirs(**hugging_face_inputs(batch))
    states = albert(ids, mask, segments)
    predictions = words(states)
    assert_equal(predictions[mask], wanted.prediction_logits[mask])
    assert_equal(order(albert.pool(states)), wanted.sop_logits)

    # The embeddings learn from both ends: where they are looked up and where they predict.
    assert words.decoder.weight is albert.embeddings.words.weight
    predictions[mask].logsumexp(-1).mean().backward()
    wanted.prediction_logits[mask].logsumexp(-1).mean().backward()
    assert_equal(
        albert.embeddings.words.weight.grad, theirs.albert.embeddings.word_embeddings.weight.grad
    )


def test_masked_language_model_equals_transformers(batch, tmp_path):
    theirs = reference(TINY, "AlbertForMaskedLM")
    albert, heads = moved(theirs, tmp_path)
    head = load_head(MaskedLanguageModelHead(TINY, albert.embeddings.words), heads, "predictions")
    ids, mask, segments = batch
    wanted = theirs(**hugging_face_inputs(batch)).logits[mask]
    assert_equal(head(albert(ids, mask, segments)[mask]), wanted)


@pytest.mark.parametrize("architecture", ["TokenClassification", "SequenceClassification"])
def test_classifiers_equal_transformers(architecture, batch, tmp_path):
    theirs = reference(TINY, f"AlbertFor{architecture}", num_labels=5)
    albert, heads = moved(theirs, tmp_path)
    head = load_head(ClassifierHead(TINY.hidden_size, 5), heads, "classifier")
    ids, mask, segments = batch
    wanted = theirs(**hugging_face_inputs(batch)).logits
    states = albert(ids, mask, segments)
    if architecture == "TokenClassification":
        assert_equal(head(states)[mask], wanted[mask])
    else:
        assert_equal(head(albert.pool(states)), wanted)


def test_question_answering_equals_transformers(batch, tmp_path):
    theirs = reference(TINY, "AlbertForQuestionAnswering")
    albert, heads = moved(theirs, tmp_path)
    head = load_head(ClassifierHead(TINY.hidden_size, 2), heads, "qa_outputs")
    ids, mask, segments = batch
    wanted = theirs(**hugging_face_inputs(batch))
    start, end = head(albert(ids, mask, segments)).unbind(-1)
    assert_equal(start[mask], wanted.start_logits[mask])
    assert_equal(end[mask], wanted.end_logits[mask])


def test_multiple_choice_equals_transformers(batch, tmp_path):
    theirs = reference(TINY, "AlbertForMultipleChoice")
    albert, heads = moved(theirs, tmp_path)
    head = load_head(ClassifierHead(TINY.hidden_size, 1), heads, "classifier")
    ids, mask, segments = batch
    choices = {name: t.view(2, 2, -1) for name, t in hugging_face_inputs(batch).items()}
    scores = head(albert.pool(albert(ids, mask, segments)))
    assert_equal(scores.view(2, 2), theirs(**choices).logits)


def test_a_sequence_does_not_feel_its_batch(batch, tmp_path):
    albert, _ = moved(reference(TINY), tmp_path)
    ids, mask, segments = batch
    with torch.no_grad():
        together = albert(ids, mask, segments)
        for row, length in enumerate(mask.sum(1)):
            alone = albert(ids[row : row + 1, :length], segments=segments[row : row + 1, :length])
            assert_equal(together[row, :length], alone[0])
        # What stands at padding must not matter either.
        assert_equal(albert(ids.where(mask, 59), mask, segments)[mask], together[mask])


def test_forward_is_embed_then_each_layer_by_depth(batch, tmp_path):
    albert, _ = moved(reference(tiny(num_hidden_groups=2)), tmp_path)
    ids, mask, segments = batch
    with torch.no_grad():
        hidden = albert.embed(ids, segments)
        for layer in albert.layers_by_depth():
            hidden = layer(hidden, mask)
        assert torch.equal(hidden, albert(ids, mask, segments))


@pytest.mark.parametrize("is_padded", [False, True])
def test_attention_that_keeps_its_weights_equals_that_of_torch(is_padded, monkeypatch):
    qkv = torch.randn(3, 2, 4, 9, 8, dtype=torch.float64, requires_grad=True)  # (3, B, A, S, d)
    mask = torch.arange(9) < torch.tensor([[9], [5]]) if is_padded else None
    found = []
    for few in (9, 8):
        monkeypatch.setattr("spacy_albert.modeling.FEW", few)
        mixed = attend(*qkv, mask, 0.0)
        (gradient,) = torch.autograd.grad(mixed.square().sum(), qkv)
        is_torchs = "ScaledDotProduct" in type(mixed.grad_fn).__name__
        assert is_torchs == (few == 8)
        found.append((mixed, gradient))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("shape", [(7, 48), (3, 5, 48), (1, 48), (0, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_linear_is_that_of_torch(shape, dtype):
    torch.manual_seed(0)
    ours = Linear(48, 96).to(dtype)
    plain = nn.Linear(48, 96).to(dtype)
    plain.load_state_dict(ours.state_dict())
    states = torch.randn(*shape[:-1], 96).to(dtype)[..., ::2]  # every other place in memory
    found = []
    for layer in (ours, plain):
        leaf = states.detach().requires_grad_()
        out = layer(leaf)
        (out * torch.arange(96)).sum().backward()
        found.append([out, leaf.grad, layer.weight.grad, layer.bias.grad])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-4)


def test_linear_is_cast_as_that_of_torch():
    layer, states = Linear(48, 96), torch.randn(7, 48)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(states), nn.functional.linear(states, layer.weight, layer.bias))
    with torch.inference_mode():
        assert layer(states).is_inference()


def test_layers_by_depth_follow_groups_and_inner_groups():
    albert = Albert(tiny(num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2))
    (a, b), (c, d) = albert.groups
    assert list(albert.layers_by_depth()) == [a, b, a, b, c, d, c, d]
    shared = Albert(tiny(num_hidden_layers=5))
    assert list(shared.layers_by_depth()) == [shared.groups[0][0]] * 5


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("base", 11_683_584),
        ("large", 17_683_968),
        ("xlarge", 58_724_864),
        ("xxlarge", 222_595_584),
    ],
)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_published_sizes(size, version, parameters):
    config = CONFIGS[f"albert-{size}-{version}"]
    with torch.device("meta"):
        albert = Albert(config)
    assert sum(weight.numel() for weight in albert.parameters()) == parameters
    assert config.hidden_act == {"v1": "gelu", "v2": "gelu_new"}[version]
    dropout = 0.1 if version == "v1" and size != "xxlarge" else 0.0
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (dropout, dropout)
    assert config.classifier_dropout_prob == 0.1


def test_default_config_is_base_v2():
    assert AlbertConfig() == CONFIGS["albert-base-v2"]
    assert len(CONFIGS) == 8


@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_acts_in_training_only(name, batch):
    torch.manual_seed(0)
    albert = Albert(tiny(**{name: 0.5}))
    plain = Albert(TINY)
    plain.load_state_dict(albert.state_dict())
    ids, mask, segments = batch
    assert not torch.equal(albert(ids, mask, segments), albert(ids, mask, segments))
    wanted = plain(ids, mask, segments)
    assert torch.equal(albert.eval()(ids, mask, segments), wanted)
    assert torch.equal(plain.eval()(ids, mask, segments), wanted)


@pytest.mark.parametrize("silenced", ["attention_out", "ffn_out"])
def test_dropout_reaches_both_blocks_as_in_google(silenced):
    layer = Layer(tiny(hidden_dropout_prob=0.5))
    hidden = torch.randn(2, 5, 32)
    # One block now adds zero, dropped out or not; what differs comes from the other.
    for weight in getattr(layer, silenced).parameters():
        nn.init.zeros_(weight)
    assert not torch.equal(layer(hidden), layer(hidden))


def test_dropout_reaches_the_embeddings():
    albert = Albert(tiny(hidden_dropout_prob=0.5))
    ids = torch.arange(5, 25).view(2, 10)
    assert not torch.equal(albert.embed(ids), albert.embed(ids))


def test_heads_drop_out_as_in_transformers():
    torch.manual_seed(0)
    pooled = torch.randn(64, 32)
    config = tiny(classifier_dropout_prob=0.5)
    for head in (ClassifierHead(32, 3, dropout=0.5), SentenceOrderHead(config)):
        assert not torch.equal(head(pooled), head(pooled))
        head.eval()
        assert torch.equal(head(pooled), head(pooled))
    answering = ClassifierHead(32, 2)
    assert torch.equal(answering(pooled), answering(pooled))


def test_fresh_weights():
    torch.manual_seed(0)
    albert = Albert(CONFIGS["albert-base-v2"])
    for name, weight in albert.named_parameters():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif "norm" in name:
            assert (weight == 1).all(), name
        else:
            assert weight.abs().max() <= 0.04, name
            if weight.numel() > 10_000:  # a normal cut at two deviations keeps 0.88 of them
                assert weight.std().item() == pytest.approx(0.02 * 0.8796, rel=0.02), name
    assert not albert.embeddings.words.weight[0].any()
    assert albert.embeddings.words.weight[1].any()
    words = albert.embeddings.words.weight.clone()
    MaskedLanguageModelHead(albert.config, albert.embeddings.words)
    assert torch.equal(words, albert.embeddings.words.weight)


def test_too_long_a_sequence_is_refused():
    with pytest.raises(ValueError, match=r"25 pieces .* 24 positions .* windows"):
        Albert(TINY)(torch.ones(1, 25, dtype=torch.long))


def test_a_mask_of_numbers_is_refused(batch):
    ids, mask, _ = batch
    with pytest.raises(ValueError, match=r"torch\.float32, but must be bool"):
        Albert(TINY)(ids, mask.float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 30}, r"num_attention_heads \(4\) must divide hidden_size \(30\)"),
        ({"hidden_act": "swish"}, "hidden_act is 'swish', but must be one of gelu, gelu_new, relu"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "60"}, "vocab_size is '60'"),
        ({"intermediate_size": 12.5}, "intermediate_size is 12.5"),
        ({"hidden_dropout_prob": 1}, "hidden_dropout_prob is 1, but must be a probability below 1"),
        ({"hidden_dropout_prob": "0"}, "hidden_dropout_prob is '0'"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0"),
        ({"pad_token_id": 60}, r"pad_token_id is 60, .* below vocab_size \(60\)"),
        ({"num_hidden_groups": 4}, r"num_hidden_groups \(4\) must not exceed num_hidden_layers"),
        ({"position_embedding_type": "relative_key"}, "'relative_key', but only 'absolute'"),
    ],
)
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_config_reads_what_transformers_writes():
    theirs = transformers.AlbertConfig(**TINY.to_dict(), num_labels=7, problem_type="regression")
    assert AlbertConfig.from_dict(theirs.to_dict()) == TINY


@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "intermediate_size"])
def test_sizes_are_not_guessed(name):
    # transformers would take them from xxlarge, its default, where ours is base.
    with pytest.raises(ValueError, match=f"{name} is missing"):
        tiny(**{name: None})
    others = {field: value for field, value in TINY.to_dict().items() if field != name}
    with pytest.raises(ValueError, match=f"{name} is missing"):
        AlbertConfig.from_dict(others)


def test_every_other_default_is_that_of_transformers():
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 56}
    theirs = transformers.AlbertConfig(**sizes).to_dict()
    ours = AlbertConfig.from_dict(sizes).to_dict()
    assert ours == {name: theirs[name] for name in ours}


def test_null_in_a_config_takes_the_default():
    assert tiny(pad_token_id=None).pad_token_id == 0
    config = tiny(classifier_dropout_prob=None, hidden_dropout_prob=0.25)
    assert config.classifier_dropout_prob == 0.25
