"""The networks of single papers: C&W's on MNIST, the wide residual network, VGG, each written down once more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone
from robassay.nets.cw_mnist import CWMnist
from robassay.nets.noisy import NoisyNet, Site, fill
from robassay.nets.vgg import VGG
from robassay.nets.wrn import WRN
from robassay.registry import named
from robassay.rng import Stream
from robassay.testing import check_classifier

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
Shape = tuple[int, int, int]


def built(net: Backbone, shape: Shape, classes: int = 10) -> Classifier:
    """In evaluation mode, with statistics and scales that are not those of a new network."""
    with Stream(("test", "init")).active():
        model = net.build(shape, classes).eval()
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
                m.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                nn.init.uniform_(m.weight, 0.5, 1.5)
                nn.init.uniform_(m.bias, -0.5, 0.5)
    return model


def images(n: int, shape: Shape) -> Tensor:
    return torch.rand(n, *shape, generator=Stream(("test", "images")).generator())


@pytest.mark.parametrize(
    ("net", "shape", "classes", "count"),
    [
        (CWMnist(), GREY, 10, 734_602),
        (CWMnist("valid"), GREY, 10, 312_202),
        (CWMnist("valid", 50, 0.25), GREY, 10, 20_062),  # 80 + 584 + 1,168 + 2,320 + 12,850 + 2,550 + 510
        (WRN(), COLOUR, 10, 36_479_194),
        (WRN(), GREY, 10, 36_479_194 - 2 * 9 * 16),
        (VGG(), COLOUR, 10, 9_670_336),
        (VGG(9), COLOUR, 10, 9_022_144),
        (VGG(9, kernel=3), COLOUR, 10, 5_938_880),
        # Convolutions 3·64 + 64·128 + 128·256 + 256² + 256·512 + 4·512², times 9; then 8192 – 1024 – 1024 – 100.
        (VGG(11), COLOUR, 100, 9 * 1_286_336 + 1024 * (8192 + 1024 + 100)),
    ],
    ids=str,
)
def test_parameter_counts(net: Backbone, shape: Shape, classes: int, count: int) -> None:
    with torch.device("meta"):
        model = net.build(shape, classes)
    assert sum(p.numel() for p in model.parameters()) == count


# ----------------------------------------------------------------------------------------------------------- cw-mnist


@pytest.mark.parametrize(
    ("padding", "shape"), [("same", GREY), ("valid", GREY), ("same", (3, 9, 6)), ("valid", (2, 16, 19))]
)
def test_cw_mnist_is_the_one_specified(padding: Any, shape: Shape) -> None:
    model, x = built(CWMnist(padding, 50), shape), images(4, shape)
    w = [p.detach() for p in model.parameters()]
    pad = 1 if padding == "same" else 0
    h = F.conv2d(F.conv2d(x, w[0], w[1], padding=pad).relu(), w[2], w[3], padding=pad).relu()
    h = F.max_pool2d(h, 2)
    h = F.conv2d(F.conv2d(h, w[4], w[5], padding=pad).relu(), w[6], w[7], padding=pad).relu()
    h = F.linear(F.max_pool2d(h, 2).flatten(1), w[8], w[9]).relu()
    assert h.shape == (4, 200) and w[10].shape == (50, 200)
    expected = F.linear(F.linear(h, w[10], w[11]).relu(), w[12], w[13])
    assert torch.allclose(model(x), expected, atol=1e-6)


def test_the_dropout_of_cw_mnist_stands_behind_the_first_dense_layer() -> None:
    trunk = CWMnist().trunk(GREY, 200)
    assert [i for i, m in enumerate(trunk) if isinstance(m, Site) and m.role == "dropout"] == [13]
    assert isinstance(trunk[11], nn.Linear) and isinstance(trunk[12], nn.ReLU) and trunk[14].in_features == 200
    assert len(list(trunk.children())) == len([m for m in trunk.modules() if not list(m.children())]) == 16
    assert isinstance(trunk[4], nn.MaxPool2d) and isinstance(trunk[9], nn.MaxPool2d)


# ---------------------------------------------------------------------------------------------------------------- wrn


def wrn_by_hand(model: nn.Module, x: Tensor, blocks: int) -> Tensor:
    w = {k.removeprefix("trunk."): v for k, v in model.state_dict().items()}

    def active(h: Tensor, k: str) -> Tensor:
        weight, bias = w[f"{k}.weight"], w[f"{k}.bias"]
        return F.batch_norm(h, w[f"{k}.running_mean"], w[f"{k}.running_var"], weight, bias).relu()

    h, at = active(F.conv2d(x, w["0.weight"], padding=1), "1"), 3
    for group in range(3):
        stride = 2 if group else 1
        y = active(F.conv2d(h, w[f"{at}.body.0.weight"], stride=stride, padding=1), f"{at}.body.2")
        h = F.conv2d(y, w[f"{at}.body.4.weight"], padding=1) + F.conv2d(h, w[f"{at}.shortcut.weight"], stride=stride)
        for b in range(at + 1, at + blocks):
            y = F.conv2d(active(h, f"{b}.body.0"), w[f"{b}.body.2.weight"], padding=1)
            h = h + F.conv2d(active(y, f"{b}.body.4"), w[f"{b}.body.6.weight"], padding=1)
        h, at = active(h, str(at + blocks)), at + blocks + 2
    return F.linear(h.mean((2, 3)), w["head.weight"], w["head.bias"])


@pytest.mark.parametrize("depth", [10, 16])
@pytest.mark.parametrize("shape", [COLOUR, GREY, (2, 4, 7)], ids=str)
def test_wrn_is_the_one_specified(depth: int, shape: Shape) -> None:
    model, x = built(WRN(depth, 1), shape).double(), images(3, shape).double()
    with torch.no_grad():
        found = model(x)
        assert torch.allclose(found, wrn_by_hand(model, x, (depth - 4) // 6), atol=1e-9)
    assert found.std(0).max() > 0.01


def test_dropout_of_wrn_stands_between_the_convolutions_of_each_block() -> None:
    trunk = WRN(16, 1).trunk(COLOUR, 64)
    order = [type(m).__name__ for m in trunk.modules() if isinstance(m, (nn.Conv2d, Site))]
    first, later = ["Conv2d", "Site", "Conv2d", "Conv2d"], ["Conv2d", "Site", "Conv2d"]  # with and without shortcut
    assert order == ["Conv2d", *(first + later) * 3]
    seen = []
    fill(trunk, lambda m: isinstance(m, Site) and m.role == "dropout", lambda i, m: seen.append(i) or nn.Dropout(0.1))
    assert seen == list(range(6)) and trunk.eval()(images(2, COLOUR)).shape == (2, 64)


def test_what_follows_the_stem_of_wrn_feeds_both_branches() -> None:
    trunk = WRN(10, 1).trunk(COLOUR, 64).eval()
    trunk[2] = nn.Sequential(trunk[2], nn.Threshold(1e9, 0.0))  # nothing passes, so nothing of the image may arrive
    assert torch.equal(*trunk(images(2, COLOUR)))


def test_initial_weights_of_wrn_are_normal_by_the_fan_in() -> None:
    with Stream(("spread",)).active():
        trunk = WRN(10, 4).trunk(COLOUR, 256)
    for layer, fan_in in ((trunk[9].body[0], 128 * 9), (trunk[9].shortcut, 128), (trunk[9].body[4], 256 * 9)):
        assert layer.bias is None and layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)


# ---------------------------------------------------------------------------------------------------------------- vgg

PLANS: dict[int, list[Any]] = {
    5: [64, "A", 128, "D", 128, "A", 1024, 1024],
    9: [64, "D", 64, "D", "A", 128, "D", 128, "D", "A", 256, "D", 256, "D", 256, "D", "A", 1024],
    11: [64, "A", 128, "D", 256, "D", 256, "A", 512, "D", 512, "D", 512, "A", 512, "D", 512, "D", 1024, 1024],
}


@pytest.mark.parametrize("depth", [5, 9, 11])
def test_the_layers_of_vgg_are_the_listed_ones(depth: Any) -> None:
    convolutions = {5: 3, 9: 7, 11: 9}[depth]
    expected: list[tuple[Any, ...]] = []
    for number, step in enumerate(s for s in PLANS[depth]):
        done = sum(isinstance(s, int) for s in PLANS[depth][:number])
        if step == "A":
            expected.append(("AvgPool2d", 2))
        elif step == "D":
            expected.append(("Dropout", 0.2))
        elif done < convolutions:
            kernel = 5 if depth == 9 else 3
            expected += [("Conv2d", step, kernel, kernel // 2), ("ReLU",)]
        else:
            expected += [("Flatten",)] * (done == convolutions)
            expected += [("Linear", step), ("ReLU",), ("Dropout", 0.2 if depth == 9 else 0.5)]
    found = []
    for m in VGG(depth).trunk(COLOUR, 1024):
        name = type(m).__name__
        if isinstance(m, nn.Conv2d):
            found.append((name, m.out_channels, m.kernel_size[0], m.padding[0]))
        elif isinstance(m, nn.Linear):
            found.append((name, m.out_features))
        elif isinstance(m, nn.Dropout):
            found.append((name, m.p))
        else:
            found.append((name, m.kernel_size) if isinstance(m, nn.AvgPool2d) else (name,))
    assert found == expected


def test_vgg_is_scaled_by_its_width_and_has_no_bias() -> None:
    model, shape = built(VGG(9, 3, 0.25), (2, 9, 12)), (2, 9, 12)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [16, 16, 32, 32, 64, 64, 64]
    assert all(k.endswith("weight") for k in model.state_dict())
    x = images(3, shape)
    # Without a bias anywhere, a ReLU network is positively homogeneous.
    assert torch.allclose(model(3 * x), 3 * model(x), atol=1e-5) and model(x).std() > 1e-3


def test_initial_weights_of_vgg_have_the_published_spread() -> None:
    with Stream(("spread",)).active():
        five, nine = VGG(5).trunk(COLOUR, 1024), VGG(9).trunk(COLOUR, 1024)
    spreads = [(five[3], (2 / (9 * 128)) ** 0.5), (five[10], 0.01), (nine[7], (2 / (25 * 64)) ** 0.5)]
    spreads.append((nine[-3], (2 / 4096) ** 0.5))
    for layer, std in spreads:
        assert layer.weight.std().item() == pytest.approx(std, rel=0.02)


# --------------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (CWMnist(), (3, 4, 4)),
        (CWMnist("valid"), (1, 16, 16)),
        (WRN(10, 1), (1, 4, 4)),
        (WRN(10, 1), COLOUR),
        (VGG(5, width=0.1), (1, 4, 4)),
        (VGG(9, width=0.1), (3, 8, 8)),
        (VGG(11, width=0.1), COLOUR),
    ],
    ids=str,
)
def test_every_network_passes_the_exam_and_gives_any_number_of_features(net: Backbone, shape: Shape) -> None:
    model = built(net, shape)
    assert not model.stochastic and all(r.ok for r in check_classifier(model, images(4, shape)))
    for dim in (net.features, 7):
        trunk = net.trunk(shape, dim).eval()
        assert trunk(images(4, shape)).shape == (4, dim)
        assert NoisyNet(trunk, nn.Linear(dim, 5), 5)(images(4, shape)).shape == (4, 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CWMnist("full"),  # type: ignore[arg-type]
        lambda: CWMnist(features=0),
        lambda: CWMnist(width=0.0),
        lambda: CWMnist().build((1, 3, 9), 10),
        lambda: CWMnist("valid").build((1, 15, 28), 10),
        lambda: WRN(depth=12),
        lambda: WRN(depth=4),
        lambda: WRN(widen=0),
        lambda: WRN(10, 1).build((3, 32, 3), 10),
        lambda: VGG(7),  # type: ignore[arg-type]
        lambda: VGG(kernel=4),
        lambda: VGG(width=0),
        lambda: VGG().build((3, 3, 3), 10),
        lambda: VGG(9).build((3, 7, 7), 10),
        lambda: VGG(11).build((3, 7, 32), 10),
    ],
)
def test_impossible_descriptions_are_refused(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_registered_names() -> None:
    assert named("nets", "cw-mnist") is CWMnist and named("nets", "wrn") is WRN and named("nets", "vgg") is VGG
