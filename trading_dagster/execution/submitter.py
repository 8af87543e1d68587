"""Submitter: brings committed intents to the broker, each at most once, whatever is lost on the way.

The steps, each of them safe to be the last: the intent is committed; the broker is asked whether it has the order;
the lease and the halt state are checked, and the order marked as submitted, in one transaction; it is sent; the
answer is recorded. A broker takes each identity once, so sending it again cannot double it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from trading_dagster.execution.lease import Lease, LeaseLostError
from trading_dagster.execution.orders import PROGRESS, Order, OrderState
from trading_dagster.resources.broker import (
    Broker,
    BrokerError,
    BrokerOrder,
    DuplicateOrderError,
    OrderRefusedError,
    ThrottledError,
    UnreachableError,
)
from trading_dagster.resources.ledger import Ledger

LONGEST_WAIT = 8.0
"""Seconds between two attempts, unless the broker asks for more."""


class ConflictError(BrokerError):
    """The broker has an order of the same identity that asks for something else."""


@dataclass(frozen=True)
class Budget:
    """Time for bringing one order to the broker.

    Attributes
    ----------
    seconds : float
        No attempt begins later.
    first_wait : float
        Seconds before the second attempt; it doubles from there, up to `LONGEST_WAIT`, half of it drawn at random.
    clock, sleep : callable
        Monotonic seconds, and how to let them pass.
    """

    seconds: float = 60.0
    first_wait: float = 0.5
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Submitter:
    """Sends orders under a lease.

    Parameters
    ----------
    ledger : Ledger
    broker : Broker
    lease : Lease
    budget : Budget
    """

    def __init__(self, ledger: Ledger, broker: Broker, lease: Lease, budget: Budget) -> None:
        self.ledger, self.broker, self.lease, self.budget = ledger, broker, lease, budget
        self.sent = 0
        """Orders that the broker took from this submitter."""

    def bring(self, order: Order) -> Order:
        """Bring one order to the broker, and return what is known of it then.

        An order whose fate stays unknown comes back as submitted or unconfirmed; a later run asks for it first.

        Raises
        ------
        LeaseLostError, HaltedError
            If nothing may be sent any more.
        BrokerError
            If the broker cannot be asked whether it has the order, or has another one of its identity.
        """
        found = self.broker.order(order.client_order_id)
        if found is not None:
            return self._take_over(order, found)
        return self._send(order)

    def _send(self, order: Order) -> Order:
        ends, wait = self.budget.clock() + self.budget.seconds, self.budget.first_wait
        while True:
            asked = 0.0
            try:
                return self._attempt(order)
            except ThrottledError as error:
                note, asked = str(error), error.retry_after or 0.0
                self.ledger.record_state(order.client_order_id, OrderState.UNCONFIRMED, note)
            except UnreachableError as error:
                note = str(error)
                self.ledger.record_state(order.client_order_id, OrderState.UNCONFIRMED, note)
                found = self._ask(order)
                if found is not None:
                    self.sent += 1
                    return self._take_over(order, found)
            pause = max(asked, wait * (1 + random.random()) / 2)  # noqa: S311  # spreads clients, guards nothing
            if self.budget.clock() + pause > ends:
                return self._known(order)
            self.budget.sleep(pause)
            wait = min(2 * wait, LONGEST_WAIT)

    def _attempt(self, order: Order) -> Order:
        """Send once."""
        # by this machine's clock, which runs on while the process is stopped, and from before the ledger renews
        valid_until = self.budget.clock() + self.lease.seconds

        def still_ours() -> None:
            if self.budget.clock() >= valid_until:
                raise LeaseLostError(
                    f"this process was held up for longer than its lease of {self.lease.seconds:g} s "
                    "(TRADING_LEASE_SECONDS); nothing more is sent from here"
                )

        self.ledger.claim(order.client_order_id, self.lease)
        try:
            answer = self.broker.submit(order, still_ours)
        except (OrderRefusedError, DuplicateOrderError) as error:
            # a refusal, too, may be about an earlier attempt of this order, whose shares or money are taken already
            found = self.broker.order(order.client_order_id)
            if found is not None:
                taken = self._take_over(order, found)
                self.sent += 1
                return taken
            if isinstance(error, DuplicateOrderError):
                raise UnreachableError(f"{error}; and yet the broker does not find it") from None
            self.ledger.record_state(order.client_order_id, OrderState.REJECTED, str(error))
            return self._known(order)
        self.sent += 1
        return self._take_over(order, answer)

    def _ask(self, order: Order) -> BrokerOrder | None:
        """Look the order up after a lost answer; None also where the broker still does not answer."""
        try:
            return self.broker.order(order.client_order_id)
        except UnreachableError:
            return None

    def _take_over(self, order: Order, found: BrokerOrder) -> Order:
        if found.payload != order.payload:
            raise ConflictError(
                f"the broker has an order {order.client_order_id} for {_words(found)}, and the ledger planned "
                f"{_words(order)}. Somebody used this identity for something else: cancel it at the broker, and "
                "trade under a new TRADING_STRATEGY"
            )
        return self.ledger.record_broker_order(found)

    def _known(self, order: Order) -> Order:
        found = self.ledger.order(order.client_order_id)
        assert found is not None  # it was committed before anything else
        return found


def is_unsettled(order: Order) -> bool:
    """Whether it is not known to be at the broker, and has not ended."""
    return PROGRESS[order.state] < PROGRESS[OrderState.ACCEPTED]


def _words(order: Order | BrokerOrder) -> str:
    limit = "at market" if order.limit_price is None else f"at most {order.limit_price}"
    return f"{order.side} {order.quantity} {order.symbol} {limit}"
