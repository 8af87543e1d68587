"""Volatility against explicit weights, scipy's lognormal, numerical integration and Wilder's recursion by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from tests.quant.histories import (
    BAR_COLUMNS,
    actions_around,
    actions_table,
    adjusted_backward,
    closes_history,
    no_actions,
    random_walks,
    synthetic_bars,
    weekdays,
)
from trading_dagster.quant.prices import PriceHistory, price_history
from trading_dagster.quant.volatility import expected_shortfall, value_at_risk, volatility

SIGMAS = [1e-4, 0.005, 0.02, 0.1, 0.5]


def series(rows: pd.DataFrame, symbol: str, column: str) -> pd.Series:
    return rows[rows["symbol"] == symbol].set_index("session")[column]


@pytest.fixture(scope="module")
def actions() -> pd.DataFrame:
    return actions_around(weekdays(400), (150, 300))


@pytest.fixture(scope="module")
def history(actions: pd.DataFrame) -> PriceHistory:
    return price_history(synthetic_bars(400, actions), actions)


@pytest.fixture(scope="module")
def rows(history: PriceHistory) -> pd.DataFrame:
    return volatility(history, history.sessions)


@pytest.mark.parametrize("symbol", ["ALFA", "LATE", "ZULU"])
@pytest.mark.parametrize("at", [152, 160, 301, 399])
def test_sigma_is_the_weighted_sum_of_squared_returns(
    history: PriceHistory, rows: pd.DataFrame, symbol: str, at: int
) -> None:
    values = history.total_return[symbol].iloc[: at + 1].dropna().to_numpy()
    squared = np.log(values[1:] / values[:-1]) ** 2
    weights = np.array([0.94**back for back in range(len(squared))])[::-1]
    expected = np.sqrt(np.sum(weights * squared) / np.sum(weights))
    session = history.sessions[at]
    assert series(rows, symbol, "sigma_1d")[session] == pytest.approx(expected, rel=1e-10)
    assert series(rows, symbol, "sigma_21d")[session] == pytest.approx(expected, rel=1e-10)


def test_sigma_finds_the_deviation_that_made_the_returns() -> None:
    history = closes_history(random_walks(400, 250, seed=5, sigma=0.02))
    sigma = volatility(history, history.sessions[-1:])["sigma_1d"]
    assert np.sqrt(np.mean(sigma**2)) == pytest.approx(0.02, rel=0.03)


def test_rows_begin_at_the_second_bar(history: PriceHistory, rows: pd.DataFrame) -> None:
    first = rows.groupby("symbol")["session"].min()
    assert first["ALFA"] == history.sessions[1]
    assert first["LATE"] == history.sessions[151]


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(("column", "probability"), [("var_95", 0.95), ("var_99", 0.99)])
def test_value_at_risk_is_a_lognormal_quantile(sigma: float, column: str, probability: float) -> None:
    found = value_at_risk(pd.DataFrame({"A": [sigma]}), probability).iloc[0, 0]
    assert found == pytest.approx(1.0 - stats.lognorm(s=sigma).ppf(1.0 - probability), rel=1e-9)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_expected_shortfall_is_the_integral_over_the_tail(sigma: float) -> None:
    found = expected_shortfall(pd.DataFrame({"A": [sigma]}), 0.975).iloc[0, 0]
    # the mean of the loss quantiles beyond 97.5 %
    integral, _ = integrate.quad(lambda p: 1.0 - stats.lognorm(s=sigma).ppf(p), 0.0, 0.025, epsabs=0.0, epsrel=1e-11)
    assert found == pytest.approx(integral / 0.025, rel=1e-7)


def test_shortfall_and_quantiles_against_simulated_losses() -> None:
    history = closes_history(random_walks(1, 300, seed=1, sigma=0.03))
    row = volatility(history, history.sessions[-1:]).iloc[0]
    losses = 1.0 - np.exp(np.random.default_rng(2).normal(0.0, row["sigma_1d"], 400_000))
    assert np.mean(losses > row["var_95"]) == pytest.approx(0.05, abs=0.002)
    assert np.mean(losses > row["var_99"]) == pytest.approx(0.01, abs=0.001)
    worst = np.sort(losses)[-10_000:]
    assert worst.mean() == pytest.approx(row["es_975"], rel=0.01)


# -- ranges -------------------------------------------------------------------------------------------------------


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
def test_average_true_range_is_wilders(
    history: PriceHistory, actions: pd.DataFrame, rows: pd.DataFrame, symbol: str, at: int
) -> None:
    high, low, close = adjusted_bars(history, actions, symbol, at)
    found = series(rows, symbol, "atr")[history.sessions[at]]
    assert found == pytest.approx(wilder(high, low, close, averaged_start=False), rel=1e-10)
    if len(close) > 250:
        assert found == pytest.approx(wilder(high, low, close, averaged_start=True), rel=1e-6)


def test_average_true_range_begins_at_its_14th_bar(history: PriceHistory, rows: pd.DataFrame) -> None:
    for symbol in ("ALFA", "LATE"):
        bars = history.close[symbol].dropna().index
        known = series(rows, symbol, "atr").dropna().index
        assert known[0] == bars[13]


@pytest.mark.parametrize("column", ["atr", "stop_distance"])
def test_a_split_is_no_gap(column: str) -> None:
    sessions = weekdays(60)
    bars = synthetic_bars(60, no_actions())
    whole = bars[bars["symbol"] == "ALFA"]
    halved = whole.copy()
    halved.loc[halved["session"] >= sessions[50], ["open", "high", "low", "close"]] /= 4.0
    split = price_history(halved, actions_table([(sessions[50], "ALFA", "split", 4.0)]))
    plain = series(volatility(price_history(whole, no_actions()), sessions), "ALFA", column)
    found = series(volatility(split, sessions), "ALFA", column)
    # in price as of the session: a quarter of it from the split on
    ratio = np.where(plain.index >= sessions[50], 0.25, 1.0)
    np.testing.assert_allclose(found, plain * ratio, rtol=1e-10)


def test_stop_is_three_ranges_away_where_there_are_ranges(rows: pd.DataFrame) -> None:
    known = rows.dropna(subset=["atr"])
    np.testing.assert_allclose(known["stop_distance"] / known["atr"], 3.0, rtol=1e-12)


def test_stop_is_three_deviations_away_without_ranges() -> None:
    history = closes_history({"A": [100.0, 101.0, 99.0, 102.0]})
    rows = volatility(history, history.sessions)
    assert rows["atr"].isna().all()
    np.testing.assert_allclose(rows["stop_distance"], 3.0 * rows["sigma_1d"] * [101.0, 99.0, 102.0], rtol=1e-12)


def test_no_range_at_the_session_means_no_range_based_answer() -> None:
    bars = synthetic_bars(40, no_actions())
    bars = bars[bars["symbol"] == "ALFA"].reset_index(drop=True)
    bars.loc[30, ["open", "high", "low"]] = np.nan
    history = price_history(bars[BAR_COLUMNS], no_actions())
    row = volatility(history, history.sessions[[30]]).iloc[0]
    assert np.isnan(row["atr"])
    assert row["stop_distance"] == pytest.approx(3.0 * row["sigma_1d"] * bars.loc[30, "close"])


def test_constant_price_has_no_risk() -> None:
    history = closes_history({"A": np.full(30, 7.0)})
    row = volatility(history, history.sessions[-1:]).iloc[0]
    assert row[["sigma_1d", "sigma_21d", "var_95", "var_99", "stop_distance"]].tolist() == [0.0] * 5
    assert row["es_975"] == pytest.approx(0.0, abs=1e-12)
