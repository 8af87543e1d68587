"""What was known when: histories of each session, gaps and actions, and adjusted prices as vendors give them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pytest
from bokeh_sampledata import stocks
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quant.histories import actions_table, bars_from_closes, no_actions, weekdays
from tests.servers.market import adjusted_close
from tests.servers.universe import default_market
from trading_dagster.quant.prices import KnownHistory, PriceHistory, known_histories, price_history

DAYS = weekdays(10)
CUTOFFS = (DAYS + pd.Timedelta(hours=38)).tz_localize("UTC")
"""Two in the afternoon of the day after."""

FRAMES = [field.name for field in dataclasses.fields(PriceHistory)]


def closes(**values: Sequence[float]) -> pd.DataFrame:
    return bars_from_closes(values, DAYS[: len(next(iter(values.values())))])


# -- gaps -----------------------------------------------------------------------------------------------------------

NONE = np.nan


def test_session_without_a_bar_has_no_return_and_carries_the_close_on() -> None:
    history = price_history(closes(A=[10.0, NONE, NONE, 12.0], B=[1.0, 1.0, 1.0, 1.0]), no_actions())
    assert history.close["A"].tolist() == [10.0, 10.0, 10.0, 12.0]
    assert history.observed["A"].tolist() == [True, False, False, True]
    assert history.observed["B"].all()
    assert history.log_return["A"].tolist()[1:] == pytest.approx([0.0, 0.0, np.log(1.2)], abs=1e-15)
    assert history.bar_count["A"].tolist() == [1, 1, 1, 2]


def test_nothing_is_carried_to_before_the_first_bar_but_beyond_the_last_one() -> None:
    history = price_history(closes(A=[NONE, 10.0, NONE], B=[1.0, 1.0, 1.0]), no_actions())
    assert history.close["A"].isna().tolist() == [True, False, False]
    assert history.close["A"].iloc[2] == 10.0
    assert history.observed["A"].tolist() == [False, True, False]


def test_ranges_are_not_carried_on() -> None:
    bars = closes(A=[10.0, NONE, 12.0], B=[1.0, 1.0, 1.0]).assign(open=5.0, high=20.0, low=4.0)
    history = price_history(bars, no_actions())
    for name in ("open", "high", "low"):
        assert getattr(history, name)["A"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("kind", "value", "carried", "factor"),
    [
        # one share and what it became: 10 are two of 5, or 8 and 2 in cash, reinvested
        pytest.param("split", 2.0, 5.0, 2.0, id="split"),
        pytest.param("dividend", 2.0, 8.0, 1.25, id="dividend"),
    ],
)
@pytest.mark.parametrize("at", [1, 2])
def test_action_inside_a_gap_is_no_return(kind: str, value: float, carried: float, factor: float, at: int) -> None:
    actions = actions_table([(DAYS[at], "A", kind, value)])
    history = price_history(closes(A=[10.0, NONE, NONE, 12.0], B=[1.0] * 4), actions)
    assert history.close["A"].tolist() == pytest.approx([10.0, *[carried if t >= at else 10.0 for t in (1, 2)], 12.0])
    assert history.factor["A"].tolist() == pytest.approx([1.0, *[factor if t >= at else 1.0 for t in (1, 2)], factor])
    returns = history.log_return["A"].iloc[1:].to_numpy()
    assert returns == pytest.approx([0.0, 0.0, np.log(12.0 * factor / 10.0)], abs=1e-15)
    assert history.observed["A"].tolist() == [True, False, False, True]


def test_action_on_the_first_bar_after_a_gap() -> None:
    actions = actions_table([(DAYS[2], "A", "split", 2.0)])
    history = price_history(closes(A=[10.0, NONE, 6.0], B=[1.0] * 3), actions)
    assert history.close["A"].tolist() == [10.0, 10.0, 6.0]
    assert history.total_return["A"].tolist() == pytest.approx([10.0, 10.0, 12.0])


def test_action_on_a_date_without_a_bar_of_any_symbol_makes_a_session() -> None:
    bars = closes(A=[10.0, NONE, 4.0, 5.0], B=[1.0, NONE, 1.0, 1.0])
    assert DAYS[1] not in price_history(bars, no_actions()).sessions
    history = price_history(bars, actions_table([(DAYS[1], "A", "split", 2.0)]))
    assert list(history.sessions) == list(DAYS[:4])
    assert history.close["A"].tolist() == [10.0, 5.0, 4.0, 5.0]
    assert history.total_return["A"].tolist() == pytest.approx([10.0, 10.0, 8.0, 10.0])
    assert not history.observed.loc[DAYS[1]].any()


@pytest.mark.parametrize(
    "row",
    [
        pytest.param((DAYS[3], "OTHER", "split", 2.0), id="of_a_symbol_without_bars"),
        pytest.param((DAYS[0] - pd.Timedelta(days=1), "A", "split", 2.0), id="before_the_first_bar"),
        pytest.param((DAYS[8], "A", "split", 2.0), id="after_the_last_bar"),
    ],
)
def test_other_dates_of_actions_make_no_session(row: tuple[pd.Timestamp, str, str, float]) -> None:
    bars = closes(A=[10.0, 10.0, 11.0, NONE, 12.0], B=[1.0, 1.0, 1.0, NONE, 1.0])
    history = price_history(bars, actions_table([row]))
    assert list(history.sessions) == [DAYS[0], DAYS[1], DAYS[2], DAYS[4]]
    assert history.factor["A"].tolist() == [1.0] * 4


@pytest.mark.parametrize("dividend_at", [2, 3])
def test_split_and_later_dividend_inside_one_gap(dividend_at: int) -> None:
    actions = actions_table([(DAYS[1], "A", "split", 2.0), (DAYS[dividend_at], "A", "dividend", 1.0)])
    history = price_history(closes(A=[10.0, NONE, NONE, 4.4], B=[1.0] * 4), actions)
    # 10 are two of 5, each of which pays 1 and is 4 then: the last close counts in the shares of the ex-date
    assert history.close["A"].iloc[1] == pytest.approx(5.0)
    assert history.total_return["A"].iloc[3] == pytest.approx(4.4 * 2 * 5 / 4)


def test_two_dividends_inside_one_gap() -> None:
    # each is held against the last close there is, as vendors do
    actions = actions_table([(DAYS[1], "A", "dividend", 1.0), (DAYS[2], "A", "dividend", 2.0)])
    history = price_history(closes(A=[10.0, NONE, NONE, 7.2], B=[1.0] * 4), actions)
    assert history.total_return["A"].tolist() == pytest.approx([10.0, 10.0, 10.0, 10.0])


# -- what was known -----------------------------------------------------------------------------------------------


def revised(rows: Sequence[tuple[int, str, float, pd.Timestamp]]) -> pd.DataFrame:
    """Bars of (position, symbol, close, known at), in stored order."""
    table = pd.DataFrame(
        [(DAYS[at], symbol, close - 0.1, close + 0.2, close - 0.2, close, known) for at, symbol, close, known in rows],
        columns=["session", "symbol", "open", "high", "low", "close", "known_at"],
    ).astype({"symbol": "str", "known_at": "datetime64[us, UTC]"})
    return table.sort_values(["session", "symbol", "known_at"], ignore_index=True)


def revised_actions(rows: Sequence[tuple[int, str, str, float, pd.Timestamp]]) -> pd.DataFrame:
    table = actions_table([(DAYS[at], symbol, kind, value) for at, symbol, kind, value, _ in rows])
    table = table.assign(session=table["ex_date"], known_at=pd.Series([row[4] for row in rows], dtype="object"))
    table = table.astype({"known_at": "datetime64[us, UTC]", "session": "datetime64[us]"})
    return table.sort_values(["session", "symbol", "ex_date", "kind", "known_at"], ignore_index=True)


def at_close(at: int) -> pd.Timestamp:
    return (DAYS[at] + pd.Timedelta(hours=21)).tz_localize("UTC")


FIRST_LOADS = [(at, symbol, 10.0 + at, at_close(at)) for at in range(8) for symbol in ("A", "B")]


def known(bars: pd.DataFrame, actions: pd.DataFrame | None = None, at: slice = slice(3, 8)) -> list[KnownHistory]:
    return known_histories(bars, revised_actions([]) if actions is None else actions, DAYS[at], CUTOFFS[at])


def parts(found: Sequence[KnownHistory]) -> list[list[int]]:
    return [DAYS.get_indexer(part.sessions).tolist() for part in found]


def test_one_history_when_nothing_came_late() -> None:
    found = known(revised(FIRST_LOADS))
    assert parts(found) == [[3, 4, 5, 6, 7]]
    assert found[0].history.close["A"].tolist() == [10.0 + at for at in range(8)]


def test_revision_before_its_sessions_cutoff_is_not_late() -> None:
    on_time = (5, "A", 99.0, CUTOFFS[5])
    found = known(revised([*FIRST_LOADS, on_time]))
    assert parts(found) == [[3, 4, 5, 6, 7]]
    assert found[0].history.close["A"].iloc[5] == 99.0


@pytest.mark.parametrize(
    ("of", "known_at", "expected"),
    [
        pytest.param(5, CUTOFFS[5] + pd.Timedelta(microseconds=1), [[3, 4, 5], [6, 7]], id="just_after_the_cutoff"),
        pytest.param(5, CUTOFFS[6], [[3, 4, 5], [6, 7]], id="at_the_next_cutoff"),
        pytest.param(5, CUTOFFS[6] + pd.Timedelta(microseconds=1), [[3, 4, 5, 6], [7]], id="after_the_next_cutoff"),
        pytest.param(5, CUTOFFS[7] + pd.Timedelta(microseconds=1), [[3, 4, 5, 6, 7]], id="after_all"),
        # of a session before the range: the first of the range is the first that could use it
        pytest.param(1, CUTOFFS[3], [[3, 4, 5, 6, 7]], id="of_an_earlier_session_in_time"),
        pytest.param(1, CUTOFFS[2], [[3, 4, 5, 6, 7]], id="of_an_earlier_session_long_before"),
        pytest.param(1, CUTOFFS[3] + pd.Timedelta(hours=1), [[3], [4, 5, 6, 7]], id="of_an_earlier_session_late"),
    ],
)
def test_late_revision_divides_the_sessions(of: int, known_at: pd.Timestamp, expected: list[list[int]]) -> None:
    found = known(revised([*FIRST_LOADS, (of, "A", 99.0, known_at)]))
    assert parts(found) == expected
    for part in found:
        assert part.history.sessions[-1] == part.sessions[-1]
        sees = CUTOFFS[DAYS.get_loc(part.sessions[-1])] >= known_at
        assert part.history.close["A"].iloc[of] == (99.0 if sees else 10.0 + of)


def test_each_late_revision_divides_and_actions_do_as_well() -> None:
    late = [(4, "A", 98.0, CUTOFFS[5]), (4, "A", 99.0, CUTOFFS[7])]
    split = revised_actions([(5, "B", "split", 2.0, CUTOFFS[6])])
    found = known(revised([*FIRST_LOADS, *late]), split)
    assert parts(found) == [[3, 4], [5], [6], [7]]
    assert [part.history.close["A"].iloc[4] if len(part.history.close) > 4 else None for part in found] == [
        14.0,
        98.0,
        98.0,
        99.0,
    ]
    assert [float(part.history.factor["B"].iloc[-1]) for part in found] == [1.0, 1.0, 2.0, 2.0]


def test_late_bar_of_a_symbol_without_another_is_not_seen_before() -> None:
    found = known(revised([*FIRST_LOADS, (2, "C", 5.0, CUTOFFS[5])]))
    assert [part.history.symbols for part in found] == [["A", "B"], ["A", "B", "C"]]


def test_no_session_knows_no_history() -> None:
    assert known(revised(FIRST_LOADS), at=slice(3, 3)) == []


@st.composite
def revisions(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bars and actions of a few symbols, some missing, each with up to three revisions at random times."""
    when = st.integers(0, 40)

    def times(at: int) -> Iterator[pd.Timestamp]:
        late = draw(st.lists(when, max_size=2, unique=True)) if draw(st.integers(0, 3)) == 0 else []
        first = [] if late and draw(st.booleans()) else [0]
        # eights of a day after the close of its session, so that some meet a cutoff exactly
        for number in sorted({*first, *late}):
            yield (DAYS[at] + pd.Timedelta(hours=14 + 6 * number)).tz_localize("UTC")

    bars = [
        (at, symbol, draw(st.sampled_from([9.5, 10.0, 10.25, 11.0])), known_at)
        for symbol in ("A", "B", "C")
        for at in range(8)
        if draw(st.integers(0, 5)) > 0
        for known_at in times(at)
    ]
    actions = [
        (at, symbol, kind, draw(st.sampled_from(values)), known_at)
        for symbol in ("A", "B", "OTHER")
        for kind, values in (("split", [2.0, 0.5]), ("dividend", [0.5, 1.5]))
        for at in draw(st.sets(st.integers(0, 7), max_size=1))
        for known_at in times(at)
    ]
    return revised(bars), revised_actions(actions)


def known_alone(rows: pd.DataFrame, key: Sequence[str], session: pd.Timestamp, cutoff: pd.Timestamp) -> pd.DataFrame:
    """Rows that a session alone knows, row by row."""
    newest: dict[tuple[object, ...], tuple[pd.Timestamp, int]] = {}
    for place, row in enumerate(rows.to_dict("records")):
        if row["session"] > session or row["known_at"] > cutoff:
            continue
        name = tuple(row[column] for column in key)
        if name not in newest or row["known_at"] > newest[name][0]:
            newest[name] = (row["known_at"], place)
    return rows.iloc[sorted(place for _, place in newest.values())]


@given(tables=revisions(), first=st.integers(0, 7), count=st.integers(1, 8))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_each_session_knows_what_it_would_know_alone(
    tables: tuple[pd.DataFrame, pd.DataFrame], first: int, count: int
) -> None:
    span = slice(first, min(first + count, 8))
    sessions, cutoffs = DAYS[span], CUTOFFS[span]
    # what is read for a range ends with it
    bars, actions = (rows[rows["session"] <= sessions[-1]].reset_index(drop=True) for rows in tables)
    found = known_histories(bars, actions, sessions, cutoffs)
    assert [session for part in found for session in part.sessions] == list(sessions)
    for part in found:
        for session in part.sessions:
            cutoff = cutoffs[sessions.get_loc(session)]
            alone = price_history(
                known_alone(bars, ["session", "symbol"], session, cutoff),
                known_alone(actions, ["session", "symbol", "ex_date", "kind"], session, cutoff),
            )
            seen = part.history.until(session)
            for name in FRAMES:
                expected, frame = getattr(alone, name), getattr(seen, name)
                # symbols that are listed later are there without a bar
                assert not seen.observed[frame.columns.difference(expected.columns)].any(axis=None)
                # and the date of an action after the last bar that is known can make no difference
                frame = frame.loc[frame.index <= (expected.index[-1] if len(expected) else DAYS[0] - DAYS.freq)]
                pd.testing.assert_frame_equal(
                    frame[expected.columns], expected, check_exact=True, check_freq=False, check_names=False
                )


# -- adjusted prices: what vendors say ------------------------------------------------------------------------------


def assert_equal_to_vendors(
    history: PriceHistory, symbol: str, today: pd.Timestamp, expected: pd.Series, bound: pd.Series | float
) -> None:
    """Price as adjusted at `today` on every date up to then, against the vendor's."""
    found = (history.close[symbol] * history.factor[symbol] / history.factor.loc[today, symbol]).loc[:today]
    expected = expected.loc[:today]
    assert found.index.equals(expected.index)
    error = (found / expected - 1.0).abs()
    assert (error <= (bound if isinstance(bound, float) else bound.loc[:today])).all(), error.idxmax()


@pytest.fixture(scope="module")
def loopback() -> PriceHistory:
    listings = default_market()
    bars = pd.concat(
        [listing.bars.rename_axis("session").reset_index().assign(symbol=name) for name, listing in listings.items()]
    )
    actions = pd.concat([listing.actions.assign(symbol=name) for name, listing in listings.items()])
    return price_history(bars.drop(columns="volume"), actions)


@pytest.mark.parametrize(
    "today",
    [
        "2000-02-10",  # before anything happened
        "2006-02-20",  # a session before TWO splits; a holiday
        "2006-02-21",  # the day of it
        "2009-03-09",  # the day of UNDO's reverse split
        "2011-08-12",
        "2011-08-15",  # a split and a dividend of MANY at once
        "2014-06-09",  # seven for one
        "2018-12-31",  # after everything
    ],
)
def test_adjusted_closes_equal_the_loopback_vendors(loopback: PriceHistory, today: str) -> None:
    listings = default_market()
    assert sum(len(listing.actions) for listing in listings.values()) > 300
    at = loopback.sessions[loopback.sessions.searchsorted(pd.Timestamp(today), side="right") - 1]
    for symbol, listing in listings.items():
        assert_equal_to_vendors(loopback, symbol, at, adjusted_close(listing, today), 1e-9)


# Public facts: cash per share as traded, and new shares per old share, on the ex-date.
QUARTERS = {
    "MSFT": {
        "2003-02-19": 0.08, "2003-10-15": 0.16, "2004-08-23": 0.08, "2004-11-15": 3.08,  # with the special 3.00
        "2005-02-15": 0.08, "2005-05-16": 0.08, "2005-08-15": 0.08, "2005-11-15": 0.08,
        "2006-02-15": 0.09, "2006-05-15": 0.09, "2006-08-15": 0.09, "2006-11-14": 0.10,
        "2007-02-13": 0.10, "2007-05-15": 0.10, "2007-08-14": 0.10, "2007-11-13": 0.11,
        "2008-02-19": 0.11, "2008-05-13": 0.11, "2008-08-19": 0.11, "2008-11-18": 0.13,
        "2009-02-17": 0.13, "2009-05-19": 0.13, "2009-08-18": 0.13, "2009-11-17": 0.13,
        "2010-02-16": 0.13, "2010-05-18": 0.13, "2010-08-17": 0.13, "2010-11-16": 0.16,
        "2011-02-15": 0.16, "2011-05-17": 0.16, "2011-08-16": 0.16, "2011-11-15": 0.20,
        "2012-02-14": 0.20, "2012-05-15": 0.20, "2012-08-14": 0.20, "2012-11-13": 0.23,
        "2013-02-19": 0.23,
    },
    "AAPL": {"2012-08-09": 2.65, "2012-11-07": 2.65, "2013-02-07": 2.65},
    "IBM": {
        "2000-05-08": 0.13, "2000-08-08": 0.13, "2000-11-08": 0.13,
        "2001-02-07": 0.13, "2001-05-08": 0.14, "2001-08-08": 0.14, "2001-11-07": 0.14,
        "2002-02-06": 0.14, "2002-05-08": 0.15, "2002-08-07": 0.15, "2002-11-06": 0.15,
        "2003-02-06": 0.15, "2003-05-07": 0.16, "2003-08-06": 0.16, "2003-11-06": 0.16,
        "2004-02-06": 0.16, "2004-05-06": 0.18, "2004-08-06": 0.18, "2004-11-08": 0.18,
        "2005-02-08": 0.18, "2005-05-06": 0.20, "2005-08-08": 0.20, "2005-11-08": 0.20,
        "2006-02-08": 0.20, "2006-05-08": 0.30, "2006-08-08": 0.30, "2006-11-08": 0.30,
        "2007-02-07": 0.30, "2007-05-08": 0.40, "2007-08-08": 0.40, "2007-11-07": 0.40,
        "2008-02-06": 0.40, "2008-05-07": 0.50, "2008-08-06": 0.50, "2008-11-06": 0.50,
        "2009-02-06": 0.50, "2009-05-06": 0.55, "2009-08-06": 0.55, "2009-11-06": 0.55,
        "2010-02-08": 0.55, "2010-05-06": 0.65, "2010-08-06": 0.65, "2010-11-08": 0.65,
        "2011-02-08": 0.65, "2011-05-06": 0.75, "2011-08-08": 0.75, "2011-11-08": 0.75,
        "2012-02-08": 0.75, "2012-05-08": 0.85, "2012-08-08": 0.85, "2012-11-07": 0.85,
        "2013-02-06": 0.85,
    },
}  # fmt: skip
SPLITS = {"MSFT": {"2003-02-18": 2.0}, "AAPL": {"2000-06-21": 2.0, "2005-02-28": 2.0}, "IBM": {}}


def yahoo(symbol: str) -> pd.DataFrame:
    """Daily bars as Yahoo gave them in 2013: close as traded, adj_close for splits and dividends, in cents."""
    table = pd.DataFrame(getattr(stocks, symbol))
    table["session"] = pd.to_datetime(table["date"]).astype("datetime64[us]")
    return table.drop(columns="date").sort_values("session", ignore_index=True).assign(symbol=symbol)


def public_actions(symbol: str) -> pd.DataFrame:
    rows = [(pd.Timestamp(day), symbol, "dividend", value) for day, value in QUARTERS[symbol].items()]
    rows += [(pd.Timestamp(day), symbol, "split", value) for day, value in SPLITS[symbol].items()]
    return actions_table(rows)


def test_the_record_is_the_one_that_the_bounds_were_made_for() -> None:
    # from 2026 on the package holds Quandl's prices, adjusted by another rule: a dividend buys at the ex-date's close
    last = yahoo("MSFT").iloc[-1]
    assert (last["session"], last["close"], last["adj_close"]) == (pd.Timestamp("2013-03-01"), 27.95, 27.56)


@pytest.mark.parametrize("symbol", ["AAPL", "IBM", "MSFT"])
@pytest.mark.parametrize(
    "today", ["2000-06-21", "2003-02-18", "2004-11-12", "2004-11-15", "2008-11-18", "2012-08-09", "2013-03-01"]
)
def test_adjusted_closes_equal_yahoos(symbol: str, today: str) -> None:
    """On every date from 2000, with the actions as public record tells them.

    Yahoo rounds to the cent, so an adjusted close is known to half a cent, and a ratio of two to the sum of both
    parts; that bound is below 1e-3 wherever both are above 10 dollars.
    """
    table = yahoo(symbol)
    history = price_history(table.drop(columns=["adj_close", "volume"]), public_actions(symbol))
    adjusted, close = (table.set_index("session")[name] for name in ("adj_close", "close"))
    at = pd.Timestamp(today)
    rounding = 0.005 / adjusted + 0.005 / adjusted[at]
    assert (rounding[(adjusted > 10.0) & (adjusted[at] > 10.0)] <= 1e-3).all()
    # a part in a hundred thousand for the products of two roundings
    assert_equal_to_vendors(history, symbol, at, adjusted / adjusted[at] * close[at], rounding + 1e-5)


@pytest.mark.parametrize("symbol", ["AAPL", "IBM", "MSFT"])
def test_every_action_is_needed_for_that(symbol: str) -> None:
    # half of all dividends in the table are too small to be missed on one date alone: they add up
    table = yahoo(symbol)
    adjusted = table.set_index("session")["adj_close"]
    actions, last = public_actions(symbol), adjusted.index[-1]
    for drop in range(len(actions)):
        history = price_history(table.drop(columns=["adj_close", "volume"]), actions.drop(index=drop))
        total = history.total_return[symbol]
        error = (total / total[last] * adjusted[last] / adjusted - 1.0).abs()
        assert (error > 0.005 / adjusted + 0.005 / adjusted[last] + 1e-5).any(), actions.loc[drop]
