"""One page that shows what a job has done. It loads nothing and runs no scripts."""

import base64
import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
from spacy import displacy

from .charts import (
    Bar,
    bars,
    colour,
    dot,
    duration,
    name_of,
    percent,
    rate_chart,
    score_chart,
    spread_chart,
)
from .errors import JobError
from .plan import ERRORS, LETTERS, PLAN, REPORT, SUCCESS, SUMMARY, Plan
from .run import EXCERPT
from .storage import Folder, refusal, shown
from .tally import NAME_CHARACTERS, Document, Names, Tally
from .worker import Receipt, read_receipts

TEMPLATE = Path(__file__).with_name("page.html")
#: How many labels or classes are listed, of how many of them there is a chart, how many names of
#: each label are listed, and how many errors or files.
LABELS, CHARTS, TOP, LISTED = 40, 12, 10, 20
#: An entity, for displaCy.
MARK = '<mark class="{colour}"{title}><bdi>{text}</bdi><b>{label}</b></mark>'
CUT = '<span class="cut" title="the text is longer">…</span>'
#: What cannot be in a page.
CONTROLS = {n: "\N{REPLACEMENT CHARACTER}" for n in range(32) if chr(n) not in "\t\n\r"}


def report(
    output: str | Path,
    *,
    to: str | Path | None = None,
    text_column: str | None = None,
    samples: int = 12,
    show: Callable[[int, int], Any] | None = None,
) -> str:
    """Write a page that shows what is in an output folder: totals, entities, names, scores,
    classes, lengths, errors and sample documents. It is one file, which needs no other.

    output (str | Path): A folder that `annotate` has written to; the job need not be finished.
    to (str | Path | None): The file to write; None for _report.html in the folder.
    text_column (str | None): The column that holds the texts; None for the one of the job.
    samples (int): How many documents to show.
    show (Callable | None): Told, now and then, how many rows have been read, and of how many.
    RETURNS (str): The path of the page.
    RAISES (JobError): If the folder is no output of a job, or something cannot be read or written.
    """
    if samples < 0:
        raise JobError(f"samples must be at least 0, not {samples}.")
    folder = Folder.at(output)
    state = State.of(folder)
    column = text_column or state.plan.identity["options"]["text_column"]
    tally = Tally(state.plan, column, samples)
    tally.read(folder, state.receipts, show)
    page = Page(state, tally).html().encode("utf-8", "replace")
    path = folder.join(REPORT) if to is None else str(to)
    try:
        if to is None:
            folder.write(REPORT, page)
        else:
            Path(to).write_bytes(page)
    except OSError as error:
        raise refusal(f"Cannot write {path}", error) from error
    return path


class ErrorKind(NamedTuple):
    """Errors of one kind.

    rows (int): How many there are.
    file (str): The input file of the first one.
    row (int): Its number there.
    shard (str): The shard that it is in.
    """

    rows: int
    file: str
    row: int
    shard: str


@dataclass(frozen=True)
class State:
    """What an output folder says of its job.

    folder (Folder): The folder.
    plan (Plan): The plan.
    receipts (dict[str, Receipt]): The receipts of the shards that are done, by name.
    finished (bool): Whether the job has finished.
    run (dict): What the summary says of the run that finished it.
    """

    folder: Folder
    plan: Plan
    receipts: dict[str, Receipt]
    finished: bool
    run: dict[str, Any]

    @classmethod
    def of(cls, folder: Folder) -> "State":
        """Find out how a job is.

        folder (Folder): Its output folder.
        RETURNS (State): What the folder says.
        RAISES (JobError): If it is no output folder.
        """
        try:
            plan = Plan.of(folder)
            finished = folder.holds(SUCCESS)
            # before that, the summary is that of an earlier run
            summary = finished and folder.holds(SUMMARY) and json.loads(folder.read(SUMMARY))
            run = summary["run"] if summary else {}
            return cls(folder, plan, read_receipts(folder, plan), finished, run)
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise refusal(f"Cannot read {shown(folder.path)}", error) from error

    @property
    def whole(self) -> bool:
        """Whether all shards are there."""
        return len(self.receipts) == len(self.plan.shards)

    def written(self, name: str) -> str:
        """When a file was written, if the filesystem knows."""
        nanoseconds = self.folder.info(name).mtime_ns
        return (
            moment(datetime.fromtimestamp(nanoseconds / 1e9, timezone.utc)) if nanoseconds else ""
        )

    @cached_property
    def errors(self) -> dict[str, ErrorKind]:
        """The errors by kind, the most frequent first."""
        found: dict[str, ErrorKind] = {}
        for shard in self.plan.shards:
            if receipt := self.receipts.get(shard.name):
                for kind, rows in receipt.errors.items():
                    first = ErrorKind(0, shard.source, receipt.examples[kind], shard.name)
                    first = found.get(kind, first)
                    found[kind] = first._replace(rows=first.rows + rows)
        return dict(sorted(found.items(), key=lambda item: -item[1].rows))

    def letter(self, error: ErrorKind) -> dict[str, Any]:
        """Find what was written down of the first error of a kind.

        error (ErrorKind): The kind.
        RETURNS (dict[str, Any]): The error and, unless that was switched off, the beginning of the
            text; nothing if it is not there.
        """
        path = f"{LETTERS}/{error.shard.removesuffix('.parquet')}.jsonl"
        if self.folder.holds(path):
            # a damaged file is no reason to have no report: `verify` finds it
            with contextlib.suppress(ValueError, KeyError, TypeError):
                for line in io.BytesIO(self.folder.read(path)):
                    letter = json.loads(line)
                    if letter["row"] == error.row:
                        return {"error": letter["error"], "text": letter.get("text")}
        return {}


class Page:
    """The page.

    state (State): What is known of the job.
    tally (Tally): What is in its output.
    """

    def __init__(self, state: State, tally: Tally) -> None:
        self.state, self.plan, self.tally = state, state.plan, tally
        labels = [label for label, _ in tally.ents.most_common()]
        self.colours = {label: colour(n) for n, label in enumerate(labels)}
        classes = enumerate(self.plan.outputs.classes, len(labels))
        self.class_colours = {name: colour(n) for n, name in classes}

    def html(self) -> str:
        """Put the page together.

        RETURNS (str): The page.
        """
        parts = {
            "Entities": self.entities(),
            "Classes": self.classes(),
            "Documents": self.documents(),
            "Texts": self.texts(),
            "Speed": self.speed(),
            "Errors": self.errors(),
            "Job": self.job(),
        }
        sections = {title: content for title, content in parts.items() if content}
        template = TEMPLATE.read_text("utf-8")
        style = template.partition("<style>")[2].partition("</style>")[0]
        page = Template(template).substitute(
            digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            name=escape(self.state.folder.path.rpartition("/")[2]),
            lead=self.lead(),
            totals="".join(self.totals()),
            nav="".join(f'<a href="#{title.lower()}">{title}</a>' for title in sections),
            body="\n".join(
                f'<section id="{title.lower()}"><h2>{title}</h2>\n{content}\n</section>'
                for title, content in sections.items()
            ),
            made=moment(datetime.now(timezone.utc)),
        )
        return page.translate(CONTROLS)

    def lead(self) -> str:
        """Say what this is, and whether it is complete."""
        files = len({shard.source for shard in self.plan.shards})
        found = ["entities"] if self.plan.outputs.ents else []
        if classes := len(self.plan.outputs.classes):
            found.append(plural(classes, "class", "classes"))
        if self.plan.outputs.coherence:
            found.append("the coherence of their sentences")
        if vectors := self.plan.outputs.embedding:
            found.append(f"vectors of {vectors.width:,} numbers")
        rows = plural(self.plan.rows, "document")
        said = f"<p>{rows} in {plural(files, 'file')}, annotated with {enumerated(found)}.</p>"
        if self.state.finished and self.state.whole:
            return f'{said}<p class="state done">Finished {self.state.written(SUCCESS)}</p>'
        why = "The job has not finished: its command, given again, goes on with it."
        if self.state.finished:
            why = "The job had finished, but files are missing or damaged: see <code>verify</code>."
        shards = f"{len(self.state.receipts):,} of {plural(len(self.plan.shards), 'shard')}"
        why += f" This page shows {shards}, with {self.tally.rows:,} of {rows}."
        return f'{said}<p class="state undone" role="status">{why}</p>'

    def totals(self) -> Iterable[str]:
        """The figures that come first."""
        tally, run = self.tally, self.state.run
        files = {receipt.source for receipt in self.state.receipts.values()}
        yield tile("Documents", f"{tally.rows:,}", f"from {plural(len(files), 'file')}")
        counts = {"Words": tally.words.total}
        if self.plan.outputs.ents:
            counts["Entities"] = tally.ents.total()
        if self.plan.outputs.windows:
            counts["Windows"] = tally.windows.total
        for name, count in counts.items():
            mean = f"{count / tally.annotated:,.1f} a document" if tally.annotated else "&nbsp;"
            yield tile(name, f"{count:,}", mean)
        errors = tally.rows - tally.annotated
        share = f"{percent(errors, tally.rows)} of documents" if errors else "&nbsp;"
        yield tile("Errors", f"{errors:,}", share, "wrong" if errors else "")
        if rate := run.get("words_per_second"):
            yield tile("Words a second", f"{rate:,.0f}", f"in {duration(run['seconds'])}")

    def entities(self) -> str:
        """Entities by label, and for each label its names and scores."""
        tally, total = self.tally, self.tally.ents.total()
        if not self.plan.outputs.ents or not tally.annotated:
            return ""
        if not total:
            return note("There are none.")
        labels = tally.ents.most_common()
        rows = [Bar(label, number, self.colours[label]) for label, number in labels[:LABELS]]
        parts = [
            note(
                f"{percent(tally.with_ents, tally.annotated)} of the documents have at least one."
            ),
            card(bars("Entities by label", "Label", "Entities", rows, total)),
            rest(len(labels) - LABELS, "rarer label"),
            f"<h3>Names and scores{of_all(len(labels), 'labels')}</h3>",
            grid(self.label(label) for label, _ in labels[:CHARTS]),
        ]
        return "".join(parts)

    def label(self, label: str) -> str:
        """The names and scores of a label."""
        names, scores = self.tally.names[label], self.tally.ent_scores[label]
        rows = [Bar(shortened(name), number) for name, number in names.most_common(TOP)]
        count = plural(self.tally.ents[label], "entity", "entities")
        parts = [
            f"<h4>{dot()}{name_of(label)} <small>{count}</small></h4>",
            bars(f"Most frequent names of {label}", "Name", "Entities", rows),
            note(how_counted(names)),
        ]
        if scores.any():
            parts.append(score_chart(f"Scores of {label}", scores, "entities"))
        return card("".join(parts), self.colours[label])

    def classes(self) -> str:
        """How many documents each class has, and the scores."""
        outputs, tally = self.plan.outputs, self.tally
        if not outputs.classes or not tally.annotated:
            return ""
        others = [name for name in outputs.classes if name not in outputs.exclusive]
        parts, order = [], []
        for title, names, counts in (
            ("The best class of each document", outputs.exclusive, tally.best),
            ("Documents with a score of at least 0.5", others, tally.cats),
        ):
            if names:
                ranked = sorted(names, key=lambda name: -counts[name])
                order += ranked
                rows = [Bar(n, counts[n], self.class_colours[n]) for n in ranked[:LABELS]]
                table = bars(title, "Class", "Documents", rows, tally.annotated)
                more = rest(len(ranked) - LABELS, "rarer class", "rarer classes")
                parts.append(f"<h3>{title}</h3>{card(table)}{more}")
        scored = [name for name in order if tally.cat_scores[name].any()]
        if scored:
            parts.append(f"<h3>Scores{of_all(len(scored), 'classes')}</h3>")
            parts.append(grid(self.class_card(name) for name in scored[:CHARTS]))
        return "".join(parts)

    def class_card(self, name: str) -> str:
        chart = score_chart(f"Scores of {name}", self.tally.cat_scores[name], "documents")
        return card(f"<h4>{dot()}{name_of(name)}</h4>{chart}", self.class_colours[name])

    def documents(self) -> str:
        """Documents drawn at random."""
        if not self.tally.sample:
            return ""
        drawn = plural(len(self.tally.sample), "document")
        where = "output" if self.plan.partition_by else "input"
        said = f"{drawn}, drawn at random. Rows are counted from 0, as they are in the {where}."
        return note(said) + "".join(self.document(document) for document in self.tally.sample)

    def document(self, document: Document) -> str:
        """A document of the sample."""
        scores = document.scores
        likely = [c for c in scores if scores[c] >= 0.5 and c not in self.plan.outputs.exclusive]
        likely.sort(key=lambda name: -scores[name])
        if document.best is not None:
            likely.insert(0, document.best)
        chips = "".join(
            f'<span class="chip {self.class_colours[name]}">{name_of(name)} '
            f"<small>{scores.get(name, 0):.2f}</small></span>"
            for name in likely
        )
        where, end = place(document.row, document.path), document.start + len(document.text)
        if len(document.text) < document.length:
            where += f" · characters {document.start:,} to {end:,} of {document.length:,}"
        before, after = CUT if document.start else "", CUT if end < document.length else ""
        return (
            f'<article class="card"><div class="text" dir="auto">{before}{self.drawn(document)}'
            f"{after}</div><footer>{chips}<span>{where}</span></footer></article>\n"
        )

    def drawn(self, document: Document) -> str:
        """A text with its entities, drawn by displaCy."""
        ents = []
        for ent in document.ents:
            label, score = ent["label"] or "", ent["score"]
            title = "" if score is None else f' title="score {score:.3f}"'
            params = {"colour": self.colours[label], "title": title}
            ents.append({**ent, "label": name_of(label), "params": params})
        drawn = displacy.render(
            {"text": document.text, "ents": ents},
            style="ent",
            manual=True,
            jupyter=False,
            options={"template": MARK},
        )
        # the element around it has a style of its own, which the policy of the page forbids
        return drawn.partition(">")[2].rpartition("</div>")[0] or "<em>an empty text</em>"

    def texts(self) -> str:
        """How long the texts are."""
        tally = self.tally
        spreads = {"words": tally.words, "characters": tally.characters, "windows": tally.windows}
        return grid(
            card(f"<h4>{unit.capitalize()}</h4>" + spread_chart(f"Texts by {unit}", spread, unit))
            for unit, spread in spreads.items()
            if spread.count
        )

    def speed(self) -> str:
        """How fast the run that finished the job was, over time."""
        points = np.array([[0, 0, 0], *self.state.run.get("timeline", ())], float)
        seconds, rows, words = points.T
        if seconds[-1] <= 0:
            return ""
        return note("Measured from when the first worker was ready.") + grid(
            card(
                f"<h4>{what.capitalize()}</h4>{rate_chart(f'{what} a second', seconds, sums, what)}"
            )
            for what, sums in (("words", words), ("documents", rows))
        )

    def errors(self) -> str:
        """Errors by kind, and the input files that were left out."""
        parts, kinds = [], list(self.state.errors.items())
        if kinds:
            lines = "".join(
                f'<tr><th scope="row">{name_of(kind)}</th><td class="number">{error.rows:,}</td>'
                f"<td>{self.first(error)}</td></tr>"
                for kind, error in kinds[:LISTED]
            )
            table = (
                '<table class="errors"><caption>Errors by kind</caption><thead><tr>'
                '<th scope="col">Kind</th><th scope="col" class="number">Documents</th>'
                f'<th scope="col">The first one</th></tr></thead><tbody>{lines}</tbody></table>'
            )
            parts += [card(table), rest(len(kinds) - LISTED, "rarer kind")]
            if self.state.folder.holds(ERRORS):
                parts.append(note(f"All of them are in <code>{ERRORS}</code>."))
        if left_out := self.plan.left_out:
            lines = "".join(
                f"<li><bdi>{escape(file.path)}</bdi> {escape(file.reason)}</li>"
                for file in left_out[:LISTED]
            )
            parts.append(f"<h3>Input files left out</h3>{card(f'<ul>{lines}</ul>')}")
            parts.append(rest(len(left_out) - LISTED, "more file"))
        return "".join(parts)

    def first(self, error: ErrorKind) -> str:
        """The first error of a kind."""
        letter = self.state.letter(error)
        said = f'<p dir="auto">{escape(letter["error"])}</p>' if letter else ""
        text = letter.get("text") or ""
        cut = CUT if len(text) == EXCERPT else ""
        quoted = f'<blockquote dir="auto">{escape(text)}{cut}</blockquote>' if text else ""
        return f'{said}{quoted}<p class="where">{place(error.row, error.file)}</p>'

    def job(self) -> str:
        """What was asked for."""
        plan, options = self.plan, self.plan.identity["options"]
        files = list(dict.fromkeys(shard.source for shard in plan.shards))
        named = ", ".join(map(code, files[:3])) + (" …" if len(files) > 3 else "")
        versions = plan.identity["versions"].items()
        items = {
            "Output": code(self.state.folder.path),
            "Asked for": ", ".join(map(code, plan.asked.values())),
            "Input": f"{plural(len(files), 'file')}: {named}",
            "Pipeline": f"SHA-256 of its files {code(plan.identity['pipeline'][:16])}",
            "Written with": ", ".join(f"{escape(k)} {escape(v)}" for k, v in versions if v),
            "Fingerprint": ", ".join(map(code, plan.fingerprints)),
            "Text column": code(options["text_column"]),
            "Kept columns": ", ".join(map(code, plan.kept.names)) or "none",
            "Partitioned by": ", ".join(map(code, plan.partition_by)),
            "Limit": plural(options["limit"], "row") if options["limit"] else "",
            "Longest text": plural(options["max_chars"], "character"),
            "Embedding": self.embedding(),
            "Planned": self.state.written(PLAN),
            "Finished": self.state.written(SUCCESS) if self.state.finished else "",
        }
        lines = (f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in items.items() if v)
        return card(f'<dl class="facts">{"".join(lines)}</dl>')

    def embedding(self) -> str:
        """What the column of vectors is."""
        vectors = self.plan.outputs.embedding
        return f"{vectors.pooling}, {vectors.width:,} numbers, {vectors.type}" if vectors else ""


def how_counted(names: Names) -> str:
    if not names.missed:
        return f"{min(len(names.counts), TOP)} of {plural(len(names.counts), 'name')}"
    return (
        f"{TOP} of more than {names.bound:,} names, which are too many to count them all: each "
        f"of these was found up to {plural(names.missed, 'time')} more"
    )


def tile(name: str, value: str, below: str, kind: str = "") -> str:
    return f'<div class="{kind}"><dt>{name}</dt><dd>{value}</dd><dd>{below}</dd></div>'


def card(content: str, colour: str = "") -> str:
    return f'<div class="card {colour}">{content}</div>\n'


def grid(cards: Iterable[str]) -> str:
    content = "".join(cards)
    return content and f'<div class="grid">{content}</div>'


def note(content: str) -> str:
    return f'<p class="note">{content}</p>'


def rest(number: int, one: str, many: str = "") -> str:
    return note(f"And {plural(number, one, many)}.") if number > 0 else ""


def of_all(number: int, what: str) -> str:
    return f" of the {CHARTS} most frequent {what}" if number > CHARTS else ""


def code(content: str) -> str:
    return f"<code>{escape(content)}</code>"


def place(row: int, path: str) -> str:
    return f"row {row:,} of <bdi>{escape(path)}</bdi>"


def shortened(name: str) -> str:
    return name if len(name) < NAME_CHARACTERS else f"{name} …"


def enumerated(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), *items[-1:]] if len(items) > 1 else items)


def plural(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def moment(when: datetime) -> str:
    machine, person = when.isoformat(timespec="seconds"), f"{when.day} {when:%B %Y, %H:%M} UTC"
    return f'<time datetime="{machine}">{person}</time>'
