"""Why an order was sent: every link of the chain, held against what was stored, read another way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from deltalake import DeltaTable

from tests.conftest import Installation, Outcome, make_installation
from trading_dagster.execution.explain import CHAIN, ExplainError, Explanation, Link, as_dict, explain_order, render
from trading_dagster.execution.orders import Order, OrderState, Side
from trading_dagster.resources.ledger import Purpose

pytestmark = pytest.mark.e2e

FIRST, LAST = "2022-12-14", "2022-12-16"
UNIVERSE = ("JNJ", "KO", "MSFT", "XOM")
SYMBOL = "XOM"
BOUGHT, REFUSED = "main-20221214-XOM-0", "main-20221214-JNJ-0"
STAGES = ["signals", "allocation", "forecast", "condition", "volatility", "regime", "phasing"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    # at the first session two orders are of 20 000, which the limit holds back, and one is of 7 000
    made = make_installation(
        tmp_path_factory.mktemp("explain"), universe=UNIVERSE, max_weight=0.4, limit_order_notional=Decimal(12_000)
    )
    made.train("2022-12-01", "2022-11-30")
    return made


@pytest.fixture(scope="module")
def ran(installed: Installation) -> Outcome:
    outcome = installed.run(FIRST, LAST)
    assert outcome.success, outcome.failures
    return outcome


@pytest.fixture(scope="module")
def explained(installed: Installation, ran: Outcome) -> Explanation:
    return ask(installed, BOUGHT)


def ask(installed: Installation, name: str, *, instance: bool = True) -> Explanation:
    found = installed.instance if instance else None
    return explain_order(installed.settings, installed.tables, installed.ledger, found, name)


def link(explanation: Explanation, name: str) -> Link:
    return next(each for each in explanation.links if each.name == name)


def stored(installed: Installation, name: str, at: str = FIRST, symbols: tuple[str, ...] = (SYMBOL,)) -> pd.DataFrame:
    """Rows of the table by Delta itself."""
    frame = DeltaTable(f"{installed.settings.resolved_tables_uri}/{name}").to_pandas()
    rows = frame[(frame["session"].astype(str) == at) & frame["symbol"].isin(symbols)]
    keys = [column for column in ("symbol", "cycle") if column in rows]
    return rows.sort_values(keys)


# -- the order --------------------------------------------------------------------------------------------------------


def test_the_order_is_the_ledgers(installed: Installation, ran: Outcome, explained: Explanation) -> None:
    assert explained.order == installed.ledger.order(BOUGHT)
    assert explained.order.state is OrderState.FILLED
    assert explained.sent
    assert explained.order.limit_price is not None
    assert explained.order.broker_order_id
    assert [step["state"] for step in explained.steps] == ["planned", "submitted", "accepted", "filled"]
    assert [step["at"] for step in explained.steps] == sorted(step["at"] for step in explained.steps)
    assert sum(fill.quantity for fill in explained.fills) == explained.order.quantity
    assert explained.refusals == ()
    assert explained.notes == ()
    assert explained.purpose is Purpose.REBALANCE
    plan = installed.ledger.plan("main", date(2022, 12, 14))
    assert plan is not None
    assert (explained.run_id, explained.code_version, explained.decided_at) == (
        plan.run_id, plan.code_version, plan.decided_at,
    )  # fmt: skip
    assert explained.run_id == ran.result.run_id
    assert explained.run_status == "daily, SUCCESS"
    assert explained.code_version == explained.code_version_now


# -- the stages -------------------------------------------------------------------------------------------------------


def test_links_stand_in_the_order_of_the_chain(explained: Explanation) -> None:
    assert [each.name for each in explained.links] == [*STAGES, "bars", "corporate_actions", "forecast_model"]
    assert [each.name for each in explained.links] == list(CHAIN)
    assert all(each.data_policy is True for each in explained.links)


@pytest.mark.parametrize("name", STAGES)
def test_rows_of_a_stage_are_those_of_its_table(installed: Installation, explained: Explanation, name: str) -> None:
    symbols = (SYMBOL, "MARKET") if name in ("condition", "regime") else (SYMBOL,)
    expected = stored(installed, name, symbols=symbols)
    found = link(explained, name).rows
    assert len(found) == {"condition": 2, "regime": 2, "phasing": 4}.get(name, 1)
    for row, (_, other) in zip(found, expected.iterrows(), strict=True):
        assert row["session"] == FIRST
        for column in expected.columns.drop("session"):
            value = other[column].isoformat() if isinstance(other[column], date) else other[column]
            assert row[column] == value or (row[column] is None and pd.isna(value)), column


def test_the_last_bars_are_the_samples(explained: Explanation, sample_closes: pd.DataFrame) -> None:
    rows = link(explained, "bars").rows
    assert [row["session"] for row in rows] == ["2022-12-12", "2022-12-13", FIRST]
    assert [row["close"] for row in rows] == sample_closes.loc["2022-12-12":FIRST, SYMBOL].tolist()
    assert {row["source"] for row in rows} == {"sample"}
    assert rows[-1]["known_at"] == "2022-12-14T21:00:00+00:00"
    assert link(explained, "bars").changed_since is False


def test_the_model_is_the_one_that_the_forecast_names(installed: Installation, explained: Explanation) -> None:
    (row,) = link(explained, "forecast_model").rows
    assert link(explained, "forecast").rows[0]["model"] == f"forecast_model@{row['month']}"
    frame = DeltaTable(f"{installed.settings.resolved_tables_uri}/forecast_model").to_pandas()
    assert row["fitted_to"] == "2022-11-30"
    assert row["training_rows"] == frame["training_rows"].iloc[0]
    assert row["metrics"] == json.loads(frame["metrics"].iloc[0])
    assert row["parameters"]["horizon"] == 5
    assert "artifact" not in row


# -- runs, versions, checks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*STAGES, "bars", "corporate_actions"])
def test_a_link_names_its_run_and_its_versions(ran: Outcome, explained: Explanation, name: str) -> None:
    found = link(explained, name)
    metadata = ran.metadata(name, FIRST)
    assert found.materialisation is not None
    assert found.materialisation.run_id == ran.result.run_id
    assert found.materialisation.delta_version == metadata["delta_version"]
    assert found.materialisation.input_versions == metadata["input_versions"]
    assert found.materialisation.data_version
    assert found.materialisation.at <= explained.decided_at
    assert found.changed_since is False
    assert found.newest == found.materialisation


def test_versions_read_are_those_of_the_tables(installed: Installation, ran: Outcome, explained: Explanation) -> None:
    for name in ("bars", *STAGES):
        found = link(explained, name)
        version = DeltaTable(f"{installed.settings.resolved_tables_uri}/{name}").version()
        assert found.table_version == version
        readers = {by: at for by, at in found.read_at.items() if by != "forecast_model"}  # it was fitted before
        assert readers
        assert set(readers.values()) == {version}
    assert link(explained, "signals").read_at == {"orders": ran.metadata("orders", FIRST)["input_versions"]["signals"]}
    assert "orders" in link(explained, "bars").read_at
    assert link(explained, "bars").read_at["forecast_model"] < link(explained, "bars").read_at["orders"]


def test_the_model_came_of_the_training_run(installed: Installation, explained: Explanation) -> None:
    (training,) = installed.instance.get_run_records(dg.RunsFilter(job_name="training"))
    found = link(explained, "forecast_model").materialisation
    assert found is not None
    assert found.run_id == training.dagster_run.run_id
    assert [c.run_id for c in explained.checks if c.asset == "forecast_model"] == [found.run_id]


def test_the_orders_own_table_is_of_the_orders_run(ran: Outcome, explained: Explanation) -> None:
    assert explained.made is not None
    assert explained.made.run_id == ran.result.run_id
    assert explained.made.at >= explained.decided_at
    assert explained.made.delta_version == ran.metadata("orders", FIRST)["delta_version"]


def test_checks_are_all_that_these_runs_evaluated(ran: Outcome, explained: Explanation) -> None:
    found = [c for c in explained.checks if c.asset != "forecast_model"]
    # nothing is decided by the harmonics
    evaluated = [c for c in ran.checks if c.asset_key.to_user_string() != "harmonics"]
    assert {(c.asset, c.name, c.passed, c.severity, c.description) for c in found} == {
        (c.asset_key.to_user_string(), c.check_name, c.passed, c.severity.value, c.description or "") for c in evaluated
    }
    assert len(found) == len(evaluated)
    assert {c.run_id for c in found} == {ran.result.run_id}


# -- what else an auditor asks ----------------------------------------------------------------------------------------


def test_without_an_instance_the_rest_is_the_same(installed: Installation, explained: Explanation) -> None:
    alone = ask(installed, BOUGHT, instance=False)
    assert (alone.order, alone.steps, alone.fills) == (explained.order, explained.steps, explained.fills)
    assert [(e.name, e.rows, e.data_policy) for e in alone.links] == [
        (e.name, e.rows, e.data_policy) for e in explained.links
    ]
    assert (alone.run_id, alone.run_status, alone.made, alone.checks) == (explained.run_id, "", None, ())
    assert all(e.materialisation is None and not e.read_at for e in alone.links)
    assert link(alone, "signals").changed_since is None
    assert "No Dagster instance was asked" in render(alone)
    assert "None" not in render(alone)


def test_an_unknown_order_has_near_ones_and_what_to_do(installed: Installation, ran: Outcome) -> None:
    with pytest.raises(ExplainError) as raised:
        ask(installed, "main-20221214-XOMM-0")
    told = str(raised.value)
    assert "'main-20221214-XOMM-0'" in told
    assert BOUGHT in told
    assert "client_order_id" in told
    assert str(installed.settings.data_dir) not in told
    assert isinstance(raised.value, ValueError)


def test_an_unknown_order_of_nothing_like_it_and_of_no_strategy(installed: Installation, ran: Outcome) -> None:
    with pytest.raises(ExplainError, match="no order is named ''"):
        ask(installed, "")
    other = replace(installed, settings=installed.settings.model_copy(update={"strategy": "nobody"}))
    with pytest.raises(ExplainError, match="'nobody' has not traded yet"):
        ask(other, "x-20229999-KO-0")


def test_an_order_of_another_strategy_says_so(installed: Installation, ran: Outcome) -> None:
    other = replace(installed, settings=installed.settings.model_copy(update={"strategy": "nobody"}))
    assert "the strategy main, and the tables may be those of nobody" in render(ask(other, BOUGHT))


def test_an_order_that_a_gate_held_back(installed: Installation, ran: Outcome) -> None:
    found = ask(installed, REFUSED)
    assert found.order.state is OrderState.REJECTED
    assert not found.sent
    assert found.fills == ()
    (refusal,) = found.refusals
    assert (refusal["gate"], refusal["symbol"]) == ("order_notional", found.order.symbol)
    assert refusal["run_id"] == ran.result.run_id
    text = render(found)
    assert "never sent to the broker" in text
    assert f"gate order_notional held back {found.order.symbol}: {refusal['detail'][:20]}" in text
    (gates,) = [check for check in found.checks if check.name == "gates"]
    assert (gates.passed, gates.severity) == (False, "WARN")
    assert "orders gates: FAILED, WARN" in text


def test_a_flattening_order_without_signal_is_said_plainly(installed: Installation, ran: Outcome) -> None:
    ledger, day = installed.ledger, date(2022, 12, 15)
    order = Order("main-20221215-GONE-7", "main", day, "GONE", Side.SELL, Decimal(5), Decimal("9.5"), "flatten: fire")
    ledger.record_plan("main", day, 7, [order], "flatten", Purpose.FLATTEN)
    found = ask(installed, order.client_order_id)
    assert found.purpose is Purpose.FLATTEN
    assert (found.run_status, found.made) == ("", None)
    assert not found.sent
    assert link(found, "signals").rows == ()
    assert [row["symbol"] for row in link(found, "regime").rows] == ["MARKET"]
    text = render(found)
    assert "An operator's flattening decided it" in text
    assert "flatten: not on record at Dagster" in text
    assert "no row: the table has none for this order" in text
    assert "at market" in text
    json.dumps(as_dict(found), allow_nan=False)
    # what the stages' runs said is found all the same
    signals = link(found, "signals").materialisation
    assert signals is not None
    assert signals.run_id == ran.result.run_id


# -- what is written --------------------------------------------------------------------------------------------------


def test_json_keeps_everything(explained: Explanation) -> None:
    told = json.loads(json.dumps(as_dict(explained), allow_nan=False))
    assert told == as_dict(explained)
    assert told["order"]["quantity"] == str(explained.order.quantity)
    assert told["order"]["session"] == FIRST
    assert told["decided_at"] == explained.decided_at.isoformat()
    assert told["steps"][0] == {
        "at": explained.steps[0]["at"].isoformat(), "state": "planned", "filled_quantity": "0", "note": "",
    }  # fmt: skip
    assert Decimal(told["fills"][0]["price"]) == explained.fills[0].price
    assert [each["name"] for each in told["links"]] == list(CHAIN)


def test_the_text_names_each_link_in_order(explained: Explanation) -> None:
    text = render(explained)
    titles = [f"Order {BOUGHT}", *CHAIN.values(), "Code version", "Run", "Checks of these runs"]
    places = [text.index(f"{number}. {title}") for number, title in enumerate(titles, 1)]
    assert places == sorted(places)
    assert max(map(len, text.splitlines())) <= 120
    told_of = [explained.order.reason, explained.run_id, explained.code_version, "calm", "MARKET", "2022-11-30"]
    for told in [*told_of, "forecast_model@2022-12-01", "Delta version 2", "standard deviation per day"]:
        assert told in text
    assert text.endswith("\n")


def test_the_text_holds_no_values_that_were_missing_as_nan(explained: Explanation) -> None:
    assert "nan" not in render(explained).split()
    assert link(explained, "bars").rows[0]["open"] is None


def test_dagster_is_not_loaded_with_the_module() -> None:
    source = "import trading_dagster.execution.explain, sys; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_it_is_quick(installed: Installation, explained: Explanation) -> None:
    start = time.perf_counter()
    ask(installed, BOUGHT)
    assert time.perf_counter() - start < 2


# -- afterwards; these change the installation ------------------------------------------------------------------------


def test_a_repetition_that_changed_nothing_is_no_change(installed: Installation, ran: Outcome) -> None:
    again = installed.run(FIRST, LAST)
    assert again.success, again.failures
    found = link(ask(installed, BOUGHT), "allocation")
    assert found.materialisation is not None
    assert found.materialisation.run_id == ran.result.run_id
    assert found.newest is not None
    assert found.newest.run_id == again.result.run_id
    assert again.metadata("allocation", FIRST)["rows_changed"] == 0
    assert found.changed_since is False
    assert f"made again by run {again.result.run_id}" in render(ask(installed, BOUGHT))
    # weights held are replayed anew over a range where a gate held an order back
    signals = link(ask(installed, BOUGHT), "signals")
    assert signals.changed_since is (again.metadata("signals", FIRST)["rows_changed"] != 0)
    # an order keeps its run, and its checks are of that run
    assert ask(installed, BOUGHT).run_id == ran.result.run_id
    assert again.result.run_id not in {check.run_id for check in ask(installed, BOUGHT).checks}


def test_rows_that_changed_since_say_so(installed: Installation, ran: Outcome) -> None:
    before = link(ask(installed, BOUGHT), "volatility")
    frame = installed.tables.read("volatility", first=date(2022, 12, 14), as_of=date(2022, 12, 14))
    session = date(2022, 12, 14)
    installed.tables.replace("volatility", frame.assign(sigma_1d=frame["sigma_1d"] * 2), session, session)
    rewritten = installed.run(FIRST, assets=["volatility"])  # computes, and so changes, them back
    assert rewritten.success, rewritten.failures
    assert rewritten.metadata("volatility", FIRST)["rows_changed"] > 0
    found = link(ask(installed, BOUGHT), "volatility")
    assert found.changed_since is True
    assert found.newest is not None
    assert found.newest.run_id == rewritten.result.run_id
    assert found.materialisation == before.materialisation
    assert found.table_version == installed.tables.version("volatility") > found.read_at["signals"]
    text = render(ask(installed, BOUGHT))
    assert f"MAY HAVE CHANGED SINCE: below is what is there today, by run {rewritten.result.run_id}" in text


def test_a_bar_that_was_corrected_later_is_shown_as_it_was_known(installed: Installation, ran: Outcome) -> None:
    before = link(ask(installed, BOUGHT), "bars").rows
    bars = installed.tables.read("bars", first=date(2022, 12, 13), as_of=date(2022, 12, 13))
    mended = bars[bars["symbol"] == SYMBOL].assign(close=1.0, known_at=pd.Timestamp("2023-03-01", tz="UTC"))
    installed.tables.add_revisions("bars", mended)
    found = ask(installed, BOUGHT)
    assert link(found, "bars").rows == before
    assert link(found, "bars").changed_since is True
    assert "CHANGED SINCE: revisions of the last sessions came later" in render(found)


def test_tables_that_are_gone_are_said_plainly(installed: Installation, ran: Outcome, tmp_path: Path) -> None:
    elsewhere = make_installation(tmp_path, universe=UNIVERSE, max_weight=0.4)
    found = explain_order(installed.settings, elsewhere.tables, installed.ledger, installed.instance, BOUGHT)
    assert all(each.rows == () and each.table_version is None for each in found.links)
    assert "No signal of XOM is stored for 2022-12-14" in render(found)
    json.dumps(as_dict(found), allow_nan=False)
