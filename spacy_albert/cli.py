"""`python -m spacy albert ...`: the commands of the plugin.

spaCy imports this module for every command of its own, so what a command needs is imported when it
runs.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Optional, cast

import typer
from spacy.cli._util import app as spacy_app

albert_cli = typer.Typer(
    name="albert",
    help="ALBERT in spaCy: convert checkpoints and corpora, write training configs, annotate "
    "collections.",
    no_args_is_help=True,
)
spacy_app.add_typer(albert_cli)


class Task(str, Enum):
    auto = "auto"
    encoder = "encoder"
    ner = "ner"
    textcat = "textcat"
    textcat_multilabel = "textcat_multilabel"
    coherence = "coherence"
    pair = "pair"
    qa = "qa"


class CorpusTask(str, Enum):
    auto = "auto"
    ner = "ner"
    textcat = "textcat"
    qa = "qa"


#: The figures of `calibrate`, and what its table calls them.
COLUMNS = {
    "temperature": "T",
    "bias": "bias",
    "n": "n",
    "said": "said",
    "so": "so",
    "nll": "NLL",
    "ece": "ECE",
    "ece_equal_mass": "equal mass",
    "ece_by_chance": "by chance",
}


def cell(number: Optional[float]) -> str:
    """Write a number in a table; there may be none."""
    if number is None:
        return ""
    return f"{number:,}" if isinstance(number, int) else f"{number:.3f}"


@contextmanager
def clear_errors() -> Iterator[None]:
    """Show an expected error as a sentence, without a traceback, and exit with 1."""
    from wasabi import msg

    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        msg.fail(str(error), exits=1)


def check_free(path: Path, force: bool) -> None:
    """Refuse to write over something.

    path (Path): The file or directory to be written.
    force (bool): Write over it all the same.
    """
    is_taken = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if is_taken and not force:
        raise ValueError(f"{path} exists. Choose another name, or write over it with --force.")


def check_target(
    pipeline: str, where: Path, output: Optional[Path], in_place: bool, force: bool
) -> None:
    """Refuse to write a changed pipeline to a place that cannot be meant.

    pipeline (str): What the pipeline was called.
    where (Path): Its folder.
    output (Path | None): The folder to write.
    in_place (bool): Change the pipeline itself.
    force (bool): Write over what is in the output.
    """
    if in_place and output is not None:
        raise ValueError("Choose --in-place or --output, not both.")
    if in_place and not Path(pipeline).is_dir():
        raise ValueError(f"{pipeline} is an installed pipeline: write a copy with --output.")
    if output is not None and output.resolve() == where.resolve():
        raise ValueError(f"{output} is the pipeline itself: choose --in-place.")
    if output is not None:
        check_free(output, force)


def pipeline_folder(name: str) -> Path:
    """Find a pipeline.

    name (str): A folder, or the name of an embedded or installed pipeline.
    RETURNS (Path): Its folder.
    RAISES (ValueError): If there is no such pipeline.
    """
    from .locate import find_pipeline

    folder = find_pipeline(name)
    if folder is None:
        raise ValueError(
            f"There is no pipeline {name}: neither a folder with a config.cfg, nor an embedded "
            "pipeline, nor an installed package."
        )
    return folder


def read_corpus(nlp: Any, path: Path) -> list[Any]:
    """Read annotated documents.

    nlp (Language): The pipeline, whose tokenizer is going to be used.
    path (Path): A .spacy file, or a folder of them.
    RETURNS (list[Example]): The documents as the pipeline reads them, and their annotation.
    RAISES (ValueError): If there are none.
    """
    import zlib

    from spacy.training import Corpus

    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    try:
        examples = list(Corpus(path)(nlp))
    except (zlib.error, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as spaCy's DocBin: {error}.") from error
    if not examples:
        raise ValueError(f"{path} holds no documents in spaCy's format: see `spacy convert`.")
    return examples


def annotated(path: Path) -> Any:
    """Choose the reader of annotated documents.

    path (Path): A .spacy file, a folder of them, or a file of SQuAD's.
    RETURNS (FileCorpus): The reader.
    """
    from .corpora import DocCorpus
    from .squad import SquadCorpus

    return SquadCorpus(path) if path.suffix in (".json", ".gz") else DocCorpus(path)


@albert_cli.command("convert")
def convert_cli(
    source: Path = typer.Argument(
        ...,
        metavar="CHECKPOINT",
        help="A Hugging Face or Google directory (with --to-hf: a spaCy pipeline).",
    ),
    output: Path = typer.Argument(..., metavar="OUT", help="The directory to write."),
    to_hf: bool = typer.Option(
        False, "--to-hf", help="The other way: from a spaCy pipeline to a Hugging Face directory."
    ),
    task: Task = typer.Option(
        Task.auto,
        "--task",
        "-t",
        help="What the checkpoint's head does. auto: as config.json says. coherence: a pre-trained "
        "one tells whether sentences follow each other.",
    ),
    lang: str = typer.Option("en", "--lang", "-l", help="Language of the spaCy tokenizer."),
    component: Optional[str] = typer.Option(
        None,
        "--component",
        "-c",
        help="With --to-hf: the component to write, if there are several.",
    ),
    force: bool = typer.Option(False, "--force", "-F", help="Write over OUT if it exists."),
) -> None:
    """Turn a trained ALBERT into a working spaCy pipeline, or back into a Hugging Face directory.

    Encoders, token classifiers (labels in BIO, BIOES, BILOU or IO), sequence classifiers (single
    or multi-label; with --task pair those of two texts) and models that answer questions are
    converted with their weights, vocabulary and labels, in safetensors or PyTorch's format. The
    result needs neither the network nor the transformers library.

    Google's directories (albert_config.json, model.ckpt-best.index and its data, 30k-clean.model)
    are read with TensorFlow, which must be installed for that and for nothing else. A classifier
    among their variables needs --task; its labels are numbered.

    Examples:

      python -m spacy albert convert ./albert-base-v2 ./encoder

      python -m spacy albert convert ./albert_base ./encoder

      python -m spacy albert convert ./albert-base-v2 ./coherence --task coherence

      python -m spacy albert convert ./my-conll-model ./ner_pipeline

      python -m spacy albert convert ./ner_pipeline ./back --to-hf
    """
    from wasabi import msg

    with clear_errors():
        check_free(output, force)
        if to_hf:
            import spacy

            from .convert import to_hugging_face
            from .locate import find_pipeline

            where = find_pipeline(source)
            if where is None:
                raise ValueError(f"{source} is no spaCy pipeline: it has no config.cfg.")
            architecture = to_hugging_face(spacy.load(where), output, component=component)
            msg.good(f"Wrote {output}: load it with transformers.{architecture}.")
            return
        from .convert import from_checkpoint

        nlp = from_checkpoint(source, lang=lang, task=task.value)
        nlp.to_disk(output)
        labels = [label for of_pipe in nlp.pipe_labels.values() for label in of_pipe]
        msg.good(f"Wrote {output}: {', '.join(nlp.pipe_names)}.")
        if labels:
            msg.text(f"Labels: {', '.join(labels)}")
        msg.text(f"Use it: nlp = spacy.load({str(output)!r})")


@albert_cli.command("init-config")
def init_config_cli(
    output: Path = typer.Argument(
        ..., metavar="OUT", help="The config file to write, or - for the standard output."
    ),
    pipeline: str = typer.Option(
        "ner",
        "--pipeline",
        "-p",
        help="The heads, with commas: ner, textcat, textcat_multilabel, pair, qa. They share one "
        "encoder.",
    ),
    encoder: str = typer.Option(
        "en_albert_sm",
        "--encoder",
        "-e",
        help="Where to start from: a Hugging Face directory, a pipeline, or an embedded one.",
    ),
    scratch: bool = typer.Option(
        False,
        "--scratch",
        help="Start from random weights in a small shape; only the vocabulary is the encoder's.",
    ),
    lang: str = typer.Option("en", "--lang", "-l", help="Language of the pipeline."),
    force: bool = typer.Option(False, "--force", "-F", help="Write over OUT if it exists."),
) -> None:
    """Write a complete training config for spacy train.

    The config is filled in and trains as it is: python -m spacy train OUT --paths.train
    train.spacy --paths.dev dev.spacy. Learning rate and dropout fit the width of the encoder.

    Examples:

      python -m spacy albert init-config ner.cfg

      python -m spacy albert init-config both.cfg -p ner,textcat -e ./albert-base-v2
    """
    from wasabi import msg

    with clear_errors():
        from .configs import config_text, training_config

        heads = [head.strip() for head in pipeline.split(",") if head.strip()]
        config = training_config(heads, lang=lang, encoder=encoder, scratch=scratch)
        if str(output) == "-":
            sys.stdout.write(config_text(config))
            return
        check_free(output, force)
        output.write_text(config_text(config), encoding="utf8")
        msg.good(f"Wrote {output}.")
        msg.text(
            f"Train: python -m spacy train {output} --output ./model "
            "--paths.train train.spacy --paths.dev dev.spacy"
        )


@albert_cli.command("corpus")
def corpus_cli(
    source: str = typer.Argument(
        ...,
        metavar="INPUT",
        help="A CoNLL, CSV, TSV, Parquet or SQuAD file, or a pattern in quotes.",
    ),
    output: Path = typer.Argument(..., metavar="OUT", help="The .spacy file to write."),
    task: CorpusTask = typer.Option(
        CorpusTask.auto,
        "--task",
        "-t",
        help="What INPUT is annotated for. auto: textcat for .csv, .tsv and .parquet, qa for .json "
        "and .json.gz, else ner.",
    ),
    label: list[str] = typer.Option(
        [],
        "--label",
        metavar="NAME[=NEW]",
        help="A label to keep, under a new name if one is given; may be repeated, and then other "
        "labels count as not annotated. Without it all labels are kept.",
    ),
    n_sents: int = typer.Option(
        1,
        "--n-sents",
        min=0,
        help="For ner: sentences in a document; 0: all between -DOCSTART- lines.",
    ),
    guess_spaces: bool = typer.Option(
        False,
        "--guess-spaces",
        help="For ner: put blanks where English has them, instead of one after each token.",
    ),
    text_column: str = typer.Option(
        "text",
        "--text-column",
        help="For textcat: the column with the text, by number from 0 if there is no header.",
    ),
    label_column: str = typer.Option(
        "label", "--label-column", help="For textcat: the column with the class, likewise."
    ),
    pair_column: Optional[str] = typer.Option(
        None, "--pair-column", help="For textcat: the column with a second text, likewise."
    ),
    regression: bool = typer.Option(
        False, "--regression", help="For textcat: the label column has numbers, not classes."
    ),
    separator: Optional[str] = typer.Option(
        None,
        "--separator",
        help="For textcat: what stands between classes, if a text can have any number of them.",
    ),
    label_names: Optional[Path] = typer.Option(
        None,
        "--label-names",
        help="For textcat: a file with the name of a class on each line (or a JSON list), if INPUT "
        "gives classes by number from 0.",
    ),
    delimiter: Optional[str] = typer.Option(
        None,
        "--delimiter",
        help="For textcat: what stands between columns. Default: a comma in .csv, else a TAB.",
    ),
    no_quotes: bool = typer.Option(
        False, "--no-quotes", help="For textcat: take double quotes for a part of the text."
    ),
    lang: str = typer.Option("en", "--lang", "-l", help="Language of the spaCy tokenizer."),
    force: bool = typer.Option(False, "--force", "-F", help="Write over OUT if it exists."),
) -> None:
    """Turn an annotated corpus into a .spacy file, and say what is in it.

    Entities come from CoNLL files: a token on each line, its tag (BIO, IO, IOB1, BILOU, BIOES) in
    the last column. Classes come from two columns of a CSV, TSV or Parquet file, of pairs of texts
    from three. Questions and answers come from SQuAD's JSON. A training config can also read such
    files as they are: spacy-albert.ConllCorpus.v1, spacy-albert.TableCorpus.v1,
    spacy-albert.SquadCorpus.v1.

    Examples:

      python -m spacy albert corpus wnut17train.conll train.spacy --label person=PER

      python -m spacy albert corpus banking.csv train.spacy --label-column category

      python -m spacy albert corpus goemotions.tsv train.spacy --text-column 0 --label-column 1
      --separator , --label-names labels.txt

      python -m spacy albert corpus mnli.tsv train.spacy --text-column sentence1 --pair-column
      sentence2 --label-column gold_label --no-quotes

      python -m spacy albert corpus train-v1.1.json train.spacy
    """
    from wasabi import msg

    with clear_errors():
        import spacy
        from spacy.tokens import DocBin

        from .corpora import ConllCorpus, FileCorpus, TableCorpus, as_column, count_labels
        from .squad import SquadCorpus, count_questions

        if output.suffix != ".spacy":
            raise ValueError(f"{output} must end in .spacy, or spaCy's own reader passes it over.")
        check_free(output, force)
        pairs = (name.partition("=") for name in label)
        labels = {name: new or name for name, _, new in pairs} or None
        is_table = Path(source).suffix in (".csv", ".tsv", ".parquet")
        is_squad = source.endswith((".json", ".json.gz"))
        corpus: FileCorpus
        if task is CorpusTask.qa or (task is CorpusTask.auto and is_squad):
            corpus = SquadCorpus(source)
        elif task is CorpusTask.ner or (task is CorpusTask.auto and not is_table):
            corpus = ConllCorpus(source, labels=labels, n_sents=n_sents, guess_spaces=guess_spaces)
        else:
            corpus = TableCorpus(
                source,
                text=as_column(text_column),
                label=as_column(label_column),
                separator=separator,
                label_names=label_names,
                labels=labels,
                delimiter=delimiter,
                quotes=not no_quotes,
                pair=None if pair_column is None else as_column(pair_column),
                regression=regression,
            )
        docs = list(corpus.docs(spacy.blank(lang)))
        if not docs:
            raise ValueError(f"There are no annotated documents in {source}.")
        DocBin(docs=docs, store_user_data=True).to_disk(output)
        msg.good(f"Wrote {output}: {len(docs):,} documents, {sum(map(len, docs)):,} tokens.")
        for title, counts in (
            ("Labels", Counter() if regression else count_labels(docs)),
            ("Questions", count_questions(docs)),
            ("Left unannotated", corpus.left_out),
            ("Rows skipped", corpus.skipped),
        ):
            if counts:
                shown = ", ".join(f"{name} {n:,}" for name, n in counts.most_common())
                msg.text(f"{title}: {shown}")


@albert_cli.command("calibrate")
def calibrate_cli(
    pipeline: str = typer.Argument(
        ..., metavar="PIPELINE", help="A folder, or the name of an embedded or installed pipeline."
    ),
    dev: Path = typer.Argument(
        ...,
        metavar="DEV",
        help="Annotated documents that training has not seen: a .spacy file, or a folder of them.",
    ),
    output: Optional[Path] = typer.Option(
        None, "--output", "-o", help="The folder to write the calibrated pipeline to."
    ),
    in_place: bool = typer.Option(
        False, "--in-place", help="Calibrate PIPELINE itself, which must be a folder."
    ),
    test: list[Path] = typer.Option(
        [],
        "--test",
        "-t",
        help="Further annotated documents, only to measure on (may be given several times).",
    ),
    components: list[str] = typer.Option(
        [],
        "--component",
        "-c",
        help="A component to calibrate (may be given several times). Default: all that can be.",
    ),
    plot: Optional[Path] = typer.Option(
        None, "--plot", help="A picture to draw reliability diagrams in, such as scores.png."
    ),
    metrics: Optional[Path] = typer.Option(
        None, "--metrics", help="A JSON file to write the figures of the table to."
    ),
    code: Optional[Path] = typer.Option(
        None, "--code", help="Python file that registers components of your own."
    ),
    force: bool = typer.Option(
        False, "--force", "-F", help="Write over what exists of the output and the files."
    ),
) -> None:
    """Make scores mean what they say: of the entities that score 0.8, eight in ten are right.

    Learns for each component its temperature and, if it finds entities, its bias from annotated
    documents that training has not seen. What is found stays the same; its scores change. What is
    not annotated does not count. Without --output or --in-place it only measures. The table shows,
    before and after:

    n: the entities found, or the documents classified; where classes are not exclusive, each class
    of each document

    said, so: the mean score, and the share of what is so: the precision of entities, the accuracy
    of exclusive classes

    NLL: mean negative log likelihood of the annotation, which gets as low as it can on DEV

    ECE: expected calibration error, how far scores are from the share that is so, in 15 bins of
    equal width; and of equal mass

    by chance: the ECE that n answers have if their scores are exactly right

    Examples:

      python -m spacy albert calibrate ./model dev.spacy --output ./calibrated

      python -m spacy albert calibrate ./model dev.spacy --in-place --test test.spacy --plot ece.png
    """
    from wasabi import msg

    with clear_errors():
        where = pipeline_folder(pipeline)
        check_target(pipeline, where, output, in_place, force)
        for path in (plot, metrics):
            if path is not None:
                check_free(path, force)
        if plot is not None:
            from .reliability import draw  # fails now if there is no matplotlib
        import json
        import shutil

        import spacy

        from .calibration import calibrate, choose, figures

        if code is not None:
            spacy.util.import_file("python_code", code)
        nlp = spacy.load(where)
        chosen = choose(nlp, components or None)
        paths = [dev, *test]
        findings = calibrate(nlp, *(read_corpus(nlp, path) for path in paths), components=chosen)
        found: list[dict[str, Any]] = [
            {
                "component": name,
                "corpus": paths[corpus].stem,
                "before": figures(settings[0], outcomes[0]),
                "after": figures(settings[1], outcomes[1]),
            }
            for name, corpus, settings, outcomes in findings
        ]
        rows = [
            (row["component"], row["corpus"], *(cell(row[state].get(key)) for key in COLUMNS))
            for row in found
            for state in ("before", "after")
        ]
        aligns = [*"ll", *"r" * len(COLUMNS)]
        msg.table(rows, header=("", "", *COLUMNS.values()), divider=True, aligns=aligns)
        if metrics is not None:
            metrics.write_text(json.dumps(found, indent=2) + "\n", encoding="utf8")
        others = [name for name in nlp.pipe_names if name not in chosen]
        if others:
            msg.text(f"Without a change: {', '.join(others)}.")
        if output is not None:
            shutil.copytree(where, output, dirs_exist_ok=True)
        target = where if in_place else output
        if target is not None:
            for name in chosen:  # in nothing else it differs
                component = cast(Any, nlp.get_pipe(name))
                component.to_disk(target / name, exclude=["head", "encoder"])
            msg.good(f"Wrote {target}.")
        else:
            msg.warn("No pipeline was written: choose --output, or --in-place.")
        if plot is not None:
            draw(findings, [path.stem for path in paths], plot)
            msg.good(f"Drew {plot}.")


@albert_cli.command("evaluate")
def evaluate_cli(
    pipeline: str = typer.Argument(
        ..., metavar="PIPELINE", help="A folder, or the name of an embedded or installed pipeline."
    ),
    data: Path = typer.Argument(
        ..., metavar="DATA", help="A .spacy file, a folder of them, or SQuAD's JSON."
    ),
    output: Optional[Path] = typer.Option(
        None, "--output", "-o", help="A JSON file to write the scores to."
    ),
    code: Optional[Path] = typer.Option(
        None, "--code", help="Python file that registers components of your own."
    ),
    force: bool = typer.Option(False, "--force", "-F", help="Write over the output if it exists."),
) -> None:
    """Evaluate a pipeline that reads more than texts: pairs (doc._.pair), or questions.

    `spacy evaluate` forgets what documents are read together with; otherwise this is the same.

    Example:

      python -m spacy albert evaluate ./model dev.spacy
    """
    from wasabi import msg

    with clear_errors():
        where = pipeline_folder(pipeline)
        if output is not None:
            check_free(output, force)
        import spacy
        import srsly

        if code is not None:
            spacy.util.import_file("python_code", code)
        nlp = spacy.load(where)
        scores = nlp.evaluate(list(annotated(data)(nlp)))
        rows = [(key, f"{score:.4f}") for key, score in scores.items() if isinstance(score, float)]
        msg.table(rows, aligns=("l", "r"))
        if output is not None:
            srsly.write_json(output, scores)
            msg.good(f"Wrote {output}.")


@albert_cli.command("find-threshold")
def find_threshold_cli(
    pipeline: str = typer.Argument(
        ..., metavar="PIPELINE", help="A folder, or the name of an embedded or installed pipeline."
    ),
    dev: Path = typer.Argument(
        ...,
        metavar="DEV",
        help="Annotated questions that training has not seen: SQuAD's JSON, or a .spacy file.",
    ),
    output: Optional[Path] = typer.Option(
        None, "--output", "-o", help="The folder to write the pipeline with its threshold to."
    ),
    in_place: bool = typer.Option(
        False, "--in-place", help="Set the threshold in PIPELINE itself, which must be a folder."
    ),
    component: Optional[str] = typer.Option(
        None, "--component", "-c", help="The albert_qa component, if there are several."
    ),
    code: Optional[Path] = typer.Option(
        None, "--code", help="Python file that registers components of your own."
    ),
    force: bool = typer.Option(False, "--force", "-F", help="Write over the output if it exists."),
) -> None:
    """Find out how much must speak against an answer for a question to stay unanswered.

    Answers the questions of DEV and finds the null threshold of the albert_qa component with the
    best F1, as SQuAD's official script does. Without --output or --in-place it only measures.

    Examples:

      python -m spacy albert find-threshold ./model dev-v2.0.json.gz --output ./tuned

      python -m spacy albert find-threshold ./model dev.spacy --in-place
    """
    from wasabi import msg

    with clear_errors():
        where = pipeline_folder(pipeline)
        check_target(pipeline, where, output, in_place, force)
        import shutil

        import spacy

        from .components.qa import AlbertQA
        from .squad import find_threshold

        if code is not None:
            spacy.util.import_file("python_code", code)
        nlp = spacy.load(where)
        names = [name for name, pipe in nlp.pipeline if isinstance(pipe, AlbertQA)]
        if component is None and len(names) == 1:
            (component,) = names
        if component not in names:
            raise ValueError(
                f"Choose an albert_qa component with --component: {', '.join(names)}."
                if names
                else f"{pipeline} has no albert_qa component."
            )
        qa = cast(AlbertQA, nlp.get_pipe(component))
        with nlp.select_pipes(disable=[name for name in names if name != component]):
            tuned = find_threshold(qa, nlp, annotated(dev)(nlp))
        rows = [
            (key, cell(tuned.before[key]), cell(tuned.after[key]))
            for key in tuned.before
            if tuned.before[key] is not None
        ]
        msg.table(rows, header=("", "before", "after"), divider=True, aligns=("l", "r", "r"))
        msg.text(f"Null threshold of {component!r}: {tuned.threshold:.4f}.")
        if output is not None:
            shutil.copytree(where, output, dirs_exist_ok=True)
        target = where if in_place else output
        if target is not None:
            qa.to_disk(target / component, exclude=["head", "encoder"])
            msg.good(f"Wrote {target}.")
        else:
            msg.warn("No pipeline was written: choose --output, or --in-place.")


@albert_cli.command("shrink")
def shrink_cli(
    pipeline: str = typer.Argument(
        ..., metavar="PIPELINE", help="A folder, or the name of an embedded or installed pipeline."
    ),
    output: Path = typer.Argument(..., metavar="OUT", help="The folder to write."),
    force: bool = typer.Option(False, "--force", "-F", help="Write over OUT if it exists."),
) -> None:
    """
    Write a pipeline with its weights in half precision, half as large.

    It is loaded, computes and trains as before. Weights lose what half precision has no digits
    for, the fourth and later ones: `spacy evaluate` tells whether that costs anything.
    """
    from wasabi import msg

    with clear_errors():
        source = pipeline_folder(pipeline)
        if output.resolve() == source.resolve():
            raise ValueError(f"{output} is the pipeline itself: choose another folder.")
        check_free(output, force)
        from .shrink import shrink

        before, after = shrink(source, output)
        msg.good(f"Wrote {output}: weights of {after / 1e6:.1f} MB instead of {before / 1e6:.1f}.")
