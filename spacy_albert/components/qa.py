from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup
from spacy.training import Example, validate_get_examples
from thinc.api import Model
from torch import Tensor

from ..answers import answers_of, keep
from ..inputs import bring, by_name
from ..layers import Gradient, encoder_of
from ..shims import EncoderShim, HeadShim
from ..spans import Asked, Heard, Spans
from .pipe import AlbertPipe


class Found(NamedTuple):
    """What a document answers to a question."""

    question: str
    spans: Spans
    is_answered: bool


class AlbertQA(AlbertPipe):
    """Extractive question answering: for every question the span of the document that answers it,
    or none.
    """

    def __init__(
        self,
        vocab: Any,
        model: Model,
        name: str = "albert_qa",
        *,
        questions: Mapping[str, str] = {},
        null_threshold: float | None = 0.0,
        max_answer_length: int = 30,
        n_best: int = 5,
        scorer: Callable | None = None,
    ) -> None:
        """Make a component without weights.

        vocab (Vocab): The shared vocabulary.
        model (Model): From spacy-albert.QuestionAnswering.v1.
        name (str): The name of the component, and of the span group with the answers.
        questions (Mapping[str, str]): What every document is asked, by name. A document can bring
            questions of its own in `doc._.questions`.
        null_threshold (float | None): There is no answer if more than this speaks against one;
            `find-threshold` learns it. None: there is always one.
        max_answer_length (int): The most tokens in an answer.
        n_best (int): How many spans to keep for each question.
        scorer (Callable | None): The scoring method.
        RAISES (ValueError): If the model is not for this component, or a question is empty.
        """
        self.vocab = vocab
        self.model = model
        self.name = name
        if model.name != "albert-head" or self.head.kind not in ("spans", "conditional_spans"):
            raise ValueError(
                f"Component {name!r} needs a spacy-albert.QuestionAnswering.v1 as its model."
            )
        if max_answer_length < 1 or n_best < 1:
            raise ValueError(
                f"Component {name!r} has max_answer_length = {max_answer_length} and n_best = "
                f"{n_best}; both must be 1 at least."
            )
        self.questions = by_name(questions)
        self.max_answer_length = max_answer_length
        self.n_best = n_best
        self.cfg = {"null_threshold": null_threshold}
        self.scorer = scorer
        self.head.inputs = self.questions_of

    @property
    def head(self) -> HeadShim:
        """RETURNS (HeadShim): The weights of the head."""
        return self.model.shims[0]  # type: ignore[return-value]

    def questions_of(self, doc: Doc) -> dict[str, str]:
        """List what a document is asked.

        doc (Doc): The document.
        RETURNS (dict[str, str]): The component's questions and its own, by name.
        RAISES (ValueError): If one of its own is empty, or none.
        """
        return self.questions | by_name(doc._.questions)

    # From documents to annotations

    def predict(self, docs: Iterable[Doc]) -> list[dict[str, Found]]:
        """Answer the questions, without touching the documents.

        docs (Iterable[Doc]): The documents.
        RETURNS (list[dict[str, Found]]): The answers of each, by the names of the questions.
        """
        docs = list(docs)
        return self.interpret(docs, self.model.predict(docs))

    def interpret(
        self, docs: Sequence[Doc], answers: Sequence[Asked], **settings: float | None
    ) -> list[dict[str, Found]]:
        """Find the answers in what was heard of some documents.

        docs (Sequence[Doc]): The documents.
        answers (Sequence[Asked]): What was heard of them.
        **settings: A null_threshold other than the component's own.
        RETURNS (list[dict[str, Found]]): The answers of each, by the names of the questions.
        """
        threshold = {**self.cfg, **settings}["null_threshold"]
        head: Any = self.head.module
        found = []
        for asked in answers:
            of_doc = {}
            for (name, question), heard in zip(asked.questions.items(), asked.heard):
                spans = head.spans(heard, self.n_best, self.max_answer_length)
                is_none = threshold is not None and spans.null_score > threshold
                of_doc[name] = Found(question, spans, len(spans.scores) > 0 and not is_none)
            found.append(of_doc)
        return found

    def set_annotations(self, docs: Iterable[Doc], predictions: Iterable[dict[str, Found]]) -> None:
        """Keep the answers in `doc._.answers`, and the spans in `doc.spans[name]` with their
        probabilities in `attrs["scores"]` and `span._.score`.

        docs (Iterable[Doc]): The documents.
        predictions (Iterable[dict[str, Found]]): From `predict`.
        """
        for doc, found in zip(docs, predictions):
            spans, scores = [], []
            for name, (question, n_best, is_answered) in found.items():
                starts, ends, points, null_score, probabilities = n_best
                columns = (column.tolist() for column in (starts, ends, points, probabilities))
                keep(doc, name, question, null_score, is_answered, zip(*columns))
                if is_answered:
                    span = Span(doc, int(starts[0]), int(ends[0]), label=name)
                    span._.score = float(probabilities[0])
                    spans.append(span)
                    scores.append(span._.score)
            attrs = {"scores": np.array(scores, dtype="f")}
            doc.spans[self.name] = SpanGroup(doc, name=self.name, spans=spans, attrs=attrs)

    # Training

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        encoder: Callable[[EncoderShim], Any] | None = None,
    ) -> None:
        """Make fresh weights.

        get_examples (Callable): Returns training examples.
        nlp (Language): The pipeline.
        encoder (Callable): Where an encoder of the component's own starts from, for instance
            spacy-albert.Checkpoint.v1. A component that listens has no use for it.

        DOCS: https://spacy.io/api/pipe#initialize
        """
        validate_get_examples(get_examples, "AlbertQA.initialize")
        reader = encoder_of(self.start_encoder(nlp, encoder)).reader
        self.head.make(reader.model.config.hidden_size, 2).to(reader.engine.device)

    def update(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, float]:
        """Learn from a batch of examples.

        examples (Iterable[Example]): The examples.
        RETURNS (dict[str, float]): The losses.

        DOCS: https://spacy.io/api/pipe#update
        """
        examples = list(examples)
        bring(examples)
        return super().update(examples, **kwargs)

    def get_loss(self, examples: Iterable[Example], scores: list[Asked]) -> tuple[float, Gradient]:
        """Compare with the annotated answers: the mean over windows of the head's own loss. A
        window that does not show the whole answer has none.

        examples (Iterable[Example]): The examples. A question without annotation does not count.
        scores (list[Asked]): What was heard, with the graph.
        RETURNS (tuple[float, Gradient]): The loss, and the way to a lower one.
        """
        head: Any = self.head.module
        losses: list[Tensor] = []
        for example, asked in zip(examples, scores):
            gold = example.reference._.gold_answers or {}
            for name, heard in zip(asked.questions, asked.heard):
                if name in gold:
                    answers = list(map(tuple, gold[name]))
                    pieces = pieces_of(example, heard, answers[0]) if answers else None
                    if pieces is not None or not answers:
                        losses.append(head.losses(heard, pieces))
        if not losses:
            return 0.0, Gradient([], 0, [])
        total = torch.cat(losses)
        n_windows = len(total)
        total = total.sum()
        return total.item() / n_windows, Gradient([torch.ones_like(total)], n_windows, [total])

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score the answers to annotated questions. What a document has not been asked yet it is
        asked now: `spacy evaluate` reads documents without their questions.

        examples (Iterable[Example]): The examples, with predictions.
        RETURNS (dict[str, Any]): The scores.

        DOCS: https://spacy.io/api/pipe#score
        """
        examples = [example for example in examples if example.reference._.gold_answers]
        bring(examples)
        docs = [
            example.predicted
            for example in examples
            if not example.reference._.gold_answers.keys() <= answers_of(example.predicted).keys()
        ]
        for _ in self.pipe(docs):
            pass
        return super().score(examples, **kwargs)


def pieces_of(example: Example, heard: Heard, answer: tuple[int, int]) -> tuple[int, int] | None:
    """Find the pieces of an annotated answer.

    example (Example): The document that was read, and the annotated one.
    heard (Heard): How it was read.
    answer (tuple[int, int]): First character of the answer, and one past its last.
    RETURNS (tuple[int, int] | None): First piece and last; None if it has none, or is not there.
    """
    start, end = answer
    doc = example.predicted
    if doc.text[start:end] != example.reference.text[start:end]:
        return None
    span = doc.char_span(start, end, alignment_mode="expand")
    if span is None:
        return None
    first, stop = heard.tokens.searchsorted([span.start, span.end]).tolist()
    return (int(heard.firsts[first]), int(heard.lasts[stop - 1])) if first < stop else None
