"""The monthly models of regime and volatility in real runs: kinds, and symbols that came after the fit."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Installation, make_installation, write_prices

pytestmark = pytest.mark.e2e  # a quarter of a minute of whole runs

MONTH, BEFORE, SESSION = "2022-12-01", "2022-11-30", "2022-12-28"


@pytest.fixture(scope="module")
def prices(sample_closes: pd.DataFrame) -> pd.DataFrame:
    return sample_closes[["JNJ", "KO", "XOM"]].iloc[-700:]


def installation(folder: Path, prices: pd.DataFrame, **settings: object) -> Installation:
    return make_installation(
        folder,
        source="files",
        files_dir=write_prices(folder / "prices", prices),
        **{"universe": tuple(prices), "max_weight": 0.5, **settings},
    )


def test_kind_of_the_model_is_the_settings_and_a_change_asks_for_a_new_fit(
    tmp_path: Path, prices: pd.DataFrame
) -> None:
    made = installation(tmp_path, prices, regime_model="hmm")
    assert made.train_stages(MONTH, BEFORE).failures == {}
    assert set(made.tables.read("regime_model")["model"]) == {"hmm"}
    assert made.run(SESSION, assets=["bars", "corporate_actions", "regime", "volatility"]).failures == {}
    changed = Installation(made.settings.model_copy(update={"regime_model": "jump"}), made.instance)
    failure = changed.run(SESSION, assets=["regime"]).failures["regime"]
    assert "regime_model of 2022-12-01 is of the kind 'hmm', and TRADING_REGIME_MODEL is 'jump'" in failure
    assert "--select tag:cadence=monthly --partition 2022-12-01" in failure
    assert changed.run(MONTH, job="training", assets=["regime_model"]).failures == {}
    assert changed.run(SESSION, assets=["regime"]).failures == {}


def test_a_symbol_that_came_after_the_fit_borrows_parameters_and_says_so(tmp_path: Path, prices: pd.DataFrame) -> None:
    made = installation(tmp_path, prices, universe=("JNJ", "KO"))
    assert made.train_stages(MONTH, BEFORE).failures == {}
    wider = Installation(made.settings.model_copy(update={"universe": ("JNJ", "KO", "XOM")}), made.instance)
    assert wider.run(SESSION, assets=["bars", "corporate_actions", "regime", "volatility"]).failures == {}
    for stage, borrowed in (("regime", "market"), ("volatility", "pooled")):
        fitted = wider.tables.read(stage).set_index("symbol")["fitted"]
        assert fitted["XOM"] == borrowed
        assert fitted["KO"] == "own"
    rows = wider.tables.read("volatility").set_index("symbol")
    assert rows["sigma_1d"].between(0.004, 0.05).all()


def test_all_months_of_a_range_are_fitted_in_one_run_as_one_by_one(tmp_path: Path, prices: pd.DataFrame) -> None:
    made = installation(tmp_path / "range", prices)
    assert made.train_stages("2022-12-01", BEFORE).failures == {}
    alone = made.tables.read("volatility_model"), made.tables.read("regime_model")
    outcome = made.run("2022-11-01", "2022-12-01", job="training", assets=["regime_model", "volatility_model"])
    assert outcome.failures == {}
    for table, expected in zip(("volatility_model", "regime_model"), alone, strict=True):
        found = made.tables.read(table)
        assert sorted(found["month"].unique()) == [pd.Timestamp("2022-11-01"), pd.Timestamp("2022-12-01")]
        december = found[found["month"] == "2022-12-01"].reset_index(drop=True)
        pd.testing.assert_frame_equal(december, expected, check_exact=True)
