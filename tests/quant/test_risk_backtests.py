"""Backtests against published examples, closed forms, statsmodels' Holm, and forecasts known to be right or wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from trading_dagster.quant.risk_backtests import (
    EXPONENTIAL_SHARE,
    acerbi_szekely,
    christoffersen,
    coverage_report,
    holm,
    kupiec,
)


def jorion_hits() -> np.ndarray:
    """The 252 sessions of J.P. Morgan in Jorion's book: 20 exceptions, of which 6 follow another."""
    hits = np.zeros(253, dtype=bool)
    runs = [3, 3, 3, *[1] * 11]
    at = 5
    for run in runs:
        hits[at : at + run] = True
        at += run + 10
    return hits


def test_published_example_of_coverage() -> None:
    # Jorion (2007), Value at Risk, 3rd ed., ch. 6: 20 exceptions of 252 at 5 % give 3.91
    found = kupiec(np.arange(252) < 20, 0.05)
    assert found.statistic == pytest.approx(3.91, abs=0.005)
    # as many as 20, or so few that they are as unlikely by the ratio: at most 6
    binomial = stats.binom(252, 0.05)
    assert found.p_value == pytest.approx(binomial.sf(19) + binomial.cdf(6), rel=1e-9)


def test_published_example_of_independence() -> None:
    # the same: transitions 218, 14, 14 and 6 give 9.53
    hits = jorion_hits()
    before, after = hits[:-1], hits[1:]
    counts = [np.sum(~before & ~after), np.sum(~before & after), np.sum(before & ~after), np.sum(before & after)]
    assert counts == [218, 14, 14, 6]
    assert christoffersen(hits, 0.05).independence.statistic == pytest.approx(9.53, abs=0.005)
    # there 252 sessions are counted for the coverage, here 253
    assert christoffersen(hits, 0.05).conditional_coverage.statistic == pytest.approx(13.44, abs=0.08)


@pytest.mark.parametrize("count", [1, 250, 1000])
def test_no_hits_have_a_closed_form(count: int) -> None:
    found = kupiec(np.zeros(count, dtype=bool), 0.01)
    assert found.statistic == pytest.approx(-2.0 * count * np.log(0.99), rel=1e-9)
    both = christoffersen(np.zeros(count, dtype=bool), 0.01)
    assert both.independence.p_value == 1.0
    # no order of no hits is another
    assert both.conditional_coverage.statistic == found.statistic


def test_all_hits_and_the_right_share() -> None:
    assert kupiec(np.ones(10, dtype=bool), 0.01).statistic == pytest.approx(-20.0 * np.log(0.01))
    assert kupiec(np.arange(1000) % 100 == 50, 0.01).p_value == 1.0


def test_clustered_hits_are_found_and_scattered_ones_are_not() -> None:
    scattered = np.random.default_rng(5).random(1000) < 0.03
    clustered = np.sort(scattered)
    assert christoffersen(scattered, 0.03).independence.p_value > 0.05
    assert christoffersen(clustered, 0.03).independence.p_value < 1e-6


def test_size_of_the_tests_on_right_forecasts() -> None:
    random = np.random.default_rng(6)
    p_values = [kupiec(random.random(1000) < 0.05, 0.05).p_value for _ in range(2000)]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.02)


def test_a_backtest_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no sessions to count hits in"):
        kupiec(np.zeros(0, dtype=bool), 0.01)
    with pytest.raises(ValueError, match="no sessions to test an expected shortfall in"):
        acerbi_szekely(np.zeros(0), np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="expected shortfall 0 at position 1"):
        acerbi_szekely(np.zeros(2), np.ones(2), np.array([1.0, 0.0]))


# -- expected shortfall ---------------------------------------------------------------------------------------------


def shortfall(frozen: stats._distn_infrastructure.rv_frozen, tail: float = 0.025) -> float:
    grid = tail * (np.arange(200_000) + 0.5) / 200_000
    return float(-frozen.ppf(grid).mean())


def test_statistics_by_hand() -> None:
    returns = np.array([0.01, -0.04, 0.0, -0.06])
    found = acerbi_szekely(returns, np.full(4, 0.03), np.array([0.04, 0.04, 0.05, 0.05]), tail=0.25)
    # losses of 1.0 and 1.2 shortfalls, where 4 x 0.25 = 1 is due
    assert found.z1 == pytest.approx(1.0 - 2.2 / 2.0)
    assert found.z2 == pytest.approx(1.0 - 2.2)


@pytest.mark.parametrize(("freedom", "critical"), [(5, -0.74), (100, -0.70)])
def test_published_critical_value(freedom: int, critical: float) -> None:
    # Acerbi and Szekely (2014), table of 5 % critical values of Z2 at 250 sessions, by degrees of freedom
    frozen = stats.t(freedom)
    returns = frozen.rvs((4000, 250), random_state=np.random.default_rng(7))
    var, es = -frozen.ppf(0.025), shortfall(frozen)
    found = [acerbi_szekely(row, np.full(250, var), np.full(250, es)) for row in returns]
    assert np.quantile([one.z2 for one in found], 0.05) == pytest.approx(critical, abs=0.04)
    assert np.mean([one.p_value < 0.05 for one in found]) == pytest.approx(0.05, abs=0.015)


def test_forecast_without_a_hit_has_no_size_to_test() -> None:
    found = acerbi_szekely(np.zeros(250), np.full(250, 0.02), np.full(250, 0.03))
    assert np.isnan(found.z1)
    assert found.z2 == 1.0
    assert found.p_value > 0.99


# -- many symbols ---------------------------------------------------------------------------------------------------


def test_holm_is_that_of_statsmodels() -> None:
    p_values = pd.Series([0.001, 0.2, np.nan, 0.012, 0.013, 0.9, 0.5])
    expected = multipletests(p_values.dropna(), method="holm")[1]
    found = holm(p_values)
    np.testing.assert_allclose(found.dropna(), expected)
    assert np.isnan(found[2])


def frames(count: int, scales: dict[str, float]) -> dict[str, pd.DataFrame]:
    """Normal losses of 1 % times each symbol's scale, with forecasts for a scale of 1."""
    random = np.random.default_rng(9)
    sessions = pd.bdate_range("2010-01-01", periods=count)
    losses = pd.DataFrame({s: 0.01 * k * random.standard_normal(count) for s, k in scales.items()}, index=sessions)
    multiples = {"var_95": stats.norm.ppf(0.95), "var_99": stats.norm.ppf(0.99), "es_975": shortfall(stats.norm())}
    return {"losses": losses, **{name: losses * 0.0 + 0.01 * k for name, k in multiples.items()}}


def test_report_names_the_symbol_that_fails() -> None:
    data = frames(1200, {**{f"S{n}": 1.0 for n in range(20)}, "WILD": 1.5, "CALM": 0.5})
    data["var_99"].iloc[:900, 0] = np.nan
    report = coverage_report(**data).set_index(["symbol", "test", "window"])
    assert set(report.loc["S0"].xs(1000, level="window")["status"]) == {"not tested"}
    assert report.loc[("S0", "var_kupiec", 1000), "forecasts"] == 300
    assert set(report.loc["S0"].xs(250, level="window")["status"]) == {"tested"}
    failed = report[report["p_holm"] < 0.05].reset_index()
    by_test = failed[failed["window"] == 1000].groupby("test")["symbol"].agg(set)
    assert by_test["var_kupiec"] == {"WILD", "CALM"}
    # losses smaller than forecast are no failure of a shortfall
    assert by_test["es_acerbi_szekely"] == {"WILD"}
    assert "var_independence" not in by_test


@pytest.mark.parametrize(("symbols", "reports"), [(1, 600), (20, 200)])
def test_right_forecasts_fail_a_test_at_most_as_often_as_the_level(symbols: int, reports: int) -> None:
    random = np.random.default_rng(symbols)
    names = [f"S{number}" for number in range(symbols)]
    multiples = {"var_95": stats.norm.ppf(0.95), "var_99": stats.norm.ppf(0.99), "es_975": shortfall(stats.norm())}
    made = {name: pd.DataFrame(value, range(1000), names) for name, value in multiples.items()}
    failed = []
    for _ in range(reports):
        report = coverage_report(pd.DataFrame(random.standard_normal((1000, symbols)), columns=names), **made)
        failed.append((report["p_holm"] < 0.05).groupby(report["test"]).any())
    # of any symbol in any of both windows, by test; with chi-squared p-values Kupiec's alone fails 13 % of one symbol
    rates = pd.concat(failed, axis=1).mean(axis=1)
    assert (rates <= 0.05 + 2.0 * np.sqrt(0.05 * 0.95 / reports)).all(), rates
    assert rates["var_kupiec"] > 0.0


def test_correction_is_over_symbols_and_windows() -> None:
    report = coverage_report(**frames(1200, {f"S{n}": 1.2 for n in range(4)}))
    for _, own in report.groupby("test"):
        assert len(own) == 8
        np.testing.assert_allclose(own["p_holm"], multipletests(own["p_value"], method="holm")[1])


def test_report_counts_the_last_sessions_only() -> None:
    data = frames(400, {"A": 1.0})
    data["losses"].iloc[:150] = 1.0
    report = coverage_report(**data, windows=(250,))
    assert report["hits"].max() < 20
    assert set(report["forecasts"]) == {250}


def test_symbol_that_cannot_lose_is_not_tested() -> None:
    data = frames(300, {"FLAT": 0.0, "A": 1.0})
    for name in ("var_95", "var_99", "es_975"):
        data[name]["FLAT"] = 0.0
    status = coverage_report(**data, windows=(250,)).groupby("symbol")["status"].agg(set)
    assert status["FLAT"] == {"not tested"}
    assert status["A"] == {"tested"}


@pytest.mark.parametrize("frozen", [stats.norm(), stats.t(4), stats.t(8)])
def test_quantile_between_two_others_is_close(frozen: stats._distn_infrastructure.rv_frozen) -> None:
    low, wanted, high = (-frozen.ppf(p) for p in (0.05, 0.025, 0.01))
    assert low + EXPONENTIAL_SHARE * (high - low) == pytest.approx(wanted, rel=0.02)
