"""From the settings to a desk: which broker, which limits, and when nothing is sent."""

from decimal import Decimal
from pathlib import Path

import pytest

from trading_dagster.execution.accounting import Account
from trading_dagster.execution.desks import build_broker, build_conduct, build_desk
from trading_dagster.execution.gates import Limits
from trading_dagster.execution.planner import Terms
from trading_dagster.resources.alpaca_broker import AlpacaBroker
from trading_dagster.resources.simulated_broker import SimulatedBroker
from trading_dagster.settings import Settings

from .markets import D

KEYS = {"alpaca_api_key": "some-key", "alpaca_secret_key": "some-secret"}


def settings(tmp_path: Path, **values) -> Settings:
    return Settings(data_dir=tmp_path, **values)


def test_without_any_setting_the_broker_is_simulated_and_trades(tmp_path, ledger):
    desk = build_desk(settings(tmp_path), ledger)
    assert isinstance(desk.broker, SimulatedBroker)
    assert (desk.strategy, desk.broker.strategy, desk.ledger, desk.broker.database) == ("main", "main", ledger, ledger)
    assert desk.broker.initial == Account(Decimal(100_000))
    assert desk.conduct.dry_run is False


def test_a_desk_of_its_own_has_one_ledger(tmp_path):
    desk = build_desk(settings(tmp_path))
    assert desk.broker.database is desk.ledger
    # and building it has connected to nothing
    assert list(tmp_path.iterdir()) == []


def test_alpaca_sends_nothing_unless_it_is_asked_to(tmp_path, ledger):
    assert build_conduct(settings(tmp_path, broker="alpaca", **KEYS)).dry_run is True
    assert build_conduct(settings(tmp_path, broker="alpaca", dry_run=False, **KEYS)).dry_run is False
    assert build_conduct(settings(tmp_path, broker="simulated", dry_run=True)).dry_run is False


def test_alpaca_is_reached_at_its_endpoint_and_nowhere_else(tmp_path, ledger):
    broker = build_broker(settings(tmp_path, broker="alpaca", **KEYS), ledger)
    assert isinstance(broker, AlpacaBroker)
    assert repr(broker) == "AlpacaBroker(https://paper-api.alpaca.markets)"
    here = build_broker(settings(tmp_path, broker="alpaca", alpaca_endpoint="http://127.0.0.1:1", **KEYS), ledger)
    assert "127.0.0.1:1" in repr(here)
    with pytest.raises(ValueError, match="on paper only"):
        settings(tmp_path, broker="alpaca", alpaca_endpoint="https://api.alpaca.markets", **KEYS)


def test_the_keys_are_the_settings_keys(tmp_path, ledger, server):
    right = {"alpaca_api_key": server.key, "alpaca_secret_key": server.secret}
    broker = build_broker(settings(tmp_path, broker="alpaca", alpaca_endpoint=server.url, **right), ledger)
    assert broker.account().cash == D(100_000)
    broker._client._session.close()


def test_every_limit_is_its_own_setting(tmp_path):
    values = {
        "limit_position_weight": "0.21", "limit_gross": "0.99", "limit_order_notional": "1234",
        "limit_daily_loss": "0.041", "limit_drawdown": "0.17", "limit_price_collar": "0.12",
        "limit_volume_share": "0.034",
    }  # fmt: skip
    conduct = build_conduct(settings(tmp_path, **values))
    assert conduct.limits == Limits(D("0.21"), D("0.99"), D(1234), D("0.041"), D("0.17"), D("0.12"), D("0.034"))


def test_the_rest_of_how_a_strategy_trades(tmp_path):
    conduct = build_conduct(
        settings(
            tmp_path, strategy="other", manual_trades="adopt", cash_tolerance="0.5", broker_seconds=12,
            lease_seconds=34, broker_errors=5, buy_limit_offset="0.03", commission_rate="0.002",
        )
    )  # fmt: skip
    assert (conduct.strategy, conduct.broker_errors, conduct.lease_seconds) == ("other", 5, 34)
    assert (conduct.comparison.manual_trades, conduct.comparison.cash_tolerance) == ("adopt", D("0.5"))
    assert conduct.budget.seconds == 12
    assert conduct.terms == Terms(D("0.03"), D("0.002"))


def test_alpaca_takes_no_commission(tmp_path):
    conduct = build_conduct(settings(tmp_path, broker="alpaca", commission_rate="0.002", **KEYS))
    assert conduct.terms.commission_rate == 0


def test_a_position_may_grow_beyond_what_is_allocated_by_default(tmp_path):
    assert build_conduct(settings(tmp_path, max_weight=0.2)).limits.position_weight == D("0.3")
    assert build_conduct(settings(tmp_path, max_weight=0.9)).limits.position_weight == 1
