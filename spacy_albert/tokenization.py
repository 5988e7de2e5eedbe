"""Text to ALBERT's pieces, exactly as ALBERT was trained, with offsets into the original text.

The reference is the slow `AlbertTokenizer` of transformers 4.53. One difference is meant: a special
piece spelled in a text ("[SEP]", "<pad>") is plain text here, as it is in tokenization.py of
google-research/albert, so that no text can put control ids into a sequence.
"""

import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import srsly

from .alignment import expand
from .cleaning import SURROGATE, Cleaner, Row, characters, code_points

if TYPE_CHECKING:
    from tokenizers import Encoding

SPIECE_FILE = "spiece.model"
JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
SPECIAL_PIECES = {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}

_BLANK = "▁"  # U+2581, which SentencePiece writes for a space
_ASCII = "".join(map(chr, range(33, 127)))


class Pieces(NamedTuple):
    """The pieces of a batch of texts, text after text.

    ids (np.ndarray): Piece ids, without [CLS] and [SEP]. Shape (P,), int32, as the next two.
    starts (np.ndarray): Offset of the first character of each piece in its own text.
    ends (np.ndarray): One past its last character.
    counts (np.ndarray): Pieces in each text, (D,).

    White space beside a piece is outside its range, and a piece that stands for white space only
    has `start == end`. A character that becomes several pieces ("½") is the range of each of them.
    A character that leaves no trace (a combining accent) belongs to the one before it, if any.
    Within a text, starts never decrease, nor do ends.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    counts: np.ndarray


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
    def __call__(self, texts: Sequence[str]) -> Pieces:
        """Divide texts into pieces.

        texts (Sequence[str]): Any texts. Lone surrogates, which UTF-8 cannot hold, read as U+FFFD.
        RETURNS (Pieces): Their pieces.
        """

    @abstractmethod
    def pieces(self) -> list[str]:
        """Write the vocabulary down.

        RETURNS (list[str]): The pieces, in the order of their ids.
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
    ascii_punctuation (bool): Make typographic quotes and dashes plain, for a model that was trained
        so; ALBERT's released ones were not.
    RAISES (ValueError): If the bytes are no SentencePiece model, or none that was made for ALBERT.
    """

    def __init__(
        self,
        model: bytes,
        *,
        lower_case: bool = True,
        keep_accents: bool = False,
        remove_space: bool = True,
        ascii_punctuation: bool = False,
    ) -> None:
        import sentencepiece

        self.model = model
        self.lower_case = lower_case
        self.keep_accents = keep_accents
        self.remove_space = remove_space
        self.ascii_punctuation = ascii_punctuation
        self._clean = Cleaner(lower_case, keep_accents, remove_space, ascii_punctuation)
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
        self._part_ids, self._part_sizes, self._part_counts = self._look_up(map(self._part, ids))
        self._part_starts = np.cumsum(self._part_counts) - self._part_counts
        # Where each character of a piece is a piece itself, the text says which of its characters
        # are <unk>; otherwise pieces must be had in writing, which takes longer
        learned = [piece for piece, i in self._ids.items() if i != self.unk_id]
        alphabet = {piece for piece in learned if len(piece) == 1}
        self._closed = alphabet.issuperset("".join(learned) + _BLANK + ",")
        self._known = np.zeros(sys.maxunicode + 1, dtype=bool)
        self._known[[ord(" "), *map(ord, alphabet)]] = True
        keeps_ascii = spm.Normalize(_ASCII) == _BLANK + _ASCII
        self._rewritable = re.compile(r"[^ -~]" if keeps_ascii else r"[^ ]")

    def __call__(self, texts: Sequence[str]) -> Pieces:
        begins = np.cumsum([1, *(len(text) + 1 for text in texts)], dtype=np.int32)  # (D + 1,)
        row = self._clean(" ".join(["", *texts, ""]))
        edges = row.origins.searchsorted(begins).tolist()
        clean = characters(row.codes)
        cleans = [clean[start:stop].removesuffix(" ") for start, stop in pairwise(edges)]
        row = self._normalize(row, edges, cleans)
        ids, sizes, counts = self._divide(cleans, row)
        starts, ends = _ranges(row, sizes)
        # A piece of white space stands where the next one does, if that is in its text; inside of a
        # character (U+FDFA becomes four words) it has the range of this, as its neighbours have
        last_ends = np.append(ends, begins[:1])[np.cumsum(counts) - 1]  # (D,)
        starts = np.minimum(starts, np.maximum(begins[:-1], last_ends).repeat(counts))
        ends = np.maximum(starts, ends)
        shift = begins[:-1].repeat(counts)
        return Pieces(ids, starts - shift, ends - shift, counts)

    def pieces(self) -> list[str]:
        return [self._processor.IdToPiece(i) for i in range(self.size)]

    def save(self, directory: Path) -> None:
        config = {
            "tokenizer_class": "AlbertTokenizer",
            "do_lower_case": self.lower_case,
            "keep_accents": self.keep_accents,
            "remove_space": self.remove_space,
            "ascii_punctuation": self.ascii_punctuation,
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
                "ascii_punctuation": self.ascii_punctuation,
            }
        )

    def _normalize(self, row: Row, edges: list[int], cleans: list[str]) -> Row:
        """Do what SentencePiece does to texts before it divides them, but for how many blanks.

        It goes word by word where it changes anything: a long text asks for places by the million.

        row (Row): Texts from `_clean`.
        edges (list[int]): Where each begins there.
        cleans (list[str]): The same texts.
        RETURNS (Row): What their pieces spell.
        """
        normalize = self._processor.Normalize
        parts, done = [], 0
        for edge, clean in zip(edges, cleans):
            found = self._rewritable.search(clean)
            if not found or normalize(clean) == _BLANK + clean.replace(" ", _BLANK):
                continue
            while found:
                start = clean.rfind(" ", 0, found.start()) + 1
                stop = clean.find(" ", start) % (len(clean) + 1)  # the end if there is no other
                word = clean[start:stop]
                if normalize(word) != _BLANK + word:
                    normal, sources = normalize(word, with_offsets=True)
                    first = edge + start
                    parts.append((row.codes[done:first], row.origins[done:first]))
                    origins = row.origins[first + np.array(sources)]
                    parts.append((code_points(normal + _BLANK), origins))
                    done = edge + stop
                found = self._rewritable.search(clean, stop)
        parts.append((row.codes[done:], row.origins[done:]))
        return Row(*map(np.concatenate, zip(*parts)))

    def _divide(self, cleans: list[str], row: Row) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Divide texts into pieces.

        cleans (list[str]): Texts from `_clean`.
        row (Row): The same texts from `_normalize`.
        RETURNS (tuple[np.ndarray, np.ndarray, np.ndarray]): As `_look_up`, with texts as groups.
        """
        if not self._closed:
            spelled = self._processor.encode(cleans, out_type=str, num_threads=1)
            return self._look_up(list(chain(*map(self._part, pieces))) for pieces in spelled)
        found = self._processor.encode(cleans, num_threads=1)
        n_found = np.fromiter(map(len, found), np.int64, len(found))
        whole = np.fromiter(chain.from_iterable(found), np.int64, n_found.sum())
        n_parts = self._part_counts[whole]
        parts = expand(self._part_starts[whole], n_parts)
        ids, sizes = self._part_ids[parts], self._part_sizes[parts]
        counts = np.diff(np.append(0, np.cumsum(n_parts))[np.append(0, np.cumsum(n_found))])
        # SentencePiece makes one <unk> of neighbouring characters that are no pieces
        unknown = np.flatnonzero(~self._known[row.codes])
        run_starts = np.flatnonzero(np.diff(unknown, prepend=-2) > 1)
        sizes[ids == self.unk_id] = np.diff(run_starts, append=len(unknown))
        return ids, sizes, counts

    def _part(self, piece: str) -> list[str]:
        """Divide a piece that ends in a digit and a comma: "▁9," becomes "▁9" and ",".

        piece (str): A piece from SentencePiece.
        RETURNS (list[str]): Pieces that join to the same text.
        """
        if piece[-1:] != "," or not piece[-2:-1].isdigit():
            return [piece]
        text = piece[:-1].replace(_BLANK, "")
        stem = self._processor.encode(text, out_type=str)
        if "".join(stem).replace(_BLANK, "") != text:  # <unk>, and to be normalised once more
            return [piece[:-1], ","]
        if piece[0] != _BLANK:
            stem[0] = stem[0].removeprefix(_BLANK)
        return [part for part in stem if part] + [","]

    def _look_up(self, groups: Iterable[list[str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Look up pieces.

        groups (Iterable[list[str]]): Pieces in writing.
        RETURNS (tuple[np.ndarray, np.ndarray, np.ndarray]): The id of each piece, how many
            characters it has beside "▁", and how many pieces each group has.
        """
        groups = list(groups)
        pieces = list(chain.from_iterable(groups))
        ids = np.fromiter(map(self._ids.get, pieces, repeat(self.unk_id)), np.int32, len(pieces))
        sizes = np.fromiter((len(p) - p.count(_BLANK) for p in pieces), np.int64, len(pieces))
        return ids, sizes, np.fromiter(map(len, groups), np.int64, len(groups))


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
        self._controls = [self.pad_id, self.cls_id, self.sep_id, self.mask_id]

    def __call__(self, texts: Sequence[str]) -> Pieces:
        texts = [SURROGATE.sub("\ufffd", text) for text in texts]
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32)
        ids[np.isin(ids, self._controls)] = self.unk_id
        ranges = chain.from_iterable(map(self._ranges, texts, encodings))
        starts, ends = np.array(list(ranges), dtype=np.int32).reshape(-1, 2).T
        return Pieces(ids, starts, ends, np.array([len(encoding) for encoding in encodings], int))

    def pieces(self) -> list[str]:
        ids = self._tokenizer.get_vocab()
        return sorted(ids, key=ids.__getitem__)

    def save(self, directory: Path) -> None:
        (directory / JSON_FILE).write_text(self.json, encoding="utf8")

    def to_bytes(self) -> bytes:
        return srsly.msgpack_dumps({"json": self.json})

    def _ranges(self, text: str, encoding: "Encoding") -> Iterator[tuple[int, int]]:
        """Take the white space off the library's ranges."""
        covered = 0
        for piece, (start, end) in zip(encoding.tokens, encoding.offsets):
            while start < end and text[start].isspace():
                start += 1
            while start < end and text[end - 1].isspace():
                end -= 1
            if piece == _BLANK:  # the library gives it the first character of the word
                end = max(start, covered)
            yield start, end
            covered = end


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
            ascii_punctuation=config.get("ascii_punctuation", False),
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


def _ranges(row: Row, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find where each piece starts and ends in the row as it was given.

    row (Row): What the pieces spell.
    sizes (np.ndarray): Characters of each piece, white space not counted. One that has none gets
        the start of what follows and the end of what precedes it.
    RETURNS (tuple[np.ndarray, np.ndarray]): Starts and ends.
    RAISES (ValueError): If the row has not as many characters as the pieces.
    """
    (visible,) = ((row.codes != ord(" ")) & (row.codes != ord(_BLANK))).nonzero()
    if sizes.sum() != len(visible):
        raise ValueError("This SentencePiece model rewrites ASCII, which ALBERT's never do.")
    stops = np.cumsum(sizes)
    visible = np.concatenate([[-1], visible, [len(row.codes) - 1]])
    first, last = visible[stops - sizes + 1], visible[stops]
    starts, ends = row.origins[first], row.origins[last + 1]
    # What the last one was made of ends where something else begins ("½" becomes three)
    inside = np.flatnonzero(ends == row.origins[last])
    ends[inside] = row.origins[row.origins.searchsorted(ends[inside], side="right")]
    return starts, ends


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
