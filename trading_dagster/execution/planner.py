"""Planner: target weights and an account to orders. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from trading_dagster.execution.accounting import Account, MarketSession, floor_quantity
from trading_dagster.execution.orders import Order, Side, client_order_id

DUST = Decimal(1)
"""Orders below this amount of currency are not worth a commission."""


def plan_orders(
    strategy: str,
    targets: Mapping[str, float],
    reasons: Mapping[str, str],
    account: Account,
    market: MarketSession,
    quantity_step: Decimal,
    revision: int = 0,
) -> list[Order]:
    """Plan target minus held.

    Parameters
    ----------
    strategy : str
    targets : mapping of str to float
        Weights as fractions of equity; a held symbol that is not named is sold whole.
    reasons : mapping of str to str
        Written into the orders.
    account : Account
        At the session's close, no order pending.
    market : MarketSession
        Its closes size the orders.
    quantity_step : Decimal
        Smallest tradable fraction of a share.
    revision : int
        Part of the order's identity.

    Returns
    -------
    list of Order
        Sells first, then by symbol; none smaller than `DUST`, except those that close a position.
    """
    equity = account.equity(market)
    orders = []
    for symbol in sorted(set(targets) | set(account.positions)):
        held = account.positions.get(symbol, Decimal(0))
        weight = targets.get(symbol, 0.0)
        price = market.mark(symbol)
        # a weight is a float: a hair is added, so that wanting just what is held is not rounded to a step less
        exact = Decimal(repr(float(weight))) * equity / price
        wanted = floor_quantity(exact + quantity_step / 1000, quantity_step)
        change = wanted - held
        closes = wanted == 0 and held > 0
        if change == 0 or (abs(change) * price < DUST and not closes):
            continue
        orders.append(
            Order(
                client_order_id=client_order_id(strategy, market.session, symbol, revision),
                strategy=strategy,
                session=market.session,
                symbol=symbol,
                side=Side.BUY if change > 0 else Side.SELL,
                quantity=abs(change),
                reference_price=price,
                reason=reasons.get(symbol, "not in the target any more"),
            )
        )
    return sorted(orders, key=lambda order: (order.side is Side.BUY, order.symbol))
