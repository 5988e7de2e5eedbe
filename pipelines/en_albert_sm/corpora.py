"""Read the data sets that en_albert_sm learns from, and write them as .spacy files.

Entities (PER, ORG, LOC, MISC): wikigold, WNUT-17 and CrossNER, whose labels are mapped; what has no
counterpart is left unannotated, not called "no entity". Sentiment (POSITIVE, NEGATIVE): sentences
and whole reviews of films, and the comments of GoEmotions. Texts with the one annotation do not
have the other: it is missing. Nothing of what is in a test split is in training, and nothing of
what is in dev.

    python pipelines/en_albert_sm/corpora.py DATA OUTPUT
"""

import argparse
import random
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin

from spacy_albert.corpora import ConllCorpus, TableCorpus, conll_documents, spaces_after

Splits = dict[str, list[Doc]]  # train, dev and test, as far as a set has them

LABELS = {
    "PER": "PER person researcher writer musicalartist politician scientist",
    "ORG": "ORG organisation university band politicalparty corporation group",
    "LOC": "LOC location country",
    "MISC": "MISC misc award event book poem song album magazine election academicjournal "
    "conference product programlang creative-work",
}
LABEL_OF = {name: label for label, names in LABELS.items() for name in names.split()}
DOMAINS = ("ai", "literature", "music", "politics", "science")
# What GoEmotions groups as positive and negative; the rest it calls ambiguous, or neutral
EMOTIONS = {
    "POSITIVE": "admiration amusement approval caring desire excitement gratitude joy love "
    "optimism pride relief",
    "NEGATIVE": "anger annoyance disapproval disgust fear nervousness disappointment "
    "embarrassment grief remorse sadness",
}
CLASS_OF = {name: label for label, names in EMOTIONS.items() for name in names.split()}
# Of a review seven hundred words long training reads so many parts of so many words: a whole one
# would take the time of thirty sentences to say a single thing
PARTS, PART_WORDS = 4, 100
# Texts with entities are in training so many times, and those with sentiment once: of these there
# are six times as many words, which have less to tell
TIMES = 3
# Two texts that share so many words in a row are the same to us, as they are to Brown et al.,
# "Language Models are Few-Shot Learners", 2020, appendix C
RUN = 13


def wikigold(data: Path, nlp: Language, n_sents: int = 3) -> Splits:
    """Split wikigold by document: of every ten, one for dev and one for test.

    data (Path): The folder of data sets.
    nlp (Language): For its tokenizer and vocabulary.
    n_sents (int): Sentences that are made one document.
    RETURNS (Splits): Documents of the splits train, dev and test.
    """
    path = data / "wikigold" / "wikigold.conll.txt"
    corpus = ConllCorpus(path, labels=LABEL_OF, guess_spaces=True)
    splits: Splits = {"train": [], "dev": [], "test": []}
    for number, sentences in enumerate(conll_documents(path)):
        split = {8: "dev", 9: "test"}.get(number % 10, "train")
        for first in range(0, len(sentences), n_sents):
            splits[split].append(corpus.make_doc(nlp.vocab, sentences[first : first + n_sents]))
    return splits


def wnut17(data: Path, nlp: Language) -> Splits:
    """Read the three splits of WNUT-17.

    data (Path): The folder of data sets.
    nlp (Language): For its tokenizer and vocabulary.
    RETURNS (Splits): Documents of the splits train, dev and test.
    """
    files = {
        "train": "wnut17train.conll",
        "dev": "emerging.dev.conll",
        "test": "emerging.test.annotated",
    }
    return {split: tagged(data / "wnut17" / name, nlp) for split, name in files.items()}


def crossner(data: Path, nlp: Language) -> Splits:
    """Read CrossNER's five domains; their development splits are for training, too.

    data (Path): The folder of data sets.
    nlp (Language): For its tokenizer and vocabulary.
    RETURNS (Splits): Documents of the splits train and test.
    """
    splits: Splits = {"train": [], "test": []}
    for domain in DOMAINS:
        for name, split in (("train", "train"), ("dev", "train"), ("test", "test")):
            splits[split] += tagged(data / "crossner" / f"{domain}_{name}.txt", nlp)
    return splits


def tagged(path: Path, nlp: Language) -> list[Doc]:
    """Read a CoNLL file, a sentence a document.

    path (Path): The file.
    nlp (Language): For its vocabulary.
    RETURNS (list[Doc]): The documents, with our labels.
    """
    return list(ConllCorpus(path, labels=LABEL_OF, guess_spaces=True).docs(nlp))


def sentence_polarity(data: Path, nlp: Language) -> Splits:
    """Split the sentence polarity data at random (seed 0): 80 % train, 10 % dev, 10 % test.

    data (Path): The folder of data sets.
    nlp (Language): For its tokenizer and vocabulary.
    RETURNS (Splits): Documents of the splits train, dev and test.
    """
    docs = []
    with zipfile.ZipFile(data / "sentence_polarity" / "sentence_polarity.zip") as archive:
        for label, ending in (("POSITIVE", ".pos"), ("NEGATIVE", ".neg")):
            name = next(name for name in archive.namelist() if name.endswith(ending))
            lines = map(str.split, archive.read(name).decode("utf8").split("\n"))
            docs += [classified(untokenized(words), label, nlp) for words in lines if words]
    random.Random(0).shuffle(docs)
    n = len(docs) // 10
    return {"test": docs[:n], "dev": docs[n : 2 * n], "train": docs[2 * n :]}


def goemotions(data: Path, nlp: Language) -> Splits:
    """Read the comments of GoEmotions that are positive or negative, and not both. What is masked
    in them ([NAME], [RELIGION]) stays as it is: it stands where a name stood, and tells no class.

    data (Path): The folder of data sets.
    nlp (Language): For its tokenizer and vocabulary.
    RETURNS (Splits): Documents of the splits train, dev and test.
    """
    folder = data / "goemotions"
    splits: Splits = {}
    for split in ("train", "dev", "test"):
        corpus = TableCorpus(
            folder / f"{split}.tsv",
            text=0,
            label=1,
            separator=",",
            label_names=folder / "labels.txt",
            labels=CLASS_OF,
        )
        splits[split] = [doc for doc in corpus.docs(nlp) if sum(doc.cats.values()) == 1]
    return splits


def movie_reviews(data: Path, nlp: Language) -> Splits:
    """Split the film reviews by their numbers: cv000 to cv799 are for training, in parts; a hundred
    of each class are for dev and a hundred for test, whole.

    data (Path): The folder of data sets.
    nlp (Language): For its tokenizer and vocabulary.
    RETURNS (Splits): Documents of the splits train, dev and test.
    """
    splits: Splits = {"train": [], "dev": [], "test": []}
    with zipfile.ZipFile(data / "movie_reviews" / "movie_reviews.zip") as archive:
        for name in sorted(name for name in archive.namelist() if "/cv" in name):
            label = "POSITIVE" if "/pos/" in name else "NEGATIVE"
            split = {"8": "dev", "9": "test"}.get(name.split("/cv")[1][0], "train")
            lines = map(str.split, archive.read(name).decode("utf8").split("\n"))
            sentences = [untokenized(words) for words in lines if words]
            texts = parts(sentences) if split == "train" else [" ".join(sentences)]
            splits[split] += [classified(text, label, nlp) for text in texts]
    return splits


def parts(sentences: Iterable[str]) -> list[str]:
    """Take parts of a review, evenly from its beginning to its end, where its verdict stands.

    sentences (Iterable[str]): The sentences of the review, one at least.
    RETURNS (list[str]): Whole sentences, of PART_WORDS words together at most, unless one has more.
    """
    found: list[list[str]] = []
    n_words = PART_WORDS
    for sentence in sentences:
        n_words += len(sentence.split())
        if n_words > PART_WORDS:
            found.append([])
            n_words = len(sentence.split())
        found[-1].append(sentence)
    chosen = {round(i * (len(found) - 1) / (PARTS - 1)) for i in range(PARTS)}
    return [" ".join(found[i]) for i in sorted(chosen)]


def untokenized(words: Sequence[str]) -> str:
    """Put words back together.

    words (Sequence[str]): Words and punctuation.
    RETURNS (str): The text, with blanks where English has them.
    """
    return "".join(w + " " * space for w, space in zip(words, spaces_after(words))).strip()


def classified(text: str, label: str, nlp: Language) -> Doc:
    """Make a document that has a class.

    text (str): The text.
    label (str): The class.
    nlp (Language): For its tokenizer and vocabulary.
    RETURNS (Doc): The document.
    """
    doc = nlp.make_doc(text)
    doc.cats = {name: float(name == label) for name in EMOTIONS}
    return doc


# What is in a test split is never trained on


def traces(text: str) -> set[str]:
    """Find what gives a text away in another one: all of it, and its runs of RUN words. Case does
    not count, nor white space, which most sets leave to be guessed.

    text (str): The text.
    RETURNS (set[str]): The text and its runs.
    """
    words = re.findall(r"\w+", text.casefold())
    runs = {" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}
    return runs | {"".join(text.casefold().split())}


def separate(sets: dict[str, Splits]) -> dict[str, Splits]:
    """Leave out of dev what is in a test split, of this set or another, and of train what is in a
    test split or in dev. CrossNER and GoEmotions are published with such texts, and two of the film
    reviews have 56 sentences in common.

    sets (dict[str, Splits]): The sets.
    RETURNS (dict[str, Splits]): The sets, with all three splits, but without those texts.
    """
    made: dict[str, Splits] = {name: {} for name in sets}
    for split, others in (("test", ()), ("dev", ("test",)), ("train", ("test", "dev"))):
        held_out = (doc for of in made.values() for other in others for doc in of[other])
        known = {trace for doc in held_out for trace in traces(doc.text)}
        for name, splits in sets.items():
            docs = splits.get(split, [])
            made[name][split] = [doc for doc in docs if known.isdisjoint(traces(doc.text))]
    return made


ENTITIES = {"wikigold": wikigold, "wnut17": wnut17, "crossner": crossner}
SENTIMENT = {
    "sentence_polarity": sentence_polarity,
    "goemotions": goemotions,
    "movie_reviews": movie_reviews,
}


def together(sets: dict[str, Splits]) -> Splits:
    """Put the sets together, in random order (seed 0).

    sets (dict[str, Splits]): The sets.
    RETURNS (Splits): For training, texts with entities TIMES times; for dev, as many texts with
        sentiment as with entities, so that neither drowns the other where the best step is chosen;
        for test, all there are.
    """
    rng = random.Random(0)
    made: Splits = {}
    for split in ("train", "dev", "test"):
        ents, cats = (
            [doc for name in names for doc in sets[name][split]] for names in (ENTITIES, SENTIMENT)
        )
        if split == "train":
            ents *= TIMES
        if split == "dev":
            cats = rng.sample(cats, len(ents))
        made[split] = rng.sample(ents + cats, len(ents + cats))
    return made


def main(data: Path, output: Path) -> None:
    """Write one .spacy file for each set and split, and train.spacy, dev.spacy and test.spacy of
    all together.

    data (Path): The folder of data sets.
    output (Path): Where the files go.
    """
    output.mkdir(parents=True, exist_ok=True)
    nlp = spacy.blank("en")
    published = {name: read(data, nlp) for name, read in (ENTITIES | SENTIMENT).items()}
    sets = separate(published)
    files = {(name, split): docs for name in sets for split, docs in sets[name].items()}
    for (name, split), docs in files.items():
        if left_out := len(published[name].get(split, ())) - len(docs):
            print(f"{name}-{split}: {left_out} texts left out that are in test or dev")
    named = {f"{name}-{split}": docs for (name, split), docs in files.items() if docs}
    for name, docs in (named | together(sets)).items():
        DocBin(docs=docs).to_disk(output / f"{name}.spacy")
        print(f"{name}: {len(docs):,} documents, {sum(map(len, docs)):,} tokens")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of data sets")
    parser.add_argument("output", type=Path, help="where the .spacy files go")
    arguments = parser.parse_args()
    main(arguments.data, arguments.output)
