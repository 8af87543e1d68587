"""Return forecast: gradient-boosted trees, pooled over symbols, shrunk toward zero.

Belongs here: labels, fitting, predicting, and the model as bytes. Does not belong here: the features'
formulas (`quant.features`) or what a forecast is used for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trading_dagster.quant.cycles import phasing
from trading_dagster.quant.features import FEATURES, PHASE_CYCLES, features
from trading_dagster.quant.one_thread import on_one_thread
from trading_dagster.quant.prices import PriceHistory, long_rows
from trading_dagster.quant.regime import fit_regime_models, regime
from trading_dagster.quant.volatility import volatility
from trading_dagster.quant.volatility_models import fit_volatility_models

HORIZON = 5
"""Sessions ahead."""

STRIDE = HORIZON
"""Every fifth session is learned from, counted from the history's first: labels in between would overlap."""

HELD_OUT = 100
"""Last of those sessions held out to measure the shrinkage and the interval, two years."""

LEAST_LEARNED = 50
"""Fewest of those sessions before them, one year."""

PRIOR_DEVIATION = 0.5
"""Standard deviation of the prior, around zero, on the slope of outcome on raw prediction."""

COVERAGE = 0.90
LABEL_LIMIT = 4.0
"""Labels are cut at four deviations: a single crash must not rule the squared loss."""

PARAMETERS: dict[str, Any] = {
    "objective": "reg:squarederror",
    "tree_method": "hist",
    "max_depth": 3,
    "learning_rate": 0.05,
    "min_child_weight": 100.0,
    "reg_lambda": 20.0,
    "subsample": 0.7,
    "colsample_bytree": 0.5,
    "seed": 20000103,
    # one thread: the histogram's sums depend on how many there are, and the model must not
    "nthread": 1,
}
ROUNDS = 100


class InsufficientTrainingError(ValueError):
    """Too few sessions with known labels to fit and validate a model."""


@dataclass(frozen=True)
class ForecastModel:
    """A fitted model with all that is needed to forecast from it.

    Attributes
    ----------
    booster : bytes
        The trees, XGBoost's UBJSON.
    shrinkage : float
        Factor in [0, 1] on the trees' output, learned out of sample.
    residuals : ndarray of float64, shape (n_validation,)
        Sorted out-of-sample errors in units of volatility; they give the interval and the probability.
    fitted_to : Timestamp
        Last session whose prices were seen.
    rows : int
        Training rows, one a session and symbol.
    metrics : dict of str to float
        Out-of-sample figures: r2 (against zero), information_coefficient, slope.
    """

    booster: bytes
    shrinkage: float
    residuals: NDArray[np.float64]
    fitted_to: pd.Timestamp
    rows: int
    metrics: dict[str, float]

    @property
    def parameters(self) -> str:
        """All but the trees, as JSON; the residuals are kept as 201 quantiles."""
        return json.dumps(
            {
                "horizon": HORIZON,
                "features": list(FEATURES),
                "shrinkage": self.shrinkage,
                "residual_quantiles": self.residuals.tolist(),
                "rounds": ROUNDS,
                "xgboost": PARAMETERS,
            },
            sort_keys=True,
        )


@dataclass(frozen=True)
class StageModels:
    """Parameters of the stages that the features come from.

    Attributes
    ----------
    regime, volatility : DataFrame
        Rows of `fit_regime_models` and `fit_volatility_models`.
    """

    regime: pd.DataFrame
    volatility: pd.DataFrame

    def of(self, month: pd.Timestamp) -> StageModels:
        """Keep one month's."""
        return StageModels(*(rows[rows["month"] == month] for rows in (self.regime, self.volatility)))

    def regime_for_all(self, sessions: pd.DatetimeIndex) -> pd.DataFrame:
        """Regime models of one month, as those of every month of the sessions."""
        months = pd.DataFrame({"month": sessions.to_period("M").unique().to_timestamp().as_unit("us")})
        return self.regime.drop(columns="month").merge(months, how="cross")


def fit_stage_models(
    history: PriceHistory,
    month: pd.Timestamp,
    fitted_to: pd.Timestamp,
    market_symbol: str,
    model: str,
    symbols: Sequence[str] | None = None,
) -> StageModels:
    """Fit the regime and the volatility of one month, as their own stages do.

    Parameters
    ----------
    model : str
        Kind of the regime model.
    symbols : sequence of str, optional
        Symbols of the volatility models; all by default.
    """
    months, ends = pd.DatetimeIndex([month]), pd.DatetimeIndex([fitted_to])
    return StageModels(
        fit_regime_models(history, months, ends, market_symbol, model),
        fit_volatility_models(history if symbols is None else history.select(symbols), months, ends),
    )


@on_one_thread
def fit_forecast_models(
    history: PriceHistory,
    market_symbol: str,
    months: pd.DatetimeIndex,
    fitted_to: pd.DatetimeIndex,
    models: StageModels,
    symbols: Sequence[str] | None = None,
) -> list[ForecastModel]:
    """Fit one model a month, each on the labels that were known at its session of `fitted_to`.

    Parameters
    ----------
    history : PriceHistory
        Up to the last of `fitted_to`, or longer.
    market_symbol : str
        Row name of the equal-weight market.
    months, fitted_to : DatetimeIndex
        Months served, and the last session before each.
    models : StageModels
        Of these months.
    symbols : sequence of str, optional
        Symbols to learn from; all by default. The others only count toward the market.

    Returns
    -------
    list of ForecastModel

    Raises
    ------
    InsufficientTrainingError
        If fewer than `HELD_OUT` and `LEAST_LEARNED` sampled sessions carry a label.

    Notes
    -----
    The label of session t is the log return to t + 5 over ``sigma_t sqrt 5``; it is known at t + 5. Every fifth
    session is a row, so that labels do not overlap. A first model is fitted without the last 100 rows of a symbol and
    without the one before them (purge and embargo; Lopez de Prado 2018, ch. 7), on features whose parameters, too,
    were fitted before these: the month's own have seen the held-out prices. On the held-out sessions the least-squares
    slope b of label on prediction through zero, with standard error e, meets a prior of no skill, N(0, 0.5^2): the
    shrinkage is the posterior mean ``b 0.25 / (0.25 + e^2)``, kept within [0, 1]. A model whose held-out slope is
    negative forecasts zero. The model in use is then fitted on all rows with the month's own parameters.
    """
    longest = history.until(fitted_to.max())
    # what has no parameters is computed once: rows of a session do not depend on later ones
    phases = phasing(longest if symbols is None else longest.select(symbols), _sampled(longest), PHASE_CYCLES)
    fitted = []
    for month, last in zip(months, fitted_to, strict=True):
        known = history.until(last)
        own = models.of(month)
        table = training_table(known, market_symbol, own, phases, symbols)
        first = _first_held_out(table, last)
        before = known.sessions[known.sessions.get_loc(first) - HORIZON]
        kind = str(own.regime["model"].iloc[0])
        earlier = fit_stage_models(known, month, before, market_symbol, kind, symbols)
        validation = training_table(known, market_symbol, earlier, phases, symbols)
        fitted.append(_fit(table, validation, first, before, last))
    return fitted


def _sampled(history: PriceHistory) -> pd.DatetimeIndex:
    return history.sessions[::STRIDE]


def _first_held_out(table: pd.DataFrame, fitted_to: pd.Timestamp) -> pd.Timestamp:
    """First session on which the model is judged."""
    sessions = pd.DatetimeIndex(table["session"].unique())
    if len(sessions) < HELD_OUT + LEAST_LEARNED:
        raise InsufficientTrainingError(
            f"forecast_model: {len(sessions)} of every {STRIDE}th session up to {fitted_to:%Y-%m-%d} have all features "
            f"and a known label; {HELD_OUT + LEAST_LEARNED} are needed to fit and to validate. Supply more history or "
            "start with a later month."
        )
    return sessions[-HELD_OUT]


def _fit(
    table: pd.DataFrame,
    validation: pd.DataFrame,
    first: pd.Timestamp,
    before: pd.Timestamp,
    fitted_to: pd.Timestamp,
) -> ForecastModel:
    """Validate, measure the shrinkage, and fit on all rows.

    Parameters
    ----------
    table, validation : DataFrame
        Rows with the month's own parameters, and with those of `before`.
    first, before : Timestamp
        First session held out, and the first one left out of the training for it.
    """
    import xgboost

    held_out = validation[validation["session"] >= first]
    judged = _train(xgboost, validation[validation["session"] < before])
    prediction = judged.predict(_matrix(xgboost, held_out)).astype("float64")
    label = held_out["label"].to_numpy()
    slope, error = _slope_through_zero(prediction, label, held_out["session"])
    shrinkage = float(np.clip(slope * PRIOR_DEVIATION**2 / (PRIOR_DEVIATION**2 + error**2), 0.0, 1.0))
    shrunk = shrinkage * prediction
    pairs = pd.DataFrame({"prediction": prediction, "label": label})
    ranks = pairs.groupby(held_out["session"].to_numpy()).rank(pct=True)
    metrics = {
        "r2": float(1.0 - np.square(label - shrunk).sum() / np.square(label).sum()),
        "information_coefficient": _correlation(ranks["prediction"], ranks["label"]),
        "slope": float(slope),
        "slope_standard_error": float(error),
        "shrinkage": shrinkage,
    }
    final = _train(xgboost, table)
    return ForecastModel(
        booster=bytes(final.save_raw("ubj")),
        shrinkage=shrinkage,
        residuals=np.quantile(label - shrunk, np.linspace(0.0, 1.0, 201)),
        fitted_to=fitted_to,
        rows=len(table),
        metrics=metrics,
    )


def training_table(
    history: PriceHistory,
    market_symbol: str,
    models: StageModels,
    phases: pd.DataFrame | None = None,
    symbols: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Features and label of every fifth session, of each symbol that has all of them.

    Parameters
    ----------
    models : StageModels
        Of one month; its parameters are applied to all sessions.
    phases : DataFrame, optional
        Rows of `phasing` for these sessions or more, where they are there already.

    Returns
    -------
    DataFrame
        Columns session, symbol, `FEATURES`, label; sorted by session and symbol.
    """
    sessions = _sampled(history)
    states = regime(history, sessions, market_symbol, models.regime_for_all(sessions))
    history = history if symbols is None else history.select(symbols)
    phases = phasing(history, sessions, PHASE_CYCLES) if phases is None else phases[phases["session"].isin(sessions)]
    risk = volatility(history, sessions, models.volatility, states, one_model=True)
    table = features(history, sessions, phases, states, risk, market_symbol)
    log_price = np.log(history.total_return)
    ahead = log_price.shift(-HORIZON) - log_price  # the label looks ahead; a row without one is dropped below
    table = table.merge(long_rows({"ahead": ahead}, sessions), on=["session", "symbol"])
    table["label"] = (table["ahead"] / (table["sigma"] * np.sqrt(HORIZON))).clip(-LABEL_LIMIT, LABEL_LIMIT)
    table = table.drop(columns="ahead").dropna()
    return table.sort_values(["session", "symbol"], ignore_index=True)


def forecast(
    booster: bytes, parameters: str, table: pd.DataFrame, volatility_rows: pd.DataFrame, model_name: str
) -> pd.DataFrame:
    """Forecast from features with a stored model.

    Parameters
    ----------
    booster, parameters
        As in `ForecastModel`.
    table : DataFrame
        From `quant.features.features`.
    volatility_rows : DataFrame
        Rows of the volatility stage for the same sessions.
    model_name : str
        Written into each row.

    Returns
    -------
    DataFrame
        session, symbol, horizon (sessions), expected_return, lower, upper (log returns over the horizon;
        the bounds hold 90 % of out-of-sample errors), p_up, confidence (``|2 p_up - 1|``), model.

    Raises
    ------
    ValueError
        If a row has a missing feature or the stored features are not the ones computed here.
    """
    import xgboost

    stored = json.loads(parameters)
    if stored["features"] != list(FEATURES):
        differing = sorted(set(stored["features"]) ^ set(FEATURES)) or ["their order"]
        raise ValueError(
            f"{model_name} was fitted on other features than are computed now (difference: "
            f"{', '.join(differing)}); fit it again: dagster asset materialize --select forecast_model "
            f"--partition {model_name.rpartition('@')[2]}"
        )
    gaps = table[list(FEATURES)].isna().any(axis=1)
    if gaps.any():
        row = table[gaps].iloc[0]
        missing = [name for name in FEATURES if pd.isna(row[name])]
        raise ValueError(
            f"forecast: {row['symbol']} at {row['session']:%Y-%m-%d} has no value for {', '.join(missing)}; a "
            "price that "
            "does not move over the features' windows cannot be forecast: take the symbol out of TRADING_UNIVERSE"
        )
    model = xgboost.Booster()
    model.load_model(bytearray(booster))
    sigma = table[["session", "symbol"]].merge(volatility_rows, on=["session", "symbol"], how="left")
    scale = sigma["sigma_1d"].to_numpy() * np.sqrt(stored["horizon"])
    standardised = stored["shrinkage"] * model.predict(_matrix(xgboost, table)).astype("float64")
    quantiles = np.asarray(stored["residual_quantiles"])
    levels = np.linspace(0.0, 1.0, len(quantiles))
    low, high = np.interp([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], levels, quantiles)
    # the return is positive where the error exceeds minus the expectation
    p_up = 1.0 - np.interp(-standardised, quantiles, levels)
    return pd.DataFrame(
        {
            "session": table["session"].to_numpy(),
            "symbol": table["symbol"].to_numpy(),
            "horizon": np.full(len(table), stored["horizon"], dtype="int16"),
            "expected_return": standardised * scale,
            "lower": (standardised + low) * scale,
            "upper": (standardised + high) * scale,
            "p_up": p_up,
            "confidence": np.abs(2.0 * p_up - 1.0),
            "model": model_name,
        }
    ).sort_values(["session", "symbol"], ignore_index=True)


def _train(xgboost: Any, table: pd.DataFrame) -> Any:
    return xgboost.train(PARAMETERS, _matrix(xgboost, table, table["label"]), num_boost_round=ROUNDS)


def _matrix(xgboost: Any, table: pd.DataFrame, label: pd.Series | None = None) -> Any:
    values = table[list(FEATURES)].to_numpy(dtype="float32")
    return xgboost.DMatrix(values, label=label, feature_names=list(FEATURES), nthread=1)


def _correlation(first: pd.Series, second: pd.Series) -> float:
    """Pearson's correlation, zero where either side does not vary."""
    return float(first.corr(second)) if first.nunique() > 1 and second.nunique() > 1 else 0.0


def _slope_through_zero(
    prediction: NDArray[np.float64], label: NDArray[np.float64], sessions: pd.Series
) -> tuple[float, float]:
    """Slope of label on prediction without intercept, and its standard error.

    Labels of one session move together, so errors are clustered by session (Cameron and Miller 2015, eq. 11, for one
    regressor); those of different sessions do not overlap.
    """
    square = float(np.square(prediction).sum())
    if square == 0.0:
        return 0.0, 0.0
    slope = float(prediction @ label) / square
    score = prediction * (label - slope * prediction)
    meat = float(np.square(np.bincount(pd.factorize(sessions)[0], weights=score)).sum())
    return slope, float(np.sqrt(meat)) / square
