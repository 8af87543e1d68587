"""Backups of small installations: complete, consistent beside writers, found damaged by one byte, kept in number."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.postgres import PASSWORD
from trading_dagster.resources import backup, backup_tables, sqlite_copy
from trading_dagster.resources.backup import complete_backups, make_backup
from trading_dagster.resources.backup_files import BackupError
from trading_dagster.resources.backup_verify import verify_backup

from .books import MONDAY
from .conftest import Places
from .installations import DAYS, Place, contents, table_contents
from .rows import allocation_rows


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.e2e)])
def place(request: pytest.FixtureRequest, places: Places) -> Place:
    return places.filled("old", request.param)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, filled_model: Place) -> Path:
    """A backup of an installation in files; to be read only."""
    return make_backup(filled_model.installation, tmp_path_factory.mktemp("good"), 1).folder


@pytest.fixture
def copied(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / good.name))


def test_a_backup_holds_everything_and_says_so(place: Place, tmp_path: Path) -> None:
    before = place.content()
    done = make_backup(place.installation, tmp_path / "backups", 3)
    assert [path.name for path in (tmp_path / "backups").iterdir() if path.name != ".lock"] == [done.folder.name]
    assert (done.tables, done.runs) == ({"allocation": 5, "signals": 0}, 2)
    assert done.bytes == sum(path.stat().st_size for path in done.folder.rglob("*") if path.is_file())
    manifest, problems = verify_backup(done.folder)
    assert problems == []
    assert manifest["databases"]["ledger"]["rows"] == {name: len(rows) for name, rows in before["ledger"].items()}
    assert manifest["tables"]["allocation"]["version"] == 4
    assert table_contents(str(done.folder / "tables")) == before["tables"]
    assert contents(done.folder / "logs") == before["logs"]
    assert contents(done.folder / "compute_logs") == before["compute_logs"]
    # what the installation holds, the backup left alone
    assert place.content() == before


def test_the_list_of_files_can_be_checked_without_the_program(good: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=good, capture_output=True, text=True)
    assert done.stdout.split() == ["manifest.json:", "OK"]


def test_no_password_is_in_a_backup(places: Places, tmp_path: Path) -> None:
    made = places.filled("old", "postgresql")
    installation = made.installation
    (made.folder / "home" / "dagster.yaml").unlink()  # the one that the test wrote holds it in full
    done = make_backup(installation, tmp_path / "backups", 1)
    for path in done.folder.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
    assert PASSWORD not in repr(installation) + str(done)


# -- damage -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte_in_any_file_is_found(good: Path, data: st.DataObject) -> None:
    files = sorted(path for path in good.rglob("*") if path.is_file() and path.stat().st_size)
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    at, change = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    path.write_bytes(content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
    try:
        # of the digest's own file, only the digest counts
        if not (path.name == "manifest.sha256" and at >= 64):
            assert damaged(good)
    finally:
        path.write_bytes(content)
    assert not damaged(good)


def damaged(folder: Path) -> bool:
    try:
        return bool(verify_backup(folder)[1])
    except BackupError:
        return True


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "ledger/ledger.db", "tables"])
def test_what_is_missing_is_named(copied: Path, name: str) -> None:
    path = copied / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BackupError, match=name) if "manifest" in name else nullcontext():
        problems = verify_backup(copied)[1]
        assert problems
        assert all(problem.startswith(name) and "missing" in problem for problem in problems)


@pytest.mark.parametrize("length", [0, 1, 200])
def test_a_truncated_manifest_is_no_manifest(copied: Path, length: int) -> None:
    path = copied / "manifest.json"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BackupError, match="not as it was written"):
        verify_backup(copied)


def test_a_stray_file_does_not_belong_there(copied: Path) -> None:
    (copied / "tables" / "allocation" / "_delta_log" / f"{9:020}.json").write_text("{}")
    assert verify_backup(copied)[1] == [f"tables/allocation/_delta_log/{9:020}.json: it is not part of the backup"]


def rewrite(folder: Path, change: Callable[[dict], None]) -> None:
    """Forge a manifest that fits its digest."""
    from trading_dagster.resources.backup_files import sha256

    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "manifest.sha256").write_text(f"{sha256(folder / 'manifest.json')}  manifest.json\n")


@pytest.mark.parametrize("what", ["version", "rows", "checksum"])
def test_a_table_that_is_not_what_the_manifest_says_is_found(copied: Path, what: str) -> None:
    rewrite(copied, lambda manifest: manifest["tables"]["allocation"].update({what: "other"}))
    (problem,) = verify_backup(copied)[1]
    assert problem.startswith(f"table allocation: its {what} is ")


def test_a_ledger_with_other_rows_is_found(copied: Path) -> None:
    rewrite(copied, lambda manifest: manifest["databases"]["ledger"]["rows"].update(orders=7))
    assert verify_backup(copied)[1] == ["ledger: orders has 1 rows, and had 7"]


def test_a_format_of_a_newer_version_is_named(copied: Path) -> None:
    rewrite(copied, lambda manifest: manifest.update(format=2, code_version="9.9+abc"))
    with pytest.raises(BackupError, match=r"format 2, and this version .* knows 1; .* 9\.9\+abc"):
        verify_backup(copied)


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="no folder"):
        verify_backup(tmp_path / "nowhere")
    with pytest.raises(BackupError, match=r"no backup, or one that is not complete: it has no manifest\.json"):
        verify_backup(tmp_path)


# -- beside others ----------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_beside_writers_each_part_is_of_one_moment(place: Place, tmp_path: Path) -> None:
    """Tables and ledger grow while they are copied: what is in a backup was there together, at some time."""
    stop = threading.Event()

    def write() -> None:
        with place.ledger() as ledger:
            for number in range(10_000):
                if stop.is_set():
                    return
                day = MONDAY + timedelta(days=10 + number)
                # two rows in one commit, and two tables of the ledger in one transaction: never one without the other
                place.tables.replace("allocation", allocation_rows([day], 0.1, ("AAA", "BBB")), day, day)
                ledger.record_plan("main", day, 0, [order_of(day)], "run")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        folders = [make_backup(place.installation, tmp_path / "backups", 9).folder for _ in range(3)]
    finally:
        stop.set()
        writer.join()
    for folder in folders:
        manifest, problems = verify_backup(folder)
        assert problems == []
        rows = manifest["databases"]["ledger"]["rows"]
        assert rows["execution_plans"] == rows["orders"]
        allocation = manifest["tables"]["allocation"]
        # 5 rows in version 4 to begin with, and two a version
        assert allocation["rows"] == 5 + 2 * (allocation["version"] - 4)


def order_of(day: date):
    from .books import order

    return order(f"main-{day}", day)


def test_history_goes_as_far_back_as_files_are_there(places: Places, tmp_path: Path) -> None:
    made = places.filled("old")
    table = Path(made.settings.resolved_tables_uri) / "allocation"
    delta = DeltaTable(str(table))
    delta.create_checkpoint()
    made.tables.replace("allocation", allocation_rows(DAYS[:1], 0.7), DAYS[0], DAYS[0])
    DeltaTable(str(table)).vacuum(0, dry_run=False, enforce_retention_duration=False)
    (table / "_delta_log" / f"{0:020}.json").unlink()  # as the log's own clean-up does before a checkpoint
    (table / "part-of-nobody.parquet").write_bytes(b"left by a writer that was killed")
    folder = make_backup(made.installation, tmp_path / "backups", 1).folder
    assert verify_backup(folder)[1] == []
    copy = folder / "tables" / "allocation"
    expected = DeltaTable(str(table)).to_pyarrow_table().sort_by("weight")
    assert DeltaTable(str(copy)).to_pyarrow_table().sort_by("weight").equals(expected)
    assert not (copy / "part-of-nobody.parquet").exists()
    assert (copy / "_delta_log" / "_last_checkpoint").exists()


def test_a_file_that_vanishes_begins_the_table_again(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vacuum without retention beside the backup: the next version is taken instead."""
    made = places.filled("old")
    uri = made.settings.resolved_tables_uri
    plain = backup_tables._files_of
    times = []

    def vacuumed(table: Path, version: int) -> set[str]:
        if not times:
            made.tables.replace("allocation", allocation_rows(DAYS[:3], 0.9), DAYS[0], DAYS[2])
            DeltaTable(f"{uri}/allocation").vacuum(0, dry_run=False, enforce_retention_duration=False)
        times.append(version)
        return plain(table, version)

    monkeypatch.setattr(backup_tables, "_files_of", vacuumed)
    found = backup_tables.snapshot(uri, "allocation", tmp_path / "copy")
    assert times == [4, found.version]
    assert found.rows == 3
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("copy")] == ["copy"]


def test_files_that_keep_vanishing_are_an_error(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = places.filled("old")
    monkeypatch.setattr(backup_tables, "_files_of", lambda table, version: {"part-gone.parquet"})
    with pytest.raises(BackupError, match=r"allocation: the file part-gone\.parquet .* is gone, 3 times in a row"):
        make_backup(made.installation, tmp_path / "backups", 1)
    assert complete_backups(tmp_path / "backups") == []
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [".lock"]


def test_home_in_the_data_folder_is_no_second_copy(places: Places, tmp_path: Path) -> None:
    """Where all is in one folder, with the backups in it, each thing is in a backup once."""
    from trading_dagster.resources.installation import Installation

    made = places.filled("old")
    data = made.settings.data_dir
    shutil.copytree(made.folder / "home", data, dirs_exist_ok=True)
    installation = Installation(str(data / "tables"), data / "ledger.db", None, data, None, data / "logs", "")
    for _ in range(2):
        folder = make_backup(installation, data / "backups", 5).folder
    home = contents(folder / "dagster" / "home")
    assert {Path(path).parts[0] for path in home} == {"history", "schedules"}


# -- the folder of the backups ----------------------------------------------------------------------------------------


def test_the_newest_are_kept_and_nothing_else_is_touched(places: Places, tmp_path: Path) -> None:
    made = places.filled("old")
    folder = tmp_path / "backups"
    for name in ("20200101T000000Z", "20200102T000000Z", "20200103T000000Z"):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text("{}")
    mine = ("20200104T000000Z", "20200101", "notes", "20200101T000000Z-mine", ".partial-mine")
    for name in mine:  # the first is no backup, as it has no manifest
        (folder / name).mkdir()
    (folder / "20200105T000000Z").write_text("a file")
    for name in (".partial-20200105T000000Z", ".removed-20200105T000000Z"):
        (folder / name / "tables").mkdir(parents=True)
    done = make_backup(made.installation, folder, 2)
    assert done.removed == ("20200101T000000Z", "20200102T000000Z")
    left = {path.name for path in folder.iterdir()}
    assert left == {"20200103T000000Z", "20200105T000000Z", done.folder.name, ".lock", *mine}


def test_two_in_one_second_have_two_names(places: Places, tmp_path: Path) -> None:
    made = places.filled("old")
    folders = {make_backup(made.installation, tmp_path / "backups", 5).folder for _ in range(2)}
    assert len(folders) == 2


def test_a_second_process_does_not_write_at_the_same_time(places: Places, tmp_path: Path) -> None:
    made = places.empty("old")
    folder = tmp_path / "backups"
    with backup._alone(folder):
        living = folder / ".partial-20200101T000000Z"
        living.mkdir()
        with pytest.raises(BackupError, match="another process writes a backup"):
            make_backup(made.installation, folder, 1)
        assert living.exists()


KILLED = """
import sys, time
from pathlib import Path
from tests.resources.installations import Place
from trading_dagster.resources import backup
from trading_dagster.settings import Settings

def hang(*_):
    print("copied", flush=True)
    time.sleep(60)

backup._copy_ledger = hang
folder = Path(sys.argv[1])
backup.make_backup(Place(folder, Settings(data_dir=folder / "data")).installation, folder / "backups", 1)
"""


@pytest.mark.e2e
def test_what_is_killed_is_no_backup(places: Places) -> None:
    made = places.filled("old")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(made.folder)], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "copied\n"
    folder = made.folder / "backups"
    (partial,) = folder.glob(".partial-*")
    assert (partial / "tables" / "allocation").exists()
    process.kill()
    process.wait()
    process.stdout.close()
    assert complete_backups(folder) == []
    done = make_backup(made.installation, folder, 1)
    assert complete_backups(folder) == [done.folder.name]
    assert not partial.exists()


def test_a_full_or_forbidden_folder_is_named(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = places.filled("old")
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupError, match=r"cannot be written to .*file.*TRADING_BACKUP_DIR"):
        make_backup(made.installation, tmp_path / "file", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "write_manifest", full)
    with pytest.raises(BackupError, match=r"no backup was made in .*No space left on device"):
        make_backup(made.installation, tmp_path / "backups", 1)
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [".lock"]


def test_without_a_ledger_there_is_no_backup(places: Places, tmp_path: Path) -> None:
    made = places.filled("old")
    installation = made.installation
    (made.settings.data_dir / "ledger.db").unlink()
    with pytest.raises(BackupError, match=r"no ledger in .*ledger\.db: correct TRADING_DATA_DIR"):
        make_backup(installation, tmp_path / "backups", 1)
    (made.settings.data_dir / "ledger.db").write_bytes(b"")
    with pytest.raises(BackupError, match=r"no ledger in"):
        make_backup(installation, tmp_path / "backups", 1)


def test_a_database_that_stays_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    monkeypatch.setattr(sqlite_copy, "PATIENCE", 0.0)
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    with pytest.raises(BackupError, match=r"a\.db: others kept it locked"):
        sqlite_copy.copy_database(tmp_path / "a.db", tmp_path / "b.db")


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(BackupError, match=r"the database .*a\.db cannot be copied"):
        sqlite_copy.copy_database(tmp_path / "a.db", tmp_path / "b.db")
    assert not (tmp_path / "b.db").exists()
    assert sqlite_copy.damage(tmp_path / "a.db")
