"""What all stages share: their declaration, their sessions, and the metadata of what they return."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._pictures import Picture, png_markdown
from trading_dagster.calendar import SessionCalendar, session_calendar
from trading_dagster.checks.data_policy import data_policy_spec
from trading_dagster.execution.accounting import MarketSession, market_sessions
from trading_dagster.quant.prices import KnownHistory, average_volume, known_histories
from trading_dagster.resources.io_manager import read_versions
from trading_dagster.resources.lineage import LINEAGE, column_lineage
from trading_dagster.resources.schemas import TABLES, Column
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import load_settings

# dagster marks these as beta at each use; its version is pinned, so the user need not read that on every command
warnings.filterwarnings(
    "ignore",
    message="Parameter `(backfill_policy|allow_nonexistent_upstream_partitions)`",
    category=dg.BetaWarning,
)

OWNER = "team:trading"
CADENCE_TAG = "cadence"

# Partitions must be known when the module is imported; only the calendar's name is read from the settings here.
CALENDAR: SessionCalendar = session_calendar(load_settings().calendar)
SESSIONS = CALENDAR.session_partitions()
MONTHS = CALENDAR.month_partitions()


def stage(
    name: str, *, group: str, description: str, kinds: set[str], checks: list[dg.AssetCheckSpec] | None = None
) -> dict[str, Any]:
    """Declare a stage's asset: partitions, tags, policy check and column schema, the same way for all.

    Parameters
    ----------
    name : str
        Key of the asset and name of its table.
    group, description, kinds
        As the UI shows them.
    checks : list of AssetCheckSpec, optional
        Beside the data policy's.

    Returns
    -------
    dict
        Keyword arguments of ``dagster.asset``.
    """
    monthly = TABLES[name].monthly
    return {
        "name": name,
        "description": description,
        "group_name": group,
        "owners": [OWNER],
        "kinds": kinds,
        "tags": {CADENCE_TAG: "monthly" if monthly else "daily"},
        "partitions_def": MONTHS if monthly else SESSIONS,
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "check_specs": [data_policy_spec(name), *(checks or [])],
        "metadata": {"dagster/column_schema": _column_schema(name), "dagster/table_name": name},
    }


def partition_sessions(context: dg.AssetExecutionContext) -> pd.DatetimeIndex:
    """Return the run's sessions, ascending.

    Dagster accepts a holiday as a key in some places, and offers a future one; both fail here.

    Raises
    ------
    SessionError
        If a key is no session, or one that has not closed.
    """
    now = datetime.now(UTC)
    return pd.DatetimeIndex([CALENDAR.closed(key, now) for key in sorted(context.partition_keys)])


def histories(bars: pd.DataFrame, corporate_actions: pd.DataFrame, sessions: pd.DatetimeIndex) -> list[KnownHistory]:
    """Price histories as known to each of the sessions: one, unless a revision came in between."""
    return known_histories(bars, corporate_actions, sessions, CALENDAR.next_open_times(sessions))


def markets(
    known: Sequence[KnownHistory], span: pd.DatetimeIndex, gone: Mapping[str, pd.Timestamp]
) -> list[MarketSession]:
    """Sessions that an account passes, each as it was known; those between the run's are seen by the next of these."""
    found: list[MarketSession] = []
    for part in known:
        rows = span[span <= part.sessions[-1]]
        found += market_sessions(part.history, rows, gone)
        span = span[len(rows) :]
    return found


def average_volumes(
    bars: pd.DataFrame, known: Sequence[KnownHistory], sessions: pd.DatetimeIndex
) -> dict[pd.Timestamp, dict[str, Decimal]]:
    """Shares of each symbol that are traded in an average session, by session, where the source knows it."""
    rows = average_volume(bars, known[-1].history, sessions)
    return {
        at: {str(symbol): Decimal(repr(float(shares))) for symbol, shares in row.dropna().items()}
        for at, row in rows.iterrows()
    }


def observed(known: Sequence[KnownHistory]) -> list[tuple[pd.DatetimeIndex, pd.DataFrame]]:
    """What the data policy asks of histories."""
    return [(part.sessions, part.history.observed) for part in known]


def published(
    tables: Tables, name: str, rows: pd.DataFrame, first: pd.Timestamp, columns: Sequence[str]
) -> pd.DataFrame:
    """Rows of a run together with what the same stage has stored of earlier sessions, from `first` on."""
    start, wanted = rows["session"].min(), ["session", "symbol", *columns]
    earlier = tables.read(name, first=first, as_of=start - pd.Timedelta(days=1), columns=wanted)
    return pd.concat([earlier[wanted], rows[wanted]], ignore_index=True) if len(earlier) else rows[wanted]


class Stopwatch:
    """Time since a stage began."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return round(time.perf_counter() - self._start, 3)


def stage_output(
    context: dg.AssetExecutionContext,
    rows: pd.DataFrame,
    stopwatch: Stopwatch,
    *,
    inputs: Mapping[str, pd.DataFrame],
    figures: Callable[[str, pd.DataFrame], Mapping[str, float | int | str]],
    picture: Picture | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dg.Output[pd.DataFrame]:
    """Wrap a stage's rows with their metadata.

    Parameters
    ----------
    rows : DataFrame
        Of all the run's partitions.
    inputs : mapping of str to DataFrame
        Frames that were read; their Delta versions are recorded.
    figures : callable
        From one partition's key and rows to the figures that a person would chart over time.
    picture : callable, optional
        Draws onto a matplotlib figure; attached to the newest partition.
    facts : mapping, optional
        Further metadata of the whole run.
    """
    keys = sorted(context.partition_keys)
    column = TABLES[context.asset_key.to_user_string()].partition_column
    by_key = dict(tuple(rows.groupby(rows[column].dt.strftime("%Y-%m-%d"))))
    for key in keys:
        part = by_key.get(key, rows.iloc[:0])
        context.add_asset_metadata({"dagster/row_count": len(part), **figures(key, part)}, partition_key=key)
    if picture is not None and len(rows):
        context.add_asset_metadata({"picture": png_markdown(picture)}, partition_key=keys[-1])
    return dg.Output(
        rows,
        metadata={
            "seconds": stopwatch.seconds,
            "dagster/column_lineage": column_lineage(context.asset_key.to_user_string()),
            "input_versions": dg.JsonMetadataValue(read_versions(**inputs)),
            **(facts or {}),
        },
    )


def _described(name: str, column: Column) -> str:
    """Meaning of a column and what it is computed from: the UI shows a column's lineage nowhere else."""
    sources = LINEAGE[name].get(column.name, ())
    return column.description + (f" (from {', '.join(sources)})" if sources else "")


def _column_schema(name: str) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                str(column.type),
                _described(name, column),
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in TABLES[name].columns
        ]
    )
