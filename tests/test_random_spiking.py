"""Random spiking: the layer against its closed forms, then where it stands and what it promises."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robassay.classifier as contract
from robassay.classifier import Classifier, Net
from robassay.defences.dropout import Drop
from robassay.defences.random_spiking import RandomSpiking, Scope, Spiking
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.cnn import SmallCNN
from robassay.nets.mlp import MLP
from robassay.nets.noisy import NoisyNet
from robassay.registry import named
from robassay.rng import Stream
from robassay.testing import check_classifier, exam_images

SHAPE = (3, 4, 4)
X = exam_images(8)
N = 1_000_000
Q = 0.2


def units(*shape: int) -> Tensor:
    return torch.randn(shape, generator=Stream(("units",)).generator())


def spiked(x: Tensor, q: float = Q, scope: Scope = "batch", key: str = "a") -> Tensor:
    with Stream(("spikes", key)).active():
        found: Tensor = Spiking(q, scope)(x)
    return found


def built(net: Net, classes: int = 4) -> Classifier:
    with Stream(("test", "init")).active():
        return net.build(SHAPE, classes).eval()


# ---------------------------------------------------------------------------------------------------------- the layer


def test_mean_share_and_range_of_a_million_units() -> None:
    x = units(10, N // 10).relu() + 0.5
    y, low, high = spiked(x), x.min().double(), x.max().double()
    kept = y == x
    expected = (1 - Q) * x.double().mean() + Q * (low + high) / 2
    # Given x every unit is x_i with probability 1 − q, else uniform: its variance in closed form.
    gap = x.double() - (low + high) / 2
    sigma = ((1 - Q) * Q * gap.square() + Q * (high - low) ** 2 / 12).sum().sqrt() / N
    assert (y.double().mean() - expected).abs() < 4 * sigma
    assert abs((~kept).double().mean() - Q) < 4 * math.sqrt(Q * (1 - Q) / N)
    assert y.min() >= low and y.max() <= high


def test_the_noise_is_uniform_between_the_extremes() -> None:
    x = units(10, N // 10)
    y = spiked(x)
    place = (y[y != x] - x.min()) / (x.max() - x.min())
    counts = torch.histc(place, 20, 0, 1)
    expected = len(place) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 50  # chi-square, 19 degrees of freedom


def test_the_gradient_passes_the_kept_units_alone() -> None:
    x, upstream = units(4, 5, 6, 6).requires_grad_(), torch.rand(4, 5, 6, 6) + 1
    y = spiked(x)
    y.backward(upstream)
    kept = y == x
    assert x.grad is not None and 0 < kept.double().mean() < 1
    assert torch.equal(x.grad, torch.where(kept, upstream, 0.0))  # the units that hold the extremes, too


def test_extremes_are_the_batchs_or_each_examples_own() -> None:
    x = torch.stack([units(2000) * 0.01, 10 + units(2000)])
    whole, own = spiked(x), spiked(x, scope="example")
    assert whole[0].max() > 5 and whole[1].min() < 5
    for row, found in zip(x, own, strict=True):
        assert found.min() >= row.min() and found.max() <= row.max() and not torch.equal(found, row)


def test_with_q_0_nothing_and_with_q_1_everything_is_replaced() -> None:
    x = units(3, 100)
    assert torch.equal(spiked(x, 0.0), x)
    assert torch.equal(spiked(x, 1.0), spiked(x.flip(1), 1.0))  # other units, the same extremes
    assert not torch.equal(spiked(x, 1.0), spiked(2 * x, 1.0))


def test_folded_draws_see_the_extremes_of_one_batch() -> None:
    """Repeated rows move no extreme: the draws of a folded pass have the distribution of separate ones."""
    x, n = units(3, 20), 20_000
    with Stream(("folded",)).active():
        y = Spiking(Q, "batch")(x.repeat(n, 1)).reshape(n, 3, 20)
    noise = torch.where(y == x, torch.nan, y)
    assert noise.nan_to_num(0.0).min() >= x.min() and noise.nan_to_num(0.0).max() <= x.max()
    mean = (1 - Q) * x + Q * (x.min() + x.max()) / 2
    assert ((y.mean(0) - mean).abs() < 4.5 * y.std(0) / math.sqrt(n)).all()
    # Rows of one pass, and draws of one row, are uncorrelated.
    centred = (y - y.mean(0)) / y.std(0)
    assert (centred[:, 0] * centred[:, 1]).mean().abs() < 4.5 / math.sqrt(n * 20)
    assert (centred[:-1] * centred[1:]).mean().abs() < 4.5 / math.sqrt(n * 60)


# ------------------------------------------------------------------------------------------------------------ the net


class Residual(nn.Module):
    """An activation inside a block, whose output goes two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.layer = nn.Linear(48, 48)

    def forward(self, x: Tensor) -> Tensor:
        spiked = self.act(x)
        out: Tensor = spiked + self.layer(spiked)
        return out


class Blocks(Backbone):
    features = 10

    def trunk(self, shape: Shape, dim: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), Residual(), nn.Linear(48, dim), nn.Tanh())


@pytest.mark.parametrize(("net", "position", "place"), [(SmallCNN(4), 1, "trunk.3.1"), (Blocks(), 0, "trunk.1.act.1")])
def test_it_stands_behind_the_chosen_activation(net: Backbone, position: int, place: str) -> None:
    model = built(RandomSpiking(net, position=position))
    assert [name for name, m in model.named_modules() if isinstance(m, Spiking)] == [place]
    behind = model.get_submodule(place.rpartition(".")[0])
    assert isinstance(behind, nn.Sequential) and isinstance(behind[0], nn.ReLU)


def test_a_position_that_is_not_there_is_named() -> None:
    class Straight(Backbone):
        features = 10

        def trunk(self, shape: Shape, dim: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(48, dim))

    for net, position, words in (
        (SmallCNN(), 3, "SmallCNN has 3 activations .* position=2 at most"),
        (SmallCNN(), -1, "SmallCNN has 3"),
        (MLP(), 1, "MLP has 1 activation to .* position=0"),
        (Straight(), 0, "Straight has 0 activations .* SmallCNN"),
    ):
        with pytest.raises(UsageError, match=words):
            RandomSpiking(net, position=position).build(SHAPE, 4)


def test_quiet_is_the_plain_net() -> None:
    for net in (RandomSpiking(), RandomSpiking(dropout=0.5), RandomSpiking(MLP(), scope="example")):
        model, plain = built(net), built(net.backbone)
        assert torch.equal(model.quiet(model.prefix(X)), plain(X))
        assert not torch.equal(model(X), plain(X)) and not torch.equal(model.train()(X), plain(X))
    assert torch.equal(built(RandomSpiking(q=0.0))(X), built(SmallCNN())(X))
    assert not built(RandomSpiking(q=0.0)).stochastic


def test_dropout_is_added_where_it_belongs() -> None:
    model = built(RandomSpiking(dropout=0.3))
    assert [m.rate for m in model.modules() if isinstance(m, Drop)] == [0.3]
    assert not [m for m in built(RandomSpiking()).modules() if isinstance(m, Drop)]


@pytest.mark.parametrize("scope", ["batch", "example"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_it_keeps_the_contract(scope: Scope, dropout: float) -> None:
    model = built(RandomSpiking(SmallCNN(4), scope=scope, dropout=dropout))
    assert isinstance(model, NoisyNet) and model.first == 1
    assert model.stochastic and model.rows == "independent" and model.coupled == (scope == "batch")
    assert all(r.ok for r in check_classifier(model, X))


def test_batch_mates_matter_in_scope_batch_alone() -> None:
    def spread(scope: Scope, mates: Tensor) -> float:
        model = built(RandomSpiking(MLP(), scope=scope))
        draws = model.sample(model.prefix(torch.cat([X[:1], mates])), 400, Stream(("mates",)))
        return draws[:, 0].std(0).mean().item()

    black, loud = torch.zeros(1, *SHAPE), torch.full((1, *SHAPE), 20.0)
    assert spread("batch", loud) > 3 * spread("batch", black)
    assert 0.8 < spread("example", loud) / spread("example", black) < 1.25


def test_folded_passes_draw_as_separate_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model, n = built(RandomSpiking(SmallCNN(4))), 3000
    h, found = model.prefix(X[:2]), []
    for elements in (1, 10**6):
        monkeypatch.setitem(contract.FOLD_ELEMENTS, "cpu", elements)
        with torch.no_grad():
            found.append(model.sample(h, n, Stream(("fold", elements))))
    one, many = found
    assert ((one.mean(0) - many.mean(0)).abs() < 4.5 * (one.var(0) / n + many.var(0) / n).sqrt()).all()
    assert (one.var(0) / many.var(0) > 0.85).all() and (one.var(0) / many.var(0) < 1.18).all()


def test_the_mean_prediction_is_never_worse_than_the_predictions_on_average() -> None:
    """Jensen (Ge et al. 2020, Proposition 1), for every image and label."""
    model = built(RandomSpiking())
    with torch.no_grad():
        logits = model.sample(model.prefix(X), 20, Stream(("jensen",)))
    for label in range(4):
        labels = torch.full((8,), label)
        of_mean = F.nll_loss(logits.softmax(-1).mean(0).log(), labels, reduction="none")
        mean_of = torch.stack([F.cross_entropy(draw, labels, reduction="none") for draw in logits]).mean(0)
        assert (of_mean < mean_of).all()


def test_it_is_registered_and_refuses_impossible_settings() -> None:
    import robassay.defences  # noqa: F401

    assert named("defences", "random-spiking") is RandomSpiking
    for wrong in ({"q": 1.1}, {"q": math.nan}, {"scope": "pixel"}, {"dropout": 1.0}):
        with pytest.raises(UsageError, match="Write"):
            RandomSpiking(**wrong)  # type: ignore[arg-type]
