"""Make the vocabulary and the encoder that en_albert_sm is fine-tuned from.

A SentencePiece vocabulary with ALBERT's settings, then masked language modelling (ALBERT paper,
section 3.1, without sentence-order prediction) for as many steps as asked for, on one CPU.

    python pipelines/en_albert_sm/pretrain.py DATA OUTPUT
"""

import argparse
import gzip
import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F

from spacy_albert.checkpoints import save_checkpoint
from spacy_albert.modeling import Albert, AlbertConfig, MaskedLanguageModelHead
from spacy_albert.shims import cpu_tensors
from spacy_albert.tokenization import SentencePieceTokenizer

CONFIG = AlbertConfig(
    vocab_size=8000,
    embedding_size=128,
    hidden_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=1024,
)
# Pre-training sees hardly a text twice; fine-tuning sees each ten times, and needs dropout
FINE_TUNED = replace(CONFIG, hidden_dropout_prob=0.1)
TEXTS = ("text_wiki_squad/wiki_squad", "text_openstax/openstax", "us_speeches/us_speeches",
         "text_eltec/eltec_eng")  # fmt: skip
SYMBOLS = ["(", ")", '"', "-", ".", "–", "£", "€"]
LENGTH, BATCH, PEAK_RATE, WARM_UP = 128, 32, 1e-3, 500


def documents(data: Path, every_novel: int) -> Iterator[str]:
    """Read the documents, without the articles of SQuAD's development set.

    data (Path): The folder of data sets.
    every_novel (int): Take each n-th chapter of the novels, which would outweigh the rest.
    YIELDS (str): Texts.
    """
    for name in TEXTS:
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf8") as lines:
            for number, line in enumerate(lines):
                doc = json.loads(line)
                skipped = "eltec" in name and number % every_novel
                if not skipped and not doc["id"].startswith("dev-"):
                    yield " ".join(doc["paragraphs"])


def train_vocabulary(texts: list[str], size: int) -> bytes:
    """Train a unigram vocabulary with the settings of ALBERT's released one.

    texts (list[str]): The texts.
    size (int): Number of pieces.
    RETURNS (bytes): The SentencePiece model.
    """
    model = io.BytesIO()
    sentences = (part.lower() for text in texts for part in text.split(". "))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=model, vocab_size=size, model_type="unigram",
        character_coverage=0.99995, input_sentence_size=200_000, shuffle_input_sentence=True,
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, pad_piece="<pad>", unk_piece="<unk>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"], user_defined_symbols=SYMBOLS,
        num_threads=2, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def mask(ids: np.ndarray, starts_word: np.ndarray, rng: np.random.Generator) -> tuple:
    """Hide 15 % of the pieces, whole words at a time: 80 % as [MASK], 10 % at random, 10 % as is.

    ids (np.ndarray): (B, S) with [CLS] first and [SEP] last.
    starts_word (np.ndarray): (V,) whether a piece starts a word.
    rng (np.random.Generator): The source of chance.
    RETURNS (tuple): What the model sees, (B, S); where it has to guess, (B, S).
    """
    words = np.cumsum(starts_word[ids], axis=1)
    hidden = rng.random((len(ids), words.max() + 1)) < 0.15
    chosen = np.take_along_axis(hidden, words, axis=1)
    chosen[:, [0, -1]] = False
    fate = rng.random(ids.shape)
    seen = np.where(chosen & (fate < 0.8), 4, ids)
    random = chosen & (fate >= 0.9)
    seen[random] = rng.integers(5, CONFIG.vocab_size, random.sum())
    return seen, chosen


def main(data: Path, output: Path, pieces: int, threads: int) -> None:
    """Pre-train, and save a checkpoint that transformers loads too.

    data (Path): The folder of data sets.
    output (Path): The folder of the checkpoint.
    pieces (int): How many pieces of text to read.
    threads (int): CPU threads.
    """
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    output.mkdir(parents=True, exist_ok=True)
    texts = list(documents(data, every_novel=4))
    if not (output / "spiece.model").exists():
        (output / "spiece.model").write_bytes(train_vocabulary(texts, CONFIG.vocab_size))
    tokenizer = SentencePieceTokenizer((output / "spiece.model").read_bytes())
    tokenizer.save(output)
    stream = np.concatenate([tokenizer([text]).ids for text in texts])
    rows = stream[: len(stream) // (LENGTH - 2) * (LENGTH - 2)].reshape(-1, LENGTH - 2)
    rows = np.pad(rows, ((0, 0), (1, 1)), constant_values=((0, 0), (2, 3)))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(output / "spiece.model"))
    spelled = [processor.id_to_piece(i) for i in range(CONFIG.vocab_size)]
    starts_word = np.array([not piece.isalpha() for piece in spelled])
    held_out, rows = rows[:128], rng.permutation(rows[128:])
    print(f"{len(stream):,} pieces of text, {len(rows):,} rows")

    model = Albert(CONFIG)
    head = MaskedLanguageModelHead(CONFIG, model.embeddings.words)
    parameters = list(dict.fromkeys([*model.parameters(), *head.parameters()]))
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
    n_steps = pieces // (BATCH * LENGTH)

    def loss_of(batch: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        seen, chosen = mask(batch, starts_word, rng)
        with torch.autocast("cpu", torch.bfloat16):
            states = model(torch.from_numpy(seen).long())
            logits = head(states[torch.from_numpy(chosen)]).float()
        gold = torch.from_numpy(batch[chosen]).long()
        return F.cross_entropy(logits, gold), (logits.argmax(1) == gold).float().mean().item()

    began, running = time.time(), 0.0
    for step in range(1, n_steps + 1):
        left = 1 - step / n_steps
        optimizer.param_groups[0]["lr"] = PEAK_RATE * min(step / WARM_UP, max(left, 0.0))
        batch = rows[rng.integers(0, len(rows), BATCH)]
        loss, _ = loss_of(batch, rng)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running += loss.item()
        if step % 200 == 0 or step == n_steps:
            with torch.no_grad():
                dev = [loss_of(part, np.random.default_rng(1)) for part in np.split(held_out, 4)]
            speed = step * BATCH * LENGTH / (time.time() - began)
            accuracy = np.mean([accuracy for _, accuracy in dev])
            print(
                f"step {step:,} of {n_steps:,}: loss {running / 200:.3f}, held-out loss "
                f"{np.mean([float(loss) for loss, _ in dev]):.3f}, accuracy {accuracy:.3f}, "
                f"{speed:,.0f} pieces/s",
                flush=True,
            )
            running = 0.0
            save_checkpoint(output, FINE_TUNED, cpu_tensors(model))
    most_common = np.bincount(held_out.ravel()).max() / held_out.size
    print(f"the most frequent piece alone would be right in {most_common:.3f} of places")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of data sets")
    parser.add_argument("output", type=Path, help="where the checkpoint goes")
    parser.add_argument("--pieces", type=int, default=8_000_000, help="pieces of text to read")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    main(arguments.data, arguments.output, arguments.pieces, arguments.threads)
