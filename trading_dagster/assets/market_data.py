"""Fetch: bars and corporate actions, as traded, up to the session."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import dagster as dg
import pandas as pd

from trading_dagster.assets._stage import CALENDAR, Stopwatch, partition_sessions, stage, stage_output
from trading_dagster.checks.data_policy import DataPolicyGuard
from trading_dagster.checks.market_data_notes import NOTES, delisted_note, quarantine_note, restatement_note
from trading_dagster.checks.market_data_quality import (
    ALL_SYMBOLS,
    Finding,
    check_result,
    evaluate_rules,
    quality_specs,
)
from trading_dagster.resources import ingestion
from trading_dagster.resources.ledger import Ledger
from trading_dagster.resources.market_data import MarketDataError, MarketDataSource
from trading_dagster.resources.tables import Tables
from trading_dagster.settings import Settings


class FetchConfig(dg.Config):
    """What an operator may decide about one fetch.

    Attributes
    ----------
    accept_changed_columns : bool
        Take an answer whose columns differ from those of the answers before, and compare with it from now on.
    """

    accept_changed_columns: bool = False


@dg.asset(
    **stage(
        "corporate_actions",
        group="market_data",
        kinds={"greatexpectations", "deltalake"},
        description=(
            "Splits and dividends with ex-dates up to the session. Prices are adjusted from them as of each session."
        ),
        checks=quality_specs("corporate_actions"),
    )
)
def corporate_actions(
    context: dg.AssetExecutionContext,
    config: FetchConfig,
    settings: dg.ResourceParam[Settings],
    source: dg.ResourceParam[MarketDataSource],
    tables: dg.ResourceParam[Tables],
    ledger: dg.ResourceParam[Ledger],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Fetch the actions that are missing up to the run's last session."""
    stopwatch, sessions, now = Stopwatch(), partition_sessions(context), datetime.now(UTC)
    covered = ingestion.coverage(tables, "corporate_actions")
    _refuse_other_source(tables, covered, source.name)
    first = ingestion.first_to_ask(_symbols(settings, ledger), covered, sessions[-1], CALENDAR)
    asked = ingestion.ask(source.corporate_actions, first, sessions[-1].date(), context.log.info)
    symbols = ingestion.symbols_frame(asked, covered, accept_columns=config.accept_changed_columns)
    fetched = asked.answer.rows
    calendar = CALENDAR.between(*_span(fetched["ex_date"], sessions[-1]))
    findings = evaluate_rules("corporate_actions", {"rows": fetched, "symbols": symbols}, calendar)
    for finding in findings:
        rows = len(fetched) if finding.rule.frame == "rows" else len(symbols)
        yield check_result("corporate_actions", finding, rows, blocks=settings.policy == "abort")
    refused = _refused(findings, first.index)
    good = ingestion.combine_actions(fetched[~fetched["symbol"].isin(refused)])
    good = good.assign(session=good["ex_date"], source=source.name)
    done = ledger.newest_passed("corporate_actions")
    known_at = ingestion.known_since(good, good.iloc[:0], done, covered, now, CALENDAR)
    good = good.assign(known_at=known_at)
    answers = ingestion.fetch_rows(asked, "corporate_actions", {}, covered, refused, sessions[-1], source.name, now)
    if refused and settings.policy == "abort":
        tables.add_revisions("corporate_actions", good, revised_at=now)
        tables.add_revisions("fetches", answers)
        raise _failure(context, ledger, "corporate_actions", sessions, findings)
    nothing, silent = pd.DataFrame(index=sessions), {symbol: (pd.NaT, sessions[-1]) for symbol in refused}
    yield from data_policy.enforce(context, "corporate_actions", [(sessions, nothing)], without_actions=silent)
    yield stage_output(
        context,
        good,
        stopwatch,
        inputs={},
        figures=lambda _, part: {"actions": len(part)},
        facts={"source": source.name, "asked_from": f"{first.min():%Y-%m-%d}", "rows_fetched": len(fetched)},
    )
    # after the rows: what is said to be covered must be there
    tables.add_revisions("fetches", answers)


@dg.asset(
    **stage(
        "bars",
        group="market_data",
        kinds={"greatexpectations", "deltalake"},
        description=(
            "Daily bars as traded, complete from 2000-01-01 (or the listing) up to the session. Asked for is what is "
            "missing and the ten sessions before it; a bar that changed is a new revision beside the old one, and a "
            "bar that cannot be believed is in quarantine until an operator releases it."
        ),
        checks=[*quality_specs("bars"), *NOTES],
    )
)
def bars(
    context: dg.AssetExecutionContext,
    config: FetchConfig,
    settings: dg.ResourceParam[Settings],
    source: dg.ResourceParam[MarketDataSource],
    tables: dg.ResourceParam[Tables],
    ledger: dg.ResourceParam[Ledger],
    data_policy: dg.ResourceParam[DataPolicyGuard],
) -> Iterator[Any]:
    """Fetch the bars that are missing up to the run's last session, and hold each against the rules."""
    stopwatch, sessions, now = Stopwatch(), partition_sessions(context), datetime.now(UTC)
    last = sessions[-1]
    covered = ingestion.coverage(tables, "bars")
    _refuse_other_source(tables, covered, source.name)
    first = ingestion.first_to_ask(_symbols(settings, ledger), covered, last, CALENDAR)
    asked, actions = ingestion.bars_and_actions(source, first, last.date(), context.log.info)
    stored = ingestion.read_stored(tables, covered, first, last.date(), CALENDAR)
    actions = ingestion.fetched_and_stored_actions(actions, stored.corporate_actions)
    symbols = ingestion.symbols_frame(asked, covered, accept_columns=config.accept_changed_columns)
    sifted = ingestion.sift(asked, stored, actions, symbols, last, CALENDAR)

    calendar = CALENDAR.between(*_span(sifted.new["session"], last))
    findings = evaluate_rules("bars", {"rows": sifted.new, "symbols": sifted.symbols}, calendar)
    refused = _refused(findings, first.index)
    jumps = ingestion.judge(sifted, stored, actions, refused, first)
    done, judged = ledger.newest_passed("bars"), len(sifted.new)
    good, quarantine = ingestion.divide(sifted, jumps, stored, refused, source.name, done, now, CALENDAR)
    newest = sifted.symbols.set_index("symbol")["last_bar"].dropna().to_dict()
    answers = ingestion.fetch_rows(asked, "bars", newest, covered, refused, last, source.name, now)

    blocks = settings.policy == "abort"
    for finding in findings:
        rows = judged if finding.rule.frame == "rows" else len(symbols)
        yield check_result("bars", finding, rows, blocks=blocks)
    tables.add_revisions("quarantine", quarantine)
    in_quarantine = tables.read("quarantine", as_of=last)
    yield restatement_note(sifted.restated)
    yield quarantine_note(in_quarantine[in_quarantine["state"] == "quarantined"], len(quarantine))
    yield delisted_note(sifted.gone)
    if refused and blocks:
        tables.add_revisions("bars", good)
        tables.add_revisions("fetches", answers)
        raise _failure(context, ledger, "bars", sessions, findings)
    present = _present(tables, good, sessions)
    # bars asked for the actions themselves; what is stored of these may come later in the run
    yield from data_policy.enforce(context, "bars", [(sessions, present)], gone=sifted.gone, without_actions={})
    yield stage_output(
        context,
        good,
        stopwatch,
        inputs={},
        figures=lambda key, _: {"symbols": int(present.loc[key].sum())},
        facts={
            "source": source.name,
            "asked_from": f"{first.min():%Y-%m-%d}",
            "rows_fetched": len(asked.answer.rows),
            "rows_restated": int(sifted.restated["split"].isna().sum()),
            "rows_quarantined": len(quarantine),
        },
    )
    # after the rows: what is said to be covered must be there
    tables.add_revisions("fetches", answers)


def _symbols(settings: Settings, ledger: Ledger) -> list[str]:
    """Universe, and what is held although it left the universe: it must be valued until it is sold."""
    return sorted(set(settings.universe) | set(ledger.held_symbols(settings.strategy)))


def _refused(findings: Sequence[Finding], asked: pd.Index) -> list[str]:
    """Symbols of which nothing is stored: each broke a rule, or all of them did."""
    broke = {symbol for finding in findings for symbol in finding.symbols}
    return sorted(asked) if ALL_SYMBOLS in broke else sorted(broke)


def _span(dates: pd.Series, last: pd.Timestamp) -> tuple[pd.Timestamp, pd.Timestamp]:
    """First and last of the dates, to keep the set of sessions they are compared with small."""
    return (dates.min(), dates.max()) if len(dates) else (last, last)


def _present(tables: Tables, good: pd.DataFrame, sessions: pd.DatetimeIndex) -> pd.DataFrame:
    """Whether there is a bar, for the run's sessions by symbols."""
    stored = tables.read("bars", first=sessions[0], as_of=sessions[-1], columns=["session", "symbol"])
    new = good.loc[good["session"].isin(sessions), ["session", "symbol"]]
    both = pd.concat([stored, new]).drop_duplicates().assign(there=True)
    there = both.pivot(index="session", columns="symbol", values="there")
    return there.reindex(sessions).notna()


def _failure(
    context: dg.AssetExecutionContext,
    ledger: Ledger,
    asset: Literal["bars", "corporate_actions"],
    sessions: pd.DatetimeIndex,
    findings: Sequence[Finding],
) -> dg.Failure:
    """Record that the sessions must not be traded on, and say why."""
    named: set[str] = set()
    failed = []
    for finding in findings:
        # what has no answer is not fresh either: one reason a symbol is enough here, the checks show all
        if set(finding.symbols) - named:
            failed.append(finding)
            named |= set(finding.symbols)
    ledger.record_verdicts(asset, [s.date() for s in sessions], False, [], context.run.run_id)
    return dg.Failure(
        description=f"{asset}: "
        + "; ".join(finding.message for finding in failed)
        + ". Nothing of these symbols was stored; what came of the others was. Correct the data and run again, or "
        "take them out of TRADING_UNIVERSE, or set TRADING_POLICY=exclude to go on without them.",
        allow_retries=False,
    )


def _refuse_other_source(tables: Tables, covered: pd.DataFrame, source: str) -> None:
    others = set(covered["source"]) - {source}
    if others:
        raise MarketDataError(
            f"the tables under {tables.uri} came from {', '.join(sorted(others))}, and TRADING_SOURCE is {source}; two "
            "sources must not be mixed in one store: set TRADING_DATA_DIR (or TRADING_TABLES_URI) to another place"
        )
