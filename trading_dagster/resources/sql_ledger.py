"""The ledger in a transactional database.

Belongs here: what is written and read, in which transaction; what each call means is in `ledger.Ledger`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from trading_dagster.execution.accounting import Account, CashMovement, MarketSession
from trading_dagster.execution.orders import TERMINAL_STATES, Fill, Order, OrderState, Side
from trading_dagster.policy import Violation
from trading_dagster.resources.ledger import LedgerError
from trading_dagster.resources.ledger_models import (
    AccountRow,
    CashMovementRow,
    FillRow,
    OrderRow,
    PlanRow,
    PolicyVerdictRow,
    PolicyViolationRow,
    PositionRow,
)

MIGRATIONS = Path(__file__).parent / "migrations"


class SqlLedger:
    """Access to the ledger's database; connects and migrates at first use.

    Parameters
    ----------
    url : str
        SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)

    def __repr__(self) -> str:
        return f"SqlLedger({self._url.render_as_string(hide_password=True)})"

    @functools.cached_property
    def engine(self) -> Engine:
        """The connected, migrated database."""
        if self._url.get_backend_name() == "sqlite" and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(self._url)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        migrate(engine)
        return engine

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a session that commits as a whole or not at all."""
        with Session(self.engine) as session, session.begin():
            yield session

    # -- accounts -------------------------------------------------------------------------------------------

    def recorded_account(self, strategy: str, session: pd.Timestamp | date) -> Account | None:
        """Account at a session's close, before that session's orders; None where unknown."""
        day = _day(session)
        with self.transaction() as db:
            row = db.get(AccountRow, (strategy, day))
            if row is None:
                return None
            positions = db.scalars(
                select(PositionRow).where(PositionRow.strategy == strategy, PositionRow.session == day)
            )
            return Account(row.cash, {p.symbol: p.quantity for p in sorted(positions, key=lambda p: p.symbol)})

    def last_recorded_session(self, strategy: str, session: pd.Timestamp | date | None = None) -> pd.Timestamp | None:
        """Newest session, not after `session` when given, whose account is known."""
        query = select(func.max(AccountRow.session)).where(AccountRow.strategy == strategy)
        if session is not None:
            query = query.where(AccountRow.session <= _day(session))
        with self.transaction() as db:
            found = db.scalar(query)
        return None if found is None else pd.Timestamp(found)

    def held_symbols(self, strategy: str) -> list[str]:
        """Symbols in the newest account."""
        newest = self.last_recorded_session(strategy)
        account = None if newest is None else self.recorded_account(strategy, newest)
        return sorted(account.positions) if account else []

    def equity_curve(self, strategy: str) -> pd.DataFrame:
        """Cash and equity by session, as floats for figures and pictures."""
        query = select(AccountRow).where(AccountRow.strategy == strategy).order_by(AccountRow.session)
        with self.transaction() as db:
            rows = [(pd.Timestamp(r.session), float(r.cash), float(r.equity)) for r in db.scalars(query)]
        return pd.DataFrame(rows, columns=["session", "cash", "equity"]).set_index("session")

    def record_session(
        self,
        strategy: str,
        market: MarketSession,
        account: Account,
        fills: Sequence[Fill],
        expired: dict[str, str],
        movements: Sequence[CashMovement],
    ) -> None:
        """Write what a session did to the account, in one transaction."""
        now = datetime.now(UTC)
        with self.transaction() as db:
            for fill in fills:
                order = db.get_one(OrderRow, fill.client_order_id)
                _fill_order(order, fill, now)
                db.add(
                    FillRow(
                        activity_id=fill.activity_id,
                        client_order_id=fill.client_order_id,
                        session=fill.session,
                        symbol=fill.symbol,
                        side=fill.side.value,
                        quantity=fill.quantity,
                        price=fill.price,
                        commission=fill.commission,
                    )
                )
            for order_id, note in expired.items():
                order = db.get_one(OrderRow, order_id)
                _refuse_ended(order, OrderState.EXPIRED)
                order.state, order.note, order.updated_at = OrderState.EXPIRED.value, note, now
            db.add_all(
                CashMovementRow(strategy=strategy, session=m.session, symbol=m.symbol, kind=m.kind, amount=m.amount)
                for m in movements
            )
            db.add(
                AccountRow(
                    strategy=strategy,
                    session=market.session,
                    cash=account.cash,
                    equity=account.equity(market),
                )
            )
            db.add_all(
                PositionRow(strategy=strategy, session=market.session, symbol=s, quantity=q, price=market.mark(s))
                for s, q in account.positions.items()
            )

    # -- orders ---------------------------------------------------------------------------------------------

    def recorded_orders(self, strategy: str, session: pd.Timestamp | date) -> list[Order] | None:
        """Orders decided at a session; None where it has not been decided."""
        day = _day(session)
        with self.transaction() as db:
            plans = select(PlanRow.id).where(PlanRow.strategy == strategy, PlanRow.session == day)
            if db.scalar(plans) is None:
                return None
            rows = db.scalars(
                select(OrderRow)
                .where(OrderRow.strategy == strategy, OrderRow.session == day)
                .order_by(OrderRow.client_order_id)
            )
            return [_order(row) for row in rows]

    def order(self, client_order_id: str) -> Order | None:
        """Order of that identity."""
        with self.transaction() as db:
            row = db.get(OrderRow, client_order_id)
            return None if row is None else _order(row)

    def open_orders(self, strategy: str) -> list[Order]:
        """Orders of any session that are not in a terminal state."""
        done = [state.value for state in TERMINAL_STATES]
        with self.transaction() as db:
            rows = db.scalars(
                select(OrderRow)
                .where(OrderRow.strategy == strategy, OrderRow.state.not_in(done))
                .order_by(OrderRow.session, OrderRow.client_order_id)
            )
            return [_order(row) for row in rows]

    def record_plan(self, strategy: str, session: date, revision: int, orders: Sequence[Order], run_id: str) -> None:
        """Commit a session's intents, before any of them goes to a broker."""
        now = datetime.now(UTC)
        with self.transaction() as db:
            plan = PlanRow(strategy=strategy, session=session, revision=revision, run_id=run_id, decided_at=now)
            db.add(plan)
            db.flush()
            db.add_all(
                OrderRow(
                    client_order_id=order.client_order_id,
                    plan_id=plan.id,
                    strategy=strategy,
                    session=session,
                    symbol=order.symbol,
                    side=order.side.value,
                    quantity=order.quantity,
                    reference_price=order.reference_price,
                    reason=order.reason,
                    state=order.state.value,
                    filled_quantity=order.filled_quantity,
                    note=order.note,
                    updated_at=now,
                )
                for order in orders
            )

    def record_state(self, client_order_id: str, state: OrderState, note: str = "") -> None:
        """Move an order to a state; terminal states stay.

        Raises
        ------
        LedgerError
            If the order has ended already.
        """
        with self.transaction() as db:
            row = db.get_one(OrderRow, client_order_id)
            if row.state == state.value and state in TERMINAL_STATES:
                return
            _refuse_ended(row, state)
            row.state, row.note, row.updated_at = state.value, note, datetime.now(UTC)

    def order_table(self, strategy: str, sessions: Iterable[date]) -> pd.DataFrame:
        """Orders of the given sessions with their fills, as rows for the `orders` table."""
        days = set(sessions)
        if not days:
            return _order_frame([], [])
        # by bounds and a join: one variable a session and order would be more than a database takes
        wanted = (OrderRow.strategy == strategy, OrderRow.session.between(min(days), max(days)))
        fills_query = select(FillRow).join(OrderRow, OrderRow.client_order_id == FillRow.client_order_id)
        with self.transaction() as db:
            orders = db.scalars(select(OrderRow).where(*wanted).order_by(OrderRow.session, OrderRow.symbol))
            fills = db.scalars(fills_query.where(*wanted)).all()
            return _order_frame([order for order in orders if order.session in days], fills)

    # -- data policy ----------------------------------------------------------------------------------------

    def record_violations(self, violations: Sequence[Violation], mode: str, run_id: str) -> None:
        """Add a row for each violation."""
        now = datetime.now(UTC)
        with self.transaction() as db:
            db.add_all(
                PolicyViolationRow(
                    component=v.component,
                    symbol=v.symbol,
                    session=v.session,
                    rule=v.rule,
                    bars_found=v.bars_found,
                    bars_needed=v.bars_needed,
                    mode=mode,
                    message=v.message,
                    run_id=run_id,
                    recorded_at=now,
                )
                for v in violations
            )

    def record_verdicts(
        self, asset: str, sessions: Iterable[date], passed: bool, excluded: Sequence[str], run_id: str
    ) -> None:
        """Write the verdict for each session; one that says what it said before is left as it is."""
        now = datetime.now(UTC)
        names = ",".join(sorted(excluded))
        with self.transaction() as db:
            days = list(sessions)
            known = {
                row.session: row
                for row in db.scalars(
                    select(PolicyVerdictRow).where(PolicyVerdictRow.asset == asset, PolicyVerdictRow.session.in_(days))
                )
            }
            for day in days:
                row = known.get(day)
                if row is None:
                    db.add(
                        PolicyVerdictRow(
                            asset=asset,
                            session=day,
                            passed=passed,
                            excluded=names,
                            run_id=run_id,
                            recorded_at=now,
                        )
                    )
                elif (row.passed, row.excluded) != (passed, names):
                    row.passed, row.excluded, row.run_id, row.recorded_at = passed, names, run_id, now

    def verdicts(self, session: date, assets: Sequence[str]) -> dict[str, bool]:
        """Latest verdict on each of the assets that has one for the session."""
        query = select(PolicyVerdictRow).where(PolicyVerdictRow.session == session, PolicyVerdictRow.asset.in_(assets))
        with self.transaction() as db:
            return {row.asset: row.passed for row in db.scalars(query)}

    def newest_passed(self, asset: str) -> date | None:
        """Newest session for which an asset has a verdict that passed."""
        passed = (PolicyVerdictRow.asset == asset, PolicyVerdictRow.passed)
        query = select(func.max(PolicyVerdictRow.session)).where(*passed)
        with self.transaction() as db:
            return db.scalar(query)

    def count_verdicts(self, sessions: Iterable[date]) -> tuple[int, int]:
        """Verdicts that passed, and all of them, over the given sessions."""
        query = select(PolicyVerdictRow.passed).where(PolicyVerdictRow.session.in_(list(sessions)))
        with self.transaction() as db:
            found = db.scalars(query).all()
        return sum(found), len(found)


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema; a database that is there already costs one query."""
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    head = ScriptDirectory.from_config(config).get_current_head()
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # two processes at first start: one migrates, the other waits and finds it done
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(20000103)")
        if MigrationContext.configure(connection).get_current_revision() != head:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _prepare_sqlite(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # DBAPI connections have no common type
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()
    # the driver must not open transactions by itself: `_begin_sqlite` does
    connection.isolation_level = None  # type: ignore[attr-defined]


def _begin_sqlite(connection: Connection) -> None:
    # a transaction that reads first and writes later would fail at once beside another writer; one that
    # takes the write lock at its start waits for it instead
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _day(session: pd.Timestamp | date) -> date:
    return session.date() if isinstance(session, pd.Timestamp) else session


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
    )


def _refuse_ended(order: OrderRow, state: OrderState) -> None:
    if OrderState(order.state) in TERMINAL_STATES:
        raise LedgerError(f"order {order.client_order_id} is {order.state} and cannot become {state.value}")


def _fill_order(order: OrderRow, fill: Fill, now: datetime) -> None:
    _refuse_ended(order, OrderState.FILLED)
    filled = order.filled_quantity + fill.quantity
    if filled > order.quantity:
        raise LedgerError(
            f"fill {fill.activity_id} would bring order {order.client_order_id} to {filled} shares of {order.quantity}"
        )
    order.filled_quantity, order.updated_at = filled, now
    complete = filled == order.quantity
    order.state = (OrderState.FILLED if complete else OrderState.PARTIALLY_FILLED).value


def _order_frame(orders: Sequence[OrderRow], fills: Sequence[FillRow]) -> pd.DataFrame:
    """Orders with what their fills come to."""
    spent: dict[str, Decimal] = {}
    commission: dict[str, Decimal] = {}
    for fill in fills:
        key = fill.client_order_id
        spent[key] = spent.get(key, Decimal(0)) + fill.quantity * fill.price
        commission[key] = commission.get(key, Decimal(0)) + fill.commission
    frame = pd.DataFrame(
        [
            {
                "session": pd.Timestamp(o.session),
                "symbol": o.symbol,
                "client_order_id": o.client_order_id,
                "side": o.side,
                "quantity": float(o.quantity),
                "reference_price": float(o.reference_price),
                "state": o.state,
                "filled_quantity": float(o.filled_quantity),
                "average_price": (
                    float(spent[o.client_order_id] / o.filled_quantity) if o.client_order_id in spent else None
                ),
                "commission": float(commission.get(o.client_order_id, Decimal(0))),
                "reason": o.reason,
                "note": o.note,
            }
            for o in orders
        ],
        columns=[
            "session", "symbol", "client_order_id", "side", "quantity", "reference_price", "state",
            "filled_quantity", "average_price", "commission", "reason", "note",
        ],
    )  # fmt: skip
    # without orders, too, the columns have their types
    return frame.astype({"session": "datetime64[us]"})
