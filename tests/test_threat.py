"""Threats and goals: projections, sizes, losses and their signs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from robassay.errors import UsageError
from robassay.threat import REJECT, TOLERANCE, Goal, Threat

LOSSES = ("ce", "scaled_ce", "margin", "dlr")
BALLS = st.one_of(
    st.builds(Threat, st.just("linf"), st.floats(0, 1.5)),
    st.builds(Threat, st.just("l2"), st.floats(0, 8)),
    st.builds(Threat, st.just("l0"), st.integers(0, 12).map(float)),
)


def images(seed: int, shape: tuple[int, ...] = (4, 2, 3, 3)) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean images with some pixels at the ends of the box, and wild candidates."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(shape, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    return x, x + torch.randn(shape, generator=generator) * 10 ** (seed % 5 - 3)


# ----------------------------------------------------------------------------------------------------------- threats


@settings(max_examples=150, deadline=None)
@given(BALLS, st.integers(0, 10_000))
def test_a_projection_is_inside_and_stays(threat, seed):
    x, wild = images(seed)
    inside = threat.project(wild, x)
    assert threat.holds(inside, x).all()
    assert (threat.size(inside, x) <= threat.eps + TOLERANCE).all()
    assert inside.min() >= 0 and inside.max() <= 1
    again = threat.project(inside, x)
    assert (again - inside).abs().max() <= TOLERANCE
    assert torch.equal(threat.project(x, x), x)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 1.0), st.integers(0, 1000))
def test_the_linf_projection_is_the_nearest_image(eps, seed):
    x, wild = images(seed)
    threat = Threat("linf", eps)
    inside = threat.project(wild, x)
    other = threat.project(x + eps * (2 * torch.rand(x.shape) - 1), x)
    assert ((inside - wild).abs() <= (other - wild).abs() + 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 4.0), st.integers(0, 1000))
def test_the_l2_projection_shrinks_along_the_line_and_no_more_than_needed(eps, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((3, 2, 3, 3), 0.5)
    wild = x + torch.randn(x.shape, generator=generator)
    free = Threat("l2", eps, box=(-99.0, 99.0)).project(wild, x)
    length = (wild - x).flatten(1).norm(dim=1)
    expected = x + (wild - x) * (eps / length).clamp_max(1).reshape(-1, 1, 1, 1)
    assert torch.allclose(free, expected, atol=1e-5)
    boxed = Threat("l2", eps).project(wild, x)
    assert torch.allclose(boxed, expected.clamp(0, 1), atol=1e-5)


def test_the_l0_projection_is_the_nearest_of_all_choices_of_pixels():
    for seed, kept in itertools.product(range(12), (0, 1, 2, 4)):
        x, wild = images(seed, (1, 2, 2, 3))
        inside = Threat("l0", kept).project(wild, x)
        target = wild.clamp(0, 1)
        best = math.inf
        for chosen in itertools.combinations(range(6), kept):
            mask = torch.zeros(6)
            mask[list(chosen)] = 1
            candidate = x + (target - x) * mask.reshape(1, 1, 2, 3)
            best = min(best, (candidate - target).abs().sum().item())
        assert (inside - target).abs().sum().item() <= best + 1e-5
        assert Threat("l0").size(inside, x).item() <= kept


def test_l0_keeps_a_change_that_the_box_lets_stand():
    x = torch.tensor([0.99, 0.5]).reshape(1, 1, 1, 2)
    wild = torch.tensor([5.0, 0.9]).reshape(1, 1, 1, 2)  # clipped, the first changes by .01
    assert Threat("l0", 1).project(wild, x).flatten().tolist() == pytest.approx([0.99, 0.9])


def test_sizes():
    x = torch.zeros(2, 3, 2, 2)
    x_adv = x.clone()
    x_adv[0, 0, 0, 0], x_adv[0, 1, 0, 0], x_adv[0, 2, 1, 1] = 0.3, -0.4, 0.5
    assert Threat("linf").size(x_adv, x).tolist() == pytest.approx([0.5, 0])
    assert Threat("l2").size(x_adv, x).tolist() == pytest.approx([0.5**0.5, 0])
    assert Threat("l0").size(x_adv, x).tolist() == [2, 0]  # positions, not values


@pytest.mark.parametrize("eps", [1.0, 3.0, 10.0])
def test_an_l2_projection_of_a_large_image_holds(eps):
    """Summed in float32 the norm of 150,528 pixels is wrong by more than the tolerance."""
    x = torch.full((4, 3, 224, 224), 0.5)
    wild = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * eps / 100
    inside = Threat("l2", eps).project(wild, x)
    assert Threat("l2", eps).holds(inside, x).all()
    assert (Threat("l2").size(inside, x) > 0.999 * eps).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l0"])
def test_holds_is_strict(norm):
    x = torch.full((1, 1, 2, 2), 0.5)
    for x_adv, expected in ((x + 0.1, True), (x + 0.6, False), (x - 0.6, False), (x * float("nan"), False)):
        assert Threat(norm, 9.0).holds(x_adv, x).item() is expected
        assert Threat(norm).holds(x_adv, x).item() is expected
    beyond = {"linf": x + 0.100003, "l2": x + 0.050002, "l0": x + 0.1}[norm]
    assert not Threat(norm, 3.0 if norm == "l0" else 0.1).holds(beyond, x).item()
    partly = torch.full((1, 1, 2, 2), 0.5)
    partly[0, 0, 0, 0] = float("nan")
    assert not Threat(norm, 9.0).holds(partly, x).item()


@pytest.mark.parametrize("norm", ["linf", "l2", "l0"])
def test_an_infinite_radius_leaves_the_box(norm):
    x, wild = images(3)
    assert torch.allclose(Threat(norm, math.inf).project(wild, x), wild.clamp(0, 1), atol=1e-6)
    assert torch.equal(Threat(norm).project(wild, x), wild.clamp(0, 1))


def test_impossible_threats_are_refused():
    for arguments in (
        {"eps": -0.1},
        {"eps": math.nan},
        {"norm": "l1"},
        {"box": (1.0, 0.0)},
        {"box": (0.0, 0.0)},
        {"box": (0.0, math.nan)},
    ):
        with pytest.raises(UsageError, match="Write"):
            Threat(**arguments)


# ------------------------------------------------------------------------------------------------------------- goals


def some_logits(seed: int = 0, classes: int = 5, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 16, classes, generator=generator) * scale, torch.arange(16) % classes


@pytest.mark.parametrize("targeted", [False, True])
def test_reached(targeted):
    goal = Goal(torch.tensor([0, 1, 2, 1]), targeted)
    decisions = torch.tensor([[0, 2, REJECT, 1], [1, 1, 2, REJECT]])
    wanted = torch.tensor([[True, False, False, True], [False, True, True, False]])
    left = torch.tensor([[False, True, False, False], [True, False, False, False]])
    assert torch.equal(goal.reached(decisions), wanted if targeted else left)


def test_the_goal_of_some_rows_keeps_everything_else():
    goal = Goal(torch.tensor([4, 5, 6]), targeted=True, kappa=2.5)[torch.tensor([2, 0])]
    assert goal.labels.tolist() == [6, 4] and goal.targeted and goal.kappa == 2.5


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.integers(2, 6))
def test_a_positive_margin_is_a_reached_goal(seed, targeted, classes):
    logits, labels = some_logits(seed, classes)
    goal = Goal(labels, targeted)
    assert torch.equal(goal.margin(logits) > 0, goal.reached(logits.argmax(-1)))
    if classes >= 4:
        assert torch.equal(goal.dlr(logits) > 0, goal.margin(logits) > 0)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_larger_loss_is_closer_to_the_goal(name, targeted):
    """The sign convention: a step along any loss's gradient raises the margin, and the label's logit goes its way."""
    logits, labels = some_logits()
    goal = Goal(labels, targeted)
    leaf = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(goal.loss(name)(leaf).sum(), leaf)
    before = goal.margin(logits.detach())
    moved = goal.margin(logits.detach() + 1e-2 * gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-9))
    # DLR divides by a gap that has a gradient of its own; it is flat where the label is third, and its sign is only
    # sure next to the decision boundary.
    rank = (logits.detach() > logits.detach().gather(-1, labels.expand(3, 16)[..., None])).sum(-1)
    asked = rank < 2 if name == "dlr" else rank >= 0
    assert asked.sum() > 10 and (moved > before)[asked].all()
    of_label = gradient.gather(-1, labels.expand(3, 16)[..., None])[..., 0][asked]
    assert ((of_label > 0) == targeted).all()


@pytest.mark.parametrize("targeted", [False, True])
def test_cross_entropy_and_margin_by_formula(targeted):
    logits, labels = some_logits()
    goal, sign = Goal(labels, targeted), -1 if targeted else 1
    for draw, found in zip(logits, goal.cross_entropy(logits), strict=True):
        assert torch.allclose(found, sign * F.cross_entropy(draw, labels, reduction="none"))
    for n, b in itertools.product(range(3), range(16)):
        z = logits[n, b].tolist()
        other = max(v for i, v in enumerate(z) if i != labels[b])
        assert goal.margin(logits)[n, b].item() == pytest.approx(sign * (other - z[labels[b]]), abs=1e-6)


def test_dlr_by_formula():
    """Croce and Hein 2020: eq. 6 as printed, and eq. 7 where their true class is the model's first choice."""
    logits, labels = some_logits()
    untargeted, targeted = Goal(labels).dlr(logits), Goal(labels, True).dlr(logits)
    for n, b in itertools.product(range(3), range(16)):
        z, y = logits[n, b].tolist(), int(labels[b])
        first, _, third, fourth = sorted(z, reverse=True)[:4]
        eq6 = -(z[y] - max(v for i, v in enumerate(z) if i != y)) / (first - third)
        assert untargeted[n, b].item() == pytest.approx(eq6, rel=1e-4)
        if z[y] < first:
            eq7 = -(first - z[y]) / (first - (third + fourth) / 2)
            assert targeted[n, b].item() == pytest.approx(eq7, rel=1e-4)
        else:
            assert targeted[n, b] > 0


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["scaled_ce", "dlr"])
def test_scale_free_losses_ignore_scale_and_shift(name, targeted):
    logits, labels = some_logits()
    loss = Goal(labels, targeted).loss(name)
    assert torch.allclose(loss(logits * 100), loss(logits), atol=1e-5)
    assert torch.allclose(loss(logits + 50), loss(logits), atol=1e-4)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["ce", "margin"])
def test_all_losses_ignore_a_shift(name, targeted):
    logits, labels = some_logits()
    loss = Goal(labels, targeted).loss(name)
    assert torch.allclose(loss(logits + 50), loss(logits), atol=2e-5)
    assert not torch.allclose(loss(logits * 100), loss(logits), atol=1e-2)


def test_a_saturated_softmax_blinds_cross_entropy_alone():
    z = torch.tensor([[400.0, 100.0, -50.0, 0.0]], requires_grad=True)
    size = {}
    for name in LOSSES:
        (gradient,) = torch.autograd.grad(Goal(torch.tensor([0])).loss(name)(z).sum(), z)
        size[name] = gradient.abs().max().item()
    assert size["ce"] == 0
    assert min(size[name] for name in LOSSES if name != "ce") > 1e-3


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["scaled_ce", "dlr"])
def test_a_draw_of_equal_logits_does_not_outweigh_the_others(name, targeted):
    """A spiking network without a spike answers (0, …, 0); its gradient must not be 10¹² times the others'."""
    z = torch.stack([torch.zeros(1, 5), torch.tensor([[1.0, 2.0, 0.5, -1.0, 3.0]])]).requires_grad_()
    (gradient,) = torch.autograd.grad(Goal(torch.tensor([1]), targeted).loss(name)(z).sum(), z)
    assert gradient.isfinite().all()
    assert gradient[0].norm() < 20 * gradient[1].norm()


def test_impossible_losses_are_refused():
    goal = Goal(torch.tensor([0]))
    with pytest.raises(UsageError, match="ce, scaled_ce, margin, dlr"):
        goal.loss("hinge")
    with pytest.raises(UsageError, match="Use 'margin'"):
        goal.dlr(torch.randn(1, 2))
    with pytest.raises(UsageError, match="4 classes"):
        Goal(torch.tensor([0]), targeted=True).dlr(torch.randn(1, 3))
