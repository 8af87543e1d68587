"""Phasing: where price stands in its nominal cycles, from past bars only.

Belongs here: fitting a cycle to a window that ends at the session, and assembling what is known of it. Does not
belong here: the estimator, the turning points, and what to do about a cycle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from trading_dagster.quant.frequency_band import Band, band
from trading_dagster.quant.one_thread import on_one_thread
from trading_dagster.quant.prices import PriceHistory
from trading_dagster.quant.sinusoid import BLOCK, Sinusoids, best_sinusoids, scan_p_values
from trading_dagster.quant.standardised_returns import standardised_returns
from trading_dagster.quant.turning_points import (
    Troughs,
    confirmed_troughs,
    latest_position,
    provisional_position,
    reach_of,
    smaller_troughs,
    trough_spacing,
    valid_trend_line,
)

NOMINAL_CYCLES = (20, 40, 80, 160)

WINDOW_PERIODS = 6.4
"""Length of the fitted window in nominal periods: 128 to 1,024 bars."""

PERIOD_RANGE = (2.0**-0.5, 2.0**0.5)
"""Shortest and longest period tried, relative to the nominal one: an octave, so that nominal cycles that double meet
without a gap."""

NOISES = np.array(["white", "random_walk"], dtype=object)

INTERVAL = 1.6448536269514722
"""Standard deviations on either side that hold nine tenths of a normal distribution."""

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
FITTED = ("period", "phase", "amplitude", "snr_db", "p_value", "next_trough_bars", "next_trough_half_width", "noise")


@on_one_thread
def phasing(
    history: PriceHistory,
    sessions: pd.DatetimeIndex,
    cycles: tuple[int, ...] = NOMINAL_CYCLES,
    windows: Mapping[int, int] | None = None,
) -> pd.DataFrame:
    """Describe each nominal cycle of each symbol as of each session.

    Parameters
    ----------
    history : PriceHistory
    sessions : DatetimeIndex
        Sessions to return; those absent from the history yield no rows.
    cycles : tuple of int
        Nominal periods in bars, ascending. A longer cycle needs a longer window, so it answers later.
    windows : mapping of int to int, optional
        Bars fitted, by nominal cycle; 6.4 periods where none is given.

    Returns
    -------
    DataFrame
        One row a session, symbol and cycle, sorted in that order.

        - ``period`` (bars), ``phase`` (0 at a trough, 0.5 at a peak, in [0, 1), at the session itself),
          ``amplitude`` (log price, half the swing), ``snr_db``, ``p_value``, ``noise`` (``white`` or
          ``random_walk``, the model that fits better);
        - ``fld`` (price half a nominal cycle ago), ``fld_cross`` (-1, 0, 1), ``fld_target``;
        - ``next_trough_bars`` with ``next_trough_lower`` and ``next_trough_upper``, a 90 % interval that is never
          wider than the period, which is to know nothing; a negative end says it may lie behind;
        - ``trough_provisional``, ``trough_confirmed``, ``peak_provisional``, ``peak_confirmed`` (dates),
          ``trough_spacing`` (bars), ``smaller_troughs`` (count);
        - ``vtl`` (price of the valid trend line) and ``vtl_break`` (-1, 0, 1).

        Prices are as traded at the session. Where the window is incomplete all of the first and third group is
        missing. Where price stood still over the window, amplitude is 0, the p-value 1 and the rest of them missing.

    Raises
    ------
    ValueError
        If a window is shorter than the longest period tried, or the cycles do not ascend.

    Notes
    -----
    Two models are fitted to the W bars of the window by nonlinear least squares [1]_:

        ``white``:       ``log p[t] = c + d t + A cos(w t + q) + e[t]``,
        ``random_walk``: ``log p[t] - log p[t-1] = m + (the difference of A cos(w t + q)) + e[t]``,

    with e white and w free within an octave around the nominal frequency. Both densities are of the same W
    bars up to the first level, with Jacobian 1, so the smaller residual variance is the larger likelihood.
    Real prices are random walks nearly always: levels of one show a "cycle" in nearly every window, their
    differences do not. The signal-to-noise ratio is that of the model, thus of returns for a random walk.
    The p-value is corrected for the continuum of periods scanned [2]_; for a random walk it is that of the same
    scan over volatility-standardised returns, or clustered volatility would pass for cycles or hide them.

    The future line of demarcation (FLD) is price displaced forward by half the nominal cycle [3]_. A cross
    projects the move since the last extreme of the cycle onward by the same ratio, so that a target is
    never below zero; it stands until the next cross. The valid trend line (VTL) goes through the last two
    confirmed troughs in log price; it breaks where the close crosses it.

    A trough of a nominal cycle is the lowest bar within a third of the cycle on either side, and confirmed as
    soon as that is known; a confirmed one never moves, a provisional one may.

    References
    ----------
    .. [1] Rife, D. C. and Boorstyn, R. R. (1974). "Single-tone parameter estimation from discrete-time
       observations". IEEE Transactions on Information Theory 20(5), 591-598.
    .. [2] Baluev, R. V. (2008). "Assessing the statistical significance of periodogram peaks". Monthly Notices
       of the Royal Astronomical Society 385, 1279-1285.
    .. [3] Hurst, J. M. (1970). The Profit Magic of Stock Transaction Timing. Prentice-Hall, ch. 3, 5 and 6.
    """
    if list(cycles) != sorted(set(cycles)):
        raise ValueError(f"cycles {cycles} do not ascend; name each nominal period once, the shortest first")
    lengths = {cycle: (windows or {}).get(cycle, round(WINDOW_PERIODS * cycle)) for cycle in cycles}
    at = np.flatnonzero(history.sessions.isin(sessions))
    log_price = np.log(history.total_return.to_numpy())
    standardised = standardised_returns(history).to_numpy()
    smaller: Troughs | None = None
    parts: list[Columns] = []
    for cycle in cycles:
        troughs = confirmed_troughs(log_price, reach_of(cycle))
        part = _fitted(log_price, standardised, at, cycle, lengths[cycle])
        part |= _future_line(history, at, cycle)
        part |= _turning_points(history, troughs, smaller, at)
        parts.append(part)
        smaller = troughs
    return _rows(parts, history, at, cycles)


def _rows(parts: list[Columns], history: PriceHistory, at: NDArray[np.intp], cycles: tuple[int, ...]) -> pd.DataFrame:
    """Interleave the cycles' matrices (sessions, symbols) as rows sorted by session, symbol and cycle."""
    symbols = np.array(history.symbols, dtype=object)
    count = len(symbols) * len(cycles)
    rows: Columns = {
        "session": np.repeat(history.sessions.to_numpy()[at], count),
        "symbol": np.tile(np.repeat(symbols, len(cycles)), len(at)),
        "cycle": np.tile(np.array(cycles, dtype="int16"), len(at) * len(symbols)),
    }
    for name in parts[0]:
        rows[name] = np.stack([part[name] for part in parts], axis=2).reshape(-1)
    # a table without rows, or a column without a text, would be of no certain type
    return pd.DataFrame(rows).astype({"symbol": "str", "noise": "str", "fld_cross": "int8", "vtl_break": "int8"})


# -- the fit ------------------------------------------------------------------------------------------------------


def _fitted(log_price: Floats, standardised: Floats, at: NDArray[np.intp], cycle: int, window: int) -> Columns:
    """Columns of the fit of one nominal cycle."""
    shape = (len(at), log_price.shape[1])
    results: dict[str, Floats] = {name: np.full(shape, np.nan) for name in FITTED}
    ends, column = _complete_windows(log_price, at, window)
    if len(ends):
        shortest, longest = PERIOD_RANGE[0] * cycle, PERIOD_RANGE[1] * cycle
        # a difference belongs to the middle between its two bars
        levels, changes = band(window, shortest, longest, 1, 0.0), band(window - 1, shortest, longest, 0, -0.5)
        level_windows = sliding_window_view(log_price, window, axis=0)
        change_windows = sliding_window_view(standardised, window - 1, axis=0)
        for start in range(0, len(ends), BLOCK):
            end, of = ends[start : start + BLOCK], column[start : start + BLOCK]
            first = at[end] - window + 1
            found = _fit_block(level_windows[first, of], change_windows[first + 1, of], levels, changes)
            for name, values in found.items():
                results[name][end, of] = values
    half_width = results.pop("next_trough_half_width")
    model = results.pop("noise")
    columns: Columns = dict(results)
    columns["next_trough_lower"] = results["next_trough_bars"] - half_width
    columns["next_trough_upper"] = results["next_trough_bars"] + half_width
    names = NOISES[np.nan_to_num(model).astype(int)]
    names[np.isnan(model)] = None
    columns["noise"] = names
    return columns


def _complete_windows(
    log_price: Floats, at: NDArray[np.intp], window: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places in `at`, and columns, of the windows without a missing price."""
    known = np.isfinite(log_price)
    # prices are missing before a listing only
    listed = np.where(known.any(axis=0), known.argmax(axis=0), len(log_price))
    place, column = np.nonzero((at - window + 1)[:, None] >= listed)
    return place, column


def _fit_block(prices: Floats, standardised: Floats, levels: Band, changes: Band) -> dict[str, Floats]:
    """Fit both noise models to at most `BLOCK` windows (rows) of log price and keep the better one."""
    # relative to its last value each window is of the size of its own moves, whatever the price level
    centred = prices - prices[:, -1:]
    returns = np.diff(prices, axis=1)
    white, walk = best_sinusoids(centred, levels), best_sinusoids(returns, changes)
    walks = walk.noise <= white.noise

    def chosen(name: str) -> Floats:
        return np.where(walks, getattr(walk, name), getattr(white, name))

    frequency, cosine, sine, noise = chosen("frequency"), chosen("cosine"), chosen("sine"), chosen("noise")
    # cos(w t + q) changes by -2 sin(w / 2) sin(w (t - 1/2) + q): a quarter of a turn ahead
    gain = np.where(walks, 2.0 * np.sin(np.pi * frequency), 1.0)
    angle = -np.arctan2(sine, cosine) - np.where(walks, np.pi / 2.0, 0.0)
    # a trough is where the angle is pi
    phase = np.mod(0.5 + angle / (2.0 * np.pi), 1.0)
    phase[phase >= 1.0] = 0.0
    bars = (1.0 - phase) / frequency
    strength = np.square(cosine) + np.square(sine)
    moving = np.abs(returns).max(axis=1) > 0.0
    floor = np.finfo(float).tiny
    result = {
        "period": 1.0 / frequency,
        "phase": phase,
        "amplitude": np.sqrt(strength) / gain,
        "snr_db": 10.0 * np.log10(np.maximum(strength, floor) / 2.0 / np.maximum(noise, floor)),
        "p_value": np.where(walks, scan_p_values(standardised, changes), white.p_value),
        "next_trough_bars": bars,
        "next_trough_half_width": np.minimum(_standard_error(white, walk, walks, bars) * INTERVAL, 0.5 / frequency),
        "noise": walks.astype("float64"),
    }
    still = {"amplitude": 0.0, "p_value": 1.0}
    return {name: np.where(moving, values, still.get(name, np.nan)) for name, values in result.items()}


def _standard_error(white: Sinusoids, walk: Sinusoids, walks: NDArray[np.bool_], bars: Floats) -> Floats:
    """Of the time until the angle ``q + w t`` reaches the trough, by the delta method; bars."""
    angle, both, rate, frequency = (
        np.where(walks, getattr(walk, name), getattr(white, name))
        for name in ("angle_variance", "covariance", "rate_variance", "frequency")
    )
    variance = angle + 2.0 * bars * both + np.square(bars) * rate
    return np.sqrt(np.maximum(variance, 0.0)) / (2.0 * np.pi * frequency)


# -- lines and turning points -------------------------------------------------------------------------------------


def _future_line(history: PriceHistory, at: NDArray[np.intp], cycle: int) -> Columns:
    """Future line of demarcation, its crosses and their target, in prices as of each session."""
    value = history.total_return
    displaced = value.shift(cycle // 2)
    distance = value - displaced
    before = distance.shift(1)
    up = (distance > 0) & (before <= 0)
    down = (distance < 0) & (before >= 0)
    cross = up.astype("int8") - down.astype("int8")
    low, high = value.rolling(cycle).min(), value.rolling(cycle).max()
    target = (value**2 / low).where(up, (value**2 / high).where(down)).ffill()
    return {
        "fld": (displaced / history.factor).to_numpy()[at],
        "fld_cross": cross.to_numpy()[at],
        "fld_target": (target / history.factor).to_numpy()[at],
    }


def _turning_points(history: PriceHistory, troughs: Troughs, smaller: Troughs | None, at: NDArray[np.intp]) -> Columns:
    """Dates of the turning points and what is drawn and counted from them."""
    peaks = confirmed_troughs(-troughs.values, troughs.reach)
    dates = np.append(history.sessions.to_numpy(), np.datetime64("NaT"))
    now, session_before = valid_trend_line(troughs, at)
    value = troughs.values[at]
    value_before = np.where(at[:, None] > 0, troughs.values[at - 1], np.nan)
    up = (value > now) & (value_before <= session_before)
    down = (value < now) & (value_before >= session_before)
    counts = np.full(value.shape, np.nan) if smaller is None else smaller_troughs(troughs, smaller, at)
    return {
        "trough_provisional": dates[provisional_position(troughs, peaks, at)],
        "trough_confirmed": dates[latest_position(troughs, at)],
        "peak_provisional": dates[provisional_position(peaks, troughs, at)],
        "peak_confirmed": dates[latest_position(peaks, at)],
        "trough_spacing": trough_spacing(troughs, at),
        "smaller_troughs": counts,
        "vtl": np.exp(now) / history.factor.to_numpy()[at],
        "vtl_break": up.astype("int8") - down.astype("int8"),
    }
