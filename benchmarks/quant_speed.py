"""Time and memory of the four analytic stages: all sessions of 20 symbols in one pass, one session of 500."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks.marks import Mark

MARKET = "MARKET"
FIRST_FIT = pd.Timestamp("2002-01-01")
"""The first month whose models can be fitted: 500 bars of volatility, from 2000-01-03 on."""


def marks() -> Iterator[Mark]:
    whole = _measured("whole")
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in whole["seconds"].items())
    total = sum(whole["seconds"].values())
    yield Mark(
        f"20 symbols x {whole['sessions']} sessions, each as of itself, {whole['months']} monthly refits, seconds",
        "< 60",
        f"{total:.1f} ({stages})",
        total < 60.0,
        f"`arch` for the GARCH fits alone: {whole['peer']:.0f} (of one month x {whole['months']})",
    )
    yield Mark("the same, peak memory, GB", "< 4", f"{whole['peak']:.2f}", whole["peak"] < 4.0)
    one = _measured("session")
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in one["seconds"].items())
    total = sum(one["seconds"].values())
    yield Mark("one session of 500 symbols x 6,300 bars, seconds", "< 30", f"{total:.1f} ({stages})", total < 30.0)
    yield Mark("the same, peak memory, GB", "< 2", f"{one['peak']:.2f}", one["peak"] < 2.0)
    fit = _measured("fit")
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in fit["seconds"].items())
    yield Mark("one month's models of 500 symbols, seconds", "", stages)


def _measured(what: str) -> dict:
    """Run in a process of its own, so that the peak of memory is its own."""
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.quant_speed", what], capture_output=True, text=True, check=True
    )
    return json.loads(found.stdout.splitlines()[-1])


def _history(close: pd.DataFrame):
    from trading_dagster.quant.prices import PriceHistory

    nothing, one = close * np.nan, close * 0.0 + 1.0
    close.index.name, close.columns.name = "session", "symbol"
    return PriceHistory(nothing, nothing, nothing, close, close.notna(), split=one, dividend=one * 0.0, factor=one)


def sample_history():
    from skfolio.datasets import load_sp500_dataset

    close = load_sp500_dataset().loc["2000":].astype("float64")
    return _history(close[sorted(close.columns)])


def _universe(symbols: int = 500, sessions: int = 6300):
    from exchange_calendars import get_calendar

    random = np.random.default_rng(20000103)
    variance = np.empty((sessions, symbols))
    variance[0] = 4e-4
    shocks = random.standard_t(5.0, (sessions, symbols)) * np.sqrt(3.0 / 5.0)
    for at in range(1, sessions):
        variance[at] = 4e-6 + variance[at - 1] * (0.08 * shocks[at - 1] ** 2 + 0.91)
    index = get_calendar("XNYS", start="2000-01-03").sessions[:sessions].as_unit("us")
    returns = 2e-4 + np.sqrt(variance) * shocks
    names = [f"S{number:04d}" for number in range(symbols)]
    return _history(pd.DataFrame(100.0 * np.exp(returns.cumsum(axis=0)), index=index, columns=names))


def _timed(seconds: dict[str, float], name: str, compute):
    began = time.perf_counter()
    result = compute()
    seconds[name] = round(time.perf_counter() - began, 2)
    return result


def _fit_and_rows(history, sessions: pd.DatetimeIndex, months: pd.DatetimeIndex) -> tuple[dict, dict]:
    from trading_dagster.quant.cycles import phasing
    from trading_dagster.quant.harmonics import harmonics
    from trading_dagster.quant.regime import fit_regime_models, regime
    from trading_dagster.quant.volatility import volatility
    from trading_dagster.quant.volatility_models import fit_volatility_models

    ends = pd.DatetimeIndex([history.sessions[history.sessions < month][-1] for month in months])
    fits: dict[str, float] = {}
    rows: dict[str, float] = {}
    of_regime = _timed(fits, "regime fits", lambda: fit_regime_models(history, months, ends, MARKET))
    of_risk = _timed(fits, "volatility fits", lambda: fit_volatility_models(history, months, ends))
    _timed(rows, "phasing", lambda: phasing(history, sessions))
    _timed(rows, "harmonics", lambda: harmonics(history, sessions))
    states = _timed(rows, "regime", lambda: regime(history, sessions, MARKET, of_regime))
    _timed(rows, "volatility", lambda: volatility(history, sessions, of_risk, states))
    return fits, rows


def _by_arch(history) -> float:
    """Seconds that the package takes to fit one month's models, on the last 2,500 returns."""
    from arch import arch_model

    began = time.perf_counter()
    for symbol in history.symbols:
        returns = 100.0 * history.log_return[symbol].dropna().to_numpy()[-2500:]
        model = arch_model(returns, mean="Constant", vol="GARCH", p=1, o=1, q=1, dist="t", rescale=False)
        model.fit(disp="off", show_warning=False)
    return time.perf_counter() - began


def _main(what: str) -> dict:
    history = sample_history() if what == "whole" else _universe()
    sessions = history.sessions[history.sessions >= FIRST_FIT] if what == "whole" else history.sessions[-1:]
    months = sessions.to_period("M").unique().to_timestamp().as_unit("us")
    fits, rows = _fit_and_rows(history, sessions, months)
    seconds = fits | rows if what == "whole" else rows if what == "session" else fits
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    peer = _by_arch(history) * len(months) if what == "whole" else 0.0
    return {"seconds": seconds, "sessions": len(sessions), "months": len(months), "peak": peak, "peer": peer}


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1])))
