"""Each rule on market data: a frame that breaks just it, and the rules against plain re-statements of them."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trading_dagster.calendar import session_calendar
from trading_dagster.checks.market_data_quality import (
    ALL_SYMBOLS,
    RULES,
    SHOWN_ROWS,
    Finding,
    check_result,
    evaluate_rules,
    quality_specs,
)
from trading_dagster.resources.market_data import ACTION_COLUMNS, BAR_COLUMNS

CALENDAR = session_calendar("XNYS")
# Thursday to Wednesday, with a weekend between
DAYS = CALENDAR.between("2020-03-05", "2020-03-11")
SESSIONS = DAYS.union(CALENDAR.sessions[:1])
"""All that the rules are told of the exchange: five sessions, and its first one of 2000."""


def good_bars() -> pd.DataFrame:
    """Five bars each of two symbols; rows 0 to 4 are AAA's."""
    one = {
        "session": DAYS,
        "open": [10.0, 10.5, 10.25, 5.5, 5.0],
        "high": [11.0, 10.75, 10.5, 5.75, 5.5],
        "low": [9.5, 10.0, 10.0, 5.25, 4.75],
        "close": [10.5, 10.25, 10.5, 5.5, 5.25],
        "volume": [1000.0, 0.0, 1200.0, 2500.0, 2600.0],
    }
    both = [pd.DataFrame(one).assign(symbol=symbol) for symbol in ("AAA", "BBB")]
    return pd.concat(both, ignore_index=True)[BAR_COLUMNS]


def good_actions() -> pd.DataFrame:
    """Two actions each of two symbols."""
    rows = [
        (DAYS[1], "AAA", "dividend", 0.25),
        (DAYS[3], "AAA", "split", 2.0),
        (DAYS[1], "BBB", "dividend", 0.5),
        (DAYS[4], "BBB", "split", 0.1),
    ]
    return pd.DataFrame(rows, columns=ACTION_COLUMNS)


def good_symbols(asset: str) -> pd.DataFrame:
    """What is said of symbols whose answers were as they should be."""
    frame = pd.DataFrame(
        {"symbol": ["AAA", "BBB"], "answered": True, "failure": "", "columns_unchanged": True, "difference": ""}
    )
    if asset == "bars":
        frame = frame.assign(no_missing_session=True, missing="", splits_visible=True, split="", fresh=True, newest="")
    return frame


GOOD = {"bars": good_bars, "corporate_actions": good_actions}


def put(row: int, **values: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        for column, value in values.items():
            frame.loc[row, column] = value
        return frame

    return spoil


def unsaid(flag: str, **said: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Spoil what is said of AAA."""
    return put(0, **{flag: False}, **said)


FRIDAY, MONDAY, TUESDAY, WEDNESDAY = "2020-03-06", "2020-03-09", "2020-03-10", "2020-03-11"
NONE = float("nan")

# asset, rule, what spoils the frame, the date of the failing row (of AAA), parts of the message
BREAKS: list[tuple[str, str, Callable[[pd.DataFrame], pd.DataFrame], str | None, list[str]]] = [
    ("bars", "schema", lambda f: f.assign(adjusted=1.0), None, [ALL_SYMBOLS, "adjusted", "not those of a bar"]),
    ("bars", "close_present", put(2, close=NONE), MONDAY, ["no close", "open 10.25"]),
    ("bars", "open_positive_and_finite", put(3, open=0.0, low=NONE), TUESDAY, ["open 0.0", "not above zero"]),
    ("bars", "open_positive_and_finite", put(3, open=-5.5, low=NONE), TUESDAY, ["open -5.5", "not above zero"]),
    ("bars", "open_positive_and_finite", put(3, open=math.inf, high=NONE), TUESDAY, ["open inf", "not finite"]),
    ("bars", "high_positive_and_finite", put(0, high=math.inf), "2020-03-05", ["high inf", "not finite"]),
    ("bars", "low_positive_and_finite", put(1, low=-math.inf), FRIDAY, ["low -inf", "not finite"]),
    ("bars", "low_positive_and_finite", put(1, low=0.0), FRIDAY, ["low 0.0", "not above zero"]),
    ("bars", "close_positive_and_finite", put(1, close=0.0, low=NONE), FRIDAY, ["close 0.0", "not above zero"]),
    ("bars", "close_positive_and_finite", put(1, close=-1.5, low=NONE), FRIDAY, ["close -1.5", "not above zero"]),
    ("bars", "close_positive_and_finite", put(1, close=math.inf, high=NONE), FRIDAY, ["close inf", "not finite"]),
    ("bars", "volume_finite_and_not_negative", put(4, volume=-1.0), WEDNESDAY, ["volume -1.0", "negative"]),
    ("bars", "volume_finite_and_not_negative", put(4, volume=math.inf), WEDNESDAY, ["volume inf", "not finite"]),
    ("bars", "low_not_above_open", put(1, close=10.6, low=10.6), FRIDAY, ["a low above the open", "low 10.6", "10.5"]),
    ("bars", "low_not_above_close", put(1, low=10.3), FRIDAY, ["a low above the close", "low 10.3", "close 10.25"]),
    ("bars", "open_not_above_high", put(1, high=10.4), FRIDAY, ["open above the high", "high 10.4", "open 10.5"]),
    ("bars", "close_not_above_high", put(1, close=10.9), FRIDAY, ["a close above the high", "close 10.9", "10.75"]),
    ("bars", "not_before_2000", put(0, session=pd.Timestamp("1999-12-31")), "1999-12-31", ["before 2000-01-01"]),
    ("bars", "no_duplicate", put(2, session=DAYS[1]), FRIDAY, ["2 rows of AAA", "another bar of the symbol"]),
    ("bars", "no_phantom_session", put(2, session=pd.Timestamp("2020-03-07")), "2020-03-07", ["no session of the"]),
    ("bars", "no_phantom_session", put(0, session=pd.Timestamp("2020-01-20")), "2020-01-20", ["no session of the"]),
    ("bars", "answered", unsaid("answered", failure="timed out"), None, ["AAA has no answer", "timed out"]),
    (
        "bars",
        "columns_unchanged",
        unsaid("columns_unchanged", difference="gone: volume; new: Vol"),
        None,
        ["AAA has other columns", "gone: volume; new: Vol"],
    ),
    (
        "bars",
        "no_missing_session",
        unsaid("no_missing_session", missing="1 of them, such as 2020-03-09"),
        None,
        ["AAA has sessions missing", "1 of them, such as 2020-03-09"],
    ),
    ("bars", "splits_visible", unsaid("splits_visible", split="2 for 1"), None, ["AAA has a split", "2 for 1"]),
    ("bars", "fresh", unsaid("fresh", newest="the newest is 2020-03-10"), None, ["AAA has no bar", "is 2020-03-10"]),
    ("corporate_actions", "schema", lambda f: f.assign(note=""), None, [ALL_SYMBOLS, "note", "corporate action"]),
    ("corporate_actions", "value_present", put(0, value=NONE), FRIDAY, ["no value", "kind dividend"]),
    ("corporate_actions", "value_positive_and_finite", put(1, value=-2.0), TUESDAY, ["value -2.0", "not above zero"]),
    ("corporate_actions", "value_positive_and_finite", put(1, value=0.0), TUESDAY, ["value 0.0", "not above zero"]),
    ("corporate_actions", "value_positive_and_finite", put(0, value=math.inf), FRIDAY, ["value inf", "not finite"]),
    ("corporate_actions", "kind_known", put(0, kind="spinoff"), FRIDAY, ["kind spinoff", "neither split nor dividend"]),
    (
        "corporate_actions",
        "ex_date_is_session",
        put(0, ex_date=pd.Timestamp("2020-03-07")),
        "2020-03-07",
        ["an ex-date that is no session", "value 0.25"],
    ),
    ("corporate_actions", "answered", unsaid("answered", failure="403"), None, ["AAA has no answer", "403"]),
    (
        "corporate_actions",
        "columns_unchanged",
        unsaid("columns_unchanged", difference="new: fee"),
        None,
        ["AAA has other columns", "new: fee"],
    ),
]
ONLY_WITH_OTHERS = {("bars", "low_not_above_high")}
"""A low above the high leaves no place for the close, which every bar has; it is tested by itself below."""


def judge(asset: str, rows: pd.DataFrame, symbols: pd.DataFrame | None = None) -> dict[str, Finding]:
    frames: dict[Any, pd.DataFrame] = {"rows": rows}
    frames["symbols"] = good_symbols(asset) if symbols is None else symbols
    # what is before 2000 is no session of the calendar either; here it is, so that the rules can be told apart
    sessions = SESSIONS.union(pd.DatetimeIndex(["1999-12-31"]).as_unit("us"))
    return {finding.rule.name: finding for finding in evaluate_rules(asset, frames, sessions)}


def broken(findings: Mapping[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.failing}


@pytest.mark.parametrize("asset", RULES)
def test_good_rows_break_no_rule(asset: str) -> None:
    findings = judge(asset, GOOD[asset]())
    assert list(findings) == [rule.name for rule in RULES[asset]]
    assert broken(findings) == set()


def test_closes_alone_are_good_bars() -> None:
    bars = good_bars().assign(open=np.nan, high=np.nan, low=np.nan, volume=np.nan)
    assert broken(judge("bars", bars)) == set()


@pytest.mark.parametrize("name", ["open", "high", "low", "close"])
def test_prices_that_touch_their_bounds_are_good(name: str) -> None:
    bars = good_bars().assign(**dict.fromkeys(["open", "high", "low", "close"], 10.0))
    assert broken(judge("bars", bars)) == set()


@pytest.mark.parametrize(("asset", "rule", "spoil", "date", "parts"), BREAKS, ids=[f"{a}-{r}" for a, r, *_ in BREAKS])
def test_a_frame_that_breaks_just_one_rule(
    asset: str, rule: str, spoil: Callable[[pd.DataFrame], pd.DataFrame], date: str | None, parts: list[str]
) -> None:
    of_symbols = {r.name: r.frame for r in RULES[asset]}[rule] == "symbols"
    rows, symbols = GOOD[asset](), good_symbols(asset)
    findings = judge(asset, rows, spoil(symbols)) if of_symbols else judge(asset, spoil(rows), symbols)
    assert broken(findings) == {rule}
    finding = findings[rule]
    assert finding.symbols == [ALL_SYMBOLS if rule == "schema" else "AAA"]
    if date is not None:
        assert {row["date"] for row in finding.failing} == {date}
        assert f"the first is AAA on {date}" in finding.message
    assert [part for part in parts if part not in finding.message] == []


def test_a_low_above_the_high() -> None:
    findings = judge("bars", put(1, open=NONE, high=9.0, close=9.0)(good_bars()))
    # the close can be within one of the two bounds only
    assert broken(findings) == {"low_not_above_high", "low_not_above_close"}
    assert "1 rows of AAA have a low above the high; the first is AAA on 2020-03-06 (high 9.0, low 10.0" in (
        findings["low_not_above_high"].message
    )


def test_every_rule_is_exercised() -> None:
    rules = {(asset, rule.name) for asset in RULES for rule in RULES[asset]}
    assert {(asset, rule) for asset, rule, *_ in BREAKS} | ONLY_WITH_OTHERS == rules


@pytest.mark.parametrize("asset", RULES)
def test_names_of_rules_are_unique_and_each_is_a_blocking_check(asset: str) -> None:
    specs = quality_specs(asset)
    assert [spec.name for spec in specs] == [rule.name for rule in RULES[asset]]
    assert len({spec.name for spec in specs}) == len(specs)
    assert all(spec.blocking and spec.asset_key == dg.AssetKey(asset) for spec in specs)
    assert all(rule.meaning in str(spec.description) for rule, spec in zip(RULES[asset], specs, strict=True))


# -- what a finding says ----------------------------------------------------------------------------------------------


def test_a_finding_counts_rows_and_names_each_symbol_once() -> None:
    bars = good_bars()
    bars.loc[[1, 2, 8], "volume"] = -3.0
    finding = judge("bars", bars)["volume_finite_and_not_negative"]
    assert finding.symbols == ["AAA", "BBB"]
    assert finding.message.startswith(
        "3 rows of AAA, BBB have a volume that is negative or not finite; the first is AAA"
    )


def test_a_finding_does_not_list_a_thousand_symbols() -> None:
    symbols = pd.concat([good_symbols("bars").iloc[[0]]] * 13, ignore_index=True)
    symbols = symbols.assign(symbol=[f"S{number:02d}" for number in range(13)], answered=False, failure="down")
    message = judge("bars", good_bars(), symbols)["answered"].message
    assert message.startswith("S00, S01, ")
    assert "S09 and 3 more have no answer from the source; the first is S00 (down)" in message
    assert "S10" not in message


@pytest.mark.parametrize(("blocks", "severity"), [(True, "ERROR"), (False, "WARN")])
def test_the_check_of_a_broken_rule(blocks: bool, severity: str) -> None:
    bars = pd.concat([good_bars().assign(symbol=f"S{number:02d}", volume=-1.0) for number in range(6)]).reset_index(
        drop=True
    )
    finding = judge("bars", bars)["volume_finite_and_not_negative"]
    result = check_result("bars", finding, len(bars), blocks=blocks)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity[severity]
    assert result.description == finding.message
    metadata = {name: value.value for name, value in result.metadata.items()}
    assert (metadata["judged"], metadata["failing"]) == (60, 60)
    assert len(metadata["failing_rows"]) == SHOWN_ROWS
    assert metadata["failing_rows"][0]["symbol"] == "S00"
    assert metadata["failing_rows"][0]["volume"] == -1.0


def test_the_check_of_a_rule_that_holds() -> None:
    finding = judge("bars", good_bars())["no_duplicate"]
    result = check_result("bars", finding, 10, blocks=True)
    assert result.passed
    assert result.description == "none of 10 new rows"


def test_missing_values_of_a_failing_row_are_missing_in_its_metadata() -> None:
    finding = judge("bars", put(1, close=NONE, open=NONE)(good_bars()))["close_present"]
    (row,) = check_result("bars", finding, 10, blocks=True).metadata["failing_rows"].value
    assert (row["close"], row["open"], row["high"], row["date"]) == (None, None, 10.75, FRIDAY)
    assert "close" not in finding.message.partition("(")[2]


def test_only_the_row_that_breaks_a_rule_fails_it_although_another_has_its_date() -> None:
    """A split and a dividend may share their ex-date; only one of them is wrong."""
    actions = put(0, ex_date=DAYS[3], value=-0.25)(good_actions())
    finding = judge("corporate_actions", actions)["value_positive_and_finite"]
    assert [(row["kind"], row["value"]) for row in finding.failing] == [("dividend", -0.25)]
    assert "1 rows of AAA" in finding.message
    assert "kind dividend, value -0.25" in finding.message


# -- nothing new ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asset", RULES)
def test_nothing_new_breaks_no_rule(asset: str) -> None:
    findings = judge(asset, GOOD[asset]().iloc[:0], good_symbols(asset).iloc[:0])
    assert list(findings) == [rule.name for rule in RULES[asset]]
    assert broken(findings) == set()


def test_rules_on_a_frame_that_is_not_given_are_not_run() -> None:
    findings = evaluate_rules("bars", {"rows": good_bars()}, SESSIONS)
    assert [finding.rule.name for finding in findings] == [rule.name for rule in RULES["bars"] if rule.frame == "rows"]


def test_the_caller_keeps_its_frame() -> None:
    bars = put(1, close=-1.0)(good_bars())
    before = bars.copy()
    judge("bars", bars)
    pd.testing.assert_frame_equal(bars, before)


# -- against plain re-statements --------------------------------------------------------------------------------------


ORDERED = (("low", "high"), ("low", "open"), ("low", "close"), ("open", "high"), ("close", "high"))


def breaches(row: Mapping[str, Any], others: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether a bar breaks each rule, said once more without the library."""
    found = {
        "close_present": math.isnan(row["close"]),
        "volume_finite_and_not_negative": not (math.isnan(row["volume"]) or 0 <= row["volume"] < math.inf),
        "not_before_2000": row["session"].year < 2000,
        "no_phantom_session": row["session"] not in set(SESSIONS),
        "no_duplicate": sum(r["symbol"] == row["symbol"] and r["session"] == row["session"] for r in others) > 1,
    }
    for name in ("open", "high", "low", "close"):
        found[f"{name}_positive_and_finite"] = not (math.isnan(row[name]) or 0 < row[name] < math.inf)
    # a comparison with what is missing is false
    return found | {f"{lower}_not_above_{upper}": row[lower] > row[upper] for lower, upper in ORDERED}


PRICES = st.one_of(
    st.sampled_from([NONE, 0.0, -1.0, math.inf, -math.inf, 5e-324, sys.float_info.max, 10.0, 10.0, 10.0]),
    st.floats(1.0, 20.0),
)
DATES = st.one_of(
    st.sampled_from(list(DAYS)),
    st.sampled_from([pd.Timestamp(day) for day in ("1999-12-31", "2000-01-01", "2000-01-03", "2020-03-07")]),
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(
        st.tuples(DATES, st.sampled_from(["AAA", "BBB"]), PRICES, PRICES, PRICES, PRICES, PRICES),
        min_size=1,
        max_size=12,
    ),
)
def test_findings_on_bars_are_those_of_plain_python(rows: list[tuple[Any, ...]]) -> None:
    bars = pd.DataFrame(rows, columns=BAR_COLUMNS)
    bars = bars.astype({"session": "datetime64[us]"} | dict.fromkeys(BAR_COLUMNS[2:], "float64"))
    found = {
        (finding.rule.name, row["symbol"], row["date"])
        for finding in evaluate_rules("bars", {"rows": bars}, SESSIONS)
        for row in finding.failing
    }
    records = bars.to_dict("records")
    expected = {
        (name, row["symbol"], f"{row['session']:%Y-%m-%d}")
        for row in records
        for name, breaks in breaches(row, records).items()
        if breaks
    }
    assert found == expected


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(
        st.tuples(DATES, st.sampled_from(["AAA", "BBB"]), st.sampled_from(["split", "dividend", "spinoff"]), PRICES),
        min_size=1,
        max_size=8,
        unique_by=lambda row: row[:2],
    )
)
def test_findings_on_actions_are_those_of_plain_python(rows: list[tuple[Any, ...]]) -> None:
    actions = pd.DataFrame(rows, columns=ACTION_COLUMNS).astype({"ex_date": "datetime64[us]", "value": "float64"})
    found = {
        (finding.rule.name, row["symbol"], row["date"], row["kind"])
        for finding in evaluate_rules("corporate_actions", {"rows": actions}, SESSIONS)
        for row in finding.failing
    }
    expected = set()
    for ex_date, symbol, kind, value in rows:
        broken_rules = {
            "value_present": math.isnan(value),
            "value_positive_and_finite": not math.isnan(value) and not 0 < value < math.inf,
            "kind_known": kind == "spinoff",
            "ex_date_is_session": ex_date not in set(SESSIONS),
        }
        expected |= {(name, symbol, f"{ex_date:%Y-%m-%d}", kind) for name, breaks in broken_rules.items() if breaks}
    assert found == expected


# -- the library ------------------------------------------------------------------------------------------------------

OBSERVED_RUN = """
import sys
calls = []
# binding to a port of this machine is how urllib3 asks for IPv6; what leaves it is a connection or a name
sys.addaudithook(lambda event, _: calls.append(event) if event in WATCHED else None)
import pandas as pd
from trading_dagster.checks.market_data_quality import evaluate_rules
from trading_dagster.resources.market_data import ACTION_COLUMNS
day = pd.Timestamp("2020-03-06")
rows = pd.DataFrame([(day, "AAA", "split", -2.0)], columns=ACTION_COLUMNS)
findings = evaluate_rules("corporate_actions", {"rows": rows}, pd.DatetimeIndex([day]))
assert sum(len(finding.failing) for finding in findings) == 1
print(sorted(set(calls)))
"""


def test_the_library_does_not_report_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where its own switch is on."""
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "true")
    watched = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
    code = f"WATCHED = {watched!r}\n{OBSERVED_RUN}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1] == "[]"
