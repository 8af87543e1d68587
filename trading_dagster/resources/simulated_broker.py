"""The simulated broker: fills at the next session's open, with a book of its own beside the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from trading_dagster.execution.accounting import (
    QUANTITY_STEP,
    Account,
    CashMovement,
    Costs,
    MarketSession,
    SessionOutcome,
    advance,
)
from trading_dagster.execution.orders import TERMINAL_STATES, Fill, Order, OrderState, Side
from trading_dagster.resources.broker import (
    Activity,
    BrokerAccount,
    BrokerError,
    BrokerOrder,
    BrokerPosition,
    DuplicateOrderError,
)
from trading_dagster.resources.ledger_database import LedgerDatabase, lock
from trading_dagster.resources.ledger_models import (
    SimulatedAccountRow,
    SimulatedActivityRow,
    SimulatedOrderRow,
    SimulatedPositionRow,
)


class SimulatedBroker:
    """A broker whose time passes session by session, as it is told.

    Orders that come at a session's close meet the next session at its open, or its close where the source has
    no open, worsened by slippage and charged commission. Its book is kept in tables of its own in the ledger's
    database, one account a strategy; the ledger learns of it as of any broker's.

    Parameters
    ----------
    database : LedgerDatabase
    strategy : str
    initial : Account
        Before the first session.
    costs : Costs
    """

    name = "simulated"
    real = False

    def __init__(self, database: LedgerDatabase, strategy: str, initial: Account, costs: Costs) -> None:
        self.database = database
        self.strategy = strategy
        self.initial = initial
        self.costs = costs

    # -- time ---------------------------------------------------------------------------------------------------------

    def settle(self, market: MarketSession) -> None:
        """Pass to the close of the session, unless it has passed already: time does not run back."""
        with self.database.transaction() as db:
            lock(db, self.strategy)
            row = self._row(db)
            if row.session is not None and row.session >= market.session:
                return
            before = Account(row.cash, {p.symbol: p.quantity for p in self._positions(db)})
            waiting = [_as_order(each) for each in self._orders(db, open_only=True)]
            outcome = advance(before, waiting, market, self.costs)
            self._write(db, outcome, market)
            row.session, row.cash = market.session, outcome.account.cash

    def newest_session(self) -> date:
        """Session at whose close the broker's time stands."""
        with self.database.transaction() as db:
            session = self._row(db).session
        if session is None:
            raise BrokerError(
                f"the simulated account {self.strategy!r} has not seen a session yet; run one: trading run --session D"
            )
        return session

    def market_is_open(self) -> bool:
        """Its time only ever stands at closes."""
        return False

    # -- reading ------------------------------------------------------------------------------------------------------

    def quantity_steps(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """The same small fraction for each."""
        return dict.fromkeys(symbols, QUANTITY_STEP)

    def account(self) -> BrokerAccount:
        """Cash and positions at the close at which the broker's time stands."""
        with self.database.transaction() as db:
            row = self._row(db)
            positions = {
                p.symbol: BrokerPosition(
                    p.symbol, p.quantity, p.cost / p.quantity, p.price, p.quantity * p.price - p.cost
                )
                for p in self._positions(db)
            }
            value = sum((p.quantity * p.price for p in positions.values()), Decimal(0))
            return BrokerAccount(row.cash, row.cash + value, positions)

    def order(self, client_order_id: str) -> BrokerOrder | None:
        """Return the order of that identity, None if it never came."""
        with self.database.transaction() as db:
            row = db.get(SimulatedOrderRow, client_order_id)
            return None if row is None or row.strategy != self.strategy else _as_broker_order(row)

    def order_by_broker_id(self, broker_order_id: str) -> BrokerOrder:
        """Return the order; the broker's own names are those that it was given."""
        found = self.order(broker_order_id)
        if found is None:
            raise BrokerError(f"the simulated broker has no order {broker_order_id!r}")
        return found

    def orders_since(self, moment: datetime | None) -> Iterator[BrokerOrder]:
        """Orders submitted after a moment, or all, oldest first."""
        with self.database.transaction() as db:
            found = [_as_broker_order(row) for row in self._orders(db, since=moment)]
        yield from found  # not inside: whoever reads may use the same database

    def open_orders(self) -> list[BrokerOrder]:
        """Orders that wait for the next session."""
        with self.database.transaction() as db:
            return [_as_broker_order(row) for row in self._orders(db, open_only=True)]

    def activities_since(self, moment: datetime | None) -> Iterator[Activity]:
        """Activities after a moment, or all, oldest first."""
        query = select(SimulatedActivityRow).where(SimulatedActivityRow.strategy == self.strategy)
        if moment is not None:
            query = query.where(SimulatedActivityRow.session >= moment.date())
        with self.database.transaction() as db:
            # as it happened: corporate actions, sales, buys
            turns = {"": 0, Side.SELL.value: 1, Side.BUY.value: 2}
            rows = sorted(db.scalars(query), key=lambda r: (r.session, turns[r.side], r.activity_id))
            found = [_as_activity(row) for row in rows]
        yield from found

    # -- writing ------------------------------------------------------------------------------------------------------

    def submit(self, order: Order, before_sending: Callable[[], None]) -> BrokerOrder:
        """Take the order for the next session."""
        before_sending()
        with self.database.transaction() as db:
            lock(db, self.strategy)
            if db.get(SimulatedOrderRow, order.client_order_id) is not None:
                raise DuplicateOrderError(f"client_order_id {order.client_order_id} must be unique")
            row = SimulatedOrderRow(
                client_order_id=order.client_order_id,
                strategy=self.strategy,
                session=self._row(db).session or order.session,
                symbol=order.symbol,
                side=order.side.value,
                quantity=order.quantity,
                limit_price=order.limit_price,
                state=OrderState.ACCEPTED.value,
                filled_quantity=Decimal(0),
                note="",
            )
            db.add(row)
            db.flush()
            return _as_broker_order(row)

    def cancel(self, broker_order_id: str) -> None:
        """Cancel an order that waits."""
        with self.database.transaction() as db:
            lock(db, self.strategy)
            row = db.get(SimulatedOrderRow, broker_order_id)
            if row is None or row.strategy != self.strategy:
                raise BrokerError(f"the simulated broker has no order {broker_order_id!r} of {self.strategy!r}")
            if OrderState(row.state) not in TERMINAL_STATES:
                row.state, row.note = OrderState.CANCELLED.value, "cancelled on request"

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _row(self, db: Session) -> SimulatedAccountRow:
        row = db.get(SimulatedAccountRow, self.strategy)
        if row is None:
            lock(db, self.strategy)
            row = db.get(SimulatedAccountRow, self.strategy, populate_existing=True)
        if row is None:
            row = SimulatedAccountRow(strategy=self.strategy, session=None, cash=self.initial.cash)
            db.add(row)
            db.add_all(
                SimulatedPositionRow(
                    strategy=self.strategy, symbol=symbol, quantity=quantity, cost=Decimal(0), price=Decimal(0)
                )
                for symbol, quantity in self.initial.positions.items()
            )
            db.flush()
        return row

    def _positions(self, db: Session) -> list[SimulatedPositionRow]:
        query = select(SimulatedPositionRow).where(SimulatedPositionRow.strategy == self.strategy)
        return sorted(db.scalars(query), key=lambda p: p.symbol)

    def _orders(
        self, db: Session, *, open_only: bool = False, since: datetime | None = None
    ) -> list[SimulatedOrderRow]:
        query = select(SimulatedOrderRow).where(SimulatedOrderRow.strategy == self.strategy)
        if open_only:
            query = query.where(SimulatedOrderRow.state == OrderState.ACCEPTED.value)
        if since is not None:
            query = query.where(SimulatedOrderRow.session >= since.date())
        return sorted(db.scalars(query), key=lambda o: (o.session, o.client_order_id))

    def _write(self, db: Session, outcome: SessionOutcome, market: MarketSession) -> None:
        """Write what a session did: orders, activities and positions."""
        for row in self._orders(db, open_only=True):
            filled = sum(
                (fill.quantity for fill in outcome.fills if fill.client_order_id == row.client_order_id), Decimal(0)
            )
            row.filled_quantity = filled
            row.state = (OrderState.FILLED if filled == row.quantity else OrderState.EXPIRED).value
            row.note = outcome.expired.get(row.client_order_id, "")
        db.add_all(self._movement_row(movement, outcome) for movement in outcome.movements)
        db.add_all(
            self._activity_row(f"{market.session:%Y%m%d}-{symbol}-split", market.session, "split", symbol, change)
            for symbol, change in outcome.share_changes.items()
            if symbol in market.split
        )
        db.add_all(self._fill_row(fill) for fill in outcome.fills)
        self._write_positions(db, outcome, market)

    def _write_positions(self, db: Session, outcome: SessionOutcome, market: MarketSession) -> None:
        rows = self._positions(db)
        changes = outcome.share_changes
        costs = {row.symbol: (row.quantity + changes.get(row.symbol, Decimal(0)), row.cost) for row in rows}
        for fill in outcome.fills:
            quantity, cost = costs.get(fill.symbol, (Decimal(0), Decimal(0)))
            if fill.side is Side.BUY:
                costs[fill.symbol] = quantity + fill.quantity, cost + fill.quantity * fill.price
            else:
                costs[fill.symbol] = quantity - fill.quantity, cost * (quantity - fill.quantity) / quantity
        for row in rows:
            db.delete(row)
        db.flush()
        db.add_all(
            SimulatedPositionRow(
                strategy=self.strategy, symbol=symbol, quantity=quantity, cost=costs[symbol][1],
                price=market.mark(symbol),
            )
            for symbol, quantity in outcome.account.positions.items()
        )  # fmt: skip

    def _movement_row(self, movement: CashMovement, outcome: SessionOutcome) -> SimulatedActivityRow:
        # whoever is paid out has no shares any more; what a split changes is an activity of its own
        gone = outcome.share_changes[movement.symbol] if movement.kind == "delisting" else Decimal(0)
        return self._activity_row(
            f"{movement.session:%Y%m%d}-{movement.symbol}-{movement.kind}", movement.session, movement.kind,
            movement.symbol, gone, movement.amount,
        )  # fmt: skip

    def _fill_row(self, fill: Fill) -> SimulatedActivityRow:
        row = self._activity_row(fill.activity_id, fill.session, "fill", fill.symbol, fill.quantity, -fill.commission)
        row.activity_id = fill.activity_id
        row.client_order_id, row.side, row.price = str(fill.client_order_id), fill.side.value, fill.price
        return row

    def _activity_row(
        self, name: str, session: date, kind: str, symbol: str, quantity: Decimal, amount: Decimal = Decimal(0)
    ) -> SimulatedActivityRow:
        return SimulatedActivityRow(
            activity_id=f"{self.strategy}-{name}", strategy=self.strategy, session=session, kind=kind,
            client_order_id="", symbol=symbol, side="", quantity=quantity, price=Decimal(0), amount=amount,
        )  # fmt: skip


def _moment(session: date) -> datetime:
    """A moment of the session; the broker knows no time of day."""
    return datetime.combine(session, time(), UTC)


def _as_order(row: SimulatedOrderRow) -> Order:
    return Order(
        client_order_id=row.client_order_id,
        strategy=row.strategy,
        session=row.session,
        symbol=row.symbol,
        side=Side(row.side),
        quantity=row.quantity,
        reference_price=row.limit_price or Decimal(0),
        reason="",
        limit_price=row.limit_price,
    )


def _as_broker_order(row: SimulatedOrderRow) -> BrokerOrder:
    return BrokerOrder(
        client_order_id=row.client_order_id,
        broker_order_id=row.client_order_id,
        symbol=row.symbol,
        side=Side(row.side),
        quantity=row.quantity,
        limit_price=row.limit_price,
        state=OrderState(row.state),
        filled_quantity=row.filled_quantity,
        submitted_at=_moment(row.session),
        note=row.note,
    )


def _as_activity(row: SimulatedActivityRow) -> Activity:
    return Activity(
        activity_id=row.activity_id,
        kind=row.kind,
        at=_moment(row.session),
        session=row.session,
        symbol=row.symbol,
        side=Side(row.side) if row.side else None,
        quantity=row.quantity,
        price=row.price,
        amount=row.amount,
        broker_order_id=row.client_order_id,
    )
