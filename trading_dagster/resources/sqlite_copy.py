"""SQLite databases: copied while others write, checked, counted and put back.

Belongs here: what needs no server. PostgreSQL's databases are in `postgres_dump`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from trading_dagster.resources.backup_files import BackupError, replace_file

HEADER = b"SQLite format 3\0"
BESIDE = ("-journal", "-wal", "-shm")
"""Ends of the names of files that SQLite keeps beside a database while it is in use."""

PATIENCE = 300.0
"""Seconds that a copy waits for writers."""


def is_database(path: Path) -> bool:
    """Whether a file is a SQLite database; False for one that has gone."""
    try:
        with path.open("rb") as file:
            return file.read(len(HEADER)) == HEADER
    except FileNotFoundError:
        return False


def is_beside(path: Path) -> bool:
    """Whether a file is one that SQLite keeps beside a database."""
    return any(path.name.endswith(end) and path.with_name(path.name.removesuffix(end)).exists() for end in BESIDE)


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as of one moment, whoever writes meanwhile.

    Raises
    ------
    FileNotFoundError
        If there is none.
    BackupError
        If it cannot be read, or others keep it locked.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + PATIENCE

    def look(_: int, left: int, pages: int) -> None:
        if time.monotonic() > ends:
            raise BackupError(f"{source}: others kept it locked for {PATIENCE:.0f} s ({left} of {pages} pages left)")

    try:
        # not read-only: what a killed process left half done is first undone, as at any opening
        with closing(_open(source, "rw")) as there, closing(sqlite3.connect(target)) as here:
            there.execute("PRAGMA busy_timeout=30000")
            there.backup(here, progress=look)
            here.execute("PRAGMA journal_mode=DELETE")  # one file, whatever the source uses
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        if not source.exists():
            raise FileNotFoundError(source) from error
        raise BackupError(f"the database {source} cannot be copied: {error}") from error
    with target.open("rb") as file:
        os.fsync(file.fileno())


def damage(path: Path) -> str:
    """What SQLite finds wrong with a database that nobody uses; empty where nothing is."""
    try:
        with closing(_open(path, "ro&immutable=1")) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.Error as error:
        return str(error)
    return "" if found == ["ok"] else "; ".join(found)


def count_rows(path: Path) -> dict[str, int]:
    """Rows of every table of a database."""
    with _reading(path) as connection:
        names = [
            str(name)
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            if not name.startswith("sqlite_")
        ]
        return {
            name: int(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0])  # noqa: S608  # no input
            for name in names
        }


def revision(path: Path) -> str:
    """Alembic revision of a database; empty without one."""
    with _reading(path) as connection:
        if "alembic_version" not in count_rows(path):
            return ""
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return "" if row is None else str(row[0])


def put_back(source: Path, target: Path) -> None:
    """Put a copy in place of a database that nobody uses."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for end in BESIDE:
        # left by a process that was killed: SQLite would play it into the new file
        target.with_name(target.name + end).unlink(missing_ok=True)
    replace_file(source, target)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(_open(path, "ro")) as connection:
            yield connection
    except sqlite3.Error as error:
        raise BackupError(f"the database {path} cannot be read: {error}") from error


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode={mode}", uri=True)
