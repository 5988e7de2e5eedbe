"""Ray jobs that annotate Parquet collections with a spaCy pipeline."""

from typing import TYPE_CHECKING, Any

from .errors import JobError

if TYPE_CHECKING:
    from .run import annotate
    from .summary import Summary

__all__ = ["JobError", "Summary", "annotate"]


def __getattr__(name: str) -> Any:
    # Ray and pyarrow are slow to import, and need not be there for the command to explain itself
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .errors import missing_extra

    try:
        from . import run
    except ImportError as error:
        raise missing_extra(error) from error
    return getattr(run, name)
