"""Any sequence of runs, fills, crashes, lost answers, cancels, trades by hand, halts and flattenings.

Hypothesis draws the sequences. After each step: nothing was sent while halted, and no run led above the gross limit.
At the end of each: the ledger equals the broker, to the share and to the cent. The whole of the product's execution
runs, over an in-memory ledger and the loopback broker in the same process.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of alpaca-py's, about websockets
    import alpaca.trading.client

from tests.servers.alpaca_trading import AlpacaTradingServer
from tests.servers.in_process import InProcessBroker
from trading_dagster.execution import operations
from trading_dagster.execution.accounting import MarketSession
from trading_dagster.execution.gates import Limits
from trading_dagster.execution.halts import Cause, HaltState
from trading_dagster.execution.orders import OrderState
from trading_dagster.execution.planner import Terms
from trading_dagster.execution.reconciliation import Comparison
from trading_dagster.execution.submitter import Budget
from trading_dagster.execution.trading_session import Conduct, Desk, Wish, trade_session
from trading_dagster.resources.ledger_models import Base
from trading_dagster.resources.sql_ledger import SqlLedger

assert alpaca.trading.client  # imported here, where its warning is silenced

SEQUENCES = 2000
STEPS = 8
SYMBOLS = ("AAA", "BBB", "CCC")
NEW_YORK = ZoneInfo("America/New_York")
SESSIONS = [date(2026, 11, day) for day in (2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 16, 17)]
GROSS = Decimal("0.9")
CRASHES = (
    "record_plan",
    "claim",
    "submit",
    "record_broker_order",
    "record_activities",
    "record_snapshot",
    "record_state",
)

weights = st.fixed_dictionaries({symbol: st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.3]) for symbol in SYMBOLS})
moves = st.fixed_dictionaries({symbol: st.integers(-150, 150) for symbol in SYMBOLS})
posts = st.lists(
    st.sampled_from([None, "lost", "never arrived", "429", "500", "500 after acceptance", "403"]), max_size=4
)
crashes = st.none() | st.tuples(st.sampled_from(CRASHES), st.integers(1, 3), st.booleans())


SEEN: Counter[str] = Counter()
"""What all sequences together came to: a test that never trades would always pass."""


@functools.cache
def shared_ledger() -> SqlLedger:
    """One in-memory ledger for all sequences: its migrations take longer than a sequence."""
    return SqlLedger("sqlite://")


def empty_ledger() -> SqlLedger:
    ledger = shared_ledger()
    with ledger.transaction() as db:
        for table in reversed(Base.metadata.sorted_tables):
            db.execute(table.delete())
    return ledger


class CrashError(BaseException):
    """The process ends here."""


class Crashing:
    """Ledger or broker of a process that ends at the nth call of a method, before or after it."""

    def __init__(self, real: Any, crash: tuple[str, int, bool], counts: list[int]) -> None:
        self._real, self._crash, self._counts = real, crash, counts

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._real, name)
        step, number, before = self._crash
        if name != step:
            return attribute

        def call(*args: Any, **options: Any) -> Any:
            self._counts[0] += 1
            if self._counts[0] == number and before:
                raise CrashError
            answer = attribute(*args, **options)
            if self._counts[0] == number:
                raise CrashError
            return answer

        return call


class Trading(RuleBasedStateMachine):
    """One account, from a random beginning to its end."""

    @initialize(manual=st.sampled_from(["quarantine", "adopt"]), held=st.sampled_from(["", "AAA"]))
    def begin(self, manual: str, held: str) -> None:
        self.at = 0
        self.server = AlpacaTradingServer(dict.fromkeys(SYMBOLS, "100"), now=self._evening())
        if held:
            self.server.manual_trade(held, "buy", "12.5")
        self.broker = InProcessBroker(self.server)
        self.ledger = empty_ledger()
        self.conduct = Conduct(
            strategy="main",
            limits=Limits(
                position_weight=Decimal("0.4"),
                gross=GROSS,
                order_notional=Decimal(100_000),
                daily_loss=Decimal("0.9"),
                drawdown=Decimal("0.9"),
                price_collar=Decimal("0.5"),
                volume_share=Decimal("0.05"),
            ),
            terms=Terms(Decimal("0.02")),
            comparison=Comparison(manual, Decimal(0), attempts=1, sleep=lambda _: None),  # type: ignore[arg-type]
            budget=Budget(seconds=0.0, sleep=lambda _: None),
            lease_seconds=1000.0,
            broker_errors=3,
        )
        self.desk = Desk(self.ledger, self.broker, self.conduct)
        self.watch = operations.Watch(0.0, sleep=lambda _: None)

    # -- what may happen ----------------------------------------------------------------------------------------------

    @rule(wanted=weights, faults=posts, crash=crashes)
    def run(self, wanted: dict[str, float], faults: list[Any], crash: tuple[str, int, bool] | None) -> None:
        """The daily run, on the newest session."""
        halted = self._is_halted()
        before = len(self.server.submissions)
        self.broker.transport.faults = faults
        desk = self.desk
        if crash is not None:
            counts = [0]
            desk = Desk(Crashing(self.ledger, crash, counts), Crashing(self.broker, crash, counts), self.conduct)
        prices = self.server.prices
        market = MarketSession(self.broker.newest_session(), prices, prices, {}, {})
        crashed = False
        try:
            trade_session(desk, market, Wish(wanted, dict.fromkeys(SYMBOLS, "drawn")), "run")
        except CrashError:
            crashed = True
        self.broker.transport.faults = []
        sent = self.server.submissions[before:]
        SEEN["runs"] += 1
        SEEN["orders"] += sum(each.accepted for each in sent)
        SEEN["crashes"] += crashed
        assert not (halted and sent), "an order went out while trading was halted"
        if crashed:
            # a process that has ended holds nothing: in one process, its lease must be taken from it by hand
            self.ledger.release_lease(self.ledger.acquire_lease("main", "next", 1.0, take_over=True))
        elif any(each.accepted and each.order.side == "buy" for each in sent):
            assert self._gross() <= GROSS * self.server.equity

    @rule(moves=moves, parts=st.integers(1, 3), wanted=weights, faults=posts, crash=crashes)
    def next_day(
        self, moves: dict[str, int], parts: int, wanted: dict[str, float], faults: list[Any], crash: Any
    ) -> None:
        """A session passes, and the run that follows it; half of all steps, or little would ever be traded."""
        if not self.server.brokerage.is_open:
            self.open_market(moves, parts)
        self.close_market()
        self.run(wanted, faults, crash)

    @rule(moves=moves, wanted=weights)
    def quiet_day(self, moves: dict[str, int], wanted: dict[str, float]) -> None:
        self.next_day(moves, 1, wanted, [], None)

    @rule(moves=moves, wanted=weights, crash=crashes)
    def day_with_a_crash(self, moves: dict[str, int], wanted: dict[str, float], crash: Any) -> None:
        self.next_day(moves, 2, wanted, [], crash)
        self.run(wanted, [], None)

    @precondition(lambda self: not self.server.brokerage.is_open)
    @rule(moves=moves, parts=st.integers(1, 3))
    def open_market(self, moves: dict[str, int], parts: int) -> None:
        """The next session opens: prices move, and what can be filled is filled."""
        if self.at + 1 == len(SESSIONS):
            return
        self.at += 1
        self.server.now = self._clock(SESSIONS[self.at], time(9, 31))
        prices = {s: (self.server.prices[s] * (10_000 + move) / 10_000).quantize(Decimal("0.01"))
                  for s, move in moves.items()}  # fmt: skip
        SEEN["fills"] += len(self.server.trade_open(prices, parts=parts))

    @precondition(lambda self: self.server.brokerage.is_open)
    @rule()
    def close_market(self) -> None:
        self.server.now = self._evening()
        self.server.end_of_day()

    @precondition(lambda self: self.server.brokerage.is_open and self.server.open_orders)
    @rule(share=st.sampled_from(["0.5", "0.25"]))
    def fill_in_part(self, share: str) -> None:
        order = self.server.open_orders[0]
        quantity = (order.leaves_qty * Decimal(share)).quantize(Decimal("0.000001"))
        if quantity and order.accepts(self.server.prices[order.symbol]):
            self.server.fill(order.id, quantity)

    @precondition(lambda self: self.server.brokerage.is_open)
    @rule(symbol=st.sampled_from(SYMBOLS), quantity=st.integers(1, 20), buys=st.booleans())
    def trade_by_hand(self, symbol: str, quantity: int, buys: bool) -> None:
        if buys:
            if self.server.buying_power > quantity * self.server.prices[symbol] and not self._sells(symbol):
                self.server.manual_trade(symbol, "buy", str(quantity))
        elif self.server.brokerage.available(symbol) >= quantity and not self._buys(symbol):
            self.server.manual_trade(symbol, "sell", str(quantity))

    @rule(amount=st.integers(1, 5000))
    def deposit(self, amount: int) -> None:
        self.server.deposit(str(amount))

    @rule(symbol=st.sampled_from(SYMBOLS))
    def dividend(self, symbol: str) -> None:
        if self.server.positions.get(symbol):
            self.server.dividend(symbol, "0.25")

    @rule(reduce_only=st.booleans())
    def halt(self, reduce_only: bool) -> None:
        if reduce_only and self.ledger.has_traded("main") and self._is_halted():
            return
        operations.halt(self.ledger, "main", "operator", "drawn", reduce_only=reduce_only)

    @rule()
    def resume(self) -> None:
        if self.ledger.has_traded("main") and self.ledger.halt_state("main").state is not HaltState.ACTIVE:
            operations.resume(self.desk, "operator", "drawn")

    @precondition(lambda self: self.ledger.strategy("main") is not None)
    @rule()
    def reconcile(self) -> None:
        assert operations.reconcile_now(self.desk).matched

    @precondition(lambda self: self.ledger.strategy("main") is not None)
    @rule()
    def cancel(self) -> None:
        operations.cancel(self.desk, "operator", "drawn", watch=self.watch)

    @precondition(lambda self: self.ledger.strategy("main") is not None)
    @rule()
    def flatten(self) -> None:
        operations.flatten(self.desk, "operator", "drawn", self.watch)

    # -- what must hold at the end ------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            self._ends_equal()

    def _ends_equal(self) -> None:
        if self.ledger.strategy("main") is None:
            return
        found = operations.reconcile_now(self.desk)
        assert found.matched, found.differences
        assert Cause.RECONCILIATION not in {each.cause for each in self.ledger.halt_history("main")}
        held: dict[str, Decimal] = {}
        for positions in (self.ledger.account("main").positions, self.ledger.manual_positions("main")):
            for symbol, quantity in positions.items():
                held[symbol] = held.get(symbol, Decimal(0)) + quantity
        assert {s: q for s, q in held.items() if q} == self.server.positions
        assert self.ledger.account("main").cash == self.server.cash
        mine = [order for order in self.server.orders if order.client_order_id.startswith("main-")]
        known = self.ledger.orders([order.client_order_id for order in mine])
        for order in mine:
            assert known[order.client_order_id].filled_quantity == order.filled_qty
        there = {order.client_order_id for order in mine}
        for ours in self.ledger.open_orders("main"):
            if ours.state is OrderState.PLANNED:
                assert ours.client_order_id not in there
            elif ours.state in (OrderState.ACCEPTED, OrderState.PARTIALLY_FILLED):
                assert ours.client_order_id in there
        assert len({order.client_order_id for order in mine}) == len(mine)

    # -- helpers ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _clock(day: date, at: time) -> datetime:
        return datetime.combine(day, at, NEW_YORK).astimezone(UTC)

    def _evening(self) -> datetime:
        return self._clock(SESSIONS[self.at], time(17, 30))

    def _is_halted(self) -> bool:
        return self.ledger.has_traded("main") and self.ledger.halt_state("main").state is HaltState.HALTED

    def _gross(self) -> Decimal:
        """Value of what is held, and of what open orders will add."""
        after = dict(self.server.positions)
        for order in self.server.open_orders:
            signed = order.leaves_qty if order.side == "buy" else -order.leaves_qty
            after[order.symbol] = after.get(order.symbol, Decimal(0)) + signed
        return sum((abs(q) * self.server.prices[s] for s, q in after.items()), Decimal(0))

    def _sells(self, symbol: str) -> bool:
        return any(order.symbol == symbol and order.side == "sell" for order in self.server.open_orders)

    def _buys(self, symbol: str) -> bool:
        return any(order.symbol == symbol and order.side == "buy" for order in self.server.open_orders)


def test_whatever_happens_the_ledger_equals_the_broker() -> None:
    started = datetime.now(UTC)
    run_state_machine_as_test(
        Trading,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    shared_ledger().engine.dispose()
    print(f"\n{SEQUENCES} sequences of up to {STEPS} steps in {datetime.now(UTC) - started}: {dict(SEEN)}")
    assert SEEN["orders"] > SEQUENCES
    assert SEEN["fills"] > SEQUENCES / 2
    assert SEEN["crashes"] > SEQUENCES / 10
