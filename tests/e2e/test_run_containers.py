"""Old run containers are removed from a real engine, and nothing else is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from tests.e2e.conftest import BIN, ROOT, command, environment

pytestmark = pytest.mark.docker

IMAGE = os.environ.get("PYTHON_IMAGE", "python:3.11-slim-bookworm")
RUN_LABEL = "dagster/run_id"

Make = Callable[..., str]


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def label() -> str:
    """Tells the containers of one test from all others, at an engine that others use, too."""
    return f"trading/installation=test-{uuid.uuid4()}"


@pytest.fixture
def make(engine: docker.DockerClient, label: str) -> Iterator[Make]:
    """Make a container with the labels of a run of this installation, or with others."""
    made = []
    key, value = label.split("=")

    def build(what: str, *, run: bool = True, here: bool = True) -> str:
        labels = ({RUN_LABEL: str(uuid.uuid4())} if run else {}) | ({key: value} if here else {})
        words = ["true"] if what == "ended" else ["sleep", "600"]
        container = engine.containers.create(IMAGE, words, labels={**labels, "trading/test": "prune"})
        made.append(container)
        if what != "created":
            container.start()
        if what == "ended":
            container.wait(timeout=60)
        return str(container.name)

    yield build
    for container in made:
        try:
            container.remove(force=True)
        except docker.errors.NotFound:
            continue


def names(engine: docker.DockerClient) -> set[str]:
    return {str(each.name) for each in engine.containers.list(all=True, filters={"label": "trading/test=prune"})}


def test_old_runs_of_this_installation_go_and_nothing_else(
    engine: docker.DockerClient, make: Make, label: str, tmp_path: Path
) -> None:
    going = {make("ended"), make("created")}
    staying = {make("running"), make("ended", here=False), make("ended", run=False)}
    young = command("trading", "prune-containers", "--days", "1", "--label", label, data=tmp_path)
    assert (young.returncode, young.stdout.splitlines()[0]) == (0, "0 containers removed, 3 kept")
    assert going | staying <= names(engine)
    time.sleep(1)
    done = command("trading", "prune-containers", "--days", "0", "--label", label, "--json", data=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert ({each["name"] for each in told["removed"]}, told["kept"], told["problems"]) == (going, 1, [])
    assert names(engine) & (going | staying) == staying
    assert not (tmp_path / "dagster").exists()


def test_it_goes_on_until_it_is_stopped(engine: docker.DockerClient, make: Make, label: str, tmp_path: Path) -> None:
    first = make("ended")
    words = ["prune-containers", "--days", "0", "--every", "0.0003", "--label", label]
    process = subprocess.Popen(
        [str(BIN / "trading"), *words], env=environment(tmp_path), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        for name in (first, make("ended")):
            patience = time.monotonic() + 60
            while name in names(engine):
                assert time.monotonic() < patience, f"{name} was not removed"
                time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.communicate()


def test_engine_that_does_not_answer(tmp_path: Path) -> None:
    nobody = {"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}
    once = command("trading", "prune-containers", "--days", "1", data=tmp_path, **nobody)
    assert once.returncode == 1
    assert "error: the container engine does not answer" in once.stderr
    assert "Traceback" not in once.stderr
    process = subprocess.Popen(
        [str(BIN / "trading"), "prune-containers", "--days", "1", "--every", "0.0003"],
        env=environment(tmp_path, **nobody), cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        for _ in range(2):  # it is told, and asked again
            assert "does not answer" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "how many days are kept? give --days N, or set TRADING_RETENTION_DAYS"),
        (["--days", "-1"], "-1"),
        (["--days", "1", "--label", "trading/installation"], "is not KEY=VALUE"),
        (["--days", "1", "--every", "0"], "0"),
    ],
)
def test_wrong_use(words: list[str], message: str, tmp_path: Path) -> None:
    result = command("trading", "prune-containers", *words, data=tmp_path, DOCKER_HOST="unix:///nobody.sock")
    assert result.returncode == 2
    assert message in result.stderr
