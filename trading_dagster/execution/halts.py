"""Halts: the states of a strategy, what puts it there, and the rules of losses. Pure.

Belongs here: what a state allows and how losses are measured. Does not belong here: where states are kept (the
ledger), and who sets them (`operations`, `trading_session`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise


class HaltState(StrEnum):
    """What a strategy may do: all; only reduce positions; nothing."""

    ACTIVE = "ACTIVE"
    REDUCE_ONLY = "REDUCE_ONLY"
    HALTED = "HALTED"


class Cause(StrEnum):
    """Why a strategy does not trade freely. All but the first are set by the machine."""

    OPERATOR = "operator"
    DAILY_LOSS = "daily_loss"
    DRAWDOWN = "drawdown"
    RECONCILIATION = "reconciliation"
    BROKER_ERRORS = "broker_errors"
    MISSING = "missing_state"


AUTOMATIC = "automatic"
"""Stands for the operator where the machine halted."""


class HaltedError(RuntimeError):
    """An order that the strategy's state forbids."""


@dataclass(frozen=True)
class Halt:
    """A strategy's state and where it comes from.

    Attributes
    ----------
    state : HaltState
    cause : Cause or None
        None while nothing was ever halted.
    detail : str
        In words: the operator's reason, or what the machine found.
    operator : str
        Who; `AUTOMATIC` for the machine.
    since : datetime or None
        None where the state is missing.
    """

    state: HaltState
    cause: Cause | None
    detail: str
    operator: str
    since: datetime | None

    @classmethod
    def missing(cls, strategy: str) -> Halt:
        """What a ledger without a state, or with one that cannot be read, means."""
        detail = (
            f"the ledger has no halt state for the strategy {strategy!r} that can be read, which means HALTED; find "
            "out why, then: trading resume --operator NAME --reason TEXT"
        )
        return cls(HaltState.HALTED, Cause.MISSING, detail, "", None)

    def __str__(self) -> str:
        by = f" by {self.operator}" if self.operator else ""
        since = f" since {self.since:%Y-%m-%d %H:%M} UTC" if self.since else ""
        cause = f" ({self.cause})" if self.cause and self.cause is not Cause.OPERATOR else ""
        return f"{self.state}{since}{by}{cause}: {self.detail}"


@dataclass(frozen=True)
class EquityPoint:
    """Equity at one session, with the money that came from outside since the point before.

    Attributes
    ----------
    session : date
    equity, external_flow : Decimal
        Currency; a deposit is positive.
    """

    session: date
    equity: Decimal
    external_flow: Decimal = Decimal(0)


@dataclass(frozen=True)
class Losses:
    """Losses as positive fractions; a gain is zero or below.

    Attributes
    ----------
    daily : Decimal
        Of the last point against the one before.
    drawdown : Decimal
        Of the last point against the highest.
    """

    daily: Decimal
    drawdown: Decimal


def losses(points: Sequence[EquityPoint]) -> Losses:
    """Measure the losses at the last of the points.

    Returns are time-weighted: ``(equity - flow) / equity before``, so that a withdrawal is no loss, and a deposit
    hides none.

    Parameters
    ----------
    points : sequence of EquityPoint
        Ascending.
    """
    index = highest = Decimal(1)
    daily = Decimal(0)
    for before, point in pairwise(points):
        # an account without money has nothing to lose; a division by it would hide what is lost later
        growth = (point.equity - point.external_flow) / before.equity if before.equity > 0 else Decimal(1)
        daily = 1 - growth
        index *= growth
        highest = max(highest, index)
    return Losses(daily, 1 - index / highest)
