"""Schedules: the daily run after each session's close, the training at the start of each month."""

from collections.abc import Sequence

import dagster as dg
import pandas as pd

from trading_dagster.calendar import SessionCalendar, SessionError, month_key
from trading_dagster.execution.trading_session import Desk
from trading_dagster.jobs import daily_job, freshness_job, training_job
from trading_dagster.maintenance_jobs import backup_job, retention_job
from trading_dagster.operator_jobs import reconcile_job
from trading_dagster.resources.market_data import MarketDataSource
from trading_dagster.settings import Settings

AFTER_CLOSE = pd.Timedelta(hours=2)
"""How long after a close the account is still looked at: brokers post late."""


def build_schedules(calendar: SessionCalendar, settings: Settings | None = None) -> Sequence[dg.ScheduleDefinition]:
    """Build the schedules in the exchange's time zone.

    Dagster's own schedule of a partitioned job would run Friday's key on Saturday, and a key on holidays.

    Parameters
    ----------
    settings : Settings, optional
        Say which schedules are on from the start; without them, none is.
    """
    hour, minute = calendar.evening()

    @dg.schedule(
        name="daily_schedule",
        job=daily_job,
        cron_schedule=f"{minute} {hour} * * *",
        execution_timezone=calendar.timezone,
        description=f"Every session at {hour}:{minute:02d} exchange time, for that session.",
    )
    def daily_schedule(
        context: dg.ScheduleEvaluationContext, source: dg.ResourceParam[MarketDataSource]
    ) -> dg.RunRequest | dg.SkipReason:
        now = pd.Timestamp(context.scheduled_execution_time).tz_convert(calendar.timezone)
        try:
            session = calendar.closed(now.date(), now.to_pydatetime())
        except SessionError as error:
            return dg.SkipReason(str(error))
        if source.last_session is not None and session.date() > source.last_session:
            return dg.SkipReason(
                f"the source {source.name} ends at {source.last_session}; set TRADING_SOURCE to one that goes on"
            )
        key = f"{session:%Y-%m-%d}"
        return dg.RunRequest(run_key=key, partition_key=key)

    @dg.schedule(
        name="training_schedule",
        job=training_job,
        cron_schedule="0 6 1 * *",
        execution_timezone=calendar.timezone,
        description="On the first of each month at 06:00 exchange time, before its first session.",
    )
    def training_schedule(
        context: dg.ScheduleEvaluationContext, source: dg.ResourceParam[MarketDataSource]
    ) -> dg.RunRequest | dg.SkipReason:
        now = pd.Timestamp(context.scheduled_execution_time).tz_convert(calendar.timezone)
        if source.last_session is not None and now.date() > source.last_session:
            return dg.SkipReason(f"the source {source.name} ends at {source.last_session}")
        key = month_key(now)
        return dg.RunRequest(run_key=key, partition_key=key)

    freshness_schedule = dg.ScheduleDefinition(
        name="freshness_schedule",
        job=freshness_job,
        cron_schedule="0 * * * *",
        execution_timezone=calendar.timezone,
        description="Every hour: is the newest session there that should be?",
    )

    return [
        daily_schedule,
        training_schedule,
        freshness_schedule,
        _reconcile_schedule(calendar),
        _backup_schedule(calendar, settings),
        _retention_schedule(calendar, settings),
    ]


def _reconcile_schedule(calendar: SessionCalendar) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="reconcile_schedule",
        job=reconcile_job,
        cron_schedule="*/30 * * * *",
        execution_timezone=calendar.timezone,
        description="Every half hour of a session and two hours after it: books fills, halts on a loss or a mismatch.",
    )
    def reconcile_schedule(
        context: dg.ScheduleEvaluationContext, desk: dg.ResourceParam[Desk]
    ) -> dg.RunRequest | dg.SkipReason:
        now = pd.Timestamp(context.scheduled_execution_time).tz_convert(calendar.timezone)
        if not desk.broker.real:
            return dg.SkipReason(f"nothing happens at the {desk.broker.name} broker between two runs")
        if desk.ledger.strategy(desk.strategy) is None:
            return dg.SkipReason(f"the strategy {desk.strategy!r} has not traded yet")
        today = pd.Timestamp(now.date()).as_unit("us")
        if today not in calendar.sessions:
            return dg.SkipReason(f"{now:%Y-%m-%d} is no session of {calendar.name}")
        opens = calendar.open_times(pd.DatetimeIndex([today]))[0]
        if not opens <= now <= calendar.close_time(today) + AFTER_CLOSE:
            return dg.SkipReason("no session is under way")
        return dg.RunRequest(run_key=f"{now:%Y-%m-%d %H:%M}")

    return reconcile_schedule


def _backup_schedule(calendar: SessionCalendar, settings: Settings | None) -> dg.ScheduleDefinition:
    wanted = settings is not None and settings.backup_dir is not None

    @dg.schedule(
        name="backup_schedule",
        job=backup_job,
        cron_schedule="0 20 * * *",
        execution_timezone=calendar.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if wanted else dg.DefaultScheduleStatus.STOPPED,
        description="Every day at 20:00 exchange time; on from the start where TRADING_BACKUP_DIR is set.",
    )
    def backup_schedule(
        context: dg.ScheduleEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.RunRequest | dg.SkipReason:
        if settings.backup_dir is None:
            return dg.SkipReason("there is no place for a backup; set TRADING_BACKUP_DIR")
        now = pd.Timestamp(context.scheduled_execution_time).tz_convert(calendar.timezone)
        return dg.RunRequest(run_key=f"{now:%Y-%m-%d}")

    return backup_schedule


def _retention_schedule(calendar: SessionCalendar, settings: Settings | None) -> dg.ScheduleDefinition:
    wanted = settings is not None and settings.retention_days is not None

    @dg.schedule(
        name="retention_schedule",
        job=retention_job,
        cron_schedule="0 3 * * *",
        execution_timezone=calendar.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if wanted else dg.DefaultScheduleStatus.STOPPED,
        description="Every day at 03:00 exchange time; on from the start where TRADING_RETENTION_DAYS is set.",
    )
    def retention_schedule(
        context: dg.ScheduleEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.RunRequest | dg.SkipReason:
        if settings.retention_days is None:
            return dg.SkipReason("nothing is ever removed; to change that, set TRADING_RETENTION_DAYS")
        now = pd.Timestamp(context.scheduled_execution_time).tz_convert(calendar.timezone)
        return dg.RunRequest(run_key=f"{now:%Y-%m-%d}")

    return retention_schedule
