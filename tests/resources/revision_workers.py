"""What the tests of revisions run in processes of their own; kept apart so that a process loads little."""

import os
import signal
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from trading_dagster.resources import tables as module
from trading_dagster.resources.tables import Tables

from .rows import bar_rows

PIECES = 9


def revision(symbol: str, number: int, hour: int = 22) -> pd.DataFrame:
    """One revision of one bar: the number tells day, close and when it became known."""
    day = pd.Timestamp("2020-01-02") + pd.Timedelta(days=number % 5)
    known_at = datetime(2020, 1, 10, hour, tzinfo=UTC) + pd.Timedelta(minutes=number)
    return bar_rows(day, {symbol: 100.0 + number}, known_at)


def add_in_pieces(worker: int, uri: str, shared: bool) -> str:
    """Add nine revisions, of an own symbol or of one that all processes share; the answer is empty, or the error."""
    symbol = "SHARED" if shared else f"OWN{worker}"
    try:
        for number in range(PIECES):
            # the shared ones begin elsewhere in each process, so that some are new and some are known when they meet
            Tables(uri).add_revisions("bars", revision(symbol, (number + 3 * worker) % PIECES if shared else number))
    except Exception as error:  # noqa: BLE001  # whatever it is, the test shows it
        return f"{type(error).__name__}: {error}"
    return ""


def add_and_be_killed(uri: str, rows: pd.DataFrame, when: str) -> None:
    """Add revisions, and be killed as by the kernel at the first commit: before it, or right after it."""
    write: Any = module.write_deltalake

    def write_and_die(*arguments: Any, **options: Any) -> None:
        if when == "after":
            write(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    module.write_deltalake = write_and_die
    Tables(uri).add_revisions("bars", rows)


def add_for_ever(uri: str, rows: pd.DataFrame) -> None:
    """Add revisions one after the other, until killed."""
    for number in range(len(rows)):
        Tables(uri).add_revisions("bars", rows.iloc[[number]])
