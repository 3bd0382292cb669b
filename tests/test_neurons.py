"""Spiking neurons and rules of whole spike trains, against plain loops, closed forms and SpikingJelly."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import robassay.nets.neurons as module
from robassay.errors import UsageError
from robassay.estimators import Ruled
from robassay.nets.bsn import BSN
from robassay.nets.lif import LIF
from robassay.nets.neurons import Reset, neurons, neurons_from
from robassay.nets.ops import bernoulli, sign, spike
from robassay.rng import Stream
from robassay.rules import (
    BPTR,
    RGA,
    Atan,
    BackwardRule,
    LeakyTrace,
    Rule,
    SpikeTrain,
    StraightThrough,
    Triangle,
    acting,
)
from robassay.threat import Goal

LEAK, THRESHOLD = 0.9, 0.8
KINDS = list(product(("soft", "hard"), (False, True), (False, True)))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop(current: Tensor, reset: Reset, rule: BackwardRule, delay: bool, attached: bool) -> Tensor:
    """The equations of the module, one node per operation."""
    v, spikes = torch.zeros_like(current[0]), []
    for arriving in current:
        h = v if delay else LEAK * v + arriving
        s = spike(h / THRESHOLD - 1 + 1e-15, rule)  # spike() fires above 0; the neuron also at the threshold
        r = s if attached else s.detach()
        if delay:
            v = LEAK * h - THRESHOLD * r + arriving if reset == "soft" else LEAK * h * (1 - r) + arriving
        else:
            v = h - THRESHOLD * r if reset == "soft" else h * (1 - r)
        spikes.append(s)
    return torch.stack(spikes)


def gradient_of(spikes: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad((spikes * weight).sum(), x)
    return gradient


@pytest.mark.parametrize("rule", [Atan(), Triangle(0.5), StraightThrough()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize(("reset", "delay", "attached"), KINDS)
def test_spikes_and_gradients_are_those_of_a_plain_loop(
    reset: Reset, delay: bool, attached: bool, rule: BackwardRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 70)  # several blocks, the last one short
    x, weight = drawn(12, 5, 30).requires_grad_(), drawn(12, 5, 30, seed=1)
    ours = neurons(x, LEAK, THRESHOLD, reset, rule, delay=delay, attached=attached)
    plain = loop(x, reset, rule, delay, attached)
    assert torch.equal(ours, plain) and 0.1 < ours.mean() < 0.9
    gap = (gradient_of(ours, x, weight) - gradient_of(plain, x, weight)).abs().max()
    assert gap < 1e-6


@pytest.mark.parametrize(("reset", "attached"), list(product(("soft", "hard"), (False, True))))
def test_spikes_and_gradients_are_spikingjellys(reset: Reset, attached: bool) -> None:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")
    node = neuron.LIFNode(
        tau=1 / (1 - 0.5),
        decay_input=False,
        v_threshold=THRESHOLD,
        v_reset=0.0 if reset == "hard" else None,
        surrogate_function=surrogate.ATan(alpha=2.0),
        detach_reset=not attached,
        step_mode="m",
    )
    x, weight = drawn(16, 4, 20).float().requires_grad_(), drawn(16, 4, 20, seed=1).float()
    # Theirs asks the surrogate at h − threshold, ours at h / threshold − 1.
    ours = neurons(x, 0.5, THRESHOLD, reset, Atan(2.0 * THRESHOLD), attached=attached)
    theirs = node(x)
    assert torch.equal(ours, theirs) and 0.1 < ours.mean() < 0.9
    assert (gradient_of(ours, x, weight) - gradient_of(theirs, x, weight)).abs().max() < 1e-6


def test_firing_at_the_threshold_or_only_above_it() -> None:
    current = torch.tensor([0.5, 0.5, 0.5, 0.5])[:, None]
    at = neurons(current, 1.0, 1.0, "soft", Atan())
    above = neurons(current, 1.0, 1.0, "soft", Atan(), strict=True)
    assert at[:, 0].tolist() == [0, 1, 0, 1]
    assert above[:, 0].tolist() == [0, 0, 1, 0]  # potentials .5, 1, 1.5 and, after the reset, 1


def test_a_delayed_neuron_emits_what_it_held_before_the_step() -> None:
    """Sharmin et al. 2020: the reset itself does not leak. V before the steps: 0, 1.2, .5 · 1.2 − 1 + 1.2 = .8, 1.6."""
    current = torch.full((4, 1), 1.2)
    assert neurons(current, 0.5, 1.0, "soft", Atan(), delay=True)[:, 0].tolist() == [0, 1, 0, 1]
    _, end = neurons_from(None, current, 0.5, 1.0, "soft", Atan(), delay=True)
    assert end.item() == pytest.approx(0.5 * 1.6 - 1 + 1.2)


@pytest.mark.parametrize("delay", [False, True])
def test_rate_law_without_leak(delay: bool) -> None:
    """§3.4 of the sources: count / T = clip(I / threshold, 0, 1) within 1 / T; a delay costs one step."""
    steps, threshold = 60, 0.7
    current = torch.rand(1000, dtype=torch.float64, generator=Stream(("rate",)).generator()) * 2.4 - 0.8
    spikes = neurons(current.expand(steps + delay, -1), 1.0, threshold, "soft", Atan(), delay=delay)
    assert not delay or not spikes[0].any()
    assert ((spikes.sum(0) / steps - (current / threshold).clamp(0, 1)).abs() <= 1 / steps + 1e-12).all()


@pytest.mark.parametrize(("reset", "delay", "attached"), KINDS)
def test_two_halves_are_the_whole(reset: Reset, delay: bool, attached: bool) -> None:
    x, weight = drawn(10, 40).requires_grad_(), drawn(10, 40, seed=1)
    whole = neurons(x, LEAK, THRESHOLD, reset, Atan(), delay=delay, attached=attached)
    first, state = neurons_from(None, x[:4], LEAK, THRESHOLD, reset, Atan(), delay=delay, attached=attached)
    second, _ = neurons_from(state, x[4:], LEAK, THRESHOLD, reset, Atan(), delay=delay, attached=attached)
    halves = torch.cat([first, second])
    assert torch.equal(whole, halves)
    assert (gradient_of(whole, x, weight) - gradient_of(halves, x, weight)).abs().max() < 1e-12


# ------------------------------------------------------------------------------------------ rules of whole spike trains


def train(spikes: Tensor, leak: float, current: float = 0.0) -> SpikeTrain:
    return SpikeTrain(spikes, torch.full(spikes.shape[1:], current, dtype=spikes.dtype), leak)


def test_leaky_trace_of_a_regular_train() -> None:
    """Spikes at every fourth of 100 steps, leak .99: a = Σ .99^4k = 16.0889, 25 spikes."""
    spikes = torch.zeros(100, 1, dtype=torch.float64)
    spikes[3::4] = 1
    factor = LeakyTrace()(train(spikes, 0.99)).item()
    assert factor == pytest.approx(1 + math.log(0.99) * 16.0889 / 25, abs=1e-6)
    assert factor == pytest.approx(0.99353, abs=5e-6)


def test_leaky_trace_at_its_ends() -> None:
    silent, busy = torch.zeros(20, 3, dtype=torch.float64), torch.zeros(20, 3, dtype=torch.float64)
    busy[5, 1] = 1
    assert not LeakyTrace()(train(silent, 0.9)).any()
    assert LeakyTrace()(train(busy, 1.0)).tolist() == [0, 1, 0]


def test_bptr_is_one_for_whoever_fired() -> None:
    spikes = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    assert BPTR()(train(spikes, 0.9)).tolist() == [0, 1, 1]


@pytest.mark.parametrize("leak", [0.5, 0.9, 1.0])
def test_rga_is_the_slope_of_two_straight_pieces(leak: float) -> None:
    """It rises with slope .2 until a constant current makes the neuron fire, and reaches a rate of 1 at x = 2."""
    values = [(-0.1, 0.0), (1 - leak + 0.01, (1 - 0.2 + 0.2 * leak) / (1 + leak)), (2.01, 0.0)]
    if leak < 1:
        values.append(((1 - leak) / 2, 0.2))
        onset = torch.tensor([1 - leak - 0.005, 1 - leak + 0.005]).expand(2000, 2)
        assert neurons(onset, leak, 1.0, "hard", Atan()).any(0).tolist() == [False, True]
    for x, slope in values:
        assert RGA()(train(torch.zeros(4, 1), leak, x)).item() == pytest.approx(slope, abs=1e-6)
    total = 0.2 * (1 - leak) + (1 + leak) * RGA()(train(torch.zeros(4, 1), leak, 1.5)).item()
    assert total == pytest.approx(1)


def by_hand(current: Tensor, rule: Rule, reset: Reset, upon: Tensor) -> Tensor:
    """One factor per neuron; with a history the membrane carries the gradient back as if it did not leak."""
    spikes = neurons(current, LEAK, THRESHOLD, reset, Atan())
    factor = rule(SpikeTrain(spikes, current.mean(0) / THRESHOLD, LEAK)) / THRESHOLD  # type: ignore[arg-type]
    found, carried = [], torch.zeros_like(current[0])
    for t in reversed(range(len(current))):
        kept = carried * (1 - spikes[t]) if reset == "hard" else carried
        carried = factor * upon[t] + (kept if isinstance(rule, LeakyTrace) else 0)
        found.append(carried)
    return torch.stack(found[::-1])


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("rule", [BPTR(), RGA(), LeakyTrace()], ids=lambda r: type(r).__name__)
def test_a_window_rule_in_training_and_chosen_by_an_attacker(rule: Rule, reset: Reset) -> None:
    x, weight = (drawn(15, 40) - 0.4).requires_grad_(), drawn(15, 40, seed=1)
    trained = neurons(x, LEAK, THRESHOLD, reset, rule)
    with acting(rule):
        attacked = neurons(x, LEAK, THRESHOLD, reset, Atan())
    plain = neurons(x, LEAK, THRESHOLD, reset, Atan())
    assert torch.equal(trained, plain) and torch.equal(attacked, plain) and plain.any(0).any()
    expected = by_hand(x.detach(), rule, reset, weight)
    for spikes in (trained, attacked):
        assert torch.allclose(gradient_of(spikes, x, weight), expected, atol=1e-12)
    assert not torch.allclose(gradient_of(plain, x, weight), expected, atol=1e-2)


def test_with_delay_a_window_rule_reaches_the_current_of_the_step_before() -> None:
    x, weight = torch.full((5, 3), 1.0, dtype=torch.float64).requires_grad_(), drawn(5, 3)
    found = gradient_of(neurons(x, 1.0, 1.0, "soft", BPTR(), delay=True), x, weight)
    assert torch.allclose(found[:-1], weight[1:]) and not found[-1].any()


@pytest.mark.parametrize("rule", [BPTR(), RGA(), LeakyTrace()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("unit", [lambda x: spike(x, Atan()), sign, bernoulli], ids=["spike", "sign", "bernoulli"])
def test_units_without_time_refuse_a_window_rule(rule: Rule, unit: Any) -> None:
    with acting(rule), pytest.raises(UsageError, match=r"whole spike train.*Triangle"):
        unit(torch.ones(3))


def test_an_attacker_swaps_a_window_rule_in() -> None:
    x, rng = torch.rand(4, 1, 8, 8, generator=Stream(("x",)).generator()), Stream(("attack",))
    with Stream(("init",)).active():
        model, coins = LIF((20,)).build((1, 8, 8), 4).eval(), BSN((20,)).build((1, 8, 8), 4).eval()
    loss = Goal(torch.tensor([0, 1, 2, 3])).margin
    plain, swapped = Ruled(Atan())(model, x, loss, rng), Ruled(BPTR())(model, x, loss, rng)
    assert torch.equal(plain.logits, swapped.logits) and swapped.gradient.any()
    assert not torch.allclose(plain.gradient, swapped.gradient, atol=1e-4)
    with pytest.raises(UsageError, match="bptr looks at a whole spike train"):
        Ruled(BPTR())(coins, x, loss, rng)


def test_a_window_rule_refuses_a_part_of_a_train() -> None:
    x = drawn(4, 3)
    how: Any = (LEAK, THRESHOLD, "soft", BPTR())
    _, state = neurons_from(None, x, *how)
    parted = torch.cat([neurons_from(None, x, *how)[0], neurons_from(state, x, *how)[0]])
    assert torch.equal(parted, neurons(torch.cat([x, x]), *how))  # nothing is differentiated
    with pytest.raises(UsageError, match="bptr needs all steps"):
        neurons_from(state, x.requires_grad_(), *how)
