"""Accounting of an account through sessions: corporate actions, fills, marks; exact, in decimals.

The one implementation: the simulated broker keeps its book with it, and the signals replay with it what
the account would have been.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_DOWN, Decimal

import pandas as pd

from trading_dagster.execution.orders import Fill, Order, Side
from trading_dagster.quant.prices import PriceHistory

MONEY_STEP = Decimal("0.0001")
PRICE_STEP = Decimal("0.000001")
QUANTITY_STEP = Decimal("0.0001")
"""Fractions of a share that the simulated broker trades."""


@dataclass(frozen=True)
class Account:
    """Cash and positions at a session's close.

    Attributes
    ----------
    cash : Decimal
        Currency, never below zero.
    positions : dict of str to Decimal
        Shares by symbol, none of them zero.
    """

    cash: Decimal
    positions: dict[str, Decimal] = field(default_factory=dict)

    def equity(self, market: MarketSession) -> Decimal:
        """Cash plus positions at the session's close."""
        return self.cash + sum((q * market.mark(s) for s, q in self.positions.items()), Decimal(0))

    def weights(self, market: MarketSession) -> dict[str, float]:
        """Positions as fractions of equity."""
        equity = self.equity(market)
        return {s: float(q * market.mark(s) / equity) for s, q in self.positions.items()}


@dataclass(frozen=True)
class MarketSession:
    """Prices and corporate actions of one session, as traded, for the symbols that have a bar.

    Attributes
    ----------
    session : date
    execution : dict of str to Decimal
        Price at which market orders meet the session: its open, or its close where there is no open.
    close : dict of str to Decimal
        Last known close, of this session or an earlier one.
    split, dividend : dict of str to Decimal
        New shares per old; cash per share. Only symbols with such an action.
    delisted : frozenset of str
        Symbols that stopped trading before the session: what is held of them is paid out at the last close.
    """

    session: date
    execution: dict[str, Decimal]
    close: dict[str, Decimal]
    split: dict[str, Decimal]
    dividend: dict[str, Decimal]
    delisted: frozenset[str] = frozenset()

    def mark(self, symbol: str) -> Decimal:
        """Price that `symbol` is valued at.

        Raises
        ------
        ValueError
            If no bar of the symbol is known up to the session.
        """
        if symbol not in self.close:
            raise ValueError(
                f"{symbol} is held but has no bar up to {self.session}, so the account cannot be valued; "
                "supply its bars"
            )
        return self.close[symbol]


@dataclass(frozen=True)
class Costs:
    """What a simulated fill costs, as fractions of its price."""

    commission_rate: Decimal
    slippage_rate: Decimal


@dataclass(frozen=True)
class CashMovement:
    """Cash that came without a fill."""

    session: date
    symbol: str
    kind: str
    amount: Decimal


@dataclass(frozen=True)
class SessionOutcome:
    """What one session did to an account.

    Attributes
    ----------
    account : Account
        At the session's close.
    fills : list of Fill
    expired : dict of str to str
        Client order id of each order that ends with shares unfilled, to the reason.
    movements : list of CashMovement
    share_changes : dict of str to Decimal
        Shares that splits added, and that delistings took away, by symbol.
    """

    account: Account
    fills: list[Fill]
    expired: dict[str, str]
    movements: list[CashMovement]
    share_changes: dict[str, Decimal] = field(default_factory=dict)


def advance(account: Account, orders: Iterable[Order], market: MarketSession, costs: Costs) -> SessionOutcome:
    """Take an account through one session with the orders that wait for it.

    Corporate actions and delistings come first (they belong to who held at the close before), then sells, then
    buys, each at the session's execution price worsened by slippage. A buy takes what cash allows and the rest
    of it expires; so does an order without a bar to meet, one whose limit is below the price, and one whose symbol
    splits on that session, since its quantity was counted in old shares.
    """
    positions, cash, movements = _apply_actions(account, market)
    changes = {s: positions.get(s, Decimal(0)) - quantity for s, quantity in account.positions.items()}
    fills: list[Fill] = []
    expired: dict[str, str] = {}
    for order in sorted(orders, key=lambda o: (o.side is Side.BUY, o.symbol)):
        price = market.execution.get(order.symbol)
        if price is None or order.symbol in market.split:
            cause = "no bar" if price is None else "a split"
            expired[order.client_order_id] = f"{cause} on {market.session}"
            continue
        fill = _fill(order, price, cash, positions, market.session, costs)
        if order.limit_price is not None and fill.price > order.limit_price:
            expired[order.client_order_id] = f"the price of {fill.price} is above the limit of {order.limit_price}"
            continue
        if fill.quantity < order.quantity:
            limit = "cash" if order.side is Side.BUY else "position"
            expired[order.client_order_id] = f"{limit} covered {fill.quantity} of {order.quantity} shares"
        if fill.quantity == 0:
            continue
        fills.append(fill)
        signed = fill.quantity if fill.side is Side.BUY else -fill.quantity
        cash -= signed * fill.price + fill.commission
        positions[order.symbol] = positions.get(order.symbol, Decimal(0)) + signed
    kept = {symbol: quantity for symbol, quantity in sorted(positions.items()) if quantity}
    return SessionOutcome(
        Account(cash, kept), fills, expired, movements, {s: change for s, change in changes.items() if change}
    )


def market_sessions(
    history: PriceHistory, sessions: pd.DatetimeIndex, gone: Mapping[str, pd.Timestamp] | None = None
) -> list[MarketSession]:
    """Turn rows of a price history into decimals, for the given sessions in order.

    Parameters
    ----------
    gone : mapping of str to Timestamp, optional
        Symbols that stopped trading, with their last session.
    """
    rows = history.sessions.intersection(sessions)
    execution = history.open.where(history.open.notna(), history.close).where(history.observed).loc[rows]
    close = history.close.loc[rows]
    split, dividend = history.split.loc[rows], history.dividend.loc[rows]
    return [
        MarketSession(
            session=at.date(),
            execution=_decimals(execution.loc[at].dropna()),
            close=_decimals(close.loc[at].dropna()),
            split=_decimals(split.loc[at][split.loc[at] != 1.0]),
            dividend=_decimals(dividend.loc[at][dividend.loc[at] != 0.0]),
            delisted=frozenset(symbol for symbol, last in (gone or {}).items() if last < at),
        )
        for at in rows
    ]


def floor_quantity(quantity: Decimal, step: Decimal) -> Decimal:
    """Largest multiple of `step` not above `quantity`."""
    return (quantity / step).to_integral_value(ROUND_DOWN) * step


def _apply_actions(account: Account, market: MarketSession) -> tuple[dict[str, Decimal], Decimal, list[CashMovement]]:
    positions, cash = dict(account.positions), account.cash
    movements: list[CashMovement] = []
    for symbol, quantity in account.positions.items():
        if symbol in market.split:
            exact = quantity * market.split[symbol]
            positions[symbol] = floor_quantity(exact, QUANTITY_STEP)
            rest = _money((exact - positions[symbol]) * market.mark(symbol))
            if rest:
                movements.append(CashMovement(market.session, symbol, "cash_in_lieu", rest))
        if symbol in market.dividend:
            amount = _money(positions[symbol] * market.dividend[symbol])
            if amount:
                movements.append(CashMovement(market.session, symbol, "dividend", amount))
        if symbol in market.delisted:
            amount = _money(positions.pop(symbol) * market.mark(symbol))
            movements.append(CashMovement(market.session, symbol, "delisting", amount))
    return positions, cash + sum((m.amount for m in movements), Decimal(0)), movements


def _fill(
    order: Order, price: Decimal, cash: Decimal, positions: dict[str, Decimal], session: date, costs: Costs
) -> Fill:
    direction = 1 if order.side is Side.BUY else -1
    paid = (price * (1 + direction * costs.slippage_rate)).quantize(PRICE_STEP)
    quantity = order.quantity
    whole = quantity * paid + _money(quantity * paid * costs.commission_rate)
    if order.side is Side.BUY and whole > cash:
        # a money step is kept back for the rounding of the commission
        affordable = max(cash - MONEY_STEP, Decimal(0)) / (paid * (1 + costs.commission_rate))
        quantity = min(quantity, floor_quantity(affordable, QUANTITY_STEP))
    elif order.side is Side.SELL:
        quantity = min(quantity, positions.get(order.symbol, Decimal(0)))
    return Fill(
        activity_id=f"{order.client_order_id}-{session:%Y%m%d}",
        client_order_id=order.client_order_id,
        session=session,
        symbol=order.symbol,
        side=order.side,
        quantity=quantity,
        price=paid,
        commission=_money(quantity * paid * costs.commission_rate),
    )


def _money(amount: Decimal) -> Decimal:
    return amount.quantize(MONEY_STEP)


def _decimals(values: pd.Series) -> dict[str, Decimal]:
    # repr is the shortest text that reads back as the same float, so nothing is invented
    return {str(symbol): Decimal(repr(float(value))) for symbol, value in values.items()}
