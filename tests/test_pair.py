"""Two texts as a component: against `transformers`, in windows, and learned."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spacy
import torch
import transformers
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Example
from thinc.api import Optimizer
from typer.testing import CliRunner
from util import TINY, initialized

from spacy_albert.calibration import calibrate, choose
from spacy_albert.cli import albert_cli
from spacy_albert.components.pair import correlation, ranks
from spacy_albert.convert import from_checkpoint, to_hugging_face
from spacy_albert.corpora import DocCorpus, TableCorpus

EXACT = {"components.albert.model.precision": "float32"}
CLASSES = ["contradiction", "entailment", "neutral"]
PAIRS = [
    ("Michael was in London.", "Obama was in (9,000) Paris"),
    ("the river", "is the river long, or not?"),
    ("café", ""),
]
LEARNED = [
    ("the river was long", "the river was long", "same"),
    ("the river was long", "Obama was in Paris", "other"),
    ("Obama was in Paris", "Obama was in Paris", "same"),
    ("Obama was in Paris", "the river was long", "other"),
]


def documents(nlp: Language, pairs: list[tuple[str, str]]) -> list:
    docs = [nlp.make_doc(first) for first, _ in pairs]
    for doc, (_, second) in zip(docs, pairs):
        doc._.pair = second
    return docs


def checkpoint(folder: Path, tiny_spm: bytes, labels: list[str], **settings) -> Path:
    config = transformers.AlbertConfig(
        **{
            "vocab_size": 1000,
            "embedding_size": 16,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "initializer_range": 0.3,
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
            **settings,
        }
    )
    torch.manual_seed(0)
    transformers.AlbertForSequenceClassification(config).save_pretrained(folder)
    (folder / "spiece.model").write_bytes(tiny_spm)
    return folder


BASE = {
    "hidden_size": 768,
    "embedding_size": 128,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "initializer_range": 0.02,
}


@pytest.mark.parametrize(
    ("labels", "settings"),
    [(CLASSES, {}), (["similarity"], {}), (CLASSES, BASE)],
    ids=["classes", "number", "base"],
)
def test_scores_are_those_of_transformers(tiny_spm, tmp_path, labels, settings):
    folder = checkpoint(tmp_path / "hf", tiny_spm, labels, **settings)
    from_checkpoint(folder, task="pair").to_disk(tmp_path / "pipeline")
    nlp = spacy.load(tmp_path / "pipeline", config=EXACT)
    tokenizer = transformers.AlbertTokenizer.from_pretrained(folder)
    model = transformers.AlbertForSequenceClassification.from_pretrained(folder).eval()
    pair = nlp.get_pipe("pair")
    assert list(pair.labels) == labels
    for doc, texts in zip(documents(nlp, PAIRS), PAIRS):
        with torch.no_grad():
            expected = model(**tokenizer(*texts, return_tensors="pt")).logits[0]
        (logits,) = pair.answers([doc])
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        scores = torch.tensor(list(nlp(doc).cats.values()))
        if len(labels) > 1:
            expected = expected.softmax(0)
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    back = tmp_path / "back"
    assert to_hugging_face(nlp, back) == "AlbertForSequenceClassification"
    ours = transformers.AlbertForSequenceClassification.from_pretrained(back)
    theirs = model.state_dict()
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.state_dict().items())
    if len(labels) == 1:
        assert ours.config.problem_type == "regression"


@pytest.fixture(scope="module")
def vocabulary(tiny_spm, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    path.write_bytes(tiny_spm)
    return path


def make(vocabulary: Path, labels=("same", "other"), own: bool = False, **config) -> Language:
    """A pipeline with random weights."""
    nlp = spacy.blank("en")
    start = {
        "@misc": "spacy-albert.Scratch.v1",
        "vocabulary": str(vocabulary),
        "config": {**TINY, "max_position_embeddings": 40},
    }
    exact = {"precision": "float32", "overlap": 8}
    settings = nlp.config["initialize"]["components"]
    model = {}
    if own:
        model = {"tok2vec": {"@architectures": "spacy-albert.Albert.v1", **exact}}
    else:
        nlp.add_pipe("albert", config={"model": exact})
        settings["albert"] = {"encoder": start}
    nlp.add_pipe("albert_pair", name="pair", config={"model": model, **config})
    settings["pair"] = {"labels": list(labels)} | ({"encoder": start} if own else {})
    torch.manual_seed(0)
    nlp.initialize()
    return nlp


@pytest.mark.parametrize("lengths", [(3, 200), (200, 3), (90, 110), (0, 150), (150, 0)])
def test_long_texts_are_the_mean_of_their_windows(vocabulary, lengths):
    nlp = make(vocabulary)
    words = ["river", "city", "match", "story", "music"] * 50
    texts = [" ".join(words[:n]) for n in lengths]
    (doc,) = documents(nlp, [(texts[0], texts[1])])
    (logits,) = nlp.get_pipe("pair").answers([doc])
    reader = nlp.get_pipe("albert").model.shims[0].reader
    head = nlp.get_pipe("pair").head.module
    reading = reader.prepare_pairs(*[[text] for text in texts])
    total, weights = torch.zeros(2), 0
    for w in range(len(reading.window_starts)):
        first = reading.firsts.ids[reading.firsts.starts[w] : reading.firsts.stops[w]]
        second = reading.ids[reading.window_starts[w] : reading.window_stops[w]]
        cls, sep = reader.tokenizer.cls_id, reader.tokenizer.sep_id
        ids = torch.tensor([[cls, *first, sep, *second, sep]])
        segments = torch.tensor([[0] * (len(first) + 2) + [1] * (len(second) + 1)])
        owned = max(np.diff(reading.window_edges)[w], 1) * max(reading.firsts.owned[w], 1)
        with torch.no_grad():
            states = reader.model(ids, segments=segments)
            total += float(owned) * head(states[:, 0])[0]
        weights += float(owned)
    assert len(reading.window_starts) > 4
    torch.testing.assert_close(logits, total / weights, atol=1e-5, rtol=1e-5)
    assert nlp(doc)._.n_windows == len(reading.window_starts)


def test_a_missing_text_is_an_error_of_its_document(vocabulary):
    nlp = make(vocabulary)
    docs = documents(nlp, PAIRS)
    docs[1]._.pair = None
    with pytest.raises(ValueError, match=r"'the river' has no second one: doc\._\.pair is None"):
        list(nlp.pipe(docs))
    failed = []
    nlp.set_error_handler(lambda name, component, docs, error: failed.append(str(error)))
    assert [doc.text for doc in nlp.pipe(documents(nlp, PAIRS) + docs)] == [
        text for text, _ in [*PAIRS, PAIRS[0], PAIRS[2]]
    ]
    assert len(failed) == 1


def test_the_second_text_may_be_a_document(vocabulary):
    nlp = make(vocabulary)
    one, other = documents(nlp, PAIRS[:1] * 2)
    other._.pair = nlp.make_doc(other._.pair)
    assert nlp(one).cats == nlp(other).cats


def learned(nlp: Language, number: bool = False) -> list[Example]:
    """As spaCy's Corpus makes them: what is read has no second text."""
    made = []
    for first, second, label in LEARNED:
        annotated = nlp.make_doc(first)
        annotated._.pair = second
        if number:
            annotated.cats = {"similarity": float(label == "same")}
        else:
            annotated.cats = {name: float(name == label) for name in ("same", "other")}
        made.append(Example(nlp.make_doc(first), annotated))
    return made


@pytest.mark.parametrize(("own", "number"), [(False, False), (True, False), (False, True)])
def test_pairs_are_learned_by_heart(vocabulary, tmp_path, own, number):
    labels = ["similarity"] if number else ["same", "other"]
    nlp = make(vocabulary, labels, own=own, regression=number)
    optimizer = Optimizer(0.003, use_averages=False)
    for _ in range(130):
        losses = nlp.update(learned(nlp, number), sgd=optimizer)
    assert losses["pair"] < 0.1
    nlp.to_disk(tmp_path / "nlp")
    nlp = spacy.load(tmp_path / "nlp")
    data = learned(nlp, number)
    for example in data:
        example.predicted._.pair = example.reference._.pair
    scores = nlp.evaluate(data)
    assert scores["cats_score"] == pytest.approx(1, abs=0.05)
    for doc in nlp.pipe([example.predicted for example in data]):
        same = doc.text == doc._.pair
        if number:
            assert doc.cats["similarity"] == pytest.approx(float(same), abs=0.4)
        else:
            assert (doc.cats["same"] > 0.5) == same


def test_command_evaluates_pairs(vocabulary, tmp_path):
    nlp = make(vocabulary)
    docs = [example.reference for example in learned(nlp)]
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "dev.spacy")
    nlp.to_disk(tmp_path / "nlp")
    arguments = [str(tmp_path / "nlp"), str(tmp_path / "dev.spacy"), "-o", str(tmp_path / "s.json")]
    result = CliRunner().invoke(albert_cli, ["evaluate", *arguments])
    assert result.exit_code == 0, result.output
    scores = nlp.evaluate(list(DocCorpus(tmp_path / "dev.spacy")(nlp)))
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["cats_score"] == pytest.approx(scores["cats_score"])
    assert f"{scores['cats_score']:.4f}" in result.output


def test_a_number_has_one_label(vocabulary):
    with pytest.raises(ValueError, match="gives one number, and the data has 2 labels"):
        make(vocabulary, regression=True)
    with pytest.raises(ValueError, match="only 'same'"):
        make(vocabulary, ["same"])


def test_correlations_are_those_of_pandas():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 50).astype(float), rng.normal(size=50)
    table = pd.DataFrame({"x": x, "y": y})
    assert correlation(x, y) == pytest.approx(table.corr().loc["x", "y"])
    assert ranks(x).tolist() == table["x"].rank().tolist()
    assert correlation(ranks(x), ranks(y)) == pytest.approx(
        table.corr(method="spearman").loc["x", "y"]
    )
    assert correlation(x, np.ones(50)) is None


def test_classes_of_pairs_are_calibrated_and_numbers_are_not(vocabulary):
    nlp = make(vocabulary)
    data, optimizer = learned(nlp), Optimizer(0.003)
    for _ in range(130):
        nlp.update(data, sgd=optimizer)
    wrong = learned(nlp)
    for example in wrong:
        example.reference.cats = {name: 1 - is_so for name, is_so in example.reference.cats.items()}
    (finding,) = calibrate(nlp, data * 30 + wrong * 10)
    assert finding.component == "pair"
    before, after = (outcomes.loss for outcomes in finding.outcomes)
    assert after < before
    with pytest.raises(ValueError, match="can be calibrated"):
        choose(make(vocabulary, ["similarity"], regression=True))


def test_a_second_head_reads_the_document_alone(vocabulary):
    nlp = initialized(vocabulary, ["ner"])
    before = [ent._.score for ent in nlp(LEARNED[0][0]).ents]
    nlp.add_pipe("albert_pair", name="pair")
    nlp.get_pipe("pair").initialize(lambda: learned(nlp), nlp=nlp, labels=["same", "other"])
    (doc,) = documents(nlp, [LEARNED[0][:2]])
    doc = nlp(doc)
    assert [ent._.score for ent in doc.ents] == before
    assert set(doc.cats) == {"same", "other"}
    assert doc._.n_windows == 2


# Tables

TABLE = "first,second,label\nthe river,is long,yes\nthe city,,no\n,a,no\nthe book,is new,no\n"


def test_pairs_are_read_from_tables(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow.csv

    (tmp_path / "a.csv").write_text(TABLE)
    rows = pyarrow.csv.read_csv(tmp_path / "a.csv")
    pq.write_table(rows, tmp_path / "a.parquet")
    tabbed = TABLE.partition("\n")[2].replace(",", "\t")
    (tmp_path / "a.tsv").write_text(tabbed)
    names = {"text": "first", "pair": "second"}
    for corpus in (
        TableCorpus(tmp_path / "a.csv", **names),
        TableCorpus(tmp_path / "a.parquet", **names),
        TableCorpus(tmp_path / "a.tsv", text=0, pair=1, label=2),
    ):
        first, second = corpus(spacy.blank("en"))
        for example, text, pair in (
            (first, "the river", "is long"),
            (second, "the book", "is new"),
        ):
            assert example.predicted.text == text
            assert example.predicted._.pair == example.reference._.pair == pair
        assert second.reference.cats == {"yes": 0, "no": 1}
        assert corpus.skipped == {"no text": 1, "no second text": 1}
    with pytest.raises(ValueError, match="name all, or number all"):
        TableCorpus(tmp_path / "a.csv", pair=1)


def test_numbers_are_read_from_tables(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,pair,label\na,b,4.5\nc,d,\ne,f,1\n")
    corpus = TableCorpus(path, pair="pair", regression=True)
    cats = [example.reference.cats for example in corpus(spacy.blank("en"))]
    assert cats == [{"label": 4.5}, {"label": 1.0}]
    assert corpus.skipped == {"no number": 1}
    path.write_text("text,pair,label\na,b,much\n")
    with pytest.raises(ValueError, match="'much' is no number"):
        list(corpus(spacy.blank("en")))
    with pytest.raises(ValueError, match="regression"):
        TableCorpus(path, regression=True, separator=",")


def test_command_writes_a_corpus_that_has_the_pairs(tmp_path):
    (tmp_path / "a.csv").write_text(TABLE)
    columns = ["--text-column", "first", "--pair-column", "second"]
    source, out = tmp_path / "a.csv", tmp_path / "a.spacy"
    result = CliRunner().invoke(albert_cli, ["corpus", str(source), str(out), *columns])
    assert result.exit_code == 0, result.output
    assert "no second text 1" in result.output
    for example in DocCorpus(out)(spacy.blank("en")):
        assert example.predicted._.pair in ("is long", "is new")
    (tmp_path / "bad.spacy").write_bytes(b"none")
    with pytest.raises(ValueError, match="DocBin"):
        list(DocCorpus(tmp_path / "bad.spacy")(spacy.blank("en")))
    assert len(list(DocBin().from_disk(out).get_docs(spacy.blank("en").vocab))) == 2
