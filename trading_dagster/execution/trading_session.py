"""Trading one session: observe, pass the gates, plan, commit the intents, submit, observe again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from functools import partial

from trading_dagster.execution.accounting import Account, MarketSession
from trading_dagster.execution.gates import (
    Book,
    Gate,
    Limits,
    Refusal,
    check_freshness,
    check_losses,
    check_orders,
    check_verdicts,
)
from trading_dagster.execution.halts import AUTOMATIC, Cause, EquityPoint, HaltedError, HaltState, losses
from trading_dagster.execution.lease import Lease, LeaseHeldError, LeaseLostError, is_dead, this_process
from trading_dagster.execution.orders import TERMINAL_STATES, Order, OrderState, Side
from trading_dagster.execution.planner import Terms, buying_cash, plan_orders, worst_cash
from trading_dagster.execution.reconciliation import Comparison, Reconciliation, open_books, reconcile
from trading_dagster.execution.submitter import Budget, ConflictError, Submitter, is_unsettled
from trading_dagster.resources.broker import Broker, BrokerError
from trading_dagster.resources.ledger import Ledger, Purpose

PLANS = 3
"""Plans that a run makes when others, such as dry runs, plan the session at the same moment."""


@dataclass(frozen=True)
class Conduct:
    """How a strategy trades; each is a setting.

    Attributes
    ----------
    strategy : str
    limits : Limits
    terms : Terms
    comparison : Comparison
    budget : Budget
    lease_seconds : float
    broker_errors : int
        Failures of the broker in a row that halt.
    dry_run : bool
        Plan, check and record, and send nothing.
    """

    strategy: str
    limits: Limits
    terms: Terms
    comparison: Comparison
    budget: Budget = field(default_factory=Budget)
    lease_seconds: float = 120.0
    broker_errors: int = 3
    dry_run: bool = False


@dataclass(frozen=True)
class Desk:
    """Where a strategy is traded: its ledger, its broker, and how."""

    ledger: Ledger
    broker: Broker
    conduct: Conduct

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return self.conduct.strategy

    @contextmanager
    def lease(self, *, take_over: bool = False) -> Iterator[Lease]:
        """Hold the right to trade."""
        lease = self._acquire(take_over=take_over)
        try:
            yield lease
        finally:
            self.ledger.release_lease(lease)

    def _acquire(self, *, take_over: bool) -> Lease:
        take = partial(self.ledger.acquire_lease, self.strategy, this_process(), self.conduct.lease_seconds)
        try:
            return take(take_over=take_over)
        except LeaseHeldError as error:
            if not is_dead(error.holder):
                raise
            return take(dead=error.holder)  # a run that was killed here need not be waited for

    def submitter(self, lease: Lease) -> Submitter:
        """Send orders under a lease."""
        return Submitter(self.ledger, self.broker, lease, self.conduct.budget)


@dataclass(frozen=True)
class Wish:
    """What a session's signals ask for, and what is known of the market beside.

    Attributes
    ----------
    targets : mapping of str to float
        Weights as fractions of equity.
    reasons : mapping of str to str
    verdicts : mapping of str to bool
        Data-policy verdicts of the upstream stages.
    stages : sequence of str
        Stages that must have one.
    average_volumes : mapping of str to Decimal
        Shares in an average session, where they are known.
    """

    targets: Mapping[str, float]
    reasons: Mapping[str, str]
    verdicts: Mapping[str, bool] = field(default_factory=dict)
    stages: Sequence[str] = ()
    average_volumes: Mapping[str, Decimal] = field(default_factory=dict)


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
    refusals : tuple of Refusal
        What gates held back, now.
    unsettled : tuple of str
        Orders that may be at the broker or not, and why that is not known.
    """

    planned: int
    submitted: int
    decided_before: bool
    refusals: tuple[Refusal, ...] = ()
    unsettled: tuple[str, ...] = ()

    @property
    def refused(self) -> Refusal | None:
        """What held the whole session back."""
        return next((refusal for refusal in self.refusals if not refusal.symbol), None)


def observe(desk: Desk, market: MarketSession) -> Reconciliation:
    """Bring the ledger up to the broker, keep the account at the session's close, and halt where it must be.

    Raises
    ------
    BrokerError
        If the broker does not answer; it is counted, and halts when it happens repeatedly.
    """
    with _counting_errors(desk):
        desk.broker.settle(market)
        open_books(desk.ledger, desk.broker, desk.strategy, market.session, desk.conduct.comparison)
        found = reconcile(desk.ledger, desk.broker, desk.strategy, market.session, desk.conduct.comparison)
        newest = desk.broker.newest_session()
    if found.matched and market.session == newest:
        told = {symbol: position.price for symbol, position in found.account.positions.items()}
        desk.ledger.record_snapshot(desk.strategy, market.session, found.account.equity, {**told, **market.close})
    protect(desk, found)
    return found


def protect(desk: Desk, found: Reconciliation, now: EquityPoint | None = None) -> None:
    """Halt on a difference between ledger and broker, or on a loss; gains never halt.

    Parameters
    ----------
    now : EquityPoint, optional
        Equity after the newest snapshot.
    """
    points = desk.ledger.equity_points(desk.strategy)
    refusal = check_losses(losses(with_now(points, now) if now else points), desk.conduct.limits)
    if refusal is not None:
        halt_automatically(desk, Cause(refusal.gate.value), refusal.detail)
    if not found.matched:
        halt_automatically(desk, Cause.RECONCILIATION, "; ".join(found.differences))


def with_now(points: Sequence[EquityPoint], now: EquityPoint) -> list[EquityPoint]:
    """Points with the equity of now, in place of a snapshot of the same session."""
    if not points or points[-1].session != now.session:
        return [*points, now]
    return [*points[:-1], replace(now, external_flow=points[-1].external_flow + now.external_flow)]


def halt_automatically(desk: Desk, cause: Cause, detail: str) -> None:
    """Halt, unless the strategy is halted already: the first cause is the one to look into."""
    if desk.ledger.halt_state(desk.strategy).state is not HaltState.HALTED:
        desk.ledger.set_halt_state(desk.strategy, HaltState.HALTED, cause, detail, AUTOMATIC)


def trade_session(desk: Desk, market: MarketSession, wish: Wish, run_id: str) -> SessionTrades:
    """Bring the account from what is held to what is wanted, once.

    A session that was decided before is not decided again, whatever the targets say now: its orders are at the
    broker or done. Only those whose fate a crash or a lost answer left open are looked up, and sent if they are not
    there.

    Raises
    ------
    LedgerError
        If the ledger cannot be used or contradicts itself: then nothing is sent.
    """
    before = desk.ledger.halt_state(desk.strategy) if desk.ledger.has_traded(desk.strategy) else None
    try:
        newest = _newest_session(desk) if desk.broker.real else None
        # of a session that a real broker is too late for, there is nothing to observe
        found = observe(desk, market) if newest in (None, market.session) else None
        newest = newest or desk.broker.newest_session()
    except BrokerError as error:
        gate = Gate.RECONCILIATION
        if before is not None and before.state is HaltState.HALTED:
            gate, error = Gate.HALT, BrokerError(f"{before}. Besides: {error}")
        return _refused(desk, market.session, [Refusal(gate, str(error))], run_id)
    desk.ledger.expire_unsent(desk.strategy, market.session)
    plan = desk.ledger.plan(desk.strategy, market.session)
    if plan is not None and not any(is_unsettled(order) for order in plan.orders):
        return SessionTrades(0, 0, decided_before=True)
    halted = before is not None and before.state is HaltState.HALTED
    checks = (
        Refusal(Gate.HALT, str(before)) if halted else None,
        check_verdicts(market.session, wish.verdicts, wish.stages),
        check_freshness(market.session, newest, f"the broker {desk.broker.name}"),
        None if found is None or found.matched else Refusal(Gate.RECONCILIATION, "; ".join(found.differences)),
    )
    first = next((refusal for refusal in checks if refusal is not None), None)
    if first is not None or found is None:
        assert first is not None  # a session that is too late is not fresh
        return _refused(desk, market.session, [first], run_id)
    for _ in range(PLANS):
        revision = desk.ledger.next_revision(desk.strategy, market.session)
        orders, refusals = ([], []) if plan is not None else _plan(desk, market, wish, found, revision)
        if any(not refusal.symbol for refusal in refusals):
            break
        done = _send(desk, market, wish, orders, refusals, revision, run_id)
        if done is not None:
            return done
        refusals = [Refusal(Gate.LEASE, "other runs keep planning the session while this one does; run it again")]
    return _refused(desk, market.session, refusals, run_id)


def _newest_session(desk: Desk) -> date:
    """Ask the broker, and count where it does not answer; that it tells the time proves little else."""
    try:
        return desk.broker.newest_session()
    except BrokerError as error:
        _count_error(desk, str(error))
        raise


def _plan(
    desk: Desk, market: MarketSession, wish: Wish, found: Reconciliation, revision: int
) -> tuple[list[Order], list[Refusal]]:
    """Plan, and ask the limits."""
    ledger, conduct = desk.ledger, desk.conduct
    account, open_orders = ledger.account(desk.strategy), ledger.open_orders(desk.strategy)
    wanted = {symbol for symbol, weight in wish.targets.items() if weight} | set(account.positions)
    steps = desk.broker.quantity_steps(sorted(wanted))
    orders = plan_orders(
        desk.strategy, wish.targets, wish.reasons, account, market, steps, conduct.terms, revision, open_orders,
        frozen=set(found.manual),
    )  # fmt: skip
    refusals = [
        Refusal(Gate.TRADABLE, f"the broker {desk.broker.name} does not trade it now", symbol)
        for symbol in sorted(wanted - set(steps))
    ]
    book = _book(account, market, found, open_orders, orders, wish, conduct.terms)
    loss = check_losses(losses(ledger.equity_points(desk.strategy)), conduct.limits)
    refusals += check_orders(orders, book, conduct.limits, loss)
    halt = ledger.halt_state(desk.strategy)
    if halt.state is HaltState.REDUCE_ONLY:
        # the first gate, so it is the one on record
        buys = {order.symbol for order in orders if order.side is Side.BUY}
        refusals = [r for r in refusals if r.symbol not in buys]
        refusals += [Refusal(Gate.HALT, str(halt), symbol) for symbol in sorted(buys)]
    return orders, refusals


def _book(
    account: Account,
    market: MarketSession,
    found: Reconciliation,
    open_orders: Sequence[Order],
    orders: Sequence[Order],
    wish: Wish,
    terms: Terms,
) -> Book:
    positions = dict(account.positions)
    for symbol, quantity in found.manual.items():
        positions[symbol] = positions.get(symbol, Decimal(0)) + quantity
    for order in open_orders:
        positions[order.symbol] = positions.get(order.symbol, Decimal(0)) + order.open_quantity
    told = {symbol: position.price for symbol, position in found.account.positions.items()}
    return Book(
        equity=found.account.equity,
        positions=positions,
        prices={**told, **market.close},
        broker_prices=told,
        average_volumes=wish.average_volumes,
        cash=buying_cash(account, open_orders, terms),
        worst_cash={order.symbol: worst_cash(order, terms) for order in orders},
    )


def _send(
    desk: Desk,
    market: MarketSession,
    wish: Wish,
    orders: Sequence[Order],
    refusals: list[Refusal],
    revision: int,
    run_id: str,
) -> SessionTrades | None:
    """Take the lease, commit the intents, and submit those that are not at the broker yet.

    None where another run has taken the revision that the orders are named by.
    """
    ledger, strategy, session = desk.ledger, desk.strategy, market.session
    refused = {refusal.symbol: refusal for refusal in refusals}
    intents = [
        replace(order, state=OrderState.REJECTED, note=str(refused[order.symbol])) if order.symbol in refused else order
        for order in orders
    ]
    planned = 0
    try:
        with desk.lease() as lease:
            newest = desk.broker.newest_session()
            late = check_freshness(session, newest, f"the broker {desk.broker.name}")
            if late is not None:
                # another process went on while this one planned
                return _refused(desk, session, [late], run_id)
            decided_before = ledger.plan(strategy, session) is not None
            if not decided_before and ledger.next_revision(strategy, session) != revision:
                return None
            if not decided_before:
                purpose = Purpose.DRY_RUN if desk.conduct.dry_run else Purpose.REBALANCE
                ledger.record_plan(strategy, session, revision, intents, run_id, purpose, lease)
                ledger.record_refusals(strategy, session, refusals, run_id)
                planned = len(intents)
            if desk.conduct.dry_run:
                return SessionTrades(planned, 0, decided_before, tuple(refusals))
            sent = _submit(desk, market, wish, lease, run_id)
            return replace(sent, planned=planned, decided_before=decided_before, refusals=(*refusals, *sent.refusals))
    except (LeaseHeldError, LeaseLostError) as error:
        return _refused(desk, session, [Refusal(Gate.LEASE, str(error))], run_id)
    except BrokerError as error:
        return _refused(desk, session, [Refusal(Gate.RECONCILIATION, str(error))], run_id)


def _submit(desk: Desk, market: MarketSession, wish: Wish, lease: Lease, run_id: str) -> SessionTrades:
    """Bring the plan's orders to the broker, sales first, and look at it again afterwards."""
    submitter = desk.submitter(lease)
    sent = _bring(desk, submitter, _waiting(desk, market.session, Side.SELL))
    if not sent.unsettled and not sent.refusals:
        sent = _bring_buys(desk, market, wish, submitter)
    unsettled = list(sent.unsettled)
    unsettled += [
        f"{order.client_order_id}: waits until the sales are known to be at the broker"
        for order in _waiting(desk, market.session, Side.BUY)
        if order.state is OrderState.PLANNED and not sent.refused and unsettled
    ]
    if submitter.sent and not sent.refused and not unsettled:
        unsettled += _observe_afterwards(desk, market.session)
    desk.ledger.record_refusals(desk.strategy, market.session, sent.refusals, run_id)
    return SessionTrades(0, submitter.sent, False, sent.refusals, tuple(unsettled))


def _bring_buys(desk: Desk, market: MarketSession, wish: Wish, submitter: Submitter) -> SessionTrades:
    """Bring the buys that the sales leave room for."""
    try:
        held_back = _without_their_sales(desk, market, wish)
    except BrokerError as error:
        _count_error(desk, str(error))
        return SessionTrades(0, 0, False, (), (f"the buys wait until the broker answers: {error}",))
    after = _bring(desk, submitter, _waiting(desk, market.session, Side.BUY))
    return replace(after, refusals=(*held_back, *after.refusals))


def _waiting(desk: Desk, session: date, side: Side) -> list[Order]:
    """Orders of the session's plan that are not known to be at the broker."""
    plan = desk.ledger.plan(desk.strategy, session)
    assert plan is not None  # committed before, or found
    return [order for order in plan.orders if order.side is side and is_unsettled(order)]


def _without_their_sales(desk: Desk, market: MarketSession, wish: Wish) -> list[Refusal]:
    """Hold back buys that the plan made room for by sales which the broker has not taken after all."""
    ledger, terms = desk.ledger, desk.conduct.terms
    plan = ledger.plan(desk.strategy, market.session)
    assert plan is not None  # committed before, or found
    if not any(o.side is Side.SELL and o.state in TERMINAL_STATES - {OrderState.FILLED} for o in plan.orders):
        return []
    # one that was sent may be at the broker, and is not taken back here
    buys = [order for order in plan.orders if order.side is Side.BUY and order.state is OrderState.PLANNED]
    # while the market is open, the other sales may be filled by now
    found = reconcile(ledger, desk.broker, desk.strategy, market.session, desk.conduct.comparison)
    others = [order for order in ledger.open_orders(desk.strategy) if order not in buys]
    book = _book(ledger.account(desk.strategy), market, found, others, buys, wish, terms)
    refusals = check_orders(buys, book, desk.conduct.limits)
    identities = {order.symbol: order.client_order_id for order in buys}
    for refusal in refusals:
        ledger.record_state(identities[refusal.symbol], OrderState.REJECTED, str(refusal))
    return refusals


def _bring(desk: Desk, submitter: Submitter, orders: Sequence[Order]) -> SessionTrades:
    """Bring orders to the broker one by one, until something forbids to go on."""
    unsettled: list[str] = []
    for order in orders:
        try:
            after = submitter.bring(order)
        except HaltedError as error:
            return SessionTrades(0, 0, False, (Refusal(Gate.HALT, str(error)),), tuple(unsettled))
        except LeaseLostError as error:
            return SessionTrades(0, 0, False, (Refusal(Gate.LEASE, str(error)),), tuple(unsettled))
        except ConflictError as error:
            halt_automatically(desk, Cause.RECONCILIATION, str(error))
            return SessionTrades(0, 0, False, (Refusal(Gate.RECONCILIATION, str(error)),), tuple(unsettled))
        except BrokerError as error:
            _count_error(desk, str(error))
            return SessionTrades(0, 0, False, (), (*unsettled, f"{order.client_order_id}: {error}"))
        if is_unsettled(after):
            _count_error(desk, after.note)
            unsettled.append(f"{order.client_order_id}: {after.note}")
        else:
            _clear_errors(desk)
    return SessionTrades(0, 0, False, (), tuple(unsettled))


def _observe_afterwards(desk: Desk, session: date) -> list[str]:
    """Reconcile once more, since what was sent must be there as it was sent; return why that could not be done."""
    try:
        with _counting_errors(desk):
            found = reconcile(desk.ledger, desk.broker, desk.strategy, session, desk.conduct.comparison)
    except BrokerError as error:
        return [f"all orders were sent, and the broker did not answer afterwards: {error}"]
    protect(desk, found)
    return []


def _refused(desk: Desk, session: date, refusals: Sequence[Refusal], run_id: str) -> SessionTrades:
    desk.ledger.record_refusals(desk.strategy, session, refusals, run_id)
    return SessionTrades(0, 0, decided_before=False, refusals=tuple(refusals))


@contextmanager
def _counting_errors(desk: Desk) -> Iterator[None]:
    """Count failures of the broker, and halt when there are too many in a row."""
    try:
        yield
    except BrokerError as error:
        _count_error(desk, str(error))
        raise
    _clear_errors(desk)


def _clear_errors(desk: Desk) -> None:
    """Note that the broker works, unless orders say that it only answers and does not take any."""
    if any(is_unsettled(o) and o.state is not OrderState.PLANNED for o in desk.ledger.open_orders(desk.strategy)):
        return
    record = desk.ledger.strategy(desk.strategy)
    if record is not None and record.broker_errors:
        desk.ledger.clear_broker_errors(desk.strategy)


def _count_error(desk: Desk, detail: str) -> None:
    count = desk.ledger.count_broker_error(desk.strategy)
    if count >= desk.conduct.broker_errors:
        halt_automatically(desk, Cause.BROKER_ERRORS, f"the broker failed {count} times in a row; at last: {detail}")
