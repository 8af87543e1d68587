"""Ingestion: what to ask a source, and what of its answer may be stored.

Belongs here: planning a request, and turning an answer into rows to store, rows to quarantine and findings.
Nothing is written here. Does not belong here: the rules themselves (`checks.market_data_quality`) and the
judgement of jumps and changes (`quant.bar_quality`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import numpy as np
import pandas as pd

from trading_dagster.calendar import SessionCalendar
from trading_dagster.policy import EARLIEST_DATE
from trading_dagster.quant.bar_quality import SIGMA_WINDOW, compare_overlap, find_jumps, find_phantoms
from trading_dagster.quant.prices import price_history
from trading_dagster.resources.market_data import (
    ACTION_COLUMNS,
    BAR_COLUMNS,
    Answer,
    MarketDataSource,
    Report,
    empty_rows,
)
from trading_dagster.resources.schemas import TABLES
from trading_dagster.resources.tables import Tables

OVERLAP_SESSIONS = 10
"""Stored sessions that are asked for again, to notice what the vendor has changed."""

DELISTED_AFTER = 5
"""Sessions without a bar after which a symbol counts as gone, when the source answers and the others go on."""

VISIBLE_SPLIT = 0.2
"""Least log ratio of a split that must show in the price; a day's move could hide a smaller one."""

KEY = ["session", "symbol"]


@dataclass(frozen=True)
class Asked:
    """An answer together with what was asked.

    Attributes
    ----------
    first : Series
        First date that was asked for, by symbol.
    answer : Answer
    """

    first: pd.Series
    answer: Answer


def coverage(tables: Tables, asset: str) -> pd.DataFrame:
    """Newest answer on record of each symbol: columns session, last_bar, columns, source; by symbol."""
    rows = tables.read("fetches", columns=["session", "asset", "symbol", "last_bar", "columns", "source"])
    return rows[rows["asset"] == asset].drop_duplicates("symbol", keep="last").set_index("symbol")


def delisted(covered: pd.DataFrame, calendar: SessionCalendar) -> dict[str, pd.Timestamp]:
    """Symbols that stopped trading, with their last session.

    Parameters
    ----------
    covered : DataFrame
        As of `coverage` of the bars.
    calendar : SessionCalendar

    Notes
    -----
    A symbol is gone when a source that answered for it had no bar in five sessions, while at least half of the
    symbols had one in the newest: a vendor that has fallen behind is no reason to close positions.
    """
    known = covered[covered["last_bar"].notna()]
    if known.empty:
        return {}
    newest = known[known["session"] == known["session"].max()]
    if (newest["last_bar"] == newest["session"]).sum() * 2 < len(newest):
        return {}
    behind = known[known["last_bar"] < known["session"]]
    return {
        str(row.Index): row.last_bar
        for row in behind.itertuples()
        if calendar.count_after(row.last_bar, row.session) >= DELISTED_AFTER
    }


def first_to_ask(
    symbols: Iterable[str], covered: pd.DataFrame, last: pd.Timestamp, calendar: SessionCalendar
) -> pd.Series:
    """First date to ask of each symbol: from 2000-01-01, or from a few sessions before the newest answer."""
    start = pd.Timestamp(EARLIEST_DATE)
    known = covered["session"].clip(upper=last)
    return pd.Series(
        {s: calendar.back(known[s], OVERLAP_SESSIONS - 1) if s in known.index else start for s in symbols},
        dtype="datetime64[us]",
    )


def ask(
    fetch: Callable[[Sequence[str], date, date, Report], Answer], first: pd.Series, last: date, report: Report
) -> Asked:
    """Ask for each symbol from its own first date; symbols that share it are asked for together."""
    answers = [fetch([str(s) for s in those.index], at.date(), last, report) for at, those in first.groupby(first)]
    rows = [answer.rows for answer in answers if len(answer.rows)]
    merged = Answer(
        rows=pd.concat(rows, ignore_index=True) if rows else (answers[0].rows if answers else pd.DataFrame()),
        failures={s: why for answer in answers for s, why in answer.failures.items()},
        columns={s: names for answer in answers for s, names in answer.columns.items()},
    )
    return Asked(first, merged)


def symbols_frame(asked: Asked, covered: pd.DataFrame, *, accept_columns: bool) -> pd.DataFrame:
    """Say of each symbol whether it was answered, and with the same columns as before.

    Returns
    -------
    DataFrame
        symbol, answered, failure, columns_unchanged, difference.
    """
    rows = []
    for symbol in asked.first.index:
        failure = asked.answer.failures.get(symbol, "")
        now = set(asked.answer.columns.get(symbol, ()))
        before = set(filter(None, str(covered["columns"].get(symbol, "")).split(",")))
        gone, new = sorted(before - now), sorted(now - before)
        # an answer without rows has no columns to compare
        changed = bool(before and now and (gone or new)) and not accept_columns
        difference = f"gone: {', '.join(gone) or 'none'}; new: {', '.join(new) or 'none'}" if changed else ""
        rows.append((symbol, not failure, failure, not changed, difference))
    return pd.DataFrame(rows, columns=["symbol", "answered", "failure", "columns_unchanged", "difference"])


@dataclass(frozen=True)
class Stored:
    """What is stored already around the dates that were asked for.

    Attributes
    ----------
    bars : DataFrame
        From `SIGMA_WINDOW` sessions before the first date asked for of a known symbol.
    quarantine : DataFrame
        Likewise.
    corporate_actions : DataFrame
    covered : DataFrame
        See `coverage`.
    """

    bars: pd.DataFrame
    quarantine: pd.DataFrame
    corporate_actions: pd.DataFrame
    covered: pd.DataFrame


def read_stored(
    tables: Tables, covered: pd.DataFrame, first: pd.Series, last: date, calendar: SessionCalendar
) -> Stored:
    """Read no more than the answer will be compared with."""
    known = first[first.index.isin(covered.index)]
    start = calendar.back(_session_from(known.min(), calendar), SIGMA_WINDOW + 1) if len(known) else pd.Timestamp(last)
    return Stored(
        tables.read("bars", first=start, as_of=last, columns=BAR_COLUMNS),
        tables.read("quarantine", first=start, as_of=last),
        tables.read("corporate_actions", first=start, as_of=last, columns=ACTION_COLUMNS),
        covered,
    )


@dataclass(frozen=True)
class Sifted:
    """An answer on bars, sorted into what may be stored and what not.

    Attributes
    ----------
    new : DataFrame
        `BAR_COLUMNS`: bars that are not stored, or not in this form.
    symbols : DataFrame
        One row a symbol, for the rules on symbols.
    phantoms : DataFrame
        Bars to quarantine, with reason and detail.
    restated : DataFrame
        See `compare_overlap`.
    gone : dict of str to Timestamp
        Delisted symbols with their last session.
    """

    new: pd.DataFrame
    symbols: pd.DataFrame
    phantoms: pd.DataFrame
    restated: pd.DataFrame
    gone: dict[str, pd.Timestamp] = field(default_factory=dict)


def sift(
    asked: Asked,
    stored: Stored,
    actions: pd.DataFrame,
    symbols: pd.DataFrame,
    last: pd.Timestamp,
    calendar: SessionCalendar,
) -> Sifted:
    """Tell new bars from known ones, and complete what is known of each symbol.

    Parameters
    ----------
    asked : Asked
    stored : Stored
    actions : DataFrame
        `ACTION_COLUMNS`, stored and newly fetched.
    symbols : DataFrame
        See `symbols_frame`.
    last : Timestamp
        The session up to which bars are wanted; later ones are left out.
    """
    rows = asked.answer.rows
    rows = rows[rows["session"] <= last].reset_index(drop=True)
    fake = find_phantoms(rows, calendar.sessions)
    phantoms = rows[fake].assign(
        reason="phantom", detail=f"nothing was traded and {calendar.name} was closed: no session"
    )
    rows = rows[~fake]
    restated = compare_overlap(stored.bars, rows, actions[actions["kind"] == "split"])
    known = pd.concat(
        [stored.bars[BAR_COLUMNS], stored.quarantine[BAR_COLUMNS], restated.loc[restated["split"].notna(), BAR_COLUMNS]]
    )
    new = rows[~_among(rows, known)] if len(known) else rows
    present = pd.concat([stored.bars[KEY], stored.quarantine[KEY], new[KEY]])
    present = present[present["symbol"].isin(symbols["symbol"])]
    described, gone = _describe(symbols, present, stored.covered, last, calendar)
    hidden = _hidden_splits(pd.concat([stored.bars[BAR_COLUMNS], new]), actions, new)
    described["splits_visible"] = ~described["symbol"].isin(hidden)
    described["split"] = [hidden.get(symbol, "") for symbol in described["symbol"]]
    return Sifted(new.reset_index(drop=True), described, phantoms, restated, gone)


def judge(
    sifted: Sifted, stored: Stored, actions: pd.DataFrame, refused: Sequence[str], first: pd.Series
) -> pd.DataFrame:
    """Find the new bars that jumped for no known reason, and look again at those found in the overlap before.

    Returns
    -------
    DataFrame
        session, symbol, reason, detail.
    """
    new = sifted.new[~sifted.new["symbol"].isin(refused)]
    held = stored.quarantine[
        (stored.quarantine["state"] == "quarantined")
        & (stored.quarantine["reason"] != "phantom")
        & ~stored.quarantine["symbol"].isin(refused)
    ]
    believed = stored.bars[~stored.bars["symbol"].isin(refused)]
    bars = pd.concat(
        [
            believed[~_among(believed, new, KEY)].assign(judge=False, bad=False),
            held[~_among(held, new, KEY) & ~_among(held, believed, KEY)].assign(judge=False, bad=True),
            new.assign(judge=True, bad=False),
        ]
    )
    found = find_jumps(bars[[*KEY, "close", "judge", "bad"]], actions)
    # earlier ones are there for the deviations' sake; too little precedes them to judge them again
    return found[found["session"] >= found["symbol"].map(first)]


def divide(
    sifted: Sifted,
    jumps: pd.DataFrame,
    stored: Stored,
    refused: Sequence[str],
    source: str,
    done: date | None,
    now: datetime,
    calendar: SessionCalendar,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the rows to store and the rows to quarantine.

    Parameters
    ----------
    jumps : DataFrame
        See `judge`.
    refused : sequence of str
        Symbols of which nothing is stored.
    done : date or None
        Newest session that was completed.

    Returns
    -------
    bars, quarantine : DataFrame
        Columns of these tables. The quarantine's rows are only those that say something new.
    """
    new = sifted.new[~sifted.new["symbol"].isin(refused)]
    corrected = sifted.restated[sifted.restated["split"].isna()]

    def dated(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(source=source, known_at=known_since(rows, corrected, done, stored.covered, now, calendar))

    good = dated(new[~_among(new, jumps, KEY)])
    phantoms = sifted.phantoms[~sifted.phantoms["symbol"].isin(refused)]
    fresh = dated(pd.concat([phantoms, new.merge(jumps, on=KEY)], ignore_index=True))
    again = stored.quarantine.drop(columns=["reason", "detail"]).merge(jumps, on=KEY)
    again = again[~_among(again, fresh, KEY)].assign(known_at=now)
    # its vendor has corrected it: what was held back must not be released over the good bar
    held = stored.quarantine[stored.quarantine["state"] == "quarantined"]
    corrected_since = held[_among(held, good, KEY)].assign(state="corrected", known_at=now)
    rows = pd.concat(
        [fresh.assign(state="quarantined", operator="", note=""), again, corrected_since], ignore_index=True
    )
    content = [name for name in TABLES["quarantine"].arrow.names if name != "known_at"]
    rows = rows.astype({"known_at": "datetime64[us, UTC]"})[[*content, "known_at"]]
    return good, rows[~_among(rows, stored.quarantine, content)].reset_index(drop=True)


def known_since(
    rows: pd.DataFrame,
    restated: pd.DataFrame,
    done: date | None,
    covered: pd.DataFrame,
    now: datetime,
    calendar: SessionCalendar,
) -> pd.Series:
    """Since when each row counts as known.

    Parameters
    ----------
    rows : DataFrame
        session and symbol.
    restated : DataFrame
        session and symbol of rows that correct stored ones.
    done : date or None
        Newest session that was completed.
    covered : DataFrame
        See `coverage`.
    now : datetime

    Notes
    -----
    Nobody recorded when a vendor first published a bar of the past; the session's close is the convention. What
    comes after its session was completed, as a correction or a straggler, is known from now on: whatever was
    computed from the session stays what it was. A session that was completed without a symbol, since the source
    had not answered for it, was not completed for that one.
    """
    closes = calendar.close_times(pd.DatetimeIndex(rows["session"]).normalize())
    on_session = rows["session"].isin(calendar.sessions)
    known_at = pd.Series(closes, index=rows.index).where(on_session, pd.Timestamp(now))
    late = _among(rows, restated, KEY)
    if done is not None:
        answered = covered["session"].reindex(rows["symbol"]).clip(upper=pd.Timestamp(done))
        late = late | (rows["session"].to_numpy() <= answered.to_numpy())
    return known_at.mask(late, pd.Timestamp(now)).astype("datetime64[us, UTC]")


def fetch_rows(
    asked: Asked,
    asset: str,
    newest: Mapping[str, pd.Timestamp],
    covered: pd.DataFrame,
    refused: Sequence[str],
    last: pd.Timestamp,
    source: str,
    now: datetime,
) -> pd.DataFrame:
    """Rows for the table `fetches`: what was asked and answered, except of symbols that were refused.

    A session that was asked for again after later ones says nothing new, and gets no row.
    """
    rows = []
    for symbol in asked.first.index.difference(list(refused)):
        if symbol in covered.index and covered["session"][symbol] > last:
            continue
        names = asked.answer.columns.get(symbol) or str(covered["columns"].get(symbol, "")).split(",")
        rows.append((last, asset, symbol, newest.get(symbol, pd.NaT), ",".join(filter(None, names)), source, now))
    frame = pd.DataFrame(rows, columns=["session", "asset", "symbol", "last_bar", "columns", "source", "known_at"])
    types = {"session": "datetime64[us]", "last_bar": "datetime64[us]", "known_at": "datetime64[us, UTC]"}
    return frame.astype(types)


def combine_actions(actions: pd.DataFrame) -> pd.DataFrame:
    """One row a symbol, date and kind: dividends of one date are both paid, splits both apply."""
    if actions.empty:
        return empty_rows(ACTION_COLUMNS)
    parts = [
        actions[actions["kind"] == kind].groupby(["ex_date", "symbol", "kind"], as_index=False)["value"].agg(how)
        for kind, how in (("split", "prod"), ("dividend", "sum"))
    ]
    return pd.concat(parts, ignore_index=True)[ACTION_COLUMNS]


def fetched_and_stored_actions(fetched: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
    """Actions as known now: the stored ones, and what was just fetched in place of its like."""
    both = pd.concat([stored[ACTION_COLUMNS], fetched[ACTION_COLUMNS]], ignore_index=True)
    return both.drop_duplicates(["ex_date", "symbol", "kind"], keep="last").reset_index(drop=True)


def bars_and_actions(
    source: MarketDataSource, first: pd.Series, last: date, report: Report
) -> tuple[Asked, pd.DataFrame]:
    """Ask for bars and for the actions of the same dates, without which bars cannot be judged.

    A symbol whose actions did not come counts as not answered.
    """
    asked = ask(source.bars, first, last, report)
    actions = ask(source.corporate_actions, first, last, report).answer
    missing = {s: f"its corporate actions: {why}" for s, why in actions.failures.items()}
    answer = asked.answer
    rows = answer.rows[~answer.rows["symbol"].isin(list(missing))]
    merged = Answer(rows, {**missing, **answer.failures}, answer.columns)
    return Asked(first, merged), combine_actions(actions.rows)


def _describe(
    symbols: pd.DataFrame, present: pd.DataFrame, covered: pd.DataFrame, last: pd.Timestamp, calendar: SessionCalendar
) -> tuple[pd.DataFrame, dict[str, pd.Timestamp]]:
    """Add to each symbol whether its sessions are complete, and whether it is fresh or gone."""
    inside = present[present["session"].isin(calendar.sessions)]
    at = calendar.sessions.get_indexer(pd.DatetimeIndex(inside["session"]))
    names = symbols["symbol"].to_numpy()
    column = pd.Categorical(inside["symbol"], categories=names).codes
    there = np.zeros((len(calendar.sessions), len(names)), dtype=bool)
    there[at, column] = True
    texts, newest = [], {}
    for number, symbol in enumerate(names):
        sessions = calendar.sessions[there[:, number]]
        if not len(sessions):
            before = covered["last_bar"].get(symbol, pd.NaT)
            texts.append("")
            if not pd.isna(before):
                newest[symbol] = before
            continue
        newest[symbol] = sessions[-1]
        span = calendar.between(sessions[0], sessions[-1])
        absent = span.difference(sessions) if len(span) > len(sessions) else []
        texts.append(f"{len(absent)} of them, such as {absent[0]:%Y-%m-%d}" if len(absent) else "")
    answered = set(symbols.loc[symbols["answered"], "symbol"])
    state = pd.DataFrame(
        {"session": last, "last_bar": pd.Series({s: newest[s] for s in names if s in newest and s in answered})}
    )
    gone = {s: at for s, at in delisted(covered, calendar).items() if at < last and newest.get(s) == at}
    gone |= delisted(state, calendar) if len(state) else {}
    fresh = [newest.get(s) == last or s in gone for s in names]
    described = symbols.assign(
        no_missing_session=[not text for text in texts],
        missing=texts,
        fresh=fresh,
        newest=[f"the newest is {newest[s]:%Y-%m-%d}" if s in newest else "there is none at all" for s in names],
        last_bar=[newest.get(s, pd.NaT) for s in names],
    )
    return described, gone


def _hidden_splits(bars: pd.DataFrame, actions: pd.DataFrame, new: pd.DataFrame) -> dict[str, str]:
    """Symbols with a split in the new bars that their closes do not show: they were adjusted for it already."""
    ratio = np.abs(np.log(actions["value"].where(actions["value"] > 0)))
    splits = actions[(actions["kind"] == "split") & (ratio >= VISIBLE_SPLIT)]
    splits = splits.merge(new[KEY].drop_duplicates(), left_on=["ex_date", "symbol"], right_on=KEY)
    if splits.empty:
        return {}
    # the newer of two bars of one date; whether there may be two is for a rule to say
    bars = bars[bars["symbol"].isin(splits["symbol"])].drop_duplicates(KEY, keep="last")
    close = price_history(bars, actions.iloc[:0]).close
    hidden = {}
    for row in splits.itertuples():
        if row.ex_date == close.index[0]:
            continue
        before, after = close[row.symbol].loc[: row.ex_date].iloc[-2:]
        moved = abs(np.log(after / before)) if before > 0 and after > 0 else np.inf
        if moved < abs(np.log(row.value)) / 4:
            hidden[str(row.symbol)] = (
                f"{row.value:g} for 1 on {row.ex_date:%Y-%m-%d}, where the close went from {before:g} to {after:g}: "
                "supply prices as traded, not adjusted ones"
            )
    return hidden


def _among(rows: pd.DataFrame, others: pd.DataFrame, columns: Sequence[str] = BAR_COLUMNS) -> np.ndarray:
    """Whether each row has its like among others, missing values being equal to each other."""
    if rows.empty or others.empty:
        return np.zeros(len(rows), dtype=bool)
    names = list(columns)
    ours = pd.util.hash_pandas_object(rows[names], index=False)
    theirs = pd.util.hash_pandas_object(others[names].astype(rows[names].dtypes), index=False)
    return ours.isin(theirs).to_numpy()


def _session_from(day: pd.Timestamp, calendar: SessionCalendar) -> pd.Timestamp:
    """The day itself, or the next session after it."""
    return calendar.sessions[int(calendar.sessions.searchsorted(day))]
