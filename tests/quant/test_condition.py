"""The five words: each condition by itself, all of them together, and the figures that the reasons give."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from trading_dagster.quant.condition import CONDITIONS, condition

SESSION = pd.Timestamp("2020-03-02")


def tables(
    regime: str = "calm",
    sessions_in_regime: int = 300,
    trend: float = 0.2,
    p_values: tuple[float, ...] = (0.5, 0.6, 0.7),
    sigma_rank: float = 0.6,
    symbol: str = "A",
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Phasing, regime and volatility of one row; by itself it is compressed."""
    key = {"session": SESSION, "symbol": symbol}
    cycles = (20, 40, 80, 160)[: len(p_values)]
    phasing = pd.DataFrame(
        [{**key, "cycle": c, "period": 1.1 * c, "p_value": p} for c, p in zip(cycles, p_values, strict=True)],
        columns=["session", "symbol", "cycle", "period", "p_value"],
    )
    turbulent = 0.93 if regime == "turbulent" else 0.04
    state = {"regime": regime, "prob_turbulent": turbulent, "sessions_in_regime": sessions_in_regime, "trend": trend}
    volatility = {"sigma_1d": 0.0123, "sigma_rank": sigma_rank}
    return phasing, pd.DataFrame([{**key, **state}]), pd.DataFrame([{**key, **volatility}])


def word(**given: object) -> str:
    return condition(*tables(**given))["condition"].item()  # type: ignore[arg-type]


def reason(**given: object) -> str:
    return condition(*tables(**given))["reason"].item()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, "compressed", id="nothing"),
        pytest.param({"regime": "turbulent"}, "volatile", id="turbulent"),
        pytest.param({"regime": "turbulent", "sessions_in_regime": 3}, "volatile", id="newly turbulent"),
        pytest.param({"regime": "turbulent", "sigma_rank": 0.51}, "volatile", id="turbulent and wilder than usual"),
        pytest.param({"regime": "turbulent", "sigma_rank": 0.50}, "resetting", id="turbulent but quiet again"),
        pytest.param({"regime": "turbulent", "sigma_rank": np.nan}, "volatile", id="turbulent, volatility unknown"),
        pytest.param({"sigma_rank": 0.67}, "volatile", id="calm, no direction, wild"),
        pytest.param({"sigma_rank": 0.66}, "compressed", id="calm, no direction, not wild"),
        pytest.param({"sigma_rank": 0.99, "trend": 1.5}, "trending", id="a wild trend"),
        pytest.param({"sigma_rank": np.nan}, "compressed", id="volatility unknown"),
        pytest.param({"sessions_in_regime": 21}, "resetting", id="21 sessions of calm"),
        pytest.param({"sessions_in_regime": 22}, "compressed", id="22 sessions of calm"),
        pytest.param({"p_values": (0.5, 0.016, 0.7)}, "cyclical", id="significant after correction"),
        pytest.param({"p_values": (0.5, 0.017, 0.7)}, "compressed", id="significant before correction only"),
        pytest.param({"p_values": (0.012, 0.5, 0.5, 0.5)}, "cyclical", id="four cycles"),
        pytest.param({"p_values": (0.013, 0.5, 0.5, 0.5)}, "compressed", id="four cycles are corrected for four"),
        pytest.param({"p_values": (np.nan, 0.024, np.nan, 0.5)}, "cyclical", id="two of four judged"),
        pytest.param({"trend": 1.0}, "trending", id="trend up"),
        pytest.param({"trend": -1.0}, "trending", id="trend down"),
        pytest.param({"trend": -0.99}, "compressed", id="hardly a trend"),
        pytest.param({"p_values": ()}, "compressed", id="no phasing"),
    ],
)
def test_word(given: dict[str, object], expected: str) -> None:
    assert word(**given) == expected


def test_precedence_is_as_documented_for_every_combination() -> None:
    cases = {
        "volatile": {"regime": "turbulent"},
        "resetting": {"sessions_in_regime": 5},
        "cyclical": {"p_values": (0.001, 0.5, 0.5)},
        "trending": {"trend": 2.0},
    }
    for count in range(5):
        for chosen in itertools.combinations(cases, count):
            given: dict[str, object] = {}
            for name in chosen:
                given |= cases[name]
            assert word(**given) == (chosen[0] if chosen else "compressed")
    assert (*cases, "compressed") == CONDITIONS


def test_reasons_give_the_figures_that_decided() -> None:
    tail = "; volatility 1.2% a day, not above it on 60% of the last sessions"
    assert reason(regime="turbulent", sessions_in_regime=7) == "turbulent for 7 sessions, probability 93%" + tail
    assert reason(regime="turbulent", sigma_rank=0.2).startswith(
        "turbulent for 300 sessions, probability 93%, but volatility has come down; volatility 1.2% a day"
    )
    assert reason(sigma_rank=0.9).startswith("calm and without direction, but volatility is in its highest third; ")
    assert reason(sessions_in_regime=1) == "calm again for 1 session, turbulent before" + tail
    assert reason(p_values=(0.5, 0.001, 0.2)) == (
        "a cycle of 44.0 bars (nominal 40) has p = 0.003, corrected for 3 cycles" + tail
    )
    assert reason(trend=-1.26) == "price 1.3 deviations below its 200-bar mean" + tail
    assert reason(p_values=(0.4, 0.5)) == (
        "calm, no cycle is significant (p = 0.8), price 0.2 deviations above its 200-bar mean" + tail
    )


def test_lowest_third_of_volatility_is_said_and_missing_figures_too() -> None:
    assert reason(sigma_rank=0.33).endswith("on 33% of the last sessions, in its lowest third")
    assert reason(sigma_rank=0.34).endswith("on 34% of the last sessions")
    assert reason(sigma_rank=np.nan).endswith("; volatility 1.2% a day")
    phasing, regime, volatility = tables(p_values=())
    found = condition(phasing, regime, volatility.iloc[:0])["reason"].item()
    assert found == "calm, no cycle was judged, price 0.2 deviations above its 200-bar mean; volatility not known"


def test_rows_are_those_of_the_regime_each_judged_by_itself() -> None:
    given = [
        tables(symbol="C", trend=3.0),
        tables(symbol="A", regime="turbulent"),
        tables(symbol="B", p_values=(0.001,)),
    ]
    together = condition(*(pd.concat(parts, ignore_index=True) for parts in zip(*given, strict=True)))
    assert together["symbol"].tolist() == ["A", "B", "C"]
    assert together["condition"].tolist() == ["volatile", "cyclical", "trending"]
    assert together.columns.tolist() == ["session", "symbol", "condition", "reason"]
    alone = pd.concat([condition(*parts) for parts in given]).sort_values("symbol", ignore_index=True)
    pd.testing.assert_frame_equal(alone, together)


def test_without_any_row_there_is_none() -> None:
    phasing, regime, volatility = tables()
    found = condition(phasing.iloc[:0], regime.iloc[:0], volatility.iloc[:0])
    assert found.empty
    assert found.columns.tolist() == ["session", "symbol", "condition", "reason"]
