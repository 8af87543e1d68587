"""Each gate at its bound and on both sides of it, which one is on record, and what is left after all of them."""

from dataclasses import fields, replace
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading_dagster.execution.gates import (
    Book,
    Gate,
    Limits,
    Refusal,
    check_freshness,
    check_losses,
    check_orders,
    check_verdicts,
)
from trading_dagster.execution.halts import Losses
from trading_dagster.execution.orders import Order, Side

from .markets import SYMBOLS, D, decimals, order, places
from .paper import NO_LIMITS

TODAY, BEFORE, LATER = date(2026, 1, 6), date(2026, 1, 5), date(2026, 1, 7)


def limits(**values: str) -> Limits:
    return replace(NO_LIMITS, **decimals(values))


def book(equity: str = "1000", cash: str = "1000", **values: dict[str, str]) -> Book:
    """At 10 a share; `positions`, `prices`, `told` and `volumes` by symbol."""
    return Book(
        equity=D(equity),
        positions=decimals(values.get("positions", {})),
        prices=dict.fromkeys(SYMBOLS, D(10)) | decimals(values.get("prices", {})),
        broker_prices=decimals(values.get("told", {})),
        average_volumes=decimals(values.get("volumes", {})),
        cash=D(cash),
        worst_cash={},
    )


def buy(quantity: str, symbol: str = "AAA", limit: str | None = None) -> Order:
    return replace(order("buy", symbol, quantity, limit), reference_price=D(10))


def sell(quantity: str, symbol: str = "AAA") -> Order:
    return replace(order("sell", symbol, quantity), reference_price=D(10))


def worst(orders: list[Order]) -> dict[str, Decimal]:
    """What each brings: a buy at its limit, a sale a fiftieth below its close."""
    return {
        each.symbol: -each.quantity * (each.limit_price or each.reference_price)
        if each.side is Side.BUY
        else each.quantity * each.reference_price * D("0.98")
        for each in orders
    }


def gates(orders: list[Order], where: Book, loss: Refusal | None = None, **values: str) -> list[tuple[str, str]]:
    found = check_orders(orders, replace(where, worst_cash=worst(orders)), limits(**values), loss)
    return sorted((refusal.gate.value, refusal.symbol) for refusal in found)


# -- of the whole session -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ({"bars": True, "signals": True}, None),
        ({"bars": True, "signals": True, "more": True}, None),
        ({"bars": True}, "failed for none, was not evaluated for signals"),
        ({}, "failed for none, was not evaluated for bars, signals"),
        ({"bars": False, "signals": True}, "failed for bars, was not evaluated for none"),
        ({"signals": False}, "failed for signals, was not evaluated for bars"),
        ({"bars": True, "signals": True, "more": False}, "failed for more, was not evaluated for none"),
    ],
)
def test_every_stage_must_have_passed(verdicts, words):
    refusal = check_verdicts(TODAY, verdicts, ["bars", "signals"])
    if words is None:
        assert refusal is None
    else:
        assert (refusal.gate, refusal.symbol) == (Gate.UPSTREAM_VERDICTS, "")
        assert words in refusal.detail
        assert f"trading run --session {TODAY}" in refusal.detail


def test_only_the_newest_session_is_fresh():
    assert check_freshness(TODAY, TODAY, "the broker") is None
    past, future = check_freshness(BEFORE, TODAY, "the broker"), check_freshness(LATER, TODAY, "the broker")
    assert {past.gate, future.gate} == {Gate.FRESHNESS}
    assert f"{BEFORE} is past: the newest completed session at the broker is {TODAY}" in past.detail
    assert f"{LATER} has not closed at the broker" in future.detail


@pytest.mark.parametrize(
    ("daily", "drawdown", "gate"),
    [
        ("0.0299", "0.1499", None),
        ("0.03", "0.1499", Gate.DAILY_LOSS),
        ("0.0301", "0", Gate.DAILY_LOSS),
        ("0.0299", "0.15", Gate.DRAWDOWN),
        ("0.03", "0.15", Gate.DAILY_LOSS),
        # gains, of whatever size
        ("-0.03", "0", None),
        ("-3", "-3", None),
    ],
)
def test_losses_at_their_bounds(daily, drawdown, gate):
    refusal = check_losses(Losses(D(daily), D(drawdown)), limits(daily_loss="0.03", drawdown="0.15"))
    assert (refusal.gate if refusal else None) == gate
    assert refusal is None or refusal.symbol == ""


# -- of one order ---------------------------------------------------------------------------------------------

BOUNDS = [
    # of 1,000 in equity at 10 a share
    ("position_weight", "0.1", buy("9.9999"), buy("10"), buy("10.0001"), book()),
    ("position_weight", "0.3", buy("9.99"), buy("10"), buy("10.01"), book(positions={"AAA": "20"})),
    ("order_notional", "100", buy("9.9999"), buy("10"), buy("10.0001"), book()),
    # a buy counts at its limit, a sale at the close
    ("order_notional", "102", buy("9.9", limit="10.20"), buy("10", limit="10.20"), buy("10.1", limit="10.20"), book()),
    ("order_notional", "100", sell("9.9999"), sell("10"), sell("10.0001"), book(positions={"AAA": "20"})),
    ("volume_share", "0.05", buy("4.99"), buy("5"), buy("5.01"), book(volumes={"AAA": "100"})),
    ("volume_share", "0.1", sell("4.9"), sell("5"), sell("5.1"), book(positions={"AAA": "9"}, volumes={"AAA": "50"})),
]  # fmt: skip


@pytest.mark.parametrize(("name", "limit", "below", "at", "above", "where"), BOUNDS)
def test_a_limit_of_an_order_at_its_bound(name, limit, below, at, above, where):
    assert gates([below], where, **{name: limit}) == []
    assert gates([at], where, **{name: limit}) == []
    assert gates([above], where, **{name: limit}) == [(name, "AAA")]


@pytest.mark.parametrize("side", [buy, sell])
@pytest.mark.parametrize(
    ("told", "refused"),
    [("11", False), ("11.01", True), ("10.99", False), ("9", False), ("8.99", True), ("5", True), ("20", True)],
)
def test_the_collar_at_its_bounds(side, told, refused):
    where = book(positions={"AAA": "50"}, told={"AAA": told})
    assert gates([side("1")], where, price_collar="0.1") == ([("price_collar", "AAA")] if refused else [])


def test_where_nothing_is_known_of_price_or_volume_there_is_no_bound():
    assert gates([buy("90")], book(), price_collar="0.0001", volume_share="0.0001") == []


def test_gross_at_its_bound():
    where = book(positions={"BBB": "50"})
    assert gates([buy("39.9999")], where, gross="0.9") == []
    assert gates([buy("40")], where, gross="0.9") == []
    assert gates([buy("40.0001")], where, gross="0.9") == [("gross", "AAA")]


def test_the_largest_buys_go_first_until_gross_fits():
    """300, 200 and 100 beside 500: without the first it is 800, which fits."""
    orders = [buy("10", "AAA"), buy("30", "BBB"), buy("20", "CCC")]
    where = book(positions={"DDD": "50"}, prices={"DDD": "10"})
    assert gates(orders, where, gross="0.8") == [("gross", "BBB")]
    assert gates(orders, where, gross="0.7") == [("gross", "BBB"), ("gross", "CCC")]
    assert gates(orders, where, gross="0.55") == [("gross", "AAA"), ("gross", "BBB"), ("gross", "CCC")]


def test_a_sale_makes_room_for_a_buy_unless_it_is_refused():
    where = book(positions={"BBB": "90"})
    orders = [sell("40", "BBB"), buy("40", "AAA")]
    assert gates(orders, where, gross="0.9") == []
    assert gates(orders, where, gross="0.9", volume_share="0.3") == []
    slow = replace(where, average_volumes={"BBB": D(100)})
    assert gates(orders, slow, gross="0.9", volume_share="0.3") == [("gross", "AAA"), ("volume_share", "BBB")]


@pytest.mark.parametrize("orders", [[sell("1")], [sell("90")], [sell("1"), sell("1", "BBB")]])
def test_reductions_are_not_held_back_by_weight_or_gross(orders):
    """Also of positions that are far too large, and where nothing else is allowed."""
    where = book(positions={"AAA": "90", "BBB": "90"})
    assert gates(orders, where, position_weight="0.01", gross="0.01") == []


def test_more_of_a_short_position_is_no_reduction():
    """Somebody sold by hand what is not there: a sale makes it larger, a buy smaller."""
    where = book(positions={"AAA": "-50"})
    assert gates([sell("1")], where, position_weight="0.01") == [("position_weight", "AAA")]
    assert gates([buy("1")], where, position_weight="0.01") == []


def test_a_split_that_the_bars_lack_is_caught_by_the_collar():
    """Bars without the split say 10, the broker 5."""
    where = book(positions={"AAA": "1"}, told={"AAA": "5"})
    refusals = check_orders([buy("1")], replace(where, worst_cash={"AAA": D(-10)}), limits(price_collar="0.1"))
    assert "-50.00% from the close of 10" in refusals[0].detail
    assert "corporate_actions" in refusals[0].detail


# -- cash after a refused sale --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "volumes", "refused"),
    [
        # 600 and what 40 shares bring at 9.80: 992 are there, and 600 without the sale
        ("99.20", {}, False),
        ("60", {"BBB": "100"}, False),
        ("60.01", {"BBB": "100"}, True),
    ],
)
def test_cash_at_its_bound(quantity, volumes, refused):
    where = book(cash="600", positions={"BBB": "40"}, volumes=volumes)
    found = gates([sell("40", "BBB"), buy(quantity, "AAA", limit="10")], where, volume_share="0.3")
    assert (("cash", "AAA") in found) is refused
    assert (("volume_share", "BBB") in found) is bool(volumes)


def test_a_buy_that_lived_from_a_refused_sale_is_refused():
    """600 are there for 300 and 500, of which 400 were to come from BBB: the second one does not fit any more."""
    orders = [sell("40", "BBB"), buy("30", "AAA"), buy("50", "CCC")]
    where = book(cash="600", positions={"BBB": "40"}, volumes={"BBB": "100"})
    refusals = check_orders(orders, replace(where, worst_cash=worst(orders)), limits(volume_share="0.3"))
    assert [(r.gate, r.symbol) for r in refusals] == [(Gate.VOLUME_SHARE, "BBB"), (Gate.CASH, "CCC")]
    assert "it may cost 500.00, and only 300.00 are sure to be there" in refusals[1].detail


# -- which one is on record -----------------------------------------------------------------------------------


def test_the_gates_are_named_in_the_order_of_the_design():
    assert [gate.value for gate in Gate] == [
        "halt", "upstream_verdicts", "freshness", "reconciliation", "tradable", "position_weight", "gross",
        "order_notional", "daily_loss", "drawdown", "price_collar", "volume_share", "cash", "lease",
    ]  # fmt: skip


def test_the_first_limit_in_the_order_of_the_gates_is_on_record():
    """The order breaks all of them; one after the other is lifted."""
    where = book(cash="0", told={"AAA": "20"}, volumes={"AAA": "1"})
    bounds = {
        "position_weight": "0.01", "gross": "0.01", "order_notional": "1", "daily_loss": "0.03", "drawdown": "0.15",
        "price_collar": "0.1", "volume_share": "0.01",
    }  # fmt: skip
    loss = {"daily_loss": "0.05", "drawdown": "0.2"}
    for gate in [each.value for each in Gate if each.value in bounds]:
        found = check_losses(Losses(D(loss.get("daily_loss", 0)), D(loss.get("drawdown", 0))), limits(**bounds))
        expected = (gate, "") if gate in ("daily_loss", "drawdown") else (gate, "AAA")
        assert expected in gates([buy("10")], where, found, **bounds)
        assert len(gates([buy("10")], where, found, **bounds)) == (1 if found is None or gate in loss else 2)
        del bounds[gate]
        loss.pop(gate, None)
    assert gates([buy("10")], replace(where, average_volumes={})) == [("cash", "AAA")]


def test_a_refusal_in_words():
    assert str(Refusal(Gate.GROSS, "too much", "AAA")) == "gross of AAA: too much"
    assert str(Refusal(Gate.HALT, "halted")) == "halt: halted"


# -- laws -----------------------------------------------------------------------------------------------------

SHARES = places(2, "0.01", "200")


@st.composite
def books(draw):
    """Orders of which none sells more than is held, and everything that limits are asked of."""
    symbols = ["AAA", "BBB", "CCC", "DDD"]
    positions = draw(st.dictionaries(st.sampled_from(symbols), SHARES, max_size=4))
    prices = {symbol: draw(places(2, "0.5", "300")) for symbol in symbols}
    orders = []
    for symbol in draw(st.sets(st.sampled_from(symbols), min_size=1)):
        if symbol in positions and draw(st.booleans()):
            quantity, side = min(positions[symbol], draw(SHARES)), Side.SELL
        else:
            quantity, side = draw(SHARES), Side.BUY
        limit = prices[symbol] * D("1.02") if side is Side.BUY else None
        orders.append(replace(order(side.value, symbol, quantity, limit), reference_price=prices[symbol]))
    where = Book(
        equity=draw(places(2, "1000", "100000")),
        positions=positions,
        prices=prices,
        broker_prices={s: prices[s] * draw(st.sampled_from([D(1), D("1.2"), D("0.5")])) for s in positions},
        average_volumes=draw(st.dictionaries(st.sampled_from(symbols), places(0, "10", "5000"))),
        cash=draw(places(2, "0", "100000")),
        worst_cash=worst(orders),
    )
    drawn = limits(
        position_weight=draw(places(2, "0.01", "1")),
        gross=draw(places(2, "0.01", "1")),
        order_notional=draw(places(0, "10", "20000")),
        price_collar="0.1",
        volume_share=draw(places(2, "0.01", "1")),
    )
    return orders, where, drawn


@settings(max_examples=400, deadline=None)
@given(books())
def test_what_is_left_keeps_to_every_limit(situation):
    orders, where, bounds = situation
    refusals = check_orders(orders, where, bounds)
    refused = {refusal.symbol for refusal in refusals}
    assert len(refused) == len(refusals)
    left = [each for each in orders if each.symbol not in refused]
    after = {symbol: Fraction(quantity) for symbol, quantity in where.positions.items()}
    for each in left:
        held = after.get(each.symbol, Fraction(0))
        after[each.symbol] = held + Fraction(each.quantity) * (1 if each.side is Side.BUY else -1)
        worth = Fraction(each.quantity) * Fraction(each.limit_price or where.prices[each.symbol])
        assert worth <= Fraction(bounds.order_notional)
        if each.side is Side.BUY:
            weight = after[each.symbol] * Fraction(where.prices[each.symbol]) / Fraction(where.equity)
            assert weight <= Fraction(bounds.position_weight)
    gross = sum(abs(quantity) * Fraction(where.prices[symbol]) for symbol, quantity in after.items())
    buys = [each for each in left if each.side is Side.BUY]
    assert not buys or gross <= Fraction(bounds.gross) * Fraction(where.equity)
    # in the worst case what is left is paid for, unless there was less than nothing without any buy
    assert not buys or sum((Fraction(where.worst_cash[each.symbol]) for each in left), Fraction(where.cash)) >= 0
    reductions = {refusal.gate for refusal in refusals if by(orders, refusal.symbol).side is Side.SELL}
    assert reductions <= {Gate.ORDER_NOTIONAL, Gate.PRICE_COLLAR, Gate.VOLUME_SHARE}


@settings(max_examples=150, deadline=None)
@given(books())
def test_without_limits_nothing_is_refused(situation):
    orders, where, _ = situation
    free = replace(where, broker_prices={}, average_volumes={}, cash=D(10**9))
    assert check_orders(orders, free, NO_LIMITS) == []


def by(orders: list[Order], symbol: str) -> Order:
    (found,) = [each for each in orders if each.symbol == symbol]
    return found


def test_every_limit_is_tested_here():
    tested = {name for name, *_ in BOUNDS} | {"gross", "daily_loss", "drawdown", "price_collar"}
    assert {each.name for each in fields(Limits)} == tested
