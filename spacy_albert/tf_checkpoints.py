"""Read Google's directories of ALBERT, with TensorFlow where it is installed.

Variables are named in modeling.py and run_pretraining.py of google-research/albert. Here they take
the dotted form that `checkpoints.SPELLINGS` knows; from there on they are like any other file's.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checkpoints import Checkpoint, make_checkpoint, read_json
from .tokenization import SentencePieceTokenizer

# What an optimizer keeps beside the weights.
_TRAINING = re.compile(r"(^|/)(global_step|(adam|lamb)_[mv])$")

_NAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^output_", "classifier/output_"),  # run_classifier.py
        (r"^cls/squad/", "qa_outputs/"),  # run_squad_v1.py
        (r"/((?:inner_)?group)_(\d+)(?=/)", r"/\1/\2"),
        (r"/(attention|ffn)_1(?=/)", r"/\1"),
        (r"/(kernel|output_weights)$", "/weight"),
        (r"/output_bias$", "/bias"),
        (r"_embeddings$", "_embeddings/weight"),
        (r"/", "."),
    )
)
_PROJECTION = "encoder.embedding_hidden_mapping_in"


def is_tf_checkpoint(directory: Path) -> bool:
    """Tell Google's directories from Hugging Face's.

    directory (Path): Any directory.
    RETURNS (bool): Whether it holds a TensorFlow checkpoint and no config.json.
    """
    directory = Path(directory)
    return not (directory / "config.json").is_file() and any(directory.glob("*.index"))


def load_tf_checkpoint(directory: Path) -> tuple[Checkpoint, SentencePieceTokenizer]:
    """Read an ALBERT as Google publishes them.

    directory (Path): Holds albert_config.json, model.ckpt-best.index with its data, and
        30k-clean.model; or, by other names, one of each kind.
    RETURNS (tuple[Checkpoint, SentencePieceTokenizer]): What `load_checkpoint` and `load_tokenizer`
        give for Hugging Face's. The config does not say what a classifier is for.
    RAISES (FileNotFoundError): A file that is missing, or several to choose from.
    RAISES (ImportError): TensorFlow is not installed.
    RAISES (ValueError): An unreadable file, or weights that are not those of the config.
    """
    directory = Path(directory)
    settings = read_json(_the_file(directory, "albert_config.json", "*_config.json"))
    index = _the_file(directory, "model.ckpt-best.index", "*.index")
    vocabulary = _the_file(directory, "30k-clean.model", "*.model")
    if settings.get("hidden_act") == "gelu":
        settings["hidden_act"] = "gelu_new"  # Google's `gelu` is the tanh form
    tensors = dict(rename(*variable) for variable in read_variables(index).items())
    width = settings.get("hidden_size")
    if isinstance(width, int) and width == settings.get("embedding_size"):
        # Google projects only where the two differ; here, as at Hugging Face, nothing is left out
        tensors |= {f"{_PROJECTION}.weight": torch.eye(width)}
        tensors |= {f"{_PROJECTION}.bias": torch.zeros(width)}
    tokenizer = SentencePieceTokenizer(vocabulary.read_bytes())
    return make_checkpoint(settings, tensors, directory), tokenizer


def read_variables(index: Path) -> dict[str, np.ndarray]:
    """Read the weights of a TensorFlow checkpoint, without what its optimizer kept.

    index (Path): The file that ends in .index; the data lies beside it.
    RETURNS (dict[str, np.ndarray]): Variables by name.
    RAISES (ImportError): TensorFlow is not installed.
    RAISES (ValueError): An unreadable file.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            f"{index} belongs to a TensorFlow checkpoint, and TensorFlow, which reads it, is not "
            "installed: pip install tensorflow. What comes out of the conversion does without."
        ) from error
    try:
        reader: Any = tf.train.load_checkpoint(str(index.with_suffix("")))
        names = sorted(reader.get_variable_to_shape_map())
        return {name: reader.get_tensor(name) for name in names if not _TRAINING.search(name)}
    except Exception as error:  # TensorFlow's own classes, and others from below them
        raise ValueError(
            f"{index} and the data beside it cannot be read as a TensorFlow checkpoint. A file may "
            f"be missing or cut short: fetch them again. ({error})"
        ) from error


def rename(variable: str, array: np.ndarray) -> tuple[str, Tensor]:
    """Write a variable as a tensor that `make_checkpoint` understands.

    variable (str): Google's name.
    array (np.ndarray): Its value.
    RETURNS (tuple[str, Tensor]): The dotted name; kernels are turned, as torch keeps its weights.
    """
    if variable.endswith("/kernel"):
        array = array.T
    for pattern, replacement in _NAMES:
        variable = pattern.sub(replacement, variable)
    return variable, torch.from_numpy(np.ascontiguousarray(array))


def _the_file(directory: Path, usual: str, pattern: str) -> Path:
    """The file by its usual name, or the only one that fits."""
    found = sorted(directory.glob(pattern))
    if directory / usual in found:
        return directory / usual
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found)
    raise FileNotFoundError(
        f"{directory} has {f'several files {pattern} ({names})' if found else f'no {pattern}'}. "
        "Google's directories of ALBERT hold albert_config.json, model.ckpt-best.index with its "
        f"data, and 30k-clean.model: there must be a {usual}, or one {pattern}."
    )
