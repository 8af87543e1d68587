"""Schedules at chosen times: sessions run, other days are skipped with the reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from trading_dagster.calendar import SessionCalendar, session_calendar
from trading_dagster.schedules import build_schedules

NEW_YORK = ZoneInfo("America/New_York")
SCHEDULES = {schedule.name: schedule for schedule in build_schedules(session_calendar("XNYS"))}


@dataclass(frozen=True)
class Source:
    """As much of a market-data source as a schedule reads."""

    name: str = "endless"
    last_session: date | None = None


def evaluate(
    name: str, when: str, source: Source | None = None, timezone: ZoneInfo = NEW_YORK
) -> dg.RunRequest | dg.SkipReason:
    context = dg.build_schedule_context(
        scheduled_execution_time=datetime.fromisoformat(when).replace(tzinfo=timezone),
        resources={"source": source or Source()},
    )
    return SCHEDULES[name](context)


@pytest.mark.parametrize(
    "day",
    [
        pytest.param("2024-07-05", id="session"),
        pytest.param("2024-11-29", id="half_day"),
        pytest.param("2024-03-11", id="after_the_clocks_changed"),
        pytest.param("2000-01-03", id="first_session"),
    ],
)
def test_session_runs_for_itself(day: str) -> None:
    request = evaluate("daily_schedule", f"{day}T17:30")
    assert isinstance(request, dg.RunRequest)
    assert (request.partition_key, request.run_key) == (day, day)


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        pytest.param("2024-07-04T17:30", r"2024-07-04 \(Thursday\) is not a session", id="holiday"),
        pytest.param("2024-07-06T17:30", r"2024-07-06 \(Saturday\) is not a session", id="saturday"),
        pytest.param("2024-07-07T17:30", r"2024-07-07 \(Sunday\) is not a session", id="sunday"),
        pytest.param("2024-07-05T15:00", "closes at 2024-07-05 16:00 EDT", id="started_by_hand_too_early"),
    ],
)
def test_other_days_are_skipped_with_the_reason(when: str, reason: str) -> None:
    skipped = evaluate("daily_schedule", when)
    assert isinstance(skipped, dg.SkipReason)
    assert re.search(reason, str(skipped.skip_message))


def test_time_of_another_zone_is_taken_to_the_exchange() -> None:
    # Dagster may hand over UTC: 22:30 in winter is 17:30 in New York, 02:30 is still the evening before
    utc = ZoneInfo("UTC")
    for when in ("2024-01-05T22:30", "2024-01-06T02:30"):
        request = evaluate("daily_schedule", when, timezone=utc)
        assert isinstance(request, dg.RunRequest)
        assert request.partition_key == "2024-01-05"


@pytest.mark.parametrize(
    ("last", "runs"), [(None, True), (date(2024, 7, 8), True), (date(2024, 7, 5), True), (date(2024, 7, 3), False)]
)
def test_session_after_the_sources_end_is_skipped(last: date | None, runs: bool) -> None:
    answer = evaluate("daily_schedule", "2024-07-05T17:30", Source("shelf", last))
    assert isinstance(answer, dg.RunRequest if runs else dg.SkipReason)
    if not runs:
        assert "shelf ends at 2024-07-03; set TRADING_SOURCE" in str(answer.skip_message)


@pytest.mark.parametrize("when", ["2024-09-01T06:00", "2024-10-01T06:00"])
def test_training_runs_for_the_month_that_begins(when: str) -> None:
    # 1 September 2024 is a Sunday before a holiday: the model is there before the first session
    request = evaluate("training_schedule", when)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == request.run_key == when[:10]


@pytest.mark.parametrize(("last", "runs"), [(date(2022, 12, 28), False), (date(2023, 1, 31), True)])
def test_training_is_skipped_after_the_sources_end(last: date, runs: bool) -> None:
    answer = evaluate("training_schedule", "2023-01-01T06:00", Source("shelf", last))
    assert isinstance(answer, dg.RunRequest if runs else dg.SkipReason)
    if not runs:
        assert "shelf ends at 2022-12-28" in str(answer.skip_message)


@pytest.mark.parametrize(
    ("name", "cron", "job"),
    [("daily_schedule", "30 17 * * *", "daily"), ("training_schedule", "0 6 1 * *", "training")],
)
def test_times_are_the_exchanges(name: str, cron: str, job: str) -> None:
    schedule = SCHEDULES[name]
    assert (schedule.cron_schedule, schedule.execution_timezone) == (cron, "America/New_York")
    assert schedule.job_name == job
    tokyo = {s.name: s for s in build_schedules(session_calendar("XTKS"))}
    assert tokyo[name].execution_timezone == "Asia/Tokyo"


@pytest.mark.parametrize("exchange", ["XNYS", "XTKS", "XLON", "XFRA"])
def test_daily_schedule_comes_after_the_close(exchange: str) -> None:
    # an exchange that closes later than the schedule would be skipped on every day
    calendar: SessionCalendar = session_calendar(exchange)
    schedule = next(s for s in build_schedules(calendar) if s.name == "daily_schedule")
    context = dg.build_schedule_context(
        scheduled_execution_time=next_tick(schedule, calendar), resources={"source": Source()}
    )
    request = schedule(context)
    assert isinstance(request, dg.RunRequest), request
    assert request.partition_key == "2024-03-06"


def next_tick(schedule: dg.ScheduleDefinition, calendar: SessionCalendar) -> datetime:
    """When the schedule fires on a plain Wednesday."""
    minute, hour = str(schedule.cron_schedule).split()[:2]
    return datetime(2024, 3, 6, int(hour), int(minute), tzinfo=ZoneInfo(calendar.timezone))


# -- reconciling ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """As much of a broker, and of a ledger, as the schedule reads."""

    real: bool = True
    traded: bool = True
    name: str = "alpaca"

    def strategy(self, name: str) -> str | None:
        return name if self.traded else None


@dataclass(frozen=True)
class Desk:
    """As much of a desk as the schedule reads."""

    broker: Account
    ledger: Account
    strategy: str = "main"


def reconcile_at(when: str, timezone: ZoneInfo = NEW_YORK, **values: bool) -> dg.RunRequest | dg.SkipReason:
    context = dg.build_schedule_context(
        scheduled_execution_time=datetime.fromisoformat(when).replace(tzinfo=timezone),
        resources={"desk": Desk(Account(**values), Account(**values))},
    )
    return SCHEDULES["reconcile_schedule"](context)


@pytest.mark.parametrize(
    "when",
    [
        pytest.param("2024-07-05T09:30", id="at_the_open"),
        pytest.param("2024-07-05T12:00", id="in_between"),
        pytest.param("2024-07-05T16:00", id="at_the_close"),
        pytest.param("2024-07-05T18:00", id="two_hours_after"),
        pytest.param("2024-11-29T15:00", id="two_hours_after_half_a_day"),
        pytest.param("2024-03-11T09:30", id="after_the_clocks_changed"),
    ],
)
def test_account_is_looked_at_while_a_session_is_under_way(when: str) -> None:
    request = reconcile_at(when)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == when.replace("T", " ")


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        pytest.param("2024-07-05T09:00", "no session is under way", id="before_the_open"),
        pytest.param("2024-07-05T18:30", "no session is under way", id="late"),
        pytest.param("2024-11-29T15:30", "no session is under way", id="late_on_half_a_day"),
        pytest.param("2024-07-04T12:00", "2024-07-04 is no session of XNYS", id="holiday"),
        pytest.param("2024-07-06T12:00", "2024-07-06 is no session of XNYS", id="saturday"),
    ],
)
def test_account_is_left_alone_at_other_times(when: str, reason: str) -> None:
    skipped = reconcile_at(when)
    assert isinstance(skipped, dg.SkipReason)
    assert reason in str(skipped.skip_message)


def test_time_of_reconciling_is_the_exchanges() -> None:
    utc = ZoneInfo("UTC")
    assert isinstance(reconcile_at("2024-07-05T13:30", utc), dg.RunRequest)
    assert isinstance(reconcile_at("2024-07-05T13:00", utc), dg.SkipReason)
    # Friday evening in New York is Saturday in UTC
    assert isinstance(reconcile_at("2024-07-06T00:00", utc), dg.SkipReason)
    schedule = SCHEDULES["reconcile_schedule"]
    assert (schedule.cron_schedule, schedule.execution_timezone, schedule.job_name) == (
        "*/30 * * * *", "America/New_York", "reconcile",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"real": False}, "nothing happens at the alpaca broker between two runs"),
        ({"traded": False}, "the strategy 'main' has not traded yet"),
    ],
)
def test_account_where_nothing_can_happen_is_left_alone(values: dict[str, bool], reason: str) -> None:
    skipped = reconcile_at("2024-07-05T12:00", **values)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == reason


def test_every_half_hour_of_a_day_is_asked_for_once() -> None:
    keys = []
    for minutes in range(0, 24 * 60, 30):
        request = reconcile_at(f"2024-07-05T{minutes // 60:02d}:{minutes % 60:02d}")
        keys += [request.run_key] if isinstance(request, dg.RunRequest) else []
    assert len(keys) == len(set(keys)) == 18  # from 9:30 to 18:00
