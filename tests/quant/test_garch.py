"""GJR-GARCH-t against `arch`: its parameters, likelihood, filter and forecasts; gradient against differences."""

from __future__ import annotations

import arch.data.nasdaq
import arch.data.sp500
import numpy as np
import pytest
from arch import arch_model
from arch.univariate.base import ARCHModelFixedResult, ARCHModelResult
from numpy.typing import NDArray
from scipy.optimize import approx_fprime

from trading_dagster.quant import garch
from trading_dagster.quant.garch import GjrGarch, conditional_variance, fit_gjr_garch, mean_variance

Floats = NDArray[np.float64]
INDICES = {"sp500": arch.data.sp500, "nasdaq": arch.data.nasdaq}


def index_returns(name: str, start: int, count: int) -> Floats:
    """Log returns in percent, the unit that `arch` fits best."""
    return 100.0 * np.log(INDICES[name].load()["Close"]).diff().to_numpy()[1 + start : 1 + start + count]


def arch_fit(returns: Floats) -> ARCHModelResult:
    model = arch_model(returns, mean="Constant", vol="GARCH", p=1, o=1, q=1, dist="t", rescale=False)
    return model.fit(disp="off", options={"ftol": 1e-11, "maxiter": 500})


def arch_fixed(model: GjrGarch, returns: Floats) -> ARCHModelFixedResult:
    values = [model.mu, model.omega, model.alpha, model.gamma, model.beta, model.nu]
    return arch_model(returns, mean="Constant", vol="GARCH", p=1, o=1, q=1, dist="t", rescale=False).fix(values)


@pytest.mark.parametrize(
    ("name", "start", "count"),
    [("sp500", 2000, 1000), ("sp500", 1000, 2000), ("sp500", 0, 500), ("nasdaq", 2000, 1000), ("nasdaq", 3000, 2000)],
)
def test_fit_is_that_of_arch(name: str, start: int, count: int) -> None:
    returns = index_returns(name, start, count)
    ours, theirs = fit_gjr_garch(returns), arch_fit(returns)
    assert ours.log_likelihood >= theirs.loglikelihood - 1e-5
    expected = theirs.params[["mu", "omega", "alpha[1]", "gamma[1]", "beta[1]"]].to_numpy()
    found = [ours.mu, ours.omega, ours.alpha, ours.gamma, ours.beta]
    # the likelihood is flat: what differs by 1e-6 in it may differ by the root of that in a parameter
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert ours.nu == pytest.approx(theirs.params["nu"], rel=2e-3)


def test_likelihood_and_filter_are_those_of_arch_at_the_same_parameters() -> None:
    returns = index_returns("sp500", 500, 1500)
    model = fit_gjr_garch(returns)
    fixed = arch_fixed(model, returns)
    assert model.log_likelihood == pytest.approx(fixed.loglikelihood, abs=1e-6)
    found = np.sqrt(conditional_variance(model, returns))
    # before the first return arch stands on residuals from the fixed mean, we on those from the first ones' own mean
    np.testing.assert_allclose(found[300:-1], fixed.conditional_volatility[300:], rtol=1e-9)


def test_forecasts_are_those_of_arch() -> None:
    returns = index_returns("nasdaq", 0, 1500)
    model = fit_gjr_garch(returns)
    expected = arch_fixed(model, returns).forecast(horizon=21).variance.to_numpy()[-1]
    last = conditional_variance(model, returns)[-1:]
    assert last[0] == pytest.approx(expected[0], rel=1e-9)
    assert mean_variance(model, last, 21)[0] == pytest.approx(expected.mean(), rel=1e-9)
    assert mean_variance(model, last, 1)[0] == pytest.approx(last[0], rel=1e-15)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gradient_is_that_of_differences(seed: int) -> None:
    returns = index_returns("sp500", 0, 400)
    likelihood = garch._Likelihood(returns / returns.std())
    random = np.random.default_rng(seed)
    angles = garch._angles(0.05, 0.04, 0.09, 0.88, likelihood) + random.normal(0.0, 0.1, 6)
    _, gradient = likelihood.with_gradient(angles)
    np.testing.assert_allclose(gradient, approx_fprime(angles, likelihood.negative, 1e-7), rtol=2e-4, atol=2e-3)


def test_parameters_that_made_the_returns_are_found() -> None:
    truth = np.array([0.05, 0.02, 0.03, 0.10, 0.90, 7.0])
    simulator = arch_model(None, mean="Constant", vol="GARCH", p=1, o=1, q=1, dist="t")
    simulator.distribution = type(simulator.distribution)(seed=11)
    returns = simulator.simulate(truth, 20_000)["data"].to_numpy()
    found = fit_gjr_garch(returns)
    assert found.alpha == pytest.approx(0.03, abs=0.015)
    assert found.gamma == pytest.approx(0.10, abs=0.025)
    assert found.beta == pytest.approx(0.90, abs=0.02)
    assert found.nu == pytest.approx(7.0, abs=1.0)
    assert found.omega / (1.0 - found.persistence) == pytest.approx(0.02 / 0.02, rel=0.25)


def test_unit_of_the_returns_does_not_matter() -> None:
    returns = index_returns("nasdaq", 100, 800)
    small, large = fit_gjr_garch(returns / 100.0), fit_gjr_garch(returns * 100.0)
    for name in ("alpha", "gamma", "beta", "nu"):
        assert getattr(small, name) == pytest.approx(getattr(large, name), rel=1e-3, abs=1e-5)
    assert large.mu == pytest.approx(1e4 * small.mu, rel=1e-3)


def test_variance_is_stationary_even_where_that_of_the_returns_is_not() -> None:
    steps = np.random.default_rng(4).standard_normal(1000)
    found = fit_gjr_garch(steps * np.linspace(1.0, 20.0, 1000))
    assert found.persistence < 1.0
    assert np.isfinite(conditional_variance(found, steps)).all()


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (np.ones(99), "99 returns are too few"),
        (np.ones(200), "all returns of a GARCH fit are equal"),
        (np.r_[np.zeros(150), np.nan], "return 150 of a GARCH fit is not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(returns: Floats, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_gjr_garch(returns)
