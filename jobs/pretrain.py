"""Pre-train an ALBERT on a Parquet collection, on Ray Train.

All that a run needs to go on is in its folder: the corpus, the checkpoints and the figures of every
step. Each worker looks there by itself, so it does not matter who died.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.table import Table
from thinc.api import Config

from spacy_albert.checkpoints import load_checkpoint
from spacy_albert.engine import choose_for_training
from spacy_albert.locate import find_encoder
from spacy_albert.modeling import AlbertConfig
from spacy_albert.pretraining import checkpoints
from spacy_albert.pretraining.corpus import Corpus
from spacy_albert.pretraining.objectives import PreTraining, begin_as_sinusoids
from spacy_albert.pretraining.settings import Settings, read_shape
from spacy_albert.pretraining.trainer import Trainer
from spacy_albert.tokenization import SentencePieceTokenizer, Tokenizer, load_tokenizer
from spacy_albert_pipelines import resolve

from .claim import Claim
from .errors import JobError
from .inputs import read_footers, select
from .journal import LATELY, Journal, Watch, mean, plot, read
from .pool import Resources, connected, cpu_count, interruptible, last_line, refuse_silence
from .prepare import prepare
from .progress import Terminal, clock, counting
from .storage import Folder

#: What is in the folder of a run.
VOCABULARY, CORPUS, CHECKPOINTS, MODEL = "vocabulary", "corpus", "checkpoints", "model"
RUN, METRICS, PLOT, RAY = "run.json", "metrics.jsonl", "losses.png", "ray"
OURS = (VOCABULARY, CORPUS, CHECKPOINTS, MODEL, RUN, METRICS, PLOT, RAY)
#: How often Ray begins anew with what a dead worker has left.
RETRIES = 3
FIGURES = ("mlm_loss", "mlm_accuracy", "sop_loss", "sop_accuracy")


class Run(NamedTuple):
    """What the workers must know.

    folder (Path): The folder of the run.
    shape (dict): The shape of the model.
    settings (Settings): The settings.
    corpus (list[Path]): The shards of the corpus.
    init_from (Path | None): The checkpoint that the run begins with.
    on_gpu (bool): Whether each worker has a GPU.
    threads (int): The threads of each worker.
    """

    folder: Path
    shape: dict[str, Any]
    settings: Settings
    corpus: list[Path]
    init_from: Path | None
    on_gpu: bool
    threads: int


def pretrain(
    input: str | Path,
    output: str | Path,
    config: Config,
    *,
    vocabulary: str | Path | None = None,
    init_from: str | Path | None = None,
    corpus: Path | None = None,
    workers: int = 1,
    cpus_per_worker: int | None = None,
    gpus: bool | None = None,
    address: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Pre-train an ALBERT. A run that was broken off goes on where its last checkpoint is, by
    calling this again with the same arguments.

    input (str | Path): A Parquet file, a folder or a glob of them; a document is a row.
    output (str | Path): The folder of the run, which all machines see under this path.
    config (Config): The sections [model], [data] and [training].
    vocabulary (str | Path | None): A spiece.model file, or a directory that has one.
    init_from (str | Path | None): A checkpoint to begin with: a Hugging Face directory, a pipeline
        or an embedded one. Its shape and vocabulary are taken, too.
    corpus (Path | None): The folder for the texts divided into pieces, which runs over the same
        texts with the same vocabulary can share; None for one in the run's own.
    workers (int): How many processes train together.
    cpus_per_worker (int | None): The CPUs, and so the threads, of each; None for a share of this
        machine.
    gpus (bool | None): Whether each worker has a GPU; None if there are any.
    address (str | None): A Ray cluster. Without it and RAY_ADDRESS the job starts its own Ray.
    overwrite (bool): Remove what an earlier run has left in the folder.
    quiet (bool): Show no progress.
    RETURNS (Path): The directory of the trained model, as `AlbertForPreTraining`.
    RAISES (JobError): If something is wrong with what was asked for, or the run failed.
    """
    folder = Path(output)
    if "://" in str(output):
        raise JobError(
            f"{output} is no folder: checkpoints are made in steps that need a filesystem. Name a "
            "path that all machines see."
        )
    if find_spec("matplotlib") is None:  # better now than after days
        raise JobError(
            "The curve needs matplotlib, which is not installed: pip install "
            "'spacy-albert[pretrain]'"
        )
    if workers < 1 or (cpus_per_worker or 1) < 1:
        raise JobError("A run needs at least one worker, and each at least one CPU.")
    refuse_silence(Resources(address=address))
    console = Terminal(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    with Claim(Folder.at(folder), console.print) as claim:
        try:
            model, data, settings = read_config(config)
            tokenizer, shape, start = begin_with(model, vocabulary, init_from)
            refuse_misfits(settings, shape, workers)
        except (ValueError, OSError) as error:
            raise JobError(str(error)) from error
        selection = select(input)
        files, bad = read_footers(selection, data["text_column"])
        if bad or not files:
            reasons = "\n".join(f"  {file.path} {file.reason}" for file in bad[:10])
            raise JobError(
                f"{len(bad)} of {len(selection.files)} files cannot be read:\n{reasons}\n"
                "Repair or remove them."
            )
        claim.take()
        identity = {
            "settings": asdict(settings),
            "model": shape.to_dict(),
            "data": data,
            "init_from": str(start) if start else None,
        }
        if overwrite:
            clear(folder)
        refuse_other_run(folder, identity)
        if (folder / CHECKPOINTS / checkpoints.name_of(settings.steps)).exists():
            console.print(f"Nothing to do: the run in {folder} has come to its end.")
            return finish(folder, settings, console)
        (folder / VOCABULARY).mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder / VOCABULARY)
        threads = cpus_per_worker or max(1, cpu_count() // workers)
        with connected(Resources(address=address, workers=workers, cpus=threads)):
            on_gpu = has_gpus() if gpus is None else gpus
            rows = sum(file.rows for file in files)
            console.print(f"{rows:,} rows in {len(files)} files are divided into pieces")
            with counting("shards divided into pieces", quiet) as show:
                found, counts = prepare(
                    selection,
                    files,
                    corpus or folder / CORPUS,
                    folder / VOCABULARY,
                    data["text_column"],
                    data["lang"],
                    workers * threads,
                    show,
                )
            console.print(", ".join(f"{number:,} {what}" for what, number in counts.items()))
            if not counts["pieces"]:
                raise JobError(f"{input} has no text to train on.")
            (folder / RUN).write_text(json.dumps({**identity, "corpus": counts}, indent=2) + "\n")
            paths = [path.resolve() for path in found.paths]
            run = Run(folder.resolve(), shape.to_dict(), settings, paths, start, on_gpu, threads)
            with Watch(folder / METRICS, settings, console), interruptible():
                train(run, workers)
        return finish(folder, settings, console)


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read a config file.

    path (str | Path): The file, or the name of one that ships.
    overrides (dict | None): Values to change: {"training.steps": 1000}.
    RETURNS (Config): The config.
    RAISES (JobError): If there is no such file, or it is no config.
    """
    where = path if Path(path).is_file() else resolve(str(path))
    if where is None or not Path(where).is_file():
        raise JobError(f"There is no config {path}. Those that ship: pretrain_small.cfg, ...")
    try:
        return Config().from_disk(where, overrides=overrides or {})
    except ValueError as error:
        raise JobError(f"{path} is no config of a pre-training: {error}") from error


def read_config(config: Config) -> tuple[dict[str, Any], dict[str, str], Settings]:
    """Read the sections of a config.

    config (Config): The config.
    RETURNS (tuple): [model], [data] and [training].
    RAISES (ValueError): A section, a setting or a value that there is not.
    """
    sections = {"model", "data", "training"}
    if unknown := sorted(config.keys() - sections):
        raise ValueError(
            f"The config has a section [{unknown[0]}]; pre-training has "
            f"{', '.join(f'[{name}]' for name in sorted(sections))}."
        )
    data = {"text_column": "text", "lang": "en", **config.get("data", {})}
    if unknown := sorted(data.keys() - {"text_column", "lang"}):
        raise ValueError(f"[data] has no {unknown[0]}. It has: lang, text_column.")
    training, known = config.get("training", {}), [setting.name for setting in fields(Settings)]
    if unknown := sorted(training.keys() - set(known)):
        raise ValueError(f"[training] has no {unknown[0]}. It has: {', '.join(known)}.")
    return dict(config.get("model", {})), data, Settings(**training)


def begin_with(
    model: Mapping[str, Any], vocabulary: str | Path | None, init_from: str | Path | None
) -> tuple[Tokenizer, AlbertConfig, Path | None]:
    """Find out with what a run begins.

    model (Mapping[str, Any]): The section [model].
    vocabulary (str | Path | None): A spiece.model file, or a directory that has one.
    init_from (str | Path | None): A checkpoint.
    RETURNS (tuple[Tokenizer, AlbertConfig, Path | None]): The vocabulary, the shape, and the
        directory of the checkpoint.
    RAISES (ValueError): If there is no vocabulary, or the checkpoint has another shape.
    """
    if init_from is None:
        if vocabulary is None:
            raise ValueError(
                "A new model needs a vocabulary: make one with `python -m spacy albert vocab`, and "
                "give it as --vocabulary. Or go on with a model that there is: --init-from."
            )
        path = Path(vocabulary)
        tokenizer = (
            SentencePieceTokenizer(path.read_bytes())
            if path.is_file()
            else load_tokenizer(path if path.is_dir() else find_encoder(vocabulary))
        )
        return tokenizer, read_shape(model, tokenizer.size), None
    if vocabulary is not None:
        raise ValueError("--init-from brings its vocabulary: leave out --vocabulary.")
    where = find_encoder(init_from).resolve()
    shape = load_checkpoint(where).config
    asked = read_shape(model, shape.vocab_size)
    free = {name for name in model if name.endswith("_prob") or name == "max_position_embeddings"}
    for name in sorted(model.keys() - free - {"size"}):
        if getattr(asked, name) != getattr(shape, name):
            raise ValueError(
                f"[model] says {name} = {getattr(asked, name)}, and {init_from} has "
                f"{getattr(shape, name)}: a run goes on with the shape that it begins with. Leave "
                f"{name} out."
            )
    return load_tokenizer(where), replace(shape, **{name: model[name] for name in free}), where


def refuse_misfits(settings: Settings, shape: AlbertConfig, workers: int) -> None:
    """See to it that settings fit the model and the workers.

    settings (Settings): The settings.
    shape (AlbertConfig): The shape of the model.
    workers (int): How many workers there are.
    RAISES (ValueError): If they do not.
    """
    if settings.length > shape.max_position_embeddings:
        raise ValueError(
            f"[training] length is {settings.length}, and the model has "
            f"{shape.max_position_embeddings} positions: lower it, or raise [model] "
            "max_position_embeddings."
        )
    if settings.batch < workers:
        raise ValueError(
            f"A batch of {settings.batch} sequences is too small for {workers} workers: raise "
            "[training] batch."
        )


def refuse_other_run(folder: Path, identity: dict[str, Any]) -> None:
    """See to it that a folder has no run, or this one.

    folder (Path): The folder.
    identity (dict): What decides the result of this run.
    RAISES (JobError): If it has another one.
    """
    if not (folder / RUN).exists():
        return
    before = json.loads((folder / RUN).read_text())
    different = [
        f"{section}.{name}: {was.get(name)!r} there, {now.get(name)!r} here"
        for section in ("settings", "model", "data")
        for was, now in [(before[section], identity[section])]
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    if before["init_from"] != identity["init_from"]:
        different.append(f"init_from: {before['init_from']} there, {identity['init_from']} here")
    if different:
        raise JobError(
            f"{folder} has a run that cannot go on in another way:\n  "
            + "\n  ".join(different)
            + f"\nName another folder, begin again with --overwrite, or begin another run with "
            f"--init-from and one of {folder / CHECKPOINTS}."
        )


def clear(folder: Path) -> None:
    """Remove what an earlier run has left, and nothing else.

    folder (Path): The folder.
    """
    for name in OURS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def has_gpus() -> bool:
    import ray

    return any(node["Resources"].get("GPU", 0) >= 1 for node in ray.nodes() if node["Alive"])


def train(run: Run, workers: int) -> None:
    """Train on Ray.

    run (Run): What the workers must know.
    workers (int): How many there are.
    RAISES (JobError): If they fail again and again.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    scaling = ScalingConfig(
        num_workers=workers,
        use_gpu=run.on_gpu,
        resources_per_worker={"CPU": run.threads, **({"GPU": 1} if run.on_gpu else {})},
    )
    trainer = TorchTrainer(
        work,
        train_loop_config={"run": run},
        scaling_config=scaling,
        run_config=RunConfig(
            name=RAY,
            storage_path=str(run.folder),
            failure_config=FailureConfig(max_failures=RETRIES),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray has a class for each kind, and they change
        raise JobError(
            f"The run failed: {last_line(str(error))}\nThe same command goes on where the last "
            "checkpoint is."
        ) from error


def work(config: dict[str, Any]) -> None:
    """Train, as one of the workers.

    config (dict): The run.
    """
    import ray.train
    import ray.train.torch

    run: Run = config["run"]
    settings = run.settings
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(run.threads)
    device = ray.train.torch.get_device() if run.on_gpu else torch.device("cpu")
    dtype = choose_for_training(str(device), settings.precision)
    tokenizer = load_tokenizer(run.folder / VOCABULARY)
    torch.manual_seed(settings.seed)
    shape = AlbertConfig.from_dict(run.shape)
    model = PreTraining(shape, dtype)
    if settings.embeddings != "random":
        begin_as_sinusoids(model.albert.embeddings)
    model.to(device)
    trainer = Trainer(model, tokenizer, Corpus(run.corpus), settings, rank, workers)
    folder = run.folder / CHECKPOINTS
    if earlier := checkpoints.found(folder):
        checkpoints.restore(trainer, earlier[-1])
    elif run.init_from:
        checkpoints.load_weights(model, load_checkpoint(run.init_from))
    elif settings.embeddings == "neighbours":
        trainer.begin_as_neighbours()
    journal = Journal(run.folder / METRICS, trainer.step) if rank == 0 else None
    for figures in trainer.steps():
        is_last = trainer.step == settings.steps
        if not math.isfinite(figures.loss):
            if journal:
                journal.fail(trainer.step, f"the loss is {figures.loss}")
            return
        held_out = None
        if is_last or trainer.step % settings.evaluate_every == 0:
            held_out = trainer.evaluate()
        if journal:
            journal.write(trainer.step, settings.rate_at(trainer.step), figures, held_out)
        if rank == 0 and (is_last or trainer.step % settings.save_every == 0):
            checkpoints.save(folder, trainer, tokenizer, settings.keep)
        if is_last or trainer.step % settings.save_every == 0:
            ray.train.report({"step": trainer.step, **asdict(figures)})


def finish(folder: Path, settings: Settings, console: Terminal) -> Path:
    """Put the trained model in its place, draw the curve, and say how it went.

    folder (Path): The folder of the run.
    settings (Settings): The settings.
    console (Terminal): Where to say it.
    RETURNS (Path): The directory of the model.
    RAISES (JobError): If the run has not come to its end.
    """
    entries = read(folder / METRICS)
    last = entries[-1] if entries else {}
    if "failure" in last:
        raise JobError(
            f"The run ended at step {last['step']:,}: {last['failure']}. Take a smaller "
            "[training] rate or a longer warm_up, and begin another run, with --init-from and a "
            f"checkpoint of {folder / CHECKPOINTS} if you like."
        )
    checkpoint = checkpoints.found(folder / CHECKPOINTS)[-1]
    model = folder / MODEL
    shutil.rmtree(model, ignore_errors=True)
    ignore = shutil.ignore_patterns(checkpoints.OPTIMIZER, checkpoints.STATE)
    shutil.copytree(checkpoint, model, ignore=ignore)
    plot(entries, folder / PLOT)
    looks = [entry["held_out"] for entry in entries if "held_out" in entry]
    found = {"the last steps": {key: mean(entries[-LATELY:], key) for key in FIGURES}}
    if looks:
        found["held out"] = {key: looks[-1][key] or math.nan for key in FIGURES}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("", "loss of pieces", "right", "loss of order", "right"):
        table.add_column(title, justify="left" if not title else "right")
    for name, figures in found.items():
        losses_and_rights = (
            f"{figures[key]:.3f}" if "loss" in key else f"{figures[key]:.1%}" for key in FIGURES
        )
        table.add_row(name, *losses_and_rights)
    console.print(table)
    pieces = sum(entry["pieces"] for entry in entries)
    seconds = entries[-1]["seconds"]
    console.print(
        f"{settings.steps:,} steps, {pieces:,} pieces, {clock(seconds)} "
        f"({pieces / seconds:,.0f} pieces/s)\nThe model is in {model}, the curve in "
        f"{folder / PLOT}"
    )
    return model
