"""Replay in memory against trading through ledger and broker: the same account to the last digit."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from trading_dagster.execution.accounting import QUANTITY_STEP, advance
from trading_dagster.execution.orders import OrderState
from trading_dagster.execution.planner import plan_orders

from .worlds import COSTS, INITIAL, TERMS, Trader, World, random_world

SEEDS = st.integers(0, 2**32 - 1)
RUNS = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def desk(shared_ledger):
    """A desk with a name of its own for each call."""

    def build(world: World) -> Trader:
        numbers = [int(name.removeprefix("s")) for name in shared_ledger_names(shared_ledger)]
        return Trader(shared_ledger, f"s{max(numbers, default=0) + 1}", world)

    return build


def shared_ledger_names(ledger) -> set[str]:
    with ledger.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name FROM strategies").fetchall()
    return {row[0] for row in rows}


def chunks(sessions, random) -> list[list[pd.Timestamp]]:
    cuts = sorted(random.choice(np.arange(1, len(sessions)), size=random.integers(0, len(sessions)), replace=False))
    return [list(part) for part in np.split(np.array(sessions, dtype=object), cuts)]


@RUNS
@given(SEEDS)
def test_any_cut_into_runs_gives_the_account_of_one_replay(desk, seed):
    """Daily, in ranges, or all at once: the same decisions, and the same account at every session."""
    world = random_world(seed)
    in_memory = desk(world)
    expected = in_memory.signals(world.sessions)
    assert in_memory.accounts() == [None] * len(world.sessions)

    traded = desk(world)
    decided = []
    for part in chunks(world.sessions, np.random.default_rng(seed)):
        signals = traded.signals(part)
        decided.append(signals)
        for session in part:
            traded.trade(session, signals)
    assert_frame_equal(pd.concat(decided, ignore_index=True), expected, check_exact=True)

    # the same once more without replay, broker and ledger: plan, then meet the next session
    account, orders = INITIAL, []
    for market, recorded in zip(world.markets, traded.accounts(), strict=True):
        account = advance(account, orders, market, COSTS).account
        assert recorded == account
        rows = expected[expected["session"] == pd.Timestamp(market.session)]
        targets = dict(zip(rows["symbol"], rows["target_weight"], strict=True))
        orders = plan_orders(
            "any", targets, {}, account, market, dict.fromkeys([*targets, *account.positions], QUANTITY_STEP), TERMS
        )


@RUNS
@given(SEEDS)
def test_what_is_held_is_what_the_ledger_says(desk, seed):
    """Decisions in memory saw, at each session, the weights of the account that trading then led to."""
    world = random_world(seed)
    seen: dict[pd.Timestamp, dict[str, float]] = {}
    here = desk(world)
    signals = here.signals(world.sessions, lambda market, held: seen.update({pd.Timestamp(market.session): held}))
    for session in world.sessions:
        here.trade(session, signals)
    for market, account in zip(world.markets, here.accounts(), strict=True):
        assert seen[pd.Timestamp(market.session)] == account.weights(market)


@RUNS
@given(SEEDS)
@example(1016)  # sessions without any row
def test_deciding_again_says_the_same(desk, seed):
    """Any session, decided again after all of them were traded, is decided as it was."""
    world = random_world(seed)
    here = desk(world)
    signals = here.signals(world.sessions)
    for session in world.sessions:
        here.trade(session, signals)
    random = np.random.default_rng(seed)
    first, last = sorted(random.integers(0, len(world.sessions), 2))
    again = here.signals(world.sessions[first : last + 1])
    span = signals["session"].between(world.sessions[first], world.sessions[last])
    assert_frame_equal(again, signals[span].reset_index(drop=True), check_exact=True)


def test_the_worlds_are_worth_trading():
    """Orders of both sides, splits and dividends of what is held, gaps: or the tests above would show little."""
    worlds = [random_world(seed) for seed in range(30)]
    assert sum(len(market.split) for world in worlds for market in world.markets) > 20
    assert sum(len(market.dividend) for world in worlds for market in world.markets) > 40
    gaps = [set(market.close) - set(market.execution) for world in worlds for market in world.markets]
    assert sum(map(len, gaps)) > 40


def test_sessions_that_nobody_wanted_are_carried_over(desk):
    """Only the first and the last session are decided; between, what is held stays and earns its dividends."""
    world = random_world(5)
    here = desk(world)
    first, last = world.sessions[0], world.sessions[-1]
    seen = {}
    signals = here.signals([first, last], lambda market, held: seen.update({market.session: held}))
    assert sorted(set(signals["session"])) == [first, last]
    here.trade(first, signals)
    for session in world.sessions[1:-1]:
        here.settle(session)
    here.trade(last, signals)
    assert seen[last.date()] == here.accounts()[-1].weights(world.markets[-1])
    assert seen[first.date()] == {}


# -- where the ledger knows better ----------------------------------------------------------------------------


@pytest.fixture
def stopped(desk):
    """Two sessions are traded; the second one's orders wait for the third."""
    world = random_world(11)
    here = desk(world)
    signals = here.signals(world.sessions[:2])
    for session in world.sessions[:2]:
        here.trade(session, signals)
    assert len(here.ledger.open_orders(here.strategy)) >= 2
    return here


def held_at_the_third(desk: Trader) -> dict[str, float]:
    seen = {}
    desk.signals([desk.world.sessions[2]], lambda market, held: seen.update({market.session: held}))
    return seen[desk.world.sessions[2].date()]


def test_orders_that_wait_are_taken_into_account(stopped):
    seen = held_at_the_third(stopped)
    stopped.settle(stopped.world.sessions[2])
    assert seen == stopped.accounts()[2].weights(stopped.world.markets[2])


@pytest.mark.parametrize("state", ["cancelled", "rejected", "expired"])
def test_an_order_that_has_ended_is_not_executed(stopped, state):
    for order in stopped.ledger.open_orders(stopped.strategy):
        stopped.broker.cancel(order.broker_order_id)
        stopped.ledger.record_state(order.client_order_id, OrderState(state), "by hand")
    seen = held_at_the_third(stopped)
    stopped.settle(stopped.world.sessions[2])
    assert seen == stopped.accounts()[2].weights(stopped.world.markets[2])


@pytest.fixture
def crashed(desk):
    """The first session's orders are planned, and none of them is at the broker."""
    world = random_world(11)
    here = desk(world)
    here.settle(world.sessions[0])
    targets = world.wishes[world.sessions[0]]
    orders = plan_orders(
        here.strategy, targets, {}, INITIAL, world.markets[0], dict.fromkeys(targets, QUANTITY_STEP), TERMS
    )
    here.ledger.record_plan(here.strategy, world.sessions[0].date(), 0, orders, "crashed")
    return here


def test_an_order_that_was_never_submitted_is_not_executed(crashed):
    second = crashed.world.sessions[1]
    seen = {}
    crashed.signals([second], lambda market, held: seen.update({market.session: held}))
    crashed.settle(second)
    assert seen[second.date()] == crashed.accounts()[1].weights(crashed.world.markets[1]) == {}


def test_an_order_that_the_same_run_will_submit_is_executed(crashed):
    first, second = crashed.world.sessions[:2]
    seen = {}
    signals = crashed.signals([first, second], lambda market, held: seen.update({market.session: held}))
    assert crashed.trade(first, signals).submitted > 0
    crashed.trade(second, signals)
    assert seen[second.date()] == crashed.accounts()[1].weights(crashed.world.markets[1]) != {}
