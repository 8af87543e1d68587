"""Each failure and each oddity of a vendor, through the whole fetch: what the run says, what is stored, the repair."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from tests.e2e.vendors import VENDORS, check_of, installed, rows_of, short_listings, vendor
from tests.servers.alpaca import ACTIONS, BARS
from tests.servers.faults import (
    Fault,
    cut_short,
    dropped,
    forbidden,
    rate_limited,
    server_error,
    stalled,
    truncated,
)
from tests.servers.market import drop_session, shift_tick
from tests.servers.oddities import extra_column, flat_bar, null_rows, out_of_order, repeated_row, without_column

D0, D1, D2 = "2018-12-20", "2018-12-21", "2018-12-24"
ALL = ("HALF", "MANY", "ONCE", "PLAIN", "SEVEN", "TWO", "UNDO", "YIELD")
NAMED = " Nothing of these symbols was stored; what came of the others was."

# alpaca-py imports what websockets has replaced
pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")


def abandoned(outcome) -> dict[str, str]:
    """Reason of each symbol without an answer."""
    return {row["symbol"]: row["failure"] for row in rows_of(outcome, "answered")}


# -- faults that pass --------------------------------------------------------------------------------------------------

PASSING: dict[str, Fault] = {
    "HALF": rate_limited(),
    "MANY": rate_limited(0.3),
    "ONCE": rate_limited(0.5, as_date=True),
    "PLAIN": server_error(),
    "SEVEN": stalled(30),
    "TWO": truncated(),
    "UNDO": dropped(),
    "YIELD": cut_short(),
}


@pytest.mark.parametrize("kind", VENDORS)
def test_faults_that_pass_are_retried_and_leave_no_trace(tmp_path: Path, kind: str) -> None:
    with vendor(kind, short_listings()) as server:
        for symbol, fault in PASSING.items():
            server.faults.add(fault, symbol=symbol, path="" if kind == "yahoo" else BARS)
        # of the actions, too: at Yahoo they are asked for once more by symbol, at Alpaca of all symbols at once
        for fault in (server_error(503), truncated(), dropped()):
            server.faults.add(fault, **({"symbol": "HALF", "skip": 1} if kind == "yahoo" else {"path": ACTIONS}))
        made = installed(tmp_path, server)
        outcome = made.fetch(D0)
        assert outcome.failures == {}
        assert all(check.passed for check in outcome.checks if check.check_name != "up_to_date")
        requests = server.log.requests()
        met = [request.fault for request in requests if request.fault]
        assert sorted(met) == sorted([f.kind for f in PASSING.values()] + ["status", "truncated", "dropped"])
        assert requests[-1].status == 200
        made.assert_true(D0)
        assert made.verdict(D0) == (True, "")
        told = "\n".join(made.messages(outcome))
        for words in ("answered 429", "answered 500", "Timeout", "attempt 2 of 6 in"):
            assert words in told
        assert f"{kind} bars: 8 of 8 symbols" in told


def test_the_time_that_a_vendor_asks_to_wait_is_waited(tmp_path: Path) -> None:
    with vendor("alpaca", short_listings("TWO")) as server:
        server.faults.add(rate_limited(0.4), path=BARS)
        server.faults.add(rate_limited(1, as_date=True), path=BARS)
        assert installed(tmp_path, server).fetch(D0).failures == {}
        first, second, third = server.log.requests(BARS)
        assert second.time - first.time >= 0.4
        assert third.time - second.time >= 0.9
        assert third.status == 200


# -- faults that last --------------------------------------------------------------------------------------------------

LASTING: dict[str, dict[str, tuple[Fault, str]]] = {
    "yahoo": {
        "HALF": (rate_limited(), "Yahoo answered 429: Too Many Requests; given up after 6 attempts"),
        "MANY": (rate_limited(3600), "since the 3600 s that it asked to wait would not end within"),
        "ONCE": (server_error(), "INKApi Error</body></html>; given up after 6 attempts: run again later"),
        "PLAIN": (stalled(30), "Yahoo: Timeout"),
        "SEVEN": (truncated(), "Yahoo answered what is no JSON"),
        "TWO": (dropped(), "given up after 6 attempts"),
        "UNDO": (forbidden(), "Yahoo answered 403: Forbidden; no further attempt can help"),
    },
    # two symbols to a request, which share its fate
    "alpaca": {
        "HALF": (server_error(), 'Alpaca answered 500: {"message":'),
        "MANY": (server_error(), "given up after 6 attempts: run again later"),
        "ONCE": (stalled(30), "ReadTimeout"),
        "PLAIN": (stalled(30), "given up after 6 attempts"),
        "SEVEN": (rate_limited(3600, as_date=True), "s that it asked to wait would not end within"),
        "TWO": (rate_limited(3600, as_date=True), "TRADING_FETCH_SECONDS"),
    },
    "alpaca, too": {
        "HALF": (truncated(), "Alpaca: JSONDecodeError"),
        "MANY": (truncated(), "given up after 6 attempts"),
        "ONCE": (dropped(), "Alpaca: ConnectionError"),
        "PLAIN": (dropped(), "given up after 6 attempts"),
        "SEVEN": (rate_limited(), "Alpaca answered 429"),
        "TWO": (rate_limited(), "given up after 6 attempts"),
    },
}


@pytest.mark.parametrize(
    ("case", "policy"),
    [("yahoo", "abort"), ("yahoo", "exclude"), ("alpaca", "abort"), ("alpaca, too", "exclude")],
)
def test_a_lasting_fault_concerns_its_symbols_alone_and_a_run_after_it_repairs_them(
    tmp_path: Path, case: str, policy: str
) -> None:
    lasting, kind = LASTING[case], case.partition(",")[0]
    with vendor(kind, short_listings()) as server:
        for symbol, (fault, _) in lasting.items():
            server.faults.add(fault, symbol=symbol, always=True, path="" if kind == "yahoo" else BARS)
        made = installed(tmp_path, server, policy=policy)
        outcome = made.fetch(D0)
        made.assert_true(D0, without=dict.fromkeys(lasting))
        reasons = abandoned(outcome)
        assert list(reasons) == list(lasting)
        for symbol, (_, words) in lasting.items():
            assert words in reasons[symbol]
        answered = check_of(outcome, "answered")
        if policy == "abort":
            assert answered.severity is dg.AssetCheckSeverity.ERROR
            assert f"{', '.join(lasting)} have no answer from the source; the first is HALF" in outcome.failures["bars"]
            assert NAMED in outcome.failures["bars"]
            assert made.verdict(D0) == (False, "")
        else:
            assert outcome.failures == {}
            assert answered.severity is dg.AssetCheckSeverity.WARN
            assert made.verdict(D0) == (True, ",".join(lasting))
        assert not answered.passed

        server.faults.clear()
        server.log.clear()
        again = made.fetch(D0)
        assert again.failures == {}
        assert all(check.passed for check in again.checks if check.check_name != "up_to_date")
        made.assert_true(D0)
        assert made.verdict(D0) == (True, "")
        # from the start for those that never came, the overlap for the others
        whole = {r.symbols for r in server.log.requests() if _first(r).startswith("2000-01")}
        assert set().union(*whole) == set(lasting)


def _first(request) -> str:
    """First day that a request asks for."""
    asked = request.query.get("period1")
    return f"{pd.Timestamp(int(asked), unit='s'):%Y-%m-%d}" if asked else request.query["start"][:10]


def test_refused_keys_end_the_whole_fetch(tmp_path: Path) -> None:
    with vendor("alpaca", short_listings("PLAIN", "TWO")) as server:
        server.faults.add(forbidden(), always=True)
        made = installed(tmp_path, server)
        outcome = made.fetch(D0, assets=("corporate_actions", "bars"))
        for asset in ("bars", "corporate_actions"):
            assert "Alpaca answered 403 to the keys" in outcome.failures[asset]
            assert server.secret not in outcome.failures[asset]
            assert made.verdict(D0, asset) is None
        assert made.stored() == []
        server.faults.clear()
        assert made.fetch(D0, assets=("corporate_actions", "bars")).failures == {}
        made.assert_true(D0)
        assert made.verdict(D0) == made.verdict(D0, "corporate_actions") == (True, "")


def test_bars_without_an_answer_on_their_actions_are_not_stored(tmp_path: Path) -> None:
    with vendor("yahoo", short_listings("PLAIN", "SEVEN")) as server:
        server.faults.add(server_error(), symbol="SEVEN", skip=1, always=True)
        made = installed(tmp_path, server)
        outcome = made.fetch(D0)
        assert (
            "SEVEN has no answer from the source; the first is SEVEN (its corporate actions: Yahoo answered 500"
            in (outcome.failures["bars"])
        )
        made.assert_true(D0, without={"SEVEN": None})
        server.faults.clear()
        assert made.fetch(D0).failures == {}
        made.assert_true(D0)


def test_a_symbol_without_an_answer_on_its_actions_is_left_out_in_mode_exclude(tmp_path: Path) -> None:
    """The bars came, with their own request for actions; the stage that stores the actions was refused."""
    with vendor("yahoo", short_listings("PLAIN", "SEVEN", first="2012-11-01")) as server:
        made = installed(tmp_path, server, policy="exclude")
        server.faults.add(server_error(), symbol="SEVEN", skip=2, always=True)
        outcome = made.fetch(D0, assets=("bars", "corporate_actions", "phasing"))
        assert outcome.failures == {}
        assert not check_of(outcome, "answered", "corporate_actions").passed
        assert set(made.tables.read("corporate_actions")["symbol"]) <= {"PLAIN"}
        # without its splits and dividends its prices mean nothing
        assert set(made.tables.read("phasing")["symbol"]) == {"PLAIN"}


# -- odd but legal answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VENDORS)
def test_a_symbol_that_was_never_listed_is_named(tmp_path: Path, kind: str) -> None:
    listings = short_listings("PLAIN", "TWO")
    with vendor(kind, {"PLAIN": listings["PLAIN"]}) as server:
        made = installed(tmp_path, server, "PLAIN", "TWO")
        outcome = made.fetch(D0)
        assert outcome.failures["bars"].startswith(
            "bars: TWO has no bar at the session; the first is TWO (there is none at all)." + NAMED
        )
        assert [c.check_name for c in outcome.checks if c.severity.value == "ERROR" and not c.passed] == ["fresh"]
        made.assert_true(D0, without={"TWO": None})
        assert made.verdict(D0) == (False, "")
        server.listings["TWO"] = listings["TWO"]
        assert made.fetch(D0).failures == {}
        made.assert_true(D0)
        assert made.verdict(D0) == (True, "")


@pytest.mark.parametrize("kind", VENDORS)
def test_a_missing_session_is_refused_until_it_is_there(tmp_path: Path, kind: str) -> None:
    listings = short_listings("PLAIN", "TWO")
    with vendor(kind, listings) as server:
        if kind == "yahoo":
            server.odd(null_rows("2018-12-12"), "TWO")  # Yahoo's way: a time stamp and nothing beside it
        else:
            server.listings["TWO"] = drop_session(listings["TWO"], "2018-12-12")
        made = installed(tmp_path, server)
        outcome = made.fetch(D0)
        assert (
            "TWO has sessions missing between bars; the first is TWO (1 of them, such as 2018-12-12)"
            in outcome.failures["bars"]
        )
        assert not check_of(outcome, "no_missing_session").passed
        made.assert_true(D0, without={"TWO": None})
        server._oddities.clear()
        server.listings["TWO"] = listings["TWO"]
        assert made.fetch(D0).failures == {}
        made.assert_true(D0)


@pytest.mark.parametrize("kind", VENDORS)
def test_half_day_order_holiday_and_running_session(tmp_path: Path, kind: str) -> None:
    with vendor(kind, short_listings("PLAIN", "TWO"), "2018-12-24") as server:
        server.odd(out_of_order())
        made = installed(tmp_path, server)
        assert made.fetch("2018-12-24").failures == {}
        made.assert_true("2018-12-24")
        # Christmas Eve closes at 13:00 in New York
        assert made.bars_of("TWO")["known_at"].iloc[-1] == pd.Timestamp("2018-12-24 18:00", tz="UTC")

        server._oddities.clear()
        server.odd(flat_bar("2018-12-25"), "TWO")
        server.today = "2018-12-26"
        if kind == "yahoo":
            server.live = pd.Timestamp("2018-12-27")
        outcome = made.fetch("2018-12-26")
        assert outcome.failures == {}
        made.assert_true("2018-12-26")
        (phantom,) = made.tables.read("quarantine").to_dict("records")
        assert (phantom["symbol"], phantom["session"], phantom["reason"], phantom["volume"], phantom["state"]) == (
            "TWO", pd.Timestamp("2018-12-25"), "phantom", 0.0, "quarantined",
        )  # fmt: skip
        assert phantom["close"] == server.listings["TWO"].bars.loc["2018-12-24", "close"]
        noted = check_of(outcome, "quarantine")
        assert (noted.passed, noted.severity, noted.metadata["new"].value) == (False, dg.AssetCheckSeverity.WARN, 1)

        # the day after, the same flat bar is no news, and the row of the running session has become a bar
        server.today = "2018-12-27"
        if kind == "yahoo":
            server.live = pd.Timestamp("2018-12-28")
        again = made.fetch("2018-12-27")
        assert again.failures == {}
        assert check_of(again, "quarantine").passed
        assert check_of(again, "restatements").passed
        assert len(made.tables.read("quarantine", every_revision=True)) == 1
        made.assert_true("2018-12-27")


@pytest.mark.parametrize("kind", VENDORS)
def test_a_bad_tick_is_a_jump_and_the_day_after_a_spike(tmp_path: Path, kind: str) -> None:
    listings = short_listings("PLAIN", "TWO")
    with vendor(kind, listings | {"TWO": shift_tick(listings["TWO"], D0, 10)}) as server:
        made = installed(tmp_path, server)
        outcome = made.fetch(D0)
        assert outcome.failures == {}
        (row,) = rows_of(outcome, "quarantine", "rows")
        assert (row["symbol"], row["date"], row["close"], row["reason"]) == ("TWO", D0, 355.9, "jump")
        assert row["detail"].startswith("moved +907.9%")
        assert row["detail"].endswith("the next bar is not known yet")
        assert "sitting out, their bars in quarantine: TWO" in str(check_of(outcome, "data_policy").description)
        made.assert_true(D0, without={"TWO": D0})
        assert made.verdict(D0) == (True, "")

        after = made.fetch(D1)
        assert after.failures == {}
        (row,) = rows_of(after, "quarantine", "rows")
        assert (row["date"], row["reason"]) == (D0, "spike")
        assert row["detail"].endswith("the next bar is back")
        made.assert_true(D1, without={"TWO": D0})
        kept = made.tables.read("quarantine", every_revision=True)
        assert kept["reason"].tolist() == ["jump", "spike"]
        assert kept["known_at"].iloc[0] == pd.Timestamp("2018-12-20 21:00", tz="UTC")
        assert kept["known_at"].iloc[1] > pd.Timestamp("2020-01-01", tz="UTC")

        server.listings["TWO"] = listings["TWO"]
        repaired = made.fetch(D1)
        assert repaired.failures == {}
        made.assert_true(D1)
        # the past knew the bad tick, and no good bar
        then = pd.Timestamp("2018-12-24 15:00", tz="UTC").to_pydatetime()
        assert pd.Timestamp(D0) not in made.bars_of("TWO", known_at=then).index


@pytest.mark.parametrize("kind", VENDORS)
def test_a_corrected_bar_is_quarantined_no_longer(tmp_path: Path, kind: str) -> None:
    from trading_dagster.assets._stage import CALENDAR
    from trading_dagster.resources.quarantine import QuarantineError, listing, release

    listings = short_listings("PLAIN", "TWO")
    with vendor(kind, listings | {"TWO": shift_tick(listings["TWO"], D0, 10)}) as server:
        made = installed(tmp_path, server)
        assert made.fetch(D0).failures == {}
        assert len(listing(made.tables)) == 1
        server.listings["TWO"] = listings["TWO"]
        assert made.fetch(D0).failures == {}
        made.assert_true(D0)
        assert len(listing(made.tables)) == 0
        with pytest.raises(QuarantineError):
            release(made.tables, CALENDAR, "TWO", D0, "me", "by mistake")
        made.assert_true(D0)


def test_a_repeated_row_of_alpaca_is_refused(tmp_path: Path) -> None:
    with vendor("alpaca", short_listings("PLAIN", "TWO")) as server:
        server.odd(repeated_row(D0), "TWO")
        made = installed(tmp_path, server)
        outcome = made.fetch(D0)
        assert (
            "2 rows of TWO have a date that another bar of the symbol has; the first is TWO on 2018-12-20"
            in (outcome.failures["bars"])
        )
        made.assert_true(D0, without={"TWO": None})
        server._oddities.clear()
        assert made.fetch(D0).failures == {}
        made.assert_true(D0)


def test_a_repeated_row_of_yahoo_is_stored_once(tmp_path: Path) -> None:
    with vendor("yahoo", short_listings("PLAIN", "TWO")) as server:
        server.odd(repeated_row(D0), "TWO")  # the same moment twice, which yfinance takes for one
        made = installed(tmp_path, server)
        assert made.fetch(D0).failures == {}
        made.assert_true(D0)


@pytest.mark.parametrize("kind", VENDORS)
def test_changed_columns_are_refused_until_an_operator_accepts_them(tmp_path: Path, kind: str) -> None:
    both = ("corporate_actions", "bars") if kind == "yahoo" else ("bars",)
    with vendor(kind, short_listings("PLAIN", "TWO")) as server:
        made = installed(tmp_path, server)
        assert made.fetch(D0, assets=both).failures == {}
        server.odd(extra_column("auction"))
        refused = made.fetch(D1, assets=both)
        for asset in both:
            assert (
                "PLAIN, TWO have other columns in the answer than before; the first is PLAIN (gone: none; new: auction)"
                in refused.failures[asset]
            )
            assert made.verdict(D1, asset) == (False, "")
        assert len(rows_of(refused, "columns_unchanged")) == 2
        made.assert_true(D0)
        assert made.fetch(D1, assets=both, accept=True).failures == {}
        made.assert_true(D1)
        assert made.verdict(D1) == (True, "")
        # from now on they are what is compared with
        server._oddities.clear()
        gone = made.fetch(D2)
        assert "the first is PLAIN (gone: auction; new: none)" in gone.failures["bars"]
        made.assert_true(D1)
        assert made.fetch(D2, accept=True).failures == {}
        made.assert_true(D2)


@pytest.mark.parametrize(
    ("kind", "column", "words"),
    [
        ("yahoo", "volume", "Yahoo's answer lacks volume; found adjclose, close, high, low, open, timestamp"),
        ("alpaca", "v", "found are c, h, l, n, o, t, vw: update alpaca-py, or use another TRADING_SOURCE"),
    ],
)
def test_a_needed_column_that_is_gone_cannot_be_accepted(tmp_path: Path, kind: str, column: str, words: str) -> None:
    with vendor(kind, short_listings("PLAIN", "TWO")) as server:
        made = installed(tmp_path, server)
        server.odd(without_column(column))
        outcome = made.fetch(D0, accept=True)
        assert "PLAIN, TWO have no answer from the source" in outcome.failures["bars"]
        assert words in outcome.failures["bars"]
        assert len(made.tables.read("bars")) == 0
        server._oddities.clear()
        assert made.fetch(D0).failures == {}
        made.assert_true(D0)
