"""Regime models on simulated chains and on the S&P 500, beside the filter that knows the truth, a package and rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pandas as pd
from arch.bootstrap import StationaryBootstrap
from jumpmodels.jump import JumpModel
from numpy.typing import NDArray
from skfolio.datasets import load_sp500_index

from benchmarks.marks import Mark
from tests.quant.chains import GAUSSIAN, STUDENT, Design, oracle_probability, simulate
from tests.quant.histories import closes_history
from trading_dagster.quant.hidden_markov import filtered_probability, fit_student_chain, with_hysteresis
from trading_dagster.quant.jump_model import JUMP_PENALTY, feature_scale, fit_jump_model, value_differences
from trading_dagster.quant.prices import PriceHistory
from trading_dagster.quant.regime import fit_regime_models, regime
from trading_dagster.quant.regime_features import downside_features, simple_returns
from trading_dagster.quant.regime_models import REGIME_MODELS, StatisticalJump

MARKET = "MARKET"
SEED = 2026
SERIES = 300
OUT_OF_SAMPLE = pd.Timestamp("1997-11-28")
DELAY = 2
"""The state at the close of t is held over the return of t + 2: one day of delay to trade."""

COST = 0.001
RESAMPLES = 2000
BLOCK = 126
PENALTIES = (25.0, 35.0, 70.0, 100.0)
WINDOWS = (1000, 2000, 8400)
"""Sessions of the fit beside the 3,000 in use; the last is all that there is."""

DESIGN_WINDOW = 2000
"""Sessions that simulated chains are fitted on, and that the first model of the S&P 500 has."""

RELIABILITY = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def marks() -> Iterator[Mark]:
    yield from _chains("Gaussian chain, scales 0.7/1.75 %, 200/100 sessions", GAUSSIAN)
    yield from _chains("t(4) chain, scales 0.7/1.4 %, 200/100 sessions", STUDENT)
    yield from _chains("t(4) chain of the Gaussian's scales", Design(0.007, 0.0175, 200.0, 100.0, 4.0))
    yield from _package()
    yield from _strategies()


# Simulated chains


@dataclass(frozen=True)
class _Counts:
    """Of each series: sessions and hits of either state, and switches."""

    turbulent: Floats
    turbulent_hit: Floats
    calm: Floats
    calm_hit: Floats
    switches: Floats

    def accuracy(self, which: NDArray[np.intp]) -> float:
        turbulent = self.turbulent_hit[which].sum() / self.turbulent[which].sum()
        return float((turbulent + self.calm_hit[which].sum() / self.calm[which].sum()) / 2.0)


def _counts(states: Bools, truth: Bools) -> _Counts:
    hit = states == truth
    switches = (states[1:] != states[:-1]).sum(axis=0)
    parts = (truth, hit & truth, ~truth, hit & ~truth)
    return _Counts(*(part.sum(axis=0).astype(float) for part in parts), switches.astype(float))


def _error(figure: Callable[[NDArray[np.intp]], float]) -> str:
    """The figure over all series with the standard error of drawing series anew."""
    random = np.random.default_rng(SEED)
    draws = [figure(random.integers(0, SERIES, SERIES)) for _ in range(400)]
    return f"{figure(np.arange(SERIES)):.3f} +- {np.std(draws):.3f}"


def _chains(what: str, design: Design) -> Iterator[Mark]:
    """Fit on 2,000 sessions, judge the states of the next 2,000, as they would have been told on each day."""
    returns, truth = simulate(design, 2 * DESIGN_WINDOW, SERIES, SEED)
    later = slice(DESIGN_WINDOW, None)
    oracle = _counts((oracle_probability(design, returns) > 0.5)[later], truth[later])
    whole = _counts(truth[later], truth[later])
    everyone = np.arange(SERIES)
    known = f"oracle {_error(oracle.accuracy)}, {_ratio(oracle, whole)(everyone):.2f} x the true switches"
    found = {
        "t-HMM with hysteresis": _markov(returns),
        "jump model": _jump(downside_features(_with_first(returns))[:, 1:]),
        "jump model, downside deviations of 10, 20, 60 instead of Sortino ratios": _jump(_deviations(returns)),
    }
    for name, states in found.items():
        ours = _counts(states[later], truth[later])
        marked = not name.startswith("jump model,")
        share = _relative(ours, oracle)
        yield Mark(
            f"{what}: balanced accuracy of the {name}, relative to the oracle filter's",
            ">= 0.98" if marked else "",
            f"{ours.accuracy(everyone):.3f}; relative {_error(share)}",
            share(everyone) >= 0.98 if marked else None,
            known,
        )
        switches = _ratio(ours, whole)
        yield Mark(
            f"{what}: switches of the {name} over the true ones",
            "0.7 to 1.3" if marked else "",
            _error(switches),
            bool(0.7 <= switches(everyone) <= 1.3) if marked else None,
            f"true {252.0 * whole.switches.mean() / DESIGN_WINDOW:.2f} a year",
        )


def _relative(ours: _Counts, oracle: _Counts) -> Callable[[NDArray[np.intp]], float]:
    return lambda which: ours.accuracy(which) / oracle.accuracy(which)


def _ratio(ours: _Counts, truth: _Counts) -> Callable[[NDArray[np.intp]], float]:
    return lambda which: float(ours.switches[which].sum() / truth.switches[which].sum())


def _with_first(returns: Floats) -> Floats:
    return np.concatenate([np.full((1, returns.shape[1]), np.nan), returns])


def _markov(returns: Floats) -> Bools:
    moves = returns / np.abs(returns[:DESIGN_WINDOW]).mean(axis=0)
    known = np.ones(moves.shape, dtype=bool)
    fit = fit_student_chain(np.ascontiguousarray(moves[:DESIGN_WINDOW]), known[:DESIGN_WINDOW])
    return with_hysteresis(filtered_probability(moves, known, fit.chain))


def _jump(features: Floats) -> Bools:
    window = np.ascontiguousarray(features[:, :DESIGN_WINDOW])
    scale, known = feature_scale(window), np.isfinite(features[0])
    fit = fit_jump_model(scale.apply(window), known[:DESIGN_WINDOW])
    return value_differences(scale.apply(features), known, fit.centres) < 0.0


def _deviations(returns: Floats) -> Floats:
    """Downside deviations alone; the slower two with a minus, since the starts take Sortino ratios there."""
    losses = pd.DataFrame(np.square(np.minimum(returns, 0.0)))
    found = np.stack([np.sqrt(losses.ewm(halflife=h).mean().to_numpy()) for h in (10, 20, 60)])
    found[1:] *= -1.0
    found[:, :20] = np.nan
    return found


# The package


def _package() -> Iterator[Mark]:
    """Same windows of the S&P 500, same scaled features, the package's ten random starts."""
    returns = simple_returns(load_sp500_index())
    ends = np.arange(DESIGN_WINDOW + 100, len(returns), 105)
    rows = ends - DESIGN_WINDOW + np.arange(DESIGN_WINDOW)[:, None]
    features = np.ascontiguousarray(downside_features(returns)[:, rows, 0])
    scaled, known = feature_scale(features).apply(features), np.isfinite(features[0])
    begun = time.perf_counter()
    fit = fit_jump_model(scaled, known)
    ours = time.perf_counter() - begun
    online = value_differences(scaled, known, fit.centres) < 0.0
    begun, excess, same, unlike = time.perf_counter(), [], [], 0
    for at in range(len(ends)):
        window = np.ascontiguousarray(scaled[..., at].T)
        model = JumpModel(n_components=2, jump_penalty=JUMP_PENALTY, cont=False, random_state=0).fit(window)
        excess.append(fit.objective[at] - model.val_)
        calm = int(np.argmin(model.centers_[:, 0]))
        same.append(float(((np.asarray(model.predict_online(window)) != calm) == online[:, at]).mean()))
        model.centers_ = fit.centres[..., at].copy()
        unlike += int(((np.asarray(model.predict_online(window)) == 1) != online[:, at]).sum())
    package = time.perf_counter() - begun
    above = int((np.array(excess) > 1e-6).sum())
    below = int((np.array(excess) < -1e-6).sum())
    yield Mark(
        f"Jump model against `jumpmodels`, {len(ends)} windows of the S&P 500: objective",
        "mean not above the package's",
        f"mean difference {np.mean(excess):+.3f} of {np.mean(fit.objective):.0f}; lower in {below}, higher in {above}",
        bool(np.mean(excess) <= 1e-6),
        f"largest {max(excess):+.2f}, least {min(excess):+.2f}; {1e3 * package / len(ends):.0f} ms a fit, "
        f"ours {1e3 * ours / len(ends):.1f} ms",
    )
    yield Mark(
        f"Same: sessions of {online.size} whose online state is not that of `predict_online` with our centres",
        "0",
        str(unlike),
        unlike == 0,
        f"with the package's own centres {1.0 - np.mean(same):.2%} differ",
    )


# The S&P 500


def _strategies() -> Iterator[Mark]:
    prices = load_sp500_index()["SP500"]
    history = closes_history({"SPX": prices.to_numpy()}, pd.DatetimeIndex(prices.index).as_unit("us"))
    returns = prices.pct_change().to_numpy()
    yield _reliability(history)
    begin = int(history.sessions.searchsorted(OUT_OF_SAMPLE))
    holdings = {
        "buy and hold": np.ones(len(prices)),
        "MA200": (prices > prices.rolling(200).mean()).to_numpy(dtype=float),
        "jump model": _calm(history, "jump"),
        "t-HMM": _calm(history, "hmm"),
    }
    for penalty in PENALTIES:
        with patch.dict(REGIME_MODELS, {"jump": StatisticalJump(penalty)}):
            holdings[f"jump model, penalty {penalty:.0f}"] = _calm(history, "jump")
    for window in WINDOWS:
        with patch("trading_dagster.quant.regime.FIT_WINDOW", window):
            holdings[f"jump model, fitted on {window} sessions"] = _calm(history, "jump")
    held = {name: _delayed(weights)[begin:] for name, weights in holdings.items()}
    earned = pd.DataFrame({name: _earned(weights, returns[begin:]) for name, weights in held.items()})
    interval = _intervals(earned)
    sharpes, drawdowns = _sharpe(earned.to_numpy()), _drawdown(earned.to_numpy())
    wanted = {
        "buy and hold": ("0.38, -56.8 %", None),
        "MA200": ("0.45, -25.4 %", None),
        "jump model": (">= 0.45, >= -23.7 %, turnover <= 0.46", (0.445, -0.2375, 0.465)),
    }
    for at, name in enumerate(earned):
        turnover = 252.0 * np.abs(np.diff(held[name])).sum() / 2.0 / len(earned)
        mark, bounds = wanted.get(name, ("", None))
        met = None
        if bounds:
            met = bool(sharpes[at] >= bounds[0] and drawdowns[at] >= bounds[1] and turnover <= bounds[2])
        yield Mark(
            f"S&P 500, {OUT_OF_SAMPLE:%Y-%m-%d} to 2022, {name}: Sharpe, largest drawdown, turnover a year",
            mark,
            f"{sharpes[at]:.2f} {interval('sharpe', at)}, {drawdowns[at]:.1%}, {turnover:.2f}, invested "
            f"{held[name].mean():.0%}",
            met,
            ""
            if not at
            else f"less buy and hold: Sharpe {sharpes[at] - sharpes[0]:+.2f} {interval('gain', at)}, "
            f"drawdown {drawdowns[at] - drawdowns[0]:+.1%} {interval('shallower', at)}",
        )


def _rows(history: PriceHistory, model: str) -> pd.DataFrame:
    """Rows of the S&P 500 from the first model on."""
    months, fitted_to = _months(history, DESIGN_WINDOW - 10)
    models = fit_regime_models(history, months, fitted_to, MARKET, model)
    rows = regime(history, history.sessions[history.sessions >= months[0]], MARKET, models)
    return rows[rows["symbol"] == "SPX"].set_index("session")


def _reliability(history: PriceHistory) -> Mark:
    """Of the jump model's probabilities, how often hindsight agreed: one fit to all sessions, which looks ahead."""
    rows = _rows(history, "jump")
    features = np.ascontiguousarray(downside_features(simple_returns(history.total_return[["SPX"]])))
    scale, known = feature_scale(features), np.isfinite(features[0])
    truth = fit_jump_model(scale.apply(features), known).states[-len(rows) :, 0]
    told = rows["prob_turbulent"].to_numpy()
    number = np.digitize(told, RELIABILITY[1:-1])
    found = [
        f"told {low:.1f} to {high:.1f} ({(number == at).sum()} sessions): {truth[number == at].mean():.2f}"
        for at, (low, high) in enumerate(pairwise(RELIABILITY))
    ]
    brier, flat = np.mean((told - truth) ** 2), np.mean((truth.mean() - truth) ** 2)
    return Mark(
        "S&P 500: share of sessions that hindsight calls turbulent, by the jump model's probability",
        "",
        "; ".join(found) + f"; Brier score {brier:.3f}",
        None,
        f"always the mean: {flat:.3f}",
    )


def _calm(history: PriceHistory, model: str) -> Floats:
    """1 where the S&P 500 was told to be calm at the close, 1 before the first model."""
    rows = _rows(history, model)
    return (rows["regime"] == "calm").astype(float).reindex(history.sessions, fill_value=1.0).to_numpy()


def _months(history: PriceHistory, first: int) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Months that begin after position `first`, and the last sessions before them."""
    sessions = history.sessions
    starts = [month.start_time for month in sessions.to_period("M").unique()]
    starts = [start for start in starts if sessions.searchsorted(start) > first]
    before = [sessions[sessions.searchsorted(start) - 1] for start in starts]
    return pd.DatetimeIndex(starts).as_unit("us"), pd.DatetimeIndex(before).as_unit("us")


def _delayed(weights: Floats) -> Floats:
    return np.concatenate([np.ones(DELAY), weights[:-DELAY]])


def _earned(held: Floats, returns: Floats) -> Floats:
    """Daily returns after costs; cash earns nothing."""
    return held * returns - COST * np.abs(np.diff(held, prepend=held[0]))


def _sharpe(earned: Floats) -> Floats:
    return earned.mean(axis=0) / earned.std(axis=0) * np.sqrt(252.0)


def _drawdown(earned: Floats) -> Floats:
    wealth = np.cumprod(1.0 + earned, axis=0)
    return (wealth / np.maximum.accumulate(np.maximum(wealth, 1.0), axis=0) - 1.0).min(axis=0)


def _intervals(earned: pd.DataFrame) -> Callable[[str, int], str]:
    """95 % intervals of all figures from the same resamples of the sessions."""
    count = earned.shape[1]

    def figures(sample: Floats) -> Floats:
        sharpe, drawdown = _sharpe(sample), _drawdown(sample)
        return np.concatenate([sharpe, sharpe - sharpe[0], drawdown - drawdown[0]])

    bootstrap = StationaryBootstrap(BLOCK, earned.to_numpy(), seed=SEED)
    low, high = np.quantile(bootstrap.apply(figures, RESAMPLES), [0.025, 0.975], axis=0)
    start = {"sharpe": 0, "gain": count, "shallower": 2 * count}
    return lambda name, at: f"[{low[start[name] + at]:+.2f}, {high[start[name] + at]:+.2f}]"
