"""One trading session in a process of its own, stopped at a chosen moment.

Belongs here: the moments, and what happens at them. The process imports nothing that a test holds: it is told
everything by plain values, and a fork server that has imported the product already starts it in milliseconds.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any, Literal

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of alpaca-py's, about websockets
    import alpaca.trading.client

from trading_dagster.execution.accounting import MarketSession
from trading_dagster.execution.gates import Limits
from trading_dagster.execution.planner import Terms
from trading_dagster.execution.reconciliation import Comparison
from trading_dagster.execution.submitter import Budget
from trading_dagster.execution.trading_session import Conduct, Desk, SessionTrades, Wish, trade_session
from trading_dagster.resources.alpaca_broker import AlpacaBroker
from trading_dagster.resources.sql_ledger import SqlLedger

STEPS = ("record_plan", "order", "claim", "submit", "record_state", "record_broker_order")
"""Calls of ledger and broker between which the submitter moves an order on."""

SESSION = date(2026, 11, 20)
PRICES = {"AAA": Decimal(200), "BBB": Decimal(50), "CCC": Decimal(20)}
TARGETS = {"AAA": 0.1, "BBB": 0.1, "CCC": 0.1}

assert alpaca.trading.client  # imported for the fork server


@dataclass(frozen=True)
class Moment:
    """Before or after the nth call of a step."""

    when: Literal["before", "after"]
    step: str
    number: int

    def __str__(self) -> str:
        return f"{self.when} {self.step} {self.number}"


MOMENTS = [Moment(when, step, number) for number in (1, 2) for step in STEPS for when in ("before", "after")]


def market() -> MarketSession:
    return MarketSession(SESSION, PRICES, PRICES, {}, {})


def desk(ledger_url: str, broker_url: str, lease_seconds: float = 30.0) -> Desk:
    """A desk whose time-outs are short."""
    limits = Limits(
        position_weight=Decimal("0.5"),
        gross=Decimal(1),
        order_notional=Decimal(100_000),
        daily_loss=Decimal("0.03"),
        drawdown=Decimal("0.15"),
        price_collar=Decimal("0.1"),
        volume_share=Decimal("0.05"),
    )
    broker = AlpacaBroker(
        "loopback-key", "loopback-secret", broker_url, seconds=1.0, request_seconds=0.15, wait=lambda _: None
    )
    return Desk(
        SqlLedger(ledger_url),
        broker,
        Conduct(
            strategy="main",
            limits=limits,
            terms=Terms(Decimal("0.02")),
            comparison=Comparison("quarantine", Decimal("0.01"), wait=0.05),
            budget=Budget(seconds=0.4, first_wait=0.05),
            lease_seconds=lease_seconds,
            broker_errors=100,
        ),
    )


def trade(at: Desk, run_id: str) -> SessionTrades:
    return trade_session(at, market(), Wish(TARGETS, dict.fromkeys(TARGETS, "why")), run_id)


class Interrupted:
    """Stands for a ledger or a broker, and calls `act` at the moment."""

    def __init__(self, real: Any, moment: Moment, counts: dict[str, int], act: Callable[[], None]) -> None:
        self._real, self._moment, self._counts, self._act = real, moment, counts, act

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._real, name)
        # the ledger has a call named `order`, too, which moves nothing
        if name != self._moment.step or (name == "order" and not hasattr(self._real, "newest_session")):
            return attribute

        def call(*args: Any, **options: Any) -> Any:
            self._counts[name] = self._counts.get(name, 0) + 1
            meant = self._counts[name] == self._moment.number
            if meant and self._moment.when == "before":
                self._act()
            answer = attribute(*args, **options)
            if meant and self._moment.when == "after":
                self._act()
            return answer

        return call


def _work(ledger_url: str, broker_url: str, moment: Moment, what: str, lease_seconds: float) -> None:
    number = signal.SIGKILL if what == "kill" else signal.SIGSTOP
    plain, counts = desk(ledger_url, broker_url, lease_seconds), dict[str, int]()

    def act() -> None:
        os.kill(os.getpid(), number)

    trade(
        Desk(
            Interrupted(plain.ledger, moment, counts, act),
            Interrupted(plain.broker, moment, counts, act),
            plain.conduct,
        ),
        what,
    )


def start(
    ledger_url: str, broker_url: str, moment: Moment, what: Literal["kill", "stop"], lease_seconds: float = 30.0
) -> BaseProcess:
    """Trade in another process, which is killed or stopped at the moment, if it comes to it."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.e2e.interrupted"])
    process = context.Process(target=_work, args=(ledger_url, broker_url, moment, what, lease_seconds), daemon=True)
    process.start()
    return process
