"""Tables in object storage: into a backup, and back into another bucket."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tests.object_storage import ObjectStorage
from trading_dagster.resources.backup import make_backup
from trading_dagster.resources.backup_files import BackupError, BackupRefusedError
from trading_dagster.resources.backup_verify import verify_backup
from trading_dagster.resources.object_store import ObjectStore
from trading_dagster.resources.restore import restore_backup
from trading_dagster.resources.restore_checks import MARKER
from trading_dagster.resources.tables import Tables

from .conftest import Places
from .installations import DAYS, Place
from .rows import allocation_rows


@pytest.fixture
def bucket(object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in object_storage.variables.items():
        monkeypatch.setenv(name, value)
    return object_storage.bucket()


def at(place: Place, uri: str) -> Place:
    return replace(place, settings=place.settings.model_copy(update={"tables_uri": uri}))


@pytest.mark.e2e
def test_round_trip_by_another_bucket(bucket: str, object_storage: ObjectStorage, places: Places) -> None:
    old = at(places.filled("old"), f"{bucket}/tables")
    for number, day in enumerate([*DAYS, DAYS[0]]):
        old.tables.replace("allocation", allocation_rows([day], 0.1 * number), day, day)
    DeltaTable(f"{bucket}/tables/allocation").create_checkpoint()
    folder = make_backup(old.installation, old.folder / "backups", 1).folder
    assert verify_backup(folder)[1] == []
    new = at(places.empty("new"), f"{object_storage.bucket()}/below/tables")
    done = restore_backup(folder, new.installation, new.instance, "ann")
    assert done.tables == {"allocation": 5}
    for version in range(old.tables.version("allocation") + 1):
        frames = [
            DeltaTable(f"{place.tables.uri}/allocation", version=version).to_pyarrow_table().sort_by("weight")
            for place in (old, new)
        ]
        assert frames[0].equals(frames[1])
    new.tables.replace("allocation", allocation_rows(DAYS[:1], 0.9), DAYS[0], DAYS[0])
    assert not ObjectStore(new.tables.uri).exists(MARKER)
    with pytest.raises(BackupRefusedError, match=r"the table allocation at s3://.*/below/tables\b"):
        restore_backup(folder, at(places.empty("third"), new.tables.uri).installation, new.instance, "ann")


def test_storage_that_does_not_answer_is_named(bucket: str, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    old = at(places.filled("old"), "s3://no-such-bucket-here/tables")
    with pytest.raises(BackupError, match=r"no backup was made in .*: the tables at s3://no-such-bucket-here/tables"):
        make_backup(old.installation, old.folder / "backups", 1)
    assert [path.name for path in (old.folder / "backups").iterdir()] == [".lock"]


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_files_of_a_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    uri = str(tmp_path / "files") if kind == "folder" else f"{request.getfixturevalue('bucket')}/files"
    store = ObjectStore(uri)
    assert (store.folders(), store.files(""), store.exists("a/b")) == ([], [], False)
    large = bytes(range(256)) * 40_000  # more than one piece
    for path, content in (("a/b", large), ("a/c/d", b""), ("e", b"short"), ("e", b"replaced")):
        store.write(path, [content[:1000], content[1000:]])
    assert store.folders() == ["a"]
    assert store.files("") == ["a/b", "a/c/d", "e"]
    assert (store.files("a"), store.files("none")) == (["a/b", "a/c/d"], [])
    assert (store.read("a/b"), store.read("a/c/d"), store.read("e")) == (large, b"", b"replaced")
    store.remove("e")
    assert not store.exists("e")
    with pytest.raises(FileNotFoundError):
        store.read("e")
    assert Tables(uri).last_partition("bars") is None
