"""Alpaca's paper trading as a broker."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import ZoneInfo

import pandas as pd
import tenacity

from trading_dagster.endpoints import paper_endpoint
from trading_dagster.execution.accounting import MarketSession
from trading_dagster.execution.orders import Order, OrderState, Side
from trading_dagster.resources.alpaca_http import leave_retries_to_us, wait_asked_for, without_keys
from trading_dagster.resources.broker import (
    Activity,
    BrokerAccount,
    BrokerError,
    BrokerOrder,
    BrokerPosition,
    DuplicateOrderError,
    OrderRefusedError,
    ThrottledError,
    UnreachableError,
)

if TYPE_CHECKING:
    from alpaca.common.exceptions import APIError
    from alpaca.trading.client import TradingClient

T = TypeVar("T")

NEW_YORK = ZoneInfo("America/New_York")
ORDERS_PAGE, ACTIVITIES_PAGE = 500, 100
"""Most that Alpaca gives at once."""

WHOLE, FRACTION = Decimal(1), Decimal("0.000001")
"""Steps of quantities: Alpaca takes nine decimals; six are a hundredth of a cent of a share of 100 dollars."""

STATES = {
    **dict.fromkeys(
        (
            "new", "accepted", "pending_new", "accepted_for_bidding", "pending_cancel", "pending_replace",
            "pending_review", "held", "stopped", "suspended", "calculated", "done_for_day",
        ),
        OrderState.ACCEPTED,
    ),
    "partially_filled": OrderState.PARTIALLY_FILLED,
    "filled": OrderState.FILLED,
    "canceled": OrderState.CANCELLED,
    "replaced": OrderState.CANCELLED,  # another order took its place, which is not ours
    "expired": OrderState.EXPIRED,
    "rejected": OrderState.REJECTED,
}  # fmt: skip
"""Alpaca's words for an order's status: https://docs.alpaca.markets/docs/orders-at-alpaca"""

TRANSFERS = {"CSD", "CSW", "TRANS", "JNL", "JNLC", "ACATC"}
SPLITS = {"SPLIT", "SSP"}
INCOME = {"DIV": "dividend", "FEE": "fee", "INT": "interest"}
"""Alpaca's types of activities: https://docs.alpaca.markets/reference/getaccountactivities"""


class AlpacaBroker:
    """An account of Alpaca's paper trading.

    Parameters
    ----------
    api_key, secret_key : str
    endpoint : str
        Alpaca's paper host, or a host of this machine.
    seconds : float
        Time for reading one thing, attempts and waits included.
    request_seconds : float
        Time-out of one request, between two bytes.
    wait : callable
        How to let seconds pass.

    Raises
    ------
    ValueError
        If the endpoint is any other.
    """

    name = "alpaca"
    real = True

    def __init__(
        self,
        api_key: str,
        secret_key: str,
        endpoint: str,
        *,
        seconds: float = 60.0,
        request_seconds: float = 15.0,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoint = paper_endpoint(endpoint)
        self._keys = (api_key, secret_key)
        self._seconds, self._request_seconds, self._wait = seconds, request_seconds, wait
        self._before_sending: Callable[[], None] = _nothing

    def __repr__(self) -> str:
        return f"AlpacaBroker({self._endpoint})"

    # -- time ---------------------------------------------------------------------------------------------------------

    def settle(self, market: MarketSession) -> None:
        """Alpaca's time passes by itself."""

    def newest_session(self) -> date:
        """Newest session that has closed, by Alpaca's clock and calendar."""
        now = self._read("/clock", None, lambda clock: _moment(clock["timestamp"]))
        today = now.astimezone(NEW_YORK).date()
        # no exchange was closed for longer since 1933
        closes = self._read(
            "/calendar",
            {"start": str(today - timedelta(days=21)), "end": str(today)},
            lambda days: {date.fromisoformat(day["date"]): _new_york(day["date"], day["close"]) for day in days},
        )
        closed = [day for day, close in closes.items() if close <= now]
        if not closed:
            raise BrokerError(f"Alpaca's calendar knows no session in the three weeks before {now}")
        return max(closed)

    def market_is_open(self) -> bool:
        """Whether a session is under way, by Alpaca's clock."""
        return self._read("/clock", None, lambda clock: bool(clock["is_open"]))

    # -- reading ------------------------------------------------------------------------------------------------------

    def quantity_steps(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Fractions for what Alpaca calls fractionable, else whole shares; without what cannot be traded."""
        found = {symbol: self._find(f"/assets/{symbol}", None, _quantity_step) for symbol in symbols}
        return {symbol: step for symbol, step in found.items() if step is not None}

    def account(self) -> BrokerAccount:
        """Cash and positions now."""
        cash, equity = self._read("/account", None, _money)
        positions = self._read("/positions", None, lambda records: [_position(record) for record in records])
        return BrokerAccount(cash, equity, {position.symbol: position for position in positions})

    def order(self, client_order_id: str) -> BrokerOrder | None:
        """Return the order of that identity, None if it never came."""
        return self._find("/orders:by_client_order_id", {"client_order_id": client_order_id}, _order)

    def order_by_broker_id(self, broker_order_id: str) -> BrokerOrder:
        """Return the order that Alpaca calls so."""
        return self._read(f"/orders/{broker_order_id}", None, _order)

    def orders_since(self, moment: datetime | None) -> Iterator[BrokerOrder]:
        """Orders submitted after a moment, or all, oldest first."""
        after, seen = moment or datetime(2000, 1, 1, tzinfo=UTC), set[str]()
        while True:
            page = self._read(
                "/orders", {"status": "all", "direction": "asc", "limit": ORDERS_PAGE, "after": _text(after)}, _orders
            )
            new = [order for order in page if order.broker_order_id not in seen]
            yield from new
            if len(page) < ORDERS_PAGE:
                return
            if not new:
                raise BrokerError(f"more than {ORDERS_PAGE} orders have the time {after}; Alpaca cannot page past them")
            seen |= {order.broker_order_id for order in new}
            # times come with nanoseconds and are asked for in microseconds: the last order may come again
            after = page[-1].submitted_at - timedelta(microseconds=1)

    def open_orders(self) -> list[BrokerOrder]:
        """Orders that may still be filled, whoever sent them."""
        page = self._read("/orders", {"status": "open", "direction": "asc", "limit": ORDERS_PAGE}, _orders)
        if len(page) == ORDERS_PAGE:
            raise BrokerError(f"there are {ORDERS_PAGE} open orders or more, more than Alpaca lists; cancel some")
        return page

    def activities_since(self, moment: datetime | None) -> Iterator[Activity]:
        """Activities after a moment, or all, oldest first."""
        asked: dict[str, Any] = {"direction": "asc", "page_size": ACTIVITIES_PAGE}
        if moment is not None:
            asked["after"] = _text(moment)
        while True:
            page = self._read("/account/activities", asked, _activities)
            yield from (activity for activity, executed in page if executed)
            if len(page) < ACTIVITIES_PAGE:
                return
            asked["page_token"] = page[-1][0].activity_id

    # -- writing ------------------------------------------------------------------------------------------------------

    def submit(self, order: Order, before_sending: Callable[[], None]) -> BrokerOrder:
        """Send an order for the day: at market, or with its limit.

        Once only: whether a lost order may be sent again is for the caller to say.
        """
        payload: dict[str, Any] = {
            "symbol": order.symbol,
            "qty": format(order.quantity, "f"),
            "side": order.side.value,
            "type": "market" if order.limit_price is None else "limit",
            "time_in_force": "day",
            "client_order_id": order.client_order_id,
        }
        if order.limit_price is not None:
            payload["limit_price"] = format(order.limit_price, "f")
        self._before_sending = before_sending
        try:
            return self._request("POST", "/orders", payload, _order)
        finally:
            self._before_sending = _nothing

    def cancel(self, broker_order_id: str) -> None:
        """Ask to cancel an order; one that has ended is left as it is."""
        # 404: there is none; 422: it has ended. What it is now, the next look at it says
        with suppress(_NotFoundError, OrderRefusedError):
            self._retried(lambda: self._request("DELETE", f"/orders/{broker_order_id}", None, lambda _: None))

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    def _read(self, path: str, asked: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        """Ask until there is an answer that can be read: asking changes nothing."""
        return self._retried(lambda: self._request("GET", path, asked, read))

    def _find(self, path: str, asked: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T | None:
        try:
            return self._read(path, asked, read)
        except _NotFoundError:
            return None

    def _retried(self, request: Callable[[], T]) -> T:
        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, ThrottledError) else None
            return max(asked or 0.0, tenacity.wait_random_exponential(multiplier=0.5, max=8)(state))

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((ThrottledError, UnreachableError)),
            stop=tenacity.stop_before_delay(self._seconds) | tenacity.stop_after_attempt(8),
            wait=wait,
            sleep=self._wait,
            reraise=True,
        )(request)

    def _request(self, method: str, path: str, data: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        """Ask once, and read the answer."""
        from alpaca.common.exceptions import APIError
        from requests.exceptions import RequestException

        try:
            return read(self._client._request(method, path, dict(data) if data is not None else None))
        except APIError as error:
            # none of these is `from error`: it carries the request, and with it the keys
            raise self._http_error(path, error) from None
        except RequestException as error:
            told = without_keys(f"{type(error).__name__}: {error}", self._keys)
            raise UnreachableError(f"Alpaca's {path} did not answer: {told}") from None
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            told = without_keys(f"{type(error).__name__}: {error}", self._keys)
            raise UnreachableError(f"Alpaca's answer of {path} cannot be read: {told}") from None

    @functools.cached_property
    def _client(self) -> TradingClient:
        from alpaca.trading.client import TradingClient

        client = TradingClient(*self._keys, paper=True, url_override=self._endpoint, raw_data=True)
        leave_retries_to_us(client, self._request_seconds, lambda: self._before_sending())
        return client

    def _http_error(self, path: str, error: APIError) -> BrokerError:
        response = error.response
        words = " ".join(without_keys(response.text, self._keys).split())[:300] or "no text"
        told = f"Alpaca answered {response.status_code} to {path}: {words}"
        if response.status_code == 429:
            return ThrottledError(told, wait_asked_for(response))
        if response.status_code in (408, 425) or response.status_code >= 500:
            return UnreachableError(told)
        if response.status_code == 404 and path != "/orders":
            return _NotFoundError(told)
        if "client_order_id must be unique" in words:
            # by its words: the code was seen to be 40010001, and 42210000
            return DuplicateOrderError(told)
        if path != "/orders" and response.status_code in (401, 403):
            return BrokerError(f"{told}. Correct ALPACA_API_KEY and ALPACA_SECRET_KEY: those of a paper account")
        return OrderRefusedError(told)


class _NotFoundError(BrokerError):
    """There is no such thing at Alpaca."""


def _nothing() -> None:
    """Before requests that may go out at any time."""


def _money(record: Mapping[str, Any]) -> tuple[Decimal, Decimal]:
    """Cash and equity, of an account that may trade."""
    blocked = [name for name in ("trading_blocked", "account_blocked") if record.get(name)]
    if blocked or record["status"] != "ACTIVE":
        raise BrokerError(
            f"Alpaca's account is {', '.join([record['status'], *blocked])}; look at it on Alpaca's website"
        )
    return Decimal(record["cash"]), Decimal(record["equity"])


def _quantity_step(record: Mapping[str, Any]) -> Decimal | None:
    if not record["tradable"] or record["status"] != "active":
        return None
    return FRACTION if record["fractionable"] else WHOLE


def _orders(records: Sequence[Mapping[str, Any]]) -> list[BrokerOrder]:
    return [_order(record) for record in records]


def _activities(records: Sequence[Mapping[str, Any]]) -> list[tuple[Activity, bool]]:
    """Activities, with whether each has come to pass."""
    return [(_activity(record), record.get("status", "executed") == "executed") for record in records]


def _order(record: Mapping[str, Any]) -> BrokerOrder:
    filled, state = Decimal(record["filled_qty"]), STATES[record["status"]]
    if state is OrderState.ACCEPTED and filled:
        state = OrderState.PARTIALLY_FILLED
    return BrokerOrder(
        client_order_id=record["client_order_id"],
        broker_order_id=record["id"],
        symbol=record["symbol"],
        side=Side(record["side"]),
        quantity=_plain(record["qty"] or 0),
        limit_price=None if record.get("limit_price") is None else _plain(record["limit_price"]),
        state=state,
        filled_quantity=_plain(filled),
        submitted_at=_moment(record["submitted_at"]),
        note=_note(record),
    )


def _note(record: Mapping[str, Any]) -> str:
    """Why an order ended otherwise than filled."""
    if record["status"] == "rejected":
        return str(record.get("reject_reason") or "rejected by Alpaca")
    return f"replaced by {record.get('replaced_by')}" if record["status"] == "replaced" else ""


def _position(record: Mapping[str, Any]) -> BrokerPosition:
    quantity = _plain(record["qty"])
    return BrokerPosition(
        symbol=record["symbol"],
        quantity=-abs(quantity) if record["side"] == "short" else quantity,
        average_price=Decimal(record["avg_entry_price"]),
        price=Decimal(record["current_price"] or record["lastday_price"]),
        unrealised=Decimal(record["unrealized_pl"] or 0),
    )


def _activity(record: Mapping[str, Any]) -> Activity:
    kind, symbol = record["activity_type"], record.get("symbol") or ""
    if kind == "FILL":
        at = _moment(record["transaction_time"])
        return Activity(
            activity_id=record["id"],
            kind="fill",
            at=at,
            session=at.astimezone(NEW_YORK).date(),
            symbol=symbol,
            side=Side(record["side"]),
            quantity=_plain(record["qty"]),
            price=_plain(record["price"]),
            broker_order_id=record["order_id"],
        )
    day = date.fromisoformat(record["date"][:10])
    return Activity(
        activity_id=record["id"],
        kind="transfer" if kind in TRANSFERS else "split" if kind in SPLITS else INCOME.get(kind, kind.lower()),
        at=_new_york(str(day), "00:00"),
        session=day,
        symbol=symbol,
        # of a dividend, Alpaca names the shares that it was paid for; only a split changes them
        quantity=_plain(record.get("qty") or 0) if kind in SPLITS else Decimal(0),
        amount=_plain(record.get("net_amount") or 0),
    )


def _plain(value: str | Decimal | int) -> Decimal:
    """A decimal without trailing zeros, so that 10 and 10.00 are one payload."""
    return Decimal(format(Decimal(value).normalize(), "f"))


def _moment(text: str) -> datetime:
    found: datetime = pd.Timestamp(text).tz_convert(UTC).floor("us").to_pydatetime()
    return found


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _new_york(day: str, clock: str) -> datetime:
    return datetime.fromisoformat(f"{day} {clock}").replace(tzinfo=NEW_YORK)
