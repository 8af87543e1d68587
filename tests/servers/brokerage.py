"""A brokerage account in the way of Alpaca, in Decimals, without HTTP.

Belongs here: the account, orders and what refuses them, fills, activities, and what a test does to them. Does not
belong here: paths, JSON, and how a client reads them (`alpaca_trading`); the arithmetic of a position's cost
(`cost_basis`).

The account is never short: what would make it so is refused, or raised in the test's face. Time stands still until the
test moves `now`; each event is a microsecond and a nanosecond after the one before, so that no two have the same time,
and a client that keeps microseconds loses something, as it does with Alpaca's nanoseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from fractions import Fraction
from random import Random
from threading import RLock
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5
from zoneinfo import ZoneInfo

from tests.servers.cost_basis import SHARE, ZERO, Book
from tests.servers.sessions import Sessions, sessions

NEW_YORK = ZoneInfo("America/New_York")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TICK = 1_001
CENT, MICRO = Decimal("0.01"), Decimal("1e-6")
OPEN = frozenset({"new", "accepted", "partially_filled", "pending_cancel"})
UNPROCESSABLE, FORBIDDEN, INVALID, NOT_FOUND = 42210000, 40310000, 40010001, 40410000


class RefusalError(Exception):
    """What Alpaca answers instead of doing it: the HTTP status, its own code, its words, and further fields.

    Which words come with which code was seen in public clients' records of Alpaca's answers, and in
    https://docs.alpaca.markets/docs/orders-at-alpaca (sub-penny) and
    https://alpaca.markets/learn/how-to-fix-common-trading-api-errors-at-alpaca.
    """

    def __init__(self, status: int, code: int, message: str, **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message, more


@dataclass(frozen=True)
class Order:
    """An order as it is at one time. Times are nanoseconds since 1970, and as datetimes under `..._at`."""

    id: str
    client_order_id: str
    symbol: str
    side: str
    qty: Decimal
    type: str
    limit_price: Decimal | None
    extended_hours: bool
    status: str
    submitted: int
    updated: int
    filled_qty: Decimal = ZERO
    filled_cost: Decimal = ZERO
    filled: int | None = None
    expired: int | None = None
    canceled: int | None = None
    failed: int | None = None
    cancel_due: int | None = None

    @property
    def leaves_qty(self) -> Decimal:
        return self.qty - self.filled_qty

    @property
    def filled_avg_price(self) -> Decimal | None:
        return self.filled_cost / self.filled_qty if self.filled_qty else None

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def submitted_at(self) -> datetime:
        return moment(self.submitted)

    @property
    def updated_at(self) -> datetime:
        return moment(self.updated)

    def accepts(self, price: Decimal) -> bool:
        """Whether its limit allows the price."""
        if self.limit_price is None:
            return True
        return price <= self.limit_price if self.side == "buy" else price >= self.limit_price


@dataclass(frozen=True)
class Activity:
    """Something that changed the account; a FILL has the first group of fields, any other the second."""

    id: str
    activity_type: str
    time: int
    day: date
    symbol: str | None = None
    qty: Decimal | None = None

    type: str | None = None
    side: str | None = None
    price: Decimal | None = None
    cum_qty: Decimal | None = None
    leaves_qty: Decimal | None = None
    order_id: str | None = None
    order_status: str | None = None

    net_amount: Decimal = ZERO
    per_share_amount: Decimal | None = None
    description: str = ""


@dataclass(frozen=True)
class Submission:
    """A request for an order that reached the brokerage: it became `order`, or was refused."""

    time: datetime
    request: dict[str, Any]
    order: Order | None
    refusal: RefusalError | None

    @property
    def client_order_id(self) -> str | None:
        return self.request.get("client_order_id")

    @property
    def accepted(self) -> bool:
        return self.refusal is None


class Brokerage:
    """One account. Thread-safe.

    Parameters
    ----------
    prices : mapping of str to Decimal or str
        What is traded, and at which price.
    cash : Decimal or str
        The first deposit, of which there is no activity.
    now : datetime
        With a time zone.
    calendar : str
        An `exchange_calendars` name.
    fractionable : collection of str, optional
        Symbols that are traded in parts; all of them when not given.
    multiplier : int
        1 for a cash account, 2 for a margin account.

    Attributes
    ----------
    cancel_delay : timedelta or None
        From the request to cancel until the order is canceled, on the clock of `now`; None: until `cancel`.
    untradable : set of str
        Symbols that are known and not tradable.
    client_id_length : int
        128, as in the reference of POST /v2/orders; in older documentation it was 48.
    duplicate_code : int
        Alpaca's code of a client's id that was used before; 40010001 was seen, and 42210000 too.
    """

    def __init__(
        self,
        prices: Mapping[str, Decimal | str],
        *,
        cash: Decimal | str = "100000",
        now: datetime,
        calendar: str = "XNYS",
        fractionable: Collection[str] | None = None,
        multiplier: int = 1,
    ) -> None:
        self.lock = RLock()
        self.calendar, self.multiplier = calendar, multiplier
        self.fractionable = set(prices if fractionable is None else fractionable)
        self.untradable: set[str] = set()
        self.cancel_delay: timedelta | None = timedelta(0)
        self.client_id_length, self.duplicate_code = 128, INVALID
        self._random = Random(1)
        self._prices = {symbol: Decimal(price) for symbol, price in prices.items()}
        self._last_prices = dict(self._prices)
        self._cash = self._net_deposits = self._last_equity = Decimal(cash)
        self._books: dict[str, Book] = {}
        self._books_before: dict[str, Book] = {}
        self._orders: dict[str, Order] = {}
        self._before: dict[str, Order] = {}
        self._open: dict[str, None] = {}
        self._by_client_id: dict[str, str] = {}
        self._activities: list[Activity] = []
        self._submissions: list[Submission] = []
        self._now = self.opened = now.astimezone(UTC)
        self._next = nanoseconds(self._now)

    # -- time ---------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        return self._now

    @now.setter
    def now(self, time: datetime) -> None:
        with self.lock:
            forward = time >= self._now
            self._now = time.astimezone(UTC)
            self._next = max(self._next, nanoseconds(self._now)) if forward else nanoseconds(self._now)
            self._settle_cancels()

    def advance(self, by: timedelta) -> None:
        """Let time pass."""
        with self.lock:
            self.now = self._now + by

    def _stamp(self) -> int:
        stamp, self._next = self._next, self._next + TICK
        return stamp

    @property
    def sessions(self) -> Sessions:
        return sessions(self.calendar)

    @property
    def is_open(self) -> bool:
        """Whether the exchange is."""
        return self.sessions.is_open(self._now)

    @property
    def today(self) -> date:
        """In New York."""
        return self._now.astimezone(NEW_YORK).date()

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def cash(self) -> Decimal:
        return self._cash

    @property
    def net_deposits(self) -> Decimal:
        """The first deposit, and every one since, less what was withdrawn."""
        return self._net_deposits

    @property
    def last_equity(self) -> Decimal:
        """At the last end of a day."""
        return self._last_equity

    @property
    def market_value(self) -> Decimal:
        with self.lock:
            return sum((book.quantity * self._prices[name] for name, book in self._books.items()), ZERO)

    @property
    def equity(self) -> Decimal:
        with self.lock:
            return self._cash + self.market_value

    @property
    def reserved(self) -> Decimal:
        """What the open orders to buy would cost, at their limits or at the current prices."""
        with self.lock:
            return sum((self._worth(one, one.leaves_qty) for one in self.open_orders if one.side == "buy"), ZERO)

    @property
    def buying_power(self) -> Decimal:
        with self.lock:
            held = self.market_value
            return max((self._cash + held) * self.multiplier - held - self.reserved, ZERO)

    @property
    def realised(self) -> Decimal:
        """Gain of all sales by compressed FIFO, without dividends and fees."""
        with self.lock:
            return sum((book.realised for book in self._books.values()), ZERO)

    @property
    def unrealised(self) -> Decimal:
        """By compressed FIFO; by Alpaca's own cost basis only once the day is over."""
        with self.lock:
            return self.market_value - sum((book.cost for book in self._books.values()), ZERO)

    @property
    def positions(self) -> dict[str, Decimal]:
        with self.lock:
            return {symbol: book.quantity for symbol, book in self._books.items() if book.quantity}

    @property
    def orders(self) -> list[Order]:
        """In the order of their submission."""
        with self.lock:
            return list(self._orders.values())

    @property
    def open_orders(self) -> list[Order]:
        with self.lock:
            return [self._orders[identity] for identity in self._open]

    @property
    def activities(self) -> list[Activity]:
        """Oldest first."""
        with self.lock:
            return list(self._activities)

    @property
    def submissions(self) -> list[Submission]:
        """Every request for an order that arrived, in the order of arrival."""
        with self.lock:
            return list(self._submissions)

    @property
    def prices(self) -> dict[str, Decimal]:
        with self.lock:
            return dict(self._prices)

    @property
    def last_prices(self) -> dict[str, Decimal]:
        """At the last end of a day."""
        with self.lock:
            return dict(self._last_prices)

    def books(self, *, lagging: bool = False) -> dict[str, Book]:
        """Positions with their cost; when lagging, as they were before their latest change."""
        with self.lock:
            books = self._books_before if lagging else self._books
            return {symbol: book for symbol, book in books.items() if book.quantity}

    def order(self, key: str) -> Order:
        """The order with that id, or that client's id."""
        with self.lock:
            identity = key if key in self._orders else self._by_client_id.get(key)
            if identity is None:
                raise RefusalError(404, NOT_FOUND, f"order not found for {key}")
            return self._orders[identity]

    def before(self, order: Order) -> Order:
        """The order as it was before its latest change, if it changed."""
        with self.lock:
            return self._before.get(order.id, order)

    def held_for_orders(self, symbol: str) -> Decimal:
        """Shares that open orders to sell may take."""
        with self.lock:
            return sum((o.leaves_qty for o in self.open_orders if o.symbol == symbol and o.side == "sell"), ZERO)

    def available(self, symbol: str) -> Decimal:
        with self.lock:
            return max(self._books.get(symbol, Book()).quantity - self.held_for_orders(symbol), ZERO)

    # -- what a client asks for ---------------------------------------------------------------------------------------

    def submit(self, request: Mapping[str, Any]) -> Order:
        """Take an order as POST /v2/orders describes it, or raise a `RefusalError`."""
        with self.lock:
            try:
                order = self._place(request)
            except RefusalError as refusal:
                self._submissions.append(Submission(self._now, dict(request), None, refusal))
                raise
            self._submissions.append(Submission(self._now, dict(request), order, None))
            return order

    def request_cancel(self, key: str) -> Order:
        """Cancel at once, or after `cancel_delay`."""
        with self.lock:
            order = self.order(key)
            if not order.is_open or order.status == "pending_cancel":
                raise RefusalError(422, UNPROCESSABLE, f'order is already in "{order.status}" state')
            if self.cancel_delay == timedelta(0):
                return self._change(order, status="canceled", canceled=self._next)
            due = None if self.cancel_delay is None else nanoseconds(self._now + self.cancel_delay)
            return self._change(order, status="pending_cancel", cancel_due=due)

    def close_position(self, symbol: str, quantity: Decimal | None = None, percentage: Decimal | None = None) -> Order:
        """Sell a position at the market, or part of it."""
        with self.lock:
            held = self._books.get(symbol, Book()).quantity
            if not held:
                raise RefusalError(404, NOT_FOUND, "position does not exist")
            if percentage is not None:
                # "Would only sell fractional if position is originally fractional", the reference of the path says
                unit = Decimal(1) if held == held.to_integral_value() else SHARE
                quantity = (held * percentage / 100).quantize(unit, ROUND_DOWN)
            quantity = held if quantity is None else quantity
            return self._place({"symbol": symbol, "qty": quantity, "side": "sell", "type": "market"})

    def _place(self, request: Mapping[str, Any], *, by_hand: bool = False) -> Order:
        symbol, side, kind, quantity, limit, client_id = self._read(request)
        if client_id in self._by_client_id:
            # of any order ever, also a cancelled one: https://github.com/alpacahq/alpaca-py/issues/260
            raise RefusalError(422, self.duplicate_code, "client_order_id must be unique")
        now = self._next
        order = Order(
            str(self._uuid()), client_id, symbol, side, quantity, kind, limit, bool(request.get("extended_hours")),
            "new", now, now,
        )  # fmt: skip
        if not by_hand:
            self._check_wash(order)
        if side == "sell":
            self._check_shares(order)
        elif not by_hand and (worth := self._worth(order, quantity)) > self.buying_power:
            more = {"buying_power": plain(self.buying_power), "cost_basis": plain(worth)}
            raise RefusalError(403, FORBIDDEN, "insufficient buying power", **more)
        if not by_hand and not self.is_open:
            order = replace(order, status="accepted")
        self._stamp()
        self._orders[order.id] = order
        self._open[order.id] = None
        self._by_client_id[client_id] = order.id
        return order

    def _read(self, request: Mapping[str, Any]) -> tuple[str, str, str, Decimal, Decimal | None, str]:
        """What the request says, or the refusal of what it says wrongly."""
        if request.get("notional") is not None or request.get("order_class") not in (None, "", "simple"):
            raise RefusalError(422, INVALID, "only simple orders for a quantity are served here")
        quantity = self._quantity(request.get("qty"))
        side, kind = request.get("side"), request.get("type")
        words = {
            "invalid side": side in ("buy", "sell"),
            "invalid order type": kind in ("market", "limit"),
            "invalid time_in_force": request.get("time_in_force", "day") == "day",
        }
        for wrong in (word for word, right in words.items() if not right):
            raise RefusalError(422, INVALID, wrong)
        client_id = request.get("client_order_id") or str(self._uuid())
        if len(client_id) > self.client_id_length:
            length = f"{self.client_id_length} characters"
            raise RefusalError(422, INVALID, f"client_order_id must be no more than {length}")
        limit = self._limit(kind, request.get("limit_price"))
        symbol = str(request.get("symbol"))
        if symbol not in self._prices:
            raise RefusalError(422, UNPROCESSABLE, f'asset "{symbol}" not found')
        if symbol in self.untradable:
            raise RefusalError(422, UNPROCESSABLE, f'asset "{symbol}" is not tradable')
        if _decimals(quantity) and symbol not in self.fractionable:
            raise RefusalError(403, FORBIDDEN, f'asset "{symbol}" is not fractionable')
        return symbol, side, kind, quantity, limit, client_id

    @staticmethod
    def _quantity(given: Any) -> Decimal:
        if given is None:
            raise RefusalError(422, INVALID, "qty or notional is required")
        quantity = _number(given, "qty")
        if quantity <= 0:
            raise RefusalError(422, INVALID, "qty must be > 0")
        if _decimals(quantity) > 9:
            raise RefusalError(422, INVALID, "invalid qty: at most 9 decimal places")
        return quantity

    @staticmethod
    def _limit(kind: str, given: Any) -> Decimal | None:
        if kind == "market":
            if given is not None:
                raise RefusalError(422, INVALID, "market orders require no limit price")
            return None
        if given is None:
            raise RefusalError(422, INVALID, "limit orders require a limit price")
        limit = _number(given, "limit_price")
        if limit <= 0:
            raise RefusalError(422, INVALID, "limit price must be > 0")
        if _decimals(limit) > (2 if limit >= 1 else 4):
            words = f"invalid limit_price {given}. sub-penny increment does not fulfill minimum pricing criteria"
            raise RefusalError(422, UNPROCESSABLE, words)
        return limit

    def _check_wash(self, order: Order) -> None:
        for other in self.open_orders:
            if other.symbol == order.symbol and other.side != order.side:
                existing = "limit" if other.type == "limit" else "market/stop"
                raise RefusalError(
                    403,
                    FORBIDDEN,
                    "potential wash trade detected. use complex orders",
                    existing_order_id=other.id,
                    reject_reason=f"opposite side {existing} order exists",
                )

    def _check_shares(self, order: Order) -> None:
        held, available = self._books.get(order.symbol, Book()).quantity, self.available(order.symbol)
        if order.qty > available:
            words = f"(requested: {plain(order.qty)}, available: {plain(available)})"
            raise RefusalError(
                403,
                FORBIDDEN,
                f"insufficient qty available for order {words}",
                available=plain(available),
                existing_qty=plain(held),
                held_for_orders=plain(self.held_for_orders(order.symbol)),
                symbol=order.symbol,
            )

    def _worth(self, order: Order, quantity: Decimal) -> Decimal:
        return quantity * (self._prices[order.symbol] if order.limit_price is None else order.limit_price)

    # -- what a test does to it ---------------------------------------------------------------------------------------

    def set_price(self, symbol: str, price: Decimal | str) -> None:
        """Move a price, or list a new symbol."""
        with self.lock:
            if symbol not in self._prices:
                self._last_prices[symbol] = Decimal(price)
                self.fractionable.add(symbol)
            self._prices[symbol] = Decimal(price)

    def fill(self, key: str, quantity: Decimal | str | None = None, price: Decimal | str | None = None) -> Order:
        """Fill an open order: the rest of it, or a part, at the current price or another one.

        An order whose cancellation is pending may still be filled, as it may be at Alpaca.

        Raises
        ------
        ValueError
            If the order is not open, or not for so much, or its limit forbids the price, or the shares are not there.
        """
        with self.lock:
            order = self._find(key)
            quantity = order.leaves_qty if quantity is None else Decimal(quantity)
            price = self._prices[order.symbol] if price is None else Decimal(price)
            if not 0 < quantity <= order.leaves_qty:
                raise ValueError(f"{quantity} of the {order.leaves_qty} that are left of {order}")
            if not order.accepts(price):
                raise ValueError(f"{price} is beyond the limit of {order}")
            book = self._books.get(order.symbol, Book())
            if order.side == "sell" and quantity > book.quantity:
                raise ValueError(f"there are {book.quantity} shares for {order}")
            self._keep(order.symbol, book.buy(quantity, price) if order.side == "buy" else book.sell(quantity, price))
            self._cash += quantity * price * (-1 if order.side == "buy" else 1)
            done = quantity == order.leaves_qty
            status = "filled" if done else "pending_cancel" if order.status == "pending_cancel" else "partially_filled"
            order = self._change(
                order,
                status=status,
                filled_qty=order.filled_qty + quantity,
                filled_cost=order.filled_cost + quantity * price,
                filled=self._next if done else None,
            )
            self._note(
                "FILL",
                symbol=order.symbol,
                qty=quantity,
                type="fill" if done else "partial_fill",
                side=order.side,
                price=price,
                cum_qty=order.filled_qty,
                leaves_qty=order.leaves_qty,
                order_id=order.id,
                order_status="filled" if done else "partially_filled",
            )
            return order

    def trade_open(self, prices: Mapping[str, Decimal | str] | None = None, parts: int = 1) -> list[Order]:
        """Move prices, then fill every open order that they allow: sales first, whatever the cash, each in parts.

        Orders whose cancellation is pending are filled too: to cancel is to ask.
        """
        with self.lock:
            for symbol, price in (prices or {}).items():
                self.set_price(symbol, price)
            filled = []
            for order in sorted(self.open_orders, key=lambda order: order.side == "buy"):
                if order.accepts(self._prices[order.symbol]):
                    for part in _parts(order.leaves_qty, parts):
                        order = self.fill(order.id, part)
                    filled.append(order)
            return filled

    def end_of_day(self) -> None:
        """Expire what is open, and count positions by compressed FIFO from now on. `now` stays as it is."""
        with self.lock:
            for order in self.open_orders:
                if order.status == "pending_cancel":
                    self._change(order, status="canceled", canceled=self._next)
                else:
                    self._change(order, status="expired", expired=self._next)
            self._books = {symbol: book.end_of_day() for symbol, book in self._books.items()}
            self._books_before = {symbol: book.end_of_day() for symbol, book in self._books_before.items()}
            self._last_prices = dict(self._prices)
            self._last_equity = self.equity

    def manual_order(
        self, symbol: str, side: str, quantity: Decimal | str, limit_price: Decimal | str | None = None
    ) -> Order:
        """An open order of somebody else's hand, with a client's id that nobody chose. Not a submission."""
        with self.lock:
            kind = "market" if limit_price is None else "limit"
            request = {"symbol": symbol, "side": side, "qty": quantity, "type": kind, "limit_price": limit_price}
            return self._place(request)

    def manual_trade(
        self, symbol: str, side: str, quantity: Decimal | str, price: Decimal | str | None = None
    ) -> Order:
        """The same, filled at once, at the current price or another one; it needs no cash, and minds no wash trade."""
        with self.lock:
            request = {"symbol": symbol, "side": side, "qty": quantity, "type": "market"}
            return self.fill(self._place(request, by_hand=True).id, price=price)

    def cancel(self, key: str) -> Order:
        """Cancel an order now, whatever `cancel_delay` is."""
        with self.lock:
            return self._change(self._find(key), status="canceled", canceled=self._next)

    def reject(self, key: str) -> Order:
        """Let the exchange reject an order that the brokerage had accepted."""
        with self.lock:
            return self._change(self._find(key), status="rejected", failed=self._next)

    def dividend(self, symbol: str, per_share: Decimal | str) -> Activity | None:
        """Pay a dividend on the shares held now, to the cent."""
        with self.lock:
            quantity, rate = self.positions.get(symbol), Decimal(per_share)
            if quantity is None:
                return None
            amount = (quantity * rate).quantize(CENT)
            return self._pay("DIV", amount, symbol=symbol, qty=quantity, per_share_amount=rate)

    def deposit(self, amount: Decimal | str) -> Activity:
        with self.lock:
            self._net_deposits += Decimal(amount)
            return self._pay("CSD", Decimal(amount))

    def withdraw(self, amount: Decimal | str) -> Activity:
        with self.lock:
            self._net_deposits -= Decimal(amount)
            return self._pay("CSW", -Decimal(amount))

    def fee(self, amount: Decimal | str) -> Activity:
        with self.lock:
            return self._pay("FEE", -Decimal(amount))

    def split(self, symbol: str, ratio: Decimal | Fraction | str, kind: str = "SSP") -> Activity | None:
        """Give `ratio` shares for each, and move the price; the cost stays.

        Orders keep their quantities and limits, but one to sell what is there no more is cancelled.
        """
        with self.lock:
            exact = Fraction(ratio)
            for prices in (self._prices, self._last_prices):
                prices[symbol] = (prices[symbol] * exact.denominator / exact.numerator).quantize(MICRO)
            if symbol not in self._books:
                return None
            before = self._books[symbol].quantity
            self._keep(symbol, self._books[symbol].split(exact))
            after = self._books[symbol].quantity
            for order in reversed(self.open_orders):
                if order.symbol == symbol and order.side == "sell" and self.held_for_orders(symbol) > after:
                    self._change(order, status="canceled", canceled=self._next)
            return self._pay(kind, ZERO, symbol=symbol, qty=after - before) if before else None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _uuid(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)

    def _find(self, key: str) -> Order:
        try:
            order = self.order(key)
        except RefusalError as error:
            raise ValueError(error.message) from error
        if not order.is_open:
            raise ValueError(f"not open: {order}")
        return order

    def _change(self, order: Order, **changes: Any) -> Order:
        self._before[order.id] = order
        changed = self._orders[order.id] = replace(order, updated=self._stamp(), **changes)
        if not changed.is_open:
            self._open.pop(order.id, None)
        return changed

    def _settle_cancels(self) -> None:
        now = nanoseconds(self._now)
        for order in self.open_orders:
            if order.cancel_due is not None and order.cancel_due <= now:
                self._change(order, status="canceled", canceled=self._next)

    def _keep(self, symbol: str, book: Book) -> None:
        self._books_before = dict(self._books)
        self._books[symbol] = book

    def _pay(self, kind: str, amount: Decimal, **more: Any) -> Activity:
        self._cash += amount
        return self._note(kind, net_amount=amount, **more)

    def _note(self, kind: str, **more: Any) -> Activity:
        """Keep an activity; its id begins with its time in New York, which for all but fills is midnight."""
        time, day = self._stamp(), self.today
        clock = f"{moment(time).astimezone(NEW_YORK):%Y%m%d%H%M%S%f}"[:17]
        start = clock if kind == "FILL" else f"{day:%Y%m%d}000000000"
        activity = Activity(f"{start}::{self._uuid()}", kind, time, day, **more)
        self._activities.append(activity)
        return activity


def nanoseconds(time: datetime) -> int:
    """Since 1970."""
    return (time - EPOCH) // timedelta(microseconds=1) * 1000


def moment(time: int) -> datetime:
    """A time, to the microsecond."""
    return EPOCH + timedelta(microseconds=time // 1000)


def asset_id(symbol: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"asset {symbol}"))


def plain(number: Decimal) -> str:
    """A number without an exponent and without zeros at its end."""
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def _number(given: Any, name: str) -> Decimal:
    try:
        number = Decimal(str(given))
    except InvalidOperation as error:
        raise RefusalError(422, INVALID, f"invalid {name}") from error
    if not number.is_finite():
        raise RefusalError(422, INVALID, f"invalid {name}")
    return Decimal(plain(number))


def _decimals(number: Decimal) -> int:
    return max(-int(number.normalize().as_tuple().exponent), 0)


def _parts(quantity: Decimal, parts: int) -> Iterable[Decimal]:
    """About equal parts, whole ones if possible, the last with the rest."""
    whole = quantity == quantity.to_integral_value() and quantity >= parts
    part = (quantity / parts).quantize(Decimal(1) if whole else SHARE, ROUND_DOWN)
    if parts == 1 or not part:
        return [quantity]
    return [*[part] * (parts - 1), quantity - part * (parts - 1)]
