"""Checkpoints of a run: whole or not there, and with all that it takes to go on as if nothing had
happened.

A checkpoint is a Hugging Face directory (`AlbertForPreTraining`) with its tokenizer, so it can be
used as it is, and beside that the state of the optimizer and how far the run has come.
"""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from ..tokenization import Tokenizer
from .objectives import PreTraining
from .sequences import Position
from .trainer import Trainer

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
NAME = re.compile(r"step-(\d+)")


def heads_of(model: PreTraining) -> dict[str, Tensor]:
    """Collect the weights of the heads, by Hugging Face's names.

    model (PreTraining): The model.
    RETURNS (dict[str, Tensor]): The weights.
    """
    return {
        name: weight
        for name, weight in model.state_dict().items()
        if not name.startswith("albert.")
    }


def save(folder: Path, trainer: Trainer, tokenizer: Tokenizer, keep: int) -> Path:
    """Write a checkpoint, and remove those that are no longer to be kept.

    folder (Path): Where the checkpoints of the run are.
    trainer (Trainer): The run.
    tokenizer (Tokenizer): Its tokenizer.
    keep (int): How many are kept, this one among them.
    RETURNS (Path): The checkpoint.
    RAISES (OSError): If it cannot be written; then there is nothing of it.
    """
    final = folder / name_of(trainer.step)
    temporary = folder / f".{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        model = trainer.model
        save_checkpoint(temporary, model.albert.config, model.albert.state_dict(), heads_of(model))
        tokenizer.save(temporary)
        moments = {
            f"{name}/{key}": value.cpu()
            for name, weight in model.named_parameters()
            for key, value in trainer.optimizer.state[weight].items()
        }
        (temporary / OPTIMIZER).write_bytes(safetensors.torch.save(moments))
        state = {"step": trainer.step, "position": asdict(trainer.position)}
        (temporary / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf8")
        for path in [*temporary.iterdir(), temporary]:
            sync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for path in found(folder)[:-keep]:
        shutil.rmtree(path)
    return final


def name_of(step: int) -> str:
    """Name the checkpoint of a step, so that names sort as steps do."""
    return f"step-{step:09}"


def found(folder: Path) -> list[Path]:
    """Find the checkpoints of a run.

    folder (Path): Where they are.
    RETURNS (list[Path]): Those that are whole, the last one at the end.
    """
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name))


def restore(trainer: Trainer, path: Path) -> None:
    """Go on where a checkpoint was written.

    trainer (Trainer): A run that has not begun.
    path (Path): The checkpoint.
    """
    load_weights(trainer.model, load_checkpoint(path))
    state = json.loads((path / STATE).read_text(encoding="utf8"))
    moments = safetensors.torch.load((path / OPTIMIZER).read_bytes())
    for name, weight in trainer.model.named_parameters():
        keys = [key for key in moments if key.rpartition("/")[0] == name]
        if keys:
            trainer.optimizer.state[weight] = {
                # what counts steps stays where it is: torch wants that on the CPU
                key.rpartition("/")[2]: moments[key].to(
                    weight.device if moments[key].ndim else "cpu"
                )
                for key in keys
            }
    trainer.step = state["step"]
    trainer.position = Position(**state["position"])


def load_weights(model: PreTraining, checkpoint: Checkpoint) -> list[str]:
    """Take the weights of a checkpoint, and of its heads those that there are.

    model (PreTraining): A model of the same shape, but for the number of positions: of more than it
        has, it takes the first, and of fewer, all.
    checkpoint (Checkpoint): The weights.
    RETURNS (list[str]): The heads that it lacks, which stay fresh.
    """
    weights, positions = dict(checkpoint.encoder), model.albert.embeddings.positions.weight
    known = weights["embeddings.positions.weight"][: len(positions)]
    weights["embeddings.positions.weight"] = torch.cat([known, positions[len(known) :]])
    model.albert.load_state_dict(weights)
    missing = []
    for name in ("predictions", "sop_classifier"):
        weights = {
            key.removeprefix(f"{name}."): weight
            for key, weight in checkpoint.heads.items()
            if key.startswith(f"{name}.")
        }
        if weights:
            getattr(model, name).load_state_dict(weights)
        else:
            missing.append(name)
    return missing


def sync(path: Path) -> None:
    """See to it that a file or folder is on the disk, and not only on its way there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
