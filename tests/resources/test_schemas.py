"""The contract of columns, written out by hand from the design's table of assets."""

import pyarrow as pa
import pytest

from trading_dagster.resources.schemas import TABLES

CONTRACT = {
    "bars": ["session", "symbol", "open", "high", "low", "close", "volume", "source", "known_at"],
    "corporate_actions": ["session", "symbol", "ex_date", "kind", "value", "known_at"],
    "quarantine": [
        "session", "symbol", "open", "high", "low", "close", "volume", "source", "reason", "detail", "state",
        "operator", "note", "known_at",
    ],
    "fetches": ["session", "asset", "symbol", "last_bar", "columns", "source", "known_at"],
    "phasing": [
        "session", "symbol", "cycle", "period", "phase", "amplitude", "snr_db", "p_value", "fld", "fld_cross",
        "fld_target", "next_trough_bars",
    ],
    "harmonics": ["session", "symbol", "rank", "period", "power", "p_value"],
    "condition": ["session", "symbol", "condition", "reason"],
    "regime": ["session", "symbol", "regime", "suitability"],
    "intermarket": ["session", "symbol", "other", "correlation", "beta", "lead_lag", "p_value"],
    "volatility": [
        "session", "symbol", "sigma_1d", "sigma_21d", "var_95", "var_99", "es_975", "atr", "stop_distance",
    ],
    "forecast": [
        "session", "symbol", "horizon", "expected_return", "lower", "upper", "p_up", "confidence", "model",
    ],
    "allocation": ["session", "symbol", "weight", "method"],
    "signals": ["session", "symbol", "action", "target_weight", "current_weight", "confidence", "reason"],
    "orders": ["session", "symbol", "client_order_id", "side", "quantity", "state", "reason"],
    "regime_model": ["month", "fitted_to", "metrics", "parameters"],
    "volatility_model": ["month", "fitted_to", "metrics", "parameters"],
    "forecast_model": ["month", "fitted_to", "metrics", "parameters"],
    "strategy_evolution": ["month", "promoted"],
}  # fmt: skip
TEXT, NUMBER, DATE, TIME = pa.string(), pa.float64(), pa.date32(), pa.timestamp("us", tz="UTC")
TYPES = {
    "session": DATE,
    "month": DATE,
    "ex_date": DATE,
    "fitted_to": DATE,
    "known_at": TIME,
    "symbol": TEXT,
    "open": NUMBER,
    "close": NUMBER,
    "volume": NUMBER,
    "weight": NUMBER,
    "target_weight": NUMBER,
    "expected_return": NUMBER,
    "sigma_1d": NUMBER,
    "quantity": NUMBER,
    "action": TEXT,
    "reason": TEXT,
}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_table_has_the_columns_of_the_contract(name):
    columns = [column.name for column in TABLES[name].columns]
    assert set(CONTRACT[name]) <= set(columns)
    assert len(columns) == len(set(columns))


def test_the_tables_of_the_spine_are_there():
    spine = {"bars", "corporate_actions", "phasing", "regime", "volatility", "forecast", "allocation", "signals"}
    assert spine | {"harmonics", "orders"} <= set(TABLES)
    assert {name for name, schema in TABLES.items() if schema.monthly} == {
        "regime_model",
        "volatility_model",
        "forecast_model",
    }


@pytest.mark.parametrize("name", sorted(TABLES))
def test_columns_of_one_name_have_one_type(name):
    types = {column.name: column.type for column in TABLES[name].columns if column.name in TYPES}
    assert types == {column: TYPES[column] for column in types}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_column_is_explained_and_the_key_is_complete(name):
    schema = TABLES[name]
    assert [column.name for column in schema.columns if not column.description] == []
    assert set(schema.key) <= {column.name for column in schema.columns if not column.nullable}
    assert schema.name == name
    assert TABLES[name].partition_column in ("session", "month")


def test_a_closes_only_source_can_be_stored():
    may_be_missing = {column.name for column in TABLES["bars"].columns if column.nullable}
    assert may_be_missing == {"open", "high", "low", "volume"}


def test_regime_has_a_probability_for_each_state():
    states = [column.name for column in TABLES["regime"].columns if column.name.startswith("prob_")]
    assert states == ["prob_calm", "prob_turbulent"]


def test_what_came_from_a_source_is_a_history_with_revisions():
    fetched = {"bars", "corporate_actions", "quarantine", "fetches"}
    assert {name for name, schema in TABLES.items() if schema.revisions} == fetched
    assert {name for name, schema in TABLES.items() if schema.history} == fetched
    assert {name for name, schema in TABLES.items() if schema.may_be_empty} == fetched - {"bars"} | {"orders"}


def test_a_bar_in_quarantine_is_stored_as_the_source_gave_it():
    """A released bar has to fit into the table of bars."""
    quarantine = {column.name: column for column in TABLES["quarantine"].columns}
    for column in TABLES["bars"].columns:
        assert (quarantine[column.name].type, quarantine[column.name].nullable) == (column.type, column.nullable)
