"""A session at the paper account that two run at once, or one again: after a crash, a restore, a failing broker."""

import multiprocessing
import subprocess
import sys
import threading

import pytest

from tests.servers.faults import forbidden, server_error
from trading_dagster.execution.gates import Gate
from trading_dagster.execution.halts import Cause
from trading_dagster.execution.lease import this_process
from trading_dagster.execution.trading_session import SessionTrades
from trading_dagster.resources.sql_ledger import SqlLedger

from .markets import D
from .paper import Paper
from .test_paper_session import held_back, refused_by

# -- two at once ----------------------------------------------------------------------------------------------


def test_while_another_process_holds_the_lease_nothing_is_sent(paper):
    paper.ledger.acquire_lease("main", "process 1 on there", 60)
    trades = paper.trade(AAA=0.5)
    held_back(paper, Gate.LEASE, trades)
    assert "process 1 on there" in trades.refused.detail


def test_a_lease_that_is_taken_over_before_the_plan_is_written(paper):
    """Whoever is stopped here is refused by name, as everywhere."""
    paper.open()
    newest, calls = paper.broker.newest_session, []

    def slow():
        calls.append(1)
        if len(calls) == 3:  # under the lease
            paper.ledger.acquire_lease("main", "another", 60, take_over=True)
        return newest()

    paper.broker.newest_session = slow
    held_back(paper, Gate.LEASE, paper.trade(AAA=0.5))


def test_two_threads_at_once_trade_once(paper, server):
    """Each asks and plans for itself; one of them gets the lease."""
    paper.open()
    both = [paper.like(), paper.like()]
    for each in both:
        del each.__dict__["broker"]
    barrier, found = threading.Barrier(2), []

    def run(each: Paper) -> None:
        quantity_steps = each.broker.quantity_steps

        def together(symbols):
            barrier.wait(10)
            return quantity_steps(symbols)

        each.broker.quantity_steps = together
        found.append(each.trade(AAA=0.3, BBB=0.3, CCC=0.3))

    threads = [threading.Thread(target=run, args=(each,)) for each in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for each in both:
        each.close()
    first, second = sorted(found, key=lambda trades: trades.submitted)
    assert second == SessionTrades(3, 3, decided_before=False)
    # too late for the lease, or for the plan
    assert first.submitted == 0
    assert refused_by(first) is Gate.LEASE or first.decided_before
    assert len(paper.accepted) == len(set(paper.accepted)) == 3


def _run_in_process(url: str, where: str, start, done) -> None:
    import warnings

    from trading_dagster.resources.alpaca_broker import AlpacaBroker

    warnings.simplefilter("ignore")
    server = _Address(where)
    paper = Paper(SqlLedger(url), server)
    paper.__dict__["broker"] = AlpacaBroker("loopback-key", "loopback-secret", where)
    start.wait(30)
    done.put(paper.trade(AAA=0.3, BBB=0.3, CCC=0.3).submitted)


class _Address:
    """What a process of its own knows of the server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.prices = {"AAA": D(100), "BBB": D(50), "CCC": D(20)}


@pytest.mark.e2e  # two threads do the same above
def test_two_processes_at_once_trade_once(paper, server):
    paper.open()
    context = multiprocessing.get_context("spawn")
    start, done = context.Event(), context.Queue()
    arguments = (str(paper.ledger.engine.url), server.url, start, done)
    processes = [context.Process(target=_run_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    sent = [done.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
    assert sorted(sent) == [0, 3]
    assert len(paper.accepted) == len(set(paper.accepted)) == 3


def test_a_lease_of_a_process_that_has_died_is_taken(paper):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    here = this_process().split(" on ", 1)[1]
    paper.ledger.acquire_lease("main", f"process {int(ended.stdout)} on {here}", 3600)
    assert paper.trade(AAA=0.5).submitted == 1


def test_a_dry_run_between_planning_and_committing(paper):
    """It takes the revision that the live run has named its orders by."""
    paper.open()
    dry = paper.like(dry_run=True)
    steps = paper.broker.quantity_steps

    def dry_run_first(symbols):
        paper.broker.quantity_steps = steps
        dry.trade(AAA=0.4)
        return steps(symbols)

    paper.broker.quantity_steps = dry_run_first
    assert paper.trade(AAA=0.5).submitted == 1
    assert len(paper.accepted) == 1


def test_a_dry_run_after_planning_and_before_committing(paper):
    paper.open()
    dry, acquire = paper.like(dry_run=True), paper.ledger.acquire_lease

    def dry_run_first(*arguments, **options):
        paper.ledger.acquire_lease = acquire
        dry.trade(AAA=0.4)
        return acquire(*arguments, **options)

    paper.ledger.acquire_lease = dry_run_first
    assert paper.trade(AAA=0.5).submitted == 1
    assert len(paper.accepted) == 1


def test_a_ledger_that_was_restored_halts_and_orders_nothing_again(paper, server, tmp_path):
    """The backup is from before the session: its orders are at the broker, and filled."""
    paper.open()
    paper.ledger.engine.dispose()
    backup = (tmp_path / "ledger.db").read_bytes()
    assert paper.trade(AAA=0.5).submitted == 1
    paper.next_open()
    server.trade_open()
    paper.ledger.engine.dispose()
    (tmp_path / "ledger.db").write_bytes(backup)
    assert refused_by(paper.trade(AAA=0.5)) is Gate.RECONCILIATION
    assert "the ledger does not know" in paper.ledger.halt_state("main").detail
    paper.next_close()
    assert refused_by(paper.trade(AAA=0.5)) is Gate.HALT
    assert len(paper.accepted) == 1


# -- what is told ---------------------------------------------------------------------------------------------


def test_orders_that_were_sent_are_told_when_the_look_afterwards_fails(paper, server):
    server.faults.add(server_error(), always=True, path="/account", where=lambda _: bool(server.submissions))
    trades = paper.trade(AAA=0.5)
    assert len(paper.accepted) == 1
    assert (trades.planned, trades.submitted) == (1, 1)


def test_buys_wait_where_their_room_cannot_be_looked_at(paper, server):
    """One sale goes, one is refused, and then the account cannot be read: what went is told, the buy is kept."""
    paper.trade(AAA=0.3, BBB=0.3)
    paper.next_day()
    server.faults.add(forbidden(), method="POST", symbol="BBB")
    server.faults.add(server_error(), always=True, path="/account", where=lambda _: len(server.submissions) > 2)
    before = len(paper.accepted)
    trades = paper.trade(CCC=0.3)
    assert (trades.planned, trades.submitted, len(paper.accepted) - before) == (3, 1, 1)
    assert any("the buys wait until the broker answers" in text for text in trades.unsettled)
    server.faults.clear()
    again = paper.trade(CCC=0.3)
    assert (again.planned, again.submitted, again.unsettled) == (0, 1, ())


def test_posts_that_always_fail_halt_after_three_orders(paper, server):
    """Looking works and sending does not: those are failures in a row, too."""
    server.faults.add(server_error(), always=True, method="POST")
    trades = paper.trade(AAA=0.2, BBB=0.2, CCC=0.2, WHOLE=0.2)
    assert paper.ledger.halt_state("main").cause is Cause.BROKER_ERRORS
    assert len(trades.unsettled) == 3
