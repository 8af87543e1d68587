"""Fixtures of the resource tests: a calendar, tables and a ledger of their own for each test."""

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import PostgresServer
from trading_dagster.calendar import SessionCalendar, session_calendar
from trading_dagster.resources.sql_ledger import SqlLedger
from trading_dagster.resources.tables import Tables


@pytest.fixture(scope="session")
def calendar() -> SessionCalendar:
    with warnings.catch_warnings():
        # exchange_calendars 4.13 reads `Series.values` of times with a zone, which pandas 3.1 deprecates
        warnings.filterwarnings("ignore", message="Series.values returning an ndarray")
        return session_calendar("XNYS")


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "tables"))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger in a file, to be copied: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "ledger.db"
    SqlLedger(f"sqlite:///{path}").engine.dispose()
    return path


@pytest.fixture(scope="session")
def migrated_database(postgres: PostgresServer) -> str:
    """The same on PostgreSQL."""
    url = postgres.create_database()
    SqlLedger(url).engine.dispose()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlLedger]:
    """A ledger of its own on each kind of database."""
    if request.param == "sqlite":
        yield from _opened(_copied(request.getfixturevalue("migrated_file"), tmp_path))
        return
    model: str = request.getfixturevalue("migrated_database")
    with request.getfixturevalue("postgres").database(like=model) as url:
        yield from _opened(url)


@pytest.fixture
def sqlite_ledger(migrated_file: Path, tmp_path: Path) -> Iterator[SqlLedger]:
    """A ledger in a file, for what is about SQLite, or about no database."""
    yield from _opened(_copied(migrated_file, tmp_path))


def _copied(migrated: Path, folder: Path) -> str:
    shutil.copy(migrated, folder / "ledger.db")
    return f"sqlite:///{folder / 'ledger.db'}"


def _opened(url: str) -> Iterator[SqlLedger]:
    ledger = SqlLedger(url)
    yield ledger
    ledger.engine.dispose()
