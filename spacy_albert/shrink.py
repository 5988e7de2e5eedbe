"""A pipeline with its weights in half precision: half as large on disk. They are computed with as
before, as loading makes them float32 again.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def shrink(source: Path, output: Path) -> tuple[int, int]:
    """Copy a pipeline, and halve its weights.

    source (Path): The folder of the pipeline.
    output (Path): The folder to write.
    RETURNS (tuple[int, int]): The bytes of its weights before and after.
    RAISES (ValueError): If there are none, or some are too large for half precision.
    """
    files = sorted(path.relative_to(source) for path in source.rglob("*.safetensors"))
    if not files:
        raise ValueError(f"{source} has no weights in .safetensors files: nothing can be halved.")
    halves = {}
    for file in files:
        weights = load_file(source / file)
        floats = {name for name, weight in weights.items() if weight.is_floating_point()}
        halves[file] = {n: w.half() if n in floats else w for n, w in weights.items()}
        for name in floats:
            if not torch.isfinite(halves[file][name]).all():
                raise ValueError(f"{source / file}: {name} has weights beyond half precision.")
    shutil.copytree(source, output, dirs_exist_ok=True)
    for file, weights in halves.items():
        save_file(weights, output / file, {"format": "pt"})
        config = output / file.with_name("config.json")
        if config.exists():
            settings = json.loads(config.read_text(encoding="utf8"))
            settings["torch_dtype"] = "float16"
            config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf8")
    before, after = (sum((top / f).stat().st_size for f in files) for top in (source, output))
    return before, after
