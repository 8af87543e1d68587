"""What an operator does: halt, resume, cancel, flatten, reconcile, ask for the status.

Belongs here: each action as a whole, with who did it, why and what came of it in the ledger. Does not belong here: how
it is asked for (the command line, Dagster jobs), and how results are printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from trading_dagster.execution.gates import check_losses
from trading_dagster.execution.halts import Cause, EquityPoint, Halt, HaltState, Losses, losses
from trading_dagster.execution.lease import Lease
from trading_dagster.execution.orders import TERMINAL_STATES, Order, OrderState, Side, client_order_id
from trading_dagster.execution.reconciliation import Reconciliation, reconcile
from trading_dagster.execution.submitter import is_unsettled
from trading_dagster.execution.trading_session import Desk, protect, with_now
from trading_dagster.resources.broker import BrokerAccount, BrokerError, BrokerOrder
from trading_dagster.resources.ledger import Ledger, Owner, ProfitAndLoss, Purpose

FLATTEN_ROUNDS = 3
"""Plans that a flattening may take: what was being filled while it was cancelled is closed by the next."""


LONGEST_NAME = 255
"""Letters of an operator's name that the ledger keeps."""


class OperationError(ValueError):
    """An action that is not possible now; the message says what to do."""


@dataclass(frozen=True)
class Watch:
    """How long an action looks on.

    Attributes
    ----------
    seconds : float
        Until it no longer waits for the broker.
    every : float
        Seconds between two looks.
    clock, sleep : callable
    """

    seconds: float = 60.0
    every: float = 1.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def until(self, done: Callable[[], bool]) -> bool:
        """Look again and again; True as soon as it is done, False when time is up."""
        ends = self.clock() + self.seconds
        while not done():
            if self.clock() >= ends:
                return False
            self.sleep(self.every)
        return True


@dataclass(frozen=True)
class Status:
    """Where a strategy stands.

    Attributes
    ----------
    halt : Halt
    opened : bool
        Whether it ever traded.
    holder : str or None
        Who trades it at this moment.
    session : date or None
        Newest session whose account is on record.
    cash : Decimal
    positions, manual : dict of str to Decimal
        Shares of the strategy, and shares traded by hand, in the ledger.
    open_orders : list of Order
    profit : ProfitAndLoss
    losses : Losses
        At the newest snapshot.
    broker_errors : int
        Failures of the broker in a row.
    account : BrokerAccount or None
        As the broker tells it.
    broker_says : str
        Why there is no `account`; empty else.
    """

    strategy: str
    broker: str
    dry_run: bool
    halt: Halt
    opened: bool
    holder: str | None
    session: date | None
    cash: Decimal
    positions: dict[str, Decimal]
    manual: dict[str, Decimal]
    open_orders: list[Order]
    profit: ProfitAndLoss
    losses: Losses
    broker_errors: int
    account: BrokerAccount | None
    broker_says: str


@dataclass(frozen=True)
class Flattened:
    """What a flattening led to.

    Attributes
    ----------
    flat : bool
        Whether the broker shows no position and no open order.
    cancelled, sent : int
        Orders.
    left : dict of str to Decimal
        Shares that the broker still shows.
    problems : tuple of str
        Orders that the broker did not take, with its words.
    """

    flat: bool
    cancelled: int
    sent: int
    left: dict[str, Decimal]
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        done = f"{self.cancelled} orders cancelled, {self.sent} sent"
        if self.flat:
            return f"flat: {done}; the broker shows no position and no open order"
        shares = ", ".join(f"{quantity} {symbol}" for symbol, quantity in self.left.items()) or "no shares"
        if self.problems:
            return f"not flat: {done}; the broker shows {shares}. It did not take {'; '.join(self.problems)}"
        return (
            f"not flat yet: {done}; the broker shows {shares}. While the market is closed, orders wait for its open; "
            "look again then: trading flatten"
        )


def status(desk: Desk) -> Status:
    """Collect where the strategy stands; a broker that does not answer is part of the answer."""
    ledger, strategy = desk.ledger, desk.strategy
    record = ledger.strategy(strategy)
    newest = ledger.last_recorded_session(strategy)
    account, says = None, ""
    try:
        account = desk.broker.account()
    except BrokerError as error:
        says = str(error)
    return Status(
        strategy=strategy,
        broker=desk.broker.name,
        dry_run=desk.conduct.dry_run,
        halt=ledger.halt_state(strategy),
        opened=record is not None,
        holder=ledger.lease_holder(strategy),
        session=None if newest is None else newest.date(),
        cash=record.cash if record else Decimal(0),
        positions=ledger.account(strategy).positions if record else {},
        manual=ledger.manual_positions(strategy),
        open_orders=ledger.open_orders(strategy),
        profit=ledger.profit_and_loss(strategy),
        losses=losses(ledger.equity_points(strategy)),
        broker_errors=record.broker_errors if record else 0,
        account=account,
        broker_says=says,
    )


def halt(ledger: Ledger, strategy: str, operator: str, reason: str, *, reduce_only: bool = False) -> Halt:
    """Halt a strategy. It needs the ledger alone, and stops a run between two of its orders.

    Raises
    ------
    OperationError
        If operator or reason is empty, or it would loosen what is in force.
    """
    operator, reason = _signed(operator, reason)
    state = HaltState.REDUCE_ONLY if reduce_only else HaltState.HALTED
    if reduce_only and ledger.has_traded(strategy) and ledger.halt_state(strategy).state is HaltState.HALTED:
        raise OperationError(
            f"{strategy!r} is HALTED, and REDUCE_ONLY would let it trade again; resume it first, then: trading halt "
            "--reduce-only"
        )
    ledger.set_halt_state(strategy, state, Cause.OPERATOR, reason, operator)
    ledger.record_action(strategy, "halt", operator, reason, state.value)
    return ledger.halt_state(strategy)


def resume(desk: Desk, operator: str, reason: str, *, new_high: bool = False) -> Halt:
    """Let a strategy trade again, once the cause of its halt is gone.

    Parameters
    ----------
    new_high : bool
        Accept the loss: measure losses from the equity of now on.

    Raises
    ------
    OperationError
        If operator or reason is empty, nothing is halted, or the cause still stands.
    """
    operator, reason = _signed(operator, reason)
    ledger, strategy = desk.ledger, desk.strategy
    before = ledger.halt_state(strategy)
    if before.state is HaltState.ACTIVE:
        raise OperationError(f"{strategy!r} is ACTIVE; there is nothing to resume")
    try:
        _require_gone(desk, before, new_high=new_high)
    except BrokerError as error:
        refusal = OperationError(f"the cause of the halt cannot be looked at, so it stands: {error}")
        ledger.record_action(strategy, "resume", operator, reason, f"refused: {refusal}")
        raise refusal from error
    except OperationError as error:
        ledger.record_action(strategy, "resume", operator, reason, f"refused: {error}")
        raise
    ledger.clear_broker_errors(strategy)
    ledger.set_halt_state(strategy, HaltState.ACTIVE, None, reason, operator)
    ledger.record_action(strategy, "resume", operator, reason, f"was {before}" + ("; new high" if new_high else ""))
    return ledger.halt_state(strategy)


def reconcile_now(desk: Desk, operator: str = "", reason: str = "", *, accept: bool = False) -> Reconciliation:
    """Reconcile, and halt where it must be; with `accept`, book what nothing explains as the broker has it.

    Raises
    ------
    OperationError
        If nothing was ever traded, or `accept` comes without operator and reason.
    BrokerError
        If the broker does not answer.
    """
    ledger, strategy = desk.ledger, desk.strategy
    if accept:
        operator, reason = _signed(operator, reason)
    if ledger.strategy(strategy) is None:
        raise OperationError(f"{strategy!r} has no books yet; they begin with its first run: trading run --session D")
    session = desk.broker.newest_session()
    found = reconcile(ledger, desk.broker, strategy, session, desk.conduct.comparison)
    if accept and not found.matched:
        _accept(desk, session, found.account)
        ledger.record_action(strategy, "reconcile", operator, reason, f"accepted: {'; '.join(found.differences)}")
        found = reconcile(ledger, desk.broker, strategy, session, desk.conduct.comparison)
    protect(desk, found, _now(desk, found.account))
    return found


def cancel(
    desk: Desk, operator: str, reason: str, order_id: str | None = None, watch: Watch | None = None
) -> list[Order]:
    """Cancel the strategy's open orders, or one, and return them as they are afterwards.

    A run that is sending orders loses its lease, so that none follows those that are cancelled.

    Raises
    ------
    OperationError
        If operator or reason is empty, or the order is not open.
    BrokerError
        If the broker does not answer.
    """
    operator, reason = _signed(operator, reason)
    ledger, strategy = desk.ledger, desk.strategy
    wanted = [order for order in ledger.open_orders(strategy) if order_id in (None, order.client_order_id)]
    if order_id is not None and not wanted:
        raise OperationError(f"{order_id!r} is no open order of {strategy!r}; to list them: trading orders --open")
    with desk.lease(take_over=True):
        for order in wanted:
            _cancel_one(desk, order, f"cancelled by {operator}: {reason}")
        (watch or Watch()).until(lambda: _have_ended(desk, wanted))
    after = ledger.orders([order.client_order_id for order in wanted])
    outcome = ", ".join(f"{identity} {order.state}" for identity, order in after.items()) or "no open orders"
    ledger.record_action(strategy, "cancel", operator, reason, outcome)
    return list(after.values())


def flatten(desk: Desk, operator: str, reason: str, watch: Watch | None = None) -> Flattened:
    """Halt, cancel every open order at the broker, close what the broker holds, and verify that it shows nothing.

    Raises
    ------
    OperationError
        If operator or reason is empty, or nothing was ever traded.
    BrokerError
        If the broker does not answer; what was done until then is in the ledger.
    """
    operator, reason = _signed(operator, reason)
    ledger, strategy, watch = desk.ledger, desk.strategy, watch or Watch()
    if ledger.strategy(strategy) is None:
        raise OperationError(f"{strategy!r} has no books yet; they begin with its first run: trading run --session D")
    if ledger.halt_state(strategy).state is not HaltState.HALTED:
        # or the next run would buy again what is sold here
        halt(ledger, strategy, operator, f"flatten: {reason}")
    cancelled = sent = 0
    problems: list[str] = []
    with desk.lease(take_over=True) as lease:
        for _ in range(FLATTEN_ROUNDS):
            cancelled += _cancel_everything(desk, operator, reason, watch)
            session = desk.broker.newest_session()
            reconcile(ledger, desk.broker, strategy, session, desk.conduct.comparison)
            account = desk.broker.account()
            if not account.positions:
                break
            now_sent, problems = _close(desk, lease, session, account, reason)
            sent += now_sent
            if problems or not watch.until(lambda: not desk.broker.account().positions):
                break
    left = {symbol: position.quantity for symbol, position in desk.broker.account().positions.items()}
    done = Flattened(not left and not desk.broker.open_orders(), cancelled, sent, left, tuple(problems))
    reconcile(ledger, desk.broker, strategy, desk.broker.newest_session(), desk.conduct.comparison)
    ledger.record_action(strategy, "flatten", operator, reason, str(done))
    return done


def _signed(operator: str, reason: str) -> tuple[str, str]:
    """Who and why, in words that every database takes: halting must not fail on a letter."""
    missing = [name for name, value in (("operator", operator), ("reason", reason)) if not value.strip()]
    if missing:
        raise OperationError(f"{' and '.join(missing)} must be given: who does it, and why, is kept for good")
    return operator.replace("\0", "")[:LONGEST_NAME], reason.replace("\0", "")


def _require_gone(desk: Desk, before: Halt, *, new_high: bool) -> None:
    """Make sure that what halted the strategy does not stand any more."""
    ledger, strategy = desk.ledger, desk.strategy
    if ledger.strategy(strategy) is None or (before.cause in (Cause.OPERATOR, Cause.MISSING) and not new_high):
        return
    found = reconcile(ledger, desk.broker, strategy, desk.broker.newest_session(), desk.conduct.comparison)
    if not found.matched and before.cause is Cause.RECONCILIATION:
        raise OperationError(
            f"ledger and broker still differ: {'; '.join(found.differences)}. Look into it; to accept the broker's "
            "figures: trading reconcile --accept --operator NAME --reason TEXT"
        )
    points = with_now(ledger.equity_points(strategy), _now(desk, found.account))
    if new_high:
        ledger.measure_from(strategy, points[-1].session, points[-1].equity)
        return
    refusal = check_losses(losses(points), desk.conduct.limits)
    if refusal is not None and before.cause in (Cause.DAILY_LOSS, Cause.DRAWDOWN):
        raise OperationError(
            f"the loss still stands: {refusal.detail}. Wait for another session, or accept the loss and measure from "
            "here on: trading resume --new-high"
        )


def _now(desk: Desk, account: BrokerAccount) -> EquityPoint:
    """Equity of this moment; of the session after the newest one while the market is open."""
    newest = desk.broker.newest_session()
    session = date.max if desk.broker.market_is_open() else newest
    return EquityPoint(session, account.equity, desk.ledger.unsettled_transfers(desk.strategy))


def _accept(desk: Desk, session: date, account: BrokerAccount) -> None:
    """Book the difference between ledger and broker."""
    ledger, strategy = desk.ledger, desk.strategy
    ours, manual = ledger.account(strategy), ledger.manual_positions(strategy)
    changes = {}
    for symbol in sorted({*ours.positions, *manual, *account.positions}):
        position = account.positions.get(symbol)
        there = position.quantity if position else Decimal(0)
        change = there - ours.positions.get(symbol, Decimal(0)) - manual.get(symbol, Decimal(0))
        if change:
            changes[symbol] = (change, position.price if position else _cost(ledger, strategy, symbol))
    ledger.adjust(strategy, session, account.cash - ours.cash, changes, Owner.STRATEGY)


def _cost(ledger: Ledger, strategy: str, symbol: str) -> Decimal:
    """Cost of a share that is not at the broker any more: without a price, it leaves as it came."""
    held = ledger.account(strategy).positions.get(symbol, Decimal(0))
    held += ledger.manual_positions(strategy).get(symbol, Decimal(0))
    return ledger.profit_and_loss(strategy).cost_basis[symbol] / held


def _cancel_one(desk: Desk, order: Order, note: str) -> None:
    if order.state is OrderState.PLANNED:
        desk.ledger.record_state(order.client_order_id, OrderState.CANCELLED, note)
        return
    found = desk.broker.order(order.client_order_id)
    if found is not None:
        desk.broker.cancel(found.broker_order_id)
    elif is_unsettled(order):
        desk.ledger.record_state(order.client_order_id, OrderState.CANCELLED, f"{note}; the broker never got it")


def _have_ended(desk: Desk, orders: Sequence[Order]) -> bool:
    known = desk.ledger.orders([order.client_order_id for order in orders])
    for identity, order in known.items():
        if order.state not in TERMINAL_STATES:
            found = desk.broker.order(identity)
            if found is None or desk.ledger.record_broker_order(found).state not in TERMINAL_STATES:
                return False
    return True


def _cancel_everything(desk: Desk, operator: str, reason: str, watch: Watch) -> int:
    """Cancel all that is open at the broker, whoever sent it, and all that waits in the ledger."""
    note = f"cancelled by {operator}: flatten: {reason}"
    open_ones: list[BrokerOrder] = desk.broker.open_orders()
    for order in open_ones:
        desk.broker.cancel(order.broker_order_id)
    for ours in desk.ledger.open_orders(desk.strategy):
        if is_unsettled(ours):
            _cancel_one(desk, ours, note)
    if not watch.until(lambda: not desk.broker.open_orders()):
        raise BrokerError(
            f"{len(desk.broker.open_orders())} orders are still open at the broker after {watch.seconds:g} s; nothing "
            "was sold, since they hold the shares. Try again: trading flatten"
        )
    return len(open_ones)


def _close(desk: Desk, lease: Lease, session: date, account: BrokerAccount, reason: str) -> tuple[int, list[str]]:
    """Sell what the broker holds, and buy back what is short; return how many orders went, and which did not."""
    revision = desk.ledger.next_revision(desk.strategy, session)
    orders = [
        Order(
            client_order_id=client_order_id(desk.strategy, session, symbol, revision),
            strategy=desk.strategy,
            session=session,
            symbol=symbol,
            side=Side.SELL if position.quantity > 0 else Side.BUY,
            quantity=abs(position.quantity),
            reference_price=position.price,
            reason=f"flatten: {reason}",
        )
        for symbol, position in sorted(account.positions.items())
    ]
    desk.ledger.record_plan(desk.strategy, session, revision, orders, "flatten", Purpose.FLATTEN, lease)
    submitter = desk.submitter(lease)
    problems = []
    for order in orders:
        after = submitter.bring(order)
        if after.state is OrderState.REJECTED or is_unsettled(after):
            problems.append(f"{order.client_order_id}: {after.note}")
    return submitter.sent, problems
