"""Alembic environment; the connection comes from `resources.ledger.migrate`."""

from alembic import context

from trading_dagster.resources.ledger_models import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
