"""Imports run one way: definitions -> stages -> logic and resources -> policy, calendar, settings.

All imports count: those inside functions and those for type checkers, too, since a cycle of types is a cycle.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "trading_dagster"
ROOT = Path(__file__).parents[1] / PACKAGE
SOURCES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}

BASE = frozenset({"policy", "calendar", "settings", "endpoints", "code_version"})
LOGIC = frozenset({"quant", "execution", "resources"})
STAGES = frozenset({"assets", "checks", "jobs", "operator_jobs", "maintenance_jobs", "schedules", "sensors"})
TOP = frozenset({"definitions", "cli", "operator_cli", "maintenance_cli"})

MAY_IMPORT: dict[str, frozenset[str]] = {
    "policy": frozenset(),
    "calendar": frozenset({"policy"}),
    "settings": frozenset({"policy", "endpoints"}),
    "endpoints": frozenset(),
    "code_version": frozenset(),
    "quant": frozenset({"policy", "quant"}),
    "execution": LOGIC | BASE,
    "resources": LOGIC | BASE,
    "executors": frozenset({"settings"}),
    "celery_worker": frozenset({"settings", "executors"}),
    "jobs": LOGIC | BASE | {"checks", "executors"},  # which checks a job runs, and where
    "checks": LOGIC | BASE | {"checks"},
    "operator_jobs": LOGIC | BASE | {"executors"},
    "maintenance_jobs": LOGIC | BASE | {"executors"},
    "schedules": LOGIC | BASE | {"jobs", "operator_jobs", "maintenance_jobs"},
    "sensors": LOGIC | BASE | {"jobs"},
    "assets": LOGIC | BASE | {"assets", "checks", "executors"},
    "definitions": STAGES | LOGIC | BASE,
    "cli": TOP | STAGES | LOGIC | BASE,
    "operator_cli": TOP | LOGIC | BASE,
    "maintenance_cli": TOP | LOGIC | BASE | {"executors"},
    "__init__": frozenset(),
}
"""What each room of the package may import of the project."""

PURE = ("dagster", "sqlalchemy", "deltalake", "pathlib", "os", "io", "datetime", "time", "requests", "pydantic")
"""What `quant` has no business with: the framework, storage, files, the environment, the clock."""


def room(path: str) -> str:
    """First level of a module below the package, by its file."""
    return Path(path).parts[0].removesuffix(".py")


def imported(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file imports, wherever in it."""
    here = [PACKAGE, *Path(path).with_suffix("").parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = [] if node.level == 0 else here[: len(here) - node.level]
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def forbidden_imports(path: str, source: str) -> list[str]:
    """Imports of the project that the file's room may not have."""
    found = []
    for line, name in imported(path, source):
        parts = name.split(".")
        if parts[0] == PACKAGE:
            target = parts[1] if len(parts) > 1 else "__init__"
            if target not in MAY_IMPORT[room(path)]:
                found.append(f"{path}:{line} imports {name}")
    return found


def impure_imports(path: str, source: str) -> list[str]:
    return [f"{path}:{line} imports {name}" for line, name in imported(path, source) if name.split(".")[0] in PURE]


def environment_reads(path: str, source: str) -> list[str]:
    """Uses of the environment, under any name that the file gave to `os` or its members."""
    modules, members = set(), set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name for alias in node.names if alias.name == "os"}
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            members |= {a.asname or a.name for a in node.names if a.name in ("environ", "environb", "getenv")}
    return [
        f"{path}:{node.lineno}"
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in members)
        or (
            isinstance(node, ast.Attribute)
            and node.attr in ("environ", "environb", "getenv")
            and isinstance(node.value, ast.Name)
            and node.value.id in modules
        )
    ]


@pytest.mark.parametrize("path", SOURCES)
def test_imports_run_one_way(path: str) -> None:
    assert forbidden_imports(path, SOURCES[path]) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if room(path) == "quant"])
def test_quant_is_pure(path: str) -> None:
    assert impure_imports(path, SOURCES[path]) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path not in ("settings.py", "cli.py")])
def test_only_the_settings_read_the_environment(path: str) -> None:
    assert environment_reads(path, SOURCES[path]) == []


def test_the_command_only_sets_what_others_read() -> None:
    # Dagster reads its home from the environment, and its processes how Python treats warnings
    lines = SOURCES["cli.py"].splitlines()
    uses = [lines[int(place.rpartition(":")[2]) - 1] for place in environment_reads("cli.py", SOURCES["cli.py"])]
    assert uses
    for line in uses:
        assert re.search(r'os\.environ\.setdefault\("(DAGSTER_HOME|PYTHONWARNINGS)"', line), line


def test_rooms_are_those_of_the_design() -> None:
    rooms = {room(path) for path in SOURCES}
    assert {"assets", "checks", "resources", "quant", "execution"} <= rooms
    assert {"definitions", "settings", "calendar", "policy", "jobs", "schedules", "sensors", "cli"} <= rooms
    assert rooms <= set(MAY_IMPORT)


# -- the checker itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source"),
    [
        pytest.param("quant/prices.py", "from trading_dagster.settings import Settings", id="quant_settings"),
        pytest.param("quant/prices.py", "import trading_dagster.resources.tables as t", id="plain_import"),
        pytest.param("quant/prices.py", "from ..calendar import SessionCalendar", id="relative"),
        pytest.param("quant/prices.py", "from .. import settings", id="relative_package"),
        pytest.param("resources/tables.py", "from trading_dagster import assets", id="from_the_package"),
        pytest.param(
            "resources/tables.py",
            "def read():\n    from trading_dagster.checks.data_policy import evaluate",
            id="inside_a_function",
        ),
        pytest.param(
            "execution/orders.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from trading_dagster.assets import orders",
            id="for_type_checkers",
        ),
        pytest.param("policy.py", "from trading_dagster.settings import Settings", id="within_the_base"),
        pytest.param("assets/orders.py", "from trading_dagster.definitions import defs", id="upward_to_the_top"),
        pytest.param("checks/decisions.py", "from trading_dagster.assets.orders import orders", id="checks_to_assets"),
        pytest.param("sensors.py", "from trading_dagster.cli import main", id="sensor_to_the_command"),
    ],
)
def test_checker_finds_a_violation(path: str, source: str) -> None:
    assert len(forbidden_imports(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("quant/regime.py", "from trading_dagster.quant.prices import PriceHistory\nfrom .prices import long_rows"),
        ("quant/regime.py", "from trading_dagster.policy import EARLIEST_DATE\nimport numpy"),
        ("assets/orders.py", "from trading_dagster.checks.data_policy import DataPolicyGuard"),
        ("execution/planner.py", "from trading_dagster.resources.ledger import Ledger"),
        ("definitions.py", "from trading_dagster.assets.orders import orders"),
    ],
)
def test_checker_lets_the_right_direction_pass(path: str, source: str) -> None:
    assert forbidden_imports(path, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['X']",
        "import os as system\nsystem.getenv('X')",
        "from os import environ\nenviron.get('X')",
        "from os import getenv as get\nvalue = [get('X')]",
    ],
)
def test_checker_finds_a_read_of_the_environment(source: str) -> None:
    assert environment_reads("quant/prices.py", source) == ["quant/prices.py:2"]


def test_checker_finds_the_clock_in_quant() -> None:
    assert impure_imports("quant/prices.py", "def f():\n    from datetime import datetime") == [
        "quant/prices.py:2 imports datetime.datetime"
    ]
