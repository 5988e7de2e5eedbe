"""SQuAD: its files as training examples, its scores, and the threshold below which there is an
answer.

Scores and threshold are those of the official scripts (evaluate-v2.0.py; for files of version 1.1
they come to the same as evaluate-v1.1.py).
"""

import gzip
import json
import logging
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from .answers import answers_of
from .corpora import FileCorpus
from .inputs import bring

logger = logging.getLogger("spacy.albert")

#: Wrong offsets that are named in the log; the others are counted.
NAMED = 3
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_corpus(
    path: Path | None, n_questions: int = 0, limit: int = 0
) -> Callable[[Language], Iterable[Example]]:
    """Read questions and answers from SQuAD's JSON (spacy-albert.SquadCorpus.v1).

    Version 1.1 or 2.0. Answers that are not where the file says are named in the log, counted and
    left out, and with them questions that have no other one.

    path (Path): A .json or .json.gz file, or a pattern such as "data/*.json.gz".
    n_questions (int): Questions of a document, at most, which is there as often as it takes; 0: all
        of its paragraph.
    limit (int): Documents to read, at most; 0: all.
    RETURNS (Callable[[Language], Iterable[Example]]): The reader.
    """
    return SquadCorpus(path, n_questions=n_questions, limit=limit)


class SquadCorpus(FileCorpus):
    """Paragraphs with questions in `doc._.questions`, and in `doc._.gold_answers` where the answers
    are, in characters: none where there is none. Settings as for `squad_corpus`.
    """

    def __init__(self, path: str | Path | None, *, n_questions: int = 0, limit: int = 0):
        super().__init__(path, limit=limit)
        self.n_questions = n_questions

    def _read(self, nlp: Language) -> Iterator[Doc]:
        for path in self.files:
            for place, text, asked in self._paragraphs(path):
                size = self.n_questions or len(asked)
                for first in range(0, len(asked), size or 1):
                    some = asked[first : first + size]
                    try:
                        doc = nlp.make_doc(text)
                    except ValueError as error:  # it is too long for spaCy
                        raise ValueError(f"{place}: {error}") from None
                    doc._.questions = {name: question for name, question, _ in some}
                    doc._.gold_answers = {name: answers for name, _, answers in some}
                    yield doc

    def _paragraphs(
        self, path: Path
    ) -> Iterator[tuple[str, str, list[tuple[str, str, list[list[int]]]]]]:
        """Read a file: where each paragraph is, its text, and the id, question and answers of each
        of its questions.
        """
        for number, article in enumerate(read_squad(path)):
            for which, paragraph in enumerate(fields(article, "paragraphs", f"{path}, data")):
                place = f"{path}, article {number}, paragraph {which}"
                text = field(paragraph, "context", place)
                if not text.strip():
                    self.skipped["no text"] += 1
                    continue
                asked: list[tuple[str, str, list[list[int]]]] = []
                for item in fields(paragraph, "qas", place):
                    question = field(item, "question", place)
                    name = str(item.get("id") or f"{number}-{which}-{len(asked)}")
                    if not question.strip():
                        self.skipped["no question"] += 1
                        continue
                    given = [] if item.get("is_impossible") else item.get("answers") or []
                    found = (self._place(text, each, name) for each in given)
                    answers = [answer for answer in found if answer is not None]
                    if given and not answers:
                        self.skipped["no answer where the file says"] += 1
                        continue
                    asked.append((name, question, answers))
                yield place, text, asked

    def _place(self, text: str, answer: dict[str, Any], question: str) -> list[int] | None:
        """Find an answer in its text, or take note that it is not there."""
        words, start = answer.get("text"), answer.get("answer_start")
        if not isinstance(words, str) or not isinstance(start, int):
            raise ValueError(
                f"{self.files[0]}: the answers to question {question} need a text and answer_start."
            )
        if words and start >= 0 and text.startswith(words, start):
            return [start, start + len(words)]
        self.skipped["an answer that is not where the file says"] += 1
        if self.skipped["an answer that is not where the file says"] <= NAMED:
            logger.warning(
                "%s: the answer %r to question %s is not at character %s.",
                self.files[0],
                words,
                question,
                start,
            )
        return None


def count_questions(docs: Iterable[Doc]) -> Counter[str]:
    """Count what is asked of documents.

    docs (Iterable[Doc]): The documents.
    RETURNS (Counter[str]): How many questions have an answer, and how many have none.
    """
    counts: Counter[str] = Counter()
    for doc in docs:
        for answers in (doc._.gold_answers or {}).values():
            counts["with an answer" if answers else "without"] += 1
    return counts


def read_squad(path: Path) -> list[Any]:
    """Read a file of SQuAD's.

    path (Path): A .json or .json.gz file.
    RETURNS (list): Its articles.
    RAISES (ValueError): If it is no such file.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        articles = json.loads(data)["data"]
    except (ValueError, KeyError, TypeError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(
            f'{path} is not in SQuAD\'s format, a JSON object with articles in "data" '
            f"({type(error).__name__}: {error})."
        ) from None
    if not isinstance(articles, list):
        raise ValueError(f'{path} is not in SQuAD\'s format: "data" is no list.')
    return articles


def fields(item: Any, name: str, place: str) -> list[Any]:
    """RETURNS (list): A list that must be in an object."""
    found = item.get(name) if isinstance(item, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{place}: there is no list {name!r}.")
    return found


def field(item: Any, name: str, place: str) -> str:
    """RETURNS (str): A text that must be in an object."""
    found = item.get(name) if isinstance(item, dict) else None
    if not isinstance(found, str):
        raise ValueError(f"{place}: there is no text {name!r}.")
    return found


# Scores


def normalized(answer: str) -> str:
    """Leave out what does not matter in an answer: case, ASCII punctuation, articles, white space.

    answer (str): The answer.
    RETURNS (str): What matters.
    """
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> float:
    """RETURNS (float): 1 if an answer is the annotated one, but for what does not matter; or 0."""
    return float(normalized(answer) == normalized(gold))


def f1(answer: str, gold: str) -> float:
    """RETURNS (float): The F1 of the words of an answer; where one has none, whether both have."""
    found, wanted = normalized(answer).split(), normalized(gold).split()
    if not found or not wanted:
        return float(found == wanted)
    same = sum((Counter(found) & Counter(wanted)).values())
    return 2 * same / (len(found) + len(wanted))


class Outcome(NamedTuple):
    """How a question was answered."""

    has_answer: bool
    exact: float
    f1: float


def compare(answer: str, golds: Sequence[str]) -> Outcome:
    """Compare an answer with the annotated ones.

    answer (str): The answer; "" for none.
    golds (Sequence[str]): All that are right; none if there is no answer.
    RETURNS (Outcome): How it compares with the one it is nearest to.
    """
    texts = [gold for gold in golds if normalized(gold)] or [""]
    exact = max(exact_match(answer, gold) for gold in texts)
    return Outcome(bool(golds), exact, max(f1(answer, gold) for gold in texts))


def gold_texts(doc: Doc) -> dict[str, list[str]]:
    """RETURNS (dict[str, list[str]]): The annotated answers of a document, by question."""
    gold = doc._.gold_answers or {}
    return {name: [doc.text[start:end] for start, end in of_one] for name, of_one in gold.items()}


def score_answers(examples: Iterable[Example], **kwargs: Any) -> dict[str, float | None]:
    """Score answers as SQuAD's official script does.

    examples (Iterable[Example]): Annotated documents, with `doc._.answers`.
    **kwargs: Unused.
    RETURNS (dict[str, float | None]): Exact match and F1, between 0 and 1, over all questions
        ("qa_em", "qa_f1"), those that have an answer ("qa_has_em", "qa_has_f1"), and those that
        have none, where both are the share of questions left unanswered ("qa_none").
    """
    outcomes = []
    for example in examples:
        answers = answers_of(example.predicted)
        for name, golds in gold_texts(example.reference).items():
            answer = answers[name].text if name in answers else None
            outcomes.append(compare(answer or "", golds))
    return summary(outcomes)


def make_scorer() -> Callable[..., dict[str, float | None]]:
    """RETURNS (Callable): `score_answers` (spacy-albert.squad_scorer.v1)."""
    return score_answers


def summary(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """Average outcomes.

    outcomes (Sequence[Outcome]): How questions were answered.
    RETURNS (dict[str, float | None]): As `score_answers`; None where there are no such questions.
    """
    has = [outcome for outcome in outcomes if outcome.has_answer]
    none = [outcome for outcome in outcomes if not outcome.has_answer]
    return {
        "qa_em": mean(outcome.exact for outcome in outcomes),
        "qa_f1": mean(outcome.f1 for outcome in outcomes),
        "qa_has_em": mean(outcome.exact for outcome in has),
        "qa_has_f1": mean(outcome.f1 for outcome in has),
        "qa_none": mean(outcome.exact for outcome in none),
    }


def mean(values: Iterable[float]) -> float | None:
    """RETURNS (float | None): The mean; None if there are no values."""
    values = list(values)
    return sum(values) / len(values) if values else None


# The threshold


class Tuned(NamedTuple):
    """The null threshold with the best F1, and what it does."""

    threshold: float
    before: dict[str, float | None]
    after: dict[str, float | None]
    n_questions: int


def find_threshold(qa: Any, nlp: Language, examples: Iterable[Example]) -> Tuned:
    """Find the null threshold of a component with the best F1, and set it.

    qa (AlbertQA): The component.
    nlp (Language): Its pipeline.
    examples (Iterable[Example]): Annotated documents.
    RETURNS (Tuned): The threshold, and the scores before and after.
    RAISES (ValueError): If no question is annotated.
    """
    examples = list(examples)
    bring(examples)
    outcomes, null_scores, was_none = [], [], []
    docs = nlp.pipe([example.predicted for example in examples])
    for example, doc in zip(examples, docs, strict=True):
        answers = answers_of(doc)
        for name, golds in gold_texts(example.reference).items():
            answer = answers[name]
            best = answer.n_best[0].span.text if answer.n_best else ""
            outcomes.append(compare(best, golds))
            null_scores.append(answer.null_score)
            was_none.append(answer.span is None)
    if not outcomes:
        raise ValueError("No question of these documents is annotated (doc._.gold_answers).")
    threshold = best_threshold(outcomes, null_scores)
    is_none = [null_score > threshold for null_score in null_scores]
    qa.cfg["null_threshold"] = threshold
    before, after = (summary(unanswered(outcomes, none)) for none in (was_none, is_none))
    return Tuned(threshold, before, after, len(outcomes))


def best_threshold(outcomes: Sequence[Outcome], null_scores: Sequence[float]) -> float:
    """Find the null threshold with the best F1, as the official script does.

    outcomes (Sequence[Outcome]): How each question is answered if it is answered.
    null_scores (Sequence[float]): How much speaks for there being no answer.
    RETURNS (float): The threshold; of equally good ones the lowest.
    """
    score = best = float(sum(not outcome.has_answer for outcome in outcomes))
    threshold = min(null_scores) - 1.0  # nothing is answered
    for i in sorted(range(len(outcomes)), key=null_scores.__getitem__):
        score += outcomes[i].f1 - (not outcomes[i].has_answer)
        if score > best:
            best, threshold = score, null_scores[i]
    return threshold


def unanswered(outcomes: Sequence[Outcome], is_none: Sequence[bool]) -> list[Outcome]:
    """Leave some questions unanswered.

    outcomes (Sequence[Outcome]): How each question is answered.
    is_none (Sequence[bool]): Which of them are not.
    RETURNS (list[Outcome]): How they are answered then.
    """
    return [
        outcome._replace(exact=float(not outcome.has_answer), f1=float(not outcome.has_answer))
        if none
        else outcome
        for outcome, none in zip(outcomes, is_none)
    ]
