"""What object storage says when it refuses or does not answer, in a sentence that names the cause and the remedy.

Belongs here: reading the Delta library's errors, which are several lines of nested causes with the requests' addresses.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar
from urllib.parse import urlsplit

Given = ParamSpec("Given")
Found = TypeVar("Found")

MARKS = re.compile(r"\x1b\[[0-9;]*m|↳")

REMEDIES = (
    ("NoSuchBucket", "there is no such bucket", "make it, or correct TRADING_TABLES_URI"),
    ("InvalidAccessKeyId", "the key is not known there", "correct AWS_ACCESS_KEY_ID"),
    ("SignatureDoesNotMatch", "the secret does not fit the key", "correct AWS_SECRET_ACCESS_KEY"),
    ("ExpiredToken", "the session's token has expired", "renew AWS_SESSION_TOKEN and the keys with it"),
    ("169.254.169.254", "there are no credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a role"),
    ("403 Forbidden", "access is denied", "let these credentials list, read, write and delete below the address"),
    ("401 Unauthorized", "access is denied", "correct the credentials"),
    ("URL scheme is not allowed", "its endpoint is plain http", "set AWS_ALLOW_HTTP=true, on a trusted network"),
    ("dns error", "its host is not known", "correct AWS_ENDPOINT_URL or AWS_REGION"),
    ("Connection refused", "nothing answers there", "start it, or correct AWS_ENDPOINT_URL"),
    ("timed out", "it did not answer in time", "look at the network and the server, and try again"),
    ("error sending request", "it cannot be reached", "look at the network and AWS_ENDPOINT_URL, and try again"),
)  # fmt: skip
"""A text in the library's error, what it means, and what to do; the first that fits."""


class TablesUnavailableError(OSError):
    """Tables in object storage that cannot be read or written now."""


class HasUri(Protocol):
    """What knows the address of its storage."""

    uri: str


Owner = TypeVar("Owner", bound=HasUri)


def shown_address(uri: str) -> str:
    """An address as messages may show it: without user, password and query, where keys might stand."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def explained(uri: str, error: Exception) -> TablesUnavailableError:
    """The library's error as one sentence; its own text where none fits, without requests and their addresses."""
    text = MARKS.sub("", str(error))
    for found, cause, remedy in REMEDIES:
        if found in text:
            return TablesUnavailableError(f"the tables at {shown_address(uri)}: {cause}; {remedy}")
    lines = [line.strip() for line in text.splitlines() if line.strip() and "://" not in line]
    return TablesUnavailableError(f"the tables at {shown_address(uri)} cannot be reached: {'; '.join(lines)[:500]}")


def with_storage_explained(
    method: Callable[Concatenate[Owner, Given], Found],
) -> Callable[Concatenate[Owner, Given], Found]:
    """Let a method raise `TablesUnavailableError` in place of what object storage said.

    A folder's errors are left as they are: they name the file and the cause.
    """

    @functools.wraps(method)
    def explaining(self: Owner, /, *args: Given.args, **kwargs: Given.kwargs) -> Found:
        try:
            return method(self, *args, **kwargs)
        except TablesUnavailableError:
            raise  # by a method that this one called
        except OSError as error:
            if "://" not in self.uri:
                raise
            # the cause would be shown in its stead, by what looks for the innermost
            raise explained(self.uri, error) from None

    return explaining
