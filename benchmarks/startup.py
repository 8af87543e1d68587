"""Time to import the definitions, beside what no definitions can do without."""

import subprocess
import sys
import time

REPETITIONS = 5


def main() -> None:
    ours = _seconds("import trading_dagster.definitions")
    floor = _seconds("import dagster, pandas")
    print(f"import trading_dagster.definitions  {ours:.2f} s")
    print(f"import dagster, pandas              {floor:.2f} s   ratio {ours / floor:.2f}")


def _seconds(statement: str) -> float:
    """Best of several fresh processes."""
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(time.perf_counter() - began)
    return min(times)
