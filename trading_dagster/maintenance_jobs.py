"""Looking after an installation as Dagster jobs: what the commands of `trading` do, on a schedule.

Belongs here: what the UI shows of a result. What each does is in `resources`.
"""

from collections.abc import Sequence

import dagster as dg

from trading_dagster.executors import MAINTENANCE_LANE
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import Settings

MAINTENANCE = {"dagster/max_retries": "0", **MAINTENANCE_LANE}


@dg.op(description="Write Dagster's storage, logs, tables and ledger into a new folder.")
def write_backup(context: dg.OpExecutionContext, settings: dg.ResourceParam[Settings]) -> None:
    """Back up."""
    from trading_dagster.resources.backup import make_backup
    from trading_dagster.resources.backup_files import BackupError, BackupRefusedError
    from trading_dagster.resources.installation import find_installation

    if settings.backup_dir is None:
        raise dg.Failure("TRADING_BACKUP_DIR is not set: there is no place for a backup", allow_retries=False)
    try:
        done = make_backup(find_installation(settings, context.instance), settings.backup_dir, settings.backups_kept)
    except (BackupError, BackupRefusedError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.log.info(str(done))
    context.add_output_metadata(
        {
            "folder": str(done.folder),
            "bytes": done.bytes,
            "seconds": done.seconds,
            "tables": dg.MetadataValue.json(done.tables),
            "ledger_rows": done.ledger_rows,
            "runs": done.runs,
            "removed": dg.MetadataValue.json(list(done.removed)),
        }
    )


@dg.job(
    name="backup",
    executor_def=dg.in_process_executor,
    tags=MAINTENANCE,
    description="Back up into TRADING_BACKUP_DIR; the same as `trading backup`.",
)
def backup_job() -> None:
    """Back up."""
    write_backup()


class RetentionConfig(dg.Config):
    """How much is kept.

    Attributes
    ----------
    days : int or None
        TRADING_RETENTION_DAYS where it is left out.
    """

    days: int | None = None


@dg.op(description="Remove passing lines of old runs and what only old versions of tables need; merge small files.")
def remove_what_is_old(
    context: dg.OpExecutionContext,
    config: RetentionConfig,
    settings: dg.ResourceParam[Settings],
    tables: dg.ResourceParam[Tables],
) -> None:
    """Hold the retention."""
    from trading_dagster.resources.retention import RetentionError, apply_retention, as_dict, as_text, days_to_keep

    try:
        days = days_to_keep(config.days, settings.retention_days)
    except RetentionError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    done = apply_retention(tables, context.instance, days)
    context.log.info(as_text(done))
    shown = {
        "result": dg.MetadataValue.md(f"```\n{as_text(done)}\n```"),
        "values": dg.MetadataValue.json(as_dict(done)),
    }
    if done.problems:
        raise dg.Failure(f"not all was done: {'; '.join(done.problems)}", metadata=shown, allow_retries=False)
    context.add_output_metadata(shown)


@dg.job(
    name="retention",
    executor_def=dg.in_process_executor,
    tags=MAINTENANCE,
    description="Remove what is older than TRADING_RETENTION_DAYS; the same as `trading retention`.",
)
def retention_job() -> None:
    """Hold the retention."""
    remove_what_is_old()


MAINTENANCE_JOBS: Sequence[dg.JobDefinition] = [backup_job, retention_job]
