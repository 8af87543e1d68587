"""The daily job on real prices: what it stores, what it says, and what a repetition does."""

from __future__ import annotations

import base64
import re

import dagster as dg
import pandas as pd
import pytest

from tests.conftest import Installation, Outcome, make_installation
from trading_dagster.resources.schemas import TABLES

FIRST, LAST = "2022-12-14", "2022-12-21"
DAILY = [
    "bars", "corporate_actions", "phasing", "harmonics", "regime", "volatility", "condition", "forecast", "allocation",
    "signals", "orders",
]  # fmt: skip
MONTHLY = ["regime_model", "volatility_model", "forecast_model"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = make_installation(tmp_path_factory.mktemp("pipeline"), universe=("JNJ", "KO", "MSFT", "XOM"), max_weight=0.4)
    made.train("2022-12-01", "2022-11-30")
    return made


@pytest.fixture(scope="module")
def ran(installed: Installation) -> Outcome:
    outcome = installed.run(FIRST, LAST)
    assert outcome.success, outcome.failures
    return outcome


@pytest.fixture(scope="module")
def rows(installed: Installation, ran: Outcome) -> dict[str, pd.DataFrame]:
    return {name: installed.tables.read(name) for name in TABLES}


def test_every_stage_ran_and_passed_its_checks(ran: Outcome) -> None:
    assert ran.succeeded == set(DAILY)
    assert {check.asset_key.to_user_string() for check in ran.checks if check.check_name == "data_policy"} == set(DAILY)
    assert all(check.passed for check in ran.checks)


@pytest.mark.parametrize("name", [n for n in DAILY if n not in ("bars", "corporate_actions", "orders")])
def test_each_session_has_its_rows(rows: dict[str, pd.DataFrame], name: str) -> None:
    sessions = {f"{s:%Y-%m-%d}" for s in rows[name]["session"].unique()}
    assert sessions == {"2022-12-14", "2022-12-15", "2022-12-16", "2022-12-19", "2022-12-20", "2022-12-21"}


def test_bars_are_the_sample(rows: dict[str, pd.DataFrame], sample_closes: pd.DataFrame) -> None:
    stored = rows["bars"].pivot(index="session", columns="symbol", values="close")
    expected = sample_closes.loc[:LAST, ["JNJ", "KO", "MSFT", "XOM"]].copy()
    # what cannot be believed is kept apart: three true moves, which four symbols are too few to judge by a market
    quarantine = rows["quarantine"]
    assert [(f"{row.session:%Y-%m-%d}", row.symbol, row.state) for row in quarantine.itertuples()] == [
        ("2002-07-19", "JNJ", "quarantined"),
        ("2006-04-28", "MSFT", "quarantined"),
        ("2008-10-13", "JNJ", "quarantined"),
    ]
    for row in quarantine.itertuples():
        assert row.close == expected.loc[row.session, row.symbol]
        expected.loc[row.session, row.symbol] = float("nan")
    pd.testing.assert_frame_equal(stored, expected, check_names=False, check_freq=False, check_index_type=False)


def test_bars_are_complete_from_2000_and_known_at_their_close(rows: dict[str, pd.DataFrame]) -> None:
    bars = rows["bars"]
    assert bars["session"].min() == pd.Timestamp("2000-01-03")
    row = bars[(bars["session"] == "2022-11-25") & (bars["symbol"] == "KO")].iloc[0]
    # the day after Thanksgiving closes at 13:00 in New York
    assert row["known_at"] == pd.Timestamp("2022-11-25 18:00", tz="UTC")


@pytest.mark.parametrize("name", DAILY)
def test_metadata_of_every_materialisation(ran: Outcome, name: str) -> None:
    metadata = ran.metadata(name, LAST)
    assert metadata["dagster/row_count"] >= 0
    assert metadata["seconds"] >= 0
    assert isinstance(metadata["delta_version"], int)
    if name not in ("bars", "corporate_actions"):
        assert metadata["input_versions"]["bars"] is not None


@pytest.mark.parametrize("name", ["phasing", "harmonics", "regime", "volatility", "forecast", "allocation", "orders"])
def test_a_picture_stands_at_the_newest_partition_only(ran: Outcome, name: str) -> None:
    picture = ran.metadata(name, LAST)["picture"]
    encoded = re.search(r"data:image/png;base64,([^)]+)\)", picture)
    assert encoded is not None
    data = base64.b64decode(encoded[1])
    assert data.startswith(b"\x89PNG")
    assert len(data) <= 30_000
    assert "picture" not in ran.metadata(name, FIRST)


def test_definitions_read_as_documentation(installed: Installation) -> None:
    for key in installed.definitions.resolve_all_asset_specs():
        assert key.description
        assert key.group_name != "default"
        assert key.owners
        assert key.kinds
        assert key.tags["cadence"] == ("monthly" if key.key.to_user_string() in MONTHLY else "daily")
        schema = key.metadata["dagster/column_schema"]
        assert all(column.description for column in schema.columns)


def test_equity_is_cash_plus_positions(installed: Installation, ran: Outcome, sample_closes: pd.DataFrame) -> None:
    for session, row in installed.ledger.equity_curve("main").iterrows():
        account = installed.ledger.recorded_account("main", session)
        assert account is not None
        value = sum(float(q) * sample_closes.loc[session, s] for s, q in account.positions.items())
        assert row["equity"] == pytest.approx(float(account.cash) + value, abs=1e-6)


def test_orders_are_filled_at_the_next_close_worsened_by_slippage(
    rows: dict[str, pd.DataFrame], sample_closes: pd.DataFrame
) -> None:
    orders = rows["orders"]
    done = orders[(orders["state"] == "filled") & (orders["session"] == FIRST)]
    assert len(done)
    for order in done.itertuples():
        # the sample has closes only, so the close of the session after the decision
        close = sample_closes.loc["2022-12-15", order.symbol]
        factor = 1.0005 if order.side == "buy" else 0.9995
        assert order.average_price == pytest.approx(close * factor, rel=1e-6)


def test_signals_hold_what_the_account_held(installed: Installation, rows: dict[str, pd.DataFrame]) -> None:
    # decided before any order of the range was sent, by replay; compared with what the ledger then recorded
    for session, part in rows["signals"].groupby("session"):
        account = installed.ledger.recorded_account("main", session)
        closes = rows["bars"][rows["bars"]["session"] == session].set_index("symbol")["close"]
        assert account is not None
        equity = float(account.cash) + sum(float(q) * closes[s] for s, q in account.positions.items())
        for row in part.itertuples():
            held = float(account.positions.get(row.symbol, 0)) * closes[row.symbol] / equity
            assert row.current_weight == pytest.approx(held, abs=1e-12)


def test_a_second_run_changes_nothing(installed: Installation, ran: Outcome) -> None:
    ledger_tables = ["orders", "fills", "execution_plans", "account_snapshots", "position_snapshots", "policy_verdicts"]
    before = {name: installed.count(name) for name in ledger_tables}
    versions = {name: installed.tables.version(name) for name in DAILY}
    again = installed.run(FIRST, LAST)
    assert again.success
    assert again.metadata("orders", LAST)["orders_submitted"] == 0
    assert again.metadata("orders", LAST)["sessions_decided_before"] == 6
    assert {name: again.metadata(name, LAST)["rows_changed"] for name in DAILY} == dict.fromkeys(DAILY, 0)
    assert {name: installed.tables.version(name) for name in DAILY} == versions
    assert {name: installed.count(name) for name in ledger_tables} == before


def test_one_session_of_the_range_run_alone_is_the_same(installed: Installation, ran: Outcome) -> None:
    alone = installed.run("2022-12-19")
    assert alone.success, alone.failures
    assert {name: alone.metadata(name, "2022-12-19")["rows_changed"] for name in DAILY} == dict.fromkeys(DAILY, 0)


@pytest.mark.e2e
def test_sessions_one_by_one_equal_the_range(tmp_path: pytest.TempPathFactory, rows: dict[str, pd.DataFrame]) -> None:
    one_by_one = make_installation(tmp_path, universe=("JNJ", "KO", "MSFT", "XOM"), max_weight=0.4)
    one_by_one.train("2022-12-01", "2022-11-30")
    for session in ("2022-12-14", "2022-12-15", "2022-12-16"):
        outcome = one_by_one.run(session)
        assert outcome.success, outcome.failures
    for name in ("phasing", "harmonics", "regime", "volatility", "condition", "forecast", "allocation", "signals"):
        expected = rows[name][rows[name]["session"] <= "2022-12-16"].reset_index(drop=True)
        pd.testing.assert_frame_equal(one_by_one.tables.read(name), expected, check_exact=True)


def test_a_missing_model_names_the_command(installed: Installation) -> None:
    outcome = installed.run("2022-11-30")
    assert outcome.failures["regime"].strip() == (
        "trading_dagster.resources.io_manager.MissingInputError: regime_model is missing for 2022-11-01; "
        "materialise it first: dagster asset materialize --select regime_model --partition 2022-11-01"
    )
    assert "volatility" not in outcome.succeeded
    assert "orders" not in outcome.succeeded


@pytest.mark.parametrize("check", ["data_policy"])
def test_policy_is_in_the_stages_own_step(installed: Installation, check: str) -> None:
    graph = installed.definitions.resolve_asset_graph()
    for name in [*DAILY, *MONTHLY]:
        spec = graph.get_check_spec(dg.AssetCheckKey(dg.AssetKey(name), check))
        assert spec.blocking
