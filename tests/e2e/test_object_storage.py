"""The pipeline with its tables in object storage: nothing of them on disk, and what is wrong told in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import command
from tests.object_storage import KEYS, ObjectStorage, serving

SESSION = "2022-12-28"


@pytest.fixture
def tables(object_storage: ObjectStorage) -> dict[str, str]:
    """Variables that place the tables in a bucket of their own."""
    return {**object_storage.variables, "TRADING_TABLES_URI": f"{object_storage.bucket()}/tables"}


@pytest.fixture(scope="module")
def unknown_keys() -> Iterator[dict[str, str]]:
    with serving(INITIAL_NO_AUTH_ACTION_COUNT="1") as server:
        yield {**server.variables, "TRADING_TABLES_URI": server.bucket()}


def test_a_session_with_all_its_tables_in_a_bucket(tmp_path: Path, tables: dict[str, str]) -> None:
    first = command("trading", "run", "--session", SESSION, data=tmp_path, **tables)
    assert first.returncode == 0, first.stdout + first.stderr
    again = command("trading", "run", "--session", SESSION, data=tmp_path, **tables)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 new orders sent, 0 table rows changed; everything was there already" in again.stdout

    summary = command("trading", "summary", "--session", SESSION, data=tmp_path, **tables)
    assert summary.returncode == 0, summary.stderr
    assert "market regime" in summary.stdout
    listed = command("trading", "quarantine", "list", data=tmp_path, **tables)
    assert listed.returncode == 0, listed.stderr
    assert "bars in quarantine" in listed.stdout

    assert not (tmp_path / "tables").exists()
    files = (path for path in tmp_path.rglob("*") if path.is_file())
    left = [result.stdout.encode() + result.stderr.encode() for result in (first, again, summary, listed)]
    secret = KEYS["AWS_SECRET_ACCESS_KEY"].encode()
    assert not any(secret in text for text in (*left, *(path.read_bytes() for path in files)))


@pytest.mark.parametrize(
    "words",
    [("run", "--session", SESSION), ("quarantine", "list"), ("quarantine", "release", "KO", SESSION)],
    ids=["run", "list", "release"],
)
def test_keys_that_are_not_known_are_told_in_a_sentence(
    tmp_path: Path, unknown_keys: dict[str, str], words: tuple[str, ...]
) -> None:
    signed = ("--operator", "ann", "--reason", "true") if "release" in words else ()
    result = command("trading", *words, *signed, data=tmp_path, **unknown_keys)
    assert_told(result.stdout + result.stderr, "the key is not known there; correct AWS_ACCESS_KEY_ID", unknown_keys)
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"TRADING_TABLES_URI": "s3://no-such-bucket/t"}, "there is no such bucket; make it, or correct TRADING_"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "nothing answers there; start it, or correct AWS_ENDPOINT_URL"),
    ],
    ids=["bucket", "server"],
)
def test_a_place_that_is_not_there_is_told_in_a_sentence(
    tmp_path: Path, tables: dict[str, str], wrong: dict[str, str], told: str
) -> None:
    result = command("trading", "run", "--session", SESSION, data=tmp_path, **{**tables, **wrong})
    assert_told(result.stdout + result.stderr, told, {**tables, **wrong})
    assert result.returncode == 1


def test_a_step_says_it_too(tmp_path: Path, tables: dict[str, str]) -> None:
    (tmp_path / "dagster").mkdir()
    result = command(
        "dagster", "asset", "materialize", "-m", "trading_dagster.definitions", "--select", "bars",
        "--partition", SESSION, data=tmp_path, **{**tables, "TRADING_TABLES_URI": "s3://gone/tables"},
    )  # fmt: skip
    assert result.returncode != 0
    assert "the tables at s3://gone/tables: there is no such bucket" in result.stdout + result.stderr


def assert_told(said: str, told: str, variables: dict[str, str]) -> None:
    plain = " ".join(said.split())
    assert f"the tables at {variables['TRADING_TABLES_URI']}: {told}" in plain
    assert "Traceback" not in plain
    assert not any(secret in plain for secret in KEYS.values())
