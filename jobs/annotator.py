"""Texts to rows of annotations, with one pipeline. A row that fails takes no other with it."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import spacy
from spacy.language import Language
from spacy.tokens import Doc

from .embeddings import add_embedding, refuse_embedding
from .errors import JobError
from .inputs import is_text
from .outputs import Outputs

ERROR_CHARACTERS = 500
#: What tells that the memory did not suffice, of a machine or of a GPU.
MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError")


class Annotator:
    """A pipeline that annotates the texts of Arrow tables.

    It is also a stage for those who have a pipeline of Ray Data of their own:
    `ds.map_batches(Annotator, fn_constructor_args=["en_albert_sm"], batch_format="pyarrow", ...)`.

    pipeline (str | Path | None): A folder, the name of an embedded pipeline or of an installed
        package; None for the embedded default.
    text_column (str): The column that holds the texts.
    max_chars (int): A longer text is an error of its row.
    code (str | Path | None): A Python file with registered functions, as for `spacy train --code`.
    embedding (str | None): "mean" or "cls": write vectors of the documents, too, from the encoder
        that the pipeline has.
    embedding_type (str | None): "float32", which is the default, or "float16".
    """

    def __init__(
        self,
        pipeline: str | Path | None = None,
        *,
        text_column: str = "text",
        max_chars: int = 10_000_000,
        code: str | Path | None = None,
        embedding: str | None = None,
        embedding_type: str | None = None,
    ) -> None:
        refuse_embedding(embedding, embedding_type)
        self.pipeline, self.code = find_pipeline(pipeline)[0], code
        self.text_column, self.max_chars, self.embedding = text_column, max_chars, embedding
        self.nlp = load_pipeline(self.pipeline, code)
        add_embedding(self.nlp, embedding)
        self.outputs = Outputs.of(self.nlp, embedding_type)
        # rows have a limit of their own, which is an error of the row and not of the batch
        self.nlp.max_length = 2**31
        self.warm = False

    def __call__(self, table: pa.Table) -> pa.Table:
        """Annotate a table.

        table (pa.Table): Rows with texts.
        RETURNS (pa.Table): The same rows, with the columns of the annotations.
        RAISES (JobError): If it is no table of texts, or has columns of the names of annotations.
        """
        fields = self.outputs.fields()
        refuse_table(table, self.text_column, [field.name for field in fields])
        rows = self.annotate(table.column(self.text_column).combine_chunks())
        for field in fields:
            values = pa.array([row.get(field.name) for row in rows], field.type)
            table = table.append_column(field, values)
        return table

    def annotate(
        self,
        column: pa.Array,
        *,
        known: Mapping[int, str] | None = None,
        one_by_one: Callable[[int], Any] | None = None,
        tick: Callable[[dict[str, Any]], Any] = lambda row: None,
    ) -> list[dict[str, Any]]:
        """Annotate the texts of a column: a row for each, in order.

        column (pa.Array): The texts.
        known (Mapping[int, str] | None): Rows that are not to be tried, with the error that each
            is known to have.
        one_by_one (Callable | None): Read every text by itself, and call this with the number of
            its row before.
        tick (Callable): Called with each row as soon as it is there; not in the order of the rows.
        RETURNS (list[dict[str, Any]]): The rows, either with annotations or with an error.
        """
        rows: dict[int, dict[str, Any]] = {
            n: {"error": error} for n, error in (known or {}).items()
        }
        texts: dict[int, str] = {}
        for number, value in enumerate(as_bytes(column)):
            if number not in rows:
                text, error = decode(value, self.max_chars)
                if text is None:
                    rows[number] = {"error": error}
                else:
                    texts[number] = text
        # what spaCy caches it does not cache inside a zone, so the first batch goes without one
        zone = self.nlp.memory_zone() if self.warm else contextlib.nullcontext()
        with zone:
            if one_by_one is None:
                self._pipe(texts, rows, tick)
            for number in sorted(texts.keys() - rows.keys()):
                if one_by_one is not None:
                    one_by_one(number)
                rows[number] = self._single(texts[number])
                tick(rows[number])
        self.warm = True
        return [rows[number] for number in range(len(column))]

    def _pipe(
        self,
        texts: dict[int, str],
        rows: dict[int, dict[str, Any]],
        tick: Callable[[dict[str, Any]], Any],
    ) -> None:
        """Annotate texts together. Those that fail, and those that go down with them, are missing
        afterwards: many components drop a whole batch for one document.

        texts (dict[int, str]): The texts by number.
        rows (dict[int, dict[str, Any]]): Receives the rows by number.
        tick (Callable): Called with each.
        """
        suspects: set[int] = set()

        def suspect(name: str, component: Any, docs: Sequence[Doc], error: Exception) -> None:
            # some components pass on what they failed on
            suspects.update(doc._context for doc in docs if doc is not None)

        self.nlp.set_error_handler(suspect)  # type: ignore[arg-type]
        numbered = ((text, number) for number, text in texts.items())
        try:
            for doc, number in self.nlp.pipe(numbered, as_tuples=True):
                # a component that returns a new Doc loses the number
                if number in texts and number not in suspects:
                    rows[number] = self.outputs.row(doc, texts[number])
                    tick(rows[number])
        except Exception:
            # out of the handler's reach, as in a tokenizer: _single() finds out which text it is
            return

    def _single(self, text: str) -> dict[str, Any]:
        """Annotate one text by itself; if the memory of a GPU does not suffice, without the GPU.

        text (str): The text.
        RETURNS (dict[str, Any]): Its row, with annotations or with the error that it raised.
        """
        try:
            return self.outputs.row(read_alone(self.nlp, text), text)
        except Exception as error:
            failure = error
        if is_memory_error(failure) and uses_gpu(self.nlp):
            try:
                return self.outputs.row(read_alone(self._without_gpu, text), text)
            except Exception as error:
                failure = error
        where = getattr(failure, "component", "the pipeline")
        kind = type(failure.__cause__ or failure).__name__
        return {"error": f"{kind} in {where}: {failure}"[:ERROR_CHARACTERS]}

    @cached_property
    def _without_gpu(self) -> Language:
        nlp = load_pipeline(self.pipeline, self.code, device="cpu")
        add_embedding(nlp, self.embedding)
        nlp.max_length = self.nlp.max_length
        return nlp


def refuse_table(table: Any, text_column: str, taken: Sequence[str]) -> None:
    """See to it that a table can be annotated.

    table (Any): What should be a table.
    text_column (str): The column that should hold the texts.
    taken (Sequence[str]): The names of the annotations.
    RAISES (JobError): If it cannot.
    """
    if not isinstance(table, pa.Table):
        raise JobError(
            f"Arrow tables are annotated, and this is a {type(table).__name__}: give map_batches "
            'batch_format="pyarrow".'
        )
    names = table.column_names
    if text_column not in names:
        raise JobError(
            f"The table has no column {text_column!r}; its columns are {', '.join(names)}."
        )
    kind = table.schema.field(text_column).type
    if not is_text(kind) and not pa.types.is_null(kind):
        raise JobError(f"The table has a column {text_column!r} of type {kind}, which is not text.")
    if both := [name for name in names if name in taken]:
        raise JobError(
            f"The table has columns of the names of annotations: {', '.join(both)}. Drop or rename "
            "them."
        )


class ComponentError(Exception):
    """What a component raised, and its name."""

    def __init__(self, component: str, error: Exception) -> None:
        super().__init__(str(error))
        self.component = f"'{component}'"


def read_alone(nlp: Language, text: str) -> Doc:
    """Annotate one text.

    nlp (Language): The pipeline.
    text (str): The text.
    RETURNS (Doc): The document.
    RAISES (ComponentError): If a component fails.
    """

    def stop(name: str, component: Any, docs: Sequence[Doc], error: Exception) -> None:
        raise ComponentError(name, error) from error

    nlp.set_error_handler(stop)  # type: ignore[arg-type]
    return nlp(text)


def is_memory_error(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that memory did not suffice."""
    while error is not None:
        if any(kind.__name__ in MEMORY_ERRORS for kind in type(error).__mro__):
            return True
        error = error.__cause__
    return False


def encoders(nlp: Language) -> list[str]:
    """The components with an ALBERT of their own, by name."""
    return [
        name
        for name, component in nlp.config["components"].items()
        if "device" in component.get("model", {})
    ]


def uses_gpu(nlp: Language) -> bool:
    """Whether ALBERT computes on a GPU."""
    import torch

    return bool(encoders(nlp)) and torch.cuda.is_available()


def find_pipeline(pipeline: str | Path | None) -> tuple[str, Path]:
    """Find a pipeline: a folder, an embedded pipeline, or an installed package.

    pipeline (str | Path | None): Its path or name; None for the embedded default.
    RETURNS (tuple[str, Path]): What `spacy.load` takes, and the folder of its contents.
    RAISES (JobError): If there is none of that name.
    """
    from spacy.util import get_package_path, is_package

    from spacy_albert_pipelines import DEFAULT, resolve

    name = str(pipeline or DEFAULT)
    for folder in (Path(name).expanduser(), resolve(name)):
        if folder and (folder / "config.cfg").is_file():
            return str(folder.resolve()), folder
    if is_package(name):
        return name, get_package_path(name)
    raise JobError(
        f"There is no pipeline {name}: neither a folder with a config.cfg, nor an embedded "
        "pipeline, nor an installed package."
    )


def load_pipeline(
    pipeline: str, code: str | Path | None = None, device: str | None = None
) -> Language:
    """Load a pipeline.

    pipeline (str): Its folder, or the name of its package.
    code (str | Path | None): A Python file that registers components of the user's own.
    device (str | None): Where ALBERT is to compute, if not where the pipeline says.
    RETURNS (Language): The pipeline.
    """
    if code:
        import_code(str(code))
    nlp = spacy.load(pipeline)
    if device is None:
        return nlp
    return spacy.load(
        pipeline, config={f"components.{name}.model.device": device for name in encoders(nlp)}
    )


@cache  # spaCy takes a class that is registered anew for another one
def import_code(path: str) -> None:
    spacy.util.import_file("python_code", path)


def decode(value: bytes | None, max_chars: int) -> tuple[str | None, str | None]:
    """Make a text of what is in the text column, or say why there is none.

    value (bytes | None): The value.
    max_chars (int): The characters that a text may have.
    RETURNS (tuple[str | None, str | None]): The text or the error.
    """
    if value is None:
        return None, "no text: the value is null"
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        return None, f"not UTF-8: {error.reason} at byte {error.start}"
    if len(text) > max_chars:
        return None, f"too long: {len(text):,} characters, and --max-chars is {max_chars:,}"
    return text, None


def as_bytes(column: pa.Array) -> list[bytes | None]:
    """The values of a text column, undecoded: one that is not UTF-8 must not spoil the others."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_binary()).to_pylist()
