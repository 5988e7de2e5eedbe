"""SQuAD's files and scores, against transformers' copy of the official script."""

import gzip
import json
import logging
import random
from pathlib import Path

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.cli.evaluate import evaluate
from spacy.tokens import DocBin
from spacy.training import Corpus, Example
from transformers.data.metrics.squad_metrics import (
    compute_exact,
    compute_f1,
    find_best_thresh_v2,
    make_eval_dict,
    normalize_answer,
)
from typer.testing import CliRunner
from util import examples, initialized

from spacy_albert.answers import keep
from spacy_albert.cli import albert_cli
from spacy_albert.corpora import DocCorpus
from spacy_albert.squad import (
    Outcome,
    SquadCorpus,
    best_threshold,
    compare,
    exact_match,
    f1,
    score_answers,
    summary,
    unanswered,
)

NLP = spacy.blank("en")
TEXT = "The river is long; the city of Paris (and London) is old."


def item(name: str, question: str, *answers: tuple[str, int], **more) -> dict:
    given = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": question, "answers": given, **more}


GOOD = [
    item("a", "What is long?", ("The river", 0), ("river", 4)),
    item("b", "What is blue?", is_impossible=True),
    item("c", "Which city?", ("Paris", 31)),
]
BAD = [
    item("d", "Where?", ("Paris", 30)),
    item("e", "Where?", ("Rome", 31), ("London", 42)),
    item("f", " ", ("London", 42)),
    item("g", "Where?", ("", 0)),
]


def write(path: Path, *qas: list[dict], text: str = TEXT) -> Path:
    paragraphs = [{"context": text, "qas": of_one} for of_one in qas]
    data = json.dumps({"version": "v2.0", "data": [{"title": "T", "paragraphs": paragraphs}]})
    path.write_bytes(gzip.compress(data.encode()) if path.suffix == ".gz" else data.encode())
    return path


NO_PLACE = {
    "data": [
        {
            "paragraphs": [
                {"context": "a", "qas": [item("q", "Who?") | {"answers": [{"text": "a"}]}]}
            ]
        }
    ]
}

# Files


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_questions_and_answers_are_read(tmp_path, name):
    (example,) = SquadCorpus(write(tmp_path / name, GOOD))(NLP)
    questions = {"a": "What is long?", "b": "What is blue?", "c": "Which city?"}
    assert example.predicted._.questions == example.reference._.questions == questions
    assert example.reference._.gold_answers == {"a": [[0, 9], [4, 9]], "b": [], "c": [[31, 36]]}
    assert example.predicted._.gold_answers is None
    assert example.predicted.text == TEXT


def test_answers_that_are_not_there_are_reported_and_counted(tmp_path, caplog):
    corpus = SquadCorpus(write(tmp_path / "a.json", GOOD, BAD, [], text=TEXT))
    logging.getLogger("spacy").propagate = True
    with caplog.at_level(logging.WARNING):
        first, second = corpus.docs(NLP)
    assert list(first._.questions) == ["a", "b", "c"]
    assert second._.gold_answers == {"e": [[42, 48]]}
    assert corpus.skipped == {
        "an answer that is not where the file says": 3,
        "no answer where the file says": 2,
        "no question": 1,
    }
    assert "'Paris' to question d is not at character 30" in caplog.text


@pytest.mark.parametrize(("n", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (0, [3])])
def test_questions_are_dealt_out(tmp_path, n, sizes):
    path = write(tmp_path / "a.json", GOOD)
    docs = list(SquadCorpus(path, n_questions=n).docs(NLP))
    assert [len(doc._.questions) for doc in docs] == sizes
    assert [name for doc in docs for name in doc._.gold_answers] == ["a", "b", "c"]
    assert len(list(SquadCorpus(path, n_questions=1, limit=2).docs(NLP))) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "SQuAD's format"),
        ("[]", "SQuAD's format"),
        ('{"data": {}}', "no list"),
        ('{"data": [{}]}', "paragraphs"),
        ('{"data": [{"paragraphs": [{"context": "a"}]}]}', "article 0, paragraph 0.*'qas'"),
        ('{"data": [{"paragraphs": [{"context": "a", "qas": [{}]}]}]}', "'question'"),
        (json.dumps(NO_PLACE), "answers to question q need a text and answer_start"),
    ],
)
def test_files_in_another_format_are_named(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(SquadCorpus(tmp_path / "a.json").docs(NLP))


def test_command_writes_a_corpus_that_has_the_questions(tmp_path):
    source, out = write(tmp_path / "a.json.gz", GOOD), tmp_path / "a.spacy"
    result = CliRunner().invoke(albert_cli, ["corpus", str(source), str(out)])
    assert result.exit_code == 0, result.output
    assert "with an answer 2, without 1" in result.output
    docs = list(SquadCorpus(source).docs(NLP))
    for corpus in (DocCorpus(out), DocCorpus(tmp_path), Corpus(out)):
        (example,) = corpus(NLP)
        is_asked = example.predicted._.questions == docs[0]._.questions
        assert is_asked == isinstance(corpus, DocCorpus)
        assert example.reference._.questions == docs[0]._.questions
        golds = {k: [list(p) for p in v] for k, v in example.reference._.gold_answers.items()}
        assert golds == docs[0]._.gold_answers


def test_real_files_are_read_whole(shared_data):
    counts = {}
    for name in ("dev-v1.1", "dev-v2.0"):
        corpus = SquadCorpus(shared_data / f"squad/{name}.json.gz")
        docs = list(corpus.docs(NLP))
        golds = [answers for doc in docs for answers in doc._.gold_answers.values()]
        counts[name] = len(docs), len(golds), sum(not answers for answers in golds)
        assert not corpus.skipped
    assert counts == {"dev-v1.1": (2067, 10_570, 0), "dev-v2.0": (1204, 11_873, 5945)}


# Scores


words = st.text("the an A,.'-é  19x\u2014", max_size=12)


@given(answer=words, gold=words)
def test_scores_of_any_answer_are_the_official_ones(answer, gold):
    assert exact_match(answer, gold) == compute_exact(gold, answer)
    assert f1(answer, gold) == pytest.approx(compute_f1(gold, answer))


def real_predictions(shared_data: Path) -> list[tuple[str, list[str], str, float]]:
    """Questions of SQuAD 2 with golds and made answers that are right, nearly right, or none."""
    rng = random.Random(0)
    with gzip.open(shared_data / "squad/dev-v2.0.json.gz") as file:
        articles = json.load(file)["data"]
    made = []
    for article in articles:
        for paragraph in article["paragraphs"]:
            tokens = paragraph["context"].split()
            for qa in paragraph["qas"]:
                golds = [answer["text"] for answer in qa["answers"]]
                gold = rng.choice(golds) if golds else ""
                start = rng.randrange(len(tokens))
                answer = rng.choice(
                    [
                        gold,
                        f"The {gold.upper()}.",
                        f'"{gold}" and',
                        " ".join(gold.split()[1:]),
                        " ".join(tokens[start : start + rng.randint(1, 4)]),
                        "",
                    ]
                )
                made.append((qa["id"], golds, answer, rng.gauss(0 if golds else 1, 1)))
    return made


def official(made: list[tuple[str, list[str], str, float]]) -> tuple[dict, dict]:
    """As `get_raw_scores` of the official script."""
    exact, f1s = {}, {}
    for name, golds, answer, _ in made:
        texts = [gold for gold in golds if normalize_answer(gold)] or [""]
        exact[name] = max(compute_exact(gold, answer) for gold in texts)
        f1s[name] = max(compute_f1(gold, answer) for gold in texts)
    return exact, f1s


def test_scores_of_real_questions_are_the_official_ones(shared_data):
    made = real_predictions(shared_data)
    exact, f1s = official(made)
    ours = summary([compare(answer, golds) for _, golds, answer, _ in made])
    has = [name for name, golds, _, _ in made if golds]
    none = [name for name, golds, _, _ in made if not golds]
    assert len(has) > 5000
    assert len(none) > 5000
    for suffix, names in (("", None), ("_has", has)):
        theirs = make_eval_dict(exact, f1s, names)
        assert ours[f"qa{suffix}_em"] * 100 == pytest.approx(theirs["exact"])
        assert ours[f"qa{suffix}_f1"] * 100 == pytest.approx(theirs["f1"])
    assert ours["qa_none"] * 100 == pytest.approx(make_eval_dict(exact, f1s, none)["f1"])


def test_the_best_threshold_is_the_official_one(shared_data):
    # each has an answer to give
    made = [row for row in real_predictions(shared_data) if normalize_answer(row[2])]
    outcomes = [compare(answer, golds) for _, golds, answer, _ in made]
    null_scores = [null_score for *_, null_score in made]
    found = best_threshold(outcomes, null_scores)
    answers = {name: answer for name, _, answer, _ in made}
    nulls = {name: null_score for name, *_, null_score in made}
    has = {name: bool(golds) for name, golds, *_ in made}
    best, threshold, _ = find_best_thresh_v2(answers, official(made)[1], nulls, has)
    assert found == pytest.approx(threshold)
    is_none = [null_score > found for null_score in null_scores]
    assert summary(unanswered(outcomes, is_none))["qa_f1"] * 100 == pytest.approx(best)


outcomes = st.builds(
    Outcome, has_answer=st.booleans(), exact=st.just(0.0), f1=st.sampled_from([0.0, 0.5])
)


@given(st.lists(st.tuples(outcomes, st.floats(-5, 5)), min_size=1, unique_by=lambda row: row[1]))
def test_no_threshold_is_better_than_the_best_one(rows):
    made = [outcome._replace(f1=outcome.f1 * outcome.has_answer) for outcome, _ in rows]
    null_scores = [null_score for _, null_score in rows]

    def at(threshold: float) -> float:
        is_none = [null_score > threshold for null_score in null_scores]
        return summary(unanswered(made, is_none))["qa_f1"]

    best = at(best_threshold(made, null_scores))
    for threshold in (-9.0, *null_scores):
        assert best >= at(threshold) - 1e-9


def test_answers_of_documents_are_scored(tmp_path):
    (example,) = SquadCorpus(write(tmp_path / "a.json", GOOD))(NLP)
    doc = example.predicted
    starts = {token.text: token.i for token in doc}
    river, paris = starts["river"], starts["Paris"]
    keep(doc, "a", "What is long?", -1.0, True, [(river - 1, river + 1, 2.0, 0.5)])
    keep(doc, "c", "Which city?", 1.0, False, [(paris, paris + 1, 2.0, 0.5)])
    scores = score_answers([example])
    assert scores == {
        "qa_em": pytest.approx(2 / 3),
        "qa_f1": pytest.approx(2 / 3),
        "qa_has_em": 0.5,
        "qa_has_f1": 0.5,
        "qa_none": 1.0,
    }
    keep(doc, "c", "Which city?", -1.0, True, [(paris - 1, paris + 1, 2.0, 0.5)])
    assert score_answers([example])["qa_has_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert score_answers([Example(NLP.make_doc("a"), NLP.make_doc("a"))])["qa_f1"] is None


# Commands


@pytest.fixture(scope="module")
def model(tiny_spm, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "spiece.model").write_bytes(tiny_spm)
    nlp = initialized(folder / "spiece.model", ["textcat"])
    nlp.add_pipe("albert_qa", name="qa")
    nlp.get_pipe("qa").initialize(lambda: examples(nlp), nlp=nlp)
    nlp.to_disk(folder / "nlp")
    return folder / "nlp"


def test_find_threshold_writes_what_scores_best(model, tmp_path):
    many = [item(f"{n}", f"What is {n}?", ("Paris", 31)) for n in range(3)]
    dev = write(tmp_path / "dev.json", GOOD, many)
    run, out = CliRunner().invoke, tmp_path / "out"
    result = run(albert_cli, ["find-threshold", str(model), str(dev), "-o", str(out)])
    assert result.exit_code == 0, result.output
    nlp = spacy.load(out)
    threshold = nlp.get_pipe("qa").cfg["null_threshold"]
    assert f"{threshold:.4f}" in result.output
    annotated = list(SquadCorpus(dev)(nlp))
    best = nlp.evaluate(annotated)["qa_f1"]
    assert f"{best:.3f}" in result.output
    for other in (-1e9, -1.0, 0.0, 1.0, 1e9):
        nlp.get_pipe("qa").cfg["null_threshold"] = other
        assert nlp.evaluate(annotated)["qa_f1"] <= best + 1e-9
    assert (out / "qa/head/model.safetensors").read_bytes() == (
        model / "qa/head/model.safetensors"
    ).read_bytes()
    for arguments, message in [
        ([str(model), str(dev), "-c", "textcat"], "--component: qa"),
        ([str(model), str(tmp_path / "none.json")], "no file"),
        ([str(model), str(dev), "-o", str(out)], "--force"),
        (["en_albert_sm", str(dev)], "no albert_qa"),
    ]:
        result = run(albert_cli, ["find-threshold", *arguments])
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())


def test_spacy_evaluate_asks_what_the_corpus_asks(model, tmp_path):
    docs = list(SquadCorpus(write(tmp_path / "a.json", GOOD)).docs(NLP))
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "dev.spacy")
    scores = evaluate(str(model), tmp_path / "dev.spacy", silent=True)
    nlp = spacy.load(model)
    mine = nlp.evaluate(list(SquadCorpus(tmp_path / "a.json")(nlp)))
    for key in ("qa_f1", "qa_em", "qa_has_f1", "qa_none"):
        assert scores[key] == pytest.approx(mine[key])
