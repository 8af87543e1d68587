"""The operator's commands at a paper account: exit codes, what they print, what they leave in the ledger.

Belongs here: `trading halt`, `resume`, `cancel`, `flatten`, `reconcile`, `orders`, `status`, given as a user gives
them. Does not belong here: the whole pipeline at a paper account (`test_paper_account`), and the same actions as
Dagster jobs (`tests/test_operator_jobs`). Most commands are given in this process, to books that were opened without
the pipeline; a process of its own is started where it is about what else the command needs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.conftest import command
from tests.e2e.papers import FRIDAY_EVENING, PRICES, Office
from tests.postgres import PASSWORD, PostgresServer
from tests.servers import faults
from tests.servers.alpaca_trading import AlpacaTradingServer
from trading_dagster.execution import desks
from trading_dagster.execution.reconciliation import Comparison
from trading_dagster.resources.sql_ledger import SqlLedger

D = Decimal
SIGNED = ("--operator", "ann", "--reason", "a test")
CLOSED_PORT = "http://127.0.0.1:9"
EVERY_COMMAND = {
    "status": ("status",),
    "halt": ("halt", *SIGNED),
    "reduce only": ("halt", "--reduce-only", *SIGNED),
    "resume": ("resume", *SIGNED),
    "cancel": ("cancel", *SIGNED),
    "flatten": ("flatten", *SIGNED),
    "reconcile": ("reconcile",),
    "orders": ("orders",),
    "open orders": ("orders", "--open"),
    "explain": ("explain", "main-20261120-AAA-0"),
}
CHANGING = ("halt", "resume", "cancel", "flatten")


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger, since migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "ledger.db"
    SqlLedger(f"sqlite:///{path}").engine.dispose()
    return path


@pytest.fixture
def office(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    """Friday evening at an account of 100,000 dollars in cash."""
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(migrated, data / "ledger.db")
    for name in [each for each in os.environ if each.startswith(("TRADING_", "ALPACA_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    # a difference counts after four readings; a test need not wait for seconds between them
    monkeypatch.setattr(desks, "Comparison", partial(Comparison, wait=0.01))
    with AlpacaTradingServer(PRICES, now=FRIDAY_EVENING) as broker:
        variables = {
            "TRADING_DATA_DIR": str(data),
            "TRADING_BROKER": "alpaca",
            "TRADING_DRY_RUN": "false",
            "TRADING_MAX_WEIGHT": "0.3",
            "TRADING_BROKER_SECONDS": "0.4",
            "ALPACA_API_KEY": broker.key,
            "ALPACA_SECRET_KEY": broker.secret,
            "ALPACA_ENDPOINT": broker.url,
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield Office(data, broker, monkeypatch.setenv)


def fills_at_once(server: AlpacaTradingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the open market fill every order as it comes."""
    submit = server.brokerage.submit

    def filled(request):
        order = submit(request)
        server.fill(order.id)
        return order

    monkeypatch.setattr(server.brokerage, "submit", filled)


def fall(office: Office, part: str) -> None:
    """Move every price by a part of it."""
    for symbol, price in office.broker.prices.items():
        office.broker.set_price(symbol, price * (1 + D(part)))


# -- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(("--operator", "ann"), "Missing option '--reason'", id="no_reason"),
        pytest.param(("--reason", "why"), "Missing option '--operator'", id="no_operator"),
        pytest.param(("--operator", "ann", "--reason", ""), "reason must be given", id="empty_reason"),
        pytest.param(("--operator", "ann", "--reason", " \t"), "reason must be given", id="blank_reason"),
        pytest.param(("--operator", "", "--reason", "why"), "operator must be given", id="empty_operator"),
    ],
)
def test_who_and_why_must_be_said(office: Office, name: str, words: tuple[str, ...], says: str) -> None:
    assert says in office.done(name, *words, code=2)
    assert office.rows("SELECT * FROM operator_actions") == office.rows("SELECT * FROM halt_states") == []
    assert office.broker.log.requests() == []


@pytest.mark.parametrize("words", [(), ("--operator", "ann"), ("--operator", "ann", "--reason", "")])
def test_accepting_a_difference_needs_who_and_why(office: Office, words: tuple[str, ...]) -> None:
    office.trade()
    office.rows("UPDATE strategies SET cash = '1'")
    assert "must be given" in office.done("reconcile", "--accept", *words, code=2)
    assert office.rows("SELECT cash FROM strategies") == [{"cash": "1"}]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(("flatten", *SIGNED), "has no books yet", id="flatten"),
        pytest.param(("reconcile",), "has no books yet", id="reconcile"),
        pytest.param(("cancel", "--order", "main-1", *SIGNED), "'main-1' is no open order", id="cancel"),
        pytest.param(("explain", "main-1"), "has not traded yet", id="explain"),
        pytest.param(("orders", "--session", "Friday"), "'Friday' is not a date; write it as YYYY", id="orders"),
    ],
)
def test_what_there_is_not_is_refused(office: Office, words: tuple[str, ...], says: str) -> None:
    assert says in office.done(*words, code=2)


def test_setting_that_cannot_be_used_is_wrong_use(office: Office) -> None:
    office.set_variable("ALPACA_ENDPOINT", "https://api.alpaca.markets")
    for words in EVERY_COMMAND.values():
        assert "on paper only" in office.done(*words, code=2)


# -- halt and resume --------------------------------------------------------------------------------------------------


def test_halt_stops_and_resume_trades_again(office: Office) -> None:
    halted = office.answer("halt", *SIGNED)
    assert (halted["state"], halted["cause"], halted["operator"], halted["detail"]) == (
        "HALTED", "operator", "ann", "a test",
    )  # fmt: skip
    assert office.trade().submitted == 0
    assert office.broker.submissions == []
    assert office.answer("status")["halt"] | {"ledger": halted["ledger"]} == halted
    office.done("status", "--exit-code", code=3)
    resumed = office.answer("resume", "--operator", "bob", "--reason", "it is over")
    assert (resumed["state"], resumed["operator"], resumed["detail"]) == ("ACTIVE", "bob", "it is over")
    office.done("status", "--exit-code")
    assert office.trade().submitted == len(PRICES)
    assert [(action, who, why) for action, who, why, _ in office.actions] == [
        ("halt", "ann", "a test"), ("resume", "bob", "it is over"),
    ]  # fmt: skip
    events = [row["state"] for row in office.rows("SELECT state FROM halt_events ORDER BY id")]
    assert (events[0], events[-1]) == ("HALTED", "ACTIVE")


def test_resume_of_what_is_active_is_refused(office: Office) -> None:
    office.trade()
    assert "is ACTIVE; there is nothing to resume" in office.done("resume", *SIGNED, code=2)
    assert office.state == "ACTIVE"


def test_reduce_only_buys_nothing_and_sells(office: Office) -> None:
    office.invest()
    office.done("halt", "--reduce-only", *SIGNED)
    assert office.state == "REDUCE_ONLY"
    office.done("status", "--exit-code", code=3)
    office.broker.end_of_day()
    office.broker.now = datetime(2026, 11, 23, 22, 30, tzinfo=UTC)
    before = len(office.broker.submissions)
    traded = office.trade(datetime(2026, 11, 23).date(), {"AAA": 0.1, "BBB": 0.4, "CCC": 0.3})
    assert traded.submitted == 1
    (sent,) = [each.order for each in office.broker.submissions[before:]]
    assert (sent.symbol, sent.side) == ("AAA", "sell")


def test_reduce_only_does_not_loosen_a_halt(office: Office) -> None:
    office.done("halt", *SIGNED)
    assert "would let it trade again" in office.done("halt", "--reduce-only", *SIGNED, code=2)
    assert office.state == "HALTED"


@pytest.mark.parametrize("fault", ["broker down", "dagster without a home"])
def test_halt_needs_the_ledger_alone(office: Office, fault: str) -> None:
    home = office.data / "no" / "home"
    done = command(
        "trading", "halt", *SIGNED, "--json", data=office.data, TRADING_BROKER="alpaca", ALPACA_API_KEY="any",
        ALPACA_SECRET_KEY="any", ALPACA_ENDPOINT=CLOSED_PORT, DAGSTER_HOME=str(home),
        # importing it would fail
        **({"PYTHONPATH": str(_without_dagster(office.data))} if fault == "dagster without a home" else {}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["state"], told["ledger"]) == ("HALTED", f"sqlite:///{office.data / 'ledger.db'}")
    assert done.stderr == ""
    assert not home.exists()
    assert office.state == "HALTED"


def _without_dagster(folder: Path) -> Path:
    """A folder of modules in which Dagster cannot be imported."""
    (folder / "modules").mkdir()
    (folder / "modules" / "dagster.py").write_text("raise ImportError('no dagster here')\n")
    return folder / "modules"


@pytest.mark.parametrize("words", [("x" * 400, "why"), ("ann", "why\0not")], ids=["long", "nul"])
def test_halt_is_not_stopped_by_its_words(office: Office, postgres_url: str, words: tuple[str, str]) -> None:
    office.set_variable("TRADING_LEDGER_URL", postgres_url)
    assert office.trade().submitted == len(PRICES)
    result = office.trading("halt", "--operator", words[0], "--reason", words[1])
    assert (result.exit_code, office.state) == (0, "HALTED")


def test_halt_stops_a_run_between_two_orders(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = office.broker.brokerage.submit

    def halted_after_the_first(request):
        order = submit(request)
        if len(office.broker.submissions) == 1:
            office.done("halt", *SIGNED)
        return order

    monkeypatch.setattr(office.broker.brokerage, "submit", halted_after_the_first)
    traded = office.trade()
    assert (traded.submitted, len(office.broker.submissions)) == (1, 1)
    assert traded.refused is not None
    assert "a test" in traded.refused.detail


# -- what halts by itself, and stands ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "state"), [("-0.034", "HALTED"), ("0.034", "ACTIVE"), ("-0.01", "ACTIVE")])
def test_a_loss_halts_with_nobody_there(office: Office, change: str, state: str) -> None:
    office.invest()
    fall(office, change)
    assert abs(office.broker.equity / 100_000 - 1) >= D("0.03") or change == "-0.01"
    text = office.done("reconcile", code=3 if state == "HALTED" else 0)
    assert "ledger and broker agree" in text
    assert state in text
    assert office.state == state
    if state == "HALTED":
        found = office.answer("status")["halt"]
        assert (found["cause"], found["operator"]) == ("daily_loss", "automatic")
        assert "TRADING_LIMIT_DAILY_LOSS" in found["detail"]


@pytest.mark.parametrize(
    ("cause", "limits"),
    [
        ("daily_loss", {}),
        ("drawdown", {"TRADING_LIMIT_DAILY_LOSS": "0.9", "TRADING_LIMIT_DRAWDOWN": "0.02"}),
    ],
)
def test_resume_is_refused_while_the_loss_stands(office: Office, cause: str, limits: dict[str, str]) -> None:
    for name, value in limits.items():
        office.set_variable(name, value)
    office.invest()
    fall(office, "-0.04")
    assert office.answer("reconcile", code=3)["halt"]["cause"] == cause
    assert office.answer("status")["halt"]["cause"] == cause
    says = office.done("resume", *SIGNED, code=2)
    assert "the loss still stands" in says
    assert "trading resume --new-high" in says
    assert office.state == "HALTED"
    assert office.actions[-1][0] == "resume"
    assert office.actions[-1][3].startswith("refused: the loss still stands")
    accepted = office.answer("resume", "--new-high", *SIGNED)
    assert accepted["state"] == "ACTIVE"
    assert "new high" in office.actions[-1][3]
    # and it does not halt again for the loss that was accepted
    office.done("reconcile")
    assert office.state == "ACTIVE"


def test_a_loss_that_is_gone_can_be_resumed(office: Office) -> None:
    office.invest()
    fall(office, "-0.04")
    office.done("reconcile", code=3)
    for symbol, price in PRICES.items():
        office.broker.set_price(symbol, price)
    office.done("reconcile", code=3)
    assert office.state == "HALTED"  # nobody resumes but an operator
    office.done("resume", *SIGNED)
    assert office.state == "ACTIVE"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("UPDATE lots SET quantity = '149' WHERE symbol = 'AAA'", id="shares"),
        pytest.param("UPDATE strategies SET cash = '10000.02'", id="cash"),
    ],
)
def test_difference_halts_and_is_accepted_by_a_person(office: Office, change: str) -> None:
    office.invest()
    office.rows(change)
    found = office.answer("reconcile", code=3)
    assert not found["matched"]
    assert found["differences"]
    assert office.state == "HALTED"
    assert office.answer("status")["halt"]["cause"] == "reconciliation"
    assert "difference" in office.done("reconcile", code=3)
    assert "ledger and broker still differ" in office.done("resume", *SIGNED, code=2)
    assert "refused: ledger and broker still differ" in office.actions[-1][3]
    accepted = office.answer("reconcile", "--accept", *SIGNED, code=3)
    assert (accepted["matched"], accepted["halt"]["state"]) == (True, "HALTED")  # which another command ends
    assert office.actions[-1][:3] == ("reconcile", "ann", "a test")
    assert found["differences"][0] in office.actions[-1][3]
    assert office.state == "HALTED"
    office.done("resume", *SIGNED)
    assert office.state == "ACTIVE"
    assert office.answer("reconcile")["differences"] == []
    told = office.answer("status")
    assert (D(told["cash"]), told["positions"]) == (
        office.broker.cash, {s: str(q) for s, q in office.broker.positions.items()},
    )  # fmt: skip


def test_accepting_what_the_ledger_had_wrong_is_no_loss(office: Office) -> None:
    # the broker's equity was 100,000 all the time
    office.invest()
    office.rows("UPDATE lots SET quantity = '1' WHERE symbol = 'AAA'")
    office.done("reconcile", code=3)
    office.done("reconcile", "--accept", *SIGNED, code=3)
    office.done("resume", *SIGNED)
    office.trading("reconcile")
    assert office.state == "ACTIVE"


def test_failing_broker_halts_and_resume_needs_it_back(office: Office) -> None:
    office.set_variable("TRADING_BROKER_ERRORS", "2")
    office.trade()
    office.broker.faults.add(faults.server_error(), always=True)
    for _ in range(2):
        assert office.state == "ACTIVE"
        assert office.trade().submitted == 0
    assert office.answer("status")["halt"]["cause"] == "broker_errors"
    for down in (office.broker.url, CLOSED_PORT):
        office.set_variable("ALPACA_ENDPOINT", down)
        assert "cannot be looked at, so it stands" in office.done("resume", *SIGNED, code=2)
        assert office.actions[-1][3].startswith("refused: the cause of the halt cannot be looked at")
        status = office.answer("status")
        assert status["broker_account"] is None
        assert "did not answer" in status["broker_says"] or "500" in status["broker_says"]
    office.broker.faults.clear()
    office.set_variable("ALPACA_ENDPOINT", office.broker.url)
    assert office.answer("resume", *SIGNED)["state"] == "ACTIVE"
    assert office.answer("status")["broker_errors"] == 0


@pytest.mark.parametrize("name", ["flatten", "reconcile", "cancel"])
def test_command_that_needs_the_broker_says_that_it_is_down(office: Office, name: str) -> None:
    office.trade()
    office.set_variable("ALPACA_ENDPOINT", CLOSED_PORT)
    assert "did not answer" in office.done(*EVERY_COMMAND[name], code=1)
    assert len(office.broker.open_orders) == len(PRICES)


# -- a ledger that is not there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY_COMMAND)
def test_garbage_in_place_of_the_ledger_is_an_error_without_a_traceback(office: Office, name: str) -> None:
    office.trade()
    sent = len(office.broker.submissions)
    (office.data / "ledger.db").write_bytes(b"this is no database" * 400)
    result = office.trading(*EVERY_COMMAND[name])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "file is not a database" in result.stderr
    assert "Without it nothing is traded" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(office.broker.submissions) == sent


def test_a_ledger_whose_database_is_down_is_an_error_that_hides_the_password(
    office: Office, postgres_server: PostgresServer
) -> None:
    office.set_variable("TRADING_LEDGER_URL", postgres_server.create_database())
    assert office.trade().submitted == len(PRICES)
    postgres_server.stop()
    for words in EVERY_COMMAND.values():
        result = office.trading(*words)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "cannot be used" in result.stderr
        assert "Traceback" not in result.stderr
        assert PASSWORD not in result.output
    postgres_server.start()
    assert office.answer("halt", *SIGNED)["state"] == "HALTED"


def test_missing_state_means_halted_until_somebody_resumes(office: Office) -> None:
    office.trade(targets={"AAA": 0.1})
    office.rows("DELETE FROM halt_states")
    office.broker.now = datetime(2026, 11, 23, 22, 30, tzinfo=UTC)
    monday, before = datetime(2026, 11, 23).date(), len(office.broker.submissions)
    assert office.trade(monday).submitted == 0
    assert len(office.broker.submissions) == before
    assert office.answer("status")["halt"]["cause"] == "missing_state"
    office.done("status", "--exit-code", code=3)
    office.done("resume", *SIGNED)
    assert office.trade(monday).submitted > 0


def test_state_that_cannot_be_read_means_halted(office: Office) -> None:
    office.trade(targets={"AAA": 0.1})
    office.rows("UPDATE halt_states SET state = 'SLEEPING'")
    before = len(office.broker.submissions)
    office.broker.now = datetime(2026, 11, 23, 22, 30, tzinfo=UTC)
    assert office.trade(datetime(2026, 11, 23).date()).submitted == 0
    assert len(office.broker.submissions) == before
    assert office.answer("status")["halt"]["state"] == "HALTED"
    assert office.answer("halt", *SIGNED)["state"] == "HALTED"


# -- orders and cancel ------------------------------------------------------------------------------------------------


def test_orders_are_listed(office: Office) -> None:
    assert office.answer("orders") == office.answer("orders", "--open") == []
    assert office.done("orders") == "no orders\n"
    office.trade()
    listed = office.answer("orders")
    assert [(each["symbol"], each["state"], each["session"]) for each in listed] == [
        (symbol, "accepted", "2026-11-20") for symbol in PRICES
    ]
    assert listed == office.answer("orders", "--open") == office.answer("orders", "--session", "2026-11-20")
    assert office.answer("orders", "--session", "2026-11-19") == []
    office.open_monday()
    office.broker.fill("main-20261120-AAA-0")
    office.done("reconcile")
    assert [each["symbol"] for each in office.answer("orders", "--open")] == ["BBB", "CCC"]
    assert len(office.answer("orders")) == len(PRICES)
    text = office.done("orders")
    assert "main-20261120-AAA-0  buy" in text
    assert "at 200.0000: filled" in text
    assert "AAA" not in office.done("orders", "--open")


def test_cancel_all_and_one(office: Office) -> None:
    assert office.answer("cancel", *SIGNED) == []
    office.trade()
    one = office.answer("cancel", "--order", "main-20261120-BBB-0", *SIGNED)
    assert one == [{"order": "main-20261120-BBB-0", "state": "cancelled", "filled": "0"}]
    assert [order.symbol for order in office.broker.open_orders] == ["AAA", "CCC"]
    again = office.done("cancel", "--order", "main-20261120-BBB-0", *SIGNED, code=2)
    assert "is no open order" in again
    assert "main-20261120-AAA-0  cancelled, 0 filled" in office.done("cancel", *SIGNED)
    assert office.broker.open_orders == []
    assert office.done("cancel", *SIGNED) == "no open orders\n"
    assert office.actions[1][0:3] == ("cancel", "ann", "a test")
    assert office.state == "ACTIVE"  # to cancel is not to halt


def test_cancel_that_the_broker_has_not_done_yet_is_not_as_wanted(office: Office) -> None:
    office.trade()
    office.broker.cancel_delay = None
    left = office.answer("cancel", "--wait", "0", *SIGNED, code=3)
    assert {each["state"] for each in left} == {"accepted"}
    for order in office.broker.open_orders:
        office.broker.cancel(order.id)
    assert {each["state"] for each in office.answer("cancel", *SIGNED)} == {"cancelled"}


# -- flatten ----------------------------------------------------------------------------------------------------------


def test_flatten_leaves_nothing_at_the_broker(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    # fractions, an order that is filled in part, one that nobody here sent, and shares that the ledger does not know
    office.trade()
    office.open_monday()
    office.broker.set_price("ZZZ", "33.33")
    office.broker.fill("main-20261120-AAA-0")
    office.broker.fill("main-20261120-BBB-0", "12.345678")
    office.broker.manual_trade("ZZZ", "buy", "7.25")
    office.broker.manual_order("CCC", "buy", "3", "10")
    assert any(quantity % 1 for quantity in office.broker.positions.values())
    fills_at_once(office.broker, monkeypatch)
    done = office.answer("flatten", "--wait", "5", *SIGNED)
    assert (done["flat"], done["left"]) == (True, {})
    assert (office.broker.positions, office.broker.open_orders) == ({}, [])
    assert (done["cancelled"], done["sent"]) == (3, 3)
    assert office.state == "HALTED"
    assert office.actions[-1][:3] == ("flatten", "ann", "a test")
    told = office.answer("status")
    assert (told["positions"], told["manual"], told["open_orders"]) == ({}, {}, [])
    assert D(told["cash"]) == office.broker.cash
    assert office.answer("reconcile", code=3)["matched"]
    # nothing buys again what was sold
    before = len(office.broker.submissions)
    office.broker.now = datetime(2026, 11, 23, 22, 30, tzinfo=UTC)
    assert office.trade(datetime(2026, 11, 23).date()).submitted == 0
    assert len(office.broker.submissions) == before
    # and a second one finds nothing to do
    again = office.answer("flatten", *SIGNED)
    assert (again["flat"], again["cancelled"], again["sent"]) == (True, 0, 0)


def test_flatten_while_the_market_is_closed_says_what_to_do(office: Office) -> None:
    office.invest()
    office.broker.end_of_day()
    office.broker.now = datetime(2026, 11, 23, 22, 30, tzinfo=UTC)
    text = office.done("flatten", "--wait", "0", *SIGNED, code=3)
    assert "not flat yet" in text
    assert "While the market is closed, orders wait for its open; look again then: trading flatten" in text
    assert office.state == "HALTED"
    waiting = {order.symbol: (order.side, order.qty) for order in office.broker.open_orders}
    assert waiting == {symbol: ("sell", quantity) for symbol, quantity in office.broker.positions.items()}
    # at the open they are filled, and the command finds nothing left
    office.broker.now = datetime(2026, 11, 24, 14, 31, tzinfo=UTC)
    office.broker.trade_open()
    done = office.answer("flatten", *SIGNED)
    assert (done["flat"], office.broker.positions) == (True, {})


def test_flatten_whose_orders_wait_is_asked_again_before_they_are_filled(office: Office) -> None:
    # the orders of the first one hold the shares: they are cancelled, and new ones are sent
    office.invest()
    office.broker.end_of_day()
    office.broker.now = datetime(2026, 11, 23, 22, 30, tzinfo=UTC)
    office.done("flatten", "--wait", "0", *SIGNED, code=3)
    again = office.answer("flatten", "--wait", "0", *SIGNED, code=3)
    assert (again["cancelled"], again["sent"]) == (len(PRICES), len(PRICES))
    assert len(office.broker.open_orders) == len(PRICES)


def test_flatten_sells_whatever_the_dry_run_setting_is(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    # the setting is about runs; who flattens has said so
    office.invest()
    office.set_variable("TRADING_DRY_RUN", "true")
    fills_at_once(office.broker, monkeypatch)
    assert office.answer("flatten", *SIGNED)["flat"]
    assert office.broker.positions == {}


def test_flatten_whose_order_is_refused_is_not_flat(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.invest()
    fills_at_once(office.broker, monkeypatch)
    office.broker.untradable.add("AAA")
    text = office.done("flatten", "--wait", "0", *SIGNED, code=3)
    assert "not flat" in text
    assert "150 AAA" in text
    assert "not tradable" in text
    assert office.broker.positions == {"AAA": 150}
    assert "not tradable" in office.done("orders")
    office.broker.untradable.clear()
    assert office.answer("flatten", *SIGNED)["flat"]


def test_flatten_of_books_that_differ_closes_what_the_broker_holds(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.invest()
    office.rows("UPDATE lots SET quantity = '1' WHERE symbol = 'AAA'")
    office.rows("UPDATE strategies SET cash = '5'")
    fills_at_once(office.broker, monkeypatch)
    assert office.answer("flatten", *SIGNED)["flat"]
    assert office.broker.positions == {}


def test_flatten_that_cannot_cancel_sells_nothing(office: Office) -> None:
    office.invest()
    office.broker.manual_order("AAA", "buy", "1", "10")
    office.broker.cancel_delay = None
    before = len(office.broker.submissions)
    assert "still open at the broker" in office.done("flatten", "--wait", "0", *SIGNED, code=1)
    assert len(office.broker.submissions) == before
    assert office.state == "HALTED"


# -- status -----------------------------------------------------------------------------------------------------------


def test_status_before_anything_was_traded(office: Office) -> None:
    status = office.answer("status")
    assert (status["opened"], status["positions"], status["open_orders"]) == (False, {}, [])
    assert D(status["broker_account"]["cash"]) == 100_000
    assert "its books begin with the first run" in office.done("status")


def test_status_of_what_is_held(office: Office) -> None:
    office.invest()
    fall(office, "0.02")
    status = office.answer("status")
    assert D(status["broker_account"]["equity"]) == office.broker.equity
    assert D(status["profit"]["unrealised"]) == office.broker.unrealised
    assert {s: D(q) for s, q in status["positions"].items()} == office.broker.positions
    text = office.done("status")
    assert "ACTIVE" in text
    assert "AAA" in text
