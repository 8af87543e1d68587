"""The IO manager: assets' frames to tables, as of the session that reads them.

`dagster-deltalake` was looked at first: it maps one partition to one slice, so it can neither give a reader
the history up to its session, nor keep revisions, nor leave an unchanged partition unwritten.
"""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
import pandas as pd

from trading_dagster.calendar import SessionCalendar
from trading_dagster.resources.schemas import TABLES
from trading_dagster.resources.tables import VERSION, Tables


class MissingInputError(RuntimeError):
    """An input that has not been materialised for the partition that reads it."""


class TableIOManager(dg.IOManager):
    """Store each asset as the table of its name.

    A reader of a table with history gets all rows up to its last session, with every revision that was known
    before the next session opened; a reader of any other table gets the rows of its own partitions, and an
    error that names the command where one is missing.
    """

    def __init__(self, tables: Tables, calendar: SessionCalendar) -> None:
        self.tables = tables
        self.calendar = calendar

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        """Write the rows of the run's partitions."""
        name = context.asset_key.to_user_string()
        if TABLES[name].revisions:
            written = self.tables.add_revisions(name, obj, revised_at=datetime.now(UTC))
        else:
            keys = sorted(context.asset_partition_keys)
            written = self.tables.replace(name, obj, pd.Timestamp(keys[0]), pd.Timestamp(keys[-1]))
        context.add_output_metadata({"rows_changed": written.changed, "delta_version": written.version})

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """Read what the partition may know."""
        name = context.asset_key.to_user_string()
        keys = sorted(context.asset_partition_keys)
        if not keys:
            raise MissingInputError(f"{name} has no partition that this one could read; the first is 2000-01-03's")
        schema = TABLES[name]
        last = pd.Timestamp(keys[-1])
        if schema.history:
            sessions = pd.DatetimeIndex([self.calendar.session(last)])
            known_at = self.calendar.next_open_times(sessions)[0].to_pydatetime()
            return self.tables.read(name, as_of=last, known_at=known_at, every_revision=True)
        rows = self.tables.read(name, first=pd.Timestamp(keys[0]), as_of=last)
        if not schema.may_be_empty:
            present = set(rows[schema.partition_column].dt.strftime("%Y-%m-%d"))
            absent = [key for key in keys if key not in present]
            if absent:
                shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
                raise MissingInputError(
                    f"{name} is missing for {shown}; materialise it first: "
                    f"dagster asset materialize --select {name} --partition {absent[0]}"
                )
        return rows


def read_versions(**frames: pd.DataFrame) -> dict[str, int]:
    """Delta version that each input frame was read at, for the metadata."""
    return {name: frame.attrs[VERSION] for name, frame in frames.items() if frame.attrs.get(VERSION) is not None}
