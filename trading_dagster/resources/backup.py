"""Backups: everything that an installation must not lose, in one folder that is complete when it is there.

Belongs here: the order of the parts, and the folder of the backups. How a part is copied is in `sqlite_copy`,
`postgres_dump` and `backup_tables`; how it comes back, in `restore`.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trading_dagster.code_version import code_version
from trading_dagster.resources import sqlite_copy
from trading_dagster.resources.backup_files import (
    MANIFEST,
    BackupError,
    files_below,
    read_pieces,
    sync_folder,
    write_file,
    write_manifest,
)
from trading_dagster.resources.installation import RUNS, Installation

NAME = re.compile(r"\d{8}T\d{6}Z")
PARTIAL = re.compile(r"\.(partial|removed)-\d{8}T\d{6}Z")
LOCK = ".lock"

HOME, COMPUTE_LOGS, LOGS, TABLES = "dagster/home", "compute_logs", "logs", "tables"
DAGSTER_DUMP, LEDGER_DUMP, LEDGER_FILE = "dagster/storage.dump", "ledger/ledger.dump", "ledger/ledger.db"
"""Parts of a backup, as paths below its folder."""


@dataclass(frozen=True)
class Backup:
    """A backup that was made.

    Attributes
    ----------
    folder : Path
    bytes : int
    seconds : float
    tables : dict of str to int
        Rows of each table.
    ledger_rows : int
    runs : int
    removed : tuple of str
        Older backups that are gone now.
    """

    folder: Path
    bytes: int
    seconds: float
    tables: dict[str, int] = field(default_factory=dict)
    ledger_rows: int = 0
    runs: int = 0
    removed: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for scripts and metadata."""
        return {**asdict(self), "folder": str(self.folder), "removed": list(self.removed)}

    def __str__(self) -> str:
        rows = sum(self.tables.values())
        text = (
            f"backup {self.folder}: {len(self.tables)} tables with {rows:,} rows, {self.ledger_rows:,} ledger rows, "
            f"{self.runs:,} runs; {self.bytes / 2**20:,.1f} MiB in {self.seconds:.1f} s"
        )
        return text + (f"; removed {', '.join(self.removed)}" if self.removed else "")


def make_backup(installation: Installation, folder: Path, kept: int) -> Backup:
    """Write a backup below a folder, and remove the oldest ones there.

    Parameters
    ----------
    kept : int
        Complete backups that stay, this one among them.

    Raises
    ------
    BackupError
        If it cannot be made: then there is none, not even in parts.
    """
    from deltalake.exceptions import DeltaError

    began = time.monotonic()
    with _alone(folder):
        _remove_leftovers(folder)
        name = _new_name(folder)
        partial = folder / f".partial-{name}"
        try:
            partial.mkdir(mode=0o700)
            facts = _copy_everything(installation, partial, _excluded(folder))
            write_manifest(partial, {"created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **facts})
            partial.rename(folder / name)
            sync_folder(folder)
        except (OSError, DeltaError) as error:
            raise BackupError(f"no backup was made in {folder}: {error}") from error
        finally:
            # what cannot be removed now is left for the next backup, and is not taken for one
            shutil.rmtree(partial, ignore_errors=True)
        removed = _remove_old(folder, kept)
    found = folder / name
    return Backup(
        found,
        sum((found / path).stat().st_size for path in files_below(found)),
        time.monotonic() - began,
        {table: content["rows"] for table, content in facts["tables"].items()},
        sum(facts["databases"]["ledger"]["rows"].values()),
        facts["databases"]["dagster"]["rows"]["runs"],
        tuple(removed),
    )


def complete_backups(folder: Path) -> list[str]:
    """Names of the backups below a folder, oldest first."""
    return sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name) and (path / MANIFEST).is_file())


def _copy_everything(installation: Installation, target: Path, excluded: list[Path]) -> dict[str, Any]:
    """Copy all parts, and return what the manifest says of them.

    The order matters, since others go on meanwhile: each part is of a later moment than the one before, and so may
    know more than it, never less. A table row without its run in Dagster is a gap in a history; a ledger that is
    older than what tables and runs tell of it would lead to trading again what was traded. So the ledger is last.
    """
    import dagster as dg

    databases = {"dagster": _copy_dagster(installation, target, excluded)}
    if installation.compute_logs is not None:
        _copy_files(installation.compute_logs, target / COMPUTE_LOGS, excluded)
    _copy_files(installation.logs, target / LOGS, excluded)
    tables = _copy_tables(installation.tables_uri, target / TABLES)
    databases["ledger"] = _copy_ledger(installation, target)
    return {
        "code_version": code_version(),
        "dagster_version": dg.__version__,
        "databases": databases,
        "tables": tables,
    }


def _copy_dagster(installation: Installation, target: Path, excluded: list[Path]) -> dict[str, Any]:
    home = [*excluded, *installation.elsewhere]
    if installation.dagster is not None:
        dumped = installation.dagster.dump(target / DAGSTER_DUMP)
        _copy_files(installation.dagster_home, target / HOME, home)
        return {"kind": "postgresql", "revision": dumped.revision, "rows": {"runs": dumped.rows.get("runs", 0)}}
    _copy_files(installation.dagster_home, target / HOME, home)
    runs = target / HOME / RUNS
    if not runs.exists():
        raise BackupError(f"Dagster's home {installation.dagster_home} has no {RUNS}; give first: trading migrate")
    rows = sqlite_copy.count_rows(runs)["runs"]
    return {"kind": "sqlite", "revision": sqlite_copy.revision(runs), "rows": {"runs": rows}}


def _copy_ledger(installation: Installation, target: Path) -> dict[str, Any]:
    ledger = installation.ledger
    if isinstance(ledger, Path):
        kind, shown = "sqlite", str(ledger)
        copy = target / LEDGER_FILE
        if not ledger.exists():
            raise BackupError(_no_ledger(shown))
        sqlite_copy.copy_database(ledger, copy)
        revision, rows = sqlite_copy.revision(copy), sqlite_copy.count_rows(copy)
    else:
        kind, shown = "postgresql", ledger.shown
        dumped = ledger.dump(target / LEDGER_DUMP)
        revision, rows = dumped.revision, dumped.rows
    if not revision:
        raise BackupError(_no_ledger(shown))
    return {"kind": kind, "revision": revision, "rows": rows}


def _no_ledger(shown: str) -> str:
    # an empty backup every night, made of the wrong place, is found out when it is needed
    return (
        f"there is no ledger in {shown}: correct TRADING_DATA_DIR or TRADING_LEDGER_URL; in a new installation, give "
        "first: trading migrate"
    )


def _copy_tables(uri: str, target: Path) -> dict[str, dict[str, Any]]:
    from trading_dagster.resources.backup_tables import delta_tables, snapshot

    found = {}
    for name in delta_tables(uri):
        content = snapshot(uri, name, target / name)
        found[name] = {"version": content.version, "rows": content.rows, "checksum": content.checksum}
    return found


def _copy_files(source: Path, target: Path, excluded: list[Path]) -> None:
    """Copy a folder: databases as of one moment each, other files as they are; what goes meanwhile is left out."""
    for path in files_below(source):
        there, here = source / path, target / path
        if any(there.is_relative_to(place) for place in excluded) or sqlite_copy.is_beside(there):
            continue
        try:
            if sqlite_copy.is_database(there):
                sqlite_copy.copy_database(there, here)
            else:
                write_file(here, read_pieces(there))
        except FileNotFoundError:
            here.unlink(missing_ok=True)


# -- the folder of the backups ----------------------------------------------------------------------------------------


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let nobody else write or remove backups in a folder; a process that is killed stops doing so."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BackupError(
            f"backups cannot be written to {folder}: {error.strerror}; set TRADING_BACKUP_DIR, or --to, to a folder "
            "that can be"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise BackupError(f"another process writes a backup to {folder} now; wait until it has ended") from error
    except OSError as error:
        os.close(handle)
        raise BackupError(f"{folder} is on a file system without locks ({error.strerror}); use another") from error
    try:
        yield
    finally:
        os.close(handle)


def _new_name(folder: Path) -> str:
    while True:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        if not (folder / name).exists():
            return name
        time.sleep(0.1)  # one was made in this very second


def _excluded(folder: Path) -> list[Path]:
    return [folder.absolute()]


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left. None of them lives: it would hold the lock."""
    for path in folder.iterdir():
        if PARTIAL.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def _remove_old(folder: Path, kept: int) -> list[str]:
    old = complete_backups(folder)[:-kept]
    for name in old:
        # under its own name it would be a backup, and half of it would be missing if this ended in between
        going = folder / f".removed-{name}"
        try:
            (folder / name).rename(going)
            shutil.rmtree(going)
        except OSError as error:
            raise BackupError(
                f"the new backup is complete, but the old one {folder / name} cannot be removed: {error}"
            ) from error
    return old
