"""A universe of listings whose daily moves are real: those of two indices, re-dated.

Belongs here: where the prices come from and which actions are put in. Does not belong here: what a listing is
(`market`). Everything is deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import exchange_calendars
import numpy as np
import pandas as pd

from tests.servers.market import PRICES, Listing, actions_frame

FIRST, LAST = "2000-01-03", "2018-12-31"
SESSIONS_A_YEAR = 252


@dataclass(frozen=True)
class Plan:
    """How one listing is made.

    Attributes
    ----------
    index : str
        ``sp500`` or ``nasdaq``, whose daily moves are taken.
    years : int
        By how much the moves are brought forward, around the end of the record.
    price : float
        Dollars before the first session.
    splits : mapping
        Ex-date to new shares per old share.
    quarterly : float
        Dividend of each quarter as a part of the price; 0 for none.
    specials : mapping
        Ex-date to a further dividend, as a part of the price.
    """

    index: str
    years: int
    price: float
    splits: Mapping[str, float] = field(default_factory=dict)
    quarterly: float = 0.0
    specials: Mapping[str, float] = field(default_factory=dict)


PLANS = {
    "PLAIN": Plan("sp500", 0, 40),
    "TWO": Plan("nasdaq", 2, 45, splits={"2006-02-21": 2}),
    "SEVEN": Plan("sp500", 4, 150, splits={"2014-06-09": 7}, quarterly=0.005),
    "UNDO": Plan("nasdaq", 6, 20, splits={"2009-03-09": 0.1}),
    "HALF": Plan("sp500", 8, 60, splits={"2004-09-14": 1.5}, quarterly=0.003),
    "YIELD": Plan("nasdaq", 10, 120, quarterly=0.008),
    "ONCE": Plan("sp500", 12, 90, quarterly=0.004, specials={"2012-12-05": 0.08}),
    # the day of its second split is also an ex-date, so that the order of the two is put to the test
    "MANY": Plan(
        "nasdaq", 14, 140, splits={"2005-05-16": 2, "2011-08-15": 3, "2017-02-15": 2}, specials={"2011-08-15": 0.02}
    ),
}
"""Symbol to plan: none of them is a real ticker's history."""


@lru_cache(maxsize=1)
def sessions() -> pd.DatetimeIndex:
    """Sessions of XNYS in the record's range, naive midnights."""
    calendar = exchange_calendars.get_calendar("XNYS", start=FIRST, end=LAST)
    return pd.DatetimeIndex(calendar.sessions.to_numpy(), freq=None).as_unit("us")


@lru_cache(maxsize=2)
def daily_moves(index: str) -> pd.DataFrame:
    """Log of open, high, low and close over the close before, and volume, of each session."""
    import arch.data.nasdaq
    import arch.data.sp500

    record = {"sp500": arch.data.sp500, "nasdaq": arch.data.nasdaq}[index].load()
    record.columns = [name.lower() for name in record.columns]
    before = record["close"].shift(1)
    moves = np.log(record[PRICES].div(before, axis=0))
    # the record holds two sessions without a volume: a gap of the record, none of the market
    moves["volume"] = record["volume"].where(record["volume"] > 0).ffill()
    return moves.reindex(sessions())


def build(symbol: str, plan: Plan) -> Listing:
    """Make one listing."""
    moves = daily_moves(plan.index)
    rolled = np.roll(moves.to_numpy(), -plan.years * SESSIONS_A_YEAR, axis=0)
    closes = plan.price * np.exp(np.cumsum(rolled[:, 3]))
    before = np.concatenate([[plan.price], closes[:-1]])
    bars = pd.DataFrame(before[:, None] * np.exp(rolled[:, :4]), index=moves.index, columns=PRICES)
    # an index trades a thousand million shares a session; a listing some million
    bars["volume"] = rolled[:, 4] / 400 / plan.price * 40
    rows = []
    for ex_date, kind, size in _actions(plan):
        rows.append((ex_date, kind, _put_in(bars, ex_date, kind, size, plan)))
    bars[PRICES] = bars[PRICES].round(2)
    bars["volume"] = bars["volume"].round().astype("int64")
    return Listing(symbol, bars, actions_frame(rows))


def _actions(plan: Plan) -> list[tuple[pd.Timestamp, str, float]]:
    """Every action of a plan by ex-date, a split before a dividend of its day."""
    found = [(pd.Timestamp(day), "split", ratio) for day, ratio in plan.splits.items()]
    found += [(pd.Timestamp(day), "dividend", part) for day, part in plan.specials.items()]
    if plan.quarterly:
        days = sessions()
        middle = days[(days.month % 3 == 2) & (days.day >= 8)]
        quarters = middle.to_series().groupby([middle.year, middle.month]).first()
        found += [(day, "dividend", plan.quarterly) for day in quarters]
    return sorted(found, key=lambda action: (action[0], action[1] != "split"))


def _put_in(bars: pd.DataFrame, ex_date: pd.Timestamp, kind: str, size: float, plan: Plan) -> float:
    """Let an action change all bars from its ex-date on; gives a split's ratio, or a dividend's cash per share."""
    at = int(bars.index.searchsorted(ex_date))
    assert bars.index[at] == ex_date, f"{ex_date:%Y-%m-%d} is not a session"
    after = bars.index[at:]
    if kind == "split":
        bars.loc[after, PRICES] /= size
        bars.loc[after, "volume"] *= size
        return size
    # in the shares of the ex-date, when that is a split's day, too
    last_close = bars["close"].iloc[at - 1] / plan.splits.get(f"{ex_date:%Y-%m-%d}", 1.0)
    cash = max(round(last_close * size, 2), 0.01)
    bars.loc[after, PRICES] *= 1 - cash / last_close
    return cash


@lru_cache(maxsize=1)
def _built() -> dict[str, Listing]:
    return {symbol: build(symbol, plan) for symbol, plan in PLANS.items()}


def default_market() -> dict[str, Listing]:
    """Every listing of `PLANS`, by symbol; the dictionary is the caller's own."""
    return dict(_built())
