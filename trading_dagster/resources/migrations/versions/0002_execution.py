"""Control of execution, the account by lots, and a book of its own for the simulated broker.

What an installation of the first schema holds is carried over. The cost of its positions is not known from there:
their basis begins at the price of their last snapshot.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from trading_dagster.resources.ledger_models import ExactDecimal, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OPEN = ("submitted", "unconfirmed", "accepted")
"""States in which the simulated broker of the first schema took an order for one that it has."""


def _text(name: str, length: int = 64, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def _decimal(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, ExactDecimal(), nullable=nullable)


def _date(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Date(), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, UtcDateTime(timezone=True), nullable=nullable)


def _long(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=False)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=False)


def upgrade() -> None:
    _create_control()
    _create_account()
    _create_simulated()
    # defaults stay: to drop one, SQLite would have to make the table anew, which its foreign keys forbid
    op.add_column("account_snapshots", sa.Column("external_flow", ExactDecimal(), nullable=False, server_default="0"))
    op.add_column("execution_plans", _default("purpose", "rebalance"))
    op.add_column("execution_plans", _default("code_version", ""))
    op.add_column("orders", _decimal("limit_price", nullable=True))
    op.add_column("orders", _default("broker_order_id", ""))
    op.create_index("ix_orders_broker_order_id", "orders", ["broker_order_id"])
    _carry_over()


def _default(name: str, value: str) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length=64), nullable=False, server_default=sa.text(f"'{value}'"))


def _create_control() -> None:
    op.create_table(
        "strategies",
        _text("name"),
        _text("broker"),
        _time("opened_at"),
        _decimal("cash"),
        _number("broker_errors"),
        _date("measured_from", nullable=True),
        _decimal("measured_equity", nullable=True),
        _time("orders_read_to", nullable=True),
        _time("activities_read_to", nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    state = (_text("state"), _text("cause"), _long("detail"), _text("operator", 255))
    op.create_table("halt_states", _text("strategy"), *state, _time("since"), sa.PrimaryKeyConstraint("strategy"))
    event = (_text("state"), _text("cause"), _long("detail"), _text("operator", 255))
    op.create_table("halt_events", _number("id"), _text("strategy"), *event, _time("at"), sa.PrimaryKeyConstraint("id"))
    op.create_index("ix_halt_events_strategy", "halt_events", ["strategy"])
    op.create_table(
        "leases",
        _text("strategy"),
        _text("holder", 255),
        _number("token"),
        _time("expires_at"),
        sa.PrimaryKeyConstraint("strategy"),
    )
    op.create_table(
        "operator_actions",
        _number("id"),
        _text("strategy"),
        _text("action"),
        _text("operator", 255),
        _long("reason"),
        _long("outcome"),
        _time("at"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_operator_actions_strategy", "operator_actions", ["strategy"])
    op.create_table(
        "refusals",
        _number("id"),
        _text("strategy"),
        _date("session"),
        _text("gate"),
        _text("symbol"),
        _long("detail"),
        _text("run_id"),
        _time("at"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_refusals_session", "refusals", ["session"])
    op.create_table(
        "order_events",
        _number("id"),
        _text("client_order_id", 128),
        _text("state"),
        _decimal("filled_quantity"),
        _long("note"),
        _time("at"),
        sa.ForeignKeyConstraint(["client_order_id"], ["orders.client_order_id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_order_events_client_order_id", "order_events", ["client_order_id"])


def _create_account() -> None:
    op.create_table(
        "broker_activities",
        _text("strategy"),
        _text("activity_id", 128),
        _text("kind"),
        _time("recorded_at"),
        sa.PrimaryKeyConstraint("strategy", "activity_id"),
    )
    op.create_table(
        "lots",
        _number("id"),
        _text("strategy"),
        _text("symbol"),
        _text("owner"),
        _date("session"),
        _decimal("quantity"),
        _decimal("cost"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("strategy", "symbol", "owner", "session"),
    )
    # the keys of these two change, which no database does in place
    op.rename_table("fills", "fills_1")
    op.rename_table("cash_movements", "cash_movements_1")
    for name in ("client_order_id", "session"):
        op.drop_index(f"ix_fills_{name}", "fills_1")
    op.create_table(
        "fills",
        _text("strategy"),
        _text("activity_id", 128),
        _text("client_order_id", 128, nullable=True),
        _date("session"),
        _text("symbol"),
        _text("side"),
        _decimal("quantity"),
        _decimal("price"),
        _decimal("commission"),
        _decimal("realised"),
        sa.ForeignKeyConstraint(["client_order_id"], ["orders.client_order_id"]),
        # PostgreSQL keeps the name of the old key with the renamed table
        sa.PrimaryKeyConstraint("strategy", "activity_id", name="fills_key"),
    )
    for name in ("client_order_id", "session"):
        op.create_index(f"ix_fills_{name}", "fills", [name])
    op.create_table(
        "cash_movements",
        _text("strategy"),
        _text("activity_id", 128),
        _date("session"),
        _text("symbol"),
        _text("kind"),
        _decimal("amount"),
        _decimal("realised"),
        _date("snapshot", nullable=True),
        sa.PrimaryKeyConstraint("strategy", "activity_id", name="cash_movements_key"),
    )


def _create_simulated() -> None:
    op.create_table(
        "simulated_accounts",
        _text("strategy"),
        _date("session", nullable=True),
        _decimal("cash"),
        sa.PrimaryKeyConstraint("strategy"),
    )
    op.create_table(
        "simulated_positions",
        _text("strategy"),
        _text("symbol"),
        _decimal("quantity"),
        _decimal("cost"),
        _decimal("price"),
        sa.PrimaryKeyConstraint("strategy", "symbol"),
    )
    op.create_table(
        "simulated_orders",
        _text("client_order_id", 128),
        _text("strategy"),
        _date("session"),
        _text("symbol"),
        _text("side"),
        _decimal("quantity"),
        _decimal("limit_price", nullable=True),
        _text("state"),
        _decimal("filled_quantity"),
        _long("note"),
        sa.PrimaryKeyConstraint("client_order_id"),
    )
    op.create_index("ix_simulated_orders_open", "simulated_orders", ["strategy", "state"])
    op.create_table(
        "simulated_activities",
        _text("activity_id", 128),
        _text("strategy"),
        _date("session"),
        _text("kind"),
        _text("client_order_id", 128),
        _text("symbol"),
        _text("side"),
        _decimal("quantity"),
        _decimal("price"),
        _decimal("amount"),
        sa.PrimaryKeyConstraint("activity_id"),
    )
    op.create_index("ix_simulated_activities_session", "simulated_activities", ["strategy", "session"])


def _carry_over() -> None:
    newest = "(SELECT strategy, max(session) AS session FROM account_snapshots GROUP BY strategy)"
    accounts = f"account_snapshots a JOIN {newest} n ON n.strategy = a.strategy AND n.session = a.session"
    positions = f"position_snapshots p JOIN {newest} n ON n.strategy = p.strategy AND n.session = p.session"
    # decimals are text in SQLite and must stay plain digits, so a product is made in Python
    bind = op.get_bind()
    held = bind.execute(
        sa.text(f"SELECT p.strategy, p.symbol, p.session, p.quantity, p.price FROM {positions}").columns(
            session=sa.Date(), quantity=ExactDecimal(), price=ExactDecimal()
        )
    ).all()
    lots = sa.table("lots", *map(sa.column, ("strategy", "symbol", "owner")), _date("session"), _decimal("quantity"),
                    _decimal("cost"))  # fmt: skip
    book = sa.table("simulated_positions", *map(sa.column, ("strategy", "symbol")), _decimal("quantity"),
                    _decimal("cost"), _decimal("price"))  # fmt: skip
    for strategy, symbol, session, quantity, price in held:
        cost = round(quantity * price, 8)
        common = {"strategy": strategy, "symbol": symbol, "quantity": quantity, "cost": cost}
        bind.execute(lots.insert().values(**common, owner="strategy", session=session))
        bind.execute(book.insert().values(**common, price=price))
    statements = (
        f"INSERT INTO strategies (name, broker, opened_at, cash, broker_errors) "
        f"SELECT a.strategy, 'simulated', :now, a.cash, 0 FROM {accounts}",
        "INSERT INTO simulated_accounts (strategy, session, cash) "
        f"SELECT a.strategy, a.session, a.cash FROM {accounts}",
        "INSERT INTO halt_states (strategy, state, cause, detail, operator, since) "
        "SELECT name, 'ACTIVE', '', 'carried over', 'automatic', :now FROM strategies",
        "INSERT INTO fills (strategy, activity_id, client_order_id, session, symbol, side, quantity, price, "
        "commission, realised) SELECT o.strategy, f.activity_id, f.client_order_id, f.session, f.symbol, f.side, "
        "f.quantity, f.price, f.commission, '0' FROM fills_1 f JOIN orders o ON o.client_order_id = f.client_order_id",
        "INSERT INTO cash_movements (strategy, activity_id, session, symbol, kind, amount, realised) "
        "SELECT strategy, strategy || '-' || session || '-' || symbol || '-' || kind, session, symbol, kind, amount, "
        "'0' FROM cash_movements_1",
        "INSERT INTO broker_activities (strategy, activity_id, kind, recorded_at) "
        "SELECT strategy, activity_id, 'fill', :now FROM fills",
        "INSERT INTO broker_activities (strategy, activity_id, kind, recorded_at) "
        "SELECT strategy, activity_id, kind, :now FROM cash_movements",
        "INSERT INTO simulated_orders (client_order_id, strategy, session, symbol, side, quantity, state, "
        "filled_quantity, note) SELECT client_order_id, strategy, session, symbol, side, quantity, 'accepted', "
        f"filled_quantity, '' FROM orders WHERE state IN {OPEN}",
        "UPDATE orders SET broker_order_id = client_order_id WHERE state <> 'planned'",
    )
    now = sa.bindparam("now", datetime.now(UTC), UtcDateTime())
    zero = "0" if bind.dialect.name == "postgresql" else "'0'"
    for statement in statements:
        clause = sa.text(statement.replace("'0'", zero))
        bind.execute(clause.bindparams(now) if ":now" in statement else clause)
    op.drop_table("fills_1")
    op.drop_table("cash_movements_1")


def downgrade() -> None:
    op.rename_table("fills", "fills_2")
    op.rename_table("cash_movements", "cash_movements_2")
    for name in ("client_order_id", "session"):
        op.drop_index(f"ix_fills_{name}", "fills_2")
    op.create_table(
        "fills",
        _text("activity_id", 128),
        _text("client_order_id", 128),
        _date("session"),
        _text("symbol"),
        _text("side"),
        _decimal("quantity"),
        _decimal("price"),
        _decimal("commission"),
        sa.ForeignKeyConstraint(["client_order_id"], ["orders.client_order_id"]),
        sa.PrimaryKeyConstraint("activity_id", name="fills_key_1"),
    )
    for name in ("client_order_id", "session"):
        op.create_index(f"ix_fills_{name}", "fills", [name])
    op.create_table(
        "cash_movements",
        _text("strategy"),
        _date("session"),
        _text("symbol"),
        _text("kind"),
        _decimal("amount"),
        sa.PrimaryKeyConstraint("strategy", "session", "symbol", "kind", name="cash_movements_key_1"),
    )
    # trades by hand and transfers have no place in the first schema
    op.execute(
        "INSERT INTO fills SELECT activity_id, client_order_id, session, symbol, side, quantity, price, commission "
        "FROM fills_2 WHERE client_order_id IS NOT NULL"
    )
    op.execute(
        "INSERT INTO cash_movements SELECT strategy, session, symbol, kind, amount FROM cash_movements_2 "
        "WHERE kind IN ('dividend', 'cash_in_lieu', 'delisting')"
    )
    op.drop_index("ix_orders_broker_order_id", "orders")
    for table, column in (
        ("orders", "broker_order_id"),
        ("orders", "limit_price"),
        ("execution_plans", "code_version"),
        ("execution_plans", "purpose"),
        ("account_snapshots", "external_flow"),
    ):
        op.drop_column(table, column)
    for table in (
        "fills_2", "cash_movements_2", "simulated_activities", "simulated_orders", "simulated_positions",
        "simulated_accounts", "lots", "broker_activities", "order_events", "refusals", "operator_actions", "leases",
        "halt_events", "halt_states", "strategies",
    ):  # fmt: skip
        op.drop_table(table)
