"""What goes wrong at a vendor, planned by a test, and what was asked of it, recorded for the test.

Belongs here: faults of any HTTP vendor, which requests meet them, and the log. Does not belong here: how a fault
becomes bytes on a socket (`loopback`), and answers that are odd but legal (the vendors' own `oddities`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from threading import Lock
from typing import Literal

Kind = Literal[
    "status",
    "stall",
    "truncated",
    "cut_short",
    "dropped",
    "lost",
    "stalled_unprocessed",
    "late",
    "answered_late",
    "status_after",
]


@dataclass
class Request:
    """One request as it arrived; `status` is set when it was answered, and stays None when it was not.

    Attributes
    ----------
    time : float
        `time.monotonic()` on arrival.
    query : mapping
        The last value of each parameter.
    symbols : tuple of str
        What it asks for; empty where the request is about no symbol.
    fault : str or None
        Kind of the fault it met.
    body : bytes
        What was sent along.
    """

    time: float
    method: str
    path: str
    query: dict[str, str]
    symbols: tuple[str, ...]
    headers: dict[str, str] = field(repr=False)
    status: int | None = None
    fault: str | None = None
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong. Made by the functions below, which say whether the request is processed.

    It matters for a request that changes something: a client cannot tell `dropped` from `lost`, nor `stalled` from
    `answered_late` or `stalled_unprocessed`, nor `server_error` from `server_error_after`.
    """

    kind: Kind
    status: int = 200
    seconds: float = 0.0
    retry_after: float | None = None
    as_date: bool = False

    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        if self.retry_after is None:
            return {}
        if self.as_date:
            # the form knows whole seconds; rounded up, or the client is told to come back too early
            return {"Retry-After": formatdate(math.ceil(time.time() + self.retry_after), usegmt=True)}
        return {"Retry-After": f"{self.retry_after:g}"}


def rate_limited(retry_after: float | None = None, *, as_date: bool = False) -> Fault:
    """429, with the seconds to wait, or the same as an HTTP date, or without either. Not processed."""
    return Fault("status", 429, retry_after=retry_after, as_date=as_date)


def server_error(status: int = 500, retry_after: float | None = None) -> Fault:
    """5xx, in the vendor's own words. Not processed."""
    return Fault("status", status, retry_after=retry_after)


def forbidden() -> Fault:
    """403, in the vendor's own words. Not processed."""
    return Fault("status", 403)


def stalled(seconds: float) -> Fault:
    """Nothing for so many seconds; then it is processed, and answered rightly, if the client is still there.

    It is processed when the client is gone, too: an order sent so is taken after the client's time-out.
    """
    return Fault("stall", seconds=seconds)


def truncated() -> Fault:
    """The right status with the first half of the JSON, and headers that agree with that. Processed.

    An answer without a body is not changed by it, nor by `cut_short`.
    """
    return Fault("truncated")


def cut_short() -> Fault:
    """A Content-Length that announces the whole body, and a connection that closes after half of it. Processed."""
    return Fault("cut_short")


def dropped() -> Fault:
    """Connection closed without a byte of an answer. Not processed."""
    return Fault("dropped", status=0)


def lost() -> Fault:
    """Processed at once; then the connection is closed without a byte of an answer."""
    return Fault("lost", status=0)


def stalled_unprocessed(seconds: float) -> Fault:
    """Nothing for so many seconds, and then the connection is closed. Never processed."""
    return Fault("stalled_unprocessed", status=0, seconds=seconds)


def late(seconds: float) -> Fault:
    """Nothing for so many seconds; then it is processed, and the connection closed without an answer.

    Not processed if the server ends before.
    """
    return Fault("late", status=0, seconds=seconds)


def answered_late(seconds: float) -> Fault:
    """Processed at once, and answered after so many seconds: a time-out after acceptance."""
    return Fault("answered_late", seconds=seconds)


def server_error_after(status: int = 500) -> Fault:
    """Processed at once, and answered with 5xx, in the vendor's own words."""
    return Fault("status_after", status)


@dataclass
class _Planned:
    fault: Fault
    left: float
    skip: int
    symbol: str | None
    path: str | None
    method: str | None
    where: Callable[[Request], bool] | None

    def matches(self, request: Request) -> bool:
        return (
            (self.symbol is None or self.symbol in request.symbols)
            and (self.path is None or self.path in request.path)
            and (self.method is None or self.method == request.method)
            and (self.where is None or self.where(request))
        )


class FaultPlan:
    """The faults to come. The first planned one that a request matches is the one it meets. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._planned: list[_Planned] = []

    def add(
        self,
        fault: Fault,
        *,
        times: int = 1,
        always: bool = False,
        skip: int = 0,
        symbol: str | None = None,
        path: str | None = None,
        method: str | None = None,
        where: Callable[[Request], bool] | None = None,
    ) -> None:
        """Plan a fault for the next `times` matching requests, or for all of them, after letting `skip` pass.

        A request matches when it asks for `symbol`, its path contains `path`, its method is `method`, and `where`
        holds of it; what is not given does not matter.
        """
        with self._lock:
            self._planned.append(_Planned(fault, math.inf if always else times, skip, symbol, path, method, where))

    def clear(self) -> None:
        """Nothing goes wrong from now on."""
        with self._lock:
            self._planned.clear()

    def take(self, request: Request) -> Fault | None:
        """Use up the fault that this request meets, if any."""
        with self._lock:
            for planned in self._planned:
                if planned.left <= 0 or not planned.matches(request):
                    continue
                if planned.skip > 0:
                    planned.skip -= 1
                    continue
                planned.left -= 1
                return planned.fault
        return None


class RequestLog:
    """Every request in the order of arrival, and how many were being answered at once. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests: list[Request] = []
        self._running = 0
        self._most_at_once = 0

    def begin(self, request: Request) -> None:
        """Note an arrival."""
        with self._lock:
            self._requests.append(request)
            self._running += 1
            self._most_at_once = max(self._most_at_once, self._running)

    def finish(self) -> None:
        """Note that one is done with."""
        with self._lock:
            self._running -= 1

    def requests(self, path: str = "", symbol: str | None = None) -> list[Request]:
        """Requests so far whose path contains `path` and which ask for `symbol`."""
        with self._lock:
            return [r for r in self._requests if path in r.path and (symbol is None or symbol in r.symbols)]

    @property
    def most_at_once(self) -> int:
        """Most requests that were being answered at the same time, since the last `clear`."""
        with self._lock:
            return self._most_at_once

    def clear(self) -> None:
        """Forget everything so far."""
        with self._lock:
            self._requests.clear()
            self._most_at_once = self._running
