"""The fit of one sinusoid against regressions by statsmodels, closed forms and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize_scalar

from trading_dagster.quant.frequency_band import band, false_alarm_probability
from trading_dagster.quant.sinusoid import BLOCK, best_sinusoids, scan_p_values

Floats = NDArray[np.float64]
LENGTH = 128
LEVELS = (LENGTH, 14.0, 28.0, 1, 0.0)
CHANGES = (LENGTH, 14.0, 28.0, 0, -0.5)


def noise(rows: int, seed: int, length: int = LENGTH) -> Floats:
    return np.random.default_rng(seed).normal(size=(rows, length))


def regression(row: Floats, frequency: float, degree: int, last: float) -> sm.regression.linear_model.RegressionResults:
    time = np.arange(len(row)) - (len(row) - 1) + last
    angle = 2.0 * np.pi * frequency * time
    columns = [*[np.ones(len(row)), time][: degree + 1], np.cos(angle), np.sin(angle)]
    return sm.OLS(row, np.column_stack(columns)).fit()


@pytest.mark.parametrize("plan", [LEVELS, CHANGES], ids=["levels", "changes"])
def test_fit_is_the_best_of_all_regressions(plan: tuple[int, float, float, int, float]) -> None:
    _, shortest, longest, degree, last = plan
    rows = noise(12, seed=3)
    found = best_sinusoids(rows, band(*plan))
    for number, row in enumerate(rows):

        def left(frequency: float, row: Floats = row) -> float:
            return regression(row, frequency, degree, last).ssr

        # the best of a fine grid, then Brent between its neighbours
        grid = np.linspace(1.0 / longest, 1.0 / shortest, 120)
        near = grid[np.argmin([left(f) for f in grid])]
        step = grid[1] - grid[0]
        ends = max(near - step, grid[0]), min(near + step, grid[-1])
        best = minimize_scalar(left, bounds=ends, method="bounded", options={"xatol": 1e-10})
        # a hundred-thousandth of a Fourier bin; Brent does not try the ends themselves
        assert found.frequency[number] == pytest.approx(best.x, abs=2e-5 / LENGTH)
        at_optimum = regression(row, found.frequency[number], degree, last)
        # one degree of freedom more for the frequency, which was fitted too
        assert found.noise[number] == pytest.approx(at_optimum.ssr / (at_optimum.df_resid - 1), rel=1e-6)
        assert found.cosine[number] == pytest.approx(at_optimum.params[-2], abs=1e-5)
        assert found.sine[number] == pytest.approx(at_optimum.params[-1], abs=1e-5)


def test_best_at_an_end_of_the_band_stays_there() -> None:
    time = np.arange(1 - LENGTH, 1)
    found = best_sinusoids(np.cos(2.0 * np.pi * time / np.array([[13.0], [31.0]])), band(*LEVELS))
    np.testing.assert_allclose(1.0 / found.frequency, [14.0, 28.0], rtol=1e-12)


@pytest.mark.parametrize("plan", [LEVELS, CHANGES], ids=["levels", "changes"])
def test_covariance_is_the_inverse_information(plan: tuple[int, float, float, int, float]) -> None:
    _, _, _, degree, last = plan
    time = np.arange(LENGTH) - (LENGTH - 1) + last
    truth = np.array([2.0, 0.7, 2.0 * np.pi / 19.3])  # amplitude, angle at time 0, angular frequency

    def model(parameters: Floats) -> Floats:
        amplitude, angle, rate = parameters
        return amplitude * np.cos(rate * time + angle)

    columns = [np.ones(LENGTH), time / LENGTH][: degree + 1]
    for number in range(3):
        step = np.zeros(3)
        step[number] = 1e-6
        columns.append((model(truth + step) - model(truth - step)) / 2e-6)
    jacobian = np.column_stack(columns)
    row = model(truth) + noise(1, seed=8) * 1e-3
    found = best_sinusoids(row, band(*plan))
    bound = found.noise[0] * np.linalg.inv(jacobian.T @ jacobian)
    assert found.frequency[0] == pytest.approx(truth[2] / (2.0 * np.pi), rel=1e-4)
    # tabled at the nearest of the frequencies tried
    assert found.angle_variance[0] == pytest.approx(bound[-2, -2], rel=0.01)
    assert found.covariance[0] == pytest.approx(bound[-2, -1], rel=0.01)
    assert found.rate_variance[0] == pytest.approx(bound[-1, -1], rel=0.01)


def test_chance_at_one_frequency_is_the_f_test() -> None:
    row = noise(1, seed=5)[0]
    fit = regression(row, 1.0 / 20.0, 0, 0.0)
    share = 1.0 - fit.ssr / fit.centered_tss
    assert fit.f_pvalue == pytest.approx(stats.f.sf(fit.fvalue, 2, LENGTH - 3), rel=1e-9)
    found = false_alarm_probability(np.array([share]), LENGTH - 1, 0.0)[0]
    assert found == pytest.approx(fit.f_pvalue, rel=1e-9)


def test_chance_in_the_limit_of_many_values_is_baluevs_closed_form() -> None:
    # z = N g / 2 held fixed as N grows: W exp(-z) sqrt(z), and exp(-z) at each single frequency
    z, breadth, count = np.array([3.0, 6.0, 9.0, 14.0]), 4.6, 10_000_000
    crossings = breadth * np.exp(-z) * np.sqrt(z)
    expected = 1.0 - (1.0 - np.exp(-z)) * np.exp(-crossings)
    np.testing.assert_allclose(false_alarm_probability(2.0 * z / count, count, breadth), expected, rtol=1e-4)


def test_chance_is_a_probability_that_falls_with_the_share() -> None:
    chance = false_alarm_probability(np.linspace(0.0, 1.0, 200), 40, 4.6)
    assert chance[0] == 1.0
    assert ((chance >= 0.0) & (chance <= 1.0)).all()
    assert (np.diff(chance) <= 0.0).all()
    assert chance[-1] < 1e-100


@pytest.mark.parametrize(("degree", "loss"), [(0, 0.006), (1, 0.05)])
def test_breadth_of_a_long_row_is_bandwidth_by_effective_length(degree: int, loss: float) -> None:
    # Baluev's effective length: T_eff = sqrt(4 pi var(t)), and var(t) = n^2 / 12; mean and trend take a little away
    length = 1024
    expected = (1.0 / 20.0 - 1.0 / 40.0) * length * np.sqrt(np.pi / 3.0)
    found = band(length, 20.0, 40.0, degree, 0.0).breadth
    assert expected * (1.0 - loss) < found <= expected


@pytest.mark.parametrize("plan", [LEVELS, CHANGES], ids=["levels", "changes"])
@pytest.mark.parametrize(("level", "bias"), [(0.01, 0.0), (0.05, 0.0), (0.20, 0.015)])
def test_false_alarms_of_white_noise(plan: tuple[int, float, float, int, float], level: float, bias: float) -> None:
    # the closed form is that of rare crossings; at a fifth they are no longer rare
    scan = band(*plan)
    p_values = np.concatenate([scan_p_values(noise(BLOCK, seed=100 + k), scan) for k in range(40)])
    share, error = np.mean(p_values < level), np.sqrt(level * (1.0 - level) / len(p_values))
    assert abs(share - level) < bias + 3.0 * error


def test_p_values_alone_are_those_of_the_fit() -> None:
    rows = noise(17, seed=1)
    np.testing.assert_array_equal(scan_p_values(rows, band(*CHANGES)), best_sinusoids(rows, band(*CHANGES)).p_value)


def test_rows_do_not_depend_on_each_other() -> None:
    rows, scan = noise(BLOCK, seed=2), band(*CHANGES)
    whole = best_sinusoids(rows, scan)
    for number in (0, 1, 100, BLOCK - 1):
        alone = best_sinusoids(rows[number : number + 1], scan)
        for name, values in vars(alone).items():
            assert values[0] == getattr(whole, name)[number], name


def test_row_without_movement_has_no_sinusoid() -> None:
    found = best_sinusoids(np.zeros((2, LENGTH)), band(*LEVELS))
    assert found.p_value.tolist() == [1.0, 1.0]
    assert (found.cosine == 0.0).all()
    assert all(np.isfinite(values).all() for values in vars(found).values())


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="shorter than the longest period, 28; use a longer window"):
        band(20, 14.0, 28.0, 0, 0.0)
    with pytest.raises(ValueError, match=r"shortest period of 2\.5 bars is below 3; use a longer one"):
        band(100, 2.5, 28.0, 0, 0.0)
    with pytest.raises(ValueError, match="257 rows at once; at most 256, split them"):
        best_sinusoids(noise(BLOCK + 1, seed=1), band(*LEVELS))
