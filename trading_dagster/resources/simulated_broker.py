"""The simulated broker: fills at the next session's open, with its book in the ledger."""

from __future__ import annotations

import pandas as pd

from trading_dagster.execution.accounting import QUANTITY_STEP, Account, Costs, MarketSession, advance
from trading_dagster.execution.orders import Order, OrderState
from trading_dagster.resources.ledger import Ledger, LedgerError


class SimulatedBroker:
    """A broker whose time passes session by session, as it is told.

    Orders decided at a session's close meet the next session at its open, or its close where the source has
    no open, worsened by slippage and charged commission.

    Parameters
    ----------
    ledger : Ledger
    strategy : str
    initial : Account
        Before the first session.
    costs : Costs
    """

    quantity_step = QUANTITY_STEP

    def __init__(self, ledger: Ledger, strategy: str, initial: Account, costs: Costs) -> None:
        self.ledger = ledger
        self.strategy = strategy
        self.initial = initial
        self.costs = costs

    def settle(self, market: MarketSession) -> None:
        """Pass to the close of the next session.

        Raises
        ------
        LedgerError
            If the session lies before the book's newest one and was never passed: time does not run back.
        """
        at = pd.Timestamp(market.session)
        if self.ledger.recorded_account(self.strategy, at) is not None:
            return
        newest = self.ledger.last_recorded_session(self.strategy)
        if newest is not None and newest > at:
            raise LedgerError(
                f"orders: the simulated account {self.strategy!r} stands at {newest:%Y-%m-%d} and cannot go back to "
                f"{market.session}; run a later session, or replay the past in an account of its own: set "
                "TRADING_STRATEGY "
                "to a new name"
            )
        waiting = []
        for order in self.ledger.open_orders(self.strategy):
            if order.state is OrderState.PLANNED:
                self.ledger.record_state(
                    order.client_order_id, OrderState.EXPIRED, "never submitted before its session had passed"
                )
            else:
                waiting.append(order)
        outcome = advance(self.account(), waiting, market, self.costs)
        self.ledger.record_session(
            self.strategy, market, outcome.account, outcome.fills, outcome.expired, outcome.movements
        )

    def account(self) -> Account:
        """Account at the book's newest session."""
        newest = self.ledger.last_recorded_session(self.strategy)
        return (self.ledger.recorded_account(self.strategy, newest) if newest is not None else None) or self.initial

    def find(self, client_order_id: str) -> Order | None:
        """Return the order if it was accepted; a planned one has not reached the broker."""
        order = self.ledger.order(client_order_id)
        return None if order is None or order.state is OrderState.PLANNED else order

    def submit(self, order: Order) -> None:
        """Accept the order for the next session."""
        self.ledger.record_state(order.client_order_id, OrderState.ACCEPTED)
