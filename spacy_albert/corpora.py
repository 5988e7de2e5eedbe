"""Corpora as others publish them: entities in CoNLL files, classes of texts or pairs in tables.

A reader is made of the settings of a [corpora] block, as spaCy's own are, and gives examples.
`python -m spacy albert corpus` writes the same documents as a .spacy file. spaCy imports this
module for a config that names a reader, so pyarrow is imported where a Parquet file is read.
"""

import csv
import glob
import logging
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import srsly
from spacy.errors import Errors
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.vocab import Vocab

from .inputs import bring
from .tagging import ROLES

logger = logging.getLogger("spacy.albert")

Sentence = list[tuple[str, str]]  # words with their tags
Column = int | str

#: What a CoNLL file may have instead of a tag: outside of entities, and not annotated.
OUTSIDE, UNKNOWN = "O", "-"
NO_SPACE_BEFORE = set(".,;:!?)]}%") | {"n't", "...", "''"}
NO_SPACE_AFTER = set("([{$£€#") | {"``"}


def conll_corpus(
    path: Path | None,
    labels: dict[str, str] | None = None,
    n_sents: int = 1,
    guess_spaces: bool = False,
    limit: int = 0,
) -> Callable[[Language], Iterable[Example]]:
    """Read entities from files with one token a line (spacy-albert.ConllCorpus.v1).

    The token comes first, its tag last, with TABs or blanks between them; a line without anything
    visible ends a sentence, one that begins with -DOCSTART- a document. Tags are in BIO, IO, IOB1,
    BILOU or BIOES, or "-" for a token that nobody has annotated.

    path (Path): A file, or a pattern such as "data/*_train.txt".
    labels (dict[str, str] | None): What to call the labels. Tokens of entities whose label is not
        among them count as not annotated. None: all labels, by their own names.
    n_sents (int): Sentences in a document, at most; 0: all there are between -DOCSTART- lines.
    guess_spaces (bool): Put blanks where English has them and tokenise the text anew, as in
        annotation. Otherwise a document has the tokens of the file, and a blank after each.
    limit (int): Documents to read, at most; 0: all.
    RETURNS (Callable[[Language], Iterable[Example]]): The reader.
    """
    return ConllCorpus(path, labels=labels, n_sents=n_sents, guess_spaces=guess_spaces, limit=limit)


def table_corpus(
    path: Path | None,
    text: Column = "text",
    label: Column = "label",
    separator: str | None = None,
    label_names: Path | None = None,
    labels: dict[str, str] | None = None,
    delimiter: str | None = None,
    quotes: bool = True,
    limit: int = 0,
    pair: Column | None = None,
    regression: bool = False,
) -> Callable[[Language], Iterable[Example]]:
    """Read classified texts, or pairs of them, from CSV, TSV or Parquet
    (spacy-albert.TableCorpus.v1).

    Rows without text, or without a class where classes are exclusive, are skipped, and counted in
    the log. Every document says yes or no to each class that the files, or `label_names`, have.

    path (Path): A file, or a pattern such as "data/part-*.parquet".
    text (str | int): The column with the text: a name, or a number from 0 where there is no header.
    label (str | int): The column with the class. A list in Parquet means any number of classes.
    separator (str | None): What stands between classes, if a document can have any number of them.
        An empty field then means that it has none.
    label_names (Path | None): A file with the name of a class on each line, or a JSON list of them.
        The label column then has such names, or their numbers from 0, and nothing else.
    labels (dict[str, str] | None): What to call the classes. Others are left out, and with them
        documents of exclusive classes. None: all classes, by their own names.
    delimiter (str | None): What stands between columns. None: a comma in .csv files, else a TAB.
    quotes (bool): Whether a field may be put in double quotes. If not, they are part of the text.
    limit (int): Documents to read, at most; 0: all.
    pair (str | int | None): The column with the second text of each document, which goes to
        `doc._.pair`. Rows without one are skipped. None: there is none.
    regression (bool): Whether the label column has a number, to be kept under its name.
    RETURNS (Callable[[Language], Iterable[Example]]): The reader.
    """
    return TableCorpus(
        path,
        text=text,
        label=label,
        separator=separator,
        label_names=label_names,
        labels=labels,
        delimiter=delimiter,
        quotes=quotes,
        limit=limit,
        pair=pair,
        regression=regression,
    )


def doc_corpus(path: Path | None, limit: int = 0) -> Callable[[Language], Iterable[Example]]:
    """Read .spacy files, and let the documents that are going to be read have what the annotated
    ones are read with: `doc._.questions`, `doc._.pair` (spacy-albert.DocCorpus.v1). spaCy's own
    reader makes them of the text alone.

    path (Path): A file, a folder of them, or a pattern.
    limit (int): Documents to read, at most; 0: all.
    RETURNS (Callable[[Language], Iterable[Example]]): The reader.
    """
    return DocCorpus(path, limit=limit)


class FileCorpus(ABC):
    """Annotated documents in files of some format."""

    def __init__(
        self, path: str | Path | None, *, labels: dict[str, str] | None = None, limit: int = 0
    ):
        """Find the files.

        path (str / Path): A file, or a pattern.
        labels (dict[str, str] | None): What to call the labels; None: all by their own names.
        limit (int): Documents to read, at most; 0: all.
        RAISES (ValueError): If there is no such file.
        """
        if path is None:
            raise ValueError(Errors.E913)
        self.files = find_files(path)
        self.labels = labels
        self.limit = limit
        #: What the last reading passed over: rows by reason, and annotations by label.
        self.skipped: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    def __call__(self, nlp: Language) -> Iterator[Example]:
        """Read the files.

        nlp (Language): The pipeline, for its tokenizer.
        YIELDS (Example): The examples.

        DOCS: https://spacy.io/api/corpus#call
        """
        for doc in self.docs(nlp):
            if doc.has_unknown_spaces:
                predicted = Doc(nlp.vocab, words=[token.text for token in doc])
            else:
                predicted = nlp.make_doc(doc.text)
            example = Example(predicted, doc)
            bring([example])
            yield example
        for reason, n_rows in self.skipped.items():
            logger.info("Skipped %d rows of %s: %s", n_rows, self.files[0], reason)

    def docs(self, nlp: Language) -> Iterator[Doc]:
        """Read the files.

        nlp (Language): The pipeline, for its tokenizer and vocabulary.
        YIELDS (Doc): The annotated documents, none of them empty.
        RAISES (ValueError): If a line is not as it should be; the message names it.
        """
        self.skipped.clear()
        self.left_out.clear()
        return islice(self._read(nlp), self.limit or None)

    @abstractmethod
    def _read(self, nlp: Language) -> Iterator[Doc]:
        """Read all documents of all files."""

    def _new_name(self, label: str) -> str | None:
        """Look up what to call a label, and take note if it is left out."""
        name = label if self.labels is None else self.labels.get(label)
        if name is None:
            self.left_out[label] += 1
        return name


class DocCorpus(FileCorpus):
    """Annotated documents, from .spacy files. Settings as for `doc_corpus`."""

    def __init__(self, path: str | Path | None, *, limit: int = 0):
        is_folder = path is not None and Path(path).is_dir()
        super().__init__(f"{path}/**/*.spacy" if is_folder else path, limit=limit)

    def _read(self, nlp: Language) -> Iterator[Doc]:
        for path in self.files:
            try:
                docs = DocBin().from_disk(path).get_docs(nlp.vocab)
                yield from (doc for doc in docs if len(doc))
            except (zlib.error, KeyError) as error:
                raise ValueError(f"{path} cannot be read as spaCy's DocBin: {error}.") from error


class ConllCorpus(FileCorpus):
    """Entities, from files with one token a line. Settings as for `conll_corpus`."""

    def __init__(
        self,
        path: str | Path | None,
        *,
        labels: dict[str, str] | None = None,
        n_sents: int = 1,
        guess_spaces: bool = False,
        limit: int = 0,
    ):
        super().__init__(path, labels=labels, limit=limit)
        self.n_sents = n_sents
        self.guess_spaces = guess_spaces

    def _read(self, nlp: Language) -> Iterator[Doc]:
        for path in self.files:
            for sentences in conll_documents(path, has_borders=self.n_sents == 0):
                size = self.n_sents or len(sentences)
                for first in range(0, len(sentences), size):
                    yield self.make_doc(nlp.vocab, sentences[first : first + size])

    def make_doc(self, vocab: Vocab, sentences: Sequence[Sentence]) -> Doc:
        """Make a document of sentences.

        vocab (Vocab): The vocabulary.
        sentences (Sequence[Sentence]): Words with their tags.
        RETURNS (Doc): The document with its entities.
        """
        words = [word for sentence in sentences for word, _ in sentence]
        doc = Doc(vocab, words=words, spaces=spaces_after(words) if self.guess_spaces else None)
        ents, missing, first = [], [], 0
        for sentence in sentences:
            tags = [tag for _, tag in sentence]
            here = doc[first : first + len(tags)]
            missing += [here[i : i + 1] for i, tag in enumerate(tags) if tag == UNKNOWN]
            for start, end, label in entities(tags):
                name = self._new_name(label)
                if name is None:
                    missing.append(here[start:end])
                else:
                    ents.append(Span(doc, first + start, first + end, label=name))
            first += len(tags)
        doc.set_ents(ents, missing=missing, default="outside")
        return doc


class TableCorpus(FileCorpus):
    """Classes of texts, or of pairs of them, from tables. Settings as for `table_corpus`."""

    def __init__(
        self,
        path: str | Path | None,
        *,
        text: Column = "text",
        label: Column = "label",
        separator: str | None = None,
        label_names: str | Path | None = None,
        labels: dict[str, str] | None = None,
        delimiter: str | None = None,
        quotes: bool = True,
        limit: int = 0,
        pair: Column | None = None,
        regression: bool = False,
    ):
        super().__init__(path, labels=labels, limit=limit)
        self.columns = [text, label] if pair is None else [text, label, pair]
        if len({isinstance(column, int) for column in self.columns}) > 1:
            raise ValueError(
                f"The columns are {' and '.join(map(repr, self.columns))}: name all, or number all "
                "if the file has no header."
            )
        if regression and (separator or label_names or labels):
            raise ValueError(
                "The labels are numbers (regression), and have neither names nor separator."
            )
        self.regression = regression
        self.separator = separator
        if delimiter is not None and len(delimiter) != 1:
            raise ValueError(f"The delimiter is {delimiter!r}, but must be one character.")
        self.label_names = read_names(Path(label_names)) if label_names else None
        self.delimiter = delimiter
        self.quotes = quotes

    def _read(self, nlp: Language) -> Iterator[Doc]:
        found = {name for _, _, names in self._rows() for name in each(names)}
        renamed = map(self._new_name, self.label_names or sorted(found))
        classes = list(dict.fromkeys(name for name in renamed if name is not None))
        self.left_out.clear()
        for place, texts, names in self._rows():
            chosen = set(map(self._new_name, each(names)))
            if is_blank(texts[0]):
                self.skipped["no text"] += 1
                continue
            if any(map(is_blank, texts[1:])):
                self.skipped["no second text"] += 1
                continue
            if names is None:
                self.skipped["no number" if self.regression else "no class"] += 1
                continue
            if isinstance(names, str) and chosen == {None}:
                self.skipped["a class that is left out"] += 1
                continue
            try:
                doc = nlp.make_doc(texts[0])
            except ValueError as error:  # it is too long for spaCy
                raise ValueError(f"{place}: {error}") from None
            if isinstance(names, float):
                doc.cats = {str(self.columns[1]): names}
            else:
                doc.cats = {name: float(name in chosen) for name in classes}
            if len(texts) > 1:
                doc._.pair = texts[1]
            yield doc

    def _rows(self) -> Iterator[tuple[str, list[Any], list[str] | str | float | None]]:
        """Read all rows: where each is, its texts, and its class, or a list where there may be any
        number of them, or a number.
        """
        for path in self.files:
            if path.suffix == ".parquet":
                rows = parquet_rows(path, self.columns)
            else:
                delimiter = self.delimiter or ("," if path.suffix == ".csv" else "\t")
                rows = csv_rows(path, self.columns, delimiter, self.quotes)
            for place, (text, value, *others) in rows:
                texts = [text, *others]
                for each_text in texts:
                    if not isinstance(each_text, str | None):
                        raise ValueError(f"{place}: {each_text!r} is no text.")
                if isinstance(value, str) and self.separator is not None:
                    value = [part for part in value.split(self.separator) if part.strip()]
                if isinstance(value, list):
                    yield place, texts, [self._name(part, place) for part in value]
                elif value is None or not str(value).strip():
                    yield place, texts, None
                elif self.regression:
                    yield place, texts, number(value, place)
                else:
                    yield place, texts, self._name(value, place)

    def _name(self, value: Any, place: str) -> str:
        """Find the name of a class, which may be given as its number."""
        name = str(value).strip()
        if self.label_names is None or name in self.label_names:
            return name
        if name.isdecimal() and int(name) < len(self.label_names):
            return self.label_names[int(name)]
        raise ValueError(
            f"{place}: the class {name!r} is none of the {len(self.label_names)} in the file of "
            "names, nor the number of one."
        )


def find_files(path: str | Path) -> list[Path]:
    """Find the files that a path means.

    path (str / Path): A file, or a pattern.
    RETURNS (list[Path]): The files, sorted by name; one at least.
    RAISES (ValueError): If there are none.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder. Name its files with a pattern, such as {path}/*.txt")
    names = [str(path)] if Path(path).is_file() else glob.glob(str(path), recursive=True)
    files = sorted(Path(name) for name in names if Path(name).is_file())
    if not files:
        raise ValueError(f"There is no file {path}.")
    return files


def decoded_lines(path: Path) -> Iterator[str]:
    """Read a text file by lines, which end in "\\n" and nowhere else.

    path (Path): The file, in UTF-8.
    YIELDS (str): The lines with their ends.
    RAISES (ValueError): If a line is not in UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not UTF-8 (byte {error.start} is "
                    f"0x{line[error.start]:02x}). Convert the file: iconv -f CP1252 -t UTF-8"
                ) from None


def count_labels(docs: Iterable[Doc]) -> Counter[str]:
    """Count what documents are annotated with.

    docs (Iterable[Doc]): The documents.
    RETURNS (Counter[str]): How many entities or documents have each label.
    """
    counts: Counter[str] = Counter()
    for doc in docs:
        counts.update(ent.label_ for ent in doc.ents)
        counts.update({label: int(value) for label, value in doc.cats.items()})
    return counts


# Token by token


def conll_documents(path: Path, has_borders: bool = False) -> Iterator[list[Sentence]]:
    """Read a file with one token a line.

    path (Path): The file.
    has_borders (bool): Insist on lines that tell documents apart.
    YIELDS (list[Sentence]): The sentences of a document, one at least.
    RAISES (ValueError): If a line has no token or no tag, or there are no borders.
    """
    document: list[Sentence] = []
    sentence: Sentence = []
    seen_border = False
    for number, line in enumerate(decoded_lines(path), start=1):
        if line.strip() and not line.startswith("-DOCSTART-"):
            sentence.append(word_and_tag(line, f"{path}, line {number}"))
            continue
        if sentence:
            document.append(sentence)
            sentence = []
        if line.startswith("-DOCSTART-"):
            seen_border = True
            if document:
                yield document
                document = []
    if sentence:
        document.append(sentence)
    if has_borders and not seen_border:
        raise ValueError(
            f"{path} does not say where documents begin (it has no -DOCSTART- lines). Say how many "
            "sentences to take for one, with n_sents."
        )
    if document:
        yield document


def word_and_tag(line: str, place: str) -> tuple[str, str]:
    """Take a line apart.

    line (str): Columns with TABs between them, or blanks: tokens may hold any other white space.
    place (str): Where it is.
    RETURNS (tuple[str, str]): The first column and the last.
    """
    columns = line.rstrip("\r\n").split("\t")
    if len(columns) == 1:
        columns = list(filter(None, columns[0].split(" ")))
    word, tag = columns[0], columns[-1].strip()
    if len(columns) < 2 or not word:
        raise ValueError(
            f"{place}: {line.strip()!r} is not a token and, in the last column, a tag."
        )
    is_entity = tag[:1] in ROLES and tag[1:2] == "-" and len(tag) > 2
    if tag not in (OUTSIDE, UNKNOWN) and not is_entity:
        raise ValueError(
            f"{place}: {tag!r} is no tag. Tags are O, or B-, I- (L-, E-, U-, S-) and a label, and "
            "stand in the last column."
        )
    return word, tag


def entities(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Find the entities in tags of any scheme.

    An entity begins at B, U or S, at another label, and after whatever is no entity; it ends with
    L, E, U or S, and before whatever does not go on with it. That is what BIO, BILOU and BIOES say,
    and IOB1 and IO, which need no B.

    tags (Sequence[str]): The tags.
    YIELDS (tuple[int, int, str]): First token, one past the last, label.
    """
    start, inside = 0, ""
    for i, tag in enumerate([*tags, OUTSIDE]):
        role, label = (ROLES[tag[0]], tag[2:]) if len(tag) > 1 else ("", "")
        if inside and (label != inside or role in ("B", "U")):
            yield start, i, inside
            inside = ""
        if label and not inside:
            start, inside = i, label
        if role in ("L", "U"):
            yield start, i + 1, label
            inside = ""


def spaces_after(words: Sequence[str]) -> list[bool]:
    """Guess where an English text that was split into tokens had its blanks.

    words (Sequence[str]): The tokens.
    RETURNS (list[bool]): Whether a blank follows each.
    """
    spaces, is_quoted = [], False
    for word, after in zip(words, [*words[1:], "."]):
        glued = after in NO_SPACE_BEFORE or (after[:1] in "'’" and len(after) > 1)
        if word == '"':
            is_quoted = not is_quoted
        opens, closes = word == '"' and is_quoted, after == '"' and is_quoted
        spaces.append(not (glued or word in NO_SPACE_AFTER or opens or (closes and word != '"')))
    return spaces


# Row by row


def as_column(name: str) -> Column:
    """Understand how a person calls a column.

    name (str): Its name, or a number.
    RETURNS (str / int): The same, numbers as such.
    """
    return int(name) if name.isdecimal() else name


def each(names: list[str] | str | float | None) -> list[str]:
    """RETURNS (list[str]): One name, or several, or none, as a list."""
    if isinstance(names, str):
        return [names]
    return names if isinstance(names, list) else []


def is_blank(text: str | None) -> bool:
    """RETURNS (bool): Whether there is nothing to read."""
    return text is None or not text.strip()


def number(value: Any, place: str) -> float:
    """RETURNS (float): The number in a field."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{place}: {value!r} is no number.") from None


def read_names(path: Path) -> list[str]:
    """Read the names of classes.

    path (Path): A file with one on each line, or a JSON list.
    RETURNS (list[str]): The names, in order.
    RAISES (ValueError): If a name comes twice, or there are none.
    """
    if path.suffix == ".json":
        names = list(map(str, srsly.read_json(path)))
    else:
        names = [line.strip() for line in decoded_lines(path) if line.strip()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{path} must have the name of every class once, and has {names[:8]}.")
    return names


def csv_rows(
    path: Path, wanted: Sequence[Column], delimiter: str, quotes: bool
) -> Iterator[tuple[str, list[Any]]]:
    """Read some columns of a CSV or TSV file.

    path (Path): The file.
    wanted (Sequence[str / int]): The columns, by name or, where there is no header, by number.
    delimiter (str): What stands between columns.
    quotes (bool): Whether a field may be put in double quotes.
    YIELDS (tuple[str, list[str]]): Where the row is, and what the columns have.
    RAISES (ValueError): If there are no such columns, or quotes do not match.
    """
    csv.field_size_limit(2**31 - 1)  # the default takes a long text for an error
    rows = csv.reader(
        decoded_lines(path),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=True,
    )
    columns: list[int] = []
    place = f"{path}, line 1"
    try:
        for row in rows:
            if row and not columns and isinstance(wanted[0], str):
                columns = [find_column(path, row, column) for column in wanted]
            elif row:
                columns = columns or list(wanted)  # type: ignore[arg-type]
                if max(columns) >= len(row):
                    raise ValueError(f"{place}: there are {len(row)} columns.")
                yield place, [row[column] for column in columns]
            place = f"{path}, line {rows.line_num + 1}"
    except csv.Error as error:
        raise ValueError(
            f"{place}: {error}. If double quotes are part of the text, set quotes to false."
        ) from None


def parquet_rows(path: Path, wanted: Sequence[Column]) -> Iterator[tuple[str, list[Any]]]:
    """Read some columns of a Parquet file.

    path (Path): The file.
    wanted (Sequence[str / int]): The names of the columns.
    YIELDS (tuple[str, list[Any]]): Where the row is, and what the columns have.
    RAISES (ValueError): If there are no such columns.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(
            "Reading Parquet takes pyarrow: pip install 'spacy-albert[jobs]'."
        ) from None
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        columns = [names[find_column(path, names, column)] for column in wanted]
        n_rows = 0
        for batch in file.iter_batches(columns=list(dict.fromkeys(columns))):
            for row in zip(*(batch.column(name).to_pylist() for name in columns)):
                n_rows += 1
                yield f"{path}, row {n_rows}", list(row)


def find_column(path: Path, names: Sequence[str], column: Column) -> int:
    """Find a column by its name.

    path (Path): The file, for the message.
    names (Sequence[str]): The names of all columns.
    column (str / int): The name.
    RETURNS (int): Its number.
    RAISES (ValueError): If there is none of that name.
    """
    if column not in names:
        shown = ", ".join(map(repr, names[:8]))
        raise ValueError(f"{path} has no column {column!r}. It has {shown}.")
    return list(names).index(column)  # type: ignore[arg-type]
