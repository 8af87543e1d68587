"""Random markets and random wishes, for trading a strategy session by session."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pandas as pd

from trading_dagster.execution.accounting import Account, Costs, MarketSession, market_sessions
from trading_dagster.execution.planner import Terms
from trading_dagster.execution.reconciliation import Comparison
from trading_dagster.execution.replay import replay_decisions
from trading_dagster.execution.trading_session import Conduct, Desk, SessionTrades, Wish, observe, trade_session
from trading_dagster.quant.decisions import decide
from trading_dagster.quant.prices import price_history
from trading_dagster.resources.simulated_broker import SimulatedBroker
from trading_dagster.resources.sql_ledger import SqlLedger

from .paper import NO_LIMITS

SYMBOLS = ["AAA", "BBB", "CCC", "DDD"]
COSTS = Costs(Decimal("0.0003"), Decimal("0.0007"))
TERMS = Terms(Decimal("0.02"), COSTS.commission_rate)
INITIAL = Account(Decimal("50000.01"))


@dataclass(frozen=True)
class World:
    """Market sessions and, for each, the weights that are wanted."""

    markets: list[MarketSession]
    wishes: dict[pd.Timestamp, dict[str, float]]

    @property
    def sessions(self) -> list[pd.Timestamp]:
        return [pd.Timestamp(each.session) for each in self.markets]

    def decide(self, session: MarketSession, held: dict[str, float]) -> pd.DataFrame:
        return decide(self.wishes[pd.Timestamp(session.session)], held, {}, no_trade_band=0.01, max_gross=0.98)


def random_world(seed: int, count: int = 8) -> World:
    """Walks with gaps, late listings, splits and dividends, of closes as long as floats are."""
    random = np.random.default_rng(seed)
    days = pd.bdate_range("2020-03-02", periods=count)
    closes = random.uniform(5, 400, len(SYMBOLS)) * np.exp(random.normal(0, 0.03, (count, len(SYMBOLS))).cumsum(axis=0))
    opens = closes * np.exp(random.normal(0, 0.01, closes.shape))
    opens[random.random(closes.shape) < 0.2] = np.nan
    bars = pd.DataFrame(
        {
            "session": np.repeat(days, len(SYMBOLS)),
            "symbol": np.tile(SYMBOLS, count),
            "open": opens.ravel(),
            "close": closes.ravel(),
        }
    ).assign(high=np.nan, low=np.nan)
    # the first two symbols have all their bars, so that there are always all sessions
    absent = (random.random(len(bars)) < 0.15) & ~bars["symbol"].isin(SYMBOLS[:2])
    actions = pd.DataFrame(
        [
            (day, symbol, kind, value)
            for day in days[1:]
            for symbol in SYMBOLS
            for kind, value, chance in (
                ("split", random.choice([2.0, 0.5, 1.5, 1 / 3]), 0.05),
                ("dividend", random.uniform(0.01, 1), 0.1),
            )
            if random.random() < chance
        ],
        columns=["ex_date", "symbol", "kind", "value"],
    )
    history = price_history(bars[~absent], actions)
    wishes = {}
    for day in days:
        listed = [symbol for symbol in SYMBOLS if history.close.loc[:day, symbol].notna().any()]
        chosen = [symbol for symbol in listed if random.random() < 0.7]
        shares = random.dirichlet(np.ones(len(chosen) + 1)) * 0.98 if chosen else []
        wishes[day] = {symbol: float(share) for symbol, share in zip(chosen, shares, strict=False)}
    return World(market_sessions(history, days), wishes)


@dataclass(frozen=True)
class Trader:
    """A strategy with its broker and ledger, worked as the assets work it."""

    ledger: SqlLedger
    strategy: str
    world: World

    @property
    def broker(self) -> SimulatedBroker:
        """A new one each time, as each run has; all it knows is in the database."""
        return SimulatedBroker(self.ledger, self.strategy, INITIAL, COSTS)

    @property
    def desk(self) -> Desk:
        """Without limits: they are tested with the gates."""
        comparison = Comparison("quarantine", Decimal("0.01"))
        return Desk(self.ledger, self.broker, Conduct(self.strategy, NO_LIMITS, TERMS, comparison))

    def market(self, session: pd.Timestamp) -> MarketSession:
        (market,) = [each for each in self.world.markets if pd.Timestamp(each.session) == session]
        return market

    def signals(
        self, sessions: Sequence[pd.Timestamp], watch: Callable[[MarketSession, dict[str, float]], None] | None = None
    ) -> pd.DataFrame:
        """Decide for the sessions, on the account that the ledger knows."""
        start = self.ledger.last_recorded_session(self.strategy, sessions[0])
        first = sessions[0] if start is None else start
        markets = [each for each in self.world.markets if first <= pd.Timestamp(each.session) <= sessions[-1]]

        def decide_session(session: MarketSession, held: dict[str, float]) -> pd.DataFrame:
            if watch:
                watch(session, held)
            return self.world.decide(session, held)

        decided = replay_decisions(self.strategy, sessions, markets, decide_session, self.ledger, INITIAL, COSTS, TERMS)
        return pd.concat(decided, ignore_index=True)

    def trade(self, session: pd.Timestamp, signals: pd.DataFrame) -> SessionTrades:
        rows = signals[signals["session"] == session].set_index("symbol")
        wish = Wish(rows["target_weight"].to_dict(), rows["reason"].to_dict())
        return trade_session(self.desk, self.market(session), wish, "run")

    def settle(self, session: pd.Timestamp) -> None:
        """Pass to a session's close without deciding anything."""
        observe(self.desk, self.market(session))

    def accounts(self) -> list[Account | None]:
        return [self.ledger.recorded_account(self.strategy, session) for session in self.world.sessions]
