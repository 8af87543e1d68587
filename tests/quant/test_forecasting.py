"""Forecasts on data where the truth is known: pure noise, a planted signal, known errors."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import xgboost
from scipy import integrate, stats

from tests.quant.histories import MARKET, closes_history, feature_table, one_month_models, random_walks, volatility_rows
from trading_dagster.quant.features import FEATURES
from trading_dagster.quant.forecasting import (
    HELD_OUT,
    HORIZON,
    ForecastModel,
    InsufficientTrainingError,
    StageModels,
    _slope_through_zero,
    fit_forecast_models,
    fit_stage_models,
    forecast,
    training_table,
)
from trading_dagster.quant.prices import PriceHistory

SESSIONS = 2150
FITTED = 1900
"""Sessions that the model sees; what follows is out of sample."""


def reverting_closes(symbols: int, sessions: int, seed: int) -> dict[str, np.ndarray]:
    """Closes whose next move undoes a part of the last five: the forecast's own feature, planted."""
    random = np.random.default_rng(seed)
    moves = np.zeros((sessions, symbols))
    for at in range(sessions):
        moves[at] = random.normal(0.0, 0.01, symbols) - 0.12 * moves[max(at - 5, 0) : at].sum(axis=0)
    values = 100.0 * np.exp(moves.cumsum(axis=0))
    return {f"S{column:04d}": values[:, column] for column in range(symbols)}


MONTH = pd.Timestamp("2030-01-01")


def stage_models(history: PriceHistory) -> StageModels:
    """Models of one month, fitted on all of the history."""
    return fit_stage_models(history, MONTH, history.sessions[-1], MARKET, "jump")


def fitted_model(history: PriceHistory, symbols: list[str] | None = None) -> ForecastModel:
    """Fit on all labels known at the end of the history."""
    ends = history.sessions[-1:]
    models = fit_stage_models(history, MONTH, ends[0], MARKET, "jump", symbols)
    return fit_forecast_models(history, MARKET, pd.DatetimeIndex([MONTH]), ends, models, symbols)[0]


def predicted(model: ForecastModel, history: PriceHistory, sessions: pd.DatetimeIndex) -> pd.DataFrame:
    models = stage_models(history.until(model.fitted_to))
    table, risk = feature_table(history, sessions, models), volatility_rows(history, sessions, models)
    return forecast(model.booster, model.parameters, table, risk, "forecast_model@2010-01-01")


def with_outcome(rows: pd.DataFrame, history: PriceHistory) -> pd.DataFrame:
    """Add the log return that followed each forecast."""
    log_price = np.log(history.total_return)
    place = {session: at for at, session in enumerate(history.sessions)}
    outcome = [
        log_price.iloc[place[row.session] + 5][row.symbol] - log_price.iloc[place[row.session]][row.symbol]
        for row in rows.itertuples()
    ]
    return rows.assign(outcome=outcome)


@pytest.fixture(scope="module")
def noise() -> PriceHistory:
    return closes_history(random_walks(10, SESSIONS, seed=21))


@pytest.fixture(scope="module")
def noise_model(noise: PriceHistory) -> ForecastModel:
    return fitted_model(noise.until(noise.sessions[FITTED - 1]))


@pytest.fixture(scope="module")
def noise_rows(noise: PriceHistory, noise_model: ForecastModel) -> pd.DataFrame:
    return predicted(noise_model, noise, noise.sessions[FITTED : SESSIONS - HORIZON])


@pytest.fixture(scope="module")
def signal() -> PriceHistory:
    return closes_history(reverting_closes(10, SESSIONS, seed=22))


@pytest.fixture(scope="module")
def signal_model(signal: PriceHistory) -> ForecastModel:
    return fitted_model(signal.until(signal.sessions[FITTED - 1]))


@pytest.fixture(scope="module")
def signal_rows(signal: PriceHistory, signal_model: ForecastModel) -> pd.DataFrame:
    return predicted(signal_model, signal, signal.sessions[FITTED : SESSIONS - HORIZON])


# -- fitting ------------------------------------------------------------------------------------------------------


def test_two_fits_give_the_same_bytes(signal: PriceHistory, signal_model: ForecastModel) -> None:
    again = fitted_model(signal.until(signal.sessions[FITTED - 1]))
    assert again.booster == signal_model.booster
    assert again.parameters == signal_model.parameters
    assert again.metrics == signal_model.metrics


def test_models_of_several_months_equal_those_fitted_one_by_one(signal: PriceHistory) -> None:
    # what a model knows ends at its own session, however much longer the history is that was given
    ends = signal.sessions[[FITTED - 22, FITTED - 1]]
    months, chosen = pd.DatetimeIndex(["2030-01-01", "2030-02-01"]), signal.symbols[2:]
    of_months = [fit_stage_models(signal, *each, MARKET, "jump", chosen) for each in zip(months, ends, strict=True)]
    models = StageModels(pd.concat([m.regime for m in of_months]), pd.concat([m.volatility for m in of_months]))
    together = fit_forecast_models(signal, MARKET, months, ends, models, chosen)
    for end, month, model in zip(ends, months, together, strict=True):
        (alone,) = fit_forecast_models(
            signal.until(end), MARKET, pd.DatetimeIndex([month]), pd.DatetimeIndex([end]), models.of(month), chosen
        )
        assert (model.booster, model.parameters, model.metrics) == (alone.booster, alone.parameters, alone.metrics)
        assert (model.rows, model.fitted_to) == (alone.rows, end)


def test_model_says_what_it_was_fitted_on(signal: PriceHistory, signal_model: ForecastModel) -> None:
    assert signal_model.fitted_to == signal.sessions[FITTED - 1]
    # ten symbols; every fifth session from the volatility's first, the 500th, to the last whose label is known
    assert signal_model.rows == 10 * len(range(500, FITTED - 5, 5))
    stored = json.loads(signal_model.parameters)
    assert stored["features"] == list(FEATURES)
    assert stored["horizon"] == 5
    assert len(stored["residual_quantiles"]) == 201
    assert np.all(np.diff(stored["residual_quantiles"]) >= 0.0)


def test_noise_gives_tiny_forecasts(noise_model: ForecastModel, noise_rows: pd.DataFrame) -> None:
    assert 0.0 <= noise_model.metrics["shrinkage"] <= 0.3
    assert noise_model.metrics["r2"] < 0.005
    # against a deviation of 1 % sqrt 5 of what happens
    assert noise_rows["expected_return"].abs().mean() < 0.02 * 0.01 * np.sqrt(5.0)


@pytest.mark.e2e  # five fits
def test_held_out_slope_is_not_measured_on_the_training_rows() -> None:
    # on pure noise the trees fit their own rows with a slope of one and more; held out it is zero on average
    slopes = []
    for seed in range(5):
        history = closes_history(random_walks(6, 1500, seed=100 + seed))
        slopes.append(fitted_model(history).metrics["slope"])
    assert abs(np.mean(slopes)) < 0.5


def test_labels_that_overlap_the_held_out_ones_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    history = closes_history(random_walks(3, 1500, seed=9))
    fitted_rows = []
    train = xgboost.train

    def recording(parameters: dict, matrix: xgboost.DMatrix, **rest: object) -> xgboost.Booster:
        fitted_rows.append(matrix.num_row())
        return train(parameters, matrix, **rest)

    monkeypatch.setattr(xgboost, "train", recording)
    fitted_model(history)
    labelled = len(range(500, 1500 - 5, 5))
    # two years held out, and the row before them
    assert fitted_rows == [3 * (labelled - 100 - 1), 3 * labelled]


def test_planted_signal_is_found(signal: PriceHistory, signal_model: ForecastModel, signal_rows: pd.DataFrame) -> None:
    assert signal_model.metrics["shrinkage"] > 0.6
    assert signal_model.metrics["information_coefficient"] > 0.15
    rows = with_outcome(signal_rows, signal)
    fit = stats.linregress(rows["expected_return"], rows["outcome"])
    assert fit.rvalue > 0.15
    # shrunk forecasts are honest in size: neither half nor twice what follows
    assert 0.6 < fit.slope < 1.7


def test_shrinkage_is_the_posterior_mean_of_the_slope(noise_model: ForecastModel, signal_model: ForecastModel) -> None:
    for model in (noise_model, signal_model):
        slope, error = model.metrics["slope"], model.metrics["slope_standard_error"]
        low, high = slope - 12.0 * error, slope + 12.0 * error

        def density(b: float, slope: float = slope, error: float = error) -> float:
            return stats.norm.pdf(b, 0.0, 0.5) * stats.norm.pdf(b, slope, error)

        total, _ = integrate.quad(density, low, high, points=[slope])
        first_moment, _ = integrate.quad(lambda b, f=density: b * f(b), low, high, points=[slope])
        assert model.shrinkage == pytest.approx(min(max(first_moment / total, 0.0), 1.0), abs=1e-6)


def test_a_model_that_is_wrong_out_of_sample_forecasts_zero() -> None:
    # the planted reversal turns into its opposite before the held-out sessions
    random = np.random.default_rng(5)
    moves = np.zeros((1900, 10))
    for at in range(1900):
        sign = -0.12 if at < 1900 - HORIZON * HELD_OUT else 0.12
        moves[at] = random.normal(0.0, 0.01, 10) + sign * moves[max(at - 5, 0) : at].sum(axis=0)
    values = 100.0 * np.exp(moves.cumsum(axis=0))
    history = closes_history({f"S{column}": values[:, column] for column in range(10)})
    model = fitted_model(history)
    assert model.metrics["slope"] < 0.0
    assert model.shrinkage == 0.0
    rows = predicted(model, history, history.sessions[-3:])
    assert (rows["expected_return"] == 0.0).all()


@pytest.mark.parametrize(("sessions", "enough"), [(500 + 5 * 150 + 1, True), (500 + 5 * 150, False)])
def test_three_years_of_labelled_sessions_are_needed(sessions: int, enough: bool) -> None:
    history = closes_history(random_walks(3, sessions, seed=4))
    if enough:
        assert fitted_model(history).rows == 3 * 150
    else:
        last = f"{history.sessions[-1]:%Y-%m-%d}"
        with pytest.raises(
            InsufficientTrainingError, match=rf"149 of every 5th session up to {last} .* 150 are needed"
        ):
            fitted_model(history)


def test_labels_are_the_scaled_moves_that_followed_and_are_cut(signal: PriceHistory) -> None:
    closes = {symbol: signal.close[symbol].to_numpy().copy() for symbol in signal.symbols}
    closes["S0000"][700:] *= 0.3
    history = closes_history(closes)
    models = stage_models(history)
    table = training_table(history, MARKET, models).set_index(["session", "symbol"])
    risk = volatility_rows(history, history.sessions, models)
    risk = risk.set_index(["session", "symbol"])["sigma_1d"]
    for at, symbol in ((505, "S0001"), (695, "S0000"), (900, "S0009"), (SESSIONS - 10, "S0003")):
        key = (history.sessions[at], symbol)
        move = np.log(closes[symbol][at + 5] / closes[symbol][at])
        expected = np.clip(move / (risk[key] * 5.0**0.5), -4.0, 4.0)
        assert table.loc[key, "label"] == pytest.approx(expected, rel=1e-9)
    assert table.loc[(history.sessions[695], "S0000"), "label"] == -4.0
    assert set(history.sessions.get_indexer(table.index.get_level_values("session")) % 5) == {0}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_slope_and_its_error_are_statsmodels_clustered_ones(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = [(day, symbol) for day in range(103) for symbol in range(8) if random.random() < 0.9]
    sessions = pd.Series(pd.Timestamp("2005-01-03") + pd.to_timedelta([7 * day for day, _ in rows], unit="D"))
    common = random.normal(size=103)
    prediction = np.array([random.normal() for _ in rows])
    label = 0.2 * prediction + np.array([common[day] for day, _ in rows]) + random.normal(size=len(rows))
    slope, error = _slope_through_zero(prediction, label, sessions)
    groups = np.array([day for day, _ in rows])
    fit = sm.OLS(label, prediction).fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    assert slope == pytest.approx(fit.params[0], rel=1e-10)
    assert error == pytest.approx(fit.bse[0], rel=1e-10)


def test_a_prediction_of_nothing_has_no_slope() -> None:
    sessions = pd.Series(pd.date_range("2005-01-03", periods=10))
    assert _slope_through_zero(np.zeros(10), np.arange(10.0), sessions) == (0.0, 0.0)


# -- forecasting --------------------------------------------------------------------------------------------------


def test_expected_return_is_the_shrunken_sum_of_the_leaves(
    signal: PriceHistory, signal_model: ForecastModel, signal_rows: pd.DataFrame
) -> None:
    booster = xgboost.Booster()
    booster.load_model(bytearray(signal_model.booster))
    base = json.loads(booster.save_config())["learner"]["learner_model_param"]["base_score"]
    trees = {number: tree.set_index("ID") for number, tree in booster.trees_to_dataframe().groupby("Tree")}
    session = signal.sessions[FITTED + 17]
    alone = pd.DatetimeIndex([session])
    models = stage_models(signal.until(signal_model.fitted_to))
    table = feature_table(signal, alone, models).set_index("symbol")
    sigma = volatility_rows(signal, alone, models).set_index("symbol")["sigma_1d"]
    found = signal_rows[signal_rows["session"] == session].set_index("symbol")["expected_return"]
    for symbol in ("S0000", "S0004", "S0009"):
        total = float(base.strip("[]"))
        for number, tree in trees.items():
            node = tree.loc[f"{number}-0"]
            while node["Feature"] != "Leaf":
                left = np.float32(table.loc[symbol, node["Feature"]]) < np.float32(node["Split"])
                node = tree.loc[node["Yes"] if left else node["No"]]
            total += node["Gain"]
        expected = signal_model.shrinkage * total * sigma[symbol] * 5.0**0.5
        assert found[symbol] == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_interval_and_probability_follow_from_the_errors(
    signal: PriceHistory, signal_model: ForecastModel, signal_rows: pd.DataFrame
) -> None:
    quantiles = np.array(json.loads(signal_model.parameters)["residual_quantiles"])
    uniform = np.random.default_rng(3).random(300_000) * 200.0
    below = np.floor(uniform).astype(int)
    errors = quantiles[below] + (uniform - below) * (quantiles[below + 1] - quantiles[below])
    models = stage_models(signal.until(signal_model.fitted_to))
    sigma = volatility_rows(signal, signal.sessions, models).set_index(["session", "symbol"])["sigma_1d"]
    for row in signal_rows.iloc[[0, 777, 1500]].itertuples():
        outcomes = row.expected_return + errors * sigma[(row.session, row.symbol)] * 5.0**0.5
        assert row.p_up == pytest.approx(np.mean(outcomes > 0.0), abs=0.004)
        assert np.mean(outcomes < row.lower) == pytest.approx(0.05, abs=0.002)
        assert np.mean(outcomes > row.upper) == pytest.approx(0.05, abs=0.002)
        assert row.confidence == pytest.approx(2.0 * max(row.p_up, 1.0 - row.p_up) - 1.0)


@pytest.mark.parametrize("kind", ["noise", "signal"])
def test_nine_of_ten_outcomes_lie_within_the_interval(kind: str, request: pytest.FixtureRequest) -> None:
    rows = with_outcome(request.getfixturevalue(f"{kind}_rows"), request.getfixturevalue(kind))
    inside = rows["outcome"].between(rows["lower"], rows["upper"])
    # 2,450 overlapping outcomes of ten symbols are worth some 490: a standard error of 1.4 points
    assert inside.mean() == pytest.approx(0.90, abs=0.04)
    assert (rows["lower"] < rows["expected_return"]).all()
    assert (rows["expected_return"] < rows["upper"]).all()


def test_probability_of_a_rise_is_calibrated(signal: PriceHistory, signal_rows: pd.DataFrame) -> None:
    rows = with_outcome(signal_rows, signal)
    likely = rows["p_up"] > rows["p_up"].quantile(0.8)
    unlikely = rows["p_up"] < rows["p_up"].quantile(0.2)
    for part in (rows[likely], rows[unlikely]):
        assert (part["outcome"] > 0.0).mean() == pytest.approx(part["p_up"].mean(), abs=0.08)
    assert (rows[likely]["outcome"] > 0.0).mean() > (rows[unlikely]["outcome"] > 0.0).mean()


def test_rows_are_complete_and_sorted(signal_rows: pd.DataFrame) -> None:
    assert len(signal_rows) == 10 * (SESSIONS - HORIZON - FITTED)
    keys = list(signal_rows[["session", "symbol"]].itertuples(index=False, name=None))
    assert keys == sorted(keys)
    assert signal_rows["horizon"].unique().tolist() == [5]
    assert signal_rows["model"].unique().tolist() == ["forecast_model@2010-01-01"]
    assert signal_rows["p_up"].between(0.0, 1.0).all()


def test_a_missing_feature_names_symbol_session_and_features() -> None:
    history = closes_history(random_walks(4, 1280, seed=4) | {"STILL": np.full(1280, 8.0)})
    model = fitted_model(history.select([s for s in history.symbols if s != "STILL"]))
    last = f"{history.sessions[-1]:%Y-%m-%d}"
    with pytest.raises(ValueError, match=rf"STILL at {last} has no value for momentum_21, .*sigma_ratio; "):
        predicted(model, history, history.sessions[-1:])


@pytest.mark.parametrize(
    ("stored", "difference"),
    [
        pytest.param([*FEATURES, "moon_phase"], "moon_phase", id="one_more"),
        pytest.param(list(FEATURES)[1:], "momentum_21", id="one_less"),
        pytest.param(list(FEATURES)[::-1], "their order", id="another_order"),
    ],
)
def test_a_model_of_other_features_is_refused(
    noise: PriceHistory, noise_model: ForecastModel, stored: list[str], difference: str
) -> None:
    parameters = json.dumps(json.loads(noise_model.parameters) | {"features": stored})
    last = noise.sessions[-1:]
    with pytest.raises(ValueError, match=rf"difference: {difference}\).* --partition 2010-01-01$"):
        forecast(
            noise_model.booster,
            parameters,
            feature_table(noise, last),
            volatility_rows(noise, last, one_month_models(noise)),
            "forecast_model@2010-01-01",
        )
