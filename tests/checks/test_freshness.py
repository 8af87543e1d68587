"""Freshness at chosen times, and the check and its job as Dagster runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pandas as pd
import pytest

from tests.conftest import QUIET, Installation, make_installation
from tests.resources.rows import bar_rows
from trading_dagster.calendar import SessionCalendar, session_calendar
from trading_dagster.checks import freshness
from trading_dagster.checks.freshness import CHECK_NAME, WATCHED, due_session, sessions_behind
from trading_dagster.definitions import build_definitions
from trading_dagster.resources.market_data import Answer
from trading_dagster.resources.schemas import TABLES

NEW_YORK = ZoneInfo("America/New_York")
CALENDAR: SessionCalendar = session_calendar("XNYS")


@dataclass(frozen=True)
class Source:
    """A source that answers nothing, and ends where it is told to."""

    name: str = "none"
    last_session: date | None = None

    def bars(self, *_: object) -> Answer:
        raise AssertionError("freshness asks no source for data")

    corporate_actions = bars


def due(when: str, ends: str | None = None) -> str:
    now = datetime.fromisoformat(when).replace(tzinfo=NEW_YORK)
    source = Source(last_session=None if ends is None else date.fromisoformat(ends))
    return f"{due_session(CALENDAR, now, source):%Y-%m-%d}"


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        # Friday 23 December 2022 closed at 16:00, Monday the 26th was a holiday
        pytest.param("2022-12-23T19:59", "2022-12-22", id="within_the_grace"),
        pytest.param("2022-12-23T20:00", "2022-12-23", id="grace_is_over"),
        pytest.param("2022-12-24T12:00", "2022-12-23", id="saturday"),
        pytest.param("2022-12-25T12:00", "2022-12-23", id="sunday"),
        pytest.param("2022-12-26T23:59", "2022-12-23", id="holiday"),
        pytest.param("2022-12-27T09:00", "2022-12-23", id="before_the_open"),
        pytest.param("2022-12-27T19:59", "2022-12-23", id="the_session_after_within_its_grace"),
        pytest.param("2022-12-27T20:00", "2022-12-27", id="the_session_after"),
        # 29 November 2019 closed at 13:00
        pytest.param("2019-11-29T16:59", "2019-11-27", id="half_day_within_the_grace"),
        pytest.param("2019-11-29T17:00", "2019-11-29", id="half_day"),
        # the clocks went forward on 10 March 2024
        pytest.param("2024-03-11T19:59", "2024-03-08", id="summer_time_within_the_grace"),
        pytest.param("2024-03-11T20:00", "2024-03-11", id="summer_time"),
    ],
)
def test_due_session(when: str, expected: str) -> None:
    assert due(when) == expected


@pytest.mark.parametrize(
    ("when", "ends", "expected"),
    [
        pytest.param("2022-12-30T12:00", "2022-12-28", "2022-12-28", id="over"),
        pytest.param("2026-01-05T12:00", "2022-12-28", "2022-12-28", id="long_over"),
        pytest.param("2022-12-30T12:00", "2022-12-26", "2022-12-23", id="ends_on_a_holiday"),
        pytest.param("2022-12-30T12:00", "2022-12-25", "2022-12-23", id="ends_on_a_sunday"),
        pytest.param("2022-12-28T21:00", "2022-12-28", "2022-12-28", id="on_its_last_day"),
        pytest.param("2022-12-28T19:00", "2022-12-28", "2022-12-27", id="within_the_grace_of_its_last_day"),
        pytest.param("2022-12-20T12:00", "2022-12-28", "2022-12-19", id="not_over_yet"),
    ],
)
def test_source_that_ends_owes_nothing_later(when: str, ends: str, expected: str) -> None:
    assert due(when, ends) == expected


@pytest.mark.parametrize(
    ("stored", "until", "behind"),
    [
        ("2022-12-23", "2022-12-23", 0),
        ("2022-12-23", "2022-12-27", 1),  # a weekend and a holiday are no delay
        ("2022-12-22", "2022-12-27", 2),
        ("2019-11-27", "2019-11-29", 1),
        ("2022-12-28", "2022-12-27", 0),  # stored before it was due
        ("2022-12-24", "2022-12-27", 1),
        ("2021-12-31", "2022-12-30", 251),
        (None, "2000-01-03", 1),
        (None, "2000-01-05", 3),
    ],
)
def test_sessions_behind(stored: str | None, until: str, behind: int) -> None:
    assert sessions_behind(None if stored is None else pd.Timestamp(stored), pd.Timestamp(until), CALENDAR) == behind


# -- as Dagster runs it -----------------------------------------------------------------------------------------------


@pytest.fixture
def at_noon_of(monkeypatch):
    """Make it New York's noon of a day."""

    def set_day(day: str) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=NEW_YORK).astimezone(tz)

        monkeypatch.setattr(freshness, "datetime", Clock)

    return set_day


def store(installation: Installation, bars: Sequence[str], signals: Sequence[str] = ()) -> None:
    for day in bars:
        known_at = CALENDAR.close_time(pd.Timestamp(day)).to_pydatetime()
        installation.tables.add_revisions("bars", bar_rows(date.fromisoformat(day), {"A": 1.0}, known_at))
    for day in signals:
        row = {"session": pd.Timestamp(day), "symbol": "A", "action": "HOLD", "target_weight": 0.0,
               "current_weight": 0.0, "confidence": 0.5, "reason": "none"}  # fmt: skip
        installation.tables.replace("signals", pd.DataFrame([row]), date.fromisoformat(day), date.fromisoformat(day))


def run(installation: Installation, source: Source) -> dict[str, dg.AssetCheckEvaluation]:
    definitions = build_definitions(installation.settings, {"source": source})
    job = definitions.resolve_job_def("freshness")
    result = job.execute_in_process(instance=installation.instance, run_config=QUIET, raise_on_error=False)
    assert result.success
    assert result.get_asset_materialization_events() == []
    found = result.get_asset_check_evaluations()
    assert {one.check_name for one in found} == {CHECK_NAME}
    return {one.asset_key.to_user_string(): one for one in found}


def test_check_passes_when_the_session_that_is_due_is_there(tmp_path: Path, at_noon_of) -> None:
    at_noon_of("2022-12-27")
    installation = make_installation(tmp_path)
    store(installation, ["2022-12-22", "2022-12-23"], ["2022-12-23"])
    found = run(installation, Source())
    assert set(found) == set(WATCHED) == {"bars", "signals"}
    for evaluation in found.values():
        assert evaluation.passed
        assert evaluation.description == "2022-12-23 is stored and 2022-12-23 is due"
        assert {name: value.value for name, value in evaluation.metadata.items()} == {
            "sessions_behind": 0,
            "due": "2022-12-23",
            "stored": "2022-12-23",
        }


def test_check_warns_and_says_by_how_much(tmp_path: Path, at_noon_of) -> None:
    at_noon_of("2022-12-28")
    installation = make_installation(tmp_path)
    store(installation, ["2022-12-22", "2022-12-23"])
    found = run(installation, Source())
    assert not found["bars"].passed
    assert not found["signals"].passed
    assert found["bars"].severity == dg.AssetCheckSeverity.WARN
    assert found["bars"].description == (
        "2022-12-23 is stored and 2022-12-27 is due, sessions behind: 1; see the runs and `missed_sessions`, or: "
        "trading run --session 2022-12-27"
    )
    assert found["bars"].metadata["sessions_behind"].value == 1
    assert found["signals"].description.startswith("nothing is stored and 2022-12-27 is due, ")
    # 6 sessions of a source that goes on are none of one that has ended
    found = run(installation, Source(last_session=date(2022, 12, 23)))
    assert found["bars"].passed
    assert not found["signals"].passed


def test_nothing_is_watched_that_may_rightly_be_empty() -> None:
    # a session in which nothing was traded has no order: the newest of these says nothing about delays
    assert not [asset for asset in WATCHED if TABLES[asset].may_be_empty]


def test_session_that_is_stored_early_is_no_delay(tmp_path: Path, at_noon_of) -> None:
    # the evening run has stored the 27th, which is due only at 20:00
    at_noon_of("2022-12-27")
    installation = make_installation(tmp_path)
    store(installation, ["2022-12-23", "2022-12-27"], ["2022-12-27"])
    found = run(installation, Source())
    assert [one.passed for one in found.values()] == [True, True]
    assert found["bars"].description == "2022-12-27 is stored and 2022-12-23 is due"


def steps(job: str, tmp_path: Path) -> set[str]:
    return {node.name for node in make_installation(tmp_path).definitions.resolve_job_def(job).nodes}


@pytest.mark.parametrize("job", ["daily", "fetch", "training", "research_backfill"])
def test_jobs_of_a_session_do_not_ask_whether_it_is_the_newest(tmp_path: Path, job: str) -> None:
    found = steps(job, tmp_path)
    assert found
    assert not [name for name in found if CHECK_NAME in name]


def test_freshness_job_asks_nothing_else(tmp_path: Path) -> None:
    assert steps("freshness", tmp_path) == {f"{asset}_{CHECK_NAME}" for asset in WATCHED}
    job = make_installation(tmp_path).definitions.resolve_job_def("freshness")
    assert job.asset_layer.executable_asset_keys == set()
