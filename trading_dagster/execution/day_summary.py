"""Summary of a session: what a trader wants to read, collected from tables and ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pandas as pd

from trading_dagster.quant.performance import drawdown, equal_weight_buy_and_hold
from trading_dagster.quant.prices import price_history
from trading_dagster.resources.ledger import Ledger
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import MARKET_SYMBOL, Settings


class SummaryError(ValueError):
    """A session that has no result yet."""


@dataclass(frozen=True)
class DaySummary:
    """A session's result.

    Attributes
    ----------
    session : date
    regime : str
        Of the equal-weight market.
    suitability : float
        Share of the full exposure that the regime suits.
    signals : DataFrame
        Of the session: what is to be done first, largest change first, then what is held.
    orders : DataFrame
        Decided at the session's close.
    fills : DataFrame
        Orders of the session before that were filled in this one.
    equity : Series
        Of the account by session, currency.
    benchmark : Series
        Equal-weight buy and hold over the same sessions, same costs.
    cash : float
    max_drawdown : float
        Deepest fall from a high, as a negative fraction.
    order_count, fill_count : int
        Orders of the account up to the session, and how many of them were filled, at least in part.
    commission : float
        Paid for them, currency.
    verdicts : tuple of int
        Data-policy verdicts of the session that passed, and all.
    """

    session: date
    regime: str
    suitability: float
    signals: pd.DataFrame
    orders: pd.DataFrame
    fills: pd.DataFrame
    equity: pd.Series
    benchmark: pd.Series
    cash: float
    max_drawdown: float
    order_count: int
    fill_count: int
    commission: float
    verdicts: tuple[int, int]


def day_summary(settings: Settings, tables: Tables, ledger: Ledger, session: pd.Timestamp) -> DaySummary:
    """Collect the result of a session.

    Raises
    ------
    SummaryError
        If the session has no signals or no account.
    """
    signals = tables.read("signals", first=session, as_of=session)
    curve = ledger.equity_curve(settings.strategy).loc[:session]
    if signals.empty or session not in curve.index:
        raise SummaryError(
            f"session {session:%Y-%m-%d} has no result yet; run it: trading run --session {session:%Y-%m-%d}"
        )
    market = tables.read("regime", first=session, as_of=session).set_index("symbol").loc[MARKET_SYMBOL]
    history = price_history(tables.read("bars", as_of=session), tables.read("corporate_actions", as_of=session))
    costs = float(settings.commission_rate + settings.slippage_rate)
    benchmark = equal_weight_buy_and_hold(
        history.select(settings.universe), pd.DatetimeIndex(curve.index), float(curve["equity"].iloc[0]), costs
    )
    before = [s.date() for s in curve.index[-2:-1]]
    all_orders = ledger.order_table(settings.strategy, [s.date() for s in curve.index])
    earlier = ledger.order_table(settings.strategy, before)
    ordered = signals.assign(
        acts=signals["action"] != "HOLD", change=(signals["target_weight"] - signals["current_weight"]).abs()
    ).sort_values(["acts", "change", "current_weight"], ascending=False)
    return DaySummary(
        session=session.date(),
        regime=str(market["regime"]),
        suitability=float(market["suitability"]),
        signals=ordered.drop(columns=["acts", "change"]),
        orders=ledger.order_table(settings.strategy, [session.date()]),
        fills=earlier[earlier["filled_quantity"] > 0],
        equity=curve["equity"],
        benchmark=benchmark,
        cash=float(curve["cash"].iloc[-1]),
        max_drawdown=float(drawdown(curve["equity"]).min()),
        order_count=len(all_orders),
        fill_count=int((all_orders["filled_quantity"] > 0).sum()),
        commission=float(all_orders["commission"].sum()),
        verdicts=ledger.count_verdicts([session.date()]),
    )
