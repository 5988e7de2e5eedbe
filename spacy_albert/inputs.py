"""What a document is read together with: `doc._.questions`, `doc._.pair`; and what the answers
should be, `doc._.gold_answers`.

All of it lies in the document's user data, so a DocBin keeps it if it is told to
(`store_user_data`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from spacy.tokens import Doc
from spacy.training import Example

#: What ALBERT reads beside the text.
INPUTS = ("questions", "pair")

for extension in (*INPUTS, "gold_answers"):
    if not Doc.has_extension(extension):
        Doc.set_extension(extension, default=None)


def bring(examples: Iterable[Example]) -> None:
    """Let the documents that are going to be read have what the annotated ones are read with:
    spaCy's own Corpus makes them of the text alone.

    examples (Iterable[Example]): The examples; changed in place.
    """
    for example in examples:
        read, annotated = example.predicted._, example.reference._
        for name in INPUTS:
            if read.get(name) is None and annotated.get(name) is not None:
                read.set(name, annotated.get(name))


def by_name(questions: Any) -> dict[str, str]:
    """Understand what questions somebody asks.

    questions (Any): A question, a list of them, or a dict of them by name; None for no question.
    RETURNS (dict[str, str]): The questions by name; one that has none is its own.
    RAISES (ValueError): If that is no question, or one of them is empty.
    """
    if questions is None:
        return {}
    if isinstance(questions, str):
        questions = [questions]
    named = dict(questions if isinstance(questions, Mapping) else ((q, q) for q in questions))
    for name, question in named.items():
        if not isinstance(name, str) or not isinstance(question, str):
            raise ValueError(
                f"The question {name!r} is {question!r}. Questions are texts: one, a list of them, "
                "or a dict of them by name."
            )
        if not question.strip():
            raise ValueError(f"The question {name!r} is empty. Write it out, or leave it out.")
    return named
