"""Replay: decisions for consecutive sessions, each made on the account that the earlier ones led to.

What is held at a session depends on what was decided before it. Where the ledger knows the account of a
session, that is the truth; between and beyond, the same accounting carries it on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal

import pandas as pd

from trading_dagster.execution.accounting import QUANTITY_STEP, Account, Costs, MarketSession, advance
from trading_dagster.execution.gates import Book, Limits, check_orders
from trading_dagster.execution.orders import TERMINAL_STATES, Order, OrderState
from trading_dagster.execution.planner import Terms, plan_orders, worst_cash
from trading_dagster.resources.ledger import Ledger

Decide = Callable[[MarketSession, dict[str, float]], pd.DataFrame]
"""From a session and the held weights to rows of symbol, target_weight, reason and others."""


def replay_decisions(
    strategy: str,
    sessions: Iterable[pd.Timestamp],
    markets: Sequence[MarketSession],
    decide: Decide,
    ledger: Ledger,
    initial: Account,
    costs: Costs,
    terms: Terms,
    limits: Limits | None = None,
    average_volumes: Mapping[pd.Timestamp, Mapping[str, Decimal]] | None = None,
) -> list[pd.DataFrame]:
    """Decide each session in order.

    Parameters
    ----------
    sessions : iterable of Timestamp
        Sessions to decide, ascending.
    markets : sequence of MarketSession
        Consecutive, from the last recorded session before the first wanted one, or from that one itself.
    decide : callable
    ledger : Ledger
    initial : Account
        Where no account is recorded.
    costs : Costs
    terms : Terms
        Of the orders that would be sent.
    limits : Limits, optional
        What they would be held back by.
    average_volumes : mapping of Timestamp to mapping of str to Decimal, optional
        Shares in an average session, where they are known.

    Returns
    -------
    list of DataFrame
        What `decide` returned, with the session, for each wanted session.
    """
    wanted = {session.date() for session in sessions}
    decided = []
    account, pending = initial, list[Order]()
    for market in markets:
        at = pd.Timestamp(market.session)
        recorded = ledger.recorded_account(strategy, at)
        account = recorded or advance(account, pending, market, costs).account
        rows = None
        if market.session in wanted:
            rows = decide(market, account.weights(market))
            decided.append(rows.assign(session=at))
        sent = ledger.recorded_orders(strategy, at)
        if sent is not None:
            # what was planned and not sent before a crash is sent by this run, if it decides the session
            dead = TERMINAL_STATES if rows is not None else {*TERMINAL_STATES, OrderState.PLANNED}
            pending = [order for order in sent if order.state not in dead]
        elif rows is not None:
            targets = dict(zip(rows["symbol"], rows["target_weight"], strict=True))
            steps = dict.fromkeys([*targets, *account.positions], QUANTITY_STEP)
            pending = plan_orders(strategy, targets, {}, account, market, steps, terms)
            if limits is not None:
                volumes = (average_volumes or {}).get(at, {})
                refused = _refused(pending, account, market, terms, limits, volumes)
                pending = [order for order in pending if order.symbol not in refused]
        else:
            pending = []
    return decided


def _refused(
    orders: Sequence[Order],
    account: Account,
    market: MarketSession,
    terms: Terms,
    limits: Limits,
    average_volumes: Mapping[str, Decimal],
) -> set[str]:
    """Symbols whose orders a limit would hold back."""
    book = Book(
        equity=account.equity(market),
        positions=account.positions,
        prices=market.close,
        broker_prices={},
        average_volumes=average_volumes,
        cash=account.cash,
        worst_cash={order.symbol: worst_cash(order, terms) for order in orders},
    )
    return {refusal.symbol for refusal in check_orders(orders, book, limits)}
