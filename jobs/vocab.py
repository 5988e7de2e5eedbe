"""A collection -> a vocabulary."""

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from spacy_albert.pretraining.vocabulary import train_vocabulary
from spacy_albert.tokenization import SentencePieceTokenizer

from .annotator import as_bytes
from .errors import JobError
from .inputs import InputFile, read_footers, select
from .plan import cut
from .pool import cpu_count
from .prepare import SHARD_BYTES
from .storage import Folder
from .worker import read

SHOW_EVERY = 100


def vocab(
    input: str | Path,
    output: str | Path,
    size: int,
    *,
    text_column: str = "text",
    lower_case: bool = True,
    ascii_punctuation: bool = False,
    sentences: int = 10_000_000,
    show: Callable[[int, int], Any] | None = None,
) -> str:
    """Make a vocabulary.

    input (str | Path): Parquet or text: a file, a folder or a glob.
    output (str | Path): The directory to write.
    size (int): Pieces.
    text_column (str): The column of the texts.
    lower_case (bool): Lower-case the texts, in training and whenever the vocabulary is used.
    ascii_punctuation (bool): Make typographic quotes and dashes plain before anything else.
    sentences (int): Parts of texts to learn from, at most.
    show (Callable | None): Told, now and then, how many documents have been read, and of how many.
    RETURNS (str): What has been done, in a sentence.
    RAISES (ValueError): If the texts do not support so many pieces, or there are none.
    """
    texts = Counted(*texts_in(input, text_column), show)
    model = train_vocabulary(
        texts,
        size,
        lower_case=lower_case,
        ascii_punctuation=ascii_punctuation,
        sentences=sentences,
        threads=cpu_count(),
    )
    tokenizer = SentencePieceTokenizer(
        model, lower_case=lower_case, ascii_punctuation=ascii_punctuation
    )
    Path(output).mkdir(parents=True, exist_ok=True)
    tokenizer.save(Path(output))
    return f"{tokenizer.size:,} pieces from {texts.done:,} documents, in {output}"


class Counted:
    """Counts texts as they go by.

    texts (Iterable[str]): The texts.
    number (int): How many there are; 0 if that is not known.
    show (Callable | None): Told, now and then, how many have gone by.
    """

    def __init__(
        self, texts: Iterable[str], number: int, show: Callable[[int, int], Any] | None
    ) -> None:
        self.texts, self.number, self.show, self.done = texts, number, show, 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.done += 1
            if self.show and self.done % SHOW_EVERY == 0:
                self.show(self.done, max(self.number, self.done))
            yield text


def texts_in(input: str | Path, text_column: str) -> tuple[Iterator[str], int]:
    """Stream the texts of a collection.

    input (str | Path): Parquet or text: a file, a folder or a glob.
    text_column (str): The column of the texts, in Parquet.
    RETURNS (tuple[Iterator[str], int]): Texts, with U+FFFD in the place of what is not UTF-8; and
        how many there are, 0 if that is not known.
    RAISES (JobError): If there is nothing of the kind.
    """
    where = str(input)
    pattern = f"{where}/**/*.txt" if Path(where).is_dir() else where
    plain = [path for path in sorted(glob.glob(pattern, recursive=True)) if path.endswith(".txt")]
    if plain:
        return chain.from_iterable(map(documents_in, plain)), 0
    selection = select(input)
    files, bad = read_footers(selection, text_column)
    if bad:
        raise JobError(f"{bad[0].path} {bad[0].reason}")
    return rows_of(selection.root, files, text_column), sum(file.rows for file in files)


def rows_of(root: Folder, files: Sequence[InputFile], text_column: str) -> Iterator[str]:
    """Stream the texts of Parquet files.

    root (Folder): Where they are.
    files (Sequence[InputFile]): The files.
    text_column (str): The column of the texts.
    YIELDS (str): Texts.
    """
    for shard in cut(files, SHARD_BYTES):
        for _, rows in read(root, shard, [text_column]):
            for raw in as_bytes(rows.column(text_column)):
                yield (raw or b"").decode("utf-8", "replace")


def documents_in(path: str) -> Iterator[str]:
    """Stream the documents of a text file, between which there are empty lines."""
    held: list[str] = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.strip():
                held.append(line)
            elif held:
                yield "".join(held)
                held = []
    if held:
        yield "".join(held)
