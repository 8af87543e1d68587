"""Market data sources: the protocol, and the rules that every answer must meet before it is stored.

Belongs here: what is true of any source. Each source's own format is in its own module.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Protocol

import numpy as np
import pandas as pd

from trading_dagster.calendar import SessionCalendar
from trading_dagster.policy import EARLIEST_DATE, DataPolicyError

BAR_COLUMNS = ["session", "symbol", "open", "high", "low", "close", "volume"]
ACTION_COLUMNS = ["ex_date", "symbol", "kind", "value"]


class MarketDataError(ValueError):
    """Data that cannot be used, or a request that a source cannot answer. Nothing of it is stored."""


class MarketDataSource(Protocol):
    """Where bars and corporate actions come from."""

    @property
    def name(self) -> str:
        """Written into every row."""

    @property
    def last_session(self) -> date | None:
        """Where the source ends; None for one that goes on."""

    def bars(self, symbols: Sequence[str], first: date, last: date) -> pd.DataFrame:
        """Fetch `BAR_COLUMNS` as traded, from `first` to `last`, both included."""

    def corporate_actions(self, symbols: Sequence[str], first: date, last: date) -> pd.DataFrame:
        """Fetch `ACTION_COLUMNS` with ex-dates from `first` to `last`, both included."""


def empty_rows(columns: Sequence[str]) -> pd.DataFrame:
    """No rows, of the types that rows would have."""
    types = {"session": "datetime64[us]", "ex_date": "datetime64[us]", "symbol": "str", "kind": "str"}
    return pd.DataFrame({name: pd.Series(dtype=types.get(name, "float64")) for name in columns})


def check_bars(bars: pd.DataFrame, calendar: SessionCalendar, origin: str) -> None:
    """Refuse bars that cannot be true.

    Parameters
    ----------
    bars : DataFrame
        `BAR_COLUMNS`, of one or several symbols.
    calendar : SessionCalendar
    origin : str
        Where they came from, for the error.

    Raises
    ------
    DataPolicyError
        If a bar is older than 2000-01-01.
    MarketDataError
        If a price is not finite and positive, low and high do not enclose the others, a session is double, is
        no session, or is missing between a symbol's first and last bar.
    """
    early = bars[bars["session"] < pd.Timestamp(EARLIEST_DATE)]
    if len(early):
        row = early.iloc[0]
        raise DataPolicyError(
            f"{origin}: {row['symbol']} has {len(early)} bars before {EARLIEST_DATE}, the first on "
            f"{row['session']:%Y-%m-%d}; the data policy uses none of them: remove these rows"
        )
    prices = bars[["open", "high", "low", "close"]]
    wrong = prices["close"].isna() | ((prices <= 0) | np.isinf(prices)).any(axis=1)
    _refuse(bars, wrong, origin, "a price that is missing, not finite or not above zero")
    low, high = prices.min(axis=1), prices.max(axis=1)
    _refuse(
        bars,
        (bars["low"] > low) | (bars["high"] < high),
        origin,
        "low and high that do not enclose the prices",
    )
    _refuse(bars, bars["volume"] < 0, origin, "a negative volume")
    _refuse(bars, np.isinf(bars["volume"]), origin, "an infinite volume")
    _refuse(bars, bars.duplicated(["session", "symbol"], keep=False), origin, "more than one bar on one date")
    _refuse(
        bars,
        ~bars["session"].isin(calendar.sessions),
        origin,
        f"a date that is no session of {calendar.name}",
    )
    for symbol, sessions in bars.groupby("symbol")["session"]:
        expected = calendar.between(sessions.min(), sessions.max())
        missing = expected.difference(pd.DatetimeIndex(sessions))
        if len(missing):
            raise MarketDataError(
                f"{origin}: {symbol} lacks {len(missing)} sessions between its first and last bar, such as "
                f"{missing[0]:%Y-%m-%d}; supply them (a session without trades repeats the last close)"
            )


def check_actions(actions: pd.DataFrame, calendar: SessionCalendar, origin: str) -> None:
    """Refuse corporate actions that cannot be true: a value not above zero, or an ex-date that is no session."""
    rows = actions.rename(columns={"ex_date": "session"})
    bad = ~np.isfinite(rows["value"].to_numpy(dtype="float64")) | (rows["value"] <= 0)
    _refuse(rows, bad, origin, "a split or dividend that is not a number above zero")
    _refuse(
        rows,
        ~rows["session"].isin(calendar.sessions),
        origin,
        f"an ex-date that is no session of {calendar.name}",
    )


def _refuse(rows: pd.DataFrame, wrong: pd.Series, origin: str, what: str) -> None:
    bad = rows[wrong.to_numpy(dtype=bool)]
    if len(bad):
        first = bad.iloc[0]
        values = {
            name: first[name] for name in ("open", "high", "low", "close", "volume", "value") if name in bad.columns
        }
        shown = ", ".join(f"{name} {value}" for name, value in values.items() if not pd.isna(value))
        raise MarketDataError(
            f"{origin}: {len(bad)} rows have {what}; the first is {first['symbol']} on {first['session']:%Y-%m-%d}"
            f" ({shown}); correct the data and run again, nothing was stored"
        )
