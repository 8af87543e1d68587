"""Orders, activities and books by hand, and a reader of the ledger's rows that goes around the code under test."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from trading_dagster.execution.orders import Order, OrderState, Side
from trading_dagster.resources.broker import Activity, BrokerOrder
from trading_dagster.resources.ledger import OpeningPosition, Owner, Recorded
from trading_dagster.resources.sql_ledger import SqlLedger

MONDAY, TUESDAY, WEDNESDAY, THURSDAY = (date(2020, 3, day) for day in (9, 10, 11, 12))
D = Decimal


def url_of(ledger: SqlLedger) -> str:
    return ledger.engine.url.render_as_string(hide_password=False)


def open_books(
    ledger: SqlLedger, strategy: str = "main", cash: str | Decimal = "1000", **held: tuple[str, str]
) -> None:
    """Open a strategy on Monday; each position is its shares and what they cost."""
    positions = {symbol: OpeningPosition(D(quantity), D(cost)) for symbol, (quantity, cost) in held.items()}
    ledger.open_strategy(strategy, "simulated", MONDAY, D(cash), positions, Owner.STRATEGY, [])


def order(identity: str = "one", session: date = MONDAY, **values: Any) -> Order:
    defaults = {"strategy": "main", "symbol": "AAA", "side": Side.BUY, "quantity": D(10), "reference_price": D(5)}
    return Order(identity, session=session, reason="because", **(defaults | values))


def fill(
    identity: str | None = "one",
    quantity: str | Decimal = "10",
    price: str | Decimal = "5.5",
    *,
    name: str | None = None,
    side: Side = Side.BUY,
    symbol: str = "AAA",
    session: date = TUESDAY,
    commission: str | Decimal = "0",
    owner: Owner = Owner.STRATEGY,
) -> Recorded:
    """A trade; of no order of ours where `identity` is None."""
    activity = Activity(
        name or f"fill of {identity}", "fill", datetime.combine(session, time(14, 30), UTC), session, symbol, side,
        D(quantity), D(price), -D(commission), f"broker's {identity}",
    )  # fmt: skip
    return Recorded(activity, identity, owner)


def movement(
    kind: str,
    amount: str | Decimal = "0",
    *,
    quantity: str | Decimal = "0",
    symbol: str = "AAA",
    session: date = TUESDAY,
    name: str | None = None,
) -> Recorded:
    """Cash without a trade, and the shares that a corporate action adds."""
    identity = name or f"{kind} of {symbol} on {session}"
    moment = datetime.combine(session, time(12), UTC)
    return Recorded(Activity(identity, kind, moment, session, symbol, quantity=D(quantity), amount=D(amount)))


def told(
    identity: str = "one", state: OrderState = OrderState.ACCEPTED, filled: str | int = 0, note: str = ""
) -> BrokerOrder:
    """What the broker says of an order of `order`."""
    moment = datetime.combine(MONDAY, time(21), UTC)
    return BrokerOrder(identity, f"broker's {identity}", "AAA", Side.BUY, D(10), None, state, D(filled), moment, note)


# -- around the code under test -----------------------------------------------------------------------------------


def connect(ledger: SqlLedger) -> Any:
    """A connection of the database's own driver."""
    url = ledger.engine.url
    if url.get_backend_name() == "sqlite":
        return sqlite3.connect(str(url.database), isolation_level=None)
    import psycopg2

    connection = psycopg2.connect(url.render_as_string(hide_password=False))
    connection.autocommit = True
    return connection


def execute(ledger: SqlLedger, statement: str) -> list[tuple[Any, ...]]:
    with closing(connect(ledger)) as connection:
        cursor = connection.cursor()
        cursor.execute(statement)
        return [] if cursor.description is None else cursor.fetchall()


def dump(ledger: SqlLedger) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, written alike whatever the database."""
    names = (
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        if ledger.engine.dialect.name == "sqlite"
        else "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    )
    return {
        name: sorted((tuple(map(_plain, row)) for row in execute(ledger, f"SELECT * FROM {name}")), key=repr)
        for (name,) in execute(ledger, names)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value.isoformat() if isinstance(value, date) else value
