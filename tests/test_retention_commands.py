"""`trading retention`, the job and the schedule `retention`: exit codes, what is printed, what the UI shows."""

from __future__ import annotations

import json
import shutil
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from tests.conftest import QUIET
from tests.resources.rows import allocation_rows
from trading_dagster.calendar import session_calendar
from trading_dagster.cli import main
from trading_dagster.definitions import build_definitions
from trading_dagster.resources.tables import Tables
from trading_dagster.schedules import build_schedules
from trading_dagster.settings import Settings

DAY = date(2020, 3, 9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables with more small files than are left alone, to be copied."""
    folder = tmp_path_factory.mktemp("model") / "tables"
    for number in range(34):
        day = DAY + timedelta(days=number)
        Tables(str(folder)).replace("allocation", allocation_rows([day]), day, day)
    return folder


@pytest.fixture
def data(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with one table, which the commands use."""
    monkeypatch.setenv("TRADING_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "data" / "dagster"))
    shutil.copytree(model, tmp_path / "data" / "tables")
    return tmp_path / "data"


def trading(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


def spoil(data: Path) -> None:
    """Leave a table that cannot be opened."""
    log = data / "tables" / "bars" / "_delta_log"
    log.mkdir(parents=True)
    (log / f"{0:020d}.json").write_text("no JSON", encoding="utf-8")


def test_command_tells_what_it_did(data: Path) -> None:
    result = trading("retention", "--days", "30")
    assert result.exit_code == 0, result.output
    assert "allocation     34 files merged, 0 removed" in result.output
    again = trading("retention", "--days", "30", "--json")
    assert json.loads(again.stdout)["tables"]["allocation"]["merged"] == 0


def test_setting_says_how_much_is_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADING_RETENTION_DAYS", "30")
    before = datetime.fromisoformat(json.loads(trading("retention", "--json").stdout)["before"])
    assert abs(datetime.now(before.tzinfo) - timedelta(days=30) - before) < timedelta(minutes=1)


def test_without_days_nothing_is_done(data: Path) -> None:
    result = trading("retention")
    assert result.exit_code == 2
    assert "TRADING_RETENTION_DAYS is not set" in result.stderr
    assert Tables(str(data / "tables")).version("allocation") == 34
    assert not (data / "dagster").exists()


def test_too_few_days_are_refused(data: Path) -> None:
    result = trading("retention", "--days", "6")
    assert (result.exit_code, "7 or more must be kept" in result.stderr) == (2, True)


def test_what_could_not_be_done_is_told(data: Path) -> None:
    spoil(data)
    result = trading("retention", "--days", "30", "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 3
    assert [problem.partition(":")[0] for problem in told["problems"]] == ["table bars"]
    assert told["tables"]["allocation"]["merged"] == 34


def test_storage_that_cannot_be_opened(data: Path) -> None:
    (data / "dagster").write_text("a file where the home should be", encoding="utf-8")
    result = trading("retention", "--days", "30")
    assert result.exit_code == 1
    assert "error: Dagster's storage cannot be used" in result.stderr


# -- the job and its schedule -----------------------------------------------------------------------------------------


def run_job(settings: Settings, instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    job = build_definitions(settings).resolve_job_def("retention")
    ops = {"remove_what_is_old": {"config": config}}
    return job.execute_in_process(instance=instance, run_config={"ops": ops, **QUIET}, raise_on_error=False)


def shown(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [output] = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
    values: Any = output.step_output_data.metadata["values"].value
    return dict(values)


def failure(result: dg.ExecuteInProcessResult) -> str:
    [event] = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
    described = event.step_failure_data.user_failure_data
    assert described is not None
    return str(described.description)


def test_job_shows_what_it_did(data: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_job(Settings(data_dir=data, retention_days=30), instance)
        assert result.success
        assert shown(result)["tables"]["allocation"]["merged"] == 34
        assert shown(run_job(Settings(data_dir=data), instance, days=7))["tables"]["allocation"]["merged"] == 0
        assert run_job(Settings(data_dir=data), instance).success is False


@pytest.mark.parametrize(
    ("settings", "days", "message"),
    [({}, None, "TRADING_RETENTION_DAYS is not set"), ({"retention_days": 30}, 6, "6 days are too few")],
)
def test_job_that_may_not_is_refused(data: Path, settings: dict[str, int], days: int | None, message: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        config = {} if days is None else {"days": days}
        assert message in failure(run_job(Settings(data_dir=data, **settings), instance, **config))
    assert Tables(str(data / "tables")).version("allocation") == 34


def test_job_that_could_not_do_all_fails(data: Path) -> None:
    spoil(data)
    with dg.DagsterInstance.ephemeral() as instance:
        told = failure(run_job(Settings(data_dir=data, retention_days=30), instance))
    assert told.startswith("not all was done: table bars:")


def test_job_waits_in_the_lane_of_maintenance_and_is_not_repeated() -> None:
    job = build_definitions(Settings()).resolve_job_def("retention")
    assert {"dagster/max_retries": "0", "trading/lane": "maintenance"}.items() <= job.tags.items()


@pytest.mark.parametrize(("days", "status"), [(None, "STOPPED"), (90, "RUNNING")])
def test_schedule_is_on_where_something_is_to_be_removed(days: int | None, status: str) -> None:
    settings = Settings(retention_days=days)
    schedules = {s.name: s for s in build_schedules(session_calendar("XTKS"), settings)}
    schedule = schedules["retention_schedule"]
    assert (schedule.job_name, schedule.cron_schedule) == ("retention", "0 3 * * *")
    assert (schedule.execution_timezone, schedule.default_status.value) == ("Asia/Tokyo", status)
    moment = datetime(2024, 7, 6, 3, tzinfo=ZoneInfo("Asia/Tokyo"))
    context = dg.build_schedule_context(scheduled_execution_time=moment, resources={"settings": settings})
    answer = schedule(context)
    if days is None:
        assert isinstance(answer, dg.SkipReason)
        assert "set TRADING_RETENTION_DAYS" in str(answer.skip_message)
    else:
        assert isinstance(answer, dg.RunRequest)
        assert answer.run_key == "2024-07-06"
