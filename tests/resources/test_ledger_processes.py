"""The ledger between processes: what several do at once is done once, in turn, and none of it is lost."""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import inspect

from trading_dagster.execution.accounting import Account, Costs
from trading_dagster.execution.orders import Order, OrderState, Side
from trading_dagster.resources.ledger_models import Base
from trading_dagster.resources.simulated_broker import SimulatedBroker
from trading_dagster.resources.sql_ledger import SqlLedger

from .books import MONDAY, dump, execute, open_books, order, url_of
from .workers import (
    WORKERS,
    book_activities,
    fill_partly,
    open_ledger,
    open_same_books,
    racing_processes,
    settle_sessions,
    take_lease,
    take_over_lease,
    write_ledger_rows,
)

pytestmark = pytest.mark.e2e

D = Decimal


@pytest.fixture(scope="module")
def race():
    with racing_processes() as start:
        yield start


def check_opened(url: str, seen: list[list[str]]) -> None:
    names = {f"asset {number}" for number in range(WORKERS)}
    assert [f"asset {number}" in own for number, own in enumerate(seen)] == [True] * WORKERS
    assert set().union(*seen) == names
    ledger = SqlLedger(url)
    assert set(ledger.verdicts(date(2020, 1, 2), sorted(names))) == names
    assert set(inspect(ledger.engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    ledger.engine.dispose()


def test_processes_may_open_a_fresh_file_at_once(tmp_path, race):
    for attempt in range(10):
        url = f"sqlite:///{tmp_path / str(attempt) / 'ledger.db'}"
        check_opened(url, race(open_ledger, url))


def test_processes_may_open_a_fresh_database_at_once(postgres, race):
    for _ in range(3):
        with postgres.database() as url:
            check_opened(url, race(open_ledger, url))


def test_processes_that_write_at_once_lose_no_row(ledger, race):
    rows = 12
    race(write_ledger_rows, url_of(ledger), rows)
    for worker in range(WORKERS):
        strategy = f"worker_{worker}"
        assert ledger.equity_curve(strategy)["cash"].tolist() == [float(number) for number in range(1, rows + 1)]
        assert len(ledger.open_orders(strategy)) == rows
    assert ledger.count_verdicts([date(2020, 1, number) for number in range(1, rows + 1)]) == (rows, rows)
    assert len(dump(ledger)["execution_plans"]) == WORKERS * rows


def test_one_process_opens_the_books(ledger, race):
    seen = race(open_same_books, url_of(ledger))
    assert len(set(seen)) == 1
    assert [(lot[-1], lot[-2]) for lot in dump(ledger)["lots"]] == [(str(seen[0]), "1")]
    assert len(ledger.halt_history("main")) == 1


def test_one_process_gets_the_lease(ledger, race):
    for number in range(1, 6):
        tokens = race(take_lease, url_of(ledger))
        assert [token for token in tokens if token is not None] == [number]
        assert ledger.lease_holder("main") == f"worker {tokens.index(number)}"
        execute(ledger, "UPDATE leases SET expires_at = '2020-01-01 00:00:00.000000'")


def test_no_token_is_given_twice(ledger, race):
    taken = race(take_over_lease, url_of(ledger), 10)
    assert sorted(token for own in taken for token in own) == list(range(1, 10 * WORKERS + 1))
    assert all(own == sorted(own) for own in taken)


def test_an_activity_that_all_see_counts_once(ledger, race):
    rows = 10
    open_books(ledger)
    assert sum(race(book_activities, url_of(ledger), rows)) == 2 * rows
    # a share at 2 and a hundredth ten times, and half a unit ten times
    assert ledger.account("main") == Account(D("1000") - D("20.1") + D("5"), {"AAA": D(rows)})
    assert ledger.profit_and_loss("main").cost_basis == {"AAA": D(20)}
    assert len(dump(ledger)["broker_activities"]) == 2 * rows


def test_an_order_is_not_overfilled_by_a_race(ledger, race):
    orders = 8
    open_books(ledger)
    ledger.record_plan("main", MONDAY, 0, [order(str(number)) for number in range(orders)], "run")
    taken = race(fill_partly, url_of(ledger), orders, 6)
    assert sorted(number for own in taken for number in own) == list(range(orders))
    for number in range(orders):
        found = ledger.order(str(number))
        assert (found.state, found.filled_quantity) == (OrderState.PARTIALLY_FILLED, D(6))
    assert ledger.account("main") == Account(D(1000) - orders * 6 * D("5.5"), {"AAA": D(6 * orders)})


def test_fills_of_a_race_add_up(ledger, race):
    orders = 8
    open_books(ledger)
    ledger.record_plan("main", MONDAY, 0, [order(str(n), quantity=D(3 * WORKERS)) for n in range(orders)], "run")
    assert race(fill_partly, url_of(ledger), orders, 3) == [list(range(orders))] * WORKERS
    for number in range(orders):
        found = ledger.order(str(number))
        assert (found.state, found.filled_quantity) == (OrderState.FILLED, D(3 * WORKERS))
    assert ledger.account("main").positions == {"AAA": D(3 * WORKERS * orders)}


def test_a_session_that_all_settle_happens_once(ledger, race):
    days = [MONDAY + timedelta(days=number) for number in range(10)]
    broker = SimulatedBroker(ledger, "main", Account(D(1000)), Costs(D(0), D(0)))
    broker.submit(Order("main-1", "main", MONDAY, "AAA", Side.BUY, D(5), D(10), "why"), lambda: None)
    race(settle_sessions, url_of(ledger), days)
    # five shares at 10 in the first session, and a unit a share in each of the nine after it
    assert broker.account().cash == D(1000 - 50 + 9 * 5)
    assert {s: p.quantity for s, p in broker.account().positions.items()} == {"AAA": D(5)}
    assert [a.kind for a in broker.activities_since(None)] == ["fill"] + ["dividend"] * 9
