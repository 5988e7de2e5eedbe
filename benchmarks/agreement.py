"""Does a faster precision say the same? And does a document's company change what is said of it?

A trained pipeline reads real documents in every precision. Against float32 we count the tokens with
the same tag, and compare F1 where there are gold entities. Within a precision, documents are read
in one stream, alone, and in a shuffled stream.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from spacy.attrs import ENT_IOB, ENT_TYPE
from spacy.language import Language
from spacy.scorer import Scorer
from spacy.tokens import Doc
from spacy.training import Example

from . import ours, texts

PRECISIONS = ("float32", "bfloat16", "int8")


def measure(path: str, n_docs: int, n_alone: int) -> dict[str, Any]:
    """Compare the precisions of a trained pipeline.

    path (str): The pipeline.
    n_docs (int): The most documents of each data set.
    n_alone (int): Documents that are also read alone and in another order.
    RETURNS (dict): The number of documents and tokens, and for each precision what was found, or
        "error".
    """
    sets: dict[str, list[Doc]] = {}
    rows: dict[str, dict[str, Any]] = {}
    reference: dict[str, list[Doc]] = {}
    for precision in PRECISIONS:
        try:
            nlp = ours.load(Path(path), precision)
        except ValueError as error:
            rows[precision] = {"error": " ".join(str(error).split())}
            continue
        sets = sets or documents(nlp, n_docs)
        found = {name: list(nlp.pipe(map(bare, docs))) for name, docs in sets.items()}
        reference = reference or found
        rows[precision] = {
            "same_tags": same_tags(
                [doc for docs in reference.values() for doc in docs],
                [doc for docs in found.values() for doc in docs],
            ),
            "f1": {
                name: f1(sets[name], docs) for name, docs in found.items() if has_gold(sets[name])
            },
            "company": company(nlp, [d for docs in sets.values() for d in docs], n_alone),
        }
    everything = [doc for docs in sets.values() for doc in docs]
    return {
        "sets": {name: len(docs) for name, docs in sets.items()},
        "documents": len(everything),
        "tokens": sum(map(len, everything)),
        "precisions": rows,
    }


def documents(nlp: Language, n_docs: int) -> dict[str, list[Doc]]:
    """Read documents, with gold entities where the data sets are there.

    nlp (Language): The pipeline.
    n_docs (int): The most documents of each set.
    RETURNS (dict[str, list[Doc]]): Documents by data set.
    """
    if texts.source() == "made":
        return {"made text": [nlp.make_doc(text) for text in texts.paragraphs(n_docs)]}
    from spacy_albert_pipelines.en_albert_sm import corpora

    found = {
        read.__name__: [doc for docs in read(texts.DATA, nlp).values() for doc in docs]
        for read in (corpora.wikigold, corpora.wnut17)
    }
    found["paragraphs"] = [nlp.make_doc(text) for text in texts.paragraphs(n_docs)]
    return {name: docs[:n_docs] for name, docs in found.items()}


def bare(doc: Doc) -> Doc:
    """RETURNS (Doc): The same tokens without annotation."""
    words, spaces = zip(*((token.text, bool(token.whitespace_)) for token in doc))
    return Doc(doc.vocab, words=list(words), spaces=list(spaces))


def has_gold(docs: Sequence[Doc]) -> bool:
    """RETURNS (bool): Whether there are gold entities."""
    return any(doc.ents for doc in docs)


def tags(doc: Doc) -> np.ndarray:
    """RETURNS (np.ndarray): What stands for the tag of each token, (T, 2)."""
    return doc.to_array([ENT_IOB, ENT_TYPE]).reshape(len(doc), 2)


def same_tags(docs: Sequence[Doc], others: Sequence[Doc]) -> float:
    """RETURNS (float): The share of tokens with the same tag in both readings."""
    same = [(tags(a) == tags(b)).all(1) for a, b in zip(docs, others)]
    return float(np.concatenate(same).mean())


def f1(gold: Sequence[Doc], found: Sequence[Doc]) -> float:
    """RETURNS (float): F1 of the entities, in points."""
    examples = [Example(b, a) for a, b in zip(gold, found)]
    return 100 * float(Scorer.score_spans(examples, "ents", getter=lambda d, _: d.ents)["ents_f"])


def company(nlp: Language, docs: Sequence[Doc], n_alone: int) -> dict[str, float]:
    """Read some documents in a stream, in a shuffled stream, and each alone.

    nlp (Language): The pipeline.
    docs (Sequence[Doc]): Documents to choose from.
    n_alone (int): How many.
    RETURNS (dict): The share of tokens with the same tag, and the largest difference of a score of
        an entity or a class, over both comparisons.
    """
    some = random.Random(0).sample(list(docs), min(n_alone, len(docs)))
    order = random.Random(1).sample(range(len(some)), len(some))
    stream = list(nlp.pipe(map(bare, some)))
    shuffled = list(nlp.pipe([bare(some[i]) for i in order]))
    back = [doc for _, doc in sorted(zip(order, shuffled), key=lambda pair: pair[0])]
    alone = [nlp(bare(doc)) for doc in some]
    return {
        "documents": len(some),
        "same_tags": min(same_tags(stream, back), same_tags(stream, alone)),
        "score_difference": max(
            score_difference(a, b) for other in (back, alone) for a, b in zip(stream, other)
        ),
    }


def score_difference(doc: Doc, other: Doc) -> float:
    """RETURNS (float): The largest difference of a score that both readings have."""
    mine, theirs = (
        {**{(e.start, e.end, e.label): e._.score for e in d.ents}, **d.cats} for d in (doc, other)
    )
    return max((abs(mine[key] - theirs[key]) for key in mine.keys() & theirs.keys()), default=0.0)
