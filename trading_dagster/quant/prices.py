"""Price history as matrices of sessions by symbols, adjusted for splits and dividends without looking ahead.

Belongs here: reshaping, adjustment, returns. Does not belong here: anything that interprets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class PriceHistory:
    """Raw prices with the adjustment factor of each session.

    All attributes are frames of float64, sessions (rows, ascending) by symbols (columns).

    Attributes
    ----------
    open, high, low, close : DataFrame
        As traded, currency per share. Missing where the source has none; before a listing, all are.
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
        return self.close.notna().cumsum()

    def select(self, symbols: Sequence[str]) -> PriceHistory:
        """Keep the given symbols; one without any bar becomes a column of missing values."""
        wanted = sorted(symbols)
        kept = {f.name: getattr(self, f.name).reindex(columns=wanted) for f in fields(self)}
        kept["split"] = kept["split"].fillna(1.0)
        kept["dividend"] = kept["dividend"].fillna(0.0)
        kept["factor"] = kept["factor"].fillna(1.0)
        return PriceHistory(**kept)

    def until(self, session: pd.Timestamp) -> PriceHistory:
        """Cut off all sessions after `session`."""
        return replace(self, **{f.name: getattr(self, f.name).loc[:session] for f in fields(self)})


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
    ordered = bars.sort_values(["session", "symbol"])
    wide = {
        name: ordered.pivot(index="session", columns="symbol", values=name).astype("float64")
        for name in ("open", "high", "low", "close")
    }
    close = wide["close"]
    split = _action_matrix(corporate_actions, "split", close, neutral=1.0)
    dividend = _action_matrix(corporate_actions, "dividend", close, neutral=0.0)
    before = close.ffill().shift(1)
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
    return PriceHistory(**wide, split=split, dividend=dividend, factor=multiplier.cumprod())


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
