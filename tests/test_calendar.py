"""Sessions and their partitions against exchange_calendars itself, and against days that anyone can look up."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import exchange_calendars
import pandas as pd
import pytest

from trading_dagster.calendar import SessionCalendar, SessionError, month_key, session_calendar

NEW_YORK = session_calendar("XNYS")

HOLIDAYS = [
    pytest.param("2000-01-17", id="martin_luther_king_day"),
    pytest.param("2001-09-11", id="attacks_of_2001"),
    pytest.param("2001-09-14", id="closed_after_the_attacks"),
    pytest.param("2004-06-11", id="mourning_for_reagan"),
    pytest.param("2012-10-29", id="hurricane_sandy"),
    pytest.param("2018-12-05", id="mourning_for_bush"),
    pytest.param("2021-07-05", id="independence_day_observed"),
    pytest.param("2022-06-20", id="juneteenth_observed"),
    pytest.param("2024-03-29", id="good_friday"),
    pytest.param("2024-12-25", id="christmas"),
    pytest.param("2025-01-09", id="mourning_for_carter"),
]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# -- sessions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("day", HOLIDAYS)
def test_known_holiday_is_no_session(day: str) -> None:
    with pytest.raises(SessionError, match=rf"^{day} \(\w+day\) is not a session of XNYS"):
        NEW_YORK.session(day)


@pytest.mark.parametrize("day", ["2000-01-03", "2001-09-17", "2012-10-31", "2021-12-31", "2024-02-29"])
@pytest.mark.parametrize("kind", [str, date.fromisoformat, pd.Timestamp])
def test_known_session_is_one(day: str, kind: type) -> None:
    session = NEW_YORK.session(kind(day))
    assert session == pd.Timestamp(day)
    assert session.unit == "us"
    assert session in NEW_YORK.sessions


@pytest.mark.parametrize(
    ("year", "count"),
    # trading days a year, as the exchange publishes them
    [(2000, 252), (2001, 248), (2008, 253), (2012, 250), (2020, 253), (2022, 251), (2024, 252)],
)
def test_sessions_a_year(year: int, count: int) -> None:
    assert len(NEW_YORK.between(f"{year}-01-01", f"{year}-12-31")) == count


def test_first_session_is_that_of_2000_and_none_is_lost() -> None:
    # without `start` the window begins twenty years back
    assert NEW_YORK.sessions[0] == pd.Timestamp("2000-01-03")
    own = exchange_calendars.get_calendar("XNYS", start="1998-01-01")
    expected = own.sessions_in_range("2000-01-01", NEW_YORK.sessions[-1])
    assert NEW_YORK.sessions.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("day", "nearest"),
    [
        pytest.param("2024-07-04", "2024-07-03, 2024-07-05", id="holiday"),
        pytest.param("2024-07-06", "2024-07-05, 2024-07-08", id="saturday"),
        pytest.param("1999-12-31", "2000-01-03", id="before_the_first"),
    ],
)
def test_error_names_the_nearest_sessions_and_the_range(day: str, nearest: str) -> None:
    with pytest.raises(SessionError, match=rf"run from 2000-01-03 to \d{{4}}-\d\d-\d\d; nearest: {nearest}$"):
        NEW_YORK.session(day)


def test_error_after_the_last_session_names_the_last() -> None:
    with pytest.raises(SessionError, match=f"nearest: {NEW_YORK.sessions[-1]:%Y-%m-%d}$"):
        NEW_YORK.session("2199-01-02")


@pytest.mark.parametrize("value", ["soon", "2024-13-01", "2024-02-30", "99999-01-01", "", "NaT"])
def test_value_that_is_no_date_is_named(value: str) -> None:
    with pytest.raises(SessionError, match=rf"^session '{value}' is not a date; write it as YYYY-MM-DD$"):
        NEW_YORK.session(value)


@pytest.mark.parametrize("name", ["NYSE_TYPO", "", "XXXX"])
def test_unknown_calendar_is_named(name: str) -> None:
    with pytest.raises(SessionError, match=rf"TRADING_CALENDAR is '{name}', which exchange_calendars does not know"):
        SessionCalendar(name)


@pytest.mark.parametrize("name", ["XSAU", "AIXK"])
def test_calendar_that_cannot_be_built_from_2000_is_named(name: str) -> None:
    # known to exchange_calendars from 2017 and 2021 on only: a setting that cannot be used, in one line
    with pytest.raises(SessionError, match=rf"TRADING_CALENDAR is '{name}'") as caught:
        SessionCalendar(name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        pytest.param("2024-07-03", "2024-07-05", ["2024-07-03", "2024-07-05"], id="both_included"),
        pytest.param("2024-07-04", "2024-07-07", ["2024-07-05"], id="bounds_are_no_sessions"),
        pytest.param("2024-07-04", "2024-07-04", [], id="none"),
        pytest.param("2024-07-05", "2024-07-03", [], id="reversed"),
    ],
)
def test_between(first: str, last: str, expected: list[str]) -> None:
    assert [f"{s:%Y-%m-%d}" for s in NEW_YORK.between(first, last)] == expected


def test_previous_and_next_step_over_holidays_and_stop_at_the_ends() -> None:
    friday = pd.Timestamp("2024-07-05")
    assert NEW_YORK.previous(friday) == pd.Timestamp("2024-07-03")
    assert NEW_YORK.next(friday) == pd.Timestamp("2024-07-08")
    with pytest.raises(SessionError, match="no session before 2000-01-03"):
        NEW_YORK.previous(NEW_YORK.sessions[0])
    with pytest.raises(SessionError, match="no session after"):
        NEW_YORK.next(NEW_YORK.sessions[-1])


@pytest.mark.parametrize(
    ("month", "first"),
    [
        ("2024-09-01", "2024-09-03"),
        ("2024-09-30", "2024-09-03"),
        ("2000-01-01", "2000-01-03"),
        ("2021-05", "2021-05-03"),
    ],
)
def test_first_session_of_month(month: str, first: str) -> None:
    assert NEW_YORK.first_session_of_month(month) == pd.Timestamp(first)


@pytest.mark.parametrize(("day", "key"), [("2024-09-03", "2024-09-01"), ("2000-01-31", "2000-01-01")])
def test_month_key(day: str, key: str) -> None:
    assert month_key(pd.Timestamp(day)) == key


# -- opening and closing times --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "close"),
    [
        pytest.param("2024-01-05", "2024-01-05 16:00-05:00", id="winter"),
        pytest.param("2024-07-05", "2024-07-05 16:00-04:00", id="summer"),
        pytest.param("2024-11-29", "2024-11-29 13:00-05:00", id="day_after_thanksgiving"),
        pytest.param("2024-07-03", "2024-07-03 13:00-04:00", id="eve_of_independence_day"),
    ],
)
def test_closing_time(day: str, close: str) -> None:
    found = NEW_YORK.close_time(pd.Timestamp(day))
    assert found == pd.Timestamp(close)
    assert str(found.tz) == NEW_YORK.timezone == "America/New_York"


def test_next_opening_is_that_of_the_next_session() -> None:
    # Friday's next opening is on Monday, after the clocks went forward
    sessions = pd.DatetimeIndex(["2024-03-07", "2024-03-08"])
    expected = pd.DatetimeIndex(["2024-03-08 14:30", "2024-03-11 13:30"], tz="UTC")
    pd.testing.assert_index_equal(NEW_YORK.next_open_times(sessions), expected, exact=False, check_names=False)


def test_all_closing_and_next_opening_times_are_those_of_the_exchange() -> None:
    reference = exchange_calendars.get_calendar("XNYS", start="2000-01-01")
    sessions = NEW_YORK.between("2001-06-01", "2013-03-01")
    closes, opens = NEW_YORK.close_times(sessions), NEW_YORK.next_open_times(sessions)
    for at in range(0, len(sessions), 97):
        assert closes[at] == reference.session_close(sessions[at])
        assert opens[at] == reference.session_open(reference.next_session(sessions[at]))


def test_the_last_session_has_no_next_opening() -> None:
    with pytest.raises(SessionError, match="no session after"):
        NEW_YORK.next_open_times(NEW_YORK.sessions[-2:])
    assert len(NEW_YORK.next_open_times(NEW_YORK.sessions[-3:-1])) == 2


def test_no_sessions_have_no_times() -> None:
    assert len(NEW_YORK.next_open_times(NEW_YORK.sessions[:0])) == 0
    assert len(NEW_YORK.close_times(NEW_YORK.sessions[:0])) == 0


@pytest.mark.parametrize(
    ("session", "count", "expected"),
    [
        pytest.param("2024-01-05", 0, "2024-01-05", id="none"),
        pytest.param("2024-01-05", 3, "2024-01-02", id="within_a_week"),
        pytest.param("2024-01-02", 1, "2023-12-29", id="over_new_year"),
        pytest.param("2000-01-05", 2, "2000-01-03", id="to_the_first"),
        pytest.param("2000-01-05", 3, "2000-01-03", id="beyond_the_first"),
    ],
)
def test_back_counts_sessions_and_stops_at_the_first(session: str, count: int, expected: str) -> None:
    assert NEW_YORK.back(pd.Timestamp(session), count) == pd.Timestamp(expected)


@pytest.mark.parametrize(
    ("session", "last", "expected"),
    [
        pytest.param("2024-01-05", "2024-01-05", 0, id="the_same"),
        pytest.param("2024-01-05", "2024-01-08", 1, id="over_a_weekend"),
        pytest.param("2024-01-05", "2024-01-07", 0, id="up_to_a_sunday"),
        pytest.param("2023-12-22", "2024-01-02", 5, id="over_two_holidays"),
    ],
)
def test_count_after_counts_the_last_and_not_the_first(session: str, last: str, expected: int) -> None:
    assert NEW_YORK.count_after(pd.Timestamp(session), pd.Timestamp(last)) == expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param("2024-01-05T20:59:59", "2024-01-04", id="second_before_the_close"),
        pytest.param("2024-01-05T21:00:00", "2024-01-05", id="at_the_close"),
        pytest.param("2024-01-07T12:00:00", "2024-01-05", id="sunday"),
        pytest.param("2024-11-29T18:00:00", "2024-11-29", id="half_day"),
        pytest.param("2024-11-29T17:59:00", "2024-11-27", id="before_the_half_days_close"),
    ],
)
def test_last_closed(now: str, expected: str) -> None:
    assert NEW_YORK.last_closed(utc(now)) == pd.Timestamp(expected)


def test_nothing_had_closed_before_the_first_close() -> None:
    with pytest.raises(SessionError, match="no session of XNYS has closed by 2000-01-03 20:00"):
        NEW_YORK.last_closed(utc("2000-01-03T20:00:00"))


def test_last_closed_equals_a_search_over_all_closes() -> None:
    own = exchange_calendars.get_calendar("XNYS", start="2023-01-01", end="2024-01-31").schedule
    for hours in range(0, 24 * 366, 37):
        now = utc("2023-01-09T00:30:00") + timedelta(hours=hours)
        assert NEW_YORK.last_closed(now) == own.index[own["close"] <= now][-1], now


def test_closed_returns_a_session_from_its_close_on() -> None:
    assert NEW_YORK.closed("2024-01-05", utc("2024-01-05T21:00:00")) == pd.Timestamp("2024-01-05")


def test_future_session_is_refused_with_both_times() -> None:
    message = (
        r"session 2024-01-05 closes at 2024-01-05 16:00 EST, and it is 2024-01-05 15:59 EST; .* use an earlier session "
        "or wait"
    )
    with pytest.raises(SessionError, match=message):
        NEW_YORK.closed("2024-01-05", utc("2024-01-05T20:59:00"))


def test_holiday_is_refused_as_such_and_not_as_future() -> None:
    with pytest.raises(SessionError, match="is not a session"):
        NEW_YORK.closed("2024-12-25", utc("2024-01-05T12:00:00"))


# -- partitions -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["XNYS", "XTKS", "XLON", "24/7"])
def calendar(request: pytest.FixtureRequest) -> SessionCalendar:
    """Calendars with other holidays, time zones and, the last, weekend sessions."""
    return SessionCalendar(request.param)


def test_partitions_are_exactly_the_sessions(calendar: SessionCalendar) -> None:
    now = datetime.now(UTC)
    keys = calendar.session_partitions().get_partition_keys(current_time=now)
    own = exchange_calendars.get_calendar(calendar.name, start="2000-01-01", end=calendar.sessions[-1])
    expected = [f"{s:%Y-%m-%d}" for s in own.sessions if f"{s:%Y-%m-%d}" <= keys[-1]]
    assert keys == expected
    # today's key is there when the session closes, and at most one is offered ahead
    today = f"{pd.Timestamp(now).tz_convert(calendar.timezone):%Y-%m-%d}"
    assert keys[-1] >= f"{calendar.last_closed(now):%Y-%m-%d}"
    assert len([key for key in keys if key > today]) <= 1


@pytest.mark.parametrize(
    ("now", "last"),
    [
        pytest.param("2024-07-02T22:00:00", "2024-07-02", id="after_the_close"),
        pytest.param("2024-07-03T12:00:00", "2024-07-03", id="before_the_open"),
        pytest.param("2024-07-06T16:00:00", "2024-07-05", id="weekend"),
        # what `end_offset` brings on a holiday; `closed` refuses such a key
        pytest.param("2024-07-04T16:00:00", "2024-07-05", id="holiday_offers_the_next"),
    ],
)
def test_newest_partition(now: str, last: str) -> None:
    assert NEW_YORK.session_partitions().get_partition_keys(current_time=utc(now))[-1] == last


@pytest.mark.parametrize("day", ["2024-07-04", "2024-07-06", "1999-12-31"])
def test_a_day_without_session_is_no_partition(day: str) -> None:
    keys = NEW_YORK.session_partitions().get_partition_keys(current_time=utc("2024-08-01T00:00:00"))
    assert day not in keys
    assert keys[0] == "2000-01-03"


@pytest.mark.parametrize(
    ("now", "last"),
    [
        pytest.param("2024-09-01T03:59:00", "2024-08-01", id="still_august_in_new_york"),
        pytest.param("2024-09-01T04:01:00", "2024-09-01", id="september_from_its_first_minute"),
    ],
)
def test_month_exists_from_its_first_day(now: str, last: str) -> None:
    keys = NEW_YORK.month_partitions().get_partition_keys(current_time=utc(now))
    assert (keys[0], keys[-1]) == ("2000-01-01", last)
    assert len(keys) == 12 * 24 + int(last[5:7])


def test_calendar_is_built_once() -> None:
    assert session_calendar("XNYS") is session_calendar("XNYS")
