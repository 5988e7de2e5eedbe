"""How the embedded pipeline is made: what it learns from, and what is kept from it."""

import itertools

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin

from spacy_albert.pretraining.settings import read_shape
from spacy_albert_jobs.pretrain import load_config, read_config
from spacy_albert_pipelines.en_albert_sm import build, corpora, study

NLP = spacy.blank("en")
WORDS = st.lists(st.sampled_from(["a", "film", "that", "one", "likes"]), max_size=30)


# What is in a test split is not in training


@given(WORDS, st.lists(st.sampled_from(["Dull", "bright"]), min_size=corpora.RUN), WORDS)
def test_a_run_of_words_gives_a_text_away(before, run, after):
    known = corpora.traces(" ".join(run))
    other = "\n".join([*before, *run, *after]).upper()
    assert not known.isdisjoint(corpora.traces(other))


@given(WORDS.filter(lambda words: len(words) < corpora.RUN), WORDS)
def test_a_short_text_is_given_away_by_all_of_it(words, others):
    same = " ".join(words) == " ".join(others)
    assert same or corpora.traces(" ".join(words)).isdisjoint(corpora.traces(" ".join(others)))
    assert not corpora.traces(" ".join(words)).isdisjoint(corpora.traces("  ".join(words).title()))


def docs(*texts: str) -> list[Doc]:
    return list(map(NLP.make_doc, texts))


def texts_of(sets: dict[str, corpora.Splits]) -> dict[str, dict[str, list[str]]]:
    return {name: {s: [d.text for d in of[s]] for s in of} for name, of in sets.items()}


def test_texts_are_left_out_whatever_set_they_are_in():
    quoted = "It takes a while until one sees what all of this is meant to be about."
    sets = {
        "a": {
            "train": docs("Good film!", "Good film", "new", f"He said: {quoted.lower()} I agree."),
            "dev": docs("good  film !", "middling", "so-so"),
            "test": docs("fine", "fine"),
        },
        "b": {"train": docs("Fine", "Middling", "old"), "test": docs("GOOD FILM!", quoted)},
    }
    assert texts_of(corpora.separate(sets)) == {
        "a": {"train": ["Good film", "new"], "dev": ["middling", "so-so"], "test": ["fine"] * 2},
        "b": {"train": ["old"], "dev": [], "test": ["GOOD FILM!", quoted]},
    }


def test_neither_kind_of_text_drowns_the_other():
    sets = {
        name: {split: docs(*(f"{name} {split} {i}" for i in range(n))) for split, n in sizes}
        for names, sizes in (
            (corpora.ENTITIES, (("train", 5), ("dev", 4), ("test", 3))),
            (corpora.SENTIMENT, (("train", 50), ("dev", 40), ("test", 30))),
        )
        for name in names
    }
    made = texts_of({"": corpora.together(sets)})[""]
    for split, times in (("train", corpora.TIMES), ("dev", 1), ("test", 1)):
        ents = [text for text in made[split] if text.split()[0] in corpora.ENTITIES]
        cats = [text for text in made[split] if text.split()[0] in corpora.SENTIMENT]
        expected = [doc.text for name in corpora.ENTITIES for doc in sets[name][split]]
        assert sorted(ents) == sorted(times * expected)
        assert len(cats) == len(set(cats)) == (len(ents) if split == "dev" else 10 * len(set(ents)))
        assert all(f" {split} " in text for text in made[split])


# Reviews


@given(st.lists(st.integers(1, 150), min_size=1, max_size=60))
def test_parts_are_whole_sentences_from_all_of_a_review(lengths):
    found = corpora.parts(" ".join([str(i)] * n) for i, n in enumerate(lengths))
    assert len(found) <= corpora.PARTS
    assert len(found) == corpora.PARTS or sum(lengths) <= 200 * corpora.PARTS
    said = [list(dict.fromkeys(map(int, part.split()))) for part in found]
    assert said[0][0] == 0
    assert said[-1][-1] == len(lengths) - 1
    assert all(max(before) < min(after) for before, after in itertools.pairwise(said))
    for part, numbers in zip(found, said):
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        n_words = [lengths[i] for i in numbers]
        assert len(part.split()) == sum(n_words)
        assert len(numbers) == 1 or sum(n_words) <= corpora.PART_WORDS


# The data sets themselves


@pytest.mark.slow
def test_what_is_written(shared_data, tmp_path, capsys):
    corpora.main(shared_data, tmp_path)
    assert "crossner-train: 93 texts left out" in capsys.readouterr().out
    made = {
        path.stem: list(DocBin().from_disk(path).get_docs(NLP.vocab))
        for path in tmp_path.glob("*.spacy")
    }
    assert set(build.TESTS) < made.keys()
    published = {"wnut17": 1287, "crossner": 2506, "sentence_polarity": 1066, "movie_reviews": 200}
    assert {name: len(made[f"{name}-test"]) for name in published} == published
    known: set[str] = set()
    for split in ("test", "dev", "train"):
        texts = {" ".join(doc.text.lower().split()) for doc in made[split]}
        assert known.isdisjoint(texts)
        known |= texts
        for doc in made[split]:
            is_tagged = doc.has_annotation("ENT_IOB")
            assert is_tagged == (not doc.cats)
            assert is_tagged or sorted(doc.cats.values()) == [0, 1]
    labels = {ent.label_ for doc in made["train"] for ent in doc.ents}
    assert labels == {"PER", "ORG", "LOC", "MISC"}


def test_a_film_review_that_is_there_twice(shared_data):
    """cv383 and cv986, both positive, have 56 sentences in common, and each some of its own."""
    reviews = corpora.movie_reviews(shared_data, NLP)
    beginning = "i think the first thing this reviewer should mention is wether"
    at, where = (
        [i for i, doc in enumerate(reviews[split]) if doc.text.startswith(beginning)]
        for split in ("train", "test")
    )
    assert len(at) == len(where) == 1
    twice = reviews["train"][at[0] : at[0] + corpora.PARTS]
    left = corpora.separate({"": reviews})[""]["train"]
    assert {doc.text for doc in twice}.isdisjoint(doc.text for doc in left)
    assert len(left) > 6000


# Pre-training


@pytest.mark.parametrize("shape", [None, *study.SHAPES])
def test_stages_and_shapes_are_what_can_be_pre_trained(shape):
    changes = {} if shape is None else study.settings_of(*shape, 1000)
    model, _, first = read_config(load_config(build.HERE / "pretrain_40.cfg", changes))
    made = read_shape(model, 12_000)
    model, _, second = read_config(load_config(build.HERE / "pretrain_128.cfg"))
    assert model == {}  # of the first stage
    assert first.length < second.length == made.max_position_embeddings
    assert (first.held_out, first.evaluate_on) == (second.held_out, second.evaluate_on)
    expected = shape or (256, 6, 6)
    assert (made.hidden_size, made.num_hidden_layers, made.num_hidden_groups) == expected
    assert 0 < first.warm_up < first.steps
