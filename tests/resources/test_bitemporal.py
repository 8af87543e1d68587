"""Two times, that of a bar and that of its being known: orders of writing, crashes, processes, against plain rules."""

from __future__ import annotations

import itertools
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading_dagster.resources import tables as module
from trading_dagster.resources.schemas import TABLES
from trading_dagster.resources.tables import TableError, Tables, _in_order

from .revision_workers import PIECES, add_and_be_killed, add_for_ever, add_in_pieces, revision
from .rows import allocation_rows, bar_rows, stored
from .workers import WORKERS, racing_processes

DAYS = [date(2020, 1, day) for day in (2, 3, 6)]
START = datetime(2020, 1, 7, tzinfo=UTC)

Key = tuple[int, str]
Revision = tuple[int, str, int, float]
"""Position of the day, symbol, hours after `START` at which it became known, close."""


def at(hours: int) -> datetime:
    return START + timedelta(hours=hours)


def as_rows(revisions: Sequence[Revision]) -> pd.DataFrame:
    parts = [bar_rows(DAYS[day], {symbol: close}, at(hours)) for day, symbol, hours, close in revisions]
    return pd.concat(parts, ignore_index=True).astype(dict.fromkeys(["open", "high", "low", "volume"], "float64"))


def in_batches(tables: Tables, revisions: Sequence[Revision], sizes: Sequence[int]) -> None:
    """Write revisions in order, some at once, as long as these are of different bars."""
    batch: list[Revision] = []
    limits = itertools.cycle(sizes)
    limit = next(limits)
    for one in revisions:
        if len(batch) == limit or one[:2] in [other[:2] for other in batch]:
            tables.add_revisions("bars", as_rows(batch))
            batch, limit = [], next(limits)
        batch.append(one)
    if batch:
        tables.add_revisions("bars", as_rows(batch))


def expected(revisions: Sequence[Revision], as_of: date | None, hours: int | None) -> dict[Key, float]:
    """Close of each bar by the newest revision that may be seen, one by one."""
    newest: dict[Key, tuple[int, float]] = {}
    for day, symbol, known, close in revisions:
        if (as_of is None or DAYS[day] <= as_of) and (hours is None or known <= hours):
            newest[day, symbol] = max(newest.get((day, symbol), (-1, 0.0)), (known, close))
    return {key: close for key, (_, close) in sorted(newest.items())}


def answer(tables: Tables, as_of: date | None, hours: int | None) -> dict[Key, float]:
    frame = tables.read("bars", as_of=as_of, known_at=None if hours is None else at(hours))
    return {(DAYS.index(row.session.date()), row.symbol): row.close for row in frame.itertuples()}


QUESTIONS = [(DAYS[0], 2), (DAYS[1], None), *((None, hours) for hours in (-1, 0, 1, 3, 5, None))]

a_revision = st.tuples(st.integers(0, 2), st.sampled_from("AB"), st.integers(0, 8), st.sampled_from([1.0, 2.0, 3.0]))
some_revisions = st.lists(a_revision, min_size=1, max_size=8, unique_by=lambda revision: revision[:3])


# -- orders of writing ----------------------------------------------------------------------------------------------


@given(
    revisions=st.lists(a_revision, min_size=2, max_size=8, unique_by=lambda revision: revision[:3]),
    order=st.randoms(use_true_random=False),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_any_order_of_writing_gives_the_same_answers(revisions, order, sizes) -> None:
    # each revision says something that no other of the bar says
    distinct = [(day, symbol, hours, 10.0 * hours + close) for day, symbol, hours, close in revisions]
    order.shuffle(distinct)
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(folder)
        in_batches(tables, distinct, sizes)
        for as_of, hours in QUESTIONS:
            assert answer(tables, as_of, hours) == expected(distinct, as_of, hours)
        assert stored(tables, "bars").num_rows == len(distinct)


@given(revisions=some_revisions, sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_values_that_come_back_are_kept_when_written_as_they_became_known(revisions, sizes) -> None:
    in_time = sorted(revisions, key=lambda revision: revision[2])
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(folder)
        in_batches(tables, in_time, sizes)
        for as_of, hours in QUESTIONS:
            assert answer(tables, as_of, hours) == expected(in_time, as_of, hours)
        # what only repeats the revision before it is not stored
        said = 0
        for _, of_bar in itertools.groupby(sorted(in_time), key=lambda revision: revision[:2]):
            said += sum(1 for _ in itertools.groupby(of_bar, key=lambda revision: revision[3]))
        assert stored(tables, "bars").num_rows == said


@given(revisions=some_revisions, late=a_revision)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_a_late_revision_changes_nothing_that_was_known_before(revisions, late) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(folder)
        in_batches(tables, sorted(revisions, key=lambda revision: revision[2]), [3])
        earlier = range(-1, late[2], 2)
        before = {(as_of, hours): answer(tables, as_of, hours) for as_of in (DAYS[late[0]], None) for hours in earlier}
        try:
            in_batches(tables, [late], [1])
        except TableError:
            assert any(one[:3] == late[:3] and one[3] != late[3] for one in revisions)
        for question, was in before.items():
            assert answer(tables, *question) == was


def test_every_revision_comes_oldest_first(tables) -> None:
    revisions = [
        (0, "B", 2, 2.0),
        (0, "A", 5, 3.0),
        (1, "A", 1, 4.0),
        (0, "A", 0, 1.0),
        (0, "A", 2, 2.0),
        (2, "A", 1, 9.0),
    ]
    in_batches(tables, revisions, [1])

    def told(**bounds: object) -> list[tuple[int, str, float]]:
        frame = tables.read("bars", every_revision=True, **bounds)
        return [(DAYS.index(row.session.date()), row.symbol, row.close) for row in frame.itertuples()]

    everything = [(0, "A", 1.0), (0, "A", 2.0), (0, "A", 3.0), (0, "B", 2.0), (1, "A", 4.0), (2, "A", 9.0)]
    assert told() == everything
    assert told(known_at=at(2)) == [row for row in everything if row != (0, "A", 3.0)]
    assert told(known_at=at(2), as_of=DAYS[0]) == [(0, "A", 1.0), (0, "A", 2.0), (0, "B", 2.0)]
    assert told(first=DAYS[1]) == [(1, "A", 4.0), (2, "A", 9.0)]
    frame = tables.read("bars", every_revision=True)
    assert frame["known_at"].tolist() == [at(h) for h in (0, 2, 5, 2, 1, 1)]
    assert list(tables.read("bars", every_revision=True, columns=["close"]).columns) == ["close"]


def test_correction_counts_from_when_it_was_made_and_a_new_row_from_its_own_time(tables) -> None:
    tables.add_revisions("bars", as_rows([(0, "A", 0, 1.0), (0, "B", 0, 1.0)]))
    again = as_rows([(0, "A", 0, 2.0), (0, "B", 0, 1.0), (1, "A", 3, 3.0)])
    assert tables.add_revisions("bars", again, revised_at=at(7)).changed == 2
    raw = stored(tables, "bars").to_pandas().sort_values(["session", "symbol", "known_at"])
    assert [(row.session.day, row.symbol, row.known_at, row.close) for row in raw.itertuples()] == [
        (2, "A", at(0), 1.0),
        (2, "A", at(7), 2.0),
        (2, "B", at(0), 1.0),
        (3, "A", at(3), 3.0),
    ]


# -- crashes --------------------------------------------------------------------------------------------------------

MANY = [(day, symbol, 0, 10.0 * day + number) for day in range(3) for number, symbol in enumerate("ABCD")]


def one_copy_of(tables: Tables, revisions: Sequence[Revision]) -> None:
    raw = stored(tables, "bars").select(["session", "symbol", "known_at", "close"]).to_pylist()
    found = [(DAYS.index(row["session"]), row["symbol"], row["known_at"], row["close"]) for row in raw]
    assert sorted(found) == sorted((day, symbol, at(hours), close) for day, symbol, hours, close in revisions)


def test_half_of_the_rows_and_then_all_of_them(tables) -> None:
    tables.add_revisions("bars", as_rows(MANY[:6]))
    assert tables.add_revisions("bars", as_rows(MANY)).changed == 6
    assert tables.add_revisions("bars", as_rows(MANY)).changed == 0
    one_copy_of(tables, MANY)


def test_error_while_writing_and_once_more(tables, monkeypatch) -> None:
    tables.add_revisions("bars", as_rows(MANY[:3]))

    def fails(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_deltalake", fails)
        with pytest.raises(OSError, match="no space"):
            tables.add_revisions("bars", as_rows(MANY))
    one_copy_of(tables, MANY[:3])
    assert tables.add_revisions("bars", as_rows(MANY)).changed == 9
    one_copy_of(tables, MANY)


def test_file_that_was_written_but_never_committed_is_not_read(tables) -> None:
    tables.add_revisions("bars", as_rows(MANY[:6]))
    folder = Path(tables.uri) / "bars"
    file = next(folder.glob("*.parquet"))
    shutil.copy(file, folder / "part-00001-0f0f0f0f-c000.snappy.parquet")
    one_copy_of(tables, MANY[:6])
    tables.add_revisions("bars", as_rows(MANY))
    one_copy_of(tables, MANY)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_the_commit_and_once_more(tables, when) -> None:
    tables.add_revisions("bars", as_rows(MANY[:3]))
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=add_and_be_killed, args=(tables.uri, as_rows(MANY), when))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    one_copy_of(tables, MANY[:3] if when == "before" else MANY)
    tables.add_revisions("bars", as_rows(MANY))
    one_copy_of(tables, MANY)


@pytest.mark.e2e
def test_killed_at_any_moment_and_once_more(tables) -> None:
    # one commit after the other until killed: most of the time the process is inside of one
    revisions = [(number % 3, f"S{number}", 0, float(number)) for number in range(400)]
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=add_for_ever, args=(tables.uri, as_rows(revisions)))
    process.start()
    limit = time.monotonic() + 60
    while len(tables.read("bars")) < 5:
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.kill()
    process.join(60)
    assert process.exitcode == -9
    there = stored(tables, "bars").num_rows
    assert 5 <= there < 400
    assert tables.add_revisions("bars", as_rows(revisions)).changed == 400 - there
    one_copy_of(tables, revisions)


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def race():
    with racing_processes() as race:
        yield race


@pytest.mark.e2e
def test_processes_that_add_different_rows_lose_none(tables, race) -> None:
    assert race(add_in_pieces, tables.uri, False) == [""] * WORKERS
    found = stored(tables, "bars").to_pandas()
    assert not found.duplicated(["session", "symbol", "known_at"]).any()
    assert len(found) == PIECES * WORKERS
    for worker in range(WORKERS):
        closes = found.loc[found["symbol"] == f"OWN{worker}", "close"]
        assert sorted(closes) == [100.0 + number for number in range(PIECES)]


@pytest.mark.e2e
def test_processes_that_add_the_same_rows_double_none(tables, race) -> None:
    assert race(add_in_pieces, tables.uri, True) == [""] * WORKERS
    found = stored(tables, "bars").to_pandas()
    assert sorted(found["close"]) == [100.0 + number for number in range(PIECES)]
    newest = tables.read("bars")["close"].tolist()
    assert newest == [100.0 + max(number for number in range(PIECES) if number % 5 == day) for day in range(5)]
    assert revision("SHARED", 8)["close"].tolist() == [108.0]


# -- order and newest partition -------------------------------------------------------------------------------------


@given(
    days=st.lists(st.sets(st.integers(0, 27), min_size=1, max_size=4), min_size=1, max_size=3),
    emptied=st.integers(0, 28),
)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_last_partition_is_the_maximum(days, emptied) -> None:
    def day(number: int) -> date:
        return date(2020, 1, 1 + number)

    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(folder)
        assert tables.last_partition("allocation") is None
        assert tables.last_partition("bars") is None
        for those in days:
            rows = allocation_rows([day(number) for number in sorted(those)])
            tables.replace("allocation", rows, day(min(those)), day(max(those)))
            tables.add_revisions("bars", as_rows([(0, "A", 0, 1.0)]).assign(session=pd.Timestamp(day(min(those)))))
        assert tables.last_partition("bars") == tables.read("bars")["session"].max()
        # the newest ones go again
        tables.replace("allocation", allocation_rows([]), day(emptied), date(2020, 1, 31))
        newest = tables.read("allocation")["session"].max()
        assert tables.last_partition("allocation") == (None if pd.isna(newest) else newest)


KEYS = {"bars": ["session", "symbol"], "corporate_actions": ["session", "symbol", "ex_date", "kind"]}


@given(data=st.data(), name=st.sampled_from(["bars", "corporate_actions", "allocation"]), newest=st.booleans())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_order_is_that_of_plain_sorting(data, name, newest) -> None:
    schema = TABLES[name]
    stamps = st.sampled_from([pd.Timestamp(day) for day in DAYS])
    texts = st.sampled_from(["A", "AB", "B", "a", "Ä"])
    key = st.tuples(*(stamps if column in ("session", "ex_date") else texts for column in schema.key))
    if schema.revisions:
        rows = data.draw(st.lists(st.tuples(key, st.integers(0, 5)), max_size=12, unique=True))
    else:
        rows = [(one, 0) for one in data.draw(st.lists(key, max_size=12, unique=True))]
    if data.draw(st.booleans()):
        rows = sorted(rows)
    frame = pd.DataFrame([one for one, _ in rows], columns=list(schema.key))
    frame = frame.astype({c: "datetime64[us]" if c in ("session", "ex_date") else "str" for c in schema.key})
    frame = frame.assign(known_at=pd.DatetimeIndex([at(hours) for _, hours in rows], dtype="datetime64[us, UTC]"))
    frame = frame.assign(value=np.arange(len(frame), dtype="float64"))
    newest = newest and schema.revisions
    plain = frame.sort_values([*schema.key, "known_at"], ignore_index=True)
    if newest:
        plain = plain.drop_duplicates(list(schema.key), keep="last", ignore_index=True)
    result = _in_order(
        frame.sample(frac=1.0, random_state=1) if data.draw(st.booleans()) else frame, schema, newest=newest
    )
    pd.testing.assert_frame_equal(result.reset_index(drop=True), plain, check_exact=True)
