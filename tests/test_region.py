"""Region-based classification: the vote's limit on a linear classifier, and what it promises."""

from __future__ import annotations

import math

import pytest
import torch
from toy_nets import Deterministic, Net, Shared

from robassay.cells import Examples, Score
from robassay.classifier import Classifier, Quiet
from robassay.data import find
from robassay.defences.dropout import Dropout
from robassay.defences.region import PUBLISHED, Region
from robassay.defended import Regional
from robassay.errors import UsageError
from robassay.models import Quieted, Train
from robassay.nets.mlp import MLP
from robassay.policy import Once, VoteOf
from robassay.registry import named
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.store import Store
from robassay.testing import check_classifier, exam_images
from robassay.training import Recipe

X = exam_images(8)


class Border(Classifier):
    """One pixel; class 1 above the border."""

    classes = 2

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at

    def draw(self, h: torch.Tensor) -> torch.Tensor:
        place = h.flatten(1) - self.at
        return torch.cat([torch.zeros_like(place), place], 1)


@pytest.mark.parametrize("radius", [0.1, 0.4])
def test_votes_have_the_share_of_the_cube_on_either_side(radius: float) -> None:
    x, border, n = torch.linspace(0, 1, 21).reshape(-1, 1, 1, 1), 0.62, 10_000
    logits = Region(radius).around(Border(border)).sample(x, n, Stream(("share",)))
    found = (logits.argmax(-1) == 1).double().mean(0)
    p = ((x.flatten().double() + radius - border) / (2 * radius)).clamp(0, 1)
    assert ((found - p).abs() <= 4.5 * (p * (1 - p) / n).sqrt()).all()
    clear = (p - 0.5).abs() > 4.5 / (2 * math.sqrt(n))
    votes = VoteOf(n).decide(logits)
    assert torch.equal(votes[clear], (x.flatten() > border).long()[clear]) and clear.sum() > 18


def test_noise_ends_at_the_box() -> None:
    ends = torch.tensor([0.0, 1.0]).reshape(-1, 1, 1, 1)
    logits = Region(0.4).around(Border(0.0)).sample(ends, 4000, Stream(("box",)))[..., 1]
    assert logits.min() == 0 and logits.max() == 1
    share = (logits == torch.tensor([0.0, 1.0])).double().mean(0)  # half of the cube lies beyond the end
    assert ((share - 0.5).abs() < 4.5 * 0.5 / math.sqrt(4000)).all()


def test_every_pixel_has_noise_of_its_own() -> None:
    class Mean(Border):
        def draw(self, h: torch.Tensor) -> torch.Tensor:
            return super().draw(h.flatten(1).mean(1, keepdim=True))

    grey, n = torch.full((1, 3, 4, 4), 0.5), 4000
    drawn = Region(0.3).around(Mean(0.5)).sample(grey, n, Stream(("pixels",)))[:, 0, 1]
    expected = 0.3**2 / 3 / 48
    assert abs(drawn.var().item() / expected - 1) < 4.5 * math.sqrt(2 / n)


def test_a_cube_without_size_is_the_classifier() -> None:
    model = Region(0.0).around(Deterministic())
    assert torch.equal(model(X), Deterministic()(X)) and not model.stochastic


@pytest.mark.parametrize(
    ("inner", "rows"), [(Deterministic(), "independent"), (Net(), "independent"), (Shared(), "shared")]
)
def test_it_keeps_the_contract(inner: Classifier, rows: str) -> None:
    model = Region(0.2).around(inner)
    assert model.rows == rows and model.stochastic
    assert all(r.ok for r in check_classifier(model, X))
    assert torch.equal(Quiet(model)(X), Quiet(inner)(X))


def test_its_cell_is_judged_by_votes(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Store(tmp_path_factory.mktemp("region") / "s")
    digits = find("digits")
    trained = Train(Dropout(MLP((30,))), digits, Recipe(epochs=2))
    region, on = Region(0.1, 40), Examples(digits, "test", 0, 60)
    off = Quieted(trained)
    plain, same = Score(off, on), Score(Regional(off, Region(0.0)), on)
    voted = Score(Regional(trained, region), on, region.policy, repeats=1)
    once = Score(Regional(trained, region), on, Once(), repeats=1)
    assert not carry_out([plain, same, voted, once], store, 0, quiet=True).failed
    labels, found = on.load().y.numpy(), [store.read(c.key)["decisions"] for c in (plain, same, voted, once)]
    assert (found[0] == found[1]).all()
    assert found[2].shape == (1, 60)
    assert (found[2] == labels).mean() > (found[3] == labels).mean()
    assert Regional(off, region).key != Regional(off, Region(0.1, 41)).key


def test_published_settings_and_impossible_ones() -> None:
    import robassay.defences  # noqa: F401

    assert named("defences", "region") is Region
    assert PUBLISHED["mnist"] == Region() and PUBLISHED["cifar10"].policy == VoteOf(1000)
    for radius, votes in ((-0.1, 10), (math.nan, 10), (0.1, 0)):
        with pytest.raises(UsageError, match="Write"):
            Region(radius, votes)
