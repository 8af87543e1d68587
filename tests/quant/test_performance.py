"""Performance against an account that is carried forward share by share."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from tests.quant.histories import actions_around, actions_table, bars_from_closes, synthetic_bars, weekdays
from trading_dagster.quant.performance import drawdown, equal_weight_buy_and_hold
from trading_dagster.quant.prices import price_history

SESSIONS = weekdays(4)


def test_known_answer() -> None:
    closes = {"A": [7.0, 10.0, 11.0, 9.0], "B": [9.0, 20.0, 10.0, 30.0]}
    history = price_history(bars_from_closes(closes, SESSIONS), actions_table([]))
    equity = equal_weight_buy_and_hold(history, SESSIONS, 1000.0, 0.01)
    # cash until the second close; there 495 buy 49.5 shares of A, and 24.75 of B
    assert equity.tolist() == pytest.approx([1000.0, 990.0, 49.5 * 11 + 24.75 * 10, 49.5 * 9 + 24.75 * 30])
    assert equity.index.equals(SESSIONS)


@pytest.mark.parametrize(("sessions", "expected"), [(1, [500.0]), (2, [500.0, 495.0])])
def test_short_spans(sessions: int, expected: list[float]) -> None:
    history = price_history(bars_from_closes({"A": [7.0, 10.0]}, SESSIONS[:2]), actions_table([]))
    equity = equal_weight_buy_and_hold(history, SESSIONS[:sessions], 500.0, 0.01)
    assert equity.tolist() == pytest.approx(expected)


def test_equity_equals_an_account_of_shares_with_splits_and_dividends() -> None:
    sessions = weekdays(420)
    actions = actions_around(sessions, (200, 300))
    history = price_history(synthetic_bars(420, actions), actions)
    span = sessions[180:]
    found = equal_weight_buy_and_hold(history, span, 5000.0, 0.002)
    shares = {symbol: 5000.0 * 0.998 / 5 / history.close.loc[span[1], symbol] for symbol in history.symbols}
    by_date = {date: rows for date, rows in actions.groupby("ex_date")}
    for before, session in itertools.pairwise(span[1:]):
        for event in by_date[session].itertuples() if session in by_date else []:
            if event.kind == "split":
                shares[event.symbol] *= event.value
            else:
                # the cash buys shares at the last close less what was paid out
                ratio = history.split.loc[session, event.symbol]
                price = history.close.loc[before, event.symbol] / ratio - event.value
                shares[event.symbol] *= 1.0 + event.value / price
        value = math.fsum(shares[symbol] * history.close.loc[session, symbol] for symbol in shares)
        assert found[session] == pytest.approx(value, rel=1e-10), session


def test_only_symbols_listed_at_the_purchase_are_bought_and_the_last_close_stands() -> None:
    closes = {"A": [1.0, 10.0, 20.0, np.nan], "B": [1.0, 10.0, 10.0, 10.0], "NEW": [np.nan, np.nan, 1.0, 9.0]}
    history = price_history(bars_from_closes(closes, SESSIONS), actions_table([]))
    equity = equal_weight_buy_and_hold(history, SESSIONS, 100.0, 0.0)
    assert equity.tolist() == pytest.approx([100.0, 100.0, 150.0, 150.0])


@pytest.mark.parametrize(
    ("equity", "expected"),
    [
        pytest.param([100.0, 110.0, 99.0, 121.0, 60.5], [0.0, 0.0, -0.1, 0.0, -0.5], id="two_falls"),
        pytest.param([100.0, 90.0, 95.0, 80.0], [0.0, -0.1, -0.05, -0.2], id="never_recovers"),
        pytest.param([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], id="only_rises"),
    ],
)
def test_drawdown_known_answers(equity: list[float], expected: list[float]) -> None:
    assert drawdown(pd.Series(equity)).tolist() == pytest.approx(expected)


def test_drawdown_equals_a_search_over_all_earlier_values() -> None:
    equity = pd.Series(np.exp(np.random.default_rng(3).normal(0.0, 0.02, 300).cumsum()))
    values = equity.tolist()
    expected = [min(value / earlier - 1.0 for earlier in values[: at + 1]) for at, value in enumerate(values)]
    np.testing.assert_allclose(drawdown(equity), expected, rtol=1e-12, atol=1e-15)
