"""The commands of the README, as a user gives them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.e2e.conftest import BIN, ROOT, command, environment

MODULE = {"DAGSTER_MODULE_NAME": "trading_dagster.definitions"}
SESSION = "2022-12-28"
FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    result = command("trading", "run", "--from", "2022-12-21", "--to", "2022-12-27", data=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def run_statuses(data: Path, job: str) -> list[dg.DagsterRunStatus]:
    with dg.DagsterInstance.from_config(str(data / "dagster")) as instance:
        return [run.status for run in instance.get_runs(dg.RunsFilter(job_name=job))]


def test_definitions_validate(data: Path) -> None:
    result = command("dagster", "definitions", "validate", data=data)
    assert result.returncode == 0, result.stderr
    assert "All code locations passed validation" in result.stdout + result.stderr


def test_one_session_and_its_summary(data: Path) -> None:
    result = command("trading", "run", "--session", SESSION, data=data)
    assert result.returncode == 0, result.stdout + result.stderr
    for words in ("Session 2022-12-28", "market regime", "equity", "buy and hold", "Signals", "checks", "Next:"):
        assert words in result.stdout
    again = command("trading", "summary", "--session", SESSION, data=data)
    assert again.returncode == 0
    assert again.stdout.splitlines()[1] in result.stdout


def test_dagster_materialises_a_partition_and_a_range(data: Path) -> None:
    one = command(
        "dagster", "asset", "materialize", "--select", "tag:cadence=daily", "--partition", SESSION, data=data, **MODULE
    )
    assert one.returncode == 0, one.stderr[-2000:]
    span = command(
        "dagster", "asset", "materialize", "--select", "tag:cadence=daily",
        "--partition-range", f"2022-12-23...{SESSION}", data=data, **MODULE,
    )  # fmt: skip
    assert span.returncode == 0, span.stderr[-2000:]
    month = command(
        "dagster", "asset", "materialize", "--select", "tag:cadence=monthly", "--partition", "2022-12-01",
        data=data, **MODULE,
    )  # fmt: skip
    assert month.returncode == 0, month.stderr[-2000:]


@pytest.fixture
def ui(data: Path, unused_port: int) -> Iterator[str]:
    """Serve the UI with its daemon, as `make ui` does."""
    process = subprocess.Popen(
        [str(BIN / "trading"), "ui", "--port", str(unused_port)],
        env=environment(data),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{unused_port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=2).read()
            break
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
    yield address
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        # Dagster waits for its servers one after the other, which a loaded machine can make long
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def graphql(address: str, query: str) -> dict:
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    return json.loads(urllib.request.urlopen(request, timeout=60).read())["data"]


def test_the_ui_shows_the_graph_and_runs_a_backfill(data: Path, ui: str) -> None:
    nodes = graphql(
        ui,
        "{assetNodes{assetKey{path} groupName description hasAssetChecks assetMaterializations(limit:1)"
        "{metadataEntries{label ... on MarkdownMetadataEntry{mdStr}}}}}",
    )["assetNodes"]
    by_name = {node["assetKey"]["path"][0]: node for node in nodes}
    assert len(by_name) == 14
    assert all(node["hasAssetChecks"] and node["description"] for node in nodes)
    entries = {e["label"]: e for e in by_name["phasing"]["assetMaterializations"][0]["metadataEntries"]}
    assert entries["picture"]["mdStr"].startswith("![picture](data:image/png;base64,")

    result = command(
        "dagster", "job", "backfill", "--job", "research_backfill",
        "--from", "2022-12-21", "--to", "2022-12-22", "--noprompt", data=data,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    deadline = time.monotonic() + 240
    while not (statuses := run_statuses(data, "research_backfill")) or not FINISHED.issuperset(statuses):
        assert time.monotonic() < deadline, statuses
        time.sleep(1)
    assert statuses == [dg.DagsterRunStatus.SUCCESS] * 2


@pytest.mark.parametrize(
    ("words", "extra", "message"),
    [
        (("run", "--session", "2022-12-26"), {}, "2022-12-26 (Monday) is not a session of XNYS"),
        (("run", "--session", "yesterday-ish"), {}, "is not a date"),
        (("run", "--from", "2022-12-28", "--to", "2022-12-27"), {}, "is empty"),
        (("run",), {}, "give either --session D, or both --from A and --to B"),
        (("run", "--session", SESSION), {"TRADING_POLCY": "abort"}, "did you mean TRADING_POLICY?"),
        (("run", "--session", SESSION), {"TRADING_SOURCE": "bloomberg"}, "TRADING_SOURCE"),
        (("run", "--session", SESSION), {"TRADING_CALENDAR": "NYSEX"}, "exchange_calendars does not know"),
        (("summary", "--session", "2019-01-02"), {}, "has no result yet"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(
    data: Path, words: tuple[str, ...], extra: dict[str, str], message: str
) -> None:
    result = command("trading", *words, data=data, **extra)
    assert result.returncode == 2
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr


def test_a_failed_run_exits_with_one_and_says_why(tmp_path: Path) -> None:
    result = command("trading", "run", "--session", SESSION, data=tmp_path, TRADING_UNIVERSE="KO,NOPE")
    assert result.returncode == 1
    assert "NOPE has no answer from the source" in result.stderr
    assert "the sample has no such symbol" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
