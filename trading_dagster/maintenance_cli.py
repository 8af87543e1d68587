"""The commands that look after an installation: migrate, backup, restore, retention, exporter.

Belongs here: options, exit codes, and how results are printed. What each does is in `resources`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from trading_dagster.settings import SettingsError, load_settings

FAILED, WRONG_USE, NOT_AS_WANTED = 1, 2, 3
"""Exit codes: it cannot be done; wrong use, or refused; done, and not as it was wanted."""

as_json = click.option("--json", "as_json", is_flag=True, help="For scripts.")
backup_folder = click.argument("folder", type=click.Path(path_type=Path))


@click.command()
@click.option("--wait", default=60.0, show_default=True, help="Seconds to wait for a server that does not answer yet.")
def migrate(wait: float) -> None:
    """Make the ledger's database and Dagster's storage, or bring them to this version's schemas."""
    from functools import partial

    from trading_dagster.cli import dagster_instance
    from trading_dagster.executors import EXECUTION_POOL
    from trading_dagster.resources.preparation import prepare_dagster, prepare_ledger

    with backup_errors():
        settings = load_settings()
        for line in prepare_ledger(settings.resolved_ledger_url, wait):
            click.echo(line)
        for line in prepare_dagster(partial(dagster_instance, settings), settings.data_dir, wait, [EXECUTION_POOL]):
            click.echo(line)


@click.command()
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Folder of the backups; TRADING_BACKUP_DIR else.")
@as_json
def backup(folder: Path | None, as_json: bool) -> None:
    """Back up all that must not be lost into a new folder, beside whatever runs."""
    from trading_dagster.cli import dagster_instance
    from trading_dagster.resources.backup import make_backup
    from trading_dagster.resources.installation import find_installation

    with storage_errors(), backup_errors():
        settings = load_settings()
        target = folder or settings.backup_dir
        if target is None:
            raise click.UsageError("where to? give --to DIR, or set TRADING_BACKUP_DIR")
        with dagster_instance(settings) as instance:
            found = make_backup(find_installation(settings, instance), target, settings.backups_kept)
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else str(found))


@click.command()
@backup_folder
@as_json
def verify(folder: Path, as_json: bool) -> None:
    """Read a backup through: checksums, archives, tables. Exits with 3 where it is damaged."""
    from trading_dagster.resources.backup_verify import verify_backup

    with backup_errors(NOT_AS_WANTED):
        manifest, problems = verify_backup(folder)
    if as_json:
        click.echo(json.dumps({"backup": str(folder), "created": manifest["created"], "problems": problems}, indent=2))
    else:
        files, tables = len(manifest["files"]), len(manifest["tables"])
        good = f"{folder}: good; {files} files, {tables} tables, made {manifest['created']}"
        click.echo("\n".join([f"{folder}: damaged", *(f"  {problem}" for problem in problems)]) if problems else good)
    sys.exit(NOT_AS_WANTED if problems else 0)


@click.command()
@backup_folder
@click.option("--operator", default="trading restore", show_default=True, help="Who does it; kept in the ledger.")
def restore(folder: Path, operator: str) -> None:
    """Restore a backup into an empty installation, and compare what is there then with the backup."""
    from functools import partial

    from trading_dagster.cli import dagster_instance
    from trading_dagster.resources.installation import find_installation
    from trading_dagster.resources.restore import restore_backup

    with storage_errors(), backup_errors():
        settings = load_settings()
        open_instance = partial(dagster_instance, settings)
        with open_instance() as instance:
            installation = find_installation(settings, instance)
        click.echo(str(restore_backup(folder, installation, open_instance, operator)))


@click.command()
@click.option("--days", type=int, help="Days to keep; TRADING_RETENTION_DAYS by default.")
@as_json
def retention(days: int | None, as_json: bool) -> None:
    """Remove passing lines of old runs, and what only old versions of tables need; exits with 3 if not all was done."""
    from trading_dagster.cli import dagster_instance
    from trading_dagster.resources.retention import RetentionError, apply_retention, as_dict, as_text, days_to_keep
    from trading_dagster.resources.tables import Tables

    with _refusing(SettingsError, RetentionError):
        settings = load_settings()
        keep = days_to_keep(days, settings.retention_days)
    with storage_errors(), dagster_instance(settings) as instance:
        done = apply_retention(Tables(settings.resolved_tables_uri), instance, keep)
    click.echo(json.dumps(as_dict(done), indent=2) if as_json else as_text(done))
    sys.exit(NOT_AS_WANTED if done.problems else 0)


@click.command("prune-containers")
@click.option("--days", type=click.FloatRange(min=0), help="Days to keep; TRADING_RETENTION_DAYS by default.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only those with this label; repeatable.")
@click.option("--every", type=click.FloatRange(min=0, min_open=True), metavar="HOURS", help="Go on until stopped.")
@as_json
def prune_containers(days: float | None, labels: tuple[str, ...], every: float | None, as_json: bool) -> None:
    """Remove containers of runs that ended long ago, never one that runs; exits with 3 where one could not be removed.

    An engine that does not answer is an error; with --every it is told, and asked again the next time.
    """
    from trading_dagster.resources.run_containers import EngineError, label_filters, prune
    from trading_dagster.resources.service import stop_at_once

    with _refusing(SettingsError, ValueError):
        label_filters(labels)
        keep = load_settings().retention_days if days is None else days
    if keep is None:
        raise click.UsageError("how many days are kept? give --days N, or set TRADING_RETENTION_DAYS")
    if every is not None:
        stop_at_once()
    while True:
        done = None
        try:
            done = prune(keep, labels)
        except EngineError as error:
            click.echo(f"error: {error}", err=True)
        else:
            click.echo(json.dumps(done.as_dict(), indent=None if every else 2) if as_json else str(done))
        if every is None:
            sys.exit(FAILED if done is None else NOT_AS_WANTED if done.problems else 0)
        time.sleep(every * 3600)


@click.command()
@click.option("--port", default=9464, show_default=True, help="Port to listen at.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
def exporter(port: int, host: str) -> None:
    """Give figures of the installation to Prometheus, until stopped; reads alone, and needs nothing to be there yet."""
    from trading_dagster.calendar import SessionError, session_calendar
    from trading_dagster.cli import dagster_home
    from trading_dagster.code_version import code_version
    from trading_dagster.definitions import build_resources
    from trading_dagster.resources.exporter import TradingCollector, serve
    from trading_dagster.resources.exporter_sources import sources
    from trading_dagster.resources.service import stop_at_once

    with _refusing(SettingsError, SessionError):
        settings = load_settings()
        calendar = session_calendar(settings.calendar)
        last_session = build_resources(settings)["source"].last_session
    # Dagster would tell each attempt at a connection; the source that is down is told once
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.ERROR)
    logging.getLogger("trading_dagster").setLevel(logging.WARNING)
    info = {
        "version": code_version(), "strategy": settings.strategy, "broker": settings.broker, "source": settings.source
    }  # fmt: skip
    collector = TradingCollector(sources(settings, calendar, dagster_home(settings), last_session), info)
    stop_at_once()
    try:
        thread = serve(collector, host, port)
    except OSError as error:
        click.echo(f"error: {host}:{port} cannot be listened at: {error.strerror or error}", err=True)
        sys.exit(FAILED)
    click.echo(f"figures at http://{host}:{port}/metrics")
    thread.join()


@click.command()
@click.option("--days", type=click.FloatRange(min=0), help="Days to keep; TRADING_RETENTION_DAYS by default.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only those with this label; repeatable.")
@click.option(
    "--every", default=5.0, show_default=True, type=click.FloatRange(min=1), help="Seconds between two looks."
)
@click.option("--sign", type=click.Path(path_type=Path), help="File whose time says when it looked last.")
def housekeeper(days: float | None, labels: tuple[str, ...], every: float, sign: Path | None) -> None:
    """Stop containers whose run was cancelled, timed out or deleted; remove old ones each hour. Goes on until stopped.

    Engine or storage that does not answer is told, and asked again the next time.
    """
    from dagster_postgres.utils import DagsterPostgresException
    from sqlalchemy.exc import SQLAlchemyError

    from trading_dagster.cli import dagster_instance
    from trading_dagster.resources.housekeeping import stop_outlived
    from trading_dagster.resources.run_containers import EngineError, label_filters, prune
    from trading_dagster.resources.service import stop_at_once

    with _refusing(SettingsError, ValueError):
        label_filters(labels)
        settings = load_settings()
        keep = settings.retention_days if days is None else days
    stop_at_once()
    pruned_at: float | None = None
    while True:
        try:
            with dagster_instance(settings) as instance:
                while True:
                    for name, why in stop_outlived(instance, labels).items():
                        click.echo(f"{name}: {why}")
                    if keep is not None and (pruned_at is None or time.monotonic() - pruned_at >= 3600):
                        done = prune(keep, labels)
                        pruned_at = time.monotonic()
                        if done.removed or done.problems:
                            click.echo(str(done))
                    if sign is not None:
                        sign.touch()
                    time.sleep(every)
        except (EngineError, DagsterPostgresException, SQLAlchemyError) as error:
            click.echo(f"error: {error}", err=True)
            time.sleep(every)


COMMANDS: Sequence[click.Command] = (
    migrate,
    backup,
    verify,
    restore,
    retention,
    prune_containers,
    housekeeper,
    exporter,
)


@contextmanager
def _refusing(*mistakes: type[Exception]) -> Iterator[None]:
    """Print what the user can mend in the command without a traceback, and exit."""
    try:
        yield
    except mistakes as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(WRONG_USE)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Print that Dagster's storage cannot be used without a traceback, and exit."""
    from dagster_postgres.utils import DagsterPostgresException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (DagsterPostgresException, SQLAlchemyError, OSError) as error:
        # of attempts that were given up, the last one says why
        cause = (error.__cause__ or error.__context__ or error) if type(error) is DagsterPostgresException else error
        told = " ".join(str(getattr(cause, "orig", None) or cause).split())
        click.echo(f"error: Dagster's storage cannot be used: {told}", err=True)
        sys.exit(FAILED)


@contextmanager
def backup_errors(failed: int = FAILED) -> Iterator[None]:
    """Print errors without a traceback, and exit: 2 for what is refused, `failed` for the rest."""
    from trading_dagster.resources.backup_files import BackupError, BackupRefusedError
    from trading_dagster.resources.ledger import LedgerError
    from trading_dagster.resources.storage_errors import TablesUnavailableError

    try:
        yield
    except (SettingsError, BackupRefusedError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(WRONG_USE)
    except (BackupError, LedgerError, TablesUnavailableError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(failed)
