"""Trading one session: settle, plan, commit the intents, submit what is not at the broker yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trading_dagster.execution.accounting import MarketSession
from trading_dagster.execution.orders import OrderState
from trading_dagster.execution.planner import plan_orders
from trading_dagster.resources.broker import Broker
from trading_dagster.resources.ledger import Ledger, LedgerError

REVISION = 0


@dataclass(frozen=True)
class SessionTrades:
    """What trading a session did.

    Attributes
    ----------
    planned : int
        Orders decided now; 0 where the session had been decided before.
    submitted : int
        Orders sent now.
    decided_before : bool
    """

    planned: int
    submitted: int
    decided_before: bool


def trade_session(
    ledger: Ledger,
    broker: Broker,
    strategy: str,
    market: MarketSession,
    targets: Mapping[str, float],
    reasons: Mapping[str, str],
    run_id: str,
) -> SessionTrades:
    """Bring the account from what is held to what is wanted, once.

    A session that was decided before is not decided again, whatever the targets say now: its orders are at
    the broker or done. Only intents that a crash kept from being submitted are sent.

    Raises
    ------
    LedgerError
        If the account has passed the session without deciding it.
    """
    broker.settle(market)
    orders = ledger.recorded_orders(strategy, market.session)
    decided_before = orders is not None
    if orders is None:
        newest = ledger.last_recorded_session(strategy)
        if newest is not None and newest.date() > market.session:
            raise LedgerError(
                f"orders: the account {strategy!r} passed {market.session} without deciding it, stands at "
                f"{newest:%Y-%m-%d} and cannot go back; run later sessions, or replay the past in an account of its "
                "own: set TRADING_STRATEGY to a new name"
            )
        orders = plan_orders(strategy, targets, reasons, broker.account(), market, broker.quantity_step, REVISION)
        ledger.record_plan(strategy, market.session, REVISION, orders, run_id)
    submitted = 0
    for order in orders:
        if order.state is OrderState.PLANNED and broker.find(order.client_order_id) is None:
            broker.submit(order)
            submitted += 1
    return SessionTrades(0 if decided_before else len(orders), submitted, decided_before)
