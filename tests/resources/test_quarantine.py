"""Letting bars out of quarantine: what is written, what it refuses, and the Dagster job that does the same."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from tests.conftest import QUIET, Installation, make_installation
from trading_dagster.calendar import SessionCalendar, SessionError
from trading_dagster.resources import quarantine as module
from trading_dagster.resources.quarantine import QuarantineError, listing, release
from trading_dagster.resources.schemas import TABLES
from trading_dagster.resources.tables import Tables

from .rows import bar_rows, stored

HELD_AT = datetime(2020, 1, 6, 23, tzinfo=UTC)
CLOSE = pd.Timestamp("2020-01-06 21:00", tz="UTC")


def hold(tables: Tables, *places: tuple[str, str], **values: Any) -> None:
    rows = pd.DataFrame([(pd.Timestamp(day), symbol) for day, symbol in places], columns=["session", "symbol"])
    rows = rows.assign(
        open=9.0, high=12.0, low=8.0, close=11.5, volume=700.0, source="test", reason="jump", detail="moved +900.0%",
        state="quarantined", operator="", note="", known_at=HELD_AT,
    )  # fmt: skip
    tables.add_revisions("quarantine", rows.assign(**values)[TABLES["quarantine"].arrow.names])


def seen(frame: pd.DataFrame) -> list[tuple[str, str, str]]:
    return [(f"{row.session:%Y-%m-%d}", row.symbol, row.state) for row in frame.itertuples()]


# -- listing --------------------------------------------------------------------------------------------------------


def test_listing_of_nothing(tables: Tables) -> None:
    assert len(listing(tables)) == len(listing(tables, everything=True)) == 0


def test_listing_is_newest_first_and_leaves_out_what_was_released(tables: Tables, calendar: SessionCalendar) -> None:
    hold(tables, ("2020-01-03", "B"), ("2020-01-06", "B"), ("2020-01-06", "A"), ("2020-01-01", "C"))
    release(tables, calendar, "B", "2020-01-06", "Ann", "seen in the paper")
    assert seen(listing(tables)) == [
        ("2020-01-06", "A", "quarantined"),
        ("2020-01-03", "B", "quarantined"),
        ("2020-01-01", "C", "quarantined"),
    ]
    assert seen(listing(tables, everything=True)) == [
        ("2020-01-06", "A", "quarantined"),
        ("2020-01-06", "B", "released"),
        ("2020-01-03", "B", "quarantined"),
        ("2020-01-01", "C", "quarantined"),
    ]
    assert list(listing(tables).index) == [0, 1, 2]


# -- release --------------------------------------------------------------------------------------------------------


def test_release_writes_the_bar_as_it_was_held_and_who_let_it_in(tables: Tables, calendar: SessionCalendar) -> None:
    hold(tables, ("2020-01-06", "A"), ("2020-01-06", "B"))
    before = pd.Timestamp.now("UTC")
    told = release(tables, calendar, " a".strip(), "2020-01-06", "  Ann ", " seen in the paper ")
    after = pd.Timestamp.now("UTC")
    assert told == (
        "released A of 2020-01-06, close 11.5, by Ann; known from now on: run a session that has not opened the next "
        "one yet again to use it"
    )
    (bar,) = tables.read("bars").to_dict("records")
    known_at = bar.pop("known_at")
    assert before <= known_at <= after
    assert bar == {
        "session": pd.Timestamp("2020-01-06"), "symbol": "A", "open": 9.0, "high": 12.0, "low": 8.0, "close": 11.5,
        "volume": 700.0, "source": "test",
    }  # fmt: skip
    rows = tables.read("quarantine", every_revision=True)
    mine = rows[rows["symbol"] == "A"]
    assert mine["state"].tolist() == ["quarantined", "released"]
    assert mine["operator"].tolist() == ["", "Ann"]
    assert mine["note"].tolist() == ["", "seen in the paper"]
    # the rest is as it was
    for name in set(TABLES["quarantine"].arrow.names) - {"state", "operator", "note", "known_at"}:
        assert mine[name].nunique() == 1
    assert mine["known_at"].tolist() == [pd.Timestamp(HELD_AT), known_at]
    assert rows.loc[rows["symbol"] == "B", "state"].tolist() == ["quarantined"]


def test_release_since_the_close(tables: Tables, calendar: SessionCalendar) -> None:
    hold(tables, ("2020-01-06", "A"))
    told = release(tables, calendar, "A", "2020-01-06", "Ann", "why", since_close=True)
    assert told.endswith("known since its session's close: sessions run again from then on see it")
    assert tables.read("bars")["known_at"].tolist() == [CLOSE]
    # when it was released is no secret, though
    assert tables.read("quarantine")["known_at"].iloc[0] > pd.Timestamp("2025-01-01", tz="UTC")
    assert len(tables.read("bars", known_at=CLOSE.to_pydatetime())) == 1


def test_past_stays_without_the_released_bar(tables: Tables, calendar: SessionCalendar) -> None:
    tables.add_revisions("bars", bar_rows(datetime(2020, 1, 6).date(), {"B": 1.0}, CLOSE.to_pydatetime()))
    hold(tables, ("2020-01-06", "A"))
    release(tables, calendar, "A", "2020-01-06", "Ann", "why")
    assert tables.read("bars", known_at=datetime(2020, 1, 7, 14, 30, tzinfo=UTC))["symbol"].tolist() == ["B"]
    assert tables.read("bars")["symbol"].tolist() == ["A", "B"]


@pytest.mark.parametrize(
    ("symbol", "session", "operator", "reason", "error", "message"),
    [
        pytest.param("A", "2020-01-06", "", "why", QuarantineError, "needs a name and a reason: --op", id="no_name"),
        pytest.param("A", "2020-01-06", "  ", "why", QuarantineError, "needs a name and a reason", id="blank_name"),
        pytest.param("A", "2020-01-06", "Ann", " ", QuarantineError, "needs a name and a reason", id="no_reason"),
        pytest.param(
            "B", "2020-01-06", "Ann", "why", QuarantineError,
            r"B has no bar in quarantine on 2020-01-06; there are 2, such as A 2020-01-06, A 2020-01-01; see: trading",
            id="another_symbol",
        ),
        pytest.param("A", "2020-01-07", "Ann", "why", QuarantineError, "no bar in quarantine", id="another_day"),
        pytest.param("A", "2020-01-01", "Ann", "why", SessionError, r"2020-01-01 \(.* is not a session", id="phantom"),
        pytest.param("A", "tuesday", "Ann", "why", SessionError, "is not a date", id="no_date"),
    ],
)  # fmt: skip
def test_what_cannot_be_released(
    tables: Tables, calendar: SessionCalendar, symbol: str, session: str, operator: str, reason: str,
    error: type[Exception], message: str,
) -> None:  # fmt: skip
    hold(tables, ("2020-01-06", "A"), ("2020-01-01", "A"))
    with pytest.raises(error, match=message):
        release(tables, calendar, symbol, session, operator, reason)
    assert len(tables.read("bars")) == 0
    assert stored(tables, "quarantine").num_rows == 2


def test_empty_quarantine_releases_nothing(tables: Tables, calendar: SessionCalendar) -> None:
    with pytest.raises(QuarantineError, match=r"A has no bar in quarantine on 2020-01-06; there are 0$"):
        release(tables, calendar, "a", "2020-01-06", "Ann", "why")


@pytest.mark.parametrize("state", ["released", "corrected"])
def test_bar_that_is_not_held_any_more_is_not_released(tables: Tables, calendar: SessionCalendar, state: str) -> None:
    hold(tables, ("2020-01-06", "A"))
    hold(tables, ("2020-01-06", "A"), state=state, known_at=datetime(2020, 1, 8, tzinfo=UTC))
    with pytest.raises(QuarantineError, match="no bar in quarantine"):
        release(tables, calendar, "A", "2020-01-06", "Ann", "why")


def test_second_release_says_so_and_writes_nothing(tables: Tables, calendar: SessionCalendar) -> None:
    hold(tables, ("2020-01-06", "A"))
    release(tables, calendar, "A", "2020-01-06", "Ann", "why")
    with pytest.raises(QuarantineError, match="no bar in quarantine"):
        release(tables, calendar, "A", "2020-01-06", "Bob", "why not")
    assert stored(tables, "bars").num_rows == 1


def test_killed_between_the_two_writes_it_can_be_released_once_more(
    tables: Tables, calendar: SessionCalendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(tables, ("2020-01-06", "A"))
    write = Tables.add_revisions

    def fails_on_quarantine(self: Tables, name: str, *arguments: Any, **options: Any) -> Any:
        if name == "quarantine":
            raise OSError("killed")
        return write(self, name, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module.Tables, "add_revisions", fails_on_quarantine)
        with pytest.raises(OSError, match="killed"):
            release(tables, calendar, "A", "2020-01-06", "Ann", "why")
    assert tables.read("bars")["symbol"].tolist() == ["A"]
    assert seen(listing(tables)) == [("2020-01-06", "A", "quarantined")]
    release(tables, calendar, "A", "2020-01-06", "Ann", "why")
    assert stored(tables, "bars").num_rows == 1
    assert seen(listing(tables)) == []


# -- the job --------------------------------------------------------------------------------------------------------


def run_job(installation: Installation, **config: Any) -> dg.ExecuteInProcessResult:
    job = installation.definitions.resolve_job_def("release_quarantined_bar")
    return job.execute_in_process(
        instance=installation.instance,
        run_config={"ops": {"release_bar": {"config": config}}, **QUIET},
        raise_on_error=False,
    )


ASKED = {"symbol": "a", "session": "2020-01-06", "operator": "Ann", "reason": "seen in the paper"}


@pytest.mark.parametrize("since_close", [None, False, True])
def test_job_releases_a_bar(tmp_path: Path, since_close: bool | None) -> None:
    installation = make_installation(tmp_path)
    hold(installation.tables, ("2020-01-06", "A"), ("2020-01-03", "A"))
    result = run_job(installation, **ASKED, **({} if since_close is None else {"since_close": since_close}))
    assert result.success
    (bar,) = installation.tables.read("bars").to_dict("records")
    assert (bar["symbol"], bar["close"]) == ("A", 11.5)
    assert (bar["known_at"] == CLOSE) is bool(since_close)
    assert seen(listing(installation.tables)) == [("2020-01-03", "A", "quarantined")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"symbol": "B"}, "B has no bar in quarantine on 2020-01-06; there are 1"),
        ({"operator": " "}, "needs a name and a reason"),
        ({"session": "2020-01-05"}, "2020-01-05 .Sunday. is not a session"),
    ],
)
def test_job_fails_with_the_reason(tmp_path: Path, change: dict[str, str], message: str) -> None:
    installation = make_installation(tmp_path)
    hold(installation.tables, ("2020-01-06", "A"))
    result = run_job(installation, **(ASKED | change))
    assert not result.success
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    error = failure.step_failure_data.error
    while error.cause is not None:
        error = error.cause
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error.message)
    assert len(installation.tables.read("bars")) == 0


def test_job_without_a_name_does_not_start(tmp_path: Path) -> None:
    installation = make_installation(tmp_path)
    with pytest.raises(dg.DagsterInvalidConfigError, match="operator"):
        run_job(installation, symbol="A", session="2020-01-06", reason="why")
