"""Checks on the losses that were forecast: whether they were exceeded as often, and by as much, as they say.

Belongs here: what the UI says of the tests. Does not belong here: the tests (`quant.risk_backtests`).
"""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import numpy as np
import pandas as pd

from trading_dagster.quant.prices import PriceHistory
from trading_dagster.quant.risk_backtests import coverage_report

WINDOWS = (250, 1000)
TESTED_SESSIONS = max(WINDOWS)
LEVEL = 0.05

TESTS = {
    "var_kupiec": "One loss in a hundred is beyond var_99 (Kupiec 1995).",
    "var_christoffersen": (
        "One loss in a hundred is beyond var_99, and none the likelier after another (Christoffersen 1998)."
    ),
    "es_acerbi_szekely": "Losses beyond the 97.5 % quantile are as large as es_975 says (Acerbi and Szekely 2014).",
}


def risk_specs(asset: str) -> list[dg.AssetCheckSpec]:
    """Build the checks' declarations for a stage."""
    return [
        dg.AssetCheckSpec(
            name,
            asset=asset,
            description=(
                f"{description} Tested on the last {WINDOWS[0]} and {WINDOWS[1]:,} forecasts that were "
                f"published, at {LEVEL:.0%} Holm's correction over symbols and windows; a failure warns."
            ),
        )
        for name, description in TESTS.items()
    ]


def check_risk(asset: str, history: PriceHistory, forecasts: pd.DataFrame) -> Iterator[dg.AssetCheckResult]:
    """Hold published forecasts against the losses that followed.

    Parameters
    ----------
    history : PriceHistory
        Up to the run's last session: a forecast made there has no outcome yet.
    forecasts : DataFrame
        session, symbol, var_95, var_99, es_975, each made for the session after its own.
    """
    losses = 1.0 - np.exp(history.log_return.iloc[1:])
    made = {
        name: forecasts.pivot(index="session", columns="symbol", values=name)
        .reindex(index=history.sessions, columns=history.symbols)
        .shift(1)
        .loc[losses.index]
        for name in ("var_99", "es_975", "var_95")
    }
    report = coverage_report(losses, made["var_99"], made["es_975"], var_95=made["var_95"], windows=WINDOWS)
    for test in TESTS:
        yield _result(asset, test, report[report["test"] == test])


def _result(asset: str, test: str, rows: pd.DataFrame) -> dg.AssetCheckResult:
    failed = rows[rows["p_holm"] < LEVEL]
    told = [_told(window, part) for window, part in rows.groupby("window")]
    return dg.AssetCheckResult(
        passed=failed.empty,
        severity=dg.AssetCheckSeverity.WARN,
        check_name=test,
        asset_key=asset,
        description="; ".join(told),
        metadata={
            "hits_and_p_values": dg.MetadataValue.md(_as_markdown(rows)),
            **{f"symbols_tested_{window}": len(_tested(part)) for window, part in rows.groupby("window")},
            **{f"smallest_p_{window}": float(part["p_holm"].min()) for window, part in _tested(rows).groupby("window")},
        },
    )


def _told(window: int, rows: pd.DataFrame) -> str:
    """What to say of one window: who fails, or why nothing could be tested."""
    tested = _tested(rows)
    if tested.empty:
        return (
            f"{window} sessions: not tested, {int(rows['forecasts'].max())} forecasts with an outcome are stored; a "
            "run over a longer range (trading run --from A --to B) makes them"
        )
    failed = tested[tested["p_holm"] < LEVEL]
    named = ", ".join(f"{row.symbol} ({row.hits} beyond, p {row.p_holm:.3f})" for row in failed.itertuples())
    few = int((rows["forecasts"] < window).sum())
    still = len(rows) - len(tested) - few
    return (
        f"{window} sessions: "
        + (f"refuted for {named}" if named else f"not refuted for any of {len(tested)} symbols")
        + (f"; {few} with too few forecasts" if few else "")
        + (f"; {still} of which nothing could be lost" if still else "")
    )


def _tested(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["status"] == "tested"]


def _as_markdown(rows: pd.DataFrame) -> str:
    lines = ["| symbol | sessions | forecasts | beyond | p | p, corrected |", "|---|---|---|---|---|---|"]
    for row in rows.itertuples():
        p_values = [f"{p:.3f}" if np.isfinite(p) else "" for p in (row.p_value, row.p_holm)]
        lines.append(f"| {row.symbol} | {row.window} | {row.forecasts} | {row.hits} | {p_values[0]} | {p_values[1]} |")
    return "\n".join(lines)
