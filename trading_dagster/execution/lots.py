"""Cost basis: lots by session, sold first in, first out, and the gain of each sale. Pure.

Buys of one session are one lot at their average price (compressed FIFO), which is how Alpaca counts what is held at
the end of a day: https://alpaca.markets/docs/position-average-entry-price-calculation. Where a session buys again
after it sold, Alpaca spreads the later buys over the sale, too, which is not done here: then gains taken and not
taken are divided differently, and their sum is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal

SHARE_STEP = Decimal("0.000000001")
"""Smallest fraction of a share that brokers keep."""

COST_STEP = Decimal("0.00000001")
"""Costs of parts of a lot are rounded to it, so that they fit the ledger's columns; what is left stays in the lot."""


@dataclass(frozen=True)
class Lot:
    """Shares that came in one session.

    Attributes
    ----------
    session : date
    quantity : Decimal
        Shares, negative for shares sold short.
    cost : Decimal
        Currency paid for all of them, without commission; negative where it was received.
    """

    session: date
    quantity: Decimal
    cost: Decimal


def trade(lots: Sequence[Lot], session: date, quantity: Decimal, price: Decimal) -> tuple[list[Lot], Decimal]:
    """Book a trade.

    Parameters
    ----------
    lots : sequence of Lot
        Of one symbol, by session.
    quantity : Decimal
        Shares, negative for a sale.
    price : Decimal
        Currency per share.

    Returns
    -------
    lots : list of Lot
        What is left.
    realised : Decimal
        Gain of the shares that were closed, currency.
    """
    left = sorted(lots, key=lambda lot: lot.session)
    realised = Decimal(0)
    while quantity and left and (left[0].quantity > 0) != (quantity > 0):
        oldest = left.pop(0)
        closed = min(abs(quantity), abs(oldest.quantity)) * (1 if oldest.quantity > 0 else -1)
        cost = (oldest.cost * closed / oldest.quantity).quantize(COST_STEP, ROUND_HALF_EVEN)
        realised += closed * price - cost
        quantity += closed
        if closed != oldest.quantity:
            left.insert(0, Lot(oldest.session, oldest.quantity - closed, oldest.cost - cost))
    if quantity:
        same = [lot for lot in left if lot.session == session]
        opened = Lot(
            session,
            sum((lot.quantity for lot in same), quantity),
            sum((lot.cost for lot in same), (quantity * price).quantize(COST_STEP, ROUND_HALF_EVEN)),
        )
        left = sorted([lot for lot in left if lot.session != session] + [opened], key=lambda lot: lot.session)
    return left, realised


def scale(lots: Sequence[Lot], change: Decimal) -> list[Lot]:
    """Add shares that cost nothing, as a split does, or take such away, to each lot by its share of all.

    The last lot takes the rounding.

    Raises
    ------
    ValueError
        Without any lot.
    """
    held = sum((lot.quantity for lot in lots), Decimal(0))
    if not held:
        raise ValueError(f"{change} shares came without a cost, and there is no position for them to belong to")
    scaled, left = [], change
    for number, lot in enumerate(lots, 1):
        part = left if number == len(lots) else (change * lot.quantity / held).quantize(SHARE_STEP)
        left -= part
        scaled.append(Lot(lot.session, lot.quantity + part, lot.cost))
    return [lot for lot in scaled if lot.quantity]
