"""Jump model against the `jumpmodels` package and against all paths of short series."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from jumpmodels.jump import JumpModel
from numpy.typing import NDArray

from trading_dagster.quant.jump_model import calibrated_slope, feature_scale, fit_jump_model, value_differences

Floats = NDArray[np.float64]
PENALTY = 20.0


def blocks(sessions: int, series: int, seed: int, distance: float = 1.0) -> tuple[Floats, NDArray[np.bool_]]:
    """Standardised noise around two centres, in blocks of 100 sessions; True in the blocks of the second."""
    random = np.random.default_rng(seed)
    turbulent = (np.arange(sessions) // 100) % 2 == 1
    centre = np.array([1.0, -0.6, -0.8])[:, None, None] * distance * np.where(turbulent, 1.0, -1.0)[:, None]
    return random.normal(size=(3, sessions, series)) + centre, turbulent


def everywhere(scaled: Floats) -> NDArray[np.bool_]:
    return np.ones(scaled.shape[1:], dtype=bool)


def oracle(rows: Floats, penalty: float) -> JumpModel:
    """The package's model, its states ordered by the first feature."""
    model = JumpModel(n_components=2, jump_penalty=penalty, cont=False, n_init=5, random_state=0)
    return model.fit(rows, sort_by="freq")


def cost_of(rows: Floats, path: tuple[int, ...], centres: Floats, penalty: float) -> float:
    loss = sum(float(np.sum((row - centres[state]) ** 2)) / 2.0 for row, state in zip(rows, path, strict=True))
    return loss + penalty * sum(before != after for before, after in itertools.pairwise(path))


@pytest.mark.parametrize("penalty", [5.0, 20.0, 50.0])
def test_objective_is_not_above_the_packages_and_the_states_are_its(penalty: float) -> None:
    scaled, _ = blocks(600, 4, seed=1, distance=0.5)
    fit = fit_jump_model(scaled, everywhere(scaled), penalty)
    online = value_differences(scaled, everywhere(scaled), fit.centres, penalty) < 0.0
    for at in range(4):
        rows = np.ascontiguousarray(scaled[:, :, at].T)
        model = oracle(rows, penalty)
        assert fit.objective[at] <= model.val_ + 1e-6
        # online states of one and the same centres: inference apart from the fit
        model.centers_ = fit.centres[..., at].copy()
        np.testing.assert_array_equal(online[:, at], np.asarray(model.predict_online(rows)) == 1)
        np.testing.assert_array_equal(fit.states[:, at], np.asarray(model.predict(rows)) == 1)


def test_online_values_are_those_of_the_best_paths() -> None:
    random = np.random.default_rng(2)
    rows, centres = random.normal(size=(9, 3)), random.normal(size=(2, 3))
    found = value_differences(rows.T[..., None], np.ones((9, 1), dtype=bool), centres[..., None], 0.7)[:, 0]
    for end in range(1, 10):
        best = [
            min(cost_of(rows[:end], (*path, last), centres, 0.7) for path in itertools.product((0, 1), repeat=end - 1))
            for last in (0, 1)
        ]
        assert found[end - 1] == pytest.approx(best[1] - best[0], abs=1e-12)


def test_fit_is_the_best_of_all_partitions_of_a_short_series() -> None:
    rows = np.random.default_rng(3).normal(size=(10, 3)) + np.where(np.arange(10) < 5, -1.0, 1.0)[:, None]
    best = np.inf
    for path in itertools.product((0, 1), repeat=10):
        members = np.array(path)
        centres = np.array([rows[members == k].mean(axis=0) if (members == k).any() else rows[0] for k in (0, 1)])
        best = min(best, cost_of(rows, path, centres, 1.5))
    fit = fit_jump_model(rows.T[..., None], np.ones((10, 1), dtype=bool), 1.5)
    assert fit.objective[0] == pytest.approx(best, rel=1e-12)


def test_objective_is_that_of_the_path_and_centres_returned() -> None:
    scaled, _ = blocks(300, 2, seed=4)
    fit = fit_jump_model(scaled, everywhere(scaled), PENALTY)
    for at in range(2):
        path = tuple(fit.states[:, at].astype(int).tolist())
        assert fit.objective[at] == pytest.approx(cost_of(scaled[..., at].T, path, fit.centres[..., at], PENALTY))


def test_blocks_are_found_and_turbulent_is_the_riskier() -> None:
    scaled, turbulent = blocks(1000, 3, seed=5)
    for sign in (1.0, -1.0):
        fit = fit_jump_model(sign * scaled, everywhere(scaled), PENALTY)
        truth = turbulent if sign > 0 else ~turbulent
        assert (fit.states == truth[:, None]).mean() > 0.99
        assert (fit.centres[1, 0] > fit.centres[0, 0]).all()


def test_a_series_alone_has_the_same_bits_as_among_others() -> None:
    scaled, _ = blocks(700, 7, seed=6, distance=0.4)
    scaled[:, :250, 3] = 0.0
    known = everywhere(scaled)
    known[:250, 3] = False
    together = fit_jump_model(scaled, known, PENALTY)
    for at in range(7):
        alone = fit_jump_model(np.ascontiguousarray(scaled[..., [at]]), known[:, [at]], PENALTY)
        np.testing.assert_array_equal(alone.centres[..., 0], together.centres[..., at])
        assert alone.objective[0] == together.objective[at]
        np.testing.assert_array_equal(alone.states[:, 0], together.states[:, at])


def test_sessions_before_a_series_begins_do_not_count() -> None:
    scaled, _ = blocks(500, 1, seed=7)
    padded = np.concatenate([np.zeros((3, 120, 1)), scaled], axis=1)
    known = np.arange(620)[:, None] >= 120
    late, early = fit_jump_model(padded, known, PENALTY), fit_jump_model(scaled, everywhere(scaled), PENALTY)
    np.testing.assert_allclose(late.centres, early.centres, rtol=1e-12)
    np.testing.assert_allclose(late.objective, early.objective, rtol=1e-12)
    found = value_differences(padded, known, late.centres, PENALTY)
    assert (found[:120] == 0.0).all()
    np.testing.assert_allclose(found[120:], value_differences(scaled, everywhere(scaled), early.centres, PENALTY))


def test_without_any_movement_there_is_one_calm_state() -> None:
    features = np.full((3, 300, 1), 0.25)
    scale = feature_scale(features)
    scaled = scale.apply(features)
    assert (scaled == 0.0).all()
    fit = fit_jump_model(scaled, everywhere(scaled), PENALTY)
    assert np.isfinite(fit.centres).all()
    assert fit.objective[0] == 0.0
    assert not fit.states.any()


def test_scale_clips_at_three_deviations_and_then_standardises() -> None:
    random = np.random.default_rng(8)
    features = random.normal(5.0, 2.0, size=(2, 400, 3))
    features[0, 17, 1] = 1e6
    features[:, :60, 2] = np.nan
    scaled = feature_scale(features).apply(features)
    assert (scaled[:, :60, 2] == 0.0).all()
    for number, at, first in ((0, 0, 0), (0, 1, 0), (1, 2, 60)):
        values = features[number, first:, at]
        clipped = np.clip(values, values.mean() - 3 * values.std(), values.mean() + 3 * values.std())
        np.testing.assert_allclose(scaled[number, first:, at], (clipped - clipped.mean()) / clipped.std(), rtol=1e-9)


def test_the_penalty_orders_the_number_of_switches() -> None:
    scaled, _ = blocks(1000, 5, seed=9)
    switches = [
        int((np.diff(fit_jump_model(scaled, everywhere(scaled), penalty).states.astype(int), axis=0) != 0).sum())
        for penalty in (1.0, 4.0, 40.0)
    ]
    # nine borders of blocks in each of five series
    assert switches[0] > switches[1] > switches[2] == 45


def test_slope_is_that_of_a_logistic_regression() -> None:
    random = np.random.default_rng(4)
    difference = random.normal(0.0, 30.0, (800, 3))
    turbulent = random.random((800, 3)) < 1.0 / (1.0 + np.exp(np.array([0.02, 0.05, 0.3]) * difference))
    known = np.ones((800, 3), dtype=bool)
    known[:300, 1] = False
    found = calibrated_slope(difference, turbulent, known)
    for series in range(3):
        seen = known[:, series]
        oracle = sm.Logit(turbulent[seen, series].astype(float), -difference[seen, series]).fit(disp=0)
        assert found[series] == pytest.approx(oracle.params[0], rel=1e-6)


def test_slope_is_at_most_that_of_the_values_themselves() -> None:
    # online and hindsight agree everywhere: the likelihood grows for ever with the slope
    difference = np.linspace(-50.0, 50.0, 400)[:, None]
    assert calibrated_slope(difference, difference < 0.0, np.ones((400, 1), dtype=bool)) == 1.0
