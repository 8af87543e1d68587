"""Bits do not depend on how many threads the libraries would take."""

from __future__ import annotations

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_info, threadpool_limits

from tests.quant.histories import closes_history, random_walks
from trading_dagster.quant.cycles import phasing
from trading_dagster.quant.one_thread import on_one_thread


def threads() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def test_a_function_sees_one_thread_and_leaves_as_many_as_there_were() -> None:
    with threadpool_limits(2, user_api="blas"):
        assert on_one_thread(threads)() == {1}
        assert threads() == {2}


def test_phases_have_the_same_bits_on_one_thread_and_on_two() -> None:
    history = closes_history(random_walks(40, 540, seed=3))
    found = []
    for count in (1, 2):
        with threadpool_limits(count, user_api="blas"):
            found.append(phasing(history, history.sessions[-12:], (20, 40, 80)))
    pd.testing.assert_frame_equal(*found, check_exact=True)
    assert np.isfinite(found[0]["phase"]).all()
