"""What the tests run in processes of their own; kept apart so that a process loads no more than it needs."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from multiprocessing.synchronize import Barrier
from typing import Any

from trading_dagster.execution.accounting import Account, MarketSession
from trading_dagster.execution.orders import Order, Side
from trading_dagster.resources.sql_ledger import SqlLedger
from trading_dagster.resources.tables import Tables

from .rows import allocation_rows

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


def open_ledger(worker: int, url: str) -> list[str]:
    ledger = SqlLedger(url)
    ledger.record_verdicts(f"asset {worker}", [date(2020, 1, 2)], True, [], "run")
    names = sorted(ledger.verdicts(date(2020, 1, 2), [f"asset {number}" for number in range(WORKERS)]))
    ledger.engine.dispose()
    return names


def write_ledger_rows(worker: int, url: str, rows: int) -> None:
    """Write plans, accounts and verdicts of the worker's own strategy, and count up rows that all share."""
    ledger = SqlLedger(url)
    strategy = f"worker_{worker}"
    for number in range(1, rows + 1):
        day = date(2020, 1, number)
        price = {"AAA": Decimal(10)}
        order = Order(f"{strategy}-{number}", strategy, day, "AAA", Side.BUY, Decimal(1), Decimal(10), "why")
        ledger.record_plan(strategy, day, 0, [order], "run")
        market = MarketSession(day, price, price, {}, {})
        ledger.record_session(strategy, market, Account(Decimal(number)), [], {}, [])
        ledger.record_verdicts("shared", [day], True, [], strategy)
    ledger.engine.dispose()
