"""Texts as ALBERT was trained on them, before SentencePiece, and where their characters come from.

The reference is the slow `AlbertTokenizer` of transformers 4.53: lower case, each run of white
space one space, each quote of two characters one, NFKD, and no combining characters.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

#: Typographic quotes and dashes, which ALBERT's released vocabulary does not know, and plain ones.
ASCII_PUNCTUATION = {
    ord(char): plain
    for plain, chars in {'"': "“”„‟«»″", "'": "‘’‚‛‹›′", "-": "‐‑‒–—―−"}.items()
    for char in chars
}

SURROGATE = re.compile(r"[\ud800-\udfff]")


class Row(NamedTuple):
    """The characters of a batch of texts in one row, with blanks between them and at both ends."""

    codes: np.ndarray  # (C,) code points
    origins: np.ndarray  # (C,) what each was made of: places in the row as it was given, ascending


class Cleaner:
    """Normalise a batch of texts, with a table of what becomes of each character.

    lower_case (bool): Lower-case the text.
    keep_accents (bool): Leave out NFKD and the removal of combining characters.
    remove_space (bool): Strip the text and make each run of white space one space.
    ascii_punctuation (bool): Make typographic quotes and dashes plain.
    """

    def __init__(
        self,
        lower_case: bool,
        keep_accents: bool,
        remove_space: bool,
        ascii_punctuation: bool = False,
    ) -> None:
        self.lower_case = lower_case
        self.keep_accents = keep_accents
        self.remove_space = remove_space
        self.plain = ASCII_PUNCTUATION if ascii_punctuation else {}
        self._folded = np.zeros(sys.maxunicode + 1, dtype=np.uint32)
        self._fold(range(0x3001))  # all white space is there

    def __call__(self, text: str) -> Row:
        """Normalise texts as ALBERT does before SentencePiece.

        text (str): Texts in a row, a blank before and after each.
        RETURNS (Row): The same. If white space is removed, blanks at the end of a text and the one
            after it are one, and of a text that has nothing else not even that is left.
        """
        codes = code_points(text)
        folded = self._folded[codes]
        others = folded == 0  # they become none, or several, or were not met before
        distinct, which = np.unique(codes[others], return_inverse=True)
        strings = self._fold(distinct.tolist())
        counts = np.ones(len(codes), dtype=np.int8)
        counts[others] = np.fromiter(map(len, strings), np.int8, len(strings))[which]
        if self.remove_space:
            blank = folded == ord(" ")
            counts[1:][blank[1:] & blank[:-1]] = 0
        for quote in ("``", "''"):
            if quote in text:
                firsts = np.array([match.start() for match in re.finditer(quote, text)])
                folded[firsts] = ord('"')
                counts[firsts + 1] = 0

        origins = np.arange(len(codes), dtype=np.int32).repeat(counts)
        folded = folded[origins]
        folded[others[origins]] = code_points("".join(map(strings.__getitem__, which.tolist())))
        if self.lower_case and ord("Σ") in folded:  # NFKD makes it, and lower case looks around it
            folded = code_points(characters(folded).lower())
        return Row(folded, origins)

    def _fold(self, codes: Iterable[int]) -> list[str]:
        """Normalise characters one by one, and note what those become that stay one.

        NFKD may go character by character because what it would reorder is removed.

        codes (Iterable[int]): Code points.
        RETURNS (list[str]): What becomes of each.
        """
        strings = []
        for code in codes:
            char = self.plain.get(code) or chr(code)
            string = SURROGATE.sub("\ufffd", char)
            if self.lower_case:
                string = string.lower()
            if not self.keep_accents:
                string = unicodedata.normalize("NFKD", string)
                string = "".join(c for c in string if not unicodedata.combining(c))
            if self.lower_case and string != "Σ":
                string = string.lower()  # once more: NFKD makes capitals ("℡")
            if self.remove_space and char.isspace():
                string = " "
            if len(string) == 1 and (char.isspace() or string != " "):  # "´" is no white space yet
                self._folded[code] = ord(string)
            strings.append(string)
        return strings


def code_points(text: str) -> np.ndarray:
    """Give the characters of a text as numbers, lone surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def characters(codes: np.ndarray) -> str:
    """Give code points as a text."""
    return codes.tobytes().decode("utf-32-le")
