"""Putting a desk together from the settings: which broker, which ledger, which limits.

Nothing here connects to anything. Apart from `definitions`, so that a command can trade, halt and report without
Dagster.
"""

from __future__ import annotations

from trading_dagster.execution.accounting import Account, Costs
from trading_dagster.execution.gates import Limits
from trading_dagster.execution.planner import Terms
from trading_dagster.execution.reconciliation import Comparison
from trading_dagster.execution.submitter import Budget
from trading_dagster.execution.trading_session import Conduct, Desk
from trading_dagster.resources.broker import Broker
from trading_dagster.resources.sql_ledger import SqlLedger
from trading_dagster.settings import Settings


def build_desk(settings: Settings, ledger: SqlLedger | None = None) -> Desk:
    """Build the desk of the settings' strategy."""
    ledger = ledger or SqlLedger(settings.resolved_ledger_url)
    return Desk(ledger, build_broker(settings, ledger), build_conduct(settings))


def build_broker(settings: Settings, ledger: SqlLedger) -> Broker:
    """Build the settings' broker."""
    if settings.broker == "alpaca":
        from trading_dagster.resources.alpaca_broker import AlpacaBroker

        assert settings.alpaca_api_key is not None  # the settings refuse this combination
        assert settings.alpaca_secret_key is not None
        return AlpacaBroker(
            settings.alpaca_api_key.get_secret_value(),
            settings.alpaca_secret_key.get_secret_value(),
            settings.alpaca_endpoint,
            seconds=settings.broker_seconds,
        )
    from trading_dagster.resources.simulated_broker import SimulatedBroker

    costs = Costs(settings.commission_rate, settings.slippage_rate)
    return SimulatedBroker(ledger, settings.strategy, Account(settings.initial_cash), costs)


def build_conduct(settings: Settings) -> Conduct:
    """Read how the strategy trades."""
    simulated = settings.broker == "simulated"
    return Conduct(
        strategy=settings.strategy,
        limits=Limits(
            position_weight=settings.resolved_limit_position_weight,
            gross=settings.limit_gross,
            order_notional=settings.limit_order_notional,
            daily_loss=settings.limit_daily_loss,
            drawdown=settings.limit_drawdown,
            price_collar=settings.limit_price_collar,
            volume_share=settings.limit_volume_share,
        ),
        terms=Terms(settings.buy_limit_offset, settings.commission_rate if simulated else Terms.commission_rate),
        comparison=Comparison(settings.manual_trades, settings.cash_tolerance),
        budget=Budget(settings.broker_seconds),
        lease_seconds=settings.lease_seconds,
        broker_errors=settings.broker_errors,
        # the simulated broker risks nothing and always trades
        dry_run=settings.dry_run and not simulated,
    )
