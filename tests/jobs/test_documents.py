"""Back into spaCy: what a job wrote, read as documents, is what the pipeline says."""

from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus
from spacy.vocab import Vocab
from tables import CODE, ruler, write
from util import TEXTS, examples, initialized, train

from spacy_albert_jobs import JobError, annotate, read_docs
from spacy_albert_jobs.documents import DocMaker
from spacy_albert_jobs.outputs import Outputs

PARAGRAPHS = [
    *TEXTS,
    "",
    " \n\t ",
    " ".join(TEXTS * 9),  # several windows
    "Michael Jane\n\nwas  in London . ",
    "👩‍👩‍👧 Jane\u0301 Austen 北京 \u200b\U0001f600 Paris",
]


@pytest.fixture(scope="module")
def albert(tiny_spm: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of three heads on one encoder that knows ten sentences."""
    folder = tmp_path_factory.mktemp("albert")
    (folder / "spiece.model").write_bytes(tiny_spm)
    nlp = initialized(folder / "spiece.model")
    train(nlp, examples(nlp))
    nlp.to_disk(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="module")
def nlp(albert: Path) -> Language:
    return spacy.load(albert)


@pytest.fixture
def annotated(albert: Path, tmp_path: Path, in_process) -> Path:
    """The output of a job over several files and shards."""
    for name, first, last in (("a", 0, 7), ("b", 7, 7), ("c/d", 7, len(PARAGRAPHS))):
        columns = {"id": range(first, last), "text": pa.array(PARAGRAPHS[first:last], pa.string())}
        write(tmp_path / "in" / f"{name}.parquet", pa.table(columns), 2)
    annotate(albert, tmp_path / "in", tmp_path / "out", shard_bytes=100, quiet=True)
    assert len(list((tmp_path / "out").glob("*.parquet"))) > 4
    return tmp_path / "out"


def as_float32(scores) -> list[float]:
    return np.array(list(scores), dtype="f").tolist()


def said(doc: Doc) -> dict:
    """All that a pipeline says of a text, with scores as the output has them."""
    group = doc.spans["ner"]
    return {
        "text": doc.text,
        "tokens": [(token.text, token.whitespace_, token.ent_iob_) for token in doc],
        "ents": [(e.start, e.end, e.label_, *as_float32([e._.score])) for e in doc.ents],
        "group": [(e.start, e.end, e.label_) for e in group],
        "scores": group.attrs["scores"].tolist(),
        "kind": group.attrs["scores"].dtype,
        "cats": list(zip(doc.cats, as_float32(doc.cats.values()))),
        "windows": doc._.n_windows,
        "annotated": doc.has_annotation("ENT_IOB"),
    }


def test_the_round_trip_is_exact(albert, nlp, tmp_path, in_process):
    """One batch, as batches of other shapes differ in the last bits of their scores."""
    write(tmp_path / "in.parquet", pa.table({"text": PARAGRAPHS}))
    annotate(albert, tmp_path / "in.parquet", tmp_path / "out", quiet=True)
    docs = list(read_docs(tmp_path / "out", nlp))
    assert [said(doc) for doc in docs] == [said(doc) for doc in nlp.pipe(PARAGRAPHS)]
    assert sum(len(doc.ents) for doc in docs) > 50
    assert list(docs[0].cats) == ["bad", "good", "book", "city", "people"]
    assert all(doc.vocab is nlp.vocab for doc in docs)


def test_shards_come_in_the_order_of_the_input(annotated, nlp):
    rows = [row for path in sorted(annotated.glob("*.parquet")) for row in rows_of(path)]
    docs = list(read_docs(annotated, nlp))
    assert [doc.text for doc in docs] == PARAGRAPHS == [row["text"] for row in rows]
    for doc, row in zip(docs, rows):
        found = [(e.start_char, e.end_char, e.label_, e.text, e._.score) for e in doc.ents]
        assert found == [tuple(ent.values()) for ent in row["ents"]]
        assert doc.spans["ner"].attrs["scores"].tolist() == [e["score"] for e in row["ents"]]
        assert doc.cats == row["cats"]
        assert (len(doc), doc._.n_windows) == (row["n_tokens"], row["n_windows"])


def rows_of(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def test_a_vocabulary_is_enough_for_the_usual_tokenizer(annotated, nlp):
    expected = [said(doc) for doc in read_docs(annotated, nlp)]
    assert [said(doc) for doc in read_docs(str(annotated), nlp.vocab)] == expected
    other = spacy.blank("en").vocab
    docs = list(read_docs(annotated.as_uri(), other))
    assert [said(doc) for doc in docs] == expected
    assert docs[0].vocab is other


def test_tuples_and_addresses(annotated, nlp, tmp_path):
    pairs = list(read_docs(annotated, nlp, as_tuples=True))
    assert [row["id"] for _, row in pairs] == list(range(len(PARAGRAPHS)))
    for doc, row in pairs:
        assert row.keys() == {"id", "cat", "error"}
        assert row["cat"] == max(("bad", "good"), key=doc.cats.__getitem__)
        assert row["error"] is None
        texts = pq.read_table(tmp_path / "in" / doc.user_data["file"])["text"].to_pylist()
        assert texts[doc.user_data["row"]] == doc.text


def test_spacy_trains_on_what_was_read(annotated, nlp, tmp_path):
    path = tmp_path / "train.spacy"
    DocBin(docs=read_docs(annotated, nlp.vocab)).to_disk(path)
    scores = nlp.evaluate(list(Corpus(path)(nlp)))
    assert scores["ents_f"] == 1.0
    student = spacy.blank("en")
    student.add_pipe("ner")
    gold = list(Corpus(path)(student))
    assert len(gold) == len(PARAGRAPHS) - 1  # spaCy passes over the empty text
    student.initialize(lambda: gold)
    losses = [student.update(gold)["ner"] for _ in range(20)]
    assert losses[-1] < losses[0] / 2


def test_a_pipeline_that_gives_no_scores(pipeline, collection, tmp_path, in_process):
    annotate(pipeline, collection, tmp_path / "out", shard_bytes=1000, quiet=True)
    nlp = spacy.load(pipeline)
    texts = [text for path in sorted_files(collection) for text in column(path, "text")]
    docs = list(read_docs(tmp_path / "out", nlp))
    assert [doc.text for doc in docs] == texts
    for doc, other in zip(docs, nlp.pipe(texts)):
        assert [(e.start, e.end, e.label_) for e in doc.ents] == [
            (e.start, e.end, e.label_) for e in other.ents
        ]
        assert all(ent._.score is None for ent in doc.ents)
        assert not doc.cats
        assert len(doc.spans["ner"]) == 0
    (doc,) = islice(read_docs(tmp_path / "out", nlp, spans_key=None), 1)
    assert not doc.spans
    (doc,) = islice(read_docs(tmp_path / "out", nlp, spans_key="entities"), 1)
    assert list(doc.spans) == ["entities"]


def sorted_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"), key=lambda path: path.relative_to(folder).parts)


def column(path: Path, name: str) -> list:
    return pq.read_table(path)[name].to_pylist()


def test_rows_with_errors(stumbler, tmp_path, in_process):
    texts = [b"Obama in Paris", None, b"\xffParis", b"STUMBLE Obama", b"", b"Paris"]
    write(tmp_path / "in.parquet", pa.table({"text": pa.array(texts, pa.binary())}))
    annotate(stumbler, tmp_path / "in.parquet", tmp_path / "out", code=CODE, quiet=True)
    nlp = ruler()
    docs = list(read_docs(tmp_path / "out", nlp))
    assert [doc.text for doc in docs] == ["Obama in Paris", "", "Paris"]
    assert [doc.user_data["row"] for doc in docs] == [0, 4, 5]
    docs = read_docs(tmp_path / "out", nlp, errors="raise")
    assert next(docs).text == "Obama in Paris"
    with pytest.raises(JobError, match=r"Row 1 of .*part-0.* could not be annotated: no text"):
        next(docs)
    kept = list(read_docs(tmp_path / "out", nlp, errors="keep", as_tuples=True))
    assert [doc.text for doc, _ in kept] == [
        "Obama in Paris",
        "",
        "\N{REPLACEMENT CHARACTER}Paris",
        "STUMBLE Obama",
        "",
        "Paris",
    ]
    bad = [doc for doc, row in kept if row["error"]]
    assert len(bad) == 3
    assert not any(doc.ents or doc.cats or doc.spans for doc in bad)
    assert not any(token.ent_iob for doc in bad for token in doc)  # not said to be outside, either
    assert kept[3][1]["error"] == "ValueError in 'stumble': cannot read STUMBLE"


def test_what_is_refused_at_once(pipeline, collection, tmp_path, in_process):
    out = tmp_path / "out"
    annotate(pipeline, collection, out, keep=["id"], quiet=True)
    vocab = spacy.blank("en").vocab
    with pytest.raises(
        JobError, match=r"out does not hold the texts: .*'text' was not kept.*--keep"
    ):
        read_docs(out, vocab)
    annotate(pipeline, collection, out, overwrite=True, quiet=True)
    with pytest.raises(JobError, match=r"errors must be one of skip, raise, keep, not 'ignore'"):
        read_docs(out, vocab, errors="ignore")
    with pytest.raises(JobError, match=r"of no language.*give the pipeline"):
        read_docs(out, Vocab())
    with pytest.raises(JobError, match="has not been written by annotate"):
        read_docs(tmp_path / "nowhere", vocab)
    (out / "_SUCCESS").unlink()
    with pytest.raises(JobError, match=r"is not finished.*The same command"):
        read_docs(out, vocab)


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_files_that_are_not_as_they_were(pipeline, collection, tmp_path, in_process, damage):
    out = tmp_path / "out"
    annotate(pipeline, collection, out, shard_bytes=1000, quiet=True)
    files = sorted(out.glob("*.parquet"))
    nlp = ruler()
    docs = read_docs(out, nlp)
    assert next(docs).text
    if damage == "missing":
        files[-1].unlink()
    elif damage == "truncated":
        files[-1].write_bytes(files[-1].read_bytes()[:-9])
    else:
        write(files[-1], pq.read_table(files[-1]))
    with pytest.raises(JobError, match=rf"{files[-1].name} is missing or damaged.*verify"):
        list(docs)
    expected = [text for path in files[:-1] for text in column(path, "text")]
    assert len(expected) > 400  # all that came before has been read


def test_damaged_pages(pipeline, tmp_path, in_process):
    texts = [f"Obama {number} " * 50 for number in range(200)]
    write(tmp_path / "in.parquet", pa.table({"text": texts}))
    annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out", quiet=True)
    (path,) = (tmp_path / "out").glob("*.parquet")
    content = bytearray(path.read_bytes())
    content[300] ^= 255
    path.write_bytes(content)
    with pytest.raises(JobError, match=rf"{path.name} cannot be read: "):
        list(read_docs(tmp_path / "out", ruler()))


def test_another_tokenizer_is_noticed(tmp_path, in_process):
    nlp = ruler()
    nlp.tokenizer.add_special_case("Parisian", [{"ORTH": "Paris"}, {"ORTH": "ian"}])
    nlp.to_disk(tmp_path / "special")
    texts = ["Obama in Paris", "Obama in Parisian words"]
    write(tmp_path / "in.parquet", pa.table({"text": texts}))
    annotate(tmp_path / "special", tmp_path / "in.parquet", tmp_path / "out", quiet=True)
    docs = list(read_docs(tmp_path / "out", spacy.load(tmp_path / "special")))
    assert [ent.text for doc in docs for ent in doc.ents] == ["Obama", "Paris"] * 2
    docs = read_docs(tmp_path / "out", nlp.vocab)
    assert next(docs).text == texts[0]
    with pytest.raises(
        JobError, match=r"Row 1 of .*parquet: its text has 4 tokens, and had 5.*nlp"
    ):
        next(docs)

    def as_many(text: str) -> Doc:
        words = ["Obama", "in", "Par", "isian", "words"]
        return Doc(nlp.vocab, words, [True, True, False, True, False])

    maker = DocMaker(as_many, "ner")
    row = pq.read_table(tmp_path / "out").to_pylist()[1]
    with pytest.raises(ValueError, match=r"its entity 'Paris', at characters 9 to 14, is not made"):
        maker.annotated(texts[1], row)


@given(
    text=st.lists(st.text() | st.sampled_from(["Obama", "Paris", " ", "\n", "'s", "e\u0301"])).map(
        "".join
    )
)
def test_any_text(text):
    """What a row says of a text fits it again, wherever its entities are."""
    nlp = ANY
    before = nlp(text)
    (row,) = pa.array([Outputs.of(nlp).row(before, text)], OUTPUTS).to_pylist()
    after = DocMaker(nlp.tokenizer, "ner").annotated(text, row)
    assert after.text == text
    assert [(e.start_char, e.end_char, e.label_) for e in after.ents] == [
        (e.start_char, e.end_char, e.label_) for e in before.ents
    ]
    assert [token.ent_iob for token in after] == [token.ent_iob for token in before]


ANY = ruler()
OUTPUTS = pa.struct(Outputs.of(ANY).fields())


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("lang", pa.string(), ["en", "d/e", None, ""]),
        ("lang", pa.dictionary(pa.int8(), pa.string()), ["en", "de", None, "en"]),
        ("year", pa.int32(), [2024, -1, None, 0]),
        ("good", pa.bool_(), [True, False, None, True]),
    ],
)
def test_partitioned_output(pipeline, tmp_path, in_process, name, kind, values):
    texts = [f"Obama went to Paris {number} times" for number in range(40)]
    table = pa.table({"id": range(40), "text": texts, name: pa.array(values * 10, kind)})
    write(tmp_path / "in.parquet", table, 10)
    out = tmp_path / "out"
    annotate(
        pipeline, tmp_path / "in.parquet", out, partition_by=[name], shard_bytes=500, quiet=True
    )
    rows = [
        (row["id"], doc.text, row[name]) for doc, row in read_docs(out, ruler(), as_tuples=True)
    ]
    ids = [number for number, _, _ in rows]
    assert ids != sorted(ids)
    for value in set(values):  # in the order of the input, in each folder
        numbers = [number for number, _, other in rows if other == value]
        assert numbers == sorted(numbers)
    assert sorted(rows) == list(zip(range(40), texts, values * 10))
    doc = next(read_docs(out, ruler()))
    assert doc.user_data == {"file": "in.parquet"}


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.string_view(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_binary()),
    ],
)
def test_kinds_of_texts(pipeline, tmp_path, in_process, kind):
    texts = ["Obama", "Paris é", "Obama", None]
    values = [t and t.encode() for t in texts] if "binary" in str(kind) else texts
    write(tmp_path / "in.parquet", pa.table({"text": pa.array(values, kind)}))
    annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out", quiet=True)
    assert [doc.text for doc in read_docs(tmp_path / "out", ruler())] == texts[:3]


def test_memory_does_not_grow_with_the_output(pipeline, tmp_path, in_process):
    """80 MB of text in one shard, and what Arrow holds of it at a time."""
    texts = [f"Obama {number}" + " " * 20_000 for number in range(4000)]
    write(tmp_path / "in.parquet", pa.table({"text": texts}), 4000)
    annotate(pipeline, tmp_path / "in.parquet", tmp_path / "out", shard_bytes=1 << 30, quiet=True)
    del texts
    before = pa.total_allocated_bytes()
    peak = rows = 0
    for _ in read_docs(tmp_path / "out", ruler()):
        peak = max(peak, pa.total_allocated_bytes() - before)
        rows += 1
    assert rows == 4000
    assert peak < 32 << 20


def test_a_memory_zone_clears_the_vocabulary(annotated):
    nlp = spacy.blank("en")
    docs = read_docs(annotated, nlp)
    lengths = []
    for _ in range(2):
        with nlp.memory_zone():
            lengths += [len(doc) for doc in islice(docs, 5)]
    size = len(nlp.vocab.strings)
    with nlp.memory_zone():
        lengths += [len(doc) for doc in docs]
    assert len(nlp.vocab.strings) == size
    assert lengths == [len(doc) for doc in read_docs(annotated, spacy.blank("en"))]
