"""Each fault on the wire, seen with a plain client; and the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import pytest
import requests

from tests.servers.alpaca import AlpacaDataServer
from tests.servers.faults import (
    cut_short,
    dropped,
    forbidden,
    rate_limited,
    server_error,
    stalled,
    truncated,
)
from tests.servers.market import Listing
from tests.servers.yahoo import YahooServer

CHART = "/v8/finance/chart/"


@pytest.fixture
def client() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.mark.parametrize(
    ("fault", "status"), [(rate_limited(), 429), (server_error(), 500), (server_error(503), 503), (forbidden(), 403)]
)
def test_a_status_comes_as_often_as_planned(yahoo: YahooServer, client: requests.Session, fault, status) -> None:
    yahoo.faults.add(fault, times=2)
    answers = [client.get(f"{yahoo.url}{CHART}TWO").status_code for _ in range(3)]
    assert answers == [status, status, 200]


def test_always_ends_with_clear(yahoo: YahooServer, client: requests.Session) -> None:
    yahoo.faults.add(server_error(), always=True)
    assert {client.get(f"{yahoo.url}{CHART}TWO").status_code for _ in range(5)} == {500}
    yahoo.faults.clear()
    assert client.get(f"{yahoo.url}{CHART}TWO").status_code == 200


def test_faults_meet_only_requests_that_match(yahoo: YahooServer, client: requests.Session) -> None:
    yahoo.faults.add(server_error(), symbol="TWO", skip=1)
    yahoo.faults.add(forbidden(), path="getcrumb")
    yahoo.faults.add(rate_limited(), where=lambda request: request.query.get("range") == "5d")

    def ask(address: str) -> int:
        return client.get(yahoo.url + address).status_code

    assert [ask(f"{CHART}TWO"), ask(f"{CHART}ONCE"), ask(f"{CHART}TWO"), ask(f"{CHART}TWO")] == [200, 200, 500, 200]
    assert [ask("/v1/test/getcrumb"), ask(f"{CHART}ONCE?range=1d"), ask(f"{CHART}ONCE?range=5d")] == [403, 200, 429]


def test_retry_after_in_seconds_as_a_date_and_absent(yahoo: YahooServer, client: requests.Session) -> None:
    for fault in (rate_limited(3), rate_limited(3, as_date=True), rate_limited()):
        yahoo.faults.add(fault)
    seconds, date, absent = (client.get(f"{yahoo.url}{CHART}TWO").headers.get("Retry-After") for _ in range(3))
    assert seconds == "3"
    assert date is not None
    assert 1 < parsedate_to_datetime(date).timestamp() - time.time() <= 4
    assert absent is None


def test_a_stall_outlasts_the_time_out(yahoo: YahooServer, client: requests.Session) -> None:
    yahoo.faults.add(stalled(30))
    with pytest.raises(requests.exceptions.ReadTimeout):
        client.get(f"{yahoo.url}{CHART}TWO", timeout=0.2)
    assert yahoo.log.requests()[0].status is None


def test_a_short_stall_is_answered_late(yahoo: YahooServer, client: requests.Session) -> None:
    yahoo.faults.add(stalled(0.2))
    began = time.monotonic()
    assert client.get(f"{yahoo.url}{CHART}TWO", timeout=2).status_code == 200
    assert time.monotonic() - began >= 0.2


def test_truncated_json_has_valid_headers(yahoo: YahooServer, client: requests.Session) -> None:
    yahoo.faults.add(truncated())
    answer = client.get(f"{yahoo.url}{CHART}TWO")
    assert answer.status_code == 200
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    with pytest.raises(requests.exceptions.JSONDecodeError):
        answer.json()


def test_a_body_cut_short_breaks_the_transfer(yahoo: YahooServer, client: requests.Session) -> None:
    yahoo.faults.add(cut_short())
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        client.get(f"{yahoo.url}{CHART}TWO")


def test_a_connection_is_closed_without_an_answer(yahoo: YahooServer, client: requests.Session) -> None:
    yahoo.faults.add(dropped())
    with pytest.raises(requests.exceptions.ConnectionError, match="without response"):
        client.get(f"{yahoo.url}{CHART}TWO")
    assert client.get(f"{yahoo.url}{CHART}TWO").status_code == 200
    assert [(r.status, r.fault) for r in yahoo.log.requests()] == [(None, "dropped"), (200, None)]


def test_the_log_knows_every_request(alpaca: AlpacaDataServer, client: requests.Session) -> None:
    client.get(f"{alpaca.url}/v2/stocks/bars", params={"symbols": "TWO,ONCE", "timeframe": "1Day"})
    client.get(f"{alpaca.url}/v1/corporate-actions")
    first, second = alpaca.log.requests()
    assert (first.path, first.symbols, first.query["timeframe"]) == ("/v2/stocks/bars", ("TWO", "ONCE"), "1Day")
    assert (second.symbols, second.status) == ((), 403)
    assert first.time <= second.time
    assert alpaca.log.requests("stocks", "ONCE") == [first]
    alpaca.log.clear()
    assert alpaca.log.requests() == []


def test_the_log_counts_requests_at_the_same_time(yahoo: YahooServer) -> None:
    yahoo.faults.add(stalled(0.3), times=4)

    def ask(_: int) -> int:
        with requests.Session() as session:
            return session.get(f"{yahoo.url}{CHART}TWO").status_code

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [200] * 4
    assert yahoo.log.most_at_once == 4


def test_a_server_ends_with_connections_open_and_answers_pending(market: dict[str, Listing]) -> None:
    with requests.Session() as kept, YahooServer(market) as server:
        assert kept.get(f"{server.url}{CHART}TWO").status_code == 200
        server.faults.add(stalled(60))
        with pytest.raises(requests.exceptions.ReadTimeout):
            kept.get(f"{server.url}{CHART}TWO", timeout=0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 1


def test_a_mistake_of_the_server_is_not_taken_for_a_vendors(market: dict[str, Listing]) -> None:
    def broken(rows):
        raise ZeroDivisionError

    server = YahooServer(market)
    server.odd(broken)
    server.__enter__()
    assert requests.get(f"{server.url}{CHART}TWO", timeout=2).status_code == 500
    with pytest.raises(ZeroDivisionError):
        server.__exit__(None)
