"""Google's directories become pipelines that say what `transformers` makes of the same weights.

The checkpoints are random models of `transformers`, written down under Google's names: by
TensorFlow's own writer where it is installed; in any case handed over where TensorFlow would have
read them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
import transformers
from torch import Tensor
from typer.testing import CliRunner

from spacy_albert import tf_checkpoints
from spacy_albert.checkpoints import build_albert
from spacy_albert.cli import albert_cli
from spacy_albert.convert import from_checkpoint
from spacy_albert.tf_checkpoints import is_tf_checkpoint, load_tf_checkpoint

# What Google's config files say, but for the sizes of a tiny model
SETTINGS = {
    "attention_probs_dropout_prob": 0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0,
    "embedding_size": 16,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 56,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_hidden_groups": 1,
    "net_structure_type": 0,
    "gap_size": 0,
    "num_memory_blocks": 0,
    "inner_group_num": 1,
    "down_scale_factor": 1,
    "type_vocab_size": 2,
    "vocab_size": 1000,
}

# The variables of modeling.py and run_pretraining.py in google-research/albert, and what they are
# called in `transformers`: those that are the same there, and dense layers, whose kernels are not
PLAIN = {
    "bert/embeddings/word_embeddings": "embeddings.word_embeddings.weight",
    "bert/embeddings/token_type_embeddings": "embeddings.token_type_embeddings.weight",
    "bert/embeddings/position_embeddings": "embeddings.position_embeddings.weight",
    "bert/embeddings/LayerNorm/beta": "embeddings.LayerNorm.bias",
    "bert/embeddings/LayerNorm/gamma": "embeddings.LayerNorm.weight",
    "cls/predictions/transform/LayerNorm/beta": "predictions.LayerNorm.bias",
    "cls/predictions/transform/LayerNorm/gamma": "predictions.LayerNorm.weight",
    "cls/predictions/output_bias": "predictions.bias",
    "cls/seq_relationship/output_weights": "sop_classifier.classifier.weight",
    "cls/seq_relationship/output_bias": "sop_classifier.classifier.bias",
    "cls/squad/output_weights": "qa_outputs.weight",
    "cls/squad/output_bias": "qa_outputs.bias",
    "output_weights": "classifier.weight",
    "output_bias": "classifier.bias",
}
DENSE = {
    "bert/encoder/embedding_hidden_mapping_in": "encoder.embedding_hidden_mapping_in",
    "bert/pooler/dense": "pooler",
    "cls/predictions/transform/dense": "predictions.dense",
}
PLAIN_IN_A_LAYER = {
    "LayerNorm/beta": "attention.LayerNorm.bias",
    "LayerNorm/gamma": "attention.LayerNorm.weight",
    "LayerNorm_1/beta": "full_layer_layer_norm.bias",
    "LayerNorm_1/gamma": "full_layer_layer_norm.weight",
}
DENSE_IN_A_LAYER = {
    "attention_1/self/query": "attention.query",
    "attention_1/self/key": "attention.key",
    "attention_1/self/value": "attention.value",
    "attention_1/output/dense": "attention.dense",
    "ffn_1/intermediate/dense": "ffn",
    "ffn_1/intermediate/output/dense": "ffn_output",
}


def reference(architecture: str = "AlbertForPreTraining", **settings):
    """A random model of `transformers` with the activation that Google means by "gelu"."""
    torch.manual_seed(0)
    config = transformers.AlbertConfig(**{**SETTINGS, "hidden_act": "gelu_new", **settings})
    model = getattr(transformers, architecture)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)  # so that no bias is 0
    return model


def google_variables(model) -> dict[str, np.ndarray]:
    """The weights under Google's names, and what the optimizer kept beside them."""
    state = {k.removeprefix("albert."): t.numpy() for k, t in model.state_dict().items()}
    plain, dense = dict(PLAIN), dict(DENSE)
    for g in range(model.config.num_hidden_groups):
        for i in range(model.config.inner_group_num):
            theirs = f"bert/encoder/transformer/group_{g}/inner_group_{i}"
            ours = f"encoder.albert_layer_groups.{g}.albert_layers.{i}"
            plain |= {f"{theirs}/{tf}": f"{ours}.{hf}" for tf, hf in PLAIN_IN_A_LAYER.items()}
            dense |= {f"{theirs}/{tf}": f"{ours}.{hf}" for tf, hf in DENSE_IN_A_LAYER.items()}
    plain |= {f"{tf}/bias": f"{hf}.bias" for tf, hf in dense.items()}
    found = {tf: state[hf] for tf, hf in plain.items() if hf in state}
    for tf, hf in dense.items():
        if f"{hf}.weight" in state:
            found[f"{tf}/kernel"] = state[f"{hf}.weight"].T
    tied = {"predictions.decoder.weight", "predictions.decoder.bias"}
    assert len(found) == len(state.keys() - tied)
    slots = {f"{name}/adam_{m}": a for name, a in found.items() for m in "mv"}
    return found | slots | {"global_step": np.array(125_000)}


def write_with_tensorflow(prefix: Path, variables: dict[str, np.ndarray]) -> None:
    """Save variables as run_pretraining.py does."""
    tf = pytest.importorskip("tensorflow", reason="tensorflow, which writes this, is not installed")
    with tf.Graph().as_default():
        made = [
            tf.compat.v1.get_variable(name, initializer=tf.constant(array))
            for name, array in variables.items()
        ]
        saver = tf.compat.v1.train.Saver(made)
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            saver.save(session, str(prefix))


def write_around(folder: Path, vocabulary: bytes, **settings) -> None:
    """Write the files beside the weights."""
    (folder / "albert_config.json").write_text(json.dumps(SETTINGS | settings))
    (folder / "30k-clean.model").write_bytes(vocabulary)


@pytest.fixture(params=["by TensorFlow", "by hand"])
def make_folder(request, tmp_path, tiny_spm, monkeypatch):
    """Save variables in a directory like Google's."""

    def make(variables: dict[str, np.ndarray], **settings) -> Path:
        folder = tmp_path / "albert_tiny"
        folder.mkdir()
        write_around(folder, tiny_spm, **settings)
        if request.param == "by TensorFlow":
            write_with_tensorflow(folder / "model.ckpt-best", variables)
        else:
            kept = {k: a for k, a in variables.items() if "adam" not in k and "step" not in k}
            monkeypatch.setattr(tf_checkpoints, "read_variables", lambda index: kept)
            (folder / "model.ckpt-best.index").touch()
        return folder

    return make


IDS = torch.arange(5, 53).view(4, 12)


def states(model) -> Tensor:
    with torch.no_grad():
        return model.base_model(IDS).last_hidden_state


def assert_says_the_same(checkpoint, model) -> None:
    with torch.no_grad():
        ours = build_albert(checkpoint)(IDS)
    torch.testing.assert_close(ours, states(model), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    "settings", [{}, {"num_hidden_groups": 2, "inner_group_num": 2}, {"hidden_act": "relu"}]
)
def test_pretrained_model(make_folder, settings):
    model = reference(**settings)
    folder = make_folder(google_variables(model), **settings)
    assert is_tf_checkpoint(folder)
    checkpoint, tokenizer = load_tf_checkpoint(folder)
    assert_says_the_same(checkpoint, model)
    assert tokenizer.size == 1000
    theirs = model.state_dict()
    assert torch.equal(checkpoint.encoder["pooler.weight"], theirs["albert.pooler.weight"])
    assert checkpoint.missing == ()
    heads = {name for name in theirs if not name.startswith("albert.")}
    assert checkpoint.heads.keys() == heads - {"predictions.decoder.bias"}
    for name, tensor in checkpoint.heads.items():
        assert torch.equal(tensor, theirs[name]), name


def test_transformers_reads_the_same_from_the_same_file(tmp_path, tiny_spm):
    library = pytest.importorskip("transformers.models.albert.modeling_albert")
    if not hasattr(library, "load_tf_weights_in_albert"):
        pytest.skip("this version of transformers reads no TensorFlow checkpoints")
    write_with_tensorflow(tmp_path / "model.ckpt-best", google_variables(reference()))
    write_around(tmp_path, tiny_spm)
    theirs = transformers.AlbertForPreTraining(reference().config).eval()
    library.load_tf_weights_in_albert(theirs, theirs.config, str(tmp_path / "model.ckpt-best"))
    assert_says_the_same(load_tf_checkpoint(tmp_path)[0], theirs)


def test_equal_widths_have_no_projection(make_folder):
    model = reference(embedding_size=32)
    project = model.albert.encoder.embedding_hidden_mapping_in
    with torch.no_grad():
        project.weight.copy_(torch.eye(32))
        project.bias.zero_()
    variables = google_variables(model)
    variables = {k: a for k, a in variables.items() if "embedding_hidden_mapping_in" not in k}
    checkpoint, _ = load_tf_checkpoint(make_folder(variables, embedding_size=32))
    assert_says_the_same(checkpoint, model)


def test_variables_of_a_hub_module(make_folder):
    model = reference("AlbertModel")
    variables = {f"module/{name}": array for name, array in google_variables(model).items()}
    assert_says_the_same(load_tf_checkpoint(make_folder(variables))[0], model)


def test_classifier_becomes_a_pipeline(make_folder, tmp_path):
    model = reference("AlbertForSequenceClassification", num_labels=3)
    folder = make_folder(google_variables(model))
    with pytest.raises(ValueError, match="--task"):
        from_checkpoint(folder)
    nlp = from_checkpoint(folder, task="textcat")
    nlp.to_disk(tmp_path / "pipeline")
    exact = {"components.albert.model.precision": "float32"}
    nlp = spacy.load(tmp_path / "pipeline", config=exact)
    text = "the bank of the river was good"
    (folder / "spiece.model").write_bytes((folder / "30k-clean.model").read_bytes())
    ids = transformers.AlbertTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        expected = model(**ids).logits[0].softmax(0)
    cats = nlp(text).cats
    assert list(cats) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    torch.testing.assert_close(torch.tensor(list(cats.values())), expected, atol=1e-5, rtol=0)


def test_answers_of_questions(make_folder):
    model = reference("AlbertForQuestionAnswering")
    checkpoint, _ = load_tf_checkpoint(make_folder(google_variables(model)))
    assert torch.equal(checkpoint.heads["qa_outputs.weight"], model.qa_outputs.weight)
    assert torch.equal(checkpoint.heads["qa_outputs.bias"], model.qa_outputs.bias)


def test_command(make_folder, tmp_path):
    model = reference()
    folder, output = make_folder(google_variables(model)), tmp_path / "pipeline"
    result = CliRunner().invoke(albert_cli, ["convert", str(folder), str(output)])
    assert result.exit_code == 0, result.output
    again = transformers.AlbertModel.from_pretrained(output / "albert" / "encoder").eval()
    torch.testing.assert_close(states(again), states(model), atol=1e-5, rtol=1e-5)
    assert spacy.load(output).pipe_names == ["albert"]


# Errors


def test_what_is_missing_is_named(tmp_path, tiny_spm):
    (tmp_path / "model.ckpt-best.index").touch()
    with pytest.raises(FileNotFoundError, match=r"no \*_config\.json.*albert_config\.json"):
        load_tf_checkpoint(tmp_path)
    (tmp_path / "albert_config.json").write_text(json.dumps(SETTINGS))
    with pytest.raises(FileNotFoundError, match=r"no \*\.model.*30k-clean\.model"):
        load_tf_checkpoint(tmp_path)
    write_around(tmp_path, tiny_spm)
    (tmp_path / "model.ckpt-best.index").unlink()
    for step in (1000, 2000):
        (tmp_path / f"model.ckpt-{step}.index").touch()
    with pytest.raises(FileNotFoundError, match=r"several files \*\.index .*model\.ckpt-2000"):
        load_tf_checkpoint(tmp_path)


def test_no_tensorflow(tmp_path, tiny_spm, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    write_around(tmp_path, tiny_spm)
    (tmp_path / "model.ckpt-best.index").touch()
    out = tmp_path / "out"
    result = CliRunner().invoke(albert_cli, ["convert", str(tmp_path), str(out)])
    assert result.exit_code == 1
    assert "pip install tensorflow" in " ".join(result.output.split())
    assert not out.exists()


@pytest.mark.parametrize("broken", ["index", "data-00000-of-00001"])
def test_broken_files(tmp_path, tiny_spm, broken):
    write_with_tensorflow(tmp_path / "model.ckpt-best", google_variables(reference()))
    write_around(tmp_path, tiny_spm)
    path = tmp_path / f"model.ckpt-best.{broken}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"model\.ckpt-best\.index .*cut short"):
        load_tf_checkpoint(tmp_path)


def test_config_of_another_model(make_folder):
    folder = make_folder(google_variables(reference()), hidden_size=64)
    with pytest.raises(ValueError, match=r"shape .* but the config says"):
        load_tf_checkpoint(folder)
