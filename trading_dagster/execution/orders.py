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

PROGRESS = {
    OrderState.PLANNED: 0,
    OrderState.SUBMITTED: 1,
    OrderState.UNCONFIRMED: 1,
    OrderState.ACCEPTED: 2,
    OrderState.PARTIALLY_FILLED: 3,
    **dict.fromkeys(TERMINAL_STATES, 4),
}
"""How far an order has come: what a broker tells late never takes it back."""


class Side(StrEnum):
    """Direction of an order."""

    BUY = "buy"
    SELL = "sell"


@dataclass(frozen=True)
class Order:
    """An order for the session after `session`: at market, or with a limit.

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
    limit_price : Decimal or None
        Most that a buy may pay a share; None is a market order.
    broker_order_id : str
        The broker's own name for it; empty until it is known.
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
    limit_price: Decimal | None = None
    broker_order_id: str = ""

    @property
    def open_quantity(self) -> Decimal:
        """Shares that may still be filled, negative for a sale; zero for an order that has ended."""
        if self.state in TERMINAL_STATES:
            return Decimal(0)
        rest = self.quantity - self.filled_quantity
        return rest if self.side is Side.BUY else -rest

    @property
    def payload(self) -> tuple[str, Side, Decimal, Decimal | None]:
        """What is asked for: two orders of one identity must agree in it."""
        return self.symbol, self.side, self.quantity, self.limit_price


@dataclass(frozen=True)
class Fill:
    """A trade at the broker.

    Attributes
    ----------
    activity_id : str
        The broker's own identifier; a fill is recorded once by it.
    client_order_id : str or None
        None where no order of ours was filled: somebody traded by hand.
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
    client_order_id: str | None
    session: date
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    commission: Decimal


def client_order_id(strategy: str, session: date, symbol: str, revision: int) -> str:
    """Name an order by what it is for, never by quantity or time, so that a repetition is recognised."""
    return f"{strategy}-{session:%Y%m%d}-{symbol}-{revision}"


def order_prefix(strategy: str) -> str:
    """What the identities of all orders of a strategy begin with."""
    return f"{strategy}-"
