"""The ledger's database: opening it, times, a reader beside a writer, and what happens when it cannot be used.

What is written into it is tested in `test_ledger_*`; what several processes do at once in `test_ledger_processes`.
"""

import re
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event

from tests.postgres import PASSWORD
from trading_dagster.resources.ledger import LedgerError, LedgerUnavailableError
from trading_dagster.resources.ledger_models import PlanRow
from trading_dagster.resources.sql_ledger import SqlLedger

from .books import MONDAY, connect, dump, open_books, order, url_of

# -- what is stored comes back ------------------------------------------------------------------------------------


def test_times_come_back_in_utc(ledger):
    before = datetime.now(UTC)
    ledger.record_plan("main", MONDAY, 0, [], "run")
    with ledger.transaction() as session:
        decided_at = session.query(PlanRow).one().decided_at
    assert decided_at.utcoffset() == timedelta(0)
    assert before <= decided_at <= datetime.now(UTC)


def test_a_time_of_another_zone_comes_back_as_the_same_instant(ledger):
    close = datetime(2020, 3, 9, 16, 0, tzinfo=ZoneInfo("America/New_York"))
    with ledger.transaction() as session:
        session.add(PlanRow(strategy="main", session=MONDAY, revision=0, run_id="run", decided_at=close))
    with ledger.transaction() as session:
        assert session.query(PlanRow).one().decided_at == datetime(2020, 3, 9, 20, 0, tzinfo=UTC)


def test_a_ledger_survives_its_process(ledger):
    ledger.record_plan("main", MONDAY, 0, [order()], "run")
    again = SqlLedger(url_of(ledger))
    assert again.order("one") == order()
    again.engine.dispose()


def test_nothing_is_touched_before_the_first_use(tmp_path):
    path = tmp_path / "deep" / "down" / "ledger.db"
    ledger = SqlLedger(f"sqlite:///{path}")
    assert not path.parent.exists()
    assert ledger.held_symbols("main") == []
    assert path.is_file()
    ledger.engine.dispose()


# -- beside others ------------------------------------------------------------------------------------------------


def test_a_fresh_ledger_waits_for_another_that_is_about_to_write(tmp_path):
    path = tmp_path / "ledger.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    done = threading.Timer(0.3, other.execute, ["COMMIT"])
    done.start()
    ledger = SqlLedger(f"sqlite:///{path}")
    try:
        assert ledger.held_symbols("main") == []
    finally:
        done.join()
        other.close()


def test_a_reader_in_the_middle_of_a_write_sees_what_was_before(ledger):
    """A transaction that has not ended is not seen by another connection, which does not wait for it either."""
    ledger.record_plan("main", MONDAY, 0, [order()], "run")
    other = connect(ledger)
    cursor = other.cursor()

    def plans() -> list[tuple]:
        cursor.execute("SELECT count(*) FROM execution_plans")
        return cursor.fetchall()

    with ledger.transaction() as session:
        session.add(PlanRow(strategy="x", session=MONDAY, revision=0, run_id="r", decided_at=datetime.now(UTC)))
        session.flush()
        assert plans() == [(1,)]
    assert plans() == [(2,)]
    other.close()


def write_and(ledger: SqlLedger, then: Callable[[], object]) -> None:
    """Begin a transaction, write a plan, and do something before it is committed."""
    with ledger.transaction() as session:
        session.add(PlanRow(strategy="x", session=MONDAY, revision=0, run_id="r", decided_at=datetime.now(UTC)))
        session.flush()
        then()


def test_a_transaction_that_fails_leaves_nothing(ledger):
    before = dump(ledger)
    with pytest.raises(ZeroDivisionError):
        write_and(ledger, lambda: 1 / 0)
    assert dump(ledger) == before


# -- a database that cannot be used -------------------------------------------------------------------------------

UNUSABLE = r"(?s)the ledger .* cannot be used: .*Without it nothing is traded; bring the database back, or restore it"


def a_garbage_file(folder: Path) -> Path:
    path = folder / "ledger.db"
    path.write_bytes(b"no database at all" * 1000)
    return path


def a_directory(folder: Path) -> Path:
    return folder


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("in the way", encoding="utf-8")
    return folder / "file" / "ledger.db"


@pytest.mark.parametrize(
    ("make", "words"),
    [(a_garbage_file, UNUSABLE), (a_directory, UNUSABLE), (below_a_file, "cannot be made: File exists")],
)
def test_a_file_that_is_no_database(tmp_path, make, words):
    ledger = SqlLedger(f"sqlite:///{make(tmp_path)}")
    for call in (lambda: ledger.held_symbols("main"), lambda: open_books(ledger)):
        with pytest.raises(LedgerUnavailableError, match=words):
            call()


def test_a_file_that_may_be_mended_is_used_again(tmp_path):
    path = a_garbage_file(tmp_path)
    ledger = SqlLedger(f"sqlite:///{path}")
    with pytest.raises(LedgerUnavailableError):
        ledger.held_symbols("main")
    path.unlink()
    assert ledger.held_symbols("main") == []
    ledger.engine.dispose()


def test_a_ledger_that_is_damaged_while_it_is_used(sqlite_ledger):
    open_books(sqlite_ledger)
    sqlite_ledger.engine.dispose()
    path = Path(sqlite_ledger.engine.url.database)
    path.write_bytes(path.read_bytes()[:4096] + b"\0" * 200_000)
    with pytest.raises(LedgerUnavailableError, match=UNUSABLE):
        sqlite_ledger.account("main")


def test_a_ledger_that_may_not_be_written(sqlite_ledger):
    open_books(sqlite_ledger)

    @event.listens_for(sqlite_ledger.engine, "connect")
    def protect(connection, _):
        connection.execute("PRAGMA query_only=ON")

    sqlite_ledger.engine.dispose()
    with pytest.raises(LedgerUnavailableError, match="readonly database"):
        sqlite_ledger.count_broker_error("main")


def test_a_writer_that_does_not_end(sqlite_ledger):
    open_books(sqlite_ledger)

    @event.listens_for(sqlite_ledger.engine, "connect")
    def hurry(connection, _):
        connection.execute("PRAGMA busy_timeout=50")

    sqlite_ledger.engine.dispose()
    other = connect(sqlite_ledger)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailableError, match="database is locked"):
        sqlite_ledger.account("main")
    other.execute("ROLLBACK")
    other.close()
    assert sqlite_ledger.account("main").positions == {}


def test_a_ledger_of_a_newer_program_is_not_touched(ledger):
    """Its schema is not known here."""
    open_books(ledger)
    other = connect(ledger)
    other.cursor().execute("UPDATE alembic_version SET version_num = '9999'")
    other.close()
    before = dump(ledger)
    again = SqlLedger(url_of(ledger))
    with pytest.raises(LedgerError, match="9999"):
        again.held_symbols("main")
    assert dump(ledger) == before


def test_a_server_that_is_away_and_comes_back(postgres_server):
    ledger = SqlLedger(postgres_server.url())
    open_books(ledger)
    postgres_server.stop()
    for call in (lambda: ledger.account("main"), lambda: ledger.count_broker_error("main")):
        started = time.monotonic()
        with pytest.raises(LedgerUnavailableError, match=UNUSABLE) as caught:
            call()
        assert time.monotonic() - started < 5
        assert_no_password(caught.value)
    postgres_server.start()
    assert ledger.count_broker_error("main") == 1
    assert ledger.account("main").cash == 1000
    ledger.engine.dispose()


def test_a_server_that_goes_in_the_middle_of_a_transaction(postgres_server):
    ledger = SqlLedger(postgres_server.url())
    open_books(ledger)
    with pytest.raises(LedgerUnavailableError, match=UNUSABLE) as caught:
        write_and(ledger, postgres_server.stop)
    assert_no_password(caught.value)
    postgres_server.start()
    assert dump(ledger)["execution_plans"] == []
    assert ledger.account("main").cash == 1000
    ledger.engine.dispose()


def test_a_server_that_was_never_there(postgres_server):
    postgres_server.stop()
    ledger = SqlLedger(postgres_server.url())
    with pytest.raises(LedgerUnavailableError, match=UNUSABLE) as caught:
        ledger.account("main")
    assert_no_password(caught.value)
    postgres_server.start()
    open_books(ledger)
    assert ledger.account("main").cash == 1000
    ledger.engine.dispose()


@pytest.mark.parametrize("broken", ["password", "database"])
def test_a_server_that_refuses(postgres, broken):
    url = postgres.url("not_there") if broken == "database" else postgres.url().replace(PASSWORD, f"{PASSWORD}x")
    with pytest.raises(LedgerUnavailableError, match=UNUSABLE) as caught:
        SqlLedger(url).account("main")
    assert_no_password(caught.value)


def assert_no_password(error: BaseException | None) -> None:
    """In none of the messages that a traceback would show."""
    while error is not None:
        assert PASSWORD not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


def test_the_password_of_the_url_is_not_shown():
    text = repr(SqlLedger("postgresql://trader:open-sesame@localhost:5432/ledger"))
    assert "open-sesame" not in text
    assert re.fullmatch(r"SqlLedger\(postgresql://trader:.*@localhost:5432/ledger\)", text)
