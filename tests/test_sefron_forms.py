"""MC-SEFRON as a classifier that can be attacked: its logits decide as its spikes do, its gradients have their sign."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_sefron import RNG, blobs, built, taught
from torch import Tensor

from robassay.estimators import Backprop, Ruled
from robassay.nets.sefron import MCSefron, SefronClassifier, crossings
from robassay.nets.spike_times import encode, firing_times
from robassay.rules import StraightThrough
from robassay.testing import check_classifier
from robassay.threat import Goal

FORMS = ("latch", "crossing", "margin")


def shown(model: SefronClassifier, form: str, tie: str = "lowest") -> SefronClassifier:
    """The same weights with logits of another form."""
    net = replace(model.net, form=form, tie=tie)  # type: ignore[arg-type]
    other = SefronClassifier(net, model.state.shape[1] // net.fields, model.classes - 1)
    other.load_state_dict(model.state_dict())
    return other


@pytest.fixture(scope="module")
def model() -> SefronClassifier:
    return taught(MCSefron(rate=0.5), *blobs(60), passes=2)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Images between classes, so that some tie and some silence every neuron."""
    return torch.rand(600, 1, 1, 6, generator=RNG.child("images").generator())


def pull(model: SefronClassifier, x: Tensor, c: int) -> Tensor:
    """d logit_c / dx."""
    image = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(image)[:, c].sum(), image)
    return gradient.flatten(1)


# ----------------------------------------------------------------------------------------------------------- decisions


def test_logits_of_the_latch_are_400_less_the_firing_time(model: SefronClassifier, images: Tensor) -> None:
    fired = firing_times(model.potentials(images), model.threshold)
    logits = shown(model, "latch")(images)
    assert torch.equal(logits[:, :3], 400.0 - fired)
    assert (logits[:, 3] == 1.5).all()
    latched = shown(model, "latch")._latched(model.potentials(images))
    assert torch.equal(latched, 399.0 - fired.double())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tie", ["lowest", "interpolate"])
def test_every_form_decides_as_the_first_spike(model: SefronClassifier, images: Tensor, form: str, tie: str) -> None:
    values = model.potentials(images)
    fired = firing_times(values, model.threshold)
    times = fired.tolist() if tie == "lowest" else crossings(values, fired, model.threshold).tolist()
    expected = [3 if min(row) == 399 else row.index(min(row)) for row in times]
    assert sum(row.count(min(row)) > 1 for row in fired.tolist()) > 5 and expected.count(3) > 5
    assert shown(model, form, tie)(images).argmax(1).tolist() == expected


def test_interpolation_decides_ties_by_the_crossing() -> None:
    values = torch.zeros(1, 2, 401, dtype=torch.float64)
    values[0, 0, 100:], values[0, 1, 100:] = 1.1, 2.0
    values[0, 0, 99], values[0, 1, 99] = 0.0, 0.5
    threshold = torch.ones(2, dtype=torch.float64)
    fired = firing_times(values, threshold)
    assert fired.tolist() == [[100, 100]]
    assert crossings(values, fired, threshold)[0].tolist() == pytest.approx([99 + 1 / 1.1, 99 + 1 / 3])


def test_potential_at_the_threshold_does_not_fire() -> None:
    values = torch.ones(1, 1, 401, dtype=torch.float64)
    values[0, 0, 300] = 1.0 + 1e-12
    assert firing_times(values, torch.ones(1, dtype=torch.float64)).tolist() == [[300]]
    values[0, 0, 300], values[0, 0, 400] = 1.0, 2.0  # the last steps are silence
    assert firing_times(values, torch.ones(1, dtype=torch.float64)).tolist() == [[399]]


def test_an_image_on_which_all_are_silent_is_an_error_and_a_success_of_the_attack(model: SefronClassifier) -> None:
    untrained = built(MCSefron(), (1, 1, 6), 3)
    decision = untrained(torch.rand(4, 1, 1, 6)).argmax(1)
    labels = torch.tensor([0, 1, 2, 0])
    assert (decision == 3).all() and not (decision == labels).any()
    assert Goal(labels).reached(decision).all()


# ----------------------------------------------------------------------------------------------------------- gradients


def smooth(model: SefronClassifier, firsts: Tensor, x: Tensor) -> Tensor:
    """V (B, C, 401) of a network right after its start, without rounding, weights continuous in time."""
    begun = model.times(firsts).double()
    from robassay.nets.spike_times import contribution, response

    share = contribution(begun, 200)
    times = encode(x.flatten(1), model.net.fields)
    kernel = (-((times[:, None] - 1 - begun) ** 2) / (2 * 55.0**2)).exp()
    return torch.einsum("bcn,bnt->bct", share * kernel, response(torch.arange(401) - times[..., None]))


def test_gradient_of_the_potential_is_that_of_the_smooth_network() -> None:
    """Central differences of a sum over classes and time, on a function that knows neither rounding nor slots."""
    features, labels = blobs(3)
    model = taught(MCSefron(), features, labels, passes=0)
    x = 0.1 + 0.8 * torch.rand(20, 6, generator=RNG.child("x").generator(), dtype=torch.float64)
    mix = torch.randn(3, 401, generator=RNG.child("mix").generator(), dtype=torch.float64).cumsum(1)
    image = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((model.potentials(image) * mix).sum(), image)
    step, expected = 1e-4, torch.zeros_like(x)
    for i in range(6):
        ends = [(smooth(model, features, x + s * step * torch.eye(6)[i].double()) * mix).sum((1, 2)) for s in (1, -1)]
        expected[:, i] = (ends[0] - ends[1]) / (2 * step)
    near = torch.nn.functional.cosine_similarity(found, expected)
    assert near.min() > 0.99
    assert (found.norm() / expected.norm()).item() == pytest.approx(1, abs=0.05)


def test_crossing_gradient_is_minus_slope_over_slope(model: SefronClassifier, images: Tensor) -> None:
    values = model.potentials(images)
    fired = firing_times(values, model.threshold)
    x = images[fired[:, 0] < 399][:30]
    image = x.clone().requires_grad_()
    at = firing_times(model.potentials(x), model.threshold)[:, 0]
    v = model.potentials(image)[torch.arange(len(x)), 0]
    here = v.gather(1, at[:, None])[:, 0]
    rise = (here - v.gather(1, at[:, None] - 1)[:, 0]).detach()
    (by_potential,) = torch.autograd.grad(here.sum(), image)
    # The logit falls with the firing time, which falls with the potential.
    expected = by_potential.flatten(1) / rise[:, None]
    assert (rise > 0).all() and expected.abs().max() > 1
    assert torch.allclose(pull(shown(model, "crossing"), x, 0), expected.float(), rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_step_along_the_gradient_makes_the_neuron_fire_earlier(
    model: SefronClassifier, images: Tensor, form: str
) -> None:
    """Measured on the firing times themselves. A wrong sign would look like robustness."""
    fired = firing_times(model.potentials(images), model.threshold)
    x = images[(fired[:, 1] < 399) & (fired[:, 1] == fired.amin(1))][:40]
    gradient = pull(shown(model, form), x, 1)
    step = 0.02 * (gradient.sign() if form == "crossing" else torch.nn.functional.normalize(gradient))
    up, down = ((x.flatten(1) + s * step).clamp(0, 1).reshape_as(x) for s in (1, -1))
    earlier = [firing_times(model.potentials(v), model.threshold)[:, 1] for v in (up, down)]
    share = 0.6 if form == "latch" else 0.9  # the sum over all times is no exact gradient of the first
    assert len(x) == 40 and (gradient.norm(dim=1) > 0).all()
    assert (earlier[0] < earlier[1]).double().mean() > share


def test_latch_passes_one_half_at_every_step_that_its_maximum_takes() -> None:
    model = shown(taught(MCSefron(), *blobs(3), passes=0), "latch")
    model.threshold.fill_(1.0)
    values = torch.zeros(1, 3, 401, dtype=torch.float64)
    values[0, 1, 100:103] = 2.0
    values.requires_grad_()
    total = model._latched(values)
    (gradient,) = torch.autograd.grad(total.sum(), values)
    assert total.tolist() == [[0, 299, 0]]
    assert gradient[0, 0, :399].tolist() == [0.5] * 399 and gradient[0, 0, 399:].tolist() == [0, 0]
    # After the last spike the maximum stays where it was: 399 − 102 steps lean on it.
    assert gradient[0, 1, :102].tolist() == [0.5] * 102 and gradient[0, 1, 102] == 0.5 * (399 - 102)
    assert gradient[0, 1, 103:].abs().max() == 0


def test_the_attackers_rule_reaches_the_latch(model: SefronClassifier, images: Tensor) -> None:
    goal, latch = Goal(torch.zeros(600, dtype=torch.int64)), shown(model, "latch")
    own = Backprop()(latch, images, goal.margin, RNG).gradient
    twice = Ruled(StraightThrough(), Backprop())(latch, images, goal.margin, RNG).gradient
    assert own.any() and torch.allclose(twice, 2 * own)


def test_silent_neurons_are_a_trap() -> None:
    """Right after the start most neurons are silent: flat logits. Only the margin still says how far they are."""
    features, labels = blobs(120)
    model = taught(MCSefron(), features[:3], labels[:3], passes=0)
    x = features[:, None, None].float()
    fired = firing_times(model.potentials(x), model.threshold)
    dumb = x[(fired == 399).all(1)]
    assert len(dumb) > 20
    for form in ("latch", "crossing"):
        assert (shown(model, form)(dumb)[:, :3] == 1).all()
    assert all((pull(shown(model, "crossing"), dumb, c) == 0).all() for c in range(3))
    margins, values = shown(model, "margin")(dumb), model.potentials(dumb)
    assert (margins[:, :3] <= 0).all() and margins[:, :3].unique().numel() > 3 * len(dumb) * 0.9
    relative = 100 * (values[..., :399].amax(-1) / model.threshold - 1).float()
    assert torch.allclose(margins[:, :3], relative, atol=1e-4)
    assert torch.allclose(margins[:, 3], -relative.amax(1), atol=1e-4)
    for c in range(3):
        gradient = pull(shown(model, "margin"), dumb, c)
        assert (gradient.norm(dim=1) > 0).all()
        ahead = (dumb.flatten(1) + 1e-2 * torch.nn.functional.normalize(gradient)).clamp(0, 1)
        assert (shown(model, "margin")(ahead.reshape_as(dumb))[:, c] > margins[:, c]).double().mean() > 0.9


def test_margins_are_those_up_to_the_first_spike(model: SefronClassifier, images: Tensor) -> None:
    values = model.potentials(images[:100])
    first = firing_times(values, model.threshold).amin(1).clamp_max(398)
    logits = shown(model, "margin")(images[:100])
    for v, t, row in zip(values, first.tolist(), logits, strict=True):
        expected = 100 * (v[:, : t + 1].amax(1) / model.threshold - 1).float()
        one = expected > 0  # several neurons fire at one step: only the winner's is its own
        keep = ~one if int(one.sum()) > 1 else torch.ones_like(one)
        assert torch.allclose(row[:3][keep], expected[keep], atol=1e-4)


def test_silence_competes_in_the_margin_form(model: SefronClassifier, images: Tensor) -> None:
    """Its logit is how far the loudest neuron must be lowered, not a constant: that would hide the other classes."""
    values = model.potentials(images)
    peak = 100 * (values[..., :399].amax(-1) / model.threshold - 1).amax(1)
    logits = shown(model, "margin")(images)
    assert torch.allclose(logits[:, 3], -peak.float(), atol=1e-4)
    rivals = logits[peak > 1].topk(2, 1).indices[:, 1]
    assert 0.25 < (rivals == 3).double().mean() < 0.75  # a constant of 0 or more would always be the second


# ---------------------------------------------------------------------------------------------------------------- exam


@pytest.mark.parametrize("form", FORMS)
def test_it_keeps_the_contract(model: SefronClassifier, images: Tensor, form: str) -> None:
    results = check_classifier(shown(model, form), images[:8])
    assert all(r.ok for r in results) and not any("blind" in r.detail for r in results)


def test_an_untrained_network_keeps_the_contract() -> None:
    for form in FORMS:
        check_classifier(built(MCSefron(form=form), (1, 8, 8), 10), torch.rand(4, 1, 8, 8))  # type: ignore[arg-type]


def test_a_batch_gives_each_image_its_bits(model: SefronClassifier, images: Tensor) -> None:
    for form in FORMS:
        other = shown(model, form)
        whole_batch = other(images[:70])
        assert torch.equal(whole_batch, other(images[:70]))
        assert torch.equal(whole_batch, torch.cat([other(x) for x in images[:70].split(1)]))
    assert other(images[:0]).shape == (0, 4)
