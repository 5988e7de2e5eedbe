"""Neighbouring sentences, two by two: what ALBERT is shown on both sides of each border."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from spacy.tokens import Doc, Span

from .reading import Firsts, Reading
from .tokenization import Pieces


class Borders(NamedTuple):
    """The borders between the sentences of a batch of documents."""

    reading: Reading  # a window each: [CLS] sentence [SEP] next sentence [SEP]
    per_doc: np.ndarray  # (D,) one less than there are sentences
    shown: np.ndarray  # (W,) the share of both sentences that is in the window; NaN: one is empty


def cut_borders(pieces: Pieces, sentences_per_doc: Sequence[int], window: int) -> Borders:
    """Cut one window for each border.

    What tells whether two sentences follow each other is where they meet. So of sentences that do
    not both fit in, the pieces nearest to the border are shown: of each up to half a window, and
    more where the other one is shorter.

    pieces (Pieces): The pieces of all sentences, document after document.
    sentences_per_doc (Sequence[int]): How many sentences each document has, (D,).
    window (int): The most pieces in a window, with [CLS], and [SEP] twice.
    RETURNS (Borders): The borders, in order.
    """
    sentences = np.array(sentences_per_doc, dtype=np.int64)
    stops = np.cumsum(pieces.counts, dtype=np.int64)
    starts = stops - pieces.counts
    is_first = np.zeros(len(pieces.counts), dtype=bool)
    is_first[(np.cumsum(sentences) - sentences)[sentences > 0]] = True
    right = np.flatnonzero(~is_first)  # (W,)
    left = right - 1
    a, b = pieces.counts[left], pieces.counts[right]
    room = window - 3
    shown_a = np.minimum(a, np.maximum(room // 2, room - b))
    shown_b = np.minimum(b, room - shown_a)
    shown = (shown_a + shown_b) / np.maximum(a + b, 1)
    shown[(a == 0) | (b == 0)] = np.nan
    none, zeros = np.empty(0, dtype=np.int64), np.zeros(len(sentences), dtype=np.int64)
    per_doc = np.maximum(sentences - 1, 0)
    reading = Reading(
        ids=pieces.ids,
        window_starts=starts[right],
        window_stops=starts[right] + shown_b,
        window_edges=np.zeros(len(right) + 1, dtype=np.int64),  # only [CLS] is looked at
        token_pieces=none,
        token_counts=none,
        windows_per_doc=per_doc,
        tokens_per_doc=zeros,
        firsts=Firsts(pieces.ids, stops[left] - shown_a, stops[left], shown_a),
    )
    return Borders(reading, per_doc, shown)


def sentences_of(doc: Doc) -> list[Span]:
    """List the sentences of a document.

    doc (Doc): The document.
    RETURNS (list[Span]): The sentences.
    RAISES (ValueError): If nothing has told where they begin.
    """
    if len(doc) < 2:
        return [doc[:]] if len(doc) else []
    if not doc.has_annotation("SENT_START"):
        raise ValueError(
            "The coherence of a document is that of its sentences, and it has none. Put what finds "
            'them before albert_coherence: nlp.add_pipe("sentencizer", first=True).'
        )
    return list(doc.sents)
