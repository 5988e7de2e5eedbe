"""Read the data sets that en_albert_sm learns from, and write them as .spacy files.

Entities (PER, ORG, LOC, MISC): wikigold, WNUT-17 and CrossNER, whose labels are mapped; what has no
counterpart is left unannotated, not called "no entity". Sentiment: the sentence polarity data.
Nothing here reads a test split into training.

    python pipelines/en_albert_sm/corpora.py DATA OUTPUT
"""

import argparse
import random
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import spacy
from spacy.tokens import Doc, DocBin, Span
from spacy.vocab import Vocab

Sentence = list[tuple[str, str]]  # words with BIO or IO tags

LABELS = {
    "PER": "PER person researcher writer musicalartist politician scientist",
    "ORG": "ORG organisation university band politicalparty corporation group",
    "LOC": "LOC location country",
    "MISC": "MISC misc award event book poem song album magazine election academicjournal "
    "conference product programlang creative-work",
}
LABEL_OF = {name: label for label, names in LABELS.items() for name in names.split()}
DOMAINS = ("ai", "literature", "music", "politics", "science")
NO_SPACE_BEFORE = set(".,;:!?)]}%") | {"n't", "...", "''"}
NO_SPACE_AFTER = set("([{$£€#") | {"``"}


def read_tagged(text: str) -> Iterator[Sentence]:
    """Read one token a line; the tag comes last.

    text (str): The contents of a file.
    YIELDS (Sentence): Sentences; an empty one stands for the border between two documents.
    """
    sentence: Sentence = []
    for line in [*text.split("\n"), ""]:
        if line.startswith("-DOCSTART-"):
            yield []
        elif line.strip():
            word, tag = line.rstrip().rsplit(maxsplit=1)
            sentence.append((word, tag))
        elif sentence:
            yield sentence
            sentence = []


def spaces_after(words: list[str]) -> list[bool]:
    """Guess where a text that was split into tokens had its blanks.

    words (list[str]): The tokens.
    RETURNS (list[bool]): Whether a blank follows each.
    """
    spaces, is_quoted = [], False
    for word, after in zip(words, [*words[1:], "."]):
        glued = after in NO_SPACE_BEFORE or (after[:1] in "'’" and len(after) > 1)
        if word == '"':
            is_quoted = not is_quoted
        opens, closes = word == '"' and is_quoted, after == '"' and is_quoted
        spaces.append(not (glued or word in NO_SPACE_AFTER or opens or (closes and word != '"')))
    return spaces


def tagged_doc(vocab: Vocab, sentences: list[Sentence]) -> Doc:
    """Make a document with entities.

    vocab (Vocab): The vocabulary.
    sentences (list[Sentence]): Tagged sentences.
    RETURNS (Doc): Its tokens are those given.
    """
    pairs = [pair for sentence in sentences for pair in sentence]
    words = [word for word, _ in pairs]
    doc = Doc(vocab, words=words, spaces=spaces_after(words))
    ents, missing, start = [], [], 0
    tags = [tag for _, tag in pairs]
    for i, tag in enumerate(tags):
        name = tag[2:]
        goes_on = i + 1 < len(tags) and tags[i + 1] == f"I-{name}"
        if i == 0 or tag[0] != "I" or tags[i - 1][2:] != name:
            start = i
        if tag != "O" and not goes_on:
            span = Span(doc, start, i + 1, label=LABEL_OF.get(name, ""))
            (ents if name in LABEL_OF else missing).append(span)
    doc.set_ents(ents, missing=missing, default="outside")
    return doc


def grouped(sentences: Iterable[Sentence], size: int) -> Iterator[list[Sentence]]:
    """Put neighbouring sentences of one document together.

    sentences (Iterable[Sentence]): From `read_tagged`.
    size (int): The most sentences in a group.
    YIELDS (list[Sentence]): Groups.
    """
    group: list[Sentence] = []
    for sentence in sentences:
        if group and (not sentence or len(group) == size):
            yield group
            group = []
        if sentence:
            group.append(sentence)
    if group:
        yield group


def wikigold(data: Path, vocab: Vocab) -> dict[str, list[Doc]]:
    """Split wikigold by document: of every ten, one for dev and one for test.

    data (Path): The folder of data sets.
    vocab (Vocab): The vocabulary.
    RETURNS (dict[str, list[Doc]]): Documents of the splits train, dev and test.
    """
    text = (data / "wikigold" / "wikigold.conll.txt").read_text(encoding="utf8")
    splits: dict[str, list[Doc]] = {"train": [], "dev": [], "test": []}
    for number, document in enumerate(text.split("-DOCSTART- O\n")):
        split = {8: "dev", 9: "test"}.get(number % 10, "train")
        for group in grouped(read_tagged(document), size=3):
            splits[split].append(tagged_doc(vocab, group))
    return splits


def wnut17(data: Path, vocab: Vocab) -> dict[str, list[Doc]]:
    """Read the three splits of WNUT-17.

    data (Path): The folder of data sets.
    vocab (Vocab): The vocabulary.
    RETURNS (dict[str, list[Doc]]): Documents of the splits train, dev and test.
    """
    files = {
        "train": "wnut17train.conll",
        "dev": "emerging.dev.conll",
        "test": "emerging.test.annotated",
    }
    return {
        split: [
            tagged_doc(vocab, [sentence])
            for sentence in read_tagged((data / "wnut17" / name).read_text(encoding="utf8"))
        ]
        for split, name in files.items()
    }


def crossner(data: Path, vocab: Vocab) -> dict[str, list[Doc]]:
    """Read the training and development splits of CrossNER's five domains, all for training.

    data (Path): The folder of data sets.
    vocab (Vocab): The vocabulary.
    RETURNS (dict[str, list[Doc]]): Documents of the split train.
    """
    docs = [
        tagged_doc(vocab, [sentence])
        for domain in DOMAINS
        for split in ("train", "dev")
        for sentence in read_tagged(
            (data / "crossner" / f"{domain}_{split}.txt").read_text(encoding="utf8")
        )
    ]
    return {"train": docs}


def sentence_polarity(data: Path, vocab: Vocab) -> dict[str, list[Doc]]:
    """Split the sentence polarity data at random (seed 0): 80 % train, 10 % dev, 10 % test.

    data (Path): The folder of data sets.
    vocab (Vocab): The vocabulary.
    RETURNS (dict[str, list[Doc]]): Documents of the splits train, dev and test.
    """
    nlp = spacy.blank("en", vocab=vocab)
    docs = []
    with zipfile.ZipFile(data / "sentence_polarity" / "sentence_polarity.zip") as archive:
        for label, ending in (("POSITIVE", ".pos"), ("NEGATIVE", ".neg")):
            name = next(name for name in archive.namelist() if name.endswith(ending))
            for line in archive.read(name).decode("utf8").split("\n"):
                words = line.split()
                if words:
                    blanks = [" " if space else "" for space in spaces_after(words)]
                    doc = nlp.make_doc("".join(w + b for w, b in zip(words, blanks)).strip())
                    doc.cats = {c: float(c == label) for c in ("POSITIVE", "NEGATIVE")}
                    docs.append(doc)
    random.Random(0).shuffle(docs)
    n = len(docs) // 10
    return {"test": docs[:n], "dev": docs[n : 2 * n], "train": docs[2 * n :]}


SETS = {
    "wikigold": wikigold,
    "wnut17": wnut17,
    "crossner": crossner,
    "sentence_polarity": sentence_polarity,
}


def main(data: Path, output: Path) -> None:
    """Write one .spacy file for each set and split, and train.spacy and dev.spacy of all.

    data (Path): The folder of data sets.
    output (Path): Where the files go.
    """
    output.mkdir(parents=True, exist_ok=True)
    vocab = spacy.blank("en").vocab
    together: dict[str, list[Doc]] = {"train": [], "dev": []}
    for name, read in SETS.items():
        for split, docs in read(data, vocab).items():
            DocBin(docs=docs, store_user_data=True).to_disk(output / f"{name}-{split}.spacy")
            print(f"{name} {split}: {len(docs):,} documents, {sum(map(len, docs)):,} tokens")
            if split in together:
                together[split] += docs
    for split, docs in together.items():
        random.Random(0).shuffle(docs)
        DocBin(docs=docs, store_user_data=True).to_disk(output / f"{split}.spacy")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of data sets")
    parser.add_argument("output", type=Path, help="where the .spacy files go")
    arguments = parser.parse_args()
    main(arguments.data, arguments.output)
