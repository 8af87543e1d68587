"""Forecast: the monthly model and the daily expected returns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._pictures import forecast_picture
from trading_dagster.assets._stage import (
    CALENDAR,
    Stopwatch,
    histories,
    observed,
    partition_sessions,
    stage,
    stage_output,
)
from trading_dagster.calendar import SessionError, month_key
from trading_dagster.checks.data_policy import DataPolicyGuard, Verdict, evaluate
from trading_dagster.quant.features import features
from trading_dagster.quant.forecasting import fit_forecast_models
from trading_dagster.quant.forecasting import forecast as forecast_rows
from trading_dagster.quant.prices import KnownHistory
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
    known = histories(bars, corporate_actions, fitted_to)
    verdict = yield from data_policy.enforce(context, "forecast_model", observed(known))
    rows = []
    for part, market, symbols, those in _fits(known, verdict, dict(zip(fitted_to, months, strict=True))):
        models = fit_forecast_models(
            part.history.select(market), MARKET_SYMBOL, pd.DatetimeIndex(list(those.values())), symbols
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


def _fits(
    known: Sequence[KnownHistory], verdict: Verdict, months: Mapping[pd.Timestamp, pd.Timestamp]
) -> Iterator[tuple[KnownHistory, list[str], list[str], dict[pd.Timestamp, pd.Timestamp]]]:
    """Months that are fitted together, since they know the same history and have the same symbols.

    Parameters
    ----------
    months : mapping of Timestamp to Timestamp
        Session that a month is fitted to, to the month.

    Yields
    ------
    history, symbols of its market, symbols of the model, months with the session that each is fitted to
    """
    universe = tuple(verdict.allowed.columns)
    for part in known:
        # the market that the regime stage shows at a session, not only of the symbols that may be forecast
        _, in_market = evaluate("regime", part.history.observed, universe, part.sessions)
        groups: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[pd.Timestamp, pd.Timestamp]] = {}
        for last in part.sessions:
            flags = (in_market.allowed, verdict.allowed)
            market, symbols = (tuple(map(str, usable.columns[usable.loc[last]])) for usable in flags)
            groups.setdefault((market, symbols), {})[months[last]] = last
        for (market, symbols), those in groups.items():
            yield part, list(market), list(symbols), those


def _last_session_before(month: pd.Timestamp) -> pd.Timestamp:
    first = CALENDAR.first_session_of_month(month)
    try:
        return CALENDAR.previous(first)
    except SessionError as error:
        raise SessionError(
            f"forecast_model of {month:%Y-%m} has no session before it to be fitted on; choose a later month"
        ) from error
