"""What the monthly models share: what they may know, and which months are fitted together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dagster as dg
import pandas as pd

from trading_dagster.assets._stage import CALENDAR
from trading_dagster.calendar import SessionError
from trading_dagster.checks.data_policy import Verdict
from trading_dagster.quant.prices import KnownHistory, PriceHistory

BEFORE_THE_MONTH = dg.TimeWindowPartitionMapping(
    start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True
)
"""Month M is fitted on what was known before its first session: the sessions up to the end of month M - 1."""

MODEL_OF_THE_MONTH = dg.TimeWindowPartitionMapping()
"""A session is served by the model of its calendar month."""


@dataclass(frozen=True)
class Fit:
    """Months that are fitted together: they know the same history and have the same symbols.

    Attributes
    ----------
    history : PriceHistory
        As known to the months, of all symbols.
    market : list of str
        Symbols that make the market of the regime stage.
    symbols : list of str
        Symbols that the model may learn from.
    months, fitted_to : DatetimeIndex
        First days of the months, and the last session before each.
    """

    history: PriceHistory
    market: list[str]
    symbols: list[str]
    months: pd.DatetimeIndex
    fitted_to: pd.DatetimeIndex


def partition_months(context: dg.AssetExecutionContext) -> pd.Series:
    """Return the run's months by the session that each is fitted to, ascending."""
    months = pd.DatetimeIndex(sorted(context.partition_keys))
    return pd.Series(months, index=pd.DatetimeIndex([_last_session_before(month) for month in months]))


def fits(component: str, known: Sequence[KnownHistory], verdict: Verdict, months: pd.Series) -> Iterator[Fit]:
    """Group the months of a run.

    Parameters
    ----------
    component : str
        The model, as the data policy names it.
    months : Series of datetime
        Months by the session that each is fitted to.
    """
    for part in known:
        observed = part.history.observed
        # one bar in quarantine at the month's end must not cost a symbol its model of the whole month
        flags = [verdict.usable(each, observed, part.sessions) for each in ("regime", component)]
        groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[pd.Timestamp]] = {}
        for last in part.sessions:
            market, symbols = (tuple(map(str, usable.columns[usable.loc[last]])) for usable in flags)
            groups.setdefault((market, symbols), []).append(last)
        for (market, symbols), those in groups.items():
            at = pd.DatetimeIndex(those)
            yield Fit(part.history, list(market), list(symbols), pd.DatetimeIndex(months.loc[at]), at)


def _last_session_before(month: pd.Timestamp) -> pd.Timestamp:
    first = CALENDAR.first_session_of_month(month)
    try:
        return CALENDAR.previous(first)
    except SessionError as error:
        raise SessionError(
            f"the model of {month:%Y-%m} has no session before it to be fitted on; choose a later month"
        ) from error
