"""Jobs: the daily pipeline, the monthly training, the backfill of the research stages."""

from __future__ import annotations

import dagster as dg

DAILY_ASSETS = dg.AssetSelection.tag("cadence", "daily")
MONTHLY_ASSETS = dg.AssetSelection.tag("cadence", "monthly")

daily_job = dg.define_asset_job(
    "daily",
    selection=DAILY_ASSETS,
    # a process a step would take ten times as long: each imports everything again
    executor_def=dg.in_process_executor,
    description="All daily stages of one session or a range, from bars to paper orders.",
    # an execution that failed is looked at by a person, never repeated by the machine
    tags={"dagster/max_retries": "0"},
)

training_job = dg.define_asset_job(
    "training",
    selection=MONTHLY_ASSETS,
    executor_def=dg.in_process_executor,
    description="The month's models, fitted on what was known before its first session.",
)

research_backfill_job = dg.define_asset_job(
    "research_backfill",
    selection=DAILY_ASSETS - dg.AssetSelection.assets("orders"),
    executor_def=dg.in_process_executor,
    description="All daily stages but the orders: past sessions are studied, not traded.",
)

ALL_JOBS = [daily_job, training_job, research_backfill_job]
