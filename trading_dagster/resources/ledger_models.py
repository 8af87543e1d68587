"""Tables of the ledger. Alembic compares the migrations with these."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Date, DateTime, Dialect, ForeignKey, Numeric, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal that comes back as it went in; SQLite has no such type, so there it is text."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column type of the database."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(48))
        return dialect.type_descriptor(Numeric(28, 10))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """Write plain digits, so that the same amount is always the same text."""
        if value is None or dialect.name != "sqlite":
            return value
        return format(value.normalize(), "f")

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Read back without trailing zeros, which databases add differently."""
        return None if value is None else Decimal(format(Decimal(value).normalize(), "f"))


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone; SQLite forgets it, so times are stored and returned in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Write every time in UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the time its zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all ledger tables."""

    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it as a plain dict
        Decimal: ExactDecimal,
        datetime: UtcDateTime,
        date: Date,
        str: String(64),
    }


class PlanRow(Base):
    """A session that a strategy has decided; its orders may be none."""

    __tablename__ = "execution_plans"
    __table_args__ = (UniqueConstraint("strategy", "session", "revision"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    strategy: Mapped[str]
    session: Mapped[date]
    revision: Mapped[int]
    run_id: Mapped[str]
    decided_at: Mapped[datetime]


class OrderRow(Base):
    """An order's intent, and what became of it."""

    __tablename__ = "orders"

    client_order_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    plan_id: Mapped[int] = mapped_column(ForeignKey("execution_plans.id"), index=True)
    strategy: Mapped[str]
    session: Mapped[date] = mapped_column(index=True)
    symbol: Mapped[str]
    side: Mapped[str]
    quantity: Mapped[Decimal]
    reference_price: Mapped[Decimal]
    reason: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(index=True)
    filled_quantity: Mapped[Decimal]
    note: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[datetime]


class FillRow(Base):
    """A trade at the broker."""

    __tablename__ = "fills"

    activity_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    client_order_id: Mapped[str] = mapped_column(ForeignKey("orders.client_order_id"), index=True)
    session: Mapped[date] = mapped_column(index=True)
    symbol: Mapped[str]
    side: Mapped[str]
    quantity: Mapped[Decimal]
    price: Mapped[Decimal]
    commission: Mapped[Decimal]


class AccountRow(Base):
    """Cash and equity at a session's close."""

    __tablename__ = "account_snapshots"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    session: Mapped[date] = mapped_column(primary_key=True)
    cash: Mapped[Decimal]
    equity: Mapped[Decimal]


class PositionRow(Base):
    """Shares held at a session's close."""

    __tablename__ = "position_snapshots"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    session: Mapped[date] = mapped_column(primary_key=True)
    symbol: Mapped[str] = mapped_column(primary_key=True)
    quantity: Mapped[Decimal]
    price: Mapped[Decimal]


class CashMovementRow(Base):
    """Cash that came without a fill: dividends, cash in lieu of fractions."""

    __tablename__ = "cash_movements"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    session: Mapped[date] = mapped_column(primary_key=True)
    symbol: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    amount: Mapped[Decimal]


class PolicyViolationRow(Base):
    """A use of data that the policy forbade."""

    __tablename__ = "policy_violations"

    id: Mapped[int] = mapped_column(primary_key=True)
    component: Mapped[str]
    symbol: Mapped[str]
    session: Mapped[date]
    rule: Mapped[str]
    bars_found: Mapped[int]
    bars_needed: Mapped[int]
    mode: Mapped[str]
    message: Mapped[str] = mapped_column(Text)
    run_id: Mapped[str]
    recorded_at: Mapped[datetime]


class PolicyVerdictRow(Base):
    """Latest verdict of the data policy on one asset and session.

    In a run over a range, Dagster's own check evaluations carry no partition; these rows do.
    """

    __tablename__ = "policy_verdicts"

    asset: Mapped[str] = mapped_column(primary_key=True)
    session: Mapped[date] = mapped_column(primary_key=True)
    passed: Mapped[bool]
    excluded: Mapped[str] = mapped_column(Text)
    run_id: Mapped[str]
    recorded_at: Mapped[datetime]
