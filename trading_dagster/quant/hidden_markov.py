"""Two-state hidden Markov model with Student-t emissions, many series at once.

Belongs here: the fit by expectation and maximisation, the filter, the hysteresis. Does not belong here: smoothing for
anybody but the fit, since it looks ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln

SWITCH_PROBABILITY = 0.8
"""Filtered probability that the other state needs for a switch."""

MOST_ITERATIONS = 60
TOLERANCE = 1e-6
"""Gain of log likelihood per session at which the fit has converged."""

LEAST_AT_WORK = 0.75
"""Share of series still moving below which the others are taken out of the arrays."""

DEGREES = (2.5, 100.0)
"""Degrees of freedom tried: below the variance is hardly finite, above is Gaussian to the eye."""

LEAST_SCALE = 0.1
"""Least scale of a state in units of the series' mean absolute move: a price at rest must not become a state."""

LEAST_SWITCHING, MOST_SWITCHING = 1.0 / 2000.0, 1.0 / 5.0
START = (0.8, 2.0, 0.01, 0.03, 6.0)
"""Scales, probabilities of leaving calm and turbulent, degrees of freedom that every fit starts from."""

FIRST_PROBABILITY = 0.5
"""Probability of turbulent before the first session."""

LOG_RATIO_LIMIT = 300.0

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StudentChain:
    """Parameters, an entry a series.

    Attributes
    ----------
    calm_scale, turbulent_scale : ndarray (series,)
        Scale of the Student-t density, in the unit of the data.
    leave_calm, leave_turbulent : ndarray (series,)
        Probability a session of switching.
    degrees : ndarray (series,)
        Degrees of freedom, the same in both states.
    """

    calm_scale: Floats
    turbulent_scale: Floats
    leave_calm: Floats
    leave_turbulent: Floats
    degrees: Floats

    def take(self, which: NDArray[np.intp]) -> StudentChain:
        """Parameters of some of the series."""
        return StudentChain(*(values[which] for values in self._values()))

    def _values(self) -> tuple[Floats, ...]:
        return (self.calm_scale, self.turbulent_scale, self.leave_calm, self.leave_turbulent, self.degrees)


@dataclass(frozen=True)
class ChainFit:
    """Result of a fit: parameters, log likelihood (series,) and iterations (series,)."""

    chain: StudentChain
    log_likelihood: Floats
    iterations: NDArray[np.int64]


@dataclass(frozen=True)
class _Emission:
    """Of each session and series: log density if calm, ratio of the densities, and ``nu + y^2 / s^2`` of both."""

    log_calm: Floats
    ratio: Floats
    terms: tuple[Floats, Floats]
    log_terms: tuple[Floats, Floats]


def filtered_probability(moves: Floats, known: Bools, chain: StudentChain) -> Floats:
    """Probability of turbulent at each session given the moves up to it.

    Parameters
    ----------
    moves : ndarray (sessions, series)
        In the unit of the chain's scales, 0 where `known` is False.
    known : ndarray of bool (sessions, series)
        False before a series begins, True from then on.
    chain : StudentChain

    Returns
    -------
    ndarray (sessions, series)
        0.5 before a series begins.

    Notes
    -----
    Hamilton's filter [1]_: ``predicted = p (1 - leave_turbulent) + (1 - p) leave_calm`` and
    ``p' = predicted R / (1 + predicted (R - 1))`` with R the ratio of the two densities of the move.

    References
    ----------
    .. [1] Hamilton, J. D. (1989). "A new approach to the economic analysis of nonstationary time series and the
       business cycle". Econometrica 57(2), 357-384, section 4.
    """
    filtered = _filter(_emission(moves, known, chain).ratio, known, chain)[1]
    return np.where(known, filtered, FIRST_PROBABILITY)


def with_hysteresis(probability: Floats, threshold: float | Floats = SWITCH_PROBABILITY) -> Bools:
    """Turn filtered probabilities into states that do not flutter.

    Parameters
    ----------
    probability : ndarray (sessions, series)
        Of turbulent.
    threshold : float or ndarray (series,)
        In [0.5, 1): turbulent begins above it, calm below one less it.

    Returns
    -------
    ndarray of bool (sessions, series)
        True where turbulent; calm until a threshold has been passed.
    """
    states: Bools = probability > threshold
    undecided = (probability >= 1.0 - threshold) & ~states
    for at in range(1, len(states)):
        np.copyto(states[at], states[at - 1], where=undecided[at])
    return states


def fit_student_chain(moves: Floats, known: Bools) -> ChainFit:
    """Fit the chain to each series by maximum likelihood.

    Parameters
    ----------
    moves : ndarray (sessions, series)
        Returns divided by their mean absolute value in the window, 0 where `known` is False.
    known : ndarray of bool (sessions, series)

    Returns
    -------
    ChainFit
        The state with the larger scale is turbulent.

    Notes
    -----
    Location zero. Expectation by the forward and backward recursions; scales by the parameter-expanded update
    ``sum g w y^2 / sum g w`` with ``w = (nu + 1) / (nu + y^2 / s^2)`` [1]_; degrees of freedom by solving
    ``log(nu/2) - psi(nu/2) + 1 + mean(log w - w) + psi((nu_0+1)/2) - log((nu_0+1)/2) = 0`` [2]_. Every series stops
    on its own, after 60 iterations at most.

    References
    ----------
    .. [1] Kent, J. T., Tyler, D. E. and Vardi, Y. (1994). "A curious likelihood identity for the multivariate
       t-distribution". Communications in Statistics - Simulation and Computation 23(2), 441-453.
    .. [2] Liu, C. and Rubin, D. B. (1995). "ML estimation of the t distribution using EM and its extensions, ECM and
       ECME". Statistica Sinica 5, 19-39, section 3.
    """
    # sessions before all series begin add exact zeros
    begin = int(known.any(axis=1).argmax())
    moves, known = moves[begin:], known[begin:]
    series = moves.shape[1]
    final = StudentChain(*(np.full(series, value) for value in START))
    likelihood, iterations = np.full(series, -np.inf), np.zeros(series, dtype=np.int64)
    at_work, going = np.arange(series), np.ones(series, dtype=bool)
    part, part_known, chain = moves, known, final
    tolerance = TOLERANCE * sum_over_sessions(known.astype("float64"))
    for _ in range(MOST_ITERATIONS):
        new, value = _iterate(part, part_known, chain)
        # the value belongs to the parameters before the update, so those are kept; a series that has stopped once
        # stays as it is, however long others take it along
        now = at_work[going]
        for whole, values in zip(final._values(), chain._values(), strict=True):
            whole[now] = values[going]
        gain = value - likelihood[at_work]
        likelihood[now] = value[going]
        iterations[now] += 1
        going &= gain > tolerance[at_work]
        if not going.any():
            break
        if going.sum() < LEAST_AT_WORK * len(going):
            part, part_known = np.ascontiguousarray(part[:, going]), np.ascontiguousarray(part_known[:, going])
            at_work, new = at_work[going], new.take(np.flatnonzero(going))
            going = np.ones(len(at_work), dtype=bool)
        chain = new
    return ChainFit(_ordered(final), likelihood, iterations)


def sum_over_sessions(values: Floats) -> Floats:
    """Sum over the first axis, one session after the other.

    numpy adds a single column pairwise and several ones row by row, which differ in the last bits; a series alone
    must equal itself among others.
    """
    if values.shape[1] == 1:
        return np.repeat(values, 2, axis=1).sum(axis=0)[:1]
    return values.sum(axis=0)


def _ordered(chain: StudentChain) -> StudentChain:
    """Name the state of the larger scale turbulent."""
    swap = chain.calm_scale > chain.turbulent_scale
    return StudentChain(
        np.where(swap, chain.turbulent_scale, chain.calm_scale),
        np.where(swap, chain.calm_scale, chain.turbulent_scale),
        np.where(swap, chain.leave_turbulent, chain.leave_calm),
        np.where(swap, chain.leave_calm, chain.leave_turbulent),
        chain.degrees,
    )


def _emission(moves: Floats, known: Bools, chain: StudentChain) -> _Emission:
    degrees, half = chain.degrees, (chain.degrees + 1.0) / 2.0
    square = np.square(moves)
    # nu + y^2 / s^2 serves the density, and the weights of the next step
    calm_term = degrees + square / np.square(chain.calm_scale)
    turbulent_term = degrees + square / np.square(chain.turbulent_scale)
    calm, turbulent = np.log(calm_term), np.log(turbulent_term)
    constant = gammaln(half) - gammaln(degrees / 2.0) - np.log(np.pi) / 2.0 + degrees / 2.0 * np.log(degrees)
    log_ratio = half * (calm - turbulent) - np.log(chain.turbulent_scale / chain.calm_scale)
    ratio = np.exp(np.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    return _Emission(
        np.where(known, constant - np.log(chain.calm_scale) - half * calm, 0.0),
        np.where(known, ratio, 1.0),
        (calm_term, turbulent_term),
        (calm, turbulent),
    )


def _filter(ratio: Floats, known: Bools, chain: StudentChain) -> tuple[Floats, Floats]:
    """Probability of turbulent as predicted and as filtered, at each session."""
    predicted, filtered = np.empty_like(ratio), np.empty_like(ratio)
    persistence = 1.0 - chain.leave_calm - chain.leave_turbulent
    begins: Bools = known.copy()
    begins[1:] &= ~known[:-1]
    beginning = np.asarray(begins.any(axis=1))
    before = np.full(ratio.shape[1], FIRST_PROBABILITY)
    work = np.empty(ratio.shape[1])
    for at, row in enumerate(ratio):
        ahead, now = predicted[at], filtered[at]
        np.multiply(before, persistence, out=ahead)
        ahead += chain.leave_calm
        if beginning[at]:
            ahead[begins[at]] = FIRST_PROBABILITY
        np.multiply(ahead, row, out=now)
        np.subtract(now, ahead, out=work)
        work += 1.0
        now /= work
        before = now
    return predicted, filtered


def _iterate(moves: Floats, known: Bools, chain: StudentChain) -> tuple[StudentChain, Floats]:
    """One step of expectation and maximisation; the log likelihood is that of the given parameters."""
    emission = _emission(moves, known, chain)
    predicted, filtered = _filter(emission.ratio, known, chain)
    step = np.log1p(predicted * (emission.ratio - 1.0))
    likelihood = sum_over_sessions(emission.log_calm + np.where(known, step, 0.0))
    smoothed, to_turbulent, to_calm = _smooth(predicted, filtered, chain)
    linked = known[:-1]
    into_turbulent = sum_over_sessions(np.where(linked, (1.0 - filtered[:-1]) * to_turbulent, 0.0)) * chain.leave_calm
    into_calm = sum_over_sessions(np.where(linked, filtered[:-1] * to_calm, 0.0)) * chain.leave_turbulent
    turbulent_from = sum_over_sessions(np.where(linked, smoothed[:-1], 0.0))
    calm_from = sum_over_sessions(linked.astype("float64")) - turbulent_from
    shares = (np.where(known, 1.0 - smoothed, 0.0), np.where(known, smoothed, 0.0))
    scales, spread = _scales(moves, shares, emission, chain)
    return (
        StudentChain(
            *scales,
            np.clip(into_turbulent / np.maximum(calm_from, 1e-300), LEAST_SWITCHING, MOST_SWITCHING),
            np.clip(into_calm / np.maximum(turbulent_from, 1e-300), LEAST_SWITCHING, MOST_SWITCHING),
            _degrees(chain.degrees, spread / np.maximum(known.sum(axis=0), 1)),
        ),
        likelihood,
    )


def _smooth(predicted: Floats, filtered: Floats, chain: StudentChain) -> tuple[Floats, Floats, Floats]:
    """Probability of turbulent given the whole window, and the ratios of smoothed to predicted of both states."""
    smoothed = np.empty_like(filtered)
    smoothed[-1] = filtered[-1]
    to_turbulent, to_calm = np.empty_like(filtered[1:]), np.empty_like(filtered[1:])
    stay = 1.0 - chain.leave_turbulent
    other = 1.0 - predicted
    work = np.empty(filtered.shape[1])
    for at in range(len(filtered) - 2, -1, -1):
        after, up, down, now = smoothed[at + 1], to_turbulent[at], to_calm[at], smoothed[at]
        np.divide(after, predicted[at + 1], out=up)
        np.subtract(1.0, after, out=down)
        down /= other[at + 1]
        np.multiply(up, stay, out=now)
        np.multiply(down, chain.leave_turbulent, out=work)
        now += work
        now *= filtered[at]
    return smoothed, to_turbulent, to_calm


def _scales(
    moves: Floats, shares: tuple[Floats, Floats], emission: _Emission, chain: StudentChain
) -> tuple[tuple[Floats, Floats], Floats]:
    """Scales of both states, and the sum of ``log w - w`` over sessions and states."""
    square = np.square(moves)
    scales, spread = [], np.zeros(moves.shape[1])
    log_one_more = np.log(chain.degrees + 1.0)
    old_scales = (chain.calm_scale, chain.turbulent_scale)
    for share, term, log_term, old in zip(shares, emission.terms, emission.log_terms, old_scales, strict=True):
        weight = (chain.degrees + 1.0) / term
        weighted = share * weight
        total = sum_over_sessions(weighted)
        new = np.sqrt(sum_over_sessions(weighted * square) / np.maximum(total, 1e-300))
        scales.append(np.where(total > 1e-6, np.maximum(new, LEAST_SCALE), old))
        spread += sum_over_sessions(share * (log_one_more - log_term - weight))
    return (scales[0], scales[1]), spread


def _degrees(old: Floats, spread: Floats) -> Floats:
    """Root of the equation for the degrees of freedom, by bisection in their logarithm."""
    constant = 1.0 + spread + digamma((old + 1.0) / 2.0) - np.log((old + 1.0) / 2.0)
    low, high = np.full_like(old, np.log(DEGREES[0])), np.full_like(old, np.log(DEGREES[1]))
    for _ in range(40):
        middle = (low + high) / 2.0
        half = np.exp(middle) / 2.0
        falls = np.log(half) - digamma(half) + constant > 0.0
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    return np.exp((low + high) / 2.0)
