"""The one exception a person is meant to read."""


class JobError(ValueError):
    """Something the caller can put right; the message names the thing and the fix."""


def missing_extra(error: ImportError) -> JobError:
    return JobError(
        f"The jobs need {error.name}, which is not installed: pip install 'spacy-albert[jobs]'"
    )
