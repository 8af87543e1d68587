"""A run that is killed, or held up, at every step of the submitter, with every fault of the broker, on both databases.

Afterwards a second run, with the broker well again, must leave each intent with exactly one order at the broker, or
with a recorded refusal. Cases and violations are counted and printed (``-s`` shows them).
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.interrupted import MOMENTS, PRICES, TARGETS, Moment, desk, start, trade
from tests.postgres import PostgresServer
from tests.servers import faults
from tests.servers.alpaca_trading import AlpacaTradingServer
from trading_dagster.execution.orders import OrderState
from trading_dagster.resources.sql_ledger import SqlLedger

EVENING = datetime(2026, 11, 20, 22, 30, tzinfo=UTC)

Plan = Callable[[AlpacaTradingServer], None]


def on_post(fault: faults.Fault, times: int = 1) -> Plan:
    return lambda server: server.faults.add(fault, times=times, method="POST")


FAULTS: dict[str, Plan] = {
    "none": lambda _: None,
    "answer lost": on_post(faults.lost()),
    "time-out before acceptance": on_post(faults.stalled_unprocessed(0.3)),
    "time-out after acceptance": on_post(faults.answered_late(0.3)),
    "accepted after the time-out": on_post(faults.late(0.25)),
    "429": on_post(faults.rate_limited()),
    "429 for good": on_post(faults.rate_limited(), times=50),
    "500 before acceptance": on_post(faults.server_error()),
    "500 after acceptance": on_post(faults.server_error_after()),
    "500 for good": on_post(faults.server_error(), times=50),
    "403": on_post(faults.forbidden()),
    "dropped": on_post(faults.dropped()),
    "truncated": on_post(faults.truncated()),
    "cut short": on_post(faults.cut_short()),
    "slow": on_post(faults.stalled(0.1)),
    "look-ups fail": lambda server: server.faults.add(faults.server_error(), times=3, path="by_client_order_id"),
    "out-of-order updates": lambda server: server.stale_orders(4),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite ledger, to be copied."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    ledger = SqlLedger(f"sqlite:///{path}")
    ledger.engine.dispose()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_ledger(
    request: pytest.FixtureRequest, tmp_path: Path, template: Path
) -> Iterator[Callable[[str], contextmanager[str]]]:
    """Makes a migrated ledger for each case."""
    if request.param == "sqlite":

        @contextmanager
        def sqlite(name: str) -> Iterator[str]:
            path = tmp_path / f"{name}.db"
            shutil.copy(template, path)
            yield f"sqlite:///{path}"
            path.unlink()

        yield sqlite
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.database() as model:
        ledger = SqlLedger(model)
        ledger.engine.dispose()

        @contextmanager
        def postgresql(_: str) -> Iterator[str]:
            with server.database(like=model) as url:
                yield url

        yield postgresql


def violations(ledger_url: str, server: AlpacaTradingServer) -> list[str]:
    """What is wrong after the last run: judged from the broker's book, and the ledger's rows."""
    ledger = SqlLedger(ledger_url)
    orders = ledger.recorded_orders("main", datetime(2026, 11, 20).date())
    ledger.engine.dispose()
    if orders is None or len(orders) != len(TARGETS):
        return [f"the session has {'no plan' if orders is None else f'{len(orders)} intents'}"]
    found = []
    for order in orders:
        there = [each for each in server.orders if each.client_order_id == order.client_order_id]
        if order.state is OrderState.REJECTED:
            if there or not order.note:
                found.append(f"{order.client_order_id} is refused ({order.note!r}) with {len(there)} orders")
        elif len(there) != 1 or order.state is not OrderState.ACCEPTED or order.broker_order_id != there[0].id:
            found.append(f"{order.client_order_id} is {order.state} with {len(there)} orders at the broker")
    known = {order.client_order_id for order in orders}
    return found + [f"{each.client_order_id} was never planned" for each in server.orders
                    if each.client_order_id not in known]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_kill_each_intent_has_one_order_or_a_refusal(fault: str, fresh_ledger) -> None:
    found, cases, killed = {}, 0, 0
    for number, moment in enumerate(MOMENTS):
        with fresh_ledger(f"case_{number}") as url, AlpacaTradingServer(PRICES, now=EVENING) as server:
            FAULTS[fault](server)
            process = start(url, server.url, moment, "kill")
            process.join(30)
            assert process.exitcode in (0, -signal.SIGKILL), f"{moment}: exit code {process.exitcode}"
            killed += process.exitcode == -signal.SIGKILL
            process.close()
            if fault == "accepted after the time-out":
                time.sleep(0.2)  # it comes while nobody looks
            server.faults.clear()
            # as a second run of the schedule: once more, and once more again
            for run in ("second", "third"):
                again = desk(url, server.url)
                trade(again, run)
                again.ledger.engine.dispose()
            cases += 1
            wrong = violations(url, server)
            if wrong:
                found[str(moment)] = wrong
    print(f"\n{fault}: {cases} cases, {killed} killed on the way, {len(found)} violations")
    assert killed >= len(MOMENTS) / 3, "the moments are not those that a run passes"
    assert not found


HELD_UP = [moment for moment in MOMENTS if moment.number == 1 or moment.step in ("claim", "submit", "order")]


def test_a_process_that_wakes_after_its_lease_was_taken_over_sends_nothing(fresh_ledger) -> None:
    found, cases = {}, 0
    for number, moment in enumerate(HELD_UP):
        with fresh_ledger(f"pause_{number}") as url, AlpacaTradingServer(PRICES, now=EVENING) as server:
            process = start(url, server.url, moment, "stop", lease_seconds=1.0)
            if not _stops(process.pid):
                process.join(30)
                process.close()
                continue  # it never came to that moment
            other = desk(url, server.url, lease_seconds=1.0)
            until = time.monotonic() + 10
            while trade(other, "other").refused is not None and time.monotonic() < until:
                time.sleep(0.2)
            other.ledger.engine.dispose()
            before = len(server.submissions)
            os.kill(process.pid, signal.SIGCONT)
            process.join(30)
            process.close()
            cases += 1
            if len(server.submissions) != before or violations(url, server):
                found[str(moment)] = [len(server.submissions) - before, violations(url, server)]
    print(f"\n{cases} moments at which a process was held up, {len(found)} violations")
    assert cases >= 8
    assert not found


def test_of_two_processes_at_once_one_trades(fresh_ledger) -> None:
    for number in range(5):
        with fresh_ledger(f"race_{number}") as url, AlpacaTradingServer(PRICES, now=EVENING) as server:
            never = Moment("before", "record_plan", 99)
            processes = [start(url, server.url, never, "kill") for _ in range(2)]
            for process in processes:
                process.join(30)
                assert process.exitcode == 0
                process.close()
            assert len(server.submissions) == len(TARGETS)
            assert violations(url, server) == []


def _stops(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process comes to a halt before it ends."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return False
        if state in "TZ":
            return state == "T"
        time.sleep(0.01)
    return False
