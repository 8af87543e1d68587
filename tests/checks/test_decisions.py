"""The check on weights: what may be traded, and what drift may do."""

from __future__ import annotations

import pandas as pd
import pytest

from trading_dagster.checks.decisions import WEIGHTS_CHECK, check_weights, weights_spec

SESSION = pd.Timestamp("2010-03-04")
OTHER = pd.Timestamp("2010-03-05")


def weights(*rows: tuple[str, float], session: pd.Timestamp = SESSION) -> pd.DataFrame:
    return pd.DataFrame([(session, *row) for row in rows], columns=["session", "symbol", "weight"])


def signals(*rows: tuple[str, str, float]) -> pd.DataFrame:
    return pd.DataFrame([(SESSION, *row) for row in rows], columns=["session", "symbol", "action", "weight"])


def passes(rows: pd.DataFrame) -> bool:
    return check_weights("allocation", rows, "weight", max_weight=0.4, max_gross=0.9).passed


@pytest.mark.parametrize(
    ("rows", "good"),
    [
        pytest.param(weights(("A", 0.4), ("B", 0.4), ("C", 0.0)), True, id="within"),
        pytest.param(weights(("A", 0.4 + 1e-12), ("B", 0.1)), True, id="rounding_is_forgiven"),
        pytest.param(weights(("A", 0.41), ("B", 0.1)), False, id="above_the_cap"),
        pytest.param(weights(("A", -0.001), ("B", 0.1)), False, id="negative"),
        pytest.param(weights(("A", 0.4), ("B", 0.4), ("C", 0.11)), False, id="above_the_gross"),
        pytest.param(
            pd.concat([weights(("A", 0.3), ("B", 0.4)), weights(("A", 0.3), session=OTHER)]), True, id="two_sessions"
        ),
        pytest.param(
            pd.concat([weights(("A", 0.3)), weights(("A", 0.4), ("B", 0.4), ("C", 0.2), session=OTHER)]),
            False,
            id="second_session_above_the_gross",
        ),
    ],
)
def test_allocated_weights(rows: pd.DataFrame, good: bool) -> None:
    assert passes(rows.reset_index(drop=True)) is good


@pytest.mark.parametrize(
    ("rows", "good"),
    [
        pytest.param(signals(("A", "HOLD", 0.45)), True, id="held_above_the_cap"),
        pytest.param(signals(("A", "SELL", 0.45)), False, id="sold_down_to_above_the_cap"),
        pytest.param(signals(("A", "HOLD", 0.5), ("B", "HOLD", 0.42)), True, id="held_above_the_gross"),
        pytest.param(signals(("A", "HOLD", 0.5), ("B", "SELL", 0.39), ("C", "HOLD", 0.05)), True, id="only_sales"),
        pytest.param(signals(("A", "HOLD", 0.5), ("B", "BUY", 0.39), ("C", "HOLD", 0.05)), False, id="buy_too_much"),
    ],
)
def test_decided_weights(rows: pd.DataFrame, good: bool) -> None:
    assert passes(rows) is good


def test_result_names_rows_and_figures() -> None:
    result = check_weights("allocation", weights(("A", 0.5), ("B", 0.3)), "weight", max_weight=0.4, max_gross=0.9)
    assert result.metadata["rows_outside"].value == ["2010-03-04 A 0.5000"]
    assert result.metadata["largest_gross"].value == pytest.approx(0.8)
    assert result.metadata["largest_weight"].value == 0.5
    assert result.description == "1 weights outside [0, 0.4], 0 sessions above 0.9 in sum"


def test_declaration_blocks() -> None:
    spec = weights_spec("signals")
    assert (spec.name, spec.blocking, spec.asset_key.to_user_string()) == (WEIGHTS_CHECK, True, "signals")
