"""Geometric combination of log-HAR and GJR-GARCH-t: parameters of one symbol, their fit, forecasts and pool.

Belongs here: what the two models make together. Does not belong here: each of them, months, tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from trading_dagster.quant.bar_series import BarSeries
from trading_dagster.quant.garch import GjrGarch, conditional_variance, fit_gjr_garch, mean_variance
from trading_dagster.quant.har import (
    VARIANCE_FLOOR,
    Estimator,
    fit_log_har,
    fit_qlike_har,
    har_features,
    har_forecast,
    har_sample,
    trailing_mean,
)
from trading_dagster.quant.tail_risk import ResidualTail, residual_tail

Floats = NDArray[np.float64]

HORIZON = 21
DECAY = 0.94
"""RiskMetrics' decay for daily data."""

LARGEST_SQUARE = 50.0
"""A squared return counts towards the level up to this multiple of its forecast: seven standard deviations."""

LEVELS = (0.1, 10.0)
"""Bounds of the ratios that bring forecasts to the level of squared returns: beyond them is no level but a forecast of
something else, which would be multiplied by it."""


@dataclass(frozen=True)
class SymbolModel:
    """All that the filter of one symbol needs for one month.

    Attributes
    ----------
    scale : float or None
        Standard deviation of the window's returns, the unit of all else. None in the pool: each symbol has its own.
    estimator : {'range', 'close'}
    har_1d, har_21d : list of float
        Coefficients by horizon.
    garch : GjrGarch
    level_har, level_1d, level_21d : float
        Mean of squared returns by forecast: of the regression, and of the combination at both horizons.
    range_level : float
        Mean of the session's own variance by forecast, over that of squared returns: what ``sigma ** 2`` is
        multiplied by to forecast the range estimator, which misses what is traded outside its hours. 1 on closes.
    tail : ResidualTail
        Of returns by the combination's forecast.
    """

    scale: float | None
    estimator: Estimator
    har_1d: list[float]
    har_21d: list[float]
    garch: GjrGarch
    level_har: float
    level_1d: float
    level_21d: float
    range_level: float
    tail: ResidualTail

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SymbolModel:
        """Read what `asdict` wrote."""
        parts = {"garch": GjrGarch(**values["garch"]), "tail": ResidualTail(**values["tail"])}
        return cls(**{**values, **parts})


@dataclass(frozen=True)
class VarianceForecasts:
    """Forecasts as of each bar, in squared log return a session; missing at the first bars.

    Attributes
    ----------
    har, garch, combined : ndarray, shape (n,)
        Variance of the next session.
    combined_21d : ndarray, shape (n,)
        Mean variance of the next 21.
    """

    har: Floats
    garch: Floats
    combined: Floats
    combined_21d: Floats


def fit_symbol(
    window: BarSeries, estimator: Estimator, garch: GjrGarch | None = None
) -> tuple[SymbolModel, dict[str, float]]:
    """Fit one symbol to a window of its bars.

    Parameters
    ----------
    window : BarSeries
        At least 499 bars, of which not all returns are zero.
    estimator : {'range', 'close'}
    garch : GjrGarch, optional
        Fit to the same returns in units of their `own_scale`; fitted here unless given.

    Returns
    -------
    model : SymbolModel
    metrics : dict
        bars; qlike_har, qlike_garch, qlike_combination and qlike_ewma, the losses within the window on the
        estimator's variance, each forecast at its own best level; nu; persistence.

    Notes
    -----
    The combination is the geometric mean of the two variances. Its level is then set so that squared returns by
    forecast average 1 within the window, each counted up to 50, since a range estimator misses what moves price
    outside its hours and a single crash must not raise eight years of forecasts. No level is below 0.1 or above 10.
    """
    scale = own_scale(window.returns)
    returns, variance = standardised(window, scale, estimator)
    features = har_features(variance, returns, estimator)
    fit_har = fit_log_har if estimator == "range" else fit_qlike_har
    unit = SymbolModel(
        scale=scale,
        estimator=estimator,
        har_1d=fit_har(har_sample(variance, features, 1)).tolist(),
        har_21d=fit_har(har_sample(variance, features, HORIZON)).tolist(),
        garch=garch or fit_gjr_garch(returns),
        level_har=1.0,
        level_1d=1.0,
        level_21d=1.0,
        range_level=1.0,
        tail=ResidualTail(0.0, 0.0, 0.0),
    )
    raw = unit_forecasts(unit, returns, features)
    return _calibrated(unit, returns, variance, raw), _metrics(unit.garch, raw, returns, variance)


def _calibrated(unit: SymbolModel, returns: Floats, variance: Floats, raw: VarianceForecasts) -> SymbolModel:
    """Levels and tail, by the forecasts of a model whose levels are 1."""
    known = np.flatnonzero(np.isfinite(raw.har[:-1]))
    squares, before = np.square(returns[known + 1]), raw.combined[known]
    bounded = np.fmin(squares, LARGEST_SQUARE * before)
    level_1d = _level(bounded / before)
    own = np.fmin(variance[known + 1], LARGEST_SQUARE * before)
    # of each forecast of a month, the mean of the squares that came in it
    month = trailing_mean(bounded, HORIZON)[HORIZON - 1 :]
    by_month = np.fmin(month / raw.combined_21d[known][: len(month)], LARGEST_SQUARE)
    return replace(
        unit,
        level_har=_level(np.fmin(squares, LARGEST_SQUARE * raw.har[known]) / raw.har[known]),
        level_1d=level_1d,
        level_21d=_level(by_month),
        range_level=float(np.mean(own / before)) / level_1d,
        tail=residual_tail(returns[known + 1] / np.sqrt(level_1d * before)),
    )


def _level(ratios: Floats) -> float:
    return float(np.clip(np.mean(ratios), *LEVELS))


def standardised(window: BarSeries, scale: float, estimator: Estimator) -> tuple[Floats, Floats]:
    """Returns, and variance by the estimator, in units of a scale and of its square."""
    returns = window.returns / scale
    return returns, window.variance / scale**2 if estimator == "range" else np.square(returns)


def own_scale(returns: Floats) -> float:
    """Root mean square of returns, the unit of a symbol's model."""
    return float(np.sqrt(np.mean(np.square(returns))))


def unit_forecasts(model: SymbolModel, returns: Floats, features: Floats) -> VarianceForecasts:
    """Forecasts in units of the scale, by standardised returns and their features."""
    har = har_forecast(np.asarray(model.har_1d), features)
    har_21d = har_forecast(np.asarray(model.har_21d), features)
    garch = conditional_variance(model.garch, returns)[1:]
    garch_21d = mean_variance(model.garch, garch, HORIZON)
    return VarianceForecasts(
        har=model.level_har * har,
        garch=garch,
        combined=model.level_1d * np.sqrt(har * garch),
        combined_21d=model.level_21d * np.sqrt(har_21d * garch_21d),
    )


def ewma_variance(returns: Floats) -> Floats:
    """RiskMetrics' exponential average of squares as of each return, the first square in the place of a history.

    Notes
    -----
    ``s[t] = 0.94 s[t-1] + 0.06 r[t]^2``: J.P. Morgan/Reuters (1996). RiskMetrics - Technical Document, 4th ed.,
    p. 78-81 and 97.
    """
    squares = np.square(returns)
    filtered = lfilter([1.0 - DECAY], [1.0, -DECAY], squares, zi=[DECAY * squares[0]])
    return cast(Floats, filtered[0])


def _metrics(garch: GjrGarch, raw: VarianceForecasts, returns: Floats, variance: Floats) -> dict[str, float]:
    """Losses of forecasts, whose level does not matter, and two parameters for people to watch."""
    known = np.flatnonzero(np.isfinite(raw.har[:-1]))
    came = np.maximum(variance[known + 1], VARIANCE_FLOOR)
    by_name = {
        "har": raw.har,
        "garch": raw.garch,
        "combination": raw.combined,
        "ewma": np.maximum(ewma_variance(returns), VARIANCE_FLOOR),
    }
    losses = {f"qlike_{name}": qlike(came, forecast[known]) for name, forecast in by_name.items()}
    return {"bars": float(len(returns)), **losses, "nu": garch.nu, "persistence": garch.persistence}


def qlike(variance: Floats, forecast: Floats) -> float:
    """Mean of ``v / s - log(v / s) - 1``, the forecast s at the level at which the loss is least; both positive."""
    ratio = variance / forecast
    ratio = ratio / np.mean(ratio)
    return float(np.mean(ratio - np.log(ratio) - 1.0))


def pool(models: Sequence[SymbolModel]) -> SymbolModel:
    """Medians of the parameters of models of one estimator.

    The constant of the variance is not one: it is what gives the variance the symbol's own level, 1 in its scale.
    """

    def middle(values: Sequence[float]) -> float:
        return float(np.median(values))

    alpha, gamma, beta = (middle([getattr(m.garch, name) for m in models]) for name in ("alpha", "gamma", "beta"))
    garch = GjrGarch(
        mu=middle([m.garch.mu for m in models]),
        omega=max(1.0 - alpha - gamma / 2.0 - beta, 1e-4),
        alpha=alpha,
        gamma=gamma,
        beta=beta,
        nu=middle([m.garch.nu for m in models]),
        log_likelihood=0.0,
    )
    tails = [asdict(m.tail) for m in models]
    return SymbolModel(
        scale=None,
        estimator=models[0].estimator,
        har_1d=np.median([m.har_1d for m in models], axis=0).tolist(),
        har_21d=np.median([m.har_21d for m in models], axis=0).tolist(),
        garch=garch,
        level_har=middle([m.level_har for m in models]),
        level_1d=middle([m.level_1d for m in models]),
        level_21d=middle([m.level_21d for m in models]),
        range_level=middle([m.range_level for m in models]),
        tail=ResidualTail(**{name: middle([tail[name] for tail in tails]) for name in tails[0]}),
    )
