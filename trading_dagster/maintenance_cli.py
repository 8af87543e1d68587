"""The commands that look after an installation: migrate, backup, restore, retention, exporter.

Belongs here: options, exit codes, and how results are printed. What each does is in `resources`.
"""

from __future__ import annotations

import json
import sys
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
    from trading_dagster.resources.preparation import prepare_dagster, prepare_ledger

    with backup_errors():
        settings = load_settings()
        for line in prepare_ledger(settings.resolved_ledger_url, wait):
            click.echo(line)
        for line in prepare_dagster(partial(dagster_instance, settings), settings.data_dir, wait):
            click.echo(line)


@click.command()
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Folder of the backups; TRADING_BACKUP_DIR else.")
@as_json
def backup(folder: Path | None, as_json: bool) -> None:
    """Write Dagster's storage, logs, tables and ledger into a new folder, beside whatever runs."""
    from trading_dagster.cli import dagster_instance
    from trading_dagster.resources.backup import make_backup
    from trading_dagster.resources.installation import find_installation

    with backup_errors():
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

    with backup_errors():
        settings = load_settings()
        open_instance = partial(dagster_instance, settings)
        with open_instance() as instance:
            installation = find_installation(settings, instance)
        click.echo(str(restore_backup(folder, installation, open_instance, operator)))


COMMANDS: Sequence[click.Command] = (migrate, backup, verify, restore)


@contextmanager
def backup_errors(failed: int = FAILED) -> Iterator[None]:
    """Print errors without a traceback, and exit: 2 for what is refused, `failed` for the rest."""
    from trading_dagster.resources.backup_files import BackupError, BackupRefusedError
    from trading_dagster.resources.ledger import LedgerError

    try:
        yield
    except (SettingsError, BackupRefusedError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(WRONG_USE)
    except (BackupError, LedgerError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(failed)
