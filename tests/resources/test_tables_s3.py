"""Tables in object storage: what holds in a folder holds there, and what is wrong there is told in a sentence."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime

import pandas as pd
import pytest

from tests.object_storage import KEYS, ObjectStorage, serving
from trading_dagster.resources.storage_errors import TablesUnavailableError, explained, shown_address
from trading_dagster.resources.tables import TableError, Tables

from .revision_workers import PIECES, add_in_pieces, revision
from .rows import allocation_rows, bar_rows
from .workers import WORKERS, racing_processes, replace_own_partition

DAYS = [date(2020, 1, day) for day in (2, 3, 6, 7, 8, 9)]
LATER = datetime(2020, 1, 10, tzinfo=UTC)


@pytest.fixture
def bucket(object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in object_storage.variables.items():
        monkeypatch.setenv(name, value)
    return object_storage.bucket()


@pytest.fixture
def tables(bucket: str) -> Tables:
    return Tables(f"{bucket}/below/it/")


def test_a_table_that_is_not_there_reads_as_empty(tables: Tables) -> None:
    assert tables.read("allocation").empty
    assert tables.last_partition("allocation") is None
    with pytest.raises(TableError, match=r"does not exist under s3://trading-\d+/below/it; nothing"):
        tables.version("allocation")


def test_partitions_are_replaced_and_the_same_rows_written_once(tables: Tables) -> None:
    assert tables.replace("allocation", allocation_rows(DAYS), DAYS[0], DAYS[-1]).changed == len(DAYS)
    again = tables.replace("allocation", allocation_rows(DAYS), DAYS[0], DAYS[-1])
    assert again.changed == 0
    assert tables.replace("allocation", allocation_rows([DAYS[1]], 0.5), DAYS[1], DAYS[1]).version == again.version + 1
    assert tables.read("allocation")["weight"].tolist() == [0.1, 0.5, 0.1, 0.1, 0.1, 0.1]
    assert len(tables.read("allocation", first=DAYS[1], as_of=DAYS[2])) == 2
    assert tables.last_partition("allocation") == pd.Timestamp(DAYS[-1])


def test_revisions_stay_beside_each_other(tables: Tables) -> None:
    tables.add_revisions("bars", bar_rows(DAYS[0], {"KO": 10.0}, LATER))
    tables.add_revisions("bars", bar_rows(DAYS[0], {"KO": 11.0}, LATER.replace(hour=1)))
    assert tables.add_revisions("bars", bar_rows(DAYS[0], {"KO": 11.0}, LATER.replace(hour=1))).changed == 0
    assert tables.read("bars")["close"].tolist() == [11.0]
    assert tables.read("bars", known_at=LATER)["close"].tolist() == [10.0]
    assert tables.read("bars", every_revision=True)["close"].tolist() == [10.0, 11.0]


@pytest.mark.e2e
def test_racing_processes_lose_nothing(bucket: str) -> None:
    # without anything that locks: each commit is a file that must not be there yet, which the storage sees to
    with racing_processes() as race:
        for turn in range(3):
            assert race(replace_own_partition, bucket, DAYS[:WORKERS], 0.1 * (turn + 1)) == [""] * WORKERS
            weights = Tables(bucket).read("allocation").set_index("session")["weight"]
            assert weights.to_dict() == {pd.Timestamp(day): 0.1 * (turn + 1) for day in DAYS[:WORKERS]}
        assert race(add_in_pieces, bucket, True) == [""] * WORKERS
    found = Tables(bucket).read("bars", every_revision=True)
    expected = pd.concat([revision("SHARED", number) for number in range(PIECES)])
    assert sorted(found["close"]) == sorted(expected["close"])


# -- what is wrong ------------------------------------------------------------------------------------------------


def message(uri: str) -> str:
    """What reading says, which is what writing and looking for the newest partition say too."""
    tables, told = Tables(uri), []
    for attempt in (
        lambda: tables.read("allocation"),
        lambda: tables.last_partition("allocation"),
        lambda: tables.replace("allocation", allocation_rows(DAYS[:1]), DAYS[0], DAYS[0]),
        lambda: tables.add_revisions("bars", bar_rows(DAYS[0], {"KO": 10.0}, LATER)),
    ):
        with pytest.raises(TablesUnavailableError) as caught:
            attempt()
        told.append(str(caught.value))
    assert len(set(told)) == 1
    assert "\x1b" not in told[0]
    assert not any(secret in told[0] for secret in KEYS.values())
    return told[0]


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    assert message("s3://no-such-bucket/tables") == (
        "the tables at s3://no-such-bucket/tables: there is no such bucket; make it, or correct TRADING_TABLES_URI"
    )


def test_plain_http_must_be_allowed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert "its endpoint is plain http; set AWS_ALLOW_HTTP=true" in message(bucket)


def test_a_server_that_is_away(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TablesUnavailableError, match="nothing answers there; start it, or correct AWS_ENDPOINT_URL"):
        Tables(bucket).read("allocation")


def test_keys_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    # the bucket is made before the server begins to ask for keys
    with serving(INITIAL_NO_AUTH_ACTION_COUNT="1") as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        assert "the key is not known there; correct AWS_ACCESS_KEY_ID" in message(server.bucket())


def test_an_error_of_another_kind_is_told_without_its_requests() -> None:
    error = OSError("Generic S3 error\n  \x1b[31m↳\x1b[0m GET https://host/b?signature=abc\n  \x1b[31m↳\x1b[0m 500 Odd")
    assert str(explained("s3://b/t", error)) == "the tables at s3://b/t cannot be reached: Generic S3 error; 500 Odd"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/tables", "s3://bucket/tables"),
        ("az://key:secret@container/tables?sig=secret", "az://container/tables"),
        ("/folder/tables", "/folder/tables"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(uri: str, shown: str) -> None:
    assert shown_address(uri) == shown


def test_every_cause_has_a_remedy_of_its_own() -> None:
    from trading_dagster.resources.storage_errors import REMEDIES

    for (first, *_), (second, *_) in itertools.combinations(REMEDIES, 2):
        assert first not in second, f"{second} would never be reached"
