"""Scores that mean what they say: of what scores 0.8, eight in ten are so.

Classes: a component divides its logits by a number, its temperature, before they become scores
(Guo et al., "On Calibration of Modern Neural Networks", 2017). Entities: the score is a probability
already, and the log odds of it are divided by a temperature and moved by a bias (Platt,
"Probabilistic Outputs for Support Vector Machines", 1999). Neither changes what is found, or which
class is the best one.

The numbers are those under which the annotation of some documents, which training has not seen, is
most probable.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from torch import Tensor

from .components.ner import AlbertNER, Entity
from .components.pipe import AlbertHead
from .components.textcat import AlbertTextcat
from .inputs import bring

N_BINS = 15  # as Guo et al. have
ENOUGH = 100  # answers; with so many, chance puts the scores about 0.05 off (root mean square)
TINY = 1e-12  # what a probability is away from 0 and 1, at least, where log odds are taken
HIGHEST = 100.0  # temperature; beyond it all scores are about the same

Settings = dict[str, float]  # of a component: its temperature and, of entities, its bias


class Answers(NamedTuple):
    """What a component answered where there is annotation to compare with."""

    logits: Tensor  # (N,) log odds that something is so; or (N, K) of exclusive classes
    truth: Tensor  # (N,) whether it is so, 1 or 0; or the number of the class


class Outcomes(NamedTuple):
    """What a component said with which score, and whether it is so."""

    scores: np.ndarray  # (N,) between 0 and 1
    true: np.ndarray  # (N,) bool
    loss: float  # mean negative log likelihood of the annotation


class Finding(NamedTuple):
    """How a component does on a corpus, as it was and as it is."""

    component: str
    corpus: int  # 0 for the one that its settings were learned from
    settings: tuple[Settings, Settings]
    outcomes: tuple[Outcomes, Outcomes]


def calibrate(
    nlp: Language,
    dev: Iterable[Example],
    *tests: Iterable[Example],
    components: Collection[str] | None = None,
) -> list[Finding]:
    """Calibrate the components of a pipeline.

    nlp (Language): The pipeline.
    dev (Iterable[Example]): Annotated documents to learn from.
    *tests (Iterable[Example]): Further ones, to measure on.
    components (Collection[str] | None): The components; None for all that can be calibrated.
    RETURNS (list[Finding]): How they do on each corpus that is annotated for them.
    RAISES (ValueError): If there is no such component, or the documents do not suffice.
    """
    chosen = choose(nlp, components)
    cfgs = {name: cast(AlbertHead, nlp.get_pipe(name)).cfg for name in chosen}
    before, after = {}, {}
    findings = []
    for number, corpus in enumerate((dev, *tests)):
        for name, answers in answers_of(nlp, corpus):
            if name not in chosen:
                continue
            if number == 0:
                after[name] = fit(answers, name, biased="bias" in cfgs[name])
                before[name] = {key: cfgs[name][key] for key in after[name]}
            if len(answers.truth):
                pair = before[name], after[name]
                outcomes = score(answers, **before[name]), score(answers, **after[name])
                findings.append(Finding(name, number, pair, outcomes))
    for name in chosen:
        cfgs[name].update(after[name])
    return sorted(findings, key=lambda finding: chosen.index(finding.component))


def choose(nlp: Language, names: Collection[str] | None = None) -> list[str]:
    """Find the components that can be calibrated.

    nlp (Language): The pipeline.
    names (Collection[str] | None): Their names; None for all there are.
    RETURNS (list[str]): The names, in the order of the pipeline.
    RAISES (ValueError): If one of them is no such component, or there are none.
    """
    heads = [name for name, component in nlp.pipeline if can_be_calibrated(component)]
    if not heads:
        raise ValueError(
            "None of the pipeline's components can be calibrated: there is no albert_ner, "
            "albert_textcat, albert_textcat_multilabel or classifying albert_pair in it."
        )
    unknown = sorted(set(names or ()) - set(heads))
    if unknown:
        raise ValueError(
            f"The pipeline has no component {', '.join(map(repr, unknown))} that can be "
            f"calibrated. Those that can: {', '.join(heads)}."
        )
    return [name for name in heads if names is None or name in names]


def can_be_calibrated(component: Any) -> bool:
    """RETURNS (bool): Whether a component is a head with scores that are probabilities."""
    return isinstance(component, AlbertHead) and component.can_be_calibrated


# What a component answers, and what is so


def answers_of(nlp: Language, examples: Iterable[Example]) -> Iterator[tuple[str, Answers]]:
    """Run a pipeline over annotated documents, and compare.

    nlp (Language): The pipeline.
    examples (Iterable[Example]): The documents; their predictions stay as they are.
    YIELDS (tuple[str, Answers]): Components that can be calibrated, and their answers.
    """
    examples = [Example(unannotated(eg.predicted), eg.reference) for eg in examples]
    bring(examples)
    for name, component in nlp.pipeline:
        docs = [eg.predicted for eg in examples]
        if isinstance(component, AlbertHead) and component.can_be_calibrated:
            logits = component.answers(docs)
            compare = compare_entities if isinstance(component, AlbertNER) else compare_classes
            yield name, compare(cast(Any, component), examples, logits)
            component.set_annotations(docs, component.interpret(docs, logits))
        else:
            with nlp.select_pipes(enable=[name]):
                for eg, doc in zip(examples, nlp.pipe(docs), strict=True):
                    eg.predicted = doc


def unannotated(doc: Doc) -> Doc:
    """RETURNS (Doc): A new document with the same tokens."""
    words, spaces = [token.text for token in doc], [bool(token.whitespace_) for token in doc]
    return Doc(doc.vocab, words=words, spaces=spaces)


def compare_entities(
    ner: AlbertNER, examples: Sequence[Example], logits: Sequence[Tensor]
) -> Answers:
    """Compare the entities that a component finds, also those below its threshold: it is right if
    there is one of exactly this span and label.

    ner (AlbertNER): The component.
    examples (Sequence[Example]): The documents. Where annotation is missing, entities do not count.
    logits (Sequence[Tensor]): What the component answered, (T, K) each.
    RETURNS (Answers): The entities.
    """
    docs = [eg.predicted for eg in examples]
    found = ner.interpret(docs, logits, temperature=1.0, bias=0.0, threshold=0.0)
    verdicts = [
        (ent.score, verdict)
        for eg, ents in zip(examples, found)
        for ent, verdict in zip(ents, are_right(eg, ents))
        if verdict is not None
    ]
    scores, truth = torch.tensor(verdicts, dtype=torch.float64).reshape(-1, 2).T
    return Answers(scores.logit(eps=TINY), truth)


def are_right(example: Example, entities: Iterable[Entity]) -> Iterator[bool | None]:
    """Compare entities with the annotation as spaCy's scorer does.

    example (Example): A document and its annotation.
    entities (Iterable[Entity]): The entities found in it.
    YIELDS (bool | None): Whether each is right; None where annotation is missing.
    """
    gold = {(ent.start, ent.end, ent.label_) for ent in example.reference.ents}
    is_missing = example.reference.to_array("ENT_IOB") == 0
    for start, end, label, _ in entities:
        tokens = example.alignment.x2y[start:end]
        if len(tokens) == 0 or is_missing[tokens[0] : tokens[-1] + 1].any():
            yield None
        else:
            yield (tokens[0], tokens[-1] + 1, label) in gold


def compare_classes(
    textcat: AlbertTextcat, examples: Sequence[Example], logits: Sequence[Tensor]
) -> Answers:
    """Compare the classes of documents.

    textcat (AlbertTextcat): The component.
    examples (Sequence[Example]): The documents. What is not annotated does not count.
    logits (Sequence[Tensor]): What the component answered, (K,) each.
    RETURNS (Answers): The documents or, where classes are not exclusive, every class of each.
    """
    for eg in examples:
        textcat.validate(eg)
    said, truth = torch.stack(list(logits)).double(), textcat.truth(examples).double()  # (D, K)
    if not textcat.exclusive:
        known = ~truth.isnan()
        return Answers(said[known], truth[known])
    truth = truth.nan_to_num(0.0)
    known = truth.sum(dim=1) > 0
    return Answers(said[known], truth[known].argmax(dim=1))


# Settings


def fit(answers: Answers, name: str, *, biased: bool) -> Settings:
    """Learn the settings of a component.

    answers (Answers): What it answered.
    name (str): Its name, for messages.
    biased (bool): Whether it has a bias.
    RETURNS (Settings): The settings under which the truth is most probable.
    RAISES (ValueError): If the answers do not tell.
    """
    n = len(answers.truth)
    if n < ENOUGH:
        raise ValueError(
            f"{n} answers of component {name!r} can be compared with annotation, and it takes "
            f"{ENOUGH}: with fewer, chance alone would put its scores off by more than 0.05. Give "
            "more documents that are annotated for it, or leave it out (--component names the "
            "others)."
        )
    # Convex in the inverse of the temperature, and in the bias
    x = torch.tensor([1.0, 0.0][: 1 + biased], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([x], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = loss_of(answers, *x)
        loss.backward()
        return loss

    search.step(closure)
    with torch.no_grad():
        has_no_end = loss_of(answers, *(2 * x)) <= loss_of(answers, *x)
    slope, *bias = x.tolist()
    if has_no_end or slope * HIGHEST < 1:
        raise ValueError(
            f"The {n} answers of component {name!r} do not tell how sure it may be: that takes "
            "mistakes, and fewer of them where scores are high. Documents that it was trained on "
            "will not do. Give others, or leave it out (--component names the others)."
        )
    return {"temperature": 1 / slope, **dict(zip(["bias"], bias))}


def loss_of(answers: Answers, slope: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Mean negative log likelihood of the truth, with logits multiplied by `slope` and moved."""
    logits = answers.logits * slope + bias
    if logits.ndim == 2:
        return F.cross_entropy(logits, answers.truth)
    return F.binary_cross_entropy_with_logits(logits, answers.truth)


def score(answers: Answers, temperature: float, bias: float = 0.0) -> Outcomes:
    """Give answers their scores, as the component would.

    answers (Answers): The answers, at least one.
    temperature (float): The component's temperature.
    bias (float): The component's bias.
    RETURNS (Outcomes): The scores. Of exclusive classes only the best one counts.
    """
    logits = answers.logits / temperature + bias
    if logits.ndim == 2:
        scores, best = logits.softmax(dim=1).max(dim=1)
        true = best == answers.truth
    else:
        scores, true = logits.sigmoid(), answers.truth == 1
    loss = loss_of(answers, torch.tensor(1 / temperature), bias)
    return Outcomes(scores.numpy(), true.numpy(), loss.item())


# How far scores are off


def bins(scores: np.ndarray, n_bins: int = N_BINS, *, equal_mass: bool = False) -> np.ndarray:
    """Sort scores into bins.

    scores (np.ndarray): Between 0 and 1, (N,).
    n_bins (int): The number of bins.
    equal_mass (bool): Whether all have as many scores, rather than the same width.
    RETURNS (np.ndarray): The number of the bin of each score, (N,).
    """
    edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    return np.searchsorted(np.quantile(scores, edges) if equal_mass else edges, scores)


def calibration_error(
    outcomes: Outcomes, n_bins: int = N_BINS, *, equal_mass: bool = False
) -> float:
    """Expected calibration error: how far the mean score in a bin is from the share that is so, on
    average over all that was said.

    With bins of equal width it is that of Guo et al. (2017); bins of equal mass are those of Nixon
    et al. ("Measuring Calibration in Deep Learning", 2019).

    outcomes (Outcomes): What was said, once at least.
    n_bins (int): The number of bins.
    equal_mass (bool): Whether all have as many scores, rather than the same width.
    RETURNS (float): The error, between 0 and 1.
    """
    scores, true, _ = outcomes
    gaps = np.bincount(bins(scores, n_bins, equal_mass=equal_mass), true - scores)
    return float(np.abs(gaps).sum() / len(scores))


def error_by_chance(outcomes: Outcomes, n_bins: int = N_BINS) -> float:
    """The calibration error to be expected of scores that are exactly right, as in a bin of few the
    share that is so is seldom the probable one (Bröcker and Smith, "Increasing the Reliability of
    Reliability Diagrams", 2007).

    outcomes (Outcomes): What was said, once at least; only the scores count.
    n_bins (int): The number of bins, of equal width.
    RETURNS (float): The error, between 0 and 1.
    """
    scores = outcomes.scores
    variances = np.bincount(bins(scores, n_bins), scores * (1 - scores))
    # The mean distance of a normal variable is sqrt(2 / pi) of its standard deviation
    return float(np.sqrt(2 / np.pi * variances).sum() / len(scores))


def figures(settings: Settings, outcomes: Outcomes) -> dict[str, float]:
    """Say in figures how a component does.

    settings (Settings): Its settings.
    outcomes (Outcomes): What it said, once at least.
    RETURNS (dict[str, float]): The settings; "n", how many answers; "said", their mean score; "so",
        the share that is so; "nll", the loss; "ece", "ece_equal_mass" and "ece_by_chance", the
        calibration error with bins of equal width, of equal mass, and of scores that are right.
    """
    scores, true, loss = outcomes
    return {
        **settings,
        "n": len(scores),
        "said": float(scores.mean()),
        "so": float(true.mean()),
        "nll": loss,
        "ece": calibration_error(outcomes),
        "ece_equal_mass": calibration_error(outcomes, equal_mass=True),
        "ece_by_chance": error_by_chance(outcomes),
    }
