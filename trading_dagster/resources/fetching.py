"""Fetching from a vendor over the network: batches at once, retries, and a time budget for all of them.

Belongs here: what is true of any vendor. What a vendor's answers mean is in its own source.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar

import tenacity

from trading_dagster.policy import EARLIEST_DATE, DataPolicyError
from trading_dagster.resources.market_data import Report

T = TypeVar("T")


class TransientError(Exception):
    """A request that may succeed if it is made again.

    Parameters
    ----------
    cause : str
    retry_after : float, optional
        Seconds that the vendor asked to wait.
    """

    def __init__(self, cause: str, retry_after: float | None = None) -> None:
        super().__init__(cause)
        self.retry_after = retry_after


class RefusedError(Exception):
    """A request that will fail however often it is made."""


class _EndedError(Exception):
    """The fetch is over before this attempt began: its time is spent, or it was aborted."""


@dataclass(frozen=True)
class Pace:
    """How long to wait between attempts, and by which clock.

    Attributes
    ----------
    attempts : int
        Of one batch, in all.
    wait_unit, longest_wait : float
        The wait before attempt n + 1 is drawn evenly from 0 to ``wait_unit * 2 ** (n - 1)`` seconds, at most
        `longest_wait`: clients that failed together do not come back together.
    report_every : float
        Seconds between two reports of progress.
    clock, wait : callable
        Monotonic seconds, and how to let them pass unless the event is set.
    """

    attempts: int = 6
    wait_unit: float = 2.0
    longest_wait: float = 60.0
    report_every: float = 5.0
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[threading.Event, float], object] = threading.Event.wait


def fetch_batches(
    batches: Sequence[Sequence[str]],
    fetch: Callable[[Sequence[str]], T],
    *,
    concurrency: int,
    seconds: float,
    report: Report,
    what: str,
    pace: Pace | None = None,
) -> tuple[list[T], dict[str, str]]:
    """Run `fetch` for each batch of symbols, several at once.

    Parameters
    ----------
    batches : sequence of sequence of str
    fetch : callable
        Makes one attempt for a batch, in a thread. `TransientError` is retried. `RefusedError` of several symbols
        is retried symbol by symbol, so that only the guilty one fails. Anything else ends the whole fetch.
    concurrency : int
        Attempts at once.
    seconds : float
        Time for all batches together; no attempt starts after it.
    report : callable
        Called by one thread at a time.
    what : str
        What is fetched, for the reports.
    pace : Pace, optional

    Returns
    -------
    answers : list
        What `fetch` returned, in the order of the batches.
    failures : dict
        Symbol to the reason why no answer for it came.
    """
    return _Fetch(fetch, batches, concurrency, seconds, report, what, pace or Pace()).run()


def retry_after_seconds(value: str | None, now: datetime | None = None) -> float | None:
    """Read a ``Retry-After`` header: seconds or an HTTP date; None where it is absent or neither of them."""
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None  # RFC 9110 lets a client ignore what it cannot read; the usual wait applies
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0)


def http_error(vendor: str, status: int, detail: str, retry_after: float | None) -> TransientError | RefusedError:
    """Tell by its HTTP status whether a failed request may be made again."""
    text = f"{vendor} answered {status}: {' '.join(detail.split())[:200] or 'no text'}"
    if status in (408, 425, 429) or status >= 500:
        return TransientError(text, retry_after)
    return RefusedError(text)


def require_policy(source: str, first: date) -> None:
    """Refuse to ask a vendor for what the data policy excludes.

    Raises
    ------
    DataPolicyError
        If `first` is before 2000-01-01.
    """
    if first < EARLIEST_DATE:
        raise DataPolicyError(
            f"{source}: data from {first} on were asked for; nothing before {EARLIEST_DATE} may be requested: ask "
            f"from {EARLIEST_DATE} on"
        )


class _Fetch(Generic[T]):
    """One call of `fetch_batches`."""

    def __init__(
        self,
        fetch: Callable[[Sequence[str]], T],
        batches: Sequence[Sequence[str]],
        concurrency: int,
        seconds: float,
        report: Report,
        what: str,
        pace: Pace,
    ) -> None:
        self.fetch, self.batches, self.concurrency, self.seconds = fetch, batches, concurrency, seconds
        self.report, self.what, self.pace = report, what, pace
        self.started = self.reported = pace.clock()
        self.aborted = threading.Event()
        self.reporting = threading.Lock()

    def run(self) -> tuple[list[T], dict[str, str]]:
        """Fetch all batches."""
        answers: dict[int, list[T]] = {}
        failures: dict[str, str] = {}
        done, total = 0, sum(map(len, self.batches))
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix=f"fetch-{self.what}") as pool:
            futures = {pool.submit(self._batch, batch): at for at, batch in enumerate(self.batches)}
            try:
                for future in as_completed(futures):
                    answers[futures[future]], failed = future.result()
                    failures |= failed
                    done += len(self.batches[futures[future]])
                    self._progress(done, total)
            except BaseException:
                self.aborted.set()  # on an interrupt, too; wakes those that wait for their next attempt
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [answer for at in sorted(answers) for answer in answers[at]], failures

    def _batch(self, batch: Sequence[str]) -> tuple[list[T], dict[str, str]]:
        try:
            return [self._retried(batch)], {}
        except tenacity.RetryError as error:
            return [], dict.fromkeys(batch, self._reason(error.last_attempt))
        except _EndedError:
            return [], dict.fromkeys(batch, f"not begun within {self._budget()}")
        except RefusedError as error:
            if len(batch) == 1:
                return [], {batch[0]: f"{error}; no further attempt can help"}
        except BaseException:
            self.aborted.set()  # here, since this thread would take up the next batch before the main one sees it
            raise
        alone = [self._batch([symbol]) for symbol in batch]
        failures = {symbol: text for _, failed in alone for symbol, text in failed.items()}
        return [answer for found, _ in alone for answer in found], failures

    def _retried(self, batch: Sequence[str]) -> T:
        def attempt() -> T:
            if self.aborted.is_set() or self._left() <= 0:
                raise _EndedError
            return self.fetch(batch)

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            # a wait that does not fit is not begun: what cannot succeed should fail at once
            stop=lambda state: state.attempt_number >= self.pace.attempts or state.upcoming_sleep >= self._left(),
            wait=self._wait,
            before_sleep=lambda state: self._say_retry(batch, state),
            sleep=self._sleep,
        )(attempt)

    def _sleep(self, seconds: float) -> None:
        self.pace.wait(self.aborted, seconds)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Full jitter, on top of what the vendor asked for."""
        jitter = tenacity.wait_random_exponential(multiplier=self.pace.wait_unit, max=self.pace.longest_wait)
        assert state.outcome is not None
        return (_retry_after(state.outcome) or 0.0) + jitter(state)

    def _reason(self, outcome: tenacity.Future) -> str:
        """Why a batch was given up."""
        error, asked = outcome.exception(), _retry_after(outcome)
        if outcome.attempt_number >= self.pace.attempts:
            return f"{error}; given up after {outcome.attempt_number} attempts: run again later"
        wait = "the wait before the next one" if asked is None else f"the {asked:.0f} s that it asked to wait"
        return f"{error}; given up after attempt {outcome.attempt_number}, since {wait} would not end within " + (
            self._budget()
        )

    def _budget(self) -> str:
        return (
            f"the {self.seconds:g} s of TRADING_FETCH_SECONDS, of which {max(self._left(), 0):.0f} are left: raise it, "
            "or run again later"
        )

    def _left(self) -> float:
        return self.started + self.seconds - self.pace.clock()

    def _progress(self, done: int, total: int) -> None:
        now = self.pace.clock()
        if done == total or now - self.reported >= self.pace.report_every:
            self.reported = now
            self._say(f"{self.what}: {done} of {total} symbols, {now - self.started:.0f} s")

    def _say_retry(self, batch: Sequence[str], state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        shown = ", ".join(batch[:3]) + (f" and {len(batch) - 3} more" if len(batch) > 3 else "")
        self._say(
            f"{self.what}: {shown}: {state.outcome.exception()}; attempt {state.attempt_number + 1} of "
            f"{self.pace.attempts} in {state.upcoming_sleep:.1f} s"
        )

    def _say(self, text: str) -> None:
        with self.reporting:
            self.report(text)


def _retry_after(outcome: tenacity.Future) -> float | None:
    error = outcome.exception()
    return error.retry_after if isinstance(error, TransientError) else None
