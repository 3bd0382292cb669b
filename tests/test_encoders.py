"""Encoders, readouts and runs in parts: means, traces by hand, and the same bits and gradients however parted."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from robassay.errors import UsageError
from robassay.nets.encoders import Direct, Encoder, Latency, Poisson
from robassay.nets.neurons import neurons, neurons_from
from robassay.nets.parts import BARE_VALUES, PART_VALUES, State, in_parts, part_steps
from robassay.nets.readouts import first_spike, membrane, rate, undecided
from robassay.rng import Stream
from robassay.rules import BPTR, Atan, Triangle, acting

ENCODERS = [Poisson(), Poisson(0.5), Poisson(signed=False), Direct(), Latency()]


def slope_of(value: Any, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x).sum(), x)
    return gradient


def test_poisson_means_with_and_without_a_sign() -> None:
    x, steps = torch.tensor([-1.0, -0.3, 0.0, 0.3, 1.0]), 20_000
    for encoder, values in ((Poisson(), {-1, 0, 1}), (Poisson(0.5), {-1, 0, 1}), (Poisson(signed=False), {0, 1})):
        with Stream(("poisson",)).active():
            spikes = encoder(x, steps)
        expected = (encoder.scale * x).clamp(min=-1.0 if encoder.signed else 0.0)
        sd = (expected.abs() * (1 - expected.abs()) / steps).sqrt()
        assert set(spikes.unique().tolist()) == values
        assert ((spikes.mean(0) - expected).abs() <= 4 * sd).all()
        assert torch.equal(encoder.mean(x), expected)


def test_poisson_gradient_is_that_of_the_rate_even_where_it_saturates() -> None:
    x = torch.tensor([-2.0, -0.3, 0.0, 0.3, 1.5])
    for encoder in (Poisson(), Poisson(0.5), Poisson(signed=False)):
        assert torch.allclose(slope_of(lambda v, e=encoder: e(v, 7), x), torch.full((5,), 7 * encoder.scale))


def test_latency_by_hand() -> None:
    x = torch.tensor([0.0, 0.12, 0.13, 0.5, 1.0, 1.4, -0.2])
    code = Latency()(x, 4)
    when = [code[:, i].nonzero().flatten().tolist() for i in range(len(x))]
    assert when == [[], [], [3], [2], [0], [0], []]


def test_a_blank_image_gives_no_spike_and_a_finite_gradient() -> None:
    blank = torch.zeros(2, 1, 4, 4)
    assert not Latency()(blank, 8).any()
    weight = torch.arange(8.0, 0, -1).reshape(-1, 1, 1, 1, 1)
    assert torch.equal(slope_of(lambda v: Latency()(v, 8) * weight, blank), torch.full_like(blank, 8.0))


def test_latency_gradient_of_a_loss_that_is_linear_in_the_level() -> None:
    """Weights T − t make the loss T · x but for rounding: the derivative is T everywhere, at the ends too."""
    x, steps = torch.linspace(0, 1, 33), 16
    weight = torch.arange(steps, 0, -1.0)[:, None]
    assert torch.allclose(slope_of(lambda v: Latency()(v, steps) * weight, x), torch.full((33,), float(steps)))
    bent = torch.randn(steps, 1, generator=Stream(("w",)).generator())
    level = (x * steps).round().long()
    values = torch.cat([torch.zeros(1), bent.flip(0).flatten()])  # of the loss, by level
    up, down = (level + 1).clamp_max(steps), (level - 1).clamp_min(0)
    expected = (values[up] - values[down]) / (up - down) * steps
    assert torch.allclose(slope_of(lambda v: Latency()(v, steps) * bent, x), expected, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS, ids=str)
def test_parts_of_a_code_are_the_code(encoder: Encoder) -> None:
    x, weight = torch.rand(3, 5, generator=Stream(("x",)).generator()), torch.arange(10.0)[:, None, None]
    found = []
    for cuts in ([(0, 10)], [(0, 4), (4, 7), (7, 10)]):
        image = x.clone().requires_grad_()
        with Stream(("code",)).active():
            code = torch.cat([encoder(image, 10, a, b) for a, b in cuts])
        (gradient,) = torch.autograd.grad((code * weight).sum(), image)
        found.append((code.detach(), gradient))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4) and found[0][1].any()


def test_impossible_encoders_are_refused() -> None:
    with pytest.raises(UsageError, match="positive"):
        Poisson(scale=0.0)


# ------------------------------------------------------------------------------------------------------------- readouts

SPIKES = torch.tensor(
    [[[0.0, 0, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]]
)


def test_readouts_by_hand() -> None:
    assert rate(SPIKES).tolist() == [[0.5, 0, 0], [0, 0.25, 0.5]]
    assert first_spike(SPIKES).tolist() == [[3, 0, 0], [0, 3, 4]]
    current = torch.tensor([1.0, 0.0, 2.0, -1.0]).reshape(4, 1, 1)
    assert membrane(current).item() == pytest.approx(0.5)
    assert membrane(current, 0.5).item() == pytest.approx((0.125 + 1.0 - 1.0) / 4)
    v = 0.0
    for arriving in current.flatten().tolist():
        v = 0.5 * v + arriving
    assert membrane(current, 0.5).item() == pytest.approx(v / 4)


def test_first_spike_gradient_is_what_the_first_spike_gains() -> None:
    """Spikes at steps 2 and 5 of 6: without the first one the neuron fires three steps later. Silent: any step would
    be the first."""
    spikes = torch.zeros(6, 1, 2)
    spikes[1, 0, 0] = spikes[4, 0, 0] = 1
    found = slope_of(first_spike, spikes)[:, 0]
    assert found[1, 0] == 3 and found[4, 0] == 0
    assert found[:, 1].tolist() == [6, 5, 4, 3, 2, 1]


def test_shares_of_silent_and_tied_outputs() -> None:
    spikes = torch.zeros(3, 4, 2)
    spikes[0, 0, 1] = spikes[1, 1, 0] = spikes[1, 1, 1] = spikes[2, 2, 0] = 1
    found = undecided(spikes, first_spike(spikes))
    assert found == (0.25, 0.5)


# ----------------------------------------------------------------------------------------------------------- in parts


def chain(x: Tensor, weight: Tensor, steps: int, most: int) -> Tensor:
    """A layer of neurons and a mean over time, in parts of ``most`` steps."""

    def run(start: int, stop: int, state: State) -> State:
        current = Poisson()(x, steps, start, stop) @ weight
        spikes, v = neurons_from(state[0] if state else None, current, 0.9, 0.5, "soft", Atan())
        total = spikes.sum(0)
        return v, total + state[1] if state else total

    return in_parts(run, steps, most)[1] / steps


@pytest.mark.parametrize("most", [1, 3, 12])
def test_parts_give_the_same_bits_and_gradients(most: int) -> None:
    x = torch.rand(4, 6, generator=Stream(("x",)).generator()).requires_grad_()
    weight = torch.randn(6, 5, generator=Stream(("w",)).generator()).requires_grad_()
    with Stream(("whole",)).active():
        whole = neurons(Poisson()(x, 12) @ weight, 0.9, 0.5, "soft", Atan()).mean(0)
        expected = torch.autograd.grad(whole.square().sum(), (x, weight))
    with Stream(("whole",)).active():
        parted = chain(x, weight, 12, most)
    with Stream(("elsewhere",)).active():  # the draws of the way there are drawn again on the way back
        found = torch.autograd.grad(parted.square().sum(), (x, weight))
    assert torch.allclose(parted, whole, atol=1e-6) and 0.1 < whole.mean() < 0.9
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_parts_are_run_again_under_the_rule_of_the_forward_pass() -> None:
    """Even in a thread that does not see the attacker's choice, as autograd's threads on a GPU."""
    x = torch.rand(4, 6, generator=Stream(("x",)).generator()).requires_grad_()
    weight = torch.randn(6, 5, generator=Stream(("w",)).generator())
    found: list[Tensor] = []
    for most in (12, 4):
        with Stream(("rule",)).active(), acting(Triangle(0.3)):
            value = chain(x, weight, 12, most).sum()
        behind = threading.Thread(target=lambda v=value: found.append(torch.autograd.grad(v, x)[0]))
        behind.start()
        behind.join()
    assert torch.allclose(found[0], found[1], atol=1e-6) and found[0].any()


def test_memory_decides_the_parts() -> None:
    assert part_steps(100, 1000, Atan()) == 100
    assert part_steps(100, PART_VALUES // 7, Atan()) == 7
    assert part_steps(100, 2 * PART_VALUES, Atan()) == 1
    assert part_steps(100, PART_VALUES // 50, BPTR()) == 100
    with pytest.raises(UsageError, match="GiB at once"):
        part_steps(100, PART_VALUES, BPTR())
    with torch.no_grad():
        assert part_steps(100, BARE_VALUES // 3, BPTR()) == 3
    assert math.log2(PART_VALUES) == 26  # which bits come out depends on it
