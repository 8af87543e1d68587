"""Turning points against loops over bars, and the promise that a confirmed one is never moved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trading_dagster.quant.turning_points import (
    confirmed_troughs,
    latest_position,
    provisional_position,
    reach_of,
    smaller_troughs,
    trough_spacing,
    valid_trend_line,
)

Floats = NDArray[np.float64]


def walks(count: int, columns: int, seed: int) -> Floats:
    # rounded, so that there are equal bars
    values = np.random.default_rng(seed).normal(size=(count, columns)).cumsum(axis=0).round(1)
    values[:30, -1] = np.nan
    return values


def troughs_by_hand(values: Floats, reach: int, until: int) -> list[int]:
    """Troughs of one column that are confirmed by a bar, bar by bar."""
    found = []
    for bar in range(reach, until - reach + 1):
        before, after = values[bar - reach : bar], values[bar + 1 : bar + reach + 1]
        if all(values[bar] < before) and all(values[bar] <= after):
            found.append(bar)
    return found


def lowest_by_hand(values: Floats, reach: int, until: int) -> int:
    turns = troughs_by_hand(values, reach, until) + troughs_by_hand(-values, reach, until)
    since = max(turns) + 1 if turns else int(np.isfinite(values).argmax())
    return since + int(np.argmin(values[since : until + 1])) if np.isfinite(values[until]) else -1


@pytest.mark.parametrize("reach", [1, 2, 7, 13])
def test_all_of_it_equals_a_loop_over_bars(reach: int) -> None:
    values = walks(260, 3, seed=reach)
    at = np.arange(len(values))
    troughs, peaks = confirmed_troughs(values, reach), confirmed_troughs(-values, reach)
    smaller = confirmed_troughs(values, max(reach // 2, 1))
    latest, provisional = latest_position(troughs, at), provisional_position(troughs, peaks, at)
    spacing, inside = trough_spacing(troughs, at), smaller_troughs(troughs, smaller, at)
    now, before = valid_trend_line(troughs, at)
    for column in range(values.shape[1]):
        series = values[:, column]
        for bar in range(0, len(values), 3):
            hand = troughs_by_hand(series, reach, bar)
            assert latest[bar, column] == (hand[-1] if hand else -1)
            assert provisional[bar, column] == lowest_by_hand(series, reach, bar)
            if len(hand) < 2:
                assert np.isnan([spacing[bar, column], inside[bar, column], now[bar, column]]).all()
                continue
            assert spacing[bar, column] == np.median(np.diff(hand)[-8:])
            small = troughs_by_hand(series, max(reach // 2, 1), bar)
            assert inside[bar, column] == sum(hand[-2] < one <= hand[-1] for one in small)
            line = np.polynomial.Polynomial.fit(hand[-2:], series[hand[-2:]], 1)
            assert now[bar, column] == pytest.approx(line(bar), abs=1e-9)
            assert before[bar, column] == pytest.approx(line(bar - 1), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(min_value=-4, max_value=4), min_size=3, max_size=60),
    st.integers(min_value=1, max_value=5),
)
def test_confirmed_troughs_are_only_ever_appended_to(moves: list[int], reach: int) -> None:
    values = np.cumsum(np.array(moves, dtype="float64"))[:, None]
    seen: list[int] = []
    for count in range(1, len(values) + 1):
        found = confirmed_troughs(values[:count], reach).position.tolist()
        assert found[: len(seen)] == seen
        # one that is new has just been settled
        assert all(position == count - 1 - reach for position in found[len(seen) :])
        seen = found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(min_value=-4, max_value=4), min_size=3, max_size=60),
    st.integers(min_value=1, max_value=5),
)
def test_provisional_trough_is_unconfirmed_and_of_the_time_since(moves: list[int], reach: int) -> None:
    values = np.cumsum(np.array(moves, dtype="float64"))[:, None]
    at = np.arange(len(values))
    troughs, peaks = confirmed_troughs(values, reach), confirmed_troughs(-values, reach)
    provisional = provisional_position(troughs, peaks, at)
    last = np.maximum(latest_position(troughs, at), latest_position(peaks, at))
    assert ((provisional > last) & (provisional <= at[:, None])).all()
    # one session alone gives what the range gives
    assert provisional_position(troughs, peaks, at[-1:])[0, 0] == provisional[-1, 0]


def test_trough_is_known_exactly_when_it_is_confirmed() -> None:
    values = np.abs(np.arange(41.0) - 20.0)[:, None]
    troughs = confirmed_troughs(values, 7)
    assert troughs.position.tolist() == [20]
    assert latest_position(troughs, np.array([26, 27, 40])).ravel().tolist() == [-1, 20, 20]


def test_first_of_equal_bars_counts() -> None:
    values = np.maximum(np.abs(np.arange(41.0) - 20.0), 2.0)[:, None]
    assert confirmed_troughs(values, 7).position.tolist() == [18]
    # one as low within reach before it, and neither counts twice
    assert confirmed_troughs(np.array([[3.0, 1, 2, 1, 3, 3, 3]]).T, 1).position.tolist() == [1, 3]
    assert confirmed_troughs(np.array([[3.0, 3, 1, 2, 1, 3, 3]]).T, 2).position.tolist() == [2]


def test_constant_price_has_none() -> None:
    values = np.full((50, 2), 3.0)
    troughs, at = confirmed_troughs(values, 5), np.array([10, 49])
    assert len(troughs.position) == 0
    assert (latest_position(troughs, at) == -1).all()
    assert (provisional_position(troughs, troughs, at) == 0).all()
    assert np.isnan(trough_spacing(troughs, at)).all()
    assert np.isnan(smaller_troughs(troughs, troughs, at)).all()
    assert np.isnan(valid_trend_line(troughs, at)[0]).all()


def test_column_without_a_price_has_none() -> None:
    values = np.full((50, 1), np.nan)
    troughs = confirmed_troughs(values, 5)
    assert (provisional_position(troughs, troughs, np.arange(50)) == -1).all()
    assert provisional_position(troughs, troughs, np.array([], dtype=int)).shape == (0, 1)


def test_history_shorter_than_two_reaches_has_none() -> None:
    assert len(confirmed_troughs(walks(12, 2, seed=1), 6).position) == 0


@pytest.mark.parametrize("cycle", [20, 80])
def test_spacing_in_a_random_walk_is_the_nominal_cycle(cycle: int) -> None:
    # a bar is the lowest of h on one side with chance 1 / sqrt(pi h) for large h (Sparre Andersen), so both: 1 / (pi h)
    values = np.random.default_rng(4).normal(size=(200 * cycle, 8)).cumsum(axis=0)
    reach = reach_of(cycle)
    mean = values.size / len(confirmed_troughs(values, reach).position)
    assert mean == pytest.approx(np.pi * reach, rel=0.08)
    assert mean == pytest.approx(cycle, rel=0.15)
