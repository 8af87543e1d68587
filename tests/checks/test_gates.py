"""The check on gates: what fails a run, what only warns, and what it tells."""

from __future__ import annotations

from datetime import date

import dagster as dg
import pytest

from trading_dagster.checks.gates import CHECK_NAME, check_gates, gates_spec
from trading_dagster.execution.gates import Gate, Refusal
from trading_dagster.execution.trading_session import SessionTrades

EARLIER, NEWEST = date(2020, 3, 9), date(2020, 3, 10)
WHOLE = Refusal(Gate.HALT, "HALTED by me: why")
LATE = Refusal(Gate.FRESHNESS, "2020-03-09 is past")
ONE = Refusal(Gate.ORDER_NOTIONAL, "an order of 9", "AAA")
OTHER = Refusal(Gate.CASH, "it needs 5", "BBB")


def trades(*refusals: Refusal, unsettled: tuple[str, ...] = ()) -> SessionTrades:
    return SessionTrades(3, 2, decided_before=False, refusals=refusals, unsettled=unsettled)


@pytest.mark.parametrize(
    ("sessions", "outcome"),
    [
        pytest.param({NEWEST: trades()}, "passes", id="nothing"),
        pytest.param({EARLIER: trades(), NEWEST: trades()}, "passes", id="nothing_in_two_sessions"),
        pytest.param({NEWEST: trades(ONE)}, "warns", id="one_order"),
        pytest.param({NEWEST: trades(ONE, OTHER)}, "warns", id="two_orders"),
        pytest.param({EARLIER: trades(LATE), NEWEST: trades()}, "warns", id="an_earlier_session"),
        pytest.param({NEWEST: trades(), EARLIER: trades(LATE)}, "warns", id="an_earlier_session_given_last"),
        pytest.param({EARLIER: trades(ONE), NEWEST: trades()}, "warns", id="an_order_of_an_earlier_session"),
        pytest.param({NEWEST: trades(WHOLE)}, "fails", id="the_newest_session"),
        pytest.param({NEWEST: trades(ONE, WHOLE)}, "fails", id="an_order_and_then_the_newest_session"),
        pytest.param({EARLIER: trades(LATE), NEWEST: trades(WHOLE)}, "fails", id="both_sessions"),
        pytest.param({NEWEST: trades(unsettled=("main-a: no answer",))}, "fails", id="an_order_of_unknown_fate"),
        pytest.param(
            {EARLIER: trades(unsettled=("main-a: no answer",)), NEWEST: trades()},
            "fails",
            id="an_earlier_order_of_unknown_fate",
        ),
    ],
)
def test_what_fails_and_what_warns(sessions: dict[date, SessionTrades], outcome: str) -> None:
    result = check_gates(sessions)
    assert result.passed is (outcome == "passes")
    # Dagster stops a run where a blocking check fails with this severity
    blocks = not result.passed and result.severity is dg.AssetCheckSeverity.ERROR
    assert blocks is (outcome == "fails")
    assert (result.check_name, result.asset_key) == (CHECK_NAME, dg.AssetKey("orders"))


def test_result_tells_session_gate_symbol_and_reason() -> None:
    result = check_gates({NEWEST: trades(OTHER, ONE, unsettled=("main-a: no answer",)), EARLIER: trades(LATE)})
    assert result.description == (
        "2020-03-09: freshness: 2020-03-09 is past; 2020-03-10: cash of BBB: it needs 5; "
        "2020-03-10: order_notional of AAA: an order of 9; main-a: no answer"
    )
    assert result.metadata["gates"].value == "cash, freshness, order_notional"
    assert result.metadata["unsettled"].value == 1
    assert [record.data for record in result.metadata["refusals"].records] == [
        {"session": "2020-03-09", "gate": "freshness", "symbol": "", "detail": "2020-03-09 is past"},
        {"session": "2020-03-10", "gate": "cash", "symbol": "BBB", "detail": "it needs 5"},
        {"session": "2020-03-10", "gate": "order_notional", "symbol": "AAA", "detail": "an order of 9"},
    ]


def test_result_of_a_run_that_passed() -> None:
    result = check_gates({NEWEST: trades()})
    assert result.description == "all gates passed"
    assert result.metadata["gates"].value == "none refused"
    assert result.metadata["refusals"].records == []


def test_a_long_description_is_cut_and_the_table_is_whole() -> None:
    many = [Refusal(Gate.CASH, "x" * 100, f"S{number}") for number in range(50)]
    result = check_gates({NEWEST: trades(*many)})
    assert len(result.description) == 2000
    assert len(result.metadata["refusals"].records) == 50


def test_declaration_blocks() -> None:
    spec = gates_spec()
    assert (spec.name, spec.blocking, spec.asset_key.to_user_string()) == (CHECK_NAME, True, "orders")


def test_gates_are_asked_in_the_order_of_the_design() -> None:
    names = (
        "halt upstream_verdicts freshness reconciliation tradable position_weight gross order_notional daily_loss "
        "drawdown price_collar volume_share cash lease"
    )
    assert [gate.value for gate in Gate] == names.split()
