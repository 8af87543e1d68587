"""Tails of residuals against normal and Student-t closed forms, and the integral of empirical quantiles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trading_dagster.quant.tail_risk import loss_fraction, residual_tail


def test_tail_of_normal_residuals() -> None:
    found = residual_tail(np.random.default_rng(1).standard_normal(1_000_000))
    assert found.quantile_95 == pytest.approx(stats.norm.ppf(0.95), abs=0.008)
    assert found.quantile_99 == pytest.approx(stats.norm.ppf(0.99), abs=0.015)
    assert found.shortfall_975 == pytest.approx(stats.norm.pdf(stats.norm.ppf(0.975)) / 0.025, abs=0.015)


def test_tail_is_the_losing_one() -> None:
    found = residual_tail(np.random.default_rng(2).exponential(1.0, 400_000) - 1.0)
    assert found.quantile_99 < 1.0
    mirrored = residual_tail(1.0 - np.random.default_rng(2).exponential(1.0, 400_000))
    assert mirrored.quantile_99 == pytest.approx(-np.log(0.01) - 1.0, abs=0.05)
    assert mirrored.shortfall_975 == pytest.approx(-np.log(0.025) + 1.0 - 1.0, abs=0.05)


@pytest.mark.parametrize("count", [100, 137, 1934])
def test_quantiles_and_shortfall_of_few_residuals(count: int) -> None:
    residuals = np.random.default_rng(count).standard_t(4, count)
    found = residual_tail(residuals)
    np.testing.assert_allclose(
        [found.quantile_95, found.quantile_99], np.quantile(-residuals, [0.95, 0.99], method="weibull"), rtol=1e-12
    )
    # the inverse of the empirical distribution, a step function, integrated over a fine grid of the tail
    grid = 0.975 + 0.025 * (np.arange(400_000) + 0.5) / 400_000
    steps = np.quantile(-residuals, grid, method="inverted_cdf")
    assert found.shortfall_975 == pytest.approx(steps.mean(), rel=1e-4)


def test_where_even_the_tail_gains_a_loss_is_still_possible() -> None:
    found = residual_tail(np.linspace(1.0, 2.0, 200))
    assert 0.0 < found.quantile_95 < found.quantile_99 <= found.shortfall_975
    assert found.quantile_95 == pytest.approx(0.1 * stats.norm.ppf(0.95), rel=0.03)


def test_too_few_residuals_are_refused() -> None:
    with pytest.raises(ValueError, match="99 residuals are too few"):
        residual_tail(np.zeros(99))


def test_loss_is_of_a_log_return() -> None:
    # two halvings of the price lose three quarters, and no number of them loses all
    np.testing.assert_allclose(loss_fraction(2.0, np.array([0.0, np.log(2.0)])), [0.0, 0.75], rtol=1e-12)
    assert loss_fraction(30.0, np.array([0.5]))[0] < 1.0
    # the quantile of the loss of a lognormal price is that of its logarithm
    prices = 50.0 * np.exp(0.3 * np.random.default_rng(3).standard_normal(400_000))
    lost = 1.0 - prices / 50.0
    assert np.mean(lost > loss_fraction(stats.norm.ppf(0.99), np.array([0.3]))[0]) == pytest.approx(0.01, abs=6e-4)


def test_next_loss_is_beyond_the_quantile_as_often_as_it_says() -> None:
    random = np.random.default_rng(12)
    samples = random.standard_normal((20_000, 151))
    beyond = [-row[-1] > residual_tail(row[:-1]).quantile_99 for row in samples]
    # the usual interpolation would be exceeded by 1.65 %; the standard error is 0.07 %
    assert np.mean(beyond) == pytest.approx(0.01, abs=0.003)
