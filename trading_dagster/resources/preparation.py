"""What must be there before anything else starts: the ledger's database and schema, and Dagster's storage.

Belongs here: making and upgrading them, by as many processes at once as like to.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from trading_dagster.resources.backup_files import BackupError
from trading_dagster.resources.postgres_dump import PostgresDatabase

if TYPE_CHECKING:
    import dagster as dg

LOCK = ".migrate.lock"
SERVER_LOCK = 20000104


def prepare_ledger(url: str, wait: float) -> list[str]:
    """Make the ledger's database if need be, and bring it to the newest schema; return what was done, in words.

    Parameters
    ----------
    wait : float
        Seconds to wait for a server that does not answer yet.

    Raises
    ------
    BackupError, LedgerUnavailableError
        If that is not possible.
    """
    from sqlalchemy.engine import make_url

    from trading_dagster.resources import sqlite_copy
    from trading_dagster.resources.ledger_database import LedgerDatabase

    done = []
    if make_url(url).get_backend_name() == "postgresql":
        database = PostgresDatabase(url)
        database.wait(wait)
        if database.create():
            done.append(f"ledger: made the database {database.name!r}")
        shown, before = database.shown, database.content().revision
    else:
        path = Path(make_url(url).database or ":memory:")
        shown, before = str(path), sqlite_copy.revision(path) if path.exists() else ""
    ledger = LedgerDatabase(url)
    with ledger.engine.connect() as connection:
        after = str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())
    ledger.engine.dispose()
    what = "is as it must be" if before == after else f"was brought there from {before}" if before else "was made"
    return [*done, f"ledger: {shown}, schema {after}, {what}"]


def prepare_dagster(
    open_instance: Callable[[], AbstractContextManager[dg.DagsterInstance]],
    data_dir: Path,
    wait: float,
    pools: Iterable[str],
) -> list[str]:
    """Make Dagster's storage if need be, and upgrade it as `dagster instance migrate` does.

    Parameters
    ----------
    open_instance : callable
    data_dir : Path
    wait : float
        Seconds for a server that does not answer yet.
    pools : iterable of str
        Pools that get the instance's default limit now: a queue that meets one for the first time does not limit it.

    Raises
    ------
    BackupError
        If that is not possible.
    """
    import dagster as dg
    from dagster_postgres.utils import DagsterPostgresException
    from sqlalchemy.exc import SQLAlchemyError

    ends = time.monotonic() + wait
    while True:
        try:
            with _alone(data_dir), open_instance() as instance, _alone_at(instance):
                before, _ = instance.run_storage.alembic_version() or (None, None)
                upgrade(instance)
                _limit(instance, pools)
                after, _ = instance.run_storage.alembic_version() or (None, None)
                storage = type(instance.run_storage).__name__.removesuffix("RunStorage")
        except dg.DagsterError as error:
            raise BackupError(f"Dagster's storage cannot be prepared: {_line(error)}") from error
        except (DagsterPostgresException, SQLAlchemyError) as error:
            cause = error.__cause__ if isinstance(error, DagsterPostgresException) and error.__cause__ else error
            if time.monotonic() >= ends:
                raise BackupError(f"Dagster's storage cannot be used: {_line(cause)}; waited {wait:g} s") from error
            time.sleep(0.5)
        else:
            what = "is as it must be" if before == after else f"was brought there from {before}"
            return [f"Dagster: {storage} storage, schema {after}, {what}"]


def upgrade(instance: dg.DagsterInstance) -> None:
    """Bring Dagster's storage to the schema of this Dagster, without what it prints of its progress."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        instance.upgrade()


def _limit(instance: dg.DagsterInstance, pools: Iterable[str]) -> None:
    """Give pools that the storage does not know yet the instance's default limit, if it has one."""
    storage = instance.event_log_storage
    if storage.supports_global_concurrency_limits and instance.global_op_concurrency_default_limit is not None:
        for pool in set(pools) - set(storage.get_concurrency_keys()):
            storage.initialize_concurrency_limit_to_default(pool)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process of this machine after the other make files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _held(database: PostgresDatabase) -> Iterator[None]:
    with database.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [SERVER_LOCK])
        yield


def _alone_at(instance: dg.DagsterInstance) -> AbstractContextManager[None]:
    """Let one process of any machine after the other change a server's schema."""
    url = getattr(instance.run_storage, "postgres_url", "")
    return _held(PostgresDatabase(url)) if url else nullcontext()


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".?")
