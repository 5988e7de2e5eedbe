"""Read and write Hugging Face directories of ALBERT, without the `transformers` library.

This module knows how tensors are named outside this package; `tf_checkpoints.py` adds Google's
variables. Reading goes from a file's spelling to Hugging Face's (`SPELLINGS`) and on to ours
(`hugging_face_names`); writing goes that second step back. Queries, keys and values are three
tensors there and one here.
"""

import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from .modeling import Albert, AlbertConfig, initialize

# Our modules, and the modules at Hugging Face whose rows they hold one below the other.
_OUTSIDE_LAYERS: dict[str, tuple[str, ...]] = {
    "embeddings.words": ("embeddings.word_embeddings",),
    "embeddings.positions": ("embeddings.position_embeddings",),
    "embeddings.segments": ("embeddings.token_type_embeddings",),
    "embeddings.norm": ("embeddings.LayerNorm",),
    "embeddings.project": ("encoder.embedding_hidden_mapping_in",),
    "pooler": ("pooler",),
}
_IN_A_LAYER: dict[str, tuple[str, ...]] = {
    "qkv": ("attention.query", "attention.key", "attention.value"),
    "attention_out": ("attention.dense",),
    "attention_norm": ("attention.LayerNorm",),
    "ffn_in": ("ffn",),
    "ffn_out": ("ffn_output",),
    "ffn_norm": ("full_layer_layer_norm",),
}

# What other writers of ALBERT files spell differently, applied in this order. The dotted form of
# Google's variable names comes from https://github.com/lonePatient/albert_pytorch.
SPELLINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^((module|bert|albert|cls)\.)+", ""),
        (r"\.gamma$", ".weight"),
        (r"\.beta$", ".bias"),
        (r"\.transformer\.group\.(\d+)\.", r".albert_layer_groups.\1."),
        (r"\.inner_group\.(\d+)\.", r".albert_layers.\1."),
        (r"\.attention\.self\.", ".attention."),
        (r"\.attention\.output\.", ".attention."),
        (r"(\.albert_layers\.\d+)\.LayerNorm\.", r"\1.attention.LayerNorm."),
        (r"\.LayerNorm_1\.", ".full_layer_layer_norm."),
        (r"\.ffn\.intermediate\.output\.dense\.", ".ffn_output."),
        (r"\.ffn\.intermediate\.dense\.", ".ffn."),
        (r"^pooler\.dense\.", "pooler."),
        (r"^predictions\.transform\.", "predictions."),
        (r"^predictions\.decoder\.bias$", "predictions.bias"),
        (r"^seq_relationship\.", "sop_classifier.classifier."),
    )
)

# Constants that older versions of `transformers` stored beside the weights.
_BUFFERS = {"embeddings.position_ids", "embeddings.token_type_ids"}

# What each architecture of `transformers` has beside embeddings and layers.
ARCHITECTURES: dict[str, set[str]] = {
    "AlbertModel": {"pooler"},
    "AlbertForMaskedLM": {"predictions"},
    "AlbertForPreTraining": {"pooler", "predictions", "sop_classifier"},
    "AlbertForTokenClassification": {"classifier"},
    "AlbertForSequenceClassification": {"pooler", "classifier"},
    "AlbertForMultipleChoice": {"pooler", "classifier"},
    "AlbertForQuestionAnswering": {"qa_outputs"},
}
#: The parts of Google's head for SQuAD 2 (run_squad_v2.py), which `transformers` has no class for.
SQUAD2_HEAD = {"start_logits", "end_logits", "answer_class"}
_HEADS = set().union(SQUAD2_HEAD, *ARCHITECTURES.values()) - {"pooler"}
_TIED = "predictions.decoder.weight"

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_FOREIGN_WEIGHTS = ("*.h5", "*.msgpack", "*.ckpt*")


class Checkpoint(NamedTuple):
    """What a Hugging Face directory holds.

    config (AlbertConfig): The shape.
    encoder (dict[str, Tensor]): All weights of `Albert`, by our names, in float32.
    heads (dict[str, Tensor]): The weights of the heads, by Hugging Face's names, in float32:
        "classifier.weight", "qa_outputs.bias", "predictions.dense.weight", ... The predictions
        have the word embeddings among them, as their decoder.
    settings (dict[str, Any]): All of config.json, with `architectures`, `id2label`, ...
    missing (tuple[str, ...]): Weights of the encoder that the files lack and that are fresh
        instead: none, or those of the pooler, which many architectures do without.
    """

    config: AlbertConfig
    encoder: dict[str, Tensor]
    heads: dict[str, Tensor]
    settings: dict[str, Any]
    missing: tuple[str, ...]


def load_checkpoint(directory: Path) -> Checkpoint:
    """Read an ALBERT from a Hugging Face directory.

    directory (Path): Holds config.json and the weights, in safetensors or as pytorch_model.bin,
        whole or in shards with an index.
    RETURNS (Checkpoint): Config, weights and settings.
    RAISES (FileNotFoundError): No directory, config.json or weights.
    RAISES (ValueError): Not an ALBERT, an unreadable file, or weights that are missing, contradict
        the config or disagree with each other.
    """
    directory = Path(directory)
    return make_checkpoint(_read_settings(directory), _read_weights(directory), directory)


def make_checkpoint(
    settings: dict[str, Any], weights: Mapping[str, Tensor], directory: Path
) -> Checkpoint:
    """Put a checkpoint together from what was read.

    settings (dict[str, Any]): The config, by Hugging Face's names.
    weights (Mapping[str, Tensor]): All tensors, in any known spelling.
    directory (Path): Where they come from, for messages.
    RETURNS (Checkpoint): Config, weights and settings.
    RAISES (ValueError): Weights that are missing, contradict the config or disagree with each
        other.
    """
    config = AlbertConfig.from_dict(settings)
    tensors = _respell(weights, directory)

    encoder: dict[str, Tensor] = {}
    absent: list[str] = []
    for name, shape, parts in _layout(config):
        if all(part in tensors for part in parts):
            rows = [_checked(part, tensors.pop(part), shape, directory) for part in parts]
            encoder[name] = torch.cat(rows) if len(rows) > 1 else rows[0]
        else:
            absent += (part for part in parts if part not in tensors)
    if lost := [name for name in absent if not name.startswith("pooler.")]:
        raise ValueError(
            f"{directory} is not the ALBERT that its config describes: its weights lack "
            f"{_some(lost)}. Beside what belongs there they hold {_some(tensors)}."
        )
    if absent:
        pooler = nn.Linear(config.hidden_size, config.hidden_size)
        initialize(pooler, config.initializer_range)
        fresh = {f"pooler.{name}": tensor for name, tensor in pooler.state_dict().items()}
        encoder = fresh | encoder

    words = encoder["embeddings.words.weight"]
    if not torch.equal(tensors.pop(_TIED, words), words):
        warnings.warn(
            f"{directory}: {_TIED} is ignored. It differs from the word embeddings, which are the "
            "decoder of every ALBERT.",
            stacklevel=3,
        )
    heads = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in _HEADS}
    if any(name.startswith("predictions.") for name in heads):
        heads[_TIED] = words
    if others := tensors.keys() - heads.keys():
        warnings.warn(
            f"{directory}: no part of an ALBERT, and ignored: {_some(others)}.", stacklevel=3
        )
    _check_labels(settings, heads, directory)
    return Checkpoint(config, encoder, heads, settings, tuple(absent))


def build_albert(checkpoint: Checkpoint) -> Albert:
    """Make the encoder of a checkpoint, with a copy of its weights.

    checkpoint (Checkpoint): What `load_checkpoint` returned.
    RETURNS (Albert): The encoder, in evaluation mode.
    """
    albert = _skeleton(checkpoint.config).to_empty(device="cpu")
    albert.load_state_dict(checkpoint.encoder)
    return albert.eval()


def save_checkpoint(
    directory: Path,
    config: AlbertConfig,
    encoder: Mapping[str, Tensor],
    heads: Mapping[str, Tensor] = {},
    settings: Mapping[str, Any] = {},
) -> None:
    """Write a Hugging Face directory that `transformers` loads.

    Each file is complete before it takes its name, and config.json comes last.

    directory (Path): Where to write; made if needed.
    config (AlbertConfig): The shape.
    encoder (Mapping[str, Tensor]): The state of `Albert`. A pooler that the architecture has no
        place for is left out.
    heads (Mapping[str, Tensor]): The weights of the heads, by Hugging Face's names.
    settings (Mapping[str, Any]): More for config.json, such as `id2label`; where `architectures` is
        not among it, the heads decide.
    RAISES (ValueError): Weights that are missing or contradict the config, heads that are not those
        of the architecture or leave it open, or labels that do not fit the classifier.
    """
    directory = Path(directory)
    architecture = _architecture(heads, settings)
    prefix = "albert." if heads else ""
    tensors = {name: tensor for name, tensor in heads.items() if name != _TIED}
    for name, shape, parts in _layout(config):
        if name.startswith("pooler.") and "pooler" not in ARCHITECTURES[architecture]:
            continue
        if name not in encoder:
            raise ValueError(f"{architecture} cannot be saved: the encoder has no tensor {name!r}.")
        for part, rows in zip(parts, encoder[name].chunk(len(parts))):
            tensors[prefix + part] = _checked(part, rows, shape, directory)
    # A copy of each: safetensors refuses tensors that share memory, as parts of one do.
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    contents = {
        **{name: value for name, value in settings.items() if name != "dtype"},
        **config.to_dict(),
        "model_type": "albert",
        "architectures": [architecture],
        "torch_dtype": str(encoder["embeddings.words.weight"].dtype).removeprefix("torch."),
    }
    if "classifier.weight" in heads and architecture != "AlbertForMultipleChoice":
        labels = settings.get("id2label") or {
            row: f"LABEL_{row}" for row in range(len(heads["classifier.weight"]))
        }
        contents["id2label"] = labels
        contents["label2id"] = {label: int(row) for row, label in labels.items()}
    _check_labels(contents, heads, directory)

    weights = safetensors.torch.save(tensors, {"format": "pt"})
    text = json.dumps(contents, indent=2) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "model.safetensors", weights)
    _write(directory / "config.json", text.encode())


def hugging_face_names(name: str) -> tuple[str, ...]:
    """Translate the name of one of our tensors.

    name (str): A key of `Albert.state_dict()`.
    RETURNS (tuple[str, ...]): The tensors at Hugging Face whose rows it holds, one below the other:
        three for queries, keys and values, else one. Without the prefix "albert.".
    """
    module, _, parameter = name.rpartition(".")
    if module.startswith("groups."):
        _, group, inner, module = module.split(".")
        prefix = f"encoder.albert_layer_groups.{group}.albert_layers.{inner}."
        parts = _IN_A_LAYER[module]
    else:
        prefix, parts = "", _OUTSIDE_LAYERS[module]
    return tuple(f"{prefix}{part}.{parameter}" for part in parts)


def read_json(path: Path) -> dict[str, Any]:
    """Read a config file.

    path (Path): The file.
    RETURNS (dict[str, Any]): Its contents.
    RAISES (ValueError): If it is not JSON, or not an object.
    """
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} is JSON, but not an object.")
    return contents


def _skeleton(config: AlbertConfig) -> Albert:
    """An encoder with shapes and no weights."""
    with torch.device("meta"):
        return Albert(config)


def _layout(config: AlbertConfig) -> Iterator[tuple[str, tuple[int, ...], tuple[str, ...]]]:
    """For each of our tensors: its name, the shape of its parts, and their names."""
    for name, tensor in _skeleton(config).state_dict().items():
        parts = hugging_face_names(name)
        yield name, (tensor.shape[0] // len(parts), *tensor.shape[1:]), parts


def _checked(name: str, tensor: Tensor, shape: tuple[int, ...], directory: Path) -> Tensor:
    if tuple(tensor.shape) != shape:
        raise ValueError(
            f"{directory}: {name} has shape {tuple(tensor.shape)}, but the config says {shape}. "
            "Config and weights must come from the same model."
        )
    return tensor


def _check_labels(
    settings: Mapping[str, Any], heads: Mapping[str, Tensor], directory: Path
) -> None:
    labels, weight = settings.get("id2label"), heads.get("classifier.weight")
    # A multiple choice scores each choice by one number, whatever the labels.
    choice = "AlbertForMultipleChoice" in (settings.get("architectures") or ())
    if labels and weight is not None and not choice and len(labels) != len(weight):
        raise ValueError(
            f"{directory}: id2label has {len(labels)} labels, but classifier.weight has "
            f"{len(weight)} rows. Config and weights must come from the same model."
        )


def _architecture(heads: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """The class of `transformers` that loads these heads."""
    given = {name.split(".")[0] for name in heads}
    fitting = [name for name, has in ARCHITECTURES.items() if has - {"pooler"} == given]
    wanted = settings.get("architectures") or fitting
    if len(wanted) == 1 and wanted[0] in fitting:
        return wanted[0]
    raise ValueError(
        f"The heads to save ({_some(given)}) are those of {_some(fitting)}, and "
        f'settings["architectures"] says {_some(settings.get("architectures") or ())}: '
        "it must name one that has just these heads."
    )


def _read_settings(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. A checkpoint is a folder with config.json and the weights."
        )
    settings = read_json(path)
    model_type = settings.get("model_type", "albert")  # the first ALBERT files did not say
    if model_type != "albert":
        raise ValueError(f"{directory} holds a model of type {model_type!r}, not an ALBERT.")
    return settings


def _read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors, in the file's spelling and precision."""
    for name in _WEIGHTS:
        path, index = directory / name, directory / f"{name}.index.json"
        if path.is_file():
            return _read_tensors(path)
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            return {k: t for shard in shards for k, t in _read_tensors(directory / shard).items()}
    foreign = sorted(p.name for pattern in _FOREIGN_WEIGHTS for p in directory.glob(pattern))
    raise FileNotFoundError(
        f"{directory} has no weights: looked for {', '.join(_WEIGHTS)}, whole or in shards with "
        "an index."
        + (f" It has {_some(foreign)}: convert them to PyTorch first." if foreign else "")
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}, a shard that the index beside it names.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise ValueError("The file holds other things than tensors.")
        return tensors
    except Exception as error:  # each format and version has errors of its own
        raise ValueError(
            f"{path} cannot be read as weights. It may be cut short or a Git LFS pointer: fetch it "
            "again. It may hold more than tensors: save just the state dict."
        ) from error


def _respell(tensors: Mapping[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """The tensors by Hugging Face's names without prefix, in float32."""
    respelled: dict[str, Tensor] = {}
    for spelled, tensor in tensors.items():
        name = spelled
        for pattern, replacement in SPELLINGS:
            name = pattern.sub(replacement, name)
        if name in _BUFFERS:
            continue
        tensor = tensor.float()
        if name in respelled and not torch.equal(respelled[name], tensor):
            raise ValueError(f"{directory} holds two different tensors for {name}, one {spelled}.")
        respelled[name] = tensor
    return respelled


def _write(path: Path, data: bytes) -> None:
    # Bytes, since safetensors' own writer makes files that only their owner can read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _some(names: Iterable[str]) -> str:
    """The first few names, for a message."""
    first, *others = sorted(names) or ["none"]
    shown = ", ".join([first, *others[:4]])
    return shown if len(others) < 5 else f"{shown} and {len(others) - 4} more"
