"""What the tests run in processes of their own; kept apart so that a process loads no more than it needs."""

import multiprocessing
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from multiprocessing.synchronize import Barrier
from typing import Any

from trading_dagster.execution.accounting import Account, Costs, MarketSession
from trading_dagster.execution.lease import LeaseHeldError
from trading_dagster.resources.ledger import LedgerError
from trading_dagster.resources.simulated_broker import SimulatedBroker
from trading_dagster.resources.sql_ledger import SqlLedger
from trading_dagster.resources.tables import Tables

from .books import fill, movement, open_books, order
from .rows import allocation_rows, bar_rows

WORKERS = 3
_barrier: Barrier


def _remember(barrier: Barrier) -> None:
    global _barrier  # the only way to hand a barrier to a pool's processes
    _barrier = barrier


@contextmanager
def racing_processes() -> Iterator[Callable[..., list[Any]]]:
    """Fresh processes that start each task at one moment."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(WORKERS)
    with ProcessPoolExecutor(WORKERS, mp_context=context, initializer=_remember, initargs=(barrier,)) as pool:

        def race(task: Callable[..., Any], *arguments: Any) -> list[Any]:
            """Call `task(worker, *arguments)` in every process at once."""
            started = [pool.submit(_run, task, worker, *arguments) for worker in range(WORKERS)]
            return [future.result(timeout=120) for future in started]

        yield race


def _run(task: Callable[..., Any], worker: int, *arguments: Any) -> Any:
    _barrier.wait(timeout=120)
    return task(worker, *arguments)


def replace_own_partition(worker: int, uri: str, days: list[date], weight: float) -> str:
    """Write the worker's day; the answer is empty, or the error."""
    try:
        Tables(uri).replace("allocation", allocation_rows([days[worker]], weight), days[worker], days[worker])
    except Exception as error:  # noqa: BLE001  # whatever it is, the test shows it
        return f"{type(error).__name__}: {error}"
    return ""


def write_or_tidy(worker: int, uri: str, rounds: int) -> list[str]:
    """One process replaces partitions, one adds revisions, and one tidies both tables; the answer are the errors."""
    tables, problems = Tables(uri), []
    for number in range(rounds):
        day = date(2020, 1, 2 + number)
        try:
            if worker == 0:
                tables.replace("allocation", allocation_rows([day], 0.5), day, day)
            elif worker == 1:
                known_at = datetime(2020, 2, 1, tzinfo=UTC)
                tables.add_revisions("bars", bar_rows(day, {"AAA": 11.0}, known_at))
            else:
                tables.tidy("allocation", timedelta(days=7), many=2)
                tables.tidy("bars", timedelta(days=7), many=2)
        except Exception as error:  # noqa: BLE001  # whatever it is, the test shows it
            problems.append(f"{type(error).__name__}: {error}")
    return problems


def open_ledger(worker: int, url: str) -> list[str]:
    ledger = SqlLedger(url)
    ledger.record_verdicts(f"asset {worker}", [date(2020, 1, 2)], True, [], "run")
    names = sorted(ledger.verdicts(date(2020, 1, 2), [f"asset {number}" for number in range(WORKERS)]))
    ledger.engine.dispose()
    return names


def write_ledger_rows(worker: int, url: str, rows: int) -> None:
    """Write plans, accounts and verdicts of the worker's own strategy, and verdicts that all share."""
    ledger = SqlLedger(url)
    strategy = f"worker_{worker}"
    open_books(ledger, strategy, cash="0")
    for number in range(1, rows + 1):
        day = date(2020, 1, number)
        ledger.record_plan(strategy, day, 0, [order(f"{strategy}-{number}", day, strategy=strategy)], "run")
        ledger.record_activities(strategy, [movement("transfer", "1", session=day)])
        ledger.record_snapshot(strategy, day, Decimal(number), {})
        ledger.record_verdicts("shared", [day], True, [], strategy)
    ledger.engine.dispose()


def take_lease(worker: int, url: str) -> int | None:
    """Token of the lease, None where another has it."""
    ledger = SqlLedger(url)
    try:
        return ledger.acquire_lease("main", f"worker {worker}", 60.0).token
    except LeaseHeldError:
        return None
    finally:
        ledger.engine.dispose()


def take_over_lease(worker: int, url: str, times: int) -> list[int]:
    ledger = SqlLedger(url)
    tokens = [ledger.acquire_lease("main", f"worker {worker}", 60.0, take_over=True).token for _ in range(times)]
    ledger.engine.dispose()
    return tokens


def open_same_books(worker: int, url: str) -> Decimal:
    """Open one strategy with cash that says who did it; return what is on record."""
    ledger = SqlLedger(url)
    open_books(ledger, cash=str(worker + 1), AAA=("1", str(worker + 1)))
    cash = ledger.account("main").cash
    ledger.engine.dispose()
    return cash


def book_activities(worker: int, url: str, rows: int) -> int:
    """Book the same activities as everybody else, one by one and each in another order; return how many were new."""
    ledger = SqlLedger(url)
    found = [fill(None, "1", "2", name=f"fill {number}", commission="0.01") for number in range(rows)]
    found += [movement("dividend", "0.5", name=f"dividend {number}") for number in range(rows)]
    random.Random(worker).shuffle(found)
    new = sum(ledger.record_activities("main", [each]) for each in found)
    ledger.engine.dispose()
    return new


def fill_partly(worker: int, url: str, orders: int, quantity: int) -> list[int]:
    """Book a fill of the worker's own of each order; return the orders whose fill was taken."""
    ledger = SqlLedger(url)
    taken = []
    for number in range(orders):
        found = fill(str(number), str(quantity), name=f"fill of {number} by {worker}")
        try:
            ledger.record_activities("main", [found])
        except LedgerError:
            continue
        taken.append(number)
    ledger.engine.dispose()
    return taken


def settle_sessions(worker: int, url: str, days: list[date]) -> None:
    """Let the simulated broker's time pass through the same days as everybody else's."""
    ledger = SqlLedger(url)
    broker = SimulatedBroker(ledger, "main", Account(Decimal(1000)), Costs(Decimal(0), Decimal(0)))
    for day in days:
        price = {"AAA": Decimal(10)}
        broker.settle(MarketSession(day, price, price, {}, {"AAA": Decimal(1)}))
    ledger.engine.dispose()
