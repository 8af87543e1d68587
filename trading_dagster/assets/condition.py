"""Condition: one word for people, from regime, phase and volatility."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._stage import Stopwatch, histories, observed, partition_sessions, stage, stage_output
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.quant import condition as words


@dg.asset(
    **stage(
        "condition",
        group="analysis",
        kinds={"pandas", "deltalake"},
        description=(
            "Trending, cyclical, volatile, compressed or resetting: what the regime, the cycles and the volatility of "
            "a symbol add up to, with the reason. Nothing is traded on the word."
        ),
    )
)
def condition(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    phasing: pd.DataFrame,
    regime: pd.DataFrame,
    volatility: pd.DataFrame,
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Name the condition of each symbol."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "condition", observed(known))
    rows = verdict.keep(words.condition(phasing, regime, volatility))
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={
            "bars": bars,
            "corporate_actions": corporate_actions,
            "phasing": phasing,
            "regime": regime,
            "volatility": volatility,
        },
        figures=lambda _, part: {word: int((part["condition"] == word).sum()) for word in words.CONDITIONS},
    )
