"""The answers that a document keeps: `doc._.answers`.

They lie in the document's user data as plain numbers, so they travel with it and are saved with it;
spans are made of them when somebody asks.
"""

from collections.abc import Iterable
from typing import NamedTuple

from spacy.tokens import Doc, Span

#: Where they are in the user data.
KEY = "albert_answers"


class Candidate(NamedTuple):
    """A span that may be the answer."""

    span: Span
    score: float  # how much speaks for it, on a scale that all documents share
    probability: float  # that it is the answer, if that is one of the n best or there is none


class Answer(NamedTuple):
    """What a document answers to a question."""

    question: str
    span: Span | None  # None: there is no answer
    start: int | None  # its first character
    end: int | None  # one past its last character
    score: float  # of the best span, whether it is the answer or not; -inf if there is none
    null_score: float  # how much speaks for there being no answer
    probability: float  # of the best span
    n_best: list[Candidate]

    @property
    def text(self) -> str | None:
        """RETURNS (str | None): The answer."""
        return None if self.span is None else self.span.text


def answers_of(doc: Doc) -> dict[str, Answer]:
    """Read a document's answers: what `doc._.answers` gives.

    doc (Doc): The document.
    RETURNS (dict[str, Answer]): Its answers, by the names of the questions.
    """
    found = {}
    for name, kept in doc.user_data.get(KEY, {}).items():
        n_best = [
            Candidate(span, score, probability)
            for start, end, score, probability in kept["spans"]
            if (span := doc.char_span(start, end, name, alignment_mode="expand")) is not None
        ]
        _, score, probability = n_best[0] if n_best else (None, float("-inf"), 0.0)
        span = n_best[0].span if kept["is_answered"] else None
        start, end = (span.start_char, span.end_char) if span is not None else (None, None)
        found[name] = Answer(
            kept["question"], span, start, end, score, kept["null_score"], probability, n_best
        )
    return found


def keep(
    doc: Doc,
    name: str,
    question: str,
    null_score: float,
    is_answered: bool,
    spans: Iterable[tuple[int, int, float, float]],
) -> None:
    """Keep an answer with its document.

    doc (Doc): The document.
    name (str): The name of the question.
    question (str): The question.
    null_score (float): How much speaks for there being no answer.
    is_answered (bool): Whether the best span is the answer.
    spans (Iterable[tuple]): First token, one past the last, score and probability of the n best.
    """
    kept = []
    for start, end, score, probability in spans:
        span = doc[start:end]
        kept.append([span.start_char, span.end_char, float(score), float(probability)])
    doc.user_data.setdefault(KEY, {})[name] = {
        "question": question,
        "null_score": float(null_score),
        "is_answered": bool(is_answered),
        "spans": kept,
    }


if not Doc.has_extension("answers"):
    Doc.set_extension("answers", getter=answers_of)
