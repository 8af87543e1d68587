"""The user's own prices: a folder with one CSV or Parquet file a symbol."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pandas as pd

from trading_dagster.calendar import SessionCalendar
from trading_dagster.resources.market_data import (
    ACTION_COLUMNS,
    BAR_COLUMNS,
    MarketDataError,
    check_actions,
    check_bars,
    empty_rows,
)

REQUIRED = ("date", "close")
NUMBERS = ("open", "high", "low", "close", "volume", "dividend", "split")


class FilesSource:
    """Read ``SYMBOL.csv`` or ``SYMBOL.parquet`` files.

    Columns: date, close and, where known, open, high, low, volume (as traded), dividend (cash per share as
    traded, on its ex-date) and split (new shares per old share, on its ex-date). Others are ignored.

    Parameters
    ----------
    folder : Path
    calendar : SessionCalendar
    """

    name = "files"
    last_session = None

    def __init__(self, folder: Path, calendar: SessionCalendar) -> None:
        self.folder = folder
        self.calendar = calendar

    def bars(self, symbols: Sequence[str], first: date, last: date) -> pd.DataFrame:
        """Bars of the given symbols.

        Each file is checked whole, also outside the range: an error elsewhere in it puts the rest in doubt.

        Raises
        ------
        MarketDataError, DataPolicyError
            If a file is absent, cannot be read, or holds what `check_bars` refuses.
        """
        parts = [self._bars(symbol) for symbol in symbols]
        rows = pd.concat(parts, ignore_index=True) if parts else empty_rows(BAR_COLUMNS)
        inside = (rows["session"] >= pd.Timestamp(first)) & (rows["session"] <= pd.Timestamp(last))
        return rows[inside].reset_index(drop=True)

    def corporate_actions(self, symbols: Sequence[str], first: date, last: date) -> pd.DataFrame:
        """Splits and dividends of the given symbols; a split of 0 or 1 and a dividend of 0 are none."""
        parts = []
        for symbol in symbols:
            path, table = self._read(symbol)
            for kind, neutral in (("split", (0.0, 1.0)), ("dividend", (0.0,))):
                if kind not in table:
                    continue
                rows = table[table[kind].notna() & ~table[kind].isin(neutral)]
                parts.append(
                    pd.DataFrame({"ex_date": rows["date"], "symbol": symbol, "kind": kind, "value": rows[kind]}).pipe(
                        _checked_actions, self.calendar, path.name
                    )
                )
        rows = pd.concat(parts, ignore_index=True) if parts else empty_rows(ACTION_COLUMNS)
        inside = (rows["ex_date"] >= pd.Timestamp(first)) & (rows["ex_date"] <= pd.Timestamp(last))
        return rows[inside].reset_index(drop=True)

    def _bars(self, symbol: str) -> pd.DataFrame:
        path, table = self._read(symbol)
        bars = table.rename(columns={"date": "session"}).assign(symbol=symbol).reindex(columns=BAR_COLUMNS)
        bars = bars.astype(dict.fromkeys(["open", "high", "low", "close", "volume"], "float64"))
        check_bars(bars, self.calendar, path.name)
        return bars.sort_values("session", ignore_index=True)

    def _read(self, symbol: str) -> tuple[Path, pd.DataFrame]:
        """Find and read one file, as dates and numbers."""
        path = self._path(symbol)
        try:
            # as text: pandas would turn a column with one typing error into objects without saying where
            table = pd.read_csv(path, dtype=str) if path.suffix == ".csv" else pd.read_parquet(path)
        except pd.errors.EmptyDataError:
            table = pd.DataFrame()
        except (pd.errors.ParserError, UnicodeDecodeError, OSError, ValueError) as error:
            raise MarketDataError(
                f"{path.name}: cannot be read as {path.suffix[1:].upper()}: {error}; supply a file that can"
            ) from error
        if table.empty:
            raise MarketDataError(
                f"{path.name}: the file has no rows; supply bars, or take {symbol} out of TRADING_UNIVERSE"
            )
        table = table.rename(columns=lambda name: str(name).strip().lower())
        twice = table.columns[table.columns.duplicated()]
        if len(twice):
            raise MarketDataError(f"{path.name}: column {twice[0]} is there more than once; keep one of them")
        missing = [name for name in REQUIRED if name not in table]
        if missing:
            raise MarketDataError(
                f"{path.name}: column {', '.join(missing)} is missing; found "
                f"{', '.join(map(str, table.columns))}; needed are "
                "date and close, and where known open, high, low, volume, dividend, split"
            )
        columns = {"date": _dates(table["date"], path)}
        columns |= {name: _numbers(table[name], name, path) for name in NUMBERS if name in table}
        return path, pd.DataFrame(columns)

    def _path(self, symbol: str) -> Path:
        if not self.folder.is_dir():
            raise MarketDataError(f"TRADING_FILES_DIR is {self.folder}, which is no folder; correct it")
        found = [p for p in (self.folder / f"{symbol}.csv", self.folder / f"{symbol}.parquet") if p.is_file()]
        if len(found) == 1:
            return found[0]
        if found:
            raise MarketDataError(f"{self.folder} has both {found[0].name} and {found[1].name}; keep one of them")
        there = sorted(p.stem for p in self.folder.iterdir() if p.suffix in (".csv", ".parquet"))
        shown = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
        raise MarketDataError(
            f"files: no symbol {symbol}: {self.folder} has neither {symbol}.csv nor {symbol}.parquet; it has "
            f"{shown or 'no such file at all'}. Supply the file or set TRADING_UNIVERSE"
        )


def _checked_actions(actions: pd.DataFrame, calendar: SessionCalendar, origin: str) -> pd.DataFrame:
    check_actions(actions, calendar, origin)
    return actions


def _dates(values: pd.Series, path: Path) -> pd.Series:
    if path.suffix == ".csv":
        # a date means the day it shows, whatever time and zone follow; offsets change with summer time
        shown = values.str.strip()
        readable = pd.to_datetime(shown, errors="coerce", format="ISO8601", utc=True).notna()
        dates = pd.to_datetime(shown.str[:10].where(readable), errors="coerce", format="ISO8601")
    else:
        dates = pd.to_datetime(values, errors="coerce")
    if dates.isna().any():
        at = int(dates.isna().to_numpy().argmax())
        raise MarketDataError(f"{path.name}: row {at + 1} has the date {values.iloc[at]!r}; write dates as YYYY-MM-DD")
    if dates.dt.tz is not None:
        dates = dates.dt.tz_localize(None)
    return dates.dt.normalize().astype("datetime64[us]")


def _numbers(values: pd.Series, name: str, path: Path) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    wrong = numbers.isna() & values.notna()
    if wrong.any():
        at = int(wrong.to_numpy().argmax())
        raise MarketDataError(
            f"{path.name}: row {at + 1} has the {name} {values.iloc[at]!r}, which is no number; correct it"
        )
    return numbers
