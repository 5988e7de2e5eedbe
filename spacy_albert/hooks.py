"""A document's vectors where spaCy looks for them: `doc.vector`, `span.vector`, `token.vector`,
and what follows from them, through the document's user hooks.

The vectors lie in the document's user data, so they travel with it and are saved with it. Hooks are
functions, which spaCy does not save; `hook_vectors` puts them back.
"""

from typing import Any

import numpy as np
from spacy.tokens import Doc, Span, Token

for extension in ("vector", "token_vectors"):
    if not Doc.has_extension(extension):
        Doc.set_extension(extension, default=None)


def hook_vectors(doc: Doc) -> Doc:
    """Let spaCy find a document's vectors: `vector`, `has_vector`, `vector_norm` and `similarity`
    of the document and, if its tokens have vectors, of its spans and tokens.

    doc (Doc): A document with `doc._.vector`, and `doc._.token_vectors` if its tokens have some.
    RETURNS (Doc): The same.
    RAISES (ValueError): If it has no vector.
    """
    if doc._.vector is None:
        raise ValueError(
            "The document has no doc._.vector: an albert_vectors component has not read it, or it "
            "was saved without its user data."
        )
    doc.user_hooks |= {
        "vector": vector_of_doc,
        "has_vector": has_vector,
        "vector_norm": vector_norm,
        "similarity": similarity,
    }
    if doc._.token_vectors is not None:
        for hooks, vector in (
            (doc.user_span_hooks, vector_of_span),
            (doc.user_token_hooks, vector_of_token),
        ):
            # spaCy makes the norms of spans and tokens from their vectors
            hooks |= {"vector": vector, "has_vector": has_vector, "similarity": similarity}
    return doc


def vector_of_doc(doc: Doc) -> np.ndarray:
    """RETURNS (np.ndarray): (H,)."""
    return doc._.vector


def vector_of_token(token: Token) -> np.ndarray:
    """RETURNS (np.ndarray): (H,); zeros for a token that ALBERT does not see."""
    return rows_of(token.doc)[token.i]


def vector_of_span(span: Span) -> np.ndarray:
    """RETURNS (np.ndarray): (H,), the mean over those of its tokens that ALBERT sees."""
    rows = rows_of(span.doc)[span.start : span.end]
    seen = rows[rows.any(axis=1)]
    return seen.mean(axis=0) if len(seen) else np.zeros(rows.shape[1], dtype=rows.dtype)


def rows_of(doc: Doc) -> np.ndarray:
    """Find the vectors of a document's tokens.

    doc (Doc): The document.
    RETURNS (np.ndarray): (T, H).
    RAISES (ValueError): If its tokens are no longer those that were read.
    """
    rows = doc._.token_vectors
    if len(rows) != len(doc):
        raise ValueError(
            f"The document has vectors of {len(rows)} tokens, and {len(doc)} tokens: some were "
            "merged or split since. Put albert_vectors after the component that does that."
        )
    return rows


def has_vector(item: Any) -> bool:
    """RETURNS (bool): Whether ALBERT has seen anything of a document, span or token."""
    return bool(item.vector.any())


def vector_norm(item: Any) -> float:
    """RETURNS (float): The length of the vector."""
    return float(np.linalg.norm(item.vector))


def similarity(item: Any, other: Any) -> float:
    """Compare a document, span or token with another, or with anything that has a vector as long.

    item (Doc | Span | Token): One.
    other (Any): The other.
    RETURNS (float): The cosine of their vectors; 0 if one has none.
    RAISES (ValueError): If the vectors are not of one kind.
    """
    if item.vector.shape != other.vector.shape:
        raise ValueError(
            f"Vectors of {len(item.vector)} and of {len(other.vector)} numbers cannot be compared: "
            "the other one is not from this encoder. Where that is a span or a token, set "
            "`tokens = true` in the model of albert_vectors."
        )
    norms = float(item.vector_norm * other.vector_norm)
    return float(np.dot(item.vector, other.vector)) / norms if norms else 0.0
