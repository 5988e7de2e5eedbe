"""Pre-train encoders of several shapes for a short while, to choose one.

All read the same sequences, with the settings of the first stage. What they cost is in the table
beside what they learned: a shape that learns more in as many steps may learn less in as much time.

    python pipelines/en_albert_sm/study.py DATA [--work FOLDER] [--steps N]
"""

import argparse
import json
from pathlib import Path
from typing import Any

from spacy_albert.checkpoints import load_checkpoint
from spacy_albert_jobs.journal import read
from spacy_albert_pipelines.en_albert_sm.build import HERE, prepare, pretrain

# Width, layers, and how many of these have weights of their own. Heads are 64 wide
SHAPES = (
    (128, 12, 1),
    (256, 6, 1),
    (256, 12, 1),
    (256, 4, 4),
    (256, 6, 6),
    (384, 4, 4),
)
COLUMNS = {
    "width": "{:,}",
    "layers": "{:,}",
    "own": "{:,}",
    "weights": "{:,}",
    "megabytes": "{:.1f}",
    "pieces_per_second": "{:,.0f}",
    "mlm_loss": "{:.3f}",
    "mlm_accuracy": "{:.1%}",
    "sop_loss": "{:.3f}",
    "sop_accuracy": "{:.1%}",
}


def settings_of(width: int, layers: int, own: int, steps: int) -> dict[str, int]:
    """Say in what a run differs from the first stage.

    width, layers, own (int): The shape.
    steps (int): Steps; a tenth of them is warm-up.
    RETURNS (dict[str, int]): Settings by their names in the config.
    """
    return {
        "model.hidden_size": width,
        "model.num_hidden_layers": layers,
        "model.num_hidden_groups": own,
        "model.num_attention_heads": width // 64,
        "model.intermediate_size": 4 * width,
        "training.steps": steps,
        "training.warm_up": max(1, steps // 10),
    }


def try_shape(
    texts: Path, vocabulary: Path, work: Path, shape: tuple[int, int, int], steps: int
) -> dict[str, Any]:
    """Pre-train an encoder, unless it is there.

    texts (Path): The texts.
    vocabulary (Path): The vocabulary.
    work (Path): The folder for the runs.
    shape (tuple[int, int, int]): The shape.
    steps (int): For how many steps.
    RETURNS (dict): The row of the table. Weights are those of the encoder, and a megabyte holds
        half a million of them in half precision.
    """
    folder = work / "-".join(map(str, (*shape, steps)))
    settings = settings_of(*shape, steps)
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    model = pretrain(texts, folder, "pretrain_40.cfg", "--vocabulary", vocabulary, *options)
    weights = sum(tensor.numel() for tensor in load_checkpoint(model).encoder.values())
    entries = read(folder / "metrics.jsonl")
    pieces = sum(entry["pieces"] for entry in entries)
    return {
        **dict(zip(("width", "layers", "own"), shape)),
        "weights": weights,
        "megabytes": round(2 * weights / 1e6, 1),
        "pieces": pieces,
        "pieces_per_second": round(pieces / entries[-1]["seconds"]),
        **{key: value for key, value in entries[-1]["held_out"].items() if key in COLUMNS},
    }


def main(data: Path, work: Path, steps: int, output: Path) -> None:
    """Try all shapes, and write down what came out.

    data (Path): The folder of data sets.
    work (Path): The work folder of build.py, whose texts and vocabulary are taken.
    steps (int): Steps of each shape.
    output (Path): The JSON file to write.
    """
    texts, vocabulary = prepare(data, work)
    rows = [try_shape(texts, vocabulary, work / "study", shape, steps) for shape in SHAPES]
    output.write_text(json.dumps(rows, indent=2) + "\n")
    table = [[*COLUMNS], *([f.format(row[key]) for key, f in COLUMNS.items()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of data sets")
    parser.add_argument("--work", type=Path, default=Path("build/en_albert_sm"), help="work folder")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each shape")
    parser.add_argument("--output", type=Path, default=HERE / "study.json", help="JSON to write")
    arguments = parser.parse_args()
    main(arguments.data, arguments.work, arguments.steps, arguments.output)
