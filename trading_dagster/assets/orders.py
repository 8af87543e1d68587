"""Orders: paper execution of the signals."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._pictures import equity_picture
from trading_dagster.assets._stage import (
    CALENDAR,
    Stopwatch,
    histories,
    markets,
    observed,
    partition_sessions,
    stage,
    stage_output,
)
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.execution.trading_session import trade_session
from trading_dagster.quant.performance import equal_weight_buy_and_hold
from trading_dagster.resources.broker import Broker
from trading_dagster.resources.ledger import Ledger
from trading_dagster.settings import Settings

UPSTREAM = (
    "bars", "corporate_actions", "phasing", "regime", "volatility", "forecast", "allocation", "signals",
)  # fmt: skip
"""Assets whose latest verdict must be there and good before anything is ordered."""


class UpstreamVerdictError(RuntimeError):
    """A stage that the orders rest on failed its policy check for the session, or was never checked."""


@dg.asset(
    **stage(
        "orders",
        group="execution",
        kinds={"sqlalchemy", "deltalake"},
        description=(
            "Paper orders: target minus held, committed to the ledger before they are sent, filled at the next "
            "session's open. A second run sends nothing. This table is a copy of the ledger's orders of the session; "
            "the ledger is the truth."
        ),
    )
)
def orders(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    signals: pd.DataFrame,
    settings: dg.ResourceParam[Settings],
    ledger: dg.ResourceParam[Ledger],
    broker: dg.ResourceParam[Broker],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Trade each session in order."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "orders", observed(known))
    for session in sessions:
        _require_verdicts(ledger, session)
    start = ledger.last_recorded_session(settings.strategy)
    # sessions that were skipped since the account was last brought forward are settled without new orders
    first = sessions[0] if start is None or start >= sessions[0] else CALENDAR.next(start)
    span = CALENDAR.between(first, sessions[-1])
    decisions = {at: part.set_index("symbol") for at, part in signals.groupby("session")}
    planned = submitted = decided_before = 0
    for market in markets(known, span, verdict.gone):
        at = pd.Timestamp(market.session)
        if at not in decisions:
            broker.settle(market)
            continue
        trades = trade_session(
            ledger,
            broker,
            settings.strategy,
            market,
            decisions[at]["target_weight"].to_dict(),
            decisions[at]["reason"].to_dict(),
            context.run.run_id,
        )
        planned += trades.planned
        submitted += trades.submitted
        decided_before += trades.decided_before
    context.log.info(f"orders: {planned} planned, {submitted} submitted, {decided_before} sessions decided before")
    rows = ledger.order_table(settings.strategy, [session.date() for session in sessions])
    equity = ledger.equity_curve(settings.strategy)["equity"].loc[: sessions[-1]]
    benchmark = equal_weight_buy_and_hold(
        known[-1].history.select(settings.universe),
        pd.DatetimeIndex(equity.index),
        float(settings.initial_cash),
        float(settings.commission_rate + settings.slippage_rate),
    )
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={"bars": bars, "signals": signals},
        figures=lambda key, part: {
            "orders": len(part),
            "ordered_amount": float((part["quantity"] * part["reference_price"]).sum()),
            "equity": float(equity[key]),
            "equal_weight_buy_and_hold": float(benchmark[key]),
        },
        picture=equity_picture(equity, benchmark),
        facts={
            "orders_planned": planned,
            "orders_submitted": submitted,
            "sessions_decided_before": decided_before,
        },
    )


def _require_verdicts(ledger: Ledger, session: pd.Timestamp) -> None:
    """Hold back orders unless every upstream stage passed: a blocking check guards only its own run."""
    verdicts = ledger.verdicts(session.date(), UPSTREAM)
    missing = [name for name in UPSTREAM if name not in verdicts]
    failed = [name for name, passed in verdicts.items() if not passed]
    if missing or failed:
        raise UpstreamVerdictError(
            f"orders of {session:%Y-%m-%d} are held back: data policy failed for {', '.join(failed) or 'none'}, "
            "was not "
            f"evaluated for {', '.join(missing) or 'none'}; correct the data and materialise these stages for the "
            "session, "
            f"for instance with: trading run --session {session:%Y-%m-%d}"
        )
