"""ResNet18 and normalisation inside networks, against a forward pass written down once more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay.classifier import Classifier
from robassay.defences.a2snn import A2SNN
from robassay.errors import UsageError
from robassay.nets.bnn import BNND
from robassay.nets.noisy import Junction, Noise, NoisyNet, fill
from robassay.nets.normalise import Normalise
from robassay.nets.resnet import ResNet18
from robassay.nets.vgg import VGG
from robassay.nets.wrn import WRN
from robassay.registry import named
from robassay.rng import Stream
from robassay.testing import check_classifier

COLOUR = (3, 32, 32)
Shape = tuple[int, int, int]


def shaken(model: nn.Module) -> nn.Module:
    """With statistics and scales that are not those of a new network."""
    with Stream(("test", "shake")).active():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
                m.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                nn.init.uniform_(m.weight, 0.5, 1.5)
                nn.init.uniform_(m.bias, -0.5, 0.5)
    return model


def built(net: ResNet18, shape: Shape = COLOUR, classes: int = 10) -> Classifier:
    with Stream(("test", "init")).active():
        model = net.build(shape, classes).eval()
    shaken(model)
    return model


def images(n: int, shape: Shape = COLOUR) -> Tensor:
    return torch.rand(n, *shape, generator=Stream(("test", "images")).generator())


@pytest.mark.parametrize(
    ("net", "channels", "count"),
    [
        (ResNet18(), 3, 11_176_512),
        (ResNet18(), 1, 11_176_512 - 2 * 64 * 49),
        (ResNet18(stem="cifar"), 3, 11_176_512 - 3 * 64 * 40),
        (ResNet18(stem="cifar"), 1, 11_176_512 - 3 * 64 * 49 + 64 * 9),
    ],
)
def test_parameter_counts(net: ResNet18, channels: int, count: int) -> None:
    trunk = net.trunk((channels, 32, 32), 512)
    assert net.features == 512 and sum(p.numel() for p in trunk.parameters()) == count


def test_a_defence_gets_the_features_it_asks_for() -> None:
    model = A2SNN(ResNet18(), dim=32).build(COLOUR, 10)
    assert sum(p.numel() for p in model.parameters()) == 11_176_512 + 16_416 + 1_024 + 330
    features = model.eval().prefix(images(4))
    assert features.shape == (4, 32) and features.min() == 0 < features.max()


def by_hand(model: nn.Module, x: Tensor, imagenet: bool) -> Tensor:
    w = model.state_dict()

    def norm(h: Tensor, k: str) -> Tensor:
        return F.batch_norm(h, w[f"{k}.running_mean"], w[f"{k}.running_var"], w[f"{k}.weight"], w[f"{k}.bias"])

    def conv(h: Tensor, k: str, stride: int, pad: int) -> Tensor:
        return F.conv2d(h, w[f"{k}.weight"], stride=stride, padding=pad)

    if imagenet:
        h = F.max_pool2d(norm(conv(x, "trunk.0", 2, 3), "trunk.1").relu(), 3, 2, 1)
    else:
        h = norm(conv(x, "trunk.0", 1, 1), "trunk.1").relu()
    for i in range(8):
        k, stride = f"trunk.{i + 3 + imagenet}", 2 if i in (2, 4, 6) else 1
        y = norm(conv(norm(conv(h, f"{k}.conv1", stride, 1), f"{k}.norm1").relu(), f"{k}.conv2", 1, 1), f"{k}.norm2")
        h = (y + (norm(conv(h, f"{k}.shortcut.0", stride, 0), f"{k}.shortcut.1") if stride == 2 else h)).relu()
    return F.linear(h.mean((2, 3)), w["head.weight"], w["head.bias"])


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("shape", [COLOUR, (1, 28, 28)], ids=str)
def test_the_network_is_the_one_specified(stem: Any, shape: Shape) -> None:
    model, x = built(ResNet18(stem, 0.125), shape).double(), images(4, shape).double()
    with torch.no_grad():
        found = model(x)
        assert torch.allclose(found, by_hand(model, x, stem == "imagenet"), atol=1e-9)
    assert found.std(0).max() > 0.01


@pytest.mark.parametrize(
    ("stem", "sides"),
    [("imagenet", [16, 16, 16, 8, 8, 8, 4, 4, 2, 2, 1, 1]), ("cifar", [32, 32, 32, 32, 32, 16, 16, 8, 8, 4, 4])],
)
def test_sizes_of_the_maps(stem: Any, sides: list[int]) -> None:
    h, found = images(2), []
    for layer in ResNet18(stem, 0.125).trunk(COLOUR, 64).eval()[:-2]:
        h = layer(h)
        found.append(h.shape[-1])
    assert found == sides and h.shape[1] == 64


def test_zero_init_makes_every_block_its_shortcut() -> None:
    plain, zero = (ResNet18("cifar", 0.25, z).trunk(COLOUR, 128).eval() for z in (False, True))
    h = torch.rand(2, 16, 8, 8)
    for block, other in zip(zero[3:11], plain[3:11], strict=True):
        h = h[:, :1].expand(-1, block.conv1.in_channels, -1, -1)
        assert not block.norm2.weight.any() and block.norm1.weight.all()
        straight = block.shortcut(h).relu()
        assert torch.equal(block(h), straight) and not torch.allclose(other(h), other.shortcut(h).relu())


def test_initial_weights_are_normal_by_the_fan_out() -> None:
    with Stream(("spread",)).active():
        trunk = ResNet18().trunk(COLOUR, 512)
    for layer, fan_out in ((trunk[0], 64 * 49), (trunk[8].conv1, 256 * 9), (trunk[8].shortcut[0], 256)):
        assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)


class Drown(Noise):
    """Negative whatever comes in: a ReLU behind it, and behind nothing else, lets nothing through."""

    def noisy(self, x: Tensor) -> Tensor:
        return -torch.rand_like(x)


def test_noise_can_stand_before_the_nine_junctions() -> None:
    trunk = ResNet18("cifar", 0.125).trunk(COLOUR, 64).eval()
    assert fill(trunk, lambda m: isinstance(m, Junction), lambda i, m: nn.Sequential(Drown(), m)) == 9
    assert NoisyNet(trunk, nn.Linear(64, 10), 10).first == 2  # behind the stem's normalisation
    assert not trunk[:3](images(2)).any()
    assert not any(block(torch.rand(2, block.conv1.in_channels, 8, 8)).any() for block in trunk[3:11])


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("shape", [(1, 8, 8), COLOUR], ids=str)
def test_every_network_passes_the_exam(stem: Any, shape: Shape) -> None:
    model = built(ResNet18(stem, 0.125), shape)
    assert not model.stochastic and all(r.ok for r in check_classifier(model, images(4, shape)))


# ------------------------------------------------------------------------------------------------------ normalisation


@pytest.mark.parametrize("make", [lambda p: ResNet18(width=0.1, normalise=p), lambda p: WRN(10, 1, p)], ids=["r", "w"])
@pytest.mark.parametrize(
    ("preset", "shape", "mean", "std"),
    [
        ("cifar10", COLOUR, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        ("cifar10-image-std", COLOUR, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
        ("half", COLOUR, [0.5] * 3, [0.5] * 3),
        ("half", (1, 28, 28), [0.5], [0.5]),
        ("mnist", (1, 28, 28), [0.1307], [0.3081]),
    ],
)
def test_normalising_inside_and_outside_is_the_same(make: Any, preset: str, shape: Shape, mean: Any, std: Any) -> None:
    with Stream(("a",)).active():
        inside = make(preset).build(shape, 10).eval()
    with Stream(("a",)).active():
        outside = make(None).build(shape, 10).eval()
    x = images(3, shape)
    normal = (x - torch.tensor(mean).reshape(-1, 1, 1)) / torch.tensor(std).reshape(-1, 1, 1)
    assert torch.allclose(inside(x), outside(normal), atol=1e-5)
    assert not torch.allclose(inside(x), outside(x), atol=1e-3)


@pytest.mark.parametrize("net", [BNND((4, 4, 4), normalise="half"), VGG(width=0.05, normalise="half")], ids=str)
def test_the_other_networks_normalise_first(net: Any) -> None:
    first = next(m for m in net.build(COLOUR, 10).modules() if not list(m.children()))
    assert isinstance(first, Normalise)
    assert torch.equal(first(torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)).flatten(), torch.tensor([-1.0, 0, 1]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNet18(stem="tiny"),  # type: ignore[arg-type]
        lambda: ResNet18(width=0),
        lambda: ResNet18(normalise="imagenet"),  # type: ignore[arg-type]
        lambda: ResNet18().build((3, 7, 32), 10),
        lambda: ResNet18(normalise="cifar10").build((1, 28, 28), 10),
        lambda: ResNet18(normalise="mnist").build(COLOUR, 10),
    ],
)
def test_impossible_descriptions_are_refused(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_registered_name() -> None:
    assert named("nets", "resnet18") is ResNet18
