"""The data policy, enforced inside each stage's own step.

A check that ran beside the stage could be left out by materialising the stage alone; this one cannot.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import dagster as dg
import numpy as np
import pandas as pd

from trading_dagster.calendar import SessionCalendar
from trading_dagster.policy import PolicyMode, Violation, minimum_bars
from trading_dagster.resources.ingestion import coverage, delisted
from trading_dagster.resources.ledger import Ledger
from trading_dagster.resources.tables import Tables

CHECK_NAME = "data_policy"

Span = tuple[pd.Timestamp, pd.Timestamp]
"""Sessions after the first one (from the start if it is missing) up to the second."""


def data_policy_spec(asset: str) -> dg.AssetCheckSpec:
    """Build the check's declaration for a stage."""
    return dg.AssetCheckSpec(
        CHECK_NAME,
        asset=asset,
        blocking=True,
        description=(
            f"Every symbol has at least {minimum_bars(asset)} bars from 2000-01-01 up to the session, and one at the "
            "session itself. Evaluated in the stage's own step, before anything is computed."
        ),
    )


@dataclass(frozen=True)
class Verdict:
    """Who may be used when.

    Attributes
    ----------
    allowed : DataFrame of bool
        Sessions by symbols of the universe.
    waiting : DataFrame of bool
        Likewise: where a symbol's bar is in quarantine, so that it sits the session out.
    gone : mapping of str to Timestamp
        Symbols that stopped trading, with their last session.
    unanswered : DataFrame of bool, optional
        Likewise: where the source gave no answer on a symbol's corporate actions.
    """

    allowed: pd.DataFrame
    waiting: pd.DataFrame
    gone: Mapping[str, pd.Timestamp] = field(default_factory=dict)
    unanswered: pd.DataFrame | None = None

    @property
    def symbols(self) -> list[str]:
        """Symbols that may be used at one session at least."""
        return [str(symbol) for symbol in self.allowed.columns[self.allowed.any()]]

    def groups(self, sessions: pd.DatetimeIndex | None = None) -> Iterator[tuple[list[str], pd.DatetimeIndex]]:
        """Sessions, of all or of the given ones, that share their symbols, with these.

        What compares symbols with each other must do so within one group: a symbol that is allowed later in a
        range would else have its say in sessions before.
        """
        yield from grouped(self.allowed if sessions is None else self.allowed.loc[sessions])

    def usable(self, component: str, observed: pd.DataFrame, sessions: pd.DatetimeIndex) -> pd.DataFrame:
        """Symbols whose past may be used at each of the sessions, whether or not they have a bar there.

        A symbol that sits a session out, or has stopped trading, belongs to the past of the market all the same.

        Parameters
        ----------
        component : str
            Whose number of bars is asked for.
        observed : DataFrame of bool
            Whether each symbol has a bar at each session of the history.
        """
        present = observed.reindex(columns=self.allowed.columns, fill_value=False).astype(bool)
        enough = present.cumsum().reindex(sessions, method="ffill").fillna(0) >= minimum_bars(component)
        return enough if self.unanswered is None else enough & ~self.unanswered.loc[sessions]

    def keep(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Drop rows of a symbol at a session where it may not be used; other names, as the market's, stay."""
        stacked = self.allowed.stack()
        banned = stacked.index[~stacked.to_numpy()]
        if not len(banned):
            return rows
        pairs = pd.MultiIndex.from_frame(rows[["session", "symbol"]])
        return rows[~pairs.isin(banned)].reset_index(drop=True)


def grouped(flags: pd.DataFrame) -> Iterator[tuple[list[str], pd.DatetimeIndex]]:
    """Symbols that are set, with the sessions at which just these are.

    Parameters
    ----------
    flags : DataFrame of bool
        Sessions by symbols.
    """
    for usable, those in flags.groupby(list(flags.columns)).groups.items():
        row = usable if isinstance(usable, tuple) else (usable,)
        yield [str(s) for s, flag in zip(flags.columns, row, strict=True) if flag], pd.DatetimeIndex(those)


class DataPolicyGuard:
    """Evaluates, records and enforces the policy.

    Two kinds of symbols are no violation: one that stopped trading has left the universe, and one whose bar of the
    session is in quarantine sits the session out.

    Parameters
    ----------
    ledger : Ledger
    tables : Tables
    calendar : SessionCalendar
    mode : {'abort', 'exclude'}
    universe : tuple of str
    log_path : Path
        One line a violation; an empty file means compliant.
    """

    def __init__(
        self,
        ledger: Ledger,
        tables: Tables,
        calendar: SessionCalendar,
        mode: PolicyMode,
        universe: tuple[str, ...],
        log_path: Path,
    ) -> None:
        self.ledger = ledger
        self.tables = tables
        self.calendar = calendar
        self.mode = mode
        self.universe = tuple(sorted(universe))
        self.log_path = log_path

    def enforce(
        self,
        context: dg.AssetExecutionContext,
        asset: str,
        observed: Sequence[tuple[pd.DatetimeIndex, pd.DataFrame]],
        gone: Mapping[str, pd.Timestamp] | None = None,
        without_actions: Mapping[str, Span] | None = None,
    ) -> Generator[dg.AssetCheckResult, None, Verdict]:
        """Evaluate the stage's rule; to be run as ``verdict = yield from guard.enforce(...)``.

        Parameters
        ----------
        observed : sequence of (DatetimeIndex, DataFrame of bool)
            The run's partitions, and whether each symbol has a bar at each session up to them, as known to them.
        gone : mapping of str to Timestamp, optional
            Symbols that stopped trading, with their last session; read from the tables by default.
        without_actions : mapping of str to Span, optional
            Symbols on whose corporate actions there is no answer, and over which sessions; likewise.

        Returns
        -------
        Verdict
            Only if the stage may go on.

        Raises
        ------
        dagster.Failure
            In mode ``abort`` on any violation; in mode ``exclude`` if no symbol is left at some session.
        """
        sessions = observed[0][0].append([those for those, _ in observed[1:]])
        gone = delisted(coverage(self.tables, "bars"), self.calendar) if gone is None else gone
        quarantined = self._in_quarantine(sessions)
        silent = self._without_actions() if without_actions is None else without_actions
        parts = [evaluate(asset, frame, self.universe, those, gone, quarantined, silent) for those, frame in observed]
        unanswered = [v.unanswered for _, v in parts if v.unanswered is not None]
        verdict = Verdict(
            pd.concat([v.allowed for _, v in parts]),
            pd.concat([v.waiting for _, v in parts]),
            gone,
            pd.concat(unanswered) if unanswered else None,
        )
        first = {violation.symbol: violation for found, _ in reversed(parts) for violation in found}
        violations, allowed = [first[symbol] for symbol in sorted(first)], verdict.allowed
        # the file is there from the first check on, so that an empty one means compliant and not unchecked
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log_path.touch()
        if violations:
            self._record(violations, context.run.run_id)
            for violation in violations:
                context.log.warning(violation.message)
        left = minimum_bars(asset) == 0 or bool(allowed.any(axis=1).all())
        passed = left and (not violations or self.mode == "exclude")
        excluded = sorted({violation.symbol for violation in violations})
        self.ledger.record_verdicts(asset, [s.date() for s in sessions], passed, excluded, context.run.run_id)
        yield dg.AssetCheckResult(
            passed=passed and not violations,
            check_name=CHECK_NAME,
            asset_key=asset,
            # a warning does not block, an error does
            severity=dg.AssetCheckSeverity.WARN if passed else dg.AssetCheckSeverity.ERROR,
            description=_summary(violations, self.mode, verdict),
            metadata={
                "minimum_bars": minimum_bars(asset),
                "sessions": len(sessions),
                "symbols": len(self.universe),
                "violations": dg.JsonMetadataValue([_as_json(violation) for violation in violations]),
                "sitting_out": dg.JsonMetadataValue([str(s) for s in verdict.waiting.columns[verdict.waiting.any()]]),
            },
        )
        if not left and not violations:
            raise dg.Failure(
                description=f"{asset}: no symbol can be used: all have stopped trading, or have their bars in "
                "quarantine; see: trading quarantine list",
                allow_retries=False,
            )
        if not passed:
            raise dg.Failure(
                description=" ".join(violation.message for violation in violations[:3])
                + (f" ... and {len(violations) - 3} more" if len(violations) > 3 else ""),
                allow_retries=False,
            )
        return verdict

    def _without_actions(self) -> dict[str, Span]:
        """Symbols on whose corporate actions the source gave no answer when it answered for others."""
        answered = coverage(self.tables, "corporate_actions")["session"]
        if answered.empty:
            return {}
        reached = answered.max()
        behind = {symbol: answered.get(symbol, pd.NaT) for symbol in self.universe}
        return {symbol: (newest, reached) for symbol, newest in behind.items() if newest != reached}

    def _in_quarantine(self, sessions: pd.DatetimeIndex) -> pd.DataFrame:
        """Symbols whose bar each session knew to be in quarantine: columns session, symbol."""
        rows = self.tables.read("quarantine", first=sessions[0], as_of=sessions[-1], every_revision=True)
        rows = rows[rows["session"].isin(sessions)]
        cutoffs = pd.Series(self.calendar.next_open_times(sessions), index=sessions)
        rows = rows[rows["known_at"] <= rows["session"].map(cutoffs)]
        known = rows.drop_duplicates(["session", "symbol"], keep="last")
        return known.loc[known["state"] == "quarantined", ["session", "symbol"]]

    def _record(self, violations: list[Violation], run_id: str) -> None:
        self.ledger.record_violations(violations, self.mode, run_id)
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        with self.log_path.open("a", encoding="utf-8") as log:
            log.writelines(f"{now} run={run_id} mode={self.mode} {v.message}\n" for v in violations)


def evaluate(
    component: str,
    observed: pd.DataFrame,
    universe: tuple[str, ...],
    sessions: pd.DatetimeIndex,
    gone: Mapping[str, pd.Timestamp] | None = None,
    quarantined: pd.DataFrame | None = None,
    without_actions: Mapping[str, Span] | None = None,
) -> tuple[list[Violation], Verdict]:
    """Hold each symbol of the universe against the component's rule at each session.

    Parameters
    ----------
    observed : DataFrame of bool
        Whether there is a bar, sessions by symbols.
    gone : mapping of str to Timestamp, optional
        Symbols that stopped trading, with their last session.
    quarantined : DataFrame, optional
        Columns session, symbol.
    without_actions : mapping of str to Span, optional
        Symbols on whose corporate actions there is no answer.

    Returns
    -------
    violations : list of Violation
        The first of each symbol.
    verdict : Verdict
    """
    needed = minimum_bars(component)
    present = observed.reindex(columns=list(universe), fill_value=False).astype(bool)
    counts = present.cumsum().reindex(sessions, method="ffill").fillna(0).astype(int)
    fresh = present.reindex(sessions, fill_value=False)
    enough = counts >= needed
    allowed = enough & fresh if needed else pd.DataFrame(True, index=sessions, columns=list(universe))
    excused = pd.DataFrame(False, index=sessions, columns=list(universe))
    waiting = excused.copy()
    for symbol, last in (gone or {}).items():
        if symbol in excused:
            excused.loc[sessions > last, symbol] = True
    for row in () if quarantined is None else quarantined.itertuples():
        if row.symbol in waiting and row.session in waiting.index and not fresh.loc[row.session, row.symbol]:
            waiting.loc[row.session, row.symbol] = True
    silent = excused.copy()
    for symbol, (newest, reached) in (without_actions or {}).items():
        if symbol in silent:
            silent.loc[(sessions <= reached) & ~(sessions <= newest), symbol] = True
    allowed &= ~silent
    violations = []
    broken = ~allowed & ~excused & ~waiting
    for symbol in allowed.columns[broken.any()]:
        at = allowed.index[np.flatnonzero(broken[symbol].to_numpy())[0]]
        violations.append(
            Violation(
                component=component,
                symbol=str(symbol),
                session=at.date(),
                bars_found=int(counts.loc[at, symbol]),
                bars_needed=needed,
                rule=_rule(silent.loc[at, symbol], enough.loc[at, symbol]),
            )
        )
    return violations, Verdict(allowed, waiting, gone or {}, silent)


def _rule(silent: bool, enough: bool) -> Literal["minimum_bars", "stale", "actions"]:
    if silent:
        return "actions"
    return "stale" if enough else "minimum_bars"


def _summary(violations: list[Violation], mode: PolicyMode, verdict: Verdict) -> str:
    left = sorted(set(verdict.gone) & set(verdict.allowed.columns))
    waiting = [str(symbol) for symbol in verdict.waiting.columns[verdict.waiting.any()]]
    notes = (f"; stopped trading: {', '.join(left)}" if left else "") + (
        f"; sitting out, their bars in quarantine: {', '.join(waiting)}" if waiting else ""
    )
    if not violations and not verdict.symbols:
        return f"no symbol can be used{notes}"
    if not violations:
        return f"all {verdict.allowed.shape[1] - len(left)} symbols have the bars they need{notes}"
    named = ", ".join(f"{v.symbol} ({v.bars_found} of {v.bars_needed} bars)" for v in violations[:10])
    return f"{'left out' if mode == 'exclude' else 'refused'}: {named}{notes}"


def _as_json(violation: Violation) -> dict[str, str | int]:
    return {
        "symbol": violation.symbol,
        "session": violation.session.isoformat(),
        "rule": violation.rule,
        "bars_found": violation.bars_found,
        "bars_needed": violation.bars_needed,
        "message": violation.message,
    }
