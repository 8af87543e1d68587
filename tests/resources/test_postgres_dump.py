"""PostgreSQL's programs: databases made, dumped and restored; what is wrong with them said, and no password shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from tests.postgres import PASSWORD, PostgresServer
from trading_dagster.resources.backup_files import BackupError
from trading_dagster.resources.postgres_dump import PostgresDatabase, list_archive


def execute(url: str, statement: str) -> list[tuple]:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def odd(postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    """A database that is not there yet, with a name that needs quoting."""
    name = 'A "b" c;--'
    url = make_url(postgres.url()).set(database=name).render_as_string(hide_password=False)
    yield PostgresDatabase(url)
    execute(postgres.url(), f'DROP DATABASE IF EXISTS "{name.replace(chr(34), chr(34) * 2)}" WITH (FORCE)')


def test_a_database_is_made_once_by_many(odd: PostgresDatabase) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: odd.create(), range(4)))
    assert sum(made) == 1
    assert odd.create() is False
    assert odd.content().rows == {}


def test_a_database_that_another_made_meanwhile_is_found(
    odd: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the refused connection and the look at the list."""
    plain = PostgresDatabase._create_unless_there
    made = []

    def overtaken(self: PostgresDatabase) -> bool:
        made.append(plain(self))
        return plain(self)

    monkeypatch.setattr(PostgresDatabase, "_create_unless_there", overtaken)
    assert odd.create() is False
    assert made == [True]


def test_what_forbids_a_database_is_told(postgres: PostgresServer) -> None:
    wrong = make_url(postgres.url("nowhere")).set(password="wrong")
    with pytest.raises(BackupError, match=r"cannot be reached.*password authentication failed"):
        PostgresDatabase(wrong.render_as_string(hide_password=False)).create()
    execute(postgres.url(), "CREATE ROLE small LOGIN PASSWORD 'small-secret'")
    try:
        small = make_url(postgres.url("nowhere")).set(username="small", password="small-secret")
        with pytest.raises(BackupError, match=r"no database 'nowhere', and does not make one: permission denied"):
            PostgresDatabase(small.render_as_string(hide_password=False)).create()
    finally:
        execute(postgres.url(), "DROP ROLE small")


@pytest.fixture
def filled(postgres_url: str) -> str:
    execute(postgres_url, "CREATE TABLE a (i int PRIMARY KEY, t text); INSERT INTO a VALUES (1, 'ä'), (2, NULL)")
    execute(postgres_url, "CREATE TABLE b (i int REFERENCES a); INSERT INTO b VALUES (1)")
    execute(postgres_url, "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('7')")
    return postgres_url


def test_a_dump_replaces_what_is_there(filled: str, postgres: PostgresServer, tmp_path: Path) -> None:
    dumped = PostgresDatabase(filled).dump(tmp_path / "dump")
    assert (dumped.revision, dumped.rows) == ("7", {"a": 2, "alembic_version": 1, "b": 1})
    assert list_archive(tmp_path / "dump") == ""
    with postgres.database() as url:
        execute(url, "CREATE TABLE a (other text); CREATE TABLE c (i int); CREATE TABLE mine (i int)")
        PostgresDatabase(url).restore(tmp_path / "dump", ["a", "c"])
        assert execute(url, "SELECT * FROM a ORDER BY i") == [(1, "ä"), (2, None)]
        assert PostgresDatabase(url).content().rows == {**dumped.rows, "mine": 0}


def test_a_restore_that_fails_changes_nothing(filled: str, postgres: PostgresServer, tmp_path: Path) -> None:
    PostgresDatabase(filled).dump(tmp_path / "dump")
    with postgres.database() as url:
        # a view of somebody's own stands in the way
        execute(url, "CREATE TABLE b (i int); INSERT INTO b VALUES (9); CREATE VIEW v AS SELECT * FROM b")
        with pytest.raises(
            BackupError, match=r"pg_restore failed on postgresql://.*cannot drop table .*b because"
        ) as e:
            PostgresDatabase(url).restore(tmp_path / "dump")
        assert execute(url, "SELECT * FROM v") == [(9,)]
        assert PASSWORD not in str(e.value)


@pytest.mark.parametrize("length", [0, 100, 1500])
def test_a_truncated_archive_is_found(filled: str, tmp_path: Path, length: int) -> None:
    PostgresDatabase(filled).dump(tmp_path / "dump")
    content = (tmp_path / "dump").read_bytes()
    (tmp_path / "dump").write_bytes(content[:length])
    assert list_archive(tmp_path / "dump")


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_missing_or_old_program_is_named(filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupError, match=r"pg_dump is not on PATH; .*postgresql-client-\d+"):
        PostgresDatabase(filled).dump(tmp_path / "dump")
    program(tmp_path, "pg_dump", "echo 'pg_dump (PostgreSQL) 9.6.1'")
    with pytest.raises(BackupError, match=r"pg_dump is of version 9, and the server of \d+: .*install postg"):
        PostgresDatabase(filled).dump(tmp_path / "dump")
    program(tmp_path, "pg_dump", "echo nonsense")
    with pytest.raises(BackupError, match="does not say which version it is: nonsense"):
        PostgresDatabase(filled).dump(tmp_path / "dump")


def test_the_password_is_in_the_childs_environment_alone(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = 'case "$1" in --version) echo "pg_dump (PostgreSQL) 99.1";; '
    body += f'*) echo "$@" > {tmp_path}/arguments; echo "$PGPASSWORD" > {tmp_path}/password; echo no >&2; exit 1;; esac'
    program(tmp_path, "pg_dump", body)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(BackupError, match=r"pg_dump failed on postgresql://.*: no") as caught:
        PostgresDatabase(filled).dump(tmp_path / "dump")
    assert (tmp_path / "password").read_text().strip() == PASSWORD
    assert PASSWORD not in (tmp_path / "arguments").read_text() + str(caught.value) + repr(PostgresDatabase(filled))
    assert "dbname=test_" in (tmp_path / "arguments").read_text()


def test_waiting_ends(tmp_path: Path) -> None:
    nobody = PostgresDatabase(f"postgresql://me:{PASSWORD}@127.0.0.1:1/db")
    with pytest.raises(BackupError, match=r"//me:\*\*\*@127.0.0.1:1/db cannot be reached.*waited 0.2 s") as e:
        nobody.wait(0.2)
    assert PASSWORD not in str(e.value)
