"""The data policy, enforced inside each stage's own step.

A check that ran beside the stage could be left out by materialising the stage alone; this one cannot.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd

from trading_dagster.policy import PolicyMode, Violation, minimum_bars
from trading_dagster.resources.ledger import Ledger

CHECK_NAME = "data_policy"


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
    """

    allowed: pd.DataFrame

    @property
    def symbols(self) -> list[str]:
        """Symbols that may be used at one session at least."""
        return [str(symbol) for symbol in self.allowed.columns[self.allowed.any()]]

    def groups(self) -> Iterator[tuple[list[str], pd.DatetimeIndex]]:
        """Sessions that share their symbols, with these.

        What compares symbols with each other must do so within one group: a symbol that is allowed later in a
        range would else have its say in sessions before.
        """
        for usable, sessions in self.allowed.groupby(list(self.allowed.columns)).groups.items():
            flags = usable if isinstance(usable, tuple) else (usable,)
            chosen = [str(s) for s, flag in zip(self.allowed.columns, flags, strict=True) if flag]
            yield chosen, pd.DatetimeIndex(sessions)

    def keep(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Drop rows of a symbol at a session where it may not be used; other names, as the market's, stay."""
        stacked = self.allowed.stack()
        banned = stacked.index[~stacked.to_numpy()]
        if not len(banned):
            return rows
        pairs = pd.MultiIndex.from_frame(rows[["session", "symbol"]])
        return rows[~pairs.isin(banned)].reset_index(drop=True)


class DataPolicyGuard:
    """Evaluates, records and enforces the policy.

    Parameters
    ----------
    ledger : Ledger
    mode : {'abort', 'exclude'}
    universe : tuple of str
    log_path : Path
        One line a violation; an empty file means compliant.
    """

    def __init__(self, ledger: Ledger, mode: PolicyMode, universe: tuple[str, ...], log_path: Path) -> None:
        self.ledger = ledger
        self.mode = mode
        self.universe = tuple(sorted(universe))
        self.log_path = log_path

    def enforce(
        self, context: dg.AssetExecutionContext, asset: str, close: pd.DataFrame, sessions: pd.DatetimeIndex
    ) -> Generator[dg.AssetCheckResult, None, Verdict]:
        """Evaluate the stage's rule; to be run as ``verdict = yield from guard.enforce(...)``.

        Parameters
        ----------
        close : DataFrame
            Closes, sessions by symbols, up to the last of `sessions`; missing where there is no bar.
        sessions : DatetimeIndex
            The run's partitions.

        Returns
        -------
        Verdict
            Only if the stage may go on.

        Raises
        ------
        dagster.Failure
            In mode ``abort`` on any violation; in mode ``exclude`` if no symbol is left at some session.
        """
        violations, allowed = evaluate(asset, close, self.universe, sessions)
        # the file is there from the first check on, so that an empty one means compliant and not unchecked
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log_path.touch()
        if violations:
            self._record(violations, context.run.run_id)
            for violation in violations:
                context.log.warning(violation.message)
        left = bool(allowed.any(axis=1).all())
        passed = not violations or (self.mode == "exclude" and left)
        excluded = sorted({violation.symbol for violation in violations})
        self.ledger.record_verdicts(asset, [s.date() for s in sessions], passed, excluded, context.run.run_id)
        yield dg.AssetCheckResult(
            passed=passed and not violations,
            check_name=CHECK_NAME,
            asset_key=asset,
            # a warning does not block, an error does
            severity=dg.AssetCheckSeverity.WARN if passed else dg.AssetCheckSeverity.ERROR,
            description=_summary(violations, self.mode, len(self.universe)),
            metadata={
                "minimum_bars": minimum_bars(asset),
                "sessions": len(sessions),
                "symbols": len(self.universe),
                "violations": dg.JsonMetadataValue([_as_json(violation) for violation in violations]),
            },
        )
        if not passed:
            raise dg.Failure(
                description=" ".join(violation.message for violation in violations[:3])
                + (f" ... and {len(violations) - 3} more" if len(violations) > 3 else ""),
                allow_retries=False,
            )
        return Verdict(allowed)

    def _record(self, violations: list[Violation], run_id: str) -> None:
        self.ledger.record_violations(violations, self.mode, run_id)
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        with self.log_path.open("a", encoding="utf-8") as log:
            log.writelines(f"{now} run={run_id} mode={self.mode} {v.message}\n" for v in violations)


def evaluate(
    component: str, close: pd.DataFrame, universe: tuple[str, ...], sessions: pd.DatetimeIndex
) -> tuple[list[Violation], pd.DataFrame]:
    """Hold each symbol of the universe against the component's rule at each session.

    Returns
    -------
    violations : list of Violation
        The first of each symbol.
    allowed : DataFrame of bool
        Sessions by symbols.
    """
    needed = minimum_bars(component)
    present = close.reindex(columns=list(universe)).notna()
    counts = present.cumsum().reindex(sessions, method="ffill").fillna(0).astype(int)
    fresh = present.reindex(sessions, fill_value=False)
    enough = counts >= needed
    allowed = enough & fresh if needed else pd.DataFrame(True, index=sessions, columns=list(universe))
    violations = []
    for symbol in allowed.columns[~allowed.all()]:
        at = allowed.index[np.flatnonzero(~allowed[symbol].to_numpy())[0]]
        violations.append(
            Violation(
                component=component,
                symbol=str(symbol),
                session=at.date(),
                bars_found=int(counts.loc[at, symbol]),
                bars_needed=needed,
                rule="stale" if bool(enough.loc[at, symbol]) else "minimum_bars",
            )
        )
    return violations, allowed


def _summary(violations: list[Violation], mode: PolicyMode, symbols: int) -> str:
    if not violations:
        return f"all {symbols} symbols have the bars they need"
    named = ", ".join(f"{v.symbol} ({v.bars_found} of {v.bars_needed} bars)" for v in violations[:10])
    return f"{'left out' if mode == 'exclude' else 'refused'}: {named}"


def _as_json(violation: Violation) -> dict[str, str | int]:
    return {
        "symbol": violation.symbol,
        "session": violation.session.isoformat(),
        "rule": violation.rule,
        "bars_found": violation.bars_found,
        "bars_needed": violation.bars_needed,
        "message": violation.message,
    }
