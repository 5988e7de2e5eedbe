"""From spaCy's documents to texts and the places of their tokens."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from spacy.attrs import ORTH, SPACY
from spacy.tokens import Doc


class Texts(NamedTuple):
    """Texts with the character offsets of their tokens."""

    texts: Sequence[str]  # D of them
    token_starts: np.ndarray  # (T,) first character of each token, in its own text
    token_ends: np.ndarray  # (T,) one past its last character
    tokens_per_doc: np.ndarray  # (D,)


def texts_of(docs: Sequence[Doc]) -> Texts:
    """Spell a batch of documents without making Token objects.

    Every word is looked up once, however often the batch has it.

    docs (Sequence[Doc]): The documents, of one vocabulary or of several.
    RETURNS (Texts): Their texts, and the character offsets of their tokens.
    """
    no_tokens = np.empty((0, 2), dtype=np.uint64)
    tokens = np.concatenate([no_tokens, *(doc.to_array([ORTH, SPACY]) for doc in docs)])  # (T, 2)
    tokens_per_doc = np.fromiter(map(len, docs), np.int64, len(docs))
    orths, words = np.unique(tokens[:, 0], return_inverse=True)
    stores = list({doc.vocab.strings for doc in docs})

    def find(orth: int) -> str:
        return next(store[orth] for store in stores if orth in store)  # type: ignore[operator]

    spell: Callable[[int], str] = stores[0].__getitem__ if len(stores) == 1 else find
    forms = [spell(orth) for orth in orths.tolist()]
    forms += [form + " " for form in forms]
    spaces = tokens[:, 1].astype(np.int64)
    words += spaces * len(orths)
    row = "".join(map(forms.__getitem__, words.tolist()))

    stops = np.cumsum(np.fromiter(map(len, forms), np.int64, len(forms))[words])  # (T,)
    ends = stops - spaces
    starts = np.append(0, stops[:-1])
    edges = np.append(0, stops)[np.append(0, np.cumsum(tokens_per_doc))]  # (D + 1,) in the row
    texts = [row[start:stop] for start, stop in pairwise(edges.tolist())]
    shift = edges[:-1].repeat(tokens_per_doc)  # (T,)
    return Texts(texts, starts - shift, ends - shift, tokens_per_doc)
