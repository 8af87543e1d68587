"""Making and upgrading databases: once, again, by two at once, and when the server comes late."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.postgres import PASSWORD, PostgresServer
from trading_dagster.resources.backup_files import BackupError
from trading_dagster.resources.ledger import LedgerUnavailableError
from trading_dagster.resources.preparation import prepare_dagster, prepare_ledger

from .conftest import Places
from .test_postgres_dump import execute


def test_a_ledger_in_a_file_is_made_and_then_left(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'data' / 'ledger.db'}"
    (first,), (second,) = prepare_ledger(url, 0), prepare_ledger(url, 0)
    assert first.endswith(", was made")
    assert second == first.replace("was made", "is as it must be")


def test_a_ledgers_database_is_made_by_two_at_once(postgres: PostgresServer) -> None:
    url = postgres.url("ledger_of_two")
    try:
        with ThreadPoolExecutor(2) as pool:
            said = list(pool.map(lambda _: prepare_ledger(url, 5), range(2)))
        made = [line for lines in said for line in lines if "made the database 'ledger_of_two'" in line]
        assert len(made) == 1
        (again,) = prepare_ledger(url, 5)
        assert again.endswith("is as it must be")
        assert PASSWORD not in str(said) + again
    finally:
        execute(postgres.url(), "DROP DATABASE IF EXISTS ledger_of_two WITH (FORCE)")


def test_an_older_ledger_is_brought_up(places: Places) -> None:
    from alembic import command
    from alembic.config import Config

    from trading_dagster.resources.sql_ledger import MIGRATIONS

    place = places.empty("old")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with place.ledger() as ledger, ledger.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    (line,) = prepare_ledger(place.settings.resolved_ledger_url, 0)
    assert line.endswith("was brought there from 0001")


def test_a_newer_ledger_is_an_error(places: Places) -> None:
    place = places.empty("old")
    with place.ledger() as ledger, ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerUnavailableError, match="does not know"):
        prepare_ledger(place.settings.resolved_ledger_url, 0)


def test_dagsters_storage_is_prepared_and_then_left(places: Places, tmp_path: Path) -> None:
    place = places.empty("old")
    for _ in range(2):
        (line,) = prepare_dagster(place.instance, tmp_path / "data", 0, [])
        assert line.startswith("Dagster: Sqlite storage, schema ")
        assert line.endswith("is as it must be")
    assert (place.folder / "home" / "history" / "runs.db").exists()


def test_a_pool_has_its_limit_before_its_first_run_and_keeps_one_that_was_set(places: Places, tmp_path: Path) -> None:
    place = places.empty("limited")
    (place.folder / "home").mkdir(parents=True)
    (place.folder / "home" / "dagster.yaml").write_text("concurrency: {pools: {default_limit: 1, granularity: run}}\n")
    prepare_dagster(place.instance, tmp_path / "data", 0, ["execution"])
    with place.instance() as instance:
        [limit] = instance.event_log_storage.get_pool_limits()
        assert (limit.name, limit.limit) == ("execution", 1)
        instance.event_log_storage.set_concurrency_slots("execution", 3)
    prepare_dagster(place.instance, tmp_path / "data", 0, ["execution"])
    with place.instance() as instance:
        assert [(each.name, each.limit) for each in instance.event_log_storage.get_pool_limits()] == [("execution", 3)]


@pytest.mark.e2e
def test_a_server_that_comes_late_is_waited_for(postgres_server: PostgresServer) -> None:
    postgres_server.stop()
    starter = threading.Thread(target=lambda: (time.sleep(2), postgres_server.start()))
    starter.start()
    try:
        said = prepare_ledger(postgres_server.url("late"), 30)
    finally:
        starter.join()
    assert said[0] == "ledger: made the database 'late'"


@pytest.mark.e2e
def test_dagsters_storage_that_does_not_answer_is_named(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    place = replace(places.empty("old"), dagster_url=f"postgresql://me:{PASSWORD}@127.0.0.1:1/db")
    with pytest.raises(BackupError, match=r"Dagster's storage cannot be used: .*waited 0 s") as caught:
        prepare_dagster(partial(place.instance), tmp_path, 0, [])
    assert PASSWORD not in str(caught.value)
