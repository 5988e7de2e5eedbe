"""Read the data sets that en_albert_sm learns from, and write them as .spacy files.

Entities (PER, ORG, LOC, MISC): wikigold, WNUT-17 and CrossNER, whose labels are mapped; what has no
counterpart is left unannotated, not called "no entity". Sentiment: the sentence polarity data.
Nothing here reads a test split into training.

    python pipelines/en_albert_sm/corpora.py DATA OUTPUT
"""

import argparse
import random
import zipfile
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin

from spacy_albert.corpora import ConllCorpus, conll_documents, spaces_after

LABELS = {
    "PER": "PER person researcher writer musicalartist politician scientist",
    "ORG": "ORG organisation university band politicalparty corporation group",
    "LOC": "LOC location country",
    "MISC": "MISC misc award event book poem song album magazine election academicjournal "
    "conference product programlang creative-work",
}
LABEL_OF = {name: label for label, names in LABELS.items() for name in names.split()}
DOMAINS = ("ai", "literature", "music", "politics", "science")


def wikigold(data: Path, nlp: Language) -> dict[str, list[Doc]]:
    """Split wikigold by document: of every ten, one for dev and one for test.

    data (Path): The folder of data sets.
    nlp (Language): For its tokenizer and vocabulary.
    RETURNS (dict[str, list[Doc]]): Documents of the splits train, dev and test.
    """
    path = data / "wikigold" / "wikigold.conll.txt"
    corpus = ConllCorpus(path, labels=LABEL_OF, guess_spaces=True)
    splits: dict[str, list[Doc]] = {"train": [], "dev": [], "test": []}
    for number, sentences in enumerate(conll_documents(path)):
        split = {8: "dev", 9: "test"}.get(number % 10, "train")
        for first in range(0, len(sentences), 3):
            splits[split].append(corpus.make_doc(nlp.vocab, sentences[first : first + 3]))
    return splits


def wnut17(data: Path, nlp: Language) -> dict[str, list[Doc]]:
    """Read the three splits of WNUT-17.

    data (Path): The folder of data sets.
    nlp (Language): For its tokenizer and vocabulary.
    RETURNS (dict[str, list[Doc]]): Documents of the splits train, dev and test.
    """
    files = {
        "train": "wnut17train.conll",
        "dev": "emerging.dev.conll",
        "test": "emerging.test.annotated",
    }
    return {split: tagged(data / "wnut17" / name, nlp) for split, name in files.items()}


def crossner(data: Path, nlp: Language) -> dict[str, list[Doc]]:
    """Read the training and development splits of CrossNER's five domains, all for training.

    data (Path): The folder of data sets.
    nlp (Language): For its tokenizer and vocabulary.
    RETURNS (dict[str, list[Doc]]): Documents of the split train.
    """
    files = [f"{domain}_{split}.txt" for domain in DOMAINS for split in ("train", "dev")]
    return {"train": [doc for name in files for doc in tagged(data / "crossner" / name, nlp)]}


def tagged(path: Path, nlp: Language) -> list[Doc]:
    """Read a CoNLL file, a sentence a document.

    path (Path): The file.
    nlp (Language): For its vocabulary.
    RETURNS (list[Doc]): The documents, with our labels.
    """
    return list(ConllCorpus(path, labels=LABEL_OF, guess_spaces=True).docs(nlp))


def sentence_polarity(data: Path, nlp: Language) -> dict[str, list[Doc]]:
    """Split the sentence polarity data at random (seed 0): 80 % train, 10 % dev, 10 % test.

    data (Path): The folder of data sets.
    nlp (Language): For its tokenizer and vocabulary.
    RETURNS (dict[str, list[Doc]]): Documents of the splits train, dev and test.
    """
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
    nlp = spacy.blank("en")
    together: dict[str, list[Doc]] = {"train": [], "dev": []}
    for name, read in SETS.items():
        for split, docs in read(data, nlp).items():
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
