"""Ray jobs that annotate Parquet collections with a spaCy pipeline."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import JobError

if TYPE_CHECKING:
    from .annotator import Annotator
    from .documents import read_docs
    from .page import report
    from .run import annotate
    from .summary import Summary
    from .verification import verify

__all__ = ["Annotator", "JobError", "Summary", "annotate", "read_docs", "report", "verify"]

MODULES = {
    "Annotator": "annotator",
    "Summary": "summary",
    "annotate": "run",
    "read_docs": "documents",
    "report": "page",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    # Ray and pyarrow are slow to import, and need not be there for the command to explain itself
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .errors import missing_extra

    try:
        module = import_module(f".{MODULES[name]}", __name__)
    except ImportError as error:
        raise missing_extra(error) from error
    return getattr(module, name)
