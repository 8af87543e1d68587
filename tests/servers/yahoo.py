"""Yahoo's chart protocol, as yfinance 1.7 asks for it.

Belongs here: addresses, parameters, and how Yahoo tells a listing. Does not belong here: what happened (`market`),
what goes wrong (`faults`), odd but legal answers (`oddities`).

Yahoo's prices are divided by every split up to its own day, whatever was asked for, and have gone through single
precision; dividends are in the same shares, with six decimals; `adjclose` takes out the dividends, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, time
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from tests.servers.faults import Request
from tests.servers.loopback import LoopbackVendor, Reply, json_reply
from tests.servers.market import PRICES, Day, Listing, adjusted_close, split_factor
from tests.servers.oddities import Oddity

TIME_ZONE = "America/New_York"
CHART = "/v8/finance/chart/"
CRUMB = "loopbackCrumb"
COOKIE = {"Set-Cookie": "A3=d=loopback&S=loopback; Max-Age=31557600; Path=/; HttpOnly"}
RANGES = {"1d": 1, "5d": 5, "1mo": 21, "3mo": 63, "6mo": 126, "1y": 252, "2y": 504, "5y": 1260, "10y": 2520}
"""Ranges by their number of sessions; `max` is all of them."""

TIME_SERIES = "/ws/fundamentals-timeseries/v1/finance/timeseries/"
NOTHING = {"/v7/finance/quote": {"quoteResponse": {"result": [], "error": None}}}
"""Where yfinance looks for the time zone of a symbol whose chart has none: there is nothing."""

CONSENT = b"""<html><body><form method="post"><input type="hidden" name="csrfToken" value="loopback">
<input type="hidden" name="sessionId" value="loopback"></form></body></html>"""
WORDS = {429: "Too Many Requests\r\n", 403: "Forbidden", 500: "<html><body>INKApi Error</body></html>"}


def epoch(session: pd.Timestamp, clock: str = "09:30") -> int:
    """Seconds since 1970 of a time of day in New York."""
    return int(datetime.combine(session.date(), time.fromisoformat(clock), ZoneInfo(TIME_ZONE)).timestamp())


class YahooServer(LoopbackVendor):
    """Yahoo over a market.

    Attributes
    ----------
    live : Timestamp or None
        Session of an unfinished row that is appended to every answer, whatever its end, as Yahoo does while the
        market is open. It comes on top of the session's own row, if the vendor's day has that already.
    """

    def __init__(self, listings: Mapping[str, Listing], today: Day = "2018-12-31", port: int = 0) -> None:
        super().__init__(listings, today, port)
        self.live: pd.Timestamp | None = None
        self._oddities: list[tuple[str | None, Oddity]] = []

    def odd(self, oddity: Oddity, symbol: str | None = None) -> None:
        """Change the rows of a symbol, or of all, before they are sent; see `oddities`."""
        self._oddities.append((symbol, oddity))

    # -- what a vendor is ---------------------------------------------------------------------------------------------

    def symbols_of(self, path: str, query: Mapping[str, str]) -> tuple[str, ...]:
        return (path.removeprefix(CHART),) if path.startswith(CHART) else ()

    def failure(self, status: int) -> Reply:
        return Reply(status, WORDS.get(status, "Service Unavailable").encode(), "text/html")

    def respond(self, request: Request, body: bytes) -> Reply:
        if request.path.startswith(CHART):
            return self._chart(request.symbols[0], request.query)
        if request.path == "/v1/test/getcrumb":
            if "A3=" in request.headers.get("Cookie", ""):
                return Reply(200, CRUMB.encode(), "text/plain")
            return json_reply(_error("finance", "Unauthorized", "Invalid Cookie"), 401)
        if request.path == "/":
            return Reply(200, b"<html></html>", "text/html", COOKIE)
        if request.path == "/consent":
            return Reply(200, CONSENT, "text/html", COOKIE)
        if request.path in ("/v2/collectConsent", "/copyConsent"):
            return Reply(200, b"<html></html>", "text/html", COOKIE)
        if request.path in NOTHING or request.path.startswith(TIME_SERIES):
            return json_reply(NOTHING.get(request.path, {"timeseries": {"result": [], "error": None}}))
        if request.path.startswith("/v10/finance/quoteSummary/"):
            return json_reply(_error("quoteSummary", "Not Found", "Quote not found for symbol"), 404)
        return json_reply(_error("finance", "Not Found", f"No such address: {request.path}"), 404)

    # -- the chart ----------------------------------------------------------------------------------------------------

    def _chart(self, symbol: str, query: Mapping[str, str]) -> Reply:
        listing = self.listings.get(symbol)
        today = pd.Timestamp(self.today)
        if listing is None or (known := listing.until(today)).bars.empty:
            return json_reply(_error("chart", "Not Found", "No data found, symbol may be delisted"), 404)
        rows = self.rows(listing)
        first, last = epoch(known.bars.index.min()), epoch(known.bars.index.max())
        if "period1" in query:
            start, end = int(query["period1"]), int(query["period2"])
            if start > end:
                return _bad(
                    f"Invalid input - start date cannot be after end date. startDate = {start}, endDate = {end}"
                )
            if end <= first or start > last:
                return _bad(f"Data doesn't exist for startDate = {start}, endDate = {end}")
        else:
            count = RANGES.get(query.get("range", "1d"), len(rows))
            start, end = sorted(rows.index)[-min(count, len(rows))], epoch(today, "23:59")
        rows = rows[(rows.index >= start) & (rows.index < end)]
        if self.live is not None:
            rows = pd.concat([rows, self._live_row(listing, self.live)])
        result: dict[str, Any] = {"meta": self._meta(listing, known.bars.index, rows, query)}
        if rows.empty:
            result["indicators"] = {"quote": [{}], "adjclose": [{}]}
            return json_reply({"chart": {"result": [result], "error": None}})
        result["timestamp"] = [int(second) for second in rows.index]
        events = self._events(listing, query.get("events", ""), start, end)
        if events:
            result["events"] = events
        columns = {name: _nulls(rows[name]) for name in rows}
        adjusted = columns.pop("adjclose", None)
        result["indicators"] = {"quote": [columns]}
        if adjusted is not None:
            result["indicators"]["adjclose"] = [{"adjclose": adjusted}]
        return json_reply({"chart": {"result": [result], "error": None}})

    def rows(self, listing: Listing) -> pd.DataFrame:
        """Open, high, low, close, volume and adjclose as Yahoo tells them on its day, by epoch second."""
        known = listing.until(self.today)
        factor = split_factor(known, self.today)
        rows = known.bars[PRICES].div(factor, axis=0)
        rows["volume"] = (known.bars["volume"] * factor).round()
        rows["adjclose"] = adjusted_close(known, self.today)
        prices = [*PRICES, "adjclose"]
        rows[prices] = rows[prices].astype(np.float32).astype(np.float64)
        stamps = (rows.index + pd.Timedelta("9h30min")).tz_localize(TIME_ZONE)
        rows.index = pd.Index(stamps.tz_convert("UTC").tz_localize(None).as_unit("s").astype("int64"))
        for symbol, oddity in self._oddities:
            if symbol in (None, listing.symbol):
                rows = oddity(rows)
        return rows

    def _live_row(self, listing: Listing, session: pd.Timestamp) -> pd.DataFrame:
        """An unfinished session, an hour before its end: its range so far, at a price between open and close."""
        bars = listing.bars.sort_index()
        bar = bars.loc[session] if session in bars.index else bars.loc[:session].iloc[-1]
        price = (bar["open"] + bar["close"]) / 2
        row = {"open": bar["open"], "high": max(bar["open"], price), "low": min(bar["open"], price), "close": price}
        row |= {"volume": round(bar["volume"] * 0.8), "adjclose": price}
        return pd.DataFrame(row, index=[epoch(session, "15:00") + 7])

    def _events(self, listing: Listing, wanted: str, start: int, end: int) -> dict[str, dict[str, dict[str, Any]]]:
        dividends: dict[str, dict[str, Any]] = {}
        splits: dict[str, dict[str, Any]] = {}
        known = listing.until(self.today)
        for action in known.actions.itertuples():
            second = epoch(action.ex_date)
            if not start <= second < end:
                continue
            if action.kind == "dividend":
                later = known.actions[(known.actions["kind"] == "split") & (known.actions["ex_date"] > action.ex_date)]
                amount = round(action.value / later["value"].prod(), 6)
                dividends[str(second)] = {"amount": amount, "date": second}
            else:
                ratio = Fraction(action.value).limit_denominator(1000)
                new, old = float(ratio.numerator), float(ratio.denominator)
                splits[str(second)] = {
                    "date": second,
                    "numerator": new,
                    "denominator": old,
                    "splitRatio": f"{new:g}:{old:g}",
                }
        events = {}
        if dividends and "div" in wanted:
            events["dividends"] = dividends
        if splits and "split" in wanted:
            events["splits"] = splits
        return events

    def _meta(
        self, listing: Listing, known: pd.DatetimeIndex, rows: pd.DataFrame, query: Mapping[str, str]
    ) -> dict[str, Any]:
        today = pd.Timestamp(self.today)
        offset = int(today.tz_localize(TIME_ZONE).utcoffset().total_seconds())
        zone = "EST" if offset == -18000 else "EDT"
        hours = {"pre": ("04:00", "09:30"), "regular": ("09:30", "16:00"), "post": ("16:00", "20:00")}
        closes = rows["close"].dropna() if "close" in rows else pd.Series(dtype="float64")
        return {
            "currency": "USD",
            "symbol": listing.symbol,
            "exchangeName": "NYQ",
            "fullExchangeName": "NYSE",
            "instrumentType": "EQUITY",
            "firstTradeDate": epoch(known.min()),
            "regularMarketTime": epoch(known.max(), "16:00"),
            "hasPrePostMarketData": True,
            "gmtoffset": offset,
            "timezone": zone,
            "exchangeTimezoneName": TIME_ZONE,
            "regularMarketPrice": float(closes.iloc[-1]) if len(closes) else None,
            "priceHint": 2,
            "currentTradingPeriod": {
                name: {"timezone": zone, "start": epoch(today, start), "end": epoch(today, end), "gmtoffset": offset}
                for name, (start, end) in hours.items()
            },
            "dataGranularity": query.get("interval", "1d"),
            "range": query.get("range", ""),
            "validRanges": [*RANGES, "ytd", "max"],
        }


def _nulls(values: pd.Series) -> list[Any]:
    """Values with null for a missing one, and volumes as the whole numbers they are."""
    whole = values.name == "volume"
    return [None if pd.isna(value) else int(value) if whole else value for value in values.tolist()]


def _error(root: str, code: str, description: str) -> dict[str, Any]:
    return {root: {"result": None, "error": {"code": code, "description": description}}}


def _bad(description: str) -> Reply:
    return json_reply(_error("chart", "Bad Request", description), 400)
