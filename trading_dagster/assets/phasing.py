"""Phasing: where price stands in its nominal cycles."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._pictures import phasing_picture
from trading_dagster.assets._stage import Stopwatch, histories, observed, partition_sessions, stage, stage_output
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.quant import cycles

SIGNIFICANT = 0.05


@dg.asset(
    **stage(
        "phasing",
        group="analysis",
        kinds={"numpy", "deltalake"},
        description=(
            "Phase, period, amplitude and significance of the nominal 20-, 40- and 80-bar cycles at the session's "
            "close, with the FLD, its crosses and its target. A cycle describes the past; its p-value says how "
            "seriously."
        ),
    )
)
def phasing(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Fit the cycles."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "phasing", observed(known))
    rows = pd.concat([cycles.phasing(k.history.select(verdict.symbols), k.sessions) for k in known])
    rows = verdict.keep(rows.reset_index(drop=True))
    history = known[-1].history.select(verdict.symbols)
    newest, symbol = history.sessions[-1], history.symbols[0]
    value = (history.total_return[symbol] / history.factor.loc[newest, symbol]).iloc[-160:]
    displaced = (history.total_return[symbol] / history.factor.loc[newest, symbol]).shift(20).iloc[-160:]
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={"bars": bars, "corporate_actions": corporate_actions},
        figures=lambda _, part: {
            "significant_cycles": float((part["p_value"] < SIGNIFICANT).mean()),
            "crosses_up": int((part["fld_cross"] == 1).sum()),
            "crosses_down": int((part["fld_cross"] == -1).sum()),
        },
        picture=phasing_picture(value, rows[rows["session"] == newest], displaced),
    )
