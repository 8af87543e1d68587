"""The simulated broker's time and its book, on both databases; the arithmetic is tested with the accounting."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from trading_dagster.execution.accounting import Account, Costs, MarketSession
from trading_dagster.execution.orders import Order, OrderState, Side
from trading_dagster.resources.broker import BrokerAccount, BrokerError, BrokerPosition, DuplicateOrderError
from trading_dagster.resources.ledger import Owner, Recorded
from trading_dagster.resources.simulated_broker import SimulatedBroker

from .books import dump, open_books

D = Decimal
DAYS = [date(2020, 3, day) for day in (9, 10, 11, 12)]


def market(day: date, opening: str | None = "10", close: str = "12", **actions: dict[str, Decimal]) -> MarketSession:
    execution = {} if opening is None else {"AAA": D(opening)}
    return MarketSession(day, execution, {"AAA": D(close)}, actions.get("split", {}), actions.get("dividend", {}))


def order(day: date, quantity: str | int = 5, side: Side = Side.BUY, limit: str | None = None, **values) -> Order:
    limit_price = None if limit is None else D(limit)
    identity = values.pop("identity", f"main-{day}")
    return Order(identity, "main", day, "AAA", side, D(quantity), D(10), "why", limit_price=limit_price, **values)


def submit(broker: SimulatedBroker, *orders: Order) -> None:
    for each in orders:
        broker.submit(each, lambda: None)


def holdings(broker: SimulatedBroker) -> Account:
    found = broker.account()
    return Account(found.cash, {symbol: p.quantity for symbol, p in found.positions.items()})


@pytest.fixture
def broker(ledger):
    return SimulatedBroker(ledger, "main", Account(D(1000)), Costs(D("0.001"), D("0.01")))


@pytest.fixture
def free(ledger):
    """Trades cost nothing but their price."""
    return SimulatedBroker(ledger, "main", Account(D(1000)), Costs(D(0), D(0)))


# -- time ---------------------------------------------------------------------------------------------------------


def test_before_the_first_session_there_is_the_initial_account(broker):
    assert broker.account() == BrokerAccount(D(1000), D(1000), {})
    with pytest.raises(BrokerError, match="'main' has not seen a session yet; run one: trading run"):
        broker.newest_session()


def test_shares_may_be_there_from_the_beginning(ledger):
    broker = SimulatedBroker(ledger, "main", Account(D(10), {"AAA": D(3)}), Costs(D(0), D(0)))
    submit(broker, order(DAYS[0], 2, Side.SELL))
    broker.settle(market(DAYS[0]))
    assert holdings(broker) == Account(D(30), {"AAA": D(1)})


def test_the_initial_account_counts_once(ledger, broker):
    assert holdings(broker) == Account(D(1000))
    richer = SimulatedBroker(ledger, "main", Account(D(9999), {"AAA": D(1)}), Costs(D(0), D(0)))
    assert holdings(richer) == Account(D(1000))


def test_a_session_settles_once_and_time_does_not_run_back(broker, ledger):
    broker.settle(market(DAYS[0]))
    submit(broker, order(DAYS[0]))
    broker.settle(market(DAYS[2]))
    assert broker.newest_session() == DAYS[2]
    before = dump(ledger)
    for day in DAYS[:3]:
        broker.settle(market(day, opening="99", close="98", dividend={"AAA": D(5)}))
    assert dump(ledger) == before
    assert broker.newest_session() == DAYS[2]


def test_a_session_that_cannot_be_settled_leaves_nothing(broker, ledger):
    broker.settle(market(DAYS[0]))
    submit(broker, order(DAYS[0]), order(DAYS[0], identity="main-b"))
    broker.settle(market(DAYS[1]))
    before = dump(ledger)
    nothing_known = MarketSession(DAYS[2], {}, {}, {}, {})
    with pytest.raises(ValueError, match="AAA is held but has no bar up to 2020-03-11"):
        broker.settle(nothing_known)
    assert dump(ledger) == before
    broker.settle(market(DAYS[2]))


# -- orders -------------------------------------------------------------------------------------------------------


def test_an_order_waits_for_the_next_session(broker):
    broker.settle(market(DAYS[0]))
    assert broker.order("main-2020-03-09") is None
    taken = broker.submit(order(DAYS[0], limit="11"), lambda: None)
    assert taken == broker.order("main-2020-03-09") == broker.order_by_broker_id(taken.broker_order_id)
    assert taken.payload == order(DAYS[0], limit="11").payload
    assert (taken.state, taken.filled_quantity, taken.note) == (OrderState.ACCEPTED, D(0), "")
    assert taken.submitted_at == datetime(2020, 3, 9, tzinfo=UTC)
    assert broker.open_orders() == [taken]
    assert holdings(broker) == Account(D(1000))


def test_an_order_meets_the_next_open(broker):
    broker.settle(market(DAYS[0]))
    submit(broker, order(DAYS[0]))
    broker.settle(market(DAYS[1]))
    # five shares at 10 and a hundredth more are 50.50, and a thousandth of it is 0.0505
    found = broker.account()
    assert found.cash == D("949.4495")
    # they are worth 12 each at the close
    assert found.positions == {"AAA": BrokerPosition("AAA", D(5), D("10.1"), D(12), D("9.5"))}
    assert found.equity == D("1009.4495")
    filled = broker.order("main-2020-03-09")
    assert (filled.state, filled.filled_quantity) == (OrderState.FILLED, D(5))
    assert broker.open_orders() == []
    (activity,) = broker.activities_since(None)
    assert (activity.kind, activity.session, activity.symbol, activity.side) == ("fill", DAYS[1], "AAA", Side.BUY)
    assert (activity.quantity, activity.price, activity.amount) == (D(5), D("10.1"), D("-0.0505"))
    assert activity.broker_order_id == filled.broker_order_id


def test_equity_and_cost_by_hand_after_buys_and_a_sale(free):
    """Five at 10, five at 20, then four sold: their part of the average cost of 15 goes with them."""
    for day, (opening, close, side, quantity) in zip(
        DAYS, [("10", "11", Side.BUY, 5), ("20", "21", Side.BUY, 5), ("30", "31", Side.SELL, 4)], strict=False
    ):
        submit(free, order(day, quantity, side))
        free.settle(market(day, opening, close))
    found = free.account()
    assert (found.cash, found.equity) == (D(1000 - 50 - 100 + 120), D(970 + 6 * 31))
    assert found.positions == {"AAA": BrokerPosition("AAA", D(6), D(15), D(31), D(6 * 31 - 90))}
    submit(free, order(DAYS[3], 6, Side.SELL))
    free.settle(market(DAYS[3], "40"))
    assert free.account() == BrokerAccount(D(970 + 240), D(970 + 240), {})


@pytest.mark.parametrize(("limit", "fills"), [("10.11", True), ("10.1", True), ("10.0999", False), ("10", False)])
def test_a_buy_pays_no_more_than_its_limit(broker, limit, fills):
    """The price is the open of 10 and a hundredth of slippage."""
    broker.settle(market(DAYS[0]))
    submit(broker, order(DAYS[0], limit=limit))
    broker.settle(market(DAYS[1]))
    ended = broker.order("main-2020-03-09")
    if fills:
        assert (ended.state, ended.filled_quantity, ended.note) == (OrderState.FILLED, D(5), "")
        assert broker.account().positions["AAA"].average_price == D("10.1")
    else:
        note = f"the price of 10.100000 is above the limit of {limit}"
        assert (ended.state, ended.filled_quantity, ended.note) == (OrderState.EXPIRED, D(0), note)
        assert holdings(broker) == Account(D(1000))
        assert list(broker.activities_since(None)) == []


def test_an_order_without_a_bar_to_meet_expires(broker):
    submit(broker, order(DAYS[0]))
    broker.settle(market(DAYS[0], opening=None))
    ended = broker.order("main-2020-03-09")
    assert (ended.state, ended.note) == (OrderState.EXPIRED, "no bar on 2020-03-09")


def test_what_cash_does_not_cover_expires(free):
    submit(free, order(DAYS[0], 150))
    free.settle(market(DAYS[0]))
    ended = free.order("main-2020-03-09")
    # a ten-thousandth is kept back for the rounding of the commission
    assert (ended.state, ended.filled_quantity) == (OrderState.EXPIRED, D("99.9999"))
    assert ended.note == "cash covered 99.9999 of 150 shares"
    assert holdings(free) == Account(D("0.001"), {"AAA": D("99.9999")})


def test_an_order_that_was_cancelled_is_not_filled(broker):
    broker.settle(market(DAYS[0]))
    submit(broker, order(DAYS[0]))
    broker.cancel("main-2020-03-09")
    ended = broker.order("main-2020-03-09")
    assert (ended.state, ended.note) == (OrderState.CANCELLED, "cancelled on request")
    assert broker.open_orders() == []
    broker.settle(market(DAYS[1]))
    assert broker.order("main-2020-03-09") == ended
    assert holdings(broker) == Account(D(1000))


def test_an_order_that_has_ended_is_not_cancelled(broker):
    submit(broker, order(DAYS[0]))
    broker.settle(market(DAYS[0]))
    before = broker.order("main-2020-03-09")
    broker.cancel("main-2020-03-09")
    assert broker.order("main-2020-03-09") == before
    assert before.state is OrderState.FILLED


def test_an_identity_is_taken_once(broker, ledger):
    submit(broker, order(DAYS[0]))
    before = dump(ledger)
    with pytest.raises(DuplicateOrderError, match="client_order_id main-2020-03-09 must be unique"):
        submit(broker, order(DAYS[0], 7))
    assert dump(ledger) == before
    broker.settle(market(DAYS[0]))
    with pytest.raises(DuplicateOrderError):
        submit(broker, order(DAYS[0]))
    broker.settle(market(DAYS[1]))
    assert holdings(broker).positions == {"AAA": D(5)}


def test_what_is_raised_before_sending_stops_the_order(broker):
    def stop() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broker.submit(order(DAYS[0]), stop)
    assert broker.order("main-2020-03-09") is None


def test_an_order_that_is_not_there(broker):
    assert broker.order("nothing") is None
    with pytest.raises(BrokerError, match="no order 'nothing'"):
        broker.order_by_broker_id("nothing")


def test_cancelling_an_order_that_is_not_there(broker):
    with pytest.raises(BrokerError, match="no order 'nothing'"):
        broker.cancel("nothing")


def test_orders_and_activities_since_a_moment(free):
    for day in DAYS[:3]:
        free.settle(market(day))
        submit(free, order(day, 1))
    free.settle(market(DAYS[3]))
    assert [o.client_order_id for o in free.orders_since(None)] == [f"main-{day}" for day in DAYS[:3]]
    assert [a.session for a in free.activities_since(None)] == DAYS[1:]
    for number, day in enumerate(DAYS):
        moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
        assert [o.client_order_id for o in free.orders_since(moment)] == [f"main-{d}" for d in DAYS[number:3]]
        assert [a.session for a in free.activities_since(moment)] == [d for d in DAYS[1:] if d >= day]


def test_sales_pay_for_buys_of_the_same_session(free):
    submit(free, order(DAYS[0], 100))
    free.settle(market(DAYS[0]))
    both = [order(DAYS[1], 50, Side.SELL, identity="main-z"), order(DAYS[1], 40, identity="main-a")]
    submit(free, *both)
    free.settle(market(DAYS[1]))
    assert [(a.side, a.quantity) for a in free.activities_since(datetime(2020, 3, 10, tzinfo=UTC))] == [
        (Side.SELL, D(50)), (Side.BUY, D(40)),
    ]  # fmt: skip
    assert holdings(free) == Account(D(100), {"AAA": D(90)})


# -- corporate actions --------------------------------------------------------------------------------------------


@pytest.fixture
def holding(free):
    """Seven shares at 10."""
    submit(free, order(DAYS[0], 7))
    free.settle(market(DAYS[0]))
    return free


def actions(broker: SimulatedBroker, day: date) -> dict[str, tuple[Decimal, Decimal]]:
    """Change of shares, and cash, of each kind of activity on a day and later."""
    since = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return {a.kind: (a.quantity, a.amount) for a in broker.activities_since(since)}


def test_a_dividend_is_cash(holding):
    holding.settle(market(DAYS[1], dividend={"AAA": D("0.25")}))
    assert actions(holding, DAYS[1]) == {"dividend": (D(0), D("1.75"))}
    assert holdings(holding) == Account(D("931.75"), {"AAA": D(7)})


def test_a_split_adds_shares_and_no_cost(holding):
    holding.settle(market(DAYS[1], "5", "6", split={"AAA": D(2)}))
    assert actions(holding, DAYS[1]) == {"split": (D(7), D(0))}
    assert holding.account().positions == {"AAA": BrokerPosition("AAA", D(14), D(5), D(6), D(14))}


def test_a_reverse_split_pays_for_the_fraction(holding):
    """Of 7 for 3 there are 2.33333..., and what is below a ten-thousandth is paid at the close of 3000."""
    holding.settle(market(DAYS[1], "3000", "3000", split={"AAA": D("0.3333333333333333")}))
    found = actions(holding, DAYS[1])
    assert found == {"split": (D("2.3333") - 7, D(0)), "cash_in_lieu": (D(0), D("0.1000"))}
    assert holdings(holding) == Account(D("930.1"), {"AAA": D("2.3333")})


def test_a_delisting_pays_the_last_close(holding):
    gone = MarketSession(DAYS[1], {}, {"AAA": D(12)}, {}, {}, frozenset({"AAA"}))
    holding.settle(gone)
    assert actions(holding, DAYS[1]) == {"delisting": (D(-7), D(84))}
    assert holding.account() == BrokerAccount(D(1014), D(1014), {})


def test_the_ledger_follows_the_broker_through_everything(holding, ledger):
    """All activities, booked into a ledger that began with the same cash, make the same account."""
    open_books(ledger)
    submit(holding, order(DAYS[1], 3, Side.SELL))
    holding.settle(market(DAYS[1], "11", "12", dividend={"AAA": D("0.25")}))
    submit(holding, order(DAYS[2], 5))
    holding.settle(market(DAYS[2], "5", "6", split={"AAA": D("0.3333333333333333")}))
    submit(holding, order(DAYS[3], "1.5"))
    holding.settle(market(DAYS[3], "4", "5"))
    for booked in range(1, 3):
        new = ledger.record_activities(
            "main", [Recorded(a, None, Owner.STRATEGY) for a in holding.activities_since(None)]
        )
        assert bool(new) is (booked == 1)
        assert ledger.account("main") == holdings(holding)
    told = ledger.profit_and_loss("main")
    found = holding.account()
    values = {symbol: p.quantity * p.price for symbol, p in found.positions.items()}
    gained = told.realised - told.commission + told.income + told.unrealised(values)
    assert gained == found.equity - 1000


def test_an_order_in_old_shares_expires_on_a_split(holding):
    submit(holding, order(DAYS[1], 3))
    holding.settle(market(DAYS[1], "5", "6", split={"AAA": D(2)}))
    ended = holding.order("main-2020-03-10")
    assert (ended.state, ended.note) == (OrderState.EXPIRED, "a split on 2020-03-10")


# -- side by side -------------------------------------------------------------------------------------------------


def test_books_of_two_strategies_do_not_touch(broker, ledger):
    other = SimulatedBroker(ledger, "other", Account(D(7)), Costs(D(0), D(0)))
    submit(broker, order(DAYS[0]))
    other.settle(market(DAYS[3]))
    assert holdings(other) == Account(D(7))
    assert holdings(broker) == Account(D(1000))
    assert other.open_orders() == list(other.orders_since(None)) == list(other.activities_since(None)) == []
    broker.settle(market(DAYS[1]))
    assert holdings(broker).positions == {"AAA": D(5)}
    assert list(other.activities_since(None)) == []


def test_every_symbol_is_traded_in_the_same_fractions(broker):
    assert broker.quantity_steps(["AAA", "BBB"]) == {"AAA": D("0.0001"), "BBB": D("0.0001")}
