"""Installations at the loopback vendors: sources that do not wait long, and the truth that stored bars are held to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from sqlalchemy import text

from tests.conftest import QUIET, Installation, Outcome
from tests.servers.alpaca import AlpacaDataServer
from tests.servers.market import BAR_COLUMNS, Listing, starts
from tests.servers.universe import default_market
from tests.servers.yahoo import YahooServer
from trading_dagster.assets._stage import CALENDAR
from trading_dagster.definitions import build_definitions
from trading_dagster.resources.alpaca_source import AlpacaSource
from trading_dagster.resources.fetching import Pace
from trading_dagster.resources.yahoo_source import YahooSource
from trading_dagster.settings import Settings

VENDORS = ("yahoo", "alpaca")
QUICK = Pace(wait_unit=0.01)
REQUEST_SECONDS = 0.4

Server = YahooServer | AlpacaDataServer


@dataclass(frozen=True)
class VendorInstallation(Installation):
    """An installation whose source is at a server of the test's own."""

    source: Any = None
    server: Server = field(repr=False, default=None)  # type: ignore[assignment]

    @cached_property
    def definitions(self) -> dg.Definitions:
        return build_definitions(self.settings, {"source": self.source})

    def fetch(self, session: str, *, assets: tuple[str, ...] = ("bars",), accept: bool = False) -> Outcome:
        """Run the fetch of one partition."""
        config = {"ops": {name: {"config": {"accept_changed_columns": True}} for name in assets}} if accept else {}
        result = self.definitions.resolve_job_def("daily").execute_in_process(
            instance=self.instance,
            partition_key=session,
            asset_selection=[dg.AssetKey(name) for name in assets],
            raise_on_error=False,
            run_config=QUIET | config,
        )
        return Outcome(result)

    def messages(self, outcome: Outcome) -> list[str]:
        """What a run logged."""
        return [entry.user_message for entry in self.instance.all_logs(outcome.result.run_id)]

    def verdict(self, session: str, asset: str = "bars") -> tuple[bool, str] | None:
        """Whether the policy passed, and who was left out."""
        query = text("SELECT passed, excluded FROM policy_verdicts WHERE asset = :asset AND session = :session")
        with self.ledger.transaction() as db:
            row = db.execute(query, {"asset": asset, "session": session}).one_or_none()
        return None if row is None else (bool(row[0]), str(row[1]))

    def bars_of(self, symbol: str, **options: Any) -> pd.DataFrame:
        """Stored bars of a symbol, by session."""
        rows = self.tables.read("bars", **options)
        return rows[rows["symbol"] == symbol].set_index("session")

    def assert_true(self, until: str, *, without: Mapping[str, str | None] | None = None) -> None:
        """Hold every stored bar against what happened; `without` names symbols, or a session of theirs, that lack."""
        lacking = dict(without or {})
        symbols = [s for s in self.settings.universe if s not in lacking or lacking[s] is not None]
        stored = self.tables.read("bars")
        assert sorted(stored["symbol"].unique()) == sorted(symbols)
        assert not stored.duplicated(["session", "symbol"]).any()
        for symbol in symbols:
            truth = self.server.listings[symbol].until(until).bars.sort_index()
            if lacking.get(symbol):
                truth = truth.drop(index=pd.Timestamp(lacking[symbol]))
            found = stored[stored["symbol"] == symbol].set_index("session")[BAR_COLUMNS]
            pd.testing.assert_frame_equal(
                found, truth, check_exact=True, check_dtype=False, check_names=False, check_freq=False, obj=symbol
            )


@contextmanager
def vendor(kind: str, listings: Mapping[str, Listing], today: str = "2018-12-31") -> Iterator[Server]:
    """A vendor's server."""
    with (YahooServer if kind == "yahoo" else AlpacaDataServer)(listings, today) as server:
        yield server


def installed(folder: Path, server: Server, *universe: str, seconds: float = 30.0, **settings: Any) -> Any:
    """An installation that asks a server; by default for all of its symbols."""
    if isinstance(server, YahooServer):
        kind = "yahoo"
        source: Any = YahooSource(CALENDAR, server.url, 4, seconds, pace=QUICK, request_seconds=REQUEST_SECONDS)
    else:
        kind = "alpaca"
        settings |= {"alpaca_api_key": server.key, "alpaca_secret_key": server.secret}
        source = AlpacaSource(
            CALENDAR, server.key, server.secret, server.url, "sip", 4, seconds, pace=QUICK,
            request_seconds=REQUEST_SECONDS,
        )  # fmt: skip
    chosen = Settings(
        data_dir=folder / "data", source=kind, universe=universe or tuple(server.listings), max_weight=0.5, **settings
    )
    return VendorInstallation(chosen, dg.DagsterInstance.ephemeral(), source, server)


def short_listings(*symbols: str, first: str = "2018-10-01") -> dict[str, Listing]:
    """Listings of the default market that begin late, so that a fetch of all is a small one."""
    market = default_market()
    return {symbol: starts(market[symbol], first) for symbol in symbols or market}


def check_of(outcome: Outcome, name: str, asset: str = "bars") -> dg.AssetCheckEvaluation:
    """One check of a run."""
    (found,) = [c for c in outcome.checks if c.check_name == name and c.asset_key.to_user_string() == asset]
    return found


def rows_of(outcome: Outcome, name: str, key: str = "failing_rows", asset: str = "bars") -> list[dict[str, Any]]:
    """Rows in a check's metadata."""
    value = check_of(outcome, name, asset).metadata[key].value
    assert isinstance(value, list)
    return value
