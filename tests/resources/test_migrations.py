"""The migrations make what the models say, carry over what an installation has, and can be undone."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from trading_dagster.execution.accounting import Account, Costs, MarketSession
from trading_dagster.execution.halts import EquityPoint, HaltState
from trading_dagster.execution.orders import Fill, Order, OrderState, Side
from trading_dagster.resources.broker import BrokerPosition
from trading_dagster.resources.ledger import Recorded
from trading_dagster.resources.ledger_models import Base
from trading_dagster.resources.simulated_broker import SimulatedBroker
from trading_dagster.resources.sql_ledger import MIGRATIONS, SqlLedger, migrate

from .books import MONDAY, THURSDAY, TUESDAY, WEDNESDAY, D, connect, dump, execute, url_of


@pytest.fixture
def config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def differences(connection: sa.Connection, metadata: sa.MetaData) -> list:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return compare_metadata(context, metadata)


def move(ledger: SqlLedger, config: Config, target: str) -> None:
    """Bring the database to a schema, whether newer or older."""
    with ledger.engine.begin() as connection:
        config.attributes["connection"] = connection
        (command.upgrade if target == "head" else command.downgrade)(config, target)


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
    sa.Table("venues", changed, sa.Column("id", sa.Integer, primary_key=True))
    with ledger.engine.connect() as connection:
        found = differences(connection, changed)
    kinds = {(entry[0][0] if isinstance(entry, list) else entry[0]) for entry in found}
    assert kinds == {"add_column", "modify_type", "add_index", "add_table"}


def test_unique_constraints_and_keys_are_there(ledger):
    inspector = sa.inspect(ledger.engine)
    unique = inspector.get_unique_constraints("execution_plans")
    assert [constraint["column_names"] for constraint in unique] == [["strategy", "session", "revision"]]
    (lots,) = inspector.get_unique_constraints("lots")
    assert lots["column_names"] == ["strategy", "symbol", "owner", "session"]
    for table in ("fills", "cash_movements", "broker_activities"):
        assert inspector.get_pk_constraint(table)["constrained_columns"] == ["strategy", "activity_id"]
    for table, column, target in (
        ("orders", "plan_id", "execution_plans"),
        ("fills", "client_order_id", "orders"),
        ("order_events", "client_order_id", "orders"),
    ):
        keys = inspector.get_foreign_keys(table)
        assert [(key["constrained_columns"], key["referred_table"]) for key in keys] == [([column], target)]


def test_foreign_keys_are_enforced(ledger):
    with pytest.raises(sa.exc.IntegrityError, match=r"(?i)foreign key"), ledger.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO fills VALUES ('main', 'a', 'no order', '2020-01-02', 'AAA', 'buy', '1', '1', '0', '0')"
        )


def test_there_is_one_newest_migration(config):
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1


def test_a_second_start_changes_nothing(sqlite_ledger):
    def schema() -> list[tuple]:
        return execute(sqlite_ledger, "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")

    before = schema()
    migrate(sqlite_ledger.engine)
    again = SqlLedger(url_of(sqlite_ledger))
    assert again.held_symbols("main") == []
    again.engine.dispose()
    assert schema() == before


def test_all_migrations_can_be_undone_and_done_again(ledger, config):
    for target, tables in (("base", set()), ("head", set(Base.metadata.tables)), ("0001", None), ("head", None)):
        move(ledger, config, target)
        if tables is not None:
            assert set(sa.inspect(ledger.engine).get_table_names()) == tables | {"alembic_version"}
    with ledger.engine.connect() as connection:
        assert differences(connection, Base.metadata) == []


# -- an installation of the first schema ------------------------------------------------------------------------------

NOON = datetime(2020, 3, 9, 12, tzinfo=UTC)

PLANS = [(1, "main", MONDAY, 0, "run 1"), (2, "main", TUESDAY, 0, "run 2"), (3, "other", TUESDAY, 0, "run 3")]

ORDERS = [
    # identity, plan, strategy, session, symbol, side, quantity, reference price, state, filled, note
    ("main-a", 1, "main", MONDAY, "AAA", "buy", "10", "5.123456789012", "filled", "10", ""),
    ("main-b", 1, "main", MONDAY, "BBB", "buy", "0.0001", "7", "expired", "0", "no bar on 2020-03-10"),
    ("main-c", 1, "main", MONDAY, "CCC", "buy", "4", "2", "cancelled", "0", "by hand"),
    ("main-d", 1, "main", MONDAY, "DDD", "sell", "4", "2", "rejected", "0", "too late"),
    ("main-e", 2, "main", TUESDAY, "AAA", "sell", "2", "6", "accepted", "0", ""),
    ("main-f", 2, "main", TUESDAY, "BBB", "buy", "3", "7", "submitted", "0", ""),
    ("main-g", 2, "main", TUESDAY, "CCC", "buy", "1", "3", "planned", "0", ""),
    ("main-h", 2, "main", TUESDAY, "DDD", "buy", "1", "3", "unconfirmed", "0", "no answer"),
    ("other-a", 3, "other", TUESDAY, "AAA", "buy", "8", "6", "accepted", "0", ""),
]  # fmt: skip

FILLS = [("main-a-20200310", "main-a", TUESDAY, "AAA", "buy", "10", "5.174691", "0.0517")]

ACCOUNTS = [
    ("main", MONDAY, "100000", "100000"), ("main", TUESDAY, "99948.7014", "100018.7014"), ("other", TUESDAY, "7", "7"),
]  # fmt: skip

POSITIONS = [("main", TUESDAY, "AAA", "10", "6.1"), ("main", TUESDAY, "EEE", "0.5", "18.000000003")]

MOVEMENTS = [("main", TUESDAY, "AAA", "dividend", "0.5"), ("main", TUESDAY, "EEE", "cash_in_lieu", "0.0001")]

TABLES = {
    "execution_plans": ("id, strategy, session, revision, run_id, decided_at", [(*row, NOON) for row in PLANS]),
    "orders": (
        "client_order_id, plan_id, strategy, session, symbol, side, quantity, reference_price, state, "
        "filled_quantity, note, reason, updated_at",
        [(*row, "because", NOON) for row in ORDERS],
    ),
    "fills": ("activity_id, client_order_id, session, symbol, side, quantity, price, commission", FILLS),
    "account_snapshots": ("strategy, session, cash, equity", ACCOUNTS),
    "position_snapshots": ("strategy, session, symbol, quantity, price", POSITIONS),
    "cash_movements": ("strategy, session, symbol, kind, amount", MOVEMENTS),
    "policy_verdicts": (
        "asset, session, passed, excluded, run_id, recorded_at", [("bars", MONDAY, True, "AAA,BBB", "run 1", NOON)],
    ),
    "policy_violations": (
        "id, component, symbol, session, rule, bars_found, bars_needed, mode, message, run_id, recorded_at",
        [(1, "bars", "AAA", MONDAY, "stale", 1, 2, "abort", "why", "run 1", NOON)],
    ),
}  # fmt: skip


@pytest.fixture
def ledger_of_0001(ledger_url: str, config: Config) -> Iterator[SqlLedger]:
    """Schema 0001 with rows, and a ledger that has not looked at it yet."""
    engine = sa.create_engine(ledger_url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    ledger = SqlLedger(ledger_url)
    _insert(ledger_url)
    yield ledger
    ledger.engine.dispose()


def _insert(url: str) -> None:
    if url.startswith("sqlite"):
        import sqlite3

        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            for table, (columns, rows) in TABLES.items():
                marks = ", ".join("?" * len(rows[0]))
                values = [
                    [v.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(v, datetime)
                     else v.isoformat() if isinstance(v, date) else v for v in row]
                    for row in rows
                ]  # fmt: skip
                connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)
        return
    import psycopg2

    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        for table, (columns, rows) in TABLES.items():
            marks = ", ".join(["%s"] * len(rows[0]))
            cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)


def test_orders_come_over(ledger_of_0001):
    ledger = ledger_of_0001
    for identity, plan, strategy, session, symbol, side, quantity, price, state, filled, note in ORDERS:
        found = ledger.order(identity)
        assert found == Order(
            identity, strategy, session, symbol, Side(side), D(quantity), D(price), "because", OrderState(state),
            D(filled), note, None, "" if state == "planned" else identity,
        )  # fmt: skip
        run, version, decided_at = ledger.plan_of(identity)
        assert (run, version, decided_at) == (PLANS[plan - 1][4], "", NOON)
    assert [o.client_order_id for o in ledger.recorded_orders("main", MONDAY)] == [f"main-{c}" for c in "abcd"]
    assert [o.client_order_id for o in ledger.open_orders("main")] == [f"main-{c}" for c in "efgh"]
    assert ledger.next_revision("main", MONDAY) == 1
    table = ledger.order_table("main", [MONDAY])
    assert table.loc[table["client_order_id"] == "main-a", ["average_price", "commission"]].to_numpy().tolist() == [
        [5.174691, 0.0517]
    ]


def test_accounts_and_fills_come_over(ledger_of_0001):
    ledger = ledger_of_0001
    activity, identity, session, symbol, side, quantity, price, commission = FILLS[0]
    assert ledger.fills("main", "main-a") == [
        Fill(activity, identity, session, symbol, Side(side), D(quantity), D(price), D(commission))
    ]
    held = {"AAA": D(10), "EEE": D("0.5")}
    assert ledger.recorded_account("main", MONDAY) == Account(D(100000))
    assert ledger.recorded_account("main", TUESDAY) == ledger.account("main") == Account(D("99948.7014"), held)
    assert ledger.account("other") == Account(D(7))
    assert ledger.manual_positions("main") == {}
    assert ledger.equity_points("main") == [EquityPoint(MONDAY, D(100000)), EquityPoint(TUESDAY, D("100018.7014"))]
    # the basis begins at the price of the last snapshot; half a share at 18.000000003 is rounded to eight places
    assert ledger.profit_and_loss("main").cost_basis == {"AAA": D(61), "EEE": D(9)}
    assert ledger.verdicts(MONDAY, ["bars"]) == {"bars": True}
    assert len(dump(ledger)["policy_violations"]) == 1


def test_the_strategies_may_trade_on(ledger_of_0001):
    ledger = ledger_of_0001
    assert (ledger.halt_state("main").state, ledger.halt_state("main").detail) == (HaltState.ACTIVE, "carried over")
    record = ledger.strategy("main")
    assert (record.broker, record.cash, record.broker_errors) == ("simulated", D("99948.7014"), 0)
    assert abs(record.opened_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert ledger.strategy("other").cash == D(7)
    before = dump(ledger)
    ledger.open_strategy("main", "simulated", WEDNESDAY, D(1), {}, "strategy", [])
    assert dump(ledger) == before


def broker_of(ledger: SqlLedger) -> SimulatedBroker:
    return SimulatedBroker(ledger, "main", Account(D(1)), Costs(D(0), D(0)))


def test_the_simulated_broker_has_the_newest_snapshot(ledger_of_0001):
    broker = broker_of(ledger_of_0001)
    assert broker.newest_session() == TUESDAY
    found = broker.account()
    # ten at 6.10 and half a share at 18.000000003
    assert (found.cash, found.equity) == (D("99948.7014"), D("99948.7014") + D(61) + D("9.0000000015"))
    assert found.positions["AAA"] == BrokerPosition("AAA", D(10), D("6.1"), D("6.1"), D(0))
    assert list(broker.activities_since(None)) == []
    other = SimulatedBroker(ledger_of_0001, "other", Account(D(1)), Costs(D(0), D(0)))
    assert (other.account().cash, other.newest_session()) == (D(7), TUESDAY)
    assert [o.client_order_id for o in other.open_orders()] == ["other-a"]


def test_open_orders_are_at_the_simulated_broker(ledger_of_0001):
    broker = broker_of(ledger_of_0001)
    for found in broker.open_orders():
        assert found.payload == ledger_of_0001.order(found.client_order_id).payload
        assert (found.state, found.filled_quantity) == (OrderState.ACCEPTED, D(0))
    # what was submitted or not confirmed had reached it: in the first schema that was all of submitting
    assert [o.client_order_id for o in broker.open_orders()] == ["main-e", "main-f", "main-h"]


def test_the_next_session_is_traded(ledger_of_0001):
    """Two of AAA sold at 6.50, three of BBB and one of DDD bought at 7; the ledger learns of it."""
    ledger, broker = ledger_of_0001, broker_of(ledger_of_0001)
    prices = {"AAA": D("6.5"), "BBB": D(7), "DDD": D(7), "EEE": D(18)}
    broker.settle(MarketSession(WEDNESDAY, prices, prices, {}, {"AAA": D("0.1")}))
    found = [
        Recorded(each, each.broker_order_id or None) for each in broker.activities_since(None) if each.session > TUESDAY
    ]
    ledger.record_activities("main", [each for each in found if each.client_order_id != "main-h"])
    assert ledger.order("main-e").state is ledger.order("main-f").state is OrderState.FILLED
    gained = ledger.profit_and_loss("main").realised
    assert gained == 2 * (D("6.5") - D("6.1"))
    assert ledger.account("main") == Account(D("99948.7014") + 1 + 13 - 21, {"AAA": D(8), "BBB": D(3), "EEE": D("0.5")})


def test_gains_of_the_past_are_not_counted_anew(ledger_of_0001):
    """The basis begins at the last snapshot: what came before it is in the price of that snapshot already."""
    told = ledger_of_0001.profit_and_loss("main")
    assert (told.realised, told.income) == (D(0), D(0))


def test_old_activities_are_known(ledger_of_0001):
    ledger = ledger_of_0001
    assert ledger.unknown_activities("main", ["main-a-20200310", "main-a-20200311"]) == {"main-a-20200311"}
    assert len(dump(ledger)["cash_movements"]) == len(MOVEMENTS)


def plain(rows: list[tuple]) -> list[tuple]:
    """Rows as `dump` writes them."""
    written = []
    for row in rows:
        values = [
            v.isoformat() if isinstance(v, date | datetime) else int(v) if isinstance(v, bool) else v for v in row
        ]
        written.append(tuple(values))
    return sorted(written, key=repr)


def stored(ledger: SqlLedger, table: str, columns: str) -> list[tuple]:
    """Some columns of a table, times written with their zone."""
    with closing(connect(ledger)) as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
    wanted = columns.split(", ")
    rows = [dict(zip(names, row, strict=True)) for row in dump(ledger)[table]]
    return sorted(
        (tuple(_with_zone(row[name]) if name.endswith("_at") else row[name] for name in wanted) for row in rows),
        key=repr,
    )


def _with_zone(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


@pytest.mark.parametrize("target", ["head", "0001"])
def test_nothing_is_lost_upwards_and_down_again(ledger_of_0001, config, target):
    """Every column of every table of the first schema, read by the database's own driver."""
    migrate(ledger_of_0001.engine)
    if target == "0001":
        move(ledger_of_0001, config, "0001")
    for table, (columns, rows) in TABLES.items():
        assert stored(ledger_of_0001, table, columns) == plain(rows), table
    if target == "0001":
        assert set(sa.inspect(ledger_of_0001.engine).get_table_names()) == {*TABLES, "alembic_version"}
        move(ledger_of_0001, config, "head")
        assert ledger_of_0001.account("main").cash == D("99948.7014")
        with ledger_of_0001.engine.connect() as connection:
            assert differences(connection, Base.metadata) == []


def test_what_was_traded_since_stays_on_the_way_down(ledger_of_0001, config):
    ledger, broker = ledger_of_0001, broker_of(ledger_of_0001)
    prices = {"AAA": D("6.5"), "BBB": D(7), "DDD": D(7), "EEE": D(18)}
    broker.settle(MarketSession(THURSDAY, prices, prices, {}, {"EEE": D(1)}))
    found = list(broker.activities_since(None))
    ledger.record_activities(
        "main", [Recorded(each, each.broker_order_id or None) for each in found if each.symbol != "DDD"]
    )
    ledger.record_snapshot("main", THURSDAY, D(1), prices)
    move(ledger, config, "0001")
    fills = {(row[0], row[1]) for row in dump(ledger)["fills"]}
    assert fills == {
        ("main-a-20200310", "main-a"), ("main-e-20200312", "main-e"), ("main-f-20200312", "main-f"),
    }  # fmt: skip
    kinds = [row[1:] for row in dump(ledger)["cash_movements"] if row[1] == "2020-03-12"]
    assert kinds == [("2020-03-12", "EEE", "dividend", "0.5")]
    assert ("main", "2020-03-12", "AAA", "8", "6.5") in dump(ledger)["position_snapshots"]
