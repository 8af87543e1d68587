"""Allocation: long-only, capped mean-variance weights, scaled to a volatility target and to the regime.

Belongs here: target weights from forecasts and risk. Does not belong here: what is held already, or
whether a change is worth its cost (`quant.decisions`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trading_dagster.quant.one_thread import on_one_thread
from trading_dagster.quant.prices import PriceHistory

COVARIANCE_WINDOW = 500
SESSIONS_A_YEAR = 252
METHOD = "mean_variance"
NEGLIGIBLE_WEIGHT = 1e-4

Floats = NDArray[np.float64]


class AllocationError(ValueError):
    """Returns that give no covariance."""


@on_one_thread
def allocation(
    history: PriceHistory,
    sessions: pd.DatetimeIndex,
    forecast: pd.DataFrame,
    volatility: pd.DataFrame,
    market_suitability: pd.Series,
    *,
    max_weight: float,
    max_gross: float,
    volatility_target: float,
    risk_aversion: float,
) -> pd.DataFrame:
    """Compute target weights at each session.

    Parameters
    ----------
    history : PriceHistory
    sessions : DatetimeIndex
        Sessions to return.
    forecast, volatility : DataFrame
        Rows of those stages for the same sessions. A symbol without a forecast gets no weight.
    market_suitability : Series
        Share of the full exposure that the market's regime suits, by session.
    max_weight, max_gross : float
        Bounds on one weight and on their sum, fractions of equity.
    volatility_target : float
        Annual standard deviation that the portfolio must not exceed before the regime's scale.
    risk_aversion : float
        Factor on the daily variance in the utility that is maximised.

    Returns
    -------
    DataFrame
        session, symbol, weight (fraction of equity, >= 0), method; every forecast symbol has a row.

    Raises
    ------
    AllocationError
        If a symbol's returns are incomplete or its volatility is zero, so that there is no covariance.

    Notes
    -----
    Correlations come from the Ledoit-Wolf covariance [1]_ of the last 500 daily returns, standard deviations
    from the volatility stage. skfolio's mean-risk optimisation maximises
    ``mu' w - risk_aversion w' S w`` with ``sum w = 1`` and ``0 <= w <= max_weight``; mu is the expected
    return per session. With no more than ``1 / max_weight`` symbols each gets the cap and the rest stays in
    cash. The weights are then multiplied by
    ``min(1, max_gross / sum w, volatility_target / sqrt(252 w' S w)) * suitability``.

    References
    ----------
    .. [1] Ledoit, O. and Wolf, M. (2004). "A well-conditioned estimator for large-dimensional covariance
       matrices". Journal of Multivariate Analysis 88(2), 365-411.
    """
    returns = np.expm1(history.log_return)
    parts = []
    for session, rows in forecast[forecast["session"].isin(sessions)].groupby("session"):
        symbols = sorted(rows["symbol"])
        expected = rows.set_index("symbol")["expected_return"] / rows["horizon"].iloc[0]
        risk = volatility[volatility["session"] == session].set_index("symbol")["sigma_1d"]
        window = returns.loc[:session, symbols].iloc[-COVARIANCE_WINDOW:].to_numpy()
        covariance = _covariance(window, risk.loc[symbols].to_numpy(), f"{session:%Y-%m-%d}")
        weights = _optimise(window, expected.loc[symbols].to_numpy(), covariance, max_weight, risk_aversion)
        annual = float(np.sqrt(weights @ covariance @ weights * SESSIONS_A_YEAR))
        scale = min(1.0, max_gross / weights.sum(), volatility_target / annual)
        weights = weights * scale * float(market_suitability.loc[session])
        parts.append(pd.DataFrame({"session": session, "symbol": symbols, "weight": weights}))
    result = pd.concat(parts, ignore_index=True)
    return result.assign(method=METHOD)


def _covariance(window: Floats, sigma: Floats, session: str) -> Floats:
    """Ledoit-Wolf correlations with the given standard deviations."""
    from sklearn.covariance import LedoitWolf

    if len(window) < COVARIANCE_WINDOW or not np.isfinite(window).all() or not (sigma > 0).all():
        raise AllocationError(
            f"allocation: the covariance at {session} needs {COVARIANCE_WINDOW} returns and a volatility above zero of "
            f"every symbol; found {int(np.isfinite(window).all(axis=1).sum())} complete sessions and a least "
            f"volatility of {sigma.min():g}; take symbols that do not trade out of TRADING_UNIVERSE"
        )
    shrunk = LedoitWolf().fit(window).covariance_
    deviation = np.sqrt(np.diag(shrunk))
    return shrunk / np.outer(deviation, deviation) * np.outer(sigma, sigma)


def _optimise(window: Floats, mu: Floats, covariance: Floats, cap: float, risk_aversion: float) -> Floats:
    """Maximise utility under the cap; weights below a ten-thousandth are the solver's noise and become zero."""
    if len(mu) * cap <= 1.0:
        return np.full(len(mu), cap)
    from skfolio.optimization import MeanRisk, ObjectiveFunction

    model = MeanRisk(
        objective_function=ObjectiveFunction.MAXIMIZE_UTILITY,
        risk_aversion=risk_aversion,
        prior_estimator=_given_prior(mu, covariance),
        max_weights=cap,
    )
    weights = np.asarray(model.fit(window).weights_, dtype="float64")
    return np.clip(np.where(weights < NEGLIGIBLE_WEIGHT, 0.0, weights), 0.0, cap)


def _given_prior(mu: Floats, covariance: Floats) -> Any:
    """Wrap moments computed elsewhere as an skfolio prior; its base class takes seconds to import."""
    from skfolio.prior import BasePrior, ReturnDistribution

    class GivenPrior(BasePrior):  # type: ignore[misc]  # skfolio has no type information
        def __init__(self, mu: Floats, covariance: Floats) -> None:
            self.mu = mu
            self.covariance = covariance

        def fit(self, X: Any, y: Any = None, **_: Any) -> Any:
            self.return_distribution_ = ReturnDistribution(
                mu=self.mu, covariance=self.covariance, returns=np.asarray(X)
            )
            return self

    return GivenPrior(mu, covariance)
