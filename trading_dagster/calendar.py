"""Exchange sessions and the partitions made of them.

Belongs here: what a session is, when it closes, which partition keys exist. Does not belong here: what
is computed for a session.
"""

from __future__ import annotations

from datetime import date, datetime
from functools import lru_cache

import dagster as dg
import exchange_calendars
import pandas as pd

from trading_dagster.policy import EARLIEST_DATE


class SessionError(ValueError):
    """A date that is not a session, or a session that cannot be used yet."""


class SessionCalendar:
    """Sessions of one exchange from 2000-01-01 on.

    Parameters
    ----------
    name : str
        An `exchange_calendars` name, such as ``XNYS``.

    Raises
    ------
    SessionError
        If the exchange is not known.
    """

    def __init__(self, name: str) -> None:
        try:
            # Without `start` the calendar's window begins twenty years back, and silently loses 2000 to 2006.
            self._calendar = exchange_calendars.get_calendar(name, start=EARLIEST_DATE.isoformat())
        except exchange_calendars.errors.InvalidCalendarName as error:
            raise SessionError(
                f"TRADING_CALENDAR is {name!r}, which exchange_calendars does not know; "
                "use a market identifier code such as XNYS, XLON or XTKS"
            ) from error
        except (ValueError, NotImplementedError, exchange_calendars.errors.CalendarError) as error:
            raise SessionError(
                f"TRADING_CALENDAR is {name!r}, whose calendar cannot be built from {EARLIEST_DATE} on: "
                f"{str(error).splitlines()[0][:200]}; choose an exchange with a longer record"
            ) from error
        self.name = name
        self.timezone = str(self._calendar.tz)
        self.sessions: pd.DatetimeIndex = self._calendar.sessions.as_unit("us")

    def session(self, value: date | str) -> pd.Timestamp:
        """Return `value` as a session, or fail naming the nearest ones."""
        try:
            stamp = pd.Timestamp(value)
        except ValueError:
            stamp = pd.NaT
        if pd.isna(stamp):
            raise SessionError(f"session {value!r} is not a date; write it as YYYY-MM-DD")
        stamp = stamp.normalize().as_unit("us")
        if stamp in self.sessions:
            return stamp
        at = int(self.sessions.searchsorted(stamp))
        nearest = [f"{s:%Y-%m-%d}" for s in self.sessions[max(at - 1, 0) : at + 1]]
        raise SessionError(
            f"{stamp:%Y-%m-%d} ({stamp:%A}) is not a session of {self.name}, whose sessions run from "
            f"{self.sessions[0]:%Y-%m-%d} to {self.sessions[-1]:%Y-%m-%d}; nearest: {', '.join(nearest)}"
        )

    def between(self, first: date | str, last: date | str) -> pd.DatetimeIndex:
        """Sessions from `first` to `last`, both included; the bounds need not be sessions."""
        lower, upper = pd.Timestamp(first), pd.Timestamp(last)
        return self.sessions[(self.sessions >= lower) & (self.sessions <= upper)]

    def closed(self, value: date | str, now: datetime) -> pd.Timestamp:
        """Return `value` as a session that has closed by `now`, or fail saying when it will."""
        session = self.session(value)
        close = self.close_time(session)
        if close > now:
            raise SessionError(
                f"session {session:%Y-%m-%d} closes at {close:%Y-%m-%d %H:%M %Z}, and it is "
                f"{pd.Timestamp(now).tz_convert(self.timezone):%Y-%m-%d %H:%M %Z}; a session's bars exist "
                "only after its close: use an earlier session or wait"
            )
        return session

    def close_time(self, session: pd.Timestamp) -> pd.Timestamp:
        """Closing time of `session`, in the exchange's time zone."""
        return self._calendar.session_close(session).tz_convert(self.timezone)

    def evening(self) -> tuple[int, int]:
        """Hour and minute, exchange time, to run a session: 17:30, or an hour after the close where it is later."""
        recent = self._calendar.closes.iloc[-500:].dt.tz_convert(self.timezone)
        latest = int((recent.dt.hour * 60 + recent.dt.minute).max())
        return divmod(max(17 * 60 + 30, min(latest + 60, 24 * 60 - 1)), 60)

    def close_times(self, sessions: pd.DatetimeIndex) -> pd.DatetimeIndex:
        """Closing time of each session, UTC."""
        return pd.DatetimeIndex(self._calendar.closes.iloc[self.sessions.get_indexer(sessions)]).as_unit("us")

    def open_times(self, sessions: pd.DatetimeIndex) -> pd.DatetimeIndex:
        """Opening time of each session, UTC."""
        return pd.DatetimeIndex(self._calendar.opens.iloc[self.sessions.get_indexer(sessions)]).as_unit("us")

    def next_open_times(self, sessions: pd.DatetimeIndex) -> pd.DatetimeIndex:
        """Opening time of the session after each session, UTC: what became known until then, it may know."""
        if len(sessions):
            self.next(sessions[-1])  # says so where the calendar ends
        return pd.DatetimeIndex(self._calendar.opens.iloc[self.sessions.get_indexer(sessions) + 1]).as_unit("us")

    def back(self, session: pd.Timestamp, count: int) -> pd.Timestamp:
        """Return the session `count` sessions before `session`, or the first there is."""
        return self.sessions[max(int(self.sessions.get_loc(session)) - count, 0)]

    def count_after(self, session: pd.Timestamp, last: pd.Timestamp) -> int:
        """Count the sessions after `session` up to `last`."""
        return int(self.sessions.searchsorted(last, side="right") - self.sessions.searchsorted(session, side="right"))

    def last_closed(self, now: datetime) -> pd.Timestamp:
        """Return the newest session whose close is not after `now`."""
        closes = self._calendar.closes
        at = int(closes.searchsorted(pd.Timestamp(now).tz_convert("UTC"), side="right")) - 1
        if at < 0:
            raise SessionError(f"no session of {self.name} has closed by {now}")
        return self.sessions[at]

    def previous(self, session: pd.Timestamp) -> pd.Timestamp:
        """Return the session before `session`."""
        return self._step(session, -1)

    def next(self, session: pd.Timestamp) -> pd.Timestamp:
        """Return the session after `session`."""
        return self._step(session, 1)

    def first_session_of_month(self, month: date | str) -> pd.Timestamp:
        """Return the first session in the month that holds `month`."""
        start = pd.Timestamp(month).replace(day=1)
        return self.sessions[int(self.sessions.searchsorted(start))]

    def _step(self, session: pd.Timestamp, by: int) -> pd.Timestamp:
        at = self.sessions.get_loc(session) + by
        if not 0 <= at < len(self.sessions):
            raise SessionError(
                f"{self.name} has no session {'after' if by > 0 else 'before'} {session:%Y-%m-%d}; "
                "the calendar reaches one year past today"
            )
        return self.sessions[at]

    def session_partitions(self) -> dg.TimeWindowPartitionsDefinition:
        """Build one partition a session, key ``YYYY-MM-DD``; weekday holidays are excluded by date."""
        weekdays = [day for day, open_ in enumerate(self._calendar.weekmask) if open_ == "1"]
        days = pd.date_range(self.sessions[0], self.sessions[-1], freq="D")
        holidays = days[days.day_of_week.isin(weekdays)].difference(self.sessions)
        return dg.TimeWindowPartitionsDefinition(
            start=self.sessions[0].to_pydatetime(),
            fmt="%Y-%m-%d",
            # cron counts from Sunday, pandas from Monday
            cron_schedule=f"0 0 * * {','.join(str((day + 1) % 7) for day in weekdays)}",
            timezone=self.timezone,
            exclusions=[day.to_pydatetime() for day in holidays],
            # the window of today's session ends at midnight; its key is wanted at the close
            end_offset=1,
        )

    def month_partitions(self) -> dg.MonthlyPartitionsDefinition:
        """Build one partition a month; the current one exists from its first day, when its model is fitted."""
        return dg.MonthlyPartitionsDefinition(
            start_date=f"{EARLIEST_DATE:%Y-%m}-01", timezone=self.timezone, end_offset=1
        )


@lru_cache(maxsize=4)
def session_calendar(name: str) -> SessionCalendar:
    """Return the calendar of an exchange; building one takes a tenth of a second, so it is kept."""
    return SessionCalendar(name)


def month_key(session: pd.Timestamp) -> str:
    """Partition key of the month that holds `session`."""
    return f"{session:%Y-%m}-01"
