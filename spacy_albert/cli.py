"""`python -m spacy albert ...`: the commands of the plugin.

spaCy imports this module for every command of its own, so what a command needs is imported when it
runs.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Optional

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


class CorpusTask(str, Enum):
    auto = "auto"
    ner = "ner"
    textcat = "textcat"


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
        help="What the checkpoint's head does. auto: as config.json says.",
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

    Encoders, token classifiers (labels in BIO, BIOES, BILOU or IO) and sequence classifiers (single
    or multi-label) are converted with their weights, vocabulary and labels, in safetensors or
    PyTorch's format. The result needs neither the network nor the transformers library.

    Google's directories (albert_config.json, model.ckpt-best.index and its data, 30k-clean.model)
    are read with TensorFlow, which must be installed for that and for nothing else. A classifier
    among their variables needs --task; its labels are numbered.

    Examples:

      python -m spacy albert convert ./albert-base-v2 ./encoder

      python -m spacy albert convert ./albert_base ./encoder

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
        help="The heads, with commas: ner, textcat, textcat_multilabel. They share one encoder.",
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
    train.spacy --paths.dev dev.spacy. The learning rate fits the width of the encoder.

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
        ..., metavar="INPUT", help="A CoNLL, CSV, TSV or Parquet file, or a pattern in quotes."
    ),
    output: Path = typer.Argument(..., metavar="OUT", help="The .spacy file to write."),
    task: CorpusTask = typer.Option(
        CorpusTask.auto,
        "--task",
        "-t",
        help="What INPUT is annotated for. auto: textcat for .csv, .tsv and .parquet, else ner.",
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
    the last column. Classes come from two columns of a CSV, TSV or Parquet file. A training config
    can also read such files as they are: spacy-albert.ConllCorpus.v1, spacy-albert.TableCorpus.v1.

    Examples:

      python -m spacy albert corpus wnut17train.conll train.spacy --label person=PER

      python -m spacy albert corpus banking.csv train.spacy --label-column category

      python -m spacy albert corpus goemotions.tsv train.spacy --text-column 0 --label-column 1
      --separator , --label-names labels.txt
    """
    from wasabi import msg

    with clear_errors():
        import spacy
        from spacy.tokens import DocBin

        from .corpora import ConllCorpus, FileCorpus, TableCorpus, as_column, count_labels

        if output.suffix != ".spacy":
            raise ValueError(f"{output} must end in .spacy, or spaCy's own reader passes it over.")
        check_free(output, force)
        pairs = (name.partition("=") for name in label)
        labels = {name: new or name for name, _, new in pairs} or None
        is_table = Path(source).suffix in (".csv", ".tsv", ".parquet")
        corpus: FileCorpus
        if task is CorpusTask.ner or (task is CorpusTask.auto and not is_table):
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
            )
        docs = list(corpus.docs(spacy.blank(lang)))
        if not docs:
            raise ValueError(f"There are no annotated documents in {source}.")
        DocBin(docs=docs).to_disk(output)
        msg.good(f"Wrote {output}: {len(docs):,} documents, {sum(map(len, docs)):,} tokens.")
        for title, counts in (
            ("Labels", count_labels(docs)),
            ("Left unannotated", corpus.left_out),
            ("Rows skipped", corpus.skipped),
        ):
            if counts:
                shown = ", ".join(f"{name} {n:,}" for name, n in counts.most_common())
                msg.text(f"{title}: {shown}")
