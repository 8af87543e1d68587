"""Figures of an equity curve, and the benchmark it is shown against."""

from __future__ import annotations

import pandas as pd

from trading_dagster.quant.prices import PriceHistory


def equal_weight_buy_and_hold(
    history: PriceHistory, sessions: pd.DatetimeIndex, initial_cash: float, cost_rate: float
) -> pd.Series:
    """Equity of buying all symbols in equal parts and never trading again.

    Parameters
    ----------
    history : PriceHistory
    sessions : DatetimeIndex
        Sessions to return. The first one only decides, as it does for an account: the purchase is at the close
        of the second.
    initial_cash : float
        Currency.
    cost_rate : float
        Commission and slippage as a fraction of the amount bought.

    Returns
    -------
    Series
        Equity at each session's close, currency; distributions reinvested.
    """
    equity = pd.Series(initial_cash, index=sessions, dtype="float64")
    value = history.total_return.loc[sessions[1:]]
    if len(value):
        held = value.columns[value.iloc[0].notna()]
        growth = (value[held] / value[held].iloc[0]).ffill().mean(axis=1)
        equity.iloc[1:] = initial_cash * (1.0 - cost_rate) * growth
    return equity


def drawdown(equity: pd.Series) -> pd.Series:
    """Fall from the highest equity so far, as a fraction; zero at a new high."""
    return equity / equity.cummax() - 1.0
