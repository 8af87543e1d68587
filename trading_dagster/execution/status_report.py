"""A strategy's status and its orders as text and as plain values, for the command line, scripts and the UI."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pandas as pd

from trading_dagster.execution.halts import Halt
from trading_dagster.execution.operations import Status
from trading_dagster.execution.reconciliation import Reconciliation


def halt_as_dict(halt: Halt) -> dict[str, Any]:
    """A halt state in plain values."""
    return {
        "state": halt.state.value,
        "cause": halt.cause.value if halt.cause else None,
        "detail": halt.detail,
        "operator": halt.operator or None,
        "since": _time(halt.since),
    }


def reconciliation_as_dict(found: Reconciliation) -> dict[str, Any]:
    """A reconciliation in plain values; amounts are text, so that none of them is rounded."""
    return {
        "matched": found.matched,
        "differences": list(found.differences),
        "new_activities": found.new_activities,
        "manual": _texts(found.manual),
        "adopted": list(found.adopted),
        "cash": str(found.account.cash),
        "equity": str(found.account.equity),
        "positions": {symbol: str(position.quantity) for symbol, position in found.account.positions.items()},
    }


def status_as_dict(status: Status) -> dict[str, Any]:
    """A status in plain values; amounts are text, so that none of them is rounded."""
    profit = {
        "realised": str(status.profit.realised),
        "commission": str(status.profit.commission),
        "income": str(status.profit.income),
        "unrealised": None,
    }
    broker: dict[str, Any] | None = None
    if status.account is not None:
        positions = status.account.positions
        values = {symbol: position.quantity * position.price for symbol, position in positions.items()}
        if set(status.profit.cost_basis) <= set(values):
            profit["unrealised"] = str(status.profit.unrealised(values))
        broker = {
            "cash": str(status.account.cash),
            "equity": str(status.account.equity),
            "unrealised": str(sum((position.unrealised for position in positions.values()), Decimal(0))),
            "positions": {symbol: str(position.quantity) for symbol, position in positions.items()},
        }
    return {
        "strategy": status.strategy,
        "broker": status.broker,
        "dry_run": status.dry_run,
        "halt": halt_as_dict(status.halt),
        "opened": status.opened,
        "trading_now": status.holder,
        "session": None if status.session is None else str(status.session),
        "cash": str(status.cash),
        "positions": _texts(status.positions),
        "manual": _texts(status.manual),
        "open_orders": [
            {
                "order": order.client_order_id,
                "side": order.side.value,
                "quantity": str(order.quantity),
                "filled": str(order.filled_quantity),
                "state": order.state.value,
            }
            for order in status.open_orders
        ],
        "profit": profit,
        "daily_loss": f"{status.losses.daily:.6f}",
        "drawdown": f"{status.losses.drawdown:.6f}",
        "broker_errors": status.broker_errors,
        "broker_account": broker,
        "broker_says": status.broker_says or None,
    }


def status_text(status: Status) -> str:
    """A status for people to read."""
    plain = status_as_dict(status)
    lines = [
        f"strategy       {status.strategy}, broker {status.broker}" + (", dry run" if status.dry_run else ""),
        f"state          {status.halt}",
        f"trading now    {status.holder or 'nobody'}",
    ]
    if not status.opened:
        lines.append("account        none yet; its books begin with the first run: trading run --session D")
    else:
        lines += [
            f"account        cash {status.cash:,.2f} in the ledger, last session {status.session}",
            f"losses         {status.losses.daily:.2%} since the session before, "
            f"{status.losses.drawdown:.2%} below the high",
            f"profit         realised {status.profit.realised:,.2f}, commission {status.profit.commission:,.2f}, "
            f"dividends and fees {status.profit.income:,.2f}"
            + (f", unrealised {Decimal(plain['profit']['unrealised']):,.2f}" if plain["profit"]["unrealised"] else ""),
            f"positions      {_shares(status.positions)}",
        ]
        if status.manual:
            lines.append(f"by hand        {_shares(status.manual)}; these symbols are left alone")
    lines.append(f"open orders    {len(status.open_orders) or 'none'}")
    lines += [
        f"               {o.client_order_id} {o.side} {o.quantity} {o.symbol}, {o.filled_quantity} filled, {o.state}"
        for o in status.open_orders
    ]
    if status.account is not None:
        held = {symbol: position.quantity for symbol, position in status.account.positions.items()}
        lines.append(
            f"broker says    equity {status.account.equity:,.2f}, cash {status.account.cash:,.2f}, {_shares(held)}"
        )
    else:
        lines.append(f"broker says    {status.broker_says}")
    return "\n".join(lines)


def reconciliation_text(found: Reconciliation) -> str:
    """A reconciliation for people to read."""
    lines = [
        "ledger and broker agree" if found.matched else f"{len(found.differences)} differences",
        *(f"  {difference}" for difference in found.differences),
        f"{found.new_activities} activities were new; equity {found.account.equity:,.2f}, "
        f"cash {found.account.cash:,.2f}",
    ]
    if found.manual:
        lines.append(f"traded by hand and left alone: {_shares(found.manual)}")
    if found.adopted:
        lines.append(f"traded by hand and now the strategy's: {', '.join(found.adopted)}")
    return "\n".join(lines)


def orders_as_dicts(orders: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the ledger's order table in plain values."""
    rows = orders.assign(session=orders["session"].dt.strftime("%Y-%m-%d")).astype(object)
    return [dict(row) for row in rows.where(rows.notna(), None).to_dict(orient="records")]


def orders_text(orders: pd.DataFrame) -> str:
    """Rows of the ledger's order table for people to read."""
    if orders.empty:
        return "no orders"
    lines = []
    for row in orders.itertuples():
        price = f"at most {row.limit_price:,.2f}" if row.limit_price == row.limit_price else "at market"
        filled = f", {row.filled_quantity:,.6g} filled" if row.filled_quantity else ""
        paid = f" at {row.average_price:,.4f}" if row.average_price == row.average_price and row.filled_quantity else ""
        note = f" ({row.note})" if row.note else ""
        lines.append(f"{row.client_order_id}  {row.side} {row.quantity:,.6g} {price}{filled}{paid}: {row.state}{note}")
    return "\n".join(lines)


def _shares(positions: dict[str, Decimal]) -> str:
    return ", ".join(f"{quantity:f} {symbol}" for symbol, quantity in positions.items()) or "no positions"


def _texts(positions: dict[str, Decimal]) -> dict[str, str]:
    return {symbol: str(quantity) for symbol, quantity in positions.items()}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
