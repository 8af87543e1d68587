"""The ledger in a transactional database: SQLite or PostgreSQL.

Put together from one module for each kind of record: `ledger_policy`, `ledger_control`, `ledger_orders`,
`ledger_accounts`. What each call means is in `ledger.Ledger`.
"""

from __future__ import annotations

from trading_dagster.resources.ledger_accounts import AccountRecords
from trading_dagster.resources.ledger_control import ControlRecords
from trading_dagster.resources.ledger_database import MIGRATIONS, migrate
from trading_dagster.resources.ledger_orders import OrderRecords
from trading_dagster.resources.ledger_policy import PolicyRecords

__all__ = ["MIGRATIONS", "SqlLedger", "migrate"]


class SqlLedger(PolicyRecords, ControlRecords, OrderRecords, AccountRecords):
    """Access to the ledger's database; connects and migrates at first use.

    Parameters
    ----------
    url : str
        SQLAlchemy URL.
    """
