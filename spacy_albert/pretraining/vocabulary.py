"""A vocabulary of one's own, with the settings of ALBERT's released one (README.md of
google-research/albert, "SentencePiece").
"""

import io
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

import sentencepiece

from ..cleaning import Cleaner, characters
from ..tokenization import SPECIAL_PIECES

#: Pieces that are never part of another one.
SYMBOLS = ["(", ")", '"', "-", ".", "–", "£", "€"]
#: Sentences that are looked at, at most; of more, so many at random.
SENTENCES = 10_000_000
#: Characters that are handed over at a time. SentencePiece passes over what is longer than 4,192
#: bytes, and no piece reaches across a blank.
CHARACTERS = 1000


def train_vocabulary(
    texts: Iterable[str],
    size: int,
    *,
    lower_case: bool = True,
    ascii_punctuation: bool = False,
    sentences: int = SENTENCES,
    threads: int = 1,
) -> bytes:
    """Train a unigram vocabulary.

    texts (Iterable[str]): The texts; only a sample of them is in memory.
    size (int): Number of pieces.
    lower_case (bool): Lower-case the texts first, as ALBERT does.
    ascii_punctuation (bool): Make typographic quotes and dashes plain first.
    sentences (int): How many parts of texts are looked at, at most.
    threads (int): Threads to count with.
    RETURNS (bytes): The SentencePiece model.
    RAISES (ValueError): If the texts are too few for so many pieces, or there are none.
    """
    if size <= len(SPECIAL_PIECES) + len(SYMBOLS):
        raise ValueError(
            f"A vocabulary of {size} pieces has no room beside ALBERT's special ones: take more, "
            "such as 8000 or 30000."
        )
    clean = Cleaner(lower_case, False, True, ascii_punctuation)
    model = io.BytesIO()
    controls = [SPECIAL_PIECES[name] for name in ("cls", "sep", "mask")]
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=cleaned(texts, clean),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            character_coverage=0.99995,
            input_sentence_size=sentences,
            shuffle_input_sentence=True,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece=SPECIAL_PIECES["pad"],
            unk_piece=SPECIAL_PIECES["unk"],
            control_symbols=controls,
            user_defined_symbols=SYMBOLS,
            num_threads=threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        said = str(error)
        if most := re.search(r"value <= (\d+)", said):
            raise ValueError(
                f"The texts support no more than {int(most[1]):,} pieces, not {size:,}: give more "
                "text, or a smaller --size."
            ) from None
        if least := re.search(r"required_chars\. \d+ vs (\d+)", said):
            raise ValueError(
                f"The texts have so many different characters that a vocabulary of them takes "
                f"{int(least[1]):,} pieces, and not {size:,}: give a larger --size."
            ) from None
        if "empty" in said or "sentences_" in said:
            raise ValueError("There is no text to make a vocabulary of.") from None
        raise ValueError(f"SentencePiece cannot make this vocabulary: {said}") from error
    return model.getvalue()


def cleaned(texts: Iterable[str], clean: Cleaner) -> Iterator[str]:
    """Normalise texts as ALBERT does before SentencePiece, and hand them over in parts.

    texts (Iterable[str]): The texts.
    clean (Cleaner): Normalises them.
    YIELDS (str): Whole words, about CHARACTERS of them.
    """
    for text in texts:
        words = characters(clean(f" {text} ").codes).split()
        ends = [0]
        length = 0
        for number, word in enumerate(words, 1):
            length += len(word) + 1
            if length > CHARACTERS or number == len(words):
                ends.append(number)
                length = 0
        for start, end in pairwise(ends):
            yield " ".join(words[start:end])
