"""The exporter against ledgers, tables, Dagster's storage and backups whose figures are known."""

import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.storage.runs.schema import RunsTable
from dagster._daemon.types import DaemonHeartbeat
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import QUIET
from trading_dagster.calendar import SessionCalendar
from trading_dagster.execution.gates import Gate, Refusal
from trading_dagster.execution.halts import Cause, HaltState
from trading_dagster.execution.orders import OrderState
from trading_dagster.policy import Violation
from trading_dagster.resources import exporter
from trading_dagster.resources.exporter import METRICS, Figures, TradingCollector, serve
from trading_dagster.resources.exporter_sources import (
    DagsterReader,
    LedgerReader,
    backup_figures,
    dagster_figures,
    ledger_figures,
    sources,
    table_figures,
)
from trading_dagster.resources.sql_ledger import SqlLedger
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import Settings

from .books import MONDAY, TUESDAY, WEDNESDAY, D, dump, execute, open_books, order, url_of
from .rows import allocation_rows, bar_rows

INFO = {"broker": "simulated", "source": "sample", "strategy": "main", "version": "1"}
"""In the order in which labels are written: by name."""


def plain(page: Figures) -> dict[str, Any]:
    """Values by metric: one number, or numbers by label."""
    found: dict[str, Any] = {}
    for name, labels, value in page.values:
        if labels:
            found.setdefault(name, {})[labels[0] if len(labels) == 1 else labels] = value
        else:
            found[name] = value
    return found


def scrape(collector: TradingCollector) -> dict[tuple[str, tuple[str, ...]], float]:
    """What Prometheus reads, by name and values of labels."""
    registry = CollectorRegistry()
    registry.register(collector)
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


# -- ledger -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader(ledger: SqlLedger) -> Iterator[LedgerReader]:
    found = LedgerReader(url_of(ledger))
    yield found
    found.engine.dispose()


def test_books_as_they_are(ledger: SqlLedger, reader: LedgerReader) -> None:
    open_books(ledger, cash="1000")
    for day, equity in ((MONDAY, "1000"), (TUESDAY, "1100"), (WEDNESDAY, "990")):
        ledger.record_snapshot("main", day, D(equity), {})
    ledger.record_plan("main", TUESDAY, 0, [order("earlier", TUESDAY)], "run")
    ledger.record_plan("main", WEDNESDAY, 0, [order(name, WEDNESDAY) for name in ("a", "b", "c")], "run")
    ledger.record_state("a", OrderState.REJECTED, "no")
    ledger.record_state("b", OrderState.CANCELLED, "no")
    ledger.record_refusals("main", TUESDAY, [Refusal(Gate.LEASE, "before")], "run")
    ledger.record_refusals("main", WEDNESDAY, [Refusal(Gate.GROSS, "much", s) for s in ("X", "Y")], "run")
    ledger.record_refusals("other", WEDNESDAY, [Refusal(Gate.CASH, "none")], "run")
    ledger.record_violations([Violation("forecast", "AAA", MONDAY, 1499, 1500)] * 3, "abort", "run")
    ledger.count_broker_error("main")
    lease = ledger.acquire_lease("main", "me", 60.0)
    before = dump(ledger)

    found = plain(ledger_figures(reader, "main"))

    assert dump(ledger) == before
    [(since,)] = [(row.since,) for row in ledger.halt_history("main")]
    assert since is not None
    assert found == {
        "trading_halt_state": {"ACTIVE": 1, "REDUCE_ONLY": 0, "HALTED": 0},
        "trading_halt_since_timestamp_seconds": since.timestamp(),
        "trading_account_equity": 990,
        "trading_account_cash": 1000,
        "trading_account_session_timestamp_seconds": midnight(WEDNESDAY),
        "trading_daily_return_ratio": pytest.approx(-0.1),
        "trading_drawdown_ratio": pytest.approx(0.1),
        "trading_open_orders": {
            "planned": 2, "submitted": 0, "unconfirmed": 0, "accepted": 0, "partially_filled": 0
        },
        "trading_session_orders": dict.fromkeys((s.value for s in OrderState), 0)
        | {"planned": 1, "rejected": 1, "cancelled": 1},
        "trading_session_refusals": dict.fromkeys((g.value for g in Gate), 0) | {"gross": 2},
        "trading_lease_held": 1,
        "trading_broker_errors": 1,
        "trading_policy_violations_total": 3,
    }  # fmt: skip
    ledger.release_lease(lease)
    ledger.set_halt_state("main", HaltState.HALTED, Cause.OPERATOR, "by hand", "me")
    again = plain(ledger_figures(reader, "main"))
    assert again["trading_halt_state"] == {"ACTIVE": 0, "REDUCE_ONLY": 0, "HALTED": 1}
    assert again["trading_lease_held"] == 0


def test_refused_session_counts_though_no_account_of_it_is_on_record(ledger: SqlLedger, reader: LedgerReader) -> None:
    open_books(ledger)
    ledger.record_snapshot("main", MONDAY, D(1000), {})
    ledger.record_refusals("main", TUESDAY, [Refusal(Gate.FRESHNESS, "old")], "run")
    assert plain(ledger_figures(reader, "main"))["trading_session_refusals"]["freshness"] == 1
    ledger.record_snapshot("main", WEDNESDAY, D(1000), {})
    assert plain(ledger_figures(reader, "main"))["trading_session_refusals"]["freshness"] == 0


def test_strategy_that_never_traded_has_neither_state_nor_account(ledger: SqlLedger, reader: LedgerReader) -> None:
    found = plain(ledger_figures(reader, "main"))
    assert not {"trading_halt_state", "trading_account_equity"} & set(found)
    assert found["trading_open_orders"]["planned"] == found["trading_policy_violations_total"] == 0


def test_ledger_that_lost_its_state_shows_as_halted(ledger: SqlLedger, reader: LedgerReader) -> None:
    open_books(ledger)
    execute(ledger, "DELETE FROM halt_states")
    found = plain(ledger_figures(reader, "main"))
    assert found["trading_halt_state"]["HALTED"] == 1
    assert "trading_halt_since_timestamp_seconds" not in found


def test_no_ledger_is_made(tmp_path: Path) -> None:
    assert plain(ledger_figures(LedgerReader(f"sqlite:///{tmp_path}/data/ledger.db"), "main")) == {}
    assert list(tmp_path.iterdir()) == []


def test_no_table_is_made_in_an_empty_database(postgres_url: str) -> None:
    reader = LedgerReader(postgres_url)
    assert plain(ledger_figures(reader, "main")) == {}
    with reader.engine.connect() as connection:
        assert not reader.engine.dialect.get_table_names(connection)
    reader.engine.dispose()


def test_ledger_is_only_read(ledger: SqlLedger, reader: LedgerReader) -> None:
    with pytest.raises(Exception, match=r"(?i)read-?only"):
        open_books(reader)
    assert ledger.strategy("main") is None


def test_writer_is_not_held_up(sqlite_ledger: SqlLedger) -> None:
    reader = LedgerReader(url_of(sqlite_ledger))
    open_books(sqlite_ledger)
    with sqlite_ledger.transaction() as db:  # a run that is in the middle of writing
        db.connection()
        began = time.monotonic()
        assert plain(ledger_figures(reader, "main"))["trading_halt_state"]["ACTIVE"] == 1
    assert time.monotonic() - began < 2


# -- tables -----------------------------------------------------------------------------------------------------------


def test_tables_as_they_are(tables: Tables, calendar: SessionCalendar) -> None:
    days = [date(2024, 7, 1), date(2024, 7, 2), date(2024, 7, 3)]
    for day in days:
        tables.replace("allocation", allocation_rows([day]), day, day)
    tables.add_revisions("bars", bar_rows(days[0], {"AAA": 10.0}, datetime(2024, 7, 1, 21, tzinfo=UTC)))
    tables.add_revisions("bars", bar_rows(days[1], {"AAA": 10.0}, datetime(2024, 7, 2, 21, tzinfo=UTC)))
    folder = Path(tables.uri)
    sizes = {name: sum(p.stat().st_size for p in (folder / name).glob("*.parquet")) for name in ("allocation", "bars")}
    # after the holiday of the 4th, long after the close of Friday the 5th
    found = plain(table_figures(tables, calendar, datetime(2024, 7, 6, 12, tzinfo=UTC), None))
    assert found == {
        "trading_table_newest_session_timestamp_seconds": {
            "allocation": midnight(days[2]), "bars": midnight(days[1])
        },
        "trading_table_files": {"allocation": 3, "bars": 2},
        "trading_table_bytes": sizes,
        "trading_sessions_behind": {"bars": 2},
        "trading_quarantined_bars": 0,
    }  # fmt: skip
    ended = plain(table_figures(tables, calendar, datetime(2024, 7, 6, 12, tzinfo=UTC), days[1]))
    assert ended["trading_sessions_behind"] == {"bars": 0}


def test_no_tables_are_made(tables: Tables, calendar: SessionCalendar) -> None:
    assert plain(table_figures(tables, calendar, datetime.now(UTC), None)) == {"trading_quarantined_bars": 0}
    assert not Path(tables.uri).exists()


# -- Dagster ----------------------------------------------------------------------------------------------------------


@dg.op
def do_it(context: dg.OpExecutionContext) -> None:
    if "fail" in context.run.tags:
        raise dg.Failure("it failed", allow_retries=False)


@dg.job(executor_def=dg.in_process_executor)
def small() -> None:
    do_it()


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Dagster's home, before anything was stored, with each kind of storage."""
    folder = tmp_path / "dagster"
    folder.mkdir()
    config: dict[str, Any] = {"telemetry": {"enabled": False}}
    if request.param == "postgresql":
        config["storage"] = {"postgres": {"postgres_url": request.getfixturevalue("postgres_url")}}
    (folder / "dagster.yaml").write_text(yaml.dump(config), encoding="utf-8")
    return folder


def test_runs_and_daemons_as_they_are(home: Path) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for tags in ({}, {}, {"fail": "yes"}):
            ended = small.execute_in_process(instance=instance, tags=tags, raise_on_error=False, run_config=QUIET)
        assert not ended.success
        stats = [instance.get_run_record_by_id(run.run_id) for run in instance.get_runs()]
        last = max(r.end_time for r in stats if r and r.dagster_run.is_success and r.end_time)
        heartbeat = DaemonHeartbeat(timestamp=1234.5, daemon_type="SENSOR", daemon_id="one", errors=[])
        instance.add_daemon_heartbeat(heartbeat)
        waiting = instance.create_run_for_job(small).run_id
        with instance.run_storage.connect() as connection:  # only the daemon's workspace can queue a run
            connection.execute(RunsTable.update().where(RunsTable.c.run_id == waiting).values(status="QUEUED"))
    found = plain(dagster_figures(DagsterReader(home), time.time()))
    assert found == {
        "trading_dagster_runs": {("small", "SUCCESS"): 2, ("small", "FAILURE"): 1, ("small", "QUEUED"): 1},
        "trading_dagster_queued_runs": 1,
        "trading_dagster_job_last_success_timestamp_seconds": {"small": pytest.approx(last)},
        "trading_dagster_daemon_heartbeat_timestamp_seconds": {"SENSOR": 1234.5},
    }
    # a day later, what ended is not counted any more; what waits is, and the last success stays
    later = plain(dagster_figures(DagsterReader(home), time.time() + 86_401))
    assert later["trading_dagster_runs"] == {("small", "QUEUED"): 1}
    assert later["trading_dagster_job_last_success_timestamp_seconds"] == {"small": pytest.approx(last)}


def test_no_storage_of_dagster_is_made(home: Path, request: pytest.FixtureRequest) -> None:
    assert plain(dagster_figures(DagsterReader(home), time.time())) == {}
    assert [path.name for path in home.rglob("*")] == ["dagster.yaml"]
    if "postgresql" in request.node.name:
        ledger = LedgerReader(
            yaml.safe_load((home / "dagster.yaml").read_text())["storage"]["postgres"]["postgres_url"]
        )
        with ledger.engine.connect() as connection:
            assert not ledger.engine.dialect.get_table_names(connection)
        ledger.engine.dispose()


def test_storage_that_comes_later_is_found(home: Path) -> None:
    reader = DagsterReader(home)
    assert plain(dagster_figures(reader, time.time())) == {}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        small.execute_in_process(instance=instance, run_config=QUIET)
    assert plain(dagster_figures(reader, time.time()))["trading_dagster_runs"] == {("small", "SUCCESS"): 1}


# -- backups ----------------------------------------------------------------------------------------------------------


def test_newest_whole_backup(tmp_path: Path) -> None:
    assert plain(backup_figures(None)) == {}
    assert plain(backup_figures(tmp_path / "none")) == {"trading_backups": 0}
    for name in ("20240701T200000Z", "20240703T200000Z", "20240704T200000Z", "notes"):
        (tmp_path / name).mkdir()
        if name != "20240704T200000Z":  # which was never finished
            (tmp_path / name / "manifest.json").write_text("{}")
    found = plain(backup_figures(tmp_path))
    newest = datetime(2024, 7, 3, 20, tzinfo=UTC).timestamp()
    assert found == {"trading_backups": 2, "trading_backup_newest_timestamp_seconds": newest}


# -- the page ---------------------------------------------------------------------------------------------------------


def one(value: float) -> Figures:
    page = Figures()
    page.add("trading_backups", value)
    return page


def fails() -> Figures:
    raise RuntimeError("no\nconnection")


def test_source_that_fails_is_down_and_the_others_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    collector = TradingCollector({"backups": lambda: one(3), "ledger": fails}, INFO)
    with caplog.at_level(logging.WARNING):
        page = scrape(collector)
    assert page[("trading_source_up", ("backups",))] == page[("trading_build_info", tuple(INFO.values()))] == 1
    assert page[("trading_source_up", ("ledger",))] == 0
    assert page[("trading_backups", ())] == 3
    assert [r.getMessage() for r in caplog.records] == ["the source ledger cannot be read: RuntimeError: no connection"]


def test_problem_is_told_once_and_again_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporter, "KEPT", 0.0)
    answers = [fails, fails, lambda: one(1), lambda: one(1), fails]
    collector = TradingCollector({"backups": lambda: answers.pop(0)()}, INFO)
    with caplog.at_level(logging.WARNING):
        ups = [scrape(collector)[("trading_source_up", ("backups",))] for _ in range(5)]
    assert ups == [0, 0, 1, 1, 0]
    told = [record.levelname for record in caplog.records]
    assert told == ["ERROR", "WARNING", "ERROR"]


def test_figures_are_kept_for_some_seconds() -> None:
    now, read = [1000.0], []

    def count() -> Figures:
        read.append(now[0])
        return one(len(read))

    collector = TradingCollector({"backups": count}, INFO, lambda: now[0])
    values = []
    for at in (1000, 1001, 1000 + exporter.KEPT - 0.1, 1000 + exporter.KEPT, 1001 + exporter.KEPT):
        now[0] = at
        values.append(scrape(collector)[("trading_backups", ())])
    assert values == [1, 1, 1, 2, 2]


def test_source_that_hangs_is_down_and_is_not_asked_twice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporter, "PATIENCE", 0.2)
    goes_on, calls = threading.Event(), []

    def hang() -> Figures:
        calls.append(1)
        assert goes_on.wait(60)
        return one(7)

    collector = TradingCollector({"ledger": hang, "tables": Figures}, INFO)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            began = time.monotonic()
            page = scrape(collector)
            assert time.monotonic() - began < 5
            assert (page[("trading_source_up", ("ledger",))], page[("trading_source_up", ("tables",))]) == (0, 1)
    assert calls == [1]
    assert [r.getMessage() for r in caplog.records] == [
        "the source ledger cannot be read: it gave no answer within 0.2 s"
    ]
    goes_on.set()
    patience = time.monotonic() + 10
    while scrape(collector)[("trading_source_up", ("ledger",))] == 0:
        assert time.monotonic() < patience
    assert scrape(collector)[("trading_backups", ())] == 7


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, described in METRICS.items():
        assert name.startswith("trading_")
        assert described.meaning.endswith(".")
        assert name == name.lower()
        assert not name.endswith(("_days", "_percent", "_ms", "_count"))
        assert ("timestamp" in name) == name.endswith("_timestamp_seconds")


@pytest.mark.parametrize("labels", [{}, {"gate": "x"}, {"state": "x", "more": "y"}])
def test_value_with_other_labels_is_refused(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="trading_halt_state has the labels state, and"):
        Figures().add("trading_halt_state", 1, **labels)


def test_nothing_is_made_before_the_first_run(tmp_path: Path, calendar: SessionCalendar) -> None:
    settings = Settings(data_dir=tmp_path / "data", backup_dir=tmp_path / "backups")
    home = settings.data_dir / "dagster"
    page = scrape(TradingCollector(sources(settings, calendar, home, None), INFO))
    assert {labels[0]: up for (name, labels), up in page.items() if name == "trading_source_up"} == dict.fromkeys(
        ("ledger", "tables", "dagster", "backups"), 1
    )
    assert list(tmp_path.iterdir()) == []


def test_page_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        unused_port = found.getsockname()[1]
    serve(TradingCollector({"backups": lambda: one(2)}, INFO), "127.0.0.1", unused_port)
    with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics", timeout=10) as answer:
        assert "trading_backups 2.0" in answer.read().decode()
    with pytest.raises(OSError, match="in use"):
        serve(TradingCollector({}, INFO), "127.0.0.1", unused_port)
