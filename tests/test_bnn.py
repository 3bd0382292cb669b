"""Binarised networks: integers where integers belong, latent weights where gradients belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.data import find
from robassay.errors import UsageError
from robassay.nets.binary import Binary, BinaryConv, BinaryLinear, RandomSign, Sign
from robassay.nets.bnn import BNND, BNNS
from robassay.nets.ops import ONE_HALF, random_sign, sign
from robassay.registry import named
from robassay.rng import Stream
from robassay.rules import Triangle, acting
from robassay.testing import check_classifier
from robassay.training import Recipe, train

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
SMALL = (6, 8, 10)


def built(net: Net, shape: tuple[int, int, int] = GREY, classes: int = 10) -> Classifier:
    """In evaluation mode, with statistics and scales that are not those of a new network."""
    with Stream(("test", "init")).active():
        model = net.build(shape, classes).eval()
        for m in model.modules():
            if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
                m.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
                m.running_var.uniform_(5, 40)  # type: ignore[union-attr]
                nn.init.uniform_(m.weight, 0.5, 2)
                nn.init.uniform_(m.bias, -0.5, 0.5)
    return model


def images(n: int, shape: tuple[int, int, int] = GREY) -> Tensor:
    x = torch.rand(n, *shape, generator=Stream(("test", "images")).generator())
    return (x - 0.5).clamp_min(0) * 2  # half of the pixels are black


def binary(model: nn.Module) -> list[Binary]:
    return [m for m in model.modules() if isinstance(m, Binary)]


# -------------------------------------------------------------------------------------------------------------- signs


def test_signs_and_their_gradients() -> None:
    x = torch.tensor([-3.0, -1.0, -1e-6, 0.0, 1e-6, 1.0, 3.0], requires_grad=True)
    for zero in (0, 1):
        b = sign(x, ONE_HALF, zero)  # type: ignore[arg-type]
        assert b.tolist() == [-1, -1, -1, zero, 1, 1, 1]
        assert torch.autograd.grad(b.sum(), x)[0].tolist() == [1] * 7
    assert torch.autograd.grad(random_sign(x).sum(), x)[0].tolist() == [0, 0, 1, 1, 1, 0, 0]
    with acting(Triangle()):
        b = RandomSign(0)(x)
    assert torch.allclose(torch.autograd.grad(b.sum(), x)[0], 2 * (1 - x.detach().abs()).clamp_min(0))


def test_the_mean_of_random_signs_is_the_clipped_input() -> None:
    x, n = torch.tensor([-1.7, -1.0, -0.6, -0.05, 0.0, 0.3, 0.8, 1.0, 2.5]), 200_000
    with Stream(("signs",)).active():
        b = random_sign(x.expand(n, -1))
    mean = x.clamp(-1, 1)
    assert set(b.unique().tolist()) == {-1.0, 1.0}
    assert ((b.mean(0) - mean).abs() <= 4 * ((1 - mean**2) / n).sqrt()).all()


# ------------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("binariser", [Sign(0), RandomSign(0)], ids=["deterministic", "random"])
@pytest.mark.parametrize(("before", "kernel"), [(4, 3), (5, 3), (7, 1), (8, 1)])
def test_sums_of_signs_have_the_parity_of_the_fan_in(binariser: Any, before: int, kernel: int) -> None:
    with Stream(("parity",)).active():
        conv, linear = BinaryConv(before, 6, kernel, 1, binariser), BinaryLinear(before, 9, binariser)
        x, h = torch.randn(3, before, 7, 7).sign(), torch.randn(20, before).sign()
        found, summed = conv(x)[:, :, 1:-1, 1:-1], linear(h) - linear.bias
    for values, fan_in in ((found, before * kernel**2), (summed.round(decimals=4), before)):
        assert torch.equal(values, values.round()) and values.abs().max() <= fan_in
        assert (values.abs() % 2 == fan_in % 2).all() and len(values.unique()) > 1


def test_zero_is_a_third_value_unless_it_is_told_otherwise() -> None:
    conv = BinaryConv(2, 3, 3, 1, Sign(0))
    assert not conv(torch.zeros(1, 2, 5, 5)).any()
    conv.binariser = Sign(1)
    assert torch.equal(conv(torch.zeros(1, 2, 5, 5))[0, :, 2, 2], conv.weight.sign().sum((1, 2, 3)))


@pytest.mark.parametrize("binariser", [Sign(0), RandomSign(0)], ids=["deterministic", "random"])
@pytest.mark.parametrize("binarize_input", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradient_of_the_effective_weights_reaches_the_latent_ones(
    binariser: Any, binarize_input: bool, stride: int
) -> None:
    with Stream(("latent",)).active():
        conv = BinaryConv(3, 4, 3, stride, binariser, binarize_input)
        x = torch.randn(2, 3, 8, 8, requires_grad=True)
        with torch.no_grad():
            conv.weight.mul_(5)  # some latent weights beyond 1: no window there
    assert (conv.weight.abs() > 1).any()
    with Stream(("draw",)).active():
        output = conv(x)
    with Stream(("draw",)).active():
        seen = (binariser(x) if binarize_input else x).detach().requires_grad_()
        effective = binariser(conv.weight).detach().requires_grad_()
    assert effective.abs().min() == 1
    upstream = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    of_weight, of_input = torch.autograd.grad((output * upstream).sum(), (conv.weight, x))
    again = F.conv2d(seen, effective, stride=stride, padding=1)
    expected = torch.autograd.grad((again * upstream).sum(), (effective, seen))
    assert torch.equal(output, again)
    assert torch.allclose(of_weight, expected[0], atol=1e-5) and torch.allclose(of_input, expected[1], atol=1e-5)


def test_initial_weights_have_the_published_spread() -> None:
    with Stream(("spread",)).active():
        conv = BinaryConv(80, 160, 3, 2, Sign(0))
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 160)) ** 0.5, rel=0.01)


# ----------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(("shape", "count", "signs"), [(COLOUR, 4_338_030, 4_331_760), (GREY, 4_336_590, 4_330_320)])
@pytest.mark.parametrize("net", [BNND(), BNNS()], ids=["bnn-d", "bnn-s"])
def test_parameter_counts(net: Net, shape: tuple[int, int, int], count: int, signs: int) -> None:
    model = net.build(shape, 10)
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(m.weight.numel() for m in binary(model)) == signs


def by_hand(model: nn.Module, x: Tensor, b: Callable[[Tensor], Tensor], binarize_input: bool) -> Tensor:
    """The specification, written down once more over the named weights."""
    w = {k.removeprefix("layers."): v for k, v in model.state_dict().items()}

    def norm(h: Tensor, k: str) -> Tensor:
        return F.batch_norm(h, w[f"{k}.running_mean"], w[f"{k}.running_var"], w[f"{k}.weight"], w[f"{k}.bias"])

    def conv(h: Tensor, k: str, stride: int = 1, pad: int = 1, real: bool = False) -> Tensor:
        return F.conv2d(h if real else b(h), b(w[f"{k}.weight"]), stride=stride, padding=pad)

    h = norm(conv(x, "0", real=not binarize_input), "1").clamp(-1, 1)
    for i in range(6):
        k, stride = str(3 + i), 2 if i in (2, 4) else 1
        y = conv(norm(conv(h, f"{k}.conv1", stride), f"{k}.norm1").clamp(-1, 1), f"{k}.conv2")
        r = norm(conv(h, f"{k}.shortcut.0", stride, 0), f"{k}.shortcut.1") if stride == 2 else h
        h = y + r if i == 5 else norm(y + r, f"{k}.norm2").clamp(-1, 1)
    h = norm(h.mean((2, 3)), "11").clamp(-1, 1)
    return norm(F.linear(b(h), b(w["13.weight"]), w["13.bias"]), "14")


@pytest.mark.parametrize(
    ("net", "shape", "binarized"),
    [
        (BNND(SMALL), GREY, True),
        (BNND(SMALL, binarize_input=False), GREY, False),
        (BNND(SMALL), COLOUR, False),
        (BNND((6, 6, 6)), (2, 9, 12), True),
    ],
)
def test_the_deterministic_network_is_the_one_specified(net: Net, shape: Any, binarized: bool) -> None:
    model, x = built(net, shape, 7).double(), images(5, shape).double()
    with torch.no_grad():
        found = model(x)
        assert torch.allclose(found, by_hand(model, x, torch.sign, binarized), atol=1e-9)
        assert torch.equal(found, model(x)) and found.std(0).max() > 0.01


def test_a_one_channel_network_sees_only_whether_a_pixel_is_above_zero() -> None:
    x = images(3)
    auto, plain = built(BNND(SMALL)), built(BNND(SMALL, binarize_input=False))
    with torch.no_grad():
        assert torch.equal(auto(x), auto((x > 0).float()))
        assert not torch.allclose(auto(x), auto(x + 1e-6))
        assert torch.allclose(plain(x), plain((x + 1e-6).clamp(0, 1)), atol=1e-2)
        assert not torch.allclose(plain(x), plain((x > 0).float()), atol=1e-2)


def test_the_random_network_without_its_noise_is_the_deterministic_one() -> None:
    x, certain = images(4), built(BNND(SMALL))
    for mode in ("stochastic", "deterministic"):
        drawn = built(BNNS(SMALL, test_mode=mode))  # type: ignore[arg-type]
        drawn.load_state_dict(certain.state_dict())
        with torch.no_grad():
            assert torch.equal(drawn.quiet(x), certain(x))
            assert torch.equal(drawn(x), certain(x)) == (mode == "deterministic") == (not drawn.stochastic)
            drawn.train()
            assert not torch.equal(drawn(x), drawn(x))


def test_draws_leave_the_latent_weights_alone() -> None:
    model = built(BNNS(SMALL))
    before = [p.detach().clone() for p in model.parameters()]
    first, second = model(images(2)), model(images(2))
    assert not torch.equal(first, second)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_one_layer_averages_to_the_layer_of_clipped_weights_and_inputs() -> None:
    n = 10_000
    with Stream(("average",)).active(), torch.no_grad():
        layer, x = BinaryLinear(12, 3, RandomSign(0)), 2 * torch.rand(1, 12) - 1
        layer.weight.mul_(4)
        draws = torch.stack([layer(x)[0] for _ in range(n)])
    expected = F.linear(x, layer.weight.detach().clamp(-1, 1), layer.bias)[0]
    assert ((draws.mean(0) - expected).abs() <= 4.5 * draws.std(0) / n**0.5).all()


@pytest.mark.parametrize("net", [BNND(SMALL), BNNS(SMALL)], ids=["bnn-d", "bnn-s"])
def test_latent_weights_stay_within_one_after_every_step(net: Net) -> None:
    with Stream(("steps",)).active():
        model, x, y = net.build((1, 8, 8), 3).train(), torch.rand(30, 1, 8, 8), torch.arange(30) % 3
        optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
        latent = [p for m in binary(model) for p in m.parameters(recurse=False)]
        for p in latent:
            p.data.flatten()[0] = 1.5
        beyond = torch.zeros(17, dtype=torch.bool)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            beyond |= torch.tensor([bool((p.abs() > 1).any()) for p in latent])
            model.after_step(0.2)
            assert all(bool((p.abs() <= 1).all()) for p in latent)
    scales = torch.cat([m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
    assert beyond.all() and scales.max() > 1  # normalisation is real, and not clipped


def test_the_straight_through_gradient_teaches(tmp_path: Path) -> None:
    data = find("digits")
    recipe, rng = Recipe(epochs=4, lr=5e-3, batch=64), Stream(("teach",))
    found = train(
        BNND((16, 24, 32)),
        data.shape,
        10,
        data.split("train"),
        data.split("val"),
        recipe,
        rng,
        tmp_path,
        lambda d, t: None,
    )
    assert found["history/val_accuracy"].max() > 0.5


@pytest.mark.parametrize("net", [BNND(SMALL), BNNS(SMALL), BNNS(SMALL, test_mode="deterministic")], ids=str)
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 8, 8)], ids=str)
def test_every_network_passes_the_exam(net: Net, shape: tuple[int, int, int]) -> None:
    model = built(net, shape)
    assert model.rows == "shared" and all(r.ok for r in check_classifier(model, images(4, shape)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: BNND((80, 160)),  # type: ignore[arg-type]
        lambda: BNND((80, 160, 0)),
        lambda: BNND(binarize_input=True),  # type: ignore[arg-type]
        lambda: BNND(sign_zero=2),  # type: ignore[arg-type]
        lambda: BNND(normalise="imagenet"),  # type: ignore[arg-type]
        lambda: BNNS((1, 1)),  # type: ignore[arg-type]
        lambda: BNNS(test_mode="mean"),  # type: ignore[arg-type]
        lambda: BNND().build((1, 3, 8), 10),
        lambda: BNND(normalise="cifar10").build(GREY, 10),
    ],
)
def test_impossible_descriptions_are_refused(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_registered_names() -> None:
    assert named("nets", "bnn-d") is BNND and named("nets", "bnn-s") is BNNS
