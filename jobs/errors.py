"""What a person is meant to read, and what he may allow."""

#: In what a run may differ from an earlier one that it takes up, if it is told to.
KINDS = {
    "pipeline": "the pipeline, if it writes the same columns",
    "code": "the code file",
    "versions": "the versions of spaCy and spacy-albert",
    "options": "--max-chars and --shard-bytes",
    "new-files": "new input files, which are annotated after the others",
    "gone-files": "input files that are no longer there; what has been annotated of them stays",
    "changed-files": "input files that have changed, which are annotated anew",
    "touched-files": "input files that have another date and the same size and row groups",
}


class JobError(ValueError):
    """Something the caller can put right; the message names the thing and the fix."""


def missing_extra(error: ImportError) -> JobError:
    return JobError(
        f"The jobs need {error.name}, which is not installed: pip install 'spacy-albert[jobs]'"
    )
