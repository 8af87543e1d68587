"""A band of frequencies prepared for least squares: its operators, and how often noise alone passes for a sinusoid.

Belongs here: what all rows of one length share. Does not belong here: rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Floats = NDArray[np.float64]

OVERSAMPLING = 32
"""Frequencies tried per Fourier bin. The explained power is interpolated between them by a quartic, whose error at
this spacing is some millionths of a bin."""

MARGIN = 2
"""Frequencies tried beyond each end of the band, so that the quartic has its five points at the ends, too."""

SLOW = 1.5
"""The noise level is that of the frequencies from 0 to so many times the band's highest. Returns are not white over
all frequencies (their short-run autocorrelation is negative, which would make the test timid); over these they nearly
are. Fewer would cost power: they are the degrees of freedom of the noise."""

NEGLIGIBLE = 1e-4
"""Singular values below this part of the largest are left out of the basis of slow components."""


@dataclass(frozen=True)
class Band:
    """Least-squares operators of all sinusoids of a band of frequencies over rows of one length.

    Made by `band`. K frequencies on a uniform grid, n values a row, m dimensions of the space of its slow
    components, free of mean and trend.

    Attributes
    ----------
    frequency : array, (K,)
        Cycles per bar, ascending; `MARGIN` of them beyond each end of the band.
    trend : array, (n, 1) or (n, 2)
        Orthonormal basis of the mean and, with degree 1, the linear trend.
    basis : array, (n, m)
        Orthonormal basis of the slow components, which hold the band's sinusoids.
    whitened : array, (m, 2 K)
        Coordinates to those on an orthonormal basis of each frequency's cosine and sine.
    coefficients : array, (m, 2 K)
        Coordinates to the regression coefficients of each frequency's cosine and sine.
    gram_inverse, tilt, curvature : array, (K, 2, 2)
        With X the cosine and sine, D their derivatives by angular frequency, all free of mean and trend:
        ``inv(X'X)``, ``inv(X'X) X'D`` and ``D'(I - X inv(X'X) X')D``.
    breadth : float
        Baluev's W, the number of independent frequencies so to say.
    """

    frequency: Floats
    trend: Floats
    basis: Floats
    whitened: Floats
    coefficients: Floats
    gram_inverse: Floats
    tilt: Floats
    curvature: Floats
    breadth: float

    @property
    def freedom(self) -> int:
        """Degrees of freedom of a row's noise around mean, trend and a sinusoid of unknown frequency."""
        return self.trend.shape[0] - self.trend.shape[1] - 3


@cache
def band(length: int, shortest: float, longest: float, degree: int, last: float) -> Band:
    """Prepare the operators of a band of periods.

    Parameters
    ----------
    length : int
        Values a row.
    shortest, longest : float
        Ends of the band, bars.
    degree : {0, 1}
        What else is fitted: a mean, or a linear trend.
    last : float
        Time of a row's last value; the phase is that at time 0.

    Returns
    -------
    Band

    Raises
    ------
    ValueError
        If the row is shorter than the longest period, or the shortest is so short that the slow components
        pass the Nyquist limit.

    Notes
    -----
    Sinusoids of frequencies up to F over n bars span about ``2 n F`` dimensions and a few more [1]_. Projecting a
    row on them first makes the bank of all periods a product with a matrix of some forty rows in place of n.

    References
    ----------
    .. [1] Slepian, D. (1978). "Prolate spheroidal wave functions, Fourier analysis, and uncertainty V". Bell
       System Technical Journal 57(5), 1371-1430.
    """
    if length < longest:
        raise ValueError(f"rows of {length} bars are shorter than the longest period, {longest:g}; use a longer window")
    if shortest < 2.0 * SLOW:
        raise ValueError(f"a shortest period of {shortest:g} bars is below {2.0 * SLOW:g}; use a longer one")
    step = 1.0 / (OVERSAMPLING * length)
    inside = int(np.ceil((1.0 / shortest - 1.0 / longest) / step)) + 1
    step = (1.0 / shortest - 1.0 / longest) / (inside - 1)
    frequency = 1.0 / longest + step * np.arange(-MARGIN, inside + MARGIN, dtype=np.float64)
    time = np.arange(1 - length, 1, dtype=np.float64) + last
    trend = np.linalg.qr(np.vander(time / length, degree + 1))[0]
    angle = 2.0 * np.pi * frequency[:, None] * time
    waves = _without(trend, np.stack([np.cos(angle), np.sin(angle)], axis=2))
    slopes = _without(trend, time[:, None] * np.stack([-np.sin(angle), np.cos(angle)], axis=2))
    gram_inverse = np.asarray(np.linalg.inv(waves.transpose(0, 2, 1) @ waves), dtype=np.float64)
    tilt = gram_inverse @ (waves.transpose(0, 2, 1) @ slopes)
    left = slopes - waves @ tilt
    curvature = left.transpose(0, 2, 1) @ left
    basis = _slow_components(trend, time, SLOW / shortest)
    # inv(X'X) = L L' makes X L orthonormal
    root = np.asarray(np.linalg.cholesky(gram_inverse), dtype=np.float64)
    inner = basis.T @ waves
    return Band(
        frequency=frequency,
        trend=trend,
        basis=basis,
        whitened=_side_by_side(inner @ root),
        coefficients=_side_by_side(inner @ gram_inverse),
        gram_inverse=gram_inverse,
        tilt=tilt,
        curvature=curvature,
        breadth=_breadth(root[MARGIN:-MARGIN], curvature[MARGIN:-MARGIN], step),
    )


def _slow_components(trend: Floats, time: Floats, highest: float) -> Floats:
    """Orthonormal basis (n, m) of all sinusoids up to a frequency, free of mean and trend."""
    count = int(np.ceil(4.0 * highest * len(time)))
    angle = 2.0 * np.pi * time[:, None] * np.linspace(0.0, highest, count + 1)[1:]
    vectors, sizes, _ = np.linalg.svd(_without(trend, np.hstack([np.cos(angle), np.sin(angle)])), full_matrices=False)
    return np.ascontiguousarray(vectors[:, sizes > NEGLIGIBLE * sizes[0]])


def _without(trend: Floats, columns: Floats) -> Floats:
    """Columns (..., n, columns) free of what the orthonormal trend explains."""
    return columns - trend @ (trend.T @ columns)


def _side_by_side(matrices: Floats) -> Floats:
    """Stack (K, m, 2) as (m, 2 K), all first columns before all second ones."""
    return np.ascontiguousarray(matrices.transpose(1, 2, 0).reshape(matrices.shape[1], -1))


def _breadth(root: Floats, curvature: Floats, step: float) -> float:
    """Baluev's W: ``sqrt(4 pi)`` times the mean speed of the unit sinusoid along the band.

    Far from the ends of the spectrum the speed is the standard deviation of time, which gives W its familiar
    ``bandwidth * sqrt(4 pi var(t))``; here with what mean and trend take away.
    """
    direction = np.linspace(0.0, np.pi, 64, endpoint=False)
    unit = np.stack([np.cos(direction), np.sin(direction)])
    speed = np.sqrt(np.einsum("id,kij,jd->kd", unit, root.transpose(0, 2, 1) @ curvature @ root, unit))
    return float(np.sqrt(4.0 * np.pi) * np.trapezoid(speed.mean(axis=1), dx=step))


def false_alarm_probability(share: Floats, freedom: int, breadth: float) -> Floats:
    """Chance that white noise explains as large a share at any frequency of a band.

    Parameters
    ----------
    share : array
        Part of the sum of squares around mean and trend that the best sinusoid explains, 0 to 1.
    freedom : int
        Degrees of freedom of that sum.
    breadth : float
        Baluev's W.

    Returns
    -------
    array

    Notes
    -----
    With N the freedom and g the share, the chance at one frequency is that of the F(2, N - 2) test,
    ``(1 - g)^((N - 2) / 2)``, and the expected number of upcrossings along the band

        ``tau = W gamma (1 - g)^((N - 3) / 2) sqrt(N g / 2)``, ``gamma = sqrt(2 / N) Gamma(N/2) / Gamma((N-1)/2)``,

    so that the chance is ``1 - (1 - single) exp(-tau)`` [1]_.

    References
    ----------
    .. [1] Baluev, R. V. (2008). "Assessing the statistical significance of periodogram peaks". Monthly Notices
       of the Royal Astronomical Society 385, 1279-1285, eq. 5, 6 and table 1 (normalisation z_1, d = 2).
    """
    log_rest = np.log1p(-np.minimum(share, 1.0 - 1e-15))
    gamma = np.sqrt(2.0 / freedom) * np.exp(gammaln(freedom / 2.0) - gammaln((freedom - 1.0) / 2.0))
    log_single = (freedom - 2) / 2.0 * log_rest
    crossings = breadth * gamma * np.exp((freedom - 3) / 2.0 * log_rest) * np.sqrt(freedom * share / 2.0)
    # 1 - (1 - single) exp(-crossings), without loss where both are tiny
    return -np.expm1(-crossings) + np.exp(log_single - crossings)
