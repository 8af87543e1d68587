"""Which session is due, and how many what is stored lies behind it: for the check in the UI and the exporter alike."""

from __future__ import annotations

from datetime import date, datetime

import pandas as pd

from trading_dagster.calendar import SessionCalendar

GRACE = pd.Timedelta(hours=4)
"""Time after a close in which its session need not be there yet: the evening run begins an hour or two after it."""

WATCHED = ("bars", "signals")
"""What comes in and what is decided; what lies between is there if the latter is. Orders there need not be any."""


def due_by(calendar: SessionCalendar, now: datetime, last_session: date | None) -> pd.Timestamp:
    """Newest session that should be there: closed for longer than `GRACE`, and not after the source's last one."""
    newest = calendar.last_closed((pd.Timestamp(now) - GRACE).to_pydatetime())
    if last_session is not None and newest.date() > last_session:
        return calendar.sessions[calendar.sessions.searchsorted(pd.Timestamp(last_session), side="right") - 1]
    return newest


def sessions_behind(stored: pd.Timestamp | None, due: pd.Timestamp, calendar: SessionCalendar) -> int:
    """Count the sessions after the newest stored one up to the one that is due."""
    before = calendar.sessions[0] - pd.Timedelta(days=1)
    # the evening run may have stored a session that is not due yet
    return max(calendar.count_after(before if stored is None else stored, due), 0)
