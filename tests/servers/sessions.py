"""When an exchange is open, from `exchange_calendars`.

Belongs here: sessions with their opening and closing times, made once for each exchange, at the first question. Does
not belong here: the vendor's formats.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache

FIRST, LAST = "2000-01-01", "2029-12-31"


@dataclass(frozen=True)
class Session:
    """One trading day; the times are in UTC."""

    day: date
    opens: datetime
    closes: datetime


class Sessions:
    """The sessions of one exchange, oldest first."""

    def __init__(self, name: str) -> None:
        import exchange_calendars  # half a second, which a server without a question for the time does not pay

        schedule = exchange_calendars.get_calendar(name, start=FIRST, end=LAST).schedule
        self.all = [
            Session(day.date(), opens.to_pydatetime(), closes.to_pydatetime())
            for day, opens, closes in zip(schedule.index, schedule["open"], schedule["close"], strict=True)
        ]
        self._closes = [session.closes for session in self.all]

    def current_or_next(self, time: datetime) -> int:
        """Index of the first session that is not over."""
        return bisect_right(self._closes, time)

    def is_open(self, time: datetime) -> bool:
        return self.all[self.current_or_next(time)].opens <= time


@cache
def sessions(name: str) -> Sessions:
    return Sessions(name)
