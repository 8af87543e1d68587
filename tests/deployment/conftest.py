"""One installation for all tests here, and one run after another: what one test leaves, the next finds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.installation import Installation, require_engine

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(HERE):
            item.add_marker(pytest.mark.docker)


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A new installation on the sample, all healthy, with the models of two months fitted."""
    require_engine()
    found = Installation(tmp_path_factory.mktemp("installation"), f"trading-test-{os.getpid()}")
    try:
        found.up()
        # what is known before December, and the models of the months in which there are sessions to compute
        found.succeed("fetch", "2022-11-30")
        found.succeed("training", "2022-11-01", "2022-12-01")
        yield found
    finally:
        found.remove()
