"""Snapshots of the Delta tables: copied out of any storage into a backup, and back.

Belongs here: which files make a table at one version, and that they are copied as a whole. A snapshot is a Delta table
itself, of the same version: the versions that were recorded with runs and plans keep their meaning, as far back as the
log and the data files still reach.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from trading_dagster.resources.backup_files import BackupError, read_pieces, write_file
from trading_dagster.resources.object_store import ObjectStore, is_table, open_table
from trading_dagster.resources.table_content import Content, content

LOG = "_delta_log"
POINTER = f"{LOG}/_last_checkpoint"
ENTRY = re.compile(rf"{LOG}/(\d{{20}})\.(json|checkpoint\..*parquet|checkpoint\.parquet)")
ATTEMPTS = 3


class VanishedError(RuntimeError):
    """A file that a table's newest version needs, gone while it was copied."""


def delta_tables(uri: str) -> list[str]:
    """Names of the Delta tables below an address."""
    return [name for name in ObjectStore(uri).folders() if is_table(f"{uri.rstrip('/')}/{name}")]


def snapshot(uri: str, name: str, target: Path) -> Content:
    """Copy a table as it is now, with the history that is still there, and read the copy.

    Others may write, and remove old files, meanwhile: what they write is not part of it, and history that goes is left
    out. Only when a file of the version itself goes is the snapshot begun again, with the version of then.

    Parameters
    ----------
    target : Path
        Folder of the copy, which becomes a Delta table.

    Raises
    ------
    BackupError
        If files of the version keep vanishing, or the copy cannot be read.
    """
    store = ObjectStore(f"{uri.rstrip('/')}/{name}")
    for _ in range(ATTEMPTS):
        version = int(open_table(store.uri).version())
        try:
            _copy(store, version, target)
        except VanishedError as error:
            reason = str(error)
            shutil.rmtree(target)
        else:
            return content(str(target), version)
    raise BackupError(
        f"table {name}: {reason}, {ATTEMPTS} times in a row. Something removes files that are still in use; find it "
        "(a vacuum without retention?) and back up again"
    )


def put_back(source: Path, uri: str, name: str) -> Content:
    """Copy a snapshot to an address, and read it there.

    Data first and the log last, oldest entry first: whoever looks meanwhile finds no table, or an older version.
    """
    store = ObjectStore(f"{uri.rstrip('/')}/{name}")
    paths = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    for path in sorted(paths, key=lambda path: (path.startswith(f"{LOG}/"), path == POINTER, path)):
        store.write(path, read_pieces(source / path))
    return content(store.uri)


def _copy(store: ObjectStore, version: int, target: Path) -> None:
    target.mkdir(parents=True)
    for path in store.files(LOG):
        entry = ENTRY.fullmatch(path)
        if entry and int(entry[1]) <= version:
            # what goes now is history that a checkpoint made superfluous, or the table is found unreadable below
            _take(store, path, target)
    if store.exists(POINTER):
        pointer = store.read(POINTER)
        # one that is newer than the snapshot points at what is not in it; without any, readers list the log
        if int(json.loads(pointer)["version"]) <= version:
            write_file(target / POINTER, [pointer])
    needed = _files_of(target, version)
    for path in sorted(_referenced(target) | needed):
        if not _take(store, path, target) and path in needed:
            raise VanishedError(f"the file {path} of version {version} is gone")


def _files_of(table: Path, version: int) -> set[str]:
    """Data files of a version, by the copied log alone."""
    try:
        delta = DeltaTable(str(table), version=version)
    except (DeltaError, OSError) as error:
        raise VanishedError(f"the log of version {version} is not whole: {str(error).splitlines()[0]}") from error
    root = str(table)
    return {unquote(path).removeprefix("file://").removeprefix(root).lstrip("/") for path in delta.file_uris()}


def _referenced(table: Path) -> set[str]:
    """Data files that any kept entry of the log names, whether as added or as removed later."""
    found: set[str] = set()
    for entry in sorted((table / LOG).glob("*.json")):
        for line in entry.read_text(encoding="utf-8").splitlines():
            action = json.loads(line)
            found |= {action[kind]["path"] for kind in ("add", "remove") if kind in action}
    for checkpoint in sorted((table / LOG).glob("*.parquet")):
        with pq.ParquetFile(checkpoint) as file:
            for kind in {"add", "remove"} & set(file.schema_arrow.names):
                rows = file.read(columns=[f"{kind}.path"])[kind].to_pylist()
                found |= {row["path"] for row in rows if row is not None and row["path"] is not None}
    return {unquote(path) for path in found}


def _take(store: ObjectStore, path: str, target: Path) -> bool:
    """Copy one file; False where it is not there any more."""
    try:
        write_file(target / path, store.chunks(path))
    except FileNotFoundError:
        (target / path).unlink(missing_ok=True)
        return False
    return True
