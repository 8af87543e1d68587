"""Data-policy verdicts and violations in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime

from sqlalchemy import func, select

from trading_dagster.policy import Violation
from trading_dagster.resources.ledger_database import LedgerDatabase, lock
from trading_dagster.resources.ledger_models import PolicyVerdictRow, PolicyViolationRow


class PolicyRecords(LedgerDatabase):
    """See `ledger.Ledger` for what each call means."""

    def record_violations(self, violations: Sequence[Violation], mode: str, run_id: str) -> None:
        """Add a row for each violation."""
        now = datetime.now(UTC)
        with self.transaction() as db:
            db.add_all(
                PolicyViolationRow(
                    component=v.component,
                    symbol=v.symbol,
                    session=v.session,
                    rule=v.rule,
                    bars_found=v.bars_found,
                    bars_needed=v.bars_needed,
                    mode=mode,
                    message=v.message,
                    run_id=run_id,
                    recorded_at=now,
                )
                for v in violations
            )

    def record_verdicts(
        self, asset: str, sessions: Iterable[date], passed: bool, excluded: Sequence[str], run_id: str
    ) -> None:
        """Write the verdict for each session; one that says what it said before is left as it is."""
        now = datetime.now(UTC)
        names = ",".join(sorted(excluded))
        with self.transaction() as db:
            lock(db, f"verdicts of {asset}")
            days = list(sessions)
            known = {
                row.session: row
                for row in db.scalars(
                    select(PolicyVerdictRow).where(PolicyVerdictRow.asset == asset, PolicyVerdictRow.session.in_(days))
                )
            }
            for day in days:
                row = known.get(day)
                if row is None:
                    db.add(
                        PolicyVerdictRow(
                            asset=asset,
                            session=day,
                            passed=passed,
                            excluded=names,
                            run_id=run_id,
                            recorded_at=now,
                        )
                    )
                elif (row.passed, row.excluded) != (passed, names):
                    row.passed, row.excluded, row.run_id, row.recorded_at = passed, names, run_id, now

    def verdicts(self, session: date, assets: Sequence[str]) -> dict[str, bool]:
        """Latest verdict on each of the assets that has one for the session."""
        query = select(PolicyVerdictRow).where(PolicyVerdictRow.session == session, PolicyVerdictRow.asset.in_(assets))
        with self.transaction() as db:
            return {row.asset: row.passed for row in db.scalars(query)}

    def newest_passed(self, asset: str) -> date | None:
        """Newest session for which an asset has a verdict that passed."""
        passed = (PolicyVerdictRow.asset == asset, PolicyVerdictRow.passed)
        query = select(func.max(PolicyVerdictRow.session)).where(*passed)
        with self.transaction() as db:
            return db.scalar(query)

    def count_verdicts(self, sessions: Iterable[date]) -> tuple[int, int]:
        """Verdicts that passed, and all of them, over the given sessions."""
        query = select(PolicyVerdictRow.passed).where(PolicyVerdictRow.session.in_(list(sessions)))
        with self.transaction() as db:
            found = db.scalars(query).all()
        return sum(found), len(found)
