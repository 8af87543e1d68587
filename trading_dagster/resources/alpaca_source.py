"""Alpaca's market data, asked for as traded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from trading_dagster.calendar import SessionCalendar
from trading_dagster.policy import EARLIEST_DATE
from trading_dagster.resources.alpaca_http import leave_retries_to_us, wait_asked_for, without_keys
from trading_dagster.resources.fetching import (
    Pace,
    TransientError,
    fetch_batches,
    http_error,
    require_policy,
)
from trading_dagster.resources.market_data import (
    ACTION_COLUMNS,
    BAR_COLUMNS,
    Answer,
    MarketDataError,
    Report,
    empty_rows,
)

if TYPE_CHECKING:
    from alpaca.common.exceptions import APIError
    from alpaca.common.rest import RESTClient
    from requests import Response

Client = TypeVar("Client", bound="RESTClient")
Records = Mapping[str, list[dict[str, Any]]]
Fetch = Callable[[Sequence[str]], Records]
Reader = Callable[[str, list[dict[str, Any]]], pd.DataFrame]

BATCH_SYMBOLS = 50
PAGE_BARS = 10_000
BAR_FIELDS = {"t": "session", "o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}

PROCESSED_BEFORE, PROCESSED_AFTER = timedelta(days=31), timedelta(days=365)
"""Around an ex-date, when Alpaca may process an action: a dividend on the day it is paid, mostly weeks later, but a
large one of which the ex-date is put after the payment, earlier."""


class AlpacaSource:
    """Daily bars and actions from Alpaca.

    A symbol that Alpaca has nothing of comes back without rows.

    Parameters
    ----------
    calendar : SessionCalendar
    api_key, secret_key : str
    endpoint : str
        https, or a host of this machine.
    feed : {'sip', 'iex'}
        All exchanges, or IEX alone.
    concurrency : int
        Requests at once.
    seconds : float
        Time for one fetch.
    pace : Pace, optional
        Of the attempts.
    request_seconds : float
        Time-out of one request, between two bytes.

    Raises
    ------
    MarketDataError
        If a key is missing, or would travel unencrypted.
    """

    name = "alpaca"
    last_session = None

    def __init__(
        self,
        calendar: SessionCalendar,
        api_key: str,
        secret_key: str,
        endpoint: str,
        feed: str,
        concurrency: int,
        seconds: float,
        *,
        pace: Pace | None = None,
        request_seconds: float = 30.0,
    ) -> None:
        for name, key in (("ALPACA_API_KEY", api_key), ("ALPACA_SECRET_KEY", secret_key)):
            if not key:
                raise MarketDataError(f"TRADING_SOURCE=alpaca needs {name}, which is not set; set it, or use yahoo")
        self._endpoint = _safe_endpoint(endpoint)
        self._calendar, self._keys, self._feed = calendar, (api_key, secret_key), feed
        self._concurrency, self._seconds = concurrency, seconds
        self._pace, self._request_seconds = pace, request_seconds

    def bars(self, symbols: Sequence[str], first: date, last: date, report: Report) -> Answer:
        """Bars as traded; one without a close is left out."""
        require_policy(self.name, first)
        sessions = self._calendar.between(first, last)
        if not len(sessions):
            return Answer(empty_rows(BAR_COLUMNS))
        # a failed attempt asks for all pages of its batch again: so many symbols as fill about one page
        size = min(max(PAGE_BARS // len(sessions), 1), BATCH_SYMBOLS)
        fetch = partial(self._ask_bars, first=sessions[0], last=sessions[-1])
        answer, columns = self._answer(symbols, size, fetch, self._bar_rows, report, "bars")
        inside = answer.rows["session"].between(sessions[0], sessions[-1]) & answer.rows["close"].notna()
        return replace(answer, rows=answer.rows[inside].reset_index(drop=True), columns=columns)

    def corporate_actions(self, symbols: Sequence[str], first: date, last: date, report: Report) -> Answer:
        """Splits, stock dividends (of 5 %: a split of 1.05) and cash dividends.

        A unit split is none of them: it turns one security into two others. The answer has no `columns`: those of
        an action depend on its kind, and its kind on the company.
        """
        require_policy(self.name, first)
        fetch = partial(self._ask_actions, first=first, last=last)
        answer, _ = self._answer(symbols, BATCH_SYMBOLS, fetch, _action_rows, report, "corporate actions")
        inside = answer.rows["ex_date"].between(pd.Timestamp(first), pd.Timestamp(last))
        return replace(answer, rows=answer.rows[inside].reset_index(drop=True))

    def _answer(
        self, symbols: Sequence[str], size: int, fetch: Fetch, read: Reader, report: Report, what: str
    ) -> tuple[Answer, dict[str, tuple[str, ...]]]:
        """Fetch and read; gives the names of the fields of each symbol's records, too."""
        answers, failures = fetch_batches(
            [symbols[at : at + size] for at in range(0, len(symbols), size)],
            fetch,
            concurrency=self._concurrency,
            seconds=self._seconds,
            report=report,
            what=f"{self.name} {what}",
            pace=self._pace,
        )
        parts, fields = [empty_rows(BAR_COLUMNS if what == "bars" else ACTION_COLUMNS)], {}
        for symbol, records in ((symbol, found) for answer in answers for symbol, found in answer.items() if found):
            fields[symbol] = tuple(sorted(set().union(*records) - {_KIND}))
            try:
                parts.append(read(symbol, records))
            except (LookupError, TypeError, ValueError, ArithmeticError) as error:
                failures[symbol] = (
                    f"Alpaca's {what} cannot be read: {type(error).__name__}: {error}; found are "
                    f"{', '.join(fields[symbol])}: update alpaca-py, or use another TRADING_SOURCE"
                )
        return Answer(pd.concat(parts, ignore_index=True), failures), fields

    def _ask_bars(self, batch: Sequence[str], first: pd.Timestamp, last: pd.Timestamp) -> Records:
        from alpaca.data.enums import Adjustment, DataFeed
        from alpaca.data.historical.stock import StockHistoricalDataClient
        from alpaca.data.requests import StockBarsRequest
        from alpaca.data.timeframe import TimeFrame, TimeFrameUnit

        request = StockBarsRequest(
            symbol_or_symbols=list(batch),
            timeframe=TimeFrame(1, TimeFrameUnit.Day),
            start=first.tz_localize(self._calendar.timezone).to_pydatetime(),
            # Without it Alpaca means now, and plans without real-time data are refused the last 15 minutes. A bar
            # belongs to the midnight that begins its session, so the close is late enough.
            end=self._calendar.close_time(last).to_pydatetime(),
            adjustment=Adjustment.RAW,
            feed=DataFeed(self._feed),
        )
        with self._client(StockHistoricalDataClient) as client:
            answer = client.get_stock_bars(request)
        assert isinstance(answer, dict)
        return answer

    def _ask_actions(self, batch: Sequence[str], first: date, last: date) -> Records:
        from alpaca.data.enums import CorporateActionsType
        from alpaca.data.historical.corporate_actions import CorporateActionsClient
        from alpaca.data.requests import CorporateActionsRequest

        request = CorporateActionsRequest(
            symbols=list(batch),
            types=[CorporateActionsType(kind.removesuffix("s")) for kind in _VALUES],
            start=max(first - PROCESSED_BEFORE, EARLIEST_DATE),
            end=last + PROCESSED_AFTER,
            limit=None,  # the default of 1000 ends the paging there, without a word
        )
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        with self._client(CorporateActionsClient) as client:
            answer = client.get_corporate_actions(request)
            assert isinstance(answer, dict)
            for kind, records in answer.items():
                for record in records:
                    found[record["symbol"]].append({**record, _KIND: kind})
        return found

    @contextmanager
    def _client(self, kind: Callable[..., Client]) -> Iterator[Client]:
        """Open a client for one attempt, since sessions of `requests` are not made for several threads."""
        from alpaca.common.exceptions import APIError
        from requests.exceptions import RequestException

        client = kind(*self._keys, url_override=self._endpoint, raw_data=True)
        leave_retries_to_us(client, self._request_seconds)
        try:
            yield client
        except APIError as error:
            # not `from error`: it carries the request, and with it the keys
            raise self._http_error(error) from None
        except RequestException as error:
            raise TransientError(without_keys(f"Alpaca: {type(error).__name__}: {error}", self._keys)) from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise TransientError(f"Alpaca's answer cannot be read: {type(error).__name__}: {error}") from error
        finally:
            client._session.close()

    def _http_error(self, error: APIError) -> Exception:
        response: Response = error.response
        text = without_keys(response.text, self._keys)
        if response.status_code == 403 and "subscription" in text:
            return MarketDataError(
                f"Alpaca answered 403: {text[:200]}. The plan does not include the feed {self._feed}: set "
                "TRADING_ALPACA_FEED=iex, or subscribe to it"
            )
        if response.status_code in (401, 403):
            return MarketDataError(
                f"Alpaca answered {response.status_code} to the keys: {text[:200]}. Correct ALPACA_API_KEY and ALPACA_"
                f"SECRET_KEY; if they are right, the plan lacks the feed {self._feed}: set TRADING_ALPACA_FEED=iex"
            )
        return http_error("Alpaca", response.status_code, text, wait_asked_for(response))

    def _bar_rows(self, symbol: str, records: list[dict[str, Any]]) -> pd.DataFrame:
        bars = pd.DataFrame.from_records(records)[list(BAR_FIELDS)].rename(columns=BAR_FIELDS)
        times = pd.to_datetime(bars["session"], utc=True).dt.tz_convert(self._calendar.timezone)
        bars["session"] = times.dt.tz_localize(None).dt.normalize().astype("datetime64[us]")
        numbers = dict.fromkeys(("open", "high", "low", "close", "volume"), "float64")
        return bars.astype(numbers).assign(symbol=symbol)[BAR_COLUMNS]


_KIND = "(kind)"
"""Where a record's kind is noted, which Alpaca has as the name of the list that it is in."""

_VALUES: dict[str, tuple[str, Callable[[dict[str, Any]], float]]] = {
    "forward_splits": ("split", lambda record: float(record["new_rate"]) / float(record["old_rate"])),
    "reverse_splits": ("split", lambda record: float(record["new_rate"]) / float(record["old_rate"])),
    "stock_dividends": ("split", lambda record: 1 + float(record["rate"])),
    "cash_dividends": ("dividend", lambda record: float(record["rate"])),
}


def _action_rows(symbol: str, records: list[dict[str, Any]]) -> pd.DataFrame:
    rows = pd.DataFrame({"ex_date": pd.to_datetime([record["ex_date"] for record in records]), "symbol": symbol})
    rows["ex_date"] = rows["ex_date"].astype("datetime64[us]")
    rows["kind"] = [_VALUES[record[_KIND]][0] for record in records]
    rows["value"] = [_VALUES[record[_KIND]][1](record) for record in records]
    if not np.isfinite(rows["value"]).all():
        raise ValueError(f"the values {rows['value'].tolist()} are not all finite")
    return rows[ACTION_COLUMNS]


def _safe_endpoint(endpoint: str) -> str:
    """Check that keys sent to it are encrypted, or stay on this machine."""
    parts = urlsplit(endpoint)
    if parts.hostname and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1"))
    ):
        return endpoint.rstrip("/")
    raise MarketDataError(
        # not the whole address, which may hold a password
        f"ALPACA_DATA_ENDPOINT is at {parts.scheme}://{parts.hostname}; keys are sent to https hosts only, or over "
        "http to 127.0.0.1, localhost and ::1: write https://"
    )
