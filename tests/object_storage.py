"""Object storage for tests: a server of moto on loopback, which speaks S3, in a process of its own.

In a thread of the test's process it would never answer: the Delta library holds Python's lock while it waits.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

SERVER = Path(sys.executable).with_name("moto_server")
START_SECONDS = 60.0
KEYS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret-never-shown"}
_numbers = count()


@dataclass(frozen=True)
class ObjectStorage:
    """A server that is up."""

    endpoint: str

    @property
    def variables(self) -> dict[str, str]:
        """What a user sets for storage of this kind."""
        return {**KEYS, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.endpoint, "AWS_ALLOW_HTTP": "true"}

    def bucket(self) -> str:
        """Make a new bucket, and give its address."""
        name = f"trading-{next(_numbers)}"
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT"), timeout=30).close()
        return f"s3://{name}"


@contextmanager
def serving(**extra: str) -> Iterator[ObjectStorage]:
    """Run a server until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [str(SERVER), "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, **extra}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        endpoint = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "moto's server has ended"
                assert time.monotonic() < deadline, "moto's server does not answer"
                time.sleep(0.1)
        yield ObjectStorage(endpoint)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def object_storage() -> Iterator[ObjectStorage]:
    """One server for all tests of a session; each takes a bucket of its own."""
    with serving() as server:
        yield server
