"""PostgreSQL for tests: clusters of one's own, and fixtures that give databases in them.

Belongs here: how a server is found, started, stopped and removed, and fixtures that hand out empty databases. Does not
belong here: anything of the project's ledger, whose tables are made by its own migrations.

A worker of pytest-xdist has one cluster, started when a test first asks for a database: about half a second, not worth
the sharing of one among the workers. Nothing is skipped where PostgreSQL is missing; the test fails and says what to
install.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

import pytest

USER = "trader"
PASSWORD = "open-sesame-7391"
"""Plain letters, so that a leak is found by this text in whatever form a URL was written."""

DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian's packages put their programs, outside PATH, a folder a version."""

MEMORY = Path("/dev/shm")
"""Linux's folder in memory: a database is some 300 files, and disks take up to a quarter of a second to make them."""

ROOM = 2**29
"""Bytes that must be free there, several times what a cluster takes; containers often have less."""

START_SECONDS = 60.0

SETTINGS = {
    # what a test stores need not outlive a loss of power
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # small, since it may all be in memory
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # far from UTC, and half an hour off: times that forget their zone on the way come back wrong
    "timezone": "Asia/Kolkata",
    "log_statement": "ddl",
}

GUARD = """
read -r word
kill -INT "$1" 2>/dev/null
if [ -z "$word" ]; then
    while kill -0 "$1" 2>/dev/null; do sleep 1; done
    rm -rf "$2"
fi
"""
"""What stops the server. Without a word the pipe was closed: the tests were killed, and nobody else clears up."""


class PostgresError(RuntimeError):
    """A server that cannot be found or started, with what it said."""


def find_programs() -> Path:
    """Folder of `initdb` and `postgres`: that on PATH, else the newest of Debian's."""
    on_path = shutil.which("initdb")
    versions = [found.parent for found in DEBIAN.glob("*/bin/initdb") if found.parent.parent.name.isdecimal()]
    versions.sort(key=lambda folder: int(folder.parent.name))
    folder = Path(on_path).resolve().parent if on_path else (versions or [None])[-1]
    if folder is None or not (folder / "postgres").exists():
        raise PostgresError(
            "tests need PostgreSQL 15 or later, and no `initdb` with a `postgres` beside it is on PATH or below "
            f"{DEBIAN}: apt-get install postgresql"
        )
    return folder


class PostgresServer:
    """A cluster in a temporary folder, listening on the loopback interface; running between `with` and its end.

    It ends with the process that started it, however that process ends.

    Attributes
    ----------
    port : int
        The same after `stop` and `start`.
    """

    def __init__(self) -> None:
        self._programs = find_programs()
        # not pytest's folder for temporary files, which another user may not enter
        in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
        self._folder = Path(tempfile.mkdtemp(prefix="test-postgres-", dir=MEMORY if in_memory else None))
        self._numbers = count(1)
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._as_owner: dict[str, Any] = {
            "cwd": self._folder,
            "env": {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"},
        }
        self.port = _free_port()

    def __enter__(self) -> Self:
        try:
            self._create()
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._remove()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        assert self._server is None, "the server runs"
        options = [f"--{name}={value}" for name, value in (SETTINGS | {"port": str(self.port)}).items()]
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "cluster", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as_owner,
            )  # fmt: skip
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, "sh", str(self._server.pid), str(self._folder)],
            stdin=subprocess.PIPE, **self._as_owner,
        )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server; connections that are open end, and later ones are refused. A stopped one stays so."""
        if self._server is None or self._guard is None:
            return
        server, guard, self._server, self._guard = self._server, self._guard, None, None
        server.send_signal(signal.SIGINT)
        # before the server's number is given back, since the guard may send a signal to it, too
        guard.communicate(b"stop\n", timeout=START_SECONDS)
        try:
            server.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy URL of a database, with the password in it."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create_database(self, like: str | None = None) -> str:
        """URL of a new database: empty, or a copy of the one at the URL `like`, to which nobody is connected."""
        name = f"test_{next(self._numbers)}"
        template = f" TEMPLATE {like.rpartition('/')[2]}" if like else ""
        self._execute(f"CREATE DATABASE {name}{template}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self._execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    @contextmanager
    def database(self, like: str | None = None) -> Iterator[str]:
        """URL of a new database, which is gone at the end."""
        url = self.create_database(like)
        yield url
        self.drop_database(url)

    @property
    def log(self) -> str:
        """What the server wrote so far."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _create(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD, encoding="utf-8")
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root. Debian's package brings a user for it; everyone has the other
            users = {user.pw_name: user for user in pwd.getpwall()}
            owner = users.get("postgres") or users["nobody"]
            self._as_owner |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            for path in (self._folder, password):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        # sorts as hosted databases do, where `b` comes before `C`: SQLite's order is another
        options = ["--locale-provider=icu", "--icu-locale=en-US", "--encoding=UTF8", "--no-sync", "--no-instructions"]
        access = [f"--username={USER}", f"--pwfile={password}", "--auth=scram-sha-256"]
        made = subprocess.run(
            [self._programs / "initdb", "-D", self._folder / "cluster", *options, *access],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_SECONDS, **self._as_owner,
        )  # fmt: skip
        if made.returncode:
            raise PostgresError(f"{self._programs / 'initdb'} (15 or later is needed) failed:\n{made.stderr.strip()}")

    def _wait(self) -> None:
        import psycopg2  # the other tests do without it

        assert self._server is not None
        patience = time.monotonic() + START_SECONDS
        while True:
            if self._server.poll() is not None:
                raise PostgresError(f"PostgreSQL ended at its start:\n{self.log.strip()}")
            try:
                psycopg2.connect(self.url()).close()
            except psycopg2.OperationalError as error:
                if time.monotonic() > patience:
                    raise PostgresError(f"PostgreSQL does not answer: {error}\n{self.log.strip()}") from error
                time.sleep(0.02)
            else:
                return

    def _execute(self, statement: str) -> None:
        import psycopg2

        with closing(psycopg2.connect(self.url())) as connection:
            connection.autocommit = True  # neither statement about databases may be in a transaction
            with connection.cursor() as cursor:
                cursor.execute(statement)

    def _remove(self) -> None:
        shutil.rmtree(self._folder)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The worker's cluster; to be left running."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """URL of an empty PostgreSQL database, dropped afterwards whoever is still connected."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A cluster of the test's own, which it may stop and start."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database of each kind that the ledger may live in."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{request.getfixturevalue('tmp_path') / 'ledger.db'}"
