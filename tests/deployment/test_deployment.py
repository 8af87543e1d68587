"""The life of an installation: inspected, ticking, hit, backfilled, trading, lost and restored. In this order."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.deployment.installation import (
    ENDED,
    LOGS,
    TERMINATE,
    Installation,
    docker,
    eventually,
    inspect,
)

SERVICES = ("postgres", "code", "webserver", "daemon", "housekeeper")
MONITORED = 20
"""Seconds between two looks of the daemon at the runs under way: `run_monitoring` in dagster.yaml."""


def orders(installation: Installation, session: str) -> list[str]:
    """Symbols with orders of a session, as the ledger has them."""
    return [
        row for row in installation.sql("trading", f"select symbol from orders where session = '{session}' order by 1")
    ]


# -- what was started -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_confined(installation: Installation, service: str) -> None:
    container = installation.container(service)
    check_confined(container)
    assert installation.healthy(service)
    process = docker("top", container["Id"], "-o", "uid,pid").split("\n")[1].split()
    assert process[0] not in ("0", "root")


def check_confined(container: dict[str, Any]) -> None:
    host = container["HostConfig"]
    assert container["Config"]["User"] in ("trading", "postgres")
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["Privileged"] is False
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    for bindings in (host["PortBindings"] or {}).values():
        assert [binding["HostIp"] for binding in bindings] == ["127.0.0.1"]


def test_only_who_must_reaches_the_engine(installation: Installation) -> None:
    reaching = {
        service
        for service in SERVICES
        if any("docker.sock" in mount["Source"] for mount in installation.container(service)["Mounts"])
    }
    assert reaching == {"daemon", "housekeeper"}


def test_the_image_is_small_and_holds_no_tools_and_no_secrets(installation: Installation) -> None:
    image = installation.container("code")["Image"]
    assert inspect(image)["Size"] < 1.2e9
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert installation.variables["POSTGRES_PASSWORD"] not in history
    tools = docker("run", "--rm", "--entrypoint=sh", image, "-c", "command -v gcc cc make git uv || true")
    assert tools == ""
    files = docker("run", "--rm", "--user=0", "--entrypoint=find", image, "/", "-xdev", "-name", ".env*")
    assert files == ""


def test_the_webserver_answers_on_this_machine_alone(installation: Installation) -> None:
    port = installation.ports["WEBSERVER"]
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    others = {address for address in docker_host_addresses() if not address.startswith("127.")}
    assert others
    for address in others:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), timeout=5)


def docker_host_addresses() -> list[str]:
    """Every IPv4 address of this machine."""
    return subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()[:8]


def test_nothing_leaves_the_databases_network(installation: Installation) -> None:
    networks = installation.container("postgres")["NetworkSettings"]["Networks"]
    assert set(networks) == {f"{installation.name}_database"}
    assert inspect_network(f"{installation.name}_database")["Internal"] is True


def inspect_network(name: str) -> dict[str, Any]:
    return dict(json.loads(docker("network", "inspect", name))[0])


def test_a_range_from_the_command_line_is_not_taken_for_dead(installation: Installation) -> None:
    """The daemon looks for the container of every run under way; this one's is not of its making."""
    # in an account of its own, so that the sessions of the tests below have orders to decide
    done = installation.trading("run", "--from", "2022-10-03", "--to", "2022-12-16", TRADING_STRATEGY="range")
    assert done.returncode == 0, done.stdout + done.stderr
    newest = installation.graphql("{ runsOrError(limit: 1) { ... on Runs { results { runId startTime endTime } } } }")
    [run] = newest["runsOrError"]["results"]
    assert run["endTime"] - run["startTime"] > MONITORED, "too short for the daemon to have looked at it"
    kinds = Counter(event["__typename"] for event in installation.events(run["runId"]))
    assert kinds["RunFailureEvent"] == 0
    assert kinds["RunSuccessEvent"] == 1


# -- a schedule, and what may go wrong --------------------------------------------------------------------------------


CLOCK = """\
import os
import time
from types import SimpleNamespace

import grpc._channel
import time_machine

time_machine.travel(time.time() + float(os.environ["CLOCK_OFFSET"]), tick=True).start()
# gRPC's core has the machine's own clock, and compares deadlines with that
grpc._channel.time = SimpleNamespace(time=time_machine.escape_hatch.time.time, perf_counter=time.perf_counter)
"""
"""What moves the clock of every Python process of a container, as `sitecustomize`."""


def test_the_schedule_ticks_and_the_run_starts_in_a_container(installation: Installation, tmp_path: Path) -> None:
    """The daemon's clock is set to shortly before 17:30 in New York on a session of the sample."""
    uv = Path(sys.executable).with_name("uv")
    clock = tmp_path / "clock"
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--target", clock, "--python-version", "3.11", "--only-binary", ":all:",
         "time-machine==3.6.0"], check=True,
    )  # fmt: skip
    (clock / "sitecustomize.py").write_text(CLOCK, encoding="utf-8")
    for folder in (tmp_path.parent, tmp_path, clock):
        folder.chmod(0o755)
    at = datetime(2022, 12, 19, 17, 29, 0, tzinfo=ZoneInfo("America/New_York"))
    override = tmp_path / "clock.yml"
    override.write_text(
        f"""
services:
  daemon:
    environment:
      PYTHONPATH: /clock:/opt/application
      CLOCK_OFFSET: "{at.timestamp() - time.time():.0f}"
    volumes: ["{clock}:/clock:ro"]
""",
        encoding="utf-8",
    )
    installation.files.append(str(override))
    try:
        installation.compose("up", "--detach", "--no-build", "--no-deps", "daemon")
        installation.compose("exec", "-T", "daemon", "dagster", "schedule", "start", "daily_schedule")
        run_id = eventually("a run of the schedule", lambda: scheduled_run(installation), 180, 2)
        ended = installation.wait(run_id)
    finally:
        installation.files.remove(str(override))
        installation.compose("exec", "-T", "daemon", "dagster", "schedule", "stop", "daily_schedule")
        installation.up("--no-deps", "daemon")
    tags = {tag["key"]: tag["value"] for tag in ended["tags"]}
    assert (ended["status"], ended["jobName"]) == ("SUCCESS", "daily")
    assert tags["dagster/partition"] == "2022-12-19"
    assert tags["dagster/schedule_name"] == "daily_schedule"
    container = inspect(tags["docker/container_id"])
    assert container["State"]["ExitCode"] == 0
    check_confined(container)
    assert orders(installation, "2022-12-19")


def scheduled_run(installation: Installation) -> str | None:
    found = installation.graphql(
        "{ runsOrError(filter: {tags: [{key: \"dagster/schedule_name\", value: \"daily_schedule\"}]})"
        " { ... on Runs { results { runId } } } }"
    )["runsOrError"]["results"]  # fmt: skip
    return str(found[0]["runId"]) if found else None


def test_a_killed_run_fails_soon_and_trades_once(installation: Installation) -> None:
    run_id = installation.launch("daily", "2022-12-20")
    installation.wait_for_step(run_id, "orders")
    [container] = installation.run_containers(run_id)
    docker("kill", "--signal=KILL", container)
    killed = time.monotonic()
    assert installation.wait(run_id, seconds=120)["status"] == "FAILURE"
    print(f"marked as failed {time.monotonic() - killed:.0f} s after SIGKILL")

    # the lease of the killed run may stand for two minutes more
    def again() -> bool:
        return bool(installation.wait(installation.launch("daily", "2022-12-20"))["status"] == "SUCCESS")

    eventually("the session is traded", again, 240, 5)
    check_once(installation, "2022-12-20")


def check_once(installation: Installation, session: str) -> None:
    """One order a symbol, and each once in the broker's own book."""
    symbols = orders(installation, session)
    assert symbols
    assert [symbol for symbol, count in Counter(symbols).items() if count > 1] == []
    known = installation.sql("trading", "select client_order_id from orders")
    booked = installation.sql("trading", "select client_order_id from simulated_orders")
    assert Counter(known) == Counter(booked)


def test_a_terminated_run_ends_although_the_webserver_reaches_no_engine(installation: Installation) -> None:
    run_id = installation.launch("research_backfill", "2022-12-01", "2022-12-28")
    installation.wait_for_step(run_id, "phasing")
    answer = installation.graphql(TERMINATE, id=run_id)["terminateRun"]
    assert answer["__typename"] == "TerminateRunSuccess", answer
    assert installation.wait(run_id, seconds=90)["status"] == "CANCELED"
    [container] = installation.run_containers(run_id)
    eventually("its container ends", lambda: not inspect(container)["State"]["Running"], 60)


def test_a_killed_daemon_comes_back_and_runs_go_on_without_it(installation: Installation) -> None:
    run_id = installation.launch("research_backfill", "2022-12-01", "2022-12-20")
    installation.wait_for_step(run_id, "bars")
    installation.kill("daemon")
    queued = installation.launch("research_backfill", "2022-12-20")
    assert installation.wait(run_id)["status"] == "SUCCESS"
    # what was queued meanwhile is launched by the daemon that the engine has started again
    assert installation.wait(queued)["status"] == "SUCCESS"
    eventually("the daemon is healthy", lambda: installation.healthy("daemon"), 120, 2)


def test_a_killed_code_server_comes_back(installation: Installation) -> None:
    run_id = installation.launch("research_backfill", "2022-12-01", "2022-12-20")
    installation.wait_for_step(run_id, "bars")
    installation.kill("code")
    assert installation.wait(run_id)["status"] == "SUCCESS"
    eventually("the code server is healthy", lambda: installation.healthy("code"), 120, 2)
    installation.succeed("research_backfill", "2022-12-20")


def test_a_database_that_restarts_in_the_middle_of_a_run_loses_nothing(installation: Installation) -> None:
    run_id = installation.launch("daily", "2022-12-21")
    installation.wait_for_step(run_id, "phasing")
    installation.compose("restart", "--timeout", "20", "postgres")
    ended = installation.wait(run_id, seconds=240)
    print(f"the run ended as {ended['status']}")
    settle(installation, "2022-12-21")


def settle(installation: Installation, session: str) -> None:
    """Launch a session until it succeeds, as an operator would, and expect each order once."""

    def again() -> bool:
        return bool(installation.wait(installation.launch("daily", session))["status"] == "SUCCESS")

    eventually(f"{session} is traded", again, 300, 5)
    check_once(installation, session)


@pytest.mark.restarts_engine
def test_an_engine_that_restarts_in_the_middle_of_a_run_loses_nothing(installation: Installation) -> None:
    run_id = installation.launch("daily", "2022-12-22")
    installation.wait_for_step(run_id, "phasing")
    subprocess.run(os.environ["DOCKER_ENGINE_RESTART"], shell=True, check=True, timeout=240)
    eventually("all services are up", lambda: all(map(installation.healthy, SERVICES)), 240, 2)
    assert installation.wait(run_id, seconds=180)["status"] == "FAILURE"
    settle(installation, "2022-12-22")


# -- what it is for ---------------------------------------------------------------------------------------------------


def test_twenty_sessions_are_backfilled_from_the_command_line(installation: Installation) -> None:
    told = installation.compose(
        "exec", "-T", "daemon", "dagster", "job", "backfill", "--job", "research_backfill",
        "--from", "2022-11-30", "--to", "2022-12-28", "--noprompt",
    )  # fmt: skip
    backfill = told.split()[-1].strip("`")
    # a backfill is complete when its runs are queued
    eventually("all runs of the backfill end", lambda: len(statuses(installation, backfill, ENDED)) == 20, 900, 5)
    assert Counter(statuses(installation, backfill, ENDED)) == {"SUCCESS": 20}


def statuses(installation: Installation, backfill: str, among: Sequence[str]) -> list[str]:
    """Statuses of those runs of a backfill whose status is among these."""
    runs = installation.graphql(
        'query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {'
        " ... on Runs { results { status } } } }",
        id=backfill,
    )["runsOrError"]["results"]
    return [run["status"] for run in runs if run["status"] in among]


def test_the_days_run_trades_and_a_second_one_sends_nothing(installation: Installation) -> None:
    before = set(installation.sql("trading", "select client_order_id from orders"))
    run_id = installation.succeed("daily", "2022-12-28")
    [identity] = installation.run_containers(run_id)
    container = inspect(identity)
    assert container["State"]["ExitCode"] == 0
    check_confined(container)
    assert container["Image"] == installation.container("code")["Image"]

    # the logs of its steps, as the UI shows them
    [captured] = {e["fileKey"] for e in installation.events(run_id) if e["__typename"] == "LogsCapturedEvent"}
    logs = installation.graphql(LOGS, key=[run_id, "compute_logs", captured])["capturedLogs"]
    assert "STEP_SUCCESS" in logs["stderr"]
    assert installation.variables["POSTGRES_PASSWORD"] not in logs["stderr"]

    sent = set(installation.sql("trading", "select client_order_id from orders")) - before
    assert sent
    check_once(installation, "2022-12-28")
    installation.succeed("daily", "2022-12-28")
    assert set(installation.sql("trading", "select client_order_id from orders")) == before | sent


def test_the_commands_of_the_readme(installation: Installation) -> None:
    told = installation.trading("status")
    assert told.returncode == 0, told.stderr
    assert "ACTIVE" in told.stdout
    again = installation.trading("run", "--session", "2022-12-28")
    assert "0 new orders sent" in again.stdout, again.stdout + again.stderr


# -- lost, and restored -----------------------------------------------------------------------------------------------

CONTENTS = """
import pandas, sys
from trading_dagster.resources.schemas import TABLES
from trading_dagster.resources.tables import Tables
for name in sorted(TABLES):
    frame = Tables("/data/tables").read(name, every_revision=True) if TABLES[name].revisions else (
        Tables("/data/tables").read(name))
    print(name, len(frame), pandas.util.hash_pandas_object(frame, index=False).sum())
"""
LEDGER = ("orders", "order_events", "fills", "lots", "account_snapshots", "halt_events", "policy_verdicts",
          "simulated_orders", "simulated_positions", "simulated_accounts", "operator_actions")  # fmt: skip
HISTORY = """{ runsOrError { ... on Runs { results { runId status jobName startTime endTime } } }
  assetOrError(assetKey: {path: ["orders"]}) { ... on Asset {
    assetMaterializations { runId partition timestamp } } } }"""


def contents(installation: Installation) -> dict[str, Any]:
    """Tables, ledger and the UI's history, each as a user reads them."""
    tables = installation.compose(
        "run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "trading", "-c", CONTENTS
    ).splitlines()
    query = "select md5(string_agg(t::text, chr(10) order by t::text)), count(*) from {} t"
    ledger = {name: installation.sql("trading", query.format(name)) for name in LEDGER}
    return {"tables": tables, "ledger": ledger, "history": installation.graphql(HISTORY)}


def test_an_installation_that_was_lost_is_restored(installation: Installation) -> None:
    # by the job, as the schedule does it: in a container of its own
    installation.succeed("backup")
    backup = max(found.name for found in installation.backups.iterdir() if not found.name.startswith("."))
    installation.compose("stop", "daemon")
    before = contents(installation)
    newest = before["history"]["runsOrError"]["results"].pop(0)  # the backup's own, still under way
    assert newest["jobName"] == "backup"

    installation.remove()
    assert f"{installation.name}_data" not in docker("volume", "ls", "--quiet").split()
    installation.up("postgres")
    told = installation.trading("restore", f"/backups/{backup}")
    assert told.returncode == 0, told.stdout + told.stderr
    print(told.stdout)
    installation.up()
    after = contents(installation)
    after["history"]["runsOrError"]["results"].pop(0)
    ledger = after["ledger"]
    # that it was restored is the one thing that the ledger knows more
    actions = ledger.pop("operator_actions")
    assert actions != before["ledger"].pop("operator_actions")
    assert after == before

    refused = installation.trading("restore", f"/backups/{backup}")
    assert refused.returncode == 2
    installation.succeed("daily", "2022-12-28")
    check_once(installation, "2022-12-28")
    assert contents(installation)["tables"] == before["tables"]
