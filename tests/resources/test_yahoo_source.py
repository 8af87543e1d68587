"""Yahoo over a loopback server: what was traded comes out, whatever Yahoo has adjusted it for, and whatever fails."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.servers import faults, oddities
from tests.servers.faults import Request
from tests.servers.loopback import Reply, json_reply
from tests.servers.market import Listing, ends, restate, starts, with_action, with_dividend, with_split
from tests.servers.universe import default_market
from tests.servers.yahoo import YahooServer
from trading_dagster.calendar import SessionCalendar
from trading_dagster.policy import DataPolicyError
from trading_dagster.resources import yahoo_source
from trading_dagster.resources.fetching import Pace
from trading_dagster.resources.market_data import ACTION_COLUMNS, BAR_COLUMNS, Answer
from trading_dagster.resources.yahoo_source import YahooSource

FIRST, LAST = date(2000, 1, 1), date(2016, 12, 30)
PRICES = ["open", "high", "low", "close"]
COLUMNS = ("adjclose", "close", "high", "low", "open", "timestamp", "volume")


class Vendor(YahooServer):
    """Yahoo, whose answer for a symbol may be replaced."""

    def __init__(self, listings: dict[str, Listing], today: str) -> None:
        super().__init__(listings, today)
        self.replies: dict[str, Reply] = {}

    def respond(self, request: Request, body: bytes) -> Reply:
        if request.symbols and request.symbols[0] in self.replies:
            return self.replies[request.symbols[0]]
        return super().respond(request, body)

    def change(self, symbol: str, **changes: Any) -> None:
        """Replace members of a symbol's chart; None removes one."""
        query = {"period1": "0", "period2": "4000000000", "events": "div,splits"}
        body = json.loads(self._chart(symbol, query).body)
        for name, value in changes.items():
            body["chart"]["result"][0][name] = value
        self.replies[symbol] = json_reply(body)


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with Vendor(default_market(), "2016-12-30") as vendor:
        yield vendor


@pytest.fixture
def brief() -> Iterator[Vendor]:
    """A vendor of few sessions, where what is told of them is not the point."""
    listings = {symbol: starts(default_market()[symbol], "2014-01-02") for symbol in ("PLAIN", "SEVEN", "TWO", "HALF")}
    with Vendor(listings, "2016-12-30") as vendor:
        yield vendor


def make_source(calendar: SessionCalendar, vendor: Vendor, **changes: Any) -> YahooSource:
    def now() -> datetime:
        # the evening of the vendor's day
        return (pd.Timestamp(vendor.today) + pd.Timedelta(hours=18)).tz_localize("America/New_York").to_pydatetime()

    options = {"pace": Pace(wait=lambda *_: None), "now": now, "request_seconds": 30.0, **changes}
    concurrency, seconds = options.pop("concurrency", 4), options.pop("seconds", 60.0)
    return YahooSource(calendar, vendor.url, concurrency, seconds, **options)


@pytest.fixture
def source(calendar: SessionCalendar, vendor: Vendor) -> YahooSource:
    return make_source(calendar, vendor)


@pytest.fixture
def brief_source(calendar: SessionCalendar, brief: Vendor) -> YahooSource:
    return make_source(calendar, brief)


def silent(_: str) -> None:
    pass


def of(answer: Answer, symbol: str) -> pd.DataFrame:
    """Rows of a symbol by date."""
    key = "session" if "session" in answer.rows else "ex_date"
    return answer.rows[answer.rows["symbol"] == symbol].set_index(key).drop(columns="symbol").sort_index()


def assert_bars(answer: Answer, listing: Listing, last: date = LAST, first: date = FIRST) -> None:
    """Bars are the listing's own, to the last digit."""
    truth = listing.bars[(listing.bars.index >= pd.Timestamp(first)) & (listing.bars.index <= pd.Timestamp(last))]
    found = of(answer, listing.symbol)
    assert found.index.equals(truth.index)
    pd.testing.assert_frame_equal(found[PRICES], truth[PRICES], check_exact=True, check_names=False)
    # whole shares survive a division, except what a reverse split has rounded away
    assert (found["volume"] - truth["volume"]).abs().max() <= 5


def assert_actions(answer: Answer, listing: Listing, last: date = LAST) -> None:
    truth = listing.actions[listing.actions["ex_date"] <= pd.Timestamp(last)]
    found = answer.rows[answer.rows["symbol"] == listing.symbol]
    keys = ["ex_date", "kind"]
    pd.testing.assert_frame_equal(
        found[["ex_date", "kind", "value"]].sort_values(keys, ignore_index=True),
        truth.sort_values(keys, ignore_index=True),
        check_exact=True,
        check_dtype=False,
    )


# -- what was traded ------------------------------------------------------------------------------------------------


def test_bars_and_actions_are_as_traded(source: YahooSource, vendor: Vendor) -> None:
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
    assert (bars.rows[[*PRICES, "volume"]].dtypes == "float64").all()
    assert actions.rows["value"].dtype == "float64"
    assert bars.columns == dict.fromkeys(vendor.listings, COLUMNS)
    assert said[-1].startswith(f"yahoo bars: {len(vendor.listings)} of {len(vendor.listings)} symbols, ")


def test_later_splits_change_nothing(calendar: SessionCalendar, vendor: Vendor) -> None:
    symbols = ["MANY", "SEVEN", "HALF", "PLAIN"]
    source = make_source(calendar, vendor)
    before = [fetch(symbols, FIRST, LAST, silent) for fetch in (source.bars, source.corporate_actions)]
    # MANY splits by itself on 2017-02-15
    vendor.listings["SEVEN"] = with_split(vendor.listings["SEVEN"], "2017-06-12", 3)
    vendor.listings["HALF"] = with_split(with_split(vendor.listings["HALF"], "2017-03-06", 1.5), "2018-05-07", 0.125)
    vendor.listings["PLAIN"] = with_split(vendor.listings["PLAIN"], "2018-01-08", 20)
    vendor.today = "2018-12-31"
    # the server does rewrite the past, or this test would be of no use
    assert vendor.rows(vendor.listings["PLAIN"])["close"].iloc[0] < 3
    after = [fetch(symbols, FIRST, LAST, silent) for fetch in (source.bars, source.corporate_actions)]
    pd.testing.assert_frame_equal(before[0].rows.drop(columns="volume"), after[0].rows.drop(columns="volume"))
    pd.testing.assert_frame_equal(before[1].rows, after[1].rows)
    # eight old shares became one: Yahoo's volume has lost up to four of them
    lost = (before[0].rows["volume"] - after[0].rows["volume"]).abs().groupby(before[0].rows["symbol"]).max()
    assert lost.drop("HALF").eq(0).all()
    assert 0 < lost["HALF"] <= 4


def test_split_counts_from_its_day_on(calendar: SessionCalendar, vendor: Vendor) -> None:
    day = pd.Timestamp("2012-06-11")
    listing = with_dividend(with_split(vendor.listings["PLAIN"], day, 4), day, 0.37)
    vendor.listings["PLAIN"] = listing
    source = make_source(calendar, vendor)
    bars = of(source.bars(["PLAIN"], FIRST, LAST, silent), "PLAIN")
    actions = source.corporate_actions(["PLAIN"], FIRST, LAST, silent).rows
    assert bars.loc[day, "close"] == listing.bars.loc[day, "close"] < bars["close"].shift(1)[day] / 3
    assert bars.loc[day, "volume"] == listing.bars.loc[day, "volume"]
    assert actions.set_index("kind")["value"].to_dict() == {"split": 4.0, "dividend": 0.37}
    assert actions["ex_date"].eq(day).all()


def test_sixteenths_survive_later_splits(calendar: SessionCalendar, vendor: Vendor) -> None:
    day = pd.Timestamp("2000-02-01")
    listing = vendor.listings["PLAIN"]
    for column, value in zip(PRICES, (116.5, 117.9375, 115.0625, 116.5625), strict=True):
        listing = restate(listing, day, column, value)
    for ratio in (1, 2, 3, 7, 28, 0.1, 0.04):
        vendor.listings["PLAIN"] = with_action(listing, "2016-06-06", "split", ratio) if ratio != 1 else listing
        found = of(make_source(calendar, vendor).bars(["PLAIN"], FIRST, LAST, silent), "PLAIN")
        assert found.loc[day, PRICES].tolist() == [116.5, 117.9375, 115.0625, 116.5625], ratio


@pytest.mark.parametrize("factor", [1, 2, 7, 28, 1.5, 1 / 8, 1 / 30])
def test_rounding_finds_every_price_of_cents(factor: float) -> None:
    prices = np.unique(np.geomspace(0.5, 9999.99, 20_000).round(2))
    served = (prices / factor).astype("float32").astype("float64") * factor
    found = yahoo_source._rounded(pd.Series(served), error=served * yahoo_source.FLOAT32_ROUNDING)
    assert found.tolist() == prices.tolist()


def test_rounding_keeps_low_and_high_around_the_close(calendar: SessionCalendar, vendor: Vendor) -> None:
    # around 4194304 half-steps, where a price has one decimal fewer than the one below it
    day, listing = pd.Timestamp("2016-12-29"), vendor.listings["PLAIN"]
    for column, value in zip(PRICES, (419.4304, 419.4306, 419.43036, 419.43045), strict=True):
        listing = restate(listing, day, column, value)
    vendor.listings["PLAIN"] = listing
    rows = make_source(calendar, vendor).bars(["PLAIN"], FIRST, LAST, silent).rows
    assert (rows["low"] == rows[PRICES].min(axis=1)).all()
    assert (rows["high"] == rows[PRICES].max(axis=1)).all()


def test_dividend_of_a_share_that_split_often(calendar: SessionCalendar, vendor: Vendor) -> None:
    # Yahoo's 0.002273 for 0.50 / 220 would be 0.50006
    listing = with_dividend(vendor.listings["PLAIN"], "2005-03-07", 0.5)
    vendor.listings["PLAIN"] = with_action(with_action(listing, "2010-03-08", "split", 11), "2012-03-05", "split", 20)
    actions = make_source(calendar, vendor).corporate_actions(["PLAIN"], FIRST, LAST, silent).rows
    assert actions.set_index("kind").loc["dividend", "value"] == 0.5


def test_dividend_of_many_decimals_is_the_same_after_a_split(calendar: SessionCalendar, vendor: Vendor) -> None:
    # six decimals of Yahoo are 0.004408 after the split, from which the fifth of these does not come back
    listing = with_dividend(vendor.listings["PLAIN"], "2005-03-07", 0.12342)
    found = []
    for vendor.listings["PLAIN"] in (listing, with_action(listing, "2010-03-08", "split", 28)):
        rows = make_source(calendar, vendor).corporate_actions(["PLAIN"], FIRST, LAST, silent).rows
        found.append(rows.set_index("kind").loc["dividend", "value"])
    assert found == [0.1234, 0.1234]


# -- range ----------------------------------------------------------------------------------------------------------


def test_request_reaches_from_the_first_session_to_now(source: YahooSource, vendor: Vendor) -> None:
    source.bars(["PLAIN"], FIRST, date(2001, 1, 31), silent)
    (request,) = vendor.log.requests()
    start, end = (pd.Timestamp(int(request.query[name]), unit="s", tz="UTC") for name in ("period1", "period2"))
    assert start.tz_convert("America/New_York") == pd.Timestamp("2000-01-01", tz="America/New_York")
    assert end.tz_convert("America/New_York") == pd.Timestamp("2016-12-31", tz="America/New_York")
    assert request.query["interval"] == "1d"


def test_rows_are_those_of_the_range(source: YahooSource, vendor: Vendor) -> None:
    first, last = date(2014, 6, 9), date(2014, 8, 8)
    bars = source.bars(["SEVEN"], first, last, silent)
    assert_bars(bars, vendor.listings["SEVEN"], last, first)
    actions = source.corporate_actions(["SEVEN"], first, last, silent).rows
    assert actions["ex_date"].tolist() == [pd.Timestamp("2014-06-09"), pd.Timestamp("2014-08-08")]
    assert actions["kind"].tolist() == ["split", "dividend"]


def test_running_session_is_no_bar(calendar: SessionCalendar, vendor: Vendor) -> None:
    vendor.today, vendor.live = "2016-12-29", pd.Timestamp("2016-12-30")
    noon = datetime(2016, 12, 30, 17, tzinfo=UTC)
    source = make_source(calendar, vendor, now=lambda: noon)
    found = of(source.bars(["PLAIN"], FIRST, date(2016, 12, 29), silent), "PLAIN")
    assert found.index[-1] == pd.Timestamp("2016-12-29")
    assert_bars(source.bars(["PLAIN"], FIRST, date(2016, 12, 29), silent), vendor.listings["PLAIN"], date(2016, 12, 29))


@pytest.mark.parametrize("method", ["bars", "corporate_actions"])
def test_nothing_before_2000_is_requested(source: YahooSource, vendor: Vendor, method: str) -> None:
    with pytest.raises(DataPolicyError, match="1999-12-31"):
        getattr(source, method)(["PLAIN"], date(1999, 12, 31), LAST, silent)
    assert vendor.log.requests() == []


def test_no_symbols_are_no_rows(source: YahooSource) -> None:
    assert list(source.bars([], FIRST, LAST, silent).rows) == BAR_COLUMNS
    assert list(source.corporate_actions([], FIRST, LAST, silent).rows) == ACTION_COLUMNS


def test_rows_without_a_close_are_left_out(source: YahooSource, vendor: Vendor) -> None:
    vendor.odd(oddities.null_rows("2016-12-28", "2015-03-03"))
    found = of(source.bars(["PLAIN"], FIRST, LAST, silent), "PLAIN")
    truth = vendor.listings["PLAIN"].bars.loc["2000":"2016"]
    assert truth.index.difference(found.index).strftime("%Y-%m-%d").tolist() == ["2015-03-03", "2016-12-28"]


def test_rows_of_zeros_are_for_others_to_judge(source: YahooSource, vendor: Vendor) -> None:
    day, listing = pd.Timestamp("2016-12-28"), vendor.listings["PLAIN"]
    for column in (*PRICES, "volume"):
        listing = restate(listing, day, column, 0)
    vendor.listings["PLAIN"] = listing
    assert of(source.bars(["PLAIN"], FIRST, LAST, silent), "PLAIN").loc[day].eq(0).all()


def test_actions_of_a_day_without_a_bar_keep_their_day(source: YahooSource, vendor: Vendor) -> None:
    day = pd.Timestamp("2014-06-09")  # of SEVEN's split
    listing = vendor.listings["SEVEN"]
    vendor.listings["SEVEN"] = Listing("SEVEN", listing.bars.drop(index=day), listing.actions)
    actions = source.corporate_actions(["SEVEN"], FIRST, LAST, silent)
    assert_actions(actions, listing)
    bars = of(source.bars(["SEVEN"], FIRST, LAST, silent), "SEVEN")
    assert bars.loc["2014-06-06", "close"] == listing.bars.loc["2014-06-06", "close"]


def test_order_and_repeats_are_put_right(source: YahooSource, vendor: Vendor) -> None:
    vendor.odd(oddities.out_of_order(), "PLAIN")
    vendor.odd(oddities.repeated_row("2010-06-07"), "TWO")
    answer = source.bars(["PLAIN", "TWO"], FIRST, LAST, silent)
    for symbol in ("PLAIN", "TWO"):
        assert_bars(answer, vendor.listings[symbol])


# -- nothing there --------------------------------------------------------------------------------------------------


def test_unknown_symbol_is_without_rows_and_no_failure(source: YahooSource, vendor: Vendor) -> None:
    answer = source.bars(["NOPE", "PLAIN"], FIRST, LAST, silent)
    assert answer.failures == {}
    assert set(answer.rows["symbol"]) == set(answer.columns) == {"PLAIN"}
    assert len(vendor.log.requests(symbol="NOPE")) == 1
    assert source.corporate_actions(["NOPE"], FIRST, LAST, silent).failures == {}


def test_delisted_before_the_range_is_without_rows(source: YahooSource, vendor: Vendor) -> None:
    vendor.listings["PLAIN"] = ends(vendor.listings["PLAIN"], "2010-06-07")
    answer = source.bars(["PLAIN"], date(2015, 1, 1), LAST, silent)
    assert (len(answer.rows), answer.failures) == (0, {})
    assert [request.status for request in vendor.log.requests()] == [400]


def test_listing_within_the_range_begins_there(source: YahooSource, vendor: Vendor) -> None:
    vendor.listings["PLAIN"] = starts(vendor.listings["PLAIN"], "2010-06-07")
    assert of(source.bars(["PLAIN"], FIRST, LAST, silent), "PLAIN").index[0] == pd.Timestamp("2010-06-07")


def test_chart_without_bars_is_without_rows(source: YahooSource, vendor: Vendor) -> None:
    vendor.change("PLAIN", timestamp=[], indicators={"quote": [{}], "adjclose": [{}]})
    answer = source.bars(["PLAIN"], FIRST, LAST, silent)
    assert (len(answer.rows), answer.failures) == (0, {})


OUTAGES = {
    "a_gateways_404": (Reply(404, b"<html>Not Found</html>", "text/html"), 1, "Yahoo answered 404: <html>Not Found"),
    "a_gateways_json_404": (json_reply({"message": "no route"}, 404), 1, '404: {"message": "no route"}'),
    "nothing": (Reply(200, b""), 6, "no JSON"),
    "consent_page": (Reply(200, b"<html>consent</html>", "text/html"), 6, "no JSON"),
    "null": (json_reply(None), 6, "no chart"),
    "no_chart": (json_reply({"finance": {}}), 6, "no chart"),
    "null_result": (json_reply({"chart": {"result": None, "error": None}}), 6, "no chart"),
    "empty_result": (json_reply({"chart": {"result": [], "error": None}}), 6, "no chart"),
    "no_meta": (json_reply({"chart": {"result": [{"indicators": {"quote": [{}]}}], "error": None}}), 6, "no chart"),
    "other_error": (
        json_reply({"chart": {"result": None, "error": {"code": "Unauthorized", "description": "Invalid Crumb"}}}, 401),
        1,
        "Yahoo answered 401: Invalid Crumb; no further attempt can help",
    ),
    "error_beside_200": (
        json_reply({"chart": {"result": None, "error": {"code": "Odd", "description": "Invalid input"}}}),
        1,
        "Yahoo answered 200: Invalid input; no further attempt can help",
    ),
    "server_error_in_json": (
        json_reply({"chart": {"result": None, "error": {"code": "Internal", "description": "ouch"}}}, 502),
        6,
        "Yahoo answered 502: ouch; given up after 6 attempts",
    ),
}


@pytest.mark.parametrize("name", OUTAGES)
def test_outage_never_looks_like_an_empty_answer(brief_source: YahooSource, brief: Vendor, name: str) -> None:
    reply, attempts, text = OUTAGES[name]
    brief.replies["PLAIN"] = reply
    answer = brief_source.bars(["PLAIN", "TWO"], FIRST, LAST, silent)
    assert list(answer.failures) == ["PLAIN"]
    assert text in answer.failures["PLAIN"]
    assert len(brief.log.requests(symbol="PLAIN")) == attempts
    assert_bars(answer, brief.listings["TWO"])


# -- faults ---------------------------------------------------------------------------------------------------------

FAULTS = {
    "429": (faults.rate_limited(), "429"),
    "429_retry_after": (faults.rate_limited(30), "429"),
    "429_retry_after_date": (faults.rate_limited(30, as_date=True), "429"),
    "500": (faults.server_error(), "500"),
    "503_retry_after": (faults.server_error(503, 30), "503"),
    "time_out": (faults.stalled(9), "Timeout"),
    "truncated": (faults.truncated(), "no JSON"),
    "cut_short": (faults.cut_short(), "IncompleteRead"),
    "dropped": (faults.dropped(), "ConnectionError"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_retried_and_the_answer_right(calendar: SessionCalendar, brief: Vendor, name: str) -> None:
    fault, _ = FAULTS[name]
    waits: list[float] = []
    pace = Pace(wait=lambda _, seconds: waits.append(seconds))
    brief.faults.add(fault, times=2, symbol="SEVEN")
    source = make_source(calendar, brief, request_seconds=1.0 if name == "time_out" else 30.0, pace=pace)
    answer = source.bars(["PLAIN", "SEVEN", "TWO"], FIRST, LAST, silent)
    assert answer.failures == {}
    for symbol in ("PLAIN", "SEVEN", "TWO"):
        assert_bars(answer, brief.listings[symbol])
    assert len(brief.log.requests(symbol="SEVEN")) == 3
    if fault.retry_after:
        assert all(fault.retry_after - 1 <= wait <= fault.retry_after + 5 for wait in waits)
    else:
        assert max(waits) <= 4
    assert len(waits) == 2


@pytest.mark.parametrize("name", FAULTS)
def test_lasting_fault_fails_its_symbol_alone(calendar: SessionCalendar, brief: Vendor, name: str) -> None:
    fault, text = FAULTS[name]
    said: list[str] = []
    brief.faults.add(fault, always=True, symbol="SEVEN")
    options: dict[str, Any] = {"request_seconds": 0.4} if name == "time_out" else {}
    source = make_source(calendar, brief, seconds=600.0, **options)
    answer = source.bars(["PLAIN", "SEVEN", "TWO"], FIRST, LAST, said.append)
    assert list(answer.failures) == ["SEVEN"]
    assert text in answer.failures["SEVEN"]
    assert "given up after 6 attempts: run again later" in answer.failures["SEVEN"]
    assert sum("SEVEN" in line and text in line for line in said) == 5
    assert "SEVEN" not in set(answer.rows["symbol"])
    for symbol in ("PLAIN", "TWO"):
        assert_bars(answer, brief.listings[symbol])


def test_refusal_is_not_repeated(brief_source: YahooSource, brief: Vendor) -> None:
    brief.faults.add(faults.forbidden(), always=True, symbol="SEVEN")
    answer = brief_source.corporate_actions(["SEVEN", "HALF"], FIRST, LAST, silent)
    assert answer.failures == {"SEVEN": "Yahoo answered 403: Forbidden; no further attempt can help"}
    assert len(brief.log.requests(symbol="SEVEN")) == 1
    assert_actions(answer, brief.listings["HALF"])


def test_no_connection_is_a_failure_of_each(calendar: SessionCalendar, brief: Vendor) -> None:
    with Vendor({}, "2016-12-30") as gone:
        source = make_source(calendar, gone)
    answer = source.bars(["PLAIN", "TWO"], FIRST, LAST, silent)
    assert sorted(answer.failures) == ["PLAIN", "TWO"]
    assert "ConnectionError" in answer.failures["TWO"]


def test_budget_is_held(calendar: SessionCalendar, brief: Vendor) -> None:
    brief.faults.add(faults.rate_limited(120), symbol="PLAIN")
    answer = make_source(calendar, brief, seconds=30.0).bars(["PLAIN", "TWO"], FIRST, LAST, silent)
    assert list(answer.failures) == ["PLAIN"]
    assert "the 120 s that it asked to wait would not end within the 30 s" in answer.failures["PLAIN"]
    assert "TRADING_FETCH_SECONDS" in answer.failures["PLAIN"]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_vendor_sees_no_more_requests_at_once(calendar: SessionCalendar, brief: Vendor, concurrency: int) -> None:
    brief.faults.add(faults.stalled(0.4), always=True)  # long enough for the others to begin on a busy machine
    symbols = list(brief.listings)[: concurrency + 1]
    make_source(calendar, brief, concurrency=concurrency).bars(symbols, date(2016, 1, 1), LAST, silent)
    assert brief.log.most_at_once == concurrency


# -- format ---------------------------------------------------------------------------------------------------------


def test_lost_column_is_a_failure_that_names_what_is_there(brief_source: YahooSource, brief: Vendor) -> None:
    brief.odd(oddities.without_column("close"), "SEVEN")
    answer = brief_source.bars(["SEVEN", "TWO"], FIRST, LAST, silent)
    assert list(answer.failures) == ["SEVEN"]
    assert "lacks close; found adjclose, high, low, open, timestamp, volume" in answer.failures["SEVEN"]
    assert answer.columns == {"SEVEN": tuple(name for name in COLUMNS if name != "close"), "TWO": COLUMNS}
    assert_bars(answer, brief.listings["TWO"])
    assert len(brief.log.requests(symbol="SEVEN")) == 1


def test_new_column_shows_and_changes_nothing(brief_source: YahooSource, brief: Vendor) -> None:
    brief.odd(oddities.extra_column("vwap"), "SEVEN")
    brief.odd(oddities.without_column("adjclose"), "TWO")
    answer = brief_source.bars(["SEVEN", "TWO"], FIRST, LAST, silent)
    assert answer.columns["SEVEN"] == (*COLUMNS, "vwap")
    assert answer.columns["TWO"] == COLUMNS[1:]
    for symbol in ("SEVEN", "TWO"):
        assert_bars(answer, brief.listings[symbol])


@pytest.mark.parametrize(("new", "old"), [(0, 1), (1, 0), (-2, 1)])
def test_split_that_cannot_be_undone_is_a_failure(brief_source: YahooSource, brief: Vendor, new: int, old: int) -> None:
    second = 1402320600
    brief.change("TWO", events={"splits": {str(second): {"date": second, "numerator": new, "denominator": old}}})
    answer = brief_source.bars(["TWO", "PLAIN"], FIRST, LAST, silent)
    assert list(answer.failures) == ["TWO"]
    assert "cannot be undone" in answer.failures["TWO"]
    assert "2014-06-09" in answer.failures["TWO"]
    assert set(answer.rows["symbol"]) == {"PLAIN"}


def test_answer_that_yfinance_cannot_read_is_a_failure(brief_source: YahooSource, brief: Vendor) -> None:
    brief.change("TWO", timestamp=[1402320600])
    answer = brief_source.bars(["TWO", "PLAIN"], FIRST, LAST, silent)
    assert list(answer.failures) == ["TWO"]
    assert "yfinance cannot read" in answer.failures["TWO"]


def test_share_classes_are_written_yahoos_way(brief_source: YahooSource, brief: Vendor) -> None:
    brief.listings["BRK-B"] = Listing("BRK-B", brief.listings["PLAIN"].bars, brief.listings["PLAIN"].actions)
    answer = brief_source.bars(["BRK.B"], FIRST, LAST, silent)
    assert set(answer.rows["symbol"]) == {"BRK.B"}


def test_own_hosts_are_yahoos(calendar: SessionCalendar, monkeypatch: pytest.MonkeyPatch) -> None:
    from curl_cffi import requests

    asked: list[str] = []

    def get(_: Any, url: str, **options: Any) -> None:
        asked.append(url)
        raise requests.exceptions.ConnectionError("no network in a test")

    monkeypatch.setattr(requests.Session, "get", get)
    source = YahooSource(calendar, "", 1, 60.0, pace=Pace(attempts=1))
    assert "no network in a test" in source.bars(["PLAIN"], FIRST, LAST, silent).failures["PLAIN"]
    assert asked == ["https://query2.finance.yahoo.com/v8/finance/chart/PLAIN"]


def test_one_request_a_symbol_and_nothing_on_disk(
    brief_source: YahooSource, brief: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("yfinance opened one of its databases")

    monkeypatch.setattr("peewee.SqliteDatabase.connect", refuse)
    brief_source.bars(list(brief.listings), FIRST, LAST, silent)
    assert sorted(r.path for r in brief.log.requests()) == sorted(f"/v8/finance/chart/{s}" for s in brief.listings)


def test_vendor_libraries_are_imported_where_they_are_used() -> None:
    imported = [node for node in ast.parse(inspect.getsource(yahoo_source)).body if isinstance(node, ast.ImportFrom)]
    assert not any((node.module or "").startswith(("yfinance", "curl_cffi")) for node in imported)


def test_source_goes_on(source: YahooSource) -> None:
    assert (source.name, source.last_session) == ("yahoo", None)
