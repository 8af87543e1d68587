"""The embedded sample: 20 US stocks, daily adjusted closes, that skfolio ships. It ends in 2022."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cached_property

import pandas as pd

from trading_dagster.resources.market_data import (
    ACTION_COLUMNS,
    BAR_COLUMNS,
    Answer,
    MarketDataError,
    Report,
    empty_rows,
)


class SampleSource:
    """Real prices without a network: closes only, adjusted by their vendor, so without corporate actions."""

    name = "sample"
    last_session = date(2022, 12, 28)

    @cached_property
    def _closes(self) -> pd.DataFrame:
        from skfolio.datasets import load_sp500_dataset

        return load_sp500_dataset()

    def bars(self, symbols: Sequence[str], first: date, last: date, report: Report) -> Answer:
        """Closes of the given symbols; all other columns are missing.

        Raises
        ------
        MarketDataError
            If `last` lies beyond the sample's end.
        """
        unknown = {
            symbol: f"the sample has no such symbol; it has {', '.join(self._closes.columns)}. Correct "
            "TRADING_UNIVERSE, or bring your own prices with TRADING_SOURCE=files"
            for symbol in symbols
            if symbol not in self._closes.columns
        }
        if last > self.last_session:
            raise MarketDataError(
                f"sample: session {last} lies after its last one, {self.last_session}; choose a session up to "
                "then, or bring newer prices with TRADING_SOURCE=files"
            )
        known = [symbol for symbol in symbols if symbol not in unknown]
        closes = self._closes.loc[pd.Timestamp(first) : pd.Timestamp(last), known]
        rows = closes.rename_axis("session").reset_index().melt("session", var_name="symbol", value_name="close")
        rows = rows.reindex(columns=BAR_COLUMNS).astype(empty_rows(BAR_COLUMNS).dtypes)
        return Answer(rows, unknown, dict.fromkeys(known, ("Date", "Close")))

    def corporate_actions(self, symbols: Sequence[str], first: date, last: date, report: Report) -> Answer:
        """None: the closes have splits and dividends worked in already."""
        return Answer(empty_rows(ACTION_COLUMNS))
