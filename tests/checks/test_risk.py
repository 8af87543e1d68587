"""Checks on forecast losses: each forecast is held against the session after its own, and too few are said so."""

from __future__ import annotations

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from tests.quant.histories import closes_history
from trading_dagster.checks.risk import TESTS, check_risk, risk_specs
from trading_dagster.quant.prices import PriceHistory

SESSIONS = 300


def history_of(returns: dict[str, np.ndarray]) -> PriceHistory:
    return closes_history({symbol: 100.0 * np.exp(np.cumsum(moves)) for symbol, moves in returns.items()})


def forecasts_of(history: PriceHistory, var_99: np.ndarray, last: int = SESSIONS) -> pd.DataFrame:
    """The same forecasts for every symbol at each of the last sessions."""
    rows = [
        (session, symbol, var_99[at] * 0.7, var_99[at], var_99[at])
        for at, session in enumerate(history.sessions)
        if at >= SESSIONS - last
        for symbol in history.symbols
    ]
    return pd.DataFrame(rows, columns=["session", "symbol", "var_95", "var_99", "es_975"])


def results(history: PriceHistory, forecasts: pd.DataFrame) -> dict[str, dg.AssetCheckResult]:
    found = {str(result.check_name): result for result in check_risk("volatility", history, forecasts)}
    assert set(found) == set(TESTS) == {spec.name for spec in risk_specs("volatility")}
    assert {result.severity for result in found.values()} == {dg.AssetCheckSeverity.WARN}
    assert not any(spec.blocking for spec in risk_specs("volatility"))
    return found


def calm(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.01, SESSIONS)


def test_a_forecast_is_held_against_the_session_after_its_own() -> None:
    moves = np.full(SESSIONS, 0.001)
    crashes = np.arange(60, SESSIONS, 20)
    moves[crashes] = -0.10
    foresight = np.full(SESSIONS, 0.02)
    foresight[crashes - 1] = 0.20
    same_day = np.full(SESSIONS, 0.02)
    same_day[crashes] = 0.20
    history = history_of({"A": moves})
    right = results(history, forecasts_of(history, foresight))["var_kupiec"]
    wrong = results(history, forecasts_of(history, same_day))["var_kupiec"]
    # no loss was beyond what was said the session before; with what is said at its own close, all twelve are
    assert "| A | 250 | 250 | 0 |" in right.metadata["hits_and_p_values"].value
    assert "| A | 250 | 250 | 12 |" in wrong.metadata["hits_and_p_values"].value
    assert not wrong.passed
    assert "refuted for A (12 beyond, p 0.000)" in str(wrong.description)


def test_losses_as_forecast_pass_and_the_longer_window_waits() -> None:
    history = history_of({"A": calm(3), "B": calm(5)})
    found = results(history, forecasts_of(history, np.full(SESSIONS, 0.0233)))
    for result in found.values():
        assert result.passed
        assert "250 sessions: not refuted for any of 2 symbols" in str(result.description)
        assert "1000 sessions: not tested, 299 forecasts with an outcome are stored" in str(result.description)


def test_too_few_forecasts_are_said_to_be_too_few() -> None:
    history = history_of({"A": calm(3)})
    for result in results(history, forecasts_of(history, np.full(SESSIONS, 0.0001), last=20)).values():
        # each of them is wrong, and twenty cannot show it
        assert result.passed
        assert "250 sessions: not tested, 19 forecasts" in str(result.description)


def test_only_the_symbol_that_fails_is_named() -> None:
    history = history_of({"GOOD": calm(3), "WILD": 3.0 * calm(4)})
    result = results(history, forecasts_of(history, np.full(SESSIONS, 0.0233)))["var_christoffersen"]
    assert not result.passed
    assert "refuted for WILD" in str(result.description)
    assert "GOOD" not in str(result.description)


@pytest.mark.parametrize("name", TESTS)
def test_descriptions_say_what_is_tested(name: str) -> None:
    (spec,) = [spec for spec in risk_specs("volatility") if spec.name == name]
    assert "the last 250 and 1,000 forecasts" in str(spec.description)
