"""Jumps, spikes and restatements: truths worked out by hand, the cut-off, and the rule applied bar by bar."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.quant.histories import actions_table, no_actions, weekdays
from trading_dagster.quant.bar_quality import compare_overlap, find_jumps, find_phantoms

Rows = Sequence[tuple[int, str, str, float]]


def calm(count: int, size: float = 0.01) -> list[float]:
    """Log returns of turning sign, so that their deviation is known."""
    return [size * (-1) ** number for number in range(count)]


def deviation(returns: Sequence[float]) -> float:
    return statistics.stdev(returns)


def bars(
    returns: Mapping[str, Sequence[float]],
    judge: int | Sequence[int],
    bad: Sequence[tuple[int, str]] = (),
    absent: Sequence[tuple[int, str]] = (),
    rows: Rows = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bars whose log returns, actions undone, are the given ones: bar 0 is at 100 and bar t follows return t - 1.

    `judge` is the first position to judge, or the positions.
    """
    parts = []
    for symbol, moves in returns.items():
        days = weekdays(len(moves) + 1)
        closes, close = [100.0], 100.0
        for number, move in enumerate(moves, start=1):
            here = [(kind, value) for at, name, kind, value in rows if at == number and name == symbol]
            ratio = math.prod(value for kind, value in here if kind == "split")
            cash = sum(value for kind, value in here if kind == "dividend")
            close = (close / ratio - cash) * math.exp(move)
            closes.append(close)
        parts.append(pd.DataFrame({"session": days, "symbol": symbol, "close": closes}).assign(at=range(len(days))))
    table = pd.concat(parts, ignore_index=True)
    chosen = table["at"] >= judge if isinstance(judge, int) else table["at"].isin(judge)
    where = list(zip(table["at"], table["symbol"], strict=True))
    table["bad"] = [place in set(bad) for place in where]
    table["judge"] = chosen & ~table["bad"]
    table = table[[place not in set(absent) for place in where]]
    days = weekdays(1 + max(map(len, returns.values())))
    actions = actions_table([(days[at], symbol, kind, value) for at, symbol, kind, value in rows])
    return table.drop(columns="at"), actions


def found(table: pd.DataFrame, actions: pd.DataFrame | None = None) -> list[tuple[int, str, str]]:
    """Position, symbol and reason of each bad bar."""
    result = find_jumps(table, no_actions() if actions is None else actions)
    assert list(result.columns) == ["session", "symbol", "reason", "detail"]
    days = weekdays(2000)
    return [(int(days.get_loc(row.session)), row.symbol, row.reason) for row in result.itertuples()]


# -- the bound ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, 100, 250, 400])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("sigmas", "is_bad"), [(9.5, False), (9.999, False), (10.001, True), (10.5, True)])
def test_bound_is_ten_deviations(count: int, sign: float, sigmas: float, is_bad: bool) -> None:
    before = calm(count)
    jump = sign * sigmas * deviation(before[-250:])
    assert found(bars({"A": [*before, jump]}, count + 1)[0]) == ([(count + 1, "A", "jump")] if is_bad else [])


def test_twenty_returns_are_needed_before() -> None:
    assert found(bars({"A": [*calm(19), 2.0]}, 20)[0]) == []
    assert found(bars({"A": [*calm(20), 2.0]}, 21)[0]) == [(21, "A", "jump")]


def test_deviation_is_of_the_last_250_returns() -> None:
    # a storm of 30 % as the 251st return before the bar is forgotten, as the 250th it is not
    jump = 10.5 * deviation(calm(250))
    assert found(bars({"A": [*calm(30), 0.3, *calm(250), jump]}, 282)[0]) == [(282, "A", "jump")]
    assert found(bars({"A": [*calm(30), 0.3, *calm(249), jump]}, 281)[0]) == []


def test_resting_price_may_move_by_one_percent() -> None:
    assert found(bars({"A": [*[0.0] * 60, 0.0099]}, 61)[0]) == []
    assert found(bars({"A": [*[0.0] * 60, 0.0101]}, 61)[0]) == [(61, "A", "jump")]


def test_only_bars_to_be_judged_are() -> None:
    table, _ = bars({"A": [*calm(40), 1.0, *calm(40), 1.0, *calm(5)]}, [82])
    assert found(table) == []  # believed, the first jump has widened the bound: 1.0 is 9 of the deviations with it
    table, _ = bars({"A": [*calm(40), 1.0, *calm(40), 3.0, *calm(5)]}, [82])
    assert found(table) == [(82, "A", "jump")]


@pytest.mark.parametrize("flags", [{"judge": False}, {"judge": False, "bad": True}])
def test_nothing_to_judge_finds_nothing(flags: dict[str, bool]) -> None:
    table, actions = bars({"A": [*calm(40), 1.0]}, 0)
    result = find_jumps(table.assign(**flags), actions)
    assert len(result) == 0
    assert [str(t) for t in result.dtypes] == ["datetime64[us]", "str", "str", "str"]


def test_bar_after_a_gap_is_held_against_the_last_one_before_it() -> None:
    table, actions = bars({"A": [*calm(40), *calm(10), 0.0], "B": calm(51)}, 45, absent=[(t, "A") for t in (46, 47)])
    assert found(table, actions) == []
    moves = [*calm(45), 0.3, 0.3, 0.0, *calm(3)]
    table, actions = bars({"A": moves, "B": calm(51)}, 45, absent=[(t, "A") for t in (46, 47)])
    assert found(table, actions) == [(48, "A", "jump")]


# -- explanations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        pytest.param((51, "A", "split", 2.0), id="split"),
        pytest.param((51, "A", "split", 0.1), id="reverse_split"),
        pytest.param((51, "A", "dividend", 40.0), id="dividend"),
    ],
)
def test_what_an_action_explains_is_no_jump(row: tuple[int, str, str, float]) -> None:
    table, actions = bars({"A": calm(60)}, 30, rows=[row])
    assert found(table, actions) == []
    # the price goes there without the action, and stays
    assert found(table) == [(51, "A", "jump")]
    # the action of a day later explains the bar of its own date no more than that of another symbol
    assert (51, "A") in [row[:2] for row in found(table, actions.assign(ex_date=weekdays(60)[52]))]
    assert found(table, actions.assign(symbol="B")) == [(51, "A", "jump")]


@pytest.mark.parametrize(("symbols", "is_bad"), [(4, True), (5, False), (6, False)])
def test_what_the_market_shares_is_no_jump(symbols: int, is_bad: bool) -> None:
    names = [f"S{number}" for number in range(symbols)]
    table, _ = bars({name: [*calm(40), -0.25, *calm(3)] for name in names}, 30)
    assert found(table) == ([(41, name, "jump") for name in names] if is_bad else [])


def test_five_symbols_must_have_a_bar_of_the_day() -> None:
    names = [f"S{number}" for number in range(5)]
    table, _ = bars({name: [*calm(40), -0.25] for name in names}, 30, absent=[(41, "S4")])
    assert found(table) == [(41, name, "jump") for name in names[:4]]


def test_own_jump_beside_a_quiet_market_and_against_a_moving_one() -> None:
    names = [f"S{number}" for number in range(6)]
    quiet = {name: [*calm(40), 0.0] for name in names}
    assert found(bars(quiet | {"S2": [*calm(40), 0.25]}, 30)[0]) == [(41, "S2", "jump")]
    falling = {name: [*calm(40), -0.25] for name in names}
    assert found(bars(falling | {"S2": [*calm(40), 0.25]}, 30)[0]) == [(41, "S2", "jump")]
    # a symbol that stands still while the market falls is far from the market, but has not moved
    assert found(bars(falling | {"S2": [*calm(40), 0.0]}, 30)[0]) == []
    # its excess over the market's -25 % counts: 9 deviations of it are none too many, 11 are
    sigma = deviation(calm(40))
    assert found(bars(falling | {"S2": [*calm(40), -0.25 - 9 * sigma]}, 30)[0]) == []
    assert found(bars(falling | {"S2": [*calm(40), -0.25 - 11 * sigma]}, 30)[0]) == [(41, "S2", "jump")]


# -- what comes after a bad bar ------------------------------------------------------------------------------------


def test_spike_is_bad_and_the_bar_after_it_is_good() -> None:
    table, _ = bars({"A": [*calm(40), 0.5, -0.5, *calm(10)]}, 30)
    assert found(table) == [(41, "A", "spike")]
    details = find_jumps(table, no_actions())["detail"].iloc[0]
    sigma = deviation(calm(40))
    assert details == (
        f"moved +64.9%, {0.5 / sigma:.0f} times the usual {sigma:.2%} a day (bound 10), without a split or dividend "
        "that explains it, the market +0.0%; the next bar is back"
    )


def test_bar_after_a_spike_may_have_moved_as_a_bar_may() -> None:
    sigma = deviation(calm(40))
    assert found(bars({"A": [*calm(40), 0.5, -0.5 + 9 * sigma, *calm(10)]}, 30)[0]) == [(41, "A", "spike")]
    assert found(bars({"A": [*calm(40), 0.5, -0.5 - 9 * sigma, *calm(10)]}, 30)[0]) == [(41, "A", "spike")]
    for moved in (11 * sigma, -11 * sigma):
        assert [row[:2] for row in found(bars({"A": [*calm(40), 0.5, -0.5 + moved, *calm(10)]}, 30)[0])] == [
            (41, "A"),
            (42, "A"),
        ]


def test_bar_after_a_spike_may_have_moved_as_the_market_did() -> None:
    names = [f"S{number}" for number in range(6)]
    falling = {name: [*calm(40), 0.0, -0.25, *calm(5)] for name in names}
    assert found(bars(falling | {"S2": [*calm(40), 0.6, -0.85, *calm(5)]}, 30)[0]) == [(41, "S2", "spike")]
    # and the same where it is the market's move of the spike's own day that is to be counted
    falling = {name: [*calm(40), -0.25, 0.0, *calm(5)] for name in names}
    assert found(bars(falling | {"S2": [*calm(40), 0.6, -0.85, *calm(5)]}, 30)[0]) == [(41, "S2", "spike")]


def test_level_that_stays_is_bad_once() -> None:
    table, _ = bars({"A": [*calm(40), 0.5, *calm(10)]}, 30)
    assert found(table) == [(41, "A", "jump")]
    assert find_jumps(table, no_actions())["detail"].iloc[0].endswith("the next bar stayed there")


def test_confirmed_level_that_is_left_again_is_a_jump_of_its_own() -> None:
    assert found(bars({"A": [*calm(40), 0.5, *calm(2), -0.5, *calm(10)]}, 30)[0]) == [
        (41, "A", "jump"),
        (44, "A", "jump"),
    ]


def test_newest_bar_has_nothing_after_it() -> None:
    table, _ = bars({"A": [*calm(40), 0.5]}, 30)
    assert found(table) == [(41, "A", "jump")]
    assert find_jumps(table, no_actions())["detail"].iloc[0].endswith("the next bar is not known yet")


def test_two_bad_bars_in_a_row() -> None:
    up_twice = bars({"A": [*calm(40), 0.5, 0.7, -1.2, *calm(10)]}, 30)[0]
    assert [row[:2] for row in found(up_twice)] == [(41, "A"), (42, "A")]
    there_and_beyond = bars({"A": [*calm(40), 0.5, -0.9, 0.4, *calm(10)]}, 30)[0]
    assert [row[:2] for row in found(there_and_beyond)] == [(41, "A"), (42, "A")]


def test_half_way_back_is_no_spike() -> None:
    moves = [*calm(40), 0.5, -0.24, *calm(5)]
    assert found(bars({"A": moves}, 30)[0])[0] == (41, "A", "jump")
    moves = [*calm(40), 0.5, -0.26, *calm(5)]
    assert found(bars({"A": moves}, 30)[0])[0] == (41, "A", "spike")


def test_bad_bars_do_not_widen_the_bound() -> None:
    # with the first spike in the deviation, 0.5 would be some 5 of them
    table, _ = bars({"A": [*calm(40), 0.5, -0.5, *calm(20), 0.5, -0.5, *calm(10)]}, 30)
    assert found(table) == [(41, "A", "spike"), (63, "A", "spike")]
    table, _ = bars({"A": [*calm(40), 0.5, *calm(20), 0.5, *calm(10)]}, 30)
    assert found(table) == [(41, "A", "jump"), (62, "A", "jump")]
    # the bar that was found before does as little
    table, _ = bars({"A": [*calm(40), 0.5, -0.5, *calm(20), 0.5, -0.5, *calm(10)]}, [63, 64], bad=[(41, "A")])
    assert found(table) == [(41, "A", "spike"), (63, "A", "spike")]


def test_bar_found_before_is_named_by_what_came_since() -> None:
    for after, reason in ((-0.5, "spike"), (0.0, "jump")):
        table, _ = bars({"A": [*calm(40), 0.5, after, *calm(3)]}, [42, 43, 44, 45], bad=[(41, "A")])
        assert found(table) == [(41, "A", reason)]
        assert (
            find_jumps(table, no_actions())["detail"].iloc[0].endswith("back" if reason == "spike" else "stayed there")
        )


def test_bar_found_before_is_reported_where_little_precedes_it() -> None:
    table, _ = bars({"A": [0.5, -0.5, *calm(30)]}, 25, bad=[(1, "A")])
    assert found(table) == [(1, "A", "spike")]
    table, _ = bars({"A": calm(30)}, 25, bad=[(0, "A")])
    assert found(table) == [(0, "A", "jump")]


def test_found_bars_come_by_session_then_symbol_whatever_the_order_of_the_rows() -> None:
    moves = [*calm(40), 0.5, -0.5, *calm(5), 0.5, *calm(3)]
    table, actions = bars({"B": moves, "A": moves}, 30)
    expected = [(41, "A", "spike"), (41, "B", "spike"), (48, "A", "jump"), (48, "B", "jump")]
    assert found(table, actions) == expected
    assert found(table.sample(frac=1.0, random_state=1), actions) == expected


def test_bar_back_after_a_spike_that_an_earlier_jump_hid_at_first_is_good() -> None:
    # while the first jump is in the deviation, the way into the spike is within the bound and the way back is not
    moves = [*calm(240), 0.7, *calm(4), 0.44, -0.538, *calm(5)]
    table, _ = bars({"A": moves}, 230)
    assert found(table) == [(241, "A", "jump"), (246, "A", "spike")]


# -- the rule, bar by bar -------------------------------------------------------------------------------------------


class Move(NamedTuple):
    since: int
    size: float


def returns_of(closes: NDArray[np.float64], actions: Mapping[int, Sequence[tuple[str, float]]]) -> dict[int, Move]:
    """Returns of one symbol by position, each with the position it is counted from; actions never fall into a gap."""
    moves, last = {}, None
    for t in range(len(closes)):
        if math.isnan(closes[t]):
            continue
        if last is not None:
            ratio = math.prod(value for kind, value in actions.get(t, ()) if kind == "split")
            cash = sum(value for kind, value in actions.get(t, ()) if kind == "dividend")
            moves[t] = Move(last, math.log(closes[t] / (closes[last] / ratio - cash)))
        last = t
    return moves


def judged_one_by_one(
    moves: Sequence[dict[int, Move]], judge: NDArray[np.bool_], bad: NDArray[np.bool_]
) -> set[tuple[int, int]]:
    """Bad bars by the rule as the documentation of `find_jumps` states it, session after session, in plain loops.

    The 250 returns before a bar are those of 250 sessions.
    """
    market = []
    for t in range(len(judge)):
        today = [of[t].size for of in moves if t in of]
        market.append(statistics.median(today) if len(today) >= 5 else None)
    found = {(int(t), int(s)) for t, s in np.argwhere(bad)}

    def is_far(t: int, s: int) -> bool:
        usable = [
            move.size
            for at, move in moves[s].items()
            if t - 250 <= at < t and (at, s) not in found and (move.since, s) not in found
        ]
        if len(usable) < 20:
            return False
        bound = 10 * max(float(np.std(usable, ddof=1)), 0.001)

        def beyond(size: float, shared: float | None) -> bool:
            return abs(size) > bound and (shared is None or abs(size - shared) > bound)

        move = moves[s][t]
        if not beyond(move.size, market[t]):
            return False
        size, at = move.size, move.since
        while (at, s) in found and at in moves[s]:
            # the returns since the last good bar add up, and so do the market's
            size, at = size + moves[s][at].size, moves[s][at].since
        is_back = (at, s) not in found and not beyond(size, sum(market[k] or 0.0 for k in range(at + 1, t + 1)))
        return at == move.since or not is_back

    for t, s in np.argwhere(judge):
        if t in moves[s] and is_far(int(t), int(s)):
            found.add((int(t), int(s)))
    return found


def stormy(
    seed: int, symbols: int, count: int, absent: float
) -> tuple[pd.DataFrame, pd.DataFrame, NDArray[np.float64], Rows, list[str]]:
    """Random walks with a common move, into which spikes, steps, actions and market crashes are put."""
    random = np.random.default_rng(seed)
    names = [f"S{number}" for number in range(symbols)]
    moves = random.normal(0, 0.004, (count, 1)) + random.normal(0, 0.01, (count, symbols))
    for _ in range(2):
        moves[random.integers(25, count)] += random.choice([-1, 1]) * random.uniform(0.05, 0.4)
    for _ in range(5 * symbols):
        t, s = random.integers(5, count - 3), random.integers(symbols)
        size = random.choice([-1, 1]) * random.choice([0.08, 0.12, 0.2, 0.5, 1.5]) * random.uniform(0.8, 1.2)
        moves[t, s] += size
        kind = random.integers(4)
        if kind <= 1:
            moves[t + 1, s] -= size * random.uniform(0.7, 1.3) ** (kind == 1)
        elif kind == 2:
            moves[t + 1, s] += random.normal(0, 0.4)
            moves[t + 2, s] -= size
    closes = 100 * np.exp(np.vstack([np.zeros(symbols), moves]).cumsum(axis=0))
    holes = random.random(closes.shape) < absent
    closes[holes] = np.nan
    rows = []
    for s, name in enumerate(names):
        t = int(random.integers(10, count - 10))
        if not np.isnan(closes[t, s]):
            ratio = float(random.choice([2.0, 0.25, 1.5]))
            rows.append((t, name, "split", ratio))
            closes[t:, s] /= ratio
    table = pd.DataFrame(closes, index=weekdays(count + 1), columns=names).rename_axis("session").reset_index()
    table = table.melt("session", var_name="symbol", value_name="close").dropna(ignore_index=True)
    days = weekdays(count + 1)
    return table, actions_table([(days[t], name, kind, v) for t, name, kind, v in rows]), closes, rows, names


@pytest.mark.parametrize("absent", [0.0, 0.05])
@pytest.mark.parametrize(("symbols", "count"), [(1, 120), (4, 80), (7, 100), (5, 300)])
@pytest.mark.parametrize("seed", range(4))
def test_jumps_are_those_of_the_rule_applied_bar_by_bar(seed: int, symbols: int, count: int, absent: float) -> None:
    table, actions, closes, rows, names = stormy(seed, symbols, count, absent)
    random = np.random.default_rng(seed + 1000)
    there = ~np.isnan(closes)
    bad = there & (random.random(closes.shape) < 0.01)
    judge = there & ~bad & (random.random(closes.shape) < (0.9 if seed % 2 else 1.1))
    at, column = weekdays(count + 1).get_indexer(table["session"]), pd.Index(names).get_indexer(table["symbol"])
    table = table.assign(judge=judge[at, column], bad=bad[at, column])
    result = [(t, names.index(s)) for t, s, _ in found(table, actions)]
    moves = [
        returns_of(closes[:, s], {t: [(kind, value)] for t, own, kind, value in rows if own == name})
        for s, name in enumerate(names)
    ]
    assert len(result) == len(set(result))
    assert set(result) == judged_one_by_one(moves, judge, bad)


@given(
    seed=st.integers(0, 10_000),
    symbols=st.sampled_from([1, 3, 6]),
    cut=st.integers(22, 79),
    absent=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_verdict_uses_nothing_that_comes_after(seed: int, symbols: int, cut: int, absent: float) -> None:
    table, actions, _, _, _ = stormy(seed, symbols, 80, absent)
    last = weekdays(81)[cut]
    table = table.assign(bad=np.random.default_rng(seed).random(len(table)) < 0.01, judge=lambda t: ~t["bad"])
    whole = find_jumps(table, actions)
    # the cut-off hides the actions of later days, too
    short = find_jumps(table[table["session"] <= last], actions[actions["ex_date"] <= last])
    keys = ["session", "symbol"]
    assert short[keys].equals(whole.loc[whole["session"] <= last, keys].reset_index(drop=True))
    # a bar with another one after it has its final name
    later = table.groupby("symbol")["session"].apply(lambda days: days[days <= last].max()).to_dict()
    settled = short[short["session"] < short["symbol"].map(later)]
    assert settled.merge(whole, on=[*keys, "reason"]).shape[0] == len(settled)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=2, deadline=None, derandomize=True)
def test_judging_day_by_day_finds_what_judging_at_once_finds(seed: int) -> None:
    table, actions, _, _, _ = stormy(seed, 6, 45, 0.0)
    keys = ["session", "symbol"]
    at_once = find_jumps(table.assign(judge=True, bad=False), actions)
    known: set[tuple[pd.Timestamp, str]] = set()
    for day in weekdays(46)[20:]:
        rows = table[table["session"] <= day]
        bad = [place in known for place in zip(rows["session"], rows["symbol"], strict=True)]
        today = find_jumps(rows.assign(judge=rows["session"] == day, bad=bad), actions[actions["ex_date"] <= day])
        known = set(today[keys].itertuples(index=False, name=None))
    assert known == set(at_once[keys].itertuples(index=False, name=None))


# -- phantoms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session", "prices", "volume", "is_phantom"),
    [
        pytest.param("2003-01-01", (5.0, 5.0, 5.0, 5.0), 0.0, True, id="holiday_flat_without_trades"),
        pytest.param("2003-01-04", (5.0, 5.0, 5.0, 5.0), 0.0, True, id="saturday"),
        pytest.param("2003-01-02", (5.0, 5.0, 5.0, 5.0), 0.0, False, id="a_session"),
        pytest.param("2003-01-01", (5.0, 5.0, 5.0, 5.0), 100.0, False, id="traded"),
        pytest.param("2003-01-01", (5.0, 5.0, 5.0, 5.0), np.nan, False, id="volume_not_known"),
        pytest.param("2003-01-01", (5.0, 5.1, 5.0, 5.0), 0.0, False, id="high_moved"),
        pytest.param("2003-01-01", (4.9, 5.0, 5.0, 5.0), 0.0, False, id="open_moved"),
        pytest.param("2003-01-01", (5.0, 5.0, 5.0, 5.1), 0.0, False, id="close_moved"),
        pytest.param("2003-01-01", (5.0, 5.0, 4.9, 5.0), 0.0, False, id="low_moved"),
        pytest.param("2003-01-01", (np.nan, 5.0, 5.0, 5.0), 0.0, False, id="open_not_known"),
    ],
)
def test_phantoms(session: str, prices: tuple[float, ...], volume: float, is_phantom: bool) -> None:
    row = dict(zip(("open", "high", "low", "close"), prices, strict=True))
    table = pd.DataFrame([{"session": pd.Timestamp(session), **row, "volume": volume}] * 2)
    sessions = pd.DatetimeIndex(["2003-01-02", "2003-01-03", "2003-01-06"])
    result = find_phantoms(table, sessions)
    assert result.dtype == bool
    assert result.tolist() == [is_phantom] * 2


def test_phantoms_of_no_bars() -> None:
    none = pd.DataFrame({name: pd.Series(dtype="float64") for name in ("open", "high", "low", "close", "volume")})
    assert len(find_phantoms(none.assign(session=pd.Series(dtype="datetime64[us]")), weekdays(3))) == 0


# -- restatements ---------------------------------------------------------------------------------------------------

DAY = pd.Timestamp("2003-01-02")
VALUES = ["open", "high", "low", "close", "volume"]
OLD = (10.0, 12.0, 9.0, 11.0, 1000.0)


def priced(*rows: tuple[str, str, tuple[float, ...]]) -> pd.DataFrame:
    table = pd.DataFrame([(pd.Timestamp(day), symbol, *values) for day, symbol, values in rows])
    return table.set_axis(["session", "symbol", *VALUES], axis=1).astype(dict.fromkeys(VALUES, "float64"))


def splits(*rows: tuple[str, str, float]) -> pd.DataFrame:
    return actions_table([(pd.Timestamp(day), symbol, "split", value) for day, symbol, value in rows])


def test_equal_bars_are_no_change_nor_are_those_of_one_side_alone() -> None:
    stored = priced(("2003-01-02", "A", OLD), ("2003-01-03", "A", OLD))
    fetched = priced(("2003-01-03", "A", OLD), ("2003-01-06", "A", OLD), ("2003-01-02", "B", OLD))
    result = compare_overlap(stored, fetched, splits())
    assert len(result) == 0
    assert list(result.columns) == ["session", "symbol", *VALUES, *(f"old_{name}" for name in VALUES), "split"]
    assert result["split"].dtype == "float64"


def test_changed_bars_come_with_old_and_new_values() -> None:
    stored = priced(("2003-01-02", "A", OLD), ("2003-01-02", "B", OLD), ("2003-01-03", "A", OLD))
    new = (10.0, 12.0, 9.0, 11.5, 1000.0)
    fetched = priced(("2003-01-02", "A", OLD), ("2003-01-02", "B", new), ("2003-01-03", "A", OLD))
    result = compare_overlap(stored, fetched, splits())
    expected = pd.DataFrame([(DAY, "B", *new, *OLD, np.nan)])
    expected = expected.set_axis(["session", "symbol", *VALUES, *(f"old_{name}" for name in VALUES), "split"], axis=1)
    pd.testing.assert_frame_equal(result, expected, check_dtype=False, check_exact=True)


@pytest.mark.parametrize("name", VALUES)
def test_each_value_counts_as_a_change(name: str) -> None:
    stored = priced(("2003-01-02", "A", OLD))
    fetched = stored.assign(**{name: stored[name] + 0.01})
    result = compare_overlap(stored, fetched, splits())
    assert result[[name, f"old_{name}"]].to_numpy().tolist() == [[fetched[name].iloc[0], stored[name].iloc[0]]]


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [(np.nan, np.nan, False), (np.nan, 10.0, True), (10.0, np.nan, True)],
)
@pytest.mark.parametrize("name", ["open", "volume"])
def test_missing_values(name: str, old: float, new: float, changed: bool) -> None:
    stored = priced(("2003-01-02", "A", OLD))
    result = compare_overlap(stored.assign(**{name: old}), stored.assign(**{name: new}), splits())
    assert len(result) == changed
    assert result["split"].isna().all()


@pytest.mark.parametrize(
    ("ratio", "old"),
    [
        pytest.param(2.0, (10.01, 12.03, 9.07, 11.11), id="two_for_one"),
        pytest.param(7.0, (645.57, 651.26, 644.47, 645.57), id="seven_for_one"),
        pytest.param(0.1, (1.01, 1.05, 0.98, 1.02), id="one_for_ten"),
        pytest.param(1.5, (33.34, 33.35, 33.31, 33.33), id="three_for_two"),
        pytest.param(7.0, (0.37, 0.41, 0.33, 0.38), id="seven_for_one_of_cents"),
        pytest.param(20.0, (2.47, 2.53, 2.41, 2.49), id="twenty_for_one_of_dollars"),
    ],
)
@pytest.mark.parametrize("rounded", [True, False])
def test_bars_rewritten_for_a_later_split_are_explained(ratio: float, old: tuple[float, ...], rounded: bool) -> None:
    new = tuple(round(price / ratio, 2) if rounded else price / ratio for price in old)
    stored = priced(("2003-01-02", "A", (*old, 1000.0)))
    fetched = priced(("2003-01-02", "A", (*new, 1000.0 * ratio)))
    for volume in (1000.0 * ratio, 1000.0):
        result = compare_overlap(stored, fetched.assign(volume=volume), splits(("2003-01-06", "A", ratio)))
        assert result["split"].tolist() == [ratio]


def test_missing_open_does_not_hinder_the_explanation() -> None:
    stored = priced(("2003-01-02", "A", (np.nan, np.nan, np.nan, 10.0, np.nan)))
    fetched = priced(("2003-01-02", "A", (np.nan, np.nan, np.nan, 5.0, np.nan)))
    assert compare_overlap(stored, fetched, splits(("2003-01-06", "A", 2.0)))["split"].tolist() == [2.0]
    # one that came or went is no work of a split
    assert compare_overlap(stored, fetched.assign(open=5.0), splits(("2003-01-06", "A", 2.0)))["split"].isna().all()
    fetched = priced(("2003-01-02", "A", (np.nan, 6.0, 4.5, 5.5, 1000.0)))
    stored = priced(("2003-01-02", "A", OLD))
    assert compare_overlap(stored, fetched, splits(("2003-01-06", "A", 2.0)))["split"].isna().all()


def test_all_later_splits_count_together() -> None:
    stored = priced(("2003-01-02", "A", (60.0, 66.0, 54.0, 60.0, 10.0)))
    fetched = priced(("2003-01-02", "A", (10.0, 11.0, 9.0, 10.0, 60.0)))
    both = splits(
        ("2003-01-03", "A", 2.0), ("2003-01-06", "A", 3.0), ("2003-01-06", "B", 5.0), ("2003-01-02", "A", 9.0)
    )
    assert compare_overlap(stored, fetched, both)["split"].tolist() == [6.0]


@pytest.mark.parametrize(
    ("new", "rows"),
    [
        pytest.param((5.0, 6.0, 4.5, 5.5), [], id="no_split"),
        pytest.param((5.0, 6.0, 4.5, 5.5), [("2003-01-02", "A", 2.0)], id="split_of_the_day_itself"),
        pytest.param((5.0, 6.0, 4.5, 5.5), [("2002-12-30", "A", 2.0)], id="split_before"),
        pytest.param((5.0, 6.0, 4.5, 5.5), [("2003-01-06", "B", 2.0)], id="split_of_another"),
        pytest.param((5.0, 6.0, 4.5, 5.5), [("2003-01-06", "A", 3.0)], id="another_ratio"),
        pytest.param((5.0, 6.0, 4.5, 5.6), [("2003-01-06", "A", 2.0)], id="close_corrected_too"),
        pytest.param((5.1, 6.0, 4.5, 5.5), [("2003-01-06", "A", 2.0)], id="open_corrected_too"),
        pytest.param((5.0, 6.1, 4.5, 5.5), [("2003-01-06", "A", 2.0)], id="high_corrected_too"),
        pytest.param((5.0, 6.0, 4.4, 5.5), [("2003-01-06", "A", 2.0)], id="low_corrected_too"),
        pytest.param((10.0, 12.0, 9.0, 11.2), [("2003-01-06", "A", 2.0)], id="not_rewritten_for_it"),
        pytest.param((20.0, 24.0, 18.0, 22.0), [("2003-01-06", "A", 2.0)], id="wrong_way_round"),
        # the ratios undo each other: whatever changed, they did not do it
        pytest.param((10.0, 12.0, 9.0, 11.0), [("2003-01-06", "A", 2.0), ("2003-01-07", "A", 0.5)], id="undone"),
    ],
)
def test_other_changes_are_corrections(new: tuple[float, ...], rows: list[tuple[str, str, float]]) -> None:
    stored = priced(("2003-01-02", "A", OLD))
    fetched = priced(("2003-01-02", "A", (*new, 1000.5)))
    assert compare_overlap(stored, fetched, splits(*rows))["split"].isna().tolist() == [True]


def test_volume_alone_is_a_correction() -> None:
    stored = priced(("2003-01-02", "A", OLD))
    fetched = stored.assign(volume=2000.0)
    for rows in ((), (("2003-01-06", "A", 2.0),)):
        result = compare_overlap(stored, fetched, splits(*rows))
        assert result[["volume", "old_volume"]].to_numpy().tolist() == [[2000.0, 1000.0]]
        assert result["split"].isna().tolist() == [True]


@pytest.mark.parametrize(("close", "explained"), [(50.054, True), (50.056, False), (49.946, True), (49.944, False)])
def test_tolerance_is_a_tenth_of_a_percent_and_half_a_cent(close: float, explained: bool) -> None:
    # 100 old dollars, two for one: 0.1 and twice half a cent, 0.11 in all
    stored = priced(("2003-01-02", "A", (np.nan, np.nan, np.nan, 100.0, np.nan)))
    fetched = stored.assign(close=close)
    result = compare_overlap(stored, fetched, splits(("2003-01-06", "A", 2.0)))
    assert result["split"].notna().tolist() == [explained]
