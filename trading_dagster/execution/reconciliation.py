"""Reconciliation: the ledger learns what happened at the broker, and both are compared.

Belongs here: in which order the broker's records are read, whose trades they are, and what counts as a difference.
Does not belong here: what a difference leads to (`trading_session`, `operations`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Literal, TypeVar

from trading_dagster.execution.orders import (
    PROGRESS,
    TERMINAL_STATES,
    OrderState,
    order_prefix,
)  # fmt: skip
from trading_dagster.resources.broker import Activity, Broker, BrokerAccount, BrokerOrder
from trading_dagster.resources.ledger import Ledger, LedgerError, OpeningPosition, Owner, Recorded

ManualTrades = Literal["adopt", "quarantine"]
T = TypeVar("T")

ORDER_OVERLAP = timedelta(days=1)
ACTIVITY_OVERLAP = timedelta(days=7)
"""How far behind what was read already reading begins again: brokers post some things late, dividends by days."""

BATCH = 500
"""Activities that are booked in one transaction."""


@dataclass(frozen=True)
class Reconciliation:
    """What a comparison of ledger and broker found.

    Attributes
    ----------
    differences : tuple of str
        What nothing explains; empty where ledger and broker agree.
    new_activities : int
        Booked by this reconciliation.
    manual : dict of str to Decimal
        Shares traded by hand that are not the strategy's: their symbols are left alone.
    adopted : tuple of str
        Symbols whose shares became the strategy's now.
    account : BrokerAccount
        As the broker told it.
    """

    differences: tuple[str, ...]
    new_activities: int
    manual: dict[str, Decimal]
    adopted: tuple[str, ...]
    account: BrokerAccount

    @property
    def matched(self) -> bool:
        """Whether ledger and broker agree."""
        return not self.differences


@dataclass(frozen=True)
class Comparison:
    """How ledger and broker are compared.

    Attributes
    ----------
    manual_trades : {'adopt', 'quarantine'}
        Whether what was traded by hand becomes the strategy's.
    cash_tolerance : Decimal
        Currency that rounding may make.
    attempts : int
        Readings before a difference counts: a fill between two requests looks like one.
    wait : float
        Seconds between two readings.
    sleep : callable
    """

    manual_trades: ManualTrades
    cash_tolerance: Decimal
    attempts: int = 4
    wait: float = 1.0
    sleep: Callable[[float], None] = field(default=time.sleep)


def open_books(ledger: Ledger, broker: Broker, strategy: str, session: date, comparison: Comparison) -> None:
    """Begin the books of a strategy with what the broker's account holds, if they have not begun.

    Raises
    ------
    LedgerError
        If the account keeps changing while it is read, or the books belong to another broker.
    """
    known = ledger.strategy(strategy)
    if known is not None:
        if known.broker != broker.name:
            raise LedgerError(
                f"the strategy {strategy!r} was opened with the broker {known.broker}, and TRADING_BROKER is "
                f"{broker.name}: its books belong to that account. Set TRADING_STRATEGY to a new name, or "
                f"TRADING_BROKER={known.broker}"
            )
        return
    for _ in range(comparison.attempts):
        before = [activity.activity_id for activity in broker.activities_since(None)]
        account = broker.account()
        if [activity.activity_id for activity in broker.activities_since(None)] == before:
            break
        comparison.sleep(comparison.wait)
    else:
        raise LedgerError("the broker's account changes while it is read for the first time; run again after the close")
    owner = Owner.STRATEGY if comparison.manual_trades == "adopt" else Owner.MANUAL
    positions = {
        symbol: OpeningPosition(p.quantity, p.quantity * p.average_price) for symbol, p in account.positions.items()
    }
    ledger.open_strategy(strategy, broker.name, session, account.cash, positions, owner, before)


def reconcile(ledger: Ledger, broker: Broker, strategy: str, session: date, comparison: Comparison) -> Reconciliation:
    """Bring the ledger up to the broker, and compare them until they agree or the attempts are used up.

    Parameters
    ----------
    session : date
        Orders of earlier sessions that the broker never got have missed their time.

    Raises
    ------
    BrokerError
        If the broker does not answer.
    """
    new, adopted, attempts = 0, [], comparison.attempts if broker.real else 1
    for attempt in range(attempts):
        if attempt:
            comparison.sleep(comparison.wait)
        ghosts = _read_orders(ledger, broker, strategy, session)
        new += _read_activities(ledger, broker, strategy, comparison.manual_trades)
        if comparison.manual_trades == "adopt":
            adopted += ledger.adopt_manual(strategy)
        account = broker.account()
        differences = [*ghosts, *_differences(ledger, strategy, account, comparison.cash_tolerance)]
        if not differences:
            break
    return Reconciliation(tuple(differences), new, ledger.manual_positions(strategy), tuple(adopted), account)


def _read_orders(  # noqa: C901  # one order's fates, which read worse apart
    ledger: Ledger, broker: Broker, strategy: str, session: date
) -> list[str]:
    """Take over the state of every order of ours; return orders that must not be there."""
    record = ledger.strategy(strategy)
    assert record is not None  # the books are open
    since = record.orders_read_to - ORDER_OVERLAP if record.orders_read_to else None
    submitted: list[datetime] = []
    found: dict[str, BrokerOrder] = {}
    for order in broker.orders_since(since):
        submitted.append(order.submitted_at)
        if order.client_order_id.startswith(order_prefix(strategy)):
            found[order.client_order_id] = order
    for sent in ledger.open_orders(strategy):
        if sent.client_order_id not in found and sent.state is not OrderState.PLANNED:
            asked = broker.order(sent.client_order_id)
            if asked is not None:
                found[sent.client_order_id] = asked
            elif sent.session < session and PROGRESS[sent.state] < PROGRESS[OrderState.ACCEPTED]:
                ledger.record_state(sent.client_order_id, OrderState.EXPIRED, "the broker never got it")
    known = ledger.orders(found)
    ghosts = []
    for identity, order in sorted(found.items()):
        ours = known.get(identity)
        if ours is None:
            ghosts.append(f"the broker has an order {identity} that the ledger does not know")
        elif order.payload != ours.payload:
            ghosts.append(f"order {identity} asks for something else at the broker than in the ledger")
        elif ours.state in TERMINAL_STATES and order.state not in TERMINAL_STATES:
            # it was given up as one that the broker never got, and came after all; with the broker's name on it,
            # it is old news of an order that has ended
            if not ours.broker_order_id:
                ghosts.append(f"order {identity} is {order.state} at the broker, and {ours.state} in the ledger")
        elif (order.state, order.filled_quantity) != (ours.state, ours.filled_quantity) or not ours.broker_order_id:
            ledger.record_broker_order(order)
    if submitted:
        ledger.advance_order_watermark(strategy, max(submitted))
    return ghosts


def _read_activities(ledger: Ledger, broker: Broker, strategy: str, manual_trades: ManualTrades) -> int:
    """Book what is not booked yet."""
    record = ledger.strategy(strategy)
    assert record is not None
    since = record.activities_read_to - ACTIVITY_OVERLAP if record.activities_read_to else None
    owner = Owner.STRATEGY if manual_trades == "adopt" else Owner.MANUAL
    new = 0
    for batch in _batches(broker.activities_since(since), BATCH):
        unknown = ledger.unknown_activities(strategy, [activity.activity_id for activity in batch])
        recorded = [
            _whose(ledger, broker, strategy, activity, owner) for activity in batch if activity.activity_id in unknown
        ]
        new += ledger.record_activities(strategy, recorded)
    return new


def _whose(ledger: Ledger, broker: Broker, strategy: str, activity: Activity, owner: Owner) -> Recorded:
    """Tell the order of ours that an activity fills, or that it was done by hand."""
    if activity.kind != "fill":
        return Recorded(activity)
    ours = ledger.order_of_broker(strategy, activity.broker_order_id)
    if ours is None:
        identity = broker.order_by_broker_id(activity.broker_order_id).client_order_id
        ours = ledger.order(identity) if identity.startswith(order_prefix(strategy)) else None
    return Recorded(activity, ours.client_order_id) if ours is not None else Recorded(activity, None, owner)


def _differences(ledger: Ledger, strategy: str, account: BrokerAccount, cash_tolerance: Decimal) -> Iterator[str]:
    booked, manual = ledger.account(strategy), ledger.manual_positions(strategy)
    for symbol in sorted({*booked.positions, *manual, *account.positions}):
        ours = booked.positions.get(symbol, Decimal(0)) + manual.get(symbol, Decimal(0))
        position = account.positions.get(symbol)
        theirs = position.quantity if position else Decimal(0)
        if ours != theirs:
            yield f"{symbol}: {theirs} shares at the broker, {ours} in the ledger"
    if abs(account.cash - booked.cash) > cash_tolerance:
        yield f"cash: {account.cash:,.2f} at the broker, {booked.cash:,.2f} in the ledger"
    orders = ledger.open_orders(strategy)
    filled = ledger.filled_quantities([order.client_order_id for order in orders])
    for order in orders:
        if order.filled_quantity != filled.get(order.client_order_id, Decimal(0)):
            yield (
                f"order {order.client_order_id}: the broker says {order.filled_quantity} shares are filled, and its "
                f"activities make {filled.get(order.client_order_id, Decimal(0))}"
            )


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch
