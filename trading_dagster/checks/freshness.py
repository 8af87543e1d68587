"""Freshness: is the newest session there that should be? Counted in sessions, so that holidays are no gaps.

Dagster's own freshness policies count hours, and would raise an alarm on every long weekend.
"""

from datetime import UTC, datetime

import dagster as dg
import pandas as pd

from trading_dagster.calendar import SessionCalendar
from trading_dagster.resources.freshness import GRACE, WATCHED, due_by, sessions_behind
from trading_dagster.resources.market_data import MarketDataSource
from trading_dagster.resources.tables import Tables

CHECK_NAME = "up_to_date"


def due_session(calendar: SessionCalendar, now: datetime, source: MarketDataSource) -> pd.Timestamp:
    """Newest session that should be there, given where the source ends."""
    return due_by(calendar, now, source.last_session)


def build_freshness_checks(calendar: SessionCalendar) -> list[dg.AssetChecksDefinition]:
    """Build the check for each of `WATCHED`; they look at what is stored, whenever they are run."""
    return [_build(asset, calendar) for asset in WATCHED]


def _build(asset: str, calendar: SessionCalendar) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset,
        name=CHECK_NAME,
        description=(
            f"The newest session that closed more than {GRACE.seconds // 3600} hours ago is there. Counted in sessions "
            "of the exchange: weekends and holidays are no delay. Run every hour by `freshness_schedule`."
        ),
    )
    def up_to_date(tables: dg.ResourceParam[Tables], source: dg.ResourceParam[MarketDataSource]) -> dg.AssetCheckResult:
        stored = tables.last_partition(asset)
        due = due_session(calendar, datetime.now(UTC), source)
        behind = sessions_behind(stored, due, calendar)
        newest = "nothing" if stored is None else f"{stored:%Y-%m-%d}"
        return dg.AssetCheckResult(
            passed=behind == 0,
            severity=dg.AssetCheckSeverity.WARN,
            description=(
                f"{newest} is stored and {due:%Y-%m-%d} is due, sessions behind: {behind}; see the runs and "
                f"`missed_sessions`, or: trading run --session {due:%Y-%m-%d}"
                if behind
                else f"{newest} is stored and {due:%Y-%m-%d} is due"
            ),
            metadata={"sessions_behind": behind, "due": f"{due:%Y-%m-%d}", "stored": newest},
        )

    return up_to_date
