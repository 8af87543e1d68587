"""The data policy as a table: which bars may be used, and how many each component needs.

The rules only; `checks.data_policy` enforces them inside each stage's own step.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

EARLIEST_DATE = date(2000, 1, 1)
"""No bar before this date is requested, stored or used."""

PolicyMode = Literal["abort", "exclude"]

_FORECAST_BARS = 1500

MINIMUM_BARS: dict[str, int] = {
    "bars": 1,
    "corporate_actions": 0,
    "regime": 252,
    "volatility": 500,
    "phasing": 1500,
    "harmonics": 1500,
    "forecast": _FORECAST_BARS,
    "intermarket": 2500,
    "backtest": 2500,
    # a word for people that rests on all three of them
    "condition": 1500,
    # a model inherits the rule of the stage that uses it
    "regime_model": 252,
    "volatility_model": 500,
    # What acts on a forecast inherits its rule: nobody may trade what nobody may forecast.
    "forecast_model": _FORECAST_BARS,
    "allocation": _FORECAST_BARS,
    "signals": _FORECAST_BARS,
    "orders": _FORECAST_BARS,
}
"""Bars from `EARLIEST_DATE` up to and including the session that a component needs of a symbol."""


class DataPolicyError(ValueError):
    """Data that the policy forbids to use: nothing is stored, nothing is computed."""


@dataclass(frozen=True)
class Violation:
    """One symbol that a component may not use at a session, and why.

    Attributes
    ----------
    component : str
        The stage, as named in `MINIMUM_BARS`.
    symbol : str
    session : date
        The first session of the request at which the rule is broken.
    bars_found, bars_needed : int
        Bars from `EARLIEST_DATE` up to `session`.
    rule : {'minimum_bars', 'stale', 'actions'}
        ``stale``: enough bars, but none at `session` itself; ``actions``: no answer on its corporate actions.
    """

    component: str
    symbol: str
    session: date
    bars_found: int
    bars_needed: int
    rule: Literal["minimum_bars", "stale", "actions"] = "minimum_bars"

    @property
    def message(self) -> str:
        """The error as the user reads it: what, found, needed, and what to do."""
        if self.rule == "actions":
            return (
                f"{self.component}: the source gave no answer on corporate actions of {self.symbol} up to "
                f"{self.session}, without which its prices mislead. Materialise `corporate_actions` for {self.session} "
                f"again, or take {self.symbol} out of TRADING_UNIVERSE."
            )
        if self.rule == "stale":
            return (
                f"{self.component}: {self.symbol} has no bar at {self.session} (it has {self.bars_found} "
                f"earlier ones). Materialise `bars` for {self.session} first, or take {self.symbol} out of "
                "TRADING_UNIVERSE."
            )
        return (
            f"{self.component}: {self.symbol} has {self.bars_found} bars from {EARLIEST_DATE} to "
            f"{self.session}; {self.bars_needed} are needed. Supply more history, choose a later session, "
            f"take {self.symbol} out of TRADING_UNIVERSE, or set TRADING_POLICY=exclude to go on without it."
        )


def minimum_bars(component: str) -> int:
    """Bars that `component` needs of each symbol.

    Raises
    ------
    KeyError
        If the component has no row in the table: every stage must state its rule.
    """
    if component not in MINIMUM_BARS:
        raise KeyError(f"component {component!r} has no data-policy rule; known: {', '.join(sorted(MINIMUM_BARS))}")
    return MINIMUM_BARS[component]
