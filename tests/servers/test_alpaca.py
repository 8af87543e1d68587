"""The Alpaca server, as the real alpaca-py sees it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import date, datetime

import numpy as np
import pandas as pd
import pytest
import requests
from pydantic import ValidationError

from tests.servers.alpaca import ACTIONS, BARS, AlpacaDataServer
from tests.servers.faults import cut_short, dropped, forbidden, rate_limited, server_error, truncated
from tests.servers.market import Listing, adjusted_close, drop_session, restate, split_factor
from tests.servers.oddities import extra_column, out_of_order, without_column

with warnings.catch_warnings():
    # alpaca-py, on websockets from 14.0 on, when its modules are imported
    warnings.filterwarnings("ignore", "websockets", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.data.enums import Adjustment, CorporateActionsType, DataFeed
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.historical.corporate_actions import CorporateActionsClient
    from alpaca.data.requests import CorporateActionsRequest, StockBarsRequest
    from alpaca.data.timeframe import TimeFrame


@pytest.fixture
def stocks(alpaca: AlpacaDataServer) -> Iterator[StockHistoricalDataClient]:
    client = StockHistoricalDataClient(alpaca.key, alpaca.secret, url_override=alpaca.url)
    client._retry_wait = 0  # three seconds before each of three further tries
    with client._session:
        yield client


@pytest.fixture
def corporate(alpaca: AlpacaDataServer) -> Iterator[CorporateActionsClient]:
    client = CorporateActionsClient(alpaca.key, alpaca.secret, url_override=alpaca.url)
    with client._session:
        yield client


def asked(*symbols: str, start: str = "2014-06-02", end: str = "2014-06-13", **options) -> StockBarsRequest:
    first, last = datetime.fromisoformat(start), datetime.fromisoformat(f"{end} 23:59:59")
    return StockBarsRequest(
        symbol_or_symbols=list(symbols), timeframe=TimeFrame.Day, start=first, end=last, feed=DataFeed.SIP, **options
    )


def closes(client: StockHistoricalDataClient, request: StockBarsRequest, symbol: str) -> pd.Series:
    bars = client.get_stock_bars(request).data[symbol]
    days = pd.DatetimeIndex([bar.timestamp for bar in bars]).tz_convert("America/New_York").tz_localize(None)
    return pd.Series([bar.close for bar in bars], index=days.as_unit("us"))


def test_bars_come_as_traded(stocks: StockHistoricalDataClient, market: dict[str, Listing]) -> None:
    found = stocks.get_stock_bars(asked("SEVEN", start="2013-01-01", end="2014-12-31")).data["SEVEN"]
    truth = market["SEVEN"].bars.loc["2013":"2014"]
    for name in ("open", "high", "low", "close", "volume"):
        assert [getattr(bar, name) for bar in found] == truth[name].tolist()
    days = pd.DatetimeIndex([bar.timestamp for bar in found]).tz_convert("America/New_York")
    assert days.tz_localize(None).equals(truth.index)  # midnights, over both changes of the clocks


def test_adjustments(stocks: StockHistoricalDataClient, market: dict[str, Listing]) -> None:
    listing, last = market["MANY"], "2018-12-31"
    traded, shares, all_in = listing.bars["close"], split_factor(listing, last), adjusted_close(listing, last)
    expected = {"raw": traded, "split": traded / shares, "dividend": all_in * shares, "all": all_in}
    for adjustment, truth in expected.items():
        request = asked("MANY", start="2011-08-01", end="2011-09-30", adjustment=Adjustment(adjustment))
        found = closes(stocks, request, "MANY")
        np.testing.assert_allclose(found, truth.loc[found.index], atol=0.00006)


def test_pages_count_bars_over_all_symbols(
    alpaca: AlpacaDataServer, stocks: StockHistoricalDataClient, market: dict[str, Listing]
) -> None:
    whole = stocks.get_stock_bars(asked("TWO", "ONCE", "SEVEN")).data
    alpaca.log.clear()
    alpaca.page_size = 7
    paged = stocks.get_stock_bars(asked("TWO", "ONCE", "SEVEN")).data
    assert {name: len(bars) for name, bars in paged.items()} == {"ONCE": 10, "SEVEN": 10, "TWO": 10}
    assert paged == whole
    tokens = [request.query.get("page_token") for request in alpaca.log.requests(BARS)]
    assert tokens[0] is None
    assert len(set(tokens)) == 5


def test_a_limit_is_for_all_pages_together(alpaca: AlpacaDataServer, stocks: StockHistoricalDataClient) -> None:
    alpaca.page_size = 7
    found = stocks.get_stock_bars(asked("TWO", "ONCE", limit=12)).data
    assert {name: len(bars) for name, bars in found.items()} == {"ONCE": 10, "TWO": 2}


def test_unknown_symbols_are_absent(stocks: StockHistoricalDataClient) -> None:
    assert set(stocks.get_stock_bars(asked("TWO", "NONE")).data) == {"TWO"}
    assert stocks.get_stock_bars(asked("NONE")).data == {}


def test_an_end_at_midnight_is_before_its_own_session(stocks: StockHistoricalDataClient) -> None:
    # alpaca-py takes a time without a zone for UTC, in which the session's bar begins at four or five
    request = StockBarsRequest(
        symbol_or_symbols="TWO", timeframe=TimeFrame.Day, start=datetime(2014, 6, 2), end=datetime(2014, 6, 4)
    )
    assert [bar.timestamp.day for bar in stocks.get_stock_bars(request).data["TWO"]] == [2, 3]


def test_the_vendors_day(alpaca: AlpacaDataServer, stocks: StockHistoricalDataClient) -> None:
    alpaca.today = "2014-06-06"
    before = closes(stocks, asked("SEVEN", adjustment=Adjustment.SPLIT), "SEVEN")
    alpaca.today = "2014-06-09"
    after = closes(stocks, asked("SEVEN", adjustment=Adjustment.SPLIT), "SEVEN")
    assert list(before.index) == list(after.index[:-1])
    np.testing.assert_allclose(before / 7, after.iloc[:-1], atol=0.00006)


# -- corporate actions ----------------------------------------------------------------------------------------------


def test_corporate_actions_are_those_of_the_market(corporate, market: dict[str, Listing]) -> None:
    types = [CorporateActionsType(name) for name in ("forward_split", "reverse_split", "cash_dividend")]
    request = CorporateActionsRequest(
        symbols=list(market), types=types, start=date(2000, 1, 1), end=date(2019, 3, 1), limit=None
    )
    found = corporate.get_corporate_actions(request).data
    told = {(a.symbol, a.ex_date, a.new_rate / a.old_rate) for a in found["forward_splits"] + found["reverse_splits"]}
    told |= {(a.symbol, a.ex_date, a.rate) for a in found["cash_dividends"]}
    truth = {(name, row.ex_date.date(), row.value) for name in market for row in market[name].actions.itertuples()}
    assert told == truth


def test_actions_are_found_by_the_day_they_are_processed(corporate, market: dict[str, Listing]) -> None:
    ex_date = market["YIELD"].actions["ex_date"].iloc[40].date()

    def found(first: date, last: date) -> int:
        request = CorporateActionsRequest(symbols=["YIELD"], start=first, end=last)
        return len(corporate.get_corporate_actions(request).data.get("cash_dividends", []))

    paid = (pd.Timestamp(ex_date) + pd.Timedelta(days=21)).date()
    assert (found(ex_date, ex_date), found(paid, paid)) == (0, 1)


def test_alpaca_py_stops_at_a_thousand_actions_unless_told_otherwise(alpaca, corporate, market) -> None:
    alpaca.page_size = 100
    every = {"symbols": list(market), "start": date(2000, 1, 1), "end": date(2019, 3, 1)}
    whole = corporate.get_corporate_actions(CorporateActionsRequest(**every, limit=None)).data
    some = corporate.get_corporate_actions(CorporateActionsRequest(**every, limit=150)).data
    assert sum(map(len, whole.values())) == sum(len(one.actions) for one in market.values())
    assert sum(map(len, some.values())) == 150
    assert CorporateActionsRequest(**every).limit == 1000
    assert len(alpaca.log.requests(ACTIONS)) == 4 + 2


def test_actions_are_known_from_their_ex_date_or_their_announcement_on(alpaca, corporate) -> None:
    request = CorporateActionsRequest(symbols=["SEVEN"], types=[CorporateActionsType.FORWARD_SPLIT])
    request.start, request.end = date(2014, 1, 1), date(2014, 12, 31)
    alpaca.today = "2014-06-06"
    assert corporate.get_corporate_actions(request).data == {}
    alpaca.announced = pd.Timedelta(days=30)
    assert len(corporate.get_corporate_actions(request).data["forward_splits"]) == 1


# -- faults and odd answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "tries"),
    [
        (rate_limited(1), APIError, 4),
        (server_error(504), APIError, 4),
        (server_error(), APIError, 1),
        (forbidden(), APIError, 1),
        (truncated(), requests.exceptions.JSONDecodeError, 1),
        (cut_short(), requests.exceptions.ChunkedEncodingError, 1),
        (dropped(), requests.exceptions.ConnectionError, 1),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_what_alpaca_py_tries_again_and_what_it_raises(alpaca, stocks, fault, error, tries) -> None:
    alpaca.faults.add(fault, always=True)
    with pytest.raises(error):
        stocks.get_stock_bars(asked("TWO"))
    assert len(alpaca.log.requests()) == tries


def test_wrong_credentials_are_refused(alpaca: AlpacaDataServer) -> None:
    client = StockHistoricalDataClient(alpaca.key, "wrong", url_override=alpaca.url)
    with client._session, pytest.raises(APIError, match="forbidden") as refused:
        client.get_stock_bars(asked("TWO"))
    assert refused.value.status_code == 403


def test_odd_bars(alpaca: AlpacaDataServer, stocks: StockHistoricalDataClient, market: dict[str, Listing]) -> None:
    alpaca.odd(extra_column("auction"))
    assert len(stocks.get_stock_bars(asked("TWO")).data["TWO"]) == 10
    alpaca.listings["TWO"] = drop_session(market["TWO"], "2014-06-04")
    assert len(stocks.get_stock_bars(asked("TWO")).data["TWO"]) == 9
    alpaca.listings["TWO"] = restate(alpaca.listings["TWO"], "2014-06-05", "close", None)
    assert len(stocks.get_stock_bars(asked("TWO", adjustment=Adjustment.ALL)).data["TWO"]) == 8
    alpaca.odd(without_column("v"), "ONCE")
    with pytest.raises(ValidationError, match="volume"):
        stocks.get_stock_bars(asked("ONCE"))


def test_bars_out_of_order_are_all_there_over_pages(alpaca, stocks, market: dict[str, Listing]) -> None:
    alpaca.odd(out_of_order())
    alpaca.page_size = 3
    found = closes(stocks, asked("TWO"), "TWO")
    assert not found.index.is_monotonic_increasing
    truth = market["TWO"].bars["close"].loc["2014-06-02":"2014-06-13"]
    assert found.sort_index().to_dict() == truth.to_dict()


@pytest.mark.parametrize(
    "change", [{"limit": "0"}, {"timeframe": "2Day"}, {"adjustment": "none"}, {"start": "soon"}, {"page_token": "x"}]
)
def test_parameters_that_alpaca_refuses(alpaca: AlpacaDataServer, change: dict[str, str]) -> None:
    headers = {"APCA-API-KEY-ID": alpaca.key, "APCA-API-SECRET-KEY": alpaca.secret}
    query = {"symbols": "TWO", "timeframe": "1Day", "start": "2014-06-02"} | change
    with requests.Session() as session:
        answer = session.get(f"{alpaca.url}{BARS}", params=query, headers=headers)
    assert answer.status_code == 400
    assert "invalid" in answer.json()["message"]
