"""Where runs wait and their steps run: the lanes of the queue, and the executor of the research jobs.

Belongs here: the choice, and how each executor is configured. What a step does is the same in all of them: stages
hand each other tables, verdicts go to the ledger, and nothing is held in memory between two steps.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from trading_dagster.settings import Settings

LANE_TAG = "trading/lane"
"""Tag by which the run queue holds runs back; ``dagster.yaml`` says how many of a lane may run at a time.

What has no lane never waits: to halt, cancel, flatten and resume is possible beside any run.
"""

EXECUTION_LANE = {LANE_TAG: "execution"}
RESEARCH_LANE = {LANE_TAG: "research"}
MAINTENANCE_LANE = {LANE_TAG: "maintenance"}

EXECUTION_POOL = "execution"
"""Pool of the asset that trades, for runs that no job's tag holds back: those of assets chosen by hand."""

SECONDS_UNTIL_LOST = 3600
"""How long a step may be with a Celery worker before it is given to another, the first one being taken for lost.

A step that takes longer is computed twice, which changes nothing but the time taken: a table's rows are replaced in
one transaction, and rows that are there already are not written.
"""


def research_executor(settings: Settings) -> dg.ExecutorDefinition:
    """Return the executor that `TRADING_EXECUTOR` names.

    Notes
    -----
    The packages of the executors that need one are imported only where they are chosen: each takes half a second.
    No executor is told how many steps may run at once, since the graph is at most three stages wide.
    """
    if settings.executor == "multiprocess":
        return dg.multiprocess_executor
    if settings.executor == "docker":
        return _docker_executor()
    if settings.executor == "celery":
        return _celery_executor(settings)
    return dg.in_process_executor


def celery_configuration(settings: Settings) -> dict[str, Any]:
    """Configuration that the executor and its workers must share.

    A message is acknowledged when its step has ended, so that a worker that dies with its machine does not take the
    step with it: the run would wait for its result for ever. A step whose process alone dies, as when memory runs
    out, is not repeated: it would die again. It fails, and the run with it.
    """
    from dagster_celery.defaults import broker_transport_options

    return {
        "broker": settings.celery_broker,
        "backend": settings.celery_broker,
        "config_source": {
            "broker_transport_options": {**broker_transport_options, "visibility_timeout": SECONDS_UNTIL_LOST},
            "broker_connection_retry_on_startup": True,
            "task_acks_late": True,
            "task_reject_on_worker_lost": False,
        },
    }


def _docker_executor() -> dg.ExecutorDefinition:
    from dagster_docker import docker_executor

    return docker_executor.configured(
        {},
        name="docker",
        description=(
            "A container a step, with the image, networks, volumes and variables of the run's own. That container "
            "starts them, so it must reach a Docker engine, which is power over the whole machine."
        ),
    )


def _celery_executor(settings: Settings) -> dg.ExecutorDefinition:
    from dagster_celery import celery_executor

    return celery_executor.configured(
        # a function, so that no definition holds the address, which may hold a password
        lambda _: celery_configuration(settings),
        name="celery",
        config_schema={},
        description="Steps wait in the queue at TRADING_CELERY_BROKER for workers: see trading_dagster.celery_worker.",
    )
