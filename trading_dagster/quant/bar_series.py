"""The bars of one symbol as contiguous arrays, without the sessions on which it did not trade.

Belongs here: what the models of volatility read of a history. Does not belong here: any model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading_dagster.quant.prices import PriceHistory
from trading_dagster.quant.range_estimators import session_variance

Floats = NDArray[np.float64]


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
    A symbol's first bar has no return and is left out: the series of n bars has n - 1.
    """

    symbol: str
    at: NDArray[np.intp]
    returns: Floats
    variance: Floats
    ranged: NDArray[np.bool_]

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
    usable = (history.observed & history.log_return.notna()).to_numpy().T
    columns = zip(history.symbols, usable, returns, variance.to_numpy().T, ranged.to_numpy().T, strict=True)
    return [
        BarSeries(symbol, np.flatnonzero(bars), own_returns[bars], own_variance[bars], own_ranged[bars])
        for symbol, bars, own_returns, own_variance, own_ranged in columns
    ]
