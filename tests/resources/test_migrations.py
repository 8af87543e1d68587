"""The migrations make what the models say, and can be undone."""

import sqlite3

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from trading_dagster.resources.ledger_models import Base
from trading_dagster.resources.sql_ledger import MIGRATIONS, SqlLedger, migrate


@pytest.fixture
def config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def differences(connection: sa.Connection, metadata: sa.MetaData) -> list:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return compare_metadata(context, metadata)


def test_the_newest_migration_is_what_the_models_say(ledger):
    with ledger.engine.connect() as connection:
        assert differences(connection, Base.metadata) == []


def test_the_comparison_would_see_a_difference(ledger):
    """A column, a type, an index and a table that no migration makes."""
    changed = sa.MetaData()
    for table in Base.metadata.sorted_tables:
        table.to_metadata(changed)
    changed.tables["fills"].append_column(sa.Column("venue", sa.String(8)))
    changed.tables["orders"].c.note.type = sa.Integer()
    changed.tables["orders"].c.symbol.index = True
    sa.Index("ix_orders_symbol", changed.tables["orders"].c.symbol)
    sa.Table("halts", changed, sa.Column("id", sa.Integer, primary_key=True))
    with ledger.engine.connect() as connection:
        found = differences(connection, changed)
    kinds = {(entry[0][0] if isinstance(entry, list) else entry[0]) for entry in found}
    assert kinds == {"add_column", "modify_type", "add_index", "add_table"}


def test_unique_constraints_and_foreign_keys_are_there(ledger):
    inspector = sa.inspect(ledger.engine)
    unique = inspector.get_unique_constraints("execution_plans")
    assert [constraint["column_names"] for constraint in unique] == [["strategy", "session", "revision"]]
    for table, column, target in (("orders", "plan_id", "execution_plans"), ("fills", "client_order_id", "orders")):
        keys = inspector.get_foreign_keys(table)
        assert [(key["constrained_columns"], key["referred_table"]) for key in keys] == [([column], target)]


def test_foreign_keys_are_enforced(ledger):
    with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"), ledger.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO fills VALUES ('a', 'no order', '2020-01-02', 'AAA', 'buy', '1', '1', '0')"
        )


def test_there_is_one_newest_migration(config):
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1


def test_a_second_start_changes_nothing(ledger):
    def schema() -> list[tuple]:
        with sqlite3.connect(ledger.engine.url.database) as connection:
            rows = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()
        connection.close()
        return rows

    before = schema()
    migrate(ledger.engine)
    again = SqlLedger(ledger.engine.url.render_as_string(hide_password=False))
    assert again.held_symbols("main") == []
    again.engine.dispose()
    assert schema() == before


def test_all_migrations_can_be_undone_and_done_again(ledger, config):
    for target, tables in (("base", set()), ("head", set(Base.metadata.tables))):
        with ledger.engine.begin() as connection:
            config.attributes["connection"] = connection
            (command.downgrade if target == "base" else command.upgrade)(config, target)
        assert set(sa.inspect(ledger.engine).get_table_names()) == tables | {"alembic_version"}
    with ledger.engine.connect() as connection:
        assert differences(connection, Base.metadata) == []
