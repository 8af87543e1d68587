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


def bars_of(**bars: tuple[int, int]) -> pd.DataFrame:
    """Whether there is a bar, of symbols that have bars from the first to before the second position."""
    at = np.arange(len(SESSIONS))
    return pd.DataFrame({symbol: (at >= first) & (at < end) for symbol, (first, end) in bars.items()}, index=SESSIONS)


def no_bars(session: pd.Timestamp, *symbols: str) -> pd.DataFrame:
    """Bars in quarantine at a session."""
    return pd.DataFrame({"session": session, "symbol": list(symbols)})


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
    observed = bars_of(A=bars, WHOLE=(0, 400)).iloc[: session + 1]
    violations, verdict = evaluate("regime", observed, ("A", "WHOLE"), SESSIONS[[session]])
    assert bool(verdict.allowed.loc[SESSIONS[session], "A"]) is (rule is None)
    mine = [v for v in violations if v.symbol == "A"]
    if rule is None:
        assert mine == []
    else:
        assert [(v.rule, v.bars_found, v.bars_needed, v.component) for v in mine] == [(rule, found, 252, "regime")]
        assert mine[0].session == SESSIONS[session].date()


def test_symbol_of_the_universe_without_a_column_is_a_violation() -> None:
    violations, judged = evaluate("regime", bars_of(A=(0, 400)), ("A", "NEVER"), SESSIONS[[399]])
    assert [(v.symbol, v.bars_found) for v in violations] == [("NEVER", 0)]
    assert judged.allowed.loc[SESSIONS[399]].to_dict() == {"A": True, "NEVER": False}


def test_symbol_outside_the_universe_is_not_looked_at() -> None:
    violations, judged = evaluate("regime", bars_of(A=(0, 400), SHORT=(390, 400)), ("A",), SESSIONS[[399]])
    assert violations == []
    assert list(judged.allowed.columns) == ["A"]


def test_a_range_reports_each_symbol_once_at_its_first_bad_session() -> None:
    violations, judged = evaluate("regime", bars_of(A=(0, 400), B=(50, 400)), ("A", "B"), SESSIONS[240:320])
    assert [(v.symbol, v.session, v.bars_found) for v in violations] == [
        ("A", SESSIONS[240].date(), 241),
        ("B", SESSIONS[240].date(), 191),
    ]
    assert judged.allowed["A"].sum() == 320 - 251
    assert judged.allowed["B"].sum() == 320 - 301


def test_component_that_needs_no_bar_takes_every_symbol() -> None:
    violations, judged = evaluate("corporate_actions", bars_of(A=(0, 1)), ("A", "NEVER"), SESSIONS[[5]])
    assert violations == []
    assert judged.allowed.all(axis=None)


def test_session_without_any_bar_is_stale_for_all() -> None:
    # the run's session is the next one, for which nothing was stored
    later = pd.DatetimeIndex([SESSIONS[-1] + pd.Timedelta(days=1)]).as_unit("us")
    violations, judged = evaluate("regime", bars_of(A=(0, 400)), ("A",), later)
    assert [(v.rule, v.bars_found) for v in violations] == [("stale", 400)]
    assert not judged.allowed.any(axis=None)


@given(
    holes=st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=4),
    wanted=st.sets(st.integers(0, 11), min_size=1),
    needed=st.integers(0, 8),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_evaluation_equals_counting(holes: list[list[bool]], wanted: set[int], needed: int) -> None:
    symbols = [f"S{number}" for number in range(len(holes))]
    observed = pd.DataFrame(dict(zip(symbols, holes, strict=True)), index=SESSIONS[:12])
    with pytest.MonkeyPatch.context() as patch:
        # a rule of a few bars, so that small examples reach both sides of it
        patch.setitem(MINIMUM_BARS, "regime", needed)
        violations, judged = evaluate("regime", observed, tuple(symbols), SESSIONS[sorted(wanted)])
    expected = []
    for symbol, row in zip(symbols, holes, strict=True):
        first = None
        for at in sorted(wanted):
            found = row[: at + 1].count(True)
            good = needed == 0 or (found >= needed and row[at])
            assert bool(judged.allowed.loc[SESSIONS[at], symbol]) is good
            if not good and first is None:
                first = (symbol, SESSIONS[at].date(), found, "minimum_bars" if found < needed else "stale")
        expected += [first] if first else []
    assert [(v.symbol, v.session, v.bars_found, v.rule) for v in violations] == expected


# -- symbols that are no violation ------------------------------------------------------------------------------------


def test_a_symbol_that_stopped_trading_is_no_violation_after_its_last_session() -> None:
    observed = bars_of(A=(0, 300), WHOLE=(0, 400))
    violations, judged = evaluate(
        "regime", observed, ("A", "WHOLE"), SESSIONS[298:303], gone={"A": SESSIONS[299], "OTHER": SESSIONS[0]}
    )
    assert violations == []
    assert judged.allowed["A"].tolist() == [True, True, False, False, False]
    assert judged.allowed["WHOLE"].all()
    assert judged.gone == {"A": SESSIONS[299], "OTHER": SESSIONS[0]}


def test_having_stopped_later_excuses_no_gap_before() -> None:
    observed = bars_of(A=(0, 300))
    observed.loc[SESSIONS[290], "A"] = False
    violations, judged = evaluate("regime", observed, ("A",), SESSIONS[288:303], gone={"A": SESSIONS[299]})
    assert [(v.symbol, v.session, v.rule) for v in violations] == [("A", SESSIONS[290].date(), "stale")]
    assert not judged.allowed.loc[SESSIONS[290], "A"]


def test_a_bar_in_quarantine_makes_its_symbol_sit_the_session_out() -> None:
    observed = bars_of(A=(0, 400), B=(0, 400))
    observed.loc[SESSIONS[300], "A"] = False
    quarantined = no_bars(SESSIONS[300], "A", "ELSEWHERE")
    violations, judged = evaluate("regime", observed, ("A", "B"), SESSIONS[299:302], quarantined=quarantined)
    assert violations == []
    assert judged.waiting["A"].tolist() == [False, True, False]
    assert judged.allowed["A"].tolist() == [True, False, True]
    assert not judged.waiting["B"].any()


def test_a_quarantine_of_another_session_excuses_nothing() -> None:
    observed = bars_of(A=(0, 400))
    observed.loc[SESSIONS[300], "A"] = False
    violations, judged = evaluate(
        "regime", observed, ("A",), SESSIONS[299:302], quarantined=no_bars(SESSIONS[301], "A")
    )
    assert [(v.session, v.rule) for v in violations] == [(SESSIONS[300].date(), "stale")]
    # there is a bar, which was let in; nothing waits
    assert not judged.waiting.any(axis=None)
    assert judged.allowed["A"].tolist() == [True, False, True]


# -- the verdict ------------------------------------------------------------------------------------------------------


def verdict(*rows: tuple[bool, ...]) -> Verdict:
    allowed = pd.DataFrame(list(rows), index=SESSIONS[: len(rows)], columns=["A", "B", "C"][: len(rows[0])])
    return Verdict(allowed, ~allowed & False)


def test_symbols_are_those_allowed_at_one_session_at_least() -> None:
    assert verdict((True, False, False), (True, False, True)).symbols == ["A", "C"]


def test_groups_are_of_sessions_that_share_their_symbols() -> None:
    flags = [(True, False, True), (True, True, True), (True, False, True), (False, False, False)]
    found = {tuple(symbols): sessions.tolist() for symbols, sessions in verdict(*flags).groups()}
    assert found == {
        ("A", "C"): [SESSIONS[0], SESSIONS[2]],
        ("A", "B", "C"): [SESSIONS[1]],
        (): [SESSIONS[3]],
    }
    only = {tuple(symbols): sessions.tolist() for symbols, sessions in verdict(*flags).groups(SESSIONS[[2, 3]])}
    assert only == {("A", "C"): [SESSIONS[2]], (): [SESSIONS[3]]}


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
    violations, _ = evaluate("regime", bars_of(A=(0, 10)), ("A",), SESSIONS[[20]])
    assert type(violations[0].session) is date
