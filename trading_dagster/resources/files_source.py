"""The user's own prices: a folder with one CSV or Parquet file a symbol."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from trading_dagster.policy import EARLIEST_DATE
from trading_dagster.resources.market_data import (
    ACTION_COLUMNS,
    BAR_COLUMNS,
    Answer,
    MarketDataError,
    Report,
    empty_rows,
)

TAIL_BYTES = 4096
"""First piece of a long CSV's end: some sixty sessions."""

ISO_DATE = re.compile(rb"\d{4}-\d{2}-\d{2}")

REQUIRED = ("date", "close")
NUMBERS = ("open", "high", "low", "close", "volume", "dividend", "split")


class FilesSource:
    """Read ``SYMBOL.csv`` or ``SYMBOL.parquet`` files.

    Columns: date, close and, where known, open, high, low, volume (as traded), dividend (cash per share as
    traded, on its ex-date) and split (new shares per old share, on its ex-date). Others are ignored.

    Parameters
    ----------
    folder : Path
    """

    name = "files"
    last_session = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bars(self, symbols: Sequence[str], first: date, last: date, report: Report) -> Answer:
        """Bars of the given symbols. A file that is absent or cannot be read is a failure of its symbol.

        From 2000-01-01 on a whole file is read, older rows included, so that they are seen and refused; for later
        dates no more of a long CSV than its end.

        Raises
        ------
        MarketDataError
            If the folder does not exist.
        """
        tables, failures, names = self._tables(symbols, first, report)
        rows = tables.rename(columns={"date": "session"}).reindex(columns=BAR_COLUMNS)
        wanted = rows["session"] <= pd.Timestamp(last)
        if first > EARLIEST_DATE:
            wanted &= rows["session"] >= pd.Timestamp(first)
        return Answer(rows[wanted].astype(empty_rows(BAR_COLUMNS).dtypes).reset_index(drop=True), failures, names)

    def corporate_actions(self, symbols: Sequence[str], first: date, last: date, report: Report) -> Answer:
        """Splits and dividends of the given symbols; a split of 0 or 1 and a dividend of 0 are none."""
        tables, failures, names = self._tables(symbols, first, report)
        inside = (tables["date"] >= pd.Timestamp(first)) & (tables["date"] <= pd.Timestamp(last))
        parts = [empty_rows(ACTION_COLUMNS)]
        for kind, neutral in (("split", (0.0, 1.0)), ("dividend", (0.0,))):
            if kind in tables:
                rows = tables[inside & tables[kind].notna() & ~tables[kind].isin(neutral)]
                parts.append(
                    pd.DataFrame({"ex_date": rows["date"], "symbol": rows["symbol"], "kind": kind, "value": rows[kind]})
                )
        filled = [part for part in parts if len(part)]
        return Answer(pd.concat(filled or parts[:1], ignore_index=True), failures, names)

    def _tables(
        self, symbols: Sequence[str], first: date, report: Report
    ) -> tuple[pd.DataFrame, dict[str, str], dict[str, tuple[str, ...]]]:
        """Read the symbols' files as one table; why some could not be used; and the columns that each file has."""
        if not self.folder.is_dir():
            raise MarketDataError(f"TRADING_FILES_DIR is {self.folder}, which is no folder; correct it")
        together = self._ends(symbols, first)
        if together is not None:
            return together[0], {}, together[1]
        tables: dict[str, pd.DataFrame] = {}
        failures: dict[str, str] = {}
        names: dict[str, tuple[str, ...]] = {}
        for number, symbol in enumerate(symbols, start=1):
            try:
                tables[symbol], names[symbol] = self._read(symbol)
            except MarketDataError as error:
                failures[symbol] = str(error)
            if number % 100 == 0:
                report(f"{number} of {len(symbols)} files read")
        if not tables:
            nothing = pd.DataFrame({"date": pd.Series(dtype="datetime64[us]"), "symbol": pd.Series(dtype="str")})
            return nothing, failures, names
        whole = pd.concat(tables.values(), ignore_index=True)
        whole["symbol"] = np.repeat(list(tables), [len(table) for table in tables.values()])
        return whole, failures, names

    def _ends(self, symbols: Sequence[str], first: date) -> tuple[pd.DataFrame, dict[str, tuple[str, ...]]] | None:
        """Ends of many long CSV files, parsed at once: ten times faster than one by one.

        None where a file must be looked at by itself: another format, another order, an error.
        """
        paths = {symbol: self.folder / f"{symbol}.csv" for symbol in symbols}
        if first == EARLIEST_DATE or any(
            symbol_path.with_suffix(".parquet").exists() for symbol_path in paths.values()
        ):
            return None
        by_header: dict[bytes, list[tuple[str, list[bytes]]]] = {}
        names: dict[str, tuple[str, ...]] = {}
        for symbol, path in paths.items():
            end = read_end(path, first)
            if end is None:
                return None
            header, rows = end
            names[symbol] = _names(header)
            by_header.setdefault(header, []).append((symbol, rows))
        try:
            parts = [_parse_ends(header, ends) for header, ends in by_header.items()]
        except MarketDataError:
            return None
        whole = pd.concat(parts, ignore_index=True) if parts else None
        return None if whole is None else (whole, names)

    def _read(self, symbol: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """Find and read one file, as dates and numbers, and the names of its columns."""
        path = self._path(symbol)
        table = read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
        if table.empty:
            raise MarketDataError(
                f"{path.name}: the file has no rows; supply bars, or take {symbol} out of TRADING_UNIVERSE"
            )
        names = tuple(str(name).strip().lower() for name in table.columns)
        return _parse(table.set_axis(list(names), axis=1), path), names

    def _path(self, symbol: str) -> Path:
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


def read_end(path: Path, first: date) -> tuple[bytes, list[bytes]] | None:
    """Header of a CSV and the rows of its end, which reach back before `first` or are all; None if they are in doubt.

    The end holds the newest rows only if the file is in order. Dates written as YYYY-MM-DD order as texts do.
    """
    if not path.is_file():
        return None
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.readline().rstrip(b"\r\n")
        begin, length = file.tell(), TAIL_BYTES
        if "date" not in _names(header):
            return None
        at = _names(header).index("date")
        while True:
            start = max(size - length, begin)
            file.seek(start)
            text = file.read()
            rows = (text if start == begin else text.partition(b"\n")[2]).splitlines()
            dates = [row.split(b",")[at] for row in rows if row.count(b",") == header.count(b",")]
            in_order = len(dates) == len(rows) and dates == sorted(dates) and all(map(ISO_DATE.fullmatch, dates))
            if not in_order or any(b'"' in row for row in rows):
                return None
            if dates and (start == begin or dates[0] < first.isoformat().encode()):
                return header, rows
            if start == begin:
                return None
            length *= 4


def _names(header: bytes) -> tuple[str, ...]:
    return tuple(name.strip().lower() for name in header.decode("utf-8-sig", errors="replace").split(","))


def _parse_ends(header: bytes, ends: Sequence[tuple[str, list[bytes]]]) -> pd.DataFrame:
    """Parse the last rows of many files of one header as one table."""
    path = Path("several.csv")
    table = _parse_csv(io.BytesIO(b"\n".join([header, *(row for _, rows in ends for row in rows)])), path)
    counts = [len(rows) for _, rows in ends]
    if len(table) != sum(counts):
        raise MarketDataError(f"{path.name}: {len(table)} rows were read of {sum(counts)}")
    parsed = _parse(table.set_axis(list(_names(header)), axis=1), path)
    return parsed.assign(symbol=np.repeat([symbol for symbol, _ in ends], counts))


def read_csv(path: Path) -> pd.DataFrame:
    """Read a whole CSV.

    Raises
    ------
    MarketDataError
        If the file cannot be read as CSV.
    """
    return _parse_csv(path, path)


def _parse_csv(text: Path | io.BytesIO, path: Path) -> pd.DataFrame:
    try:
        names = pd.read_csv(text, nrows=0).columns
        if isinstance(text, io.BytesIO):
            text.seek(0)
        # a date may be written as one number
        return pd.read_csv(text, dtype={name: str for name in names if str(name).strip().lower() == "date"})
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, ValueError) as error:
        raise MarketDataError(f"{path.name}: cannot be read as CSV: {error}; supply a file that can") from error


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file.

    Raises
    ------
    MarketDataError
        If it cannot be read.
    """
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise MarketDataError(f"{path.name}: cannot be read as PARQUET: {error}; supply a file that can") from error


def _parse(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Dates and numbers of the columns that are known; others are ignored."""
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise MarketDataError(f"{path.name}: column {twice[0]} is there more than once; keep one of them")
    missing = [name for name in REQUIRED if name not in table]
    if missing:
        raise MarketDataError(
            f"{path.name}: column {', '.join(missing)} is missing; found {', '.join(map(str, table.columns))}; needed "
            "are date and close, and where known open, high, low, volume, dividend, split"
        )
    columns = {"date": _dates(table["date"], path)}
    columns |= {name: _numbers(table[name], name, path) for name in NUMBERS if name in table}
    return pd.DataFrame(columns)


def _dates(values: pd.Series, path: Path) -> pd.Series:
    if pd.api.types.is_string_dtype(values):
        # a date means the day it shows, whatever time and zone follow; offsets change with summer time
        shown = values.str.strip()
        dates = pd.to_datetime(shown, errors="coerce", format="%Y-%m-%d")
        if dates.isna().any():
            readable = pd.to_datetime(shown, errors="coerce", format="ISO8601", utc=True).notna()
            dates = pd.to_datetime(shown.str[:10].where(readable), errors="coerce", format="ISO8601")
    elif path.suffix == ".csv":
        dates = pd.Series(pd.NaT, index=values.index)
    else:
        dates = pd.to_datetime(values, errors="coerce")
    if dates.isna().any():
        at = int(dates.isna().to_numpy().argmax())
        raise MarketDataError(f"{path.name}: row {at + 1} has the date {values.iloc[at]!r}; write dates as YYYY-MM-DD")
    if dates.dt.tz is not None:
        dates = dates.dt.tz_localize(None)
    return dates.dt.normalize().astype("datetime64[us]")


def _numbers(values: pd.Series, name: str, path: Path) -> pd.Series:
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        return values.astype("float64")
    # one typing error makes a whole column text; as numbers its rows say which
    text = values.astype("str")
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    wrong = numbers.isna() & values.notna()
    if wrong.any():
        at = int(wrong.to_numpy().argmax())
        raise MarketDataError(
            f"{path.name}: row {at + 1} has the {name} {values.iloc[at]!r}, which is no number; correct it"
        )
    return numbers
