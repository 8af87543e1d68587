"""Which addresses are taken: orders go to paper, and a ledger's URL can be read. No I/O."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

PAPER_ENDPOINT = "https://paper-api.alpaca.markets"
LOOPBACK = r"https?://(127\.0\.0\.1|localhost|\[::1\])(:(?P<port>\d{1,5}))?"


def paper_endpoint(endpoint: str) -> str:
    """Return the endpoint if orders may go there: Alpaca's paper host, or this machine.

    The whole text is compared, since two programs may read a strange address differently.

    Raises
    ------
    ValueError
        For anything else.
    """
    found = re.fullmatch(f"({re.escape(PAPER_ENDPOINT)}|{LOOPBACK})/?", endpoint, re.ASCII)
    if found and int(found["port"] or 0) < 2**16:
        return endpoint.rstrip("/")
    # not the whole address, which may hold a password
    raise ValueError(
        f"orders go to {PAPER_ENDPOINT}, or to a loopback address (http://127.0.0.1, http://localhost or http://[::1], "
        "with a port), and nowhere else: this pipeline trades on paper only. Unset it for the paper host"
    )


def check_ledger_url(url: str) -> None:
    """Say what is wrong with a ledger's URL without repeating it, for it may hold a password.

    Raises
    ------
    ValueError
    """
    form = "write sqlite:///PATH, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE with @ : / in names written as %40 "
    form += "%3A %2F"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"it cannot be read as a URL; {form}") from None
    if parts.scheme.split("+")[0] not in ("sqlite", "postgresql") or "://" not in url:
        raise ValueError(f"its scheme is {parts.scheme!r}; {form}")
