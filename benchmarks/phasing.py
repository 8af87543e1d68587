"""Cycle fits of every session at once, beside a loop of least-squares fits of the same windows and periods."""

import time

import numpy as np
from skfolio.datasets import load_sp500_dataset

from trading_dagster.quant import cycles
from trading_dagster.quant.prices import PriceHistory

CYCLE = 40
LOOPED = 100


def main() -> None:
    close = load_sp500_dataset().loc["2000":]
    nothing, one = close * np.nan, close * 0.0 + 1.0
    history = PriceHistory(nothing, nothing, nothing, close, split=one, dividend=one * 0.0, factor=one)
    began = time.perf_counter()
    rows = cycles.phasing(history, history.sessions, cycles=(CYCLE,))
    ours = (time.perf_counter() - began) / len(rows)

    log_price = np.log(close["KO"].to_numpy())
    window = cycles.WINDOW_PERIODS * CYCLE
    time_axis = np.arange(1 - window, 1)
    periods = np.geomspace(cycles.PERIOD_RANGE[0] * CYCLE, cycles.PERIOD_RANGE[1] * CYCLE, cycles.PERIODS_TRIED)
    began = time.perf_counter()
    best = []
    for end in range(len(log_price) - LOOPED, len(log_price)):
        segment = log_price[end + 1 - window : end + 1]
        residuals = []
        for period in periods:
            angle = 2 * np.pi * time_axis / period
            design = np.column_stack([np.ones(window), time_axis / window, np.cos(angle), np.sin(angle)])
            residuals.append(np.linalg.lstsq(design, segment)[1][0])
        best.append(periods[int(np.argmin(residuals))])
    loop = (time.perf_counter() - began) / LOOPED

    found = rows[rows["symbol"] == "KO"]["period"].to_numpy()[-LOOPED:]
    print(f"{len(rows)} fits of {cycles.PERIODS_TRIED} periods, {CYCLE}-bar cycle: {1e6 * ours:.1f} us each")
    print(f"numpy.linalg.lstsq in a loop:  {1e6 * loop:.1f} us each   ratio {loop / ours:.0f}")
    print(f"same period chosen in {np.isclose(found, best).mean():.0%} of {LOOPED} windows")
