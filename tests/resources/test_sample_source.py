"""The embedded sample against the file that skfolio ships, read without skfolio."""

from datetime import date
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from trading_dagster.checks.market_data_quality import evaluate_rules
from trading_dagster.resources.market_data import ACTION_COLUMNS, BAR_COLUMNS, MarketDataError
from trading_dagster.resources.sample_source import SampleSource
from trading_dagster.settings import SAMPLE_SYMBOLS


@pytest.fixture(scope="module")
def shipped() -> pd.DataFrame:
    path = files("skfolio.datasets").joinpath("data", "sp500_dataset.csv.gz")
    return pd.read_csv(str(path), index_col=0, parse_dates=True, compression="gzip")


def silent(_: str) -> None:
    """A report that nobody reads."""


@pytest.fixture(scope="module")
def source() -> SampleSource:
    return SampleSource()


def test_all_bars_are_the_shipped_closes(source, shipped, calendar):
    answer = source.bars(SAMPLE_SYMBOLS, date(2000, 1, 1), date(2022, 12, 28), silent)
    bars = answer.rows
    assert answer.failures == {}
    assert set(answer.columns) == set(SAMPLE_SYMBOLS)
    assert set(bars.dtypes.drop(["session", "symbol"])) == {np.dtype("float64")}
    assert list(bars.columns) == BAR_COLUMNS
    assert bars[["open", "high", "low", "volume"]].isna().all(axis=None)
    expected = shipped["2000":].stack()
    found = bars.set_index(["session", "symbol"])["close"]
    assert len(found) == len(expected)
    assert (found.loc[expected.index].to_numpy() == expected.to_numpy()).all()
    span = calendar.between("2000-01-01", "2022-12-28")
    findings = evaluate_rules("bars", {"rows": bars}, span)
    assert len(findings) > 10
    assert [finding.message for finding in findings if finding.failing] == []
    # each of the symbols has traded all along
    assert (bars.groupby("symbol")["session"].nunique() == len(span)).all()


def test_the_default_universe_is_what_is_shipped(shipped):
    assert sorted(SAMPLE_SYMBOLS) == sorted(shipped.columns)


def test_the_last_session_is_the_last_row(source, shipped):
    assert shipped.index[-1].date() == source.last_session


@pytest.mark.parametrize(
    ("first", "last", "sessions"),
    [
        ("2022-12-23", "2022-12-28", ["2022-12-23", "2022-12-27", "2022-12-28"]),
        ("2022-12-24", "2022-12-26", []),
        ("2008-10-10", "2008-10-10", ["2008-10-10"]),
    ],
)
def test_only_the_symbols_and_sessions_that_are_asked_for(source, first, last, sessions):
    bars = source.bars(["KO", "AAPL"], date.fromisoformat(first), date.fromisoformat(last), silent).rows
    expected = {(day, symbol) for day in sessions for symbol in ("KO", "AAPL")}
    assert {(f"{bar.session:%Y-%m-%d}", bar.symbol) for bar in bars.itertuples()} == expected
    assert len(bars) == len(expected)


def test_a_session_after_the_end(source):
    with pytest.raises(MarketDataError) as caught:
        source.bars(["AAPL"], date(2022, 12, 1), date(2022, 12, 29), silent)
    assert str(caught.value) == (
        "sample: session 2022-12-29 lies after its last one, 2022-12-28; choose a session up to then, or bring "
        "newer prices with TRADING_SOURCE=files"
    )


def test_a_symbol_it_does_not_have(source):
    answer = source.bars(["AAPL", "TSLA", "aapl"], date(2022, 12, 27), date(2022, 12, 28), silent)
    assert set(answer.failures) == {"TSLA", "aapl"}
    for message in answer.failures.values():
        assert message.startswith("the sample has no such symbol; it has AAPL, AMD, BAC,")
        assert message.endswith("XOM. Correct TRADING_UNIVERSE, or bring your own prices with TRADING_SOURCE=files")
    assert answer.rows["symbol"].tolist() == ["AAPL", "AAPL"]


def test_only_unknown_symbols_and_no_symbols_give_no_rows(source):
    for symbols in (["TSLA"], []):
        answer = source.bars(symbols, date(2022, 12, 27), date(2022, 12, 28), silent)
        assert list(answer.failures) == symbols
        assert len(answer.rows) == 0
        assert list(answer.rows.columns) == BAR_COLUMNS


def test_there_are_no_corporate_actions(source):
    actions = source.corporate_actions(["AAPL"], date(2000, 1, 1), date(2022, 12, 28), silent).rows
    assert len(actions) == 0
    assert list(actions.columns) == ACTION_COLUMNS
