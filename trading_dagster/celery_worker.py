"""The Celery app of a worker, for ``celery --app trading_dagster.celery_worker worker``.

`dagster_celery.app` does the same from a file, in which the queue's password would stand; this one is told by the
settings, like all other processes, and so never differs from what the executor expects.
"""

from __future__ import annotations

from celery import Celery
from dagster_celery.executor import CeleryExecutor
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_task

from trading_dagster.executors import celery_configuration
from trading_dagster.settings import Settings, SettingsError, load_settings


def build_app(settings: Settings) -> Celery:
    """Build the app that executes steps.

    Raises
    ------
    SettingsError
        If no queue is named.
    """
    if not settings.celery_broker:
        raise SettingsError(
            "a worker needs TRADING_CELERY_BROKER, the URL of the queue that it takes steps from, such as "
            "redis://redis:6379/0"
        )
    built = make_app(CeleryExecutor.for_cli(**celery_configuration(settings)).app_args())
    create_task(built)
    return built


app = build_app(load_settings())
