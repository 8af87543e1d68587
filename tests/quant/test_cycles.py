"""Cycles against series whose period, phase and amplitude are known; the estimator has tests of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

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


def window_of(cycle: int) -> int:
    return round(6.4 * cycle)


# -- a cycle that is there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cycle", [20, 40, 80])
@pytest.mark.parametrize("relative_period", [0.75, 1.0, 1.31])
@pytest.mark.parametrize("phase", [0.0, 0.17, 0.5, 0.83])
def test_pure_cycle_on_a_trend_is_found_exactly(cycle: int, relative_period: float, phase: float) -> None:
    period = relative_period * cycle
    row = last_row(wave(window_of(cycle), period, phase, 0.05, trend=0.001), cycle)
    # the quartic between the frequencies tried leaves a millionth of a Fourier bin
    assert row["period"] == pytest.approx(period, rel=2e-6)
    assert circular_distance(row["phase"], phase) < 2e-5
    assert row["amplitude"] == pytest.approx(0.05, rel=1e-5)
    assert circular_distance(row["next_trough_bars"] / period, -phase) < 2e-5
    assert 0.0 < row["next_trough_bars"] <= period * (1.0 + 2e-6)
    assert row["snr_db"] > 60.0
    assert row["p_value"] < 1e-12


@pytest.mark.parametrize("cycle", [20, 40, 80])
@pytest.mark.parametrize("relative_period", [0.85, 1.2])
@pytest.mark.parametrize("phase", [0.05, 0.55, 0.9])
@pytest.mark.parametrize("noise", ["white", "random_walk"])
def test_noisy_cycle_is_recovered(cycle: int, relative_period: float, phase: float, noise: str) -> None:
    period, amplitude, count = cycle * relative_period, 0.04, window_of(cycle)
    random = np.random.default_rng(round(1000 * phase) + cycle)
    if noise == "white":
        disturbance = random.normal(0.0, amplitude / 4.0, count)
    else:
        # as strong against the cycle's own moves
        disturbance = random.normal(0.0, amplitude * np.sin(np.pi / period) / 2.0, count).cumsum()
    row = last_row(wave(count, period, phase, amplitude) + disturbance, cycle)
    assert row["noise"] == noise
    # at 9 dB over 128 bars and more the Cramer-Rao bounds are 0.01 of a turn and 0.4 % of the period
    assert row["period"] == pytest.approx(period, rel=0.02)
    assert circular_distance(row["phase"], phase) < 0.04
    assert row["amplitude"] == pytest.approx(amplitude, rel=0.2)
    # its standard error is 0.6 dB over 128 bars
    assert row["snr_db"] == pytest.approx(9.0, abs=2.1)
    assert row["p_value"] < 1e-6


def cramer_rao_bound(period: float, count: int, noise_to_amplitude: float) -> tuple[float, float]:
    """Standard errors of the phase at the end (turns) and of the period (relative), of white noise on a trend.

    The inverse of the information matrix, averaged over phases.
    """
    time, rate = np.arange(1 - count, 1), 2.0 * np.pi / period
    found = []
    for angle in np.linspace(0.0, np.pi, 12, endpoint=False):
        inside = rate * time + angle
        jacobian = np.column_stack(
            [np.ones(count), time / count, np.cos(inside), np.sin(inside), time * rate * np.sin(inside)]
        )
        found.append(np.diag(np.linalg.inv(jacobian.T @ jacobian))[-2:])
    angle_variance, rate_variance = np.square(noise_to_amplitude) * np.mean(found, axis=0)
    return np.sqrt(angle_variance) / (2.0 * np.pi), np.sqrt(rate_variance)


@pytest.mark.parametrize("period", [20, 40, 80])
@pytest.mark.parametrize("decibel", [0.0, 10.0])
def test_errors_are_near_the_cramer_rao_bound(period: int, decibel: float) -> None:
    random, count, trials = np.random.default_rng(77), 256, 300
    phase = random.random(trials)
    sigma = 0.02 * np.sqrt(0.5 / 10.0 ** (decibel / 10.0))
    closes = {
        f"S{number:03d}": np.exp(wave(count, period, phase[number], 0.02) + random.normal(0.0, sigma, count))
        for number in range(trials)
    }
    history = closes_history(closes)
    rows = phasing(history, history.sessions[-1:], cycles=(period,), windows={period: count})
    miss = (rows["phase"] - phase + 0.5) % 1.0 - 0.5
    bound, period_bound = cramer_rao_bound(period, count, sigma / 0.02)
    # nobody is below the bound; the standard error of a root mean square of 300 is 4 %
    assert 0.87 < np.sqrt(np.mean(miss**2)) / bound < 1.15
    assert 0.87 < np.sqrt(np.mean((rows["period"] / period - 1.0) ** 2)) / period_bound < 1.15
    # a trough that is due now may be due in a period as well
    late = (rows["next_trough_bars"] - (1.0 - phase) * period + period / 2.0) % period - period / 2.0
    inside = late.abs() <= (rows["next_trough_upper"] - rows["next_trough_lower"]) / 2.0
    assert inside.mean() == pytest.approx(0.9, abs=0.055)


def test_phase_rises_from_trough_to_trough() -> None:
    # the lowest bars must carry phases near 0 and the highest near 0.5, or the convention is turned round
    log_price = wave(500, 40.0, 0.0, 0.05)
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
    expected = [(s, symbol, c) for s in wanted for symbol in history.symbols for c in (20, 40, 80, 160)]
    assert list(rows[["session", "symbol", "cycle"]].itertuples(index=False, name=None)) == expected


# -- answers where there is none ------------------------------------------------------------------------------


def test_constant_price_has_no_cycle() -> None:
    row = last_row(np.full(160, np.log(12.5)), 20)
    missing = ["period", "phase", "snr_db", "next_trough_bars", "next_trough_lower", "next_trough_upper", "noise"]
    assert row[missing].isna().all()
    assert row[["amplitude", "p_value", "fld_cross", "vtl_break"]].tolist() == [0.0, 1.0, 0, 0]
    assert row["fld"] == pytest.approx(12.5, rel=1e-12)
    assert row[["fld_target", "trough_confirmed", "trough_spacing", "smaller_troughs", "vtl"]].isna().all()
    assert row["trough_provisional"] == weekdays(160)[0]


def test_price_that_stands_still_after_moving_has_one_again_when_it_moves() -> None:
    log_price = np.concatenate([wave(200, 20.0, 0.3, 0.05), np.full(150, np.log(50.0)), wave(140, 20.0, 0.1, 0.05)])
    history = closes_history({"A": np.exp(log_price)})
    rows = phasing(history, history.sessions, cycles=(20,))
    still = rows["p_value"].eq(1.0) & rows["amplitude"].eq(0.0)
    assert still.sum() == 150 - window_of(20) + 1
    assert rows.loc[still, "period"].isna().all()
    moving = rows[~still & (rows.index >= window_of(20) - 1)]
    assert np.isfinite(moving[["period", "phase", "amplitude", "snr_db", "p_value", "next_trough_bars"]]).all(axis=None)


def test_price_that_halves_in_a_day_leaves_finite_numbers() -> None:
    closes = random_walks(1, 400, seed=6)["S0000"]
    closes[300:] /= 2.0
    history = closes_history({"A": closes})
    rows = phasing(history, history.sessions[200:], cycles=(20,))
    fitted = ["period", "phase", "amplitude", "snr_db", "p_value", "next_trough_lower", "next_trough_upper", "vtl"]
    assert np.isfinite(rows[fitted]).all(axis=None)
    # an outlier is worth 4 standard deviations to the test, not fifty
    assert rows["p_value"].min() > 1e-3


def test_history_of_a_year_answers_for_the_shortest_cycle() -> None:
    history = closes_history(random_walks(2, 252, seed=2))
    rows = phasing(history, history.sessions[-1:]).set_index(["symbol", "cycle"])
    fitted = rows[["period", "phase", "amplitude", "snr_db", "p_value", "noise"]]
    assert fitted.xs(20, level="cycle").notna().all(axis=None)
    assert fitted.drop(index=20, level="cycle").isna().all(axis=None)
    assert rows[["fld", "fld_cross", "trough_provisional", "vtl_break"]].notna().all(axis=None)


@pytest.mark.parametrize("cycle", [20, 40, 80])
def test_first_answer_is_at_the_first_complete_window(cycle: int) -> None:
    history = closes_history(random_walks(1, window_of(cycle) + 2, seed=2))
    rows = phasing(history, history.sessions, cycles=(cycle,))
    fitted = ["period", "phase", "amplitude", "snr_db", "p_value", "next_trough_bars", "noise"]
    assert rows.loc[: window_of(cycle) - 2, fitted].isna().all(axis=None)
    assert rows.loc[window_of(cycle) - 1 :, fitted].notna().all(axis=None)
    assert rows.loc[: cycle // 2 - 1, "fld"].isna().all()
    assert rows.loc[cycle // 2 :, "fld"].notna().all()


def test_missing_bar_is_the_price_before_carried_on_and_touches_one_symbol() -> None:
    closes = random_walks(2, 200, seed=3)
    broken = {name: values.copy() for name, values in closes.items()}
    broken["S0000"][90] = np.nan
    carried = {name: values.copy() for name, values in closes.items()}
    carried["S0000"][90] = carried["S0000"][89]
    whole = phasing(closes_history(closes), weekdays(200), cycles=(20,))
    gapped = phasing(closes_history(broken), weekdays(200), cycles=(20,))
    pd.testing.assert_frame_equal(gapped, phasing(closes_history(carried), weekdays(200), cycles=(20,)), rtol=1e-9)
    fitted = ["period", "phase", "amplitude", "snr_db", "p_value", "vtl", "trough_spacing"]
    touched = (gapped["symbol"] == "S0000") & gapped["session"].isin(weekdays(200)[127:])
    assert gapped.loc[touched, fitted].notna().all(axis=None)
    assert set(gapped["noise"].dropna()) == {"random_walk"}
    assert (gapped.loc[touched, "amplitude"] != whole.loc[touched, "amplitude"]).any()
    pd.testing.assert_frame_equal(gapped.loc[~touched, fitted], whole.loc[~touched, fitted], rtol=1e-9)


def test_listing_comes_late() -> None:
    closes = random_walks(2, 300, seed=9)
    late = {"A": closes["S0000"], "B": np.where(np.arange(300) < 100, np.nan, closes["S0001"])}
    alone = {"B": closes["S0001"][100:]}
    rows = phasing(closes_history(late), weekdays(300), cycles=(20,))
    own = phasing(closes_history(alone, weekdays(300)[100:]), weekdays(300), cycles=(20,))
    listed = rows[(rows["symbol"] == "B") & (rows["session"] >= weekdays(300)[100])].reset_index(drop=True)
    pd.testing.assert_frame_equal(listed, own, check_exact=True)
    before = rows[(rows["symbol"] == "B") & (rows["session"] < weekdays(300)[100])]
    assert before.drop(columns=["session", "symbol", "cycle", "fld_cross", "vtl_break"]).isna().all(axis=None)


def test_nothing_asked_is_an_empty_table() -> None:
    history = closes_history(random_walks(2, 150, seed=1))
    some = phasing(history, history.sessions[-1:])
    for rows in (phasing(history, weekdays(1, "1990-01-01")), phasing(history.select([]), history.sessions)):
        assert rows.empty
        pd.testing.assert_series_equal(rows.dtypes, some.dtypes)


def test_cycles_must_ascend() -> None:
    history = closes_history(random_walks(1, 10, seed=1))
    with pytest.raises(ValueError, match=r"cycles \(40, 20\) do not ascend"):
        phasing(history, history.sessions, cycles=(40, 20))


# -- no look-ahead ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [420, 433, 519])
def test_row_of_a_session_is_the_same_bits_whatever_else_is_asked(cut: int) -> None:
    sessions = weekdays(520)
    actions = actions_around(sessions, (300, 400, cut))
    bars = synthetic_bars(520, actions)
    cycles = (20, 40)
    whole = phasing(price_history(bars, actions), sessions, cycles)
    expected = whole[whole["session"] == sessions[cut]].reset_index(drop=True)
    seen = bars["session"] <= sessions[cut]
    known = price_history(bars[seen], actions[actions["ex_date"] <= sessions[cut]])
    alone = phasing(known, sessions[[cut]], cycles)
    pd.testing.assert_frame_equal(alone, expected, check_exact=True)
    one = phasing(known.select(["GAP"]), sessions[[cut]], cycles)
    expected = expected[expected["symbol"] == "GAP"].reset_index(drop=True)
    pd.testing.assert_frame_equal(one, expected, check_exact=True)
    # columns that are missing everywhere would be equal whatever the code does
    assert whole[whole["session"] >= sessions[400]].drop(columns="smaller_troughs").notna().mean().min() > 0.7


# -- the p-value --------------------------------------------------------------------------------------------------


def garch_returns(symbols: int, sessions: int, seed: int) -> Floats:
    """Returns whose volatility clusters and whose innovations have five degrees of freedom."""
    random = np.random.default_rng(seed)
    innovation = random.standard_t(5, (sessions, symbols)) / np.sqrt(5.0 / 3.0)
    variance, returns = np.ones(symbols), np.empty((sessions, symbols))
    for at in range(sessions):
        returns[at] = np.sqrt(variance) * innovation[at]
        variance = 0.02 + 0.08 * returns[at] ** 2 + 0.90 * variance
    return 0.01 * returns


def resampled_returns(symbols: int, sessions: int, seed: int) -> Floats:
    """Real returns in blocks of twenty sessions, in random order."""
    from skfolio.datasets import load_sp500_dataset

    real = np.log(load_sp500_dataset()).diff().iloc[1:].to_numpy()
    random = np.random.default_rng(seed)
    blocks = -(-sessions // 20)
    start = random.integers(len(real) - 20, size=(blocks, symbols))
    rows = (start[:, None, :] + np.arange(20)[None, :, None]).reshape(-1, symbols)[:sessions]
    return real[rows, random.integers(real.shape[1], size=symbols)]


def walk_returns(symbols: int, sessions: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(0.0, 0.01, (sessions, symbols))


@pytest.mark.parametrize("returns", [walk_returns, garch_returns, resampled_returns])
@pytest.mark.parametrize("cycle", [20, 40])
def test_false_cycles_at_five_percent(returns: Callable[[int, int, int], Floats], cycle: int) -> None:
    # windows do not overlap; the standard error is 0.45 points or less, and the benchmark has ten times as many
    symbols, window = 300, window_of(cycle)
    moves = returns(symbols, 8 * window + 100, 2026)
    closes = 100.0 * np.exp(moves.cumsum(axis=0))
    history = closes_history({f"S{number:03d}": closes[:, number] for number in range(symbols)})
    rows = phasing(history, history.sessions[100 + window - 1 :: window], cycles=(cycle,))
    assert len(rows) == 8 * symbols
    assert 0.03 <= (rows["p_value"] < 0.05).mean() <= 0.065
    assert (rows["noise"] == "random_walk").mean() > 0.999


@pytest.mark.parametrize("noise", ["white", "random_walk"])
@pytest.mark.parametrize("period", [20, 80])
def test_weak_cycle_is_significant(noise: str, period: int) -> None:
    # -10 dB: a tenth of the noise's variance, of returns where the noise is a random walk
    random, trials, count = np.random.default_rng(period), 300, 256
    amplitude = 0.01 * np.sqrt(0.2)
    if noise == "random_walk":
        amplitude /= 2.0 * np.sin(np.pi / period)
    disturbance = random.normal(0.0, 0.01, (trials, count))
    if noise == "random_walk":
        disturbance = disturbance.cumsum(axis=1)
    closes = {
        f"S{number:03d}": np.exp(wave(count, period, random.random(), amplitude) + disturbance[number])
        for number in range(trials)
    }
    history = closes_history(closes)
    rows = phasing(history, history.sessions[-1:], cycles=(period,), windows={period: count})
    assert (rows["p_value"] < 0.05).mean() >= 0.9
    assert (rows["noise"] == noise).mean() > 0.99


def test_cycles_are_rarely_significant_in_real_prices(sample_history: PriceHistory) -> None:
    rows = phasing(sample_history, sample_history.sessions[::25], cycles=(20, 40, 80))
    assert (rows["p_value"] < 0.05).mean() < 0.10
    assert (rows["noise"].dropna() == "random_walk").mean() > 0.99


# -- the trend line -----------------------------------------------------------------------------------------------


def test_trend_line_and_its_break() -> None:
    # troughs of 100 at bar 20 and 110 at bar 40: the line gains a tenth in 20 bars
    at = [0, 10, 20, 30, 40, 50, 60, 61, 62, 70]
    log_price = np.interp(np.arange(71), at, np.log([110, 120, 100, 130, 110, 140, 125, 115, 125, 150]))
    history = closes_history({"A": np.exp(log_price)})
    rows = phasing(history, history.sessions, cycles=(20,))
    assert rows.loc[46, "vtl"] != pytest.approx(110.0 * 1.1 ** (6 / 20))
    assert rows.loc[47, "vtl"] == pytest.approx(110.0 * 1.1 ** (7 / 20))
    assert rows.loc[61, "vtl"] == pytest.approx(110.0 * 1.1 ** (21 / 20))
    assert rows.loc[60:63, "vtl_break"].tolist() == [0, -1, 1, 0]
    assert rows.loc[47:60, "vtl_break"].eq(0).all()
    assert rows.loc[47, "trough_confirmed"] == history.sessions[40]
    assert rows.loc[47, "trough_spacing"] == 20.0


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
    for at in range(90, 220, 2):
        line, cross, target = future_line_by_hand(history, actions, symbol, cycle, at)
        found = rows.loc[at, ["fld", "fld_cross", "fld_target"]].astype("float64")
        np.testing.assert_allclose(found, [line, cross, target], rtol=1e-10, err_msg=f"bar {at}")
        crosses += abs(cross)
    assert crosses >= 2


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
