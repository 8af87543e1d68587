"""The two regime models behind one interface: from prices to parameters, from parameters to probabilities.

Belongs here: what a model sees, what it stores, how stored parameters are applied. Does not belong here: the
mathematics of the models, and which month and symbol is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from trading_dagster.quant import hidden_markov, jump_model
from trading_dagster.quant.hidden_markov import StudentChain, sum_over_sessions
from trading_dagster.quant.regime_features import downside_features

SESSIONS_A_YEAR = 252

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Parameters = dict[str, Any]
"""Plain numbers and lists of them, of one series."""


@dataclass(frozen=True)
class Inference:
    """Probability of turbulent and whether the state is turbulent, each (sessions, series)."""

    probability: Floats
    turbulent: Bools


class RegimeModel(Protocol):
    """What a model has to offer; inputs are (inputs, sessions, series), missing before a series begins."""

    def inputs(self, returns: Floats) -> Floats:
        """What the model sees, from simple returns (sessions, series)."""

    def units(self, window: Floats) -> list[Parameters]:
        """The parameters that are a series' own units; the others can be borrowed from the market."""

    def fit(self, window: Floats) -> list[tuple[Parameters, Parameters]]:
        """Parameters and metrics of each series."""

    def infer(self, inputs: Floats, parameters: list[Parameters]) -> Inference:
        """Filter each series with its parameters."""


@dataclass(frozen=True)
class StatisticalJump:
    """Statistical jump model; its probability is that of what hindsight will say, see `calibrated_slope`."""

    penalty: float = jump_model.JUMP_PENALTY

    def inputs(self, returns: Floats) -> Floats:
        """Downside deviation and Sortino ratios."""
        return downside_features(returns)

    def units(self, window: Floats) -> list[Parameters]:
        """Clipping and standardisation."""
        return _scale_parameters(jump_model.feature_scale(window))

    def fit(self, window: Floats) -> list[tuple[Parameters, Parameters]]:
        """Fit in the series' own units."""
        scale = jump_model.feature_scale(window)
        known = np.isfinite(window[0])
        scaled = scale.apply(window)
        fit = jump_model.fit_jump_model(scaled, known, self.penalty)
        difference = jump_model.value_differences(scaled, known, fit.centres, self.penalty)
        slope = jump_model.calibrated_slope(difference, fit.states, known, self.penalty)
        common = _common_metrics(difference < 0.0, known)
        return [
            (
                units | {"centres": fit.centres[..., at].tolist(), "penalty": self.penalty, "slope": float(slope[at])},
                common[at] | {"objective": float(fit.objective[at]), "iterations": int(fit.iterations[at])},
            )
            for at, units in enumerate(_scale_parameters(scale))
        ]

    def infer(self, inputs: Floats, parameters: list[Parameters]) -> Inference:
        """Online inference: the forward pass alone."""
        columns = {name: np.array([each[name] for each in parameters]).T for name in jump_model.FeatureScale.__slots__}
        scale = jump_model.FeatureScale(**columns)
        centres = np.moveaxis(np.array([each["centres"] for each in parameters]), 0, 2)
        penalty, slope = (np.array([each[name] for each in parameters]) for name in ("penalty", "slope"))
        difference = jump_model.value_differences(scale.apply(inputs), np.isfinite(inputs[0]), centres, penalty)
        return Inference(expit(-slope * difference), difference < 0.0)


@dataclass(frozen=True)
class StudentHiddenMarkov:
    """Student-t hidden Markov model, filtered, with hysteresis."""

    threshold: float = hidden_markov.SWITCH_PROBABILITY

    def inputs(self, returns: Floats) -> Floats:
        """The returns themselves."""
        return returns[None]

    def units(self, window: Floats) -> list[Parameters]:
        """Mean absolute return."""
        return [{"unit": float(unit)} for unit in _mean_absolute(window[0])]

    def fit(self, window: Floats) -> list[tuple[Parameters, Parameters]]:
        """Fit in the series' own units; the log likelihood is that of the returns."""
        known, unit = np.isfinite(window[0]), _mean_absolute(window[0])
        moves = np.where(known, window[0], 0.0) / unit
        fit = hidden_markov.fit_student_chain(moves, known)
        turbulent = hidden_markov.with_hysteresis(
            hidden_markov.filtered_probability(moves, known, fit.chain), self.threshold
        )
        common = _common_metrics(turbulent, known)
        likelihood = fit.log_likelihood - known.sum(axis=0) * np.log(unit)
        names = StudentChain.__slots__
        return [
            (
                {name: float(getattr(fit.chain, name)[at]) for name in names}
                | {"unit": float(unit[at]), "threshold": self.threshold},
                common[at] | {"log_likelihood": float(likelihood[at]), "iterations": int(fit.iterations[at])},
            )
            for at in range(len(unit))
        ]

    def infer(self, inputs: Floats, parameters: list[Parameters]) -> Inference:
        """Hamilton's filter, then hysteresis."""
        chain = StudentChain(*(np.array([each[name] for each in parameters]) for name in StudentChain.__slots__))
        unit, threshold = (np.array([each[name] for each in parameters]) for name in ("unit", "threshold"))
        known = np.isfinite(inputs[0])
        probability = hidden_markov.filtered_probability(np.where(known, inputs[0], 0.0) / unit, known, chain)
        return Inference(probability, hidden_markov.with_hysteresis(probability, threshold))


REGIME_MODELS: dict[str, RegimeModel] = {"jump": StatisticalJump(), "hmm": StudentHiddenMarkov()}


def sessions_in_state(turbulent: Bools, known: Bools) -> NDArray[np.int64]:
    """Sessions since the last switch, its own counted; since the series began where there was none.

    Parameters
    ----------
    turbulent, known : ndarray of bool (sessions, series)

    Returns
    -------
    ndarray of int (sessions, series)
        0 before a series begins.
    """
    at = np.arange(len(turbulent))[:, None]
    begins = known.copy()
    begins[1:] &= ~known[:-1] | (turbulent[1:] != turbulent[:-1])
    return np.where(known, at - np.maximum.accumulate(np.where(begins, at, 0), axis=0) + 1, 0)


def _scale_parameters(scale: jump_model.FeatureScale) -> list[Parameters]:
    names = jump_model.FeatureScale.__slots__
    return [{name: getattr(scale, name)[:, at].tolist() for name in names} for at in range(scale.mean.shape[1])]


def _mean_absolute(returns: Floats) -> Floats:
    """Mean absolute return of each series; 1 for a price that never moved."""
    known = np.isfinite(returns)
    mean = sum_over_sessions(np.where(known, np.abs(returns), 0.0)) / np.maximum(known.sum(axis=0), 1)
    return np.where(mean > 0, mean, 1.0)


def _common_metrics(turbulent: Bools, known: Bools) -> list[Parameters]:
    """Figures of the online states in the fit window."""
    sessions = known.sum(axis=0)
    switches = ((turbulent[1:] != turbulent[:-1]) & known[:-1]).sum(axis=0)
    share = (turbulent & known).sum(axis=0) / sessions
    return [
        {
            "sessions": int(count),
            "switches_a_year": float(SESSIONS_A_YEAR * switched / count),
            "turbulent_share": float(part),
        }
        for count, switched, part in zip(sessions, switches, share, strict=True)
    ]
