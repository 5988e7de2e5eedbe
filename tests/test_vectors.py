"""Vectors where spaCy looks for them, against `transformers` and plain means."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from util import TEXTS, TINY, equal, examples, initialized, train, weights

from spacy_albert.architectures import albert_listener, text_classifier, vectors
from spacy_albert.components.vectors import AlbertVectors
from spacy_albert.hooks import hook_vectors

MANY = [*TEXTS, "", " \n", "\u200b", " ".join(TEXTS * 5), "Michael Jane\n\nwas  in London . "]


@pytest.fixture(scope="module")
def saved(tiny_spm: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    (folder / "spiece.model").write_bytes(tiny_spm)
    initialized(folder / "spiece.model", ["textcat"]).to_disk(folder / "model")
    return folder / "model"


def load(saved: Path, pooling: str = "mean", tokens: bool = True, **model) -> Language:
    nlp = spacy.load(saved)
    nlp.add_pipe("albert_vectors", config={"model": {"pooling": pooling, "tokens": tokens} | model})
    return nlp


@pytest.fixture(scope="module")
def nlp(saved: Path) -> Language:
    return load(saved)


def close(array: np.ndarray) -> object:
    return pytest.approx(array, abs=1e-5)


def theirs(saved: Path, nlp: Language, text: str) -> torch.Tensor:
    """The states of transformers' model for a text of one window, [CLS] and [SEP] included."""
    model = transformers.AlbertModel.from_pretrained(saved / "albert" / "encoder").eval()
    tokenizer = nlp.get_pipe("albert").model.shims[0].reader.tokenizer
    ids = [tokenizer.cls_id, *tokenizer([text]).ids.tolist(), tokenizer.sep_id]
    with torch.inference_mode():
        return model(torch.tensor([ids])).last_hidden_state[0]


def test_vectors_are_those_of_transformers(saved):
    mean, cls = load(saved), load(saved, "cls", tokens=False)
    for text in TEXTS:
        states = theirs(saved, mean, text)
        doc = mean(text)
        assert doc.vector == close(states[1:-1].mean(0).numpy())
        assert cls(text).vector == close(states[0].numpy())
        assert (doc.vector.dtype, doc.vector.shape) == (np.float32, (TINY["hidden_size"],))
    # every word of this one is a piece
    doc = mean("the book was good")
    states = theirs(saved, mean, doc.text)
    assert len(states) == len(doc) + 2
    for token, state in zip(doc, states[1:-1]):
        assert token.vector == close(state.numpy())
    assert doc[1:3].vector == close(states[2:4].mean(0).numpy())


def test_norms_and_similarities_follow(nlp):
    doc, other = nlp(TEXTS[0]), nlp(TEXTS[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # spaCy warns where it compares without word vectors
        for one, two in [(doc, other), (doc[:3], other), (doc[0], other[2:4]), (other[1], doc[2])]:
            assert one.has_vector
            norm = np.sqrt((one.vector**2).sum())
            assert one.vector_norm == pytest.approx(norm, rel=1e-5)
            cosine = one.vector @ two.vector / (norm * np.sqrt((two.vector**2).sum()))
            assert one.similarity(two) == pytest.approx(cosine, abs=1e-5)
            assert one.similarity(one) == pytest.approx(1.0, abs=1e-5)
    # the same word has another vector in another place, and static vectors no say
    doc = nlp("the book was good and the city was good")
    assert doc[3].text == doc[8].text
    assert doc[3].similarity(doc[8]) < 0.99999
    doc.vocab.set_vector("good", np.ones(3, dtype="f"))
    assert doc[3].vector.shape == doc.vector.shape == (TINY["hidden_size"],)


def test_what_albert_does_not_see_has_no_vector(nlp):
    for text in ("", " \n", "\u200b"):
        doc = nlp(text)
        assert not doc.has_vector
        assert doc.vector == close(np.zeros(TINY["hidden_size"]))
        assert doc.similarity(nlp(TEXTS[0])) == 0.0
    doc = nlp("the  book")
    assert [token.has_vector for token in doc] == [True, False, True]
    assert not doc[1:2].has_vector
    assert doc[0:3].vector == close((doc[0].vector + doc[2].vector) / 2)
    assert doc[0:0].vector == close(np.zeros(TINY["hidden_size"]))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_company_does_not_matter_and_nothing_else_is_kept(saved, pooling):
    whole, short = load(saved, pooling), load(saved, pooling, tokens=False)
    alone = [whole(text) for text in MANY]
    assert alone[-2]._.n_windows > 2
    for nlp in (whole, short):
        for size in (1, 4, 1000):
            for doc, expected in zip(nlp.pipe(MANY, batch_size=size), alone):
                assert doc.vector == close(expected.vector)
                assert doc._.vector.base is None  # a view would keep the batch
                assert doc.tensor.size == 0  # spaCy's own tok2vec lives there
                if nlp is short:
                    assert doc._.token_vectors is None
                    assert not doc.user_token_hooks
                else:
                    assert doc._.token_vectors == close(expected._.token_vectors)
                    assert doc._.token_vectors.base is None


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_the_vector_of_a_text_is_its_own(nlp, texts):
    for doc, text in zip(nlp.pipe(texts), texts):
        alone = nlp(text)
        assert doc.vector == close(alone.vector)
        assert len(doc._.token_vectors) == len(doc)
        assert np.isfinite(doc.vector).all()


def test_the_encoder_reads_once_for_vectors_and_classes(saved, monkeypatch):
    nlp = load(saved)
    model = nlp.get_pipe("albert").model.shims[0].reader
    read, calls = model.read, []
    monkeypatch.setattr(model, "read", lambda *args: calls.append(1) or read(*args))
    docs = list(nlp.pipe(TEXTS))
    assert len(calls) == 1
    assert all(doc.cats and doc.has_vector for doc in docs)
    assert nlp.analyze_pipes()["problems"]["albert_vectors"] == []


def test_documents_travel_and_get_their_hooks_back(nlp):
    expected = nlp(TEXTS[0])
    assert pickle.loads(pickle.dumps(expected)).vector == close(expected.vector)
    assert expected.copy()[0].vector == close(expected[0].vector)
    with pytest.warns(UserWarning, match="W109"):
        data = expected.to_bytes()
    binned = DocBin(store_user_data=True, docs=[expected]).to_bytes()
    (saved_doc,) = DocBin(store_user_data=True).from_bytes(binned).get_docs(nlp.vocab)
    for doc in (Doc(nlp.vocab).from_bytes(data), saved_doc):
        assert not doc.user_hooks
        assert hook_vectors(doc) is doc
        assert doc.vector == close(expected.vector)
        assert doc[1].vector == close(expected[1].vector)
    with pytest.raises(ValueError, match=r"has no doc\._\.vector"):
        hook_vectors(nlp.make_doc("the"))


@pytest.mark.filterwarnings("ignore:.*W109")
def test_two_processes_say_what_one_says(nlp):
    for doc, expected in zip(nlp.pipe(MANY, n_process=2, batch_size=3), nlp.pipe(MANY)):
        assert hook_vectors(doc).vector == close(expected.vector)


@pytest.mark.parametrize("after", ["albert", "albert_vectors"])
def test_tokens_merged_on_the_way(saved, after):
    @Language.component("test_merge_first")
    def merge(doc):
        with doc.retokenize() as retokenizer:
            retokenizer.merge(doc[0:2])
        return doc

    nlp = load(saved)
    whole = nlp(TEXTS[0])
    nlp.add_pipe("test_merge_first", after=after)
    for doc in (nlp(TEXTS[0]), *nlp.pipe([TEXTS[0]])):
        assert len(doc) == len(whole) - 1
        assert doc.vector == close(whole.vector)
        if after == "albert":
            assert doc[1].vector == close(whole[2].vector)
        else:
            with pytest.raises(ValueError, match="vectors of 6 tokens, and 5 tokens"):
                _ = doc[1].vector


def test_vectors_that_cannot_be_compared_are_an_error(saved):
    doc = load(saved, tokens=False)(TEXTS[0])
    with pytest.raises(ValueError, match="32 and of 0 numbers cannot be compared"):
        doc.similarity(doc[0:2])


def test_an_encoder_of_its_own(saved, nlp):
    alone = load(saved)
    alone.replace_listeners("albert", "albert_vectors", ["model.tok2vec"])
    alone.remove_pipe("textcat")
    alone.remove_pipe("albert")
    assert alone.get_pipe("albert_vectors").width == TINY["hidden_size"]
    for text in TEXTS[:3]:
        assert alone(text).vector == close(nlp(text).vector)
    again = spacy.blank("en").from_config(alone.config).from_bytes(alone.to_bytes())
    assert again(TEXTS[0])[1].vector == close(nlp(TEXTS[0])[1].vector)


def test_settings_come_back_from_disk(saved, tmp_path):
    load(saved, "cls", tokens=False).to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    pipe = nlp.get_pipe("albert_vectors")
    assert (pipe.pooling, pipe.width) == ("cls", TINY["hidden_size"])
    assert nlp(TEXTS[0]).vector == close(load(saved, "cls", tokens=False)(TEXTS[0]).vector)


def test_training_passes_by(saved):
    with_vectors, without = load(saved), spacy.load(saved)
    losses = []
    for nlp in (with_vectors, without):
        torch.manual_seed(0)
        losses.append(train(nlp, examples(nlp, ["textcat"]), 2))
    assert losses[0] == losses[1]
    assert not equal(weights(with_vectors, "albert"), weights(spacy.load(saved), "albert"))
    for name in ("albert", "textcat"):
        assert equal(weights(with_vectors, name), weights(without, name))
    assert with_vectors(TEXTS[0]).has_vector


def test_it_starts_the_encoder_where_that_is_all_there_is(saved):
    nlp = spacy.blank("en")
    nlp.add_pipe("albert", config={"model": {"precision": "float32"}})
    nlp.add_pipe("albert_vectors")
    with pytest.raises(ValueError, match="no weights"):
        nlp("the book")
    start = {"@misc": "spacy-albert.Checkpoint.v1", "path": str(saved)}
    nlp.config["initialize"]["components"]["albert"] = {"encoder": start}
    nlp.initialize()
    assert nlp(TEXTS[0]).vector == close(load(saved)(TEXTS[0]).vector)


def test_what_does_not_fit_is_named(saved):
    with pytest.raises(ValueError, match="pooling is 'max'; it must be 'mean' or 'cls'"):
        vectors(albert_listener(), "max")
    with pytest.raises(ValueError, match=r"needs a spacy-albert\.Vectors\.v1"):
        AlbertVectors(spacy.blank("en").vocab, text_classifier(albert_listener()))
    nlp = spacy.blank("en")
    nlp.add_pipe("albert_vectors")
    with pytest.raises(ValueError, match="the pipeline has none before it"):
        nlp("the book")
