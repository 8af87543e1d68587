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
from trading_dagster.settings import Settings

from .installations import Place


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


# -- whole installations ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def dagster_database(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Dagster's empty storage on PostgreSQL, to be copied: making it takes longer than most tests."""
    url = postgres.create_database()
    place = Place(tmp_path_factory.mktemp("dagster"), Settings(), url)
    with place.instance() as instance:
        assert instance.get_runs_count() == 0
    return url


@pytest.fixture(scope="session")
def filled_model(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A filled installation in files, to be copied."""
    folder = tmp_path_factory.mktemp("filled") / "model"
    model = Place(folder, Settings(data_dir=folder / "data"))
    model.fill()
    return model


@pytest.fixture(scope="session")
def filled_server_model(
    postgres: PostgresServer,
    migrated_database: str,
    dagster_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Place:
    """The same on PostgreSQL."""
    folder = tmp_path_factory.mktemp("filled") / "model"
    ledger = postgres.create_database(like=migrated_database)
    settings = Settings(data_dir=folder / "data", ledger_url=ledger)
    model = Place(folder, settings, postgres.create_database(like=dagster_database))
    model.fill()
    return model


class Places:
    """Makes installations of a kind, each under a name."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request, self.folder = request, folder
        self.urls: list[str] = []

    def empty(self, name: str, kind: str = "sqlite") -> Place:
        """As a first start leaves it."""
        folder = self.folder / name
        if kind == "sqlite":
            (folder / "data").mkdir(parents=True)
            shutil.copy(self._request.getfixturevalue("migrated_file"), folder / "data" / "ledger.db")
            return Place(folder, Settings(data_dir=folder / "data"))
        models = [self._request.getfixturevalue(name) for name in ("migrated_database", "dagster_database")]
        return self._on_server(folder, *models)

    def filled(self, name: str, kind: str = "sqlite") -> Place:
        """With something of everything."""
        model: Place = self._request.getfixturevalue("filled_model" if kind == "sqlite" else "filled_server_model")
        folder = self.folder / name
        shutil.copytree(model.folder, folder, ignore=shutil.ignore_patterns("dagster.yaml"))
        if kind == "sqlite":
            return Place(folder, Settings(data_dir=folder / "data"))
        return self._on_server(folder, model.settings.resolved_ledger_url, model.dagster_url)

    def drop_ledger(self, place: Place) -> None:
        """Take the ledger's database away."""
        url = place.settings.resolved_ledger_url
        self._request.getfixturevalue("postgres").drop_database(url)

    def _on_server(self, folder: Path, ledger: str, dagster: str) -> Place:
        server: PostgresServer = self._request.getfixturevalue("postgres")
        self.urls += [server.create_database(like=ledger), server.create_database(like=dagster)]
        return Place(folder, Settings(data_dir=folder / "data", ledger_url=self.urls[-2]), self.urls[-1])


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Places]:
    """Make installations; their databases are gone afterwards."""
    made = Places(request, tmp_path)
    yield made
    for url in made.urls:
        request.getfixturevalue("postgres").drop_database(url)
