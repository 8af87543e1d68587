"""The ledger: orders, fills, accounts, halts and policy verdicts, the transactional truth of the pipeline.

What the stages and the execution ask of it. `sql_ledger` is the implementation; apart from it, so that a
process that only reads the definitions does not load a database library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

import pandas as pd

from trading_dagster.execution.accounting import Account
from trading_dagster.execution.gates import Refusal
from trading_dagster.execution.halts import Cause, EquityPoint, Halt, HaltState
from trading_dagster.execution.lease import Lease
from trading_dagster.execution.orders import Fill, Order, OrderState
from trading_dagster.policy import Violation
from trading_dagster.resources.broker import Activity, BrokerOrder


class LedgerError(RuntimeError):
    """A ledger that contradicts what is asked of it."""


class LedgerUnavailableError(LedgerError):
    """A ledger that cannot be read or written now."""


class Owner(StrEnum):
    """Whose shares they are: the strategy's, or those of a person who traded by hand."""

    STRATEGY = "strategy"
    MANUAL = "manual"


class Purpose(StrEnum):
    """What a plan is for."""

    REBALANCE = "rebalance"
    DRY_RUN = "dry_run"
    FLATTEN = "flatten"


@dataclass(frozen=True)
class Plan:
    """Orders that were decided together."""

    revision: int
    run_id: str
    code_version: str
    decided_at: datetime
    orders: list[Order]


@dataclass(frozen=True)
class OpeningPosition:
    """Shares that were there when a strategy's books began, with their cost in currency."""

    quantity: Decimal
    cost: Decimal


@dataclass(frozen=True)
class Recorded:
    """An activity with the order of ours that it fills, if any, and whose shares it changes."""

    activity: Activity
    client_order_id: str | None = None
    owner: Owner = Owner.STRATEGY


@dataclass(frozen=True)
class StrategyRecord:
    """A strategy's own row.

    Attributes
    ----------
    cash : Decimal
        Now.
    broker_errors : int
        Failures of the broker in a row.
    measured_from, measured_equity : date and Decimal, or None
        Where losses are measured from, if not from the beginning.
    orders_read_to, activities_read_to : datetime or None
        Up to when the broker's records were read.
    """

    name: str
    broker: str
    opened_at: datetime
    cash: Decimal
    broker_errors: int
    measured_from: date | None
    measured_equity: Decimal | None
    orders_read_to: datetime | None
    activities_read_to: datetime | None


@dataclass(frozen=True)
class ProfitAndLoss:
    """Gains since the books began, currency.

    Attributes
    ----------
    realised : Decimal
        Of shares that were sold, before commission.
    commission : Decimal
        Paid, positive.
    income : Decimal
        Dividends and other cash without a trade, fees subtracted.
    cost_basis : dict of str to Decimal
        Cost of what is held, by symbol, whoever traded it.
    """

    realised: Decimal
    commission: Decimal
    income: Decimal
    cost_basis: dict[str, Decimal]

    def unrealised(self, values: Mapping[str, Decimal]) -> Decimal:
        """Gain not yet taken, given the market value of each position."""
        return sum((values[symbol] - cost for symbol, cost in self.cost_basis.items()), Decimal(0))


class Ledger(Protocol):
    """Access to the ledger; each call is one transaction.

    Every call raises `LedgerUnavailableError` where the database cannot be used.
    """

    # -- strategies and their control ---------------------------------------------------------------------------------

    def strategy(self, strategy: str) -> StrategyRecord | None:
        """Return what is known of a strategy; None before it was opened."""

    def open_strategy(
        self,
        strategy: str,
        broker: str,
        session: date,
        cash: Decimal,
        positions: Mapping[str, OpeningPosition],
        owner: Owner,
        activities: Iterable[str],
    ) -> None:
        """Begin the books of a strategy with what its account holds; a second call changes nothing.

        `activities` are those that the account has seen already: they are never booked.
        """

    def count_broker_error(self, strategy: str) -> int:
        """Count one more failure of the broker, and return how many there were in a row."""

    def clear_broker_errors(self, strategy: str) -> None:
        """Note that the broker works."""

    def measure_from(self, strategy: str, session: date, equity: Decimal) -> None:
        """Measure losses from this session on, at this equity."""

    def halt_state(self, strategy: str) -> Halt:
        """Return what the strategy may do; a missing state means HALTED."""

    def has_traded(self, strategy: str) -> bool:
        """Whether the strategy was opened, or its state was set."""

    def set_halt_state(self, strategy: str, state: HaltState, cause: Cause | None, detail: str, operator: str) -> None:
        """Change the state, and keep the change in the history."""

    def halt_history(self, strategy: str) -> list[Halt]:
        """Every state that the strategy was in, oldest first."""

    def acquire_lease(
        self, strategy: str, holder: str, seconds: float, *, take_over: bool = False, dead: str | None = None
    ) -> Lease:
        """Take the right to trade; with `take_over` even from a living holder, else from the `dead` one alone.

        Raises
        ------
        LeaseHeldError
        """

    def release_lease(self, lease: Lease) -> None:
        """Give the right back, if it is still this one."""

    def lease_holder(self, strategy: str) -> str | None:
        """Who holds the lease now, if anybody."""

    def record_action(self, strategy: str, action: str, operator: str, reason: str, outcome: str) -> None:
        """Keep what an operator did."""

    def actions(self, strategy: str) -> pd.DataFrame:
        """Everything that operators did, oldest first."""

    def record_refusals(
        self, strategy: str, session: pd.Timestamp | date, refusals: Sequence[Refusal], run_id: str
    ) -> None:
        """Keep what a gate held back."""

    def refusals(self, strategy: str, session: pd.Timestamp | date | None = None) -> pd.DataFrame:
        """What gates held back, oldest first."""

    # -- orders -------------------------------------------------------------------------------------------------------

    def plan(self, strategy: str, session: pd.Timestamp | date, purpose: Purpose = Purpose.REBALANCE) -> Plan | None:
        """Newest plan of a session and purpose."""

    def recorded_orders(self, strategy: str, session: pd.Timestamp | date) -> list[Order] | None:
        """Orders decided at a session; None where it has not been decided."""

    def next_revision(self, strategy: str, session: pd.Timestamp | date) -> int:
        """Revision that no plan of the session has had yet."""

    def plan_of(self, client_order_id: str) -> tuple[str, str, datetime]:
        """Run, code version and time of the plan that an order belongs to."""

    def order(self, client_order_id: str) -> Order | None:
        """Order of that identity."""

    def order_of_broker(self, strategy: str, broker_order_id: str) -> Order | None:
        """Order that the broker calls so."""

    def orders(self, client_order_ids: Iterable[str]) -> dict[str, Order]:
        """Orders of these identities, as far as there are any."""

    def open_orders(self, strategy: str) -> list[Order]:
        """Orders of any session that are not in a terminal state."""

    def record_plan(
        self,
        strategy: str,
        session: date,
        revision: int,
        orders: Sequence[Order],
        run_id: str,
        purpose: Purpose = Purpose.REBALANCE,
        lease: Lease | None = None,
    ) -> None:
        """Commit a session's intents, before any of them goes to a broker.

        Raises
        ------
        LeaseLostError
            If the lease is given and is not the newest any more.
        """

    def claim(self, client_order_id: str, lease: Lease) -> None:
        """Allow one submission of an order: the last thing that is committed before it is sent.

        In one transaction: the lease is still this one (and is renewed), the halt state lets the order pass, and the
        order becomes submitted.

        Raises
        ------
        LeaseLostError, HaltedError
        LedgerError
            If the order is at the broker, or has ended.
        """

    def record_state(self, client_order_id: str, state: OrderState, note: str = "") -> None:
        """Move an order to a state; terminal states stay.

        Raises
        ------
        LedgerError
            If the order has ended already.
        """

    def record_broker_order(self, found: BrokerOrder) -> Order:
        """Take over what the broker says of an order; what it says late takes nothing back."""

    def advance_order_watermark(self, strategy: str, moment: datetime) -> None:
        """Remember up to when the broker's orders were read."""

    def expire_unsent(self, strategy: str, session: date) -> None:
        """End the intents of sessions before `session`, and of dry runs of any, that never went to a broker."""

    def order_events(self, client_order_id: str) -> list[tuple[datetime, OrderState, Decimal, str]]:
        """Every state that an order came to: when, which, filled so far, and why."""

    def order_table(self, strategy: str, sessions: Iterable[date]) -> pd.DataFrame:
        """Orders of the given sessions with their fills, as rows for the `orders` table."""

    # -- the account --------------------------------------------------------------------------------------------------

    def recorded_account(self, strategy: str, session: pd.Timestamp | date) -> Account | None:
        """Account at a session's close, before that session's orders; None where unknown."""

    def last_recorded_session(self, strategy: str, session: pd.Timestamp | date | None = None) -> pd.Timestamp | None:
        """Newest session, not after `session` when given, whose account is known."""

    def equity_curve(self, strategy: str) -> pd.DataFrame:
        """Cash and equity by session, as floats for figures and pictures."""

    def equity_points(self, strategy: str) -> list[EquityPoint]:
        """The equity curve in decimals, from where losses are measured."""

    def record_snapshot(self, strategy: str, session: date, equity: Decimal, prices: Mapping[str, Decimal]) -> None:
        """Keep the account at a session's close, unless orders were decided on an earlier snapshot of it."""

    def unsettled_transfers(self, strategy: str) -> Decimal:
        """Money from outside that no snapshot counts yet."""

    def account(self, strategy: str) -> Account:
        """Cash, and what the strategy holds now."""

    def manual_positions(self, strategy: str) -> dict[str, Decimal]:
        """Shares that were traded by hand and are not the strategy's."""

    def held_symbols(self, strategy: str) -> list[str]:
        """Symbols that the strategy holds."""

    def profit_and_loss(self, strategy: str) -> ProfitAndLoss:
        """Gains taken, and the cost of what is still held."""

    def record_activities(self, strategy: str, found: Sequence[Recorded]) -> int:
        """Book activities that are not booked yet, in one transaction, and return how many were new.

        Raises
        ------
        LedgerError
            If a fill exceeds its order, or a corporate action changes a position that is not there.
        """

    def unknown_activities(self, strategy: str, activity_ids: Sequence[str]) -> set[str]:
        """Those of the activities that are not booked."""

    def adopt_manual(self, strategy: str) -> list[str]:
        """Make the strategy's what was traded by hand, and return the symbols."""

    def adjust(
        self, strategy: str, session: date, cash: Decimal, changes: Mapping[str, tuple[Decimal, Decimal]], owner: Owner
    ) -> None:
        """Book differences that nothing explains: cash, and by symbol shares with their price."""

    def fills(self, strategy: str, client_order_id: str) -> list[Fill]:
        """Fills of one order, oldest first."""

    def filled_quantities(self, client_order_ids: Sequence[str]) -> dict[str, Decimal]:
        """Sum of the recorded fills of each order that has any."""

    # -- data policy --------------------------------------------------------------------------------------------------

    def record_violations(self, violations: Sequence[Violation], mode: str, run_id: str) -> None:
        """Add a row for each violation."""

    def record_verdicts(
        self, asset: str, sessions: Iterable[date], passed: bool, excluded: Sequence[str], run_id: str
    ) -> None:
        """Write the verdict for each session; one that says what it said before is left as it is."""

    def verdicts(self, session: date, assets: Sequence[str]) -> dict[str, bool]:
        """Latest verdict on each of the assets that has one for the session."""

    def newest_passed(self, asset: str) -> date | None:
        """Newest session for which an asset has a verdict that passed."""

    def count_verdicts(self, sessions: Iterable[date]) -> tuple[int, int]:
        """Verdicts that passed, and all of them, over the given sessions."""
