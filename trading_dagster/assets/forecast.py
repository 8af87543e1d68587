"""Forecast: the monthly model and the daily expected returns."""

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._models import BEFORE_THE_MONTH, MODEL_OF_THE_MONTH, fits, partition_months
from trading_dagster.assets._pictures import forecast_picture
from trading_dagster.assets._stage import Stopwatch, histories, observed, partition_sessions, stage, stage_output
from trading_dagster.calendar import month_key
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.quant.features import features
from trading_dagster.quant.forecasting import StageModels, fit_forecast_models
from trading_dagster.quant.forecasting import forecast as forecast_rows
from trading_dagster.settings import MARKET_SYMBOL


@dg.asset(
    **stage(
        "forecast_model",
        group="forecast",
        kinds={"xgboost", "deltalake"},
        description=(
            "Gradient-boosted trees, pooled over symbols, for the 5-session return. Month M is fitted on labels that "
            "were known before its first session; the trees, their shrinkage and out-of-sample figures are one row a "
            "month."
        ),
    ),
    ins={
        "bars": dg.AssetIn(partition_mapping=BEFORE_THE_MONTH),
        "corporate_actions": dg.AssetIn(partition_mapping=BEFORE_THE_MONTH),
    },
)
def forecast_model(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    regime_model: pd.DataFrame,
    volatility_model: pd.DataFrame,
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Fit one model a month."""
    stopwatch, months = Stopwatch(), partition_months(context)
    known = histories(bars, corporate_actions, pd.DatetimeIndex(months.index))
    verdict = yield from data_policy.enforce(context, "forecast_model", observed(known))
    rows = []
    for fit in fits("forecast_model", known, verdict, months):
        models = fit_forecast_models(
            fit.history.select(fit.market),
            MARKET_SYMBOL,
            fit.months,
            fit.fitted_to,
            StageModels(regime_model, volatility_model),
            fit.symbols,
        )
        for month, model in zip(fit.months, models, strict=True):
            context.log.info(f"forecast_model {month:%Y-%m}: {model.rows} rows, {model.metrics}")
            rows.append(
                {
                    "month": month,
                    "fitted_to": model.fitted_to,
                    "parameters": model.parameters,
                    "artifact": model.booster,
                    "training_rows": model.rows,
                    "metrics": json.dumps(model.metrics, sort_keys=True),
                }
            )
    yield stage_output(
        context,
        pd.DataFrame(rows),
        stopwatch,
        inputs={
            "bars": bars,
            "corporate_actions": corporate_actions,
            "regime_model": regime_model,
            "volatility_model": volatility_model,
        },
        figures=lambda _, part: {
            "fitted_to": f"{part['fitted_to'].iloc[0]:%Y-%m-%d}",
            **json.loads(part["metrics"].iloc[0]),
        },
    )


@dg.asset(
    **stage(
        "forecast",
        group="forecast",
        kinds={"xgboost", "deltalake"},
        description=(
            "Expected 5-session log return with a 90 % interval and the probability of a rise, from the month's "
            "model, shrunk toward zero by what it showed out of sample. Small numbers are the honest ones."
        ),
    ),
    ins={"forecast_model": dg.AssetIn(partition_mapping=MODEL_OF_THE_MONTH)},
)
def forecast(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    phasing: pd.DataFrame,
    regime: pd.DataFrame,
    volatility: pd.DataFrame,
    forecast_model: pd.DataFrame,
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Forecast each session with its month's model."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "forecast", observed(known))
    table = pd.concat(
        [
            features(part.history.select(symbols), those, phasing, regime, volatility, MARKET_SYMBOL)
            for part in known
            for symbols, those in verdict.groups(part.sessions)
        ]
    )
    parts = []
    for model in forecast_model.itertuples():
        month = f"{model.month:%Y-%m-%d}"
        of_month = table[table["session"].map(month_key) == month]
        parts.append(forecast_rows(model.artifact, model.parameters, of_month, volatility, f"forecast_model@{month}"))
    rows = pd.concat(parts, ignore_index=True)
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
            "forecast_model": forecast_model,
        },
        figures=lambda _, part: {
            "mean_expected_return": float(part["expected_return"].mean()),
            "largest_expected_return": float(part["expected_return"].max()),
            "mean_confidence": float(part["confidence"].mean()),
            "model": str(part["model"].iloc[0]),
        },
        picture=forecast_picture(rows),
    )
