"""One sinusoid of unknown period in each row of an array: estimate, covariance and p-value.

Belongs here: least squares over a band of frequencies, on arrays. Does not belong here: prices, sessions, or what
a sinusoid means to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading_dagster.quant.frequency_band import MARGIN, Band, false_alarm_probability

Floats = NDArray[np.float64]

BLOCK = 256
"""Rows fitted at once. Always as many, so that the bits of one row do not depend on how many others there are."""

UNSHARED = 262_144
"""Multiplications in a product up to which OpenBLAS keeps to one thread."""

NEWTON_STEPS = 4


@dataclass(frozen=True)
class Sinusoids:
    """Best sinusoid of each row; all attributes are arrays of one value a row.

    Attributes
    ----------
    frequency : array
        Cycles per bar.
    cosine, sine : array
        Coefficients, with time 0 where `band` put it.
    noise : array
        Variance around mean, trend and sinusoid.
    p_value : array
        Chance that noise alone explains as much of the slow components at any frequency of the band.
    angle_variance, covariance, rate_variance : array
        Of the angle at time 0 (radians) and the angular frequency (radians per bar).
    """

    frequency: Floats
    cosine: Floats
    sine: Floats
    noise: Floats
    p_value: Floats
    angle_variance: Floats
    covariance: Floats
    rate_variance: Floats


def best_sinusoids(rows: Floats, scan: Band) -> Sinusoids:
    """Fit the sinusoid that leaves the smallest sum of squares in each row.

    Parameters
    ----------
    rows : array, (count, n)
        Finite; at most `BLOCK` rows, or bits would depend on how many there are.
    scan : Band

    Returns
    -------
    Sinusoids

    Notes
    -----
    Nonlinear least squares by variable projection: for each frequency the regression on mean, trend, cosine
    and sine is linear; what it explains is computed on a grid of frequencies and maximised between them on the
    quartic through the five nearest. For white Gaussian noise it is the maximum-likelihood estimate, which
    attains the Cramer-Rao bound above a threshold of the signal-to-noise ratio [1]_. Covariances are those of
    the linearised regression at the solution.

    References
    ----------
    .. [1] Rife, D. C. and Boorstyn, R. R. (1974). "Single-tone parameter estimation from discrete-time
       observations". IEEE Transactions on Information Theory 20(5), 591-598, eq. 22-25.
    """
    peaks = _highest_peaks(rows, scan)
    count, grid = len(rows), len(scan.frequency)
    coefficients = _product(peaks.inner, scan.coefficients)
    row = np.arange(BLOCK)[:, None]
    cosine = (coefficients[row, peaks.points] * peaks.weights).sum(axis=1)
    sine = (coefficients[row, peaks.points + grid] * peaks.weights).sum(axis=1)
    total = np.einsum("ij,ij->i", peaks.whole, peaks.whole)
    around = total - np.square(_product(peaks.whole, scan.trend)).sum(axis=1)
    # what a sinusoid without noise leaves is rounding
    noise = np.maximum(around - peaks.explained, 1e-15 * total) / scan.freedom
    found = {
        "frequency": scan.frequency[peaks.nearest] + peaks.offset * (scan.frequency[1] - scan.frequency[0]),
        "cosine": cosine,
        "sine": sine,
        "noise": noise,
        "p_value": _p_values(peaks, scan),
        **_covariance(scan, peaks.nearest, cosine, sine, noise),
    }
    return Sinusoids(**{name: values[:count] for name, values in found.items()})


def scan_p_values(rows: Floats, scan: Band) -> Floats:
    """P-values of `best_sinusoids` alone, in a third of the time."""
    return _p_values(_highest_peaks(rows, scan), scan)[: len(rows)]


@dataclass(frozen=True)
class _Peaks:
    """Where the explained power of each row of a block is largest."""

    whole: Floats  # (BLOCK, n): the rows, filled up with zeros
    inner: Floats  # (BLOCK, m): their slow components
    nearest: NDArray[np.intp]  # (BLOCK,): place of the best frequency of the grid
    points: NDArray[np.intp]  # (BLOCK, 5): the places that the quartic goes through
    offset: Floats  # (BLOCK,): of the best frequency from the nearest one, in steps of the grid
    weights: Floats  # (BLOCK, 5): of the five places
    explained: Floats  # (BLOCK,): sum of squares


def _highest_peaks(rows: Floats, scan: Band) -> _Peaks:
    """Maximise the explained power, on the grid and then between its points."""
    if len(rows) > BLOCK:
        raise ValueError(f"{len(rows)} rows at once; at most {BLOCK}, split them")
    whole = np.zeros((BLOCK, rows.shape[1]))
    whole[: len(rows)] = rows
    inner = _product(whole, scan.basis)
    grid = len(scan.frequency)
    squares = np.square(_product(inner, scan.whitened))
    explained = squares[:, :grid] + squares[:, grid:]
    nearest = explained[:, MARGIN:-MARGIN].argmax(axis=1) + MARGIN
    points = nearest[:, None] + np.arange(-2, 3)
    power = explained[np.arange(BLOCK)[:, None], points]
    offset = _top(power, lowest=nearest == MARGIN, highest=nearest == grid - 1 - MARGIN)
    weights = _lagrange(offset)
    return _Peaks(whole, inner, nearest, points, offset, weights, (power * weights).sum(axis=1))


def _product(rows: Floats, matrix: Floats) -> Floats:
    """``rows @ matrix`` in products of one shape that is small enough for one thread of BLAS.

    Of larger ones it would give each thread a part, which on products of this size costs more than it saves, and
    many times as much where the cores are busy.
    """
    together = BLOCK
    while together > 1 and together * matrix.size > UNSHARED:
        together //= 2
    return (rows.reshape(-1, together, rows.shape[1]) @ matrix).reshape(len(rows), -1)


def _p_values(peaks: _Peaks, scan: Band) -> Floats:
    slow = np.square(peaks.inner).sum(axis=1)
    share = np.divide(peaks.explained, slow, out=np.zeros(BLOCK), where=slow > 0.0)
    return false_alarm_probability(np.clip(share, 0.0, 1.0), scan.basis.shape[1], scan.breadth)


def _lagrange(offset: Floats) -> Floats:
    """Weights (count, 5) of the values at -2, ..., 2 in the quartic through them at `offset`."""
    s, q = offset, offset * offset
    return np.stack(
        [
            s * (q - 1.0) * (s - 2.0) / 24.0,
            -s * (q - 4.0) * (s - 1.0) / 6.0,
            (q - 1.0) * (q - 4.0) / 4.0,
            -s * (q - 4.0) * (s + 1.0) / 6.0,
            s * (q - 1.0) * (s + 2.0) / 24.0,
        ],
        axis=1,
    )


def _top(values: Floats, lowest: NDArray[np.bool_], highest: NDArray[np.bool_]) -> Floats:
    """Where the quartic through five values at -2, ..., 2 is largest, the middle one being above its neighbours.

    At an end of the band the top may lie beyond it; the end is then the best of the band.
    """
    far, near, middle, next_, last = values.T
    # derivatives of the quartic at 0
    first = (far - 8.0 * near + 8.0 * next_ - last) / 12.0
    second = (-far + 16.0 * near - 30.0 * middle + 16.0 * next_ - last) / 12.0
    third = (-far + 2.0 * near - 2.0 * next_ + last) / 2.0
    fourth = far - 4.0 * near + 6.0 * middle - 4.0 * next_ + last
    floor, ceiling = np.where(lowest, 0.0, -1.0), np.where(highest, 0.0, 1.0)
    offset = np.zeros(len(values))
    for _ in range(NEWTON_STEPS):
        slope = first + offset * (second + offset * (third / 2.0 + offset * fourth / 6.0))
        bend = np.minimum(second + offset * (third + offset * fourth / 2.0), 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            # a flat top has no better place than the middle
            offset = np.where(bend < 0.0, np.clip(offset - slope / bend, floor, ceiling), offset)
    return offset


def _covariance(
    scan: Band, nearest: NDArray[np.intp], cosine: Floats, sine: Floats, noise: Floats
) -> dict[str, Floats]:
    """Covariance of the angle at time 0 and the angular frequency, of the linearised regression."""
    vector = np.stack([cosine, sine], axis=1)
    square = np.maximum(cosine**2 + sine**2, np.finfo(float).tiny)
    # the angle at time 0 is -atan2(sine, cosine)
    normal = np.stack([sine, -cosine], axis=1) / square[:, None]
    information = np.einsum("ni,nij,nj->n", vector, scan.curvature[nearest], vector)
    rate = noise / np.maximum(information, np.finfo(float).tiny)
    lever = np.einsum("ni,nij,nj->n", normal, scan.tilt[nearest], vector)
    own = noise * np.einsum("ni,nij,nj->n", normal, scan.gram_inverse[nearest], normal)
    return {"angle_variance": own + lever**2 * rate, "covariance": -lever * rate, "rate_variance": rate}
