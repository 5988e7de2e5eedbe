"""spaCy's own components on our encoder, through the stock TransformerListener."""

from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from spacy.language import Language
from spacy.training import Example
from thinc.api import Optimizer
from util import TEXTS, blank, equal, examples, finish, found, gold, train, weights

pytest.importorskip("spacy_transformers")

LISTENER = {
    "@architectures": "spacy-transformers.TransformerListener.v1",
    "grad_factor": 1.0,
    "pooling": {"@layers": "reduce_mean.v1"},
    "upstream": "*",
}
TAGGER = {"@architectures": "spacy.Tagger.v2", "tok2vec": LISTENER}
PARSER = {
    "@architectures": "spacy.TransitionBasedParser.v2",
    "state_type": "ner",
    "extra_state_tokens": False,
    "hidden_width": 32,
    "maxout_pieces": 2,
    "use_upper": False,
    "tok2vec": LISTENER,
}


def tag(word: str) -> str:
    """A tag that can only be learned from the word itself."""
    return "ABCDE"[sum(map(ord, word)) % 5]


def tagged(nlp: Language) -> list[Example]:
    data = examples(nlp)
    for example in data:
        for token in example.reference:
            token.tag_ = tag(token.text)
    return data


def tags(doc) -> list[str]:
    return [token.tag_ for token in doc]


@pytest.fixture(scope="module")
def vocabulary(tiny_spm: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    path.write_bytes(tiny_spm)
    return path


def with_tagger(vocabulary: Path) -> Language:
    """An encoder with one head of ours and spaCy's tagger."""
    nlp = blank(vocabulary, ["ner"])
    nlp.add_pipe("tagger", config={"model": TAGGER})
    torch.manual_seed(0)
    nlp.initialize(lambda: tagged(nlp))
    return nlp


@pytest.fixture(scope="module")
def trained(vocabulary, tmp_path_factory) -> Path:
    nlp = with_tagger(vocabulary)
    start = weights(nlp, "albert")
    first = train(nlp, tagged(nlp), 1)
    last = train(nlp, tagged(nlp))
    assert last["tagger"] < 0.1 * first["tagger"]
    assert last["ner"] < 0.1 * first["ner"]
    assert not equal(start, weights(nlp, "albert"))
    path = tmp_path_factory.mktemp("tagger")
    nlp.to_disk(path)
    return path


def test_a_tagger_learns_beside_a_head_of_ours(trained):
    nlp = spacy.load(trained)
    for row, text in enumerate(TEXTS):
        assert found(nlp, text)["ner"] == gold(nlp, row)["ner"]
        assert tags(nlp(text)) == [tag(word) for word in text.split()]
    docs = nlp.pipe([*TEXTS, "", "  ", " ".join(TEXTS * 9)], batch_size=4)
    for doc, text in zip(docs, TEXTS):
        assert tags(doc) == [tag(word) for word in text.split()]


@pytest.mark.parametrize("loop", [True, False])
def test_spacys_ner_learns_alone(vocabulary, loop):
    nlp = blank(vocabulary, [])
    nlp.add_pipe("albert")
    nlp.config["initialize"]["components"] = blank(vocabulary, ["ner"]).config["initialize"][
        "components"
    ]
    nlp.add_pipe("ner", config={"model": PARSER})
    torch.manual_seed(0)
    nlp.initialize(lambda: examples(nlp))
    start = weights(nlp, "albert")
    train(nlp, examples(nlp), loop=loop)
    assert not equal(start, weights(nlp, "albert"))
    for row, text in enumerate(TEXTS):
        assert found(nlp, text) == gold(nlp, row)


@pytest.mark.parametrize("way", ["sgd", "finish_update", "two batches"])
def test_the_encoders_gradient_is_that_of_one_graph(vocabulary, way):
    nlp = with_tagger(vocabulary)
    nlp.remove_pipe("ner")
    softmax = next(node for node in nlp.get_pipe("tagger").model.walk() if node.name == "softmax")
    rng = np.random.default_rng(0)
    softmax.set_param("W", rng.normal(size=softmax.get_param("W").shape).astype("f") * 0.2)
    matrix, bias = (torch.tensor(softmax.get_param(name)) for name in "Wb")

    # spaCy's tagger minimises the sum of the cross-entropies of all tokens
    encoder = nlp.get_pipe("albert").model.shims[0]
    data = tagged(nlp)
    module, tokenizer = encoder.module, encoder.reader.tokenizer
    before = weights(nlp, "albert")
    loss = torch.zeros(())
    for example in data:
        rows, ids = [], [2]
        for word in example.text.split(" "):
            pieces = tokenizer([word])
            shown = np.flatnonzero(pieces.ends > pieces.starts) + len(ids)
            rows.append(torch.from_numpy(shown))
            ids += pieces.ids.tolist()
        states = module(torch.tensor([[*ids, 3]]))[0]
        for row, token in zip(rows, example.reference, strict=True):
            logits = matrix @ states[row].mean(0) + bias
            loss = loss - logits.log_softmax(0)[nlp.get_pipe("tagger").labels.index(token.tag_)]
    expected = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)

    step = Optimizer(1.0, L2=0.0, beta1=0.0, beta2=0.0, grad_clip=0.0, use_averages=False)
    if way == "sgd":
        nlp.update(data, sgd=step)
        nlp.to_bytes()
    else:
        for batch in [data[:6], data[6:]] if way == "two batches" else [data]:
            nlp.update(batch, sgd=False)
        finish(nlp, step)
    after = weights(nlp, "albert")
    largest = max(grad.abs().max() for grad in expected if grad is not None)
    assert largest > 0.1
    for (name, _), grad in zip(module.named_parameters(), expected, strict=True):
        key = f"encoder.{name}"
        grad = torch.zeros(()) if grad is None else grad
        assert (before[key] - after[key] - grad).abs().max() < 1e-5 * max(1, largest), name


def test_a_frozen_encoder_that_annotates_trains_a_tagger(vocabulary):
    nlp = with_tagger(vocabulary)
    before = nlp.get_pipe("albert").to_bytes()
    first = train(nlp, tagged(nlp), 1, exclude=["albert"], annotates=["albert"])
    last = train(nlp, tagged(nlp), 20, exclude=["albert"], annotates=["albert"])
    assert last["tagger"] < 0.8 * first["tagger"]
    assert nlp.get_pipe("albert").to_bytes() == before


def test_annotating_does_not_disturb_training(vocabulary):
    pipelines = [with_tagger(vocabulary) for _ in range(2)]
    for nlp, names in zip(pipelines, ([], ["albert", "tagger"])):
        train(nlp, tagged(nlp), 3, annotates=names)
    assert equal(*(weights(nlp, "albert") for nlp in pipelines))


def test_pipelines_survive_bytes_and_train_on(trained):
    nlp = spacy.load(trained)
    again = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    assert [tags(doc) for doc in again.pipe(TEXTS)] == [tags(doc) for doc in nlp.pipe(TEXTS)]
    before = weights(again, "albert")
    train(again, tagged(again), 1)
    assert not equal(before, weights(again, "albert"))


def test_listeners_are_replaced_by_encoders_of_their_own(trained, tmp_path):
    nlp = spacy.load(trained)
    for name in ("tagger", "ner"):
        nlp.replace_listeners("albert", name, ["model.tok2vec"])
    nlp.remove_pipe("albert")
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert again.pipe_names == ["ner", "tagger"]
    assert again.config.to_str() == nlp.config.to_str()
    tok2vec = again.config["components"]["tagger"]["model"]["tok2vec"]
    assert tok2vec["@architectures"] == "spacy-albert.AlbertTransformer.v1"
    for pipeline in (nlp, again):
        for row, doc in enumerate(pipeline.pipe(TEXTS)):
            assert tags(doc) == [tag(word) for word in TEXTS[row].split()]
            assert found(pipeline, TEXTS[row])["ner"] == gold(pipeline, row)["ner"]
        assert [len(doc) for doc in pipeline.pipe(["", " "])] == [0, 1]
    before = again.get_pipe("tagger").to_bytes(), weights(again, "ner")
    train(again, tagged(again), 1, exclude=["ner"])
    assert equal(before[1], weights(again, "ner"))
    assert before[0] != again.get_pipe("tagger").to_bytes()


def test_an_encoder_of_its_own_trains_with_its_tagger(trained):
    nlp = spacy.load(trained)
    nlp.replace_listeners("albert", "tagger", ["model.tok2vec"])
    shim = next(s for node in nlp.get_pipe("tagger").model.walk() for s in node.shims)
    before = {key: tensor.clone() for key, tensor in shim.module.state_dict().items()}
    shared = weights(nlp, "albert")
    train(nlp, tagged(nlp), 1, exclude=["albert", "ner"])
    assert not equal(before, shim.module.state_dict())
    assert equal(shared, weights(nlp, "albert"))
