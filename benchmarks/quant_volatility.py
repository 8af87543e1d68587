"""Volatility out of sample: losses of the forecasts beside their peers, tests of the tails, speed.

The indices of `arch.data` (open, high, low, close, 1999 to 2018) are forecast for 4,000 sessions from 2003-02-10,
with monthly fits. The loss is QLIKE, ``mean(v / s2 - log(v / s2) - 1)`` with v the Garman-Klass variance plus the
squared overnight return. v is on average 0.61 (S&P 500, whose opening price is mostly the close before) and 0.81
(Nasdaq) of the squared return, of which ``sigma ** 2`` is the forecast; so each forecast is brought to the level of v
by a ratio known before the month: ours by the fit's own ``range_level``, the peers by mean v by mean squared return of
the last 2,000 sessions. Losses at the level of returns stand beside.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import arch.data.nasdaq
import arch.data.sp500
import numpy as np
import pandas as pd
from arch import arch_model
from arch.bootstrap import MCS
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import binomtest
from skfolio.datasets import load_sp500_dataset

from benchmarks.marks import Mark
from trading_dagster.quant.bar_series import BarSeries, bar_series
from trading_dagster.quant.garch import fit_gjr_garch
from trading_dagster.quant.prices import PriceHistory, price_history
from trading_dagster.quant.risk_backtests import acerbi_szekely, christoffersen, coverage_report, kupiec
from trading_dagster.quant.volatility import volatility
from trading_dagster.quant.volatility_models import POOLED, fit_volatility_models

Floats = NDArray[np.float64]

FIRST = pd.Timestamp("2003-02-10")
DAYS = 4000
WINDOW = 2000
HORIZON = 21
INDICES = {"S&P 500": arch.data.sp500, "Nasdaq": arch.data.nasdaq}
QLIKE_MARKS = {"S&P 500": 0.310, "Nasdaq": 0.342}
MEASURED = {
    "S&P 500": {"EWMA": 0.394, "GARCH-t": 0.357},
    "Nasdaq": {"EWMA": 0.397, "GARCH-t": 0.385},
}
LAGS = 21


@dataclass(frozen=True)
class OutOfSample:
    """Forecasts of one index and what came: variances one session ahead, at the level of returns."""

    forecasts: dict[str, Floats]  # by model
    month_ahead: dict[str, Floats]
    levels: dict[str, Floats]  # ratio to the level of v, by model
    variance: Floats
    returns: Floats
    rows: pd.DataFrame


def marks() -> Iterator[Mark]:
    ranged, closed = index_history(), index_history(closes_only=True)
    with_ranges, with_closes = forecast_rows(ranged), forecast_rows(closed)
    for series in bar_series(ranged):
        sample = out_of_sample(ranged, series, *with_ranges)
        yield from loss_marks(series.symbol, sample)
        yield from tail_marks(series.symbol, sample)
        yield from close_marks(series.symbol, sample, out_of_sample(ranged, series, *with_closes, peers=False))
    yield from garch_marks()
    yield from stock_marks()
    yield from many_symbols_marks()


# -- data -----------------------------------------------------------------------------------------------------------


def index_history(*, closes_only: bool = False) -> PriceHistory:
    parts = []
    for name, module in INDICES.items():
        prices = module.load().rename(columns=str.lower)[["open", "high", "low", "close"]]
        if closes_only:
            prices[["open", "high", "low"]] = np.nan
        sessions = pd.DatetimeIndex(prices.index).as_unit("us")
        parts.append(prices.assign(session=sessions, symbol=name))
    return price_history(pd.concat(parts, ignore_index=True), no_actions())


def no_actions() -> pd.DataFrame:
    empty = {"ex_date": "datetime64[us]", "symbol": "str", "kind": "str", "value": "float64"}
    return pd.DataFrame({name: pd.Series([], dtype=kind) for name, kind in empty.items()})


def months_of(history: PriceHistory, sessions: pd.DatetimeIndex) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    months = sessions.to_period("M").unique().to_timestamp()
    return months, history.sessions[history.sessions.searchsorted(months) - 1]


def calm(sessions: pd.DatetimeIndex, symbols: list[str]) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([sessions, symbols], names=["session", "symbol"])
    return pd.DataFrame({"prob_turbulent": 0.0}, index=index).reset_index()


def forecast_rows(history: PriceHistory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Models, and rows of the sessions as of which the test days are forecast."""
    first = int(history.sessions.searchsorted(FIRST))
    sessions = history.sessions[first - 1 : first - 1 + DAYS]
    models = fit_volatility_models(history, *months_of(history, sessions))
    return models, volatility(history, sessions, models, calm(sessions, history.symbols))


def out_of_sample(
    history: PriceHistory, series: BarSeries, models: pd.DataFrame, rows: pd.DataFrame, *, peers: bool = True
) -> OutOfSample:
    own = rows[rows["symbol"] == series.symbol].reset_index(drop=True)
    # bar number k of the series is session k + 1: the first has no return
    at = history.sessions.get_indexer(own["session"]) - 1
    month = own["session"].dt.to_period("M").dt.to_timestamp()
    parameters = models[models["symbol"] == series.symbol].set_index("month")["parameters"].map(json.loads)
    range_level = month.map(parameters.map(lambda values: values["range_level"])).to_numpy()
    forecasts = {
        "combination": own["sigma_1d"].to_numpy() ** 2,
        "log-HAR": own["sigma_har"].to_numpy() ** 2,
        "GJR-t": own["sigma_garch"].to_numpy() ** 2,
        "EWMA": own["sigma_ewma"].to_numpy() ** 2,
    }
    trailing = trailing_level(series, at, month)
    levels = dict.fromkeys(forecasts, range_level) | {"EWMA": trailing}
    if peers:
        forecasts["GARCH-t (arch)"], levels["GARCH-t (arch)"] = arch_garch(series.returns, at, month), trailing
        # of ranges instead of returns: at the level of v by itself
        forecasts["EWMA of ranges"], levels["EWMA of ranges"] = range_ewma(series.variance)[at], np.ones(len(at))
    return OutOfSample(
        forecasts=forecasts,
        month_ahead={"combination": own["sigma_21d"].to_numpy() ** 2, "EWMA": forecasts["EWMA"]},
        levels=levels,
        variance=series.variance[at + 1],
        returns=series.returns[at + 1],
        rows=own,
    )


def trailing_level(series: BarSeries, at: NDArray[np.intp], month: pd.Series) -> Floats:
    """Mean v by mean squared return of the last sessions before each month."""
    first = pd.Series(at).groupby(month).transform("first").to_numpy()
    by_end = {}
    for end in np.unique(first):
        window = slice(max(0, end - WINDOW), end)
        by_end[end] = np.mean(series.variance[window]) / np.mean(np.square(series.returns[window]))
    return np.array([by_end[end] for end in first])


def arch_garch(returns: Floats, at: NDArray[np.intp], month: pd.Series) -> Floats:
    """GARCH(1,1)-t by `arch`, fitted monthly to the same window; variance of the session after each position."""
    found = np.empty(len(at))
    for _, those in pd.Series(np.arange(len(at))).groupby(month.to_numpy()):
        where = those.to_numpy()
        first, last = at[where[0]], at[where[-1]]
        window = 100.0 * returns[max(0, first - WINDOW) : last + 2]
        model = arch_model(window, mean="Constant", vol="GARCH", p=1, q=1, dist="t", rescale=False)
        # as of the month's first session the last bar known is `first - 1`
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = model.fit(disp="off", last_obs=len(window) - (last + 2 - first))
        found[where] = model.fix(fit.params).conditional_volatility[-len(where) :] ** 2 / 1e4
    return found


def range_ewma(variance: Floats) -> Floats:
    return lfilter([0.06], [1.0, -0.94], variance, zi=[0.94 * variance[:50].mean()])[0]


# -- losses ---------------------------------------------------------------------------------------------------------


def losses(variance: Floats, forecast: Floats) -> Floats:
    ratio = variance / forecast
    return ratio - np.log(ratio) - 1.0


def standard_error(values: Floats, lags: int = LAGS) -> float:
    """Of a mean, by Newey and West."""
    centred = values - values.mean()
    total = np.mean(np.square(centred))
    for lag in range(1, lags + 1):
        total += 2.0 * (1.0 - lag / (lags + 1)) * np.mean(centred[lag:] * centred[:-lag])
    return float(np.sqrt(total / len(values)))


def with_error(values: Floats, lags: int = LAGS) -> str:
    return f"{values.mean():.4f} (se {standard_error(values, lags):.4f})"


def loss_marks(name: str, sample: OutOfSample) -> Iterator[Mark]:
    mark, window = QLIKE_MARKS[name], f"{name}, {DAYS} days from {FIRST:%Y-%m-%d}"
    at_level = {model: losses(sample.variance, s2 * sample.levels[model]) for model, s2 in sample.forecasts.items()}
    raw = {model: losses(sample.variance, s2) for model, s2 in sample.forecasts.items()}
    ours = at_level["combination"]
    measured = ", ".join(f"{model} {value}" for model, value in MEASURED[name].items())
    yield Mark(
        f"QLIKE on Garman-Klass plus overnight, {window}",
        f"<= {mark:.3f}",
        with_error(ours),
        bool(ours.mean() <= mark),
        "; ".join(f"{model} {found.mean():.4f}" for model, found in at_level.items() if model != "combination")
        + f" (before: {measured})",
    )
    yield Mark(
        f"the same without bringing forecasts of squared returns to the level of ranges, {name}",
        "",
        with_error(raw["combination"]),
        None,
        "; ".join(f"{model} {found.mean():.4f}" for model, found in raw.items() if model != "combination"),
    )
    differences = {model: ours - found for model, found in at_level.items() if model != "combination"}
    yield Mark(
        f"QLIKE of the combination less that of the model, {name}",
        "",
        "; ".join(f"{model} {with_error(found)}" for model, found in differences.items()),
    )
    sets = MCS(pd.DataFrame(at_level), size=0.10, reps=2000, block_size=LAGS, bootstrap="stationary", seed=1)
    sets.compute()
    p_values = sets.pvalues["Pvalue"]
    yield Mark(
        f"90 % model confidence set, {name}",
        "holds the combination",
        f"p {p_values['combination']:.3f}; in the set: {', '.join(sorted(sets.included))}",
        "combination" in sets.included,
        "; ".join(f"{model} p {value:.3f}" for model, value in p_values.items() if model != "combination"),
    )
    yield month_mark(name, "with ranges", sample)


def month_mark(name: str, what: str, sample: OutOfSample) -> Mark:
    """Mean squared return over the next 21 sessions, whose losses overlap."""
    squares = np.square(sample.returns)
    month = np.convolve(squares, np.ones(HORIZON) / HORIZON, mode="valid")
    found = {model: losses(month, s2[: len(month)]) for model, s2 in sample.month_ahead.items()}
    difference = found["combination"] - found["EWMA"]
    return Mark(
        f"21 sessions ahead: QLIKE on mean squared return, {what}, {name}",
        "< EWMA",
        with_error(found["combination"], 63),
        bool(difference.mean() < 0.0),
        f"EWMA {found['EWMA'].mean():.4f}, difference {with_error(difference, 63)}",
    )


def close_marks(name: str, ranged: OutOfSample, closed: OutOfSample) -> Iterator[Mark]:
    """The estimator of closes, on the same target and on squared returns."""
    ratio = closed.variance / closed.forecasts["combination"]
    trailing = ranged.levels["EWMA"]
    on_ranges = losses(closed.variance, closed.forecasts["combination"] * trailing)
    yield Mark(
        f"closes only: QLIKE on Garman-Klass plus overnight, {name}",
        "< EWMA",
        with_error(on_ranges),
        bool(on_ranges.mean() < losses(ranged.variance, ranged.forecasts["EWMA"] * trailing).mean()),
        f"with ranges {losses(ranged.variance, ranged.forecasts['combination'] * trailing).mean():.4f}; "
        f"at the level of returns {np.mean(ratio - np.log(ratio) - 1.0):.4f}",
    )
    squares = np.square(ranged.returns)

    def normal(s2: Floats) -> Floats:
        # squared returns may be 0, so without the terms of the outcome alone
        return squares / s2 + np.log(s2)

    base = normal(ranged.forecasts["EWMA"])
    by_name = {
        "closes": closed.forecasts["combination"],
        "ranges": ranged.forecasts["combination"],
        "log-HAR of closes": closed.forecasts["log-HAR"],
        "GJR-t": ranged.forecasts["GJR-t"],
        "GARCH-t (arch)": ranged.forecasts["GARCH-t (arch)"],
    }
    gains = {model: normal(s2) - base for model, s2 in by_name.items()}
    yield Mark(
        f"QLIKE on squared returns less EWMA's, combination of closes, {name}",
        "< 0",
        with_error(gains["closes"]),
        bool(gains["closes"].mean() < 0.0),
        "; ".join(f"{model} {with_error(found)}" for model, found in gains.items() if model != "closes"),
    )
    yield month_mark(name, "closes only", closed)
    yield from tail_marks(f"{name}, closes only", closed)


# -- tails ----------------------------------------------------------------------------------------------------------


def tail_marks(name: str, sample: OutOfSample) -> Iterator[Mark]:
    lost = -np.expm1(sample.returns)
    rows = sample.rows
    normal = -np.expm1(-2.3263 * rows["sigma_ewma"].to_numpy())
    hits, baseline = lost > rows["var_99"].to_numpy(), lost > normal
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    yield Mark(
        f"VaR 1 %: share of hits, {name}",
        "0.7 to 1.4 %",
        f"{hits.mean():.2%} ({interval.low:.2%} to {interval.high:.2%})",
        bool(0.007 <= hits.mean() <= 0.014),
        f"EWMA with a normal tail {baseline.mean():.2%}",
    )
    found, peer = christoffersen(hits, 0.01), christoffersen(baseline, 0.01)
    yield Mark(
        f"VaR 1 %: Christoffersen, {name}",
        "p >= 0.05 for both",
        f"independence {found.independence.p_value:.3f}, conditional coverage {found.conditional_coverage.p_value:.3f}"
        f" (Kupiec {kupiec(hits, 0.01).p_value:.3f})",
        min(found.independence.p_value, found.conditional_coverage.p_value) >= 0.05,
        f"EWMA with a normal tail {peer.independence.p_value:.3f}, {peer.conditional_coverage.p_value:.2g}",
    )
    var_975 = rows["var_95"] + np.log(2.0) / np.log(5.0) * (rows["var_99"] - rows["var_95"])
    shortfall = acerbi_szekely(-lost, var_975.to_numpy(), rows["es_975"].to_numpy())
    yield Mark(
        f"ES 2.5 %: Acerbi-Szekely, and hits beyond var_95, {name}",
        "",
        f"Z1 {shortfall.z1:+.3f}, Z2 {shortfall.z2:+.3f}, p {shortfall.p_value:.3f}; "
        f"{np.mean(lost > rows['var_95'].to_numpy()):.2%} beyond var_95",
    )


# -- fits and speed -------------------------------------------------------------------------------------------------


def garch_marks() -> Iterator[Mark]:
    """Ours and arch's fits of the same windows."""
    ours, theirs, shortfalls = 0.0, 0.0, []
    windows = [
        100.0 * series.returns[end - WINDOW : end]
        for series in bar_series(index_history())
        for end in range(WINDOW, len(series.returns), 150)
    ]
    for window in windows:
        began = time.perf_counter()
        found = fit_gjr_garch(window)
        ours += time.perf_counter() - began
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = arch_model(window, mean="Constant", vol="GARCH", o=1, dist="t", rescale=False).fit(disp="off")
        theirs += time.perf_counter() - began
        shortfalls.append(fit.loglikelihood - found.log_likelihood)
    yield Mark(
        f"GJR-GARCH-t of {WINDOW} returns, {len(windows)} windows: time of a fit",
        "3 to 5 ms",
        f"{1e3 * ours / len(windows):.1f} ms",
        bool(ours / len(windows) <= 0.005),
        f"arch {1e3 * theirs / len(windows):.1f} ms",
    )
    yield Mark(
        "the same: log likelihood that arch finds and we do not, worst window",
        "<= 1e-5",
        f"{max(shortfalls):.1e}",
        bool(max(shortfalls) <= 1e-5),
        f"arch falls short of ours by up to {-min(shortfalls):.1e}",
    )


def stock_marks() -> Iterator[Mark]:
    """20 stocks of closes: speed of all years, and the checks of their tails."""
    closes = load_sp500_dataset()
    closes.index = pd.DatetimeIndex(closes.index).as_unit("us")
    bars = closes.rename_axis("session").reset_index().melt("session", var_name="symbol", value_name="close")
    history = price_history(bars.reindex(columns=["session", "symbol", "open", "high", "low", "close"]), no_actions())
    history = history.until(pd.Timestamp("2022-12-31"))
    sessions = history.sessions[-5800:]
    months, ends = (part[-228:] for part in months_of(history, sessions))
    began, processor = time.perf_counter(), time.process_time()
    models = fit_volatility_models(history, months, ends)
    fits = time.perf_counter() - began
    every = months_of(history, sessions)[0]
    # the first years are served by the first model: the time of the rows is what is measured
    early = models[models["month"] == months[0]]
    missing = every[~every.isin(months)]
    served = pd.concat([*(early.assign(month=month) for month in missing), models], ignore_index=True)
    began = time.perf_counter()
    rows = volatility(history, sessions, served, calm(sessions, history.symbols))
    filters, processor = time.perf_counter() - began, time.process_time() - processor
    count = int((models["symbol"] != POOLED).sum())
    yield Mark(
        f"20 stocks, closes: {count} monthly fits and {len(rows)} rows, one process",
        "<= 25 s",
        f"{fits + filters:.1f} s (fits {fits:.1f}, rows {filters:.1f}; processor {processor:.1f})",
        fits + filters <= 25.0,
    )
    yield from coverage_marks(history, rows[rows["session"] >= months[0]])


def coverage_marks(history: PriceHistory, rows: pd.DataFrame) -> Iterator[Mark]:
    wide = {
        name: rows.pivot(index="session", columns="symbol", values=name).shift(1)
        for name in ("var_95", "var_99", "es_975", "sigma_1d", "sigma_ewma")
    }
    returns = history.log_return.loc[wide["var_99"].index]
    lost = -np.expm1(returns)
    known = wide["var_99"].notna()
    shares = ((lost > wide["var_99"]) & known).sum() / known.sum()
    yield Mark(
        f"VaR 1 %: share of hits of 20 stocks, closes, {int(known.sum().iloc[0])} sessions each",
        "0.7 to 1.4 %",
        f"{shares.mean():.2%} on average, {shares.min():.2%} to {shares.max():.2%}",
        bool(0.007 <= shares.mean() <= 0.014),
        f"EWMA with a normal tail {((lost > -np.expm1(-2.3263 * wide['sigma_ewma'])) & known).to_numpy().mean():.2%}",
    )
    report = coverage_report(
        lost, wide["var_99"], wide["es_975"], var_95=wide["var_95"], windows=(250, 1000, int(known.sum().min()))
    )
    failed = report[report["p_holm"] < 0.05].groupby(["window", "test"])["symbol"].agg(", ".join)
    yield Mark(
        "stocks that fail a test at 5 % by Holm, last 250, last 1,000 and all sessions",
        "",
        "; ".join(f"{window} {test}: {symbols}" for (window, test), symbols in failed.items()) or "none",
    )
    squares = np.square(returns)
    loss = {s: (squares / wide[s] ** 2 + 2.0 * np.log(wide[s])).mean() for s in ("sigma_1d", "sigma_ewma")}
    gain = loss["sigma_1d"] - loss["sigma_ewma"]
    yield Mark(
        "QLIKE on squared returns less EWMA's, 20 stocks, closes",
        "< 0",
        f"{gain.mean():+.4f} on average ({gain.min():+.4f} to {gain.max():+.4f})",
        bool(gain.mean() < 0.0),
    )


def many_symbols_marks() -> Iterator[Mark]:
    """500 symbols with ranges: one month's fits, one session's rows."""
    random = np.random.default_rng(1)
    count, symbols = 2600, [f"S{number:03d}" for number in range(500)]
    index = pd.DatetimeIndex(pd.bdate_range("2000-01-03", periods=count), name="session").as_unit("us")
    close = 100.0 * np.exp((0.01 * random.standard_t(5, (count, 500))).cumsum(axis=0))
    opening = np.vstack([close[:1], close[:-1]]) * np.exp(random.normal(0.0, 0.002, close.shape))
    spread = 1.0 + np.abs(random.normal(0.0, 0.004, (2, *close.shape)))
    prices = (opening, np.maximum(opening, close) * spread[0], np.minimum(opening, close) / spread[1], close)
    wide = [pd.DataFrame(values, index=index, columns=pd.Index(symbols, name="symbol")) for values in prices]
    one = wide[3] * 0.0 + 1.0
    history = PriceHistory(*wide, observed=one > 0.0, split=one, dividend=one * 0.0, factor=one)
    session = index[-1:]
    began = time.perf_counter()
    models = fit_volatility_models(history, *months_of(history, session))
    fits = time.perf_counter() - began
    began = time.perf_counter()
    rows = volatility(history, session, models, calm(session, symbols))
    filters = time.perf_counter() - began
    yield Mark("500 symbols with ranges: fits of one month", "<= 20 s", f"{fits:.1f} s", fits <= 20.0)
    yield Mark(f"500 symbols with ranges: one session, {len(rows)} rows", "<= 3 s", f"{filters:.2f} s", filters <= 3.0)
