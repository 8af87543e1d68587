"""Heterogeneous autoregression against pandas' averages and statsmodels' least squares and gamma regression."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray

from trading_dagster.quant.har import (
    LAGS,
    Estimator,
    HarSample,
    fit_log_har,
    fit_qlike_har,
    har_features,
    har_forecast,
    har_sample,
    leading_mean,
)

Floats = NDArray[np.float64]


def moves(count: int, seed: int = 3) -> tuple[Floats, Floats]:
    """Variances with a memory, and returns of that variance."""
    random = np.random.default_rng(seed)
    log_variance = np.zeros(count)
    for at in range(1, count):
        log_variance[at] = 0.95 * log_variance[at - 1] + random.normal(0.0, 0.3)
    variance = np.exp(log_variance)
    return variance, np.sqrt(variance) * random.standard_normal(count)


@pytest.mark.parametrize("estimator", ["range", "close"])
def test_features_are_averages_and_falls(estimator: Estimator) -> None:
    variance, returns = moves(300)
    found = har_features(variance, returns, estimator)
    averages = [pd.Series(variance).rolling(lag).mean() for lag in LAGS[estimator]]
    for row, average in zip(found[1:4], averages, strict=True):
        known = average.notna()
        np.testing.assert_allclose(row[known], np.log(average[known]), rtol=1e-9, atol=1e-12)
    deviation = np.sqrt(averages[-1])
    for row, span in zip(found[4:], (1, 5, 22), strict=True):
        fall = pd.Series(returns).rolling(span).sum() / np.sqrt(span) / deviation
        np.testing.assert_allclose(row, fall.clip(-5.0, 0.0), rtol=1e-7, atol=1e-12)
    assert np.isnan(found[0, : LAGS[estimator][-1] - 1]).all()
    assert np.isfinite(found[0, LAGS[estimator][-1] - 1 :]).all()


def test_outcome_is_the_mean_of_what_follows() -> None:
    np.testing.assert_allclose(leading_mean(np.arange(6.0), 2), [1.5, 2.5, 3.5, 4.5, np.nan, np.nan])


@pytest.mark.parametrize("sessions", [1, 21])
def test_sample_ends_where_outcomes_are_not_known_yet(sessions: int) -> None:
    variance, returns = moves(200)
    features = har_features(variance, returns, "range")
    sample = har_sample(variance, features, sessions)
    assert len(sample.outcome) == 200 - 21 - sessions
    assert sample.outcome[-1] == pytest.approx(variance[-sessions:].mean(), rel=1e-9)
    np.testing.assert_array_equal(sample.features[-1], features[:, -1 - sessions])


def test_log_fit_is_least_squares_with_the_level_corrected() -> None:
    variance, returns = moves(1500)
    sample = har_sample(variance, har_features(variance, returns, "range"), 1)
    expected = sm.OLS(np.log(sample.outcome), sample.features).fit()
    found = fit_log_har(sample)
    np.testing.assert_allclose(found[1:], expected.params[1:], rtol=1e-4, atol=1e-5)
    smearing = np.mean(np.exp(expected.resid))
    assert found[0] - expected.params[0] == pytest.approx(np.log(smearing), rel=1e-3)


def test_qlike_fit_is_gamma_regression_with_log_link() -> None:
    _, returns = moves(1500)
    squares = np.square(returns)
    sample = har_sample(squares, har_features(squares, returns, "close"), 1)
    family = sm.families.Gamma(link=sm.families.links.Log())
    expected = sm.GLM(sample.outcome, sample.features, family=family).fit(tol=1e-12, maxiter=200)
    np.testing.assert_allclose(fit_qlike_har(sample), expected.params, rtol=1e-3, atol=1e-4)


def test_weights_that_made_the_outcomes_are_found() -> None:
    random = np.random.default_rng(8)
    features = np.column_stack([np.ones(20_000), random.normal(0.0, 0.7, (20_000, 6))])
    truth = np.array([0.3, 0.4, 0.3, 0.2, -0.1, -0.2, 0.0])
    outcome = np.exp(features @ truth) * random.chisquare(1.0, 20_000)
    # chi-squared outcomes have the mean 1, so that nothing is to be corrected
    np.testing.assert_allclose(fit_qlike_har(HarSample(features, outcome)), truth, atol=0.05)


def test_feature_that_does_not_vary_is_no_error() -> None:
    variance, returns = moves(400)
    features = har_features(variance, np.abs(returns), "range")
    assert np.all(features[4:, 30:] == 0.0)
    for fit in (fit_log_har, fit_qlike_har):
        weights = fit(har_sample(variance, features, 1))
        np.testing.assert_allclose(weights[4:], 0.0, atol=1e-12)
        assert np.isfinite(har_forecast(weights, features)[30:]).all()


def test_forecast_has_the_same_bits_whatever_follows() -> None:
    variance, returns = moves(700)
    features = har_features(variance, returns, "range")
    weights = np.random.default_rng(1).normal(0.0, 0.3, 7)
    whole = har_forecast(weights, features)
    for end in (23, 64, 301, 699):
        cut = har_forecast(weights, har_features(variance[:end].copy(), returns[:end].copy(), "range"))
        np.testing.assert_array_equal(cut, whole[:end])


def test_crash_counts_up_to_a_bound() -> None:
    variance, returns = moves(400)
    returns[200], variance[200] = -70.0, 4900.0
    features = har_features(variance, returns, "close")
    assert np.nanmin(features[4:]) == -5.0
    sample = har_sample(variance, features, 1)
    before = np.exp(features[3, 199])
    assert sample.outcome[199 - 65] == pytest.approx(50.0 * before, rel=1e-9)
