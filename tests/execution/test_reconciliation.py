"""The ledger learns from the paper account what happened, once, to the cent, and says where both differ."""

from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from trading_dagster.execution import reconciliation
from trading_dagster.execution.orders import OrderState
from trading_dagster.resources import alpaca_broker
from trading_dagster.resources.ledger import LedgerError

from .markets import D


@pytest.fixture
def opened(paper):
    paper.open()
    return paper


def agree(paper) -> None:
    """Cash, shares and gains of the ledger are those of the server's own books."""
    cash, positions = paper.books()
    manual = paper.ledger.manual_positions(paper.strategy)
    both = {s: positions.get(s, D(0)) + manual.get(s, D(0)) for s in {*positions, *manual}}
    assert {symbol: quantity for symbol, quantity in both.items() if quantity} == paper.server.positions
    assert cash == paper.server.cash


# -- fills ----------------------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize(("page", "symbols", "parts"), [(100, 20, 20), (7, 5, 4)], ids=["1200 fills", "60 fills"])
def test_fills_arrive_exactly_once_and_gain_what_the_broker_says(opened, server, monkeypatch, page, symbols, parts):
    """Three days of orders, filled in parts; the gain is that of the server's books, which know nothing of ours."""
    monkeypatch.setattr(alpaca_broker, "ACTIVITIES_PAGE", page)
    random, names = Random(page), [f"S{number:02d}" for number in range(symbols)]
    held = dict.fromkeys(names, 0)
    for symbol in names:
        server.set_price(symbol, "40")
    for _ in range(3):
        sent = []
        for symbol in names:
            sells = held[symbol] >= 20 and random.random() < 0.5
            quantity = random.randint(20, held[symbol]) if sells else random.randint(20, 60)
            held[symbol] += -quantity if sells else quantity
            sent.append(opened.intent(symbol, str(quantity), "sell" if sells else "buy"))
        opened.commit(*sent)
        submitter = opened.submitter()
        for order in sent:
            submitter.bring(order)
        opened.next_open()
        server.trade_open({symbol: str(D(random.randint(3950, 4020)) / 100) for symbol in names}, parts=parts)
        # in the middle of the session, and again after it
        assert opened.reconcile().matched
        opened.next_close()
        assert opened.reconcile().new_activities == 0
    assert len(server.activities) == 3 * symbols * parts
    rows = [fill for order in server.orders for fill in opened.ledger.fills("main", order.client_order_id)]
    assert sorted(fill.activity_id for fill in rows) == sorted(activity.id for activity in server.activities)
    agree(opened)
    gains = opened.ledger.profit_and_loss("main")
    values = {symbol: quantity * server.prices[symbol] for symbol, quantity in server.positions.items()}
    assert abs(gains.realised - server.realised) < D("0.005")
    assert abs(gains.unrealised(values) - server.unrealised) < D("0.005")
    assert server.realised != 0
    # and all of it together is what the account has more than it began with
    assert abs(gains.realised + gains.unrealised(values) - (server.equity - 100_000)) < D("0.005")


def test_a_small_batch_and_a_new_process_count_nothing_twice(opened, server, monkeypatch):
    monkeypatch.setattr(reconciliation, "BATCH", 1)
    opened.send_and_fill("AAA", "10")
    assert opened.reconcile().new_activities == 1
    assert opened.like(clock=opened.clock).reconcile().new_activities == 0
    agree(opened)


def test_a_partial_fill_that_goes_on(opened, server):
    order = opened.intent("AAA", "10")
    opened.commit(order)
    opened.submitter().bring(order)
    server.fill(order.client_order_id, 4)
    assert opened.reconcile().matched
    known = opened.ledger.order(order.client_order_id)
    assert (known.state, known.filled_quantity) == (OrderState.PARTIALLY_FILLED, D(4))
    server.fill(order.client_order_id, 6, "101")
    assert opened.reconcile().matched
    assert opened.ledger.order(order.client_order_id).state is OrderState.FILLED
    assert [(fill.quantity, fill.price) for fill in opened.ledger.fills("main", order.client_order_id)] == [
        (D(4), D(100)), (D(6), D(101)),
    ]  # fmt: skip
    agree(opened)


@pytest.mark.parametrize(("filled", "state"), [("0", "expired"), ("4", "expired")])
def test_an_order_that_expires_at_the_broker(opened, server, filled, state):
    order = opened.intent("AAA", "10")
    opened.commit(order)
    opened.submitter().bring(order)
    if D(filled):
        server.fill(order.client_order_id, filled)
    opened.next_open()
    opened.next_close()
    assert opened.reconcile().matched
    known = opened.ledger.order(order.client_order_id)
    assert (known.state, known.filled_quantity) == (OrderState(state), D(filled))
    assert opened.ledger.open_orders("main") == []
    agree(opened)


@pytest.mark.parametrize("ending", ["cancel", "reject"])
def test_an_order_that_ends_otherwise_at_the_broker(opened, server, ending):
    order = opened.intent("AAA", "10")
    opened.commit(order)
    opened.submitter().bring(order)
    getattr(server, ending)(order.client_order_id)
    assert opened.reconcile().matched
    assert (
        opened.ledger.order(order.client_order_id).state.value == {"cancel": "cancelled", "reject": "rejected"}[ending]
    )


def test_an_order_whose_answer_was_lost_is_found(opened, server):
    """Sent by a process that ended before it knew: filled meanwhile, it is ours."""
    order = opened.intent("AAA", "10")
    opened.commit(order)
    opened.ledger.claim(order.client_order_id, opened.submitter().lease)
    opened.broker.submit(order, lambda: None)
    server.fill(order.client_order_id)
    found = opened.reconcile()
    assert found.matched
    assert found.manual == {}
    assert opened.ledger.order(order.client_order_id).state is OrderState.FILLED
    agree(opened)


def test_an_order_that_never_came_ends_when_its_session_has_passed(opened):
    order = opened.intent("AAA", "10")
    opened.commit(order)
    opened.ledger.claim(order.client_order_id, opened.submitter().lease)
    opened.reconcile()
    assert opened.ledger.order(order.client_order_id).state is OrderState.SUBMITTED
    opened.next_open()
    opened.next_close()
    assert opened.reconcile().matched
    known = opened.ledger.order(order.client_order_id)
    assert (known.state, known.note) == (OrderState.EXPIRED, "the broker never got it")


def test_an_order_that_comes_after_it_was_given_up_is_a_difference(opened, server):
    order = opened.intent("AAA", "10")
    opened.commit(order)
    opened.ledger.claim(order.client_order_id, opened.submitter().lease)
    opened.next_open()
    opened.next_close()
    opened.reconcile()
    opened.broker.submit(order, lambda: None)
    found = opened.reconcile()
    assert found.differences == (f"order {order.client_order_id} is accepted at the broker, and expired in the ledger",)


# -- what is behind -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["lagging_activities", "lagging_positions"])
@pytest.mark.parametrize("answers", [1, 3])
def test_what_is_behind_settles(opened, server, what, answers):
    opened.send_and_fill("AAA", "10")
    opened.reconcile()
    opened.send_and_fill("BBB", "10", revision=1)
    getattr(server, what)(answers)
    found = opened.reconcile()
    assert found.matched
    assert opened.clock.slept == [1.0] * answers
    agree(opened)


@pytest.mark.parametrize("what", ["lagging_activities", "lagging_positions"])
def test_what_stays_behind_is_a_difference_until_it_does_not(opened, server, what):
    opened.send_and_fill("AAA", "10")
    opened.reconcile()
    opened.send_and_fill("BBB", "10", revision=1)
    getattr(server, what)(4)
    found = opened.reconcile()
    assert any(difference.startswith("BBB: ") for difference in found.differences)
    assert opened.reconcile().matched
    agree(opened)


def test_stale_orders_take_nothing_back(opened, server):
    """Shown as it was before it was filled: neither is the fill forgotten, nor counted again."""
    order = opened.send_and_fill("AAA", "10")
    assert opened.reconcile().matched
    server.stale_orders(10)
    assert opened.reconcile().matched
    assert opened.ledger.order(order.client_order_id).state is OrderState.FILLED
    agree(opened)


def test_stale_orders_before_the_fill_is_known(opened, server):
    order = opened.send_and_fill("AAA", "10")
    server.stale_orders(10)
    assert opened.reconcile().matched
    assert opened.ledger.order(order.client_order_id).filled_quantity == D(10)
    agree(opened)


# -- real differences -----------------------------------------------------------------------------------------


def test_cash_that_nothing_explains(opened, server):
    server.brokerage._cash += D("0.02")
    found = opened.reconcile()
    assert found.differences == ("cash: 100,000.02 at the broker, 100,000.00 in the ledger",)
    assert len(opened.clock.slept) == opened.patience - 1


@pytest.mark.parametrize("cents", ["0.01", "-0.01"])
def test_cash_within_the_tolerance(opened, server, cents):
    server.brokerage._cash += D(cents)
    assert opened.reconcile().matched


def test_an_order_that_comes_after_it_was_cancelled_unseen_is_a_difference(opened):
    """Its answer was lost, the broker did not have it, an operator cancelled it; and then it came."""
    order = opened.intent("AAA", "10")
    opened.commit(order)
    opened.ledger.claim(order.client_order_id, opened.submitter().lease)
    opened.ledger.record_state(order.client_order_id, OrderState.CANCELLED, "the broker never got it")
    assert opened.reconcile().matched
    opened.broker.submit(order, lambda: None)
    assert opened.reconcile().differences == (
        f"order {order.client_order_id} is accepted at the broker, and cancelled in the ledger",
    )


def test_shares_that_nothing_explains(opened, server):
    opened.send_and_fill("AAA", "10")
    opened.reconcile()
    server.brokerage._activities.clear()
    server.manual_trade("AAA", "buy", 2)
    server.brokerage._activities.clear()
    assert "AAA: 12 shares at the broker, 10 in the ledger" in opened.reconcile().differences


def test_an_order_of_ours_that_the_ledger_does_not_know(opened, server, tmp_path):
    """The ledger was restored from before the order."""
    opened.broker.submit(opened.intent("AAA", "10"), lambda: None)
    found = opened.reconcile()
    assert found.differences == ("the broker has an order main-20260105-AAA-0 that the ledger does not know",)


def test_an_order_of_ours_that_asks_for_something_else(opened, server):
    order = opened.intent("AAA", "10")
    opened.commit(order)
    opened.broker.submit(replace(order, quantity=D(9)), lambda: None)
    assert opened.reconcile().differences == (
        f"order {order.client_order_id} asks for something else at the broker than in the ledger",
    )


@pytest.mark.parametrize("other", ["main2", "mai", "other"])
def test_orders_of_other_strategies_are_not_ours(opened, server, other):
    opened.broker.submit(replace(opened.intent(), client_order_id=f"{other}-20260105-AAA-0"), lambda: None)
    assert opened.reconcile().matched


# -- by hand --------------------------------------------------------------------------------------------------


def test_a_manual_trade_is_kept_apart(opened, server):
    opened.send_and_fill("AAA", "10")
    opened.reconcile()
    server.manual_trade("AAA", "buy", 5)
    server.manual_trade("BBB", "buy", 3)
    found = opened.reconcile()
    assert found.matched
    assert found.manual == {"AAA": D(5), "BBB": D(3)}
    assert opened.books()[1] == {"AAA": D(10)}
    agree(opened)


def test_shares_of_ours_that_are_sold_by_hand(opened, server):
    opened.send_and_fill("AAA", "10")
    opened.reconcile()
    server.manual_trade("AAA", "sell", 4)
    found = opened.reconcile()
    assert found.matched
    assert (found.manual, opened.books()[1]) == ({"AAA": D(-4)}, {"AAA": D(10)})
    agree(opened)


def test_a_manual_trade_that_is_adopted(make_paper, server):
    paper = make_paper(manual_trades="adopt")
    paper.open()
    server.manual_trade("AAA", "buy", 5)
    found = paper.reconcile()
    assert (found.matched, found.manual) == (True, {})
    assert paper.books()[1] == {"AAA": D(5)}
    agree(paper)


def test_from_quarantine_to_adoption(opened, server):
    opened.send_and_fill("AAA", "10")
    server.manual_trade("AAA", "buy", 5, price="90")
    server.manual_trade("BBB", "buy", 3)
    assert opened.reconcile().manual == {"AAA": D(5), "BBB": D(3)}
    found = opened.like(manual_trades="adopt").reconcile()
    assert (found.manual, found.adopted) == ({}, ("AAA", "BBB"))
    assert opened.books()[1] == {"AAA": D(15), "BBB": D(3)}
    agree(opened)
    cost = opened.ledger.profit_and_loss("main").cost_basis
    assert cost == {"AAA": D(1450), "BBB": D(150)}


# -- opening --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["quarantine", "adopt"])
def test_what_was_there_before_the_books_began_is_not_booked_twice(make_paper, server, mode):
    server.manual_trade("AAA", "buy", 10, price="90")
    server.deposit("500")
    server.manual_trade("BBB", "buy", 5)
    server.manual_trade("BBB", "sell", 5, price="60")
    paper = make_paper(manual_trades=mode)
    paper.open()
    found = paper.reconcile()
    assert (found.matched, found.new_activities) == (True, 0)
    agree(paper)
    there = {"AAA": D(10)}
    assert paper.books()[1] == (there if mode == "adopt" else {})
    assert found.manual == ({} if mode == "adopt" else there)
    gains = paper.ledger.profit_and_loss("main")
    assert (gains.realised, gains.income, gains.cost_basis) == (0, 0, {"AAA": D(900)})
    server.advance(timedelta(minutes=1))
    server.dividend("AAA", "1")
    assert paper.reconcile().new_activities == 1
    agree(paper)


def test_books_of_another_broker_are_not_used(opened, ledger):
    simulated = opened.broker
    simulated.name = "simulated"
    with pytest.raises(LedgerError, match=r"opened with the broker alpaca, and TRADING_BROKER is simulated"):
        opened.open()


def test_books_are_opened_once(opened, server):
    server.deposit("500")
    opened.open()
    assert opened.books()[0] == D(100_000)


def test_an_account_that_keeps_changing_is_not_opened(paper, server):
    real = paper.broker.account

    def changing():
        server.manual_trade("AAA", "buy", 1)
        return real()

    paper.broker.account = changing
    with pytest.raises(LedgerError, match="changes while it is read"):
        paper.open()
    assert paper.ledger.strategy("main") is None


# -- money and corporate actions ------------------------------------------------------------------------------


def test_dividends_fees_and_deposits(opened, server):
    opened.send_and_fill("AAA", "10")
    opened.reconcile()
    server.dividend("AAA", "0.25")
    server.fee("0.07")
    server.deposit("1000")
    server.withdraw("300")
    found = opened.reconcile()
    assert (found.matched, found.new_activities) == (True, 4)
    agree(opened)
    gains = opened.ledger.profit_and_loss("main")
    assert (gains.income, gains.realised) == (D("2.43"), 0)
    assert opened.ledger.unsettled_transfers("main") == D(700)


@pytest.mark.parametrize(("ratio", "shares"), [("2", "20"), ("0.1", "1"), ("1.5", "15")])
def test_a_split_at_the_broker(opened, server, ratio, shares):
    opened.send_and_fill("AAA", "10")
    opened.reconcile()
    server.split("AAA", ratio)
    assert opened.reconcile().matched
    assert opened.books()[1] == {"AAA": D(shares)}
    assert opened.ledger.profit_and_loss("main").cost_basis == {"AAA": D(1000)}
    agree(opened)


def test_a_split_of_what_is_partly_manual(opened, server):
    opened.send_and_fill("AAA", "10")
    server.manual_trade("AAA", "buy", 5)
    opened.reconcile()
    server.split("AAA", "2")
    found = opened.reconcile()
    assert found.matched
    assert (opened.books()[1], found.manual) == ({"AAA": D(20)}, {"AAA": D(10)})
    agree(opened)


def test_a_dividend_that_is_posted_days_late(opened, server):
    """With the time of days ago, when later fills are booked already."""
    opened.send_and_fill("AAA", "10")
    opened.reconcile()
    for _ in range(3):
        opened.next_open()
        opened.next_close()
    opened.send_and_fill("BBB", "1")
    assert opened.reconcile().new_activities == 1
    now = server.now
    server.now = now - timedelta(days=5)
    server.dividend("AAA", "1")
    server.now = now
    assert opened.reconcile().new_activities == 1
    agree(opened)
