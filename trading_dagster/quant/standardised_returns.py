"""Returns over their own recent volatility, so that calm and wild times weigh the same in a spectrum.

Belongs here: the standardisation that tests for cycles share. Does not belong here: forecasts of volatility.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from trading_dagster.quant.prices import PriceHistory

DECAY = 0.94
"""Weight of yesterday's variance in today's, as in RiskMetrics; a memory of 33 sessions."""


def standardised_returns(history: PriceHistory, decay: float = DECAY) -> pd.DataFrame:
    """Log returns divided by the exponentially weighted volatility up to and including their own session.

    Parameters
    ----------
    history : PriceHistory
    decay : float
        Between 0 and 1.

    Returns
    -------
    DataFrame
        Sessions by symbols, without unit; missing up to and including a symbol's first bar, 0 where it has not
        moved yet.

    Notes
    -----
    ``v[t] = decay v[t-1] + (1 - decay) r[t]^2``, over ``1 - decay^n`` after n returns, and ``r[t] / sqrt(v[t])``.
    A return is part of its own variance, so that none exceeds ``1 / sqrt(1 - decay)``, about 4: an outlier
    cannot make a spectrum by itself, and its sign is kept. Where returns are independent and symmetric, the
    standardised ones are white.

    References
    ----------
    .. [1] J.P. Morgan and Reuters (1996). RiskMetrics - Technical Document, 4th ed., section 5.2.
    """
    returns = history.log_return
    known = returns.notna().to_numpy()
    values = np.where(known, returns.to_numpy(), 0.0)
    variance = lfilter([1.0 - decay], [1.0, -decay], np.square(values), axis=0)
    weight = 1.0 - decay ** np.maximum(known.cumsum(axis=0), 1)
    scale = np.sqrt(variance / weight)
    ratio = np.divide(values, scale, out=np.zeros_like(values), where=scale > 0.0)
    return pd.DataFrame(np.where(known, ratio, np.nan), index=returns.index, columns=returns.columns)
