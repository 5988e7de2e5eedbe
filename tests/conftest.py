import io
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

torch.set_num_threads(1)

# No test fails because the machine is busy
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

WORDS = """
    the of and to in a was he it is for on that with as his her she at by from had not but be
    they were which one you all this have there an or so out up said what their who would when
    him them been into more no man could some time your any then now only about these than two
    may other do little new after before over down first good very made my such like our me way
    own people even must never between under life both long last again well through where years
    london paris obama google michael jane austen united nations river city council match play
    film book story music science report company bank market street house school winter summer
""".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, where this checkout has one beside it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data sets in ../shared/data")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_spm() -> bytes:
    """A 1,000-piece unigram model, trained with the settings of ALBERT's released vocabulary."""
    import sentencepiece

    rng = random.Random(0)
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    made = ["".join(rng.choices(alphabet, k=rng.randint(2, 9))) for _ in range(1500)]
    lines = []
    for _ in range(4000):
        words = rng.choices(WORDS, k=8) + rng.choices(made, k=4)
        words += [f"{rng.randint(0, 99_999):,}", str(rng.randint(0, 3000))]
        rng.shuffle(words)
        lines.append(
            " ".join(words) + rng.choice([".", "!", "?", " (x).", ', "y".', "; z-z", "'s"])
        )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=1000,
        model_type="unigram",
        character_coverage=0.99995,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        pad_piece="<pad>",
        unk_piece="<unk>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        user_defined_symbols=["(", ")", '"', "-", ".", "–", "£", "€"],
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
