"""500 symbols of 25 years from files: first load, daily increment, read as of a session; each in its own process."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from trading_dagster.calendar import session_calendar

SYMBOLS, SESSIONS = 500, 6300

MATERIALISE = """
import json, resource, sys, time
began = time.perf_counter()
import dagster as dg, great_expectations, pandas
from trading_dagster.definitions import defs
imported = time.perf_counter()
with dg.DagsterInstance.get() as instance:
    result = defs.resolve_job_def("daily").execute_in_process(
        instance=instance, partition_key=sys.argv[1],
        asset_selection=[dg.AssetKey("corporate_actions"), dg.AssetKey("bars")],
        run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
    )
steps = [m.metadata["seconds"].value for name in ("corporate_actions", "bars")
         for m in result.asset_materializations_for_node(name)]
print(json.dumps({"imports": imported - began, "seconds": time.perf_counter() - imported, "steps": sum(steps),
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2}))
"""

READ = """
import json, resource, sys, time
from datetime import date
import pandas, deltalake
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import load_settings
tables = Tables(load_settings().resolved_tables_uri)
times = []
for _ in range(5):
    began = time.perf_counter()
    frame = tables.read("bars", as_of=date.fromisoformat(sys.argv[1]), columns=["session", "symbol", "close"])
    times.append(time.perf_counter() - began)
began = time.perf_counter()
deltalake.DeltaTable(tables.uri + "/bars").to_pyarrow_table(columns=["session", "symbol", "close"]).to_pandas()
bare = time.perf_counter() - began
print(json.dumps({"rows": len(frame), "first": times[0], "seconds": sorted(times)[2], "bare": bare,
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2}))
"""


def main() -> None:
    sessions = session_calendar("XNYS").sessions[: SESSIONS + 1]
    with tempfile.TemporaryDirectory() as folder:
        prices = Path(folder) / "prices"
        prices.mkdir()
        rows = _write(prices, sessions)
        first = _run(folder, MATERIALISE, sessions[-2])
        began = time.perf_counter()
        for path in sorted(prices.glob("*.csv")):
            pd.read_csv(path, parse_dates=["date"])
        peer = time.perf_counter() - began
        for path, row in rows.items():
            with path.open("a") as file:
                file.write(row)
        daily = _run(folder, MATERIALISE, sessions[-1])
        again = _run(folder, MATERIALISE, sessions[-1])
        read = _run(folder, READ, sessions[-1])
    print(f"{SYMBOLS} symbols x {SESSIONS} sessions from CSV files, seconds beyond imports ({first['imports']:.1f} s)")
    print(f"pandas.read_csv of all files  {peer:.1f} s")
    for name, run in (("first load", first), ("next session", daily), ("the same again", again)):
        print(
            f"{name:28s}  {run['seconds']:.1f} s, of which the two steps themselves {run['steps']:.1f} s   "
            f"ratio {run['seconds'] / peer:.2f}   peak memory {run['peak']:.2f} GB"
        )
    print(
        f"closes as of the last session {read['seconds']:.2f} s (median of five in one process, the first "
        f"{read['first']:.2f} s) for {read['rows']} rows   ratio to a bare read "
        f"{read['seconds'] / read['bare']:.1f}   peak memory {read['peak']:.2f} GB"
    )


def _write(folder: Path, sessions: pd.DatetimeIndex) -> dict[Path, str]:
    """Write all but the last session of each symbol; return the last ones."""
    random = np.random.default_rng(0)
    market = random.standard_t(4, len(sessions)) * 0.006
    dates = sessions.strftime("%Y-%m-%d")
    last = {}
    for number in range(SYMBOLS):
        close = 50 * np.exp(np.cumsum(market + random.normal(0, 0.01, len(sessions))))
        lift = 1 + np.abs(random.normal(0, 0.004, len(sessions)))
        table = pd.DataFrame({
            "date": dates, "open": close, "high": close * lift, "low": close / lift, "close": close,
            "volume": random.integers(10**5, 10**7, len(sessions)),
            "dividend": np.where(np.arange(len(sessions)) % 63 == number % 63, 0.2, 0.0),
        }).round(4)  # fmt: skip
        path = folder / f"S{number:03d}.csv"
        table.iloc[:-1].to_csv(path, index=False)
        last[path] = table.iloc[-1:].to_csv(index=False, header=False)
    return last


def _run(folder: str, code: str, session: pd.Timestamp) -> dict[str, float]:
    home = Path(folder) / "dagster"
    home.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "TRADING_DATA_DIR": folder,
        "DAGSTER_HOME": str(home),
        "TRADING_SOURCE": "files",
        "TRADING_FILES_DIR": f"{folder}/prices",
        "TRADING_UNIVERSE": ",".join(f"S{number:03d}" for number in range(SYMBOLS)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, f"{session:%Y-%m-%d}"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
