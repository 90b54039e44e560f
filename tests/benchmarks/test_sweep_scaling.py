"""The simulation of a sweep on many workers, against cases that can be told by hand."""

from __future__ import annotations

import pytest

from benchmarks.sweep_scaling import Costs, bare, efficiency, makespan, table


def test_equal_cells_that_divide_evenly_lose_nothing() -> None:
    assert makespan([5.0] * 48, 2, Costs()) == 120.0
    assert efficiency([5.0] * 48, 2, Costs()) == 1.0


def test_the_last_cell_decides() -> None:
    assert makespan([1.0, 1.0, 1.0, 10.0], 2, Costs()) == 11.0
    assert makespan([10.0, 1.0, 1.0, 1.0], 2, Costs()) == 10.0
    assert efficiency([3.0], 3, Costs()) == pytest.approx(1 / 3)


def test_a_start_is_paid_once_by_each_worker() -> None:
    assert makespan([5.0] * 4, 2, Costs(start=3.0)) == 13.0


def test_the_driver_bounds_how_many_workers_it_can_feed() -> None:
    """Cells of 5 s and 10 ms of the driver: 500 workers at most are busy."""
    found = efficiency([5.0] * 100_000, 1000, Costs(driver=0.01))
    assert found == pytest.approx(0.5, abs=0.01)
    assert makespan([5.0] * 100_000, 1000, Costs(driver=0.01)) == pytest.approx(1005.0)


def test_drawn_durations_are_the_measured_ones() -> None:
    rows = list(table([2.0, 4.0], Costs(), 1000))
    assert rows[0][2] == pytest.approx(1.0)
    assert rows[0][1] * 3600 == pytest.approx(3000, rel=0.1)
    assert rows[-1][2] < 1.0


def test_times_are_left_out_at_every_depth() -> None:
    assert bare({"seconds": 1, "a": [{"created": 2, "b": 3}]}) == {"a": [{"b": 3}]}
