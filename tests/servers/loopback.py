"""An HTTP server of one's own on the loopback interface, with faults and a log.

Belongs here: sockets, threads, and how each fault looks on the wire. Does not belong here: any vendor's paths or
formats; a vendor is a subclass with `respond`, `symbols_of` and `failure`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR, socket
from threading import Condition, Event, Thread
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.servers.faults import FaultPlan, Request, RequestLog
from tests.servers.market import Day, Listing


@dataclass(frozen=True)
class Reply:
    """An answer before it is sent."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_reply(payload: Any, status: int = 200) -> Reply:
    """An answer in JSON, which has no word for a number that is not one."""
    return Reply(status, json.dumps(payload, allow_nan=False).encode())


class LoopbackVendor:
    """A vendor's server, running between `with` and its end.

    Parameters
    ----------
    listings : mapping of str to Listing
        What the vendor knows, by symbol. The attribute may be changed while the server runs.
    today : str or Timestamp
        The vendor's day: it knows bars and actions up to it. May be changed while the server runs.
    port : int
        0 for any free one.

    Attributes
    ----------
    faults : FaultPlan
        What goes wrong.
    log : RequestLog
        What was asked.
    """

    def __init__(self, listings: Mapping[str, Listing], today: Day, port: int = 0) -> None:
        self.listings = dict(listings)
        self.today = today
        self.faults = FaultPlan()
        self.log = RequestLog()
        self.closing = Event()
        self._port = port
        self._errors: list[Exception] = []
        self._server: _Server | None = None
        self._thread: Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        assert self._server is not None, "the server is not running"
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._server = _Server(self, self._port)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._server is not None
        assert self._thread is not None
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close()
        self._server = None
        if kind is None and self._errors:
            # a mistake of the server itself must not pass for a vendor's 500
            raise self._errors[0]

    # -- what a vendor is ---------------------------------------------------------------------------------------------

    def respond(self, request: Request, body: bytes) -> Reply:
        """Answer a request that meets no fault."""
        raise NotImplementedError

    def symbols_of(self, path: str, query: Mapping[str, str]) -> tuple[str, ...]:
        """Symbols that a request asks for."""
        raise NotImplementedError

    def symbols_in(self, body: bytes) -> tuple[str, ...]:
        """Symbols in what was sent along; asked when there are none in the address."""
        return ()

    def failure(self, status: int) -> Reply:
        """The vendor's words for a failure."""
        raise NotImplementedError

    # -- one request --------------------------------------------------------------------------------------------------

    def reply_to(self, request: Request, body: bytes) -> Reply:
        """Answer, or note the server's own mistake."""
        try:
            return self.respond(request, body)
        except Exception as error:  # noqa: BLE001 - raised where the server ends
            self._errors.append(error)
            return Reply(500, repr(error).encode(), "text/plain")


class _Server(ThreadingHTTPServer):
    """Threads that are daemons, and connections that are closed with the server."""

    daemon_threads = True

    def __init__(self, vendor: LoopbackVendor, port: int) -> None:
        self.vendor = vendor
        self._open: set[socket] = set()
        self._changed = Condition()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no mistake of ours: it had a time-out."""

    def close(self) -> None:
        """Close the kept-alive connections, wait for their threads, and close the server's own socket."""
        with self._changed:
            for connection in self._open:
                with suppress(OSError):  # the client was first
                    connection.shutdown(SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, timeout=2)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as at the vendors
    disable_nagle_algorithm = True  # or every answer waits 40 ms for an acknowledgement
    server: _Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), dict(parse_qsl(parts.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        vendor = self.server.vendor
        symbols = vendor.symbols_of(path, query) or vendor.symbols_in(body)
        request = Request(time.monotonic(), self.command, path, query, symbols, dict(self.headers), body=body)
        vendor.log.begin(request)
        try:
            self._answer(vendor, request, body)
        finally:
            vendor.log.finish()

    do_POST = do_DELETE = do_GET  # noqa: N815

    def _answer(self, vendor: LoopbackVendor, request: Request, body: bytes) -> None:
        fault = vendor.faults.take(request)
        request.fault = fault.kind if fault else None
        if fault is None:
            return self._send(request, vendor.reply_to(request, body))
        if fault.kind in ("dropped", "lost", "stalled_unprocessed", "late"):
            self.close_connection = True
            ended = vendor.closing.wait(fault.seconds)
            if fault.kind == "lost" or (fault.kind == "late" and not ended):
                vendor.reply_to(request, body)
            return None
        if fault.kind == "status":
            return self._send(request, vendor.failure(fault.status), fault.headers())
        if fault.kind == "stall":
            vendor.closing.wait(fault.seconds)
            return self._send(request, vendor.reply_to(request, body))
        reply = vendor.reply_to(request, body)
        if fault.kind == "answered_late":
            vendor.closing.wait(fault.seconds)
            return self._send(request, reply)
        if fault.kind == "status_after":
            return self._send(request, vendor.failure(fault.status))
        half = reply.body[: len(reply.body) // 2]
        announced = len(half) if fault.kind == "truncated" else len(reply.body)
        self._send(request, Reply(reply.status, half, reply.content_type), length=announced)
        self.close_connection = True
        return None

    def _send(
        self, request: Request, reply: Reply, headers: Mapping[str, str] | None = None, length: int | None = None
    ) -> None:
        request.status = reply.status  # before the client can see the answer, and look at the log
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body) if length is None else length))
        for name, value in {**reply.headers, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: Any) -> None:
        """Nothing on the console: the log is for asserts."""
