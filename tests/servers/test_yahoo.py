"""The Yahoo server, as the real yfinance sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
import requests
import yfinance
import yfinance.base
from yfinance import cache
from yfinance.data import SingletonMeta, YfData
from yfinance.exceptions import YFPricesMissingError, YFRateLimitError, YFTzMissingError

from tests.servers.faults import cut_short, dropped, rate_limited, server_error, stalled, truncated
from tests.servers.market import PRICES, Listing, adjusted_close, drop_session, ends, shuffled
from tests.servers.oddities import extra_column, flat_bar, null_rows, out_of_order, repeated_row, without_column
from tests.servers.redirect import RedirectedCurlSession, RedirectedSession
from tests.servers.yahoo import CHART, YahooServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:The inplace keyword:pandas.errors.Pandas4Warning"),  # yfinance on pandas 3.1
]

History = Callable[..., pd.DataFrame]
SINGLE = 2e-7  # what single precision leaves of a price


@pytest.fixture(autouse=True)
def own_yfinance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """yfinance without what it keeps in the user's home, and between tickers of one process."""
    monkeypatch.setattr(cache._TzCacheManager, "_tz_cache", cache._TzCacheDummy())
    monkeypatch.setattr(cache._CookieCacheManager, "_Cookie_cache", cache._CookieCacheDummy())
    # the first two unknown symbols of a process are looked up elsewhere, too
    monkeypatch.setattr(yfinance.base, "_tz_info_fetch_ctr", 2)
    yfinance.config.debug.hide_exceptions = False
    forget()
    yield
    yfinance.config.debug.hide_exceptions = True
    forget()


def forget() -> None:
    """Cookie, crumb, session, and every answer about the past."""
    SingletonMeta._instances.clear()
    YfData.cache_get.cache_clear()


@pytest.fixture(params=[RedirectedSession, RedirectedCurlSession], ids=["requests", "curl"])
def history(request: pytest.FixtureRequest, yahoo: YahooServer) -> Iterator[History]:
    """`Ticker.history` against the server, on either of yfinance's HTTP libraries."""
    with request.param(yahoo.url) as session:

        def ask(symbol: str, start: str, end: str, **options) -> pd.DataFrame:
            ticker = yfinance.Ticker(symbol, session=session)
            frame = ticker.history(start=start, end=end, auto_adjust=False, actions=True, **options)
            frame.index = frame.index.tz_localize(None).as_unit("us")
            return frame

        yield ask


def test_a_listing_without_actions_comes_as_traded(history: History, market: dict[str, Listing]) -> None:
    bars = market["PLAIN"].bars.loc["2010-01-01":"2011-12-31"]
    got = history("PLAIN", "2010-01-01", "2012-01-01")
    assert got.index.equals(bars.index)  # over both changes of the clocks
    np.testing.assert_allclose(got[["Open", "High", "Low", "Close"]], bars[PRICES], rtol=SINGLE)
    np.testing.assert_array_equal(got["Volume"], bars["volume"])


def test_splits_after_the_range_are_in_the_prices_and_not_in_the_events(history: History, market) -> None:
    bars = market["SEVEN"].bars.loc["2014-06-02":"2014-06-05"]
    got = history("SEVEN", "2014-06-02", "2014-06-06")
    np.testing.assert_allclose(got["Close"], bars["close"] / 7, rtol=SINGLE)
    np.testing.assert_array_equal(got["Volume"], bars["volume"] * 7)
    assert (got["Stock Splits"] == 0).all()


@pytest.mark.parametrize(
    ("symbol", "day", "ratio"), [("SEVEN", "2014-06-09", 7), ("UNDO", "2009-03-09", 0.1), ("HALF", "2004-09-14", 1.5)]
)
def test_a_split_is_an_event_on_its_ex_date(history: History, symbol: str, day: str, ratio: float) -> None:
    end = pd.Timestamp(day) + pd.Timedelta(days=3)
    got = history(symbol, f"{pd.Timestamp(day) - pd.Timedelta(days=5):%Y-%m-%d}", f"{end:%Y-%m-%d}")
    assert got["Stock Splits"][got["Stock Splits"] != 0].to_dict() == {pd.Timestamp(day): pytest.approx(ratio)}
    assert got["Close"].pct_change().abs().max() < 0.15


def test_dividends_come_in_the_shares_of_the_vendors_day(history: History, market: dict[str, Listing]) -> None:
    paid = market["SEVEN"].actions.query("kind == 'dividend'").set_index("ex_date")["value"].loc["2013":"2014"]
    got = history("SEVEN", "2013-01-01", "2015-01-01")["Dividends"]
    expected = paid / np.where(paid.index < pd.Timestamp("2014-06-09"), 7, 1)
    np.testing.assert_allclose(got[got > 0], expected.round(6))
    assert got[got > 0].index.equals(pd.DatetimeIndex(paid.index))


def test_adjusted_close_takes_out_dividends_too(history: History, market: dict[str, Listing]) -> None:
    got = history("MANY", "2000-01-01", "2019-01-01")["Adj Close"]
    np.testing.assert_allclose(got, adjusted_close(market["MANY"], "2018-12-31"), rtol=SINGLE)


def test_the_past_is_rewritten_when_the_vendors_day_moves_on(yahoo: YahooServer, history: History) -> None:
    yahoo.today = "2014-06-06"
    before = history("SEVEN", "2014-06-02", "2014-06-20")
    yahoo.today = "2014-06-09"
    stale = history("SEVEN", "2014-06-02", "2014-06-20")
    forget()
    after = history("SEVEN", "2014-06-02", "2014-06-20")
    assert before.index[-1] == pd.Timestamp("2014-06-06")
    assert after.index[-1] == pd.Timestamp("2014-06-09")
    np.testing.assert_allclose(before["Close"], after["Close"].iloc[:-1] * 7, rtol=2 * SINGLE)
    # yfinance keeps every answer about the past in the process, the failed ones among them
    pd.testing.assert_frame_equal(stale, before)


def test_what_is_not_there(yahoo: YahooServer, history: History, market: dict[str, Listing]) -> None:
    with pytest.raises(YFTzMissingError, match="delisted"):
        history("NONE", "2014-06-02", "2014-06-20")
    assert 404 in {request.status for request in yahoo.log.requests(CHART)}
    yahoo.listings["TWO"] = ends(market["TWO"], "2014-06-03")
    assert len(history("TWO", "2014-06-02", "2014-06-20")) == 2
    with pytest.raises(YFPricesMissingError, match="Data doesn't exist"):
        history("TWO", "2014-07-01", "2014-07-20")
    with pytest.raises(YFPricesMissingError, match="no price data"):
        history("ONCE", "2014-06-07", "2014-06-09")  # a weekend


def test_addresses_that_yfinance_asks(yahoo: YahooServer, history: History) -> None:
    history("TWO", "2014-06-02", "2014-06-20")
    assert {request.path for request in yahoo.log.requests()} == {"/", "/v1/test/getcrumb", f"{CHART}TWO"}
    zone, chart = yahoo.log.requests(CHART)
    assert zone.query["range"] == "1d"
    assert chart.query["events"] == "div,splits,capitalGains"
    assert chart.query["crumb"] == "loopbackCrumb"


def test_too_many_requests_is_told_after_a_second_try(yahoo: YahooServer, history: History) -> None:
    yahoo.faults.add(rate_limited(5), always=True, where=lambda request: "period1" in request.query)
    with pytest.raises(YFRateLimitError):
        history("TWO", "2014-06-02", "2014-06-20")
    assert [r.status for r in yahoo.log.requests(CHART)] == [200, 429, 429]


@pytest.mark.parametrize(
    "fault", [server_error(), truncated(), cut_short(), dropped(), stalled(1)], ids=lambda f: f.kind
)
def test_failures_raise(yahoo: YahooServer, history: History, fault) -> None:
    yahoo.faults.add(fault, always=True, where=lambda request: "period1" in request.query)
    with pytest.raises((ValueError, OSError)):
        history("TWO", "2014-06-02", "2014-06-20", timeout=0.3)


# -- odd but legal answers ------------------------------------------------------------------------------------------


def test_null_rows(yahoo: YahooServer, history: History) -> None:
    yahoo.odd(null_rows("2014-06-04"), "TWO")
    assert history("TWO", "2014-06-02", "2014-06-07", keepna=True)["Close"].isna().sum() == 1
    forget()
    assert len(history("TWO", "2014-06-02", "2014-06-07")) == 4
    assert len(history("ONCE", "2014-06-02", "2014-06-07")) == 5


def test_a_missing_session_is_simply_absent(yahoo: YahooServer, history: History, market: dict[str, Listing]) -> None:
    yahoo.listings["TWO"] = drop_session(market["TWO"], "2014-06-04")
    assert len(history("TWO", "2014-06-02", "2014-06-07")) == 4


def test_order_of_the_rows(yahoo: YahooServer, history: History, market: dict[str, Listing]) -> None:
    straight = history("MANY", "2011-08-01", "2011-09-01")
    forget()
    yahoo.odd(out_of_order())
    sent = raw(yahoo, "MANY", "range=max")["timestamp"]
    assert sent != sorted(sent)
    pd.testing.assert_frame_equal(history("MANY", "2011-08-01", "2011-09-01"), straight)
    forget()
    yahoo.listings["MANY"] = shuffled(market["MANY"], 1)
    pd.testing.assert_frame_equal(history("MANY", "2011-08-01", "2011-09-01"), straight)


def test_a_live_row_comes_on_top_whatever_the_end(yahoo: YahooServer) -> None:
    yahoo.today, yahoo.live = "2014-06-05", pd.Timestamp("2014-06-06")
    result = raw(yahoo, "TWO", "period1=1401667200&period2=1401926400")
    days = pd.to_datetime(result["timestamp"], unit="s", utc=True).tz_convert("America/New_York")
    assert days.strftime("%m-%d %H:%M").tolist() == ["06-02 09:30", "06-03 09:30", "06-04 09:30", "06-06 15:00"]
    yahoo.live = pd.Timestamp("2014-06-05")
    assert len(raw(yahoo, "TWO", "range=1d")["timestamp"]) == 2


def test_a_bar_on_a_day_without_a_session(yahoo: YahooServer, history: History) -> None:
    yahoo.odd(flat_bar("2014-07-04"))
    got = history("TWO", "2014-07-01", "2014-07-08")
    holiday = got.loc["2014-07-04"]
    assert holiday["Volume"] == 0
    assert set(holiday[["Open", "High", "Low", "Close"]]) == {got.loc["2014-07-03", "Close"]}


def test_changed_columns_and_repeated_rows(yahoo: YahooServer, history: History) -> None:
    yahoo.odd(extra_column("turnover"))
    yahoo.odd(repeated_row("2014-06-04"))
    assert "turnover" in raw(yahoo, "TWO", "range=5d")["indicators"]["quote"][0]
    assert history("TWO", "2014-06-02", "2014-06-07").index.is_unique
    forget()
    yahoo.odd(without_column("volume"), "ONCE")
    with pytest.raises(KeyError, match="volume"):
        history("ONCE", "2014-06-02", "2014-06-07")


def raw(server: YahooServer, symbol: str, query: str) -> dict:
    """The chart as it is sent."""
    with requests.Session() as session:
        return session.get(f"{server.url}{CHART}{symbol}?{query}").json()["chart"]["result"][0]
