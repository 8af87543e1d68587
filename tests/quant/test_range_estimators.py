"""Variance of a session against simulated Brownian paths, closed forms and splits that must not show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.quant.histories import actions_table, no_actions, synthetic_bars, weekdays
from trading_dagster.quant.prices import price_history
from trading_dagster.quant.range_estimators import garman_klass, session_variance


def brownian_sessions(count: int, steps: int, sigma: float) -> list[pd.DataFrame]:
    """Open, high, low and close of sessions of a Brownian motion of log price."""
    moves = np.random.default_rng(3).normal(0.0, sigma / np.sqrt(steps), (count, steps)).cumsum(axis=1)
    paths = np.exp(np.concatenate([np.zeros((count, 1)), moves], axis=1))
    return [pd.DataFrame({"A": v}) for v in (paths[:, 0], paths.max(axis=1), paths.min(axis=1), paths[:, -1])]


def test_garman_klass_finds_the_variance_of_brownian_motion_with_less_noise_than_squares() -> None:
    prices = brownian_sessions(4000, 1500, sigma=0.02)
    found = garman_klass(*prices)["A"]
    # a path seen 1,500 times misses some of its range: Garman and Klass's table has 0.96 for 1,000 and more
    assert found.mean() / 0.02**2 == pytest.approx(0.97, abs=0.025)
    squares = np.log(prices[3]["A"]) ** 2
    # their efficiency of 7.4
    assert squares.var() / found.var() == pytest.approx(7.4, rel=0.15)


def test_session_of_one_price_has_no_variance_and_every_other_has_some() -> None:
    one = pd.DataFrame({"A": [10.0]})
    assert garman_klass(one, one, one, one).iloc[0, 0] == 0.0
    # a session that runs straight from its low to its high
    straight = garman_klass(one, one * 1.1, one, one * 1.1).iloc[0, 0]
    assert straight == pytest.approx((1.5 - 2.0 * np.log(2.0)) * np.log(1.1) ** 2)


def test_overnight_move_counts_and_a_split_does_not() -> None:
    sessions = weekdays(60)
    bars = synthetic_bars(60, no_actions())
    whole = bars[bars["symbol"] == "ALFA"]
    halved = whole.copy()
    halved.loc[halved["session"] >= sessions[30], ["open", "high", "low", "close"]] /= 2.0
    split = price_history(halved, actions_table([(sessions[30], "ALFA", "split", 2.0)]))
    plain, ranged = session_variance(price_history(whole, no_actions()))
    np.testing.assert_allclose(session_variance(split)[0], plain, rtol=1e-9)
    assert ranged["ALFA"].tolist() == [False] + [True] * 59
    unsplit = session_variance(price_history(halved, no_actions()))[0]["ALFA"]
    gap = np.log(whole["open"].iloc[30] / 2.0 / whole["close"].iloc[29]) ** 2
    expected = np.log(whole["open"].iloc[30] / whole["close"].iloc[29]) ** 2
    assert unsplit.iloc[30] - plain["ALFA"].iloc[30] == pytest.approx(gap - expected, rel=1e-9)


def test_where_there_is_no_range_the_squared_return_stands() -> None:
    bars = synthetic_bars(60, no_actions())
    bars = bars[bars["symbol"] == "ALFA"].reset_index(drop=True)
    bars.loc[20, ["open", "high", "low"]] = np.nan
    history = price_history(bars.drop(index=40), no_actions())
    variance, ranged = session_variance(price_history(bars, no_actions()))
    squared = np.log(bars["close"].iloc[20] / bars["close"].iloc[19]) ** 2
    assert variance["ALFA"].iloc[20] == pytest.approx(squared, rel=1e-9)
    assert not ranged["ALFA"].iloc[20]
    assert session_variance(history)[1]["ALFA"].iloc[40]
