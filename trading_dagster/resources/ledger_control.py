"""Strategies, halts, the lease, refusals and operator actions in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pandas as pd
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from trading_dagster.execution.gates import Refusal
from trading_dagster.execution.halts import AUTOMATIC, Cause, Halt, HaltedError, HaltState
from trading_dagster.execution.lease import Lease, LeaseHeldError, LeaseLostError
from trading_dagster.resources.ledger import LedgerError, OpeningPosition, StrategyRecord
from trading_dagster.resources.ledger_database import LedgerDatabase, as_day, database_time, lock
from trading_dagster.resources.ledger_models import (
    AccountRow,
    ActivityRow,
    FillRow,
    HaltEventRow,
    HaltStateRow,
    LeaseRow,
    LotRow,
    OperatorActionRow,
    PlanRow,
    RefusalRow,
    StrategyRow,
)


class ControlRecords(LedgerDatabase):
    """See `ledger.Ledger` for what each call means."""

    # -- strategies ---------------------------------------------------------------------------------------------------

    def strategy(self, strategy: str) -> StrategyRecord | None:
        """Return what is known of a strategy; None before it was opened."""
        with self.transaction() as db:
            row = db.get(StrategyRow, strategy)
            if row is None:
                return None
            return StrategyRecord(
                name=row.name,
                broker=row.broker,
                opened_at=row.opened_at,
                cash=row.cash,
                broker_errors=row.broker_errors,
                measured_from=row.measured_from,
                measured_equity=row.measured_equity,
                orders_read_to=row.orders_read_to,
                activities_read_to=row.activities_read_to,
            )

    def open_strategy(
        self,
        strategy: str,
        broker: str,
        session: date,
        cash: Decimal,
        positions: Mapping[str, OpeningPosition],
        owner: str,
        activities: Iterable[str],
    ) -> None:
        """Begin the books of a strategy; a second call changes nothing."""
        now = datetime.now(UTC)
        with self.transaction() as db:
            lock(db, strategy)
            if db.get(StrategyRow, strategy) is not None:
                return
            traces = [PlanRow.strategy, AccountRow.strategy, FillRow.strategy]
            if any(db.scalar(select(exists().where(column == strategy))) for column in traces):
                raise LedgerError(
                    f"the ledger has orders or accounts of the strategy {strategy!r} but no longer its own row in "
                    "`strategies`: it was damaged. Restore it from a backup, or trade under a new TRADING_STRATEGY"
                )
            db.add(StrategyRow(name=strategy, broker=broker, opened_at=now, cash=cash, broker_errors=0))
            db.add_all(
                LotRow(strategy=strategy, symbol=symbol, owner=owner, session=session, quantity=p.quantity, cost=p.cost)
                for symbol, p in positions.items()
            )
            db.add_all(
                ActivityRow(strategy=strategy, activity_id=each, kind="before_opening", recorded_at=now)
                for each in dict.fromkeys(activities)
            )
            # somebody may have halted it before it ever traded
            if db.get(HaltStateRow, strategy) is None:
                _set_state(db, strategy, HaltState.ACTIVE, None, f"opened with the broker {broker}", AUTOMATIC, now)

    def count_broker_error(self, strategy: str) -> int:
        """Count one more failure of the broker, and return how many there were in a row."""
        with self.transaction() as db:
            lock(db, strategy)
            row = db.get(StrategyRow, strategy)
            if row is None:
                return 0
            row.broker_errors += 1
            return row.broker_errors

    def clear_broker_errors(self, strategy: str) -> None:
        """Note that the broker works."""
        with self.transaction() as db:
            lock(db, strategy)
            row = db.get(StrategyRow, strategy)
            if row is not None and row.broker_errors:
                row.broker_errors = 0

    def measure_from(self, strategy: str, session: date, equity: Decimal) -> None:
        """Measure losses from this session on, at this equity."""
        with self.transaction() as db:
            lock(db, strategy)
            row = db.get_one(StrategyRow, strategy)
            row.measured_from, row.measured_equity = session, equity

    # -- halts --------------------------------------------------------------------------------------------------------

    def halt_state(self, strategy: str) -> Halt:
        """Return what the strategy may do; a missing state means HALTED."""
        with self.transaction() as db:
            return _halt(db, strategy)

    def has_traded(self, strategy: str) -> bool:
        """Whether the strategy was opened, or its state was set."""
        with self.transaction() as db:
            return db.get(StrategyRow, strategy) is not None or db.get(HaltStateRow, strategy) is not None

    def set_halt_state(self, strategy: str, state: HaltState, cause: Cause | None, detail: str, operator: str) -> None:
        """Change the state, and keep the change in the history."""
        with self.transaction() as db:
            lock(db, strategy)
            _set_state(db, strategy, state, cause, detail, operator, datetime.now(UTC))

    def halt_history(self, strategy: str) -> list[Halt]:
        """Every state that the strategy was in, oldest first."""
        query = select(HaltEventRow).where(HaltEventRow.strategy == strategy).order_by(HaltEventRow.id)
        with self.transaction() as db:
            return [
                Halt(HaltState(r.state), Cause(r.cause) if r.cause else None, r.detail, r.operator, r.at)
                for r in db.scalars(query)
            ]

    # -- lease --------------------------------------------------------------------------------------------------------

    def acquire_lease(
        self, strategy: str, holder: str, seconds: float, *, take_over: bool = False, dead: str | None = None
    ) -> Lease:
        """Take the right to trade; with `take_over` even from a living holder."""
        with self.transaction() as db:
            lock(db, strategy)
            now = database_time(db)
            row = db.get(LeaseRow, strategy)
            if row is None:
                row = LeaseRow(strategy=strategy, holder=holder, token=0, expires_at=now)
                db.add(row)
            elif row.expires_at > now and not take_over and row.holder != dead:
                raise LeaseHeldError(
                    f"{row.holder} trades the strategy {strategy!r} until {row.expires_at:%H:%M:%S} UTC at least, and "
                    f"renews that while it works; {holder} sends nothing: wait until it has ended",
                    row.holder,
                )
            row.holder, row.token, row.expires_at = holder, row.token + 1, now + timedelta(seconds=seconds)
            return Lease(strategy, holder, row.token, seconds)

    def release_lease(self, lease: Lease) -> None:
        """Give the right back, if it is still this one."""
        with self.transaction() as db:
            lock(db, lease.strategy)
            row = db.get(LeaseRow, lease.strategy)
            if row is not None and row.token == lease.token:
                row.expires_at = database_time(db)

    def lease_holder(self, strategy: str) -> str | None:
        """Who holds the lease now, if anybody."""
        with self.transaction() as db:
            row = db.get(LeaseRow, strategy)
            return row.holder if row is not None and row.expires_at > database_time(db) else None

    # -- what people and gates did ------------------------------------------------------------------------------------

    def record_action(self, strategy: str, action: str, operator: str, reason: str, outcome: str) -> None:
        """Keep what an operator did."""
        with self.transaction() as db:
            db.add(
                OperatorActionRow(
                    strategy=strategy, action=action, operator=operator, reason=reason, outcome=outcome,
                    at=datetime.now(UTC),
                )
            )  # fmt: skip

    def actions(self, strategy: str) -> pd.DataFrame:
        """Everything that operators did, oldest first."""
        query = select(OperatorActionRow).where(OperatorActionRow.strategy == strategy).order_by(OperatorActionRow.id)
        with self.transaction() as db:
            rows = [(r.at, r.action, r.operator, r.reason, r.outcome) for r in db.scalars(query)]
        return pd.DataFrame(rows, columns=["at", "action", "operator", "reason", "outcome"])

    def record_refusals(
        self, strategy: str, session: pd.Timestamp | date, refusals: Sequence[Refusal], run_id: str
    ) -> None:
        """Keep what a gate held back."""
        now = datetime.now(UTC)
        with self.transaction() as db:
            db.add_all(
                RefusalRow(
                    strategy=strategy, session=as_day(session), gate=r.gate, symbol=r.symbol, detail=r.detail,
                    run_id=run_id, at=now,
                )
                for r in refusals
            )  # fmt: skip

    def refusals(self, strategy: str, session: pd.Timestamp | date | None = None) -> pd.DataFrame:
        """What gates held back, oldest first."""
        query = select(RefusalRow).where(RefusalRow.strategy == strategy).order_by(RefusalRow.id)
        if session is not None:
            query = query.where(RefusalRow.session == as_day(session))
        with self.transaction() as db:
            rows = [(r.session, r.gate, r.symbol, r.detail, r.run_id, r.at) for r in db.scalars(query)]
        return pd.DataFrame(rows, columns=["session", "gate", "symbol", "detail", "run_id", "at"])


def require_lease(db: Session, lease: Lease, strategy: str) -> None:
    """Make sure that a lease is the strategy's newest and has not run out, and renew it.

    Raises
    ------
    LeaseLostError
    """
    if lease.strategy != strategy:
        raise LeaseLostError(f"a lease on the strategy {lease.strategy!r} does not allow to trade {strategy!r}")
    row, now = db.get(LeaseRow, strategy), database_time(db)
    if row is None or row.token != lease.token:
        holder = "nobody" if row is None else row.holder
        raise LeaseLostError(
            f"the lease of {lease.holder} on the strategy {lease.strategy!r} was taken over by {holder}; nothing more "
            "is sent from here"
        )
    if row.expires_at <= now:
        raise LeaseLostError(
            f"the lease of {lease.holder} on the strategy {lease.strategy!r} ran out at {row.expires_at:%H:%M:%S} UTC, "
            f"{(now - row.expires_at).total_seconds():.0f} s ago; nothing more is sent from here"
        )
    row.expires_at = now + timedelta(seconds=lease.seconds)


def require_allowed(db: Session, strategy: str, *, reduces: bool) -> None:
    """Make sure that the strategy's state lets an order pass.

    Raises
    ------
    HaltedError
    """
    halt = _halt(db, strategy)
    if halt.state is HaltState.HALTED or (halt.state is HaltState.REDUCE_ONLY and not reduces):
        raise HaltedError(str(halt))


def _halt(db: Session, strategy: str) -> Halt:
    row = db.get(HaltStateRow, strategy)
    if row is None:
        return Halt.missing(strategy)
    try:
        cause = Cause(row.cause) if row.cause else None
        return Halt(HaltState(row.state), cause, row.detail, row.operator, row.since)
    except ValueError:
        return Halt.missing(strategy)  # what cannot be read is as good as not there


def _set_state(
    db: Session, strategy: str, state: HaltState, cause: Cause | None, detail: str, operator: str, at: datetime
) -> None:
    row = db.get(HaltStateRow, strategy)
    values = {"state": state.value, "cause": cause.value if cause else "", "detail": detail, "operator": operator}
    if row is None:
        db.add(HaltStateRow(strategy=strategy, since=at, **values))
    else:
        for name, value in {**values, "since": at}.items():
            setattr(row, name, value)
    db.add(HaltEventRow(strategy=strategy, at=at, **values))
