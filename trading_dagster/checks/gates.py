"""Asset check on `orders`: what the gates held back, and whether every order's fate is known."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import dagster as dg

from trading_dagster.execution.trading_session import SessionTrades

CHECK_NAME = "gates"


def gates_spec() -> dg.AssetCheckSpec:
    """Declare the check."""
    return dg.AssetCheckSpec(
        CHECK_NAME,
        asset="orders",
        blocking=True,
        description=(
            "Halt state, upstream verdicts, freshness, reconciliation, limits, lease: what was held back, by which "
            "gate, and why. An order that only a limit held back warns."
        ),
    )


def check_gates(trades: Mapping[date, SessionTrades]) -> dg.AssetCheckResult:
    """Judge what trading the run's sessions did.

    It fails where the newest session was held back, or an order's fate is not known. Earlier sessions that a real
    broker is too late for, and single orders that a limit held back, warn.
    """
    newest = max(trades)
    held = {session: each.refused for session, each in trades.items() if each.refused is not None}
    unsettled = [text for each in trades.values() for text in each.unsettled]
    failed = bool(unsettled) or newest in held
    refusals = [(session, refusal) for session, each in sorted(trades.items()) for refusal in each.refusals]
    schema = dg.TableSchema([dg.TableColumn(name, "string") for name in ("session", "gate", "symbol", "detail")])
    records = [
        dg.TableRecord({"session": str(session), "gate": r.gate.value, "symbol": r.symbol, "detail": r.detail})
        for session, r in refusals
    ]
    described = [f"{session}: {refusal}" for session, refusal in refusals] + unsettled
    return dg.AssetCheckResult(
        passed=not failed and not refusals,
        check_name=CHECK_NAME,
        asset_key="orders",
        severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
        description="; ".join(described)[:2000] or "all gates passed",
        metadata={
            "gates": ", ".join(sorted({refusal.gate.value for _, refusal in refusals})) or "none refused",
            "refusals": dg.MetadataValue.table(records, schema),
            "unsettled": len(unsettled),
        },
    )
