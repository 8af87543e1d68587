"""Accounting by hand, and its laws over random sessions in whole numbers and exact fractions."""

import random
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading_dagster.execution.accounting import (
    MONEY_STEP,
    Account,
    Costs,
    MarketSession,
    advance,
    floor_quantity,
    market_sessions,
)
from trading_dagster.execution.orders import Side
from trading_dagster.quant.prices import price_history

from .markets import COSTS, FREE, PRICES, START, D, account, histories, market, order, places, units

COSTLY = Costs(commission_rate=D("0.001"), slippage_rate=D("0.02"))


# -- by hand --------------------------------------------------------------------------------------------------


def test_a_buy_by_hand():
    outcome = advance(account(1000), [order("buy", "AAA", 10)], market({"AAA": "50"}, {"AAA": "55"}), COSTLY)
    (fill,) = outcome.fills
    # two hundredths above 50 is 51; ten shares are 510 and a thousandth of that 0.51
    assert (fill.price, fill.quantity, fill.commission, fill.side) == (D(51), D(10), D("0.51"), Side.BUY)
    assert (fill.client_order_id, fill.symbol, fill.session) == ("buy AAA", "AAA", START)
    assert outcome.account == account("489.49", AAA=10)
    assert outcome.expired == {}
    assert outcome.movements == []


def test_a_sell_by_hand():
    outcome = advance(account(0, AAA=10), [order("sell", "AAA", 4)], market({"AAA": "50"}), COSTLY)
    (fill,) = outcome.fills
    # two hundredths below 50 is 49; four shares are 196 and a thousandth of that 0.196
    assert (fill.price, fill.quantity, fill.commission, fill.side) == (D(49), D(4), D("0.196"), Side.SELL)
    assert outcome.account == account("195.804", AAA=6)


def test_selling_all_leaves_no_position():
    outcome = advance(account(1, AAA=4), [order("sell", "AAA", 4)], market({"AAA": "50"}), FREE)
    assert outcome.account == account(201)


def test_slippage_is_always_to_the_worse():
    orders = [order("buy", "AAA", 1), order("sell", "BBB", 1)]
    session = market({"AAA": "100", "BBB": "100"})
    paid = {f.side: f.price for f in advance(account(500, BBB=1), orders, session, COSTLY).fills}
    assert paid == {Side.BUY: D(102), Side.SELL: D(98)}


def test_what_is_sold_pays_for_what_is_bought():
    """With one in cash, thirty shares at 10 can only be bought because the sell is first."""
    orders = [order("buy", "AAA", 30), order("sell", "BBB", 3)]
    outcome = advance(account(1, BBB=3), orders, market({"AAA": "10", "BBB": "100"}), FREE)
    assert [fill.symbol for fill in outcome.fills] == ["BBB", "AAA"]
    assert outcome.account == account(1, AAA=30)
    assert outcome.expired == {}


def test_a_buy_takes_what_cash_allows():
    outcome = advance(account(100), [order("buy", "AAA", 10)], market({"AAA": "30"}), FREE)
    (fill,) = outcome.fills
    # 3.3333 shares are 99.999; one step more would be 100.002
    assert fill.quantity == D("3.3333")
    assert outcome.account == account("0.001", AAA="3.3333")
    assert outcome.expired == {"buy AAA": "cash covered 3.3333 of 10 shares"}


def test_the_first_buys_leave_less_to_the_later_ones():
    orders = [order("buy", "BBB", 2), order("buy", "AAA", 5)]
    outcome = advance(account(600), orders, market({"AAA": "100", "BBB": "100"}), FREE)
    assert outcome.account.positions["AAA"] == D(5)
    assert D("0.9999") <= outcome.account.positions["BBB"] <= D(1)
    assert list(outcome.expired) == ["buy BBB"]


def test_a_buy_without_cash_does_not_happen():
    outcome = advance(account(0, BBB=1), [order("buy", "AAA", 5)], market({"AAA": "100", "BBB": "1"}), FREE)
    assert outcome.fills == []
    assert outcome.account == account(0, BBB=1)
    assert outcome.expired["buy AAA"].startswith("cash covered 0")


@pytest.mark.parametrize(("held", "sold"), [("3.5", "3.5"), ("0", "0")])
def test_a_sell_takes_what_is_held(held, sold):
    before = account(10, AAA=held) if D(held) else account(10)
    outcome = advance(before, [order("sell", "AAA", 10)], market({"AAA": "2"}), FREE)
    assert sum(fill.quantity for fill in outcome.fills) == D(sold)
    assert outcome.account == Account(10 + 2 * D(sold))
    assert outcome.expired["sell AAA"].startswith("position covered ")
    assert outcome.expired["sell AAA"].endswith(" of 10 shares")


def test_a_dividend_belongs_to_who_held_before():
    """Seller of the ex-date gets it, buyer of the ex-date does not."""
    orders = [order("sell", "AAA", 10), order("buy", "BBB", 10)]
    session = market({"AAA": "20", "BBB": "5"}, dividend={"AAA": "0.25", "BBB": "0.75", "CCC": "1"})
    outcome = advance(account(100, AAA=10), orders, session, FREE)
    (movement,) = outcome.movements
    assert (movement.symbol, movement.kind, movement.amount, movement.session) == ("AAA", "dividend", D("2.5"), START)
    # 100 and the dividend of 2.50, 200 from the sell, 50 for the buy
    assert outcome.account == account("252.5", BBB=10)


def test_a_dividend_can_pay_for_a_buy():
    session = market({"AAA": "10"}, dividend={"AAA": "2"})
    outcome = advance(account(0, AAA=10), [order("buy", "AAA", 1)], session, FREE)
    assert outcome.account == account(10, AAA=11)


@pytest.mark.parametrize(
    ("held", "ratio", "close", "shares", "in_lieu"),
    [
        ("10", "2", "25", "20", None),
        ("10", "0.1", "500", "1", None),
        # 3.3333 / 2 = 1.66665 shares: five hundred-thousandths of a share at 80 are 0.004
        ("3.3333", "0.5", "80", "1.6666", "0.004"),
        # 0.0005 / 10 is half the smallest fraction of a share: all of it becomes cash
        ("0.0005", "0.1", "200", None, "0.01"),
        # a fraction worth less than half a money step becomes nothing
        ("0.0001", "0.1", "1", None, None),
    ],
)
def test_a_split_by_hand(held, ratio, close, shares, in_lieu):
    session = market({"AAA": close}, split={"AAA": ratio})
    outcome = advance(account(5, AAA=held), [], session, FREE)
    assert outcome.account.positions == ({"AAA": D(shares)} if shares else {})
    assert [(m.kind, m.amount) for m in outcome.movements] == ([("cash_in_lieu", D(in_lieu))] if in_lieu else [])
    assert outcome.account.cash == 5 + D(in_lieu or 0)


def test_a_dividend_on_the_day_of_a_split_is_per_new_share():
    session = market({"AAA": "50"}, split={"AAA": "2"}, dividend={"AAA": "0.5"})
    outcome = advance(account(0, AAA=10), [], session, FREE)
    assert outcome.account == account(10, AAA=20)


def test_an_order_that_meets_a_split_expires():
    orders = [order("sell", "AAA", 10), order("buy", "BBB", 1)]
    session = market({"AAA": "25", "BBB": "10"}, split={"AAA": "2"})
    outcome = advance(account(15, AAA=10), orders, session, FREE)
    assert outcome.expired == {"sell AAA": f"a split on {START}"}
    assert outcome.account == account(5, AAA=20, BBB=1)


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_an_order_without_a_bar_expires(side):
    session = market({"BBB": "10"}, {"AAA": "50", "BBB": "10"})
    outcome = advance(account(100, AAA=10), [order(side, "AAA", 1)], session, FREE)
    assert outcome.expired == {f"{side} AAA": f"no bar on {START}"}
    assert outcome.account == account(100, AAA=10)


@pytest.mark.parametrize(
    ("limit", "bought"), [("50.99", False), ("51", True), ("51.01", True), (None, True)]
)  # fmt: skip
def test_a_buy_meets_its_limit_with_slippage(limit, bought):
    """Two hundredths above 50 is 51: a limit below that is not reached, one at it is."""
    outcome = advance(account(1000), [order("buy", "AAA", 10, limit)], market({"AAA": "50"}), COSTLY)
    assert bool(outcome.fills) is bought
    if not bought:
        assert outcome.expired == {"buy AAA": "the price of 51.000000 is above the limit of 50.99"}
        assert outcome.account == account(1000)


def test_a_delisted_position_is_paid_out_at_its_last_close():
    """With its dividend of that session; what was ordered has no bar to meet."""
    session = replace(
        market({"BBB": "10"}, {"AAA": "50", "BBB": "10"}, dividend={"AAA": "0.5"}), delisted=frozenset({"AAA", "CCC"})
    )
    outcome = advance(account(1, AAA=4, BBB=2), [order("sell", "AAA", 4)], session, FREE)
    assert [(m.kind, m.amount) for m in outcome.movements] == [("dividend", D(2)), ("delisting", D(200))]
    assert outcome.account == account(203, BBB=2)
    assert outcome.share_changes == {"AAA": D(-4)}
    assert outcome.expired == {"sell AAA": f"no bar on {START}"}


def test_shares_that_a_split_adds_are_told():
    session = market({"AAA": "25"}, split={"AAA": "2"})
    assert advance(account(0, AAA=10, BBB=1), [], session, FREE).share_changes == {"AAA": D(10)}


def test_nothing_happens_without_orders_and_actions():
    before = account("12.34", AAA="1.5", BBB=7)
    outcome = advance(before, [], market({"AAA": "10", "BBB": "20"}), COSTLY)
    assert outcome.account == before
    assert (outcome.fills, outcome.expired, outcome.movements) == ([], {}, [])


def test_equity_and_weights_by_hand():
    session = market({"AAA": "10"}, {"AAA": "12.5", "BBB": "200"})
    held = account(250, AAA=20, BBB="2.5")
    assert held.equity(session) == D(1000)
    assert held.weights(session) == {"AAA": 0.25, "BBB": 0.5}


def test_a_position_without_any_bar_cannot_be_valued():
    with pytest.raises(ValueError, match=r"ZZZ is held but has no bar up to 2020-03-09.*supply its bars"):
        account(1, ZZZ=1).equity(market({"AAA": "10"}))


@pytest.mark.parametrize(
    ("quantity", "step", "expected"),
    [("1.23456", "0.0001", "1.2345"), ("7", "1", "7"), ("0.9999", "1", "0"), ("10", "3", "9"), ("0.3", "0.1", "0.3")],
)
def test_floor_of_a_quantity(quantity, step, expected):
    assert floor_quantity(D(quantity), D(step)) == D(expected)


# -- laws -----------------------------------------------------------------------------------------------------


def nearest_unit(exact: Fraction, places: int = 4) -> int:
    """An exact amount in units of a decimal place; the half goes to the even one."""
    return round(exact * 10**places)


INITIAL = places(2, "0", "200000")


@settings(max_examples=150, deadline=None)
@given(INITIAL, histories(actions=True), COSTS)
def test_cash_is_what_came_less_what_went(initial, steps, costs):
    """Every fill and movement is recomputed in exact fractions; the sum is the cash."""
    book = Account(initial)
    cash = Fraction(initial)
    for session, orders in steps:
        before, outcome = book, advance(book, orders, session, costs)
        expected = {s: Fraction(q) for s, q in before.positions.items()}
        for symbol in sorted(set(session.split) & set(expected)):
            whole, rest = divmod(expected[symbol] * Fraction(session.split[symbol]), Fraction(1, 10_000))
            expected[symbol] = whole / Fraction(10_000)
            in_lieu = nearest_unit(rest * Fraction(session.close[symbol]))
            cash += Fraction(in_lieu, 10_000)
            paid = [m for m in outcome.movements if (m.symbol, m.kind) == (symbol, "cash_in_lieu")]
            assert sum(units(m.amount) for m in paid) == in_lieu
        for symbol in sorted(set(session.dividend) & set(before.positions)):
            dividend = nearest_unit(expected[symbol] * Fraction(session.dividend[symbol]))
            cash += Fraction(dividend, 10_000)
            paid = [m for m in outcome.movements if (m.symbol, m.kind) == (symbol, "dividend")]
            assert sum(units(m.amount) for m in paid) == dividend
        assert {m.symbol for m in outcome.movements} <= set(before.positions)
        for fill in outcome.fills:
            sign = 1 if fill.side is Side.BUY else -1
            worse = 1 + sign * Fraction(costs.slippage_rate)
            assert units(fill.price, 6) == nearest_unit(Fraction(session.execution[fill.symbol]) * worse, 6)
            amount = Fraction(fill.quantity) * Fraction(fill.price)
            assert units(fill.commission) == nearest_unit(amount * Fraction(costs.commission_rate))
            cash -= sign * amount + Fraction(fill.commission)
            expected[fill.symbol] = expected.get(fill.symbol, Fraction(0)) + sign * Fraction(fill.quantity)
        book = outcome.account
        assert Fraction(book.cash) == cash
        assert {s: Fraction(q) for s, q in book.positions.items()} == {s: q for s, q in expected.items() if q}


@settings(max_examples=150, deadline=None)
@given(INITIAL, histories(actions=True), COSTS)
def test_nothing_falls_below_zero_and_nothing_is_a_finer_fraction_than_can_be_traded(initial, steps, costs):
    book = Account(initial)
    for session, orders in steps:
        book = advance(book, orders, session, costs).account
        assert book.cash >= 0
        assert all(quantity > 0 for quantity in book.positions.values())
        assert all(units(quantity) >= 1 for quantity in book.positions.values())
        assert book.equity(session) >= book.cash


@settings(max_examples=150, deadline=None)
@given(INITIAL, histories(actions=True), COSTS)
def test_every_order_is_filled_or_says_why_not(initial, steps, costs):
    book = Account(initial)
    for session, orders in steps:
        outcome = advance(book, orders, session, costs)
        filled = {fill.client_order_id: fill for fill in outcome.fills}
        assert len(filled) == len(outcome.fills)
        assert len({fill.activity_id for fill in outcome.fills}) == len(outcome.fills)
        for each in orders:
            fill = filled.get(each.client_order_id)
            quantity = fill.quantity if fill else D(0)
            assert 0 <= quantity <= each.quantity
            assert (quantity < each.quantity) is (each.client_order_id in outcome.expired)
            if fill:
                assert (fill.symbol, fill.side, fill.session) == (each.symbol, each.side, session.session)
                assert each.symbol in session.execution
                assert each.symbol not in session.split
                assert quantity > 0
        assert set(outcome.expired) | set(filled) == {each.client_order_id for each in orders}
        book = outcome.account


@settings(max_examples=150, deadline=None)
@given(INITIAL, histories(actions=False), COSTS)
def test_without_splits_positions_are_the_sum_of_the_fills(initial, steps, costs):
    book = Account(initial)
    shares: dict[str, int] = {}
    for session, orders in steps:
        outcome = advance(book, orders, session, costs)
        assert outcome.movements == []
        for fill in outcome.fills:
            signed = units(fill.quantity) if fill.side is Side.BUY else -units(fill.quantity)
            shares[fill.symbol] = shares.get(fill.symbol, 0) + signed
        book = outcome.account
        assert {symbol: units(q) for symbol, q in book.positions.items()} == {s: n for s, n in shares.items() if n}


@settings(max_examples=200, deadline=None)
@given(places(2, "0", "2000"), PRICES, st.integers(1, 100), COSTS)
def test_a_buy_that_cash_cuts_could_not_have_been_one_step_larger(cash, price, quantity, costs):
    """One step more would leave less than the two money steps that are kept back for rounding."""
    outcome = advance(Account(cash), [order("buy", "AAA", quantity)], market({"AAA": price}), costs)
    bought = outcome.account.positions.get("AAA", D(0))
    if bought < quantity:
        paid = Fraction(price) * (1 + Fraction(costs.slippage_rate)) + Fraction(1, 2_000_000)
        more = (Fraction(bought) + Fraction(1, 10_000)) * paid * (1 + Fraction(costs.commission_rate))
        assert more > Fraction(cash) - Fraction(2, 10_000)


def test_two_roundings_up_do_not_overdraw_the_account():
    """A share and its commission are 10.4039 exactly, in two amounts that both end in half a money step."""
    costs = Costs(commission_rate=D("0.04"), slippage_rate=D(0))
    outcome = advance(account("10.4039"), [order("buy", "AAA", 1)], market({"AAA": "10.00375"}), costs)
    assert 0 <= outcome.account.cash < D("0.002")


@settings(max_examples=150, deadline=None)
@given(places(4, "0.01", "20"), places(6, "0.01", "0.6"), COSTS)
def test_a_buy_of_all_that_cash_allows_leaves_next_to_nothing(cash, price, costs):
    """At such prices a step of quantity is worth less than a money step, so a buy of all takes all."""
    outcome = advance(Account(cash), [order("buy", "AAA", 10**6)], market({"AAA": price}), costs)
    assert 0 <= outcome.account.cash <= D("0.0004")


@settings(max_examples=200, deadline=None)
@given(
    places(4, "0.0001", "5000"),
    PRICES,
    st.sampled_from(["2", "3", "10", "0.5", "0.1", "1.5", "0.3333333333333333", "0.05", "1.0047"]),
)
def test_a_split_keeps_the_value(held, close, ratio):
    """What the new shares and the cash in lieu are worth is what the exact number of shares is."""
    session = market({"AAA": close}, split={"AAA": ratio})
    outcome = advance(account(0, AAA=held), [], session, FREE)
    exact = Fraction(held) * Fraction(D(ratio)) * Fraction(close)
    assert abs(Fraction(outcome.account.equity(session)) - exact) <= Fraction(MONEY_STEP) / 2


@settings(max_examples=100, deadline=None)
@given(INITIAL, histories(actions=False, constant_prices=True))
def test_trading_for_nothing_at_a_price_that_stands_still_changes_nothing(initial, steps):
    """What a fill costs is booked exactly, so equity does not move at all."""
    book = Account(initial)
    for session, orders in steps:
        book = advance(book, orders, session, FREE).account
        assert book.equity(session) == initial


@settings(max_examples=150, deadline=None)
@given(INITIAL, histories(actions=True), COSTS, st.data())
def test_no_buy_pays_more_than_its_limit_and_what_is_not_reached_is_as_if_it_were_not_sent(initial, steps, costs, data):
    book = Account(initial)
    for session, orders in steps:
        limited = [
            replace(each, limit_price=data.draw(PRICES)) if each.side is Side.BUY and data.draw(st.booleans()) else each
            for each in orders
        ]
        outcome = advance(book, limited, session, costs)
        limits = {each.client_order_id: each.limit_price for each in limited}
        for fill in outcome.fills:
            limit = limits[fill.client_order_id]
            assert limit is None or fill.price <= limit
        above = {identity for identity, note in outcome.expired.items() if "above the limit" in note}
        assert advance(book, [o for o in limited if o.client_order_id not in above], session, costs).account == (
            outcome.account
        )
        unlimited = advance(book, [replace(o, limit_price=None) for o in limited], session, costs)
        paid = {fill.client_order_id: fill.price for fill in unlimited.fills}
        assert all(paid[identity] > limits[identity] for identity in above & set(paid))
        book = outcome.account


@settings(max_examples=75, deadline=None)
@given(INITIAL, histories(actions=True), COSTS, st.integers(0, 1000))
def test_the_order_of_orders_and_symbols_does_not_matter(initial, steps, costs, seed):
    shuffle = random.Random(seed).sample
    first = second = Account(initial)
    for session, orders in steps:
        mixed = {
            name: dict(shuffle(sorted(getattr(session, name).items()), len(getattr(session, name))))
            for name in ("execution", "close", "split", "dividend")
        }
        one = advance(first, orders, session, costs)
        positions = dict(shuffle(sorted(second.positions.items()), len(second.positions)))
        other = advance(
            replace(second, positions=positions), shuffle(orders, len(orders)), replace(session, **mixed), costs
        )
        assert one.account == other.account
        assert one.fills == other.fills
        assert one.expired == other.expired
        assert sorted(one.movements, key=str) == sorted(other.movements, key=str)
        first, second = one.account, other.account


@settings(max_examples=75, deadline=None)
@given(INITIAL, histories(actions=True), COSTS)
def test_what_is_given_is_not_changed(initial, steps, costs):
    book = Account(initial)
    for session, orders in steps:
        before = repr((book, orders, session))
        following = advance(book, orders, session, costs).account
        assert repr((book, orders, session)) == before
        book = following


# -- market sessions ------------------------------------------------------------------------------------------


@pytest.fixture
def history():
    """AAA trades on three days with an open on the first only; BBB is listed on the second and rests on the third."""
    rows = [
        ("2020-03-09", "AAA", 10.1, 10.3),
        ("2020-03-10", "AAA", np.nan, 5.2),
        ("2020-03-10", "BBB", 0.1, 0.30000000000000004),
        ("2020-03-11", "AAA", np.nan, 5.0),
    ]
    bars = pd.DataFrame(rows, columns=["session", "symbol", "open", "close"])
    bars = bars.assign(session=pd.to_datetime(bars["session"]), high=np.nan, low=np.nan)
    actions = pd.DataFrame(
        [("2020-03-10", "AAA", "split", 2.0), ("2020-03-11", "AAA", "dividend", 0.07)],
        columns=["ex_date", "symbol", "kind", "value"],
    )
    return price_history(bars, actions.assign(ex_date=pd.to_datetime(actions["ex_date"])))


def test_market_sessions_by_hand(history):
    first, second, third = market_sessions(history, history.sessions)
    assert (first.session, first.execution, first.close) == (START, {"AAA": D("10.1")}, {"AAA": D("10.3")})
    assert (first.split, first.dividend) == ({}, {})
    # without an open the close is what an order meets; the float that is not quite 0.3 stays what it is
    assert second.execution == {"AAA": D("5.2"), "BBB": D("0.1")}
    assert second.close == {"AAA": D("5.2"), "BBB": D("0.30000000000000004")}
    assert (second.split, second.dividend) == ({"AAA": D(2)}, {})
    # BBB has no bar to trade on, and keeps its last close
    assert third.execution == {"AAA": D(5)}
    assert third.close == {"AAA": D(5), "BBB": D("0.30000000000000004")}
    assert third.dividend == {"AAA": D("0.07")}
    assert third.mark("BBB") == D("0.30000000000000004")


def test_market_sessions_of_some_sessions_know_the_closes_before(history):
    (last,) = market_sessions(history, history.sessions[2:])
    assert isinstance(last, MarketSession)
    assert last.close["BBB"] == D("0.30000000000000004")
    assert market_sessions(history, pd.DatetimeIndex(["2020-03-12"])) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=5))
def test_decimals_of_prices_are_the_same_floats(closes):
    days = pd.bdate_range(START, periods=len(closes))
    bars = pd.DataFrame({"session": days, "symbol": "AAA", "close": closes}).assign(
        open=np.nan, high=np.nan, low=np.nan
    )
    actions = pd.DataFrame({"ex_date": days[:0], "symbol": [], "kind": [], "value": []})
    found = market_sessions(price_history(bars, actions), days)
    assert [float(each.close["AAA"]) for each in found] == closes
    assert all(isinstance(each.close["AAA"], Decimal) for each in found)
