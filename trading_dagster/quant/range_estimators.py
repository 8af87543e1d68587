"""Variance of a session from its own prices: open, high, low and close where there are ranges, else the return.

Belongs here: measuring the variance of sessions that have passed. Does not belong here: forecasting it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from trading_dagster.quant.prices import PriceHistory

BODY_WEIGHT = 2.0 * np.log(2.0) - 1.0


def garman_klass(open_: pd.DataFrame, high: pd.DataFrame, low: pd.DataFrame, close: pd.DataFrame) -> pd.DataFrame:
    """Variance of log price between open and close.

    Parameters
    ----------
    open_, high, low, close : DataFrame
        Prices of one session each, in one unit; missing where there is none.

    Returns
    -------
    DataFrame
        In squared log price; not negative, and zero only where all four are equal.

    Notes
    -----
    ``ln(H/L)^2 / 2 - (2 ln 2 - 1) ln(C/O)^2`` [1]_, whose variance for a Brownian motion without drift is 7.4 times
    smaller than that of the squared return. As ``|ln(C/O)| <= ln(H/L)`` it is at least a ninth of ``ln(H/L)^2``.

    References
    ----------
    .. [1] Garman, M. B. and Klass, M. J. (1980). "On the estimation of security price volatilities from historical
       data". Journal of Business 53(1), 67-78, eq. 20.
    """
    return 0.5 * np.log(high / low) ** 2 - BODY_WEIGHT * np.log(close / open_) ** 2


def session_variance(history: PriceHistory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Variance from the close before to the close of each session.

    Parameters
    ----------
    history : PriceHistory

    Returns
    -------
    variance : DataFrame
        Garman and Klass's estimate plus the squared overnight return, ``ln(open / close before)^2``, in adjusted
        prices, so that neither a split nor a dividend is a move. Where a session has no range, the squared return.
        Missing at a symbol's first bar and before it.
    ranged : DataFrame of bool
        Whether the variance is of the range.
    """
    before = history.total_return.shift(1)
    overnight = np.log(history.open * history.factor / before) ** 2
    within = garman_klass(history.open, history.high, history.low, history.close)
    variance = overnight + within
    ranged = variance.notna() & history.observed
    return variance.where(ranged, history.log_return**2), ranged
