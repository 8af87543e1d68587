"""Keys and passwords appear nowhere: in no file, no row, no event, no output, whatever goes wrong.

Belongs here: one installation whose keys and password are like no other text, put through what fails, and searched.
Does not belong here: which settings are refused (`test_settings`, `tests/test_endpoints`).
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine, inspect, text

from tests.e2e.conftest import command
from tests.e2e.papers import LAST, Office, PaperHouse, paper_house
from tests.postgres import PASSWORD, PostgresServer
from tests.servers import faults
from tests.servers.loopback import Reply, json_reply
from trading_dagster.execution.desks import build_desk
from trading_dagster.settings import Settings, SettingsError, load_settings

KEY, SECRET = "PKLEAKAGE7TEST5KEY1", "sEcReT/leak+test=9wQx7Zr2Yt5Uv"
SECRETS = (KEY, SECRET, PASSWORD)
MODULE = {"DAGSTER_MODULE_NAME": "trading_dagster.definitions"}
SIGNED = ("--operator", "ann", "--reason", "a test")


# -- the search -------------------------------------------------------------------------------------------------------


def forms(secret: str) -> set[bytes]:
    """What a secret may look like: plain, quoted in a URL or in JSON, in wide characters, in base64 at any offset."""
    plain = secret.encode()
    found = {plain, quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), plain.hex().encode()}
    found |= {secret.encode("utf-16-le"), secret.encode("utf-16-be"), secret.replace("/", "\\/").encode()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            # the characters that depend on what is before or after it are cut off
            found.add(encode(b"\0" * offset + plain)[(offset * 8 + 5) // 6 : -4])
    return found


FORMS = {secret: forms(secret) for secret in SECRETS}


def leaks(content: bytes | str, where: str) -> list[str]:
    """Secrets in a content."""
    plain = content.encode() if isinstance(content, str) else content
    return [f"{secret[:4]}... in {where}" for secret, all_forms in FORMS.items() if any(f in plain for f in all_forms)]


def leaks_of_file(path: Path) -> list[str]:
    """Secrets in a file: in its bytes, and in what is stored in it."""
    content = path.read_bytes()
    found = leaks(content, str(path)) + leaks(path.name, f"the name of {path}")
    if content.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(path)) as database:
            found += leaks("\n".join(database.iterdump()), f"rows of {path}")
    if content.startswith(b"PAR1"):
        found += leaks(pq.read_table(path).to_pandas().to_csv(), f"rows of {path}")
    if content.startswith(b"\x1f\x8b"):
        found += leaks(gzip.decompress(content), f"{path}, unpacked")
    return found


def leaks_of_folder(folder: Path) -> list[str]:
    """Secrets in any file below a folder."""
    return [leak for path in sorted(folder.rglob("*")) if path.is_file() for leak in leaks_of_file(path)]


def leaks_of_database(url: str) -> tuple[int, list[str]]:
    """Rows of a database, and secrets in them."""
    engine = create_engine(url)
    rows, found = 0, []
    with engine.connect() as connection:
        for table in inspect(engine).get_table_names():
            for row in connection.execute(text(f'SELECT * FROM "{table}"')):
                rows += 1
                found += leaks(repr(tuple(row)), f"table {table}")
    engine.dispose()
    return rows, found


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "hide",
    [
        pytest.param(lambda secret: b"before\0" + secret.encode(), id="plain"),
        pytest.param(lambda secret: quote(secret, safe="").encode(), id="quoted"),
        pytest.param(lambda secret: base64.b64encode(b"x" + secret.encode() + b"yz"), id="base64"),
        pytest.param(lambda secret: base64.b64encode(f"user:{secret}".encode()), id="basic"),
        pytest.param(lambda secret: gzip.compress(secret.encode() * 3), id="gzip"),
    ],
)
def test_the_search_finds_a_secret_in_a_file(tmp_path: Path, secret: str, hide) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(hide(secret))
    assert leaks_of_folder(tmp_path)


@pytest.mark.parametrize("secret", SECRETS)
def test_the_search_finds_a_secret_in_databases_and_tables(tmp_path: Path, secret: str) -> None:
    pq.write_table(pa.table({"a": [f"x{secret}y"] * 1000}), tmp_path / "a.parquet", compression="zstd")
    assert leaks_of_folder(tmp_path)
    (tmp_path / "a.parquet").unlink()
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("CREATE TABLE a (b TEXT)")
        database.execute("INSERT INTO a VALUES (?)", ["x" * 4080 + secret])  # over the edge of a page
        database.commit()
    assert leaks_of_folder(tmp_path)
    assert leaks_of_database(f"sqlite:///{tmp_path / 'a.db'}")[1]


# -- an installation that goes through a lot --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres_ledger() -> Iterator[str]:
    with PostgresServer() as server, server.database() as url:
        yield url


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, postgres_ledger: str) -> Iterator[PaperHouse]:
    """Servers that repeat in their refusals what they were sent, as careless ones do."""
    with paper_house(
        tmp_path_factory.mktemp("secrets") / "data", key=KEY, secret=SECRET,
        TRADING_LEDGER_URL=postgres_ledger, TRADING_DRY_RUN="false", TRADING_BROKER_SECONDS="0.5",
        TRADING_BROKER_ERRORS="50",
    ) as house:  # fmt: skip
        for server in (house.broker, house.vendor):
            server.failure = _careless
        yield house


def _careless(status: int) -> Reply:
    return json_reply({"message": f"{status}: your key {KEY} with the secret {SECRET} is not welcome"}, status)


@pytest.fixture(scope="module")
def outputs(house: PaperHouse) -> dict[str, str]:
    """What commands printed: a run that fails at the vendor, one that fails at the broker, and what looks at them."""
    found: dict[str, str] = {}

    def give(name: str, *words: str, code: int, **extra: str) -> None:
        done = command(*words, data=house.data, **{**house.variables, **MODULE, **extra})
        found[name] = done.stdout + done.stderr
        assert done.returncode == code, found[name]

    run = ("trading", "run", "--session", LAST)
    house.vendor.faults.add(faults.forbidden(), always=True)
    give("vendor 403", *run, code=1)
    house.vendor.faults.clear()
    house.broker.faults.add(faults.server_error(), method="POST", always=True)
    give("orders 500", *run, code=1)
    assert "is not welcome" in found["orders 500"]
    house.broker.faults.clear()
    give("explain", "trading", "explain", house.rows("SELECT * FROM orders")[0]["client_order_id"], "--json", code=0)
    house.broker.faults.add(faults.forbidden(), always=True)
    give("job", "dagster", "job", "execute", "-j", "reconcile", code=1)
    house.broker.faults.clear()
    give("status job", "dagster", "job", "execute", "-j", "status", code=0)
    return found


def test_nothing_is_printed(house: PaperHouse, outputs: dict[str, str]) -> None:
    for name, output in outputs.items():
        assert output
        assert leaks(output, name) == []
    # the servers did repeat them, and were understood
    assert "***" in outputs["orders 500"]


def test_nothing_is_stored_in_files(house: PaperHouse, outputs: dict[str, str]) -> None:
    kinds = {path.suffix for path in house.data.rglob("*") if path.is_file()}
    assert {".parquet", ".db", ".err", ".json"} <= kinds  # tables, events, compute logs, the tables' own logs
    assert leaks_of_folder(house.data) == []


def test_nothing_is_stored_in_the_ledger(house: PaperHouse, outputs: dict[str, str]) -> None:
    rows, found = leaks_of_database(house.ledger_url)
    assert rows > 30
    assert house.rows("SELECT * FROM order_events WHERE note LIKE '%not welcome%'")
    assert found == []


@pytest.fixture
def office(house: PaperHouse, outputs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    """The same installation, for commands in this process."""
    for name in [each for each in os.environ if each.startswith(("TRADING_", "ALPACA_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    for name, value in {**house.variables, "TRADING_DATA_DIR": str(house.data)}.items():
        monkeypatch.setenv(name, value)
    yield Office(house.data, house.broker, monkeypatch.setenv)
    house.broker.faults.clear()
    house.broker.wrong_key_status = 403


FAULTS = {
    "401": faults.Fault("status", 401),
    "403": faults.forbidden(),
    "429": faults.rate_limited(0.01),
    "500": faults.server_error(),
    "time-out": faults.stalled_unprocessed(20),
    "dropped": faults.dropped(),
    "truncated": faults.truncated(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_failure_of_the_broker_shows_a_key(office: Office, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from trading_dagster.resources import alpaca_broker

    # the product waits for 15 s
    plain = alpaca_broker.leave_retries_to_us
    monkeypatch.setattr(alpaca_broker, "leave_retries_to_us", lambda client, _, before: plain(client, 0.2, before))
    office.broker.faults.add(FAULTS[fault], always=True)
    for words in (("status",), ("status", "--json"), ("reconcile",), ("cancel", *SIGNED)):
        output = office.trading(*words).output
        assert output
        assert leaks(output, " ".join(words)) == []
    assert "Alpaca" in office.trading("status").output
    office.trade(date(2018, 12, 31), {"HALF": 0.1})
    assert leaks_of_database(load_settings().resolved_ledger_url)[1] == []


def test_wrong_keys_are_not_repeated(office: Office) -> None:
    office.set_variable("ALPACA_API_KEY", "PKWRONGKEY12345")
    office.set_variable("ALPACA_SECRET_KEY", "wrongsecret98765")
    for status in (401, 403):
        office.broker.wrong_key_status = status
        result = office.trading("reconcile")
        assert result.exit_code == 1
        assert "Correct ALPACA_API_KEY and ALPACA_SECRET_KEY" in result.output
        assert "PKWRONGKEY12345" not in result.output
        assert "wrongsecret98765" not in result.output


def test_objects_do_not_show_what_they_hold(office: Office) -> None:
    settings = load_settings()
    assert (settings.alpaca_api_key.get_secret_value(), PASSWORD in settings.ledger_url) == (KEY, True)
    desk = build_desk(settings)
    for thing in (settings, desk, desk.broker, desk.ledger, desk.conduct):
        assert leaks(repr(thing) + str(thing), type(thing).__name__) == []
    assert leaks(settings.model_dump_json(exclude={"ledger_url"}), "JSON") == []
    assert leaks(repr(vars(desk)) + repr(vars(settings)["alpaca_secret_key"]), "attributes") == []


# -- settings that cannot be used -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRADING_LEDGER_URL", f"postgres://trader:{PASSWORD}@db/ledger"),
        ("TRADING_LEDGER_URL", f"mysql://trader:{PASSWORD}@db/ledger"),
        ("TRADING_LEDGER_URL", f"postgresql:trader:{PASSWORD}@db/ledger"),
        ("TRADING_LEDGER_URL", f"postgresql://trader:{PASSWORD}@db:port/ledger"),
        ("TRADING_LEDGER_URL", f"postgresql://trader:{PASSWORD}@[db/ledger"),
        ("TRADING_LEDGER_URL", f"postgresql://trader:a/{PASSWORD}@db/ledger"),
        ("TRADING_LEDGER_URL", f"trader:{PASSWORD}@db/ledger"),
        ("ALPACA_ENDPOINT", f"https://{KEY}:{PASSWORD}@paper-api.alpaca.markets"),
        ("ALPACA_ENDPOINT", f"https://api.alpaca.markets/?key={KEY}"),
    ],
)
def test_setting_that_cannot_be_used_is_not_repeated(office: Office, variable: str, value: str) -> None:
    office.set_variable(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert variable in str(caught.value)
    assert leaks(str(caught.value) + repr(caught.value), "the error") == []
    assert caught.value.__cause__ is None
    result = office.trading("status")
    assert result.exit_code == 2
    assert leaks(result.output, "the command") == []


def test_other_wrong_settings_do_not_show_the_secrets(office: Office) -> None:
    office.set_variable("TRADING_POLICY", "ignore")
    office.set_variable("TRADING_LIMIT_GROSS", "0.1")
    output = office.done("status", code=2)
    assert "TRADING_POLICY" in output
    assert leaks(output, "the command") == []
    office.set_variable("TRADING_POLCY", "x")
    assert leaks(office.done("status", code=2), "the command") == []


@pytest.mark.parametrize("form", ["postgresql://127.0.0.1:9/db?user=trader&password={}"])
def test_password_among_the_parameters_is_not_shown(office: Office, form: str) -> None:
    office.set_variable("TRADING_LEDGER_URL", form.format(PASSWORD))
    result = office.trading("status")
    assert result.exit_code in (1, 2)
    assert leaks(result.output, "the command") == []


@pytest.mark.parametrize(
    "url", [f"postgresql+other://t:{PASSWORD}@127.0.0.1:9/d", f"postgresql://t:{PASSWORD}@127.0.0.1:9/d?other=1"]
)
def test_ledger_url_that_no_driver_reads_is_refused(office: Office, url: str) -> None:
    office.set_variable("TRADING_LEDGER_URL", url)
    result = office.trading("status")
    assert result.exit_code in (1, 2)
    assert leaks(result.output, "the command") == []


@pytest.mark.parametrize("field", ["tables_uri", "alpaca_data_endpoint", "yahoo_endpoint"])
def test_addresses_that_may_hold_keys_are_not_shown(field: str) -> None:
    assert leaks(repr(Settings(**{field: f"https://{KEY}:{PASSWORD}@host/path"})), "repr") == []


def test_amounts_are_no_secrets() -> None:
    # the search does not find what is not there
    assert leaks(f"{Decimal(1)} {'x' * 4000}", "a text") == []
