"""A session is traded, backed up, lost and restored: the restored installation is the one that was lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pandas as pd

from tests.e2e.conftest import command, ledger_contents, table_contents

SESSION = "2022-12-28"


def test_the_sample_comes_back(tmp_path: Path) -> None:
    data, backups = tmp_path / "data", tmp_path / "backups"
    first = command("trading", "run", "--session", SESSION, data=data)
    assert first.returncode == 0, first.stdout + first.stderr
    status = command("trading", "status", data=data).stdout
    tables, ledger, runs = table_contents(data), ledger_contents(data), run_ids(data)
    order = ledger["orders"][0][0]
    explained = command("trading", "explain", str(order), data=data).stdout

    made = command("trading", "backup", data=data, TRADING_BACKUP_DIR=str(backups))
    assert made.returncode == 0, made.stderr
    (folder,) = (path for path in backups.iterdir() if path.name != ".lock")
    assert command("trading", "verify", str(folder), data=data).returncode == 0
    shutil.rmtree(data)

    restored = command("trading", "restore", str(folder), data=data)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert command("trading", "status", data=data).stdout == status
    after = table_contents(data)
    assert after.keys() == tables.keys()
    for name, frame in tables.items():
        pd.testing.assert_frame_equal(after[name], frame)
    assert {**ledger_contents(data), "operator_actions": []} == {**ledger, "operator_actions": []}
    assert run_ids(data) == runs
    assert command("trading", "explain", str(order), data=data).stdout == explained

    again = command("trading", "run", "--session", SESSION, data=data)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 new orders sent, 0 table rows changed" in again.stdout


def run_ids(data: Path) -> list[str]:
    with dg.DagsterInstance.from_config(str(data / "dagster")) as instance:
        return sorted(run.run_id for run in instance.get_runs())
