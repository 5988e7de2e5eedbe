"""Checkpoints become pipelines that say the same, and go back unchanged."""

import json
import shutil
from pathlib import Path

import pytest
import spacy
import torch
import transformers
from typer.testing import CliRunner

from spacy_albert.cli import albert_cli
from spacy_albert.convert import from_checkpoint, to_hugging_face

TEXTS = [
    "Michael Jane was in London, and Obama (who?) in Paris.",
    "The bank of the river  was 9,000 years old.",
    "cannot you see the café?",
]
SCHEMES = {
    "BIO": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "BIOES": ["O", *(f"{role}-{label}" for label in ("PER", "LOC") for role in "BIES")],
    "BILOU": [*(f"{role}-{label}" for label in ("PER", "LOC") for role in "BILU"), "O"],
    "IO": ["I-PER", "O", "I-LOC"],
}

EXACT = {"components.albert.model.precision": "float32"}


def hf_config(labels, **settings):
    return transformers.AlbertConfig(
        vocab_size=1000,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        # wide enough that the random classes differ clearly
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        **settings,
    )


@pytest.fixture
def make_checkpoint(tmp_path, tiny_spm):
    """Save a random model of some class of transformers with the tiny vocabulary."""

    def make(model_class, labels=("a", "b"), name="hf", **settings) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / name
        model_class(hf_config(labels, **settings)).eval().save_pretrained(folder)
        (folder / "spiece.model").write_bytes(tiny_spm)
        return folder

    return make


def hf_logits(folder, model_class, text):
    tokenizer = transformers.AlbertTokenizer.from_pretrained(folder)
    model = model_class.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_token_classifier_scores_as_in_transformers(make_checkpoint, tmp_path, scheme):
    model_class = transformers.AlbertForTokenClassification
    folder = make_checkpoint(model_class, SCHEMES[scheme])
    nlp = from_checkpoint(folder)
    nlp.to_disk(tmp_path / "pipeline")
    nlp = spacy.load(tmp_path / "pipeline", config=EXACT)
    ner = nlp.get_pipe("ner")
    assert sorted(ner.labels) == ["LOC", "PER"]
    reader = nlp.get_pipe("albert").model.shims[0].reader
    for text in TEXTS:
        doc = nlp(text)
        (logits,) = ner.answers([nlp.make_doc(text)])
        expected = hf_logits(folder, model_class, text)[1:-1]
        pieces = reader.tokenizer([text])
        for token, row in zip(doc, logits):
            own = [
                i
                for i, (start, end) in enumerate(zip(pieces.starts, pieces.ends))
                if start < token.idx + len(token) and end > token.idx and start < end
            ]
            assert token.is_space or own
            if own:
                torch.testing.assert_close(row, expected[own[0]], atol=1e-5, rtol=1e-5)
        assert all(0 < ent._.score <= 1 for ent in doc.ents)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_sequence_classifier_scores_as_in_transformers(make_checkpoint, tmp_path, problem):
    model_class = transformers.AlbertForSequenceClassification
    folder = make_checkpoint(model_class, ["good", "bad", "so-so"], problem_type=problem)
    from_checkpoint(folder).to_disk(tmp_path / "pipeline")
    nlp = spacy.load(tmp_path / "pipeline", config=EXACT)
    factory = nlp.get_pipe_meta("textcat").factory
    assert factory == ("albert_textcat_multilabel" if "multi" in problem else "albert_textcat")
    for text in TEXTS:
        logits = hf_logits(folder, model_class, text)
        expected = logits.sigmoid() if "multi" in problem else logits.softmax(0)
        cats = nlp(text).cats
        assert list(cats) == ["good", "bad", "so-so"]
        torch.testing.assert_close(torch.tensor(list(cats.values())), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model_class", "labels", "settings"),
    [
        (transformers.AlbertModel, ["a", "b"], {}),
        (transformers.AlbertForTokenClassification, SCHEMES["BIO"], {}),
        (transformers.AlbertForSequenceClassification, ["x", "y", "z"], {}),
        (
            transformers.AlbertForSequenceClassification,
            ["x", "y", "z"],
            {"problem_type": "multi_label_classification"},
        ),
    ],
)
def test_there_and_back_again(make_checkpoint, tmp_path, model_class, labels, settings):
    folder = make_checkpoint(model_class, labels, **settings)
    back = tmp_path / "back"
    architecture = to_hugging_face(from_checkpoint(folder), back)
    assert architecture == model_class.__name__
    ours, info = model_class.from_pretrained(back, output_loading_info=True)
    assert not any(info.values())
    theirs = model_class.from_pretrained(folder).state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.state_dict().items())
    assert list(ours.config.id2label.values()) == (
        list(labels) if model_class is not transformers.AlbertModel else ["LABEL_0", "LABEL_1"]
    )
    assert ours.config.problem_type == settings.get(
        "problem_type",
        "single_label_classification" if "Sequence" in architecture else None,
    )
    text = TEXTS[0]
    tokenizers = [transformers.AlbertTokenizer.from_pretrained(path) for path in (folder, back)]
    assert tokenizers[0](text)["input_ids"] == tokenizers[1](text)["input_ids"]


def test_one_of_several_heads_goes_back(make_checkpoint, tmp_path):
    nlp = from_checkpoint(
        make_checkpoint(transformers.AlbertForTokenClassification, SCHEMES["BIO"])
    )
    other = from_checkpoint(
        make_checkpoint(transformers.AlbertForSequenceClassification, ["x", "y"], name="other")
    )
    other.replace_listeners("albert", "textcat", ["model.tok2vec"])
    nlp.add_pipe("textcat", source=other)
    with pytest.raises(ValueError, match=r"ner, textcat.*--component"):
        to_hugging_face(nlp, tmp_path / "out")
    assert to_hugging_face(nlp, tmp_path / "out", component="textcat").endswith(
        "ForSequenceClassification"
    )
    assert to_hugging_face(nlp, tmp_path / "encoder", component="albert") == "AlbertModel"
    with pytest.raises(ValueError, match="no ALBERT component 'nerd'"):
        to_hugging_face(nlp, tmp_path / "out", component="nerd")
    with pytest.raises(ValueError, match="no ALBERT component"):
        to_hugging_face(spacy.blank("en"), tmp_path / "out")


def test_checkpoint_with_only_a_tokenizer_json(make_checkpoint, tmp_path):
    model_class = transformers.AlbertForTokenClassification
    folder = make_checkpoint(model_class, SCHEMES["BIO"])
    fast = transformers.AlbertTokenizerFast.from_pretrained(folder)
    (folder / "spiece.model").unlink()
    fast.backend_tokenizer.save(str(folder / "tokenizer.json"))
    from_checkpoint(folder).to_disk(tmp_path / "pipeline")
    nlp = spacy.load(tmp_path / "pipeline", config=EXACT)
    model = model_class.from_pretrained(folder).eval()
    text = "London was good"  # one piece at the start of each word
    encoding = fast(text, return_tensors="pt")
    with torch.no_grad():
        expected = model(**encoding).logits[0]
    (logits,) = nlp.get_pipe("ner").answers([nlp.make_doc(text)])
    firsts = [encoding.word_ids().index(word) for word in range(3)]
    torch.testing.assert_close(logits, expected[firsts], atol=1e-5, rtol=1e-5)


def edit_config(folder, **changes):
    path = folder / "config.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def test_task_is_asked_for_where_the_config_does_not_say(make_checkpoint):
    folder = make_checkpoint(transformers.AlbertForTokenClassification, SCHEMES["BIO"])
    edit_config(folder, architectures=None)
    with pytest.raises(ValueError, match="--task"):
        from_checkpoint(folder)
    assert from_checkpoint(folder, task="ner").pipe_names == ["albert", "ner"]
    assert from_checkpoint(folder, task="encoder").pipe_names == ["albert"]


def test_bad_checkpoints_are_refused(make_checkpoint, tmp_path):
    token, sequence = (
        transformers.AlbertForTokenClassification,
        transformers.AlbertForSequenceClassification,
    )
    with pytest.raises(ValueError, match=r"no tag scheme.*NOUN"):
        from_checkpoint(make_checkpoint(token, ["NOUN", "VERB", "ADJ"], name="pos"))
    with pytest.raises(ValueError, match="regression"):
        from_checkpoint(make_checkpoint(sequence, ["score"], name="regression"))
    with pytest.raises(ValueError, match="no classifier"):
        from_checkpoint(make_checkpoint(transformers.AlbertModel, name="plain"), task="ner")
    folder = make_checkpoint(token, SCHEMES["BIO"], name="bare")
    (folder / "spiece.model").unlink()
    with pytest.raises((ValueError, OSError), match=r"spiece\.model.*tokenizer\.json"):
        from_checkpoint(folder)
    bert = tmp_path / "bert"
    shutil.copytree(make_checkpoint(token, SCHEMES["BIO"], name="x"), bert)
    edit_config(bert, model_type="bert")
    with pytest.raises(ValueError, match="bert"):
        from_checkpoint(bert)


def test_command(make_checkpoint, tmp_path):
    folder = str(make_checkpoint(transformers.AlbertForTokenClassification, SCHEMES["BIO"]))
    out, back = str(tmp_path / "out"), str(tmp_path / "back")
    run = CliRunner().invoke
    assert "Labels: PER, LOC" in run(albert_cli, ["convert", folder, out]).output
    again = run(albert_cli, ["convert", folder, out])
    assert again.exit_code == 1
    assert "--force" in again.output
    assert run(albert_cli, ["convert", folder, out, "--force"]).exit_code == 0
    result = run(albert_cli, ["convert", out, back, "--to-hf"])
    assert "AlbertForTokenClassification" in result.output.replace("\n", "")
    wrong = run(albert_cli, ["convert", str(tmp_path / "nowhere"), str(tmp_path / "x")])
    assert wrong.exit_code == 1
    assert "nowhere" in wrong.output.replace("\n", "")
    assert not (tmp_path / "x").exists()
