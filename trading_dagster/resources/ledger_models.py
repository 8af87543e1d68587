"""Tables of the ledger. Alembic compares the migrations with these."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Date, DateTime, Dialect, ForeignKey, Index, Numeric, String, Text, UniqueConstraint, text
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
        return dialect.type_descriptor(Numeric())  # of any length: closes have as many digits as floats do

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


# -- strategies and their control -------------------------------------------------------------------------------------


class StrategyRow(Base):
    """A strategy, its account's money, and how far the broker's records have been read."""

    __tablename__ = "strategies"

    name: Mapped[str] = mapped_column(primary_key=True)
    broker: Mapped[str]
    opened_at: Mapped[datetime]
    cash: Mapped[Decimal]
    broker_errors: Mapped[int]
    """Failures of the broker in a row."""
    measured_from: Mapped[date | None]
    """Losses are measured from this session on, with `measured_equity` in place of its own; null means all."""
    measured_equity: Mapped[Decimal | None]
    orders_read_to: Mapped[datetime | None]
    activities_read_to: Mapped[datetime | None]


class HaltStateRow(Base):
    """What a strategy may do now. A strategy without a row may do nothing."""

    __tablename__ = "halt_states"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    cause: Mapped[str]
    detail: Mapped[str] = mapped_column(Text)
    operator: Mapped[str] = mapped_column(String(255))
    since: Mapped[datetime]


class HaltEventRow(Base):
    """A change of the halt state; never updated."""

    __tablename__ = "halt_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    strategy: Mapped[str] = mapped_column(index=True)
    state: Mapped[str]
    cause: Mapped[str]
    detail: Mapped[str] = mapped_column(Text)
    operator: Mapped[str] = mapped_column(String(255))
    at: Mapped[datetime]


class LeaseRow(Base):
    """Who may trade a strategy, and the token that grows with each holder."""

    __tablename__ = "leases"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str] = mapped_column(String(255))
    token: Mapped[int]
    expires_at: Mapped[datetime]


class OperatorActionRow(Base):
    """Something that a person did; never updated."""

    __tablename__ = "operator_actions"

    id: Mapped[int] = mapped_column(primary_key=True)
    strategy: Mapped[str] = mapped_column(index=True)
    action: Mapped[str]
    operator: Mapped[str] = mapped_column(String(255))
    reason: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]


class RefusalRow(Base):
    """A session or an order that a gate held back; never updated."""

    __tablename__ = "refusals"

    id: Mapped[int] = mapped_column(primary_key=True)
    strategy: Mapped[str]
    session: Mapped[date] = mapped_column(index=True)
    gate: Mapped[str]
    symbol: Mapped[str]
    """Empty where the whole session was held back."""
    detail: Mapped[str] = mapped_column(Text)
    run_id: Mapped[str]
    at: Mapped[datetime]


# -- orders -----------------------------------------------------------------------------------------------------------


class PlanRow(Base):
    """A session that a strategy has decided; its orders may be none."""

    __tablename__ = "execution_plans"
    __table_args__ = (UniqueConstraint("strategy", "session", "revision"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    strategy: Mapped[str]
    session: Mapped[date]
    revision: Mapped[int]
    purpose: Mapped[str] = mapped_column(server_default="rebalance")
    run_id: Mapped[str]
    code_version: Mapped[str] = mapped_column(server_default=text("''"))
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
    limit_price: Mapped[Decimal | None]
    reference_price: Mapped[Decimal]
    reason: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(index=True)
    filled_quantity: Mapped[Decimal]
    broker_order_id: Mapped[str] = mapped_column(index=True, server_default=text("''"))
    note: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[datetime]


class OrderEventRow(Base):
    """A state that an order came to; never updated."""

    __tablename__ = "order_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    client_order_id: Mapped[str] = mapped_column(ForeignKey("orders.client_order_id"), index=True)
    state: Mapped[str]
    filled_quantity: Mapped[Decimal]
    note: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]


# -- the account ------------------------------------------------------------------------------------------------------


class ActivityRow(Base):
    """Something that changed the account at the broker, counted once by the broker's own name for it."""

    __tablename__ = "broker_activities"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    activity_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    kind: Mapped[str]
    recorded_at: Mapped[datetime]


class FillRow(Base):
    """A trade at the broker: of an order of ours, or by hand."""

    __tablename__ = "fills"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    activity_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    client_order_id: Mapped[str | None] = mapped_column(ForeignKey("orders.client_order_id"), index=True)
    session: Mapped[date] = mapped_column(index=True)
    symbol: Mapped[str]
    side: Mapped[str]
    quantity: Mapped[Decimal]
    price: Mapped[Decimal]
    commission: Mapped[Decimal]
    realised: Mapped[Decimal]
    """Gain of the shares that it closed, before commission."""


class LotRow(Base):
    """Shares held, by the session in which they came; `owner` is the strategy, or a person."""

    __tablename__ = "lots"
    __table_args__ = (UniqueConstraint("strategy", "symbol", "owner", "session"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    strategy: Mapped[str]
    symbol: Mapped[str]
    owner: Mapped[str]
    session: Mapped[date]
    quantity: Mapped[Decimal]
    cost: Mapped[Decimal]


class AccountRow(Base):
    """Cash and equity at a session's close."""

    __tablename__ = "account_snapshots"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    session: Mapped[date] = mapped_column(primary_key=True)
    cash: Mapped[Decimal]
    equity: Mapped[Decimal]
    external_flow: Mapped[Decimal] = mapped_column(server_default="0")
    """Money from outside since the snapshot before."""


class PositionRow(Base):
    """Shares that the strategy held at a session's close."""

    __tablename__ = "position_snapshots"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    session: Mapped[date] = mapped_column(primary_key=True)
    symbol: Mapped[str] = mapped_column(primary_key=True)
    quantity: Mapped[Decimal]
    price: Mapped[Decimal]


class CashMovementRow(Base):
    """Value that came without a fill: dividends, cash in lieu of fractions, fees, deposits."""

    __tablename__ = "cash_movements"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    activity_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    session: Mapped[date]
    symbol: Mapped[str]
    kind: Mapped[str]
    amount: Mapped[Decimal]
    realised: Mapped[Decimal]
    """What of it is gain: none of a transfer; of the last payment for a position, what exceeds its cost."""
    snapshot: Mapped[date | None]
    """Of a transfer: the session whose snapshot counts it as its external flow."""


# -- the simulated broker's own book ----------------------------------------------------------------------------------


class SimulatedAccountRow(Base):
    """Where the simulated broker's time stands, and its money."""

    __tablename__ = "simulated_accounts"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    session: Mapped[date | None]
    cash: Mapped[Decimal]


class SimulatedPositionRow(Base):
    """Shares at the simulated broker."""

    __tablename__ = "simulated_positions"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    symbol: Mapped[str] = mapped_column(primary_key=True)
    quantity: Mapped[Decimal]
    cost: Mapped[Decimal]
    price: Mapped[Decimal]


class SimulatedOrderRow(Base):
    """An order at the simulated broker."""

    __tablename__ = "simulated_orders"
    __table_args__ = (Index("ix_simulated_orders_open", "strategy", "state"),)

    client_order_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    strategy: Mapped[str]
    session: Mapped[date]
    """Where the broker's time stood when it came."""
    symbol: Mapped[str]
    side: Mapped[str]
    quantity: Mapped[Decimal]
    limit_price: Mapped[Decimal | None]
    state: Mapped[str]
    filled_quantity: Mapped[Decimal]
    note: Mapped[str] = mapped_column(Text)


class SimulatedActivityRow(Base):
    """What happened at the simulated broker."""

    __tablename__ = "simulated_activities"
    __table_args__ = (Index("ix_simulated_activities_session", "strategy", "session"),)

    activity_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    strategy: Mapped[str]
    session: Mapped[date]
    kind: Mapped[str]
    client_order_id: Mapped[str] = mapped_column(String(128))
    """Empty where no order was filled."""
    symbol: Mapped[str]
    side: Mapped[str]
    quantity: Mapped[Decimal]
    price: Mapped[Decimal]
    amount: Mapped[Decimal]


# -- data policy ------------------------------------------------------------------------------------------------------


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
