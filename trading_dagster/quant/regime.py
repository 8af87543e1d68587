"""Regime: trend and volatility of each symbol and of the equal-weight market, by a fixed, causal rule.

Belongs here: naming the state. Does not belong here: how much to hold in it (the allocation scales by
`suitability`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr

from trading_dagster.quant.prices import PriceHistory, long_rows

TREND_WINDOW = 200
VOLATILITY_WINDOW = 21
REFERENCE_WINDOW = 252
REFERENCE_MINIMUM = 126

SUITABILITY = {"bull_quiet": 1.0, "bull_volatile": 0.8, "bear_quiet": 0.6, "bear_volatile": 0.4}
"""Share of the full exposure that each state suits, ordered from least to most risk."""


def regime(history: PriceHistory, sessions: pd.DatetimeIndex, market_symbol: str) -> pd.DataFrame:
    """Classify each symbol and the equal-weight market at each session.

    Parameters
    ----------
    history : PriceHistory
    sessions : DatetimeIndex
        Sessions to return.
    market_symbol : str
        Row name of the equal-weight market.

    Returns
    -------
    DataFrame
        One row a session and symbol: regime (the most probable state), prob_bull_quiet, prob_bull_volatile,
        prob_bear_quiet, prob_bear_volatile (they sum to 1), suitability (in [0.4, 1]). Rows before a
        symbol's 200th bar are absent.

    Notes
    -----
    Trend: ``z = (log P - log SMA_200) / (s sqrt(n / 3))`` with s the daily deviation over the same 200 bars;
    under a driftless random walk the distance of price from its n-bar mean has variance
    ``s^2 (n - 1)(2 n - 1) / (6 n)``, about ``s^2 n / 3``, so z is standard normal and its distribution
    function is the probability of an upward trend. Volatility: the logarithm of the 21-bar deviation over
    its median of the last 252 bars; the logarithm of a deviation from m normal returns has standard error
    ``1 / sqrt(2 m)``, which scales it to a probability likewise. The two are taken as independent.
    """
    value = _with_market(history, market_symbol)
    log_value = np.log(value)
    log_return = log_value.diff()

    n = TREND_WINDOW
    deviation = log_return.rolling(n - 1).std() * np.sqrt((n - 1) * (2 * n - 1) / (6 * n))
    distance = log_value - np.log(value.rolling(n).mean())
    # a price that never moved has no trend: probability one half
    trend = (distance / deviation).where(deviation > 0, distance * 0.0)

    recent = log_return.rolling(VOLATILITY_WINDOW).std()
    usual = recent.rolling(REFERENCE_WINDOW, min_periods=REFERENCE_MINIMUM).median()
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.log(recent / usual) * np.sqrt(2 * VOLATILITY_WINDOW)

    bull = trend.apply(ndtr)
    # a price that has stopped moving is quiet for certain; one that never moved has no usual to compare with
    volatile = excess.fillna(0.0).apply(ndtr)
    probabilities = {
        "bull_quiet": bull * (1 - volatile),
        "bull_volatile": bull * volatile,
        "bear_quiet": (1 - bull) * (1 - volatile),
        "bear_volatile": (1 - bull) * volatile,
    }
    suitability = sum(p * SUITABILITY[state] for state, p in probabilities.items())
    columns = {f"prob_{state}": p for state, p in probabilities.items()}
    rows = long_rows({**columns, "suitability": suitability}, sessions)
    rows = rows.dropna(subset=["suitability"]).sort_values(["session", "symbol"], ignore_index=True)
    states = np.array(list(probabilities), dtype=object)
    best = rows[list(columns)].to_numpy().argmax(axis=1) if len(rows) else np.array([], dtype=int)
    rows.insert(2, "regime", states[best])
    return rows


def _with_market(history: PriceHistory, market_symbol: str) -> pd.DataFrame:
    """Total-return values of all symbols, and of a market that holds each in equal weight every day."""
    value = history.total_return
    mean_return = value.pct_change(fill_method=None).mean(axis=1)
    # the market exists from the first session at which some symbol has a return
    market = (1.0 + mean_return.fillna(0.0)).cumprod().where(mean_return.notna().cummax())
    return value.assign(**{market_symbol: market})
