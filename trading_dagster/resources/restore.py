"""Restoring a backup into an empty installation, part by part, each compared with the manifest.

Belongs here: what is refused, the order, and how an interrupted restore goes on. The parts themselves are in
`sqlite_copy`, `postgres_dump` and `backup_tables`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trading_dagster.resources import sqlite_copy
from trading_dagster.resources.backup import (
    COMPUTE_LOGS,
    DAGSTER_DUMP,
    HOME,
    LEDGER_DUMP,
    LEDGER_FILE,
    LOGS,
    TABLES,
)
from trading_dagster.resources.backup_files import (
    MANIFEST,
    BackupError,
    files_below,
    replace_file,
    sha256,
)
from trading_dagster.resources.backup_verify import count_problems, table_problem, verify_backup
from trading_dagster.resources.installation import Installation
from trading_dagster.resources.object_store import ObjectStore
from trading_dagster.resources.preparation import upgrade
from trading_dagster.resources.restore_checks import (
    MARKER,
    ledger_rows,
    require_empty,
    require_fitting,
    restore_begun,
)
from trading_dagster.resources.restored_ledger import mark_as_restored, own_tables

if TYPE_CHECKING:
    import dagster as dg

CONFIGURATION = Path("dagster.yaml")


@dataclass(frozen=True)
class Restored:
    """What was restored, all of it compared with the manifest.

    Attributes
    ----------
    backup : str
        Name of its folder.
    created : str
        When the backup was made, UTC.
    tables : dict of str to int
        Rows of each table.
    ledger_rows, runs : int
    closed : int
        Runs that were under way when the backup was made, and now count as failed.
    strategies : dict of str to str
        State of each strategy now.
    """

    backup: str
    created: str
    tables: dict[str, int]
    ledger_rows: int
    runs: int
    closed: int
    strategies: dict[str, str]

    def __str__(self) -> str:
        lines = [
            f"restored {self.backup}, made {self.created}: all is as the manifest says",
            f"  tables      {len(self.tables)} with {sum(self.tables.values()):,} rows, at their versions",
            f"  ledger      {self.ledger_rows:,} rows",
            f"  Dagster     {self.runs:,} runs"
            + (f"; {self.closed} were under way then, and count as failed now" if self.closed else ""),
        ]
        lines += [f"  {name:<11} {state}" for name, state in self.strategies.items()]
        return "\n".join(lines)


def restore_backup(
    folder: Path,
    installation: Installation,
    open_instance: Callable[[], AbstractContextManager[dg.DagsterInstance]],
    operator: str,
) -> Restored:
    """Restore a backup into an empty installation.

    The ledger comes first: were a run to start in a half-restored installation, it would know what was traded. Given
    again after an interruption, it does everything once more.

    Parameters
    ----------
    open_instance : callable
        Opens Dagster's storage, which must not be open while its files are replaced.
    operator : str
        Who does it, for the ledger.

    Raises
    ------
    BackupError
        If the backup is damaged, or what was restored is not what it holds.
    BackupRefusedError
        If the installation is not empty, or the backup does not fit it; nothing was changed.
    """
    from deltalake.exceptions import DeltaError

    manifest, problems = verify_backup(folder)
    if problems:
        raise BackupError(f"{folder} is damaged, and nothing was restored: {'; '.join(problems[:5])}")
    require_fitting(installation, manifest)
    if not isinstance(installation.ledger, Path):
        installation.ledger.create()
    store = ObjectStore(installation.tables_uri)
    identity = sha256(folder / MANIFEST)
    require_empty(installation, manifest, restore_begun(store, folder.name, identity))
    store.write(MARKER, [json.dumps({"backup": folder.name, "manifest_sha256": identity}).encode()])

    try:
        return _restore_everything(folder, installation, manifest, open_instance, operator, store)
    except (OSError, DeltaError) as error:
        raise BackupError(f"the restore did not end: {error}. Mend that, and give the same command again") from error


def _restore_everything(
    folder: Path,
    installation: Installation,
    manifest: dict[str, Any],
    open_instance: Callable[[], AbstractContextManager[dg.DagsterInstance]],
    operator: str,
    store: ObjectStore,
) -> Restored:
    _restore_ledger(folder, installation, manifest)
    strategies = mark_as_restored(installation.ledger_url, folder.name, manifest["created"], operator)
    _restore_dagster(folder, installation)
    if installation.compute_logs is not None:
        _restore_files(folder / COMPUTE_LOGS, installation.compute_logs)
    _restore_files(folder / LOGS, installation.logs)
    tables = _restore_tables(folder, installation.tables_uri, manifest)
    closed = _compare_dagster(open_instance, manifest)
    os.sync()  # what the tables' own library wrote is not known to be on the disk
    store.remove(MARKER)
    return Restored(
        folder.name,
        manifest["created"],
        tables,
        sum(manifest["databases"]["ledger"]["rows"].values()),
        manifest["databases"]["dagster"]["rows"]["runs"],
        closed,
        strategies,
    )


# -- the parts --------------------------------------------------------------------------------------------------------


def _restore_ledger(folder: Path, installation: Installation, manifest: dict[str, Any]) -> None:
    if isinstance(installation.ledger, Path):
        sqlite_copy.put_back(folder / LEDGER_FILE, installation.ledger)
    else:
        installation.ledger.restore(folder / LEDGER_DUMP, own_tables())
    expected = dict(manifest["databases"]["ledger"]["rows"])
    expected.pop("alembic_version", None)
    _raise(count_problems("ledger", expected, ledger_rows(installation)))


def _restore_dagster(folder: Path, installation: Installation) -> None:
    if installation.dagster is not None:
        installation.dagster.restore(folder / DAGSTER_DUMP)
    _restore_files(folder / HOME, installation.dagster_home)


def _restore_files(source: Path, target: Path) -> None:
    for path in files_below(source):
        there = target / path
        if path == CONFIGURATION and there.exists():
            continue  # how this installation is set up, rather than what it did
        there.parent.mkdir(parents=True, exist_ok=True)
        if sqlite_copy.is_database(source / path):
            sqlite_copy.put_back(source / path, there)
        else:
            replace_file(source / path, there)


def _restore_tables(folder: Path, uri: str, manifest: dict[str, Any]) -> dict[str, int]:
    from trading_dagster.resources.backup_tables import put_back

    rows = {}
    for name, expected in sorted(manifest["tables"].items()):
        content = put_back(folder / TABLES / name, uri, name)
        problem = table_problem(name, expected, content)
        _raise([problem] if problem else [])
        rows[name] = content.rows
    return rows


def _compare_dagster(
    open_instance: Callable[[], AbstractContextManager[dg.DagsterInstance]], manifest: dict[str, Any]
) -> int:
    """Compare the number of runs, and close those that nobody carries on; return how many they were.

    A run that was under way lives in no process any more, and would keep others waiting for ever; one that waited
    would start as if it had been asked for now.
    """
    import dagster as dg

    status = dg.DagsterRunStatus
    ended = {status.SUCCESS, status.FAILURE, status.CANCELED}
    with open_instance() as instance:
        expected, found = manifest["databases"]["dagster"]["rows"]["runs"], instance.get_runs_count()
        _raise([] if found == expected else [f"Dagster's storage: it has {found} runs, and had {expected}"])
        upgrade(instance)
        unfinished = instance.get_runs(dg.RunsFilter(statuses=[each for each in status if each not in ended]))
        for run in unfinished:
            instance.report_run_failed(run, "it had not ended when the backup was made that this storage is from")
    return len(unfinished)


def _raise(problems: list[str]) -> None:
    if problems:
        raise BackupError(
            f"what was restored is not what the backup holds: {'; '.join(problems[:5])}. Find out who else writes "
            "there, and give the command again"
        )
