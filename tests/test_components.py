"""The trained components in use: annotation, errors, sharing, saving."""

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import ignore_error
from util import FACTORIES, LABELS, TEXTS, blank, equal, examples, initialized, train, weights

from spacy_albert import engine
from spacy_albert.architectures import albert, albert_listener, text_classifier, token_classifier
from spacy_albert.components.encoder import AlbertEncoder
from spacy_albert.components.ner import AlbertNER
from spacy_albert.components.pipe import held_back, look_ahead
from spacy_albert.engine import PRECISIONS, Engine
from spacy_albert.layers import AlbertListener
from spacy_albert.tokenization import SentencePieceTokenizer


@pytest.fixture(scope="module")
def vocabulary(tiny_spm: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    path.write_bytes(tiny_spm)
    return path


@pytest.fixture(scope="module")
def trained(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of three heads on one encoder that knows the ten sentences."""
    nlp = initialized(vocabulary)
    train(nlp, examples(nlp))
    path = tmp_path_factory.mktemp("trained")
    nlp.to_disk(path)
    return path


@pytest.fixture
def nlp(trained: Path) -> Language:
    return spacy.load(trained)


MANY = [
    *TEXTS,
    "",
    " ",
    "\n\n \t",
    "​",
    " ".join(TEXTS),
    "Google",
    " ".join(TEXTS * 7),
    "Michael Jane\n\nwas  in London . ",
]


class Annotation(dict):
    """What our components say of a document; two are equal if their scores are close."""

    tolerance = 1e-5
    SCORES = ("scores", "entity scores", "cats")

    def __eq__(self, other):
        facts = self.keys() - self.SCORES
        return all(self[key] == other[key] for key in facts) and all(
            self[key] == pytest.approx(other[key], abs=self.tolerance) for key in self.SCORES
        )


def annotation(doc: Doc) -> Annotation:
    return Annotation({
        "text": doc.text,
        "ents": [(ent.start, ent.end, ent.label_) for ent in doc.ents],
        "spans": [(span.start, span.end, span.label_) for span in doc.spans["ner"]],
        "windows": doc._.n_windows,
        "scores": doc.spans["ner"].attrs["scores"].tolist(),
        "entity scores": [ent._.score for ent in doc.ents],
        "cats": doc.cats,
    })  # fmt: skip


def close(scores):
    return pytest.approx(scores, abs=1e-5)


def entities(doc: Doc) -> list[tuple[str, str]]:
    return [(ent.text, ent.label_) for ent in doc.ents]


# Annotation does not depend on company, or on who computes


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_document_says_the_same_in_any_batch_and_order(trained, monkeypatch, precision):
    monkeypatch.setattr(Annotation, "tolerance", 1e-5 if precision == "float32" else 1e-3)
    nlp = spacy.load(trained, config={"components.albert.model.precision": precision})
    alone = [annotation(nlp(text)) for text in MANY]
    assert alone[0]["ents"] == [(0, 2, "PER"), (4, 5, "LOC")]
    for size in (1, 3, 1000):
        assert [annotation(doc) for doc in nlp.pipe(MANY, batch_size=size)] == alone
    assert [annotation(doc) for doc in nlp.pipe(MANY[::-1])] == alone[::-1]
    made = (nlp.make_doc(text) for text in MANY)
    assert [annotation(doc) for doc in nlp.pipe(made, batch_size=4)] == alone
    pairs = list(nlp.pipe(zip(MANY, range(len(MANY))), as_tuples=True, batch_size=4))
    assert [annotation(doc) for doc, _ in pairs] == alone
    assert [number for _, number in pairs] == list(range(len(MANY)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_torch_says_what_openvino_says(trained, monkeypatch, precision):
    # what hangs in the balance may tip in bfloat16: there, only what has been learned
    texts, tolerance = (MANY, 1e-5) if precision == "float32" else (TEXTS, 0.01)
    monkeypatch.setattr(Annotation, "tolerance", tolerance)
    config = {"components.albert.model.precision": precision}
    theirs = [annotation(doc) for doc in spacy.load(trained, config=config).pipe(texts)]
    monkeypatch.setattr(engine, "choose_on_cpu", lambda *wish: engine.Choice(*wish, "torch", ""))
    ours = [annotation(doc) for doc in spacy.load(trained, config=config).pipe(texts)]
    assert ours == theirs


def test_the_budget_of_pieces_changes_nothing(trained):
    few, many = (
        spacy.load(trained, config={"components.albert.model.batch_pieces": budget})
        for budget in (200, 100_000)
    )
    assert few.get_pipe("albert").model.shims[0].reader.engine.budget(200) == 200
    said = [[annotation(doc) for doc in nlp.pipe(MANY)] for nlp in (few, many)]
    assert said[0] == said[1]


def test_two_processes_say_what_one_says(nlp):
    expected = [annotation(doc) for doc in nlp.pipe(MANY)]
    assert [annotation(doc) for doc in nlp.pipe(MANY, n_process=2, batch_size=3)] == expected


def test_documents_without_words_are_annotated_too(nlp):
    for doc in nlp.pipe(["", " ", "\n\n \t"]):
        assert doc.ents == ()
        assert len(doc.spans["ner"]) == 0
        assert set(doc.cats) == {*LABELS["textcat"], *LABELS["topics"]}
        assert sum(doc.cats[label] for label in LABELS["textcat"]) == pytest.approx(1, abs=1e-5)
        assert doc._.n_windows == 1
    assert list(nlp.pipe([])) == []
    assert nlp.get_pipe("ner").predict([]) == nlp.get_pipe("textcat").predict([]) == []


def test_the_end_of_a_novel_is_read(nlp):
    pages = " ".join(TEXTS * 1200)
    assert len(pages) > 400_000
    doc = nlp(pages)
    assert doc._.n_windows > 400
    assert max(ent.end for ent in doc.ents) > len(doc) - 100
    by_tenth = np.histogram([ent.start for ent in doc.ents], 10, (0, len(doc)))[0]
    assert by_tenth.min() > 0.7 * by_tenth.max()


# One reading serves all, and is gone after


def engine_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    run = Engine.__call__

    def counted(self, ids, lengths, *args):
        calls.append(len(lengths))
        return run(self, ids, lengths, *args)

    monkeypatch.setattr(Engine, "__call__", counted)
    return calls


def test_a_batch_is_begun_before_the_last_one_is_awaited(nlp, monkeypatch):
    """As on a GPU, which computes while the next documents are prepared."""
    expected = [annotation(doc) for doc in nlp.pipe(MANY)]
    begin, events = AlbertEncoder.start, []

    def start(self, docs):
        events.append(f"begin {len(docs)}")
        finish = begin(self, docs)
        return lambda: (events.append(f"await {len(docs)}"), finish())[1]

    monkeypatch.setattr(AlbertEncoder, "start", start)
    monkeypatch.setattr(AlbertEncoder, "runs_ahead", True)
    assert [annotation(doc) for doc in nlp.pipe(MANY[:8], batch_size=3)] == expected[:8]
    assert events == ["begin 3", "begin 3", "await 3", "begin 2", "await 3", "await 2"]


@given(
    st.lists(st.integers(0, 9), max_size=30),
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(0, 3),
)
def test_looking_ahead_has_two_limits_and_keeps_the_order(sizes, n_docs, n_tokens, n_held):
    stream = [range(size) for size in sizes]
    batches = list(held_back(look_ahead(stream, n_docs, n_tokens), n_held))
    assert [doc for batch in batches for doc in batch] == stream
    for number, batch in enumerate(batches):
        lengths = [len(doc) for doc in batch]
        assert 0 < len(batch) <= n_docs
        assert sum(lengths[:-1]) < n_tokens
        full = len(batch) == n_docs or sum(lengths) >= n_tokens
        assert full or number == len(batches) - 1


def test_three_heads_share_one_reading(nlp, monkeypatch):
    calls = engine_calls(monkeypatch)
    list(nlp.pipe(TEXTS))
    assert calls == [len(TEXTS)]
    nlp(TEXTS[0])
    assert calls == [len(TEXTS), 1]


def test_an_encoder_without_listeners_does_not_read(nlp, monkeypatch):
    calls = engine_calls(monkeypatch)
    for name in FACTORIES:
        nlp.remove_pipe(name)
    assert len(list(nlp.pipe(TEXTS))) == len(TEXTS)
    assert calls == []


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_nothing_of_a_batch_outlives_it(nlp):
    list(nlp.pipe(TEXTS))
    before = live_tensors()
    docs = list(nlp.pipe(MANY, batch_size=5))
    listeners = nlp.get_pipe("albert").listeners
    assert len(listeners) == 3
    assert all(len(listener.answers) == 0 for listener in listeners)
    assert live_tensors() == before
    with nlp.select_pipes(disable="ner"):
        docs = list(nlp.pipe(MANY))
    assert sum(len(listener.answers) for listener in listeners) == len(MANY)
    del docs
    gc.collect()
    assert sum(len(listener.answers) for listener in listeners) == 0


@pytest.mark.parametrize("disable", [["albert"], ["ner"], ["textcat", "topics"], ["albert", "ner"]])
def test_disabled_components_leave_the_others_as_they_were(nlp, disable):
    whole = [annotation(doc) for doc in nlp.pipe(MANY)]
    with nlp.select_pipes(disable=disable):
        for doc, expected in zip(nlp.pipe(MANY), whole, strict=True):
            assert ("ner" in doc.spans) == ("ner" not in disable)
            if "ner" not in disable:
                assert annotation(doc)["ents"] == expected["ents"]
                assert list(doc.spans["ner"].attrs["scores"]) == close(expected["scores"])
            for name in ("textcat", "topics"):
                assert all((label in doc.cats) == (name not in disable) for label in LABELS[name])
            assert doc.cats == close({label: expected["cats"][label] for label in doc.cats})
    assert [annotation(doc) for doc in nlp.pipe(MANY)] == whole


def test_heads_answer_where_the_encoder_was_loaded_disabled(nlp, trained):
    expected = [annotation(doc) for doc in nlp.pipe(MANY)]
    off = spacy.load(trained, disable=["albert"])
    assert off.pipe_names == list(FACTORIES)
    assert [annotation(doc) for doc in off.pipe(MANY)] == expected
    off.enable_pipe("albert")
    assert [annotation(doc) for doc in off.pipe(MANY)] == expected


# Entities: scores, thresholds, what others have set


def test_every_entity_has_its_score(nlp):
    for doc in nlp.pipe(MANY):
        group = doc.spans["ner"]
        assert list(group) == list(doc.ents)
        assert group.attrs["scores"].dtype == np.float32
        assert [ent._.score for ent in doc.ents] == pytest.approx(list(group.attrs["scores"]))
        assert all(0 < score <= 1 for score in group.attrs["scores"])


def test_the_threshold_drops_what_scores_lower(nlp):
    text = " ".join(TEXTS)
    whole = nlp(text)
    group = whole.spans["ner"]
    scores = sorted(group.attrs["scores"].tolist())
    cut = (scores[4] + scores[5]) / 2
    nlp.get_pipe("ner").cfg["threshold"] = cut
    doc = nlp(text)
    assert len(doc.ents) == len(scores) - 5
    expected = [(e.start, e.end) for e, score in zip(group, group.attrs["scores"]) if score > cut]
    assert [(ent.start, ent.end) for ent in doc.ents] == expected
    assert min(doc.spans["ner"].attrs["scores"]) > cut


def test_a_threshold_of_the_config_is_the_components(vocabulary):
    nlp = spacy.blank("en")
    nlp.add_pipe("albert")
    assert nlp.add_pipe("albert_ner", config={"threshold": 0.25}).cfg["threshold"] == 0.25
    again = spacy.blank("en").from_config(nlp.config)
    assert again.get_pipe("albert_ner").cfg["threshold"] == 0.25


def test_entities_of_a_ruler_stay(nlp):
    ruler = nlp.add_pipe("entity_ruler", first=True)
    ruler.add_patterns([
        {"label": "CITY", "pattern": "London", "id": "uk"},
        {"label": "NAME", "pattern": "Jane was"},
        {"label": "THING", "pattern": "book"},
    ])  # fmt: skip
    doc = nlp("Michael Jane was in London . Google made a good match for Jane Austen with a book")
    said = entities(doc)
    assert ("London", "CITY") in said
    assert ("Jane was", "NAME") in said
    assert ("book", "THING") in said
    assert ("Google", "ORG") in said
    assert next(ent for ent in doc.ents if ent.label_ == "CITY").ent_id_ == "uk"
    assert {ent.label_ for ent in doc.spans["ner"]} <= {"PER", "LOC", "ORG"}
    assert [ent._.score is None for ent in doc.ents] == [
        ent.label_ in ("CITY", "NAME", "THING") for ent in doc.ents
    ]


def test_blocked_tokens_stay_outside_and_open_ones_do_not(nlp):
    doc = nlp.make_doc(TEXTS[0])
    doc.set_ents([], blocked=[doc[4:5]], default="outside")  # London
    assert entities(nlp(doc)) == [("Michael Jane", "PER")]
    assert doc[4].ent_iob == 3
    assert doc[4].ent_type == 0
    doc = nlp.make_doc(TEXTS[0])
    doc.set_ents([], default="outside")
    assert entities(nlp(doc)) == [("Michael Jane", "PER"), ("London", "LOC")]


def test_preset_entities_never_overlap_with_ours(nlp):
    text = " ".join(TEXTS[:3])
    n_tokens = len(nlp.make_doc(text))
    for start in range(n_tokens - 1):
        doc = nlp.make_doc(text)
        preset = Span(doc, start, min(start + 3, n_tokens), label="X")
        doc.ents = [preset]
        nlp(doc)  # spaCy raises for entities that overlap
        assert (preset.start, preset.end) in {(e.start, e.end) for e in doc.ents if e.label_ == "X"}


def test_a_preset_token_that_albert_cannot_see_is_not_swallowed(nlp):
    def doc() -> Doc:
        return Doc(nlp.vocab, words=["Michael", "\u200b", "Jane", "was", "in", "London", "."])

    assert entities(nlp(doc())) == [("Michael \u200b Jane", "PER"), ("London", "LOC")]
    taken = doc()
    taken.ents = [Span(taken, 1, 2, label="X")]
    assert entities(nlp(taken)) == [("\u200b", "X"), ("London", "LOC")]


def test_annotating_twice_changes_nothing(nlp):
    doc = nlp(" ".join(TEXTS))
    once = [(ent.text, ent.label_, ent._.score) for ent in doc.ents]
    scores = doc.spans["ner"].attrs["scores"]
    assert once
    doc = nlp(doc)
    assert [(ent.text, ent.label_, ent._.score) for ent in doc.ents] == once
    assert [span.text for span in doc.spans["ner"]] == [ent.text for ent in doc.ents]
    np.testing.assert_array_equal(doc.spans["ner"].attrs["scores"], scores)


def test_two_recognizers_in_a_row(trained):
    nlp, other = spacy.load(trained), spacy.load(trained)
    text = TEXTS[0]
    expected = entities(nlp(text))
    nlp.add_pipe("ner", name="second", source=other)
    doc = nlp(text)
    assert entities(doc) == expected
    assert len(doc.spans["ner"]) == 2
    assert len(doc.spans["second"]) == 0
    nlp.get_pipe("ner").cfg["threshold"] = 1.1
    doc = nlp(text)
    assert entities(doc) == expected
    assert len(doc.spans["ner"]) == 0
    assert len(doc.spans["second"]) == 2


@pytest.mark.parametrize("after", ["albert", "ner"])
def test_tokens_merged_on_the_way(nlp, after):
    @Language.component("test_merge")
    def merge(doc):
        with doc.retokenize() as retokenizer:
            retokenizer.merge(doc[0:2])
        return doc

    whole = nlp(TEXTS[0])
    nlp.add_pipe("test_merge", after=after)
    for doc in (nlp(TEXTS[0]), *nlp.pipe([TEXTS[0]])):
        assert doc[0].text == "Michael Jane"
        assert len(doc) == len(whole) - 1
        assert entities(doc) == [("Michael Jane", "PER"), ("London", "LOC")]
        assert doc.cats == pytest.approx(whole.cats, abs=1e-5)


def test_annotated_documents_travel(nlp):
    for doc in nlp.pipe(MANY):
        again = Doc(nlp.vocab).from_bytes(doc.to_bytes())
        assert annotation(again) == annotation(doc)


def test_labels_outlive_a_memory_zone(trained):
    nlp = spacy.load(trained)
    outside = annotation(nlp(TEXTS[0]))
    with nlp.memory_zone():
        inside = [annotation(doc) for doc in nlp.pipe(MANY)]
        nlp.get_pipe("topics").add_label("zoo")
    assert inside[0] == outside
    assert all(label in nlp.vocab.strings for label in ["PER", "LOC", "good", "city", "zoo"])
    with nlp.memory_zone():
        assert annotation(nlp(TEXTS[0]))["ents"] == outside["ents"]


def test_labels_of_a_pipeline_loaded_in_a_zone_outlive_it(trained):
    nlp = spacy.blank("en")
    with nlp.memory_zone():
        nlp.add_pipe("albert")
        nlp.add_pipe("albert_ner", name="ner").from_disk(trained / "ner")
    assert "PER" in nlp.vocab.strings


# A document fails alone


def break_encoder(nlp, monkeypatch):
    tokenize = SentencePieceTokenizer.__call__

    def fail(self, texts):
        if any("FAIL" in text for text in texts):
            raise RuntimeError("the tokenizer failed")
        return tokenize(self, texts)

    monkeypatch.setattr(SentencePieceTokenizer, "__call__", fail)


def break_step(name: str, method: str):
    def break_it(nlp, monkeypatch):
        component = nlp.get_pipe(name)
        work = getattr(component, method)

        def fail(docs, *args):
            if any("FAIL" in doc.text for doc in docs):
                raise RuntimeError(f"{method} failed")
            return work(docs, *args)

        monkeypatch.setattr(component, method, fail)

    return break_it


FAULTS = pytest.mark.parametrize(
    ("break_it", "culprit"),
    [
        (break_encoder, "albert"),
        (break_step("albert", "set_annotations"), "albert"),
        (break_step("ner", "predict"), "ner"),
        (break_step("ner", "set_annotations"), "ner"),
        (break_step("topics", "predict"), "topics"),
    ],
)
MIXED = [*TEXTS[:3], "this will FAIL", *TEXTS[3:], "FAIL again"]


@FAULTS
def test_a_document_fails_alone_in_a_stream(nlp, monkeypatch, break_it, culprit):
    expected = [annotation(doc) for doc in nlp.pipe(TEXTS)]
    break_it(nlp, monkeypatch)
    failed = []
    nlp.set_error_handler(lambda name, proc, docs, error: failed.append((name, docs[0].text)))
    for size in (1, 4, 100):
        assert [annotation(doc) for doc in nlp.pipe(MIXED, batch_size=size)] == expected
        assert failed == [(culprit, "this will FAIL"), (culprit, "FAIL again")]
        failed.clear()


@FAULTS
def test_a_document_that_fails_by_itself_comes_back_without_annotation(
    nlp, monkeypatch, break_it, culprit
):
    break_it(nlp, monkeypatch)
    failed = []
    nlp.set_error_handler(lambda name, proc, docs, error: failed.append(name))
    doc = nlp("this will FAIL")
    assert doc.text == "this will FAIL"
    assert failed[0] == culprit
    if culprit == "topics":
        assert set(doc.cats) == set(LABELS["textcat"])
    nlp.set_error_handler(ignore_error)
    assert [doc.text for doc in nlp.pipe(MIXED)] == TEXTS
    assert entities(nlp(TEXTS[0])) == [("Michael Jane", "PER"), ("London", "LOC")]


@FAULTS
def test_without_a_handler_the_error_is_raised(nlp, monkeypatch, break_it, culprit):
    break_it(nlp, monkeypatch)
    with pytest.raises(RuntimeError, match="failed"):
        nlp("this will FAIL")
    with pytest.raises(RuntimeError, match="failed"):
        list(nlp.pipe(MIXED))


# Errors that say what to do


def test_a_head_without_an_encoder_says_what_to_add(trained):
    nlp = spacy.blank("en")
    nlp.add_pipe("albert_ner").from_disk(trained / "ner")
    with pytest.raises(ValueError, match=r'before it.*nlp.add_pipe\("albert"'):
        nlp("London")
    with pytest.raises(ValueError, match=r'before it.*nlp.add_pipe\("albert"'):
        nlp.initialize()
    model = {"tok2vec": {"@architectures": "spacy-albert.AlbertListener.v1", "upstream": "trunk"}}
    nlp = spacy.blank("en")
    nlp.add_pipe("albert")
    nlp.add_pipe("albert_ner", config={"model": model}).from_disk(trained / "ner")
    with pytest.raises(ValueError, match=r"named 'trunk'.*name=\"trunk\""):
        nlp("London")


def test_an_encoder_after_its_head_is_no_encoder_before_it(trained):
    nlp = spacy.blank("en")
    nlp.add_pipe("albert_ner").from_disk(trained / "ner")
    nlp.add_pipe("albert").from_disk(trained / "albert")
    with pytest.raises(ValueError, match="none before it"):
        nlp("London")


def test_an_encoder_without_weights_says_where_to_get_some(vocabulary, trained):
    nlp = blank(vocabulary, ["ner"])
    nlp.get_pipe("ner").from_disk(trained / "ner")
    with pytest.raises(
        ValueError, match=r"(?s)no weights.*initialize\.components\.albert\.encoder"
    ):
        list(nlp.pipe(["London"]))
    del nlp.config["initialize"]["components"]["albert"]
    with pytest.raises(ValueError, match=r"(?s)no weights.*Checkpoint\.v1"):
        nlp.initialize(lambda: examples(nlp))


def test_a_head_without_weights_says_so(nlp):
    nlp.add_pipe("albert_ner", name="new").add_label("PER")
    with pytest.raises(ValueError, match=r"no weights.*nlp\.initialize"):
        nlp("London")


def test_a_head_without_labels_says_so(nlp):
    nlp.add_pipe("albert_ner", name="new")
    with pytest.raises(ValueError, match="E143"):
        nlp("London")


def test_a_model_that_is_no_head_of_ours_is_an_error():
    nlp = spacy.blank("en")
    model = {
        "@architectures": "spacy.TextCatBOW.v3",
        "exclusive_classes": True,
        "length": 262144,
        "ngram_size": 1,
        "no_output_layer": False,
    }
    with pytest.raises(
        ValueError, match=r"'albert_textcat' needs a spacy-albert.TextClassifier.v1"
    ):
        nlp.add_pipe("albert_textcat", config={"model": model})


@pytest.mark.parametrize(
    ("factory", "architecture"),
    [("albert_ner", "TextClassifier"), ("albert_textcat", "TokenClassifier")],
)
def test_the_head_of_another_component_is_an_error(factory, architecture):
    listener = {"@architectures": "spacy-albert.AlbertListener.v1"}
    config = {"model": {"@architectures": f"spacy-albert.{architecture}.v1", "tok2vec": listener}}
    with pytest.raises(ValueError, match=f"'{factory}' needs"):
        spacy.blank("en").add_pipe(factory, config=config)


def test_a_tok2vec_that_is_not_albert_is_an_error():
    model = {
        "tok2vec": {
            "@architectures": "spacy.HashEmbedCNN.v2",
            "width": 8,
            "depth": 1,
            "embed_size": 100,
            "window_size": 1,
            "maxout_pieces": 2,
            "subword_features": True,
            "pretrained_vectors": None,
        }
    }
    with pytest.raises(ValueError, match=r"needs ALBERT states.*spacy-albert.AlbertListener.v1"):
        spacy.blank("en").add_pipe("albert_ner", config={"model": model})


def test_a_pooling_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match=r"'max'.*'mean' or 'first'"):
        spacy.blank("en").add_pipe("albert_ner", config={"model": {"pooling": "max"}})


@pytest.mark.parametrize("label", ["", 3, None])
def test_a_label_is_a_string(nlp, label):
    with pytest.raises(ValueError, match="label of 'ner' must be"):
        nlp.get_pipe("ner").add_label(label)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"window": 4096}, "window = 4096"),
        ({"overlap": 150}, "overlap = 150"),
        ({"batch_pieces": 10}, "batch_pieces = 10"),
    ],
)
def test_settings_that_do_not_fit_are_an_error(trained, settings, message):
    overrides = {f"components.albert.model.{key}": value for key, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        spacy.load(trained, config=overrides)


# Moving components about


def test_a_head_moves_to_another_pipeline(trained, nlp):
    expected = annotation(nlp(TEXTS[0]))
    new = spacy.blank("en")
    new.add_pipe("albert", source=spacy.load(trained))
    new.add_pipe("ner", source=spacy.load(trained))
    doc = new(TEXTS[0])
    assert [(ent.start, ent.end, ent.label_) for ent in doc.ents] == expected["ents"]
    assert list(doc.spans["ner"].attrs["scores"]) == close(expected["scores"])
    assert new.get_pipe("albert").listening_components == ["ner"]
    assert entities(spacy.blank("en").from_config(new.config).from_bytes(new.to_bytes())(TEXTS[0]))


def test_spacy_knows_what_the_components_assign(nlp):
    analysis = nlp.analyze_pipes()
    assert analysis["summary"]["ner"]["assigns"] == [
        "doc.ents", "token.ent_iob", "token.ent_type", "doc.spans", "span._.score",
        "doc._.n_windows",
    ]  # fmt: skip
    assert analysis["summary"]["topics"]["assigns"] == ["doc.cats", "doc._.n_windows"]
    assert not any(analysis["problems"][name] for name in nlp.pipe_names)


def test_sourcing_in_a_config(trained, nlp):
    expected = annotation(nlp(TEXTS[0]))
    config = spacy.blank("en").config
    config["nlp"]["pipeline"] = ["ner", "topics"]
    config["components"] = {
        "ner": {"source": str(trained), "replace_listeners": ["model.tok2vec"]},
        "topics": {"source": str(trained), "replace_listeners": ["model.tok2vec"]},
    }
    new = spacy.blank("en").from_config(config)
    doc = new(TEXTS[0])
    assert [(ent.start, ent.end, ent.label_) for ent in doc.ents] == expected["ents"]
    assert doc.cats == close({label: expected["cats"][label] for label in LABELS["topics"]})


def test_listeners_are_replaced_by_encoders_of_their_own(nlp, tmp_path):
    whole = [annotation(doc) for doc in nlp.pipe(MANY)]
    for name in FACTORIES:
        nlp.replace_listeners("albert", name, ["model.tok2vec"])
    assert nlp.get_pipe("albert").listeners == []
    nlp.remove_pipe("albert")
    assert [annotation(doc) for doc in nlp.pipe(MANY)] == whole
    ours = weights(nlp, "ner")
    assert any(key.startswith("encoder.") for key in ours)
    nlp.to_disk(tmp_path)
    assert (tmp_path / "ner" / "encoder" / "config.json").exists()
    again = spacy.load(tmp_path)
    assert again.pipe_names == list(FACTORIES)
    assert equal(weights(again, "ner"), ours)
    assert [annotation(doc) for doc in again.pipe(MANY)] == whole
    assert again.config.to_str() == nlp.config.to_str()
    train(again, examples(again), 1, exclude=["ner"])
    assert equal(weights(again, "ner"), ours)
    assert not equal(weights(again, "topics"), weights(nlp, "topics"))


def test_components_come_and_go(nlp, trained):
    expected = annotation(nlp(TEXTS[0]))
    _, ner = nlp.remove_pipe("ner")
    assert nlp.get_pipe("albert").listening_components == ["textcat", "topics"]
    assert nlp(TEXTS[0]).ents == ()
    nlp.add_pipe("albert_ner", name="ner", last=True).from_bytes(ner.to_bytes())
    assert nlp.pipe_names == ["albert", "textcat", "topics", "ner"]
    assert annotation(nlp(TEXTS[0])) == expected
    nlp.rename_pipe("ner", "names")
    doc = nlp(TEXTS[0])
    assert list(doc.spans) == ["names"]
    assert len(doc.spans["names"]) == 2
    nlp.add_pipe("albert", name="other", source=None, last=True)
    assert [entities(doc) for doc in nlp.pipe(TEXTS[:1])] == [entities(doc)]


def test_of_two_encoders_the_nearer_serves_a_head_that_names_none(nlp, trained, monkeypatch):
    expected = annotation(nlp(TEXTS[0]))
    nlp.add_pipe("albert", name="nearer", after="albert", source=spacy.load(trained))
    calls = engine_calls(monkeypatch)
    assert annotation(nlp(TEXTS[0])) == expected
    assert len(calls) == 1


def test_a_new_label_leaves_the_scores_of_the_others(nlp):
    before = nlp(TEXTS[0])
    logits = nlp.get_pipe("ner").model.predict([nlp.make_doc(TEXTS[0])])[0]
    for name in ("ner", "topics"):
        component = nlp.get_pipe(name)
        assert component.add_label("FOOD") == 1
        assert component.add_label("FOOD") == 0
        assert component.labels[-1] == "FOOD"
    after = nlp(TEXTS[0])
    assert {label: after.cats[label] for label in before.cats} == pytest.approx(before.cats)
    assert 0.3 < after.cats["FOOD"] < 0.7
    grown = nlp.get_pipe("ner").model.predict([nlp.make_doc(TEXTS[0])])[0]
    assert grown.shape[1] == logits.shape[1] + 4
    torch.testing.assert_close(grown[:, : logits.shape[1]], logits)
    again = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    assert annotation(again(TEXTS[0])) == annotation(after)
    train(again, examples(again), 1)


# Saving and loading


def test_pipelines_survive_bytes_disk_and_config(nlp, tmp_path):
    expected = [annotation(doc) for doc in nlp.pipe(MANY)]
    nlp.to_disk(tmp_path)
    from_bytes = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    for again in (from_bytes, spacy.load(tmp_path)):
        assert [annotation(doc) for doc in again.pipe(MANY)] == expected
        assert again.config.to_str() == nlp.config.to_str()
        for name in nlp.pipe_names:
            assert equal(weights(nlp, name), weights(again, name))
            assert getattr(again.get_pipe(name), "labels", ()) == getattr(
                nlp.get_pipe(name), "labels", ()
            )


def test_a_component_saves_and_loads_by_itself(nlp, tmp_path):
    for name in nlp.pipe_names:
        component = nlp.get_pipe(name)
        component.to_disk(tmp_path / name)
        empty = spacy.blank("en").add_pipe(nlp.get_pipe_meta(name).factory, name=name)
        empty.from_disk(tmp_path / name)
        assert empty.cfg == component.cfg
        assert empty.model.shims[0].to_bytes() == component.model.shims[0].to_bytes()
        assert all(label in empty.vocab.strings for label in component.cfg.get("labels", []))


def test_pipelines_travel_to_processes_that_are_not_forked(nlp):
    docs = list(nlp.pipe(MANY))
    with nlp.select_pipes(disable="topics"):
        waiting = nlp(TEXTS[0])
    assert waiting in nlp.get_pipe("topics").model.layers[0].answers
    again = pickle.loads(pickle.dumps(nlp))
    assert [annotation(doc) for doc in again.pipe(MANY)] == [annotation(doc) for doc in docs]


def test_what_is_excluded_is_not_saved(nlp, tmp_path):
    component = nlp.get_pipe("ner")
    component.to_disk(tmp_path / "no head", exclude=["head"])
    assert sorted(p.name for p in (tmp_path / "no head").iterdir()) == ["cfg"]
    nlp.to_disk(tmp_path / "no ner", exclude=["ner"])
    assert not (tmp_path / "no ner" / "ner").exists()
    with_all = len(component.to_bytes())
    assert len(component.to_bytes(exclude=["vocab"])) < with_all
    assert len(component.to_bytes(exclude=["vocab", "model"])) < 1000
    before = weights(nlp, "ner")
    component.from_bytes(component.to_bytes(), exclude=["model", "vocab"])
    assert equal(weights(nlp, "ner"), before)


def test_pipelines_without_weights_are_saved_and_loaded(vocabulary, tmp_path):
    nlp = blank(vocabulary, ["ner"], ["topics"])
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    again.initialize(lambda: examples(again))
    assert again(TEXTS[0]).cats
    assert blank(vocabulary, ["ner"], ["topics"]).from_bytes(nlp.to_bytes()).pipe_names


def test_the_saved_encoder_is_a_hugging_face_checkpoint(trained):
    transformers = pytest.importorskip("transformers")
    model, report = transformers.AlbertModel.from_pretrained(
        trained / "albert" / "encoder", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ours = weights(spacy.load(trained), "albert")["encoder.embeddings.words.weight"]
    assert torch.equal(model.embeddings.word_embeddings.weight, ours)


def test_a_pipeline_starts_from_the_encoder_of_another(vocabulary, trained):
    nlp = blank(vocabulary, ["textcat"])
    nlp.config["initialize"]["components"]["albert"]["encoder"] = {
        "@misc": "spacy-albert.Checkpoint.v1",
        "path": str(trained),
    }
    nlp.initialize(lambda: examples(nlp))
    old = weights(spacy.load(trained), "albert")
    assert equal(weights(nlp, "albert"), old)
    # a classifier starts from the pooler of its checkpoint
    pooler = weights(nlp, "textcat")["head.pooler.weight"]
    assert torch.equal(pooler, old["encoder.pooler.weight"])


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere", "neither a Hugging Face directory"), ("spm", "neither a Hugging Face directory")],
)
def test_a_checkpoint_that_is_none_is_an_error(vocabulary, path, message):
    nlp = blank(vocabulary, ["ner"])
    nlp.config["initialize"]["components"]["albert"]["encoder"] = {
        "@misc": "spacy-albert.Checkpoint.v1",
        "path": str(vocabulary.parent) if path == "spm" else path,
    }
    with pytest.raises(ValueError, match=message):
        nlp.initialize(lambda: examples(nlp))


def test_a_pipeline_without_an_albert_is_no_checkpoint(vocabulary, tmp_path):
    spacy.blank("en").to_disk(tmp_path)
    nlp = blank(vocabulary, ["ner"])
    nlp.config["initialize"]["components"]["albert"]["encoder"] = {
        "@misc": "spacy-albert.Checkpoint.v1",
        "path": str(tmp_path),
    }
    with pytest.raises(ValueError, match="no ALBERT encoder"):
        nlp.initialize(lambda: examples(nlp))


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_architectures_make_heads_in_python_too(trained, pooling):
    nlp = spacy.load(trained)
    for tok2vec in (albert(), albert_listener()):
        ner = AlbertNER(nlp.vocab, token_classifier(tok2vec, pooling=pooling), "made")
        ner.from_disk(trained / "ner")
        if isinstance(tok2vec, AlbertListener):
            nlp.get_pipe("albert").find_listeners(ner)
        else:
            tok2vec.shims[0].from_disk(trained / "albert" / "encoder")
        assert entities(ner(nlp.make_doc(TEXTS[0]))) == [("Michael Jane", "PER"), ("London", "LOC")]
    assert text_classifier(albert()).layers[0].name == "albert"


def test_our_listener_in_a_component_of_spacys():
    nlp = spacy.blank("en")
    nlp.add_pipe("albert")
    listener = {"@architectures": "spacy-albert.AlbertListener.v1"}
    tagger = {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}
    with pytest.raises(ValueError, match=r"'tagger'.*TransformerListener"):
        nlp.add_pipe("tagger", config={"model": tagger})
