"""Entities: a loss for each tag, or for the whole tagging? `python -m benchmarks.crf`.

Trains WNUT-17 and wikigold from the same encoder, in the same batches, with either loss of the
component. Needs the data sets in ../shared/data, and the encoder that
`pipelines/en_albert_sm/build.py` pre-trains: the one in the embedded pipeline has already learned
entities from the same texts. A run is written down as soon as it is through, and not made again.
The scores are those of the last step: nothing is chosen by them.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import spacy
import torch
from spacy.tokens import DocBin
from spacy.training import Corpus
from spacy.training.initialize import init_nlp
from spacy.training.loop import train

from spacy_albert.configs import training_config
from spacy_albert.corpora import ConllCorpus
from spacy_albert_pipelines.en_albert_sm.corpora import wikigold

from . import texts

WNUT17 = {
    "train": "wnut17train.conll",
    "dev": "emerging.dev.conll",
    "test": "emerging.test.annotated",
}
#: What tells runs apart, but for the seed.
KIND = ("data", "loss", "encoder", "rate", "factor", "steps")


def write_corpora(folder: Path) -> None:
    """Write WNUT-17, with its six labels, and wikigold, split as for the embedded pipeline."""
    nlp = spacy.blank("en")
    sets = {
        "wnut17": {
            split: list(ConllCorpus(texts.DATA / "wnut17" / name).docs(nlp))
            for split, name in WNUT17.items()
        },
        "wikigold": wikigold(texts.DATA, nlp),
    }
    for name, splits in sets.items():
        for split, docs in splits.items():
            DocBin(docs=docs).to_disk(folder / f"{name}-{split}.spacy")


def fine_tune(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train once, and score on what it was not trained on.

    run (dict[str, Any]): The settings, as `main` makes them.
    folder (Path): Where the corpora are.
    RETURNS (dict[str, Any]): F1 on dev and test, and processor seconds of the median step.
    """
    files = {split: str(folder / f"{run['data']}-{split}.spacy") for split in WNUT17}
    config = training_config(["ner"], encoder=run["encoder"])
    config["paths"] |= {"train": files["train"], "dev": files["dev"]}
    config["system"]["seed"] = run["seed"]
    steps = run["steps"]
    config["training"] |= {"max_steps": steps, "eval_frequency": steps, "patience": 0}
    config["training"]["optimizer"]["learn_rate"] |= {
        "warmup_steps": steps // 10,
        "initial_rate": run["rate"],
    }
    config["components"]["albert"]["model"] |= {
        "learn_rate_factor": run["factor"],
        "training_precision": "bfloat16",
    }
    # What the encoder drops is the checkpoint's affair, whatever its width
    config["initialize"]["components"]["albert"]["encoder"]["dropout"] = None
    config["components"]["ner"]["loss"] = run["loss"]
    nlp = init_nlp(config)
    ner: Any = nlp.get_pipe("ner")
    ticks, get_loss = [], ner.get_loss

    def timed(*args: Any) -> Any:
        ticks.append(time.process_time())
        return get_loss(*args)

    ner.get_loss = timed
    train(nlp)
    scores = {s: nlp.evaluate(list(Corpus(files[s])(nlp)))["ents_f"] for s in ("dev", "test")}
    pace = median(after - before for before, after in itertools.pairwise(ticks))
    return {**{split: round(100 * f, 2) for split, f in scores.items()}, "pace": round(pace, 4)}


def main() -> None:
    """Make the runs that are not there yet, and print the mean of each kind."""
    parser = argparse.ArgumentParser("python -m benchmarks.crf", description=__doc__)
    add = partial(parser.add_argument, nargs="+")
    add("--seed", type=int, default=[1, 2, 3])
    add("--data", default=["wikigold", "wnut17"])
    add("--loss", default=["tokens", "crf"])
    add("--encoder", default=["build/en_albert_sm/pretrain_128/model"])
    add("--rate", type=float, default=[5e-4], help="of the head, at its peak")
    add("--factor", type=float, default=[1.0], help="the encoder's rate is so many times that")
    add("--steps", type=int, default=[300])
    parser.add_argument("--output", type=Path, default=Path("crf.jsonl"))
    settings = vars(parser.parse_args())
    output = settings.pop("output")
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_corpora(Path(folder))
        for values in itertools.product(*settings.values()):
            run = dict(zip(settings, values))
            if not any(run.items() <= row.items() for row in rows):
                rows.append(run | fine_tune(run, Path(folder)))
                with output.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Write the mean over the seeds, with its standard deviation, of runs that else are alike."""
    kinds: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(tuple(row[key] for key in KIND), []).append(row)
    lines = []
    for kind, runs in kinds.items():
        figures = [f"{len(runs)} seeds"]
        for name in ("dev", "test"):
            scores = [run[name] for run in runs]
            spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
            figures.append(f"{name} {mean(scores):.1f}{spread}")
        figures.append(f"{median(run['pace'] for run in runs):.2f} s a step")
        lines.append("  ".join([*map(str, kind), *figures]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
