"""HTTP sessions for yfinance that reach a loopback server, and nothing else.

Belongs here: sending Yahoo's addresses to the loopback host. Does not belong here: the servers.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import requests
from curl_cffi import requests as curl_requests


def loopback_address(url: str, vendor: str) -> str:
    """The address below `vendor` for one of Yahoo's; any other host is refused."""
    parts = urlsplit(url)
    assert (parts.hostname or "").endswith(".yahoo.com"), f"a test asked for {url}"
    return f"{vendor}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")


class RedirectedSession(requests.Session):
    """A plain session, as yfinance takes where there is no curl_cffi."""

    def __init__(self, vendor: str) -> None:
        super().__init__()
        self.vendor = vendor
        self.trust_env = False  # a proxy of the environment knows no loopback host

    def request(self, method: str, url: str, *args: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        return super().request(method, loopback_address(url, self.vendor), *args, **options)


class RedirectedCurlSession(curl_requests.Session):
    """What yfinance takes by itself: curl in a browser's clothes."""

    def __init__(self, vendor: str) -> None:
        super().__init__(impersonate="chrome", trust_env=False)
        self.vendor = vendor

    def request(self, method: Any, url: str, *args: Any, **options: Any) -> Any:
        return super().request(method, loopback_address(url, self.vendor), *args, **options)
