"""Backtests of value at risk and expected shortfall: how often, how clustered and how large losses beyond them were.

Belongs here: the tests and a report of them over many symbols. Does not belong here: the forecasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from trading_dagster.quant.hit_distributions import (
    conditional_coverage_distribution,
    coverage_distribution,
    coverage_ratio,
    independence_distribution,
    independence_ratio,
)

Floats = NDArray[np.float64]
Hits = NDArray[np.bool_]

SIMULATIONS = 100_000
SIMULATIONS_AT_ONCE = 10_000
SEED = 2014
NULL_DEGREES_OF_FREEDOM = 5.0
"""Student-t whose tail stands for that of the losses in the distribution of Acerbi and Szekely's statistic."""

EXPONENTIAL_SHARE = float(np.log(5.0 / 2.5) / np.log(5.0 / 1.0))

NOT_TESTED = "not tested"


@dataclass(frozen=True)
class LikelihoodRatio:
    """A likelihood ratio and the probability of one at least as large where the hypothesis holds."""

    statistic: float
    p_value: float


@dataclass(frozen=True)
class Christoffersen:
    """Tests of independence and of conditional coverage, which is the right share and independence together."""

    independence: LikelihoodRatio
    conditional_coverage: LikelihoodRatio


@dataclass(frozen=True)
class AcerbiSzekely:
    """Statistics of an expected shortfall, below 0 where losses are larger than it says.

    Attributes
    ----------
    z1 : float
        Of the size of the losses beyond the quantile; missing where there are none.
    z2 : float
        Of their number and size together.
    p_value : float
        Probability of a z2 as low, one-sided.
    """

    z1: float
    z2: float
    p_value: float


def kupiec(hits: Hits, probability: float) -> LikelihoodRatio:
    """Test that the share of hits is `probability`.

    Parameters
    ----------
    hits : ndarray of bool, shape (n,)
        Whether the loss of each session was beyond the value at risk.
    probability : float
        Of a hit, such as 0.01.

    Returns
    -------
    LikelihoodRatio
        Its p-value is exact: the binomial probability of all numbers of hits whose ratio is at least as large.

    Raises
    ------
    ValueError
        If there is no session.

    Notes
    -----
    The ratio is chi-squared with one degree of freedom in the limit only: at 250 sessions and 1 % that would reject
    9.5 % of right forecasts at a level of 5 %, 250 sessions without a hit among them.

    References
    ----------
    .. [1] Kupiec, P. H. (1995). "Techniques for verifying the accuracy of risk measurement models". Journal of
       Derivatives 3(2), 73-84.
    """
    count, beyond = len(hits), int(np.count_nonzero(hits))
    if not count:
        raise ValueError("no sessions to count hits in; a backtest needs at least one")
    statistic = float(coverage_ratio(count, beyond, probability))
    return LikelihoodRatio(statistic, coverage_distribution(count, probability).at_least(statistic))


def christoffersen(hits: Hits, probability: float) -> Christoffersen:
    """Test that hits do not follow each other, and that they also have the right share.

    Parameters
    ----------
    hits, probability
        As for `kupiec`, in the order of the sessions.

    Returns
    -------
    Christoffersen

    Raises
    ------
    ValueError
        If there is no session.

    Notes
    -----
    Independence is tested against a first-order Markov chain; conditional coverage is the sum of its ratio and
    Kupiec's, as all books have it: the likelihood of the first hit, on which the chain is conditioned, counts in the
    latter only. Both p-values are exact, by enumeration of runs. That of independence is given the number of hits, of
    which each order is as likely as any other: it holds whatever their probability. That of conditional coverage is
    over all numbers of hits, which are binomial. At a level of 5 % right
    forecasts fail conditional coverage in 3.0 % of 250 and 3.8 % of 1,000 sessions (with chi-squared p-values 0.8 and
    2.6 %), independence in 1.3 %: a few hits have few orders.

    References
    ----------
    .. [1] Christoffersen, P. F. (1998). "Evaluating interval forecasts". International Economic Review 39(4), 841-862.
    """
    before, after = hits[:-1], hits[1:]
    quiet, first, last, both = (
        int(np.count_nonzero(pair)) for pair in (~before & ~after, ~before & after, before & ~after, before & after)
    )
    chained = float(independence_ratio(quiet, first, last, both))
    total = chained + kupiec(hits, probability).statistic
    count, beyond = len(hits), int(np.count_nonzero(hits))
    return Christoffersen(
        LikelihoodRatio(chained, independence_distribution(count, beyond).at_least(chained)),
        LikelihoodRatio(total, conditional_coverage_distribution(count, probability).at_least(total)),
    )


def acerbi_szekely(returns: Floats, value_at_risk: Floats, shortfall: Floats, tail: float = 0.025) -> AcerbiSzekely:
    """Test that losses beyond the value at risk are as many and as large as the shortfall says.

    Parameters
    ----------
    returns : ndarray, shape (n,)
        Of each session, losses negative.
    value_at_risk, shortfall : ndarray, shape (n,)
        Forecast for it, of one tail probability, as positive losses.
    tail : float
        The probability.

    Returns
    -------
    AcerbiSzekely

    Raises
    ------
    ValueError
        If there is no session, or a shortfall is not above 0.

    Notes
    -----
    With ``I = [X + VaR < 0]``, ``Z1 = sum(X I / ES) / sum(I) + 1`` and ``Z2 = sum(X I / ES) / (n tail) + 1``; both are
    0 on average where the forecasts are right [1]_. The p-value counts 100,000 simulated values of Z2, of a fixed
    seed: the number of hits binomial, their sizes those of a Student-t with 5 degrees of freedom beyond its own
    quantile. The paper shows that the tail hardly matters: at 250 sessions its 5 % critical value is -0.70 for normal
    and -0.74 for such losses, and so it is here; at 1,000 sessions it is -0.36.

    References
    ----------
    .. [1] Acerbi, C. and Szekely, B. (2014). "Backtesting expected shortfall". Risk, December 2014, eqs. 4 and 6 and
       table 4.
    """
    if not len(returns):
        raise ValueError("no sessions to test an expected shortfall in; a backtest needs at least one")
    if not (shortfall > 0.0).all():
        at = int(np.flatnonzero(~(shortfall > 0.0))[0])
        raise ValueError(f"expected shortfall {shortfall[at]:g} at position {at} is not above 0; give positive losses")
    hits = returns < -value_at_risk
    total = float(np.sum(returns[hits] / shortfall[hits]))
    z1 = total / np.count_nonzero(hits) + 1.0 if hits.any() else np.nan
    z2 = total / (len(returns) * tail) + 1.0
    null = _simulated_z2(len(returns), tail)
    # with the observed one among them no p-value is 0
    return AcerbiSzekely(float(z1), z2, float((np.searchsorted(null, z2, side="right") + 1) / (len(null) + 1)))


def coverage_report(
    losses: pd.DataFrame,
    var_99: pd.DataFrame,
    es_975: pd.DataFrame,
    *,
    var_95: pd.DataFrame,
    windows: Sequence[int] = (250, 1000),
) -> pd.DataFrame:
    """Test the forecasts of many symbols over their last sessions.

    Parameters
    ----------
    losses : DataFrame
        Sessions by symbols: what was lost in each session as a fraction of the position, gains negative.
    var_99, es_975, var_95 : DataFrame
        Of the same shape: what was forecast *for* that session, so made the session before. Missing where there is no
        forecast.
    windows : sequence of int
        Numbers of the last forecasts to test.

    Returns
    -------
    DataFrame
        One row a symbol, test (``var_kupiec``, ``var_independence``, ``var_christoffersen``, ``es_acerbi_szekely``)
        and window: symbol, test, window, forecasts (how many there are, up to the window), hits (losses beyond
        var_99; for the shortfall, beyond the quantile of 97.5 %), p_value, p_holm and status: ``tested``, or
        ``not tested`` where there are fewer forecasts than the window or one of them is 0, with p-values missing.
        A symbol fails a test at a level where its p_holm is below it.

    Notes
    -----
    Holm's correction [1]_ is over all symbols and windows that were tested, for each test: where all forecasts are
    right, the chance that any symbol fails the test in any window is at most the level, whatever the dependence
    between symbols and between windows, of which the longer holds the shorter. The quantile of 97.5 %, beyond which
    the shortfall is tested, is put between those of 95 and 99 % as if the tail were exponential, which is within
    2 % of it for normal and Student-t tails.

    References
    ----------
    .. [1] Holm, S. (1979). "A simple sequentially rejective multiple test procedure". Scandinavian Journal of
       Statistics 6(2), 65-70.
    """
    var_975 = var_95 + EXPONENTIAL_SHARE * (var_99 - var_95)
    found: list[tuple[object, ...]] = []
    for symbol in losses.columns:
        columns = [frame[symbol].to_numpy(dtype="float64") for frame in (losses, var_99, es_975, var_975)]
        known = np.all(np.isfinite(columns), axis=0)
        own = np.stack(columns)[:, known]
        for window in windows:
            last = own[:, -window:]
            found += [(symbol, test, window, last.shape[1], *result) for test, *result in _symbol_tests(last, window)]
    report = pd.DataFrame(found, columns=["symbol", "test", "window", "forecasts", "hits", "p_value"])
    report["p_holm"] = report.groupby("test", sort=False)["p_value"].transform(holm)
    report["status"] = np.where(report["p_value"].notna(), "tested", NOT_TESTED)
    return report


def _symbol_tests(rows: Floats, window: int) -> Iterator[tuple[str, int, float]]:
    """Name, hits and p-value of each test of one symbol, by rows losses, var_99, es_975 and var_975 of its sessions."""
    losses, var_99, es_975, var_975 = rows
    hits = losses > var_99
    count = int(np.count_nonzero(hits))
    # a forecast of 0 says that nothing can be lost: a constant price, of which there is nothing to test
    testable = len(losses) == window and bool((es_975 > 0.0).all())
    chain = christoffersen(hits, 0.01) if testable else None
    yield "var_kupiec", count, kupiec(hits, 0.01).p_value if testable else np.nan
    yield "var_independence", count, chain.independence.p_value if chain else np.nan
    yield "var_christoffersen", count, chain.conditional_coverage.p_value if chain else np.nan
    beyond = int(np.count_nonzero(losses > var_975))
    yield "es_acerbi_szekely", beyond, acerbi_szekely(-losses, var_975, es_975).p_value if testable else np.nan


def holm(p_values: pd.Series) -> pd.Series:
    """Holm's adjusted p-values, missing ones left out."""
    known = p_values.dropna().sort_values(kind="stable")
    steps = known * np.arange(len(known), 0, -1)
    return steps.cummax().clip(upper=1.0).reindex(p_values.index)


@lru_cache(maxsize=16)
def _simulated_z2(sessions: int, tail: float) -> Floats:
    """Sorted values of Z2 under right forecasts with Student-t losses."""
    random = np.random.default_rng(SEED)
    # interpolated in logarithms, in which the tail is a line, to 1e-6: the inverse itself is a hundred times slower
    shares = np.linspace(np.log(1e-12), 0.0, 4001)
    logs = np.log(-stdtrit(NULL_DEGREES_OF_FREEDOM, tail * np.exp(shares)))
    # of a fine grid of the tail, the mean is the shortfall
    grid = tail * (np.arange(100_000) + 0.5) / 100_000
    shortfall = float(-stdtrit(NULL_DEGREES_OF_FREEDOM, grid).mean())
    totals = []
    for _ in range(SIMULATIONS // SIMULATIONS_AT_ONCE):
        counts = random.binomial(sessions, tail, SIMULATIONS_AT_ONCE)
        drawn = np.log(1.0 - random.random(int(counts.sum())))
        sizes = np.exp(np.interp(drawn, shares, logs))
        # the sum of each simulation, also of those without a hit
        totals.append(np.diff(np.concatenate([[0.0], np.cumsum(sizes)])[np.concatenate([[0], np.cumsum(counts)])]))
    return np.sort(1.0 - np.concatenate(totals) / shortfall / (sessions * tail))
