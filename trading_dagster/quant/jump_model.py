"""Two-state statistical jump model, many series at once.

Belongs here: scaling of features, the fit by coordinate descent, online inference. Does not belong here: what the
features are of, and which series there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from trading_dagster.quant.hidden_markov import sum_over_sessions

JUMP_PENALTY = 50.0
"""Cost of a switch, in halved squared standard deviations: the middle of the papers' range."""

CLIP_DEVIATIONS = 3.0
MOST_ITERATIONS = 100

STARTS = (
    ((0.0, 0.0, -1.0), 0.4),
    ((1.0, -0.5, -0.5), -0.9),
    ((1.0, 0.0, 0.0), 0.8),
    ((0.0, 0.0, -1.0), 0.0),
    ((1.0, -0.5, -0.5), 2.8),
)
"""Weights of the features in a score, and the score above which a start calls a session turbulent."""

LEAST_AT_WORK = 0.75
"""Share of series still moving below which the others are taken out of the arrays."""

SLOPE_ITERATIONS, SLOPE_REACH = 12, 2.0
"""Newton steps of the probability's slope, each within this factor."""

LEAST_GAIN = 1e-9
"""A later start has to be better by more than rounding."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FeatureScale:
    """Clipping and standardisation of features, one of each a feature and series (features, series)."""

    lower: Floats
    upper: Floats
    mean: Floats
    deviation: Floats

    def apply(self, features: Floats) -> Floats:
        """Standardise features (features, sessions, series); missing ones become 0, the mean."""
        clipped = np.clip(features, self.lower[:, None], self.upper[:, None])
        return np.where(np.isfinite(clipped), (clipped - self.mean[:, None]) / self.deviation[:, None], 0.0)


@dataclass(frozen=True)
class JumpFit:
    """Result of a fit, an entry a series.

    Attributes
    ----------
    centres : ndarray (2, features, series)
        Calm, then turbulent.
    objective : ndarray (series,)
        ``sum_t |x_t - centre(s_t)|^2 / 2 + penalty * switches``.
    states : ndarray of bool (sessions, series)
        The optimal path of the fit window, True where turbulent. It looks ahead within the window.
    iterations : ndarray of int (series,)
        Of the start that won.
    """

    centres: Floats
    objective: Floats
    states: Bools
    iterations: NDArray[np.int64]


@dataclass(frozen=True)
class _Descent:
    """End of one start: centres, objective less half the sum of squares, iterations."""

    centres: Floats
    cost: Floats
    iterations: NDArray[np.int64]


def feature_scale(features: Floats) -> FeatureScale:
    """Learn clipping at three deviations, then mean and deviation of what is left.

    Parameters
    ----------
    features : ndarray (features, sessions, series)
        Missing before a series begins. A feature that never moved gets the deviation 1.

    Returns
    -------
    FeatureScale
    """
    # sums along a contiguous last axis have the same bits whatever other series there are
    rows = np.ascontiguousarray(np.moveaxis(features, 1, 2))
    mean, deviation = _moments(rows)
    lower, upper = mean - CLIP_DEVIATIONS * deviation, mean + CLIP_DEVIATIONS * deviation
    mean, deviation = _moments(np.clip(rows, lower[..., None], upper[..., None]))
    return FeatureScale(lower, upper, mean, np.where(deviation > 0, deviation, 1.0))


def _moments(rows: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation over the last axis, missing values left out."""
    known = np.isfinite(rows)
    count = np.maximum(known.sum(axis=-1), 1)
    filled = np.where(known, rows, 0.0)
    mean = filled.sum(axis=-1) / count
    filled -= mean[..., None]
    np.square(filled, out=filled)
    filled[~known] = 0.0
    deviation = np.sqrt(filled.sum(axis=-1) / count)
    # rounding alone is no movement
    return mean, np.where(deviation > 1e-12 * np.abs(mean), deviation, 0.0)


def fit_jump_model(scaled: Floats, known: Bools, penalty: float = JUMP_PENALTY) -> JumpFit:
    """Fit the two-state model to each series.

    Parameters
    ----------
    scaled : ndarray (features, sessions, series)
        Standardised features, 0 where `known` is False. The first feature is the one of risk.
    known : ndarray of bool (sessions, series)
        False before a series begins, True from then on.
    penalty : float
        Cost of a switch.

    Returns
    -------
    JumpFit
        The best of five deterministic starts. The state with the higher centre of the first feature is turbulent.

    Notes
    -----
    Minimises over centres c and states s ``sum_t |x_t - c(s_t)|^2 / 2 + penalty * #{s_t != s_(t-1)}`` by turns [1]_:
    states by dynamic programming, centres as means. With two states the programme needs only the difference
    ``d_t`` of the two values, see `value_differences`; backwards, ``|d_t| > penalty`` fixes the state of t and
    elsewhere it is the one of t + 1. The starts were chosen by their objective on windows of stocks and of an index.

    References
    ----------
    .. [1] Nystrup, P., Lindstroem, E. and Madsen, H. (2020). "Learning hidden Markov models with persistent states by
       penalizing jumps". Expert Systems with Applications 150, 113307, algorithm 1.
    """
    sums = np.cumsum(np.concatenate([scaled, known[None].astype("float64")]), axis=1)
    best: _Descent | None = None
    for weights, threshold in STARTS:
        score = np.zeros_like(scaled[0])
        for weight, values in zip(weights, scaled, strict=True):
            if weight:
                score += weight * values
        descent = _descend(scaled, known, sums, score > threshold, penalty, best)
        best = descent if best is None else _better(best, descent)
    assert best is not None
    half_square = sum(sum_over_sessions(np.square(values)) for values in scaled) / 2.0
    swap = best.centres[0, 0] > best.centres[1, 0]
    centres = np.where(swap, best.centres[::-1], best.centres)
    states = _optimal_states(value_differences(scaled, known, centres, penalty), penalty)
    return JumpFit(centres, best.cost + half_square, states, best.iterations)


def calibrated_slope(difference: Floats, turbulent: Bools, known: Bools, penalty: float = JUMP_PENALTY) -> Floats:
    """Slope that turns the online difference of values into a probability of what hindsight says.

    Parameters
    ----------
    difference : ndarray (sessions, series)
        Of `value_differences`, over the fit window.
    turbulent : ndarray of bool (sessions, series)
        Optimal path of the fit window.
    known : ndarray of bool (sessions, series)
    penalty : float

    Returns
    -------
    ndarray (series,)
        b > 0 of ``P(turbulent) = 1 / (1 + exp(b d))``, at most 1.

    Notes
    -----
    Logistic regression [1]_ of the optimal path on the online difference, without an intercept, so that the online
    state stays the likelier one. The difference itself would be the log odds of the two best paths (b = 1) if
    neighbouring sessions were independent; the features are averages over weeks, so it is far too sure. Where the two
    agree at every session nothing bounds b but 1.

    References
    ----------
    .. [1] Platt, J. (1999). "Probabilistic outputs for support vector machines". Advances in Large Margin Classifiers,
       61-74.
    """
    evidence = np.where(known, np.where(turbulent, -difference, difference), 0.0)
    slope = np.full(difference.shape[1], 1.0 / penalty)
    for _ in range(SLOPE_ITERATIONS):
        doubt = expit(-slope * evidence)
        gradient = sum_over_sessions(evidence * doubt)
        curvature = sum_over_sessions(np.square(evidence) * doubt * (1.0 - doubt))
        step = gradient / np.maximum(curvature, 1e-12)
        slope = np.clip(slope + step, slope / SLOPE_REACH, np.minimum(slope * SLOPE_REACH, 1.0))
    return slope


def value_differences(scaled: Floats, known: Bools, centres: Floats, penalty: float | Floats = JUMP_PENALTY) -> Floats:
    """Value of turbulent less value of calm at each session, from the sessions up to it.

    Parameters
    ----------
    scaled : ndarray (features, sessions, series)
    known : ndarray of bool (sessions, series)
        False before a series begins.
    centres : ndarray (2, features, series)
    penalty : float or ndarray (series,)

    Returns
    -------
    ndarray (sessions, series)
        The online state is turbulent where it is negative. 0 before a series begins.

    Notes
    -----
    ``d_t = clip(d_(t-1), -penalty, penalty) + |x_t - c_1|^2 / 2 - |x_t - c_0|^2 / 2``, which is the recursion
    ``V_t(k) = l_t(k) + min_j (V_(t-1)(j) + penalty [j != k])`` written for the difference of two states.
    """
    difference = _loss_differences(scaled, centres)
    if not known[0].all():
        difference[~known] = 0.0
    _accumulate(difference, penalty)
    return difference


def _loss_differences(scaled: Floats, centres: Floats) -> Floats:
    gap = centres[1] - centres[0]
    middle = (centres[1] + centres[0]) / 2.0
    total = np.empty(scaled.shape[1:])
    total[:] = (middle * gap).sum(axis=0)
    work = np.empty_like(total)
    for values, slope in zip(scaled, gap, strict=True):
        np.multiply(values, slope, out=work)
        total -= work
    return total


def _accumulate(difference: Floats, penalty: float | Floats) -> None:
    """Turn differences of losses into differences of values, in place."""
    carried, floor = np.zeros(difference.shape[1]), -penalty
    for row in difference:
        row += carried
        np.minimum(row, penalty, out=carried)
        np.maximum(carried, floor, out=carried)


def _optimal_states(difference: Floats, penalty: float) -> Bools:
    """Path of least cost, given the differences of values."""
    states: Bools = difference < 0.0
    undecided = np.abs(difference) <= penalty
    for at in range(len(states) - 2, -1, -1):
        np.copyto(states[at], states[at + 1], where=undecided[at])
    return states


def _descend(
    scaled: Floats, known: Bools, sums: Floats, states: Bools, penalty: float, end: _Descent | None
) -> _Descent:
    """Coordinate descent from given states, each series until its centres stand still or an earlier end is met."""
    series = scaled.shape[2]
    centres, cost = _centres(sums, states, penalty)
    iterations = np.zeros(series, dtype=np.int64)
    whole = np.arange(series)  # columns of the series that are still at work
    for _ in range(MOST_ITERATIONS):
        current = centres[..., whole]
        states = _optimal_states(value_differences(scaled, known, current, penalty), penalty)
        new, new_cost = _centres(sums, states, penalty)
        moved = (new != current).any(axis=(0, 1))
        if end is not None:
            moved &= (new != end.centres[..., whole]).any(axis=(0, 1))
        centres[..., whole], cost[whole] = new, new_cost
        iterations[whole[moved]] += 1
        if not moved.any():
            break
        if moved.sum() < LEAST_AT_WORK * len(moved):
            part = np.flatnonzero(moved)
            scaled, sums = scaled.take(part, axis=2), sums.take(part, axis=2)
            known, whole = known.take(part, axis=1), whole[part]
    return _Descent(centres, cost, iterations)


def _centres(sums: Floats, states: Bools, penalty: float) -> tuple[Floats, Floats]:
    """Means of the two states, and the objective less half the sum of squares.

    The sums of the turbulent sessions are put together from cumulative sums at the switches, of which there are few.
    """
    features = len(sums) - 1
    following = np.zeros_like(states)
    following[:-1] = states[1:]
    at, which = np.nonzero(states != following)
    sign = np.where(states[at, which], 1.0, -1.0)
    series = states.shape[1]
    turbulent = np.stack([np.bincount(which, sign * total[at, which], series) for total in sums])
    calm = sums[:, -1] - turbulent
    count = np.stack([calm[-1], turbulent[-1]])
    centres = np.stack([calm[:features], turbulent[:features]])
    # a state without sessions cannot be told from the other
    whole = sums[:features, -1] / np.maximum(sums[-1, -1], 1.0)
    filled = count[:, None] > 0.5
    centres = np.where(filled, centres / np.where(filled, count[:, None], 1.0), whole)
    explained = (np.square(centres) * count[:, None]).sum(axis=1).sum(axis=0) / 2.0
    switches = np.bincount(which, minlength=series) - states[-1]
    return centres, penalty * switches - explained


def _better(first: _Descent, second: _Descent) -> _Descent:
    wins = second.cost < first.cost - LEAST_GAIN
    return _Descent(
        np.where(wins, second.centres, first.centres),
        np.where(wins, second.cost, first.cost),
        np.where(wins, second.iterations, first.iterations),
    )
