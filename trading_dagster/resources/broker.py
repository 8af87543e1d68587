"""What the pipeline asks of a broker."""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

from trading_dagster.execution.accounting import Account, MarketSession
from trading_dagster.execution.orders import Order


class Broker(Protocol):
    """A place where orders go.

    Attributes
    ----------
    quantity_step : Decimal
        Smallest tradable fraction of a share.
    """

    quantity_step: Decimal

    def settle(self, market: MarketSession) -> None:
        """Bring the account to the session's close: fills and corporate actions are in the ledger afterwards."""

    def account(self) -> Account:
        """Cash and positions now."""

    def find(self, client_order_id: str) -> Order | None:
        """Return the broker's order of that identity, None if it never got one."""

    def submit(self, order: Order) -> None:
        """Send an order that the ledger holds as planned."""
