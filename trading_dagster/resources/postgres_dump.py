"""PostgreSQL databases: created, dumped, checked, counted and restored, by PostgreSQL's own programs.

Belongs here: what needs a server. A password reaches a program by its environment alone, since its arguments can be
read by everybody on the machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trading_dagster.resources.backup_files import BackupError

if TYPE_CHECKING:
    import psycopg2

CONNECT_SECONDS = 10
MAINTENANCE = "postgres"
"""Database that is always there, to be in while another is made."""

PASSED_ON = (
    "host", "hostaddr", "port", "user", "dbname", "options", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl",
    "gssencmode", "krbsrvname", "target_session_attrs", "connect_timeout", "keepalives", "keepalives_idle",
)  # fmt: skip
"""Parameters of a connection that a program is given, too: known to every supported version, and no secret."""

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
"""For Debian's wrappers around PostgreSQL's programs."""

ADVICE = {"pg_restore": ". Where it is newer than the server, use the client of the server's own version"}

STARTING = re.compile("starting up|shutting down|recovery mode|too many clients", re.IGNORECASE)


@dataclass(frozen=True)
class Dumped:
    """What a dump holds."""

    revision: str
    rows: dict[str, int]


@dataclass(frozen=True)
class PostgresDatabase:
    """A database of a server.

    Attributes
    ----------
    url : str
        SQLAlchemy URL, which may hold a password.
    """

    url: str = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the database."""
        return str(self._parameters["dbname"])

    @property
    def shown(self) -> str:
        """Where it is, without what may be a secret."""
        from sqlalchemy.engine import make_url

        return make_url(self.url).set(query={}).render_as_string(hide_password=True)

    @property
    def _parameters(self) -> dict[str, Any]:
        """Parameters of the driver."""
        from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
        from sqlalchemy.engine import make_url

        url = make_url(self.url)
        _, parameters = PGDialect_psycopg2().create_connect_args(url)  # type: ignore[no-untyped-call]
        return {"connect_timeout": CONNECT_SECONDS, "dbname": url.username, **parameters}

    @contextmanager
    def connection(self, database: str | None = None) -> Iterator[psycopg2.extensions.connection]:
        """Connect; to another database of the same server where one is named.

        Raises
        ------
        BackupError
            If that is not possible.
        """
        import psycopg2

        try:
            connection = psycopg2.connect(**{**self._parameters, **({"dbname": database} if database else {})})
        except psycopg2.OperationalError as error:
            raise BackupError(f"the database {self.shown} cannot be reached: {_line(str(error))}") from None
        try:
            yield connection
        except psycopg2.Error as error:
            raise BackupError(f"the database {self.shown} does not do what it must: {_line(str(error))}") from None
        finally:
            connection.close()

    def create(self) -> bool:
        """Make the database if the server lacks it, and return whether it did.

        Raises
        ------
        BackupError
            If the server cannot be reached, or does not allow it.
        """
        try:
            with self.connection():
                return False
        except BackupError:
            # drivers do not tell this from other refusals, and servers speak many languages: it is looked up
            made = self._create_unless_there()
        with self.connection():  # another process may have made it meanwhile; if not, it was refused for another reason
            return made

    def _create_unless_there(self) -> bool:
        import psycopg2
        from psycopg2 import errors, sql

        with self.connection(MAINTENANCE) as connection:
            connection.autocommit = True  # databases are not made inside of transactions
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.name])
                if cursor.fetchone():
                    return False
                try:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)))
                except (errors.DuplicateDatabase, errors.UniqueViolation):
                    return False
                except psycopg2.Error as error:
                    raise BackupError(
                        f"the server has no database {self.name!r}, and does not make one: {_line(str(error))}"
                    ) from None
        return True

    def wait(self, seconds: float) -> None:
        """Wait until the server answers; one that answers, and refuses, is not waited for.

        Raises
        ------
        BackupError
            If it does not in time.
        """
        ends = time.monotonic() + seconds
        while True:
            try:
                with self.connection(MAINTENANCE):
                    return
            except BackupError as error:
                if "FATAL" in str(error) and not STARTING.search(str(error)):
                    return  # it answers: what it thinks of the database itself comes out next
                if time.monotonic() >= ends:
                    raise BackupError(f"{error}; waited {seconds:g} s for it") from None
            time.sleep(min(0.5, max(ends - time.monotonic(), 0.01)))

    def dump(self, path: Path) -> Dumped:
        """Write an archive of the database as of one moment.

        Rows are counted in the very snapshot that is dumped, so that they can be compared after a restore.

        Raises
        ------
        BackupError
            If the program is missing or older than the server, or fails.
        """
        with self.connection() as connection:
            program = _program("pg_dump", connection.info.server_version // 10000)
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_export_snapshot()")
                (snapshot,) = cursor.fetchone()
                found = Dumped(_revision(cursor), _count(cursor))
            path.parent.mkdir(parents=True, exist_ok=True)
            options = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}", f"--file={path}"]
            self._run([program, *options], connection)
        return found

    def restore(self, path: Path, own_tables: Sequence[str] = ()) -> None:
        """Replace what the database holds by an archive, as a whole or not at all.

        Parameters
        ----------
        own_tables : sequence of str
            Removed beforehand, where they are there: a newer schema may have tables that the archive does not know,
            and those of it would be in the way of the migration later.
        """
        from psycopg2 import sql

        with self.connection() as connection:
            program = _program("pg_restore", connection.info.server_version // 10000)
            with connection, connection.cursor() as cursor:
                there = set(_tables(cursor)) & set(own_tables)
                if there:
                    names = sql.SQL(", ").join(map(sql.Identifier, sorted(there)))
                    cursor.execute(sql.SQL("DROP TABLE {}").format(names))
            options = ["--clean", "--if-exists", "--single-transaction", "--no-owner", "--no-privileges"]
            self._run([program, *options, str(path)], connection)

    def content(self) -> Dumped:
        """Revision and row counts as they are now."""
        with self.connection() as connection, connection.cursor() as cursor:
            return Dumped(_revision(cursor), _count(cursor))

    def _run(self, command: list[str], connection: psycopg2.extensions.connection) -> None:
        """Run a program on the database that a connection is to, as the same user."""
        from psycopg2.extensions import make_dsn

        used = connection.get_dsn_parameters()  # what the driver took from variables and files is among them
        target = make_dsn(**{name: used[name] for name in PASSED_ON if used.get(name)})
        password = connection.info.password
        # host and port once more: Debian's wrapper, which chooses among installed versions, reads no connection string
        where = [f"--{name}={used[name]}" for name in ("host", "port") if used.get(name)]
        environment = {"LC_ALL": "C", "PATH": SYSTEM_PATH} | ({"PGPASSWORD": password} if password else {})
        done = subprocess.run(  # noqa: S603  # PostgreSQL's own program, and no shell
            [command[0], *where, f"--dbname={target}", "--no-password", *command[1:]],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        if done.returncode:
            name = Path(command[0]).name
            raise BackupError(f"{name} failed on {self.shown}: {_line(done.stderr)}{ADVICE.get(name, '')}")


def list_archive(path: Path) -> str:
    """What is wrong with an archive; empty where it can be read."""
    program = _program("pg_restore", 0)
    done = subprocess.run(  # noqa: S603  # likewise
        [program, "--list", str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else _line(done.stderr)


def _program(name: str, server: int) -> str:
    """Path of a program of PostgreSQL's that is new enough for a server."""
    path = shutil.which(name)
    if path is None:
        raise BackupError(
            f"the program {name} is not on PATH; install PostgreSQL's client"
            + (f", version {server}, as the server is: apt-get install postgresql-client-{server}" if server else "")
        )
    said = subprocess.run(  # noqa: S603  # likewise
        [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    found = re.search(r"\) (\d+)", said.stdout)
    if found is None:
        raise BackupError(f"{path} does not say which version it is: {_line(said.stdout + said.stderr)}")
    if int(found[1]) < server:
        raise BackupError(
            f"{path} is of version {found[1]}, and the server of {server}: a program cannot read a newer server; "
            f"install postgresql-client-{server}"
        )
    return path


def _tables(cursor: Any) -> list[str]:
    cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1")
    return [name for (name,) in cursor.fetchall()]


def _count(cursor: Any) -> dict[str, int]:
    from psycopg2 import sql

    counts = {}
    for name in _tables(cursor):
        cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name)))
        counts[name] = int(cursor.fetchone()[0])
    return counts


def _revision(cursor: Any) -> str:
    if "alembic_version" not in _tables(cursor):
        return ""
    cursor.execute("SELECT version_num FROM alembic_version")
    row = cursor.fetchone()
    return "" if row is None else str(row[0])


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".?")
