"""Alarms and dashboard with a real Prometheus, which scrapes a real exporter of an installation that has traded."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._daemon.types import DaemonHeartbeat

from tests.e2e.conftest import BIN, ROOT, command, environment
from trading_dagster.resources.exporter import METRICS

MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "trading.json"
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
PANELS = [panel for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row"]
EXPRESSIONS = {f"{panel['title']}: {target['expr']}" for panel in PANELS for target in panel["targets"]}


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed, and these tests need it: apt-get install prometheus")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


# -- what is written down ---------------------------------------------------------------------------------------------


def metrics_in(expression: str) -> set[str]:
    """Names of metrics in an expression, without what stands between braces and quotes."""
    return set(re.findall(r"\b(?:trading_\w+|up)\b", re.sub(r"\{[^}]*\}|\"[^\"]*\"", "", expression)))


@pytest.mark.parametrize("expression", sorted(EXPRESSIONS | {rule["expr"] for rule in ALERTS.values()}))
def test_expressions_use_metrics_that_there_are(expression: str) -> None:
    used = metrics_in(expression.partition(": ")[2] if expression in EXPRESSIONS else expression)
    assert used
    assert used <= set(METRICS) | {"up"}


def test_every_metric_is_shown_or_raises_an_alarm() -> None:
    used = set().union(*map(metrics_in, EXPRESSIONS), *(metrics_in(rule["expr"]) for rule in ALERTS.values()))
    assert set(METRICS) - used == set()


def test_dashboard_can_be_provisioned() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert (board["uid"], board["title"]) == ("trading", "Trading")
    assert "id" not in board  # Grafana gives it
    every = board["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    source = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())
    [uid] = [each["uid"] for each in source["datasources"]]
    for panel in PANELS:
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": uid}
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {uid}
    providers = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/trading.yml").read_text())["providers"]
    assert [each["options"]["path"] for each in providers] == ["/var/lib/grafana/dashboards"]


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in ((at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])):
            assert cell not in taken, f"{panel['title']} lies over {taken[cell]}"
            taken[cell] = panel["title"]


def test_alarms_say_what_to_do() -> None:
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_prometheus_takes_configuration_and_rules() -> None:
    for words in (["config", "prometheus.yml"], ["rules", "alerts.yml"]):
        checked = subprocess.run(
            [program("promtool"), "check", *words], cwd=MONITORING, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


# -- alarms at chosen figures -----------------------------------------------------------------------------------------

# each alarm: figures at which it is raised, figures at which it is not, and the minutes after which it is looked at
CASES: dict[str, tuple[str, str, str, int]] = {
    "TradingHalted": ('trading_halt_state{state="HALTED"}', "1x200", "0x200", 1),
    "TradingReduceOnly": ('trading_halt_state{state="REDUCE_ONLY"}', "1x200", "0x200", 1),
    "TradingDrawdown": ("trading_drawdown_ratio", "0.11x200", "0.09x200", 1),
    "TradingSessionsBehind": ('trading_sessions_behind{table="bars"}', "2x200", "1x200", 12),
    "TradingOrderStuck": ('trading_open_orders{state="unconfirmed"}', "1x200", "1x20 0x100", 40),
    "TradingBrokerErrors": ("trading_broker_errors", "1x200", "0x200", 40),
    "TradingRefusals": ('trading_session_refusals{gate="gross"}', "1x200", "0x200", 1),
    "TradingPolicyViolations": ("trading_policy_violations_total", "0x10 3x200", "3x200", 20),
    "TradingTableFiles": ('trading_table_files{table="bars"}', "501x1500", "500x1500", 1450),
    "DagsterRunFailed": ('trading_dagster_runs{job="daily",status="FAILURE"}', "1x200", "0x200", 1),
    "DagsterDaemonSilent": ("trading_dagster_daemon_heartbeat_timestamp_seconds", "0x200", "0+60x200", 20),
    "DagsterQueue": ("trading_dagster_queued_runs", "11x200", "10x200", 70),
    "ExporterDown": ('up{job="trading"}', "0x200", "1x200", 5),
    "SourceDown": ('trading_source_up{source="ledger"}', "0x200", "1x200", 5),
    "BackupOld": ("trading_backup_newest_timestamp_seconds", "0x4000", "0x2000 120000x2000", 2900),
    "BackupMissing": ("trading_backups", "0x4000", "1x4000", 2900),
}  # fmt: skip


def test_every_alarm_has_a_case() -> None:
    assert CASES.keys() == ALERTS.keys()


def test_alarms_are_raised_when_they_should_be(tmp_path: Path) -> None:
    tests = []
    for name, (series, bad, good, minutes) in CASES.items():
        for values, raised in ((bad, True), (good, False)):
            tests.append(
                {
                    "name": f"{name} {raised}",
                    "interval": "1m",
                    "input_series": [{"series": series, "values": values}],
                    # whether it is raised, whatever it says
                    "promql_expr_test": [
                        {
                            "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
                            "eval_time": f"{minutes}m",
                            "exp_samples": [{"labels": "{}", "value": int(raised)}],
                        }
                    ],
                }
            )
    path = tmp_path / "tests.yml"
    document = {"rule_files": [str(MONITORING / "alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- a real one -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation that traded two sessions, was backed up, and whose daemon gave a sign."""
    folder = tmp_path_factory.mktemp("monitoring")
    result = command("trading", "run", "--from", "2022-12-27", "--to", "2022-12-28", data=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    with dg.DagsterInstance.from_config(str(folder / "dagster")) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "one", []))
    result = command("trading", "backup", "--to", str(folder / "backups"), data=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def exporter(data: Path) -> Iterator[str]:
    """Address of an exporter of that installation."""
    port = free_port()
    process = subprocess.Popen(
        [str(BIN / "trading"), "exporter", "--port", str(port)],
        env=environment(data, TRADING_BACKUP_DIR=str(data / "backups")), cwd=ROOT,
    )  # fmt: skip
    try:
        patience = time.monotonic() + 60
        while True:
            try:
                fetch(f"http://127.0.0.1:{port}/metrics")
                break
            except urllib.error.URLError:
                assert process.poll() is None, "the exporter ended at its start"
                assert time.monotonic() < patience, "the exporter does not answer"
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def prometheus(exporter: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prometheus with the deployment's configuration, which scrapes that exporter once a second."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        if job["job_name"] == "trading":
            job["static_configs"] = [{"targets": [exporter]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(MONITORING / "alerts.yml", folder)
    process = subprocess.Popen(
        [
            program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        ],
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        patience = time.monotonic() + 60
        while True:
            try:
                if query(address, 'up{job="trading"} == 1'):
                    break
            except urllib.error.URLError:
                pass  # it is starting
            assert process.poll() is None, "prometheus ended at its start"
            assert time.monotonic() < patience, "prometheus does not scrape the exporter"
            time.sleep(0.2)
        time.sleep(3)  # rates need two scrapes
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def query(address: str, expression: str) -> list[dict[str, Any]]:
    answer = json.loads(fetch(f"{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
    assert answer["status"] == "success", answer
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


@pytest.mark.parametrize("shown", sorted(EXPRESSIONS))
def test_every_panel_shows_something(prometheus: str, shown: str) -> None:
    expression = shown.partition(": ")[2]
    found = query(prometheus, expression)
    assert found, f"{shown} gives nothing"
    assert all(math.isfinite(float(each["value"][1])) for each in found)


def test_no_alarm_of_an_installation_that_is_well(prometheus: str) -> None:
    raised = {each["metric"]["alertname"] for each in query(prometheus, "ALERTS")}
    assert raised <= {"TradingRefusals"}


def test_figures_are_those_of_the_commands(prometheus: str, data: Path) -> None:
    status = json.loads(command("trading", "status", "--json", data=data).stdout)
    [cash] = query(prometheus, "trading_account_cash")
    assert float(cash["value"][1]) == pytest.approx(float(status["cash"]))
    [drawdown] = query(prometheus, "trading_drawdown_ratio")
    assert float(drawdown["value"][1]) == pytest.approx(float(status["drawdown"]), abs=1e-6)
    states = {each["metric"]["state"]: each["value"][1] for each in query(prometheus, "trading_halt_state == 1")}
    assert states == {status["halt"]["state"]: "1"}
    [waiting] = query(prometheus, "sum(trading_open_orders)")
    assert int(waiting["value"][1]) == len(status["open_orders"])


def test_halt_raises_an_alarm(prometheus: str, data: Path) -> None:
    halted = command("trading", "halt", "--operator", "test", "--reason", "to see the alarm", data=data)
    assert halted.returncode == 0, halted.stderr
    patience = time.monotonic() + 30
    while not query(prometheus, 'ALERTS{alertname="TradingHalted",alertstate="firing"}'):
        assert time.monotonic() < patience, "no alarm was raised"
        time.sleep(0.5)


def test_scrape_is_quick(exporter: str) -> None:
    time.sleep(11)  # what was read before is not given again
    began = time.monotonic()
    page = fetch(f"http://{exporter}/metrics")
    assert time.monotonic() - began < 2
    assert 'trading_source_up{source="ledger"} 1.0' in page


def test_page_is_well_formed(exporter: str) -> None:
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=fetch(f"http://{exporter}/metrics"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_port_in_use_is_told(exporter: str, tmp_path: Path) -> None:
    second = command("trading", "exporter", "--port", exporter.rpartition(":")[2], data=tmp_path)
    assert second.returncode == 1
    assert "cannot be listened at" in second.stderr
    assert "Traceback" not in second.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["prometheus", "promtool"])
def test_programs_are_installed(name: str) -> None:
    assert os.access(program(name), os.X_OK)
