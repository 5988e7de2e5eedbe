"""What ships in the package: the embedded pipeline and the sample collection."""

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import spacy

import spacy_albert_pipelines
from spacy_albert_pipelines import DEFAULT, resolve

ROOT = Path(spacy_albert_pipelines.__file__).parent


@pytest.fixture(scope="module")
def nlp():
    return spacy.load(resolve(DEFAULT))


def test_embedded_pipeline_is_small_and_names_no_folder_of_its_making():
    folder = resolve(DEFAULT)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 20_000_000
    paths = spacy.util.load_config(folder / "config.cfg")["paths"]
    assert set(paths.values()) == {None}


def test_embedded_pipeline_reads(nlp):
    doc = nlp("Marie Curie moved from Warsaw to Paris. A wonderful, moving film about her life.")
    assert {"Warsaw", "Paris"} & {ent.text for ent in doc.ents if ent.label_ == "LOC"}
    assert all(0 < ent._.score <= 1 for ent in doc.ents)
    assert set(nlp.get_pipe("ner").labels) == {"LOC", "MISC", "ORG", "PER"}
    assert doc.cats["POSITIVE"] + doc.cats["NEGATIVE"] == pytest.approx(1)
    good = nlp("A wonderful, funny and moving film. I loved it.").cats["POSITIVE"]
    bad = nlp("A dull, boring and stupid film. I hated it.").cats["POSITIVE"]
    assert good > bad


def test_card_has_the_figures_that_were_measured():
    folder = ROOT / DEFAULT
    card = (folder / "README.md").read_text(encoding="utf8")
    assert "…" not in card  # the mark of a figure to come
    for scores in json.loads((folder / "scores.json").read_text()).values():
        for score in scores.values():
            assert f"{100 * score:.1f}" in card


@pytest.mark.parametrize("name", ["", ".", "..", "__init__.py", "nothing", "../pipelines", "/"])
def test_nothing_else_is_found(name):
    assert resolve(name) is None


def test_configs_and_sample_are_found():
    assert resolve("ner.cfg") == ROOT / "ner.cfg"
    assert resolve("sample.parquet") == ROOT / "sample.parquet"


def test_sample_collection():
    sample = pq.read_table(resolve("sample.parquet"))
    assert sample.schema.names == ["id", "kind", "title", "text"]
    rows = sample.to_pylist()
    assert len(rows) >= 200
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)


@pytest.mark.slow
def test_a_novel_is_read_to_its_last_page(nlp, shared_data):
    chapters = {}
    with gzip.open(shared_data / "text_eltec" / "eltec_eng.jsonl.gz", "rt", encoding="utf8") as f:
        for line in f:
            chapter = json.loads(line)
            novel = chapters.setdefault(chapter["id"].split("#")[0], [])
            novel.append("\n\n".join(chapter["paragraphs"]))
    novel = next(text for text in map("\n\n".join, chapters.values()) if 5e5 < len(text) < 7e5)
    nlp.max_length = len(novel) + 1
    doc = nlp(novel)
    assert len(doc) > 300 * 300  # pages of three hundred words
    assert doc._.n_windows > 200
    page = len(novel) - 2000
    assert any(ent.start_char > page for ent in doc.ents)
    # no page is without: what is read of each part does not depend on how much comes before
    found = [ent.start_char for ent in doc.ents]
    assert all(any(i <= c < i + 50_000 for c in found) for i in range(0, page - 50_000, 50_000))
