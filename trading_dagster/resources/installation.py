"""Where an installation keeps what must not be lost: for backups, and for restoring them.

Belongs here: which databases and folders there are, found from the settings and Dagster's instance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trading_dagster.resources.backup_files import BackupRefusedError
from trading_dagster.resources.postgres_dump import PostgresDatabase
from trading_dagster.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

RUNS = Path("history") / "runs.db"
"""Dagster's runs, in its home, where it keeps them in SQLite."""


@dataclass(frozen=True)
class Installation:
    """Everything that a backup holds, where it is.

    Attributes
    ----------
    tables_uri : str
    ledger : PostgresDatabase or Path
        Database, or SQLite's file.
    dagster : PostgresDatabase or None
        None where Dagster keeps its storage in SQLite, in its home.
    dagster_home : Path
        Folder in which Dagster keeps files of its own.
    compute_logs : Path or None
        Logs of steps, where they are not in Dagster's home, and not in a store of somebody else's.
    logs : Path
        Of the data policy.
    ledger_url : str
    """

    tables_uri: str
    ledger: PostgresDatabase | Path
    dagster: PostgresDatabase | None
    dagster_home: Path
    compute_logs: Path | None
    logs: Path
    ledger_url: str = field(repr=False)

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each database."""
        return {
            "dagster": "sqlite" if self.dagster is None else "postgresql",
            "ledger": "postgresql" if isinstance(self.ledger, PostgresDatabase) else "sqlite",
        }

    @property
    def elsewhere(self) -> list[Path]:
        """Places that a copy of Dagster's home leaves out, should they be in it: they are parts of their own."""
        places = [self.logs]
        if "://" not in self.tables_uri:
            places.append(Path(self.tables_uri))
        if isinstance(self.ledger, Path):
            places.append(self.ledger)
        return [place.absolute() for place in places]


def find_installation(settings: Settings, instance: dg.DagsterInstance) -> Installation:
    """Find out where everything is.

    Raises
    ------
    BackupRefusedError
        If Dagster or the ledger keep something where it cannot be copied from.
    """
    if instance.is_ephemeral:
        raise BackupRefusedError("Dagster keeps nothing here: DAGSTER_HOME is not set; set it to the folder it uses")
    home = Path(instance.root_directory).absolute()
    return Installation(
        tables_uri=settings.resolved_tables_uri,
        ledger=_ledger(settings.resolved_ledger_url),
        dagster=_dagster_database(instance, home),
        dagster_home=home,
        compute_logs=_compute_logs(instance, home),
        logs=settings.data_dir.absolute() / "logs",
        ledger_url=settings.resolved_ledger_url,
    )


def _ledger(url: str) -> PostgresDatabase | Path:
    from sqlalchemy.engine import make_url

    parts = make_url(url)
    if parts.get_backend_name() == "postgresql":
        return PostgresDatabase(url)
    if not parts.database or parts.database == ":memory:":
        raise BackupRefusedError("the ledger is kept in memory, and goes with the process; set TRADING_LEDGER_URL")
    return Path(parts.database).absolute()


def _dagster_database(instance: dg.DagsterInstance, home: Path) -> PostgresDatabase | None:
    from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
    from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
    from sqlalchemy.engine import make_url

    runs = instance.run_storage
    if isinstance(runs, SqliteRunStorage):
        found = make_url(runs._conn_string).database
        if found is None or Path(found).resolve() != (home / RUNS).resolve():
            raise BackupRefusedError(
                f"Dagster keeps its runs in {found}, and other files in {home}; give both the same base_dir in "
                "dagster.yaml"
            )
        if not isinstance(instance.event_log_storage, SqliteEventLogStorage):
            raise BackupRefusedError("Dagster keeps its runs in SQLite, and its events elsewhere; use one `storage`")
        return None
    urls = {
        getattr(storage, "postgres_url", "")
        for storage in (runs, instance.event_log_storage, instance.schedule_storage)
    }
    if len(urls) != 1 or "" in urls:
        raise BackupRefusedError(
            "Dagster keeps its storage in something else than one PostgreSQL database, or SQLite "
            f"({type(runs).__name__}); use one `storage` of these in dagster.yaml, or back it up by its own means"
        )
    return PostgresDatabase(urls.pop())


def _compute_logs(instance: dg.DagsterInstance, home: Path) -> Path | None:
    from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

    manager = instance.compute_log_manager
    if not isinstance(manager, LocalComputeLogManager):
        return None
    folder = Path(manager._base_dir).absolute()
    return None if folder.is_relative_to(home) else folder
