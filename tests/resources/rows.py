"""Rows that fit their tables, and a reader of stored tables that goes around the code under test."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable

from trading_dagster.resources.tables import Tables


def allocation_rows(days: Iterable[date], weight: float = 0.1, symbols: Sequence[str] = ("AAA",)) -> pd.DataFrame:
    keys = [(pd.Timestamp(day), symbol) for day in days for symbol in symbols]
    rows = pd.DataFrame(keys, columns=["session", "symbol"])
    return rows.assign(weight=weight, method="by hand")


def bar_rows(day: date, closes: dict[str, float], known_at: datetime, source: str = "by hand") -> pd.DataFrame:
    rows = pd.DataFrame({"symbol": list(closes), "close": list(closes.values())})
    return rows.assign(
        session=pd.Timestamp(day), open=None, high=None, low=None, volume=None, source=source, known_at=known_at
    )


def volatility_rows(rows: Iterable[tuple[date, str, float, float | None]]) -> pd.DataFrame:
    """One row for each (session, symbol, sigma, atr); atr is the column that may be missing."""
    table = pd.DataFrame(list(rows), columns=["session", "symbol", "sigma_1d", "atr"])
    table = table.assign(sigma_21d=0.01, sigma_har=0.01, sigma_garch=0.01, sigma_ewma=0.01, sigma_rank=0.5)
    table = table.assign(var_95=0.02, var_99=0.03, es_975=0.03, stop_multiple=3.0, stop_distance=1.0, fitted="own")
    return table.assign(session=pd.to_datetime(table["session"]), atr=table["atr"].astype("float64"))


def stored(tables: Tables, name: str) -> pa.Table:
    """All that is on disk, by the Delta library alone."""
    return DeltaTable(str(Path(tables.uri) / name)).to_pyarrow_table()


def is_stored(tables: Tables, name: str) -> bool:
    return DeltaTable.is_deltatable(str(Path(tables.uri) / name))
