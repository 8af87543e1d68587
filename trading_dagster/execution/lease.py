"""The lease: who may trade a strategy, for how long, and the token by which an earlier holder is told apart."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path


class LeaseHeldError(RuntimeError):
    """Somebody else trades the strategy.

    Parameters
    ----------
    message : str
    holder : str
        Who.
    """

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


class LeaseLostError(RuntimeError):
    """The lease has run out, or was taken over: this process must not send anything any more."""


@dataclass(frozen=True)
class Lease:
    """The right to trade a strategy.

    Attributes
    ----------
    strategy, holder : str
    token : int
        Rises with each holder: the ledger refuses what comes with an older one.
    seconds : float
        How long it lasts from each renewal.
    """

    strategy: str
    holder: str
    token: int
    seconds: float


def this_process() -> str:
    """Name of this process, for people to read and for `is_dead`."""
    return f"process {os.getpid()} on {_machine()}"


def is_dead(holder: str) -> bool:
    """Whether a holder is a process of this machine that has ended; of other machines, nothing is known."""
    found = re.fullmatch(r"process (\d+) on (.*)", holder)
    if found is None or found[2] != _machine():
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _machine() -> str:
    """Name of the machine, and of the space that process numbers belong to: containers may share the former."""
    space = Path("/proc/self/ns/pid")
    return socket.gethostname() + (f" ({space.readlink()})" if space.is_symlink() else "")
