"""Cutting a user's module where its noise begins: found where it is right, refused where it is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robassay.classifier import Wrapped
from robassay.errors import RobassayError, UsageError
from robassay.estimators import Backprop
from robassay.probe import as_classifier, cut_of, probe
from robassay.rng import Stream
from robassay.threat import Goal

X = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(3))


class Noise(nn.Module):
    def forward(self, h):
        return h + 0.3 * torch.randn_like(h)


class Counted(nn.Conv2d):
    """A convolution that counts how often it is really computed."""

    ran = 0

    def forward(self, x):
        Counted.ran += 1
        return super().forward(x)


class Functional(nn.Module):
    """The usual way to write one: layers as attributes, everything else as functions; ``twist`` says what is odd."""

    def __init__(self, twist: str = "") -> None:
        super().__init__()
        self.conv1, self.conv2 = Counted(1, 3, 3), nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.fc1, self.fc2 = nn.Linear(16, 12), nn.Linear(12, 5)
        self.twist = twist

    def forward(self, x):
        early = torch.randn(len(x), 5) if self.twist == "drawn first" else 0
        if self.twist == "noisy input":
            x = x + 0.1 * torch.randn_like(x)
        h = self.relu(self.conv1(x))
        h = F.max_pool2d(self.relu(self.conv2(h)), 2)
        h = torch.cat([h.flatten(1)], 1)
        if self.twist == "noisy middle":
            h = h + 0.3 * torch.randn_like(h)
        h = self.fc1(h)
        z = self.fc2(F.dropout(self.relu(h), 0.5) if self.twist != "drawn first" else h) + early
        if self.twist == "skip":
            z = z + x.mean((1, 2, 3))[:, None]
        if self.twist == "gate":
            z = torch.where(x.mean((1, 2, 3)) > 0.5, 1.0, -1.0)[:, None] * z
        if self.twist == "remembered":
            z = z * self.conv2.weight.sum() + F.conv2d(x, self.conv1.weight).mean((1, 2, 3))[:, None]
        return z


class Residual(nn.Module):
    """x + body(x): nothing but the whole block has everything passing through it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


def hooked() -> nn.Module:
    """Noise in a forward hook of a layer: it belongs to what comes after the layer."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 5))
    net[0].register_forward_hook(lambda module, given, output: output + 0.1 * torch.randn_like(output))
    return net


def nested() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), Residual(nn.Conv2d(3, 3, 3, padding=1)))
    return nn.Sequential(body, nn.Sequential(nn.Flatten(), nn.Linear(108, 9), Noise(), nn.Linear(9, 5)))


MODULES = {
    "chain": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), Noise(), nn.Flatten(), nn.Linear(108, 5)),
        "1",
    ),
    "dropout left on": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.AlphaDropout(0.3), nn.Linear(9, 5)),
        "1",
    ),
    "nested": (nested, "1.1"),
    "hook": (hooked, "0"),
    "functional": (Functional, "relu"),
    "functional, drawn first": (lambda: Functional("drawn first"), "fc2"),
    "functional, noisy middle": (lambda: Functional("noisy middle"), "relu"),
    "noise in a residual block": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), Residual(Noise()), nn.Flatten(), nn.Linear(72, 5)),
        "0",
    ),
    "precise": (lambda: Functional().double(), "relu"),
}


def made(build) -> tuple[nn.Module, Wrapped]:
    """A module with dropout on, and what is found of it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build().eval()
    for child in module.modules():
        if isinstance(child, nn.AlphaDropout):
            child.train()
            child.train = lambda mode=True, child=child: child  # eval mode does not reach it
    found = probe(module, X)
    return module, as_classifier(module, found, X)


@pytest.mark.parametrize("name", list(MODULES))
def test_the_cut_is_found_and_changes_neither_logits_nor_gradient(name):
    build, where = MODULES[name]
    module, model = made(build)
    assert model.stochastic and model.cut is not None and model.cut.name == where
    whole = Wrapped(module, 5, stochastic=True, rows=model.rows)
    images = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    for draws in (3, 20):
        rng, goal = Stream(("here",)), Goal(torch.arange(7) % 5)
        # Draws are folded by the size of the features, so that folding has to be off to compare draw by draw.
        model.rows = whole.rows = "shared"
        found = [Backprop(draws)(m, images, goal.cross_entropy, rng) for m in (model, whole)]
        assert torch.allclose(found[0].logits, found[1].logits, rtol=1e-5, atol=1e-6)
        size = float(found[1].gradient.abs().max())
        assert size > 0 and float((found[0].gradient - found[1].gradient).abs().max()) <= 1e-5 * size
        assert float((found[0].logits[0] - found[0].logits[1]).abs().max()) > 1e-3  # draws are draws


def test_one_row_stands_for_all_only_where_nothing_is_asked_of_the_others():
    """Noise that is drawn for every image before the layers must not be drawn once for all of them."""
    assert made(Functional)[1].cut.thin
    _, model = made(lambda: Functional("drawn first"))
    assert not model.cut.thin
    logits = model.draw(model.prefix(X[:1].expand(2, -1, -1, -1)))
    assert float((logits[0] - logits[1]).detach().abs().max()) > 1e-2


@pytest.mark.parametrize("twist", ["noisy input", "skip", "gate", "remembered"])
def test_no_cut_where_the_image_reaches_the_end_in_another_way(twist):
    module, model = made(lambda: Functional(twist))
    assert model.stochastic and model.cut is None and model.prefix(X) is X
    with pytest.raises(UsageError, match="split='fc1'"):
        probe(module, X, "fc1")


def test_what_comes_before_the_cut_is_computed_once():
    _, model = made(Functional)
    Counted.ran = 0
    Backprop(50)(model, X, Goal(torch.zeros(8, dtype=torch.int64)).margin, Stream(("count",)))
    assert Counted.ran == 1


def test_an_operation_in_place_after_the_cut_leaves_the_features_alone():
    _, model = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(inplace=True), Noise()))
    assert model.cut is not None
    features = model.prefix(X)
    before = features.clone()
    model.draw(features)
    assert torch.equal(features, before)


def test_a_module_that_takes_another_way_for_other_images_is_told_so():
    """A mark that no probing image has makes it call a layer once more, in the part that is computed once."""

    class Branching(Functional):
        def forward(self, x):
            return super().forward(self.relu(x) if bool((x[:, 0, 0, 0] == 0.123).any()) else x)

    _, model = made(Branching)
    assert model.cut is not None and model.cut.name == "relu"
    marked = X.clone()
    marked[3, 0, 0, 0] = 0.123
    for images in (X, X[:3]):
        model.draw(model.prefix(images))
    with pytest.raises(RobassayError, match="--split none"):
        model.draw(model.prefix(marked))


def test_a_module_without_noise_or_with_state_is_not_cut():
    class Stateful(nn.Sequential):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) + self.calls

    for module in (nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), Stateful(nn.Flatten(), nn.Linear(64, 5))):
        assert probe(module, X).split == 0
    with pytest.raises(UsageError, match="keeps state"):
        probe(Stateful(nn.Flatten(), nn.Linear(64, 5)), X, "1")


def test_a_named_cut_is_checked_like_a_found_one():
    module, _ = made(nested)
    for name in ("0", "0.0", "0.2", "1.0", "1.1"):
        found = probe(module, X, name)
        assert cut_of(module, found, X).name == name
    for name, word in (
        ("1.2", "noise is in or before '1.2'"),
        ("1", "noise is in or before '1.2'"),
        ("0.2.body", "not everything passes through it"),
        ("features", "no submodule of that name"),
    ):
        with pytest.raises(UsageError, match=word):
            probe(module, X, name)
    assert probe(module, X, "none").split == 0
    functional, _ = made(Functional)
    with pytest.raises(UsageError, match="calls it 3 times"):
        probe(functional, X, "relu")
    assert cut_of(functional, probe(functional, X, "fc1"), X).name == "fc1"


def test_a_step_with_a_gradient_of_its_own_keeps_it_across_the_cut():
    """A straight-through sign before the noise: the features' gradient is the image's, times the weights."""

    class Sign(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sign()

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 5, bias=False)

        def forward(self, x):
            return self.fc(Sign.apply(x.flatten(1) - 0.5)) + torch.randn(len(x), 5)

    module, model = made(Net)
    assert model.cut is not None and model.cut.name == "fc"
    image = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(image)[:, 1].sum(), image)
    assert torch.allclose(gradient.flatten(1), 2 * module.fc.weight[1].expand(8, -1), atol=1e-6)
