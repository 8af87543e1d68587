"""Planner: target weights and an account to orders. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_UP, Decimal

from trading_dagster.execution.accounting import Account, MarketSession, floor_quantity
from trading_dagster.execution.orders import Order, Side, client_order_id

DUST = Decimal(1)
"""Orders below this amount of currency are not worth a commission."""

PENNY, SUB_PENNY = Decimal("0.01"), Decimal("0.0001")
"""Steps of a limit price from one dollar on, and below (SEC Rule 612)."""


@dataclass(frozen=True)
class Terms:
    """What every order of a plan keeps to.

    Attributes
    ----------
    limit_offset : Decimal
        How far above the close a buy may pay, as a fraction. It bounds what a plan can cost: cash, and what the sales
        bring at as much below the close, cover every buy at its limit.
    commission_rate : Decimal
        Fraction of the price that a fill costs.
    """

    limit_offset: Decimal
    commission_rate: Decimal = Decimal(0)


def plan_orders(
    strategy: str,
    targets: Mapping[str, float],
    reasons: Mapping[str, str],
    account: Account,
    market: MarketSession,
    quantity_steps: Mapping[str, Decimal],
    terms: Terms,
    revision: int = 0,
    open_orders: Sequence[Order] = (),
    frozen: Collection[str] = (),
) -> list[Order]:
    """Plan target minus held, counting what open orders will still bring as held.

    Parameters
    ----------
    strategy : str
    targets : mapping of str to float
        Weights as fractions of equity; a held symbol that is not named is sold whole.
    reasons : mapping of str to str
        Written into the orders.
    account : Account
        At the session's close.
    market : MarketSession
        Its closes size the orders.
    quantity_steps : mapping of str to Decimal
        Smallest tradable fraction of a share; a symbol that is not named cannot be traded and is left as it is.
    terms : Terms
    revision : int
        Part of the orders' identity.
    open_orders : sequence of Order
        Sent before and not ended. One that works against what is wanted now keeps its symbol out of the plan, since
        brokers refuse to have both at once.
    frozen : collection of str
        Symbols to leave alone.

    Returns
    -------
    list of Order
        Sells at market first, then buys with a limit, each by symbol; none smaller than `DUST`, except those that
        close a position. Where cash does not cover the buys, each is reduced by the same factor.
    """
    equity = account.equity(market)
    pending: dict[str, Decimal] = {}
    for order in open_orders:
        pending[order.symbol] = pending.get(order.symbol, Decimal(0)) + order.open_quantity
    sells: list[Order] = []
    buys: list[Order] = []
    for symbol in sorted(set(targets) | set(account.positions) | set(pending)):
        if symbol in frozen or symbol not in quantity_steps:
            continue
        step, price = quantity_steps[symbol], market.mark(symbol)
        held = account.positions.get(symbol, Decimal(0))
        coming = pending.get(symbol, Decimal(0))
        # a weight is a float: a hair is added, so that wanting just what is held is not rounded to a step less
        exact = Decimal(repr(float(targets.get(symbol, 0.0)))) * equity / price
        wanted = floor_quantity(exact + step / 1000, step)
        change = wanted - held - coming
        closes = wanted == 0 and held > 0
        if not closes:
            # a fraction that the broker does not trade stays where it is, unless the position ends
            change = floor_quantity(change, step)
        if change == 0 or (abs(change) * price < DUST and not closes) or change * coming < 0:
            continue
        order = Order(
            client_order_id=client_order_id(strategy, market.session, symbol, revision),
            strategy=strategy,
            session=market.session,
            symbol=symbol,
            side=Side.BUY if change > 0 else Side.SELL,
            quantity=abs(change),
            reference_price=price,
            reason=reasons.get(symbol, "not in the target any more"),
            limit_price=limit_price(price, terms.limit_offset) if change > 0 else None,
        )
        (buys if change > 0 else sells).append(order)
    cash = buying_cash(account, [*open_orders, *sells], terms)
    return sells + _within(buys, cash, quantity_steps, terms)


def limit_price(price: Decimal, offset: Decimal) -> Decimal:
    """Most that a buy may pay a share, in steps that exchanges take; never below the price itself."""
    exact = price * (1 + offset)
    return exact.quantize(PENNY if exact >= 1 else SUB_PENNY, ROUND_UP)


def buying_cash(account: Account, orders: Sequence[Order], terms: Terms) -> Decimal:
    """Cash that is sure to be there for buys, when the given orders have ended as badly as they can."""
    return account.cash + sum((worst_cash(order, terms) for order in orders), Decimal(0))


def worst_cash(order: Order, terms: Terms) -> Decimal:
    """Cash that an order brings when it ends as badly as it can, negative for a buy."""
    if order.side is Side.BUY:
        most = order.limit_price or order.reference_price * (1 + terms.limit_offset)
        return -order.open_quantity * most * (1 + terms.commission_rate)
    return -order.open_quantity * order.reference_price * (1 - terms.limit_offset - terms.commission_rate)


def _within(buys: Sequence[Order], cash: Decimal, quantity_steps: Mapping[str, Decimal], terms: Terms) -> list[Order]:
    """Reduce the buys to what the cash covers."""
    needed = -sum((worst_cash(order, terms) for order in buys), Decimal(0))
    if needed <= cash:
        return list(buys)
    share = max(cash, Decimal(0)) / needed
    reduced = [
        replace(order, quantity=floor_quantity(order.quantity * share, quantity_steps[order.symbol])) for order in buys
    ]
    return [order for order in reduced if order.quantity * order.reference_price >= DUST]
