"""Data-policy verdicts and violations in the ledger, on both databases."""

import pytest

from trading_dagster.policy import Violation

from .books import MONDAY, TUESDAY, WEDNESDAY, dump


def test_a_verdict_that_says_what_it_said_is_left_as_it_is(ledger):
    ledger.record_verdicts("forecast", [MONDAY, TUESDAY], True, ["BBB", "AAA"], "first")
    before = dump(ledger)["policy_verdicts"]
    assert [row[:5] for row in before] == [
        ("forecast", "2020-03-09", 1, "AAA,BBB", "first"),
        ("forecast", "2020-03-10", 1, "AAA,BBB", "first"),
    ]
    ledger.record_verdicts("forecast", [MONDAY, TUESDAY], True, ["AAA", "BBB"], "second")
    assert dump(ledger)["policy_verdicts"] == before


@pytest.mark.parametrize(("passed", "excluded"), [(False, ["AAA"]), (True, []), (True, ["AAA", "BBB"])])
def test_a_verdict_that_changed_is_the_latest(ledger, passed, excluded):
    ledger.record_verdicts("forecast", [MONDAY, TUESDAY], True, ["AAA"], "first")
    ledger.record_verdicts("forecast", [TUESDAY, WEDNESDAY], passed, excluded, "second")
    rows = [row[1:5] for row in dump(ledger)["policy_verdicts"]]
    latest = (int(passed), ",".join(excluded), "second")
    assert rows == [("2020-03-09", 1, "AAA", "first"), ("2020-03-10", *latest), ("2020-03-11", *latest)]
    assert ledger.verdicts(TUESDAY, ["forecast"]) == {"forecast": passed}


def test_verdicts_are_of_the_assets_and_the_session_asked_for(ledger):
    ledger.record_verdicts("bars", [MONDAY, TUESDAY], True, [], "run")
    ledger.record_verdicts("regime", [MONDAY], False, [], "run")
    ledger.record_verdicts("forecast", [MONDAY], True, [], "run")
    assert ledger.verdicts(MONDAY, ["bars", "regime", "signals"]) == {"bars": True, "regime": False}
    assert ledger.verdicts(WEDNESDAY, ["bars"]) == {}
    assert ledger.count_verdicts([MONDAY]) == (2, 3)
    assert ledger.count_verdicts([MONDAY, TUESDAY]) == (3, 4)
    assert ledger.count_verdicts([]) == (0, 0)


def test_the_newest_session_that_passed(ledger):
    assert ledger.newest_passed("bars") is None
    ledger.record_verdicts("bars", [MONDAY, TUESDAY], True, [], "run")
    ledger.record_verdicts("bars", [WEDNESDAY], False, [], "run")
    ledger.record_verdicts("regime", [WEDNESDAY], True, [], "run")
    assert ledger.newest_passed("bars") == TUESDAY
    ledger.record_verdicts("bars", [TUESDAY], False, [], "run")
    assert ledger.newest_passed("bars") == MONDAY


def test_violations_are_added_and_never_merged(ledger):
    short = Violation("forecast", "AAA", MONDAY, 1499, 1500)
    stale = Violation("bars", "BBB", MONDAY, 10, 1, "stale")
    ledger.record_violations([short, stale], "abort", "first")
    ledger.record_violations([short], "exclude", "second")
    ledger.record_violations([], "abort", "third")
    rows = sorted(dump(ledger)["policy_violations"])
    assert [row[1:8] + row[9:10] for row in rows] == [
        ("forecast", "AAA", "2020-03-09", "minimum_bars", 1499, 1500, "abort", "first"),
        ("bars", "BBB", "2020-03-09", "stale", 10, 1, "abort", "first"),
        ("forecast", "AAA", "2020-03-09", "minimum_bars", 1499, 1500, "exclude", "second"),
    ]
    assert "AAA has 1499 bars" in rows[0][8]
