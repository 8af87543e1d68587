"""Fixtures of the execution tests: a ledger of its own for each test, or one for many strategies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from trading_dagster.resources.sql_ledger import SqlLedger


def _ledger(folder: Path) -> Iterator[SqlLedger]:
    ledger = SqlLedger(f"sqlite:///{folder / 'ledger.db'}")
    yield ledger
    ledger.engine.dispose()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqlLedger]:
    yield from _ledger(tmp_path)


@pytest.fixture(scope="module")
def shared_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlLedger]:
    """For tests whose every example is a strategy of its own."""
    yield from _ledger(tmp_path_factory.mktemp("shared"))
