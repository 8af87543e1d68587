"""Value at risk and expected shortfall by filtered historical simulation.

Belongs here: from standardised residuals and a volatility forecast to quantiles of the loss. Does not belong here:
the forecast itself, tests of the quantiles against what came.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


LEAST_MULTIPLES = (0.16, 0.23, 0.23)
"""A tenth of what a normal distribution has: a price that has hardly ever fallen may yet, and a possible loss of
nothing would allow a position of any size."""


@dataclass(frozen=True)
class ResidualTail:
    """Lower tail of standardised residuals, as positive multiples of sigma.

    Attributes
    ----------
    quantile_95, quantile_99 : float
        Exceeded by one residual in 20, and in 100.
    shortfall_975 : float
        Mean of the worst 2.5 %.
    """

    quantile_95: float
    quantile_99: float
    shortfall_975: float


def residual_tail(residuals: Floats) -> ResidualTail:
    """Empirical tail of standardised residuals.

    Parameters
    ----------
    residuals : ndarray, shape (n,)
        Returns divided by the volatility that was forecast for them; finite, at least 100.

    Returns
    -------
    ResidualTail
        None of the multiples is below a tenth of a normal distribution's, even where the whole tail is a gain.

    Raises
    ------
    ValueError
        If there are fewer than 100 residuals, of which one in 100 is none.

    Notes
    -----
    Historical simulation filtered by a volatility model [1]_: what repeats is the shape of the residuals, not their
    size. A quantile p is interpolated at rank ``p (n + 1)`` [3]_: the next of n + 1 exchangeable losses is beyond it
    with probability 1 - p exactly, while ranks of ``1 + p (n - 1)`` are exceeded too often. The shortfall is the
    integral of the empirical quantiles beyond 97.5 % by its length [2]_, so that the observation on the border
    counts by its share.

    References
    ----------
    .. [1] Barone-Adesi, G., Giannopoulos, K. and Vosper, L. (1999). "VaR without correlations for portfolios of
       derivative securities". Journal of Futures Markets 19(5), 583-602.
    .. [2] Acerbi, C. and Tasche, D. (2002). "On the coherence of expected shortfall". Journal of Banking & Finance
       26(7), 1487-1503, definition 2.6.
    .. [3] Hyndman, R. J. and Fan, Y. (1996). "Sample quantiles in statistical packages". American Statistician 50(4),
       361-365, definition 6.
    """
    if len(residuals) < 100:
        raise ValueError(f"{len(residuals)} residuals are too few for a quantile of 99 %; at least 100 are needed")
    losses = np.sort(-residuals)
    mass = 0.025 * len(losses)
    whole = int(mass)
    shortfall = (losses[len(losses) - whole :].sum() + (mass - whole) * losses[-whole - 1]) / mass
    # one interpolation of both is a tenth of the time of numpy's quantile with method "weibull"
    ranks = np.array([0.95, 0.99]) * (len(losses) + 1) - 1.0
    quantile_95, quantile_99 = np.interp(ranks, np.arange(len(losses)), losses)
    found = zip((quantile_95, quantile_99, shortfall), LEAST_MULTIPLES, strict=True)
    return ResidualTail(*(max(float(value), least) for value, least in found))


def loss_fraction(multiple: float, sigma: Floats) -> Floats:
    """Loss of a position, as a positive fraction of it, at `multiple` sigmas of log return: ``1 - exp(-m sigma)``.

    Of the expected shortfall it is an upper bound, tight to the second order in sigma, since the mean of
    ``1 - exp(-x)`` is at most ``1 - exp(-mean x)``.
    """
    return -np.expm1(-multiple * sigma)
