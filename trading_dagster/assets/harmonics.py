"""Harmonics: the periods that stand out of the spectrum of returns, if any."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from trading_dagster.assets._pictures import harmonics_picture
from trading_dagster.assets._stage import Stopwatch, histories, observed, partition_sessions, stage, stage_output
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.quant import harmonics as spectrum


@dg.asset(
    **stage(
        "harmonics",
        group="analysis",
        kinds={"scipy", "deltalake"},
        description=(
            "Peaks of the multitaper spectrum of returns that red noise does not explain, corrected for all "
            "frequencies tested. Rank 0 says that there is none, which is the usual answer."
        ),
    )
)
def harmonics(
    context: dg.AssetExecutionContext,
    bars: pd.DataFrame,
    corporate_actions: pd.DataFrame,
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Test the spectrum of each symbol."""
    stopwatch, sessions = Stopwatch(), partition_sessions(context)
    known = histories(bars, corporate_actions, sessions)
    verdict = yield from data_policy.enforce(context, "harmonics", observed(known))
    rows = pd.concat([spectrum.harmonics(k.history.select(verdict.symbols), k.sessions) for k in known])
    rows = verdict.keep(rows.reset_index(drop=True))
    yield stage_output(
        context,
        rows,
        stopwatch,
        inputs={"bars": bars, "corporate_actions": corporate_actions},
        figures=lambda _, part: {
            "symbols_with_a_peak": int(part.loc[part["rank"] == 1, "symbol"].nunique()),
            "smallest_p_value": float(part["p_value"].min()),
        },
        picture=harmonics_picture(rows),
    )
