"""Spiking networks against step-by-step references, closed forms and their own promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay.classifier import Net
from robassay.errors import UsageError
from robassay.nets import parts
from robassay.nets.cw_mnist import CWMnist
from robassay.nets.encoders import Direct, Latency, Poisson
from robassay.nets.lenet import LeNetPP
from robassay.nets.mlp import MLP
from robassay.nets.published import BACKPROPAGATED, HYBRID, VGG5, VGG9, VGG11, ResNet20
from robassay.nets.resnet import ResNet18
from robassay.nets.spikes import FixedDropout, Neurons, Spikes
from robassay.nets.spiking import Spiking, SpikingClassifier
from robassay.nets.vgg import VGG
from robassay.registry import named
from robassay.rng import Stream
from robassay.rules import BPTR, Atan, LeakyTrace, acting
from robassay.testing import check_classifier

DIGIT, COLOUR = (1, 8, 8), (3, 32, 32)
BRISK = Spikes(steps=12, threshold=0.3)


def built(net: Net, shape: tuple[int, int, int] = DIGIT, classes: int = 10) -> Any:
    with Stream(("test", "init")).active():
        return net.build(shape, classes).eval()


def images(n: int, shape: tuple[int, int, int] = DIGIT) -> Tensor:
    return torch.rand(n, *shape, generator=Stream(("test", "images")).generator())


def count(net: Net, shape: tuple[int, int, int] = COLOUR) -> int:
    return sum(p.numel() for p in built(net, shape).parameters())


def stepwise(model: SpikingClassifier, x: Tensor) -> Tensor:
    """Rathi's loop over time, for a chain with graded pooling and delay: every layer emits before it integrates."""
    how, potentials, total = model.spikes, {}, 0.0
    h = model.prefix(x)
    code = how.encoder(h, how.steps)
    for arriving in code:
        signal = arriving
        for place, layer in enumerate(model.layers):
            if isinstance(layer, Neurons):
                th = layer.threshold.item() * how.scale
                v = potentials.get(place, torch.zeros_like(signal))
                fired = (v > th).float() if how.strict else (v >= th).float()
                potentials[place] = how.leak * v + signal - th * fired
                signal = fired
            elif not isinstance(layer, FixedDropout):
                signal = layer.layer(signal)  # type: ignore[union-attr,operator]
        total = total + model.head(signal)
    return total / how.steps


def test_layers_after_each_other_are_steps_after_each_other() -> None:
    how = Spikes(steps=25, leak=0.95, threshold=0.3, scale=0.7, delay=True, strict=True)
    model, x = built(VGG5(0.05, spikes=how, normalise=None)), images(3)
    for m in model.modules():
        if isinstance(m, nn.Linear):
            m.weight.data.mul_(10)
    with torch.no_grad():
        with Stream(("draw",)).active():
            logits = model(x)
        with Stream(("draw",)).active():
            expected = stepwise(model, x)
    assert torch.allclose(logits, expected, atol=1e-5) and logits.abs().max() > 0.01


@pytest.mark.parametrize(
    ("net", "weights"),
    [
        (VGG5(), 9_670_336),
        (VGG9(), 9_022_144),
        (VGG9(kernel=3), 5_938_880),
        (VGG5(spikes=None), 9_670_336),
    ],
    ids=str,
)
def test_weights_are_as_many_as_published(net: Net, weights: int) -> None:
    """Full size; 9 layers of 5 × 5 take a second to initialise."""
    assert count(net) == weights


def test_vgg11_and_resnet20_have_the_published_shapes() -> None:
    model = built(VGG11(0.0625), COLOUR)
    assert model.head.in_features == 64 and sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 9
    dense = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert dense[0].in_features == 512 // 16 * 4 * 4  # 8192 at full width: three poolings, not five
    residual = built(ResNet20(0.0625), COLOUR)
    assert residual.head.in_features == 512 // 16 * 4
    assert sum(isinstance(m, Neurons) for m in residual.modules()) == 3 + 16
    assert sum(isinstance(m, Neurons) and m.balanced for m in residual.modules()) == 3
    assert sum(isinstance(m, nn.Conv2d) for m in residual.modules()) == 3 + 16 + 3


def test_pooling_that_spikes_has_neurons_of_its_own() -> None:
    graded, spiking = (built(VGG9(0.05, spikes=replace(BRISK, pooling=p))) for p in ("graded", "spiking"))
    thresholds = [[m.threshold.item() for m in net.modules() if isinstance(m, Neurons)] for net in (graded, spiking)]
    assert [len(t) for t in thresholds] == [8, 11]
    assert sum(t == 0.75 for t in thresholds[1]) == 3
    assert all(m.leak == 1 for m in spiking.modules() if isinstance(m, Neurons) and m.threshold == 0.75)


# ------------------------------------------------------------------------------------------------------------ promises

EXAMINED = [
    (Spiking(MLP((20,)), BRISK), DIGIT),
    (Spiking(MLP((20,)), replace(BRISK, encoder=Direct())), DIGIT),
    (Spiking(MLP((20,)), replace(BRISK, encoder=Latency())), DIGIT),
    (VGG5(0.03, spikes=replace(HYBRID, steps=8, threshold=0.02)), DIGIT),
    (VGG9(0.03, 3, spikes=replace(BACKPROPAGATED, steps=3, threshold=0.1)), DIGIT),
    (ResNet20(0.016, spikes=None), COLOUR),
]
DEEP = [
    (VGG11(0.03, spikes=replace(BRISK, steps=3, threshold=0.02)), DIGIT),
    (ResNet20(0.05, spikes=replace(BRISK, steps=2, threshold=0.3)), COLOUR),
]


@pytest.mark.parametrize(("net", "shape"), EXAMINED, ids=lambda v: type(v).__name__)
def test_every_network_keeps_the_contract(net: Net, shape: tuple[int, int, int]) -> None:
    check_classifier(built(net, shape), images(4, shape))


@pytest.mark.long
@pytest.mark.parametrize(("net", "shape"), DEEP, ids=lambda v: type(v).__name__)
def test_deep_networks_keep_the_contract(net: Net, shape: tuple[int, int, int]) -> None:
    """Half a minute: the exam makes some 800 passes, each through twenty layers of neurons."""
    check_classifier(built(net, shape), images(4, shape))


def test_rates_follow_a_constant_current_when_the_noise_is_off() -> None:
    """Quiet, without leak, a single layer has the rate clip(W x / threshold, 0, 1) within 1 / T; one step late."""
    for delay in (False, True):
        steps = 200
        model = built(Spiking(MLP((50,)), Spikes(steps=steps + delay, threshold=0.4, delay=delay)))
        x = images(4)
        current = model.layers[1].layer(x.flatten(1)) / 0.4
        model.head = nn.Identity()
        with torch.no_grad():
            count = model.quiet(model.prefix(x)) * (steps + delay)
        assert ((count / steps - current.clamp(0, 1)).abs() <= 1 / steps + 1e-4).all()
        assert (current > 1).any() and (current < 0).any()


# ----------------------------------------------------------------------------------------------------------- gradients


def test_input_gradient_is_that_of_the_first_layers_accumulated_gradient() -> None:
    """Sharmin et al. 2020, §3: the sum over time of the gradient at the first potential, through the first weights
    turned round, equals autograd through an encoder with identity backward."""
    for net in (VGG5(0.06, spikes=replace(HYBRID, steps=12, threshold=0.05)), ResNet20(0.05, spikes=BRISK)):
        shape = DIGIT if isinstance(net, VGG5) else COLOUR
        model, x, caught = built(net, shape), images(4, shape), list[Tensor]()
        first = next(m for m in model.layers)
        h = model.prefix(x).detach().requires_grad_()

        def keep(module: nn.Module, inputs: object, output: Tensor, kept: list[Tensor] = caught) -> None:
            output.register_hook(kept.append)

        handle = first.layer.register_forward_hook(keep)
        with Stream(("draw",)).active():
            logits = model.draw(h)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits * 30, torch.arange(4)), h)
        handle.remove()
        summed = caught[0].unflatten(0, (model.spikes.steps, 4)).sum(0)
        expected = F.conv_transpose2d(summed, first.layer.weight, padding=1) * getattr(model.spikes.encoder, "scale", 1)
        cosine = F.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0)
        assert cosine > 0.9999 and gradient.any()


@pytest.mark.parametrize("training", [False, True])
def test_a_run_in_parts_has_the_same_draws_masks_and_gradients(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in one part; in training, where masks and spikes are drawn in turn, as in parts that are all kept."""
    net = VGG5(0.05, spikes=replace(HYBRID, steps=12, threshold=0.05, output_leak=0.9))
    model, x = built(net).train(training), images(3)
    found = []
    for kept in (False, True):
        monkeypatch.setattr(parts, "PART_VALUES", 5 * 3 * model.values)
        if kept and training:
            monkeypatch.setattr(parts, "checkpoint", lambda run, *args, **_: run(*args))
        elif kept:
            monkeypatch.setattr(parts, "PART_VALUES", 12 * 3 * model.values)
        image = x.clone().requires_grad_()
        with Stream(("draw",)).active():
            logits = model(image)
            (gradient,) = torch.autograd.grad(logits.square().sum(), image)
        found.append((logits.detach(), gradient))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6) and found[0][0].any()
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5) and found[0][1].any()


@pytest.mark.parametrize("rule", [Atan(), BPTR(), LeakyTrace()], ids=lambda r: type(r).__name__)
def test_an_attackers_rule_changes_the_gradient_alone(rule: Any) -> None:
    model, x, found = built(VGG9(0.05, spikes=BRISK)), images(3), []
    for chosen in (None, rule):
        image = x.clone().requires_grad_()
        with Stream(("draw",)).active(), acting(chosen):
            logits = model(image)
            (gradient,) = torch.autograd.grad(logits.square().sum(), image)
        found.append((logits, gradient))
    assert torch.equal(found[0][0], found[1][0]) and found[0][0].any()
    assert not torch.allclose(found[0][1], found[1][1], rtol=0.1)


def test_an_output_that_leaks_passes_the_gradient_as_the_rule_asks() -> None:
    """V = Σ leak^(T − 1 − t) · input(t); leaky traces take the leak for 1 on the way back."""
    for rule, flat in ((LeakyTrace(), True), (Atan(), False)):
        model = built(Spiking(MLP((5,)), replace(BRISK, steps=6, output_leak=0.5, rule=rule)))
        fired = torch.rand(6, 2, 5).requires_grad_()
        total = model._accumulated(None, fired, rule)
        ages = 0.5 ** torch.arange(5.0, -1, -1)
        assert torch.allclose(total, (fired * ages[:, None, None]).sum(0))
        (gradient,) = torch.autograd.grad(total.sum(), fired)
        assert torch.allclose(gradient[:, 0, 0], torch.ones(6) if flat else ages)


def test_a_dropout_mask_holds_for_all_steps() -> None:
    from robassay.nets.spikes import Carry

    layer, x = FixedDropout(0.5), torch.ones(7, 40, 3)
    carry = Carry(())
    with Stream(("mask",)).active():
        y = layer(x, carry)
    assert (y == y[0]).all() and set(y.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(layer(x, Carry(tuple(carry.after))), y)
    assert len(y[0].unique(dim=0)) > 4  # another one for every row
    assert torch.equal(layer.eval()(x, Carry(())), x)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_fewer_steps_than_layers_are_refused_with_delay_only() -> None:
    for net, depth in ((VGG5, 5), (VGG9, 8)):
        build = lambda steps, delay, n=net: n(0.05, spikes=Spikes(steps=steps, delay=delay)).build(DIGIT, 10)
        with pytest.raises(UsageError, match=f"{depth} layers of neurons.*steps={depth + 1}"):
            build(depth, True)
        build(depth + 1, True)
        build(1, False)


def test_the_first_output_comes_when_the_delays_have_passed() -> None:
    how = Spikes(steps=6, threshold=1e-4, delay=True, encoder=Direct())
    model = built(VGG5(0.05, spikes=how, normalise=None))
    for m in model.modules():
        if isinstance(m, (nn.Linear, nn.Conv2d)):
            m.weight.data.abs_()
    assert model(images(2)).all()
    model.spikes = replace(how, steps=5)
    assert not model(images(2)).any()


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (ResNet18(width=0.1), "BatchNorm2d cannot.*statistics"),
        (LeNetPP(width=0.1), "cannot be made to spike"),
        (CWMnist(padding="valid"), "MaxPool2d cannot.*average pooling"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_layers_without_a_counterpart_are_refused(net: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Spiking(net, BRISK).build((1, 28, 28), 10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Spikes(steps=0),
        lambda: Spikes(leak=1.5),
        lambda: Spikes(threshold=0.0),
        lambda: Spikes(scale=-1.0),
        lambda: Spikes(reset="none"),  # type: ignore[arg-type]
        lambda: Spikes(pooling="max"),  # type: ignore[arg-type]
        lambda: VGG9(kernel=4),
        lambda: VGG5(width=0),
        lambda: ResNet20(width=0),
        lambda: ResNet20(0.1).build(DIGIT, 10),
    ],
)
def test_impossible_descriptions_are_refused(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_a_blank_image_through_the_latency_coder_is_silent_not_broken() -> None:
    model = built(Spiking(MLP((20,)), replace(BRISK, encoder=Latency())))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    assert not model(torch.zeros(2, *DIGIT)).any()


def test_registered_names() -> None:
    import robassay.nets  # noqa: F401

    found = {name: named("nets", name) for name in ("vgg5", "vgg9", "vgg11", "resnet20", "spiking", "vgg")}
    expected = {"vgg5": VGG5, "vgg9": VGG9, "vgg11": VGG11, "resnet20": ResNet20, "spiking": Spiking, "vgg": VGG}
    assert found == expected


def test_rates_saturate_where_pixels_leave_the_coders_range() -> None:
    x = torch.tensor([-1.7, 0.4, 1.8])
    assert Poisson().mean(x).tolist() == pytest.approx([-1, 0.4, 1])
