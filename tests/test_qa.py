"""Questions and answers as a component: against `transformers`, for any text, and learned."""

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from spacy import displacy
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Example
from thinc.api import Optimizer
from util import TINY, finish, initialized

from spacy_albert.convert import from_checkpoint, to_hugging_face
from spacy_albert.engine import Engine
from spacy_albert.factories import LISTENER
from spacy_albert.inputs import by_name
from spacy_albert.tf_checkpoints import rename

EXACT = {"components.albert.model.precision": "float32"}
QUESTIONS = {"who": "who was in London?", "what": "what is the river"}
TEXTS = [
    "Michael Jane was in London, and Obama (who?) in Paris.",
    "The bank of the river  was 9,000 years old.",
    "cannot you see the café?",
]
FACTS = [  # a text, and who is where in it
    ("the book of Jane Austen was in London", {"London": "Jane Austen"}),
    ("Michael saw Paris , and the river was long", {"Paris": "Michael"}),
    ("no market in the street , no music", {"London": None}),
    ("Obama must see London ; Google made a match in Paris", {"London": "Obama"}),
    ("Obama must see London ; Google made a match in Paris", {"Paris": "Google"}),
    ("the school is down in the winter", {"Paris": None}),
]


def question_about(place: str) -> str:
    return f"who was in {place}?"


def facts(nlp: Language, before: str = "", where: bool = True) -> list[Example]:
    """The facts as annotated documents. `where`: whether what is read has the questions, too."""
    made = []
    for text, answers in FACTS:
        text = before + text
        read, annotated = nlp.make_doc(text), nlp.make_doc(text)
        annotated._.questions = {place: question_about(place) for place in answers}
        annotated._.gold_answers = {
            place: [[text.index(who), text.index(who) + len(who)]] if who else []
            for place, who in answers.items()
        }
        if where:
            read._.questions = annotated._.questions
        made.append(Example(read, annotated))
    return made


def found(nlp: Language, example: Example) -> dict[str, str | None]:
    doc = nlp.make_doc(example.reference.text)
    doc._.questions = example.reference._.questions
    return {name: answer.text for name, answer in nlp(doc)._.answers.items()}


@pytest.fixture(scope="module")
def vocabulary(tiny_spm, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    path.write_bytes(tiny_spm)
    return path


def make(vocabulary: Path, own: bool = False, head: str = "linear", **config) -> Language:
    """A pipeline with random weights."""
    nlp = spacy.blank("en")
    start = {
        "@misc": "spacy-albert.Scratch.v1",
        "vocabulary": str(vocabulary),
        "config": {**TINY, "max_position_embeddings": 40},
    }
    model = {"head": head, "overlap": 12}
    settings = nlp.config["initialize"]["components"]
    exact = {"precision": "float32", "overlap": 8}
    if own:
        model["tok2vec"] = {"@architectures": "spacy-albert.Albert.v1", **exact}
        settings["qa"] = {"encoder": start}
    else:
        nlp.add_pipe("albert", config={"model": exact})
        settings["albert"] = {"encoder": start}
    nlp.add_pipe("albert_qa", name="qa", config={"model": model, **config})
    torch.manual_seed(0)
    nlp.initialize()
    return nlp


@pytest.fixture(scope="module")
def nlp(vocabulary) -> Language:
    return make(vocabulary, questions=QUESTIONS, null_threshold=None, max_answer_length=5)


# As in transformers


def checkpoint(folder: Path, tiny_spm: bytes, **settings) -> Path:
    config = transformers.AlbertConfig(
        **{
            "vocab_size": 1000,
            "embedding_size": 16,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "initializer_range": 0.2,
            **settings,
        }
    )
    torch.manual_seed(0)
    transformers.AlbertForQuestionAnswering(config).save_pretrained(folder)
    (folder / "spiece.model").write_bytes(tiny_spm)
    return folder


BASE = {
    "hidden_size": 768,
    "embedding_size": 128,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "initializer_range": 0.02,
}


@pytest.mark.parametrize("settings", [{}, BASE], ids=["tiny", "base"])
def test_logits_are_those_of_transformers(tiny_spm, tmp_path, settings):
    folder = checkpoint(tmp_path / "hf", tiny_spm, **settings)
    from_checkpoint(folder).to_disk(tmp_path / "pipeline")
    nlp = spacy.load(tmp_path / "pipeline", config=EXACT)
    qa = nlp.get_pipe("qa")
    tokenizer = transformers.AlbertTokenizer.from_pretrained(folder)
    model = transformers.AlbertForQuestionAnswering.from_pretrained(folder).eval()
    for text in TEXTS[:1] if settings else TEXTS:
        doc = nlp.make_doc(text)
        doc._.questions = list(QUESTIONS.values())
        (asked,) = qa.model.predict([doc])
        assert list(asked.questions.values()) == list(QUESTIONS.values())
        for question, heard in zip(QUESTIONS.values(), asked.heard):
            encoded = tokenizer(question, text, return_tensors="pt")
            with torch.no_grad():
                theirs = model(**encoded)
            expected = torch.stack([theirs.start_logits[0], theirs.end_logits[0]], dim=1)
            torch.testing.assert_close(heard.rows, expected, atol=1e-5, rtol=1e-5)
        if not settings:  # the best span of all those that begin and end with a token
            answer = nlp(doc)._.answers[question]
            n_before = heard.text_start
            pieces = dict(zip(heard.tokens.tolist(), zip(heard.firsts, heard.lasts)))
            scores = {
                (i, j + 1): max(expected[n_before + f : n_before + e + 1, 0])
                + max(expected[n_before + g : n_before + m + 1, 1])
                for (i, (f, e)), (j, (g, m)) in itertools.product(pieces.items(), repeat=2)
                if i <= j
            }
            best = max(scores, key=scores.__getitem__)
            assert answer.n_best[0].score >= float(scores[best]) - 1e-4
    back = tmp_path / "back"
    assert to_hugging_face(nlp, back) == "AlbertForQuestionAnswering"
    ours, info = transformers.AlbertForQuestionAnswering.from_pretrained(
        back, output_loading_info=True
    )
    assert not any(info.values())
    assert all(
        torch.equal(a, b) for a, b in zip(ours.state_dict().values(), model.state_dict().values())
    )


def test_googles_head_for_squad2_is_converted(tiny_spm, tmp_path):
    folder = checkpoint(tmp_path / "google", tiny_spm)
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: t for name, t in tensors.items() if not name.startswith("qa_outputs")}
    shapes = {
        "start_logits/dense/kernel": (32, 1),
        "start_logits/dense/bias": (1,),
        "end_logits/dense_0/kernel": (64, 32),
        "end_logits/dense_0/bias": (32,),
        "end_logits/LayerNorm/gamma": (32,),
        "end_logits/LayerNorm/beta": (32,),
        "end_logits/dense_1/kernel": (32, 1),
        "end_logits/dense_1/bias": (1,),
        "answer_class/dense_0/kernel": (64, 32),
        "answer_class/dense_0/bias": (32,),
        "answer_class/dense_1/kernel": (32, 1),
    }
    rng = np.random.default_rng(0)
    variables = {name: rng.normal(size=shape).astype("f") for name, shape in shapes.items()}
    tensors |= dict(rename(name, array) for name, array in variables.items())
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    del settings["architectures"]
    (folder / "config.json").write_text(json.dumps(settings))
    nlp = from_checkpoint(folder)
    assert nlp.get_pipe_config("qa")["model"]["head"] == "squad2"
    head = nlp.get_pipe("qa").head.module
    kernel = variables["end_logits/dense_0/kernel"]
    assert np.array_equal(head.end_logits["dense_0"].weight.detach().numpy(), kernel.T)
    assert len(head.state_dict()) == len(shapes)
    doc = nlp.make_doc(TEXTS[0])
    doc._.questions = "who was in London?"
    assert nlp(doc)._.answers["who was in London?"].n_best
    with pytest.raises(ValueError, match="no class for"):
        to_hugging_face(nlp, tmp_path / "back")


# Answers are spans of the document


@given(
    text=st.one_of(st.text(max_size=80), st.text("ab é½…ﬁ'`’\u0301\u200b\n🙂,1", max_size=200)),
    asked=st.lists(st.sampled_from(["who was London?", "½?", "the river "]), unique=True),
)
def test_answers_are_spans_of_any_text(nlp, text, asked):
    doc = nlp.make_doc(text)
    doc._.questions = asked
    doc = nlp(doc)
    answers = doc._.answers
    assert list(answers) == [*QUESTIONS, *asked]
    for name, answer in answers.items():
        assert answer.question == QUESTIONS.get(name, name)
        assert (answer.span is None) == (not answer.n_best)
        if answer.span is None:
            continue
        assert text[answer.start : answer.end] == answer.text == answer.span.text
        assert answer.span.doc is doc
        assert answer.span == answer.n_best[0].span
        assert answer.score == answer.n_best[0].score
        for candidate in answer.n_best:
            assert 1 <= len(candidate.span) <= 5
            assert not candidate.span[0].is_space
            assert not candidate.span[-1].is_space
            assert 0 <= candidate.probability <= 1
        assert len({(c.span.start, c.span.end) for c in answer.n_best}) == len(answer.n_best)
        scores = [candidate.score for candidate in answer.n_best]
        assert scores == sorted(scores, reverse=True)
    given_spans = [(span.label_, span.start_char, span.end_char) for span in doc.spans["qa"]]
    assert given_spans == [(n, a.start, a.end) for n, a in answers.items() if a.span is not None]
    assert len(doc.spans["qa"].attrs["scores"]) == len(given_spans)


def test_a_batch_answers_as_its_documents_alone(nlp):
    texts = [*TEXTS, "", TEXTS[0] * 9, " ", "London"]
    together = list(nlp.pipe(texts))
    for text, doc in zip(texts, together):
        alone = nlp(text)
        for name, answer in alone._.answers.items():
            other = doc._.answers[name]
            assert (answer.start, answer.end) == (other.start, other.end)
            assert answer.score == pytest.approx(other.score, abs=1e-4)
            assert answer.null_score == pytest.approx(other.null_score, abs=1e-4)
    assert together[4]._.n_windows > 2 * len(QUESTIONS)


def test_answers_are_kept_with_the_document(nlp):
    doc = nlp(TEXTS[0])
    stored = DocBin(docs=[doc], store_user_data=True).to_bytes()
    (loaded,) = DocBin().from_bytes(stored).get_docs(nlp.vocab)
    assert {name: answer[2:] for name, answer in doc._.answers.items()}.keys() == QUESTIONS.keys()
    for name, answer in doc._.answers.items():
        other = loaded._.answers[name]
        assert (answer.text, answer.start, answer.score) == (other.text, other.start, other.score)
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[0:2])
    for name, answer in doc._.answers.items():
        assert loaded._.answers[name].text in answer.text


def test_displacy_draws_answers(nlp):
    doc = nlp(TEXTS[0])
    drawn = displacy.render(doc, style="span", options={"spans_key": "qa"}, jupyter=False)
    assert all(name in drawn for name in QUESTIONS)
    scores = doc.spans["qa"].attrs["scores"].tolist()
    assert scores == pytest.approx([answer.probability for answer in doc._.answers.values()])


def test_a_pipeline_travels(nlp, vocabulary):
    text = " ".join(TEXTS)
    expected = {name: answer.text for name, answer in nlp(text)._.answers.items()}
    own = make(vocabulary, questions=QUESTIONS, null_threshold=None, max_answer_length=5)
    own.replace_listeners("albert", "qa", ["model.tok2vec"])
    own.remove_pipe("albert")
    for other in (pickle.loads(pickle.dumps(nlp)), own):
        assert {name: answer.text for name, answer in other(text)._.answers.items()} == expected


def test_the_null_threshold_decides_whether_there_is_an_answer(nlp):
    qa = nlp.get_pipe("qa")
    before = nlp(TEXTS[0])._.answers["who"]
    for threshold, is_answered in [
        (before.null_score - 0.01, False),
        (before.null_score + 0.01, True),
        (None, True),
    ]:
        qa.cfg["null_threshold"] = threshold
        doc = nlp(TEXTS[0])
        answer = doc._.answers["who"]
        assert (answer.text == before.text) == is_answered
        assert (answer.span is None) == (not is_answered)
        assert answer[4:7] == before[4:7]
        assert [c[1:] for c in answer.n_best] == [c[1:] for c in before.n_best]
        assert ("who" in {span.label_ for span in doc.spans["qa"]}) == is_answered


def test_a_document_without_questions_is_not_read(vocabulary, monkeypatch):
    nlp = make(vocabulary)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "__call__", None)
        doc = nlp(TEXTS[0])
    assert doc._.answers == {}
    assert len(doc.spans["qa"]) == 0
    asked = nlp.make_doc(TEXTS[1])
    asked._.questions = "who was that?"
    first, second = nlp.pipe([nlp.make_doc(TEXTS[0]), asked])
    assert first._.answers == {}
    assert list(second._.answers) == ["who was that?"]


def test_questions_may_come_after_the_encoder(nlp):
    doc = nlp.make_doc(TEXTS[0])
    doc = nlp.get_pipe("albert")(doc)
    doc._.questions = {"late": "who was in Paris?"}
    doc = nlp.get_pipe("qa")(doc)
    assert list(doc._.answers) == [*QUESTIONS, "late"]


def test_other_heads_read_once_and_questions_once_each(vocabulary, monkeypatch):
    nlp = initialized(vocabulary, ["ner", "textcat"])
    nlp.add_pipe("albert_qa", name="qa", config={"questions": QUESTIONS})
    nlp.get_pipe("qa").initialize(lambda: facts(nlp), nlp=nlp)
    windows = []
    run = Engine.__call__

    def counted(self, ids, lengths, *args):
        windows.append(len(lengths))
        return run(self, ids, lengths, *args)

    monkeypatch.setattr(Engine, "__call__", counted)
    docs = list(nlp.pipe(TEXTS))
    assert sum(windows) == len(TEXTS) * (1 + len(QUESTIONS))
    assert all(doc._.n_windows == 1 + len(QUESTIONS) for doc in docs)
    assert all(doc.cats and doc._.answers for doc in docs)


# Errors


def test_questions_that_are_none_are_named(nlp):
    with pytest.raises(ValueError, match="The question 'ceo' is empty"):
        spacy.blank("en").add_pipe("albert_qa", config={"questions": {"ceo": " "}})
    for questions in ({"ceo": 3}, {5: "who?"}, [""], ["who?", None]):
        with pytest.raises(ValueError, match="The question"):
            by_name(questions)
    failed = []
    nlp.set_error_handler(lambda name, component, docs, error: failed.extend(map(str, docs)))
    docs = [nlp.make_doc(text) for text in TEXTS]
    docs[1]._.questions = ["who?", ""]
    assert [doc.text for doc in nlp.pipe(docs)] == TEXTS[::2]
    docs = [nlp.make_doc(text) for text in TEXTS]
    docs[0]._.questions = "the river and the city " * 5
    assert [doc.text for doc in nlp.pipe(docs)] == TEXTS[1:]
    assert failed == [TEXTS[1], TEXTS[0]]
    nlp.set_error_handler(spacy.util.raise_error)
    with pytest.raises(ValueError, match="half of a window of 40 pieces"):
        nlp(docs[0])


OTHER = {"@architectures": "spacy-albert.TextClassifier.v1"}


def test_wrong_settings_are_named():
    nlp = spacy.blank("en")
    for config, message in [
        ({"model": {"head": "squad3"}}, "'linear' or 'squad2'"),
        ({"model": {"overlap": -1}}, "overlap"),
        ({"max_answer_length": 0}, "max_answer_length"),
        ({"model": {**OTHER, "tok2vec": LISTENER}}, "needs a spacy-albert.Question"),
    ]:
        with pytest.raises(ValueError, match=message):
            nlp.add_pipe("albert_qa", config=config)
    nlp.add_pipe("albert_qa", config={"questions": QUESTIONS})
    with pytest.raises(ValueError, match="listens to an ALBERT encoder"):
        nlp.initialize()


# Training


def learn(nlp: Language, data: list[Example], steps: int, loop: bool = True) -> dict[str, float]:
    optimizer = Optimizer(0.01, use_averages=False)
    losses: dict[str, float] = {}
    for _ in range(steps):
        losses = {}
        if loop:
            for batch in (data[:4], data[4:]):
                nlp.update(batch, sgd=False, losses=losses)
            finish(nlp, optimizer)
        else:
            nlp.update(data, sgd=optimizer, losses=losses)
    return losses


@pytest.mark.parametrize(
    ("head", "own", "before"),
    [("linear", False, ""), ("squad2", False, ""), ("linear", True, "no more of it . " * 8)],
)
def test_facts_are_learned_by_heart(vocabulary, tmp_path, head, own, before):
    nlp = make(vocabulary, own=own, head=head)
    # as spaCy's Corpus makes them: what is read has no questions
    data = facts(nlp, before, where=own)
    first = learn(nlp, data, 1, loop=not own)
    last = learn(nlp, data, 120, loop=not own)
    assert last["qa"] < 0.2 * first["qa"]
    for example, (_, answers) in zip(data, FACTS):
        assert found(nlp, example) == answers
    scores = nlp.evaluate(facts(nlp, before, where=False))
    assert scores["qa_f1"] == scores["qa_em"] == scores["qa_none"] == 1
    nlp.to_disk(tmp_path / "nlp")
    for loaded in (
        spacy.load(tmp_path / "nlp"),
        spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes()),
    ):
        for example, (_, answers) in zip(data, FACTS):
            assert found(loaded, example) == answers


def gradients(nlp: Language) -> list[torch.Tensor]:
    """Those of a step, as both shims would take it."""
    taken = {}

    class Recorder(Optimizer):
        pass

    for name in ("albert", "qa"):
        for shim in nlp.get_pipe(name).model.shims:
            shim._stepper = lambda optimizer, shim=shim: Stop(shim, taken)
    finish(nlp, Recorder(0.01, grad_clip=0.0))
    return [taken[key] for key in sorted(taken)]


class Stop:
    """Keeps gradients instead of stepping."""

    def __init__(self, shim, taken):
        self.param_groups = []
        self.shim, self.taken = shim, taken

    def step(self):
        for name, weight in self.shim.module.named_parameters():
            if weight.grad is not None:
                self.taken[self.shim.folder, name] = weight.grad.clone()

    def zero_grad(self, set_to_none):
        for weight in self.shim.module.parameters():
            weight.grad = None


@pytest.mark.parametrize("head", ["linear", "squad2"])
def test_a_step_in_parts_is_the_step(vocabulary, head):
    found = []
    for parts in ([6], [2, 4], [1, 1, 4]):
        nlp = make(vocabulary, head=head)
        data = facts(nlp, "no more of it . " * 4)
        for start, stop in itertools.pairwise(itertools.accumulate(parts, initial=0)):
            nlp.update(data[start:stop], sgd=False)
        found.append(gradients(nlp))
    assert len(found[0]) > 20
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_what_is_not_annotated_teaches_nothing(vocabulary):
    nlp = make(vocabulary, questions=QUESTIONS)
    text = FACTS[0][0]
    unannotated = Example(nlp.make_doc(text), nlp.make_doc(text))
    losses = nlp.update([unannotated], sgd=Optimizer(0.01))
    assert losses["qa"] == 0
    assert nlp.evaluate([unannotated])["qa_f1"] is None
    assert nlp.update(facts(nlp), sgd=Optimizer(0.01))["qa"] > 0
