"""The embedded sample: 20 US stocks, daily adjusted closes, that skfolio ships. It ends in 2022."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cached_property

import pandas as pd

from trading_dagster.resources.market_data import ACTION_COLUMNS, BAR_COLUMNS, MarketDataError, empty_rows


class SampleSource:
    """Real prices without a network: closes only, adjusted by their vendor, so without corporate actions."""

    name = "sample"
    last_session = date(2022, 12, 28)

    @cached_property
    def _closes(self) -> pd.DataFrame:
        from skfolio.datasets import load_sp500_dataset

        return load_sp500_dataset()

    def bars(self, symbols: Sequence[str], first: date, last: date) -> pd.DataFrame:
        """Closes of the given symbols; all other columns are missing.

        Raises
        ------
        MarketDataError
            If a symbol is not in the sample, or `last` lies beyond its end.
        """
        unknown = [symbol for symbol in symbols if symbol not in self._closes.columns]
        if unknown:
            raise MarketDataError(
                f"sample: no symbol {', '.join(unknown)}; it has {', '.join(self._closes.columns)}. Correct "
                "TRADING_UNIVERSE, or bring your own prices with TRADING_SOURCE=files"
            )
        if last > self.last_session:
            raise MarketDataError(
                f"sample: session {last} lies after its last one, {self.last_session}; choose a session up to "
                "then, or bring newer prices with TRADING_SOURCE=files"
            )
        closes = self._closes.loc[pd.Timestamp(first) : pd.Timestamp(last), list(symbols)]
        rows = closes.rename_axis("session").reset_index().melt("session", var_name="symbol", value_name="close")
        return rows.reindex(columns=BAR_COLUMNS)

    def corporate_actions(self, symbols: Sequence[str], first: date, last: date) -> pd.DataFrame:
        """None: the closes have splits and dividends worked in already."""
        return empty_rows(ACTION_COLUMNS)
