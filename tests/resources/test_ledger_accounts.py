"""What the account did: activities counted once, lots, cash, snapshots and gains, on both databases."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trading_dagster.execution.accounting import Account
from trading_dagster.execution.halts import EquityPoint
from trading_dagster.execution.orders import Side
from trading_dagster.resources.ledger import LedgerError, OpeningPosition, Owner, Purpose

from .books import MONDAY, THURSDAY, TUESDAY, WEDNESDAY, D, dump, execute, fill, movement, open_books, order

SELL = Side.SELL


@pytest.fixture
def opened(ledger):
    """Ten shares of AAA for 50, and a thousand in cash."""
    open_books(ledger, AAA=("10", "50"))
    return ledger


def gains(ledger, strategy: str = "main") -> tuple[Decimal, Decimal, Decimal, dict[str, Decimal]]:
    found = ledger.profit_and_loss(strategy)
    return found.realised, found.commission, found.income, found.cost_basis


# -- decimals -----------------------------------------------------------------------------------------------------

AMOUNTS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=10)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from("ABCDEFG"), AMOUNTS.filter(bool), min_size=1), AMOUNTS, st.integers(0, 10))
@example({"A": D("0.0000000001")}, D("999999999999999.9999999999"), 10)
@example({"A": D("1E-10"), "B": D("-0.0000000001")}, D("100000"), 0)
@example({"A": D("1234567890123456789.123456789")}, D("-0.1234567890123456789012345678"), 28)
def test_decimals_come_back_to_the_last_digit(ledger, positions, cash, places):
    """The comparison is of integers: both sides in units of the 28th place."""
    cash = round(cash, places)
    strategy = f"run {execute(ledger, 'SELECT count(*) FROM strategies')}"
    ledger.open_strategy(
        strategy, "simulated", MONDAY, cash, {s: OpeningPosition(q, q) for s, q in positions.items()},
        Owner.STRATEGY, [],
    )  # fmt: skip
    ledger.record_snapshot(strategy, MONDAY, cash, positions)
    for found in (ledger.recorded_account(strategy, MONDAY), ledger.account(strategy)):
        assert {s: int(q.scaleb(28)) for s, q in found.positions.items()} == {
            s: int(q.scaleb(28)) for s, q in positions.items()
        }
        assert int(found.cash.scaleb(28)) == int(cash.scaleb(28))
        assert found == Account(cash, positions)
    assert ledger.profit_and_loss(strategy).cost_basis == positions
    assert ledger.equity_points(strategy) == [EquityPoint(MONDAY, cash)]
    assert ledger.held_symbols(strategy) == sorted(positions)


def test_equal_amounts_are_stored_as_equal_text(sqlite_ledger):
    for number, text in enumerate(["1000", "1E+3", "1000.00", "1000.0000000000"]):
        open_books(sqlite_ledger, f"s{number}", cash=text)
    assert execute(sqlite_ledger, "SELECT DISTINCT cash FROM strategies") == [("1000",)]
    assert {str(sqlite_ledger.account(f"s{number}").cash) for number in range(4)} == {"1000"}


# -- snapshots ----------------------------------------------------------------------------------------------------


def test_accounts_by_session(ledger):
    open_books(ledger, cash="100")
    ledger.record_snapshot("main", MONDAY, D(100), {})
    bought = [fill(None, "8", "5", name="a"), fill(None, "3", "6", symbol="BBB", name="b")]
    ledger.record_activities("main", bought)
    ledger.record_snapshot("main", WEDNESDAY, D("101.5"), {"AAA": D("6.5"), "BBB": D("2.5"), "CCC": D(1)})
    assert ledger.recorded_account("main", MONDAY) == Account(D(100))
    assert ledger.recorded_account("main", TUESDAY) is None
    after = Account(D(100 - 40 - 18), {"AAA": D(8), "BBB": D(3)})
    assert ledger.recorded_account("main", pd.Timestamp(WEDNESDAY)) == after
    assert ledger.account("main") == after
    assert ledger.held_symbols("main") == ["AAA", "BBB"]
    for session in (MONDAY, TUESDAY):
        assert ledger.last_recorded_session("main", session) == pd.Timestamp(MONDAY)
    assert ledger.last_recorded_session("main", date(2020, 3, 8)) is None
    assert ledger.last_recorded_session("main") == pd.Timestamp(WEDNESDAY)
    curve = ledger.equity_curve("main")
    assert list(curve.index) == [pd.Timestamp(MONDAY), pd.Timestamp(WEDNESDAY)]
    assert curve.to_numpy().tolist() == [[100.0, 100.0], [42.0, 101.5]]
    prices = [row[2:] for row in dump(ledger)["position_snapshots"]]
    assert prices == [("AAA", "8", "6.5"), ("BBB", "3", "2.5")]


def test_a_snapshot_changes_until_orders_were_decided_on_it(opened):
    opened.record_snapshot("main", MONDAY, D(1060), {"AAA": D(6)})
    opened.record_plan("main", MONDAY, 0, [], "run", Purpose.DRY_RUN)
    opened.record_plan("main", MONDAY, 1, [], "run", Purpose.FLATTEN)
    opened.record_activities("main", [fill(None, "10", "7", side=SELL)])
    opened.record_snapshot("main", MONDAY, D(1070), {})
    assert opened.recorded_account("main", MONDAY) == Account(D(1070))
    opened.record_plan("main", MONDAY, 2, [], "run", Purpose.REBALANCE)
    before = dump(opened)
    opened.record_activities("main", [movement("transfer", "5")])
    opened.record_snapshot("main", MONDAY, D(9), {})
    after = dump(opened)
    assert after["account_snapshots"] == before["account_snapshots"]
    assert after["position_snapshots"] == before["position_snapshots"]
    assert opened.unsettled_transfers("main") == D(5)
    opened.record_snapshot("main", TUESDAY, D(1075), {})
    assert opened.equity_points("main") == [EquityPoint(MONDAY, D(1070)), EquityPoint(TUESDAY, D(1075), D(5))]


def test_a_plan_without_a_snapshot_does_not_prevent_one(opened):
    opened.record_plan("main", MONDAY, 0, [], "run")
    opened.record_snapshot("main", MONDAY, D(1), {"AAA": D(1)})
    assert opened.recorded_account("main", MONDAY).positions == {"AAA": D(10)}


def test_transfers_are_the_flow_of_the_next_snapshot(opened):
    price = {"AAA": D(5)}
    opened.record_snapshot("main", MONDAY, D(1050), price)
    opened.record_activities(
        "main",
        [movement("transfer", "100", name="a"), movement("transfer", "-30", name="b"), movement("dividend", "1"),
         movement("fee", "-2")],
    )  # fmt: skip
    assert opened.unsettled_transfers("main") == D(70)
    opened.record_snapshot("main", TUESDAY, D(1119), price)
    assert opened.unsettled_transfers("main") == D(0)
    # once more of the same session, with more money: all of it is the session's
    opened.record_activities("main", [movement("transfer", "7", name="c", session=MONDAY)])
    opened.record_snapshot("main", TUESDAY, D(1126), price)
    opened.record_snapshot("main", WEDNESDAY, D(1126), price)
    assert [point.external_flow for point in opened.equity_points("main")] == [D(0), D(77), D(0)]
    assert opened.account("main").cash == D(1000 + 100 - 30 + 1 - 2 + 7)
    assert opened.unsettled_transfers("other") == D(0)


def test_a_persons_shares_are_not_in_the_snapshot(opened):
    opened.record_activities("main", [fill(None, "3", "5", symbol="BBB", owner=Owner.MANUAL)])
    opened.record_snapshot("main", MONDAY, D(1050), {"AAA": D(5)})
    assert opened.recorded_account("main", MONDAY).positions == {"AAA": D(10)}
    assert opened.manual_positions("main") == {"BBB": D(3)}


# -- activities ---------------------------------------------------------------------------------------------------


def test_activities_by_hand(opened):
    new = opened.record_activities(
        "main",
        [
            fill(None, "10", "8", name="a", commission="0.5"),
            fill(None, "15", "9", name="b", side=SELL, commission="0.25", session=WEDNESDAY),
            movement("dividend", "1.5"),
            movement("fee", "-0.75", symbol=""),
        ],
    )
    assert new == 4
    # ten at 5 and five at 8 were sold for 9: 40 and 5 are gained, five at 8 are left
    assert gains(opened) == (D(45), D("0.75"), D("0.75"), {"AAA": D(40)})
    assert opened.account("main") == Account(D(1000 - 80 + 135) - D("0.75") + D("0.75"), {"AAA": D(5)})
    assert opened.profit_and_loss("main").unrealised({"AAA": D(55)}) == D(15)
    assert gains(opened, "other") == (D(0), D(0), D(0), {})


def test_an_activity_counts_once(opened):
    batch = [fill(None, "1", name="a"), movement("dividend", "3"), movement("split", quantity="11")]
    assert opened.record_activities("main", batch) == 3
    before = dump(opened)
    assert opened.record_activities("main", batch) == 0
    assert opened.record_activities("main", [*reversed(batch)]) == 0
    assert dump(opened) == before
    twice = movement("fee", "-1")
    assert opened.record_activities("main", [twice, twice, *batch]) == 1
    assert opened.record_activities("main", []) == 0
    assert opened.unknown_activities("main", ["a", "b"]) == {"b"}


def test_an_activity_of_one_strategy_is_new_to_another(opened):
    open_books(opened, "other")
    batch = [fill(None, "1", name="a"), movement("dividend", "3")]
    assert opened.record_activities("main", batch) == opened.record_activities("other", batch) == 2
    assert opened.account("main").positions == {"AAA": D(11)}
    assert opened.account("other").positions == {"AAA": D(1)}


def test_how_far_activities_were_read(opened):
    noon = datetime(2020, 3, 10, 12, tzinfo=UTC)
    opened.record_activities("main", [movement("fee", "-1", session=WEDNESDAY), movement("fee", "-1")])
    assert opened.strategy("main").activities_read_to == noon + timedelta(days=1)
    opened.record_activities("main", [movement("fee", "-1", session=MONDAY)])
    assert opened.strategy("main").activities_read_to == noon + timedelta(days=1)


def test_trades_out_of_order_make_the_same_lots(ledger):
    """Buys of three sessions, in each of two orders; only what a sale finds is a question of order."""
    buys = [fill(None, "2", str(price), name=f"b{price}", session=day) for price, day in
            ((5, MONDAY), (6, TUESDAY), (7, WEDNESDAY))]  # fmt: skip
    for name, batch in (("forth", buys), ("back", buys[::-1])):
        open_books(ledger, name)
        for each in batch:
            ledger.record_activities(name, [each])
        ledger.record_activities(name, [fill(None, "3", "10", name="s", side=SELL, session=THURSDAY)])
        assert gains(ledger, name) == (D(30 - 16), D(0), D(0), {"AAA": D(20)})


def test_a_sale_beyond_what_is_held_is_short(opened):
    opened.record_activities("main", [fill(None, "14", "6", side=SELL)])
    assert opened.account("main") == Account(D(1084), {"AAA": D(-4)})
    assert gains(opened) == (D(10), D(0), D(0), {"AAA": D(-24)})
    opened.record_activities("main", [fill(None, "4", "7", name="back", session=WEDNESDAY)])
    assert opened.account("main") == Account(D(1056))
    assert gains(opened) == (D(6), D(0), D(0), {})


# -- corporate actions --------------------------------------------------------------------------------------------


def test_a_split_changes_shares_and_no_value(opened):
    opened.record_activities("main", [fill(None, "5", "8")])
    opened.record_activities("main", [movement("split", quantity="15", session=WEDNESDAY)])
    assert opened.account("main") == Account(D(960), {"AAA": D(30)})
    assert gains(opened) == (D(0), D(0), D(0), {"AAA": D(90)})
    # twenty of Monday's at 2.50 and one of Tuesday's ten at 4
    opened.record_activities("main", [fill(None, "21", "3", name="s", side=SELL, session=THURSDAY)])
    assert gains(opened) == (D(63 - 54), D(0), D(0), {"AAA": D(36)})


def test_a_reverse_split_with_cash_for_the_fraction(opened):
    actions = [movement("split", quantity="-7.5"), movement("cash_in_lieu", "2")]
    opened.record_activities("main", actions)
    assert opened.account("main") == Account(D(1002), {"AAA": D("2.5")})
    assert gains(opened) == (D(0), D(0), D(2), {"AAA": D(50)})


def test_a_split_is_everybodys(opened):
    opened.record_activities("main", [fill(None, "5", "8", owner=Owner.MANUAL)])
    opened.record_activities("main", [movement("split", quantity="15", session=WEDNESDAY)])
    assert opened.account("main").positions == {"AAA": D(20)}
    assert opened.manual_positions("main") == {"AAA": D(10)}
    assert gains(opened)[3] == {"AAA": D(90)}


def test_parts_of_a_split_are_of_nine_decimals(opened):
    """A broker has no finer shares; what is finer here could never be sold."""
    opened.record_activities("main", [fill(None, "1", "8", name="a", owner=Owner.MANUAL)])
    opened.record_activities("main", [movement("split", quantity="0.000000001", session=WEDNESDAY)])
    both = [opened.account("main").positions["AAA"], opened.manual_positions("main")["AAA"]]
    assert sum(both) == D("11.000000001")
    assert [quantity % D("0.000000001") for quantity in both] == [0, 0]


def test_a_delisting_realises(opened):
    opened.record_activities("main", [fill(None, "5", "8")])
    opened.record_activities("main", [movement("delisting", "45", quantity="-15", session=WEDNESDAY)])
    assert opened.account("main") == Account(D(1005))
    # 50 and 40 were paid, 45 came back
    assert gains(opened) == (D(0), D(0), D(-45), {})
    assert dump(opened)["lots"] == []


def test_a_delisting_is_everybodys(opened):
    opened.record_activities("main", [fill(None, "5", "8", owner=Owner.MANUAL)])
    opened.record_activities("main", [movement("delisting", "45", quantity="-15", session=WEDNESDAY)])
    assert (opened.account("main"), opened.manual_positions("main")) == (Account(D(1005)), {})
    assert gains(opened) == (D(0), D(0), D(-45), {})


@pytest.mark.parametrize("digits", ["123456.123456789", "987654.321987653", "333333.333333333", "777777.777777777"])
def test_a_delisting_leaves_no_dust(ledger, digits):
    open_books(ledger, AAA=(digits, "1000"))
    ledger.record_activities("main", [fill(None, "234567.987654321", "1", owner=Owner.MANUAL)])
    whole = D(digits) + D("234567.987654321")
    ledger.record_activities("main", [movement("delisting", "1", quantity=-whole, session=WEDNESDAY)])
    assert dump(ledger)["lots"] == []
    assert gains(ledger)[3] == {}


@pytest.mark.parametrize("kind", ["split", "delisting"])
def test_an_action_on_a_position_that_is_not_there_is_refused(opened, kind):
    before = dump(opened)
    with pytest.raises(LedgerError, match=rf"\({kind}\) changes the position in BBB by 5 shares.*trading reconcile"):
        opened.record_activities("main", [fill(None), movement(kind, quantity="5", symbol="BBB")])
    assert dump(opened) == before


# -- what people do -----------------------------------------------------------------------------------------------


def test_a_persons_trades_are_apart_until_they_are_adopted(opened):
    opened.record_activities(
        "main",
        [fill(None, "4", "7", name="a", owner=Owner.MANUAL), fill(None, "2", "3", name="b", symbol="BBB",
                                                                  owner=Owner.MANUAL)],
    )  # fmt: skip
    assert opened.account("main") == Account(D(1000 - 28 - 6), {"AAA": D(10)})
    assert opened.manual_positions("main") == {"AAA": D(4), "BBB": D(2)}
    before = gains(opened)
    assert before == (D(0), D(0), D(0), {"AAA": D(78), "BBB": D(6)})
    assert opened.adopt_manual("main") == ["AAA", "BBB"]
    assert opened.account("main") == Account(D(966), {"AAA": D(14), "BBB": D(2)})
    assert opened.manual_positions("main") == {}
    assert gains(opened) == before
    assert opened.adopt_manual("main") == []
    # the oldest lots go first
    opened.record_activities("main", [fill(None, "12", "8", name="s", side=SELL, session=WEDNESDAY)])
    assert gains(opened) == (D(96 - 50 - 14), D(0), D(0), {"AAA": D(14), "BBB": D(6)})


def test_adopting_what_was_sold_by_hand_takes_the_gain(opened):
    """Ten at 5 are the strategy's; a person sold four of them at 15, which gained 40."""
    opened.record_activities("main", [fill(None, "4", "15", side=SELL, owner=Owner.MANUAL)])
    assert opened.manual_positions("main") == {"AAA": D(-4)}
    assert opened.adopt_manual("main") == ["AAA"]
    assert opened.account("main").positions == {"AAA": D(6)}
    assert gains(opened) == (D(0), D(0), D(40), {"AAA": D(30)})
    assert opened.account("main").cash == D(1060)
    assert opened.unsettled_transfers("main") == D(0)


def test_adopting_a_cost_that_does_not_divide(opened):
    opened.record_activities("main", [fill(None, q, "1.1111", name=q, owner=Owner.MANUAL) for q in ("3", "0.7", "7")])
    cost = gains(opened)[3]
    opened.adopt_manual("main")
    assert gains(opened)[3] == cost == {"AAA": D(50) + D("10.7") * D("1.1111")}


def test_a_difference_that_nothing_explains_is_neither_gain_nor_loss(opened):
    changes = {"AAA": (D(-4), D(7)), "BBB": (D(3), D(2))}
    opened.adjust("main", TUESDAY, D("-11.5"), changes, Owner.STRATEGY)
    assert opened.account("main") == Account(D("988.5"), {"AAA": D(6), "BBB": D(3)})
    realised, commission, income, basis = gains(opened)
    assert (realised, commission, income, basis) == (D(8), D(0), D(0), {"AAA": D(30), "BBB": D(6)})
    # the equity that losses are measured on is the broker's, which was right before
    opened.record_snapshot("main", TUESDAY, D(1), {"AAA": D(7), "BBB": D(2)})
    assert opened.equity_points("main")[-1].external_flow == 0


def test_cash_alone_may_differ(opened):
    opened.adjust("main", TUESDAY, D("2.5"), {}, Owner.STRATEGY)
    opened.adjust("main", TUESDAY, D("-1"), {}, Owner.MANUAL)
    assert opened.account("main").cash == D("1001.5")
    assert opened.unsettled_transfers("main") == 0


def test_a_persons_shares_may_differ(opened):
    opened.adjust("main", TUESDAY, D(0), {"AAA": (D(2), D(5))}, Owner.MANUAL)
    assert opened.account("main").positions == {"AAA": D(10)}
    assert opened.manual_positions("main") == {"AAA": D(2)}


# -- strategies side by side --------------------------------------------------------------------------------------


def test_strategies_side_by_side_do_not_mix(ledger):
    names = ["main", "main_2", "other"]
    for number, strategy in enumerate(names, start=1):
        identity = f"{strategy}-order"
        open_books(ledger, strategy, cash=str(1000 * number))
        ledger.record_plan(strategy, MONDAY, 0, [order(identity, strategy=strategy, quantity=D(number))], strategy)
        ledger.record_activities(
            strategy,
            [fill(None, str(number), "1", symbol=f"SYM{number}"), movement("dividend", str(number)),
             movement("transfer", str(number))],
        )  # fmt: skip
        ledger.record_snapshot(strategy, TUESDAY, D(1001 * number), {f"SYM{number}": D(1)})
    for number, strategy in enumerate(names, start=1):
        assert [o.quantity for o in ledger.open_orders(strategy)] == [D(number)]
        assert [o.quantity for o in ledger.recorded_orders(strategy, MONDAY)] == [D(number)]
        assert ledger.order_table(strategy, [MONDAY])["quantity"].tolist() == [float(number)]
        assert ledger.recorded_account(strategy, TUESDAY) == Account(D(1001 * number), {f"SYM{number}": D(number)})
        assert ledger.held_symbols(strategy) == [f"SYM{number}"]
        assert ledger.equity_points(strategy) == [EquityPoint(TUESDAY, D(1001 * number), D(number))]
        assert gains(ledger, strategy) == (D(0), D(0), D(number), {f"SYM{number}": D(number)})
    assert ledger.last_recorded_session("none") is None
    assert len(ledger.equity_curve("none")) == 0
    assert ledger.equity_points("none") == []


# -- the books balance --------------------------------------------------------------------------------------------


def places(count: int, low: str, high: str) -> st.SearchStrategy[Decimal]:
    return st.decimals(D(low), D(high), places=count, allow_nan=False, allow_infinity=False)


STEPS = st.one_of(
    st.tuples(st.just("fill"), st.sampled_from(Side), places(4, "0.0001", "50"), places(4, "0.01", "90"),
              places(2, "0", "2"), st.sampled_from(Owner)),
    st.tuples(st.just("cash"), st.sampled_from(["dividend", "fee", "transfer"]), places(2, "-50", "50")),
    st.tuples(st.just("split"), st.sampled_from([D(2), D("0.5"), D("1.5")])),
    st.tuples(st.just("delisting"), places(2, "0", "90")),
    st.tuples(st.just("adopt")),
    st.tuples(st.just("adjust"), places(2, "-9", "9"), places(4, "-9", "9").filter(bool), places(4, "0.01", "90")),
)  # fmt: skip


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=9), places(4, "0.01", "90"))
@example(
    [("fill", SELL, D(4), D(15), D(0), Owner.MANUAL), ("adopt",), ("fill", SELL, D(9), D(7), D(1), Owner.STRATEGY)],
    D(5),
)
@example([("fill", Side.BUY, D("0.7"), D("1.1111"), D(0), Owner.MANUAL), ("split", D("1.5")), ("adopt",)], D(5))
def test_gains_are_what_the_account_gained(ledger, steps, price):
    """Equity at any price, counted by shares and cash alone, is the opening equity, transfers and gains."""
    strategy = f"run {execute(ledger, 'SELECT count(*) FROM strategies')}"
    open_books(ledger, strategy, AAA=("10", "50"))
    cash, shares, outside, adjusted = D(1000), D(10), D(0), D(0)
    for number, (name, *values) in enumerate(steps):
        day = TUESDAY + timedelta(days=number // 2)
        if name == "fill":
            side, quantity, paid, commission, owner = values
            signed = quantity if side is Side.BUY else -quantity
            cash, shares = cash - signed * paid - commission, shares + signed
            found = fill(None, quantity, paid, name=str(number), side=side, session=day, commission=commission,
                         owner=owner)  # fmt: skip
        elif name == "cash":
            cash += values[1]
            outside += values[1] if values[0] == "transfer" else 0
            found = movement(values[0], values[1], name=str(number), session=day)
        elif name in ("split", "delisting"):
            ours = ledger.account(strategy).positions.get("AAA", D(0))
            theirs = ledger.manual_positions(strategy).get("AAA", D(0))
            if ours * theirs < 0 or not shares:
                continue  # who owes the other is settled by hand
            change = -shares if name == "delisting" else (shares * (values[0] - 1)).quantize(D("1e-9"))
            amount = values[0] if name == "delisting" else D(0)
            cash, shares = cash + amount, shares + change
            found = movement(name, amount, quantity=change, name=str(number), session=day)
        elif name == "adopt":
            ledger.adopt_manual(strategy)
            continue
        else:
            more, quantity, paid = values
            ledger.adjust(strategy, day, more, {"AAA": (quantity, paid)}, Owner.STRATEGY)
            cash, shares, adjusted = cash + more, shares + quantity, adjusted + more + quantity * paid
            continue
        assert ledger.record_activities(strategy, [found]) == 1
    told = ledger.profit_and_loss(strategy)
    held = ledger.account(strategy)
    assert held.cash == cash
    assert held.positions.get("AAA", D(0)) + ledger.manual_positions(strategy).get("AAA", D(0)) == shares
    values = {symbol: shares * price for symbol in told.cost_basis}
    gained = told.realised - told.commission + told.income + told.unrealised(values)
    # costs are kept to eight places
    assert abs(cash + shares * price - (D(1050) + outside + adjusted + gained)) <= D("1e-8") * len(steps)
    assert ledger.unsettled_transfers(strategy) == outside
