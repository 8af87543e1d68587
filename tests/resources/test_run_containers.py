"""Which containers may go: the decision at chosen times, and an engine that answers in every way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import docker
import pytest
import requests

from trading_dagster.resources.run_containers import (
    RUN_LABEL,
    EngineError,
    RunContainer,
    label_filters,
    prune,
    removable,
)

NOW = datetime(2024, 7, 5, 12, tzinfo=UTC)
WEEK = NOW - timedelta(days=7)


def container(state: str, ended: datetime | None = None, created: datetime | None = None) -> RunContainer:
    made = created or NOW - timedelta(days=365)
    return RunContainer("abc", "one", state, ended, made, {RUN_LABEL: "1", "dagster/job_name": "daily"})


@pytest.mark.parametrize(
    ("found", "goes"),
    [
        pytest.param(container("exited", WEEK - timedelta(seconds=1)), True, id="ended_before"),
        pytest.param(container("exited", WEEK), False, id="ended_at_the_moment"),
        pytest.param(container("exited", NOW - timedelta(hours=1)), False, id="ended_just_now"),
        pytest.param(container("dead", WEEK - timedelta(days=1)), True, id="dead"),
        pytest.param(container("created", created=WEEK - timedelta(seconds=1)), True, id="never_started_and_old"),
        pytest.param(container("created", created=NOW), False, id="being_started"),
        pytest.param(container("exited"), False, id="exited_at_an_unknown_time"),
        *(
            # a container that runs again has the time at which it ended before
            pytest.param(container(state, WEEK - timedelta(days=30)), False, id=state)
            for state in ("running", "paused", "restarting", "removing", "a state of a later engine")
        ),
        pytest.param(replace(container("exited", WEEK - timedelta(days=1)), labels={}), False, id="no_run"),
    ],
)
def test_only_runs_that_ended_long_ago_go(found: RunContainer, goes: bool) -> None:
    assert removable([found], WEEK) == ([found] if goes else [])


def test_labels_are_those_of_runs_and_of_the_installation() -> None:
    assert label_filters([]) == ["dagster/run_id"]
    assert label_filters(["trading/installation=main"]) == ["dagster/run_id", "trading/installation=main"]


@pytest.mark.parametrize("label", ["trading/installation", "trading/installation=", "=main", ""])
def test_label_without_a_value_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="is not KEY=VALUE, such as trading/installation=main"):
        label_filters([label])


class Engine:
    """An engine with some containers; those whose name says so are not removed."""

    def __init__(self, *containers: tuple[str, str, str], fails: Exception | None = None) -> None:
        self.fails = fails
        self.asked: dict[str, Any] = {}
        self.removed: list[tuple[str, bool]] = []
        self.found = [
            SimpleNamespace(
                attrs={
                    "Id": f"id of {name}",
                    "Name": f"/{name}",
                    "Created": "2024-01-01T10:00:00.123456789Z",
                    "State": {"Status": state, "FinishedAt": ended},
                    "Config": {"Labels": {RUN_LABEL: f"run of {name}"}},
                }
            )
            for name, state, ended in containers
        ]
        self.containers = SimpleNamespace(list=self._list)
        self.api = SimpleNamespace(remove_container=self._remove)
        self.closed = False

    def _list(self, **asked: Any) -> list[Any]:
        self.asked = asked
        if self.fails:
            raise self.fails
        return self.found

    def _remove(self, identity: str, v: bool = False, force: bool = False) -> None:
        assert not force
        if "gone" in identity:
            raise docker.errors.NotFound("no such container")
        if "stuck" in identity:
            raise docker.errors.APIError("409", explanation="it was started again")
        self.removed.append((identity, v))

    def close(self) -> None:
        self.closed = True


NEVER = "0001-01-01T00:00:00Z"


def test_old_ones_are_removed_and_the_rest_is_told() -> None:
    engine = Engine(
        ("old", "exited", "2024-06-28T11:59:59.999999999Z"),
        ("young", "exited", "2024-07-05T11:00:00Z"),
        ("at_work", "running", NEVER),
        ("unstarted", "created", NEVER),
        ("gone", "exited", "2024-06-01T00:00:00Z"),
        ("stuck", "exited", "2024-06-01T00:00:00Z"),
    )
    done = prune(7, ["trading/installation=main"], NOW, lambda: engine)
    assert engine.asked["filters"] == {"label": ["dagster/run_id", "trading/installation=main"]}
    assert engine.asked["all"] is True
    assert engine.removed == [("id of old", True), ("id of unstarted", True)]
    assert engine.closed
    assert done.as_dict() == {
        "removed": [
            {"name": "old", "run_id": "run of old", "ended": "2024-06-28T11:59:59+00:00"},
            {"name": "unstarted", "run_id": "run of unstarted", "ended": None},
        ],
        "kept": 2,
        "problems": ["stuck: it was started again"],
    }
    assert str(done).splitlines() == [
        "2 containers removed, 2 kept",
        "  old, run run of old, ended 2024-06-28 11:59 UTC",
        "  unstarted, run run of unstarted, never started",
        "  NOT REMOVED stuck: it was started again",
    ]


@pytest.mark.parametrize(
    "error", [docker.errors.DockerException("no socket"), requests.exceptions.ConnectionError("no socket")]
)
def test_engine_that_does_not_answer(error: Exception) -> None:
    with pytest.raises(EngineError, match=r"does not answer: no socket\. Is it running, .* DOCKER_HOST"):
        prune(7, [], NOW, lambda: Engine(fails=error))

    def refuse() -> Engine:
        raise docker.errors.DockerException("no socket")

    with pytest.raises(EngineError, match="does not answer: no socket"):
        prune(7, [], NOW, refuse)
