"""The main job in a data folder of its own, first and second run, beside the import floor."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, output = _run(folder)
        second, _ = _run(folder)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import dagster, pandas, skfolio, xgboost"], check=True)
        floor = time.perf_counter() - began
    print("\n".join(line for line in output.splitlines() if line.lstrip().startswith("done")))
    print(f"60 sessions, nothing stored   {first:.1f} s   ratio to imports alone {first / floor:.1f}")
    print(f"60 sessions, all there        {second:.1f} s   ratio to imports alone {second / floor:.1f}")
    print(f"imports alone                 {floor:.1f} s")


def _run(folder: str) -> tuple[float, str]:
    began = time.perf_counter()
    result = subprocess.run(
        [Path(sys.executable).with_name("trading"), "run", "--from", "2022-10-04", "--to", "2022-12-28"],
        env={**os.environ, "TRADING_DATA_DIR": folder, "DAGSTER_HOME": f"{folder}/dagster"},
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - began, result.stdout
