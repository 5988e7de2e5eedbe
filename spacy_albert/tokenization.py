"""Text to ALBERT's pieces, exactly as ALBERT was trained, with offsets into the original text.

The reference is the slow `AlbertTokenizer` of transformers 4.53. One difference is meant: a special
piece spelled in a text ("[SEP]", "<pad>") is plain text here, as it is in tokenization.py of
google-research/albert, so that no text can put control ids into a sequence.
"""

import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import srsly

if TYPE_CHECKING:
    from tokenizers import Encoding

SPIECE_FILE = "spiece.model"
JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
SPECIAL_PIECES = {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}

_BLANK = "▁"  # U+2581, which SentencePiece writes for a space
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ZERO = np.zeros(1, dtype=np.int32)


class Pieces(NamedTuple):
    """The pieces of one text.

    ids (np.ndarray): Piece ids, without [CLS] and [SEP]. Shape (n,), int32, as all three.
    starts (np.ndarray): Offset of the first character of each piece in the original text.
    ends (np.ndarray): One past its last character.

    White space beside a piece is outside its range, and a piece that stands for white space only
    has `start == end`. A character that becomes several pieces ("½") is the range of each of them.
    A character that leaves no trace (a combining accent) belongs to the one before it, if any.
    Starts never decrease, nor do ends.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


class Tokenizer(ABC):
    """Divide texts into pieces.

    pad_id, unk_id, cls_id, sep_id, mask_id (int): Ids of the special pieces.
    size (int): Number of pieces in the vocabulary.
    """

    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    size: int

    @abstractmethod
    def __call__(self, texts: Sequence[str]) -> list[Pieces]:
        """Divide texts into pieces.

        texts (Sequence[str]): Any texts. Lone surrogates, which UTF-8 cannot hold, read as U+FFFD.
        RETURNS (list[Pieces]): The pieces of each text, in order.
        """

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write the files that `load_tokenizer` and transformers read.

        directory (Path): An existing directory.
        """

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Serialise the whole state.

        RETURNS (bytes): What `from_bytes` and `tokenizer_from_bytes` read.
        """

    @classmethod
    def from_bytes(cls, data: bytes) -> "Tokenizer":
        """Make a tokenizer of this class again.

        data (bytes): The output of `to_bytes`.
        RETURNS (Tokenizer): The tokenizer.
        """
        return cls(**srsly.msgpack_loads(data))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    def _set_special_ids(self, vocabulary: Mapping[str, int]) -> None:
        missing = [piece for piece in SPECIAL_PIECES.values() if piece not in vocabulary]
        if missing:
            raise ValueError(
                f"The vocabulary lacks {' '.join(missing)}. ALBERT's vocabularies have the special "
                f"pieces {' '.join(SPECIAL_PIECES.values())}: take one that was made for ALBERT."
            )
        for name, piece in SPECIAL_PIECES.items():
            setattr(self, f"{name}_id", vocabulary[piece])


class SentencePieceTokenizer(Tokenizer):
    """ALBERT's own way: normalise, divide with SentencePiece, part commas from digits.

    model (bytes): The content of a spiece.model file.
    lower_case (bool): Lower-case the text.
    keep_accents (bool): Leave out NFKD and the removal of combining characters.
    remove_space (bool): Strip the text and make each run of white space one space.
    RAISES (ValueError): If the bytes are no SentencePiece model, or none that was made for ALBERT.
    """

    def __init__(
        self,
        model: bytes,
        *,
        lower_case: bool = True,
        keep_accents: bool = False,
        remove_space: bool = True,
    ) -> None:
        import sentencepiece

        self.model = model
        self.lower_case = lower_case
        self.keep_accents = keep_accents
        self.remove_space = remove_space
        self._processor = spm = sentencepiece.SentencePieceProcessor()
        try:
            spm.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(
                f"These {len(model)} bytes are no SentencePiece model: {error}"
            ) from None
        self.size = spm.GetPieceSize()
        ids = {spm.IdToPiece(i): i for i in range(self.size)}
        self._set_special_ids(ids)
        if any(map(spm.IsByte, range(self.size))) or spm.Normalize("a a") != f"{_BLANK}a{_BLANK}a":
            raise ValueError(
                "This SentencePiece model was not trained as ALBERT's are: it needs "
                "byte_fallback off, add_dummy_prefix and escape_whitespaces on."
            )
        # a run of unknown characters must not be mistaken for the control piece it spells
        self._ids = {p: i for p, i in ids.items() if not (spm.IsControl(i) or spm.IsUnused(i))}
        self._digit_commas = {piece for piece in self._ids if _ends_in_digit_comma(piece)}
        self._units = re.compile(r"``|''|\s+|." if remove_space else r"``|''|.", re.DOTALL)
        self._fold = lru_cache(maxsize=1 << 16)(self._fold_unit)

    def __call__(self, texts: Sequence[str]) -> list[Pieces]:
        return [self._divide(text) for text in texts]

    def save(self, directory: Path) -> None:
        config = {
            "tokenizer_class": "AlbertTokenizer",
            "do_lower_case": self.lower_case,
            "keep_accents": self.keep_accents,
            "remove_space": self.remove_space,
            **{f"{name}_token": piece for name, piece in SPECIAL_PIECES.items()},
        }
        (directory / SPIECE_FILE).write_bytes(self.model)
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")

    def to_bytes(self) -> bytes:
        return srsly.msgpack_dumps(
            {
                "model": self.model,
                "lower_case": self.lower_case,
                "keep_accents": self.keep_accents,
                "remove_space": self.remove_space,
            }
        )

    def _divide(self, text: str) -> Pieces:
        clean, begins, ends = self._clean(text)
        pieces = self._part_commas(self._processor.encode(clean, out_type=str))
        ids = np.fromiter(map(self._ids.get, pieces, repeat(self.unk_id)), np.int32, len(pieces))

        # Joined, the pieces are what SentencePiece's own normaliser made of the text.
        normal = "".join(pieces)
        solid = np.frombuffer(normal.encode("utf-32-le"), np.uint32) != ord(_BLANK)
        (where,) = solid.nonzero()
        if normal == _BLANK + clean.replace(" ", _BLANK):
            first = last = where - 1
        else:
            sources = np.array(self._processor.Normalize(clean, with_offsets=True)[1])
            first = sources[where]
            last = sources[sources.searchsorted(first, side="right")] - 1
        begins, ends = begins[first], ends[last]

        # A piece reaches from its first solid character to its last. One that has none stands where
        # the next begins, unless that is inside a character (U+FDFA becomes four words): then it
        # has the range of this character, as its neighbours have.
        stops = np.fromiter(accumulate(map(len, pieces), initial=0), np.int64, len(pieces) + 1)
        n_solid = np.concatenate((_ZERO, solid.cumsum()))[stops]
        starts = np.concatenate((begins, ends[-1:], _ZERO))[n_solid[:-1]]
        ends = np.concatenate((_ZERO, ends))[n_solid[1:]]
        return Pieces(ids, starts, np.maximum(starts, ends))

    def _clean(self, text: str) -> tuple[str, np.ndarray, np.ndarray]:
        """Normalise a text as ALBERT does before SentencePiece.

        text (str): The original text.
        RETURNS (tuple[str, np.ndarray, np.ndarray]): The normalised text, and where each of its
            characters begins and ends in the original.
        """
        body = spaced = text
        if self.remove_space:
            body = text.strip()
            spaced = " ".join(body.split())
        lead = text.find(body)
        if len(spaced) == len(body) and "``" not in body and "''" not in body:
            edges = np.arange(lead, lead + len(body) + 1, dtype=np.int32)
            if body.isascii():
                return spaced.lower() if self.lower_case else spaced, edges[:-1], edges[1:]
            folded = list(map(self._fold, spaced))
        else:
            units = self._units.findall(body)
            edges = np.fromiter(accumulate(map(len, units), initial=lead), np.int32, len(units) + 1)
            folded = list(map(self._fold, units))

        clean = "".join(folded)
        if self.lower_case:
            clean = clean.lower()  # once more, as one text: NFKD makes capitals ("℡", "𝚺")
        counts = np.fromiter(map(len, folded), np.int32, len(folded))
        kept = counts > 0
        edges = np.append(edges[:-1][kept], edges[-1:])
        return clean, edges[:-1].repeat(counts[kept]), edges[1:].repeat(counts[kept])

    def _fold_unit(self, unit: str) -> str:
        """Normalise one character, one run of white space or one quote of two characters.

        NFKD may go character by character because what it would reorder is removed.
        """
        if unit in ("``", "''"):
            return '"'
        if self.remove_space and unit.isspace():
            return " "
        unit = _SURROGATE.sub("\ufffd", unit)
        if self.lower_case:
            unit = unit.lower()
        if not self.keep_accents:
            unit = unicodedata.normalize("NFKD", unit)
            unit = "".join(c for c in unit if not unicodedata.combining(c))
        return unit

    def _part_commas(self, pieces: list[str]) -> list[str]:
        """Divide the pieces that end in a digit and a comma: "▁9," becomes "▁9" and ",".

        pieces (list[str]): Pieces from SentencePiece.
        RETURNS (list[str]): Pieces that join to the same text.
        """
        if self._digit_commas.isdisjoint(pieces) and "," in self._ids:
            return pieces
        parted = []
        for piece in pieces:
            if _ends_in_digit_comma(piece):
                stem = self._processor.encode(piece[:-1].replace(_BLANK, ""), out_type=str)
                if piece[0] != _BLANK:
                    stem[0] = stem[0].removeprefix(_BLANK)
                parted += [part for part in stem if part] + [","]
            else:
                parted.append(piece)
        return parted


class JsonTokenizer(Tokenizer):
    """Divide with a tokenizer.json, for checkpoints that were trained with that file.

    Ids and ranges are those of the library `tokenizers`, but for the white space beside a piece,
    and for control pieces spelled in a text, which are unknown.

    json (str | bytes): The content of the file.
    RAISES (ImportError): If the library `tokenizers` is not installed.
    RAISES (ValueError): If the library cannot read the content, or special pieces are missing.
    """

    def __init__(self, json: str | bytes) -> None:
        try:
            import tokenizers
        except ImportError:
            raise ImportError(
                f"{JSON_FILE} needs the library tokenizers: "
                "pip install 'spacy-albert[transformers]'"
            ) from None
        try:
            self.json = json if isinstance(json, str) else json.decode("utf8")
            self._tokenizer = tokenizers.Tokenizer.from_str(self.json)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"This is no {JSON_FILE}: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.size = self._tokenizer.get_vocab_size()
        self._set_special_ids(self._tokenizer.get_vocab())
        # the file's Unigram model knows control pieces as ordinary ones
        self._controls = {self.pad_id, self.cls_id, self.sep_id, self.mask_id}

    def __call__(self, texts: Sequence[str]) -> list[Pieces]:
        texts = [_SURROGATE.sub("\ufffd", text) for text in texts]
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._read(text, encoding) for text, encoding in zip(texts, encodings)]

    def save(self, directory: Path) -> None:
        (directory / JSON_FILE).write_text(self.json, encoding="utf8")

    def to_bytes(self) -> bytes:
        return srsly.msgpack_dumps({"json": self.json})

    def _read(self, text: str, encoding: "Encoding") -> Pieces:
        """Take the white space off the library's ranges, and control pieces out of its ids."""
        ids = [self.unk_id if i in self._controls else i for i in encoding.ids]
        ranges = np.zeros((len(ids), 2), dtype=np.int32)
        covered = 0
        for i, (start, end) in enumerate(encoding.offsets):
            while start < end and text[start].isspace():
                start += 1
            while start < end and text[end - 1].isspace():
                end -= 1
            if encoding.tokens[i] == _BLANK:  # the library gives it the first character of the word
                end = max(start, covered)
            ranges[i] = start, end
            covered = end
        return Pieces(np.array(ids, dtype=np.int32), ranges[:, 0], ranges[:, 1])


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read a checkpoint's tokenizer: spiece.model with tokenizer_config.json, else tokenizer.json.

    tokenizer.json comes first only where pieces were added to the vocabulary, because texts were
    then divided at those before SentencePiece saw them.

    directory (Path): A directory in the layout of transformers.
    RETURNS (Tokenizer): The tokenizer.
    RAISES (FileNotFoundError): If the directory has neither file.
    RAISES (ValueError): If pieces were added and there is no tokenizer.json.
    """
    config = _read_json(directory / CONFIG_FILE)
    added = {token["content"] for token in config.get("added_tokens_decoder", {}).values()}
    added = added.union(_read_json(directory / ADDED_FILE)).difference(SPECIAL_PIECES.values())
    spiece, json_file = directory / SPIECE_FILE, directory / JSON_FILE
    if spiece.exists() and not added:
        return SentencePieceTokenizer(
            spiece.read_bytes(),
            lower_case=config.get("do_lower_case", True),
            keep_accents=config.get("keep_accents", False),
            remove_space=config.get("remove_space", True),
        )
    if json_file.exists():
        return JsonTokenizer(json_file.read_bytes())
    if spiece.exists():
        raise ValueError(
            f"{directory} adds the pieces {' '.join(sorted(added))} to {SPIECE_FILE}. Add the "
            f"{JSON_FILE} that divides texts at them, or remove them from {CONFIG_FILE} and "
            f"{ADDED_FILE}."
        )
    raise FileNotFoundError(f"{directory} has no tokenizer: neither {SPIECE_FILE} nor {JSON_FILE}.")


def tokenizer_from_bytes(data: bytes) -> Tokenizer:
    """Make a tokenizer of either class again.

    data (bytes): The output of `to_bytes`.
    RETURNS (Tokenizer): The tokenizer.
    """
    state = srsly.msgpack_loads(data)
    return JsonTokenizer(**state) if "json" in state else SentencePieceTokenizer(**state)


def _ends_in_digit_comma(piece: str) -> bool:
    return piece[-1:] == "," and piece[-2:-1].isdigit()


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
