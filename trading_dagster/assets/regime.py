"""Regime: the state of each symbol and of the market."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._pictures import regime_picture
from trading_dagster.assets._stage import Stopwatch, histories, observed, partition_sessions, stage, stage_output
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.quant import regime as regimes
from trading_dagster.settings import MARKET_SYMBOL


@dg.asset(
    **stage(
        "regime",
        group="analysis",
        kinds={"pandas", "deltalake"},
        description=(
            "Bull or bear, quiet or volatile: the most probable state of each symbol and of the equal-weight market, "
            "with probabilities and the share of the full exposure that suits them."
        ),
    )
)
def regime(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Classify trend and volatility."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "regime", observed(known))
    parts = [
        regimes.regime(part.history.select(symbols), those, MARKET_SYMBOL)
        for part in known
        for symbols, those in verdict.groups(part.sessions)
    ]
    rows = pd.concat(parts, ignore_index=True).sort_values(["session", "symbol"], ignore_index=True)
    market = rows[rows["symbol"] == MARKET_SYMBOL]
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={"bars": bars, "corporate_actions": corporate_actions},
        figures=lambda _, part: {
            "market_regime": str(_market(part)["regime"]),
            "market_suitability": float(_market(part)["suitability"]),
            "symbols_in_bull": int(part["regime"].str.startswith("bull").sum()),
        },
        picture=regime_picture(market, rows, MARKET_SYMBOL),
    )


def _market(part: pd.DataFrame) -> pd.Series:
    return part[part["symbol"] == MARKET_SYMBOL].iloc[0]
