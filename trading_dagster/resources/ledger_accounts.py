"""What the account did, in the ledger: activities counted once, lots, cash, snapshots by session, gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import pandas as pd
from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from trading_dagster.execution import lots as lot_arithmetic
from trading_dagster.execution.accounting import Account
from trading_dagster.execution.halts import EquityPoint
from trading_dagster.execution.lots import Lot
from trading_dagster.execution.orders import Fill, Side
from trading_dagster.resources.broker import Activity
from trading_dagster.resources.ledger import LedgerError, Owner, ProfitAndLoss, Purpose, Recorded
from trading_dagster.resources.ledger_database import LedgerDatabase, as_day, lock
from trading_dagster.resources.ledger_models import (
    AccountRow,
    ActivityRow,
    CashMovementRow,
    FillRow,
    LotRow,
    PlanRow,
    PositionRow,
    StrategyRow,
)
from trading_dagster.resources.ledger_orders import fill_order

TRANSFER = "transfer"
"""Kind of a movement of money from or to outside."""


class AccountRecords(LedgerDatabase):
    """See `ledger.Ledger` for what each call means."""

    # -- snapshots by session -----------------------------------------------------------------------------------------

    def recorded_account(self, strategy: str, session: pd.Timestamp | date) -> Account | None:
        """Account at a session's close, before that session's orders; None where unknown."""
        day = as_day(session)
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
            query = query.where(AccountRow.session <= as_day(session))
        with self.transaction() as db:
            found = db.scalar(query)
        return None if found is None else pd.Timestamp(found)

    def equity_curve(self, strategy: str) -> pd.DataFrame:
        """Cash and equity by session, as floats for figures and pictures."""
        query = select(AccountRow).where(AccountRow.strategy == strategy).order_by(AccountRow.session)
        with self.transaction() as db:
            rows = [(pd.Timestamp(r.session), float(r.cash), float(r.equity)) for r in db.scalars(query)]
        return pd.DataFrame(rows, columns=["session", "cash", "equity"]).set_index("session")

    def equity_points(self, strategy: str) -> list[EquityPoint]:
        """The equity curve in decimals, from where losses are measured."""
        with self.transaction() as db:
            record = db.get(StrategyRow, strategy)
            query = select(AccountRow).where(AccountRow.strategy == strategy).order_by(AccountRow.session)
            points = [EquityPoint(r.session, r.equity, r.external_flow) for r in db.scalars(query)]
            if record is None or record.measured_from is None or record.measured_equity is None:
                return points
            later = [point for point in points if point.session > record.measured_from]
            return [EquityPoint(record.measured_from, record.measured_equity), *later]

    def record_snapshot(self, strategy: str, session: date, equity: Decimal, prices: Mapping[str, Decimal]) -> None:
        """Keep the account at a session's close, unless orders were decided on an earlier snapshot of it."""
        with self.transaction() as db:
            lock(db, strategy)
            decided = select(PlanRow.id).where(
                PlanRow.strategy == strategy, PlanRow.session == session, PlanRow.purpose == Purpose.REBALANCE.value
            )
            row = db.get(AccountRow, (strategy, session))
            if row is not None and db.scalar(decided) is not None:
                return
            record = db.get_one(StrategyRow, strategy)
            # money that came since the snapshot before is not gained
            transfers = db.scalars(
                select(CashMovementRow).where(
                    CashMovementRow.strategy == strategy,
                    CashMovementRow.kind == TRANSFER,
                    or_(CashMovementRow.snapshot.is_(None), CashMovementRow.snapshot == session),
                )
            ).all()
            for transfer in transfers:
                transfer.snapshot = session
            flow = sum((transfer.amount for transfer in transfers), Decimal(0))
            if row is None:
                row = AccountRow(strategy=strategy, session=session)
                db.add(row)
            row.cash, row.equity, row.external_flow = record.cash, equity, flow
            db.execute(delete(PositionRow).where(PositionRow.strategy == strategy, PositionRow.session == session))
            for symbol, quantity in _quantities(db, strategy, Owner.STRATEGY).items():
                db.add(
                    PositionRow(
                        strategy=strategy, session=session, symbol=symbol, quantity=quantity, price=prices[symbol]
                    )
                )

    def unsettled_transfers(self, strategy: str) -> Decimal:
        """Money from outside that no snapshot counts yet."""
        query = select(CashMovementRow.amount).where(
            CashMovementRow.strategy == strategy,
            CashMovementRow.kind == TRANSFER,
            CashMovementRow.snapshot.is_(None),
        )
        with self.transaction() as db:
            return sum(db.scalars(query), Decimal(0))

    # -- the account now ----------------------------------------------------------------------------------------------

    def account(self, strategy: str) -> Account:
        """Cash, and what the strategy holds now."""
        with self.transaction() as db:
            record = db.get_one(StrategyRow, strategy)
            return Account(record.cash, _quantities(db, strategy, Owner.STRATEGY))

    def manual_positions(self, strategy: str) -> dict[str, Decimal]:
        """Shares that were traded by hand and are not the strategy's."""
        with self.transaction() as db:
            return _quantities(db, strategy, Owner.MANUAL)

    def held_symbols(self, strategy: str) -> list[str]:
        """Symbols that the strategy holds."""
        with self.transaction() as db:
            return sorted(_quantities(db, strategy, Owner.STRATEGY))

    def profit_and_loss(self, strategy: str) -> ProfitAndLoss:
        """Gains taken, and the cost of what is still held."""
        with self.transaction() as db:
            fills = db.execute(select(FillRow.realised, FillRow.commission).where(FillRow.strategy == strategy)).all()
            movements = db.execute(select(CashMovementRow.realised).where(CashMovementRow.strategy == strategy)).all()
            lots = db.scalars(select(LotRow).where(LotRow.strategy == strategy)).all()
            basis: dict[str, Decimal] = {}
            for lot in lots:
                basis[lot.symbol] = basis.get(lot.symbol, Decimal(0)) + lot.cost
        return ProfitAndLoss(
            realised=sum((realised for realised, _ in fills), Decimal(0)),
            commission=sum((commission for _, commission in fills), Decimal(0)),
            income=sum((gain for (gain,) in movements), Decimal(0)),
            cost_basis=dict(sorted(basis.items())),
        )

    # -- what the broker says happened --------------------------------------------------------------------------------

    def record_activities(self, strategy: str, found: Sequence[Recorded]) -> int:
        """Book activities that are not booked yet, in one transaction, and return how many were new."""
        if not found:
            return 0
        now = datetime.now(UTC)
        with self.transaction() as db:
            lock(db, strategy)
            record = db.get_one(StrategyRow, strategy)
            known = set(
                db.scalars(
                    select(ActivityRow.activity_id).where(
                        ActivityRow.strategy == strategy,
                        ActivityRow.activity_id.in_([each.activity.activity_id for each in found]),
                    )
                )
            )
            new = 0
            for each in found:
                activity = each.activity
                if activity.activity_id in known:
                    continue
                known.add(activity.activity_id)
                new += 1
                db.add(
                    ActivityRow(
                        strategy=strategy, activity_id=activity.activity_id, kind=activity.kind, recorded_at=now
                    )
                )
                if activity.kind == "fill":
                    _book_fill(db, record, each)
                else:
                    _book_movement(db, record, activity)
                db.flush()
            moments = [each.activity.at for each in found]
            record.activities_read_to = max(*moments, record.activities_read_to or moments[0])
            return new

    def unknown_activities(self, strategy: str, activity_ids: Sequence[str]) -> set[str]:
        """Those of the activities that are not booked."""
        query = select(ActivityRow.activity_id).where(
            ActivityRow.strategy == strategy, ActivityRow.activity_id.in_(activity_ids)
        )
        with self.transaction() as db:
            return set(activity_ids) - set(db.scalars(query))

    def adopt_manual(self, strategy: str) -> list[str]:
        """Make the strategy's what was traded by hand, and return the symbols."""
        with self.transaction() as db:
            lock(db, strategy)
            symbols = sorted(_quantities(db, strategy, Owner.MANUAL))
            for symbol in symbols:
                _merge_manual(db, strategy, symbol)
            return symbols

    def adjust(
        self, strategy: str, session: date, cash: Decimal, changes: Mapping[str, tuple[Decimal, Decimal]], owner: Owner
    ) -> None:
        """Book differences that nothing explains: cash, and by symbol shares with their price."""
        now = datetime.now(UTC)
        with self.transaction() as db:
            lock(db, strategy)
            record = db.get_one(StrategyRow, strategy)
            identity = f"adjustment-{now:%Y%m%d%H%M%S%f}"
            spent = Decimal(0)
            for symbol, (quantity, price) in changes.items():
                left, realised = lot_arithmetic.trade(_lots(db, strategy, symbol, owner), session, quantity, price)
                _write_lots(db, strategy, symbol, owner, left)
                spent += quantity * price
                db.add(ActivityRow(strategy=strategy, activity_id=f"{identity}-{symbol}", kind="adjustment",
                                   recorded_at=now))  # fmt: skip
                side = Side.BUY if quantity > 0 else Side.SELL
                db.add(
                    FillRow(
                        strategy=strategy, activity_id=f"{identity}-{symbol}", client_order_id=None, session=session,
                        symbol=symbol, side=side.value, quantity=abs(quantity), price=price, commission=Decimal(0),
                        realised=realised,
                    )
                )  # fmt: skip
            # nothing was gained or lost, and nothing came: the equity curve is the broker's, and knew it all along
            db.add(ActivityRow(strategy=strategy, activity_id=identity, kind="adjustment", recorded_at=now))
            db.add(
                CashMovementRow(
                    strategy=strategy,
                    activity_id=identity,
                    session=session,
                    symbol="",
                    kind="adjustment",
                    amount=spent + cash,
                    realised=Decimal(0),
                )
            )
            record.cash += cash

    def fills(self, strategy: str, client_order_id: str) -> list[Fill]:
        """Fills of one order, oldest first."""
        query = select(FillRow).where(FillRow.strategy == strategy, FillRow.client_order_id == client_order_id)
        with self.transaction() as db:
            found = [
                Fill(r.activity_id, r.client_order_id, r.session, r.symbol, Side(r.side), r.quantity, r.price,
                     r.commission)
                for r in db.scalars(query)
            ]  # fmt: skip
        return sorted(found, key=lambda fill: (fill.session, fill.activity_id))

    def filled_quantities(self, client_order_ids: Sequence[str]) -> dict[str, Decimal]:
        """Sum of the recorded fills of each order that has any."""
        query = select(FillRow.client_order_id, FillRow.quantity).where(FillRow.client_order_id.in_(client_order_ids))
        sums: dict[str, Decimal] = {}
        with self.transaction() as db:
            for order_id, quantity in db.execute(query):
                sums[str(order_id)] = sums.get(str(order_id), Decimal(0)) + quantity
        return sums


def _book_fill(db: Session, record: StrategyRow, recorded: Recorded) -> None:
    activity, owner = recorded.activity, recorded.owner
    if activity.side is None or activity.quantity <= 0:
        raise LedgerError(f"activity {activity.activity_id} is a fill of {activity.quantity} shares without a side")
    if recorded.client_order_id is not None:
        fill_order(db, recorded.client_order_id, activity.activity_id, activity.quantity)
    signed = activity.quantity if activity.side is Side.BUY else -activity.quantity
    realised = Decimal(0)
    for whose, part in _parts(db, record.name, activity.symbol, signed, owner):
        left, gain = lot_arithmetic.trade(
            _lots(db, record.name, activity.symbol, whose), activity.session, part, activity.price
        )
        _write_lots(db, record.name, activity.symbol, whose, left)
        realised += gain
    held = _held(db, record.name, activity.symbol)
    if owner is Owner.STRATEGY and held[Owner.STRATEGY] * held[Owner.MANUAL] < 0:
        # an order of ours closed what is left of a position that a person had sold from
        _merge_manual(db, record.name, activity.symbol)
    record.cash += activity.amount - signed * activity.price
    db.add(
        FillRow(
            strategy=record.name,
            activity_id=activity.activity_id,
            client_order_id=recorded.client_order_id,
            session=activity.session,
            symbol=activity.symbol,
            side=activity.side.value,
            quantity=activity.quantity,
            price=activity.price,
            commission=-activity.amount,
            realised=realised,
        )
    )


def _parts(db: Session, strategy: str, symbol: str, signed: Decimal, owner: Owner) -> list[tuple[Owner, Decimal]]:
    """Split a trade by whose shares it changes.

    An order of ours that closes more than the strategy has, as a flattening does, closes what was bought by hand. A
    trade by hand never changes the strategy's shares: the difference keeps its symbol frozen.
    """
    held = _held(db, strategy, symbol)
    if owner is Owner.MANUAL or held[Owner.MANUAL] * signed >= 0:
        return [(owner, signed)]
    own = min(abs(signed), abs(held[Owner.STRATEGY])) if held[Owner.STRATEGY] * signed < 0 else Decimal(0)
    theirs = min(abs(signed) - own, abs(held[Owner.MANUAL]))
    sign = 1 if signed > 0 else -1
    parts = [(Owner.STRATEGY, sign * (abs(signed) - theirs)), (Owner.MANUAL, sign * theirs)]
    return [(each, part) for each, part in parts if part]


def _merge_manual(db: Session, strategy: str, symbol: str) -> None:
    """Make the strategy's what was traded by hand; a sale by hand of its shares is then its gain."""
    left = _lots(db, strategy, symbol, Owner.STRATEGY)
    for lot in _lots(db, strategy, symbol, Owner.MANUAL):
        left, _ = lot_arithmetic.trade(left, lot.session, lot.quantity, lot.cost / lot.quantity)
    # the price of a lot is a rounded quotient: whatever it makes of the costs, none may be lost
    before = sum((lot.cost for owner in Owner for lot in _lots(db, strategy, symbol, owner)), Decimal(0))
    realised = sum((lot.cost for lot in left), Decimal(0)) - before
    _write_lots(db, strategy, symbol, Owner.STRATEGY, left)
    _write_lots(db, strategy, symbol, Owner.MANUAL, [])
    if realised:
        now = datetime.now(UTC)
        identity = f"adoption-{symbol}-{now:%Y%m%d%H%M%S%f}"
        db.add(ActivityRow(strategy=strategy, activity_id=identity, kind="adoption", recorded_at=now))
        db.add(
            CashMovementRow(
                strategy=strategy, activity_id=identity, session=now.date(), symbol=symbol, kind="adoption",
                amount=Decimal(0), realised=realised,
            )
        )  # fmt: skip
        db.flush()


def _held(db: Session, strategy: str, symbol: str) -> dict[Owner, Decimal]:
    return {owner: sum((lot.quantity for lot in _lots(db, strategy, symbol, owner)), Decimal(0)) for owner in Owner}


def _book_movement(db: Session, record: StrategyRow, activity: Activity) -> None:
    """Book cash, and the change of shares that a corporate action made."""
    realised = Decimal(0) if activity.kind == TRANSFER else activity.amount
    if activity.quantity:
        lots = {owner: _lots(db, record.name, activity.symbol, owner) for owner in Owner}
        held = _held(db, record.name, activity.symbol)
        if not sum(held.values()):
            raise LedgerError(
                f"activity {activity.activity_id} ({activity.kind}) changes the position in {activity.symbol} by "
                f"{activity.quantity} shares, and the ledger knows no such position; compare it with the broker: "
                "trading reconcile"
            )
        left, last = activity.quantity, [owner for owner, owned in held.items() if owned][-1]
        for owner, owned in held.items():
            if activity.quantity == -sum(held.values()):
                # nothing but the cash that came is left of what was paid
                realised -= sum((lot.cost for lot in lots[owner]), Decimal(0))
                _write_lots(db, record.name, activity.symbol, owner, [])
            elif owned:
                # by their shares of the position; the last owner takes the rounding
                exact = activity.quantity * owned / sum(held.values())
                change = left if owner is last else exact.quantize(lot_arithmetic.SHARE_STEP)
                left -= change
                _write_lots(db, record.name, activity.symbol, owner, lot_arithmetic.scale(lots[owner], change))
    record.cash += activity.amount
    db.add(
        CashMovementRow(
            strategy=record.name,
            activity_id=activity.activity_id,
            session=activity.session,
            symbol=activity.symbol,
            kind=activity.kind,
            amount=activity.amount,
            realised=realised,
        )
    )


def _lots(db: Session, strategy: str, symbol: str, owner: Owner) -> list[Lot]:
    query = (
        select(LotRow)
        .where(LotRow.strategy == strategy, LotRow.symbol == symbol, LotRow.owner == owner.value)
        .order_by(LotRow.session)
    )
    return [Lot(row.session, row.quantity, row.cost) for row in db.scalars(query)]


def _write_lots(db: Session, strategy: str, symbol: str, owner: Owner, lots: Sequence[Lot]) -> None:
    db.execute(delete(LotRow).where(LotRow.strategy == strategy, LotRow.symbol == symbol, LotRow.owner == owner.value))
    db.add_all(
        LotRow(
            strategy=strategy, symbol=symbol, owner=owner.value, session=lot.session, quantity=lot.quantity,
            cost=lot.cost,
        )
        for lot in lots
    )  # fmt: skip
    db.flush()


def _quantities(db: Session, strategy: str, owner: Owner) -> dict[str, Decimal]:
    query = select(LotRow.symbol, LotRow.quantity).where(LotRow.strategy == strategy, LotRow.owner == owner.value)
    sums: dict[str, Decimal] = {}
    for symbol, quantity in db.execute(query):
        sums[symbol] = sums.get(symbol, Decimal(0)) + quantity
    return {symbol: quantity for symbol, quantity in sorted(sums.items()) if quantity}
