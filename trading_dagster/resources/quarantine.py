"""Quarantine: reading it, and letting a bar out by an operator's word.

Belongs here: what an operator does with quarantined bars. What puts them there is in `resources.ingestion`.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd

from trading_dagster.calendar import SessionCalendar
from trading_dagster.resources.tables import Tables


class QuarantineError(ValueError):
    """A release that cannot be made; nothing was changed."""


def listing(tables: Tables, *, everything: bool = False) -> pd.DataFrame:
    """Bars in quarantine as known now, newest first; with `everything` the released ones too."""
    rows = tables.read("quarantine")
    rows = rows if everything else rows[rows["state"] == "quarantined"]
    return rows.sort_values(["session", "symbol"], ascending=[False, True], ignore_index=True)


def release(
    tables: Tables,
    calendar: SessionCalendar,
    symbol: str,
    session: str,
    operator: str,
    reason: str,
    *,
    since_close: bool = False,
) -> str:
    """Let a bar into `bars`.

    Parameters
    ----------
    symbol, session : str
        The bar; the date as YYYY-MM-DD.
    operator, reason : str
        Written beside it.
    since_close : bool, default=False
        Let the bar count as known since its session's close, as if it had never been held back; partitions that
        are run again then see it. By default it is known from now on, and the past stays what it was.

    Returns
    -------
    str
        What was done, in words.

    Raises
    ------
    QuarantineError
        If there is no such bar in quarantine, it cannot be a bar of `bars`, or no name or reason is given.
    """
    at = calendar.session(session)
    if not operator.strip() or not reason.strip():
        raise QuarantineError("a release needs a name and a reason: --operator NAME --reason TEXT")
    rows = tables.read("quarantine", first=at, as_of=at)
    rows = rows[(rows["symbol"] == symbol.upper()) & (rows["state"] == "quarantined")]
    if rows.empty:
        held = listing(tables)
        named = ", ".join(f"{row.symbol} {row.session:%Y-%m-%d}" for row in held.head(5).itertuples())
        raise QuarantineError(
            f"{symbol.upper()} has no bar in quarantine on {at:%Y-%m-%d}; there are {len(held)}"
            + (f", such as {named}; see: trading quarantine list --all" if len(held) else "")
        )
    stored = tables.read("bars", first=at, as_of=at, columns=["session", "symbol", "close"])
    if since_close and (stored["symbol"] == symbol.upper()).any():
        raise QuarantineError(
            f"{symbol.upper()} has a bar of {at:%Y-%m-%d} already, known since its close; a release replaces it from "
            "now on only: leave out --since-close"
        )
    now = pd.Timestamp(datetime.now(UTC))
    known_at = calendar.close_times(pd.DatetimeIndex([at]))[0] if since_close else now
    released = rows.assign(state="released", operator=operator.strip(), note=reason.strip(), known_at=now)
    bar = rows[["session", "symbol", "open", "high", "low", "close", "volume", "source"]].assign(known_at=known_at)
    # the bar first: killed in between, it is there and still listed, and can be released once more
    tables.add_revisions("bars", bar)
    tables.add_revisions("quarantine", released)
    return (
        f"released {symbol.upper()} of {at:%Y-%m-%d}, close {bar['close'].iloc[0]:g}, by {operator.strip()}; known "
        + (
            "since its session's close: sessions run again from then on see it"
            if since_close
            else "from now on: run a session that has not opened the next one yet again to use it"
        )
    )
