"""The policy's evaluation against counting bar by bar, and the rows that its verdict keeps."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading_dagster.checks.data_policy import CHECK_NAME, Verdict, data_policy_spec, evaluate
from trading_dagster.policy import MINIMUM_BARS

SESSIONS = pd.bdate_range("2000-01-03", periods=400).as_unit("us")


def closes(**bars: tuple[int, int]) -> pd.DataFrame:
    """Closes of symbols that have bars from the first to before the second position."""
    at = np.arange(len(SESSIONS))
    return pd.DataFrame(
        {symbol: np.where((at >= first) & (at < end), 10.0, np.nan) for symbol, (first, end) in bars.items()},
        index=SESSIONS,
    )


@pytest.mark.parametrize(
    ("bars", "session", "found", "rule"),
    [
        pytest.param((0, 400), 251, None, None, id="exactly_enough"),
        pytest.param((0, 400), 250, 251, "minimum_bars", id="one_too_few"),
        pytest.param((100, 400), 351, None, None, id="listed_later_with_enough"),
        pytest.param((100, 400), 350, 251, "minimum_bars", id="listed_later_with_one_too_few"),
        pytest.param((0, 300), 300, 300, "stale", id="enough_but_none_today"),
        pytest.param((0, 300), 299, None, None, id="last_bar_today"),
        pytest.param((0, 200), 300, 200, "minimum_bars", id="too_few_and_none_today"),
        pytest.param((0, 0), 300, 0, "minimum_bars", id="no_bar_at_all"),
    ],
)
def test_one_symbol_at_one_session(bars: tuple[int, int], session: int, found: int | None, rule: str | None) -> None:
    close = closes(A=bars, WHOLE=(0, 400)).iloc[: session + 1]
    violations, allowed = evaluate("regime", close, ("A", "WHOLE"), SESSIONS[[session]])
    assert bool(allowed.loc[SESSIONS[session], "A"]) is (rule is None)
    mine = [v for v in violations if v.symbol == "A"]
    if rule is None:
        assert mine == []
    else:
        assert [(v.rule, v.bars_found, v.bars_needed, v.component) for v in mine] == [(rule, found, 252, "regime")]
        assert mine[0].session == SESSIONS[session].date()


def test_symbol_of_the_universe_without_a_column_is_a_violation() -> None:
    violations, allowed = evaluate("regime", closes(A=(0, 400)), ("A", "NEVER"), SESSIONS[[399]])
    assert [(v.symbol, v.bars_found) for v in violations] == [("NEVER", 0)]
    assert allowed.loc[SESSIONS[399]].to_dict() == {"A": True, "NEVER": False}


def test_symbol_outside_the_universe_is_not_looked_at() -> None:
    violations, allowed = evaluate("regime", closes(A=(0, 400), SHORT=(390, 400)), ("A",), SESSIONS[[399]])
    assert violations == []
    assert list(allowed.columns) == ["A"]


def test_a_range_reports_each_symbol_once_at_its_first_bad_session() -> None:
    violations, allowed = evaluate("regime", closes(A=(0, 400), B=(50, 400)), ("A", "B"), SESSIONS[240:320])
    assert [(v.symbol, v.session, v.bars_found) for v in violations] == [
        ("A", SESSIONS[240].date(), 241),
        ("B", SESSIONS[240].date(), 191),
    ]
    assert allowed["A"].sum() == 320 - 251
    assert allowed["B"].sum() == 320 - 301


def test_component_that_needs_no_bar_takes_every_symbol() -> None:
    violations, allowed = evaluate("corporate_actions", closes(A=(0, 1)), ("A", "NEVER"), SESSIONS[[5]])
    assert violations == []
    assert allowed.all(axis=None)


def test_session_without_any_bar_is_stale_for_all() -> None:
    # the run's session is the next one, for which nothing was stored
    later = pd.DatetimeIndex([SESSIONS[-1] + pd.Timedelta(days=1)]).as_unit("us")
    violations, allowed = evaluate("regime", closes(A=(0, 400)), ("A",), later)
    assert [(v.rule, v.bars_found) for v in violations] == [("stale", 400)]
    assert not allowed.any(axis=None)


@given(
    holes=st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=4),
    wanted=st.sets(st.integers(0, 11), min_size=1),
    needed=st.integers(0, 8),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_evaluation_equals_counting(holes: list[list[bool]], wanted: set[int], needed: int) -> None:
    symbols = [f"S{number}" for number in range(len(holes))]
    close = pd.DataFrame(
        {s: np.where(row, 5.0, np.nan) for s, row in zip(symbols, holes, strict=True)}, index=SESSIONS[:12]
    )
    with pytest.MonkeyPatch.context() as patch:
        # a rule of a few bars, so that small examples reach both sides of it
        patch.setitem(MINIMUM_BARS, "regime", needed)
        violations, allowed = evaluate("regime", close, tuple(symbols), SESSIONS[sorted(wanted)])
    expected = []
    for symbol, row in zip(symbols, holes, strict=True):
        first = None
        for at in sorted(wanted):
            found = row[: at + 1].count(True)
            good = needed == 0 or (found >= needed and row[at])
            assert bool(allowed.loc[SESSIONS[at], symbol]) is good
            if not good and first is None:
                first = (symbol, SESSIONS[at].date(), found, "minimum_bars" if found < needed else "stale")
        expected += [first] if first else []
    assert [(v.symbol, v.session, v.bars_found, v.rule) for v in violations] == expected


# -- the verdict ------------------------------------------------------------------------------------------------------


def verdict(*rows: tuple[bool, ...]) -> Verdict:
    return Verdict(pd.DataFrame(list(rows), index=SESSIONS[: len(rows)], columns=["A", "B", "C"][: len(rows[0])]))


def test_symbols_are_those_allowed_at_one_session_at_least() -> None:
    assert verdict((True, False, False), (True, False, True)).symbols == ["A", "C"]


@given(
    flags=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=5),
    picks=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["A", "B", "C", "MARKET"])), max_size=20),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_keep_drops_exactly_what_is_not_allowed(
    flags: list[tuple[bool, bool, bool]], picks: list[tuple[int, str]]
) -> None:
    rows = pd.DataFrame(
        [(SESSIONS[at % len(flags)], symbol, number) for number, (at, symbol) in enumerate(picks)],
        columns=["session", "symbol", "value"],
    ).astype({"session": "datetime64[us]", "symbol": "str", "value": "int64"})
    kept = verdict(*flags).keep(rows)
    expected = [
        number
        for number, (at, symbol) in enumerate(picks)
        if symbol == "MARKET" or flags[at % len(flags)]["ABC".index(symbol)]
    ]
    assert kept["value"].tolist() == expected
    assert kept.index.tolist() == list(range(len(expected)))


@pytest.mark.parametrize("asset", ["regime", "forecast", "orders"])
def test_declaration_blocks_and_states_its_figure(asset: str) -> None:
    spec = data_policy_spec(asset)
    assert (spec.name, CHECK_NAME) == ("data_policy", "data_policy")
    assert spec.blocking
    assert spec.asset_key.to_user_string() == asset
    assert str({"regime": 252, "forecast": 1500, "orders": 1500}[asset]) in str(spec.description)


def test_violation_dates_are_plain_dates() -> None:
    violations, _ = evaluate("regime", closes(A=(0, 10)), ("A",), SESSIONS[[20]])
    assert type(violations[0].session) is date
