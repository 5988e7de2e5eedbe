"""What decides a pre-training run, as it stands in a config file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..modeling import CONFIGS, AlbertConfig

OPTIMIZERS = ("lamb", "adamw")
EMBEDDINGS = ("random", "sinusoids", "neighbours")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """The settings of a run, but for the shape of the model. The defaults are those of the paper.

    length (int): The most pieces of a sequence, with [CLS] and [SEP].
    short (float): The share of documents whose sequences are shorter.
    held_out (int): Every so manieth document is not trained on, but measured with; 0 for none.
    seed (int): Decides all that is random.
    embeddings (str): What they are before they are learned: "random", as in the paper, or
        "sinusoids", with which a short run gets much farther (`begin_as_sinusoids`), or
        "neighbours", with which it gets farther still: positions as sinusoids, words as what the
        corpus tells of their neighbours (cooccurrence.py).
    steps (int): How many steps to take.
    batch (int): Sequences in a step, all workers together.
    optimizer (str): "lamb" or "adamw".
    rate (float): The highest learning rate. It rises to that and falls to zero, on straight lines.
    warm_up (int): The steps in which it rises.
    weight_decay (float): The share of each weight that is taken off at a rate of 1.
    clip (float): The longest gradient, over all weights; a longer one is shortened.
    precision (str): What is computed in: "float32", "bfloat16" where that is safe (autocast), or
        "auto" for bfloat16 where the hardware multiplies it. Weights are float32.
    part (int): Pieces, padding included, that are in memory at once; a batch goes in such parts.
    evaluate_every (int): Steps between two looks at the documents held out.
    evaluate_on (int): Sequences of them that are looked at.
    save_every (int): Steps between two checkpoints.
    keep (int): How many checkpoints are kept.
    RAISES (ValueError): A value that makes no sense; the message names the setting.
    """

    length: int = 512
    short: float = 0.1
    held_out: int = 200
    seed: int = 0
    embeddings: str = "random"
    steps: int = 125_000
    batch: int = 4096
    optimizer: str = "lamb"
    rate: float = 0.00176
    warm_up: int = 3125
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: str = "auto"
    part: int = 8192
    evaluate_every: int = 1000
    evaluate_on: int = 1000
    save_every: int = 1000
    keep: int = 3

    def __post_init__(self) -> None:
        choices = {
            "optimizer": OPTIMIZERS,
            "precision": PRECISIONS,
            "embeddings": EMBEDDINGS,
        }
        least = {"length": 8, "held_out": 0, "seed": 0, "warm_up": 0, "evaluate_on": 0}
        for setting in fields(self):
            name, value = setting.name, getattr(self, setting.name)
            if name in choices:
                good, wanted = value in choices[name], f"one of {', '.join(choices[name])}"
            elif setting.type is int:
                low = least.get(name, 1)
                good = isinstance(value, int) and not isinstance(value, bool) and value >= low
                wanted = f"a whole number, at least {low}"
            else:
                number = isinstance(value, int | float) and not isinstance(value, bool)
                good, wanted = number and value >= 0, "a number, at least 0"
                if name == "short":
                    good, wanted = number and 0 <= value <= 1, "a share, from 0 to 1"
            if not good:
                raise ValueError(f"Pre-training: {name} is {value!r}, but must be {wanted}.")

    def rate_at(self, step: int) -> float:
        """Tell the learning rate of a step.

        step (int): Its number, from 1.
        RETURNS (float): The rate.
        """
        if step <= self.warm_up:
            return self.rate * step / self.warm_up
        return self.rate * max(0.0, 1 - step / self.steps)


def read_shape(section: Mapping[str, Any], vocab_size: int) -> AlbertConfig:
    """Read the shape of a model from the [model] section of a config.

    section (Mapping): Fields of AlbertConfig, and `size`, a published shape to start from.
    vocab_size (int): The pieces in the vocabulary.
    RETURNS (AlbertConfig): The shape.
    RAISES (ValueError): A field or a size that is not known, or a value that no ALBERT can have.
    """
    section = dict(section)
    size = section.pop("size", "albert-base-v2")
    if size not in CONFIGS:
        raise ValueError(f"[model]: there is no size {size!r}. Known: {', '.join(CONFIGS)}.")
    known = [shape.name for shape in fields(AlbertConfig) if not shape.name.endswith("_id")]
    if unknown := sorted(section.keys() - set(known)):
        raise ValueError(
            f"[model]: an ALBERT has no {', '.join(unknown)}. It has: {', '.join(known)}."
        )
    return replace(CONFIGS[size], **{"vocab_size": vocab_size, **section})
