"""Orders and fills as values, with the state machine that both the ledger and the brokers keep to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum


class OrderState(StrEnum):
    """Life of an order; the last four are terminal."""

    PLANNED = "planned"
    SUBMITTED = "submitted"
    UNCONFIRMED = "unconfirmed"
    ACCEPTED = "accepted"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"


TERMINAL_STATES = frozenset({OrderState.FILLED, OrderState.CANCELLED, OrderState.REJECTED, OrderState.EXPIRED})


class Side(StrEnum):
    """Direction of an order."""

    BUY = "buy"
    SELL = "sell"


@dataclass(frozen=True)
class Order:
    """A market order for the session after `session`.

    Attributes
    ----------
    client_order_id : str
        See `client_order_id`.
    session : date
        The session at whose close it was decided.
    quantity, filled_quantity : Decimal
        Shares, above zero.
    reference_price : Decimal
        Close at the decision, as traded.
    reason : str
        Why it was decided, in words.
    note : str
        Why it ended otherwise than filled; empty else.
    """

    client_order_id: str
    strategy: str
    session: date
    symbol: str
    side: Side
    quantity: Decimal
    reference_price: Decimal
    reason: str
    state: OrderState = OrderState.PLANNED
    filled_quantity: Decimal = Decimal(0)
    note: str = ""


@dataclass(frozen=True)
class Fill:
    """A trade at the broker.

    Attributes
    ----------
    activity_id : str
        The broker's own identifier; a fill is recorded once by it.
    session : date
        The session in which it happened.
    quantity : Decimal
        Shares, above zero; `side` has the direction.
    price : Decimal
        Currency per share, slippage included.
    commission : Decimal
        Currency.
    """

    activity_id: str
    client_order_id: str
    session: date
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    commission: Decimal


def client_order_id(strategy: str, session: date, symbol: str, revision: int) -> str:
    """Name an order by what it is for, never by quantity or time, so that a repetition is recognised."""
    return f"{strategy}-{session:%Y%m%d}-{symbol}-{revision}"
