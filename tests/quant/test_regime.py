"""Regime rows against loops by hand over the stored parameters, and the equal-weight market against its definition."""

from __future__ import annotations

import itertools
import json
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from jumpmodels.jump import JumpModel
from scipy import stats

from tests.quant.histories import (
    MARKET,
    actions_around,
    bars_from_closes,
    closes_history,
    no_actions,
    random_walks,
    synthetic_bars,
    weekdays,
)
from trading_dagster.quant import regime as regime_module
from trading_dagster.quant.prices import PriceHistory, price_history
from trading_dagster.quant.regime import MODELS, RegimeModelError, fit_regime_models, regime
from trading_dagster.quant.regime_features import downside_features, simple_returns, trend_score, values_with_market

SESSIONS = 700
COLUMNS = [
    "session",
    "symbol",
    "regime",
    "prob_calm",
    "prob_turbulent",
    "suitability",
    "sessions_in_regime",
    "trend",
    "fitted",
]


def months_from(history: PriceHistory, first: int) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Months that begin after position `first`, and the last sessions before them."""
    sessions = history.sessions
    starts = [month.start_time for month in sessions[first + 1 :].to_period("M").unique()]
    starts = [start for start in starts if sessions.searchsorted(start) > first]
    before = [sessions[sessions.searchsorted(start) - 1] for start in starts]
    return pd.DatetimeIndex(starts).as_unit("us"), pd.DatetimeIndex(before).as_unit("us")


@pytest.fixture(scope="module")
def history() -> PriceHistory:
    actions = actions_around(weekdays(SESSIONS), (300, 560))
    return price_history(synthetic_bars(SESSIONS, actions), actions)


@pytest.fixture(scope="module")
def models(history: PriceHistory) -> dict[str, pd.DataFrame]:
    months, fitted_to = months_from(history, 300)
    return {name: fit_regime_models(history, months, fitted_to, MARKET, name) for name in MODELS}


@pytest.fixture(scope="module")
def served(history: PriceHistory) -> pd.DatetimeIndex:
    return history.sessions[history.sessions >= months_from(history, 300)[0][0]]


@pytest.fixture(scope="module")
def rows(history: PriceHistory, models: dict[str, pd.DataFrame], served: pd.DatetimeIndex) -> dict[str, pd.DataFrame]:
    return {name: regime(history, served, MARKET, models[name]) for name in MODELS}


def market_by_hand(history: PriceHistory) -> list[float]:
    """Wealth that is split anew into equal parts among all symbols with a return, from the first return on."""
    wealth, path = 1.0, []
    values = history.total_return
    for before, after in itertools.pairwise(values.index):
        growth = [
            values.loc[after, symbol] / values.loc[before, symbol]
            for symbol in history.symbols
            if values.loc[[before, after], symbol].notna().all()
        ]
        wealth = math.fsum(wealth / len(growth) * g for g in growth)
        path.append(wealth)
    return path


def warm_up(history: PriceHistory, symbol: str, session: pd.Timestamp) -> slice:
    """Positions from which the filter of the session's month runs, and to which."""
    first = history.sessions.searchsorted(session.to_period("M").start_time)
    return slice(max(first - 504, 0), history.sessions.get_loc(session) + 1)


def stored(models: pd.DataFrame, symbol: str, session: pd.Timestamp) -> dict[str, object]:
    at = (models["symbol"] == symbol) & (models["month"] == session.to_period("M").start_time)
    return json.loads(models.loc[at, "parameters"].item())


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_probabilities_and_what_follows_from_them(rows: dict[str, pd.DataFrame], name: str) -> None:
    table = rows[name]
    assert table.columns.tolist() == COLUMNS
    assert table.notna().all(axis=None)
    assert set(table["regime"]) == {"calm", "turbulent"}
    assert table[["prob_calm", "prob_turbulent"]].min(axis=None) >= 0.0
    np.testing.assert_allclose(table["prob_calm"] + table["prob_turbulent"], 1.0, rtol=1e-12)
    expected = table["prob_calm"] + 0.4 * table["prob_turbulent"]
    np.testing.assert_allclose(table["suitability"], expected, rtol=1e-12)
    assert table["suitability"].between(0.4, 1.0).all()
    assert table.equals(table.sort_values(["session", "symbol"], ignore_index=True))


@pytest.mark.parametrize("symbol", ["ALFA", "GAP", "ZULU", MARKET])
@pytest.mark.parametrize("at", [-1, -40])
def test_jump_row_equals_the_package_on_the_stored_parameters(
    history: PriceHistory,
    models: dict[str, pd.DataFrame],
    rows: dict[str, pd.DataFrame],
    served: pd.DatetimeIndex,
    symbol: str,
    at: int,
) -> None:
    session = served[at]
    parameters = {key: np.array(value) for key, value in stored(models["jump"], symbol, session).items()}
    returns = simple_returns(values_with_market(history, MARKET)[[symbol]])
    features = pd.DataFrame(downside_features(returns)[..., 0].T)[warm_up(history, symbol, session)].dropna()
    clipped = features.clip(parameters["lower"], parameters["upper"], axis=1)
    scaled = ((clipped - parameters["mean"]) / parameters["deviation"]).to_numpy()
    package = JumpModel(n_components=2, jump_penalty=float(parameters["penalty"]), cont=False)
    package.n_features_all, package.feat_weights = 3, None
    package.centers_, package.transmat_ = parameters["centres"], np.eye(2)
    package.check_jump_penalty_mx()
    states = np.asarray(package.predict_online(scaled)) == 1
    row = rows["jump"].set_index(["session", "symbol"]).loc[(session, symbol)]
    assert row["regime"] == ("turbulent" if states[-1] else "calm")
    since = 1 + next((n for n, state in enumerate(states[::-1]) if state != states[-1]), len(states)) - 1
    assert row["sessions_in_regime"] == since
    # values of the best paths by the recursion of two states, not of their difference
    value = np.zeros(2)
    for x in scaled:
        penalty = float(parameters["penalty"])
        loss = ((x - parameters["centres"]) ** 2).sum(axis=1) / 2.0
        value = loss + np.array([min(value[0], value[1] + penalty), min(value[1], value[0] + penalty)])
    assert row["prob_turbulent"] == pytest.approx(
        1.0 / (1.0 + math.exp(parameters["slope"] * (value[1] - value[0]))), rel=1e-6
    )


@pytest.mark.parametrize("symbol", ["BRAVO", "LATE", MARKET])
@pytest.mark.parametrize("at", [-1, -25])
def test_markov_row_equals_a_loop_on_the_stored_parameters(
    history: PriceHistory,
    models: dict[str, pd.DataFrame],
    rows: dict[str, pd.DataFrame],
    served: pd.DatetimeIndex,
    symbol: str,
    at: int,
) -> None:
    session = served[at]
    given = stored(models["hmm"], symbol, session)
    values = values_with_market(history, MARKET)[symbol]
    moves = (values.pct_change(fill_method=None)[warm_up(history, symbol, session)].dropna() / given["unit"]).tolist()
    probability, turbulent, count = None, False, 0
    for move in moves:
        ahead = 0.5
        if probability is not None:
            ahead = probability * (1.0 - given["leave_turbulent"]) + (1.0 - probability) * given["leave_calm"]
        calm, wild = (
            stats.t.pdf(move, given["degrees"], scale=given[name]) for name in ("calm_scale", "turbulent_scale")
        )
        probability = ahead * wild / (ahead * wild + (1.0 - ahead) * calm)
        before = turbulent
        turbulent = probability > given["threshold"] or (turbulent and probability >= 1.0 - given["threshold"])
        count = count + 1 if turbulent == before else 1
    row = rows["hmm"].set_index(["session", "symbol"]).loc[(session, symbol)]
    assert row["prob_turbulent"] == pytest.approx(probability, rel=1e-7)
    assert row["regime"] == ("turbulent" if turbulent else "calm")
    assert row["sessions_in_regime"] == count


def test_metrics_tell_what_the_fit_saw(history: PriceHistory, models: dict[str, pd.DataFrame]) -> None:
    metrics = {name: [json.loads(text) for text in models[name]["metrics"]] for name in MODELS}
    for name, own in (("jump", "objective"), ("hmm", "log_likelihood")):
        for each in metrics[name]:
            assert set(each) == {"sessions", "switches_a_year", "turbulent_share", "iterations", own}
            assert 0.0 <= each["turbulent_share"] <= 1.0
            assert each["iterations"] >= 0
    last = models["hmm"].index[models["hmm"]["symbol"] == "ALFA"][-1]
    end = history.sessions.get_loc(models["hmm"]["fitted_to"][last])
    returns = history.total_return["ALFA"].pct_change(fill_method=None).iloc[1 : end + 1]
    assert metrics["hmm"][last]["sessions"] == len(returns)
    # the likelihood is in the unit of the returns: not below that of one Student-t law for all of them
    single = stats.t.logpdf(returns, *stats.t.fit(returns, floc=0.0)).sum()
    assert single - 3.0 < metrics["hmm"][last]["log_likelihood"] < single + 100.0


@pytest.mark.parametrize("name", MODELS)
def test_a_month_alone_has_the_bytes_of_the_month_among_others(
    history: PriceHistory, models: dict[str, pd.DataFrame], name: str
) -> None:
    months, fitted_to = months_from(history, 300)
    known = history.until(fitted_to[4])
    alone = fit_regime_models(known, months[[4]], fitted_to[[4]], MARKET, name)
    among = models[name][models[name]["month"] == months[4]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, among, check_exact=True)


@pytest.mark.parametrize("name", MODELS)
def test_a_session_alone_on_cut_data_has_the_bits_of_the_range(
    history: PriceHistory, models: dict[str, pd.DataFrame], rows: dict[str, pd.DataFrame], name: str
) -> None:
    for at in (420, 421, 560, 699):
        session = history.sessions[at]
        alone = regime(history.until(session), pd.DatetimeIndex([session]), MARKET, models[name])
        among = rows[name][rows[name]["session"] == session].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, among, check_exact=True)


@pytest.mark.parametrize("name", MODELS)
def test_other_symbols_do_not_change_a_symbols_row(
    history: PriceHistory, models: dict[str, pd.DataFrame], rows: dict[str, pd.DataFrame], name: str
) -> None:
    months, fitted_to = months_from(history, 300)
    few = history.select(["BRAVO"])
    own = fit_regime_models(few, months[-1:], fitted_to[-1:], MARKET, name)
    columns = ["symbol", "parameters", "metrics"]
    fitted = models[name][(models[name]["month"] == months[-1]) & (models[name]["symbol"] == "BRAVO")]
    pd.testing.assert_frame_equal(
        own.loc[own["symbol"] == "BRAVO", columns].reset_index(drop=True), fitted[columns].reset_index(drop=True)
    )
    alone = regime(few, history.sessions[-1:], MARKET, own)
    among = rows[name][rows[name]["session"] == history.sessions[-1]]
    pd.testing.assert_frame_equal(
        alone[alone["symbol"] == "BRAVO"].reset_index(drop=True),
        among[among["symbol"] == "BRAVO"].reset_index(drop=True),
        check_exact=True,
    )


def test_a_symbol_listed_later_leaves_the_markets_past_bit_for_bit() -> None:
    closes = random_walks(11, 300, seed=3)
    late = {name: np.where(np.arange(300) < 250, np.nan, values) for name, values in random_walks(9, 300, 4).items()}
    both = closes | {f"L{name}": values for name, values in late.items()}
    without = values_with_market(closes_history(closes), MARKET)[MARKET]
    along = values_with_market(closes_history(both), MARKET)[MARKET]
    assert (without.iloc[1:250] == along.iloc[1:250]).all()
    assert without.iloc[-1] != along.iloc[-1]


@pytest.mark.parametrize("at", [250, 420])
def test_market_holds_all_symbols_in_equal_weight(history: PriceHistory, at: int) -> None:
    path = market_by_hand(history.until(history.sessions[at]))
    found = values_with_market(history, MARKET)[MARKET].iloc[1 : at + 1]
    np.testing.assert_allclose(found, path, rtol=1e-10)


def test_market_begins_with_the_first_return_and_not_with_the_first_symbols_listing() -> None:
    closes = {name: np.concatenate([np.full(50, np.nan), v]) for name, v in random_walks(2, 100, seed=8).items()}
    # two further symbols trade by turns, never on two sessions running: their prices are carried on in between
    turn, early = np.arange(150) % 2 == 0, np.arange(150) < 50
    closes["EVEN"] = np.where(turn & early, 10.0, np.nan)
    closes["ODD"] = np.where(~turn & early, 10.0, np.nan)
    market = values_with_market(closes_history(closes), MARKET)[MARKET]
    # the first return, of nothing, is at 1
    assert market.isna().tolist() == [True, *[False] * 149]


def test_rows_begin_at_the_252nd_bar_and_the_young_borrow_the_markets_parameters() -> None:
    walks = random_walks(3, 560, seed=5)
    walks["S0002"] = np.where(np.arange(560) < 200, np.nan, walks["S0002"] * 7.0)
    history = closes_history(walks)
    months, fitted_to = months_from(history, 420)
    for name in MODELS:
        models = fit_regime_models(history, months, fitted_to, MARKET, name)
        served = history.sessions[history.sessions >= months[0]]
        rows = regime(history, served, MARKET, models).set_index(["symbol", "session"])
        first = rows.loc["S0002"].index[0]
        assert first == history.sessions[200 + 251]
        own = models.loc[models["symbol"] == "S0002", "month"].min()
        borrowed = rows.loc["S0002", "fitted"] == "market"
        assert borrowed.any()
        assert (borrowed == (rows.loc["S0002"].index < own)).all()
        assert (rows.loc["S0001", "fitted"] == "own").all()


@pytest.mark.parametrize("name", MODELS)
def test_borrowed_parameters_are_in_the_symbols_own_units(name: str) -> None:
    # the market's parameters are those of A; a stock that moves three times as far is in the same states
    close = random_walks(1, 400, seed=6, sigma=0.01)["S0000"]
    wide = 100.0 * np.cumprod(1.0 + 3.0 * np.diff(close, prepend=close[0]) / np.roll(close, 1))
    months, fitted_to = months_from(closes_history({"A": close}), 360)
    models = fit_regime_models(closes_history({"A": close}), months[:1], fitted_to[:1], MARKET, name)
    session = closes_history({"A": close}).sessions[[-20]]
    models = models[models["symbol"] == MARKET]
    expected = regime(closes_history({"A": close}), session, MARKET, models).set_index("symbol")
    found = regime(closes_history({"A": wide}), session, MARKET, models).set_index("symbol")
    assert found.loc["A", "fitted"] == "market"
    assert found.loc["A", "prob_turbulent"] == pytest.approx(expected.loc["A", "prob_turbulent"], rel=1e-6)
    assert found.loc[MARKET, "fitted"] == "own"


@pytest.mark.parametrize("name", MODELS)
def test_storms_are_turbulent_and_the_calm_between_them_calm(name: str) -> None:
    random = np.random.default_rng(7)
    storm = (np.arange(1000) // 120) % 3 == 2
    moves = random.normal(np.where(storm, -0.004, 0.0008), np.where(storm, 0.03, 0.006))
    history = closes_history({"A": 100.0 * np.exp(moves.cumsum())})
    months, fitted_to = months_from(history, 600)
    rows = regime(
        history,
        history.sessions[history.sessions >= months[0]],
        MARKET,
        fit_regime_models(history, months, fitted_to, MARKET, name),
    )
    rows = rows[rows["symbol"] == "A"]
    truth = storm[history.sessions.get_indexer(rows["session"])]
    found = (rows["regime"] == "turbulent").to_numpy()
    # the jump model is some 25 sessions late both ways: the price of its penalty
    assert found[truth].mean() > 0.7
    assert (~found[~truth]).mean() > 0.7


@pytest.mark.parametrize("name", MODELS)
def test_constant_prices_halvings_and_a_history_of_252_bars(name: str) -> None:
    halves = random_walks(1, 273, seed=9)["S0000"] * np.where(np.arange(273) < 240, 1.0, 0.5)
    history = closes_history({"FLAT": np.full(273, 42.0), "HALF": halves})
    sessions = history.sessions
    months, fitted_to = months_from(history, 252)
    assert sessions.get_loc(fitted_to[0]) >= 252
    models = fit_regime_models(history, months[:1], fitted_to[:1], MARKET, name)
    rows = regime(history, sessions[sessions >= months[0]], MARKET, models)
    assert rows.notna().all(axis=None)
    flat = rows[rows["symbol"] == "FLAT"]
    assert (flat["regime"] == "calm").all()
    assert (flat["trend"] == 0.0).all()
    assert set(rows["symbol"]) == {"FLAT", "HALF", MARKET}


def test_trend_equals_plain_loops_and_is_zero_where_it_cannot_be_said(history: PriceHistory) -> None:
    values = history.total_return
    found = trend_score(values)
    for symbol, at in (("ALFA", 420), ("LATE", 400), ("ZULU", 699)):
        last = values[symbol].iloc[at - 199 : at + 1].tolist()
        moves = [math.log(after / before) for before, after in itertools.pairwise(last)]
        # Var(x_n - mean(x)) of a random walk, added up from its definition instead of the closed form
        variance = sum((index / 200) ** 2 for index in range(1, 200)) * statistics.variance(moves)
        expected = (math.log(last[-1]) - math.log(math.fsum(last) / 200)) / math.sqrt(variance)
        assert found[symbol].iloc[at] == pytest.approx(expected, rel=1e-8)
    assert (found["ALFA"].iloc[:199] == 0.0).all()
    assert (found["LATE"].iloc[: 150 + 199] == 0.0).all()
    assert found.notna().all(axis=None)


def test_trend_is_standard_normal_on_random_walks() -> None:
    values = closes_history(random_walks(1500, 201, seed=12)).total_return
    assert stats.kstest(trend_score(values).iloc[-1], "norm").pvalue > 0.01


def test_features_equal_the_exponential_averages_of_pandas(history: PriceHistory) -> None:
    returns = history.total_return["LATE"].pct_change(fill_method=None)
    found = downside_features(returns.to_numpy()[:, None])[..., 0]
    known = returns.dropna()
    losses = known.clip(upper=0.0) ** 2
    expected = [np.sqrt(losses.ewm(halflife=10).mean())]
    expected += [known.ewm(halflife=h).mean() / np.sqrt(losses.ewm(halflife=h).mean()) for h in (20, 60)]
    start = 150 + 20
    assert np.isnan(found[:, :start]).all()
    for row, series in zip(found, expected, strict=True):
        np.testing.assert_allclose(row[start:], series.to_numpy()[19:], rtol=1e-9)


def test_missing_models_and_bars_are_named(history: PriceHistory, models: dict[str, pd.DataFrame]) -> None:
    sessions, (months, fitted_to) = history.sessions, months_from(history, 300)
    gone = models["jump"][models["jump"]["month"] != months[2]]
    with pytest.raises(RegimeModelError, match=f"No regime model of {MARKET} for {months[2]:%Y-%m}"):
        regime(history, sessions[sessions >= months[0]], MARKET, gone)
    with pytest.raises(RegimeModelError, match="of 2 kinds"):
        regime(history, sessions[-1:], MARKET, pd.concat(list(models.values())))
    with pytest.raises(RegimeModelError, match="unknown; choose one of jump, hmm"):
        fit_regime_models(history, months, fitted_to, MARKET, "oracle")
    with pytest.raises(RegimeModelError, match="is no session of the history before the month"):
        fit_regime_models(history, months[:1], months[:1] + pd.Timedelta(days=10), MARKET)
    with pytest.raises(RegimeModelError, match="one for each"):
        fit_regime_models(history, months[:2], fitted_to[:1], MARKET)
    early = sessions[sessions.searchsorted(pd.Timestamp("2003-06-01")) - 1]
    with pytest.raises(RegimeModelError, match=rf"{MARKET} has \d+ bars on {early:%Y-%m-%d}.*needs 252"):
        fit_regime_models(history, pd.DatetimeIndex(["2003-06-01"]), pd.DatetimeIndex([early]), MARKET)


def test_memory_is_bounded_by_chunks_that_change_nothing(
    history: PriceHistory,
    models: dict[str, pd.DataFrame],
    rows: dict[str, pd.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(regime_module, "FIT_COLUMNS", 31)
    monkeypatch.setattr(regime_module, "FILTER_COLUMNS", 7)
    months, fitted_to = months_from(history, 300)
    pd.testing.assert_frame_equal(
        fit_regime_models(history, months, fitted_to, MARKET), models["jump"], check_exact=True
    )
    again = regime(history, history.sessions[history.sessions >= months[0]], MARKET, models["jump"])
    pd.testing.assert_frame_equal(again, rows["jump"], check_exact=True)


def test_sessions_that_are_not_in_the_history_have_no_rows(
    history: PriceHistory, models: dict[str, pd.DataFrame], rows: dict[str, pd.DataFrame]
) -> None:
    days = pd.date_range(history.sessions[-3], history.sessions[-1]).as_unit("us")
    found = regime(history, days, MARKET, models["jump"])
    assert set(found["session"]) == set(history.sessions[history.sessions >= days[0]])
    bars = bars_from_closes(random_walks(1, 5, seed=1))
    assert regime(price_history(bars, no_actions()), days, MARKET, models["jump"]).empty
