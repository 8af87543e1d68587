"""Features against their one-line definitions, worked out bar by bar."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest

from tests.quant.histories import (
    MARKET,
    actions_around,
    closes_history,
    feature_table,
    one_month_models,
    random_walks,
    synthetic_bars,
    volatility_rows,
    weekdays,
)
from trading_dagster.quant.cycles import phasing
from trading_dagster.quant.features import FEATURES
from trading_dagster.quant.forecasting import StageModels
from trading_dagster.quant.prices import PriceHistory, price_history
from trading_dagster.quant.regime import regime

SYMBOLS = ["ALFA", "BRAVO", "GAP", "LATE", "ZULU"]


@pytest.fixture(scope="module")
def history() -> PriceHistory:
    actions = actions_around(weekdays(920), (300, 860))
    return price_history(synthetic_bars(920, actions), actions)


@pytest.fixture(scope="module")
def models(history: PriceHistory) -> StageModels:
    return one_month_models(history)


@pytest.fixture(scope="module")
def table(history: PriceHistory, models: StageModels) -> pd.DataFrame:
    return feature_table(history, history.sessions, models)


def row_of(rows: pd.DataFrame, session: pd.Timestamp, symbol: str) -> pd.Series:
    return rows[(rows["session"] == session) & (rows["symbol"] == symbol)].iloc[0]


def moves_by_hand(history: PriceHistory, symbol: str, at: int, sigma: float) -> dict[str, float]:
    value = history.total_return[symbol].iloc[: at + 1].tolist()

    def move(start: int, end: int) -> float:
        """Log return from `start` to `end` sessions ago, in deviations of as many sessions."""
        return math.log(value[-1 - end] / value[-1 - start]) / (sigma * math.sqrt(start - end))

    daily = [math.log(after / before) for before, after in itertools.pairwise(value[-253:])]
    return {
        "momentum_21": move(21, 0),
        "momentum_63": move(63, 0),
        "momentum_126": move(126, 0),
        "momentum_252_21": move(252, 21),
        "reversal_5": -move(5, 0),
        "sigma_ratio": math.log(sigma / statistics.stdev(daily)),
    }


@pytest.mark.parametrize("symbol", SYMBOLS)
@pytest.mark.parametrize("at", [750, 862, 919])
def test_row_equals_the_definitions(
    history: PriceHistory, models: StageModels, table: pd.DataFrame, symbol: str, at: int
) -> None:
    session = history.sessions[at]
    alone = pd.DatetimeIndex([session])
    row = row_of(table, session, symbol)
    risk = volatility_rows(history, alone, models)
    sigma = {name: row_of(risk, session, name)["sigma_1d"] for name in SYMBOLS}
    by_hand = {name: moves_by_hand(history, name, at, sigma[name]) for name in SYMBOLS}
    expected = by_hand[symbol] | {"sigma": sigma[symbol]}
    expected["relative_reversal_5"] = expected["reversal_5"] - statistics.fmean(
        values["reversal_5"] for values in by_hand.values()
    )
    cycles = phasing(history, alone)
    for cycle in (20, 40, 80):
        phase = row_of(cycles[cycles["cycle"] == cycle], session, symbol)["phase"]
        # the point on the unit circle, by complex powers rather than by cosine and sine
        point = complex(0.0, 1.0) ** (4.0 * phase)
        expected |= {f"phase_cosine_{cycle}": point.real, f"phase_sine_{cycle}": point.imag}
    states = regime(history, alone, MARKET, models.regime_for_all(alone))
    for prefix, name in (("", symbol), ("market_", MARKET)):
        state = row_of(states, session, name)
        expected[f"{prefix}trend"] = state["trend"]
        expected[f"{prefix}turbulent"] = 1.0 - state["prob_calm"]
    assert set(expected) == set(FEATURES)
    assert row[list(FEATURES)].to_dict() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_columns_and_order_are_the_models(table: pd.DataFrame) -> None:
    assert list(table.columns) == ["session", "symbol", *FEATURES]
    assert table.set_index(["session", "symbol"]).index.is_unique


def test_no_feature_is_missing_once_each_window_is_full(history: PriceHistory, table: pd.DataFrame) -> None:
    # the longest window is the volatility's, 500 bars of a listed symbol
    whole = table[(table["session"] >= history.sessions[500]) & ~table["symbol"].isin(["GAP", "LATE"])]
    assert whole.notna().all(axis=None)
    late = table[table["symbol"] == "LATE"].dropna()
    assert history.sessions[150 + 499] <= late["session"].min() <= history.sessions[150 + 500]


def test_a_price_that_never_moved_has_no_scale_and_no_phase() -> None:
    closes = random_walks(2, 600, seed=1) | {"STILL": np.full(600, 10.0)}
    history = closes_history(closes)
    table = feature_table(history, history.sessions[-1:])
    still = row_of(table, history.sessions[-1], "STILL")
    scaled = [name for name in FEATURES if name.startswith(("momentum", "reversal", "relative", "sigma_ratio"))]
    assert still[scaled].isna().all()
    assert still[[name for name in FEATURES if name.startswith("phase")]].eq(0.0).all()
    others = table[table["symbol"] != "STILL"]
    assert others.notna().all(axis=None)
    # the universe's mean is over those that have the feature
    assert others["relative_reversal_5"].sum() == pytest.approx(0.0, abs=1e-12)


@pytest.fixture(scope="module")
def of_random_walks() -> pd.DataFrame:
    history = closes_history(random_walks(400, 520, seed=3))
    return feature_table(history, history.sessions[-1:])


@pytest.mark.parametrize("window", [21, 63, 126])
def test_momentum_of_a_random_walk_has_unit_variance(of_random_walks: pd.DataFrame, window: int) -> None:
    table = of_random_walks
    assert table[f"momentum_{window}"].std() == pytest.approx(1.0, abs=0.15)
    assert table[f"momentum_{window}"].mean() == pytest.approx(0.0, abs=0.15)
