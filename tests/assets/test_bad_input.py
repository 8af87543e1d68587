"""Bad input, through the whole fetch: a clear error each, and nothing stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import make_installation, write_prices
from trading_dagster.calendar import SessionError

SESSION = "2022-12-28"


def empty_file(path: Path) -> None:
    path.write_text("")


def header_only(path: Path) -> None:
    path.write_text("date,close\n")


def bar_of_1999(path: Path) -> None:
    path.write_text(path.read_text().replace("date,close\n", "date,close\n1999-12-31,21.5\n"))


def double_date(path: Path) -> None:
    path.write_text(path.read_text() + "2022-12-28,60.0\n")


def text_price(path: Path) -> None:
    path.write_text(path.read_text() + "2022-12-29,n.a. yet\n")


def missing_column(path: Path) -> None:
    path.write_text(path.read_text().replace("date,close", "date,price"))


def holiday(path: Path) -> None:
    path.write_text(path.read_text() + "2022-12-25,60.0\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (empty_file, "KO.csv: the file has no rows"),
        (header_only, "KO.csv: the file has no rows"),
        (bar_of_1999, "KO.csv: KO has 1 bars before 2000-01-01, the first on 1999-12-31"),
        (double_date, "KO.csv: 2 rows have more than one bar on one date; the first is KO on 2022-12-28"),
        (text_price, "KO.csv: row 5786 has the close 'n.a. yet', which is no number"),
        (missing_column, "KO.csv: column close is missing; found date, price"),
        (holiday, "KO.csv: 1 rows have a date that is no session of XNYS; the first is KO on 2022-12-25"),
        (Path.unlink, "files: no symbol KO"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bad_file_is_refused_whole(
    tmp_path: Path, sample_closes: pd.DataFrame, spoil: Callable[[Path], None], message: str
) -> None:
    folder = write_prices(tmp_path / "prices", sample_closes[["JNJ", "KO"]])
    spoil(folder / "KO.csv")
    made = make_installation(tmp_path, source="files", files_dir=folder, universe=("JNJ", "KO"), max_weight=0.5)
    outcome = made.run(SESSION)
    assert not outcome.success
    assert message in outcome.failures["bars"]
    assert made.stored() == []
    assert made.count("orders") == 0


def test_what_was_stored_before_stays_when_a_file_goes_bad(tmp_path: Path, sample_closes: pd.DataFrame) -> None:
    folder = write_prices(tmp_path / "prices", sample_closes[["JNJ", "KO"]])
    made = make_installation(tmp_path, source="files", files_dir=folder, universe=("JNJ", "KO"), max_weight=0.5)
    assert made.run("2022-12-27", assets=["bars"]).failures == {}
    before = made.tables.read("bars")
    text_price(folder / "KO.csv")
    assert not made.run(SESSION, assets=["bars"]).success
    pd.testing.assert_frame_equal(made.tables.read("bars"), before)


def test_an_unknown_symbol_of_the_sample(tmp_path: Path) -> None:
    made = make_installation(tmp_path, universe=("KO", "TSLA"))
    assert "sample: no symbol TSLA; it has AAPL, AMD" in made.run(SESSION, assets=["bars"]).failures["bars"]


def test_the_sample_says_that_it_ends(tmp_path: Path) -> None:
    made = make_installation(tmp_path, universe=("KO",))
    outcome = made.run("2023-01-03", assets=["bars"])
    assert "session 2023-01-03 lies after its last one, 2022-12-28" in outcome.failures["bars"]


def test_another_source_is_not_mixed_into_a_store(tmp_path: Path, sample_closes: pd.DataFrame) -> None:
    assert make_installation(tmp_path, universe=("KO",)).run("2022-12-27", assets=["bars"]).failures == {}
    folder = write_prices(tmp_path / "prices", sample_closes[["KO"]])
    other = make_installation(tmp_path, source="files", files_dir=folder, universe=("KO",))
    assert "came from sample, and TRADING_SOURCE is files" in other.run(SESSION, assets=["bars"]).failures["bars"]


@pytest.mark.parametrize("asset", ["bars", "phasing", "orders"])
def test_a_holiday_is_no_partition(tmp_path: Path, asset: str) -> None:
    made = make_installation(tmp_path, universe=("KO",))
    with pytest.raises(Exception, match="2022-12-26"):
        made.run("2022-12-26", assets=[asset])
    assert made.stored() == []


def test_a_session_that_has_not_closed_is_refused(tmp_path: Path) -> None:
    from trading_dagster.assets._stage import CALENDAR

    ahead = CALENDAR.next(CALENDAR.last_closed(pd.Timestamp.now(tz="UTC").to_pydatetime()))
    with pytest.raises(SessionError, match="closes at"):
        CALENDAR.closed(ahead, pd.Timestamp.now(tz="UTC").to_pydatetime())
