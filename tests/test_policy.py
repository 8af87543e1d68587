"""The data policy's figures are a contract: they are written out here a second time, on purpose."""

from __future__ import annotations

from datetime import date

import pytest

from trading_dagster.policy import EARLIEST_DATE, MINIMUM_BARS, Violation, minimum_bars
from trading_dagster.resources.schemas import TABLES


def test_no_bar_before_2000() -> None:
    assert date(2000, 1, 1) == EARLIEST_DATE


@pytest.mark.parametrize(
    ("component", "bars"),
    [
        ("regime", 252),
        ("volatility", 500),
        ("phasing", 1500),
        ("harmonics", 1500),
        ("forecast", 1500),
        ("intermarket", 2500),
        ("backtest", 2500),
        # a model inherits the rule of the stage that uses it
        ("regime_model", 252),
        ("volatility_model", 500),
    ],
)
def test_minimum_bars_of_the_contract(component: str, bars: int) -> None:
    assert minimum_bars(component) == bars


@pytest.mark.parametrize("component", ["forecast_model", "allocation", "signals", "orders"])
def test_nobody_acts_on_a_forecast_with_fewer_bars_than_it_needs(component: str) -> None:
    assert minimum_bars(component) >= minimum_bars("forecast")


# kept by `bars` beside its own table, and so under its rule
WITHOUT_A_STAGE = {"quarantine", "fetches"}


@pytest.mark.parametrize("table", [name for name in TABLES if name not in WITHOUT_A_STAGE])
def test_every_stage_states_its_rule(table: str) -> None:
    assert table in MINIMUM_BARS


def test_every_table_but_those_named_is_a_stage() -> None:
    from trading_dagster.definitions import defs

    stages = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert set(TABLES) - stages == WITHOUT_A_STAGE


def test_component_without_a_rule_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="component 'astrology' has no data-policy rule; known: allocation, "):
        minimum_bars("astrology")


def test_message_of_too_few_bars_names_all_and_what_to_do() -> None:
    violation = Violation("phasing", "NEWCO", date(2010, 3, 4), 320, 1500)
    assert violation.message == (
        "phasing: NEWCO has 320 bars from 2000-01-01 to 2010-03-04; 1500 are needed. Supply more history, choose a "
        "later session, take NEWCO out of TRADING_UNIVERSE, or set TRADING_POLICY=exclude to go on without it."
    )


def test_message_of_a_stale_symbol_names_the_session_and_what_to_do() -> None:
    message = Violation("regime", "GONE", date(2010, 3, 4), 2000, 252, rule="stale").message
    for part in ("regime", "GONE", "no bar at 2010-03-04", "2000 earlier", "Materialise `bars`", "TRADING_UNIVERSE"):
        assert part in message
