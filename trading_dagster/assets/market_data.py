"""Fetch: bars and corporate actions, as traded, up to the session."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._stage import CALENDAR, Stopwatch, partition_sessions, stage, stage_output
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.policy import EARLIEST_DATE
from trading_dagster.resources.ledger import Ledger
from trading_dagster.resources.market_data import BAR_COLUMNS, MarketDataError, MarketDataSource, empty_rows
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import Settings


@dg.asset(
    **stage(
        "corporate_actions",
        group="market_data",
        kinds={"deltalake"},
        description=(
            "Splits and dividends with ex-dates up to the session. Prices are adjusted from them as of each session."
        ),
    )
)
def corporate_actions(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    source: dg.ResourceParam[MarketDataSource],
    tables: dg.ResourceParam[Tables],
    ledger: dg.ResourceParam[Ledger],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Fetch all actions up to the run's last session; what is stored already is not stored twice."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    _refuse_other_source(tables, "corporate_actions", source.name)
    yield from data_policy.enforce(context, "corporate_actions", pd.DataFrame(index=sessions[:0]), sessions)
    symbols = _symbols(settings, ledger)
    rows = source.corporate_actions(symbols, EARLIEST_DATE, sessions[-1].date())
    rows = _with_provenance(rows.assign(session=pd.to_datetime(rows["ex_date"])), source.name)
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={},
        figures=lambda _, part: {"actions": len(part)},
        facts={"source": source.name},
    )


@dg.asset(
    **stage(
        "bars",
        group="market_data",
        kinds={"deltalake"},
        description=(
            "Daily bars as traded, complete from 2000-01-01 (or the listing) up to the session. Only what is not "
            "stored yet is fetched; a changed bar is a new revision beside the old one."
        ),
    )
)
def bars(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    source: dg.ResourceParam[MarketDataSource],
    tables: dg.ResourceParam[Tables],
    ledger: dg.ResourceParam[Ledger],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Fetch the bars that are missing up to the run's last session."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    _refuse_other_source(tables, "bars", source.name)
    stored = tables.read("bars", columns=["session", "symbol", "close"])
    fetched = _fetch_missing(source, stored, _symbols(settings, ledger), sessions[-1].date())
    known = pd.concat([stored, fetched[["session", "symbol", "close"]]]) if len(stored) else fetched
    close = known.pivot_table(index="session", columns="symbol", values="close", aggfunc="last")
    yield from data_policy.enforce(context, "bars", close, sessions)
    rows = _with_provenance(fetched, source.name)
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={},
        figures=lambda _, part: {"symbols": int(part["symbol"].nunique())},
        facts={
            "source": source.name,
            "rows_fetched": len(rows),
            "symbols_stored": int(close.shape[1]),
            "sessions_stored": int(close.shape[0]),
        },
    )


def _symbols(settings: Settings, ledger: Ledger) -> list[str]:
    """Universe, and what is held although it left the universe: it must be valued until it is sold."""
    return sorted(set(settings.universe) | set(ledger.held_symbols(settings.strategy)))


def _fetch_missing(source: MarketDataSource, stored: pd.DataFrame, symbols: list[str], last: date) -> pd.DataFrame:
    """Fetch, for each symbol, the sessions after its last stored one; all of them where there is none."""
    newest = stored.groupby("symbol")["session"].max()
    groups: dict[date, list[str]] = {}
    for symbol in symbols:
        first = CALENDAR.next(newest[symbol]).date() if symbol in newest.index else EARLIEST_DATE
        if first <= last:
            groups.setdefault(first, []).append(symbol)
    parts = [source.bars(group, first, last) for first, group in groups.items()]
    return pd.concat(parts, ignore_index=True) if parts else empty_rows(BAR_COLUMNS)


def _with_provenance(rows: pd.DataFrame, source: str) -> pd.DataFrame:
    """Say where rows came from, and since when they count as known.

    A first load cannot know when a vendor first published a bar; the session's close is the convention. What
    differs from a stored bar later is a revision with its own time.
    """
    closes = {session: CALENDAR.close_time(session).tz_convert("UTC") for session in rows["session"].unique()}
    known_at = pd.to_datetime(rows["session"].map(closes), utc=True)
    return rows.assign(source=source, known_at=known_at)


def _refuse_other_source(tables: Tables, table: str, source: str) -> None:
    others = set(tables.read(table, columns=["source"])["source"]) - {source}
    if others:
        raise MarketDataError(
            f"{table} under {tables.uri} came from {', '.join(sorted(others))}, and TRADING_SOURCE is {source}; two "
            "sources must not be mixed in one store: set TRADING_DATA_DIR (or TRADING_TABLES_URI) to another place"
        )
