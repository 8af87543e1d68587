"""Cycles and harmonics on series whose truth is known: errors beside their bounds, false alarms, power, speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import talib
from scipy import signal
from skfolio.datasets import load_sp500_dataset, load_sp500_index

from benchmarks.marks import Mark
from trading_dagster.quant.cycles import NOMINAL_CYCLES, WINDOW_PERIODS, phasing
from trading_dagster.quant.harmonics import WINDOW, harmonics
from trading_dagster.quant.prices import PriceHistory
from trading_dagster.quant.standardised_returns import standardised_returns

BARS = 256
PERIODS = (20, 40, 80)
TRIALS = 3000
FALSE_WINDOWS = 10_000
WARM_UP = 150
SCALE = 0.01
PEER_TRIALS = 1000

Array = np.ndarray
Noise = Callable[[int, int, np.random.Generator], Array]


def marks() -> Iterator[Mark]:
    for noise in ("white", "random_walk"):
        for period in PERIODS:
            for decibel in (10, 0, -6):
                yield from _errors(noise, period, decibel)
    for noise in ("white", "random_walk"):
        yield from (_power(noise, period) for period in PERIODS)
    for name, returns in NOISES.items():
        yield from (_false_cycles(name, returns, cycle) for cycle in NOMINAL_CYCLES)
    yield from _real_cycles()
    for name, returns in {**NOISES, "AR(0.3)": coloured_returns}.items():
        yield _false_peaks(name, returns)
    yield from (_peak_power(period) for period in (7.3, 20.0, 45.0))
    yield from _real_peaks()
    yield from _speed()


# -- data ---------------------------------------------------------------------------------------------------------


def history_of(log_price: Array, sessions: pd.DatetimeIndex | None = None) -> PriceHistory:
    """Closes alone, of symbols (rows) by sessions."""
    index = pd.bdate_range("1980-01-01", periods=log_price.shape[1]) if sessions is None else sessions
    columns = pd.Index([f"S{number:05d}" for number in range(len(log_price))], name="symbol")
    close = pd.DataFrame(np.exp(log_price.T), index=index.as_unit("us").rename("session"), columns=columns)
    nothing, one = close * np.nan, close * 0.0 + 1.0
    return PriceHistory(nothing, nothing, nothing, close, close.notna(), split=one, dividend=one * 0.0, factor=one)


def walk_returns(rows: int, count: int, random: np.random.Generator) -> Array:
    return SCALE * random.normal(size=(rows, count))


def garch_returns(rows: int, count: int, random: np.random.Generator) -> Array:
    """GARCH(1, 1) with alpha 0.08, beta 0.90 and innovations of five degrees of freedom."""
    innovation = random.standard_t(5, (count + 300, rows)) / np.sqrt(5.0 / 3.0)
    variance, returns = np.ones(rows), np.empty((count + 300, rows))
    for at in range(len(returns)):
        returns[at] = np.sqrt(variance) * innovation[at]
        variance = 0.02 + 0.08 * returns[at] ** 2 + 0.90 * variance
    return SCALE * returns[300:].T


def resampled_returns(rows: int, count: int, random: np.random.Generator) -> Array:
    """Real returns of the sample's 20 stocks in blocks of 20 sessions, in random order."""
    real = np.log(load_sp500_dataset()).diff().iloc[1:].to_numpy()
    start = random.integers(len(real) - 20, size=(rows, -(-count // 20)))
    at = (start[:, :, None] + np.arange(20)).reshape(rows, -1)[:, :count]
    return real[at, random.integers(real.shape[1], size=(rows, 1))]


def coloured_returns(rows: int, count: int, random: np.random.Generator) -> Array:
    return signal.lfilter([1.0], [1.0, -0.3], SCALE * random.normal(size=(rows, count + 100)), axis=1)[:, 100:]


NOISES: dict[str, Noise] = {
    "random walks": walk_returns,
    "GARCH(1,1)-t(5)": garch_returns,
    "block-bootstrapped real returns": resampled_returns,
}


def cycles_in_noise(noise: str, period: float, decibel: float, trials: int, seed: int) -> tuple[Array, Array]:
    """Log prices, trials by bars, and the true phase at the end; signal to noise is of returns in a random walk."""
    random, turn = np.random.default_rng(seed), np.arange(1 - BARS, 1) / period
    phase = random.random(trials)
    amplitude = SCALE * np.sqrt(2.0 * 10.0 ** (decibel / 10.0))
    disturbance = SCALE * random.normal(size=(trials, BARS))
    if noise == "random_walk":
        amplitude /= 2.0 * np.sin(np.pi / period)
        disturbance = disturbance.cumsum(axis=1)
    return disturbance - amplitude * np.cos(2.0 * np.pi * (turn + phase[:, None])), phase


def bounds(noise: str, period: float, decibel: float) -> tuple[float, float]:
    """Cramer-Rao bounds of the phase at the end (degrees) and of the period (relative), root mean over phases.

    The inverse of the Fisher information with all parameters unknown: mean, trend (for levels), amplitude, phase,
    frequency; derivatives by central differences.
    """
    walk, rate = noise == "random_walk", 2.0 * np.pi / period
    time_ = np.arange(1 - BARS, 1)
    amplitude = np.sqrt(2.0 * 10.0 ** (decibel / 10.0)) / (2.0 * np.sin(rate / 2.0) if walk else 1.0)
    variances = []
    for angle in np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False):

        def level(size: float, start: float, speed: float) -> Array:
            wave = size * np.cos(speed * time_ + start)
            return np.diff(wave) if walk else wave

        truth = np.array([amplitude, angle, rate])
        steps = np.diag([1e-5, 1e-5, 1e-7])
        slopes = [(level(*(truth + step)) - level(*(truth - step))) / (2.0 * step.max()) for step in steps]
        nuisances = [np.ones(BARS - 1)] if walk else [np.ones(BARS), time_ / BARS]
        jacobian = np.column_stack([*nuisances, *slopes])
        variances.append(np.diag(np.linalg.inv(jacobian.T @ jacobian))[-2:])
    phase_variance, rate_variance = np.mean(variances, axis=0)
    return float(np.degrees(np.sqrt(phase_variance))), float(np.sqrt(rate_variance) / rate)


# -- peers --------------------------------------------------------------------------------------------------------


def hilbert_phase(windows: Array) -> Array:
    """Phase at the end of the analytic signal of the detrended window, turns."""
    return np.angle(signal.hilbert(signal.detrend(windows, axis=1), axis=1)[:, -1]) / (2.0 * np.pi) + 0.5


def talib_phase(windows: Array) -> Array:
    """TA-Lib's HT_DCPHASE, turns; its own zero is the rising middle."""
    degrees = np.array([talib.HT_DCPHASE(np.exp(row))[-1] for row in windows])
    return degrees / 360.0 + 0.25


def goertzel(windows: Array, period: float, noise: str) -> tuple[Array, Array]:
    """Phase (turns) and period of the largest of 241 periods' Fourier sums, without regression on anything else."""
    rows = np.diff(windows, axis=1) if noise == "random_walk" else signal.detrend(windows, axis=1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    tried = period * np.linspace(2.0**-0.5, 2.0**0.5, 241)
    last = 0.5 if noise == "random_walk" else 0.0
    angle = 2.0 * np.pi * (np.arange(1 - rows.shape[1], 1)[:, None] - last) / tried
    sums = rows @ np.exp(-1j * angle)
    best = np.abs(sums).argmax(axis=1)
    phase = np.angle(sums[np.arange(len(rows)), best]) / (2.0 * np.pi) + 0.5
    return phase - (0.25 if noise == "random_walk" else 0.0), tried[best]


def turns_apart(found: Array, truth: Array) -> Array:
    return (found - truth + 0.5) % 1.0 - 0.5


def rms_degrees(apart: Array) -> tuple[float, float]:
    """Root mean square in degrees with its standard error."""
    squares = np.square(360.0 * apart)
    root = np.sqrt(squares.mean())
    return root, squares.std() / (2.0 * root * np.sqrt(len(squares)))


# -- errors, power, false alarms ----------------------------------------------------------------------------------


def _errors(noise: str, period: int, decibel: int) -> Iterator[Mark]:
    windows, phase = cycles_in_noise(noise, period, decibel, TRIALS, seed=41_000 + period + decibel)
    history = history_of(windows)
    rows = phasing(history, history.sessions[-1:], (period,), {period: BARS})
    bound, period_bound = bounds(noise, period, decibel)
    found, error = rms_degrees(turns_apart(rows["phase"].to_numpy(), phase))
    told = f"sine in {noise.replace('_', ' ')}, P {period}, {decibel} dB"
    some, few = windows[:PEER_TRIALS], phase[:PEER_TRIALS]
    goertzel_phase, goertzel_period = goertzel(some, period, noise)
    others = {
        "Goertzel alone": turns_apart(goertzel_phase, few),
        "scipy hilbert": turns_apart(hilbert_phase(some), few),
        "TA-Lib HT_DCPHASE": turns_apart(talib_phase(some), few),
    }
    marked = decibel >= 0
    yield Mark(
        f"{told}: RMS phase at the end, degrees (bound {bound:.2f})",
        f"<= {1.2 * bound:.2f}" if marked else "",
        f"{found:.2f} +- {error:.2f} ({found / bound:.2f} x bound)",
        bool(found <= 1.2 * bound) if marked else None,
        ", ".join(f"{name} {rms_degrees(apart)[0]:.1f}" for name, apart in others.items()),
    )
    relative = rows["period"].to_numpy() / period - 1.0
    root = np.sqrt(np.mean(relative**2))
    late = (rows["next_trough_bars"].to_numpy() - (1.0 - phase) * period + period / 2.0) % period - period / 2.0
    half = (rows["next_trough_upper"] - rows["next_trough_lower"]).to_numpy() / 2.0
    yield Mark(
        f"{told}: RMS period, % (bound {100 * period_bound:.2f})",
        f"<= {120 * period_bound:.2f}" if marked else "",
        f"{100 * root:.2f} ({root / period_bound:.2f} x bound)",
        bool(root <= 1.2 * period_bound) if marked else None,
        f"Goertzel alone {100 * np.sqrt(np.mean((goertzel_period / period - 1.0) ** 2)):.2f}",
    )
    covered = np.mean(np.abs(late) <= half)
    yield Mark(f"{told}: 90 % intervals of the next trough that hold it", "", f"{100 * covered:.1f} %")


def _power(noise: str, period: int) -> Mark:
    windows, _ = cycles_in_noise(noise, period, -10, TRIALS, seed=52_000 + period)
    history = history_of(windows)
    rows = phasing(history, history.sessions[-1:], (period,), {period: BARS})
    power = np.mean(rows["p_value"] < 0.05)
    told = f"sine in {noise.replace('_', ' ')}, P {period}, -10 dB, {BARS} bars: power at 5 %"
    return Mark(told, ">= 0.85", f"{power:.3f} +- {_error(power, TRIALS):.3f}", bool(power >= 0.85))


def _error(share: float, count: int) -> float:
    return float(np.sqrt(share * (1.0 - share) / count))


def _false_cycles(name: str, returns: Noise, cycle: int) -> Mark:
    count, hits, batch = WARM_UP + round(WINDOW_PERIODS * cycle), 0, 1000
    random = np.random.default_rng(63_000 + cycle)
    for _ in range(FALSE_WINDOWS // batch):
        history = history_of(returns(batch, count, random).cumsum(axis=1))
        hits += int((phasing(history, history.sessions[-1:], (cycle,))["p_value"] < 0.05).sum())
    share = hits / FALSE_WINDOWS
    ours = f"{100 * share:.2f} +- {100 * _error(share, FALSE_WINDOWS):.2f}"
    return Mark(f"{name}: false {cycle}-bar cycles at 5 %, %", "3.5 to 6.5", ours, 0.035 <= share <= 0.065)


def real_histories() -> dict[str, PriceHistory]:
    found = {}
    for name, close in (("20 stocks", load_sp500_dataset()), ("S&P 500", load_sp500_index())):
        found[name] = history_of(np.log(close.to_numpy().T), pd.DatetimeIndex(close.index))
    return found


def _real_cycles() -> Iterator[Mark]:
    for name, history in real_histories().items():
        shares = []
        for cycle in NOMINAL_CYCLES:
            # windows that half overlap
            step = round(WINDOW_PERIODS * cycle / 2.0)
            rows = phasing(history, history.sessions[round(WINDOW_PERIODS * cycle) :: step], (cycle,))
            shares.append(f"{cycle} bars {100 * (rows['p_value'] < 0.05).mean():.1f} of {len(rows)}")
        yield Mark(f"{name}, 1990 to 2022: windows with a cycle significant at 5 %, %", "", ", ".join(shares))


# -- harmonics ----------------------------------------------------------------------------------------------------


def fishers_test(history: PriceHistory) -> Array:
    """P-values of Fisher's g: the largest of the periodogram's ordinates over their sum, against white noise."""
    values = standardised_returns(history).to_numpy()[-WINDOW:].T
    power = signal.periodogram(values, axis=1)[1][:, 4 : WINDOW // 4 + 1]
    share = power.max(axis=1) / power.sum(axis=1)
    return np.minimum(power.shape[1] * (1.0 - share) ** (power.shape[1] - 1), 1.0)


def _false_peaks(name: str, returns: Noise) -> Mark:
    random, batch, total = np.random.default_rng(74_000), 1000, 6000
    hits, peer = 0, 0
    for _ in range(total // batch):
        history = history_of(returns(batch, WARM_UP + WINDOW, random).cumsum(axis=1))
        hits += int((harmonics(history, history.sessions[-1:])["rank"] == 1).sum())
        peer += int((fishers_test(history) < 0.05).sum())
    share = hits / total
    return Mark(
        f"{name}: windows of {WINDOW} with any significant harmonic, %",
        "<= 5",
        f"{100 * share:.2f} +- {100 * _error(share, total):.2f}",
        share <= 0.05,
        f"Fisher's g {100 * peer / total:.1f}",
    )


def _peak_power(period: float) -> Mark:
    random, trials, count = np.random.default_rng(85_000), 1000, WARM_UP + WINDOW
    wave = np.cos(2.0 * np.pi * (np.arange(count) / period + random.random((trials, 1))))
    returns = walk_returns(trials, count, random) + SCALE * np.sqrt(2.0 * 10.0**-1.2) * wave
    history = history_of(returns.cumsum(axis=1))
    first = harmonics(history, history.sessions[-1:]).query("rank == 1")
    error = np.sqrt(np.mean((WINDOW / first["period"] - WINDOW / period) ** 2))
    power = len(first) / trials
    return Mark(
        f"line of {period:g} bars at -12 dB of returns, {WINDOW} bars: power at 5 %",
        "",
        f"{power:.3f} +- {_error(power, trials):.3f}; RMS error {error:.2f} Fourier bins",
        None,
        f"Fisher's g {np.mean(fishers_test(history) < 0.05):.3f}",
    )


def _real_peaks() -> Iterator[Mark]:
    for name, history in real_histories().items():
        rows = harmonics(history, history.sessions[WINDOW :: WINDOW // 2])
        windows = rows["rank"] <= 1
        ours = f"{100 * (rows['rank'] == 1).sum() / windows.sum():.1f} of {windows.sum()}"
        yield Mark(f"{name}, 1990 to 2022: windows with any significant harmonic, %", "", ours)


# -- speed --------------------------------------------------------------------------------------------------------


def _speed() -> Iterator[Mark]:
    close = load_sp500_dataset().iloc[-5800:]
    whole = history_of(np.log(close.to_numpy().T), pd.DatetimeIndex(close.index))
    wide = history_of(np.log(np.tile(close.to_numpy(), 25).T), pd.DatetimeIndex(close.index))
    for name, stage, marks_ in (("phasing, 4 cycles", phasing, (25, 3)), ("harmonics", harmonics, (12, 1.5))):
        for what, history, sessions, mark in (
            ("20 symbols x 5,800 sessions", whole, whole.sessions, marks_[0]),
            ("one session of 500 symbols", wide, wide.sessions[-1:], marks_[1]),
        ):
            began = time.perf_counter()
            stage(history, sessions)
            taken = time.perf_counter() - began
            yield Mark(f"{name}: {what}, seconds", f"<= {mark}", f"{taken:.1f}", taken <= mark)
