"""Binary stochastic networks: sizes, slopes, the deterministic variant, and what averaging draws brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robassay import checkpoint
from robassay.classifier import Classifier, Net
from robassay.data import Images, find, pixels
from robassay.errors import UsageError
from robassay.nets.bsn import BSN, BSN4, BSNL, GeometricSlope, Likelier, LinearSlope
from robassay.nets.ops import hard_sigmoid
from robassay.registry import named
from robassay.rng import Stream
from robassay.testing import check_classifier
from robassay.training import Recipe, restore, train

GREY, COLOUR = (1, 28, 28), (3, 32, 32)


def built(net: Net, shape: tuple[int, int, int] = GREY, classes: int = 10) -> Classifier:
    with Stream(("test", "init")).active():
        return net.build(shape, classes).eval()


def images(n: int, shape: tuple[int, int, int] = GREY) -> Tensor:
    return torch.rand(n, *shape, generator=Stream(("test", "images")).generator())


def coin(a: Tensor, slope: float = 1.0) -> Tensor:
    return (torch.rand_like(a) < ((slope * a).clamp(-1, 1) + 1) / 2).float()


# -------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("net", "shape", "classes", "count"),
    [
        (BSN4(), GREY, 10, 793_610),
        (BSN4(), COLOUR, 10, 7_722_860),
        (BSN4(), COLOUR, 2, 7_722_860 - 8 * 101),
        (BSN4(hidden=(20,)), (1, 8, 8), 10, 64 * 20 + 20 + 210),
        (BSNL(), GREY, 10, 61_706),  # LeNet: 156 + 2,416 + 48,120 + 10,164 + 850
        (BSNL(), COLOUR, 10, 62_006),
    ],
)
def test_parameter_counts(net: Net, shape: tuple[int, int, int], classes: int, count: int) -> None:
    assert sum(p.numel() for p in built(net, shape, classes).parameters()) == count


@pytest.mark.parametrize("shape", [GREY, (1, 32, 32), COLOUR])
def test_bsn_l_is_lenet_with_coins(shape: tuple[int, int, int]) -> None:
    model, x = built(BSNL(), shape), images(6, shape)
    w = [p.detach() for p in model.parameters()]
    with torch.no_grad(), Stream(("forward",)).active():
        found = model(x)
    with Stream(("forward",)).active():
        h = F.max_pool2d(coin(F.conv2d(x, w[0], w[1], padding=2 if shape[1] == 28 else 0)), 2)
        h = F.max_pool2d(coin(F.conv2d(h, w[2], w[3])), 2).flatten(1)
        expected = F.linear(coin(F.linear(coin(F.linear(h, w[4], w[5])), w[6], w[7])), w[8], w[9])
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_maximum_of_coins_passes_the_gradient_to_the_first_head() -> None:
    model = built(BSNL())
    coins = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).reshape(1, 1, 2, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(model.trunk[2](coins).sum(), coins)  # type: ignore[index, operator]
    assert gradient.flatten().tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 32), (3, 96, 96)])
def test_bsn_l_refuses_other_sizes(shape: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match=r"28 × 28 or 32 × 32"):
        BSNL().build(shape, 10)


# ------------------------------------------------------------------------------------------------------------- slopes


def test_slopes_of_the_schedules() -> None:
    geometric, linear = GeometricSlope(), LinearSlope()
    assert [geometric.at(1.0, e) for e in (0, 1, 2)] == pytest.approx([1, 1.005, 1.010025])
    assert geometric.at(1.0, 99) == pytest.approx(1.005**99) and geometric.at(2.0, 1) == pytest.approx(2.01)
    assert [linear.at(1.0, e) for e in (0, 1, 100, 101, 500)] == pytest.approx([1, 1.04, 5, 5, 5])
    assert linear.at(6.0, 3) == 6


@pytest.mark.parametrize(("net", "last"), [(BSN((20,)), 1.0), (BSN4((20,)), 1.005**2), (BSN((9,), 2.0), 2.0)])
def test_an_epoch_sets_its_own_slope_whatever_came_before(net: Net, last: float) -> None:
    model = built(net)
    for epoch in (7, 0, 2):
        model.begin_epoch(epoch)
    assert float(model.slope) == pytest.approx(last)  # type: ignore[arg-type]


def test_the_slope_of_the_kept_epoch_is_restored(tmp_path: Path) -> None:
    data = find("digits")
    some, val = data.split("train"), data.split("val")
    some = Images(some.x[:60], some.y[:60])
    net = BSN((12,), slope_schedule=LinearSlope(0.5, 3.0))
    arrays = train(net, data.shape, 10, some, val, Recipe(epochs=4), Stream(("s",)), tmp_path, lambda d, t: None)
    model, epoch = restore(net, data.shape, 10, arrays), int(arrays["history/epoch"])
    assert float(model.slope) == 1 + 0.5 * epoch  # type: ignore[arg-type]
    assert float((checkpoint.load(tmp_path) or {})["model"]["slope"]) == 2.5
    x = pixels(val.x[:8])
    w = [p.detach() for p in model.parameters()]
    with Stream(("draw",)).active():
        found = model(x)
    with Stream(("draw",)).active():
        z = coin(F.linear(x.flatten(1), w[0], w[1]), 1 + 0.5 * epoch)
    assert torch.allclose(found, F.linear(z, w[2], w[3]), atol=1e-5)


# ------------------------------------------------------------------------------------------------- coins and no coins


@pytest.mark.parametrize("net", [BSN((30,), deterministic=True), BSN4((30, 20), deterministic=True)])
def test_the_deterministic_variant_rounds_the_probability(net: Net) -> None:
    model, h = built(net, (1, 8, 8)), torch.tensor([-3.0, -0.4, 0.0, 0.4, 3.0])[:, None].expand(5, 30).contiguous()
    a = h
    for layer in model.layers[1:]:  # type: ignore[index, union-attr]
        a = layer((((1.0 * a).clamp(-1, 1) + 1) / 2).round())
    assert not model.stochastic
    assert torch.equal(model.draw(h), a) and torch.equal(model.quiet(h), a)


def test_the_likelier_value_of_a_coin() -> None:
    x = torch.tensor([-2.0, -1e-4, 0.0, 1e-4, 0.6, 2.0], requires_grad=True)
    z = Likelier()(x)
    assert z.tolist() == hard_sigmoid(x).round().tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.autograd.grad(z.sum(), x)[0].tolist() == [0, 0.5, 0.5, 0.5, 0.5, 0]


def test_both_variants_have_the_same_backward_pass() -> None:
    a = torch.arange(-2, 2.1, 0.5)
    found = []
    for deterministic in (False, True):
        model = built(BSN((9,), slope=1.5, deterministic=deterministic), classes=2)
        with torch.no_grad():
            model.layers[1].weight.fill_(1.0)  # type: ignore[index, union-attr]
        h = a.clone()[None].requires_grad_()
        found.append(torch.autograd.grad(model.draw(h)[:, 0].sum(), h)[0][0])
    expected = torch.where(a.abs() <= 0.5, 0.75, 0.0)
    assert torch.equal(found[0], expected) and torch.equal(found[1], expected)


def test_mean_of_many_draws_is_the_quiet_net_with_one_random_layer() -> None:
    model, n = built(BSN4((15,), slope=2.0), (1, 8, 8)), 20_000
    h = 3 * model.prefix(images(2, (1, 8, 8)))
    with torch.no_grad():
        draws = model.sample(h, n, Stream(("mean",)))
    assert ((draws.mean(0) - model.quiet(h)).abs() <= 4.5 * draws.std(0) / n**0.5).all()


def test_ten_draws_averaged_are_right_more_often_than_one(tmp_path: Path) -> None:
    data = find("digits")
    recipe = Recipe(epochs=30, lr=3e-3, keep="last")
    net = BSN((40,), slope_schedule=GeometricSlope())
    arrays = train(
        net, data.shape, 10, data.split("train"), data.split("val"), recipe, Stream(("t",)), tmp_path, lambda d, t: None
    )
    model, test = restore(net, data.shape, 10, arrays), data.split("test")
    draws = model.sample(model.prefix(pixels(test.x)), 100, Stream(("judge",)))
    single = (draws.argmax(2) == test.y).float().mean().item()
    averaged = (draws.softmax(2).reshape(10, 10, -1, 10).mean(1).argmax(2) == test.y).float().mean().item()
    assert single > 0.8 and averaged > single + 0.02


# ------------------------------------------------------------------------------------------------------------ promises


@pytest.mark.parametrize(
    "net",
    [BSN(deterministic=True), BSN4((30, 20)), BSN4((30,), deterministic=True), BSNL(), BSNL(deterministic=True)],
    ids=str,
)
def test_every_network_passes_the_exam(net: Net) -> None:
    model = built(net)
    assert model.stochastic == (not net.deterministic)  # type: ignore[attr-defined]
    assert not model.stochastic or model.rows == "independent"
    assert all(r.ok for r in check_classifier(model, images(4)))


def test_the_first_layer_is_computed_once() -> None:
    assert built(BSNL()).prefix(images(3)).shape == (3, 6, 28, 28)
    assert built(BSN4()).prefix(images(3)).shape == (3, 600)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BSN4(()),
        lambda: BSN4(slope=0.9),
        lambda: GeometricSlope(0.99),
        lambda: LinearSlope(-0.1),
        lambda: LinearSlope(most=0.5),
    ],
)
def test_impossible_descriptions_are_refused(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_registered_names() -> None:
    assert named("nets", "bsn-2") is BSN and named("nets", "bsn-4") is BSN4 and named("nets", "bsn-l") is BSNL
