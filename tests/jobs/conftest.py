from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from spacy.training import Example
from spacy.util import fix_random_seed
from tables import CODE, ruler, texts, write

from spacy_albert_jobs import run
from spacy_albert_jobs.annotator import import_code
from spacy_albert_jobs.worker import Worker


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that finds Obama and Paris."""
    folder = tmp_path_factory.mktemp("pipelines") / "ruler"
    ruler().to_disk(folder)
    return folder


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that finds entities and tells good from bad."""
    fix_random_seed(0)
    nlp = ruler()
    component = nlp.add_pipe("textcat")
    examples = [
        Example.from_dict(nlp.make_doc(text), {"cats": {"GOOD": good, "BAD": 1 - good}})
        for text, good in [("a good day in Paris", 1.0), ("a bad day for Obama", 0.0)]
    ]
    component.initialize(lambda: examples, nlp=nlp)
    optimizer = component.create_optimizer()
    for _ in range(10):
        component.update(examples, sgd=optimizer)
    folder = tmp_path_factory.mktemp("pipelines") / "classifier"
    nlp.to_disk(folder)
    return folder


@pytest.fixture(scope="session")
def stumbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first pipeline, with a component in it that goes wrong at the word of a text."""
    import_code(str(CODE))
    nlp = ruler()
    nlp.add_pipe("stumble", first=True)
    folder = tmp_path_factory.mktemp("pipelines") / "stumbler"
    nlp.to_disk(folder)
    return folder


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run jobs without Ray. Returns the names of the shards that are worked at."""
    worked: list[str] = []

    def run_shards(work, job, resources, show, tell) -> Iterator[tuple[str, str | None]]:
        if not work:
            return
        worker = Worker(job)
        for shard, attempt in work:
            worked.append(shard.name)
            try:
                worker.annotate(shard, attempt)
            except Exception as error:
                yield shard.name, f"{type(error).__name__}: {error}"
            else:
                yield shard.name, None

    monkeypatch.setattr(run, "run_shards", run_shards)
    return worked


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Five files, one of them in a folder and one without rows, with row groups of many sizes."""
    folder = tmp_path / "input"
    first = 0
    for name, rows, group in (
        ("a.parquet", 40, 7),
        ("b.parquet", 1, 1),
        ("c/d.parquet", 300, 300),
        ("e.parquet", 0, 1),
        ("f.parquet", 90, 1),
    ):
        table = pa.table(
            {
                "id": pa.array(range(first, first + rows), pa.int64()),
                "text": pa.array(texts(first, first + rows), pa.string()),
            }
        )
        write(folder / name, table, group)
        first += rows
    return folder
