"""What a command that runs until it is stopped shares with others of its kind."""

from __future__ import annotations

import signal
import sys


def stop_at_once() -> None:
    """Let SIGTERM and SIGINT end this process as one that has done its work.

    The first process of a container is sent SIGTERM by its engine, and without a handler would ignore it.
    """

    def end(*_: object) -> None:
        sys.exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
