"""A ledger that came out of a backup: which schemas are known, and that trading it on is a person's decision."""

from __future__ import annotations

from trading_dagster.execution.halts import Cause, HaltState

SIMULATED = "simulated"
"""Broker whose book is in the ledger's own database, and so is restored with it."""


def known_revision(revision: str) -> bool:
    """Whether the migrations of this version of the program know a schema."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from trading_dagster.resources.ledger_database import MIGRATIONS

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return revision in {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def own_tables() -> list[str]:
    """Names of the ledger's tables in this version of the program."""
    from trading_dagster.resources.ledger_models import Base

    return [*Base.metadata.tables, "alembic_version"]


def mark_as_restored(url: str, backup: str, created: str, operator: str) -> dict[str, str]:
    """Migrate a restored ledger, keep in it that it was restored, and halt what trades at a real broker.

    A real broker has gone on since the backup. Orders and fills that the ledger does not know would halt the
    strategy at its next reconciliation; but a halt that was set since then, by a person or after a loss, is nowhere
    but in the ledger that was lost. So a person resumes it. The simulated broker's book came back with the ledger,
    and nothing can have happened at it.

    Returns
    -------
    dict of str to str
        State of each strategy.
    """
    from sqlalchemy import select

    from trading_dagster.resources.ledger_models import StrategyRow
    from trading_dagster.resources.sql_ledger import SqlLedger

    ledger = SqlLedger(url)
    with ledger.transaction() as db:
        strategies = {name: broker for name, broker in db.execute(select(StrategyRow.name, StrategyRow.broker))}
    found = {}
    reason = f"the ledger is that of the backup {backup}, made {created}"
    for name, broker in strategies.items():
        if broker != SIMULATED and ledger.halt_state(name).state is not HaltState.HALTED:
            detail = (
                f"{reason}: what happened since, halts too, it does not know. Look at `trading reconcile`, then: "
                "trading resume --operator NAME --reason TEXT"
            )
            ledger.set_halt_state(name, HaltState.HALTED, Cause.OPERATOR, detail, operator)
        state = ledger.halt_state(name)
        ledger.record_action(name, "restore", operator, reason, state.state.value)
        found[name] = str(state)
    ledger.engine.dispose()
    return found
