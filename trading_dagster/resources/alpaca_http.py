"""What all of Alpaca's clients share: time-outs, waits, and errors without keys.

Belongs here: HTTP as alpaca-py does it. What Alpaca's answers mean is in `alpaca_source` and `alpaca_broker`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from trading_dagster.resources.fetching import retry_after_seconds

if TYPE_CHECKING:
    from alpaca.common.rest import RESTClient
    from requests import Response


def leave_retries_to_us(client: RESTClient, seconds: float, before_sending: Callable[[], None] | None = None) -> None:
    """Switch off alpaca-py's own retries and give its requests a time-out.

    It has no parameter for either: its retries wait 3 s whatever Alpaca asks for, and the constructor takes 0
    attempts for the default of 3.

    Parameters
    ----------
    before_sending : callable, optional
        Called before each request goes out; an error that it raises stops the request.
    """
    from requests.adapters import HTTPAdapter

    class TimeoutAdapter(HTTPAdapter):
        def send(self, request: Any, *args: Any, **options: Any) -> Response:
            if before_sending is not None:
                before_sending()
            return super().send(request, *args, **{**options, "timeout": seconds})

    client._retry, client._retry_codes = 0, []
    for scheme in ("https://", "http://"):
        client._session.mount(scheme, TimeoutAdapter())


def wait_asked_for(response: Response) -> float | None:
    """Seconds to wait: as the standard says it, or by the second at which Alpaca's own limit starts anew."""
    reset = response.headers.get("X-RateLimit-Reset", "")
    if response.status_code == 429 and "Retry-After" not in response.headers and reset.isdecimal():
        return max(float(reset) - datetime.now(UTC).timestamp(), 0.0)
    return retry_after_seconds(response.headers.get("Retry-After"))


def without_keys(text: str, keys: Sequence[str]) -> str:
    """Text as it may be shown, and stored: without keys, and without what databases refuse."""
    for key in keys:
        text = text.replace(key, "***")
    return text.replace("\0", "")
