"""Simulated two-state chains, and the filter that knows their parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Design:
    """Scales of the two states, mean sessions in each, degrees of freedom (None is Gaussian)."""

    calm: float
    turbulent: float
    calm_sessions: float
    turbulent_sessions: float
    degrees: float | None


GAUSSIAN = Design(0.007, 0.0175, 200.0, 100.0, None)
STUDENT = Design(0.007, 0.014, 200.0, 100.0, 4.0)


def simulate(design: Design, sessions: int, series: int, seed: int) -> tuple[Floats, Bools]:
    """Returns and states (True is turbulent), each (sessions, series)."""
    random = np.random.default_rng(seed)
    leave_calm, leave_turbulent = 1.0 / design.calm_sessions, 1.0 / design.turbulent_sessions
    states = np.zeros((sessions, series), dtype=bool)
    states[0] = random.random(series) < leave_calm / (leave_calm + leave_turbulent)
    draws = random.random((sessions, series))
    for at in range(1, sessions):
        states[at] = np.where(states[at - 1], draws[at] >= leave_turbulent, draws[at] < leave_calm)
    shape = (sessions, series)
    noise = random.standard_normal(shape) if design.degrees is None else random.standard_t(design.degrees, shape)
    return noise * np.where(states, design.turbulent, design.calm), states


def oracle_probability(design: Design, returns: Floats) -> Floats:
    """Probability of turbulent by the filter that knows the parameters."""
    leave = np.array([1.0 / design.calm_sessions, 1.0 / design.turbulent_sessions])
    change = np.array([[1.0 - leave[0], leave[0]], [leave[1], 1.0 - leave[1]]])
    law = stats.norm() if design.degrees is None else stats.t(design.degrees)
    density = np.stack([law.pdf(returns / scale) / scale for scale in (design.calm, design.turbulent)])
    state = np.repeat(leave[::-1, None] / leave.sum(), returns.shape[1], axis=1)
    found = np.empty_like(returns)
    for at in range(len(returns)):
        if at:
            state = change.T @ state
        state = state * density[:, at]
        state /= state.sum(axis=0)
        found[at] = state[1]
    return found


def balanced_accuracy(states: Bools, truth: Bools) -> float:
    """Mean of the shares of either state that was recognised."""
    return float((states[truth].mean() + (~states[~truth]).mean()) / 2.0)


def switches_a_year(states: Bools) -> float:
    """Switches in 252 sessions."""
    return float(252.0 * (states[1:] != states[:-1]).mean())
