"""The market itself: real moves, actions put in, and adjustment against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.servers import market as edits
from tests.servers.market import PRICES, Listing, actions_frame, adjusted_close, split_factor
from tests.servers.universe import PLANS, build, daily_moves, sessions

WEEK = pd.DatetimeIndex(["2014-06-02", "2014-06-03", "2014-06-04", "2014-06-05", "2014-06-06"]).as_unit("us")


def listing(closes: list[float], *actions: tuple[str, str, float]) -> Listing:
    bars = pd.DataFrame({name: closes for name in PRICES}, index=WEEK[: len(closes)])
    bars["volume"] = 1000
    return Listing("X", bars, actions_frame(actions))


@pytest.mark.parametrize("symbol", PLANS)
def test_bars_are_possible(market: dict[str, Listing], symbol: str) -> None:
    bars = market[symbol].bars
    assert list(bars) == [*PRICES, "volume"]
    assert bars.index.dtype == "datetime64[us]"
    assert bars.index.equals(sessions())
    assert not bars.isna().any(axis=None)
    assert (bars["low"] <= bars[["open", "close"]].min(axis=1)).all()
    assert (bars["high"] >= bars[["open", "close"]].max(axis=1)).all()
    assert (bars[["low", "volume"]] > 0).all(axis=None)
    assert np.array_equal(bars[PRICES], bars[PRICES].round(2))


@pytest.mark.parametrize("symbol", PLANS)
def test_total_returns_are_the_indexs_own(market: dict[str, Listing], symbol: str) -> None:
    # splits and dividends change what is traded, and nothing of what an owner earns
    plan = PLANS[symbol]
    earned = np.log(adjusted_close(market[symbol], "2018-12-31")).diff().iloc[1:]
    real = np.roll(daily_moves(plan.index)["close"].to_numpy(), -plan.years * 252)[1:]
    cent = 0.02 / market[symbol].bars["close"].min()
    assert np.abs(earned - real).max() < cent


def test_every_kind_of_action_is_there(market: dict[str, Listing]) -> None:
    actions = pd.concat([one.actions for one in market.values()])
    assert set(actions["kind"]) == {"split", "dividend"}
    assert {0.1, 1.5, 2.0, 7.0} <= set(actions.loc[actions["kind"] == "split", "value"])
    special = market["ONCE"].actions.set_index("ex_date").loc["2012-12-05", "value"]
    before = market["ONCE"].bars["close"][:"2012-12-04"].iloc[-1]
    assert special / before == pytest.approx(0.08, rel=1e-3)


def test_building_is_deterministic(market: dict[str, Listing]) -> None:
    again = build("MANY", PLANS["MANY"])
    pd.testing.assert_frame_equal(again.bars, market["MANY"].bars)
    pd.testing.assert_frame_equal(again.actions, market["MANY"].actions)


def test_adjusted_close_by_hand() -> None:
    x = listing([100, 50, 49, 48, 24], ("2014-06-03", "split", 2), ("2014-06-04", "dividend", 1))
    # 49 is 50 less the dividend: both earlier closes lose 1/50, and the first is halved
    assert adjusted_close(x, "2014-06-06").tolist() == pytest.approx([49, 49, 49, 48, 24])
    # before the dividend the vendor does not know of it
    assert adjusted_close(x, "2014-06-03").tolist() == pytest.approx([50, 50])


def test_a_dividend_of_a_splits_day_is_paid_on_the_new_shares() -> None:
    x = listing([100, 45], ("2014-06-03", "split", 2), ("2014-06-03", "dividend", 5))
    assert adjusted_close(x, "2014-06-03").tolist() == pytest.approx([45, 45])


def test_actions_of_days_without_a_bar_still_count() -> None:
    x = edits.drop_session(listing([100, 50, 45], ("2014-06-03", "split", 2), ("2014-06-04", "dividend", 5)), WEEK[1])
    assert adjusted_close(x, "2014-06-04").tolist() == pytest.approx([45, 45])


def test_a_split_rewrites_the_past_from_its_day_on() -> None:
    x = listing([100, 50], ("2014-06-03", "split", 2))
    assert split_factor(x, "2014-06-02").tolist() == [1, 1]
    assert split_factor(x, "2014-06-03").tolist() == [2, 1]


def test_edits_return_new_listings(market: dict[str, Listing]) -> None:
    old = market["SEVEN"]
    before = old.bars.copy()
    day = pd.Timestamp("2014-06-05")
    assert day not in edits.drop_session(old, day).bars.index
    assert edits.shift_tick(old, day, 10).bars.loc[day, "close"] == pytest.approx(old.bars.loc[day, "close"] * 10)
    assert edits.restate(old, day, "volume", 7).bars.loc[day, "volume"] == 7
    assert edits.restate(old, day, "close", None).bars["close"].isna().sum() == 1
    assert edits.ends(old, day).bars.index[-1] == day
    assert edits.ends(old, day).actions["ex_date"].max() <= day
    assert edits.starts(old, day).bars.index[0] == day
    assert edits.starts(old, day).actions["ex_date"].min() >= day
    assert not edits.shuffled(old).bars.index.is_monotonic_increasing
    assert len(edits.with_action(old, day, "split", 3).actions) == len(old.actions) + 1
    assert len(edits.without_action(old, "2014-06-09").actions) == len(old.actions) - 1
    pd.testing.assert_frame_equal(old.bars, before)


def test_actions_put_in_by_a_test_change_the_prices_after_them() -> None:
    split = edits.with_split(listing([100, 100, 100], ("2014-06-04", "dividend", 2)), "2014-06-03", 4)
    assert split.bars["close"].tolist() == [100, 25, 25]
    assert split.bars["volume"].tolist() == [1000, 4000, 4000]
    assert split.actions["value"].tolist() == [4, 0.5]
    paid = edits.with_dividend(edits.with_split(listing([100, 100]), "2014-06-03", 2), "2014-06-03", 5)
    assert paid.bars["close"].tolist() == [100, 45]
    assert adjusted_close(paid, "2014-06-03").tolist() == pytest.approx([45, 45])


def test_order_of_the_bars_does_not_matter_to_adjustment(market: dict[str, Listing]) -> None:
    mixed = adjusted_close(edits.shuffled(market["MANY"]), "2018-12-31")
    pd.testing.assert_series_equal(mixed.sort_index(), adjusted_close(market["MANY"], "2018-12-31"))
