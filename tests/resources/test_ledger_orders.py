"""Plans, orders and their states in the ledger, on both databases."""

import sqlite3
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, NoResultFound

from trading_dagster.execution.orders import TERMINAL_STATES, OrderState, Side
from trading_dagster.resources.ledger import LedgerError, Purpose
from trading_dagster.resources.schemas import TABLES

from .books import MONDAY, TUESDAY, WEDNESDAY, D, dump, fill, open_books, order, told


@pytest.fixture
def planned(ledger):
    """One order of ten shares."""
    open_books(ledger)
    ledger.record_plan("main", MONDAY, 0, [order("one")], "run")
    return ledger


def states(ledger, identity: str = "one") -> list[tuple[OrderState, int, str]]:
    return [(state, int(filled), note) for _, state, filled, note in ledger.order_events(identity)]


# -- what is stored comes back ------------------------------------------------------------------------------------


def test_an_order_comes_back_as_it_went(ledger):
    there = order(
        side=Side.SELL, quantity=D("0.0001"), reference_price=D("123456.123456789"), limit_price=D("0.1234567891"),
        state=OrderState.ACCEPTED, filled_quantity=D("0.00005"), note="a note", broker_order_id="broker's",
    )  # fmt: skip
    ledger.record_plan("main", MONDAY, 0, [there], "run")
    assert ledger.order("one") == there
    assert ledger.recorded_orders("main", MONDAY) == [there]
    assert ledger.recorded_orders("main", pd.Timestamp(MONDAY)) == [there]
    assert ledger.open_orders("main") == [there]
    assert ledger.orders(["one", "two"]) == {"one": there}
    assert ledger.order_of_broker("main", "broker's") == there
    assert ledger.order_of_broker("other", "broker's") is None
    assert ledger.order_of_broker("main", "another's") is None
    assert ledger.order("two") is None


def test_an_order_at_market_has_no_limit(planned):
    assert planned.order("one").limit_price is None


def test_a_session_decided_without_orders_is_not_an_undecided_one(ledger):
    ledger.record_plan("main", MONDAY, 0, [], "run")
    assert ledger.recorded_orders("main", MONDAY) == []
    assert ledger.recorded_orders("main", TUESDAY) is None
    assert ledger.recorded_orders("other", MONDAY) is None


# -- plans --------------------------------------------------------------------------------------------------------


def test_a_plan_is_recorded_once_and_whole(ledger):
    ledger.record_plan("main", MONDAY, 0, [order("one"), order("two")], "run")
    before = dump(ledger)
    # the first holds orders of a revision that is there, the second an order that is there
    for revision, orders in ((0, [order("three")]), (1, [order("three"), order("two")])):
        with pytest.raises(IntegrityError):
            ledger.record_plan("main", MONDAY, revision, orders, "another run")
    assert dump(ledger) == before


def test_the_newest_plan_of_a_session_and_purpose(ledger):
    before = datetime.now(UTC)
    for revision, purpose in enumerate([Purpose.REBALANCE, Purpose.DRY_RUN, Purpose.REBALANCE, Purpose.FLATTEN]):
        assert ledger.next_revision("main", MONDAY) == revision
        ledger.record_plan("main", MONDAY, revision, [order(f"{purpose} {revision}")], f"run {revision}", purpose)
    assert ledger.next_revision("main", TUESDAY) == ledger.next_revision("other", MONDAY) == 0
    for purpose, revision in ((Purpose.REBALANCE, 2), (Purpose.DRY_RUN, 1), (Purpose.FLATTEN, 3)):
        plan = ledger.plan("main", pd.Timestamp(MONDAY), purpose)
        assert (plan.revision, plan.run_id) == (revision, f"run {revision}")
        assert [each.client_order_id for each in plan.orders] == [f"{purpose} {revision}"]
        assert ledger.plan_of(f"{purpose} {revision}") == (plan.run_id, plan.code_version, plan.decided_at)
        assert before <= plan.decided_at <= datetime.now(UTC)
    assert ledger.plan("main", MONDAY) == ledger.plan("main", MONDAY, Purpose.REBALANCE)
    assert ledger.plan("main", TUESDAY) is None


def test_a_dry_run_decides_nothing(ledger):
    ledger.record_plan("main", MONDAY, 0, [order("one")], "run", Purpose.DRY_RUN)
    ledger.record_plan("main", MONDAY, 1, [order("two")], "run", Purpose.FLATTEN)
    assert ledger.recorded_orders("main", MONDAY) is None


MIXED = ["b", "B", "a-2", "a10", "A", "é", "z", "_", "a.b", "a b"]


def test_orders_come_by_session_and_identity_on_every_database(ledger):
    """As Python sorts: databases have orders of text of their own."""
    open_books(ledger)
    ledger.record_plan("main", TUESDAY, 0, [order(f"{name}-t", TUESDAY, symbol=name) for name in MIXED], "run")
    ledger.record_plan("main", MONDAY, 0, [order(f"{name}-m", symbol=name) for name in reversed(MIXED)], "run")
    monday, tuesday = [f"{name}-m" for name in MIXED], [f"{name}-t" for name in MIXED]
    assert [o.client_order_id for o in ledger.open_orders("main")] == sorted(monday) + sorted(tuesday)
    assert [o.client_order_id for o in ledger.recorded_orders("main", MONDAY)] == sorted(monday)
    table = ledger.order_table("main", [MONDAY, TUESDAY])
    assert table["symbol"].tolist() == sorted(MIXED) * 2
    ledger.record_activities("main", [fill(None, "1", name=name, symbol=name) for name in MIXED])
    assert ledger.held_symbols("main") == list(ledger.account("main").positions) == sorted(MIXED)
    assert list(ledger.profit_and_loss("main").cost_basis) == sorted(MIXED)


# -- states -------------------------------------------------------------------------------------------------------

OPEN_STATES = sorted(set(OrderState) - TERMINAL_STATES)


def test_the_terminal_states_are_those_of_the_design():
    assert {state.value for state in TERMINAL_STATES} == {"filled", "cancelled", "rejected", "expired"}
    names = "planned submitted unconfirmed accepted partially_filled filled cancelled rejected expired"
    assert {state.value for state in OrderState} == set(names.split())


@pytest.mark.parametrize("ended", sorted(TERMINAL_STATES))
def test_terminal_states_stay(planned, ended):
    planned.record_state("one", ended, "the end")
    assert planned.open_orders("main") == []
    before = dump(planned)
    planned.record_state("one", ended, "another end")
    for state in set(OrderState) - {ended}:
        with pytest.raises(LedgerError, match=f"order one is {ended.value} and cannot become {state.value}"):
            planned.record_state("one", state)
    assert dump(planned) == before
    assert (planned.order("one").state, planned.order("one").note) == (ended, "the end")


@pytest.mark.parametrize("before", OPEN_STATES)
def test_open_states_may_change(ledger, before):
    for number, after in enumerate(sorted(OrderState)):
        ledger.record_plan("main", MONDAY, number, [order(str(number), state=before)], "run")
        ledger.record_state(str(number), after, "why")
        found = ledger.order(str(number))
        assert (found.state, found.note) == (after, "why")
        assert (found in ledger.open_orders("main")) is (after in OPEN_STATES)
        assert states(ledger, str(number)) == [(before, 0, ""), (after, 0, "why")]


def test_the_state_of_no_order(ledger):
    with pytest.raises(NoResultFound):
        ledger.record_state("one", OrderState.ACCEPTED)


def test_events_say_when(planned):
    before = datetime.now(UTC)
    planned.record_state("one", OrderState.SUBMITTED)
    planned.record_broker_order(told(state=OrderState.PARTIALLY_FILLED, filled=3))
    planned.record_broker_order(told(state=OrderState.CANCELLED, filled=3, note="by hand"))
    assert states(planned) == [
        (OrderState.PLANNED, 0, ""),
        (OrderState.SUBMITTED, 0, ""),
        (OrderState.PARTIALLY_FILLED, 3, ""),
        (OrderState.CANCELLED, 3, "by hand"),
    ]
    moments = [at for at, *_ in planned.order_events("one")]
    assert moments == sorted(moments)
    assert moments[0] <= before <= moments[1] <= datetime.now(UTC)
    assert {at.utcoffset() for at in moments} == {timedelta(0)}


def test_intents_of_the_past_expire(ledger):
    open_books(ledger)
    ledger.record_plan("main", MONDAY, 0, [order("late"), order("sent", state=OrderState.SUBMITTED)], "run")
    ledger.record_plan("main", TUESDAY, 0, [order("now", TUESDAY)], "run")
    ledger.record_plan("main", TUESDAY, 1, [order("dry", TUESDAY)], "run", Purpose.DRY_RUN)
    ledger.record_plan("other", MONDAY, 0, [order("other", strategy="other")], "run")
    ledger.expire_unsent("main", TUESDAY)
    ended = {name: (ledger.order(name).state, ledger.order(name).note) for name in ("late", "dry")}
    assert ended == {
        "late": (OrderState.EXPIRED, "never submitted before its session had passed"),
        "dry": (OrderState.EXPIRED, "planned by a dry run"),
    }
    assert [ledger.order(name).state for name in ("sent", "now", "other")] == [
        OrderState.SUBMITTED, OrderState.PLANNED, OrderState.PLANNED,
    ]  # fmt: skip


# -- what the broker says -----------------------------------------------------------------------------------------


def test_the_brokers_name_stays(planned):
    assert planned.record_broker_order(told()).broker_order_id == "broker's one"
    renamed = planned.record_broker_order(told(state=OrderState.FILLED, filled=10))
    assert (renamed.state, renamed.filled_quantity) == (OrderState.FILLED, D(10))
    assert planned.order_of_broker("main", "broker's one") == renamed == planned.order("one")


def test_old_news_changes_nothing(planned):
    planned.record_broker_order(told(state=OrderState.PARTIALLY_FILLED, filled=6))
    before = dump(planned)
    planned.record_broker_order(told(state=OrderState.ACCEPTED, filled=0))
    planned.record_broker_order(told(state=OrderState.PARTIALLY_FILLED, filled=4))
    planned.record_broker_order(told(state=OrderState.PARTIALLY_FILLED, filled=6))
    assert dump(planned) == before


def test_a_cancelled_order_may_have_been_filled_before(planned):
    planned.record_broker_order(told(state=OrderState.CANCELLED, filled=2, note="by hand"))
    late = planned.record_broker_order(told(state=OrderState.PARTIALLY_FILLED, filled=7))
    assert (late.state, late.filled_quantity, late.note) == (OrderState.CANCELLED, D(7), "by hand")


REPORTS = st.builds(
    told,
    state=st.sampled_from([OrderState.ACCEPTED, OrderState.PARTIALLY_FILLED, *sorted(TERMINAL_STATES)]),
    filled=st.integers(0, 10),
    note=st.sampled_from(["", "why"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(REPORTS, min_size=1, max_size=6), st.sampled_from(OPEN_STATES))
def test_no_order_of_reports_takes_anything_back(ledger, reports, start):
    revision = ledger.next_revision("main", MONDAY)
    identity = f"order {revision}"
    ledger.record_plan("main", MONDAY, revision, [order(identity, state=start)], "run")
    ranks = ["planned", "submitted", "accepted", "partially_filled", "terminal"]
    rank = {state: ranks.index(state) for state in ranks} | {"unconfirmed": 1}
    filled, state = D(0), start
    for report in reports:
        found = ledger.record_broker_order(type(report)(**{**vars(report), "client_order_id": identity}))
        assert found.filled_quantity == max(filled, report.filled_quantity)
        assert rank.get(found.state, 4) >= rank.get(state, 4)
        if state in TERMINAL_STATES:
            assert found.state is state
        filled, state = found.filled_quantity, found.state
        assert ledger.order(identity) == found
    assert filled == max(report.filled_quantity for report in reports)
    ends = [report.state for report in reports if report.state in TERMINAL_STATES]
    assert state is (ends[0] if ends else state)
    assert bool(ends) is (state in TERMINAL_STATES)


def test_the_watermark_of_orders_never_runs_back(planned):
    early, late = (datetime(2020, 3, 9, hour, tzinfo=UTC) for hour in (20, 21))
    for moment in (early, late, early):
        planned.advance_order_watermark("main", moment)
    assert planned.strategy("main").orders_read_to == late


# -- fills of orders ----------------------------------------------------------------------------------------------


def test_fills_add_up(planned):
    planned.record_activities("main", [fill("one", "4", name="a")])
    partly = planned.order("one")
    assert (partly.state, partly.filled_quantity) == (OrderState.PARTIALLY_FILLED, D(4))
    planned.record_activities("main", [fill("one", "6", name="b", session=WEDNESDAY)])
    whole = planned.order("one")
    assert (whole.state, whole.filled_quantity) == (OrderState.FILLED, D(10))
    assert [(f.activity_id, f.quantity, f.session) for f in planned.fills("main", "one")] == [
        ("a", D(4), TUESDAY), ("b", D(6), WEDNESDAY),
    ]  # fmt: skip
    assert planned.fills("other", "one") == []
    assert planned.filled_quantities(["one", "two"]) == {"one": D(10)}


def test_fills_may_come_in_any_order(planned):
    planned.record_activities("main", [fill("one", "6", "7", name="b", session=WEDNESDAY)])
    planned.record_activities("main", [fill("one", "4", "5", name="a", session=TUESDAY)])
    assert [(f.activity_id, f.session) for f in planned.fills("main", "one")] == [("a", TUESDAY), ("b", WEDNESDAY)]
    assert planned.order("one").state is OrderState.FILLED
    assert planned.account("main").cash == D(1000 - 6 * 7 - 4 * 5)


def test_the_broker_knows_of_a_fill_before_its_activity(planned):
    planned.record_broker_order(told(state=OrderState.FILLED, filled=10))
    assert planned.filled_quantities(["one"]) == {}
    before = states(planned)
    planned.record_activities("main", [fill("one", "4", name="a"), fill("one", "6", name="b")])
    assert states(planned) == before
    assert planned.filled_quantities(["one"]) == {"one": D(10)}


@pytest.mark.parametrize("ended", [OrderState.CANCELLED, OrderState.EXPIRED, OrderState.REJECTED])
def test_a_fill_of_an_order_that_has_ended_counts(planned, ended):
    """It was filled before it ended; the news came late."""
    planned.record_state("one", ended, "the end")
    planned.record_activities("main", [fill("one", "4")])
    late = planned.order("one")
    assert (late.state, late.filled_quantity, late.note) == (ended, D(4), "the end")
    assert planned.account("main").positions == {"AAA": D(4)}


@pytest.mark.parametrize(
    "batch",
    [
        [fill("two", name="good"), fill("one", "10.0001", name="bad")],
        [fill("one", "6", name="good"), fill("one", "4.0001", name="bad")],
    ],
    ids=["one fill", "two fills"],
)
def test_a_batch_that_overfills_an_order_leaves_nothing(planned, batch):
    planned.record_plan("main", MONDAY, 1, [order("two")], "run")
    before = dump(planned)
    with pytest.raises(LedgerError, match=r"fill bad would bring order one to 10.0001 shares of 10"):
        planned.record_activities("main", batch)
    assert dump(planned) == before
    assert planned.record_activities("main", batch[:1]) == 1


def test_later_batches_do_not_overfill_either(planned):
    planned.record_activities("main", [fill("one", "10", name="a")])
    before = dump(planned)
    with pytest.raises(LedgerError, match="fill b would bring order one to 11 shares of 10"):
        planned.record_activities("main", [fill("one", "1", name="b")])
    assert dump(planned) == before
    assert planned.record_activities("main", [fill("one", "10", name="a")]) == 0
    assert dump(planned) == before


def test_a_fill_of_no_order_of_ours_is_refused(planned):
    before = dump(planned)
    with pytest.raises((LedgerError, NoResultFound)):
        planned.record_activities("main", [fill(None, name="good"), fill("nobody's", name="bad")])
    assert dump(planned) == before


@pytest.mark.parametrize(
    "broken", [{"side": None}, {"quantity": "0"}, {"quantity": "-1"}], ids=["no side", "none", "less"]
)
def test_a_fill_has_a_side_and_shares(planned, broken):
    before = dump(planned)
    with pytest.raises(LedgerError, match="activity bad is a fill of"):
        planned.record_activities("main", [fill("one", name="bad", **broken)])
    assert dump(planned) == before


# -- the table of orders ------------------------------------------------------------------------------------------


def test_the_table_of_orders_by_hand(ledger):
    open_books(ledger)
    orders = [
        order("one", limit_price=D("5.75")),
        order("two", symbol="BBB", side=Side.SELL, quantity=D("2.5")),
    ]
    ledger.record_plan("main", MONDAY, 0, orders, "run")
    ledger.record_plan("main", TUESDAY, 0, [order("three", TUESDAY)], "run")
    ledger.record_activities(
        "main",
        [
            fill("one", "4", "5.5", commission="0.02", name="a"),
            fill("one", "4", "5.25", commission="0.01", name="b"),
            fill(None, "3", "9", commission="1", name="by hand"),
        ],
    )
    ledger.record_state("one", OrderState.EXPIRED, "cash covered 8 of 10 shares")
    table = ledger.order_table("main", [TUESDAY, MONDAY])
    columns = ["symbol", "client_order_id", "side", "quantity", "state", "filled_quantity", "commission", "note"]
    assert table[columns].to_numpy().tolist() == [
        # four shares at 5.50 and four at 5.25 are 43, which is 5.375 a share
        ["AAA", "one", "buy", 10.0, "expired", 8.0, 0.03, "cash covered 8 of 10 shares"],
        ["BBB", "two", "sell", 2.5, "planned", 0.0, 0.0, ""],
        ["AAA", "three", "buy", 10.0, "planned", 0.0, 0.0, ""],
    ]
    assert table["average_price"].iloc[0] == 5.375
    assert table["limit_price"].iloc[0] == 5.75
    assert table[["average_price", "limit_price"]].iloc[1:].isna().all(axis=None)
    assert table["session"].tolist() == [pd.Timestamp(MONDAY)] * 2 + [pd.Timestamp(TUESDAY)]
    assert set(table["reference_price"]) == {5.0}
    assert set(table["reason"]) == {"because"}
    assert ledger.order_table("main", [TUESDAY])["client_order_id"].tolist() == ["three"]
    assert ledger.order_table("main", [WEDNESDAY, date(2020, 3, 8)]).empty
    ledger.record_plan("main", WEDNESDAY, 0, [order("four", WEDNESDAY)], "run")
    outer = ledger.order_table("main", [WEDNESDAY, MONDAY])
    assert outer["client_order_id"].tolist() == ["one", "two", "four"]


@pytest.mark.parametrize("sessions", [[], [MONDAY]], ids=["no session", "session without orders"])
def test_an_empty_table_of_orders_fits_its_table(sqlite_ledger, tables, sessions):
    table = sqlite_ledger.order_table("main", sessions)
    assert sorted(table.columns) == sorted(column.name for column in TABLES["orders"].columns)
    assert tables.replace("orders", table, MONDAY, MONDAY).rows == 0


def test_the_table_of_orders_fits_its_table(planned, tables):
    planned.record_plan("main", MONDAY, 1, [order("two", symbol="BBB")], "run")
    planned.record_activities("main", [fill()])
    assert tables.replace("orders", planned.order_table("main", [MONDAY]), MONDAY, MONDAY).rows == 2
    assert tables.read("orders")["average_price"].iloc[0] == 5.5


def test_the_orders_of_a_long_backfill_fit_in_a_query(sqlite_ledger):
    """SQLite takes 32,766 variables by default, and twenty years of twenty symbols have more orders.

    The limit is lowered instead of writing that many, to what SQLite took before 3.32.
    """
    ledger, limit = sqlite_ledger, 999

    @event.listens_for(ledger.engine, "connect")
    def lower(connection, _):
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, limit)

    ledger.engine.dispose()
    for session in (MONDAY, TUESDAY):
        orders = [order(f"{session}-{number}", session, symbol=f"S{number:04d}") for number in range(limit)]
        ledger.record_plan("main", session, 0, orders, "run")
    assert len(ledger.order_table("main", [MONDAY, TUESDAY])) == 2 * limit
