"""The project's ledger on a real PostgreSQL, and the fixtures that give one.

Belongs here: what is different with that database. Does not belong here: what the ledger does on any; see
`tests/resources/test_sql_ledger.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import OperationalError

from tests import postgres as postgres_module
from tests.postgres import PASSWORD, PostgresError, PostgresServer, find_programs
from tests.resources.workers import WORKERS, open_ledger, racing_processes
from trading_dagster.execution.orders import Order, OrderState, Side
from trading_dagster.resources.ledger_models import Base, PlanRow
from trading_dagster.resources.sql_ledger import SqlLedger

MONDAY = date(2020, 3, 9)
TABLES = {*Base.metadata.tables, "alembic_version"}


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def opened(url: str) -> Iterator[SqlLedger]:
    ledger = SqlLedger(url)
    try:
        yield ledger
    finally:
        ledger.engine.dispose()


def tables_at(url: str) -> set[str]:
    with connected(url) as connection:
        return set(sa.inspect(connection).get_table_names())


# -- the fixtures ---------------------------------------------------------------------------------------------


def test_sqlalchemy_connects(postgres_url: str) -> None:
    with connected(postgres_url) as connection:
        assert connection.dialect.driver == "psycopg2"
        assert connection.scalar(sa.text("SELECT current_database()")) == sa.make_url(postgres_url).database
        assert int(str(connection.scalar(sa.text("SHOW server_version_num")))) >= 150000


@pytest.mark.parametrize("attempt", [1, 2])
def test_each_test_has_an_empty_database(postgres_url: str, attempt: int) -> None:
    assert tables_at(postgres_url) == set()
    with connected(postgres_url) as connection:
        connection.execute(sa.text("CREATE TABLE left_behind (id integer)"))
    assert tables_at(postgres_url) == {"left_behind"}


def test_databases_are_apart_and_go_although_someone_is_connected(postgres: PostgresServer, postgres_url: str) -> None:
    with postgres.database() as other:
        engine = sa.create_engine(other)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE elsewhere (id integer)"))
        assert (tables_at(other), tables_at(postgres_url)) == ({"elsewhere"}, set())
        # its pool still holds a connection
    engine.dispose()
    with pytest.raises(OperationalError, match="does not exist"):
        tables_at(other)


def test_the_password_is_needed(postgres_url: str) -> None:
    assert PASSWORD in postgres_url
    with pytest.raises(OperationalError, match="password authentication failed"):
        tables_at(postgres_url.replace(PASSWORD, "guess"))


def test_a_server_that_was_down_has_what_it_had(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    with opened(url) as ledger:
        ledger.record_plan("main", MONDAY, 0, [], "run")
    postgres_server.stop()
    with pytest.raises(OperationalError, match="Connection refused"):
        tables_at(url)
    postgres_server.start()
    with opened(url) as ledger:
        assert ledger.recorded_orders("main", MONDAY) == []


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres_module, "DEBIAN", tmp_path)
    with pytest.raises(PostgresError, match="apt-get install postgresql"):
        find_programs()
    newest = tmp_path / "17" / "bin"
    for folder in (tmp_path / "9" / "bin", newest):
        folder.mkdir(parents=True)
        for program in ("initdb", "postgres"):
            (folder / program).touch()
    assert find_programs() == newest


# -- the ledger -----------------------------------------------------------------------------------------------


def test_the_migrations_make_what_the_models_say(postgres_url: str) -> None:
    with opened(postgres_url) as ledger, ledger.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    assert tables_at(postgres_url) == TABLES


def test_a_plan_comes_back(ledger_url: str) -> None:
    """Written by one ledger and read by another, which has only the database."""
    identity = "main-20200309-AAA-0"
    amounts = Decimal("0.0001"), Decimal("999999999999999.123456789")
    order = Order(identity, "main", MONDAY, "AAA", Side.BUY, *amounts, "größer 'als' 50 %: it's")
    before = datetime.now(UTC)
    with opened(ledger_url) as ledger:
        assert ledger.recorded_orders("main", MONDAY) is None
        ledger.record_plan("main", MONDAY, 0, [order], "run")
        ledger.record_state(identity, OrderState.ACCEPTED, "by the broker")
    with opened(ledger_url) as ledger:
        accepted = replace(order, state=OrderState.ACCEPTED, note="by the broker")
        assert ledger.recorded_orders("main", MONDAY) == ledger.open_orders("main") == [accepted]
        assert ledger.order_table("main", [MONDAY])["quantity"].tolist() == [0.0001]
        with ledger.transaction() as session:
            decided_at = session.scalars(sa.select(PlanRow.decided_at)).one()
    # the server's own zone is another
    assert decided_at.utcoffset() == timedelta(0)
    assert before <= decided_at <= datetime.now(UTC)


@pytest.fixture(scope="module")
def race() -> Iterator[Callable[..., list[list[str]]]]:
    with racing_processes() as start:
        yield start


@pytest.mark.e2e
def test_processes_may_open_an_empty_database_at_once(
    postgres: PostgresServer, race: Callable[..., list[list[str]]]
) -> None:
    names = {f"asset {number}" for number in range(WORKERS)}
    for _ in range(5):
        with postgres.database() as url:
            seen = race(open_ledger, url)
            assert [f"asset {number}" in own for number, own in enumerate(seen)] == [True] * WORKERS
            assert tables_at(url) == TABLES
            with opened(url) as ledger:
                assert set(ledger.verdicts(date(2020, 1, 2), sorted(names))) == names
