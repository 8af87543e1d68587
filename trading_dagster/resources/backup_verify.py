"""Whether a backup is what was written, and can be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trading_dagster.resources import sqlite_copy
from trading_dagster.resources.backup import DAGSTER_DUMP, HOME, LEDGER_DUMP, LEDGER_FILE, TABLES
from trading_dagster.resources.backup_files import compare_files, files_below, read_manifest
from trading_dagster.resources.table_content import Content, content


def verify_backup(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Compare every file with the manifest, and open every archive, database and table.

    Returns
    -------
    dict
        The manifest.
    list of str
        What is wrong; empty where nothing is.

    Raises
    ------
    BackupError
        If it is no backup, or its manifest is damaged: then nothing can be said of the rest.
    """
    manifest = read_manifest(folder)
    problems = compare_files(folder, manifest)
    if problems:
        return manifest, problems  # what is read out of damaged files would say the same less clearly
    return manifest, [*_databases(folder, manifest), *_tables(folder, manifest)]


def table_problem(name: str, expected: Mapping[str, Any], found: Content) -> str:
    """How a table is not what the manifest says; empty where it is."""
    for what in ("version", "rows", "checksum"):
        if getattr(found, what) != expected[what]:
            return f"table {name}: its {what} is {getattr(found, what)}, and was {expected[what]}"
    return ""


def count_problems(what: str, expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """Tables of a database whose number of rows is not what the manifest says."""
    return [
        f"{what}: {name} has {found.get(name, 0)} rows, and had {rows}"
        for name, rows in sorted(expected.items())
        if found.get(name, 0) != rows
    ]


def _databases(folder: Path, manifest: dict[str, Any]) -> list[str]:
    from trading_dagster.resources.postgres_dump import list_archive

    problems = {path: list_archive(folder / path) for path in (DAGSTER_DUMP, LEDGER_DUMP) if (folder / path).exists()}
    for path in [Path(LEDGER_FILE), *(Path(HOME) / path for path in files_below(folder / HOME))]:
        if sqlite_copy.is_database(folder / path):
            problems[path.as_posix()] = sqlite_copy.damage(folder / path)
    found = [f"{path}: {problem}" for path, problem in problems.items() if problem]
    ledger = manifest["databases"]["ledger"]
    expected = LEDGER_DUMP if ledger["kind"] == "postgresql" else LEDGER_FILE
    if expected not in problems:
        found.append(f"{expected}: there is no ledger in the backup")
    elif not found and ledger["kind"] == "sqlite":
        found += count_problems("ledger", ledger["rows"], sqlite_copy.count_rows(folder / LEDGER_FILE))
    return found


def _tables(folder: Path, manifest: dict[str, Any]) -> list[str]:
    from deltalake.exceptions import DeltaError

    problems = []
    for name, expected in sorted(manifest["tables"].items()):
        try:
            problems.append(table_problem(name, expected, content(str(folder / TABLES / name))))
        except (DeltaError, OSError) as error:
            problems.append(f"table {name}: it cannot be read: {str(error).splitlines()[0]}")
    return [problem for problem in problems if problem]
