"""Calibrated scores: what they are, how they are learned, and where the settings are kept."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import spacy
import srsly
import torch
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from test_tagging import SCHEMES, valid_taggings
from typer.testing import CliRunner
from util import TEXTS, examples, initialized, train

from spacy_albert.calibration import (
    ENOUGH,
    Answers,
    Finding,
    Outcomes,
    answers_of,
    calibrate,
    calibration_error,
    compare_classes,
    compare_entities,
    error_by_chance,
    fit,
    score,
)
from spacy_albert.cli import albert_cli
from spacy_albert.engine import PRECISIONS

HEADS = ("ner", "textcat", "topics")

# How far scores are off


def said(scores, true) -> Outcomes:
    return Outcomes(np.array(scores, dtype=float), np.array(true, dtype=bool), 0.0)


scored = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(scored, st.integers(1, 20))
def test_the_error_is_that_of_the_paper(pairs, n_bins):
    """Guo et al. (2017), equations 2 to 5: bins are ((m - 1) / M, m / M]."""
    edges, total = np.linspace(0, 1, n_bins + 1), 0.0
    for low, high in pairwise(edges):
        inside = [pair for pair in pairs if low < pair[0] <= high or pair[0] == low == 0]
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            total += len(inside) / len(pairs) * abs(accuracy - confidence)
    assert calibration_error(said(*zip(*pairs)), n_bins) == pytest.approx(total, abs=1e-12)


@given(st.integers(1, 12), st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_bins_of_equal_mass_have_as_many_scores_each(n_bins, per_bin, seed):
    """Nixon et al. (2019): the scores in order, cut into equal parts."""
    rng = np.random.default_rng(seed)
    scores = rng.random(n_bins * per_bin)
    true = rng.random(len(scores)) < scores
    parts = np.array_split(np.argsort(scores), n_bins)
    gaps = [abs(true[part].mean() - scores[part].mean()) for part in parts]
    found = calibration_error(said(scores, true), n_bins, equal_mass=True)
    assert found == pytest.approx(np.mean(gaps), abs=1e-12)


@pytest.mark.parametrize(("equal_mass", "strategy"), [(False, "uniform"), (True, "quantile")])
def test_bins_are_those_of_scikit_learn(equal_mass, strategy):
    calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve
    rng = np.random.default_rng(0)
    scores = rng.beta(5, 1, 1500)
    true = rng.random(1500) < scores**2
    so, mean = calibration_curve(true, scores, n_bins=15, strategy=strategy)
    counts = np.full(15, 100) if equal_mass else np.histogram(scores, 15, (0, 1))[0]
    expected = np.average(np.abs(so - mean), weights=counts[counts > 0])
    found = calibration_error(said(scores, true), equal_mass=equal_mass)
    assert found == pytest.approx(expected, abs=1e-12)


@given(scored, st.booleans())
def test_an_error_is_between_0_and_1_and_does_not_depend_on_the_order(pairs, equal_mass):
    found = calibration_error(said(*zip(*pairs)), equal_mass=equal_mass)
    assert 0 <= found <= 1
    backwards = calibration_error(said(*zip(*pairs[::-1])), equal_mass=equal_mass)
    assert backwards == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("n", [50, 300, 3000])
def test_what_chance_does_to_scores_that_are_right(n):
    rng = np.random.default_rng(0)
    scores = rng.beta(4, 1.5, n)
    draws = [calibration_error(said(scores, rng.random(n) < scores)) for _ in range(1000)]
    assert error_by_chance(said(scores, scores > 0.5)) == pytest.approx(np.mean(draws), rel=0.06)


# Learning the settings: annotation is drawn as probable as it is at other settings

temperatures = pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])


def component(factory: str, labels: str = ""):
    made = spacy.blank("en").add_pipe(factory)
    for label in labels:
        made.add_label(label)
    return made


def example(vocab, **cats: float) -> Example:
    gold = Doc(vocab, words=["a", "b", "c"])
    gold.cats = cats
    return Example(Doc(vocab, words=["a", "b", "c"]), gold)


def is_calibrated(outcomes: Outcomes) -> bool:
    return calibration_error(outcomes) < 2 * error_by_chance(outcomes)


@temperatures
def test_the_temperature_of_exclusive_classes_is_recovered(temperature):
    rng = np.random.default_rng(0)
    textcat = component("albert_textcat", "ABCD")
    logits = torch.from_numpy(rng.normal(0, 3, (3000, 4)))
    shares = (logits / temperature).softmax(1)
    truth = torch.multinomial(shares, 1, generator=torch.manual_seed(0))[:, 0]
    data = [
        example(textcat.vocab, **{label: float(label == right) for label in "ABCD"})
        for right in ("ABCD"[number] for number in truth)
    ]
    answers = compare_classes(textcat, data, list(logits))
    settings = fit(answers, "textcat", biased=False)
    assert settings == {"temperature": pytest.approx(temperature, rel=0.1)}
    calibrated, plain = score(answers, **settings), score(answers, temperature=1.0)
    assert is_calibrated(calibrated)
    assert is_calibrated(plain) == (temperature == 1.0)
    np.testing.assert_array_equal(plain.true, logits.argmax(1) == truth)
    np.testing.assert_array_equal(calibrated.true, plain.true)
    np.testing.assert_allclose(plain.scores, logits.softmax(1).amax(1), atol=1e-12)
    likelihoods = logits.softmax(1).numpy()[np.arange(3000), truth]
    assert plain.loss == pytest.approx(-np.log(likelihoods).mean(), abs=1e-9)


@temperatures
def test_the_temperature_of_other_classes_is_recovered(temperature):
    rng = np.random.default_rng(0)
    textcat = component("albert_textcat_multilabel", "ABC")
    logits = torch.from_numpy(rng.normal(-1, 3, (2000, 3)))
    truth = rng.random((2000, 3)) < (logits / temperature).sigmoid().numpy()
    missing = rng.random((2000, 3)) < 0.3
    data = [
        example(textcat.vocab, **{c: float(t) for c, t, hole in zip("ABC", *row) if not hole})
        for row in zip(truth, missing)
    ]
    answers = compare_classes(textcat, data, list(logits))
    settings = fit(answers, "textcat", biased=False)
    assert settings == {"temperature": pytest.approx(temperature, rel=0.1)}
    calibrated, plain = score(answers, **settings), score(answers, temperature=1.0)
    assert is_calibrated(calibrated)
    np.testing.assert_allclose(plain.scores, logits.sigmoid().numpy()[~missing], atol=1e-12)
    np.testing.assert_array_equal(plain.true, truth[~missing])
    likelihoods = np.where(plain.true, plain.scores, 1 - plain.scores)
    assert plain.loss == pytest.approx(-np.log(likelihoods).mean(), abs=1e-9)
    np.testing.assert_array_equal(calibrated.scores > 0.5, plain.scores > 0.5)


def test_scores_of_taggings_that_are_drawn_from_the_model_need_no_settings():
    """What the tags of a document say of an entity is what happens."""
    rng = np.random.default_rng(0)
    tags = SCHEMES["BIO"]
    ner = component("albert_ner")
    ner.set_tags(tags)
    taggings, entities = zip(*valid_taggings(tuple(tags), 3))
    data, logits = [], []
    for _ in range(4000):
        logits.append(torch.from_numpy(rng.normal(0, 2, (3, len(tags)))))
        weights = np.exp(logits[-1].numpy()[np.arange(3), np.array(taggings)].sum(axis=1))
        drawn = entities[rng.choice(len(weights), p=weights / weights.sum())]
        data.append(example(ner.vocab))
        gold = data[-1].reference
        gold.set_ents([Span(gold, *entity) for entity in sorted(drawn)], default="outside")
    answers = compare_entities(ner, data, logits)
    assert is_calibrated(score(answers, temperature=1.0))
    settings = fit(answers, "ner", biased=True)
    assert settings["temperature"] == pytest.approx(1, abs=0.1)
    assert settings["bias"] == pytest.approx(0, abs=0.1)


@temperatures
@pytest.mark.parametrize("bias", [-1.5, 0.5])
def test_temperature_and_bias_of_log_odds_are_recovered(temperature, bias):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(1, 2 * temperature, 4000))
    truth = torch.from_numpy(rng.random(4000)) < (logits / temperature + bias).sigmoid()
    answers = Answers(logits, truth.double())
    settings = fit(answers, "ner", biased=True)
    assert settings["temperature"] == pytest.approx(temperature, rel=0.1)
    assert settings["bias"] == pytest.approx(bias, abs=0.1)
    assert is_calibrated(score(answers, **settings))


@pytest.mark.parametrize("biased", [False, True])
def test_settings_that_answers_do_not_tell(biased):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, ENOUGH))
    with pytest.raises(ValueError, match=f"99 answers of component 'it' .* takes {ENOUGH}"):
        fit(Answers(logits[:99], (logits[:99] > 0).double()), "it", biased=biased)
    for truth in (logits > 0, logits < 0, logits < 99, logits > 99):  # none makes a difference
        if biased or truth.any() != truth.all():
            with pytest.raises(ValueError, match="100 answers of component 'it' do not tell"):
                fit(Answers(logits, truth.double()), "it", biased=biased)
    certain = torch.tensor([[5.0, 0.0, -5.0]], dtype=torch.float64).repeat(ENOUGH, 1)
    with pytest.raises(ValueError, match="do not tell"):
        fit(Answers(certain, torch.zeros(ENOUGH, dtype=torch.int64)), "it", biased=False)


# A whole pipeline


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


#: What its scores would need: the annotation below is as probable as it is with these settings.
TRUTH = {
    "ner": {"temperature": 6.0, "bias": -0.5},
    "textcat": {"temperature": 4.0},
    "topics": {"temperature": 4.0},
}


def doubtful(nlp: Language, seed: int, copies: int = 40) -> list[Example]:
    """The ten sentences many times over, with annotation drawn by scores under TRUTH."""
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        for name, settings in TRUTH.items():
            patch.setattr(nlp.get_pipe(name), "cfg", {**nlp.get_pipe(name).cfg, **settings})
        docs = list(nlp.pipe(TEXTS))
    made = []
    for doc in docs * copies:
        gold = nlp.make_doc(doc.text)
        labels = [ent.label_ if rng.random() < ent._.score else "X" for ent in doc.ents]
        ents = [Span(gold, ent.start, ent.end, label) for ent, label in zip(doc.ents, labels)]
        gold.set_ents(ents, default="outside")
        gold.cats = {label: float(rng.random() < value) for label, value in doc.cats.items()}
        gold.cats["bad"] = 1 - gold.cats["good"]
        made.append(Example(nlp.make_doc(doc.text), gold))
    return made


@pytest.fixture(scope="module")
def corpora(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    nlp, folder = spacy.load(trained), tmp_path_factory.mktemp("corpora")
    paths = folder / "dev.spacy", folder / "test.spacy"
    for seed, path in enumerate(paths):
        docs = [eg.reference for eg in doubtful(nlp, seed)]
        DocBin(docs=docs, store_user_data=True).to_disk(path)
    return paths


def outcomes_of(nlp: Language, data: list[Example]) -> dict[str, Outcomes]:
    found = {}
    for name, answers in answers_of(nlp, data):
        cfg = nlp.get_pipe(name).cfg
        settings = {key: cfg[key] for key in ("temperature", "bias") if key in cfg}
        found[name] = score(answers, **settings)
    return found


def found_in(doc: Doc) -> tuple:
    return [(ent.text, ent.label_) for ent in doc.ents], {c for c in doc.cats if doc.cats[c] > 0.5}


def test_scores_come_to_mean_what_they_say(nlp):
    dev, test = doubtful(nlp, 0), doubtful(nlp, 1)
    before = [found_in(doc) for doc in nlp.pipe(TEXTS)]
    drawn = [dict(answers_of(nlp, corpus)) for corpus in (dev, test)]
    findings = calibrate(nlp, dev, test)
    assert [(finding.component, finding.corpus) for finding in findings] == [
        (name, corpus) for name in HEADS for corpus in (0, 1)
    ]
    for name, corpus, (old, new), (plain, calibrated) in findings:
        assert old["temperature"] == 1.0
        assert new.items() <= nlp.get_pipe(name).cfg.items()
        # ten sentences do not tell temperature from bias, but what the two do
        true = score(drawn[corpus][name], **TRUTH[name])
        off = [np.abs(said.scores - true.scores).mean() for said in (plain, calibrated)]
        assert off[1] < 0.5 * off[0]
        assert calibrated.loss < plain.loss
        assert not is_calibrated(plain)
        assert calibration_error(calibrated) < calibration_error(plain)
    docs = list(nlp.pipe(TEXTS))
    assert [found_in(doc) for doc in docs] == before
    scores = [ent._.score for doc in docs for ent in doc.ents]
    assert np.mean(scores) == pytest.approx(findings[0].outcomes[1].true.mean(), abs=0.01)
    for _, _, (old, new), _ in calibrate(nlp, dev):  # once more, from where it is
        assert new == pytest.approx(old, rel=1e-3)


def test_one_component_alone(nlp):
    findings = calibrate(nlp, doubtful(nlp, 0), components=["textcat"])
    assert [finding.component for finding in findings] == ["textcat"]
    assert nlp.get_pipe("textcat").cfg["temperature"] > 1
    for name in ("ner", "topics"):
        assert nlp.get_pipe(name).cfg["temperature"] == 1


def halved(doc: Doc) -> Doc:
    """The same text with two tokens where there was one, and no annotation."""
    words, spaces = [], []
    for token in doc:
        middle = len(token) // 2
        parts = [part for part in (token.text[:middle], token.text[middle:]) if part]
        words += parts
        spaces += [False] * (len(parts) - 1) + [bool(token.whitespace_)]
    return Doc(doc.vocab, words=words, spaces=spaces)


def test_right_is_what_spacy_calls_right(nlp):
    """Also where the annotation has other tokens, or is missing."""
    rng = np.random.default_rng(3)
    data = []
    for eg in doubtful(nlp, 2, copies=5):
        gold = halved(eg.reference)
        ents = [
            gold.char_span(ent.start_char, ent.end_char, label=ent.label_)
            for ent in eg.reference.ents
            if rng.random() < 0.7
        ]
        taken = {token.i for ent in ents for token in ent}
        holes = [i for i in range(len(gold)) if i not in taken and rng.random() < 0.3]
        gold.set_ents(ents, missing=[gold[i : i + 1] for i in holes], default="outside")
        gold.cats = {label: eg.reference.cats[label] for label in ("good", "bad")}
        data.append(Example(eg.predicted, gold))
    nlp.remove_pipe("topics")
    found, scores = outcomes_of(nlp, data), nlp.evaluate(data)
    assert found["ner"].true.mean() == pytest.approx(scores["ents_p"], abs=1e-9)
    assert 0.2 < scores["ents_p"] < 0.9
    n_entities = 5 * sum(len(doc.ents) for doc in nlp.pipe(TEXTS))
    assert 0.5 * n_entities < len(found["ner"].true) < n_entities
    assert found["textcat"].true.mean() == pytest.approx(scores["cats_micro_p"], abs=1e-9)


def test_what_is_measured_is_what_documents_get(nlp):
    nlp.get_pipe("ner").cfg |= {"temperature": 3.0, "bias": -0.5}
    nlp.get_pipe("textcat").cfg["temperature"] = 2.0
    nlp.get_pipe("topics").cfg["temperature"] = 0.5
    found, docs = outcomes_of(nlp, examples(nlp)), list(nlp.pipe(TEXTS))
    written = {
        "ner": [ent._.score for doc in docs for ent in doc.ents],
        "textcat": [max(doc.cats["bad"], doc.cats["good"]) for doc in docs],
        "topics": [doc.cats[label] for doc in docs for label in nlp.get_pipe("topics").labels],
    }
    for name in HEADS:
        np.testing.assert_allclose(found[name].scores, written[name], atol=1e-6)


def test_what_is_not_annotated_does_not_count(nlp):
    data = examples(nlp)
    plain = [Example(nlp.make_doc(text), nlp.make_doc(text)) for text in TEXTS]
    expected, found = outcomes_of(nlp, data), outcomes_of(nlp, [*plain, *data, *plain])
    for name in HEADS:
        np.testing.assert_allclose(found[name].scores, expected[name].scores, atol=1e-5)
        np.testing.assert_array_equal(found[name].true, expected[name].true)
    assert {len(answers.truth) for _, answers in answers_of(nlp, plain)} == {0}
    dev, none = doubtful(nlp, 0), plain
    assert {finding.corpus for finding in calibrate(nlp, dev, none)} == {0}


def test_entities_of_others_do_not_count(nlp):
    ruler = nlp.add_pipe("entity_ruler", first=True)
    ruler.add_patterns([{"label": "LOC", "pattern": "London"}])
    data = examples(nlp)
    for eg in data:  # whatever the documents hold already
        eg.predicted.ents = [Span(eg.predicted, 0, 1, label="X")]
    n_all = sum(len(doc.ents) for doc in nlp.pipe(TEXTS))
    n_theirs = sum("London" in text for text in TEXTS)
    assert len(outcomes_of(nlp, data)["ner"].true) == n_all - n_theirs > 0
    assert [ent.label_ for ent in data[0].predicted.ents] == ["X"]


def test_entities_below_the_threshold_count(nlp):
    n_found = len(outcomes_of(nlp, examples(nlp))["ner"].scores)
    nlp.get_pipe("ner").cfg |= {"threshold": 0.999, "temperature": 5.0}
    assert not nlp(TEXTS[0]).ents
    assert len(outcomes_of(nlp, examples(nlp))["ner"].scores) == n_found


def test_classes_that_are_neither_so_nor_not_are_an_error(nlp):
    data = doubtful(nlp, 0)
    data[7].reference.cats["good"] = 0.5
    with pytest.raises(ValueError, match="must be 0 or 1"):
        calibrate(nlp, data)


# The settings


def test_temperature_1_changes_nothing_and_a_high_one_sounds_unsure(nlp):
    plain, entity_scores = list(nlp.pipe(TEXTS)), {}
    for temperature in (1.0, 2.0, 50.0):
        for name in HEADS:
            nlp.get_pipe(name).cfg["temperature"] = temperature
        docs = list(nlp.pipe(TEXTS))
        entity_scores[temperature] = np.array([ent._.score for doc in docs for ent in doc.ents])
        assert [found_in(doc) for doc in docs] == [found_in(doc) for doc in plain]
        if temperature == 1.0:
            assert [doc.cats for doc in docs] == [doc.cats for doc in plain]
    before = [ent._.score for doc in plain for ent in doc.ents]
    np.testing.assert_array_equal(entity_scores[1.0], before)
    assert (abs(entity_scores[50.0] - 0.5) < abs(entity_scores[2.0] - 0.5)).all()
    assert (abs(entity_scores[2.0] - 0.5) < abs(entity_scores[1.0] - 0.5)).all()
    assert docs[0].cats == pytest.approx(dict.fromkeys(docs[0].cats, 0.5), abs=0.1)


@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=50),
    st.floats(0.01, 100),
    st.floats(-10, 10),
)
def test_settings_keep_the_order_of_scores(logits, temperature, bias):
    answers = Answers(torch.tensor(sorted(logits)), torch.zeros(len(logits)))
    assert (np.diff(score(answers, temperature, bias).scores) >= 0).all()


def test_certain_scores_stay_certain(nlp):
    ner = nlp.get_pipe("ner")
    ner.cfg |= {"temperature": 2.0, "bias": -1.0}
    doc = nlp.make_doc("London")
    tag = ner.cfg["tags"].index("U-LOC")
    logits = torch.full((1, len(ner.cfg["tags"])), -1e4)
    logits[0, tag] = 1e4
    ((entity,),) = ner.interpret([doc], [logits])
    assert entity.score == 1.0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_gives_calibrated_scores(trained, precision):
    nlp = spacy.load(trained, config={"components.albert.model.precision": precision})
    docs = [nlp.make_doc(text) for text in TEXTS]
    logits = torch.stack(nlp.get_pipe("textcat").answers(docs))
    raw = torch.tensor([ent._.score for doc in nlp.pipe(TEXTS) for ent in doc.ents])
    nlp.get_pipe("ner").cfg |= {"temperature": 3.0, "bias": 0.5}
    nlp.get_pipe("textcat").cfg["temperature"] = 3.0
    docs = list(nlp.pipe(TEXTS))
    scores = [[doc.cats["bad"], doc.cats["good"]] for doc in docs]
    torch.testing.assert_close(
        torch.tensor(scores), (logits / 3).softmax(1), atol=1e-3, rtol=0, check_dtype=False
    )
    scores = [ent._.score for doc in docs for ent in doc.ents]
    expected = (raw.double().logit() / 3 + 0.5).sigmoid()
    assert scores == pytest.approx(expected.tolist(), abs=1e-3)


def test_training_does_not_feel_them(nlp):
    losses = []
    for temperature in (1.0, 5.0):
        for name in HEADS:
            nlp.get_pipe(name).cfg["temperature"] = temperature
        losses.append(nlp.update(examples(nlp), sgd=False))
    assert losses[0] == losses[1]


def test_settings_are_saved_with_the_component(nlp, tmp_path):
    settings = {"temperature": 1.75, "bias": -0.25}
    nlp.get_pipe("ner").cfg |= settings
    nlp.to_disk(tmp_path)
    in_bytes = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    for again in (spacy.load(tmp_path), in_bytes):
        assert settings.items() <= again.get_pipe("ner").cfg.items()
        assert again(TEXTS[0]).ents[0]._.score == pytest.approx(nlp(TEXTS[0]).ents[0]._.score)
    # one of an earlier version has none
    cfg = srsly.read_json(tmp_path / "ner" / "cfg")
    srsly.write_json(tmp_path / "ner" / "cfg", {k: cfg[k] for k in cfg if k not in settings})
    assert spacy.load(tmp_path).get_pipe("ner").cfg == {**cfg, "temperature": 1.0, "bias": 0.0}


@pytest.mark.parametrize("factory", ["albert_ner", "albert_textcat", "albert_textcat_multilabel"])
def test_settings_of_a_config_are_the_components(factory):
    nlp = spacy.blank("en")
    assert nlp.add_pipe(factory, config={"temperature": 1.5}).cfg["temperature"] == 1.5
    again = spacy.blank("en").from_config(nlp.config)
    assert again.get_pipe(factory).cfg["temperature"] == 1.5
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"'other' .* above 0, not {wrong}"):
            nlp.add_pipe(factory, name="other", config={"temperature": wrong})


# The command


def command(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(albert_cli, ["calibrate", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_the_command_writes_a_pipeline_that_differs_in_settings_only(trained, corpora, tmp_path):
    dev, test = corpora
    before, out = contents(trained), tmp_path / "out"
    code, output = command(trained, dev, "--output", out, "--test", test)
    assert code == 0
    assert contents(trained) == before
    assert changed(before, contents(out)) == {f"{name}/cfg" for name in HEADS}
    nlp, old = spacy.load(out), spacy.load(trained)
    for name in HEADS:
        cfg, was = nlp.get_pipe(name).cfg, old.get_pipe(name).cfg
        assert {key for key in cfg if cfg[key] != was[key]} <= {"temperature", "bias"}
        assert output.count(f" {cfg['temperature']:.3f} ") >= 2
    assert nlp(TEXTS[0]).ents[0]._.score < old(TEXTS[0]).ents[0]._.score
    code, output = command(trained, dev, "--output", out)
    assert (code, "exists" in output) == (1, True)
    assert command(trained, dev, "--output", out, "--force")[0] == 0


def test_without_a_place_to_write_it_measures(trained, corpora):
    before = contents(trained)
    code, output = command(trained, corpora[0], "--component", "ner")
    assert code == 0
    assert "No pipeline was written" in output
    assert "Without a change: albert, textcat, topics." in output
    assert contents(trained) == before


def test_in_place_with_a_picture(trained, corpora, tmp_path):
    pytest.importorskip("matplotlib")
    nlp = spacy.load(trained)
    nlp.add_pipe("sentencizer")
    model, picture = tmp_path / "model", tmp_path / "new" / "scores.png"
    nlp.to_disk(model)
    before = contents(model)
    told = tmp_path / "told.json"
    files = ("--plot", picture, "--metrics", told)
    code, output = command(model, corpora[0], "--in-place", "-c", "topics", *files)
    assert code == 0
    (figures,) = json.loads(told.read_text())
    assert (figures["component"], figures["corpus"]) == ("topics", "dev")
    assert figures["after"]["ece"] < figures["before"]["ece"]
    assert f"{figures['after']['temperature']:.3f}" in output
    assert changed(before, contents(model)) == {"topics/cfg"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Without a change: albert, ner, textcat, sentencizer." in output


def test_a_picture_has_two_diagrams_for_each_finding(tmp_path):
    pytest.importorskip("matplotlib")
    from spacy_albert.reliability import draw

    outcomes = said([0.05, 0.5, 0.55, 0.97, 1.0], [0, 1, 0, 1, 1])
    settings = {"temperature": 1.0}, {"temperature": 2.0, "bias": -1.0}
    findings = [Finding("ner", i, settings, (outcomes, outcomes)) for i in (0, 1)]
    draw(findings, ["dev", "test"], tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text.count('id="axes_') == 4


def test_errors_of_the_command(trained, corpora, tmp_path, monkeypatch):
    before, dev = contents(trained), corpora[0]

    def fails(*args: object) -> str:
        code, output = command(*args)
        assert code == 1
        assert contents(trained) == before
        return output

    assert "There is no pipeline nowhere" in fails("nowhere", dev)
    assert "none.spacy does not exist" in fails(trained, tmp_path / "none.spacy")
    (tmp_path / "no.spacy").write_bytes(b"no")
    assert "no.spacy cannot be read" in fails(trained, tmp_path / "no.spacy")
    DocBin().to_disk(tmp_path / "empty.spacy")
    assert "empty.spacy holds no documents" in fails(trained, tmp_path / "empty.spacy")
    assert "no component 'tagger'" in fails(trained, dev, "-c", "tagger")
    assert "not both" in fails(trained, dev, "-o", tmp_path / "out", "--in-place")
    assert "is an installed pipeline" in fails("en_albert_sm", dev, "--in-place")
    assert "choose --in-place" in fails(trained, dev, "-o", trained, "--force")
    nlp = spacy.load(trained)
    known = [eg.reference for eg in examples(nlp)]
    DocBin(docs=known).to_disk(tmp_path / "few.spacy")
    assert f"takes {ENOUGH}" in fails(trained, tmp_path / "few.spacy")
    DocBin(docs=known * 30).to_disk(tmp_path / "known.spacy")
    assert "do not tell how sure" in fails(trained, tmp_path / "known.spacy")
    DocBin(docs=[nlp.make_doc(text) for text in TEXTS]).to_disk(tmp_path / "plain.spacy")
    assert "0 answers of component 'ner'" in fails(trained, tmp_path / "plain.spacy")
    spacy.blank("en").to_disk(tmp_path / "blank")
    assert "None of the pipeline's components" in fails(tmp_path / "blank", dev)
    assert not (tmp_path / "out").exists()
    monkeypatch.delitem(sys.modules, "spacy_albert.reliability", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    assert "spacy-albert[plot]" in fails(trained, dev, "--plot", tmp_path / "a.png")


# What follows


def test_a_job_gives_calibrated_scores_and_tells_them_from_others(nlp, trained, tmp_path):
    pa = pytest.importorskip("pyarrow")
    from spacy_albert_jobs.annotator import Annotator
    from spacy_albert_jobs.plan import identify

    nlp.get_pipe("ner").cfg |= {"temperature": 2.0, "bias": -1.0}
    nlp.get_pipe("textcat").cfg["temperature"] = 2.0
    nlp.to_disk(tmp_path)
    rows = Annotator(tmp_path)(pa.table({"text": TEXTS})).to_pylist()
    for row, doc in zip(rows, nlp.pipe(TEXTS), strict=True):
        scores = [ent["score"] for ent in row["ents"]]
        assert scores == pytest.approx([ent._.score for ent in doc.ents], abs=1e-5)
        assert row["cats"] == pytest.approx(doc.cats, abs=1e-5)
    old, new = (identify(path, None, {}, [])["pipeline"] for path in (trained, tmp_path))
    assert old != new
