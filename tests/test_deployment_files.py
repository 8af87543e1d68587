"""The deployment's files agree with each other and with the settings. Nothing here needs an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from trading_dagster.settings import known_variables

ROOT = Path(__file__).parents[1]
BY_THE_IMAGE = {"TRADING_DATA_DIR"}


def read(path: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / path).read_text(encoding="utf-8")))


COMPOSE = read("docker-compose.yml")
INSTANCE = read("dagster.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "PIPELINE_IMAGE" in service["image"]]


def test_every_setting_reaches_every_run() -> None:
    passed = set(INSTANCE["run_launcher"]["config"]["env_vars"])
    assert set(known_variables()) - BY_THE_IMAGE <= passed
    # the launcher refuses a name that the daemon does not have
    assert passed <= set(SERVICES["daemon"]["environment"])


@pytest.mark.parametrize("service", ["code", "daemon", "trading", "prepare"])
def test_every_setting_reaches_the_service(service: str) -> None:
    assert set(known_variables()) - BY_THE_IMAGE <= set(SERVICES[service]["environment"])


def test_the_webserver_has_no_secret_but_its_database() -> None:
    environment = SERVICES["webserver"]["environment"]
    assert [name for name in environment if name.startswith(("TRADING_", "ALPACA_", "YAHOO_"))] == []


def test_the_webservers_instance_differs_in_its_launcher_alone() -> None:
    webserver = read("deploy/webserver/dagster.yaml")
    assert webserver.pop("run_launcher")["class"] == "WebserverRunLauncher"
    assert webserver == {name: value for name, value in INSTANCE.items() if name != "run_launcher"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert "mem_limit" in service
    assert "pids_limit" in service
    assert service["restart"] == ("no" if name in ("prepare", "trading") else "unless-stopped")
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", SERVICES)
def test_only_the_daemon_and_the_housekeeper_reach_the_engine(name: str) -> None:
    mounts = [volume for volume in SERVICES[name].get("volumes", []) if "docker.sock" in volume]
    assert bool(mounts) == (name in ("daemon", "housekeeper"))


def test_services_start_by_health() -> None:
    for name, service in SERVICES.items():
        needed = service.get("depends_on", {})
        if name == "grafana":
            continue  # it shows what there is, whenever that comes
        for other, how in needed.items():
            expected = "service_completed_successfully" if other == "prepare" else "service_healthy"
            assert how == {"condition": expected}, (name, other)
            assert other == "prepare" or "healthcheck" in SERVICES[other]


def test_every_variable_of_the_compose_file_is_explained() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    explained = (ROOT / ".env.example").read_text(encoding="utf-8")
    variables = set(re.findall(r"\$\{([A-Z_]+)", text)) - {"COMPOSE_PROJECT_NAME"}
    assert [name for name in sorted(variables) if not re.search(rf"^#?{name}=", explained, re.MULTILINE)] == []


def test_every_image_is_the_same_for_code_and_runs() -> None:
    images = {SERVICES[name]["image"] for name in OURS}
    assert images == {SERVICES["daemon"]["environment"]["DAGSTER_CURRENT_IMAGE"]}


def test_the_image_has_the_projects_version() -> None:
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert SERVICES["code"]["image"].endswith(f"trading-dagster:{version[1]}}}")
