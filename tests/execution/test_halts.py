"""Losses against a table by hand and pandas, and how a halt reads."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading_dagster.execution.halts import AUTOMATIC, Cause, EquityPoint, Halt, HaltState, Losses, losses

from .markets import D, places

DAY = date(2020, 3, 9)


def points(*rows: tuple[str, str]) -> list[EquityPoint]:
    return [EquityPoint(DAY + timedelta(days=n), D(equity), D(flow)) for n, (equity, flow) in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "daily", "drawdown"),
    [
        ([], "0", "0"),
        ([("1000", "0")], "0", "0"),
        # down 3 in the hundred, up as much
        ([("1000", "0"), ("970", "0")], "0.03", "0.03"),
        ([("1000", "0"), ("1030", "0")], "-0.03", "0"),
        # the high is in the middle: 1,200, then 900, then 990
        ([("1000", "0"), ("1200", "0"), ("900", "0"), ("990", "0")], "-0.1", "0.175"),
        # 100 are paid in and nothing happens; 100 are taken out and nothing happens
        ([("1000", "0"), ("1100", "100")], "0", "0"),
        ([("1000", "0"), ("900", "-100")], "0", "0"),
        # 500 are paid in and hide a loss of 100, a tenth of the 1,000 before
        ([("1000", "0"), ("1400", "500")], "0.1", "0.1"),
        # 500 are taken out beside a gain of 100
        ([("1000", "0"), ("600", "-500")], "-0.1", "0"),
        # the money of the first point is where it begins, whatever came then
        ([("1000", "1000"), ("990", "0")], "0.01", "0.01"),
        # a tenth is lost, the rest but 90 is withdrawn, and half of that is lost: 0.9 * 0.5 of the high
        ([("1000", "0"), ("900", "0"), ("90", "-810"), ("45", "0")], "0.5", "0.55"),
        # an account that was emptied has nothing to lose, and what comes later is measured anew
        ([("1000", "0"), ("0", "-1000"), ("500", "500"), ("400", "0")], "0.2", "0.2"),
        ([("1000", "0"), ("0", "0"), ("500", "500")], "0", "1"),
    ],
)
def test_losses_by_hand(rows, daily, drawdown):
    assert losses(points(*rows)) == Losses(D(daily), D(drawdown))


@settings(max_examples=200, deadline=None)
@given(st.lists(places(2, "100", "10000"), min_size=2, max_size=30))
def test_without_flows_it_is_what_pandas_says(equities):
    curve = pd.Series([float(equity) for equity in equities])
    found = losses([EquityPoint(DAY + timedelta(days=n), equity) for n, equity in enumerate(equities)])
    assert float(found.daily) == pytest.approx(-curve.pct_change().iloc[-1], abs=1e-12)
    assert float(found.drawdown) == pytest.approx(1 - (curve / curve.cummax()).iloc[-1], abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-0.5, 0.5), st.one_of(st.just(0.0), st.floats(-0.4, 3))), min_size=1, max_size=15),
    places(2, "1000", "100000"),
)
def test_money_from_outside_is_neither_a_loss_nor_a_gain(days, start):
    """The same returns, with money paid in and out, lose as much as without."""
    plain, flowing = [EquityPoint(DAY, start)], [EquityPoint(DAY, start)]
    for number, (growth, flow) in enumerate(days, 1):
        at, grown = DAY + timedelta(days=number), 1 + Decimal(repr(growth))
        plain.append(EquityPoint(at, plain[-1].equity * grown))
        earned = flowing[-1].equity * grown
        moved = earned * Decimal(repr(flow))
        flowing.append(EquityPoint(at, earned + moved, moved))
    without, found = losses(plain), losses(flowing)
    assert float(found.daily) == pytest.approx(float(without.daily), abs=1e-15)
    assert float(found.drawdown) == pytest.approx(float(without.drawdown), abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(st.lists(places(2, "0.01", "10000"), min_size=1, max_size=10), st.decimals("0.001", "1000", places=3))
def test_losses_do_not_depend_on_the_currency(equities, rate):
    here = losses([EquityPoint(DAY, equity) for equity in equities])
    there = losses([EquityPoint(DAY, equity * rate) for equity in equities])
    assert float(here.daily) == pytest.approx(float(there.daily), abs=1e-15)
    assert float(here.drawdown) == pytest.approx(float(there.drawdown), abs=1e-15)
    assert here.drawdown >= 0


# -- words ----------------------------------------------------------------------------------------------------

SINCE = datetime(2026, 1, 5, 22, 3, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("halt", "words"),
    [
        (
            Halt(HaltState.ACTIVE, None, "opened with the broker alpaca", AUTOMATIC, SINCE),
            "ACTIVE since 2026-01-05 22:03 UTC by automatic: opened with the broker alpaca",
        ),
        (
            Halt(HaltState.REDUCE_ONLY, Cause.OPERATOR, "elections", "Kim", SINCE),
            "REDUCE_ONLY since 2026-01-05 22:03 UTC by Kim: elections",
        ),
        (
            Halt(HaltState.HALTED, Cause.DAILY_LOSS, "equity fell", AUTOMATIC, SINCE),
            "HALTED since 2026-01-05 22:03 UTC by automatic (daily_loss): equity fell",
        ),
    ],
)
def test_a_halt_in_words(halt, words):
    assert str(halt) == words


def test_a_missing_state_is_halted_and_says_what_to_do():
    halt = Halt.missing("main")
    assert (halt.state, halt.cause, halt.since) == (HaltState.HALTED, Cause.MISSING, None)
    assert str(halt).startswith("HALTED (missing_state): the ledger has no halt state for the strategy 'main'")
    assert "trading resume" in str(halt)
