"""The whole pipeline at a paper account: from the vendor's bars to orders at the broker, in processes of their own.

Belongs here: what `trading run`, `reconcile`, `status` and `explain` do together, against loopback servers of both of
Alpaca's services, on SQLite and on PostgreSQL. Does not belong here: single commands of the operator
(`test_operator`), and crashes of a run (`test_crash_matrix`).

One run of the pipeline is dear, so the dry run and what follows it are made once, and each test looks at a part.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.papers import BEFORE, LAST, NEXT_OPEN, PaperHouse, paper_house
from tests.postgres import PASSWORD, PostgresServer

D = Decimal
RUN = ("run", "--session", LAST)
LIVE = {"TRADING_DRY_RUN": "false"}
LINKS = (
    "signals", "allocation", "forecast", "condition", "volatility", "regime", "phasing", "bars", "corporate_actions",
    "forecast_model",
)  # fmt: skip

Done = subprocess.CompletedProcess[str]


@dataclass
class Seen:
    """What a command printed, and what was at the broker and in the ledger right after it."""

    done: Done
    submissions: list[str]
    orders: list[dict[str, Any]]

    @property
    def text(self) -> str:
        return self.done.stdout + self.done.stderr


def look(house: PaperHouse, done: Done) -> Seen:
    return Seen(
        done,
        [str(each.client_order_id) for each in house.broker.submissions],
        house.rows("SELECT * FROM orders ORDER BY client_order_id"),
    )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaperHouse]:
    with paper_house(tmp_path_factory.mktemp("paper") / "data") as house:
        yield house


@pytest.fixture(scope="module")
def dry(house: PaperHouse) -> Seen:
    """The first run, which nobody told to trade."""
    return look(house, house.trading(*RUN))


@pytest.fixture(scope="module")
def template(house: PaperHouse, dry: Seen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder after the dry run."""
    return Path(shutil.copytree(house.data, tmp_path_factory.mktemp("template") / "data"))


@pytest.fixture
def fresh_house(template: Path, tmp_path: Path) -> Iterator[PaperHouse]:
    """Another house after the dry run, with servers of its own."""
    with paper_house(Path(shutil.copytree(template, tmp_path / "data")), **LIVE) as house:
        yield house


@pytest.fixture(scope="module")
def live(house: PaperHouse, template: Path) -> Seen:
    """The run that trades."""
    return look(house, house.trading(*RUN, **LIVE))


@pytest.fixture(scope="module")
def again(house: PaperHouse, live: Seen) -> Seen:
    return look(house, house.trading(*RUN, **LIVE))


@pytest.fixture(scope="module")
def older(house: PaperHouse, again: Seen) -> Seen:
    return look(house, house.trading("run", "--session", BEFORE, **LIVE))


@pytest.fixture(scope="module")
def filled(house: PaperHouse, older: Seen) -> Any:
    """What `reconcile` says after the market has opened."""
    house.broker.now = NEXT_OPEN
    assert len(house.broker.trade_open()) == len(older.submissions)
    return house.answer("reconcile")


def test_dry_run_plans_and_sends_nothing(dry: Seen) -> None:
    assert dry.done.returncode == 0, dry.text
    assert dry.submissions == []
    assert len(dry.orders) >= 3
    assert {order["state"] for order in dry.orders} == {"planned"}
    assert "0 new orders sent" in dry.text
    for order in dry.orders:
        assert order["symbol"] in dry.text


def test_asked_to_trade_it_sends_the_plan_once(house: PaperHouse, dry: Seen, live: Seen) -> None:
    assert live.done.returncode == 0, live.text
    assert f"{len(dry.orders)} new orders sent" in live.text
    sent = {o["client_order_id"]: o for o in live.orders if o["state"] == "accepted"}
    assert sorted(live.submissions) == sorted(sent)
    asked = {(o["symbol"], o["side"], o["quantity"], o["limit_price"]) for o in sent.values()}
    assert asked == {(o["symbol"], o["side"], o["quantity"], o["limit_price"]) for o in dry.orders}
    there = {(o.symbol, o.side, str(o.qty), str(o.limit_price)) for o in house.broker.orders}
    assert {(symbol, side, D(q), D(price)) for symbol, side, q, price in there} == {
        (symbol, side, D(q), D(price)) for symbol, side, q, price in asked
    }
    # what the dry run had planned is not sent any more
    assert {o["state"] for o in live.orders if o["client_order_id"] not in sent} == {"expired"}


def test_second_run_sends_nothing_and_says_so(live: Seen, again: Seen) -> None:
    assert again.done.returncode == 0, again.text
    assert "0 new orders sent, 0 table rows changed; everything was there already" in again.text
    assert (again.submissions, len(again.orders)) == (live.submissions, len(live.orders))


def test_older_session_is_not_traded(again: Seen, older: Seen) -> None:
    assert older.done.returncode == 1
    assert f"{BEFORE} is past: the newest completed session at the broker alpaca is {LAST}" in older.text
    assert "Traceback" not in older.text
    assert older.submissions == again.submissions
    assert older.orders == again.orders


def test_fills_are_booked_and_the_status_is_the_brokers(house: PaperHouse, live: Seen, filled: Any) -> None:
    assert (filled["matched"], filled["new_activities"]) == (True, len(live.submissions))
    assert_status_is_the_brokers(house)
    states = {row["state"] for row in house.rows("SELECT state FROM orders WHERE broker_order_id != ''")}
    assert states == {"filled"}


def assert_status_is_the_brokers(house: PaperHouse) -> None:
    status = house.answer("status")
    assert status["halt"]["state"] == "ACTIVE"
    assert status["open_orders"] == []
    theirs = status["broker_account"]
    assert (D(status["cash"]), D(theirs["cash"]), D(theirs["equity"])) == (
        house.broker.cash, house.broker.cash, house.broker.equity,
    )  # fmt: skip
    assert D(status["profit"]["unrealised"]) == house.broker.unrealised
    held = house.broker.positions
    assert {symbol: D(quantity) for symbol, quantity in status["positions"].items()} == held
    assert {symbol: D(quantity) for symbol, quantity in theirs["positions"].items()} == held
    assert len(held) >= 3


def test_order_is_explained_down_to_the_bars(house: PaperHouse, live: Seen, filled: Any) -> None:
    identity = sorted(live.submissions)[0]
    text = house.trading("explain", identity)
    assert (text.returncode, text.stderr) == (0, "")
    found = house.answer("explain", identity)
    (order,) = [each for each in house.rows("SELECT * FROM orders") if each["client_order_id"] == identity]
    (plan,) = house.rows(f"SELECT * FROM execution_plans WHERE id = {order['plan_id']}")
    assert (found["order"]["symbol"], D(found["order"]["quantity"])) == (order["symbol"], D(order["quantity"]))
    assert found["sent"]
    assert [D(fill["quantity"]) for fill in found["fills"]] == [D(order["quantity"])]
    assert (found["run_id"], found["run_status"]) == (plan["run_id"], "daily, SUCCESS")
    assert found["code_version"] == plan["code_version"]
    assert found["code_version"]
    links = {link["name"]: link for link in found["links"]}
    assert tuple(links) == LINKS
    for name, link in links.items():
        assert link["rows"] or name == "corporate_actions", name
        assert isinstance(link["table_version"], int), name
        assert link["materialisation"] is not None, name
        assert link["data_policy"], name
    assert links["bars"]["rows"][-1]["session"] == LAST
    assert isinstance(links["bars"]["materialisation"]["delta_version"], int)
    assert links["bars"]["read_at"]["signals"] >= links["bars"]["materialisation"]["delta_version"]
    checks = {(check["asset"], check["name"]) for check in found["checks"]}
    assert {("orders", "gates"), ("bars", "schema"), ("forecast_model", "data_policy")} <= checks
    assert all(check["passed"] for check in found["checks"])
    for words in (
        identity, order["reason"], plan["run_id"], plan["code_version"], "Signal:", "Allocation:", "Forecast:",
        "Volatility:", "Regime:", "Phase:", "Bars:", "Model:", "Code version", "Run", "Checks of these runs",
        f"Delta version {links['bars']['table_version']}", "daily, SUCCESS", "orders gates: passed",
    ):  # fmt: skip
        assert " ".join(words.split()) in " ".join(text.stdout.split()), words


def test_unknown_order_is_not_explained(house: PaperHouse, live: Seen, filled: Any) -> None:
    known = sorted(live.submissions)[0]
    done = house.trading("explain", known + "7")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"near are {known}" in done.stderr or known in done.stderr
    assert "Traceback" not in done.stderr


# -- two at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_runs_at_once_send_each_order_once(
    kind: str, fresh_house: PaperHouse, dry: Seen, request: pytest.FixtureRequest
) -> None:
    if kind == "postgresql":
        fresh_house.extra["TRADING_LEDGER_URL"] = request.getfixturevalue("postgres_url")
    with ThreadPoolExecutor(2) as both:
        done = list(both.map(lambda _: fresh_house.trading(*RUN), range(2)))
    outputs = [each.stdout + each.stderr for each in done]
    sent = [str(each.client_order_id) for each in fresh_house.broker.submissions]
    assert 0 in [each.returncode for each in done], outputs
    assert len(sent) == len(set(sent)) == len(dry.orders), outputs
    assert {each.symbol for each in fresh_house.broker.orders} == {order["symbol"] for order in dry.orders}
    for output in outputs:
        assert "Traceback" not in output
        assert PASSWORD not in output
    # and a third one finds everything done
    fresh_house.broker.now = NEXT_OPEN
    fresh_house.broker.trade_open()
    assert fresh_house.answer("reconcile")["matched"]
    assert_status_is_the_brokers(fresh_house)
    assert json.loads(fresh_house.trading("orders", "--open", "--json").stdout) == []


# -- what must be there before anything is sent -----------------------------------------------------------------------


def test_run_without_a_halt_state_sends_nothing(fresh_house: PaperHouse) -> None:
    fresh_house.rows("DELETE FROM halt_states")
    done = fresh_house.trading(*RUN)
    assert done.returncode == 1
    assert "has no halt state" in done.stdout + done.stderr
    assert fresh_house.broker.submissions == []


def test_run_on_garbage_in_place_of_the_ledger_sends_nothing(fresh_house: PaperHouse) -> None:
    (fresh_house.data / "ledger.db").write_bytes(b"this is no database" * 400)
    done = fresh_house.trading(*RUN)
    assert done.returncode == 1
    assert "file is not a database" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert fresh_house.broker.submissions == []


def test_run_while_the_ledgers_server_is_down_sends_nothing(
    fresh_house: PaperHouse, postgres_server: PostgresServer
) -> None:
    fresh_house.extra["TRADING_LEDGER_URL"] = postgres_server.create_database()
    postgres_server.stop()
    done = fresh_house.trading(*RUN)
    assert done.returncode == 1
    assert "Connection refused" in done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert fresh_house.broker.submissions == []
