"""Random self-ensemble: where the noise is, how large it is, and what is left without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.defences.rse import RSE, Gaussian
from robassay.errors import UsageError
from robassay.nets.cnn import SmallCNN
from robassay.nets.lenet import LeNetPP
from robassay.nets.mlp import MLP
from robassay.registry import named
from robassay.rng import Stream
from robassay.testing import check_classifier, exam_images

SHAPE = (3, 8, 8)


def built(net: Net, shape: tuple[int, int, int] = SHAPE) -> Classifier:
    with Stream(("rse",)).active():
        return net.build(shape, 4).eval()


def test_the_noise_has_its_standard_deviation_in_training_and_evaluation() -> None:
    x, n = torch.tensor([-2.0, 0.0, 3.0]).expand(100_000, 3), 100_000
    for mode in (True, False):
        with Stream(("draws", mode)).active():
            y = Gaussian(0.2).train(mode)(x)
        assert ((y.mean(0) - x[0]).abs() < 4 * 0.2 / n**0.5).all()
        assert ((y.var(0) / 0.04 - 1).abs() < 5 * (2 / n) ** 0.5).all()


def test_every_convolution_has_noise_in_front_the_first_its_own() -> None:
    model = built(RSE(LeNetPP(width=0.1), first=0.3, others=0.15), (1, 25, 25))
    pairs = [m for m in model.modules() if isinstance(m, nn.Sequential) and isinstance(m[0], Gaussian)]
    assert all(isinstance(p[1], nn.Conv2d) for p in pairs)
    assert [p[0].std for p in pairs] == [0.3] + 5 * [0.15]


def test_without_noise_it_is_its_backbone() -> None:
    x, plain = exam_images(3, SHAPE), built(SmallCNN())
    none: Tensor = built(RSE(first=0, others=0))(x)
    assert torch.equal(none, plain(x))
    noisy = built(RSE())
    assert torch.equal(noisy.quiet(noisy.prefix(x)), plain(x))
    assert not torch.equal(noisy(x), plain(x))
    assert not built(RSE(first=0, others=0)).stochastic
    for bad in ({"first": 1e38}, {"others": -0.1}, {"first": float("nan")}):
        with pytest.raises(UsageError, match="between 0 and 1e"):
            RSE(**bad)


@pytest.mark.parametrize("net", [RSE(), RSE(first=0)], ids=["both", "second"])
def test_exam(net: RSE) -> None:
    model = built(net).requires_grad_(False)
    check_classifier(model, exam_images(8, SHAPE))
    assert model.rows == "independent" and not model.coupled


def test_what_it_refuses() -> None:
    assert named("defences", "rse") is RSE
    for std in (-0.1, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="standard deviation"):
            RSE(first=std)
    with pytest.raises(UsageError, match="convolutions"):
        RSE(MLP()).build(SHAPE, 4)
