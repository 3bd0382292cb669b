"""Adapted networks keep the contract: they forget, keep rows apart, and let the attacker choose the backward rule."""

from __future__ import annotations

import peers
import pytest
import torch
from torch import nn

import robassay as ra
from robassay.adapters import FirstSpike, Membrane, Poisson, Rate
from robassay.analogue import ReLU, standing_in
from robassay.classifier import CannotQuiet
from robassay.errors import UsageError
from robassay.rules import BPTR, RGA, Atan, FastSigmoid, LeakyTrace, Rectangle, Triangle, acting
from robassay.testing import check_classifier
from robassay.threat import Goal

X = torch.rand(8, *peers.SHAPE, generator=torch.Generator().manual_seed(5))
EACH = pytest.mark.parametrize("framework", peers.FRAMEWORKS)


def adapted(framework, net=None, **how):
    how = {"steps": 6, "shape": peers.SHAPE, **how}
    return ra.adapt(net or peers.net(framework), framework=framework, **how)


def gradient(model, rule, x=X):
    goal = Goal(torch.arange(len(x)) % 4)
    return ra.Ruled(rule)(model, x, goal.cross_entropy, ra.Stream(("g",))).gradient


@pytest.mark.parametrize(
    ("framework", "encoder"),
    [*((f, "direct") for f in peers.FRAMEWORKS), ("norse", "poisson"), ("snntorch", "latency")],
)
def test_an_adapted_network_passes_the_exam(framework, encoder):
    model = adapted(framework, encoder=encoder)
    assert check_classifier(model, X)
    assert model.stochastic == (encoder == "poisson") and model.rows == "independent" and not model.coupled


@EACH
def test_a_rule_changes_the_gradient_and_nothing_else(framework):
    model = adapted(framework)
    with torch.no_grad():
        plain = model(X)
        with acting(Triangle(0.3)):
            assert torch.equal(model(X), plain)
        assert torch.equal(model(X), plain)
    wide, narrow = gradient(model, Rectangle(8.0)), gradient(model, Rectangle(0.5))
    assert wide.any() and not torch.equal(wide, narrow)
    assert not gradient(model, Rectangle(1e-9)).any()


@EACH
def test_the_rule_is_taken_in_units_of_the_threshold(framework):
    """One neuron, one step: d spike / d current = rule((current − th)/th)/th; th = ½, current = 0.4, so u = −0.2."""
    neuron = peers.layer(framework, threshold=0.5)
    weight = 0.4 * (2 if framework == "norse" else 1)
    dense = nn.Linear(1, 2, bias=False)
    dense.weight.data[:] = weight
    parts = [nn.Flatten(), dense, neuron]
    net = nn.Sequential(*parts)
    if framework == "norse":
        import norse.torch as norse

        net = norse.SequentialState(*parts)
    model = adapted(framework, net, steps=1, shape=(1, 1, 1))
    x = torch.ones(1, 1, 1, 1, requires_grad=True)
    with acting(Triangle(1.0)):
        (found,) = torch.autograd.grad(model(x)[0, 0], x)
    assert found.item() == pytest.approx(0.4 * (1 - 0.2) / 0.5, rel=1e-5)


@EACH
def test_the_frameworks_own_surrogate_is_put_back(framework):
    net = peers.net(framework)
    model = adapted(framework, net)
    name = {"snntorch": "spike_grad", "spikingjelly": "surrogate_function", "norse": "activation"}[framework]
    before = getattr(net[2], name)
    own = ra.Backprop()(model, X, Goal(torch.zeros(8, dtype=torch.long)).cross_entropy, ra.Stream()).gradient
    with pytest.raises(ZeroDivisionError), acting(Triangle(1.0)):
        model.framework.ruled(net, Triangle(1.0), set()).__enter__()
        raise ZeroDivisionError
    gradient(model, Atan(8.0))
    again = ra.Backprop()(model, X, Goal(torch.zeros(8, dtype=torch.long)).cross_entropy, ra.Stream()).gradient
    assert getattr(net[2], name) is before or framework != "snntorch"
    assert own.any() and torch.equal(own, again)


def test_norse_gets_the_width_that_it_ignores_itself():
    model = adapted("norse")
    assert not torch.equal(gradient(model, FastSigmoid(1.0)), gradient(model, FastSigmoid(100.0)))
    assert "its alpha is ignored" in model.words()
    own = ra.Backprop()(model, X, Goal(torch.arange(8) % 4).cross_entropy, ra.Stream(("g",))).gradient
    assert torch.allclose(own, gradient(model, FastSigmoid(1.0)), atol=1e-6)


@EACH
def test_what_was_run_before_changes_nothing(framework):
    model = adapted(framework)
    with torch.no_grad():
        first = model(X)
        model(1 - X[:3])
        assert torch.equal(model(X), first)
        # As a caller outside of robassay leaves it: with potentials, far below the threshold.
        model.module(-1000 * X)
        assert torch.equal(model(X), first)


def test_a_neuron_put_in_later_is_reset_too():
    net = peers.net("spikingjelly")
    model = adapted("spikingjelly", net)
    net[4] = peers.layer("spikingjelly", threshold=2.0)
    with torch.no_grad():
        first = model(X)
        net(X)
        assert first.any() and torch.equal(model(X), first)


class Keeper(nn.Module):
    """Adds to its output a trace of all inputs that it ever saw."""

    def __init__(self):
        super().__init__()
        self.trace = 0.0

    def forward(self, x):
        self.trace = self.trace + x.mean().item()
        return x + 0.01 * self.trace


@pytest.mark.parametrize("framework", ["snntorch", "spikingjelly"])
def test_a_network_that_keeps_state_is_refused_and_the_keeper_named(framework):
    net = peers.net(framework)
    net[0] = nn.Sequential(nn.Flatten(), Keeper())
    with pytest.raises(UsageError, match=r"keeps state.*0\.1\.trace"):
        adapted(framework, net)


def test_a_network_that_mixes_rows_is_said_to_be_coupled():
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    net = peers.net("spikingjelly")
    net[0] = nn.Sequential(nn.Flatten(), Centred())
    assert adapted("spikingjelly", net).coupled


def test_a_network_with_noise_of_its_own_is_said_to_be_random():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + 0.5 * torch.randn_like(x[:1])

    net = peers.net("spikingjelly")
    net[0] = nn.Sequential(nn.Flatten(), Noisy())
    model = adapted("spikingjelly", net)
    assert model.stochastic and model.rows == "shared"
    with pytest.raises(CannotQuiet):
        model.quiet(X)


class Deaf(nn.Module):
    """Fires by a comparison of its own; it may ask its surrogate, but uses no answer."""

    def __init__(self, asks):
        super().__init__()
        self.asks, self.surrogate_function = asks, nn.Identity()

    def forward(self, x):
        if self.asks:
            self.surrogate_function(x - 1)
        return (x > 1).float() + x - x.detach()


@pytest.mark.parametrize("asks", [False, True])
def test_layers_that_ignore_the_surrogate_are_named_and_rules_refused(asks):
    pytest.importorskip("spikingjelly")
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), Deaf(asks))
    model = adapted("spikingjelly", net, layout="step")
    assert model.unruled == ("2",)
    with pytest.raises(UsageError, match="ignores the surrogate"), acting(Triangle()):
        model(X)


def test_of_several_layers_only_the_deaf_one_is_named():
    net = peers.net("spikingjelly")
    net[4] = Deaf(asks=False)
    assert adapted("spikingjelly", net).unruled == ("4",)


# ------------------------------------------------------------------------------------------------------------- time


def test_a_sequence_in_one_call_is_the_loop_over_its_steps():
    functional = pytest.importorskip("spikingjelly.activation_based.functional")
    looped, at_once = peers.net("spikingjelly"), peers.net("spikingjelly")
    from spikingjelly.activation_based import layer

    at_once[0] = layer.Flatten()
    functional.set_step_mode(at_once, "m")
    one, other = adapted("spikingjelly", looped), adapted("spikingjelly", at_once)
    assert (one.layout, other.layout) == ("step", "time-first")
    with torch.no_grad():
        assert one(X).any() and torch.equal(one(X), other(X))


def test_a_batch_first_network_has_to_be_said_and_then_agrees():
    pytest.importorskip("snntorch")

    class BatchFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = peers.net("snntorch")

        def forward(self, x):
            return torch.stack([self.one(step) for step in x.transpose(0, 1)], 1)

    with pytest.raises(UsageError, match="time-first"):
        adapted("snntorch", BatchFirst(), layout="step")
    with torch.no_grad():
        found = adapted("snntorch", BatchFirst(), layout="batch-first")(X)
        assert torch.equal(found, adapted("snntorch")(X))


class Tutorial(nn.Module):
    """As snnTorch's tutorials write it: images in, recordings of spikes and membranes out."""

    def __init__(self):
        super().__init__()
        import snntorch

        self.fc1, self.fc2 = nn.Linear(9, 12), nn.Linear(12, 4)
        self.lif1, self.lif2 = snntorch.Leaky(beta=0.9), snntorch.Leaky(beta=0.9)
        for dense in (self.fc1, self.fc2):
            dense.weight.data *= 3

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, potentials = [], []
        for _ in range(5):
            spk1, mem1 = self.lif1(self.fc1(x.flatten(1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            potentials.append(mem2)
        return torch.stack(spikes), torch.stack(potentials)


def test_a_network_that_runs_time_itself_is_read_from_its_recordings():
    pytest.importorskip("snntorch")
    net = Tutorial()
    model = adapted("snntorch", net, steps=None, readout=Membrane("last"))
    with torch.no_grad():
        assert torch.equal(model(X), net(X)[1][-1])
        assert torch.equal(adapted("snntorch", net, steps=None)(X), net(X)[0].mean(0))
    assert gradient(model, Triangle()).any()


@EACH
def test_more_steps_than_deployed_share_the_weights(framework):
    model = adapted(framework)
    longer = model.lasting(12)
    assert (model.steps, longer.steps) == (6, 12)
    with torch.no_grad():
        assert torch.equal(longer(X), adapted(framework, model.module, steps=12)(X))
    assert next(longer.parameters()) is next(model.parameters())


MISTAKES = {
    "another framework": ("no neurons of norse", dict(framework="norse")),
    "unknown framework": ("framework='brian'", dict(framework="brian")),
    "no steps": ("steps=0", dict(steps=0)),
    "steps forgotten": ("Say how many", dict(steps=None)),
    "encoder": ("encoder='rate'", dict(encoder="rate")),
    "readout": ("readout='spikes'", dict(readout="spikes")),
    "membrane of a silent neuron": ("does not show its potential", dict(readout="membrane")),
    "encoder without steps": ("encodes them itself", dict(steps=None, encoder="poisson")),
    "shape": ("cannot be run", dict(shape=(1, 4, 4))),
    "layout": ("cannot be run|steps of 2 images", dict(layout="time-first")),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_what_cannot_be_adapted_is_told_how(case):
    pytest.importorskip("norse")
    words, how = MISTAKES[case]
    with pytest.raises(UsageError, match=words):
        ra.adapt(peers.net("snntorch"), **{"framework": "snntorch", "steps": 6, "shape": peers.SHAPE, **how})


def test_mixed_step_modes_are_named():
    net = peers.net("spikingjelly")
    net[4].step_mode = "m"
    with pytest.raises(UsageError, match="'2' takes one step, '4' takes a sequence"):
        adapted("spikingjelly", net)


# ------------------------------------------------------------------------------------------------- what is reported


@EACH
def test_the_description_says_what_was_run(framework):
    model = adapted(framework, encoder=Poisson(signed=True), mean=0.5, std=0.5)
    told = model.describe()
    assert (
        told["framework"] == framework and told["steps"] == 6 and told["encoder"] == "Poisson(scale=1.0, signed=True)"
    )
    assert told["version"][0].isdigit() and told["stochastic"] and told["normalised"]["mean"] == (0.5,)
    first = told["neurons"][0]
    assert first["leak"] == "0.5" and first["threshold"] == "1" and first["reset"] in ("to zero", "to 0")
    assert first["fires"] == ("at or above" if framework == "spikingjelly" else "above")
    assert "6 steps" in repr(model)


def test_silent_and_tied_outputs_are_counted():
    net = peers.net("spikingjelly")
    net[3].weight.data.zero_()
    net[3].bias.data = torch.tensor([0.0, 0.0, 0.0, 2.0])
    assert adapted("spikingjelly", net).shares(X) == (0.0, 0.0)
    net[3].bias.data = torch.tensor([0.0, 0.0, 2.0, 2.0])
    assert adapted("spikingjelly", net).shares(X) == (0.0, 1.0)
    net[3].bias.data.zero_()
    assert adapted("spikingjelly", net).shares(X) == (1.0, 1.0)


@EACH
def test_the_analogue_twin_is_the_network_of_rectifiers(framework):
    """Same weights, ReLU of current over threshold, and the output's plain current over threshold."""
    net = peers.net(framework, threshold=0.5)
    model = adapted(framework, net)
    with standing_in(ReLU()), torch.no_grad():
        found = model(X)
    gain = 0.5 if framework == "norse" else 1.0
    with torch.no_grad():
        expected = net[3]((gain * net[1](X.flatten(1)) / 0.5).relu()) * gain / 0.5
    assert torch.allclose(found, expected, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(model(X), expected, atol=0.1)


def test_readouts_by_hand():
    """Three steps, four classes: first spikes at 2, 1, never, 2; potentials decide between the first and last."""
    spikes = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0]]).unsqueeze(1)
    potential = torch.tensor([[9.0, 0, 0, 0], [1, 9, 9, 3], [9, 9, 9, 9]]).unsqueeze(1)
    assert FirstSpike()(spikes, None).tolist() == [[2, 3, 0, 2]]
    found = FirstSpike()(spikes, potential)
    assert found[0].tolist() == pytest.approx([2 + 0.5 * 1 / 2, 3, 0, 2 + 0.5 * 3 / 4])
    assert Rate()(spikes, None)[0].tolist() == pytest.approx([2 / 3, 2 / 3, 0, 1 / 3])
    for of, expected in (("last", [9, 9, 9, 9]), ("mean", [19 / 3, 6, 6, 4]), ("max", [9, 9, 9, 9])):
        assert Membrane(of)(spikes, potential)[0].tolist() == pytest.approx(expected)
    leaf = spikes.clone().requires_grad_()
    (slope,) = torch.autograd.grad(FirstSpike()(leaf, None)[0, 2], leaf)
    # A silent output: a spike at step t alone would add 3 + 1 − t.
    assert slope[:, 0, 2].tolist() == [3, 2, 1]


@EACH
@pytest.mark.parametrize("at_once", [False, True])
def test_a_rule_of_whole_spike_trains_gives_one_factor_per_neuron(framework, at_once):
    """One layer read by its rate: d rate / d current is BPTR's 1{fired} over the threshold, at every step alike."""
    if at_once and framework != "spikingjelly":
        pytest.skip("its layers take one step here")
    neuron = peers.layer(framework, threshold=0.5)
    dense = nn.Linear(1, 2, bias=False)
    dense.weight.data = torch.tensor([[0.3], [0.2]]) * (2 if framework == "norse" else 1)
    parts = [nn.Flatten(), dense, neuron]
    net = nn.Sequential(*parts)
    if framework == "norse":
        import norse.torch as norse

        net = norse.SequentialState(*parts)
    if at_once:
        net[0] = nn.Flatten(2)
        neuron.step_mode = "m"
    model = adapted(framework, net, steps=5, shape=(1, 1, 1))
    x = torch.ones(1, 1, 1, 1, requires_grad=True)
    with acting(BPTR()):
        logits = model(x)
    # The first neuron's potential is 0.3, 0.45, 0.525 …: it fires; the second's stays below 0.4.
    assert logits[0, 0] > 0 and logits[0, 1] == 0
    fired, silent = (torch.autograd.grad(logits[0, i], x, retain_graph=True)[0].item() for i in (0, 1))
    assert fired == pytest.approx(0.3 / 0.5) and silent == 0
    # RGA at a mean input of 0.6 and 0.4 thresholds, leak ½: (1 − 0.2·½)/(1 + ½) = 0.6, and 0.2 below the onset at ½.
    with acting(RGA()):
        logits = model(x)
    both = [torch.autograd.grad(logits[0, i], x, retain_graph=True)[0].item() for i in (0, 1)]
    assert both == pytest.approx([0.6 * 0.3 / 0.5, 0.2 * 0.2 / 0.5])
    with pytest.raises(UsageError, match="goes back through the membranes"), acting(LeakyTrace()):
        model(x)


@EACH
def test_the_rate_rule_changes_no_spike(framework):
    model = adapted(framework)
    with torch.no_grad():
        plain = model(X)
        with acting(RGA()):
            assert torch.equal(model(X), plain)
    assert gradient(model, RGA()).any()


@EACH
def test_at_the_threshold_a_rule_keeps_the_frameworks_own_decision(framework):
    """One neuron whose current is its threshold, 1, to the bit: only SpikingJelly's fires, whatever the rule."""
    dense = nn.Linear(1, 2, bias=False)
    dense.weight.data[:] = 2.0 if framework == "norse" else 1.0
    parts = [nn.Flatten(), dense, peers.layer(framework)]
    net = nn.Sequential(*parts)
    if framework == "norse":
        import norse.torch as norse

        net = norse.SequentialState(*parts)
    model, x = adapted(framework, net, steps=1, shape=(1, 1, 1)), torch.ones(1, 1, 1, 1)
    with torch.no_grad():
        for rule in (None, Triangle(), RGA()):
            with acting(rule):
                assert model(x)[0, 0].item() == float(framework == "spikingjelly")


def test_nothing_is_left_in_the_neurons_after_a_pass():
    net = peers.net("spikingjelly")
    model = adapted("spikingjelly", net)
    model(X.clone().requires_grad_())
    assert net[2].v == 0.0 and net[4].v == 0.0
