"""From launch to success in the deployment, and where the time goes: `python -m benchmarks deployment`.

Needs a Docker engine and the image (`make docker-build`), and is therefore not part of `make bench`.
"""

from __future__ import annotations

import os
import tempfile
import time
from datetime import datetime
from pathlib import Path

from tests.deployment.installation import Installation, inspect

SESSIONS = ("2022-12-21", "2022-12-22", "2022-12-23", "2022-12-27", "2022-12-28")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        installation = Installation(Path(folder), f"trading-bench-{os.getpid()}")
        try:
            began = time.perf_counter()
            installation.up()
            print(f"`docker compose up --wait`, image there: {time.perf_counter() - began:.0f} s")
            installation.succeed("fetch", "2022-11-30")
            installation.succeed("training", "2022-12-01")
            print(f"{'':34s}{'queue':>8s}{'container':>11s}{'imports':>9s}{'work':>7s}{'all':>7s}   s, median of runs")
            _show("status (reads the ledger)", [_split(installation, "status") for _ in SESSIONS])
            _show("daily, a new session", [_split(installation, "daily", session) for session in SESSIONS])
            _show("daily, everything there", [_split(installation, "daily", SESSIONS[-1]) for _ in range(3)])
        finally:
            installation.remove()


def _split(installation: Installation, job: str, session: str | None = None) -> list[float]:
    """Seconds until the daemon took the run, until its process ran, until its first step, until success, and in all."""
    run_id = installation.succeed(job, session)
    run = installation.run(run_id)
    [container] = installation.run_containers(run_id)
    created = run["creationTime"]
    events = installation.events(run_id)
    taken = _time(events, "RunStartingEvent")
    running = datetime.fromisoformat(inspect(container)["State"]["StartedAt"]).timestamp()
    started = _time(events, "RunStartEvent")
    ended = _time(events, "RunSuccessEvent")
    return [taken - created, running - taken, started - running, ended - started, ended - created]


def _time(events: list[dict[str, object]], kind: str) -> float:
    [at] = [float(str(event["timestamp"])) / 1000 for event in events if event["__typename"] == kind]
    return at


def _show(name: str, rows: list[list[float]]) -> None:
    middle = [sorted(column)[len(column) // 2] for column in zip(*rows, strict=True)]
    print(f"{name:34s}{middle[0]:8.1f}{middle[1]:11.1f}{middle[2]:9.1f}{middle[3]:7.1f}{middle[4]:7.1f}")
