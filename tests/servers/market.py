"""What really happened on the market, whoever reports it: listings, edits of them, and adjusted prices.

Belongs here: as-traded bars, corporate actions, and their definitions. Does not belong here: any vendor's format,
and where the prices come from (`universe`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

PRICES = ["open", "high", "low", "close"]
BAR_COLUMNS = [*PRICES, "volume"]
ACTION_COLUMNS = ["ex_date", "kind", "value"]

Day = str | pd.Timestamp


@dataclass(frozen=True)
class Listing:
    """One symbol's history, as traded.

    Attributes
    ----------
    bars : DataFrame
        `BAR_COLUMNS` by session, naive midnights (datetime64[us]); volume is int64.
    actions : DataFrame
        `ACTION_COLUMNS`, by ex-date: kind is ``split`` (value: new shares per old share) or ``dividend`` (value: cash
        per share as traded on the ex-date).
    """

    symbol: str
    bars: pd.DataFrame
    actions: pd.DataFrame

    def until(self, day: Day) -> Listing:
        """What is known at the close of `day`."""
        return ends(self, day)


def actions_frame(rows: Sequence[tuple[Day, str, float]] = ()) -> pd.DataFrame:
    """`ACTION_COLUMNS` of (ex-date, kind, value), by ex-date."""
    frame = pd.DataFrame(list(rows), columns=ACTION_COLUMNS)
    frame["ex_date"] = pd.to_datetime(frame["ex_date"]).astype("datetime64[us]")
    frame["value"] = frame["value"].astype("float64")
    return frame.sort_values("ex_date", kind="stable", ignore_index=True)


# -- edits: each returns a new listing ------------------------------------------------------------------------------


def drop_session(listing: Listing, session: Day) -> Listing:
    """Lose the bar of a session."""
    return replace(listing, bars=listing.bars.drop(index=pd.Timestamp(session)))


def shift_tick(listing: Listing, session: Day, factor: float, columns: Sequence[str] = PRICES) -> Listing:
    """Multiply the prices of one bar, as a bad tick does; all four of them unless told which."""
    bars = listing.bars.copy()
    bars.loc[pd.Timestamp(session), list(columns)] = (bars.loc[pd.Timestamp(session), list(columns)] * factor).round(2)
    return replace(listing, bars=bars)


def restate(listing: Listing, session: Day, column: str, value: Any) -> Listing:
    """Set one value of one bar; None for a value that the vendor lacks."""
    bars = listing.bars.copy()
    if pd.isna(value):
        bars[column] = bars[column].astype("float64")
    bars.loc[pd.Timestamp(session), column] = value
    return replace(listing, bars=bars)


def ends(listing: Listing, last_session: Day) -> Listing:
    """Delist after a session: neither bars nor actions beyond it."""
    last = pd.Timestamp(last_session)
    return replace(
        listing,
        bars=listing.bars[listing.bars.index <= last],
        actions=listing.actions[listing.actions["ex_date"] <= last].reset_index(drop=True),
    )


def starts(listing: Listing, first_session: Day) -> Listing:
    """List on a session: neither bars nor actions before it."""
    first = pd.Timestamp(first_session)
    return replace(
        listing,
        bars=listing.bars[listing.bars.index >= first],
        actions=listing.actions[listing.actions["ex_date"] >= first].reset_index(drop=True),
    )


def shuffled(listing: Listing, seed: int = 0) -> Listing:
    """Bring the bars out of order."""
    return replace(listing, bars=listing.bars.sample(frac=1, random_state=seed))


def with_action(listing: Listing, ex_date: Day, kind: str, value: float) -> Listing:
    """Report an action that prices and volumes do not show."""
    rows = [*listing.actions.itertuples(index=False, name=None), (pd.Timestamp(ex_date), kind, value)]
    return replace(listing, actions=actions_frame(rows))


def without_action(listing: Listing, ex_date: Day) -> Listing:
    """Forget the actions of a day, whose effect on the prices stays."""
    kept = listing.actions[listing.actions["ex_date"] != pd.Timestamp(ex_date)]
    return replace(listing, actions=kept.reset_index(drop=True))


def with_split(listing: Listing, ex_date: Day, ratio: float) -> Listing:
    """Split the shares: from the ex-date on prices and dividends are divided, volumes multiplied."""
    bars, actions = listing.bars.copy(), listing.actions.copy()
    after = bars.index >= pd.Timestamp(ex_date)
    bars.loc[after, PRICES] = (bars.loc[after, PRICES] / ratio).round(2)
    bars.loc[after, "volume"] = (bars.loc[after, "volume"] * ratio).round().astype("int64")
    paid_after = (actions["kind"] == "dividend") & (actions["ex_date"] >= pd.Timestamp(ex_date))
    actions.loc[paid_after, "value"] /= ratio
    return with_action(replace(listing, bars=bars, actions=actions), ex_date, "split", ratio)


def with_dividend(listing: Listing, ex_date: Day, cash: float) -> Listing:
    """Pay a dividend: from the ex-date on prices are lower by the part of the last close that was paid out."""
    bars = listing.bars.copy()
    after = bars.index >= pd.Timestamp(ex_date)
    same_day = (listing.actions["kind"] == "split") & (listing.actions["ex_date"] == pd.Timestamp(ex_date))
    last_close = bars["close"][~after].sort_index().iloc[-1] / listing.actions.loc[same_day, "value"].prod()
    left = 1 - cash / last_close
    bars.loc[after, PRICES] = (bars.loc[after, PRICES] * left).round(2)
    return with_action(replace(listing, bars=bars), ex_date, "dividend", cash)


# -- adjusted prices, by the definitions the vendors publish --------------------------------------------------------


def split_factor(listing: Listing, today: Day) -> pd.Series:
    """Shares at the close of `today` for one share of each session: adjusted price = price / factor.

    Vendors rewrite the past when a split happens: splits after a session count up to `today`, not up to the end of
    what was asked for.
    """
    factor = pd.Series(1.0, index=listing.bars.index)
    for row in listing.actions.itertuples():
        if row.kind == "split" and row.ex_date <= pd.Timestamp(today):
            factor[factor.index < row.ex_date] *= row.value
    return factor


def adjusted_close(listing: Listing, today: Day) -> pd.Series:
    """Close adjusted for splits and dividends up to `today`, as Yahoo and CRSP define it.

    Backwards from `today`: the close before an ex-date, and every one before that, is divided by the split ratio, and
    multiplied with 1 - dividend / close before the ex-date, both in the same shares.
    """
    known = ends(listing, today)
    closes = known.bars["close"].dropna().sort_index()
    pending = sorted(known.actions.itertuples(index=False), key=lambda action: action.ex_date)
    shares, kept = 1.0, 1.0
    adjusted: dict[pd.Timestamp, float] = {}
    for session, close in zip(closes.index[::-1], closes.tolist()[::-1], strict=True):
        since = []
        while pending and pending[-1].ex_date > session:
            since.append(pending.pop())
        for ex_date in {action.ex_date for action in since}:
            splits = [a.value for a in since if a.kind == "split" and a.ex_date <= ex_date]
            cash = sum(a.value for a in since if a.kind == "dividend" and a.ex_date == ex_date)
            # a dividend of a split's day is paid on the new shares
            kept *= 1 - cash / (close / math.prod(splits))
            shares *= math.prod(a.value for a in since if a.kind == "split" and a.ex_date == ex_date)
        adjusted[session] = close / shares * kept
    return pd.Series(adjusted, dtype="float64").reindex(known.bars.index)
