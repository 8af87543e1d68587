"""Regime: the monthly model and the state of each symbol and of the market."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._models import BEFORE_THE_MONTH, MODEL_OF_THE_MONTH, fits, partition_months
from trading_dagster.assets._pictures import regime_picture
from trading_dagster.assets._stage import (
    Stopwatch,
    histories,
    observed,
    partition_sessions,
    published,
    stage,
    stage_output,
)
from trading_dagster.checks.data_policy import DataPolicyGuard, grouped
from trading_dagster.quant import regime as regimes
from trading_dagster.quant.regime_features import values_with_market
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import MARKET_SYMBOL, Settings

SHOWN = 504
"""Sessions in the picture, two years."""


@dg.asset(
    **stage(
        "regime_model",
        group="analysis",
        kinds={"numpy", "deltalake"},
        description=(
            "Two states of each symbol and of the equal-weight market, calm and turbulent: a statistical jump model, "
            "or a hidden Markov model with Student-t returns (TRADING_REGIME_MODEL). Month M is fitted on what was "
            "known before its first session."
        ),
    ),
    ins={
        "bars": dg.AssetIn(partition_mapping=BEFORE_THE_MONTH),
        "corporate_actions": dg.AssetIn(partition_mapping=BEFORE_THE_MONTH),
    },
)
def regime_model(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    settings: dg.ResourceParam[Settings],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Fit one model a month, symbol and market."""
    stopwatch, months = Stopwatch(), partition_months(context)
    known = histories(bars, corporate_actions, pd.DatetimeIndex(months.index))
    verdict = yield from data_policy.enforce(context, "regime_model", observed(known))
    rows = pd.concat(
        [
            regimes.fit_regime_models(
                fit.history.select(fit.market), fit.months, fit.fitted_to, MARKET_SYMBOL, settings.regime_model
            )
            for fit in fits("regime_model", known, verdict, months)
        ],
        ignore_index=True,
    )
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={"bars": bars, "corporate_actions": corporate_actions},
        figures=lambda _, part: {
            "model": str(part["model"].iloc[0]),
            "fitted_to": f"{part['fitted_to'].iloc[0]:%Y-%m-%d}",
            "series_fitted": len(part),
        },
    )


@dg.asset(
    **stage(
        "regime",
        group="analysis",
        kinds={"numpy", "deltalake"},
        description=(
            "Calm or turbulent: the state of each symbol and of the equal-weight market by the month's model, filtered "
            "from past bars only, with probabilities and the share of the full exposure that suits them."
        ),
    ),
    ins={"regime_model": dg.AssetIn(partition_mapping=MODEL_OF_THE_MONTH)},
)
def regime(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    regime_model: pd.DataFrame,
    settings: dg.ResourceParam[Settings],
    tables: dg.ResourceParam[Tables],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Filter the states."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "regime", observed(known))
    _check_kind(regime_model, settings.regime_model)
    parts = [
        regimes.regime(part.history.select(symbols), those, MARKET_SYMBOL, regime_model)
        for part in known
        for symbols, those in grouped(verdict.usable("regime", part.history.observed, part.sessions))
    ]
    rows = verdict.keep(pd.concat(parts)).sort_values(["session", "symbol"], ignore_index=True)
    history = known[-1].history.select(verdict.symbols)
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={"bars": bars, "corporate_actions": corporate_actions, "regime_model": regime_model},
        figures=lambda _, part: {
            "market_regime": str(_market(part)["regime"]),
            "market_prob_turbulent": float(_market(part)["prob_turbulent"]),
            "market_suitability": float(_market(part)["suitability"]),
            "symbols_turbulent": int((part["regime"] == "turbulent").sum()),
        },
        picture=regime_picture(
            values_with_market(history, MARKET_SYMBOL)[MARKET_SYMBOL],
            published(tables, "regime", rows, history.sessions[-SHOWN:][0], ("regime", "prob_turbulent")),
        ),
    )


def _check_kind(models: pd.DataFrame, wanted: str) -> None:
    """Refuse models of another kind than the setting asks for: they were fitted before it was changed."""
    others = models[models["model"] != wanted]
    if len(others):
        months = sorted({f"{month:%Y-%m-%d}" for month in others["month"]})
        raise dg.Failure(
            f"regime: regime_model of {', '.join(months)} is of the kind {others['model'].iloc[0]!r}, and "
            f"TRADING_REGIME_MODEL is {wanted!r}; fit each again (dagster asset materialize --select "
            f"tag:cadence=monthly --partition {months[0]}), or set the variable back",
            allow_retries=False,
        )


def _market(part: pd.DataFrame) -> pd.Series:
    return part[part["symbol"] == MARKET_SYMBOL].iloc[0]
