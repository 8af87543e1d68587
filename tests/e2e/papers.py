"""Paper accounts at the loopback broker: the whole pipeline before it, or books that are opened without the pipeline.

Belongs here: servers, environments and desks that the tests of operators, of whole paper accounts and of secrets
share. Does not belong here: what is expected of them.
"""

from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from sqlalchemy import create_engine, text

from tests.e2e.conftest import command
from tests.servers.alpaca import AlpacaDataServer
from tests.servers.alpaca_trading import AlpacaTradingServer
from tests.servers.market import starts
from tests.servers.universe import default_market
from trading_dagster.cli import main
from trading_dagster.execution.accounting import MarketSession
from trading_dagster.execution.desks import build_desk
from trading_dagster.execution.trading_session import Desk, SessionTrades, Wish, trade_session
from trading_dagster.settings import load_settings

with warnings.catch_warnings():
    # alpaca-py, on websockets from 14.0 on, when its modules are imported
    warnings.filterwarnings("ignore", "websockets", DeprecationWarning)
    import alpaca.trading.client  # noqa: F401

# -- the whole pipeline, in processes of its own ----------------------------------------------------------------------

LAST, BEFORE = "2018-12-31", "2018-12-28"
"""The newest session of the loopback market, and the one before it."""

EVENING = datetime(2018, 12, 31, 22, 30, tzinfo=UTC)
NEXT_OPEN = datetime(2019, 1, 2, 14, 31, tzinfo=UTC)
CASH = Decimal(100_000)
SYMBOLS, FIRST = ("HALF", "YIELD", "SEVEN", "ONCE", "MANY"), "2011-01-03"
"""A market that is as small, and as short, as the data policy lets one be traded."""


@dataclass
class PaperHouse:
    """A data vendor and a broker of one account, and the installation that trades there.

    Attributes
    ----------
    data : Path
        Data folder of the installation.
    extra : dict of str to str
        Variables beside those that every installation here has.
    """

    data: Path
    vendor: AlpacaDataServer
    broker: AlpacaTradingServer
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """The environment's settings, without the data folder."""
        return {
            "TRADING_SOURCE": "alpaca",
            "TRADING_BROKER": "alpaca",
            "TRADING_POLICY": "exclude",
            "TRADING_MAX_WEIGHT": "0.3",
            "TRADING_UNIVERSE": ",".join(self.vendor.listings),
            "ALPACA_API_KEY": self.broker.key,
            "ALPACA_SECRET_KEY": self.broker.secret,
            "ALPACA_ENDPOINT": self.broker.url,
            "ALPACA_DATA_ENDPOINT": self.vendor.url,
            **self.extra,
        }

    def trading(self, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Give a `trading` command in a process of its own."""
        return command("trading", *words, data=self.data, **{**self.variables, **extra})

    def answer(self, *words: str, **extra: str) -> Any:
        """What a command prints with --json; it must end well."""
        done = self.trading(*words, "--json", **extra)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    @property
    def ledger_url(self) -> str:
        return self.extra.get("TRADING_LEDGER_URL", f"sqlite:///{self.data / 'ledger.db'}")

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Ask the ledger's database, past the product's own code."""
        return rows(self.ledger_url, query)


@contextmanager
def paper_house(
    data: Path, *, key: str = "loopback-key", secret: str = "loopback-secret", **extra: str
) -> Iterator[PaperHouse]:
    """Open the vendor and the broker on the evening of the last session, at that session's closes."""
    market = {symbol: starts(default_market()[symbol], FIRST) for symbol in SYMBOLS}
    prices = {symbol: f"{listing.bars['close'].iloc[-1]:.2f}" for symbol, listing in market.items()}
    with (
        AlpacaDataServer(market, LAST, key=key, secret=secret) as vendor,
        AlpacaTradingServer(prices, cash=CASH, now=EVENING, key=key, secret=secret) as broker,
    ):
        yield PaperHouse(data, vendor, broker, extra)


def rows(url: str, query: str, **values: Any) -> list[dict[str, Any]]:
    """Rows of a ledger, read or changed past the product's own code."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            found = connection.execute(text(query), values)
            return [dict(row) for row in found.mappings()] if found.returns_rows else []
    finally:
        engine.dispose()


# -- books without the pipeline, in this process ----------------------------------------------------------------------

FRIDAY = date(2026, 11, 20)
FRIDAY_EVENING = datetime(2026, 11, 20, 22, 30, tzinfo=UTC)
MONDAY_MORNING = datetime(2026, 11, 23, 14, 31, tzinfo=UTC)
PRICES = {"AAA": Decimal(200), "BBB": Decimal(50), "CCC": Decimal(20)}
THIRDS = dict.fromkeys(PRICES, 0.3)


@dataclass
class Office:
    """An operator's place: a ledger, an account at the loopback broker, and commands given in this process.

    The settings come from the environment of this process, which the fixture has set.
    """

    data: Path
    broker: AlpacaTradingServer
    set_variable: Callable[[str, str], None]

    def trading(self, *words: str) -> Result:
        """Give a `trading` command; an error that no command expects is raised in the test's face."""
        result = CliRunner().invoke(main, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def done(self, *words: str, code: int = 0) -> str:
        """Give a command that ends with this exit code, and return all that it printed."""
        result = self.trading(*words)
        assert result.exit_code == code, f"{words} ended with {result.exit_code}: {result.output}"
        return result.output

    def answer(self, *words: str, code: int = 0) -> Any:
        """The same, with --json."""
        result = self.trading(*words, "--json")
        assert result.exit_code == code, f"{words} ended with {result.exit_code}: {result.output}"
        return json.loads(result.stdout)

    @contextmanager
    def desk(self) -> Iterator[Desk]:
        """The desk that the commands build."""
        desk = build_desk(load_settings())
        try:
            yield desk
        finally:
            desk.ledger.engine.dispose()
            client = vars(desk.broker).get("_client")
            if client is not None:
                client._session.close()

    def trade(self, session: date = FRIDAY, targets: Mapping[str, float] | None = None) -> SessionTrades:
        """Trade a session at the server's prices, as the asset `orders` does."""
        prices = dict(self.broker.prices)
        wish = Wish(targets or THIRDS, dict.fromkeys(targets or THIRDS, "why"))
        with self.desk() as desk:
            return trade_session(desk, MarketSession(session, prices, prices, {}, {}), wish, "run")

    def invest(self) -> None:
        """Trade on Friday, and be filled on Monday at Friday's prices; the ledger has heard of it."""
        assert self.trade().submitted == len(PRICES)
        self.open_monday()
        assert len(self.broker.trade_open()) == len(PRICES)
        assert self.answer("reconcile")["matched"]

    def open_monday(self) -> None:
        """Let the market open."""
        self.broker.now = MONDAY_MORNING

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """Read or change the ledger past the product's own code."""
        return rows(load_settings().resolved_ledger_url, query, **values)

    @property
    def state(self) -> str:
        """Halt state, as the ledger has it."""
        (row,) = self.rows("SELECT state FROM halt_states")
        return str(row["state"])

    @property
    def actions(self) -> list[tuple[str, str, str, str]]:
        """What operators did: the action, who, why and what came of it."""
        found = self.rows("SELECT action, operator, reason, outcome FROM operator_actions ORDER BY id")
        return [(row["action"], row["operator"], row["reason"], row["outcome"]) for row in found]
