"""Strategies, halts, the lease, refusals and operator actions, on both databases."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from trading_dagster.execution.gates import Gate, Refusal
from trading_dagster.execution.halts import AUTOMATIC, Cause, EquityPoint, HaltedError, HaltState
from trading_dagster.execution.lease import Lease, LeaseHeldError, LeaseLostError
from trading_dagster.execution.orders import TERMINAL_STATES, OrderState, Side
from trading_dagster.resources import ledger_control
from trading_dagster.resources.ledger import LedgerError, OpeningPosition, Owner, Purpose
from trading_dagster.resources.sql_ledger import SqlLedger

from .books import MONDAY, TUESDAY, WEDNESDAY, D, dump, execute, fill, movement, open_books, order, told, url_of


@pytest.fixture
def opened(ledger):
    """Ten shares of AAA and a thousand in cash."""
    open_books(ledger, AAA=("10", "50"))
    return ledger


def age_lease(ledger: SqlLedger, seconds: float) -> None:
    """Let the lease have been taken earlier, by the database's own time."""
    if ledger.engine.dialect.name == "postgresql":
        execute(ledger, f"UPDATE leases SET expires_at = expires_at - interval '{seconds} seconds'")
    else:
        execute(
            ledger, f"UPDATE leases SET expires_at = strftime('%Y-%m-%d %H:%M:%f000', expires_at, '-{seconds} seconds')"
        )


def lease_ends(ledger: SqlLedger) -> datetime:
    ((text,),) = execute(ledger, "SELECT expires_at FROM leases WHERE strategy = 'main'")
    return text if isinstance(text, datetime) else datetime.fromisoformat(text).replace(tzinfo=UTC)


# -- opening ------------------------------------------------------------------------------------------------------


def test_what_is_known_of_a_strategy(ledger):
    assert ledger.strategy("main") is None
    assert not ledger.has_traded("main")
    before = datetime.now(UTC)
    open_books(ledger, cash="12.34", AAA=("10", "50"))
    record = ledger.strategy("main")
    assert (record.name, record.broker, record.cash, record.broker_errors) == ("main", "simulated", D("12.34"), 0)
    assert before <= record.opened_at <= datetime.now(UTC)
    assert {record.measured_from, record.measured_equity, record.orders_read_to, record.activities_read_to} == {None}
    assert ledger.has_traded("main")
    assert not ledger.has_traded("other")


def test_a_second_opening_changes_nothing(opened):
    opened.set_halt_state("main", HaltState.HALTED, Cause.OPERATOR, "by hand", "me")
    before = dump(opened)
    opened.open_strategy("main", "another", TUESDAY, D(7), {"BBB": OpeningPosition(D(1), D(1))}, Owner.MANUAL, ["x"])
    assert dump(opened) == before


def test_whose_the_first_positions_are(ledger):
    held = {"AAA": OpeningPosition(D(10), D(50)), "BBB": OpeningPosition(D(-2), D(-8))}
    ledger.open_strategy("main", "simulated", MONDAY, D(1), held, Owner.MANUAL, [])
    assert ledger.account("main").positions == {}
    assert ledger.manual_positions("main") == {"AAA": D(10), "BBB": D(-2)}
    assert ledger.profit_and_loss("main").cost_basis == {"AAA": D(50), "BBB": D(-8)}


def test_what_the_account_has_seen_before_is_never_booked(ledger):
    ledger.open_strategy("main", "simulated", MONDAY, D(100), {}, Owner.STRATEGY, ["old", "older", "old"])
    assert ledger.unknown_activities("main", ["old", "older", "new"]) == {"new"}
    assert ledger.record_activities("main", [fill(None, name="old"), movement("fee", "-1", name="older")]) == 0
    assert ledger.account("main").cash == D(100)


@pytest.mark.parametrize(
    "trace",
    [
        lambda ledger: ledger.record_plan("main", MONDAY, 0, [], "run"),
        lambda ledger: ledger.record_snapshot("main", MONDAY, D(1000), {}),
        lambda ledger: ledger.record_activities("main", [fill(None)]),
    ],
    ids=["plan", "snapshot", "fill"],
)
def test_a_strategy_whose_row_was_lost_is_not_opened_anew(ledger, trace):
    open_books(ledger)
    trace(ledger)
    execute(ledger, "DELETE FROM strategies")
    before = dump(ledger)
    with pytest.raises(LedgerError, match=r"the strategy 'main' but no longer its own row.* damaged. Restore it"):
        open_books(ledger)
    assert dump(ledger) == before


def test_failures_of_the_broker_in_a_row(opened):
    assert [opened.count_broker_error("main") for _ in range(3)] == [1, 2, 3]
    opened.clear_broker_errors("main")
    assert opened.strategy("main").broker_errors == 0
    assert opened.count_broker_error("main") == 1
    assert opened.count_broker_error("nobody") == 0
    opened.clear_broker_errors("nobody")


def test_losses_are_measured_from_where_it_was_said(opened):
    for session, equity in ((MONDAY, 1000), (TUESDAY, 700), (WEDNESDAY, 720)):
        opened.record_snapshot("main", session, D(equity), {"AAA": D(1)})
    everything = [EquityPoint(day, D(x)) for day, x in ((MONDAY, 1000), (TUESDAY, 700), (WEDNESDAY, 720))]
    assert opened.equity_points("main") == everything
    opened.measure_from("main", TUESDAY, D("699.5"))
    assert opened.equity_points("main") == [EquityPoint(TUESDAY, D("699.5")), everything[2]]
    assert opened.equity_curve("main")["equity"].tolist() == [1000.0, 700.0, 720.0]
    opened.measure_from("main", WEDNESDAY, D(720))
    assert opened.equity_points("main") == [EquityPoint(WEDNESDAY, D(720))]


# -- halts --------------------------------------------------------------------------------------------------------


def test_a_strategy_that_was_opened_is_active(opened):
    halt = opened.halt_state("main")
    assert (halt.state, halt.cause, halt.operator) == (HaltState.ACTIVE, None, AUTOMATIC)
    assert opened.halt_history("main") == [halt]


def test_a_missing_state_means_halted(ledger):
    halt = ledger.halt_state("main")
    assert (halt.state, halt.cause, halt.since) == (HaltState.HALTED, Cause.MISSING, None)
    assert "'main' that can be read, which means HALTED" in halt.detail
    open_books(ledger)
    execute(ledger, "DELETE FROM halt_states")
    assert ledger.halt_state("main") == halt
    open_books(ledger)
    assert ledger.halt_state("main") == halt


def test_a_halt_before_the_first_trade_outlives_the_opening(ledger):
    ledger.set_halt_state("main", HaltState.HALTED, Cause.OPERATOR, "not yet", "me")
    assert ledger.has_traded("main")
    open_books(ledger)
    assert (ledger.halt_state("main").state, ledger.halt_state("main").detail) == (HaltState.HALTED, "not yet")
    assert len(ledger.halt_history("main")) == 1


def test_every_state_is_kept(opened):
    opened.set_halt_state("main", HaltState.HALTED, Cause.DRAWDOWN, "equity fell", AUTOMATIC)
    opened.set_halt_state("main", HaltState.REDUCE_ONLY, Cause.OPERATOR, "careful", "me")
    opened.set_halt_state("main", HaltState.ACTIVE, None, "all is well", "you")
    opened.set_halt_state("other", HaltState.HALTED, Cause.OPERATOR, "another", "me")
    history = opened.halt_history("main")
    assert [(h.state, h.cause, h.operator) for h in history] == [
        (HaltState.ACTIVE, None, AUTOMATIC),
        (HaltState.HALTED, Cause.DRAWDOWN, AUTOMATIC),
        (HaltState.REDUCE_ONLY, Cause.OPERATOR, "me"),
        (HaltState.ACTIVE, None, "you"),
    ]
    assert [h.since for h in history] == sorted(h.since for h in history)
    assert opened.halt_state("main") == history[-1]


# -- lease --------------------------------------------------------------------------------------------------------


def test_one_holder_at_a_time(opened):
    lease = opened.acquire_lease("main", "first", 60)
    assert lease == Lease("main", "first", 1, 60)
    with pytest.raises(LeaseHeldError, match=r"first trades the strategy 'main' until .* UTC.*second sends nothing"):
        opened.acquire_lease("main", "second", 60)
    # not even again the same
    with pytest.raises(LeaseHeldError):
        opened.acquire_lease("main", "first", 60)
    assert opened.lease_holder("main") == "first"
    assert opened.acquire_lease("other", "second", 60).token == 1


def test_a_lease_that_was_given_back_is_free(opened):
    opened.release_lease(opened.acquire_lease("main", "first", 60))
    assert opened.lease_holder("main") is None
    assert opened.acquire_lease("main", "second", 60).token == 2


def test_a_lease_that_ran_out_is_free(opened):
    opened.acquire_lease("main", "first", 60)
    age_lease(opened, 59)
    assert opened.lease_holder("main") == "first"
    age_lease(opened, 2)
    assert opened.lease_holder("main") is None
    assert opened.acquire_lease("main", "second", 60).token == 2


def test_a_stale_lease_gives_nothing_back(opened):
    first = opened.acquire_lease("main", "first", 60)
    second = opened.acquire_lease("main", "second", 60, take_over=True)
    assert (second.token, opened.lease_holder("main")) == (2, "second")
    opened.release_lease(first)
    assert opened.lease_holder("main") == "second"
    opened.release_lease(Lease("nobody", "first", 1, 60))
    opened.release_lease(second)
    assert opened.lease_holder("main") is None


def test_the_time_of_postgresql_counts(postgres_url, monkeypatch):
    """A machine whose clock is a day ahead takes no lease that is held."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=1)

    ledger = SqlLedger(postgres_url)
    first = ledger.acquire_lease("main", "first", 60)
    monkeypatch.setattr(ledger_control, "datetime", Ahead)
    monkeypatch.setattr("trading_dagster.resources.ledger_database.datetime", Ahead)
    with pytest.raises(LeaseHeldError):
        ledger.acquire_lease("main", "second", 60)
    assert ledger.lease_holder("main") == "first"
    ledger.record_plan("main", MONDAY, 0, [], "run", lease=first)
    assert abs(lease_ends(ledger) - datetime.now(UTC) - timedelta(seconds=60)) < timedelta(seconds=20)
    ledger.engine.dispose()


def test_a_plan_needs_the_newest_lease(opened):
    first = opened.acquire_lease("main", "first", 60)
    opened.record_plan("main", MONDAY, 0, [order("one")], "run", lease=first)
    opened.acquire_lease("main", "second", 60, take_over=True)
    before = dump(opened)
    with pytest.raises(LeaseLostError, match="the lease of first on the strategy 'main' was taken over by second"):
        opened.record_plan("main", MONDAY, 1, [order("two")], "run", lease=first)
    assert dump(opened) == before
    opened.record_plan("main", MONDAY, 1, [order("two")], "run")


# -- claims -------------------------------------------------------------------------------------------------------


@pytest.fixture
def lease(opened):
    opened.record_plan("main", MONDAY, 0, [order("one")], "run")
    return opened.acquire_lease("main", "me", 60)


def test_a_claim_is_a_submission(opened, lease):
    opened.claim("one", lease)
    assert opened.order("one").state is OrderState.SUBMITTED
    assert [state for _, state, _, _ in opened.order_events("one")] == [OrderState.PLANNED, OrderState.SUBMITTED]
    # nobody knows whether it arrived, so it may be sent again
    opened.claim("one", lease)
    opened.record_state("one", OrderState.UNCONFIRMED, "no answer")
    opened.claim("one", lease)
    assert opened.order("one").state is OrderState.SUBMITTED


def test_a_claim_renews_the_lease(opened, lease):
    age_lease(opened, 50)
    opened.claim("one", lease)
    assert lease_ends(opened) - datetime.now(UTC) > timedelta(seconds=45)


@pytest.mark.parametrize("what", ["taken over", "ran out", "ran out and nobody came", "row is gone"])
def test_a_lease_that_was_lost_claims_nothing(opened, lease, what):
    if what == "taken over":
        opened.acquire_lease("main", "another", 60, take_over=True)
    elif what == "row is gone":
        execute(opened, "DELETE FROM leases")
    else:
        age_lease(opened, 90)
        if what == "ran out":
            opened.acquire_lease("main", "another", 60)
    before = dump(opened)
    message = {"taken over": "taken over by another", "ran out": "taken over by another", "row is gone": "by nobody"}
    with pytest.raises(LeaseLostError, match=message.get(what, r"ran out at .* UTC, (29|30|31) s ago")):
        opened.claim("one", lease)
    assert dump(opened) == before


def test_a_lease_of_another_strategy_claims_nothing(opened, lease):
    other = opened.acquire_lease("other", "me", 60)
    with pytest.raises((LeaseLostError, LedgerError)):
        opened.claim("one", other)
    assert opened.order("one").state is OrderState.PLANNED


@pytest.mark.parametrize("state", [HaltState.HALTED, HaltState.REDUCE_ONLY])
def test_a_halt_stops_a_buy_at_the_last_moment(opened, lease, state):
    opened.set_halt_state("main", state, Cause.OPERATOR, "stop it", "me")
    before = dump(opened)
    with pytest.raises(HaltedError, match=f"{state} since .* by me: stop it"):
        opened.claim("one", lease)
    assert dump(opened) == before


def test_a_missing_state_stops_everything(opened, lease):
    execute(opened, "DELETE FROM halt_states")
    with pytest.raises(HaltedError, match="missing_state"):
        opened.claim("one", lease)


REDUCTIONS = {
    "sells some": ("10", Side.SELL, "4", True),
    "sells all": ("10", Side.SELL, "10", True),
    "sells more": ("10", Side.SELL, "10.0001", False),
    "buys more": ("10", Side.BUY, "1", False),
    "sells what is not there": (None, Side.SELL, "1", False),
    "buys some back": ("-10", Side.BUY, "4", True),
    "buys all back": ("-10", Side.BUY, "10", True),
    "buys more than back": ("-10", Side.BUY, "11", False),
    "sells shorter": ("-10", Side.SELL, "1", False),
}


@pytest.mark.parametrize(("held", "side", "quantity", "passes"), REDUCTIONS.values(), ids=REDUCTIONS)
def test_reduce_only_lets_pass_what_reduces(ledger, held, side, quantity, passes):
    open_books(ledger, **({} if held is None else {"AAA": (held, held)}))
    ledger.record_plan("main", MONDAY, 0, [order("one", side=side, quantity=D(quantity))], "run")
    lease = ledger.acquire_lease("main", "me", 60)
    ledger.set_halt_state("main", HaltState.REDUCE_ONLY, Cause.OPERATOR, "careful", "me")
    if passes:
        ledger.claim("one", lease)
    else:
        with pytest.raises(HaltedError):
            ledger.claim("one", lease)
    assert (ledger.order("one").state is OrderState.SUBMITTED) is passes
    ledger.set_halt_state("main", HaltState.HALTED, Cause.OPERATOR, "stop", "me")
    with pytest.raises(HaltedError):
        ledger.claim("one", lease)


def test_shares_of_a_person_are_not_the_strategys_to_reduce(ledger):
    held = {"AAA": OpeningPosition(D(10), D(50))}
    ledger.open_strategy("main", "simulated", MONDAY, D(0), held, Owner.MANUAL, [])
    ledger.record_plan("main", MONDAY, 0, [order("one", side=Side.SELL, quantity=D(1))], "run")
    ledger.set_halt_state("main", HaltState.REDUCE_ONLY, Cause.OPERATOR, "careful", "me")
    with pytest.raises(HaltedError):
        ledger.claim("one", ledger.acquire_lease("main", "me", 60))


def test_two_sales_do_not_reduce_below_nothing(opened):
    opened.record_plan(
        "main", MONDAY, 0, [order(name, side=Side.SELL, quantity=D(10)) for name in ("one", "two")], "run"
    )
    opened.set_halt_state("main", HaltState.REDUCE_ONLY, Cause.OPERATOR, "careful", "me")
    lease = opened.acquire_lease("main", "me", 60)
    opened.claim("one", lease)
    with pytest.raises(HaltedError):
        opened.claim("two", lease)


@pytest.mark.parametrize("state", HaltState)
def test_flattening_passes_in_every_state(opened, state):
    sale = order("one", side=Side.SELL)
    opened.record_plan("main", MONDAY, 0, [sale], "run", Purpose.FLATTEN)
    opened.set_halt_state("main", state, Cause.OPERATOR, "why", "me")
    opened.claim("one", opened.acquire_lease("main", "me", 60))
    assert opened.order("one").state is OrderState.SUBMITTED


def test_flattening_needs_the_lease_too(opened):
    opened.record_plan("main", MONDAY, 0, [order("one", side=Side.SELL)], "run", Purpose.FLATTEN)
    with pytest.raises(LeaseLostError):
        opened.claim("one", Lease("main", "me", 1, 60))


@pytest.mark.parametrize("ended", sorted(TERMINAL_STATES))
def test_an_order_that_has_ended_is_not_claimed(opened, lease, ended):
    opened.record_state("one", ended, "the end")
    with pytest.raises(LedgerError, match=f"order one is {ended} and cannot become submitted"):
        opened.claim("one", lease)
    assert opened.order("one").state is ended


@pytest.mark.parametrize("state", [OrderState.ACCEPTED, OrderState.PARTIALLY_FILLED])
def test_an_order_at_the_broker_is_not_claimed(opened, lease, state):
    opened.record_broker_order(told(state=state, filled=1))
    with pytest.raises(LedgerError, match=f"order one is {state} at the broker and is not sent again"):
        opened.claim("one", lease)
    assert opened.order("one").state is state


# -- what people and gates did ------------------------------------------------------------------------------------


def test_actions_of_operators(ledger):
    before = datetime.now(UTC)
    ledger.record_action("main", "halt", "me", "I want it", "done")
    ledger.record_action("main", "resume", "you", "I do not", "failed: no")
    ledger.record_action("other", "halt", "me", "another", "done")
    table = ledger.actions("main")
    assert table[["action", "operator", "reason", "outcome"]].to_numpy().tolist() == [
        ["halt", "me", "I want it", "done"],
        ["resume", "you", "I do not", "failed: no"],
    ]
    assert (before <= table["at"]).all()
    assert list(ledger.actions("nobody").columns) == ["at", "action", "operator", "reason", "outcome"]


def test_refusals(ledger):
    ledger.record_refusals("main", MONDAY, [Refusal(Gate.HALT, "halted")], "first")
    ledger.record_refusals(
        "main", pd.Timestamp(TUESDAY), [Refusal(Gate.CASH, "none", "AAA"), Refusal(Gate.GROSS, "much", "BBB")], "second"
    )
    ledger.record_refusals("other", MONDAY, [Refusal(Gate.LEASE, "held")], "third")
    columns = ["session", "gate", "symbol", "detail", "run_id"]
    rows = [
        [MONDAY, "halt", "", "halted", "first"],
        [TUESDAY, "cash", "AAA", "none", "second"],
        [TUESDAY, "gross", "BBB", "much", "second"],
    ]
    assert ledger.refusals("main")[columns].to_numpy().tolist() == rows
    assert ledger.refusals("main", TUESDAY)[columns].to_numpy().tolist() == rows[1:]
    assert ledger.refusals("main", pd.Timestamp(WEDNESDAY)).empty


def test_controls_survive_the_process(opened):
    opened.acquire_lease("main", "me", 60)
    opened.set_halt_state("main", HaltState.HALTED, Cause.BROKER_ERRORS, "it is away", AUTOMATIC)
    again = SqlLedger(url_of(opened))
    assert again.halt_history("main") == opened.halt_history("main")
    assert again.lease_holder("main") == "me"
    again.engine.dispose()
