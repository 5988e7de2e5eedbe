"""Torch modules inside thinc models: trained by torch, saved as safetensors.

thinc's own PyTorchShim hands every weight to thinc's optimizer, which needs CuPy on a GPU, and
saves with pickle. Here thinc's optimizer says how to step (its learning rate schedule above all)
and torch takes the step where the weights are.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import srsly
import torch
from safetensors.torch import load, save
from spacy.tokens import Doc
from thinc.api import Optimizer, Shim
from torch import Tensor, nn

from .checkpoints import Checkpoint, build_albert, load_checkpoint, save_checkpoint
from .heads import Head, PairHead, TextHead, TokenHead, widen
from .modeling import Albert, AlbertConfig
from .reader import Reader
from .spans import ConditionalSpanHead, SpanHead
from .tokenization import Tokenizer, load_tokenizer, tokenizer_from_bytes


class TorchShim(Shim):
    """A torch module that steps with torch under the settings of a thinc optimizer."""

    #: Where this shim's files lie in the folder of its component.
    folder: str
    #: The module learns at so many times the optimizer's rate.
    learn_rate_factor = 1.0

    def __init__(self) -> None:
        super().__init__(None)
        #: Of how many terms of a loss the module's gradients are the sum.
        self.n_terms = 0

    @property
    def module(self) -> nn.Module:
        """RETURNS (nn.Module): The module.
        RAISES (ValueError): If there are no weights yet.
        """
        if self._model is None:
            raise ValueError(self.no_weights)
        return self._model

    @property
    def has_weights(self) -> bool:
        """RETURNS (bool): Whether the module was initialized or loaded."""
        return self._model is not None

    no_weights = "There are no weights: call nlp.initialize(), or load a trained pipeline."

    def finish_update(self, optimizer: Optimizer) -> None:
        """Take one step along the gradients that backprop left in the module, and clear them.

        It goes along the mean over all terms of the loss since the last step, and so is the same in
        however many batches they came. AdamW, Adam, RAdam or SGD, as the optimizer's settings say.
        Gradients are clipped by their norm over the whole module, and biases and LayerNorm weights
        do not decay (both as in google-research/albert, optimization.py).

        optimizer (thinc.api.Optimizer): Its present values are used.
        """
        if self._model is None:
            return
        n_terms, self.n_terms = max(self.n_terms, 1), 0
        parameters = [p for p in self._model.parameters() if p.grad is not None]
        if not parameters:
            return
        for parameter in parameters:
            parameter.grad /= n_terms
        if optimizer.grad_clip:
            nn.utils.clip_grad_norm_(parameters, optimizer.grad_clip)
        stepper = self._stepper(optimizer)
        for group in stepper.param_groups:
            group["lr"] = optimizer.learn_rate * self.learn_rate_factor
            group["weight_decay"] = optimizer.L2 if group["decays"] else 0.0
            if "betas" in group:
                group["betas"], group["eps"] = (optimizer.b1, optimizer.b2), optimizer.eps
        stepper.step()
        for parameter in parameters:
            torch.autograd.graph.increment_version(parameter)  # a fused step does not
        stepper.zero_grad(set_to_none=True)
        if optimizer.averages is not None:
            self._average(optimizer)

    def _stepper(self, optimizer: Optimizer) -> torch.optim.Optimizer:
        """Make the torch optimizer that does what a thinc optimizer says, or find it again."""
        adam = optimizer.b1 > 0 and optimizer.b2 > 0
        kind: Any = (
            torch.optim.RAdam
            if optimizer.use_radam
            else (torch.optim.AdamW if optimizer.L2_is_weight_decay else torch.optim.Adam)
            if adam
            else torch.optim.SGD
        )
        if type(self._optimizer) is not kind:
            parameters = list(self.module.parameters())
            groups = [
                {"params": [p for p in parameters if p.ndim > 1], "decays": True},
                {"params": [p for p in parameters if p.ndim <= 1], "decays": False},
            ]
            extra = {}
            if optimizer.use_radam:
                extra["decoupled_weight_decay"] = optimizer.L2_is_weight_decay
            elif parameters[0].device.type in ("cpu", "cuda"):
                extra["fused"] = True  # passes over the weights once, not a dozen times
            self._optimizer = kind(groups, lr=optimizer.learn_rate, **extra)
        return cast(torch.optim.Optimizer, self._optimizer)

    def _average(self, optimizer: Optimizer) -> None:
        """Keep the moving average of the weights, with thinc's decay (thinc, update_averages)."""
        averages = cast(dict[tuple[int, str], Tensor], optimizer.averages)
        for name, weight in self.module.named_parameters():
            key = (self.id, name)
            optimizer.nr_update[key] += 1
            seen = optimizer.nr_update[key]
            decay = min((1.0 + seen) / (10.0 + seen), 0.9999)
            average = averages.setdefault(key, torch.zeros_like(weight))
            average.lerp_(weight.detach(), 1 - decay)

    @contextlib.contextmanager
    def use_params(self, params: dict[tuple[int, str], Tensor]) -> Iterator[None]:
        """Compute with other weights for a while.

        params (dict[tuple[int, str], Tensor]): Weights by shim id and parameter name.
        """
        if self._model is None:
            yield
            return
        backup = {}
        with torch.no_grad():
            for name, weight in self._model.named_parameters():
                if (self.id, name) in params:
                    backup[name] = weight.detach().clone()
                    weight.copy_(params[self.id, name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self._model.named_parameters():
                    if name in backup:
                        weight.copy_(backup[name])

    def copy(self) -> "TorchShim":
        """RETURNS (TorchShim): A copy with its own weights and a fresh optimizer state."""
        copied = copy.copy(self)
        TorchShim.__init__(copied)
        return cast(TorchShim, copied.from_bytes(self.to_bytes()))

    def __deepcopy__(self, memo: dict) -> "TorchShim":
        return self.copy()

    def to_device(self, device_type: str, device_id: int) -> None:
        """Do nothing: the encoder's own `device` setting places it, and heads follow."""


class GradientSum:
    """What a head has sent to the weights of an encoder since the last step."""

    def __init__(self) -> None:
        #: Of how many terms of the head's loss it is the sum.
        self.n_terms = 0
        self.by_weight: dict[nn.Parameter, Tensor] = {}

    @property
    def divisor(self) -> int:
        """RETURNS (int): What makes a mean of the sum."""
        return max(self.n_terms, 1)

    def add(self, gradients: dict[nn.Parameter, Tensor]) -> None:
        """Add gradients.

        gradients (dict[nn.Parameter, Tensor]): By the weights of the encoder.
        """
        for weight, gradient in gradients.items():
            before = self.by_weight.get(weight)
            self.by_weight[weight] = gradient if before is None else before + gradient


class EncoderShim(TorchShim):
    """ALBERT and its tokenizer."""

    folder = "encoder"
    no_weights = (
        "This ALBERT encoder has no weights. Say where to start from, in the training config:\n"
        "  [initialize.components.albert.encoder]\n"
        '  @misc = "spacy-albert.Checkpoint.v1"\n'
        '  path = "a Hugging Face ALBERT folder or a trained pipeline"\n'
        "or in Python:\n"
        '  nlp.initialize() after nlp.config["initialize"]["components"]["albert"] = '
        '{"encoder": {"@misc": "spacy-albert.Checkpoint.v1", "path": ...}}'
    )

    def __init__(self, settings: dict[str, Any], learn_rate_factor: float = 1.0) -> None:
        """Make an encoder without weights.

        settings (dict[str, Any]): Arguments of Reader.
        learn_rate_factor (float): It learns at so many times the optimizer's rate.
        """
        super().__init__()
        self.settings = settings
        self.learn_rate_factor = learn_rate_factor
        self._reader: Reader | None = None
        self._sums: dict[Any, GradientSum] = {}

    @property
    def reader(self) -> Reader:
        """RETURNS (Reader): The encoder with its tokenizer.
        RAISES (ValueError): If there are no weights yet.
        """
        if self._reader is None:
            raise ValueError(self.no_weights)
        return self._reader

    def set(self, model: Albert, tokenizer: Tokenizer) -> "EncoderShim":
        """Take a model and its tokenizer.

        model (Albert): The encoder.
        tokenizer (Tokenizer): Its tokenizer.
        RETURNS (EncoderShim): Itself.
        """
        self._reader = Reader(model.eval(), tokenizer, **self.settings)
        self._model, self._optimizer, self._sums = model, None, {}
        return self

    def sum_of(self, head: Any) -> GradientSum:
        """Look up what a head has sent since the last step.

        head (Any): Whatever tells heads apart.
        RETURNS (GradientSum): To be added to.
        """
        return self._sums.setdefault(head, GradientSum())

    def finish_update(self, optimizer: Optimizer) -> None:
        """Take one step along the gradients that heads have sent, and clear them.

        optimizer (thinc.api.Optimizer): Its present values are used.
        """
        for sent in self._sums.values():
            for weight, gradient in sent.by_weight.items():
                mean = gradient / sent.divisor
                weight.grad = mean if weight.grad is None else weight.grad + mean
        self._sums = {}
        super().finish_update(optimizer)

    def to_bytes(self) -> bytes:
        if self._reader is None:
            return b""
        return srsly.msgpack_dumps(
            {
                "config": self._model.config.to_dict(),
                "tokenizer": self._reader.tokenizer.to_bytes(),
                "weights": save(cpu_tensors(self._model)),
            }
        )

    def from_bytes(self, data: bytes) -> "EncoderShim":
        if not data:
            return self
        message = srsly.msgpack_loads(data)
        model = Albert(AlbertConfig.from_dict(message["config"]))
        model.load_state_dict(load(message["weights"]))
        return self.set(model, tokenizer_from_bytes(message["tokenizer"]))

    def to_disk(self, path: str | Path) -> None:
        if self._reader is None:
            return
        Path(path).mkdir(parents=True, exist_ok=True)
        save_checkpoint(Path(path), self._model.config, cpu_tensors(self._model))
        self._reader.tokenizer.save(Path(path))

    def from_disk(self, path: str | Path) -> "EncoderShim":
        if not Path(path).exists():
            return self
        return self.load(Path(path))[0]

    def load(self, path: Path, dropout: float | None = None) -> tuple["EncoderShim", Checkpoint]:
        """Take the encoder and the tokenizer of a checkpoint.

        path (Path): A Hugging Face directory.
        dropout (float | None): Dropout inside the encoder; None: what the checkpoint says.
        RETURNS (tuple): Itself, and the checkpoint for whatever else it holds.
        """
        checkpoint = load_checkpoint(path)
        if dropout is not None:
            config = replace(
                checkpoint.config,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
            )
            checkpoint = checkpoint._replace(config=config)
        return self.set(build_albert(checkpoint), load_tokenizer(path)), checkpoint


#: The heads there are.
HEADS: dict[str, type[Head]] = {
    "tokens": TokenHead,
    "text": TextHead,
    "pair": PairHead,
    "spans": SpanHead,
    "conditional_spans": ConditionalSpanHead,
}


class HeadShim(TorchShim):
    """The head of a component: made when its classes are known, grown when they grow."""

    folder = "head"

    def __init__(self, kind: str, settings: dict[str, Any] | None = None) -> None:
        """Make a head without weights.

        kind (str): One of HEADS.
        settings (dict[str, Any] | None): Further arguments of the head's class.
        """
        super().__init__()
        self.kind = kind
        self.settings = settings or {}
        #: What else than the document the head reads, if it does; the component says it.
        self.inputs: Callable[[Doc], Any] | None = None

    def make(self, hidden_size: int, n_classes: int) -> nn.Module:
        """Make fresh weights.

        hidden_size (int): Width of the encoder.
        n_classes (int): Number of classes.
        RETURNS (nn.Module): The new head.
        """
        head_class: Any = HEADS[self.kind]
        self._model = head_class(hidden_size, n_classes, **self.settings).eval()
        if self.inputs is not None:
            self._model.inputs = self.inputs
        self._optimizer = None
        return self._model

    def grow(self, n_classes: int) -> None:
        """Add classes; the ones it has keep their weights.

        n_classes (int): Number of classes from now on.
        """
        if self._model is not None and n_classes > self._model.classifier.out_features:
            self._model.classifier = widen(self._model.classifier, n_classes)
            self._optimizer = None

    def to_bytes(self) -> bytes:
        return save(cpu_tensors(self._model)) if self._model is not None else b""

    def from_bytes(self, data: bytes) -> "HeadShim":
        if data:
            weights = load(data)
            self.make(*HEADS[self.kind].sizes(weights)).load_state_dict(weights)
        return self

    def to_disk(self, path: str | Path) -> None:
        if self._model is not None:
            Path(path).mkdir(parents=True, exist_ok=True)
            (Path(path) / "model.safetensors").write_bytes(self.to_bytes())

    def from_disk(self, path: str | Path) -> "HeadShim":
        weights = Path(path) / "model.safetensors"
        return self.from_bytes(weights.read_bytes()) if weights.exists() else self


class OrderShim(HeadShim):
    """The sentence-order head of a pre-trained checkpoint, with the pooler before it."""

    no_weights = (
        "There is no sentence-order head. A checkpoint that was pre-trained has one (of the class "
        "AlbertForPreTraining, with sop_classifier). Make a pipeline of it: python -m spacy albert "
        "convert CHECKPOINT OUT --task coherence. Or say in a config where it is:\n"
        "  [initialize.components.albert_coherence.head]\n"
        '  @misc = "spacy-albert.Checkpoint.v1"\n'
        '  path = "the Hugging Face folder that the encoder is from"'
    )

    def __init__(self) -> None:
        super().__init__("text")

    def load(self, path: Path, dropout: float | None = None) -> "OrderShim":
        """Take the head of a checkpoint.

        path (Path): A Hugging Face directory.
        dropout (float | None): None; a head that is not trained has no use for it.
        RETURNS (OrderShim): Itself.
        RAISES (ValueError): If it has none, or dropout is asked for.
        """
        if dropout is not None:
            raise ValueError(
                f"The sentence-order head is not trained, so a dropout of {dropout} would do "
                "nothing: leave it out of the head's spacy-albert.Checkpoint.v1."
            )
        return self.take(load_checkpoint(path), path)

    def take(self, checkpoint: Checkpoint, path: Path) -> "OrderShim":
        """Take the head of a checkpoint.

        checkpoint (Checkpoint): The checkpoint.
        path (Path): Where it is from, for messages.
        RETURNS (OrderShim): Itself.
        RAISES (ValueError): If it has none.
        """
        found = checkpoint.heads
        if "sop_classifier.classifier.weight" not in found or checkpoint.missing:
            raise ValueError(
                f"{path} has no sentence-order head (sop_classifier, and a pooler before it). Take "
                "a checkpoint as pre-training left it: fine-tuned ones and pipelines have lost it."
            )
        weights = {}
        for part in ("weight", "bias"):
            weights[f"classifier.{part}"] = found[f"sop_classifier.classifier.{part}"]
            weights[f"pooler.{part}"] = checkpoint.encoder[f"pooler.{part}"]
        self.make(checkpoint.config.hidden_size, 2).load_state_dict(weights)
        return self

    def refuse_width(self, hidden_size: int) -> None:
        """See to it that the head is for an encoder.

        hidden_size (int): The width of the encoder.
        RAISES (ValueError): If it is for another one.
        """
        width = cast(TextHead, self.module).pooler.in_features
        if width != hidden_size:
            raise ValueError(
                f"The sentence-order head is for an encoder of width {width}, and this one has "
                f"{hidden_size}: take both from one checkpoint."
            )


def cpu_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Collect a module's weights for saving.

    module (nn.Module): The module.
    RETURNS (dict[str, Tensor]): Contiguous CPU tensors by name.
    """
    return {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
