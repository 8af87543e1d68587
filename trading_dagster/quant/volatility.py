"""Volatility, loss quantiles and stop distances as of each session, by the models of its month.

Belongs here: filtering past bars with the month's parameters. Does not belong here: their estimation
(`volatility_models`), how much risk to take.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from trading_dagster.quant.average_true_range import average_true_range
from trading_dagster.quant.bar_series import BarSeries, bar_series
from trading_dagster.quant.har import Estimator, har_features
from trading_dagster.quant.prices import PriceHistory
from trading_dagster.quant.tail_risk import loss_fraction
from trading_dagster.quant.variance_combination import (
    SymbolModel,
    ewma_variance,
    own_scale,
    standardised,
    unit_forecasts,
)
from trading_dagster.quant.volatility_models import MINIMUM_BARS, POOLED, RANGE_SHARE

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]
MonthModels = Mapping[tuple[pd.Timestamp, str], str]

WARM_UP = 1000
"""Bars before the month that its filters run over; what came earlier has a weight below 1e-4 in all of them."""

RANK_WINDOW = 252
STOP_MULTIPLES = (3.0, 4.0)
"""Average true ranges that a stop is away in the calm and in the turbulent regime."""

RANGE_OF_DEVIATION = float(np.sqrt(8.0 / np.pi))
"""Mean range of a Brownian motion by its standard deviation, 1.596 (Feller, W. (1951). "The asymptotic distribution of
the range of sums of independent random variables". Annals of Mathematical Statistics 22(3), 427-432)."""

ESTIMATES = (
    "sigma_1d",
    "sigma_21d",
    "sigma_har",
    "sigma_garch",
    "sigma_ewma",
    "sigma_rank",
    "var_95",
    "var_99",
    "es_975",
)


def volatility(
    history: PriceHistory,
    sessions: pd.DatetimeIndex,
    models: pd.DataFrame,
    regime: pd.DataFrame,
    *,
    one_model: bool = False,
) -> pd.DataFrame:
    """Forecast volatility and loss quantiles as of each session.

    Parameters
    ----------
    history : PriceHistory
    sessions : DatetimeIndex
        Sessions to return.
    models : DataFrame
        Of `fit_volatility_models`; a session is served by those of its calendar month.
    regime : DataFrame
        Columns session, symbol and prob_turbulent, for each row that is returned.
    one_model : bool
        Let the models of a single month, the only one in `models`, serve all sessions: what a later model learns from
        is computed with its own parameters throughout. The filters then begin with the history.

    Returns
    -------
    DataFrame
        One row a session and symbol from the symbol's 500th bar on, sorted by session, then symbol:

        - sigma_1d, sigma_21d: standard deviation *per day* of log returns over the next 1 and 21 sessions;
        - sigma_har, sigma_garch, sigma_ewma: those of the two components and of RiskMetrics, one session ahead;
        - sigma_rank: share of the last 252 bars, this one included, or of as many as there are, whose sigma_1d by
          the same parameters was not above this one's, in (0, 1];
        - var_95, var_99, es_975: losses of one session as positive fractions of the position;
        - atr: average true range, price as traded at the session; missing where the session has no range;
        - stop_multiple, stop_distance: average true ranges that a stop is away, and the distance they make, price as
          traded at the session; where there are none, a range is taken as ``sqrt(8 / pi) = 1.596`` standard
          deviations of one session's price, its mean for a Brownian motion;
        - fitted: ``own``, or ``pooled`` where the symbol has no row of its own in the month.

    Raises
    ------
    ValueError
        If a session's month has no models, or a row has no regime.

    Notes
    -----
    The filters begin 1,000 bars before the month and run through it, so a row depends on the bars up to its session
    and on the month's parameters only. The losses are the multiples of sigma_1d that the standardised residuals of
    the fit show, through ``1 - exp(-x)``. On a session without a bar the last bar's forecasts are carried on.
    So they are from the sixth bar of a run of unchanged closes on, until the price moves: a halt does not tell how far
    the price will go when it ends. The bars of the filters and of the rank are those that `bar_series` keeps.

    A symbol without any movement before the month has nothing to be scaled by; all its deviations are
    RiskMetrics', which is 0 while the price is constant, and so are its losses. RiskMetrics' serves as well while
    fewer bars have moved than the regression's averages are over.
    """
    at = np.flatnonzero(history.sessions.isin(sessions))
    parameters: MonthModels = {
        (pd.Timestamp(month), symbol): text
        for month, symbol, text in zip(models["month"], models["symbol"], models["parameters"], strict=True)
    }
    months = [_all_at_once(history, at, models)] if one_model else _positions_by_month(history.sessions, at, parameters)
    bars = history.observed.to_numpy().cumsum(axis=0).T
    parts = [
        part
        for series, count in zip(bar_series(history), bars, strict=True)
        for part in _symbol_parts(series, count, months, parameters)
    ]
    return _with_stops(_rows(parts, history), history, regime)


def _all_at_once(history: PriceHistory, at: Positions, models: pd.DataFrame) -> tuple[pd.Timestamp, int, Positions]:
    """All positions as one month, which comes after the history and is warmed up by all of it."""
    (month,) = models["month"].unique()
    return pd.Timestamp(month), len(history.sessions), at


def _positions_by_month(
    sessions: pd.DatetimeIndex, at: Positions, parameters: MonthModels
) -> list[tuple[pd.Timestamp, int, Positions]]:
    """Of each month wanted its first day, the position of its first session, and the positions wanted."""
    starts = sessions[at].to_period("M").to_timestamp()
    found = []
    for month in starts.unique():
        if (month, POOLED) not in parameters:
            raise ValueError(
                f"no volatility models for {month:%Y-%m}; fit them first: "
                f"dagster asset materialize --select volatility_model --partition {month:%Y-%m-%d}"
            )
        found.append((month, int(sessions.searchsorted(month)), at[starts == month]))
    return found


def _symbol_parts(
    series: BarSeries,
    count: Positions,
    months: Sequence[tuple[pd.Timestamp, int, Positions]],
    parameters: MonthModels,
) -> Iterator[tuple[str, Positions, dict[str, Floats], str]]:
    """Symbol, positions, columns and whose parameters, of each month in which a symbol has rows.

    `count` is the number of bars up to each session, those of long standstills included.
    """
    for month, first, wanted in months:
        wanted = wanted[count[wanted] >= MINIMUM_BARS]
        if not len(wanted):
            continue
        # of each session the last bar
        bar = np.searchsorted(series.at, wanted, side="right") - 1
        begin = int(np.searchsorted(series.at, first))
        start = max(begin - WARM_UP, 0) if wanted[0] >= first else 0
        window = series.window(start, int(bar[-1]) + 1)
        own = parameters.get((month, series.symbol))
        model = _model(own or parameters[month, POOLED], window, begin - start, pooled=own is None)
        columns = _filtered(window, model, bar - start)
        yield series.symbol, wanted, columns, "own" if own else "pooled"


def _model(text: str, window: BarSeries, before: int, *, pooled: bool) -> SymbolModel:
    """Parameters of a symbol; those of the pool in its own scale, by its bars before the month."""
    values = json.loads(text)
    if not pooled:
        return SymbolModel.from_dict(values)
    estimator: Estimator = "range" if np.mean(window.ranged[:before]) >= RANGE_SHARE else "close"
    if estimator not in values:
        estimator = "close"
    return replace(SymbolModel.from_dict(values[estimator]), scale=own_scale(window.returns[:before]))


def _filtered(window: BarSeries, model: SymbolModel, bar: Positions) -> dict[str, Floats]:
    """Columns of the bars wanted, by a window that begins with the warm-up."""
    ewma = np.sqrt(ewma_variance(window.returns))
    scale = model.scale or 0.0
    if scale > 0.0:
        returns, variance = standardised(window, scale, model.estimator)
        forecasts = unit_forecasts(model, returns, har_features(variance, returns, model.estimator))
        variances = (forecasts.combined, forecasts.combined_21d, forecasts.har, forecasts.garch)
        one, month, har, garch = (
            np.where(np.isnan(variance), ewma, scale * np.sqrt(variance)) for variance in variances
        )
    else:
        one = month = har = garch = ewma
    sigma = one[bar]
    return {
        "sigma_1d": sigma,
        "sigma_21d": month[bar],
        "sigma_har": har[bar],
        "sigma_garch": garch[bar],
        "sigma_ewma": ewma[bar],
        "sigma_rank": _rank(one, bar),
        "var_95": loss_fraction(model.tail.quantile_95, sigma),
        "var_99": loss_fraction(model.tail.quantile_99, sigma),
        "es_975": loss_fraction(model.tail.shortfall_975, sigma),
    }


def _rank(sigma: Floats, bar: Positions) -> Floats:
    """Share of the last values not above each; there may be fewer of them than the window has."""
    padded = np.concatenate([np.full(RANK_WINDOW - 1, np.inf), sigma])
    last = sliding_window_view(padded, RANK_WINDOW)[bar]
    return np.count_nonzero(last <= last[:, -1:], axis=1) / np.minimum(bar + 1, RANK_WINDOW)


def _rows(parts: Sequence[tuple[str, Positions, dict[str, Floats], str]], history: PriceHistory) -> pd.DataFrame:
    """Rows of all symbols, sorted, with the position of their session."""
    lengths = [len(wanted) for _, wanted, _, _ in parts]
    at = np.concatenate([np.empty(0, dtype=np.intp), *(wanted for _, wanted, _, _ in parts)])
    values = {name: np.concatenate([np.empty(0), *(part[2][name] for part in parts)]) for name in ESTIMATES}
    rows = pd.DataFrame(
        {
            "session": history.sessions[at],
            "symbol": pd.Series(np.repeat([part[0] for part in parts], lengths), dtype="str"),
            **values,
            "fitted": pd.Series(np.repeat([part[3] for part in parts], lengths), dtype="str"),
        }
    )
    return rows.sort_values(["session", "symbol"], ignore_index=True)


def _with_stops(rows: pd.DataFrame, history: PriceHistory, regime: pd.DataFrame) -> pd.DataFrame:
    """Average true range and stop in price as traded, the multiple by the probability of turbulence."""
    keyed = regime.set_index(["session", "symbol"])["prob_turbulent"]
    wanted = pd.MultiIndex.from_arrays([rows["session"], rows["symbol"]])
    turbulent = keyed.reindex(wanted).to_numpy(dtype="float64")
    if np.isnan(turbulent).any():
        session, symbol = wanted[int(np.flatnonzero(np.isnan(turbulent))[0])]
        raise ValueError(f"{symbol} has no prob_turbulent at {session:%Y-%m-%d}; materialise `regime` for it first")
    at = history.sessions.get_indexer(rows["session"])
    column = pd.Index(history.symbols).get_indexer(rows["symbol"])
    calm, wild = STOP_MULTIPLES
    rows["atr"] = average_true_range(history).to_numpy()[at, column]
    rows["stop_multiple"] = calm + (wild - calm) * turbulent
    usual = RANGE_OF_DEVIATION * rows["sigma_1d"] * history.close.to_numpy()[at, column]
    rows["stop_distance"] = rows["stop_multiple"] * rows["atr"].where(rows["atr"].notna(), usual)
    fitted = rows.pop("fitted")
    return rows.assign(fitted=fitted)
