"""Jobs: the daily pipeline, the monthly training, the backfill of the research stages."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from trading_dagster.calendar import session_calendar
from trading_dagster.checks.freshness import CHECK_NAME
from trading_dagster.executors import EXECUTION_LANE, MAINTENANCE_LANE, RESEARCH_LANE, research_executor
from trading_dagster.resources.freshness import WATCHED
from trading_dagster.resources.quarantine import release
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import load_settings

FRESHNESS_CHECKS = dg.AssetSelection.checks(*(dg.AssetCheckKey(dg.AssetKey(asset), CHECK_NAME) for asset in WATCHED))
# whether all is up to date now has nothing to do with the session of a run
DAILY_ASSETS = dg.AssetSelection.tag("cadence", "daily") - FRESHNESS_CHECKS
MONTHLY_ASSETS = dg.AssetSelection.tag("cadence", "monthly")

# a job must know its executor when the module is imported
RESEARCH_EXECUTOR = research_executor(load_settings())

daily_job = dg.define_asset_job(
    "daily",
    selection=DAILY_ASSETS,
    # Always in one process, whatever the research jobs do. A process a step takes several times as long: each imports
    # everything again. And what trades has one process that lives or dies: the lease's holder.
    executor_def=dg.in_process_executor,
    description="All daily stages of one session or a range, from bars to paper orders.",
    # an execution that failed is looked at by a person, never repeated by the machine
    tags={"dagster/max_retries": "0", **EXECUTION_LANE},
)

fetch_job = dg.define_asset_job(
    "fetch",
    selection=dg.AssetSelection.assets("bars", "corporate_actions") - FRESHNESS_CHECKS,
    executor_def=dg.in_process_executor,
    description="Market data alone, up to a session.",
    tags=RESEARCH_LANE,
)

training_job = dg.define_asset_job(
    "training",
    selection=MONTHLY_ASSETS,
    executor_def=RESEARCH_EXECUTOR,
    description="The month's models, fitted on what was known before its first session.",
    tags=RESEARCH_LANE,
)

research_backfill_job = dg.define_asset_job(
    "research_backfill",
    selection=DAILY_ASSETS - dg.AssetSelection.assets("orders"),
    executor_def=RESEARCH_EXECUTOR,
    description="All daily stages but the orders: past sessions are studied, not traded.",
    tags=RESEARCH_LANE,
)

freshness_job = dg.define_asset_job(
    "freshness",
    selection=FRESHNESS_CHECKS,
    executor_def=dg.in_process_executor,
    description="Is the newest session there that should be? Materialises nothing.",
    tags=MAINTENANCE_LANE,
)


class ReleaseConfig(dg.Config):
    """Which bar to let out of quarantine, who says so, and why.

    Attributes
    ----------
    symbol, session : str
        The bar; the date as YYYY-MM-DD.
    operator, reason : str
        Written beside the bar.
    since_close : bool
        Let the bar count as known since its session's close: past partitions change when they are run again.
    """

    symbol: str
    session: str
    operator: str
    reason: str
    since_close: bool = False


@dg.op(description="Let one bar out of quarantine.")
def release_bar(context: dg.OpExecutionContext, config: ReleaseConfig, tables: dg.ResourceParam[Tables]) -> None:
    """Release the bar that the config names."""
    calendar = session_calendar(load_settings().calendar)
    told = release(
        tables, calendar, config.symbol, config.session, config.operator, config.reason, since_close=config.since_close
    )
    context.log.info(told)


@dg.job(executor_def=dg.in_process_executor, description="Let one bar out of quarantine, with a name and a reason.")
def release_quarantined_bar() -> None:
    """Release a bar; the same as `trading quarantine release`."""
    release_bar()


ALL_JOBS: Sequence[Any] = [
    daily_job,
    fetch_job,
    training_job,
    research_backfill_job,
    freshness_job,
    release_quarantined_bar,
]
