"""Regime: calm or turbulent, of each symbol and of the equal-weight market, by models fitted every month.

Belongs here: which window a model is fitted on, which parameters serve a session, the rows. Does not belong here: the
models, and how much to hold in a state (the allocation scales by `suitability`).
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trading_dagster.quant.prices import PriceHistory, long_rows
from trading_dagster.quant.regime_features import simple_returns, trend_score, values_with_market
from trading_dagster.quant.regime_models import REGIME_MODELS, Parameters, RegimeModel, sessions_in_state

MODELS = ("jump", "hmm")
STATES = ("calm", "turbulent")
"""Ordered from least to most risk."""

SUITABILITY = {"calm": 1.0, "turbulent": 0.4}
"""Share of the full exposure that each state suits."""

FIT_WINDOW = 3000
"""Sessions that a model is fitted on, at most: about twelve years."""

LEAST_BARS = 252
"""Bars of a symbol before it has a model of its own, and before it has rows."""

WARM_UP = 504
"""Sessions before a month that its filter starts at."""

LONGEST_MONTH = 31
FIT_COLUMNS, FILTER_COLUMNS = 256, 4096
"""Series worked on at once, which bounds the memory."""

THREADS = 2
"""Chunks of fits at once; each has the same bits however many there are."""

Floats = NDArray[np.float64]


class RegimeModelError(ValueError):
    """A model is missing, or cannot be fitted."""


@dataclass(frozen=True)
class _Series:
    """What a model sees of all symbols, the market last, with room to cut windows that stick out.

    Attributes
    ----------
    symbols : list of str
    sessions : DatetimeIndex
    bars : ndarray of int (sessions, symbols)
        Bars up to and including each session.
    padded : ndarray (inputs, FIT_WINDOW + sessions + LONGEST_MONTH, symbols)
    """

    symbols: list[str]
    sessions: pd.DatetimeIndex
    bars: NDArray[np.int64]
    padded: Floats

    def windows(self, first: NDArray[np.int64], column: NDArray[np.intp], length: int) -> Floats:
        """Cut `length` sessions from positions `first` of the given columns: (inputs, length, series)."""
        rows = FIT_WINDOW + first + np.arange(length)[:, None]
        return self.padded[:, rows, column]


def fit_regime_models(
    history: PriceHistory,
    months: pd.DatetimeIndex,
    fitted_to: pd.DatetimeIndex,
    market_symbol: str,
    model: str = "jump",
) -> pd.DataFrame:
    """Fit a model to each symbol and to the equal-weight market for each month.

    Parameters
    ----------
    history : PriceHistory
    months : DatetimeIndex
        First day of each calendar month that is served.
    fitted_to : DatetimeIndex
        Last session before each of them; nothing after it is looked at.
    market_symbol : str
        Row name of the equal-weight market.
    model : str
        One of `MODELS`.

    Returns
    -------
    DataFrame
        One row a month and symbol: month, symbol, fitted_to, model, parameters and metrics (JSON). Symbols with fewer
        than 252 bars at `fitted_to` have no row.

    Raises
    ------
    RegimeModelError
        If the model is unknown, `fitted_to` is no session before the month, or the market has too few bars.

    Notes
    -----
    Each fit sees the last 3,000 sessions up to `fitted_to`, or what there is of them, and starts afresh, so a month's
    row has the same bytes whatever other months and symbols are fitted with it.
    """
    kind = _model(model)
    series = _series(history, market_symbol, kind)
    jobs = [
        (number, int(end), int(column))
        for number, end in enumerate(_ends(series, months, fitted_to))
        for column in np.flatnonzero(series.bars[end] >= LEAST_BARS)
    ]

    def fitted(start: int) -> list[tuple[Parameters, Parameters]]:
        _, end, column = np.array(jobs[start : start + FIT_COLUMNS], dtype=np.intp).T
        return kind.fit(series.windows(end - FIT_WINDOW + 1, column, FIT_WINDOW))

    # numpy lets go of the interpreter while it works on arrays of this size
    with ThreadPoolExecutor(THREADS) as pool:
        fits = [fit for part in pool.map(fitted, range(0, len(jobs), FIT_COLUMNS)) for fit in part]
    at = [number for number, _, _ in jobs]
    rows = pd.DataFrame(
        {
            "month": months[at],
            "symbol": np.array([series.symbols[column] for _, _, column in jobs], dtype=object),
            "fitted_to": fitted_to[at],
            "model": model,
            "parameters": [json.dumps(parameters) for parameters, _ in fits],
            "metrics": [json.dumps(metrics) for _, metrics in fits],
        }
    )
    return rows.sort_values(["month", "symbol"], ignore_index=True)


def regime(history: PriceHistory, sessions: pd.DatetimeIndex, market_symbol: str, models: pd.DataFrame) -> pd.DataFrame:
    """Tell the state of each symbol and of the equal-weight market at each session.

    Parameters
    ----------
    history : PriceHistory
    sessions : DatetimeIndex
        Sessions to return; those absent from the history yield no rows.
    market_symbol : str
        Row name of the equal-weight market.
    models : DataFrame
        Rows of `fit_regime_models`, of every calendar month of `sessions`.

    Returns
    -------
    DataFrame
        One row a session and symbol, sorted so: regime (calm or turbulent), prob_calm and prob_turbulent (they sum
        to 1), suitability (in [0.4, 1], the mean over the states), sessions_in_regime (1 on the session of a switch;
        counted within the warm-up), trend (see `trend_score`), fitted (``own``, or ``market`` for a symbol that
        borrows the market's parameters in its own units). Rows begin at a symbol's 252nd bar.

    Raises
    ------
    RegimeModelError
        If a month has no model of the market, or models of two kinds.

    Notes
    -----
    A month's filter starts 504 sessions before the month's first session and runs with the month's parameters, so a
    row depends on the prices up to its session and on the month's parameters alone. A session without a bar has the
    return 0. With the jump model the probability is that of what hindsight will say (`jump_model.calibrated_slope`) and
    the state is the likelier one; with the hidden Markov model it is filtered, and the state switches only when the
    other's passes a threshold.
    """
    sessions = history.sessions[history.sessions.isin(sessions)]
    values = values_with_market(history, market_symbol)
    names = [str(symbol) for symbol in values.columns]
    shape = (len(sessions), len(names))
    probability, turbulent, age = np.full(shape, np.nan), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.int64)
    own = np.zeros(shape, dtype=bool)
    month_of = sessions.to_period("M")
    kinds = _kinds(models, month_of, market_symbol)
    for name in sorted(set(kinds.values())):
        series = _series(history, market_symbol, _model(name), values)
        months = [month for month, kind in kinds.items() if kind == name]
        step = max(1, FILTER_COLUMNS // len(names))
        for start in range(0, len(months), step):
            part = months[start : start + step]
            rows = np.flatnonzero(month_of.isin(part))
            found = _filter_months(series, _model(name), sessions[rows], part, models, market_symbol)
            probability[rows], turbulent[rows], age[rows], own[rows] = found
    frame = {
        "regime": np.array(STATES, dtype=object)[turbulent.astype(np.intp)],
        "prob_calm": 1.0 - probability,
        "prob_turbulent": probability,
        "suitability": SUITABILITY["calm"] + (SUITABILITY["turbulent"] - SUITABILITY["calm"]) * probability,
        "sessions_in_regime": age,
        "trend": trend_score(values).loc[sessions].to_numpy(),
        "fitted": np.array(["market", "own"], dtype=object)[own.astype(np.intp)],
        "bars": _bars(history, values).loc[sessions].to_numpy(),
    }
    rows = long_rows({k: pd.DataFrame(v, index=sessions, columns=names) for k, v in frame.items()}, sessions)
    rows = rows[rows["bars"] >= LEAST_BARS].drop(columns="bars")
    return rows.sort_values(["session", "symbol"], ignore_index=True)


def _model(name: str) -> RegimeModel:
    if name not in MODELS:
        raise RegimeModelError(f"Regime model {name!r} is unknown; choose one of {', '.join(MODELS)}")
    return REGIME_MODELS[name]


def _series(
    history: PriceHistory, market_symbol: str, model: RegimeModel, values: pd.DataFrame | None = None
) -> _Series:
    values = values_with_market(history, market_symbol) if values is None else values
    inputs = model.inputs(simple_returns(values))
    padded = np.full((len(inputs), FIT_WINDOW + len(values) + LONGEST_MONTH, values.shape[1]), np.nan)
    padded[:, FIT_WINDOW : FIT_WINDOW + len(values)] = inputs
    return _Series(list(values.columns), history.sessions, _bars(history, values).to_numpy(), padded)


def _bars(history: PriceHistory, values: pd.DataFrame) -> pd.DataFrame:
    """Bars of each symbol so far; the market has one a session from its first value on."""
    bars = history.bar_count.astype("int64")
    return bars.assign(**{name: values[name].notna().cumsum() for name in values.columns[len(bars.columns) :]})


def _ends(series: _Series, months: pd.DatetimeIndex, fitted_to: pd.DatetimeIndex) -> NDArray[np.intp]:
    """Positions of the last sessions of the fit windows."""
    if len(months) != len(fitted_to):
        raise RegimeModelError(f"{len(months)} months but {len(fitted_to)} dates in fitted_to; give one for each")
    ends = series.sessions.get_indexer(fitted_to)
    for month, last, end in zip(months, fitted_to, ends, strict=True):
        if end < 0 or last >= month:
            raise RegimeModelError(
                f"fitted_to {last:%Y-%m-%d} of {month:%Y-%m} is no session of the history before the month; "
                "give the last session before it"
            )
        if series.bars[end, -1] < LEAST_BARS:
            raise RegimeModelError(
                f"{series.symbols[-1]} has {series.bars[end, -1]} bars on {last:%Y-%m-%d}, the regime model of "
                f"{month:%Y-%m} needs {LEAST_BARS}; begin later or fetch earlier bars"
            )
    return ends


def _kinds(models: pd.DataFrame, month_of: pd.PeriodIndex, market_symbol: str) -> dict[pd.Period, str]:
    """Name of the model of each month wanted."""
    market = models[models["symbol"] == market_symbol]
    names = dict(zip(pd.DatetimeIndex(market["month"]).to_period("M"), market["model"], strict=True))
    kinds = models.groupby(pd.DatetimeIndex(models["month"]).to_period("M"))["model"].nunique()
    for month in month_of.unique():
        if month not in names:
            raise RegimeModelError(
                f"No regime model of {market_symbol} for {month}; fit it first: "
                f"dagster asset materialize --select regime_model --partition {month}-01"
            )
        if kinds[month] > 1:
            raise RegimeModelError(f"Regime models of {kinds[month]} kinds for {month}; keep the rows of one of them")
    return {month: names[month] for month in month_of.unique()}


def _filter_months(
    series: _Series,
    model: RegimeModel,
    sessions: pd.DatetimeIndex,
    months: list[pd.Period],
    models: pd.DataFrame,
    market_symbol: str,
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64], NDArray[np.bool_]]:
    """Probability of turbulent, state, sessions in it, and whether parameters are own: each (sessions, symbols)."""
    firsts = np.array([series.sessions.searchsorted(month.start_time) for month in months])
    columns = np.arange(len(series.symbols))
    parameters, own = _parameters(series, model, months, models, market_symbol)
    inputs = series.windows(
        np.repeat(firsts - WARM_UP, len(columns)), np.tile(columns, len(months)), WARM_UP + LONGEST_MONTH
    )
    inference = model.infer(inputs, parameters)
    age = sessions_in_state(inference.turbulent, np.isfinite(inputs[0]))
    number = pd.Index(months).get_indexer(sessions.to_period("M"))
    row = WARM_UP + series.sessions.get_indexer(sessions) - firsts[number]

    shape = (len(age), len(months), len(columns))
    return (
        inference.probability.reshape(shape)[row, number],
        inference.turbulent.reshape(shape)[row, number],
        age.reshape(shape)[row, number],
        own[number],
    )


def _parameters(
    series: _Series, model: RegimeModel, months: list[pd.Period], models: pd.DataFrame, market_symbol: str
) -> tuple[list[Parameters], NDArray[np.bool_]]:
    """Parameters of each month and symbol, in that order, and whether they are its own (months, symbols)."""
    in_month = pd.DatetimeIndex(models["month"]).to_period("M")
    chosen = models[in_month.isin(months)]
    keys = zip(in_month[in_month.isin(months)], chosen["symbol"], strict=True)
    stored = dict(zip(keys, zip(chosen["parameters"], chosen["fitted_to"], strict=True), strict=True))
    own = np.array([[(month, symbol) in stored for symbol in series.symbols] for month in months])
    number, column = np.nonzero(~own)
    ends = series.sessions.get_indexer([stored[months[at], market_symbol][1] for at in number])
    units = model.units(series.windows(ends - FIT_WINDOW + 1, column, FIT_WINDOW)) if len(column) else []
    borrowed = dict(zip(zip(number.tolist(), column.tolist(), strict=True), units, strict=True))
    market = [json.loads(stored[month, market_symbol][0]) for month in months]
    return [
        json.loads(stored[month, symbol][0]) if own[at, col] else market[at] | borrowed[at, col]
        for at, month in enumerate(months)
        for col, symbol in enumerate(series.symbols)
    ], own
