"""Regime against loops with the standard library, and against what the notes say of a random walk."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.quant.histories import (
    MARKET,
    actions_around,
    bars_from_closes,
    closes_history,
    no_actions,
    random_walks,
    synthetic_bars,
    weekdays,
)
from trading_dagster.quant.prices import PriceHistory, price_history
from trading_dagster.quant.regime import regime

PROBABILITIES = ["prob_bull_quiet", "prob_bull_volatile", "prob_bear_quiet", "prob_bear_volatile"]
SUITS = {"prob_bull_quiet": 1.0, "prob_bull_volatile": 0.8, "prob_bear_quiet": 0.6, "prob_bear_volatile": 0.4}


def states_by_hand(values: list[float]) -> dict[str, float]:
    """Probabilities at the last of `values`, which are total-return values of every bar."""
    last = values[-200:]
    moves = [math.log(after / before) for before, after in itertools.pairwise(last)]
    # Var(x_n - mean(x)) of a random walk, added up from its definition instead of the closed form
    variance = sum((index / 200) ** 2 for index in range(1, 200)) * statistics.variance(moves)
    trend = (math.log(values[-1]) - math.log(math.fsum(last) / 200)) / math.sqrt(variance)
    daily = [math.log(after / before) for before, after in itertools.pairwise(values)]
    deviations = [statistics.stdev(daily[end - 21 : end]) for end in range(21, len(daily) + 1)]
    excess = math.log(deviations[-1] / statistics.median(deviations[-252:])) / math.sqrt(1.0 / 42.0)
    bull, volatile = stats.norm.cdf(trend), stats.norm.cdf(excess)
    return {
        "prob_bull_quiet": bull * (1 - volatile),
        "prob_bull_volatile": bull * volatile,
        "prob_bear_quiet": (1 - bull) * (1 - volatile),
        "prob_bear_volatile": (1 - bull) * volatile,
    }


def market_by_hand(history: PriceHistory) -> list[float]:
    """Wealth that is split anew into equal parts among all symbols with a return, from the first return on."""
    wealth, path = 1.0, []
    values = history.total_return
    for before, after in itertools.pairwise(values.index):
        growth = [
            values.loc[after, symbol] / values.loc[before, symbol]
            for symbol in history.symbols
            if values.loc[[before, after], symbol].notna().all()
        ]
        wealth = math.fsum(wealth / len(growth) * g for g in growth)
        path.append(wealth)
    return path


@pytest.fixture(scope="module")
def history() -> PriceHistory:
    actions = actions_around(weekdays(700), (300, 560))
    return price_history(synthetic_bars(700, actions), actions)


@pytest.fixture(scope="module")
def rows(history: PriceHistory) -> pd.DataFrame:
    return regime(history, history.sessions, MARKET)


def test_probabilities_are_probabilities_and_the_state_is_the_likeliest(rows: pd.DataFrame) -> None:
    assert rows[PROBABILITIES].to_numpy().min() >= 0.0
    np.testing.assert_allclose(rows[PROBABILITIES].sum(axis=1), 1.0, rtol=1e-12)
    assert ("prob_" + rows["regime"] == rows[PROBABILITIES].idxmax(axis=1)).all()
    assert set(rows["regime"]) == {name.removeprefix("prob_") for name in PROBABILITIES}


def test_suitability_is_the_mean_over_the_states(rows: pd.DataFrame) -> None:
    expected = [sum(row[name] * weight for name, weight in SUITS.items()) for _, row in rows.head(200).iterrows()]
    np.testing.assert_allclose(rows["suitability"].head(200), expected, rtol=1e-12)
    assert rows["suitability"].between(0.4, 1.0).all()


@pytest.mark.parametrize("symbol", ["ALFA", "BRAVO", "LATE", "ZULU"])
@pytest.mark.parametrize("at", [420, 562, 699])
def test_row_equals_plain_loops(history: PriceHistory, rows: pd.DataFrame, symbol: str, at: int) -> None:
    values = history.total_return[symbol].iloc[: at + 1].dropna().tolist()
    row = rows[(rows["symbol"] == symbol) & (rows["session"] == history.sessions[at])].iloc[0]
    assert row[PROBABILITIES].to_dict() == pytest.approx(states_by_hand(values), rel=1e-8)


@pytest.mark.parametrize("at", [250, 699])
def test_market_holds_all_symbols_in_equal_weight(history: PriceHistory, rows: pd.DataFrame, at: int) -> None:
    path = market_by_hand(history.until(history.sessions[at]))
    row = rows[(rows["symbol"] == MARKET) & (rows["session"] == history.sessions[at])].iloc[0]
    assert row[PROBABILITIES].to_dict() == pytest.approx(states_by_hand(path), rel=1e-8)


def test_rows_begin_at_the_200th_bar(history: PriceHistory, rows: pd.DataFrame) -> None:
    first = rows.groupby("symbol")["session"].min()
    for symbol in ("ALFA", "BRAVO", "ZULU", "LATE"):
        bars = history.observed.index[history.observed[symbol]]
        assert first[symbol] == bars[199]
    # over the gap at sessions 100 and 101 the price was carried on, so the window has it whole
    assert first["GAP"] == history.sessions[199]


def test_a_gap_is_a_price_that_rested(history: PriceHistory, rows: pd.DataFrame) -> None:
    values = history.total_return["GAP"].iloc[:202].where(history.observed["GAP"]).ffill()
    assert values.iloc[100] == values.iloc[99]
    row = rows[(rows["symbol"] == "GAP") & (rows["session"] == history.sessions[201])].iloc[0]
    assert row[PROBABILITIES].to_dict() == pytest.approx(states_by_hand(values.tolist()), rel=1e-8)


def test_market_begins_with_the_first_return_and_not_with_the_first_symbols_listing() -> None:
    closes = {name: np.concatenate([np.full(50, np.nan), v]) for name, v in random_walks(2, 400, seed=8).items()}
    # two further symbols trade by turns, never on two sessions running: their prices are carried on in between
    turn = np.arange(450) % 2 == 0
    early = np.arange(450) < 50
    closes["EVEN"] = np.where(turn & early, 10.0, np.nan)
    closes["ODD"] = np.where(~turn & early, 10.0, np.nan)
    history = closes_history(closes)
    rows = regime(history, history.sessions, MARKET)
    # the first return, of nothing, is at 1, which is the market's first of 200 bars
    assert rows.loc[rows["symbol"] == MARKET, "session"].min() == history.sessions[1 + 199]
    row = rows[(rows["symbol"] == MARKET) & (rows["session"] == history.sessions[300])].iloc[0]
    path = market_by_hand(history.until(history.sessions[300]))
    assert row[PROBABILITIES].to_dict() == pytest.approx(states_by_hand(path), rel=1e-8)


def test_a_crash_is_a_volatile_bear() -> None:
    calm = random_walks(3, 600, seed=4, sigma=0.006)
    falls = np.concatenate([np.zeros(580), np.random.default_rng(1).normal(-0.03, 0.04, 20)]).cumsum()
    history = closes_history({name: values * np.exp(falls) for name, values in calm.items()})
    before = regime(history, history.sessions[[579]], MARKET)
    after = regime(history, history.sessions[[599]], MARKET)
    assert (after["regime"] == "bear_volatile").all()
    assert after["suitability"].max() < 0.5
    assert before["prob_bear_volatile"].max() < 0.5


@pytest.mark.parametrize(
    ("drift", "state"), [pytest.param(0.002, "bull_quiet", id="up"), pytest.param(-0.002, "bear_quiet", id="down")]
)
def test_a_steady_trend_whose_moves_shrink_is_quiet(drift: float, state: str) -> None:
    scale = np.where(np.arange(500) < 470, 0.006, 0.001)
    moves = drift + np.random.default_rng(6).normal(0.0, 1.0, 500) * scale
    history = closes_history({"A": 100.0 * np.exp(moves.cumsum())})
    assert (regime(history, history.sessions[-1:], MARKET)["regime"] == state).all()


def test_a_price_that_never_moved_is_as_likely_in_each_state() -> None:
    history = closes_history({"A": np.full(300, 42.0)})
    rows = regime(history, history.sessions[-1:], MARKET)
    assert rows["symbol"].tolist() == ["A", MARKET]
    assert (rows[PROBABILITIES] == 0.25).all(axis=None)
    assert rows["suitability"].tolist() == pytest.approx([0.7, 0.7])


def test_trend_is_uniform_and_volatility_unit_normal_on_random_walks() -> None:
    # what the notes claim: z of the trend is standard normal under a driftless random walk
    history = closes_history(random_walks(1500, 480, seed=12))
    rows = regime(history, history.sessions[-1:], MARKET)
    rows = rows[rows["symbol"] != MARKET]
    bull = rows["prob_bull_quiet"] + rows["prob_bull_volatile"]
    assert stats.kstest(bull, "uniform").pvalue > 0.01
    volatile = stats.norm.ppf(rows["prob_bull_volatile"] + rows["prob_bear_volatile"])
    assert np.mean(volatile) == pytest.approx(0.0, abs=0.15)
    assert np.std(volatile) == pytest.approx(1.0, abs=0.12)


def test_other_symbols_do_not_change_a_symbols_row() -> None:
    bars = bars_from_closes(random_walks(3, 300, seed=9))
    session = weekdays(300)[-1:]
    alone = regime(price_history(bars[bars["symbol"] == "S0001"], no_actions()), session, MARKET)
    together = regime(price_history(bars, no_actions()), session, MARKET)
    columns = [*PROBABILITIES, "suitability"]
    pd.testing.assert_frame_equal(
        alone.loc[alone["symbol"] == "S0001", columns].reset_index(drop=True),
        together.loc[together["symbol"] == "S0001", columns].reset_index(drop=True),
    )
