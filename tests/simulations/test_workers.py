from __future__ import annotations

import os
import time

import pytest

from simulations.workers import work_through


def square(number: int) -> int:
    if number == 3:
        os._exit(9)
    return number * number


def slow(number: int) -> float:
    time.sleep(0.2)
    return time.monotonic()


def test_one_job_works_here_and_in_order() -> None:
    here = os.getpid()
    pairs = list(work_through([2, 1], lambda n: (n, os.getpid()), 1, lambda n: (n, 0)))
    assert pairs == [(2, (2, here)), (1, (1, here))]


def test_a_process_that_dies_loses_its_task_and_no_other() -> None:
    found = dict(work_through([1, 2, 3, 4, 5], square, 2, lambda number: -number))
    assert found == {1: 1, 2: 4, 3: -3, 4: 16, 5: 25}


def test_who_stops_reading_ends_the_processes() -> None:
    results = work_through(range(1000), slow, 2, lambda number: 0.0)
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 30


def test_nothing_to_do_is_done_at_once() -> None:
    assert list(work_through([], square, 2, square)) == []
    with pytest.raises(StopIteration):
        next(work_through([], square, 1, square))
