"""Average true range against Wilder's recursion by hand on prices that a vendor adjusts backward."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.quant.histories import (
    BAR_COLUMNS,
    actions_around,
    actions_table,
    adjusted_backward,
    closes_history,
    no_actions,
    synthetic_bars,
    weekdays,
)
from trading_dagster.quant.average_true_range import average_true_range
from trading_dagster.quant.prices import PriceHistory, price_history


@pytest.fixture(scope="module")
def actions() -> pd.DataFrame:
    return actions_around(weekdays(400), (150, 300))


@pytest.fixture(scope="module")
def history(actions: pd.DataFrame) -> PriceHistory:
    return price_history(synthetic_bars(400, actions), actions)


def wilder(high: list[float], low: list[float], close: list[float], *, averaged_start: bool) -> float:
    """Average true range at the last bar, as Wilder's book computes it by hand.

    He begins with the mean of 14 ranges; beginning with the first range instead is forgotten at the same rate.
    """
    ranges = [high[0] - low[0]]
    for bar in range(1, len(close)):
        ranges.append(
            max(high[bar] - low[bar], abs(high[bar] - close[bar - 1]), abs(low[bar] - close[bar - 1])),
        )
    start = 14 if averaged_start else 1
    average = sum(ranges[:start]) / start
    for true_range in ranges[start:]:
        average = (13.0 * average + true_range) / 14.0
    return average


def adjusted_bars(history: PriceHistory, actions: pd.DataFrame, symbol: str, at: int) -> list[list[float]]:
    own, session = actions[actions["symbol"] == symbol], history.sessions[at]
    close = history.close[symbol]
    fields = (history.high[symbol], history.low[symbol], close)
    return [adjusted_backward(close, own, session, field).dropna().tolist() for field in fields]


@pytest.mark.parametrize("symbol", ["ALFA", "BRAVO", "LATE", "ZULU"])
@pytest.mark.parametrize("at", [200, 301, 399])
def test_average_true_range_is_wilders(history: PriceHistory, actions: pd.DataFrame, symbol: str, at: int) -> None:
    high, low, close = adjusted_bars(history, actions, symbol, at)
    found = average_true_range(history)[symbol].iloc[at]
    assert found == pytest.approx(wilder(high, low, close, averaged_start=False), rel=1e-10)
    if len(close) > 250:
        assert found == pytest.approx(wilder(high, low, close, averaged_start=True), rel=1e-6)


def test_average_true_range_begins_at_its_14th_bar(history: PriceHistory) -> None:
    for symbol in ("ALFA", "LATE"):
        bars = history.close[symbol].dropna().index
        known = average_true_range(history)[symbol].dropna().index
        assert known[0] == bars[13]


def test_a_split_is_no_gap() -> None:
    sessions = weekdays(60)
    bars = synthetic_bars(60, no_actions())
    whole = bars[bars["symbol"] == "ALFA"]
    halved = whole.copy()
    halved.loc[halved["session"] >= sessions[50], ["open", "high", "low", "close"]] /= 4.0
    split = price_history(halved, actions_table([(sessions[50], "ALFA", "split", 4.0)]))
    plain = average_true_range(price_history(whole, no_actions()))["ALFA"]
    # in price as of the session: a quarter of it from the split on
    ratio = np.where(plain.index >= sessions[50], 0.25, 1.0)
    np.testing.assert_allclose(average_true_range(split)["ALFA"], plain * ratio, rtol=1e-10)


def test_no_range_at_the_session_means_no_answer() -> None:
    bars = synthetic_bars(40, no_actions())
    bars = bars[bars["symbol"] == "ALFA"].reset_index(drop=True)
    bars.loc[30, ["open", "high", "low"]] = np.nan
    found = average_true_range(price_history(bars[BAR_COLUMNS], no_actions()))["ALFA"]
    assert found.isna().to_numpy().nonzero()[0].tolist() == [*range(13), 30]


def test_closes_have_no_ranges() -> None:
    assert average_true_range(closes_history({"A": np.linspace(50.0, 60.0, 30)})).isna().all().all()
