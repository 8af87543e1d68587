"""Troughs and peaks of a nominal cycle, provisional and confirmed, and what is drawn through them.

Belongs here: extremes of price within a fixed reach and the lines and counts that follow from them. Does not
belong here: fitted sinusoids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter1d

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SPACINGS = 8
"""Distances between troughs that the typical one is the median of."""


@dataclass(frozen=True)
class Troughs:
    """Confirmed troughs of all columns of a matrix; peaks are the troughs of its negative.

    Attributes
    ----------
    values : array, (sessions, columns)
        What they are troughs of; missing before the first bar.
    reach : int
        Bars on either side that a trough is the lowest of, and after which it is confirmed.
    position, column : array, (troughs,)
        Where they are, by column, then position.
    """

    values: Floats
    reach: int
    position: Integers
    column: Integers

    def latest(self, at: Integers) -> Integers:
        """Number of the latest trough of each column confirmed by the sessions `at`, -1 where there is none."""
        return self.up_to(at[:, None] - self.reach, np.arange(self.values.shape[1])[None, :])

    def up_to(self, position: Integers, column: Integers) -> Integers:
        """Number of the last trough of `column` at or before `position`, -1 where there is none."""
        if not len(self.position):
            return np.full(np.broadcast_shapes(position.shape, column.shape), -1)
        stride = len(self.values)
        number = np.searchsorted(self.column * stride + self.position, column * stride + position, side="right") - 1
        return np.where((number >= 0) & (self.column[number] == column) & (position >= 0), number, -1)

    def before(self, number: Integers, steps: int = 1) -> Integers:
        """Number of the trough `steps` before in the same column, -1 where there is none."""
        earlier = np.maximum(number - steps, 0)
        if not len(self.position):
            return np.full(number.shape, -1)
        same = (number >= steps) & (self.column[earlier] == self.column[number])
        return np.where(same, earlier, -1)


def reach_of(cycle: int) -> int:
    """Bars on either side that a trough of a nominal cycle is the lowest of: a third of it.

    In a random walk troughs of reach h lie about ``pi h`` bars apart, so that a third makes their usual distance
    the nominal cycle; a distance near the nominal one is therefore no evidence of a cycle.
    """
    return max(round(cycle / 3.0), 1)


def confirmed_troughs(values: Floats, reach: int) -> Troughs:
    """Find the bars that are lower than all within `reach` bars before them and not higher than those after.

    Parameters
    ----------
    values : array, (sessions, columns)
        Missing before the first bar.
    reach : int

    Returns
    -------
    Troughs

    Notes
    -----
    Whether bar i is a trough is settled by bar ``i + reach`` and by nothing later, so that the list is only ever
    appended to. Of equal bars the first counts; a constant price has none.
    """
    # nothing is lower than a missing value, so that the first troughs have their full reach of bars before them
    low = np.where(np.isnan(values), -np.inf, values)
    flags = np.zeros(values.shape, dtype=bool)
    if len(values) > 2 * reach:
        # the window of `reach` bars that ends at each bar
        lowest = minimum_filter1d(low, reach, axis=0, mode="constant", cval=-np.inf, origin=(reach - 1) // 2)
        middle = low[reach:-reach]
        flags[reach:-reach] = (middle < lowest[reach - 1 : -reach - 1]) & (middle <= lowest[2 * reach :])
    column, position = np.nonzero(flags.T)
    return Troughs(values, reach, position, column)


def latest_position(troughs: Troughs, at: Integers) -> Integers:
    """Position of the latest confirmed trough as of the sessions `at`, -1 where there is none."""
    return _attribute(troughs.position, troughs.latest(at), -1)


def provisional_position(troughs: Troughs, peaks: Troughs, at: Integers) -> Integers:
    """Lowest bar since the latest confirmed turning point of either kind, the first of equal ones.

    Parameters
    ----------
    troughs : Troughs
    peaks : Troughs
        The turning points of the other kind, of the same reach.
    at : array of int, ascending
        Sessions.

    Returns
    -------
    array, (len(at), columns)
        Positions, -1 before the first bar. It moves whenever price falls lower, and when a turning point is
        confirmed.

    Notes
    -----
    When a turning point is confirmed, the search begins anew with the `reach` bars after it; from there on it is
    a running minimum.
    """
    if not len(at) or not troughs.values.shape[1]:
        return np.empty((len(at), troughs.values.shape[1]), dtype=np.int64)
    reach = troughs.reach
    # what the earliest session wanted depends on reaches back to the bar after the column's last turning point
    since = np.maximum(latest_position(troughs, at[:1]), latest_position(peaks, at[:1])) + 1
    origin = int(since.min())
    values = troughs.values[origin : at[-1] + 1]
    begins = np.zeros(values.shape, dtype=bool)
    for points in (troughs, peaks):
        confirmed = points.position + reach - origin
        inside = (points.position >= origin - 1) & (confirmed < len(values))
        begins[confirmed[inside], points.column[inside]] = True
    when, column = np.nonzero(begins)
    running, place = values.copy(), np.broadcast_to(np.arange(len(values))[:, None], values.shape).copy()
    if len(when):
        recent = sliding_window_view(values, reach, axis=0)[when - reach + 1, column]
        running[when, column] = recent.min(axis=1)
        place[when, column] = when - reach + 1 + recent.argmin(axis=1)
    lowest = _running_minimum(running, begins)
    earlier = np.vstack([np.full((1, values.shape[1]), np.nan), lowest[:-1]])
    record = begins | (np.isfinite(values) & ~(running >= earlier))
    latest = np.maximum.accumulate(np.where(record, np.arange(len(values))[:, None], -1), axis=0)
    found = np.where(latest >= 0, origin + np.take_along_axis(place, np.maximum(latest, 0), axis=0), -1)
    return found[at - origin]


def _running_minimum(values: Floats, begins: NDArray[np.bool_]) -> Floats:
    """Minimum of each column since the last session that begins anew."""
    stretch = begins.cumsum(axis=0) + np.arange(values.shape[1]) * (len(values) + 1)
    flat = pd.Series(values.T.reshape(-1)).groupby(stretch.T.reshape(-1)).cummin()
    return flat.to_numpy().reshape(values.shape[::-1]).T


def trough_spacing(troughs: Troughs, at: Integers) -> Floats:
    """Median distance, bars, between up to nine latest confirmed troughs; missing before the second."""
    number = np.arange(len(troughs.position))
    gaps = np.full((len(number), SPACINGS), np.nan)
    for back in range(SPACINGS):
        later, earlier = troughs.before(number, back), troughs.before(number, back + 1)
        gaps[:, back] = np.where(earlier >= 0, troughs.position[later] - troughs.position[earlier], np.nan)
    median = pd.DataFrame(gaps).median(axis=1).to_numpy()
    return _attribute(median, troughs.latest(at), np.nan)


def smaller_troughs(troughs: Troughs, smaller: Troughs, at: Integers) -> Floats:
    """How many troughs of a smaller cycle lie within the latest complete interval between two of this one.

    The end of the interval counts, its beginning does not. A smaller reach confirms earlier, so that all of them
    are known when the interval is.
    """
    number = np.arange(len(troughs.position))
    before = troughs.before(number)
    inside = smaller.up_to(troughs.position, troughs.column) - smaller.up_to(troughs.position[before], troughs.column)
    return _attribute(np.where(before >= 0, inside, np.nan), troughs.latest(at), np.nan)


def valid_trend_line(troughs: Troughs, at: Integers) -> tuple[Floats, Floats]:
    """Line through the two latest confirmed troughs, at the sessions `at` and one session before.

    Parameters
    ----------
    troughs : Troughs
        Of log price, so that the line never falls to zero.
    at : array of int

    Returns
    -------
    now, session_before : array, (len(at), columns)
        Log price of the same line; missing until two troughs are confirmed.
    """
    last = troughs.latest(at)
    before = troughs.before(last)
    found = before >= 0
    if not found.any():
        nothing = np.full(last.shape, np.nan)
        return nothing, nothing
    level = troughs.values[troughs.position, troughs.column]
    slope = (level[last] - level[before]) / np.where(found, troughs.position[last] - troughs.position[before], 1)
    now = level[last] + slope * (at[:, None] - troughs.position[last])
    return np.where(found, now, np.nan), np.where(found, now - slope, np.nan)


def _attribute(of_trough: NDArray[Any], number: Integers, missing: float) -> NDArray[Any]:
    """An attribute of the troughs of the given numbers, `missing` for number -1."""
    return np.append(of_trough, missing)[number]
