"""Wilder's average true range.

Belongs here: the size of a usual session in price. Does not belong here: how many of them a stop is away.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from trading_dagster.quant.bar_series import standing_still
from trading_dagster.quant.prices import PriceHistory

ATR_WINDOW = 14


def average_true_range(history: PriceHistory) -> pd.DataFrame:
    """Average true range, in price as traded at each session.

    Parameters
    ----------
    history : PriceHistory

    Returns
    -------
    DataFrame
        Sessions by symbols; missing before the 14th session with a range and wherever a session has no range.

    Notes
    -----
    The true range is ``max(high, close before) - min(low, close before)``, in adjusted prices, so that a split is no
    gap; the average moves by a fourteenth of the distance to each new one [1]_. It begins at the first range,
    and a session without a range leaves it where it was. So does, of a run of sessions whose true range is 0, every
    one after the fifth: the stop of a halted stock would close in on its price.

    References
    ----------
    .. [1] Wilder, J. W. (1978). New Concepts in Technical Trading Systems, p. 21.
    """
    high, low = history.high * history.factor, history.low * history.factor
    before = history.total_return.shift(1)
    upper, lower = np.maximum(high, before.fillna(high)), np.minimum(low, before.fillna(low))
    true_range = upper - lower
    halted = standing_still((true_range == 0.0).to_numpy(), (true_range > 0.0).to_numpy())
    smoothed = (
        true_range.mask(halted).ewm(alpha=1.0 / ATR_WINDOW, adjust=False, ignore_na=True, min_periods=ATR_WINDOW).mean()
    )
    # no range at the session, no range-based answer for it
    return (smoothed / history.factor).where(true_range.notna())
