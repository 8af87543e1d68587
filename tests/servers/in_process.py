"""A server's answers without a socket, for tests that ask hundreds of thousands of times.

Belongs here: a transport for `requests` that hands each request to the server in the same process, and faults as the
client sees them. Everything above it, alpaca-py included, is as over the network.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from requests import ConnectTimeout, PreparedRequest, ReadTimeout, Response
from requests.adapters import BaseAdapter

from tests.servers.faults import Request
from tests.servers.loopback import LoopbackVendor, Reply
from trading_dagster.resources.alpaca_broker import AlpacaBroker

Fault = Literal["lost", "never arrived", "429", "500", "500 after acceptance", "403"]


class InProcess(BaseAdapter):
    """Hands requests to a server.

    Attributes
    ----------
    faults : list
        Met by the next requests with the method POST, in order; None lets one pass.
    """

    def __init__(self, server: LoopbackVendor, before_sending: Callable[[], None]) -> None:
        super().__init__()
        self.server, self.before_sending = server, before_sending
        self.faults: list[Fault | None] = []

    def send(self, request: PreparedRequest, **_: Any) -> Response:  # type: ignore[override]
        self.before_sending()
        fault = self.faults.pop(0) if request.method == "POST" and self.faults else None
        if fault == "never arrived":
            raise ConnectTimeout("timed out", request=request)
        if fault in ("429", "500", "403"):
            return self._answer(request, self.server.failure(int(fault)))
        reply = self._ask(request)
        if fault == "lost":
            raise ReadTimeout("timed out", request=request)
        return self._answer(request, self.server.failure(500) if fault == "500 after acceptance" else reply)

    def close(self) -> None:
        """There is nothing to close."""

    def _ask(self, request: PreparedRequest) -> Reply:
        parts = urlsplit(str(request.url))
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        path = unquote(parts.path)
        asked = Request(
            0.0, str(request.method), path, query, self.server.symbols_of(path, query), dict(request.headers)
        )
        body = request.body or b""
        return self.server.reply_to(asked, body if isinstance(body, bytes) else body.encode())

    @staticmethod
    def _answer(request: PreparedRequest, reply: Reply) -> Response:
        response = Response()
        response.status_code, response.request, response.url = reply.status, request, str(request.url)
        response.headers["Content-Type"] = reply.content_type
        response.raw = BytesIO(reply.body)
        response.encoding = "utf-8"
        return response


class InProcessBroker(AlpacaBroker):
    """The real broker's code over such a transport."""

    def __init__(self, server: LoopbackVendor, key: str = "loopback-key", secret: str = "loopback-secret") -> None:
        super().__init__(key, secret, "http://127.0.0.1", seconds=0.001, wait=lambda _: None)
        self.transport = InProcess(server, lambda: self._before_sending())
        self._client._session.mount("http://", self.transport)
