"""What the regime models see: values with the equal-weight market, downside features, trend.

Belongs here: causal transformations of prices, each from the history's start. Does not belong here: the models, which
know nothing of prices.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import lfilter

from trading_dagster.quant.prices import PriceHistory

DOWNSIDE_HALF_LIFE = 10
SORTINO_HALF_LIVES = (20, 60)
FEATURE_COUNT = 1 + len(SORTINO_HALF_LIVES)

FEATURE_START = 20
"""Returns before the first feature: the averages of fewer are mostly their last one."""

LEAST_DEVIATION = 1e-4
"""Downside deviation that a Sortino ratio is divided by at least, a basis point a day: some never fell."""

LEFT_AFTER = 5
"""Sessions without a bar after which a symbol counts no more in the market."""

TREND_WINDOW = 200

Floats = NDArray[np.float64]


def values_with_market(history: PriceHistory, market_symbol: str) -> pd.DataFrame:
    """Total-return values of all symbols, and of a market that holds each in equal weight every day.

    Parameters
    ----------
    history : PriceHistory
    market_symbol : str
        Column name of the market.

    Returns
    -------
    DataFrame
        Sessions by symbols; the market, last, exists from the first session at which some symbol has a return. A
        symbol without a bar for five sessions has left it, until the session after it trades again.

    Notes
    -----
    Returns are added up symbol after symbol. A symbol without a price adds an exact zero, so a later listing leaves
    every bit before it as it was; a pairwise sum would regroup its terms.
    """
    value = history.total_return
    change = (value / value.shift(1) - 1.0).to_numpy(dtype="float64")
    present = _present(history.observed.to_numpy(dtype=bool))
    known = np.isfinite(change) & present & np.roll(present, 1, axis=0)
    total = np.zeros(len(value))
    for column in range(change.shape[1]):
        total += np.where(known[:, column], change[:, column], 0.0)
    count = known.sum(axis=1)
    mean = total / np.maximum(count, 1)
    market = np.where(np.maximum.accumulate(count > 0), np.cumprod(1.0 + mean), np.nan) if len(value) else total
    return value.assign(**{market_symbol: market})


def _present(observed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether there was a bar at one of the last five sessions."""
    number = np.arange(len(observed))[:, None]
    last = np.maximum.accumulate(np.where(observed, number, -LEFT_AFTER), axis=0)
    return number - last < LEFT_AFTER


def simple_returns(values: pd.DataFrame) -> Floats:
    """One-session simple returns, sessions by symbols; missing up to and including each symbol's first value."""
    return (values / values.shift(1) - 1.0).to_numpy(dtype="float64")


def downside_features(returns: Floats) -> Floats:
    """Exponentially weighted downside deviation and Sortino ratios.

    Parameters
    ----------
    returns : ndarray (sessions, symbols)
        Simple returns; missing before the second bar of a symbol, never afterwards.

    Returns
    -------
    ndarray (3, sessions, symbols)
        Downside deviation of half-life 10, per day; Sortino ratios of half-lives 20 and 60. Missing before the
        symbol's 20th return.

    Notes
    -----
    With ``EW_h`` the exponentially weighted mean of half-life h whose weights sum to 1 from the first return on,
    ``DD_h = sqrt(EW_h(min(r, 0)^2))`` and ``Sortino_h = EW_h(r) / max(DD_h, 1e-4)``. The rate of cash is left out.

    References
    ----------
    .. [1] Shu, Y., Yu, C. and Mulvey, J. M. (2024). "Downside risk reduction using regime-switching signals: a
       statistical jump model approach". Journal of Asset Management 25, 493-507, section "Features".
    """
    known = np.isfinite(returns)
    moves = np.where(known, returns, 0.0)
    square_losses = np.square(np.minimum(moves, 0.0))
    weights = known.astype("float64")

    def average(values: Floats, half_life: int) -> Floats:
        keep = 0.5 ** (1.0 / half_life)
        norm = lfilter([1.0], [1.0, -keep], weights, axis=0)
        return lfilter([1.0], [1.0, -keep], values, axis=0) / np.where(norm > 0, norm, 1.0)

    features = np.empty((FEATURE_COUNT, *returns.shape))
    features[0] = np.sqrt(average(square_losses, DOWNSIDE_HALF_LIFE))
    for number, half_life in enumerate(SORTINO_HALF_LIVES, start=1):
        deviation = np.sqrt(average(square_losses, half_life))
        features[number] = average(moves, half_life) / np.maximum(deviation, LEAST_DEVIATION)
    features[:, known.cumsum(axis=0) < FEATURE_START] = np.nan
    return features


def trend_score(values: pd.DataFrame) -> pd.DataFrame:
    """Distance of price from its 200-bar mean in deviations of a random walk.

    Parameters
    ----------
    values : DataFrame
        Total-return values, sessions by symbols.

    Returns
    -------
    DataFrame
        Sessions by symbols; 0 before the 200th bar and for a price that never moved in the window.

    Notes
    -----
    ``z = (log P - log SMA_n) / (s sqrt((n - 1)(2 n - 1) / (6 n)))`` with n = 200 and s the standard deviation of the
    n - 1 log returns. Under a driftless random walk the distance of price from its n-bar mean has that variance, so
    z is about standard normal.
    """
    n = TREND_WINDOW
    log_value = np.log(values)
    deviation = log_value.diff().rolling(n - 1).std() * np.sqrt((n - 1) * (2 * n - 1) / (6 * n))
    distance = log_value - np.log(values.rolling(n).mean())
    return (distance / deviation).where(deviation > 0, 0.0)
