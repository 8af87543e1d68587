"""The planner's money and what it leaves alone: limits, cash at the worst, open orders, frozen and untradable names."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading_dagster.execution.accounting import QUANTITY_STEP, Account, MarketSession
from trading_dagster.execution.gates import Book, check_orders
from trading_dagster.execution.orders import Order, OrderState, Side
from trading_dagster.execution.planner import DUST, Terms, buying_cash, limit_price, plan_orders, worst_cash

from .markets import START, SYMBOLS, D, account, by_symbol, market, order, places
from .paper import NO_LIMITS
from .test_planner import brief, plan

# -- limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "offset", "limit"),
    [
        ("100", "0.02", "102"),
        # 10.3224: pennies from a dollar on, rounded up
        ("10.12", "0.02", "10.33"),
        ("1", "0.02", "1.02"),
        # 0.50388 and 0.0012852: four places below a dollar
        ("0.494", "0.02", "0.5039"),
        ("0.00126", "0.02", "0.0013"),
        # the limit decides, not the price: 1.0098
        ("0.99", "0.02", "1.01"),
        ("0.98", "0.02", "0.9996"),
        # never below the price, or nothing is bought where nothing moves
        ("1.0001", "0", "1.01"),
    ],
)
def test_a_limit_by_hand(price, offset, limit):
    assert limit_price(D(price), D(offset)) == D(limit)


@settings(max_examples=300, deadline=None)
@given(places(6, "0.01", "5000"), places(3, "0", "0.5"))
def test_a_limit_is_the_next_step_that_exchanges_take(price, offset):
    limit = Fraction(limit_price(price, offset))
    exact = Fraction(price) * (1 + Fraction(offset))
    step = Fraction(1, 100) if exact >= 1 else Fraction(1, 10_000)
    assert limit % step == 0
    assert exact <= limit < exact + step


def test_buys_have_a_limit_and_sales_have_none():
    orders = by_symbol(plan({"AAA": 0.5}, account(500, BBB=5), market({"AAA": "10", "BBB": "100"}), offset=D("0.02")))
    assert (orders["AAA"].limit_price, orders["BBB"].limit_price) == (D("10.20"), None)


# -- cash -----------------------------------------------------------------------------------------------------


def test_buys_are_reduced_by_one_factor_where_cash_does_not_cover_their_limits():
    """Of 1,000 at two hundredths: 500 and 500 would cost 1,020 at most; each becomes 1,000 / 1,020 of it."""
    orders = plan({"AAA": 0.5, "BBB": 0.5}, account(1000), market({"AAA": "10", "BBB": "20"}), offset=D("0.02"))
    assert brief(orders) == [("buy", "AAA", D("49.0196")), ("buy", "BBB", D("24.5098"))]


def test_sales_count_at_as_much_below_the_close():
    """100 shares of BBB bring 980 at the worst; with 1 a share and 2 in the hundred, AAA may cost that."""
    held, session = account(0, BBB=100), market({"AAA": "1", "BBB": "10"})
    (sold, bought) = plan({"AAA": 1.0}, held, session, offset=D("0.02"))
    assert brief([sold]) == [("sell", "BBB", D(100))]
    assert bought.quantity == D("960.7843")  # 980 / 1.02


def test_commission_is_part_of_the_worst():
    terms = Terms(D("0.02"), D("0.01"))
    (bought,) = plan({"AAA": 1.0}, account(1000), market({"AAA": "100"}), terms=terms)
    assert bought.quantity == D("9.7068")  # 1000 / (102 * 1.01)
    sale = order("sell", "AAA", 10)
    assert buying_cash(account(5), [replace(sale, reference_price=D(100))], terms) == D(5) + 1000 * D("0.97")


@st.composite
def situations(draw):
    """A market, an account, targets, steps, and orders that were sent before and may partly be filled."""
    prices = {symbol: draw(places(4, "0.01", "3000")) for symbol in SYMBOLS}
    session = MarketSession(date(2020, 3, 9), prices, prices, {}, {})
    held = Account(
        draw(places(2, "0", "100000")),
        draw(st.dictionaries(st.sampled_from(SYMBOLS), places(4, "0.0001", "500"), max_size=3)),
    )
    targets = draw(st.dictionaries(st.sampled_from(SYMBOLS), st.floats(0, 1), max_size=3))
    # the allocation promises this
    total = max(1.0, sum(targets.values()))
    targets = {symbol: weight / total for symbol, weight in targets.items()}
    steps = {symbol: draw(st.sampled_from([D(1), D("0.0001"), D("0.000001")])) for symbol in SYMBOLS}
    terms = Terms(draw(places(3, "0", "0.1")), draw(places(4, "0", "0.01")))
    opened, left = [], held.cash
    for symbol in draw(st.sets(st.sampled_from(SYMBOLS))):
        if draw(st.booleans()) and symbol in held.positions:
            each = order("sell", symbol, held.positions[symbol])
        else:
            each = order(
                "buy", symbol, draw(places(4, "0.0001", "20")), limit_price(prices[symbol], terms.limit_offset)
            )
            cost = each.quantity * each.limit_price * (1 + terms.commission_rate)
            if cost > left or not each.limit_price:
                continue
            left -= cost
        done = floor(each.quantity * draw(places(2, "0", "0.99")))
        opened.append(
            replace(each, state=OrderState.ACCEPTED, filled_quantity=done, reference_price=prices[symbol], reason="old")
        )
    # what is filled of a sale is held no more
    kept = dict(held.positions)
    for each in opened:
        if each.side is Side.SELL:
            kept[each.symbol] -= each.filled_quantity
    return targets, Account(held.cash, kept), session, steps, terms, opened


def floor(quantity: Decimal) -> Decimal:
    return quantity.quantize(D("0.0001"), "ROUND_DOWN")


@settings(max_examples=400, deadline=None)
@given(situations())
def test_cash_never_falls_below_zero_when_all_goes_as_badly_as_it_can(situation):
    """Every buy at its limit with commission, every sale as far below the close; sizes as planned, none left out."""
    targets, held, session, steps, terms, opened = situation
    orders = plan_orders("main", targets, {}, held, session, steps, terms, open_orders=opened)
    offset, commission = Fraction(terms.limit_offset), Fraction(terms.commission_rate)
    cash = Fraction(held.cash)
    for each in [*opened, *orders]:
        quantity = Fraction(each.quantity) - Fraction(each.filled_quantity)
        if each.side is Side.BUY:
            assert each.limit_price is not None
            cash -= quantity * Fraction(each.limit_price) * (1 + commission)
        else:
            cash += quantity * Fraction(session.close[each.symbol]) * (1 - offset - commission)
    bought = [each for each in orders if each.side is Side.BUY]
    # without a buy of this plan, what is missing is not its doing
    assert cash >= 0 or not bought


@settings(max_examples=200, deadline=None)
@given(situations())
def test_no_plan_is_refused_for_cash(situation):
    """The gate measures as the planner does: without a refused sale, it has nothing to hold back."""
    targets, held, session, steps, terms, opened = situation
    orders = plan_orders("main", targets, {}, held, session, steps, terms, open_orders=opened)
    where = Book(
        equity=held.equity(session), positions=held.positions, prices=session.close, broker_prices={},
        average_volumes={}, cash=buying_cash(held, opened, terms),
        worst_cash={each.symbol: worst_cash(each, terms) for each in orders},
    )  # fmt: skip
    assert check_orders(orders, where, NO_LIMITS) == []


@settings(max_examples=300, deadline=None)
@given(situations())
def test_what_is_ordered_fits_what_is_held_and_what_is_open(situation):
    targets, held, session, steps, terms, opened = situation
    orders = plan_orders("main", targets, {}, held, session, steps, terms, open_orders=opened)
    waiting = {each.symbol: each for each in opened}
    assert len(by_symbol(orders)) == len(orders)
    for each in orders:
        earlier = waiting.get(each.symbol)
        assert earlier is None or earlier.side is each.side
        step, position = steps[each.symbol], held.positions.get(each.symbol, D(0))
        coming = earlier.open_quantity if earlier else D(0)
        if each.side is Side.SELL:
            assert each.quantity <= position + coming
            assert each.quantity % step == 0 or not targets.get(each.symbol) or each.quantity == position + coming
        else:
            assert each.quantity % step == 0
        # a fraction below a step may be left off what was worth it
        assert (each.quantity + step) * session.close[each.symbol] >= DUST or each.side is Side.SELL


# -- steps and symbols ----------------------------------------------------------------------------------------


def test_whole_shares_where_the_broker_trades_no_parts():
    session = market({"AAA": "30", "BBB": "30"})
    steps = {"AAA": D(1), "BBB": QUANTITY_STEP}
    orders = plan({"AAA": 0.5, "BBB": 0.5}, account(1000), session, quantity_steps=steps)
    assert brief(orders) == [("buy", "AAA", D(16)), ("buy", "BBB", D("16.6666"))]


@pytest.mark.parametrize(
    ("target", "orders"),
    [
        # of 1,000 at 100: a fraction that is held stays, until the position ends
        (0.82, [("buy", "AAA", D(5))]),
        (0.12, [("sell", "AAA", D(1))]),
        (0.25, []),
        (0.0, [("sell", "AAA", D("2.5"))]),
    ],
)
def test_a_fraction_of_a_share_that_is_traded_whole(target, orders):
    held = account(750, AAA="2.5")
    assert brief(plan({"AAA": target}, held, market({"AAA": "100"}), step=D(1))) == orders


def test_a_symbol_that_cannot_be_traded_is_left_as_it_is():
    """AAA is wanted and BBB is held, and the broker trades only CCC."""
    session = market({"AAA": "10", "BBB": "10", "CCC": "10"})
    steps = {"CCC": QUANTITY_STEP}
    orders = plan({"AAA": 0.3, "CCC": 0.3}, account(500, BBB=50), session, quantity_steps=steps)
    assert brief(orders) == [("buy", "CCC", D(30))]


def test_a_frozen_symbol_is_left_as_it_is():
    session = market({"AAA": "10", "BBB": "10", "CCC": "10"})
    held = account(500, AAA=25, BBB=25)
    assert brief(plan({"CCC": 0.1}, held, session, frozen={"AAA"})) == [("sell", "BBB", D(25)), ("buy", "CCC", D(10))]
    assert plan({"AAA": 0.9}, account(1000), session, frozen={"AAA"}) == []


# -- open orders ----------------------------------------------------------------------------------------------


def waiting(side: str, quantity: str, filled: str = "0", state: OrderState = OrderState.ACCEPTED) -> Order:
    limit = "10" if side == "buy" else None
    return replace(order(side, "AAA", quantity, limit), filled_quantity=D(filled), state=state, reference_price=D(10))


@pytest.mark.parametrize(
    ("opened", "target", "orders"),
    [
        # of 1,000 at 10, with 20 shares held: what waits counts as held
        (waiting("buy", "30"), 0.5, []),
        (waiting("buy", "30"), 0.6, [("buy", "AAA", D(10))]),
        (waiting("buy", "30", "10", OrderState.PARTIALLY_FILLED), 0.5, [("buy", "AAA", D(10))]),
        (waiting("sell", "15"), 0.05, []),
        (waiting("sell", "15"), 0.0, [("sell", "AAA", D(5))]),
        (waiting("buy", "30", state=OrderState.UNCONFIRMED), 0.5, []),
        # against what is wanted now: brokers refuse to have both
        (waiting("buy", "30"), 0.1, []),
        (waiting("buy", "30"), 0.0, []),
        (waiting("sell", "15"), 0.5, []),
        # what has ended does not count
        (waiting("buy", "30", state=OrderState.EXPIRED), 0.5, [("buy", "AAA", D(30))]),
        (waiting("buy", "30", state=OrderState.REJECTED), 0.5, [("buy", "AAA", D(30))]),
    ],
)
def test_open_orders_by_hand(opened, target, orders):
    session = market({"AAA": "10"})
    assert brief(plan({"AAA": target}, account(800, AAA=20), session, open_orders=[opened])) == orders


def test_what_an_open_buy_may_still_cost_is_kept_back():
    """AAA waits for 600 at the most: 400 are left, and of 1,000 in equity at 10 these are 40 shares and not 90."""
    opened = replace(waiting("buy", "60"), session=START)
    session = market({"AAA": "10", "BBB": "10"})
    orders = plan({"AAA": 0.6, "BBB": 0.9}, account(1000), session, open_orders=[opened])
    assert brief(orders) == [("buy", "BBB", D(40))]


def test_an_open_sale_pays_for_buys():
    session = market({"AAA": "10", "BBB": "10"})
    orders = plan({"BBB": 0.5}, account(0, AAA=100), session, open_orders=[waiting("sell", "60")])
    assert brief(orders) == [("sell", "AAA", D(40)), ("buy", "BBB", D(50))]
