"""Files of a backup: written to last, listed in a manifest with their SHA-256, and compared with it.

Belongs here: what holds for any file of a backup. What the files are is in `database_dump`, `backup_tables`, `backup`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST, DIGEST = "manifest.json", "manifest.sha256"
CHUNK = 2**22


class BackupError(RuntimeError):
    """A backup that cannot be made, read or restored; the message says why and what to do."""


class BackupRefusedError(ValueError):
    """A backup or a restore that is not allowed as it was asked for; nothing was changed."""


def read_pieces(path: Path) -> Iterator[bytes]:
    """Content of a file, piece by piece."""
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def write_file(path: Path, content: Iterable[bytes]) -> None:
    """Write a file and wait until it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for piece in content:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def replace_file(source: Path, target: Path) -> None:
    """Put a copy of a file in place of another, as a whole or not at all."""
    beside = target.with_name(f".{target.name}.restoring")
    write_file(beside, read_pieces(source))
    beside.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_below(folder: Path) -> list[Path]:
    """Plain files below a folder, as paths from there; what is a link, a socket or a pipe is left out."""
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            plain = stat.S_ISREG(path.lstat().st_mode)
        except FileNotFoundError:
            continue  # it went while the folder was read
        if plain:
            found.append(path.relative_to(folder))
    return found


def copy_folder(source: Path, target: Path) -> None:
    """Copy the plain files below a folder, apart from those that go meanwhile."""
    for path in files_below(source):
        try:
            write_file(target / path, read_pieces(source / path))
        except FileNotFoundError:
            (target / path).unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    for piece in read_pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a folder, by its path from there."""
    return {
        path.as_posix(): {"bytes": (folder / path).stat().st_size, "sha256": sha256(folder / path)}
        for path in files_below(folder)
    }


def write_manifest(folder: Path, facts: dict[str, Any]) -> str:
    """Write what a backup is, with all its files, and return the SHA-256 of that."""
    text = json.dumps({"format": FORMAT, **facts, "files": describe_files(folder)}, indent=1, sort_keys=True)
    write_file(folder / MANIFEST, [text.encode()])
    digest = sha256(folder / MANIFEST)
    # as sha256sum writes it, for those who have only that
    write_file(folder / DIGEST, [f"{digest}  {MANIFEST}\n".encode()])
    for each in (path for path in folder.rglob("*") if path.is_dir()):
        sync_folder(each)
    sync_folder(folder)
    return digest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what a backup is.

    Raises
    ------
    BackupError
        If it is no backup, or its manifest is not as it was written, or of a newer version of the program.
    """
    if not folder.is_dir():
        raise BackupError(f"there is no folder {folder}; name one backup, such as DIR/20261120T010000Z")
    for name in (MANIFEST, DIGEST):
        if not (folder / name).is_file():
            raise BackupError(f"{folder} is no backup, or one that is not complete: it has no {name}")
    expected = (folder / DIGEST).read_bytes().split()
    found = sha256(folder / MANIFEST)
    if not expected or expected[0] != found.encode():
        raise BackupError(
            f"{folder / MANIFEST} is not as it was written: its SHA-256 is {found}, and {DIGEST} says otherwise; use "
            "another backup"
        )
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    if manifest["format"] != FORMAT:
        raise BackupError(
            f"{folder} has the format {manifest['format']}, and this version of the program knows {FORMAT}; use the "
            f"version that wrote it: {manifest.get('code_version', 'unknown')}"
        )
    return manifest


def compare_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """What is not as the manifest says: files changed, missing, or that do not belong there."""
    listed: dict[str, dict[str, Any]] = manifest["files"]
    there = {path.as_posix() for path in files_below(folder)} - {MANIFEST, DIGEST}
    problems = [f"{path}: it is missing" for path in sorted(listed.keys() - there)]
    problems += [f"{path}: it is not part of the backup" for path in sorted(there - listed.keys())]
    for path in sorted(there & listed.keys()):
        size = (folder / path).stat().st_size
        if size != listed[path]["bytes"]:
            problems.append(f"{path}: it has {size} bytes, and had {listed[path]['bytes']}")
        elif sha256(folder / path) != listed[path]["sha256"]:
            problems.append(f"{path}: its content is not what was written (SHA-256)")
    return problems
