"""Alpaca over a loopback server: what was traded comes out, whatever fails, and the keys go nowhere."""

from __future__ import annotations

import ast
import inspect
import json
import logging
import traceback
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
import requests

from tests.servers import faults, oddities
from tests.servers.alpaca import ACTIONS, BARS, AlpacaDataServer
from tests.servers.faults import Request
from tests.servers.loopback import Reply, json_reply
from tests.servers.market import Listing, actions_frame, ends, starts, with_split
from tests.servers.universe import default_market
from trading_dagster.calendar import SessionCalendar
from trading_dagster.policy import DataPolicyError
from trading_dagster.resources import alpaca_source
from trading_dagster.resources.alpaca_source import AlpacaSource
from trading_dagster.resources.fetching import Pace
from trading_dagster.resources.market_data import (
    ACTION_COLUMNS,
    BAR_COLUMNS,
    Answer,
    MarketDataError,
)

# alpaca-py imports what websockets has replaced
pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")

FIRST, LAST = date(2000, 1, 1), date(2016, 12, 30)
NUMBERS = ["open", "high", "low", "close", "volume"]
COLUMNS = ("c", "h", "l", "n", "o", "t", "v", "vw")
KEY, SECRET = "PKLOOPBACK0123456789", "s3cretLoopbackAbcdefghijkl"


class Vendor(AlpacaDataServer):
    """Alpaca, whose answer to an address may be replaced, or refused for a symbol."""

    def __init__(self, listings: dict[str, Listing]) -> None:
        super().__init__(listings, "2016-12-30", key=KEY, secret=SECRET)
        self.replies: dict[str, Reply] = {}
        self.invalid: set[str] = set()

    def respond(self, request: Request, body: bytes) -> Reply:
        for symbol in request.symbols:
            if symbol in self.invalid:
                return json_reply({"message": f"invalid symbol: {symbol}"}, 400)
        return self.replies.get(request.path) or super().respond(request, body)


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with Vendor(default_market()) as vendor:
        yield vendor


@pytest.fixture
def brief() -> Iterator[Vendor]:
    """A vendor of few sessions, where what is told of them is not the point."""
    listings = {symbol: starts(default_market()[symbol], "2014-01-02") for symbol in ("PLAIN", "SEVEN", "TWO", "HALF")}
    with Vendor(listings) as vendor:
        yield vendor


def make_source(calendar: SessionCalendar, vendor: Vendor, **changes: Any) -> AlpacaSource:
    options = {"pace": Pace(wait=lambda *_: None), "request_seconds": 30.0, **changes}
    known = {"api_key": KEY, "secret_key": SECRET, "endpoint": vendor.url, "feed": "sip", "concurrency": 4}
    return AlpacaSource(calendar, **{**known, "seconds": 600.0, **options})


@pytest.fixture
def source(calendar: SessionCalendar, vendor: Vendor) -> AlpacaSource:
    return make_source(calendar, vendor)


@pytest.fixture
def brief_source(calendar: SessionCalendar, brief: Vendor) -> AlpacaSource:
    return make_source(calendar, brief)


def silent(_: str) -> None:
    pass


def assert_bars(answer: Answer, listing: Listing, first: date = FIRST, last: date = LAST) -> None:
    truth = listing.bars[(listing.bars.index >= pd.Timestamp(first)) & (listing.bars.index <= pd.Timestamp(last))]
    found = answer.rows[answer.rows["symbol"] == listing.symbol].set_index("session").sort_index()
    assert found.index.equals(truth.index)
    pd.testing.assert_frame_equal(found[NUMBERS], truth[NUMBERS].astype("float64"), check_exact=True, check_names=False)


def assert_actions(answer: Answer, listing: Listing, first: date = FIRST, last: date = LAST) -> None:
    days = listing.actions["ex_date"]
    truth = listing.actions[(days >= pd.Timestamp(first)) & (days <= pd.Timestamp(last))]
    found = answer.rows[answer.rows["symbol"] == listing.symbol]
    pd.testing.assert_frame_equal(
        found[["ex_date", "kind", "value"]].sort_values(["ex_date", "kind"], ignore_index=True),
        truth.sort_values(["ex_date", "kind"], ignore_index=True),
        check_dtype=False,
    )


def batches_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alpaca_source, "BATCH_SYMBOLS", 1)


# -- what was traded ------------------------------------------------------------------------------------------------


def test_bars_and_actions_are_as_traded(source: AlpacaSource, vendor: Vendor) -> None:
    said: list[str] = []
    bars = source.bars(list(vendor.listings), FIRST, LAST, said.append)
    actions = source.corporate_actions(list(vendor.listings), FIRST, LAST, silent)
    assert bars.failures == actions.failures == {}
    for listing in vendor.listings.values():
        assert_bars(bars, listing)
        assert_actions(actions, listing)
    assert list(bars.rows) == BAR_COLUMNS
    assert list(actions.rows) == ACTION_COLUMNS
    assert str(bars.rows["session"].dtype) == str(actions.rows["ex_date"].dtype) == "datetime64[us]"
    assert (bars.rows[NUMBERS].dtypes == "float64").all()
    assert actions.rows["value"].dtype == "float64"
    assert bars.columns == dict.fromkeys(vendor.listings, COLUMNS)
    assert said[-1].startswith(f"alpaca bars: {len(vendor.listings)} of {len(vendor.listings)} symbols, ")


def test_later_splits_change_nothing(source: AlpacaSource, vendor: Vendor) -> None:
    vendor.today = "2018-12-31"
    vendor.listings["SEVEN"] = with_split(vendor.listings["SEVEN"], "2017-06-12", 3)
    answer = source.bars(["MANY", "SEVEN"], FIRST, LAST, silent)
    for symbol in ("MANY", "SEVEN"):
        assert_bars(answer, vendor.listings[symbol])


def test_rows_are_those_of_the_range(source: AlpacaSource, vendor: Vendor) -> None:
    first, last = date(2014, 6, 9), date(2014, 8, 8)
    assert_bars(source.bars(["SEVEN"], first, last, silent), vendor.listings["SEVEN"], first, last)
    # a dividend of the last day is processed weeks after it; the one of May was processed within the range
    assert_actions(source.corporate_actions(["SEVEN"], first, last, silent), vendor.listings["SEVEN"], first, last)


def test_dividend_processed_before_its_ex_date_is_found(source: AlpacaSource, vendor: Vendor) -> None:
    # of a large dividend: its ex-date follows the payment
    source.corporate_actions(["PLAIN"], date(2014, 6, 9), LAST, silent)
    (request,) = vendor.log.requests(ACTIONS)
    assert request.query["start"] < "2014-06-06"


def test_request_says_what_is_wanted(calendar: SessionCalendar, vendor: Vendor) -> None:
    make_source(calendar, vendor, feed="iex").bars(["PLAIN", "TWO"], FIRST, date(2012, 11, 23), silent)
    (request,) = vendor.log.requests()
    assert request.query["symbols"] == "PLAIN,TWO"
    assert request.query["timeframe"] == "1Day"
    assert request.query["adjustment"] == "raw"
    assert request.query["feed"] == "iex"
    assert pd.Timestamp(request.query["start"]) == pd.Timestamp("2000-01-03 00:00", tz="America/New_York")
    # not the end of the day: the close, which is early after Thanksgiving
    assert pd.Timestamp(request.query["end"]) == pd.Timestamp("2012-11-23 13:00", tz="America/New_York")


@pytest.mark.parametrize("method", ["bars", "corporate_actions"])
def test_nothing_before_2000_is_requested(source: AlpacaSource, vendor: Vendor, method: str) -> None:
    with pytest.raises(DataPolicyError, match="1999-12-31"):
        getattr(source, method)(["PLAIN"], date(1999, 12, 31), LAST, silent)
    assert vendor.log.requests() == []
    getattr(source, method)(["PLAIN"], FIRST, LAST, silent)
    assert {request.query["start"][:4] for request in vendor.log.requests()} == {"2000"}


def test_no_sessions_and_no_symbols_are_no_rows(source: AlpacaSource, vendor: Vendor) -> None:
    assert list(source.bars(["PLAIN"], date(2016, 12, 24), date(2016, 12, 26), silent).rows) == BAR_COLUMNS
    assert list(source.bars([], FIRST, LAST, silent).rows) == BAR_COLUMNS
    assert list(source.corporate_actions([], FIRST, LAST, silent).rows) == ACTION_COLUMNS
    assert vendor.log.requests() == []


def test_symbols_that_alpaca_lacks_are_without_rows(source: AlpacaSource, vendor: Vendor) -> None:
    vendor.listings["TWO"] = ends(vendor.listings["TWO"], "2010-06-07")
    answer = source.bars(["NOPE", "PLAIN", "TWO"], date(2015, 1, 2), LAST, silent)
    assert answer.failures == {}
    assert set(answer.rows["symbol"]) == set(answer.columns) == {"PLAIN"}
    assert source.corporate_actions(["NOPE", "PLAIN"], FIRST, LAST, silent).failures == {}


def test_rows_without_a_close_or_of_other_days_are_left_out(brief_source: AlpacaSource, brief: Vendor) -> None:
    answer = json_reply(
        {
            "bars": {
                "PLAIN": [
                    {"t": "2016-12-28T05:00:00Z", "o": 1, "h": 2, "l": 1, "c": None, "v": 0},
                    {"t": "2016-12-29T05:00:00Z", "o": None, "h": 2, "l": 1, "c": 2, "v": 5},
                    {"t": "2016-12-31T05:00:00Z", "o": 1, "h": 2, "l": 1, "c": 2, "v": 5},
                    # still the evening before in New York
                    {"t": "2016-12-31T04:59:59Z", "o": 1, "h": 2, "l": 1, "c": 2, "v": 7},
                ]
            },
            "next_page_token": None,
        }
    )
    brief.replies[BARS] = answer
    rows = brief_source.bars(["PLAIN"], FIRST, LAST, silent).rows
    assert rows["session"].tolist() == [pd.Timestamp("2016-12-29"), pd.Timestamp("2016-12-30")]
    assert rows["volume"].tolist() == [5, 7]
    assert rows["open"].isna().tolist() == [True, False]


# -- batches and pages ----------------------------------------------------------------------------------------------


def many_listings(count: int) -> dict[str, Listing]:
    plain = default_market()["PLAIN"]
    short = starts(plain, "2016-12-01")
    return {f"S{n:03d}": Listing(f"S{n:03d}", short.bars, short.actions) for n in range(count)}


def test_symbols_are_asked_for_in_batches_of_fifty(source: AlpacaSource, vendor: Vendor) -> None:
    vendor.listings = many_listings(120)
    answer = source.bars(list(vendor.listings), date(2016, 12, 1), LAST, silent)
    assert sorted(len(r.symbols) for r in vendor.log.requests(BARS)) == [20, 50, 50]
    for listing in vendor.listings.values():
        assert_bars(answer, listing)
    source.corporate_actions(list(vendor.listings), FIRST, LAST, silent)
    assert sorted(len(r.symbols) for r in vendor.log.requests(ACTIONS)) == [20, 50, 50]


def test_a_batch_is_about_one_page(source: AlpacaSource, vendor: Vendor) -> None:
    source.bars(list(vendor.listings), FIRST, LAST, silent)
    # 4277 sessions of two symbols fill a page of 10000
    assert [len(r.symbols) for r in vendor.log.requests()] == [2, 2, 2, 2]


def test_all_pages_are_read(source: AlpacaSource, vendor: Vendor) -> None:
    vendor.page_size = 997
    answer = source.bars(["PLAIN", "TWO"], FIRST, LAST, silent)
    for symbol in ("PLAIN", "TWO"):
        assert_bars(answer, vendor.listings[symbol])
    assert len(vendor.log.requests()) == 9


def test_more_than_a_thousand_actions_are_read(source: AlpacaSource, vendor: Vendor) -> None:
    rows = [(day, "dividend", 0.25) for day in vendor.listings["PLAIN"].bars.loc["2012":"2016"].index]
    assert len(rows) > 1200
    vendor.listings["PLAIN"] = Listing("PLAIN", vendor.listings["PLAIN"].bars, actions_frame(rows))
    assert len(source.corporate_actions(["PLAIN"], FIRST, LAST, silent).rows) == len(rows)


def test_fault_on_a_later_page_repeats_the_batch(source: AlpacaSource, vendor: Vendor) -> None:
    vendor.page_size = 3000
    vendor.faults.add(faults.server_error(), skip=1)
    assert_bars(source.bars(["PLAIN"], FIRST, LAST, silent), vendor.listings["PLAIN"])
    assert [r.status for r in vendor.log.requests()] == [200, 500, 200, 200]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_vendor_sees_no_more_requests_at_once(
    calendar: SessionCalendar, brief: Vendor, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches_of_one(monkeypatch)
    brief.faults.add(faults.stalled(0.4), always=True)  # long enough for the others to begin on a busy machine
    source = make_source(calendar, brief, concurrency=concurrency)
    source.bars(list(brief.listings)[: concurrency + 1], date(2016, 12, 1), LAST, silent)
    assert brief.log.most_at_once == concurrency


# -- corporate actions ----------------------------------------------------------------------------------------------


def actions_of(source: AlpacaSource, vendor: Vendor, **kinds: list[dict[str, Any]]) -> Answer:
    vendor.replies[ACTIONS] = json_reply({"corporate_actions": kinds, "next_page_token": None})
    return source.corporate_actions(["PLAIN", "TWO"], FIRST, LAST, silent)


def test_each_kind_of_action_has_its_value(brief_source: AlpacaSource, brief: Vendor) -> None:
    common = {"symbol": "PLAIN", "process_date": "2016-06-30"}
    answer = actions_of(
        brief_source,
        brief,
        forward_splits=[common | {"ex_date": "2016-06-06", "new_rate": 3, "old_rate": 2}],
        reverse_splits=[common | {"ex_date": "2016-06-07", "new_rate": 1, "old_rate": 8}],
        stock_dividends=[common | {"ex_date": "2016-06-08", "rate": 0.05}],
        cash_dividends=[common | {"ex_date": "2016-06-09", "rate": 0.37}],
    )
    assert [tuple(row) for row in answer.rows.sort_values("ex_date").itertuples(index=False)] == [
        (pd.Timestamp("2016-06-06"), "PLAIN", "split", 1.5),
        (pd.Timestamp("2016-06-07"), "PLAIN", "split", 0.125),
        (pd.Timestamp("2016-06-08"), "PLAIN", "split", 1.05),
        (pd.Timestamp("2016-06-09"), "PLAIN", "dividend", 0.37),
    ]
    # they are others from action to action, and would look like a change of the format
    assert answer.columns == {}
    (request,) = brief.log.requests()
    assert set(request.query["types"].split(",")) == {
        "forward_split",
        "reverse_split",
        "stock_dividend",
        "cash_dividend",
    }


def test_several_actions_of_one_day_stay_several(brief_source: AlpacaSource, brief: Vendor) -> None:
    common = {"symbol": "PLAIN", "ex_date": "2016-06-06"}
    rows = actions_of(
        brief_source, brief, cash_dividends=[common | {"rate": 0.25}, common | {"rate": 1.5, "special": True}]
    ).rows
    assert rows["value"].tolist() == [0.25, 1.5]


def test_actions_outside_the_range_are_cut(brief_source: AlpacaSource, brief: Vendor) -> None:
    days = ["1999-12-31", "2000-01-01", "2016-12-30", "2016-12-31"]
    records = [{"symbol": "PLAIN", "ex_date": day, "rate": 1} for day in days]
    rows = actions_of(brief_source, brief, cash_dividends=records).rows
    assert rows["ex_date"].tolist() == [pd.Timestamp("2000-01-01"), pd.Timestamp("2016-12-30")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"new_rate": 2},
        {"new_rate": 2, "old_rate": 0},
        {"new_rate": "two", "old_rate": 1},
        {"new_rate": None, "old_rate": 1},
        {"new_rate": float("1e308"), "old_rate": 1e-308},
        {"new_rate": 2, "old_rate": 1, "ex_date": "soon"},
    ],
)
def test_unreadable_action_fails_its_symbol_alone(
    brief_source: AlpacaSource, brief: Vendor, wrong: dict[str, Any]
) -> None:
    split = {"symbol": "PLAIN", "ex_date": "2016-06-06", **wrong}
    dividend = {"symbol": "TWO", "ex_date": "2016-06-06", "rate": 1}
    answer = actions_of(brief_source, brief, forward_splits=[split], cash_dividends=[dividend])
    assert list(answer.failures) == ["PLAIN"]
    assert "Alpaca's corporate actions cannot be read" in answer.failures["PLAIN"]
    assert "ex_date, new_rate" in answer.failures["PLAIN"]
    assert set(answer.rows["symbol"]) == {"TWO"}


def test_kind_of_action_that_was_not_asked_for_is_a_failure(brief_source: AlpacaSource, brief: Vendor) -> None:
    answer = actions_of(brief_source, brief, dividends=[{"symbol": "TWO", "ex_date": "2016-06-06", "rate": 1}])
    assert list(answer.failures) == ["TWO"]


# -- format ---------------------------------------------------------------------------------------------------------


def test_lost_column_is_a_failure_that_names_what_is_there(
    brief_source: AlpacaSource, brief: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches_of_one(monkeypatch)  # the server's page has the same fields for all of its symbols
    brief.odd(oddities.without_column("c"), "SEVEN")
    answer = brief_source.bars(["SEVEN", "TWO"], FIRST, LAST, silent)
    assert list(answer.failures) == ["SEVEN"]
    assert "found are h, l, n, o, t, v, vw" in answer.failures["SEVEN"]
    assert answer.columns == {"SEVEN": tuple(name for name in COLUMNS if name != "c"), "TWO": COLUMNS}
    assert_bars(answer, brief.listings["TWO"])


def test_new_column_shows_and_changes_nothing(
    brief_source: AlpacaSource, brief: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches_of_one(monkeypatch)  # the server's page has the same fields for all of its symbols
    brief.odd(oddities.extra_column("x"), "SEVEN")
    answer = brief_source.bars(["SEVEN", "TWO"], FIRST, LAST, silent)
    assert answer.columns == {"SEVEN": (*COLUMNS, "x"), "TWO": COLUMNS}
    for symbol in ("SEVEN", "TWO"):
        assert_bars(answer, brief.listings[symbol])


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b'{"bars": null}', b'{"bars": {}, "trades": {}}', b"<html>"],
)
def test_answer_of_no_sense_never_looks_like_an_empty_one(
    brief_source: AlpacaSource, brief: Vendor, body: bytes
) -> None:
    brief.replies[BARS] = Reply(200, body)
    answer = brief_source.bars(["PLAIN", "TWO"], FIRST, LAST, silent)
    assert sorted(answer.failures) == ["PLAIN", "TWO"]
    assert "given up after 6 attempts" in answer.failures["TWO"]


def test_redirect_is_not_followed(brief_source: AlpacaSource, brief: Vendor) -> None:
    brief.replies[BARS] = Reply(302, b"", headers={"Location": "http://127.0.0.1:9/"})
    assert "given up after 6 attempts" in brief_source.bars(["PLAIN"], FIRST, LAST, silent).failures["PLAIN"]
    assert len(brief.log.requests()) == 6


# -- faults ---------------------------------------------------------------------------------------------------------

FAULTS = {
    "429": (faults.rate_limited(), "Alpaca answered 429"),
    "429_retry_after": (faults.rate_limited(30), "Alpaca answered 429"),
    "429_retry_after_date": (faults.rate_limited(30, as_date=True), "Alpaca answered 429"),
    "500": (faults.server_error(), "Alpaca answered 500"),
    "504_retry_after": (faults.server_error(504, 30), "Alpaca answered 504"),
    "time_out": (faults.stalled(9), "ReadTimeout"),
    "truncated": (faults.truncated(), "JSONDecodeError"),
    "cut_short": (faults.cut_short(), "IncompleteRead"),
    "dropped": (faults.dropped(), "ConnectionError"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("method", ["bars", "corporate_actions"])
def test_fault_is_retried_and_the_answer_right(
    calendar: SessionCalendar, brief: Vendor, method: str, name: str
) -> None:
    fault, _ = FAULTS[name]
    waits: list[float] = []
    pace = Pace(wait=lambda _, seconds: waits.append(seconds))
    brief.faults.add(fault, times=2, symbol="SEVEN")
    source = make_source(calendar, brief, request_seconds=1.0 if name == "time_out" else 30.0, pace=pace)
    answer = getattr(source, method)(["PLAIN", "SEVEN", "TWO"], FIRST, LAST, silent)
    assert answer.failures == {}
    for symbol in ("PLAIN", "SEVEN", "TWO"):
        (assert_bars if method == "bars" else assert_actions)(answer, brief.listings[symbol])
    # alpaca-py's own retries would come on top of these
    assert len(brief.log.requests(symbol="SEVEN")) == 3
    assert len(waits) == 2
    if fault.retry_after:
        assert all(fault.retry_after - 1 <= wait <= fault.retry_after + 5 for wait in waits)
    else:
        assert max(waits) <= 4


@pytest.mark.parametrize("name", FAULTS)
def test_lasting_fault_fails_its_batch_alone(
    calendar: SessionCalendar, brief: Vendor, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches_of_one(monkeypatch)
    fault, text = FAULTS[name]
    said: list[str] = []
    brief.faults.add(fault, always=True, symbol="SEVEN")
    options: dict[str, Any] = {"request_seconds": 0.4} if name == "time_out" else {}
    answer = make_source(calendar, brief, **options).bars(["PLAIN", "SEVEN", "TWO"], FIRST, LAST, said.append)
    assert list(answer.failures) == ["SEVEN"]
    assert text in answer.failures["SEVEN"]
    assert "given up after 6 attempts: run again later" in answer.failures["SEVEN"]
    assert sum("SEVEN" in line and text in line for line in said) == 5
    for symbol in ("PLAIN", "TWO"):
        assert_bars(answer, brief.listings[symbol])
    assert KEY not in str(answer.failures) + str(said)
    assert SECRET not in str(answer.failures) + str(said)


def test_invalid_symbol_fails_alone(brief_source: AlpacaSource, brief: Vendor) -> None:
    brief.invalid = {"BAD!"}
    answer = brief_source.bars(["PLAIN", "BAD!", "TWO"], date(2014, 1, 2), LAST, silent)
    assert answer.failures == {
        "BAD!": 'Alpaca answered 400: {"message": "invalid symbol: BAD!"}; no further attempt can help'
    }
    for symbol in ("PLAIN", "TWO"):
        assert_bars(answer, brief.listings[symbol])
    assert [len(r.symbols) for r in brief.log.requests()] == [3, 1, 1, 1]


def test_own_limit_of_alpaca_is_waited_for(calendar: SessionCalendar, brief: Vendor) -> None:
    waits: list[float] = []

    def wait(_: Any, seconds: float) -> None:
        waits.append(seconds)
        brief.replies.clear()

    reset = f"{datetime.now(UTC).timestamp() + 40:.0f}"
    brief.replies[BARS] = Reply(429, b'{"message": "too many requests."}', headers={"X-RateLimit-Reset": reset})
    answer = make_source(calendar, brief, pace=Pace(wait=wait)).bars(["PLAIN"], FIRST, LAST, silent)
    assert answer.failures == {}
    assert 35 <= waits[0] <= 43


def test_budget_is_held(calendar: SessionCalendar, brief: Vendor) -> None:
    brief.faults.add(faults.rate_limited(120))
    answer = make_source(calendar, brief, seconds=30.0).bars(["PLAIN", "TWO"], FIRST, LAST, silent)
    assert sorted(answer.failures) == ["PLAIN", "TWO"]
    assert "the 120 s that it asked to wait would not end within the 30 s" in answer.failures["PLAIN"]
    assert "TRADING_FETCH_SECONDS" in answer.failures["PLAIN"]


def test_connections_are_closed(brief_source: AlpacaSource, brief: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[requests.Session] = []
    monkeypatch.setattr(requests.Session, "close", lambda session: closed.append(session))
    brief.faults.add(faults.server_error())
    brief_source.bars(["PLAIN"], date(2016, 12, 1), LAST, silent)
    assert len(closed) == len(brief.log.requests()) == 2


# -- keys -----------------------------------------------------------------------------------------------------------


def refused(vendor: Vendor, reply: Reply | None, source: AlpacaSource) -> str:
    if reply:
        vendor.replies[BARS] = reply
    with pytest.raises(MarketDataError) as caught:
        source.bars([f"S{n}" for n in range(1000)], date(2016, 12, 1), LAST, silent)
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert SECRET not in shown
    # four at once, and none of the twenty batches after these
    assert len(vendor.log.requests()) <= 8
    return str(caught.value)


def test_wrong_keys_end_the_fetch(calendar: SessionCalendar, brief: Vendor) -> None:
    brief.key = "another"
    text = refused(brief, None, make_source(calendar, brief))
    assert "403" in text
    assert "ALPACA_API_KEY and ALPACA_SECRET_KEY" in text
    assert "feed sip" in text


def test_unauthorized_names_the_keys(brief: Vendor, brief_source: AlpacaSource) -> None:
    text = refused(brief, json_reply({"message": f"who is {KEY}, with {SECRET}?"}, 401), brief_source)
    assert "Alpaca answered 401" in text
    assert "who is ***, with ***?" in text
    assert "ALPACA_API_KEY" in text


def test_missing_subscription_names_the_feed(brief: Vendor, brief_source: AlpacaSource) -> None:
    words = {"message": "subscription does not permit querying recent SIP data"}
    text = refused(brief, json_reply(words, 403), brief_source)
    assert "TRADING_ALPACA_FEED=iex" in text
    assert "ALPACA_API_KEY" not in text


@pytest.mark.parametrize("status", [400, 500])
def test_keys_are_in_no_failure(brief: Vendor, brief_source: AlpacaSource, status: int) -> None:
    brief.replies[BARS] = json_reply({"message": f"bad {KEY} {SECRET}"}, status)
    failures = json.dumps(dict(brief_source.bars(["PLAIN"], FIRST, LAST, silent).failures))
    assert "bad *** ***" in failures
    assert KEY not in failures
    assert SECRET not in failures


def test_keys_are_in_no_log_and_no_repr(
    brief: Vendor, brief_source: AlpacaSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    brief.faults.add(faults.dropped(), symbol="PLAIN")
    brief_source.bars(["PLAIN"], FIRST, LAST, silent)
    assert caplog.text
    for text in (caplog.text, repr(brief_source), str(brief_source)):
        assert KEY not in text
        assert SECRET not in text


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://data.alpaca.markets",
        "https://data.alpaca.markets/",
        "http://127.0.0.1:8080",
        "http://localhost:1",
        "http://[::1]:1",
    ],
)
def test_keys_go_where_they_are_safe(calendar: SessionCalendar, endpoint: str) -> None:
    source = AlpacaSource(calendar, KEY, SECRET, endpoint, "sip", 4, 60.0)
    assert (source.name, source.last_session) == ("alpaca", None)
    assert not source._endpoint.endswith("/")


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://data.alpaca.markets",
        "http://127.0.0.1.evil.example",
        "http://localhost@evil.example",
        "http://user:p4ss@evil.example",
        "ftp://localhost",
        "localhost:80",
        "//localhost",
        "https://",
        "",
    ],
)
def test_keys_go_nowhere_else(calendar: SessionCalendar, endpoint: str) -> None:
    with pytest.raises(MarketDataError, match=r"ALPACA_DATA_ENDPOINT .* https") as caught:
        AlpacaSource(calendar, KEY, SECRET, endpoint, "sip", 4, 60.0)
    assert "p4ss" not in str(caught.value)


@pytest.mark.parametrize(
    ("api_key", "secret", "named"), [("", SECRET, "ALPACA_API_KEY"), (KEY, "", "ALPACA_SECRET_KEY")]
)
def test_missing_key_is_named(calendar: SessionCalendar, api_key: str, secret: str, named: str) -> None:
    with pytest.raises(MarketDataError, match=f"needs {named}"):
        AlpacaSource(calendar, api_key, secret, "https://data.alpaca.markets", "sip", 4, 60.0)


def test_vendor_libraries_are_imported_where_they_are_used() -> None:
    imported = [node for node in ast.parse(inspect.getsource(alpaca_source)).body if isinstance(node, ast.ImportFrom)]
    assert not any((node.module or "").startswith(("alpaca", "requests")) for node in imported)


def test_actions_are_processed_within_a_year() -> None:
    assert timedelta(days=180) <= alpaca_source.PROCESSED_AFTER
