"""Odd but legal answers: what a vendor's rows may look like on a bad day, with status 200.

Belongs here: changes of the rows between what happened and what is sent. Does not belong here: failures (`faults`),
and changes of what happened (`market`). Rows are a frame in the vendor's own column names and its own index: epoch
seconds at Yahoo, UTC time stamps at Alpaca.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from tests.servers.market import Day

TIME_ZONE = "America/New_York"

Oddity = Callable[[pd.DataFrame], pd.DataFrame]


def null_rows(*sessions: Day) -> Oddity:
    """Rows of sessions that Yahoo lacks: a time stamp, and null for everything else. (Alpaca leaves them out.)"""

    def apply(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.astype("float64")
        rows.loc[_days(rows).isin(pd.to_datetime(list(sessions)))] = np.nan
        return rows

    return apply


def out_of_order(seed: int = 0) -> Oddity:
    """The same rows in another order."""
    return lambda rows: rows.sample(frac=1, random_state=seed)


def repeated_row(session: Day) -> Oddity:
    """A session twice, one after the other."""

    def apply(rows: pd.DataFrame) -> pd.DataFrame:
        at = int(np.flatnonzero(_days(rows) == pd.Timestamp(session))[0])
        return pd.concat([rows.iloc[: at + 1], rows.iloc[at:]])

    return apply


def extra_column(name: str, value: float = 1.0) -> Oddity:
    """A column that was not there yesterday."""
    return lambda rows: rows.assign(**{name: value})


def without_column(name: str) -> Oddity:
    """A column that was there yesterday."""
    return lambda rows: rows.drop(columns=name)


def flat_bar(day: Day) -> Oddity:
    """A bar on a day without a session: nothing traded, at the last close. Not for the listing's first day."""

    def apply(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.sort_index()
        before = rows[_days(rows) < pd.Timestamp(day)].iloc[[-1]]
        flat = before.copy()
        names = ("open", "high", "low", "close") if "close" in rows else ("o", "h", "l", "c")
        for name in names:
            flat[name] = before[names[-1]]
        flat["volume" if "volume" in rows else "v"] = 0
        # the same time of day in New York as the other bars have
        clock = _local(before)[0] - _local(before)[0].normalize()
        moved = (pd.Timestamp(day) + clock).tz_localize(TIME_ZONE)
        flat.index = [int(moved.timestamp())] if rows.index.dtype.kind == "i" else [moved.tz_convert("UTC")]
        return pd.concat([rows, flat]).sort_index()

    return apply


def _local(rows: pd.DataFrame) -> pd.DatetimeIndex:
    stamps = pd.to_datetime(rows.index, unit="s", utc=True) if rows.index.dtype.kind == "i" else rows.index
    return pd.DatetimeIndex(stamps).tz_convert(TIME_ZONE)


def _days(rows: pd.DataFrame) -> pd.DatetimeIndex:
    """Day in New York of each row."""
    return _local(rows).tz_localize(None).normalize()
