"""Sessions that the schedule missed, by worked examples and by another way of finding them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import dagster as dg
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading_dagster.calendar import session_calendar
from trading_dagster.sensors import LOOKBACK, build_missed_session_sensor, missed_session_keys

CALENDAR = session_calendar("XNYS")
NOW = pd.Timestamp("2024-07-12 23:00", tz="UTC")
"""Friday evening; the ten sessions up to it begin on 28 June."""

LAST_TEN = [
    "2024-06-28", "2024-07-01", "2024-07-02", "2024-07-03", "2024-07-05",
    "2024-07-08", "2024-07-09", "2024-07-10", "2024-07-11", "2024-07-12",
]  # fmt: skip


@dataclass(frozen=True)
class Source:
    """As much of a market-data source as the sensor reads."""

    name: str = "endless"
    last_session: date | None = None


@pytest.mark.parametrize(
    ("done", "missed"),
    [
        pytest.param(set(), [], id="nothing_ran_yet"),
        pytest.param(set(LAST_TEN), [], id="all_done"),
        pytest.param({"2024-07-11"}, ["2024-07-12"], id="newest_missed"),
        pytest.param({"2024-07-09", "2024-07-11"}, ["2024-07-10", "2024-07-12"], id="oldest_first"),
        pytest.param({"2024-07-12"}, [], id="sessions_before_the_first_run_are_not_missed"),
        pytest.param({"2024-07-03"}, LAST_TEN[4:], id="the_holiday_is_not_missed"),
        pytest.param({"2024-01-05"}, LAST_TEN, id="older_gaps_are_left_to_a_person"),
        pytest.param({"2022-12-27"}, LAST_TEN, id="an_old_start"),
        pytest.param({"2024-08-01"}, [], id="done_ahead"),
    ],
)
def test_missed_sessions(done: set[str], missed: list[str]) -> None:
    assert missed_session_keys(CALENDAR, done, NOW, Source()) == missed


@pytest.mark.parametrize(
    ("now", "newest"),
    [
        pytest.param("2024-07-12 20:00", "2024-07-12", id="at_the_close"),
        pytest.param("2024-07-12 19:59", "2024-07-11", id="before_the_close"),
        pytest.param("2024-07-14 12:00", "2024-07-12", id="weekend"),
    ],
)
def test_session_is_due_from_its_close(now: str, newest: str) -> None:
    missed = missed_session_keys(CALENDAR, {"2024-07-08"}, pd.Timestamp(now, tz="UTC"), Source())
    assert missed[-1] == newest


@pytest.mark.parametrize(
    ("last", "missed"),
    [
        pytest.param(date(2024, 7, 10), ["2024-07-09", "2024-07-10"], id="ends_within"),
        pytest.param(date(2022, 12, 28), [], id="ended_long_ago"),
        pytest.param(date(2030, 1, 1), LAST_TEN[6:], id="ends_later"),
    ],
)
def test_source_that_ends_leaves_later_sessions_alone(last: date, missed: list[str]) -> None:
    assert missed_session_keys(CALENDAR, {"2024-07-08"}, NOW, Source("shelf", last)) == missed


@given(
    done=st.sets(st.sampled_from([f"{s:%Y-%m-%d}" for s in CALENDAR.between("2024-05-15", "2024-07-25")])),
    hours=st.integers(0, 24 * 30),
    last=st.one_of(st.none(), st.dates(date(2024, 6, 1), date(2024, 8, 1))),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_walking_back_from_now_finds_the_same(done: set[str], hours: int, last: date | None) -> None:
    now = pd.Timestamp("2024-06-20", tz="UTC") + pd.Timedelta(hours=hours)
    expected: list[str] = []
    session = CALENDAR.last_closed(now.to_pydatetime())
    for _ in range(10):
        key = session.date().isoformat()
        began = any(earlier < key for earlier in done)
        if began and key not in done and (last is None or session.date() <= last):
            expected.insert(0, key)
        session = CALENDAR.previous(session)
    assert missed_session_keys(CALENDAR, done, now, Source("any", last)) == expected


def test_lookback_is_two_weeks() -> None:
    assert LOOKBACK == 10


# -- the sensor itself, on an instance whose orders end three sessions ago ------------------------------------------


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def oldest_missed(instance: dg.DagsterInstance) -> str:
    """Partition key of the first of three sessions without orders."""
    now = pd.Timestamp.now(tz="UTC") - pd.Timedelta(hours=3)
    at = CALENDAR.sessions.get_loc(CALENDAR.last_closed(now.to_pydatetime()))
    done, first = (f"{CALENDAR.sessions[at - back]:%Y-%m-%d}" for back in (3, 2))
    instance.report_runless_asset_event(dg.AssetMaterialization("orders", partition=done))
    return first


def evaluate(instance: dg.DagsterInstance) -> dg.RunRequest | dg.SkipReason:
    context = dg.build_sensor_context(instance=instance, resources={"source": Source()})
    return build_missed_session_sensor(CALENDAR)(context)


def test_sensor_skips_when_nothing_has_ever_run(instance: dg.DagsterInstance) -> None:
    answer = evaluate(instance)
    assert isinstance(answer, dg.SkipReason)
    assert "none of the last 10 sessions was missed" in str(answer.skip_message)


def test_sensor_asks_for_the_oldest_missed_session(instance: dg.DagsterInstance, oldest_missed: str) -> None:
    answer = evaluate(instance)
    assert isinstance(answer, dg.RunRequest)
    assert (answer.partition_key, answer.run_key) == (oldest_missed, f"missed-{oldest_missed}")


@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTING", "STARTED"])
def test_sensor_waits_for_a_run_of_the_daily_job(instance: dg.DagsterInstance, oldest_missed: str, status: str) -> None:
    run = instance.add_run(dg.DagsterRun("daily", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus(status)))
    answer = evaluate(instance)
    assert isinstance(answer, dg.SkipReason)
    assert f"3 sessions wait for run {run.run_id}" in str(answer.skip_message)


def test_sensor_does_not_wait_for_other_jobs(instance: dg.DagsterInstance, oldest_missed: str) -> None:
    instance.add_run(dg.DagsterRun("training", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED))
    assert isinstance(evaluate(instance), dg.RunRequest)


def test_sensor_leaves_a_failed_session_and_all_later_ones_to_a_person(
    instance: dg.DagsterInstance, oldest_missed: str
) -> None:
    tags = {"dagster/run_key": f"missed-{oldest_missed}"}
    instance.add_run(dg.DagsterRun("daily", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.FAILURE, tags=tags))
    answer = evaluate(instance)
    assert isinstance(answer, dg.SkipReason)
    assert f"trading run --session {oldest_missed}" in str(answer.skip_message)
