"""Allocation: target weights."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._pictures import allocation_picture
from trading_dagster.assets._stage import (
    Stopwatch,
    histories,
    observed,
    partition_sessions,
    stage,
    stage_output,
)
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.checks.decisions import check_weights, weights_spec
from trading_dagster.quant.allocation import allocation as target_weights
from trading_dagster.settings import MARKET_SYMBOL, Settings


@dg.asset(
    **stage(
        "allocation",
        group="portfolio",
        kinds={"scikitlearn", "deltalake"},
        description=(
            "Long-only target weights: mean-variance under a cap by skfolio, scaled to the volatility target and to "
            "the market regime's suitability. What is not invested stays in cash."
        ),
        checks=[weights_spec("allocation")],
    )
)
def allocation(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    regime: pd.DataFrame,
    volatility: pd.DataFrame,
    forecast: pd.DataFrame,
    settings: dg.ResourceParam[Settings],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Optimise each session."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "allocation", observed(known))
    parts = [
        target_weights(
            part.history.select(verdict.symbols),
            part.sessions,
            verdict.keep(forecast),
            volatility,
            _suitability(regime),
            max_weight=settings.max_weight,
            max_gross=settings.max_gross,
            volatility_target=settings.volatility_target,
            risk_aversion=settings.risk_aversion,
        )
        for part in known
    ]
    rows = pd.concat(parts, ignore_index=True)
    yield check_weights("allocation", rows, "weight", max_weight=settings.max_weight, max_gross=settings.max_gross)
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={
            "bars": bars,
            "corporate_actions": corporate_actions,
            "regime": regime,
            "volatility": volatility,
            "forecast": forecast,
        },
        figures=lambda _, part: {
            "gross": float(part["weight"].sum()),
            "largest_weight": float(part["weight"].max()),
            "positions": int((part["weight"] > 0).sum()),
        },
        picture=allocation_picture(rows),
    )


def _suitability(regime: pd.DataFrame) -> pd.Series:
    """Suitability of the market's regime, by session."""
    return regime[regime["symbol"] == MARKET_SYMBOL].set_index("session")["suitability"]
