import os
import time

import pytest

from benchmarks.measure import Curve, Figure, cpu_seconds, late_growth, percentile


@pytest.mark.parametrize(("ours", "is_met"), [(3.0, True), (3.1, False)])
def test_a_cost_is_limited_from_above(ours: float, is_met: bool) -> None:
    figure = Figure("delivery", "ms", {"ours": [ours, ours, 100.0]}, wanted={"ours": 3})

    assert figure.is_met("ours") == is_met


@pytest.mark.parametrize(("more_is_better", "advantage"), [(True, 0.5), (False, 2.0)])
def test_better_is_more_of_a_rate_and_less_of_a_cost(more_is_better: bool, advantage: float) -> None:
    values = {"ours": [10.0], "reference": [20.0]}
    figure = Figure("chunks", "", values, more_is_better=more_is_better, wanted={"reference": 1})

    assert figure.advantage("reference") == advantage
    assert figure.is_met("reference") == (advantage >= 1)


@pytest.mark.parametrize(
    ("costs", "growth"),
    [([8.0, 4.0, 2.0], 1.0), ([8.0, 2.0, 3.0], 1.5), ([2.0, 1.0, 5.0, 1.0], 5.0)],
)
def test_growth_is_that_over_the_least_cost_before(costs: list[float], growth: float) -> None:
    curve = Curve("a chunk", "µs", "chunks", {10**n: cost for n, cost in enumerate(costs)})

    assert curve.growth == growth
    assert curve.is_met == (growth <= 2)


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([5.0, 1.0, 3.0], percent) for percent in (0, 50, 99, 100)] == [1.0, 3.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("samples", "growth"),
    [([1, 1, 1, 4, 4, 4, 4, 4, 4], 1.0), ([1, 1, 1, 2, 2, 2, 3, 3, 3], 1.5), ([0, 0, 0, 0, 0, 0], 1.0)],
)
def test_late_growth_leaves_out_what_is_made_once(samples: list[float], growth: float) -> None:
    assert late_growth(samples) == growth


def test_the_processor_time_of_a_process_is_what_it_spent() -> None:
    before = time.process_time()
    told = cpu_seconds(os.getpid())

    assert before <= told <= time.process_time()
