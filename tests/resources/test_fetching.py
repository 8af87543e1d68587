"""Batches, retries and the time budget, by a clock that the test moves."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import pytest

from trading_dagster.policy import EARLIEST_DATE, DataPolicyError
from trading_dagster.resources.fetching import (
    Pace,
    RefusedError,
    TransientError,
    fetch_batches,
    http_error,
    require_policy,
    retry_after_seconds,
)
from trading_dagster.resources.market_data import MarketDataError

Fetch = Callable[[Sequence[str]], Any]


@dataclass
class Clock:
    """Time that passes only when somebody waits."""

    now: float = 1000.0
    waits: list[float] = field(default_factory=list)

    def wait(self, _: threading.Event, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def pace(self, **changes: Any) -> Pace:
        return Pace(clock=lambda: self.now, wait=self.wait, **changes)


@dataclass
class Vendor:
    """Raises what is planned for a symbol, one after the other, and then answers; `always` never ends."""

    planned: dict[str, list[Exception]] = field(default_factory=dict)
    always: dict[str, Exception] = field(default_factory=dict)
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, batch: Sequence[str]) -> dict[str, int]:
        self.calls.append(tuple(batch))
        for symbol in batch:
            if symbol in self.always:
                raise self.always[symbol]
            if self.planned.get(symbol):
                raise self.planned[symbol].pop(0)
        return {symbol: len(symbol) for symbol in batch}


def run(
    batches: Sequence[Sequence[str]], fetch: Fetch, clock: Clock, *, seconds: float = 1800.0, concurrency: int = 1
) -> tuple[list[Any], dict[str, str], list[str]]:
    said: list[str] = []
    answers, failures = fetch_batches(
        batches,
        fetch,
        concurrency=concurrency,
        seconds=seconds,
        report=said.append,
        what="bars",
        pace=clock.pace(),
    )
    return answers, failures, said


@pytest.fixture
def clock() -> Clock:
    return Clock()


# -- retries --------------------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_batches(clock: Clock) -> None:
    late = threading.Event()

    def fetch(batch: Sequence[str]) -> str:
        if batch[0] == "A":
            assert late.wait(10)
        else:
            late.set()
        return batch[0]

    assert run([["A"], ["B"], ["C"]], fetch, clock, concurrency=3)[:2] == (["A", "B", "C"], {})


def test_no_batches_are_no_answers(clock: Clock) -> None:
    assert run([], Vendor(), clock) == ([], {}, [])


def test_transient_error_is_retried_and_said(clock: Clock) -> None:
    vendor = Vendor(planned={"B": [TransientError("503 busy"), TransientError("503 busy")]})
    answers, failures, said = run([["A", "B", "C", "D", "E"]], vendor, clock)
    assert answers == [dict.fromkeys("ABCDE", 1)]
    assert failures == {}
    assert len(vendor.calls) == 3
    first, second, done = said
    assert first == f"bars: A, B, C and 2 more: 503 busy; attempt 2 of 6 in {clock.waits[0]:.1f} s"
    assert "attempt 3 of 6" in second
    assert done == f"bars: 5 of 5 symbols, {sum(clock.waits):.0f} s"


def test_gives_up_after_six_attempts_and_keeps_the_others(clock: Clock) -> None:
    vendor = Vendor(always={"B": TransientError("503 busy")})
    answers, failures, _ = run([["A"], ["B", "C"], ["D"]], vendor, clock)
    assert answers == [{"A": 1}, {"D": 1}]
    assert failures == dict.fromkeys("BC", "503 busy; given up after 6 attempts: run again later")
    assert Counter(vendor.calls) == {("A",): 1, ("B", "C"): 6, ("D",): 1}
    assert len(clock.waits) == 5


def test_waits_are_drawn_from_doubling_ranges_up_to_a_longest(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    ranges: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        ranges.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", draw)
    fetch_batches(
        [["A"]],
        Vendor(always={"A": TransientError("503")}),
        concurrency=1,
        seconds=1000,
        report=lambda _: None,
        what="bars",
        pace=clock.pace(wait_unit=2.0, longest_wait=10.0),
    )
    assert ranges[:5] == [(0, 2), (0, 4), (0, 8), (0, 10), (0, 10)]
    assert clock.waits == [2, 4, 8, 10, 10]


def test_retry_after_is_the_least_wait(clock: Clock) -> None:
    vendor = Vendor(planned={"A": [TransientError("429", retry_after=90.0), TransientError("503")]})
    run([["A"]], vendor, clock)
    assert 90 <= clock.waits[0] <= 92
    assert clock.waits[1] <= 4


def test_retry_after_beyond_the_budget_is_not_waited_for(clock: Clock) -> None:
    answers, failures, said = run(
        [["A"], ["B"]], Vendor(always={"A": TransientError("429 slow down", retry_after=120.0)}), clock, seconds=100
    )
    assert clock.waits == []
    assert answers == [{"B": 1}]
    assert failures == {
        "A": "429 slow down; given up after attempt 1, since the 120 s that it asked to wait would not end within the "
        "100 s of TRADING_FETCH_SECONDS, of which 100 are left: raise it, or run again later"
    }
    assert said == ["bars: 2 of 2 symbols, 0 s"]


# -- budget ---------------------------------------------------------------------------------------------------------


def test_no_attempt_starts_after_the_budget(clock: Clock) -> None:
    calls: list[str] = []

    def fetch(batch: Sequence[str]) -> str:
        calls.append(batch[0])
        clock.now += 40
        return batch[0]

    answers, failures, _ = run([["A"], ["B"], ["C"], ["D"]], fetch, clock, seconds=80)
    assert (answers, calls) == (["A", "B"], ["A", "B"])
    assert failures == dict.fromkeys(
        "CD",
        "not begun within the 80 s of TRADING_FETCH_SECONDS, of which 0 are left: raise it, or run again later",
    )


def test_usual_wait_beyond_the_budget_is_not_begun(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    # 2 + 4 fit into 10 seconds, and 8 more do not
    _, failures, _ = run([["A"]], Vendor(always={"A": TransientError("503")}), clock, seconds=10)
    assert clock.waits == [2, 4]
    assert "given up after attempt 3, since the wait before the next one would not end within the 10 s" in failures["A"]
    assert "of which 4 are left: raise it" in failures["A"]


def test_budget_holds_for_the_symbols_of_a_refused_batch(clock: Clock) -> None:
    def fetch(batch: Sequence[str]) -> str:
        clock.now += 50
        if len(batch) > 1:
            raise RefusedError("400 invalid symbol")
        return batch[0]

    answers, failures, _ = run([["A", "B", "C"]], fetch, clock, seconds=100)
    assert answers == ["A"]
    assert sorted(failures) == ["B", "C"]


# -- refusals -------------------------------------------------------------------------------------------------------


def test_refused_batch_is_asked_for_symbol_by_symbol(clock: Clock) -> None:
    vendor = Vendor(always={"B": RefusedError("400 invalid symbol: B")}, planned={"C": [TransientError("503")]})
    answers, failures, _ = run([["A", "B", "C"]], vendor, clock)
    assert answers == [{"A": 1}, {"C": 1}]
    assert failures == {"B": "400 invalid symbol: B; no further attempt can help"}
    assert vendor.calls == [("A", "B", "C"), ("A",), ("B",), ("C",), ("C",)]


def test_refused_symbol_is_asked_for_once(clock: Clock) -> None:
    vendor = Vendor(always={"A": RefusedError("400")})
    assert run([["A"]], vendor, clock)[1] == {"A": "400; no further attempt can help"}
    assert vendor.calls == [("A",)]


@pytest.mark.parametrize("error", [MarketDataError("wrong keys"), ZeroDivisionError("a mistake of ours")])
def test_any_other_error_ends_the_whole_fetch(error: Exception, clock: Clock) -> None:
    vendor = Vendor(always={"B": error})
    with pytest.raises(type(error), match=str(error)):
        run([["A"], ["B"], ["C"], ["D"], ["E"], ["F"]], vendor, clock)
    # one thread: what it had begun when the error was seen may end, no more
    assert len(vendor.calls) <= 3


def test_end_of_the_fetch_wakes_those_that_wait(clock: Clock) -> None:
    waiting = threading.Event()
    calls: Counter[str] = Counter()

    def fetch(batch: Sequence[str]) -> str:
        calls[batch[0]] += 1
        if batch[0] == "A":
            raise TransientError("503", retry_after=600)
        assert waiting.wait(10)
        raise MarketDataError("wrong keys")

    def wait(aborted: threading.Event, seconds: float) -> None:
        waiting.set()
        assert aborted.wait(10), "nobody woke it"

    pace = Pace(clock=lambda: clock.now, wait=wait)
    with pytest.raises(MarketDataError):
        fetch_batches([["A"], ["B"]], fetch, concurrency=2, seconds=1800, report=lambda _: None, what="bars", pace=pace)
    assert calls == {"A": 1, "B": 1}


def test_interrupt_wakes_those_that_wait(clock: Clock) -> None:
    waiting, woken = threading.Event(), []

    def fetch(batch: Sequence[str]) -> str:
        if batch[0] == "A":
            raise TransientError("503", retry_after=600)
        assert waiting.wait(10)
        return batch[0]

    def wait(aborted: threading.Event, seconds: float) -> None:
        waiting.set()
        woken.append(aborted.wait(10))

    def report(text: str) -> None:
        if "of 2 symbols" in text:
            raise KeyboardInterrupt

    pace = Pace(clock=lambda: clock.now, wait=wait, report_every=0)
    with pytest.raises(KeyboardInterrupt):
        fetch_batches([["A"], ["B"]], fetch, concurrency=2, seconds=1800, report=report, what="bars", pace=pace)
    assert woken == [True]


# -- how it is run --------------------------------------------------------------------------------------------------


def test_concurrency_is_used_and_bounded(clock: Clock) -> None:
    three = threading.Barrier(3, timeout=10)
    running, most, lock = 0, 0, threading.Lock()

    def fetch(batch: Sequence[str]) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        three.wait()  # passes only where three are at it together
        with lock:
            running -= 1

    run([[str(n)] for n in range(12)], fetch, clock, concurrency=3)
    assert most == 3


def test_progress_is_said_every_five_seconds_and_at_the_end(clock: Clock) -> None:
    def fetch(batch: Sequence[str]) -> None:
        clock.now += 2
        # one at a time, and each seen before the next begins
        seen.wait(0.02)

    seen = threading.Event()
    _, _, said = run([[str(n), "x"] for n in range(8)], fetch, clock)
    assert said[-1] == "bars: 16 of 16 symbols, 16 s"
    assert 3 <= len(said) <= 4, said
    assert all(line.startswith("bars: ") and " of 16 symbols, " in line for line in said)


def test_one_report_at_a_time(clock: Clock) -> None:
    inside, together = 0, []

    def report(_: str) -> None:
        nonlocal inside
        inside += 1
        together.append(inside)
        threading.Event().wait(0.001)
        inside -= 1

    vendor = Vendor(planned={str(n): [TransientError("503")] * 2 for n in range(20)})
    batches = [[str(n)] for n in range(20)]
    fetch_batches(batches, vendor, concurrency=8, seconds=1800, report=report, what="bars", pace=clock.pace())
    assert len(together) >= 41
    assert max(together) == 1


def test_real_clock_and_wait_are_the_defaults() -> None:
    pace = Pace()
    aborted = threading.Event()
    before = pace.clock()
    pace.wait(aborted, 0.02)
    assert pace.clock() - before >= 0.015
    aborted.set()
    pace.wait(aborted, 600)
    answers, failures = fetch_batches([["A"]], Vendor(), concurrency=1, seconds=10, report=lambda _: None, what="bars")
    assert (answers, failures) == ([{"A": 1}], {})


# -- what vendors say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 30.0),
        ("Wednesday, 21-Oct-15 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 30.0),
        ("Wed, 21 Oct 2015 07:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("²", None),
    ],
)
def test_retry_after_in_both_forms(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, datetime(2015, 10, 21, 7, 27, 30, tzinfo=UTC)) == seconds


def test_retry_after_counts_from_now() -> None:
    found = retry_after_seconds("Wed, 21 Oct 2099 07:28:00 GMT")
    assert found is not None
    assert abs(found - (datetime(2099, 10, 21, 7, 28, tzinfo=UTC) - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 999])
def test_status_that_may_pass(status: int) -> None:
    error = http_error("Yahoo", status, "Too Many\r\nRequests", 3.0)
    assert isinstance(error, TransientError)
    assert error.retry_after == 3.0
    assert str(error) == f"Yahoo answered {status}: Too Many Requests"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_status_that_will_not_pass(status: int) -> None:
    error = http_error("Yahoo", status, "", None)
    assert isinstance(error, RefusedError)
    assert str(error) == f"Yahoo answered {status}: no text"


def test_long_answer_is_cut() -> None:
    assert len(str(http_error("Yahoo", 500, "x" * 5000, None))) < 250


def test_nothing_before_2000_is_asked_for() -> None:
    require_policy("yahoo", EARLIEST_DATE)
    with pytest.raises(DataPolicyError, match=r"yahoo: data from 1999-12-31 on .* nothing before 2000-01-01"):
        require_policy("yahoo", date(1999, 12, 31))
