"""LAMB against the formula of the paper, computed in float64 with numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from spacy_albert.modeling import AlbertConfig
from spacy_albert.pretraining.lamb import Lamb, parameter_groups
from spacy_albert.pretraining.objectives import PreTraining

RATE, BETA1, BETA2, EPS, DECAY = 0.02, 0.9, 0.999, 1e-6, 0.01
TINY = AlbertConfig(
    vocab_size=60,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=56,
    max_position_embeddings=24,
)


def reference(weight, grads, adapts: bool) -> np.ndarray:
    """Algorithm 2 of You et al. without bias correction, as google-research/albert has it."""
    weight = weight.astype(np.float64)
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for grad in grads:
        grad = grad.astype(np.float64)
        mean = BETA1 * mean + (1 - BETA1) * grad
        square = BETA2 * square + (1 - BETA2) * grad**2
        step = mean / (np.sqrt(square) + EPS)
        ratio = 1.0
        if adapts:
            step = step + DECAY * weight
            long, short = np.linalg.norm(weight), np.linalg.norm(step)
            ratio = long / short if long > 0 and short > 0 else 1.0
        weight = weight - RATE * ratio * step
    return weight


@pytest.mark.parametrize("steps", [1, 5])
def test_steps_equal_the_formula(steps):
    torch.manual_seed(0)
    model = PreTraining(TINY)
    before = {name: w.detach().numpy().copy() for name, w in model.named_parameters()}
    optimizer = Lamb(parameter_groups(model), lr=RATE, weight_decay=DECAY)
    grads: dict[str, list[np.ndarray]] = {name: [] for name in before}
    for _ in range(steps):
        for name, weight in model.named_parameters():
            weight.grad = torch.randn_like(weight)
            grads[name].append(weight.grad.numpy())
        optimizer.step()
    for name, weight in model.named_parameters():
        # in Google's files queries, keys and values are tensors of their own
        blocks = 3 if name.endswith("qkv.weight") else 1
        adapts = "norm" not in name.lower() and "bias" not in name
        wanted = [
            reference(part, [np.split(grad, blocks)[n] for grad in grads[name]], adapts)
            for n, part in enumerate(np.split(before[name], blocks))
        ]
        np.testing.assert_allclose(
            weight.detach().numpy(), np.concatenate(wanted), rtol=1e-6, atol=1e-6, err_msg=name
        )


def test_a_weight_that_is_zero_moves():
    weight = nn.Parameter(torch.zeros(4, 4))
    optimizer = Lamb([weight], lr=RATE)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    wanted = reference(np.zeros((4, 4)), [np.ones((4, 4))], adapts=True)
    np.testing.assert_allclose(weight.detach().numpy(), wanted, rtol=1e-6)
    assert (weight != 0).all()


def test_every_weight_is_in_one_group():
    model = PreTraining(TINY)
    groups = parameter_groups(model)
    sorted_ = [weight for group in groups for weight in group["params"]]
    assert len(sorted_) == len(set(map(id, sorted_))) == len(list(model.parameters()))
