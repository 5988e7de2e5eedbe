"""A vocabulary of one's own: ALBERT's settings, and texts that are too few for it."""

import unicodedata

import pytest
import sentencepiece
import transformers
from hypothesis import assume, given
from hypothesis import strategies as st

from spacy_albert.cleaning import ASCII_PUNCTUATION, Cleaner
from spacy_albert.pretraining.vocabulary import cleaned, train_vocabulary
from spacy_albert.tokenization import SentencePieceTokenizer, load_tokenizer

WORDS = """
    river London science Österreich market paris unité crème winter council street music summer
    report company people between never school nations united match story second house number
""".split()  # noqa: SIM905
TEXTS = [
    f"It’s “{word}” — the {number}th, they said (not {word}s): Ωmega-{word}."
    for number in range(40)
    for word in WORDS
]


@pytest.fixture(scope="module")
def model() -> bytes:
    return train_vocabulary(TEXTS, 80)


def test_special_pieces_are_where_albert_has_them(model):
    spm = sentencepiece.SentencePieceProcessor()
    spm.LoadFromSerializedProto(model)
    assert spm.GetPieceSize() == 80
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    assert [spm.IdToPiece(i) for i in range(13)] == [*special, *'()"-.–£€']
    assert (spm.bos_id(), spm.eos_id()) == (-1, -1)


def test_it_is_of_clean_text(model):
    pieces = SentencePieceTokenizer(model).pieces()
    assert not any(c.isupper() or unicodedata.combining(c) for piece in pieces[13:] for c in piece)
    assert "s" in pieces


@pytest.mark.parametrize("lower_case", [True, False])
def test_transformers_reads_it(lower_case, tmp_path):
    model = train_vocabulary(TEXTS, 80, lower_case=lower_case)
    ours = SentencePieceTokenizer(model, lower_case=lower_case)
    assert lower_case != any(piece.isupper() for piece in ours.pieces()[13:])
    ours.save(tmp_path)
    theirs = transformers.AlbertTokenizer.from_pretrained(tmp_path)
    for text in TEXTS[:50]:
        assert ours([text]).ids.tolist() == theirs.encode(text, add_special_tokens=False)


def test_plain_punctuation_is_remembered(tmp_path):
    model = train_vocabulary(TEXTS, 80, ascii_punctuation=True)
    tokenizer = SentencePieceTokenizer(model, ascii_punctuation=True)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    text = "It’s “London” — the 3rd"
    assert loaded([text]).ids.tolist() == tokenizer([text]).ids.tolist()
    assert loaded([text]).ids.tolist() == loaded(['It\'s "London" - the 3rd']).ids.tolist()
    assert loaded.unk_id not in loaded([text]).ids
    assert not SentencePieceTokenizer(model).ascii_punctuation
    spelled = SentencePieceTokenizer.from_bytes(tokenizer.to_bytes())
    assert spelled([text]).ids.tolist() == tokenizer([text]).ids.tolist()


@given(st.text(st.sampled_from([*map(chr, ASCII_PUNCTUATION), *"ab é'`"]) | st.characters()))
def test_plain_punctuation_keeps_places(tiny_spm, text):
    """Each of these characters becomes one other, so nothing else moves."""
    written = text.translate(ASCII_PUNCTUATION)
    assume("''" not in written)  # which is one quote for ALBERT, if it was so in the text
    found = SentencePieceTokenizer(tiny_spm, ascii_punctuation=True)([text])
    wanted = SentencePieceTokenizer(tiny_spm)([written])
    assert [array.tolist() for array in found] == [array.tolist() for array in wanted]


def test_words_stay_whole_and_all_are_handed_over():
    text = "a" * 700 + " " + "b" * 700 + " c " * 900
    parts = list(cleaned([text, "", "  ", "É!"], Cleaner(True, False, True)))
    assert " ".join(parts).split() == [*text.split(), "e!"]
    assert max(map(len, parts)) < 4000


@pytest.mark.parametrize(
    ("texts", "size", "wanted"),
    [
        (TEXTS, 30_000, r"support no more than [\d,]+ pieces, not 30,000: give more text"),
        (TEXTS, 13, "no room beside ALBERT's special ones"),
        ([], 100, "no text to make a vocabulary of"),
        (["", " "], 100, "no text to make a vocabulary of"),
        (["".join(map(chr, range(0x4E00, 0x4F00)))] * 3, 50, "larger --size"),
    ],
)
def test_texts_that_do_not_make_a_vocabulary(texts, size, wanted):
    with pytest.raises(ValueError, match=wanted):
        train_vocabulary(texts, size)
