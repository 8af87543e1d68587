"""Monthly fits of the volatility models as a table.

Belongs here: which bars a month's fit reads, whom it serves, and its form as rows. Does not belong here: what is
estimated (`variance_combination`), what a session's forecast is (`volatility`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trading_dagster.quant.bar_series import BarSeries, bar_series
from trading_dagster.quant.har import Estimator
from trading_dagster.quant.one_thread import on_one_thread
from trading_dagster.quant.prices import PriceHistory
from trading_dagster.quant.variance_combination import SymbolModel, fit_symbol, pool

POOLED = "POOLED"
"""Symbol of the row that serves all symbols without a row of their own."""

MINIMUM_BARS = 500
WINDOW = 2000
"""Bars that a fit looks back on, about eight years. Chosen on returns before 2003 among 1,000, 1,500, 2,000 and all:
1,000 was the worst for each model, 2,000 and all nearly the same, and 2,000 forgets what no longer is."""

RANGE_SHARE = 0.95
"""Share of the window's bars that must have ranges for the range to be the estimator."""

MOVING_SHARE = 0.5
"""Share of the window's returns that must differ from zero for a symbol to be fitted by itself; of a longer run of
zeros only the first five are in a window (`bar_series`). As many of 500 must, however few are in it."""

POOL_OF_CLOSES = 5
"""Symbols that are fitted on closes for the pool's sake where all have ranges."""


@on_one_thread
def fit_volatility_models(history: PriceHistory, months: pd.DatetimeIndex, fitted_to: pd.DatetimeIndex) -> pd.DataFrame:
    """Fit every symbol for every month, and the pool.

    Parameters
    ----------
    history : PriceHistory
    months : DatetimeIndex
        First day of each calendar month served.
    fitted_to : DatetimeIndex
        For each month the last session before it; nothing later is read.

    Returns
    -------
    DataFrame
        One row a month and symbol with at least 500 bars, of which 250 and half of the last 2,000 moved (of a run of
        unchanged closes only the first five are among these), and one with symbol ``POOLED``, sorted by month, then
        symbol: month, symbol, fitted_to, parameters and metrics (JSON).
        parameters is a `SymbolModel`, in the pool one for each estimator; metrics holds the number of bars, the
        losses (QLIKE) of har, garch, combination and ewma within the window on the variance of the estimator, nu
        and persistence.

    Raises
    ------
    ValueError
        If months and fitted_to differ in length, a fit would read of its own month, or no symbol can be fitted.

    Notes
    -----
    Each fit starts anew: a month fitted alone has the same bytes. The pool has the medians of the parameters in
    units of each symbol's own standard deviation.
    """
    if len(months) != len(fitted_to):
        raise ValueError(f"{len(months)} months but {len(fitted_to)} sessions to fit to; each month needs one")
    series = bar_series(history)
    bars = history.observed.to_numpy().cumsum(axis=0)
    parts = []
    for month, last in zip(months, fitted_to, strict=True):
        if last >= month:
            raise ValueError(
                f"the models of {month:%Y-%m} would be fitted to {last:%Y-%m-%d}, not before the month; "
                "fit them to the last session before it"
            )
        end = int(history.sessions.searchsorted(last, side="right"))
        parts.append(_fit_month(_windows(series, bars[end - 1], end), month, last))
    if not parts:
        return pd.DataFrame({name: [] for name in ("month", "symbol", "fitted_to", "parameters", "metrics")})
    return pd.concat(parts, ignore_index=True)


def _fit_month(usable: Sequence[BarSeries], month: pd.Timestamp, last: pd.Timestamp) -> pd.DataFrame:
    """Rows of one month, fitted to its windows."""
    if not usable:
        raise ValueError(
            f"no symbol has {MINIMUM_BARS} bars that move up to {last:%Y-%m-%d}, so no volatility model can be fitted "
            f"for {month:%Y-%m}; load earlier bars or begin with a later month"
        )
    fitted = {window.symbol: fit_symbol(window, _estimator(window)) for window in usable}
    rows: dict[str, tuple[object, dict[str, float]]] = {
        symbol: (asdict(model), metrics) for symbol, (model, metrics) in fitted.items()
    }
    losses = [metrics for _, metrics in fitted.values()]
    models = {symbol: model for symbol, (model, _) in fitted.items()}
    rows[POOLED] = (
        {estimator: asdict(pool(members)) for estimator, members in _pools(usable, models).items()},
        {name: float(np.median([own[name] for own in losses])) for name in losses[0]},
    )
    ordered = sorted(rows)
    return pd.DataFrame(
        {
            "month": month,
            "symbol": ordered,
            "fitted_to": last,
            "parameters": [json.dumps(rows[symbol][0], sort_keys=True) for symbol in ordered],
            "metrics": [json.dumps(rows[symbol][1], sort_keys=True) for symbol in ordered],
        }
    )


def _pools(windows: Sequence[BarSeries], models: dict[str, SymbolModel]) -> dict[Estimator, list[SymbolModel]]:
    """Models to pool for each estimator; there always are some for closes, which every symbol has."""
    ranged = [model for model in models.values() if model.estimator == "range"]
    closes = [model for model in models.values() if model.estimator == "close"]
    if not closes:
        some = windows[:POOL_OF_CLOSES]
        closes = [fit_symbol(window, "close", models[window.symbol].garch)[0] for window in some]
    return {"range": ranged, "close": closes} if ranged else {"close": closes}


def _windows(series: Sequence[BarSeries], bars: NDArray[np.intp], end: int) -> list[BarSeries]:
    """Last bars before a session's position of each symbol that has enough of them, by their numbers there."""
    windows = [_window(own, end) for own, count in zip(series, bars, strict=True) if count >= MINIMUM_BARS]
    return [window for window in windows if window is not None]


def _window(series: BarSeries, end: int) -> BarSeries | None:
    """Last bars before a session's position; None where too few of them move."""
    stop = int(np.searchsorted(series.at, end))
    window = series.window(stop - WINDOW, stop)
    needed = MOVING_SHARE * max(len(window.returns), MINIMUM_BARS - 1)
    return window if np.count_nonzero(window.returns) >= needed else None


def _estimator(window: BarSeries) -> Estimator:
    return "range" if np.mean(window.ranged) >= RANGE_SHARE else "close"
