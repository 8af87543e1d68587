"""Bad input, through the whole fetch: a clear error each, and nothing stored of the symbol that has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from tests.conftest import Installation, make_installation, write_prices
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


def negative_price(path: Path) -> None:
    replace_last(path, "2022-12-28,-60.0\n")


def price_of_zero(path: Path) -> None:
    replace_last(path, "2022-12-28,0\n")


def infinite_price(path: Path) -> None:
    replace_last(path, "2022-12-28,1e999\n")


def missing_close(path: Path) -> None:
    replace_last(path, "2022-12-28,\n")


def no_newest_bar(path: Path) -> None:
    replace_last(path, "")


def missing_session(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("2021-10-11", "2022-03-02"))))


def low_above_close(path: Path) -> None:
    prices = pd.read_csv(path)
    prices["low"] = prices["close"]
    prices.loc[prices["date"] == "2021-03-16", "low"] = 999.0
    prices.to_csv(path, index=False)


def adjusted_for_its_split(path: Path) -> None:
    prices = pd.read_csv(path)
    prices["split"] = 1.0
    prices.loc[prices["date"] == "2021-08-13", "split"] = 2.0
    prices.to_csv(path, index=False)


def replace_last(path: Path, line: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + line)


BAD = [
    (empty_file, ["KO has no answer from the source", "KO.csv: the file has no rows"]),
    (header_only, ["KO has no answer from the source", "KO.csv: the file has no rows"]),
    (text_price, ["KO has no answer", "KO.csv: row 502 has the close 'n.a. yet', which is no number"]),
    (missing_column, ["KO has no answer", "KO.csv: column close is missing; found date, price"]),
    (Path.unlink, ["KO has no answer", "files: no symbol KO"]),
    (
        bar_of_1999,
        [
            "1 rows of KO have a date before 2000-01-01, which the data policy forbids to use",
            "the first is KO on 1999-12-31 (close 21.5)",
        ],
    ),
    (
        double_date,
        ["2 rows of KO have a date that another bar of the symbol has; the first is KO on 2022-12-28 (close "],
    ),
    (
        holiday,
        ["1 rows of KO have a date that is no session of the exchange; the first is KO on 2022-12-25 (close 60.0)"],
    ),
    (negative_price, ["KO have a close that is not above zero or not finite", "KO on 2022-12-28 (close -60.0)"]),
    (price_of_zero, ["KO have a close that is not above zero or not finite", "KO on 2022-12-28 (close 0.0)"]),
    (infinite_price, ["KO have a close that is not above zero or not finite", "KO on 2022-12-28 (close inf)"]),
    (missing_close, ["1 rows of KO have no close; the first is KO on 2022-12-28"]),
    (no_newest_bar, ["KO has no bar at the session; the first is KO (the newest is 2022-12-27)"]),
    (missing_session, ["KO has sessions missing between bars; the first is KO (2 of them, such as 2021-10-11)"]),
    (low_above_close, ["1 rows of KO have a low above the close; the first is KO on 2021-03-16 (low 999.0, close "]),
    (adjusted_for_its_split, ["KO has a split that its prices do not show", "2 for 1 on 2021-08-13", "as traded"]),
]
SOME = (text_price, bar_of_1999, negative_price, no_newest_bar, missing_session)
"""One of each way to be bad, for the fast tests: two runs of seconds each."""

REMEDY = (
    "Nothing of these symbols was stored; what came of the others was. Correct the data and run again, or take them "
    "out of TRADING_UNIVERSE, or set TRADING_POLICY=exclude to go on without them."
)


def spoiled(
    folder: Path, closes: pd.DataFrame, spoil: Callable[[Path], None], policy: str = "abort"
) -> tuple[Installation, Path]:
    """Two symbols, of which KO's file is spoiled."""
    prices = write_prices(folder / "prices", closes[["JNJ", "KO"]])
    spoil(prices / "KO.csv")
    made = make_installation(
        folder, source="files", files_dir=prices, universe=("JNJ", "KO"), max_weight=0.5, policy=policy
    )
    return made, prices / "KO.csv"


def bars_of(made: Installation) -> dict[str, int]:
    return made.tables.read("bars").groupby("symbol").size().to_dict()


def in_quarantine(made: Installation, symbol: str) -> int:
    return int((made.tables.read("quarantine")["symbol"] == symbol).sum())


@pytest.fixture(scope="module")
def closes(sample_closes: pd.DataFrame) -> pd.DataFrame:
    """Two years are enough for a fetch, and soon judged."""
    return sample_closes.loc["2021":, ["JNJ", "KO"]]


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        pytest.param(spoil, parts, id=spoil.__name__, marks=() if spoil in SOME else pytest.mark.e2e)
        for spoil, parts in BAD
    ],
)
def test_a_bad_file_is_refused_whole_and_can_be_repaired(
    tmp_path: Path, closes: pd.DataFrame, spoil: Callable[[Path], None], parts: list[str]
) -> None:
    made, path = spoiled(tmp_path, closes, spoil)
    outcome = made.run(SESSION, assets=["bars"])
    assert not outcome.success
    message = outcome.failures["bars"]
    assert [part for part in [*parts, REMEDY] if part not in message] == []
    # of the others nothing is lost
    assert bars_of(made) == {"JNJ": len(closes) - in_quarantine(made, "JNJ")}
    assert in_quarantine(made, "KO") == 0
    assert set(made.tables.read("fetches")["symbol"]) == {"JNJ"}
    day = pd.Timestamp(SESSION).date()
    assert made.ledger.verdicts(day, ["bars"]) == {"bars": False}
    failed = [check for check in outcome.checks if not check.passed and check.check_name not in ("quarantine",)]
    assert failed
    assert {check.severity for check in failed} == {dg.AssetCheckSeverity.ERROR}

    write_prices(path.parent, closes)
    again = made.run(SESSION, assets=["bars"])
    assert again.failures == {}
    stored = made.tables.read("bars")
    mine = stored[stored["symbol"] == "KO"].set_index("session")["close"]
    assert len(mine) == len(closes) - in_quarantine(made, "KO")
    assert (mine == closes.loc[mine.index, "KO"]).all()
    assert made.ledger.verdicts(day, ["bars"]) == {"bars": True}


@pytest.mark.e2e
@pytest.mark.parametrize(("spoil", "parts"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_file_is_a_warning_in_mode_exclude(
    tmp_path: Path, closes: pd.DataFrame, spoil: Callable[[Path], None], parts: list[str]
) -> None:
    made, _ = spoiled(tmp_path, closes, spoil, policy="exclude")
    outcome = made.run(SESSION, assets=["bars"])
    assert outcome.failures == {}
    assert set(bars_of(made)) == {"JNJ"}
    warned = [check for check in outcome.checks if not check.passed]
    assert {check.severity for check in warned} == {dg.AssetCheckSeverity.WARN}
    told = " ".join(str(check.description) for check in warned)
    assert [part for part in parts if part not in told] == []
    assert made.ledger.verdicts(pd.Timestamp(SESSION).date(), ["bars"]) == {"bars": True}


@pytest.mark.parametrize("spoil", [text_price, negative_price], ids=["unreadable", "unbelievable"])
def test_no_order_comes_of_a_bad_file(tmp_path: Path, closes: pd.DataFrame, spoil: Callable[[Path], None]) -> None:
    made, _ = spoiled(tmp_path, closes, spoil)
    outcome = made.run(SESSION)
    assert not outcome.success
    assert outcome.succeeded <= {"corporate_actions"}
    assert made.count("orders") == 0


@pytest.mark.e2e
def test_a_run_in_mode_exclude_goes_on_without_the_symbol(tmp_path: Path, sample_closes: pd.DataFrame) -> None:
    made, _ = spoiled(tmp_path, sample_closes, negative_price, policy="exclude")
    assert made.train_stages("2022-12-01", "2022-11-30").failures == {}
    assert made.run(SESSION, assets=["bars", "corporate_actions", "regime", "volatility"]).failures == {}
    assert set(made.tables.read("volatility")["symbol"]) == {"JNJ"}


def test_what_was_stored_before_stays_when_a_file_goes_bad(tmp_path: Path, closes: pd.DataFrame) -> None:
    folder = write_prices(tmp_path / "prices", closes)
    made = make_installation(tmp_path, source="files", files_dir=folder, universe=("JNJ", "KO"), max_weight=0.5)
    assert made.run("2022-12-27", assets=["bars"]).failures == {}
    before = made.tables.read("bars")
    text_price(folder / "KO.csv")
    assert not made.run(SESSION, assets=["bars"]).success
    after = made.tables.read("bars")
    new = after[after["session"] > "2022-12-27"]
    assert new["symbol"].tolist() == ["JNJ"]
    pd.testing.assert_frame_equal(after.drop(new.index).reset_index(drop=True), before)


def test_an_unknown_symbol_of_the_sample(tmp_path: Path) -> None:
    made = make_installation(tmp_path, universe=("KO", "TSLA"))
    message = made.run(SESSION, assets=["bars"]).failures["bars"]
    assert "TSLA has no answer from the source" in message
    assert "the sample has no such symbol; it has AAPL, AMD" in message
    assert set(bars_of(made)) == {"KO"}


def test_the_sample_says_that_it_ends(tmp_path: Path) -> None:
    made = make_installation(tmp_path, universe=("KO",))
    outcome = made.run("2023-01-03", assets=["bars"])
    assert "session 2023-01-03 lies after its last one, 2022-12-28" in outcome.failures["bars"]


@pytest.mark.e2e
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
