"""Read the texts that en_albert_sm is pre-trained on, and write them as Parquet files.

Encyclopedia, textbooks, speeches and novels; and of reviews and comments, whose sentiment the
pipeline is to tell, those that are for training.

    python pipelines/en_albert_sm/texts.py DATA OUTPUT
"""

import argparse
import csv
import gzip
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from spacy_albert_pipelines.en_albert_sm.corpora import untokenized

#: Of the novels, every so manieth chapter: all of them would outweigh the rest.
EVERY_CHAPTER = 2
#: The folds of the reviews that are for training.
TRAINING_FOLDS = range(8)
#: How the speeches were written to files.
ENCODINGS = ("utf8", "big5", "cp1252")

Documents = Iterator[tuple[str, str]]


def jsonl(path: Path) -> Documents:
    """Read a file with a document on each line.

    path (Path): A .jsonl.gz file.
    YIELDS (tuple[str, str]): The id of each document, and its text, a paragraph a line.
    """
    with gzip.open(path, "rt", encoding="utf8") as lines:
        for line in lines:
            document = json.loads(line)
            yield document["id"], "\n".join(document["paragraphs"])


def encyclopedia(data: Path) -> Documents:
    """The Wikipedia articles of SQuAD, without those of its development set."""
    for name, text in jsonl(data / "text_wiki_squad" / "wiki_squad.jsonl.gz"):
        if not name.startswith("dev-"):
            yield name, text


def textbooks(data: Path) -> Documents:
    """The textbooks of OpenStax."""
    return jsonl(data / "text_openstax" / "openstax.jsonl.gz")


def speeches(data: Path) -> Documents:
    """State of the Union and inaugural addresses, from the files as they were published."""
    for name in ("state_union", "inaugural"):
        with zipfile.ZipFile(data / "us_speeches" / f"{name}.zip") as archive:
            for member in sorted(archive.namelist()):
                if member.endswith(".txt"):
                    yield member, decode(archive.read(member))


def decode(raw: bytes) -> str:
    """Read bytes by the first encoding that they can be of.

    raw (bytes): The bytes.
    RETURNS (str): The text.
    """
    for encoding in ENCODINGS:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ValueError(f"This is in none of {', '.join(ENCODINGS)}: {raw[:80]!r} ...")


def novels(data: Path) -> Documents:
    """Chapters of English novels, 1840 to 1920."""
    chapters = jsonl(data / "text_eltec" / "eltec_eng.jsonl.gz")
    for number, chapter in enumerate(chapters):
        if number % EVERY_CHAPTER == 0:
            yield chapter


def reviews(data: Path) -> Documents:
    """Film reviews of the folds for training."""
    with zipfile.ZipFile(data / "movie_reviews" / "movie_reviews.zip") as archive:
        for member in sorted(archive.namelist()):
            if member.endswith(".txt") and int(Path(member).name[2]) in TRAINING_FOLDS:
                lines = map(str.split, archive.read(member).decode().splitlines())
                yield member, "\n".join(untokenized(words) for words in lines if words)


def comments(data: Path) -> Documents:
    """Comments of the training split of GoEmotions that are in none of the others."""
    others = {text for split in ("dev", "test") for text, _ in rows(data, split)}
    for text, name in rows(data, "train"):
        if text not in others:
            yield name, text


def rows(data: Path, split: str) -> Iterator[tuple[str, str]]:
    """Read a split of GoEmotions.

    data (Path): The folder of data sets.
    split (str): "train", "dev" or "test".
    YIELDS (tuple[str, str]): The text of each comment, and its id.
    """
    with open(data / "goemotions" / f"{split}.tsv", encoding="utf8", newline="") as file:
        for text, _, name in csv.reader(file, delimiter="\t"):
            yield text, name


SOURCES: tuple[Callable[[Path], Documents], ...] = (
    encyclopedia,
    textbooks,
    speeches,
    novels,
    reviews,
    comments,
)


def main(data: Path, output: Path) -> None:
    """Write a Parquet file for each source.

    data (Path): The folder of data sets.
    output (Path): Where the files go.
    """
    output.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        ids, texts = zip(*source(data))
        table = pa.table({"id": ids, "text": texts})
        pq.write_table(table, output / f"{source.__name__}.parquet", row_group_size=500)
        print(f"{source.__name__}: {len(texts):,} documents, {sum(map(len, texts)):,} characters")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of data sets")
    parser.add_argument("output", type=Path, help="where the Parquet files go")
    arguments = parser.parse_args()
    main(arguments.data, arguments.output)
