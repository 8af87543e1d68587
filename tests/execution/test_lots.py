"""Cost basis: the worked examples of Alpaca's page, another implementation of them, and shares one by one."""

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.servers.cost_basis import Book
from trading_dagster.execution.lots import Lot, scale, trade

D = Decimal
DAYS = [date(2020, 3, 9) + timedelta(days=number) for number in range(6)]
Trade = tuple[int, str, str]
"""Day, shares (negative for a sale), price."""


def run(trades: Sequence[tuple]) -> tuple[list[Lot], Decimal]:
    lots: list[Lot] = []
    gained = D(0)
    for day, quantity, price in trades:
        lots, realised = trade(lots, DAYS[day], D(quantity), D(price))
        gained += realised
    return lots, gained


def total(lots: Sequence[Lot]) -> tuple[Decimal, Decimal]:
    return sum((lot.quantity for lot in lots), D(0)), sum((lot.cost for lot in lots), D(0))


# -- https://docs.alpaca.markets/docs/position-average-entry-price-calculation ------------------------------------


def test_the_first_worked_example_of_alpacas_page():
    lots, gained = run([(0, "100", "10"), (0, "50", "12"), (1, "30", "15"), (2, "-120", "20")])
    # 150 for 1600 on one day are one lot, of which 120 cost 1280
    assert lots == [Lot(DAYS[0], D(30), D(320)), Lot(DAYS[1], D(30), D(450))]
    assert gained == 120 * 20 - 1280


def test_the_second_worked_example_of_alpacas_page_but_for_its_order():
    """There, all buys of a day are one lot: 150 are left for 1500, and nothing is gained."""
    before, sale, after = [(0, "100", "10"), (0, "50", "9")], (0, "-50", "10"), (0, "50", "11")
    lots, gained = run([*before, after, sale])
    assert (lots, gained) == ([Lot(DAYS[0], D(150), D(1500))], D(0))
    # a buy after the sale is not spread over it here: gains are divided otherwise, and their sum is the same
    lots, gained = run([*before, sale, after])
    assert lots == [Lot(DAYS[0], D(150), D("1516.66666667"))]
    assert gained == D("16.66666667")


# -- by hand ------------------------------------------------------------------------------------------------------


def test_the_oldest_lot_is_sold_first():
    bought = [(2, "1", "7"), (0, "1", "5"), (1, "1", "6")]
    assert run([*bought, (3, "-1", "10")]) == ([Lot(DAYS[1], D(1), D(6)), Lot(DAYS[2], D(1), D(7))], D(5))
    assert run([*bought, (3, "-3", "10")]) == ([], D(12))


def test_a_lot_keeps_its_cost_when_sold_in_parts():
    lots, gained = run([(0, "3", "1"), (1, "-1", "1"), (1, "-0.7", "1")])
    assert lots == [Lot(DAYS[0], D("1.3"), D("1.3"))]
    assert gained == 0
    thirds, gained = run([(0, "2", "1"), (0, "1", "2"), (1, "-1", "0"), (1, "-1", "0")])
    # four for three: each part is rounded, and the last has what is left
    assert thirds == [Lot(DAYS[0], D(1), D("1.33333333"))]
    assert gained == D("-2.66666667")


def test_shares_sold_short_gain_when_they_are_bought_back_for_less():
    lots, gained = run([(0, "-10", "5"), (1, "-10", "6")])
    assert (lots, gained) == ([Lot(DAYS[0], D(-10), D(-50)), Lot(DAYS[1], D(-10), D(-60))], 0)
    lots, gained = run([(0, "-10", "5"), (1, "-10", "6"), (2, "15", "4")])
    assert (lots, gained) == ([Lot(DAYS[1], D(-5), D(-30))], D(10 + 10))


def test_a_trade_through_nothing_opens_the_other_side():
    assert run([(0, "10", "5"), (1, "-14", "6")]) == ([Lot(DAYS[1], D(-4), D(-24))], D(10))
    assert run([(0, "-10", "5"), (1, "14", "6")]) == ([Lot(DAYS[1], D(4), D(24))], D(-10))


def test_nothing_traded_changes_nothing():
    lots = [Lot(DAYS[0], D(1), D(2))]
    assert trade(lots, DAYS[1], D(0), D(5)) == (lots, D(0))


# -- against others -----------------------------------------------------------------------------------------------


def by_shares(trades: Sequence[tuple[int, int, Decimal]]) -> tuple[list[tuple[int, Fraction]], Fraction]:
    """Whole shares one by one, each with its day and cost; those of one day cost alike. Short ones cost less than 0."""
    held: list[tuple[int, Fraction]] = []
    gained, short = Fraction(0), False
    for day, quantity, price in trades:
        for _ in range(abs(quantity)):
            worth = Fraction(price) if quantity > 0 else -Fraction(price)
            if held and short is (quantity > 0):
                _, cost = held.pop(0)
                gained += -worth - cost
                continue
            short = quantity < 0
            mates = [cost for when, cost in held if when == day] + [worth]
            held = [each for each in held if each[0] != day] + [(day, sum(mates) / len(mates))] * len(mates)
            held.sort(key=lambda each: each[0])
    return held, gained


PRICES = st.decimals("0.01", "99", places=2)
TRADES = st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9).filter(bool), PRICES), max_size=14)


@given(TRADES)
@example([(0, 3, D("0.01")), (0, 4, D("0.02")), (1, -1, D(1)), (1, -1, D(1)), (1, -9, D(1)), (0, 5, D(2))])
def test_against_shares_one_by_one(trades):
    """Days in any order, longs and shorts."""
    lots, gained = run(trades)
    held, expected = by_shares(trades)
    assert abs(Fraction(gained) - expected) <= Fraction(len(trades), 10**8)
    sign = -1 if lots and lots[0].quantity < 0 else 1
    assert [lot.quantity * sign for lot in lots] == [
        sum(when == day for when, _ in held) for day in sorted({when for when, _ in held})
    ]
    assert [lot.session for lot in lots] == [DAYS[day] for day in sorted({when for when, _ in held})]
    for lot in lots:
        cost = sum(cost for when, cost in held if DAYS[when] == lot.session)
        assert abs(Fraction(lot.cost) - cost) <= Fraction(len(trades), 10**8)


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(1, 40), PRICES), max_size=3),
            st.lists(st.tuples(st.decimals("0", "1", places=2), PRICES), max_size=2),
        ),
        max_size=6,
    )
)
def test_against_the_servers_books(days):
    """Days on which what is bought comes before what is sold, in two implementations."""
    book, trades = Book(), []
    for day, (buys, sales) in enumerate(days):
        for quantity, price in buys:
            book = book.buy(D(quantity), price)
            trades.append((day, D(quantity), price))
        for part, price in sales:
            quantity = (book.quantity * part).quantize(D("0.0001"))
            if quantity:
                book = book.sell(quantity, price)
                trades.append((day, -quantity, price))
        book = book.end_of_day()
    lots, gained = run(trades)
    quantity, cost = total(lots)
    assert quantity == book.quantity
    assert abs(cost - book.cost) <= D("1e-8") * (len(trades) + 1)
    assert abs(gained - book.realised) <= D("1e-8") * (len(trades) + 1)


@given(TRADES)
def test_money_is_neither_made_nor_lost(trades):
    """What was paid for all is in what is left, and in what was gained."""
    lots, gained = run(trades)
    assert total(lots)[0] == sum(quantity for _, quantity, _ in trades)
    assert total(lots)[1] - gained == sum(quantity * price for _, quantity, price in trades)
    assert all((lot.quantity > 0) == (lots[0].quantity > 0) for lot in lots)


# -- shares that come without a price -----------------------------------------------------------------------------


def test_a_split_scales_each_lot_and_no_cost():
    lots = [Lot(DAYS[0], D(10), D(50)), Lot(DAYS[1], D(5), D(40))]
    assert scale(lots, D(15)) == [Lot(DAYS[0], D(20), D(50)), Lot(DAYS[1], D(10), D(40))]
    assert scale(lots, D("-7.5")) == [Lot(DAYS[0], D(5), D(50)), Lot(DAYS[1], D("2.5"), D(40))]
    shorts = [Lot(DAYS[0], D(-10), D(-50))]
    assert scale(shorts, D(-10)) == [Lot(DAYS[0], D(-20), D(-50))]


def test_the_last_lot_takes_the_rounding():
    lots = [Lot(day, D(1), D(1)) for day in DAYS[:3]]
    assert [lot.quantity for lot in scale(lots, D(1))] == [D("1.333333333")] * 2 + [D("1.333333334")]


def test_lots_of_no_shares_end():
    assert scale([Lot(DAYS[0], D(4), D(8))], D(-4)) == []


def test_shares_without_a_position_have_no_cost():
    with pytest.raises(ValueError, match="5 shares came without a cost, and there is no position"):
        scale([], D(5))


@given(
    st.lists(st.decimals("0.000000001", "1000", places=9), min_size=1, max_size=6),
    st.decimals("-1", "20", places=9),
)
def test_shares_and_costs_add_up_after_a_split(quantities, ratio):
    lots = [Lot(day, quantity, D(number)) for number, (day, quantity) in enumerate(zip(DAYS, quantities, strict=False))]
    held = total(lots)[0]
    change = max((held * ratio).quantize(D("1e-9")), -held / 2).quantize(D("1e-9"))
    after = scale(lots, change)
    assert total(after)[0] == held + change
    for lot in after:
        before = next(each for each in lots if each.session == lot.session)
        assert abs(lot.quantity - before.quantity * (held + change) / held) <= D("1e-9") * len(lots)
        assert lot.cost == before.cost
