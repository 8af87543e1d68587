"""Wiring: assets, checks, jobs, schedules, sensors and resources as one Dagster code location. No logic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from trading_dagster.assets._stage import CALENDAR
from trading_dagster.assets.allocation import allocation
from trading_dagster.assets.condition import condition
from trading_dagster.assets.forecast import forecast, forecast_model
from trading_dagster.assets.harmonics import harmonics
from trading_dagster.assets.market_data import bars, corporate_actions
from trading_dagster.assets.orders import orders
from trading_dagster.assets.phasing import phasing
from trading_dagster.assets.regime import regime, regime_model
from trading_dagster.assets.signals import signals
from trading_dagster.assets.volatility import volatility, volatility_model
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.checks.freshness import build_freshness_checks
from trading_dagster.execution.trading_session import Desk
from trading_dagster.jobs import ALL_JOBS
from trading_dagster.maintenance_jobs import MAINTENANCE_JOBS
from trading_dagster.operator_jobs import OPERATOR_JOBS
from trading_dagster.resources.alpaca_source import AlpacaSource
from trading_dagster.resources.files_source import FilesSource
from trading_dagster.resources.io_manager import TableIOManager
from trading_dagster.resources.ledger import Ledger
from trading_dagster.resources.market_data import MarketDataSource
from trading_dagster.resources.sample_source import SampleSource
from trading_dagster.resources.tables import Tables
from trading_dagster.resources.yahoo_source import YahooSource
from trading_dagster.schedules import build_schedules
from trading_dagster.sensors import build_missed_session_sensor
from trading_dagster.settings import Settings, load_settings

ASSETS = [
    corporate_actions,
    bars,
    phasing,
    harmonics,
    regime_model,
    regime,
    volatility_model,
    volatility,
    condition,
    forecast_model,
    forecast,
    allocation,
    signals,
    orders,
]


def build_resources(settings: Settings) -> dict[str, Any]:
    """Build all resources from the settings; none of them connects to anything yet."""
    tables = Tables(settings.resolved_tables_uri)

    @dg.resource
    def ledger(_: dg.InitResourceContext) -> Ledger:
        from trading_dagster.resources.sql_ledger import SqlLedger

        return SqlLedger(settings.resolved_ledger_url)

    @dg.resource(required_resource_keys={"ledger"})
    def desk(context: dg.InitResourceContext) -> Desk:
        from trading_dagster.execution.desks import build_desk

        return build_desk(settings, context.resources.ledger)

    @dg.resource(required_resource_keys={"ledger"})
    def data_policy(context: dg.InitResourceContext) -> DataPolicyGuard:
        return DataPolicyGuard(
            context.resources.ledger,
            tables,
            CALENDAR,
            settings.policy,
            settings.universe,
            settings.data_dir.absolute() / "logs" / "policy_violations.log",
        )

    return {
        "settings": settings,
        "tables": tables,
        "io_manager": TableIOManager(tables, CALENDAR),
        "source": _source(settings),
        "ledger": ledger,
        "desk": desk,
        "data_policy": data_policy,
    }


def build_definitions(
    settings: Settings | None = None, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Build the code location.

    Parameters
    ----------
    settings : Settings, optional
        Read from the environment by default.
    resource_overrides : mapping, optional
        Resources that replace those built from the settings, for tests.
    """
    settings = settings or load_settings()
    resources = build_resources(settings)
    return dg.Definitions(
        assets=ASSETS,
        asset_checks=build_freshness_checks(CALENDAR),
        resources={**resources, **(resource_overrides or {})},
        jobs=[*ALL_JOBS, *OPERATOR_JOBS, *MAINTENANCE_JOBS],
        schedules=build_schedules(CALENDAR, settings),
        sensors=[build_missed_session_sensor(CALENDAR)],
        executor=dg.in_process_executor,
    )


def _source(settings: Settings) -> MarketDataSource:
    if settings.source == "files":
        assert settings.files_dir is not None  # the settings refuse this combination
        return FilesSource(settings.files_dir)
    if settings.source == "yahoo":
        return YahooSource(CALENDAR, settings.yahoo_endpoint, settings.fetch_concurrency, settings.fetch_seconds)
    if settings.source == "alpaca":
        assert settings.alpaca_api_key is not None  # likewise
        assert settings.alpaca_secret_key is not None
        return AlpacaSource(
            CALENDAR,
            settings.alpaca_api_key.get_secret_value(),
            settings.alpaca_secret_key.get_secret_value(),
            settings.alpaca_data_endpoint,
            settings.alpaca_feed,
            settings.fetch_concurrency,
            settings.fetch_seconds,
        )
    return SampleSource()


defs = build_definitions()
