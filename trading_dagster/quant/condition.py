"""Condition: one of five words of the field for people, put together from regime, phase and volatility.

Belongs here: the precedence of the words, and the sentence that gives the figures. Does not belong here: any estimate;
nothing computes with the word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

CONDITIONS = ("volatile", "resetting", "cyclical", "trending", "compressed")
"""In order of precedence: the first that holds is the word."""

RESETTING_SESSIONS = 21
"""Sessions after a return to calm that are called resetting: a month."""

CYCLE_SIGNIFICANCE = 0.05
TREND_LEAST = 1.0
"""Distance from the 200-bar mean, in deviations of a random walk, from which price is said to trend."""

LOW_VOLATILITY_RANK, MEDIAN_RANK, HIGH_VOLATILITY_RANK = 1.0 / 3.0, 0.5, 2.0 / 3.0

KEYS = ["session", "symbol"]


def condition(phasing: pd.DataFrame, regime: pd.DataFrame, volatility: pd.DataFrame) -> pd.DataFrame:
    """Name the condition of each symbol at each session.

    Parameters
    ----------
    phasing : DataFrame
        session, symbol, cycle (nominal period, bars), p_value (of each cycle alone; may be missing), period (bars).
    regime : DataFrame
        session, symbol, regime, prob_turbulent, sessions_in_regime, trend. Its rows are the rows of the result.
    volatility : DataFrame
        session, symbol, sigma_1d (per day), sigma_rank (in [0, 1]; may be missing).

    Returns
    -------
    DataFrame
        session, symbol, condition (one of `CONDITIONS`), reason (in words, with the figures); sorted by session, then
        symbol. A row without phasing or volatility is judged by what there is, and says so.

    Notes
    -----
    The first that holds:

    1. volatile: the regime is turbulent, and volatility above its median of the last sessions;
    2. resetting: the regime is turbulent but volatility has come down to its median, or it went back to calm at most 21
       sessions ago;
    3. cyclical: the smallest p-value of the nominal cycles, times their number, is below 5 % (Bonferroni, which is the
       first step of Holm's procedure, so that as many series as 5 % are called so by chance at most [1]_);
    4. trending: price is at least one deviation of a random walk from its 200-bar mean, ``|trend| >= 1``;
    5. none of these: volatile where volatility is in its highest third all the same, else compressed: price is near its
       mean and moves no more than usual. The reason says whether volatility is in its lowest third.

    Where the rank of volatility is not known, the regime alone decides.

    References
    ----------
    .. [1] Holm, S. (1979). "A simple sequentially rejective multiple test procedure". Scandinavian Journal of
       Statistics 6(2), 65-70.
    """
    rows = regime.merge(_best_cycles(phasing), on=KEYS, how="left")
    rows = rows.merge(volatility[[*KEYS, "sigma_1d", "sigma_rank"]], on=KEYS, how="left")
    rows = rows.sort_values(KEYS, ignore_index=True)
    turbulent, rank = rows["regime"] == "turbulent", rows["sigma_rank"]
    holds = {
        "volatile": turbulent & ~(rank <= MEDIAN_RANK),
        "resetting": turbulent | (rows["sessions_in_regime"] <= RESETTING_SESSIONS),
        "cyclical": rows["corrected"] < CYCLE_SIGNIFICANCE,
        "trending": rows["trend"].abs() >= TREND_LEAST,
    }
    otherwise = np.where(rank > HIGH_VOLATILITY_RANK, "volatile", "compressed")
    words = np.select([flags.to_numpy() for flags in holds.values()], list(holds), otherwise)
    figures = rows.drop(columns=KEYS).to_dict("records")
    return pd.DataFrame(
        {
            "session": rows["session"],
            "symbol": rows["symbol"],
            "condition": words.astype(object),
            "reason": [_reason(str(word), row) for word, row in zip(words, figures, strict=True)],
        }
    )


def _best_cycles(phasing: pd.DataFrame) -> pd.DataFrame:
    """Most significant cycle of each session and symbol, with the p-value corrected for the cycles looked at."""
    judged = phasing.dropna(subset=["p_value"])
    judged = judged[[*KEYS, "cycle", "period", "p_value"]]
    count = judged.groupby(KEYS)["p_value"].transform("size")
    judged = judged.assign(cycles=count, corrected=np.minimum(judged["p_value"] * count, 1.0))
    return judged.sort_values([*KEYS, "p_value", "cycle"]).drop_duplicates(KEYS)


def _reason(word: str, row: dict[str, Any]) -> str:
    """What decided, then the volatility, each with its figures."""
    deciding = {
        "volatile": _volatile,
        "resetting": _resetting,
        "cyclical": _cyclical,
        "trending": _trending,
        "compressed": _compressed,
    }
    return f"{deciding[word](row)}; {_volatility(row)}"


def _volatile(row: dict[str, Any]) -> str:
    if row["regime"] == "calm":
        return "calm and without direction, but volatility is in its highest third"
    return f"turbulent for {_sessions(row)}, probability {row['prob_turbulent']:.0%}"


def _resetting(row: dict[str, Any]) -> str:
    if row["regime"] == "turbulent":
        return f"{_volatile(row)}, but volatility has come down"
    return f"calm again for {_sessions(row)}, turbulent before"


def _cyclical(row: dict[str, Any]) -> str:
    return (
        f"a cycle of {row['period']:.1f} bars (nominal {row['cycle']:.0f}) has p = {row['corrected']:.2g}, "
        f"corrected for {row['cycles']:.0f} cycles"
    )


def _trending(row: dict[str, Any]) -> str:
    return f"price {_distance(row)}"


def _compressed(row: dict[str, Any]) -> str:
    cycle = (
        "no cycle was judged" if np.isnan(row["corrected"]) else f"no cycle is significant (p = {row['corrected']:.2g})"
    )
    return f"calm, {cycle}, price {_distance(row)}"


def _volatility(row: dict[str, Any]) -> str:
    if np.isnan(row["sigma_1d"]):
        return "volatility not known"
    known = f"volatility {row['sigma_1d']:.1%} a day"
    if np.isnan(row["sigma_rank"]):
        return known
    lowest = ", in its lowest third" if row["sigma_rank"] <= LOW_VOLATILITY_RANK else ""
    return f"{known}, not above it on {row['sigma_rank']:.0%} of the last sessions{lowest}"


def _distance(row: dict[str, Any]) -> str:
    side = "above" if row["trend"] >= 0 else "below"
    return f"{abs(row['trend']):.1f} deviations {side} its 200-bar mean"


def _sessions(row: dict[str, Any]) -> str:
    count = int(row["sessions_in_regime"])
    return f"{count} session{'s' if count != 1 else ''}"
