"""Notes on market data: checks that warn and never block: restatements, quarantine, delistings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pandas as pd

SHOWN_ROWS = 20
_VALUES = ("open", "high", "low", "close", "volume")

NOTES = [
    dg.AssetCheckSpec(
        "restatements",
        asset="bars",
        description=(
            "Warns when a bar of the ten stored sessions before the new ones has changed at the source. The new value "
            "is a revision beside the old one; where a split explains the change, the bar as traded is the old one."
        ),
    ),
    dg.AssetCheckSpec(
        "quarantine",
        asset="bars",
        description=(
            "Warns when a new bar is put into quarantine: a jump beyond ten standard deviations that no split or "
            "dividend explains and the market does not share, or a bar without trades on a day without session."
        ),
    ),
    dg.AssetCheckSpec(
        "delisted",
        asset="bars",
        description="Warns of symbols that stopped trading: they left the universe, and positions in them are closed.",
    ),
]
"""Declarations of the three."""


def restatement_note(restated: pd.DataFrame) -> dg.AssetCheckResult:
    """Show bars that changed at the source, with old and new values."""
    rows = [_restatement(row) for row in restated.head(SHOWN_ROWS).to_dict("records")]
    by_split = int(restated["split"].notna().sum())
    return _note(
        "restatements",
        passed=by_split == len(restated),
        description=(
            f"bars changed at the source: {len(restated)}, {by_split} of them by a later split; the first: "
            f"{rows[0]['symbol']} on {rows[0]['session']}: {rows[0]['change']}"
            if rows
            else "no stored bar changed"
        ),
        rows=rows,
        figures={"restated": len(restated), "explained_by_split": by_split},
    )


def quarantine_note(quarantined: pd.DataFrame, changed: int) -> dg.AssetCheckResult:
    """Show the bars in quarantine; warn when there are new ones.

    Parameters
    ----------
    quarantined : DataFrame
        All bars that are there, up to the session.
    changed : int
        Rows that this run added.
    """
    newest = quarantined.sort_values("known_at", ascending=False).head(SHOWN_ROWS)
    rows = [
        {"symbol": r.symbol, "date": f"{r.session:%Y-%m-%d}", "close": r.close, "reason": r.reason, "detail": r.detail}
        for r in newest.itertuples()
    ]
    return _note(
        "quarantine",
        passed=changed == 0,
        description=(
            f"bars newly in quarantine or seen in a new light: {changed}, {len(quarantined)} in all; to see them: "
            "trading quarantine list; to let one in: trading quarantine release SYMBOL SESSION"
            if changed
            else f"none is new, {len(quarantined)} in all"
        ),
        rows=rows,
        figures={"new": changed, "in_quarantine": len(quarantined)},
    )


def delisted_note(gone: Mapping[str, pd.Timestamp]) -> dg.AssetCheckResult:
    """Show the symbols that stopped trading."""
    rows = [{"symbol": symbol, "last_session": f"{at:%Y-%m-%d}"} for symbol, at in sorted(gone.items())]
    named = ", ".join(f"{row['symbol']} (last bar {row['last_session']})" for row in rows)
    return _note(
        "delisted",
        passed=not rows,
        description=(
            f"stopped trading and left the universe: {named}; positions in them are closed at the last price. Take "
            "them out of TRADING_UNIVERSE"
            if rows
            else "all symbols trade"
        ),
        rows=rows,
        figures={"delisted": len(rows)},
    )


def _restatement(row: Mapping[Any, Any]) -> dict[str, Any]:
    changes = [
        f"{name} {row[f'old_{name}']:g} to {row[name]:g}"
        for name in _VALUES
        if row[name] != row[f"old_{name}"] and not (pd.isna(row[name]) and pd.isna(row[f"old_{name}"]))
    ]
    told = "; ".join(changes)
    if not pd.isna(row["split"]):
        told += f"; explained by a later split, {row['split']:g} for 1: the bar as traded stays as it is"
    return {"symbol": row["symbol"], "session": f"{row['session']:%Y-%m-%d}", "change": told}


def _note(
    name: str, *, passed: bool, description: str, rows: list[dict[str, Any]], figures: Mapping[str, int]
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=passed,
        check_name=name,
        asset_key="bars",
        severity=dg.AssetCheckSeverity.WARN,
        description=description,
        metadata={**figures, "rows": dg.JsonMetadataValue(rows)},
    )
