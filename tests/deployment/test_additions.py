"""What may be put around an installation: a proxy before the socket, one before the UI, monitoring, other executors."""

from __future__ import annotations

import base64
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest

from tests.deployment.installation import Installation, docker, eventually, inspect, require_engine
from tests.deployment.test_deployment import docker_host_addresses

PASSWORD = "correct-horse-7"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with both proxies, whose research jobs take a container a step."""
    require_engine()
    hashed = docker("run", "--rm", "--entrypoint=caddy", "caddy:2", "hash-password", "--plaintext", PASSWORD).strip()
    found = Installation(
        tmp_path_factory.mktemp("guarded"),
        f"trading-guarded-{os.getpid()}",
        {"TRADING_EXECUTOR": "docker", "PROXY_PASSWORD_HASH": f"'{hashed}'", "REDIS_PASSWORD": "Secret5Tests"},
    )
    found.files += ["deploy/socket-proxy.yml", "deploy/step-containers.yml"]
    try:
        found.up()
        found.compose("--profile", "proxy", "up", "--detach", "--no-build", "proxy")
        yield found
    finally:
        found.files[1:] = ["deploy/socket-proxy.yml", "deploy/celery.yml"]
        found.remove()


def get(address: str, user: str = "", password: str = "", data: bytes | None = None, **headers: str) -> HTTPResponse:
    request = urllib.request.Request(address, data, headers)
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    return urllib.request.urlopen(request, timeout=20)


def test_the_proxy_before_the_ui_asks_who_comes(guarded: Installation) -> None:
    address = f"http://127.0.0.1:{guarded.ports['PROXY']}/server_info"
    eventually("the proxy answers", lambda: status(address) == 401, 30)
    assert status(address, "trader", "wrong") == 401
    with get(address, "trader", PASSWORD) as answer:
        assert b"dagster_version" in answer.read()
    # a page elsewhere makes the browser ask, or writes a form; and the name of another host leads here
    asked = address.replace("server_info", "graphql?query=%7Bversion%7D")
    assert status(asked, "trader", PASSWORD) == 403
    question = {"Content-Type": "application/json"}
    assert status(asked, "trader", PASSWORD, data=b'{"query": "{version}"}', **question) == 200
    assert status(asked, "trader", PASSWORD, data=b'{"query": "{version}"}') == 403
    elsewhere = {**question, "Sec-Fetch-Site": "cross-site"}
    assert status(asked, "trader", PASSWORD, data=b'{"query": "{version}"}', **elsewhere) == 403
    assert status(address, "trader", PASSWORD, Host="rebound.example") == 403
    for other in docker_host_addresses():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((other, guarded.ports["PROXY"]), timeout=5)


def status(address: str, user: str = "", password: str = "", data: bytes | None = None, **headers: str) -> int:
    """Status of an answer; 0 where nothing answers yet."""
    try:
        with get(address, user, password, data, **headers) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_the_proxy_before_the_socket_passes_on_what_is_needed_alone(guarded: Installation) -> None:
    for service in ("daemon", "housekeeper"):
        container = guarded.container(service)
        assert not [mount for mount in container["Mounts"] if "docker.sock" in mount["Source"]]
        assert not container["HostConfig"]["GroupAdd"]
    refused = "import docker; docker.from_env().containers.list()[0].exec_run('true')"
    done = guarded.try_compose("exec", "-T", "daemon", "python", "-c", refused)
    assert done.returncode != 0
    assert "403" in done.stderr
    # the webserver is on another network than the proxy
    unreachable = "import socket; socket.create_connection(('docker-proxy', 2375), timeout=5)"
    assert guarded.try_compose("exec", "-T", "webserver", "python", "-c", unreachable).returncode != 0


def test_steps_of_research_have_containers_of_their_own(guarded: Installation) -> None:
    guarded.succeed("fetch", "2022-11-30")
    run_id = guarded.succeed("training", "2022-12-01")
    steps = [e for e in guarded.events(run_id) if e["__typename"] == "StepWorkerStartingEvent"]
    # the forecast learns from what the other two describe
    assert {e["stepKey"] for e in steps[:2]} == {"regime_model", "volatility_model"}
    assert [e["stepKey"] for e in steps[2:]] == ["forecast_model"]
    identities = docker("ps", "--all", "--quiet", "--filter", "name=dagster-step-").split()
    ours = [
        each
        for each in map(inspect, identities)
        if each["Config"]["Labels"].get("trading/installation") == guarded.name
    ]
    assert [each["State"]["ExitCode"] for each in ours] == [0, 0, 0]
    assert all(each["HostConfig"]["ReadonlyRootfs"] is True for each in ours)
    # both runs' and the steps'; the last of them ends a moment after its run
    assert len(guarded.run_containers()) == 5

    def pruned() -> bool:
        guarded.compose(
            "exec", "-T", "housekeeper", "trading", "prune-containers", "--days", "0",
            "--label", f"trading/installation={guarded.name}",
        )  # fmt: skip
        return not guarded.run_containers()

    eventually("no container is left", pruned, 60)


def test_prometheus_scrapes_the_exporter(guarded: Installation) -> None:
    services = ("exporter", "prometheus")
    guarded.compose("--profile", "monitoring", "create", "--no-build", *services)
    # the public image makes this folder its own user's; an image that does not gives it to root
    docker("run", "--rm", "--user=0", "--volume", f"{guarded.name}_prometheus:/prometheus", "--entrypoint=chown",
           "prom/prometheus:v2.42.0", "65534:65534", "/prometheus")  # fmt: skip
    guarded.compose("--profile", "monitoring", "up", "--detach", "--no-build", *services)
    port = guarded.ports["PROMETHEUS"]

    def value() -> str | None:
        query = urllib.parse.quote('trading_source_up{source="ledger"}')
        try:
            with get(f"http://127.0.0.1:{port}/api/v1/query?query={query}") as answer:
                import json

                found = json.load(answer)["data"]["result"]
        except (urllib.error.URLError, ConnectionError):
            return None
        return found[0]["value"][1] if found else None

    assert eventually("a figure of the ledger in Prometheus", value, 120, 2) == "1"


def test_celery_workers_do_the_steps(guarded: Installation) -> None:
    guarded.files[1:] = ["deploy/celery.yml"]
    del guarded.variables["TRADING_EXECUTOR"]  # the file sets it
    guarded.up()
    run_id = guarded.succeed("research_backfill", "2022-12-01", "2022-12-02")
    worker = guarded.compose("logs", "worker")
    assert worker.count("succeeded in") == 10
    ended = [e for e in guarded.events(run_id) if e["__typename"] == "ExecutionStepSuccessEvent"]
    assert len(ended) == 10
