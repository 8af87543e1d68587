"""Sessions at the paper account: once, through every gate by its name, and halted where it must be.

What both brokers have in common is in `test_trading_session`, which trades whole worlds at the simulated one.
"""

from dataclasses import replace
from datetime import date

import pytest
from sqlalchemy import text

from tests.servers.faults import lost, server_error
from trading_dagster.execution.gates import Gate
from trading_dagster.execution.halts import AUTOMATIC, Cause, HaltState
from trading_dagster.execution.orders import OrderState
from trading_dagster.execution.trading_session import SessionTrades, Wish, observe
from trading_dagster.resources.ledger import Purpose

from .markets import D
from .paper import NO_LIMITS, SESSION, Paper

DECIDED = SessionTrades(0, 0, decided_before=True)


def equity(paper: Paper) -> list:
    return [(point.equity, point.external_flow) for point in paper.ledger.equity_points(paper.strategy)]


def refused_by(trades: SessionTrades) -> Gate | None:
    return trades.refused.gate if trades.refused else None


# -- trading --------------------------------------------------------------------------------------------------


def test_a_session_from_targets_to_positions(paper, server):
    assert paper.trade(AAA=0.5, BBB=0.25, WHOLE=0.2) == SessionTrades(3, 3, decided_before=False)
    # of 100,000 at 100, 50 and 30; what trades whole shares is rounded down
    assert {order.symbol: order.qty for order in server.orders} == {"AAA": D(500), "BBB": D(500), "WHOLE": D(666)}
    assert {order.limit_price for order in server.orders} == {D(102), D(51), D("30.6")}
    paper.next_open()
    server.trade_open()
    paper.next_close(AAA="101")
    assert paper.trade(AAA=0.5, BBB=0.25, WHOLE=0.2).submitted > 0
    assert paper.books()[1] == server.positions
    assert equity(paper) == [(D(100_000), 0), (D(100_500), 0)]
    paper.next_day()
    paper.trade()
    assert {order.side for order in server.open_orders} == {"sell"}
    paper.next_day()
    paper.trade()
    assert (server.positions, paper.books()[0]) == ({}, server.cash)
    assert paper.ledger.halt_state("main").state is HaltState.ACTIVE


def test_a_second_run_sends_nothing(paper, server):
    paper.trade(AAA=0.5)
    assert paper.trade(AAA=0.9, BBB=0.1) == DECIDED
    server.end_of_day()
    assert paper.trade(BBB=0.9) == DECIDED
    assert len(paper.accepted) == paper.posts == 1


def test_a_session_that_wants_nothing_is_decided(paper):
    assert paper.trade() == SessionTrades(0, 0, decided_before=False)
    assert paper.trade(AAA=0.5) == DECIDED


def test_what_waits_is_not_ordered_again(paper, server):
    """Orders of the session before, still open at the close: they count as held."""
    paper.trade(AAA=0.5)
    paper.next_close(expire=False)
    assert paper.trade(AAA=0.5).planned == 0
    paper.next_close(expire=False)
    assert paper.trade(AAA=0.6).submitted == 1
    assert [order.qty for order in server.open_orders] == [D(500), D(100)]


def test_lost_answers_and_a_later_run_make_one_order_each(paper, server):
    server.faults.add(server_error(), always=True, method="POST")
    first = paper.trade(AAA=0.3, BBB=0.3)
    assert (first.submitted, len(first.unsettled)) == (0, 2)
    server.faults.clear()
    server.faults.add(lost(), method="POST")
    second = paper.trade(AAA=0.3, BBB=0.3)
    assert (second.submitted, second.unsettled, second.decided_before) == (2, (), True)
    assert sorted(paper.accepted) == ["main-20260105-AAA-0", "main-20260105-BBB-0"]
    assert paper.trade(AAA=0.3, BBB=0.3) == DECIDED


# -- gates ----------------------------------------------------------------------------------------------------


def held_back(paper: Paper, gate: Gate, trades: SessionTrades) -> None:
    """The whole session is refused by this gate, on record, and nothing is sent."""
    assert refused_by(trades) is gate
    assert (trades.submitted, trades.planned, trades.decided_before) == (0, 0, False)
    assert paper.refused_gates()[-1] == (gate.value, "")
    assert paper.posts == 0
    assert paper.ledger.plan("main", paper.session) is None


@pytest.mark.parametrize("verdicts", [{"bars": True}, {"bars": True, "signals": False}])
def test_without_good_verdicts_nothing_is_sent(paper, verdicts):
    wish = Wish({"AAA": 0.5}, {}, verdicts, ["bars", "signals"])
    held_back(paper, Gate.UPSTREAM_VERDICTS, paper.trade(wish=wish))
    good = replace(wish, verdicts={"bars": True, "signals": True})
    assert paper.trade(wish=good).submitted == 1


@pytest.mark.parametrize("session", [date(2026, 1, 2), date(2026, 1, 6)], ids=["past", "to come"])
def test_only_the_newest_session_is_traded(paper, session):
    held_back(paper, Gate.FRESHNESS, paper.trade(session, AAA=0.5))
    assert paper.ledger.recorded_account("main", session) is None
    assert paper.ledger.plan("main", session) is None


def test_a_halted_strategy_sends_nothing_and_is_still_observed(paper, server):
    paper.trade(AAA=0.1)
    paper.next_day()
    server.log.clear()
    paper.ledger.set_halt_state("main", HaltState.HALTED, Cause.OPERATOR, "stop", "Kim")
    held_back(paper, Gate.HALT, paper.trade(BBB=0.5))
    assert paper.books()[1] == {"AAA": D(100)}
    assert paper.ledger.recorded_account("main", paper.session).positions == {"AAA": D(100)}
    paper.ledger.set_halt_state("main", HaltState.ACTIVE, None, "go on", "Kim")
    assert paper.trade(BBB=0.5).submitted == 2


def test_halted_before_the_first_session(paper):
    paper.ledger.set_halt_state("main", HaltState.HALTED, Cause.OPERATOR, "not yet", "Kim")
    held_back(paper, Gate.HALT, paper.trade(AAA=0.5))


def test_reduce_only_sells_and_does_not_buy(paper, server):
    paper.trade(AAA=0.4, BBB=0.4)
    paper.next_day()
    paper.ledger.set_halt_state("main", HaltState.REDUCE_ONLY, Cause.OPERATOR, "less", "Kim")
    trades = paper.trade(AAA=0.2, BBB=0.5, CCC=0.1)
    assert [(order.symbol, order.side) for order in server.open_orders] == [("AAA", "sell")]
    assert [(r.gate, r.symbol) for r in trades.refusals] == [(Gate.HALT, "BBB"), (Gate.HALT, "CCC")]
    assert trades.submitted == 1
    assert paper.refused_gates() == [("halt", "BBB"), ("halt", "CCC")]


def test_a_missing_state_is_a_halt(paper):
    paper.open()
    with paper.ledger.transaction() as db:
        db.execute(text("DELETE FROM halt_states"))
    trades = paper.trade(AAA=0.5)
    held_back(paper, Gate.HALT, trades)
    assert "missing_state" in trades.refused.detail


def test_a_position_that_nobody_has_a_price_of_halts(paper):
    """It is in the ledger alone: neither the broker nor the bars know what it is worth."""
    paper.open()
    with paper.ledger.transaction() as db:
        db.execute(
            text(
                "INSERT INTO lots (strategy, symbol, owner, session, quantity, cost) "
                "VALUES ('main', 'GONE', 'strategy', '2026-01-02', '7', '70')"
            )
        )
    held_back(paper, Gate.RECONCILIATION, paper.trade(AAA=0.5))
    halt = paper.ledger.halt_state("main")
    assert (halt.state, halt.cause) == (HaltState.HALTED, Cause.RECONCILIATION)
    assert "GONE: 0 shares at the broker, 7 in the ledger" in halt.detail
    assert paper.ledger.recorded_account("main", paper.session) is None


def test_a_difference_halts_and_the_next_run_is_refused_by_it(paper, server):
    paper.trade(AAA=0.1)
    paper.next_day()
    server.log.clear()
    server.brokerage._cash -= D(5)
    held_back(paper, Gate.RECONCILIATION, paper.trade(BBB=0.5))
    halt = paper.ledger.halt_state("main")
    assert (halt.state, halt.cause, halt.operator) == (HaltState.HALTED, Cause.RECONCILIATION, AUTOMATIC)
    server.brokerage._cash += D(5)
    held_back(paper, Gate.HALT, paper.trade(BBB=0.5))
    # the first cause is the one to look into
    assert paper.ledger.halt_state("main") == halt


LIMITED = {
    "position_weight": (Gate.POSITION_WEIGHT, "0.29"),
    "order_notional": (Gate.ORDER_NOTIONAL, "30599"),
    "volume_share": (Gate.VOLUME_SHARE, "0.029"),
}


@pytest.mark.parametrize(("limit", "gate", "value"), [(k, *v) for k, v in LIMITED.items()], ids=LIMITED)
def test_a_limit_holds_back_one_order_by_name(make_paper, server, limit, gate, value):
    """30,000 of AAA are 300 shares at a limit of 102; BBB passes."""
    paper = make_paper(limits=replace(NO_LIMITS, **{limit: D(value)}))
    volumes = {"AAA": D(10_000), "BBB": D(10_000)}
    trades = paper.trade(wish=Wish({"AAA": 0.3, "BBB": 0.1}, {}, average_volumes=volumes))
    assert [(r.gate, r.symbol) for r in trades.refusals] == [(gate, "AAA")]
    assert [order.symbol for order in server.orders] == ["BBB"]
    assert paper.refused_gates() == [(gate.value, "AAA")]
    refused = paper.ledger.order("main-20260105-AAA-0")
    assert refused.state is OrderState.REJECTED
    assert refused.note.startswith(f"{gate.value} of AAA: ")
    assert (trades.refused, paper.trade(AAA=0.3)) == (None, DECIDED)


def test_gross_holds_back_the_largest(make_paper, server):
    paper = make_paper(limits=replace(NO_LIMITS, gross=D("0.5")))
    trades = paper.trade(AAA=0.35, BBB=0.3, CCC=0.15)
    assert [(r.gate, r.symbol) for r in trades.refusals] == [(Gate.GROSS, "AAA")]
    assert sorted(order.symbol for order in server.orders) == ["BBB", "CCC"]


def test_the_collar_holds_back_what_the_bars_got_wrong(make_paper, server):
    """The broker knows a split that the bars do not: half the price, twice the shares."""
    paper = make_paper(limits=replace(NO_LIMITS, price_collar=D("0.1")))
    paper.trade(AAA=0.3, BBB=0.3)
    paper.next_day()
    server.split("AAA", "2")
    wrong = paper.market()
    wrong.close["AAA"] = D(100)
    paper.market = lambda session=None: wrong
    trades = paper.trade(AAA=0.4, BBB=0.2)
    assert [(r.gate, r.symbol) for r in trades.refusals if r.symbol == "AAA"] == [(Gate.PRICE_COLLAR, "AAA")]
    assert "AAA" not in {order.symbol for order in server.open_orders}


def test_what_the_broker_does_not_trade_is_named(paper, server):
    server.untradable.add("AAA")
    trades = paper.trade(AAA=0.3, BBB=0.3, ZZZ=0.0)
    assert [(r.gate, r.symbol) for r in trades.refusals] == [(Gate.TRADABLE, "AAA")]
    assert [order.symbol for order in server.orders] == ["BBB"]


def test_a_symbol_that_was_traded_by_hand_is_left_alone(paper, server):
    paper.trade(AAA=0.3, BBB=0.3)
    paper.next_day()
    server.manual_trade("AAA", "buy", 7)
    paper.trade(AAA=0.1, BBB=0.1)
    assert [order.symbol for order in server.open_orders] == ["BBB"]
    paper.next_day()
    adopting = paper.like(manual_trades="adopt")
    adopting.trade(AAA=0.1, BBB=0.1)
    assert "AAA" in {order.symbol for order in server.open_orders}
    assert adopting.books()[1]["AAA"] == server.positions["AAA"]


# -- losses ---------------------------------------------------------------------------------------------------

CAREFUL = replace(NO_LIMITS, daily_loss=D("0.03"), drawdown=D("0.15"))


@pytest.mark.parametrize(
    ("price", "halts"),
    # 500 shares bought at 100, of 100,000: 6 a share are 3 in the hundred
    [("94", True), ("94.01", False), ("93", True), ("106", False), ("160", False)],
)
def test_a_daily_loss_halts_by_itself_and_a_gain_does_not(make_paper, server, price, halts):
    paper = make_paper(limits=CAREFUL)
    paper.trade(AAA=0.5)
    paper.next_day()
    paper.trade(AAA=0.5)
    paper.next_open()
    paper.next_close(AAA=price)
    server.log.clear()
    trades = paper.trade(AAA=0.2)
    halt = paper.ledger.halt_state("main")
    if not halts:
        assert (refused_by(trades), halt.state, paper.posts) == (None, HaltState.ACTIVE, 1)
        return
    held_back(paper, Gate.DAILY_LOSS, trades)
    assert (halt.state, halt.cause, halt.operator) == (HaltState.HALTED, Cause.DAILY_LOSS, AUTOMATIC)
    held_back(paper, Gate.HALT, paper.trade(AAA=0.2))


def test_a_drawdown_halts(make_paper):
    """900 shares fall day by day by less than 3 in the hundred of equity: 85,240 is enough, 83,350 is not."""
    paper = make_paper(limits=CAREFUL)
    paper.trade(AAA=0.9)
    paper.next_day()
    paper.trade(AAA=0.9)
    for price in ("97.5", "95", "92.6", "90.3", "88", "85.8", "83.6"):
        paper.next_close(AAA=price)
        assert refused_by(paper.trade(AAA=0.9)) is None
    paper.next_close(AAA="81.5")
    assert refused_by(paper.trade(AAA=0.9)) is Gate.DRAWDOWN
    assert paper.ledger.halt_state("main").cause is Cause.DRAWDOWN
    assert refused_by(paper.trade(AAA=0.9)) is Gate.HALT


def test_money_that_is_taken_out_is_no_loss(make_paper, server):
    paper = make_paper(limits=CAREFUL)
    paper.trade(AAA=0.3)
    paper.next_day()
    server.withdraw("50000")
    assert refused_by(paper.trade(AAA=0.3)) is None
    assert equity(paper) == [(D(100_000), 0), (D(50_000), D(-50_000))]
    paper.next_day()
    assert refused_by(paper.trade(AAA=0.3)) is None


def test_money_that_is_paid_in_hides_no_loss(make_paper, server):
    paper = make_paper(limits=CAREFUL)
    paper.trade(AAA=0.5)
    paper.next_day()
    server.deposit("20000")
    server.set_price("AAA", "90")
    assert refused_by(paper.trade(AAA=0.5)) is Gate.DAILY_LOSS


# -- a broker that fails --------------------------------------------------------------------------------------


def test_three_runs_without_an_answer_halt(paper, server):
    paper.open()
    server.faults.add(server_error(), always=True)
    for number in range(3):
        assert paper.ledger.halt_state("main").state is HaltState.ACTIVE
        assert paper.ledger.strategy("main").broker_errors == number
        held_back(paper, Gate.RECONCILIATION, paper.trade(AAA=0.5))
    halt = paper.ledger.halt_state("main")
    assert (halt.state, halt.cause) == (HaltState.HALTED, Cause.BROKER_ERRORS)
    assert "3 times in a row" in halt.detail
    held_back(paper, Gate.HALT, paper.trade(AAA=0.5))
    server.faults.clear()
    held_back(paper, Gate.HALT, paper.trade(AAA=0.5))


def test_failures_with_an_answer_between_them_are_not_in_a_row(paper, server):
    paper.open()
    for _ in range(4):
        server.faults.add(server_error(), always=True)
        held_back(paper, Gate.RECONCILIATION, paper.trade(AAA=0.5))
        server.faults.clear()
        observe(paper.desk, paper.market())
        assert paper.ledger.strategy("main").broker_errors == 0
    assert paper.trade(AAA=0.5).submitted == 1


def test_a_conflict_halts(paper, server):
    paper.trade()  # the books begin
    paper.next_close()
    other = replace(paper.intent("AAA", "1"), client_order_id="main-20260106-AAA-0")
    market = paper.market()
    submit = paper.broker.submit

    def somebody_else_first(order, before_sending):
        paper.broker.submit = submit
        submit(replace(other, quantity=D(1)), lambda: None)
        return submit(order, before_sending)

    paper.broker.submit = somebody_else_first
    paper.market = lambda session=None: market
    trades = paper.trade(AAA=0.5)
    assert refused_by(trades) is Gate.RECONCILIATION
    assert paper.ledger.halt_state("main").cause is Cause.RECONCILIATION
    assert paper.accepted == ["main-20260106-AAA-0"]


# -- dry runs -------------------------------------------------------------------------------------------------


def test_a_dry_run_records_and_sends_nothing_and_a_live_run_trades_once(paper, server):
    dry = paper.like(dry_run=True)
    trades = dry.trade(AAA=0.5, BBB=0.2)
    assert trades == SessionTrades(2, 0, decided_before=False)
    assert paper.posts == 0
    plan = paper.ledger.plan("main", SESSION, Purpose.DRY_RUN)
    assert [(order.symbol, order.quantity) for order in plan.orders] == [("AAA", D(500)), ("BBB", D(400))]
    assert dry.trade(AAA=0.4) == SessionTrades(1, 0, decided_before=False)
    live = paper.trade(AAA=0.3)
    assert live == SessionTrades(1, 1, decided_before=False)
    assert paper.trade(AAA=0.5) == DECIDED
    assert [order.qty for order in server.orders] == [D(300)]
    assert {order.state for order in plan_orders_of(paper, plan)} == {OrderState.EXPIRED}


def plan_orders_of(paper: Paper, plan) -> list:
    return [paper.ledger.order(order.client_order_id) for order in plan.orders]


def test_a_dry_run_names_what_would_be_refused(make_paper):
    paper = make_paper(dry_run=True, limits=replace(NO_LIMITS, gross=D("0.1")))
    trades = paper.trade(AAA=0.5)
    assert [(r.gate, r.symbol) for r in trades.refusals] == [(Gate.GROSS, "AAA")]
    assert paper.refused_gates() == [("gross", "AAA")]


def test_a_dry_run_does_not_send_what_a_live_run_left(paper, server):
    """A live run could not send; then TRADING_DRY_RUN was set."""
    server.faults.add(server_error(), always=True, method="POST")
    assert len(paper.trade(AAA=0.5).unsettled) == 1
    server.faults.clear()
    server.log.clear()
    assert paper.like(dry_run=True).trade(AAA=0.5).submitted == 0
    assert paper.posts == 0
