"""The data policy in real runs: a symbol with too few bars, in both modes, and what is recorded."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from sqlalchemy import select

from tests.conftest import Installation, make_installation, write_prices
from trading_dagster.resources.ledger_models import PolicyVerdictRow, PolicyViolationRow

SESSION = "2022-12-28"


def with_young(folder: Path, closes: pd.DataFrame, bars: int, policy: str = "abort") -> Installation:
    """Three old symbols, and YOUNG with the given number of bars up to the last session."""
    prices = closes[["JNJ", "KO", "XOM"]].copy()
    prices["YOUNG"] = closes["AAPL"].iloc[-bars:]
    return make_installation(
        folder,
        source="files",
        files_dir=write_prices(folder / "prices", prices),
        universe=("JNJ", "KO", "XOM", "YOUNG"),
        policy=policy,
        max_weight=0.4,
    )


@pytest.fixture(scope="module")
def recent(sample_closes: pd.DataFrame) -> pd.DataFrame:
    """Enough bars for every stage, and sooner judged than all of them."""
    return sample_closes.iloc[-1600:]


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory, recent: pd.DataFrame) -> Installation:
    """Bars stored, too few of one symbol for the phasing."""
    made = with_young(tmp_path_factory.mktemp("fetched"), recent, bars=1000)
    assert made.train_stages("2022-12-01", "2022-11-30").failures == {}
    assert made.run(SESSION, assets=["bars", "corporate_actions"]).failures == {}
    return made


def violations(made: Installation) -> list[tuple[str, str, int, int, str]]:
    with made.ledger.transaction() as db:
        found = db.scalars(select(PolicyViolationRow).order_by(PolicyViolationRow.id)).all()
        return [(v.component, v.symbol, v.bars_found, v.bars_needed, v.mode) for v in found]


def log_lines(made: Installation) -> list[str]:
    return (made.settings.data_dir / "logs" / "policy_violations.log").read_text().splitlines()


def test_abort_stops_at_the_first_stage_that_needs_more(tmp_path: Path, recent: pd.DataFrame) -> None:
    made = with_young(tmp_path, recent, bars=1000)
    assert made.train_stages("2022-12-01", "2022-11-30").failures == {}
    outcome = made.run(SESSION)
    assert not outcome.success
    assert set(outcome.failures) == {"phasing", "harmonics"}
    assert "phasing: YOUNG has 1000 bars from 2000-01-01 to 2022-12-28; 1500 are needed" in outcome.failures["phasing"]
    # what has enough still materialises, what rests on the failed stage does not
    assert outcome.succeeded == {"bars", "corporate_actions", "regime", "volatility"}
    assert made.count("orders") == 0
    assert sorted(violations(made)) == [
        ("harmonics", "YOUNG", 1000, 1500, "abort"),
        ("phasing", "YOUNG", 1000, 1500, "abort"),
    ]
    assert len(log_lines(made)) == 2
    assert all("YOUNG has 1000 bars" in line for line in log_lines(made))
    failed = [check for check in outcome.checks if not check.passed and check.check_name != "quarantine"]
    assert {(c.asset_key.to_user_string(), c.severity) for c in failed} == {
        ("phasing", dg.AssetCheckSeverity.ERROR),
        ("harmonics", dg.AssetCheckSeverity.ERROR),
    }


@pytest.mark.parametrize("stage", ["regime", "volatility"])
def test_a_stage_with_enough_bars_materialises_alone(fetched: Installation, stage: str) -> None:
    assert fetched.run(SESSION, assets=[stage]).failures == {}
    assert "YOUNG" in set(fetched.tables.read(stage)["symbol"])


def test_the_policy_cannot_be_bypassed_by_materialising_one_asset_alone(fetched: Installation) -> None:
    outcome = fetched.run(SESSION, assets=["phasing"])
    assert "1500 are needed" in outcome.failures["phasing"]
    assert "phasing" not in fetched.stored()


def test_300_bars_stop_volatility_too_but_not_regime(tmp_path: Path, recent: pd.DataFrame) -> None:
    made = with_young(tmp_path, recent, bars=300)
    trained = made.train_stages("2022-12-01", "2022-11-30")
    assert set(trained.failures) == {"volatility_model"}
    assert (
        "volatility_model: YOUNG has 281 bars from 2000-01-01 to 2022-11-30; 500 are needed"
        in trained.failures["volatility_model"]
    )
    outcome = made.run(SESSION)
    assert set(outcome.failures) == {"phasing", "harmonics", "volatility"}
    assert "volatility_model is missing for 2022-12-01" in outcome.failures["volatility"]
    assert outcome.succeeded == {"bars", "corporate_actions", "regime"}
    assert made.count("orders") == 0


@pytest.mark.e2e
def test_exclude_finishes_without_the_symbol_and_warns(tmp_path: Path, sample_closes: pd.DataFrame) -> None:
    made = with_young(tmp_path, sample_closes, bars=1000, policy="exclude")
    made.train("2022-12-01", "2022-11-30")
    outcome = made.run(SESSION)
    assert outcome.success, outcome.failures
    # the young symbol is named by the policy's checks alone
    assert {c.check_name for c in outcome.checks if not c.passed} <= {"data_policy", "quarantine"}
    warned = {c.asset_key.to_user_string() for c in outcome.checks if not c.passed and c.check_name == "data_policy"}
    assert warned == {"phasing", "harmonics", "condition", "forecast", "allocation", "signals", "orders"}
    assert {c.severity for c in outcome.checks if not c.passed} == {dg.AssetCheckSeverity.WARN}
    assert {"YOUNG", "MARKET"} <= set(made.tables.read("regime")["symbol"])
    for stage in ("phasing", "harmonics", "condition", "forecast", "allocation", "signals"):
        # the market has a condition, as it has a regime
        market = {"MARKET"} if stage == "condition" else set()
        assert set(made.tables.read(stage)["symbol"]) == {"JNJ", "KO", "XOM"} | market, stage
    assert ("phasing", "YOUNG", 1000, 1500, "exclude") in violations(made)


@pytest.mark.e2e  # four runs of the pipeline; the gate alone: tests/execution/test_gates
def test_orders_are_held_back_by_an_upstream_verdict(tmp_path: Path, sample_closes: pd.DataFrame) -> None:
    made = make_installation(tmp_path, universe=("JNJ", "KO", "XOM"), max_weight=0.4)
    made.train("2022-12-01", "2022-11-30")
    assert made.run(SESSION, job="research_backfill").failures == {}
    with made.ledger.transaction() as db:
        db.get_one(PolicyVerdictRow, ("volatility", pd.Timestamp(SESSION).date())).passed = False
        db.delete(db.get_one(PolicyVerdictRow, ("regime", pd.Timestamp(SESSION).date())))
    # a run of the orders alone: no blocking check of another run guards it
    outcome = made.run(SESSION, assets=["orders"])
    assert "data policy failed for volatility, was not evaluated for regime" in outcome.failures["orders"]
    assert made.count("orders") == 0
    assert made.run(SESSION, job="research_backfill").failures == {}
    assert made.run(SESSION, assets=["orders"]).failures == {}
    assert made.count("orders") > 0


def ending(folder: Path, closes: pd.DataFrame, missing_from: str, policy: str = "abort") -> Installation:
    """Two symbols, of which KO has no bars from a date on."""
    prices = closes[["JNJ", "KO"]].copy()
    prices.loc[missing_from:, "KO"] = None
    return make_installation(
        folder,
        source="files",
        files_dir=write_prices(folder / "prices", prices),
        universe=("JNJ", "KO"),
        policy=policy,
        max_weight=0.5,
    )


def test_a_symbol_without_a_bar_at_the_session_is_stale(tmp_path: Path, recent: pd.DataFrame) -> None:
    # four sessions without a bar: too few to say that it is gone
    made = ending(tmp_path, recent, "2022-12-22")
    outcome = made.run(SESSION, assets=["bars"])
    assert "KO has no bar at the session; the first is KO (the newest is 2022-12-21)" in outcome.failures["bars"]
    assert set(made.tables.read("bars")["symbol"]) == {"JNJ"}
    assert made.ledger.verdicts(pd.Timestamp(SESSION).date(), ["bars"]) == {"bars": False}


def test_a_stale_symbol_is_left_out_in_mode_exclude(tmp_path: Path, recent: pd.DataFrame) -> None:
    made = ending(tmp_path, recent, "2022-12-22", policy="exclude")
    outcome = made.run(SESSION, assets=["bars"])
    assert outcome.failures == {}
    assert set(made.tables.read("bars")["symbol"]) == {"JNJ"}
    assert [(component, symbol, mode) for component, symbol, _, _, mode in violations(made)] == [
        ("bars", "KO", "exclude")
    ]


def test_a_symbol_without_bars_for_five_sessions_has_left_the_universe(tmp_path: Path, recent: pd.DataFrame) -> None:
    made = ending(tmp_path, recent, "2022-12-21")
    assert made.train_stages("2022-12-01", "2022-11-30").failures == {}
    outcome = made.run(SESSION, assets=["bars", "corporate_actions", "regime"])
    assert outcome.failures == {}
    assert violations(made) == []
    (note,) = [check for check in outcome.checks if check.check_name == "delisted"]
    assert not note.passed
    assert note.severity == dg.AssetCheckSeverity.WARN
    assert "KO (last bar 2022-12-20)" in str(note.description)
    assert made.tables.read("bars").groupby("symbol")["session"].max().to_dict() == {
        "JNJ": pd.Timestamp("2022-12-28"),
        "KO": pd.Timestamp("2022-12-20"),
    }
    assert "KO" not in set(made.tables.read("regime")["symbol"])


@pytest.mark.e2e  # half a minute of whole pipeline
def test_a_symbol_that_is_allowed_later_in_a_range_has_no_say_before(
    tmp_path: Path, sample_closes: pd.DataFrame
) -> None:
    """In mode exclude a range crosses the day on which a symbol has its 252nd, and another its 1500th bar."""
    prices = sample_closes[["JNJ", "KO", "XOM"]].copy()
    prices["YOUNG"] = sample_closes["AMD"].iloc[-256:]
    prices["OLDER"] = sample_closes["AAPL"].iloc[-1502:]
    folder = write_prices(tmp_path / "prices", prices)
    made = {
        name: make_installation(
            tmp_path / name, source="files", files_dir=folder, universe=tuple(prices), policy="exclude", max_weight=0.4
        )
        for name in ("range", "alone")
    }
    for each in made.values():
        each.train("2022-12-01", "2022-11-30")
    sessions = ("2022-12-20", "2022-12-21", "2022-12-22", "2022-12-23", "2022-12-27", "2022-12-28")
    assert made["range"].run(sessions[0], sessions[-1], job="research_backfill").failures == {}
    for session in sessions:
        assert made["alone"].run(session, job="research_backfill").failures == {}
    for table in ("phasing", "harmonics", "regime", "volatility", "condition", "forecast", "allocation"):
        found, expected = (made[name].tables.read(table) for name in ("range", "alone"))
        pd.testing.assert_frame_equal(found, expected, rtol=1e-9, obj=table)
    # the range did cross both days
    assert made["range"].tables.read("regime").groupby("session")["symbol"].nunique().nunique() == 2
    assert made["range"].tables.read("forecast").groupby("session")["symbol"].nunique().nunique() == 2


@pytest.mark.e2e
def test_a_symbol_may_join_a_session_that_was_run_without_it(tmp_path: Path) -> None:
    """Its actions are not on record yet when `bars` looks at it; others' are, of the same session."""
    fetched = ["bars", "corporate_actions"]
    assert make_installation(tmp_path, universe=("AAPL", "AMD")).run("2022-12-28", assets=fetched).success
    later = make_installation(tmp_path, universe=("AAPL", "AMD", "BAC"))
    joined = later.run("2022-12-28", assets=fetched)
    assert joined.success, joined.failures
    assert later.run("2022-12-01", job="training", assets=["regime_model"]).failures == {}
    outcome = later.run("2022-12-28", assets=["regime"])
    assert outcome.success, outcome.failures
    assert set(later.tables.read("regime", first=pd.Timestamp("2022-12-28"))["symbol"]) == {
        "AAPL",
        "AMD",
        "BAC",
        "MARKET",
    }


def test_a_session_that_no_symbol_can_be_used_at_is_on_record_as_failed(tmp_path: Path) -> None:
    """The only symbol's bar of the session is in quarantine: a profit warning, held back as a jump."""
    made = make_installation(tmp_path, universe=("WMT",))
    outcome = made.run("2022-05-17", assets=["bars", "corporate_actions"])
    assert "bars: no symbol can be used" in outcome.failures["bars"]
    assert made.ledger.verdicts(pd.Timestamp("2022-05-17").date(), ("bars",)) == {"bars": False}
    check = next(c for c in outcome.checks if (c.asset_key.to_user_string(), c.check_name) == ("bars", "data_policy"))
    assert (check.passed, check.severity.value) == (False, "ERROR")
