"""Spiking neurons against plain loops, traces by hand, laws of their rates, and the libraries that have them, too."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from robassay.errors import UsageError
from robassay.nets.neurons import Dynamics, Reset, neurons
from robassay.nets.ops import bernoulli, sign, spike
from robassay.rng import Stream
from robassay.rules import BPTR, RGA, Atan, BackwardRule, LeakyTrace, Rectangle, StraightThrough, Triangle, acting

ALL = [
    Dynamics(0.9, 0.8, reset, delay, strict, attached)
    for reset, delay, strict, attached in itertools.product(("soft", "hard", "late"), *[(False, True)] * 3)
]


def loop(current: Tensor, how: Dynamics, rule: BackwardRule, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The equations of the module, one node per operation."""
    left = torch.zeros_like(current[0]) if v is None else v
    spikes = []
    for arriving in current:
        h = left if how.delay else left + arriving
        # spike() fires above 0.
        s = spike(h / how.threshold - 1 + (0 if how.strict else 1e-12), rule)
        r = s if how.attached else s.detach()
        if how.reset == "soft":
            left = how.leak * (h - how.threshold * r)
        elif how.reset == "hard":
            left = how.leak * h * (1 - r)
        else:
            left = how.leak * h - how.threshold * r
        left = left + arriving if how.delay else left
        spikes.append(s)
    return torch.stack(spikes), left


def normal(*shape: int, key: str = "fused") -> Tensor:
    return torch.randn(*shape, generator=Stream((key,)).generator(), dtype=torch.float64)


@pytest.mark.parametrize("how", ALL, ids=str)
@pytest.mark.parametrize("rule", [Atan(), Triangle(), Rectangle(2.0), StraightThrough()], ids=str)
def test_fused_neurons_equal_a_plain_loop(how: Dynamics, rule: BackwardRule) -> None:
    """Spikes, what is left, and both gradients, from a membrane that is not at rest."""
    current, weight, start, last = normal(12, 5, 30), normal(12, 5, 30, key="w"), normal(5, 30, key="s"), normal(5, 30)
    found = []
    for unit in (neurons, loop):
        x, v = current.clone().requires_grad_(), start.clone().requires_grad_()
        spikes, left = unit(x, how, rule, v)
        gradients = torch.autograd.grad((spikes * weight).sum() + (left * last).sum(), (x, v))
        found.append((spikes.detach(), left.detach(), *gradients))
    ours, plain = found
    assert torch.equal(ours[0], plain[0]) and 0.05 < ours[0].mean() < 0.9
    for a, b in zip(ours[1:], plain[1:], strict=True):
        assert torch.allclose(a, b, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        assert torch.equal(neurons(current, how, rule, start).spikes, ours[0])


@pytest.mark.parametrize("how", ALL, ids=str)
def test_two_windows_are_one(how: Dynamics) -> None:
    current = normal(11, 40).requires_grad_()
    whole = neurons(current, how, Atan())
    first = neurons(current[:4], how, Atan())
    second = neurons(current[4:], how, Atan(), first.left)
    assert torch.equal(torch.cat([first.spikes, second.spikes]), whole.spikes)
    assert torch.equal(second.left, whole.left)
    one, two = (
        torch.autograd.grad((s * normal(11, 40, key="w")).sum(), current)[0]
        for s in (whole.spikes, torch.cat([first.spikes, second.spikes]))
    )
    assert torch.allclose(one, two, atol=1e-12)


@pytest.mark.parametrize(
    ("reset", "leak", "current", "expected"),
    [
        ("soft", 0.9, [3.2, 0, 0, 0, 0], [1, 1, 0, 0, 0]),  # .9 · 2.2 = 1.98 is over the threshold again
        ("hard", 0.9, [3.2, 0, 0, 0, 0], [1, 0, 0, 0, 0]),
        ("late", 0.9, [3.2, 0, 0, 0, 0], [1, 1, 0, 0, 0]),  # .9 · 3.2 − 1 = 1.88, then .69
        ("late", 0.9, [2.2, 0, 0, 0, 0], [1, 0, 0, 0, 0]),  # .98, where the soft reset leaves 1.08
        ("soft", 0.9, [2.2, 0, 0, 0, 0], [1, 1, 0, 0, 0]),
        ("soft", 0.5, [0.6, 0.6, 0.6, 0.96, 0.9], [0, 0, 1, 0, 1]),  # h = .6 .9 1.05 .985 1.3925
        ("hard", 0.5, [0.6, 0.6, 0.6, 0.96, 0.9], [0, 0, 1, 0, 1]),  # h = .6 .9 1.05 .96 1.38
        ("soft", 1.0, [0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1]),  # fires at the threshold
    ],
)
def test_traces_by_hand(reset: Reset, leak: float, current: list[float], expected: list[int]) -> None:
    x = torch.tensor(current)[:, None]
    assert neurons(x, Dynamics(leak, 1.0, reset), Atan()).spikes[:, 0].tolist() == expected
    behind = neurons(x, Dynamics(leak, 1.0, reset, delay=True), Atan()).spikes[:, 0].tolist()
    assert behind == [0, *expected[:-1]]


def test_at_the_threshold_or_above_it() -> None:
    x = torch.tensor([[0.5], [0.5], [0.5], [0.5]])
    assert neurons(x, Dynamics(1.0, strict=True), Atan()).spikes[:, 0].tolist() == [0, 0, 1, 0]


def test_the_rate_without_leak_follows_the_current() -> None:
    """|count / T − clip(I / threshold, 0, 1)| ≤ 1 / T; with a delay over the steps that saw the current."""
    steps, threshold = 60, 0.7
    current = torch.rand(1000, dtype=torch.float64, generator=Stream(("rate",)).generator()) * 2.4 - 0.8
    for delay in (False, True):
        seen = steps - delay
        spikes = neurons(current.expand(steps, -1), Dynamics(1.0, threshold, delay=delay), Atan()).spikes
        error = (spikes.sum(0) / seen - (current / threshold).clamp(0, 1)).abs()
        assert (error <= 1 / seen + 1e-12).all() and error.max() > 0.9 / seen
    hard = neurons(current.expand(steps, -1), Dynamics(1.0, threshold, "hard"), Atan()).spikes.mean(0)
    assert (hard - (current / threshold).clamp(0, 1)).abs().max() > 0.4  # why conversion asks for a soft reset


def test_the_period_of_a_leaky_neuron_with_hard_reset() -> None:
    leak, threshold, steps = 0.9, 1.0, 100
    current = torch.rand(500, dtype=torch.float64, generator=Stream(("period",)).generator()) * 2
    spikes = neurons(current.expand(steps, -1), Dynamics(leak, threshold, "hard"), Atan()).spikes
    silent = current <= threshold * (1 - leak)
    assert silent.any() and not spikes[:, silent].any()
    period = torch.ceil((1 - threshold * (1 - leak) / current[~silent]).log() / math.log(leak))
    expected = torch.arange(1, steps + 1)[:, None] % period == 0
    assert torch.equal(spikes[:, ~silent].bool(), expected)


# ------------------------------------------------------------------------------------------------------- window rules


def train_with(spikes: list[int]) -> Tensor:
    return torch.tensor(spikes, dtype=torch.float64)[:, None]


def test_the_leaky_trace_by_hand() -> None:
    """A spike at every 4th of 100 steps, leak .99: trace 16.0889, factor .99353."""
    every = train_with([int(t % 4 == 3) for t in range(100)])
    trace = sum(0.99 ** (99 - t) for t in range(3, 100, 4))
    assert trace == pytest.approx(16.0889, abs=1e-4)
    rule = LeakyTrace()
    assert rule(every, every[0], 0.99).item() == pytest.approx(0.99353, abs=1e-5)
    assert rule(torch.zeros_like(every), every[0], 0.99).item() == 0
    assert rule(every, every[0], 1.0).item() == 1  # without leak an indicator of activity


def test_the_leaky_trace_passes_the_leak_as_one_until_a_spike() -> None:
    how, current = Dynamics(0.5, 1.0, "hard"), torch.tensor([[0.6], [0.8], [0.2], [1.0]], dtype=torch.float64)
    x = current.requires_grad_()
    spikes = neurons(x, how, LeakyTrace()).spikes  # h = .6 1.1 .2 1.1
    assert spikes[:, 0].tolist() == [0, 1, 0, 1]
    weight = torch.tensor([[1.0], [10.0], [100.0], [1000.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((spikes * weight).sum(), x)
    factor = 1 + math.log(0.5) * 1.25 / 2
    assert gradient[:, 0].tolist() == pytest.approx([11 * factor, 10 * factor, 1100 * factor, 1000 * factor])


def test_rates_get_time_constant_gradients() -> None:
    current = torch.tensor([[0.0, 0.4, 1.0, -0.2, 3.0]], dtype=torch.float64).repeat(8, 1).requires_grad_()
    weight = torch.arange(8.0, dtype=torch.float64)[:, None]
    how = Dynamics(0.5, 1.0, "hard")
    high = (1 - 0.2 + 0.2 * 0.5) / 1.5
    for rule, slope in ((BPTR(), [0, 0, 1, 0, 1]), (RGA(), [0.2, 0.2, high, 0, 0])):
        spikes = neurons(current, how, rule).spikes
        (gradient,) = torch.autograd.grad((spikes * weight).sum(), current)
        assert torch.allclose(gradient, torch.tensor(slope, dtype=torch.float64).expand(8, -1) * 3.5)


def test_rga_is_the_slope_of_the_measured_rate() -> None:
    """The onset of firing lies at 1 − leak, and the rule's area from there to 2 is about what the rate gains."""
    for leak in (0.5, 0.9):
        mean = torch.linspace(0, 2, 401, dtype=torch.float64)
        rate = neurons(mean.expand(400, -1), Dynamics(leak, 1.0, "hard", strict=True), Atan()).spikes.mean(0)
        onset = mean[rate > 0].min()
        assert onset.item() == pytest.approx(1 - leak, abs=0.006)
        slope = RGA()(rate[None], mean, leak)
        assert slope[mean < 1 - leak - 1e-9].unique().tolist() == [0.2]
        assert (slope.mean() * 2).item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("unit", [sign, bernoulli, lambda x: spike(x, Atan())], ids=["sign", "bernoulli", "spike"])
def test_units_without_time_refuse_a_window_rule(unit: Any) -> None:
    with acting(BPTR()), pytest.raises(UsageError, match="StraightThrough"):
        unit(torch.zeros(3, requires_grad=True))


def test_a_rule_in_force_reaches_neurons() -> None:
    x = normal(6, 20).requires_grad_()
    with acting(BPTR()):
        chosen = neurons(x, Dynamics(), Atan()).spikes
    trained = neurons(x, Dynamics(), BPTR()).spikes
    assert torch.equal(*(torch.autograd.grad(s.sum(), x)[0] for s in (chosen, trained)))


@pytest.mark.parametrize("bad", [{"leak": 0.0}, {"leak": 1.1}, {"threshold": 0.0}, {"reset": "warm"}], ids=str)
def test_impossible_dynamics_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Dynamics(**bad)


# ------------------------------------------------------------------------------------------------------ other libraries


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_equal_to_spikingjelly(reset: Reset, attached: bool) -> None:
    """Spikes to the bit, gradients to 1e-6; its triangle has slope alpha² · |u| below height alpha."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")
    theirs = neuron.LIFNode(
        tau=2.0,
        decay_input=False,
        v_threshold=1.0,
        v_reset=None if reset == "soft" else 0.0,
        surrogate_function=surrogate.ATan(alpha=2.0),
        detach_reset=not attached,
        step_mode="m",
    )
    current = normal(10, 4, 25).float().mul(0.8)
    weight, found = normal(10, 4, 25, key="w").float(), []
    how = Dynamics(0.5, 1.0, reset, attached=attached)
    for unit in (theirs, lambda x: neurons(x, how, Atan(2.0)).spikes):
        x = current.clone().requires_grad_()
        spikes = unit(x)
        found.append((spikes.detach(), torch.autograd.grad((spikes * weight).sum(), x)[0]))
    assert torch.equal(found[0][0], found[1][0]) and 0.05 < found[0][0].mean() < 0.5
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_equal_to_snntorch_where_it_means_the_same() -> None:
    """Its default resets one step later, after the leak; "subtract" without that delay is yet another neuron."""
    snn = pytest.importorskip("snntorch")

    def theirs(x: Tensor, **options: Any) -> list[float]:
        cell = snn.Leaky(beta=0.9, threshold=1.0, **options)
        mem, spikes = cell.init_leaky(), []
        for step in x:
            s, mem = cell(step, mem)
            spikes.append(s)
        return torch.stack(spikes)

    x = normal(20, 50).float()
    hard = neurons(x, Dynamics(0.9, 1.0, "hard", strict=True), Atan()).spikes
    assert torch.equal(theirs(x, reset_mechanism="zero", reset_delay=False), hard)
    late = neurons(x, Dynamics(0.9, 1.0, "late", strict=True), Atan()).spikes
    assert torch.equal(theirs(x), late)
    burst = torch.tensor([3.2, 0, 0, 0, 0])[:, None]
    without = theirs(burst, reset_mechanism="subtract", reset_delay=False)[:, 0].tolist()
    assert without == [1, 0, 0, 0, 0]
    assert neurons(burst, Dynamics(0.9), Atan()).spikes[:, 0].tolist() == [1, 1, 0, 0, 0]


def test_equal_to_norse_where_it_means_the_same() -> None:
    """Its box neuron scales the input by 1 − leak and fires above the threshold."""
    box = pytest.importorskip("norse.torch.functional.lif_box")
    p = box.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(1.0), alpha=torch.tensor(100.0))
    x = 2 * normal(20, 50).float()
    state, spikes = box.LIFBoxFeedForwardState(v=torch.zeros(50)), []
    for step in x:
        s, state = box.lif_box_feed_forward_step(step, state, p, dt=0.001)
        spikes.append(s)
    ours = neurons(0.5 * x, Dynamics(0.5, 1.0, "hard", strict=True), Atan()).spikes
    assert (torch.stack(spikes) == ours).float().mean() > 0.999
