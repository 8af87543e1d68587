"""The ledger's database: connecting, migrating, transactions and locks.

Belongs here: what is true of any of its tables. What is written into them is in the modules `ledger_*`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
from sqlalchemy import Connection, Engine, create_engine, event, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.orm import Session

from trading_dagster.resources.ledger import LedgerUnavailableError

MIGRATIONS = Path(__file__).parent / "migrations"
CONNECT_SECONDS = 10


class LedgerDatabase:
    """Access to the ledger's database; connects and migrates at first use.

    Parameters
    ----------
    url : str
        SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address})"

    @property
    def address(self) -> str:
        """URL without what may be a secret: drivers take a password among the parameters, too."""
        return self._url.set(query={}).render_as_string(hide_password=True)

    @functools.cached_property
    def engine(self) -> Engine:
        """The connected, migrated database."""
        if self._url.get_backend_name() == "sqlite":
            self._make_folder()
            engine = create_engine(self._url)
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        else:
            engine = self._server()
        try:
            with self._available():
                migrate(engine)
        except ProgrammingError as error:
            raise LedgerUnavailableError(
                f"the ledger {self.address} cannot be opened: {_words(error)}; correct TRADING_LEDGER_URL"
            ) from None
        return engine

    def _server(self) -> Engine:
        try:
            # a connection that a restarted server has dropped is replaced; a server that is away is soon known to be
            return create_engine(self._url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS})
        except (ArgumentError, ImportError) as error:
            raise LedgerUnavailableError(
                f"there is no driver for the ledger {self.address}: {error}; use postgresql:// or sqlite:///"
            ) from None

    def _make_folder(self) -> None:
        if self._url.database:
            folder = Path(self._url.database).parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LedgerUnavailableError(
                    f"the folder {folder} for the ledger cannot be made: {error.strerror}; set TRADING_LEDGER_URL or "
                    "TRADING_DATA_DIR to another place"
                ) from error

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a session that commits as a whole or not at all.

        Raises
        ------
        LedgerUnavailableError
            If the database cannot be read or written.
        """
        engine = self.engine
        with self._available(), Session(engine) as session, session.begin():
            yield session

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, DataError, ProgrammingError):
            raise
        except DBAPIError as error:
            raise LedgerUnavailableError(
                f"the ledger {self.address} cannot be used: "
                f"{_words(error)}. Without it nothing is traded; bring the database back, or "
                "restore it from a backup"
            ) from None


def _words(error: DBAPIError) -> str:
    """What the driver says, in one line."""
    return " ".join(str(error.orig).split()).rstrip(".?")


def lock(db: Session, strategy: str) -> None:
    """Let no other transaction that locks the strategy run beside this one, until it ends.

    SQLite has one writer at a time anyway.
    """
    if db.get_bind().dialect.name == "postgresql":
        db.execute(text("SELECT pg_advisory_xact_lock(20000103, hashtext(:strategy))"), {"strategy": strategy})


def database_time(db: Session) -> datetime:
    """Time of the database, so that processes on several machines agree on when a lease ends."""
    if db.get_bind().dialect.name == "postgresql":
        found: datetime = db.scalar(select(func.clock_timestamp()))  # type: ignore[assignment]  # never null
        return found.astimezone(UTC)
    return datetime.now(UTC)


def as_day(session: pd.Timestamp | date) -> date:
    """Session as a database stores it."""
    return session.date() if isinstance(session, pd.Timestamp) else session


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema; a database that is there already costs one query."""
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    head = ScriptDirectory.from_config(config).get_current_head()
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # two processes at first start: one migrates, the other waits and finds it done
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(20000103)")
        if MigrationContext.configure(connection).get_current_revision() != head:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise LedgerUnavailableError(
                    f"the ledger has a schema that this version of the program does not know: {error}; use the newer "
                    "version that wrote it, or a ledger of its own"
                ) from error


def _prepare_sqlite(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # DBAPI connections have no common type
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()
    # the driver must not open transactions by itself: `_begin_sqlite` does
    connection.isolation_level = None  # type: ignore[attr-defined]


def _begin_sqlite(connection: Connection) -> None:
    # a transaction that reads first and writes later would fail at once beside another writer; one that
    # takes the write lock at its start waits for it instead
    connection.exec_driver_sql("BEGIN IMMEDIATE")
