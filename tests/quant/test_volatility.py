"""Volatility models and rows: against `arch`'s filter, weights by hand, outcomes of real indices, and edge cases."""

from __future__ import annotations

import json
from typing import Any

import arch.data.sp500
import numpy as np
import pandas as pd
import pytest
from arch import arch_model
from scipy import stats

from tests.quant.histories import (
    actions_around,
    actions_table,
    bars_from_closes,
    closes_history,
    no_actions,
    random_walks,
    synthetic_bars,
    weekdays,
)
from trading_dagster.quant.prices import PriceHistory, price_history
from trading_dagster.quant.volatility import volatility
from trading_dagster.quant.volatility_models import POOLED, fit_volatility_models

COUNT = 1300
NULLABLE = ["atr"]


def months_from(history: PriceHistory, first: pd.Timestamp) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Months from that of `first` on, and the last session before each."""
    sessions = history.sessions
    months = sessions[sessions >= first].to_period("M").unique().to_timestamp()
    return months, sessions[sessions.searchsorted(months) - 1]


def calm(sessions: pd.DatetimeIndex, symbols: list[str], turbulent: float = 0.0) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([sessions, symbols], names=["session", "symbol"])
    return pd.DataFrame({"prob_turbulent": turbulent}, index=index).reset_index()


def both(history: PriceHistory, first: int, **regime: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Models and rows from a position on."""
    sessions = history.sessions[first:]
    models = fit_volatility_models(history, *months_from(history, sessions[0]))
    return models, volatility(history, sessions, models, calm(sessions, history.symbols, **regime))


def parameters(models: pd.DataFrame, symbol: str) -> dict[str, Any]:
    return json.loads(models[models["symbol"] == symbol]["parameters"].iloc[0])


def finite(rows: pd.DataFrame) -> bool:
    numbers = rows.drop(columns=[*NULLABLE, "session", "symbol", "fitted"])
    return bool(np.isfinite(numbers.to_numpy(dtype="float64")).all())


@pytest.fixture(scope="module")
def history() -> PriceHistory:
    actions = actions_around(weekdays(COUNT), (150, 700, 1200))
    return price_history(synthetic_bars(COUNT, actions), actions)


@pytest.fixture(scope="module")
def fitted(history: PriceHistory) -> tuple[pd.DataFrame, pd.DataFrame]:
    return both(history, 560)


@pytest.fixture(scope="module")
def rows(fitted: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    return fitted[1]


@pytest.fixture(scope="module")
def index_history() -> PriceHistory:
    """The S&P 500 of 1999 to 2008, with ranges."""
    prices = arch.data.sp500.load().loc[:"2008"].rename(columns=str.lower)
    prices.index = pd.DatetimeIndex(prices.index, name="session").as_unit("us")
    bars = prices[["open", "high", "low", "close"]].reset_index().assign(symbol="SP500")
    return price_history(bars, no_actions())


# -- figures --------------------------------------------------------------------------------------------------------


def test_columns_and_bounds(rows: pd.DataFrame) -> None:
    assert list(rows) == [
        *("session", "symbol", "sigma_1d", "sigma_21d", "sigma_har", "sigma_garch", "sigma_ewma", "sigma_rank"),
        *("var_95", "var_99", "es_975", "atr", "stop_multiple", "stop_distance", "fitted"),
    ]
    assert finite(rows)
    assert rows["atr"].notna().all()
    assert (rows[["sigma_1d", "sigma_21d", "sigma_har", "sigma_garch", "sigma_ewma"]] > 0.0).all().all()
    assert rows["sigma_rank"].between(1.0 / 252.0, 1.0).all()
    assert (rows["var_95"] < rows["var_99"]).all()
    assert (rows["var_95"] < rows["es_975"]).all()
    keys = list(zip(rows["session"], rows["symbol"], strict=True))
    assert keys == sorted(set(keys))


def test_garch_is_arch_with_the_parameters_of_the_month(index_history: PriceHistory) -> None:
    models, rows = both(index_history, len(index_history.sessions) - 15)
    own = parameters(models, "SP500")
    garch, scale = own["garch"], own["scale"]
    model = arch_model(
        index_history.log_return["SP500"].to_numpy()[1:] / scale,
        mean="Constant",
        vol="GARCH",
        o=1,
        dist="t",
        rescale=False,
    )
    fixed = model.fix([garch[name] for name in ("mu", "omega", "alpha", "gamma", "beta", "nu")])
    # that of a session is the forecast made at the one before; arch filters all years, we those of the warm-up
    expected = scale * fixed.conditional_volatility[-len(rows) + 1 :]
    np.testing.assert_allclose(rows["sigma_garch"].iloc[:-1], expected, rtol=1e-6)


def test_baseline_has_the_weights_of_riskmetrics(history: PriceHistory, rows: pd.DataFrame) -> None:
    returns = history.log_return["ZULU"].to_numpy()
    found = rows[rows["symbol"] == "ZULU"].set_index("session")["sigma_ewma"]
    for at in (600, 999, COUNT - 1):
        weights = 0.94 ** np.arange(400)
        expected = np.sum(weights * np.square(returns[at : at - 400 : -1])) / np.sum(weights)
        assert found[history.sessions[at]] == pytest.approx(np.sqrt(expected), rel=1e-8)


def test_forecasts_of_the_index_beat_the_baseline(index_history: PriceHistory) -> None:
    rows = both(index_history, 1000)[1]
    returns = index_history.log_return["SP500"].to_numpy()[1001:]

    def loss(name: str) -> float:
        ratio = np.square(returns / rows[name].to_numpy()[:-1])
        return float(np.mean(ratio + 2.0 * np.log(rows[name].to_numpy()[:-1])))

    assert loss("sigma_1d") < loss("sigma_ewma") - 0.02
    assert np.mean(np.square(returns / rows["sigma_1d"].to_numpy()[:-1])) == pytest.approx(1.0, abs=0.2)
    hits = -np.expm1(returns) > rows["var_99"].to_numpy()[:-1]
    # 1,500 sessions that hold 2008: 0.5 to 2 % is what chance allows at 1 %
    assert 0.005 < hits.mean() < 0.02
    month = np.array([np.mean(np.square(returns[at : at + 21])) for at in range(len(returns) - 21)])
    ahead = rows["sigma_21d"].to_numpy()[: len(month)]
    assert np.corrcoef(np.log(month), np.log(ahead))[0, 1] > 0.65
    assert np.mean(month / ahead**2) == pytest.approx(1.0, abs=0.35)


@pytest.mark.parametrize("ranges", [True, False])
def test_deviation_that_made_the_returns_is_found(ranges: bool) -> None:
    bars = bars_from_closes(random_walks(8, 700, seed=5, sigma=0.02))
    if ranges:
        # a session that opens at the close before and leaves its body by half of it
        bars = bars.sort_values(["symbol", "session"], ignore_index=True)
        bars["open"] = bars.groupby("symbol")["close"].shift(1).fillna(bars["close"])
        body = (bars["close"] - bars["open"]).abs()
        bars["high"] = bars[["open", "close"]].max(axis=1) + body / 2.0
        bars["low"] = bars[["open", "close"]].min(axis=1) - body / 2.0
    history = price_history(bars, no_actions())
    rows = both(history, 690)[1]
    for name in ("sigma_1d", "sigma_21d", "sigma_har", "sigma_garch"):
        assert np.sqrt(np.mean(rows[name] ** 2)) == pytest.approx(0.02, rel=0.06), name
    assert rows["var_99"].mean() == pytest.approx(1.0 - np.exp(-2.326 * 0.02), rel=0.12)


def test_losses_are_exceeded_as_often_as_they_say() -> None:
    # a skewed fat tail whose true distribution tells how likely, and how large, a loss beyond each forecast is
    made = stats.jf_skew_t(3.0, 6.0)
    middle, deviation = made.mean(), made.std()
    steps = 0.012 * (made.rvs((2050, 12), random_state=np.random.default_rng(21)) - middle) / deviation
    closes = {f"S{n:02d}": 100.0 * np.exp(steps[:, n].cumsum()) for n in range(12)}
    rows = both(closes_history(closes), 2030)[1]

    def beyond(loss: pd.Series) -> float:
        """Probability of a larger one, by the distribution that the returns were drawn from."""
        return float(made.cdf(middle + deviation * np.log1p(-loss) / 0.012).mean())

    assert beyond(rows["var_95"]) == pytest.approx(0.05, abs=0.006)
    assert beyond(rows["var_99"]) == pytest.approx(0.01, abs=0.0025)
    drawn = 1.0 - np.exp(0.012 * (made.ppf(0.025 * (np.arange(2000) + 0.5) / 2000) - middle) / deviation)
    assert rows["es_975"].mean() == pytest.approx(drawn.mean(), rel=0.06)
    # no symmetric distribution of this deviation would do
    assert drawn.mean() > 1.1 * (1.0 - np.exp(-2.338 * 0.012))


def test_rank_counts_the_sessions_before(history: PriceHistory, fitted: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    # one month's parameters served for all months, so that the rows themselves are what the rank counts
    models = fitted[0]
    newest = models[models["month"] == models["month"].iloc[-1]]
    same = pd.concat([newest.assign(month=month) for month in models["month"].unique()], ignore_index=True)
    sessions = history.sessions[800:]
    rows = volatility(history, sessions, same, calm(sessions, history.symbols))
    one = rows[rows["symbol"] == "ZULU"].set_index("session")
    expected = one["sigma_1d"].rolling(252).rank(method="max") / 252.0
    # the filters of different months begin at different bars, which may swap neighbours
    np.testing.assert_allclose(one["sigma_rank"].iloc[251:], expected.iloc[251:], atol=1.01 / 252.0)


# -- stops ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("turbulent", "multiple"), [(0.0, 3.0), (0.25, 3.25), (1.0, 4.0)])
def test_stop_is_farther_away_in_turbulence(history: PriceHistory, turbulent: float, multiple: float) -> None:
    rows = both(history, COUNT - 5, turbulent=turbulent)[1]
    np.testing.assert_allclose(rows["stop_multiple"], multiple)
    np.testing.assert_allclose(rows["stop_distance"] / rows["atr"], multiple, rtol=1e-12)


def test_stop_without_ranges_is_as_far_away_as_with_them() -> None:
    # Brownian sessions of 1,000 steps that open at the close before
    random = np.random.default_rng(31)
    parts = []
    for symbol in ("A", "B", "C", "D", "E", "F"):
        paths = np.cumsum(random.normal(0.0, 0.015 / np.sqrt(1000.0), (640, 1000)), axis=1)
        start = np.concatenate([[0.0], np.cumsum(paths[:, -1])[:-1]])[:, None]
        prices = 100.0 * np.exp(np.hstack([start, start + paths]))
        columns = {"open": prices[:, 0], "high": prices.max(axis=1), "low": prices.min(axis=1), "close": prices[:, -1]}
        parts.append(pd.DataFrame({"session": weekdays(640), "symbol": symbol, **columns}))
    bars = pd.concat(parts, ignore_index=True)
    with_ranges = both(price_history(bars, no_actions()), 540, turbulent=0.5)[1]
    without = both(price_history(bars.assign(open=np.nan, high=np.nan, low=np.nan), no_actions()), 540, turbulent=0.5)[
        1
    ]
    assert with_ranges["atr"].notna().all()
    assert without["atr"].isna().all()
    ratio = without["stop_distance"] / with_ranges["stop_distance"]
    # 1,000 steps miss 2 % of the range, and a deviation fitted to 500 bars is a few percent low; one deviation instead
    # of one range would be 0.63
    assert ratio.mean() == pytest.approx(1.0, abs=0.08)
    assert ratio.between(0.6, 1.7).all()


def test_a_split_changes_nothing_but_the_price_of_the_stop() -> None:
    sessions = weekdays(700)
    whole = synthetic_bars(700, no_actions())
    whole = whole[whole["symbol"] == "ALFA"]
    halved = whole.copy()
    halved.loc[halved["session"] >= sessions[690], ["open", "high", "low", "close"]] /= 4.0
    split = price_history(halved, actions_table([(sessions[690], "ALFA", "split", 4.0)]))
    plain, found = both(price_history(whole, no_actions()), 680)[1], both(split, 680)[1]
    ratio = np.where(plain["session"] >= sessions[690], 0.25, 1.0)
    for name in ("sigma_1d", "sigma_21d", "var_99", "es_975"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-6)
    np.testing.assert_allclose(found["stop_distance"], plain["stop_distance"] * ratio, rtol=1e-6)


# -- causality ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", [1, 9, 250, 601])
def test_models_and_rows_are_those_of_the_cut_history(
    history: PriceHistory, fitted: tuple[pd.DataFrame, pd.DataFrame], back: int
) -> None:
    models, rows = fitted
    session = history.sessions[-back]
    cut = history.until(session)
    month = pd.DatetimeIndex([session]).to_period("M").to_timestamp()
    alone = fit_volatility_models(cut, month, months_from(cut, month[0])[1])
    served = models[models["month"] == month[0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, served, check_exact=True)
    sessions = pd.DatetimeIndex([session])
    one = volatility(cut, sessions, alone, calm(sessions, cut.symbols))
    pd.testing.assert_frame_equal(one, rows[rows["session"] == session].reset_index(drop=True), check_exact=True)


def test_symbols_do_not_depend_on_each_other(history: PriceHistory, fitted: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    models, rows = fitted
    sessions, some = history.sessions[-70:], ["GAP", "ZULU"]
    month = models[models["month"] == models["month"].iloc[-1]]
    fewer = fit_volatility_models(history.select(some), *months_from(history, history.sessions[-1]))
    own, other = (table[table["symbol"].isin(some)].reset_index(drop=True) for table in (month, fewer))
    pd.testing.assert_frame_equal(own, other, check_exact=True)
    found = volatility(history.select(some), sessions, models, calm(sessions, some))
    expected = rows[rows["session"].isin(sessions) & rows["symbol"].isin(some)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_fit_that_would_read_of_its_month_is_refused(history: PriceHistory) -> None:
    month = pd.DatetimeIndex(["2006-03-01"])
    with pytest.raises(ValueError, match=r"the models of 2006-03 would be fitted to 2006-03-01"):
        fit_volatility_models(history, month, month)
    with pytest.raises(ValueError, match="1 months but 2 sessions"):
        fit_volatility_models(history, month, history.sessions[:2])


# -- edges ----------------------------------------------------------------------------------------------------------


def test_rows_begin_at_the_500th_bar_and_young_symbols_use_the_pool(history: PriceHistory, rows: pd.DataFrame) -> None:
    late = rows[rows["symbol"] == "LATE"]
    assert late["session"].iloc[0] == history.sessions[150 + 499]
    assert late["fitted"].iloc[0] == "pooled"
    assert late["fitted"].iloc[-1] == "own"
    assert set(rows[rows["symbol"] == "ZULU"]["fitted"]) == {"own"}
    # of the size that its own models find a month later
    first, later = late[late["fitted"] == "pooled"], late[late["fitted"] == "own"].iloc[:60]
    assert first["sigma_1d"].median() == pytest.approx(later["sigma_1d"].median(), rel=0.5)


def test_too_short_a_history_has_nothing_to_fit() -> None:
    history = closes_history(random_walks(3, 252, seed=2))
    with pytest.raises(ValueError, match="no symbol has 500 bars that move up to"):
        fit_volatility_models(history, *months_from(history, history.sessions[-1]))


def test_month_without_models_is_named(history: PriceHistory, fitted: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    sessions = history.sessions[[700, 900]]
    models = fitted[0][fitted[0]["month"] < sessions[1].to_period("M").to_timestamp()]
    with pytest.raises(ValueError, match=f"no volatility models for {sessions[1]:%Y-%m}; fit them"):
        volatility(history, sessions, models, calm(sessions, history.symbols))


def test_short_symbols_among_long_ones_have_no_rows() -> None:
    closes = random_walks(3, 600, seed=2)
    closes["S0002"][:348] = np.nan
    models, rows = both(closes_history(closes), 590)
    assert set(models["symbol"]) == {"S0000", "S0001", POOLED}
    assert set(rows["symbol"]) == {"S0000", "S0001"}


def test_one_symbol_has_its_own_row_and_is_the_pool() -> None:
    models, rows = both(closes_history(random_walks(1, 600, seed=3)), 595)
    assert models["symbol"].tolist() == [POOLED, "S0000"] * (len(models) // 2)
    own, pool = parameters(models, "S0000"), parameters(models, POOLED)["close"]
    assert pool["har_1d"] == own["har_1d"]
    assert finite(rows)


def test_constant_price_has_no_risk_until_it_moves() -> None:
    closes = {**random_walks(2, 700, seed=4), "FLAT": np.full(700, 7.0)}
    closes["FLAT"][697:] = 7.7
    models, rows = both(closes_history(closes), 680)
    assert "FLAT" not in set(models["symbol"])
    flat = rows[rows["symbol"] == "FLAT"].set_index("session")
    assert finite(rows)
    still = flat.iloc[:17]
    risks = ["sigma_1d", "sigma_21d", "sigma_har", "sigma_garch", "sigma_ewma", "var_95", "var_99", "es_975"]
    assert (still[[*risks, "stop_distance"]] == 0.0).all().all()
    assert (still["sigma_rank"] == 1.0).all()
    assert set(flat["fitted"]) == {"pooled"}
    assert flat["sigma_1d"].iloc[17] == pytest.approx(np.sqrt(0.06) * np.log(1.1), rel=1e-9)


def test_session_without_a_bar_carries_the_forecast_on() -> None:
    closes = random_walks(2, 700, seed=6)
    closes["S0000"][690:693] = np.nan
    history = closes_history(closes)
    rows = both(history, 685)[1]
    one = rows[rows["symbol"] == "S0000"].set_index("session")
    carried = one.loc[history.sessions[689:693]].drop(columns=["symbol"])
    assert (carried == carried.iloc[0]).drop(columns="atr").all().all()
    # the bars after it are as if the sessions had never been
    closed = history.sessions[[*range(690), *range(693, 700)]]
    squeezed = closes_history({"S0000": closes["S0000"][~np.isnan(closes["S0000"])]}, closed)
    models = fit_volatility_models(history, *months_from(history, closed[-1]))
    after = closed[-3:]
    found = volatility(squeezed, after, models, calm(after, ["S0000"]))
    expected = volatility(history, after, models, calm(after, history.symbols))
    np.testing.assert_array_equal(found["sigma_1d"], expected[expected["symbol"] == "S0000"]["sigma_1d"])


@pytest.mark.parametrize("ranges", [True, False])
def test_price_that_halves_in_a_day(ranges: bool) -> None:
    bars = synthetic_bars(900, no_actions())
    bars = bars[bars["symbol"].isin(["ALFA", "ZULU"])].reset_index(drop=True)
    prices = ["open", "high", "low", "close"]
    fallen = (bars["symbol"] == "ALFA") & (bars["session"] >= weekdays(900)[700])
    calm_bars = bars.copy()
    bars.loc[fallen, prices] /= 2.0
    if not ranges:
        bars[prices[:3]], calm_bars[prices[:3]] = np.nan, np.nan
    rows, usual = (both(price_history(table, no_actions()), 690)[1] for table in (bars, calm_bars))
    assert finite(rows)
    alfa, before = (table[table["symbol"] == "ALFA"].set_index("session") for table in (rows, usual))
    day = weekdays(900)[700]
    # the models see that it was no usual day, and that the next one is not likely to be another
    assert 2.0 < alfa["sigma_1d"][day] / before["sigma_1d"][day] < 30.0
    assert (alfa["var_99"] < 1.0).all()
    # nine months later it is past, though it is in every window of the fits
    assert alfa["sigma_1d"].iloc[-10:].mean() / before["sigma_1d"].iloc[-10:].mean() == pytest.approx(1.0, abs=0.4)


def test_row_without_a_regime_is_refused(history: PriceHistory, fitted: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    sessions = history.sessions[-1:]
    states = calm(sessions, ["ALFA", "BRAVO", "LATE", "ZULU"])
    with pytest.raises(ValueError, match="GAP has no prob_turbulent at"):
        volatility(history, sessions, fitted[0], states)


def test_sessions_before_the_500th_bar_have_no_rows_but_all_columns(
    history: PriceHistory, fitted: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    models, rows = fitted
    session = rows["session"].iloc[0]
    young = history.select(["LATE"])
    none = volatility(young, pd.DatetimeIndex([session]), models, calm(history.sessions, ["LATE"]))
    assert len(none) == 0
    assert list(none) == list(rows)


def test_pool_of_ranges_serves_a_young_symbol_of_closes(history: PriceHistory) -> None:
    bars = synthetic_bars(COUNT, no_actions())
    bars.loc[bars["symbol"] == "LATE", ["open", "high", "low"]] = np.nan
    rows = both(price_history(bars, no_actions()), 648)[1]
    late = rows[rows["symbol"] == "LATE"]
    assert late["fitted"].iloc[0] == "pooled"
    assert finite(late)
    pooled, own = late[late["fitted"] == "pooled"], late[late["fitted"] == "own"].iloc[:60]
    assert pooled["sigma_har"].median() == pytest.approx(own["sigma_har"].median(), rel=0.5)


@pytest.mark.parametrize(("bars", "own"), [(500, True), (499, False)])
def test_symbol_is_fitted_from_500_bars_on(bars: int, own: bool) -> None:
    closes = random_walks(2, 600, seed=9)
    sessions = weekdays(600)
    month = sessions[-1].to_period("M").to_timestamp()
    last = int(sessions.searchsorted(month)) - 1
    closes["S0000"][: last + 1 - bars] = np.nan
    models = fit_volatility_models(closes_history(closes), pd.DatetimeIndex([month]), sessions[[last]])
    assert ("S0000" in set(models["symbol"])) is own
