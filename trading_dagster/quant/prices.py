"""Price history as matrices of sessions by symbols, adjusted for splits and dividends without looking ahead.

Belongs here: reshaping, adjustment, returns. Does not belong here: anything that interprets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class PriceHistory:
    """Raw prices with the adjustment factor of each session.

    All attributes are frames, of float64 unless noted, sessions (rows, ascending) by symbols (columns).

    Attributes
    ----------
    open, high, low : DataFrame
        As traded, currency per share. Missing where the source has none; before a listing, all are.
    close : DataFrame
        Likewise; on a session without a bar after the first one, the last close carried on without a return.
    observed : DataFrame of bool
        Whether there is a bar.
    split : DataFrame
        New shares per old share on its ex-date, 1 elsewhere.
    dividend : DataFrame
        Cash per share as traded on its ex-date, 0 elsewhere.
    factor : DataFrame
        Cumulative adjustment factor, from 1 at the first session *forward*. The price of session t as
        adjusted at session D is ``price[t] * factor[t] / factor[D]``.

    Notes
    -----
    Vendors adjust backward, so each split or dividend rewrites all that came before it. Accumulating
    forward holds the same ratios and never touches a row once written, which makes every computation on
    ``price * factor`` causal by construction. A session's factor multiplies by
    ``split * c / (c - dividend * split)``, with c the previous close, which is the reciprocal of the
    multiplier that CRSP and Yahoo apply to earlier prices.
    """

    open: pd.DataFrame
    high: pd.DataFrame
    low: pd.DataFrame
    close: pd.DataFrame
    observed: pd.DataFrame
    split: pd.DataFrame
    dividend: pd.DataFrame
    factor: pd.DataFrame

    @property
    def sessions(self) -> pd.DatetimeIndex:
        """All sessions, ascending."""
        return pd.DatetimeIndex(self.close.index)

    @property
    def symbols(self) -> list[str]:
        """All symbols, ascending."""
        return list(self.close.columns)

    @property
    def total_return(self) -> pd.DataFrame:
        """Value of one share held from the start with all distributions reinvested; causal."""
        return self.close * self.factor

    @property
    def log_return(self) -> pd.DataFrame:
        """One-session log return, distributions included; missing at a symbol's first bar."""
        return np.log(self.total_return).diff()

    @property
    def bar_count(self) -> pd.DataFrame:
        """Bars of each symbol from the start up to and including each session."""
        return self.observed.cumsum()

    def select(self, symbols: Sequence[str]) -> PriceHistory:
        """Keep the given symbols; one without any bar becomes a column of missing values."""
        wanted = sorted(symbols)
        kept = {f.name: getattr(self, f.name).reindex(columns=wanted) for f in fields(self)}
        absent = [symbol for symbol in wanted if symbol not in self.close]
        for name, neutral in (("observed", False), ("split", 1.0), ("dividend", 0.0), ("factor", 1.0)):
            if absent:
                kept[name] = kept[name].astype(object).fillna(neutral).astype(type(neutral))
        return PriceHistory(**kept)

    def until(self, session: pd.Timestamp) -> PriceHistory:
        """Cut off all sessions after `session`."""
        return replace(self, **{f.name: getattr(self, f.name).loc[:session] for f in fields(self)})


@dataclass(frozen=True)
class KnownHistory:
    """A price history and the sessions that may see just that much of it.

    Attributes
    ----------
    sessions : DatetimeIndex
        Ascending; the last one is the history's last.
    history : PriceHistory
        As known to each of the sessions.
    """

    sessions: pd.DatetimeIndex
    history: PriceHistory


def known_histories(
    bars: pd.DataFrame, corporate_actions: pd.DataFrame, sessions: pd.DatetimeIndex, cutoffs: pd.DatetimeIndex
) -> list[KnownHistory]:
    """Build the price history that was known at each session, one for all sessions that knew the same.

    Parameters
    ----------
    bars, corporate_actions : DataFrame
        As for `price_history`, with every revision and its known_at; sorted by key, then known_at.
    sessions : DatetimeIndex
        Ascending.
    cutoffs : DatetimeIndex
        For each session the time, UTC, after which nothing that became known counts.

    Returns
    -------
    list of KnownHistory
        In order; a single one unless a revision became known in between.

    Notes
    -----
    A revision that comes late, after the cutoff of the first session that could have used it, divides the
    sessions: those before it must not see it. So a range gives each session the row that the session alone
    would give it, and a session that is run again gives the row that it gave before the revision came.
    """
    late = np.unique(np.concatenate([_late(rows, sessions, cutoffs) for rows in (bars, corporate_actions)]))
    epoch = np.searchsorted(late, cutoffs.as_unit("us").asi8, side="right")
    known = []
    for number in np.unique(epoch):
        those, limit = sessions[epoch == number], cutoffs[epoch == number][-1]
        seen = [rows if not len(late) else _until(rows, those[-1], limit) for rows in (bars, corporate_actions)]
        known.append(KnownHistory(those, price_history(*map(_newest, seen))))
    return known


def _late(rows: pd.DataFrame, sessions: pd.DatetimeIndex, cutoffs: pd.DatetimeIndex) -> NDArray[np.int64]:
    """Times at which revisions became known that some session could not see yet."""
    known_at = pd.DatetimeIndex(rows["known_at"]).as_unit("us").asi8
    first_reader = np.searchsorted(sessions.as_unit("us").asi8, pd.DatetimeIndex(rows["session"]).as_unit("us").asi8)
    limits = np.append(cutoffs.as_unit("us").asi8, np.iinfo(np.int64).max)
    return known_at[known_at > limits[first_reader]]


def _until(rows: pd.DataFrame, session: pd.Timestamp, limit: pd.Timestamp) -> pd.DataFrame:
    """Revisions of rows up to a session that were known by a time."""
    return rows[(rows["session"] <= session) & (rows["known_at"] <= limit)]


def _newest(rows: pd.DataFrame) -> pd.DataFrame:
    """Last of several rows of one key; the key's columns are in order, so neighbours tell."""
    repeated = np.ones(max(len(rows) - 1, 0), dtype=bool)
    for name in ("session", "symbol", *(("ex_date", "kind") if "kind" in rows else ())):
        values = rows[name].to_numpy()
        repeated &= values[1:] == values[:-1]
    return rows[~np.append(repeated, False)] if repeated.any() else rows


def price_history(bars: pd.DataFrame, corporate_actions: pd.DataFrame) -> PriceHistory:
    """Arrange bars and corporate actions as matrices.

    Parameters
    ----------
    bars : DataFrame
        Columns session, symbol, open, high, low, close; one row a session and symbol.
    corporate_actions : DataFrame
        Columns ex_date, symbol, kind (``split`` or ``dividend``), value.

    Returns
    -------
    PriceHistory

    Raises
    ------
    ValueError
        If a dividend is not smaller than the close before it: the two cannot be in the same unit.
    """
    sessions, symbols = np.sort(bars["session"].unique()), sorted(bars["symbol"].unique())
    if len(sessions):
        # an action counts on its date even if no symbol has a bar there
        ex_dates = corporate_actions.loc[corporate_actions["symbol"].isin(symbols), "ex_date"].unique()
        inside = (ex_dates >= sessions[0]) & (ex_dates <= sessions[-1])
        sessions = np.union1d(sessions, ex_dates[inside])
    at = np.searchsorted(sessions, bars["session"].to_numpy())
    column = pd.Categorical(bars["symbol"], categories=symbols).codes
    seen = np.zeros((len(sessions), len(symbols)), dtype=bool)
    seen[at, column] = True
    if seen.sum() != len(bars):
        twice = bars.loc[bars.duplicated(["session", "symbol"]), ["session", "symbol"]].iloc[0]
        raise ValueError(
            f"{twice['symbol']} has duplicate bars on {twice['session']:%Y-%m-%d}; one bar a session and symbol is "
            "needed"
        )
    wide = {name: _matrix(bars[name], at, column, sessions, symbols) for name in ("open", "high", "low", "close")}
    close = wide["close"]
    observed = close.notna()
    split = _action_matrix(corporate_actions, "split", close, neutral=1.0)
    dividend = _action_matrix(corporate_actions, "dividend", close, neutral=0.0)
    # last close in shares of the session before: a split may have come since, on a session without a bar
    shares = split.cumprod()
    before = (close * shares).ffill().shift(1) / shares.shift(1)
    paid = dividend * split
    bad = (paid >= before) & (dividend > 0)
    if bad.to_numpy().any():
        at, symbol = next((i, s) for s in bad.columns for i in bad.index[bad[s]])
        raise ValueError(
            f"{symbol} pays a dividend of {dividend.loc[at, symbol]:g} a share on {at:%Y-%m-%d}, not less than "
            f"its previous close {before.loc[at, symbol]:g}; dividends are cash per share as traded: "
            "check the unit"
        )
    multiplier = (split * before / (before - paid)).where(before.notna(), 1.0)
    factor = multiplier.cumprod()
    # a session without a bar has no return: what one share and its distributions were worth is carried on
    wide["close"] = close.where(observed, (close * factor).ffill() / factor)
    return PriceHistory(**wide, observed=observed, split=split, dividend=dividend, factor=factor)


def _matrix(
    values: pd.Series, rows: NDArray[np.intp], columns: NDArray[np.intp], sessions: NDArray[Any], symbols: list[str]
) -> pd.DataFrame:
    """Put values in their places; a reshape is thirty times faster than a pivot on millions of rows."""
    matrix = np.full((len(sessions), len(symbols)), np.nan)
    matrix[rows, columns] = values.to_numpy(dtype="float64")
    return pd.DataFrame(
        matrix, index=pd.DatetimeIndex(sessions, name="session"), columns=pd.Index(symbols, name="symbol")
    )


def _action_matrix(actions: pd.DataFrame, kind: str, like: pd.DataFrame, neutral: float) -> pd.DataFrame:
    """Spread the actions of one kind over sessions by symbols."""
    matrix = pd.DataFrame(neutral, index=like.index, columns=like.columns)
    rows = actions[(actions["kind"] == kind) & actions["symbol"].isin(like.columns)]
    rows = rows[rows["ex_date"].isin(like.index)]
    if len(rows):
        grouped = rows.groupby(["ex_date", "symbol"])["value"]
        # two dividends on one date are both paid; two splits both apply
        values = grouped.prod() if kind == "split" else grouped.sum()
        spread = values.unstack("symbol")
        matrix.loc[spread.index, spread.columns] = spread.fillna(neutral)
    return matrix


def long_rows(columns: dict[str, pd.DataFrame], sessions: pd.DatetimeIndex) -> pd.DataFrame:
    """Turn frames of sessions by symbols into rows of the given sessions.

    Parameters
    ----------
    columns : dict of DataFrame
        Output column name to a frame of sessions by symbols; all of one shape.
    sessions : DatetimeIndex
        The sessions to return; those absent from the frames yield no rows.

    Returns
    -------
    DataFrame
        Columns session, symbol and the given ones; sorted by session, then symbol.
    """
    first = next(iter(columns.values()))
    keep = first.index.intersection(sessions)
    symbols = first.columns.to_numpy(dtype=object)
    rows = {
        "session": np.repeat(keep.to_numpy(), len(symbols)),
        "symbol": np.tile(symbols, len(keep)),
    }
    rows |= {name: frame.loc[keep].to_numpy().reshape(-1) for name, frame in columns.items()}
    return pd.DataFrame(rows)


def average_volume(
    bars: pd.DataFrame, history: PriceHistory, sessions: pd.DatetimeIndex, window: int = 20
) -> pd.DataFrame:
    """Shares traded in an average one of the last sessions, counted in the shares of each session.

    Parameters
    ----------
    bars : DataFrame
        Columns session, symbol, volume (shares as traded).
    history : PriceHistory
        Its splits convert the shares of earlier sessions.
    sessions : DatetimeIndex
        Sessions wanted.
    window : int
        Sessions that the average is over; those without a volume are left out.

    Returns
    -------
    DataFrame
        Sessions by symbols; missing where no volume is known in the window.
    """
    volume = bars.pivot(index="session", columns="symbol", values="volume").reindex(
        index=history.sessions, columns=history.symbols
    )
    shares = history.split.cumprod()
    average = (volume / shares).rolling(window, min_periods=1).mean() * shares
    return average.loc[sessions]
