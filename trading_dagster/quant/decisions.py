"""Decisions: BUY, SELL or HOLD from target and held weights, with the reason in words.

Belongs here: whether a change is worth making, and why. Does not belong here: shares, prices, brokers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

_TYPES = {
    "symbol": "str",
    "action": "str",
    "target_weight": "float64",
    "current_weight": "float64",
    "confidence": "float64",
    "reason": "str",
}


@dataclass(frozen=True)
class Evidence:
    """What is known of one symbol at a session, for the reason in words.

    Attributes
    ----------
    expected_return : float
        Log return over the horizon.
    horizon : int
        Sessions.
    p_up, confidence : float
    regime : str
        State of the symbol, `calm` or `turbulent`.
    condition : str
        The word for people that regime, cycles and volatility add up to.
    sigma : float
        Daily volatility.
    """

    expected_return: float
    horizon: int
    p_up: float
    confidence: float
    regime: str
    condition: str
    sigma: float


def decide(
    target: dict[str, float],
    held: dict[str, float],
    evidence: dict[str, Evidence],
    *,
    no_trade_band: float,
    max_gross: float,
    waiting: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Decide for every symbol that is allocated or held.

    Parameters
    ----------
    target : dict of str to float
        Allocated weights, fractions of equity.
    held : dict of str to float
        Weights held at the session's close, pending orders included.
    evidence : dict of str to Evidence
        Symbols that may be traded; one that is held without evidence is sold.
    no_trade_band : float
        Smallest change of weight that is worth its cost.
    max_gross : float
        Bound on the sum of weights after the decisions.
    waiting : mapping of str to str, optional
        Symbols that cannot be judged at the session, with the reason: what is held of them stays.

    Returns
    -------
    DataFrame
        symbol, action, target_weight, current_weight, confidence, reason; sorted by symbol. On HOLD the target
        weight is the current one.

    Notes
    -----
    A weight that is to become zero is sold whatever its size: the band saves costs, it does not keep what is
    not wanted. Positions kept by the band may make the sum exceed `max_gross`; then all buys are cut by the
    same factor.
    """
    waiting = waiting or {}
    rows = []
    for symbol in sorted(set(target) | {s for s, weight in held.items() if weight != 0.0}):
        want, have = target.get(symbol, 0.0), held.get(symbol, 0.0)
        change = want - have
        leave = want == 0.0 and have != 0.0
        if symbol in waiting:
            action, want = "HOLD", have
        elif change != 0.0 and (leave or abs(change) >= no_trade_band):
            action = "BUY" if change > 0 else "SELL"
        else:
            action, want = "HOLD", have
        rows.append((symbol, action, want, have))
    decided = pd.DataFrame(rows, columns=["symbol", "action", "target_weight", "current_weight"])
    decided = _within_gross(decided, max_gross)
    known = [evidence.get(symbol) for symbol in decided["symbol"]]
    decided["confidence"] = [e.confidence if e else 0.0 for e in known]
    decided["reason"] = [
        waiting.get(symbol) or _reason(action, want, have, e, target.get(symbol, 0.0), no_trade_band)
        for (symbol, action, want, have), e in zip(
            decided[["symbol", "action", "target_weight", "current_weight"]].itertuples(index=False),
            known,
            strict=True,
        )
    ]
    # no rows have the types that rows would have
    return decided.astype(_TYPES)


def _within_gross(decided: pd.DataFrame, max_gross: float) -> pd.DataFrame:
    """Cut all buys by one factor so that the weights add up to no more than `max_gross`."""
    buys = decided["action"] == "BUY"
    change = decided["target_weight"] - decided["current_weight"]
    added = float(change[buys].sum())
    room = max_gross - (float(decided["target_weight"].sum()) - added)
    if added <= max(room, 0.0):
        return decided
    cut = decided["current_weight"] + change * max(room, 0.0) / added
    decided.loc[buys, "target_weight"] = cut[buys]
    decided.loc[buys & (cut <= decided["current_weight"]), "action"] = "HOLD"
    return decided


def _reason(action: str, want: float, have: float, known: Evidence | None, allocated: float, band: float) -> str:
    if known is None:
        return f"no forecast for it, so the {have:.1%} held are sold" if have else "no forecast for it"
    view = (
        f"expects {known.expected_return:+.2%} in {known.horizon} sessions (up {known.p_up:.0%}), "
        f"{known.condition}, regime {known.regime}, {known.sigma:.1%} a day"
    )
    if action == "HOLD":
        if want == 0.0 and allocated == 0.0:
            return f"allocation gives it nothing; {view}"
        if allocated - have >= band and allocated > have:
            return f"allocated {allocated:.1%} against {have:.1%} held, but no room within the gross limit; {view}"
        return f"allocated {allocated:.1%} against {have:.1%} held, within {band:.1%}; {view}"
    if want == 0.0:
        return f"allocation gives it nothing, sell the {have:.1%} held; {view}"
    return f"weight {have:.1%} to {want:.1%}; {view}"
