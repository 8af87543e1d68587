"""Which executor a job has, what it knows of the queue, and in which lane its runs wait."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from trading_dagster.definitions import build_definitions, defs
from trading_dagster.executors import EXECUTION_POOL, LANE_TAG, celery_configuration, research_executor
from trading_dagster.settings import Settings, SettingsError

ROOT = Path(__file__).parents[1]
QUEUE = "redis://:never-shown@queue:6379/0"


def chosen(executor: str) -> Settings:
    return Settings(executor=executor, celery_broker=QUEUE if executor == "celery" else "")


def job_executors(**environment: str) -> dict[str, str]:
    """Name of each job's executor as the environment has it, in a process of its own, which reads it on import."""
    code = (
        "import json, sys\n"
        "from trading_dagster.definitions import defs\n"
        "names = [job.name for job in defs.resolve_all_job_defs()]\n"
        "found = {name: defs.resolve_job_def(name).executor_def.name for name in names}\n"
        "print(json.dumps([found, [m for m in ('dagster_celery', 'dagster_docker') if m in sys.modules]]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env={"PATH": "/usr/bin", **environment}, cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found, imported = json.loads(result.stdout)
    # what is not chosen costs no time
    expected = environment.get("TRADING_EXECUTOR", "")
    assert imported == ([f"dagster_{expected}"] if expected in ("celery", "docker") else [])
    return found


@pytest.mark.parametrize("executor", ["in_process", "multiprocess", "docker", "celery"])
def test_the_setting_names_the_executor(executor: str) -> None:
    assert research_executor(chosen(executor)).name == executor


@pytest.mark.parametrize(
    "executor",
    # a process each, which imports everything: the plain one, and one of those with a library of their own
    ["", "celery", pytest.param("multiprocess", marks=pytest.mark.e2e), pytest.param("docker", marks=pytest.mark.e2e)],
)
def test_only_research_leaves_its_process(executor: str, tmp_path: Path) -> None:
    found = job_executors(
        TRADING_EXECUTOR=executor, TRADING_CELERY_BROKER=QUEUE, TRADING_DATA_DIR=str(tmp_path), HOME=str(tmp_path)
    )
    assert {found.pop("training"), found.pop("research_backfill")} == {executor or "in_process"}
    assert set(found.values()) == {"in_process"}
    assert {"daily", "fetch", "halt", "flatten", "reconcile"} <= set(found)


def test_no_definition_holds_the_password_of_the_queue() -> None:
    executor = research_executor(chosen("celery"))
    job = build_definitions(chosen("celery")).resolve_job_def("daily").with_executor_def(executor)
    shown = json.dumps([dg.serialize_value(job.get_job_snapshot()), executor.description])
    assert "celery" in shown
    assert "never-shown" not in shown
    assert "never-shown" not in repr(vars(executor))


def test_steps_of_a_worker_that_died_are_not_lost() -> None:
    configured = celery_configuration(chosen("celery"))
    assert (configured["broker"], configured["backend"]) == (QUEUE, QUEUE)
    assert configured["config_source"]["task_acks_late"] is True
    assert configured["config_source"]["broker_transport_options"]["max_retries"] == 3  # Dagster's own stay


def test_a_worker_without_a_queue_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADING_CELERY_BROKER", QUEUE)
    from trading_dagster.celery_worker import app, build_app

    assert "execute_plan" in app.tasks
    monkeypatch.delenv("TRADING_CELERY_BROKER")
    with pytest.raises(SettingsError, match="TRADING_CELERY_BROKER"):
        build_app(Settings())


LANES = {
    "daily": "execution", "reconcile": "execution", "research_backfill": "research", "training": "research",
    "fetch": "research", "freshness": "maintenance", "backup": "maintenance", "retention": "maintenance",
}  # fmt: skip


def test_what_trades_waits_and_what_stops_it_does_not() -> None:
    lanes = {job.name: job.tags.get(LANE_TAG) for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    for name, lane in LANES.items():
        assert lanes[name] == lane, name
    for name in ("halt", "flatten", "cancel", "resume", "status", "list_orders", "explain_order"):
        assert lanes[name] is None, name
    for name in ("halt", "flatten", "cancel", "resume"):
        assert int(defs.resolve_job_def(name).tags["dagster/priority"]) > 0


def test_orders_chosen_by_hand_wait_too() -> None:
    asset = defs.resolve_assets_def("orders")
    assert asset.op.pool == EXECUTION_POOL
    job = defs.resolve_job_def("daily")
    assert {node.name for node in job.nodes if node.definition.pools} == {"orders"}


def test_the_deployment_limits_both_lanes() -> None:
    concurrency = yaml.safe_load((ROOT / "dagster.yaml").read_text())["concurrency"]
    limits = {(each["key"], each["value"]): each["limit"] for each in concurrency["runs"]["tag_concurrency_limits"]}
    assert limits[LANE_TAG, "execution"] == 1
    assert set(LANES.values()) <= {value for key, value in limits if key == LANE_TAG}
    # else a run without a lane, such as a halt, would wait behind those with one
    assert concurrency["runs"]["max_concurrent_runs"] > sum(limits.values())
    assert concurrency["pools"] == {"default_limit": 1, "granularity": "run"}
