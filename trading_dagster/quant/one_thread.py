"""BLAS on one thread: the same bits on a machine of any number of cores, and no cores fought over by small products."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def on_one_thread(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a function's matrix products run on one thread, whatever ``OMP_NUM_THREADS`` says."""
    limited: Callable[Parameters, Result] = threadpool_limits.wrap(limits=1, user_api="blas")(function)
    return limited
