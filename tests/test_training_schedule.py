import math

import pytest

from training.schedule import learning_rate


def rate(step: int, warmup: int = 10, floor: float = 0.1) -> float:
    return learning_rate(step, peak=2.0, warmup=warmup, total=110, floor=floor)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.2),  # the first step already learns
        (4, 1.0),
        (9, 2.0),
        (10, 2.0),  # the peak
        (35, 2 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)),  # a quarter
        (60, 1.1),  # half: the mean of peak and floor
        (110, 0.2),  # the floor
        (10_000, 0.2),
    ],
)
def test_closed_form(step: int, expected: float) -> None:
    assert rate(step) == pytest.approx(expected, rel=1e-12)


def test_it_rises_then_falls() -> None:
    rates = [rate(step) for step in range(111)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_warmup_and_floor() -> None:
    assert rate(0, warmup=0) == 2.0
    assert rate(110, floor=0) == pytest.approx(0, abs=1e-12)


def test_a_run_shorter_than_its_warmup() -> None:
    assert learning_rate(4, peak=1.0, warmup=10, total=5) == 0.5
    assert learning_rate(10, peak=1.0, warmup=10, total=10, floor=0.5) == 1.0
