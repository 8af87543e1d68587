"""Volatility, value at risk and expected shortfall by exponential weighting.

Belongs here: the risk of one session or month ahead, and stop distances. Does not belong here: how much
risk to take.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy.special import ndtr

from trading_dagster.quant.prices import PriceHistory, long_rows

DECAY = 0.94
"""RiskMetrics' decay for daily data."""

ATR_WINDOW = 14
STOP_MULTIPLE = 3.0


def volatility(history: PriceHistory, sessions: pd.DatetimeIndex) -> pd.DataFrame:
    """Forecast volatility and loss quantiles as of each session.

    Parameters
    ----------
    history : PriceHistory
    sessions : DatetimeIndex
        Sessions to return.

    Returns
    -------
    DataFrame
        One row a session and symbol: sigma_1d and sigma_21d, the standard deviation *per day* of log returns
        over the next 1 and 21 sessions (equal here: an exponential average expects no reversion); var_95,
        var_99 and es_975, one-session losses as positive fractions of the position; atr, the average true
        range in price as of the session, missing where the source has no ranges; stop_distance in price.
        Rows before a symbol's second bar are absent.

    Notes
    -----
    ``sigma^2_t`` is the mean of squared log returns with weights ``0.94 ** i``, i sessions back [1]_. With
    log returns normal around zero, the loss not exceeded with probability p is
    ``1 - exp(-z_p sigma)``, and the mean loss beyond the quantile of tail a is
    ``1 - exp(sigma^2 / 2) Phi(-z - sigma) / a``, z the normal quantile of 1 - a. Normal tails are thinner
    than those of returns: expect more breaches of var_99 than one in a hundred. The average true range is
    Wilder's, with 14 sessions [2]_. The stop is 3 ranges away, or 3 sigma of price without ranges.

    References
    ----------
    .. [1] J.P. Morgan/Reuters (1996). RiskMetrics - Technical Document, 4th ed., p. 78-81 and 97.
    .. [2] Wilder, J. W. (1978). New Concepts in Technical Trading Systems, p. 21.
    """
    returns = history.log_return
    variance = (returns**2).ewm(alpha=1.0 - DECAY, ignore_na=True).mean()
    sigma = np.sqrt(variance)
    atr = _average_true_range(history)
    distance = (STOP_MULTIPLE * atr).where(atr.notna(), STOP_MULTIPLE * sigma * history.close)
    columns = {
        "sigma_1d": sigma,
        "sigma_21d": sigma,
        "var_95": value_at_risk(sigma, 0.95),
        "var_99": value_at_risk(sigma, 0.99),
        "es_975": expected_shortfall(sigma, 0.975),
        "atr": atr,
        "stop_distance": distance,
    }
    rows = long_rows(columns, sessions).dropna(subset=["sigma_1d"])
    return rows.sort_values(["session", "symbol"], ignore_index=True)


def value_at_risk(sigma: pd.DataFrame, probability: float) -> pd.DataFrame:
    """Loss fraction that is not exceeded with `probability`, log returns being N(0, sigma^2)."""
    return -np.expm1(-NormalDist().inv_cdf(probability) * sigma)


def expected_shortfall(sigma: pd.DataFrame, probability: float) -> pd.DataFrame:
    """Mean loss fraction beyond the `probability` quantile, log returns being N(0, sigma^2)."""
    quantile = NormalDist().inv_cdf(probability)
    tail = (-quantile - sigma).apply(ndtr)
    return 1.0 - np.exp(sigma**2 / 2.0) * tail / (1.0 - probability)


def _average_true_range(history: PriceHistory) -> pd.DataFrame:
    """Wilder's average true range, in price as of each session."""
    # in forward-adjusted units a split is no gap
    high, low = history.high * history.factor, history.low * history.factor
    before = history.total_return.shift(1)
    upper, lower = np.maximum(high, before.fillna(high)), np.minimum(low, before.fillna(low))
    true_range = upper - lower
    smoothed = true_range.ewm(alpha=1.0 / ATR_WINDOW, adjust=False, ignore_na=True, min_periods=ATR_WINDOW).mean()
    # no range at the session, no range-based answer for it
    return (smoothed / history.factor).where(true_range.notna())
