"""Gates: what must hold before an order goes out, in the order in which it is asked. Pure.

Belongs here: the names of the gates, the limits, and what they are compared with. Does not belong here: reading the
ledger or the broker, and what follows from a refusal (`trading_session`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum

from trading_dagster.execution.halts import Losses
from trading_dagster.execution.orders import Order, Side


class Gate(StrEnum):
    """Gates in the order in which they are asked; the first that refuses is the one on record."""

    HALT = "halt"
    UPSTREAM_VERDICTS = "upstream_verdicts"
    FRESHNESS = "freshness"
    RECONCILIATION = "reconciliation"
    TRADABLE = "tradable"
    POSITION_WEIGHT = "position_weight"
    GROSS = "gross"
    ORDER_NOTIONAL = "order_notional"
    DAILY_LOSS = "daily_loss"
    DRAWDOWN = "drawdown"
    PRICE_COLLAR = "price_collar"
    VOLUME_SHARE = "volume_share"
    CASH = "cash"
    LEASE = "lease"


@dataclass(frozen=True)
class Refusal:
    """What a gate held back, and why.

    Attributes
    ----------
    symbol : str
        Empty where the whole session is held back.
    """

    gate: Gate
    detail: str
    symbol: str = ""

    def __str__(self) -> str:
        return f"{self.gate}{f' of {self.symbol}' if self.symbol else ''}: {self.detail}"


@dataclass(frozen=True)
class Limits:
    """Bounds that orders are held to; each is a setting.

    Attributes
    ----------
    position_weight, gross : Decimal
        Fractions of equity, of one position and of all together.
    order_notional : Decimal
        Currency, of one order.
    daily_loss, drawdown : Decimal
        Fractions of equity, at which trading halts.
    price_collar : Decimal
        Relative distance of the broker's price from the close that an order was sized with.
    volume_share : Decimal
        Of the shares that are traded in an average session.
    """

    position_weight: Decimal
    gross: Decimal
    order_notional: Decimal
    daily_loss: Decimal
    drawdown: Decimal
    price_collar: Decimal
    volume_share: Decimal


@dataclass(frozen=True)
class Book:
    """What limits are measured against.

    Attributes
    ----------
    equity : Decimal
        Currency.
    positions : mapping of str to Decimal
        Shares, whoever holds them, with what open orders will add.
    prices : mapping of str to Decimal
        Closes.
    broker_prices : mapping of str to Decimal
        What the broker says of the same moment, where it says it.
    average_volumes : mapping of str to Decimal
        Shares traded in an average session, where the source knows it.
    cash : Decimal
        Currency, with what open orders are sure to leave of it.
    worst_cash : mapping of str to Decimal
        What each planned order brings when it ends as badly as it can, negative for a buy.
    """

    equity: Decimal
    positions: Mapping[str, Decimal]
    prices: Mapping[str, Decimal]
    broker_prices: Mapping[str, Decimal]
    average_volumes: Mapping[str, Decimal]
    cash: Decimal
    worst_cash: Mapping[str, Decimal]


def check_verdicts(session: date, verdicts: Mapping[str, bool], wanted: Sequence[str]) -> Refusal | None:
    """Hold back orders unless every upstream stage passed: a blocking check guards only its own run."""
    missing = [name for name in wanted if name not in verdicts]
    failed = [name for name, passed in verdicts.items() if not passed]
    if not missing and not failed:
        return None
    return Refusal(
        Gate.UPSTREAM_VERDICTS,
        f"data policy failed for {', '.join(failed) or 'none'}, was not evaluated for {', '.join(missing) or 'none'}; "
        f"correct the data and materialise these stages for the session: trading run --session {session}",
    )


def check_freshness(session: date, newest: date, where: str) -> Refusal | None:
    """Only the newest completed session is traded: its prices are the last ones there are."""
    if session == newest:
        return None
    if session > newest:
        return Refusal(
            Gate.FRESHNESS, f"{session} has not closed at {where}, whose newest completed session is {newest}; wait"
        )
    return Refusal(
        Gate.FRESHNESS,
        f"{session} is past: the newest completed session at {where} is {newest}, and only that one is traded. Run "
        f"{newest} instead; to study the past, use the job research_backfill, or a simulated account of its own: "
        "TRADING_BROKER=simulated with a new TRADING_STRATEGY",
    )


def check_losses(losses: Losses, limits: Limits) -> Refusal | None:
    """Refuse at a loss that has reached its limit; gains never do."""
    if losses.daily >= limits.daily_loss:
        return Refusal(
            Gate.DAILY_LOSS,
            f"equity fell by {losses.daily:.2%} since the session before; the limit is {limits.daily_loss:.2%} "
            "(TRADING_LIMIT_DAILY_LOSS)",
        )
    if losses.drawdown >= limits.drawdown:
        return Refusal(
            Gate.DRAWDOWN,
            f"equity is {losses.drawdown:.2%} below its high; the limit is {limits.drawdown:.2%} "
            "(TRADING_LIMIT_DRAWDOWN)",
        )
    return None


def check_orders(orders: Sequence[Order], book: Book, limits: Limits, loss: Refusal | None = None) -> list[Refusal]:
    """Ask all limits, in the order of `Gate`.

    Parameters
    ----------
    loss : Refusal, optional
        What `check_losses` said: it ends the asking.

    Returns
    -------
    list of Refusal
        At most one a symbol: the first limit that it breaks. What reduces a position is held to notional, collar and
        volume only, since holding it back would leave more at risk.
    """
    refused: dict[str, Refusal] = {}

    def ask(check: Callable[[Order, Book, Limits], Refusal | None]) -> None:
        for order in orders:
            if order.symbol not in refused and (found := check(order, book, limits)) is not None:
                refused[order.symbol] = found

    ask(_check_position_weight)
    _check_gross(orders, refused, book, limits)
    ask(_check_order_notional)
    if loss is not None:
        return [*refused.values(), loss]
    ask(_check_price_collar)
    ask(_check_volume_share)
    # a sale that was refused in between leaves its shares, and does not bring its cash
    _check_gross(orders, refused, book, limits)
    _check_cash(orders, refused, book)
    return list(refused.values())


def _check_position_weight(order: Order, book: Book, limits: Limits) -> Refusal | None:
    before = book.positions.get(order.symbol, Decimal(0))
    after = before + _signed(order)
    weight = abs(after) * book.prices[order.symbol] / book.equity
    if abs(after) <= abs(before) or weight <= limits.position_weight:
        return None
    return Refusal(
        Gate.POSITION_WEIGHT,
        f"{after} shares would be {weight:.2%} of equity; the limit is {limits.position_weight:.2%} "
        "(TRADING_LIMIT_POSITION_WEIGHT)",
        order.symbol,
    )


def _check_order_notional(order: Order, book: Book, limits: Limits) -> Refusal | None:
    notional = order.quantity * (order.limit_price or book.prices[order.symbol])
    if notional <= limits.order_notional:
        return None
    return Refusal(
        Gate.ORDER_NOTIONAL,
        f"an order of {notional:,.2f}; the limit is {limits.order_notional:,.2f} (TRADING_LIMIT_ORDER_NOTIONAL)",
        order.symbol,
    )


def _check_price_collar(order: Order, book: Book, limits: Limits) -> Refusal | None:
    told = book.broker_prices.get(order.symbol)
    if told is None or abs(told / order.reference_price - 1) <= limits.price_collar:
        return None
    return Refusal(
        Gate.PRICE_COLLAR,
        f"the broker's price is {told}, {told / order.reference_price - 1:+.2%} from the close of "
        f"{order.reference_price} that the order was sized with; the limit is {limits.price_collar:.2%} "
        "(TRADING_LIMIT_PRICE_COLLAR). Is a split missing in corporate_actions?",
        order.symbol,
    )


def _check_volume_share(order: Order, book: Book, limits: Limits) -> Refusal | None:
    volume = book.average_volumes.get(order.symbol)
    if volume is None or order.quantity <= limits.volume_share * volume:
        return None
    return Refusal(
        Gate.VOLUME_SHARE,
        f"{order.quantity} shares are more than {limits.volume_share:.2%} of the {volume:,.0f} that are traded in an "
        "average session (TRADING_LIMIT_VOLUME_SHARE)",
        order.symbol,
    )


def _check_gross(orders: Sequence[Order], refused: dict[str, Refusal], book: Book, limits: Limits) -> None:
    """Refuse buys, the largest first, until what would be held fits."""
    after = dict(book.positions)
    for order in orders:
        if order.symbol not in refused:
            after[order.symbol] = after.get(order.symbol, Decimal(0)) + _signed(order)
    gross = sum((abs(q) * book.prices[s] for s, q in after.items()), Decimal(0))
    buys = [order for order in orders if order.side is Side.BUY and order.symbol not in refused]
    for order in sorted(buys, key=lambda o: o.quantity * book.prices[o.symbol], reverse=True):
        if gross <= limits.gross * book.equity:
            return
        refused[order.symbol] = Refusal(
            Gate.GROSS,
            f"all positions together would be {gross / book.equity:.2%} of equity; the limit is {limits.gross:.2%} "
            "(TRADING_LIMIT_GROSS)",
            order.symbol,
        )
        gross -= order.quantity * book.prices[order.symbol]


def _check_cash(orders: Sequence[Order], refused: dict[str, Refusal], book: Book) -> None:
    """Refuse buys that lived from a sale which was refused."""
    left = book.cash
    for order in sorted(orders, key=lambda o: o.side is Side.BUY):
        if order.symbol in refused:
            continue
        after = left + book.worst_cash[order.symbol]
        if order.side is Side.BUY and after < 0:
            refused[order.symbol] = Refusal(
                Gate.CASH,
                f"it may cost {-book.worst_cash[order.symbol]:,.2f}, and only {max(left, Decimal(0)):,.2f} are sure to "
                "be there: a sale that was to pay for it is not made",
                order.symbol,
            )
        else:
            left = after


def _signed(order: Order) -> Decimal:
    return order.quantity if order.side is Side.BUY else -order.quantity
