"""What a table holds, as one number: equal for equal rows, however they lie in files and in whichever order.

Belongs here: the checksum of rows. It finds what was lost or changed by mistake; against changes made on purpose there
are the SHA-256 of the files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trading_dagster.resources.object_store import open_table

MISSING = np.uint64(0x9E3779B97F4A7C15)
"""Stands for a value that is missing."""


@dataclass(frozen=True)
class Content:
    """Rows of a table at one version.

    Attributes
    ----------
    version : int
        Delta version.
    rows : int
    checksum : str
        32 hexadecimal digits; see `checksum`.
    """

    version: int
    rows: int
    checksum: str


def content(uri: str, version: int | None = None) -> Content:
    """Read a table, the newest version of it where none is named."""
    delta = open_table(uri, version)
    rows, digits = checksum(delta.to_pyarrow_dataset().to_batches())
    return Content(int(delta.version()), rows, digits)


def checksum(batches: Any) -> tuple[int, str]:
    """Count rows, and sum up a 64-bit hash of each, once as it is and once mixed further, modulo 2^64.

    A sum does not depend on the order, and unlike an exclusive or it sees a row that is there twice.
    """
    rows, plain, mixed = 0, 0, 0
    for batch in batches:
        hashes = row_hashes(batch)
        rows += len(hashes)
        plain += int(hashes.sum(dtype="uint64"))
        mixed += int(_mix(hashes).sum(dtype="uint64"))
    return rows, f"{plain % 2**64:016x}{mixed % 2**64:016x}"


def row_hashes(batch: pa.RecordBatch) -> np.ndarray:
    """One hash a row, of the names and values of its columns, whatever the columns' order."""
    total = np.zeros(batch.num_rows, dtype="uint64")
    for name in sorted(batch.schema.names):
        seed = np.uint64(_number(name.encode()))
        total = _mix(total ^ _mix(_values(batch.column(name)) + seed))
    return total


def _values(column: pa.Array) -> np.ndarray:
    """A number for each value."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = column.cast(pa.timestamp("us", tz=getattr(kind, "tz", None))).view(pa.int64())
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_floating(kind):
        # one bit pattern for each number: there are two zeros, and many values that are no number
        column = pc.if_else(pc.equal(column, 0.0), 0.0, column.cast(pa.float64()))
        column = pc.if_else(pc.is_nan(column), float("nan"), column)
        column = column.view(pa.int64())
    else:
        return _texts(column)
    values = np.asarray(column.fill_null(0)).view("uint64")
    return np.where(np.asarray(column.is_null()), MISSING, values)


def _texts(column: pa.Array) -> np.ndarray:
    """Hashes of texts or bytes; each of them is looked at once, since most are there many times."""
    coded = column.dictionary_encode()
    hashes = [
        _number(value if isinstance(value, bytes) else str(value).encode()) for value in coded.dictionary.to_pylist()
    ]
    table = np.array([*hashes, int(MISSING)], dtype="uint64")
    return table[np.asarray(coded.indices.fill_null(len(hashes)))]


def _number(value: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little")


def _mix(values: np.ndarray) -> np.ndarray:
    """Spread each bit over all 64: the finaliser of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
