"""The checksum of rows: blind to order and files, and to nothing else."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading_dagster.resources.table_content import checksum

SCHEMA = pa.schema(
    [
        ("day", pa.date32()), ("name", pa.string()), ("number", pa.float64()), ("count", pa.int16()),
        ("at", pa.timestamp("us", "UTC")), ("blob", pa.binary()), ("flag", pa.bool_()),
    ]
)  # fmt: skip
ROW = st.tuples(
    st.none() | st.dates(date(1900, 1, 1), date(2100, 1, 1)),
    st.none() | st.text(max_size=3),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.integers(-(2**15), 2**15 - 1),
    st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
    st.none() | st.binary(max_size=3),
    st.none() | st.booleans(),
)
PLAIN = (date(2020, 1, 2), "a", 1.5, 2, datetime(2020, 1, 2, tzinfo=UTC), b"b", True)


def batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


@given(st.lists(ROW, max_size=12), st.randoms(use_true_random=False), st.integers(0, 12))
def test_order_and_files_do_not_matter(rows: list[tuple[Any, ...]], random: Any, cut: int) -> None:
    mixed = random.sample(rows, len(rows))
    assert checksum([batch(rows)]) == checksum([batch(mixed[:cut]), batch(mixed[cut:])])
    assert checksum([batch(rows)])[0] == len(rows)


@given(st.lists(ROW, max_size=6), st.lists(ROW, max_size=6))
def test_other_rows_have_another_checksum(some: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> None:
    same = sorted(map(_key, some)) == sorted(map(_key, others))
    assert (checksum([batch(some)]) == checksum([batch(others)])) == same


@pytest.mark.parametrize("column", range(len(SCHEMA)))
@pytest.mark.parametrize("change", ["missing", "other"])
def test_one_value_is_seen(column: int, change: str) -> None:
    others = (date(2020, 1, 3), "", 1.5000000000000002, 3, datetime(2020, 1, 2, 0, 0, 0, 1, UTC), b"", False)
    values = list(PLAIN)
    values[column] = None if change == "missing" else others[column]
    assert checksum([batch([PLAIN, tuple(values)])]) != checksum([batch([PLAIN, PLAIN])])


def test_a_row_there_twice_is_seen() -> None:
    assert checksum([batch([PLAIN] * 3)])[1] != checksum([batch([PLAIN])])[1]


def test_the_order_of_columns_does_not_matter_and_their_names_do() -> None:
    one, two = pa.array([1, 2]), pa.array([3, 4])
    plain = checksum([pa.RecordBatch.from_arrays([one, two], names=["a", "b"])])
    assert checksum([pa.RecordBatch.from_arrays([two, one], names=["b", "a"])]) == plain
    assert checksum([pa.RecordBatch.from_arrays([two, one], names=["a", "b"])]) != plain


def test_no_number_is_no_number_whichever_way_it_is_written() -> None:
    import numpy as np

    odd = np.array([0x7FF8000000000001], dtype="uint64").view("float64")
    batches = [pa.RecordBatch.from_arrays([pa.array(values)], names=["a"]) for values in (odd, np.array([np.nan]))]
    assert checksum(batches[:1]) == checksum(batches[1:])
    missing = pa.RecordBatch.from_arrays([pa.array([None], pa.float64())], names=["a"])
    assert checksum([missing]) != checksum(batches[1:])


def test_a_stored_checksum_stays_readable() -> None:
    """Backups hold it: another way to compute it needs another format of the manifest."""
    assert checksum([batch([PLAIN])]) == (1, STORED)


STORED = "4efb95373c29d9cbbbe8d8b8f2ffad41"


def _key(row: tuple[Any, ...]) -> str:
    # the two zeros are one number
    return repr(tuple(value + 0.0 if isinstance(value, float) else value for value in row))
