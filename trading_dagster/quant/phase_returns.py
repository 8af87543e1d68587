"""Returns that followed each phase of a nominal cycle: a diagnostic of whether phases have told anything.

Belongs here: means over outcomes that are known, and how uncertain they are. Does not belong here: forecasts.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trading_dagster.quant.prices import PriceHistory

BINS = 8

HORIZON = 0.25
"""Sessions ahead, as a part of the nominal cycle: from a trough to halfway up."""

LAGS = 2
"""Reach of the autocovariances that count in a standard error, as a multiple of the horizon. Returns overlap up to
one horizon; Bartlett's weights would cut half of that if they ended there."""

Floats = NDArray[np.float64]


def phase_returns(rows: pd.DataFrame, history: PriceHistory, session: pd.Timestamp, bins: int = BINS) -> pd.DataFrame:
    """Average the returns that followed each phase, pooled over symbols, as known at a session.

    Parameters
    ----------
    rows : DataFrame
        Columns session, symbol, cycle, phase of past sessions, as `phasing` gave them at the time. Those without a
        phase, of a session or symbol that the history does not have, or whose outcome lies after `session`, do not
        count.
    history : PriceHistory
    session : Timestamp
        Nothing after it is used.
    bins : int
        Equal parts of the phase; the first begins at the trough.

    Returns
    -------
    DataFrame
        One row a cycle and bin: cycle, bin, count (rows averaged), mean (log return over a quarter of the nominal
        cycle), standard_error. Mean is missing where nothing counts, standard_error where fewer than two sessions
        do.

    Raises
    ------
    ValueError
        If `session` is not one of the history's, or there is not at least one bin.

    Notes
    -----
    With s[t] the sum over symbols of the deviations from the bin's mean at session t, n the count and h the
    horizon, the variance of the mean is ``(G[0] + 2 sum_{l=1}^{2h} (1 - l / (2h + 1)) G[l]) / n^2`` with
    ``G[l] = sum_t s[t] s[t-l]`` [1]_: sums over symbols keep what they have in common, lags keep the overlap of
    returns.

    References
    ----------
    .. [1] Driscoll, J. C. and Kraay, A. C. (1998). "Consistent covariance matrix estimation with spatially dependent
       panel data". Review of Economics and Statistics 80(4), 549-560, eq. 4.
    """
    if session not in history.sessions:
        raise ValueError(f"session {session:%Y-%m-%d} is not in the history; choose one of its sessions")
    if bins < 1:
        raise ValueError(f"{bins} bins; at least one is needed")
    known = history.until(session)
    log_price = np.log(known.total_return.to_numpy())
    at = known.sessions.get_indexer(pd.DatetimeIndex(rows["session"]))
    column = known.close.columns.get_indexer(rows["symbol"])
    phase, cycle = rows["phase"].to_numpy(dtype="float64"), rows["cycle"].to_numpy()
    usable = (at >= 0) & (column >= 0) & np.isfinite(phase)
    parts = []
    for nominal in np.unique(cycle):
        horizon = max(round(HORIZON * nominal), 1)
        counted = usable & (cycle == nominal) & (at + horizon < len(log_price))
        begin, symbol = at[counted], column[counted]
        outcome = log_price[begin + horizon, symbol] - log_price[begin, symbol]
        binned = np.minimum((phase[counted] * bins).astype(int), bins - 1)
        parts.append(_averages(outcome, binned, begin, bins, LAGS * horizon).assign(cycle=np.int16(nominal)))
    columns = ["cycle", "bin", "count", "mean", "standard_error"]
    if not parts:
        kinds = {"cycle": "int16", "bin": "int16", "count": "int64", "mean": "float64", "standard_error": "float64"}
        return pd.DataFrame(columns=columns).astype(kinds)
    return pd.concat(parts, ignore_index=True)[columns]


def _averages(outcome: Floats, binned: NDArray[np.int64], at: NDArray[np.intp], bins: int, lags: int) -> pd.DataFrame:
    """Mean of each bin with its Driscoll-Kraay standard error."""
    count = np.bincount(binned, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(binned, weights=outcome, minlength=bins) / count
    length = int(at.max()) + 1 if len(at) else 0
    cell = at * bins + binned
    score = np.bincount(cell, weights=outcome - mean[binned], minlength=length * bins).reshape(length, bins)
    sessions = (np.bincount(cell, minlength=length * bins).reshape(length, bins) > 0).sum(axis=0)
    variance = np.square(score).sum(axis=0)
    for lag in range(1, min(lags, length - 1) + 1):
        variance += 2.0 * (1.0 - lag / (lags + 1.0)) * (score[lag:] * score[:-lag]).sum(axis=0)
    error = np.full(bins, np.nan)
    enough = sessions >= 2
    # Bartlett's weights keep it from being negative, but for rounding
    error[enough] = np.sqrt(np.maximum(variance[enough], 0.0)) / count[enough]
    return pd.DataFrame({"bin": np.arange(bins, dtype="int16"), "count": count, "mean": mean, "standard_error": error})
