"""Retention: removing what has served its time from Dagster's event log, its step logs, and the tables' storage.

Belongs here: which lines of a run may go, and the order in which all is removed. Does not belong here: how a table is
tidied (`tables`), backups (they have a number, not an age), ticks of schedules (Dagster's own `retention`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from deltalake.exceptions import DeltaError
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Table,
    and_,
    create_engine,
    delete,
    exists,
    func,
    or_,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from trading_dagster.resources.schemas import TABLES
from trading_dagster.resources.tables import TableError, Tables, Tidied

SHORTEST = 7
"""Days; a week back must be there for whoever looks into what went wrong."""

Kind = dg.DagsterEventType

PASSING = (
    Kind.STEP_START, Kind.STEP_SUCCESS, Kind.STEP_INPUT, Kind.STEP_OUTPUT, Kind.STEP_SKIPPED, Kind.STEP_RESTARTED,
    Kind.STEP_UP_FOR_RETRY, Kind.STEP_WORKER_STARTING, Kind.STEP_WORKER_STARTED, Kind.RESOURCE_INIT_STARTED,
    Kind.RESOURCE_INIT_SUCCESS, Kind.LOADED_INPUT, Kind.HANDLED_OUTPUT, Kind.OBJECT_STORE_OPERATION,
    Kind.ASSET_STORE_OPERATION, Kind.ENGINE_EVENT, Kind.HOOK_COMPLETED, Kind.HOOK_SKIPPED, Kind.LOGS_CAPTURED,
    Kind.ASSET_CHECK_EVALUATION_PLANNED,
)  # fmt: skip
"""Events that tell how a run went, beside its log lines, which have no kind. All others are kept for ever.

Kept: what assets and checks came to (the history of each, `missed_sessions`, `trading explain`), which assets were
planned (so which partitions failed), when a run began and how it ended, and why a step failed. A kind that a later
Dagster brings is kept until it is named here. That a check was planned stands in Dagster's table of checks, too; as an
event it lists every partition that there is, and so is two thirds of all text.
"""

BATCH, PAGE = 1000, 200
"""Lines in one transaction; runs in one query."""

Connect = Callable[[], AbstractContextManager[Connection]]

ANY_ZONE = timedelta(days=1)
"""More than the hours between UTC and any zone."""

WATERMARK = "trading/retention"
"""Key in Dagster's storage: runs that ended before the moment there have been dealt with."""


class RetentionError(ValueError):
    """A retention that cannot be carried out as asked."""


@dataclass(frozen=True)
class RunsCleared:
    """What went of past runs.

    Attributes
    ----------
    runs : int
        Runs that were looked at.
    events, event_bytes : int
        Lines of the event log, and plans of checks, that went, and their text.
    step_logs, step_log_bytes : int
        Files with what steps printed.
    """

    runs: int = 0
    events: int = 0
    event_bytes: int = 0
    step_logs: int = 0
    step_log_bytes: int = 0


@dataclass(frozen=True)
class Retained:
    """What a retention did.

    Attributes
    ----------
    before : datetime
        What ended or was replaced earlier was removed.
    runs : RunsCleared or None
        None where it failed.
    tables : dict of str to Tidied
        Each table that is there.
    problems : list of str
        What could not be done; the rest was done nevertheless.
    """

    before: datetime
    runs: RunsCleared | None = None
    tables: dict[str, Tidied] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def days_to_keep(asked: int | None, setting: int | None) -> int:
    """Days that are kept: those asked for, else the setting's.

    Raises
    ------
    RetentionError
        If neither is there, or fewer than `SHORTEST` are asked for.
    """
    days = setting if asked is None else asked
    if days is None:
        raise RetentionError(
            "TRADING_RETENTION_DAYS is not set, so nothing is ever removed; set it to the days to keep, or say them: "
            "trading retention --days 90"
        )
    if days < SHORTEST:
        raise RetentionError(
            f"{days} days are too few: {SHORTEST} or more must be kept, for whoever looks into what went wrong"
        )
    return days


def apply_retention(tables: Tables, instance: dg.DagsterInstance, days: int, now: datetime | None = None) -> Retained:
    """Remove what is older than so many days; what fails is told, and the rest is done nevertheless."""
    from dagster_postgres.utils import DagsterPostgresException

    keep = timedelta(days=days)
    done = Retained((now or datetime.now(UTC)) - keep)
    runs = None
    try:
        runs = clear_runs(instance, done.before)
    except (SQLAlchemyError, DagsterPostgresException, OSError, RetentionError) as error:
        done.problems.append(f"runs: {_words(error)}")
    for name in TABLES:
        try:
            tidied = tables.tidy(name, keep)
        except (DeltaError, TableError, OSError) as error:
            done.problems.append(f"table {name}: {_words(error)}")
        else:
            if tidied != Tidied():
                done.tables[name] = tidied
    return Retained(done.before, runs, done.tables, done.problems)


def as_dict(done: Retained) -> dict[str, Any]:
    """What a retention did, in plain values."""
    return {
        "before": done.before.isoformat(timespec="seconds"),
        "runs": None if done.runs is None else asdict(done.runs),
        "tables": {name: asdict(tidied) for name, tidied in done.tables.items()},
        "problems": done.problems,
    }


def as_text(done: Retained) -> str:
    """What a retention did, for people to read."""
    lines = [f"removed what is older than {done.before:%Y-%m-%d %H:%M} UTC"]
    if done.runs is not None:
        runs = done.runs
        lines += [
            f"event log      {runs.events} lines of {runs.runs} runs, {_size(runs.event_bytes)}",
            f"step logs      {runs.step_logs} files, {_size(runs.step_log_bytes)}",
        ]
    for name, tidied in done.tables.items():
        lines.append(
            f"{name:14s} {tidied.merged} files merged, {tidied.removed} removed, {tidied.log_entries} log entries, "
            f"{_size(tidied.bytes)}; {tidied.files} left"
        )
    lines += [f"NOT DONE       {problem}" for problem in done.problems]
    return "\n".join(lines)


def clear_runs(instance: dg.DagsterInstance, before: datetime) -> RunsCleared:
    """Remove the passing lines and the step logs of runs that ended before a moment; what has a meaning stays.

    Runs that an earlier call has dealt with are not looked at again.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise RetentionError(
            f"Dagster's event log is a {type(storage).__name__}, of which nothing is known here; retention works on "
            "SQLite and PostgreSQL"
        )
    cursors = instance.daemon_cursor_storage
    known = cursors.get_cursor_values({WATERMARK}).get(WATERMARK)
    done_to = datetime.fromisoformat(known) if known else None
    runs = events = event_bytes = files = file_bytes = 0
    for page in _ended(instance, done_to, before):
        cleared = [_clear_events(storage, run_id) for run_id in page] + [_clear_planned_checks(storage, page)]
        logs = [_clear_step_logs(instance, run_id) for run_id in page]
        runs += len(page)
        events, event_bytes = events + sum(n for n, _ in cleared), event_bytes + sum(size for _, size in cleared)
        files, file_bytes = files + sum(n for n, _ in logs), file_bytes + sum(size for _, size in logs)
    if done_to is None or before > done_to:
        cursors.set_cursor_values({WATERMARK: before.isoformat()})
    return RunsCleared(runs, events, event_bytes, files, file_bytes)


def _ended(instance: dg.DagsterInstance, after: datetime | None, before: datetime) -> Iterator[list[str]]:
    """Identities of runs that ended between two moments, oldest first, some at a time."""
    # a run is updated when it ends, or later, and never created after that. On a PostgreSQL server whose zone is not
    # UTC, Dagster's times of both are off by that zone; the end is not
    wanted = dg.RunsFilter(
        statuses=list(FINISHED_STATUSES),
        updated_after=None if after is None else after - ANY_ZONE,
        created_before=before + ANY_ZONE,
    )
    first = -math.inf if after is None else after.timestamp()
    cursor = None
    while True:
        page = instance.get_run_records(wanted, limit=PAGE, cursor=cursor, ascending=True)
        # runs of a Dagster of years ago have no end of their own
        yield [
            record.dagster_run.run_id
            for record in page
            if first <= (record.end_time or record.update_timestamp.timestamp()) < before.timestamp()
        ]
        if len(page) < PAGE:
            return
        cursor = page[-1].dagster_run.run_id


def _clear_events(storage: SqlEventLogStorage, run_id: str) -> tuple[int, int]:
    """Remove the passing lines of a run, in batches, and return how many there were, and their text's length."""
    if isinstance(storage, SqliteEventLogStorage) and not Path(storage.path_for_shard(run_id)).exists():
        return 0, 0  # connecting would make it
    count, size = _clear_lines(lambda: storage.run_connection(run_id), run_id)
    if isinstance(storage, SqliteEventLogStorage):
        if count:
            _shrink(storage, run_id)
        # what concerns assets and checks is there a second time, for questions about all runs
        mirrored, mirrored_size = _clear_lines(storage.index_connection, run_id)
        return count + mirrored, size + mirrored_size
    return count, size


def _clear_lines(connect: Connect, run_id: str) -> tuple[int, int]:
    """Remove a run's passing lines in one database."""
    table, lines = SqlEventLogStorageTable, SqlEventLogStorageTable.c
    passing = or_(lines.dagster_event_type.is_(None), lines.dagster_event_type.in_([kind.value for kind in PASSING]))
    return _clear_rows(connect, table, lines.event, and_(lines.run_id == run_id, passing))


def _clear_planned_checks(storage: SqlEventLogStorage, run_ids: list[str]) -> tuple[int, int]:
    """Remove that checks were planned, where the run has an evaluation of the same check.

    Dagster writes a row a partition, with the planning event as a whole in each; in a run over a range the evaluation
    has no partition, and comes beside them.
    """
    table, evaluated = AssetCheckExecutionsTable, AssetCheckExecutionsTable.alias()
    planned = AssetCheckExecutionRecordStatus.PLANNED.value
    superseded = exists().where(
        evaluated.c.run_id == table.c.run_id,
        evaluated.c.asset_key == table.c.asset_key,
        evaluated.c.check_name == table.c.check_name,
        evaluated.c.execution_status != planned,
    )
    passing = and_(table.c.run_id.in_(run_ids), table.c.execution_status == planned, superseded)
    return _clear_rows(storage.index_connection, table, table.c.evaluation_event, passing)


def _clear_rows(connect: Connect, table: Table, words: Column[Any], passing: ColumnElement[bool]) -> tuple[int, int]:
    """Remove rows in batches, and return how many there were, and their text's length."""
    batch = select(table.c.id).where(passing).limit(BATCH)
    count = size = 0
    while True:
        with connect() as connection:
            ids = list(connection.execute(batch).scalars())
            if ids:
                chosen = table.c.id.in_(ids)
                # JSON in ASCII: letters are bytes
                size += connection.execute(select(func.sum(func.length(words))).where(chosen)).scalar_one() or 0
                connection.execute(delete(table).where(chosen))
        count += len(ids)
        if len(ids) < BATCH:
            return count, size


def _shrink(storage: SqliteEventLogStorage, run_id: str) -> None:
    """Give a run's file the size of what is left in it; a deletion alone leaves holes."""
    engine = create_engine(storage.conn_string_for_shard(run_id), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM")
    engine.dispose()


def _clear_step_logs(instance: dg.DagsterInstance, run_id: str) -> tuple[int, int]:
    """Remove what a run's steps printed, and return how many files there were, and their size."""
    manager, prefix = instance.compute_log_manager, [run_id, "compute_logs"]
    files = size = 0
    if isinstance(manager, LocalComputeLogManager):
        folder = Path(manager.get_captured_local_path([*prefix, "any"], "out")).parent
        found = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        files, size = len(found), sum(found)
    manager.delete_logs(prefix=prefix)
    return files, size


def _size(count: int) -> str:
    """Bytes for people to read."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} bytes"


def _words(error: Exception) -> str:
    """An error in one line, without the statement that SQLAlchemy repeats."""
    told = getattr(error, "orig", None) or error
    return " ".join(f"{type(told).__name__}: {told}".split())
