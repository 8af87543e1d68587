"""Harmonics: the periods that stand out of the spectrum of returns, or that none does.

Belongs here: the multitaper spectrum, its null and its peaks. Does not belong here: the nominal cycles and their
phases.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import rfft
from scipy.ndimage import maximum_filter1d
from scipy.signal.windows import dpss
from scipy.stats import chi2

from trading_dagster.quant.prices import PriceHistory
from trading_dagster.quant.standardised_returns import standardised_returns

WINDOW = 1024

HALF_BANDWIDTH = 2.0
"""Of the tapers, in Fourier bins: a period of P bars is told from one that differs by ``2 P / window`` of itself."""

TAPERS = 3
"""Twice the half bandwidth less one: those whose energy lies within the band to more than nine tenths."""

SHORTEST = 4.0
LONGEST = 0.25
"""Periods tested: from 4 bars to a quarter of the window."""

LEVEL = 0.05
MOST = 5
"""Peaks named of one session and symbol."""

BLOCK = 256
"""Windows transformed at once; always as many, so that the bits of one do not depend on how many others there are."""

Floats = NDArray[np.float64]


def harmonics(
    history: PriceHistory, sessions: pd.DatetimeIndex, window: int = WINDOW, level: float = LEVEL
) -> pd.DataFrame:
    """Find the significant peaks of each symbol's spectrum of returns as of each session.

    Parameters
    ----------
    history : PriceHistory
    sessions : DatetimeIndex
        Sessions to return; those at which the window of returns is incomplete yield no rows.
    window : int
        Returns in the spectrum.
    level : float
        Chance, at most, that noise without any cycle shows a peak at all.

    Returns
    -------
    DataFrame
        Columns session, symbol, rank (1 for the most significant peak, at most 5), period (bars), power
        (multiple of the red noise expected there), p_value (corrected for all frequencies tested); sorted by
        session, symbol and rank. Where no peak is significant there is one row of rank 0 without period and power;
        its p-value is the smallest corrected one.

    Raises
    ------
    ValueError
        If the window is so short that no period is left to test.

    Notes
    -----
    With x the returns over their volatility, less their mean, and h_k the K = 3 discrete prolate spheroidal
    sequences of half bandwidth 2 / W [1]_, the spectrum is ``S(f) = mean_k |sum_t h_k[t] x[t] exp(-2 pi i f t)|^2``.
    The null is the spectrum of an AR(1) process of the same variance and lag-one autocorrelation r [2]_,

        ``S0(f) = var(x) (1 - r^2) / (1 - 2 r cos(2 pi f) + r^2)``,

    under which ``2 K S / S0`` is chi-squared with 2 K degrees of freedom. All Fourier frequencies of the periods
    tested count in Bonferroni's correction, so that the chance of any false peak is at most `level`. A peak
    is the largest ratio within twice the half bandwidth on either side. Its period is that of the largest
    ordinate of the untapered spectrum within the half bandwidth, interpolated [3]_, since a taper's own peak is flat.

    References
    ----------
    .. [1] Thomson, D. J. (1982). "Spectrum estimation and harmonic analysis". Proceedings of the IEEE 70(9),
       1055-1096.
    .. [2] Mann, M. E. and Lees, J. M. (1996). "Robust estimation of background noise and signal detection in
       climatic time series". Climatic Change 33, 409-445.
    .. [3] Jacobsen, E. and Kootsookos, P. (2007). "Fast, accurate frequency estimators". IEEE Signal Processing
       Magazine 24(3), 123-125.
    """
    values = standardised_returns(history).to_numpy()
    at = np.flatnonzero(history.sessions.isin(sessions))
    known = np.isfinite(values)
    first = np.where(known.any(axis=0), known.argmax(axis=0), len(values))
    place, column = np.nonzero((at - window + 1)[:, None] >= first)
    plan = _plan(window)
    parts = [_Peaks.none()]
    if len(place):
        windows = sliding_window_view(values, window, axis=0)
        for start in range(0, len(place), BLOCK):
            own = slice(start, start + BLOCK)
            parts.append(_block_peaks(windows[at[place[own]] - window + 1, column[own]], plan, level).shifted(start))
    peaks = _Peaks.joined(parts)
    return pd.DataFrame(
        {
            "session": history.sessions.to_numpy()[at[place[peaks.row]]],
            "symbol": pd.array(np.array(history.symbols, dtype=object)[column[peaks.row]], dtype="str"),
            "rank": peaks.rank.astype("int16"),
            "period": peaks.period,
            "power": peaks.power,
            "p_value": peaks.p_value,
        }
    )


@dataclass(frozen=True)
class _Peaks:
    """Peaks of several windows (rows), sorted by row and rank."""

    row: NDArray[np.int64]
    rank: NDArray[np.int64]
    period: Floats
    power: Floats
    p_value: Floats

    @classmethod
    def none(cls) -> _Peaks:
        """No peaks of no window."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0))

    @classmethod
    def joined(cls, parts: list[_Peaks]) -> _Peaks:
        """Peaks of all parts, in their order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def shifted(self, rows: int) -> _Peaks:
        """The same peaks of windows counted from another one."""
        return _Peaks(self.row + rows, self.rank, self.period, self.power, self.p_value)


@dataclass(frozen=True)
class _Plan:
    """What the spectra of all windows of one length share."""

    tapers: Floats  # (K, W)
    bins: NDArray[np.int64]  # Fourier frequencies tested, multiples of 1 / W
    cosine: Floats  # of their angles


@cache
def _plan(window: int) -> _Plan:
    """Prepare the tapers and the frequencies of a window length."""
    bins = np.arange(int(np.ceil(1.0 / LONGEST)), int(window / SHORTEST) + 1)
    if window < 64:
        raise ValueError(f"a window of {window} returns leaves too few periods to test; use 64 or more")
    return _Plan(dpss(window, HALF_BANDWIDTH, TAPERS), bins, np.cos(2.0 * np.pi * bins / window))


def _block_peaks(rows: Floats, plan: _Plan, level: float) -> _Peaks:
    """Peaks of at most `BLOCK` windows (rows)."""
    whole = np.zeros((BLOCK, rows.shape[1]))
    whole[: len(rows)] = rows
    whole -= whole.mean(axis=1, keepdims=True)
    ratio = _ratio_to_red_noise(whole, plan)[: len(rows)]
    tests = len(plan.bins)
    smallest = np.minimum(chi2.sf(2 * TAPERS * ratio.max(axis=1), 2 * TAPERS) * tests, 1.0)
    empty = np.flatnonzero(smallest >= level)
    missing = np.full(len(empty), np.nan)
    silent = _Peaks(empty, np.zeros(len(empty), np.int64), missing, missing, smallest[empty])
    loud = np.flatnonzero(smallest < level)
    if not len(loud):
        return silent
    # two peaks nearer to each other than the tapers' band cannot be told apart
    reach = int(np.ceil(2.0 * HALF_BANDWIDTH))
    top = maximum_filter1d(ratio[loud], 2 * reach + 1, axis=1, mode="nearest")
    p_values = np.minimum(chi2.sf(2 * TAPERS * ratio[loud], 2 * TAPERS) * tests, 1.0)
    which, bin_ = np.nonzero((ratio[loud] == top) & (p_values < level))
    order = np.lexsort((bin_, -ratio[loud][which, bin_], which))
    which, bin_ = which[order], bin_[order]
    rank = np.arange(len(which)) - np.searchsorted(which, which) + 1
    which, bin_, rank = which[rank <= MOST], bin_[rank <= MOST], rank[rank <= MOST]
    # transformed as a whole block again, for the sake of the bits
    plain = rfft(whole, axis=1)[loud]
    found = _Peaks(
        row=loud[which],
        rank=rank,
        period=_interpolated_period(plain[which], plan.bins[bin_], rows.shape[1]),
        power=ratio[loud][which, bin_],
        p_value=p_values[which, bin_],
    )
    both = _Peaks.joined([silent, found])
    order = np.lexsort((both.rank, both.row))
    return _Peaks(*(getattr(both, name)[order] for name in _Peaks.__dataclass_fields__))


def _ratio_to_red_noise(rows: Floats, plan: _Plan) -> Floats:
    """Spectrum of rows without mean over that of AR(1) noise, (rows, frequencies); 0 for rows without variance."""
    power = np.zeros((len(rows), len(plan.bins)))
    for taper in plan.tapers:
        transformed = rfft(rows * taper, axis=1)[:, plan.bins[0] : plan.bins[-1] + 1]
        power += np.square(transformed.real) + np.square(transformed.imag)
    square = np.einsum("ij,ij->i", rows, rows)
    product = np.einsum("ij,ij->i", rows[:, 1:], rows[:, :-1])
    moving = square > 0.0
    correlation = np.divide(product, square, out=np.zeros(len(rows)), where=moving)[:, None]
    shape = (1.0 - 2.0 * correlation * plan.cosine + correlation**2) / (1.0 - correlation**2)
    scale = np.divide(rows.shape[1], square * len(plan.tapers), out=np.zeros(len(rows)), where=moving)
    return power * shape * scale[:, None]


def _interpolated_period(plain: NDArray[Any], bins: NDArray[np.int64], window: int) -> Floats:
    """Periods of the largest ordinates near given bins, from the three complex amplitudes around each."""
    reach = int(HALF_BANDWIDTH)
    near = bins[:, None] + np.arange(-reach, reach + 1)
    row = np.arange(len(bins))
    best = near[row, np.abs(plain[row[:, None], near]).argmax(axis=1)]
    before, middle, after = (plain[row, best + step] for step in (-1, 0, 1))
    offset = ((before - after) / (2.0 * middle - before - after)).real
    return window / (best + np.clip(offset, -0.5, 0.5))
