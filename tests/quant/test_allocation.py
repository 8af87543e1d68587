"""Allocation against another optimiser, and against the bounds that it promises."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from tests.quant.histories import closes_history
from trading_dagster.quant.allocation import AllocationError, allocation
from trading_dagster.quant.prices import PriceHistory, long_rows

Floats = NDArray[np.float64]
LIMITS = {"max_weight": 0.25, "max_gross": 0.98, "volatility_target": 5.0, "risk_aversion": 3.0}
"""A volatility target that never binds, unless a test says otherwise."""


def risk_rows(history: PriceHistory, sessions: pd.DatetimeIndex) -> pd.DataFrame:
    """Some volatility of each symbol, in the columns that the allocation reads."""
    sigma = np.sqrt((history.log_return**2).ewm(alpha=0.06).mean())
    return long_rows({"sigma_1d": sigma}, sessions)


def correlated_history(symbols: int, seed: int, sessions: int = 560) -> PriceHistory:
    random = np.random.default_rng(seed)
    scale = np.linspace(0.008, 0.025, symbols)
    moves = random.normal(0, 1, (sessions, 1)) * 0.6 * scale + random.normal(0, 1, (sessions, symbols)) * scale
    values = 100.0 * np.exp(moves.cumsum(axis=0))
    return closes_history({f"S{column:02d}": values[:, column] for column in range(symbols)})


def forecast_rows(history: PriceHistory, sessions: pd.DatetimeIndex, seed: int, horizon: int = 5) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            (session, symbol, horizon, random.normal(0.0005, 0.0015))
            for session in sessions
            for symbol in history.symbols[::-1]
        ],
        columns=["session", "symbol", "horizon", "expected_return"],
    )


def allocate(history: PriceHistory, forecast: pd.DataFrame, suitability: float = 1.0, **limits: float) -> pd.DataFrame:
    sessions = pd.DatetimeIndex(forecast["session"].unique())
    return allocation(
        history,
        sessions,
        forecast,
        risk_rows(history, sessions),
        pd.Series(suitability, index=sessions),
        **(LIMITS | limits),
    )


def ledoit_wolf(returns: Floats) -> Floats:
    """Covariance shrunk toward a multiple of the identity; Ledoit and Wolf (2004), lemmas 3.2 to 3.5 as printed."""
    count, symbols = returns.shape
    centred = returns - returns.mean(axis=0)
    sample = sum(np.outer(x, x) for x in centred) / count

    def squared_norm(matrix: Floats) -> float:
        return float(np.trace(matrix @ matrix.T)) / symbols

    mean = float(np.trace(sample)) / symbols
    dispersion = squared_norm(sample - mean * np.eye(symbols))
    error = min(sum(squared_norm(np.outer(x, x) - sample) for x in centred) / count**2, dispersion)
    return error / dispersion * mean * np.eye(symbols) + (dispersion - error) / dispersion * sample


def moments(history: PriceHistory, forecast: pd.DataFrame, session: pd.Timestamp) -> tuple[Floats, Floats]:
    """Expected return a session, and Ledoit-Wolf correlations with the standard deviations of today."""
    rows = forecast[forecast["session"] == session].set_index("symbol").sort_index()
    expected = (rows["expected_return"] / rows["horizon"]).to_numpy()
    closes = history.close.loc[:session].to_numpy()[-501:]
    shrunk = ledoit_wolf(closes[1:] / closes[:-1] - 1.0)
    deviation = np.sqrt(np.diag(shrunk))
    alone = pd.DatetimeIndex([session])
    sigma = risk_rows(history, alone).set_index("symbol")["sigma_1d"].loc[rows.index].to_numpy()
    return expected, shrunk * np.outer(sigma / deviation, sigma / deviation)


def best_by_slsqp(expected: Floats, covariance: Floats, cap: float, risk_aversion: float) -> Floats:
    count = len(expected)
    # SLSQP's line search wants a gradient of the size of one
    unit = 1.0 / np.abs(expected).max()
    found = minimize(
        lambda w: -(expected @ w - risk_aversion * w @ covariance @ w) * unit,
        np.full(count, 1.0 / count),
        jac=lambda w: -(expected - 2.0 * risk_aversion * covariance @ w) * unit,
        bounds=[(0.0, cap)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": lambda w: np.ones(count)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    return np.asarray(found.x)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("symbols", "cap", "risk_aversion"), [(8, 0.3, 3.0), (8, 0.6, 10.0), (14, 0.15, 20.0)])
def test_weights_are_another_optimisers(seed: int, symbols: int, cap: float, risk_aversion: float) -> None:
    history = correlated_history(symbols, seed)
    session = history.sessions[-1]
    forecast = forecast_rows(history, history.sessions[-1:], seed)
    expected, covariance = moments(history, forecast, session)
    best = best_by_slsqp(expected, covariance, cap, risk_aversion)
    rows = allocate(history, forecast, max_weight=cap, risk_aversion=risk_aversion, max_gross=1.0)
    np.testing.assert_allclose(rows["weight"], best, atol=2e-4)
    # more than one weight strictly within its bounds, or the comparison would be one of bounds
    assert np.sum((best > 0.005) & (best < cap - 0.005)) >= 1


def test_expected_return_is_taken_a_session() -> None:
    # the same return over twice the horizon is half as good, and risk matters twice as much
    history = correlated_history(6, 4)
    short = forecast_rows(history, history.sessions[-1:], 4, horizon=5)
    twice = short.assign(horizon=10, expected_return=2.0 * short["expected_return"])
    pd.testing.assert_frame_equal(allocate(history, short), allocate(history, twice), rtol=1e-6)


def test_bounds_hold_and_every_forecast_has_a_row() -> None:
    history = correlated_history(12, 5)
    sessions = history.sessions[-20::5]
    rows = allocate(history, forecast_rows(history, sessions, 5), max_weight=0.15, volatility_target=0.1)
    assert rows["weight"].between(0.0, 0.15 + 1e-12).all()
    assert rows.groupby("session")["weight"].sum().max() <= 0.98 + 1e-12
    assert list(rows[["session", "symbol"]].itertuples(index=False, name=None)) == [
        (session, symbol) for session in sessions for symbol in history.symbols
    ]
    assert rows["method"].unique().tolist() == ["mean_variance"]


@pytest.mark.parametrize("target", [0.05, 0.10])
def test_volatility_target_is_met_where_it_binds(target: float) -> None:
    history = correlated_history(8, 6)
    session = history.sessions[-1]
    forecast = forecast_rows(history, history.sessions[-1:], 6)
    weights = allocate(history, forecast, volatility_target=target)["weight"].to_numpy()
    _, covariance = moments(history, forecast, session)
    # a year of simulated days, by the square root of 252
    draws = np.random.default_rng(7).multivariate_normal(np.zeros(8), covariance, 200_000) @ weights
    assert np.std(draws) * 252**0.5 == pytest.approx(target, rel=0.01)


def test_gross_is_met_where_no_target_binds() -> None:
    history = correlated_history(8, 6)
    rows = allocate(history, forecast_rows(history, history.sessions[-1:], 6), max_gross=0.7)
    assert rows["weight"].sum() == pytest.approx(0.7, rel=1e-9)


@pytest.mark.parametrize("suitability", [0.4, 0.85])
@pytest.mark.parametrize("target", [0.05, 5.0])
def test_suitability_scales_all_weights(suitability: float, target: float) -> None:
    history = correlated_history(8, 7)
    forecast = forecast_rows(history, history.sessions[-1:], 7)
    full = allocate(history, forecast, volatility_target=target)["weight"]
    scaled = allocate(history, forecast, suitability, volatility_target=target)["weight"]
    np.testing.assert_allclose(scaled, suitability * full, rtol=1e-12)


@pytest.mark.parametrize(("symbols", "cap"), [(3, 0.25), (4, 0.25), (2, 0.1)])
def test_few_symbols_get_the_cap_and_the_rest_is_cash(symbols: int, cap: float) -> None:
    history = correlated_history(symbols, 8)
    rows = allocate(history, forecast_rows(history, history.sessions[-1:], 8), max_weight=cap, max_gross=1.0)
    assert rows["weight"].tolist() == pytest.approx([cap] * symbols)


def test_symbol_without_forecast_gets_no_row() -> None:
    history = correlated_history(6, 9)
    forecast = forecast_rows(history, history.sessions[-1:], 9)
    rows = allocate(history, forecast[forecast["symbol"] != "S02"])
    assert rows["symbol"].tolist() == ["S00", "S01", "S03", "S04", "S05"]


def test_each_session_is_optimised_for_itself() -> None:
    history = correlated_history(6, 10)
    sessions = history.sessions[-3:]
    forecast = forecast_rows(history, sessions, 10)
    together = allocate(history, forecast)
    for session in sessions:
        alone = allocate(history, forecast[forecast["session"] == session])
        found = together[together["session"] == session].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, alone, rtol=1e-9)


def still(values: Floats) -> Floats:
    return np.full_like(values, 50.0)


def listed_late(values: Floats) -> Floats:
    return np.where(np.arange(len(values)) < 300, np.nan, values)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param(still, "500 complete sessions and a least volatility of 0;", id="does_not_move"),
        pytest.param(listed_late, "259 complete sessions", id="listed_late"),
    ],
)
def test_symbol_that_has_no_covariance_is_refused(change: object, found: str) -> None:
    whole = correlated_history(5, 11)
    closes = {symbol: whole.close[symbol].to_numpy() for symbol in whole.symbols}
    history = closes_history(closes | {"S03": change(closes["S03"])})
    last = history.sessions[-1:]
    with pytest.raises(AllocationError, match=rf"covariance at {last[0]:%Y-%m-%d} needs 500 returns.*{found}"):
        allocate(history, forecast_rows(history, last, 11))
