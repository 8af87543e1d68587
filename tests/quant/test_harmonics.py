"""Spectral peaks against spectra by scipy, planted lines and noise of several colours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import signal, stats

from tests.quant.histories import actions_around, closes_history, random_walks, synthetic_bars, weekdays
from trading_dagster.quant.harmonics import harmonics
from trading_dagster.quant.prices import price_history
from trading_dagster.quant.standardised_returns import standardised_returns

Floats = NDArray[np.float64]
WINDOW = 256


def from_returns(returns: Floats) -> dict[str, Floats]:
    """Closes of the given returns of sessions by symbols."""
    closes = 100.0 * np.exp(np.vstack([np.zeros(returns.shape[1]), returns]).cumsum(axis=0))
    return {f"S{number:04d}": closes[:, number] for number in range(returns.shape[1])}


def spectrum_by_scipy(values: Floats) -> tuple[Floats, Floats]:
    """Frequencies and multitaper spectrum over AR(1) noise, of periods from 4 bars to a quarter of the window."""
    count = len(values)
    centred = values - values.mean()
    tapers = signal.windows.dpss(count, 2.0, 3)
    each = [signal.periodogram(centred, window=taper, detrend=False, scaling="density")[1] for taper in tapers]
    frequency = np.fft.rfftfreq(count)
    # one-sided densities hold twice the power
    spectrum = np.mean(each, axis=0) / 2.0
    correlation = np.dot(centred[1:], centred[:-1]) / np.dot(centred, centred)
    response = signal.freqz([1.0], [1.0, -correlation], 2.0 * np.pi * frequency)[1]
    null = np.var(centred) * (1.0 - correlation**2) * np.abs(response) ** 2
    tested = (frequency >= 4.0 / count) & (frequency <= 0.25)
    return frequency[tested], (spectrum / null)[tested]


@pytest.mark.parametrize("window", [128, 256])
def test_power_and_p_value_equal_a_spectrum_by_scipy(window: int) -> None:
    returns = np.random.default_rng(4).normal(0.0, 0.01, (window + 40, 6))
    returns[:, :3] += 0.01 * np.cos(2.0 * np.pi * np.arange(window + 40) / 9.0)[:, None]
    history = closes_history(from_returns(returns))
    rows = harmonics(history, history.sessions[-1:], window)
    assert set(rows.loc[rows["rank"] == 1, "symbol"]) == {"S0000", "S0001", "S0002"}
    for symbol in history.symbols:
        frequency, ratio = spectrum_by_scipy(standardised_returns(history)[symbol].to_numpy()[-window:])
        found = rows[rows["symbol"] == symbol].iloc[0]
        expected = min(stats.gamma.sf(ratio.max(), 3, scale=1.0 / 3.0) * len(frequency), 1.0)
        assert found["p_value"] == pytest.approx(expected, rel=1e-6)
        if found["rank"] == 1:
            assert found["power"] == pytest.approx(ratio.max(), rel=1e-9)
            assert abs(window / found["period"] - window * frequency[ratio.argmax()]) <= 2.5


@pytest.mark.parametrize("period", [5.3, 11.7, 30.0])
def test_planted_period_is_found(period: float) -> None:
    random, trials, count = np.random.default_rng(8), 60, WINDOW + 60
    # -7 dB of the returns' noise
    wave = np.cos(2.0 * np.pi * (np.arange(count)[:, None] / period + random.random(trials)))
    history = closes_history(from_returns(0.01 * (np.sqrt(0.4) * wave + random.normal(size=(count, trials)))))
    rows = harmonics(history, history.sessions[-1:], WINDOW)
    first = rows[rows["rank"] == 1]
    assert len(first) >= 0.8 * trials
    # within half a Fourier bin
    near = (WINDOW / first["period"] - WINDOW / period).abs() < 0.5
    assert near.mean() > 0.95


def test_two_planted_periods_are_told_apart_and_ranked() -> None:
    random, count = np.random.default_rng(2), WINDOW + 60
    time = np.arange(count)[:, None]
    waves = 1.2 * np.cos(2.0 * np.pi * time / 8.0) + 1.0 * np.cos(2.0 * np.pi * time / 25.0)
    history = closes_history(from_returns(0.01 * (waves + random.normal(size=(count, 1)))))
    rows = harmonics(history, history.sessions[-1:], WINDOW)
    assert rows["rank"].tolist() == [1, 2]
    assert rows["period"].tolist() == pytest.approx([8.0, 25.0], rel=0.02)
    assert rows["p_value"].is_monotonic_increasing
    assert rows["power"].is_monotonic_decreasing


def coloured(autoregression: float) -> Floats:
    white = np.random.default_rng(5).normal(0.0, 0.01, (WINDOW + 200, 1500))
    return signal.lfilter([1.0], [1.0, -autoregression], white, axis=0)


@pytest.mark.parametrize("autoregression", [-0.2, 0.0, 0.3])
def test_noise_of_any_colour_rarely_shows_a_peak(autoregression: float) -> None:
    # Bonferroni's bound is 5 %; tapered ordinates are alike, so that it is about 2.5. Against a flat null AR(0.3)
    # would show a peak in every other window
    history = closes_history(from_returns(coloured(autoregression)))
    rows = harmonics(history, history.sessions[-1:], WINDOW)
    assert 0.008 < rows.loc[rows["rank"] == 1, "symbol"].nunique() / 1500 < 0.045


def test_none_is_said_in_one_row() -> None:
    history = closes_history(random_walks(3, WINDOW + 10, seed=6))
    rows = harmonics(history, history.sessions[-4:], WINDOW)
    assert rows[["session", "symbol"]].equals(
        pd.DataFrame({"session": np.repeat(history.sessions[-4:], 3), "symbol": history.symbols * 4})
    )
    assert (rows["rank"] == 0).all()
    assert rows[["period", "power"]].isna().all(axis=None)
    assert (rows["p_value"] >= 0.05).all()


def test_first_row_is_at_the_first_complete_window() -> None:
    closes = random_walks(2, WINDOW + 30, seed=6)
    closes["S0001"][:20] = np.nan
    history = closes_history(closes)
    rows = harmonics(history, history.sessions, WINDOW)
    first = rows.groupby("symbol")["session"].min()
    # returns are one fewer than bars
    assert first.tolist() == [history.sessions[WINDOW], history.sessions[WINDOW + 20]]
    assert rows.groupby("symbol")["session"].nunique().tolist() == [30, 10]
    assert harmonics(history, history.sessions[:WINDOW], WINDOW).empty
    assert rows.dtypes.equals(harmonics(history, history.sessions[:WINDOW], WINDOW).dtypes)


def test_constant_price_has_none_and_a_halved_one_stays_finite() -> None:
    halved = random_walks(1, WINDOW + 100, seed=3)["S0000"]
    halved[WINDOW:] /= 2.0
    history = closes_history({"FLAT": np.full(WINDOW + 100, 7.0), "HALVED": halved})
    rows = harmonics(history, history.sessions[WINDOW:], WINDOW)
    flat = rows[rows["symbol"] == "FLAT"]
    assert (flat["rank"] == 0).all()
    assert (flat["p_value"] == 1.0).all()
    # one outlier is white: it makes no peak
    assert (rows.loc[rows["symbol"] == "HALVED", "rank"] == 0).mean() > 0.9
    assert rows["p_value"].between(0.0, 1.0).all()


@pytest.mark.parametrize("cut", [420, 433, 499])
def test_row_of_a_session_is_the_same_bits_whatever_else_is_asked(cut: int) -> None:
    sessions = weekdays(500)
    actions = actions_around(sessions, (300, cut))
    bars = synthetic_bars(500, actions)
    # a wave strong enough for peaks
    place = np.searchsorted(sessions, bars["session"])
    bars["close"] *= np.exp(0.03 * np.cos(2.0 * np.pi * place / 11.0))
    whole = harmonics(price_history(bars, actions), sessions, 128)
    expected = whole[whole["session"] == sessions[cut]].reset_index(drop=True)
    seen = bars["session"] <= sessions[cut]
    known = price_history(bars[seen], actions[actions["ex_date"] <= sessions[cut]])
    pd.testing.assert_frame_equal(harmonics(known, sessions[[cut]], 128), expected, check_exact=True)
    one = harmonics(known.select(["ALFA"]), sessions[[cut]], 128)
    own = expected[expected["symbol"] == "ALFA"].reset_index(drop=True)
    pd.testing.assert_frame_equal(one, own, check_exact=True)
    assert (expected["rank"] > 0).any()


def test_window_too_short_says_so() -> None:
    history = closes_history(random_walks(1, 100, seed=6))
    with pytest.raises(ValueError, match="window of 30 returns leaves too few periods to test; use 64 or more"):
        harmonics(history, history.sessions, 30)


def test_standardised_returns_follow_the_recursion() -> None:
    closes = random_walks(2, 60, seed=1)
    closes["S0001"][:10] = np.nan
    history = closes_history(closes)
    found = standardised_returns(history)
    for column, start in (("S0000", 1), ("S0001", 11)):
        returns = np.diff(np.log(closes[column]))[start - 1 :]
        # weights of the past, newest first, that sum to one
        for now in range(len(returns)):
            weight = 0.94 ** np.arange(now + 1)
            variance = np.average(returns[now::-1] ** 2, weights=weight)
            assert found[column].to_numpy()[start + now] == pytest.approx(returns[now] / np.sqrt(variance), rel=1e-9)
        assert found[column].to_numpy()[:start].tolist() == pytest.approx([np.nan] * start, nan_ok=True)
    assert found.abs().max(axis=None) <= 1.0 / np.sqrt(0.06) + 1e-9
