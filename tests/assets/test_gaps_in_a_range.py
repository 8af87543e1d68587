"""A symbol that sits a session out or stops trading within a range: each session as it would be alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Installation, make_installation, write_prices

pytestmark = pytest.mark.e2e  # half a minute of whole runs

SESSIONS = ("2022-12-14", "2022-12-15", "2022-12-16", "2022-12-19", "2022-12-20", "2022-12-21", "2022-12-22")
STAGES = ["bars", "corporate_actions", "regime", "volatility"]


def halved(prices: pd.DataFrame) -> None:
    """The bar of the second session goes into quarantine, a jump without an action."""
    prices.loc["2022-12-15":, "KO"] *= 0.5


def ended(prices: pd.DataFrame) -> None:
    """No bar from the second session on: five sessions later the symbol has stopped trading."""
    prices.loc["2022-12-15":, "KO"] = None


def made(folder: Path, prices: pd.DataFrame) -> Installation:
    files = write_prices(folder / "prices", prices)
    installation = make_installation(
        folder, source="files", files_dir=files, universe=tuple(prices), max_weight=0.5, policy="exclude"
    )
    assert installation.train_stages("2022-12-01", "2022-11-30").failures == {}
    # what is in quarantine or has ended is known from here on, to the range and to each session alone
    assert installation.run(SESSIONS[-1], assets=["bars", "corporate_actions"]).failures == {}
    return installation


@pytest.mark.parametrize("change", [halved, ended])
def test_a_range_equals_its_sessions_alone(
    tmp_path: Path, sample_closes: pd.DataFrame, change: Callable[[pd.DataFrame], None]
) -> None:
    prices = sample_closes.loc[: SESSIONS[-1], ["JNJ", "KO", "XOM"]].iloc[-700:].copy()
    change(prices)
    together = made(tmp_path / "range", prices)
    outcome = together.run(SESSIONS[0], SESSIONS[-1], assets=STAGES)
    assert outcome.failures == {}
    rows = {stage: together.tables.read(stage) for stage in STAGES[2:]}
    missing = rows["volatility"].groupby("session")["symbol"].agg(set)
    assert "KO" not in missing.loc["2022-12-15"]
    for session in (SESSIONS[0], SESSIONS[1], SESSIONS[-1]):
        alone = together.run(session, assets=STAGES[2:])
        assert alone.failures == {}
        assert [alone.metadata(stage, session)["rows_changed"] for stage in STAGES[2:]] == [0, 0]


def test_a_bar_in_quarantine_at_the_months_end_costs_no_model(tmp_path: Path, sample_closes: pd.DataFrame) -> None:
    prices = sample_closes[["JNJ", "KO", "XOM"]].iloc[-700:].copy()
    prices.loc["2022-11-30", "KO"] *= 0.5
    installation = make_installation(
        tmp_path, source="files", files_dir=write_prices(tmp_path / "prices", prices), universe=tuple(prices),
        max_weight=0.5,
    )  # fmt: skip
    assert installation.train_stages("2022-12-01", "2022-11-30").failures == {}
    for table in ("regime_model", "volatility_model"):
        assert "KO" in set(installation.tables.read(table)["symbol"])
    # and the market's regime is that of all three, with the return of the symbol that sits out left at nothing
    assert len(installation.tables.read("quarantine")) == 1
