"""Schedules against their formulas, the joints between their parts, and what they refuse."""

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dist_dp import optim

lrs = st.floats(1e-6, 10)
steps = st.integers(0, 60)
totals = st.integers(1, 50)

EVERY = [
    optim.Constant(0.1),
    optim.StepDecay(0.1, every=3),
    optim.MultiStepDecay(0.1, [2, 5]),
    optim.ExponentialDecay(0.1, 0.9),
    optim.LinearDecay(0.1, floor=0.01),
    optim.Cosine(0.1, warmup=3),
    optim.OneCycle(0.1),
    optim.Plateau(0.1),
    optim.Warmup(optim.Cosine(0.1), 4),
]


@given(lr=lrs, step=steps, every=st.integers(1, 9), factor=st.floats(0.05, 1))
def test_decays_in_steps_multiply_at_every_milestone(lr: float, step: int, every: int, factor: float) -> None:
    decayed = lr
    for k in range(1, step + 1):
        decayed *= factor if k % every == 0 else 1
    assert optim.StepDecay(lr, every, factor).at(step) == pytest.approx(decayed)
    milestones = range(every, step + 1, every)
    assert optim.MultiStepDecay(lr, milestones, factor).at(step) == pytest.approx(decayed)
    assert optim.ExponentialDecay(lr, factor).at(step) == pytest.approx(lr * factor**step)


@given(lr=lrs, share=st.floats(0, 1), step=steps, total=totals)
def test_linear_and_cosine_are_their_formulas_up_to_the_end_and_the_floor_after(
    lr: float, share: float, step: int, total: int
) -> None:
    floor, x = share * lr, min(step / total, 1)
    line, cosine = optim.LinearDecay(lr, floor), optim.Cosine(lr, floor=floor)
    assert line.at(step, total) == pytest.approx(lr * (1 - x) + floor * x)
    assert cosine.at(step, total) == pytest.approx(floor + (lr - floor) * math.cos(math.pi * x / 2) ** 2)
    assert optim.LinearDecay(lr, floor, total=total).at(step, 999) == line.at(step, total)


@given(lr=lrs, warmup=st.integers(0, 20), step=steps, total=totals)
def test_warm_up_rises_in_equal_parts_and_hands_over(lr: float, warmup: int, step: int, total: int) -> None:
    assume(warmup < total)
    cosine = optim.Cosine(lr, warmup=warmup)
    rates = [0.0, *(cosine.at(k, total) for k in range(warmup + 1))]
    assert rates[-1] == lr
    assert all(b - a == pytest.approx(lr / (warmup + 1)) for a, b in pairwise(rates))
    assert optim.Warmup(optim.Cosine(lr), warmup).at(step, total) == pytest.approx(cosine.at(step, total))


@given(lr=lrs, total=st.integers(4, 60), rise=st.floats(0.3, 0.7))
def test_one_cycle_rises_to_the_top_and_falls_to_the_bottom(lr: float, total: int, rise: float) -> None:
    schedule = optim.OneCycle(lr, rise=rise, start_divisor=10, end_divisor=100, total=total)
    rates = [schedule.at(k) for k in range(total)]
    top = rise * total - 1
    assert rates[0] == pytest.approx(lr / 10)
    assert rates[-1] == pytest.approx(lr / 1000)
    assert all((b > a) if k + 1 <= top else True for k, (a, b) in enumerate(pairwise(rates)))
    assert all((b < a) if k >= top else True for k, (a, b) in enumerate(pairwise(rates)))
    for k, rate in enumerate(rates):
        start, end, x = (lr / 10, lr, k / top) if k <= top else (lr, lr / 1000, (k - top) / (total - 1 - top))
        assert rate == pytest.approx(end + (start - end) * math.cos(math.pi * x / 2) ** 2, abs=1e-12)


metrics = st.lists(st.one_of(st.floats(-10, 10), st.just(math.nan), st.just(math.inf)), max_size=30)


@given(seen=metrics, patience=st.integers(0, 3), threshold=st.sampled_from([0.0, 0.1]))
def test_a_plateau_lowers_the_rate_after_more_than_patience_metrics_without_progress(
    seen: list[float], patience: int, threshold: float
) -> None:
    schedule = optim.Plateau(1.0, factor=0.5, patience=patience, threshold=threshold, floor=0.2)
    rate, best, waited = 1.0, None, 0
    for metric in seen:
        schedule.observe(metric)
        if math.isfinite(metric) and (best is None or best - metric > threshold * abs(best)):
            best, waited = metric, 0
        else:
            waited += 1
        if waited == patience + 1:
            rate, waited = max(rate / 2, 0.2), 0
        assert schedule.at(0) == rate


@given(seen=metrics, more=metrics, patience=st.integers(0, 3))
def test_the_state_of_a_plateau_survives_json(seen: list[float], more: list[float], patience: int) -> None:
    first, second = (
        optim.Plateau(1.0, patience=patience),
        optim.Warmup(optim.Plateau(1.0, patience=patience), 0),
    )
    for metric in seen:
        first.observe(metric)
    second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
    for metric in more:
        first.observe(metric)
        second.observe(metric)
        assert second.at(0) == first.at(0)
    assert second.state() == first.state()


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_the_repr_says_all_that_decides_a_schedule(schedule: optim.Schedule) -> None:
    again = eval(repr(schedule), vars(optim))
    assert [again.at(k, 20) for k in range(25)] == [schedule.at(k, 20) for k in range(25)]
    assert repr(again) == repr(schedule)


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_a_schedule_uses_the_length_of_the_run_if_it_says_so(schedule: optim.Schedule) -> None:
    if schedule.uses_total:
        with pytest.raises(ValueError, match="give it total="):
            schedule.at(5)
    else:
        assert schedule.at(5) == schedule.at(5, 6) == schedule.at(5, 600)


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: optim.Constant(-0.1), ValueError, "lr must be a number >= 0, got -0.1"),
    (lambda: optim.Cosine("1e-3"), TypeError, r"lr must be a number >= 0, got '1e-3' \(str\)"),
    (lambda: optim.Cosine(1e-3, warmup=1.5), TypeError, r"warmup must be an int >= 0, got 1.5 \(float\)"),
    (lambda: optim.Cosine(1e-3, total=0), ValueError, "total must be an int >= 1, got 0"),
    (lambda: optim.Cosine(1e-3, floor=-1), ValueError, "floor must be"),
    (lambda: optim.LinearDecay(1e-3, total=True), TypeError, "total must be an int"),
    (lambda: optim.StepDecay(1e-3, every=0), ValueError, "every must be an int >= 1, got 0"),
    (lambda: optim.StepDecay(1e-3, 3, factor=-2), ValueError, "factor must be"),
    (lambda: optim.MultiStepDecay(1e-3, 30), TypeError, "milestones must be a sequence of steps, got 30"),
    (lambda: optim.MultiStepDecay(1e-3, [5, 2]), ValueError, "milestones must not decrease"),
    (lambda: optim.ExponentialDecay(1e-3, math.nan), ValueError, "factor must be"),
    (lambda: optim.OneCycle(1e-3, rise=1.5), ValueError, "rise must be a number >= 0 and <= 1, got 1.5"),
    (lambda: optim.OneCycle(1e-3, start_divisor=0), ValueError, "start_divisor must be a number > 0, got 0"),
    (lambda: optim.Plateau(1e-3, factor=1.0), ValueError, "factor must be a number >= 0 and < 1, got 1.0"),
    (lambda: optim.Plateau(1e-3, patience=-1), ValueError, "patience must be an int >= 0"),
    (lambda: optim.Warmup(1e-3, 10), TypeError, r"schedule must be a Schedule, such as optim.Constant"),
    (lambda: optim.Warmup(optim.Constant(1e-3), -1), ValueError, "steps must be an int >= 0"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_wrong_settings_are_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
