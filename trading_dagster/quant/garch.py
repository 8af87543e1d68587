"""GJR-GARCH(1,1) with Student-t errors: maximum likelihood, filter and forecast of one series of returns.

Belongs here: the model of conditional variance by past returns. Does not belong here: ranges, combinations of
forecasts, quantiles of losses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import gammaln, psi

Floats = NDArray[np.float64]

MINIMUM_RETURNS = 100
MAXIMUM_PERSISTENCE = 0.9999
"""Bound of ``alpha + gamma / 2 + beta``: at 1 the variance has no level to return to."""

DEGREES_OF_FREEDOM = (2.05, 500.0)
"""Bounds of nu: below 2 there is no variance, at 500 the errors are normal for all purposes."""

LEAST_VARIANCE = 5e-3
"""Least conditional variance, as a share of the mean square of the returns that are not 0. Returns of 0 raise the
likelihood without bound as their variance falls, so that a fit to a price that often stands still would end at none.
Of 296 windows of stocks and indices without long runs of zeros the lowest level, omega / (1 - beta), was 6.7e-3."""

BACKCAST_LENGTH = 75
BACKCAST_DECAY = 0.94

STARTS = ((0.03, 0.08, 0.92), (0.05, 0.10, 0.85), (0.05, 0.15, 0.40))
"""Values of alpha, gamma and beta tried as the start of the search, which then goes on from the likeliest."""

MAXIMUM_ITERATIONS = 100
GAIN_TOLERANCE = 1e-6
"""The search ends where a step is expected to gain less than this in log likelihood."""


@dataclass(frozen=True)
class GjrGarch:
    """Parameters of a GJR-GARCH(1,1) with Student-t errors.

    Attributes
    ----------
    mu : float
        Mean of the returns, in their unit.
    omega : float
        Constant of the variance, in the square of that unit.
    alpha, gamma, beta : float
        Weights of the squared error, of the squared error where negative, and of the last variance.
    nu : float
        Degrees of freedom of the errors.
    log_likelihood : float
        Of the returns that the parameters were fitted to.
    """

    mu: float
    omega: float
    alpha: float
    gamma: float
    beta: float
    nu: float
    log_likelihood: float

    @property
    def persistence(self) -> float:
        """Share of a shock to the variance that is left a session later."""
        return self.alpha + self.gamma / 2.0 + self.beta


def fit_gjr_garch(returns: Floats) -> GjrGarch:
    """Fit by maximum likelihood.

    Parameters
    ----------
    returns : ndarray, shape (T,)
        At least 100 of them, finite and not all equal.

    Returns
    -------
    GjrGarch

    Raises
    ------
    ValueError
        If there are too few returns, one is not finite, or none differs.

    Notes
    -----
    With ``e = r - mu`` and ``z = e / sqrt(h)`` Student-t of unit variance with nu degrees of freedom,

        ``h[t] = omega + (alpha + gamma [e[t-1] < 0]) e[t-1]^2 + beta h[t-1]``   [1]_.

    Before the first return stands the backcast, the mean of the first 75 squared deviations weighted by
    ``0.94 ** i``. Given beta, h and its derivatives are first-order linear filters of past squares, so that the
    likelihood and its exact gradient take two calls of a compiled filter. The constraints (alpha >= 0,
    alpha + gamma >= 0, beta >= 0, persistence < 1, nu > 2) are met by angles: a share is a squared sine, which
    reaches its bound at a finite angle. ``omega >= (1 - beta) c`` with c = 0.005 of the mean square of the returns
    that are not 0 keeps h above c, in a filter of other returns too. The search is BFGS from the likeliest of three
    fixed starts, its first curvature the expected information; nothing is carried over from another fit.

    References
    ----------
    .. [1] Glosten, L. R., Jagannathan, R. and Runkle, D. E. (1993). "On the relation between the expected value
       and the volatility of the nominal excess return on stocks". Journal of Finance 48(5), 1779-1801, eq. 6.
    """
    if len(returns) < MINIMUM_RETURNS:
        raise ValueError(f"{len(returns)} returns are too few for a GARCH fit; at least {MINIMUM_RETURNS} are needed")
    if not np.isfinite(returns).all():
        raise ValueError(f"return {int(np.flatnonzero(~np.isfinite(returns))[0])} of a GARCH fit is not finite")
    scale = float(np.std(returns))
    if not scale > 0.0:
        raise ValueError("all returns of a GARCH fit are equal; a constant series has no variance to model")
    likelihood = _Likelihood(returns / scale)
    starts = [_angles(0.05, alpha, gamma, beta, likelihood) for alpha, gamma, beta in STARTS]
    values = [likelihood.negative(start) for start in starts]
    angles, value = _minimise(likelihood, starts[int(np.argmin(values))])
    mu, omega, alpha, gamma, beta, nu = _parameters(angles, likelihood.least)
    return GjrGarch(
        mu=mu * scale,
        omega=omega * scale**2,
        alpha=alpha,
        gamma=gamma,
        beta=beta,
        nu=nu,
        log_likelihood=float(-value - len(returns) * np.log(scale)),
    )


def conditional_variance(model: GjrGarch, returns: Floats) -> Floats:
    """One-session-ahead variances.

    Parameters
    ----------
    model : GjrGarch
    returns : ndarray, shape (T,)

    Returns
    -------
    ndarray, shape (T + 1,)
        Element t is the variance of return t given the returns before it; the last one is the forecast.
    """
    error = returns - model.mu
    start = backcast(returns - returns[:BACKCAST_LENGTH].mean())
    squared = np.square(error)
    shock = np.empty(len(returns) + 1)
    shock[0] = (model.alpha + model.gamma / 2.0) * start
    shock[1:] = (model.alpha + model.gamma * (error < 0.0)) * squared
    return lfilter([1.0], [1.0, -model.beta], model.omega + shock, zi=[model.beta * start])[0]


def mean_variance(model: GjrGarch, variance: Floats, sessions: int) -> Floats:
    """Mean variance a session over the next ones, in closed form.

    Parameters
    ----------
    model : GjrGarch
    variance : ndarray
        Variances one session ahead.
    sessions : int
        Number of sessions that the mean is over.

    Returns
    -------
    ndarray
        ``1/n sum_k E[h[t+k]]`` with ``E[h[t+k]] = omega (1 + p + ... + p^(k-2)) + p^(k-1) h[t+1]``.
    """
    powers = model.persistence ** np.arange(sessions)
    constant = np.concatenate([[0.0], np.cumsum(powers)[:-1]]).mean()
    return model.omega * constant + powers.mean() * variance


def backcast(deviations: Floats) -> float:
    """Variance before the first return: the first squares, the earliest weighted most."""
    first = np.square(deviations[:BACKCAST_LENGTH])
    weights = BACKCAST_DECAY ** np.arange(len(first))
    return float(np.sum(first * weights) / np.sum(weights))


class _Terms(NamedTuple):
    """What the likelihood and its derivatives have in common."""

    error: Floats
    fall: Floats
    """Errors below 0, else 0."""
    lagged: Floats
    """Square of the error before, and of the fall before; shape (2, T)."""
    variance: Floats
    ratio: Floats
    """``e^2 / ((nu - 2) h)``."""
    log_sum: float


class _Likelihood:
    """Negative log likelihood of standardised returns as a function of the angles, with its gradient."""

    def __init__(self, returns: Floats) -> None:
        self.returns = returns
        self.least = LEAST_VARIANCE * float(np.mean(np.square(returns[returns != 0.0])))
        self.backcast = backcast(returns - returns.mean())
        self.mean = float(returns.mean())

    def negative(self, angles: Floats) -> float:
        """Value only."""
        return self._evaluate(angles)[0]

    def with_gradient(self, angles: Floats) -> tuple[float, Floats]:
        """Value, and gradient by the angles.

        The derivatives of h are filters of h's inputs, but only their products with the derivative of the likelihood by
        h are wanted: one filter that runs backward over the latter gives them all.
        """
        value, parts = self._evaluate(angles)
        _, _, alpha, gamma, beta, nu = _parameters(angles, self.least)
        error, variance = parts.error, parts.variance
        share = parts.ratio / (1.0 + parts.ratio)
        by_variance = ((nu + 1.0) * share - 1.0) / (2.0 * variance)
        carried = lfilter([1.0], [1.0, -beta], by_variance[::-1])[::-1]
        # error / ((nu - 2) h (1 + ratio)) is share / error, which an error of 0 forbids to write
        by_mean = (nu + 1.0) / (nu - 2.0) * float(np.sum(error / (variance * (1.0 + parts.ratio))))
        pull = alpha * error[:-1] + gamma * parts.fall[:-1]
        count = len(error)
        gradient = np.array(
            [
                by_mean - 2.0 * float(carried[1:] @ pull),
                float(carried.sum()),
                float(carried @ parts.lagged[0]),
                float(carried @ parts.lagged[1]),
                carried[0] * self.backcast + float(carried[1:] @ variance[:-1]),
                0.5 * count * float(psi((nu + 1.0) / 2.0) - psi(nu / 2.0) - 1.0 / (nu - 2.0))
                - 0.5 * parts.log_sum
                + 0.5 * (nu + 1.0) / (nu - 2.0) * float(share.sum()),
            ]
        )
        return value, -(_jacobian(angles, self.least).T @ gradient)

    def information(self, angles: Floats) -> Floats:
        """Expected information by the angles, which is the curvature that the search begins with."""
        _, _, alpha, gamma, beta, nu = _parameters(angles, self.least)
        parts = self._evaluate(angles)[1]
        inputs = np.zeros((5, len(parts.error)))
        inputs[0, 1:] = -2.0 * (alpha * parts.error[:-1] + gamma * parts.fall[:-1])
        inputs[1] = 1.0
        inputs[2:4] = parts.lagged
        inputs[4, 0] = self.backcast
        inputs[4, 1:] = parts.variance[:-1]
        relative = lfilter([1.0], [1.0, -beta], inputs) / parts.variance
        matrix = np.zeros((6, 6))
        matrix[:5, :5] = nu / (2.0 * (nu + 3.0)) * (relative @ relative.T)
        matrix[0, 0] += nu * (nu + 1.0) / ((nu - 2.0) * (nu + 3.0)) * np.sum(1.0 / parts.variance)
        # of the scale that nu has in its own curvature; what is left to learn the search learns
        matrix[5, 5] = len(self.returns) * 2.0 / nu**4
        jacobian = _jacobian(angles, self.least)
        return jacobian.T @ matrix @ jacobian

    def _evaluate(self, angles: Floats) -> tuple[float, _Terms]:
        mu, omega, alpha, gamma, beta, nu = _parameters(angles, self.least)
        error = self.returns - mu
        fall = np.minimum(error, 0.0)
        lagged = np.empty((2, len(error)))
        lagged[0, 0], lagged[1, 0] = self.backcast, 0.5 * self.backcast
        np.square(error[:-1], out=lagged[0, 1:])
        np.square(fall[:-1], out=lagged[1, 1:])
        shock = omega + alpha * lagged[0] + gamma * lagged[1]
        variance = lfilter([1.0], [1.0, -beta], shock, zi=[beta * self.backcast])[0]
        ratio = np.square(error) / ((nu - 2.0) * variance)
        log_sum = float(np.log1p(ratio).sum())
        count = len(error)
        constant = float(gammaln((nu + 1.0) / 2.0) - gammaln(nu / 2.0)) - 0.5 * math.log(math.pi * (nu - 2.0))
        total = count * constant - 0.5 * float(np.log(variance).sum()) - 0.5 * (nu + 1.0) * log_sum
        return -total, _Terms(error, fall, lagged, variance, ratio, log_sum)


def _angles(mean_weight: float, alpha: float, gamma: float, beta: float, likelihood: _Likelihood) -> Floats:
    """Angles of a start whose variance has the level of the sample and whose nu is 8."""
    persistence = alpha + gamma / 2.0 + beta
    low, high = 1.0 / DEGREES_OF_FREEDOM[1], 1.0 / DEGREES_OF_FREEDOM[0]
    return np.array(
        [
            likelihood.mean * (1.0 - mean_weight),
            np.log(1.0 - persistence - (1.0 - beta) * LEAST_VARIANCE),
            np.arcsin(np.sqrt(persistence / MAXIMUM_PERSISTENCE)),
            np.arcsin(np.sqrt(beta / persistence)),
            np.arcsin(np.sqrt(alpha / (2.0 * (alpha + gamma / 2.0)))),
            np.arcsin(np.sqrt((0.125 - low) / (high - low))),
        ]
    )


def _parameters(angles: Floats, least: float) -> tuple[float, float, float, float, float, float]:
    """Parameters mu, omega, alpha, gamma, beta, nu of the search's coordinates, no variance below `least`."""
    mu, log_excess, *turns = angles.tolist()
    whole, share, side, heaviness = (math.sin(turn) ** 2 for turn in turns)
    persistence = MAXIMUM_PERSISTENCE * whole
    rest = persistence * (1.0 - share)
    low, high = 1.0 / DEGREES_OF_FREEDOM[1], 1.0 / DEGREES_OF_FREEDOM[0]
    nu = 1.0 / (low + (high - low) * heaviness)
    beta = persistence * share
    omega = (1.0 - beta) * least + math.exp(log_excess)
    # alpha and alpha + gamma share twice the rest
    return mu, omega, 2.0 * rest * side, 2.0 * rest * (1.0 - 2.0 * side), beta, nu


def _jacobian(angles: Floats, least: float) -> Floats:
    """Derivatives of the parameters (rows) by the search's coordinates (columns)."""
    sine, cosine = np.sin(angles[2:]) ** 2, np.cos(angles[2:]) ** 2
    turn = np.sin(2.0 * angles[2:])
    p, dp = MAXIMUM_PERSISTENCE * sine[0], MAXIMUM_PERSISTENCE * turn[0]
    rest, by_p, by_share = p * cosine[1], dp * cosine[1], -p * turn[1]
    matrix = np.zeros((6, 6))
    matrix[0, 0] = 1.0
    matrix[1, 1] = np.exp(angles[1])
    matrix[2, 2:5] = 2.0 * by_p * sine[2], 2.0 * by_share * sine[2], 2.0 * rest * turn[2]
    # gamma = 2 rest (cos^2 - sin^2)
    matrix[3, 2:5] = (
        2.0 * by_p * (cosine[2] - sine[2]),
        2.0 * by_share * (cosine[2] - sine[2]),
        -4.0 * rest * turn[2],
    )
    matrix[4, 2:4] = dp * sine[1], p * turn[1]
    matrix[1, 2:4] = -least * matrix[4, 2:4]
    low, high = 1.0 / DEGREES_OF_FREEDOM[1], 1.0 / DEGREES_OF_FREEDOM[0]
    matrix[5, 5] = -(high - low) * turn[3] / (low + (high - low) * sine[3]) ** 2
    return matrix


def _minimise(likelihood: _Likelihood, start: Floats) -> tuple[Floats, float]:
    """BFGS with backtracking; returns the angles and the negative log likelihood there.

    The curvature is reset to the expected information, of which small eigenvalues are lifted, where a step fails.
    """
    point = start
    value, gradient = likelihood.with_gradient(point)
    inverse, fresh = _inverse(likelihood.information(point)), True
    for _ in range(MAXIMUM_ITERATIONS):
        step = -inverse @ gradient
        slope = float(gradient @ step)
        if -slope < 2.0 * GAIN_TOLERANCE:
            break
        # no angle turns by more than half a radian at once, or it could wind round its bound
        step *= min(1.0, 0.5 / np.abs(step[2:]).max(), 2.0 / max(abs(step[0]), abs(step[1])))
        moved = _line_search(likelihood, point, value, slope, step)
        if moved is None:
            if fresh:
                break
            inverse, fresh = _inverse(likelihood.information(point)), True
            continue
        new_point, new_value, new_gradient = moved
        change, turn = new_point - point, new_gradient - gradient
        curvature = float(change @ turn)
        if curvature > 1e-10 * np.sqrt((change @ change) * (turn @ turn)):
            across = inverse @ turn
            inverse = (
                inverse
                + (curvature + turn @ across) / curvature**2 * np.outer(change, change)
                - (np.outer(across, change) + np.outer(change, across)) / curvature
            )
        point, value, gradient, fresh = new_point, new_value, new_gradient, False
    return point, value


def _line_search(
    likelihood: _Likelihood, point: Floats, value: float, slope: float, step: Floats
) -> tuple[Floats, float, Floats] | None:
    """First of a halving sequence of steps that gains enough (Armijo); None where none of them does."""
    share = 1.0
    for _ in range(12):
        new_point = point + share * step
        new_value, gradient = likelihood.with_gradient(new_point)
        if new_value <= value + 1e-4 * share * slope:
            return new_point, new_value, gradient
        share *= 0.4
    return None


def _inverse(information: Floats) -> Floats:
    """Inverse of a symmetric matrix with eigenvalues below a millionth of its largest lifted to that."""
    diagonal = np.sqrt(np.maximum(np.diag(information), 1e-8))
    values, vectors = np.linalg.eigh(information / np.outer(diagonal, diagonal))
    lifted = np.maximum(values, 1e-6 * values[-1])
    return (vectors / lifted) @ vectors.T / np.outer(diagonal, diagonal)
