"""The numbers of a report, from one pass over an output folder. Memory does not grow with it."""

import heapq
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .errors import JobError
from .inputs import first_line
from .plan import Plan
from .storage import Folder
from .worker import Receipt

BATCH_ROWS, BATCH_BYTES = 1 << 16, 32 << 20
#: Histograms of scores go from 0 to 1 in so many steps.
BINS = 20
#: Different names that are counted for each label, and the characters that tell them apart.
NAMES, NAME_CHARACTERS = 50_000, 100
#: The characters of a text that is shown whole, those that are shown of a longer one, and those of
#: them before the first entity.
WHOLE, EXCERPT, BEFORE = 900, 600, 120
SEED = 0


class Names:
    """Counts of names, exact as long as they are not too many.

    Beyond that the rare ones are forgotten: all counts are lowered by that of the first name for
    which there is no room. So no count is too high, and none is too low by more than `missed`
    (Misra and Gries, 1982; merged as in Agarwal et al., "Mergeable Summaries", 2012).

    bound (int): How many names are kept when there are too many.
    """

    def __init__(self, bound: int = NAMES) -> None:
        self.bound = bound
        self.counts: dict[str, int] = {}
        self.missed = 0

    def add(self, counts: Mapping[str, int]) -> None:
        """Count names.

        counts (Mapping[str, int]): How often each name was found.
        """
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        if len(self.counts) > 2 * self.bound:
            values = np.fromiter(self.counts.values(), np.int64, len(self.counts))
            least = int(np.partition(values, -self.bound - 1)[-self.bound - 1])
            self.counts = {name: n - least for name, n in self.counts.items() if n > least}
            self.missed += least

    def most_common(self, number: int) -> list[tuple[str, int]]:
        """Find the most frequent names.

        number (int): How many.
        RETURNS (list[tuple[str, int]]): Names and counts; those of one count by name.
        """
        return heapq.nsmallest(number, self.counts.items(), key=lambda item: (-item[1], item[0]))


class Spread:
    """How numbers that may be large are spread: 0, 1, 2 to 3, 4 to 7, 8 to 15 and so on."""

    def __init__(self) -> None:
        self.bins = np.zeros(65, np.int64)
        self.count = self.total = self.most = 0

    def add(self, numbers: pa.Array) -> None:
        """Count numbers.

        numbers (pa.Array): Integers from 0; those that are null do not count.
        """
        values = numbers.drop_null().to_numpy().astype(np.int64)
        if values.size:
            # 0 has the exponent 0, 1 has 1, 2 and 3 have 2, 4 to 7 have 3
            self.bins += np.bincount(np.frexp(values)[1], minlength=65)
            self.count += values.size
            self.total += int(values.sum())
            self.most = max(self.most, int(values.max()))


class Document(NamedTuple):
    """A document of the sample.

    key (float): The random number that it was drawn by.
    path (str): The file it is in, and its number there: in the input, or if the output is
        partitioned, in the output.
    row (int): Its number there, from 0.
    text (str): Its text, or what is shown of it.
    start (int): Where in the text this begins.
    length (int): The characters of the text.
    ents (list[dict]): The entities in it, with offsets in what is shown.
    scores (dict[str, float]): The score of each class.
    best (str | None): The best of exclusive classes.
    """

    key: float
    path: str
    row: int
    text: str
    start: int
    length: int
    ents: list[dict[str, Any]]
    scores: dict[str, float]
    best: str | None


class Tally:
    """What is in the rows of an output.

    plan (Plan): The plan of the job.
    text_column (str): The column that holds the texts, if they have been kept.
    samples (int): How many documents to draw, each as likely as any other.
    """

    def __init__(self, plan: Plan, text_column: str, samples: int = 0) -> None:
        self.plan, self.text_column, self.samples = plan, text_column, samples
        self.rows = self.annotated = self.with_ents = 0
        self.ents, self.cats, self.best = Counter[str](), Counter[str](), Counter[str]()
        self.names: dict[str, Names] = {}
        self.ent_scores: dict[str, np.ndarray] = {}
        self.cat_scores: dict[str, np.ndarray] = {}
        self.characters, self.words, self.windows = Spread(), Spread(), Spread()
        self.sample: list[Document] = []
        self.random = np.random.default_rng(SEED)

    def read(
        self,
        output: Folder,
        receipts: Mapping[str, Receipt],
        show: Callable[[int, int], Any] | None = None,
    ) -> None:
        """Count what is in the shards that are done.

        output (Folder): The output folder.
        receipts (Mapping[str, Receipt]): The receipts of these shards, by name.
        show (Callable | None): Told, now and then, how many rows have been read, and of how many.
        RAISES (JobError): If a file cannot be read.
        """
        total = sum(receipt.rows for receipt in receipts.values())
        names = [field.name for field in self.plan.outputs.fields()]
        columns = [self.text_column, *(name for name in names if name != "embedding")]
        parts, _ = self.plan.sort(output.files())
        paths = [(receipts[name], path) for name in receipts for path in parts[name]]
        for receipt, path in paths:
            # the rows of a shard that was divided do not follow each other in the input
            where, row = (path, 0) if self.plan.partition_by else (receipt.source, receipt.start)
            try:
                for batch in batches(output, path, columns):
                    self.update(batch, where, row)
                    row += batch.num_rows
                    if show:
                        show(self.rows, total)
            except (pa.ArrowException, OSError) as error:
                raise JobError(
                    f"{output.join(path)} cannot be read: {first_line(error)}. Find out what else "
                    "is damaged with `python -m spacy albert verify`."
                ) from error

    def update(self, batch: pa.RecordBatch, path: str, first: int) -> None:
        """Count rows.

        batch (pa.RecordBatch): The rows.
        path (str): The file that they are in.
        first (int): The number of the first one there.
        """
        self.rows += batch.num_rows
        keys, numbers = self.random.random(batch.num_rows), np.arange(first, first + batch.num_rows)
        if batch.column("error").null_count < batch.num_rows:
            good = batch.column("error").is_null()
            batch, chosen = batch.filter(good), good.to_numpy(zero_copy_only=False)
            keys, numbers = keys[chosen], numbers[chosen]
        self.annotated += batch.num_rows
        self.words.add(batch.column("n_tokens"))
        columns = batch.schema.names
        if "n_windows" in columns:
            self.windows.add(batch.column("n_windows"))
        if "ents" in columns:
            self.count_entities(batch.column("ents"))
        if "cats" in columns:
            self.count_classes(batch.column("cats"))
        if "cat" in columns:
            for found in batch.column("cat").drop_null().value_counts().to_pylist():
                self.best[found["values"]] += found["counts"]
        if self.text_column in columns:
            texts = as_text(batch.column(self.text_column))
            self.characters.add(pc.utf8_length(texts))
            self.draw(batch, texts, keys, path, numbers)

    def count_entities(self, lists: pa.ListArray) -> None:
        """Count entities, their names and their scores.

        lists (pa.ListArray): The entities of each document.
        """
        self.with_ents += pc.sum(pc.greater(pc.list_value_length(lists), 0)).as_py() or 0
        ents = lists.flatten()
        if not len(ents):
            return
        fields = dict(zip((field.name for field in ents.type), ents.flatten()))
        coded = fields["label"].fill_null("").dictionary_encode()
        labels, codes = coded.dictionary.to_pylist(), coded.indices
        number = codes.to_numpy()
        for label, count in zip(labels, np.bincount(number, minlength=len(labels)).tolist()):
            self.ents[label] += count

        scores = fields["score"].to_numpy(zero_copy_only=False)
        there = ~np.isnan(scores)
        bins = np.bincount(
            number[there] * BINS + score_bins(scores[there]), minlength=BINS * len(labels)
        )
        for label, counts in zip(labels, bins.reshape(-1, BINS)):
            self.ent_scores[label] = self.ent_scores.get(label, 0) + counts

        names = pc.utf8_slice_codeunits(fields["text"].fill_null(""), 0, NAME_CHARACTERS)
        pairs = pa.table({"label": codes, "name": names}).group_by(["label", "name"])
        counted = pairs.aggregate([([], "count_all")])
        found: list[dict[str, int]] = [{} for _ in labels]
        for row in counted.to_pylist():
            found[row["label"]][row["name"]] = row["count_all"]
        for label, of_label in zip(labels, found):
            self.names.setdefault(label, Names()).add(of_label)

    def count_classes(self, scores: pa.StructArray) -> None:
        """Count the scores of classes, and the documents in which they are at least 0.5.

        scores (pa.StructArray): The scores of each document.
        """
        for field, column in zip(scores.type, scores.flatten()):
            values = column.drop_null().to_numpy()
            values = values[~np.isnan(values)]
            self.cats[field.name] += int((values >= 0.5).sum())
            counts = np.bincount(score_bins(values), minlength=BINS)
            self.cat_scores[field.name] = self.cat_scores.get(field.name, 0) + counts

    def draw(
        self,
        batch: pa.RecordBatch,
        texts: pa.Array,
        keys: np.ndarray,
        path: str,
        numbers: np.ndarray,
    ) -> None:
        """Draw documents for the sample: those with the smallest keys of all so far.

        batch (pa.RecordBatch): Documents.
        texts (pa.Array): Their texts.
        keys (np.ndarray): A random number for each.
        path (str): The file that they are in.
        numbers (np.ndarray): Their numbers there.
        """
        full = len(self.sample) == self.samples
        limit = self.sample[-1].key if full and self.sample else 1.0
        for place in np.argsort(keys)[: self.samples].tolist():
            if keys[place] >= limit:
                break
            row = batch.slice(place, 1).to_pylist()[0]
            text = texts[place].as_py()
            start, end, ents = excerpt(text, row.get("ents") or [])
            scores = {
                name: score for name, score in (row.get("cats") or {}).items() if score is not None
            }
            self.sample.append(
                Document(
                    key=float(keys[place]),
                    path=path,
                    row=int(numbers[place]),
                    text=text[start:end],
                    start=start,
                    length=len(text),
                    ents=ents,
                    scores=scores,
                    best=row.get("cat"),
                )
            )
        self.sample = sorted(self.sample, key=lambda document: document.key)[: self.samples]


def batches(output: Folder, path: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Stream an output file.

    output (Folder): The output folder.
    path (str): The file.
    columns (Sequence[str]): The columns wanted; those that it lacks are left out.
    YIELDS (pa.RecordBatch): Rows, in batches of bounded size.
    """
    with pq.ParquetFile(output.open(path), page_checksum_verification=True) as file:
        footer = file.metadata
        size = sum(footer.row_group(n).total_byte_size for n in range(footer.num_row_groups))
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES // (size // max(footer.num_rows, 1) + 1)))
        wanted = [name for name in columns if name in file.schema_arrow.names]
        yield from file.iter_batches(rows, columns=wanted)


def as_text(column: pa.Array) -> pa.Array:
    """Texts that were annotated, and so are UTF-8, in one type."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_string())


def score_bins(scores: np.ndarray) -> np.ndarray:
    """The bin of each score; what is outside of 0 to 1 goes to the first or the last one."""
    # twenty times a float32 is exact in float64: a score never ends up on the wrong side
    return np.clip(scores.astype(np.float64) * BINS, 0, BINS - 1).astype(np.int64)


def excerpt(text: str, ents: list[dict[str, Any]]) -> tuple[int, int, list[dict[str, Any]]]:
    """Choose what to show of a text: all of it, or if it is long, where most entities are.

    text (str): The text.
    ents (list[dict[str, Any]]): Its entities, in order.
    RETURNS (tuple): Where it begins and ends, and the entities in it, with offsets that count from
        its beginning.
    """
    start, end = 0, len(text)
    if len(text) > WHOLE:
        starts, ends = ([ent[side] for ent in ents] for side in ("start", "end"))
        begins = [max(0, min(first - BEFORE, len(text) - EXCERPT)) for first in starts] or [0]

        def inside(begin: int) -> int:
            return bisect_right(ends, begin + EXCERPT) - bisect_left(starts, begin)

        start = max(begins, key=inside)
        end = start + EXCERPT
        # neither in a word, if there is a blank nearby, nor in an entity
        if start and (blank := text.find(" ", start, start + BEFORE // 2)) > 0:
            start = blank + 1
        if end < len(text) and (blank := text.rfind(" ", end - BEFORE // 2, end)) > 0:
            end = blank
        start = next((ent["end"] for ent in ents if ent["start"] < start < ent["end"]), start)
        end = next((ent["start"] for ent in ents if ent["start"] < end < ent["end"]), end)
    inner = (ent for ent in ents if start <= ent["start"] and ent["end"] <= end)
    moved = [{**ent, "start": ent["start"] - start, "end": ent["end"] - start} for ent in inner]
    return start, end, moved
