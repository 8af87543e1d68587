"""Column lineage against the tables and against Dagster's graph."""

from __future__ import annotations

import dagster as dg
import pytest

from trading_dagster.definitions import ASSETS
from trading_dagster.resources.lineage import LINEAGE, column_lineage
from trading_dagster.resources.schemas import TABLES

NAMES = [asset.key.to_user_string() for asset in ASSETS]

OF_THEIR_OWN = {
    # what comes from outside has no columns behind it
    "bars": {"session", "symbol", "open", "high", "low", "close", "volume", "source", "known_at"},
    "corporate_actions": {"session", "symbol", "ex_date", "kind", "value", "source", "known_at"},
    # names and dates that the code sets
    "phasing": {"cycle"},
    "regime_model": {"month", "model"},
    "volatility_model": {"month"},
    "forecast_model": {"month"},
    "allocation": {"method"},
}
"""Columns that are computed from no other column."""


def inputs(asset: dg.AssetsDefinition) -> set[str]:
    """Assets that an asset reads, by Dagster's graph."""
    return {key.to_user_string() for key in asset.dependency_keys} - {asset.key.to_user_string()}


def deps(asset: str) -> dict[str, set[tuple[str, str]]]:
    """Columns that each column comes from, as Dagster shows them."""
    shown = column_lineage(asset).deps_by_column
    return {column: {(dep.asset_key.to_user_string(), dep.column_name) for dep in of} for column, of in shown.items()}


def test_every_asset_is_there_and_no_other() -> None:
    assert set(LINEAGE) == set(NAMES)
    assert set(NAMES) == set(TABLES) - {"quarantine", "fetches"}


@pytest.mark.parametrize("name", NAMES)
def test_lineage_names_the_columns_of_the_table_and_no_other(name: str) -> None:
    columns = set(TABLES[name].arrow.names)
    assert set(deps(name)) <= columns
    assert {column for column, of in deps(name).items() if of} == columns - OF_THEIR_OWN.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_every_column_that_is_named_exists(name: str) -> None:
    for column, of in deps(name).items():
        for asset, source in of:
            assert source in TABLES[asset].arrow.names, f"{name}.{column} names {asset}.{source}"


@pytest.mark.parametrize("asset", ASSETS, ids=NAMES)
def test_assets_that_are_named_are_the_inputs(asset: dg.AssetsDefinition) -> None:
    name = asset.key.to_user_string()
    assert {source for of in deps(name).values() for source, _ in of} == inputs(asset)
    # and not by its keys alone
    assert {source.split(".")[0] for of in LINEAGE[name].values() for source in of} == inputs(asset)


@pytest.mark.parametrize("name", NAMES)
def test_no_source_is_named_twice(name: str) -> None:
    for column, sources in LINEAGE[name].items():
        assert len(set(sources)) == len(sources), f"{name}.{column}"


def test_keys_follow_the_inputs_that_have_them() -> None:
    assert deps("harmonics")["session"] == {("bars", "session"), ("corporate_actions", "session")}
    # the model of a month has no session, the market no symbol of its own
    assert deps("forecast")["session"] == {
        (asset, "session") for asset in ("bars", "corporate_actions", "phasing", "regime", "volatility")
    }
    assert deps("forecast_model")["month"] == set()
