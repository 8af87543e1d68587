"""Ingestion by hand-made answers: what is asked, what is sorted out, and the exact rows that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trading_dagster.calendar import SessionCalendar
from trading_dagster.resources.ingestion import (
    Asked,
    Sifted,
    Stored,
    ask,
    bars_and_actions,
    combine_actions,
    coverage,
    delisted,
    divide,
    fetch_rows,
    fetched_and_stored_actions,
    first_to_ask,
    judge,
    known_since,
    read_stored,
    sift,
    symbols_frame,
)
from trading_dagster.resources.market_data import ACTION_COLUMNS, BAR_COLUMNS, Answer, empty_rows
from trading_dagster.resources.schemas import TABLES
from trading_dagster.resources.tables import Tables

NOW = datetime(2020, 3, 2, 22, 30, tzinfo=UTC)
QUARANTINE = TABLES["quarantine"].arrow.names

Bar = tuple[str, str, float] | tuple[str, str, float, float, float, float, float]


def day(text: str) -> pd.Timestamp:
    return pd.Timestamp(text).as_unit("us")


def bars(*rows: Bar) -> pd.DataFrame:
    """`BAR_COLUMNS` of (session, symbol, close) or of all the values; a close alone makes a flat bar that traded."""
    full = [row if len(row) == 7 else (row[0], row[1], *[row[2]] * 4, 100.0) for row in rows]
    table = pd.DataFrame([(day(row[0]), *row[1:]) for row in full], columns=BAR_COLUMNS)
    return table.astype(empty_rows(BAR_COLUMNS).dtypes.to_dict())


def actions(*rows: tuple[str, str, str, float]) -> pd.DataFrame:
    table = pd.DataFrame([(day(row[0]), *row[1:]) for row in rows], columns=ACTION_COLUMNS)
    return table.astype(empty_rows(ACTION_COLUMNS).dtypes.to_dict())


def quarantine(*rows: tuple[str, str, float, str, str], **values: Any) -> pd.DataFrame:
    """Quarantined bars of (session, symbol, close, reason, detail)."""
    table = bars(*(row[:3] for row in rows))
    values = {"source": "test", "state": "quarantined", "operator": "", "note": ""} | values
    table = table.assign(reason=[row[3] for row in rows], detail=[row[4] for row in rows], **values)
    known_at = pd.Series([pd.Timestamp("2020-02-01", tz="UTC")] * len(rows), dtype="datetime64[us, UTC]")
    return table.assign(known_at=known_at)[QUARANTINE]


def covered(**answers: tuple[str, str | None] | tuple[str, str | None, str]) -> pd.DataFrame:
    """As `coverage` gives it: symbol = (session, last bar[, columns])."""
    rows = [
        (s, day(a[0]), day(a[1]) if a[1] else pd.NaT, a[2] if len(a) > 2 else "", "test") for s, a in answers.items()
    ]
    table = pd.DataFrame(rows, columns=["symbol", "session", "last_bar", "columns", "source"])
    return table.astype({"session": "datetime64[us]", "last_bar": "datetime64[us]"}).set_index("symbol")


def stored_rows(
    bar_rows: pd.DataFrame | None = None,
    held: pd.DataFrame | None = None,
    answers: pd.DataFrame | None = None,
    action_rows: pd.DataFrame | None = None,
) -> Stored:
    return Stored(
        bars() if bar_rows is None else bar_rows,
        quarantine() if held is None else held,
        actions() if action_rows is None else action_rows,
        covered() if answers is None else answers,
    )


def asked_for(rows: pd.DataFrame, symbols: Sequence[str], first: str = "2020-01-02", **answer: Any) -> Asked:
    return Asked(
        pd.Series(dict.fromkeys(symbols, day(first)), dtype="datetime64[us]"),
        Answer(rows, answer.get("failures", {}), answer.get("columns", {})),
    )


def texts(frame: pd.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    table = frame[list(columns)].copy()
    for name in columns:
        if str(table[name].dtype).startswith("datetime64"):
            days = [None if pd.isna(v) else f"{v:%Y-%m-%d}" for v in table[name]]
            table[name] = pd.Series(days, dtype="object", index=table.index)
    return list(table.itertuples(index=False, name=None))


# -- planning -------------------------------------------------------------------------------------------------------


def test_coverage_is_the_newest_answer_of_each_symbol(tables: Tables) -> None:
    def answers(session: str, asset: str, known: int, **last: str | None) -> None:
        rows = pd.DataFrame(
            [(day(session), asset, s, day(at) if at else pd.NaT, f"c{known}", "test") for s, at in last.items()],
            columns=["session", "asset", "symbol", "last_bar", "columns", "source"],
        )
        tables.add_revisions("fetches", rows.assign(known_at=pd.Timestamp(2020, 1, known, tz="UTC")))

    assert coverage(tables, "bars").empty
    answers("2020-01-03", "bars", 3, A="2020-01-03", B=None)
    answers("2020-01-08", "bars", 8, A="2020-01-07")
    answers("2020-01-08", "bars", 9, A="2020-01-08")
    answers("2020-01-10", "corporate_actions", 10, A=None)
    result = coverage(tables, "bars")
    assert {"session", "last_bar", "columns", "source"} <= set(result.columns)
    assert texts(result.reset_index(), "symbol", "session", "last_bar", "columns") == [
        ("B", "2020-01-03", None, "c3"),
        ("A", "2020-01-08", "2020-01-08", "c9"),
    ]


def test_first_to_ask(calendar: SessionCalendar) -> None:
    answers = covered(KNOWN=("2020-01-31", "2020-01-31"), AHEAD=("2020-03-02", None), YOUNG=("2000-01-06", None))
    result = first_to_ask(["NEW", "KNOWN", "AHEAD", "YOUNG"], answers, day("2020-02-10"), calendar)
    assert {s: f"{at:%Y-%m-%d}" for s, at in result.items()} == {
        "NEW": "2000-01-01",
        # ten sessions, the newest of them included; 20 January is a holiday
        "KNOWN": "2020-01-17",
        # asked for again at an earlier session: the ten before that one
        "AHEAD": "2020-01-28",
        "YOUNG": "2000-01-03",
    }
    assert result.dtype == "datetime64[us]"
    assert len(first_to_ask([], answers, day("2020-02-10"), calendar)) == 0


def test_symbols_of_one_first_date_are_asked_for_together() -> None:
    calls = []

    def fetch(symbols: Sequence[str], first: date, last: date, report: object) -> Answer:
        calls.append((list(symbols), first, last))
        rows = bars(*((f"{first:%Y-%m-%d}", s, 1.0) for s in symbols if s != "C"))
        return Answer(rows, {"C": "no answer"} if "C" in symbols else {}, {s: ("c",) for s in symbols})

    first = pd.Series({"A": day("2020-01-03"), "B": day("2000-01-01"), "C": day("2020-01-03")})
    result = ask(fetch, first, date(2020, 1, 6), print)
    assert calls == [
        (["B"], date(2000, 1, 1), date(2020, 1, 6)),
        (["A", "C"], date(2020, 1, 3), date(2020, 1, 6)),
    ]
    assert result.first is first
    assert texts(result.answer.rows, "session", "symbol") == [("2000-01-01", "B"), ("2020-01-03", "A")]
    assert list(result.answer.rows.index) == [0, 1]
    assert result.answer.failures == {"C": "no answer"}
    assert result.answer.columns == {"A": ("c",), "B": ("c",), "C": ("c",)}


def test_answers_without_rows_keep_their_columns() -> None:
    result = ask(lambda *_: Answer(bars()), pd.Series({"A": day("2020-01-03")}), date(2020, 1, 6), print)
    assert list(result.answer.rows.columns) == BAR_COLUMNS


def test_symbol_whose_actions_did_not_come_is_not_answered() -> None:
    class Source:
        def bars(self, symbols: Sequence[str], *_: object) -> Answer:
            rows = bars(*(("2020-01-03", s, 1.0) for s in symbols if s != "C"))
            return Answer(rows, {"C": "no bars"}, {"A": ("c",)})

        def corporate_actions(self, *_: object) -> Answer:
            rows = actions(("2020-01-03", "A", "dividend", 1.0), ("2020-01-03", "A", "dividend", 0.5))
            return Answer(rows, {"B": "time out", "C": "time out"}, {"A": ("x",)})

    first = pd.Series({"A": day("2020-01-03"), "B": day("2020-01-03"), "C": day("2020-01-03")})
    asked, found = bars_and_actions(Source(), first, date(2020, 1, 6), print)
    assert asked.answer.rows["symbol"].tolist() == ["A"]
    assert asked.answer.failures == {"B": "its corporate actions: time out", "C": "no bars"}
    assert asked.answer.columns == {"A": ("c",)}
    assert texts(found, *ACTION_COLUMNS) == [("2020-01-03", "A", "dividend", 1.5)]


# -- delistings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last_bar", "is_gone"),
    [
        pytest.param("2020-01-31", False, id="fresh"),
        pytest.param("2020-01-27", False, id="four_sessions"),
        pytest.param("2020-01-24", True, id="five_sessions"),
        pytest.param("2019-06-03", True, id="long_ago"),
    ],
)
def test_symbol_without_a_bar_in_five_sessions_is_gone(calendar: SessionCalendar, last_bar: str, is_gone: bool) -> None:
    answers = covered(A=("2020-01-31", "2020-01-31"), B=("2020-01-31", last_bar))
    assert delisted(answers, calendar) == ({"B": day(last_bar)} if is_gone else {})


@pytest.mark.parametrize(
    ("fresh", "behind", "any_gone"),
    [(2, 2, True), (1, 1, True), (1, 2, False), (2, 3, False), (3, 2, True), (0, 1, False)],
)
def test_half_of_the_symbols_must_go_on(calendar: SessionCalendar, fresh: int, behind: int, any_gone: bool) -> None:
    going = {f"A{n}": ("2020-01-31", "2020-01-31") for n in range(fresh)}
    stopped = {f"B{n}": ("2020-01-31", "2020-01-10") for n in range(behind)}
    assert set(delisted(covered(**going, **stopped), calendar)) == (set(stopped) if any_gone else set())


def test_who_never_had_a_bar_does_not_count(calendar: SessionCalendar) -> None:
    never = {f"N{n}": ("2020-01-31", None) for n in range(5)}
    assert delisted(covered(**never), calendar) == {}
    assert delisted(covered(), calendar) == {}
    answers = covered(**never, A=("2020-01-31", "2020-01-31"), B=("2020-01-31", "2020-01-10"))
    assert delisted(answers, calendar) == {"B": day("2020-01-10")}


def test_symbol_no_longer_asked_for_is_judged_by_its_own_newest_answer(calendar: SessionCalendar) -> None:
    answers = covered(
        A=("2020-01-31", "2020-01-31"), OLD=("2020-01-10", "2020-01-10"), GONE=("2020-01-10", "2020-01-02")
    )
    assert delisted(answers, calendar) == {"GONE": day("2020-01-02")}


def test_only_the_newest_answers_say_whether_the_source_goes_on(calendar: SessionCalendar) -> None:
    # one of three has a bar: the vendor has fallen behind, however fresh symbols were that are no longer asked for
    newest = {"A": "2020-01-31", "B": "2020-01-10", "C": "2020-01-10"}
    answers = {symbol: ("2020-01-31", last_bar) for symbol, last_bar in newest.items()}
    before = {f"OLD{n}": ("2020-01-10", "2020-01-10") for n in range(5)}
    assert delisted(covered(**answers, **before), calendar) == {}


# -- symbols --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "accept", "difference"),
    [
        pytest.param("close,open", ("open", "close"), False, "", id="another_order"),
        pytest.param("close,open", ("close",), False, "gone: open; new: none", id="gone"),
        pytest.param("close", ("vwap", "close", "avg"), False, "gone: none; new: avg, vwap", id="new"),
        pytest.param("close,open,high", ("close", "o", "h"), False, "gone: high, open; new: h, o", id="renamed"),
        pytest.param("close,open", ("close",), True, "", id="accepted"),
        pytest.param("", ("close",), False, "", id="nothing_to_compare_with"),
        pytest.param("close", (), False, "", id="answer_without_rows"),
    ],
)
def test_columns_are_compared_with_those_before(
    before: str, now: tuple[str, ...], accept: bool, difference: str
) -> None:
    asked = asked_for(bars(), ["A"], columns={"A": now} if now else {})
    frame = symbols_frame(asked, covered(A=("2020-01-02", None, before)), accept_columns=accept)
    expected = pd.DataFrame([("A", True, "", not difference, difference)])
    pd.testing.assert_frame_equal(frame, expected.set_axis(list(frame.columns), axis=1), check_dtype=False)
    assert list(frame.columns) == ["symbol", "answered", "failure", "columns_unchanged", "difference"]


def test_symbols_that_failed_say_why_and_new_ones_are_compared_with_nothing() -> None:
    asked = asked_for(bars(), ["A", "NEW"], failures={"A": "timed out"}, columns={"NEW": ("close",)})
    frame = symbols_frame(asked, covered(A=("2020-01-02", None, "close")), accept_columns=False)
    assert list(frame.itertuples(index=False, name=None)) == [
        ("A", False, "timed out", True, ""),
        ("NEW", True, "", True, ""),
    ]


# -- sifting --------------------------------------------------------------------------------------------------------


def sifted(
    rows: pd.DataFrame,
    stored: Stored | None = None,
    last: str = "2020-01-08",
    symbols: Sequence[str] = ("A",),
    action_rows: pd.DataFrame | None = None,
    *,
    calendar: SessionCalendar,
    **answer: Any,
) -> Sifted:
    stored = stored or stored_rows()
    asked = asked_for(rows, symbols, **answer)
    about = symbols_frame(asked, stored.covered, accept_columns=False)
    return sift(asked, stored, actions() if action_rows is None else action_rows, about, day(last), calendar)


WEEK = ("2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07", "2020-01-08")


def test_first_answer_is_all_new(calendar: SessionCalendar) -> None:
    rows = bars(*((at, "A", 10.0 + n) for n, at in enumerate(WEEK)))
    result = sifted(rows, calendar=calendar)
    pd.testing.assert_frame_equal(result.new, rows)
    assert len(result.phantoms) == len(result.restated) == len(result.gone) == 0
    assert result.symbols.to_dict("records") == [
        {
            "symbol": "A", "answered": True, "failure": "", "columns_unchanged": True, "difference": "",
            "no_missing_session": True, "missing": "", "fresh": True, "newest": "the newest is 2020-01-08",
            "last_bar": day("2020-01-08"), "splits_visible": True, "split": "",
        }
    ]  # fmt: skip


def test_later_bars_are_left_out(calendar: SessionCalendar) -> None:
    rows = bars(*((at, "A", 10.0) for at in WEEK))
    result = sifted(rows, last="2020-01-06", calendar=calendar)
    assert texts(result.new, "session") == [("2020-01-02",), ("2020-01-03",), ("2020-01-06",)]
    assert result.symbols["fresh"].tolist() == [True]


def test_known_bars_are_not_new_but_changed_ones_are(calendar: SessionCalendar) -> None:
    stored = stored_rows(
        bars(("2020-01-02", "A", 10.0), ("2020-01-03", "A", 11.0)), answers=covered(A=(WEEK[1], WEEK[1]))
    )
    rows = bars(("2020-01-02", "A", 10.0), ("2020-01-03", "A", 11.5), ("2020-01-06", "A", 12.0))
    result = sifted(rows, stored, last="2020-01-06", calendar=calendar)
    assert texts(result.new, "session", "close") == [("2020-01-03", 11.5), ("2020-01-06", 12.0)]
    assert list(result.new.index) == [0, 1]
    assert texts(result.restated, "session", "symbol", "close", "old_close") == [("2020-01-03", "A", 11.5, 11.0)]
    assert result.restated["split"].isna().all()


def test_bar_in_quarantine_is_not_new_unless_it_changed(calendar: SessionCalendar) -> None:
    held = quarantine(("2020-01-03", "A", 99.0, "jump", "why"), ("2020-01-06", "A", 98.0, "jump", "why"))
    stored = stored_rows(bars(("2020-01-02", "A", 10.0)), held, covered(A=(WEEK[2], WEEK[2])))
    rows = bars(("2020-01-02", "A", 10.0), ("2020-01-03", "A", 99.0), ("2020-01-06", "A", 11.0))
    result = sifted(rows, stored, last="2020-01-06", calendar=calendar)
    assert texts(result.new, "session", "close") == [("2020-01-06", 11.0)]
    # what is in quarantine has been there: no session is missing, and the newest is the newest
    assert texts(result.symbols, "no_missing_session", "fresh", "last_bar") == [(True, True, "2020-01-06")]
    assert len(result.restated) == 0


def test_bar_rewritten_for_a_split_stays_as_it_traded(calendar: SessionCalendar) -> None:
    stored = stored_rows(
        bars(("2020-01-02", "A", 10.0), ("2020-01-03", "A", 12.0)), answers=covered(A=(WEEK[1], WEEK[1]))
    )
    rows = bars(("2020-01-02", "A", 5.0), ("2020-01-03", "A", 6.2), ("2020-01-06", "A", 6.1))
    result = sifted(
        rows, stored, "2020-01-06", action_rows=actions(("2020-01-06", "A", "split", 2.0)), calendar=calendar
    )
    # the second is none of the split's work, and counts as a correction
    assert texts(result.new, "session", "close") == [("2020-01-03", 6.2), ("2020-01-06", 6.1)]
    assert [value if value == value else None for value in result.restated["split"]] == [2.0, None]


def test_dividend_explains_no_rewriting(calendar: SessionCalendar) -> None:
    stored = stored_rows(bars(("2020-01-02", "A", 10.0)), answers=covered(A=(WEEK[0], WEEK[0])))
    rows = bars(("2020-01-02", "A", 5.0), ("2020-01-03", "A", 5.0))
    result = sifted(
        rows, stored, "2020-01-03", action_rows=actions(("2020-01-03", "A", "dividend", 2.0)), calendar=calendar
    )
    assert result.restated["split"].isna().tolist() == [True]
    assert len(result.new) == 2


def test_phantoms_are_sorted_out_with_their_reason(calendar: SessionCalendar) -> None:
    holiday = ("2020-01-01", "A", 10.0, 10.0, 10.0, 10.0, 0.0)
    traded = ("2020-01-04", "A", 10.0, 10.0, 10.0, 10.0, 5.0)
    quiet = ("2020-01-03", "A", 10.0, 10.0, 10.0, 10.0, 0.0)
    result = sifted(bars(holiday, ("2020-01-02", "A", 10.0), quiet, traded), last="2020-01-06", calendar=calendar)
    assert texts(result.phantoms, *BAR_COLUMNS, "reason", "detail") == [
        (
            "2020-01-01",
            "A",
            10.0,
            10.0,
            10.0,
            10.0,
            0.0,
            "phantom",
            "nothing was traded and XNYS was closed: no session",
        )
    ]
    # what traded on a Saturday is left to the rules, which refuse it
    assert texts(result.new, "session") == [("2020-01-02",), ("2020-01-03",), ("2020-01-04",)]


def test_missing_sessions_are_counted_and_the_first_is_named(calendar: SessionCalendar) -> None:
    rows = bars(
        ("2020-01-02", "A", 10.0), ("2020-01-08", "A", 10.0), ("2020-01-06", "B", 1.0), ("2020-01-07", "B", 1.0)
    )
    result = sifted(rows, symbols=("A", "B"), calendar=calendar)
    assert texts(result.symbols, "symbol", "no_missing_session", "missing", "fresh", "newest") == [
        ("A", False, "3 of them, such as 2020-01-03", True, "the newest is 2020-01-08"),
        ("B", True, "", False, "the newest is 2020-01-07"),
    ]


def test_stored_bars_close_the_gap(calendar: SessionCalendar) -> None:
    stored = stored_rows(bars(*((at, "A", 10.0) for at in WEEK[:3])), answers=covered(A=(WEEK[2], WEEK[2])))
    result = sifted(bars(("2020-01-08", "A", 10.0)), stored, calendar=calendar)
    assert result.symbols["missing"].tolist() == ["1 of them, such as 2020-01-07"]


def test_symbols_without_a_bar(calendar: SessionCalendar) -> None:
    answers = covered(OLD=("2020-01-03", "2020-01-03"), NEVER=("2020-01-02", None))
    rows = bars(("2020-01-08", "A", 10.0))
    result = sifted(rows, stored_rows(answers=answers), symbols=("A", "NEVER", "NEW", "OLD"), calendar=calendar)
    assert texts(result.symbols, "symbol", "no_missing_session", "fresh", "newest", "last_bar") == [
        ("A", True, True, "the newest is 2020-01-08", "2020-01-08"),
        ("NEVER", True, False, "there is none at all", None),
        ("NEW", True, False, "there is none at all", None),
        ("OLD", True, False, "the newest is 2020-01-03", "2020-01-03"),
    ]


@pytest.mark.parametrize(("last_bar", "answered", "is_gone"), [
    ("2019-12-31", True, True),
    ("2020-01-02", True, False),
    ("2019-12-31", False, False),
])  # fmt: skip
def test_symbol_that_stopped_is_gone_and_counts_as_fresh(
    calendar: SessionCalendar, last_bar: str, answered: bool, is_gone: bool
) -> None:
    stored = stored_rows(answers=covered(OLD=("2020-01-07", last_bar), A=("2020-01-07", "2020-01-07")))
    failures = {} if answered else {"OLD": "timed out"}
    result = sifted(bars(("2020-01-08", "A", 10.0)), stored, symbols=("A", "OLD"), failures=failures, calendar=calendar)
    assert result.gone == ({"OLD": day(last_bar)} if is_gone else {})
    assert result.symbols.set_index("symbol")["fresh"].to_dict() == {"A": True, "OLD": is_gone}


@pytest.mark.parametrize(
    ("before", "after", "kind", "ratio", "shows"),
    [
        pytest.param(10.0, 5.1, "split", 2.0, True, id="visible"),
        pytest.param(10.0, 9.9, "split", 2.0, False, id="hidden"),
        pytest.param(10.0, 100.0, "split", 0.1, True, id="reverse_visible"),
        pytest.param(10.0, 10.5, "split", 0.1, False, id="reverse_hidden"),
        pytest.param(10.0, 10.0 * 2**-0.24, "split", 2.0, False, id="less_than_a_quarter"),
        pytest.param(10.0, 10.0 * 2**-0.26, "split", 2.0, True, id="more_than_a_quarter"),
        pytest.param(10.0, 10.0, "split", 1.2, True, id="too_small_to_show"),
        pytest.param(10.0, 10.0, "split", 1.23, False, id="just_large_enough_to_show"),
        pytest.param(10.0, 10.0, "dividend", 3.0, True, id="dividend"),
    ],
)
def test_splits_must_show(
    calendar: SessionCalendar, before: float, after: float, kind: str, ratio: float, shows: bool
) -> None:
    rows = bars(
        ("2020-01-07", "A", before), ("2020-01-08", "A", after), ("2020-01-07", "B", 5.0), ("2020-01-08", "B", 5.0)
    )
    of_both = actions(("2020-01-08", "A", kind, ratio), ("2020-01-08", "OTHER", kind, ratio))
    result = sifted(rows, symbols=("A", "B"), action_rows=of_both, calendar=calendar)
    assert result.symbols["splits_visible"].tolist() == [shows, True]
    if not shows:
        assert result.symbols["split"].iloc[0] == (
            f"{ratio:g} for 1 on 2020-01-08, where the close went from {before:g} to {after:g}: supply prices as "
            "traded, not adjusted ones"
        )


def test_split_of_a_stored_session_or_of_the_first_bar_is_not_looked_at(calendar: SessionCalendar) -> None:
    split = actions(("2020-01-07", "A", "split", 2.0))
    stored = stored_rows(
        bars(("2020-01-06", "A", 10.0), ("2020-01-07", "A", 10.0)), answers=covered(A=(WEEK[3], WEEK[3]))
    )
    result = sifted(bars(("2020-01-08", "A", 10.0)), stored, action_rows=split, calendar=calendar)
    assert result.symbols["splits_visible"].tolist() == [True]
    result = sifted(bars(("2020-01-07", "A", 10.0), ("2020-01-08", "A", 10.0)), action_rows=split, calendar=calendar)
    assert result.symbols["splits_visible"].tolist() == [True]
    # across the border of stored and new it is
    stored = stored_rows(bars(("2020-01-06", "A", 10.0)), answers=covered(A=(WEEK[2], WEEK[2])))
    result = sifted(bars(("2020-01-07", "A", 10.0)), stored, "2020-01-07", action_rows=split, calendar=calendar)
    assert result.symbols["splits_visible"].tolist() == [False]


def test_no_more_is_read_than_the_answer_is_compared_with(tables: Tables, calendar: SessionCalendar) -> None:
    sessions = calendar.between("2018-01-01", "2020-01-10")
    closes = calendar.close_times(sessions)
    rows = bars(*((f"{at:%Y-%m-%d}", "A", 10.0) for at in sessions)).assign(source="test", known_at=closes)
    tables.add_revisions("bars", rows)
    tables.add_revisions(
        "quarantine", quarantine(("2018-01-05", "A", 9.0, "jump", "long ago"), (WEEK[1], "A", 9.0, "jump", ""))
    )
    split = actions(("2018-03-05", "A", "split", 2.0), ("2020-01-06", "A", "split", 2.0))
    tables.add_revisions("corporate_actions", split.assign(session=split["ex_date"], source="test", known_at=NOW))
    first = pd.Series({"A": day("2020-01-04"), "NEW": day("2000-01-01")})
    stored = read_stored(tables, covered(A=(WEEK[4], WEEK[4])), first, date(2020, 1, 7), calendar)
    at = sessions.get_loc(day("2020-01-06"))
    assert list(stored.bars["session"]) == list(sessions[at - 251 : at + 2])
    assert list(stored.bars.columns) == BAR_COLUMNS
    assert texts(stored.quarantine, "session") == [(WEEK[1],)]
    assert texts(stored.corporate_actions, "ex_date") == [("2020-01-06",)]
    # nothing is known of the symbols: nothing to compare with
    assert len(read_stored(tables, covered(), first, date(2020, 2, 7), calendar).bars) == 0


# -- judging --------------------------------------------------------------------------------------------------------


def walk(calendar: SessionCalendar, symbol: str, count: int, last: str, *tail: float) -> pd.DataFrame:
    """Quiet bars, then the given closes, the last of them on `last`."""
    at = int(calendar.sessions.searchsorted(day(last))) + 1
    sessions = calendar.sessions[at - count - len(tail) : at]
    closes = [100.0 * np.exp(0.01 * (n % 2)) for n in range(count)] + list(tail)
    return bars(*((f"{s:%Y-%m-%d}", symbol, c) for s, c in zip(sessions, closes, strict=True)))


def parts(all_bars: pd.DataFrame, first_new: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    old = all_bars["session"] < day(first_new)
    return all_bars[old].reset_index(drop=True), all_bars[~old].reset_index(drop=True)


def only_new(new: pd.DataFrame) -> Sifted:
    return Sifted(new, pd.DataFrame(), bars().assign(reason="", detail=""), pd.DataFrame())


FIRST = pd.Series({"A": day("2020-01-02"), "B": day("2020-01-02")})


def test_new_bars_that_jump_are_found(calendar: SessionCalendar) -> None:
    old, new = parts(walk(calendar, "A", 40, WEEK[3], 150.0, 100.0), WEEK[1])
    found = judge(only_new(new), stored_rows(old), actions(), [], FIRST)
    assert texts(found, "session", "symbol", "reason") == [(WEEK[2], "A", "spike")]
    assert "the next bar is back" in found["detail"].iloc[0]
    # with the split that explains it, not
    split = actions((WEEK[2], "A", "split", 2 / 3), (WEEK[3], "A", "split", 1.5))
    assert judge(only_new(new), stored_rows(old), split, [], FIRST).empty


def test_stored_bars_are_believed(calendar: SessionCalendar) -> None:
    old, new = parts(walk(calendar, "A", 40, WEEK[3], 150.0, 151.0), WEEK[3])
    assert judge(only_new(new), stored_rows(old), actions(), [], FIRST).empty


def test_corrected_bar_is_judged_by_its_new_value(calendar: SessionCalendar) -> None:
    old = walk(calendar, "A", 40, WEEK[2], 100.0)
    new = bars((WEEK[2], "A", 150.0))
    assert texts(judge(only_new(new), stored_rows(old), actions(), [], FIRST), "session") == [(WEEK[2],)]
    # and the other way round: the bar in quarantine was corrected
    held = quarantine((WEEK[2], "A", 150.0, "jump", ""))
    old = old[old["session"] < day(WEEK[2])]
    assert judge(only_new(bars((WEEK[2], "A", 100.0))), stored_rows(old, held), actions(), [], FIRST).empty


def test_bar_in_quarantine_is_looked_at_again(calendar: SessionCalendar) -> None:
    old, new = parts(walk(calendar, "A", 40, WEEK[3], 150.0, 100.0), WEEK[3])
    held = quarantine((WEEK[2], "A", 150.0, "jump", "the next bar is not known yet"))
    stored = stored_rows(old[old["session"] != day(WEEK[2])], held)
    found = judge(only_new(new), stored, actions(), [], FIRST)
    assert texts(found, "session", "symbol", "reason") == [(WEEK[2], "A", "spike")]
    # one from before the dates that were asked for is not
    assert judge(only_new(new), stored, actions(), [], FIRST.replace(day("2020-01-02"), day(WEEK[3]))).empty


def test_released_bars_and_phantoms_are_no_bad_bars(calendar: SessionCalendar) -> None:
    old, new = parts(walk(calendar, "A", 40, WEEK[3], 150.0, 151.0), WEEK[3])
    held = quarantine((WEEK[2], "A", 150.0, "jump", "")).assign(state="released")
    assert judge(only_new(new), stored_rows(old, held), actions(), [], FIRST).empty
    phantom = quarantine(("2020-01-04", "A", 900.0, "phantom", ""))
    assert judge(only_new(new), stored_rows(old, phantom), actions(), [], FIRST).empty


def test_refused_symbols_are_not_judged(calendar: SessionCalendar) -> None:
    old_a, new_a = parts(walk(calendar, "A", 40, WEEK[3], 150.0), WEEK[3])
    old_b, new_b = parts(walk(calendar, "B", 40, WEEK[3], 150.0), WEEK[3])
    stored, new = stored_rows(pd.concat([old_a, old_b])), only_new(pd.concat([new_a, new_b]))
    assert judge(new, stored, actions(), [], FIRST)["symbol"].tolist() == ["A", "B"]
    assert judge(new, stored, actions(), ["A"], FIRST)["symbol"].tolist() == ["B"]


def test_bar_in_quarantine_of_a_refused_symbol_stays_as_it_is(calendar: SessionCalendar) -> None:
    # its answer did not come, or is not believed: nothing new is known of its bars
    old_a, _ = parts(walk(calendar, "A", 40, WEEK[1]), WEEK[2])
    old_b, new_b = parts(walk(calendar, "B", 40, WEEK[3]), WEEK[3])
    held = quarantine((WEEK[2], "A", 150.0, "jump", "the next bar is not known yet"))
    found = judge(only_new(new_b), stored_rows(pd.concat([old_a, old_b]), held), actions(), ["A"], FIRST)
    assert found["symbol"].tolist() == []


# -- dividing -------------------------------------------------------------------------------------------------------


def jump_rows(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    table = pd.DataFrame([(day(row[0]), *row[1:]) for row in rows], columns=["session", "symbol", "reason", "detail"])
    return table.astype({"session": "datetime64[us]", "symbol": "str", "reason": "str", "detail": "str"})


def divided(
    result: Sifted, jumps: pd.DataFrame, stored: Stored, refused: Sequence[str] = (), done: date | None = None,
    *, calendar: SessionCalendar,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    return divide(result, jumps, stored, refused, "test", done, NOW, calendar)


CLOSE = {at: pd.Timestamp(f"{at} 21:00", tz="UTC").as_unit("us") for at in WEEK}


def test_good_bars_and_bad_ones(calendar: SessionCalendar) -> None:
    holiday = ("2020-01-01", "A", 10.0, 10.0, 10.0, 10.0, 0.0)
    result = sifted(bars(holiday, (WEEK[0], "A", 10.0), (WEEK[1], "A", 99.0)), last=WEEK[1], calendar=calendar)
    good, held = divided(result, jump_rows((WEEK[1], "A", "jump", "too far")), stored_rows(), calendar=calendar)
    expected = bars((WEEK[0], "A", 10.0)).assign(source="test", known_at=[CLOSE[WEEK[0]]])
    pd.testing.assert_frame_equal(good, expected, check_dtype=False, check_exact=True)
    assert set(good.columns) == set(TABLES["bars"].arrow.names)
    assert list(held.columns) == QUARANTINE
    assert texts(held, *QUARANTINE[:-1]) == [
        ("2020-01-01", "A", 10.0, 10.0, 10.0, 10.0, 0.0, "test", "phantom",
         "nothing was traded and XNYS was closed: no session", "quarantined", "", ""),
        (WEEK[1], "A", 99.0, 99.0, 99.0, 99.0, 100.0, "test", "jump", "too far", "quarantined", "", ""),
    ]  # fmt: skip
    # a date without a session has no close
    assert held["known_at"].tolist() == [pd.Timestamp(NOW), CLOSE[WEEK[1]]]


def test_nothing_of_refused_symbols(calendar: SessionCalendar) -> None:
    holiday = ("2020-01-01", "B", 10.0, 10.0, 10.0, 10.0, 0.0)
    rows = bars(holiday, (WEEK[0], "A", 10.0), (WEEK[0], "B", 10.0))
    result = sifted(rows, symbols=("A", "B"), last=WEEK[0], calendar=calendar)
    good, held = divided(result, jump_rows(), stored_rows(), ["B"], calendar=calendar)
    assert good["symbol"].tolist() == ["A"]
    assert len(held) == 0
    good, held = divided(result, jump_rows(), stored_rows(), ["A", "B"], calendar=calendar)
    assert len(good) == len(held) == 0


def test_what_comes_after_its_session_was_completed_is_known_from_now(calendar: SessionCalendar) -> None:
    stored = stored_rows(bars((WEEK[0], "A", 10.0)), answers=covered(A=(WEEK[1], WEEK[1])))
    rows = bars((WEEK[0], "A", 10.5), (WEEK[1], "A", 11.0), (WEEK[2], "A", 12.0), (WEEK[1], "NEW", 5.0))
    result = sifted(rows, stored, WEEK[2], ("A", "NEW"), calendar=calendar)
    good, _ = divided(result, jump_rows(), stored, done=date(2020, 1, 3), calendar=calendar)
    assert [(*row[:2], at) for row, at in zip(texts(good, "session", "symbol"), good["known_at"], strict=True)] == [
        (WEEK[0], "A", pd.Timestamp(NOW)),  # corrected
        (WEEK[1], "A", pd.Timestamp(NOW)),  # a straggler
        (WEEK[2], "A", CLOSE[WEEK[2]]),
        (WEEK[1], "NEW", CLOSE[WEEK[1]]),  # nobody could have missed it
    ]


def test_bar_seen_again_keeps_what_was_written_beside_it(calendar: SessionCalendar) -> None:
    held = quarantine(
        (WEEK[1], "A", 99.0, "jump", "not known yet"), (WEEK[0], "A", 98.0, "jump", "same"), source="first"
    )
    stored = stored_rows(held=held, answers=covered(A=(WEEK[1], WEEK[1])))
    result = sifted(bars((WEEK[2], "A", 10.0)), stored, WEEK[2], calendar=calendar)
    jumps = jump_rows((WEEK[0], "A", "jump", "same"), (WEEK[1], "A", "spike", "back"))
    good, again = divided(result, jumps, stored, done=date(2020, 1, 3), calendar=calendar)
    assert len(good) == 1
    # only what says something new
    assert texts(again, *QUARANTINE[:-1]) == [
        (WEEK[1], "A", 99.0, 99.0, 99.0, 99.0, 100.0, "first", "spike", "back", "quarantined", "", "")
    ]
    assert again["known_at"].tolist() == [pd.Timestamp(NOW)]
    assert str(again["known_at"].dtype) == "datetime64[us, UTC]"


def test_bar_in_quarantine_that_changed_and_is_still_bad(calendar: SessionCalendar) -> None:
    held = quarantine((WEEK[1], "A", 99.0, "jump", "too far"))
    stored = stored_rows(held=held, answers=covered(A=(WEEK[1], WEEK[1])))
    result = sifted(bars((WEEK[1], "A", 98.0)), stored, WEEK[1], calendar=calendar)
    good, again = divided(result, jump_rows((WEEK[1], "A", "jump", "too far")), stored, calendar=calendar)
    assert len(good) == 0
    assert texts(again, "session", "close", "state") == [(WEEK[1], 98.0, "quarantined")]


def test_bar_in_quarantine_that_its_vendor_corrected_is_not_to_be_released(calendar: SessionCalendar) -> None:
    held = quarantine((WEEK[1], "A", 99.0, "jump", "too far"), (WEEK[1], "B", 99.0, "jump", "too far"))
    stored = stored_rows(held=held, answers=covered(A=(WEEK[1], WEEK[1]), B=(WEEK[1], WEEK[1])))
    result = sifted(bars((WEEK[1], "A", 10.0)), stored, WEEK[1], calendar=calendar)
    good, again = divided(result, jump_rows(), stored, calendar=calendar)
    assert texts(good, "session", "symbol", "close") == [(WEEK[1], "A", 10.0)]
    assert texts(again, "session", "symbol", "close", "reason", "detail", "state") == [
        (WEEK[1], "A", 99.0, "jump", "too far", "corrected")
    ]
    # neither a released one nor a refused symbol's changes
    released = stored_rows(held=held.assign(state="released"), answers=stored.covered)
    assert len(divided(result, jump_rows(), released, calendar=calendar)[1]) == 0
    assert len(divided(result, jump_rows(), stored, ["A"], calendar=calendar)[1]) == 0


def test_known_since(calendar: SessionCalendar) -> None:
    rows = bars(
        (WEEK[0], "A", 1.0),
        (WEEK[1], "A", 1.0),
        (WEEK[0], "B", 1.0),
        ("2020-01-04", "A", 1.0),
        ("2019-11-29", "A", 1.0),
    )
    rows.index = pd.Index([7, 3, 5, 1, 9])

    def since(restated: pd.DataFrame, done: date | None, answers: pd.DataFrame) -> list[pd.Timestamp]:
        result = known_since(rows, restated, done, answers, NOW, calendar)
        assert list(result.index) == [7, 3, 5, 1, 9]
        assert str(result.dtype) == "datetime64[us, UTC]"
        return list(result)

    now, half_day = pd.Timestamp(NOW), pd.Timestamp("2019-11-29 18:00", tz="UTC")
    of_its_time = [CLOSE[WEEK[0]], CLOSE[WEEK[1]], CLOSE[WEEK[0]], now, half_day]
    a_to_the_third = covered(A=(WEEK[1], WEEK[1]))
    assert since(bars(), None, covered()) == of_its_time
    assert since(bars(), None, a_to_the_third) == of_its_time
    assert since(bars(), date(2020, 1, 3), covered()) == of_its_time
    assert since(bars((WEEK[1], "A", 2.0)), None, covered()) == [CLOSE[WEEK[0]], now, CLOSE[WEEK[0]], now, half_day]
    # completed up to a session, which is included; B had not been answered for
    assert since(bars(), date(2020, 1, 2), a_to_the_third) == [now, CLOSE[WEEK[1]], CLOSE[WEEK[0]], now, now]
    assert since(bars(), date(2020, 1, 3), a_to_the_third) == [now, now, CLOSE[WEEK[0]], now, now]
    # completed without the symbol, which had been answered for up to an earlier session
    assert since(bars(), date(2020, 1, 3), covered(A=(WEEK[0], None))) == [
        now,
        CLOSE[WEEK[1]],
        CLOSE[WEEK[0]],
        now,
        now,
    ]


# -- what is remembered of an answer --------------------------------------------------------------------------------


def test_fetch_rows() -> None:
    answers = covered(
        A=(WEEK[0], WEEK[0], "close,open"), AHEAD=(WEEK[3], WEEK[3], "close"), QUIET=(WEEK[0], WEEK[0], "close,open"),
        EQUAL=(WEEK[2], WEEK[2], "close"),
    )  # fmt: skip
    symbols = ["A", "AHEAD", "EQUAL", "NEW", "QUIET", "REFUSED"]
    asked = asked_for(bars(), symbols, columns={"A": ("close", "vwap"), "NEW": ("close",)})
    newest = {"A": day(WEEK[2]), "QUIET": day(WEEK[0])}
    frame = fetch_rows(asked, "bars", newest, answers, ["REFUSED"], day(WEEK[2]), "test", NOW)
    assert list(frame.columns) == TABLES["fetches"].arrow.names
    assert texts(frame, "session", "asset", "symbol", "last_bar", "columns", "source") == [
        (WEEK[2], "bars", "A", WEEK[2], "close,vwap", "test"),
        (WEEK[2], "bars", "EQUAL", None, "close", "test"),
        (WEEK[2], "bars", "NEW", None, "close", "test"),
        # an answer without rows has no columns: the ones before still hold
        (WEEK[2], "bars", "QUIET", WEEK[0], "close,open", "test"),
    ]
    assert set(frame["known_at"]) == {pd.Timestamp(NOW)}
    assert [str(frame[c].dtype) for c in ("session", "last_bar", "known_at")] == [
        "datetime64[us]",
        "datetime64[us]",
        "datetime64[us, UTC]",
    ]


def test_fetch_rows_of_nothing_fit_their_table(tables: Tables) -> None:
    frame = fetch_rows(asked_for(bars(), ["A"]), "bars", {}, covered(), ["A"], day(WEEK[2]), "test", NOW)
    assert len(frame) == 0
    assert tables.add_revisions("fetches", frame).changed == 0
    frame = fetch_rows(asked_for(bars(), ["A"]), "corporate_actions", {}, covered(), [], day(WEEK[2]), "test", NOW)
    assert tables.add_revisions("fetches", frame).changed == 1
    assert frame["columns"].tolist() == [""]


def test_actions_of_one_date_are_combined() -> None:
    rows = actions(
        (WEEK[1], "A", "dividend", 1.0), (WEEK[1], "A", "split", 2.0), (WEEK[1], "A", "dividend", 0.25),
        (WEEK[1], "A", "split", 3.0), (WEEK[1], "B", "dividend", 1.0), (WEEK[2], "A", "dividend", 4.0),
    )  # fmt: skip
    assert sorted(texts(combine_actions(rows), *ACTION_COLUMNS)) == [
        (WEEK[1], "A", "dividend", 1.25),
        (WEEK[1], "A", "split", 6.0),
        (WEEK[1], "B", "dividend", 1.0),
        (WEEK[2], "A", "dividend", 4.0),
    ]
    nothing = combine_actions(actions())
    pd.testing.assert_frame_equal(nothing, empty_rows(ACTION_COLUMNS))


def test_fetched_actions_take_the_place_of_stored_ones() -> None:
    stored = actions((WEEK[0], "A", "split", 2.0), (WEEK[1], "A", "split", 2.0), (WEEK[1], "A", "dividend", 1.0))
    fetched = actions((WEEK[1], "A", "split", 3.0), (WEEK[2], "B", "split", 4.0))
    assert texts(fetched_and_stored_actions(fetched, stored), *ACTION_COLUMNS) == [
        (WEEK[0], "A", "split", 2.0),
        (WEEK[1], "A", "dividend", 1.0),
        (WEEK[1], "A", "split", 3.0),
        (WEEK[2], "B", "split", 4.0),
    ]
