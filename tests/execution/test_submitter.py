"""One order brought to the paper account, whatever goes wrong on the way: exactly one of it is there in the end.

The client is the real one, the server a loopback. Time passes only where the submitter sleeps, except in the tests of
time-outs.
"""

import time
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers.faults import (
    answered_late,
    cut_short,
    dropped,
    forbidden,
    late,
    lost,
    rate_limited,
    server_error,
    server_error_after,
    stalled_unprocessed,
    truncated,
)
from trading_dagster.execution.halts import Cause, HaltedError, HaltState
from trading_dagster.execution.lease import LeaseLostError
from trading_dagster.execution.orders import OrderState, Side
from trading_dagster.execution.submitter import ConflictError
from trading_dagster.resources.broker import BrokerError, UnreachableError
from trading_dagster.resources.ledger import LedgerError

from .markets import D


@pytest.fixture
def opened(paper):
    """A paper account whose books have begun."""
    paper.open()
    return paper


@pytest.fixture
def order(opened):
    intent = opened.intent()
    opened.commit(intent)
    return intent


def states(paper, order) -> list[OrderState]:
    return [state for _, state, _, _ in paper.ledger.order_events(order.client_order_id)]


# -- as it should be ------------------------------------------------------------------------------------------


def test_an_order_arrives_as_it_was_committed(opened, order, server):
    submitter = opened.submitter()
    brought = submitter.bring(order)
    assert brought.state is OrderState.ACCEPTED
    assert brought.broker_order_id == server.orders[0].id
    assert submitter.sent == 1
    (there,) = server.orders
    assert (there.client_order_id, there.symbol, there.side) == ("main-20260105-AAA-0", "AAA", "buy")
    assert (there.qty, there.limit_price, there.type) == (D(10), D(102), "limit")
    assert server.submissions[0].request["time_in_force"] == "day"
    assert states(opened, order) == [OrderState.PLANNED, OrderState.SUBMITTED, OrderState.ACCEPTED]


def test_a_sale_is_at_market(opened, server):
    server.manual_trade("AAA", "buy", 10)
    sale = opened.intent("AAA", "4", "sell")
    opened.commit(sale)
    opened.submitter().bring(sale)
    assert server.submissions[0].request["type"] == "market"
    assert "limit_price" not in server.submissions[0].request


def test_small_fractions_are_written_without_an_exponent(opened, server):
    small = replace(opened.intent(), quantity=D("0.000001") * 20)
    opened.commit(small)
    opened.submitter().bring(small)
    assert server.submissions[0].request["qty"] == "0.000020"


def test_an_order_that_is_there_is_not_sent_again(opened, order, server):
    opened.submitter().bring(order)
    again = opened.submitter()
    assert again.bring(order).state is OrderState.ACCEPTED
    assert (again.sent, opened.posts) == (0, 1)


# -- faults ---------------------------------------------------------------------------------------------------

FAULTS = {
    "lost": (lost(), 1),
    "dropped": (dropped(), 2),
    "cut short": (cut_short(), 1),
    "truncated": (truncated(), 1),
    "500 after": (server_error_after(), 1),
    "503 after": (server_error_after(503), 1),
    "500 before": (server_error(), 2),
    "504 before": (server_error(504), 2),
    "429": (rate_limited(), 2),
    "429 with a wait": (rate_limited(20), 2),
}


@pytest.mark.parametrize(("fault", "posts"), FAULTS.values(), ids=FAULTS)
def test_after_one_fault_there_is_one_order(opened, order, server, fault, posts):
    server.faults.add(fault, method="POST")
    submitter = opened.submitter()
    assert submitter.bring(order).state is OrderState.ACCEPTED
    assert opened.accepted == [order.client_order_id]
    assert (submitter.sent, opened.posts) == (1, posts)
    assert OrderState.UNCONFIRMED in states(opened, order)


@pytest.mark.parametrize(
    ("fault", "posts"),
    [(answered_late(1.0), 1), (stalled_unprocessed(1.0), 2), (late(0.6), 2)],
    ids=["answered late", "never processed", "processed late"],
)
def test_after_a_time_out_there_is_one_order(make_paper, server, fault, posts):
    """Processed late, the first request comes to the server after the second one."""
    opened = make_paper(request_seconds=0.3)
    opened.open()
    order = opened.intent()
    opened.commit(order)
    server.faults.add(fault, method="POST")
    submitter = opened.submitter()
    assert submitter.bring(order).state is OrderState.ACCEPTED
    assert (submitter.sent, opened.posts) == (1, posts)
    if fault.kind == "late":
        wait_for(lambda: len(server.submissions) == 2)
    assert opened.accepted == [order.client_order_id]


def wait_for(condition, seconds: float = 5.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_the_wait_that_the_broker_asks_for_is_kept(opened, order, server):
    server.faults.add(rate_limited(17), times=2, method="POST")
    opened.submitter().bring(order)
    assert opened.clock.slept == [17, 17]
    assert opened.posts == 3


def test_waits_grow_and_are_spread(opened, order, server):
    server.faults.add(server_error(), times=6, method="POST")
    opened.submitter().bring(order)
    longest = [0.5, 1, 2, 4, 8, 8]
    assert len(opened.clock.slept) == 6
    assert all(most / 2 <= waited <= most for waited, most in zip(opened.clock.slept, longest, strict=True))


def test_a_wait_beyond_the_budget_is_not_begun(opened, order, server):
    server.faults.add(rate_limited(61), method="POST")
    left = opened.submitter().bring(order)
    assert (left.state, opened.clock.slept) == (OrderState.UNCONFIRMED, [])
    assert "429" in left.note


def test_a_refusal_is_recorded_in_the_brokers_words(opened, order, server):
    server.brokerage._cash = D(10)
    submitter = opened.submitter()
    refused = submitter.bring(order)
    assert refused.state is OrderState.REJECTED
    assert "403" in refused.note
    assert "insufficient buying power" in refused.note
    assert (submitter.sent, opened.accepted, opened.posts) == (0, [], 1)


def test_forbidden_by_something_before_alpaca_is_a_refusal(opened, order, server):
    server.faults.add(forbidden(), method="POST")
    refused = opened.submitter().bring(order)
    assert (refused.state, opened.accepted, opened.posts) == (OrderState.REJECTED, [], 1)
    assert "forbidden." in refused.note


def test_the_keys_are_in_no_note(opened, order, server):
    server.faults.add(lost(), times=40, method="POST")
    server.faults.add(dropped(), always=True, path="/orders:by_client_order_id")
    with pytest.raises(UnreachableError) as caught:
        opened.submitter().bring(order)
    notes = [note for *_, note in opened.ledger.order_events(order.client_order_id)]
    assert not any(key in text for key in (server.key, server.secret) for text in [*notes, str(caught.value)])


def test_a_refusal_of_an_order_that_is_there_is_none(opened, order, server):
    """The first request is taken and its answer lost; the second one is refused, since the first took the money."""
    server.faults.add(lost(), method="POST")
    server.faults.add(forbidden(), method="POST")
    server.faults.add(server_error(), times=8, path="/orders:by_client_order_id", where=_after_a_post(server))
    assert opened.submitter().bring(order).state is OrderState.ACCEPTED
    assert (opened.accepted, opened.posts) == ([order.client_order_id], 2)


def _after_a_post(server):
    return lambda _: bool(server.submissions)


# -- identities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [40010001, 42210000])
def test_an_identity_that_is_there_with_the_same_order_is_success(opened, order, server, code):
    server.duplicate_code = code
    server.faults.add(lost(), method="POST")
    # 8 attempts of one look are used up, so that the submitter sends again without knowing
    server.faults.add(server_error(), times=8, path="/orders:by_client_order_id", where=_after_a_post(server))
    submitter = opened.submitter()
    assert submitter.bring(order).state is OrderState.ACCEPTED
    assert submitter.sent == 1
    assert opened.accepted == [order.client_order_id]
    assert [each.accepted for each in server.submissions] == [True, False]


@pytest.mark.parametrize(
    "change",
    [{"quantity": D(11)}, {"limit_price": D("101.99")}, {"side": Side.SELL, "limit_price": None}, {"symbol": "CCC"}],
    ids=lambda change: next(iter(change)),
)
def test_an_identity_that_is_there_with_another_order_is_a_conflict(opened, order, server, change):
    server.manual_trade("AAA", "buy", 20)
    opened.broker.submit(replace(order, **change), lambda: None)
    submitter = opened.submitter()
    with pytest.raises(ConflictError, match=r"has an order main-20260105-AAA-0 for .*, and the ledger planned buy 10"):
        submitter.bring(order)
    assert (submitter.sent, opened.posts) == (0, 1)
    assert states(opened, order) == [OrderState.PLANNED]


def test_a_conflict_that_shows_only_when_sending(opened, order, server):
    opened.broker.submit(replace(order, quantity=D(11)), lambda: None)
    real = opened.broker.order
    answers = iter([None])
    opened.broker.order = lambda identity: next(answers, real(identity))
    with pytest.raises(ConflictError):
        opened.submitter().bring(order)
    assert opened.accepted == [order.client_order_id]


def test_trailing_zeros_are_no_conflict(opened, order):
    opened.submitter().bring(order)
    again = replace(order, quantity=D("10.000"), limit_price=D("102.0000"))
    assert opened.submitter().bring(again).state is OrderState.ACCEPTED


# -- the budget -----------------------------------------------------------------------------------------------


def test_a_used_up_budget_leaves_the_order_unconfirmed_and_a_later_run_sends_it(opened, order, server):
    server.faults.add(server_error(), always=True, method="POST")
    submitter = opened.submitter()
    left = submitter.bring(order)
    assert (left.state, submitter.sent) == (OrderState.UNCONFIRMED, 0)
    assert "500" in left.note
    assert sum(opened.clock.slept) <= 60
    assert opened.posts > 5
    server.faults.clear()
    assert opened.submitter().bring(left).state is OrderState.ACCEPTED
    assert opened.accepted == [order.client_order_id]


def test_a_used_up_budget_leaves_the_order_unconfirmed_and_a_later_run_finds_it(opened, order, server):
    """Taken, and the broker cannot be asked; the second sending is a duplicate, and it still cannot be asked."""
    server.faults.add(lost(), method="POST")
    server.faults.add(dropped(), always=True, path="/orders", where=_after_a_post(server))
    left = opened.submitter().bring(order)
    assert left.state is OrderState.UNCONFIRMED
    server.faults.clear()
    posts = opened.posts
    later = opened.submitter()
    assert later.bring(left).state is OrderState.ACCEPTED
    assert (later.sent, opened.posts) == (0, posts)
    assert opened.accepted == [order.client_order_id]


def test_a_broker_that_cannot_be_asked_gets_nothing(opened, order, server):
    server.faults.add(server_error(), always=True, method="GET")
    with pytest.raises(BrokerError):
        opened.submitter().bring(order)
    assert opened.posts == 0
    assert states(opened, order) == [OrderState.PLANNED]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_faults_in_any_order_make_at_most_one_order(opened, server, data):
    """Every request may meet any fault; afterwards the wire is good, and a last run brings what is missing."""
    revision = opened.ledger.next_revision("main", opened.session)
    order = opened.intent("CCC", "1", revision=revision)
    opened.commit(order, revision=revision)
    kinds = st.sampled_from([fault for fault, _ in FAULTS.values()])
    for _ in range(data.draw(st.integers(1, 5))):
        server.faults.add(data.draw(kinds), times=data.draw(st.integers(1, 9)), skip=data.draw(st.integers(0, 2)))
    with suppress(BrokerError):
        opened.submitter().bring(order)
    server.faults.clear()
    assert opened.submitter().bring(opened.ledger.order(order.client_order_id)).state is OrderState.ACCEPTED
    assert opened.accepted.count(order.client_order_id) == 1


# -- lease and halt -------------------------------------------------------------------------------------------


def test_without_the_lease_nothing_is_sent(opened, order):
    submitter = opened.submitter()
    opened.ledger.acquire_lease("main", "another", 60, take_over=True)
    with pytest.raises(LeaseLostError, match="taken over by another"):
        submitter.bring(order)
    assert opened.posts == 0
    assert states(opened, order) == [OrderState.PLANNED]


def test_a_lease_that_was_given_back_is_lost(opened, order):
    with opened.desk.lease() as lease:
        submitter = opened.desk.submitter(lease)
    with pytest.raises(LeaseLostError, match="ran out"):
        submitter.bring(order)
    assert opened.posts == 0


def test_a_lease_that_is_lost_between_two_attempts(opened, order, server):
    server.faults.add(server_error(), always=True, method="POST")
    submitter = opened.submitter()
    sleep = opened.clock.sleep

    def taken_over(seconds):
        opened.ledger.acquire_lease("main", "another", 60, take_over=True)
        sleep(seconds)

    submitter.budget = replace(submitter.budget, sleep=taken_over)
    with pytest.raises(LeaseLostError):
        submitter.bring(order)
    assert opened.posts == 1


@pytest.mark.parametrize(("held_up", "sent"), [(119.0, True), (120.0, False), (3600.0, False)])
def test_a_process_that_was_held_up_for_longer_than_its_lease_sends_nothing(opened, order, held_up, sent):
    """Stopped after the last look at the ledger, before the request goes out."""
    submitter = opened.submitter()
    submit = opened.broker.submit

    def stopped(order, before_sending):
        opened.clock.now += held_up
        return submit(order, before_sending)

    opened.broker.submit = stopped
    if sent:
        assert submitter.bring(order).state is OrderState.ACCEPTED
    else:
        with pytest.raises(LeaseLostError, match=r"held up for longer than its lease of 120 s"):
            submitter.bring(order)
        assert opened.ledger.order(order.client_order_id).state is OrderState.SUBMITTED
    assert opened.posts == int(sent)


def test_looks_at_the_broker_do_not_ask_for_the_lease(opened, order):
    """What guards a sending is gone after it."""
    opened.submitter().bring(order)
    opened.clock.now += 10_000
    assert opened.broker.order(order.client_order_id) is not None
    opened.broker.cancel(opened.ledger.order(order.client_order_id).broker_order_id)


def test_a_halt_between_two_orders_stops_the_second(opened):
    first, second = opened.intent("AAA"), opened.intent("BBB")
    opened.commit(first, second)
    submitter = opened.submitter()
    submitter.bring(first)
    opened.ledger.set_halt_state("main", HaltState.HALTED, Cause.OPERATOR, "stop", "Kim")
    with pytest.raises(HaltedError, match="by Kim: stop"):
        submitter.bring(second)
    assert opened.accepted == [first.client_order_id]
    assert states(opened, second) == [OrderState.PLANNED]


def test_reduce_only_lets_sales_of_what_is_held_pass(opened, server):
    opened.send_and_fill("AAA", "10")
    opened.reconcile()
    opened.ledger.set_halt_state("main", HaltState.REDUCE_ONLY, Cause.OPERATOR, "less", "Kim")
    sale, purchase = opened.intent("AAA", "10", "sell", 1), opened.intent("BBB", "1", revision=1)
    opened.commit(sale, purchase, revision=1)
    submitter = opened.submitter()
    assert submitter.bring(sale).state is OrderState.ACCEPTED
    with pytest.raises(HaltedError):
        submitter.bring(purchase)
    assert opened.posts == 2


def test_an_order_that_has_ended_is_not_sent(opened, order):
    opened.ledger.record_state(order.client_order_id, OrderState.EXPIRED, "too late")
    with pytest.raises(LedgerError, match="is expired"):
        opened.submitter().bring(order)
    assert opened.posts == 0
