"""Market sessions and orders by hand, and drawn at random."""

from collections.abc import Iterable
from datetime import date, timedelta
from decimal import Decimal

from hypothesis import strategies as st

from trading_dagster.execution.accounting import Account, Costs, MarketSession
from trading_dagster.execution.orders import Order, Side

D = Decimal
SYMBOLS = ["AAA", "BBB", "CCC"]
START = date(2020, 3, 9)
FREE = Costs(D(0), D(0))


def decimals(values: dict[str, str | int]) -> dict[str, Decimal]:
    return {name: D(value) for name, value in values.items()}


def market(
    execution: dict[str, str | int],
    close: dict[str, str | int] | None = None,
    *,
    split: dict[str, str | int] | None = None,
    dividend: dict[str, str | int] | None = None,
    day: date = START,
) -> MarketSession:
    closes = execution if close is None else close
    return MarketSession(day, decimals(execution), decimals(closes), decimals(split or {}), decimals(dividend or {}))


def account(cash: str | int, **positions: str | int) -> Account:
    return Account(D(cash), decimals(positions))


def order(side: str, symbol: str, quantity: str | int, limit: str | Decimal | None = None) -> Order:
    identity = f"{side} {symbol}"
    most = None if limit is None else D(limit)
    return Order(identity, "main", START, symbol, Side(side), D(quantity), D(1), "why", limit_price=most)


def units(amount: Decimal, places: int = 4) -> int:
    """An amount as an integer number of its last decimal place; fails when there are more places."""
    scaled = amount.scaleb(places)
    assert scaled == int(scaled), f"{amount} has more than {places} places"
    return int(scaled)


def places(count: int, low: str, high: str) -> st.SearchStrategy[Decimal]:
    return st.decimals(D(low), D(high), places=count, allow_nan=False, allow_infinity=False)


PRICES = places(4, "0.01", "2000")
QUANTITIES = st.one_of(places(4, "0.0001", "500"), st.integers(1, 500).map(Decimal))
COSTS = st.builds(Costs, places(5, "0", "0.01"), places(5, "0", "0.01"))


@st.composite
def histories(draw, *, actions: bool, sessions: int = 6, constant_prices: bool = False):
    """Consecutive market sessions, each with the orders that meet it.

    A symbol trades from the start, but may lack a bar in a session, where only its last close is known.
    """
    steps = []
    close = {symbol: draw(PRICES) for symbol in SYMBOLS}
    for number in range(draw(st.integers(1, sessions))):
        bars = draw(st.sets(st.sampled_from(SYMBOLS)))
        if not constant_prices:
            close = close | {symbol: draw(PRICES) for symbol in sorted(bars)}
        execution = {s: close[s] if constant_prices else draw(PRICES) for s in sorted(bars)}
        split, dividend = {}, {}
        if actions:
            ratios = st.sampled_from(["2", "0.5", "3", "1.5", "0.1", "0.3333333333333333", "1.0047"])
            split = {s: D(draw(ratios)) for s in sorted(bars) if draw(st.integers(0, 3)) == 0}
            dividend = {s: draw(places(6, "0.000001", "5")) for s in sorted(bars) if draw(st.integers(0, 3)) == 0}
        orders = [
            order(draw(st.sampled_from(["buy", "sell"])), symbol, draw(QUANTITIES))
            for symbol in draw(st.lists(st.sampled_from(SYMBOLS), unique=True))
        ]
        day = START + timedelta(days=number)
        steps.append((MarketSession(day, execution, close, split, dividend), orders))
    return steps


def by_symbol(orders: Iterable[Order]) -> dict[str, Order]:
    return {each.symbol: each for each in orders}
