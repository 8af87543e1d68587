"""`trading migrate`, `backup`, `verify`, `restore`, and the job `backup`: exit codes, and what is shown."""

from __future__ import annotations

import json
import shutil
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from tests.conftest import QUIET
from tests.resources.rows import allocation_rows
from trading_dagster.calendar import session_calendar
from trading_dagster.cli import main
from trading_dagster.definitions import build_definitions
from trading_dagster.resources.ledger import Owner
from trading_dagster.resources.sql_ledger import SqlLedger
from trading_dagster.resources.tables import Tables
from trading_dagster.schedules import build_schedules
from trading_dagster.settings import Settings

DAY = date(2020, 3, 9)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that the commands use, with nothing in it."""
    monkeypatch.setenv("TRADING_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "data" / "dagster"))
    return tmp_path / "data"


def trading(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def fill(data: Path) -> None:
    assert trading("migrate").exit_code == 0
    Tables(str(data / "tables")).replace("allocation", allocation_rows([DAY]), DAY, DAY)
    ledger = SqlLedger(f"sqlite:///{data / 'ledger.db'}")
    ledger.open_strategy("main", "simulated", DAY, Decimal(100), {}, Owner.STRATEGY, [])
    ledger.engine.dispose()


def test_migrate_says_what_it_did(data: Path) -> None:
    first, second = trading("migrate", "--wait", "0"), trading("migrate", "--wait", "0")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert [line.split(":")[0] for line in first.stdout.splitlines()] == ["ledger", "Dagster"]
    assert "was made" in first.stdout
    assert second.stdout.count("is as it must be") == 2
    assert (data / "dagster" / "history" / "runs.db").exists()


def test_backup_verify_lose_restore(data: Path, tmp_path: Path) -> None:
    fill(data)
    status = trading("status").stdout
    made = trading("backup", "--to", tmp_path / "backups", "--json")
    assert made.exit_code == 0
    told = json.loads(made.stdout)
    assert (told["tables"], told["runs"], told["removed"]) == ({"allocation": 1}, 0, [])
    folder = Path(told["folder"])
    good = trading("verify", folder)
    assert (good.exit_code, good.stdout.startswith(f"{folder}: good; ")) == (0, True)

    refused = trading("restore", folder)
    assert refused.exit_code == 2
    assert "error: a backup is restored into an empty installation only, and here is 1 row in the" in refused.stderr

    shutil.rmtree(data)
    restored = trading("restore", folder, "--operator", "ann")
    assert restored.exit_code == 0
    assert restored.stdout.splitlines()[0].startswith(f"restored {folder.name}, made ")
    assert "main        ACTIVE" in restored.stdout
    assert trading("status").stdout == status
    ledger = SqlLedger(f"sqlite:///{data / 'ledger.db'}")
    assert list(ledger.actions("main")["operator"]) == ["ann"]
    ledger.engine.dispose()


def test_a_damaged_backup_ends_with_three(data: Path, tmp_path: Path) -> None:
    fill(data)
    made = trading("backup", "--to", tmp_path / "backups", "--json")
    folder = Path(json.loads(made.stdout)["folder"])
    with (folder / "ledger" / "ledger.db").open("ab") as file:
        file.write(b"!")
    found = trading("verify", folder)
    assert found.exit_code == 3
    assert "  ledger/ledger.db: it has " in found.stdout
    plain = json.loads(trading("verify", folder, "--json").stdout)
    assert [problem.split(":")[0] for problem in plain["problems"]] == ["ledger/ledger.db"]
    shutil.rmtree(data)
    refused = trading("restore", folder)
    assert refused.exit_code == 1
    assert "is damaged, and nothing was restored" in refused.stderr
    (folder / "manifest.json").unlink()
    assert trading("verify", folder).exit_code == 3


def test_wrong_use_and_what_cannot_be_done(data: Path, tmp_path: Path) -> None:
    nowhere = trading("backup")
    assert nowhere.exit_code == 2
    assert "give --to DIR, or set TRADING_BACKUP_DIR" in nowhere.stderr
    empty = trading("backup", "--to", tmp_path / "backups")
    assert empty.exit_code == 1
    assert "error: there is no ledger in" in empty.stderr
    assert "Traceback" not in empty.output
    assert trading("restore", tmp_path / "none").exit_code == 1


def test_the_folder_and_the_number_come_from_the_settings(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(data)
    monkeypatch.setenv("TRADING_BACKUP_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("TRADING_BACKUPS_KEPT", "1")
    first, second = trading("backup"), trading("backup")
    assert (first.exit_code, second.exit_code) == (0, 0)
    (left,) = (path.name for path in (tmp_path / "mine").iterdir() if path.name != ".lock")
    assert f"backup {tmp_path}/mine/{left}: 1 tables with 1 rows" in second.stdout
    assert "; removed 2" in second.stdout


# -- the job ----------------------------------------------------------------------------------------------------------


def run_job(settings: Settings, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = build_definitions(settings).resolve_job_def("backup")
    return job.execute_in_process(instance=instance, raise_on_error=False, run_config=QUIET)


def test_the_job_shows_what_it_wrote(data: Path, tmp_path: Path) -> None:
    fill(data)
    settings = Settings(data_dir=data, backup_dir=tmp_path / "backups")
    with dg.DagsterInstance.from_config(str(data / "dagster")) as instance:
        result = run_job(settings, instance)
        assert result.success
        (output,) = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
    shown = {name: value.value for name, value in output.step_output_data.metadata.items()}
    assert shown["tables"] == {"allocation": 1}
    assert shown["runs"] == 1  # its own, which had not ended then
    assert shown["bytes"] > 1000
    folder = Path(str(shown["folder"]))
    assert trading("verify", folder).exit_code == 0
    shutil.rmtree(data)
    assert "1 were under way then, and count as failed now" in trading("restore", folder).stdout


def test_the_job_fails_with_the_reason(data: Path, tmp_path: Path) -> None:
    assert trading("migrate").exit_code == 0
    (data / "ledger.db").unlink()
    with dg.DagsterInstance.from_config(str(data / "dagster")) as instance:
        for settings, reason in (
            (Settings(data_dir=data), "TRADING_BACKUP_DIR is not set"),
            (Settings(data_dir=data, backup_dir=tmp_path / "backups"), "there is no ledger in"),
        ):
            result = run_job(settings, instance)
            assert not result.success
            (failure,) = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
            described = failure.step_failure_data.user_failure_data
            assert described is not None
            assert reason in str(described.description)


def test_the_job_runs_alone_and_once() -> None:
    job = build_definitions(Settings()).resolve_job_def("backup")
    assert job.tags["dagster/max_retries"] == "0"
    assert job.tags["trading/lane"] == "maintenance"
    assert job.executor_def is dg.in_process_executor


@pytest.mark.parametrize("folder", [None, Path("/backups")])
def test_the_schedule_is_on_where_there_is_a_place(folder: Path | None) -> None:
    settings = Settings(backup_dir=folder)
    schedules = {s.name: s for s in build_schedules(session_calendar("XNYS"), settings)}
    schedule = schedules["backup_schedule"]
    assert schedule.default_status is (
        dg.DefaultScheduleStatus.STOPPED if folder is None else dg.DefaultScheduleStatus.RUNNING
    )
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 20 * * *", "America/New_York")
    context = dg.build_schedule_context(
        scheduled_execution_time=datetime(2024, 7, 7, 20, tzinfo=ZoneInfo("America/New_York")),
        resources={"settings": settings},
    )
    found = schedule(context)
    if folder is None:
        assert isinstance(found, dg.SkipReason)
        assert "set TRADING_BACKUP_DIR" in str(found.skip_message)
    else:
        assert isinstance(found, dg.RunRequest)  # a Sunday, too
        assert found.run_key == "2024-07-07"
