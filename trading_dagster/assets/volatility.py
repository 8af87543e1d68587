"""Volatility: the monthly model, and the risk of the next session and month."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._models import BEFORE_THE_MONTH, MODEL_OF_THE_MONTH, fits, partition_months
from trading_dagster.assets._pictures import volatility_picture
from trading_dagster.assets._stage import (
    Stopwatch,
    histories,
    observed,
    partition_sessions,
    published,
    stage,
    stage_output,
)
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.checks.risk import TESTED_SESSIONS, check_risk, risk_specs
from trading_dagster.quant import volatility as risk
from trading_dagster.quant.volatility_models import fit_volatility_models
from trading_dagster.resources.tables import Tables


@dg.asset(
    **stage(
        "volatility_model",
        group="analysis",
        kinds={"scipy", "deltalake"},
        description=(
            "Log-HAR on ranges (on closes where there are no ranges) and GJR-GARCH with Student-t errors for each "
            "symbol, with the tails of their standardised residuals. Month M is fitted on what was known before its "
            "first session."
        ),
    ),
    ins={
        "bars": dg.AssetIn(partition_mapping=BEFORE_THE_MONTH),
        "corporate_actions": dg.AssetIn(partition_mapping=BEFORE_THE_MONTH),
    },
)
def volatility_model(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Fit one model a month and symbol."""
    stopwatch, months = Stopwatch(), partition_months(context)
    known = histories(bars, corporate_actions, pd.DatetimeIndex(months.index))
    verdict = yield from data_policy.enforce(context, "volatility_model", observed(known))
    rows = pd.concat(
        [
            fit_volatility_models(fit.history.select(fit.symbols), fit.months, fit.fitted_to)
            for fit in fits("volatility_model", known, verdict, months)
        ],
        ignore_index=True,
    )
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={"bars": bars, "corporate_actions": corporate_actions},
        figures=lambda _, part: {"fitted_to": f"{part['fitted_to'].iloc[0]:%Y-%m-%d}", "series_fitted": len(part)},
    )


@dg.asset(
    **stage(
        "volatility",
        group="analysis",
        kinds={"scipy", "deltalake"},
        description=(
            "Daily volatility of the next session and the next 21, value at risk and expected shortfall by filtered "
            "historical simulation, average true range and a stop distance, by the month's model."
        ),
        checks=risk_specs("volatility"),
    ),
    ins={"volatility_model": dg.AssetIn(partition_mapping=MODEL_OF_THE_MONTH)},
)
def volatility(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    regime: pd.DataFrame,
    volatility_model: pd.DataFrame,
    tables: dg.ResourceParam[Tables],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Forecast volatility and losses, and test the losses that were forecast before."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "volatility", observed(known))
    parts = [
        risk.volatility(part.history.select(symbols), those, volatility_model, regime)
        for part in known
        for symbols, those in verdict.groups(part.sessions)
    ]
    rows = pd.concat(parts, ignore_index=True).sort_values(["session", "symbol"], ignore_index=True)
    history = known[-1].history.select(verdict.symbols)
    shown = ("sigma_1d", "sigma_21d", "var_95", "var_99", "es_975")
    forecasts = published(tables, "volatility", rows, history.sessions[-TESTED_SESSIONS - 1 :][0], shown)
    yield from check_risk("volatility", history, forecasts)
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={
            "bars": bars,
            "corporate_actions": corporate_actions,
            "regime": regime,
            "volatility_model": volatility_model,
        },
        figures=lambda _, part: {
            "median_sigma_1d": float(part["sigma_1d"].median()),
            "largest_var_99": float(part["var_99"].max()),
        },
        picture=volatility_picture(history, forecasts),
    )
