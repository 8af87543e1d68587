"""Fixtures of the resource tests: a calendar, tables and a ledger of their own for each test."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqlLedger]:
    ledger = SqlLedger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.engine.dispose()
