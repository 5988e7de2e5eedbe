"""Build en_albert_sm from the data sets: encoder, corpora, training, figures, model card.

Every step leaves its result in the work folder and is skipped where that is there already.

    python pipelines/en_albert_sm/build.py DATA [--work FOLDER]
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import spacy

HERE = Path(__file__).parent
META = {
    "name": "albert_sm",
    "version": "0.1.0",
    "description": "A small ALBERT for persons, organisations, locations and sentiment.",
    "author": "The spacy-albert developers",
    "license": "CC BY-SA 4.0",
}
TESTS = {"wikigold-test": "ents", "wnut17-test": "ents", "sentence_polarity-test": "cats"}


def run(*command: object) -> None:
    """Run a command and stop where it fails.

    *command (object): The command and its arguments.
    """
    print("$", *command, flush=True)
    subprocess.run([sys.executable, *map(str, command)], check=True)


def figures(model: Path, corpora: Path, work: Path) -> dict[str, dict[str, float]]:
    """Score a pipeline on the test splits with `spacy evaluate`.

    model (Path): The pipeline.
    corpora (Path): The folder of .spacy files.
    work (Path): Where the scores go.
    RETURNS (dict): Scores by test set.
    """
    found = {}
    for name, kind in TESTS.items():
        output = work / f"{name}.json"
        run("-m", "spacy", "evaluate", model, corpora / f"{name}.spacy", "--output", output)
        scores = json.loads(output.read_text())
        keys = ("ents_p", "ents_r", "ents_f") if kind == "ents" else ("cats_macro_f", "cats_score")
        found[name] = {key: round(scores[key], 4) for key in keys}
    return found


def main(data: Path, work: Path) -> None:
    """Build the pipeline and put it in its place.

    data (Path): The folder of data sets.
    work (Path): The folder for everything in between.
    """
    encoder, corpora, trained = work / "encoder", work / "corpora", work / "trained"
    if not (encoder / "config.json").exists():
        run(HERE / "pretrain.py", data, encoder)
    if not (corpora / "train.spacy").exists():
        run(HERE / "corpora.py", data, corpora)
    if not (trained / "model-best").exists():
        run(
            *("-m", "spacy", "train", HERE / "config.cfg", "--output", trained),
            *("--paths.train", corpora / "train.spacy", "--paths.dev", corpora / "dev.spacy"),
            *("--paths.encoder", encoder),
        )
    nlp = spacy.load(trained / "model-best")
    nlp.meta.update(META)
    nlp.config["paths"] = dict.fromkeys(nlp.config["paths"])  # where it was made is nobody's affair
    shutil.rmtree(HERE / "model", ignore_errors=True)
    nlp.to_disk(HERE / "model")
    scores = figures(HERE / "model", corpora, work)
    (HERE / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of data sets")
    parser.add_argument("--work", type=Path, default=Path("build/en_albert_sm"), help="work folder")
    arguments = parser.parse_args()
    main(arguments.data, arguments.work)
