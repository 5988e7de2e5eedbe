import copy
import csv
import gzip
import io
import json
import pickle
import random
import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spacy_albert.tokenization import (
    SPECIAL_PIECES,
    JsonTokenizer,
    Pieces,
    SentencePieceTokenizer,
    load_tokenizer,
    tokenizer_from_bytes,
)

transformers = pytest.importorskip("transformers")

PANGRAM = "The quick brown fox jumps over the lazy dog."
BERT = (
    "BERT is designed to pre-train deep bidirectional representations from unlabeled text by "
    "jointly conditioning on both left and right context in all layers."
)
LIBRARY = (
    "Transformers (formerly known as pytorch-transformers and pytorch-pretrained-bert) provides "
    "general-purpose architectures (BERT, GPT-2, RoBERTa, XLM, DistilBert, XLNet...) for Natural "
    "Language Understanding (NLU) and Natural Language Generation (NLG) with over 32+ pretrained "
    "models in 100+ languages and deep interoperability between Jax, PyTorch and TensorFlow."
)
# the lists of transformers' own tests for albert-base-v2, tests/models/albert
PUBLISHED_IDS = {
    PANGRAM: "14 2231 886 2385 17659 84 14 16792 1952 9",
    BERT: (
        "11502 25 1006 20 782 8 11809 855 1732 19393 18667 37 367 21018 69 1854 34 11860 19124 27 "
        "156 225 17 193 4141 19 65 9124 9"
    ),
    LIBRARY: (
        "21970 13 5 6092 167 28 7103 2153 673 8 7028 12051 18 17 7103 2153 673 8 3515 18684 8 "
        "4461 6 1927 297 8 12060 2607 18 13 5 4461 15 10538 38 8 135 15 822 58 15 993 10363 15 "
        "1460 8005 4461 15 993 255 2328 9 9 9 6 26 1112 816 3260 13 5 103 2377 6 17 1112 816 "
        "2782 13 5 103 10641 6 29 84 2512 2430 782 18684 2761 19 808 2430 2556 17 855 1480 9477 "
        "4091 128 11712 15 7103 2153 673 17 24883 9990 9"
    ),
    "This is a test": "48 25 21 1289",
}

# What has gone wrong in tokenizers: quotes of two characters, digits with commas, characters that
# become several, one or none, every kind of blank, and writing that needs its neighbours.
AWKWARD = [
    *"'`\"“”‘’…—–£€,.-()[]<>079²①９，፩½ﬁﬀⅧ℡™ﷺ¨´éÉñİıßẞΣςσ𝚺𝐀ſÅŉǅ한ㅎ㈀が日漢▁\ufffdabT",
    *("''", "``", "9,", "1,000", "92000,", "3,141,592,", "٣,", "the", "The", "London", "UNITED"),
    *("\u0301", "e\u0301", "o\u0302\u0323", "\u1112", "\u1161", "\u11ab", "か\u3099", "日本語"),
    *("שלום", "مرحبا", "क्षि", "ไทย", "👩\u200d👩\u200d👧", "🇬🇧", "❤\ufe0f", "🏽"),
]
BLANKS = list(" \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000") + ["\r\n", "  "]
INVISIBLE = list("\x00\x01\x08\x7f\xad\u061c\u180e\u200b\u200d\u200f\u2060\u2066\ufeff\U000e0041")
unicode_texts = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.text("0123456789,.'`\"- aA", max_size=40),
    st.lists(
        st.one_of(
            st.sampled_from(AWKWARD),
            st.sampled_from(BLANKS),
            st.sampled_from(INVISIBLE),
            st.characters(codec="utf-8"),
        ),
        max_size=40,
    ).map("".join),
)
options = st.fixed_dictionaries(
    {"lower_case": st.booleans(), "keep_accents": st.booleans(), "remove_space": st.booleans()}
)


def each(pieces: Pieces) -> Iterator[Pieces]:
    """The pieces of each text for itself."""
    start = 0
    for count in pieces.counts:
        stop = start + count
        yield Pieces(*(array[start:stop] for array in pieces[:3]), np.array([count]))
        start = stop
    assert start == len(pieces.ids)


def reference_ids(albert, text: str) -> list[int]:
    return albert.convert_tokens_to_ids(albert.tokenize(text))


def spells_special(text: str) -> bool:
    return any(piece.lower() in text.lower() for piece in SPECIAL_PIECES.values())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A function from a model and its options to our tokenizer and transformers'."""

    @lru_cache
    def make(model, lower_case=True, keep_accents=False, remove_space=True):
        path = tmp_path_factory.mktemp("model") / "spiece.model"
        path.write_bytes(model)
        ours = SentencePieceTokenizer(
            model, lower_case=lower_case, keep_accents=keep_accents, remove_space=remove_space
        )
        albert = transformers.AlbertTokenizer(
            vocab_file=str(path),
            do_lower_case=lower_case,
            keep_accents=keep_accents,
            remove_space=remove_space,
        )
        return ours, albert

    return make


@pytest.fixture(scope="module")
def tiny_pair(tiny_spm, pair):
    return lambda **options: pair(tiny_spm, **options)


@pytest.fixture(scope="module")
def tiny(tiny_pair):
    return tiny_pair()[0]


@pytest.fixture(scope="module")
def tiny_reference(tiny_pair):
    return tiny_pair()[1]


@pytest.fixture(scope="module")
def released_spm(shared_data):
    return (shared_data / "albert_vocabulary" / "spiece.model").read_bytes()


@pytest.fixture(scope="module")
def released(released_spm, pair):
    return pair(released_spm)[0]


@pytest.fixture(scope="module")
def released_reference(released_spm, pair):
    return pair(released_spm)[1]


@pytest.fixture(scope="module")
def paragraphs(shared_data):
    """Real paragraphs of six sets, shuffled and taken in turn, so that any prefix has all six."""
    sets = []
    for name in ("text_eltec", "text_wiki_squad", "text_openstax", "us_speeches"):
        (path,) = (shared_data / name).glob("*.jsonl.gz")
        with gzip.open(path, "rt", encoding="utf8") as file:
            sets.append([p for line in file for p in json.loads(line)["paragraphs"]])
    with (shared_data / "goemotions" / "train.tsv").open(encoding="utf8", newline="") as file:
        sets.append([row[0] for row in csv.reader(file, delimiter="\t")])
    sentences = (shared_data / "wnut17" / "emerging.test.annotated").read_text("utf8").split("\n\n")
    sets.append([re.sub(r"\t.*\n?", " ", sentence) for sentence in sentences])
    for texts in sets:
        random.Random(0).shuffle(texts)
    return [texts[i] for i in range(6000) for texts in sets if i < len(texts)]


# Ids


@pytest.mark.parametrize("text", PUBLISHED_IDS)
def test_published_ids(released, text):
    assert released([text]).ids.tolist() == [int(i) for i in PUBLISHED_IDS[text].split()]


def test_published_ids_with_accents(released_spm):
    tokenizer = SentencePieceTokenizer(released_spm, keep_accents=True)
    pieces = tokenizer(["I was born in 92000, and this is falsé."])
    expected = [31, 23, 386, 19, 561, 3050, 15, 17, 48, 25, 8256, 18, 1, 9]
    assert pieces.ids.tolist() == expected


def test_special_ids(tiny, tiny_reference):
    assert tiny.pad_id == tiny_reference.pad_token_id == 0
    assert tiny.unk_id == tiny_reference.unk_token_id == 1
    assert tiny.cls_id == tiny_reference.cls_token_id == 2
    assert tiny.sep_id == tiny_reference.sep_token_id == 3
    assert tiny.mask_id == tiny_reference.mask_token_id == 4
    assert tiny.size == len(tiny_reference) == tiny_reference.vocab_size


def assert_equal_to_reference_with_offsets(tokenizer, albert, texts):
    texts = [text for text in texts if not spells_special(text)]
    for text, pieces in zip(texts, each(tokenizer(texts)), strict=True):
        assert pieces.ids.tolist() == reference_ids(albert, text), text
        assert_good_offsets(albert, text, pieces)


def test_real_text(released, released_reference, paragraphs):
    assert_equal_to_reference_with_offsets(released, released_reference, paragraphs[:2000])


@pytest.mark.slow
def test_all_real_text(released, released_reference, paragraphs):
    assert len(paragraphs) > 25_000
    assert_equal_to_reference_with_offsets(released, released_reference, paragraphs[2000:])


@settings(max_examples=400)
@given(text=unicode_texts)
def test_any_unicode(tiny, tiny_reference, text):
    assert_equal_to_reference_with_offsets(tiny, tiny_reference, [text])


@settings(max_examples=400)
@given(text=unicode_texts)
def test_any_unicode_with_released_vocabulary(released, released_reference, text):
    assert_equal_to_reference_with_offsets(released, released_reference, [text])


@settings(max_examples=200)
@given(text=unicode_texts, options=options)
def test_options(tiny_pair, text, options):
    tokenizer, albert = tiny_pair(**options)
    pieces = tokenizer([text])
    if not spells_special(text):
        assert pieces.ids.tolist() == reference_ids(albert, text)
    assert_ordered(text, pieces)


def test_every_character(released, released_reference):
    """Every assigned character of Unicode, between letters, a thousand to a text."""
    points = [chr(i) for i in range(sys.maxunicode + 1)]
    points = [c for c in points if unicodedata.category(c) not in ("Cn", "Co", "Cs")]
    texts = ["a" + "b".join(points[i : i + 1000]) + "c" for i in range(0, len(points), 1000)]
    for text, pieces in zip(texts, each(released(texts)), strict=True):
        assert pieces.ids.tolist() == reference_ids(released_reference, text)
        assert_ordered(text, pieces)


@pytest.mark.parametrize("piece", SPECIAL_PIECES.values())
def test_special_pieces_in_text_are_text(released, released_reference, piece):
    """As in Google's code: SentencePiece sees the whole text, and knows no control piece in it."""
    text = f"One {piece} two{piece}, {piece}"
    spm = released_reference.sp_model
    google = spm.encode(released_reference.preprocess_text(text.lower()), out_type=int)
    pieces = released([text])
    assert pieces.ids.tolist() == google
    assert not {0, 2, 3, 4} & set(google)
    assert reference_ids(released_reference, text) != google  # transformers puts the id there
    assert_good_offsets(released_reference, text, pieces)


def test_unknown_characters_that_spell_a_control_piece():
    """<, >, [ and ] are unknown to this vocabulary, and so are capitals."""
    model = train(["abc", "cab d"], ["a", "b", "c", "d"])
    pieces = SentencePieceTokenizer(model, lower_case=False)(["a[SEP]b [MASK]"])
    assert pieces.ids.tolist().count(1) == 2
    assert not {0, 2, 3, 4} & set(pieces.ids.tolist())


# Offsets


def assert_ordered(text, pieces):
    assert pieces.ids.dtype == pieces.starts.dtype == pieces.ends.dtype == np.int32
    assert pieces.ids.shape == pieces.starts.shape == pieces.ends.shape
    bounds = np.stack([pieces.starts, pieces.ends])
    assert (np.diff(bounds, axis=1) >= 0).all()
    assert (bounds[0] <= bounds[1]).all()
    assert ((bounds >= 0) & (bounds <= len(text))).all()


def normal_form(albert, text: str) -> str:
    """A text as the pieces spell it, by the reference's functions, without blanks."""
    text = albert.preprocess_text("".join(c.lower() for c in text))
    # a capital that NFKD made ("𝚺") is lower-cased by its neighbours, which a slice may lack
    return albert.sp_model.Normalize(text).replace("▁", "").replace("ς", "σ")


def assert_good_offsets(albert, text, pieces):
    assert_ordered(text, pieces)
    spelled = albert._tokenize("".join(c.lower() for c in text))
    assert len(spelled) == len(pieces.ids)
    slices = [text[start:end] for start, end in zip(pieces.starts, pieces.ends)]
    assert slices == [s.strip() for s in slices]

    # Pieces that share a character are compared together.
    groups = []
    for start, end, piece in zip(pieces.starts.tolist(), pieces.ends.tolist(), spelled):
        if groups and start < groups[-1][1]:
            groups[-1][1:] = [max(end, groups[-1][1]), groups[-1][2] + piece]
        else:
            groups.append([start, end, piece])
    for start, end, piece in groups:
        form = piece.replace("▁", "").replace("ς", "σ")
        assert normal_form(albert, text[start:end]) == form
        assert (start == end) == (form == "")

    covered = {i for start, end, _ in groups for i in range(start, end)}
    bare = {i for i in set(range(len(text))) - covered if normal_form(albert, text[i])}
    assert not bare, [text[i] for i in bare]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The\t( new )\r\n house ", ["The", "(", "new", ")", "house"]),
        ("'' The ''", ["''", "The", "''"]),
        ("Thé the\u0301 house", ["Thé", "the\u0301", "house"]),
        ("the\u200bhouse\u200b", ["the", "house"]),
        ("the\x01 house", ["the\x01", "house"]),
        ("… the", ["…", "…", "…", "the"]),
        ("ﷺ the", ["ﷺ"] * 7 + ["the"]),
        ("the 漢字 house", ["the", "漢字", "house"]),
        ("the \u1112\u1161\u11ab house", ["the", "\u1112\u1161\u11ab", "house"]),
        ("the \ud83d house", ["the", "house"]),
        ("\u0301 the", ["the"]),
        ("▁", []),
    ],
)
def test_offsets_of(tiny, text, expected):
    pieces = tiny([text])
    slices = [text[start:end] for start, end in zip(pieces.starts, pieces.ends)]
    assert [s for s in slices if s] == expected


@given(text=st.text(st.characters(), max_size=30), cut=st.integers(0, 30))
def test_lone_surrogates_read_as_replacement_characters(tiny, text, cut):
    text = f"{text[:cut]}\udc80{text[cut:]}\ud83d"
    pieces = tiny([text])
    replaced = tiny([re.sub("[\ud800-\udfff]", "\ufffd", text)])
    for a, b in zip(pieces, replaced):
        assert a.tolist() == b.tolist()
    assert_ordered(text, pieces)


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000 ", "\u200b", "\u0301\u0301"])
def test_no_pieces(tiny, text):
    pieces = tiny([text])
    assert pieces.counts.tolist() == [0]
    assert_ordered(text, pieces)


def assert_batch_equals_texts_alone(tokenizer, texts):
    for text, pieces in zip(texts, each(tokenizer(texts)), strict=True):
        assert [a.tolist() for a in pieces] == [a.tolist() for a in tokenizer([text])], text
        assert_ordered(text, pieces)


batches = st.lists(unicode_texts, max_size=6)


@settings(max_examples=200)
@given(texts=batches, options=options)
@example(texts=["", " ", "a ", " b", "\u0301", "'", "'", "`", "`x", "𝚺", "a𝚺"], options={})
@example(texts=["▁", "½ ▁", "▁ a", "\ufdfa", "\u200b", "\u200ba\u200b", "\x00"], options={})
def test_texts_in_a_batch_do_not_touch(tiny_pair, texts, options):
    assert_batch_equals_texts_alone(tiny_pair(**options)[0], texts)


@pytest.mark.parametrize("texts", [[], [""], ["", " ", "\n\u3000"], ["\u0301"]])
def test_batches_without_pieces(tiny, json_tokenizer, texts):
    for tokenizer in (tiny, json_tokenizer):
        pieces = tokenizer(texts)
        assert [a.dtype for a in pieces] == [np.int32, np.int32, np.int32, np.int64]
        assert len(pieces.counts) == len(texts)
        assert pieces.counts.sum() == len(pieces.ids) == len(pieces.starts) == len(pieces.ends)
    assert len(tiny(texts).ids) == 0


@settings(max_examples=200)
@given(texts=batches)
def test_ids_say_what_pieces_in_writing_say(tiny, spelling, texts):
    """The quick way, which takes what <unk> stands for from the text, against the other one."""
    assert tiny._closed
    assert [a.tolist() for a in tiny(texts)] == [a.tolist() for a in spelling(texts)]


@pytest.fixture(scope="module")
def spelling(tiny_spm):
    tokenizer = SentencePieceTokenizer(tiny_spm)
    tokenizer._closed = False
    return tokenizer


@pytest.mark.parametrize("unit", ["the year, ", "thé ½ ''year'' ", "x", "\u0301", " "])
def test_two_million_characters(tiny, unit):
    text = unit * (2_000_000 // len(unit))
    pieces = tiny([text])
    assert_ordered(text, pieces)
    one = tiny([unit * 1000])
    n = len(one.ids) // 2
    assert pieces.ids[:n].tolist() == one.ids[:n].tolist()
    assert pieces.ends[:n].tolist() == one.ends[:n].tolist()
    if unit.strip("\u0301 "):
        assert pieces.ends[-1] == len(text.rstrip())


# Other models


def train(lines, required=(), **options) -> bytes:
    model = io.BytesIO()
    settings = {
        "vocab_size": 40,
        "hard_vocab_limit": False,
        "pad_id": 0,
        "unk_id": 1,
        "bos_id": -1,
        "eos_id": -1,
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
        "required_chars": "".join(required),
        "minloglevel": 2,
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 20), model_writer=model, **settings
    )
    return model.getvalue()


@pytest.fixture(
    scope="module",
    params=[
        ("ab 10 ba 01", {}),  # the comma is unknown
        ("ας σα", {}),  # both small sigmas are known
        (
            "a, 1, b 0, 10,",
            {"remove_extra_whitespaces": False, "user_defined_symbols": ["▁1,", "0,"]},
        ),
        ("ab, 10, ba", {"normalization_rule_name": "identity"}),
        ("ab, 10, ba", {"model_type": "bpe"}),
        ("ab, 10, ba", {"user_defined_symbols": ["<x>"]}),  # "<" and "x" are unknown by themselves
    ],
)
def other_pair(request, pair):
    """A function from options to our tokenizer of another model, and transformers'."""
    line, settings = request.param
    model = train([line], **settings)
    return lambda **options: pair(model, **options)


other_texts = st.lists(
    st.sampled_from([*"01९२, \nab▁½´\u0301\x01ΑΣ𝚺İ<", " 1,", "0,", "<x>", "Ⅷ\u0301"]), max_size=12
)


@given(other_texts)
@example(["Α", "𝚺", " ", "Α"])  # the sigma ends its word
def test_other_models(other_pair, parts):
    assert_equal_to_reference_with_offsets(*other_pair(), ["".join(parts)])


@given(parts=other_texts, options=options)
@example(parts=["a", "\u0301▁"], options={})
@example(parts=[" Ⅷ\u03019,", "b"], options={"keep_accents": True})  # normalised twice, it shrinks
def test_other_models_with_options(other_pair, parts, options):
    tokenizer, albert = other_pair(**options)
    text = "".join(parts)
    if "," in tokenizer._ids:
        assert tokenizer([text]).ids.tolist() == reference_ids(albert, text)
    assert_batch_equals_texts_alone(tokenizer, [*parts, text])


def test_models_that_rewrite_ascii(tmp_path):
    """What is seen when the model is loaded is heeded, and offsets are never wrong in silence."""

    def rewriting(letters):
        """A tokenizer whose model makes two letters of these."""
        rules = tmp_path / "rules.tsv"
        rules.write_text(" ".join(f"{ord(letter):x}" for letter in letters) + "\t64 64\n")
        return SentencePieceTokenizer(train(["cab b, d ad"], normalization_rule_tsv=str(rules)))

    assert rewriting("c")(["a cab,"]).ends[-3:].tolist() == [4, 5, 6]
    tokenizer = rewriting("bab")
    assert len(tokenizer(["cab"]).ids)
    with pytest.raises(ValueError, match="rewrites ASCII"):
        tokenizer(["cabab"])


def test_no_model():
    with pytest.raises(ValueError, match="4 bytes are no SentencePiece model"):
        SentencePieceTokenizer(b"junk")
    with pytest.raises(ValueError, match="0 bytes are no SentencePiece model"):
        SentencePieceTokenizer(b"")


def test_model_without_special_pieces():
    model = train(["abc", "cab d"], control_symbols=["[CLS]"])
    with pytest.raises(ValueError, match=r"lacks \[SEP\] \[MASK\]\. .*made for ALBERT"):
        SentencePieceTokenizer(model)


@pytest.mark.parametrize("option", [{"add_dummy_prefix": False}, {"byte_fallback": True}])
def test_model_with_other_settings(option):
    model = train(["abc", "cab d"], **{"vocab_size": 300, **option})
    with pytest.raises(ValueError, match=next(iter(option))):
        SentencePieceTokenizer(model)


# tokenizer.json


def make_json(model: bytes) -> str:
    """As transformers' AlbertConverter, but without user-defined symbols as added tokens."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    rare = re.compile(r".*\d,")
    vocabulary = [(p.piece, p.score - 100 * bool(rare.fullmatch(p.piece))) for p in proto.pieces]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=1))
    tokenizer.add_special_tokens(
        [AddedToken(p, normalized=False, special=True) for p in SPECIAL_PIECES.values()]
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("``", '"'),
            normalizers.Replace("''", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def tiny_json(tiny_spm):
    pytest.importorskip("tokenizers")
    return make_json(tiny_spm)


@pytest.fixture(scope="module")
def json_tokenizer(tiny_json):
    return JsonTokenizer(tiny_json)


@pytest.fixture(scope="module")
def library_ids(tiny_json):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tiny_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@settings(max_examples=400)
@given(text=unicode_texts)
def test_json_equals_library(json_tokenizer, library_ids, text):
    if spells_special(text):
        return
    pieces = json_tokenizer([text])
    assert pieces.ids.tolist() == library_ids(text)
    assert_ordered(text, pieces)
    slices = [text[start:end] for start, end in zip(pieces.starts, pieces.ends)]
    assert slices == [s.strip() for s in slices]


@given(texts=batches)
def test_json_texts_in_a_batch_do_not_touch(json_tokenizer, texts):
    assert_batch_equals_texts_alone(json_tokenizer, texts)


def test_json_equals_sentencepiece_on_plain_text(tiny, json_tokenizer):
    ours = json_tokenizer([LIBRARY])
    theirs = tiny([LIBRARY])
    for a, b in zip(ours, theirs):
        assert a.tolist() == b.tolist()


@pytest.mark.parametrize("lower_case", [True, False])
def test_json_special_pieces_in_text_are_text(tiny_json, library_ids, lower_case):
    text = "The <pad> year [SEP] of [MASK], <unk>[CLS]"
    assert {0, 2, 3, 4} <= set(library_ids(text))
    cased_json = tiny_json.replace('{"type":"Lowercase"},', "")
    pieces = JsonTokenizer(tiny_json if lower_case else cased_json)([text])
    assert_ordered(text, pieces)
    assert not {0, 2, 3, 4} & set(pieces.ids.tolist())
    # The library's Unigram model finds control pieces in a text by itself, as whole pieces.
    whole = [text[start:end] for start, end in zip(pieces.starts, pieces.ends)]
    assert "<pad>" in whole
    assert ("[SEP]" in whole) == (not lower_case)


def test_json_white_space_inside_a_piece(json_tokenizer):
    pieces = json_tokenizer([":\x85"])  # two unknown characters, of which one is white space
    assert pieces.ends.tolist() == [0, 1]


def test_json_lone_surrogate(json_tokenizer):
    pieces = json_tokenizer(["the \ud83d year"])
    assert pieces.ends[-1] == 10


def test_json_errors(tiny_json, monkeypatch):
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        JsonTokenizer("{}")
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        JsonTokenizer(b"\xff")
    with pytest.raises(ValueError, match=r"lacks \[MASK\]"):
        JsonTokenizer(tiny_json.replace("[MASK]", "[mask]"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"spacy-albert\[transformers\]"):
        JsonTokenizer(tiny_json)


# Files and bytes

TEXTS = [PANGRAM, "  Café ½ 92000, ''x'' ", "[SEP]", ""]


def assert_same(a, b, texts=TEXTS):
    assert type(a) is type(b)
    for name in ("pad_id", "unk_id", "cls_id", "sep_id", "mask_id", "size"):
        assert getattr(a, name) == getattr(b, name)
    assert [x.tolist() for x in a(texts)] == [x.tolist() for x in b(texts)]


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("keep_accents", [True, False])
@pytest.mark.parametrize("remove_space", [True, False])
def test_round_trips(tiny_spm, tmp_path, lower_case, keep_accents, remove_space):
    tokenizer = SentencePieceTokenizer(
        tiny_spm, lower_case=lower_case, keep_accents=keep_accents, remove_space=remove_space
    )
    tokenizer.save(tmp_path)
    assert (tmp_path / "spiece.model").read_bytes() == tiny_spm
    assert_same(tokenizer, load_tokenizer(tmp_path))
    assert_same(tokenizer, tokenizer_from_bytes(tokenizer.to_bytes()))
    assert_same(tokenizer, SentencePieceTokenizer.from_bytes(tokenizer.to_bytes()))
    assert_same(tokenizer, pickle.loads(pickle.dumps(tokenizer)))
    assert_same(tokenizer, copy.deepcopy(tokenizer))

    albert = transformers.AlbertTokenizer.from_pretrained(str(tmp_path))
    for text in (PANGRAM, "  Café ½ 92000, ''x''  y"):
        assert albert(text)["input_ids"] == [2, *tokenizer([text]).ids.tolist(), 3]


def test_json_round_trips(tiny_json, tmp_path):
    tokenizer = JsonTokenizer(tiny_json.encode())
    tokenizer.save(tmp_path)
    assert_same(tokenizer, load_tokenizer(tmp_path))
    assert_same(tokenizer, tokenizer_from_bytes(tokenizer.to_bytes()))
    assert_same(tokenizer, JsonTokenizer.from_bytes(tokenizer.to_bytes()))
    assert_same(tokenizer, pickle.loads(pickle.dumps(tokenizer)))
    assert_same(tokenizer, copy.deepcopy(tokenizer))


def test_load_what_transformers_saved(tiny, tiny_reference, tmp_path):
    tiny_reference.save_pretrained(str(tmp_path))
    assert_same(tiny, load_tokenizer(tmp_path))


def test_load_prefers_sentencepiece(tiny, tiny_json, tmp_path):
    (tmp_path / "tokenizer.json").write_text(tiny_json, encoding="utf8")
    assert isinstance(load_tokenizer(tmp_path), JsonTokenizer)
    (tmp_path / "spiece.model").write_bytes(tiny.model)
    assert_same(tiny, load_tokenizer(tmp_path))


@pytest.mark.parametrize("legacy", [True, False])
def test_load_with_added_pieces(tiny, tiny_json, tmp_path, legacy):
    tiny.save(tmp_path)
    if legacy:
        (tmp_path / "added_tokens.json").write_text('{"[E1]": 1000, "[MASK]": 4}')
    else:
        config = {"added_tokens_decoder": {"4": {"content": "[MASK]"}, "1000": {"content": "[E1]"}}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"adds the pieces \[E1\] to spiece\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(tiny_json, encoding="utf8")
    assert isinstance(load_tokenizer(tmp_path), JsonTokenizer)


def test_load_from_empty_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither spiece\.model nor tokenizer\.json"):
        load_tokenizer(tmp_path)
