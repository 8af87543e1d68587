"""The simulated broker's time and its book; the arithmetic is tested with the accounting."""

from datetime import date
from decimal import Decimal

import pytest

from trading_dagster.execution.accounting import Account, Costs, MarketSession
from trading_dagster.execution.orders import Order, OrderState, Side
from trading_dagster.resources.ledger import LedgerError
from trading_dagster.resources.simulated_broker import SimulatedBroker

D = Decimal
DAYS = [date(2020, 3, day) for day in (9, 10, 11, 12)]


def market(day: date, opening: str = "10", close: str = "12") -> MarketSession:
    return MarketSession(day, {"AAA": D(opening)}, {"AAA": D(close)}, {}, {})


def order(day: date, quantity: int = 5) -> Order:
    return Order(f"main-{day}", "main", day, "AAA", Side.BUY, D(quantity), D(10), "why")


@pytest.fixture
def broker(ledger):
    return SimulatedBroker(ledger, "main", Account(D(1000)), Costs(D("0.001"), D("0.01")))


def test_before_the_first_session_there_is_the_initial_account(broker):
    assert broker.account() == Account(D(1000))


def test_an_order_goes_to_the_broker_by_being_submitted(broker, ledger):
    ledger.record_plan("main", DAYS[0], 0, [order(DAYS[0])], "run")
    identity = order(DAYS[0]).client_order_id
    assert broker.find(identity) is None
    broker.submit(order(DAYS[0]))
    assert broker.find(identity).state is OrderState.ACCEPTED
    assert broker.find("another") is None


def test_a_submitted_order_meets_the_next_open(broker, ledger):
    broker.settle(market(DAYS[0]))
    ledger.record_plan("main", DAYS[0], 0, [order(DAYS[0])], "run")
    broker.submit(order(DAYS[0]))
    broker.settle(market(DAYS[1]))
    # five shares at 10 and a hundredth more are 50.50, and a thousandth of it is 0.0505
    assert broker.account() == Account(D("949.4495"), {"AAA": D(5)})
    assert broker.find(order(DAYS[0]).client_order_id).state is OrderState.FILLED


def test_a_session_settles_once(broker, ledger):
    broker.settle(market(DAYS[0]))
    ledger.record_plan("main", DAYS[0], 0, [order(DAYS[0])], "run")
    broker.submit(order(DAYS[0]))
    broker.settle(market(DAYS[1]))
    before = broker.account()
    for day in DAYS[:2]:
        broker.settle(market(day, opening="99"))
    assert broker.account() == before


def test_an_order_that_was_never_submitted_expires(broker, ledger):
    broker.settle(market(DAYS[0]))
    ledger.record_plan("main", DAYS[0], 0, [order(DAYS[0])], "run")
    broker.settle(market(DAYS[1]))
    ended = ledger.order(order(DAYS[0]).client_order_id)
    assert ended.state is OrderState.EXPIRED
    assert ended.note == "never submitted before its session had passed"
    assert broker.account() == Account(D(1000))


@pytest.mark.parametrize("state", [OrderState.CANCELLED, OrderState.REJECTED])
def test_an_order_that_ended_is_not_filled(broker, ledger, state):
    ledger.record_plan("main", DAYS[0], 0, [order(DAYS[0])], "run")
    broker.submit(order(DAYS[0]))
    ledger.record_state(order(DAYS[0]).client_order_id, state, "by hand")
    broker.settle(market(DAYS[1]))
    assert ledger.order(order(DAYS[0]).client_order_id).state is state
    assert broker.account() == Account(D(1000))


@pytest.mark.parametrize("state", [OrderState.SUBMITTED, OrderState.UNCONFIRMED])
def test_an_order_that_may_be_at_the_broker_is_filled(broker, ledger, state):
    ledger.record_plan("main", DAYS[0], 0, [order(DAYS[0])], "run")
    ledger.record_state(order(DAYS[0]).client_order_id, state)
    broker.settle(market(DAYS[1]))
    assert broker.account().positions == {"AAA": D(5)}


def test_time_does_not_run_back(broker, ledger):
    for day in (DAYS[0], DAYS[2]):
        broker.settle(market(day))
    with pytest.raises(LedgerError) as caught:
        broker.settle(market(DAYS[1]))
    message = str(caught.value)
    assert "the simulated account 'main' stands at 2020-03-11 and cannot go back to 2020-03-10" in message
    assert "TRADING_STRATEGY" in message
    assert ledger.recorded_account("main", DAYS[1]) is None


def test_books_of_two_strategies_do_not_touch(broker, ledger):
    other = SimulatedBroker(ledger, "other", Account(D(7)), Costs(D(0), D(0)))
    ledger.record_plan("main", DAYS[0], 0, [order(DAYS[0])], "run")
    broker.submit(order(DAYS[0]))
    other.settle(market(DAYS[3]))
    assert other.account() == Account(D(7))
    assert broker.account() == Account(D(1000))
    broker.settle(market(DAYS[1]))
    assert broker.account().positions == {"AAA": D(5)}
