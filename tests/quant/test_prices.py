"""Forward adjustment against the backward adjustment that vendors apply, worked out event by event."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.quant.histories import (
    actions_around,
    actions_table,
    adjusted_backward,
    bars_from_closes,
    closes_history,
    no_actions,
    synthetic_bars,
    weekdays,
)
from trading_dagster.quant.prices import PriceHistory, known_histories, long_rows, price_history

SESSIONS = weekdays(6)


@pytest.mark.parametrize("as_of", [120, 402, 640, 641, 642, 799])
def test_adjusted_prices_equal_a_vendors_backward_adjustment(as_of: int) -> None:
    sessions = weekdays(800)
    actions = actions_around(sessions, (90, 400, 640))
    bars = synthetic_bars(800, actions)
    history = price_history(bars, actions)
    session = sessions[as_of]
    for symbol in history.symbols:
        own = actions[actions["symbol"] == symbol]
        close = history.close[symbol]
        for field in ("open", "high", "low", "close"):
            raw = getattr(history, field)[symbol]
            found = (raw * history.factor[symbol]).loc[:session] / history.factor.loc[session, symbol]
            expected = adjusted_backward(close, own, session, raw)
            np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=f"{field} of {symbol}")


def test_oracle_applies_the_published_multiplier() -> None:
    # Yahoo's help page on adjusted closes: 0.08 paid after a close of 24.96 multiplies what was before by 0.9968
    close = pd.Series([24.96, 24.95], index=SESSIONS[:2])
    adjusted = adjusted_backward(close, actions_table([(SESSIONS[1], "A", "dividend", 0.08)]), SESSIONS[1])
    assert adjusted.iloc[0] / 24.96 == pytest.approx(0.9968, abs=5e-5)


@pytest.mark.parametrize(
    ("closes", "actions", "simple_return"),
    [
        pytest.param([100.0, 50.0], [("split", 2.0)], 0.0, id="two_for_one"),
        pytest.param([2.0, 20.0], [("split", 0.1)], 0.0, id="reverse_one_for_ten"),
        pytest.param([100.0, 98.0], [("dividend", 2.0)], 0.0, id="falls_by_the_dividend"),
        pytest.param([100.0, 100.0], [("dividend", 2.0)], 2.0 / 98.0, id="dividend_recovered"),
        pytest.param([100.0, 49.0], [("split", 2.0), ("dividend", 1.0)], 0.0, id="both_on_one_date"),
        pytest.param([100.0, 97.0], [("dividend", 2.0), ("dividend", 1.0)], 0.0, id="two_dividends"),
        pytest.param([120.0, 20.0], [("split", 2.0), ("split", 3.0)], 0.0, id="two_splits"),
        # Apple's seven-for-one split: closes of 6 and 9 June 2014 as traded, and the published move of +1.6 %
        pytest.param([645.57, 93.70], [("split", 7.0)], 0.0160, id="apple_2014"),
    ],
)
def test_known_returns(closes: list[float], actions: list[tuple[str, float]], simple_return: float) -> None:
    rows = actions_table([(SESSIONS[1], "A", kind, value) for kind, value in actions])
    history = price_history(bars_from_closes({"A": closes}, SESSIONS[:2]), rows)
    assert np.expm1(history.log_return["A"].iloc[1]) == pytest.approx(simple_return, abs=5e-5)


def test_dividend_that_is_not_less_than_the_close_names_symbol_date_and_amounts() -> None:
    bars = bars_from_closes({"A": [5.0, 5.0, 5.0], "B": [50.0, 50.0, 50.0]}, SESSIONS[:3])
    actions = actions_table([(SESSIONS[2], "B", "dividend", 60.0)])
    with pytest.raises(
        ValueError, match=r"B pays a dividend of 60 a share on 2003-01-03, .* close 50;.*check the unit"
    ):
        price_history(bars, actions)


def test_dividend_is_held_against_the_close_in_shares_of_its_date() -> None:
    # 30 a new share is 60 an old one, of a close of 50: impossible, though 30 is below 50
    bars = bars_from_closes({"B": [50.0, 25.0]}, SESSIONS[:2])
    actions = actions_table([(SESSIONS[1], "B", "split", 2.0), (SESSIONS[1], "B", "dividend", 30.0)])
    with pytest.raises(ValueError, match="check the unit"):
        price_history(bars, actions)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param((SESSIONS[0], "A", "split", 2.0), id="at_the_first_bar"),
        pytest.param((SESSIONS[0] - pd.Timedelta(days=300), "A", "dividend", 1.0), id="before_the_history"),
        pytest.param((SESSIONS[-1] + pd.Timedelta(days=30), "A", "split", 2.0), id="after_the_history"),
        pytest.param((SESSIONS[2], "OTHER", "split", 2.0), id="of_a_symbol_without_bars"),
    ],
)
def test_actions_that_touch_no_return_leave_all_returns_alone(row: tuple[pd.Timestamp, str, str, float]) -> None:
    closes = [10.0, 11.0, 12.0, 11.0, 10.0, 9.0]
    history = price_history(bars_from_closes({"A": closes}, SESSIONS), actions_table([row]))
    np.testing.assert_allclose(history.log_return["A"].iloc[1:], np.diff(np.log(closes)), rtol=1e-12)


@pytest.mark.parametrize("ex_date", [1, 2, 3])
def test_action_within_or_right_after_a_gap_counts_at_the_next_bar(ex_date: int) -> None:
    closes = {"A": [100.0, np.nan, np.nan, 50.0, 50.0], "B": [1.0, 1.0, 1.0, 1.0, 1.0]}
    actions = actions_table([(SESSIONS[ex_date], "A", "split", 2.0)])
    history = price_history(bars_from_closes(closes, SESSIONS[:5]), actions)
    # worth the same all along: carried on over the gap, whichever side of the split it is counted on
    assert history.total_return["A"].tolist() == [100.0] * 5
    assert history.close["A"].tolist() == [100.0] * ex_date + [50.0] * (5 - ex_date)
    assert history.observed["A"].tolist() == [True, False, False, True, True]


def test_a_gap_carries_the_close_on_and_its_return_counts_at_the_next_bar() -> None:
    closes = {"A": [np.nan, 100.0, np.nan, np.nan, 110.0, np.nan], "B": [1.0] * 6}
    history = closes_history(closes, SESSIONS)
    assert history.close["A"].tolist()[1:] == [100.0, 100.0, 100.0, 110.0, 110.0]
    assert np.isnan(history.close["A"].iloc[0])
    np.testing.assert_allclose(history.log_return["A"].iloc[2:], [0.0, 0.0, np.log(1.1), 0.0], atol=1e-15)
    assert history.observed["A"].tolist() == [False, True, False, False, True, False]


def test_a_dividend_within_a_gap_is_paid_out_of_the_price_that_is_carried_on() -> None:
    closes = {"A": [100.0, np.nan, np.nan, 98.0], "B": [1.0] * 4}
    history = price_history(
        bars_from_closes(closes, SESSIONS[:4]), actions_table([(SESSIONS[2], "A", "dividend", 2.0)])
    )
    np.testing.assert_allclose(history.close["A"], [100.0, 100.0, 98.0, 98.0], rtol=1e-12)
    np.testing.assert_allclose(history.log_return["A"].iloc[1:], 0.0, atol=1e-12)


def test_a_gap_has_neither_open_nor_range() -> None:
    bars = synthetic_bars(150, no_actions())
    history = price_history(bars, no_actions())
    gap = ~history.observed["GAP"]
    assert gap.sum() == 2
    for name in ("open", "high", "low"):
        assert getattr(history, name).loc[gap, "GAP"].isna().all()


# -- what was known ---------------------------------------------------------------------------------------------------


CLOSING, OPENING = pd.Timedelta(hours=21), pd.Timedelta(hours=14)


def revisions(*rows: tuple[int, str, float, pd.Timestamp]) -> pd.DataFrame:
    """Revisions of closes by position of the session, in the order in which tables give them."""
    frame = pd.DataFrame(rows, columns=["at", "symbol", "close", "known_at"])
    frame = frame.assign(session=SESSIONS[frame.pop("at")], open=np.nan, high=np.nan, low=np.nan)
    return frame.sort_values(["session", "symbol", "known_at"], ignore_index=True)


def known_at(at: int) -> pd.Timestamp:
    return (SESSIONS[at] + CLOSING).tz_localize("UTC")


def cutoffs(sessions: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """When the session after each opens; the sessions are weekdays."""
    return pd.DatetimeIndex(sessions + pd.offsets.BDay(1) + OPENING).tz_localize("UTC")


def action_revisions() -> pd.DataFrame:
    """No corporate actions, with the columns of the stored table."""
    table = no_actions().assign(session=pd.Series(dtype="datetime64[us]"))
    return table.assign(known_at=pd.Series(dtype="datetime64[us, UTC]"))


def test_sessions_that_knew_the_same_share_one_history() -> None:
    bars = revisions(*[(at, "A", 10.0 + at, known_at(at)) for at in range(6)])
    known = known_histories(bars, action_revisions(), SESSIONS[2:], cutoffs(SESSIONS[2:]))
    assert [part.sessions.tolist() for part in known] == [SESSIONS[2:].tolist()]
    assert known[0].history.close["A"].tolist() == [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]


@pytest.mark.parametrize("late", range(6))
def test_a_range_gives_each_session_what_the_session_alone_would_know(late: int) -> None:
    bars = revisions(
        *[(at, "A", 10.0 + at, known_at(at)) for at in range(6)],
        # corrected in the evening `late` sessions on; and once more at an hour that none of the sessions knows
        (0, "A", 99.0, known_at(late) + pd.Timedelta(hours=1)),
        (0, "A", 1000.0, known_at(5) + pd.Timedelta(days=30)),
    )
    known = known_histories(bars, action_revisions(), SESSIONS, cutoffs(SESSIONS))
    assert pd.DatetimeIndex(np.concatenate([part.sessions for part in known])).equals(SESSIONS)
    for part in known:
        assert part.history.sessions[-1] == part.sessions[-1]
        for session in part.sessions:
            alone = pd.DatetimeIndex([session])
            (expected,) = known_histories(bars, action_revisions(), alone, cutoffs(alone))
            found = part.history.until(session)
            pd.testing.assert_frame_equal(found.close, expected.history.close, check_exact=True, check_freq=False)
            assert found.close["A"].iloc[0] == (10.0 if session < SESSIONS[late] else 99.0)


def test_a_bar_that_came_late_is_not_seen_by_the_sessions_before() -> None:
    bars = revisions(
        *[(at, "A", 10.0 + at, known_at(at)) for at in range(6)],
        *[(at, "B", 5.0, known_at(at)) for at in range(6) if at != 2],
        (2, "B", 6.0, known_at(4)),
    )
    known = known_histories(bars, action_revisions(), SESSIONS, cutoffs(SESSIONS))
    assert [len(part.sessions) for part in known] == [4, 2]
    assert [bool(part.history.observed.loc[SESSIONS[2], "B"]) for part in known] == [False, True]
    assert [part.history.close.loc[SESSIONS[2], "B"] for part in known] == [5.0, 6.0]


def test_a_split_that_became_known_late_divides_the_sessions_too() -> None:
    bars = revisions(*[(at, "A", 10.0 if at < 3 else 5.0, known_at(at)) for at in range(6)])
    split = actions_table([(SESSIONS[3], "A", "split", 2.0)]).assign(session=SESSIONS[3], known_at=known_at(4))
    known = known_histories(bars, split, SESSIONS, cutoffs(SESSIONS))
    assert [len(part.sessions) for part in known] == [4, 2]
    assert known[0].history.log_return.loc[SESSIONS[3], "A"] == pytest.approx(np.log(0.5))
    assert known[1].history.log_return.loc[SESSIONS[3], "A"] == pytest.approx(0.0, abs=1e-12)


# -- shapes -----------------------------------------------------------------------------------------------------------


def test_rows_in_any_order_give_the_same_history() -> None:
    actions = actions_around(weekdays(300), (100, 200))
    bars = synthetic_bars(300, actions)
    ordered = price_history(bars, actions)
    shuffled = price_history(bars.sample(frac=1.0, random_state=3), actions.sample(frac=1.0, random_state=4))
    for name in ("open", "high", "low", "close", "observed", "split", "dividend", "factor"):
        pd.testing.assert_frame_equal(getattr(shuffled, name), getattr(ordered, name), check_exact=True)
    assert shuffled.sessions.is_monotonic_increasing
    assert shuffled.symbols == sorted(shuffled.symbols)


def test_select_sorts_keeps_values_and_fills_symbols_without_bars() -> None:
    actions = actions_around(weekdays(300), (100, 200))
    history = price_history(synthetic_bars(300, actions), actions)
    selected = history.select(["ZULU", "ABSENT", "ALFA"])
    assert selected.symbols == ["ABSENT", "ALFA", "ZULU"]
    pd.testing.assert_frame_equal(selected.total_return[["ALFA", "ZULU"]], history.total_return[["ALFA", "ZULU"]])
    assert selected.close["ABSENT"].isna().all()
    assert selected.bar_count["ABSENT"].eq(0).all()
    assert selected.observed.dtypes.eq(bool).all()
    assert [selected.split["ABSENT"].iloc[9], selected.dividend["ABSENT"].iloc[9]] == [1.0, 0.0]
    assert selected.factor["ABSENT"].eq(1.0).all()


@pytest.mark.parametrize(
    ("cut", "last"),
    [
        pytest.param("2003-01-03", "2003-01-03", id="at_a_session"),
        pytest.param("2003-01-05", "2003-01-03", id="between_sessions"),
        pytest.param("2030-01-01", "2003-01-08", id="after_the_end"),
    ],
)
def test_until_keeps_sessions_up_to_and_including_the_cut(cut: str, last: str) -> None:
    history = closes_history({"A": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}, SESSIONS).until(pd.Timestamp(cut))
    assert history.sessions[-1] == pd.Timestamp(last)
    frames = [history.open, history.high, history.low, history.close, history.observed]
    frames += [history.split, history.dividend, history.factor]
    assert {len(frame) for frame in frames} == {len(history.sessions)}


def test_bar_count_counts_bars_and_not_sessions() -> None:
    closes = {"A": [np.nan, np.nan, 1.0, np.nan, 1.0, 1.0], "B": [1.0] * 6}
    history = closes_history(closes, SESSIONS)
    assert history.bar_count["A"].tolist() == [0, 0, 1, 1, 2, 3]
    assert history.bar_count["B"].tolist() == [1, 2, 3, 4, 5, 6]


def test_log_return_is_missing_at_the_first_bar() -> None:
    history: PriceHistory = closes_history({"A": [np.nan, 10.0, 11.0], "B": [1.0, 1.0, 2.0]}, SESSIONS[:3])
    assert history.log_return["A"].isna().tolist() == [True, True, False]
    assert history.log_return["B"].isna().tolist() == [True, False, False]


def test_one_bar_a_session_and_symbol() -> None:
    bars = bars_from_closes({"A": [1.0, 2.0]}, SESSIONS[:2])
    with pytest.raises(ValueError, match="duplicate"):
        price_history(pd.concat([bars, bars]), no_actions())


def test_long_rows_gives_session_then_symbol_and_only_known_sessions() -> None:
    first = pd.DataFrame({"A": [1.0, 2.0, 3.0], "B": [4.0, 5.0, 6.0]}, index=SESSIONS[:3])
    wanted = pd.DatetimeIndex([SESSIONS[2], SESSIONS[0], SESSIONS[5]])
    rows = long_rows({"value": first, "double": first * 2.0}, wanted)
    assert list(rows.itertuples(index=False, name=None)) == [
        (SESSIONS[0], "A", 1.0, 2.0),
        (SESSIONS[0], "B", 4.0, 8.0),
        (SESSIONS[2], "A", 3.0, 6.0),
        (SESSIONS[2], "B", 6.0, 12.0),
    ]
