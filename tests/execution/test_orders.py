"""Names of orders."""

from datetime import date
from decimal import Decimal

import pytest

from trading_dagster.execution.orders import client_order_id

from .markets import account, market
from .test_planner import plan


def test_a_name_says_what_the_order_is_for():
    assert client_order_id("main", date(2020, 3, 9), "BRK.B", 2) == "main-20200309-BRK.B-2"


@pytest.mark.parametrize(
    "other",
    [
        ("second", date(2020, 3, 9), "AAA", 0),
        ("main", date(2020, 3, 10), "AAA", 0),
        ("main", date(2020, 3, 9), "AAB", 0),
        ("main", date(2020, 3, 9), "AAA", 1),
    ],
)
def test_all_of_strategy_session_symbol_and_revision_are_in_it(other):
    assert client_order_id(*other) != client_order_id("main", date(2020, 3, 9), "AAA", 0)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("cash", [100, 100_000])
def test_a_planned_order_has_the_same_name_whatever_its_quantity(weight, cash):
    (planned,) = plan({"AAA": weight}, account(cash), market({"AAA": "12.5"}))
    assert planned.client_order_id == "main-20200309-AAA-0"
    assert planned.quantity == Decimal(str(weight)) * cash / Decimal("12.5")
