"""No look-ahead: what a stage says of session D must not depend on anything after D.

Each stage is run three times: on the history known at D, for D alone, as the daily run does; on a longer history,
for many sessions, as a backfill does; and on that history with all prices after D replaced by others. All three
must give the same row for D, in every column. `test_the_comparison_has_teeth` shows that functions that do look
ahead fail the same comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import signal

from tests.quant.histories import MARKET, actions_around, no_actions, sample_bars, synthetic_bars, weekdays
from trading_dagster.quant.allocation import allocation
from trading_dagster.quant.condition import condition
from trading_dagster.quant.cycles import phasing
from trading_dagster.quant.decisions import Evidence, decide
from trading_dagster.quant.features import FEATURES, features
from trading_dagster.quant.forecasting import (
    HORIZON,
    ForecastModel,
    fit_forecast_models,
    fit_stage_models,
    forecast,
    training_table,
)
from trading_dagster.quant.harmonics import harmonics
from trading_dagster.quant.prices import PriceHistory, long_rows, price_history
from trading_dagster.quant.regime import fit_regime_models, regime
from trading_dagster.quant.volatility import volatility
from trading_dagster.quant.volatility_models import fit_volatility_models

SYNTHETIC_SESSIONS = 1650
SYNTHETIC_CUTS = (1400, 1403, 1520, 1649)
SAMPLE_CUTS = (1500, 1748, 2190, 2262)
MODEL_AT = {"synthetic": 1380, "sample": 1490}
"""Position of the last session that the model saw; all cuts lie later, as they do in production."""

ANALYSED_FROM = 1250
"""Position of the first session of a backfill; before it, the windows of the longest cycles are not complete."""

REGIME_MODELS = {"synthetic": "hmm", "sample": "jump"}

ORDER_OF_ADDITION = 1e-9
"""Relative tolerance where numbers may be added in another order when there are more rows: the solver of the
allocation."""

COLUMNS: dict[str, dict[str, float]] = {
    "phasing": dict.fromkeys(
        (
            "period",
            "phase",
            "amplitude",
            "snr_db",
            "p_value",
            "fld",
            "fld_cross",
            "fld_target",
            "next_trough_bars",
            "noise",
            "next_trough_lower",
            "next_trough_upper",
            "trough_provisional",
            "trough_confirmed",
            "peak_provisional",
            "peak_confirmed",
            "trough_spacing",
            "smaller_troughs",
            "vtl",
            "vtl_break",
        ),
        0.0,
    ),
    "harmonics": dict.fromkeys(("period", "power", "p_value"), 0.0),
    "regime": dict.fromkeys(
        ("regime", "prob_calm", "prob_turbulent", "suitability", "sessions_in_regime", "trend", "fitted"), 0.0
    ),
    "volatility": dict.fromkeys(
        (
            "sigma_1d",
            "sigma_21d",
            "sigma_har",
            "sigma_garch",
            "sigma_ewma",
            "sigma_rank",
            "var_95",
            "var_99",
            "es_975",
            "atr",
            "stop_multiple",
            "stop_distance",
            "fitted",
        ),
        0.0,
    ),
    "condition": dict.fromkeys(("condition", "reason"), 0.0),
    "features": dict.fromkeys(FEATURES, 0.0),
    "forecast": dict.fromkeys(("horizon", "model", "expected_return", "lower", "upper", "p_up", "confidence"), 0.0),
    "allocation": {"weight": ORDER_OF_ADDITION, "method": 0.0},
    "decisions": dict.fromkeys(("action", "reason", "confidence"), 0.0)
    | dict.fromkeys(("target_weight", "current_weight"), ORDER_OF_ADDITION),
}
"""Every column of every stage, with the relative tolerance that its comparison needs; 0 is to the last bit."""

KEYS = {"phasing": ["session", "symbol", "cycle"], "harmonics": ["session", "symbol", "rank"]}
UNVARIED = {"harmonics": {"period", "power"}}
"""Noise has no significant peak; test_harmonics cuts a series that has one."""

HELD = {"ALFA": 0.05, "ZULU": 0.12, "KO": 0.05, "GE": 0.12, "SOLD": 0.03}
"""Weights held before the decision; a symbol that is no longer followed is among them."""

Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Data:
    """Bars and corporate actions, with the sessions at which they are cut."""

    bars: pd.DataFrame
    actions: pd.DataFrame
    cuts: pd.DatetimeIndex
    fitted_to: pd.Timestamp

    def known_at(self, session: pd.Timestamp) -> PriceHistory:
        """What was known at the close of `session`, built from rows that were there then."""
        return price_history(
            self.bars[self.bars["session"] <= session], self.actions[self.actions["ex_date"] <= session]
        )


@cache
def data(name: str) -> Data:
    if name == "sample":
        bars, actions, cuts = sample_bars(), no_actions(), SAMPLE_CUTS
        sessions = pd.DatetimeIndex(bars["session"].unique()).sort_values()
    else:
        sessions, cuts = weekdays(SYNTHETIC_SESSIONS), SYNTHETIC_CUTS
        actions = actions_around(sessions, (400, 900, *cuts))
        bars = synthetic_bars(SYNTHETIC_SESSIONS, actions)
    return Data(bars, actions, sessions[list(cuts)], sessions[MODEL_AT[name]])


@cache
def long_history(name: str) -> PriceHistory:
    return price_history(data(name).bars, data(name).actions)


@cache
def model(name: str) -> ForecastModel:
    return fitted_model(data(name).known_at(data(name).fitted_to))


def fitted_model(history: PriceHistory) -> ForecastModel:
    """Fit on all that the history holds, the stages' models included."""
    month, ends = pd.DatetimeIndex(["2030-01-01"]), history.sessions[-1:]
    models = fit_stage_models(history, month[0], ends[0], MARKET, "jump")
    return fit_forecast_models(history, MARKET, month, ends, models)[0]


def stage_tables(name: str, history: PriceHistory, sessions: pd.DatetimeIndex, decided: pd.DatetimeIndex) -> Tables:
    """Run all stages: the analysis for `sessions`, the forecast and what follows from it for `decided`.

    The models of each month are fitted on what came before it, as in production, so that they are compared, too.
    """
    months = sessions.to_period("M").unique().to_timestamp().as_unit("us")
    ends = pd.DatetimeIndex([history.sessions[history.sessions < month][-1] for month in months])
    risk_models = fit_volatility_models(history, months, ends)
    states = regime(history, sessions, MARKET, fit_regime_models(history, months, ends, MARKET, REGIME_MODELS[name]))
    tables = {
        "phasing": phasing(history, sessions),
        "harmonics": harmonics(history, sessions),
        "regime": states,
        "volatility": volatility(history, sessions, risk_models, states),
    }
    tables["condition"] = condition(tables["phasing"], states, tables["volatility"])
    table = features(history, sessions, tables["phasing"], tables["regime"], tables["volatility"], MARKET)
    fitted = model(name)
    tables["features"] = table
    tables["forecast"] = forecast(
        fitted.booster,
        fitted.parameters,
        table[table["session"].isin(decided)].reset_index(drop=True),
        tables["volatility"],
        "forecast_model@test",
    )
    market = tables["regime"][tables["regime"]["symbol"] == MARKET].set_index("session")["suitability"]
    tables["allocation"] = allocation(
        history,
        decided,
        tables["forecast"],
        tables["volatility"],
        market,
        max_weight=0.3,
        max_gross=0.98,
        volatility_target=0.12,
        risk_aversion=3.0,
    )
    tables["decisions"] = pd.concat([decisions(tables, at) for at in decided], ignore_index=True)
    return tables


def decisions(tables: Tables, session: pd.Timestamp) -> pd.DataFrame:
    rows = {name: table[table["session"] == session].set_index("symbol") for name, table in tables.items()}
    evidence = {
        str(symbol): Evidence(
            row["expected_return"],
            int(row["horizon"]),
            row["p_up"],
            row["confidence"],
            rows["regime"].loc[symbol, "regime"],
            rows["condition"].loc[symbol, "condition"],
            rows["volatility"].loc[symbol, "sigma_1d"],
        )
        for symbol, row in rows["forecast"].iterrows()
    }
    target = rows["allocation"]["weight"].to_dict()
    return decide(target, HELD, evidence, no_trade_band=0.01, max_gross=0.98).assign(session=session)


@cache
def backfilled(name: str) -> Tables:
    """All sessions of the longer history in one pass."""
    history = long_history(name)
    return stage_tables(name, history, history.sessions[ANALYSED_FROM:], data(name).cuts)


@cache
def daily(name: str, session: pd.Timestamp) -> Tables:
    """One session, on what was known at its close."""
    alone = pd.DatetimeIndex([session])
    return stage_tables(name, data(name).known_at(session), alone, alone)


@cache
def other_future(name: str, session: pd.Timestamp) -> Tables:
    """All sessions in one pass, with every price after `session` replaced."""
    bars = data(name).bars.copy()
    later = bars["session"] > session
    wild = np.exp(np.random.default_rng(11).normal(0.5, 0.2, int(later.sum())))
    bars.loc[later, ["open", "high", "low", "close"]] *= wild[:, None]
    history = price_history(bars, data(name).actions)
    return stage_tables(name, history, history.sessions[ANALYSED_FROM:], data(name).cuts)


def assert_same_row(
    longer: pd.DataFrame, cut: pd.DataFrame, session: pd.Timestamp, keys: list[str], column: str, tolerance: float
) -> None:
    """Compare one column of the rows of one session; missing values must be missing in both."""
    expected = longer[longer["session"] == session].set_index(keys)[column].sort_index()
    found = cut[cut["session"] == session].set_index(keys)[column].sort_index()
    assert len(found) > 0, f"{column}: no row at {session:%Y-%m-%d}"
    pd.testing.assert_index_equal(found.index, expected.index)
    message = f"{column} at {session:%Y-%m-%d} depends on what comes later"
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=0.0, equal_nan=True, err_msg=message)
    else:
        assert found.tolist() == expected.tolist(), message


EVERY_COLUMN = [
    pytest.param(table, column, tolerance, id=f"{table}.{column}")
    for table, columns in COLUMNS.items()
    for column, tolerance in columns.items()
]


@pytest.mark.parametrize(("table", "column", "tolerance"), EVERY_COLUMN)
@pytest.mark.parametrize("name", ["sample", "synthetic"])
def test_daily_row_equals_backfilled_row(name: str, table: str, column: str, tolerance: float) -> None:
    for session in data(name).cuts:
        keys = KEYS.get(table, ["session", "symbol"])
        assert_same_row(backfilled(name)[table], daily(name, session)[table], session, keys, column, tolerance)


@pytest.mark.parametrize(("table", "column"), [pytest.param(*case.values[:2], id=case.id) for case in EVERY_COLUMN])
def test_row_does_not_change_with_the_future(table: str, column: str) -> None:
    # the frames have the same shape, so that all columns agree to the last bit
    session = data("synthetic").cuts[0]
    keys = KEYS.get(table, ["session", "symbol"])
    changed = other_future("synthetic", session)
    assert_same_row(backfilled("synthetic")[table], changed[table], session, keys, column, 0.0)


@pytest.mark.parametrize("name", ["sample", "synthetic"])
def test_every_column_is_compared(name: str) -> None:
    # a column added to a stage must be added above, or it would go unwatched
    for table, rows in backfilled(name).items():
        assert set(rows.columns) - {"session", "symbol", "cycle", "rank"} == set(COLUMNS[table]), table


def test_the_data_can_show_a_leak() -> None:
    # columns that are missing or constant at the cuts would pass whatever the code does
    for table, columns in COLUMNS.items():
        rows = backfilled("synthetic")[table]
        rows = rows[rows["session"].isin(data("synthetic").cuts)]
        for column in set(columns) - {"horizon", "model", "method", "fitted", "noise"} - UNVARIED.get(table, set()):
            assert rows[column].nunique() > 1, f"{table}.{column}"
    after_cut = (
        data("synthetic")
        .actions["ex_date"]
        .isin(long_history("synthetic").sessions[[position + 1 for position in SYNTHETIC_CUTS[:-1]]])
    )
    assert set(data("synthetic").actions.loc[after_cut, "kind"]) == {"split", "dividend"}


def test_announced_actions_change_nothing_before_their_ex_date() -> None:
    source = data("synthetic")
    session = source.cuts[0]
    announced = price_history(source.bars[source.bars["session"] <= session], source.actions)
    known = source.known_at(session)
    for name in ("factor", "split", "dividend", "close", "total_return"):
        pd.testing.assert_frame_equal(getattr(announced, name), getattr(known, name), check_exact=True)


# -- the model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sample", "synthetic"])
def test_model_of_a_month_is_the_same_bytes_whatever_came_later(name: str) -> None:
    later = fitted_model(long_history(name).until(data(name).fitted_to))
    assert later.booster == model(name).booster
    assert later.parameters == model(name).parameters
    assert later.metrics == model(name).metrics
    assert (later.fitted_to, later.rows) == (data(name).fitted_to, model(name).rows)


def test_model_changes_with_the_last_known_price() -> None:
    # the comparison above would be worth nothing if the newest prices did not reach the model at all
    source = data("synthetic")
    bars = source.bars.copy()
    bars.loc[bars["session"] == source.fitted_to, "close"] *= 1.05
    changed = price_history(bars, source.actions).until(source.fitted_to)
    assert fitted_model(changed).booster != model("synthetic").booster


@pytest.mark.parametrize("name", ["sample", "synthetic"])
def test_labels_use_no_price_after_the_history(name: str) -> None:
    end = MODEL_AT[name]
    sessions = long_history(name).sessions
    known = data(name).known_at(sessions[end])
    models = fit_stage_models(known, pd.Timestamp("2030-01-01"), sessions[end], MARKET, "jump")
    table = training_table(known, MARKET, models)
    assert sessions[end - HORIZON - 5] < table["session"].max() <= sessions[end - HORIZON]

    longer = training_table(long_history(name), MARKET, models)
    both = longer[longer["session"] <= sessions[end - HORIZON]].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[["session", "symbol"]], both[["session", "symbol"]])
    np.testing.assert_array_equal(table["label"], both["label"])


# -- the comparison itself --------------------------------------------------------------------------------------


def as_stage(compute: Callable[[pd.DataFrame, PriceHistory], pd.DataFrame]) -> Callable[[PriceHistory], pd.DataFrame]:
    def stage(history: PriceHistory) -> pd.DataFrame:
        values = compute(np.log(history.total_return.drop(columns=["GAP", "LATE"])), history)
        return long_rows({"value": values}, history.sessions)

    return stage


def smoothed_forth_and_back(values: pd.DataFrame, _: PriceHistory) -> pd.DataFrame:
    numerator, denominator = signal.butter(2, 0.1)
    return pd.DataFrame(signal.filtfilt(numerator, denominator, values, axis=0), values.index, values.columns)


def smoothed_forth(values: pd.DataFrame, _: PriceHistory) -> pd.DataFrame:
    numerator, denominator = signal.butter(2, 0.1)
    return pd.DataFrame(signal.lfilter(numerator, denominator, values, axis=0), values.index, values.columns)


LEAKS = {
    "centred_mean": as_stage(lambda values, _: values.rolling(5, center=True, min_periods=1).mean()),
    "full_sample_z_score": as_stage(lambda values, _: (values - values.mean()) / values.std()),
    "full_sample_rank": as_stage(lambda values, _: values.rank(pct=True)),
    "forth_and_back_filter": as_stage(smoothed_forth_and_back),
    "next_return": as_stage(lambda values, _: values.diff().shift(-1)),
    "price_adjusted_at_the_end": as_stage(
        lambda values, history: np.exp(values) / history.factor.iloc[-1].loc[values.columns]
    ),
}
CAUSAL = {
    "trailing_mean": as_stage(lambda values, _: values.rolling(5).mean()),
    "forth_filter": as_stage(smoothed_forth),
    "price_adjusted_at_the_session": as_stage(lambda values, history: np.exp(values) / history.factor[values.columns]),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_the_comparison_has_teeth(leak: str) -> None:
    stage, session = LEAKS[leak], data("synthetic").cuts[0]
    longer, cut = stage(long_history("synthetic")), stage(data("synthetic").known_at(session))
    with pytest.raises(AssertionError, match="depends on what comes later"):
        assert_same_row(longer, cut, session, ["session", "symbol"], "value", ORDER_OF_ADDITION)


@pytest.mark.parametrize("causal", CAUSAL)
def test_the_comparison_lets_causal_functions_pass(causal: str) -> None:
    stage = CAUSAL[causal]
    for session in data("synthetic").cuts:
        longer, cut = stage(long_history("synthetic")), stage(data("synthetic").known_at(session))
        assert_same_row(longer, cut, session, ["session", "symbol"], "value", 0.0)
