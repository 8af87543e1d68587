"""The whole pipeline at the vendors' protocols: `trading run` as a process, the vendor a server of this one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.conftest import command, ledger_contents, table_contents
from tests.servers.alpaca import BARS, AlpacaDataServer
from tests.servers.market import BAR_COLUMNS
from tests.servers.universe import default_market
from tests.servers.yahoo import YahooServer

SESSION, NEXT = "2018-12-28", "2018-12-31"
STAGES = ("bars", "corporate_actions", "regime_model", "volatility_model", "forecast_model", "phasing", "harmonics",
          "regime", "volatility", "condition", "forecast", "allocation", "signals", "orders", "fetches")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A vendor at which a session was run."""

    kind: str
    server: YahooServer | AlpacaDataServer
    data: Path
    output: str

    def again(self, session: str) -> str:
        """Run a session; what was printed."""
        return run(self.server, self.data, session)

    def closes(self) -> pd.DataFrame:
        """Stored closes of the first session's run, sessions by symbols."""
        bars = table_contents(self.data)["bars"]
        return bars[bars["session"] <= SESSION].pivot(index="session", columns="symbol", values="close")


def run(server: YahooServer | AlpacaDataServer, data: Path, session: str) -> str:
    settings = {"TRADING_UNIVERSE": ",".join(default_market()), "TRADING_MAX_WEIGHT": "0.25"}
    if isinstance(server, YahooServer):
        settings |= {"TRADING_SOURCE": "yahoo", "YAHOO_ENDPOINT": server.url}
    else:
        settings |= {
            "TRADING_SOURCE": "alpaca",
            "ALPACA_DATA_ENDPOINT": server.url,
            "ALPACA_API_KEY": server.key,
            "ALPACA_SECRET_KEY": server.secret,
        }
    result = command("trading", "run", "--session", session, data=data, **settings)
    assert result.returncode == 0, result.stdout + result.stderr
    assert server.__class__.__name__ == "YahooServer" or server.secret not in result.stdout + result.stderr
    return result.stdout


def _first_run(kind: str, data: Path) -> Iterator[Run]:
    with (YahooServer if kind == "yahoo" else AlpacaDataServer)(default_market(), SESSION) as server:
        yield Run(kind, server, data, run(server, data, SESSION))


@pytest.fixture(scope="module")
def yahoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    yield from _first_run("yahoo", tmp_path_factory.mktemp("yahoo"))


@pytest.fixture(scope="module")
def alpaca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    yield from _first_run("alpaca", tmp_path_factory.mktemp("alpaca"))


@pytest.fixture(params=["yahoo", "alpaca"])
def ran(request: pytest.FixtureRequest) -> Run:
    return request.getfixturevalue(request.param)


def test_every_stage_has_rows(ran: Run) -> None:
    tables = table_contents(ran.data)
    symbols = set(default_market())
    for stage in STAGES:
        assert len(tables[stage]), stage
    for stage in ("phasing", "harmonics", "regime", "volatility", "condition", "forecast", "allocation", "signals"):
        rows = tables[stage]
        market = {"MARKET"} if stage in ("regime", "condition") else set()
        assert set(rows.loc[rows["session"] == SESSION, "symbol"]) == symbols | market, stage
    assert len(tables["orders"]) > 0
    assert f"source {ran.kind}, broker simulated" in ran.output
    assert f"Session {SESSION}" in ran.output
    for stage in (*STAGES[:5], "signals", "orders"):
        assert re.search(rf"done +{stage} +1 (session|month) +\d+ rows changed", ran.output), stage
    # one would be a mistake: this market has neither bad ticks nor restatements
    assert "warning" not in ran.output
    assert "0 warned, 0 failed" in ran.output


def test_stored_bars_are_what_was_traded(ran: Run) -> None:
    bars = table_contents(ran.data)["bars"]
    bars = bars[bars["session"] <= SESSION]
    assert not bars.duplicated(["session", "symbol"]).any()
    for symbol, listing in default_market().items():
        truth = listing.until(SESSION).bars.astype("float64")
        found = bars[bars["symbol"] == symbol].set_index("session")[BAR_COLUMNS]
        pd.testing.assert_frame_equal(
            found[BAR_COLUMNS[:4]], truth[BAR_COLUMNS[:4]], check_exact=True, check_names=False, check_freq=False
        )
        # Yahoo tells volumes in today's shares: after a reverse split to the nearest ten
        off = (found["volume"] - truth["volume"]).abs().max()
        assert off <= (5 if (ran.kind, symbol) == ("yahoo", "UNDO") else 0), symbol


def test_stored_actions_are_what_happened(ran: Run) -> None:
    stored = table_contents(ran.data)["corporate_actions"].set_index(["symbol", "ex_date", "kind"])["value"]
    truth = {
        (symbol, row.ex_date, row.kind): row.value
        for symbol, listing in default_market().items()
        for row in listing.until(SESSION).actions.itertuples()
    }
    assert set(stored.index) == set(truth)
    for key, value in truth.items():
        assert stored[key] == pytest.approx(value, rel=1e-9), key


def test_the_two_vendors_agree(yahoo: Run, alpaca: Run) -> None:
    one, other = yahoo.closes(), alpaca.closes()
    pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=1e-6, atol=0)
    assert len(one) == len(default_market()["PLAIN"].until(SESSION).bars)
    for table in ("forecast", "allocation", "signals"):
        mine, theirs = (table_contents(r.data)[table].query(f"session == '{SESSION}'") for r in (yahoo, alpaca))
        pd.testing.assert_frame_equal(
            mine.select_dtypes("number"), theirs.select_dtypes("number"), check_exact=False, rtol=1e-4, atol=1e-4
        )


def test_a_second_run_changes_nothing(ran: Run) -> None:
    before, ledger = table_contents(ran.data), ledger_contents(ran.data)
    ran.server.log.clear()
    output = ran.again(SESSION)
    assert "0 new orders sent, 0 table rows changed; everything was there already" in output
    after = table_contents(ran.data)
    assert after.keys() == before.keys()
    for name in before:
        pd.testing.assert_frame_equal(after[name], before[name], check_exact=True, obj=name)
    assert ledger_contents(ran.data) == ledger


def asked_from(ran: Run) -> set[str]:
    """First days of the requests for bars, in New York."""
    if ran.kind == "yahoo":
        return {
            f"{pd.Timestamp(int(r.query['period1']), unit='s', tz='America/New_York'):%Y-%m-%d}"
            for r in ran.server.log.requests("/v8/finance/chart/")
        }
    return {
        f"{pd.Timestamp(r.query['start']).tz_convert('America/New_York'):%Y-%m-%d}"
        for r in ran.server.log.requests(BARS)
    }


def test_the_next_session_asks_for_no_more_than_an_overlap(ran: Run) -> None:
    before = table_contents(ran.data)["bars"]
    assert set(before["session"].astype(str)) >= {"2000-01-03", SESSION}
    ran.server.today = NEXT
    ran.server.log.clear()
    output = ran.again(NEXT)
    # the ten newest sessions that are stored, Christmas not among them
    assert asked_from(ran) == {"2018-12-14"}
    assert re.search(r"done +bars +1 session +8 rows changed", output)
    after = table_contents(ran.data)["bars"]
    assert len(after) == len(before) + 8
    new = after[after["session"] == NEXT].set_index("symbol")
    for symbol, listing in default_market().items():
        assert new.loc[symbol, "close"] == listing.bars.loc[NEXT, "close"]
    pd.testing.assert_frame_equal(after[after["session"] < NEXT].reset_index(drop=True), before, check_exact=True)
    assert "restatements" not in output
    accounts = ledger_contents(ran.data)["account_snapshots"]
    assert {str(row[1]) for row in accounts} == {SESSION, NEXT}


def test_progress_of_the_fetch_is_recorded(ran: Run) -> None:
    """What a terminal shows while it runs stays in the run's log, which the UI shows."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(ran.data / "dagster")) as instance:
        messages = [entry.user_message for record in instance.get_runs() for entry in instance.all_logs(record.run_id)]
    assert any(re.search(rf"{ran.kind} bars: 8 of 8 symbols, \d+ s", message) for message in messages)
    assert any(re.search(rf"{ran.kind} corporate actions: 8 of 8 symbols, \d+ s", message) for message in messages)
