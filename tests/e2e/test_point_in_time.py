"""What was known when: restatements, splits, delistings, new listings, quarantine, and two writers at once."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable
from sqlalchemy import text

from tests.conftest import Installation, make_installation, write_prices
from tests.e2e.vendors import VENDORS, check_of, installed, rows_of, short_listings, vendor
from tests.servers.market import ends, restate, shift_tick, starts, with_split
from tests.servers.universe import default_market, sessions
from trading_dagster.assets._stage import CALENDAR
from trading_dagster.cli import main
from trading_dagster.resources.quarantine import QuarantineError, listing, release

D0, D1, D2, D3 = "2018-12-20", "2018-12-21", "2018-12-24", "2018-12-26"

# alpaca-py imports what websockets has replaced
pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")


def now() -> datetime:
    return datetime.now(UTC)


def write_listings(folder: Path, listings: dict[str, Any], until: str) -> Path:
    """A user's files: as traded, with their actions in the columns `dividend` and `split`."""
    folder.mkdir(parents=True, exist_ok=True)
    for symbol, found in listings.items():
        table = found.until(until).bars.copy()
        for kind, neutral in (("dividend", 0.0), ("split", 1.0)):
            table[kind] = neutral
            for row in found.until(until).actions.itertuples():
                if row.kind == kind:
                    table.loc[row.ex_date, kind] = row.value
        table.rename_axis("date").to_csv(folder / f"{symbol}.csv")
    return folder


# -- (a) restatements --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VENDORS)
def test_a_restatement_is_a_revision_beside_the_old_bar(tmp_path: Path, kind: str) -> None:
    listings = short_listings("PLAIN", "TWO")
    old = listings["TWO"].bars.loc["2018-12-18", "close"]
    new = round(float(old) + 0.07, 2)
    with vendor(kind, listings) as server:
        made = installed(tmp_path, server)
        assert made.fetch(D0).failures == {}
        assert check_of(made.fetch(D0), "restatements").passed
        before = now()
        changed = restate(restate(listings["TWO"], "2018-12-18", "close", new), "2018-12-18", "high", 99.0)
        server.listings["TWO"] = changed
        outcome = made.fetch(D1)
        assert outcome.failures == {}
        warned = check_of(outcome, "restatements")
        assert (warned.passed, warned.severity) == (False, dg.AssetCheckSeverity.WARN)
        (row,) = rows_of(outcome, "restatements", "rows")
        high = listings["TWO"].bars.loc["2018-12-18", "high"]
        assert row == {
            "symbol": "TWO",
            "session": "2018-12-18",
            "change": f"high {high:g} to 99; close {old:g} to {new:g}",
        }
        assert (warned.metadata["restated"].value, warned.metadata["explained_by_split"].value) == (1, 0)
        assert outcome.metadata("bars", D1)["rows_restated"] == 1
        made.assert_true(D1)
        at = pd.Timestamp("2018-12-18")
        assert made.bars_of("TWO", as_of=pd.Timestamp(D0), known_at=before).loc[at, "close"] == old
        assert made.bars_of("TWO", as_of=pd.Timestamp(D0), known_at=now()).loc[at, "close"] == new
        revisions = made.bars_of("TWO", every_revision=True)
        assert revisions.loc[at, "close"].tolist() == [old, new]
        assert revisions.loc[at, "known_at"].iloc[0] == pd.Timestamp("2018-12-18 21:00", tz="UTC")
        assert len(revisions) == len(made.bars_of("TWO")) + 1
        # said once, and stored once
        again = made.fetch(D1)
        assert check_of(again, "restatements").passed
        assert len(made.bars_of("TWO", every_revision=True)) == len(revisions)


def test_a_restatement_that_cannot_be_believed_is_quarantined_and_the_old_bar_stays(tmp_path: Path) -> None:
    listings = short_listings("PLAIN", "TWO")
    with vendor("alpaca", listings) as server:
        made = installed(tmp_path, server)
        assert made.fetch(D0).failures == {}
        server.listings["TWO"] = shift_tick(listings["TWO"], "2018-12-18", 10)
        outcome = made.fetch(D1)
        assert outcome.failures == {}
        (held,) = made.tables.read("quarantine").to_dict("records")
        assert (held["symbol"], held["session"], held["reason"]) == ("TWO", pd.Timestamp("2018-12-18"), "spike")
        server.listings["TWO"] = listings["TWO"]
        made.assert_true(D1)
        # an operator may take it nevertheless, but only from now on: the past knew another bar
        with pytest.raises(QuarantineError, match="leave out --since-close"):
            release(made.tables, CALENDAR, "TWO", "2018-12-18", "me", "it is true", since_close=True)
        made.assert_true(D1)
        before = now()
        assert "known from now on" in release(made.tables, CALENDAR, "TWO", "2018-12-18", "me", "it is true")
        assert made.bars_of("TWO").loc["2018-12-18", "close"] == held["close"]
        old = listings["TWO"].bars.loc["2018-12-18", "close"]
        assert made.bars_of("TWO", known_at=before).loc["2018-12-18", "close"] == old


def test_a_revision_leaves_what_the_past_computed(tmp_path: Path) -> None:
    listings = short_listings("PLAIN", "SEVEN", "TWO", first="2012-11-01")
    with vendor("alpaca", listings) as server:
        made = installed(tmp_path, server)
        assert made.train_stages("2018-12-01", "2018-11-30").failures == {}
        stages = ("regime", "volatility", "phasing", "harmonics", "condition")
        both = ("corporate_actions", "bars")
        assert made.fetch(D0, assets=(*both, *stages)).failures == {}
        first = {stage: made.tables.read(stage) for stage in stages}
        assert all(len(rows) for rows in first.values())
        moved = float(listings["TWO"].bars.loc["2018-12-18", "close"]) * 1.03
        server.listings["TWO"] = restate(listings["TWO"], "2018-12-18", "close", round(moved, 2))
        server.listings["TWO"] = restate(server.listings["TWO"], "2018-12-18", "high", round(moved + 1, 2))
        assert made.fetch(D1, assets=(*both, *stages)).failures == {}
        made.assert_true(D1)

        assert made.fetch(D0, assets=(*both, *stages)).failures == {}
        for stage in stages:
            rows = made.tables.read(stage, as_of=pd.Timestamp(D0))
            pd.testing.assert_frame_equal(rows, first[stage], check_exact=True, obj=stage)

    # the revision does matter to one who knows it from the start
    with vendor("alpaca", {**listings, "TWO": server.listings["TWO"]}) as other:
        fresh = installed(tmp_path / "fresh", other)
        assert fresh.train_stages("2018-12-01", "2018-11-30").failures == {}
        assert fresh.fetch(D0, assets=(*both, "regime", "volatility")).failures == {}
        rows = fresh.tables.read("volatility").set_index("symbol")["sigma_1d"]
        then = first["volatility"].set_index("symbol")["sigma_1d"]
        assert rows["PLAIN"] == then["PLAIN"]
        assert rows["TWO"] != then["TWO"]


# -- (b) splits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [2, 7, 0.1])
def test_yahoo_rewriting_its_past_for_a_split_changes_no_stored_bar(tmp_path: Path, ratio: float) -> None:
    listings = short_listings("PLAIN", "TWO")
    with vendor("yahoo", listings | {"TWO": with_split(listings["TWO"], D3, ratio)}, D2) as server:
        made = installed(tmp_path, server)
        both = ("corporate_actions", "bars")
        assert made.fetch(D2, assets=both).failures == {}
        before = made.bars_of("TWO", every_revision=True)
        told = server.rows(server.listings["TWO"])["close"]
        server.today = D3
        assert server.rows(server.listings["TWO"])["close"].iloc[0] == pytest.approx(told.iloc[0] / ratio)
        outcome = made.fetch(D3, assets=both)
        assert outcome.failures == {}
        # volumes lose their last digit at Yahoo in a reverse split of ten, which is no restatement either
        rounded = int((before["volume"].iloc[-10:] % 10 != 0).sum()) if ratio < 1 else 0
        noted = check_of(outcome, "restatements")
        assert noted.passed
        assert noted.metadata["restated"].value == noted.metadata["explained_by_split"].value == rounded
        assert outcome.metadata("bars", D3)["rows_restated"] == 0
        assert check_of(outcome, "quarantine").passed
        after = made.bars_of("TWO", every_revision=True)
        pd.testing.assert_frame_equal(after.loc[:D2], before, check_exact=True)
        made.assert_true(D3)
        actions = made.tables.read("corporate_actions")
        split = actions[(actions["symbol"] == "TWO") & (actions["kind"] == "split")]
        assert split[["ex_date", "value"]].to_numpy().tolist() == [[pd.Timestamp(D3), ratio]]


def adjusted_file(folder: Path, listing: Any, until: str, ex_date: str, ratio: float) -> None:
    """Write a file again as its owner would who adjusts it for a split, but leaves the split in."""
    write_listings(folder, {listing.symbol: listing}, until)
    path = folder / f"{listing.symbol}.csv"
    table = pd.read_csv(path, index_col="date")
    past = table.index < ex_date
    table.loc[past, ["open", "high", "low", "close"]] = (
        table.loc[past, ["open", "high", "low", "close"]] / ratio
    ).round(2)
    table.loc[past, "volume"] = (table.loc[past, "volume"] * ratio).round().astype("int64")
    table.to_csv(path)


def test_a_file_rewritten_after_its_split_is_explained_by_it(tmp_path: Path) -> None:
    listings = short_listings("PLAIN", "TWO")
    listings["TWO"] = with_split(listings["TWO"], D3, 2)
    folder = write_listings(tmp_path / "prices", listings, D2)
    made = make_installation(tmp_path, source="files", files_dir=folder, universe=("PLAIN", "TWO"))
    assert made.run(D2, assets=["corporate_actions", "bars"]).failures == {}
    before = made.tables.read("bars", every_revision=True)
    write_listings(folder, listings, D3)
    adjusted_file(folder, listings["TWO"], D3, D3, 2)
    outcome = made.run(D3, assets=["corporate_actions", "bars"])
    assert outcome.failures == {}
    rows = rows_of(outcome, "restatements", "rows")
    assert len(rows) == 10
    assert {row["symbol"] for row in rows} == {"TWO"}
    assert {row["session"] for row in rows} == {f"{s:%Y-%m-%d}" for s in CALENDAR.between("2018-12-11", D2)}
    assert all(
        row["change"].endswith("explained by a later split, 2 for 1: the bar as traded stays as it is") for row in rows
    )
    assert check_of(outcome, "restatements").metadata["explained_by_split"].value == 10
    assert outcome.metadata("bars", D3)["rows_restated"] == 0
    after = made.tables.read("bars", every_revision=True)
    pd.testing.assert_frame_equal(after[after["session"] <= D2].reset_index(drop=True), before, check_exact=True)
    stored = made.tables.read("bars").pivot(index="session", columns="symbol", values="close")
    for symbol, found in listings.items():
        assert stored[symbol].tolist() == found.until(D3).bars["close"].tolist()


def test_a_file_that_was_adjusted_from_the_start_is_refused(tmp_path: Path) -> None:
    listings = short_listings("PLAIN", "TWO")
    listings["TWO"] = with_split(listings["TWO"], D1, 2)
    folder = write_listings(tmp_path / "prices", listings, D3)
    adjusted_file(folder, listings["TWO"], D3, D1, 2)
    made = make_installation(tmp_path, source="files", files_dir=folder, universe=("PLAIN", "TWO"))
    outcome = made.run(D3, assets=["bars"])
    before = round(float(listings["TWO"].bars.loc[D0, "close"]) / 2, 2)
    after = listings["TWO"].bars.loc[D1, "close"]
    assert (
        f"TWO has a split that its prices do not show; the first is TWO (2 for 1 on {D1}, where the close went from "
        f"{before:g} to {after:g}: supply prices as traded, not adjusted ones)" in outcome.failures["bars"]
    )
    assert [c.check_name for c in outcome.checks if c.severity.value == "ERROR" and not c.passed] == ["splits_visible"]
    assert set(made.tables.read("bars")["symbol"]) == {"PLAIN"}
    write_listings(folder, listings, D3)
    assert made.run(D3, assets=["bars"]).failures == {}
    stored = made.tables.read("bars").pivot(index="session", columns="symbol", values="close")
    assert stored["TWO"].tolist() == listings["TWO"].until(D3).bars["close"].tolist()


# -- (c) delistings ----------------------------------------------------------------------------------------------------

LAST_BAR = "2018-12-12"
LONG = "2012-11-01"


def prices_of(folder: Path, listings: dict[str, Any], until: str) -> Path:
    """Closes alone, so that the whole pipeline is fast."""
    return write_prices(folder, pd.DataFrame({s: found.until(until).bars["close"] for s, found in listings.items()}))


def test_a_symbol_that_stops_trading_leaves_and_is_paid_out(tmp_path: Path) -> None:
    """YIELD ends on 2018-12-12: before it is held, four sessions the run fails, and on the fifth it is gone."""
    listings = {symbol: starts(found, LONG) for symbol, found in default_market().items()}
    listings = {symbol: listings[symbol] for symbol in ("PLAIN", "SEVEN", "TWO", "YIELD")}
    listings["YIELD"] = ends(listings["YIELD"], LAST_BAR)
    folder = prices_of(tmp_path / "prices", listings, "2018-12-31")
    made = make_installation(
        tmp_path, source="files", files_dir=folder, universe=tuple(listings), max_weight=0.4, no_trade_band=0.0
    )
    made.train("2018-12-01", "2018-11-30")
    assert made.run("2018-12-10", LAST_BAR).failures == {}
    held = made.ledger.recorded_account("main", pd.Timestamp(LAST_BAR))
    assert held is not None
    assert "YIELD" in held.positions, "the test needs a position that is to be paid out"
    orders_before = made.count("orders")

    for session in ("2018-12-13", "2018-12-18"):  # one and four sessions after its last bar
        outcome = made.run(session)
        assert (
            f"YIELD has no bar at the session; the first is YIELD (the newest is {LAST_BAR})"
            in outcome.failures["bars"]
        )
        assert not check_of(outcome, "fresh").passed
    assert made.count("orders") == orders_before

    outcome = made.run("2018-12-13", "2018-12-20")
    assert outcome.failures == {}
    warned = check_of(outcome, "delisted")
    assert (warned.passed, warned.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert rows_of(outcome, "delisted", "rows") == [{"symbol": "YIELD", "last_session": LAST_BAR}]
    stages = ("phasing", "harmonics", "regime", "volatility", "condition", "forecast", "allocation", "signals")
    for stage in stages:
        rows = made.tables.read(stage, first=pd.Timestamp("2018-12-13"))
        assert "YIELD" not in set(rows["symbol"]), stage
        assert {"PLAIN", "SEVEN", "TWO"} <= set(rows["symbol"]), stage
        policy = check_of(outcome, "data_policy", stage)
        assert policy.passed
        assert str(policy.description).endswith("stopped trading: YIELD")
    with made.ledger.transaction() as db:
        paid = db.execute(text("SELECT session, symbol, amount FROM cash_movements WHERE kind = 'delisting'")).all()
        late = db.execute(
            text("SELECT count(*) FROM orders WHERE symbol = 'YIELD' AND session > :day"), {"day": LAST_BAR}
        ).scalar_one()
    close = float(listings["YIELD"].bars.loc[LAST_BAR, "close"])
    quantity = float(held.positions["YIELD"])
    ((session, symbol, amount),) = paid
    assert (str(session), symbol) == ("2018-12-13", "YIELD")
    assert float(amount) == pytest.approx(quantity * close, abs=1e-3)
    assert late == 0
    after = made.ledger.recorded_account("main", pd.Timestamp("2018-12-13"))
    assert after is not None
    assert "YIELD" not in after.positions
    # one that is gone stays gone, on a day of its own, too
    assert made.run("2018-12-21").failures == {}
    with made.ledger.transaction() as db:
        assert db.execute(text("SELECT count(*) FROM cash_movements WHERE kind = 'delisting'")).scalar_one() == 1


@pytest.mark.parametrize("kind", VENDORS)
def test_when_a_symbol_counts_as_gone(tmp_path: Path, kind: str) -> None:
    listings = short_listings("PLAIN", "SEVEN", "TWO")
    with vendor(kind, listings | {"TWO": ends(listings["TWO"], LAST_BAR)}) as server:
        made = installed(tmp_path, server)
        assert made.fetch(LAST_BAR).failures == {}
        four = made.fetch("2018-12-18")
        assert "TWO has no bar at the session; the first is TWO (the newest is 2018-12-12)" in four.failures["bars"]
        assert check_of(four, "delisted").passed
        assert made.verdict("2018-12-18") == (False, "")
        five = made.fetch("2018-12-19")
        assert five.failures == {}
        assert rows_of(five, "delisted", "rows") == [{"symbol": "TWO", "last_session": LAST_BAR}]
        assert made.verdict("2018-12-19") == (True, "")
        made.assert_true("2018-12-19")
        # the sessions in between, of which nobody could know yet, can be made up for one by one
        between = made.fetch("2018-12-14")
        assert between.failures == {}
        assert made.verdict("2018-12-14") == (True, "")


def test_a_vendor_that_has_fallen_behind_delists_nothing(tmp_path: Path) -> None:
    listings = short_listings("PLAIN", "SEVEN", "TWO")
    behind = {symbol: ends(listings[symbol], LAST_BAR) for symbol in ("SEVEN", "TWO")}
    with vendor("alpaca", listings | behind) as server:
        made = installed(tmp_path, server)
        assert made.fetch(LAST_BAR).failures == {}
        outcome = made.fetch("2018-12-24")
        assert "SEVEN, TWO have no bar at the session; the first is SEVEN" in outcome.failures["bars"]
        assert check_of(outcome, "delisted").passed
        assert made.verdict("2018-12-24") == (False, "")
        server.listings |= listings
        repaired = made.fetch("2018-12-24")
        assert repaired.failures == {}
        made.assert_true("2018-12-24")


# -- (d) new listings --------------------------------------------------------------------------------------------------


def test_a_new_listing_enters_on_the_session_of_its_last_needed_bar(tmp_path: Path) -> None:
    end = pd.Timestamp("2018-12-20")
    days = sessions()[sessions() <= end]
    listings = short_listings("PLAIN", "SEVEN", first=f"{days[-520]:%Y-%m-%d}")
    # its 500th bar is on the third session of the range, its 252nd long before
    listings["TWO"] = starts(default_market()["TWO"], days[-502])
    first, last = f"{days[-5]:%Y-%m-%d}", f"{days[-1]:%Y-%m-%d}"
    folder = prices_of(tmp_path / "prices", listings, last)
    made = make_installation(
        tmp_path, source="files", files_dir=folder, universe=("PLAIN", "SEVEN", "TWO"), policy="exclude"
    )
    assert made.train_stages("2018-12-01", "2018-11-30").failures == {}
    outcome = made.run(first, last, assets=["bars", "corporate_actions", "regime", "volatility"])
    assert outcome.failures == {}
    rows = made.tables.read("volatility").groupby("session")["symbol"].agg(set)
    assert rows.index.tolist() == days[-5:].tolist()
    assert [("TWO" in found) for found in rows] == [False, False, True, True, True]
    (violation,) = rows_of(outcome, "data_policy", "violations", "volatility")
    assert (violation["symbol"], violation["session"], violation["bars_found"], violation["bars_needed"]) == (
        "TWO", first, 498, 500,
    )  # fmt: skip
    assert set(made.tables.read("regime")["symbol"]) == {"PLAIN", "SEVEN", "TWO", "MARKET"}
    # the month's model is older than the symbol's 500th bar: it has that of all symbols until the next month
    served = made.tables.read("volatility").groupby("symbol")["fitted"].agg(set).to_dict()
    assert served == {"PLAIN": {"own"}, "SEVEN": {"own"}, "TWO": {"pooled"}}


# -- (e) quarantine ----------------------------------------------------------------------------------------------------


RISK = ("regime", "volatility")


@pytest.fixture
def quarantined(tmp_path: Path) -> Iterator[Any]:
    """TWO's bar of D0, whose move of a fifth was real, is in quarantine; D1's partition is computed."""
    listings = short_listings("PLAIN", "TWO", first="2016-06-01")
    bars = listings["TWO"].bars.copy()
    bars.loc[D0, ["open", "high", "low", "close"]] = (bars.loc[D0, ["open", "high", "low", "close"]] * 1.6).round(2)
    with vendor("alpaca", listings | {"TWO": replace(listings["TWO"], bars=bars)}) as server:
        made = installed(tmp_path, server)
        assert made.train_stages("2018-12-01", "2018-11-30").failures == {}
        for session in (D0, D1):
            assert made.fetch(session, assets=("corporate_actions", "bars", *RISK)).failures == {}
        yield made


def test_a_release_from_now_on_leaves_the_past_alone(quarantined: Any) -> None:
    made = quarantined
    before = made.tables.read("volatility")
    assert before[before["symbol"] == "TWO"]["session"].tolist() == [pd.Timestamp(D1)]
    told = release(made.tables, CALENDAR, "two", D0, " Ann ", " bought out ")
    assert told.startswith("released TWO of 2018-12-20, close 56.94, by Ann; known from now on")
    made.assert_true(D1)
    assert made.fetch(D1, assets=RISK).failures == {}
    assert made.fetch(D0, assets=RISK).failures == {}
    pd.testing.assert_frame_equal(made.tables.read("volatility"), before, check_exact=True)
    held = made.tables.read("quarantine", every_revision=True)
    assert held["state"].tolist()[-1] == "released"
    assert held[["operator", "note"]].iloc[-1].tolist() == ["Ann", "bought out"]
    assert len(listing(made.tables)) == 0
    assert len(listing(made.tables, everything=True)) == 1
    # and the next fetch takes it as it is
    outcome = made.fetch(D2)
    assert outcome.failures == {}
    assert check_of(outcome, "quarantine").passed
    assert check_of(outcome, "restatements").passed
    assert len(listing(made.tables)) == 0
    made.assert_true(D2)
    with pytest.raises(QuarantineError, match="TWO has no bar in quarantine on 2018-12-20; there are 0"):
        release(made.tables, CALENDAR, "TWO", D0, "Ann", "again")


def test_a_release_since_the_close_is_seen_by_sessions_that_are_run_again(quarantined: Any) -> None:
    made = quarantined
    before = made.tables.read("volatility")
    told = release(made.tables, CALENDAR, "TWO", D0, "Ann", "bought out", since_close=True)
    assert "known since its session's close" in told
    assert made.bars_of("TWO").loc[D0, "known_at"] == pd.Timestamp("2018-12-20 21:00", tz="UTC")
    pd.testing.assert_frame_equal(made.tables.read("volatility"), before)
    for session in (D0, D1):
        assert made.fetch(session, assets=RISK).failures == {}
    after = made.tables.read("volatility")
    assert after[after["symbol"] == "TWO"]["session"].tolist() == [pd.Timestamp(D0), pd.Timestamp(D1)]
    sigma = {name: rows.set_index(["session", "symbol"])["sigma_1d"] for name, rows in (("b", before), ("a", after))}
    key = (pd.Timestamp(D1), "TWO")
    assert sigma["a"][key] > 2 * sigma["b"][key]
    assert sigma["a"][pd.Timestamp(D1), "PLAIN"] == sigma["b"][pd.Timestamp(D1), "PLAIN"]


@pytest.mark.parametrize(
    ("symbol", "session", "operator", "reason", "message"),
    [
        ("TWO", D1, "Ann", "x", "TWO has no bar in quarantine on 2018-12-21; there are 1, such as TWO 2018-12-20"),
        ("PLAIN", D0, "Ann", "x", "PLAIN has no bar in quarantine on 2018-12-20"),
        ("TWO", D0, " ", "x", "a release needs a name and a reason"),
        ("TWO", D0, "Ann", "", "a release needs a name and a reason"),
        ("TWO", "2018-12-25", "Ann", "x", "2018-12-25 (Tuesday) is not a session of XNYS"),
        ("TWO", "soon", "Ann", "x", "is not a date"),
    ],
)
def test_a_release_that_cannot_be_made_changes_nothing(
    tmp_path: Path, symbol: str, session: str, operator: str, reason: str, message: str
) -> None:
    made = _in_quarantine(tmp_path)
    before = made.tables.read("bars"), made.tables.read("quarantine")
    asked = ["quarantine", "release", symbol, session, "--operator", operator, "--reason", reason]
    result = CliRunner().invoke(main, asked, env={"TRADING_DATA_DIR": str(made.settings.data_dir)})
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    pd.testing.assert_frame_equal(made.tables.read("bars"), before[0])
    pd.testing.assert_frame_equal(made.tables.read("quarantine"), before[1])


def _in_quarantine(folder: Path) -> Installation:
    """TWO's bar of D0 in quarantine, from a row alone."""
    made = make_installation(folder, universe=("TWO",))
    row = {
        "session": pd.Timestamp(D0), "symbol": "TWO", "open": 354.3, "high": 357.1, "low": 353.4, "close": 355.9,
        "volume": 100.0, "source": "sample", "reason": "jump", "detail": "moved +900.0%", "state": "quarantined",
        "operator": "", "note": "", "known_at": pd.Timestamp("2018-12-20 21:00", tz="UTC"),
    }  # fmt: skip
    made.tables.add_revisions("quarantine", pd.DataFrame([row]))
    return made


def test_the_quarantine_commands(tmp_path: Path) -> None:
    env = {"TRADING_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "160"}

    def ask(*words: str) -> str:
        result = CliRunner().invoke(main, ["quarantine", *words], env=env)
        assert result.exit_code == 0, result.output
        return result.output

    assert json.loads(ask("list", "--json")) == []
    made = _in_quarantine(tmp_path)
    (row,) = json.loads(ask("list", "--json"))
    assert (row["symbol"], row["session"], row["close"], row["state"]) == (
        "TWO", "2018-12-20T00:00:00", 355.9, "quarantined",
    )  # fmt: skip
    ask("release", "TWO", D0, "--operator", "Ann", "--reason", "true", "--since-close")
    assert json.loads(ask("list", "--json")) == []
    (row,) = json.loads(ask("list", "--all", "--json"))
    assert (row["state"], row["operator"], row["note"]) == ("released", "Ann", "true")
    (bar,) = made.tables.read("bars").to_dict("records")
    assert (bar["close"], bar["known_at"]) == (355.9, pd.Timestamp("2018-12-20 21:00", tz="UTC"))


def test_a_symbol_with_its_newest_bar_in_quarantine_sits_the_session_out(tmp_path: Path) -> None:
    listings = {s: starts(default_market()[s], LONG) for s in ("PLAIN", "SEVEN", "TWO", "YIELD")}
    folder = prices_of(tmp_path / "prices", listings, "2018-12-31")
    made = make_installation(
        tmp_path, source="files", files_dir=folder, universe=tuple(listings), max_weight=0.4, no_trade_band=0.0
    )
    made.train("2018-12-01", "2018-11-30")
    assert made.run("2018-12-17", D0).failures == {}
    held = made.ledger.recorded_account("main", pd.Timestamp(D0))
    assert held is not None
    ticked = sorted(held.positions)[0]
    prices_of(folder, {ticked: shift_tick(listings[ticked], D1, 10)}, "2018-12-31")
    outcome = made.run(D1)
    assert outcome.failures == {}
    assert rows_of(outcome, "data_policy", "sitting_out", "signals") == [ticked]
    signals = made.tables.read("signals", first=pd.Timestamp(D1)).set_index("symbol")
    assert signals.loc[ticked, "action"] == "HOLD"
    assert "its bar of the session is in quarantine" in signals.loc[ticked, "reason"]
    assert signals.loc[ticked, "target_weight"] == signals.loc[ticked, "current_weight"] > 0
    for stage in ("harmonics", "volatility", "condition", "forecast", "allocation"):
        assert ticked not in set(made.tables.read(stage, first=pd.Timestamp(D1))["symbol"]), stage
    orders = made.tables.read("orders", first=pd.Timestamp(D1))
    assert ticked not in set(orders["symbol"])
    # valued at the last close that is believed, not at ten times of it
    equity = made.ledger.equity_curve("main")["equity"]
    assert abs(equity[pd.Timestamp(D1)] / equity[pd.Timestamp(D0)] - 1) < 0.05
    # it takes part again the day after
    after = made.run(D2)
    assert after.failures == {}
    assert ticked in set(made.tables.read("forecast", first=pd.Timestamp(D2))["symbol"])


# -- (f) two writers ---------------------------------------------------------------------------------------------------


def fetch_in_a_process(folder: str, prices: str, universe: tuple[str, ...], days: list[str]) -> list[dict[str, str]]:
    """Run the fetch of several partitions; what failed."""
    made = make_installation(Path(folder), source="files", files_dir=Path(prices), universe=universe, max_weight=0.5)
    return [made.run(day, assets=["corporate_actions", "bars"]).failures for day in days]


def test_two_processes_into_one_store(tmp_path: Path) -> None:
    """Each runs four partitions of symbols of its own, over the same dates, into the same tables and ledger."""
    listings = short_listings("PLAIN", "SEVEN", "TWO", "YIELD")
    folder = write_listings(tmp_path / "prices", listings, "2018-12-31")
    plans = [
        (("PLAIN", "SEVEN"), [D0, D1, D2, D3]),
        (("TWO", "YIELD"), [D0, D1, D2, D3]),
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(plans), mp_context=context) as pool:
        started = [pool.submit(fetch_in_a_process, str(tmp_path), str(folder), *plan) for plan in plans]
        assert [future.result(timeout=120) for future in started] == [[{}] * 4, [{}] * 4]
    made = make_installation(tmp_path, source="files", files_dir=folder, universe=tuple(listings))
    raw = DeltaTable(f"{made.settings.resolved_tables_uri}/bars").to_pandas()
    expected = sum(len(found.until(D3).bars) for found in listings.values())
    assert len(raw) == expected
    assert not raw.duplicated(["session", "symbol"]).any()
    stored = made.tables.read("bars").pivot(index="session", columns="symbol", values="close")
    for symbol, found in listings.items():
        assert stored[symbol].tolist() == found.until(D3).bars["close"].tolist()
    answers = DeltaTable(f"{made.settings.resolved_tables_uri}/fetches").to_pandas()
    assert answers.groupby(["session", "asset", "symbol"]).size().tolist() == [1] * (4 * 2 * 4)
    actions = DeltaTable(f"{made.settings.resolved_tables_uri}/corporate_actions").to_pandas()
    assert len(actions) == sum(len(found.until(D3).actions) for found in listings.values())
