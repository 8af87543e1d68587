"""Fixtures of the execution tests: a ledger of its own for each test, or one for many strategies; a paper account."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from tests.servers.alpaca_trading import AlpacaTradingServer
from trading_dagster.resources.sql_ledger import SqlLedger

from .paper import CLOSE, PRICES, Paper

with warnings.catch_warnings():
    # alpaca-py, on websockets from 14.0 on, when its modules are imported
    warnings.filterwarnings("ignore", "websockets", DeprecationWarning)
    import alpaca.trading.client  # noqa: F401


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger, since migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "ledger.db"
    SqlLedger(f"sqlite:///{path}").engine.dispose()
    return path


def _ledger(migrated: Path, folder: Path) -> Iterator[SqlLedger]:
    shutil.copy(migrated, folder / "ledger.db")
    ledger = SqlLedger(f"sqlite:///{folder / 'ledger.db'}")
    # no test pulls the plug, and waiting for the disk is most of the time
    event.listen(ledger.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    ledger.engine.dispose()
    yield ledger
    ledger.engine.dispose()


@pytest.fixture
def ledger(migrated: Path, tmp_path: Path) -> Iterator[SqlLedger]:
    yield from _ledger(migrated, tmp_path)


@pytest.fixture(scope="module")
def shared_ledger(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlLedger]:
    """For tests whose every example is a strategy of its own."""
    yield from _ledger(migrated, tmp_path_factory.mktemp("shared"))


@pytest.fixture
def server() -> Iterator[AlpacaTradingServer]:
    """A paper account after the close of Monday, 2026-01-05."""
    with AlpacaTradingServer(PRICES, now=CLOSE, fractionable=set(PRICES) - {"WHOLE"}) as server:
        yield server


@pytest.fixture
def make_paper(ledger: SqlLedger, server: AlpacaTradingServer) -> Iterator[Callable[..., Paper]]:
    """Build desks of that account; what is given differs from the defaults of `Paper`."""
    made: list[Paper] = []

    def make(**values) -> Paper:
        made.append(Paper(ledger, server, **values))
        return made[-1]

    yield make
    for paper in made:
        paper.close()


@pytest.fixture
def paper(make_paper: Callable[..., Paper]) -> Paper:
    return make_paper()
