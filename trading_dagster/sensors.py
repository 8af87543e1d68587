"""Sensors: sessions that the schedule missed."""

import dagster as dg
import pandas as pd

from trading_dagster.calendar import SessionCalendar
from trading_dagster.jobs import daily_job
from trading_dagster.resources.market_data import MarketDataSource

LOOKBACK = 10
"""Sessions before the newest one that are looked at; older gaps are a backfill, and a person's decision."""

GRACE = pd.Timedelta(hours=3)
"""Time after the close that belongs to the schedule."""


def build_missed_session_sensor(calendar: SessionCalendar) -> dg.SensorDefinition:
    """Build the sensor that runs sessions without orders, oldest first, one at a time."""

    @dg.sensor(
        name="missed_sessions",
        job=daily_job,
        minimum_interval_seconds=900,
        description=(
            f"Looks for sessions among the last {LOOKBACK} that have no orders although earlier ones have, and "
            "runs the oldest. "
            "Each is tried once; what fails is for a person."
        ),
    )
    def missed_sessions(
        context: dg.SensorEvaluationContext, source: dg.ResourceParam[MarketDataSource]
    ) -> dg.RunRequest | dg.SkipReason:
        now = pd.Timestamp.now(tz="UTC") - GRACE
        done = context.instance.get_materialized_partitions(dg.AssetKey("orders"))
        missed = missed_session_keys(calendar, done, now, source)
        if not missed:
            return dg.SkipReason(f"none of the last {LOOKBACK} sessions was missed")
        active = context.instance.get_run_records(
            dg.RunsFilter(
                job_name=daily_job.name,
                statuses=[
                    dg.DagsterRunStatus.QUEUED,
                    dg.DagsterRunStatus.NOT_STARTED,
                    dg.DagsterRunStatus.STARTING,
                    dg.DagsterRunStatus.STARTED,
                ],
            ),
            limit=1,
        )
        if active:
            return dg.SkipReason(f"{len(missed)} sessions wait for run {active[0].dagster_run.run_id} to end")
        # sessions are traded in order: the next tick asks for the next one
        tried = [key for key in missed if _was_tried(context.instance, key)]
        if tried:
            return dg.SkipReason(
                f"the run of {tried[0]} failed; later sessions wait for it. Look at it, then: trading run "
                f"--session {tried[0]}"
            )
        return dg.RunRequest(run_key=f"missed-{missed[0]}", partition_key=missed[0])

    return missed_sessions


def missed_session_keys(
    calendar: SessionCalendar, done: set[str], now: pd.Timestamp, source: MarketDataSource
) -> list[str]:
    """Sessions of the lookback that follow one with orders and have none themselves, oldest first.

    Parameters
    ----------
    done : set of str
        Partition keys that have orders.
    now : Timestamp
        Sessions that closed later are not due.
    """
    if not done:
        return []
    newest = calendar.last_closed(now.to_pydatetime())
    recent = calendar.sessions[calendar.sessions <= newest][-LOOKBACK:]
    due = [f"{session:%Y-%m-%d}" for session in recent]
    if source.last_session is not None:
        due = [key for key in due if key <= source.last_session.isoformat()]
    return [key for key in due if key > min(done) and key not in done]


def _was_tried(instance: dg.DagsterInstance, key: str) -> bool:
    runs = instance.get_runs_count(dg.RunsFilter(job_name=daily_job.name, tags={"dagster/run_key": f"missed-{key}"}))
    return runs > 0
