"""LAMB (You et al. 2020, https://arxiv.org/abs/1904.00962) as ALBERT was trained with it
(google-research/albert, lamb_optimizer.py): Adam without bias correction, whose step is made as
long, in each tensor, as the tensor itself.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Lamb(torch.optim.Optimizer):
    """LAMB.

    A group with `adapts=False` has neither weight decay nor steps in proportion: ALBERT's biases
    and LayerNorms. A group with `blocks=3` has tensors that hold three matrices one below the
    other, each of them with a proportion of its own: queries, keys and values.

    parameters (Iterable): Parameters or groups of them, as torch's own optimizers take.
    lr (float): The learning rate.
    betas (tuple[float, float]): Decay of the means of gradients and of their squares.
    eps (float): Added to the root of the latter.
    weight_decay (float): The share of each weight that is added to its step.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, {**defaults, "adapts": True, "blocks": 1})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:  # type: ignore[override]
        """Take a step along the gradients."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["mean"] = torch.zeros_like(weight)
                    state["square"] = torch.zeros_like(weight)
                mean, square = state["mean"], state["square"]
                mean.lerp_(weight.grad, 1 - beta1)
                square.mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
                step = mean / (square.sqrt() + group["eps"])
                if group["adapts"]:
                    step.add_(weight, alpha=group["weight_decay"])
                    rows = group["blocks"], -1
                    long, short = norms(weight.view(rows)), norms(step.view(rows))
                    # a weight that is still zero, or stays where it is, is taken as it is
                    ratio = torch.where((long > 0) & (short > 0), long / short, 1.0)
                    step.view(rows).mul_(ratio)
                weight.sub_(step, alpha=group["lr"])


def norms(rows: Tensor) -> Tensor:
    """(N, K) -> the length of each row, (N, 1)."""
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Sort the weights of an ALBERT as its optimizers want them: those of LayerNorms and biases
    neither decay nor have steps in proportion (run_pretraining.py).

    model (nn.Module): The model.
    RETURNS (list[dict]): Groups, for Lamb, or for any other optimizer that knows `weight_decay`.
    """
    named = dict(model.named_parameters())
    plain = [name for name, weight in named.items() if weight.ndim < 2]
    fused = [name for name, weight in named.items() if name.endswith("qkv.weight")]
    others = [name for name in named if name not in plain and name not in fused]
    return [
        {"params": [named[name] for name in others]},
        {"params": [named[name] for name in fused], "blocks": 3},
        {"params": [named[name] for name in plain], "adapts": False, "weight_decay": 0.0},
    ]
