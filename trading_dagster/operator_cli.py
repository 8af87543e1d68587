"""The operator's commands: status, halt, resume, cancel, flatten, reconcile, orders, explain.

Belongs here: options, exit codes, and how results are printed. What each does is in `execution.operations`. None of
them needs Dagster to run, and `halt` needs nothing but the ledger.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trading_dagster.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from trading_dagster.execution.trading_session import Desk

FAILED, WRONG_USE, NOT_AS_WANTED = 1, 2, 3
"""Exit codes: ledger or broker cannot be used; wrong use, or refused; done, but not (yet) as it was wanted."""

Command = TypeVar("Command", bound=Callable[..., Any])


def _signed(command: Command) -> Command:
    """Options of every command that changes something."""
    for option in (
        click.option("--reason", required=True, help="Why; kept for good."),
        click.option("--operator", required=True, help="Who does it; kept for good."),
    ):
        command = option(command)
    return command


as_json = click.option("--json", "as_json", is_flag=True, help="For scripts.")


@click.command()
@as_json
@click.option("--exit-code", is_flag=True, help="Exit with 3 unless the strategy is ACTIVE.")
def status(as_json: bool, exit_code: bool) -> None:
    """Where the strategy stands: halt state, account, open orders, what the broker says."""
    from trading_dagster.execution import operations
    from trading_dagster.execution.halts import HaltState
    from trading_dagster.execution.status_report import status_as_dict, status_text

    with errors_for_people(), _desk() as desk:
        found = operations.status(desk)
    _print(status_as_dict(found), status_text(found), as_json=as_json)
    sys.exit(NOT_AS_WANTED if exit_code and found.halt.state is not HaltState.ACTIVE else 0)


@click.command()
@_signed
@click.option("--reduce-only", is_flag=True, help="Let positions be reduced, and nothing else.")
@as_json
def halt(operator: str, reason: str, reduce_only: bool, as_json: bool) -> None:
    """Stop trading at once, a run between two orders included. Needs the ledger alone."""
    from trading_dagster.execution import operations
    from trading_dagster.execution.status_report import halt_as_dict
    from trading_dagster.resources.sql_ledger import SqlLedger

    with errors_for_people():
        settings = load_settings()
        ledger = SqlLedger(settings.resolved_ledger_url)
        state = operations.halt(ledger, settings.strategy, operator, reason, reduce_only=reduce_only)
    # with another ledger than that of the deployment, nothing would be halted there
    _print({**halt_as_dict(state), "ledger": ledger.address}, f"{state}\nledger: {ledger.address}", as_json=as_json)


@click.command()
@_signed
@click.option("--new-high", is_flag=True, help="Accept the loss: measure losses from the equity of now on.")
@as_json
def resume(operator: str, reason: str, new_high: bool, as_json: bool) -> None:
    """Trade again; refused while the cause of the halt stands."""
    from trading_dagster.execution import operations
    from trading_dagster.execution.status_report import halt_as_dict

    with errors_for_people(), _desk() as desk:
        state = operations.resume(desk, operator, reason, new_high=new_high)
    _print(halt_as_dict(state), str(state), as_json=as_json)


@click.command()
@_signed
@click.option("--order", "order_id", help="One order; all open ones by default.")
@click.option("--wait", default=60.0, show_default=True, help="Seconds to look on.")
@as_json
def cancel(operator: str, reason: str, order_id: str | None, wait: float, as_json: bool) -> None:
    """Cancel the strategy's open orders; exits with 3 while one is still open."""
    from trading_dagster.execution import operations
    from trading_dagster.execution.orders import TERMINAL_STATES

    with errors_for_people(), _desk() as desk:
        orders = operations.cancel(desk, operator, reason, order_id, operations.Watch(wait))
    plain = [{"order": o.client_order_id, "state": o.state.value, "filled": str(o.filled_quantity)} for o in orders]
    text = "\n".join(f"{o.client_order_id}  {o.state}, {o.filled_quantity} filled" for o in orders)
    _print(plain, text or "no open orders", as_json=as_json)
    sys.exit(0 if all(order.state in TERMINAL_STATES for order in orders) else NOT_AS_WANTED)


@click.command()
@_signed
@click.option("--wait", default=60.0, show_default=True, help="Seconds to look on.")
@as_json
def flatten(operator: str, reason: str, wait: float, as_json: bool) -> None:
    """Halt, cancel everything, close what the broker holds; exits with 3 until the broker shows nothing."""
    from trading_dagster.execution import operations

    with errors_for_people(), _desk() as desk:
        done = operations.flatten(desk, operator, reason, operations.Watch(wait))
    plain = {
        "flat": done.flat,
        "cancelled": done.cancelled,
        "sent": done.sent,
        "left": {symbol: str(quantity) for symbol, quantity in done.left.items()},
    }
    _print(plain, str(done), as_json=as_json)
    sys.exit(0 if done.flat else NOT_AS_WANTED)


@click.command()
@click.option("--accept", is_flag=True, help="Book what nothing explains as the broker has it.")
@click.option("--operator", default="", help="Who does it; needed with --accept.")
@click.option("--reason", default="", help="Why; needed with --accept.")
@as_json
def reconcile(accept: bool, operator: str, reason: str, as_json: bool) -> None:
    """Book what happened at the broker, and compare; exits with 3 where they differ, or trading is halted."""
    from trading_dagster.execution import operations
    from trading_dagster.execution.halts import HaltState
    from trading_dagster.execution.status_report import halt_as_dict, reconciliation_as_dict, reconciliation_text

    with errors_for_people(), _desk() as desk:
        found = operations.reconcile_now(desk, operator, reason, accept=accept)
        state = desk.ledger.halt_state(desk.strategy)
    plain = {**reconciliation_as_dict(found), "halt": halt_as_dict(state)}
    _print(plain, f"{reconciliation_text(found)}\n{state}", as_json=as_json)
    sys.exit(0 if found.matched and state.state is not HaltState.HALTED else NOT_AS_WANTED)


@click.command()
@click.option("--session", help="Orders decided at this session; the newest with orders by default.")
@click.option("--open", "only_open", is_flag=True, help="Those that have not ended, of any session.")
@as_json
def orders(session: str | None, only_open: bool, as_json: bool) -> None:
    """List orders with their state and their fills."""
    from trading_dagster.execution.status_report import orders_as_dicts, orders_text

    with errors_for_people(), _desk() as desk:
        ledger, strategy = desk.ledger, desk.strategy
        if only_open:
            wanted = {order.client_order_id: order.session for order in ledger.open_orders(strategy)}
            found = ledger.order_table(strategy, wanted.values())
            found = found[found["client_order_id"].isin(wanted)]
        else:
            newest = ledger.last_recorded_session(strategy)
            day = _day(session) if session is not None else (newest.date() if newest is not None else None)
            found = ledger.order_table(strategy, [] if day is None else [day])
    _print(orders_as_dicts(found), orders_text(found), as_json=as_json)


@click.command()
@click.argument("order")
@as_json
def explain(order: str, as_json: bool) -> None:
    """Why ORDER was sent: from the order back to the bars, the model, the code and the checks."""
    from trading_dagster.cli import dagster_instance
    from trading_dagster.execution.explain import as_dict, explain_order, render
    from trading_dagster.resources.tables import Tables

    with errors_for_people():
        settings = load_settings()
        with _desk() as desk, dagster_instance(settings) as instance:
            found = explain_order(settings, Tables(settings.resolved_tables_uri), desk.ledger, instance, order)
    _print(as_dict(found), render(found), as_json=as_json)


COMMANDS = (status, halt, resume, cancel, flatten, reconcile, orders, explain)


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Print errors without a traceback, and exit: 2 for what the user can mend in the command, 1 for the rest."""
    from trading_dagster.execution.explain import ExplainError
    from trading_dagster.execution.lease import LeaseHeldError, LeaseLostError
    from trading_dagster.execution.operations import OperationError
    from trading_dagster.resources.broker import BrokerError
    from trading_dagster.resources.ledger import LedgerError
    from trading_dagster.resources.storage_errors import TablesUnavailableError

    try:
        yield
    except (SettingsError, OperationError, ExplainError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(WRONG_USE)
    except (LedgerError, TablesUnavailableError, BrokerError, LeaseHeldError, LeaseLostError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(FAILED)


@contextmanager
def _desk(settings: Settings | None = None) -> Iterator[Desk]:
    from trading_dagster.execution.desks import build_desk

    yield build_desk(settings or load_settings())


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--session {text!r} is not a date; write it as YYYY-MM-DD") from None


def _print(plain: Any, text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(plain, indent=2) if as_json else text)
