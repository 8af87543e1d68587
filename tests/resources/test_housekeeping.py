"""Which run's container is stopped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from trading_dagster.resources.housekeeping import GRACE, RunState, outlived

NOW = datetime(2026, 11, 20, 22, 0, tzinfo=UTC)


@pytest.mark.parametrize("status", ["QUEUED", "NOT_STARTED", "STARTING", "STARTED"])
def test_a_run_that_goes_on_is_left_alone(status: str) -> None:
    assert outlived(RunState(status, None), NOW) is None


def test_a_run_that_is_being_cancelled_is_stopped_at_once() -> None:
    assert outlived(RunState("CANCELING", None), NOW) == "its run is being cancelled"


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "CANCELED"])
def test_a_run_that_has_ended_has_time_to_leave(status: str) -> None:
    assert outlived(RunState(status, NOW - GRACE), NOW) is None
    late = RunState(status, NOW - GRACE - timedelta(seconds=1))
    assert outlived(late, NOW) == f"its run has ended as {status}"


def test_a_run_that_was_deleted_is_stopped() -> None:
    assert outlived(None, NOW) == "its run was deleted"
