"""What a position cost, in the two ways in which Alpaca counts it.

Belongs here: one position's purchases and sales, and the arithmetic of its cost and gain. Does not belong here: orders,
cash, prices of the day (`brokerage`).

Alpaca counts by weighted average during a day, and by compressed FIFO once the day is over: each day's purchases are
one lot at their average price, and the day's sales are taken from the oldest lots, the day's own being the last. See
https://docs.alpaca.markets/docs/position-average-entry-price-calculation, whose examples are tests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

ZERO = Decimal(0)
SHARE = Decimal("1e-9")
"""The smallest part of a share that is traded."""


@dataclass(frozen=True)
class Lot:
    """Shares that were bought on one day, and what they cost together."""

    quantity: Decimal = ZERO
    cost: Decimal = ZERO

    def plus(self, quantity: Decimal, cost: Decimal) -> Lot:
        return Lot(self.quantity + quantity, self.cost + cost)

    def split(self, ratio: Fraction) -> Lot:
        return replace(self, quantity=times(self.quantity, ratio))


@dataclass(frozen=True)
class Book:
    """A long position, or none.

    Attributes
    ----------
    lots : tuple of Lot
        Of the days before, oldest first.
    bought : Lot
        Of today.
    sold, proceeds : Decimal
        Shares sold today, and what they brought.
    running : Lot
        The position by weighted average.
    gained : Decimal
        Realised by compressed FIFO on the days before.
    """

    lots: tuple[Lot, ...] = ()
    bought: Lot = Lot()
    sold: Decimal = ZERO
    proceeds: Decimal = ZERO
    running: Lot = Lot()
    gained: Decimal = ZERO

    @property
    def quantity(self) -> Decimal:
        return self.running.quantity

    def buy(self, quantity: Decimal, price: Decimal) -> Book:
        cost = quantity * price
        return replace(self, bought=self.bought.plus(quantity, cost), running=self.running.plus(quantity, cost))

    def sell(self, quantity: Decimal, price: Decimal) -> Book:
        assert 0 < quantity <= self.quantity
        left = self.quantity - quantity
        # a position that is gone costs nothing, whatever the division left over
        cost = self.running.cost - self.running.cost * quantity / self.quantity if left else ZERO
        return replace(
            self, sold=self.sold + quantity, proceeds=self.proceeds + quantity * price, running=Lot(left, cost)
        )

    def compressed(self) -> tuple[tuple[Lot, ...], Decimal]:
        """What is left of each lot, and what the shares sold today cost, were the day over now."""
        to_take, cost, rest = self.sold, ZERO, []
        for lot in (*self.lots, self.bought):
            taken = min(to_take, lot.quantity)
            to_take -= taken
            if taken == lot.quantity:
                cost += lot.cost
                continue
            part = lot.cost * taken / lot.quantity
            cost += part
            rest.append(Lot(lot.quantity - taken, lot.cost - part))
        return tuple(rest), cost

    @property
    def realised(self) -> Decimal:
        """By compressed FIFO, as if the day were over now."""
        return self.gained + self.proceeds - self.compressed()[1]

    @property
    def cost(self) -> Decimal:
        """Of the shares still held, by compressed FIFO, as if the day were over now."""
        return sum((lot.cost for lot in self.compressed()[0]), ZERO)

    @property
    def overnight(self) -> Decimal:
        """Shares of the days before that are still held."""
        return max(sum((lot.quantity for lot in self.lots), ZERO) - self.sold, ZERO)

    def end_of_day(self) -> Book:
        """The position on the next day, when it is counted by compressed FIFO."""
        lots = self.compressed()[0]
        cost = sum((lot.cost for lot in lots), ZERO)
        return Book(lots=lots, running=Lot(self.quantity, cost), gained=self.realised)

    def split(self, ratio: Fraction) -> Book:
        """Other quantities, the same cost."""
        lots, bought = tuple(lot.split(ratio) for lot in self.lots), self.bought.split(ratio)
        sold = times(self.sold, ratio)
        quantity = max(sum((lot.quantity for lot in lots), bought.quantity) - sold, ZERO)
        return replace(self, lots=lots, bought=bought, sold=sold, running=Lot(quantity, self.running.cost))


def times(quantity: Decimal, ratio: Fraction) -> Decimal:
    """A quantity after a split, to nine decimals."""
    return (quantity * ratio.numerator / ratio.denominator).quantize(SHARE)
