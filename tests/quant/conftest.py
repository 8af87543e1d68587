"""Fixtures of the tests of `quant`."""

from __future__ import annotations

import pytest

from tests.quant.histories import no_actions, sample_bars
from trading_dagster.quant.prices import PriceHistory, price_history


@pytest.fixture(scope="session")
def sample_history() -> PriceHistory:
    """Nine years of real closes."""
    return price_history(sample_bars(), no_actions())
