"""Orders: paper execution of the signals."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._pictures import equity_picture
from trading_dagster.assets._stage import (
    CALENDAR,
    Stopwatch,
    average_volumes,
    histories,
    markets,
    observed,
    partition_sessions,
    stage,
    stage_output,
)
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.checks.gates import check_gates, gates_spec
from trading_dagster.execution.trading_session import Desk, SessionTrades, Wish, observe, trade_session
from trading_dagster.executors import EXECUTION_POOL
from trading_dagster.quant.performance import equal_weight_buy_and_hold
from trading_dagster.quant.prices import PriceHistory
from trading_dagster.settings import Settings

UPSTREAM = (
    "bars", "corporate_actions", "phasing", "regime", "volatility", "forecast", "allocation", "signals",
)  # fmt: skip
"""Assets whose latest verdict must be there and good before anything is ordered."""


@dg.asset(
    **stage(
        "orders",
        group="execution",
        kinds={"sqlalchemy", "deltalake"},
        description=(
            "Paper orders: target minus held, committed to the ledger before they are sent, filled at the next "
            "session's open. A second run sends nothing. This table is a copy of the ledger's orders of the session; "
            "the ledger is the truth. Gates hold orders back by name: see the check `gates`."
        ),
        checks=[gates_spec()],
    ),
    # one run that trades at a time, also where it is this asset alone that somebody chose in the UI
    pool=EXECUTION_POOL,
)
def orders(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    signals: pd.DataFrame,
    settings: dg.ResourceParam[Settings],
    desk: dg.ResourceParam[Desk],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Trade each session in order."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "orders", observed(known))
    decisions = {at: part.set_index("symbol") for at, part in signals.groupby("session")}
    volumes = average_volumes(bars, known, sessions)
    trades: dict[date, SessionTrades] = {}
    for market in markets(known, _span(desk, sessions), verdict.gone):
        at = pd.Timestamp(market.session)
        if at not in sessions:
            observe(desk, market)  # it was skipped: the account passes it without new orders
            continue
        rows = decisions[at]
        wish = Wish(
            targets=rows["target_weight"].to_dict(),
            reasons=rows["reason"].to_dict(),
            verdicts=desk.ledger.verdicts(market.session, UPSTREAM),
            stages=UPSTREAM,
            average_volumes=volumes[at],
        )
        trades[market.session] = trade_session(desk, market, wish, context.run.run_id)
        if trades[market.session].refused is not None and not desk.broker.real:
            break  # its time stands still until the cause is mended, so that no session of the range is left out
    yield _output(
        context,
        desk,
        settings,
        known[-1].history,
        trades,
        stopwatch,
        {"bars": bars, "corporate_actions": corporate_actions, "signals": signals},
    )
    judged = check_gates(trades)
    yield judged
    if judged.severity is dg.AssetCheckSeverity.ERROR and not judged.passed:
        raise dg.Failure(f"orders are held back: {judged.description}", allow_retries=False)


def _span(desk: Desk, sessions: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Sessions that the account passes: on the simulated broker, also those that were skipped since the last one."""
    start = desk.ledger.last_recorded_session(desk.strategy)
    if desk.broker.real or start is None or start >= sessions[0]:
        return sessions
    return CALENDAR.between(CALENDAR.next(start), sessions[-1])


def _output(
    context: dg.AssetExecutionContext,
    desk: Desk,
    settings: Settings,
    history: PriceHistory,
    trades: dict[date, SessionTrades],
    stopwatch: Stopwatch,
    inputs: dict[str, pd.DataFrame],
) -> dg.Output[pd.DataFrame]:
    """The ledger's orders of the run's sessions, with what trading them did."""
    planned = sum(each.planned for each in trades.values())
    submitted = sum(each.submitted for each in trades.values())
    before = sum(each.decided_before for each in trades.values())
    context.log.info(f"orders: {planned} planned, {submitted} submitted, {before} sessions decided before")
    keys = [pd.Timestamp(key) for key in sorted(context.partition_keys)]
    curve = desk.ledger.equity_curve(desk.strategy)["equity"]
    equity = curve.loc[: keys[-1]]
    benchmark = equal_weight_buy_and_hold(
        history.select(settings.universe),
        pd.DatetimeIndex(equity.index),
        float(equity.iloc[0]) if len(equity) else 0.0,
        float(settings.commission_rate + settings.slippage_rate),
    )

    def figures(key: str, part: pd.DataFrame) -> dict[str, float | int | str]:
        at = pd.Timestamp(key)
        done = trades.get(at.date())
        found: dict[str, float | int | str] = {
            "orders": len(part),
            "ordered_amount": float((part["quantity"] * part["reference_price"]).sum()),
            "refused_by": ", ".join(sorted({r.gate.value for r in done.refusals})) if done else "not reached",
        }
        if at in equity.index:
            found |= {"equity": float(equity[at]), "equal_weight_buy_and_hold": float(benchmark[at])}
        return found

    return stage_output(
        context,
        desk.ledger.order_table(desk.strategy, [key.date() for key in keys]),
        stopwatch,
        inputs=inputs,
        figures=figures,
        picture=equity_picture(equity, benchmark) if len(equity) else None,
        facts={
            "orders_planned": planned,
            "orders_submitted": submitted,
            "sessions_decided_before": before,
            "halt_state": str(desk.ledger.halt_state(desk.strategy)),
            "dry_run": desk.conduct.dry_run,
        },
    )
