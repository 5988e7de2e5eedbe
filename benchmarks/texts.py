"""What is read: real paragraphs and questions where there are any, else made text."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
VOCABULARY = DATA / "albert_vocabulary" / "spiece.model"
EMBEDDED = ROOT / "pipelines" / "en_albert_sm" / "model"


def source() -> str:
    """RETURNS (str): "real" if the data sets are beside the checkout, else "made"."""
    return "real" if (DATA / "squad").is_dir() else "made"


def vocabulary() -> Path:
    """RETURNS (Path): ALBERT's released spiece.model, or else the embedded pipeline's."""
    return VOCABULARY if VOCABULARY.exists() else EMBEDDED / "albert" / "encoder" / "spiece.model"


def paragraphs(n: int, *, skip: int = 0) -> list[str]:
    """Take paragraphs of Wikipedia (SQuAD 1.1), whole, with the lengths they have.

    n (int): How many.
    skip (int): How many to leave out first, to get others than another call got.
    RETURNS (list[str]): The same ones every time.
    """
    if source() == "made":
        return _made(n, seed=skip, median=110)
    found: list[str] = []
    for name in ("dev-v1.1", "train-v1.1"):
        if len(found) < skip + n:
            more = [p["context"] for article in _squad(name) for p in article["paragraphs"]]
            random.Random(0).shuffle(more)
            found += more
    return found[skip : skip + n]


def short_texts(n: int) -> list[str]:
    """Take texts of one sentence: what people say to an assistant (snips), questions (SQuAD 1.1).

    n (int): How many.
    RETURNS (list[str]): All different as long as there are enough (112,000).
    """
    if source() == "made":
        return _made(n, seed=0, median=10)
    found = list(dict.fromkeys(_utterances()))
    for name in ("dev-v1.1", "train-v1.1"):
        if len(found) < n:
            asked = (q["question"] for a in _squad(name) for p in a["paragraphs"] for q in p["qas"])
            found = list(dict.fromkeys([*found, *asked]))
    random.Random(0).shuffle(found)
    return [found[i % len(found)] for i in range(n)]


def long_text(n_chars: int) -> str:
    """Make one long document of paragraphs.

    n_chars (int): How many characters.
    RETURNS (str): The text.
    """
    text = "\n\n".join(paragraphs(n_chars // 300 + 1))
    return (text * (n_chars // max(len(text), 1) + 1))[:n_chars]


def _squad(name: str) -> list[dict]:
    with gzip.open(DATA / "squad" / f"{name}.json.gz", "rt", encoding="utf8") as file:
        return json.load(file)["data"]


def _utterances() -> Iterator[str]:
    for path in sorted((DATA / "snips").glob("train_*_full.json")):
        # One file holds an emoji as two UTF-8-encoded surrogates
        text = path.read_bytes().decode("utf8", "surrogatepass")
        for intent in json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16")).values():
            for utterance in intent:
                yield "".join(chunk["text"] for chunk in utterance["data"])


def _made(n: int, *, seed: int, median: int) -> list[str]:
    """Draw words from the vocabulary, the frequent ones more often; it lists them by frequency."""
    import sentencepiece

    spm = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary()))
    pieces = (spm.IdToPiece(i) for i in range(spm.GetPieceSize()))
    words = [p[1:] for p in pieces if p.startswith("▁") and p[1:].isalpha()]
    weights = [1 / (rank + 3) for rank in range(len(words))]  # Zipf's law, blunted at the top
    rng = random.Random(seed)
    made = []
    for _ in range(n):
        drawn = rng.choices(words, weights, k=max(1, round(median * rng.lognormvariate(0, 0.45))))
        for i in range(11, len(drawn), 12):
            drawn[i] += rng.choice(",.;")
        made.append(" ".join(drawn).capitalize() + ".")
    return made


def count_words(texts: list[str]) -> int:
    """Count words as spaCy's English tokenizer does, the same way for every contender.

    texts (list[str]): Texts.
    RETURNS (int): All tokens.
    """
    import spacy

    tokenize = spacy.blank("en").tokenizer
    return sum(len(tokenize(text)) for text in texts)
