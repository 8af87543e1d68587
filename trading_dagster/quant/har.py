"""Heterogeneous autoregression of log variance with leverage: features, fit and forecast of one symbol.

Belongs here: the regression of coming variance on averages of past variance. Does not belong here: how a session's
variance is measured, models of returns, combinations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Estimator = Literal["range", "close"]

LAGS: dict[Estimator, tuple[int, int, int]] = {"range": (1, 5, 22), "close": (5, 22, 66)}
"""Sessions that the averages are over: a day, a week and a month; of squared returns longer ones, as one alone is
mostly noise and may be zero."""

LEVERAGE_SPANS = (1, 5, 22)

VARIANCE_FLOOR = 1e-3
"""Least variance that enters a logarithm, in units of the window's own: a session may have none at all."""

LARGEST_FALL = 5.0
"""Leverage counts a fall up to this many standard deviations: in a crash variance tells the rest."""

LARGEST_RATIO = 50.0
"""A variance enters a fit by at most this multiple of the long average before it."""

NEWTON_STEPS = 25


def trailing_mean(values: Floats, span: int) -> Floats:
    """Mean of the last `span` values at each; missing at the first ``span - 1``."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    mean = np.full(len(values), np.nan)
    # a sum that runs from the start may leave a negative trace of what it has lost again
    mean[span - 1 :] = np.maximum(total[span:] - total[:-span], 0.0) / span
    return mean


def signed_trailing_mean(values: Floats, span: int) -> Floats:
    """Mean of the last `span` values of either sign at each; missing at the first ``span - 1``."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    mean = np.full(len(values), np.nan)
    mean[span - 1 :] = (total[span:] - total[:-span]) / span
    return mean


def leading_mean(values: Floats, sessions: int) -> Floats:
    """Mean of the next `sessions` values after each; missing at the last ones, where it is not known yet."""
    mean = np.full(len(values), np.nan)
    mean[: len(values) - sessions] = trailing_mean(values, sessions)[sessions:]
    return mean


def har_features(variance: Floats, returns: Floats, estimator: Estimator) -> Floats:
    """Regressors as of each session.

    Parameters
    ----------
    variance, returns : ndarray, shape (T,)
        Of the sessions, in units of the window's own variance and standard deviation.
    estimator : {'range', 'close'}
        What the variance was measured by.

    Returns
    -------
    ndarray, shape (7, T)
        One; the logarithms of three averages of the variance; and three leverage terms
        ``min(sum of the last n returns / sqrt(n V), 0)`` for n of 1, 5, 22, with V the longest of the averages. Each
        row is contiguous. Missing where the longest average is incomplete.

    Notes
    -----
    Leverage in units of recent volatility keeps a fall of given size from counting more in turbulent times, where
    the averages have risen already.
    """
    averages = [np.maximum(trailing_mean(variance, lag), VARIANCE_FLOOR) for lag in LAGS[estimator]]
    deviation = np.sqrt(averages[-1])
    falls = [
        np.maximum(np.minimum(signed_trailing_mean(returns, n) * np.sqrt(n) / deviation, 0.0), -LARGEST_FALL)
        for n in LEVERAGE_SPANS
    ]
    return np.stack([np.where(np.isnan(deviation), np.nan, 1.0), *map(np.log, averages), *falls])


def har_forecast(coefficients: Floats, features: Floats) -> Floats:
    """Variance expected, by coefficients (7,) and features (7, T); shape (T,).

    Summed feature by feature: a matrix product's last bits depend on how many sessions there are.
    """
    total = coefficients[0] * features[0]
    for weight, row in zip(coefficients[1:], features[1:], strict=True):
        total = total + weight * row
    return np.exp(total)


@dataclass(frozen=True)
class HarSample:
    """Regressors and outcomes of a window, complete ones only.

    Attributes
    ----------
    features : ndarray, shape (n, 7)
    outcome : ndarray, shape (n,)
        Mean variance of the sessions that follow each row, all of which have passed.
    """

    features: Floats
    outcome: Floats


def har_sample(variance: Floats, features: Floats, sessions: int) -> HarSample:
    """Rows of a window whose outcome over the next `sessions` is known at the window's end.

    Notes
    -----
    A session's variance counts up to 50 times the longest average before it, so that one crash does not bend the
    weights of years.
    """
    longest = np.concatenate([[np.nan], np.exp(features[3][:-1])])
    bounded = np.fmin(variance, LARGEST_RATIO * longest)
    outcome = leading_mean(bounded, sessions)
    known = np.isfinite(outcome) & np.isfinite(features[0])
    return HarSample(np.ascontiguousarray(features[:, known].T), np.maximum(outcome[known], VARIANCE_FLOOR))


def fit_log_har(sample: HarSample) -> Floats:
    """Coefficients by least squares on logarithms, with the level set by the mean ratio.

    Notes
    -----
    ``log V[t+1..t+n] = b'x[t] + u`` [1]_ [2]_; the mean of a lognormal is above the exponential of its mean log, so
    the constant is raised by ``log mean(V / exp(b'x))``, which makes the quasi-likelihood loss of the level least.

    References
    ----------
    .. [1] Corsi, F. (2009). "A simple approximate long-memory model of realized volatility". Journal of Financial
       Econometrics 7(2), 174-196, eq. 10.
    .. [2] Corsi, F. and Reno, R. (2012). "Discrete-time volatility forecasting with persistent leverage effect and the
       link with continuous-time volatility modeling". Journal of Business & Economic Statistics 30(3), 368-380.
    """
    gram = _lifted(sample.features.T @ sample.features)
    weights = np.asarray(np.linalg.solve(gram, sample.features.T @ np.log(sample.outcome)), dtype=np.float64)
    weights[0] += np.log(np.mean(sample.outcome * np.exp(-(sample.features @ weights))))
    return weights


def fit_qlike_har(sample: HarSample) -> Floats:
    """Coefficients by exponential quasi maximum likelihood, for outcomes too noisy for logarithms.

    Notes
    -----
    Least ``sum(V exp(-b'x) + b'x)``, which is convex in b: Newton's steps, halved while they gain too little, end at
    the one minimum. A squared return is a far noisier outcome than a range, and its logarithm noisier still; the
    quasi-likelihood stays consistent for the mean under any errors [1]_.

    References
    ----------
    .. [1] Patton, A. J. (2011). "Volatility forecast comparison using imperfect volatility proxies". Journal of
       Econometrics 160(1), 246-256, proposition 1.
    """
    features, outcome = sample.features, sample.outcome
    weights = np.zeros(features.shape[1])
    weights[2] = 1.0
    weights[0] = np.log(np.mean(outcome * np.exp(-(features @ weights))))
    loss, ratio = _qlike_loss(weights, sample)
    for _ in range(NEWTON_STEPS):
        gradient = features.T @ (1.0 - ratio)
        step = np.linalg.solve(_lifted(features.T @ (features * ratio[:, None])), -gradient)
        slope = float(gradient @ step)
        if -slope < 1e-9 * len(outcome):
            break
        share = 1.0
        new_loss, new_ratio = _qlike_loss(weights + step, sample)
        while new_loss > loss + 1e-4 * share * slope and share > 1e-6:
            share *= 0.5
            new_loss, new_ratio = _qlike_loss(weights + share * step, sample)
        weights = weights + share * step
        loss, ratio = new_loss, new_ratio
    return weights


def _qlike_loss(weights: Floats, sample: HarSample) -> tuple[float, Floats]:
    """Loss to make least, and outcome by forecast."""
    log_forecast = sample.features @ weights
    # a step too far would overflow; its loss is enormous either way
    ratio = sample.outcome * np.exp(np.minimum(-log_forecast, 500.0))
    return float(np.sum(ratio + log_forecast)), ratio


def _lifted(gram: Floats) -> Floats:
    """Gram matrix with a trace of a ridge: a feature that does not vary gets the weight 0 instead of an error."""
    return gram + 1e-9 * np.trace(gram) * np.eye(len(gram))
