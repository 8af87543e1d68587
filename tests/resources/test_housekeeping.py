"""Which run's container is stopped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from trading_dagster.resources.housekeeping import GRACE, RunState, cancelled_inside, outlived

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


def test_the_container_of_a_command_is_stopped_when_its_run_is_cancelled_and_not_when_it_ends() -> None:
    container = "0123456789abcdef" * 4
    with dg.instance_for_test() as instance:

        def run(host: str, status: dg.DagsterRunStatus) -> None:
            create_run_for_test(instance, tags={"docker/container_id": host}, status=status)

        run(container[:12], dg.DagsterRunStatus.SUCCESS)
        run(container[:12], dg.DagsterRunStatus.STARTED)
        run("another-host", dg.DagsterRunStatus.CANCELING)
        assert cancelled_inside(instance, container) is None
        run(container[:12], dg.DagsterRunStatus.CANCELING)
        assert cancelled_inside(instance, container) == "a run inside it is being cancelled"
