"""Plans, orders and their states in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import pandas as pd
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from trading_dagster.code_version import code_version
from trading_dagster.execution.lease import Lease
from trading_dagster.execution.orders import PROGRESS, TERMINAL_STATES, Order, OrderState, Side
from trading_dagster.resources.broker import BrokerOrder
from trading_dagster.resources.ledger import LedgerError, Plan, Purpose
from trading_dagster.resources.ledger_control import require_allowed, require_lease
from trading_dagster.resources.ledger_database import LedgerDatabase, as_day, lock
from trading_dagster.resources.ledger_models import FillRow, LotRow, OrderEventRow, OrderRow, PlanRow, StrategyRow


class OrderRecords(LedgerDatabase):
    """See `ledger.Ledger` for what each call means."""

    def plan(self, strategy: str, session: pd.Timestamp | date, purpose: Purpose = Purpose.REBALANCE) -> Plan | None:
        """Newest plan of a session and purpose."""
        query = (
            select(PlanRow)
            .where(PlanRow.strategy == strategy, PlanRow.session == as_day(session), PlanRow.purpose == purpose.value)
            .order_by(PlanRow.revision.desc())
            .limit(1)
        )
        with self.transaction() as db:
            row = db.scalar(query)
            if row is None:
                return None
            orders = _sorted(db.scalars(select(OrderRow).where(OrderRow.plan_id == row.id)))
            return Plan(row.revision, row.run_id, row.code_version, row.decided_at, [_order(each) for each in orders])

    def recorded_orders(self, strategy: str, session: pd.Timestamp | date) -> list[Order] | None:
        """Orders decided at a session; None where it has not been decided."""
        plan = self.plan(strategy, session)
        return None if plan is None else plan.orders

    def next_revision(self, strategy: str, session: pd.Timestamp | date) -> int:
        """Revision that no plan of the session has had yet."""
        query = select(func.max(PlanRow.revision)).where(
            PlanRow.strategy == strategy, PlanRow.session == as_day(session)
        )
        with self.transaction() as db:
            newest = db.scalar(query)
        return 0 if newest is None else newest + 1

    def plan_of(self, client_order_id: str) -> tuple[str, str, datetime]:
        """Run, code version and time of the plan that an order belongs to."""
        with self.transaction() as db:
            row = db.get_one(PlanRow, db.get_one(OrderRow, client_order_id).plan_id)
            return row.run_id, row.code_version, row.decided_at

    def order(self, client_order_id: str) -> Order | None:
        """Order of that identity."""
        with self.transaction() as db:
            row = db.get(OrderRow, client_order_id)
            return None if row is None else _order(row)

    def order_of_broker(self, strategy: str, broker_order_id: str) -> Order | None:
        """Order that the broker calls so."""
        query = select(OrderRow).where(OrderRow.strategy == strategy, OrderRow.broker_order_id == broker_order_id)
        with self.transaction() as db:
            row = db.scalar(query)
            return None if row is None else _order(row)

    def open_orders(self, strategy: str) -> list[Order]:
        """Orders of any session that are not in a terminal state."""
        done = [state.value for state in TERMINAL_STATES]
        with self.transaction() as db:
            rows = db.scalars(select(OrderRow).where(OrderRow.strategy == strategy, OrderRow.state.not_in(done)))
            return [_order(row) for row in _sorted(rows)]

    def orders(self, client_order_ids: Iterable[str]) -> dict[str, Order]:
        """Orders of these identities, as far as there are any."""
        with self.transaction() as db:
            rows = db.scalars(select(OrderRow).where(OrderRow.client_order_id.in_(list(client_order_ids))))
            return {row.client_order_id: _order(row) for row in rows}

    def record_plan(
        self,
        strategy: str,
        session: date,
        revision: int,
        orders: Sequence[Order],
        run_id: str,
        purpose: Purpose = Purpose.REBALANCE,
        lease: Lease | None = None,
    ) -> None:
        """Commit a session's intents, before any of them goes to a broker."""
        now = datetime.now(UTC)
        with self.transaction() as db:
            lock(db, strategy)
            if lease is not None:
                require_lease(db, lease, strategy)
            plan = PlanRow(
                strategy=strategy, session=session, revision=revision, purpose=purpose.value, run_id=run_id,
                code_version=code_version(), decided_at=now,
            )  # fmt: skip
            db.add(plan)
            db.flush()
            for order in orders:
                db.add(
                    OrderRow(
                        client_order_id=order.client_order_id,
                        plan_id=plan.id,
                        strategy=strategy,
                        session=session,
                        symbol=order.symbol,
                        side=order.side.value,
                        quantity=order.quantity,
                        limit_price=order.limit_price,
                        reference_price=order.reference_price,
                        reason=order.reason,
                        state=order.state.value,
                        filled_quantity=order.filled_quantity,
                        broker_order_id=order.broker_order_id,
                        note=order.note,
                        updated_at=now,
                    )
                )
            db.flush()
            for order in orders:
                _event(db, order.client_order_id, order.state, order.filled_quantity, order.note, now)

    def claim(self, client_order_id: str, lease: Lease) -> None:
        """Allow one submission of an order: the last thing that is committed before it is sent."""
        with self.transaction() as db:
            row = db.get_one(OrderRow, client_order_id)
            lock(db, row.strategy)
            db.refresh(row)
            require_lease(db, lease, row.strategy)
            if db.get_one(PlanRow, row.plan_id).purpose != Purpose.FLATTEN.value:
                require_allowed(db, row.strategy, reduces=_reduces(db, row))
            _refuse_ended(row, OrderState.SUBMITTED)
            if PROGRESS[OrderState(row.state)] > PROGRESS[OrderState.SUBMITTED]:
                raise LedgerError(f"order {client_order_id} is {row.state} at the broker and is not sent again")
            _move(db, row, OrderState.SUBMITTED, "")

    def record_state(self, client_order_id: str, state: OrderState, note: str = "") -> None:
        """Move an order to a state; terminal states stay."""
        with self.transaction() as db:
            row = db.get_one(OrderRow, client_order_id)
            lock(db, row.strategy)
            db.refresh(row)
            if row.state == state.value and state in TERMINAL_STATES:
                return
            _refuse_ended(row, state)
            _move(db, row, state, note)

    def record_broker_order(self, found: BrokerOrder) -> Order:
        """Take over what the broker says of an order; what it says late takes nothing back."""
        with self.transaction() as db:
            row = db.get_one(OrderRow, found.client_order_id)
            lock(db, row.strategy)
            db.refresh(row)
            row.broker_order_id = row.broker_order_id or found.broker_order_id
            filled = max(row.filled_quantity, min(found.filled_quantity, row.quantity))
            state, note = OrderState(row.state), row.note
            if state not in TERMINAL_STATES and PROGRESS[found.state] >= PROGRESS[state]:
                state, note = found.state, found.note
            if (state.value, filled, note) != (row.state, row.filled_quantity, row.note):
                row.filled_quantity = filled
                _move(db, row, state, note)
            db.flush()
            return _order(row)

    def advance_order_watermark(self, strategy: str, moment: datetime) -> None:
        """Remember up to when the broker's orders were read."""
        with self.transaction() as db:
            lock(db, strategy)
            row = db.get_one(StrategyRow, strategy)
            row.orders_read_to = max(row.orders_read_to or moment, moment)

    def expire_unsent(self, strategy: str, session: date) -> None:
        """End the intents of sessions before `session`, and of dry runs of any, that never went to a broker."""
        with self.transaction() as db:
            lock(db, strategy)
            rows = db.execute(
                select(OrderRow, PlanRow.purpose)
                .join(PlanRow, PlanRow.id == OrderRow.plan_id)
                .where(OrderRow.strategy == strategy, OrderRow.state == OrderState.PLANNED.value)
            )
            for row, purpose in rows:
                if row.session < session:
                    _move(db, row, OrderState.EXPIRED, "never submitted before its session had passed")
                elif purpose == Purpose.DRY_RUN.value:
                    _move(db, row, OrderState.EXPIRED, "planned by a dry run")

    def order_events(self, client_order_id: str) -> list[tuple[datetime, OrderState, Decimal, str]]:
        """Every state that an order came to: when, which, filled so far, and why."""
        query = select(OrderEventRow).where(OrderEventRow.client_order_id == client_order_id).order_by(OrderEventRow.id)
        with self.transaction() as db:
            return [(r.at, OrderState(r.state), r.filled_quantity, r.note) for r in db.scalars(query)]

    def order_table(self, strategy: str, sessions: Iterable[date]) -> pd.DataFrame:
        """Orders of the given sessions with their fills, as rows for the `orders` table."""
        days = set(sessions)
        if not days:
            return _order_frame([], [])
        # by bounds and a join: one variable a session and order would be more than a database takes
        wanted = (OrderRow.strategy == strategy, OrderRow.session.between(min(days), max(days)))
        fills_query = select(FillRow).join(OrderRow, OrderRow.client_order_id == FillRow.client_order_id)
        with self.transaction() as db:
            lock(db, strategy)  # or fills could come between the two queries
            orders = sorted(
                db.scalars(select(OrderRow).where(*wanted)), key=lambda o: (o.session, o.symbol, o.client_order_id)
            )
            fills = db.scalars(fills_query.where(*wanted)).all()
            return _order_frame([order for order in orders if order.session in days], fills)


def _sorted(rows: Iterable[OrderRow]) -> list[OrderRow]:
    """By session and identity; databases disagree on the order of text."""
    return sorted(rows, key=lambda row: (row.session, row.client_order_id))


def _order(row: OrderRow) -> Order:
    return Order(
        client_order_id=row.client_order_id,
        strategy=row.strategy,
        session=row.session,
        symbol=row.symbol,
        side=Side(row.side),
        quantity=row.quantity,
        reference_price=row.reference_price,
        reason=row.reason,
        state=OrderState(row.state),
        filled_quantity=row.filled_quantity,
        note=row.note,
        limit_price=row.limit_price,
        broker_order_id=row.broker_order_id,
    )


def _refuse_ended(order: OrderRow, state: OrderState) -> None:
    if OrderState(order.state) in TERMINAL_STATES:
        raise LedgerError(f"order {order.client_order_id} is {order.state} and cannot become {state.value}")


def _move(db: Session, row: OrderRow, state: OrderState, note: str) -> None:
    now = datetime.now(UTC)
    row.state, row.note, row.updated_at = state.value, note, now
    _event(db, row.client_order_id, state, row.filled_quantity, note, now)


def _event(db: Session, client_order_id: str, state: OrderState, filled: Decimal, note: str, at: datetime) -> None:
    db.add(OrderEventRow(client_order_id=client_order_id, state=state.value, filled_quantity=filled, note=note, at=at))


def fill_order(db: Session, client_order_id: str, activity_id: str, quantity: Decimal) -> None:
    """Add a fill that is about to be recorded to its order.

    Raises
    ------
    LedgerError
        If the order would be filled with more than was ordered.
    """
    row = db.get_one(OrderRow, client_order_id)
    earlier = db.scalars(select(FillRow.quantity).where(FillRow.client_order_id == client_order_id))
    filled = sum(earlier, quantity)
    if filled > row.quantity:
        raise LedgerError(
            f"fill {activity_id} would bring order {client_order_id} to {filled} shares of {row.quantity}"
        )
    state = OrderState(row.state)
    if state not in TERMINAL_STATES:
        state = OrderState.FILLED if filled == row.quantity else OrderState.PARTIALLY_FILLED
    if (state.value, max(filled, row.filled_quantity)) != (row.state, row.filled_quantity):
        row.filled_quantity = max(filled, row.filled_quantity)
        _move(db, row, state, row.note)


def _reduces(db: Session, row: OrderRow) -> bool:
    """Whether the order only makes smaller what the strategy holds, after what is under way already."""
    mine = (LotRow.strategy == row.strategy, LotRow.symbol == row.symbol, LotRow.owner == "strategy")
    held = sum(db.scalars(select(LotRow.quantity).where(*mine)), Decimal(0))
    unsent = {OrderState.PLANNED.value, *(state.value for state in TERMINAL_STATES)}
    others = select(OrderRow).where(
        OrderRow.strategy == row.strategy,
        OrderRow.symbol == row.symbol,
        OrderRow.state.not_in(unsent),
        OrderRow.client_order_id != row.client_order_id,
    )
    held += sum((_order(other).open_quantity for other in db.scalars(others)), Decimal(0))
    signed = row.quantity if row.side == Side.BUY.value else -row.quantity
    return held * signed < 0 and abs(signed) <= abs(held)


def _order_frame(orders: Sequence[OrderRow], fills: Sequence[FillRow]) -> pd.DataFrame:
    """Orders with what their fills come to."""
    spent: dict[str, Decimal] = {}
    shares: dict[str, Decimal] = {}
    commission: dict[str, Decimal] = {}
    for fill in fills:
        key = str(fill.client_order_id)
        spent[key] = spent.get(key, Decimal(0)) + fill.quantity * fill.price
        shares[key] = shares.get(key, Decimal(0)) + fill.quantity
        commission[key] = commission.get(key, Decimal(0)) + fill.commission
    frame = pd.DataFrame(
        [
            {
                "session": pd.Timestamp(o.session),
                "symbol": o.symbol,
                "client_order_id": o.client_order_id,
                "side": o.side,
                "quantity": float(o.quantity),
                "limit_price": None if o.limit_price is None else float(o.limit_price),
                "reference_price": float(o.reference_price),
                "state": o.state,
                "filled_quantity": float(o.filled_quantity),
                "average_price": (
                    float(spent[o.client_order_id] / shares[o.client_order_id]) if o.client_order_id in spent else None
                ),
                "commission": float(commission.get(o.client_order_id, Decimal(0))),
                "reason": o.reason,
                "note": o.note,
            }
            for o in orders
        ],
        columns=[
            "session", "symbol", "client_order_id", "side", "quantity", "limit_price", "reference_price", "state",
            "filled_quantity", "average_price", "commission", "reason", "note",
        ],
    )  # fmt: skip
    # without orders, too, the columns have their types
    return frame.astype({"session": "datetime64[us]", "limit_price": "float64", "average_price": "float64"})
