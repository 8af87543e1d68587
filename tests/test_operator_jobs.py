"""The operator's actions as Dagster jobs: who and why in the config, the result in the metadata, a run that fails.

Belongs here: what the jobs make of `execution.operations`. Does not belong here: what the actions do in every case
(`tests/e2e/test_operator`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import text

from tests.conftest import QUIET
from tests.servers.alpaca_trading import AlpacaTradingServer
from trading_dagster.definitions import build_definitions
from trading_dagster.execution import desks
from trading_dagster.execution.accounting import MarketSession
from trading_dagster.execution.desks import build_desk
from trading_dagster.execution.reconciliation import Comparison
from trading_dagster.execution.trading_session import Desk, Wish, trade_session
from trading_dagster.operator_jobs import OPERATOR_JOBS
from trading_dagster.resources.sql_ledger import SqlLedger
from trading_dagster.settings import Settings

with warnings.catch_warnings():
    # alpaca-py, on websockets from 14.0 on, when its modules are imported
    warnings.filterwarnings("ignore", "websockets", DeprecationWarning)
    import alpaca.trading.client  # noqa: F401

FRIDAY = date(2026, 11, 20)
EVENING = datetime(2026, 11, 20, 22, 30, tzinfo=UTC)
MONDAY_MORNING = datetime(2026, 11, 23, 14, 31, tzinfo=UTC)
MONDAY_EVENING = datetime(2026, 11, 23, 22, 30, tzinfo=UTC)
PRICES = {"AAA": Decimal(200), "BBB": Decimal(50)}
SIGNED = {"operator": "ann", "reason": "a test"}
OPS = {
    "status": "show_status",
    "halt": "halt_trading",
    "resume": "resume_trading",
    "cancel": "cancel_orders",
    "flatten": "flatten_account",
    "reconcile": "reconcile_account",
    "list_orders": "show_orders",
    "explain_order": "explain_an_order",
}


@dataclass(frozen=True)
class Ended:
    """A finished run of a job.

    Attributes
    ----------
    shown : str
        What is in the metadata for people; empty where nothing is.
    values : Any
        The same in plain values.
    cause : str
        Why it failed; empty where it did not.
    """

    success: bool
    shown: str
    values: Any
    cause: str


@dataclass
class Place:
    """Settings, a ledger, and the jobs at it."""

    settings: Settings
    instance: dg.DagsterInstance
    server: AlpacaTradingServer | None = None

    def run(self, job: str, **config: Any) -> Ended:
        """Run a job with the config of its only op."""
        ops = {"ops": {OPS[job]: {"config": config}}} if config else {}
        result = (
            build_definitions(self.settings)
            .resolve_job_def(job)
            .execute_in_process(instance=self.instance, raise_on_error=False, run_config={**QUIET, **ops})
        )
        shown, values, cause = "", None, ""
        for event in result.all_events:
            if event.event_type_value == "STEP_OUTPUT":
                metadata = event.step_output_data.metadata
                shown, values = str(metadata["result"].value), metadata["values"].value
            if event.event_type_value == "STEP_FAILURE":
                data = event.step_failure_data
                described = None
                if data.user_failure_data is not None:
                    described, metadata = data.user_failure_data.description, data.user_failure_data.metadata
                    shown, values = str(metadata["result"].value), metadata["values"].value
                error = data.error
                while error is not None and error.cause is not None:
                    error = error.cause
                cause = described or (error.message if error else "")
        return Ended(result.success, shown, values, cause)

    @cached_property
    def desk(self) -> Desk:
        return build_desk(self.settings)

    def trade(self) -> None:
        wish = Wish(dict.fromkeys(PRICES, 0.3), dict.fromkeys(PRICES, "why"))
        assert trade_session(self.desk, MarketSession(FRIDAY, PRICES, PRICES, {}, {}), wish, "run").submitted == 2

    def invest(self) -> None:
        """Trade on Friday, and be filled on Monday."""
        assert self.server is not None
        self.trade()
        self.server.now = MONDAY_MORNING
        assert len(self.server.trade_open()) == 2
        assert self.run("reconcile").success

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Read or change the ledger past the product's own code."""
        with self.desk.ledger.transaction() as db:
            found = db.execute(text(statement))
            return [tuple(row) for row in found] if found.returns_rows else []

    @property
    def state(self) -> str:
        return str(self.sql("SELECT state FROM halt_states")[0][0])

    def close(self) -> None:
        """End connections, of the database and of the broker."""
        self.desk.ledger.engine.dispose()
        client = vars(self.desk.broker).get("_client")
        if client is not None:
            client._session.close()


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[Place]:
    """Friday's orders at the simulated broker, which wait for the next session."""
    with dg.DagsterInstance.ephemeral() as instance:
        place = Place(Settings(data_dir=tmp_path / "data", max_weight=0.3), instance)
        yield place
        place.close()


@pytest.fixture
def paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Friday evening at the loopback broker."""
    # a difference counts after four readings; a test need not wait for seconds between them
    monkeypatch.setattr(desks, "Comparison", partial(Comparison, wait=0.01))
    with AlpacaTradingServer(PRICES, now=EVENING) as server, dg.DagsterInstance.ephemeral() as instance:
        settings = Settings(
            data_dir=tmp_path / "data", broker="alpaca", dry_run=False, max_weight=0.3, broker_seconds=0.4,
            alpaca_api_key=server.key, alpaca_secret_key=server.secret, alpaca_endpoint=server.url,
        )  # fmt: skip
        place = Place(settings, instance, server)
        yield place
        place.close()


def test_there_is_a_job_for_every_command_and_none_is_retried() -> None:
    from trading_dagster.operator_cli import COMMANDS

    assert {job.name for job in OPERATOR_JOBS} == set(OPS)
    renamed = {"orders": "list_orders", "explain": "explain_order"}  # assets and ops may not share their names
    assert {renamed.get(str(each.name), str(each.name)) for each in COMMANDS} == set(OPS)
    for job in OPERATOR_JOBS:
        assert job.tags["dagster/max_retries"] == "0"


@pytest.mark.parametrize(
    ("job", "config"),
    [
        ("halt", {}),
        ("halt", {"operator": "ann"}),
        ("resume", {"reason": "why"}),
        ("cancel", {"operator": "ann"}),
        ("flatten", {}),
        ("explain_order", {}),
    ],
)
def test_config_without_who_or_why_is_refused_before_the_run(
    simulated: Place, job: str, config: Mapping[str, str]
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match=r"Missing required config"):
        simulated.run(job, **config)


@pytest.mark.parametrize("job", ["halt", "resume", "cancel", "flatten"])
def test_empty_reason_fails_the_run(simulated: Place, job: str) -> None:
    simulated.trade()
    ended = simulated.run(job, operator="ann", reason=" ")
    assert not ended.success
    assert "reason must be given" in ended.cause
    assert simulated.state == "ACTIVE"
    assert simulated.sql("SELECT * FROM operator_actions") == []


def test_status_is_shown(simulated: Place) -> None:
    simulated.trade()
    ended = simulated.run("status")
    assert ended.success
    assert "state          ACTIVE" in ended.shown
    assert "main-20261120-AAA-0 buy" in ended.shown
    assert ended.values["halt"]["state"] == "ACTIVE"
    assert len(ended.values["open_orders"]) == 2


def test_halt_and_resume(simulated: Place) -> None:
    simulated.trade()
    halted = simulated.run("halt", **SIGNED)
    assert halted.success
    assert "HALTED" in halted.shown
    assert (simulated.state, halted.values["operator"]) == ("HALTED", "ann")
    resumed = simulated.run("resume", **SIGNED)
    assert resumed.success
    assert (simulated.state, resumed.values["state"]) == ("ACTIVE", "ACTIVE")
    again = simulated.run("resume", **SIGNED)
    assert not again.success
    assert "nothing to resume" in again.cause
    assert simulated.run("halt", reduce_only=True, **SIGNED).success
    assert simulated.state == "REDUCE_ONLY"
    assert [row[0] for row in simulated.sql("SELECT action FROM operator_actions ORDER BY id")] == [
        "halt", "resume", "halt",
    ]  # fmt: skip


def test_orders_are_listed(simulated: Place) -> None:
    assert simulated.run("list_orders").values == []
    simulated.trade()
    ended = simulated.run("list_orders")
    assert ended.success
    assert "main-20261120-BBB-0  buy" in ended.shown
    assert [row["symbol"] for row in ended.values] == ["AAA", "BBB"]
    assert simulated.run("list_orders", session="2026-11-20").values == ended.values
    assert simulated.run("list_orders", session="2026-11-19").shown == "```\nno orders\n```"


def test_order_is_explained(simulated: Place) -> None:
    simulated.trade()
    ended = simulated.run("explain_order", order="main-20261120-AAA-0")
    assert ended.success
    assert "Order main-20261120-AAA-0" in ended.shown
    assert ended.values["order"]["symbol"] == "AAA"
    unknown = simulated.run("explain_order", order="main-20261120-AAA-9")
    assert not unknown.success
    assert "near are main-20261120-AAA-0" in unknown.cause


def test_cancel_all_and_one(paper: Place) -> None:
    assert paper.server is not None
    paper.trade()
    one = paper.run("cancel", order="main-20261120-AAA-0", **SIGNED)
    assert (one.success, one.values) == (True, {"main-20261120-AAA-0": "cancelled"})
    assert [order.symbol for order in paper.server.open_orders] == ["BBB"]
    again = paper.run("cancel", order="main-20261120-AAA-0", **SIGNED)
    assert not again.success
    assert "is no open order" in again.cause
    rest = paper.run("cancel", **SIGNED)
    assert (rest.success, rest.values) == (True, {"main-20261120-BBB-0": "cancelled"})
    assert paper.run("cancel", **SIGNED).shown == "```\nno open orders\n```"


def test_cancel_that_the_broker_has_not_done_fails(paper: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paper.server is not None
    no_patience(monkeypatch)
    paper.trade()
    paper.server.cancel_delay = None
    ended = paper.run("cancel", **SIGNED)
    assert not ended.success
    assert "still open at the broker: main-20261120-AAA-0, main-20261120-BBB-0; run the job again" in ended.cause
    assert "main-20261120-AAA-0  accepted" in ended.shown
    assert ended.values == dict.fromkeys(("main-20261120-AAA-0", "main-20261120-BBB-0"), "accepted")


def test_flatten_fails_until_the_broker_shows_nothing(paper: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paper.server is not None
    no_patience(monkeypatch)
    paper.invest()
    paper.server.end_of_day()
    paper.server.now = MONDAY_EVENING
    waiting = paper.run("flatten", **SIGNED)
    assert not waiting.success
    assert "not flat yet" in waiting.cause
    assert "not flat yet" in waiting.shown
    assert waiting.values == {"flat": False, "left": {"AAA": "150", "BBB": "600"}}
    assert paper.state == "HALTED"
    paper.server.now = datetime(2026, 11, 24, 14, 31, tzinfo=UTC)
    paper.server.trade_open()
    done = paper.run("flatten", **SIGNED)
    assert done.success
    assert (done.values, paper.server.positions) == ({"flat": True, "left": {}}, {})


def test_difference_fails_the_run_and_is_accepted(paper: Place) -> None:
    paper.invest()
    paper.sql("UPDATE lots SET quantity = '1' WHERE symbol = 'AAA'")
    found = paper.run("reconcile")
    assert not found.success
    assert "trading is halted" in found.cause
    assert "AAA" in found.cause
    assert "1 differences" in found.shown
    assert (found.values["matched"], found.values["halt"]["state"]) == (False, "HALTED")
    assert paper.state == "HALTED"
    refused = paper.run("resume", **SIGNED)
    assert not refused.success
    assert "still differ" in refused.cause
    nobody = paper.run("reconcile", accept=True)
    assert not nobody.success
    assert "operator and reason must be given" in nobody.cause
    assert paper.run("reconcile", accept=True, **SIGNED).success
    assert paper.run("resume", **SIGNED).success
    assert paper.state == "ACTIVE"


def test_loss_and_new_high(paper: Place) -> None:
    assert paper.server is not None
    paper.invest()
    for symbol, price in PRICES.items():
        paper.server.set_price(symbol, price * Decimal("0.9"))
    looked = paper.run("reconcile")
    assert looked.success  # ledger and broker agree; it has done what it is for
    assert "HALTED" in looked.shown
    assert paper.state == "HALTED"
    refused = paper.run("resume", **SIGNED)
    assert not refused.success
    assert "the loss still stands" in refused.cause
    assert paper.run("resume", new_high=True, **SIGNED).success


def test_broker_that_is_down(paper: Place) -> None:
    paper.trade()
    paper.settings = paper.settings.model_copy(update={"alpaca_endpoint": "http://127.0.0.1:9"})
    for job in ("flatten", "reconcile", "cancel"):
        ended = paper.run(job, **({} if job == "reconcile" else SIGNED))
        assert not ended.success
        assert "did not answer" in ended.cause
    status = paper.run("status")
    assert status.success
    assert "did not answer" in status.shown
    assert paper.run("halt", **SIGNED).success


def test_ledger_that_is_garbage_fails_every_job(simulated: Place) -> None:
    simulated.trade()
    simulated.desk.ledger.engine.dispose()
    (simulated.settings.data_dir / "ledger.db").write_bytes(b"this is no database" * 400)
    for job in OPS:
        config = {"order": "main-20261120-AAA-0"} if job == "explain_order" else {}
        signed = SIGNED if job in ("halt", "resume", "cancel", "flatten") else {}
        ended = simulated.run(job, **config, **signed)
        assert not ended.success
        assert "file is not a database" in ended.cause, job


def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let actions look at the broker once, and not for a minute."""
    from trading_dagster.execution import operations

    monkeypatch.setattr(operations, "Watch", partial(operations.Watch, 0.0))


def test_ledger_of_the_jobs_is_the_settings_ledger(simulated: Place) -> None:
    simulated.run("halt", **SIGNED)
    ledger = SqlLedger(f"sqlite:///{simulated.settings.data_dir.absolute() / 'ledger.db'}")
    assert ledger.halt_state("main").detail == "a test"
    ledger.engine.dispose()


def test_the_code_location_can_be_loaded(tmp_path: Path) -> None:
    """Names of jobs and ops are compared only when a server loads all of them."""
    dg.Definitions.validate_loadable(build_definitions(Settings(data_dir=tmp_path)))
