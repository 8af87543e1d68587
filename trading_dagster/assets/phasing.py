"""Phasing: where price stands in its nominal cycles."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._pictures import phasing_picture
from trading_dagster.assets._stage import (
    Stopwatch,
    histories,
    observed,
    partition_sessions,
    published,
    stage,
    stage_output,
)
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.quant import cycles
from trading_dagster.quant.phase_returns import phase_returns
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import Settings

SIGNIFICANT = 0.05
REMEMBERED = 2520
"""Past sessions whose phases count in the returns by phase, ten years."""


@dg.asset(
    **stage(
        "phasing",
        group="analysis",
        kinds={"numpy", "deltalake"},
        description=(
            "Phase, period, amplitude and significance of the nominal cycles (TRADING_CYCLES) at the session's close, "
            "with the FLD, the trend line, and troughs and peaks, provisional and confirmed. A cycle describes the "
            "past; its p-value says how seriously: noise shows one at 5 % in a twentieth of all windows, and prices "
            "hardly more."
        ),
    )
)
def phasing(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    settings: dg.ResourceParam[Settings],
    tables: dg.ResourceParam[Tables],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Fit the cycles."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "phasing", observed(known))
    rows = pd.concat([cycles.phasing(k.history.select(verdict.symbols), k.sessions, settings.cycles) for k in known])
    rows = verdict.keep(rows.reset_index(drop=True))
    history = known[-1].history.select(verdict.symbols)
    told = published(tables, "phasing", rows, history.sessions[-REMEMBERED:][0], ("cycle", "phase"))
    after = phase_returns(told, history, sessions[-1])
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={"bars": bars, "corporate_actions": corporate_actions},
        figures=lambda _, part: {
            "significant_cycles": float((part["p_value"] < SIGNIFICANT).mean()),
            "crosses_up": int((part["fld_cross"] == 1).sum()),
            "crosses_down": int((part["fld_cross"] == -1).sum()),
        },
        picture=phasing_picture(history, rows[rows["session"] == sessions[-1]]),
        facts={"returns_by_phase": dg.MetadataValue.md(_as_markdown(after))},
    )


def _as_markdown(after: pd.DataFrame) -> str:
    """Write the returns that followed each phase as a table for the UI."""
    if after.empty:
        return "no phase that was published is old enough for its return to be known"
    lines = ["| cycle | phase | times | mean log return | standard error |", "|---|---|---|---|---|"]
    bins = after["bin"].max() + 1
    for row in after.itertuples():
        span = f"{row.bin / bins:.3g} to {(row.bin + 1) / bins:.3g}"
        lines.append(f"| {row.cycle} | {span} | {row.count} | {row.mean:+.2%} | {row.standard_error:.2%} |")
    return "\n".join(lines)
