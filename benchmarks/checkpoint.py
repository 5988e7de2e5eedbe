"""The encoder of all contenders: ALBERT's base shape, random weights, a real vocabulary.

Speed does not ask what weights have learned, with one exception: how many entities there are to
decode and to write. So the tagger is set to find about as many as a trained one does.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from spacy_albert.checkpoints import save_checkpoint
from spacy_albert.modeling import CONFIGS, Albert, ClassifierHead
from spacy_albert.tokenization import SentencePieceTokenizer

BASE = CONFIGS["albert-base-v2"]
SHAPES = {
    "base": BASE,
    "tiny": replace(
        BASE, hidden_size=64, num_attention_heads=4, intermediate_size=256, num_hidden_layers=3
    ),
}
LABELS = ("PER", "ORG", "LOC", "MISC")
TAGS = ["O"] + [f"{role}-{label}" for label in LABELS for role in "BILU"]  # 17
TAGGED = 0.05  # share of pieces that are an entity; on Wikipedia a trained tagger finds as many


def make(directory: str, shape: str, vocabulary: str, texts: list[str]) -> dict[str, Any]:
    """Write a Hugging Face directory of an AlbertForTokenClassification.

    directory (str): Where to write.
    shape (str): One of SHAPES.
    vocabulary (str): A spiece.model.
    texts (list[str]): What it is going to read; a few of them set how much is tagged.
    RETURNS (dict): The shape, and the length of each text in pieces.
    """
    tokenizer = SentencePieceTokenizer(Path(vocabulary).read_bytes())
    config = replace(SHAPES[shape], vocab_size=tokenizer.size)
    torch.manual_seed(0)
    model, head = Albert(config).eval(), ClassifierHead(config.hidden_size, len(TAGS)).eval()
    pieces = [tokenizer([text]).ids for text in texts]
    longest = config.max_position_embeddings - 2
    rows = [torch.tensor([[2, *ids[:longest], 3]]) for ids in pieces[:8]]
    with torch.inference_mode():
        _balance(head, torch.cat([model(ids)[0] for ids in rows]))
    weights = {f"classifier.{name}": tensor for name, tensor in head.state_dict().items()}
    settings = {
        "architectures": ["AlbertForTokenClassification"],
        "id2label": {str(i): tag for i, tag in enumerate(TAGS)},
    }
    save_checkpoint(Path(directory), config, model.state_dict(), weights, settings)
    tokenizer.save(Path(directory))
    return {"shape": config.to_dict(), "lengths": [len(ids) for ids in pieces]}


def _balance(head: ClassifierHead, states: torch.Tensor) -> None:
    """Let a random tagger find entities of one token, TAGGED of all, and nothing that is invalid.

    head (ClassifierHead): The tagger, changed in place.
    states (Tensor): Some states, (P, H).
    """
    single = torch.tensor([tag.startswith("U-") for tag in TAGS])
    head.bias[~single] = -30.0
    head.bias[0] = 0.0
    scores = head(states)  # (P, K)
    head.bias[single] -= scores[:, single].mean(0) - scores[:, 0].mean()
    scores = head(states)
    margin = scores[:, single].amax(1) - scores[:, 0]  # (P,)
    head.bias[0] = margin.quantile(1 - TAGGED)


def add_fast_tokenizer(directory: str) -> None:
    """Give peers a tokenizer.json that divides texts as ALBERT was trained.

    What `transformers` 4 makes of spiece.model by itself is as fast, and wrong on most paragraphs:
    it takes ( ) - . and others for words and puts a blank behind them. Without those entries, and
    with text stripped, it equals the slow `AlbertTokenizer` on all of 500 paragraphs.

    directory (str): A directory with spiece.model; tokenizer.json is added.
    """
    from transformers import AlbertTokenizerFast

    root = Path(directory)
    fast = AlbertTokenizerFast(vocab_file=str(root / "spiece.model"))
    content = json.loads(fast.backend_tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["special"]]
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    content["normalizer"]["normalizers"].insert(0, strip)
    (root / "tokenizer.json").write_text(json.dumps(content), encoding="utf8")
    settings = json.loads((root / "tokenizer_config.json").read_text(encoding="utf8"))
    settings["model_max_length"] = 512
    (root / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf8")
