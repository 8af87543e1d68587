"""Checks on what is about to be traded: weights within their limits, a reason with every signal."""

from __future__ import annotations

import dagster as dg
import pandas as pd

WEIGHTS_CHECK = "weights_within_limits"
ROUNDING = 1e-9


def weights_spec(asset: str) -> dg.AssetCheckSpec:
    """Build the declaration of the weights' check for a stage."""
    return dg.AssetCheckSpec(
        WEIGHTS_CHECK,
        asset=asset,
        blocking=True,
        description=(
            "No weight is negative or above TRADING_MAX_WEIGHT, and no session's sum is above TRADING_MAX_GROSS."
        ),
    )


def check_weights(
    asset: str, rows: pd.DataFrame, column: str, *, max_weight: float, max_gross: float
) -> dg.AssetCheckResult:
    """Hold target weights against the limits.

    A position that is only held may have drifted above its cap; rows whose action is HOLD count toward the
    gross, not against the cap. The gross of positions that are only held may exceed its limit likewise.
    """
    chosen = rows[rows["action"] != "HOLD"] if "action" in rows else rows
    outside = chosen[(chosen[column] < 0) | (chosen[column] > max_weight + ROUNDING)]
    gross = rows.groupby("session")[column].sum()
    buying = set(chosen["session"]) if "action" not in rows else set(chosen.loc[chosen["action"] == "BUY", "session"])
    over = gross[(gross > max_gross + ROUNDING) & gross.index.isin(buying)]
    return dg.AssetCheckResult(
        passed=outside.empty and over.empty,
        check_name=WEIGHTS_CHECK,
        asset_key=asset,
        description=(
            f"{len(outside)} weights outside [0, {max_weight:g}], {len(over)} sessions above {max_gross:g} in sum"
        ),
        metadata={
            "largest_weight": float(rows[column].max()),
            "largest_gross": float(gross.max()),
            "rows_outside": dg.JsonMetadataValue(
                [f"{r.session:%Y-%m-%d} {r.symbol} {getattr(r, column):.4f}" for r in outside.itertuples()][:20]
            ),
        },
    )
