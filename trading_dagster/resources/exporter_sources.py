"""Where the exporter's figures come from: ledger, tables, Dagster's storage, backups. All of it is only read.

Belongs here: reading without making anything. Before the first run there is no ledger, no table and no storage; that
is an answer without figures, and no failure.
"""

from __future__ import annotations

import functools
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from sqlalchemy import Engine, create_engine, func, inspect, select
from sqlalchemy.pool import NullPool

from trading_dagster.calendar import SessionCalendar
from trading_dagster.execution.gates import Gate
from trading_dagster.execution.halts import HaltState, losses
from trading_dagster.execution.orders import TERMINAL_STATES, OrderState
from trading_dagster.resources.exporter import Figures, Read
from trading_dagster.resources.freshness import WATCHED, due_by, sessions_behind
from trading_dagster.resources.ledger_models import PolicyViolationRow, RefusalRow
from trading_dagster.resources.quarantine import listing
from trading_dagster.resources.schemas import TABLES
from trading_dagster.resources.sql_ledger import SqlLedger
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

CONNECT_SECONDS, STATEMENT_MILLISECONDS = 3, 4000
BACKUP = re.compile(r"\d{8}T\d{6}Z")
"""Name of a backup's folder: when it was made."""

DAY = 86_400


def sources(settings: Settings, calendar: SessionCalendar, home: Path, last_session: date | None) -> Mapping[str, Read]:
    """Build the sources of an installation; none of them connects to anything yet.

    Parameters
    ----------
    home : Path
        Dagster's; it need not be there.
    last_session : date or None
        Where the source of market data ends, if it does.
    """
    ledger = LedgerReader(settings.resolved_ledger_url)
    tables = Tables(settings.resolved_tables_uri)
    dagster = DagsterReader(home)
    return {
        "ledger": lambda: ledger_figures(ledger, settings.strategy),
        "tables": lambda: table_figures(tables, calendar, datetime.now(UTC), last_session),
        "dagster": lambda: dagster_figures(dagster, time.time()),
        "backups": lambda: backup_figures(settings.backup_dir),
    }


# -- ledger -----------------------------------------------------------------------------------------------------------


class LedgerReader(SqlLedger):
    """The ledger, which is neither made nor migrated, and never locked: a run that trades does not wait for it."""

    @functools.cached_property
    def engine(self) -> Engine:
        """The database, for reading."""
        if self._url.get_backend_name() == "sqlite":
            uri = f"{Path(self._url.database or '').absolute().as_uri()}?mode=ro"
            # the time-out is for a writer that commits
            return create_engine(
                "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, timeout=4), poolclass=NullPool
            )
        options = f"-c default_transaction_read_only=on -c statement_timeout={STATEMENT_MILLISECONDS}"
        return create_engine(
            self._url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS, "options": options}
        )

    def is_there(self) -> bool:
        """Whether there is a ledger to be read."""
        if self._url.get_backend_name() == "sqlite" and not Path(self._url.database or "").exists():
            return False
        with self._available():
            return inspect(self.engine).has_table("alembic_version")


def ledger_figures(ledger: LedgerReader, strategy: str) -> Figures:
    """Figures of the strategy's books."""
    page = Figures()
    if not ledger.is_there():
        return page
    if ledger.has_traded(strategy):
        halt = ledger.halt_state(strategy)
        for state in HaltState:
            page.add("trading_halt_state", state is halt.state, state=state.value)
        if halt.since is not None:
            page.add("trading_halt_since_timestamp_seconds", halt.since.timestamp())
    record = ledger.strategy(strategy)
    page.add("trading_broker_errors", record.broker_errors if record else 0)
    page.add("trading_lease_held", ledger.lease_holder(strategy) is not None)
    open_orders = Counter(order.state for order in ledger.open_orders(strategy))
    for order_state in OrderState:
        if order_state not in TERMINAL_STATES:
            page.add("trading_open_orders", open_orders[order_state], state=order_state.value)
    with ledger.transaction() as db:
        violations = db.scalar(select(func.count()).select_from(PolicyViolationRow))
        refused = db.scalar(select(func.max(RefusalRow.session)).where(RefusalRow.strategy == strategy))
    page.add("trading_policy_violations_total", violations or 0)
    newest = ledger.last_recorded_session(strategy)
    if newest is not None:
        _account(page, ledger, strategy, newest)
    _refusals(page, ledger, strategy, newest, refused)
    return page


def _account(page: Figures, ledger: LedgerReader, strategy: str, newest: pd.Timestamp) -> None:
    last = ledger.equity_curve(strategy).iloc[-1]
    page.add("trading_account_equity", last["equity"])
    page.add("trading_account_cash", last["cash"])
    page.add("trading_account_session_timestamp_seconds", _midnight(newest))
    found = losses(ledger.equity_points(strategy))
    page.add("trading_daily_return_ratio", -float(found.daily))
    page.add("trading_drawdown_ratio", float(found.drawdown))
    states = ledger.order_table(strategy, [newest.date()])["state"].value_counts()
    for state in OrderState:
        page.add("trading_session_orders", states.get(state.value, 0), state=state.value)


def _refusals(
    page: Figures, ledger: LedgerReader, strategy: str, newest: pd.Timestamp | None, refused: date | None
) -> None:
    """What was held back at the newest session; one whose account is on record may have held back nothing."""
    gates: Mapping[Any, int] = {}
    if refused is not None and (newest is None or refused >= newest.date()):
        gates = ledger.refusals(strategy, refused)["gate"].value_counts()
    for gate in Gate:
        page.add("trading_session_refusals", gates.get(gate.value, 0), gate=gate.value)


# -- tables -----------------------------------------------------------------------------------------------------------


def table_figures(tables: Tables, calendar: SessionCalendar, now: datetime, last_session: date | None) -> Figures:
    """Figures of what is stored."""
    page = Figures()
    due = due_by(calendar, now, last_session)
    for name in TABLES:
        found = tables.storage(name)
        if found is None:
            continue
        page.add("trading_table_files", found.files, table=name)
        page.add("trading_table_bytes", found.bytes, table=name)
        if found.newest is not None:
            page.add("trading_table_newest_session_timestamp_seconds", _midnight(found.newest), table=name)
            if name in WATCHED:
                page.add("trading_sessions_behind", sessions_behind(found.newest, due, calendar), table=name)
    page.add("trading_quarantined_bars", len(listing(tables)))
    return page


# -- Dagster ----------------------------------------------------------------------------------------------------------


class DagsterReader:
    """Dagster's storage, opened once it is there."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._instance: dg.DagsterInstance | None = None

    def instance(self) -> dg.DagsterInstance | None:
        """Dagster's instance; None as long as nothing was ever stored."""
        if self._instance is None:
            self._instance = self._open()
        return self._instance

    def _open(self) -> dg.DagsterInstance | None:
        import dagster as dg
        import yaml
        from dagster._core.instance.ref import InstanceRef

        config = self._home / "dagster.yaml"
        stated = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}) if config.exists() else {}
        storage = stated.get("storage") or {}
        if "postgres" in storage:
            # opening it would make its tables
            overrides = {"storage": {"postgres": {**storage["postgres"], "should_autocreate_tables": False}}}
            return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(self._home), overrides=overrides))
        folder = (storage.get("sqlite") or {}).get("base_dir", str(self._home))
        # a folder named by a variable is Dagster's to find
        if isinstance(folder, str) and not (Path(folder) / "history" / "runs.db").exists():
            return None
        return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(self._home)))


def dagster_figures(reader: DagsterReader, now: float) -> Figures:
    """Figures of runs and daemons."""
    from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES, DagsterRunStatus
    from dagster._core.storage.runs.schema import RunsTable
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

    page, instance = Figures(), reader.instance()
    if instance is None:
        return page
    storage = instance.run_storage
    if not isinstance(storage, SqlRunStorage):
        raise TypeError(f"Dagster's runs are in a {type(storage).__name__}, of which nothing is known here")
    runs = RunsTable.c
    under_way = runs.status.in_([status.value for status in (*NOT_FINISHED_STATUSES, DagsterRunStatus.MANAGED)])
    recent = select(runs.pipeline_name, runs.status, func.count()).where(under_way | (runs.end_time >= now - DAY))
    succeeded = select(runs.pipeline_name, func.max(runs.end_time)).where(runs.status == DagsterRunStatus.SUCCESS.value)
    with storage.connect() as connection:
        if not inspect(connection).has_table(RunsTable.name):
            return page
        counted = connection.execute(recent.group_by(runs.pipeline_name, runs.status)).all()
        last = connection.execute(succeeded.group_by(runs.pipeline_name)).all()
    for job, status, count in counted:
        page.add("trading_dagster_runs", count, job=job, status=status)
    queued = DagsterRunStatus.QUEUED.value
    page.add("trading_dagster_queued_runs", sum(count for _, status, count in counted if status == queued))
    for job, ended in last:
        if ended is not None:
            page.add("trading_dagster_job_last_success_timestamp_seconds", ended, job=job)
    for daemon, heartbeat in storage.get_daemon_heartbeats().items():
        page.add("trading_dagster_daemon_heartbeat_timestamp_seconds", heartbeat.timestamp, daemon=daemon)
    return page


# -- backups ----------------------------------------------------------------------------------------------------------


def backup_figures(folder: Path | None) -> Figures:
    """Figures of the backups; one without a manifest was never finished."""
    page = Figures()
    if folder is None:
        return page
    found = list(folder.iterdir()) if folder.exists() else []
    made = sorted(each.name for each in found if BACKUP.fullmatch(each.name) and _is_whole(each))
    page.add("trading_backups", len(made))
    if made:
        moment = datetime.strptime(made[-1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        page.add("trading_backup_newest_timestamp_seconds", moment.timestamp())
    return page


def _is_whole(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def _midnight(session: pd.Timestamp) -> float:
    return float(session.tz_localize("UTC").timestamp())
