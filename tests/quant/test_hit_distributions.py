"""Exact distributions of the statistics of hits against enumeration of all sequences and against simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from trading_dagster.quant.hit_distributions import (
    conditional_coverage_distribution,
    coverage_distribution,
    independence_distribution,
)
from trading_dagster.quant.risk_backtests import christoffersen, kupiec

SHARE = 0.3


def sequences(sessions: int) -> np.ndarray:
    return np.array(list(product([False, True], repeat=sessions)))


def chance(hits: np.ndarray, probability: float) -> float:
    """Probability of one sequence of independent hits."""
    return float(np.prod(np.where(hits, probability, 1.0 - probability)))


@pytest.mark.parametrize("sessions", [1, 2, 9])
def test_p_values_are_those_of_all_sequences(sessions: int) -> None:
    every = sequences(sessions)
    chances = np.array([chance(row, SHARE) for row in every])
    chains = [christoffersen(row, SHARE) for row in every]
    count = every.sum(axis=1)
    coverage = np.array([kupiec(row, SHARE).statistic for row in every])
    independence = np.array([one.independence.statistic for one in chains])
    both = np.array([one.conditional_coverage.statistic for one in chains])
    for at, row in enumerate(every):
        # of the statistics, which published examples hold; the rest is counting
        assert kupiec(row, SHARE).p_value == pytest.approx(chances[coverage >= coverage[at] - 1e-9].sum())
        assert chains[at].conditional_coverage.p_value == pytest.approx(chances[both >= both[at] - 1e-9].sum())
        same = count == count[at]
        expected = np.mean(independence[same] >= independence[at] - 1e-9)
        assert chains[at].independence.p_value == pytest.approx(expected)


@pytest.mark.parametrize(("sessions", "hits"), [(7, 0), (7, 1), (7, 6), (7, 7), (1000, 13), (4000, 60)])
def test_probabilities_of_all_orders_make_one(sessions: int, hits: int) -> None:
    assert independence_distribution(sessions, hits).at_least(0.0) == pytest.approx(1.0, abs=1e-9)
    assert independence_distribution(sessions, hits).tail.min() >= 0.0


@pytest.mark.parametrize(("sessions", "probability"), [(250, 0.01), (1000, 0.01), (250, 0.05)])
def test_p_values_of_simulated_hits(sessions: int, probability: float) -> None:
    random = np.random.default_rng(sessions)
    hits = random.random((3000, sessions)) < probability
    found = np.array([christoffersen(row, probability).conditional_coverage.statistic for row in hits])
    for value in np.quantile(found, [0.5, 0.9, 0.99]):
        share = np.mean(found >= value - 1e-9)
        error = np.sqrt(share * (1.0 - share) / len(found))
        assert conditional_coverage_distribution(sessions, probability).at_least(value) == pytest.approx(
            share, abs=4.0 * error
        )


@pytest.mark.parametrize(("sessions", "probability"), [(250, 0.01), (1000, 0.01), (250, 0.05), (60, 0.01)])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.10])
def test_right_forecasts_are_rejected_at_most_as_often_as_the_level(
    sessions: int, probability: float, level: float
) -> None:
    # of the binomial distribution, by scipy; with chi-squared p-values it is 9.5 % of 250 sessions at 1 % and 5 %
    p_values = np.array([kupiec(np.arange(sessions) < count, probability).p_value for count in range(sessions + 1)])
    size = stats.binom(sessions, probability).pmf(np.arange(sessions + 1))[p_values < level].sum()
    assert size <= level


def test_many_sessions_make_the_ratio_chi_squared() -> None:
    found = coverage_distribution(100_000, 0.05)
    for value in (1.0, 3.84, 6.63):
        assert found.at_least(value) == pytest.approx(stats.chi2.sf(value, 1), rel=0.02)
