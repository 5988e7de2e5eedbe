"""The loss of whole taggings against the sum over every valid one, and what it teaches."""

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.training import Example
from test_tagging import every_scheme, valid_taggings
from thinc.api import Optimizer
from torch import Tensor
from util import TEXTS, equal, examples, found, gold, initialized, train, weights

from spacy_albert.crf import crf_loss
from spacy_albert.tagging import MISSING, Tagset

BILOU = Tagset.from_labels(["X", "Y"])


def slow_loss(tags: list[str], logits: Tensor, gold: Tensor) -> Tensor:
    """The definition: minus the log of a share of all valid taggings."""
    taggings = torch.from_numpy(np.array([t for t, _ in valid_taggings(tuple(tags), len(gold))]))
    weights = logits[torch.arange(len(gold)), taggings].sum(dim=1)
    agrees = ((gold == MISSING) | (gold == taggings)).all(dim=1)
    return weights.logsumexp(0) - weights[agrees].logsumexp(0)


@every_scheme
@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    missing=st.sampled_from([0.0, 0.4, 1.0]),
    size=st.sampled_from([1.0, 10.0, 300.0]),
    seed=st.integers(0, 2**32),
)
def test_loss_and_gradient_are_those_of_every_valid_tagging(tags, lengths, missing, size, seed):
    rng = np.random.default_rng(seed)
    logits, targets = [], []
    for length in lengths:
        taggings = valid_taggings(tuple(tags), length)
        target = torch.from_numpy(taggings[rng.integers(len(taggings))][0].copy())
        target[torch.from_numpy(rng.random(length) < missing)] = MISSING
        targets.append(target)
        values = torch.from_numpy(rng.normal(0, size, (length, len(tags))))
        logits.append(values.requires_grad_())
    loss = crf_loss(Tagset(tags), logits, targets)
    expected = torch.stack([slow_loss(tags, *pair) for pair in zip(logits, targets)]).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    gradients = (torch.autograd.grad(total, logits) for total in (loss, expected))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


def test_a_score_is_the_probability_that_the_loss_speaks_of():
    logits = np.random.default_rng(3).normal(0, 2, (60, len(BILOU.tags)))
    entities = BILOU.decode(logits, np.array([60]))
    assert len(entities.starts) > 10
    for start, end, label, score in zip(*entities):
        name, length = BILOU.labels[label], end - start
        tags = ["U"] if length == 1 else ["B", *["I"] * (length - 2), "L"]
        annotation = torch.full((60,), MISSING)
        annotation[start:end] = torch.tensor([BILOU.tags.index(f"{t}-{name}") for t in tags])
        loss = crf_loss(BILOU, [torch.from_numpy(logits)], [annotation])
        assert np.exp(-loss.item()) == pytest.approx(score, rel=1e-9)


def test_without_annotation_there_is_nothing_to_learn():
    logits = [torch.randn(n, len(BILOU.tags), requires_grad=True) for n in (0, 1, 30)]
    loss = crf_loss(BILOU, logits, [torch.full((len(rows),), MISSING) for rows in logits])
    assert loss.item() == 0
    assert all((grad == 0).all() for grad in torch.autograd.grad(loss, logits))


@pytest.mark.parametrize("tags", [["O", "B-X", "I-X", "I-Y"], ["O", "B-X", "L-X", "I-Y", "L-Y"]])
def test_what_no_valid_tagging_spells_does_not_count(tags):
    tagset = Tagset(tags)
    logits = [torch.randn(4, len(tags), requires_grad=True) for _ in range(2)]
    spelled = [tagset.encode(["O", "O", "B-X", "L-X"], np.arange(4)),
               tagset.encode(["O", "B-Y", "L-Y", "O"], np.arange(4))]  # fmt: skip
    good, bad = map(torch.from_numpy, spelled)
    assert (bad == MISSING).sum() == 1
    loss = crf_loss(tagset, logits, [good, bad])
    torch.testing.assert_close(loss, crf_loss(tagset, logits[:1], [good]))
    first, second = torch.autograd.grad(loss, logits)
    assert first.abs().max() > 0
    assert (second == 0).all()


def test_rounding_does_not_grow_with_the_text():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 4, (600, len(BILOU.tags))))
    target = [torch.from_numpy(np.where(rng.random(600) < 0.5, BILOU.outside, MISSING))]
    gradients = []
    for dtype in (torch.float64, torch.float32):
        rows = logits.to(dtype).requires_grad_()
        gradients += torch.autograd.grad(crf_loss(BILOU, [rows], target), rows)
    torch.testing.assert_close(gradients[1].double(), gradients[0], rtol=0, atol=1e-4)


# In the component


@pytest.fixture(scope="module")
def vocabulary(tiny_spm, tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    path.write_bytes(tiny_spm)
    return path


def with_crf(vocabulary) -> spacy.Language:
    nlp = initialized(vocabulary, ["ner"])
    nlp.get_pipe("ner").loss = "crf"
    return nlp


def test_ten_sentences_are_learned_by_heart(vocabulary):
    nlp = with_crf(vocabulary)
    losses = train(nlp, examples(nlp), 40)
    assert losses["ner"] < 0.1
    for row, text in enumerate(TEXTS):
        assert found(nlp, text) == gold(nlp, row)


def test_the_loss_of_a_batch_is_over_its_annotated_tokens(vocabulary):
    nlp = with_crf(vocabulary)
    ner, data = nlp.get_pipe("ner"), examples(nlp)
    data[0].reference.set_ents([], missing=[data[0].reference[:]])
    logits = ner.answers([example.predicted for example in data])
    loss, gradient = ner.get_loss(data, [rows.clone() for rows in logits])
    tags = [ner.tagset.encode(e.get_aligned_ner(), np.arange(len(e.predicted))) for e in data]
    expected = crf_loss(ner.tagset, logits, list(map(torch.from_numpy, tags)))
    n_annotated = sum(len(example.predicted) for example in data[1:])
    assert loss == pytest.approx(expected.item() / n_annotated)
    assert gradient.n_terms == n_annotated
    assert (gradient.by_doc[0] == 0).all()
    assert all(rows.abs().max() > 0 for rows in gradient.by_doc[1:])


def test_documents_without_pieces_teach_nothing(vocabulary):
    nlp = with_crf(vocabulary)
    before = weights(nlp, "ner")
    doc = Doc(nlp.vocab, words=[" ", "\u200b"], spaces=[False, False])
    reference = doc.copy()
    reference.set_ents([])
    losses = nlp.update([Example(doc, reference)], sgd=Optimizer(0.1, L2=0.0))
    assert losses["ner"] == 0
    assert equal(before, weights(nlp, "ner"))


def test_the_choice_of_loss_is_part_of_the_pipeline(tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("albert")
    assert nlp.add_pipe("albert_ner", name="old").loss == "tokens"
    nlp.add_pipe("albert_ner", name="ner", config={"loss": "crf"})
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert (loaded.get_pipe("old").loss, loaded.get_pipe("ner").loss) == ("tokens", "crf")
    with pytest.raises(ValueError, match=r"'again' has no loss 'CRF'\. Choose from: 'tokens'"):
        nlp.add_pipe("albert_ner", name="again", config={"loss": "CRF"})
