"""What tests of several rooms share: an installation of its own in a temporary folder, run through Dagster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from hypothesis import settings
from sqlalchemy import text

from trading_dagster.definitions import build_definitions
from trading_dagster.resources.sql_ledger import SqlLedger
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import Settings

pytest_plugins = ["tests.postgres", "tests.object_storage"]

# by default an example that takes longer than 200 ms fails its test: on a busy machine, any may
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Outcome:
    """A finished run, with the questions that tests ask of it."""

    result: dg.ExecuteInProcessResult

    @property
    def success(self) -> bool:
        return self.result.success

    @property
    def failures(self) -> dict[str, str]:
        """Message of each failed step."""
        found = {}
        for event in self.result.all_events:
            if event.event_type_value == "STEP_FAILURE":
                data = event.step_failure_data
                error = data.error
                while error is not None and error.cause is not None:
                    error = error.cause
                described = data.user_failure_data.description if data.user_failure_data else None
                found[str(event.step_key)] = described or (error.message if error else "")
        return found

    @property
    def succeeded(self) -> set[str]:
        return {str(e.step_key) for e in self.result.all_events if e.event_type_value == "STEP_SUCCESS"}

    @property
    def checks(self) -> list[dg.AssetCheckEvaluation]:
        return self.result.get_asset_check_evaluations()

    def metadata(self, asset: str, partition: str) -> dict[str, Any]:
        """Metadata of one materialisation."""
        for event in self.result.asset_materializations_for_node(asset):
            if event.partition == partition:
                return {name: value.value for name, value in event.metadata.items()}
        raise AssertionError(f"{asset} was not materialised for {partition}")


@dataclass(frozen=True)
class Installation:
    """Settings, tables, ledger and Dagster instance of one data folder."""

    settings: Settings
    instance: dg.DagsterInstance

    @property
    def definitions(self) -> dg.Definitions:
        return build_definitions(self.settings)

    @property
    def tables(self) -> Tables:
        return Tables(self.settings.resolved_tables_uri)

    @cached_property
    def ledger(self) -> SqlLedger:
        return SqlLedger(self.settings.resolved_ledger_url)

    def run(self, *sessions: str, job: str = "daily", assets: Sequence[str] | None = None) -> Outcome:
        """Run a job for one partition, or from the first to the second."""
        tags = {}
        if len(sessions) == 2:
            tags = {
                "dagster/asset_partition_range_start": sessions[0],
                "dagster/asset_partition_range_end": sessions[1],
            }
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=sessions[0] if len(sessions) == 1 else None,
            asset_selection=[dg.AssetKey(name) for name in assets] if assets else None,
            tags=tags,
            raise_on_error=False,
            run_config=QUIET,
        )
        return Outcome(result)

    def train(self, month: str, bars_to: str) -> None:
        """Store bars and fit a month's model."""
        assert self.run(bars_to, assets=["bars", "corporate_actions"]).success
        outcome = self.run(month, job="training")
        assert outcome.success, outcome.failures

    def train_stages(self, month: str, bars_to: str) -> Outcome:
        """Store bars and fit a month's models of regime and volatility alone."""
        assert self.run(bars_to, assets=["bars", "corporate_actions"]).success
        return self.run(month, job="training", assets=["regime_model", "volatility_model"])

    def count(self, table: str) -> int:
        """Rows of a ledger table."""
        with self.ledger.transaction() as db:
            return int(db.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())

    def stored(self) -> list[str]:
        """Tables that exist and hold a row."""
        folder = Path(self.settings.resolved_tables_uri)
        return sorted(p.name for p in folder.iterdir() if len(self.tables.read(p.name))) if folder.exists() else []


def write_prices(folder: Path, closes: pd.DataFrame) -> Path:
    """Write one CSV a symbol, as a user would bring them."""
    folder.mkdir(parents=True, exist_ok=True)
    for symbol in closes:
        closes[symbol].dropna().rename("close").rename_axis("date").to_csv(folder / f"{symbol}.csv")
    return folder


def make_installation(folder: Path, **settings: Any) -> Installation:
    """Build an installation below `folder`; settings override the defaults."""
    return Installation(
        Settings(data_dir=folder / "data", **settings),
        dg.DagsterInstance.ephemeral(),
    )


@pytest.fixture(scope="session")
def sample_closes() -> pd.DataFrame:
    """The embedded sample from 2000 on."""
    from skfolio.datasets import load_sp500_dataset

    return load_sp500_dataset().loc["2000":]
