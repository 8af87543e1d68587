"""Research outside its own process: the same tables to the last bit, wherever each step was computed.

A real Redis and real workers. The queue has a password, which must not be found in anything that a run leaves.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from tests.e2e.conftest import BIN, ROOT, command, environment, ledger_contents, table_contents

BEFORE, FIRST, LAST = "2022-12-23", "2022-12-27", "2022-12-28"
PASSWORD = "never-stored-7c1f"
NO_QUEUE = "redis://127.0.0.1:9/0"
STAGES = {
    "bars", "corporate_actions", "phasing", "harmonics", "regime", "volatility", "condition", "forecast", "allocation",
    "signals",
}  # fmt: skip

RESEARCH = (
    "dagster", "job", "execute", "-m", "trading_dagster.definitions", "-j", "research_backfill",
    "--tags", json.dumps({"dagster/asset_partition_range_start": FIRST, "dagster/asset_partition_range_end": LAST}),
)  # fmt: skip


@dataclass(frozen=True)
class Events:
    """What the event log says of the newest run of a job."""

    status: dg.DagsterRunStatus
    own_process: set[int]
    step_processes: dict[str, set[int]]
    messages: list[str]


def events(data: Path, job: str) -> Events:
    with dg.DagsterInstance.from_config(str(data / "dagster")) as instance:
        record = instance.get_runs(dg.RunsFilter(job_name=job), limit=1)[0]
        logged = [each.dagster_event for each in instance.all_logs(record.run_id) if each.dagster_event]
    steps: dict[str, set[int]] = {}
    for event in logged:
        if event.event_type_value == "STEP_START":
            steps.setdefault(str(event.step_key), set()).add(event.pid)
    own = {event.pid for event in logged if event.event_type is dg.DagsterEventType.RUN_START}
    return Events(record.status, own, steps, [str(event.message) for event in logged])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session and its month's model, by a command that must not need the queue which the jobs of research have."""
    data = tmp_path_factory.mktemp("executors") / "trained"
    result = command(
        "trading", "run", "--session", BEFORE, data=data, TRADING_EXECUTOR="celery", TRADING_CELERY_BROKER=NO_QUEUE
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return data


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(trained, tmp_path / name))

    return copy


@pytest.fixture(scope="module")
def in_one_process(trained: Path) -> tuple[dict[str, pd.DataFrame], dict[str, list[tuple[object, ...]]]]:
    """Tables and ledger of the research that never left its process."""
    data = Path(shutil.copytree(trained, trained.parent / "in_one_process"))
    result = command(*RESEARCH, data=data)
    assert result.returncode == 0, result.stderr[-4000:]
    found = events(data, "research_backfill")
    assert set(found.step_processes) == STAGES
    assert set.union(*found.step_processes.values()) == found.own_process
    return table_contents(data), ledger_contents(data)


def assert_same(data: Path, expected: tuple[dict[str, pd.DataFrame], dict[str, list[tuple[object, ...]]]]) -> None:
    tables = table_contents(data)
    assert tables.keys() == expected[0].keys()
    for name, rows in tables.items():
        pd.testing.assert_frame_equal(rows, expected[0][name], check_exact=True, obj=name)
    assert ledger_contents(data) == expected[1]


def test_trading_run_stays_in_its_process(trained: Path) -> None:
    for job in ("training", "daily"):
        found = events(trained, job)
        assert found.status is dg.DagsterRunStatus.SUCCESS
        assert set.union(*found.step_processes.values()) == found.own_process


def test_a_process_a_step_gives_the_same_tables(copied: Callable[[str], Path], in_one_process: tuple) -> None:
    data = copied("multiprocess")
    result = command(*RESEARCH, data=data, TRADING_EXECUTOR="multiprocess")
    assert result.returncode == 0, result.stderr[-4000:]
    found = events(data, "research_backfill")
    assert set(found.step_processes) == STAGES
    assert len(set.union(*found.step_processes.values()) - found.own_process) == len(STAGES)
    assert_same(data, in_one_process)


# -- workers ----------------------------------------------------------------------------------------------------


@contextmanager
def running(*words: str, log: Path, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a group of its own, which is ended whole."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment(log.parent, **extra), stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.fixture
def queue(tmp_path: Path, free_port: int) -> Iterator[str]:
    """URL of a Redis server of this test's own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("redis-server is not on PATH; it comes with Debian's package of that name")
    options = ("--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path), "--requirepass", PASSWORD)
    with running(program, "--port", str(free_port), *options, log=tmp_path / "redis.log"):
        wait_for(lambda: "Ready to accept" in (tmp_path / "redis.log").read_text(), "Redis did not start")
        yield f"redis://:{PASSWORD}@127.0.0.1:{free_port}/0"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def worker(data: Path, queue: str, name: str, app: str = "trading_dagster.celery_worker", **extra: str) -> Iterator:
    """A worker as a deployment starts it."""
    log = data.parent / f"{name}.log"
    words = ("--app", app, "worker", "--loglevel", "info", "--concurrency", "2", "--hostname", f"{name}@%h")
    with running(
        str(BIN / "celery"), *words, log=log,
        TRADING_CELERY_BROKER=queue, TRADING_DATA_DIR=str(data), DAGSTER_HOME=str(data / "dagster"), **extra,
    ) as process:  # fmt: skip
        wait_for(lambda: " ready." in log.read_text(), f"{name} did not start: see {log}")
        yield process


def test_workers_give_the_same_tables(
    copied: Callable[[str], Path], in_one_process: tuple, queue: str, tmp_path: Path
) -> None:
    data = copied("celery")
    with worker(data, queue, "first"):
        result = command(*RESEARCH, data=data, TRADING_EXECUTOR="celery", TRADING_CELERY_BROKER=queue)
    assert result.returncode == 0, result.stderr[-4000:]
    found = events(data, "research_backfill")
    assert set(found.step_processes) == STAGES
    for stage in STAGES:
        assert found.step_processes[stage].isdisjoint(found.own_process), stage
        assert f"[CeleryExecutor] Executing steps {stage} in celery worker" in found.messages
    log = (tmp_path / "first.log").read_text()
    assert log.count("succeeded in") == len(STAGES)
    assert_same(data, in_one_process)
    files = (path for path in tmp_path.rglob("*") if path.is_file())
    left = [result.stdout.encode(), result.stderr.encode(), *(path.read_bytes() for path in files)]
    assert not any(PASSWORD.encode() in text for text in left)


def test_another_worker_takes_over_from_one_that_was_killed(
    copied: Callable[[str], Path], in_one_process: tuple, queue: str, tmp_path: Path
) -> None:
    data = copied("killed")
    # the same worker, which takes another for lost after seconds instead of an hour
    (tmp_path / "impatient.py").write_text(
        "from trading_dagster.celery_worker import app\n"
        "options = app.conf.broker_transport_options\n"
        "app.conf.broker_transport_options = {**options, 'visibility_timeout': 3}\n"
    )
    chosen = {"TRADING_EXECUTOR": "celery", "TRADING_CELERY_BROKER": queue}
    home = {"TRADING_DATA_DIR": str(data), "DAGSTER_HOME": str(data / "dagster")}
    with (
        worker(data, queue, "first") as first,
        running(str(BIN / RESEARCH[0]), *RESEARCH[1:], log=tmp_path / "run.log", **chosen, **home) as run,
    ):
        # the log of the worker's two processes: the step has begun, and loads what it checks the bars with
        wait_for(lambda: "bars - STEP_START" in (tmp_path / "first.log").read_text(), "no step began")
        os.killpg(first.pid, signal.SIGKILL)
        with worker(data, queue, "second", app="impatient", PYTHONPATH=str(tmp_path)):
            run.wait(300)
    assert run.returncode == 0, (tmp_path / "run.log").read_text()[-4000:]
    found = events(data, "research_backfill")
    assert found.status is dg.DagsterRunStatus.SUCCESS
    assert len(found.step_processes["bars"]) == 2
    assert_same(data, in_one_process)
