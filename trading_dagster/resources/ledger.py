"""The ledger: orders, fills, accounts and policy verdicts, the transactional truth of the pipeline.

What the stages and the execution ask of it. `sql_ledger` is the implementation; apart from it, so that a
process that only reads the definitions does not load a database library.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Protocol

import pandas as pd

from trading_dagster.execution.accounting import Account, CashMovement, MarketSession
from trading_dagster.execution.orders import Fill, Order, OrderState
from trading_dagster.policy import Violation


class LedgerError(RuntimeError):
    """A ledger that contradicts what is asked of it."""


class Ledger(Protocol):
    """Access to the ledger; each call is one transaction."""

    def recorded_account(self, strategy: str, session: pd.Timestamp | date) -> Account | None:
        """Account at a session's close, before that session's orders; None where unknown."""

    def last_recorded_session(self, strategy: str, session: pd.Timestamp | date | None = None) -> pd.Timestamp | None:
        """Newest session, not after `session` when given, whose account is known."""

    def held_symbols(self, strategy: str) -> list[str]:
        """Symbols in the newest account."""

    def equity_curve(self, strategy: str) -> pd.DataFrame:
        """Cash and equity by session, as floats for figures and pictures."""

    def record_session(
        self,
        strategy: str,
        market: MarketSession,
        account: Account,
        fills: Sequence[Fill],
        expired: dict[str, str],
        movements: Sequence[CashMovement],
    ) -> None:
        """Write what a session did to the account, in one transaction."""

    def recorded_orders(self, strategy: str, session: pd.Timestamp | date) -> list[Order] | None:
        """Orders decided at a session; None where it has not been decided."""

    def order(self, client_order_id: str) -> Order | None:
        """Order of that identity."""

    def open_orders(self, strategy: str) -> list[Order]:
        """Orders of any session that are not in a terminal state."""

    def record_plan(self, strategy: str, session: date, revision: int, orders: Sequence[Order], run_id: str) -> None:
        """Commit a session's intents, before any of them goes to a broker."""

    def record_state(self, client_order_id: str, state: OrderState, note: str = "") -> None:
        """Move an order to a state; terminal states stay.

        Raises
        ------
        LedgerError
            If the order has ended already.
        """

    def order_table(self, strategy: str, sessions: Iterable[date]) -> pd.DataFrame:
        """Orders of the given sessions with their fills, as rows for the `orders` table."""

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
