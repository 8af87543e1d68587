"""Alpaca's trading protocol, paper API v2, as alpaca-py 0.44 asks for it.

Belongs here: addresses, parameters, paging, JSON, and read-outs that are behind the truth. Does not belong here: the
account itself and what a test does to it (`brokerage`), what goes wrong on the wire (`faults`).

What is not obvious, with where it is said:

- Orders: `after` and `until` are exclusive, the limit is 50 by default and 500 at most, newest first; the answer to
  POST says `pending_new` while the exchange is open. https://docs.alpaca.markets/reference/getallorders
- Activities: at most a page of 100, unless `date` is given, which gives all of that day; `page_token` is the id of the
  last one seen. https://docs.alpaca.markets/reference/getaccountactivities
- 401 `unauthorized.` is what the paper API is reported to answer today to a wrong key as well, where it once answered
  403 `forbidden.`: see `AlpacaTradingServer.wrong_key_status`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from tests.servers.brokerage import (
    INVALID,
    NEW_YORK,
    NOT_FOUND,
    Activity,
    Brokerage,
    Order,
    RefusalError,
    asset_id,
    moment,
    nanoseconds,
    plain,
)
from tests.servers.cost_basis import ZERO, Book
from tests.servers.faults import Request
from tests.servers.loopback import LoopbackVendor, Reply, json_reply

WORDS = {
    401: "unauthorized.",
    403: "forbidden.",
    429: "too many requests.",
    500: "internal server error occurred",
}
ACTIVITY_TYPES = """
FILL ACATC ACATS CFEE CIL CSD CSW DIV DIVCGL DIVCGS DIVFT DIVNRA DIVROC DIVTXEX DIVTW DIVWH FEE INT INTNRA INTTW JNL
JNLC JNLS MA NC OPASN OPCA OPCSH OPEXC OPEXP OPTRD PTC PTR REORG SC SPIN SPLIT SSO SSP
"""
"""The table of https://docs.alpaca.markets/docs/account-activities."""
RATIO = Decimal("1e-12")
"""To what a quotient is rounded when it is told."""


class OfBrokerage:
    """An attribute of the server that is its brokerage's, to read, to set and to call."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, server: AlpacaTradingServer | None, owner: type | None = None) -> Any:
        return self if server is None else getattr(server.brokerage, self._name)

    def __set__(self, server: AlpacaTradingServer, value: Any) -> None:
        setattr(server.brokerage, self._name, value)


class AlpacaTradingServer(LoopbackVendor):
    """Alpaca over one account. The parameters are those of `Brokerage`, whose methods are also the server's.

    Attributes
    ----------
    brokerage : Brokerage
        The account; it can be used without the server running.
    activity_page_size : int
        Most activities of a page, and how many there are by default.
    wrong_key_status : int
        What a wrong key is answered: 403 or 401. A missing one is answered 401.
    """

    now = OfBrokerage()
    advance = OfBrokerage()
    cancel_delay = OfBrokerage()
    untradable = OfBrokerage()
    duplicate_code = OfBrokerage()
    client_id_length = OfBrokerage()
    fractionable = OfBrokerage()
    set_price = OfBrokerage()
    fill = OfBrokerage()
    trade_open = OfBrokerage()
    end_of_day = OfBrokerage()
    manual_trade = OfBrokerage()
    manual_order = OfBrokerage()
    cancel = OfBrokerage()
    reject = OfBrokerage()
    dividend = OfBrokerage()
    deposit = OfBrokerage()
    withdraw = OfBrokerage()
    fee = OfBrokerage()
    split = OfBrokerage()

    cash = OfBrokerage()
    equity = OfBrokerage()
    last_equity = OfBrokerage()
    market_value = OfBrokerage()
    buying_power = OfBrokerage()
    net_deposits = OfBrokerage()
    realised = OfBrokerage()
    unrealised = OfBrokerage()
    positions = OfBrokerage()
    orders = OfBrokerage()
    open_orders = OfBrokerage()
    order = OfBrokerage()
    activities = OfBrokerage()
    submissions = OfBrokerage()
    prices = OfBrokerage()

    def __init__(
        self,
        prices: Mapping[str, Decimal | str],
        *,
        cash: Decimal | str = "100000",
        now: datetime,
        calendar: str = "XNYS",
        port: int = 0,
        key: str = "loopback-key",
        secret: str = "loopback-secret",
        fractionable: Collection[str] | None = None,
        activity_page_size: int = 100,
        multiplier: int = 1,
    ) -> None:
        super().__init__({}, now, port)
        self.brokerage = Brokerage(
            prices, cash=cash, now=now, calendar=calendar, fractionable=fractionable, multiplier=multiplier
        )
        self.key, self.secret, self.activity_page_size = key, secret, activity_page_size
        self.wrong_key_status = 403
        self._behind = {"orders": 0, "activities": 0, "positions": 0}

    # -- read-outs that are behind ------------------------------------------------------------------------------------

    def stale_orders(self, count: int = 1) -> None:
        """Show each order as it was before its latest change, in the next `count` answers to GET of orders.

        A list is chosen from what it shows: an order that was filled is among the open ones.
        """
        self._behind["orders"] = count

    def lagging_activities(self, count: int = 1) -> None:
        """Leave the newest activity out of the next `count` lists."""
        self._behind["activities"] = count

    def lagging_positions(self, count: int = 1) -> None:
        """Show the positions as they were before their latest change, in the next `count` answers to GET of them."""
        self._behind["positions"] = count

    def _is_behind(self, what: str) -> bool:
        left = self._behind[what]
        self._behind[what] = max(left - 1, 0)
        return left > 0

    # -- what a vendor is ---------------------------------------------------------------------------------------------

    def symbols_of(self, path: str, query: Mapping[str, str]) -> tuple[str, ...]:
        found = re.fullmatch(r"/v2/(?:positions|assets)/([^/]+)", path)
        return (found[1],) if found else tuple(filter(None, query.get("symbols", "").split(",")))

    def symbols_in(self, body: bytes) -> tuple[str, ...]:
        try:
            return (json.loads(body)["symbol"],)
        except (ValueError, KeyError, TypeError):
            return ()

    def failure(self, status: int) -> Reply:
        return json_reply({"message": WORDS.get(status, "service unavailable")}, status)

    def respond(self, request: Request, body: bytes) -> Reply:
        headers = {name.lower(): value for name, value in request.headers.items()}
        given = (headers.get("apca-api-key-id"), headers.get("apca-api-secret-key"))
        if None in given:
            return self.failure(401)
        if given != (self.key, self.secret):
            return self.failure(self.wrong_key_status)
        try:
            with self.brokerage.lock:
                return self._route(replace(request, body=body))
        except RefusalError as refusal:
            return json_reply(_refused(refusal), refusal.status)

    def _route(self, request: Request) -> Reply:
        for method, path, handler in ROUTES:
            found = re.fullmatch(f"/v2{path}", request.path) if method == request.method else None
            if found:
                return handler(self, request, *found.groups())
        raise RefusalError(404, NOT_FOUND, "endpoint not found")

    # -- account ------------------------------------------------------------------------------------------------------

    def _get_account(self, request: Request) -> Reply:
        account = self.brokerage
        held, power = plain(account.market_value), plain(account.buying_power)
        margin = account.market_value / account.multiplier
        return json_reply(
            {
                "id": str(uuid5(NAMESPACE_URL, f"account {self.key}")),
                "admin_configurations": {},
                "user_configurations": None,
                "account_number": "PA3LOOPBACK0",
                "status": "ACTIVE",
                "crypto_status": "ACTIVE",
                "currency": "USD",
                "buying_power": power,
                "regt_buying_power": power,
                "daytrading_buying_power": "0",
                "effective_buying_power": power,
                "non_marginable_buying_power": plain(max(account.cash - account.reserved, ZERO)),
                "options_buying_power": plain(max(account.cash - account.reserved, ZERO)),
                "options_approved_level": 0,
                "options_trading_level": 0,
                "bod_dtbp": "0",
                "cash": plain(account.cash),
                "accrued_fees": "0",
                "pending_transfer_in": "0",
                "pending_transfer_out": "0",
                "portfolio_value": plain(account.equity),
                "equity": plain(account.equity),
                "last_equity": plain(account.last_equity),
                "long_market_value": held,
                "short_market_value": "0",
                "position_market_value": held,
                "initial_margin": plain(margin),
                "maintenance_margin": plain(account.market_value * Decimal("0.3")),
                "last_maintenance_margin": "0",
                "sma": "0",
                "multiplier": str(account.multiplier),
                "pattern_day_trader": False,
                "daytrade_count": 0,
                "trading_blocked": False,
                "transfers_blocked": False,
                "account_blocked": False,
                "trade_suspended_by_user": False,
                "shorting_enabled": False,
                "balance_asof": account.today.isoformat(),
                "created_at": _time(nanoseconds(account.opened)),
            }
        )

    # -- orders -------------------------------------------------------------------------------------------------------

    def _post_order(self, request: Request) -> Reply:
        try:
            asked = json.loads(request.body, parse_float=Decimal)
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            raise RefusalError(400, 40010000, "request body format is invalid")
        order = self.brokerage.submit(asked)
        return json_reply(self._order(replace(order, status="pending_new") if order.status == "new" else order))

    def _get_orders(self, request: Request) -> Reply:
        query = request.query
        status = _choice(query, "status", ("open", "closed", "all"))
        ascending = _choice(query, "direction", ("desc", "asc")) == "asc"
        limit = _count(query, "limit", 50, 500)
        after, until = _instant(query, "after"), _instant(query, "until")
        symbols = set(filter(None, query.get("symbols", "").split(",")))
        orders = self.brokerage.open_orders if status == "open" else self.brokerage.orders
        if self._is_behind("orders"):
            orders = [self.brokerage.before(order) for order in self.brokerage.orders]
        found = [
            order
            for order in (orders if ascending else reversed(orders))
            if (status == "all" or order.is_open == (status == "open"))
            and (not symbols or order.symbol in symbols)
            and (after is None or order.submitted > after)
            and (until is None or order.submitted < until)
            and query.get("side") in (None, "", order.side)
        ]
        return json_reply([self._order(order) for order in found[:limit]])

    def _get_order(self, request: Request, identity: str) -> Reply:
        return self._read_order(_order_id(identity))

    def _get_order_by_client_id(self, request: Request) -> Reply:
        client_id = request.query.get("client_order_id", "")
        if not client_id:
            raise RefusalError(422, INVALID, "client_order_id is missing")
        return self._read_order(client_id)

    def _read_order(self, key: str) -> Reply:
        order = self.brokerage.order(key)
        return json_reply(self._order(self.brokerage.before(order) if self._is_behind("orders") else order))

    def _delete_orders(self, request: Request) -> Reply:
        return json_reply([self._cancelled(order) for order in self.brokerage.open_orders], 207)

    def _delete_order(self, request: Request, identity: str) -> Reply:
        self.brokerage.request_cancel(_order_id(identity))
        return Reply(204, b"")

    def _cancelled(self, order: Order) -> dict[str, Any]:
        try:
            self.brokerage.request_cancel(order.id)
        except RefusalError as refusal:
            return {"id": order.id, "status": refusal.status, "body": _refused(refusal)}
        return {"id": order.id, "status": 200}

    def _order(self, order: Order) -> dict[str, Any]:
        average = order.filled_avg_price
        return {
            "id": order.id,
            "client_order_id": order.client_order_id,
            "created_at": _time(order.submitted),
            "updated_at": _time(order.updated),
            "submitted_at": _time(order.submitted),
            "filled_at": _time(order.filled),
            "expired_at": _time(order.expired),
            "expires_at": self._expiry(order),
            "canceled_at": _time(order.canceled),
            "failed_at": _time(order.failed),
            "replaced_at": None,
            "replaced_by": None,
            "replaces": None,
            "asset_id": asset_id(order.symbol),
            "symbol": order.symbol,
            "asset_class": "us_equity",
            "notional": None,
            "qty": plain(order.qty),
            "filled_qty": plain(order.filled_qty),
            "filled_avg_price": None if average is None else _ratio(average),
            "order_class": "",
            "order_type": order.type,
            "type": order.type,
            "side": order.side,
            "position_intent": "buy_to_open" if order.side == "buy" else "sell_to_close",
            "time_in_force": "day",
            "limit_price": None if order.limit_price is None else plain(order.limit_price),
            "stop_price": None,
            "status": order.status,
            "extended_hours": order.extended_hours,
            "legs": None,
            "trail_percent": None,
            "trail_price": None,
            "hwm": None,
            "subtag": None,
            "source": None,
            "ratio_qty": None,
        }

    def _expiry(self, order: Order) -> str | None:
        known = self.brokerage.sessions
        return _time(nanoseconds(known.all[known.current_or_next(order.submitted_at)].closes))

    # -- positions ----------------------------------------------------------------------------------------------------

    def _get_positions(self, request: Request) -> Reply:
        books = self.brokerage.books(lagging=self._is_behind("positions"))
        return json_reply([self._position(symbol, book) for symbol, book in sorted(books.items())])

    def _get_position(self, request: Request, asked: str) -> Reply:
        symbol = self._symbol(asked, f"symbol not found: {asked}")
        books = self.brokerage.books(lagging=self._is_behind("positions"))
        if symbol not in books:
            raise RefusalError(404, NOT_FOUND, "position does not exist")
        return json_reply(self._position(symbol, books[symbol]))

    def _delete_position(self, request: Request, asked: str) -> Reply:
        symbol = self._symbol(asked, f"symbol not found: {asked}")
        quantity, percentage = _decimal(request.query, "qty"), _decimal(request.query, "percentage")
        if quantity is not None and percentage is not None:
            raise RefusalError(422, INVALID, "only one of qty or percentage is accepted")
        return json_reply(self._order(self.brokerage.close_position(symbol, quantity, percentage)))

    def _delete_positions(self, request: Request) -> Reply:
        if request.query.get("cancel_orders", "").lower() == "true":
            for order in self.brokerage.open_orders:
                self._cancelled(order)
        return json_reply([self._closed(symbol) for symbol in sorted(self.brokerage.positions)], 207)

    def _closed(self, symbol: str) -> dict[str, Any]:
        try:
            order = self.brokerage.close_position(symbol)
        except RefusalError as refusal:
            return {"symbol": symbol, "status": refusal.status, "body": _refused(refusal)}
        return {"symbol": symbol, "status": 200, "body": self._order(order)}

    def _position(self, symbol: str, book: Book) -> dict[str, Any]:
        price, last = self.brokerage.prices[symbol], self.brokerage.last_prices[symbol]
        value, cost = book.quantity * price, book.running.cost
        overnight = min(book.overnight, book.quantity)
        today = book.quantity - overnight
        entry = book.bought.cost / book.bought.quantity if book.bought.quantity else price
        base = overnight * last + today * entry
        held = self.brokerage.held_for_orders(symbol)
        return {
            "asset_id": asset_id(symbol),
            "symbol": symbol,
            "exchange": "NASDAQ",
            "asset_class": "us_equity",
            "asset_marginable": self.brokerage.multiplier > 1,
            "qty": plain(book.quantity),
            "qty_available": plain(max(book.quantity - held, ZERO)),
            "avg_entry_price": _ratio(cost / book.quantity),
            "side": "long",
            "market_value": plain(value),
            "cost_basis": _ratio(cost),
            "unrealized_pl": _ratio(value - cost),
            "unrealized_plpc": _ratio((value - cost) / cost) if cost else "0",
            "unrealized_intraday_pl": _ratio(value - base),
            "unrealized_intraday_plpc": _ratio((value - base) / base) if base else "0",
            "current_price": plain(price),
            "lastday_price": plain(last),
            "change_today": _ratio(price / last - 1),
        }

    # -- clock, calendar, assets --------------------------------------------------------------------------------------

    def _get_clock(self, request: Request) -> Reply:
        now, known = self.brokerage.now, self.brokerage.sessions
        index = known.current_or_next(now)
        session, open_now = known.all[index], known.is_open(now)
        opens = known.all[index + 1].opens if open_now else session.opens
        times = {"timestamp": now, "next_open": opens, "next_close": session.closes}
        eastern = {name: time.astimezone(NEW_YORK).isoformat() for name, time in times.items()}
        return json_reply({"is_open": open_now, **eastern})

    def _get_calendar(self, request: Request) -> Reply:
        known = self.brokerage.sessions.all
        first = _day(request.query, "start") or known[0].day
        last = _day(request.query, "end") or known[-1].day
        days = []
        for session, following in zip(known, [*known[1:], known[-1]], strict=True):
            if first <= session.day <= last:
                opens, closes = session.opens.astimezone(NEW_YORK), session.closes.astimezone(NEW_YORK)
                days.append(
                    {
                        "date": session.day.isoformat(),
                        "open": f"{opens:%H:%M}",
                        "close": f"{closes:%H:%M}",
                        "session_open": "0400",
                        "session_close": f"{closes + timedelta(hours=4):%H%M}",
                        "settlement_date": following.day.isoformat(),
                    }
                )
        return json_reply(days)

    def _get_asset(self, request: Request, asked: str) -> Reply:
        return json_reply(self._asset(self._symbol(asked, f"asset not found for {asked}")))

    def _get_assets(self, request: Request) -> Reply:
        assets = [self._asset(symbol) for symbol in sorted(self.brokerage.prices)]
        wanted = request.query.get("status")
        return json_reply([asset for asset in assets if wanted in (None, "", "all", asset["status"])])

    def _asset(self, symbol: str) -> dict[str, Any]:
        tradable = symbol not in self.brokerage.untradable
        return {
            "id": asset_id(symbol),
            "class": "us_equity",
            "exchange": "NASDAQ",
            "symbol": symbol,
            "name": f"{symbol} Common Stock",
            "status": "active" if tradable else "inactive",
            "tradable": tradable,
            "marginable": self.brokerage.multiplier > 1,
            "maintenance_margin_requirement": 30,
            "shortable": False,
            "easy_to_borrow": False,
            "fractionable": symbol in self.brokerage.fractionable,
            "attributes": [],
        }

    def _symbol(self, asked: str, words: str) -> str:
        """The symbol that was asked for, or that of the asset's id."""
        for symbol in self.brokerage.prices:
            if asked in (symbol, asset_id(symbol)):
                return symbol
        raise RefusalError(404, NOT_FOUND, words)

    # -- activities ---------------------------------------------------------------------------------------------------

    def _get_activities(self, request: Request, kind: str | None) -> Reply:
        query = request.query
        kinds = _kinds(kind or query.get("activity_types", ""))
        ascending = _choice(query, "direction", ("desc", "asc")) == "asc"
        days = query.get("date", "")[: len("YYYY-MM-DD")]
        if days and (query.get("after") or query.get("until")):
            raise RefusalError(422, INVALID, "date cannot be used with after or until")
        after, until = _instant(query, "after"), _instant(query, "until")
        known = self.brokerage.activities
        places = {activity.id: place for place, activity in enumerate(known)}
        if self._is_behind("activities"):
            known = known[:-1]
        if days:
            size = _count(query, "page_size", len(known), None)
        else:
            size = _count(query, "page_size", self.activity_page_size, self.activity_page_size)
        token = query.get("page_token")
        if token and token not in places:
            raise RefusalError(422, INVALID, "invalid page_token")
        if token:
            known = [one for one in known if (places[one.id] > places[token]) == ascending and one.id != token]
        found = [
            activity
            for activity in (known if ascending else reversed(known))
            if (not kinds or activity.activity_type in kinds)
            and (not days or activity.day.isoformat() == days)
            and (after is None or activity.time > after)
            and (until is None or activity.time < until)
        ]
        return json_reply([self._activity(activity) for activity in found[:size]])

    def _activity(self, activity: Activity) -> dict[str, Any]:
        if activity.activity_type == "FILL":
            return {
                "id": activity.id,
                "activity_type": "FILL",
                "transaction_time": _time(activity.time),
                "type": activity.type,
                "price": plain(activity.price),
                "qty": plain(activity.qty),
                "side": activity.side,
                "symbol": activity.symbol,
                "leaves_qty": plain(activity.leaves_qty),
                "order_id": activity.order_id,
                "cum_qty": plain(activity.cum_qty),
                "order_status": activity.order_status,
            }
        told = {
            "id": activity.id,
            "activity_type": activity.activity_type,
            "date": activity.day.isoformat(),
            "net_amount": plain(activity.net_amount),
            "description": activity.description,
            "status": "executed",
        }
        if activity.symbol is not None:
            told |= {"symbol": activity.symbol, "qty": plain(activity.qty)}
        if activity.per_share_amount is not None:
            told["per_share_amount"] = plain(activity.per_share_amount)
        return told


ROUTES = [
    ("GET", "/account", AlpacaTradingServer._get_account),
    ("GET", "/account/activities(?:/(\\w+))?", AlpacaTradingServer._get_activities),
    ("POST", "/orders", AlpacaTradingServer._post_order),
    ("GET", "/orders", AlpacaTradingServer._get_orders),
    ("GET", "/orders:by_client_order_id", AlpacaTradingServer._get_order_by_client_id),
    ("GET", "/orders/([^/]+)", AlpacaTradingServer._get_order),
    ("DELETE", "/orders", AlpacaTradingServer._delete_orders),
    ("DELETE", "/orders/([^/]+)", AlpacaTradingServer._delete_order),
    ("GET", "/positions", AlpacaTradingServer._get_positions),
    ("GET", "/positions/([^/]+)", AlpacaTradingServer._get_position),
    ("DELETE", "/positions", AlpacaTradingServer._delete_positions),
    ("DELETE", "/positions/([^/]+)", AlpacaTradingServer._delete_position),
    ("GET", "/clock", AlpacaTradingServer._get_clock),
    ("GET", "/calendar", AlpacaTradingServer._get_calendar),
    ("GET", "/assets", AlpacaTradingServer._get_assets),
    ("GET", "/assets/([^/]+)", AlpacaTradingServer._get_asset),
]


def _refused(refusal: RefusalError) -> dict[str, Any]:
    return {"code": refusal.code, "message": refusal.message, **refusal.more}


def _order_id(identity: str) -> str:
    """An id of the brokerage's; a client's is not one: https://github.com/alpacahq/Alpaca-API/issues/135."""
    try:
        return str(UUID(identity))
    except ValueError as error:
        raise RefusalError(422, INVALID, "order_id is missing") from error


def _time(time: int | None) -> str | None:
    """RFC 3339 with nanoseconds, without zeros at their end, as Go writes it."""
    if time is None:
        return None
    fraction = f"{time % 10**9:09d}".rstrip("0")
    return f"{moment(time):%Y-%m-%dT%H:%M:%S}{'.' if fraction else ''}{fraction}Z"


def _ratio(number: Decimal) -> str:
    return plain(number.quantize(RATIO))


def _choice(query: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """One of the words, the first by default."""
    given = query.get(name) or allowed[0]
    if given not in allowed:
        raise RefusalError(422, INVALID, f"invalid {name}: {given}")
    return given


def _count(query: Mapping[str, str], name: str, default: int, most: int | None) -> int:
    given = query.get(name)
    if not given:
        return default
    if not given.isdigit() or int(given) < 1 or (most is not None and int(given) > most):
        raise RefusalError(422, INVALID, f"invalid {name}: {given}")
    return int(given)


def _decimal(query: Mapping[str, str], name: str) -> Decimal | None:
    given = query.get(name)
    if not given:
        return None
    if not re.fullmatch(r"\d+(\.\d{1,9})?", given):
        raise RefusalError(422, INVALID, f"invalid {name}: {given}")
    return Decimal(given)


def _day(query: Mapping[str, str], name: str) -> date | None:
    given = query.get(name, "")[: len("YYYY-MM-DD")]
    try:
        return date.fromisoformat(given) if given else None
    except ValueError as error:
        raise RefusalError(422, INVALID, f"invalid {name}: {given}") from error


def _instant(query: Mapping[str, str], name: str) -> int | None:
    """A time to the nanosecond; a date is its midnight in UTC."""
    given = query.get(name)
    if not given:
        return None
    parts = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d))?", given)
    try:
        if parts is None:
            raise ValueError(given)
        day, clock, fraction, zone = parts.groups()
        zone = "+00:00" if zone in (None, "Z") else zone
        seconds = datetime.fromisoformat(f"{day}T{clock or '00:00:00'}{zone}").astimezone(UTC)
    except ValueError as error:
        raise RefusalError(422, INVALID, f"invalid {name}: {given}") from error
    return nanoseconds(seconds) + int((fraction or "").ljust(9, "0"))


def _kinds(given: str) -> set[str]:
    """Types of activities; TRANS stands for cash in and out."""
    kinds = set(filter(None, given.split(",")))
    if "TRANS" in kinds:
        kinds = kinds - {"TRANS"} | {"CSD", "CSW"}
    for kind in sorted(kinds - set(ACTIVITY_TYPES.split())):
        raise RefusalError(422, INVALID, f"invalid activity type: {kind}")
    return kinds
