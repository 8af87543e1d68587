"""Bars that cannot be believed, and bars that changed: jumps, spikes, phantoms, restatements.

Belongs here: judging bars from prices alone. Does not belong here: what follows from the verdict, which is
`resources.ingestion`'s, and rules that a bar breaks by itself, which are `checks.market_data_quality`'s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trading_dagster.quant.prices import price_history

JUMP_SIGMAS = 10.0
SIGMA_WINDOW = 250
SIGMA_MINIMUM = 20
SIGMA_FLOOR = 1e-3
"""Daily deviation below which a price is taken to rest: a first move after a rest is no event of its own."""

MARKET_SYMBOLS = 5
"""Symbols that make a market; with fewer, no move counts as shared."""

SPLIT_TOLERANCE = 1e-3
"""Relative difference that rounding to the cent leaves between a price and its split-adjusted self."""

_JUMP_TYPES = {"session": "datetime64[us]", "symbol": "str", "reason": "str", "detail": "str"}

VALUES = ["open", "high", "low", "close", "volume"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def find_phantoms(bars: pd.DataFrame, sessions: pd.DatetimeIndex) -> NDArray[np.bool_]:
    """Flag bars on dates that are no session, on which nothing was traded and no price moved.

    Vendors fill holidays so. A bar with trades on such a date is another matter: calendar or data are wrong.

    Parameters
    ----------
    bars : DataFrame
        Columns session, open, high, low, close, volume.
    sessions : DatetimeIndex
        All sessions of the exchange.

    Returns
    -------
    ndarray of bool
    """
    prices = bars[["open", "high", "low", "close"]]
    flat = (prices.max(axis=1) == prices.min(axis=1)) & prices.notna().all(axis=1)
    return (~bars["session"].isin(sessions) & flat & (bars["volume"] == 0)).to_numpy(dtype=bool)


def find_jumps(bars: pd.DataFrame, corporate_actions: pd.DataFrame) -> pd.DataFrame:
    """Find bars whose price jumped for no known reason.

    Parameters
    ----------
    bars : DataFrame
        Columns session, symbol, close and two flags: ``judge``, bars to be judged, and ``bad``, bars that
        are quarantined already. The others are believed. At least `SIGMA_WINDOW` sessions before the first to
        be judged should be there, where there are so many.
    corporate_actions : DataFrame
        Splits and dividends over the same time.

    Returns
    -------
    DataFrame
        session, symbol, reason (``jump``, or ``spike`` where the next bar is back) and detail, of the bars
        judged bad and of those that were `bad` already; sorted by session, then symbol.

    Notes
    -----
    A bar at t is bad if its log return r, adjusted for splits and dividends, exceeds ten standard deviations
    of the (up to 250, at least 20) returns before it, and so does r less the median return of all symbols,
    of which there must be five: a move that the market shares is no error. After a bad bar, a bar is good if it
    is within that bound of the last good bar (the bad one was a spike) or of the bad one (the level is
    confirmed). Returns to and from bad bars do not enter later deviations. The verdict on t uses nothing after
    t; only the name of the reason does.
    """
    if not bars["judge"].any():
        return pd.DataFrame(columns=list(_JUMP_TYPES)).astype(_JUMP_TYPES)
    history = price_history(bars.assign(open=np.nan, high=np.nan, low=np.nan), corporate_actions)
    judge, bad = (_flags(bars, name, history.close) for name in ("judge", "bad"))
    moves = _Moves(np.log(history.total_return).to_numpy(), history.observed.to_numpy(), bad)
    moves.mark(judge)
    places = np.argwhere(moves.bad)
    rows = [(history.sessions[t], history.symbols[s], *moves.describe(int(t), int(s))) for t, s in places]
    return pd.DataFrame(rows, columns=list(_JUMP_TYPES)).astype(_JUMP_TYPES)


class _Moves:
    """Log returns from bar to bar, their usual size, and which bars are bad; sessions by symbols."""

    def __init__(self, value: Floats, observed: Flags, bad: Flags) -> None:
        self.value = value
        self.observed = observed
        self.bad = bad
        self.returns = np.full_like(value, np.nan)
        self.returns[1:] = np.where(observed[1:], np.diff(value, axis=0), np.nan)
        enough = (~np.isnan(self.returns)).sum(axis=1) >= MARKET_SYMBOLS
        self.market = np.zeros(len(value))
        self.market[enough] = np.nanmedian(self.returns[enough], axis=1)
        self.has_market = enough
        self.sigma = np.full_like(value, np.nan)
        self._measure(np.arange(value.shape[1]))

    def mark(self, judge: Flags) -> None:
        """Mark the bars that are bad, of each symbol the earliest first.

        Each leaves the later deviations, and what it was held against changes for the next bar: so a bar is
        judged as it would have been on its day.
        """
        open_symbols = np.arange(self.value.shape[1])
        while len(open_symbols):
            found = [s for s in open_symbols if self._mark_earliest(judge, int(s))]
            open_symbols = np.array(found, dtype=int)
            self._measure(open_symbols)

    def _mark_earliest(self, judge: Flags, s: int) -> bool:
        for t in map(int, np.flatnonzero(judge[:, s] & self.observed[:, s] & ~self.bad[:, s] & self._beyond(s))):
            good = self._good_bar_before(t, s)
            if good is None or not self._near(good, t, s):
                self.bad[t, s] = True
                return True
        return False

    def describe(self, t: int, s: int) -> tuple[str, str]:
        """Name the reason for a bad bar, and what was measured."""
        moved, sigma = self.returns[t, s], self.sigma[t, s]
        later = np.flatnonzero(self.observed[t + 1 :, s])
        good = self._good_bar_before(t, s)
        if not len(later):
            reason, after = "jump", "the next bar is not known yet"
        elif good is not None and abs(self.value[t + 1 + later[0], s] - self.value[good, s]) < abs(moved) / 2:
            reason, after = "spike", "the next bar is back"
        else:
            reason, after = "jump", "the next bar stayed there"
        return reason, (
            f"moved {np.expm1(moved):+.1%}, {abs(moved) / sigma:.0f} times the usual {sigma:.2%} a day "
            f"(bound {JUMP_SIGMAS:.0f}), without a split or dividend that explains it, the market "
            f"{np.expm1(self.market[t]):+.1%}; {after}"
        )

    def _measure(self, symbols: NDArray[np.intp]) -> None:
        """Deviation of some symbols' returns before each bar, without those to and from bad bars."""
        if not len(symbols):
            return
        to_or_from = self.bad[:, symbols].copy()
        for t, number in np.argwhere(to_or_from):
            to_or_from[t + 1 + np.flatnonzero(self.observed[t + 1 :, symbols[number]])[:1], number] = True
        usable = pd.DataFrame(np.where(to_or_from, np.nan, self.returns[:, symbols]))
        deviation = usable.rolling(SIGMA_WINDOW, min_periods=SIGMA_MINIMUM).std().shift(1)
        self.sigma[:, symbols] = np.maximum(deviation.to_numpy(), SIGMA_FLOOR)

    def _beyond(self, s: int) -> Flags:
        """Whether a symbol's moves exceed the bound, alone and beside the market's."""
        bound, moves = JUMP_SIGMAS * self.sigma[:, s], self.returns[:, s]
        return (np.abs(moves) > bound) & ((np.abs(moves - self.market) > bound) | ~self.has_market)

    def _near(self, good: int, t: int, s: int) -> bool:
        """Whether a bar is where the last good one would let it be."""
        move, shared = self.value[t, s] - self.value[good, s], self.market[good + 1 : t + 1].sum()
        bound = JUMP_SIGMAS * self.sigma[t, s]
        return bool(abs(move) <= bound or abs(move - shared) <= bound)

    def _good_bar_before(self, t: int, s: int) -> int | None:
        there = np.flatnonzero(self.observed[:t, s] & ~self.bad[:t, s])
        return int(there[-1]) if len(there) else None


def compare_overlap(stored: pd.DataFrame, fetched: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Compare bars that are stored with what a source says of the same sessions now.

    Parameters
    ----------
    stored, fetched : DataFrame
        Columns session, symbol, open, high, low, close, volume.
    splits : DataFrame
        Columns ex_date, symbol, value.

    Returns
    -------
    DataFrame
        One row a bar that changed: session, symbol, the new values, the old ones under ``old_`` names, and
        ``split``: the ratio of the later splits where these explain the change, else missing. Such a bar was
        rewritten by its vendor, not corrected: as it traded, it is what it was.
    """
    both = fetched.merge(stored, on=["session", "symbol"], suffixes=("", "_stored"))
    changed = np.zeros(len(both), dtype=bool)
    for name in VALUES:
        new, old = both[name].to_numpy(dtype="float64"), both[f"{name}_stored"].to_numpy(dtype="float64")
        changed |= ~((new == old) | (np.isnan(new) & np.isnan(old)))
    both = both[changed].reset_index(drop=True)
    both = both.rename(columns={f"{name}_stored": f"old_{name}" for name in VALUES})
    both["split"] = [_explaining_split(row, splits) for row in both.itertuples()]
    columns = ["session", "symbol", *VALUES, *(f"old_{name}" for name in VALUES), "split"]
    return both[columns].astype({"split": "float64"})


def _explaining_split(row: Any, splits: pd.DataFrame) -> float:
    """Ratio of the splits after a bar if its prices are the old ones divided by it, else missing."""
    later = splits[(splits["symbol"] == row.symbol) & (splits["ex_date"] > row.session)]
    ratio = float(later["value"].prod())
    if later.empty or np.isclose(ratio, 1.0):
        return np.nan
    prices = [(getattr(row, name), getattr(row, f"old_{name}")) for name in VALUES[:-1]]
    known = [(new, old) for new, old in prices if not (np.isnan(new) and np.isnan(old))]
    # prices are rounded to the cent, which weighs more on a small one
    divided = all(abs(new * ratio - old) <= SPLIT_TOLERANCE * old + 0.005 * ratio for new, old in known)
    # a vendor that counts volumes in today's shares has rounded them there
    same = all(new == old for new, old in known) and abs(row.volume - row.old_volume) <= 0.5 * max(1.0, 1.0 / ratio)
    return ratio if divided or same else np.nan


def _flags(bars: pd.DataFrame, name: str, like: pd.DataFrame) -> Flags:
    """Spread a column of flags over sessions by symbols."""
    flags = np.zeros(like.shape, dtype=bool)
    rows = like.index.get_indexer(pd.DatetimeIndex(bars["session"]))
    flags[rows, like.columns.get_indexer(bars["symbol"])] = bars[name].to_numpy(dtype=bool)
    return flags
