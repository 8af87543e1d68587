"""The values of the Helm chart say what the rest of the project says. No cluster is asked: see docs/deployment.md."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster
import pytest
import yaml

from trading_dagster.settings import SECRET, known_variables

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "deploy" / "kubernetes" / "values.yaml").read_text(encoding="utf-8")
VALUES = yaml.safe_load(TEXT)
INSTANCE = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
(CODE,) = VALUES["dagster-user-deployments"]["deployments"]
RUN = VALUES["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
(MIGRATE,) = VALUES["extraManifests"]
POD = MIGRATE["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def variables() -> Iterator[dict[str, Any]]:
    for part in (CODE, CONTAINER, VALUES["dagsterWebserver"], VALUES["dagsterDaemon"]):
        yield from part["env"]


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def test_variables_are_known_and_none_is_a_secret() -> None:
    names = {each["name"] for each in variables()}
    ours = {name for name in names if not name.startswith(("DAGSTER_", "AWS_")) and name != "HOME"}
    assert ours <= set(known_variables())
    # the address of the tables holds no key here: keys come from the secret
    assert names & SECRET == {"TRADING_TABLES_URI"}
    assert {"name": "trading"} in CODE["envSecrets"]
    assert all("KEY" not in name and "SECRET" not in name for name in names)


def test_the_queue_is_that_of_the_instance() -> None:
    runs, pools = INSTANCE["concurrency"]["runs"], INSTANCE["concurrency"]["pools"]
    assert VALUES["concurrency"] == {
        "enabled": True,
        "runs": {camel(name): value for name, value in runs.items()},
        "pools": {camel(name): value for name, value in pools.items()},
    }


@pytest.mark.parametrize("section", ["run_monitoring", "run_retries"])
def test_watching_is_that_of_the_instance(section: str) -> None:
    # the chart writes a section of its own unless it is switched off, and then there would be two
    assert VALUES["dagsterDaemon"][camel(section)] == {"enabled": False}
    expected, found = dict(INSTANCE[section]), dict(VALUES["additionalInstanceConfig"][section])
    if section == "run_monitoring":
        assert found.pop("start_timeout_seconds") > expected.pop("start_timeout_seconds")
    assert found == expected


def test_ticks_are_kept_as_long_as_in_the_instance() -> None:
    for kind in ("schedule", "sensor"):
        assert VALUES["retention"][kind]["purgeAfterDays"] == INSTANCE["retention"][kind]["purge_after_days"]
    assert VALUES["telemetry"] == INSTANCE["telemetry"] == {"enabled": False}


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert CODE["image"]["tag"] == project["version"]
    assert CONTAINER["image"] == f"{CODE['image']['repository']}:{project['version']}"
    assert f"--version {dagster.__version__} " in TEXT


@pytest.mark.parametrize(
    ("pod", "container"),
    [
        (CODE["podSecurityContext"], CODE["securityContext"]),
        (RUN["podSpecConfig"]["securityContext"], RUN["containerConfig"]["securityContext"]),
        (POD["securityContext"], CONTAINER["securityContext"]),
        *((VALUES[name]["podSecurityContext"], VALUES[name]["securityContext"])
          for name in ("dagsterWebserver", "dagsterDaemon")),
    ],
    ids=["code", "run", "migrate", "webserver", "daemon"],
)  # fmt: skip
def test_every_pod_is_confined(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert (pod["runAsNonRoot"], pod["runAsUser"]) == (True, 1000)
    assert container["readOnlyRootFilesystem"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}


def test_what_a_read_only_pod_writes_has_a_place() -> None:
    for part, volumes in ((CODE, CODE["volumes"]), (CONTAINER, POD["volumes"])):
        places = {mount["mountPath"]: mount["name"] for mount in part["volumeMounts"]}
        assert {"/tmp", "/data"} <= set(places)
        assert set(places.values()) == {volume["name"] for volume in volumes}
    base = VALUES["additionalInstanceConfig"]["local_artifact_storage"]["config"]["base_dir"]
    assert base.startswith("/tmp/")


def test_the_schemas_are_migrated_before_what_runs_is_replaced() -> None:
    assert MIGRATE["metadata"]["annotations"]["helm.sh/hook"] == "post-install,pre-upgrade"
    assert CONTAINER["args"][:2] == ["trading", "migrate"]
    password = VALUES["global"]["postgresqlSecretName"]
    (found,) = (each["valueFrom"]["secretKeyRef"] for each in CONTAINER["env"] if "valueFrom" in each)
    assert found == {"name": password, "key": "postgresql-password"}
