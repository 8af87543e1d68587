"""What tests of the servers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.alpaca import AlpacaDataServer
from tests.servers.market import Listing
from tests.servers.universe import default_market
from tests.servers.yahoo import YahooServer


@pytest.fixture(scope="session")
def market() -> dict[str, Listing]:
    return default_market()


@pytest.fixture
def yahoo(market: dict[str, Listing]) -> Iterator[YahooServer]:
    with YahooServer(market) as server:
        yield server


@pytest.fixture
def alpaca(market: dict[str, Listing]) -> Iterator[AlpacaDataServer]:
    with AlpacaDataServer(market) as server:
        yield server
