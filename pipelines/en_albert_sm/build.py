"""Build en_albert_sm from the data sets: texts, vocabulary, pre-training, corpora, training,
calibration, half precision, figures.

All of it is done by commands that anyone has. Every step leaves its result in the work folder and
is skipped where that is there already; to do one again, remove its result and those after it. A
pre-training that was broken off goes on.

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
ALBERT = ("-m", "spacy", "albert")
# Threads of one worker wait for each other at every product; workers do so once in a step
WORKERS = ("--workers", 2, "--cpus-per-worker", 1)
META = {
    "name": "albert_sm",
    "version": "0.2.0",
    "description": "A small ALBERT for persons, organisations, locations and sentiment.",
    "author": "The spacy-albert developers",
    "license": "CC BY-SA 4.0",
}
TESTS = (
    *("wikigold-test", "wnut17-test", "crossner-test"),
    *("sentence_polarity-test", "goemotions-test", "movie_reviews-test"),
    "test",  # all of them
)
# With one class for each text, its micro F1 is the accuracy
SCORES = {"ner": ("ents_p", "ents_r", "ents_f"), "textcat": ("cats_macro_f", "cats_micro_f")}


def run(*command: object) -> None:
    """Run a command of Python and stop where it fails.

    *command (object): What follows `python`.
    """
    print("$ python", *command, flush=True)
    subprocess.run([sys.executable, *map(str, command)], check=True)


def make(folder: Path, *command: object) -> None:
    """Run a command that writes a folder, unless that is there. It gets its name when it is whole.

    folder (Path): The folder.
    *command (object): What follows `python`, with the folder where it is to be written.
    """
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        run(*(part if word == folder else word for word in command))
        part.rename(folder)


def prepare(data: Path, work: Path) -> tuple[Path, Path]:
    """Make what a pre-training needs.

    data (Path): The folder of data sets.
    work (Path): The work folder.
    RETURNS (tuple[Path, Path]): The texts and the vocabulary.
    """
    work.mkdir(parents=True, exist_ok=True)
    texts, vocabulary = work / "texts", work / "vocabulary"
    make(texts, HERE / "texts.py", data, texts)
    make(
        vocabulary,
        *(*ALBERT, "vocab", texts, vocabulary, "--size", 12_000),
        *("--cased", "--ascii-punctuation"),
    )
    return texts, vocabulary


def pretrain(texts: Path, folder: Path, config: str, *options: object) -> Path:
    """Pre-train an encoder, unless it is there. All runs share the texts divided into pieces.

    texts (Path): The texts.
    folder (Path): The folder of the run.
    config (str): The name of the config.
    *options (object): Further options of `pretrain`.
    RETURNS (Path): The encoder.
    """
    pieces = texts.with_name("pieces")
    if not (folder / "model").exists():
        run(
            *(*ALBERT, "pretrain", texts, folder, "--config", HERE / config),
            *("--corpus", pieces, *WORKERS, *options),
        )
    return folder / "model"


def baptize(source: Path, output: Path) -> None:
    """Give a trained pipeline its name. Where it was made is nobody's affair.

    source (Path): The pipeline.
    output (Path): The folder to write.
    """
    nlp = spacy.load(source)
    nlp.meta.update(META)
    nlp.config["paths"] = dict.fromkeys(nlp.config["paths"])
    nlp.to_disk(output)


def figures(model: Path, corpora: Path, work: Path) -> dict[str, dict[str, float]]:
    """Score a pipeline on the test splits with `spacy evaluate`, and add how far its scores were
    from the truth when it was calibrated, and before.

    model (Path): The pipeline.
    corpora (Path): The folder of .spacy files.
    work (Path): The work folder.
    RETURNS (dict): Figures by test set.
    """
    calibration = json.loads((work / "calibration.json").read_text())
    found: dict[str, dict[str, float]] = {}
    for name in TESTS:
        output = work / f"{name}.json"
        run("-m", "spacy", "evaluate", model, corpora / f"{name}.spacy", "--output", output)
        scores, found[name] = json.loads(output.read_text()), {}
        for row in calibration:
            if row["corpus"] == name:
                component = row["component"]
                scores[f"{component}_ece"] = row["after"]["ece"]
                scores[f"{component}_ece_raw"] = row["before"]["ece"]
                keys = (*SCORES[component], f"{component}_ece", f"{component}_ece_raw")
                found[name] |= {key: round(scores[key], 4) for key in keys}
    return found


def main(data: Path, work: Path) -> None:
    """Build the pipeline and put it in its place.

    data (Path): The folder of data sets.
    work (Path): The folder for everything in between.
    """
    texts, vocabulary = prepare(data, work)
    short = pretrain(texts, work / "pretrain_40", "pretrain_40.cfg", "--vocabulary", vocabulary)
    encoder = pretrain(texts, work / "pretrain_128", "pretrain_128.cfg", "--init-from", short)

    corpora, trained, half = work / "corpora", work / "trained", work / "half"
    make(corpora, HERE / "corpora.py", data, corpora)
    make(
        trained,
        *("-m", "spacy", "train", HERE / "config.cfg", "--output", trained),
        *("--paths.train", corpora / "train.spacy", "--paths.dev", corpora / "dev.spacy"),
        *("--paths.encoder", encoder),
    )

    if not half.exists():
        baptize(trained / "model-best", work / "named")
    make(half, *ALBERT, "shrink", work / "named", half)
    # What is measured is what ships, so calibration comes last
    tests = [word for name in TESTS for word in ("--test", corpora / f"{name}.spacy")]
    calibrated = work / "calibrated"
    make(
        calibrated,
        *(*ALBERT, "calibrate", half, corpora / "dev.spacy", "--output", calibrated, *tests),
        *("--metrics", work / "calibration.json", "--force"),
    )

    shutil.rmtree(HERE / "model", ignore_errors=True)
    shutil.copytree(calibrated, HERE / "model")
    scores = figures(HERE / "model", corpora, work)
    (HERE / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of data sets")
    parser.add_argument("--work", type=Path, default=Path("build/en_albert_sm"), help="work folder")
    arguments = parser.parse_args()
    main(arguments.data, arguments.work)
