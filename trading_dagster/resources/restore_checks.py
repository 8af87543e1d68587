"""What stands against restoring a backup: an installation that is not empty, or that the backup does not fit.

Belongs here: looking. Nothing is changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trading_dagster.resources import sqlite_copy
from trading_dagster.resources.backup_files import BackupRefusedError
from trading_dagster.resources.installation import RUNS, Installation
from trading_dagster.resources.object_store import ObjectStore
from trading_dagster.resources.restored_ledger import known_revision

MARKER = ".restore-in-progress.json"
"""At the tables' address while a restore has begun and has not ended: all processes of an installation see it."""

CHANGED_BY_RESTORE = {"alembic_version", "halt_states", "halt_events", "operator_actions"}
"""Tables of the ledger that a restore writes itself, after it has compared them."""


def require_fitting(installation: Installation, manifest: dict[str, Any]) -> None:
    """Make sure that the databases are of the same kind, and what is in them is known here.

    Raises
    ------
    BackupRefusedError
    """
    import dagster as dg
    from packaging.version import Version

    for part, kind in installation.kinds.items():
        made = manifest["databases"][part]["kind"]
        if made != kind:
            variable = "TRADING_LEDGER_URL" if part == "ledger" else "the `storage` in dagster.yaml"
            raise BackupRefusedError(
                f"in the backup, the database of {part} is of the kind {made}, and here it is {kind}: one cannot be "
                f"restored into the other; change {variable}"
            )
    revision = manifest["databases"]["ledger"]["revision"]
    if not known_revision(revision):
        raise BackupRefusedError(
            f"the backup's ledger has the schema {revision}, which this version of the program does not know; use the "
            f"version that made it, or a newer one: {manifest['code_version']}"
        )
    if Version(manifest["dagster_version"]) > Version(dg.__version__):
        raise BackupRefusedError(
            f"the backup was made with Dagster {manifest['dagster_version']}, and here is {dg.__version__}, which may "
            "not read its storage; install that version, or a newer one"
        )


def restore_begun(store: ObjectStore, name: str, identity: str) -> bool:
    """Whether a restore of this very backup has begun and not ended."""
    if not store.exists(MARKER):
        return False
    begun = json.loads(store.read(MARKER))
    if begun["manifest_sha256"] != identity:
        raise BackupRefusedError(
            f"the restore of another backup, {begun['backup']}, has begun here and not ended ({store.uri}/{MARKER}): "
            f"finish that one, or empty the installation first; {name} was not touched"
        )
    return True


def require_empty(installation: Installation, manifest: dict[str, Any], begun: bool) -> None:
    """Make sure that nothing is overwritten but what an interrupted restore of the same backup wrote."""
    from trading_dagster.resources.backup_tables import delta_tables
    from trading_dagster.resources.object_store import open_table

    rows, runs = ledger_rows(installation), _run_count(installation)
    uri = installation.tables_uri.rstrip("/")
    tables = {name: int(open_table(f"{uri}/{name}").version()) for name in delta_tables(uri)}
    if begun:
        rows, runs, tables = _without_restored(manifest, rows, runs, tables)
    else:
        rows = {name: count for name, count in rows.items() if count}
    found = [f"{_rows(count)} in the ledger's {name}" for name, count in sorted(rows.items())]
    found += [f"{runs} runs in Dagster's storage"] if runs else []
    found += [f"the table {name} at {uri}" for name in sorted(tables)]
    if not found:
        return
    shown = ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
    if begun:
        raise BackupRefusedError(
            f"a restore of this backup was interrupted, and the installation was used since: {shown}. Empty it (remove "
            "the ledger, Dagster's storage and the tables, or take new places for them) and give the command again"
        )
    raise BackupRefusedError(
        f"a backup is restored into an empty installation only, and here is {shown}. Nothing was changed. Use another "
        "TRADING_DATA_DIR, or new databases and a new TRADING_TABLES_URI"
    )


def _without_restored(
    manifest: dict[str, Any], rows: dict[str, int], runs: int, tables: dict[str, int]
) -> tuple[dict[str, int], int, dict[str, int]]:
    """Leave out what the restore that was interrupted may have written itself: either nothing yet, or all."""
    databases = manifest["databases"]
    compared = {name: count for name, count in rows.items() if name not in CHANGED_BY_RESTORE}
    expected = databases["ledger"]["rows"]
    changed = {name: count for name, count in compared.items() if count != expected.get(name, 0)}
    versions = {name: table["version"] for name, table in manifest["tables"].items()}
    return (
        changed if any(compared.values()) else {},
        0 if runs == databases["dagster"]["rows"]["runs"] else runs,
        {name: version for name, version in tables.items() if version > versions.get(name, -1)},
    )


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def ledger_rows(installation: Installation) -> dict[str, int]:
    """Rows of each of the ledger's tables now."""
    if not isinstance(installation.ledger, Path):
        rows = installation.ledger.content().rows
    else:
        rows = sqlite_copy.count_rows(installation.ledger) if installation.ledger.exists() else {}
    return {name: count for name, count in rows.items() if name != "alembic_version"}


def _run_count(installation: Installation) -> int:
    if installation.dagster is not None:
        return installation.dagster.content().rows.get("runs", 0)
    runs = installation.dagster_home / RUNS
    return sqlite_copy.count_rows(runs).get("runs", 0) if runs.exists() else 0
