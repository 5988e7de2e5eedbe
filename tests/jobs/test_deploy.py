"""What is said about clusters fits the code: image, manifest, script and page."""

import configparser
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from spacy_albert_jobs.cli import albert_cli
from spacy_albert_jobs.metrics import COUNTERS, GAUGES

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "jobs" / "deploy"
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf8")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf8")


@pytest.fixture(scope="module")
def job() -> dict:
    return yaml.safe_load((DEPLOY / "rayjob.yaml").read_text(encoding="utf8"))


@pytest.fixture(scope="module")
def groups(job) -> dict[str, dict]:
    cluster = job["spec"]["rayClusterSpec"]
    workers = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"], **workers}


def pinned_version(package: str) -> str:
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf8")
    (version,) = re.findall(rf"^{package}==([^\s;]+)", pinned, re.M)
    return version


def container(group: dict) -> dict:
    (only,) = group["template"]["spec"]["containers"]
    return only


def test_the_manifest_runs_a_command_that_there_is(job, groups):
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:5] == ["python", "-m", "spacy", "albert", "annotate"]
    command = typer.main.get_command(albert_cli).commands["annotate"]
    with command.make_context("annotate", words[5:]) as context:
        workers = context.params["workers"]
    cpus = int(container(groups["cpu"])["resources"]["requests"]["cpu"])
    assert workers == groups["cpu"]["maxReplicas"] * cpus


def test_the_manifest_fits_itself(job, groups):
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert spec["rayClusterSpec"]["rayVersion"] == pinned_version("ray")
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    assert groups["head"]["rayStartParams"]["num-cpus"] == "0"
    assert groups.keys() == {"head", "cpu", "gpu"}
    for name, group in groups.items():
        pod = container(group)
        assert pod["image"] == "REGISTRY/spacy-albert"
        assert pod["envFrom"] == [{"secretRef": {"name": "annotate-s3"}}]
        assert pod["resources"]["requests"] == pod["resources"]["limits"]
        user = group["template"]["spec"]["securityContext"]["runAsUser"]
        assert f"--uid {user} " in DOCKERFILE
        assert f"USER {user}\n" in DOCKERFILE
        if name != "head":
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert "nvidia.com/gpu" in container(groups["gpu"])["resources"]["limits"]
    assert "nvidia.com/gpu" not in container(groups["cpu"])["resources"]["limits"]


def test_the_image_is_made_of_what_there_is():
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)) == {"python:3.11-slim"}
    copied = [
        name for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.M) for name in line.split()
    ]
    bound = re.findall(r"type=bind,source=(\S+?),", DOCKERFILE)
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf8").splitlines()
    for name in {*copied, *bound}:
        assert (ROOT / name).exists()
        assert f"!{name}" in allowed
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (extras,) = re.findall(r"\$\{wheel\}\[(.*?)\]", DOCKERFILE)
    assert set(extras.split(",")) <= set(setup["options.extras_require"])
    packages = setup["options"]["packages"].split()
    folders = {package.split(".")[0].removeprefix("spacy_albert_") for package in packages}
    assert folders <= set(copied)
    assert {setup["metadata"]["license_files"], "pyproject.toml", "setup.cfg", "README.md"} <= set(
        copied
    )


FAKE_RAY = """#!/usr/bin/env bash
echo "$@" >>calls
case "$2" in
    submit) exit $(($(grep -c submit calls) < ENDS)) ;;
    status)
        echo "Job server: $RAY_API_SERVER_ADDRESS"
        if [ "$(grep -c submit calls)" -ge "$ENDS" ]; then
            echo "Job '$3' $LAST"
        else
            echo "Job '$3' failed"
        fi ;;
esac
"""


@pytest.mark.parametrize(
    ("ends", "last", "tries", "code"),
    [
        (1, "succeeded", 1, 0),
        (2, "succeeded", 2, 0),
        (9, "succeeded", 3, 1),
        (1, "was stopped", 1, 1),
        (1, "has not exited yet", 1, 1),
    ],
)
def test_submitting(tmp_path, ends, last, tries, code):
    (tmp_path / "ray").write_text(FAKE_RAY)
    (tmp_path / "ray").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RAY_API_SERVER_ADDRESS": "http://head:8265",
        "ENDS": str(ends),
        "LAST": last,
    }
    command = [DEPLOY / "submit.sh", "model", "s3://in/a b", "out", "--keep", "id"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == code, run.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    submitted = [call for call in calls if call.startswith("job submit")]
    assert len(submitted) == tries
    assert len({call.split()[3] for call in submitted}) == tries  # an id is used once
    assert all(
        call.endswith("-- python -m spacy albert annotate model s3://in/a b out --keep id")
        for call in submitted
    )


def test_submitting_nowhere(tmp_path):
    run = subprocess.run(
        [DEPLOY / "submit.sh", "in", "out"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "RAY_API_SERVER_ADDRESS: must be the address of the dashboard" in run.stderr


def test_the_page_names_the_metrics_that_there_are():
    named = {name.removesuffix("_total") for name in re.findall(r"ray_spacy_albert_(\w+)", PAGE)}
    assert named == {*COUNTERS, *GAUGES, "batch_seconds"}


def test_the_page_links_to_what_there_is():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", PAGE):
        path, _, heading = target.partition("#")
        page = ROOT / "docs" / path
        assert page.exists(), target
        titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf8"), re.M)
        assert not heading or heading in {t.lower().replace(" ", "-") for t in titles}, target


OF_OTHERS = """
    --build-arg --dashboard-host --env --follow --from-literal --glob --gpus --head
    --metrics-export-port --port --rm --shm-size --user --watch
""".split()  # noqa: SIM905


def test_the_page_names_the_options_that_there_are():
    command = typer.main.get_command(albert_cli).commands["annotate"]
    options = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert named - options == set(OF_OTHERS)
