"""Small installations, with a bit of everything that a backup holds, and readers that go around the code under test."""

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from deltalake import DeltaTable

from trading_dagster.resources.installation import Installation, find_installation
from trading_dagster.resources.ledger import OpeningPosition, Owner
from trading_dagster.resources.sql_ledger import SqlLedger
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import Settings

from .books import MONDAY, dump, fill, movement, order
from .rows import allocation_rows

DAYS = [MONDAY + timedelta(days=number) for number in range(5)]
_numbers = itertools.count()

YAML = """\
telemetry: {{enabled: false}}
nux: {{enabled: false}}
compute_logs:
  module: dagster.core.storage.local_compute_log_manager
  class: LocalComputeLogManager
  config: {{base_dir: {logs}}}
"""
STORAGE = "storage: {{postgres: {{postgres_url: '{url}'}}}}\n"


@dataclass(frozen=True)
class Place:
    """An installation in a folder; on PostgreSQL, Dagster's database is at `dagster_url`."""

    folder: Path
    settings: Settings
    dagster_url: str = ""

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        home = self.folder / "home"
        if not (home / "dagster.yaml").exists():
            home.mkdir(parents=True, exist_ok=True)
            text = YAML.format(logs=self.folder / "compute_logs")
            text += STORAGE.format(url=self.dagster_url) if self.dagster_url else ""
            (home / "dagster.yaml").write_text(text)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield instance

    @property
    def installation(self) -> Installation:
        with self.instance() as instance:
            return find_installation(self.settings, instance)

    @property
    def tables(self) -> Tables:
        return Tables(self.settings.resolved_tables_uri)

    @contextmanager
    def ledger(self) -> Iterator[SqlLedger]:
        ledger = SqlLedger(self.settings.resolved_ledger_url)
        yield ledger
        ledger.engine.dispose()

    def fill(self, broker: str = "simulated") -> None:
        """Three versions of a table, a table without rows, books, a finished run with its logs, one under way."""
        for number, day in enumerate(DAYS[:3]):
            self.tables.replace("allocation", allocation_rows([day], 0.1 * (number + 1), ("AAA", "BBB")), day, day)
        self.tables.replace("allocation", allocation_rows(DAYS[:1], 0.5), DAYS[0], DAYS[0])
        self.tables.replace("signals", self.tables.read("signals"), DAYS[0], DAYS[0])
        with self.ledger() as ledger:
            positions = {"AAA": OpeningPosition(Decimal(3), Decimal("10.1"))}
            ledger.open_strategy("main", broker, MONDAY, Decimal("1000.25"), positions, Owner.STRATEGY, [])
            ledger.record_plan("main", MONDAY, 0, [order("main-1")], "run")
            ledger.record_activities("main", [fill("main-1", "1"), movement("dividend", "1.5")])
        with self.instance() as instance:
            assert spoken.execute_in_process(instance=instance).success
            instance.add_run(
                dg.DagsterRun(job_name="left", run_id=f"left-{next(_numbers)}", status=dg.DagsterRunStatus.STARTED)
            )
        logs = self.settings.data_dir / "logs"
        logs.mkdir(parents=True)
        (logs / "policy_violations.log").write_text("a line\n")
        (self.folder / "compute_logs" / "by hand").mkdir(parents=True)
        (self.folder / "compute_logs" / "by hand" / "step.out").write_text("said\n")

    def content(self) -> dict[str, Any]:
        """Everything, by the libraries alone."""
        with self.ledger() as ledger:
            books = dump(ledger)
        with self.instance() as instance:
            runs = sorted((run.run_id, run.job_name) for run in instance.get_runs())
            events = {run: [e.message for e in instance.all_logs(run)] for run, job in runs if job == "spoken"}
        return {
            "ledger": books,
            "runs": runs,
            "events": events,
            "tables": table_contents(self.settings.resolved_tables_uri),
            "compute_logs": contents(self.folder / "compute_logs"),
            "logs": contents(self.settings.data_dir / "logs"),
        }


@dg.op
def speak(context: dg.OpExecutionContext) -> None:
    context.log.info("spoken")


@dg.job(config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}})
def spoken() -> None:
    speak()


def contents(folder: Path) -> dict[str, str]:
    """Digest of each file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def table_contents(uri: str) -> dict[str, list[pd.DataFrame]]:
    """Rows of every version of every table."""
    found = {}
    for folder in sorted(path for path in Path(uri).iterdir() if path.is_dir()):
        newest = DeltaTable(str(folder)).version()
        found[folder.name] = [
            [tuple(map(str, row)) for row in sorted(versioned(folder, version).itertuples(index=False), key=str)]
            for version in range(newest + 1)
        ]
    return found


def versioned(folder: Path, version: int) -> pd.DataFrame:
    return DeltaTable(str(folder), version=version).to_pyarrow_table().to_pandas()


def drop_rows(url: str, statement: str) -> None:
    """Run a statement on a PostgreSQL database."""
    import psycopg2

    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)
