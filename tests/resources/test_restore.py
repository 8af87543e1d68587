"""Restoring: what comes back is what was there, into empty installations only, and again after an interruption."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from trading_dagster.execution.halts import Cause, HaltState
from trading_dagster.resources import restore
from trading_dagster.resources.backup import make_backup
from trading_dagster.resources.backup_files import BackupError, BackupRefusedError
from trading_dagster.resources.ledger import Owner
from trading_dagster.resources.restore import MARKER, Restored, restore_backup
from trading_dagster.resources.sql_ledger import MIGRATIONS, SqlLedger

from .conftest import Places
from .installations import DAYS, Place, contents
from .rows import allocation_rows
from .test_backup import rewrite

KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.e2e)]  # some seconds each


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, filled_model: Place) -> Path:
    """A backup of a filled installation in files; to be read only."""
    return make_backup(filled_model.installation, tmp_path_factory.mktemp("good"), 1).folder


def restored(folder: Path, place: Place) -> Restored:
    return restore_backup(folder, place.installation, place.instance, "ann")


def backed_up(place: Place) -> Path:
    return make_backup(place.installation, place.folder / "backups", 9).folder


@pytest.mark.parametrize(
    ("kind", "first_start"),
    [
        pytest.param("sqlite", True, id="sqlite"),
        pytest.param("sqlite", False, id="sqlite_nothing_there", marks=pytest.mark.e2e),
        pytest.param("postgresql", True, id="postgresql", marks=pytest.mark.e2e),
        pytest.param("postgresql", False, id="postgresql_nothing_there", marks=pytest.mark.e2e),
    ],
)
def test_what_was_there_is_there_again(places: Places, kind: str, first_start: bool) -> None:
    old = places.filled("old", kind)
    before = old.content()
    folder = backed_up(old)
    new = places.empty("new", kind)
    if first_start:
        with new.instance(), new.ledger() as ledger:
            assert ledger.held_symbols("main") == []
    elif kind == "sqlite":
        (new.settings.data_dir / "ledger.db").unlink()
    else:
        places.drop_ledger(new)
    done = restored(folder, new)
    after = new.content()
    (left,) = (run for run, job in before["runs"] if job == "left")
    (action,) = after["ledger"].pop("operator_actions")
    assert before["ledger"].pop("operator_actions") == []
    assert after == before
    assert action[1:6] == ("main", "restore", "ann", action[4], "ACTIVE")
    assert folder.name in action[4]
    # who waits for a run that nobody carries on would wait for ever
    with new.instance() as instance:
        run = instance.get_run_by_id(left)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.FAILURE
    assert (done.tables, done.runs, done.closed) == ({"allocation": 5, "signals": 0}, 2, 1)
    assert not (Path(new.settings.resolved_tables_uri) / MARKER).exists()
    # and the installation goes on
    new.tables.replace("allocation", allocation_rows(DAYS[4:]), DAYS[4], DAYS[4])
    assert new.tables.version("allocation") == 5
    assert make_backup(new.installation, new.folder / "backups", 1).tables["allocation"] == 6


# -- refused ----------------------------------------------------------------------------------------------------------


def add_rows(place: Place) -> None:
    with place.ledger() as ledger:
        ledger.record_verdicts("bars", [DAYS[0]], True, [], "run")


def add_halt(place: Place) -> None:
    with place.ledger() as ledger:
        ledger.set_halt_state("main", HaltState.HALTED, Cause.OPERATOR, "wait", "ann")


def add_run(place: Place) -> None:
    with place.instance() as instance:
        instance.add_run(dg.DagsterRun(job_name="mine", run_id="mine"))


def add_table(place: Place) -> None:
    place.tables.replace("signals", place.tables.read("signals"), DAYS[0], DAYS[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("add", "named"),
    [
        (add_rows, "1 row in the ledger's policy_verdicts"),
        (add_halt, "1 row in the ledger's halt_states"),
        (add_run, "1 runs in Dagster's storage"),
        (add_table, "the table signals at "),
    ],
)
def test_nothing_is_overwritten(
    places: Places, good: Path, kind: str, add: Callable[[Place], None], named: str
) -> None:
    folder = good if kind == "sqlite" else backed_up(places.filled("old", kind))
    new = places.empty("new", kind)
    add(new)
    installation = new.installation
    before = state(new)
    with pytest.raises(BackupRefusedError, match=rf"empty installation only.*{named}.*Nothing was changed"):
        restore_backup(folder, installation, new.instance, "ann")
    assert state(new) == before


def state(place: Place) -> Any:
    from .books import dump

    with place.ledger() as ledger, place.instance() as instance:
        runs = [run.run_id for run in instance.get_runs()]
        return dump(ledger), runs, contents(place.settings.data_dir / "tables")


@pytest.mark.parametrize(
    "kinds", [("sqlite", "postgresql"), pytest.param(("postgresql", "sqlite"), marks=pytest.mark.e2e)]
)
def test_another_kind_of_database_is_refused(places: Places, good: Path, kinds: tuple[str, str]) -> None:
    folder = good if kinds[0] == "sqlite" else backed_up(places.filled("old", kinds[0]))
    new = places.empty("new", kinds[1])
    match = f"the database of dagster is of the kind {kinds[0]}, and here it is {kinds[1]}"
    with pytest.raises(BackupRefusedError, match=match):
        restored(folder, new)


def test_a_damaged_backup_is_not_restored(places: Places, good: Path) -> None:
    folder = Path(shutil.copytree(good, places.folder / good.name))
    (folder / "ledger" / "ledger.db").write_bytes(b"")
    new = places.empty("new")
    before = state(new)
    with pytest.raises(BackupError, match=r"damaged, and nothing was restored: ledger/ledger\.db: it has 0 bytes"):
        restored(folder, new)
    assert state(new) == before


def test_what_a_newer_program_wrote_is_refused(places: Places, good: Path) -> None:
    folder = Path(shutil.copytree(good, places.folder / good.name))
    new = places.empty("new")
    rewrite(folder, lambda manifest: manifest.update(dagster_version="99.1"))
    with pytest.raises(BackupRefusedError, match=r"Dagster 99\.1, and here is "):
        restored(folder, new)
    with sa.create_engine(f"sqlite:///{folder}/ledger/ledger.db").begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    from trading_dagster.resources.backup_files import describe_files

    files = {name: facts for name, facts in describe_files(folder).items() if not name.startswith("manifest")}
    rewrite(folder, lambda manifest: manifest["databases"]["ledger"].update(revision="9999"))
    rewrite(folder, lambda manifest: manifest.update(dagster_version="1.0", files=files))
    with pytest.raises(BackupRefusedError, match="the schema 9999, which this version of the program does not know"):
        restored(folder, new)


# -- an older schema, a real broker -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_ledger_is_brought_to_the_new_schema(places: Places, kind: str) -> None:
    old = places.empty("old", kind)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with old.ledger() as ledger, ledger.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        connection.exec_driver_sql(
            "INSERT INTO policy_verdicts VALUES ('bars', '2020-01-02', true, '', 'r', '2020-01-02')"
        )
    folder = backed_up(old)
    new = places.empty("new", kind)  # of the newest schema, whose tables the archive does not know
    restored(folder, new)
    with new.ledger() as ledger:
        assert ledger.count_verdicts([DAYS[0].replace(month=1, day=2)]) == (1, 1)
        with ledger.engine.connect() as connection:
            revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
    assert revision != "0001"


@pytest.mark.parametrize(
    ("broker", "before", "expected"),
    [
        ("simulated", HaltState.ACTIVE, (HaltState.ACTIVE, None)),
        ("alpaca", HaltState.ACTIVE, (HaltState.HALTED, Cause.OPERATOR)),
        pytest.param("alpaca", HaltState.REDUCE_ONLY, (HaltState.HALTED, Cause.OPERATOR), marks=pytest.mark.e2e),
        ("alpaca", HaltState.HALTED, (HaltState.HALTED, Cause.DRAWDOWN)),
    ],
)
def test_what_trades_at_a_real_broker_waits_for_a_person(
    places: Places, broker: str, before: HaltState, expected: tuple[HaltState, Cause | None]
) -> None:
    """A halt that was set after the backup is nowhere but in the ledger that was lost."""
    old = places.empty("old")
    with old.ledger() as ledger:
        ledger.open_strategy("main", broker, DAYS[0], Decimal(1), {}, Owner.STRATEGY, [])
        if before is not HaltState.ACTIVE:
            ledger.set_halt_state("main", before, Cause.DRAWDOWN, "16 %", "automatic")
    folder = backed_up(old)
    new = places.empty("new")
    done = restored(folder, new)
    with new.ledger() as ledger:
        halt = ledger.halt_state("main")
        actions = ledger.actions("main")
    assert (halt.state, halt.cause) == expected
    assert done.strategies == {"main": str(halt)}
    assert list(actions["outcome"]) == [halt.state.value]
    if expected[1] is Cause.OPERATOR:
        assert folder.name in halt.detail
        assert "trading resume" in halt.detail
        assert halt.operator == "ann"


# -- interrupted ------------------------------------------------------------------------------------------------------

STEPS = ["mark_as_restored", "_restore_dagster", "_restore_files", "_restore_tables", "_compare_dagster"]


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def interrupt(folder: Path, place: Place, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(restore, step, killed)
        with pytest.raises(Killed):
            restored(folder, place)


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_restore_is_done_by_the_same_command(
    places: Places, kind: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = places.filled("old", kind)
    folder = backed_up(old)
    new = places.empty("new", kind)
    interrupt(folder, new, step, monkeypatch)
    restored(folder, new)
    before, after = old.content(), new.content()
    assert len(after["ledger"].pop("operator_actions")) == 1
    before["ledger"].pop("operator_actions")
    assert after == before


@pytest.mark.e2e
def test_interrupted_between_two_files_of_a_table(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    from trading_dagster.resources.object_store import ObjectStore

    old = places.filled("old")
    folder = backed_up(old)
    total = sum(1 for path in (folder / "tables").rglob("*") if path.is_file())
    plain = ObjectStore.write
    for fatal in range(1, total, 5):
        new = places.empty(f"new_{fatal}")
        written: list[str] = []

        def write(store: ObjectStore, path: str, content: Any, fatal: int = fatal, written: Any = written) -> None:
            written.append(path)
            if len(written) == fatal + 2:  # the first is the marker
                raise Killed
            plain(store, path, content)

        with monkeypatch.context() as patched:
            patched.setattr(ObjectStore, "write", write)
            with pytest.raises(Killed):
                restored(folder, new)
        assert (Path(new.settings.resolved_tables_uri) / MARKER).exists()
        restored(folder, new)
        assert new.content()["tables"] == old.content()["tables"]


@pytest.mark.parametrize(
    ("use", "named"),
    [
        (add_rows, "1 row in the ledger's policy_verdicts"),
        pytest.param(add_run, "runs in Dagster's storage", marks=pytest.mark.e2e),
        pytest.param(
            lambda place: place.tables.replace("allocation", allocation_rows(DAYS[:1], 0.9), DAYS[0], DAYS[0]),
            "allocation",
            marks=pytest.mark.e2e,
        ),
    ],
)
def test_what_was_done_after_an_interruption_is_not_overwritten(
    places: Places, good: Path, use: Callable[[Place], None], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = good
    new = places.empty("new")
    interrupt(folder, new, "_compare_dagster", monkeypatch)
    use(new)
    before = state(new)
    with pytest.raises(BackupRefusedError, match=rf"interrupted, and the installation was used since: .*{named}"):
        restored(folder, new)
    assert state(new) == before


@pytest.mark.e2e
def test_after_an_interruption_another_backup_is_refused(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    old = places.filled("old")
    first, second = backed_up(old), backed_up(old)
    new = places.empty("new")
    interrupt(first, new, "_restore_tables", monkeypatch)
    with pytest.raises(BackupRefusedError, match=rf"another backup, {first.name}, has begun here"):
        restored(second, new)
    # the folder may have another name, and lie elsewhere
    restored(Path(shutil.move(first, places.folder / "moved")), new)


def test_what_did_not_come_back_as_it_was_is_told(places: Places, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = places.empty("new")
    plain = restore.ledger_rows

    def fewer(installation: Any) -> dict[str, int]:
        return {**plain(installation), "orders": 0}

    monkeypatch.setattr(restore, "ledger_rows", fewer)
    with pytest.raises(BackupError, match="not what the backup holds: ledger: orders has 0 rows, and had 1"):
        restored(good, new)


def test_the_configuration_of_the_new_place_stays(places: Places, good: Path) -> None:
    new = places.empty("new")
    with new.instance():
        mine = (new.folder / "home" / "dagster.yaml").read_text()
    restored(good, new)
    assert (new.folder / "home" / "dagster.yaml").read_text() == mine


def test_leftovers_of_a_killed_process_do_not_get_into_the_new_file(places: Places, good: Path) -> None:
    new = places.empty("new")
    for end in ("-journal", "-wal", "-shm"):
        (new.settings.data_dir / f"ledger.db{end}").write_bytes(b"what was left")
    installation = new.installation
    restore.sqlite_copy.put_back(good / "ledger" / "ledger.db", installation.ledger)
    assert not list(new.settings.data_dir.glob("ledger.db-*"))
    ledger = SqlLedger(new.settings.resolved_ledger_url)
    assert ledger.strategy("main") is not None
    ledger.engine.dispose()
