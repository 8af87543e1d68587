"""Signals: BUY, SELL or HOLD, and why."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

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
from trading_dagster.checks.decisions import check_weights, weights_spec
from trading_dagster.execution.accounting import Account, Costs, MarketSession
from trading_dagster.execution.replay import replay_decisions
from trading_dagster.execution.trading_session import Desk, observe
from trading_dagster.quant.decisions import Evidence, decide
from trading_dagster.settings import Settings

IN_QUARANTINE = "its bar of the session is in quarantine: what is held stays until it is released or a next bar comes"


@dg.asset(
    **stage(
        "signals",
        group="portfolio",
        kinds={"pandas", "deltalake"},
        description=(
            "What to do with each symbol at the next open, the weight held and wanted, and the reason in words. "
            "Changes smaller than the no-trade band are not worth their cost. Held weights come from the ledger; over "
            "a range they are replayed."
        ),
        checks=[weights_spec("signals")],
    )
)
def signals(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    regime: pd.DataFrame,
    volatility: pd.DataFrame,
    condition: pd.DataFrame,
    forecast: pd.DataFrame,
    allocation: pd.DataFrame,
    settings: dg.ResourceParam[Settings],
    desk: dg.ResourceParam[Desk],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Decide each session on the account that the earlier ones led to."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "signals", observed(known))
    evidence = _evidence(verdict.keep(forecast), regime, volatility, condition)
    targets = {
        at: dict(zip(part["symbol"], part["weight"], strict=True))
        for at, part in verdict.keep(allocation).groupby("session")
    }

    def decide_session(market: MarketSession, held: dict[str, float]) -> pd.DataFrame:
        at = pd.Timestamp(market.session)
        return decide(
            targets[at],
            held,
            evidence[at],
            no_trade_band=settings.no_trade_band,
            max_gross=settings.max_gross,
            waiting={symbol: IN_QUARANTINE for symbol in verdict.waiting.columns[verdict.waiting.loc[at]]},
        )

    start = desk.ledger.last_recorded_session(settings.strategy, sessions[0])
    span = CALENDAR.between(sessions[0] if start is None else start, sessions[-1])
    passed = markets(known, span, verdict.gone)
    if desk.broker.real and passed[-1].session == desk.broker.newest_session():
        observe(desk, passed[-1])  # what is held is what the broker says, not what a replay would make of it
    decided = replay_decisions(
        settings.strategy,
        sessions,
        passed,
        decide_session,
        desk.ledger,
        Account(settings.initial_cash),
        Costs(settings.commission_rate, settings.slippage_rate),
        desk.conduct.terms,
        desk.conduct.limits,
        average_volumes(bars, known, sessions),
    )
    rows = pd.concat(decided, ignore_index=True)
    yield check_weights("signals", rows, "target_weight", max_weight=settings.max_weight, max_gross=settings.max_gross)
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={
            "bars": bars,
            "corporate_actions": corporate_actions,
            "regime": regime,
            "volatility": volatility,
            "condition": condition,
            "forecast": forecast,
            "allocation": allocation,
        },
        figures=lambda _, part: {
            "buys": int((part["action"] == "BUY").sum()),
            "sells": int((part["action"] == "SELL").sum()),
            "turnover": float((part["target_weight"] - part["current_weight"]).abs().sum()),
        },
        facts={"newest": dg.MetadataValue.md(_as_markdown(rows[rows["session"] == sessions[-1]]))},
    )


def _evidence(
    forecast: pd.DataFrame, regime: pd.DataFrame, volatility: pd.DataFrame, condition: pd.DataFrame
) -> dict[pd.Timestamp, dict[str, Evidence]]:
    """What is known of each symbol, by session."""
    keys = ["session", "symbol"]
    rows = forecast.merge(regime[[*keys, "regime"]], on=keys).merge(volatility[[*keys, "sigma_1d"]], on=keys)
    rows = rows.merge(condition[[*keys, "condition"]], on=keys)
    evidence: dict[pd.Timestamp, dict[str, Evidence]] = {}
    for row in rows.itertuples():
        evidence.setdefault(row.session, {})[row.symbol] = Evidence(
            expected_return=row.expected_return,
            horizon=int(row.horizon),
            p_up=row.p_up,
            confidence=row.confidence,
            regime=row.regime,
            condition=row.condition,
            sigma=row.sigma_1d,
        )
    return evidence


def _as_markdown(rows: pd.DataFrame) -> str:
    """Write the newest decisions as a table for the UI."""
    lines = ["| symbol | action | held | wanted | reason |", "|---|---|---|---|---|"]
    ordered = rows.assign(change=(rows["target_weight"] - rows["current_weight"]).abs())
    for row in ordered.sort_values("change", ascending=False).itertuples():
        lines.append(
            f"| {row.symbol} | {row.action} | {row.current_weight:.1%} | {row.target_weight:.1%} | {row.reason} |"
        )
    return "\n".join(lines)
