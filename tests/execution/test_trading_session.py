"""Trading one session through ledger and broker: once, whatever happens in between."""

import sqlite3
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trading_dagster.execution.accounting import QUANTITY_STEP
from trading_dagster.execution.orders import OrderState
from trading_dagster.execution.planner import plan_orders
from trading_dagster.execution.trading_session import SessionTrades, trade_session
from trading_dagster.resources.ledger import LedgerError

from .worlds import INITIAL, Desk, random_world

SEED = 11


def dump(ledger) -> dict[str, list[tuple]]:
    """All rows of all tables, read around the code under test."""
    with sqlite3.connect(ledger.engine.url.database) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall()) for name in names}
    connection.close()
    return rows


@pytest.fixture
def desk(ledger):
    return Desk(ledger, "main", random_world(SEED))


@pytest.fixture
def run(desk):
    """Decide and trade the session of a number, as a daily run does."""

    def one(number: int) -> SessionTrades:
        session = desk.world.sessions[number]
        return desk.trade(session, desk.signals([session]))

    return one


def states(desk: Desk, number: int) -> set[OrderState]:
    orders = desk.ledger.recorded_orders("main", desk.world.sessions[number])
    assert orders
    return {order.state for order in orders}


def test_a_session_is_planned_and_submitted(desk, run):
    trades = run(0)
    orders = desk.ledger.recorded_orders("main", desk.world.sessions[0])
    assert trades == SessionTrades(planned=len(orders), submitted=len(orders), decided_before=False)
    assert len(orders) >= 2
    assert states(desk, 0) == {OrderState.ACCEPTED}
    assert desk.accounts()[0] == INITIAL
    targets = {order.symbol: order.quantity * order.reference_price / INITIAL.cash for order in orders}
    wanted = {symbol: Decimal(weight) for symbol, weight in desk.world.wishes[desk.world.sessions[0]].items()}
    wanted = {symbol: weight for symbol, weight in wanted.items() if weight >= Decimal("0.01")}
    assert set(targets) == set(wanted)
    assert all(abs(targets[symbol] - wanted[symbol]) < Decimal("0.00001") for symbol in wanted)


def test_the_next_session_fills_what_was_submitted(desk, run):
    run(0)
    bars = set(desk.world.markets[1].execution) - set(desk.world.markets[1].split)
    ordered = {order.symbol for order in desk.ledger.recorded_orders("main", desk.world.sessions[0])}
    run(1)
    orders = desk.ledger.recorded_orders("main", desk.world.sessions[0])
    assert {order.symbol for order in orders if order.state is OrderState.FILLED} == ordered & bars
    assert {order.symbol for order in orders if order.state is OrderState.EXPIRED} == ordered - bars
    assert set(desk.accounts()[1].positions) == ordered & bars


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.permutations(range(8)))
def test_a_second_run_of_any_session_changes_nothing(shared_ledger, seed, order):
    """In any order, and whatever the signals say by then: not one row of the ledger."""
    desk = Desk(shared_ledger, f"again_{seed}", random_world(seed))
    if desk.accounts()[0] is not None:
        return  # hypothesis repeats a seed: that strategy has been through here
    signals = desk.signals(desk.world.sessions)
    first = [desk.trade(session, signals) for session in desk.world.sessions]
    assert sum(trades.submitted for trades in first) > 0
    before = dump(shared_ledger)
    others = signals.assign(target_weight=0.05)
    for number in order:
        session = desk.world.sessions[number]
        again = desk.trade(session, signals if number % 2 else others)
        assert again == SessionTrades(planned=0, submitted=0, decided_before=True)
    assert dump(shared_ledger) == before


def crash(desk: Desk, number: int, lacking: int | None) -> tuple[list[str], list[str]]:
    """A run that ends after the plan is committed and before its last orders, or all, are at the broker.

    Returns the identities of the orders that are at the broker, and of those that are not.
    """
    market, session = desk.world.markets[number], desk.world.sessions[number]
    signals = desk.signals([session])
    desk.settle(session)
    targets = dict(zip(signals["symbol"], signals["target_weight"], strict=True))
    orders = plan_orders("main", targets, {}, desk.broker.account(), market, QUANTITY_STEP)
    assert len(orders) >= 2
    desk.ledger.record_plan("main", market.session, 0, orders, "crashed")
    sent = 0 if lacking is None else len(orders) - lacking
    for order in orders[:sent]:
        desk.broker.submit(order)
    identities = [order.client_order_id for order in orders]
    return identities[:sent], identities[sent:]


CRASHES = pytest.mark.parametrize("lacking", [None, 1, 0], ids=["none sent", "last not sent", "all sent"])


@CRASHES
def test_after_a_crash_exactly_the_missing_orders_are_submitted(desk, run, lacking):
    run(0)
    sent, missing = crash(desk, 1, lacking)
    assert [identity for identity in sent + missing if desk.broker.find(identity)] == sent
    assert run(1) == SessionTrades(planned=0, submitted=len(missing), decided_before=True)
    assert states(desk, 1) == {OrderState.ACCEPTED}
    assert run(1) == SessionTrades(planned=0, submitted=0, decided_before=True)


@CRASHES
def test_after_a_crash_and_a_second_run_the_account_is_as_without_the_crash(desk, run, ledger, lacking):
    smooth = Desk(ledger, "smooth", desk.world)
    for session in desk.world.sessions:
        smooth.trade(session, smooth.signals([session]))
    run(0)
    crash(desk, 1, lacking)
    for number in range(1, len(desk.world.sessions)):
        run(number)
    assert desk.accounts() == smooth.accounts()


def test_what_was_never_submitted_expires_when_the_next_session_settles(desk, run):
    run(0)
    sent, missing = crash(desk, 1, lacking=1)
    assert run(2).decided_before is False
    ended = [desk.ledger.order(identity) for identity in missing]
    assert {(order.state, order.filled_quantity) for order in ended} == {(OrderState.EXPIRED, Decimal(0))}
    assert {order.note for order in ended} == {"never submitted before its session had passed"}
    assert {desk.ledger.order(identity).state for identity in sent} <= {OrderState.FILLED, OrderState.EXPIRED}
    # to run the session of the crash again does not bring them back
    assert run(1) == SessionTrades(planned=0, submitted=0, decided_before=True)
    assert desk.broker.account() == desk.accounts()[2]


def test_a_crash_before_the_plan_leaves_a_session_to_be_decided(desk, run):
    run(0)
    desk.settle(desk.world.sessions[1])
    trades = run(1)
    assert trades.decided_before is False
    assert trades.planned == trades.submitted > 0


def test_sessions_that_were_skipped_are_settled_without_orders(desk, run):
    """What session 0 ordered is filled in session 1, although nobody decides there."""
    run(0)
    for number in (1, 2, 3):
        desk.settle(desk.world.sessions[number])
    trades = run(4)
    assert trades.decided_before is False
    assert None not in desk.accounts()[:5]
    assert desk.accounts()[1].positions
    for number in (1, 2, 3):
        assert desk.ledger.recorded_orders("main", desk.world.sessions[number]) is None
        assert set(desk.accounts()[number].positions) == set(desk.accounts()[1].positions)
    assert states(desk, 0) <= {OrderState.FILLED, OrderState.EXPIRED}


def test_the_account_does_not_go_back_to_a_session_it_never_saw(desk, run):
    run(0)
    run(3)
    before = dump(desk.ledger)
    with pytest.raises(LedgerError) as caught:
        run(1)
    at, asked = (f"{desk.world.sessions[number]:%Y-%m-%d}" for number in (3, 1))
    assert f"the simulated account 'main' stands at {at} and cannot go back to {asked}" in str(caught.value)
    assert "TRADING_STRATEGY" in str(caught.value)
    assert dump(desk.ledger) == before


def test_a_session_that_was_skipped_is_not_traded_after_later_ones(desk, run):
    """Its orders would be sized by prices of the past and filled in the future."""
    run(0)
    desk.settle(desk.world.sessions[1])
    run(2)
    before = dump(desk.ledger)
    with pytest.raises(LedgerError, match="cannot go back"):
        run(1)
    assert dump(desk.ledger) == before


def test_reasons_and_the_run_are_written_into_the_ledger(desk, ledger):
    market = desk.world.markets[0]
    trade_session(ledger, desk.broker, "main", market, {"AAA": 0.5}, {"AAA": "because it rises"}, "run 7")
    (order,) = ledger.recorded_orders("main", desk.world.sessions[0])
    assert order.reason == "because it rises"
    assert {row[4] for row in dump(ledger)["execution_plans"]} == {"run 7"}


def test_two_strategies_trade_side_by_side(desk, ledger):
    other = Desk(ledger, "other", random_world(SEED + 1))
    alone = [Desk(ledger, f"{each.strategy}_alone", each.world) for each in (desk, other)]
    for each in alone:
        for session in each.world.sessions:
            each.trade(session, each.signals([session]))
    for session in desk.world.sessions:
        for each in (desk, other):
            each.trade(session, each.signals([session]))
    assert [each.accounts() for each in (desk, other)] == [each.accounts() for each in alone]
    assert desk.accounts() != other.accounts()
