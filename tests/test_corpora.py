"""Readers of other people's corpora: every token, every label, and an error that names the line."""

import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.cli.train import train
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus
from spacy.training.converters import conll_ner_to_docs
from spacy.util import registry
from typer.testing import CliRunner
from util import SENTENCES, TEXTS, blank, found, gold, parse

from spacy_albert.cli import albert_cli
from spacy_albert.corpora import ConllCorpus, TableCorpus, conll_documents, entities

NLP = spacy.blank("en")


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def ents(doc: Doc) -> list[tuple[int, int, str]]:
    return [(ent.start, ent.end, ent.label_) for ent in doc.ents]


# Tags


def spell(layout: list[tuple[str, int]], scheme: str) -> tuple[list[str], list]:
    """Tags of (label, length) parts, "" for what is no entity, and the entities."""
    tags, spans, before = [], [], ""
    for label, length in layout:
        if not label:
            tags += ["O"] * length
        else:
            spans.append((len(tags), len(tags) + length, label))
            single, first, inside, last = {
                "BIO": "BBII",
                "BILOU": "UBIL",
                "BIOES": "SBIE",
                "IOB1": "BBII" if before == label else "IIII",
            }[scheme]
            roles = single if length == 1 else first + inside * (length - 2) + last
            tags += [f"{role}-{label}" for role in roles]
        before = label
    return tags, spans


@pytest.mark.parametrize("scheme", ["BIO", "BILOU", "BIOES", "IOB1"])
@given(layout=st.lists(st.tuples(st.sampled_from(["", "PER", "LOC", "B-cell"]), st.integers(1, 4))))
def test_entities_in_every_scheme(scheme, layout):
    tags, spans = spell(layout, scheme)
    assert list(entities(tags)) == spans


def test_without_b_neighbours_of_one_label_are_one_entity():
    tags = ["I-PER", "I-PER", "O", "I-PER", "I-LOC", "I-LOC"]
    assert list(entities(tags)) == [(0, 2, "PER"), (3, 4, "PER"), (4, 6, "LOC")]


# CoNLL files


@pytest.mark.parametrize(
    ("pattern", "n_sentences", "n_tokens", "n_entities"),
    [
        ("wnut17/wnut17train.conll", 3_394, 62_730, 1_975),  # some borders are lines with a TAB
        ("wnut17/emerging.dev.conll", 1_009, 15_733, 836),
        ("wnut17/emerging.test.annotated", 1_287, 23_394, 1_079),
        ("wikigold/wikigold.conll.txt", 1_696, 39_007, 3_558),  # IO
        ("bc5cdr/test.tsv", 4_797, 124_750, 9_809),
        ("crossner/*.txt", None, None, 31_187),
    ],
)
def test_published_corpora_have_the_sizes_they_are_known_for(
    shared_data, pattern, n_sentences, n_tokens, n_entities
):
    docs = list(ConllCorpus(shared_data / pattern).docs(NLP))
    assert n_sentences in (None, len(docs))
    assert n_tokens in (None, sum(map(len, docs)))
    assert sum(len(doc.ents) for doc in docs) == n_entities
    longer = ConllCorpus(shared_data / pattern, n_sents=10).docs(NLP)
    assert sum(len(doc.ents) for doc in longer) == n_entities  # none crosses a border


@pytest.mark.parametrize(
    "name", ["wnut17/emerging.dev.conll", "crossner/music_test.txt", "bc5cdr/devel.tsv"]
)
def test_it_reads_what_spacys_own_converter_reads(shared_data, name):
    text = (shared_data / name).read_text(encoding="utf8")
    theirs = conll_ner_to_docs(text, n_sents=1, no_print=True)
    for ours, their in zip(ConllCorpus(shared_data / name).docs(NLP), theirs, strict=True):
        assert [token.text for token in ours] == [token.text for token in their]
        assert ents(ours) == ents(their)


CONLL = """-DOCSTART- -X- -X- O

Jane NNP B-NP B-PER
\u00a0 SP I-NP I-PER
Austen NNP I-NP L-PER
\t
and  CC O O
-DOCSTART- -X- -X- O
Bath NNP B-NP U-LOC
is VBZ O -
\u2028 SP O O"""


def test_columns_borders_and_odd_tokens(tmp_path):
    path = write(tmp_path / "a.conll", CONLL)
    documents = list(conll_documents(path))
    assert [[len(sentence) for sentence in document] for document in documents] == [[3, 1], [3]]
    assert documents[1][0][2] == ("\u2028", "O")
    whole = list(ConllCorpus(path, n_sents=0).docs(NLP))
    assert list(map(ents, whole)) == [[(0, 3, "PER")], [(0, 1, "LOC")]]
    for newline in ("\n", "\r\n"):
        path = write(tmp_path / "b.conll", "\ufeff" + CONLL.replace("\n", newline))
        sentences = list(ConllCorpus(path).docs(NLP))
        assert [len(doc) for doc in sentences] == [3, 1, 3]
        assert sentences[0][0].text == "Jane"


def test_labels_are_renamed_or_left_unannotated(tmp_path):
    path = write(tmp_path / "a.conll", "Ann B-person\nate O\nan B-food\negg I-food\n? -\n")
    corpus = ConllCorpus(path, labels={"person": "PER"})
    for example in corpus(NLP):
        assert example.get_aligned_ner() == ["U-PER", "O", None, None, None]
    assert corpus.left_out == {"food": 1}
    (example,) = ConllCorpus(path)(NLP)
    assert example.get_aligned_ner() == ["U-person", "O", "B-food", "L-food", None]
    (doc,) = DocBin(docs=[example.reference]).get_docs(NLP.vocab)
    assert [token.ent_iob_ for token in doc] == ["B", "O", "B", "I", ""]


def test_guessed_spaces_make_a_text_that_is_tokenised_anew(tmp_path):
    lines = (
        "He O\nsaid O\n: O\n\" O\nDo O\nn't O\nask O\nAnn B-PER\n's I-PER\n( O\ndog O\n) O\n\" O\n"
    )
    path = write(tmp_path / "a.conll", lines)
    (plain,), (guessed,) = (ConllCorpus(path, guess_spaces=g)(NLP) for g in (False, True))
    assert guessed.text == "He said: \"Don't ask Ann's (dog)\""
    assert guessed.get_aligned_ner() == plain.get_aligned_ner()
    assert [token.text for token in plain.predicted] == lines.split()[::2]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("Ann B-PER\nate\n", {}, "line 2: 'ate' is not a token and, in the last column, a tag"),
        ("Ann\tB-PER\n\tO\n", {}, "line 2"),
        ("Ann B-PER\nate VBD\n", {}, "line 2: 'VBD' is no tag"),
        ("Ann B-\n", {}, "line 1: 'B-' is no tag"),
        (b"Ann B-PER\n\nJos\xe9 B-PER\n", {}, r"line 3: not UTF-8 \(byte 3 is 0xe9\).*iconv"),
        ("Ann B-PER\n", {"n_sents": 0}, "no -DOCSTART- lines.*n_sents"),
    ],
)
def test_bad_conll_files(tmp_path, text, settings, message):
    path = write(tmp_path / "bad.conll", text)
    with pytest.raises(ValueError, match=message) as error:
        list(ConllCorpus(path, **settings).docs(NLP))
    assert str(path) in str(error.value)


def test_paths_that_name_no_file(tmp_path):
    for path, message in [(None, "E913"), (tmp_path, "is a folder"), (tmp_path / "*.x", "no file")]:
        with pytest.raises(ValueError, match=message):
            ConllCorpus(path)
    write(tmp_path / "a[1].x", "Ann B-PER\n")
    write(tmp_path / "b.x", "Bea B-PER\n")
    assert len(ConllCorpus(tmp_path / "*.x").files) == 2
    assert len(ConllCorpus(tmp_path / "a[1].x").files) == 1


# Tables


def test_banking77(shared_data):
    corpus = TableCorpus(shared_data / "banking77" / "train.csv", label="category")
    docs = list(corpus.docs(NLP))
    with (shared_data / "banking77" / "train.csv").open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(docs) == len(rows) == 10_003
    assert sum("\n" in doc.text for doc in docs) == 10
    names = set(json.loads((shared_data / "banking77" / "categories.json").read_text()))
    for doc, row in zip(docs, rows, strict=True):
        assert doc.text == row["text"]
        assert {label for label, value in doc.cats.items() if value} == {row["category"]}
        assert set(doc.cats) == names


def test_goemotions(shared_data):
    folder = shared_data / "goemotions"
    docs = list(
        TableCorpus(
            folder / "train.tsv",
            text=0,
            label=1,
            separator=",",
            label_names=folder / "labels.txt",
        ).docs(NLP)
    )
    assert len(docs) == 43_410
    assert sum(sum(doc.cats.values()) > 1 for doc in docs) == 7_102
    assert sum(doc.cats["neutral"] for doc in docs) == 14_219
    assert sum(doc.cats["grief"] for doc in docs) == 77
    assert sum(doc.text.startswith('"') and doc.text.endswith('"') for doc in docs) < 100
    assert list(docs[0].cats) == (folder / "labels.txt").read_text().split()


def cats(corpus: TableCorpus) -> list[tuple[str, dict[str, float]]]:
    return [(doc.text, doc.cats) for doc in corpus.docs(NLP)]


CSV = 'id,text,label\r\n1,"a ""good"",\r\nfilm",pos\r\n\r\n2,bad,neg\r\n3," ",neg\r\n4,so-so,\r\n'
READ = [('a "good",\r\nfilm', {"neg": 0.0, "pos": 1.0}), ("bad", {"neg": 1.0, "pos": 0.0})]


def test_csv(tmp_path):
    corpus = TableCorpus(write(tmp_path / "a.csv", CSV))
    assert cats(corpus) == READ
    assert corpus.skipped == {"no text": 1, "no class": 1}
    assert len(cats(TableCorpus(tmp_path / "a.csv", limit=1))) == 1
    tabbed = write(tmp_path / "a.txt", CSV.replace(",", ";").replace(';"";', "\t"))
    assert cats(TableCorpus(tabbed, delimiter=";"))[1] == READ[1]


def test_quotes_may_be_text(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"5" it said\tone\nsix\ttwo\n')
    with pytest.raises(ValueError, match=r"line 2: .*set quotes to false"):
        cats(TableCorpus(path))
    assert [text for text, _ in cats(TableCorpus(path, quotes=False))] == ['"5" it said', "six"]


@pytest.mark.parametrize("kind", ["tsv", "parquet"])
def test_any_number_of_classes_by_number_or_name(tmp_path, kind):
    names = write(tmp_path / "names.txt", "joy\nfear\nlove\n")
    values = [["0", "love"], [], ["1"], None]
    if kind == "parquet":
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"x": ["a", "b", "c", "d"], "y": values}), path)
        settings = {"text": "x", "label": "y"}
    else:
        path = write(tmp_path / "a.tsv", "a\t0, love\nb\t\nc\t1\n")
        settings = {"text": 0, "label": 1, "separator": ","}
    corpus = TableCorpus(path, **settings, label_names=names)
    expected = {"a": {"joy", "love"}, "b": set(), "c": {"fear"}}
    found_here = cats(corpus)
    assert {text: {k for k, v in of.items() if v} for text, of in found_here} == expected
    assert all(list(of) == ["joy", "fear", "love"] for _, of in found_here)
    assert corpus.skipped == ({"no class": 1} if kind == "parquet" else {})
    fewer = TableCorpus(path, **settings, label_names=names, labels={"joy": "+", "love": "+"})
    assert dict(cats(fewer)) == {"a": {"+": 1.0}, "b": {"+": 0.0}, "c": {"+": 0.0}}
    assert fewer.left_out == {"fear": 1}


def test_parquet_is_read_as_csv_is(tmp_path):
    table = pa.table(
        {
            "text": ['a "good",\r\nfilm', "bad", " ", "so-so", None],
            "label": pa.array(["pos", "neg", "neg", None, "neg"]).dictionary_encode(),
            "other": [{"x": 1}] * 5,
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    corpus = TableCorpus(tmp_path / "a.parquet")
    assert cats(corpus) == READ
    assert corpus.skipped == {"no text": 2, "no class": 1}


def test_exclusive_classes_that_are_left_out_take_their_documents_along(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na,joy\nb,fear\nc,neutral\n")
    corpus = TableCorpus(path, labels={"joy": "POS", "fear": "NEG"})
    assert cats(corpus) == [("a", {"NEG": 0.0, "POS": 1.0}), ("b", {"NEG": 1.0, "POS": 0.0})]
    assert corpus.left_out == {"neutral": 1}
    assert corpus.skipped == {"a class that is left out": 1}


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("a,b\n1,2\n", {}, "has no column 'text'. It has 'a', 'b'"),
        ("text,label\na,x\nb\n", {}, "line 3: there are 1 columns"),
        ('text,label\na,x\n"b,y\n', {}, "line 3: unexpected end of data"),
        (b"text,label\na,x\n\xff,y\n", {}, "line 3: not UTF-8"),
        ("text,label\na,z\n", {"label_names": "NAMES"}, "line 2: the class 'z' is none of the 2"),
        ("text,label\na,2\n", {"label_names": "NAMES"}, "line 2: the class '2' is none of the 2"),
        ("text,label\n" + "a " * 600_000 + ",x\n", {}, r"line 2: \[E088\]"),
    ],
)
def test_bad_tables(tmp_path, text, settings, message):
    path = write(tmp_path / "bad.csv", text)
    if "label_names" in settings:
        settings = {"label_names": write(tmp_path / "names.txt", "x\ny\n")}
    with pytest.raises(ValueError, match=message) as error:
        list(TableCorpus(path, **settings).docs(NLP))
    assert str(path) in str(error.value)


def test_bad_settings(tmp_path):
    path = write(tmp_path / "a.csv", CSV)
    twice = write(tmp_path / "names.json", '["x", "y", "x"]')
    for settings, message in [
        ({"text": 0}, "name all, or number all"),
        ({"delimiter": "||"}, "must be one character"),
        ({"label_names": twice}, "every class once"),
    ]:
        with pytest.raises(ValueError, match=message):
            TableCorpus(path, **settings)
    pq.write_table(pa.table({"text": [b"a"], "label": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"row 1: b'a' is no text"):
        list(TableCorpus(tmp_path / "a.parquet").docs(NLP))


# In a config, and as a command


def conll_of_the_sentences(path: Path) -> Path:
    lines = []
    for marked, _, _ in SENTENCES:
        text, spans = parse(marked)
        doc = NLP.make_doc(text)
        doc.ents = [doc.char_span(*span) for span in spans]
        for token in doc:
            label = f"-{token.ent_type_}" if token.ent_type else ""
            lines.append(f"{token.text}\t{token.ent_iob_}{label}\n")
        lines.append("\n")
    return write(path, "".join(lines))


def csv_of_the_sentences(path: Path) -> Path:
    rows = (f'"{text}",{sentiment}\n' for text, (_, sentiment, _) in zip(TEXTS, SENTENCES))
    return write(path, "text,label\n" + "".join(rows))


def test_readers_are_settings_of_a_config(tmp_path):
    config = f"""
[conll]
@readers = "spacy-albert.ConllCorpus.v1"
path = "{conll_of_the_sentences(tmp_path / "a.conll")}"
labels = {{"PER": "person"}}
limit = 2

[table]
@readers = "spacy-albert.TableCorpus.v1"
path = "{write(tmp_path / "a.tsv", "so good" + chr(9) + "0" + chr(10))}"
text = 0
label = 1
label_names = "{write(tmp_path / "names.txt", "good" + chr(10) + "bad" + chr(10))}"
"""
    readers = registry.resolve(spacy.util.Config().from_str(config))
    first, second = readers["conll"](NLP)
    assert first.get_aligned_ner()[:3] == ["B-person", "L-person", "O"]
    assert set(second.get_aligned_ner()) == {"O", None}
    (example,) = readers["table"](NLP)
    assert example.reference.cats == {"good": 1.0, "bad": 0.0}


def command(*args: object) -> str:
    result = CliRunner().invoke(albert_cli, ["corpus", *map(str, args)])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_the_command_writes_what_the_readers_read(tmp_path):
    conll = conll_of_the_sentences(tmp_path / "a.conll")
    output = command(conll, tmp_path / "a.spacy", "--label", "PER=person", "--label", "LOC")
    assert "10 documents, 74 tokens" in output
    assert "Labels: person 5, LOC 4" in output
    assert "Left unannotated: ORG 2" in output
    expected = ConllCorpus(conll, labels={"PER": "person", "LOC": "LOC"})(NLP)
    for ours, theirs in zip(Corpus(tmp_path / "a.spacy")(NLP), expected, strict=True):
        assert ours.get_aligned_ner() == theirs.get_aligned_ner()
    output = command(write(tmp_path / "b.csv", CSV), tmp_path / "b.spacy")
    assert "2 documents" in output
    assert "Labels: neg 1, pos 1" in output
    assert "Rows skipped: no text 1, no class 1" in output
    read = [(eg.text, eg.reference.cats) for eg in Corpus(tmp_path / "b.spacy")(NLP)]
    assert read == READ
    by_number = write(tmp_path / "c.txt", '0\tx|y\t"a\n1\t\tb\n')
    command(
        *(by_number, tmp_path / "c.spacy", "--task", "textcat", "--text-column", 2),
        *("--label-column", 1, "--separator", "|", "--no-quotes"),
    )
    read = [(eg.text, eg.reference.cats) for eg in Corpus(tmp_path / "c.spacy")(NLP)]
    assert read == [('"a', {"x": 1.0, "y": 1.0}), ("b", {"x": 0.0, "y": 0.0})]


def test_what_the_command_refuses(tmp_path):
    conll = conll_of_the_sentences(tmp_path / "a.conll")
    empty = write(tmp_path / "empty.conll", "\n\n")
    taken = write(tmp_path / "taken.spacy", "x")
    for args, message in [
        ((conll, "out.bin"), "must end in .spacy"),
        ((conll, taken), "--force"),
        ((tmp_path / "no.conll", "out.spacy"), "There is no file"),
        ((empty, "out.spacy"), "no annotated documents"),
        ((conll, "out.spacy", "--task", "textcat"), "no column"),
    ]:
        result = CliRunner().invoke(albert_cli, ["corpus", *map(str, args)])
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())
    assert not Path("out.spacy").exists()
    command(conll, taken, "--force")


# Several tasks, each with a corpus of its own


def test_one_encoder_learns_from_corpora_annotated_for_one_task_each(tiny_spm, tmp_path):
    """Both corpora in one folder, as docs/training.md has it."""
    folder = tmp_path / "train"
    folder.mkdir()
    command(conll_of_the_sentences(tmp_path / "a.conll"), folder / "ner.spacy")
    command(csv_of_the_sentences(tmp_path / "a.csv"), folder / "textcat.spacy")
    config = blank(write(tmp_path / "spiece.model", tiny_spm), ["ner", "textcat"]).config
    config["paths"] |= {"train": str(folder), "dev": str(folder)}
    config["training"] |= {
        "max_steps": 150,
        "eval_frequency": 50,
        "optimizer": {"@optimizers": "Adam.v1", "learn_rate": 0.003},
    }
    config.to_disk(tmp_path / "train.cfg")
    train(tmp_path / "train.cfg", tmp_path / "out")
    nlp = spacy.load(tmp_path / "out" / "model-best")
    assert [found(nlp, text) for text in TEXTS] == [gold(nlp, row) for row in range(len(TEXTS))]
    assert nlp.meta["performance"]["ents_f"] == nlp.meta["performance"]["cats_score"] == 1.0
    counts = Counter(bool(eg.reference.cats) for eg in Corpus(folder)(nlp))
    assert counts == {True: 10, False: 10}
