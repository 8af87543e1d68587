"""A strategy at a paper account of the loopback server, traded day by day with the real client.

Belongs here: putting desk, broker and server together, and the days of that world. What is expected of them is in the
tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property

from tests.servers.alpaca_trading import AlpacaTradingServer
from trading_dagster.execution.accounting import MarketSession
from trading_dagster.execution.gates import Limits
from trading_dagster.execution.orders import Order, Side, client_order_id
from trading_dagster.execution.planner import Terms
from trading_dagster.execution.reconciliation import Comparison, Reconciliation, open_books, reconcile
from trading_dagster.execution.submitter import Budget, Submitter
from trading_dagster.execution.trading_session import Conduct, Desk, SessionTrades, Wish, trade_session
from trading_dagster.resources.alpaca_broker import AlpacaBroker
from trading_dagster.resources.broker import Activity
from trading_dagster.resources.sql_ledger import SqlLedger

D = Decimal
PRICES = {"AAA": "100", "BBB": "50", "CCC": "20", "WHOLE": "30"}
SESSION = date(2026, 1, 5)
CLOSE = datetime(2026, 1, 5, 22, 0, tzinfo=UTC)
"""An hour after the close of `SESSION`, in New York 17:00."""
OPENS = timedelta(hours=16, minutes=45)
"""From there to a quarter past the next day's opening."""

NO_LIMITS = Limits(
    position_weight=D(10**6), gross=D(10**6), order_notional=D(10**9), daily_loss=D(10), drawdown=D(10),
    price_collar=D(10**6), volume_share=D(1),
)  # fmt: skip
FREE_TERMS = Terms(D("0.02"))


class Clock:
    """Seconds that pass only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Paper:
    """A strategy, its ledger, and its account at the server.

    Attributes
    ----------
    patience : int
        Readings before a difference counts.
    request_seconds : float
        Time-out of a request.
    clock : Clock
        Time of the submitter and of every wait.
    """

    ledger: SqlLedger
    server: AlpacaTradingServer
    strategy: str = "main"
    manual_trades: str = "quarantine"
    patience: int = 4
    request_seconds: float = 5.0
    limits: Limits = NO_LIMITS
    dry_run: bool = False
    lease_seconds: float = 120.0
    session: date = SESSION
    clock: Clock = field(default_factory=Clock)

    @cached_property
    def broker(self) -> AlpacaBroker:
        return AlpacaBroker(
            self.server.key, self.server.secret, self.server.url, seconds=60.0, request_seconds=self.request_seconds,
            wait=self.clock.sleep,
        )  # fmt: skip

    def close(self) -> None:
        """End the connections of a broker that was used."""
        if "broker" in self.__dict__ and "_client" in self.broker.__dict__:
            self.broker._client._session.close()

    @property
    def comparison(self) -> Comparison:
        return Comparison(self.manual_trades, D("0.01"), self.patience, 1.0, self.clock.sleep)

    @property
    def budget(self) -> Budget:
        return Budget(60.0, 0.5, self.clock, self.clock.sleep)

    @property
    def desk(self) -> Desk:
        conduct = Conduct(
            self.strategy, self.limits, FREE_TERMS, self.comparison, self.budget, self.lease_seconds, 3, self.dry_run
        )
        return Desk(self.ledger, self.broker, conduct)

    def like(self, **values) -> Paper:
        """The same account and ledger at the same time, otherwise as given; its broker is this one's."""
        other = replace(self, **values)
        if "request_seconds" not in values and "server" not in values:
            other.__dict__["broker"] = self.broker
        return other

    # -- days ---------------------------------------------------------------------------------------------------------

    def market(self, session: date | None = None) -> MarketSession:
        """The session's closes, which are the server's prices."""
        prices = dict(self.server.prices)
        return MarketSession(session or self.session, prices, prices, {}, {})

    def next_open(self) -> None:
        """Pass to the next day's session, after its opening; what was sent after the close waits still."""
        self.server.now = self._close_of(self._next_day()) - timedelta(hours=24) + OPENS

    def next_close(self, *, expire: bool = True, **prices: str) -> None:
        """Pass to an hour after the close of that day, where its orders expire."""
        for symbol, price in prices.items():
            self.server.set_price(symbol, price)
        if expire:
            self.server.end_of_day()
        self.session = self._next_day()
        self.server.now = self._close_of(self.session)

    def next_day(self, **prices: str) -> None:
        """Pass to the next close: at the opening, every order that its limit allows is filled at these prices."""
        self.next_open()
        self.server.trade_open(prices)
        self.next_close()

    def _next_day(self) -> date:
        days = (self.session + timedelta(days=number) for number in itertools.count(1))
        return next(day for day in days if day in {one.day for one in self.server.brokerage.sessions.all})

    def _close_of(self, day: date) -> datetime:
        return CLOSE + (day - SESSION)

    # -- what is done -------------------------------------------------------------------------------------------------

    def trade(self, session: date | None = None, wish: Wish | None = None, **targets: float) -> SessionTrades:
        return trade_session(self.desk, self.market(session), wish or Wish(targets, {}), "run")

    def open(self) -> None:
        open_books(self.ledger, self.broker, self.strategy, self.session, self.comparison)

    def reconcile(self) -> Reconciliation:
        return reconcile(self.ledger, self.broker, self.strategy, self.session, self.comparison)

    def commit(self, *orders: Order, revision: int = 0) -> None:
        """Write intents, as a run does before it sends any."""
        self.ledger.record_plan(self.strategy, self.session, revision, orders, "run")

    def intent(self, symbol: str = "AAA", quantity: str = "10", side: str = "buy", revision: int = 0) -> Order:
        """An order of this session, at the price of now with a limit two hundredths above."""
        price = self.server.prices[symbol]
        limit = (price * D("1.02")).quantize(D("0.01")) if side == "buy" else None
        identity = client_order_id(self.strategy, self.session, symbol, revision)
        return Order(
            identity, self.strategy, self.session, symbol, Side(side), D(quantity), price, "why", limit_price=limit
        )

    def submitter(self) -> Submitter:
        return self.desk.submitter(self.ledger.acquire_lease(self.strategy, "test", self.lease_seconds, take_over=True))

    def send_and_fill(self, symbol: str, quantity: str, side: str = "buy", revision: int = 0) -> Order:
        """An order of ours, at the broker and filled, of which the ledger has not heard the end."""
        order = self.intent(symbol, quantity, side, revision)
        self.commit(order, revision=revision)
        sent = self.submitter().bring(order)
        self.server.fill(order.client_order_id)
        return sent

    # -- what is there ------------------------------------------------------------------------------------------------

    @property
    def accepted(self) -> list[str]:
        """Identities of the orders that the server took, one for each time that it took one."""
        return [str(each.client_order_id) for each in self.server.submissions if each.accepted]

    @property
    def posts(self) -> int:
        """Requests for an order that reached the server, processed or not."""
        return len([request for request in self.server.log.requests("/orders") if request.method == "POST"])

    def refused_gates(self) -> list[tuple[str, str]]:
        """Gate and symbol of every refusal on record."""
        rows = self.ledger.refusals(self.strategy)
        return list(zip(rows["gate"], rows["symbol"], strict=True))

    def books(self) -> tuple[Decimal, Mapping[str, Decimal]]:
        account = self.ledger.account(self.strategy)
        return account.cash, account.positions


def activity_ids(activities: list[Activity]) -> list[str]:
    return [each.activity_id for each in activities]
