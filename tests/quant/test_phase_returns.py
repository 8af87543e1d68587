"""Returns by phase against planted ones, and their errors against statsmodels' panel covariance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.stats.sandwich_covariance import cov_nw_groupsum

from tests.quant.histories import closes_history, random_walks, weekdays
from trading_dagster.quant.phase_returns import phase_returns
from trading_dagster.quant.prices import PriceHistory


def phases_of(history: PriceHistory, cycle: int, phases: np.ndarray) -> pd.DataFrame:
    """Rows as `phasing` gives them; phases of sessions by symbols."""
    count = len(history.symbols)
    return pd.DataFrame(
        {
            "session": np.repeat(history.sessions, count),
            "symbol": np.tile(history.symbols, len(history.sessions)),
            "cycle": np.int16(cycle),
            "phase": phases.reshape(-1),
        }
    )


def test_known_wave_gives_its_own_moves() -> None:
    # a wave of 40 bars whose phase is told rightly: over a quarter of it the first bin gains, the fifth loses
    phase = np.arange(400) / 40.0 % 1.0
    history = closes_history({"A": np.exp(4.0 - 0.05 * np.cos(2.0 * np.pi * phase))})
    table = phase_returns(phases_of(history, 40, phase[:, None]), history, history.sessions[-1], bins=4)
    quarter = np.arange(0, 10) / 40.0
    move = 0.05 * (np.cos(2.0 * np.pi * quarter) - np.cos(2.0 * np.pi * (quarter + 0.25)))
    assert table["cycle"].tolist() == [40] * 4
    assert table["bin"].tolist() == [0, 1, 2, 3]
    assert table.loc[0, "mean"] == pytest.approx(move.mean(), rel=1e-9)
    assert table.loc[2, "mean"] == pytest.approx(-move.mean(), rel=1e-9)
    # the last ten sessions' outcomes are not known
    assert table["count"].sum() == 390


@pytest.mark.parametrize("cycle", [20, 80])
def test_errors_are_those_of_driscoll_and_kraay(cycle: int) -> None:
    history = closes_history(random_walks(6, 500, seed=3))
    random = np.random.default_rng(1)
    phases = (np.arange(500)[:, None] / cycle + random.random(6)) % 1.0
    table = phase_returns(phases_of(history, cycle, phases), history, history.sessions[-1], bins=5)
    horizon = cycle // 4
    log_price = np.log(history.close.to_numpy())
    outcome = (log_price[horizon:] - log_price[:-horizon]).reshape(-1)
    bins = np.floor(phases[:-horizon].reshape(-1) * 5).astype(int)
    fit = sm.OLS(outcome, np.eye(5)[bins]).fit()
    time = np.repeat(np.arange(500 - horizon), 6)
    covariance = cov_nw_groupsum(fit, 2 * horizon, time, use_correction=0)
    np.testing.assert_allclose(table["mean"], fit.params, rtol=1e-9)
    np.testing.assert_allclose(table["standard_error"], np.sqrt(np.diag(covariance)), rtol=1e-9)
    np.testing.assert_array_equal(table["count"], np.bincount(bins))


def test_errors_cover_the_truth_where_returns_overlap() -> None:
    # phases that linger tell nothing: nine in ten intervals hold 0; errors without the overlap would hold six
    inside = []
    for seed in range(40):
        history = closes_history(random_walks(1, 1500, seed=seed))
        phases = (np.arange(1500) / 40.0 + seed / 7.0) % 1.0
        table = phase_returns(phases_of(history, 40, phases[:, None]), history, history.sessions[-1])
        inside.append((table["mean"] / table["standard_error"]).abs() < 1.645)
    assert np.mean(inside) == pytest.approx(0.87, abs=0.06)


def test_outcomes_after_the_session_are_not_used() -> None:
    closes = random_walks(2, 300, seed=5)
    history = closes_history(closes)
    rows = phases_of(history, 20, np.random.default_rng(2).random((300, 2)))
    session = history.sessions[200]
    changed = closes_history({name: np.where(np.arange(300) > 200, 2.0 * v, v) for name, v in closes.items()})
    found = phase_returns(rows, history, session)
    assert found["count"].sum() == 2 * (201 - 5)
    for other in (changed, history.until(session)):
        pd.testing.assert_frame_equal(phase_returns(rows, other, session), found, check_exact=True)
    past = rows[rows["session"] <= session]
    pd.testing.assert_frame_equal(phase_returns(past, history, session), found, check_exact=True)


def test_rows_that_cannot_count_do_not() -> None:
    history = closes_history(random_walks(1, 60, seed=5))
    rows = phases_of(history, 20, np.full((60, 1), 0.3))
    rows.loc[:9, "phase"] = np.nan
    rows.loc[10:14, "symbol"] = "GONE"
    rows.loc[15:19, "session"] = pd.Timestamp("1999-01-04")
    table = phase_returns(rows, history, history.sessions[-1])
    assert table["count"].tolist() == [0, 0, 60 - 20 - 5, 0, 0, 0, 0, 0]
    assert table.loc[table["count"] == 0, ["mean", "standard_error"]].isna().all(axis=None)
    single = phase_returns(rows[rows.index == 30], history, history.sessions[-1])
    assert single["count"].sum() == 1
    assert single["standard_error"].isna().all()


def test_without_rows_the_table_is_empty() -> None:
    history = closes_history(random_walks(1, 60, seed=5))
    rows = phases_of(history, 20, np.full((60, 1), 0.3)).iloc[:0]
    table = phase_returns(rows, history, history.sessions[-1])
    assert table.columns.tolist() == ["cycle", "bin", "count", "mean", "standard_error"]
    assert table.empty


def test_constant_price_returns_nothing() -> None:
    history = closes_history({"A": np.full(100, 5.0)})
    table = phase_returns(phases_of(history, 20, np.linspace(0.0, 0.99, 100)[:, None]), history, history.sessions[-1])
    assert table["mean"].tolist() == [0.0] * 8
    assert table["standard_error"].tolist() == [0.0] * 8


def test_errors_say_what_to_do() -> None:
    history = closes_history(random_walks(1, 60, seed=5))
    rows = phases_of(history, 20, np.full((60, 1), 0.3))
    with pytest.raises(ValueError, match="2099-01-01 is not in the history; choose one of its sessions"):
        phase_returns(rows, history, pd.Timestamp("2099-01-01"))
    with pytest.raises(ValueError, match="0 bins; at least one is needed"):
        phase_returns(rows, history, weekdays(60)[-1], bins=0)
