"""Cycles against series whose period, phase and amplitude are known, and against statsmodels' least squares."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats

from tests.quant.histories import (
    actions_around,
    actions_table,
    adjusted_backward,
    bars_from_closes,
    closes_history,
    random_walks,
    synthetic_bars,
    weekdays,
)
from trading_dagster.quant.cycles import phasing
from trading_dagster.quant.prices import PriceHistory, price_history

Floats = NDArray[np.float64]


def wave(count: int, period: float, phase_at_end: float, amplitude: float, trend: float = 0.0) -> Floats:
    """Log price with a trough wherever the phase is a whole number."""
    phase = phase_at_end + np.arange(1 - count, 1) / period
    return np.log(50.0) + trend * np.arange(count) - amplitude * np.cos(2.0 * np.pi * phase)


def last_row(log_price: Floats, cycle: int) -> pd.Series:
    history = closes_history({"A": np.exp(log_price)})
    return phasing(history, history.sessions[-1:], cycles=(cycle,)).iloc[0]


def circular_distance(first: float, second: float) -> float:
    return abs((first - second + 0.5) % 1.0 - 0.5)


# -- a cycle that is there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cycle", [20, 40, 80])
@pytest.mark.parametrize("phase", [0.0, 0.17, 0.5, 0.83])
def test_pure_cycle_on_a_trend_is_found_exactly(cycle: int, phase: float) -> None:
    # 0.75 of the nominal period is the first one tried, so that nothing is lost to the grid
    period = 0.75 * cycle
    row = last_row(wave(3 * cycle, period, phase, 0.05, trend=0.001), cycle)
    assert row["period"] == pytest.approx(period, rel=1e-9)
    assert circular_distance(row["phase"], phase) < 1e-7
    assert row["amplitude"] == pytest.approx(0.05, rel=1e-7)
    assert circular_distance(row["next_trough_bars"] / period, -phase) < 1e-7
    assert 0.0 < row["next_trough_bars"] <= period
    assert row["snr_db"] > 100.0


@pytest.mark.parametrize("cycle", [20, 40, 80])
@pytest.mark.parametrize("relative_period", [0.85, 1.0, 1.2])
@pytest.mark.parametrize("phase", [0.05, 0.3, 0.55, 0.9])
def test_noisy_cycle_is_recovered(cycle: int, relative_period: float, phase: float) -> None:
    period, amplitude = cycle * relative_period, 0.04
    noise = np.random.default_rng(round(1000 * phase) + cycle).normal(0.0, amplitude / 4.0, 3 * cycle)
    row = last_row(wave(3 * cycle, period, phase, amplitude) + noise, cycle)
    # the periods tried are 5 % apart
    assert row["period"] == pytest.approx(period, rel=0.06)
    assert circular_distance(row["phase"], phase) < 0.08
    assert row["amplitude"] == pytest.approx(amplitude, rel=0.25)
    # amplitude squared over two, over the noise's variance: 8, or 9 dB
    assert row["snr_db"] == pytest.approx(9.0, abs=2.5)
    assert row["next_trough_bars"] == pytest.approx((1.0 - phase) * period, abs=0.12 * period)


def test_phase_rises_from_trough_to_trough() -> None:
    # the lowest bars must carry phases near 0 and the highest near 0.5, or the convention is turned round
    log_price = wave(400, 40.0, 0.0, 0.05)
    history = closes_history({"A": np.exp(log_price)})
    rows = phasing(history, history.sessions[-160:], cycles=(40,))
    lowest = rows.loc[np.argsort(log_price[-160:])[:4], "phase"]
    highest = rows.loc[np.argsort(-log_price[-160:])[:4], "phase"]
    assert all(circular_distance(phase, 0.0) < 0.06 for phase in lowest)
    assert all(circular_distance(phase, 0.5) < 0.06 for phase in highest)
    step = rows["phase"].diff().dropna() % 1.0
    assert step.between(0.0, 0.06).all()


def test_price_level_and_splits_do_not_matter() -> None:
    log_price = wave(200, 18.0, 0.4, 0.05) + np.random.default_rng(1).normal(0.0, 0.01, 200)
    sessions = weekdays(200)
    split_close = np.exp(log_price) / np.where(np.arange(200) >= 170, 20.0, 1.0)
    split = price_history(
        bars_from_closes({"A": split_close}, sessions), actions_table([(sessions[170], "A", "split", 20.0)])
    )
    whole = closes_history({"A": 1000.0 * np.exp(log_price)}, sessions)
    columns = ["period", "phase", "amplitude", "snr_db", "p_value", "next_trough_bars", "fld_cross"]
    found = phasing(split, sessions[-30:], cycles=(20,))[columns]
    expected = phasing(whole, sessions[-30:], cycles=(20,))[columns]
    pd.testing.assert_frame_equal(found, expected, rtol=1e-8)


def test_rows_are_sorted_and_complete() -> None:
    history = closes_history(random_walks(3, 260, seed=5))
    wanted = history.sessions[[250, 255, 259]]
    rows = phasing(history, wanted)
    expected = [(s, symbol, c) for s in wanted for symbol in history.symbols for c in (20, 40, 80)]
    assert list(rows[["session", "symbol", "cycle"]].itertuples(index=False, name=None)) == expected


# -- answers where there is none ------------------------------------------------------------------------------


def test_constant_price_has_no_cycle() -> None:
    row = last_row(np.full(80, np.log(12.5)), 20)
    assert row[["period", "phase", "snr_db", "next_trough_bars"]].isna().all()
    assert row[["amplitude", "p_value", "fld_cross"]].tolist() == [0.0, 1.0, 0]
    assert row["fld"] == pytest.approx(12.5, rel=1e-12)
    assert np.isnan(row["fld_target"])


@pytest.mark.parametrize("cycle", [20, 40, 80])
def test_first_answer_is_at_the_first_complete_window(cycle: int) -> None:
    history = closes_history(random_walks(1, 3 * cycle + 2, seed=2))
    rows = phasing(history, history.sessions, cycles=(cycle,))
    fitted = ["period", "phase", "amplitude", "snr_db", "p_value", "next_trough_bars"]
    assert rows.loc[: 3 * cycle - 2, fitted].isna().all(axis=None)
    assert rows.loc[3 * cycle - 1 :, fitted].notna().all(axis=None)
    assert rows.loc[: cycle // 2 - 1, "fld"].isna().all()
    assert rows.loc[cycle // 2 :, "fld"].notna().all()


def test_missing_bar_is_the_price_before_carried_on_and_touches_one_window() -> None:
    closes = random_walks(2, 200, seed=3)
    broken = {name: values.copy() for name, values in closes.items()}
    broken["S0000"][90] = np.nan
    carried = {name: values.copy() for name, values in closes.items()}
    carried["S0000"][90] = carried["S0000"][89]
    whole = phasing(closes_history(closes), weekdays(200), cycles=(20,))
    gapped = phasing(closes_history(broken), weekdays(200), cycles=(20,))
    pd.testing.assert_frame_equal(gapped, phasing(closes_history(carried), weekdays(200), cycles=(20,)), rtol=1e-9)
    fitted = ["period", "phase", "amplitude", "snr_db", "p_value"]
    touched = (gapped["symbol"] == "S0000") & gapped["session"].isin(weekdays(200)[90:150])
    assert gapped.loc[touched, fitted].notna().all(axis=None)
    assert (gapped.loc[touched, "amplitude"] != whole.loc[touched, "amplitude"]).any()
    pd.testing.assert_frame_equal(gapped.loc[~touched, fitted], whole.loc[~touched, fitted], rtol=1e-9)


# -- the fit and its p-value, against statsmodels -----------------------------------------------------------------


@pytest.mark.parametrize("cycle", [20, 40, 80])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fit_equals_the_best_of_thirteen_regressions(cycle: int, seed: int) -> None:
    window = 3 * cycle
    log_price = np.log(random_walks(1, window + 50, seed=seed)["S0000"])
    row = last_row(log_price, cycle)
    time = np.arange(window)
    fits = {}
    for step in range(13):
        period = 0.75 * cycle * (1.35 / 0.75) ** (step / 12)
        angle = 2.0 * np.pi * (time - time[-1]) / period
        columns = np.column_stack([np.ones(window), time, np.cos(angle), np.sin(angle)])
        fits[period] = sm.OLS(log_price[-window:], columns).fit()
    period, best = min(fits.items(), key=lambda item: item[1].ssr)
    assert row["period"] == pytest.approx(period, rel=1e-12)
    cosine, sine = best.params[2:]
    assert row["amplitude"] == pytest.approx(abs(complex(cosine, sine)), rel=1e-8)
    # one degree of freedom more for the period, which was fitted too
    noise = best.ssr / (best.df_resid - 1)
    assert row["snr_db"] == pytest.approx(10.0 * np.log10((cosine**2 + sine**2) / 2.0 / noise), rel=1e-8)
    # where on a fine grid the fitted sinusoid is lowest, seen from the window's end
    grid = np.arange(100_000) / 100_000
    fitted = cosine * np.cos(2.0 * np.pi * grid) + sine * np.sin(2.0 * np.pi * grid)
    assert circular_distance(row["phase"], -grid[fitted.argmin()] % 1.0) < 2e-5


@pytest.mark.parametrize("cycle", [20, 40, 80])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_p_value_equals_the_f_test_of_the_period_in_returns(cycle: int, seed: int) -> None:
    log_price = np.log(random_walks(1, 3 * cycle, seed=seed)["S0000"])
    log_price += wave(3 * cycle, 1.1 * cycle, 0.3, 0.004 * cycle / 20)
    row = last_row(log_price, cycle)
    returns = np.diff(log_price)
    angle = 2.0 * np.pi * np.arange(len(returns)) / row["period"]
    full = sm.OLS(returns, sm.add_constant(np.column_stack([np.cos(angle), np.sin(angle)]))).fit()
    single = stats.f.sf(full.fvalue, 2, len(returns) - 3)
    assert single == pytest.approx(full.f_pvalue, rel=1e-9)
    # Sidak: the chance that the smallest of thirteen independent p-values is as small
    assert row["p_value"] == pytest.approx(1.0 - (1.0 - single) ** 13, rel=1e-6)


@pytest.fixture(scope="module")
def p_values_of_random_walks() -> dict[int, Floats]:
    """P-values at windows that do not overlap, by cycle."""
    history = closes_history(random_walks(250, 2400, seed=2026))
    found = {}
    for cycle in (20, 40, 80):
        windows = history.sessions[3 * cycle - 1 :: 3 * cycle]
        found[cycle] = phasing(history, windows, cycles=(cycle,))["p_value"].to_numpy()
    return found


@pytest.mark.parametrize("cycle", [20, 40, 80])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.20])
def test_false_positives_on_random_walks(p_values_of_random_walks: dict[int, Floats], cycle: int, level: float) -> None:
    # Sidak's rule makes them rarer than the level says, a third of it here: 2,500 to 10,000 windows, at 5 % a
    # standard error of 0.44 points at most. The lower bound is the teeth: always one would be conservative, too
    p_values = p_values_of_random_walks[cycle]
    assert len(p_values) >= 2500
    assert level / 10.0 < np.mean(p_values < level) <= level
    assert ((p_values >= 0.0) & (p_values <= 1.0)).all()


@pytest.mark.parametrize("cycle", [20, 40, 80])
def test_strong_cycle_is_significant(cycle: int) -> None:
    # a random walk of 1 % a day with a cycle whose daily move peaks at 1.3 %
    count, random = 3 * cycle, np.random.default_rng(cycle)
    amplitude = 0.013 * cycle / (2.0 * np.pi)
    closes = {
        f"S{number:03d}": np.exp(
            wave(count, cycle, random.random(), amplitude) + random.normal(0, 0.01, count).cumsum()
        )
        for number in range(200)
    }
    history = closes_history(closes)
    rows = phasing(history, history.sessions[-1:], cycles=(cycle,))
    least = {20: 0.5, 40: 0.9, 80: 0.99}[cycle]
    assert (rows["p_value"] < 0.05).mean() >= least


# -- the line and its crosses -------------------------------------------------------------------------------------


def future_line_by_hand(
    history: PriceHistory, actions: pd.DataFrame, symbol: str, cycle: int, at: int
) -> tuple[float, int, float]:
    """Line, cross and target at one session, bar by bar in prices adjusted as a vendor would at that session."""
    own = actions[actions["symbol"] == symbol]
    price = adjusted_backward(history.close[symbol], own, history.sessions[at]).to_numpy()
    half, target, cross = cycle // 2, np.nan, 0
    for now in range(half, at + 1):
        cross = 0
        if now > half:
            above, above_before = price[now] - price[now - half], price[now - 1] - price[now - 1 - half]
            if above > 0 >= above_before:
                cross = 1
            elif above < 0 <= above_before:
                cross = -1
        if cross and now >= cycle - 1:
            reach = price[now - cycle + 1 : now + 1]
            extreme = min(reach) if cross == 1 else max(reach)
            # the move since the extreme, once more by the same ratio
            target = price[now] * (price[now] / extreme)
    return price[at - half], cross, target


@pytest.mark.parametrize("cycle", [20, 40])
@pytest.mark.parametrize("symbol", ["ALFA", "BRAVO", "ZULU"])
def test_future_line_equals_a_loop_over_bars(cycle: int, symbol: str) -> None:
    sessions = weekdays(220)
    actions = actions_around(sessions, (100, 160))
    history = price_history(synthetic_bars(220, actions), actions)
    rows = phasing(history, sessions, cycles=(cycle,))
    rows = rows[rows["symbol"] == symbol].reset_index(drop=True)
    crosses = 0
    for at in range(90, 220):
        line, cross, target = future_line_by_hand(history, actions, symbol, cycle, at)
        found = rows.loc[at, ["fld", "fld_cross", "fld_target"]].astype("float64")
        np.testing.assert_allclose(found, [line, cross, target], rtol=1e-10, err_msg=f"bar {at}")
        crosses += abs(cross)
    assert crosses >= 4


def test_target_of_a_known_cross() -> None:
    # price falls to 80, then crosses the line of 10 bars ago at 100: 100 / 80 once more is 125
    closes = [*np.linspace(100.0, 80.0, 21), *[81.0] * 5, 100.0, 99.5]
    history = closes_history({"A": closes})
    rows = phasing(history, history.sessions, cycles=(20,))
    assert rows["fld_cross"].tolist()[-2:] == [1, 0]
    assert rows["fld_target"].tolist()[-2:] == pytest.approx([125.0, 125.0])


@pytest.mark.parametrize(("move", "cross"), [pytest.param(1.0, 1, id="up"), pytest.param(-1.0, -1, id="down")])
def test_leaving_the_line_is_a_cross(move: float, cross: int) -> None:
    # price lay exactly on the line before: the first move away from it crosses, the next one does not
    history = closes_history({"A": [100.0] * 25 + [100.0 + move, 100.0 + 2.0 * move]})
    rows = phasing(history, history.sessions, cycles=(20,))
    assert rows["fld_cross"].tolist()[-3:] == [0, cross, 0]
