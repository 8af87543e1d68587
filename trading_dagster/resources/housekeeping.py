"""The housekeeper: what must be done at the container engine beside the daemon that starts the runs.

Belongs here: which run's container outlives its run, and is stopped. Removal of old ones is in `run_containers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from trading_dagster.resources.run_containers import CONTAINER_TAG, HOST_NAME_LENGTH, RUN_LABEL, engine, label_filters

if TYPE_CHECKING:
    import dagster as dg
    import docker

GRACE = timedelta(seconds=30)
"""Time that a run's process has to leave by itself after its run has ended."""

STOP_SECONDS = 60
"""From SIGTERM to SIGKILL: time to record what the broker has answered."""


@dataclass(frozen=True)
class RunState:
    """A run as Dagster has it.

    Attributes
    ----------
    status : str
        In Dagster's words.
    ended : datetime or None
    """

    status: str
    ended: datetime | None


def outlived(run: RunState | None, now: datetime) -> str | None:
    """Why a run's container must be stopped, in words; None where it may go on.

    Parameters
    ----------
    run : RunState or None
        None for a run that Dagster no longer knows.
    now : datetime
    """
    if run is None:
        return "its run was deleted"
    if run.status == "CANCELING":
        return "its run is being cancelled"
    if run.ended is not None and now - run.ended > GRACE:
        return f"its run has ended as {run.status}"
    return None


def stop_outlived(
    instance: dg.DagsterInstance,
    labels: Sequence[str],
    now: datetime | None = None,
    connect: Callable[[], docker.DockerClient] | None = None,
) -> Mapping[str, str]:
    """Stop the containers of runs that were cancelled, timed out, marked as failed or deleted.

    A run that is cancelled in the UI is only marked so, since the webserver does not reach the engine; one that takes
    too long is marked as failed by the daemon, and would live on.

    Parameters
    ----------
    instance : DagsterInstance
    labels : sequence of str
        See `label_filters`: those of this installation.
    now : datetime, optional
    connect : callable, optional
        Gives the engine; that of the environment by default.

    Returns
    -------
    mapping of str to str
        What was done with each container that outlives its run, by name.

    Raises
    ------
    EngineError
        If the engine does not answer.
    """
    import docker

    stopped: dict[str, str] = {}
    with engine(connect) as client:
        running = client.containers.list(filters={"label": label_filters(labels)}, ignore_removed=True)
        for container in running:
            run_id = container.labels[RUN_LABEL]
            if run_id:
                why = outlived(_state(instance, run_id), now or datetime.now(UTC))
            else:
                why = cancelled_inside(instance, str(container.id))
            if why is None:
                continue
            try:
                container.stop(timeout=STOP_SECONDS)
                stopped[str(container.name)] = f"stopped, since {why}"
            except docker.errors.APIError as error:
                # the next ones are stopped all the same, and this one is tried again
                stopped[str(container.name)] = f"NOT STOPPED although {why}: {error.explanation or error}"
    return stopped


def cancelled_inside(instance: dg.DagsterInstance, container: str) -> str | None:
    """Why the container of a command, which has the label without an id, must be stopped; None where it may go on.

    It is not stopped when its run has ended: a command may have more to do, and a person's shell certainly.
    """
    import dagster as dg

    tags, statuses = {CONTAINER_TAG: container[:HOST_NAME_LENGTH]}, [dg.DagsterRunStatus.CANCELING]
    cancelled = instance.get_runs(dg.RunsFilter(tags=tags, statuses=statuses), limit=1)
    return "a run inside it is being cancelled" if cancelled else None


def _state(instance: dg.DagsterInstance, run_id: str) -> RunState | None:
    record = instance.get_run_record_by_id(run_id)
    if record is None:
        return None
    ended = None if record.end_time is None else datetime.fromtimestamp(record.end_time, UTC)
    return RunState(record.dagster_run.status.value, ended)
