"""The bars of one symbol as contiguous arrays, without the sessions on which it did not trade or stood still.

Belongs here: what the models of volatility read of a history. Does not belong here: any model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading_dagster.quant.prices import PriceHistory
from trading_dagster.quant.range_estimators import session_variance

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LONGEST_STANDSTILL = 5
"""Bars in a row that may leave a price unmoved; those after them, of the second week, are of a halt or a peg."""


@dataclass(frozen=True)
class BarSeries:
    """Bars of one symbol that have a return, in order.

    Attributes
    ----------
    symbol : str
    at : ndarray of int, shape (n,)
        Position of each bar in the sessions of the history.
    returns : ndarray, shape (n,)
        Log returns since the bar before, however many sessions ago that was.
    variance : ndarray, shape (n,)
        Variance of the session by its range and the overnight move, or the squared return without a range.
    ranged : ndarray of bool, shape (n,)
        Whether there is a range.

    Notes
    -----
    A symbol's first bar has no return and is left out. So is, of a run of unchanged closes, every bar after the
    fifth: a price that is halted, pegged or only quoted tells nothing of how far it goes when it moves, and a
    likelihood grows without bound as the variance of such bars falls to 0. What is left out is known at its session,
    so that no bar before it changes. All n - 1 returns of a symbol without such runs are there.
    """

    symbol: str
    at: NDArray[np.intp]
    returns: Floats
    variance: Floats
    ranged: Bools

    def window(self, start: int, stop: int) -> BarSeries:
        """Bars from `start` up to, not including, `stop`, copied, so that results do not depend on alignment."""
        part = slice(max(start, 0), stop)
        return BarSeries(
            self.symbol,
            self.at[part].copy(),
            self.returns[part].copy(),
            self.variance[part].copy(),
            self.ranged[part].copy(),
        )


def bar_series(history: PriceHistory) -> list[BarSeries]:
    """Series of every symbol of a history, in its order."""
    variance, ranged = session_variance(history)
    returns = history.log_return.to_numpy().T
    known = (history.observed & history.log_return.notna()).to_numpy().T
    usable = known & ~standing_still(known & (returns == 0.0), known & (returns != 0.0), axis=1)
    columns = zip(history.symbols, usable, returns, variance.to_numpy().T, ranged.to_numpy().T, strict=True)
    return [
        BarSeries(symbol, np.flatnonzero(bars), own_returns[bars], own_variance[bars], own_ranged[bars])
        for symbol, bars, own_returns, own_variance, own_ranged in columns
    ]


def standing_still(unmoved: Bools, moved: Bools, *, axis: int = 0) -> Bools:
    """Bars after the fifth of a run of unmoved ones.

    Parameters
    ----------
    unmoved, moved : ndarray of bool
        By session along `axis`; a session that is neither has no bar, and neither ends a run nor counts in it.
    axis : int

    Returns
    -------
    ndarray of bool
        Each known from its own session and those before it.
    """
    count = np.cumsum(unmoved, axis=axis)
    run: NDArray[np.intp] = count - np.maximum.accumulate(np.where(moved, count, 0), axis=axis)
    return unmoved & (run > LONGEST_STANDSTILL)
