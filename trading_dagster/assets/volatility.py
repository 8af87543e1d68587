"""Volatility: risk of the next session and month."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._pictures import volatility_picture
from trading_dagster.assets._stage import Stopwatch, histories, observed, partition_sessions, stage, stage_output
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.quant import volatility as risk


@dg.asset(
    **stage(
        "volatility",
        group="analysis",
        kinds={"pandas", "deltalake"},
        description=(
            "Daily volatility by exponential weighting, the value at risk and expected shortfall that follow from it, "
            "and a stop distance."
        ),
    )
)
def volatility(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Forecast volatility and losses."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "volatility", observed(known))
    rows = pd.concat([risk.volatility(k.history.select(verdict.symbols), k.sessions) for k in known])
    rows = verdict.keep(rows.reset_index(drop=True))
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={"bars": bars, "corporate_actions": corporate_actions},
        figures=lambda _, part: {
            "median_sigma_1d": float(part["sigma_1d"].median()),
            "largest_var_99": float(part["var_99"].max()),
        },
        picture=volatility_picture(rows),
    )
