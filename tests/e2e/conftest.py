"""Whole-system tests: the commands as a user gives them, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import create_engine, inspect, text

from trading_dagster.resources.tables import Tables

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

# who did it and when differs between any two runs; what was done must not
PASSING = {"id", "plan_id", "run_id", "decided_at", "updated_at", "recorded_at", "at", "since", "opened_at"}

# each attempt at an order leaves a line, and each run takes the lease: a run that was killed shows in these
ATTEMPTS = {"order_events", "leases"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


def environment(data: Path, **extra: str) -> dict[str, str]:
    """A user's environment with its own data folder, and nothing of this process's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRADING_", "DAGSTER_"))}
    return {
        **kept,
        "TRADING_DATA_DIR": str(data),
        "DAGSTER_HOME": str(data / "dagster"),
        "COLUMNS": "160",
        **extra,
    }


def command(*words: str, data: Path, timeout: float = 300, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the virtual environment to its end."""
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        env=environment(data, **extra),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def table_contents(data: Path) -> dict[str, pd.DataFrame]:
    """Every row of every table, without the time at which a source answered."""
    tables = Tables(str(data / "tables"))
    contents = {folder.name: tables.read(folder.name) for folder in sorted((data / "tables").iterdir())}
    return contents | {"fetches": contents["fetches"].drop(columns="known_at")}


def ledger_contents(data: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the ledger, without what tells one run from another."""
    engine = create_engine(f"sqlite:///{data / 'ledger.db'}")
    contents = {}
    with engine.connect() as connection:
        for table in set(inspect(engine).get_table_names()) - ATTEMPTS:
            columns = [c["name"] for c in inspect(engine).get_columns(table) if c["name"] not in PASSING]
            if columns:
                query = text(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(columns)}")
                contents[table] = [tuple(row) for row in connection.execute(query)]
    engine.dispose()
    return contents
