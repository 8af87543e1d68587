"""Trading one session through ledger and broker: once, whatever happens in between."""

import sqlite3
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trading_dagster.execution import reconciliation
from trading_dagster.execution.accounting import QUANTITY_STEP
from trading_dagster.execution.gates import Gate
from trading_dagster.execution.halts import Cause, HaltState, losses
from trading_dagster.execution.orders import OrderState, Side
from trading_dagster.execution.planner import plan_orders
from trading_dagster.execution.trading_session import SessionTrades, Wish, trade_session

from .worlds import COSTS, INITIAL, TERMS, Trader, random_world

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
    return Trader(ledger, "main", random_world(SEED))


@pytest.fixture
def run(desk):
    """Decide and trade the session of a number, as a daily run does."""

    def one(number: int) -> SessionTrades:
        session = desk.world.sessions[number]
        return desk.trade(session, desk.signals([session]))

    return one


def states(desk: Trader, number: int) -> set[OrderState]:
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
    slipped = 1 + COSTS.slippage_rate
    for order in desk.ledger.recorded_orders("main", desk.world.sessions[0]):
        if desk.world.markets[1].execution.get(order.symbol, Decimal(0)) * slipped > order.limit_price:
            bars -= {order.symbol}
    run(1)
    orders = desk.ledger.recorded_orders("main", desk.world.sessions[0])
    assert {order.symbol for order in orders if order.state is OrderState.FILLED} == ordered & bars
    assert {order.symbol for order in orders if order.state is OrderState.EXPIRED} == ordered - bars
    assert set(desk.accounts()[1].positions) == ordered & bars


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.permutations(range(8)))
def test_a_second_run_of_any_session_changes_nothing(shared_ledger, seed, order):
    """In any order, and whatever the signals say by then: not one row of the ledger."""
    desk = Trader(shared_ledger, f"again_{seed}", random_world(seed))
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


def crash(desk: Trader, number: int, lacking: int | None) -> tuple[list[str], list[str]]:
    """A run that ends after the plan is committed and before its last orders, or all, are at the broker.

    Returns the identities of the orders that are at the broker, and of those that are not.
    """
    market, session = desk.world.markets[number], desk.world.sessions[number]
    signals = desk.signals([session])
    desk.settle(session)
    targets = dict(zip(signals["symbol"], signals["target_weight"], strict=True))
    held = desk.ledger.account("main")
    steps = dict.fromkeys([*targets, *held.positions], QUANTITY_STEP)
    orders = plan_orders("main", targets, {}, held, market, steps, TERMS)
    assert len(orders) >= 2
    desk.ledger.record_plan("main", market.session, 0, orders, "crashed")
    sent = 0 if lacking is None else len(orders) - lacking
    for order in orders[:sent]:
        desk.broker.submit(order, lambda: None)
    identities = [order.client_order_id for order in orders]
    return identities[:sent], identities[sent:]


CRASHES = pytest.mark.parametrize("lacking", [None, 1, 0], ids=["none sent", "last not sent", "all sent"])


@CRASHES
def test_after_a_crash_exactly_the_missing_orders_are_submitted(desk, run, lacking):
    run(0)
    sent, missing = crash(desk, 1, lacking)
    assert [identity for identity in sent + missing if desk.broker.order(identity)] == sent
    assert run(1) == SessionTrades(planned=0, submitted=len(missing), decided_before=True)
    assert states(desk, 1) == {OrderState.ACCEPTED}
    assert run(1) == SessionTrades(planned=0, submitted=0, decided_before=True)


@CRASHES
def test_after_a_crash_and_a_second_run_the_account_is_as_without_the_crash(desk, run, ledger, lacking):
    smooth = Trader(ledger, "smooth", desk.world)
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
    account = desk.broker.account()
    positions = {symbol: position.quantity for symbol, position in account.positions.items()}
    assert (account.cash, positions) == (desk.accounts()[2].cash, desk.accounts()[2].positions)


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


def without_refusals(ledger) -> dict[str, list[tuple]]:
    return {name: rows for name, rows in dump(ledger).items() if name != "refusals"}


@pytest.mark.parametrize("passed", [False, True], ids=["never seen", "passed without orders"])
def test_a_session_of_the_past_is_not_traded(desk, run, passed):
    """Its orders would be sized by prices of the past and filled in the future."""
    run(0)
    if passed:
        desk.settle(desk.world.sessions[1])
    run(3)
    before = without_refusals(desk.ledger)
    trades = run(1)
    at, asked = (f"{desk.world.sessions[number]:%Y-%m-%d}" for number in (3, 1))
    assert trades.refused.gate is Gate.FRESHNESS
    assert f"{asked} is past" in trades.refused.detail
    assert at in trades.refused.detail
    assert trades.submitted == 0
    assert without_refusals(desk.ledger) == before
    assert desk.ledger.refusals("main")["gate"].tolist() == ["freshness"]


def test_reasons_and_the_run_are_written_into_the_ledger(desk, ledger):
    trade_session(desk.desk, desk.world.markets[0], Wish({"AAA": 0.5}, {"AAA": "because it rises"}), "run 7")
    (order,) = ledger.recorded_orders("main", desk.world.sessions[0])
    assert order.reason == "because it rises"
    assert ledger.plan_of(order.client_order_id)[0] == "run 7"


# -- gates, at this broker as at the other ----------------------------------------------------------------------


@pytest.mark.parametrize("state", [HaltState.HALTED, HaltState.REDUCE_ONLY])
def test_a_halted_strategy_passes_sessions_and_buys_nothing(desk, run, state):
    """Its time goes on: what was sent before is filled, and the account is kept."""
    run(0)
    desk.ledger.set_halt_state("main", state, Cause.OPERATOR, "stop", "Kim")
    trades = run(1)
    assert trades.submitted == 0 or state is HaltState.REDUCE_ONLY
    assert desk.accounts()[1].positions
    sides = {order.side for order in desk.broker.open_orders()}
    assert sides <= ({Side.SELL} if state is HaltState.REDUCE_ONLY else set())
    assert set(desk.ledger.refusals("main")["gate"]) == {"halt"}


def test_reduce_only_sells_everything_that_is_not_wanted(desk, run):
    run(0)
    run(1)
    desk.ledger.set_halt_state("main", HaltState.REDUCE_ONLY, Cause.OPERATOR, "less", "Kim")
    trades = trade_session(desk.desk, desk.world.markets[2], Wish({}, {}), "run")
    waiting = {order.symbol: order for order in desk.broker.open_orders()}
    assert {symbol: order.quantity for symbol, order in waiting.items()} == desk.accounts()[2].positions
    assert {order.side for order in waiting.values()} == {Side.SELL}
    assert trades.submitted == len(waiting)


def test_without_a_verdict_a_simulated_session_is_refused_too(desk):
    wish = Wish({"AAA": 0.5}, {}, {"bars": True}, ["bars", "signals"])
    trades = trade_session(desk.desk, desk.world.markets[0], wish, "run")
    assert (trades.refused.gate, desk.broker.open_orders()) == (Gate.UPSTREAM_VERDICTS, [])
    good = replace(wish, verdicts={"bars": True, "signals": True})
    assert trade_session(desk.desk, desk.world.markets[0], good, "run").submitted == 1


def test_the_lease_of_another_process_holds_back(desk, run, ledger):
    run(0)
    before = desk.broker.open_orders()
    lease = ledger.acquire_lease("main", "somebody", 60)
    assert run(1).refused.gate is Gate.LEASE
    assert {order.client_order_id for order in desk.broker.open_orders()}.isdisjoint(
        {order.client_order_id for order in before}
    )
    assert desk.broker.open_orders() == []
    ledger.release_lease(lease)
    assert run(1).submitted > 0


@pytest.mark.parametrize(
    ("limit", "measure", "gate"),
    [("daily_loss", "daily", Gate.DAILY_LOSS), ("drawdown", "drawdown", Gate.DRAWDOWN)],
)
def test_a_loss_halts_by_itself(desk, ledger, limit, measure, gate):
    """The limit is the loss of a day of this world, to the last digit."""
    free = Trader(ledger, "free", desk.world)
    for session in desk.world.sessions:
        free.trade(session, free.signals([session]))
    points = ledger.equity_points("free")
    worst = max(range(1, len(points)), key=lambda n: getattr(losses(points[: n + 1]), measure))
    lost = getattr(losses(points[: worst + 1]), measure)
    assert lost > 0
    conduct = desk.desk.conduct
    strict = replace(desk.desk, conduct=replace(conduct, limits=replace(conduct.limits, **{limit: lost})))
    for number, session in enumerate(desk.world.sessions):
        signals = desk.signals([session]).set_index("symbol")
        wish = Wish(signals["target_weight"].to_dict(), {})
        trades = trade_session(strict, desk.world.markets[number], wish, "run")
        if number < worst:
            assert trades.refused is None
        else:
            assert trades.refused.gate is (gate if number == worst else Gate.HALT)
            assert trades.submitted == 0
    assert ledger.halt_state("main").cause.value == gate.value


def test_more_activities_than_are_booked_at_once(ledger, monkeypatch):
    """The ledger shares its database with the simulated broker, whose list is read while the ledger writes."""
    monkeypatch.setattr(reconciliation, "BATCH", 2)
    trader = Trader(ledger, "main", random_world(SEED))
    for number, session in enumerate(trader.world.sessions):
        trader.trade(session, trader.signals([session]))
        assert trader.accounts()[number] is not None
    assert ledger.halt_state("main").state is HaltState.ACTIVE


def test_a_delisted_position_is_paid_out_and_its_gain_is_taken(ledger):
    world = random_world(SEED)
    trader = Trader(ledger, "main", world)
    trade_session(trader.desk, world.markets[0], Wish({"AAA": 0.3, "BBB": 0.3}, {}), "run")
    trader.settle(world.sessions[1])
    before, market = trader.accounts()[1], world.markets[2]
    symbol, held = next(iter(before.positions.items()))
    last, cost = world.markets[1].close[symbol], ledger.profit_and_loss("main").cost_basis[symbol]
    gone = replace(
        market,
        execution={each: price for each, price in market.execution.items() if each != symbol},
        close={**market.close, symbol: last},
        split={},
        dividend={},
        delisted=frozenset({symbol}),
    )
    trade_session(trader.desk, gone, Wish({}, {}), "run")
    assert ledger.halt_state("main").state is HaltState.ACTIVE
    after = trader.accounts()[2]
    assert after.positions == {each: quantity for each, quantity in before.positions.items() if each != symbol}
    assert after.cash == before.cash + (held * last).quantize(Decimal("0.0001"))
    assert abs(ledger.profit_and_loss("main").income - (held * last - cost)) < Decimal("0.001")


def test_two_strategies_trade_side_by_side(desk, ledger):
    other = Trader(ledger, "other", random_world(SEED + 1))
    alone = [Trader(ledger, f"{each.strategy}_alone", each.world) for each in (desk, other)]
    for each in alone:
        for session in each.world.sessions:
            each.trade(session, each.signals([session]))
    for session in desk.world.sessions:
        for each in (desk, other):
            each.trade(session, each.signals([session]))
    assert [each.accounts() for each in (desk, other)] == [each.accounts() for each in alone]
    assert desk.accounts() != other.accounts()
