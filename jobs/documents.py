"""From the output of a job back to spaCy's documents."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import spacy
from spacy.language import Language
from spacy.tokens import Doc, SpanGroup
from spacy.vocab import Vocab

import spacy_albert.components.pipe  # noqa: F401 (registers ent._.score and doc._.n_windows)
from spacy_albert.components.coherence import set_coherence
from spacy_albert.hooks import hook_vectors

from .annotator import as_bytes
from .errors import JobError
from .inputs import first_line
from .plan import SUCCESS, Plan, Shard
from .storage import Folder
from .worker import conform, read_receipt

#: A batch of rows in memory is bounded by both.
BATCH_ROWS, BATCH_BYTES = 256, 2 << 20

#: What to do with rows that could not be annotated.
POLICIES = ("skip", "raise", "keep")
#: The columns that become part of a document, beside that of the texts.
IN_DOC = ("ents", "cats", "coherence", "n_tokens", "n_windows", "embedding")


@overload
def read_docs(
    output: str | Path,
    vocab: Vocab | Language,
    *,
    as_tuples: Literal[False] = ...,
    errors: str = ...,
    spans_key: str | None = ...,
) -> Iterator[Doc]: ...


@overload
def read_docs(
    output: str | Path,
    vocab: Vocab | Language,
    *,
    as_tuples: Literal[True],
    errors: str = ...,
    spans_key: str | None = ...,
) -> Iterator[tuple[Doc, dict[str, Any]]]: ...


def read_docs(
    output: str | Path,
    vocab: Vocab | Language,
    *,
    as_tuples: bool = False,
    errors: str = "skip",
    spans_key: str | None = "ner",
) -> Iterator[Doc] | Iterator[tuple[Doc, dict[str, Any]]]:
    """Stream the documents of a finished job, as its pipeline left them: with `doc.ents`,
    `ent._.score`, `doc.cats`, `doc._.coherence`, `doc._.n_windows` and `doc.vector`, as far as it
    wrote them. They come in the order of the input; if the output is partitioned, shard after
    shard, and in a shard one value after the other.

    The output holds no tokens, so the texts are tokenized anew. Every row is checked: it must have
    as many tokens as it had when it was annotated, and its entities must begin and end with tokens.
    The tokenizer is that of the pipeline, if that is given, and the usual one of the language, if a
    vocabulary is. A pipeline that joins or splits tokens after its tokenizer cannot be read back.

    `doc.user_data` says where a document comes from: "file", the input file, and, if the output is
    not partitioned, "row", its number there from 0.

    output (str | Path): The folder that `annotate` has written; a local path or a URI.
    vocab (Vocab | Language): The pipeline that annotated, `nlp`; or a vocabulary, `nlp.vocab`, if
        the pipeline has the usual tokenizer of its language.
    as_tuples (bool): Give pairs of a document and a dict of what else its row has: the kept
        columns, `cat` and `error`.
    errors (str): "skip" rows that could not be annotated, "raise" for them, or "keep" them as
        documents without annotations, so that there is one for every row.
    spans_key (str | None): The key in `doc.spans` of the entities that have scores, which has the
        scores in `attrs["scores"]`: the name of the component. None for no such group.
    YIELDS (Doc | tuple[Doc, dict]): The documents. Of the output, a few megabytes are in memory at
        a time; the vocabulary grows with new words, as in `nlp.pipe`, but for a `memory_zone`.
    RAISES (JobError): At once, if there is no finished output or it does not hold the texts; later,
        if a file is missing or damaged, or the tokens of a row are other ones.
    """
    if errors not in POLICIES:
        raise JobError(f"errors must be one of {', '.join(POLICIES)}, not {errors!r}.")
    folder = Folder.at(output)
    plan = Plan.of(folder)
    text_column = plan.identity["options"]["text_column"]
    if text_column not in plan.kept.names:
        raise JobError(
            f"{folder.path} does not hold the texts: their column {text_column!r} was not kept. "
            "Documents can be read from the output of a job that has it in --keep."
        )
    if not folder.holds(SUCCESS):
        raise JobError(
            f"{folder.path} is not finished: it has no {SUCCESS}. The same command that began it "
            "goes on with it."
        )
    maker = DocMaker(tokenizer_of(vocab), spans_key)
    written = [field.name for field in plan.outputs.fields() if field.name in IN_DOC]
    in_row = [name for name in plan.schema.names if name not in (text_column, *written)]
    rows = read_rows(folder, plan, text_column, written + (in_row if as_tuples else ["error"]))
    docs = documents(rows, maker, errors)
    if as_tuples:
        return ((doc, {name: row.values[name] for name in in_row}) for doc, row in docs)
    return (doc for doc, _ in docs)


class OutputRow(NamedTuple):
    """A row of the output.

    place (str): Where it is, for a person.
    source (dict[str, Any]): Where it comes from.
    text (bytes | None): Its text, undecoded.
    values (dict[str, Any]): What is in its columns.
    """

    place: str
    source: dict[str, Any]
    text: bytes | None
    values: dict[str, Any]


def documents(
    rows: Iterator[OutputRow], maker: "DocMaker", errors: str
) -> Iterator[tuple[Doc, OutputRow]]:
    """Make documents of rows.

    rows (Iterator[OutputRow]): The rows.
    maker (DocMaker): What makes a document of each.
    errors (str): What to do with those that could not be annotated.
    YIELDS (tuple[Doc, OutputRow]): The documents with their rows.
    """
    for row in rows:
        error = row.values["error"]
        if error is not None and errors == "skip":
            continue
        if error is not None and errors == "raise":
            raise JobError(f"{row.place} could not be annotated: {error}")
        if error is not None:
            doc = maker.tokenizer((row.text or b"").decode(errors="replace"))
        else:
            try:
                doc = maker.annotated((row.text or b"").decode(), row.values)
            except ValueError as failure:
                raise JobError(f"{row.place}: {failure}") from failure
        doc.user_data.update(row.source)
        yield doc, row


def tokenizer_of(vocab: Vocab | Language) -> Callable[[str], Doc]:
    """Find the tokenizer of a pipeline, or make that of a language.

    vocab (Vocab | Language): The pipeline, or a vocabulary of the language.
    RETURNS (Callable[[str], Doc]): The tokenizer.
    RAISES (JobError): If the vocabulary is of no language.
    """
    if isinstance(vocab, Language):
        return vocab.tokenizer
    if not vocab.lang:
        raise JobError(
            "The vocabulary is of no language, so there is no tokenizer: give the pipeline, nlp, "
            "and not nlp.vocab."
        )
    return spacy.blank(vocab.lang, vocab=vocab).tokenizer


@dataclass(frozen=True)
class DocMaker:
    """Makes documents of texts and of what the output says of them.

    tokenizer (Callable[[str], Doc]): The tokenizer.
    spans_key (str | None): The key in `doc.spans` of the entities that have scores.
    """

    tokenizer: Callable[[str], Doc]
    spans_key: str | None

    def annotated(self, text: str, values: dict[str, Any]) -> Doc:
        """Make a document as the pipeline left it.

        text (str): The text.
        values (dict[str, Any]): The annotations.
        RETURNS (Doc): The document.
        RAISES (ValueError): If they do not fit the tokens.
        """
        doc = self.tokenizer(text)
        if len(doc) != values["n_tokens"]:
            raise ValueError(
                f"its text has {len(doc)} tokens, and had {values['n_tokens']} when it was "
                "annotated. Give the pipeline that annotated, nlp: its tokenizer is another one."
            )
        if "ents" in values:
            self._add_entities(doc, values["ents"])
        for label, score in values.get("cats", {}).items():
            if score is not None:
                doc.cats[label] = score
        if "n_windows" in values:
            doc._.n_windows = values["n_windows"]
        if "coherence" in values:
            set_coherence(doc, values["coherence"])
        if "embedding" in values:
            doc._.vector = np.array(values["embedding"], dtype="f")
            hook_vectors(doc)
        return doc

    def _add_entities(self, doc: Doc, entities: list[dict[str, Any]]) -> None:
        ents = []
        for entity in entities:
            ent = doc.char_span(entity["start"], entity["end"], label=entity["label"])
            if ent is None or ent.text != entity["text"]:
                raise ValueError(
                    f"its entity {entity['text']!r}, at characters {entity['start']} to "
                    f"{entity['end']}, is not made of whole tokens. Give the pipeline that "
                    "annotated, nlp: its tokenizer is another one."
                )
            ents.append(ent)
        doc.set_ents(ents)
        scored = [(e, row["score"]) for e, row in zip(ents, entities) if row["score"] is not None]
        for ent, score in scored:
            ent._.score = score
        if self.spans_key is not None:
            doc.spans[self.spans_key] = SpanGroup(
                doc,
                name=self.spans_key,
                spans=[ent for ent, _ in scored],
                attrs={"scores": np.array([score for _, score in scored], dtype="f")},
            )


def read_rows(
    folder: Folder, plan: Plan, text_column: str, columns: list[str]
) -> Iterator[OutputRow]:
    """Stream the rows of an output folder.

    folder (Folder): The folder.
    plan (Plan): Its plan.
    text_column (str): The column that holds the texts.
    columns (list[str]): The other columns wanted.
    YIELDS (OutputRow): The rows.
    RAISES (JobError): If files of a shard are missing or damaged.
    """
    parts, _ = plan.sort(folder.files())
    for shard in plan.shards:
        files = parts[shard.name]
        refuse_damage(folder, plan, shard, files)
        for path in files:
            number = 0
            for batch in batches(folder, path, [text_column, *columns]):
                texts, *values = (
                    conform(batch, plan.schema.field(name), path)
                    for name in (text_column, *columns)
                )
                for text, *others in zip(as_bytes(texts), *(v.to_pylist() for v in values)):
                    source: dict[str, Any] = {"file": shard.source}
                    if not plan.partition_by:
                        source["row"] = shard.start + number
                    place = f"Row {number} of {folder.join(path)}"
                    yield OutputRow(place, source, text, dict(zip(columns, others)))
                    number += 1


def refuse_damage(folder: Folder, plan: Plan, shard: Shard, paths: list[str]) -> None:
    """See to it that the files of a shard are those that the job wrote.

    folder (Folder): The output folder.
    plan (Plan): Its plan.
    shard (Shard): The shard.
    paths (list[str]): Its files.
    RAISES (JobError): If they are not.
    """
    receipts = [read_receipt(folder, path) for path in paths]
    if sum(r.rows for r in receipts if r and r.fingerprint in plan.fingerprints) != shard.rows:
        raise JobError(
            f"{folder.join(shard.name)} is missing or damaged. `python -m spacy albert verify` "
            "says more, and the same command that wrote it writes it again."
        )


def batches(folder: Folder, path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Stream a file of the output.

    folder (Folder): The output folder.
    path (str): The path of the file.
    columns (list[str]): The columns wanted; those that it lacks are in the names of its folders.
    YIELDS (pa.RecordBatch): Rows, in batches of bounded size.
    RAISES (JobError): If the file cannot be read.
    """
    try:
        with pq.ParquetFile(
            folder.open(path),
            buffer_size=1 << 20,
            pre_buffer=False,
            page_checksum_verification=True,
        ) as file:
            footer = file.metadata
            groups = (footer.row_group(number) for number in range(footer.num_row_groups))
            weight = sum(group.total_byte_size for group in groups) // max(footer.num_rows, 1)
            size = max(1, min(BATCH_ROWS, BATCH_BYTES // (weight + 1)))
            there = [name for name in columns if name in file.schema_arrow.names]
            yield from file.iter_batches(size, columns=there)
    except (pa.ArrowException, OSError) as error:
        raise JobError(f"{folder.join(path)} cannot be read: {first_line(error)}") from error
