"""Yahoo Finance, read by yfinance and undone to what was traded.

Yahoo divides prices and dividends, and multiplies volumes, by every split up to the day of the request. A fetch
therefore reaches from its first session to now, whatever its last session is: the splits after that are in its
prices, too.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from trading_dagster.calendar import SessionCalendar
from trading_dagster.resources.fetching import (
    Pace,
    RefusedError,
    TransientError,
    fetch_batches,
    http_error,
    require_policy,
    retry_after_seconds,
)
from trading_dagster.resources.market_data import ACTION_COLUMNS, BAR_COLUMNS, Answer, Report, empty_rows

if TYPE_CHECKING:
    from curl_cffi import requests

PRICES = ["open", "high", "low", "close"]
NEEDED = frozenset({*PRICES, "volume"})

FLOAT32_ROUNDING = 2.0**-24
"""Largest relative error of one rounding to the precision in which Yahoo keeps prices."""

DIVIDEND_ROUNDING = 5e-7
"""Largest absolute error of Yahoo's dividends, which have six decimals after their adjustment."""


class YahooSource:
    """Daily bars and actions from Yahoo's chart endpoint, one request a symbol.

    A symbol that Yahoo does not know, or that has no bar in the range, comes back without rows. All else that is
    not a chart is a failure: an outage never looks like an empty answer.

    Parameters
    ----------
    calendar : SessionCalendar
    endpoint : str
        Asked instead of Yahoo's own hosts; empty for these.
    concurrency : int
        Requests at once.
    seconds, request_seconds : float
        Time for one fetch, and the time-out of one request.
    pace : Pace, optional
    now : callable
        The present time, with a zone.
    """

    name = "yahoo"
    last_session = None

    def __init__(
        self,
        calendar: SessionCalendar,
        endpoint: str,
        concurrency: int,
        seconds: float,
        *,
        pace: Pace | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        request_seconds: float = 30.0,
    ) -> None:
        self._calendar, self._endpoint = calendar, endpoint.rstrip("/")
        self._concurrency, self._seconds = concurrency, seconds
        self._pace, self._now, self._request_seconds = pace, now, request_seconds

    def bars(self, symbols: Sequence[str], first: date, last: date, report: Report) -> Answer:
        """Bars as traded; one without a close is left out."""
        return self._answer(symbols, first, last, report, "bars")

    def corporate_actions(self, symbols: Sequence[str], first: date, last: date, report: Report) -> Answer:
        """Splits and dividends as they were on their ex-dates."""
        return self._answer(symbols, first, last, report, "corporate actions")

    def _answer(self, symbols: Sequence[str], first: date, last: date, report: Report, what: str) -> Answer:
        from curl_cffi import requests

        require_policy(self.name, first)
        _configure_yfinance()
        # what yfinance uses of its own accord: Yahoo blocks clients that do not look like a browser
        with requests.Session(impersonate="chrome") as session:
            charts, failures = fetch_batches(
                [[symbol] for symbol in symbols],
                lambda batch: self._chart(session, batch[0], first),
                concurrency=self._concurrency,
                seconds=self._seconds,
                report=report,
                what=f"{self.name} {what}",
                pace=self._pace,
            )
        failures |= {chart.symbol: chart.failure for chart in charts if chart.failure}
        column, columns = ("session", BAR_COLUMNS) if what == "bars" else ("ex_date", ACTION_COLUMNS)
        parts = [chart.bars if what == "bars" else chart.actions for chart in charts]
        rows = pd.concat([empty_rows(columns), *parts], ignore_index=True)
        # Yahoo goes on to now, and its row of a running session is no bar yet
        inside = (rows[column] >= pd.Timestamp(first)) & (rows[column] <= pd.Timestamp(last))
        found = {chart.symbol: chart.columns for chart in charts if chart.columns}
        return Answer(rows[inside].reset_index(drop=True), failures, found)

    def _chart(self, session: requests.Session[Any], symbol: str, first: date) -> _Chart:
        import yfinance
        from yfinance.scrapers.history import PriceHistory
        from yfinance.utils import parse_actions

        tomorrow = pd.Timestamp(self._now()).tz_convert(self._calendar.timezone).date() + timedelta(days=1)
        charts = _ChartRequests(session, self._endpoint, self._request_seconds)
        # `yfinance.Ticker` would ask twice as often, for the time zone and for a cookie and crumb, which charts need
        # not, would keep them in databases below the user's home, and share one session among all of its users
        history = PriceHistory(charts, self._yahoo_symbol(symbol), self._calendar.timezone, session)
        try:
            quotes = history.history(
                start=first, end=tomorrow, interval="1d", auto_adjust=False, actions=False, keepna=True
            )
        except _NoChartError:
            return _Chart(symbol)
        except _SchemaError as error:
            return _Chart(symbol, error.columns, str(error))
        except (LookupError, TypeError, ValueError, yfinance.exceptions.YFException) as error:
            raise RefusedError(f"yfinance cannot read Yahoo's answer: {type(error).__name__}: {error}") from error
        # not from yfinance's frame: it moves an event of a day without a bar to the bar before
        dividends, splits, _ = parse_actions(charts.result)
        timezone = charts.result["meta"]["exchangeTimezoneName"]
        quotes = quotes.set_axis(_sessions(quotes.index, timezone)).rename(columns=str.lower)
        return _as_traded(
            symbol,
            quotes[~quotes.index.isin(self._running(charts.result["timestamp"], timezone))],
            splits["Stock Splits"].set_axis(_sessions(splits.index, timezone)).astype("float64"),
            dividends["Dividends"].set_axis(_sessions(dividends.index, timezone)).astype("float64"),
            charts.columns,
        )

    def _running(self, times: list[int], timezone: str) -> pd.DatetimeIndex:
        """Sessions whose row is of a moment before their close: a bar that is finished bears its opening time."""
        moments = pd.to_datetime(pd.Series(times), unit="s", utc=True)
        sessions = _sessions(pd.DatetimeIndex(moments), timezone)
        known = sessions.isin(self._calendar.sessions)
        at, days = moments[known].to_numpy(), sessions[known]
        opened, closed = self._calendar.open_times(days).to_numpy(), self._calendar.close_times(days).to_numpy()
        return days[(at > opened) & (at < closed)]

    def _yahoo_symbol(self, symbol: str) -> str:
        """Yahoo's name: it writes share classes with a hyphen, BRK-B, since its dots precede a foreign exchange."""
        return symbol.replace(".", "-") if self._calendar.timezone == "America/New_York" else symbol


@dataclass(frozen=True)
class _Chart:
    """What came of one symbol: bars and actions as traded, or why not."""

    symbol: str
    columns: tuple[str, ...] = ()
    failure: str = ""
    bars: pd.DataFrame = field(default_factory=lambda: empty_rows(BAR_COLUMNS))
    actions: pd.DataFrame = field(default_factory=lambda: empty_rows(ACTION_COLUMNS))


class _NoChartError(Exception):
    """Yahoo says, in so many words, that it has nothing for the symbol and the range."""


class _SchemaError(Exception):
    """A chart without a column that is needed."""

    def __init__(self, columns: tuple[str, ...], missing: frozenset[str]) -> None:
        super().__init__(
            f"Yahoo's answer lacks {', '.join(sorted(missing))}; found {', '.join(columns)}. Its format has changed: "
            "update yfinance, or use another TRADING_SOURCE"
        )
        self.columns = columns


class _ChartRequests:
    """Where yfinance gets its charts: one request each, and a failure by its kind.

    Attributes
    ----------
    result : dict
        The last chart as Yahoo sent it.
    columns : tuple of str
        Names of its columns; sorted, since Yahoo's own order changes from answer to answer.
    """

    def __init__(self, session: requests.Session[Any], endpoint: str, seconds: float) -> None:
        self._session, self._endpoint, self._seconds = session, endpoint, seconds
        self.result: dict[str, Any] = {}
        self.columns: tuple[str, ...] = ()

    def get(self, url: str, params: dict[str, Any] | None = None, timeout: float | None = None) -> requests.Response:
        """Answer yfinance's request; its own `timeout` is of no concern."""
        from curl_cffi.requests.exceptions import RequestException

        url = self._endpoint + urlsplit(url).path if self._endpoint else url
        try:
            response = self._session.get(url, params=params, timeout=self._seconds)
        except RequestException as error:
            raise TransientError(f"Yahoo: {type(error).__name__}: {error}") from error
        try:
            body = json.loads(response.content)
        except ValueError as error:
            if response.status_code != 200:
                raise self._http_error(response) from error
            raise TransientError(f"Yahoo answered what is no JSON ({error}), {len(response.content)} bytes") from error
        self._read(response, body)
        return response

    cache_get = get  # for charts that end in the past, which are not kept here

    def _read(self, response: requests.Response, body: Any) -> None:
        chart = body.get("chart") if isinstance(body, dict) else None
        error = chart.get("error") if isinstance(chart, dict) else None
        description = str(error.get("description") or "") if isinstance(error, dict) else ""
        # a gateway's 404 lacks Yahoo's words, and is none of these
        if description.startswith(("No data found", "Data doesn't exist for startDate")):
            raise _NoChartError
        if response.status_code != 200 or error:
            raise self._http_error(response, description)
        try:
            self.result = body["chart"]["result"][0]
            fields = self.result["indicators"]
            quote, _ = fields["quote"][0], self.result["meta"]["exchangeTimezoneName"]
        except (LookupError, TypeError) as wrong:
            raise TransientError(f"Yahoo's answer is no chart: {response.text[:100]}") from wrong
        if not self.result.get("timestamp"):
            raise _NoChartError
        self.columns = tuple(sorted({"timestamp", *quote, *(name for name in fields if name != "quote")}))
        if missing := NEEDED - set(quote):
            raise _SchemaError(self.columns, missing)

    def _http_error(self, response: requests.Response, description: str = "") -> Exception:
        retry_after = retry_after_seconds(response.headers.get("Retry-After"))
        return http_error("Yahoo", response.status_code, description or response.text, retry_after)


def _configure_yfinance() -> None:
    """Let errors through, and its own outdated use of pandas not; both process-wide, as all its configuration is."""
    import yfinance

    # else it logs what goes wrong, and returns an empty frame
    yfinance.config.debug.hide_exceptions = False
    # its import switches these warnings on, and they come several times a symbol
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"yfinance\.")


def _as_traded(
    symbol: str, quotes: pd.DataFrame, splits: pd.Series, dividends: pd.Series, columns: tuple[str, ...]
) -> _Chart:
    """Undo the adjustment for splits.

    A split counts from its ex-date on: prices of that day are per new share, and so is a dividend of that day.
    """
    splits, dividends = splits[splits != 1], dividends[dividends != 0]
    if not (np.isfinite(splits) & (splits > 0)).all():
        wrong = "; ".join(f"{ratio} on {day:%Y-%m-%d}" for day, ratio in splits.items())
        return _Chart(symbol, columns, f"Yahoo's splits cannot be undone: {wrong}; one is no number above zero")
    bars = quotes[quotes["close"].notna()].astype("float64")
    factor = _later_splits(bars.index, splits)
    prices = bars[PRICES].mul(factor, axis=0)
    # one step for the four of them, or rounding could lift a low above a close
    prices = prices.apply(_rounded, error=prices.max(axis=1) * FLOAT32_ROUNDING)
    rows = prices.assign(symbol=symbol, volume=(bars["volume"] / factor).round())
    factor = _later_splits(dividends.index, splits)
    # four decimals, in which companies declare, unless less is known
    cash = _rounded(dividends * factor, error=np.maximum(DIVIDEND_ROUNDING * factor, 2.5e-5))
    actions = pd.concat([_actions(symbol, "split", splits), _actions(symbol, "dividend", cash)], ignore_index=True)
    return _Chart(symbol, columns, "", rows.rename_axis("session").reset_index()[BAR_COLUMNS], actions)


def _later_splits(days: pd.DatetimeIndex, splits: pd.Series) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Product of the ratios of all splits after each day."""
    splits = splits.sort_index()
    products = np.append(np.cumprod(splits.to_numpy(dtype="float64")[::-1])[::-1], 1.0)
    return products[splits.index.searchsorted(days, side="right")]


def _rounded(values: pd.Series, error: pd.Series | np.ndarray[Any, np.dtype[np.float64]]) -> pd.Series:
    """Round to the finest decimal that is at least four times the error.

    A price of cents or sixteenths then comes out as it was traded, and as the same number whatever splits Yahoo
    has adjusted it for since: a later fetch is no restatement.
    """
    bound = 4 * np.abs(error).clip(1e-12)  # a price of zero has none; what it is worth is for others to say
    scale = 10.0 ** np.floor(-np.log10(bound)).clip(0)
    return np.rint(values * scale) / scale


def _actions(symbol: str, kind: str, values: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"ex_date": values.index, "symbol": symbol, "kind": kind, "value": values.to_numpy("float64")})


def _sessions(times: pd.DatetimeIndex, timezone: str) -> pd.DatetimeIndex:
    """Dates on which moments fall at the exchange; times without a zone are UTC."""
    times = times if times.tz is not None else times.tz_localize("UTC")
    return times.tz_convert(timezone).tz_localize(None).normalize().as_unit("us")
