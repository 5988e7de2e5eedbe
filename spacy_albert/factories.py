"""The components that spaCy finds through our entry points.

spaCy imports this module whenever it makes a pipeline, anybody's pipeline. So it imports nothing
but spaCy, and what a factory needs is imported when it is called.
"""

from collections.abc import Callable
from typing import Any, Optional

from spacy.language import Language
from thinc.api import Model

LISTENER = {"@architectures": "spacy-albert.AlbertListener.v1", "upstream": "*"}

NER_SCORES = {"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None}

TEXTCAT_SCORES = {
    "cats_score": 1.0,
    "cats_score_desc": None,
    "cats_micro_p": None,
    "cats_micro_r": None,
    "cats_micro_f": None,
    "cats_macro_p": None,
    "cats_macro_r": None,
    "cats_macro_f": None,
    "cats_macro_auc": None,
    "cats_f_per_type": None,
}

QA_SCORES = {
    "qa_f1": 1.0,
    "qa_em": 0.0,
    "qa_has_f1": None,
    "qa_has_em": None,
    "qa_none": None,
}


@Language.factory(
    "albert",
    assigns=["doc._.n_windows"],
    default_config={
        "model": {
            "@architectures": "spacy-albert.Albert.v1",
            "window": None,
            "overlap": 32,
            "batch_pieces": None,
            "device": "auto",
            "precision": "auto",
            "training_precision": "float32",
            "learn_rate_factor": 1.0,
        }
    },
)
def make_albert(nlp: Language, name: str, model: Model) -> Any:
    """Make an ALBERT encoder that other components share.

    nlp (Language): The pipeline.
    name (str): The name of the component.
    model (Model): From spacy-albert.Albert.v1.
    RETURNS (AlbertEncoder): The component.
    """
    from .components.encoder import AlbertEncoder

    return AlbertEncoder(nlp.vocab, model, name)


@Language.factory(
    "albert_ner",
    assigns=[
        "doc.ents",
        "token.ent_iob",
        "token.ent_type",
        "doc.spans",
        "span._.score",
        "doc._.n_windows",
    ],
    default_config={
        "model": {
            "@architectures": "spacy-albert.TokenClassifier.v1",
            "pooling": "mean",
            "tok2vec": LISTENER,
        },
        "threshold": 0.0,
        "temperature": 1.0,
        "bias": 0.0,
        "loss": "tokens",
        "scorer": {"@scorers": "spacy.ner_scorer.v1"},
    },
    default_score_weights=NER_SCORES,
)
def make_ner(
    nlp: Language,
    name: str,
    model: Model,
    threshold: float,
    temperature: float,
    bias: float,
    loss: str,
    scorer: Optional[Callable],
) -> Any:
    """Make a named entity recognizer on ALBERT.

    nlp (Language): The pipeline.
    name (str): The name of the component.
    model (Model): From spacy-albert.TokenClassifier.v1.
    threshold (float): Entities that score lower are dropped.
    temperature (float): What the log odds of an entity are divided by before they become its score;
        `calibrate` learns it.
    bias (float): What is added to them then; learned, too.
    loss (str): What it learns by: "tokens", the cross-entropy of each tag by itself, or "crf", the
        probability of the whole tagging among the valid ones.
    scorer (Callable): The scoring method.
    RETURNS (AlbertNER): The component.
    """
    from .components.ner import AlbertNER

    return AlbertNER(
        nlp.vocab,
        model,
        name,
        threshold=threshold,
        temperature=temperature,
        bias=bias,
        loss=loss,
        scorer=scorer,
    )


@Language.factory(
    "albert_textcat",
    assigns=["doc.cats", "doc._.n_windows"],
    default_config={
        "model": {"@architectures": "spacy-albert.TextClassifier.v1", "tok2vec": LISTENER},
        "threshold": 0.0,
        "temperature": 1.0,
        "scorer": {"@scorers": "spacy.textcat_scorer.v2"},
    },
    default_score_weights=TEXTCAT_SCORES,
)
def make_textcat(
    nlp: Language,
    name: str,
    model: Model,
    threshold: float,
    temperature: float,
    scorer: Optional[Callable],
) -> Any:
    """Make a text classifier with exclusive classes on ALBERT.

    nlp (Language): The pipeline.
    name (str): The name of the component.
    model (Model): From spacy-albert.TextClassifier.v1.
    threshold (float): What the best class must reach to count in scoring.
    temperature (float): What logits are divided by before they become scores; `calibrate` learns
        it.
    scorer (Callable): The scoring method.
    RETURNS (AlbertTextcat): The component.
    """
    from .components.textcat import AlbertTextcat

    return AlbertTextcat(
        nlp.vocab, model, name, threshold=threshold, temperature=temperature, scorer=scorer
    )


@Language.factory(
    "albert_textcat_multilabel",
    assigns=["doc.cats", "doc._.n_windows"],
    default_config={
        "model": {"@architectures": "spacy-albert.TextClassifier.v1", "tok2vec": LISTENER},
        "threshold": 0.5,
        "temperature": 1.0,
        "scorer": {"@scorers": "spacy.textcat_multilabel_scorer.v2"},
    },
    default_score_weights=TEXTCAT_SCORES,
)
def make_textcat_multilabel(
    nlp: Language,
    name: str,
    model: Model,
    threshold: float,
    temperature: float,
    scorer: Optional[Callable],
) -> Any:
    """Make a text classifier where any number of classes can be true, on ALBERT.

    nlp (Language): The pipeline.
    name (str): The name of the component.
    model (Model): From spacy-albert.TextClassifier.v1.
    threshold (float): What a class must reach to count as true in scoring.
    temperature (float): What logits are divided by before they become scores; `calibrate` learns
        it.
    scorer (Callable): The scoring method.
    RETURNS (AlbertTextcatMultilabel): The component.
    """
    from .components.textcat import AlbertTextcatMultilabel

    return AlbertTextcatMultilabel(
        nlp.vocab, model, name, threshold=threshold, temperature=temperature, scorer=scorer
    )


@Language.factory(
    "albert_vectors",
    assigns=["doc.vector", "doc._.vector", "doc._.token_vectors", "doc._.n_windows"],
    default_config={
        "model": {
            "@architectures": "spacy-albert.Vectors.v1",
            "pooling": "mean",
            "tokens": False,
            "tok2vec": LISTENER,
        },
    },
)
def make_vectors(nlp: Language, name: str, model: Model) -> Any:
    """Make a component that gives documents, and on request spans and tokens, vectors from ALBERT.

    nlp (Language): The pipeline.
    name (str): The name of the component.
    model (Model): From spacy-albert.Vectors.v1.
    RETURNS (AlbertVectors): The component.
    """
    from .components.vectors import AlbertVectors

    return AlbertVectors(nlp.vocab, model, name)


@Language.factory(
    "albert_coherence",
    requires=["doc.sents"],
    assigns=["doc._.coherence", "doc._.coherence_score"],
    default_config={
        "model": {"@architectures": "spacy-albert.SentenceOrder.v1", "tok2vec": LISTENER},
    },
)
def make_coherence(nlp: Language, name: str, model: Model) -> Any:
    """Make a component that tells how well each sentence follows the one before, as ALBERT was
    pre-trained to tell.

    nlp (Language): The pipeline.
    name (str): The name of the component.
    model (Model): From spacy-albert.SentenceOrder.v1.
    RETURNS (AlbertCoherence): The component.
    """
    from .components.coherence import AlbertCoherence

    return AlbertCoherence(nlp.vocab, model, name)


@Language.factory(
    "albert_qa",
    assigns=["doc._.answers", "doc.spans", "span._.score", "doc._.n_windows"],
    default_config={
        "model": {
            "@architectures": "spacy-albert.QuestionAnswering.v1",
            "head": "linear",
            "overlap": 128,
            "tok2vec": LISTENER,
        },
        "questions": {},
        "null_threshold": 0.0,
        "max_answer_length": 30,
        "n_best": 5,
        "scorer": {"@scorers": "spacy-albert.squad_scorer.v1"},
    },
    default_score_weights=QA_SCORES,
)
def make_qa(
    nlp: Language,
    name: str,
    model: Model,
    questions: dict[str, str],
    null_threshold: Optional[float],
    max_answer_length: int,
    n_best: int,
    scorer: Optional[Callable],
) -> Any:
    """Make a component that answers questions with spans of the document, on ALBERT.

    nlp (Language): The pipeline.
    name (str): The name of the component.
    model (Model): From spacy-albert.QuestionAnswering.v1.
    questions (Dict[str, str]): What every document is asked, by name. A document can bring
        questions of its own in `doc._.questions`.
    null_threshold (float | None): There is no answer if more than this speaks against one;
        `find-threshold` learns it. None: there is always one.
    max_answer_length (int): The most tokens in an answer.
    n_best (int): How many spans to keep for each question.
    scorer (Callable): The scoring method.
    RETURNS (AlbertQA): The component.
    """
    from .components.qa import AlbertQA

    return AlbertQA(
        nlp.vocab,
        model,
        name,
        questions=questions,
        null_threshold=null_threshold,
        max_answer_length=max_answer_length,
        n_best=n_best,
        scorer=scorer,
    )


@Language.factory(
    "albert_pair",
    assigns=["doc.cats", "doc._.n_windows"],
    default_config={
        "model": {"@architectures": "spacy-albert.PairClassifier.v1", "tok2vec": LISTENER},
        "threshold": 0.0,
        "temperature": 1.0,
        "regression": False,
        "scorer": {"@scorers": "spacy.textcat_scorer.v2"},
    },
    default_score_weights=TEXTCAT_SCORES,
)
def make_pair(
    nlp: Language,
    name: str,
    model: Model,
    threshold: float,
    temperature: float,
    regression: bool,
    scorer: Optional[Callable],
) -> Any:
    """Make a classifier of two texts, the document and `doc._.pair`, on ALBERT.

    nlp (Language): The pipeline.
    name (str): The name of the component.
    model (Model): From spacy-albert.PairClassifier.v1.
    threshold (float): What the best class must reach to count in scoring.
    temperature (float): What logits are divided by before they become scores; `calibrate` learns
        it.
    regression (bool): Give a number instead of classes.
    scorer (Callable): The scoring method of classes.
    RETURNS (AlbertPair): The component.
    """
    from .components.pair import AlbertPair

    return AlbertPair(
        nlp.vocab,
        model,
        name,
        threshold=threshold,
        temperature=temperature,
        regression=regression,
        scorer=scorer,
    )
