"""Training configs and the embedded pipeline, installed as `spacy_albert_pipelines`."""

from pathlib import Path

#: The pipeline that `annotate` and the demo use when none is named.
DEFAULT = "en_albert_sm"


def resolve(name: str) -> Path | None:
    """Find a pipeline or a file that ships with this package.

    name (str): The name of an embedded pipeline ("en_albert_sm") or of a file ("ner.cfg").
    RETURNS (Path | None): Its path, or None if the package has nothing of that name.
    """
    root = Path(__file__).parent
    if not name or Path(name).name != name or name.startswith((".", "__")):
        return None
    for candidate in (root / name / "model", root / name):
        if (candidate / "config.cfg").is_file() or candidate.is_file():
            return candidate
    return None
