"""A killed run: the next one completes, with the tables and the ledger of an undisturbed run."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.conftest import BIN, ROOT, command, environment, ledger_contents, table_contents

RANGE = ("--from", "2022-11-14", "--to", "2022-12-28")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("undisturbed")
    result = command("trading", "run", *RANGE, data=data)
    assert result.returncode == 0, result.stdout + result.stderr
    return data


def ledger_rows(data: Path, table: str) -> int:
    try:
        with sqlite3.connect(f"file:{data / 'ledger.db'}?mode=ro", uri=True, timeout=5) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def has_table(name: str) -> Callable[[Path], bool]:
    return lambda data: (data / "tables" / name / "_delta_log").is_dir()


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "while training": has_table("bars"),
    "between two models": has_table("volatility_model"),
    "between stages": has_table("phasing"),
    "before orders": has_table("signals"),
    "first session traded": lambda data: ledger_rows(data, "account_snapshots") >= 1,
    "in the middle of the orders": lambda data: ledger_rows(data, "account_snapshots") >= 12,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_then_run_again_equals_undisturbed(tmp_path: Path, undisturbed: Path, moment: str) -> None:
    process = subprocess.Popen(
        [str(BIN / "trading"), "run", *RANGE],
        env=environment(tmp_path),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not MOMENTS[moment](tmp_path):
        assert process.poll() is None, "the run ended before the moment to kill it"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    again = command("trading", "run", *RANGE, data=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "whose process was killed" in again.stdout
    expected = table_contents(undisturbed)
    found = table_contents(tmp_path)
    assert found.keys() == expected.keys()
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(found[name], frame, check_exact=True, obj=name)
    assert ledger_contents(tmp_path) == ledger_contents(undisturbed)


def test_a_second_run_says_that_everything_was_there(undisturbed: Path) -> None:
    before = ledger_contents(undisturbed)
    again = command("trading", "run", *RANGE, data=undisturbed)
    assert again.returncode == 0
    assert "0 new orders sent, 0 table rows changed; everything was there already" in again.stdout
    assert ledger_contents(undisturbed) == before
