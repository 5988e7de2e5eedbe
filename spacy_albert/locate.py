"""Where pipelines and checkpoints lie."""

from pathlib import Path

from spacy import util


def find_pipeline(name: str | Path) -> Path | None:
    """Find a spaCy pipeline.

    name (str | Path): A directory, an embedded pipeline ("en_albert_sm") or an installed package.
    RETURNS (Path | None): The directory with its config.cfg, or None if there is none.
    """
    from spacy_albert_pipelines import resolve

    path = Path(name)
    if not path.is_dir():
        embedded = resolve(str(name))
        if embedded is not None:
            path = embedded
        elif util.is_package(str(name)):
            # The package folder holds the data in a folder named name-version
            path = next(util.get_package_path(str(name)).glob("*/config.cfg"), path).parent
    return path if (path / "config.cfg").is_file() else None


def find_encoder(name: str | Path) -> Path:
    """Find the directory of an ALBERT checkpoint.

    name (str | Path): A Hugging Face directory, or whatever `find_pipeline` takes.
    RETURNS (Path): A directory with config.json, weights and tokenizer.
    RAISES (ValueError): If there is no such directory, or no ALBERT encoder in the pipeline.
    """
    if (Path(name) / "config.json").is_file():
        return Path(name)
    pipeline = find_pipeline(name)
    if pipeline is None:
        raise ValueError(
            f"{str(name)!r} is neither a Hugging Face directory (it has no config.json), nor a "
            "spaCy pipeline (a directory with config.cfg, an embedded or an installed one)."
        )
    encoders = sorted(pipeline.glob("*/encoder/config.json"))
    if len(encoders) != 1:
        found = f"{len(encoders)} ALBERT encoders" if encoders else "no ALBERT encoder"
        raise ValueError(
            f"The pipeline {pipeline} has {found}. Name the directory of one, such as "
            f"{pipeline}/albert/encoder."
        )
    return encoders[0].parent
