"""Tables against a plain dictionary, and against what the Delta library alone finds on disk."""

import itertools
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trading_dagster.resources.schemas import TABLES
from trading_dagster.resources.tables import VERSION, TableError, Tables, Written

from .rows import allocation_rows, bar_rows, is_stored, stored, volatility_rows
from .workers import WORKERS, racing_processes, replace_own_partition

DAYS = [date(2020, 1, day) for day in (2, 3, 6, 7, 8, 9, 10)]
FIRST, LAST = DAYS[0], DAYS[-1]


def moment(hour: int) -> datetime:
    return datetime(2020, 1, 2, tzinfo=UTC) + timedelta(hours=hour)


def weights(frame: pd.DataFrame) -> dict[tuple[date, str], float]:
    return {(row.session.date(), row.symbol): row.weight for row in frame.itertuples()}


# -- reading --------------------------------------------------------------------------------------------------


def test_a_table_that_is_not_there_reads_as_empty(tables):
    frame = tables.read("allocation")
    assert list(frame.columns) == ["session", "symbol", "weight", "method"]
    assert len(frame) == 0
    assert frame["session"].dtype == "datetime64[us]"
    assert frame.attrs[VERSION] is None
    assert list(tables.read("bars", columns=["close", "symbol"]).columns) == ["close", "symbol"]


def test_version_of_a_table_that_is_not_there(tables):
    with pytest.raises(TableError, match=r"allocation does not exist under .*tables; nothing was stored there yet"):
        tables.version("allocation")


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({}, DAYS),
        ({"as_of": DAYS[2]}, DAYS[:3]),
        ({"first": DAYS[2]}, DAYS[2:]),
        ({"first": DAYS[1], "as_of": DAYS[3]}, DAYS[1:4]),
        ({"first": date(2020, 1, 4), "as_of": date(2020, 1, 5)}, []),
        ({"first": pd.Timestamp(DAYS[1]), "as_of": pd.Timestamp(DAYS[1])}, [DAYS[1]]),
    ],
)
def test_bounds_are_included(tables, bounds, expected):
    tables.replace("allocation", allocation_rows(DAYS), FIRST, LAST)
    frame = tables.read("allocation", **bounds)
    assert [stamp.date() for stamp in frame["session"]] == expected


def test_rows_come_sorted_by_key_with_the_version(tables):
    shuffled = allocation_rows(DAYS, symbols=["CCC", "AAA", "BBB"]).sample(frac=1, random_state=7)
    tables.replace("allocation", shuffled, FIRST, LAST)
    frame = tables.read("allocation")
    expected = [(day, symbol) for day in DAYS for symbol in ("AAA", "BBB", "CCC")]
    assert list(zip(frame["session"].dt.date, frame["symbol"], strict=True)) == expected
    assert list(frame.index) == list(range(len(expected)))
    assert frame.attrs[VERSION] == 1


def test_rows_come_sorted_however_they_were_written(tables):
    for day in reversed(DAYS):
        tables.replace("allocation", allocation_rows([day]), day, day)
        tables.add_revisions("bars", bar_rows(day, {"BBB": 1.0, "AAA": 2.0}, moment(1)))
    assert tables.read("allocation")["session"].dt.date.tolist() == DAYS
    bars = tables.read("bars")
    expected = [(day, symbol) for day in DAYS for symbol in ("AAA", "BBB")]
    assert list(zip(bars["session"].dt.date, bars["symbol"], strict=True)) == expected


def test_chosen_columns_come_in_the_order_asked(tables):
    tables.replace("allocation", allocation_rows(DAYS), FIRST, LAST)
    frame = tables.read("allocation", columns=["weight", "session"], as_of=DAYS[1])
    assert list(frame.columns) == ["weight", "session"]
    assert frame["weight"].tolist() == [0.1, 0.1]
    assert frame.attrs[VERSION] == 1


def test_chosen_columns_show_the_newest_revision(tables):
    tables.add_revisions("bars", bar_rows(FIRST, {"AAA": 10.0}, moment(1)))
    tables.add_revisions("bars", bar_rows(FIRST, {"AAA": 11.0}, moment(2)))
    assert tables.read("bars", columns=["close"])["close"].tolist() == [11.0]


def test_only_tables_with_a_schema_exist(tables):
    with pytest.raises(TableError, match=r"no table is named 'prices'; tables are .*bars.*orders"):
        tables.read("prices")


# -- replacing ------------------------------------------------------------------------------------------------


def test_replacing_a_range_leaves_all_other_partitions_alone(tables):
    tables.replace("allocation", allocation_rows(DAYS, 0.1), FIRST, LAST)
    written = tables.replace("allocation", allocation_rows([DAYS[2]], 0.7), DAYS[2], DAYS[3])
    # one row of the two days changed its weight, the other day's row went: two rows in, or out, on each side
    assert written == Written(rows=1, changed=3, version=2)
    expected = {(day, "AAA"): 0.1 for day in DAYS if day not in DAYS[2:4]} | {(DAYS[2], "AAA"): 0.7}
    assert weights(tables.read("allocation")) == expected


def test_the_earlier_version_can_still_be_read(tables):
    tables.replace("allocation", allocation_rows(DAYS, 0.1), FIRST, LAST)
    tables.replace("allocation", allocation_rows(DAYS, 0.2), FIRST, LAST)
    before = DeltaTable(str(Path(tables.uri) / "allocation"), version=1).to_pyarrow_table()
    assert before["weight"].to_pylist() == [0.1] * len(DAYS)


def test_unchanged_rows_write_no_new_version(tables):
    rows = volatility_rows([(DAYS[0], "AAA", 0.01, None), (DAYS[0], "BBB", 0.02, 1.5)])
    assert tables.replace("volatility", rows, FIRST, FIRST) == Written(2, 2, 1)
    shuffled = rows.iloc[::-1][list(reversed(rows.columns))]
    assert tables.replace("volatility", shuffled, FIRST, FIRST) == Written(2, 0, 1)
    assert [entry["operation"] for entry in DeltaTable(str(Path(tables.uri) / "volatility")).history()] == [
        "WRITE",
        "CREATE TABLE",
    ]


def test_empty_rows_empty_their_partitions_only(tables):
    tables.replace("allocation", allocation_rows(DAYS), FIRST, LAST)
    assert tables.replace("allocation", allocation_rows([]), DAYS[1], DAYS[5]) == Written(0, 5, 2)
    assert [stamp.date() for stamp in tables.read("allocation")["session"]] == [FIRST, LAST]


def test_a_first_write_without_rows_makes_the_table(tables):
    assert tables.replace("orders", tables.read("orders"), FIRST, FIRST) == Written(0, 0, 0)
    assert is_stored(tables, "orders")
    assert len(tables.read("orders")) == 0
    assert tables.replace("orders", tables.read("orders"), FIRST, FIRST) == Written(0, 0, 0)


VALUES = st.sampled_from([0.0, 0.3, 0.1 + 0.2, -1.5, 5e-324, 1e300])
MISSABLE = st.one_of(st.none(), VALUES)


@st.composite
def rewrites(draw):
    """A range of partitions with the rows that are to be there."""
    first, last = sorted((draw(st.sampled_from(DAYS)), draw(st.sampled_from(DAYS))))
    inside = [day for day in DAYS if first <= day <= last]
    keys = st.tuples(st.sampled_from(inside), st.sampled_from(["AAA", "BBB", "CCC"]))
    return first, last, draw(st.dictionaries(keys, st.tuples(VALUES, MISSABLE), max_size=6))


@settings(max_examples=40, deadline=None)
@given(st.lists(rewrites(), min_size=1, max_size=6), st.sampled_from(DAYS))
def test_replace_is_a_dictionary(steps, as_of):
    """Any rewrites of any ranges leave what a dictionary would hold, and count what differs in it."""
    model: dict[tuple[date, str], tuple[float, float | None]] = {}
    version = 0  # the empty table
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(folder)
        for first, last, rows in steps:
            before = {key: value for key, value in model.items() if first <= key[0] <= last}
            model = {key: value for key, value in model.items() if key not in before} | rows
            differing = len(set(before.items()) ^ set(rows.items()))
            version += differing > 0
            written = tables.replace("volatility", volatility_rows((*k, *v) for k, v in rows.items()), first, last)
            assert written == Written(len(rows), differing, version)
            frame = tables.read("volatility")
            found = {
                (row.session.date(), row.symbol): (row.sigma_1d, None if np.isnan(row.atr) else row.atr)
                for row in frame.itertuples()
            }
            assert found == model
            assert list(found) == sorted(model)
            assert len(frame) == len(model)
        seen = {(row.session.date(), row.symbol) for row in tables.read("volatility", as_of=as_of).itertuples()}
        assert seen == {key for key in model if key[0] <= as_of}


# -- rows that do not fit -------------------------------------------------------------------------------------


def _without(column):
    return lambda rows: rows.drop(columns=column)


BAD_ROWS = {
    "missing column": (_without("method"), r"table allocation: columns missing: \['method'\]"),
    "unknown column": (lambda rows: rows.assign(colour="red"), r"columns it does not have: \['colour'\]"),
    "null number": (
        lambda rows: rows.assign(weight=[0.1, np.nan, np.nan]),
        r"weight is missing in 2 rows, first at \{'session': Timestamp\('2020-01-03.*'symbol': 'AAA'\}",
    ),
    "null text": (lambda rows: rows.assign(method=["a", None, "b"]), r"method is missing in 1 rows"),
    "null key": (lambda rows: rows.assign(symbol=["AAA", None, "AAA"]), r"symbol is missing in 1 rows"),
    "null date": (lambda rows: rows.assign(session=[pd.NaT, *rows["session"][1:]]), r"session is missing in 1 rows"),
    "duplicate key": (
        lambda rows: pd.concat([rows, rows.iloc[[1]].assign(weight=0.9)]),
        r"1 rows repeat a key, first \{'session': Timestamp\('2020-01-03.*'symbol': 'AAA'\}",
    ),
    "row before": (
        lambda rows: rows.assign(session=rows["session"].replace(pd.Timestamp(DAYS[0]), pd.Timestamp("2019-12-31"))),
        r"1 rows lie outside the partitions 2020-01-02 to 2020-01-06, such as 2019-12-31",
    ),
    "row after": (
        lambda rows: rows.assign(session=rows["session"] + pd.Timedelta(days=1)),
        r"1 rows lie outside the partitions 2020-01-02 to 2020-01-06, such as 2020-01-07",
    ),
}


@pytest.mark.parametrize("there_before", [False, True], ids=["new table", "existing table"])
@pytest.mark.parametrize(("spoil", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_rows_that_do_not_fit_are_refused_whole(tables, spoil, message, there_before):
    if there_before:
        tables.replace("allocation", allocation_rows(DAYS[:3], 0.25), DAYS[0], DAYS[2])
    with pytest.raises(TableError, match=message):
        tables.replace("allocation", spoil(allocation_rows(DAYS[:3])), DAYS[0], DAYS[2])
    if there_before:
        assert weights(tables.read("allocation")) == {(day, "AAA"): 0.25 for day in DAYS[:3]}
        assert tables.version("allocation") == 1
    else:
        assert not is_stored(tables, "allocation")


@pytest.mark.parametrize("wrong", [{"weight": "heavy"}, {"symbol": 7}, {"session": "yesterday"}], ids=str)
def test_a_wrong_type_is_refused_as_a_table_error(tables, wrong):
    rows = allocation_rows([FIRST])
    for column, value in wrong.items():
        rows[column] = pd.Series([value])
    with pytest.raises(TableError, match=rf"allocation.*{next(iter(wrong))}"):
        tables.replace("allocation", rows, FIRST, FIRST)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("known_at"), r"table bars: columns missing: \['known_at'\]"),
        (lambda rows: rows.assign(close=np.nan), r"table bars: close is missing in 2 rows"),
        (lambda rows: rows.assign(symbol="AAA"), r"table bars: 1 rows repeat a key"),
    ],
)
def test_revisions_that_do_not_fit_are_refused_whole(tables, spoil, message):
    rows = bar_rows(FIRST, {"AAA": 10.0, "BBB": 20.0}, moment(0))
    with pytest.raises(TableError, match=message):
        tables.add_revisions("bars", spoil(rows))
    assert not is_stored(tables, "bars")


# -- types ----------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    st.binary(max_size=200),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.integers(-(2**63), 2**63 - 1),
)
@example(b"\x00\xff", "", 2**63 - 1)
def test_bytes_text_and_integers_come_back_as_they_went(artifact, text, count):
    row = {
        "month": pd.Timestamp("2020-01-01"),
        "fitted_to": pd.Timestamp("2019-12-31"),
        "parameters": text,
        "artifact": artifact,
        "training_rows": count,
        "metrics": "{}",
    }
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(folder)
        tables.replace("forecast_model", pd.DataFrame([row]), date(2020, 1, 1), date(2020, 1, 1))
        assert stored(tables, "forecast_model").to_pylist() == [
            row | {"month": date(2020, 1, 1), "fitted_to": date(2019, 12, 31)}
        ]
        assert tables.read("forecast_model").to_dict("records") == [row]


def test_small_integers_stay_small(tables):
    row = {"session": FIRST, "symbol": "AAA", "cycle": 80, "fld_cross": -1, "vtl_break": 0, "noise": "white"}
    row |= dict.fromkeys(("trough_provisional", "trough_confirmed", "peak_provisional", "peak_confirmed"), FIRST)
    numbers = ["period", "phase", "amplitude", "snr_db", "p_value", "fld", "fld_target", "next_trough_bars"]
    numbers += ["next_trough_lower", "next_trough_upper", "trough_spacing", "smaller_troughs", "vtl"]
    tables.replace("phasing", pd.DataFrame([row | dict.fromkeys(numbers, 0.5)]), FIRST, FIRST)
    frame = tables.read("phasing")
    assert (frame["cycle"].dtype, frame["fld_cross"].dtype) == ("int16", "int8")
    assert (frame["cycle"].item(), frame["fld_cross"].item()) == (80, -1)


@pytest.mark.parametrize("number", [True, False], ids=["missing numbers", "all numbers"])
def test_bars_come_back_with_their_moments_and_gaps(tables, number):
    known_at = datetime(2020, 1, 2, 16, 0, 0, 123456, tzinfo=ZoneInfo("America/New_York"))
    row = {"open": 1.5, "high": 2.0, "low": 1.0, "close": 1.7, "volume": 12345678901.0}
    if number:
        row |= {"open": None, "high": None, "low": None, "volume": None}
    tables.add_revisions("bars", bar_rows(FIRST, {"AAA": 1.7}, known_at).assign(**row))
    expected = {"session": FIRST, "symbol": "AAA", "source": "by hand", **row}
    found = stored(tables, "bars").to_pylist()[0]
    assert found.pop("known_at") == datetime(2020, 1, 2, 21, 0, 0, 123456, tzinfo=UTC)
    assert found == expected
    frame = tables.read("bars")
    assert frame["known_at"].item() == pd.Timestamp(known_at)
    assert str(frame["known_at"].dt.tz) == "UTC"
    assert frame["open"].isna().item() is number
    assert frame["session"].item() == pd.Timestamp("2020-01-02")


@pytest.mark.parametrize("written_as", [date(2020, 1, 2), pd.Timestamp("2020-01-02"), np.datetime64("2020-01-02")])
def test_a_date_is_a_date_whichever_way_it_comes(tables, written_as):
    rows = allocation_rows([FIRST])
    rows["session"] = pd.Series([written_as])
    tables.replace("allocation", rows, FIRST, FIRST)
    assert stored(tables, "allocation")["session"].to_pylist() == [FIRST]
    assert tables.replace("allocation", allocation_rows([FIRST]), FIRST, FIRST).changed == 0


# -- revisions ------------------------------------------------------------------------------------------------


def closes_known_at(tables: Tables, hour: int) -> dict[str, float]:
    frame = tables.read("bars", known_at=moment(hour))
    return dict(zip(frame["symbol"], frame["close"], strict=True))


def test_a_correction_is_seen_only_after_it_became_known(tables):
    tables.add_revisions("bars", bar_rows(FIRST, {"AAA": 10.0, "BBB": 5.0}, moment(1)))
    written = tables.add_revisions("bars", bar_rows(FIRST, {"AAA": 11.0, "BBB": 5.0}, moment(3)))
    assert written == Written(rows=2, changed=1, version=2)
    assert closes_known_at(tables, 0) == {}
    assert closes_known_at(tables, 1) == {"AAA": 10.0, "BBB": 5.0}
    assert closes_known_at(tables, 2) == {"AAA": 10.0, "BBB": 5.0}
    assert closes_known_at(tables, 3) == {"AAA": 11.0, "BBB": 5.0}
    assert stored(tables, "bars").num_rows == 3


def test_known_at_means_an_instant_in_any_zone(tables):
    tables.add_revisions("bars", bar_rows(FIRST, {"AAA": 10.0}, datetime(2020, 1, 2, 21, tzinfo=UTC)))
    new_york = ZoneInfo("America/New_York")
    assert len(tables.read("bars", known_at=datetime(2020, 1, 2, 15, 59, tzinfo=new_york))) == 0
    assert len(tables.read("bars", known_at=datetime(2020, 1, 2, 16, 0, tzinfo=new_york))) == 1


def test_writing_twice_leaves_one_copy(tables):
    rows = pd.concat([bar_rows(day, {"AAA": 10.0, "BBB": 20.0}, moment(1)) for day in DAYS])
    assert tables.add_revisions("bars", rows) == Written(14, 14, 1)
    assert tables.add_revisions("bars", rows.sample(frac=1, random_state=3)) == Written(14, 0, 1)
    # the same figures at a later time say nothing new
    assert tables.add_revisions("bars", rows.assign(known_at=moment(9))) == Written(14, 0, 1)
    assert stored(tables, "bars").num_rows == 14


def test_another_source_of_the_same_close_is_a_revision(tables):
    tables.add_revisions("bars", bar_rows(FIRST, {"AAA": 10.0}, moment(1), source="one"))
    assert tables.add_revisions("bars", bar_rows(FIRST, {"AAA": 10.0}, moment(2), source="two")).changed == 1
    assert tables.read("bars")["source"].tolist() == ["two"]


def test_a_correction_counts_from_when_it_was_made(tables):
    """Of rows whose `known_at` is a convention: what is new keeps it, what differs from a stored row does not."""
    tables.add_revisions("bars", bar_rows(FIRST, {"AAA": 10.0, "BBB": 5.0}, moment(1)), revised_at=moment(2))
    assert closes_known_at(tables, 1) == {"AAA": 10.0, "BBB": 5.0}
    later = bar_rows(FIRST, {"AAA": 11.0, "BBB": 5.0, "CCC": 7.0}, moment(1))
    assert tables.add_revisions("bars", later, revised_at=moment(9)).changed == 2
    assert closes_known_at(tables, 1) == closes_known_at(tables, 8) == {"AAA": 10.0, "BBB": 5.0, "CCC": 7.0}
    assert closes_known_at(tables, 9) == {"AAA": 11.0, "BBB": 5.0, "CCC": 7.0}
    assert tables.add_revisions("bars", later, revised_at=moment(12)).changed == 0
    # and back again
    first = bar_rows(FIRST, {"AAA": 10.0}, moment(1))
    assert tables.add_revisions("bars", first, revised_at=moment(15)).changed == 1
    assert [closes_known_at(tables, hour)["AAA"] for hour in (1, 9, 14, 15)] == [10.0, 11.0, 11.0, 10.0]


def test_revisions_without_rows(tables):
    nothing = tables.read("corporate_actions")
    assert tables.add_revisions("corporate_actions", nothing) == Written(0, 0, 0)
    assert tables.add_revisions("corporate_actions", nothing) == Written(0, 0, 0)
    assert len(tables.read("corporate_actions", as_of=LAST, known_at=moment(1))) == 0


REVISIONS = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from(["AAA", "BBB"]), st.sampled_from([10.0, 11.0, 12.0])),
    min_size=1,
    max_size=6,
    unique_by=lambda revision: revision[:2],
)


def _expected(revisions, hour: int) -> dict[str, float]:
    """For each symbol, the value of the greatest hour not after `hour`."""
    known = sorted(revision for revision in revisions if revision[0] <= hour)
    return {symbol: close for _, symbol, close in known}


def _write(tables: Tables, revisions) -> None:
    for hour, symbol, close in revisions:
        tables.add_revisions("bars", bar_rows(FIRST, {symbol: close}, moment(hour)))


@settings(max_examples=15, deadline=None)
@given(REVISIONS)
def test_each_moment_sees_the_newest_value_known_by_then(revisions):
    """Revisions that arrive as they become known; a later one never changes what an earlier moment sees."""
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(folder)
        for count, revision in enumerate(sorted(revisions), start=1):
            _write(tables, [revision])
            for hour, _, _ in sorted(revisions)[:count]:
                assert closes_known_at(tables, hour) == _expected(sorted(revisions)[:count], hour)
        values = {symbol: [r[2] for r in sorted(revisions) if r[1] == symbol] for symbol in ("AAA", "BBB")}
        runs = sum(len(list(itertools.groupby(series))) for series in values.values())
        assert stored(tables, "bars").num_rows == runs


@settings(max_examples=15, deadline=None)
@given(REVISIONS.map(lambda found: [(hour, symbol, 10.0 + at) for at, (hour, symbol, _) in enumerate(found)]))
def test_different_values_in_any_order_give_the_same_answers(revisions):
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(folder)
        _write(tables, revisions)
        for hour in range(0, 21, 4):
            assert closes_known_at(tables, hour) == _expected(revisions, hour)


OUT_OF_ORDER = "add_revisions compares with the newest revision of all, not with the one in force at known_at"


@pytest.mark.parametrize("order", [(2, 3, 1), (3, 1, 2), (3, 2, 1)], ids=str)
def test_a_value_that_returns_is_seen_in_any_order(tables, order):
    """10, then corrected to 11, then corrected back to 10: all orders of arrival mean the same.

    Left out is (1, 3, 2): the third says nothing new when it arrives, and a store without repeats drops it.
    """
    closes = {1: 10.0, 2: 11.0, 3: 10.0}
    _write(tables, [(hour, "AAA", closes[hour]) for hour in order])
    assert [closes_known_at(tables, hour) for hour in (1, 2, 3)] == [{"AAA": 10.0}, {"AAA": 11.0}, {"AAA": 10.0}]


def test_an_old_revision_written_again_leaves_one_copy(tables):
    _write(tables, [(1, "AAA", 10.0), (2, "AAA", 11.0), (1, "AAA", 10.0), (1, "AAA", 10.0)])
    assert stored(tables, "bars").num_rows == 2


def test_a_correction_with_the_same_known_at_is_taken_or_refused(tables):
    _write(tables, [(1, "AAA", 10.0)])
    try:
        _write(tables, [(1, "AAA", 11.0)])
    except TableError:
        return
    assert closes_known_at(tables, 1) == {"AAA": 11.0}


# -- several writers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def race():
    with racing_processes() as start:
        yield start


def test_processes_that_add_partitions_at_once_all_land(tables, race):
    tables.replace("allocation", allocation_rows([date(2019, 12, 31)]), date(2019, 12, 31), date(2019, 12, 31))
    assert race(replace_own_partition, tables.uri, DAYS, 0.5) == [""] * WORKERS
    expected = {(day, "AAA"): 0.5 for day in DAYS[:WORKERS]} | {(date(2019, 12, 31), "AAA"): 0.1}
    assert weights(tables.read("allocation")) == expected


def test_processes_that_rewrite_partitions_of_one_file_at_once_all_land(tables, race):
    tables.replace("allocation", allocation_rows(DAYS), FIRST, LAST)
    problems = []
    for attempt in range(5):
        problems += race(replace_own_partition, tables.uri, DAYS, 0.2 + attempt)
    assert problems == [""] * WORKERS * 5


def first_writes(uri: str) -> list[tuple[date, str]]:
    """Threads that all write their own day into a table that is not there yet: day and error of each."""
    start = threading.Barrier(len(DAYS))

    def write(worker: int) -> tuple[date, str]:
        start.wait(timeout=60)
        return DAYS[worker], replace_own_partition(worker, uri, DAYS, 0.5)

    with ThreadPoolExecutor(len(DAYS)) as pool:
        return list(pool.map(write, range(len(DAYS))))


FIRST_WRITE = "the first write of a table has no predicate: it removes what another wrote since it looked"


def test_a_first_write_that_reports_success_is_there(tables):
    for attempt in range(5):
        fresh = Tables(f"{tables.uri}/{attempt}")
        reported = {day for day, error in first_writes(fresh.uri) if not error}
        assert reported
        assert {day for day, _ in weights(fresh.read("allocation"))} == reported


def test_first_writes_at_once_all_land(tables):
    for attempt in range(5):
        fresh = Tables(f"{tables.uri}/{attempt}")
        assert [error for _, error in first_writes(fresh.uri) if error] == []
        assert weights(fresh.read("allocation")) == {(day, "AAA"): 0.5 for day in DAYS}


# -- a table of an earlier version ----------------------------------------------------------------------------


def order_rows(day: date, symbols: list[str], limit: float | None = None) -> pd.DataFrame:
    rows = pd.DataFrame({"symbol": symbols, "client_order_id": [f"main-{symbol}-{day}" for symbol in symbols]})
    return rows.assign(
        session=pd.Timestamp(day), side="buy", quantity=2.0, reference_price=5.0, state="filled",
        filled_quantity=2.0, average_price=5.5, commission=0.01, reason="by hand", note="", limit_price=limit,
    ).astype({"limit_price": "float64"})  # fmt: skip


@pytest.fixture
def older(tables):
    """Orders of two sessions, stored before orders had a limit."""
    schema = TABLES["orders"].arrow
    DeltaTable.create(
        str(Path(tables.uri) / "orders"), pa.schema([field for field in schema if field.name != "limit_price"])
    )
    rows = pd.concat([order_rows(day, ["AAA", "BBB"]) for day in DAYS[:2]]).drop(columns="limit_price")
    names = [field.name for field in schema if field.name != "limit_price"]
    table = pa.Table.from_pandas(rows[names], preserve_index=False)
    table = table.cast(pa.schema([field for field in schema if field.name != "limit_price"]))
    write_deltalake(str(Path(tables.uri) / "orders"), table, mode="append")
    assert "limit_price" not in {field.name for field in DeltaTable(str(Path(tables.uri) / "orders")).schema().fields}
    return tables


def test_columns_that_an_older_table_lacks_are_missing_values(older):
    frame = older.read("orders")
    assert list(frame.columns) == [column.name for column in TABLES["orders"].columns]
    assert frame["limit_price"].isna().all()
    assert frame["limit_price"].dtype == "float64"
    assert (frame["average_price"] == 5.5).all()
    assert [(row.session.date(), row.symbol) for row in frame.itertuples()] == [
        (day, symbol) for day in DAYS[:2] for symbol in ("AAA", "BBB")
    ]
    asked = older.read("orders", columns=["limit_price", "symbol"], as_of=DAYS[0])
    assert list(asked.columns) == ["limit_price", "symbol"]
    assert (asked["symbol"].tolist(), asked["limit_price"].isna().all()) == (["AAA", "BBB"], True)
    assert older.read("orders", columns=["symbol"])["symbol"].tolist() == ["AAA", "BBB"] * 2


def test_a_read_leaves_an_older_table_as_it_is(older):
    version = older.version("orders")
    older.read("orders")
    assert older.version("orders") == version
    assert "limit_price" not in stored(older, "orders").column_names


def test_an_older_table_is_written(older):
    assert older.replace("orders", order_rows(DAYS[1], ["AAA", "CCC"], 5.25), DAYS[1], DAYS[1]).rows == 2
    frame = older.read("orders")
    found = {(row.session.date(), row.symbol): row.limit_price for row in frame.itertuples()}
    assert set(found) == {(DAYS[0], "AAA"), (DAYS[0], "BBB"), (DAYS[1], "AAA"), (DAYS[1], "CCC")}
    assert {key: limit for key, limit in found.items() if not np.isnan(limit)} == {
        (DAYS[1], "AAA"): 5.25, (DAYS[1], "CCC"): 5.25,
    }  # fmt: skip
    assert len(stored(older, "orders")) == 4
    # the column is added once
    fields = DeltaTable(str(Path(older.uri) / "orders")).schema().to_json()
    older.replace("orders", order_rows(DAYS[1], ["AAA", "CCC"]), DAYS[1], DAYS[1])
    assert DeltaTable(str(Path(older.uri) / "orders")).schema().to_json() == fields
    assert older.read("orders")["limit_price"].isna().tolist() == [True] * 4


def test_a_table_that_lacks_what_may_not_be_missing_is_refused(tables):
    schema = TABLES["orders"].arrow
    DeltaTable.create(str(Path(tables.uri) / "orders"), pa.schema([f for f in schema if f.name != "quantity"]))
    for call in (
        lambda: tables.read("orders"),
        lambda: tables.replace("orders", order_rows(DAYS[0], ["AAA"]), DAYS[0], DAYS[0]),
    ):
        with pytest.raises(TableError, match="another version of the program and lacks the column quantity; move it"):
            call()
