"""Prices that stand still for long, halted, pegged or only quoted: what is left of a volatility, and of a stop."""

from __future__ import annotations

import arch.data.sp500
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skfolio.datasets import load_sp500_dataset

from tests.quant.histories import bars_from_closes, closes_history, no_actions, random_walks, weekdays
from tests.quant.test_volatility import both, calm, months_from
from trading_dagster.quant.average_true_range import average_true_range
from trading_dagster.quant.bar_series import bar_series, standing_still
from trading_dagster.quant.garch import conditional_variance, fit_gjr_garch, mean_variance
from trading_dagster.quant.prices import PriceHistory, price_history
from trading_dagster.quant.volatility import volatility
from trading_dagster.quant.volatility_models import fit_volatility_models

Floats = NDArray[np.float64]
SIGMAS = ["sigma_1d", "sigma_21d"]


def stock_returns() -> dict[str, Floats]:
    closes = load_sp500_dataset().loc["2014":"2019", ["KO", "AAPL"]]
    return {str(symbol): np.log(closes[symbol]).diff().dropna().to_numpy()[-1400:] for symbol in closes}


RETURNS = {
    **stock_returns(),
    "walk": np.random.default_rng(1).normal(0.0, 0.01, 700),
    "fat": 0.01 * np.random.default_rng(2).standard_t(3, 1000),
}


def with_standstill(returns: Floats, at: int, bars: int) -> Floats:
    return np.insert(returns, min(at, len(returns)), np.zeros(bars))


def history_of(returns: Floats) -> PriceHistory:
    other = random_walks(1, len(returns) + 1, seed=3)["S0000"]
    return closes_history({"A": 100.0 * np.exp(np.concatenate([[0.0], np.cumsum(returns)])), "B": other})


@settings(max_examples=40, derandomize=True)
@given(st.sampled_from(sorted(RETURNS)), st.integers(0, 1400), st.integers(1, 900))
def test_deviation_is_that_of_the_bars_that_move(source: str, at: int, bars: int) -> None:
    returns = with_standstill(RETURNS[source], at, bars)
    rows = both(history_of(returns), len(returns) - 4)[1]
    own = rows[rows["symbol"] == "A"]
    window = returns[-2000:]
    usual = window[window != 0.0].std()
    for name in SIGMAS:
        assert own[name].between(usual / 20.0, usual * 20.0).all(), name
    assert (own["sigma_1d"] / own["sigma_ewma"]).between(0.1, 10.0).all()
    assert (own["var_95"] > 0.0).all()
    assert (own["var_99"] >= own["var_95"]).all()
    assert (own["es_975"] > 0.0).all()
    assert (own["stop_distance"] > 0.0).all()


@settings(max_examples=40, derandomize=True)
@given(st.integers(0, 1500), st.integers(1, 900), st.floats(0.0, 0.6))
def test_fit_to_zeros_keeps_a_variance(at: int, bars: int, share: float) -> None:
    returns = np.log(arch.data.sp500.load()["Close"]).diff().to_numpy()[1:1501]
    still = np.random.default_rng(bars).random(1500) < share
    returns = with_standstill(np.where(still, 0.0, returns), at, bars)
    moving = returns[returns != 0.0].std()
    model = fit_gjr_garch(returns)
    variance = conditional_variance(model, returns)
    month = mean_variance(model, variance[-1:], 21)
    assert np.sqrt(variance.min()) > moving / 50.0
    assert moving / 20.0 < np.sqrt(variance[-1]) < 20.0 * moving
    assert moving / 20.0 < np.sqrt(month[0]) < 20.0 * moving


def test_stock_that_hardly_traded_has_a_model() -> None:
    # RRC, 1990 to 1996: closes of up to 68 sessions in a row are one, and a third to two thirds of all returns are 0
    closes = load_sp500_dataset()[["RRC", "KO"]].iloc[:1800]
    sessions = pd.DatetimeIndex(closes.index).as_unit("us")
    history = closes_history({str(symbol): closes[symbol].to_numpy() for symbol in closes}, sessions)
    rows = both(history, 900)[1]
    rows = rows[rows["symbol"] == "RRC"]
    assert set(rows["fitted"]) == {"own", "pooled"}
    deviation = history.log_return["RRC"].rolling(250).std()[rows["session"]].to_numpy()
    assert (rows["sigma_1d"] / deviation).between(0.1, 10.0).all()
    assert (rows["var_99"] > 0.0).all()


def test_forecast_is_carried_through_a_halt() -> None:
    returns = with_standstill(RETURNS["walk"], 10_000, 130)
    rows = both(history_of(returns), len(returns) - 150)[1]
    halted = rows[rows["symbol"] == "A"].set_index("session").iloc[-120:]
    assert halted["sigma_ewma"].nunique() == 1
    assert halted["sigma_1d"].iloc[-1] == pytest.approx(0.01, rel=0.4)
    assert halted["sigma_21d"].iloc[-1] == pytest.approx(0.01, rel=0.4)
    # 2.33 deviations of a normal distribution
    assert halted["var_99"].iloc[-1] == pytest.approx(0.023, rel=0.4)


def test_rows_of_a_halt_are_those_of_the_cut_history() -> None:
    returns = with_standstill(RETURNS["walk"], 560, 90)
    history = history_of(returns)
    models, rows = both(history, 540)
    for at in (562, 563, 566, 567, 640, 655):
        session = history.sessions[[at]]
        cut = history.until(session[0])
        month = session.to_period("M").to_timestamp()
        alone = fit_volatility_models(cut, month, months_from(cut, month[0])[1])
        served = models[models["month"] == month[0]].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, served, check_exact=True)
        found = volatility(cut, session, alone, calm(session, cut.symbols))
        expected = rows[rows["session"] == session[0]].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_price_that_hardly_moves_at_all_is_served_by_the_pool() -> None:
    # a listing that stood still for 560 sessions, and moves since 30
    returns = np.concatenate([np.zeros(560), RETURNS["walk"][:30]])
    rows = both(history_of(returns), len(returns) - 10)[1]
    own = rows[rows["symbol"] == "A"]
    assert set(own["fitted"]) == {"pooled"}
    assert own["sigma_1d"].between(0.002, 0.05).all()
    assert own["sigma_rank"].between(0.0, 1.0, inclusive="right").all()


def test_bars_of_a_standstill_after_the_fifth_are_left_out() -> None:
    returns = np.array([0.01, 0.0, 0.0, -0.02, *[0.0] * 9, 0.03, *[0.0] * 5, 0.01, 0.0])
    series = bar_series(history_of(returns))[0]
    left = sorted(set(range(1, len(returns) + 1)) - set(series.at.tolist()))
    assert left == [10, 11, 12, 13]


def test_session_without_a_bar_does_not_end_a_standstill() -> None:
    unmoved = np.array([True] * 4 + [False] * 2 + [True] * 4)
    found = standing_still(unmoved, np.zeros(10, dtype=bool))
    assert found.nonzero()[0].tolist() == [7, 8, 9]


def test_stop_does_not_close_in_on_a_halted_price() -> None:
    bars = bars_from_closes(random_walks(1, 300, seed=4))
    bars["open"] = bars["close"].shift(1).fillna(bars["close"])
    bars["high"] = bars[["open", "close"]].max(axis=1) * 1.005
    bars["low"] = bars[["open", "close"]].min(axis=1) / 1.005
    halted = bars["session"] >= weekdays(300)[170]
    last = bars.loc[~halted, "close"].iloc[-1]
    bars.loc[halted, ["open", "high", "low", "close"]] = last
    found = average_true_range(price_history(bars, no_actions()))["S0000"]
    assert found.iloc[-1] == found.iloc[174]
    assert found.iloc[-1] == pytest.approx(found.iloc[169] * (13.0 / 14.0) ** 5, rel=1e-9)
