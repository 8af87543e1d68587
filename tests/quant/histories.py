"""Price histories that the tests of `quant` are run on: real closes, and synthetic bars with corporate actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from trading_dagster.quant.cycles import phasing
from trading_dagster.quant.features import features
from trading_dagster.quant.forecasting import StageModels, fit_stage_models
from trading_dagster.quant.prices import PriceHistory, price_history
from trading_dagster.quant.regime import regime
from trading_dagster.quant.volatility import volatility

MARKET = "MARKET"
BAR_COLUMNS = ["session", "symbol", "open", "high", "low", "close"]


def weekdays(count: int, first: str = "2003-01-01") -> pd.DatetimeIndex:
    """Dates for `count` synthetic sessions; `quant` knows no exchange calendar."""
    return pd.bdate_range(first, periods=count).as_unit("us")


def no_actions() -> pd.DataFrame:
    """A table of corporate actions without rows."""
    return actions_table([])


def actions_table(rows: Sequence[tuple[pd.Timestamp, str, str, float]]) -> pd.DataFrame:
    """Corporate actions from tuples of ex-date, symbol, kind and value."""
    table = pd.DataFrame(rows, columns=["ex_date", "symbol", "kind", "value"])
    return table.astype({"ex_date": "datetime64[us]", "symbol": "str", "kind": "str", "value": "float64"})


def bars_from_closes(closes: Mapping[str, ArrayLike], sessions: pd.DatetimeIndex | None = None) -> pd.DataFrame:
    """Bars with closes only; a missing close is a missing bar."""
    wide = pd.DataFrame({symbol: np.asarray(values, dtype="float64") for symbol, values in closes.items()})
    wide.index = weekdays(len(wide)) if sessions is None else sessions
    rows = wide.rename_axis("session").reset_index().melt("session", var_name="symbol", value_name="close")
    return rows.dropna(subset=["close"]).reindex(columns=BAR_COLUMNS)


def closes_history(closes: Mapping[str, ArrayLike], sessions: pd.DatetimeIndex | None = None) -> PriceHistory:
    """History of closes without corporate actions."""
    return price_history(bars_from_closes(closes, sessions), no_actions())


def random_walks(symbols: int, sessions: int, seed: int, sigma: float = 0.01) -> dict[str, NDArray[np.float64]]:
    """Closes of independent geometric random walks without drift."""
    steps = np.random.default_rng(seed).normal(0.0, sigma, (sessions, symbols))
    values = 100.0 * np.exp(steps.cumsum(axis=0))
    return {f"S{column:04d}": values[:, column] for column in range(symbols)}


def sample_bars() -> pd.DataFrame:
    """Closes of seven symbols of the embedded sample over nine years that hold a crash."""
    from skfolio.datasets import load_sp500_dataset

    closes = load_sp500_dataset().loc["2000-01-01":"2008-12-31", ["AAPL", "BAC", "GE", "JNJ", "KO", "RRC", "XOM"]]
    return bars_from_closes({str(s): closes[s].to_numpy() for s in closes}, pd.DatetimeIndex(closes.index))


def synthetic_bars(count: int, actions: pd.DataFrame, seed: int = 7) -> pd.DataFrame:
    """Bars with ranges, as traded, of five symbols that `actions` split and pay dividends on.

    ``LATE`` is listed at session 150, ``GAP`` lacks sessions 100 and 101.
    """
    random = np.random.default_rng(seed)
    sessions = weekdays(count)
    market = random.standard_t(5, count) * 0.006
    parts = []
    for number, symbol in enumerate(("ALFA", "BRAVO", "GAP", "LATE", "ZULU")):
        own = actions[actions["symbol"] == symbol].set_index("ex_date")
        sigma = 0.008 * (1.0 + 0.3 * number)
        move = 0.0003 + market * (0.5 + 0.2 * number) + random.standard_t(5, count) * sigma
        close = np.empty(count)
        price = 80.0 * (number + 1)
        for at, session in enumerate(sessions):
            before = price
            price *= np.exp(move[at])
            for kind, value in own.loc[[session], ["kind", "value"]].to_numpy() if session in own.index else []:
                price = price / value if kind == "split" else price - value * price / before
            close[at] = price
        opening = close * np.exp(random.normal(0.0, 0.004, count))
        spread = np.abs(random.normal(0.0, 0.006, (2, count)))
        parts.append(
            pd.DataFrame(
                {
                    "session": sessions,
                    "symbol": symbol,
                    "open": opening,
                    "high": np.maximum(opening, close) * (1.0 + spread[0]),
                    "low": np.minimum(opening, close) * (1.0 - spread[1]),
                    "close": close,
                }
            )
        )
    bars = pd.concat(parts, ignore_index=True)
    unlisted = (bars["symbol"] == "LATE") & bars["session"].isin(sessions[:150])
    gap = (bars["symbol"] == "GAP") & bars["session"].isin(sessions[100:102])
    return bars[~unlisted & ~gap].reset_index(drop=True)


def actions_around(sessions: pd.DatetimeIndex, at: Sequence[int]) -> pd.DataFrame:
    """Splits and dividends on, just before and just after each of the given positions.

    Splits are undone at every second position, or prices would fade away.
    """
    rows: list[tuple[pd.Timestamp, str, str, float]] = []
    for number, position in enumerate(at):
        wanted = [
            (position - 30, "ALFA", "split", 2.0),
            (position - 1, "BRAVO", "dividend", 1.3),
            (position, "ZULU", "dividend", 2.1),
            (position, "LATE", "split", 0.5),
            (position + 1, "ALFA", "dividend", 0.4),
            (position + 1, "BRAVO", "split", 3.0),
            (position + 1, "GAP", "split", 0.25),
            (position + 1, "ZULU", "dividend", 1.7),
            (position + 2, "ZULU", "split", 1.5),
        ]
        for p, symbol, kind, value in wanted:
            if p < len(sessions):
                undo = kind == "split" and number % 2 == 1
                rows.append((sessions[p], symbol, kind, 1.0 / value if undo else value))
    return actions_table(rows)


def adjusted_backward(
    prices: pd.Series, actions: pd.DataFrame, as_of: pd.Timestamp, field: pd.Series | None = None
) -> pd.Series:
    """Adjust as a vendor does at `as_of`: each event known by then rewrites all prices before its ex-date."""
    result = (prices if field is None else field).loc[:as_of].copy()
    for ex_date, events in actions[actions["ex_date"] <= as_of].groupby("ex_date"):
        earlier = prices.index < ex_date
        last_close = prices[earlier].dropna().iloc[-1] if prices[earlier].notna().any() else None
        if last_close is None:
            continue
        ratio = events.loc[events["kind"] == "split", "value"].prod()
        cash = events.loc[events["kind"] == "dividend", "value"].sum()
        # the previous close in shares of the ex-date, of which each pays `cash`
        comparable = last_close / ratio
        result[result.index < ex_date] *= (1.0 - cash / comparable) / ratio
    return result


def one_month_models(history: PriceHistory) -> StageModels:
    """Models of a month after the history, fitted on the whole of it.

    Where they serve sessions of the history they look ahead, on purpose: what is tested with them is what follows from
    given models.
    """
    month = pd.Timestamp("2030-01-01")
    return fit_stage_models(history, month, history.sessions[-1], MARKET, "jump")


def volatility_rows(history: PriceHistory, sessions: pd.DatetimeIndex, models: StageModels) -> pd.DataFrame:
    """Rows of the volatility stage, with the regime that it wants, all by the models of one month."""
    states = regime(history, sessions, MARKET, models.regime_for_all(sessions))
    return volatility(history, sessions, models.volatility, states, one_model=True)


def feature_table(history: PriceHistory, sessions: pd.DatetimeIndex, models: StageModels | None = None) -> pd.DataFrame:
    """Features of the given sessions, with the stages that they are made from."""
    models = one_month_models(history) if models is None else models
    states = regime(history, sessions, MARKET, models.regime_for_all(sessions))
    risk = volatility(history, sessions, models.volatility, states, one_model=True)
    return features(history, sessions, phasing(history, sessions), states, risk, MARKET)
