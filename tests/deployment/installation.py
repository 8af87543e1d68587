"""An installation of the Compose file beside any other on the machine, and how a user speaks to it.

Belongs here: Compose, the engine, GraphQL and SQL as a user has them. What is expected of them is in the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
OTHER = {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES"}
ENDED = ("SUCCESS", "FAILURE", "CANCELED")

LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUN = """query($id: ID!) { runOrError(runId: $id) { ... on Run {
  runId status jobName creationTime startTime endTime tags { key value } } } }"""
EVENTS = """query($id: ID!, $after: String) { logsForRun(runId: $id, afterCursor: $after, limit: 1000) {
  ... on EventConnection { cursor hasMore events { __typename ... on MessageEvent { message timestamp stepKey }
    ... on LogsCapturedEvent { fileKey } } } } }"""
LOGS = "query($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }"
TERMINATE = """mutation($id: String!) { terminateRun(runId: $id) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""


def docker(*words: str, timeout: float = 120) -> str:
    """Output of a command of the engine's client."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout


def eventually(what: str, look: Callable[[], T], seconds: float, every: float = 0.5) -> T:
    """First true answer of `look`."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(every)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Installation:
    """`docker compose` with a name, ports and a folder for backups of its own."""

    def __init__(self, folder: Path, name: str, variables: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.folder = folder
        self.backups = folder / "backups"
        self.ports = {service: free_port() for service in ("WEBSERVER", "PROXY", "PROMETHEUS", "GRAFANA")}
        self.files = ["docker-compose.yml"]
        self.variables = {
            "POSTGRES_PASSWORD": "Secret4Tests",
            "DOCKER_GROUP": str(Path("/var/run/docker.sock").stat().st_gid),
            "BACKUP_FOLDER": str(self.backups),
            **{f"{service}_PORT": str(port) for service, port in self.ports.items()},
            **(variables or {}),
        }
        self.backups.mkdir(parents=True, exist_ok=True)
        self.backups.chmod(0o777)  # whoever runs the tests, the containers write to it as user 1000

    # -- compose and the engine ---------------------------------------------------------------------------------------

    def compose(self, *words: str, timeout: float = 300, stdin: str | None = None) -> str:
        """Output of a Compose command."""
        done = self.try_compose(*words, timeout=timeout, stdin=stdin)
        assert done.returncode == 0, f"docker compose {' '.join(words)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def try_compose(
        self, *words: str, timeout: float = 300, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k not in OTHER and not k.startswith(("TRADING_", "DAGSTER_"))}
        settings = self.folder / "settings.env"
        settings.write_text("".join(f"{name}={value}\n" for name, value in self.variables.items()), encoding="utf-8")
        files = [word for file in self.files for word in ("--file", str(ROOT / file))]
        return subprocess.run(
            ["docker", "compose", "--project-name", self.name, "--project-directory", str(ROOT),
             "--env-file", str(settings), *files, *words],
            env=kept, capture_output=True, text=True, timeout=timeout, check=False, input=stdin,
        )  # fmt: skip

    def up(self, *words: str) -> None:
        """Start services, and wait until they are healthy."""
        self.compose("up", "--detach", "--wait", "--no-build", "--quiet-pull", *words)

    def remove(self) -> None:
        """Remove everything, run containers too, but for the folder of backups."""
        runs = self.run_containers()
        if runs:
            docker("rm", "--force", "--volumes", *runs)
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "20")

    def trading(self, *words: str, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command of `trading`, as the README gives it."""
        given = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        return self.try_compose("run", "--rm", *given, "trading", *words, timeout=timeout)

    def container(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's container."""
        identity = self.compose("ps", "--all", "--quiet", service).strip()
        return inspect(identity)

    def run_containers(self, run_id: str | None = None) -> list[str]:
        """Ids of run containers, newest first."""
        wanted = [f"label=trading/installation={self.name}", *([f"label=dagster/run_id={run_id}"] if run_id else [])]
        filters = [word for each in wanted for word in ("--filter", each)]
        return docker("ps", "--all", "--quiet", "--no-trunc", *filters).split()

    def kill(self, service: str) -> None:
        """Kill a service's process as the kernel would; `docker kill` would count as an operator's stop."""
        kill_process(self.container(service)["State"]["Pid"])

    def healthy(self, service: str) -> bool:
        return bool(self.container(service)["State"].get("Health", {}).get("Status") == "healthy")

    def sql(self, database: str, query: str) -> list[str]:
        """Rows of a query, as text, columns divided by `|`."""
        return self.compose(
            "exec", "-T", "postgres", "psql", "--username=trading", f"--dbname={database}", "--tuples-only",
            "--no-align", "--command", query,
        ).splitlines()  # fmt: skip

    # -- the UI's own interface ---------------------------------------------------------------------------------------

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['WEBSERVER']}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return dict(found["data"])

    def launch(self, job: str, first: str | None = None, last: str | None = None, config: object = None) -> str:
        """Launch a job for a partition or a range, and return the run's id."""
        tags = {}
        if first and last:
            tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        elif first:
            tags = {"dagster/partition": first}
        answer = self.graphql(
            LAUNCH,
            params={
                "selector": {
                    "repositoryLocationName": "trading_dagster", "repositoryName": "__repository__", "jobName": job,
                },
                "runConfigData": config or {},
                "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
            },
        )["launchRun"]  # fmt: skip
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def run(self, run_id: str) -> dict[str, Any]:
        return dict(self.graphql(RUN, id=run_id)["runOrError"])

    def wait(self, run_id: str, until: Sequence[str] = ENDED, seconds: float = 300) -> dict[str, Any]:
        """The run when it has come to one of the states."""
        found: dict[str, Any] = {}

        def look() -> bool:
            try:
                found.update(self.run(run_id))
            except (OSError, AssertionError):
                return False  # its database is away for the moment; that it comes back is what the time is for
            return found["status"] in until

        eventually(f"run {run_id} is {' or '.join(until)}", look, seconds)
        return found

    def wait_for_step(self, run_id: str, step: str, seconds: float = 120) -> None:
        """Until a step of the run has begun."""
        eventually(
            f"step {step} of run {run_id}",
            lambda: any(e["__typename"] == "ExecutionStepStartEvent" and e["stepKey"] == step
                        for e in self.events(run_id)),
            seconds, 0.2,
        )  # fmt: skip

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """Every event of a run."""
        found: list[dict[str, Any]] = []
        after = None
        while True:
            page = self.graphql(EVENTS, id=run_id, after=after)["logsForRun"]
            found += page["events"]
            after = page["cursor"]
            if not page["hasMore"]:
                return found

    def succeed(self, job: str, first: str | None = None, last: str | None = None, seconds: float = 300) -> str:
        """Launch a job, wait, and expect success."""
        run_id = self.launch(job, first, last)
        ended = self.wait(run_id, seconds=seconds)
        assert ended["status"] == "SUCCESS", [
            e["message"] for e in self.events(run_id) if "Failure" in str(e["__typename"])
        ]
        return run_id


def inspect(container: str) -> dict[str, Any]:
    """What the engine says of a container."""
    return dict(json.loads(docker("inspect", container))[0])


def kill_process(process: int) -> None:
    """Kill a process of this machine from a container that sees them all: no need to be root here."""
    assert process > 0
    docker("run", "--rm", "--pid=host", "--user=0", "--network=none", "--entrypoint=sh", "python:3.11-slim-bookworm",
           "-c", f"kill -9 {process}")  # fmt: skip


def require_engine() -> None:
    """Fail, and say what is missing, where the tests cannot run: never skip them."""
    assert shutil.which("docker"), "these tests need a Docker engine with Compose: see docs/deployment.md"
    docker("version")
    docker("compose", "version")
