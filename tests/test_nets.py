"""Networks and defences against closed forms, hand-made traces and their own promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from robassay.classifier import Classifier, Net
from robassay.defences.a2snn import A2SNN
from robassay.errors import UsageError
from robassay.nets.bsn import BSN
from robassay.nets.cnn import SmallCNN
from robassay.nets.lenet import LeNetPP
from robassay.nets.lif import LIF
from robassay.nets.mlp import MLP
from robassay.nets.neurons import Reset, neurons
from robassay.nets.ops import bernoulli, hard_sigmoid, poisson, sign, spike
from robassay.registry import named
from robassay.rng import Stream
from robassay.rules import Atan, BackwardRule, Rectangle, StraightThrough, Triangle, acting

DIGIT = (1, 8, 8)
RANDOM: list[Net] = [BSN((20,)), LIF((20,), steps=4), A2SNN(MLP(), dim=8)]
ALL: list[Net] = [MLP(), SmallCNN(), *RANDOM]


def built(net: Net, shape: tuple[int, int, int] = DIGIT, classes: int = 10) -> Classifier:
    with Stream(("test", "init")).active():
        return net.build(shape, classes).eval()


def images(n: int, shape: tuple[int, int, int] = DIGIT) -> Tensor:
    return torch.rand(n, *shape, generator=Stream(("test", "images")).generator())


def slope_of(unit: Any, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(unit(x).sum(), x)
    return gradient


# ---------------------------------------------------------------------------------------------------------------- ops


def test_bernoulli_gradient_is_half_the_slope_inside_the_window() -> None:
    a = torch.arange(-2, 2.1, 0.5)
    expected = torch.where(a.abs() <= 0.5, 0.75, 0.0)
    assert torch.equal(slope_of(lambda x: bernoulli(x, 1.5), a), expected)


def test_bernoulli_draws_coins_with_the_stated_probability() -> None:
    a, n = torch.tensor([-3.0, -0.6, -0.2, 0.0, 0.3, 0.65, 2.0]), 100_000
    with Stream(("coins",)).active():
        z = bernoulli(a.expand(n, -1), 1.5)
    p = hard_sigmoid(1.5 * a)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(p, ((1.5 * a).clamp(-1, 1) + 1) / 2)
    assert ((z.mean(0) - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all()


def test_spike_and_sign_values() -> None:
    x = torch.tensor([-2.0, -0.1, 0.0, 0.1, 2.0])
    assert spike(x, Triangle()).tolist() == [0, 0, 0, 1, 1]
    assert sign(x).tolist() == [-1, -1, 0, 1, 1]
    assert torch.allclose(slope_of(lambda v: spike(v, Triangle()), x), torch.tensor([0, 0.9, 1, 0.9, 0]))
    assert slope_of(sign, x).tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("unit", "factor", "inner"),
    [
        (lambda x: spike(x, Atan()), 1.0, 1.0),
        (sign, 2.0, 1.0),
        (lambda x: bernoulli(x, 1.5), 1.5, 1.5),
        (lambda x: neurons(x[None], 0.9, 0.5, "soft", Atan()), 2.0, None),
    ],
    ids=["spike", "sign", "bernoulli", "neurons"],
)
def test_a_rule_changes_the_backward_pass_only(unit: Any, factor: float, inner: float | None) -> None:
    x = torch.linspace(-1.4, 1.4, 29).requires_grad_()
    rule = Triangle(0.7)
    with Stream(("same",)).active():
        trained = unit(x)
    with Stream(("same",)).active(), acting(rule):
        attacked = unit(x)
    assert torch.equal(trained, attacked)
    # Backward runs outside the context: the rule was read in forward.
    (before,) = torch.autograd.grad(trained.sum(), x)
    (after,) = torch.autograd.grad(attacked.sum(), x)
    u = x.detach() / 0.5 - 1 if inner is None else inner * x.detach()
    assert torch.allclose(after, factor * rule(u), atol=1e-6)
    assert not torch.allclose(before, after, atol=1e-2)


def test_poisson_means_and_identity_gradient() -> None:
    x, steps = torch.tensor([-1.0, -0.3, 0.0, 0.3, 1.0]), 20_000
    with Stream(("poisson",)).active():
        spikes = poisson(x.expand(steps, 5))
    assert set(spikes.unique().tolist()) == {-1.0, 0.0, 1.0}
    mean = spikes.mean(0)
    assert mean[[0, 2, 4]].tolist() == [-1, 0, 1]
    assert (mean - x).abs().max() <= 4 * math.sqrt(0.3 * 0.7 / steps)
    assert slope_of(lambda v: poisson(v.expand(7, 5)), x).tolist() == [7] * 5


# -------------------------------------------------------------------------------------------------------- LIF neurons


def loop(current: Tensor, leak: float, threshold: float, reset: Reset, rule: BackwardRule) -> Tensor:
    """The equations of the module, one node per step."""
    v, spikes = torch.zeros_like(current[0]), []
    for arriving in current:
        h = leak * v + arriving
        # spike() fires above 0; the neuron also fires at the threshold.
        s = spike((h / threshold - 1) + 1e-12, rule)
        v = h - threshold * s.detach() if reset == "soft" else h * (1 - s.detach())
        spikes.append(s)
    return torch.stack(spikes)


@pytest.mark.parametrize(
    ("reset", "leak", "current", "expected"),
    [
        ("soft", 0.9, [3.2, 0, 0, 0, 0], [1, 1, 0, 0, 0]),  # .9 · 2.2 = 1.98 is over the threshold again
        ("hard", 0.9, [3.2, 0, 0, 0, 0], [1, 0, 0, 0, 0]),
        ("soft", 0.5, [0.6, 0.6, 0.6, 0.96, 0.9], [0, 0, 1, 0, 1]),  # h = .6 .9 1.05 .985 1.3925
        ("hard", 0.5, [0.6, 0.6, 0.6, 0.96, 0.9], [0, 0, 1, 0, 1]),  # h = .6 .9 1.05 .96 1.38
        ("soft", 1.0, [0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1]),  # fires at the threshold
    ],
)
def test_neuron_traces_by_hand(reset: Reset, leak: float, current: list[float], expected: list[int]) -> None:
    assert neurons(torch.tensor(current)[:, None], leak, 1.0, reset, Atan())[:, 0].tolist() == expected


def test_rate_of_a_neuron_without_leak_follows_the_current() -> None:
    steps, threshold = 60, 0.7
    current = torch.rand(1000, dtype=torch.float64, generator=Stream(("rate",)).generator()) * 2.4 - 0.8
    rate = neurons(current.expand(steps, -1), 1.0, threshold, "soft", Atan()).mean(0)
    assert ((rate - (current / threshold).clamp(0, 1)).abs() <= 1 / steps + 1e-12).all()


def test_period_of_a_leaky_neuron_with_hard_reset() -> None:
    leak, threshold, steps = 0.9, 1.0, 100
    current = torch.rand(500, dtype=torch.float64, generator=Stream(("period",)).generator()) * 2
    spikes = neurons(current.expand(steps, -1), leak, threshold, "hard", Atan())
    silent = current <= threshold * (1 - leak)
    assert silent.any() and not spikes[:, silent].any()
    period = torch.ceil((1 - threshold * (1 - leak) / current[~silent]).log() / math.log(leak))
    expected = torch.arange(1, steps + 1)[:, None] % period == 0
    assert torch.equal(spikes[:, ~silent].bool(), expected)


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize(
    "rule", [Atan(), Triangle(), Rectangle(2.0), StraightThrough()], ids=lambda r: type(r).__name__
)
def test_fused_neurons_equal_a_plain_loop(reset: Reset, rule: BackwardRule) -> None:
    generator = Stream(("fused",)).generator()
    current = torch.randn(12, 5, 30, generator=generator)
    weight = torch.randn(12, 5, 30, generator=generator)
    found = []
    for unit in (neurons, loop):
        x = current.clone().requires_grad_()
        spikes = unit(x, 0.9, 0.8, reset, rule)
        (gradient,) = torch.autograd.grad((spikes * weight).sum(), x)
        found.append((spikes.detach(), gradient))
    assert torch.equal(found[0][0], found[1][0]) and 0.1 < found[0][0].mean() < 0.9
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)


def test_lif_logits_are_the_output_potential_over_the_steps() -> None:
    net = LIF((20,), steps=6)
    model, x = built(net), images(3)
    first, last = model.layers  # type: ignore[misc]
    with torch.no_grad(), Stream(("potential",)).active():
        spikes = torch.stack(
            [last(s) for s in loop(first(poisson(x.flatten(1).expand(6, 3, 64))), 0.9, 1, "soft", Atan())]
        )
    with torch.no_grad(), Stream(("potential",)).active():
        assert torch.allclose(model(x), spikes.sum(0) / 6, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- every network


@pytest.mark.parametrize("net", ALL, ids=lambda n: type(n).__name__)
def test_logits_have_the_promised_shape_and_passes_the_promised_parts(net: Net) -> None:
    for shape, classes in ((DIGIT, 10), ((1, 28, 28), 10), ((3, 32, 32), 7)):
        model, x = built(net, shape, classes), images(5, shape)
        with Stream(("pass",)).active():
            whole = model(x)
        with Stream(("pass",)).active():
            parts = model.draw(model.prefix(x))
        assert whole.shape == (5, classes) and model.classes == classes
        assert torch.equal(whole, parts)


@pytest.mark.parametrize("net", RANDOM, ids=lambda n: type(n).__name__)
def test_rows_get_noise_of_their_own_in_evaluation_mode(net: Net) -> None:
    model, x = built(net), images(1)
    assert not model.training and model.stochastic and model.rows == "independent"
    h = model.prefix(x)
    logits = model.sample(h, 40, Stream(("rows",)))
    assert model.groups(h, 40) == [40]
    assert len(logits[:, 0].unique(dim=0)) > 20


@pytest.mark.parametrize("net", ALL, ids=lambda n: type(n).__name__)
def test_without_noise_nothing_is_random_and_no_row_knows_its_mates(net: Net) -> None:
    model, x = built(net), images(6)
    h = model.prefix(x)
    quiet = model.quiet(h)
    assert torch.equal(quiet, model.quiet(h))
    assert torch.allclose(quiet[2:3], model.quiet(h[2:3]), atol=1e-5)


@pytest.mark.parametrize("net", [BSN((20,)), A2SNN(MLP(), dim=8)], ids=lambda n: type(n).__name__)
def test_quiet_is_the_mean_where_the_noise_enters_linearly(net: Net) -> None:
    model, n = built(net), 20_000
    h = model.prefix(images(2))
    with torch.no_grad():
        draws = model.sample(h, n, Stream(("mean",)))
    error = (draws.mean(0) - model.quiet(h)).abs() / (draws.std(0) / math.sqrt(n))
    assert error.max() < 4.5


def test_lif_rate_comes_near_its_quiet_current_for_many_steps() -> None:
    net = LIF((30,), steps=400, leak=1.0)
    model, h = built(net), images(2)
    with torch.no_grad(), Stream(("many",)).active():
        assert (model(h) - model.quiet(h)).abs().max() < 0.05


@pytest.mark.parametrize(
    ("net", "shape", "count"),
    [
        (BSN(), (1, 28, 28), 79_510),
        (BSN(), (3, 32, 32), 308_310),
        (BSN((600, 400, 200)), (1, 28, 28), 793_610),
        (LeNetPP(), (1, 28, 28), 860_752),
        (A2SNN(LeNetPP()), (1, 28, 28), 860_752 + 32 * 32),
        (A2SNN(LeNetPP(), covariance="diagonal"), (1, 28, 28), 860_752 + 32),
    ],
)
def test_parameter_counts_are_the_published_ones(net: Net, shape: tuple[int, int, int], count: int) -> None:
    assert sum(p.numel() for p in built(net, shape).parameters()) == count


def test_lenet_runs_on_the_sizes_it_names_and_refuses_others() -> None:
    net = LeNetPP(width=0.1)
    for shape in ((1, 25, 25), (1, 28, 28), (3, 32, 32)):
        assert built(net, shape)(images(2, shape)).shape == (2, 10)
    for wrong, shape in ((net, DIGIT), (net, (3, 32, 24)), (A2SNN(net), DIGIT), (SmallCNN(), (1, 3, 8))):
        with pytest.raises(UsageError, match=r"takes .* × .* and larger"):
            wrong.build(shape, 10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(()),
        lambda: BSN((0,)),
        lambda: BSN(slope=0.5),
        lambda: SmallCNN(width=0),
        lambda: LeNetPP(width=0),
        lambda: LIF(leak=1.1),
        lambda: LIF(reset="none"),  # type: ignore[arg-type]
        lambda: A2SNN(dim=0),
        lambda: A2SNN(covariance="none"),  # type: ignore[arg-type]
    ],
)
def test_impossible_descriptions_are_refused(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_registered_names() -> None:
    import robassay.nets  # noqa: F401

    found = {name: named("nets", name) for name in ("mlp", "small-cnn", "lenet++", "bsn-2", "lif")}
    assert found == {"mlp": MLP, "small-cnn": SmallCNN, "lenet++": LeNetPP, "bsn-2": BSN, "lif": LIF}
    assert named("defences", "a2snn") is A2SNN


def test_slope_travels_with_the_weights() -> None:
    steep, flat = built(BSN((20,), slope=2.5)), built(BSN((20,)))
    flat.load_state_dict(steep.state_dict())
    h = flat.prefix(images(3))
    assert flat.slope == 2.5
    assert torch.equal(flat.quiet(h), steep.quiet(h))
