"""Which code ran: the package's version and a hash of its sources, the same on every machine."""

from __future__ import annotations

import functools
import hashlib
from importlib.metadata import version
from pathlib import Path


@functools.cache
def code_version() -> str:
    """Version of the package and the first digits of a SHA-256 over the names and contents of its modules."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{version('trading-dagster')}+{digest.hexdigest()[:12]}"
