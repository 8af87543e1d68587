"""What the pipeline asks of a broker, in its own words, and the ways in which a broker fails.

Belongs here: the protocol, its values and its errors. Each broker translates its own words into these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Protocol

from trading_dagster.execution.accounting import MarketSession
from trading_dagster.execution.orders import Order, OrderState, Side


class BrokerError(RuntimeError):
    """A broker that does not do what is asked of it."""


class UnreachableError(BrokerError):
    """No answer that could be read: nothing is known of what was asked."""


class ThrottledError(BrokerError):
    """Too many requests: the broker has not looked at this one.

    Parameters
    ----------
    message : str
    retry_after : float, optional
        Seconds that it asked to wait.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OrderRefusedError(BrokerError):
    """The broker does not take the order, in its own words."""


class DuplicateOrderError(BrokerError):
    """The broker has had an order of that identity."""


@dataclass(frozen=True)
class BrokerOrder:
    """An order as the broker has it.

    Attributes
    ----------
    state : OrderState
        Never planned, submitted or unconfirmed.
    submitted_at : datetime
    note : str
        Why it ended otherwise than filled; empty else.
    """

    client_order_id: str
    broker_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    limit_price: Decimal | None
    state: OrderState
    filled_quantity: Decimal
    submitted_at: datetime
    note: str = ""

    @property
    def payload(self) -> tuple[str, Side, Decimal, Decimal | None]:
        """What is asked for."""
        return self.symbol, self.side, self.quantity, self.limit_price


@dataclass(frozen=True)
class BrokerPosition:
    """Shares at the broker.

    Attributes
    ----------
    quantity : Decimal
        Negative when sold short.
    average_price : Decimal
        Cost of a share.
    price : Decimal
        Of now, currency.
    unrealised : Decimal
        Gain not yet taken, currency.
    """

    symbol: str
    quantity: Decimal
    average_price: Decimal
    price: Decimal
    unrealised: Decimal


@dataclass(frozen=True)
class BrokerAccount:
    """Money and shares at the broker, now."""

    cash: Decimal
    equity: Decimal
    positions: Mapping[str, BrokerPosition]


@dataclass(frozen=True)
class Activity:
    """Something that changed the account, with the broker's name for it.

    Attributes
    ----------
    activity_id : str
        Unique at the broker.
    kind : str
        ``fill``, ``transfer`` (money from or to outside), ``split``, or another kind of cash: ``dividend``,
        ``fee``...
    at : datetime
    session : date
        The day it belongs to, at the exchange.
    symbol : str
        Empty where it has none.
    side : Side or None
        Of a fill.
    quantity : Decimal
        Shares: of a fill above zero; of a split, the change of the position; else zero.
    price : Decimal
        Of a fill, currency per share.
    amount : Decimal
        Cash that came, negative where it went; of a fill, the commission, negative.
    broker_order_id : str
        Of a fill.
    """

    activity_id: str
    kind: str
    at: datetime
    session: date
    symbol: str = ""
    side: Side | None = None
    quantity: Decimal = Decimal(0)
    price: Decimal = Decimal(0)
    amount: Decimal = Decimal(0)
    broker_order_id: str = ""


class Broker(Protocol):
    """A place where orders go. Every call may raise `BrokerError`.

    Attributes
    ----------
    name : str
    real : bool
        Whether its time passes by itself: its past cannot be traded again.
    """

    name: str
    real: bool

    def settle(self, market: MarketSession) -> None:
        """Let time pass to the session's close, where it does not by itself."""

    def newest_session(self) -> date:
        """Newest session that has closed at the broker."""

    def market_is_open(self) -> bool:
        """Whether a session is under way."""

    def quantity_steps(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Smallest tradable fraction of a share, of each symbol that can be traded now."""

    def account(self) -> BrokerAccount:
        """Cash and positions now."""

    def order(self, client_order_id: str) -> BrokerOrder | None:
        """Return the order of that identity, None if it never came."""

    def order_by_broker_id(self, broker_order_id: str) -> BrokerOrder:
        """Return the order that the broker calls so."""

    def orders_since(self, moment: datetime | None) -> Iterator[BrokerOrder]:
        """Orders submitted after a moment, or all, oldest first."""

    def open_orders(self) -> list[BrokerOrder]:
        """Orders that may still be filled, whoever sent them."""

    def activities_since(self, moment: datetime | None) -> Iterator[Activity]:
        """Activities after a moment, or all, oldest first."""

    def submit(self, order: Order, before_sending: Callable[[], None]) -> BrokerOrder:
        """Send an order; `before_sending` is called at the last moment, and an error that it raises stops the order.

        Raises
        ------
        OrderRefusedError, DuplicateOrderError, ThrottledError, UnreachableError
        """

    def cancel(self, broker_order_id: str) -> None:
        """Ask to cancel an order; one that has ended is left as it is."""
