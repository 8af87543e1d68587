"""The operator's actions as Dagster jobs, with who and why in the config; the same as the commands of `trading`.

Belongs here: config and what the UI shows of a result. What each does is in `execution.operations`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from trading_dagster.execution.trading_session import Desk
from trading_dagster.executors import EXECUTION_LANE
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import Settings

NO_RETRIES = {"dagster/max_retries": "0"}
URGENT = {"dagster/priority": "100"}
"""Before whatever waits in the queue."""


class SignedConfig(dg.Config):
    """Who does it, and why; kept for good.

    Attributes
    ----------
    operator, reason : str
    """

    operator: str
    reason: str


class HaltConfig(SignedConfig):
    """Attributes beside who and why.

    Attributes
    ----------
    reduce_only : bool
        Let positions be reduced, and nothing else.
    """

    reduce_only: bool = False


class ResumeConfig(SignedConfig):
    """Attributes beside who and why.

    Attributes
    ----------
    new_high : bool
        Accept the loss: measure losses from the equity of now on.
    """

    new_high: bool = False


class CancelConfig(SignedConfig):
    """Attributes beside who and why.

    Attributes
    ----------
    order : str
        One order; all open ones where it is empty.
    """

    order: str = ""


class ReconcileConfig(dg.Config):
    """What to do with differences.

    Attributes
    ----------
    accept : bool
        Book what nothing explains as the broker has it; needs operator and reason.
    operator, reason : str
    """

    accept: bool = False
    operator: str = ""
    reason: str = ""


class OrdersConfig(dg.Config):
    """Which orders.

    Attributes
    ----------
    session : str
        Those decided at this session; the newest where it is empty.
    """

    session: str = ""


class ExplainConfig(dg.Config):
    """Which order.

    Attributes
    ----------
    order : str
    """

    order: str


@dg.op(description="Where the strategy stands.")
def show_status(context: dg.OpExecutionContext, desk: dg.ResourceParam[Desk]) -> None:
    """Show the status."""
    from trading_dagster.execution import operations
    from trading_dagster.execution.status_report import status_as_dict, status_text

    found = operations.status(desk)
    _show(context, status_text(found), status_as_dict(found))


@dg.op(description="Stop trading at once.")
def halt_trading(context: dg.OpExecutionContext, config: HaltConfig, desk: dg.ResourceParam[Desk]) -> None:
    """Halt."""
    from trading_dagster.execution import operations
    from trading_dagster.execution.status_report import halt_as_dict

    state = operations.halt(desk.ledger, desk.strategy, config.operator, config.reason, reduce_only=config.reduce_only)
    _show(context, str(state), halt_as_dict(state))


@dg.op(description="Trade again, unless the cause of the halt stands.")
def resume_trading(context: dg.OpExecutionContext, config: ResumeConfig, desk: dg.ResourceParam[Desk]) -> None:
    """Resume."""
    from trading_dagster.execution import operations
    from trading_dagster.execution.status_report import halt_as_dict

    state = operations.resume(desk, config.operator, config.reason, new_high=config.new_high)
    _show(context, str(state), halt_as_dict(state))


@dg.op(description="Cancel open orders.")
def cancel_orders(context: dg.OpExecutionContext, config: CancelConfig, desk: dg.ResourceParam[Desk]) -> None:
    """Cancel."""
    from trading_dagster.execution import operations
    from trading_dagster.execution.orders import TERMINAL_STATES

    orders = operations.cancel(desk, config.operator, config.reason, config.order or None)
    text = "\n".join(f"{order.client_order_id}  {order.state}" for order in orders) or "no open orders"
    left = [order.client_order_id for order in orders if order.state not in TERMINAL_STATES]
    failure = f"still open at the broker: {', '.join(left)}; run the job again" if left else ""
    _show(context, text, {order.client_order_id: order.state.value for order in orders}, failure)


@dg.op(description="Halt, cancel everything, close what the broker holds, verify that it shows nothing.")
def flatten_account(context: dg.OpExecutionContext, config: SignedConfig, desk: dg.ResourceParam[Desk]) -> None:
    """Flatten."""
    from trading_dagster.execution import operations

    done = operations.flatten(desk, config.operator, config.reason)
    plain = {"flat": done.flat, "left": {s: str(q) for s, q in done.left.items()}}
    _show(context, str(done), plain, "" if done.flat else str(done))


@dg.op(description="Book what happened at the broker, compare it with the ledger, halt where they differ.")
def reconcile_account(context: dg.OpExecutionContext, config: ReconcileConfig, desk: dg.ResourceParam[Desk]) -> None:
    """Reconcile."""
    from trading_dagster.execution import operations
    from trading_dagster.execution.status_report import halt_as_dict, reconciliation_as_dict, reconciliation_text

    found = operations.reconcile_now(desk, config.operator, config.reason, accept=config.accept)
    state = desk.ledger.halt_state(desk.strategy)
    failure = (
        "" if found.matched else f"ledger and broker differ, and trading is halted: {'; '.join(found.differences)}"
    )
    text = f"{reconciliation_text(found)}\n{state}"
    _show(context, text, {**reconciliation_as_dict(found), "halt": halt_as_dict(state)}, failure)


@dg.op(description="Orders with their states and fills.")
def show_orders(context: dg.OpExecutionContext, config: OrdersConfig, desk: dg.ResourceParam[Desk]) -> None:
    """List orders."""
    import pandas as pd

    from trading_dagster.execution.status_report import orders_as_dicts, orders_text

    newest = desk.ledger.last_recorded_session(desk.strategy)
    at = pd.Timestamp(config.session) if config.session else newest
    orders = desk.ledger.order_table(desk.strategy, [] if at is None else [at.date()])
    _show(context, orders_text(orders), orders_as_dicts(orders))


@dg.op(description="Why an order was sent.")
def explain_an_order(
    context: dg.OpExecutionContext,
    config: ExplainConfig,
    desk: dg.ResourceParam[Desk],
    settings: dg.ResourceParam[Settings],
    tables: dg.ResourceParam[Tables],
) -> None:
    """Explain an order."""
    from trading_dagster.execution.explain import as_dict, explain_order, render

    found = explain_order(settings, tables, desk.ledger, context.instance, config.order)
    _show(context, render(found), as_dict(found))


def _show(context: dg.OpExecutionContext, text: str, plain: Any, failure: str = "") -> None:
    """Show a result in the log and beside the step's output, or beside its failure."""
    context.log.info(text)
    shown = {"result": dg.MetadataValue.md(f"```\n{text}\n```"), "values": dg.MetadataValue.json(plain)}
    if failure:
        raise dg.Failure(failure, metadata=shown, allow_retries=False)
    context.add_output_metadata(shown)


def _job(name: str, op: Any, description: str, queue: Mapping[str, str] | None = None) -> dg.JobDefinition:
    tags = {**NO_RETRIES, **(queue or {})}

    # in one process: an operator who halts does not wait for another one to start
    @dg.job(name=name, description=description, executor_def=dg.in_process_executor, tags=tags)
    def job() -> None:
        op()

    return job


reconcile_job = _job(
    "reconcile",
    reconcile_account,
    "Compare ledger and broker; the same as `trading reconcile`.",
    # beside a run that is sending orders it would see half of them; all the others must never wait behind a run
    EXECUTION_LANE,
)

OPERATOR_JOBS: Sequence[dg.JobDefinition] = [
    _job("status", show_status, "Where the strategy stands; the same as `trading status`."),
    _job("halt", halt_trading, "Stop trading at once; the same as `trading halt`.", URGENT),
    _job("resume", resume_trading, "Trade again; the same as `trading resume`.", URGENT),
    _job("cancel", cancel_orders, "Cancel open orders; the same as `trading cancel`.", URGENT),
    _job("flatten", flatten_account, "Close everything that the broker holds; the same as `trading flatten`.", URGENT),
    reconcile_job,
    _job("list_orders", show_orders, "Orders with their states and fills; the same as `trading orders`."),
    _job("explain_order", explain_an_order, "Why an order was sent; the same as `trading explain`."),
]
