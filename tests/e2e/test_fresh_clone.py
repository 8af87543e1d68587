"""A newcomer's first two commands, in a fresh clone of what is committed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "trading_dagster"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def make(clone: Path, target: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRADING_", "DAGSTER_")) and name not in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    }
    return subprocess.run(
        ["make", target], cwd=clone, env=kept, capture_output=True, text=True, timeout=900, check=False
    )


def test_make_run_twice(clone: Path) -> None:
    first = make(clone, "run")
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "Session 2022-12-28" in first.stdout
    assert "60 sessions" in first.stdout
    second = make(clone, "run")
    assert second.returncode == 0
    assert "0 new orders sent, 0 table rows changed; everything was there already" in second.stdout


def test_nothing_is_left_outside_the_ignored_folders(clone: Path) -> None:
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    ).stdout
    assert status == ""
