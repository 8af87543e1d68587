"""Forecast: the monthly model and the daily expected returns."""

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._pictures import forecast_picture
from trading_dagster.assets._stage import CALENDAR, Stopwatch, partition_sessions, stage, stage_output
from trading_dagster.calendar import SessionError, month_key
from trading_dagster.checks.data_policy import DataPolicyGuard, evaluate
from trading_dagster.quant.features import features
from trading_dagster.quant.forecasting import fit_forecast_models
from trading_dagster.quant.forecasting import forecast as forecast_rows
from trading_dagster.quant.prices import price_history
from trading_dagster.settings import MARKET_SYMBOL

# month M is fitted on what was known before its first session: the sessions up to the end of month M - 1
_BEFORE_THE_MONTH = dg.TimeWindowPartitionMapping(
    start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True
)
_MODEL_OF_THE_MONTH = dg.TimeWindowPartitionMapping()


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
        "bars": dg.AssetIn(partition_mapping=_BEFORE_THE_MONTH),
        "corporate_actions": dg.AssetIn(partition_mapping=_BEFORE_THE_MONTH),
    },
)
def forecast_model(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Fit one model a month."""
    stopwatch = Stopwatch()
    months = pd.DatetimeIndex(sorted(context.partition_keys))
    fitted_to = pd.DatetimeIndex([_last_session_before(month) for month in months])
    history = price_history(bars, corporate_actions)
    verdict = yield from data_policy.enforce(context, "forecast_model", history.close, fitted_to)
    # the market that the regime stage shows at a session, not only of the symbols that may be forecast
    _, in_market = evaluate("regime", history.close, tuple(verdict.allowed.columns), fitted_to)
    rows = []
    for (market, symbols), those in _months_by_symbols(in_market, verdict.allowed, months, fitted_to).items():
        models = fit_forecast_models(
            history.select(market), MARKET_SYMBOL, pd.DatetimeIndex(list(those.values())), symbols
        )
        for month, model in zip(those, models, strict=True):
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
        inputs={"bars": bars, "corporate_actions": corporate_actions},
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
    ins={"forecast_model": dg.AssetIn(partition_mapping=_MODEL_OF_THE_MONTH)},
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
    history = price_history(bars, corporate_actions)
    verdict = yield from data_policy.enforce(context, "forecast", history.close, sessions)
    table = pd.concat(
        [
            features(history.select(symbols), those, phasing, regime, volatility, MARKET_SYMBOL)
            for symbols, those in verdict.groups()
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


def _months_by_symbols(
    in_market: pd.DataFrame, allowed: pd.DataFrame, months: pd.DatetimeIndex, fitted_to: pd.DatetimeIndex
) -> dict[tuple[tuple[str, ...], tuple[str, ...]], dict[pd.Timestamp, pd.Timestamp]]:
    """Months, with the session that each is fitted to, by the symbols of their market and of their model."""
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[pd.Timestamp, pd.Timestamp]] = {}
    for month, last in zip(months, fitted_to, strict=True):
        market, symbols = (tuple(map(str, usable.columns[usable.loc[last]])) for usable in (in_market, allowed))
        groups.setdefault((market, symbols), {})[month] = last
    return groups


def _last_session_before(month: pd.Timestamp) -> pd.Timestamp:
    first = CALENDAR.first_session_of_month(month)
    try:
        return CALENDAR.previous(first)
    except SessionError as error:
        raise SessionError(
            f"forecast_model of {month:%Y-%m} has no session before it to be fitted on; choose a later month"
        ) from error
