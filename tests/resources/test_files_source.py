"""The user's own files: what is read, and what the user is told when it cannot be."""

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from trading_dagster.resources.files_source import FilesSource
from trading_dagster.resources.market_data import ACTION_COLUMNS, BAR_COLUMNS, MarketDataError

# Thursday to Wednesday, with a weekend between
DAYS = ["2020-03-05", "2020-03-06", "2020-03-09", "2020-03-10", "2020-03-11"]
ALL = (date(2000, 1, 1), date(2030, 1, 1))

BARS = pd.DataFrame(
    {
        "date": DAYS,
        "open": [10.0, 10.5, 10.25, 5.5, 5.0],
        "high": [11.0, 10.75, 10.5, 5.75, 5.5],
        "low": [9.5, 10.0, 10.0, 5.25, 4.75],
        "close": [10.5, 10.25, 10.5, 5.5, 5.25],
        "volume": [1000.0, 0.0, 1200.0, 2500.0, 2600.0],
        "dividend": [0.0, 0.25, 0.0, 0.0, 0.125],
        "split": [1.0, 0.0, 1.0, 2.0, 1.0],
    }
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "prices"
    folder.mkdir()
    return folder


def silent(_: str) -> None:
    """A report that nobody reads."""


@dataclass(frozen=True)
class Asker:
    """Asks for rows, or for the reason why there are none."""

    files: FilesSource

    def bars(self, symbols: list[str], first: date, last: date) -> pd.DataFrame:
        return self._rows("bars", symbols, first, last)

    def corporate_actions(self, symbols: list[str], first: date, last: date) -> pd.DataFrame:
        return self._rows("corporate_actions", symbols, first, last)

    def failure(self, method: str) -> str:
        """Why there is no AAA; nothing of it may have come."""
        answer = getattr(self.files, method)(["AAA"], *ALL, silent)
        assert len(answer.rows) == 0
        assert list(answer.rows.columns) == (BAR_COLUMNS if method == "bars" else ACTION_COLUMNS)
        assert list(answer.failures) == ["AAA"]
        return answer.failures["AAA"]

    def _rows(self, method: str, symbols: list[str], first: date, last: date) -> pd.DataFrame:
        answer = getattr(self.files, method)(symbols, first, last, silent)
        assert answer.failures == {}
        assert set(answer.columns) == set(symbols)
        return answer.rows


@pytest.fixture
def source(folder):
    return Asker(FilesSource(folder))


def write(folder, kind: str, frame: pd.DataFrame, symbol: str = "AAA") -> None:
    path = folder / f"{symbol}.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)


# -- what is read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_bars_and_actions_are_what_was_written(folder, source, kind):
    write(folder, kind, BARS)
    bars = source.bars(["AAA"], *ALL)
    assert list(bars.columns) == BAR_COLUMNS
    assert [f"{stamp:%Y-%m-%d}" for stamp in bars["session"]] == DAYS
    assert set(bars["symbol"]) == {"AAA"}
    for column in ("open", "high", "low", "close", "volume"):
        assert bars[column].tolist() == BARS[column].tolist()
    actions = source.corporate_actions(["AAA"], *ALL)
    assert list(actions.columns) == ACTION_COLUMNS
    assert {(f"{a.ex_date:%Y-%m-%d}", a.symbol, a.kind, a.value) for a in actions.itertuples()} == {
        ("2020-03-10", "AAA", "split", 2.0),
        ("2020-03-06", "AAA", "dividend", 0.25),
        ("2020-03-11", "AAA", "dividend", 0.125),
    }


def _prices(draw, count: int) -> pd.DataFrame:
    prices = st.floats(1e-3, 1e7).map(lambda value: float(np.float64(value)))
    four = [sorted(draw(st.tuples(prices, prices, prices, prices))) for _ in range(count)]
    frame = pd.DataFrame(four, columns=["low", "open", "close", "high"])
    return frame.assign(volume=draw(st.lists(st.integers(0, 10**12), min_size=count, max_size=count)))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_csv_and_parquet_give_every_digit(tmp_path, calendar, data):
    days = calendar.sessions[calendar.sessions.get_loc("2020-03-05") :][: data.draw(st.integers(1, 8))]
    written = _prices(data.draw, len(days)).assign(date=days)
    optional = data.draw(st.lists(st.sampled_from(["open", "high", "low", "volume"]), unique=True))
    written = written[["date", "close", *optional]].sample(frac=1, random_state=data.draw(st.integers(0, 99)))
    found = []
    for kind in ("csv", "parquet"):
        folder = tmp_path / kind
        folder.mkdir(exist_ok=True)
        write(folder, kind, written)
        found.append(Asker(FilesSource(folder)).bars(["AAA"], *ALL).sort_values("session", ignore_index=True))
    assert_frame_equal(found[0], found[1], check_exact=True)
    expected = written.sort_values("date")
    assert found[0]["session"].tolist() == expected["date"].tolist()
    for column in ("open", "high", "low", "close", "volume"):
        if column in written:
            assert found[0][column].tolist() == expected[column].astype(float).tolist()
        else:
            assert found[0][column].isna().all()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_several_symbols_and_both_kinds_of_files(folder, source, kind):
    write(folder, kind, BARS)
    write(folder, "csv", BARS.assign(split=1.0)[1:4], "BBB")
    bars = source.bars(["BBB", "AAA"], *ALL)
    assert bars.groupby("symbol").size().to_dict() == {"AAA": 5, "BBB": 3}
    assert set(source.corporate_actions(["BBB"], *ALL)["symbol"]) == {"BBB"}


@pytest.mark.parametrize(
    ("first", "last", "bars", "actions"),
    [
        ("2020-03-06", "2020-03-10", DAYS[1:4], {"2020-03-06", "2020-03-10"}),
        ("2020-03-09", "2020-03-09", DAYS[2:3], set()),
        ("2020-03-07", "2020-03-08", [], set()),
        ("2021-01-01", "2021-12-31", [], set()),
    ],
)
def test_the_range_includes_its_bounds(folder, source, first, last, bars, actions):
    write(folder, "csv", BARS)
    bounds = date.fromisoformat(first), date.fromisoformat(last)
    assert [f"{stamp:%Y-%m-%d}" for stamp in source.bars(["AAA"], *bounds)["session"]] == bars
    found = source.corporate_actions(["AAA"], *bounds)
    assert {f"{stamp:%Y-%m-%d}" for stamp in found["ex_date"]} == actions


@pytest.mark.parametrize("method", ["bars", "corporate_actions"])
def test_no_symbols_no_rows(source, method):
    rows = getattr(source, method)([], *ALL)
    assert len(rows) == 0
    assert list(rows.columns) == (BAR_COLUMNS if method == "bars" else ACTION_COLUMNS)


def test_date_and_close_are_enough(folder, source):
    write(folder, "csv", BARS[["date", "close"]])
    bars = source.bars(["AAA"], *ALL)
    assert bars["close"].tolist() == BARS["close"].tolist()
    assert bars[["open", "high", "low", "volume"]].isna().all(axis=None)
    assert len(source.corporate_actions(["AAA"], *ALL)) == 0


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_order_of_rows_capitals_blanks_and_further_columns_do_not_matter(folder, source, kind):
    untidy = BARS.rename(columns={"date": " Date", "close": "CLOSE ", "open": "Open", "split": "Split"})
    write(folder, kind, untidy.assign(Comment="x").iloc[[3, 0, 4, 1, 2]])
    write(folder, "csv", BARS, "TIDY")
    for method in ("bars", "corporate_actions"):
        found = getattr(source, method)(["AAA"], *ALL).drop(columns="symbol")
        expected = getattr(source, method)(["TIDY"], *ALL).drop(columns="symbol")
        keys = list(found.columns[:2])
        assert_frame_equal(
            found.sort_values(keys, ignore_index=True), expected.sort_values(keys, ignore_index=True), check_exact=True
        )


@pytest.mark.parametrize("empty", ["", "NaN", "nan", "null"])
def test_an_empty_cell_is_a_missing_value(folder, source, empty):
    (folder / "AAA.csv").write_text(f"date,close,open,volume,dividend\n2020-03-05,10,{empty},{empty},{empty}\n")
    assert source.bars(["AAA"], *ALL)[["open", "volume"]].isna().all(axis=None)
    assert len(source.corporate_actions(["AAA"], *ALL)) == 0


WRITTEN_DATES = {
    "blank time": [f"{day} 00:00:00" for day in DAYS],
    "compact": [day.replace("-", "") for day in DAYS],
    "time of the close": [f"{day}T16:00:00" for day in DAYS],
    "New York in winter": [f"{day} 00:00:00-05:00" for day in DAYS],
    "Tokyo": [f"{day} 00:00:00+09:00" for day in DAYS],
    "UTC": [f"{day}T00:00:00Z" for day in DAYS],
}


@pytest.mark.parametrize("written", WRITTEN_DATES.values(), ids=WRITTEN_DATES)
def test_dates_of_a_csv_mean_the_day_they_show(folder, source, written):
    write(folder, "csv", BARS.assign(date=written))
    assert [f"{stamp:%Y-%m-%d}" for stamp in source.bars(["AAA"], *ALL)["session"]] == DAYS


def test_blanks_around_a_date_do_not_matter(folder, source):
    write(folder, "csv", BARS.assign(date=[f" {day} " for day in DAYS]))
    assert [f"{stamp:%Y-%m-%d}" for stamp in source.bars(["AAA"], *ALL)["session"]] == DAYS


def test_a_csv_across_the_change_to_summer_time(folder, source):
    """What `yfinance` writes with `to_csv`."""
    offsets = ["-05:00", "-05:00", "-04:00", "-04:00", "-04:00"]
    written = [f"{day} 00:00:00{offset}" for day, offset in zip(DAYS, offsets, strict=True)]
    write(folder, "csv", BARS.assign(date=written))
    assert [f"{stamp:%Y-%m-%d}" for stamp in source.bars(["AAA"], *ALL)["session"]] == DAYS


PARQUET_DATES = {
    "date": lambda days: [date.fromisoformat(day) for day in days],
    "timestamp": lambda days: pd.to_datetime(days),
    "timestamp in New York": lambda days: pd.to_datetime(days).tz_localize("America/New_York"),
    "timestamp in Tokyo": lambda days: pd.to_datetime(days).tz_localize("Asia/Tokyo"),
    "timestamp in UTC": lambda days: pd.to_datetime(days).tz_localize("UTC"),
    "fixed offset": lambda days: [
        datetime.fromisoformat(day).replace(tzinfo=timezone(timedelta(hours=-5))) for day in days
    ],
    "text": list,
}


@pytest.mark.parametrize("dates", PARQUET_DATES.values(), ids=PARQUET_DATES)
def test_dates_of_a_parquet_file_may_have_any_type(folder, source, dates):
    write(folder, "parquet", BARS.assign(date=dates(DAYS)))
    assert [f"{stamp:%Y-%m-%d}" for stamp in source.bars(["AAA"], *ALL)["session"]] == DAYS


@pytest.mark.parametrize("convert", [lambda c: [Decimal(str(x)) for x in c], lambda c: c.astype("float32")])
def test_numbers_of_a_parquet_file_may_have_any_type(folder, source, convert):
    """All the figures have few enough binary digits for any of the types."""
    write(folder, "parquet", BARS.assign(close=convert(BARS["close"]), volume=BARS["volume"].astype("int32")))
    bars = source.bars(["AAA"], *ALL)
    assert bars["close"].tolist() == BARS["close"].tolist()
    assert bars["volume"].tolist() == BARS["volume"].tolist()


def test_a_file_may_begin_with_a_byte_order_mark(folder, source):
    (folder / "AAA.csv").write_bytes(BARS.to_csv(index=False).encode("utf-8-sig"))
    assert len(source.bars(["AAA"], *ALL)) == 5


# -- what the user is told ------------------------------------------------------------------------------------


def _set(row: int, **values):
    """Spoil one row, counted from 1 as the messages count."""

    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype(object)
        for column, value in values.items():
            frame.loc[row - 1, column] = value
        return frame

    return spoil


REMEDY = re.compile(r"correct|remove|supply|write dates|keep one|needed are|take \w+ out of")

# spoiled rows, then what the message has to show beside the file's name
UNREADABLE_ROWS = {
    "text price": (_set(2, close="ten"), ["row 2", "close 'ten'", "no number"]),
    "text open": (_set(4, open="$5"), ["row 4", "open '$5'", "no number"]),
    "text volume": (_set(5, volume="2,600"), ["row 5", "volume '2,600'", "no number"]),
    "text dividend": (_set(5, dividend="much"), ["row 5", "dividend 'much'", "no number"]),
    "unreadable date": (_set(2, date="6 March"), ["row 2", "'6 March'", "YYYY-MM-DD"]),
    "American date": (_set(2, date="03/06/2020"), ["row 2", "'03/06/2020'", "YYYY-MM-DD"]),
    "impossible date": (_set(3, date="2020-02-30"), ["row 3", "'2020-02-30'", "YYYY-MM-DD"]),
    "date and more": (_set(2, date="2020-03-06 noon"), ["row 2", "'2020-03-06 noon'", "YYYY-MM-DD"]),
    "date with a digit too many": (_set(2, date="2020-03-061"), ["row 2", "'2020-03-061'", "YYYY-MM-DD"]),
    "missing date": (_set(4, date=None), ["row 4", "date", "YYYY-MM-DD"]),
}

# spoiled rows, then the row, counted from 1, and what of it the rules have to get to see
UNBELIEVABLE_ROWS = {
    "bar in 1999": (_set(1, date="1999-12-31"), 1, {"session": pd.Timestamp("1999-12-31")}),
    "duplicate date": (_set(3, date="2020-03-06"), 3, {"session": pd.Timestamp("2020-03-06")}),
    "weekend": (_set(3, date="2020-03-07"), 3, {"session": pd.Timestamp("2020-03-07")}),
    "zero price": (_set(2, close=0), 2, {"close": 0.0}),
    "negative price": (_set(4, open=-5.5), 4, {"open": -5.5}),
    "infinite price": (_set(1, high="inf"), 1, {"high": np.inf}),
    "minus infinite price": (_set(1, low="-inf"), 1, {"low": -np.inf}),
    "overflowing price": (_set(1, close="1e999"), 1, {"close": np.inf}),
    "missing close": (_set(3, close=None), 3, {"close": np.nan}),
    "high below low": (_set(2, high=9.0), 2, {"high": 9.0, "low": 10.0}),
    "negative volume": (_set(5, volume=-1), 5, {"volume": -1.0}),
    "infinite volume": (_set(2, volume="inf"), 2, {"volume": np.inf}),
}


def write_spoiled(folder, kind: str, frame: pd.DataFrame) -> None:
    if kind == "parquet":
        # a parquet column has one type: text where one value is
        texts = frame.columns[[any(isinstance(value, str) for value in frame[name]) for name in frame]]
        frame = frame.astype(dict.fromkeys(set(frame) - set(texts), "float64"))
        for name in texts:
            frame[name] = frame[name].map(lambda value: None if value is None else str(value))
    write(folder, kind, frame)


@pytest.mark.parametrize("method", ["bars", "corporate_actions"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(("spoil", "shown"), UNREADABLE_ROWS.values(), ids=UNREADABLE_ROWS)
def test_an_unreadable_row_is_named_with_its_value_and_the_remedy(folder, source, kind, method, spoil, shown):
    write_spoiled(folder, kind, spoil(BARS))
    message = source.failure(method)
    assert [part for part in (f"AAA.{kind}", *shown) if part not in message] == []
    assert REMEDY.search(message)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(("spoil", "row", "seen"), UNBELIEVABLE_ROWS.values(), ids=UNBELIEVABLE_ROWS)
def test_what_is_readable_but_wrong_is_left_to_the_rules(folder, source, kind, spoil, row, seen):
    """Nothing is dropped or mended on the way to the rules, which refuse it with all that they find."""
    write_spoiled(folder, kind, spoil(BARS))
    found = source.bars(["AAA"], *ALL)
    assert len(found) == len(BARS)
    np.testing.assert_equal({name: found[name].iloc[row - 1] for name in seen}, seen)


@pytest.mark.parametrize("dropped", [[2], [1, 2, 3]])
def test_a_gap_is_left_to_the_rules(folder, source, dropped):
    write(folder, "csv", BARS.drop(index=dropped))
    assert len(source.bars(["AAA"], *ALL)) == len(BARS) - len(dropped)


BAD_ACTIONS = {
    "negative split": (_set(4, split=-2), ("2020-03-10", "split", -2.0)),
    "infinite split": (_set(4, split="inf"), ("2020-03-10", "split", np.inf)),
    "negative dividend": (_set(2, dividend=-0.25), ("2020-03-06", "dividend", -0.25)),
    "dividend on a Saturday": (_set(2, date="2020-03-07"), ("2020-03-07", "dividend", 0.25)),
}


@pytest.mark.parametrize(("spoil", "seen"), BAD_ACTIONS.values(), ids=BAD_ACTIONS)
def test_a_wrong_action_is_left_to_the_rules(folder, source, spoil, seen):
    write(folder, "csv", spoil(BARS))
    actions = source.corporate_actions(["AAA"], *ALL)
    assert seen in {(f"{a.ex_date:%Y-%m-%d}", a.kind, a.value) for a in actions.itertuples()}


def test_a_bad_file_fails_its_own_symbol_and_no_other(folder, source):
    write(folder, "csv", BARS)
    write(folder, "csv", _set(2, close="ten")(BARS), "BBB")
    write(folder, "parquet", BARS, "CCC")
    for method in ("bars", "corporate_actions"):
        answer = getattr(source.files, method)(["AAA", "BBB", "CCC", "DDD"], *ALL, silent)
        assert set(answer.failures) == {"BBB", "DDD"}
        assert "BBB.csv: row 2 has the close 'ten'" in answer.failures["BBB"]
        assert "no symbol DDD" in answer.failures["DDD"]
        assert set(answer.rows["symbol"]) == set(answer.columns) == {"AAA", "CCC"}


def test_names_of_columns_are_those_of_the_file(folder, source):
    write(folder, "csv", BARS.rename(columns={"close": " Close"}).assign(Comment="x"))
    answer = source.files.bars(["AAA"], *ALL, silent)
    expected = ["date", "open", "high", "low", "close", "volume", "dividend", "split", "comment"]
    assert sorted(answer.columns["AAA"]) == sorted(expected)


def test_progress_is_told_every_hundred_files(folder, source):
    names = [f"S{number:03d}" for number in range(205)]
    for name in names:
        write(folder, "csv", BARS[["date", "close"]], name)
    told: list[str] = []
    assert len(source.files.bars(names, *ALL, told.append).rows) == 205 * len(BARS)
    assert told == ["100 of 205 files read", "200 of 205 files read"]


# -- no more than the end ---------------------------------------------------------------------------------------------


def long_file(folder, calendar, sessions: int = 3000, symbol: str = "AAA", level: float = 50.0) -> pd.DataFrame:
    days = calendar.sessions[:sessions]
    close = np.round(level + np.random.default_rng(5).normal(0, 1, sessions).cumsum() * 0.1, 4)
    frame = pd.DataFrame({"date": days.strftime("%Y-%m-%d"), "close": close, "volume": 1e6})
    write(folder, "csv", frame, symbol)
    return frame


@pytest.mark.parametrize(
    "symbols", [["BBB", "AAA"], ["BRK.B", "AAA"], ["NA", "AAA"], ["TRUE", "AAA"], ["0700", "0005"]]
)
def test_ends_of_several_long_files_stay_with_their_symbols(folder, source, calendar, symbols):
    """No symbol is a missing value, a truth or a number, however it is written."""
    written = {s: long_file(folder, calendar, 3000, s, 50.0 * (n + 1)) for n, s in enumerate(symbols)}
    last = [date.fromisoformat(day) for day in next(iter(written.values()))["date"].iloc[-3:]]
    found = source.bars(symbols, last[0], last[-1])
    assert set(found["symbol"]) == set(symbols)
    for symbol, frame in written.items():
        mine = found[found["symbol"] == symbol].sort_values("session")
        assert mine["close"].tolist() == frame["close"].tolist()[-3:]


def test_ends_of_long_files_with_different_columns(folder, source, calendar):
    long_file(folder, calendar)
    other = long_file(folder, calendar, symbol="BBB", level=80.0)
    write(folder, "csv", other[["close", "date"]].assign(split=[1.0] * 2999 + [2.0]), "BBB")
    last = date.fromisoformat(other["date"].iloc[-1])
    found = source.bars(["AAA", "BBB"], last, last).set_index("symbol")
    assert found["close"]["BBB"] == other["close"].iloc[-1]
    assert np.isnan(found["volume"]["BBB"])
    assert found["volume"]["AAA"] == 1e6
    assert source.corporate_actions(["AAA", "BBB"], last, last)["symbol"].tolist() == ["BBB"]


@pytest.mark.parametrize("asked", [1, 2, 60, 61, 400, 2900, 3000])
def test_later_dates_give_what_the_whole_file_gives(folder, source, calendar, asked):
    frame = long_file(folder, calendar)
    first, last = date.fromisoformat(frame["date"].iloc[-asked]), date.fromisoformat(frame["date"].iloc[-1])
    found = source.bars(["AAA"], first, last)
    expected = source.bars(["AAA"], ALL[0], last).iloc[-asked:]
    assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True), check_exact=True)


def test_no_more_than_the_end_of_a_long_file_is_read_for_later_dates(folder, source, calendar):
    """What is before is known already; a text in it would show that it was looked at."""
    frame = long_file(folder, calendar)
    frame = frame.astype(object)
    frame.loc[3, "close"] = "ten"
    write(folder, "csv", frame)
    last = date.fromisoformat(frame["date"].iloc[-1])
    assert len(source.bars(["AAA"], date.fromisoformat(frame["date"].iloc[-5]), last)) == 5
    assert "row 4 has the close 'ten'" in source.failure("bars")


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y%m%d", "%Y-%m-%dT16:00:00-05:00"])
def test_the_end_of_a_long_file_may_write_its_dates_in_any_way(folder, source, calendar, form):
    frame = long_file(folder, calendar)
    write(folder, "csv", frame.assign(date=pd.to_datetime(frame["date"]).dt.strftime(form)))
    found = source.bars(["AAA"], date.fromisoformat(frame["date"].iloc[-2]), ALL[1])
    assert [f"{stamp:%Y-%m-%d}" for stamp in found["session"]] == frame["date"].tolist()[-2:]


@pytest.mark.parametrize("order", ["newest first", "shuffled"])
def test_a_long_file_in_another_order_is_read_whole(folder, source, calendar, order):
    frame = long_file(folder, calendar)
    write(folder, "csv", frame.iloc[::-1] if order == "newest first" else frame.sample(frac=1.0, random_state=1))
    first, last = date.fromisoformat(frame["date"].iloc[-5]), date.fromisoformat(frame["date"].iloc[-1])
    found = source.bars(["AAA"], first, last).sort_values("session")
    assert found["close"].tolist() == frame["close"].tolist()[-5:]


def test_a_file_that_changed_is_read_again(folder, source):
    write(folder, "csv", BARS)
    later = (date(2020, 3, 10), date(2020, 3, 11))
    assert source.bars(["AAA"], *later)["close"].tolist() == [5.5, 5.25]
    write(folder, "csv", BARS.assign(close=BARS["close"] * 2))
    assert source.bars(["AAA"], *later)["close"].tolist() == [11.0, 10.5]


# -- files that cannot be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bars", "corporate_actions"])
class TestFilesThatCannotBeRead:
    """Both methods read the file, so both fail the same way."""

    @pytest.fixture
    def message(self, source, method):
        def fail() -> str:
            return source.failure(method)

        return fail

    @pytest.mark.parametrize("content", ["", "\n\n", "date,close\n", "date,close,open"], ids=repr)
    def test_no_rows(self, folder, message, content):
        (folder / "AAA.csv").write_text(content)
        assert message() == "AAA.csv: the file has no rows; supply bars, or take AAA out of TRADING_UNIVERSE"

    def test_no_rows_in_parquet(self, folder, message):
        write(folder, "parquet", BARS.iloc[:0])
        assert message() == "AAA.parquet: the file has no rows; supply bars, or take AAA out of TRADING_UNIVERSE"

    @pytest.mark.parametrize("missing", [["date"], ["close"], ["date", "close"]], ids=str)
    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_missing_column(self, folder, message, kind, missing):
        write(folder, kind, BARS.drop(columns=missing).rename(columns={"open": "Adj Close"}))
        text = message()
        assert text.startswith(f"AAA.{kind}: column {', '.join(missing)} is missing; found ")
        assert "adj close" in text
        assert "needed are date and close, and where known open, high, low, volume, dividend, split" in text

    def test_another_separator(self, folder, message):
        BARS.to_csv(folder / "AAA.csv", index=False, sep=";")
        assert "found date;open;high;low;close;volume;dividend;split" in message()

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("AAA.csv", b"\x89PNG\r\n\x1a\n\xff\xfe\x00\x01" * 50),
            ("AAA.csv", bytes(range(256))),
            ("AAA.csv", "date,close\n2020-03-05,1\n".encode("utf-16")),
            ("AAA.csv", b"date,close\n2020-03-05,1\n2020-03-06,2,3\n"),
            ("AAA.parquet", b""),
            ("AAA.parquet", b"PAR1"),
            ("AAA.parquet", b"date,close\n2020-03-05,1\n"),
        ],
        ids=["picture", "all bytes", "UTF-16", "ragged row", "empty", "magic number", "text"],
    )
    def test_junk(self, folder, message, name, content):
        (folder / name).write_bytes(content)
        assert re.match(rf"{name}: (cannot be read as {name[4:].upper()}: .|column date, close is missing)", message())

    @pytest.mark.parametrize("kept", [0.25, 0.5, 0.99])
    def test_truncated_parquet(self, folder, message, kept):
        write(folder, "parquet", BARS)
        path = folder / "AAA.parquet"
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept)])
        assert message().startswith("AAA.parquet: cannot be read as PARQUET: ")

    @pytest.mark.parametrize("name", ["AAA.csv", "AAA.parquet"])
    def test_junk_says_what_to_do(self, folder, message, name):
        (folder / name).write_bytes(b"\xff\xfe\x00\x01" * 50)
        assert REMEDY.search(message().lower())

    @pytest.mark.parametrize("twice", ["Close", " close", "DATE"])
    def test_a_column_that_is_there_twice(self, folder, message, twice):
        write(folder, "csv", BARS.assign(**{twice: BARS[twice.strip().lower()]}))
        assert re.search(rf"AAA\.csv: .*{twice.strip().lower()}.*(twice|more than once|two)", message())

    def test_both_kinds(self, folder, message):
        write(folder, "csv", BARS)
        write(folder, "parquet", BARS)
        assert message() == f"{folder} has both AAA.csv and AAA.parquet; keep one of them"

    def test_unknown_symbol_lists_those_there_are(self, folder, message):
        write(folder, "csv", BARS, "BBB")
        write(folder, "parquet", BARS, "CCC")
        (folder / "notes.txt").write_text("not prices")
        text = message()
        assert f"no symbol AAA: {folder} has neither AAA.csv nor AAA.parquet; it has BBB, CCC." in text
        assert "Supply the file or set TRADING_UNIVERSE" in text

    def test_unknown_symbol_in_a_full_folder(self, folder, message):
        for number in range(23):
            (folder / f"S{number:02d}.csv").touch()
        assert "it has S00, S01," in message()
        assert "S19 and 3 more." in message()

    def test_unknown_symbol_in_an_empty_folder(self, message):
        assert "it has no such file at all" in message()

    def test_no_folder(self, folder, source, method):
        """That concerns no symbol alone."""
        folder.rmdir()
        with pytest.raises(MarketDataError) as caught:
            getattr(source, method)(["AAA"], *ALL)
        assert str(caught.value) == f"TRADING_FILES_DIR is {folder}, which is no folder; correct it"

    def test_a_file_instead_of_a_folder(self, folder, source, method):
        folder.rmdir()
        folder.write_text("not a folder")
        with pytest.raises(MarketDataError, match="which is no folder"):
            getattr(source, method)(["AAA"], *ALL)


def test_a_short_file_leaves_the_long_ones_to_be_read_at_their_end(tmp_path, monkeypatch):
    sessions = pd.bdate_range("2010-01-01", "2020-12-31").strftime("%Y-%m-%d")
    for symbol, count in (("LONG", len(sessions)), ("SHORT", 3)):
        pd.DataFrame({"date": sessions[-count:], "close": 10.0}).to_csv(tmp_path / f"{symbol}.csv", index=False)
    monkeypatch.setattr("trading_dagster.resources.files_source.read_csv", lambda path: pytest.fail(f"whole {path}"))
    answer = FilesSource(tmp_path).bars(["LONG", "SHORT"], date(2020, 12, 21), date(2020, 12, 31), lambda _: None)
    assert answer.rows.groupby("symbol").size().to_dict() == {"LONG": 9, "SHORT": 3}
