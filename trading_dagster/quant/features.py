"""Features of the return forecast: one documented table, one vectorised pass.

Belongs here: what the forecast may know. Does not belong here: the model.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trading_dagster.quant.prices import PriceHistory, long_rows

MOMENTUM_WINDOWS = (21, 63, 126)
PHASE_CYCLES = (20, 40, 80)
"""Nominal cycles whose phase is a feature."""

FEATURES: dict[str, str] = {
    "momentum_21": "log return of the last 21 sessions / (sigma sqrt 21)",
    "momentum_63": "log return of the last 63 sessions / (sigma sqrt 63)",
    "momentum_126": "log return of the last 126 sessions / (sigma sqrt 126)",
    "momentum_252_21": "log return from 252 to 21 sessions ago / (sigma sqrt 231); Jegadeesh and Titman (1993)",
    "reversal_5": "minus the log return of the last 5 sessions / (sigma sqrt 5); Lehmann (1990)",
    "relative_reversal_5": "reversal_5 less its mean over the universe",
    "sigma": "forecast daily volatility",
    "sigma_ratio": "log of sigma over the standard deviation of the last 252 log returns",
    "phase_cosine_20": "cosine of the 20-bar cycle's phase",
    "phase_sine_20": "sine of the 20-bar cycle's phase",
    "phase_cosine_40": "cosine of the 40-bar cycle's phase",
    "phase_sine_40": "sine of the 40-bar cycle's phase",
    "phase_cosine_80": "cosine of the 80-bar cycle's phase",
    "phase_sine_80": "sine of the 80-bar cycle's phase",
    "trend": "distance of price from its 200-bar mean, deviations of a random walk",
    "turbulent": "probability of the symbol's turbulent regime",
    "market_trend": "trend of the equal-weight market",
    "market_turbulent": "probability of the market's turbulent regime",
}
"""Feature name to what it is; the order is the model's."""


def features(
    history: PriceHistory,
    sessions: pd.DatetimeIndex,
    phasing: pd.DataFrame,
    regime: pd.DataFrame,
    volatility: pd.DataFrame,
    market_symbol: str,
) -> pd.DataFrame:
    """Assemble the features of each symbol at each session.

    Parameters
    ----------
    history : PriceHistory
    sessions : DatetimeIndex
        Sessions to return.
    phasing, regime, volatility : DataFrame
        Rows of those stages for the same sessions.
    market_symbol : str
        Row name of the equal-weight market in `regime`.

    Returns
    -------
    DataFrame
        Columns session, symbol and `FEATURES`; rows with a missing feature are kept.
    """
    log_price = np.log(history.total_return)
    yearly = history.log_return.rolling(252).std()
    moves = {f"momentum_{window}": (log_price.diff(window), window) for window in MOMENTUM_WINDOWS}
    moves["momentum_252_21"] = (log_price.shift(21).diff(231), 231)
    moves["reversal_5"] = (-log_price.diff(5), 5)
    columns = {name: move for name, (move, _) in moves.items()} | {"yearly": yearly}
    rows = long_rows(columns, sessions)
    sigma = volatility.rename(columns={"sigma_1d": "sigma"})[["session", "symbol", "sigma"]]
    rows = rows.merge(sigma, on=["session", "symbol"], how="left")
    # a price that never moved has no scale: its ratios are missing, not infinite
    scale = rows["sigma"].where(rows["sigma"] > 0)
    for name, (_, window) in moves.items():
        rows[name] = rows[name] / (scale * np.sqrt(window))
    rows["relative_reversal_5"] = rows["reversal_5"] - _mean_over_symbols(rows["reversal_5"], len(history.symbols))
    rows["sigma_ratio"] = np.log(scale / rows["yearly"].where(rows["yearly"] > 0))

    angles = phasing.assign(angle=2.0 * np.pi * phasing["phase"])
    for cycle, part in angles[angles["cycle"].isin(PHASE_CYCLES)].groupby("cycle"):
        # a constant price has no phase: no evidence for either side
        part = part[["session", "symbol"]].assign(
            **{
                f"phase_cosine_{cycle}": np.cos(part["angle"]).fillna(0.0),
                f"phase_sine_{cycle}": np.sin(part["angle"]).fillna(0.0),
            }
        )
        rows = rows.merge(part, on=["session", "symbol"], how="left")

    states = regime.rename(columns={"prob_turbulent": "turbulent"})[["session", "symbol", "trend", "turbulent"]]
    market = states[states["symbol"] == market_symbol].drop(columns="symbol")
    rows = rows.merge(states, on=["session", "symbol"], how="left")
    market = market.rename(columns={"trend": "market_trend", "turbulent": "market_turbulent"})
    rows = rows.merge(market, on="session", how="left")
    return rows[["session", "symbol", *FEATURES]]


def _mean_over_symbols(values: pd.Series, symbols: int) -> NDArray[np.float64]:
    """Mean of each session's values, at each of its rows; summed row by row, so that no other session has a say.

    Rows are complete: all symbols of one session after all of another, as `long_rows` builds them.
    """
    grid = values.to_numpy(dtype="float64").reshape(-1, symbols)
    count = np.isfinite(grid).sum(axis=1)
    with np.errstate(invalid="ignore"):
        mean = np.where(np.isfinite(grid), grid, 0.0).sum(axis=1) / count
    return np.repeat(mean, symbols)
