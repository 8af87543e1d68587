"""Market data sources: the protocol.

Belongs here: what is true of any source. Each source's own format is in its own module, the rules that an answer
must meet are in `checks.market_data_quality`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

import pandas as pd

BAR_COLUMNS = ["session", "symbol", "open", "high", "low", "close", "volume"]
ACTION_COLUMNS = ["ex_date", "symbol", "kind", "value"]


class MarketDataError(ValueError):
    """Data that cannot be used, or a request that a source cannot answer. Nothing of it is stored."""


Report = Callable[[str], None]
"""Told, in words, how far a fetch has come."""


@dataclass(frozen=True)
class Answer:
    """What came of a request, and what did not.

    Attributes
    ----------
    rows : DataFrame
        `BAR_COLUMNS` or `ACTION_COLUMNS`, in any order: sessions and ex-dates as naive timestamps at midnight,
        numbers as float64, missing values as NaN. Never rows of a symbol in `failures`.
    failures : mapping of str to str
        Symbol to the reason why nothing of it came, after all attempts. A symbol that the source answered with
        no row at all is no failure.
    columns : mapping of str to tuple of str
        Symbol to the names of the columns in the vendor's own answer, before any of them was renamed or left out.
    """

    rows: pd.DataFrame
    failures: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class MarketDataSource(Protocol):
    """Where bars and corporate actions come from.

    What concerns one symbol is a failure in the answer, and the others' rows are kept. What concerns the whole
    source (no credentials, no such folder) raises `MarketDataError`.
    """

    @property
    def name(self) -> str:
        """Written into every row."""

    @property
    def last_session(self) -> date | None:
        """Where the source ends; None for one that goes on."""

    def bars(self, symbols: Sequence[str], first: date, last: date, report: Report) -> Answer:
        """Fetch `BAR_COLUMNS` as traded, from `first` to `last`, both included."""

    def corporate_actions(self, symbols: Sequence[str], first: date, last: date, report: Report) -> Answer:
        """Fetch `ACTION_COLUMNS` with ex-dates from `first` to `last`, both included."""


def empty_rows(columns: Sequence[str]) -> pd.DataFrame:
    """No rows, of the types that rows would have."""
    types = {"session": "datetime64[us]", "ex_date": "datetime64[us]", "symbol": "str", "kind": "str"}
    return pd.DataFrame({name: pd.Series(dtype=types.get(name, "float64")) for name in columns})
