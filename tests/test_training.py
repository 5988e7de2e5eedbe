"""Training: the right gradients reach the right weights, and steps do what the optimizer says."""

import copy
from pathlib import Path

import pytest
import sentencepiece
import spacy
import srsly
import torch
import torch.nn.functional as F
from spacy.language import Language
from spacy.training import Example
from spacy.training.loop import subdivide_batch
from thinc.api import Optimizer
from torch import Tensor
from util import (
    FACTORIES,
    SENTENCES,
    TEXTS,
    blank,
    equal,
    examples,
    finish,
    found,
    gold,
    initialized,
    parse,
    train,
    weights,
)

from spacy_albert.components.pipe import shims
from spacy_albert.engine import Engine
from spacy_albert.modeling import Albert
from spacy_albert.texts import texts_of


@pytest.fixture(scope="module")
def vocabulary(tiny_spm: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    path.write_bytes(tiny_spm)
    return path


# Overfitting: everything together


@pytest.mark.parametrize(
    ("heads", "own", "loop"),
    [
        (["ner"], [], True),
        (["textcat"], [], False),
        (["topics"], [], True),
        (list(FACTORIES), [], True),
        (list(FACTORIES), [], False),
        ([], ["ner"], True),
        ([], ["topics"], False),
        (["textcat"], ["ner"], True),
    ],
)
def test_ten_sentences_are_learned_by_heart(vocabulary, heads, own, loop):
    nlp = initialized(vocabulary, heads, own)
    losses = train(nlp, examples(nlp), loop=loop)
    assert set(losses) == set(nlp.pipe_names)
    for row, text in enumerate(TEXTS):
        assert found(nlp, text) == gold(nlp, row)


# Gradients: against the same graph written in plain torch


def plain_gradients(nlp: Language, data: list[Example], spm: bytes) -> dict[str, Tensor]:
    """One graph from the pieces to the sum of the heads' losses, with the pipeline's weights.

    Texts are words between single spaces, each within one window, so that pieces and their tokens
    can be had from sentencepiece word by word.
    """
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=spm)
    old = nlp.get_pipe("albert").model.shims[0].module
    model = Albert(old.config).double()
    model.load_state_dict(old.state_dict())
    heads = {
        name: {key: tensor.requires_grad_() for key, tensor in weights(nlp, name).items()}
        for name in FACTORIES
    }
    losses: dict[str, list[Tensor]] = {name: [] for name in FACTORIES}
    for example in data:
        ids, tokens = [2], []
        for word in example.text.split(" "):
            pieces = tokenizer.encode(word.lower())
            shown = [i for i, p in enumerate(pieces) if tokenizer.id_to_piece(p) != "▁"]
            tokens.append([len(ids) + i for i in shown])
            ids += pieces
        states = model(torch.tensor([[*ids, 3]]))[0]  # (S, H)

        head = heads["ner"]
        tags = nlp.get_pipe("ner").cfg["tags"]
        for token, tag in zip(tokens, example.get_aligned_ner(), strict=True):
            logits = F.linear(
                states[token].mean(0),
                head["head.classifier.weight"],
                head["head.classifier.bias"],
            )
            if tag is not None:
                losses["ner"].append(-logits.log_softmax(0)[tags.index(tag)])

        cats = example.reference.cats
        for name in ("textcat", "topics"):
            head = heads[name]
            pooled = F.linear(
                states[0], head["head.pooler.weight"], head["head.pooler.bias"]
            ).tanh()
            logits = F.linear(pooled, head["head.classifier.weight"], head["head.classifier.bias"])
            for i, label in enumerate(nlp.get_pipe(name).labels):
                if name == "textcat" and cats.get(label) == 1:
                    losses[name].append(-logits.log_softmax(0)[i])
                elif name == "topics" and label in cats:
                    sign = 1 if cats[label] else -1
                    losses[name].append(-F.logsigmoid(sign * logits[i]))
    total = sum(torch.stack(terms).mean() for terms in losses.values())
    total.backward()
    found = {f"albert.encoder.{key}": weight.grad for key, weight in model.named_parameters()}
    for name, head in heads.items():
        found |= {f"{name}.{key}": weight.grad for key, weight in head.items()}
    return {key: torch.zeros(()) if grad is None else grad for key, grad in found.items()}


def all_weights(nlp: Language) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name in nlp.pipe_names
        for key, tensor in weights(nlp, name).items()
    }


@pytest.fixture
def double(vocabulary) -> Language:
    """A pipeline that computes in float64, so that rounding hides nothing."""
    nlp = initialized(vocabulary)
    for _, component in nlp.pipeline:
        component.model.shims[0].module.double()
    return nlp


@pytest.mark.parametrize("annotated", ["all heads", "one head each", "some tokens"])
@pytest.mark.parametrize("way", ["sgd", "finish_update", "two batches", "accumulate_gradient"])
def test_gradients_are_those_of_one_graph_in_plain_torch(double, tiny_spm, way, annotated):
    nlp = double
    data = examples(nlp)
    if annotated == "one head each":
        by_head = [examples(nlp, [name]) for name in FACTORIES]
        data = [by_head[row % 3][row] for row in range(len(data))]
    if annotated == "some tokens":
        for example in data:
            doc = example.reference
            unknown = [doc[i : i + 1] for i in range(0, len(doc), 2) if not doc[i].ent_type]
            doc.set_ents([], missing=unknown, default="unmodified")
    batches = {
        "two batches": [data[:6], data[6:]],
        "accumulate_gradient": list(subdivide_batch(data, 3)),
    }.get(way, [data])
    expected = plain_gradients(nlp, data, tiny_spm)
    before = all_weights(nlp)
    step = Optimizer(1.0, L2=0.0, beta1=0.0, beta2=0.0, grad_clip=0.0, use_averages=False)
    if way == "sgd":
        nlp.update(data, sgd=step)
        nlp.to_bytes()  # the encoder steps when its weights are next wanted
    else:
        for batch in batches:
            nlp.update(batch, sgd=False)
        finish(nlp, step)
    after = all_weights(nlp)
    assert any(grad.abs().max() > 0.01 for key, grad in expected.items() if "encoder" in key)
    for key in before:
        difference = (before[key] - after[key] - expected[key]).abs().max()
        assert difference < 1e-9, f"{key}: {difference}"


def test_an_encoder_of_its_own_learns_what_a_shared_one_does(vocabulary):
    shared, own = (initialized(vocabulary, ["ner"]) for _ in range(2))
    own.replace_listeners("albert", "ner", ["model.tok2vec"])
    for nlp in (shared, own):
        for _, component in nlp.pipeline:
            for shim in shims(component.model):
                shim.module.double()  # else Adam makes steps of what is nothing but rounding
        train(nlp, examples(nlp), 2, exclude=["albert"] if nlp is own else [])
    together = weights(shared, "albert") | weights(shared, "ner")
    apart = weights(own, "ner")
    assert together.keys() == apart.keys()
    for key, weight in together.items():
        torch.testing.assert_close(apart[key], weight)


@pytest.mark.parametrize("own", [["ner"], ["topics"]])
def test_a_step_is_the_same_in_however_many_batches(vocabulary, own):
    """As above, for a head that has its encoder to itself."""
    step = Optimizer(1.0, L2=0.0, beta1=0.0, beta2=0.0, grad_clip=0.0, use_averages=False)
    start, *ends = (initialized(vocabulary, [], own) for _ in range(4))
    for nlp, n_batches in zip(ends, (1, 2, 3)):
        for batch in subdivide_batch(examples(nlp), n_batches):
            nlp.update(batch, sgd=False)
        finish(nlp, step)
    once, *others = map(all_weights, ends)
    assert not equal(all_weights(start), once)
    for other in others:
        for key, weight in once.items():
            torch.testing.assert_close(other[key], weight, rtol=1e-4, atol=1e-5)


def test_gradients_of_long_documents_are_finite_differences(double):
    nlp = double
    text, entities = "", []
    for marked, _, _ in SENTENCES * 6:
        plain, found_here = parse(marked)
        entities += [
            (start + len(text), end + len(text), label) for start, end, label in found_here
        ]
        text += plain + " "
    long = Example.from_dict(
        nlp.make_doc(text),
        {"entities": entities, "cats": {"good": 1.0, "bad": 0.0, "city": 1.0, "book": 0.0}},
    )
    data = [*examples(nlp)[:2], long]
    parameters = [
        weight
        for _, component in nlp.pipeline
        for weight in component.model.shims[0].module.parameters()
    ]
    torch.manual_seed(0)
    direction = [torch.randn_like(weight) for weight in parameters]

    def loss_at(distance: float) -> float:
        with torch.no_grad():
            for weight, way in zip(parameters, direction, strict=True):
                weight += distance * way
        loss = sum(nlp.update(data, sgd=False, losses={}).values())
        nlp.to_bytes()  # goes backward before the weights move
        with torch.no_grad():
            for weight, way in zip(parameters, direction, strict=True):
                weight -= distance * way
        return loss

    slope = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
    settings = {"beta1": 0.0, "beta2": 0.0, "L2": 0.0, "grad_clip": 0.0, "use_averages": False}
    finish(nlp, Optimizer(0.0, **settings))  # clear gradients
    before = [weight.detach().clone() for weight in parameters]
    nlp.update(data, sgd=False)
    finish(nlp, Optimizer(1.0, **settings))
    expected = sum(
        ((old - new.detach()) * way).sum().item()
        for old, new, way in zip(before, parameters, direction, strict=True)
    )
    reader = nlp.get_pipe("albert").model.shims[0].reader
    assert len(reader.prepare(texts_of([long.predicted])).window_starts) > 2
    assert abs(slope) > 0.1
    assert slope == pytest.approx(expected, rel=1e-5)


def test_documents_without_annotation_teach_nothing(vocabulary):
    nlp = initialized(vocabulary)
    before = all_weights(nlp)
    losses = nlp.update(examples(nlp, []), sgd=Optimizer(1.0, beta1=0.0, beta2=0.0, L2=0.0))
    nlp.to_bytes()
    assert losses == {"albert": 0.0, "ner": 0.0, "textcat": 0.0, "topics": 0.0}
    assert equal(before, all_weights(nlp))


def test_empty_documents_among_others_change_nothing(double):
    nlp = double
    data = examples(nlp)[:3]
    step = Optimizer(1.0, L2=0.0, beta1=0.0, beta2=0.0, grad_clip=0.0, use_averages=False)
    weights_after = []
    start = nlp.to_bytes()
    for extra in ([], [Example.from_dict(nlp.make_doc(text), {}) for text in ("", "  ", "\n")]):
        nlp.from_bytes(start)
        for _, component in nlp.pipeline:
            component.model.shims[0].module.double()
        nlp.update(data + extra, sgd=False)
        finish(nlp, step)
        weights_after.append(all_weights(nlp))
    for key, weight in weights_after[0].items():
        torch.testing.assert_close(weights_after[1][key], weight)


def test_a_batch_of_nothing_but_empty_documents_is_passed_over(vocabulary):
    nlp = initialized(vocabulary)
    before = all_weights(nlp)
    for texts in ([], [""], ["", ""]):
        nlp.update([Example.from_dict(nlp.make_doc(t), {}) for t in texts], sgd=Optimizer(0.1))
    assert equal(before, all_weights(nlp))


# Precision


def test_bfloat16_learns_what_float32_does(vocabulary):
    """The weights stay in float32, the first step leads about the same way, and all is learned."""
    ways = {}
    for precision in ("float32", "bfloat16"):
        nlp = initialized(vocabulary, encoder={"training_precision": precision})
        before = weights(nlp, "albert")
        nlp.update(examples(nlp), sgd=False)
        finish(nlp, optimizer(beta1=0.0, beta2=0.0))
        after = weights(nlp, "albert")
        assert {weight.dtype for weight in after.values()} == {torch.float32}
        ways[precision] = torch.cat([(before[key] - after[key]).flatten() for key in before])
    error = (ways["bfloat16"] - ways["float32"]).norm() / ways["float32"].norm()
    assert 1e-4 < error < 0.05
    train(nlp, examples(nlp))
    for row, text in enumerate(TEXTS):
        assert found(nlp, text) == gold(nlp, row)


# Frozen and annotating components


@pytest.mark.parametrize("annotates", [[], ["albert"]])
def test_a_frozen_encoder_trains_heads_and_stays_as_it_is(vocabulary, annotates):
    nlp = initialized(vocabulary)
    before = nlp.get_pipe("albert").to_bytes()
    first = train(nlp, examples(nlp), 1, exclude=["albert"], annotates=annotates)
    last = train(nlp, examples(nlp), 30, exclude=["albert"], annotates=annotates)
    assert nlp.get_pipe("albert").to_bytes() == before
    assert all(last[name] < 0.9 * first[name] for name in FACTORIES)


def test_a_frozen_encoder_is_read_as_in_annotation(vocabulary, monkeypatch):
    """Without a graph, and by whatever is fastest there."""
    nlp = initialized(vocabulary)
    with_graph = []
    read = Engine.__call__

    def watched(self, *args):
        states = read(self, *args)
        with_graph.append((torch.is_grad_enabled(), states.requires_grad))
        return states

    monkeypatch.setattr(Engine, "__call__", watched)
    train(nlp, examples(nlp), 1, exclude=["albert"])
    assert set(with_graph) == {(False, False)}
    train(nlp, examples(nlp), 1)
    assert with_graph[-1] == (True, True)


def test_a_frozen_encoder_has_weights_though_spacy_does_not_initialize_it(vocabulary):
    nlp = blank(vocabulary)
    with nlp.select_pipes(disable=["albert"]):  # as spacy.training.initialize does
        nlp.initialize(lambda: examples(nlp))
    assert found(nlp, TEXTS[0]).keys() == FACTORIES.keys()
    bare = blank(vocabulary)
    bare.config["initialize"]["components"]["albert"] = {}
    with (
        bare.select_pipes(disable=["albert"]),
        pytest.raises(ValueError, match="encoder has no weights"),
    ):
        bare.initialize(lambda: examples(bare))


def test_a_frozen_head_stays_while_the_encoder_trains(vocabulary):
    nlp = initialized(vocabulary)
    before = all_weights(nlp)
    train(nlp, examples(nlp), 2, exclude=["ner"])
    after = all_weights(nlp)
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"albert", "textcat", "topics"}


def test_annotating_components_annotate_between_updates(vocabulary):
    nlp = initialized(vocabulary, ["ner"])
    train(nlp, examples(nlp))
    seen = []

    @Language.component("test_look")
    def look(doc):
        return doc

    class Looker:
        def update(self, batch, **_):
            seen.extend([ent.text for ent in eg.predicted.ents] for eg in batch)

        def __call__(self, doc):
            return doc

    nlp.add_pipe("test_look", name="look")
    nlp._components[-1] = ("look", Looker())
    train(nlp, examples(nlp), 1, annotates=["albert", "ner"], loop=False)
    assert seen == [[ent.text for ent in eg.reference.ents] for eg in examples(nlp)]


@pytest.mark.parametrize("annotates", [["albert"], ["albert", "ner"]])
@pytest.mark.parametrize("loop", [True, False])
def test_annotating_does_not_disturb_training(vocabulary, annotates, loop):
    pipelines = [initialized(vocabulary) for _ in range(2)]
    for nlp, names in zip(pipelines, ([], annotates)):
        train(nlp, examples(nlp), 3, loop=loop, annotates=names)
    assert equal(*map(all_weights, pipelines))


def test_a_head_that_learns_from_other_documents_than_its_encoder_is_an_error(vocabulary):
    nlp = initialized(vocabulary)
    nlp.get_pipe("albert").update(examples(nlp))
    with pytest.raises(ValueError, match="'albert' was updated with other documents"):
        nlp.get_pipe("ner").update(examples(nlp))


# Labels and annotation that do not fit


def test_an_unknown_entity_label_is_named(vocabulary):
    nlp = initialized(vocabulary)
    doc = nlp.make_doc("Michael ate")
    with pytest.raises(ValueError, match=r"labelled FOOD.*knows LOC, ORG, PER"):
        nlp.update([Example.from_dict(doc, {"entities": [(8, 11, "FOOD")]})])


@pytest.mark.parametrize(
    ("cats", "message"),
    [
        ({"good": 1.0, "bad": 1.0}, "'textcat' has exclusive classes.*albert_textcat_multilabel"),
        ({"good": 0.5, "bad": 0.5}, "must be 0 or 1"),
    ],
)
def test_classes_that_contradict_each_other_are_an_error(vocabulary, cats, message):
    nlp = blank(vocabulary, ["textcat"])
    data = [Example.from_dict(nlp.make_doc("so good"), {"cats": cats})]
    nlp.initialize(lambda: examples(nlp))
    with pytest.raises(ValueError, match=message):
        nlp.update(data)
    del nlp.config["initialize"]["components"]["textcat"]["labels"]
    with pytest.raises(ValueError, match=message):
        nlp.initialize(lambda: data)


def test_one_exclusive_class_is_no_choice(vocabulary):
    nlp = blank(vocabulary, ["textcat"])
    nlp.config["initialize"]["components"]["textcat"]["labels"] = ["good"]
    with pytest.raises(ValueError, match=r"only 'good'.*albert_textcat_multilabel"):
        nlp.initialize(lambda: examples(nlp))


def test_one_class_among_any_number_is_fine(vocabulary):
    nlp = blank(vocabulary, ["topics"])
    nlp.config["initialize"]["components"]["topics"]["labels"] = ["city"]
    nlp.initialize(lambda: examples(nlp))
    train(nlp, examples(nlp), 20)
    assert [nlp(text).cats["city"] > 0.5 for text in TEXTS] == [
        "city" in topics for _, _, topics in SENTENCES
    ]


def test_a_listening_head_has_no_encoder_to_initialize(vocabulary):
    nlp = blank(vocabulary, ["ner"])
    settings = nlp.config["initialize"]["components"]
    settings["ner"] = settings["albert"]
    with pytest.raises(ValueError, match="'ner' listens to a shared encoder"):
        nlp.initialize(lambda: examples(nlp))


def test_training_data_without_labels_is_an_error(vocabulary):
    nlp = blank(vocabulary, ["ner"])
    with pytest.raises(ValueError, match="E143"):
        nlp.initialize(lambda: examples(nlp, []))


# Scores


def test_scores_do_not_count_missing_annotation(vocabulary):
    """Documents of one task beside those of another change neither's scores."""
    nlp = initialized(vocabulary, ["ner", "textcat"])
    train(nlp, examples(nlp, ["ner", "textcat"]), 40)
    of_ner, of_cats = (nlp.evaluate(examples(nlp, [head])) for head in ("ner", "textcat"))
    together = nlp.evaluate(examples(nlp, ["ner"]) + examples(nlp, ["textcat"]))
    for key, value in together.items():
        if key.startswith("ents_"):
            assert value == of_ner[key]
        if key.startswith("cats_"):
            assert value == of_cats[key]
    assert of_ner["cats_score"] == 0
    assert together["cats_score"] > 0
    assert together["ents_f"] > 0


# The optimizer


def optimizer(**settings) -> Optimizer:
    return Optimizer(0.01, **{"L2": 0.0, "grad_clip": 0.0, "use_averages": False, **settings})


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({}, lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.0)),
        ({"beta1": 0.8, "beta2": 0.9, "eps": 1e-4},
         lambda p: torch.optim.AdamW(p, 0.01, (0.8, 0.9), 1e-4, weight_decay=0.0)),
        ({"L2": 0.3}, lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3)),
        ({"L2": 0.3, "L2_is_weight_decay": False},
         lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.3)),
        ({"use_radam": True, "L2": 0.3},
         lambda p: torch.optim.RAdam(p, 0.01, weight_decay=0.3, decoupled_weight_decay=True)),
        ({"beta1": 0.0, "beta2": 0.0, "L2": 0.3, "L2_is_weight_decay": False},
         lambda p: torch.optim.SGD(p, 0.01, weight_decay=0.3)),
    ],
)  # fmt: skip
def test_steps_are_those_of_torch(vocabulary, settings, reference):
    nlp = initialized(vocabulary, ["ner"])
    shim = nlp.get_pipe("ner").model.shims[0]
    matrix = shim.module.classifier.weight
    plain = matrix.detach().clone().requires_grad_()
    stepper, sgd = reference([plain]), optimizer(**settings)
    for seed in range(8):
        torch.manual_seed(seed)
        plain.grad = torch.randn_like(plain)
        matrix.grad = plain.grad.clone()
        stepper.step()
        shim.finish_update(sgd)
        assert matrix.grad is None
        torch.testing.assert_close(matrix.detach(), plain.detach(), rtol=0, atol=1e-7)


def test_steps_and_averages_are_those_of_thinc_too(vocabulary):
    nlp = initialized(vocabulary, ["ner"])
    shim = nlp.get_pipe("ner").model.shims[0]
    matrix = shim.module.classifier.weight
    theirs = matrix.detach().numpy().copy()
    ours_sgd, their_sgd = optimizer(use_averages=True), optimizer(use_averages=True)
    for seed in range(5):
        torch.manual_seed(seed)
        grad = torch.randn_like(matrix)
        matrix.grad = grad
        theirs, _ = their_sgd((0, "W"), theirs, grad.numpy().copy())
        shim.finish_update(ours_sgd)
    torch.testing.assert_close(matrix.detach(), torch.from_numpy(theirs), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        ours_sgd.averages[shim.id, "classifier.weight"],
        torch.from_numpy(their_sgd.averages[0, "W"]),
        rtol=0,
        atol=1e-5,
    )


def test_the_learning_rate_follows_its_schedule(vocabulary):
    nlp = initialized(vocabulary, ["ner"])
    sgd = Optimizer(
        iter([0.5, 0.25, 0.0]), beta1=0.0, beta2=0.0, L2=0.0, grad_clip=0.0, use_averages=False
    )
    for rate in (0.5, 0.25, 0.0):
        before = weights(nlp, "ner")
        nlp.update(examples(nlp), sgd=False)
        shim = nlp.get_pipe("ner").model.shims[0]
        grad = shim.module.classifier.bias.grad / shim.n_terms
        finish(nlp, sgd)
        step = before["head.classifier.bias"] - weights(nlp, "ner")["head.classifier.bias"]
        torch.testing.assert_close(step, rate * grad, rtol=0, atol=1e-7)


def test_an_encoder_can_learn_more_slowly_than_its_heads(vocabulary):
    """Shared or its own, it steps at its own share of the rate; its heads at all of it."""
    moved = {}
    for factor in (1.0, 0.25):
        nlp = initialized(vocabulary, ["textcat"], ["ner"], encoder={"learn_rate_factor": factor})
        before = all_weights(nlp)
        nlp.update(examples(nlp), sgd=False)
        finish(nlp, optimizer(beta1=0.0, beta2=0.0))
        after = all_weights(nlp)
        moved[factor] = {key: before[key] - after[key] for key in before}
    for key, whole in moved[1.0].items():
        share = 0.25 if ".encoder." in key else 1.0
        torch.testing.assert_close(moved[0.25][key], share * whole, rtol=1e-3, atol=1e-7)
    assert any(step.abs().max() > 1e-4 for key, step in moved[1.0].items() if ".encoder." in key)


def test_an_encoder_that_does_not_learn_is_frozen_instead(vocabulary):
    with pytest.raises(ValueError, match=r"learn_rate_factor is 0.0.*frozen_components"):
        blank(vocabulary, ["ner"], encoder={"learn_rate_factor": 0.0})


def test_biases_and_layer_norms_do_not_decay(vocabulary):
    nlp = initialized(vocabulary)
    before = all_weights(nlp)
    nlp.update(examples(nlp, []), sgd=False)  # gradients of zero: nothing but decay
    finish(nlp, optimizer(L2=0.5))
    after = all_weights(nlp)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert "albert.encoder.embeddings.words.weight" in moved
    for key in moved:
        torch.testing.assert_close(after[key], before[key] * (1 - 0.01 * 0.5))
    assert not any(key.endswith("bias") or "norm" in key.lower() for key in moved)


def test_gradients_are_clipped_by_their_norm_over_the_module(vocabulary):
    nlp = initialized(vocabulary)
    before = weights(nlp, "albert")
    nlp.update(examples(nlp), sgd=False)
    finish(nlp, Optimizer(1.0, beta1=0.0, beta2=0.0, L2=0.0, grad_clip=1e-2, use_averages=False))
    after = weights(nlp, "albert")
    norm = torch.cat([(before[key] - after[key]).flatten() for key in before]).norm()
    assert norm.item() == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize("loop", [True, False])
def test_averages_stand_in_for_the_weights_for_a_while(vocabulary, loop):
    nlp = initialized(vocabulary)
    sgd = optimizer(use_averages=True)
    expected: dict[str, Tensor] = {}
    for step in range(1, 4):
        if loop:
            nlp.update(examples(nlp), sgd=False)
            finish(nlp, sgd)
        else:
            nlp.update(examples(nlp), sgd=sgd)
            nlp.to_bytes()
        decay = min((1 + step) / (10 + step), 0.9999)
        for key, weight in all_weights(nlp).items():
            if step == 1:
                expected[key] = torch.zeros_like(weight)
            expected[key] += (1 - decay) * (weight - expected[key])
    trained = all_weights(nlp)
    with nlp.use_params(sgd.averages):
        for key, weight in all_weights(nlp).items():
            torch.testing.assert_close(weight, expected[key])
        assert nlp(TEXTS[0]).cats
    assert equal(trained, all_weights(nlp))


def test_a_step_that_waits_is_taken_before_averages_stand_in(vocabulary):
    nlp, other = (initialized(vocabulary, ["ner"]) for _ in range(2))
    for pipeline in (nlp, other):
        pipeline.update(examples(pipeline), sgd=optimizer())
    other.to_bytes()
    shim = nlp.get_pipe("albert").model.shims[0]
    zeros = {(shim.id, name): torch.zeros_like(p) for name, p in shim.module.named_parameters()}
    with nlp.use_params(zeros):
        nlp(TEXTS[0])
    assert equal(all_weights(nlp), all_weights(other))


def test_a_head_that_has_grown_goes_on_learning(vocabulary):
    nlp = initialized(vocabulary, ["topics"])
    train(nlp, examples(nlp), 1)
    nlp.get_pipe("topics").add_label("new")
    before = weights(nlp, "topics")
    train(nlp, examples(nlp), 1)
    moved = before["head.classifier.weight"] != weights(nlp, "topics")["head.classifier.weight"]
    assert moved.any(dim=1).tolist() == [True, True, True, False]  # "new" has no annotation


def test_dropout_of_spacy_drops_inside_heads_only(vocabulary):
    nlp = initialized(vocabulary)
    batch = examples(nlp)
    exact = [nlp.update(batch, sgd=False, losses={}) for _ in range(2)]
    dropped = [nlp.update(batch, sgd=False, losses={}, drop=0.5) for _ in range(2)]
    assert exact[0] == exact[1]
    assert all(dropped[0][name] != dropped[1][name] for name in FACTORIES)
    assert nlp(TEXTS[0]).cats == nlp(TEXTS[0]).cats


def test_dropout_of_the_checkpoint_drops_in_training_only(vocabulary):
    nlp = initialized(vocabulary, hidden_dropout_prob=0.3)
    batch = examples(nlp)
    trained = [nlp.update(batch, sgd=False, losses={}) for _ in range(2)]
    frozen = [nlp.update(batch, sgd=False, losses={}, exclude=["albert"]) for _ in range(2)]
    assert all(trained[0][name] != trained[1][name] for name in FACTORIES)
    assert frozen[0] == frozen[1]
    assert nlp(TEXTS[0]).cats == nlp(TEXTS[0]).cats


@pytest.fixture(scope="module")
def checkpoint(vocabulary, tmp_path_factory) -> Path:
    """A pipeline whose encoder drops everywhere but in attention."""
    path = tmp_path_factory.mktemp("checkpoint")
    initialized(vocabulary, ["ner"], hidden_dropout_prob=0.25).to_disk(path)
    return path


def begun(vocabulary: Path, checkpoint: Path, own: tuple = (), **settings) -> Language:
    """A pipeline from a checkpoint, with the same heads every time."""
    nlp = blank(vocabulary, [head for head in FACTORIES if head not in own], own)
    start = {"@misc": "spacy-albert.Checkpoint.v1", "path": str(checkpoint), **settings}
    for name in ("albert", *own):
        nlp.config["initialize"]["components"][name]["encoder"] = start
    torch.manual_seed(0)
    nlp.initialize(lambda: examples(nlp))
    return nlp


def dropouts(nlp: Language, name: str = "albert") -> tuple[float, float]:
    (encoder,) = [s for s in shims(nlp.get_pipe(name).model) if s.folder == "encoder"]
    config = encoder.module.config
    return config.hidden_dropout_prob, config.attention_probs_dropout_prob


def losses_of(nlp: Language, seed: int, **kwargs) -> dict[str, float]:
    torch.manual_seed(seed)
    return nlp.update(examples(nlp), sgd=False, losses={}, **kwargs)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (0.25, 0.0)),
        ({"dropout": None}, (0.25, 0.0)),
        ({"dropout": 0.0}, (0.0, 0.0)),
        ({"dropout": 0.1}, (0.1, 0.1)),
    ],
)
def test_dropout_inside_an_encoder_is_set_and_stays(
    vocabulary, checkpoint, tmp_path, settings, expected
):
    nlp = begun(vocabulary, checkpoint, ("ner",), **settings)
    assert dropouts(nlp) == dropouts(nlp, "ner") == expected
    assert equal(weights(nlp, "albert"), weights(spacy.load(checkpoint), "albert"))
    nlp.to_disk(tmp_path)
    for name in ("albert", "ner"):
        saved = srsly.read_json(tmp_path / name / "encoder" / "config.json")
        assert saved["hidden_dropout_prob"] == expected[0]
        assert saved["attention_probs_dropout_prob"] == expected[1]
    for again in (spacy.load(tmp_path), blank(vocabulary, ["textcat", "topics"], ["ner"])):
        again.from_bytes(nlp.to_bytes())
        assert dropouts(again) == dropouts(again, "ner") == expected
        again.replace_listeners("albert", "textcat", ["model.tok2vec"])
        assert dropouts(again, "textcat") == expected
    assert dropouts(begun(vocabulary, tmp_path / "albert" / "encoder")) == expected


def test_an_encoder_drops_what_is_set_in_training_only(vocabulary, checkpoint):
    nlp = begun(vocabulary, checkpoint, dropout=0.3)
    first, again, other = (losses_of(nlp, seed) for seed in (1, 1, 2))
    assert first == again
    assert all(first[name] != other[name] for name in FACTORIES)
    assert losses_of(nlp, 1, exclude=["albert"]) == losses_of(nlp, 2, exclude=["albert"])
    exact = begun(vocabulary, checkpoint, dropout=0.0)
    assert losses_of(exact, 1) == losses_of(exact, 2)
    for text in TEXTS:
        assert nlp(text).cats == exact(text).cats


def test_training_goes_on_with_the_dropout_it_had(vocabulary, checkpoint, tmp_path):
    nlp = begun(vocabulary, checkpoint, dropout=0.3)
    train(nlp, examples(nlp), 2)
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    for seed in (1, 2):
        assert losses_of(nlp, seed) == pytest.approx(losses_of(again, seed), abs=1e-6)


def test_an_encoder_that_replaces_a_listener_drops_in_training_only(vocabulary, checkpoint):
    nlp = begun(vocabulary, checkpoint, dropout=0.3)
    nlp.replace_listeners("albert", "textcat", ["model.tok2vec"])
    assert (
        losses_of(nlp, 1)["textcat"] == losses_of(nlp, 1)["textcat"] != losses_of(nlp, 2)["textcat"]
    )
    # frozen, the one that the others share does not hinder it
    frozen = [losses_of(nlp, seed, exclude=["albert"]) for seed in (1, 2)]
    assert frozen[0]["ner"] == frozen[1]["ner"]
    assert frozen[0]["textcat"] != frozen[1]["textcat"]
    assert nlp(TEXTS[0]).cats == nlp(TEXTS[0]).cats


def test_a_frozen_encoder_has_the_dropout_that_the_config_sets(vocabulary, checkpoint):
    nlp = blank(vocabulary)
    nlp.config["initialize"]["components"]["albert"]["encoder"] = {
        "@misc": "spacy-albert.Checkpoint.v1",
        "path": str(checkpoint),
        "dropout": 0.3,
    }
    with nlp.select_pipes(disable=["albert"]):  # as spacy.training.initialize does
        nlp.initialize(lambda: examples(nlp))
    assert dropouts(nlp) == (0.3, 0.3)
    assert losses_of(nlp, 1, exclude=["albert"]) == losses_of(nlp, 2, exclude=["albert"])


@pytest.mark.parametrize("dropout", [1.0, -0.1, 10.0])
def test_dropout_that_is_no_probability_is_an_error(vocabulary, checkpoint, dropout):
    message = rf"dropout of spacy-albert.Checkpoint.v1 is {dropout}; .* probability below 1"
    with pytest.raises(ValueError, match=message):
        begun(vocabulary, checkpoint, dropout=dropout)


def test_training_goes_on_from_where_a_saved_pipeline_stands(vocabulary, tmp_path):
    nlp = initialized(vocabulary)
    train(nlp, examples(nlp), 3)
    again = blank(vocabulary).from_bytes(nlp.to_bytes())
    losses = [train(p, examples(p), 1, loop=False) for p in (nlp, again)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_annotation_is_with_the_weights_of_the_last_step(vocabulary):
    nlp = initialized(vocabulary)
    for _ in range(2):
        nlp(TEXTS[0])
        train(nlp, examples(nlp), 1)
    again = blank(vocabulary).from_bytes(nlp.to_bytes())
    assert nlp(TEXTS[0]).cats == pytest.approx(again(TEXTS[0]).cats, abs=1e-6)


def test_models_copy_with_their_weights(vocabulary):
    nlp = initialized(vocabulary, ["textcat"], ["ner"])
    for name in ("albert", "ner"):
        model = nlp.get_pipe(name).model
        for copied in (model.copy(), copy.deepcopy(model)):
            assert copied.to_bytes() == model.to_bytes()
            pairs = zip(model.walk(), copied.walk(), strict=True)
            shims = [(a.shims[0], b.shims[0]) for a, b in pairs if a.shims]
            assert shims
            for ours, theirs in shims:
                assert ours.id != theirs.id
                for p, q in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
                    assert p.data_ptr() != q.data_ptr()
