"""Alpaca's market data protocol, as alpaca-py 0.44 asks for it.

Belongs here: addresses, parameters, paging, and how Alpaca tells a listing. Does not belong here: what happened
(`market`), what goes wrong (`faults`), odd but legal answers (`oddities`).

Two things to know. A page counts bars over all symbols, in the order of the symbols, so that a symbol may be spread
over several pages. And corporate actions are found by the day on which they are processed: a dividend's is the day
it is paid, weeks after its ex-date.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pandas as pd

from tests.servers.faults import Request
from tests.servers.loopback import LoopbackVendor, Reply, json_reply
from tests.servers.market import PRICES, Day, Listing, adjusted_close, split_factor
from tests.servers.oddities import Oddity

TIME_ZONE = "America/New_York"
BARS, ACTIONS = "/v2/stocks/bars", "/v1/corporate-actions"
WORDS = {403: "forbidden.", 429: "too many requests.", 500: "internal server error occurred"}
PAID_AFTER = pd.Timedelta(days=21)
"""From a dividend's ex-date to the day it is paid and processed."""


class BadRequestError(ValueError):
    """A parameter that Alpaca would refuse."""


class AlpacaDataServer(LoopbackVendor):
    """Alpaca over a market.

    Attributes
    ----------
    page_size : int
        Most rows of a page, whatever limit was asked for.
    announced : Timedelta
        How long before its ex-date an action is known.
    """

    def __init__(
        self,
        listings: Mapping[str, Listing],
        today: Day = "2018-12-31",
        port: int = 0,
        *,
        key: str = "loopback-key",
        secret: str = "loopback-secret",
        page_size: int = 10_000,
    ) -> None:
        super().__init__(listings, today, port)
        self.key, self.secret, self.page_size = key, secret, page_size
        self.announced = pd.Timedelta(0)
        self._oddities: list[tuple[str | None, Oddity]] = []

    def odd(self, oddity: Oddity, symbol: str | None = None) -> None:
        """Change the bars of a symbol, or of all, before they are sent; see `oddities`."""
        self._oddities.append((symbol, oddity))

    # -- what a vendor is ---------------------------------------------------------------------------------------------

    def symbols_of(self, path: str, query: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(symbol for symbol in query.get("symbols", "").split(",") if symbol)

    def failure(self, status: int) -> Reply:
        return json_reply({"message": WORDS.get(status, "service unavailable")}, status)

    def respond(self, request: Request, body: bytes) -> Reply:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if (headers.get("apca-api-key-id"), headers.get("apca-api-secret-key")) != (self.key, self.secret):
            return self.failure(403)
        try:
            if request.path == BARS:
                return self._bars(request)
            if request.path == ACTIONS:
                return self._actions(request)
        except BadRequestError as error:
            return json_reply({"message": str(error)}, 400)
        return json_reply({"message": "endpoint not found."}, 404)

    # -- bars ---------------------------------------------------------------------------------------------------------

    def rows(self, listing: Listing, adjustment: str = "raw") -> pd.DataFrame:
        """Bars in Alpaca's words on its day, by the midnight in New York that begins the session."""
        known = listing.until(self.today)
        bars = known.bars.dropna()  # Alpaca knows no null: what it lacks is not there
        shares = split_factor(known, self.today)[bars.index]
        ratio = 1 / shares if adjustment in ("split", "all") else pd.Series(1.0, index=bars.index)
        if adjustment in ("dividend", "all"):
            ratio = ratio * adjusted_close(known, self.today)[bars.index] / bars["close"] * shares
        rows = pd.DataFrame(index=bars.index)
        for name in PRICES:
            rows[name[0]] = (bars[name] * ratio).round(2 if adjustment == "raw" else 4)
        volume = bars["volume"] * (shares if adjustment in ("split", "all") else 1)
        rows["v"] = volume.round().astype("int64")
        rows["n"] = (rows["v"] // 150).clip(lower=1)
        rows["vw"] = rows[["h", "l", "c"]].mean(axis=1).round(6)
        rows.index = rows.index.tz_localize(TIME_ZONE).tz_convert("UTC")
        for symbol, oddity in self._oddities:
            if symbol in (None, listing.symbol):
                rows = oddity(rows)
        return rows

    def _bars(self, request: Request) -> Reply:
        query = request.query
        if query.get("timeframe") not in ("1Day", "1D"):
            raise BadRequestError(f"invalid timeframe: {query.get('timeframe')}")
        adjustment = query.get("adjustment", "raw")
        if adjustment not in ("raw", "split", "dividend", "all"):
            raise BadRequestError(f"invalid adjustment: {adjustment}")
        start = _instant(query.get("start") or str(pd.Timestamp(self.today).date()), end_of_day=False)
        end = _instant(query.get("end") or str(pd.Timestamp(self.today).date()), end_of_day=True)
        frames = []
        for symbol in sorted(set(request.symbols)):
            if symbol in self.listings:
                rows = self.rows(self.listings[symbol], adjustment)
                rows = rows[(rows.index >= start) & (rows.index <= end)]
                rows = rows[::-1] if query.get("sort") == "desc" else rows
                frames.append(rows.assign(symbol=symbol, t=rows.index))
        if not frames:
            return json_reply({"bars": {}, "next_page_token": None})
        everything = pd.concat(frames, ignore_index=True)
        page, token = self._page(everything, query, most=10_000, default=1000)
        bars: dict[str, list[dict[str, Any]]] = {}
        page = page.assign(t=page["t"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        for bar in page.to_dict("records"):
            bars.setdefault(bar.pop("symbol"), []).append(bar)
        return json_reply({"bars": bars, "next_page_token": token})

    # -- corporate actions --------------------------------------------------------------------------------------------

    def _actions(self, request: Request) -> Reply:
        query = request.query
        today = str(pd.Timestamp(self.today).date())
        start, end = pd.Timestamp(query.get("start") or today), pd.Timestamp(query.get("end") or today)
        wanted = set(filter(None, query.get("types", "").split(",")))
        records = []
        for symbol in sorted(set(request.symbols) or self.listings):
            for action in self.listings[symbol].actions.itertuples() if symbol in self.listings else ():
                if action.ex_date <= pd.Timestamp(self.today) + self.announced:
                    records.append(_record(symbol, action.ex_date, action.kind, action.value))
        found = [
            (kind, record)
            for kind, record in records
            if start <= pd.Timestamp(record["process_date"]) <= end and (not wanted or kind in wanted)
        ]
        found.sort(key=lambda item: item[1]["process_date"], reverse=query.get("sort") == "desc")
        page, token = self._page(pd.Series(found, dtype=object), query, most=1000, default=100)
        actions: dict[str, list[dict[str, Any]]] = {}
        for kind, record in page:
            actions.setdefault(f"{kind}s", []).append(record)
        return json_reply({"corporate_actions": actions, "next_page_token": token})

    def _page(self, rows: Any, query: Mapping[str, str], *, most: int, default: int) -> tuple[Any, str | None]:
        """The rows of one page, and the token of the next. A token is good for the request that it came from."""
        limit = int(query.get("limit") or default)
        if not 1 <= limit <= most:
            raise BadRequestError(f"invalid limit: must be between 1 and {most}")
        same = {name: value for name, value in query.items() if name not in ("page_token", "limit")}
        origin = str(uuid5(NAMESPACE_URL, json.dumps(same, sort_keys=True)))
        first = 0
        if query.get("page_token"):
            try:
                asked, first = json.loads(base64.urlsafe_b64decode(query["page_token"]))
            except ValueError:
                asked = None
            if asked != origin:
                raise BadRequestError("invalid page_token")
        last = first + min(limit, self.page_size)
        if last >= len(rows):
            return rows[first:last], None
        return rows[first:last], base64.urlsafe_b64encode(json.dumps([origin, last]).encode()).decode()


def _instant(text: str, *, end_of_day: bool) -> pd.Timestamp:
    """A time as Alpaca reads it: a date alone is a day in New York, a time without a zone is refused."""
    try:
        stamp = pd.Timestamp(text)
    except ValueError as error:
        raise BadRequestError(f"invalid time: {text}") from error
    if len(text) == len("YYYY-MM-DD"):
        return stamp.tz_localize(TIME_ZONE) + (pd.Timedelta("23h59min") if end_of_day else pd.Timedelta(0))
    if stamp.tzinfo is None:
        raise BadRequestError(f"invalid time: {text}")
    return stamp


def _record(symbol: str, ex_date: pd.Timestamp, kind: str, value: float) -> tuple[str, dict[str, Any]]:
    """Alpaca's type of an action, and its fields."""
    identity = str(uuid5(NAMESPACE_URL, f"{symbol} {ex_date:%Y-%m-%d} {kind}"))
    cusip = f"{uuid5(NAMESPACE_URL, symbol).int % 10**9:09d}"
    day = f"{ex_date:%Y-%m-%d}"
    common = {"id": identity, "symbol": symbol, "ex_date": day}
    if kind == "dividend":
        paid = f"{ex_date + PAID_AFTER:%Y-%m-%d}"
        return "cash_dividend", common | {
            "cusip": cusip,
            "rate": value,
            "special": False,
            "foreign": False,
            "process_date": paid,
            "record_date": day,
            "payable_date": paid,
        }
    ratio = Fraction(value).limit_denominator(1000)
    rates = {"new_rate": ratio.numerator, "old_rate": ratio.denominator, "process_date": day, "record_date": day}
    if value >= 1:
        return "forward_split", common | rates | {"cusip": cusip, "payable_date": day}
    return "reverse_split", common | rates | {"old_cusip": cusip, "new_cusip": f"{(int(cusip) + 1) % 10**9:09d}"}
