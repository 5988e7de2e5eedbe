"""Hugging Face directories: every spelling reads, what is written `transformers` reads, errors."""

import json
import os
import re
import warnings
from pathlib import Path

import pytest
import safetensors
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from spacy_albert.checkpoints import (
    ARCHITECTURES,
    build_albert,
    hugging_face_names,
    load_checkpoint,
    save_checkpoint,
)
from spacy_albert.modeling import Albert, AlbertConfig

TINY = AlbertConfig(
    vocab_size=60,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=4,
    num_hidden_groups=2,
    inner_group_num=2,
    num_attention_heads=4,
    intermediate_size=56,
    max_position_embeddings=24,
)
LABELS = {0: "O", 1: "B-PER", 2: "I-PER"}


def reference(architecture: str):
    """A model of `transformers` whose LayerNorms and biases differ from each other too."""
    torch.manual_seed(1)
    labelled = "Classification" in architecture or "Choice" in architecture
    settings = {"id2label": LABELS} if labelled else {}
    model = getattr(transformers, architecture)(
        transformers.AlbertConfig(**TINY.to_dict(), **settings)
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def outputs(model) -> list[Tensor]:
    ids = torch.arange(5, 35).view(3, 10)
    if isinstance(model, transformers.AlbertForMultipleChoice):
        ids = ids[None]
    with torch.no_grad():
        return list(model(input_ids=ids).to_tuple())


@pytest.fixture
def directory(tmp_path) -> Path:
    """A directory as `transformers` writes it, with both pre-training heads."""
    reference("AlbertForPreTraining").save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(directory: Path, change) -> None:
    path = directory / "model.safetensors"
    # Copies, for the tensors that are read lie in the file that is about to be written.
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(autouse=True)
def no_warnings():
    """Every warning is a failure here, but where a test expects it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


# Reading: spellings


def without_prefix(name: str) -> str:
    return name.removeprefix("albert.")


def lone_patient(name: str) -> str:
    """The names of https://github.com/lonePatient/albert_pytorch: Google's, with dots."""
    if name.startswith("sop_classifier"):
        return name.replace("sop_classifier.classifier", "cls.seq_relationship")
    if name.startswith("predictions"):
        name = re.sub(r"\.(dense|LayerNorm)\.", r".transform.\1.", name)
        return f"cls.{name}"
    layer = r"albert_layer_groups\.(\d)\.albert_layers\.(\d)\."
    name = re.sub(
        layer + r"attention\.LayerNorm", r"transformer.group.\1.inner_group.\2.LayerNorm", name
    )
    name = re.sub(layer, r"transformer.group.\1.inner_group.\2.", name)
    name = name.replace("full_layer_layer_norm", "LayerNorm_1")
    name = re.sub(r"attention\.(query|key|value)", r"attention.self.\1", name)
    name = name.replace("attention.dense", "attention.output.dense")
    name = name.replace(".ffn.", ".ffn.intermediate.dense.")
    name = name.replace(".ffn_output.", ".ffn.intermediate.output.dense.")
    name = name.replace("pooler.", "pooler.dense.")
    return "bert." + without_prefix(name)


def old_layer_norm(name: str) -> str:
    name = re.sub(r"((LayerNorm|layer_norm)\.)weight", r"\1gamma", name)
    return re.sub(r"((LayerNorm|layer_norm)\.)bias", r"\1beta", name)


SPELLED = {
    "no prefix": without_prefix,
    "bert.": lambda name: name.replace("albert.", "bert.", 1),
    "bert.albert.": lambda name: f"bert.{name}",
    "module.": lambda name: f"module.{name}",
    "module.bert.": lambda name: f"module.bert.{without_prefix(name)}",
    "gamma and beta": old_layer_norm,
    "lonePatient": lone_patient,
    "lonePatient, bert.albert.": lambda name: lone_patient(name).replace("bert.", "bert.albert."),
    "bias of the decoder": lambda name: name.replace(
        "predictions.bias", "predictions.decoder.bias"
    ),
}


@pytest.mark.parametrize("spell", SPELLED.values(), ids=SPELLED)
def test_every_spelling_reads_the_same(spell, directory):
    before = load_checkpoint(directory)
    names = load_file(directory / "model.safetensors").keys()
    assert any(spell(name) != name for name in names)
    edit_weights(directory, lambda tensors: {spell(n): t for n, t in tensors.items()})
    after = load_checkpoint(directory)
    assert_same(after.encoder, before.encoder)
    assert_same(after.heads, before.heads)
    assert after.missing == ()


def test_heads_and_settings_are_read(directory):
    checkpoint = load_checkpoint(directory)
    assert checkpoint.config == TINY
    assert checkpoint.settings == json.loads((directory / "config.json").read_text())
    assert sorted(checkpoint.heads) == [
        "predictions.LayerNorm.bias",
        "predictions.LayerNorm.weight",
        "predictions.bias",
        "predictions.decoder.weight",
        "predictions.dense.bias",
        "predictions.dense.weight",
        "sop_classifier.classifier.bias",
        "sop_classifier.classifier.weight",
    ]
    words = checkpoint.encoder["embeddings.words.weight"]
    assert checkpoint.heads["predictions.decoder.weight"] is words


def test_the_tied_decoder_and_buffers_may_be_stored(directory):
    before = load_checkpoint(directory)

    def change(tensors):
        words = tensors["albert.embeddings.word_embeddings.weight"]
        return {
            **tensors,
            "predictions.decoder.weight": words.clone(),
            "predictions.decoder.bias": tensors["predictions.bias"].clone(),
            "albert.embeddings.position_ids": torch.arange(24)[None],
            "albert.embeddings.token_type_ids": torch.zeros(1, 24, dtype=torch.long),
        }

    edit_weights(directory, change)
    after = load_checkpoint(directory)
    assert_same(after.encoder, before.encoder)
    assert_same(after.heads, before.heads)


def test_an_untied_decoder_is_reported(directory):
    edit_weights(directory, lambda t: {**t, "predictions.decoder.weight": torch.ones(60, 16)})
    with pytest.warns(UserWarning, match="predictions.decoder.weight is ignored"):
        checkpoint = load_checkpoint(directory)
    words = checkpoint.encoder["embeddings.words.weight"]
    assert checkpoint.heads["predictions.decoder.weight"] is words


def test_heads_may_be_missing(directory):
    before = load_checkpoint(directory)
    edit_weights(directory, lambda t: {n: w for n, w in t.items() if n.startswith("albert.")})
    after = load_checkpoint(directory)
    assert_same(after.encoder, before.encoder)
    assert after.heads == {}


def test_a_missing_pooler_is_fresh_and_named(tmp_path):
    theirs = reference("AlbertForTokenClassification")
    theirs.save_pretrained(tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.missing == ("pooler.weight", "pooler.bias")
    albert = build_albert(checkpoint)
    assert 0 < albert.pooler.weight.abs().max() <= 0.04
    assert not albert.pooler.bias.any()
    assert not albert.training
    albert.embeddings.words.weight.data.zero_()
    assert checkpoint.encoder["embeddings.words.weight"].any(), "a model must own its weights"


def test_foreign_tensors_are_reported(directory):
    before = load_checkpoint(directory)
    edit_weights(directory, lambda t: {**t, "crf.transitions": torch.ones(3, 3)})
    with pytest.warns(UserWarning, match=r"ignored: crf\.transitions"):
        after = load_checkpoint(directory)
    assert_same(after.heads, before.heads)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_reads_as_float32(precision, directory):
    before = load_checkpoint(directory)
    edit_weights(directory, lambda t: {n: w.to(precision) for n, w in t.items()})
    after = load_checkpoint(directory)
    assert_same(after.encoder, {n: t.to(precision).float() for n, t in before.encoder.items()})
    assert {t.dtype for t in after.heads.values()} == {torch.float32}


# Reading: files


def shard(directory: Path, save, name: str) -> None:
    """Split model.safetensors in three, with an index, as `save` writes it."""
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    stem, suffix = name.rsplit(".", 1)
    weight_map = {}
    for i in range(3):
        file = f"{stem}-{i + 1:05}-of-00003.{suffix}"
        save({n: tensors[n].clone() for n in names[i::3]}, directory / file)
        weight_map |= dict.fromkeys(names[i::3], file)
    (directory / f"{name}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("save", "name"), [(save_file, "model.safetensors"), (torch.save, "pytorch_model.bin")]
)
def test_shards_read_as_one_file(save, name, directory):
    before = load_checkpoint(directory)
    before = (dict(before.encoder), dict(before.heads))
    shard(directory, save, name)
    after = load_checkpoint(directory)
    assert_same(after.encoder, before[0])
    assert_same(after.heads, before[1])


def test_shards_of_transformers_read(tmp_path):
    theirs = reference("AlbertModel")
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    whole, shards = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "shards")
    assert_same(shards.encoder, whole.encoder)


def test_pytorch_bin_reads(directory):
    before = load_checkpoint(directory)
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    after = load_checkpoint(str(directory))
    assert_same(after.encoder, before.encoder)
    assert_same(after.heads, before.heads)


# Writing


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_written_transformers_reads(architecture, tmp_path):
    theirs = reference(architecture)
    theirs.save_pretrained(tmp_path / "theirs")
    checkpoint = load_checkpoint(tmp_path / "theirs")
    state = build_albert(checkpoint).state_dict()
    save_checkpoint(tmp_path / "ours", TINY, state, checkpoint.heads, checkpoint.settings)

    model, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for ours, wanted in zip(outputs(model), outputs(theirs), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)
    assert model.config.id2label == theirs.config.id2label
    written, original = (
        load_file(tmp_path / where / "model.safetensors") for where in ("ours", "theirs")
    )
    assert_same(written, original)


@pytest.mark.parametrize(
    ("heads", "architecture"),
    [
        ((), "AlbertModel"),
        (("predictions",), "AlbertForMaskedLM"),
        (("predictions", "sop_classifier"), "AlbertForPreTraining"),
        (("qa_outputs",), "AlbertForQuestionAnswering"),
    ],
)
def test_heads_decide_the_architecture(heads, architecture, tmp_path):
    everything = {}
    for model in ("AlbertForPreTraining", "AlbertForQuestionAnswering"):
        reference(model).save_pretrained(tmp_path / model)
        everything |= load_checkpoint(tmp_path / model).heads
    chosen = {n: t for n, t in everything.items() if n.startswith(heads or ("-",))}
    save_checkpoint(tmp_path / "ours", TINY, Albert(TINY).state_dict(), chosen)
    assert load_checkpoint(tmp_path / "ours").settings["architectures"] == [architecture]
    model = getattr(transformers, architecture)
    _, info = model.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_a_classifier_without_labels_gets_placeholders(tmp_path):
    heads = {"classifier.weight": torch.randn(5, 32), "classifier.bias": torch.randn(5)}
    settings = {"architectures": ["AlbertForTokenClassification"], "dtype": "float16"}
    save_checkpoint(tmp_path, TINY, Albert(TINY).state_dict(), heads, settings)
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert torch.equal(model.classifier.weight, heads["classifier.weight"])
    assert model.config.label2id["LABEL_4"] == 4
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["torch_dtype"] == "float32"
    assert "dtype" not in settings, "it would contradict what is written"


def test_written_files(tmp_path):
    """Marked as PyTorch's, readable by whom the umask lets read, and nothing beside them."""
    previous = os.umask(0o022)
    try:
        save_checkpoint(tmp_path / "new" / "folder", TINY, Albert(TINY).state_dict())
    finally:
        os.umask(previous)
    files = sorted((tmp_path / "new" / "folder").iterdir())
    assert [file.name for file in files] == ["config.json", "model.safetensors"]
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in files)
    with safetensors.safe_open(files[1], "pt") as weights:
        assert weights.metadata() == {"format": "pt"}


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, TINY, Albert(TINY).state_dict())
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full_disk(path: Path, data: bytes) -> None:
        path.open("wb").write(data[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, TINY, Albert(TINY).state_dict())
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_files_are_replaced_and_not_written_over(tmp_path):
    """Tensors that someone has read may still lie in the old file."""
    save_checkpoint(tmp_path, TINY, Albert(TINY).state_dict())
    before = load_checkpoint(tmp_path).encoder
    copies = {name: tensor.clone() for name, tensor in before.items()}
    save_checkpoint(tmp_path, TINY, Albert(TINY).state_dict())
    assert_same(before, copies)
    assert not torch.equal(
        load_checkpoint(tmp_path).encoder["pooler.weight"], before["pooler.weight"]
    )


def test_names_pair_all_tensors_once(tmp_path):
    theirs = [name for name, _ in reference("AlbertModel").named_parameters()]
    ours = [part for name in Albert(TINY).state_dict() for part in hugging_face_names(name)]
    assert sorted(ours) == sorted(theirs)


# Errors of reading


def test_no_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*nowhere/config\.json.*A checkpoint is"):
        load_checkpoint(tmp_path / "nowhere")


def test_another_model(directory):
    edit_config(directory, model_type="bert")
    with pytest.raises(ValueError, match="model of type 'bert', not an ALBERT"):
        load_checkpoint(directory)


def test_a_config_of_the_first_files_names_no_type(directory):
    settings = json.loads((directory / "config.json").read_text())
    del settings["model_type"]
    (directory / "config.json").write_text(json.dumps(settings))
    assert load_checkpoint(directory).config == TINY


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[]", "not an object"), ("\x00", "is not JSON")]
)
def test_a_broken_config(text, message, directory):
    (directory / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json .*{message}"):
        load_checkpoint(directory)


def test_no_weights(directory):
    (directory / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"looked for model\.safetensors, pytorch_model\.bin"
    ):
        load_checkpoint(directory)


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "model.ckpt-best.index"])
def test_weights_of_another_framework(name, directory):
    (directory / "model.safetensors").rename(directory / name)
    with pytest.raises(FileNotFoundError, match=rf"It has {name}: convert"):
        load_checkpoint(directory)


def test_missing_tensors(directory):
    edit_weights(directory, lambda t: {n: w for n, w in t.items() if "query" not in n})
    lost = r"layer_groups\.0\.albert_layers\.0\.attention\.query\.bias, .* and 3 more\. Beside"
    with pytest.raises(ValueError, match=lost):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vocab_size", 61, r"word_embeddings\.weight has shape \(60, 16\), .* says \(61, 16\)"),
        ("hidden_size", 64, r"mapping_in\.weight has shape \(32, 16\), .* says \(64, 16\)"),
        ("intermediate_size", 8, r"ffn\.weight has shape \(56, 32\), .* says \(8, 32\)"),
        ("max_position_embeddings", 8, r"position_embeddings\.weight has shape \(24, 16\)"),
    ],
)
def test_shapes_that_contradict_the_config(field, value, message, directory):
    edit_config(directory, **{field: value})
    with pytest.raises(ValueError, match=message):
        load_checkpoint(directory)


def test_labels_that_contradict_the_classifier(tmp_path):
    reference("AlbertForTokenClassification").save_pretrained(tmp_path)
    edit_config(tmp_path, id2label={"0": "O", "1": "PER"})
    with pytest.raises(
        ValueError, match=r"id2label has 2 labels, but classifier\.weight has 3 rows"
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("contents", ["cut short", "pointer"])
def test_corrupt_files(name, contents, directory):
    path = directory / name
    if name == "pytorch_model.bin":
        torch.save(load_file(directory / "model.safetensors"), path)
        (directory / "model.safetensors").unlink()
    half = path.read_bytes()[: path.stat().st_size // 2]
    pointer = b"version https://git-lfs.github.com/spec/v1"
    path.write_bytes({"cut short": half, "pointer": pointer}[contents])
    with pytest.raises(ValueError, match=rf"{name} cannot be read as weights.* fetch it again"):
        load_checkpoint(directory)


def test_a_bin_of_other_things(directory):
    tensors = load_file(directory / "model.safetensors")
    torch.save({"epoch": 3, "model": tensors}, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="save just the state dict"):
        load_checkpoint(directory)


def test_a_missing_shard(directory):
    shard(directory, save_file, "model.safetensors")
    (directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003\.safetensors, a shard"):
        load_checkpoint(directory)


def test_two_spellings_that_disagree(directory):
    edit_weights(directory, lambda t: {**t, "pooler.bias": torch.ones(32)})
    with pytest.raises(ValueError, match=r"two different tensors for pooler\.bias"):
        load_checkpoint(directory)


# Errors of writing


CLASSIFIER = {"classifier.weight": torch.ones(3, 32), "classifier.bias": torch.ones(3)}


@pytest.mark.parametrize(
    ("heads", "settings", "message"),
    [
        (CLASSIFIER, {}, r"\(classifier\) are those of AlbertForMultipleChoice, AlbertForS"),
        (CLASSIFIER, {"architectures": ["AlbertForMaskedLM"]}, "says AlbertForMaskedLM"),
        ({"crf.transitions": torch.ones(1)}, {}, r"\(crf\) are those of none"),
        (
            CLASSIFIER,
            {"architectures": ["AlbertForTokenClassification"], "id2label": {0: "O", 1: "PER"}},
            "id2label has 2 labels",
        ),
    ],
)
def test_heads_that_cannot_be_written(heads, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / "out", TINY, Albert(TINY).state_dict(), heads, settings)
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_cannot_be_written(tmp_path):
    state = Albert(TINY).state_dict()
    lacking = {name: tensor for name, tensor in state.items() if name != "groups.0.0.qkv.bias"}
    with pytest.raises(ValueError, match=r"the encoder has no tensor 'groups\.0\.0\.qkv\.bias'"):
        save_checkpoint(tmp_path / "out", TINY, lacking)
    other = {**state, "groups.1.1.qkv.weight": torch.ones(95, 32)}
    with pytest.raises(
        ValueError, match=r"1\.albert_layers\.1\.attention\.value\.weight has shape"
    ):
        save_checkpoint(tmp_path / "out", TINY, other)
    assert not (tmp_path / "out").exists()
