"""Our neurons and those of snnTorch, SpikingJelly and Norse: equal where they mean the same, and where they do not."""

from __future__ import annotations

import peers
import pytest
import torch
from torch import nn

from robassay.nets.neurons import neurons
from robassay.rules import Atan


def ours(current, leak=0.5, threshold=1.0, reset="hard"):
    return neurons(current, leak, threshold, reset, Atan())


@pytest.mark.parametrize("framework", peers.FRAMEWORKS)
def test_with_a_hard_reset_all_fire_alike(framework):
    current = torch.randn(20, 3, 40, generator=torch.Generator().manual_seed(0)) * 1.5
    for leak, threshold in ((0.5, 1.0), (0.75, 0.5)):
        found = peers.spikes(framework, current, leak=leak, threshold=threshold)
        assert 0.1 < found.mean() < 0.9
        assert torch.equal(found, ours(current, leak, threshold))


@pytest.mark.parametrize("framework", ["spikingjelly", "norse"])
def test_with_a_soft_reset_two_fire_as_ours(framework):
    current = torch.randn(20, 3, 40, generator=torch.Generator().manual_seed(1)) * 2
    assert torch.equal(peers.spikes(framework, current, reset="soft"), ours(current, reset="soft"))


@pytest.mark.parametrize(("framework", "fires"), [("snntorch", 0.0), ("spikingjelly", 1.0), ("norse", 0.0)])
def test_at_the_threshold_only_spikingjelly_and_ours_fire(framework, fires):
    at = torch.full((1, 1, 1), 1.0)
    assert peers.spikes(framework, at).item() == fires
    assert ours(at).item() == 1.0


@pytest.mark.parametrize("framework", peers.FRAMEWORKS)
def test_potentials_that_often_meet_the_threshold_fire_alike_when_ours_is_as_strict(framework):
    """Currents in halves and a leak of ½: sums are exact, and many potentials are the threshold to the bit."""
    current = torch.randint(-1, 4, (20, 3, 40), generator=torch.Generator().manual_seed(2)) / 2
    how = {"leak": 0.5, "threshold": 1.0, "reset": "hard", "rule": Atan()}
    strict, lax = (neurons(current, **how, strict=s) for s in (True, False))
    assert (strict != lax).float().mean() > 0.05
    assert torch.equal(peers.spikes(framework, current), lax if framework == "spikingjelly" else strict)


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("attached", [True, False])
def test_gradients_through_time_are_spikingjellys(reset, attached):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")
    current = torch.randn(12, 2, 30, generator=torch.Generator().manual_seed(3), requires_grad=True)
    upon = torch.randn(12, 2, 30, generator=torch.Generator().manual_seed(4))
    theirs = neuron.LIFNode(
        2.0,
        decay_input=False,
        v_reset=0.0 if reset == "hard" else None,
        surrogate_function=surrogate.ATan(alpha=2.0),
        detach_reset=not attached,
        step_mode="m",
    )
    (expected,) = torch.autograd.grad((theirs(current) * upon).sum(), current)
    ours = neurons(current, 0.5, 1.0, reset, Atan(2.0), attached=attached)
    (found,) = torch.autograd.grad((ours * upon).sum(), current)
    assert torch.allclose(found, expected, atol=1e-5) and expected.any()


def test_snntorch_subtracts_once_where_a_residual_stays_above_the_threshold():
    current = torch.tensor([3.2, 0, 0, 0, 0]).reshape(5, 1, 1)
    assert peers.spikes("snntorch", current, leak=0.9, reset="soft").flatten().tolist() == [1, 0, 0, 0, 0]
    assert ours(current, leak=0.9, reset="soft").flatten().tolist() == [1, 1, 0, 0, 0]
    hard = peers.spikes("snntorch", current, leak=0.9)
    assert torch.equal(hard, ours(current, leak=0.9)) and hard.sum() == 1


def test_snntorchs_default_reset_comes_one_step_late():
    """v: 1.5, then ½·1.5 + 1.5 − 1 = 1.25; with the reset in time it is ½·(1.5 − 1) + 1.5 = 1.75."""
    snntorch = pytest.importorskip("snntorch")
    neuron = snntorch.Leaky(beta=0.5)
    shown = [neuron(torch.tensor([[1.5]]))[1].item() for _ in range(2)]
    assert shown == [1.5, 1.25]


def test_spikingjellys_default_scales_the_input_by_one_over_tau():
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    fired = [neuron.LIFNode(tau=2.0, decay_input=decays)(torch.tensor([[1.5]])).item() for decays in (True, False)]
    assert fired == [0.0, 1.0]


def test_spikingjellys_reset_forgets_only_what_it_first_saw():
    functional = pytest.importorskip("spikingjelly.activation_based.functional")
    net = nn.Sequential(nn.Identity(), peers.layer("spikingjelly"))
    functional.reset_net(net)
    net[0] = peers.layer("spikingjelly", threshold=9.0)
    net(torch.ones(1, 1))
    functional.reset_net(net)
    assert isinstance(net[0].v, torch.Tensor) and net[0].v.item() == 1.0


def test_snntorchs_reset_looks_at_direct_children_only():
    utils = pytest.importorskip("snntorch.utils")
    net = nn.Sequential(nn.Sequential(peers.layer("snntorch", threshold=9.0)))
    net(torch.ones(1, 1))
    utils.reset(net)
    assert net[0][0].mem.item() == 1.0


def test_norse_ignores_alpha_of_its_default_surrogate():
    threshold = pytest.importorskip("norse.torch.functional.threshold").threshold
    slopes = []
    for alpha in (1.0, 10.0, 100.0):
        u = torch.tensor(0.5, requires_grad=True)
        slopes += torch.autograd.grad(threshold(u, "super", alpha), u)
    assert [s.item() for s in slopes] == [pytest.approx(1 / 1.5**2)] * 3
