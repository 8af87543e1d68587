"""The trading server, as the real alpaca-py sees it; its book-keeping, without a socket; its faults."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.servers.alpaca_trading import AlpacaTradingServer
from tests.servers.brokerage import Brokerage, RefusalError, asset_id
from tests.servers.faults import (
    Fault,
    answered_late,
    cut_short,
    dropped,
    forbidden,
    late,
    lost,
    rate_limited,
    server_error,
    server_error_after,
    stalled,
    stalled_unprocessed,
    truncated,
)

with warnings.catch_warnings():
    # alpaca-py, on websockets from 14.0 on, when its modules are imported
    warnings.filterwarnings("ignore", "websockets", DeprecationWarning)
    from alpaca.common.enums import Sort
    from alpaca.common.exceptions import APIError
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import AccountStatus, OrderSide, OrderStatus, QueryOrderStatus, TimeInForce
    from alpaca.trading.models import NonTradeActivity, TradeActivity
    from alpaca.trading.requests import (
        ClosePositionRequest,
        GetCalendarRequest,
        GetOrdersRequest,
        LimitOrderRequest,
        MarketOrderRequest,
    )

MONDAY = datetime(2026, 1, 5, 15, 30, tzinfo=UTC)
PRICES = {"AAA": "100", "BBB": "20.5", "CHEAP": "0.5"}


@pytest.fixture
def server() -> Iterator[AlpacaTradingServer]:
    with AlpacaTradingServer(PRICES, now=MONDAY, fractionable={"AAA", "CHEAP"}) as server:
        yield server


@pytest.fixture
def client(server: AlpacaTradingServer) -> Iterator[TradingClient]:
    client = TradingClient(server.key, server.secret, url_override=server.url)
    client._retry_wait = 0
    with client._session:
        yield client


@pytest.fixture
def raw(server: AlpacaTradingServer) -> Iterator[TradingClient]:
    client = TradingClient(server.key, server.secret, url_override=server.url, raw_data=True)
    client._retry_wait = 0
    with client._session:
        yield client


def market(symbol: str, quantity: Any, side: str = "buy", client_id: str | None = None) -> MarketOrderRequest:
    return MarketOrderRequest(
        symbol=symbol, qty=quantity, side=side, time_in_force=TimeInForce.DAY, client_order_id=client_id
    )


def limit(symbol: str, quantity: Any, price: float, side: str = "buy", client_id: str | None = None):
    return LimitOrderRequest(
        symbol=symbol, qty=quantity, side=side, limit_price=price, time_in_force=TimeInForce.DAY,
        client_order_id=client_id,
    )  # fmt: skip


def listing(status: QueryOrderStatus = QueryOrderStatus.ALL, **more: Any) -> GetOrdersRequest:
    return GetOrdersRequest(status=status, **more)


def body(symbol: str, quantity: Any, side: str = "buy", **more: Any) -> dict[str, Any]:
    return {"symbol": symbol, "qty": quantity, "side": side, "type": "market", "time_in_force": "day", **more}


def refused(call: Callable[[], Any]) -> tuple[int, int, str]:
    with pytest.raises(APIError) as error:
        call()
    return error.value.status_code, error.value.code, error.value.message


# -- account, positions, assets, time -------------------------------------------------------------------------------


def test_a_new_account(client: TradingClient) -> None:
    account = client.get_account()
    assert (account.status, account.currency, account.multiplier) == (AccountStatus.ACTIVE, "USD", "1")
    assert {account.cash, account.equity, account.last_equity, account.buying_power} == {"100000"}
    assert account.model_dump(exclude_none=True).keys() == account.model_dump().keys()
    assert client.get_all_positions() == []
    assert not account.trading_blocked


def test_an_order_from_submission_to_position(server: AlpacaTradingServer, client: TradingClient) -> None:
    submitted = client.submit_order(market("AAA", 10.5, client_id="one"))
    assert (submitted.status, submitted.qty, submitted.symbol) == (OrderStatus.PENDING_NEW, "10.5", "AAA")
    assert submitted.submitted_at == MONDAY
    assert client.get_account().buying_power == "98950"
    assert client.get_order_by_client_id("one").status == OrderStatus.NEW
    server.fill("one", price="99")
    order = client.get_order_by_id(submitted.id)
    assert (order.status, order.filled_qty, order.filled_avg_price) == (OrderStatus.FILLED, "10.5", "99")
    assert order.filled_at >= order.submitted_at
    (position,) = client.get_all_positions()
    assert (position.qty, position.qty_available, position.avg_entry_price) == ("10.5", "10.5", "99")
    assert (position.cost_basis, position.market_value, position.unrealized_pl) == ("1039.5", "1050", "10.5")
    assert position == client.get_open_position("AAA") == client.get_open_position(asset_id("AAA"))
    assert position.asset_id == client.get_asset("AAA").id
    account = client.get_account()
    assert (account.cash, account.equity, account.long_market_value) == ("98960.5", "100010.5", "1050")
    assert server.positions == {"AAA": Decimal("10.5")}


def test_outside_of_hours_an_order_waits_for_the_next_session(server: AlpacaTradingServer, raw: TradingClient) -> None:
    server.now = datetime(2026, 1, 5, 22, 0, tzinfo=UTC)
    order = raw.submit_order(market("AAA", 1))
    assert (order["status"], order["expires_at"]) == ("accepted", "2026-01-06T21:00:00Z")


def test_times_are_in_nanoseconds_and_differ(server: AlpacaTradingServer, raw: TradingClient) -> None:
    times = [raw.submit_order(market("AAA", 1))["submitted_at"] for _ in range(3)]
    assert times == ["2026-01-05T15:30:00Z", "2026-01-05T15:30:00.000001001Z", "2026-01-05T15:30:00.000002002Z"]


def test_assets(server: AlpacaTradingServer, client: TradingClient) -> None:
    assert client.get_asset("AAA").fractionable
    assert not client.get_asset("BBB").fractionable
    server.untradable.add("BBB")
    assert not client.get_asset("BBB").tradable
    assert refused(lambda: client.submit_order(market("BBB", 1)))[0] == 422
    assert refused(lambda: client.get_asset("ZZZ")) == (404, 40410000, "asset not found for ZZZ")
    assert len(client.get_all_assets()) == 3


def test_clock_and_calendar(server: AlpacaTradingServer, client: TradingClient) -> None:
    clock = client.get_clock()
    assert clock.is_open
    assert clock.timestamp == MONDAY
    assert clock.next_close.isoformat() == "2026-01-05T16:00:00-05:00"
    server.advance(timedelta(hours=8))
    clock = client.get_clock()
    assert not clock.is_open
    assert clock.next_open.isoformat() == "2026-01-06T09:30:00-05:00"
    days = client.get_calendar(GetCalendarRequest(start=date(2025, 11, 26), end=date(2025, 12, 1)))
    assert [(day.date.day, day.close.hour) for day in days] == [(26, 16), (28, 13), (1, 16)]
    assert (days[0].open.hour, days[0].open.minute) == (9, 30)


def test_keys(server: AlpacaTradingServer) -> None:
    address = f"{server.url}/v2/account"
    assert requests.get(address, timeout=5).status_code == 401
    wrong = {"APCA-API-KEY-ID": server.key, "APCA-API-SECRET-KEY": "wrong"}
    answer = requests.get(address, headers=wrong, timeout=5)
    assert (answer.status_code, answer.json()) == (403, {"message": "forbidden."})


def test_unknown_addresses(client: TradingClient) -> None:
    assert refused(lambda: client.get("/nothing"))[0] == 404
    assert refused(lambda: client.get_open_position("AAA")) == (404, 40410000, "position does not exist")
    assert refused(lambda: client.get_open_position("ZZZ")) == (404, 40410000, "symbol not found: ZZZ")
    assert refused(lambda: client.get_order_by_client_id("x")) == (404, 40410000, "order not found for x")
    assert refused(lambda: client.get("/orders/x")) == (422, 40010001, "order_id is missing")


# -- what refuses an order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"symbol": "ZZZ"}, 422, 42210000, 'asset "ZZZ" not found'),
        ({"qty": 0}, 422, 40010001, "qty must be > 0"),
        ({"qty": "-1"}, 422, 40010001, "qty must be > 0"),
        ({"qty": None}, 422, 40010001, "qty or notional is required"),
        ({"qty": "1.0000000001"}, 422, 40010001, "9 decimal"),
        ({"qty": "NaN"}, 422, 40010001, "invalid qty"),
        ({"side": "hold"}, 422, 40010001, "invalid side"),
        ({"type": "stop"}, 422, 40010001, "invalid order type"),
        ({"time_in_force": "gtc"}, 422, 40010001, "invalid time_in_force"),
        ({"type": "limit"}, 422, 40010001, "limit orders require a limit price"),
        ({"type": "limit", "limit_price": "100.001"}, 422, 42210000, "invalid limit_price 100.001. sub-penny"),
        ({"type": "limit", "limit_price": 0.50001}, 422, 42210000, "sub-penny increment does not fulfill"),
        ({"type": "limit", "limit_price": "0"}, 422, 40010001, "limit price must be > 0"),
        ({"symbol": "BBB", "qty": "1.5"}, 403, 40310000, 'asset "BBB" is not fractionable'),
        ({"qty": "1000.1"}, 403, 40310000, "insufficient buying power"),
        ({"side": "sell"}, 403, 40310000, "insufficient qty available for order (requested: 1, available: 0)"),
        ({"client_order_id": "x" * 129}, 422, 40010001, "client_order_id must be no more than 128 characters"),
    ],
)
def test_orders_that_are_refused(server, client: TradingClient, change, status: int, code: int, words: str) -> None:
    found = refused(lambda: client.post("/orders", body("AAA", 1, client_order_id="one") | change))
    assert found[:2] == (status, code)
    assert words in found[2]
    (submission,) = server.submissions
    assert not submission.accepted
    assert server.orders == []
    client.submit_order(market("AAA", 1, client_id="one"))  # a refusal uses up nothing


@pytest.mark.parametrize("price", ["100.25", "1", "0.5001", 0.25])
def test_limits_with_as_many_decimals_as_allowed(client: TradingClient, price: Any) -> None:
    assert client.post("/orders", body("AAA", "0.000000001", type="limit", limit_price=price))["limit_price"] == str(
        price
    )


@pytest.mark.parametrize("end", ["fill", "cancel", "reject", "end_of_day", "nothing"])
def test_a_clients_id_is_good_for_one_order_ever(server, client: TradingClient, end: str) -> None:
    client.submit_order(market("AAA", 1, client_id="one"))
    {"end_of_day": server.end_of_day, "nothing": lambda: None}.get(end, lambda: getattr(server, end)("one"))()
    status = {"fill": "filled", "cancel": "canceled", "reject": "rejected", "end_of_day": "expired"}.get(end, "new")
    assert client.get_order_by_client_id("one").status == status
    again = refused(lambda: client.submit_order(market("BBB", 1, client_id="one")))
    assert again == (422, 40010001, "client_order_id must be unique")
    assert [submission.accepted for submission in server.submissions] == [True, False]


def test_an_open_order_of_the_other_side_and_shares_held_for_orders(server, client: TradingClient) -> None:
    server.manual_trade("AAA", "buy", "10")
    client.submit_order(limit("AAA", 4, 110, "sell"))
    assert client.get_open_position("AAA").qty_available == "6"
    status, code, words = refused(lambda: client.submit_order(market("AAA", 7, "sell")))
    assert (status, code) == (403, 40310000)
    assert words == "insufficient qty available for order (requested: 7, available: 6)"
    wash = refused(lambda: client.submit_order(market("AAA", 1)))
    assert wash == (403, 40310000, "potential wash trade detected. use complex orders")


def test_open_orders_reserve_buying_power(server: AlpacaTradingServer, client: TradingClient) -> None:
    client.submit_order(limit("AAA", 900, 90.0, client_id="big"))
    assert client.get_account().buying_power == "19000"
    assert refused(lambda: client.submit_order(market("AAA", 200)))[2] == "insufficient buying power"
    client.cancel_order_by_id(client.get_order_by_client_id("big").id)
    client.submit_order(market("AAA", 200))


# -- fills, cancellations, listings ---------------------------------------------------------------------------------


def test_partial_fills(server: AlpacaTradingServer, client: TradingClient) -> None:
    client.submit_order(limit("AAA", 10, 100.0, client_id="one"))
    server.fill("one", "3", "99")
    assert client.get_order_by_client_id("one").status == OrderStatus.PARTIALLY_FILLED
    with pytest.raises(ValueError, match="limit"):
        server.fill("one", "1", "100.01")
    with pytest.raises(ValueError, match="7"):
        server.fill("one", "7.5")
    server.fill("one", "5")
    server.fill("one")
    with pytest.raises(ValueError, match="not open"):
        server.fill("one")
    order = client.get_order_by_client_id("one")
    assert (order.status, order.filled_avg_price) == (OrderStatus.FILLED, "99.7")
    fills = client.get("/account/activities", {"activity_types": "FILL", "direction": "asc"})
    assert [(a["type"], a["qty"], a["cum_qty"], a["leaves_qty"], a["order_status"]) for a in fills] == [
        ("partial_fill", "3", "3", "7", "partially_filled"),
        ("partial_fill", "5", "8", "2", "partially_filled"),
        ("fill", "2", "10", "0", "filled"),
    ]
    assert {fill["order_id"] for fill in fills} == {str(order.id)}
    assert fills[0]["id"].startswith("20260105103000000::")  # New York
    parsed = [TradeActivity(account_id=order.id, **fill) for fill in fills]
    assert [activity.price for activity in parsed] == [99, 100, 100]


def test_the_open_fills_what_limits_allow_sales_first_and_without_regard_to_cash(server, client) -> None:
    server.manual_trade("BBB", "buy", "10")
    client.submit_order(market("AAA", 900, client_id="buy"))
    client.submit_order(limit("CHEAP", 100, 0.4, client_id="low"))
    client.submit_order(market("BBB", 10, "sell", client_id="sell"))
    filled = server.trade_open({"AAA": "150", "CHEAP": "0.41"}, parts=4)
    assert [order.client_order_id for order in filled] == ["sell", "buy"]
    assert [activity.qty for activity in server.activities[1:]] == [2, 2, 2, 4, 225, 225, 225, 225]
    assert server.cash < 0
    assert [order.client_order_id for order in client.get_orders()] == ["low"]
    server.end_of_day()
    assert client.get_order_by_client_id("low").status == OrderStatus.EXPIRED
    assert client.get_account().last_equity == client.get_account().equity


def test_cancellations(server: AlpacaTradingServer, client: TradingClient) -> None:
    first, second, third = (client.submit_order(market("AAA", 1)).id for _ in range(3))
    assert client.cancel_order_by_id(first) is None
    again = refused(lambda: client.cancel_order_by_id(first))
    assert again == (422, 42210000, 'order is already in "canceled" state')
    server.cancel_delay = timedelta(seconds=5)
    client.cancel_order_by_id(second)
    assert client.get_order_by_id(second).status == OrderStatus.PENDING_CANCEL
    assert refused(lambda: client.cancel_order_by_id(second))[0] == 422
    server.advance(timedelta(seconds=5))
    assert client.get_order_by_id(second).status == OrderStatus.CANCELED
    client.cancel_order_by_id(third)
    server.fill(str(third))
    server.advance(timedelta(minutes=1))
    assert client.get_order_by_id(third).status == OrderStatus.FILLED


def test_cancel_all(server: AlpacaTradingServer, client: TradingClient) -> None:
    orders = {client.submit_order(market("AAA", 1)).id for _ in range(3)}
    answers = client.cancel_orders()
    assert {answer.id for answer in answers} == orders
    assert {answer.status for answer in answers} == {200}
    assert client.get_orders() == []


def test_orders_are_listed_by_time_status_symbol_and_side(server: AlpacaTradingServer, client: TradingClient) -> None:
    server.manual_trade("BBB", "buy", "10")
    for number in range(1, 6):
        server.advance(timedelta(seconds=1))
        client.submit_order(market("AAA", number, client_id=f"buy {number}"))
    client.submit_order(market("BBB", 1, "sell", client_id="sell"))
    server.fill("buy 2")

    def names(**more: Any) -> list[str]:
        return [order.client_order_id for order in client.get_orders(listing(**more))]

    assert names(limit=2) == ["sell", "buy 5"]
    assert names(limit=3, direction=Sort.ASC)[1:] == ["buy 1", "buy 2"]
    second = client.get_order_by_client_id("buy 2").submitted_at
    fourth = client.get_order_by_client_id("buy 4").submitted_at
    assert names(after=second, until=fourth) == ["buy 3"]  # both are exclusive
    assert names(symbols=["BBB"], side=OrderSide.SELL) == ["sell"]
    assert "buy 2" not in names(status=QueryOrderStatus.OPEN)
    assert names(status=QueryOrderStatus.CLOSED)[0] == "buy 2"
    assert refused(lambda: client.get_orders(listing(limit=501)))[0] == 422


def test_a_list_has_fifty_orders_unless_told_otherwise(server, client: TradingClient) -> None:
    for _ in range(60):
        server.manual_order("AAA", "buy", "1")
    assert len(client.get_orders()) == 50
    assert len(client.get_orders(listing(limit=500))) == 60


def test_positions_are_closed_with_market_orders(server: AlpacaTradingServer, client: TradingClient) -> None:
    for symbol in PRICES:
        server.manual_trade(symbol, "buy", "10")
    assert client.close_position("AAA", ClosePositionRequest(percentage="25")).qty == "2"
    assert client.close_position("BBB", ClosePositionRequest(qty="3")).qty == "3"
    found = {answer.symbol: answer for answer in client.close_all_positions()}
    assert {symbol: answer.status for symbol, answer in found.items()} == {"AAA": 403, "BBB": 403, "CHEAP": 200}
    assert found["AAA"].body.held_for_orders == 2
    assert {answer.status for answer in client.close_all_positions(cancel_orders=True)} == {200}
    server.trade_open()
    assert client.get_all_positions() == []
    assert refused(lambda: client.close_position("AAA"))[0] == 404
    assert server.submissions == []


# -- activities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_activities_are_paged_to_the_end(server, client: TradingClient, size: int, direction: str) -> None:
    for number in range(5):
        server.manual_trade("AAA", "buy", "1")
        server.deposit(number + 1)
    seen: list[str] = []
    more = {"page_size": size, "direction": direction}
    while page := client.get("/account/activities", more):
        assert len(page) <= size
        seen += [activity["id"] for activity in page]
        more["page_token"] = page[-1]["id"]
    truth = [activity.id for activity in server.activities]
    assert seen == (truth if direction == "asc" else truth[::-1])


def test_activities_that_came_between_pages(server: AlpacaTradingServer, client: TradingClient) -> None:
    for _ in range(4):
        server.deposit(1)
    page = client.get("/account/activities", {"page_size": 2, "direction": "asc"})
    server.deposit(1)
    rest = client.get("/account/activities", {"direction": "asc", "page_token": page[-1]["id"]})
    assert len(rest) == 3


def test_activities_by_type_and_time(server: AlpacaTradingServer, client: TradingClient) -> None:
    server.manual_trade("AAA", "buy", "10.5")
    server.advance(timedelta(days=1))
    dividend = server.dividend("AAA", "0.25")
    server.deposit("500")
    server.withdraw("40")
    server.fee("0.02")
    server.split("AAA", "4")

    def kinds(path: str = "", **more: Any) -> list[str]:
        return [activity["activity_type"] for activity in client.get(f"/account/activities{path}", more)]

    assert kinds() == ["SSP", "FEE", "CSW", "CSD", "DIV", "FILL"]
    assert kinds(activity_types="CSD,DIV") == ["CSD", "DIV"]
    assert kinds(activity_types="TRANS") == kinds(activity_types=["CSD,CSW"]) == ["CSW", "CSD"]
    assert kinds("/FILL") == ["FILL"]
    assert kinds(date="2026-01-05") == kinds(until="2026-01-06") == ["FILL"]
    assert kinds(after="2026-01-06T15:30:00Z", direction="asc") == ["CSD", "CSW", "FEE", "SSP"]
    assert refused(lambda: kinds(activity_types="FFFFF")) == (422, 40010001, "invalid activity type: FFFFF")
    assert refused(lambda: kinds(date="2026-01-05", after="2026-01-01"))[0] == 422
    assert refused(lambda: kinds(page_size=101))[0] == 422
    (told,) = client.get("/account/activities/DIV")
    parsed = NonTradeActivity(account_id=asset_id("AAA"), **told)
    assert (parsed.net_amount, parsed.qty, parsed.per_share_amount, parsed.date) == (2.62, 10.5, 0.25, date(2026, 1, 6))
    assert told["id"].startswith("20260106000000000::")
    assert told["id"] == dividend.id
    assert server.cash == 100000 - 1050 + Decimal("2.62") + 500 - 40 - Decimal("0.02")


# -- cost -----------------------------------------------------------------------------------------------------------


def account(**more: Any) -> Brokerage:
    return Brokerage({"AAA": "10"}, now=MONDAY, **more)


def test_the_worked_examples_of_alpacas_page() -> None:
    """https://docs.alpaca.markets/docs/position-average-entry-price-calculation."""
    first = account()
    first.manual_trade("AAA", "buy", "100", "10")
    first.manual_trade("AAA", "buy", "50", "12")
    first.end_of_day()
    first.manual_trade("AAA", "buy", "30", "15")
    first.end_of_day()
    first.manual_trade("AAA", "sell", "120", "20")
    assert round(first.books()["AAA"].running.cost, 2) == Decimal("683.33")  # by weighted average, during the day
    first.end_of_day()
    assert round(first.books()["AAA"].running.cost, 9) == 770
    assert round(first.realised, 9) == 120 * 20 - 1280

    second = account()
    for side, quantity, price in (("buy", 100, 10), ("buy", 50, 9), ("sell", 50, 10), ("buy", 50, 11)):
        second.manual_trade("AAA", side, str(quantity), str(price))
    second.end_of_day()
    running = second.books()["AAA"].running
    assert (running.quantity, running.cost) == (150, 1500)


def test_a_position_tells_its_cost_by_alpacas_ways(server: AlpacaTradingServer, client: TradingClient) -> None:
    server.manual_trade("AAA", "buy", "100", "10")
    server.manual_trade("AAA", "buy", "50", "12")
    server.end_of_day()
    server.manual_trade("AAA", "buy", "30", "15")
    server.manual_trade("AAA", "sell", "120", "20")
    during = client.get_open_position("AAA")
    server.end_of_day()
    after = client.get_open_position("AAA")
    assert [float(p.cost_basis) for p in (during, after)] == pytest.approx([2050 * 60 / 180, 770])
    assert float(after.avg_entry_price) == pytest.approx(12.83, abs=0.005)


def test_a_split_changes_shares_and_price_but_no_value() -> None:
    held = account()
    held.manual_trade("AAA", "buy", "30", "9")
    order = held.submit(body("AAA", 30, "sell"))
    before = (held.equity, held.unrealised)
    held.split("AAA", "0.1")
    assert (held.positions, held.prices["AAA"]) == ({"AAA": Decimal(3)}, Decimal(100))
    assert (held.equity, held.unrealised) == before
    assert held.order(order.id).status == "canceled"
    held.split("AAA", "4")
    assert held.positions == {"AAA": Decimal(12)}
    assert held.activities[-1].qty == 9


def test_manual_orders_have_ids_of_their_own_and_are_no_submissions() -> None:
    held = account()
    trade, order = held.manual_trade("AAA", "buy", "5", "9.5"), held.manual_order("AAA", "buy", "5", "9")
    assert (trade.status, order.status) == ("filled", "new")
    assert len({trade.client_order_id, order.client_order_id}) == 2
    assert held.submissions == []
    with pytest.raises(RefusalError, match="available: 5"):
        held.manual_trade("AAA", "sell", "6")


AMOUNTS = st.decimals("0.01", "50", places=2)
SHARES = st.decimals("0.000000001", "40", places=9)
STEPS = st.one_of(
    st.tuples(st.just("order"), st.sampled_from(["buy", "sell"]), SHARES),
    st.tuples(st.just("trade"), st.sampled_from(["buy", "sell"]), SHARES, AMOUNTS),
    st.tuples(st.just("price"), AMOUNTS),
    st.tuples(st.just("open"), st.integers(1, 4)),
    st.tuples(st.just("day")),
    st.tuples(st.sampled_from(["deposit", "withdraw", "fee", "dividend"]), AMOUNTS),
    st.tuples(st.just("split"), st.sampled_from(["2", "3", "0.1", "1.5"])),
)


@given(st.lists(STEPS, max_size=25))
@settings(deadline=None, max_examples=60)
def test_the_account_adds_up(steps: list[tuple]) -> None:
    held = account()
    symbol = "AAA"
    for name, *values in steps:
        try:
            {
                "order": lambda side, quantity: held.submit(body(symbol, quantity, side)),
                "trade": lambda side, quantity, price: held.manual_trade(symbol, side, quantity, price),
                "price": lambda price: held.set_price(symbol, price),
                "open": lambda parts: held.trade_open(parts=parts),
                "day": held.end_of_day,
                "dividend": lambda rate: held.dividend(symbol, rate),
                "split": lambda ratio: held.split(symbol, ratio),
            }.get(name, getattr(held, name, None))(*values)
        except RefusalError:
            continue
        paid = sum(a.net_amount for a in held.activities if a.activity_type in ("DIV", "FEE"))
        gain = held.cash + held.market_value - held.net_deposits
        assert gain == pytest.approx(held.realised + held.unrealised + paid, abs=Decimal("1e-6"))
        signs = {"buy": 1, "sell": -1}
        orders = [order for order in held.orders if order.filled_qty]
        fills = [a for a in held.activities if a.activity_type == "FILL"]
        assert sum(f.qty * signs[f.side] for f in fills) == sum(o.filled_qty * signs[o.side] for o in orders)
        assert all(quantity > 0 for quantity in held.positions.values())
        assert held.available(symbol) == held.positions.get(symbol, 0) - held.held_for_orders(symbol)
    held.end_of_day()
    book = held.books().get(symbol)
    assert held.unrealised == pytest.approx(held.market_value - (book.running.cost if book else 0), abs=Decimal("1e-9"))


def test_many_clients_at_once(server: AlpacaTradingServer) -> None:
    def trade(number: int) -> int:
        with requests.Session() as session:
            session.headers.update({"APCA-API-KEY-ID": server.key, "APCA-API-SECRET-KEY": server.secret})
            for repeat in range(10):
                what = body("AAA", "1", client_order_id=f"{repeat}")
                session.post(f"{server.url}/v2/orders", json=what)
            return session.get(f"{server.url}/v2/account").status_code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(trade, range(6))) == {200}
    assert len(server.orders) == 10
    assert len(server.submissions) == 60
    server.trade_open()
    assert server.cash == 100000 - 10 * 100


# -- behind the truth -----------------------------------------------------------------------------------------------


def test_orders_that_are_behind(server: AlpacaTradingServer, client: TradingClient) -> None:
    client.submit_order(market("AAA", 4, client_id="one"))
    server.fill("one", "1")
    server.fill("one")
    server.stale_orders(3)
    assert client.get_order_by_client_id("one").status == OrderStatus.PARTIALLY_FILLED
    assert [order.filled_qty for order in client.get_orders()] == ["1"]
    assert client.get_orders(listing(QueryOrderStatus.CLOSED)) == []
    assert client.get_order_by_client_id("one").status == OrderStatus.FILLED


def test_activities_and_positions_that_are_behind(server: AlpacaTradingServer, client: TradingClient) -> None:
    server.manual_trade("AAA", "buy", "4")
    server.manual_trade("AAA", "buy", "2")
    server.lagging_activities(1)
    server.lagging_positions(2)
    assert [len(client.get("/account/activities")) for _ in range(2)] == [1, 2]
    assert [client.get_all_positions()[0].qty for _ in range(3)] == ["4", "4", "6"]


# -- faults ---------------------------------------------------------------------------------------------------------


def requests_of(server: AlpacaTradingServer) -> dict[str, Callable[[float], requests.Response]]:
    keys = {"APCA-API-KEY-ID": server.key, "APCA-API-SECRET-KEY": server.secret}
    server.brokerage.submit(body("AAA", 1, client_order_id="before"))
    address = f"{server.url}/v2/orders"

    def ask(method: str, path: str, **more: Any) -> Callable[[float], requests.Response]:
        return lambda seconds: requests.request(method, path, headers=keys, timeout=seconds, **more)

    return {
        "GET": ask("GET", address),
        "POST": ask("POST", address, json=body("AAA", 2, client_order_id="new")),
        "DELETE": ask("DELETE", f"{address}/{server.order('before').id}"),
    }


def happened(server: AlpacaTradingServer, method: str) -> bool:
    if method == "POST":
        return len(server.submissions) == 2
    return server.order("before").status == "canceled"


CLOSED, SLOW = requests.exceptions.ConnectionError, requests.exceptions.ReadTimeout


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    ("fault", "seen", "processed"),
    [
        (rate_limited(2), 429, False),
        (rate_limited(), 429, False),
        (server_error(), 500, False),
        (server_error(503), 503, False),
        (server_error_after(), 500, True),
        (forbidden(), 403, False),
        (dropped(), CLOSED, False),
        (lost(), CLOSED, True),
        (stalled_unprocessed(30), SLOW, False),
        (stalled_unprocessed(0.05), CLOSED, False),
        (late(0.05), CLOSED, True),
        (answered_late(30), SLOW, True),
        (answered_late(0.05), None, True),
        (stalled(0.05), None, True),
    ],
    ids=lambda value: f"{value.kind} {value.status} {value.seconds:g}" if isinstance(value, Fault) else "",
)
def test_each_fault_on_each_method(server, method: str, fault: Fault, seen, processed: bool) -> None:
    ask = requests_of(server)[method]
    server.faults.add(fault, method=method, path="/v2/orders")
    if isinstance(seen, type):
        with pytest.raises(seen):
            ask(0.3)
    else:
        answer = ask(5)
        assert answer.status_code == (seen or {"DELETE": 204}.get(method, 200))
        assert answer.headers.get("Retry-After") == (f"{fault.retry_after:g}" if fault.retry_after else None)
        if seen == 403:
            assert answer.json() == {"message": "forbidden."}
    if method != "GET":
        assert happened(server, method) is processed
    assert server.log.requests()[0].fault == fault.kind


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (truncated(), requests.exceptions.JSONDecodeError),
        (cut_short(), requests.exceptions.ChunkedEncodingError),
    ],
)
def test_half_an_answer(server: AlpacaTradingServer, method: str, fault: Fault, error: type[Exception]) -> None:
    ask = requests_of(server)[method]
    server.faults.add(fault)
    with pytest.raises(error):
        ask(5).json()
    assert method == "GET" or happened(server, method)


@pytest.mark.parametrize("fault", [truncated(), cut_short()])
def test_there_is_no_half_of_an_empty_answer(server: AlpacaTradingServer, fault: Fault) -> None:
    server.faults.add(fault)
    assert requests_of(server)["DELETE"](5).status_code == 204


@pytest.mark.parametrize(("fault", "gone"), [(stalled(0.4), 0.1), (late(0.4), 0.1)])
def test_an_order_is_taken_after_its_clients_time_out(server: AlpacaTradingServer, fault: Fault, gone: float) -> None:
    ask = requests_of(server)["POST"]
    server.faults.add(fault, method="POST", symbol="AAA")
    with pytest.raises(SLOW):
        ask(gone)
    with pytest.raises(RefusalError, match="not found"):
        server.order("new")
    until = time.monotonic() + 5
    while not happened(server, "POST") and time.monotonic() < until:
        time.sleep(0.01)
    assert server.order("new").qty == 2


def test_alpaca_py_tries_a_rate_limited_order_again(server: AlpacaTradingServer, client: TradingClient) -> None:
    server.faults.add(rate_limited(1), method="POST", times=2)
    client.submit_order(market("AAA", 1, client_id="one"))
    assert len(server.log.requests("/v2/orders")) == 3
    assert len(server.submissions) == 1
    assert json.loads(server.log.requests()[0].body)["client_order_id"] == "one"


# -- by hand --------------------------------------------------------------------------------------------------------


def test_a_server_starts_at_once() -> None:
    began = time.monotonic()
    with AlpacaTradingServer(PRICES, now=MONDAY) as started:
        assert started.url.startswith("http://127.0.0.1:")
        taken = time.monotonic() - began
    assert taken < 0.5  # five milliseconds on a quiet machine


@pytest.mark.e2e
def test_from_the_command_line() -> None:
    command = [sys.executable, "-m", "tests.servers", "alpaca-trading", "--fill"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            address = running.stdout.readline().strip()
            symbols = running.stdout.readline().split()[1].split(",")
            client = TradingClient("loopback-key", "loopback-secret", url_override=address)
            with client._session:
                client.submit_order(market(symbols[0], 1))
                assert running.stdout.readline().startswith(f"key: {client._api_key} secret:")
                assert running.stdout.readline().startswith(f"filled: buy 1 {symbols[0]} at")
                assert client.get_all_positions()[0].qty == "1"
        finally:
            running.terminate()
