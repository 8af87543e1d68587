"""Likelihood ratios of hits, and their exact distributions where hits are independent of each other.

Belongs here: statistics of counts of hits and of their transitions, and what values they take by chance. Does not
belong here: what a hit is, which hypotheses are tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlogy

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

TIE = 1e-9
"""Statistics that differ by less are the same one, computed in another order."""

NEGLIGIBLE = 1e-13
"""Numbers of hits that are less likely are not enumerated; their total counts as beyond every value."""


@dataclass(frozen=True)
class Distribution:
    """Values of a statistic, ascending, and the probability of each or a larger one."""

    values: Floats
    tail: Floats

    def at_least(self, value: float) -> float:
        """Probability of the value or a larger one."""
        first = int(np.searchsorted(self.values, value - TIE * max(1.0, value)))
        return float(min(self.tail[first], 1.0))


def coverage_ratio(sessions: int, hits: ArrayLike, probability: float) -> Floats:
    """Likelihood ratio of numbers of hits against their own share, ``2 log(L(hits / sessions) / L(probability))``."""
    beyond = np.asarray(hits, dtype=np.float64)
    given = xlogy(sessions - beyond, 1.0 - probability) + xlogy(beyond, probability)
    # rounding may leave a trace below 0 where both are equal
    return np.maximum(2.0 * (_log_likelihood(sessions - beyond, beyond) - given), 0.0)


def independence_ratio(quiet: ArrayLike, first: ArrayLike, last: ArrayLike, both: ArrayLike) -> Floats:
    """Likelihood ratio of a first-order chain against independence, by numbers of transitions.

    Parameters
    ----------
    quiet, first, last, both : array_like
        Sessions without a hit that follow one without, hits after none, none after a hit, and hits after a hit.
    """
    a, b, c, d = (np.asarray(count, dtype=np.float64) for count in (quiet, first, last, both))
    chained = _log_likelihood(a, b) + _log_likelihood(c, d)
    return np.maximum(2.0 * (chained - _log_likelihood(a + c, b + d)), 0.0)


@lru_cache(maxsize=64)
def coverage_distribution(sessions: int, probability: float) -> Distribution:
    """Of `coverage_ratio` where the number of hits is binomial."""
    hits = np.arange(sessions + 1)
    return _distribution(
        coverage_ratio(sessions, hits, probability), np.exp(_log_binomial(sessions, hits, probability))
    )


@lru_cache(maxsize=4096)
def independence_distribution(sessions: int, hits: int) -> Distribution:
    """Of `independence_ratio` where each order of a given number of hits is as likely as any other.

    Notes
    -----
    Given their number the distribution is free of the hits' probability, so that a wrong share of hits is not taken
    for dependence.
    """
    return _distribution(*_by_order(sessions, hits))


@lru_cache(maxsize=64)
def conditional_coverage_distribution(sessions: int, probability: float) -> Distribution:
    """Of the sum of both ratios where hits are independent and of the given probability."""
    counts = np.arange(sessions + 1)
    chance = np.exp(_log_binomial(sessions, counts, probability))
    ratio = coverage_ratio(sessions, counts, probability)
    values, masses = [], []
    for hits in np.flatnonzero(chance > NEGLIGIBLE).tolist():
        own, share = _by_order(sessions, hits)
        values.append(own + ratio[hits])
        masses.append(share * chance[hits])
    return _distribution(np.concatenate(values), np.concatenate(masses))


def _by_order(sessions: int, hits: int) -> tuple[Floats, Floats]:
    """Independence ratios of the orders of hits, and the share of the orders that have each.

    The transitions follow from the number of runs of hits and from whether the first and the last session are hits.
    With r runs there are ``C(hits - 1, r - 1)`` ways to make them of the hits, and ``C(misses - 1, r - a - b)`` to make
    the gaps between and beside them of the misses, where a and b are 1 if the first and the last session are hits.
    """
    misses = sessions - hits
    if not hits or not misses:
        return np.zeros(1), np.ones(1)
    runs, a, b = (
        part.ravel() for part in np.meshgrid(np.arange(1, min(hits, misses + 1) + 1), [0, 1], [0, 1], indexing="ij")
    )
    possible = (runs - a - b >= 0) & (runs - a - b <= misses - 1)
    runs, a, b = runs[possible], a[possible], b[possible]
    ways = _log_choose(hits - 1, runs - 1) + _log_choose(misses - 1, runs - a - b)
    first, last, both = runs - a, runs - b, hits - runs
    ratio = independence_ratio(sessions - 1 - first - last - both, first, last, both)
    return ratio, np.exp(ways - _log_choose(sessions, np.array(hits)))


def _distribution(values: Floats, masses: Floats) -> Distribution:
    order = np.argsort(values, kind="stable")
    # what is not enumerated is beyond all
    left = max(1.0 - float(masses.sum()), 0.0)
    tail = np.cumsum(np.concatenate([[left], masses[order][::-1]]))[::-1]
    return Distribution(values[order], tail)


def _log_likelihood(misses: Floats, hits: Floats) -> Floats:
    """Log likelihood of independent hits at their own share; 0 of none."""
    share = hits / np.maximum(misses + hits, 1.0)
    return np.asarray(xlogy(misses, 1.0 - share) + xlogy(hits, share), dtype=np.float64)


def _log_binomial(sessions: int, hits: Counts, probability: float) -> Floats:
    beyond = hits.astype(np.float64)
    powers = xlogy(beyond, probability) + xlogy(sessions - beyond, 1.0 - probability)
    return np.asarray(_log_choose(sessions, hits) + powers, dtype=np.float64)


def _log_choose(total: int, chosen: Counts) -> Floats:
    return np.asarray(gammaln(total + 1.0) - gammaln(chosen + 1.0) - gammaln(total - chosen + 1.0), dtype=np.float64)
